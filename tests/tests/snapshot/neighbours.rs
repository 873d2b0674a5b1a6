//! Who else is at work: the daemon, a second snapshot, DDL.

use std::fs::File;
use std::time::{Duration, Instant};

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

/// Two tables that are read after each other, slowly: the first takes some eight seconds, and the second waits for it.
const SLOW: &str = "CREATE TABLE first (id int PRIMARY KEY, text text);
    INSERT INTO first SELECT i, repeat('x', 1000) FROM generate_series(1, 8000) i;
    CREATE TABLE later (id int PRIMARY KEY); INSERT INTO later SELECT generate_series(1, 1000);
    CREATE TABLE untouched (id int PRIMARY KEY); INSERT INTO untouched SELECT generate_series(1, 1000)";

/// A snapshot that is reading `first`, which nobody is told when it ends.
async fn slow_snapshot(world: &World) -> syncdata_tests::Daemon {
    world.archiver(["run", "--once"]).succeed().await;
    let mut snapshot = world.archiver(["snapshot", "-v", "--json", "--rate", "1MiB"]).spawn();
    snapshot.says("snapshot begun").await;
    let reads = "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'syncdata-archiver snapshot'
        AND query LIKE 'COPY%first%' AND state = 'active'";
    while world.source.value(reads).await != "1" {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    snapshot
}

fn names_left_out(taken: &serde_json::Value) -> Vec<&str> {
    let left = taken["left_out"].as_array().expect("a list");
    left.iter().map(|left| left["table"].as_str().expect("a name")).collect()
}

/// DDL that had to wait would make everybody wait who comes after it.
#[tokio::test]
async fn ddl_does_not_wait_for_the_table_that_is_read_and_the_others_are_copied() {
    let world = scene::world(SLOW).await;
    let snapshot = slow_snapshot(&world).await;
    let impatient = world.source.connect().await;
    let ddl = "SET application_name = 'migration 7'; SET lock_timeout = '5s'; ALTER TABLE first ADD COLUMN more int";
    impatient.batch_execute(ddl).await.expect("the snapshot gives way");
    // Whoever came behind the DDL has not waited either.
    assert_eq!(world.source.value("SELECT count(*) FROM first").await, "8000");
    let run = snapshot.ended().await.expect_code(1);
    for words in ["left out: first: ", "waited for its lock, and the snapshot gave way", "(migration 7)"] {
        assert!(run.stderr.contains(words), "{words:?}: {run}");
    }
    assert_eq!(names_left_out(&run.json()), ["first"], "{run}");
    let manifest = newest(world.archive_dir());
    assert_eq!(lines(world.archive_dir(), &manifest, "later").len(), 1000);
    assert_eq!(lines(world.archive_dir(), &manifest, "untouched").len(), 1000);
    assert_eq!(manifest.tables.len(), 2);
    // What the message says to do.
    let taken = scene::take_with(&world, &["--tables", "first"]).await;
    assert_eq!((taken["tables"].as_u64(), taken["rows"].as_u64()), (Some(1), Some(8000)));
}

/// An index that is built beside writers waits for every older snapshot of the database, whatever that has locked.
#[tokio::test]
async fn an_index_that_is_built_concurrently_does_not_wait_and_what_was_read_by_then_is_copied() {
    let world = scene::world(&format!(
        "CREATE TABLE a_small (id int PRIMARY KEY); INSERT INTO a_small SELECT generate_series(1, 1000); {SLOW}"
    ))
    .await;
    let snapshot = slow_snapshot(&world).await;
    let impatient = world.source.connect().await;
    let started = Instant::now();
    let index = "CREATE INDEX CONCURRENTLY beside ON a_small (id)";
    impatient.batch_execute("SET application_name = 'migration 7'").await.expect("set");
    impatient.batch_execute(index).await.expect("the snapshot gives way");
    assert!(started.elapsed() < Duration::from_secs(3), "{:?}", started.elapsed());
    let run = snapshot.ended().await.expect_code(1);
    assert_eq!(names_left_out(&run.json()), ["first", "later", "untouched"], "{run}");
    for words in ["waited for the snapshot to end, and it gave way", "(migration 7)"] {
        assert!(run.stderr.contains(words), "{words:?}: {run}");
    }
    let manifest = newest(world.archive_dir());
    assert_eq!(lines(world.archive_dir(), &manifest, "a_small").len(), 1000);
    // What the message says to do.
    let taken = scene::take_with(&world, &["--tables", "first"]).await;
    assert_eq!((taken["tables"].as_u64(), taken["rows"].as_u64()), (Some(1), Some(8000)));
}

/// A table that is read later is not locked yet. What was truncated, or written anew by ALTER TABLE, after the snapshot
/// had begun looks empty to it: such a table is left out.
#[tokio::test]
async fn ddl_on_a_table_that_is_read_later_does_not_wait_and_leaves_it_out() {
    for ddl in [
        "TRUNCATE later",
        "ALTER TABLE later ALTER id TYPE bigint",
        "ALTER TABLE later RENAME id TO number",
        "DROP TABLE later",
        "ALTER TABLE later RENAME TO other; CREATE TABLE later (id int PRIMARY KEY)",
    ] {
        let world = scene::world(SLOW).await;
        let snapshot = slow_snapshot(&world).await;
        let impatient = world.source.connect().await;
        // Nobody has to give way: the lock is there at once.
        impatient
            .batch_execute(&format!("SET lock_timeout = '200ms'; {ddl}"))
            .await
            .expect("nothing is locked");
        let run = snapshot.ended().await.expect_code(1);
        assert_eq!(names_left_out(&run.json()), ["later"], "{ddl}: {run}");
        assert!(run.stderr.contains("after the snapshot had begun"), "{ddl}: {run}");
        let manifest = newest(world.archive_dir());
        assert_eq!(lines(world.archive_dir(), &manifest, "untouched").len(), 1000, "{ddl}");
        assert_eq!(lines(world.archive_dir(), &manifest, "first").len(), 8_000, "{ddl}");
    }
}

/// A partition that comes while its table is read would be in the copy, though not in what was seen.
#[tokio::test]
async fn a_partition_that_is_attached_meanwhile_leaves_its_table_out() {
    let world = scene::world(&format!(
        "{SLOW}; CREATE TABLE parts (id int) PARTITION BY RANGE (id);
         CREATE TABLE parts_1 PARTITION OF parts FOR VALUES FROM (0) TO (10); INSERT INTO parts VALUES (1);
         CREATE TABLE parts_2 (id int)"
    ))
    .await;
    let snapshot = slow_snapshot(&world).await;
    let attach = "ALTER TABLE parts ATTACH PARTITION parts_2 FOR VALUES FROM (10) TO (20)";
    world.source.execute(attach).await;
    let run = snapshot.ended().await.expect_code(1);
    assert_eq!(names_left_out(&run.json()), ["parts"], "{run}");
    assert!(run.stderr.contains("its partitions changed"), "{run}");
}

/// With nothing but that table there is no snapshot, and the next one finds what was sent of it.
#[tokio::test]
async fn a_snapshot_of_one_table_that_gave_way_does_not_exist() {
    let world = scene::world(SLOW).await;
    world.archiver(["run", "--once"]).succeed().await;
    let mut snapshot = world.archiver(["snapshot", "-v", "--tables", "first", "--rate", "1MiB"]).spawn();
    snapshot.says("snapshot begun").await;
    let impatient = world.source.connect().await;
    impatient.batch_execute("SET lock_timeout = '5s'; TRUNCATE first").await.expect("the snapshot gives way");
    let run = snapshot.ended().await.expect_code(1);
    assert!(run.stderr.contains("left out: first: "), "{run}");
    assert!(run.stdout.contains("no snapshot"), "{run}");
    assert!(scene::manifests(world.archive_dir()).is_empty(), "{run}");
    scene::take(&world).await;
}

/// DDL that holds a table for long is waited for without a place in the queue, and then the table is left out.
#[tokio::test]
async fn ddl_that_is_under_way_is_waited_for_and_named() {
    let world = scene::world(SLOW).await;
    world.archiver(["run", "--once"]).succeed().await;
    let mut snapshot = world.archiver(["snapshot", "-v", "--rate", "1MiB"]).spawn();
    snapshot.says("snapshot begun").await;
    let migration = world.source.connect().await;
    let begin = "SET application_name = 'migration 8'; BEGIN; LOCK TABLE later IN ACCESS EXCLUSIVE MODE";
    migration.batch_execute(begin).await.expect("nothing is locked");
    snapshot.says("waiting for a TRUNCATE or DDL to end").await;
    assert!(snapshot.stderr().contains("(migration 8)"), "{}", snapshot.stderr());
    let queued = "SELECT count(*) FROM pg_locks WHERE NOT granted";
    assert_eq!(world.source.value(queued).await, "0", "a place in the queue would hold others up");
    migration.batch_execute("COMMIT").await.expect("commits");
    snapshot.ended().await.expect_code(0);
    assert_eq!(lines(world.archive_dir(), &newest(world.archive_dir()), "later").len(), 1000);
}

/// Nothing is locked but the table that is read: not even the catalog.
#[tokio::test]
async fn between_tables_a_snapshot_holds_no_lock() {
    let world = scene::world(SLOW).await;
    let snapshot = slow_snapshot(&world).await;
    let held =
        "SELECT string_agg(DISTINCT l.relation::regclass::text, ' ' ORDER BY l.relation::regclass::text)
        FROM pg_locks l JOIN pg_stat_activity a ON a.pid = l.pid
        WHERE a.application_name = 'syncdata-archiver snapshot' AND l.locktype = 'relation'
          AND a.query LIKE 'COPY%'";
    let held = world.source.value(held).await;
    assert!(
        held.split(' ').all(|relation| relation.starts_with("first") || relation.contains("toast")),
        "{held}"
    );
    snapshot.ended().await.expect_code(0);
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
