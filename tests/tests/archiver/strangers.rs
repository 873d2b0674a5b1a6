//! A spool into which others have put something, or that is not ours.

use std::fs;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, chown, symlink};
use std::path::PathBuf;

use syncdata_tests::{World, WorldOptions};

use crate::operator;
use crate::reader;
use crate::scene::{self, poll};

const USERS: &str = "CREATE TABLE users (id int PRIMARY KEY, name text)";
const NOBODY: u32 = 65534;
const KEPT: &str = "somebody else's\n";

async fn world() -> World {
    let world = scene::world_with(WorldOptions::default().without_sftp(), USERS).await;
    poll(&world).await;
    world
}

fn foreign_file(world: &World) -> PathBuf {
    let path = world.folder().join("foreign");
    fs::write(&path, KEPT).expect("the world's folder is writable");
    path
}

/// Whoever could write there once may have left links: what they lead to is neither emptied nor read.
#[tokio::test]
async fn links_in_a_spool_lead_nowhere() {
    for name in ["segment-0.part", "state.json.part", "reserve.part", "lock", "snapshot.lock", "state.json"] {
        let world = world().await;
        let foreign = foreign_file(&world);
        let link = world.spool_dir().join(name);
        fs::remove_file(&link).unwrap_or_default();
        symlink(&foreign, &link).expect("ours");
        world.source.execute("INSERT INTO users VALUES (1, 'a')").await;
        let run = world.archiver(["run", "--once"]).run().await;
        let snapshot = world.archiver(["snapshot"]).run().await;
        assert_eq!(fs::read_to_string(&foreign).expect("it is there"), KEPT, "{name}: {run}{snapshot}");
        if name.ends_with(".part") {
            // What was being written is made anew, whatever has its name.
            assert_eq!((run.code(), snapshot.code()), (Some(0), Some(0)), "{name}: {run}{snapshot}");
        } else {
            let refused = if name == "snapshot.lock" { &snapshot } else { &run };
            assert_eq!(refused.code(), Some(2), "{name}: {refused}");
            assert!(refused.stderr.contains("is a link"), "{name}: {refused}");
            fs::remove_file(&link).expect("what the hint says");
        }
    }
}

#[tokio::test]
async fn a_folder_or_file_that_has_another_name_elsewhere_is_left_alone() {
    let world = world().await;
    let foreign = world.folder().join("folder");
    fs::create_dir(&foreign).expect("the world's folder is writable");
    fs::write(foreign.join("precious.part"), KEPT).expect("ours");
    chown(&foreign, Some(NOBODY), None).expect("root may");
    let day = world.spool_dir().join("segments/2026-01-01");
    fs::create_dir_all(day.parent().expect("it has one")).expect("ours");
    symlink(&foreign, &day).expect("ours");
    let run = world.archiver(["run", "--once"]).run().await.expect_code(2);
    assert!(run.stderr.contains("belongs to user 65534"), "{run}");
    assert_eq!(fs::read_to_string(foreign.join("precious.part")).expect("it is there"), KEPT);
    fs::remove_file(day).expect("ours");
    let foreign = foreign_file(&world);
    let lock = world.spool_dir().join("lock");
    fs::remove_file(&lock).expect("it is there");
    fs::hard_link(&foreign, &lock).expect("one file system");
    let run = world.archiver(["run", "--once"]).run().await.expect_code(2);
    assert!(run.stderr.contains("hard link"), "{run}");
    assert_eq!(fs::read_to_string(&foreign).expect("it is there"), KEPT);
    fs::remove_file(lock).expect("what the hint says");
    poll(&world).await;
}

/// Files that root made there would be closed to the service for ever.
#[tokio::test]
async fn a_spool_of_another_user_or_open_to_others_is_refused_with_the_command_to_run() {
    let mut world = world().await;
    let spool = world.spool_dir();
    let before = fs::read(spool.join("state.json")).expect("it is there");
    chown(&spool, Some(NOBODY), None).expect("root may");
    for command in [&["run", "--once"][..], &["snapshot"]] {
        let run = world.archiver(command).run().await.expect_code(2);
        for words in ["belongs to user 65534", "sudo -u '#65534'", "chown -R 0 "] {
            assert!(run.stderr.contains(words), "{run}");
        }
    }
    assert_eq!(fs::read(spool.join("state.json")).expect("it is there"), before);
    // Looking is nobody's harm.
    let status = world.archiver(["status"]).run().await;
    assert!(status.stdout.contains("newest segment"), "{status}");
    chown(&spool, Some(0), None).expect("what the hint says");
    fs::set_permissions(&spool, fs::Permissions::from_mode(0o777)).expect("ours");
    let run = world.archiver(["run", "--once"]).run().await.expect_code(2);
    assert!(run.stderr.contains(&format!("chmod go-w '{}'", spool.display())), "{run}");
    fs::set_permissions(&spool, fs::Permissions::from_mode(0o755)).expect("what the hint says");
    poll(&world).await;
    // Before the service was started for the first time.
    let state = world.folder().join("state");
    fs::create_dir(&state).expect("ours");
    chown(&state, Some(NOBODY), None).expect("root may");
    world.set_archiver("spool_dir", state.join("changes").to_str().expect("a plain name"));
    world.set_archiver("keep_days", 30);
    for command in [&["run", "--once"][..], &["snapshot"], &["proof"], &["prune", "--dry-run"]] {
        let run = world.archiver(command).run().await.expect_code(2);
        assert!(
            run.stderr.contains("belongs to another account")
                || run.stderr.contains("is new, and the archive"),
            "{run}"
        );
        assert_eq!(fs::read_dir(&state).expect("it is there").count(), 0, "{run}");
    }
}

