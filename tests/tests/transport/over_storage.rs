//! Both programs over object storage: all that an archive is used for, and what stops or kills them at it.

use std::collections::BTreeMap;
use std::fs;
use std::net::SocketAddr;

use serde_json::{Value, json};
use syncdata_formats::lsn::Lsn;
use syncdata_tests::store::{Place, Who};
use syncdata_tests::store_proxy::{StoreProxy, Trick};
use syncdata_tests::workload::TABLES;
use syncdata_tests::{Prng, Workload, World, WorldOptions};

/// The day of what was archived is over then.
const LATER: &str = "+2d";

fn store() -> SocketAddr {
    Place::new().address()
}

fn options(address: SocketAddr) -> WorldOptions {
    WorldOptions::default().on_storage(address).archiver_setting("segment_max_changes", 12)
}

/// Tables of a bank on both sides, and a slot.
async fn world(options: WorldOptions) -> (World, Workload) {
    let world = options.start().await;
    let workload = Workload::new(7);
    workload.create_tables(&world.source).await;
    workload.create_tables(&world.target).await;
    world.make_slot().await;
    workload.fill(&world.source).await;
    (world, workload)
}

async fn assert_sound(world: &World) {
    for program in [world.archiver(["verify", "--json"]), world.applier(["verify", "--json"])] {
        let report = program.run().await.expect_code(0).json();
        assert_eq!(report["problems"], json!([]), "{report}");
    }
}

async fn assert_equal_by_proof(world: &World) {
    world.archiver(["proof"]).succeed().await;
    world.applier(["sync"]).succeed().await;
    let status = world.applier(["consistency", "status", "--json"]).succeed().await.json();
    for table in status["tables"].as_array().expect("tables") {
        assert_eq!(table["verdict"], "equal", "{table}");
    }
}

fn names_in<'a>(names: &'a [String], folder: &str) -> Vec<&'a String> {
    names.iter().filter(|name| name.starts_with(folder)).collect()
}

#[tokio::test]
async fn all_that_an_archive_is_for_works_in_a_bucket() {
    let (mut world, mut workload) = world(options(store()).archiver_setting("keep_singles", 0)).await;
    let checked = world.archiver(["check"]).run().await;
    assert!(checked.stdout.contains("empty: the first poll founds the archive"), "{checked}");
    world.archiver(["run", "--once"]).succeed().await;
    world.archiver(["snapshot"]).succeed().await;
    workload.run(&world.source, 30).await;
    world.archiver(["run", "--once"]).succeed().await;
    world.applier(["add-tables"].iter().chain(&TABLES)).succeed().await;
    world.applier(["sync"]).succeed().await;
    world.assert_same(&TABLES).await;
    workload.run(&world.source, 30).await;
    world.carry().await;
    world.assert_same(&TABLES).await;
    assert_equal_by_proof(&world).await;
    assert_sound(&world).await;

    // What both say of it, and of their keys nothing.
    let checked = world.archiver(["check"]).run().await;
    assert!(checked.stdout.contains(&world.place().url()), "{checked}");
    assert!(checked.stdout.contains("none is written over"), "{checked}");
    let status = world.applier(["status"]).run().await;
    let config = world.applier(["config"]).succeed().await;
    assert!(config.stdout.contains(&world.place().url()), "{config}");
    for said in [&checked, &status, &config] {
        assert!(!said.to_string().contains("canary"), "{said}");
    }

    // The day is over: one tar has its segments, which leave; the clock of the store is another one then.
    let before = world.place().names();
    assert!(names_in(&before, "segments/").len() > 10, "{before:?}");
    let pruned = world.archiver(["prune"]).clock(LATER).run().await.expect_code(0);
    assert!(pruned.stderr.contains("requests are signed by the store's"), "{pruned}");
    let after = world.place().names();
    assert_eq!(names_in(&after, "segments/"), Vec::<&String>::new());
    assert!(after.iter().any(|name| name.ends_with(".tar")), "{after:?}");
    assert_sound(&world).await;
    // A reader that begins now has nothing else, and one that goes on finds its place.
    workload.run(&world.source, 5).await;
    world.carry().await;
    world.assert_same(&TABLES).await;
    let table = TABLES[0];
    world.applier(["resync", table]).succeed().await;
    world.applier(["as-of", "2999-01-01", "--into", "past"]).run().await;
    world.assert_same(&TABLES).await;

    // And the floor is raised, after a newer base.
    world.archiver(["snapshot"]).succeed().await;
    workload.run(&world.source, 5).await;
    world.carry().await;
    world.set_archiver("keep_days", 0);
    world.archiver(["prune"]).clock(LATER).run().await.expect_code(0);
    let left = world.place().names();
    assert!(left.contains(&"floor.json".to_owned()), "{left:?}");
    assert_eq!(names_in(&left, "segments/"), Vec::<&String>::new());
    assert_sound(&world).await;
    workload.run(&world.source, 5).await;
    world.carry().await;
    world.assert_same(&TABLES).await;
}

