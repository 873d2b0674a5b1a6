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

#[tokio::test]
async fn where_no_number_tells_both_statements_are_asked() {
    for choice in [0, 1] {
        let mut copy = LocalCopy::start("CREATE TABLE t (id int PRIMARY KEY, v text)").await;
        copy.forge.describe("t", relation(&[("id", None), ("v", None)]));
        copy.forge.segment(&[vec![row(1, &["v"])]]);
        copy.applier(&["add-tables", "t"]).succeed().await;
        copy.sync(0).await;
        copy.forge.describe("t", relation(&[("id", None), ("w", None)]));
        copy.forge.segment(&[vec![row(2, &["w"])]]);
        copy.sync(1).await;
        let reason = copy.rows("SELECT reason FROM data_sync_table_state").await;
        let statements: Vec<&str> = reason.split("run: ").skip(1).collect();
        assert_eq!(statements.len(), 2, "{reason}");
        assert!(
            statements[0].starts_with(r#"ALTER TABLE "public"."t" RENAME COLUMN "v" TO "w";"#),
            "{reason}"
        );
        assert_eq!(statements[1], r#"ALTER TABLE "public"."t" ADD COLUMN "w" text;"#, "{reason}");
        copy.server.execute(statements[choice]).await;
        copy.applier(&["retry", "t"]).succeed().await;
        assert_eq!(copy.rows("SELECT w FROM t WHERE id = 2").await, "w 2");
    }
}
