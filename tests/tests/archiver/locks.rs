//! One archiver per slot and spool, by locks that a killed one does not leave behind; and clocks that jump.

use std::path::Path;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use syncdata_formats::lsn::Lsn;
use syncdata_tests::workload::TABLES;
use syncdata_tests::{Workload, World, WorldOptions};

use crate::operator::{self, SLOT};
use crate::{reader, replay};

async fn world() -> (World, Workload) {
    world_with(WorldOptions::default()).await
}

async fn world_with(options: WorldOptions) -> (World, Workload) {
    let world = options.start().await;
    let workload = Workload::new(13);
    workload.create_tables(&world.source).await;
    world.source.execute(SLOT).await;
    workload.fill(&world.source).await;
    (world, workload)
}

#[tokio::test]
async fn a_second_archiver_is_refused_and_told_who_the_first_is() {
    let (world, _) = world().await;
    let daemon = world.archiver(["run"]).spawn();
    assert_eq!(operator::poll(&world).await.exit_code, 0);
    let other_host = world.folder().join("other-host");
    std::fs::create_dir_all(&other_host).expect("our folder");
    // Another runtime folder: it cannot ask the daemon, as a second service would not.
    let second = || {
        let run = world.archiver(["run", "--once"]);
        run.env("RUNTIME_DIRECTORY", &other_host).env("STATE_DIRECTORY", &other_host)
    };
    let same_spool = second().run().await.expect_code(2);
    let named = format!("another archiver (process {}) works in the spool", daemon.id());
    assert!(same_spool.stderr.contains(&named), "{same_spool}");
    let backend = world.source.value("SELECT pid FROM pg_locks WHERE locktype = 'advisory'").await;
    let same_slot = second().env("SYNCDATA_SPOOL_DIR", other_host.join("spool")).run().await.expect_code(2);
    assert!(same_slot.stderr.contains("another archiver reads the slot syncdata_slot"), "{same_slot}");
    assert!(same_slot.stderr.contains(&format!("process {backend}")), "{same_slot}");
    daemon.kill().await;
    second().succeed().await;
}

/// A server process stands still in the middle of a call of the slot.
async fn stop_in_a_peek(world: &World) -> Pid {
    let sql = "SELECT active_pid FROM pg_replication_slots WHERE active_pid IS NOT NULL";
    let client = world.source.connect().await;
    let deadline = Instant::now() + Duration::from_secs(60);
    loop {
        if let Some(row) = client.query_opt(sql, &[]).await.expect("an answer") {
            let pid = Pid::from_raw(row.get(0)).expect("a pid is positive");
            kill_process(pid, Signal::STOP).expect("ours");
            if client.query_opt(sql, &[]).await.expect("an answer").is_some() {
                return pid;
            }
            kill_process(pid, Signal::CONT).expect("ours");
        }
        assert!(Instant::now() < deadline, "nobody reads the slot");
    }
}

#[tokio::test]
async fn a_frozen_source_does_not_hold_up_sigterm() {
    let (world, _) = world().await;
    world.archiver(["run", "--once"]).succeed().await;
    world.source.execute(BACKLOG).await;
    let daemon = world.archiver(["run"]).spawn();
    let backend = stop_in_a_peek(&world).await;
    let pid_file = std::fs::read_to_string(world.source.data_folder().join("postmaster.pid"));
    let server = pid_file.expect("it runs").lines().next().and_then(|pid| pid.parse().ok());
    let server = server.and_then(Pid::from_raw).expect("a pid is positive");
    kill_process(server, Signal::STOP).expect("ours");
    let began = Instant::now();
    let stopped = daemon.stop().await;
    let took = began.elapsed();
    for pid in [server, backend] {
        kill_process(pid, Signal::CONT).expect("ours");
    }
    stopped.expect_code(0);
    assert!(took < Duration::from_secs(15), "{took:?}");
}

/// Long enough to be met in a call.
const BACKLOG: &str = "INSERT INTO journal SELECT i, '{}', 0, 'x' FROM generate_series(1000000, 1150000) i";

#[tokio::test]
async fn a_slot_that_another_session_reads_is_waited_for() {
    let (world, _) = world().await;
    world.archiver(["run", "--once"]).succeed().await;
    world.source.execute(BACKLOG).await;
    let other = world.source.connect().await;
    let peek = tokio::spawn(async move {
        other
            .batch_execute("SELECT count(*) FROM pg_logical_slot_peek_changes('syncdata_slot', NULL, NULL)")
            .await
    });
    let reader = stop_in_a_peek(&world).await;
    let mut run = world.archiver(["run", "--once"]).spawn();
    run.says("the slot is in use, trying again").await;
    kill_process(reader, Signal::CONT).expect("ours");
    peek.await.expect("no panic").expect("it was let go on");
    run.ended().await.expect_code(0);
    replay::assert_equals(world.archive_dir(), &world.source, &TABLES).await;
}