/// Every step at which the archive is written.
const STEPS: [&str; 8] = [
    "archive.part_written",
    "archive.before_rename",
    "archive.after_rename",
    "ship.changes_there",
    "ship.manifest_there",
    "ship.marked",
    "ship.before_head",
    "ship.after_head",
];

#[tokio::test]
async fn killed_at_any_step_nothing_is_lost_and_nothing_comes_twice() {
    let (world, mut workload) = world(options(store())).await;
    world.archiver(["run", "--once"]).succeed().await;
    world.applier(["add-tables"].iter().chain(&TABLES)).succeed().await;
    let mut kills = BTreeMap::new();
    for seed in 0..2 * STEPS.len() as u64 {
        let mut random = Prng::new(seed);
        workload.run(&world.source, 6).await;
        let step = STEPS[usize::try_from(seed).expect("a few") % STEPS.len()];
        let visit = 1 + random.below(2);
        let run = world.archiver(["run", "--once"]).fault(&format!("{step}=kill@{visit}")).run().await;
        assert!(run.was_killed() || run.code() == Some(0), "seed {seed}: {step}@{visit}: {run}");
        *kills.entry(step).or_insert(0) += u32::from(run.was_killed());
        assert_slot_is_behind_the_archive(&world, seed).await;
    }
    assert!(STEPS.iter().all(|step| kills.get(step) > Some(&0)), "killed at {kills:?}");
    world.carry().await;
    world.assert_same(&TABLES).await;
    assert_sound(&world).await;
}

/// The slot must never have let go of what is not in the bucket.
async fn assert_slot_is_behind_the_archive(world: &World, seed: u64) {
    let names = world.place().names();
    let manifest = names.iter().rfind(|name| name.ends_with(".manifest.json")).expect("a segment");
    let text = |name: &str| serde_json::from_slice::<Value>(&world.place().read(name)).expect("JSON");
    let ends = [text(manifest)["end_lsn"].clone(), text("head.json")["covered_lsn"].clone()];
    let archived = ends.map(|lsn| lsn.as_str().expect("text").parse::<Lsn>().expect("an LSN"));
    let confirmed = world.source.value("SELECT confirmed_flush_lsn FROM pg_replication_slots").await;
    let confirmed: Lsn = confirmed.parse().expect("an LSN");
    assert!(archived.into_iter().max() >= Some(confirmed), "seed {seed}: {confirmed}, {archived:?}");
}

#[tokio::test]
async fn answers_that_get_lost_and_a_store_that_is_asked_too_much_change_nothing() {
    let proxy = StoreProxy::start(store());
    let (world, mut workload) = world(options(proxy.address())).await;
    let mut asked = 0;
    proxy.plan(move |request| {
        asked += 1;
        match (asked % 3, request.method.as_str()) {
            (0, "PUT" | "POST" | "DELETE") => Trick::LoseAnswer,
            (1, _) if asked % 2 == 0 => Trick::Answer(503, "SlowDown"),
            _ => Trick::Pass,
        }
    });
    world.archiver(["run", "--once"]).succeed().await;
    world.archiver(["snapshot"]).succeed().await;
    world.applier(["add-tables"].iter().chain(&TABLES)).succeed().await;
    for _ in 0..3 {
        workload.run(&world.source, 8).await;
        world.carry().await;
        world.assert_same(&TABLES).await;
    }
    // Away for good: capture goes on into the spool.
    proxy.plan(|_| Trick::Answer(503, "SlowDown"));
    workload.run(&world.source, 4).await;
    let run = world.archiver(["run", "--once"]).run().await.expect_code(1);
    assert!(run.stderr.contains("503 SlowDown"), "{run}");
    proxy.plan(|_| Trick::Pass);
    world.carry().await;
    world.assert_same(&TABLES).await;
    assert_sound(&world).await;
}

