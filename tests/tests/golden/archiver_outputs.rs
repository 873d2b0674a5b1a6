//! What the archiver answers: before its first run, after it, and of a source without a slot.

use expect_test::{ExpectFile, expect_file};
use syncdata_tests::world::{World, WorldOptions};

use crate::steady;

const TABLES: &str = "CREATE TABLE users (id int PRIMARY KEY, name text);
    CREATE TABLE notes (body text)";
const SLOT: &str = "SELECT pg_create_logical_replication_slot('syncdata_slot', 'wal2json')";

/// What it prints, with the exit code: words for people come last.
async fn check(world: &World, arguments: &[&str], expected: ExpectFile) {
    let done = world.archiver(arguments).run().await;
    let code = done.code().expect("it ended by itself");
    let text = steady::of_world(world, &format!("{}--- words\n{}", done.stdout, done.stderr));
    expected.assert_eq(&format!("exit code {code}\n{text}"));
}

#[tokio::test]
async fn what_the_archiver_prints_is_as_it_was() {
    let world = WorldOptions::default().without_sftp().start().await;
    world.source.execute(TABLES).await;
    check(&world, &["check"], expect_file!["files/archiver-check-no-slot.txt"]).await;

    world.source.execute(SLOT).await;
    world.source.execute("INSERT INTO users VALUES (1, 'Ann')").await;
    check(&world, &["status"], expect_file!["files/archiver-status-not-started.txt"]).await;
    check(&world, &["run", "--once"], expect_file!["files/archiver-run-once.txt"]).await;
    check(&world, &["check"], expect_file!["files/archiver-check.txt"]).await;
    check(&world, &["status"], expect_file!["files/archiver-status.txt"]).await;
    check(&world, &["status", "--json"], expect_file!["files/archiver-status-json.txt"]).await;
    check(&world, &["snapshot"], expect_file!["files/archiver-snapshot.txt"]).await;
    check(&world, &["proof"], expect_file!["files/archiver-proof.txt"]).await;
    check(&world, &["prune", "--dry-run"], expect_file!["files/archiver-prune-dry-run.txt"]).await;
    check(&world, &["verify"], expect_file!["files/archiver-verify.txt"]).await;
}
