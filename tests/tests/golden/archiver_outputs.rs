//! What the archiver answers: before its first run, after it, and of a source without a slot; and the applier of proofs.

use expect_test::{ExpectFile, expect_file};
use syncdata_tests::Program;
use syncdata_tests::world::{World, WorldOptions};

use crate::steady;

const TABLES: &str = "CREATE TABLE users (id int PRIMARY KEY, name text);
    CREATE TABLE notes (body text)";

async fn check(world: &World, arguments: &[&str], expected: ExpectFile) {
    compare(world, world.archiver(arguments), expected).await;
}

async fn check_applier(world: &World, arguments: &[&str], expected: ExpectFile) {
    compare(world, world.applier(arguments), expected).await;
}

/// A document with a field a line. What is found of wal2json depends on its version.
async fn check_fields(world: &World, arguments: &[&str], expected: ExpectFile) {
    let done = world.archiver(arguments).run().await;
    let code = done.code().expect("it ended by itself");
    let mut document = done.json();
    if let Some(findings) = document["findings"].as_array_mut() {
        findings.retain(|finding| !finding.to_string().contains("wal2json"));
    }
    let text = steady::of_world(world, &format!("{document:#}"));
    expected.assert_eq(&format!("exit code {code}\n{text}"));
}

/// What it prints, with the exit code: words for people come last.
async fn compare(world: &World, program: Program, expected: ExpectFile) {
    let done = program.run().await;
    let code = done.code().expect("it ended by itself");
    let text = steady::of_world(world, &format!("{}--- words\n{}", done.stdout, done.stderr));
    expected.assert_eq(&format!("exit code {code}\n{text}"));
}

#[tokio::test]
async fn what_the_archiver_prints_is_as_it_was() {
    let world = WorldOptions::default().without_sftp().start().await;
    world.execute_on_both(TABLES).await;
    check(&world, &["check"], expect_file!["files/archiver-check-no-slot.txt"]).await;
    check(&world, &["config"], expect_file!["files/archiver-config.txt"]).await;
    check_fields(&world, &["config", "--json"], expect_file!["files/archiver-config-json.txt"]).await;

    check(&world, &["setup"], expect_file!["files/archiver-setup-told.txt"]).await;
    check_fields(&world, &["setup", "--json"], expect_file!["files/archiver-setup-told-json.txt"]).await;
    check(&world, &["setup", "--create-slot"], expect_file!["files/archiver-setup.txt"]).await;
    check_fields(&world, &["setup", "--json"], expect_file!["files/archiver-setup-json.txt"]).await;
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

    world.applier(["add-tables", "users", "notes"]).succeed().await;
    world.applier(["sync"]).succeed().await;
    world.target.execute("UPDATE users SET name = 'changed by hand'").await;
    check(&world, &["proof", "--json"], expect_file!["files/archiver-proof-json.txt"]).await;
    world.applier(["sync"]).run().await;
    check_applier(&world, &["consistency", "status"], expect_file!["files/consistency-status.txt"]).await;
    let status = ["consistency", "status", "--json"];
    check_applier(&world, &status, expect_file!["files/consistency-status-json.txt"]).await;
    check_applier(&world, &["consistency", "rows", "users"], expect_file!["files/consistency-rows.txt"])
        .await;
    let rows = ["consistency", "rows", "users", "--json"];
    check_applier(&world, &rows, expect_file!["files/consistency-rows-json.txt"]).await;
    let validate = ["consistency", "validate", "users", "1"];
    check_applier(&world, &validate, expect_file!["files/consistency-validate.txt"]).await;
    let dry_run = ["consistency", "repair", "users", "--dry-run"];
    check_applier(&world, &dry_run, expect_file!["files/consistency-repair-dry-run.txt"]).await;
    let repair = ["consistency", "repair", "users"];
    check_applier(&world, &repair, expect_file!["files/consistency-repair.txt"]).await;
    let again = ["consistency", "repair", "users", "--json"];
    check_applier(&world, &again, expect_file!["files/consistency-repair-again-json.txt"]).await;
    check_applier(&world, &["drill", "users"], expect_file!["files/drill.txt"]).await;
    check_applier(&world, &["drill", "users", "--json"], expect_file!["files/drill-json.txt"]).await;

    let key = world.folder().join("signing.key").display().to_string();
    check(&world, &["keygen", &key], expect_file!["files/archiver-keygen.txt"]).await;
    check(&world, &["keygen", &key], expect_file!["files/archiver-keygen-again.txt"]).await;
    // Of what can be read there is no gap to declare.
    world.source.execute("INSERT INTO users VALUES (2, 'Bob')").await;
    let upto = world.source.value("SELECT pg_current_wal_insert_lsn()").await;
    let gap = ["declare-gap", "--upto", &upto, "--reason", "a test"];
    check(&world, &gap, expect_file!["files/archiver-declare-gap-refused.txt"]).await;
    world.source.execute("INSERT INTO users VALUES (3, 'Cid')").await;
    check(&world, &["drop-slot"], expect_file!["files/archiver-drop-slot-refused.txt"]).await;
    check(&world, &["drop-slot", "--force"], expect_file!["files/archiver-drop-slot.txt"]).await;
    check(
        &world,
        &["drop-slot", "--force", "--json"],
        expect_file!["files/archiver-drop-slot-again-json.txt"],
    )
    .await;
}

/// What no poll can read is given up by name.
#[tokio::test]
async fn a_gap_that_is_declared_is_told_as_it_was() {
    let limited = |source: syncdata_tests::PostgresOptions| {
        source.setting("temp_file_limit", "1MB").setting("work_mem", "64kB")
    };
    let world = WorldOptions::default().without_sftp().source(limited).start().await;
    world.execute_on_both(TABLES).await;
    world.make_slot().await;
    world.source.execute("INSERT INTO users VALUES (1, 'Ann')").await;
    world.archiver(["run", "--once"]).succeed().await;
    world.source.execute("INSERT INTO users SELECT n, 'user' FROM generate_series(100, 30000) n").await;
    let upto = world.source.value("SELECT pg_current_wal_insert_lsn()").await;
    let gap = ["declare-gap", "--upto", &upto, "--reason", "a test"];
    check(&world, &gap, expect_file!["files/archiver-declare-gap.txt"]).await;
}
