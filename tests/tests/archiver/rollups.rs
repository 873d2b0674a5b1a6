//! Roll-ups: segments of a closed day in one tar, which readers use, and beside which what lies alone may leave.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use syncdata_formats::digest::Digest;
use syncdata_formats::layout::SegmentFile;
use syncdata_formats::rollup::Rollup;
use syncdata_formats::tar;
use syncdata_tests::{World, WorldOptions};

const SEGMENTS: u64 = 6;
/// The day is over then, and its last segments are in the archive.
const LATER: &str = "+2d";

/// An archive of today, and nothing rolled up yet.
async fn world(options: WorldOptions) -> World {
    let world = options.archiver_setting("keep_singles", 0).start().await;
    world.execute_on_both("CREATE TABLE notes (id int PRIMARY KEY, text text)").await;
    world.make_slot().await;
    for id in 1..=SEGMENTS {
        note(&world, id).await;
    }
    world
}

async fn note(world: &World, id: u64) {
    let sql = format!(
        "INSERT INTO notes VALUES ({id}, repeat(md5('{id}'), 9)); UPDATE notes SET text = 'n' WHERE id = 1"
    );
    world.source.execute(&sql).await;
    world.archiver(["run", "--once"]).succeed().await;
}

/// Every file of the archive below these folders.
fn files(world: &World, folder: &str) -> Vec<String> {
    let mut found = Vec::new();
    let Ok(days) = fs::read_dir(world.archive_dir().join(folder)) else { return found };
    for day in days {
        for entry in fs::read_dir(day.expect("a day").path()).expect("a day's folder") {
            found.push(entry.expect("an entry").file_name().into_string().expect("plain"));
        }
    }
    found.sort();
    found
}

fn only(world: &World, folder: &str, ending: &str) -> PathBuf {
    let days = fs::read_dir(world.archive_dir().join(folder)).expect("it is there");
    let entries = days.flat_map(|day| fs::read_dir(day.expect("a day").path()).expect("a day's folder"));
    let mut found = entries
        .map(|entry| entry.expect("an entry").path())
        .filter(|path| path.to_string_lossy().ends_with(ending));
    let file = found.next().expect("there is one");
    assert_eq!(found.next(), None, "there is another one beside {}", file.display());
    file
}

async fn assert_sound(world: &World) {
    for program in [world.archiver(["verify", "--json"]), world.applier(["verify", "--json"])] {
        let report = program.run().await.expect_code(0).json();
        assert_eq!(report["problems"], serde_json::json!([]), "{report}");
    }
}

/// What the whole archive says of a row.
async fn history(world: &World) -> String {
    world.applier(["history", "notes", "1"]).succeed().await.stdout
}

fn copy(from: &Path, to: &Path) {
    let done = Command::new("cp").arg("-a").args([from, to]).status().expect("cp is installed");
    assert!(done.success());
}

fn of_another_archive(manifest: &Path) -> Vec<u8> {
    let text = fs::read_to_string(manifest).expect("it is there");
    let (before, after) = text.split_once("\"archive_id\":\"").expect("a manifest");
    format!("{before}\"archive_id\":\"{}{}", uuid::Uuid::nil(), &after[36..]).into_bytes()
}

fn put_back(sound: &Path, archive: &Path) {
    fs::remove_dir_all(archive).expect("ours");
    copy(sound, archive);
}

