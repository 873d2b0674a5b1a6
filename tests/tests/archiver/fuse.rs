//! The fuse acts whatever the cause, and an outage does not make production write everything again and again.

use std::fs;
use std::path::Path;

use syncdata_tests::{Disk, PostgresOptions, World, WorldOptions};

use crate::operator::{self, SLOT};
use crate::{reader, replay, scene};

const TABLES: [&str; 1] = ["notes"];

async fn world_with(options: WorldOptions) -> World {
    let world = options.start().await;
    world
        .source
        .execute("CREATE TABLE notes (id int PRIMARY KEY, text text); CREATE TABLE other (id int PRIMARY KEY, text text)")
        .await;
    world.source.execute(SLOT).await;
    world.source.execute("INSERT INTO notes VALUES (0, 'first')").await;
    world.archiver(["run", "--once"]).succeed().await;
    world
}

/// More WAL than a guard of 1 MiB allows, and one row.
async fn write(world: &World, id: u32) {
    world.source.execute(&format!("INSERT INTO notes VALUES ({id}, 'row')")).await;
    world.source.execute("CHECKPOINT; SELECT pg_switch_wal(); CHECKPOINT").await;
}

/// What may be wrong with an archive that is within reach.
#[derive(Clone, Copy, Debug)]
enum Sickness {
    NoIdentity,
    EmptyIdentity,
    TornIdentity,
    ForeignIdentity,
    NewestMissing,
    ForeignSegment,
    HeadAhead,
}

impl Sickness {
    const ALL: [Sickness; 7] = [
        Sickness::NoIdentity,
        Sickness::EmptyIdentity,
        Sickness::TornIdentity,
        Sickness::ForeignIdentity,
        Sickness::NewestMissing,
        Sickness::ForeignSegment,
        Sickness::HeadAhead,
    ];

    /// Falls ill; the files as they were stay in `kept`.
    fn begin(self, archive: &Path, kept: &Path) {
        let done = std::process::Command::new("cp").arg("-a").arg(archive).arg(kept).status().expect("cp");
        assert!(done.success());
        let identity = archive.join("archive.json");
        let newest = reader::manifests(archive).pop().expect("segments");
        let sound = fs::read_to_string(&identity).expect("an identity");
        let done = match self {
            Sickness::NoIdentity => fs::remove_file(&identity),
            Sickness::EmptyIdentity => fs::write(&identity, ""),
            Sickness::TornIdentity => fs::write(&identity, &sound[..sound.len() / 2]),
            Sickness::ForeignIdentity => {
                let id = reader::json(&identity)["archive_id"].as_str().expect("an id").to_owned();
                fs::write(&identity, sound.replace(&id, "11111111-2222-4333-8444-555555555555"))
            }
            Sickness::NewestMissing => fs::remove_file(&newest),
            Sickness::ForeignSegment => {
                let name = "0000000009-00000000FFFFFFFF.manifest.json";
                fs::write(newest.with_file_name(name), fs::read(&newest).expect("a manifest"))
            }
            Sickness::HeadAhead => {
                let head = archive.join("head.json");
                let text = fs::read_to_string(&head).expect("a head");
                let name = newest.file_name().and_then(|name| name.to_str()).expect("a name");
                let ahead = name.replacen(&name[..10], "0000000099", 1);
                fs::write(&head, text.replace(name, &ahead).replace("\"seq\":1,", "\"seq\":99,"))
            }
        };
        done.expect("our folder");
    }
}

fn restore(archive: &Path, kept: &Path) {
    fs::remove_dir_all(archive).expect("our folder");
    fs::rename(kept, archive).expect("our folder");
}

#[tokio::test]
async fn a_sick_archive_does_not_make_production_keep_wal_without_end() {
    for sickness in Sickness::ALL {
        let options = WorldOptions::default().archiver_setting("wal_guard", "1MiB");
        let world = world_with(options).await;
        let kept = world.folder().join("kept");
        // The spool has nothing to mend it with.
        fs::remove_dir_all(world.spool_dir().join("segments")).expect("our folder");
        let before = operator::confirmed(&world).await;
        sickness.begin(world.archive_dir(), &kept);
        for id in 1..4 {
            write(&world, id).await;
            let run = world.archiver(["run", "--once"]).run().await;
            assert_eq!(run.code(), Some(1), "{sickness:?}: safe in the spool, not shipped: {run}");
            assert!(run.stderr.contains("hint"), "{sickness:?}: it says what to do: {run}");
        }
        assert!(operator::confirmed(&world).await > before, "{sickness:?}");
        restore(world.archive_dir(), &kept);
        world.archiver(["run", "--once"]).succeed().await;
        replay::assert_equals(world.archive_dir(), &world.source, &TABLES).await;
        assert_eq!(operator::gaps(&world).len(), 0, "{sickness:?}");
    }
}

