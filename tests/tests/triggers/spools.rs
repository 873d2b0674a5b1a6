//! A spool that is lost, or older than the archive: batches that it does not know.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use syncdata_tests::world::World;

use crate::copy::{follow, world};
use crate::troubles::gaps;

const USERS: &str = "CREATE TABLE users (id int PRIMARY KEY, name text)";
const NEW_SPOOL: &str = "null: what the triggers could not see is not known to a new spool";

fn copy_of(folder: &Path, to: &Path) {
    fs::create_dir_all(to).expect("ours");
    for entry in fs::read_dir(folder).expect("it is there") {
        let path = entry.expect("an entry").path();
        let to = to.join(path.file_name().expect("a name"));
        if path.is_dir() {
            copy_of(&path, &to);
        } else {
            fs::copy(&path, &to).expect("ours");
        }
    }
}

async fn brought_back(world: &World) {
    world.archiver(["snapshot"]).succeed().await;
    world.archiver(["run", "--once"]).succeed().await;
    world.applier(["sync"]).run().await;
    world.applier(["resync", "--all"]).succeed().await;
    world.applier(["sync"]).succeed().await;
    world.assert_same(&["users"]).await;
}

/// The segment is there, and production has not been told.
#[tokio::test]
async fn a_new_spool_takes_over_what_production_was_not_told_of() {
    let world = world(USERS).await;
    follow(&world, &["users"]).await;
    world.source.execute("INSERT INTO users VALUES (1, 'a'), (2, 'b')").await;
    let run = world.archiver(["run", "--once"]).fault("slot.before_advance=kill@1").run().await;
    assert!(run.was_killed(), "{run}");
    fs::remove_dir_all(world.spool_dir()).expect("ours");
    world.source.execute("DELETE FROM users WHERE id = 1; INSERT INTO users VALUES (3, 'c')").await;
    let ran = world.archiver(["run", "--once"]).run().await.expect_code(1);
    assert!(ran.stdout.contains("gap") || ran.stderr.contains("gap"), "{ran}");
    assert_eq!(gaps(&world), BTreeSet::from([NEW_SPOOL.to_owned()]));
    brought_back(&world).await;
}

/// The spool of an earlier moment: what lies between is archived, and is read once more.
#[tokio::test]
async fn an_older_spool_goes_on_behind_what_the_archive_has() {
    let world = world(USERS).await;
    follow(&world, &["users"]).await;
    let (spool, kept) = (world.spool_dir(), world.folder().join("kept"));
    copy_of(&spool, &kept);
    for round in 0..4 {
        world
            .source
            .execute(&format!(
                "INSERT INTO users VALUES ({round}, 'new'); UPDATE users SET name = '{round}' WHERE id < {round}"
            ))
            .await;
        world.archiver(["run", "--once"]).succeed().await;
    }
    world.source.execute("DELETE FROM users WHERE id = 0").await;
    fs::remove_dir_all(&spool).expect("ours");
    copy_of(&kept, &spool);
    world.carry().await;
    world.assert_same(&["users"]).await;
    world.source.execute("INSERT INTO users VALUES (9, 'nine')").await;
    world.carry().await;
    world.assert_same(&["users"]).await;
    assert_eq!(gaps(&world), BTreeSet::new());
}

/// A base copy ends with a batch whose segment is lost: no other batch may have its number.
#[tokio::test]
async fn no_batch_takes_the_number_that_a_base_copy_ends_with() {
    let mut world = world(USERS).await;
    follow(&world, &["users"]).await;
    let (spool, kept) = (world.spool_dir(), world.folder().join("kept"));
    copy_of(&spool, &kept);
    world.source.execute("INSERT INTO users VALUES (1, 'a')").await;
    world.archiver(["snapshot"]).succeed().await;
    // The backup host loses the segments of that time, but not the copy.
    let days = fs::read_dir(world.archive_dir().join("segments")).expect("days");
    let mut files: Vec<_> = days
        .flat_map(|day| fs::read_dir(day.expect("a day").path()).expect("files"))
        .map(|file| file.expect("a file").path())
        .collect();
    files.sort();
    let newest =
        files.last().and_then(|path| path.file_name()).expect("a segment").to_string_lossy().into_owned();
    let number = newest.split('-').next().expect("a number").to_owned();
    for file in files.iter().filter(|path| path.to_string_lossy().contains(&format!("/{number}-"))) {
        fs::remove_file(file).expect("ours");
    }
    fs::remove_file(world.archive_dir().join("head.json")).expect("ours");
    fs::remove_dir_all(&spool).expect("ours");
    copy_of(&kept, &spool);
    world.set_archiver("confirm", "shipped");
    world
        .source
        .execute("UPDATE users SET name = 'later' WHERE id = 1; INSERT INTO users VALUES (2, 'b')")
        .await;
    world.archiver(["run", "--once"]).run().await;
    world.applier(["sync"]).run().await;
    world.applier(["resync", "users"]).run().await;
    world.applier(["sync"]).run().await;
    let state = "SELECT state FROM data_sync_table_state WHERE table_name = 'users'";
    if world.target.value(state).await == "live" {
        world.assert_same(&["users"]).await;
    }
    brought_back(&world).await;
}

/// Taken away and made anew between two polls: nobody noted what happened meanwhile.
#[tokio::test]
async fn triggers_that_were_made_anew_are_a_gap() {
    let world = world(USERS).await;
    follow(&world, &["users"]).await;
    world.source.execute("INSERT INTO users VALUES (1, 'a')").await;
    world.carry().await;
    world.run_as_told(["drop-slot", "--force"]).await;
    let gone = world.archiver(["run", "--once"]).run().await.expect_code(2);
    assert!(gone.stderr.contains("setup --create-triggers"), "{gone}");
    world.source.execute("UPDATE users SET name = 'unseen'").await;
    world.run_as_told(["setup", "--create-triggers"]).await;
    world.source.execute("INSERT INTO users VALUES (2, 'b')").await;
    let ran = world.archiver(["run", "--once"]).run().await;
    assert_eq!(ran.code(), Some(1), "{ran}");
    let found = gaps(&world);
    assert!(found.contains("null: the triggers were taken away and made anew"), "{found:?}");
    brought_back(&world).await;
}
