//! What the server cannot hand out: a value too large to print, a limit that is hit, a plugin that is not loaded.

use syncdata_formats::lsn::Lsn;
use syncdata_tests::{Finished, World, WorldOptions};

use crate::operator::{self, SLOT};
use crate::reader;

async fn world(options: WorldOptions) -> World {
    let world = options.start().await;
    world
        .source
        .execute("CREATE TABLE notes (id int PRIMARY KEY, text text); CREATE TABLE good (id int PRIMARY KEY)")
        .await;
    world.source.execute(SLOT).await;
    world.source.execute("INSERT INTO good VALUES (1)").await;
    world.archiver(["run", "--once"]).succeed().await;
    world
}

fn archived(world: &World) -> u64 {
    let segments = reader::segments(world.archive_dir());
    segments.iter().filter_map(|segment| segment.manifest["records"].as_u64()).sum()
}

/// Little on disk, and more than a gigabyte printed: each character becomes two.
const POISON: &str = "repeat('\"', 540000000)";

/// The arguments of the command that the message says to run.
fn advised(said: &str) -> Vec<String> {
    let (_, command) = said.split_once("`syncdata-archiver declare-gap ").expect("a command");
    let (command, _) = command.split_once('`').expect("its end");
    let (options, reason) = command.split_once(" --reason \"").expect("a reason");
    let options = ["declare-gap"].into_iter().chain(options.split(' ')).map(str::to_owned);
    options.chain(["--reason".to_owned(), reason.trim_end_matches('"').to_owned()]).collect()
}

#[tokio::test]
async fn a_transaction_that_cannot_be_printed_is_named_and_can_be_declared_a_gap() {
    let world = world(WorldOptions::default()).await;
    world.source.execute("INSERT INTO good VALUES (2)").await;
    world.source.execute(&format!("INSERT INTO notes VALUES (1, {POISON})")).await;
    let end = world.source.value("SELECT pg_current_wal_insert_lsn()").await;
    world.source.execute("INSERT INTO good VALUES (3)").await;
    let daemon = world.archiver(["run"]).spawn();
    let answer = operator::poll(&world).await;
    assert_eq!(answer.exit_code, 2, "{answer:?}\n{}", daemon.stderr());
    assert_eq!(archived(&world), 2, "what lies before it is shipped");
    let status = operator::status(&world).await;
    assert_eq!(status["healthy"], false);
    let said = status["problems"][0].as_str().expect("a problem");
    assert!(said.contains("of notes cannot be read") && said.contains(&end), "{end}: {said}");
    let command = advised(said);
    assert!(command.contains(&end), "{command:?}");
    world.archiver(command).patience(PATIENCE).succeed().await;
    assert_eq!(operator::poll(&world).await.exit_code, 0, "{}", daemon.stderr());
    assert_eq!(archived(&world), 3);
    let gaps = operator::gaps(&world);
    assert_eq!(gaps.len(), 1);
    assert_eq!(gaps[0]["to"], end.as_str());
    daemon.stop().await.expect_code(0);
}

const PATIENCE: std::time::Duration = std::time::Duration::from_secs(240);

#[tokio::test]
async fn a_limit_of_the_server_stops_with_its_name_and_consumes_nothing() {
    let source = |options: syncdata_tests::PostgresOptions| {
        options.setting("temp_file_limit", "1MB").setting("work_mem", "64kB")
    };
    let world = world(WorldOptions::default().source(source)).await;
    world.source.execute("INSERT INTO good SELECT generate_series(10, 4000)").await;
    world.source.execute("INSERT INTO good SELECT generate_series(4001, 8000)").await;
    // Together they are too large an answer, each alone is not.
    world.archiver(["run", "--once"]).succeed().await;
    assert_eq!(archived(&world), 7992);
    world.source.execute("INSERT INTO good SELECT generate_series(10001, 30000)").await;
    let before = operator::confirmed(&world).await;
    let stopped = world.archiver(["run", "--once"]).run().await.expect_code(2);
    assert!(stopped.stderr.contains("temp_file_limit"), "{stopped}");
    assert!(
        stopped.stderr.contains("raise it for this role, or lower poll_max_changes; or, to go on"),
        "{stopped}"
    );
    assert_eq!((operator::confirmed(&world).await, operator::gaps(&world).len()), (before, 0));
    world.source.append_setting("temp_file_limit", "-1");
    world.source.reload();
    world.archiver(["run", "--once"]).succeed().await;
    assert_eq!(archived(&world), 27_992);
}

