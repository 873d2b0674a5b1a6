//! Who else is at work: the daemon, a second snapshot, DDL.

use std::fs::File;
use std::time::Duration;

use syncdata_formats::lsn::Lsn;
use syncdata_tests::{World, WorldOptions};

use crate::scene::{self, lines, newest, refused};

const USERS: &str =
    "CREATE TABLE users (id int PRIMARY KEY); INSERT INTO users SELECT generate_series(1, 1000)";

fn covered(world: &World) -> Lsn {
    let head = std::fs::read_to_string(world.archive_dir().join("head.json")).expect("a head");
    let head: serde_json::Value = serde_json::from_str(&head).expect("JSON");
    head["covered_lsn"].as_str().expect("text").parse().expect("an LSN")
}

#[tokio::test]
async fn a_daemon_goes_on_and_archives_the_changes_that_belong_to_the_snapshot() {
    let world = scene::world(USERS).await;
    let daemon = scene::daemon(&world).await;
    scene::take(&world).await;
    let manifest = newest(world.archive_dir());
    assert!(covered(&world) >= manifest.end_lsn, "{} {}", covered(&world), manifest.end_lsn);
    daemon.stop().await.expect_code(0);
}

/// Its changes would be in neither the copy nor the stream.
#[tokio::test]
async fn a_table_that_the_running_daemon_does_not_capture_is_refused() {
    let options = WorldOptions::default().archiver_setting("tables", vec!["users"]);
    let mut world =
        scene::world_with(options, &format!("{USERS}; CREATE TABLE later (id int PRIMARY KEY)")).await;
    let daemon = scene::daemon(&world).await;
    scene::take(&world).await;
    world.set_archiver("tables", vec!["users", "later"]);
    let run = refused(&world, &[]).await;
    assert!(run.stderr.contains("does not capture later yet"), "{run}");
    daemon.signal(rustix::process::Signal::HUP);
    // The reload polls: from then on it is captured.
    let captured = async || {
        let status = world.archiver(["status", "--json"]).run().await.json();
        status["tables"].as_array().is_some_and(|tables| tables.iter().any(|table| table == "later"))
    };
    while !captured().await {}
    scene::take(&world).await;
    assert!(newest(world.archive_dir()).tables.contains_key(&"later".parse().expect("a name")));
    daemon.stop().await.expect_code(0);
}

#[tokio::test]
async fn one_snapshot_at_a_time_on_this_host_and_on_others() {
    let world = scene::world(USERS).await;
    scene::take(&world).await;
    // Another host has a spool of its own, but the same source.
    let elsewhere = world.source.connect().await;
    let lock = "SELECT pg_advisory_lock(x'53594e53'::int, hashtext('syncdata_slot'))";
    elsewhere.batch_execute(lock).await.expect("nobody has it");
    let run = refused(&world, &[]).await;
    assert!(run.stderr.contains("somebody takes or prunes snapshots of the slot syncdata_slot"), "{run}");
    drop(elsewhere);
    let file =
        File::options().write(true).open(world.spool_dir().join("snapshot.lock")).expect("it is there");
    file.lock().expect("nobody has it");
    let run = refused(&world, &[]).await;
    assert!(
        run.stderr.contains("takes or prunes snapshots (") && run.stderr.contains("one at a time"),
        "{run}"
    );
    drop(file);
    scene::take(&world).await;
}

