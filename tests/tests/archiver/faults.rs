//! The archiver is killed, or fails, at every step; afterwards the archive holds every change once.

use std::collections::BTreeMap;
use std::fs;

use syncdata_formats::lsn::Lsn;
use syncdata_tests::workload::TABLES;
use syncdata_tests::{Prng, Workload, World, WorldOptions};

use crate::operator;
use crate::{reader, replay};

const SEEDS: u64 = 2 * STEPS.len() as u64;

/// Every durable step of a poll. (On a backup host, what stands after `archive.` happens once per file.)
pub(crate) const STEPS: &[&str] = &[
    "archive.after_rename",
    "archive.before_rename",
    "archive.part_written",
    "execution.before_rename",
    "execution.begun",
    "read.answer_complete",
    "read.stretch_read",
    "ship.after_head",
    "ship.before_head",
    "ship.changes_there",
    "ship.manifest_there",
    "ship.marked",
    "slot.after_advance",
    "slot.before_advance",
    "spool.before_manifest",
    "spool.before_rename",
    "spool.changes_renamed",
    "spool.changes_synced",
    "spool.manifest_written",
    "spool.state_written",
];

/// Those that a daemon with `follow` comes to again and again, and its own.
pub(crate) const FOLLOW_STEPS: &[&str] = &[
    "archive.after_rename",
    "archive.part_written",
    "follow.started",
    "read.answer_complete",
    "read.stretch_read",
    "ship.after_head",
    "ship.before_head",
    "ship.changes_there",
    "ship.manifest_there",
    "ship.marked",
    "slot.after_advance",
    "slot.before_advance",
    "spool.before_manifest",
    "spool.before_rename",
    "spool.changes_renamed",
    "spool.changes_synced",
    "spool.manifest_written",
    "spool.state_written",
];

/// Segments and answers are short, so that every step comes several times in a poll.
async fn world(options: WorldOptions) -> (World, Workload) {
    let world = options
        .archiver_setting("segment_max_changes", 12)
        .archiver_setting("poll_max_changes", 40)
        .start()
        .await;
    let workload = Workload::new(7);
    workload.create_tables(&world.source).await;
    world.make_slot().await;
    workload.fill(&world.source).await;
    (world, workload)
}

/// How often each step comes in a clean poll.
async fn visits(world: &World, workload: &mut Workload) -> BTreeMap<String, u64> {
    workload.run(&world.source, 12).await;
    let trace = world.folder().join("trace");
    world.archiver(["run", "--once"]).trace(&trace).succeed().await;
    let mut visits = BTreeMap::new();
    for step in fs::read_to_string(&trace).expect("a trace").lines() {
        *visits.entry(step.to_owned()).or_insert(0) += 1;
    }
    visits
}

/// The slot must never have let go of what is not on the backup host.
async fn assert_slot_is_behind_the_archive(world: &World, seed: u64) {
    let archive = world.archive_dir();
    let end = reader::last_manifest(archive).map(|manifest| manifest["end_lsn"].clone());
    let head = archive.join("head.json");
    let covered = head.exists().then(|| reader::json(&head)["covered_lsn"].clone());
    let positions = end.into_iter().chain(covered);
    let archived: Option<Lsn> =
        positions.map(|lsn| lsn.as_str().expect("text").parse().expect("an LSN")).max();
    let confirmed = operator::confirmed(world).await;
    assert!(Some(confirmed) <= archived, "seed {seed}: confirmed {confirmed}, archived {archived:?}");
}

#[tokio::test]
async fn killed_at_any_step_nothing_is_lost_and_nothing_comes_twice() {
    let (world, mut workload) = world(WorldOptions::default().without_sftp()).await;
    let visits = visits(&world, &mut workload).await;
    let steps: Vec<&String> = visits.keys().collect();
    assert_eq!(steps, STEPS, "a step was added or went: list it");
    let mut kills = BTreeMap::new();
    for seed in 0..SEEDS {
        let mut random = Prng::new(seed);
        workload.run(&world.source, 6 + usize::try_from(random.below(6)).expect("a few")).await;
        // Every step has its turn; which of its visits, and how many runs die in a row, is chance.
        let step = STEPS[usize::try_from(seed).expect("a few") % STEPS.len()];
        for _ in 0..=random.below(2) {
            let visit = 1 + random.below(visits[step].min(2));
            let run = world.archiver(["run", "--once"]).fault(&format!("{step}=kill@{visit}")).run().await;
            assert!(run.was_killed() || run.code() == Some(0), "seed {seed}: {step}@{visit}: {run}");
            *kills.entry(step).or_insert(0) += u32::from(run.was_killed());
            assert_slot_is_behind_the_archive(&world, seed).await;
        }
        if random.below(3) == 0 {
            world.archiver(["run", "--once"]).succeed().await;
        }
    }
    world.archiver(["run", "--once"]).succeed().await;
    let replayed = replay::assert_equals(world.archive_dir(), &world.source, &TABLES).await;
    assert!(replayed.transactions > 100, "{} transactions", replayed.transactions);
    assert!(STEPS.iter().all(|step| kills.get(step) > Some(&0)), "killed at {kills:?}");
    assert_eq!(operator::gaps(&world), Vec::<serde_json::Value>::new());
}

/// Every step fails once, in a daemon that goes on: what it remembers must not differ from what is on disk.
#[tokio::test]
async fn a_daemon_goes_on_after_an_error_at_any_step() {
    let (world, mut workload) = world(WorldOptions::default()).await;
    for (number, (step, visit)) in STEPS.iter().flat_map(|step| [(step, 1), (step, 2)]).enumerate() {
        workload.run(&world.source, 5).await;
        let daemon = world.archiver(["run"]).fault(&format!("{step}=error@{visit}")).spawn();
        let first = operator::poll(&world).await;
        workload.run(&world.source, 2).await;
        let second = operator::poll(&world).await;
        let last = operator::poll(&world).await;
        let said = daemon.stderr();
        assert!(said.contains("fault injected"), "{step}@{visit}\n{said}");
        assert_eq!(last.exit_code, 0, "{step}@{visit}: {first:?}, {second:?}, {last:?}\n{said}");
        daemon.stop().await.expect_code(0);
        // All of the archive is read for it.
        if number % 19 == 0 {
            replay::assert_equals(world.archive_dir(), &world.source, &TABLES).await;
        }
    }
    replay::assert_equals(world.archive_dir(), &world.source, &TABLES).await;
}