/// The server cannot write the answer of a peek, and what the spool holds is let go all the same.
#[tokio::test]
async fn a_full_disk_of_the_source_does_not_keep_it_from_confirming() {
    let disk = Disk::mount("size=2m");
    let source = |options: PostgresOptions| options.setting("work_mem", "64kB");
    let options = WorldOptions::default().source(source).archiver_setting("wal_guard", "1MiB");
    let mut world = world_with(options).await;
    let folder = disk.folder_of_a_server("temporary");
    world.source.execute(&format!("CREATE TABLESPACE tiny LOCATION '{}'", folder.display())).await;
    world.source.execute("GRANT CREATE ON TABLESPACE tiny TO PUBLIC").await;
    world.source.execute("ALTER ROLE syncdata_user SET temp_tablespaces = 'tiny'").await;
    world.backup.stop();
    write(&world, 1).await;
    world.set_archiver("wal_guard", "8GiB");
    world.archiver(["run", "--once"]).run().await.expect_code(1);
    let before = operator::confirmed(&world).await;
    world.set_archiver("wal_guard", "1MiB");
    disk.fill();
    world
        .source
        .execute("INSERT INTO notes SELECT i, repeat('x', 100) FROM generate_series(10, 20000) i")
        .await;
    write(&world, 2).await;
    let run = world.archiver(["run", "--once"]).run().await;
    assert!(run.stderr.contains("53100"), "{run}");
    assert!(operator::confirmed(&world).await > before, "{run}");
    disk.relieve();
    drop(disk);
}

#[tokio::test]
async fn an_unreadable_transaction_past_the_guard_becomes_a_gap_of_its_tables() {
    let source =
        |options: PostgresOptions| options.setting("temp_file_limit", "1MB").setting("work_mem", "64kB");
    for away in [false, true] {
        let options = WorldOptions::default().source(source).archiver_setting("wal_guard", "1MiB");
        let mut world = world_with(options).await;
        if away {
            world.backup.stop();
        }
        world.source.execute("INSERT INTO notes VALUES (1, 'before')").await;
        world.source.execute("INSERT INTO other SELECT i, 'too much' FROM generate_series(1, 40000) i").await;
        write(&world, 2).await;
        let mut said = String::new();
        for _ in 0..3 {
            said.push_str(&world.archiver(["run", "--once"]).run().await.stderr);
        }
        assert!(said.contains("the WAL guard"), "{said}");
        world.backup.restart();
        let run = world.archiver(["run", "--once"]).run().await;
        assert!(matches!(run.code(), Some(0 | 1)), "{run}");
        let gaps = operator::gaps(&world);
        assert_eq!(gaps.len(), 1, "{gaps:?}");
        assert_eq!(gaps[0]["tables"], serde_json::json!(["other"]), "of its tables, and no other: {gaps:?}");
        replay::assert_equals(world.archive_dir(), &world.source, &TABLES).await;
        world.archiver(["status"]).run().await.expect_code(1);
    }
}

/// The rows of a partition stand under the name that it had then, and alone under no name of now.
#[tokio::test]
async fn an_unreadable_transaction_of_a_partition_that_was_renamed_is_a_gap_of_its_table() {
    let source =
        |options: PostgresOptions| options.setting("temp_file_limit", "1MB").setting("work_mem", "64kB");
    let tables = ["notes", "orders"].map(toml::Value::from).to_vec();
    let options = WorldOptions::default().without_sftp().source(source).archiver_setting("wal_guard", "1MiB");
    let schema = "CREATE TABLE notes (id int PRIMARY KEY, text text);
        CREATE TABLE orders (id int PRIMARY KEY, text text) PARTITION BY RANGE (id);
        CREATE TABLE orders_1 PARTITION OF orders FOR VALUES FROM (0) TO (1000000)";
    let world = scene::world_with(options.archiver_setting("tables", tables), schema).await;
    scene::poll(&world).await;
    let both = "BEGIN; INSERT INTO notes VALUES (1, 'row');
        INSERT INTO orders SELECT i, 'too much' FROM generate_series(1, 40000) i; COMMIT";
    world.source.execute(both).await;
    world.source.execute("ALTER TABLE orders_1 RENAME TO orders_9").await;
    write(&world, 2).await;
    for _ in 0..3 {
        world.archiver(["run", "--once"]).run().await;
    }
    let gaps = operator::gaps(&world);
    let concerns =
        |gap: &serde_json::Value| gap["tables"].is_null() || gap.to_string().contains("\"orders\"");
    assert!(gaps.iter().any(concerns), "{gaps:?}");
}

