//! Columns of a live table that somebody alters by hand: a table that may have other rows since is not live, also when the
//! column is altered back, or as a message says.

use syncdata_formats::manifest::{Column, Relation, ReplicaIdentity};
use syncdata_tests::LocalCopy;

/// `t (id, v)`, with one row, live.
async fn live(local: &str, source: &str, value: &str) -> LocalCopy {
    let mut copy = LocalCopy::start(&format!("CREATE TABLE t (id int PRIMARY KEY, v {local})")).await;
    copy.forge.relation("t", &["id integer not null", &format!("v {source}")], &["id"]);
    copy.forge.segment(&[vec![insert(1, value)]]);
    copy.applier(&["add-tables", "t"]).succeed().await;
    copy.sync(0).await;
    copy
}

fn insert(id: u32, value: &str) -> String {
    format!(r#"{{"table":"t","op":"INSERT","data":{{"id":{id},"v":{value}}}}}"#)
}

async fn state(copy: &LocalCopy) -> String {
    copy.rows("SELECT state FROM data_sync_table_state WHERE table_name = 't'").await
}

#[tokio::test]
async fn a_column_that_was_narrowed_by_hand_needs_a_new_base_even_when_it_is_wide_again() {
    for (source, value, narrow, wide) in [
        ("numeric", "1.239", "numeric(10,2)", "numeric"),
        ("timestamp without time zone", r#""2026-02-05 10:30:00.6""#, "timestamp(0)", "timestamp"),
        ("text", r#""a  ""#, "varchar(1)", "text"),
        ("text", r#""a  ""#, "short", "text"),
        ("timestamp without time zone", r#""2026-02-05 10:30:00""#, "date", "timestamp"),
        ("double precision", "0.1", "real", "double precision"),
    ] {
        for is_silent in [true, false] {
            let mut copy = live(source, source, value).await;
            let row = copy.rows("SELECT v FROM t").await;
            copy.server.execute("CREATE DOMAIN short AS varchar(1)").await;
            copy.server.execute(&format!("ALTER TABLE t ALTER COLUMN v TYPE {narrow}")).await;
            if !is_silent {
                copy.forge.segment(&[vec![insert(2, value)]]);
            }
            let said = copy.sync(1).await;
            assert!(said.contains("t: quarantined") && said.contains("resync t"), "{narrow}: {said}");
            copy.server.execute(&format!("ALTER TABLE t ALTER COLUMN v TYPE {wide}")).await;
            let retried = copy.applier(&["retry", "t"]).run().await.expect_code(1);
            assert!(retried.stdout.contains("resync t"), "{narrow}: {retried}");
            assert_eq!(state(&copy).await, "quarantined");
            copy.applier(&["resync", "t"]).succeed().await;
            assert_eq!(copy.rows("SELECT v FROM t WHERE id = 1").await, row, "{narrow}");
            copy.sync(0).await;
            assert_eq!(state(&copy).await, "live");
        }
    }
}

#[tokio::test]
async fn a_column_that_is_altered_while_its_table_is_quarantined_is_noticed_too() {
    let mut copy = live("numeric CHECK (v < 5)", "numeric", "1.239").await;
    copy.forge.segment(&[vec![insert(2, "7.5")]]);
    copy.sync(1).await;
    copy.server.execute("ALTER TABLE t DROP CONSTRAINT t_v_check, ALTER COLUMN v TYPE numeric(10,2)").await;
    copy.sync(1).await;
    copy.server.execute("ALTER TABLE t ALTER COLUMN v TYPE numeric").await;
    let retried = copy.applier(&["retry", "t"]).run().await.expect_code(1);
    assert!(retried.stdout.contains("resync t"), "{retried}");
    copy.applier(&["resync", "t"]).succeed().await;
    assert_eq!(copy.rows("SELECT v FROM t ORDER BY id").await, "1.239 7.5");
}

#[tokio::test]
async fn a_column_that_keeps_its_values_as_another_type_goes_on() {
    for (local, source, value, other) in [
        ("varchar(10)", "character varying(10)", r#""a""#, "text"),
        ("integer", "integer", "1", "bigint"),
        ("bigint", "integer", "1", "integer"),
        ("numeric(10,2)", "numeric(10,2)", "1.25", "numeric(12,2)"),
        ("numeric", "numeric(10,2)", "null", "numeric(10,2)"),
    ] {
        let mut copy = live(local, source, value).await;
        copy.server.execute(&format!("ALTER TABLE t ALTER COLUMN v TYPE {other}")).await;
        copy.sync(0).await;
        copy.forge.segment(&[vec![insert(2, value)]]);
        copy.sync(0).await;
        assert_eq!(state(&copy).await, "live", "{other}");
    }
}

fn numbered(columns: &[(u16, &str)]) -> Relation {
    let column = |&(number, name): &(u16, &str)| Column {
        name: name.into(),
        type_name: if name == "id" { "integer" } else { "text" }.into(),
        not_null: name == "id",
        attnum: Some(number),
        ..Column::default()
    };
    let columns = columns.iter().map(column).collect();
    Relation::described(columns, vec!["id".into()], ReplicaIdentity::Default, Default::default())
}

/// `t (id, a, b)`, with one row, live.
async fn numbered_copy() -> LocalCopy {
    let mut copy = LocalCopy::start("CREATE TABLE t (id int PRIMARY KEY, a text, b text)").await;
    copy.forge.describe("t", numbered(&[(1, "id"), (2, "a"), (3, "b")]));
    copy.forge.segment(&[vec![row(1)]]);
    copy.applier(&["add-tables", "t"]).succeed().await;
    copy.sync(0).await;
    copy
}

fn row(id: u32) -> String {
    format!(r#"{{"table":"t","op":"INSERT","data":{{"id":{id},"a":"a{id}","b":"b{id}"}}}}"#)
}

#[tokio::test]
async fn a_column_that_was_made_anew_or_took_anothers_name_by_hand_needs_a_new_base() {
    for (by_hand, is_seen_in_silence) in [
        ("ALTER TABLE t DROP a; ALTER TABLE t ADD a text", true),
        ("ALTER TABLE t RENAME a TO c; ALTER TABLE t RENAME b TO a; ALTER TABLE t RENAME c TO b", false),
        ("ALTER TABLE t DROP a; ALTER TABLE t RENAME b TO a; ALTER TABLE t ADD b text", true),
    ] {
        let mut copy = numbered_copy().await;
        copy.server.execute(by_hand).await;
        if is_seen_in_silence {
            let said = copy.sync(1).await;
            assert!(said.contains("t: quarantined") && said.contains("resync t"), "{by_hand}: {said}");
        }
        copy.forge.segment(&[vec![row(2)]]);
        let said = copy.sync(1).await;
        assert!(said.contains("resync t"), "{by_hand}: {said}");
        copy.applier(&["retry", "t"]).run().await.expect_code(1);
        copy.applier(&["resync", "t"]).succeed().await;
        assert_eq!(copy.rows("SELECT id, a, b FROM t ORDER BY id").await, "1,a1,b1 2,a2,b2", "{by_hand}");
        copy.forge.segment(&[vec![row(3)]]);
        copy.sync(0).await;
    }
}

#[tokio::test]
async fn columns_that_are_renamed_here_as_at_the_source_go_on() {
    let mut copy = numbered_copy().await;
    // The source has dropped `b`, and calls `a` so.
    copy.server.execute("ALTER TABLE t RENAME b TO old; ALTER TABLE t RENAME a TO b").await;
    copy.sync(0).await;
    copy.forge.describe("t", numbered(&[(1, "id"), (2, "b")]));
    copy.forge.segment(&[vec![r#"{"table":"t","op":"INSERT","data":{"id":2,"b":"a2"}}"#]]);
    copy.sync(0).await;
    assert_eq!(copy.rows("SELECT id, b FROM t ORDER BY id").await, "1,a1 2,a2");
}

#[tokio::test]
async fn a_table_with_as_many_columns_as_can_be_takes_rows_in_every_way() {
    let names: Vec<String> = (1..1600).map(|n| format!("c{n}")).collect();
    let columns: Vec<String> = names.iter().map(|name| format!("{name} int2")).collect();
    let mut copy =
        LocalCopy::start(&format!("CREATE TABLE t (id int PRIMARY KEY, {})", columns.join(", "))).await;
    let described: Vec<String> = names.iter().map(|name| format!("{name} smallint")).collect();
    let described: Vec<&str> =
        ["id integer not null"].into_iter().chain(described.iter().map(String::as_str)).collect();
    copy.forge.relation("t", &described, &["id"]);
    let values =
        |value: u32| names.iter().map(|name| format!(r#""{name}":{value}"#)).collect::<Vec<_>>().join(",");
    let insert = |id: u32| format!(r#"{{"table":"t","op":"INSERT","data":{{"id":{id},{}}}}}"#, values(1));
    let update = |id: u32| {
        format!(
            r#"{{"table":"t","op":"UPDATE","data":{{"id":{id},{}}},"old_keys":{{"id":{id}}}}}"#,
            values(2)
        )
    };
    let count = "SELECT count(*), sum(c1), sum(c1599) FROM t";
    copy.forge.segment(&[(1..=600).map(insert).collect()]);
    copy.applier(&["add-tables", "t"]).succeed().await;
    copy.sync(0).await;
    copy.forge.segment(&[(1..=550).map(update).collect()]);
    copy.sync(0).await;
    assert_eq!(copy.rows(count).await, "600,1150,1150");
    // Over rows that are there, and a few at a time.
    copy.forge.segment(&[(580..=1200).map(insert).collect()]);
    copy.forge.segment(&[vec![update(7), insert(2000)]]);
    copy.sync(0).await;
    assert_eq!(copy.rows(count).await, "1201,1751,1751");
    copy.applier(&["resync", "t"]).succeed().await;
    assert_eq!(copy.rows(count).await, "1201,1751,1751");
}

/// From an archive that is older than the numbers of columns.
#[tokio::test]
async fn without_numbers_a_column_that_was_made_anew_or_swapped_by_hand_needs_a_new_base_too() {
    for by_hand in [
        "ALTER TABLE t DROP a; ALTER TABLE t ADD a text",
        "ALTER TABLE t RENAME a TO c; ALTER TABLE t RENAME b TO a; ALTER TABLE t RENAME c TO b",
    ] {
        let mut copy = LocalCopy::start("CREATE TABLE t (id int PRIMARY KEY, a text, b text)").await;
        copy.forge.relation("t", &["id integer not null", "a text", "b text"], &["id"]);
        copy.forge.segment(&[vec![row(1)]]);
        copy.applier(&["add-tables", "t"]).succeed().await;
        copy.sync(0).await;
        copy.server.execute(by_hand).await;
        let said = copy.sync(1).await;
        assert!(said.contains("t: quarantined") && said.contains("resync t"), "{by_hand}: {said}");
        copy.applier(&["retry", "t"]).run().await.expect_code(1);
        copy.applier(&["resync", "t"]).succeed().await;
        copy.forge.segment(&[vec![row(2)]]);
        copy.sync(0).await;
        assert_eq!(copy.rows("SELECT id, a, b FROM t ORDER BY id").await, "1,a1,b1 2,a2,b2", "{by_hand}");
    }
}