/// What fails by chance while it is looked for is taken for no transaction's fault, and steps over nothing.
#[tokio::test]
async fn an_error_while_it_is_looked_for_names_no_transaction() {
    let world = world(limited()).await;
    world.source.execute("INSERT INTO good SELECT generate_series(10001, 40000)").await;
    let flush = world.source.value("SELECT pg_current_wal_flush_lsn()").await;
    let before = operator::confirmed(&world).await;
    let declare = ["declare-gap", "--upto", &flush, "--reason", "why not"];
    for visit in [1, 2] {
        let fault = format!("poison.before_try=error@{visit}");
        for command in [&["run", "--once"][..], &declare] {
            let run = world.archiver(command).fault(&fault).run().await.expect_code(2);
            assert!(run.stderr.contains("fault injected") && !run.stderr.contains("declare-gap"), "{run}");
            assert!(!run.stderr.contains("cannot be read;"), "{run}");
        }
    }
    assert_eq!((operator::confirmed(&world).await, operator::gaps(&world).len()), (before, 0));
    world.archiver(declare).succeed().await;
    assert_eq!(operator::gaps(&world).len(), 1);
}

/// Each of them fits the limit. While the backup host is away the slot hands out both.
#[tokio::test]
async fn a_transaction_that_is_too_large_together_with_archived_ones_waits_for_the_backup_host() {
    let mut world = world(limited()).await;
    world.backup.stop();
    world.source.execute("INSERT INTO good SELECT generate_series(10, 4000)").await;
    world.source.execute("INSERT INTO good SELECT generate_series(4001, 8000)").await;
    let run = world.archiver(["run", "--once"]).run().await.expect_code(2);
    let (_, hint) = run.stderr.split_once("may only be too large together").expect("a hint");
    let (first, _) = hint.split_once("declare-gap").expect("what gives it up comes last");
    assert!(first.contains("bring the backup host back, or set confirm = \"spooled\""), "{run}");
    world.backup.restart();
    world.archiver(["run", "--once"]).succeed().await;
    assert_eq!((archived(&world), operator::gaps(&world).len()), (7992, 0));
}

/// Killed wherever something is safe, the same command brings it to its end: one gap, told once, and the slot past it.
#[tokio::test]
async fn declare_gap_that_is_killed_at_any_step_is_brought_to_its_end_by_the_same_command() {
    let world = world(limited().without_sftp()).await;
    let trace = world.folder().join("trace");
    let declare = too_large(&world, 0).await;
    world.archiver(&declare).trace(&trace).succeed().await;
    let mut gaps = operator::gaps(&world).len();
    assert_eq!(gaps, 1);
    let steps = std::fs::read_to_string(&trace).expect("a trace");
    let steps: std::collections::BTreeSet<&str> = steps.lines().collect();
    for needed in ["spool.before_rename", "spool.state_written", "ship.manifest_there", "slot.after_advance"]
    {
        assert!(steps.contains(needed), "{needed}: {steps:?}");
    }
    for (round, step) in steps.into_iter().enumerate() {
        let declare = too_large(&world, round + 1).await;
        let killed = world.archiver(&declare).fault(&format!("{step}=kill")).run().await;
        assert!(killed.was_killed(), "{step}: {killed}");
        // What was declared and only not confirmed yet is past already.
        let again = world.archiver(&declare).run().await;
        if again.code() != Some(0) {
            assert!(
                again.stderr.contains("what is before") && again.stderr.contains("is archived"),
                "{step}: {again}"
            );
        }
        gaps += 1;
        assert_eq!(operator::gaps(&world).len(), gaps, "{step}: {again}");
        world.source.execute(&format!("INSERT INTO notes VALUES ({round}, 'after it')")).await;
        let before = archived(&world);
        world.archiver(["run", "--once"]).succeed().await;
        assert_eq!((archived(&world), operator::gaps(&world).len()), (before + 1, gaps), "{step}");
        let verified = world.archiver(["verify"]).run().await.expect_code(0);
        assert!(verified.stdout.contains("sound") || verified.stderr.is_empty(), "{step}: {verified}");
    }
}

/// A transaction that the server cannot hand out, and the command that gives it up.
async fn too_large(world: &World, round: usize) -> Vec<String> {
    let from = 100_000 * (round + 1);
    world.source.execute(&format!("INSERT INTO good SELECT generate_series({from}, {from} + 20000)")).await;
    advised(&world.archiver(["run", "--once"]).run().await.expect_code(2).stderr)
}

fn limited() -> WorldOptions {
    let limit = |source: syncdata_tests::PostgresOptions| {
        source.setting("temp_file_limit", "1MB").setting("work_mem", "64kB")
    };
    WorldOptions::default().source(limit)
}