async fn temp_bytes(world: &World) -> u64 {
    // Statistics are sent when the session that did the work ends, which is after its program has.
    let others = "SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'client backend' AND pid <> pg_backend_pid()";
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(30);
    while world.source.value(others).await != "0" {
        assert!(std::time::Instant::now() < deadline, "a session does not end");
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
    let sql = "SELECT temp_bytes FROM pg_stat_database WHERE datname = current_database()";
    world.source.value(sql).await.parse().expect("a number")
}

/// The bytes that production writes into temporary files while the backup host is away.
#[tokio::test]
async fn an_outage_costs_production_at_most_four_times_its_changes() {
    let source = |options: PostgresOptions| options.setting("work_mem", "64kB");
    let mut world = world_with(WorldOptions::default().source(source)).await;
    world.backup.stop();
    let begun = temp_bytes(&world).await;
    for round in 0..12_u32 {
        // The first half is busy; then production writes what nobody captures, or nothing.
        match round {
            0..6 => {
                let rows = format!(
                    "INSERT INTO notes SELECT i, repeat('x', 200) FROM generate_series({}, {}) i",
                    1 + round * 4000,
                    (round + 1) * 4000
                );
                world.source.execute(&rows).await;
            }
            6..9 => world.source.execute("CHECKPOINT; SELECT pg_switch_wal(); CHECKPOINT").await,
            _ => {}
        }
        world.archiver(["run", "--once"]).run().await.expect_code(1);
        let before = temp_bytes(&world).await;
        world.archiver(["run", "--once"]).run().await.expect_code(1);
        assert_eq!(temp_bytes(&world).await, before, "nothing new: round {round}");
    }
    let spent = temp_bytes(&world).await - begun;
    // All of it, once.
    let peek = "SELECT count(*) FROM pg_logical_slot_peek_changes('syncdata_slot', NULL, NULL, 'format-version', '2', \
        'include-lsn', '1', 'include-timestamp', '1', 'include-transaction', '1', 'include-types', '0')";
    let before = temp_bytes(&world).await;
    world.source.value(peek).await;
    let once = temp_bytes(&world).await - before;
    assert!(once > 1 << 20, "{once}");
    assert!(spent <= 4 * once, "{spent} bytes for {once} bytes of changes");
    world.backup.restart();
    world.archiver(["run", "--once"]).succeed().await;
    replay::assert_equals(world.archive_dir(), &world.source, &TABLES).await;
}

/// Below the guard nothing is read until the name is right, and so nothing is lost. Above it, production's disk is worth more.
#[tokio::test]
async fn a_name_that_matches_nothing_does_not_make_production_keep_wal_without_end() {
    for (tables, says) in [
        (&["notes", "ntoes"][..], "ntoes"),
        (&["notes", "no_schema.*"], "no_schema"),
        (&["notes", "a_view"], "a_view is a view"),
        (&[], "No tables in whitelist"),
    ] {
        let mut world = world_with(WorldOptions::default().without_sftp()).await;
        world.source.execute("CREATE VIEW a_view AS SELECT 1").await;
        world.set_archiver("tables", tables.iter().map(|&table| table.into()).collect::<Vec<toml::Value>>());
        write(&world, 1).await;
        let before = operator::confirmed(&world).await;
        let refused = world.archiver(["run", "--once"]).run().await.expect_code(2);
        assert!(refused.stderr.contains(says), "{refused}");
        assert_eq!(operator::confirmed(&world).await, before, "{tables:?}");
        world.set_archiver("wal_guard", "1MiB");
        write(&world, 2).await;
        let run = world.archiver(["run", "--once"]).run().await.expect_code(1);
        assert!(run.stderr.contains(says) && run.stderr.contains("hint"), "{run}");
        assert!(operator::confirmed(&world).await > before, "{tables:?}: {run}");
        world.set_archiver("tables", vec!["notes".into()] as Vec<toml::Value>);
        let gaps = operator::gaps(&world).len();
        let run = world.archiver(["run", "--once"]).run().await;
        if tables.is_empty() {
            // It was captured by nobody.
            assert_eq!(run.code(), Some(1), "{run}");
            assert!(run.stderr.contains("not captured meanwhile"), "{run}");
        } else {
            assert_eq!((run.code(), gaps), (Some(0), 0), "{run}");
            replay::assert_equals(world.archive_dir(), &world.source, &TABLES).await;
        }
    }
}
