//! What was done, as `sync_executions` keeps it.

use std::fs;

use serde_json::Value;
use syncdata_tests::LocalCopy;

use super::{rename, two_tables};

async fn executions(copy: &LocalCopy) -> Vec<Value> {
    let listed = copy.applier(&["executions", "--json"]).succeed().await.json();
    listed["items"].as_array().expect("a list").clone()
}

/// `kind state`, oldest first.
async fn told(copy: &LocalCopy) -> Vec<String> {
    let text = |found: &Value, field: &str| found[field].as_str().expect("a text").to_owned();
    let found = executions(copy).await;
    found.iter().rev().map(|found| format!("{} {}", text(found, "kind"), text(found, "state"))).collect()
}

#[tokio::test]
async fn every_pass_load_replay_and_check_has_a_line_with_what_it_came_to() {
    let mut copy = two_tables().await;
    copy.applier(&["add-tables", "users", "orders"]).succeed().await;
    copy.sync(0).await;
    assert_eq!(told(&copy).await, ["pass succeeded"]);
    let first = executions(&copy).await.remove(0);
    assert_eq!((&first["trigger"], &first["tables"]), (&"command".into(), &Value::Null));
    assert_eq!(
        (&first["counts"]["segments"], &first["counts"]["records"]),
        (&1.into(), &3.into()),
        "{first}"
    );
    assert!(first["started_at"].as_str() <= first["ended_at"].as_str() && first["ended_at"].is_string());

    copy.forge.snapshot(&[("users", &["1\tAnn", "2\tBob"])]);
    copy.forge.set_clock("2026-02-06T10:00:00Z");
    copy.forge.segment(&[vec![rename(1, "Eve")]]);
    copy.applier(&["resync", "users"]).succeed().await;
    let found = executions(&copy).await;
    let load = found.iter().find(|found| found["kind"] == "load").expect("it was loaded");
    assert_eq!((&load["tables"][0], &load["counts"]["loaded"]), (&"users".into(), &1.into()), "{load}");
    let day = ["--from", "2026-02-06", "--to", "2126-01-01"];
    let replay = |more| ["replay"].iter().chain(&day).chain(more).copied().collect::<Vec<_>>();
    copy.applier(&replay(&["--dry-run"])).succeed().await;
    copy.applier(&replay(&["--yes"])).succeed().await;
    copy.applier(&["consistency", "check", "users"]).run().await.expect_code(2);
    let told = told(&copy).await;
    assert_eq!(told[told.len() - 2..], ["replay succeeded", "check succeeded"], "{told:?}");
    assert_eq!(
        told.iter().filter(|line| line.starts_with("replay")).count(),
        1,
        "nothing was done by the other"
    );

    // A pass that fails, with the reason.
    fs::remove_file(copy.archive_dir().join("archive.json")).expect("forged");
    copy.sync(2).await;
    let failed = executions(&copy).await.remove(0);
    assert_eq!((&failed["kind"], &failed["state"]), (&"pass".into(), &"failed".into()));
    assert!(
        failed["error"].as_str().is_some_and(|error| error.contains("archive.json is missing")),
        "{failed}"
    );

    // One by one, from page to page.
    let all = executions(&copy).await;
    let (mut paged, mut cursor) = (Vec::new(), None::<String>);
    loop {
        let mut arguments = vec!["executions", "--json", "--limit", "2"];
        if let Some(cursor) = &cursor {
            arguments.extend(["--cursor", cursor]);
        }
        let page = copy.applier(&arguments).succeed().await.json();
        paged.extend(page["items"].as_array().expect("a list").clone());
        cursor = page["next_cursor"].as_str().map(str::to_owned);
        if cursor.is_none() {
            break;
        }
    }
    assert_eq!(paged, all);
    let id = failed["id"].as_str().expect("an id");
    assert_eq!(copy.applier(&["executions", id, "--json"]).succeed().await.json(), failed);
    let strange = copy.applier(&["executions", "--cursor", "x"]).run().await.expect_code(2);
    assert!(strange.stderr.contains("is not a cursor"), "{strange}");
}

