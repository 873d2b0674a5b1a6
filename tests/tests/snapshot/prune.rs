//! Pruning: what is needed stays, what is gone never looks like a loss.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use syncdata_formats::ack::Ack;
use syncdata_formats::digest::Digest;
use syncdata_formats::floor::Floor;
use syncdata_formats::layout::SegmentSeq;
use syncdata_formats::lsn::Lsn;
use syncdata_formats::manifest::{FORMAT, Link};
use syncdata_formats::snapshot::SnapshotManifest;
use syncdata_formats::time::Timestamp;
use syncdata_tests::sshd::Options;
use syncdata_tests::{World, WorldOptions};

use crate::scene::{self, assert_exactly_once, files, manifests, newest};

const NOTES: &str = "CREATE TABLE notes (id serial PRIMARY KEY, text text)";

const STEPS: &[&str] =
    &["prune.floor_raised", "prune.folder_removed", "prune.planned", "prune.removed", "prune.spool_forgot"];

/// Changes and copies in turn.
async fn world(options: WorldOptions) -> World {
    let world = scene::world_with(options, NOTES).await;
    fill(&world).await;
    world
}

async fn fill(world: &World) {
    for round in 0..3 {
        for _ in 0..2 {
            insert(world).await;
        }
        if round < 2 {
            scene::take(world).await;
        }
    }
}

async fn insert(world: &World) {
    world.source.execute("INSERT INTO notes (text) SELECT 'note' FROM generate_series(1, 10)").await;
    world.archiver(["run", "--once"]).succeed().await;
}

fn empty_window() -> WorldOptions {
    WorldOptions::default().without_sftp().archiver_setting("keep_days", 0)
}

/// Number and end of every segment that has a manifest, by its name.
fn segments(archive: &Path) -> BTreeMap<u64, Lsn> {
    let parse = |path: String| {
        let stem = path.rsplit('/').next()?.strip_suffix(".manifest.json")?.to_owned();
        let (seq, end) = stem.split_once('-')?;
        Some((seq.parse().ok()?, Lsn::from_u64(u64::from_str_radix(end, 16).ok()?)))
    };
    everything(archive).into_keys().filter_map(parse).collect()
}

/// Every file of the archive, with its size.
fn everything(folder: &Path) -> BTreeMap<String, u64> {
    let mut found = BTreeMap::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(at) = folders.pop() {
        for entry in fs::read_dir(&at).expect("a folder") {
            let path = entry.expect("an entry").path();
            if path.is_dir() {
                folders.push(path);
            } else {
                let name = path.strip_prefix(folder).expect("below it").to_string_lossy().into_owned();
                found.insert(name, path.metadata().expect("it is there").len());
            }
        }
    }
    found
}

fn floor(archive: &Path) -> Option<u64> {
    let bytes = fs::read(archive.join("floor.json")).ok()?;
    Some(Floor::decode(&bytes).expect("a sound floor").seq.get())
}

async fn prune(world: &World) -> Value {
    world.archiver(["prune", "--json"]).succeed().await.json()
}

/// The archive is sound, and a new reader gets all rows from it.
async fn assert_sound(world: &World) {
    let verified = world.archiver(["verify", "--json"]).run().await.expect_code(0).json();
    assert_eq!(verified["problems"], json!([]), "{verified}");
    assert_exactly_once(world, &newest(world.archive_dir()), &["notes"]).await;
}

/// The first segment that holds what the copy does not.
fn first_behind(archive: &Path, manifest: &SnapshotManifest) -> u64 {
    let behind = segments(archive).into_iter().find(|(_, end)| *end > manifest.start_lsn);
    behind.expect("there are segments behind it").0
}

fn first(archive: &Path) -> u64 {
    *segments(archive).first_key_value().expect("there are segments").0
}

/// A new `keep_days` that lets go of what was there: said first, and removed from the next day on, or by hand.
#[tokio::test]
async fn a_reload_says_what_the_daily_prune_will_remove_and_removes_nothing() {
    let mut world = world(WorldOptions::default().without_sftp()).await;
    let before = segments(world.archive_dir());
    let mut daemon = world.archiver(["run"]).spawn();
    daemon.says("started").await;
    world.set_archiver("keep_days", 0);
    daemon.signal(rustix::process::Signal::HUP);
    daemon.says("the daily prune begins tomorrow").await;
    assert!(!daemon.stderr().contains("files=0 "), "{}", daemon.stderr());
    world.archiver(["run", "--once"]).succeed().await;
    assert_eq!(segments(world.archive_dir()), before);
    let plan = prune(&world).await;
    assert!(segments(world.archive_dir()).len() < before.len(), "{plan}");
    daemon.stop().await.expect_code(0);
}

