//! What is said of trouble: that there is some, of which file, how old the data is, and when waiting is in vain.

use std::fs;
use std::net::TcpListener;
use std::time::{Duration, Instant};

use syncdata_tests::LocalCopy;

use super::{rename, two_tables};

#[tokio::test]
async fn a_table_that_is_set_aside_is_an_error_and_the_copy_is_as_old_as_it() {
    let mut copy = two_tables().await;
    copy.applier(&["add-tables", "users", "orders"]).succeed().await;
    let mut daemon = copy.applier(&["start"]).spawn();
    daemon.says("pass done").await;
    copy.server.execute("ALTER TABLE users ADD CHECK (name <> 'Bad')").await;
    copy.forge.set_clock("2026-02-06T10:00:00Z");
    let order = r#"{"table":"orders","op":"INSERT","data":{"id":8,"user_id":1}}"#;
    copy.forge.segment(&[vec![rename(1, "Bad"), order.to_owned()]]);
    copy.applier(&["sync"]).run().await.expect_code(1);
    let status = copy.applier(&["status"]).run().await.expect_code(1);
    assert!(status.stdout.contains("\nerrors: 1\n"), "{status}");
    assert!(status.stdout.contains("\ndata as of: 2026-02-05T10:30:01Z\n"), "{status}");
    let status = copy.applier(&["--json", "status"]).run().await.expect_code(1).json();
    assert_eq!(status["copy"]["data_as_of"], "2026-02-05T10:30:01Z");
    assert_eq!(status["errors"], 1);
    daemon.stop().await;
}

#[tokio::test]
async fn a_pass_that_fails_is_logged_with_the_file() {
    let mut copy = two_tables().await;
    copy.applier(&["add-tables", "users", "orders"]).succeed().await;
    copy.sync(0).await;
    let last = copy.forge.segment(&[vec![rename(2, "Eve")]]);
    let name =
        |path: &std::path::Path| path.file_name().and_then(|name| name.to_str()).expect("ours").to_owned();
    let noted =
        "SELECT archive_ref FROM data_sync_logs WHERE table_name = '*' ORDER BY sync_time DESC LIMIT 1";
    for damaged in [&last.file, &last.manifest] {
        let sound = fs::read(damaged).expect("forged");
        fs::write(damaged, &sound[..sound.len() - 1]).expect("ours");
        copy.sync(2).await;
        assert_eq!(copy.rows(noted).await, name(damaged));
        fs::write(damaged, &sound).expect("ours");
    }
    copy.server.execute("ALTER TABLE users ADD CHECK (name <> 'Eve')").await;
    copy.set("SYNCDATA_ON_ERROR", "stop");
    copy.sync(2).await;
    assert_eq!(copy.rows(noted).await, name(&last.file));
}

#[tokio::test]
async fn commands_that_change_tables_are_logged_and_loads_say_how_long_their_files_took() {
    let mut copy = two_tables().await;
    copy.forge.snapshot(&[("users", &["1\tAnn", "2\tBob"])]);
    copy.forge.segment(&[vec![rename(1, "Eve")]]);
    copy.applier(&["add-tables", "users,orders"]).succeed().await;
    copy.sync(0).await;
    copy.applier(&["resync", "users"]).succeed().await;
    let took =
        "SELECT transfer_ms > 0 FROM data_sync_logs WHERE archive_ref LIKE 'snapshot%' OR rows_synced > 0";
    assert!(!copy.rows(took).await.contains('f'), "{}", copy.rows(took).await);
    copy.server.execute("ALTER TABLE users ADD CHECK (name <> 'Bad')").await;
    copy.forge.segment(&[vec![rename(1, "Bad")]]);
    copy.sync(1).await;
    copy.server.execute("ALTER TABLE users DROP CONSTRAINT users_name_check").await;
    copy.applier(&["retry", "users"]).succeed().await;
    copy.applier(&["clear", "--yes"]).succeed().await;
    copy.applier(&["remove-tables", "orders"]).succeed().await;
    let logged = "SELECT archive_ref, table_name, status FROM data_sync_logs \
                  WHERE archive_ref IN ('add-tables', 'resync', 'retry', 'clear', 'remove-tables') ORDER BY 1, 2";
    assert_eq!(
        copy.rows(logged).await,
        "add-tables,orders,SUCCESS add-tables,users,SUCCESS clear,orders,SUCCESS clear,users,SUCCESS \
         remove-tables,orders,SUCCESS resync,users,SUCCESS retry,users,SUCCESS"
    );
}

