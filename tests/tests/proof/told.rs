//! Where proofs are told of, and what is told of tables that no proof could speak of.

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use serde_json::Value;
use syncdata_tests::world::{World, WorldOptions};

use crate::scene::{self, assert_all_equal, proofs, prove, prove_differing, status};

async fn said_of(world: &World, table: &str) -> Value {
    let (tables, _) = status(world).await;
    tables.iter().find(|found| found["table"] == table).expect("on the whitelist").clone()
}

fn get(port: u16, path: &str) -> String {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).expect("the daemon listens");
    stream.write_all(format!("GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n").as_bytes()).expect("it reads");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("it answers");
    answer
}

#[tokio::test]
async fn freshness_metrics_and_health_tell_of_the_newest_proof() {
    let port = syncdata_tests::free_port();
    let options = WorldOptions::default().applier_setting("http_listen", format!("127.0.0.1:{port}"));
    let world = scene::world(options).await;
    let fresh =
        "SELECT count(proved_at) || ' ' || count(proved_lsn) || ' ' || count(score) FROM data_sync_freshness";
    assert_eq!(world.target.value(fresh).await, "0 0 0");
    let made = prove(&world).await;
    assert_eq!(world.target.value(fresh).await, "4 4 4");
    let proved =
        "SELECT DISTINCT proved_lsn || ' ' || score FROM data_sync_freshness WHERE proved_at <= now()";
    let lsn = made["cut_lsn"].as_str().expect("said").to_owned();
    assert_eq!(world.target.value(proved).await, format!("{lsn} 100.00"));

    world.target.execute("UPDATE entries SET amount = -1 WHERE id = 7").await;
    prove_differing(&world).await;
    let of_entries =
        "SELECT score < 100 AND proved_at IS NOT NULL FROM data_sync_freshness WHERE table_name = 'entries'";
    assert_eq!(world.target.value(of_entries).await, "t");
    let mut daemon = world.applier(["start"]).spawn();
    daemon.says("pass done").await;
    let metrics = get(port, "/metrics");
    for (table, differs) in [("entries", 1), ("accounts", 0), ("log", 0), ("parts", 0)] {
        let line = format!("syncdata_applier_table_differs{{table=\"{table}\"}} {differs}\n");
        assert!(metrics.contains(&line), "{metrics}");
        let proved = format!("syncdata_applier_table_proved_timestamp_seconds{{table=\"{table}\"}} 1");
        assert!(metrics.contains(&proved), "{metrics}");
    }
    let health = get(port, "/health");
    assert!(health.starts_with("HTTP/1.1 503 ") && health.contains("entries differs"), "{health}");
    rows_are_counted(&world, "accounts").await;
    daemon.stop().await;
}

/// What a proof has counted is the number of rows until something changes them; then it is an estimate again.
async fn rows_are_counted(world: &World, table: &str) {
    let said = async || {
        let status = world.applier(["status", "--json"]).run().await.json();
        let tables = status["tables"].as_array().expect("a list").clone();
        tables.into_iter().find(|said| said["table"] == table).expect("on the whitelist")
    };
    let counted = said().await;
    let rows = world.target.value(&format!("SELECT count(*) FROM {table}")).await;
    assert_eq!(counted["rows"].to_string(), rows, "{counted}");
    assert!(counted["rows_counted_at"].is_string() && counted["changed_at"].is_string(), "{counted}");
    world.source.execute(&format!("DELETE FROM {table} WHERE id = 1")).await;
    world.archiver(["run", "--once"]).succeed().await;
    world.applier(["sync"]).run().await.expect_code(0);
    world.target.execute(&format!("ANALYZE {table}")).await;
    let estimated = said().await;
    let rows = world.target.value(&format!("SELECT count(*) FROM {table}")).await;
    assert_eq!(estimated["rows"].to_string(), rows, "{estimated}");
    assert!(estimated["rows_counted_at"].is_null(), "{estimated}");
    assert!(estimated["changed_at"].as_str() > counted["changed_at"].as_str(), "{estimated}");
}

