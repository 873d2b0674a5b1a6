//! `follow`: what commits is archived at once, from the stream, and it is what polls would have archived.

use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal};
use syncdata_tests::program::Daemon;
use syncdata_tests::workload::TABLES;
use syncdata_tests::world::Plugin;
use syncdata_tests::{Prng, Workload, World, WorldOptions, cases};

use crate::{operator, reader, replay, scene};

/// A machine under load takes long for a huge transaction.
const PATIENCE: Duration = Duration::from_secs(180);

pub(crate) const FOLLOWED: &str = "the slot is followed";

/// No poll comes by itself in the time of a test.
pub(crate) fn options(plugin: Plugin) -> WorldOptions {
    WorldOptions::default()
        .plugin(plugin)
        .without_sftp()
        .archiver_setting("follow", true)
        .archiver_setting("follow_interval", "100ms")
        .archiver_setting("data_sync_freq", 3600)
}

const MARKS: &str = "CREATE TABLE marks (id int PRIMARY KEY);";

/// With tables that are there before the slot.
pub(crate) async fn world(options: WorldOptions, schema: &str) -> World {
    scene::world_with(options, &format!("{MARKS} {schema}")).await
}

pub(crate) async fn with_workload(options: WorldOptions) -> (World, Workload) {
    let world = options.start().await;
    let workload = Workload::new(7);
    workload.create_tables(&world.source).await;
    world.source.execute(MARKS).await;
    world.make_slot().await;
    workload.fill(&world.source).await;
    (world, workload)
}

/// A daemon that reads the stream.
pub(crate) async fn follower(world: &World) -> Daemon {
    let mut daemon = world.archiver(["run"]).spawn();
    daemon.says(FOLLOWED).await;
    daemon
}