#[tokio::test]
async fn a_closed_day_is_one_tar_and_what_lies_alone_leaves() {
    let world = world(WorldOptions::default()).await;
    let before = history(&world).await;
    world.archiver(["prune"]).succeed().await;
    assert_eq!(files(&world, "rollups"), Vec::<String>::new(), "the day is not over");
    let alone = files(&world, "segments");
    assert_eq!(alone.len() as u64, 2 * SEGMENTS, "{alone:?}");

    let dry = world.archiver(["prune", "--dry-run"]).clock(LATER).succeed().await;
    assert!(
        dry.stdout
            .contains("note: 6 segments are rolled up first, and what lies alone of them leaves then\n"),
        "{dry}"
    );
    assert!(dry.stdout.ends_with("0 files, 0 bytes\n"), "{dry}");
    assert_eq!(files(&world, "segments"), alone);
    let pruned = world.archiver(["prune"]).clock(LATER).succeed().await;
    assert!(pruned.stdout.contains(&format!("{} files", 2 * SEGMENTS)), "{pruned}");
    assert!(pruned.stdout.contains("0000000001-0000000006.manifest.json has\n"), "{pruned}");
    assert_eq!(files(&world, "segments"), Vec::<String>::new());
    assert_eq!(
        files(&world, "rollups"),
        ["0000000001-0000000006.manifest.json", "0000000001-0000000006.tar"]
    );
    assert_sound(&world).await;
    assert_eq!(history(&world).await, before);

    // A first reader, and one that goes on.
    world.applier(["add-tables", "notes"]).succeed().await;
    world.applier(["sync"]).succeed().await;
    world.assert_same(&["notes"]).await;
    for id in [7, 8] {
        note(&world, id).await;
    }
    assert_eq!(files(&world, "segments").len(), 4, "what is in the roll-up was not sent again");
    world.applier(["sync"]).succeed().await;
    world.assert_same(&["notes"]).await;
    world.applier(["resync", "notes"]).succeed().await;
    assert_sound(&world).await;

    // Stock tools bring back what lay alone.
    let tar = only(&world, "rollups", ".tar");
    let done = Command::new("tar").arg("-xf").arg(&tar).current_dir(world.archive_dir()).status();
    assert!(done.expect("tar is installed").success());
    let brought: Vec<String> = files(&world, "segments").into_iter().take(alone.len()).collect();
    assert_eq!(brought, alone);
    assert_sound(&world).await;
}

/// More than a busy hour needs, on whichever side of a full hour they fall.
const BUSY: u64 = 130;

#[tokio::test]
async fn everything_reads_through_the_roll_ups_of_closed_hours() {
    let options = WorldOptions::default().without_sftp().archiver_setting("keep_singles", 0);
    let world = options.archiver_setting("segment_max_changes", 1).start().await;
    world.execute_on_both("CREATE TABLE notes (id int PRIMARY KEY, text text)").await;
    world.source.execute("GRANT pg_read_all_data TO syncdata_user; ALTER ROLE syncdata_user BYPASSRLS").await;
    world.make_slot().await;
    world.archiver(["run", "--once"]).succeed().await;
    for id in 1..=BUSY {
        world.source.execute(&format!("INSERT INTO notes VALUES ({id}, 'first')")).await;
    }
    world.archiver(["run", "--once"]).succeed().await;
    let clock = "SELECT to_char(clock_timestamp() AT TIME ZONE 'UTC', 'YYYY-MM-DD\"T\"HH24:MI:SS.US\"Z\"')";
    let then = world.source.value(clock).await;
    world.source.execute("UPDATE notes SET text = 'second' WHERE id <= 10").await;
    world.archiver(["run", "--once"]).succeed().await;
    world.archiver(["proof"]).succeed().await;
    let before = history(&world).await;
    let alone = files(&world, "segments").len();

    world.archiver(["prune"]).clock("+70m").succeed().await;
    assert!(files(&world, "rollups").len() >= 2, "{:?}", files(&world, "rollups"));
    assert!(files(&world, "segments").len() < alone - 60, "{:?}", files(&world, "segments"));
    assert_sound(&world).await;
    let part = world.applier(["verify", "--from", "40", "--to", "50", "--json"]).succeed().await.json();
    assert_eq!(part["problems"], serde_json::json!([]), "{part}");
    world.archiver(["prune"]).clock(LATER).succeed().await;
    assert_eq!(files(&world, "segments"), Vec::<String>::new());
    assert_sound(&world).await;

    // A copy that begins now has nothing else.
    assert_eq!(history(&world).await, before);
    world.applier(["add-tables", "notes"]).succeed().await;
    world.applier(["sync"]).succeed().await;
    world.assert_same(&["notes"]).await;
    let proved = world.applier(["consistency", "status", "--json"]).succeed().await.json();
    assert_eq!(proved["tables"][0]["verdict"], "equal", "{proved}");
    world.applier(["drill", "notes"]).succeed().await;
    world.applier(["as-of", &then, "--into", "past"]).succeed().await;
    let past = world.target.value("SELECT count(*) FROM past.notes WHERE text = 'first'").await;
    assert_eq!(past, BUSY.to_string());
    world.target.execute("UPDATE notes SET text = 'spoiled' WHERE id = 3").await;
    world.applier(["replay", "--yes", "--from", "2001-01-01", "--to", "2100-01-01"]).succeed().await;
    world.assert_same(&["notes"]).await;
}

