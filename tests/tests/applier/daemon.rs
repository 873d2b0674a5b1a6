//! `start`, `stop`, and what the commands ask of a running daemon.

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use rustix::process::Signal;
use syncdata_tests::{Daemon, LocalCopy};

use super::{rename, two_tables};

/// A daemon whose first pass is done.
async fn started(copy: &LocalCopy) -> Daemon {
    let mut daemon = copy.applier(&["start"]).spawn();
    daemon.says("pass done").await;
    daemon
}

async fn two_synced_tables() -> LocalCopy {
    let copy = two_tables().await;
    copy.applier(&["add-tables", "users", "orders"]).succeed().await;
    copy
}

#[tokio::test]
async fn a_daemon_syncs_at_once_and_says_so() {
    let copy = two_synced_tables().await;
    let daemon = started(&copy).await;
    assert_eq!(copy.rows("SELECT count(*) FROM users").await, "2");
    let status = copy.applier(&["status"]).succeed().await;
    assert!(
        status.stdout.starts_with("status: active\nsync frequency: 600 seconds\nstart time: 20"),
        "{status}"
    );
    let rest = "records synced: 3\nerrors: 0\n\nsynced tables (2):\n  - users\n  - orders\n\nhealthy: yes\n";
    assert!(status.stdout.contains(rest), "{status}");
    let ended = daemon.stop().await.expect_code(0);
    assert!(ended.stderr.contains("stopped"), "{ended}");
    copy.applier(&["status"]).run().await.expect_code(1);
}

#[tokio::test]
async fn sync_and_retry_are_done_by_the_running_daemon() {
    let mut copy = two_synced_tables().await;
    let daemon = started(&copy).await;
    copy.forge.segment(&[vec![rename(1, "Eve")]]);
    let sync = copy.applier(&["sync"]).succeed().await;
    assert_eq!(sync.stdout, "applied 1 records in 1 segments to 2 tables\n");
    assert!(daemon.stderr().matches("pass done").count() >= 2, "{}", daemon.stderr());
    copy.server.execute("ALTER TABLE users ADD CHECK (name <> 'Bad')").await;
    copy.forge.segment(&[vec![rename(2, "Bad")]]);
    let quarantined = copy.applier(&["sync"]).run().await.expect_code(1);
    assert!(quarantined.stdout.contains("users: quarantined"), "{quarantined}");
    let status = copy.applier(&["status"]).run().await.expect_code(1);
    assert!(status.stdout.contains("\nhealthy: no\n"), "{status}");
    assert!(status.stdout.contains("\nproblem: users is quarantined: "), "{status}");
    copy.server.execute("ALTER TABLE users DROP CONSTRAINT users_name_check").await;
    let healed = copy.applier(&["retry", "users"]).succeed().await;
    assert!(healed.stdout.starts_with("applied 1 records in 1 segments"), "{healed}");
    assert_eq!(copy.rows("SELECT name FROM users ORDER BY id").await, "Eve Bad");
    let nothing = copy.applier(&["retry", "users"]).run().await.expect_code(2);
    assert!(nothing.stderr.contains("users is not in quarantine"), "{nothing}");
}

#[tokio::test]
async fn stop_waits_for_the_end_and_needs_no_daemon() {
    let copy = two_synced_tables().await;
    let stopped = copy.applier(&["stop"]).succeed().await;
    assert_eq!(stopped.stdout, "no daemon is running\n");
    let daemon = started(&copy).await;
    let stopped = copy.applier(&["stop"]).succeed().await;
    assert_eq!(stopped.stdout, "stopped\n");
    daemon.ended().await.expect_code(0);
    // At once again: the lock is free.
    started(&copy).await.stop().await.expect_code(0);
}

#[tokio::test]
async fn a_second_daemon_of_a_database_is_told_who_the_first_one_is() {
    let mut copy = two_synced_tables().await;
    let first = started(&copy).await;
    // Elsewhere: another folder, so that not the socket but the database is in the way.
    let elsewhere = copy.folder().join("elsewhere");
    copy.set("STATE_DIRECTORY", elsewhere.to_str().expect("a plain name"));
    let second = copy.applier(&["start"]).run().await.expect_code(2);
    let who = format!("syncdata-applier start, process {}", first.id());
    assert!(second.stderr.contains(&who), "{second}");
    assert!(second.stderr.contains("another daemon keeps this database"), "{second}");
}

