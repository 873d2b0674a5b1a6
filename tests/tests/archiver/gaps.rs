//! Whatever makes the slot, the source or the archive another one than before: told apart, named with both
//! positions, published once where that is right and refused where it is not.

use std::fs;
use std::path::Path;
use std::process::Command;

use syncdata_tests::workload::TABLES;
use syncdata_tests::{Finished, PostgresOptions, PostgresServer, Workload, World, WorldOptions};

use crate::operator::{self, SLOT};
use crate::{reader, replay};

const DROP_SLOT: &str = "SELECT pg_drop_replication_slot('syncdata_slot')";

/// A table, a slot, one row that is archived.
async fn world() -> World {
    started(WorldOptions::default()).await
}

async fn started(options: WorldOptions) -> World {
    let world = options.start().await;
    world.source.execute("CREATE TABLE notes (id int PRIMARY KEY, text text)").await;
    world.source.execute(SLOT).await;
    insert(&world, 1).await;
    run(&world, 0).await;
    world
}

async fn insert(world: &World, id: u32) {
    world.source.execute(&format!("INSERT INTO notes VALUES ({id}, 'note')")).await;
}

async fn run(world: &World, code: i32) -> Finished {
    world.archiver(["run", "--once"]).run().await.expect_code(code)
}

fn segments(world: &World) -> usize {
    reader::manifests(world.archive_dir()).len()
}

/// The keys that the archive has, in order.
fn archived(world: &World) -> Vec<u64> {
    let mut ids = Vec::new();
    for line in reader::segments(world.archive_dir()).iter().flat_map(|segment| &segment.lines) {
        let line: serde_json::Value = serde_json::from_str(line).expect("JSON");
        ids.extend(line["data"]["id"].as_u64());
    }
    ids
}

/// The poll that finds it publishes one gap and ends with 1; the ones after it go on as ever.
async fn assert_one_gap(world: &World, cause: &str) {
    let before = segments(world);
    let archived = reader::last_manifest(world.archive_dir()).expect("segments")["end_lsn"].clone();
    insert(world, 90).await;
    let found = run(world, 1).await;
    let gaps = operator::gaps(world);
    assert_eq!(gaps.len(), 1, "{found}");
    let reason = gaps[0]["reason"].as_str().expect("a reason");
    assert!(reason.contains(cause), "{reason}");
    for end in ["from", "to"] {
        let lsn = gaps[0][end].as_str().expect("a position");
        assert!(reason.contains(lsn), "{reason} does not name {lsn}");
        assert!(found.stderr.contains(lsn), "{found}");
    }
    let from = gaps[0]["from"].as_str().expect("text").parse::<syncdata_formats::lsn::Lsn>().expect("an LSN");
    let archived = archived.as_str().expect("text").parse().expect("an LSN");
    assert!(from >= archived, "{from} is archived");
    assert!(segments(world) > before);
    insert(world, 91).await;
    run(world, 0).await;
    assert_eq!(operator::gaps(world), gaps, "published once");
    assert!(self::archived(world).ends_with(&[90, 91]), "{:?}", self::archived(world));
    let status = world.archiver(["status"]).run().await.expect_code(1);
    assert!(status.stdout.contains(reason), "{status}");
}

#[tokio::test]
async fn changes_that_a_stranger_consumed_are_a_gap() {
    let world = world().await;
    insert(&world, 2).await;
    world.source.execute("SELECT pg_logical_slot_get_changes('syncdata_slot', NULL, NULL)").await;
    assert_one_gap(&world, "consumed by another reader").await;
    assert!(!archived(&world).contains(&2));
}

#[tokio::test]
async fn a_dropped_slot_stops_and_is_never_made_again_in_silence() {
    let world = world().await;
    insert(&world, 2).await;
    world.source.execute(DROP_SLOT).await;
    let before = segments(&world);
    for _ in 0..2 {
        let run = run(&world, 2).await;
        assert!(run.stderr.contains("syncdata_slot does not exist"), "{run}");
        assert!(run.stderr.contains("setup --create-slot"), "{run}");
    }
    let status = world.archiver(["status"]).run().await.expect_code(1);
    assert!(status.stdout.contains("syncdata_slot does not exist"), "{status}");
    assert_eq!(world.source.query("SELECT 1 FROM pg_replication_slots").await.len(), 0);
    assert_eq!(segments(&world), before);
    world.source.execute(SLOT).await;
    assert_one_gap(&world, "dropped and made again").await;
}

