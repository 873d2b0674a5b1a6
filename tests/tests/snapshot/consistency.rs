//! The copy and the stream fit: every row is in exactly one of the two, whatever production does meanwhile.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use syncdata_tests::{PostgresServer, StopMode, World, WorldOptions};
use tokio::task::JoinHandle;

use crate::scene::{self, assert_exactly_once, commits, files, manifests, newest, refused};

const TABLES: &str = "CREATE TABLE one (id bigserial PRIMARY KEY, session int);
    CREATE TABLE two (id bigserial PRIMARY KEY, session int)";
const NAMES: [&str; 2] = ["one", "two"];

/// Eight sessions that insert into both tables, in transactions of all kinds, until they are stopped.
struct Load {
    stop: Arc<AtomicBool>,
    sessions: Vec<JoinHandle<()>>,
}

impl Load {
    async fn start(server: &PostgresServer) -> Load {
        let stop = Arc::new(AtomicBool::new(false));
        let mut sessions = Vec::new();
        for number in 0..8 {
            let (client, stop) = (server.connect().await, stop.clone());
            sessions.push(tokio::spawn(async move {
                for round in 0_u64.. {
                    if stop.load(Ordering::Relaxed) {
                        break;
                    }
                    for sql in transaction(number, round) {
                        match client.batch_execute(&sql).await {
                            // After a crash of the server there is nobody to write to.
                            Err(_) if client.is_closed() => return,
                            done => done.unwrap_or_else(|error| panic!("{sql}: {error:?}")),
                        }
                    }
                }
            }));
        }
        Load { stop, sessions }
    }

    async fn stop(self) {
        self.stop.store(true, Ordering::Relaxed);
        for session in self.sessions {
            session.await.expect("no session panics");
        }
    }
}

/// Each statement for itself: COMMIT PREPARED bears no other beside it.
fn transaction(session: u64, round: u64) -> Vec<String> {
    let insert = |table: &str| format!("INSERT INTO {table} (session) VALUES ({session})");
    let (one, two) = (insert("one"), insert("two"));
    let statements = match (round + session) % 6 {
        0 => one,
        1 => format!("BEGIN; {one}; {two}; COMMIT"),
        2 => format!("BEGIN; {two}; SAVEPOINT s; {one}; ROLLBACK TO s; {one}; COMMIT"),
        3 => format!("SET synchronous_commit = off; {two}; RESET synchronous_commit"),
        4 => format!("BEGIN; {one}; {two}; ROLLBACK"),
        _ => format!("BEGIN; {one}; PREPARE TRANSACTION 'p{session}'; COMMIT PREPARED 'p{session}'"),
    };
    statements.split("; ").map(str::to_owned).collect()
}

async fn poll(world: &World) {
    world.archiver(["run", "--once"]).succeed().await;
}

#[tokio::test]
async fn under_a_load_of_eight_sessions_every_row_is_in_the_copy_or_in_the_stream() {
    let world = scene::world(TABLES).await;
    poll(&world).await;
    let daemon = scene::daemon(&world).await;
    let load = Load::start(&world.source).await;
    for _ in 0..5 {
        scene::take(&world).await;
    }
    load.stop().await;
    daemon.stop().await.expect_code(0);
    poll(&world).await;
    let manifests = manifests(world.archive_dir());
    assert_eq!(manifests.len(), 5);
    let between =
        |manifest: &&syncdata_formats::snapshot::SnapshotManifest| !manifest.snapshot.xip.is_empty();
    assert!(manifests.iter().any(|manifest| between(&manifest)), "no snapshot met an open transaction");
    for manifest in &manifests {
        assert_exactly_once(&world, manifest, &NAMES).await;
    }
}

