//! Columns that both sides compute by different expressions, in tables of which no key tells which row was meant.

use syncdata_formats::manifest::ReplicaIdentity;
use syncdata_tests::LocalCopy;

fn insert(id: &str, n: u32) -> String {
    format!(r#"{{"table":"g","op":"INSERT","data":{{"id":{id},"n":{n},"twice":{}}}}}"#, n * 2)
}

#[tokio::test]
async fn what_is_computed_otherwise_here_is_noticed_without_a_key_too() {
    for (id, key, identity) in [
        ("integer", "", ReplicaIdentity::Full),
        ("double precision", "PRIMARY KEY", ReplicaIdentity::Default),
        ("integer", "UNIQUE NOT NULL", ReplicaIdentity::Index),
    ] {
        for times in [3, 2] {
            for rows in [1, 700] {
                let mut copy = LocalCopy::start(&format!(
                    "CREATE TABLE g (id {id} {key}, n int, own int NOT NULL GENERATED ALWAYS AS IDENTITY,
                        twice int GENERATED ALWAYS AS (n * {times}) STORED)"
                ))
                .await;
                let (not_null, keys): (&str, &[&str]) =
                    if key.is_empty() { ("", &[]) } else { (" not null", &["id"]) };
                let column = format!("id {id}{not_null}");
                copy.forge.relation_with(
                    "g",
                    &[&column, "n integer", "twice integer generated"],
                    keys,
                    identity,
                );
                copy.forge.segment(&[vec![insert("0", 0)]]);
                copy.applier(&["add-tables", "g"]).succeed().await;
                copy.sync(0).await;
                copy.forge.segment(&[(1..=rows).map(|id| insert(&id.to_string(), id)).collect::<Vec<_>>()]);
                copy.sync(if times == 2 { 0 } else { 1 }).await;
                if times == 2 {
                    let count = format!("{},0", rows + 1);
                    assert_eq!(
                        copy.rows("SELECT count(*), count(*) FILTER (WHERE twice <> n * 2) FROM g").await,
                        count
                    );
                    assert_eq!(copy.state("g").await, "live");
                    continue;
                }
                assert_eq!(copy.state("g").await, "quarantined", "{id} {key} {rows}");
                assert!(
                    copy.reason("g").await.contains("computes another value"),
                    "{}",
                    copy.reason("g").await
                );
                copy.server
                    .execute("ALTER TABLE g DROP twice; ALTER TABLE g ADD twice int GENERATED ALWAYS AS (n * 2) STORED")
                    .await;
                copy.applier(&["resync", "g"]).succeed().await;
                assert_eq!(
                    copy.rows("SELECT count(*), sum(twice - n * 2) FROM g").await,
                    format!("{},0", rows + 1)
                );
                // Nor does a base copy hide it.
                copy.server
                    .execute("ALTER TABLE g DROP twice; ALTER TABLE g ADD twice int GENERATED ALWAYS AS (n * 4) STORED")
                    .await;
                let refused = copy.applier(&["resync", "g"]).run().await.expect_code(1);
                assert!(refused.stdout.contains("computes another value"), "{refused}");
            }
        }
    }
}

#[tokio::test]
async fn an_update_that_computes_otherwise_here_is_noticed_without_a_key_too() {
    let mut copy = LocalCopy::start(
        "CREATE TABLE g (id int, n int, twice int GENERATED ALWAYS AS (n * CASE WHEN n < 5 THEN 2 ELSE 3 END) STORED)",
    )
    .await;
    let columns = ["id integer", "n integer", "twice integer generated"];
    copy.forge.relation_with("g", &columns, &[], ReplicaIdentity::Full);
    copy.forge.segment(&[vec![insert("1", 1), insert("2", 2)]]);
    copy.applier(&["add-tables", "g"]).succeed().await;
    copy.sync(0).await;
    copy.forge.segment(&[vec![
        r#"{"table":"g","op":"UPDATE","data":{"id":2,"n":6,"twice":12},"old_keys":{"id":2,"n":2,"twice":4}}"#,
    ]]);
    copy.sync(1).await;
    assert_eq!(copy.state("g").await, "quarantined");
}

/// From PostgreSQL 16 on a partition may compute by an expression of its own.
#[tokio::test]
async fn a_partition_that_computes_by_an_expression_of_its_own_takes_no_rows_that_nothing_tells_apart() {
    let mut copy = LocalCopy::start("SELECT 1").await;
    if copy.rows("SELECT current_setting('server_version_num')::int >= 160000").await == "f" {
        let refused = "CREATE TABLE p (a text, v int, g int GENERATED ALWAYS AS (v + 1) STORED) PARTITION BY LIST (a); \
                       CREATE TABLE pb (a text, v int, g int GENERATED ALWAYS AS (v * 10) STORED);
                       DO $$ BEGIN ALTER TABLE p ATTACH PARTITION pb FOR VALUES IN ('b'); RAISE 'attached';
                       EXCEPTION WHEN datatype_mismatch THEN NULL; END $$";
        copy.server.execute(refused).await;
        return;
    }
    copy.server
        .execute(
            "CREATE TABLE p (a text, v int, g int GENERATED ALWAYS AS (v + 1) STORED) PARTITION BY LIST (a); \
             CREATE TABLE pa PARTITION OF p FOR VALUES IN ('a'); \
             CREATE TABLE pb (a text, v int, g int GENERATED ALWAYS AS (v * 10) STORED); \
             ALTER TABLE p ATTACH PARTITION pb FOR VALUES IN ('b')",
        )
        .await;
    let columns = ["a text", "v integer", "g integer generated"];
    copy.forge.relation_with("p", &columns, &[], ReplicaIdentity::Full);
    let row = |a: &str, v: u32| {
        format!(r#"{{"table":"p","op":"INSERT","data":{{"a":"{a}","v":{v},"g":{}}}}}"#, v + 1)
    };
    copy.forge.segment(&[vec![row("a", 1), row("b", 2)]]);
    copy.applier(&["add-tables", "p"]).succeed().await;
    copy.sync(1).await;
    let reason = copy.reason("p").await;
    assert!(reason.contains("partition public.pb computes \"g\" by another expression"), "{reason}");
    copy.server
        .execute("ALTER TABLE p DETACH PARTITION pb; ALTER TABLE pb DROP g; \
                  ALTER TABLE pb ADD g int GENERATED ALWAYS AS (v + 1) STORED; ALTER TABLE p ATTACH PARTITION pb FOR VALUES IN ('b')")
        .await;
    copy.applier(&["resync", "p"]).succeed().await;
    assert_eq!(copy.rows("SELECT a, v, g FROM p ORDER BY a").await, "a,1,2 b,2,3");
}
