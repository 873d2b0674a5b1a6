//! What the applier answers: of a copy of two tables, one of which cannot take a change; of a server where nothing of ours
//! is yet, and again nothing.

use expect_test::{ExpectFile, expect_file};
use syncdata_tests::LocalCopy;

use crate::steady;

const TABLES: &str = "CREATE TABLE users (id int PRIMARY KEY, name text);
    CREATE TABLE orders (id int PRIMARY KEY, user_id int, CHECK (user_id < 100))";

async fn copy() -> LocalCopy {
    let mut copy = LocalCopy::with_orders(TABLES).await;
    // Forged changes are of a fixed time in the past; the copy is not to be called old for it.
    copy.set("SYNCDATA_STALE_AFTER", "3650d");
    // Each segment by itself: how many of them share a transaction depends on how fast they come.
    copy.set("SYNCDATA_APPLY_BATCH_CHANGES", "1");
    copy.forge.segment(&[
        vec![r#"{"table":"users","op":"UPDATE","data":{"id":1,"name":"Anne"},"old_keys":{"id":1}}"#],
        vec![r#"{"table":"orders","op":"INSERT","data":{"id":8,"user_id":100}}"#],
    ]);
    copy
}

/// What it prints, with the exit code: words for people come last.
async fn check(copy: &LocalCopy, arguments: &[&str], expected: ExpectFile) {
    let done = copy.applier(arguments).run().await;
    let code = done.code().expect("it ended by itself");
    let text = format!("exit code {code}\n{}--- words\n{}", done.stdout, done.stderr);
    expected.assert_eq(&steady::of_copy(copy, &text));
}

#[tokio::test]
async fn main_outputs_are_as_they_were() {
    let copy = copy().await;
    check(&copy, &["config"], expect_file!["files/config.txt"]).await;
    check(&copy, &["config", "--json"], expect_file!["files/config-json.txt"]).await;
    check(&copy, &["setup"], expect_file!["files/setup.txt"]).await;
    check(&copy, &["setup", "--json"], expect_file!["files/setup-json.txt"]).await;
    check(&copy, &["add-tables", "users", "orders"], expect_file!["files/add-tables.txt"]).await;
    check(&copy, &["sync"], expect_file!["files/sync.txt"]).await;
    check(&copy, &["status"], expect_file!["files/status.txt"]).await;
    check(&copy, &["status", "--json"], expect_file!["files/status-json.txt"]).await;
    check(&copy, &["check"], expect_file!["files/check.txt"]).await;
    check(&copy, &["check", "--json"], expect_file!["files/check-json.txt"]).await;
    check(&copy, &["list-tables"], expect_file!["files/list-tables.txt"]).await;
    check(&copy, &["list-tables", "--json"], expect_file!["files/list-tables-json.txt"]).await;
    check(&copy, &["verify"], expect_file!["files/verify.txt"]).await;
    check(&copy, &["verify", "--json"], expect_file!["files/verify-json.txt"]).await;
    let replay = ["replay", "--from", "2026-02-05", "--to", "2026-02-06", "--dry-run"];
    check(&copy, &replay, expect_file!["files/replay-dry-run.txt"]).await;
    let replay = [&replay[..], &["--json"]].concat();
    check(&copy, &replay, expect_file!["files/replay-dry-run-json.txt"]).await;
    check(&copy, &["dead-letters", "list"], expect_file!["files/dead-letters-list.txt"]).await;
    check(&copy, &["dead-letters", "list", "--json"], expect_file!["files/dead-letters-list-json.txt"]).await;
    let id = copy.applier(&["dead-letters", "list", "--json"]).succeed().await.json();
    let id = id["items"][0]["operation_id"].as_str().expect("one is open").to_owned();
    check(&copy, &["dead-letters", "show", &id], expect_file!["files/dead-letters-show.txt"]).await;
    let show = ["dead-letters", "show", &id, "--json"];
    check(&copy, &show, expect_file!["files/dead-letters-show-json.txt"]).await;
    let as_of = ["as-of", "2100-01-01", "--into", "past"];
    check(&copy, &as_of, expect_file!["files/as-of.txt"]).await;
    let as_of = ["as-of", "2100-01-01", "--into", "past_again", "--json"];
    check(&copy, &as_of, expect_file!["files/as-of-json.txt"]).await;
    check(&copy, &["history", "users", "1"], expect_file!["files/history.txt"]).await;
    check(&copy, &["consistency", "check"], expect_file!["files/consistency-check.txt"]).await;
    check(&copy, &["executions"], expect_file!["files/executions.txt"]).await;
    check(&copy, &["executions", "--json"], expect_file!["files/executions-json.txt"]).await;
    check(&copy, &["retry", "orders"], expect_file!["files/retry.txt"]).await;
    check(&copy, &["remove-tables", "orders"], expect_file!["files/remove-tables.txt"]).await;
    check(&copy, &["clear", "--yes"], expect_file!["files/clear.txt"]).await;
    check(&copy, &["uninstall"], expect_file!["files/uninstall-not-asked.txt"]).await;
    check(&copy, &["uninstall", "--yes"], expect_file!["files/uninstall.txt"]).await;
    check(&copy, &["uninstall", "--yes", "--json"], expect_file!["files/uninstall-again-json.txt"]).await;
}

#[tokio::test]
async fn a_resync_and_tables_as_they_were_are_as_they_were() {
    let mut copy = LocalCopy::with_orders(TABLES).await;
    copy.set("SYNCDATA_STALE_AFTER", "3650d");
    copy.set("SYNCDATA_APPLY_BATCH_CHANGES", "1");
    copy.applier(&["add-tables", "users", "orders"]).succeed().await;
    copy.sync(0).await;
    let time = copy.forge.now().to_string();
    copy.forge.snapshot(&[("users", &["1\tAnn", "2\tBob"]), ("orders", &["7\t1"])]);
    copy.forge.segment(&[vec![
        r#"{"table":"users","op":"UPDATE","data":{"id":1,"name":"Anne"},"old_keys":{"id":1}}"#,
    ]]);
    copy.sync(0).await;
    copy.server.execute("UPDATE users SET name = 'by hand' WHERE id = 2").await;
    check(&copy, &["resync", "users"], expect_file!["files/resync.txt"]).await;
    check(&copy, &["resync", "users", "--json"], expect_file!["files/resync-json.txt"]).await;
    check(&copy, &["resync", "nothing"], expect_file!["files/resync-unknown.txt"]).await;
    check(&copy, &["as-of", &time, "--into", "past"], expect_file!["files/as-of-made.txt"]).await;
    let as_of = ["as-of", &time, "--into", "past_again", "--json"];
    check(&copy, &as_of, expect_file!["files/as-of-made-json.txt"]).await;
}