/// Every role may write one, with every prefix; nobody reads them, whatever they hold.
#[tokio::test]
async fn no_message_of_any_role_stops_or_slows_capture() {
    let world = world(WorldOptions::default()).await;
    world.source.execute("CREATE ROLE anybody LOGIN").await;
    let as_anybody =
        async |sql: &str| world.source.execute(&format!("SET ROLE anybody; {sql}; RESET ROLE")).await;
    let mut archived_so_far = archived(&world);
    for prefix in ["syncdata", "", "syncdata,syncdata", "x", "sync\\data", "*"] {
        for transactional in ["true", "false"] {
            for content in ["'\\xff00fe'::bytea", "convert_to(repeat(chr(1), 1000), 'UTF8')", "''"] {
                let emit = format!("SELECT pg_logical_emit_message({transactional}, '{prefix}', {content})");
                as_anybody(&emit).await;
                world
                    .source
                    .execute(&format!(
                        "BEGIN; {emit}; INSERT INTO notes VALUES ({archived_so_far}, ''); COMMIT"
                    ))
                    .await;
                world.source.execute(&format!("BEGIN; {emit}; DELETE FROM notes; ROLLBACK")).await;
                archived_so_far += 1;
            }
        }
    }
    // Sixty megabytes that no poll prints.
    for transactional in ["true", "false"] {
        as_anybody(&format!(
            "SELECT pg_logical_emit_message({transactional}, 'syncdata', repeat(chr(1), 60000000))"
        ))
        .await;
    }
    // What `drop-slot` looks for is read the same way.
    let refused = world.archiver(["drop-slot"]).run().await.expect_code(2);
    assert!(refused.stderr.contains("changes wait in the slot"), "{refused}");
    world.archiver(["run", "--once"]).succeed().await;
    assert_eq!((archived(&world), operator::gaps(&world).len()), (archived_so_far, 0));
    let flush: Lsn = world.source.value("SELECT pg_current_wal_flush_lsn()").await.parse().expect("an LSN");
    for transactional in ["true", "false"] {
        as_anybody(&format!("SELECT pg_logical_emit_message({transactional}, 'syncdata', '\\xff'::bytea)"))
            .await;
    }
    world.archiver(["run", "--once"]).succeed().await;
    assert!(operator::confirmed(&world).await > flush, "the slot goes past messages alone");
    let dropped = world.archiver(["drop-slot"]).succeed().await;
    assert!(dropped.stderr.contains("is dropped"), "{dropped}");
}

/// The transaction before a message that nobody can print is looked for with the same peeks.
#[tokio::test]
async fn messages_beside_a_transaction_that_cannot_be_read_change_nothing() {
    let world = world(limited()).await;
    for transactional in ["true", "false"] {
        let emit = format!("SELECT pg_logical_emit_message({transactional}, 'syncdata', '\\xff'::bytea)");
        world.source.execute(&emit).await;
    }
    world.source.execute("INSERT INTO good SELECT generate_series(10001, 40000)").await;
    let stopped = world.archiver(["run", "--once"]).run().await.expect_code(2);
    assert!(stopped.stderr.contains("of good cannot be read"), "{stopped}");
    world.archiver(advised(&stopped.stderr)).succeed().await;
    assert_eq!(operator::gaps(&world).len(), 1);
}

/// What can be read before the bad transaction is not given up with it because there is no room for it now.
#[tokio::test]
async fn with_a_full_spool_no_gap_is_declared_over_changes_that_can_be_read() {
    let mut world = world(limited().archiver_setting("spool_max", "1KiB")).await;
    world.backup.stop();
    world.source.execute("INSERT INTO good SELECT generate_series(10, 4000)").await;
    world.archiver(["run", "--once"]).run().await.expect_code(1);
    world.source.execute("INSERT INTO notes VALUES (1, 'can be read')").await;
    world.source.execute("INSERT INTO good SELECT generate_series(10001, 40000)").await;
    let upto = world.source.value("SELECT pg_current_wal_flush_lsn()").await;
    let declare = ["declare-gap", "--upto", &upto, "--reason", "too large"];
    let refused = world.archiver(declare).run().await.expect_code(2);
    assert!(refused.stderr.contains("changes that can be read would be given up"), "{refused}");
    assert!(refused.stderr.contains("bring the backup host back"), "{refused}");
    world.backup.restart();
    world.archiver(declare).succeed().await;
    assert_eq!((archived(&world), operator::gaps(&world).len()), (1 + 3991 + 1, 1));
}