#[tokio::test]
async fn a_check_waits_until_the_newest_proof_was_compared_and_no_longer() {
    let world = scene::world(WorldOptions::default()).await;
    let arguments = ["consistency", "check", "entries", "--wait", "--json"];
    let patience = Duration::from_secs(120);
    // There is none yet.
    let waiting = world.applier(arguments).patience(patience).spawn();
    world.archiver(["proof"]).succeed().await;
    let first = waiting.ended().await.expect_code(0).json();
    let proof_of = |document: &Value| document["checks"][0]["proof_id"].clone();

    world.target.execute("DELETE FROM entries WHERE id = 7").await;
    let without = world.applier(["consistency", "check", "entries", "--json"]).run().await.expect_code(0);
    assert_eq!(proof_of(&without.json()), proof_of(&first));
    assert!(without.json()["checks"][0]["age_seconds"].is_number(), "{}", without.stdout);
    // It was compared.
    let again = world.applier(arguments).run().await.expect_code(0).json();
    assert_eq!(proof_of(&again), proof_of(&first));

    // One is in the archive that was not.
    world.archiver(["proof"]).succeed().await;
    let waited = world.applier(arguments).patience(patience).run().await.expect_code(1).json();
    for check in waited["checks"].as_array().expect("checks") {
        assert_ne!(check["proof_id"], proof_of(&first), "{check}");
        assert_eq!(check["verdict"], "differs", "{check}");
    }

    // The copy is past it: what is said of its tables will not become more.
    world.execute_on_both("CREATE TABLE late (id int PRIMARY KEY)").await;
    world.source.execute("INSERT INTO late VALUES (1)").await;
    world.archiver(["run", "--once"]).succeed().await;
    world.applier(["remove-tables", "accounts", "entries", "log", "parts"]).succeed().await;
    world.applier(["add-tables", "late"]).succeed().await;
    world.applier(["sync"]).succeed().await;
    let late = world.applier(["consistency", "check", "--wait"]).run().await.expect_code(2);
    assert!(late.stdout.contains("late: no proof has come yet"), "{late}");
}

