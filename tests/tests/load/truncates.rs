//! One TRUNCATE of several tables, one of which is held up: they are held and released together.

use std::collections::BTreeMap;

use syncdata_formats::manifest::{Column, Relation, ReplicaIdentity};
use syncdata_tests::LocalCopy;

const TIED: &str = "CREATE TABLE p (id int PRIMARY KEY, v text);
    CREATE TABLE c (id int PRIMARY KEY, p int REFERENCES p, CONSTRAINT held CHECK (id <> 99));
    CREATE TABLE other (id int PRIMARY KEY)";

async fn copy_of(schema: &str) -> LocalCopy {
    let mut copy = LocalCopy::start(schema).await;
    copy.forge.relation("p", &["id integer not null", "v text"], &["id"]);
    copy.forge.relation("c", &["id integer not null", "p integer"], &["id"]);
    copy.forge.relation("other", &["id integer not null"], &["id"]);
    copy.applier(&["add-tables", "p", "c", "other"]).succeed().await;
    copy.forge.segment(&[vec![row("p", 1), row("c", 7), row("other", 1)]]);
    copy.sync(0).await;
    copy
}

fn row(table: &str, id: u32) -> String {
    match table {
        "p" => format!(r#"{{"table":"p","op":"INSERT","data":{{"id":{id},"v":"x"}}}}"#),
        "c" => format!(r#"{{"table":"c","op":"INSERT","data":{{"id":{id},"p":1}}}}"#),
        other => format!(r#"{{"table":"{other}","op":"INSERT","data":{{"id":{id}}}}}"#),
    }
}

fn truncate(table: &str) -> String {
    format!(r#"{{"table":"{table}","op":"TRUNCATE"}}"#)
}

const HELD: &str = "SELECT (SELECT string_agg(id::text, ' ') FROM p), (SELECT string_agg(id::text, ' ' ORDER BY id) FROM c), \
    (SELECT string_agg(id::text, ' ' ORDER BY id) FROM other)";
const STATES: &str = "SELECT table_name, state FROM data_sync_table_state ORDER BY 1";

/// `c` cannot take row 99; then both are emptied by one statement.
async fn held_up(copy: &mut LocalCopy) {
    copy.forge.segment(&[vec![row("c", 99)], vec![row("other", 2)]]);
    copy.forge.segment(&[
        vec![truncate("p"), truncate("c"), row("p", 1), row("p", 2), row("c", 8)],
        vec![row("other", 3)],
    ]);
    copy.sync(1).await;
    // The other one goes on; those of the statement wait together, before it.
    assert_eq!(copy.rows(HELD).await, "1,7,1 2 3");
    assert_eq!(copy.rows(STATES).await, "c,quarantined other,live p,quarantined");
    copy.forge.segment(&[vec![row("p", 3), row("other", 4)]]);
    copy.sync(1).await;
    assert_eq!(copy.rows(HELD).await, "1,7,1 2 3 4");
}

#[tokio::test]
async fn whichever_is_released_both_go_on() {
    for free in ["", "ALTER TABLE c DROP CONSTRAINT c_p_fkey"] {
        for named in [&["c"][..], &["p"], &["p", "c"]] {
            let mut copy = copy_of(TIED).await;
            // In one transaction the row that is not taken would leave no trace before the TRUNCATE.
            copy.set("SYNCDATA_APPLY_BATCH_CHANGES", "1");
            copy.server.execute(free).await;
            held_up(&mut copy).await;
            copy.server.execute("ALTER TABLE c DROP CONSTRAINT held").await;
            copy.applier(&[&["retry"], named].concat()).succeed().await;
            assert_eq!(copy.rows(STATES).await, "c,live other,live p,live", "{named:?}");
            assert_eq!(copy.rows("SELECT id FROM p ORDER BY id").await, "1 2 3");
            assert_eq!(copy.rows("SELECT id FROM c ORDER BY id").await, "8");
        }
    }
}

#[tokio::test]
async fn released_in_vain_both_wait_again() {
    let mut copy = copy_of(TIED).await;
    // In one transaction the row that is not taken would leave no trace before the TRUNCATE.
    copy.set("SYNCDATA_APPLY_BATCH_CHANGES", "1");
    held_up(&mut copy).await;
    copy.applier(&["retry", "p"]).run().await.expect_code(1);
    assert_eq!(copy.rows(STATES).await, "c,quarantined other,live p,quarantined");
    assert_eq!(copy.rows(HELD).await, "1,7,1 2 3 4");
    copy.server.execute("ALTER TABLE c DROP CONSTRAINT held").await;
    copy.applier(&["retry", "p"]).succeed().await;
    assert_eq!(copy.rows(STATES).await, "c,live other,live p,live");
}

/// What holds the other one up is made anew from a base that is newer than the statement.
#[tokio::test]
async fn a_table_that_is_made_anew_lets_the_others_go() {
    let mut copy = copy_of(TIED).await;
    held_up(&mut copy).await;
    copy.server.execute("ALTER TABLE c DROP CONSTRAINT held").await;
    copy.forge.snapshot(&[("c", &["8\t1"])]);
    copy.forge.segment(&[vec![row("other", 5)]]);
    copy.sync(1).await;
    copy.applier(&["resync", "c"]).run().await;
    copy.sync(0).await;
    assert_eq!(copy.rows(STATES).await, "c,live other,live p,live");
    assert_eq!(copy.rows("SELECT id FROM p ORDER BY id").await, "1 2 3");
    assert_eq!(copy.rows("SELECT id FROM c ORDER BY id").await, "8");
}

#[tokio::test]
async fn a_stale_table_holds_up_what_is_truncated_with_it() {
    let mut copy = copy_of(TIED).await;
    copy.forge.gap(&["c"]);
    copy.forge.segment(&[vec![row("other", 2)]]);
    copy.sync(1).await;
    copy.forge.segment(&[vec![truncate("p"), truncate("c"), row("p", 1), row("c", 8)]]);
    copy.sync(1).await;
    assert_eq!(copy.rows(STATES).await, "c,stale other,live p,quarantined");
    let refused = copy.applier(&["retry", "p"]).run().await.expect_code(2);
    assert!(refused.stderr.contains("held together") && refused.stderr.contains("--accept-gap"), "{refused}");
    copy.applier(&["retry", "c", "--accept-gap"]).succeed().await;
    assert_eq!(copy.rows(STATES).await, "c,live other,live p,live");
    assert_eq!(copy.rows(HELD).await, "1,8,1 2");
}

/// In one local transaction: the table stops in the middle of it.
#[tokio::test]
async fn a_table_that_stops_in_the_same_transaction_holds_the_others_up_there() {
    let mut copy = copy_of(TIED).await;
    // With its number: `x` is new.
    let column = |(number, name): (u16, &str)| Column {
        name: name.into(),
        type_name: "integer".into(),
        not_null: number == 1,
        attnum: Some(number),
        ..Column::default()
    };
    let columns = [(1, "id"), (2, "p"), (3, "x")].map(column).to_vec();
    let described =
        Relation::described(columns, vec!["id".into()], ReplicaIdentity::Default, BTreeMap::new());
    copy.forge.describe("c", described);
    copy.forge.segment(&[
        vec![row("p", 5)],
        vec![r#"{"table":"c","op":"INSERT","data":{"id":99,"p":1,"x":1}}"#.to_owned()],
        vec![truncate("c"), truncate("p"), row("p", 1), row("c", 8)],
        vec![row("other", 2)],
    ]);
    copy.sync(1).await;
    assert_eq!(copy.rows("SELECT id FROM p ORDER BY id").await, "1 5");
    assert_eq!(copy.rows("SELECT id FROM c ORDER BY id").await, "7");
    assert_eq!(copy.rows(STATES).await, "c,quarantined other,live p,quarantined");
    copy.server.execute("ALTER TABLE c DROP CONSTRAINT held, ADD x int").await;
    copy.applier(&["retry", "c"]).succeed().await;
    assert_eq!(copy.rows(HELD).await, "1,8,1 2");
}

#[tokio::test]
async fn without_the_replica_role_there_is_a_way_on_too() {
    let mut copy = LocalCopy::start(&format!(
        "CREATE ROLE reporter LOGIN; GRANT ALL ON DATABASE reporting TO reporter; GRANT ALL ON SCHEMA public TO reporter;
         SET ROLE reporter; {TIED}"
    ))
    .await;
    copy.set("PG_USER_NAME", "reporter");
    copy.forge.relation("p", &["id integer not null", "v text"], &["id"]);
    copy.forge.relation("c", &["id integer not null", "p integer"], &["id"]);
    copy.forge.relation("other", &["id integer not null"], &["id"]);
    copy.applier(&["add-tables", "p", "c", "other"]).succeed().await;
    copy.forge.segment(&[vec![row("p", 1), row("c", 7), row("other", 1)]]);
    copy.sync(0).await;
    held_up(&mut copy).await;
    copy.server.execute("ALTER TABLE c DROP CONSTRAINT held").await;
    copy.applier(&["retry", "c"]).run().await;
    copy.sync(0).await;
    assert_eq!(copy.rows(STATES).await, "c,live other,live p,live");
    assert_eq!(copy.rows("SELECT id FROM p ORDER BY id").await, "1 2 3");
    assert_eq!(copy.rows("SELECT id FROM c ORDER BY id").await, "8");
}