/// An earlier version, run as root, left it: the service is told whose it is and what to do.
#[tokio::test]
async fn a_lock_that_belongs_to_another_user_is_named_with_its_owner() {
    let world = world().await;
    world.archiver(["snapshot"]).succeed().await;
    let lock = world.spool_dir().join("snapshot.lock");
    chown(&lock, Some(NOBODY), None).expect("root may");
    let run = world.archiver(["snapshot"]).run().await.expect_code(2);
    assert!(run.stderr.contains("snapshot.lock belongs to user 65534, mode 0600"), "{run}");
    assert!(run.stderr.contains(&format!("chown 0 '{}'", lock.display())), "{run}");
    chown(&lock, Some(0), None).expect("what the hint says");
    world.archiver(["snapshot"]).succeed().await;
    assert_eq!(fs::metadata(&lock).expect("it is there").mode() & 0o777, 0o600);
    assert_eq!((operator::gaps(&world).len(), reader::segments(world.archive_dir()).len()), (0, 0));
}

#[tokio::test]
async fn links_in_the_applier_s_cache_lead_nowhere() {
    let mut world = world().await;
    let cache = world.folder().join("applier/cache");
    world.set_applier("cache_dir", cache.to_str().expect("a plain name"));
    world.target.execute(USERS).await;
    world.source.execute("INSERT INTO users VALUES (1, 'a')").await;
    poll(&world).await;
    world.applier(["add-tables", "users", "--from", "start"]).succeed().await;
    world.applier(["sync"]).succeed().await;
    let folders = fs::read_dir(&cache).expect("it is there").map(|entry| entry.expect("an entry").path());
    let cache = folders.filter(|path| path.is_dir()).min().expect("this copy's own folder");
    let foreign = foreign_file(&world);
    for (id, ending) in [(2, ".part"), (3, "")] {
        world.source.execute(&format!("INSERT INTO users VALUES ({id}, 'a')")).await;
        poll(&world).await;
        let segment = reader::last_manifest(world.archive_dir()).expect("a segment");
        let link = cache.join(format!("{}{ending}", segment["file"].as_str().expect("a name")));
        fs::remove_file(&link).unwrap_or_default();
        symlink(&foreign, &link).expect("ours");
        let run = world.applier(["sync"]).run().await;
        assert_eq!(fs::read_to_string(&foreign).expect("it is there"), KEPT, "{ending}: {run}");
        fs::remove_file(&link).unwrap_or_default();
    }
    world.source.execute("INSERT INTO users VALUES (4, 'a')").await;
    poll(&world).await;
    fs::set_permissions(&cache, fs::Permissions::from_mode(0o777)).expect("ours");
    let run = world.applier(["sync"]).run().await.expect_code(2);
    assert!(run.stderr.contains("chmod go-w"), "{run}");
    fs::set_permissions(&cache, fs::Permissions::from_mode(0o700)).expect("what the hint says");
    world.applier(["sync"]).succeed().await;
    world.assert_same(&["users"]).await;
    // It is the service's, and nothing in it yet: what we left there would stop that one.
    let cache = cache.parent().expect("it has one");
    fs::remove_dir_all(cache).expect("ours");
    fs::create_dir(cache).expect("ours");
    chown(cache, Some(NOBODY), None).expect("root may");
    world.source.execute("INSERT INTO users VALUES (5, 'a')").await;
    poll(&world).await;
    for command in [&["check"][..], &["history", "users", "4"], &["consistency", "rows", "users"], &["sync"]]
    {
        let run = world.applier(command).run().await;
        let is_refused = run.code() == Some(2) && run.stderr.contains("belongs to another account");
        assert_eq!(is_refused, command == ["sync"], "{run}");
        assert_eq!(fs::read_dir(cache).expect("it is there").count(), 0, "{run}");
    }
    chown(cache, Some(0), None).expect("what the hint says");
    world.applier(["sync"]).succeed().await;
    world.assert_same(&["users"]).await;
}