#[tokio::test]
async fn killed_at_any_step_of_rolling_up_and_letting_go_the_archive_stays_whole() {
    let world = world(WorldOptions::default().without_sftp()).await;
    let before = history(&world).await;
    let sound = world.folder().join("sound");
    copy(world.archive_dir(), &sound);
    let trace = world.folder().join("trace");
    world.archiver(["prune"]).clock(LATER).trace(&trace).succeed().await;
    let mut visits = BTreeMap::<String, u64>::new();
    for step in fs::read_to_string(&trace).expect("a trace").lines() {
        *visits.entry(step.to_owned()).or_default() += 1;
    }
    for step in [
        "rollup.packed",
        "rollup.tar_there",
        "rollup.manifest_there",
        "prune.rollup_checked",
        "prune.single_removed",
    ] {
        assert!(visits.contains_key(step), "{step}: {visits:?}");
    }
    let steps = visits
        .iter()
        .filter(|(step, _)| ["archive.", "rollup.", "prune."].iter().any(|area| step.starts_with(area)));
    for (step, visits) in steps {
        for visit in 1..=*visits {
            put_back(&sound, world.archive_dir());
            let killed =
                world.archiver(["prune"]).clock(LATER).fault(&format!("{step}=kill@{visit}")).run().await;
            assert!(killed.was_killed(), "{step}@{visit}: {killed}");
            assert_sound(&world).await;
            assert_eq!(history(&world).await, before, "{step}@{visit}");
            world.archiver(["prune"]).clock(LATER).succeed().await;
            assert_sound(&world).await;
            assert_eq!(files(&world, "segments"), Vec::<String>::new(), "{step}@{visit}");
            assert_eq!(files(&world, "rollups").len(), 2, "{step}@{visit}");
        }
    }
    assert_eq!(history(&world).await, before);
}

#[tokio::test]
async fn a_spoiled_roll_up_is_named_and_never_used() {
    let mut world = world(WorldOptions::default().without_sftp()).await;
    let before = history(&world).await;
    world.set_archiver("keep_singles", 1000);
    world.archiver(["prune"]).clock(LATER).succeed().await;
    let (with_singles, rolled) = (world.folder().join("both"), world.folder().join("rolled"));
    copy(world.archive_dir(), &with_singles);
    world.set_archiver("keep_singles", 0);
    world.archiver(["prune"]).clock(LATER).succeed().await;
    copy(world.archive_dir(), &rolled);

    let tar = only(&world, "rollups", ".tar");
    let manifest = only(&world, "rollups", ".manifest.json");
    let flipped = |file: &Path, at: usize| {
        let mut bytes = fs::read(file).expect("it is there");
        bytes[at] ^= 1;
        bytes
    };
    let end = fs::read(&tar).expect("it is there").len();
    let damages: [(&str, &Path, Option<Vec<u8>>, bool); 8] = [
        ("a manifest in it", &tar, Some(flipped(&tar, 600)), true),
        ("a change file in it", &tar, Some(flipped(&tar, end - 1500)), true),
        // No reader of ours looks at it; tar does.
        ("a header", &tar, Some(flipped(&tar, 100)), false),
        ("cut", &tar, Some(fs::read(&tar).expect("it is there")[..end - 700].to_vec()), true),
        ("no tar", &tar, None, true),
        ("of another archive", &manifest, Some(of_another_archive(&manifest)), false),
        ("its manifest", &manifest, Some(flipped(&manifest, 300)), true),
        ("its size", &manifest, Some(fs::read(&manifest).expect("it is there")[..300].to_vec()), true),
    ];
    for (what, file, bytes, is_needed) in damages {
        for (sound, has_singles) in [(&with_singles, true), (&rolled, false)] {
            put_back(sound, world.archive_dir());
            match &bytes {
                Some(bytes) => fs::write(file, bytes).expect("ours"),
                None => fs::remove_file(file).expect("ours"),
            }
            let verified = world.applier(["verify"]).run().await.expect_code(1);
            assert!(verified.stdout.contains("rollups/"), "{what}: {verified}");
            let told = world.applier(["history", "notes", "1"]).run().await;
            if has_singles || !is_needed {
                assert_eq!((told.code(), told.stdout.as_str()), (Some(0), before.as_str()), "{what}: {told}");
            } else {
                assert_ne!(told.code(), Some(0), "{what}: {told}");
                assert!(
                    told.stderr.contains("rollups/") || told.stderr.contains("roll-up"),
                    "{what}: {told}"
                );
            }
            // What lies alone stays where the tar is not whole.
            let alone = files(&world, "segments");
            world.archiver(["prune"]).clock(LATER).run().await;
            if has_singles {
                assert_eq!(files(&world, "segments"), alone, "{what}");
            }
        }
    }
}

