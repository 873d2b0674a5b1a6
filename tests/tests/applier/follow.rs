//! `follow` of both programs: what commits at production is in the copy at once, without a command.

use std::time::{Duration, Instant};

use rustix::process::Signal;
use syncdata_tests::workload::TABLES;
use syncdata_tests::world::Plugin;
use syncdata_tests::{Daemon, Prng, Workload, World, WorldOptions};

const PATIENCE: Duration = Duration::from_secs(90);

/// Steps of a pass that come again and again.
const POINTS: [&str; 7] = [
    "apply.after_commit",
    "apply.before_checkpoint",
    "apply.before_commit",
    "apply.begun",
    "apply.cache_cleaned",
    "apply.downloaded",
    "apply.verified",
];

/// No poll and no pass comes by its time in a test.
fn options() -> WorldOptions {
    let both = |options: WorldOptions, key: &str, value: &str| {
        options.archiver_setting(key, value).applier_setting(key, value)
    };
    let options = both(WorldOptions::default(), "follow_interval", "100ms");
    let options = options.archiver_setting("follow", true).applier_setting("follow", true);
    options.archiver_setting("data_sync_freq", 3600).applier_setting("data_sync_freq", 3600)
}

async fn world(options: WorldOptions) -> (World, Workload, Daemon) {
    let world = options.start().await;
    let mut workload = Workload::new(11);
    workload.create_tables(&world.source).await;
    workload.create_tables(&world.target).await;
    world.execute_on_both("CREATE TABLE marks (id int PRIMARY KEY)").await;
    world.make_slot().await;
    workload.fill(&world.source).await;
    world.archiver(["run", "--once"]).succeed().await;
    world.applier(["add-tables", "marks"].iter().chain(&TABLES)).succeed().await;
    workload.run(&world.source, 10).await;
    let mut archiver = world.archiver(["run"]).spawn();
    archiver.says("the slot is followed").await;
    (world, workload, archiver)
}

/// Commits one more row, and waits until the copy has it.
async fn carried(world: &World, id: u64) {
    world.source.execute(&format!("INSERT INTO marks VALUES ({id})")).await;
    let deadline = Instant::now() + PATIENCE;
    let seen = format!("SELECT count(*)::text FROM marks WHERE id = {id}");
    while world.target.value(&seen).await != "1" {
        assert!(Instant::now() < deadline, "mark {id} does not come");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

async fn arrives(options: WorldOptions) {
    let (world, mut workload, archiver) = world(options).await;
    let total = Workload::total(&world.source).await;
    let mut applier = world.applier(["start"]).spawn();
    applier.says("started").await;
    carried(&world, 0).await;
    for id in 1..=8 {
        workload.run(&world.source, 10).await;
        // Tables move together, whatever moment is looked at.
        assert_eq!(Workload::total(&world.target).await, total);
        carried(&world, id).await;
    }
    world.assert_same(&TABLES).await;
    let status = world.applier(["status"]).run().await;
    assert!(status.stdout.contains("follow: every 100 ms"), "{status}");
    // One line for each table and minute, and none for each pass.
    let lines =
        world.target.value("SELECT count(*)::text FROM data_sync_logs WHERE table_name = 'marks'").await;
    let minutes = "SELECT count(DISTINCT date_trunc('minute', sync_time)) + 1 FROM data_sync_logs";
    let minutes = world.target.value(&format!("SELECT ({minutes})::text")).await;
    assert!(
        lines.parse::<u64>().expect("a number") <= minutes.parse().expect("a number"),
        "{lines}, {minutes}"
    );
    let rows = "SELECT sum(rows_synced)::text FROM data_sync_logs WHERE table_name = 'marks'";
    assert_eq!(world.target.value(rows).await, "9");
    applier.stop().await.expect_code(0);
    archiver.stop().await.expect_code(0);
}

#[tokio::test]
async fn what_commits_is_in_the_copy_at_once() {
    arrives(options()).await;
}

#[tokio::test]
async fn what_commits_is_in_the_copy_at_once_through_pgoutput_and_a_folder() {
    arrives(options().plugin(Plugin::Pgoutput).without_sftp()).await;
}

#[tokio::test]
async fn an_applier_that_is_killed_while_it_follows_applies_all_once() {
    let (world, mut workload, archiver) = world(options().without_sftp()).await;
    for (seed, point) in (0..).zip(POINTS) {
        let fault = format!("{point}=kill@{}", 1 + Prng::new(seed).below(3));
        let applier = tokio::spawn(world.applier(["start"]).fault(&fault).spawn().ended());
        while !applier.is_finished() {
            workload.run(&world.source, 3).await;
        }
        let ended = applier.await.expect("no panic");
        assert!(ended.was_killed(), "{fault}: {ended}");
    }
    let applier = world.applier(["start"]).spawn();
    carried(&world, 1).await;
    world.assert_same(&TABLES).await;
    applier.stop().await.expect_code(0);
    archiver.stop().await.expect_code(0);
}

#[tokio::test]
async fn sighup_turns_following_on() {
    let (mut world, _, archiver) = world(options().applier_setting("follow", false).without_sftp()).await;
    let mut applier = world.applier(["start"]).spawn();
    applier.says("pass done").await;
    world.set_applier("follow", true);
    applier.signal(Signal::HUP);
    applier.says("settings reloaded").await;
    carried(&world, 1).await;
    world.set_applier("follow", false);
    applier.signal(Signal::HUP);
    applier.stop().await.expect_code(0);
    archiver.stop().await.expect_code(0);
}
