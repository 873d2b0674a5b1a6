//! Losses that are accepted: those of the archive, and what was lost here meanwhile.

use std::collections::BTreeMap;

use syncdata_formats::manifest::{Column, Relation, ReplicaIdentity};
use syncdata_tests::LocalCopy;

fn insert(table: &str, id: u32) -> String {
    format!(r#"{{"table":"{table}","op":"INSERT","data":{{"id":{id},"v":"ok"}}}}"#)
}

fn relation(type_name: &str) -> Relation {
    let column = |name: &str, type_name: &str| Column {
        name: name.into(),
        type_name: type_name.into(),
        not_null: name == "id",
        ..Column::default()
    };
    let types = BTreeMap::from([("public.mood".to_owned(), ["sad", "ok"].map(str::to_owned).to_vec())]);
    let types = if type_name == "public.mood" { types } else { BTreeMap::new() };
    let columns = vec![column("id", "integer"), column("v", type_name)];
    Relation::described(columns, vec!["id".into()], ReplicaIdentity::Default, types)
}

/// Whoever goes on over a gap goes on over what the table says of it, and over nothing else.
#[tokio::test]
async fn a_gap_that_is_accepted_hides_no_loss_that_nobody_has_named() {
    let mut copy = LocalCopy::start(
        "CREATE TYPE mood AS ENUM ('sad', 'ok'); CREATE TABLE kinds (id int PRIMARY KEY, v mood);
         CREATE TABLE p (id int PRIMARY KEY, v text) PARTITION BY RANGE (id);
         CREATE TABLE p_low PARTITION OF p FOR VALUES FROM (0) TO (10); CREATE TABLE p_high PARTITION OF p DEFAULT;
         CREATE TABLE q (id int PRIMARY KEY, v text) PARTITION BY RANGE (id);
         CREATE TABLE q_low PARTITION OF q FOR VALUES FROM (0) TO (10); CREATE TABLE q_high PARTITION OF q DEFAULT",
    )
    .await;
    copy.forge.describe("p", relation("text"));
    copy.forge.describe("q", relation("text"));
    copy.forge.describe("kinds", relation("public.mood"));
    let both = |table: &str| [insert(table, 1), insert(table, 11)];
    copy.forge.segment(&[[both("p"), both("q"), both("kinds")].concat()]);
    copy.applier(&["add-tables", "p", "q", "kinds"]).succeed().await;
    copy.sync(0).await;
    copy.server.execute("DROP TABLE q_low").await;
    copy.forge.gap(&["p", "kinds"]);
    copy.forge.segment(&[vec![insert("p", 12)]]);
    copy.sync(1).await;
    let states =
        "SELECT string_agg(table_name || ' ' || state, ' ' ORDER BY table_name) FROM data_sync_table_state";
    assert_eq!(copy.rows(states).await, "kinds stale p stale q quarantined");
    copy.server.execute("DROP TABLE p_low; ALTER TYPE mood RENAME VALUE 'ok' TO 'fine'").await;
    copy.sync(1).await;
    assert!(!copy.reason("p").await.contains("partition"), "{}", copy.reason("p").await);

    for (table, lost) in [
        ("p", "a partition of the local table is gone"),
        ("kinds", "label \"ok\" of public.mood has another name here"),
    ] {
        let refused = copy.applier(&["retry", table, "--accept-gap"]).run().await.expect_code(2);
        assert!(refused.stderr.contains(lost) && refused.stderr.contains("are lost"), "{refused}");
        assert_eq!(copy.state(table).await, "stale");
        let said = copy.sync(1).await;
        assert!(said.contains(lost), "{said}");
    }
    let proved = "INSERT INTO data_sync_consistency (proof_id, table_name, check_type, cut_lsn, verdict)
        SELECT gen_random_uuid(), 'q', 'data_hash', position_lsn, 'equal' FROM data_sync_table_state WHERE table_name = 'q'";
    copy.server.execute(proved).await;
    // What it says of itself may be accepted, and is not forgotten.
    copy.applier(&["retry", "q"]).run().await.expect_code(1);
    for table in ["p", "q", "kinds"] {
        copy.applier(&["retry", table, "--accept-gap"]).run().await;
        assert_eq!(copy.state(table).await, "live", "{table}: {}", copy.reason(table).await);
        let status = copy.applier(&["status"]).run().await;
        assert!(status.stdout.contains(&format!("{table}: incomplete")), "{status}");
    }
    assert_eq!(copy.rows("SELECT id FROM p ORDER BY id").await, "11 12");
    copy.sync(0).await;
    let incomplete = "SELECT count(incomplete_lsn) FROM data_sync_table_state";
    assert_eq!(copy.rows(incomplete).await, "3", "a proof from before it says nothing of it");
    copy.forge.snapshot(&[("p", &["1\tok", "11\tok", "12\tok"])]);
    copy.applier(&["resync", "p"]).succeed().await;
    copy.server.execute(proved).await;
    copy.sync(0).await;
    assert_eq!(copy.rows(incomplete).await, "1");
}