/// Whether it is about that file.
type Alteration = dyn Fn(SegmentFile, &mut Vec<u8>) -> bool;

/// Writes the roll-up anew with a file of the last segment altered: by itself it is sound, and its sizes are the same.
fn forge(world: &World, alter: &Alteration) {
    let (tar_path, manifest) = (only(world, "rollups", ".tar"), only(world, "rollups", ".manifest.json"));
    let mut rollup = Rollup::decode(&fs::read(&manifest).expect("it is there")).expect("sound");
    let old = fs::read(&tar_path).expect("it is there");
    let (mut new, mut altered) = (Vec::new(), 0);
    for (index, place) in rollup.places().expect("sound").into_iter().enumerate() {
        let from = usize::try_from(place.offset).expect("small");
        let mut bytes = old[from..from + usize::try_from(place.bytes).expect("small")].to_vec();
        if place.file.segment().seq == rollup.last.seq && alter(place.file, &mut bytes) {
            altered += 1;
            rollup.files[index].sha256 = Digest::of(&bytes);
            if matches!(place.file, SegmentFile::Manifest(_)) {
                rollup.last.sha256 = Digest::of(&bytes);
            }
        }
        new.extend(tar::header(place.path(rollup.day).as_str(), place.bytes, rollup.day.start()));
        new.extend(&bytes);
        new.resize(new.len().next_multiple_of(512), 0);
    }
    assert_eq!(altered, 1);
    new.extend([0; 1024]);
    rollup.sha256 = Digest::of(&new);
    fs::write(tar_path, new).expect("ours");
    fs::write(manifest, rollup.encode()).expect("ours");
}

#[tokio::test]
async fn only_what_the_chain_vouches_for_is_a_reason_to_let_go() {
    let mut world = world(WorldOptions::default().without_sftp()).await;
    world.set_archiver("keep_singles", 1000);
    world.archiver(["prune"]).clock(LATER).succeed().await;
    world.set_archiver("keep_singles", 0);
    let (alone, both) = (files(&world, "segments"), world.folder().join("both"));
    copy(world.archive_dir(), &both);
    let manifest = |file: SegmentFile, bytes: &mut Vec<u8>| {
        let is_it = matches!(file, SegmentFile::Manifest(_));
        if is_it {
            let text = String::from_utf8(bytes.clone()).expect("plain");
            *bytes = text.replacen("\"archiver\":\"0", "\"archiver\":\"7", 1).into_bytes();
        }
        is_it
    };
    let changes = |file: SegmentFile, bytes: &mut Vec<u8>| {
        let is_it = matches!(file, SegmentFile::Changes(_));
        bytes[20] ^= u8::from(is_it);
        is_it
    };
    let alterations: [&Alteration; 2] = [&manifest, &changes];
    for more in [false, true] {
        if more {
            // Then the next segment vouches for it, not the spool.
            put_back(&both, world.archive_dir());
            note(&world, 7).await;
            fs::remove_dir_all(&both).expect("ours");
            copy(world.archive_dir(), &both);
        }
        for alter in alterations {
            put_back(&both, world.archive_dir());
            forge(&world, alter);
            let kept = world.archiver(["prune"]).clock(LATER).succeed().await;
            assert!(kept.stdout.contains("what lies alone beside rollups/"), "{kept}");
            assert!(alone.iter().all(|name| files(&world, "segments").contains(name)), "{kept}");
            let verified = world.applier(["verify"]).run().await.expect_code(1);
            assert!(verified.stdout.contains("rollups/"), "{verified}");
        }
    }
}