/// The same with the daemon stopped while the settings are changed, and stopped once more before the day is over.
#[tokio::test]
async fn a_restart_says_what_the_daily_prune_will_remove_and_removes_nothing() {
    let mut world = world(WorldOptions::default().without_sftp()).await;
    let mut daemon = world.archiver(["run"]).spawn();
    wait_until_polled(&world).await;
    daemon.stop().await.expect_code(0);
    world.set_archiver("keep_days", 0);
    let before = segments(world.archive_dir());
    daemon = world.archiver(["run"]).spawn();
    daemon.says("the daily prune begins tomorrow").await;
    daemon.stop().await.expect_code(0);
    daemon = world.archiver(["run"]).spawn();
    wait_until_polled(&world).await;
    let daemon = daemon.stop().await.expect_code(0);
    assert!(!daemon.stderr.contains("the daily prune begins tomorrow"), "said once: {daemon}");
    assert_eq!(segments(world.archive_dir()), before);
    let plan = prune(&world).await;
    assert!(segments(world.archive_dir()).len() < before.len(), "{plan}");
}

async fn wait_until_polled(world: &World) {
    let deadline = Instant::now() + Duration::from_secs(60);
    loop {
        let status = world.archiver(["status", "--json"]).run().await;
        if status.json()["last_poll"].is_string() {
            return;
        }
        assert!(Instant::now() < deadline, "{status}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

#[tokio::test]
async fn what_the_newest_copy_does_not_need_goes_and_a_new_reader_finds_the_rest() {
    let world = world(empty_window()).await;
    let archive = world.archive_dir();
    let before = everything(archive);
    let dry = world.archiver(["prune", "--dry-run", "--json"]).succeed().await.json();
    assert_eq!(everything(archive), before, "a dry run changes nothing");
    let expected = first_behind(archive, &newest(archive));
    let pruned = prune(&world).await;
    assert_eq!(pruned["plan"], dry["plan"]);
    assert_eq!(pruned["plan"]["floor"], expected);
    assert_eq!((floor(archive), first(archive)), (Some(expected), expected));
    assert_eq!(manifests(archive).len(), 1);
    let kept = newest(archive);
    for file in kept.files() {
        assert!(archive.join("snapshots").join(&file.file).exists(), "{}", file.file);
    }
    assert_sound(&world).await;
    assert_eq!(prune(&world).await["plan"]["segments"], json!([]), "nothing is left to do");
    // The spool does not bring back what is gone.
    insert(&world).await;
    assert_eq!(first(archive), expected);
    assert_sound(&world).await;
    world.target.execute(NOTES).await;
    world.applier(["add-tables", "notes"]).succeed().await;
    world.applier(["sync"]).succeed().await;
    world.assert_same(&["notes"]).await;
}

#[tokio::test]
async fn killed_at_any_step_the_archive_is_sound_and_the_next_prune_finishes() {
    let world = world(empty_window()).await;
    let trace = world.folder().join("trace");
    world.archiver(["prune"]).trace(&trace).succeed().await;
    let visited = fs::read_to_string(&trace).expect("a trace");
    let own: BTreeSet<&str> = visited.lines().filter(|step| step.starts_with("prune.")).collect();
    assert_eq!(own.into_iter().collect::<Vec<_>>(), STEPS, "a step was added or went: list it");
    let rest = visited.lines().filter(|step| step.starts_with("archive.")).collect::<BTreeSet<_>>();
    for step in STEPS.iter().copied().chain(rest) {
        for visit in [1, 4] {
            fill(&world).await;
            let run = world.archiver(["prune"]).fault(&format!("{step}=kill@{visit}")).run().await;
            assert!(run.was_killed() || visit > 1 && run.code() == Some(0), "{step}: {run}");
            assert_sound(&world).await;
            insert(&world).await;
            let expected = first_behind(world.archive_dir(), &newest(world.archive_dir()));
            prune(&world).await;
            assert_eq!(floor(world.archive_dir()), Some(expected), "{step}@{visit}");
            assert_eq!(first(world.archive_dir()), expected, "{step}@{visit}");
            assert_eq!(manifests(world.archive_dir()).len(), 1, "{step}@{visit}");
            assert_sound(&world).await;
        }
    }
}

#[tokio::test]
async fn the_daemon_prunes_by_itself_and_for_the_command() {
    let world = scene::world_with(empty_window(), NOTES).await;
    let daemon = scene::daemon(&world).await;
    fill_through_the_daemon(&world).await;
    assert!(floor(world.archive_dir()).is_some(), "{}", daemon.stderr());
    assert_eq!(manifests(world.archive_dir()).len(), 1);
    assert_sound(&world).await;
    // What was the newest segment then may go now; the daemon would look again tomorrow.
    let expected = first_behind(world.archive_dir(), &newest(world.archive_dir()));
    assert_eq!(prune(&world).await["plan"]["floor"], expected);
    assert_eq!(floor(world.archive_dir()), Some(expected));
    assert_sound(&world).await;
    daemon.stop().await.expect_code(0);
}

async fn fill_through_the_daemon(world: &World) {
    for _ in 0..3 {
        world.source.execute("INSERT INTO notes (text) VALUES ('note')").await;
        world.archiver(["run", "--once"]).succeed().await;
    }
    scene::take(world).await;
    world.source.execute("INSERT INTO notes (text) VALUES ('note')").await;
    scene::take(world).await;
    world.source.execute("INSERT INTO notes (text) VALUES ('note')").await;
    world.archiver(["run", "--once"]).succeed().await;
}

#[tokio::test]
async fn what_a_reader_reports_holds_pruning_back_while_it_is_fresh() {
    let world = world(empty_window()).await;
    let archive = world.archive_dir();
    let [first, second] = manifests(archive).try_into().expect("two copies");
    let report = |end_lsn, loading, at: &str| {
        let ack = Ack {
            format: FORMAT,
            archive_id: first.archive_id,
            name: "reports".parse().expect("a name"),
            seq: 0,
            end_lsn,
            at: at.parse().expect("a time"),
            loading,
        };
        fs::create_dir_all(archive.join("acks")).expect("our folder");
        fs::write(archive.join(ack.path().as_str()), ack.encode()).expect("our folder");
    };
    let now = Timestamp::now().to_string();
    report(Lsn::from_u64(0), vec![], &now);
    prune(&world).await;
    assert_eq!((floor(archive), manifests(archive).len()), (None, 1), "it lacks every segment, and no copy");
    report(second.end_lsn, vec![second.id.clone()], &now);
    scene::take(&world).await;
    prune(&world).await;
    assert_eq!(manifests(archive).len(), 2, "it is reading the one before the last");
    assert_eq!(floor(archive), Some(first_behind(archive, &second)));
    report(Lsn::from_u64(0), vec![], "2026-01-01T00:00:00Z");
    let pruned = world.archiver(["prune"]).succeed().await;
    assert!(pruned.stdout.contains("note: reader reports reported last at 2026-01-01"), "{pruned}");
    assert_eq!(manifests(archive).len(), 1);
    assert_sound(&world).await;
}

#[tokio::test]
async fn a_window_of_days_and_no_setting_at_all_keep_everything_of_today() {
    let mut world = world(WorldOptions::default().without_sftp()).await;
    let before = everything(world.archive_dir());
    let run = world.archiver(["prune"]).run().await.expect_code(2);
    assert!(run.stderr.contains("keep_days is not set"), "{run}");
    world.set_archiver("keep_days", 30);
    let pruned = world.archiver(["prune"]).succeed().await;
    assert!(pruned.stdout.contains("note: nothing is pruned: no complete snapshot is older"), "{pruned}");
    world.source.execute("CREATE TABLE other (id int PRIMARY KEY)").await;
    world.set_archiver("keep_days", 0);
    let pruned = world.archiver(["prune"]).succeed().await;
    assert!(pruned.stdout.contains("other is in no complete snapshot"), "{pruned}");
    assert_eq!(everything(world.archive_dir()), before);
}

/// Everybody who can write to the backup host can write it, and a prune that believed it would remove what nobody has
/// anywhere else.
#[tokio::test]
async fn a_floor_that_the_manifests_do_not_prove_removes_nothing() {
    let mut world = world(empty_window().archiver_setting("confirm", "spooled")).await;
    let archive = world.archive_dir().to_owned();
    let newest_seq = *segments(&archive).last_key_value().expect("there are segments").0;
    let known = newest(&archive).archive_id;
    let floor = |seq: u64, archive_id, sha256: &[u8]| {
        let link = Link { seq: SegmentSeq::new(seq - 1).expect("a number"), sha256: Digest::of(sha256) };
        let seq = SegmentSeq::new(seq).expect("a number");
        let pruned_at = Timestamp::now();
        Floor { format: FORMAT, archive_id, seq, previous: Some(link), pruned_at }.encode()
    };
    let before = everything(&archive);
    let manifest = |seq: u64| {
        let path = before
            .keys()
            .find(|path| path.contains(&format!("/{seq:010}-")) && path.ends_with(".manifest.json"));
        fs::read(archive.join(path.expect("it is there"))).expect("it is there")
    };
    for (forged, says) in [
        (floor(999_999, known, b""), "begins with segment 999999, which is not there"),
        (floor(newest_seq, known, b"another"), "names another segment before"),
        (floor(newest_seq, uuid::Uuid::max(), &manifest(newest_seq - 1)), "is that of archive ffffffff"),
    ] {
        fs::write(archive.join("floor.json"), &forged).expect("ours");
        for arguments in [&["prune"][..], &["prune", "--dry-run"]] {
            let run = world.archiver(arguments).run().await.expect_code(2);
            assert!(run.stderr.contains(says) && run.stderr.contains("nothing was pruned"), "{run}");
            assert!(
                run.stderr.contains("hint: the archive begins with segment 1: remove floor.json"),
                "{run}"
            );
        }
        fs::remove_file(archive.join("floor.json")).expect("it is there");
        assert_eq!(everything(&archive), before);
    }
    // One that is proved, but that no plan of ours has made: nothing that is still needed goes.
    fs::write(archive.join("floor.json"), floor(newest_seq, known, &manifest(newest_seq - 1))).expect("ours");
    let expected = first_behind(&archive, &newest(&archive));
    let pruned = prune(&world).await;
    assert_eq!(first(&archive), expected, "{pruned}");
    fs::remove_file(archive.join("floor.json")).expect("it is there");
    // What only the spool has stays there, whatever the floor is.
    world.set_archiver("archive_dir", "/nowhere/at/all");
    world.source.execute("INSERT INTO notes (text) VALUES ('in the spool alone')").await;
    world.archiver(["run", "--once"]).run().await.expect_code(1);
    let spooled = segments(&world.spool_dir());
    world.set_archiver("archive_dir", archive.to_str().expect("a plain name"));
    assert!(spooled.contains_key(&(newest_seq + 1)), "{spooled:?}");
    fs::write(archive.join("floor.json"), floor(newest_seq + 2, known, b"")).expect("ours");
    world.archiver(["prune"]).run().await.expect_code(2);
    assert!(segments(&world.spool_dir()).contains_key(&(newest_seq + 1)));
}

/// The base of a plan must be ours.
#[tokio::test]
async fn a_snapshot_of_another_archive_is_no_reason_to_remove_anything() {
    let world = scene::world_with(empty_window(), NOTES).await;
    let other = scene::world_with(empty_window(), NOTES).await;
    for _ in 0..3 {
        insert(&world).await;
    }
    insert(&other).await;
    scene::take(&other).await;
    let (from, to) = (other.archive_dir().join("snapshots"), world.archive_dir().join("snapshots"));
    let copied = std::process::Command::new("cp").arg("-r").arg(from).arg(to).status().expect("cp is there");
    assert!(copied.success());
    let before = everything(world.archive_dir());
    let run = world.archiver(["prune"]).run().await.expect_code(0);
    assert!(run.stdout.contains("is that of archive") && run.stdout.contains("nothing is pruned"), "{run}");
    assert_eq!(everything(world.archive_dir()), before);
}

/// Everything is dated by production's clock; ours may be far ahead of it.
#[tokio::test]
async fn a_clock_that_is_ahead_takes_nothing_of_today() {
    let world = world(WorldOptions::default().without_sftp().archiver_setting("keep_days", 30)).await;
    let before = everything(world.archive_dir());
    let run = world.archiver(["prune"]).clock("+60d").run().await.expect_code(0);
    assert!(run.stdout.contains("nothing is pruned: no complete snapshot is older than keep_days"), "{run}");
    let mut after = everything(world.archive_dir());
    after.retain(|path, _| before.contains_key(path));
    assert_eq!(after.keys().collect::<Vec<_>>(), before.keys().collect::<Vec<_>>());
}

#[tokio::test]
async fn while_a_snapshot_is_taken_nothing_is_pruned() {
    let world = world(empty_window()).await;
    world
        .source
        .execute(
            "CREATE TABLE a (id int PRIMARY KEY, text text);
            INSERT INTO a SELECT i, repeat('x', 100) FROM generate_series(1, 20000) i",
        )
        .await;
    let mut snapshot = world.archiver(["snapshot", "-v", "--rate", "1MiB"]).spawn();
    snapshot.says("snapshot begun").await;
    let before = everything(world.archive_dir());
    let run = world.archiver(["prune"]).run().await.expect_code(2);
    assert!(run.stderr.contains("takes or prunes snapshots"), "{run}");
    assert!(before.keys().all(|path| world.archive_dir().join(path).exists()));
    snapshot.ended().await.expect_code(0);
    prune(&world).await;
    assert_sound(&world).await;
}

#[tokio::test]
async fn an_account_that_may_not_remove_prunes_nothing_and_says_so() {
    let backup = Options { sftp_arguments: "-P remove,rmdir".into(), ..Options::default() };
    let options = WorldOptions::default().backup(backup).archiver_setting("keep_days", 0);
    let world = world(options).await;
    let archive = world.archive_dir();
    let before = files(archive);
    let run = world.archiver(["prune"]).run().await.expect_code(2);
    assert!(run.stderr.contains("the account may not remove files of the archive"), "{run}");
    assert!(run.stderr.contains("hint: allow remove and rmdir"), "{run}");
    assert_eq!((files(archive), floor(archive)), (before, None));
    assert_sound(&world).await;
}