/// The daemon's loads fail as a whole, again and again: whoever asked is told why, and does not wait for ever.
#[tokio::test]
async fn a_load_that_fails_again_and_again_is_a_problem_and_the_command_ends_with_it() {
    let mut copy = two_tables().await;
    let snapshot = copy.forge.snapshot(&[("users", &["1\tAnn", "2\tBob"])]);
    copy.forge.segment(&[vec![rename(1, "Eve")]]);
    copy.applier(&["add-tables", "users", "orders"]).succeed().await;
    copy.sync(0).await;
    for entry in fs::read_dir(snapshot).expect("a folder").flatten() {
        if !entry.file_name().to_string_lossy().starts_with("snapshot.manifest") {
            fs::write(entry.path(), "rotten").expect("ours");
        }
    }
    let mut daemon = copy.applier(&["start"]).spawn();
    daemon.says("pass done").await;
    let run = copy.applier(&["resync", "users"]).run().await.expect_code(2);
    assert!(run.stderr.contains("not yet: "), "{run}");
    assert!(run.stderr.contains("could not be made anew so far"), "{run}");
    let status = copy.applier(&["status"]).run().await.expect_code(1);
    assert!(status.stdout.contains("\nproblem: tables cannot be loaded: "), "{status}");
    assert!(!status.stdout.contains("\nerrors: 0\n"), "{status}");
    let logged = "SELECT DISTINCT archive_ref LIKE '%.zst' FROM data_sync_logs WHERE table_name = '*'";
    assert_eq!(copy.rows(logged).await, "t");
    daemon.stop().await;
}

#[tokio::test]
async fn add_tables_waits_until_they_are_live_with_and_without_a_daemon() {
    let mut copy = LocalCopy::start(super::USERS).await;
    copy.forge.relation("users", &["id integer not null", "name text"], &["id"]);
    copy.forge.relation("orders", &["id integer not null", "user_id integer"], &["id"]);
    copy.forge.had_rows("orders");
    copy.forge.snapshot(&[("users", &["1\tAnn", "2\tBob"])]);
    copy.forge.segment(&[vec![rename(1, "Eve")]]);
    // Nothing has its rows.
    let nothing = copy.applier(&["add-tables", "orders", "--wait"]).run().await.expect_code(2);
    assert!(nothing.stderr.contains("not possible yet: orders"), "{nothing}");
    let added = copy.applier(&["add-tables", "users", "--wait=60"]).succeed().await;
    assert_eq!(added.stdout, "added users\nusers: live\n");
    copy.applier(&["remove-tables", "users"]).succeed().await;
    let mut daemon = copy.applier(&["start"]).spawn();
    daemon.says("pass done").await;
    let added = copy.applier(&["add-tables", "users", "--wait", "--json"]).succeed().await.json();
    assert_eq!(added["added"][0], "users");
    assert_eq!(
        (&added["tables"][0]["table"], &added["tables"][0]["state"]),
        (&"users".into(), &"live".into())
    );
    // What is live is not waited for.
    copy.applier(&["add-tables", "users", "--wait"]).succeed().await;
    daemon.stop().await;
}

#[tokio::test]
async fn add_tables_that_waits_ends_with_the_first_try_that_fails() {
    let mut copy = two_tables().await;
    let snapshot = copy.forge.snapshot(&[("users", &["1\tAnn", "2\tBob"])]);
    copy.forge.segment(&[vec![rename(1, "Eve")]]);
    for entry in fs::read_dir(snapshot).expect("a folder").flatten() {
        if !entry.file_name().to_string_lossy().starts_with("snapshot.manifest") {
            fs::write(entry.path(), "rotten").expect("ours");
        }
    }
    let mut daemon = copy.applier(&["start"]).spawn();
    daemon.says("pass done").await;
    let run = copy.applier(&["add-tables", "users", "--wait=10min"]).run().await.expect_code(1);
    assert!(run.stderr.contains("the first try failed: ") && run.stdout.contains("users: "), "{run}");
    daemon.stop().await;
}

#[tokio::test]
async fn a_host_that_says_nothing_is_given_up_and_it_is_said_meanwhile() {
    let mut copy = two_tables().await;
    copy.applier(&["add-tables", "users"]).succeed().await;
    // Whoever connects waits in its queue, and is never answered.
    let silent = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let port = silent.local_addr().expect("bound").port().to_string();
    let known = copy.folder().join("known_hosts");
    fs::write(&known, "").expect("ours");
    for (name, value) in [
        ("SYNCDATA_ARCHIVE_HOST", "127.0.0.1"),
        ("SYNCDATA_ARCHIVE_PORT", &port),
        ("SYNCDATA_ARCHIVE_USER", "nobody"),
        ("SYNCDATA_ARCHIVE_KNOWN_HOSTS", known.to_str().expect("a plain name")),
    ] {
        copy.set(name, value);
    }
    let started = Instant::now();
    let run = copy.applier(&["sync"]).patience(Duration::from_secs(300)).run().await.expect_code(2);
    // 90 s are promised; a machine under load is given some more.
    assert!(started.elapsed() < Duration::from_secs(150), "{:?}: {run}", started.elapsed());
    assert!(run.stderr.contains("the archive says nothing"), "{run}");
    assert!(run.stderr.contains("the archive has said nothing for"), "{run}");
}