#[tokio::test]
async fn a_truncate_that_comes_cancels_the_digest_of_its_table_alone() {
    let world = scene::world(WorldOptions::default()).await;
    world.archiver(["proof"]).succeed().await;
    world.source.execute("TRUNCATE log").await;
    world.archiver(["run", "--once"]).succeed().await;
    // Somebody here is in the way of both, so that the digest cannot be through before the TRUNCATE comes.
    let holder = world.target.connect().await;
    holder.batch_execute("BEGIN; LOCK TABLE log IN ACCESS EXCLUSIVE MODE").await.expect("locked");
    let syncing = world.applier(["sync"]).spawn();
    let given_up = "SELECT coalesce(max(reason), '') FROM data_sync_digests WHERE table_name = 'log'";
    let deadline = Instant::now() + Duration::from_secs(60);
    while world.target.value(given_up).await.is_empty() {
        assert!(Instant::now() < deadline, "nothing is given up");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    holder.batch_execute("COMMIT").await.expect("let go");
    syncing.ended().await.expect_code(0);
    let log = said_of(&world, "log").await;
    assert_eq!((&log["verdict"], &log["detail"]), (&"not_proved".into(), &"truncated meanwhile".into()));
    assert_eq!(said_of(&world, "accounts").await["verdict"], "equal");
    assert_eq!(world.target.value("SELECT count(*) FROM log").await, "0");
    prove(&world).await;
    assert_all_equal(&world).await;
}

/// wal2json before 2.6 says NULL for NaN.
#[tokio::test]
async fn a_column_with_nan_is_not_compared_where_the_stream_cannot_say_it() {
    let world = scene::world(WorldOptions::default()).await;
    world.execute_on_both("CREATE TABLE nums (id int PRIMARY KEY, x float8, y numeric, z text)").await;
    world.source.execute("INSERT INTO nums VALUES (0, 0, 0, 'first')").await;
    world.archiver(["run", "--once"]).succeed().await;
    world.applier(["add-tables", "nums"]).succeed().await;
    world.applier(["sync"]).succeed().await;
    world
        .source
        .execute("INSERT INTO nums VALUES (1, 'NaN', 1.5, 'a'), (2, 2, 'NaN', 'b'), (3, 3, 3, 'c')")
        .await;
    prove(&world).await;
    let (nums, others) = (said_of(&world, "nums").await, said_of(&world, "accounts").await);
    assert_eq!(others["verdict"], "equal", "{others}");
    let is_degraded = world.target.value("SELECT count(*) FROM nums WHERE x = 'NaN'").await == "0";
    if !is_degraded {
        assert_eq!(nums["verdict"], "equal", "{nums}");
        return;
    }
    let detail = nums["detail"].as_str().expect("said");
    assert_eq!(nums["verdict"], "not_proved", "{nums}");
    assert!(nums["score"].is_null() && detail.contains("not compared: x, y"), "{nums}");
    assert_eq!(nums["differs"], false, "{nums}");
    world.source.execute("UPDATE nums SET x = 1, y = 2").await;
    prove(&world).await;
    assert_all_equal(&world).await;
}

#[tokio::test]
async fn every_table_of_the_whitelist_has_a_verdict_or_the_reason_why_not() {
    let world = scene::world(WorldOptions::default()).await;
    // A row that is in no stream and in no snapshot.
    world.target.execute("CREATE TABLE later (id int PRIMARY KEY)").await;
    let unlogged = "CREATE UNLOGGED TABLE later (id int PRIMARY KEY); INSERT INTO later VALUES (1)";
    world.source.execute(unlogged).await;
    world.source.execute("ALTER TABLE later SET LOGGED").await;
    world.target.execute("ALTER TABLE log DROP COLUMN place").await;
    world.source.execute("INSERT INTO log VALUES ('x', box '(1,1),(0,0)')").await;
    // The rewritten table is a gap.
    world.archiver(["run", "--once"]).run().await.expect_code(1);
    world.applier(["add-tables", "later"]).succeed().await;
    world.applier(["sync"]).run().await.expect_code(1);
    world
        .target
        .execute("UPDATE data_sync_table_state SET state = 'stale', reason = 'forgotten' WHERE table_name = 'parts'")
        .await;
    world.archiver(["proof"]).succeed().await;
    world.applier(["sync"]).run().await;
    let (tables, code) = status(&world).await;
    assert_eq!(code, Some(2), "{tables:?}");
    let whitelist = world.target.value("SELECT count(*) FROM tables_to_sync").await;
    assert_eq!(tables.len().to_string(), whitelist);
    for (table, says) in
        [("later", "pending"), ("log", "quarantined"), ("parts", "stale"), ("accounts", ""), ("entries", "")]
    {
        let found = tables.iter().find(|found| found["table"] == table).expect("on the whitelist");
        let detail = found["detail"].as_str().unwrap_or_default();
        let verdict = if says.is_empty() { "equal" } else { "not_proved" };
        assert_eq!(found["verdict"], verdict, "{found}");
        if !says.is_empty() {
            assert!(detail.contains(&format!("the table was {says}")), "{found}");
            assert!(found["score"].is_null() && found["lsn"].is_string(), "{found}");
        }
    }
    let rows =
        "SELECT count(*) FROM data_sync_consistency WHERE check_type = 'data_hash' AND table_name <> '*'";
    assert_eq!(world.target.value(rows).await, whitelist);
}

#[tokio::test]
async fn a_proof_that_comes_late_speaks_of_its_cut_and_a_newer_mark_replaces_what_waits() {
    let world = scene::world(WorldOptions::default()).await;
    let made = world.archiver(["proof", "--json"]).succeed().await.json();
    let late = proofs(&world).pop().expect("a proof");
    let aside = world.folder().join("late");
    fs::rename(&late, &aside).expect("one file system");
    world.applier(["sync"]).succeed().await;
    let (tables, code) = status(&world).await;
    assert!(code == Some(2) && tables.iter().all(|table| table["verdict"] == "waiting"), "{tables:?}");
    // The copy goes on, and is spoilt: the proof is of before.
    world.source.execute("UPDATE accounts SET balance = 0 WHERE id = 7").await;
    world.carry().await;
    world.target.execute("DELETE FROM entries WHERE id = 7").await;
    fs::rename(&aside, &late).expect("one file system");
    world.applier(["sync"]).succeed().await;
    assert_all_equal(&world).await;
    let (tables, _) = status(&world).await;
    assert!(tables.iter().all(|table| table["lsn"] == made["cut_lsn"]), "{tables:?}");

    let older = world.archiver(["proof", "--json"]).succeed().await.json();
    let newer = prove_differing(&world).await;
    assert_eq!(said_of(&world, "entries").await["verdict"], "differs");
    assert_eq!(said_of(&world, "entries").await["proof_id"], newer["id"]);
    let of_older = format!(
        "SELECT count(*) FROM data_sync_consistency WHERE proof_id = '{}'",
        older["id"].as_str().expect("an id")
    );
    assert_eq!(world.target.value(&of_older).await, "0");
}

/// Killed while it is loaded, a table is loading when the next pass comes to the mark.
#[tokio::test]
async fn a_table_that_is_loading_at_the_mark_is_not_proved_and_is_afterwards() {
    let world = scene::world(WorldOptions::default()).await;
    world.applier(["remove-tables", "entries"]).succeed().await;
    world.applier(["add-tables", "entries"]).succeed().await;
    let killed = world.applier(["sync"]).fault("load.filled=kill").run().await;
    assert!(killed.was_killed(), "{killed}");
    let state = "SELECT state FROM data_sync_table_state WHERE table_name = 'entries'";
    assert_eq!(world.target.value(state).await, "loading");
    prove(&world).await;
    let entries = said_of(&world, "entries").await;
    assert_eq!(entries["verdict"], "not_proved", "{entries}");
    let detail = entries["detail"].as_str().unwrap_or_default();
    assert!(detail.contains("the table was loading"), "{detail}");
    assert_eq!(said_of(&world, "accounts").await["verdict"], "equal");
    // The same pass has loaded it afterwards.
    assert_eq!(world.target.value(state).await, "live");
    prove(&world).await;
    assert_all_equal(&world).await;
}

#[tokio::test]
async fn a_table_with_lost_changes_is_not_proved_until_it_was_made_anew() {
    let world = scene::world(WorldOptions::default()).await;
    world.source.execute("ALTER TABLE accounts SET UNLOGGED").await;
    world.source.execute("UPDATE accounts SET balance = 7 WHERE id = 7").await;
    world.source.execute("ALTER TABLE accounts SET LOGGED").await;
    world.archiver(["run", "--once"]).run().await.expect_code(1);
    world.archiver(["proof"]).run().await;
    world.applier(["sync"]).run().await;
    let state = "SELECT state FROM data_sync_table_state WHERE table_name = 'accounts'";
    assert_eq!(world.target.value(state).await, "stale");
    let accounts = said_of(&world, "accounts").await;
    assert_eq!(accounts["verdict"], "not_proved", "{accounts}");
    let detail = accounts["detail"].as_str().unwrap_or_default();
    assert!(detail.contains("the table was stale: "), "{detail}");
    assert_eq!(said_of(&world, "entries").await["verdict"], "equal");
    world.archiver(["snapshot", "--tables", "accounts"]).succeed().await;
    world.archiver(["run", "--once"]).run().await;
    world.applier(["resync", "accounts"]).succeed().await;
    prove(&world).await;
    assert_all_equal(&world).await;
}

#[tokio::test]
async fn a_table_that_was_passed_over_is_whole_again_when_a_proof_finds_it_equal() {
    let world = scene::world(WorldOptions::default()).await;
    world.target.execute("ALTER TABLE accounts ADD CONSTRAINT good CHECK (owner <> 'Bad')").await;
    world.source.execute("INSERT INTO accounts VALUES (5001, 'Bad', 1), (5002, 'Good', 1)").await;
    world.archiver(["run", "--once"]).succeed().await;
    world.applier(["sync"]).run().await.expect_code(1);
    let listed = world.applier(["dead-letters", "list", "--json"]).succeed().await.json();
    let id = listed["items"][0]["operation_id"].as_str().expect("an id").to_owned();
    world.applier(["dead-letters", "skip", &id, "--reason", "a test row"]).succeed().await;
    let is_incomplete = async || {
        let status = world.applier(["status", "--json"]).run().await.json();
        let tables = status["tables"].as_array().expect("tables").clone();
        tables.iter().any(|table| table["table"] == "accounts" && !table["incomplete_lsn"].is_null())
    };
    // A proof that finds what is missing changes nothing of it.
    prove_differing(&world).await;
    assert!(is_incomplete().await);
    world.source.execute("DELETE FROM accounts WHERE id > 5000").await;
    world.archiver(["run", "--once"]).succeed().await;
    prove(&world).await;
    scene::assert_all_equal(&world).await;
    assert!(!is_incomplete().await);
}

/// What a proof leaves out may be what is missing.
#[tokio::test]
async fn a_table_that_was_passed_over_stays_incomplete_where_a_proof_leaves_a_column_out() {
    let world = scene::world(WorldOptions::default()).await;
    world.execute_on_both("CREATE TABLE cash (id int PRIMARY KEY, v int, m money)").await;
    world.target.execute("ALTER TABLE cash ADD CONSTRAINT small CHECK (v < 100)").await;
    world.applier(["add-tables", "cash"]).succeed().await;
    world
        .source
        .execute("INSERT INTO cash SELECT i, i, i::numeric::money FROM generate_series(1, 3) i")
        .await;
    world.archiver(["run", "--once"]).succeed().await;
    world.applier(["sync"]).succeed().await;
    let both = "BEGIN; UPDATE cash SET v = 500 WHERE id = 1; UPDATE cash SET m = '77' WHERE id = 2; COMMIT";
    world.source.execute(both).await;
    world.archiver(["run", "--once"]).succeed().await;
    world.applier(["sync"]).run().await.expect_code(1);
    let listed = world.applier(["dead-letters", "list", "--json"]).succeed().await.json();
    let id = listed["items"][0]["operation_id"].as_str().expect("an id").to_owned();
    world.applier(["dead-letters", "skip", &id, "--reason", "a test row"]).succeed().await;
    let incomplete = "SELECT count(incomplete_lsn) FROM data_sync_table_state";
    prove_differing(&world).await;
    assert_eq!(world.target.value(incomplete).await, "1");
    // Production's row is again what it is here, and the proof does not look at the other column.
    world.source.execute("UPDATE cash SET v = 1 WHERE id = 1").await;
    world.archiver(["run", "--once"]).succeed().await;
    prove(&world).await;
    assert_ne!(world.target.value("SELECT m FROM cash WHERE id = 2").await, "$77.00");
    world.applier(["sync"]).succeed().await;
    assert_eq!(world.target.value(incomplete).await, "1");
    world.archiver(["snapshot", "--tables", "cash"]).succeed().await;
    world.archiver(["run", "--once"]).succeed().await;
    world.applier(["resync", "cash"]).succeed().await;
    assert_eq!(world.target.value("SELECT m FROM cash WHERE id = 2").await, "$77.00");
    assert_eq!(world.target.value(incomplete).await, "0");
}

/// As in a logical replica of the copy: the rows of our tables are there, and their sequences begin anew.
#[tokio::test]
async fn a_newer_verdict_does_not_hide_behind_older_ones_whatever_numbers_come_next() {
    let world = scene::world(WorldOptions::default()).await;
    for _ in 0..3 {
        prove(&world).await;
        world.source.execute("UPDATE accounts SET balance = balance + 1 WHERE id = 1").await;
        world.archiver(["run", "--once"]).succeed().await;
        world.applier(["sync"]).succeed().await;
    }
    world
        .target
        .execute(
            "INSERT INTO data_sync_quarantine (table_name, seq, reason, resolved_at) VALUES ('gone', 1, 'x', now());
             ALTER TABLE data_sync_consistency ALTER ordinal RESTART; ALTER TABLE data_sync_drills ALTER id RESTART;
             ALTER SEQUENCE data_sync_quarantine_id_seq RESTART; ALTER SEQUENCE data_sync_metrics_id_seq RESTART;
             ALTER SEQUENCE tables_to_sync_id_seq RESTART; UPDATE entries SET amount = -1 WHERE id = 7",
        )
        .await;
    prove_differing(&world).await;
    assert_eq!(said_of(&world, "entries").await["verdict"], "differs");
    assert_eq!(scene::status(&world).await.1, Some(1));
    world.applier(["consistency", "repair", "entries"]).succeed().await;
    prove(&world).await;
    assert_all_equal(&world).await;
    // Rows of other tables of ours have numbers too.
    world.execute_on_both("CREATE TABLE late (id int PRIMARY KEY, v int)").await;
    world.applier(["add-tables", "late"]).succeed().await;
    world.target.execute("ALTER TABLE late ADD CONSTRAINT small CHECK (v < 100)").await;
    world.source.execute("INSERT INTO late VALUES (1, 500)").await;
    world.archiver(["run", "--once"]).succeed().await;
    world.applier(["sync"]).run().await.expect_code(1);
    assert_eq!(
        world.target.value("SELECT state FROM data_sync_table_state WHERE table_name = 'late'").await,
        "quarantined"
    );
}