#[tokio::test]
async fn a_second_archiver_at_the_same_place_is_refused() {
    let (world, mut workload) = world(options(store())).await;
    world.archiver(["run", "--once"]).succeed().await;
    // Another production.
    let (mut other, _) = self::world(options(store())).await;
    other.set_archiver("archive_url", world.place().url());
    let run = other.archiver(["run", "--once"]).run().await.expect_code(2);
    assert!(run.stderr.contains("nothing of it was taken over"), "{run}");

    // While this one is about to replace head.json, somebody else does.
    workload.run(&world.source, 6).await;
    let proxy = StoreProxy::start(store());
    let (place, head) = (world.place().clone(), world.place().read("head.json"));
    let mut is_first = true;
    proxy.plan(move |asked| {
        if is_first && asked.method == "PUT" && asked.is_of("/head.json") {
            is_first = false;
            place.plant("head.json", &[&head[..], b"\n"].concat());
        }
        Trick::Pass
    });
    let endpoint = format!("http://{}", proxy.address());
    let run = world.archiver(["run", "--once"]).env("SYNCDATA_ARCHIVE_ENDPOINT", endpoint).run().await;
    assert!(run.code() == Some(1) && run.stderr.contains("head.json was replaced by somebody else"), "{run}");
    assert!(run.stderr.contains("second archiver"), "{run}");
    // One of them alone goes on where the archive is.
    world.archiver(["run", "--once"]).succeed().await;
    assert_sound(&world).await;
}

#[tokio::test]
async fn a_reader_needs_no_right_to_write_and_a_wrong_secret_is_said() {
    let (mut world, mut workload) = world(options(store())).await;
    world.archiver(["run", "--once"]).succeed().await;
    let keys = world.folder().join("reader-keys");
    world.place().write_keys(Who::Reader, &keys);
    world.set_applier("archive_credentials_file", keys.to_str().expect("plain"));
    world.applier(["add-tables"].iter().chain(&TABLES)).succeed().await;
    workload.run(&world.source, 6).await;
    world.carry().await;
    world.assert_same(&TABLES).await;

    fs::write(&keys, "aws_access_key_id = READER\naws_secret_access_key = canary-wrong\n").expect("ours");
    let run = world.applier(["sync"]).run().await.expect_code(2);
    assert!(
        run.stderr.contains("SignatureDoesNotMatch") && run.stderr.contains("archive_credentials_file"),
        "{run}"
    );
    assert!(!run.to_string().contains("canary"), "{run}");
    let archiver = world.folder().join("keys");
    world.place().write_keys(Who::Reader, &archiver);
    workload.run(&world.source, 2).await;
    let run = world.archiver(["run", "--once"]).run().await.expect_code(1);
    assert!(run.stderr.contains("AccessDenied"), "{run}");
    world.place().write_keys(Who::Owner, &archiver);
    world.place().write_keys(Who::Reader, &keys);
    world.carry().await;
    world.assert_same(&TABLES).await;
}

#[tokio::test]
async fn a_daemon_that_has_nothing_to_do_asks_little() {
    let proxy = StoreProxy::start(store());
    let (world, mut workload) = world(
        options(proxy.address()).applier_setting("follow", true).applier_setting("follow_interval", "200ms"),
    )
    .await;
    world.archiver(["run", "--once"]).succeed().await;
    world.applier(["add-tables"].iter().chain(&TABLES)).succeed().await;
    workload.run(&world.source, 6).await;
    world.carry().await;
    let daemon = world.applier(["start"]).spawn();
    // What was written seconds ago may be written again under the same time.
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(30);
    let asked = loop {
        proxy.take_asked();
        tokio::time::sleep(std::time::Duration::from_secs(2)).await;
        let asked = proxy.take_asked();
        if !asked.is_empty() && asked.iter().all(|asked| asked.method == "HEAD") {
            break asked;
        }
        assert!(std::time::Instant::now() < deadline, "{asked:?}");
    };
    assert!((3..=11).contains(&asked.len()), "{} questions in two seconds", asked.len());
    // And it sees what comes.
    workload.run(&world.source, 3).await;
    world.archiver(["run", "--once"]).succeed().await;
    while let Some(difference) = world.difference(TABLES[0]).await {
        assert!(std::time::Instant::now() < deadline, "{difference}");
        tokio::time::sleep(std::time::Duration::from_millis(100)).await;
    }
    daemon.stop().await.expect_code(0);
}