#[tokio::test]
async fn old_lines_go_after_log_keep_days_and_a_day_after_that_was_announced() {
    let mut copy = two_tables().await;
    copy.applier(&["add-tables", "users"]).succeed().await;
    let age = "INSERT INTO data_sync_logs (table_name, status, sync_time)
        SELECT 'old', 'SUCCESS', now() - make_interval(days => n) FROM generate_series(1, 25000) AS g(n);
        INSERT INTO sync_executions (kind, trigger, state, started_at, ended_at)
        SELECT 'replay', 'command', 'succeeded', now() - make_interval(days => n), now() - make_interval(days => n)
        FROM generate_series(1, 200) AS g(n);
        INSERT INTO data_sync_alerts (id, kind, subject, value, threshold, since, resolved_at)
        SELECT gen_random_uuid(), 'sync_lag', '*', 16, 15, now() - make_interval(days => n), now() - make_interval(days => n)
        FROM generate_series(1, 200) AS g(n);
        INSERT INTO data_sync_alerts (id, kind, subject, value, threshold, since)
        VALUES (gen_random_uuid(), 'dead_letter_queue', '*', 100, 100, now() - interval '200 days')";
    copy.server.execute(age).await;
    let kept = "SELECT count(*), (max(now() - sync_time) < interval '91 days')::text, \
        (SELECT count(*) FROM sync_executions WHERE kind = 'replay'), \
        (SELECT count(*) FROM data_sync_alerts WHERE resolved_at IS NOT NULL), \
        (SELECT count(*) FROM data_sync_alerts WHERE resolved_at IS NULL) FROM data_sync_logs WHERE table_name = 'old'";
    copy.set("SYNCDATA_LOG_KEEP_DAYS", "0");
    copy.sync(0).await;
    assert_eq!(copy.rows(kept).await, "25000,false,200,200,1");
    copy.set("SYNCDATA_LOG_KEEP_DAYS", "90");
    let said = copy.sync(0).await;
    assert!(said.contains("go from tomorrow on"), "{said}");
    assert_eq!(copy.rows(kept).await, "25000,false,200,200,1");
    let status = copy.applier(&["status"]).run().await.stdout;
    assert!(
        status.contains("\nnote: lines of data_sync_logs, sync_executions and data_sync_alerts older than 90 days go from 20"),
        "{status}"
    );
    let said = copy.sync(0).await;
    assert!(!said.contains("go from tomorrow on"), "it is announced once: {said}");
    let a_day = "UPDATE data_sync_checkpoint SET keep_announced_at = keep_announced_at - interval '1 day'";
    copy.server.execute(a_day).await;
    copy.sync(0).await;
    assert_eq!(copy.rows(kept).await, "89,true,89,89,1");
    // Fewer days are another announcement.
    copy.set("SYNCDATA_LOG_KEEP_DAYS", "7");
    assert!(copy.sync(0).await.contains("go from tomorrow on"));
    assert_eq!(copy.rows(kept).await, "89,true,89,89,1");
    copy.server.execute(a_day).await;
    // A pass that fails forgets as well.
    fs::remove_file(copy.archive_dir().join("archive.json")).expect("forged");
    copy.sync(2).await;
    assert_eq!(copy.rows(kept).await, "6,true,6,6,1");
}

/// That somebody went on without changes is known for ever, whatever is forgotten beside it.
#[tokio::test]
async fn that_a_gap_was_accepted_is_told_longer_than_log_keep_days() {
    let mut copy = two_tables().await;
    copy.applier(&["add-tables", "users", "orders"]).succeed().await;
    copy.sync(0).await;
    copy.forge.gap(&["users"]);
    copy.forge.segment(&[vec![rename(1, "Eve")]]);
    copy.sync(1).await;
    copy.applier(&["retry", "users", "--accept-gap"]).succeed().await;
    copy.set("SYNCDATA_LOG_KEEP_DAYS", "7");
    copy.server.execute("UPDATE data_sync_logs SET sync_time = sync_time - interval '400 days'").await;
    assert!(copy.sync(0).await.contains("go from tomorrow on"));
    let a_day = "UPDATE data_sync_checkpoint SET keep_announced_at = keep_announced_at - interval '1 day'";
    copy.server.execute(a_day).await;
    copy.sync(0).await;
    copy.sync(0).await;
    let old =
        "SELECT table_name, archive_ref FROM data_sync_logs WHERE sync_time < now() - interval '300 days'";
    assert_eq!(copy.rows(old).await, "users,retry --accept-gap");
    let accepted = "SELECT cardinality(accepted_gaps) FROM data_sync_table_state WHERE table_name = 'users'";
    assert_eq!(copy.rows(accepted).await, "1");
}

