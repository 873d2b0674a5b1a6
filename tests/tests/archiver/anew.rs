//! Production comes back from an earlier moment, where it writes another history: what idle polls had covered, and what was
//! archived without a commit, says nothing of that one.

use std::fs;

use syncdata_formats::lsn::Lsn;
use syncdata_tests::postgres::PostgresServer;
use syncdata_tests::{Finished, World, WorldOptions};

use crate::operator::{self, SLOT};
use crate::{reader, replay};

const FILL: &str = "INSERT INTO others SELECT i, repeat('x', 100) FROM generate_series(1, 20000) i";

async fn world() -> World {
    let tables: Vec<toml::Value> = vec!["notes".into()];
    let options = WorldOptions::default().without_sftp().archiver_setting("tables", tables);
    let world = options.start().await;
    world.source.execute("CREATE TABLE notes (id int PRIMARY KEY, text text)").await;
    world.source.execute("CREATE TABLE others (id int, filling text)").await;
    world.source.execute(SLOT).await;
    world.source.execute("INSERT INTO notes VALUES (1, 'one')").await;
    run(&world, 0).await;
    world
}

async fn run(world: &World, code: i32) -> Finished {
    world.archiver(["run", "--once"]).run().await.expect_code(code)
}

async fn flush(server: &PostgresServer) -> Lsn {
    server.value("SELECT pg_current_wal_flush_lsn()").await.parse().expect("an LSN")
}

fn copy(from: &std::path::Path, to: &std::path::Path) {
    let done = std::process::Command::new("cp").arg("-a").arg(from).arg(to).status().expect("cp");
    assert!(done.success());
}

/// What the message says to do is made: a slot below what idle polls had covered. A slot that a crash takes back stands where
/// it stood once, and nothing is missing.
#[tokio::test]
async fn a_slot_that_was_made_anew_below_what_was_covered_is_a_gap_and_one_that_went_back_is_none() {
    for spool in ["there", "new", "back too"] {
        let mut world = world().await;
        // Idle polls move the slot, and the checkpoint keeps an earlier place of it.
        for sql in ["SELECT pg_switch_wal()", "CHECKPOINT", FILL] {
            world.source.execute(sql).await;
            run(&world, 0).await;
        }
        let stood = operator::confirmed(&world).await;
        world.source.crash();
        world.source.resume().await;
        assert!(operator::confirmed(&world).await < stood, "it went back");
        if spool == "new" {
            fs::remove_dir_all(world.spool_dir()).expect("our folder");
        }
        run(&world, 0).await;
        assert_eq!(operator::gaps(&world).len(), 0, "{spool}");

        let mut restored = world.source.copied(false).await;
        let saved = world.folder().join("saved-spool");
        copy(&world.spool_dir(), &saved);
        world.source.execute(FILL).await;
        run(&world, 0).await;
        let covered = operator::confirmed(&world).await;
        world.set_archiver("pg_port", i64::from(restored.port()));
        restored.execute("SELECT pg_drop_replication_slot('syncdata_slot')").await;
        restored.execute("INSERT INTO notes VALUES (3, 'in no slot')").await;
        let told = run(&world, 2).await;
        assert!(told.stderr.contains("setup --create-slot"), "{told}");
        restored.execute(SLOT).await;
        assert!(flush(&restored).await < covered, "{spool}");
        if spool != "there" {
            fs::remove_dir_all(world.spool_dir()).expect("our folder");
        }
        if spool == "back too" {
            copy(&saved, &world.spool_dir());
        }
        run(&world, 1).await;
        let gaps = operator::gaps(&world);
        assert_eq!((gaps.len(), gaps[0]["tables"].is_null()), (1, true), "{spool}: {gaps:?}");
        restored.crash();
        restored.resume().await;
        restored.execute("INSERT INTO notes VALUES (4, 'after')").await;
        run(&world, 0).await;
        assert_eq!(operator::gaps(&world).len(), 1, "{spool}");
        let lines: String =
            reader::segments(world.archive_dir()).into_iter().flat_map(|segment| segment.lines).collect();
        assert!(lines.contains("after"), "{spool}");
    }
}

/// The proof of an idle production stands in the archive, of a history that production and spool have lost together. What
/// production commits up to there is captured all the same.
#[tokio::test]
async fn a_mark_of_a_history_that_is_lost_is_not_adopted() {
    let mut world = world().await;
    let restored = world.source.copied(false).await;
    let saved = world.folder().join("saved-spool");
    copy(&world.spool_dir(), &saved);
    world.source.execute(FILL).await;
    world.archiver(["proof"]).succeed().await;
    let manifests = reader::manifests(world.archive_dir());
    let foreign = manifests.last().expect("segments");
    assert_eq!(reader::json(foreign)["records"], 0, "a mark alone");
    fs::remove_dir_all(world.spool_dir()).expect("our folder");
    copy(&saved, &world.spool_dir());
    world.set_archiver("pg_port", i64::from(restored.port()));
    let stopped = run(&world, 1).await;
    assert!(stopped.stderr.contains("segment 0000000002"), "it is named: {stopped}");
    assert!(stopped.stderr.contains("past the end of the source's WAL"), "{stopped}");
    restored.execute("INSERT INTO notes VALUES (3, 'three')").await;
    restored.execute(FILL).await;
    restored.execute(FILL).await;
    for (id, says) in [(4, "does not have the transaction"), (5, "has another segment 0000000002")] {
        let stopped = run(&world, 1).await;
        assert!(stopped.stderr.contains(says), "{stopped}");
        restored.execute(&format!("INSERT INTO notes VALUES ({id}, 'later')")).await;
    }
    assert_eq!(reader::manifests(world.archive_dir()), manifests, "nothing is published after it");
    // What the hint says.
    fs::remove_file(foreign).expect("ours");
    fs::remove_file(world.archive_dir().join("head.json")).expect("ours");
    run(&world, 0).await;
    replay::assert_equals(world.archive_dir(), &restored, &["notes"]).await;
    assert_eq!(operator::gaps(&world).len(), 0);
}