/// What lies before the gap is in the spool alone: the slot must not let go of it.
#[tokio::test]
async fn a_gap_that_is_declared_while_the_backup_host_is_away_moves_the_slot_when_it_is_back() {
    let source = |options: syncdata_tests::PostgresOptions| {
        options.setting("temp_file_limit", "1MB").setting("work_mem", "64kB")
    };
    let mut world = world(WorldOptions::default().source(source)).await;
    world.archiver(["run", "--once"]).succeed().await;
    let before = operator::confirmed(&world).await;
    world.backup.stop();
    world.source.execute("INSERT INTO good VALUES (2)").await;
    world.source.execute("INSERT INTO good SELECT generate_series(10001, 40000)").await;
    world.source.execute("INSERT INTO good VALUES (3)").await;
    let daemon = world.archiver(["run"]).spawn();
    let flush: Lsn = world.source.value("SELECT pg_current_wal_flush_lsn()").await.parse().expect("an LSN");
    let answer = operator::poll(&world).await;
    assert_eq!(answer.exit_code, 2, "{answer:?}\n{}", daemon.stderr());
    // What production keeps is seen all the same.
    let status = operator::status(&world).await;
    let seen: Lsn = status["source"]["flush_lsn"].as_str().expect("an LSN").parse().expect("an LSN");
    assert!(seen >= flush, "{status}");
    assert_eq!(status["spool"]["unshipped_segments"], 1, "{status}");
    let problem = status["problems"][0].as_str().expect("a problem");
    let command = advised(problem);
    let declared = world.archiver(command).run().await.expect_code(1);
    assert!(declared.stderr.contains("gap declared up to"), "{declared}");
    assert!(declared.stderr.contains("not yet on the backup host"), "{declared}");
    assert_eq!(operator::confirmed(&world).await, before, "{declared}");
    let answer = operator::poll(&world).await;
    assert!(answer.message.contains("the slot stands before a declared gap"), "{answer:?}");
    world.backup.restart();
    let answer = operator::poll(&world).await;
    assert_eq!(answer.exit_code, 0, "{answer:?}\n{}", daemon.stderr());
    assert_eq!((archived(&world), operator::gaps(&world).len()), (3, 1));
    daemon.stop().await.expect_code(0);
}

#[tokio::test]
async fn a_role_that_may_not_load_the_plugin_is_given_the_statement() {
    let world = world(WorldOptions::default()).await;
    if !world.source.installation().knows_setting("output_plugin_libraries") {
        // An older minor release refuses the setting itself: there is no gate that could close.
        let refused = world.source.connect().await;
        let refused =
            refused.batch_execute("ALTER ROLE syncdata_user SET output_plugin_libraries = pgoutput").await;
        assert!(refused.is_err());
        return;
    }
    world.source.execute("ALTER ROLE syncdata_user SET output_plugin_libraries = pgoutput").await;
    world.source.execute("INSERT INTO good VALUES (2)").await;
    let before = operator::confirmed(&world).await;
    let stopped = world.archiver(["run", "--once"]).run().await.expect_code(2);
    assert_eq!(operator::confirmed(&world).await, before);
    let (_, statement) = stopped.stderr.split_once("ALTER ROLE").expect("a statement");
    let statement = format!("ALTER ROLE{}", statement.lines().next().expect("a line"));
    world.source.execute(&statement).await;
    world.archiver(["run", "--once"]).succeed().await;
    assert_eq!(archived(&world), 2);
}

#[tokio::test]
async fn without_wal2json_on_the_server_it_stops_and_says_what_to_install() {
    let mut world = world(WorldOptions::default()).await;
    world.source.execute("INSERT INTO good VALUES (2)").await;
    let before = operator::confirmed(&world).await;
    world.source.append_setting("dynamic_library_path", "/nowhere");
    world.source.restart().await;
    let stopped: Finished = world.archiver(["run", "--once"]).run().await.expect_code(2);
    assert!(stopped.stderr.contains("wal2json") && stopped.stderr.contains("install wal2json"), "{stopped}");
    assert_eq!(operator::confirmed(&world).await, before);
    world.source.append_setting("dynamic_library_path", "$libdir");
    world.source.restart().await;
    world.archiver(["run", "--once"]).succeed().await;
    assert_eq!(archived(&world), 2);
}

#[tokio::test]
async fn a_slot_of_another_plugin_is_refused() {
    let world = WorldOptions::default().start().await;
    world.source.execute("CREATE TABLE good (id int PRIMARY KEY)").await;
    world.source.execute("SELECT pg_create_logical_replication_slot('syncdata_slot', 'test_decoding')").await;
    let stopped = world.archiver(["run", "--once"]).run().await.expect_code(2);
    assert!(stopped.stderr.contains("uses the output plugin test_decoding, not wal2json"), "{stopped}");
}
