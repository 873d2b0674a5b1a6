//! A column that the copy lacks: it was renamed at the source, or is new there. The statement that is printed is right.

use std::collections::BTreeMap;

use syncdata_formats::manifest::{Column, Relation, ReplicaIdentity};
use syncdata_tests::LocalCopy;

/// `id`, and text columns with their numbers at the source.
fn relation(columns: &[(&str, Option<u16>)]) -> Relation {
    let column = |(name, attnum): &(&str, Option<u16>)| Column {
        name: (*name).to_owned(),
        type_name: if *name == "id" { "integer" } else { "text" }.into(),
        not_null: *name == "id",
        attnum: *attnum,
        ..Column::default()
    };
    let (described, key) = (columns.iter().map(column).collect(), vec!["id".into()]);
    match columns.iter().all(|(_, attnum)| attnum.is_some()) {
        true => Relation::described(described, key, ReplicaIdentity::Default, BTreeMap::new()),
        false => Relation::new(described, key, ReplicaIdentity::Default),
    }
}

fn row(id: u32, columns: &[&str]) -> String {
    let fields: Vec<String> = columns.iter().map(|name| format!(r#","{name}":"{name} {id}""#)).collect();
    format!(r#"{{"table":"t","op":"INSERT","data":{{"id":{id}{}}}}}"#, fields.concat())
}

/// Columns with their numbers at the source.
type Numbered = &'static [(&'static str, u16)];

/// The table as it is here; what the source calls its columns before and after; and what has to be run.
const CASES: [(&str, Numbered, Numbered, &[&str]); 5] = [
    ("v text", &[("v", 2)], &[("w", 2)], &[r#"RENAME COLUMN "v" TO "w""#]),
    ("v text, ours text", &[("v", 2)], &[("v", 2), ("w", 3)], &[r#"ADD COLUMN "w" text"#]),
    ("v text", &[("v", 2)], &[("w", 3)], &[r#"ADD COLUMN "w" text"#]),
    (
        "u text, v text",
        &[("v", 2), ("u", 3)],
        &[("x", 2), ("y", 3)],
        &[r#"RENAME COLUMN "v" TO "x""#, r#"RENAME COLUMN "u" TO "y""#],
    ),
    ("ours text, v text", &[("v", 2)], &[("w", 2)], &[r#"RENAME COLUMN "v" TO "w""#]),
];

#[tokio::test]
async fn a_new_name_is_told_from_a_new_column_by_its_number() {
    for (here, before, after, expected) in CASES {
        let mut copy = LocalCopy::start(&format!("CREATE TABLE t (id int PRIMARY KEY, {here})")).await;
        let described = |columns: &[(&'static str, u16)]| {
            let columns = columns.iter().map(|(name, number)| (*name, Some(*number)));
            relation(&[("id", Some(1))].into_iter().chain(columns).collect::<Vec<_>>())
        };
        let names =
            |columns: &[(&'static str, u16)]| columns.iter().map(|(name, _)| *name).collect::<Vec<_>>();
        copy.forge.describe("t", described(before));
        copy.forge.segment(&[vec![row(1, &names(before))]]);
        copy.applier(&["add-tables", "t"]).succeed().await;
        copy.sync(0).await;
        copy.forge.describe("t", described(after));
        copy.forge.segment(&[vec![row(2, &names(after))]]);
        copy.sync(1).await;
        for (number, expected) in expected.iter().enumerate() {
            if number > 0 {
                copy.applier(&["retry", "t"]).run().await.expect_code(1);
            }
            let reason = copy.rows("SELECT reason FROM data_sync_table_state").await;
            let (_, statement) = reason.split_once("; run: ").unwrap_or_else(|| panic!("{here}: {reason}"));
            assert_eq!(statement, format!(r#"ALTER TABLE "public"."t" {expected}"#));
            copy.server.execute(statement).await;
        }
        copy.applier(&["retry", "t"]).succeed().await;
        let name = after[0].0;
        let first = if before.iter().any(|(_, number)| *number == after[0].1) {
            format!("{} 1", before[0].0)
        } else {
            "NULL".to_owned()
        };
        assert_eq!(
            copy.rows(&format!("SELECT {name} FROM t ORDER BY id")).await,
            format!("{first} {name} 2"),
            "{here}"
        );
    }
}

async fn reason(copy: &LocalCopy) -> String {
    copy.rows("SELECT reason FROM data_sync_table_state").await
}

async fn state(copy: &LocalCopy) -> String {
    copy.rows("SELECT state FROM data_sync_table_state").await
}

#[tokio::test]
async fn where_no_number_tells_neither_statement_ends_in_a_copy_that_differs() {
    for choice in [0, 1] {
        let mut copy = LocalCopy::start("CREATE TABLE t (id int PRIMARY KEY, v text)").await;
        copy.forge.describe("t", relation(&[("id", None), ("v", None)]));
        copy.forge.segment(&[vec![row(1, &["v"])]]);
        copy.applier(&["add-tables", "t"]).succeed().await;
        copy.sync(0).await;
        copy.forge.describe("t", relation(&[("id", None), ("w", None)]));
        copy.forge.segment(&[vec![row(2, &["w"])]]);
        copy.sync(1).await;
        let said = reason(&copy).await;
        let statements: Vec<&str> = said.split("run: ").skip(1).collect();
        assert_eq!(statements.len(), 3, "{said}");
        assert!(statements[0].starts_with(r#"ALTER TABLE "public"."t" RENAME COLUMN "v" TO "w";"#), "{said}");
        assert!(statements[1].starts_with(r#"ALTER TABLE "public"."t" ADD COLUMN "w" text;"#), "{said}");
        assert!(statements[2].starts_with("syncdata-applier resync t"), "{said}");
        copy.server.execute(statements[choice]).await;
        // It may have been the wrong one.
        let retried = copy.applier(&["retry", "t"]).run().await.expect_code(1);
        assert!(retried.stdout.contains("resync t"), "{retried}");
        assert_eq!(state(&copy).await, "quarantined");
        // Changes alone tell no more.
        copy.applier(&["resync", "t"]).run().await.expect_code(1);
        assert_eq!(state(&copy).await, "quarantined");
        copy.forge.snapshot(&[("t", &["1\tv 1", "2\tw 2"])]);
        copy.forge.segment(&[vec![row(3, &["w"])]]);
        copy.sync(1).await;
        copy.applier(&["resync", "t"]).succeed().await;
        assert_eq!(copy.rows("SELECT id, w FROM t ORDER BY id").await, "1,v 1 2,w 2 3,w 3", "{choice}");
        copy.sync(0).await;
        assert_eq!(state(&copy).await, "live");
    }
}

#[tokio::test]
async fn a_column_that_looks_new_without_a_number_ends_in_no_copy_that_differs() {
    let mut copy = LocalCopy::start("CREATE TABLE t (id int PRIMARY KEY, v text)").await;
    copy.forge.describe("t", relation(&[("id", None), ("v", None)]));
    copy.forge.segment(&[vec![row(1, &["v"])]]);
    copy.applier(&["add-tables", "t"]).succeed().await;
    copy.sync(0).await;
    // The source calls `v` `w` now, and has another `v`.
    copy.forge.describe("t", relation(&[("id", None), ("w", None), ("v", None)]));
    copy.forge.segment(&[vec![row(2, &["w", "v"])]]);
    copy.sync(1).await;
    let said = reason(&copy).await;
    assert!(said.contains(r#"ADD COLUMN "w" text;  -- if it is a new column"#), "{said}");
    assert!(said.contains("resync t"), "{said}");
    copy.server.execute("ALTER TABLE t ADD COLUMN w text").await;
    let retried = copy.applier(&["retry", "t"]).run().await.expect_code(1);
    assert!(retried.stdout.contains("resync t"), "{retried}");
    assert_eq!(state(&copy).await, "quarantined");
    copy.forge.snapshot(&[("t", &["1\tv 1\t\\N", "2\tw 2\tv 2"])]);
    copy.applier(&["resync", "t"]).succeed().await;
    assert_eq!(copy.rows("SELECT id, w, v FROM t ORDER BY id").await, "1,v 1,NULL 2,w 2,v 2");
    copy.sync(0).await;
}

#[tokio::test]
async fn where_everything_stops_the_wrong_statement_ends_in_no_copy_that_differs_either() {
    let mut copy = LocalCopy::start("CREATE TABLE t (id int PRIMARY KEY, v text)").await;
    copy.set("SYNCDATA_ON_ERROR", "stop");
    copy.forge.describe("t", relation(&[("id", None), ("v", None)]));
    copy.forge.segment(&[vec![row(1, &["v"])]]);
    copy.applier(&["add-tables", "t"]).succeed().await;
    copy.sync(0).await;
    copy.forge.describe("t", relation(&[("id", None), ("w", None)]));
    copy.forge.segment(&[vec![row(2, &["w"])]]);
    let said = copy.applier(&["sync"]).run().await;
    assert!(said.stderr.contains("resync t"), "{said}");
    copy.server.execute("ALTER TABLE t ADD COLUMN w text").await;
    let again = copy.applier(&["sync"]).run().await;
    assert_ne!(again.code(), Some(0), "{again}");
    assert!(again.stderr.contains("resync t"), "{again}");
    assert_eq!(copy.rows("SELECT count(*) FROM t").await, "1");
    copy.forge.snapshot(&[("t", &["1\tv 1", "2\tw 2"])]);
    copy.applier(&["resync", "t"]).run().await;
    copy.sync(0).await;
    assert_eq!(copy.rows("SELECT id, w FROM t ORDER BY id").await, "1,v 1 2,w 2");
}

/// A table of these columns with row 1, which then has those at the source, where `old` stands in rows that are older
/// than the last one; and row 2.
async fn changed(
    here: &str,
    before: Numbered,
    after: Numbered,
    old: Option<&str>,
    altered: &str,
) -> LocalCopy {
    let mut copy = LocalCopy::start(&format!("CREATE TABLE t (id int PRIMARY KEY, {here})")).await;
    let described = |columns: Numbered, old: Option<&str>| {
        let columns = columns.iter().map(|(name, number)| (*name, Some(*number)));
        let mut relation = relation(&[("id", Some(1))].into_iter().chain(columns).collect::<Vec<_>>());
        relation.columns.last_mut().expect("it has some").missing = old.map(str::to_owned);
        Relation::described(relation.columns, relation.key, ReplicaIdentity::Default, BTreeMap::new())
    };
    let names = |columns: Numbered| columns.iter().map(|(name, _)| *name).collect::<Vec<_>>();
    copy.forge.describe("t", described(before, None));
    copy.forge.segment(&[vec![row(1, &names(before))]]);
    copy.applier(&["add-tables", "t"]).succeed().await;
    copy.sync(0).await;
    copy.server.execute(altered).await;
    copy.forge.describe("t", described(after, old));
    copy.forge.segment(&[vec![row(2, &names(after))]]);
    copy
}

#[tokio::test]
async fn a_column_that_is_new_at_the_source_and_has_other_values_here_waits() {
    const WITH_W: Numbered = &[("v", 2), ("w", 3)];
    for (here, after, old, altered, wanted) in [
        // It was ours alone.
        ("v text, w text DEFAULT 'ours'", WITH_W, None, "SELECT 1", "1,NULL 2,w 2"),
        ("v text, w text DEFAULT 'ours'", WITH_W, Some("it's"), "SELECT 1", "1,it's 2,w 2"),
        // Added without what old rows have in it, or with something else.
        ("v text", WITH_W, Some("it's"), "ALTER TABLE t ADD w text", "1,it's 2,w 2"),
        ("v text", WITH_W, None, "ALTER TABLE t ADD w text DEFAULT 'x'", "1,NULL 2,w 2"),
        // Dropped and added there, renamed here.
        ("v text", &[("w", 3)], None, "ALTER TABLE t RENAME v TO w", "1,NULL 2,w 2"),
    ] {
        let copy = changed(here, &[("v", 2)], after, old, altered).await;
        let said = copy.sync(1).await;
        assert!(said.contains("older rows"), "{said}");
        assert_eq!(copy.rows("SELECT count(*) FROM t").await, "1", "{altered}");
        // Trying again is not enough.
        copy.applier(&["retry", "t"]).run().await.expect_code(1);
        let reason = reason(&copy).await;
        let (_, statement) = reason.split_once("; run: ").unwrap_or_else(|| panic!("{altered}: {reason}"));
        copy.server.execute(statement).await;
        copy.applier(&["retry", "t"]).succeed().await;
        assert_eq!(copy.rows("SELECT id, w FROM t ORDER BY id").await, wanted, "{altered}");
        assert_eq!(state(&copy).await, "live");
        copy.sync(0).await;
    }
}

#[tokio::test]
async fn a_new_column_that_was_added_here_before_is_no_trouble() {
    const WITH_W: Numbered = &[("v", 2), ("w", 3)];
    for (old, altered, wanted) in [
        (None, "ALTER TABLE t ADD w text", "1,NULL 2,w 2 3,w 3"),
        (Some("it's"), "ALTER TABLE t ADD w text DEFAULT 'it''s'", "1,it's 2,w 2 3,w 3"),
    ] {
        let mut copy = changed("v text", &[("v", 2)], WITH_W, old, altered).await;
        copy.sync(0).await;
        copy.forge.segment(&[vec![row(3, &["v", "w"])]]);
        copy.sync(0).await;
        assert_eq!(copy.rows("SELECT id, w FROM t ORDER BY id").await, wanted, "{altered}");
    }
}

/// Whoever wrote all rows anew for it may have written others.
#[tokio::test]
async fn a_new_column_for_which_all_rows_were_written_anew_here_needs_a_new_base() {
    const WITH_W: Numbered = &[("v", 2), ("w", 3)];
    let altered =
        "ALTER TABLE t ADD w json; UPDATE t SET w = '1'; ALTER TABLE t ALTER w TYPE text USING 'it''s'";
    let copy = changed("v text", &[("v", 2)], WITH_W, Some("it's"), altered).await;
    copy.sync(1).await;
    assert!(reason(&copy).await.contains("resync t"));
}

#[tokio::test]
async fn a_column_that_got_a_new_name_is_not_looked_for_beside_its_old_one() {
    // The statement that is printed is not the one that was run; or there was such a column of ours before.
    for altered in ["ALTER TABLE t ADD w text", "ALTER TABLE t ADD w text DEFAULT 'ours'"] {
        let copy = changed("v text", &[("v", 2)], &[("w", 2)], None, altered).await;
        copy.sync(1).await;
        let reason = reason(&copy).await;
        let (_, statement) = reason.split_once("; run: ").unwrap_or_else(|| panic!("{altered}: {reason}"));
        copy.server.execute(statement).await;
        copy.applier(&["retry", "t"]).succeed().await;
        assert_eq!(copy.rows("SELECT id, w FROM t ORDER BY id").await, "1,v 1 2,w 2", "{altered}");
    }
}

#[tokio::test]
async fn a_column_that_was_dropped_here_does_not_come_back_empty() {
    for altered in ["ALTER TABLE t DROP v", "ALTER TABLE t RENAME v TO mine"] {
        let mut copy = changed("v text", &[("v", 2)], &[("v", 2)], None, altered).await;
        copy.sync(1).await;
        let said = reason(&copy).await;
        assert!(said.contains("resync t"), "{said}");
        copy.server.execute("ALTER TABLE t ADD v text").await;
        copy.applier(&["retry", "t"]).run().await.expect_code(1);
        assert_eq!(state(&copy).await, "quarantined");
        copy.forge.snapshot(&[("t", &["1\tv 1", "2\tv 2"])]);
        copy.forge.segment(&[vec![row(3, &["v"])]]);
        copy.sync(1).await;
        copy.applier(&["resync", "t"]).succeed().await;
        assert_eq!(copy.rows("SELECT id, v FROM t ORDER BY id").await, "1,v 1 2,v 2 3,v 3");
    }
}

#[tokio::test]
async fn rows_that_are_older_than_a_column_have_in_it_what_the_source_says() {
    // One segment has rows from before and after; the default here is another one, or there is none.
    for default in ["", "DEFAULT 'ours'"] {
        for old in [None, Some("it's")] {
            let altered = format!("DELETE FROM t; ALTER TABLE t ADD w text {default}");
            let mut copy = changed("v text", &[("v", 2)], &[("v", 2), ("w", 3)], old, &altered).await;
            copy.forge.segment(&[vec![row(10, &["v"])], vec![row(11, &["v", "w"])]]);
            copy.forge.segment(&[(100..700).map(|id| row(id, &["v"])).collect()]);
            copy.sync(0).await;
            let old = old.unwrap_or("NULL");
            let wanted = format!("2,w 2 10,{old} 11,w 11 699,{old}");
            assert_eq!(copy.rows("SELECT id, w FROM t WHERE id < 12 OR id = 699 ORDER BY id").await, wanted);
        }
    }
}

/// What is behind comes in one transaction: rows from before the column, and the segment that describes it.
#[tokio::test]
async fn rows_of_earlier_segments_are_older_than_a_column_too() {
    for is_noted in [true, false] {
        let mut copy = LocalCopy::start("CREATE TABLE t (id int PRIMARY KEY CHECK (id <> 2), v text)").await;
        let before = relation(&[("id", Some(1)), ("v", Some(2))]);
        copy.forge.describe("t", before.clone());
        copy.forge.segment(&[vec![row(1, &["v"])]]);
        let arguments: &[&str] = match is_noted {
            true => &["add-tables", "t"],
            false => {
                copy.server.execute("INSERT INTO t VALUES (1, 'v 1')").await;
                &["add-tables", "t", "--from", "now"]
            }
        };
        copy.applier(arguments).succeed().await;
        copy.sync(0).await;
        copy.forge.segment(&[vec![row(2, &["v"])]]);
        copy.sync(1).await;
        copy.forge.segment(&[vec![row(3, &["v"])]]);
        let mut columns = relation(&[("id", Some(1)), ("v", Some(2)), ("w", Some(3))]).columns;
        columns.last_mut().expect("it has some").missing = Some("old".into());
        let after = Relation::described(columns, before.key, ReplicaIdentity::Default, BTreeMap::new());
        copy.forge.describe("t", after);
        copy.forge.segment(&[vec![row(4, &["v", "w"])]]);
        copy.server
            .execute("ALTER TABLE t DROP CONSTRAINT t_id_check; ALTER TABLE t ADD w text DEFAULT 'ours'")
            .await;
        copy.applier(&["retry", "t"]).run().await.expect_code(1);
        let reason = reason(&copy).await;
        let (_, statement) = reason.split_once("; run: ").unwrap_or_else(|| panic!("{reason}"));
        assert!(statement.contains("SET \"w\" = 'old'"), "{reason}");
        copy.server.execute(statement).await;
        copy.applier(&["retry", "t"]).succeed().await;
        let rows = copy.rows("SELECT id, w FROM t ORDER BY id").await;
        assert_eq!(rows, "1,old 2,old 3,old 4,w 4", "noted: {is_noted}");
    }
}

#[tokio::test]
async fn a_column_that_comes_after_a_gap_takes_no_table_over_it() {
    let mut copy = LocalCopy::start("CREATE TABLE t (id int PRIMARY KEY CHECK (id <> 2), v text)").await;
    let before = relation(&[("id", Some(1)), ("v", Some(2))]);
    copy.forge.describe("t", before.clone());
    copy.forge.segment(&[vec![row(1, &["v"])]]);
    copy.applier(&["add-tables", "t"]).succeed().await;
    copy.sync(0).await;
    copy.forge.segment(&[vec![row(2, &["v"])]]);
    copy.forge.gap(&["t"]);
    copy.forge.segment(&[vec![row(3, &["v"])]]);
    let mut columns = relation(&[("id", Some(1)), ("v", Some(2)), ("w", Some(3))]).columns;
    columns.last_mut().expect("it has some").missing = Some("old".into());
    copy.forge
        .describe("t", Relation::described(columns, before.key, ReplicaIdentity::Default, BTreeMap::new()));
    copy.forge.segment(&[vec![row(4, &["v", "w"])]]);
    copy.sync(1).await;
    assert_eq!(state(&copy).await, "quarantined");
    // What comes now comes in one transaction: the gap, and a column whose older values are others here.
    copy.server.execute("ALTER TABLE t DROP CONSTRAINT t_id_check; ALTER TABLE t ADD w text").await;
    copy.applier(&["retry", "t"]).run().await.expect_code(1);
    assert_eq!(state(&copy).await, "stale", "{}", reason(&copy).await);
    assert_eq!(copy.rows("SELECT id FROM t ORDER BY id").await, "1 2");
    copy.applier(&["retry", "t"]).run().await.expect_code(2);
    // Who goes on over it has to make the column right first.
    copy.applier(&["retry", "t", "--accept-gap"]).run().await.expect_code(1);
    let reason = reason(&copy).await;
    let (_, statement) = reason.split_once("; run: ").unwrap_or_else(|| panic!("{reason}"));
    copy.server.execute(statement).await;
    copy.applier(&["retry", "t"]).succeed().await;
    assert_eq!(copy.rows("SELECT id, w FROM t ORDER BY id").await, "1,old 2,old 3,old 4,w 4");
}

/// The description of the first stretch is of its end: a name that it does not have may be the old one of a column that is here
/// too.
#[tokio::test]
async fn a_new_name_in_the_first_stretch_is_not_taken_for_another_column() {
    let mut copy = LocalCopy::start("CREATE TABLE t (id int PRIMARY KEY, a text, b text)").await;
    copy.forge.describe("t", relation(&[("id", Some(1)), ("b", Some(2))]));
    copy.forge.segment(&[vec![row(1, &["a"])], vec![row(2, &["b"])]]);
    copy.applier(&["add-tables", "t"]).succeed().await;
    copy.sync(1).await;
    let said = reason(&copy).await;
    assert!(said.contains(r#"rows of t have a column "a", and later ones "b""#), "{said}");
    copy.applier(&["retry", "t"]).run().await.expect_code(1);
    copy.forge.snapshot(&[("t", &["1\ta 1", "2\tb 2"])]);
    copy.applier(&["resync", "t"]).succeed().await;
    assert_eq!(copy.rows("SELECT id, b FROM t ORDER BY id").await, "1,a 1 2,b 2");
    // What is known by its number was dropped.
    copy.forge.describe("t", relation(&[("id", Some(1)), ("b", Some(2)), ("a", Some(3))]));
    copy.forge.segment(&[vec![row(3, &["b", "a"])]]);
    copy.sync(0).await;
    copy.server.execute("ALTER TABLE t ADD COLUMN z text").await;
    copy.forge.describe("t", relation(&[("id", Some(1)), ("b", Some(2)), ("z", Some(4))]));
    copy.forge.segment(&[vec![row(4, &["b", "a"])], vec![row(5, &["b", "z"])]]);
    copy.sync(0).await;
    assert_eq!(
        copy.rows("SELECT id, b, a, z FROM t WHERE id > 2 ORDER BY id").await,
        "3,b 3,a 3,NULL 4,b 4,a 4,NULL 5,b 5,NULL,z 5"
    );
}
