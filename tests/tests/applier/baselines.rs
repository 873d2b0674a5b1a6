//! From what on a table's labels and columns count: what the source calls otherwise since then, or has since then, is noticed
//! whatever way the table came to where it stands.

use std::collections::BTreeMap;

use syncdata_formats::manifest::{Column, Relation, ReplicaIdentity};
use syncdata_tests::LocalCopy;
use syncdata_tests::record::insert;

/// `t (id, m mood)` with these labels at the source.
fn moods(labels: &[&str]) -> Relation {
    let column = |name: &str, attnum: u16, type_name: &str| Column {
        name: name.into(),
        type_name: type_name.into(),
        not_null: name == "id",
        attnum: Some(attnum),
        ..Column::default()
    };
    let columns = vec![column("id", 1, "integer"), column("m", 2, "public.mood")];
    let labels = labels.iter().map(|&label| label.to_owned()).collect();
    let types = BTreeMap::from([("public.mood".to_owned(), labels)]);
    Relation::described(columns, vec!["id".into()], ReplicaIdentity::Default, types)
}

fn row(id: u32, mood: &str) -> String {
    insert("t", &format!(r#""id":{id},"m":{mood}"#))
}

const ROWS: &str = "SELECT id, m FROM t ORDER BY id";

/// Takes what is printed, one statement after the other, until the table goes on.
async fn follow(copy: &LocalCopy, expected: &[&str]) {
    for statement in expected {
        let reason = copy.reason("t").await;
        assert!(reason.contains(statement), "{statement} is not in {reason}");
        copy.applier(&["retry", "t"]).run().await.expect_code(1);
        copy.server.execute(statement).await;
        copy.applier(&["retry", "t"]).run().await;
    }
}

/// What one transaction of ours takes has two names of a label, one after the other; the table ends in the middle.
#[tokio::test]
async fn a_table_that_is_set_aside_on_the_way_remembers_the_labels_up_to_there() {
    let mut copy = LocalCopy::start(
        "CREATE TYPE mood AS ENUM ('a', 'c'); CREATE TABLE t (id int PRIMARY KEY CONSTRAINT small CHECK (id < 3), m mood)",
    )
    .await;
    copy.forge.describe("t", moods(&["a", "c"]));
    copy.forge.segment(&[vec![row(1, "\"a\"")]]);
    copy.applier(&["add-tables", "t"]).succeed().await;
    copy.sync(0).await;
    copy.forge.describe("t", moods(&["b", "c"]));
    copy.forge.segment(&[vec![row(2, "null")]]);
    copy.forge.describe("t", moods(&["b", "a"]));
    copy.forge.segment(&[vec![row(3, "\"a\"")]]);
    copy.sync(1).await;
    assert_eq!(copy.rows(ROWS).await, "1,a 2,NULL");
    copy.server.execute("ALTER TABLE t DROP CONSTRAINT small").await;
    copy.applier(&["retry", "t"]).run().await.expect_code(1);
    follow(
        &copy,
        &["ALTER TYPE public.mood RENAME VALUE 'a' TO 'b'", "ALTER TYPE public.mood RENAME VALUE 'c' TO 'a'"],
    )
    .await;
    assert_eq!(copy.rows(ROWS).await, "1,b 2,NULL 3,a");
    // A name that another label has by now: what rows here mean by it nobody takes on trust.
    copy.sync(1).await;
    copy.forge.snapshot(&[("t", &["1\tb", "2\t\\N", "3\ta"])]);
    copy.forge.segment(&[vec![row(4, "\"b\"")]]);
    copy.applier(&["resync", "t"]).succeed().await;
    copy.sync(0).await;
    assert_eq!(copy.rows(ROWS).await, "1,b 2,NULL 3,a 4,b");
}

#[tokio::test]
async fn labels_of_a_table_that_somebody_vouched_for_are_known_from_then_on() {
    let mut copy = LocalCopy::start(
        "CREATE TYPE mood AS ENUM ('a', 'c'); CREATE TABLE t (id int PRIMARY KEY, m mood); \
         INSERT INTO t VALUES (1, 'a'); CREATE TABLE o (id int PRIMARY KEY)",
    )
    .await;
    copy.forge.relation("o", &["id integer not null"], &["id"]);
    copy.forge.segment(&[vec![insert("o", r#""id":1"#)]]);
    copy.applier(&["add-tables", "o"]).succeed().await;
    copy.sync(0).await;
    copy.applier(&["add-tables", "t", "--from", "now"]).succeed().await;
    copy.sync(0).await;
    copy.forge.describe("t", moods(&["b", "c"]));
    copy.forge.segment(&[vec![row(2, "\"c\"")]]);
    copy.sync(1).await;
    follow(&copy, &["ALTER TYPE public.mood RENAME VALUE 'a' TO 'b'"]).await;
    copy.sync(0).await;
    assert_eq!(copy.rows(ROWS).await, "1,b 2,c");
}

/// Rows from before a column have in it what production says.
#[tokio::test]
async fn a_column_that_comes_after_somebody_vouched_for_the_rows_is_newer_than_they() {
    let column = |name: &str, attnum: u16, missing: Option<&str>| Column {
        name: name.into(),
        type_name: if name == "id" { "integer" } else { "text" }.into(),
        not_null: name == "id",
        attnum: Some(attnum),
        missing: missing.map(str::to_owned),
        ..Column::default()
    };
    for (here, fits) in [("w text", false), ("w text DEFAULT 'x'", true)] {
        let mut copy = LocalCopy::start(
            "CREATE TABLE t (id int PRIMARY KEY, v text, ours int); INSERT INTO t VALUES (1, 'one', 7); \
             CREATE TABLE o (id int PRIMARY KEY)",
        )
        .await;
        copy.forge.relation("o", &["id integer not null"], &["id"]);
        copy.forge.segment(&[vec![insert("o", r#""id":1"#)]]);
        copy.applier(&["add-tables", "o"]).succeed().await;
        copy.sync(0).await;
        copy.applier(&["add-tables", "t", "--from", "now"]).succeed().await;
        copy.sync(0).await;
        // One that was here has another name on both sides: that is none that came.
        copy.server.execute(&format!("ALTER TABLE t RENAME v TO name; ALTER TABLE t ADD {here}")).await;
        copy.sync(0).await;
        let columns = vec![column("id", 1, None), column("name", 2, None), column("w", 3, Some("x"))];
        let relation =
            Relation::described(columns, vec!["id".into()], ReplicaIdentity::Default, BTreeMap::new());
        copy.forge.describe("t", relation);
        copy.forge.segment(&[vec![insert("t", r#""id":2,"name":"two","w":"y""#)]]);
        copy.sync(if fits { 0 } else { 1 }).await;
        if !fits {
            let reason = copy.reason("t").await;
            let (_, statement) = reason.split_once("; run: ").unwrap_or_else(|| panic!("{reason}"));
            assert!(statement.contains("SET \"w\" = 'x'"), "{reason}");
            copy.server.execute(statement).await;
            copy.applier(&["retry", "t"]).succeed().await;
        }
        assert_eq!(copy.rows("SELECT id, name, w FROM t ORDER BY id").await, "1,one,x 2,two,y", "{here}");
    }
}

/// A base that is asked for and does not come leaves the table as it is, and live: it is looked at meanwhile.
#[tokio::test]
async fn a_live_table_that_waits_for_a_new_base_is_looked_at_all_the_same() {
    for is_silent in [true, false] {
        let mut copy = LocalCopy::start("CREATE TABLE t (id int PRIMARY KEY, v text)").await;
        copy.forge.relation("t", &["id integer not null", "v text"], &["id"]);
        copy.forge.segment(&[vec![insert("t", r#""id":1,"v":"one""#)]]);
        copy.applier(&["add-tables", "t"]).succeed().await;
        copy.sync(0).await;
        // There is none.
        copy.server
            .execute("UPDATE data_sync_table_state SET load = 'snapshot' WHERE table_name = 't'")
            .await;
        copy.applier(&["sync"]).run().await;
        assert_eq!(copy.state("t").await, "live");
        copy.server.execute("TRUNCATE t").await;
        if !is_silent {
            copy.forge.segment(&[vec![insert("t", r#""id":2,"v":"two""#)]]);
        }
        copy.applier(&["sync"]).run().await;
        assert_eq!(copy.state("t").await, "quarantined", "silent: {is_silent}");
        copy.applier(&["resync", "t"]).succeed().await;
        let rows = if is_silent { "1,one" } else { "1,one 2,two" };
        assert_eq!(copy.rows("SELECT * FROM t ORDER BY id").await, rows);
    }
}