#[tokio::test]
async fn a_slot_that_was_made_again_behind_our_back_is_a_gap() {
    let world = world().await;
    insert(&world, 2).await;
    world.source.execute(DROP_SLOT).await;
    world.source.execute(SLOT).await;
    assert_one_gap(&world, "dropped and made again").await;
}

#[tokio::test]
async fn a_slot_that_lost_its_wal_says_so_and_is_a_gap_once_it_is_made_again() {
    let source = |options: PostgresOptions| {
        options
            .setting("max_slot_wal_keep_size", "1MB")
            .setting("min_wal_size", "32MB")
            .setting("max_wal_size", "32MB")
    };
    let world = started(WorldOptions::default().source(source)).await;
    insert(&world, 2).await;
    for _ in 0..4 {
        world
            .source
            .execute("SELECT pg_switch_wal(); CREATE TABLE t AS SELECT 1; DROP TABLE t; CHECKPOINT")
            .await;
    }
    let stopped = run(&world, 2).await;
    assert!(stopped.stderr.contains("syncdata_slot is lost (wal_removed)"), "{stopped}");
    assert!(stopped.stderr.contains("snapshot"), "{stopped}");
    let status = world.archiver(["status"]).run().await.expect_code(1);
    assert!(status.stdout.contains("lost"), "{status}");
    world.archiver(["drop-slot"]).succeed().await;
    world.source.execute(SLOT).await;
    assert_one_gap(&world, "dropped and made again").await;
}

#[tokio::test]
async fn a_database_that_was_dropped_and_made_again_is_told_apart() {
    let world = world().await;
    let postgres = world.source.connect_to("postgres").await;
    postgres.batch_execute("DROP DATABASE app WITH (FORCE)").await.expect("nobody uses it");
    postgres.batch_execute("CREATE DATABASE app").await.expect("the name is free");
    world.source.execute("CREATE TABLE notes (id int PRIMARY KEY, text text)").await;
    let stopped = run(&world, 2).await;
    assert!(stopped.stderr.contains("database app was dropped and made again"), "{stopped}");
    world.source.execute(SLOT).await;
    assert_one_gap(&world, "the database was dropped and made again").await;
}

#[tokio::test]
async fn another_cluster_behind_the_same_address_is_refused() {
    let mut world = world().await;
    let other = PostgresOptions::default().database("app").own_cluster();
    let other = PostgresServer::start_with(other).await;
    other.execute("CREATE ROLE syncdata_user LOGIN REPLICATION").await;
    other.execute("CREATE TABLE notes (id int PRIMARY KEY, text text)").await;
    other.execute(SLOT).await;
    world.set_archiver("pg_port", i64::from(other.port()));
    let before = segments(&world);
    let stopped = run(&world, 2).await;
    assert!(stopped.stderr.contains("system_identifier was"), "{stopped}");
    assert_eq!(segments(&world), before);
}

#[tokio::test]
async fn a_crash_that_takes_the_slot_back_brings_nothing_twice() {
    let mut world = WorldOptions::default().archiver_setting("segment_max_changes", 9).start().await;
    let mut workload = Workload::new(3);
    workload.create_tables(&world.source).await;
    world.source.execute(SLOT).await;
    workload.fill(&world.source).await;
    let mut went_back = 0;
    for _ in 0..4 {
        world.source.execute("CHECKPOINT").await;
        // The first advance behind a checkpoint moves restart_lsn, which writes the slot down; the next does not.
        for _ in 0..2 {
            workload.run(&world.source, 3).await;
            run(&world, 0).await;
        }
        let before = operator::confirmed(&world).await;
        world.source.crash();
        world.source.resume().await;
        went_back += u32::from(operator::confirmed(&world).await < before);
        workload.run(&world.source, 2).await;
        run(&world, 0).await;
    }
    assert!(went_back > 0, "no crash took the slot back");
    replay::assert_equals(world.archive_dir(), &world.source, &TABLES).await;
    assert_eq!(operator::gaps(&world).len(), 0);
}

