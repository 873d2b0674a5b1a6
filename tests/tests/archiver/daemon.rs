//! The daemon as the service manager and its operator see it.

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::os::unix::net::UnixDatagram;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use rustix::process::Signal;
use serde_json::Value;
use syncdata_tests::program::Daemon;
use syncdata_tests::world::{World, WorldOptions};

use crate::commands::USERS;
use crate::operator;
use crate::reader;
use crate::scene::{self, poll};

pub(crate) async fn daemon(world: &World) -> Daemon {
    let mut daemon = world.archiver(["run"]).spawn();
    daemon.says("started").await;
    daemon
}

/// Asks until the answer fits.
pub(crate) async fn status_that(world: &World, fits: impl Fn(&Value) -> bool) -> Value {
    let deadline = Instant::now() + Duration::from_secs(60);
    loop {
        let status = world.archiver(["status", "--json"]).run().await;
        if status.stdout.starts_with('{') && fits(&status.json()) {
            return status.json();
        }
        assert!(Instant::now() < deadline, "{status}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

#[tokio::test]
async fn the_daemon_answers_commands_and_keeps_others_from_its_slot() {
    let world = scene::world(USERS).await;
    let daemon = daemon(&world).await;
    let status = status_that(&world, |status| !status["last_poll"].is_null()).await;
    assert_eq!((&status["status"], &status["healthy"]), (&"active".into(), &true.into()));
    assert_eq!(status["tables"], serde_json::json!(["users"]));
    let degraded = if world.source.installation().major() >= 18 { 0 } else { 1 };
    assert_eq!(status["degraded"].as_array().map(Vec::len), Some(degraded));
    world.archiver(["status"]).succeed().await;

    world.source.execute("INSERT INTO users VALUES (1, 'a')").await;
    assert_eq!(poll(&world).await.len(), 1, "run --once has the daemon poll");
    // Said at once, and as one document.
    for more in [&["--force", "--json"][..], &["--all", "--yes", "--json"]] {
        let dropped = world.archiver(["drop-slot"].iter().chain(more)).run().await.expect_code(2);
        assert!(!dropped.stderr.contains("WARN"), "{dropped}");
        let document = dropped.json();
        let words = |key: &str| document[key].as_str().expect("words").to_owned();
        assert!(words("error").contains("the daemon of these settings runs"), "{dropped}");
        assert!(words("hint").contains("systemctl stop syncdata-archiver"), "{dropped}");
    }

    let refused =
        world.archiver(["declare-gap", "--upto", "FFFFFFFF/0", "--reason", "x"]).run().await.expect_code(2);
    assert!(refused.stderr.contains("cannot be declared"), "{refused}");
    // What can be read is archived, not declared away.
    world.source.execute("INSERT INTO users VALUES (2, 'b')").await;
    let flush = world.source.value("SELECT pg_current_wal_flush_lsn()").await;
    let arguments = ["declare-gap", "--upto", &flush, "--reason", "a test"];
    world.archiver(arguments).run().await.expect_code(2);
    poll(&world).await;
    assert_eq!(reader::segments(world.archive_dir()).len(), 2);
    world.archiver(["status"]).succeed().await;
    daemon.stop().await.expect_code(0);
    for is_there in [true, false] {
        let dropped = world.archiver(["drop-slot", "--json"]).succeed().await;
        let expected = serde_json::json!({"slot": "syncdata_slot", "dropped": is_there, "findings": []});
        assert_eq!(dropped.json(), expected);
    }
}

/// A poll that takes long: the answer's lines are many.
async fn long_poll(world: &World) {
    world
        .source
        .execute("INSERT INTO users SELECT n, repeat('x', 200) FROM generate_series(1, 300000) n")
        .await;
}

#[tokio::test]
async fn the_service_manager_is_told_ready_status_and_stopping() {
    let world = scene::world(USERS).await;
    let socket = world.folder().join("notify");
    let manager = UnixDatagram::bind(&socket).expect("a socket");
    manager.set_read_timeout(Some(Duration::from_secs(60))).expect("a time");
    let daemon =
        world.archiver(["run"]).env("NOTIFY_SOCKET", &socket).env("WATCHDOG_USEC", "2000000").spawn();
    let hear = |what: &str| {
        let mut bytes = [0; 4096];
        loop {
            let length =
                manager.recv(&mut bytes).unwrap_or_else(|error| panic!("{what} was not said: {error}"));
            if String::from_utf8_lossy(&bytes[..length]).contains(what) {
                return;
            }
        }
    };
    hear("READY=1");
    hear("STATUS=archived up to ");
    hear("WATCHDOG=1");
    daemon.signal(Signal::HUP);
    hear("RELOADING=1");
    hear("READY=1");
    let stopped = daemon.stop().await.expect_code(0);
    assert!(stopped.stderr.contains("stopped"), "{stopped}");
    hear("STOPPING=1");
}

#[tokio::test]
async fn sigterm_in_the_middle_of_a_long_poll_ends_it_and_loses_nothing() {
    let world = scene::world(USERS).await;
    long_poll(&world).await;
    let daemon = world.archiver(["run"]).spawn();
    reads(&world, &daemon).await;
    daemon.stop().await.expect_code(0);
    all_is_archived(&world).await;
}

#[tokio::test]
async fn sigterm_before_a_declared_gap_is_told_declares_nothing() {
    let world = scene::world(USERS).await;
    long_poll(&world).await;
    let end = world.source.value("SELECT pg_current_wal_flush_lsn()").await;
    let before = operator::confirmed(&world).await;
    let arguments = ["declare-gap", "--upto", &end, "--reason", "by hand"];
    let command = world.archiver(arguments).spawn();
    reads(&world, &command).await;
    let stopped = command.stop().await;
    assert_ne!(stopped.code(), Some(0), "{stopped}");
    assert_eq!(operator::confirmed(&world).await, before);
    all_is_archived(&world).await;
    assert_eq!(operator::gaps(&world).len(), 0);
}

/// Waits until the poll has begun to read.
async fn reads(world: &World, program: &Daemon) {
    let deadline = Instant::now() + Duration::from_secs(60);
    while !fs::exists(world.spool_dir().join("segment-0.part")).expect("the spool can be looked into") {
        assert!(Instant::now() < deadline, "no segment was begun\n{}", program.stderr());
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

async fn all_is_archived(world: &World) {
    world.archiver(["run", "--once"]).patience(Duration::from_secs(300)).succeed().await;
    let segments = reader::segments(world.archive_dir());
    let records: u64 = segments.iter().map(|s| s.manifest["records"].as_u64().expect("a number")).sum();
    assert_eq!(records, 300_000);
}

#[tokio::test]
async fn sighup_takes_new_settings_and_keeps_the_old_ones_when_they_are_bad() {
    let mut world = scene::world(USERS).await;
    let mut daemon = daemon(&world).await;
    world.set_archiver("data_sync_freq", 90);
    daemon.signal(Signal::HUP);
    daemon.says("settings reloaded").await;
    let status = status_that(&world, |status| status["poll_frequency_seconds"] == 90).await;
    assert_eq!(status["healthy"], true);
    let good = fs::read(world.archiver_config()).expect("a file");
    fs::write(world.archiver_config(), [&good[..], b"\nslot_nam = 'x'\n"].concat()).expect("ours");
    daemon.signal(Signal::HUP);
    daemon.says("settings not reloaded").await;
    assert_eq!(daemon.stderr().matches("settings reloaded").count(), 1);
    fs::write(world.archiver_config(), good).expect("ours");
    status_that(&world, |status| status["poll_frequency_seconds"] == 90 && status["healthy"] == true).await;
    daemon.stop().await.expect_code(0);
}

fn get(port: u16, resource: &str) -> String {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).expect("somebody listens");
    write!(stream, "GET {resource} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n").expect("sent");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("an answer");
    answer
}

#[tokio::test]
async fn health_and_metrics_are_served_over_http() {
    let port =
        TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr()).expect("free").port();
    let options = WorldOptions::default().archiver_setting("http_listen", format!("127.0.0.1:{port}"));
    let world = scene::world_with(options, USERS).await;
    world.source.execute("INSERT INTO users VALUES (1, 'a')").await;
    let daemon = daemon(&world).await;
    status_that(&world, |status| status["archive"]["shipped_segment"] == 1).await;
    assert!(get(port, "/health").starts_with("HTTP/1.1 200"));
    assert!(get(port, "/status").contains("\"records_archived\":1"));
    let metrics = get(port, "/metrics");
    for name in ["healthy 1", "records_total 1", "shipped_segment 1", "errors_total 0"] {
        assert!(metrics.contains(&format!("\nsyncdata_archiver_{name}\n")), "{metrics}");
    }
    assert!(get(port, "/else").starts_with("HTTP/1.1 404"));
    world.source.execute("SELECT pg_drop_replication_slot('syncdata_slot')").await;
    let failed = world.archiver(["run", "--once"]).run().await.expect_code(2);
    assert!(failed.stderr.contains("does not exist"), "{failed}");
    assert!(get(port, "/health").starts_with("HTTP/1.1 503"));
    daemon.stop().await.expect_code(0);
}

#[test]
fn the_unit_files_are_sound_and_tightly_sandboxed() {
    let units = Path::new(env!("CARGO_MANIFEST_DIR")).join("../systemd");
    let folder = tempfile::tempdir().expect("a folder");
    let copy = |name: &str| {
        let text = fs::read_to_string(units.join(name)).expect("the unit file is there");
        let copy = folder.path().join(name);
        // systemd looks whether the program is there, which a machine that tests need not have installed.
        fs::write(&copy, text.replace("/usr/local/bin/syncdata-archiver", "/bin/true")).expect("a file");
        (text, copy)
    };
    for (name, command) in
        [("syncdata-archiver.service", "run"), ("syncdata-archiver-snapshot.service", "-v snapshot")]
    {
        let (text, copy) = copy(name);
        assert!(text.contains(&format!("ExecStart=/usr/local/bin/syncdata-archiver {command}\n")), "{name}");
        let speaks = text.contains("ExecStopPost=-/usr/local/bin/syncdata-archiver daemon-ended\n");
        assert_eq!(speaks, command == "run", "{name}: who starts again by itself says that it failed");
        analyze(&["security", "--offline=true", "--threshold=20"], &copy);
        analyze(&["verify", "--man=no"], &copy);
    }
    let (_, timer) = copy("syncdata-archiver-snapshot.timer");
    analyze(&["verify", "--man=no"], &timer);
}

/// Without a word about the unit.
fn analyze(arguments: &[&str], unit: &Path) {
    let output = Command::new("systemd-analyze").args(arguments).arg(unit).output();
    let output = output.expect("systemd-analyze is installed by scripts/install-deps");
    let words = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{words}\n{}", String::from_utf8_lossy(&output.stdout));
    assert!(!words.contains("syncdata-archiver"), "{words}");
}