#[tokio::test]
async fn what_is_signed_is_checked() {
    let mut world = world(WorldOptions::default()).await;
    let unsigned = files(&world, "segments").len();
    let key = world.folder().join("key");
    world.archiver(["keygen", key.to_str().expect("plain")]).succeed().await;
    world.set_archiver("signing_key", key.to_str().expect("plain"));
    for id in [7, 8, 9] {
        note(&world, id).await;
    }
    assert_eq!(files(&world, "segments").len(), unsigned + 9);
    world.archiver(["prune"]).clock(LATER).succeed().await;
    let rolled = files(&world, "rollups");
    assert_eq!(rolled.len(), 3, "{rolled:?}");
    assert_eq!(files(&world, "segments"), Vec::<String>::new());
    let public = std::fs::read_to_string(world.folder().join("key.pub")).expect("made");
    let public = public.lines().last().expect("a key").to_owned();
    let tar = only(&world, "rollups", ".tar");
    let listed = Command::new("tar").arg("-tf").arg(&tar).output().expect("tar is installed");
    let listed = String::from_utf8(listed.stdout).expect("plain");
    assert_eq!(listed.lines().filter(|line| line.ends_with(".minisig")).count(), 3, "{listed}");

    world.set_applier("verify_key", public);
    let verified = world.applier(["verify"]).run().await.expect_code(1);
    assert!(verified.stdout.contains("the signature is missing"), "{verified}");
    assert!(!verified.stdout.contains("rollups/"), "those of the first segments are missing: {verified}");
    let signature = only(&world, "rollups", ".minisig");
    let mut bytes = fs::read(&signature).expect("it is there");
    let at = bytes.len() - 10;
    bytes[at] ^= 1;
    fs::write(&signature, bytes).expect("ours");
    let verified = world.applier(["verify"]).run().await.expect_code(1);
    assert!(verified.stdout.contains("rollups/"), "{verified}");

    // Brought back by whoever has no key of ours: nothing leaves because of it.
    let done = Command::new("tar").arg("-xf").arg(&tar).current_dir(world.archive_dir()).status();
    assert!(done.expect("tar is installed").success());
    let alone = files(&world, "segments");
    let kept = world.archiver(["prune"]).clock(LATER).succeed().await;
    assert!(kept.stdout.contains("what lies alone beside rollups/"), "{kept}");
    assert_eq!(files(&world, "segments"), alone);
}

#[tokio::test]
async fn a_roll_up_before_the_floor_leaves_as_a_whole() {
    let mut world = world(WorldOptions::default().without_sftp()).await;
    world.source.execute("GRANT pg_read_all_data TO syncdata_user; ALTER ROLE syncdata_user BYPASSRLS").await;
    world.archiver(["prune"]).clock(LATER).succeed().await;
    assert_eq!(files(&world, "rollups").len(), 2);
    world.archiver(["snapshot"]).succeed().await;
    for id in [7, 8, 9] {
        note(&world, id).await;
    }
    world.set_archiver("keep_days", 0);
    world.archiver(["prune"]).succeed().await;
    assert_eq!(files(&world, "rollups"), Vec::<String>::new());
    assert!(world.archive_dir().join("floor.json").exists());
    assert_sound(&world).await;
    world.applier(["add-tables", "notes"]).succeed().await;
    world.applier(["sync"]).succeed().await;
    world.assert_same(&["notes"]).await;
}

#[tokio::test]
async fn a_daemon_rolls_up_by_itself() {
    let world = world(WorldOptions::default()).await;
    let mut daemon = world.archiver(["run"]).clock(LATER).spawn();
    daemon.says("segments rolled up").await;
    daemon.says("what is in roll-ups left where it lay alone").await;
    daemon.stop().await.expect_code(0);
    assert_eq!(files(&world, "rollups").len(), 2);
    assert_eq!(files(&world, "segments"), Vec::<String>::new());
    assert_sound(&world).await;
}

#[tokio::test]
async fn nobody_gets_roll_ups_who_did_not_ask_for_them() {
    let world = world(WorldOptions::default().without_sftp()).await;
    let config = fs::read_to_string(world.archiver_config()).expect("it is there");
    let without: Vec<&str> = config.lines().filter(|line| !line.starts_with("keep_singles")).collect();
    fs::write(world.archiver_config(), without.join("\n") + "\nkeep_days = 1000\n").expect("ours");
    let alone = files(&world, "segments");
    world.archiver(["prune"]).clock(LATER).succeed().await;
    assert!(!world.archive_dir().join("rollups").exists());
    assert_eq!(files(&world, "segments"), alone);
}