#[tokio::test]
async fn a_daemon_knows_of_a_gap_before_its_first_poll_has_ended() {
    let world = world().await;
    insert(&world, 2).await;
    world.source.execute("SELECT pg_logical_slot_get_changes('syncdata_slot', NULL, NULL)").await;
    run(&world, 1).await;
    // Another archiver's lock, for which the poll waits.
    let other = world.source.connect().await;
    let lock = "SELECT pg_advisory_lock(x'53594e43'::int, hashtext('syncdata_slot'))";
    other.batch_execute(lock).await.expect("nobody has it");
    let mut daemon = world.archiver(["run"]).spawn();
    daemon.says("another session holds the lock of the slot").await;
    let status = operator::status(&world).await;
    assert_eq!((status["healthy"].as_bool(), status["last_poll"].is_null()), (Some(false), true), "{status}");
    assert!(
        status["problems"][0].to_string().contains("1 gaps that no snapshot has mended, of "),
        "{status}"
    );
    let said = world.archiver(["status"]).run().await.expect_code(1);
    assert!(said.stdout.contains("gap: after") && said.stdout.contains(" of all tables: "), "{said}");
    drop(other);
    assert_eq!(operator::poll(&world).await.exit_code, 0);
    daemon.stop().await.expect_code(0);
}

#[tokio::test]
async fn a_lost_spool_takes_its_position_from_the_archive() {
    let mut world = started(WorldOptions::default().over_sftp()).await;
    // Idle progress, which the head alone knows.
    world.source.execute("CREATE SEQUENCE unrelated; SELECT pg_switch_wal()").await;
    run(&world, 0).await;
    fs::remove_dir_all(world.spool_dir()).expect("our folder");
    world.backup.stop();
    let stopped = run(&world, 2).await;
    assert!(stopped.stderr.contains("the archive must be seen before"), "{stopped}");
    world.backup.restart();
    insert(&world, 2).await;
    run(&world, 0).await;
    assert_eq!((archived(&world), operator::gaps(&world).len()), (vec![1, 2], 0));
}

/// What is lost with the spool, before the archive has a segment, is how far an idle slot had come: the head knows.
#[tokio::test]
async fn changes_that_a_stranger_consumed_are_a_gap_also_when_the_spool_is_lost() {
    let world = WorldOptions::default().start().await;
    world.source.execute("CREATE TABLE notes (id int PRIMARY KEY, text text)").await;
    world.source.execute(SLOT).await;
    run(&world, 0).await;
    insert(&world, 1).await;
    world.source.execute("SELECT pg_logical_slot_get_changes('syncdata_slot', NULL, NULL)").await;
    fs::remove_dir_all(world.spool_dir()).expect("our folder");
    insert(&world, 2).await;
    run(&world, 1).await;
    let gaps = operator::gaps(&world);
    assert!(
        gaps.len() == 1 && gaps[0]["reason"].to_string().contains("consumed by another reader"),
        "{gaps:?}"
    );
    assert_eq!(archived(&world), [2]);
}

#[tokio::test]
async fn a_spool_that_lost_its_state_keeps_what_only_it_has() {
    let mut world = started(WorldOptions::default().over_sftp().archiver_setting("confirm", "spooled")).await;
    world.backup.stop();
    insert(&world, 2).await;
    run(&world, 1).await;
    fs::remove_file(world.spool_dir().join("state.json")).expect("our file");
    world.backup.restart();
    insert(&world, 3).await;
    run(&world, 0).await;
    assert_eq!((archived(&world), operator::gaps(&world).len()), (vec![1, 2, 3], 0));
}

#[tokio::test]
async fn another_slot_than_that_of_the_spool_is_refused() {
    let mut world = world().await;
    world.source.execute("SELECT pg_create_logical_replication_slot('other_slot', 'wal2json')").await;
    world.set_archiver("slot_name", "other_slot");
    let before = segments(&world);
    let stopped = run(&world, 2).await;
    assert!(stopped.stderr.contains("slot_name was syncdata_slot, is other_slot"), "{stopped}");
    assert_eq!(segments(&world), before);
}