/// What was truncated, or written anew by ALTER TABLE, between snapshot and lock would be empty in the copy: every table
/// is locked from before the snapshot on.
#[tokio::test]
async fn ddl_waits_until_all_tables_are_copied() {
    let world = scene::world(&format!(
        "{USERS}; CREATE TABLE first (id int PRIMARY KEY, text text);
         INSERT INTO first SELECT i, repeat('x', 100) FROM generate_series(1, 20000) i"
    ))
    .await;
    world.archiver(["run", "--once"]).succeed().await;
    let mut snapshot = world.archiver(["snapshot", "-v", "--rate", "1MiB"]).spawn();
    snapshot.says("snapshot begun").await;
    let impatient = world.source.connect().await;
    for ddl in ["TRUNCATE users", "ALTER TABLE users ALTER id TYPE bigint"] {
        let refused = impatient.batch_execute(&format!("SET lock_timeout = '20ms'; {ddl}")).await;
        let code = refused.expect_err("the table is locked").code().cloned();
        assert_eq!(code.as_ref().map(|code| code.code()), Some("55P03"), "{ddl}");
    }
    snapshot.ended().await.expect_code(0);
    assert_eq!(lines(world.archive_dir(), &newest(world.archive_dir()), "users").len(), 1000);
    impatient.batch_execute("TRUNCATE users").await.expect("nobody holds it any more");
}

#[tokio::test]
async fn a_rate_is_kept() {
    let world = scene::world(
        "CREATE TABLE items (id int PRIMARY KEY, text text);
         INSERT INTO items SELECT i, repeat('x', 100) FROM generate_series(1, 20000) i",
    )
    .await;
    world.archiver(["run", "--once"]).succeed().await;
    let taken = scene::take_with(&world, &["--rate", "1MiB"]).await;
    let (bytes, seconds) = (taken["content_bytes"].as_f64(), taken["seconds"].as_f64());
    let rate = bytes.expect("a number") / seconds.expect("a number");
    assert!(rate <= 1024.0 * 1024.0, "{taken}");
    refused(&world, &["--rate", "0"]).await;
}

#[tokio::test]
async fn another_archive_source_or_slot_is_refused() {
    let mut world = scene::world_with(WorldOptions::default().without_sftp(), USERS).await;
    scene::take(&world).await;
    world.set_archiver("slot_name", "other");
    let run = refused(&world, &[]).await;
    assert!(run.stderr.contains("belongs to slot syncdata_slot"), "{run}");
    world.set_archiver("slot_name", "syncdata_slot");
    world.source.execute("SELECT pg_drop_replication_slot('syncdata_slot')").await;
    let run = refused(&world, &[]).await;
    assert!(run.stderr.contains("the replication slot syncdata_slot does not exist"), "{run}");
}

/// A snapshot leaves nothing behind in production, and does nothing there that a reader would not.
#[tokio::test]
async fn production_sees_a_read_only_session_and_no_temporary_files() {
    let options = WorldOptions::default().without_sftp().source(|source| {
        source.setting("log_temp_files", "0").setting("work_mem", "64kB").setting("log_statement", "mod")
    });
    let world = scene::world_with(
        options,
        "CREATE TABLE items (id text PRIMARY KEY, text text);
         INSERT INTO items SELECT md5(i::text), repeat('x', 50) FROM generate_series(1, 200000) i; ANALYZE items",
    )
    .await;
    world.archiver(["run", "--once"]).succeed().await;
    let before = world.source.log().len();
    let snapshot = world.archiver(["snapshot", "-v", "--rate", "4MiB"]).spawn();
    let locks =
        "SELECT string_agg(DISTINCT l.mode, ',') FROM pg_locks l JOIN pg_stat_activity a ON a.pid = l.pid
        WHERE a.application_name = 'syncdata-archiver snapshot' AND l.relation = 'items'::regclass";
    loop {
        if let Some(modes) = world.source.query(locks).await.remove(0).remove(0) {
            assert_eq!(modes, "AccessShareLock");
            break;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    snapshot.ended().await.expect_code(0);
    // The poll's own peek may use some.
    let log = world.source.log()[before..].to_owned();
    let own = log.lines().filter(|line| line.contains("temporary file") && !line.contains("peek"));
    let spilled: Vec<&str> = own.collect();
    assert!(!log.contains("COPY (SELECT \"id\"") && spilled.is_empty(), "{log}");
}