/// Every UPDATE of `users` takes so long, whoever makes it.
async fn slow_down(copy: &LocalCopy, seconds: &str) {
    let sql = format!(
        "CREATE OR REPLACE FUNCTION slow() RETURNS trigger LANGUAGE plpgsql AS
         $$ BEGIN PERFORM pg_sleep({seconds}); RETURN NEW; END $$;
         CREATE TRIGGER slow AFTER UPDATE ON users FOR EACH ROW EXECUTE FUNCTION slow();
         ALTER TABLE users ENABLE ALWAYS TRIGGER slow"
    );
    copy.server.execute(&sql).await;
}

async fn until(copy: &LocalCopy, query: &str, is: &str) {
    let deadline = Instant::now() + Duration::from_secs(60);
    while copy.rows(query).await != is {
        assert!(Instant::now() < deadline, "{query} never becomes {is}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test]
async fn a_stop_in_a_long_transaction_comes_within_ten_seconds_and_loses_nothing() {
    let mut copy = two_synced_tables().await;
    copy.applier(&["sync"]).succeed().await;
    slow_down(&copy, "600").await;
    copy.forge.segment(&[vec![rename(1, "Eve")]]);
    for command in ["start", "sync"] {
        let run = copy.applier(&[command]).spawn();
        let sleeping = "SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'PgSleep'";
        until(&copy, sleeping, "1").await;
        let stopped = run.stop().await.expect_code(0);
        assert!(stopped.stderr.contains("stopping in the middle of a transaction"), "{stopped}");
        until(&copy, sleeping, "0").await;
    }
    copy.server.execute("DROP TRIGGER slow ON users").await;
    copy.applier(&["sync"]).succeed().await;
    assert_eq!(copy.rows("SELECT name FROM users ORDER BY id").await, "Eve Bob");
    let counted = "SELECT sum(records_updated) FROM data_sync_metrics WHERE period_type = 'WEEK'";
    assert_eq!(copy.rows(counted).await, "1");
}

#[tokio::test]
async fn a_stop_between_segments_ends_at_the_next_commit() {
    let mut copy = two_synced_tables().await;
    copy.applier(&["sync"]).succeed().await;
    copy.set("SYNCDATA_APPLY_BATCH_CHANGES", "1");
    slow_down(&copy, "0.5").await;
    for number in 0..60 {
        copy.forge.segment(&[vec![rename(1, &format!("name {number}"))]]);
    }
    let mut daemon = copy.applier(&["start"]).spawn();
    daemon.says("segments applied").await;
    let stopped = daemon.stop().await.expect_code(0);
    assert!(!stopped.stderr.contains("in the middle"), "{stopped}");
    let (seq, name) = ("SELECT seq FROM data_sync_checkpoint", "SELECT name FROM users WHERE id = 1");
    let seq: u32 = copy.rows(seq).await.parse().expect("a number");
    assert!((2..61).contains(&seq), "{seq}");
    assert_eq!(copy.rows(name).await, format!("name {}", seq - 2), "rows and checkpoint go together");
    copy.server.execute("DROP TRIGGER slow ON users").await;
    copy.applier(&["sync"]).succeed().await;
    assert_eq!(copy.rows(name).await, "name 59");
}

#[tokio::test]
async fn a_stop_while_segments_before_a_bad_one_are_applied_ends_at_the_next_commit() {
    let mut copy = two_synced_tables().await;
    copy.applier(&["sync"]).succeed().await;
    slow_down(&copy, "0.5").await;
    for number in 0..10 {
        copy.forge.segment(&[vec![rename(1, &format!("name {number}"))]]);
    }
    // Read together they fail, whatever the first ones are.
    let last = copy.forge.segment(&[vec![rename(1, "last")]]);
    let manifest = fs::read_to_string(&last.manifest).expect("forged");
    let lie = manifest.replace(r#""tables":{"users""#, r#""tables":{"orders""#);
    assert_ne!(manifest, lie);
    fs::write(&last.manifest, lie).expect("ours");
    fs::remove_file(copy.archive_dir().join("head.json")).expect("forged");
    let daemon = copy.applier(&["start"]).spawn();
    until(&copy, "SELECT seq > 3 FROM data_sync_checkpoint", "t").await;
    let stopped = daemon.stop().await.expect_code(0);
    assert!(!stopped.stderr.contains("in the middle"), "{stopped}");
    let seq: u32 = copy.rows("SELECT seq FROM data_sync_checkpoint").await.parse().expect("a number");
    assert!((4..11).contains(&seq), "{seq}");
}

/// What systemd hears.
#[tokio::test]
async fn the_service_manager_is_told_what_goes_on() {
    let copy = two_synced_tables().await;
    let path = copy.folder().join("notify");
    let socket = tokio::net::UnixDatagram::bind(&path).expect("the folder is ours");
    let start = copy.applier(&["start"]).env("NOTIFY_SOCKET", &path).env("WATCHDOG_USEC", "600000");
    let daemon = start.spawn();
    hears(&socket, "READY=1").await;
    hears(&socket, "STATUS=last sync 20").await;
    hears(&socket, "WATCHDOG=1").await;
    daemon.signal(Signal::HUP);
    hears(&socket, "RELOADING=1").await;
    hears(&socket, "READY=1").await;
    daemon.signal(Signal::TERM);
    hears(&socket, "STOPPING=1").await;
    daemon.ended().await.expect_code(0);
}

async fn hears(socket: &tokio::net::UnixDatagram, what: &str) {
    let mut message = [0; 4096];
    let heard = async {
        loop {
            let length = socket.recv(&mut message).await.expect("the socket is ours");
            if String::from_utf8_lossy(&message[..length]).contains(what) {
                return;
            }
        }
    };
    let patience = Duration::from_secs(60);
    tokio::time::timeout(patience, heard).await.unwrap_or_else(|_| panic!("it never says {what}"));
}

#[tokio::test]
async fn settings_are_read_again_on_sighup_or_refused() {
    let copy = two_synced_tables().await;
    let file = copy.folder().join("syncdata.toml");
    let write = |text: &str| std::fs::write(&file, text).expect("the folder is ours");
    write("data_sync_freq = 600");
    let mut daemon = copy.applier(&["start", "--config", file.to_str().expect("a plain name")]).spawn();
    daemon.says("pass done").await;
    write("data_sync_freq = 900");
    daemon.signal(Signal::HUP);
    daemon.says("settings reloaded").await;
    let status = copy.applier(&["status"]).succeed().await;
    assert!(status.stdout.contains("sync frequency: 900 seconds\n"), "{status}");
    write("data_sync_freq = 0");
    daemon.signal(Signal::HUP);
    daemon.says("settings not reloaded").await;
    let status = copy.applier(&["status"]).succeed().await;
    assert!(status.stdout.contains("sync frequency: 900 seconds\n"), "{status}");
}

#[tokio::test]
async fn a_daemon_outlives_its_server_and_goes_on_when_it_is_back() {
    let mut copy = two_synced_tables().await;
    let mut daemon = started(&copy).await;
    copy.server.crash();
    let silent = copy.applier(&["status"]).run().await.expect_code(1);
    assert!(silent.stdout.contains("problem: the local server"), "{silent}");
    // Reading the settings again begins a pass.
    daemon.signal(Signal::HUP);
    daemon.says("pass failed").await;
    let status = copy.applier(&["status"]).run().await.expect_code(1);
    assert!(!status.stdout.contains("errors: 0\n"), "{status}");
    assert!(status.stdout.contains(": connecting to PostgreSQL as "), "{status}");
    // It is tried again, and logged no more until it is over.
    let errors = || async { copy.applier(&["status", "--json"]).run().await.json()["errors"].as_u64() };
    let refused = |daemon: &Daemon| daemon.stderr().matches("pass failed, it is tried again").count();
    let (said, counted) = (refused(&daemon), errors().await);
    let deadline = Instant::now() + Duration::from_secs(60);
    while errors().await <= counted.map(|errors| errors + 1) {
        assert!(Instant::now() < deadline, "nothing is tried again");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert!(refused(&daemon) <= said + 1, "{}", daemon.stderr());
    assert!(!daemon.stderr().contains("states are not known"), "{}", daemon.stderr());
    assert!(status.stdout.contains("  - orders\n"), "the tables are remembered: {status}");
    copy.server.resume().await;
    copy.forge.segment(&[vec![rename(1, "Eve")]]);
    copy.applier(&["sync"]).succeed().await;
    daemon.says("passes succeed again").await;
    assert_eq!(copy.rows("SELECT name FROM users ORDER BY id").await, "Eve Bob");
    copy.applier(&["status"]).succeed().await;
    daemon.stop().await.expect_code(0);
}

#[tokio::test]
async fn what_a_pass_applied_before_it_failed_is_counted() {
    let mut copy = two_synced_tables().await;
    copy.set("SYNCDATA_APPLY_BATCH_CHANGES", "1");
    copy.forge.segment(&[vec![rename(1, "Eve")]]);
    let last = copy.forge.segment(&[vec![rename(2, "Eve")]]);
    let sound = fs::read(&last.file).expect("forged");
    fs::write(&last.file, &sound[..sound.len() - 1]).expect("ours");
    let mut daemon = copy.applier(&["start"]).spawn();
    daemon.says("pass failed").await;
    let status = copy.applier(&["--json", "status"]).run().await.expect_code(1).json();
    assert_eq!(status["records_synced"], 4);
    assert_eq!(copy.rows("SELECT sum(rows_synced) FROM data_sync_logs").await, "4");
    fs::write(&last.file, sound).expect("ours");
    copy.applier(&["sync"]).succeed().await;
    let status = copy.applier(&["--json", "status"]).succeed().await.json();
    assert_eq!(status["records_synced"], 5);
    daemon.stop().await;
}

#[tokio::test]
async fn whoever_watches_asks_over_http() {
    let mut copy = two_synced_tables().await;
    let address = syncdata_tests::free_address();
    copy.set("SYNCDATA_HTTP_LISTEN", &address);
    let _daemon = started(&copy).await;
    let health = get(&address, "/health");
    assert!(health.starts_with("HTTP/1.1 200 ") && health.contains(r#""healthy":true"#), "{health}");
    let metrics = get(&address, "/metrics");
    assert!(metrics.contains("\nsyncdata_applier_records_total 3\n"), "{metrics}");
    assert!(metrics.contains("syncdata_applier_table_stale{table=\"users\"} 0\n"), "{metrics}");
    copy.server.execute("UPDATE data_sync_table_state SET state = 'stale' WHERE table_name = 'users'").await;
    let health = get(&address, "/health");
    assert!(health.starts_with("HTTP/1.1 503 ") && health.contains("users is stale"), "{health}");
    let status = get(&address, "/status");
    assert!(status.contains(r#""status":"active""#), "{status}");
    let stop = ask(&address, "POST /stop HTTP/1.1\r\nHost: localhost\r\nContent-Length: 0\r\n\r\n");
    assert!(stop.starts_with("HTTP/1.1 404 "), "{stop}");
    let post = ask(&address, "POST /status HTTP/1.1\r\nHost: localhost\r\nContent-Length: 0\r\n\r\n");
    assert!(post.starts_with("HTTP/1.1 405 ") && post.contains("allow: GET, HEAD"), "{post}");
    // As a browser would that somebody has led here under a name of theirs.
    let rebound = ask(&address, "GET /status HTTP/1.1\r\nHost: evil.example\r\n\r\n");
    assert!(rebound.starts_with("HTTP/1.1 421 ") && !rebound.contains("users"), "{rebound}");
}

pub(super) fn get(address: &str, path: &str) -> String {
    ask(address, &format!("GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n"))
}

fn ask(address: &str, request: &str) -> String {
    let mut stream = TcpStream::connect(address).expect("the daemon listens");
    stream.write_all(request.as_bytes()).expect("it reads");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("it answers");
    answer
}