#[tokio::test]
async fn tables_are_named_one_by_one_or_in_lists() {
    let mut copy = two_tables().await;
    copy.server.execute("CREATE TABLE \"a,b\" (id int PRIMARY KEY)").await;
    copy.forge.relation("a,b", &["id integer not null"], &["id"]);
    copy.applier(&["add-tables", "users, orders", "\"a,b\""]).succeed().await;
    let listed = copy.applier(&["list-tables"]).succeed().await;
    assert_eq!(listed.stdout, "users\norders\na,b\n");
    copy.sync(0).await;
    copy.server
        .execute("UPDATE data_sync_table_state SET state = 'quarantined' WHERE table_name <> 'a,b'")
        .await;
    copy.applier(&["retry", "users,orders"]).run().await;
    let states = "SELECT DISTINCT state FROM data_sync_table_state WHERE table_name <> 'a,b'";
    assert_eq!(copy.rows(states).await, "live");
    copy.applier(&["resync", "users,orders"]).succeed().await;
    let bad = copy.applier(&["add-tables", "users,"]).run().await.expect_code(2);
    assert!(bad.stderr.contains("is not a list of tables"), "{bad}");
    let removed = copy.applier(&["remove-tables", "users,orders", "\"a,b\""]).succeed().await;
    assert_eq!(removed.stdout, "removed users\nremoved orders\nremoved a,b\n");
}

#[tokio::test]
async fn nan_that_arrives_as_null_is_said_of_the_columns_that_can_hold_it() {
    let mut copy = LocalCopy::start("CREATE TABLE m (id int PRIMARY KEY, v numeric, w text)").await;
    copy.forge.relation("m", &["id integer not null", "v numeric", "w text"], &["id"]);
    copy.applier(&["add-tables", "m"]).succeed().await;
    let row = |id: u32| format!(r#"{{"table":"m","op":"INSERT","data":{{"id":{id},"v":null,"w":"x"}}}}"#);
    copy.forge.segment(&[vec![row(1)]]);
    copy.sync(0).await;
    let status = copy.applier(&["status"]).run().await;
    assert!(!status.stdout.contains("NaN"), "{status}");
    copy.forge.snapshot(&[("m", &["1\t\\N\tx"])]);
    copy.forge.degraded(&["numeric-nan"]);
    copy.forge.segment(&[vec![row(2)]]);
    let said = copy.sync(0).await;
    assert!(said.contains("NaN and infinities arrive as NULL"), "{said}");
    copy.forge.segment(&[vec![row(3)]]);
    assert!(!copy.sync(0).await.contains("NaN"), "once is enough");
    let status = copy.applier(&["status"]).run().await;
    assert!(status.stdout.contains("\nwarning: m: NaN and infinities of v arrived as NULL"), "{status}");
    let status = copy.applier(&["--json", "status"]).run().await.json();
    assert_eq!(status["tables"][0]["nan_as_null"], serde_json::json!(["v"]));
    // A base copy has them, one that is older than they has not.
    copy.applier(&["resync", "m"]).succeed().await;
    let status = copy.applier(&["status"]).run().await;
    assert!(status.stdout.contains("NaN and infinities of v arrived as NULL"), "{status}");
    copy.forge.degraded(&[]);
    copy.forge.snapshot(&[("m", &["1\tNaN\tx", "2\t1\tx", "3\t1\tx"])]);
    copy.forge.segment(&[vec![row(4)]]);
    copy.applier(&["resync", "m"]).succeed().await;
    let status = copy.applier(&["status"]).run().await;
    assert!(!status.stdout.contains("NaN"), "{status}");
}

#[tokio::test]
async fn the_whitelist_of_an_earlier_tool_is_listed_before_anything_of_ours_is_there() {
    let copy = two_tables().await;
    let earlier = "CREATE TABLE tables_to_sync (id SERIAL PRIMARY KEY, table_name TEXT NOT NULL, creator TEXT DEFAULT NULL,
        created_at TIMESTAMPTZ DEFAULT now(), UNIQUE (table_name)); INSERT INTO tables_to_sync (table_name) VALUES ('users')";
    copy.server.execute(earlier).await;
    let listed = copy.applier(&["list-tables"]).succeed().await;
    assert_eq!(listed.stdout, "users\n", "{listed}");
    assert!(listed.stderr.contains("earlier tool"), "{listed}");
    assert_eq!(
        copy.rows("SELECT to_regclass('data_sync_checkpoint')").await,
        "NULL",
        "looking makes nothing"
    );
    copy.applier(&["sync"]).run().await;
    assert_eq!(copy.applier(&["list-tables"]).succeed().await.stdout, "users\n");
}