/// The slot was looked at before the wait, and stands elsewhere after it.
#[tokio::test]
async fn a_slot_that_another_session_consumes_during_a_poll_is_a_gap_at_once() {
    let (world, _) = world().await;
    world.archiver(["run", "--once"]).succeed().await;
    let archived = operator::confirmed(&world).await;
    world.source.execute(BACKLOG).await;
    let other = world.source.connect().await;
    let consuming = tokio::spawn(async move {
        other
            .batch_execute("SELECT count(*) FROM pg_logical_slot_get_changes('syncdata_slot', NULL, NULL)")
            .await
    });
    let reader = stop_in_a_peek(&world).await;
    let mut run = world.archiver(["run", "--once"]).spawn();
    run.says("the slot is in use, trying again").await;
    world.source.execute("INSERT INTO journal VALUES (-1, '{}', 0, 'kept')").await;
    kill_process(reader, Signal::CONT).expect("ours");
    consuming.await.expect("no panic").expect("it was let go on");
    run.ended().await.expect_code(1);
    assert_one_gap_behind(&world, archived);
}

#[tokio::test]
async fn a_slot_that_is_consumed_between_two_answers_of_a_poll_is_a_gap_at_once() {
    let options = WorldOptions::default().archiver_setting("poll_max_changes", 20);
    let (world, mut workload) = world_with(options).await;
    world.archiver(["run", "--once"]).succeed().await;
    let archived = operator::confirmed(&world).await;
    workload.run(&world.source, 300).await;
    let run = world.archiver(["run", "--once"]).spawn();
    while operator::confirmed(&world).await == archived {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let stranger = world.source.connect().await;
    let consumed = loop {
        run.signal(Signal::STOP);
        let consume = "SELECT count(*) FROM pg_logical_slot_get_changes('syncdata_slot', NULL, NULL)";
        // It may have been stopped in the middle of a peek.
        let consumed = stranger.query_one(consume, &[]).await;
        run.signal(Signal::CONT);
        if let Ok(row) = consumed {
            break row.get::<_, i64>(0);
        }
    };
    assert!(consumed > 0, "{}", run.stderr());
    run.ended().await.expect_code(1);
    assert_one_gap_behind(&world, archived);
}

fn assert_one_gap_behind(world: &World, archived: Lsn) {
    let gaps = operator::gaps(world);
    assert!(gaps.len() == 1 && gaps[0]["reason"].to_string().contains("another reader"), "{gaps:?}");
    let from: Lsn = gaps[0]["from"].as_str().expect("an LSN").parse().expect("an LSN");
    assert!(from >= archived, "{archived}: {gaps:?}");
}

#[tokio::test]
async fn what_a_killed_archiver_left_running_on_the_server_is_waited_for() {
    let (world, _) = world().await;
    world.archiver(["run", "--once"]).succeed().await;
    world.source.execute(BACKLOG).await;
    let first = world.archiver(["run", "--once"]).spawn();
    let orphan = stop_in_a_peek(&world).await;
    first.kill().await;
    let mut run = world.archiver(["run", "--once"]).spawn();
    run.says("another session holds the lock of the slot, trying again").await;
    kill_process(orphan, Signal::CONT).expect("ours");
    run.ended().await.expect_code(0);
    replay::assert_equals(world.archive_dir(), &world.source, &TABLES).await;
}

#[tokio::test]
async fn a_clock_that_jumps_never_takes_a_segment_to_an_earlier_day() {
    let (world, mut workload) = world().await;
    for (offset, stranger) in [("+0d", false), ("+3d", true), ("-2d", true), ("-2d", false), ("+0d", false)] {
        workload.run(&world.source, 3).await;
        if stranger {
            // A gap has no commit: its day is that of the archiver's clock.
            world.source.execute("SELECT pg_logical_slot_get_changes('syncdata_slot', NULL, NULL)").await;
        }
        let run = world.archiver(["run", "--once"]).clock(offset);
        run.run().await.expect_code(i32::from(stranger));
    }
    let manifests = reader::manifests(world.archive_dir());
    let days: Vec<_> = manifests.iter().map(|path| path.parent().and_then(Path::file_name)).collect();
    assert!(days.is_sorted(), "{days:?}");
    assert!(days.first() < days.last(), "{days:?}: the clock did jump");
    reader::segments(world.archive_dir());
}