/// It is in the stream from its commit record on, and nobody sees it before the standby has it.
#[tokio::test]
async fn a_commit_that_waits_for_a_standby_is_waited_for_and_comes_once() {
    let mut world = scene::world(TABLES).await;
    poll(&world).await;
    world.source.append_setting("synchronous_standby_names", "nobody");
    // A reload takes its time, and until then commits wait for nobody.
    world.source.restart().await;
    let client = world.source.connect().await;
    let waiting = tokio::spawn(async move {
        client.batch_execute("INSERT INTO one (session) VALUES (1)").await.expect("it ends some time");
    });
    until(&world, "SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'SyncRep'", "1").await;
    // What commits while nothing older waits is none of its business.
    let late = refused(&world, &["--wait", "1s"]).await;
    assert!(late.stderr.contains("have not ended within 1 s: process"), "{late}");
    assert!(files(world.archive_dir()).is_empty(), "{late}");
    let mut snapshot = world.archiver(["snapshot"]).spawn();
    snapshot.says("a snapshot begins when older transactions have ended").await;
    world.source.append_setting("synchronous_standby_names", "");
    world.source.reload();
    waiting.await.expect("it was committed");
    snapshot.ended().await.expect_code(0);
    let manifest = newest(world.archive_dir());
    assert_eq!(manifest.tables[&"one".parse().expect("a name")].rows, 1);
    assert!(commits(world.archive_dir())[0].end_lsn <= manifest.start_lsn, "it committed before");
    assert_exactly_once(&world, &manifest, &NAMES).await;
}

#[tokio::test]
async fn a_prepared_transaction_is_waited_for_and_named() {
    let world = scene::world(TABLES).await;
    let insert = "INSERT INTO one (session) VALUES (1)";
    world.source.execute(&format!("BEGIN; {insert}; PREPARE TRANSACTION 'it''s old'")).await;
    let late = refused(&world, &["--wait", "100ms"]).await;
    assert!(late.stderr.contains("prepared transaction 'it''s old' of postgres in database app"), "{late}");
    let snapshot = world.archiver(["snapshot"]).spawn();
    world.source.execute("COMMIT PREPARED 'it''s old'").await;
    snapshot.ended().await.expect_code(0);
    assert_exactly_once(&world, &newest(world.archive_dir()), &NAMES).await;
}

/// The server forgets asynchronous commits that it has shown already, and gives their numbers to others.
#[tokio::test]
async fn a_crash_of_production_during_a_snapshot_discards_it() {
    let options = WorldOptions::default().without_sftp().source(|source| {
        source.durable().setting("wal_writer_delay", "2s").setting("synchronous_commit", "off")
    });
    let mut world = scene::world_with(options, TABLES).await;
    world
        .source
        .execute(
            "CREATE TABLE ballast (id int PRIMARY KEY, text text);
             INSERT INTO ballast SELECT i, repeat('x', 100) FROM generate_series(1, 20000) i",
        )
        .await;
    poll(&world).await;
    let load = Load::start(&world.source).await;
    let mut snapshot = world.archiver(["snapshot", "-v", "--rate", "200KiB"]).spawn();
    snapshot.says("snapshot begun").await;
    world.source.crash();
    load.stop().await;
    let discarded = snapshot.ended().await.expect_code(2);
    assert!(discarded.stderr.contains("the snapshot is discarded"), "{discarded}");
    assert_eq!(manifests(world.archive_dir()).len(), 0);
    world.source.resume().await;
    let left = world.source.query("SELECT gid FROM pg_prepared_xacts").await;
    for gid in left.into_iter().flatten().flatten() {
        world.source.execute(&format!("ROLLBACK PREPARED '{gid}'")).await;
    }
    world.source.execute("INSERT INTO one (session) VALUES (1)").await;
    scene::take(&world).await;
    assert_exactly_once(&world, &newest(world.archive_dir()), &["one", "two", "ballast"]).await;
}

/// A crash between the last row and the manifest: the session that saw them is gone.
#[tokio::test]
async fn a_session_that_ended_before_the_wal_was_written_discards_the_snapshot() {
    let mut world = scene::world(TABLES).await;
    poll(&world).await;
    // Nobody takes its WAL to the disk, so that the snapshot waits for it.
    let writer = "SELECT pid FROM pg_stat_activity WHERE backend_type = 'walwriter'";
    let writer = world.source.value(writer).await.parse().ok().and_then(Pid::from_raw).expect("a process");
    kill_process(writer, Signal::STOP).expect("it is there");
    let mut snapshot = world.archiver(["snapshot", "-v"]).spawn();
    snapshot.says("waiting until production has written its WAL").await;
    world.source.crash();
    let discarded = snapshot.ended().await.expect_code(2);
    assert!(discarded.stderr.contains("the snapshot is discarded"), "{discarded}");
    assert_eq!(manifests(world.archive_dir()).len(), 0);
    world.source.resume().await;
    scene::take(&world).await;
}

