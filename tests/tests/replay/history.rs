//! `history`: every change of one row, read from the archive alone.

use serde_json::Value;
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