#[tokio::test]
async fn a_spool_restored_from_a_backup_goes_on_where_the_archive_is() {
    let world = world().await;
    let old = world.folder().join("old-spool");
    copy(&world.spool_dir(), &old);
    for id in 2..5 {
        insert(&world, id).await;
        run(&world, 0).await;
    }
    world.source.execute("CREATE TABLE unrelated (); SELECT pg_switch_wal()").await;
    run(&world, 0).await;
    fs::remove_dir_all(world.spool_dir()).expect("our folder");
    copy(&old, &world.spool_dir());
    insert(&world, 5).await;
    let run = run(&world, 0).await;
    assert!(run.stderr.contains("has a segment that this spool did not know"), "{run}");
    assert_eq!((archived(&world), operator::gaps(&world).len()), (vec![1, 2, 3, 4, 5], 0));
}

#[tokio::test]
async fn a_replaced_archive_is_refused() {
    let world = world().await;
    let identity = world.archive_dir().join("archive.json");
    let text = fs::read_to_string(&identity).expect("our file");
    let id = reader::json(&identity)["archive_id"].as_str().expect("an id").to_owned();
    let other = id.replace(|c: char| c.is_ascii_digit(), "7");
    fs::write(&identity, text.replace(&id, &other)).expect("our file");
    insert(&world, 2).await;
    // Nothing is written there; the changes are safe in the spool.
    let stopped = run(&world, 1).await;
    assert!(stopped.stderr.contains(&id) && stopped.stderr.contains(&other), "{stopped}");
    fs::write(&identity, text).expect("our file");
    run(&world, 0).await;
    assert_eq!(archived(&world), [1, 2]);
}

#[tokio::test]
async fn an_archive_that_was_rolled_back_is_mended_from_the_spool_or_refused() {
    let world = world().await;
    let old = world.folder().join("old-archive");
    copy(world.archive_dir(), &old);
    for id in 2..4 {
        insert(&world, id).await;
        run(&world, 0).await;
    }
    let restore = || {
        fs::remove_dir_all(world.archive_dir()).expect("our folder");
        copy(&old, world.archive_dir());
    };
    restore();
    run(&world, 0).await;
    assert_eq!(archived(&world), [1, 2, 3], "the spool still had it");
    restore();
    // The spool forgets what was shipped longer than a day ago.
    let forgotten = reader::manifests(&world.spool_dir());
    for manifest in &forgotten[..2] {
        fs::remove_file(manifest).expect("our file");
    }
    let before = operator::confirmed(&world).await;
    insert(&world, 4).await;
    let stopped = run(&world, 1).await;
    assert!(stopped.stderr.contains("was rolled back: it ends with segment 1"), "{stopped}");
    assert_eq!((segments(&world), operator::confirmed(&world).await), (1, before));
}

#[tokio::test]
async fn a_foreign_segment_with_our_next_number_stops_the_shipping() {
    let mut world = started(WorldOptions::default().over_sftp()).await;
    let copied = world.folder().join("a-second-archiver");
    copy(&world.spool_dir(), &copied);
    let own = world.folder().join("own");
    fs::rename(world.spool_dir(), &own).expect("our folder");
    fs::rename(&copied, world.spool_dir()).expect("our folder");
    // The other one ships segment 2, while ours has another segment 2 in its spool.
    insert(&world, 2).await;
    insert(&world, 3).await;
    world.backup.stop();
    run(&world, 1).await;
    fs::rename(world.spool_dir(), &copied).expect("our folder");
    fs::rename(&own, world.spool_dir()).expect("our folder");
    insert(&world, 4).await;
    world.backup.restart();
    run(&world, 0).await;
    let whole = archived(&world);
    fs::remove_dir_all(world.spool_dir()).expect("our folder");
    fs::rename(&copied, world.spool_dir()).expect("our folder");
    let stopped = run(&world, 1).await;
    assert!(stopped.stderr.contains("another segment 0000000002"), "{stopped}");
    assert_eq!(archived(&world), whole, "nothing of it was touched");
}

fn copy(from: &Path, to: &Path) {
    let copied = Command::new("cp").arg("-a").arg(from).arg(to).status().expect("cp is there");
    assert!(copied.success());
}