#[tokio::test]
async fn what_a_kill_broke_off_is_called_abandoned() {
    let mut copy = two_tables().await;
    copy.applier(&["add-tables", "users", "orders"]).succeed().await;
    let killed = copy.applier(&["sync"]).fault("apply.before_commit=kill").run().await;
    assert!(killed.was_killed(), "{killed}");
    copy.wait_until(
        "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'syncdata-applier'",
        |count| count == "0",
    )
    .await;
    let kept = "SELECT state, ended_at IS NULL FROM sync_executions ORDER BY started_at";
    assert_eq!(copy.rows(kept).await, "running,t", "it was noted outside of the rows' transaction");
    assert_eq!(told(&copy).await, ["pass abandoned"], "who asks is told the truth at once");
    copy.sync(0).await;
    assert_eq!(copy.rows(kept).await, "abandoned,f succeeded,f");
    // One that works is not called so.
    copy.forge.segment(&[vec![rename(1, "Eve")]]);
    let blocker = copy.server.connect().await;
    blocker.batch_execute("BEGIN; LOCK users").await.expect("locked");
    let syncing = async {
        copy.sync(0).await;
    };
    let looking = async {
        copy.wait_until("SELECT count(*) FROM pg_locks WHERE NOT granted", |count| count != "0").await;
        assert_eq!(executions(&copy).await[0]["state"], "running");
        blocker.batch_execute("ROLLBACK").await.expect("released");
    };
    tokio::join!(syncing, looking);
    assert_eq!(executions(&copy).await[0]["state"], "succeeded");
}

#[tokio::test]
async fn idle_passes_of_a_daemon_share_a_line() {
    let mut copy = two_tables().await;
    copy.applier(&["add-tables", "users", "orders"]).succeed().await;
    // Settings that are read again end the pause between two passes.
    let mut daemon = copy.applier(&["start"]).spawn();
    daemon.says("pass done").await;
    let passes = "SELECT string_agg(coalesce(idle_times::text, 'work'), ' ' ORDER BY started_at) FROM sync_executions WHERE ended_at IS NOT NULL";
    for expected in ["work", "work 1", "work 2", "work 3"] {
        copy.wait_until(passes, |found| found == expected).await;
        daemon.signal(rustix::process::Signal::HUP);
    }
    copy.wait_until(passes, |found| found == "work 4").await;
    assert_eq!(executions(&copy).await[0]["counts"]["times"], 4);
    copy.forge.segment(&[vec![rename(1, "Eve")]]);
    daemon.signal(rustix::process::Signal::HUP);
    copy.wait_until(passes, |found| found == "work 4 work").await;
    daemon.stop().await.expect_code(0);
}

#[tokio::test]
async fn a_table_of_that_name_that_is_not_ours_is_left_alone_and_both_ways_out_work() {
    let mut copy = two_tables().await;
    copy.server
        .execute("CREATE TABLE sync_executions (mine int); INSERT INTO sync_executions VALUES (7)")
        .await;
    let refused = copy.applier(&["add-tables", "users"]).run().await.expect_code(2);
    assert!(refused.stderr.contains("sync_executions that is not ours"), "{refused}");
    assert!(refused.stderr.contains("meta_schema = \"syncdata\""), "{refused}");
    assert_eq!(copy.rows("SELECT mine FROM sync_executions").await, "7");
    assert_eq!(copy.rows("SELECT to_regclass('data_sync_checkpoint')").await, "NULL", "nothing was made");
    copy.set("SYNCDATA_META_SCHEMA", "syncdata");
    copy.applier(&["add-tables", "users", "orders"]).succeed().await;
    copy.sync(0).await;
    assert_eq!(copy.rows("SELECT kind FROM syncdata.sync_executions").await, "pass");
    assert_eq!(copy.rows("SELECT mine FROM public.sync_executions").await, "7");

    // Where our tables are there already, of an earlier version.
    copy.set("SYNCDATA_META_SCHEMA", "public");
    super::dead_letters::earlier(&copy.server, 11).await;
    let refused = copy.applier(&["dead-letters", "list"]).run().await.expect_code(2);
    let remedy = "ALTER TABLE \"public\".sync_executions RENAME TO sync_executions_old";
    assert!(refused.stderr.contains(remedy), "{refused}");
    copy.server.execute(remedy).await;
    copy.applier(&["dead-letters", "list"]).succeed().await;
}
