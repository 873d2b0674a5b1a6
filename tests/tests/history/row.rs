//! `history`: every change of one row, read from the archive alone.

use serde_json::Value;
use syncdata_formats::manifest::ReplicaIdentity;
use syncdata_tests::LocalCopy;
use syncdata_tests::program::{Finished, Program};

async fn copy() -> LocalCopy {
    let mut copy = LocalCopy::start("CREATE TABLE other (id int PRIMARY KEY)").await;
    copy.forge.relation("other", &["id integer not null"], &["id"]);
    copy.forge.relation(
        "p",
        &["a integer not null", "b numeric not null", "v text", "n numeric"],
        &["a", "b"],
    );
    let insert = |a: u32, b: &str, v: &str| {
        format!(r#"{{"table":"p","op":"INSERT","data":{{"a":{a},"b":{b},"v":"{v}","n":1.10}}}}"#)
    };
    let update = |a: u32, b: &str, to: u32, rest: &str| {
        format!(
            r#"{{"table":"p","op":"UPDATE","data":{{"a":{to},"b":{b}{rest}}},"old_keys":{{"a":{a},"b":{b}}}}}"#
        )
    };
    copy.forge.segment(&[vec![insert(1, "2.50", "born"), insert(1, "3", "another")]]);
    copy.forge.segment(&[vec![r#"{"table":"other","op":"INSERT","data":{"id":1}}"#.to_owned()]]);
    copy.forge.segment(&[
        vec![update(1, "2.50", 1, r#","v":"changed","n":1.10"#)],
        vec![update(1, "2.50", 9, r#","v":"changed","n":12345678901234567890.10"#)],
        vec![update(9, "2.50", 9, r#","v":null"#), insert(1, "2.5", "anew")],
    ]);
    copy.forge.segment(&[
        vec![
            r#"{"table":"p","op":"DELETE","old_keys":{"a":9,"b":2.50}}"#.to_owned(),
            insert(9, "2.50", "stranger"),
        ],
        vec![r#"{"table":"p","op":"TRUNCATE"}"#.to_owned()],
    ]);
    copy
}

/// Without a database: the archive is enough.
fn history(copy: &LocalCopy, arguments: &[&str]) -> Program {
    let all = [&["history"], arguments].concat();
    Program::new("syncdata-applier", all, copy.folder())
        .env("STATE_DIRECTORY", copy.folder())
        .env("SYNCDATA_ARCHIVE_DIR", copy.archive_dir())
}

fn lines(done: &Finished) -> Vec<String> {
    let without_time = |line: &str| line.split("  ").skip(2).collect::<Vec<_>>().join("  ");
    done.stdout.lines().map(without_time).collect()
}

#[tokio::test]
async fn every_change_of_a_row_is_told_and_the_row_is_followed_to_its_new_key() {
    let copy = copy().await;
    let done = history(&copy, &["p", "1", "2.5"]).succeed().await;
    assert_eq!(
        lines(&done),
        [
            r#"INSERT  a=1  b=2.50 | a: 1, b: 2.50, v: "born", n: 1.10"#,
            r#"UPDATE  a=1  b=2.50 | v: "born" -> "changed""#,
            "UPDATE  a=1  b=2.50 | a: 1 -> 9, n: 1.10 -> 12345678901234567890.10",
            r#"UPDATE  a=9  b=2.50 | v: "changed" -> null"#,
            r#"INSERT  a=1  b=2.5 | a: 1, b: 2.5, v: "anew", n: 1.10"#,
            "DELETE  a=9  b=2.50",
            "TRUNCATE",
        ]
    );
    assert!(done.stdout.starts_with("2026-02-05T10:30:00Z  0/16B3D00  INSERT"), "{done}");
    assert!(done.stderr.contains("7 changes, in 3 segments; 1 were skipped"), "{done}");
}

#[tokio::test]
async fn programs_get_one_document_with_every_digit() {
    let copy = copy().await;
    let done = history(&copy, &["p", "1", "2.50", "--json"]).succeed().await;
    let document: Value = done.json();
    assert_eq!(document["changes"].as_array().map(Vec::len), Some(7), "{done}");
    assert_eq!((&document["segments_read"], &document["segments_skipped"]), (&3.into(), &1.into()));
    assert_eq!(
        document["changes"][1]["columns"],
        serde_json::json!({"v": {"from": "born", "to": "changed"}})
    );
    assert!(done.stdout.contains(r#""n":{"from":1.10,"to":12345678901234567890.10}"#), "{done}");
}

#[tokio::test]
async fn a_range_reads_no_more_than_it_needs_and_mistakes_are_said() {
    let copy = copy().await;
    let range = ["--from", "2026-02-05T10:30:03Z", "--to", "2026-02-05T10:30:05Z"];
    let done = history(&copy, &[&["p", "1", "2.5"], &range[..]].concat()).succeed().await;
    // What was before the range is not known: then every column that was sent is told.
    assert_eq!(
        lines(&done),
        [
            r#"UPDATE  a=1  b=2.50 | a: 1 -> 9, v: "changed", n: 12345678901234567890.10"#,
            r#"UPDATE  a=9  b=2.50 | v: "changed" -> null"#,
            r#"INSERT  a=1  b=2.5 | a: 1, b: 2.5, v: "anew", n: 1.10"#,
        ]
    );
    let nobody = history(&copy, &["p", "77", "1"]).succeed().await;
    assert!(nobody.stdout.is_empty() || nobody.stdout.contains("TRUNCATE"), "{nobody}");
    for (arguments, says) in [
        (&["p", "1"][..], "the key of p is (a, b)"),
        (&["nobody", "1"], "has no changes of nobody"),
        (&["p", "1", "2", "--from", "2026-02-06", "--to", "2026-02-05"], "--to must be later"),
    ] {
        let refused = history(&copy, arguments).run().await.expect_code(2);
        assert!(refused.stderr.contains(says), "{refused}");
    }
}

/// Its old keys are those of another index: the row is known by them all the same.
#[tokio::test]
async fn a_row_that_is_named_by_another_index_is_followed() {
    let mut copy = LocalCopy::start("CREATE TABLE t (id int PRIMARY KEY)").await;
    let columns = ["id integer not null", "u text not null", "v text"];
    copy.forge.relation_with("t", &columns, &["id"], ReplicaIdentity::Index);
    let row = |op: &str, id: u32, u: &str, v: &str, old: &str| {
        let old = if old.is_empty() { String::new() } else { format!(r#","old_keys":{{"u":"{old}"}}"#) };
        format!(r#"{{"table":"t","op":"{op}","data":{{"id":{id},"u":"{u}","v":"{v}"}}{old}}}"#)
    };
    copy.forge.segment(&[vec![row("INSERT", 7, "a", "x", ""), row("INSERT", 8, "b", "y", "")]]);
    copy.forge.segment(&[vec![row("UPDATE", 7, "a", "x2", "a"), row("UPDATE", 70, "c", "x2", "a")]]);
    copy.forge.segment(&[vec![
        r#"{"table":"t","op":"DELETE","old_keys":{"u":"b"}}"#.to_owned(),
        r#"{"table":"t","op":"DELETE","old_keys":{"u":"c"}}"#.to_owned(),
    ]]);
    let done = history(&copy, &["t", "7"]).succeed().await;
    assert_eq!(
        lines(&done),
        [
            r#"INSERT  id=7 | id: 7, u: "a", v: "x""#,
            r#"UPDATE  u="a" | v: "x" -> "x2""#,
            r#"UPDATE  u="a" | id: 7 -> 70, u: "a" -> "c""#,
            r#"DELETE  u="c""#,
        ]
    );
}

#[tokio::test]
async fn changes_that_are_lost_are_said() {
    let mut copy = copy().await;
    copy.forge.gap(&["p"]);
    copy.forge.segment(&[vec![r#"{"table":"other","op":"INSERT","data":{"id":2}}"#]]);
    let done = history(&copy, &["p", "1", "2.5"]).run().await.expect_code(1);
    assert!(done.stdout.contains("not all of it: changes of it from"), "{done}");
    let done = history(&copy, &["p", "1", "2.5", "--json"]).run().await.expect_code(1).json();
    assert!(done["lost"].as_str().is_some_and(|lost| lost.contains("segment 5")), "{done}");
    let before = history(&copy, &["p", "1", "2.5", "--to", "2026-02-05T10:30:02Z"]).run().await;
    before.expect_code(0);
}

#[tokio::test]
async fn a_record_that_is_longer_than_line_max_is_read_by_nobody_and_is_in_nobodys_way() {
    let mut copy = copy().await;
    let insert = |table: &str, id: u32, v: &str| {
        format!(r#"{{"table":"{table}","op":"INSERT","data":{{"id":{id},"v":"{v}"}}}}"#)
    };
    for table in ["long", "short"] {
        copy.server.execute(&format!("CREATE TABLE {table} (id int PRIMARY KEY, v text)")).await;
        copy.forge.relation(table, &["id integer not null", "v text"], &["id"]);
    }
    copy.forge.segment(&[vec![insert("long", 1, &"x".repeat(400 << 10)), insert("short", 1, "y")]]);
    copy.applier(&["add-tables", "long", "short"]).succeed().await;
    copy.sync(0).await;
    copy.set("SYNCDATA_LINE_MAX", "256KiB");
    let replay = |into: bool, table: &str| {
        let mut arguments = vec!["replay", "--from", "2026-01-01", "--to", "2027-01-01", "--tables", table];
        arguments.extend(if into { ["--into", "past", "--yes"].as_slice() } else { ["--yes"].as_slice() });
        copy.applier(&arguments)
    };
    for into in [true, false] {
        let refused = replay(into, "long").run().await.expect_code(2);
        assert!(refused.stderr.contains("set a larger line_max"), "{refused}");
        replay(into, "short").succeed().await;
    }
    let refused =
        history(&copy, &["long", "1"]).env("SYNCDATA_LINE_MAX", "256KiB").run().await.expect_code(2);
    assert!(refused.stderr.contains("set a larger line_max"), "{refused}");
    history(&copy, &["short", "1"]).env("SYNCDATA_LINE_MAX", "256KiB").succeed().await;
    // As it says.
    history(&copy, &["long", "1"]).env("SYNCDATA_LINE_MAX", "1MiB").succeed().await;
}