/// Commits one more row, and waits until the archive has it, without asking anybody for a poll.
pub(crate) async fn carried(world: &World, n: u32) {
    world.source.execute(&format!("INSERT INTO marks VALUES ({n})")).await;
    let wanted = format!(r#""table":"marks","op":"INSERT","data":{{"id":{n}}}"#);
    let is_there = async || {
        let segments = reader::segments(world.archive_dir());
        segments.iter().rev().flat_map(|segment| &segment.lines).any(|line| line.contains(&wanted))
    };
    if !comes_to_pass(is_there).await {
        let status = operator::status(world).await;
        panic!("mark {n} is not archived: {status:#}");
    }
}

pub(crate) async fn until(what: &str, is_so: impl AsyncFnMut() -> bool) {
    assert!(comes_to_pass(is_so).await, "it does not come to pass that {what}");
}

async fn comes_to_pass(mut is_so: impl AsyncFnMut() -> bool) -> bool {
    let deadline = Instant::now() + PATIENCE;
    while !is_so().await {
        if Instant::now() > deadline {
            return false;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    true
}

pub(crate) async fn senders(world: &World) -> String {
    world.source.value("SELECT count(*)::text FROM pg_stat_replication").await
}

/// Also what was there before it began, and what comes in many small transactions while it reads.
async fn archives_all(plugin: Plugin) {
    let (world, mut workload) = with_workload(options(plugin)).await;
    workload.run(&world.source, 40).await;
    let daemon = follower(&world).await;
    let backlog = reader::segments(world.archive_dir()).len();
    assert!(backlog > 0, "a backlog is read before");
    for n in 1..=5 {
        workload.run(&world.source, 20).await;
        carried(&world, n).await;
    }
    let status = operator::status(&world).await;
    assert_eq!((&status["follow"], &status["healthy"]), (&"stream".into(), &true.into()), "{status}");
    assert_eq!(senders(&world).await, "1");
    let replayed = replay::assert_equals(world.archive_dir(), &world.source, &TABLES).await;
    assert!(replayed.transactions > 100, "{}", replayed.transactions);
    assert_eq!(operator::gaps(&world), Vec::<serde_json::Value>::new());
    assert!(!daemon.stderr().contains("the stream is left"), "{}", daemon.stderr());
    daemon.stop().await.expect_code(0);
    assert_eq!(senders(&world).await, "0");
    // The slot stands where all is archived: a poll finds nothing more.
    let before = reader::segments(world.archive_dir()).len();
    world.archiver(["run", "--once"]).succeed().await;
    assert_eq!(reader::segments(world.archive_dir()).len(), before);
}

#[tokio::test]
async fn what_commits_is_archived_at_once() {
    archives_all(Plugin::Wal2json).await;
}

#[tokio::test]
async fn what_commits_is_archived_at_once_through_pgoutput() {
    archives_all(Plugin::Pgoutput).await;
}

/// Every step of a poll, and the one that only a follower takes; the plugins take turns.
async fn killed_anywhere(plugin: Plugin, first: u64) {
    const SEEDS: u64 = 20;
    let options = options(plugin).archiver_setting("segment_max_changes", 12);
    let (world, mut workload) = with_workload(options).await;
    world.archiver(["run", "--once"]).succeed().await;
    let steps: Vec<&str> = crate::faults::FOLLOW_STEPS.to_vec();
    for seed in (first..SEEDS).step_by(2) {
        let mut random = Prng::new(seed);
        let step = steps[usize::try_from(seed).expect("a few") % steps.len()];
        // It begins to follow once.
        let visits = if step == "follow.started" { 1 } else { 3 };
        let fault = format!("{step}=kill@{}", 1 + random.below(visits));
        let daemon = world.archiver(["run"]).fault(&fault).spawn();
        // It dies of what it is given to do, sooner or later.
        let ended = tokio::spawn(daemon.ended());
        while !ended.is_finished() {
            workload.run(&world.source, 3).await;
            // On a machine under load more would come than a daemon can take before it has to begin to follow.
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        let ended = ended.await.expect("no panic");
        assert!(ended.was_killed(), "seed {seed}: {fault}: {ended}");
    }
    let daemon = follower(&world).await;
    carried(&world, 1).await;
    daemon.stop().await.expect_code(0);
    replay::assert_equals(world.archive_dir(), &world.source, &TABLES).await;
    assert_eq!(operator::gaps(&world), Vec::<serde_json::Value>::new());
}

#[tokio::test]
async fn a_follower_that_is_killed_at_any_step_loses_and_repeats_nothing() {
    for (plugin, first) in [(Plugin::Wal2json, 0), (Plugin::Pgoutput, 1)] {
        killed_anywhere(plugin, first).await;
    }
}

/// The server hears of us while it sends what takes longer than its patience, and while nothing of it is ours.
async fn huge(plugin: Plugin) {
    let options = options(plugin)
        .source(|server| server.setting("wal_sender_timeout", "2s"))
        .archiver_setting("tables", vec!["marks", "big"]);
    let tables =
        "CREATE TABLE big (id int PRIMARY KEY, v text); CREATE TABLE other (id int PRIMARY KEY, v text)";
    let world = world(options, tables).await;
    let daemon = follower(&world).await;
    carried(&world, 1).await;
    for table in ["other", "big"] {
        let insert = format!(
            "INSERT INTO {table} SELECT n, repeat(md5(n::text), 4) FROM generate_series(1, 150000) n"
        );
        world.source.execute(&insert).await;
    }
    carried(&world, 2).await;
    let log = world.source.log();
    assert!(!log.contains("replication timeout"), "{log}");
    replay::assert_equals(world.archive_dir(), &world.source, &["big"]).await;
    daemon.stop().await.expect_code(0);
}

#[tokio::test]
async fn a_huge_transaction_does_not_end_the_stream() {
    for plugin in cases([Plugin::Wal2json, Plugin::Pgoutput]) {
        huge(plugin).await;
    }
}

#[tokio::test]
async fn sighup_turns_it_on_and_off() {
    let mut world = world(options(Plugin::Wal2json).archiver_setting("follow", false), "").await;
    let mut daemon = world.archiver(["run"]).spawn();
    assert_eq!(operator::poll(&world).await.exit_code, 0);
    assert_eq!(
        (senders(&world).await, &operator::status(&world).await["follow"]),
        ("0".into(), &serde_json::Value::Null)
    );
    world.set_archiver("follow", true);
    daemon.signal(Signal::HUP);
    daemon.says(FOLLOWED).await;
    carried(&world, 1).await;
    world.set_archiver("follow", false);
    daemon.signal(Signal::HUP);
    until("nobody reads the stream", async || senders(&world).await == "0").await;
    assert_eq!(operator::poll(&world).await.exit_code, 0);
    daemon.stop().await.expect_code(0);
}

/// The server's process that sent the stream reads what it was told last after its reader has died, and moves the slot then.
#[tokio::test]
async fn a_slot_that_is_moved_by_the_sender_of_a_dead_follower_is_no_loss() {
    for plugin in [Plugin::Wal2json, Plugin::Pgoutput] {
        let gates = tempfile::tempdir().expect("a folder");
        let gate = gates.path().join("slot.before_advance");
        let world = world(options(plugin), "").await;
        world.archiver(["run", "--once"]).succeed().await;
        let mut daemon = world.archiver(["run"]).env("SYNCDATA_FAULT_GATES", gates.path()).spawn();
        daemon.says(FOLLOWED).await;
        // Before it has anything to say.
        std::fs::write(&gate, "").expect("a gate");
        carried(&world, 1).await;
        // It has what it is to say, and the sender hears nothing any more.
        let sender = world.source.value("SELECT pid::text FROM pg_stat_replication").await;
        let sender = Pid::from_raw(sender.parse().expect("a number")).expect("a process");
        rustix::process::kill_process(sender, Signal::STOP).expect("it is there");
        std::fs::remove_file(&gate).expect("a gate");
        tokio::time::sleep(Duration::from_millis(300)).await;
        daemon.signal(Signal::KILL);
        daemon.ended().await;
        let next = world.archiver(["run", "--once"]).spawn();
        tokio::time::sleep(Duration::from_millis(400)).await;
        rustix::process::kill_process(sender, Signal::CONT).expect("it is there");
        next.ended().await.expect_code(0);
        assert_eq!(operator::gaps(&world), Vec::<serde_json::Value>::new());
        world.archiver(["run", "--once"]).succeed().await;
    }
}
