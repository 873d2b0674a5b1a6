//! The snapshot is killed at every step: it exists or it does not, and the next one uses what was sent.

use std::collections::BTreeSet;
use std::fs;

use syncdata_tests::World;

use crate::scene::{self, files, manifests, newest};

const STEPS: &[&str] = &[
    "snapshot.after_manifest",
    "snapshot.all_parts_sent",
    "snapshot.before_manifest",
    "snapshot.begun",
    "snapshot.part_sent",
];

/// Some parts, of which a part of the rows changes from time to time.
async fn world() -> World {
    let world = scene::world(
        "CREATE TABLE items (id int PRIMARY KEY, text text);
         INSERT INTO items SELECT i, md5(i::text) || md5((-i)::text) FROM generate_series(1, 300000) i",
    )
    .await;
    world.archiver(["run", "--once"]).succeed().await;
    world
}

async fn assert_newest_is_the_source(world: &World, step: &str) {
    let client = world.source.connect().await;
    let expected = scene::copy_out(&client, "SELECT id, text FROM items ORDER BY id").await;
    let found = scene::rows(world.archive_dir(), &newest(world.archive_dir()), "items");
    assert!(found == expected, "{step}");
}

#[tokio::test]
async fn killed_at_any_step_a_snapshot_exists_or_not_and_the_next_one_sends_only_the_rest() {
    let world = world().await;
    let trace = world.folder().join("trace");
    world.archiver(["snapshot"]).trace(&trace).succeed().await;
    let visited: BTreeSet<String> =
        fs::read_to_string(&trace).expect("a trace").lines().map(str::to_owned).collect();
    let own = visited.iter().filter(|step| step.starts_with("snapshot."));
    assert_eq!(own.collect::<Vec<_>>(), STEPS, "a step was added or went: list it");
    let archive = visited.iter().map(String::as_str).filter(|step| step.starts_with("archive."));
    for (round, step) in STEPS.iter().copied().chain(archive).enumerate() {
        let change = format!("UPDATE items SET text = 'round {round}' || md5(id::text) WHERE id > 200000");
        world.source.execute(&change).await;
        let before = manifests(world.archive_dir()).len();
        let killed = world.archiver(["snapshot"]).fault(&format!("{step}=kill@1")).run().await;
        assert!(killed.was_killed(), "{step}: {killed}");
        let exists = usize::from(step == "snapshot.after_manifest");
        assert_eq!(manifests(world.archive_dir()).len(), before + exists, "{step}");
        let taken = scene::take(&world).await;
        assert_newest_is_the_source(&world, step).await;
        if ["snapshot.after_manifest", "snapshot.all_parts_sent", "snapshot.before_manifest"].contains(&step)
        {
            let sent = taken["bytes_sent"].as_u64().expect("a number");
            assert!(sent < 10_000, "{step}: everything was there already: {taken}");
        }
    }
    let left = files(world.archive_dir()).into_keys().filter(|name| name.ends_with(".part"));
    assert!(left.count() <= 2, "only what was being written when it was killed");
}

#[tokio::test]
async fn what_was_remembered_is_no_loss_when_it_is_damaged_or_gone() {
    let world = world().await;
    scene::take(&world).await;
    let memory = world.spool_dir().join("snapshot");
    let remembered = || fs::read_dir(&memory).expect("it is there").map(|e| e.expect("an entry").path());
    for (round, damage) in ["damaged", "gone"].into_iter().enumerate() {
        for file in remembered() {
            match damage {
                "damaged" => fs::write(&file, [7; 100]).expect("ours"),
                _ => fs::remove_file(&file).expect("ours"),
            }
        }
        let change = format!("UPDATE items SET text = 'round {round}' WHERE id % 1000 = 0");
        world.source.execute(&change).await;
        let taken = scene::take(&world).await;
        assert_eq!(taken["parts_delta"], taken["parts"], "{damage}: read back from the archive: {taken}");
        assert_newest_is_the_source(&world, damage).await;
        let parts =
            newest(world.archive_dir()).tables.into_values().map(|table| table.parts.len()).sum::<usize>();
        assert_eq!(remembered().count(), parts, "no more and no less than the newest has");
    }
}

#[tokio::test]
async fn a_snapshot_of_one_table_keeps_what_is_remembered_of_the_others() {
    let world = world().await;
    world.source.execute("CREATE TABLE other (id int PRIMARY KEY); INSERT INTO other VALUES (1)").await;
    scene::take(&world).await;
    let remembered = || fs::read_dir(world.spool_dir().join("snapshot")).expect("it is there").count();
    let before = remembered();
    for round in 2..4 {
        world.source.execute(&format!("INSERT INTO other VALUES ({round})")).await;
        scene::take_with(&world, &["--tables", "other"]).await;
        assert_eq!(remembered(), before, "one part took the place of another");
    }
}

#[tokio::test]
async fn an_earlier_snapshot_that_lost_files_is_not_built_upon() {
    let world = world().await;
    scene::take(&world).await;
    let first = newest(world.archive_dir());
    let lost = first.files().next().expect("a part").file.clone();
    fs::remove_file(world.archive_dir().join("snapshots").join(&lost)).expect("it is there");
    let taken = scene::take(&world).await;
    let parts = taken["parts"].as_u64().expect("a number");
    assert_eq!(taken["parts_reused"].as_u64(), Some(parts - 1), "{taken}");
    assert_newest_is_the_source(&world, "lost").await;
    // A manifest that cannot be trusted is as good as none.
    let damaged = world.archive_dir().join(newest(world.archive_dir()).id.manifest().as_str());
    let text = fs::read_to_string(&damaged).expect("it is there");
    fs::write(&damaged, text.replacen("items", "itemz", 1)).expect("ours");
    let run = world.archiver(["snapshot", "--json"]).run().await.expect_code(0);
    assert!(run.stderr.contains("an earlier snapshot is of no use"), "{run}");
    assert_eq!(run.json()["parts"], taken["parts"]);
}

/// Disks rot without a word, and what is unchanged is not sent again: it would be as rotten in every later snapshot.
#[tokio::test]
async fn a_part_that_rotted_on_the_backup_host_is_sent_again_and_not_built_upon() {
    let world = world().await;
    scene::take(&world).await;
    let rot = || {
        let manifest = newest(world.archive_dir());
        let file = manifest.files().next().expect("a part").file.clone();
        let path = world.archive_dir().join("snapshots").join(file);
        let mut bytes = fs::read(&path).expect("it is there");
        let middle = bytes.len() / 2;
        bytes[middle] ^= 1;
        fs::write(&path, bytes).expect("ours");
    };
    rot();
    let run = world.archiver(["snapshot", "--json"]).run().await.expect_code(0);
    assert!(run.stderr.contains("a part of an earlier snapshot is damaged"), "{run}");
    let taken = run.json();
    let parts = taken["parts"].as_u64().expect("a number");
    assert_eq!(taken["parts_reused"].as_u64(), Some(parts - 1), "{taken}");
    assert_newest_is_the_source(&world, "rotten").await;
    // A difference from what is rotten leads nowhere either.
    rot();
    world.source.execute("UPDATE items SET text = 'other' WHERE id % 1000 = 0").await;
    let run = world.archiver(["snapshot", "--json"]).run().await.expect_code(0);
    assert_eq!(run.json()["parts_delta"].as_u64(), Some(parts - 1), "{run}");
    assert_newest_is_the_source(&world, "rotten").await;
}