#[tokio::test]
async fn transactions_that_are_open_while_the_slot_is_made_come_once() {
    let world = WorldOptions::default().without_sftp().start().await;
    world.source.execute(scene::RIGHTS).await;
    world.source.execute(TABLES).await;
    let (first, second) = (world.source.connect().await, world.source.connect().await);
    let begin = "BEGIN; INSERT INTO one (session) VALUES (1)";
    first.batch_execute(begin).await.expect("nobody is in the way");
    let setup = world.archiver(["setup", "--create-slot"]).spawn();
    let waits = "SELECT count(*) FROM pg_stat_activity
        WHERE query LIKE '%create_logical%' AND wait_event_type = 'Lock' AND pid <> pg_backend_pid()";
    until(&world, waits, "1").await;
    second.batch_execute(begin).await.expect("nobody is in the way");
    first.batch_execute("COMMIT").await.expect("nobody is in the way");
    let load = Load::start(&world.source).await;
    tokio::time::sleep(Duration::from_millis(300)).await;
    second.batch_execute("COMMIT").await.expect("nobody is in the way");
    setup.ended().await.expect_code(0);
    let taken = scene::take(&world).await;
    load.stop().await;
    poll(&world).await;
    let manifest = newest(world.archive_dir());
    assert_eq!(taken["id"], manifest.id.to_string());
    assert_exactly_once(&world, &manifest, &NAMES).await;
}

#[tokio::test]
async fn transaction_numbers_that_wrap_around_are_told_apart() {
    let mut world = WorldOptions::default().without_sftp().start().await;
    for xid in [2_000_000_000, 4_000_000_000, 4_294_965_000] {
        set_next_xid(&mut world.source, xid).await;
    }
    world.source.execute(scene::RIGHTS).await;
    world.source.execute(TABLES).await;
    world.source.execute(scene::SLOT).await;
    poll(&world).await;
    // One that is surely from before: sessions use up the numbers that are left in a moment.
    scene::take(&world).await;
    let load = Load::start(&world.source).await;
    let next = "SELECT pg_snapshot_xmax(pg_current_snapshot())::text";
    let deadline = Instant::now() + Duration::from_secs(120);
    let mut after = 0;
    while after < 2 {
        scene::take(&world).await;
        let next: u64 = world.source.value(next).await.parse().expect("a number");
        after += usize::from(next > (1 << 32));
        assert!(Instant::now() < deadline, "the numbers do not wrap around");
    }
    load.stop().await;
    poll(&world).await;
    let commits = commits(world.archive_dir());
    let (low, high) = (commits.iter().map(|c| c.xid).min(), commits.iter().map(|c| c.xid).max());
    assert!(low < Some(1_000_000) && high > Some(4_294_000_000), "{low:?} {high:?}");
    let manifests = manifests(world.archive_dir());
    assert!(manifests.iter().any(|manifest| manifest.snapshot.xmax < 1 << 32));
    assert!(manifests.iter().any(|manifest| manifest.snapshot.xmax > 1 << 32));
    for manifest in &manifests {
        assert_exactly_once(&world, manifest, &NAMES).await;
    }
}

/// A server that has given out so many numbers already.
async fn set_next_xid(server: &mut PostgresServer, xid: u64) {
    const XIDS_A_SEGMENT: u64 = 1024 * 1024;
    server.stop(StopMode::Fast);
    let data = server.data_folder();
    // The status of transactions that never were: the server wants the file.
    let segment = data.join("pg_xact").join(format!("{:04X}", xid / XIDS_A_SEGMENT));
    std::fs::write(&segment, vec![0; 256 * 1024]).expect("our folder");
    server.give(&segment);
    server.run("pg_resetwal", &["-x", &xid.to_string(), "-D", path(&data)]);
    server.resume().await;
    let postgres = server.connect_to("postgres").await;
    postgres
        .batch_execute("UPDATE pg_database SET datallowconn = true WHERE datname = 'template0'")
        .await
        .expect("a superuser may");
    let databases = server.query("SELECT datname FROM pg_database").await;
    for database in databases.into_iter().flatten().flatten() {
        let client = server.connect_to(&database).await;
        client.batch_execute("VACUUM (FREEZE)").await.expect("nobody is in the way");
    }
}

fn path(path: &Path) -> &str {
    path.to_str().expect("temporary folders have plain names")
}

/// Waits until the only value of a query is that.
async fn until(world: &World, sql: &str, value: &str) {
    let deadline = Instant::now() + Duration::from_secs(60);
    while world.source.value(sql).await != value {
        assert!(Instant::now() < deadline, "{sql} is not {value}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}
