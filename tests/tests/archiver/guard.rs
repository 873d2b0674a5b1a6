//! The fuse: production's disk does not fill because the backup host is away, and a full disk of our own loses
//! nothing.

use syncdata_tests::workload::TABLES;
use syncdata_tests::{Disk, Workload, World, WorldOptions};

use crate::operator::{self, SLOT};
use crate::replay;

async fn world(options: WorldOptions) -> (World, Workload) {
    let world = options.archiver_setting("wal_guard", "1MiB").start().await;
    let workload = Workload::new(5);
    workload.create_tables(&world.source).await;
    world.source.execute(SLOT).await;
    workload.fill(&world.source).await;
    world.archiver(["run", "--once"]).succeed().await;
    (world, workload)
}

/// More WAL than the guard allows.
async fn write(world: &World, workload: &mut Workload) {
    workload.run(&world.source, 8).await;
    world.source.execute("CHECKPOINT; SELECT pg_switch_wal(); CHECKPOINT").await;
}

#[tokio::test]
async fn with_the_backup_host_away_the_guard_confirms_from_the_spool() {
    let (mut world, mut workload) = world(WorldOptions::default()).await;
    let before = operator::confirmed(&world).await;
    world.backup.stop();
    write(&world, &mut workload).await;
    let run = world.archiver(["run", "--once"]).run().await.expect_code(1);
    assert!(run.stderr.contains("the WAL guard acts"), "{run}");
    assert!(operator::confirmed(&world).await > before);
    world.backup.restart();
    workload.run(&world.source, 3).await;
    world.archiver(["run", "--once"]).succeed().await;
    replay::assert_equals(world.archive_dir(), &world.source, &TABLES).await;
    assert_eq!(operator::gaps(&world).len(), 0);
}

#[tokio::test]
async fn with_the_spool_full_as_well_changes_are_given_up_and_declared() {
    let options = WorldOptions::default().archiver_setting("spool_max", "1KiB");
    let (mut world, mut workload) = world(options).await;
    world.backup.stop();
    write(&world, &mut workload).await;
    world.archiver(["run", "--once"]).run().await.expect_code(1);
    // The spool is full now: this is given up.
    world.source.execute("INSERT INTO journal VALUES (-1, '{}', 0, 'given up')").await;
    write(&world, &mut workload).await;
    let flush = world.source.value("SELECT pg_current_wal_flush_lsn()").await;
    let flush: syncdata_formats::lsn::Lsn = flush.parse().expect("an LSN");
    let run = world.archiver(["run", "--once"]).run().await.expect_code(1);
    assert!(run.stderr.contains("changes were given up to save production's disk"), "{run}");
    assert!(operator::confirmed(&world).await >= flush);
    world.backup.restart();
    world.source.execute("INSERT INTO journal VALUES (-2, '{}', 0, 'kept')").await;
    world.archiver(["run", "--once"]).succeed().await;
    let gaps = operator::gaps(&world);
    assert_eq!(gaps.len(), 1, "{gaps:?}");
    assert!(gaps[0]["reason"].as_str().is_some_and(|reason| reason.contains("the WAL guard gave up")));
    let lines: String =
        crate::reader::segments(world.archive_dir()).into_iter().flat_map(|segment| segment.lines).collect();
    assert_eq!((lines.contains("given up"), lines.contains("kept")), (false, true));
    let status = world.archiver(["status"]).run().await.expect_code(1);
    assert!(status.stdout.contains("the WAL guard gave up"), "{status}");
}

/// Most of what the slot keeps is in the spool, and production needs no more than that let go.
#[tokio::test]
async fn what_the_spool_holds_is_let_go_before_anything_is_given_up() {
    let options = WorldOptions::default().archiver_setting("spool_max", "1KiB");
    let (mut world, mut workload) = world(options).await;
    // More than one file of WAL, less than two.
    world.set_archiver("wal_guard", "20MiB");
    world.backup.stop();
    write(&world, &mut workload).await;
    let before = operator::confirmed(&world).await;
    let run = world.archiver(["run", "--once"]).run().await.expect_code(1);
    assert_eq!(operator::confirmed(&world).await, before, "{run}");
    write(&world, &mut workload).await;
    let run = world.archiver(["run", "--once"]).run().await.expect_code(1);
    assert!(run.stderr.contains("production forgets what is in the spool only"), "{run}");
    assert!(operator::confirmed(&world).await > before, "{run}");
    world.backup.restart();
    world.archiver(["run", "--once"]).succeed().await;
    replay::assert_equals(world.archive_dir(), &world.source, &TABLES).await;
    assert_eq!(operator::gaps(&world).len(), 0);
}

/// An open transaction keeps the WAL, and all that has committed is in the spool.
#[tokio::test]
async fn a_spool_that_is_full_is_no_error_when_there_is_nothing_to_give_up() {
    let options = WorldOptions::default().archiver_setting("spool_max", "1KiB");
    let (mut world, mut workload) = world(options).await;
    let client = world.source.connect().await;
    client.batch_execute("BEGIN; INSERT INTO journal VALUES (-1, '{}', 0, '')").await.expect("inserts");
    world.backup.stop();
    write(&world, &mut workload).await;
    for _ in 0..3 {
        world.archiver(["run", "--once"]).run().await.expect_code(1);
    }
}

#[tokio::test]
async fn an_open_transaction_that_keeps_wal_is_named() {
    let (world, mut workload) = world(WorldOptions::default()).await;
    let client = world.source.connect().await;
    client.batch_execute("BEGIN; INSERT INTO journal VALUES (-1, '{}', 0, '')").await.expect("inserts");
    let pid: i32 = client.query_one("SELECT pg_backend_pid()", &[]).await.expect("a row").get(0);
    write(&world, &mut workload).await;
    let daemon = world.archiver(["run"]).spawn();
    operator::poll(&world).await;
    let problems = operator::status(&world).await["problems"].to_string();
    assert!(
        problems.contains(&format!("the oldest transaction is that of process {pid} of postgres")),
        "{problems}"
    );
    client.batch_execute("COMMIT").await.expect("commits");
    assert_eq!(operator::poll(&world).await.exit_code, 0);
    daemon.stop().await.expect_code(0);
    replay::assert_equals(world.archive_dir(), &world.source, &TABLES).await;
}

#[tokio::test]
async fn a_full_disk_under_the_spool_stops_with_the_reason_and_recovers() {
    let disk = Disk::mount("size=1m");
    let (mut world, mut workload) = world(in_spool(&disk)).await;
    world.set_archiver("wal_guard", "8GiB");
    workload.run(&world.source, 5).await;
    let text = "(SELECT string_agg(md5(i::text || j), '') FROM generate_series(1, 90000) j)";
    let insert = format!("INSERT INTO journal SELECT -i, '{{}}', 0, {text} FROM generate_series(1, 2) i");
    world.source.execute(&insert).await;
    let run = world.archiver(["run", "--once"]).run().await.expect_code(1);
    assert!(run.stderr.contains("not everything could be read"), "{run}");
    assert!(run.stderr.contains("No space left on device"), "{run}");
    assert_eq!(operator::gaps(&world).len(), 0, "{run}");
    let before = operator::confirmed(&world).await;
    // With the backup host away as well production is relieved although there is no room to say so yet.
    world.set_archiver("wal_guard", "1MiB");
    world.backup.stop();
    write(&world, &mut workload).await;
    std::fs::write(disk.path().join("ballast"), vec![0; 1 << 20]).expect_err("a full disk");
    let run = world.archiver(["run", "--once"]).run().await;
    assert!(operator::confirmed(&world).await > before, "{run}");
    world.backup.restart();
    std::fs::remove_file(disk.path().join("ballast")).expect("our file");
    world.source.execute("INSERT INTO journal VALUES (1000000, '{}', 0, 'kept')").await;
    world.archiver(["run", "--once"]).run().await.expect_code(1);
    assert_eq!(operator::gaps(&world).len(), 1);
    world.archiver(["run", "--once"]).succeed().await;
}

/// A row of about a megabyte that does not compress.
async fn insert_large(world: &World, id: i32, kilobytes: u32) {
    let text = format!(
        "(SELECT string_agg(md5({id} || '-' || j), '') FROM generate_series(1, {}) j)",
        kilobytes * 32
    );
    world.source.execute(&format!("INSERT INTO journal VALUES ({id}, '{{}}', 0, {text})")).await;
}

#[tokio::test]
async fn copies_of_what_is_shipped_make_room_before_anything_stops() {
    let disk = Disk::mount("size=1m");
    let (world, _) = world(in_spool(&disk)).await;
    // Each takes more than half of the disk.
    for id in -3..0 {
        insert_large(&world, id, 1100).await;
        world.archiver(["run", "--once"]).succeed().await;
    }
    replay::assert_equals(world.archive_dir(), &world.source, &TABLES).await;
}

/// One answer does not fit into the spool's disk; its transactions do, one after the other.
#[tokio::test]
async fn what_does_not_fit_into_a_full_disk_together_is_read_piece_by_piece() {
    let disk = Disk::mount("size=1m");
    let (world, _) = world(in_spool(&disk)).await;
    for id in -4..0 {
        insert_large(&world, id, 1100).await;
    }
    world.archiver(["run", "--once"]).succeed().await;
    replay::assert_equals(world.archive_dir(), &world.source, &TABLES).await;
    assert_eq!(operator::gaps(&world).len(), 0);
}

/// The backup host would take it, and there is no way to get it there.
#[tokio::test]
async fn a_transaction_that_the_spools_disk_has_no_room_for_is_given_up_past_the_guard() {
    let disk = Disk::mount("size=1m");
    let (mut world, _) = world(in_spool(&disk)).await;
    world.set_archiver("wal_guard", "8GiB");
    insert_large(&world, -1, 200).await;
    insert_large(&world, -2, 4000).await;
    let stopped = world.archiver(["run", "--once"]).run().await.expect_code(1);
    assert!(stopped.stderr.contains("No space left on device"), "{stopped}");
    assert_eq!(operator::gaps(&world).len(), 0, "not before the guard: {stopped}");
    let before = operator::confirmed(&world).await;
    world.set_archiver("wal_guard", "1MiB");
    world.source.execute("CHECKPOINT; SELECT pg_switch_wal(); CHECKPOINT").await;
    let run = world.archiver(["run", "--once"]).run().await.expect_code(1);
    assert!(run.stderr.contains("changes were given up to save production's disk"), "{run}");
    assert!(operator::confirmed(&world).await > before, "{run}");
    let gaps = operator::gaps(&world);
    assert_eq!(gaps.len(), 1, "{gaps:?}");
    assert!(
        gaps[0]["reason"].as_str().is_some_and(|reason| reason.contains("no room in the spool")),
        "{gaps:?}"
    );
    let shipped: String =
        crate::reader::segments(world.archive_dir()).into_iter().flat_map(|segment| segment.lines).collect();
    assert!(shipped.contains(r#""id":-1"#) && !shipped.contains(r#""id":-2"#), "what could be read was");
    world.source.execute("INSERT INTO journal VALUES (-3, '{}', 0, 'kept')").await;
    world.archiver(["run", "--once"]).succeed().await;
}

#[tokio::test]
async fn a_spool_without_inodes_says_that_it_is_those() {
    let disk = Disk::mount("size=8m,nr_inodes=14");
    let (mut world, mut workload) = world(in_spool(&disk)).await;
    world.backup.stop();
    let mut polls = 0;
    let stopped = loop {
        workload.run(&world.source, 2).await;
        let run = world.archiver(["run", "--once"]).run().await.expect_code(1);
        polls += 1;
        if run.stderr.contains("not everything could be read") {
            break run;
        }
        assert!(polls < 14, "{run}");
    };
    assert!(stopped.stderr.contains("no inode left"), "{stopped}");
    world.backup.restart();
    world.archiver(["run", "--once"]).succeed().await;
    replay::assert_equals(world.archive_dir(), &world.source, &TABLES).await;
    assert_eq!(operator::gaps(&world).len(), 0);
}

/// The n-th file that is opened is one too many, for every n: it stops with that name, and gives nothing up.
#[tokio::test]
async fn without_file_handles_it_stops_with_that_name() {
    let options = WorldOptions::default().archiver_setting("spool_max", "1KiB");
    let (world, mut workload) = world(options).await;
    let mut stops = 0;
    for limit in 4.. {
        write(&world, &mut workload).await;
        let run = world.archiver(["run", "--once"]).open_files_max(limit).run().await;
        if run.code() == Some(0) {
            break;
        }
        stops += 1;
        assert!(matches!(run.code(), Some(1 | 2 | 127)), "{limit}: {run}");
        assert!(run.stderr.contains("Too many open files"), "{limit}: {run}");
        assert!(limit < 64, "{run}");
    }
    assert!(stops > 5, "{stops}");
    replay::assert_equals(world.archive_dir(), &world.source, &TABLES).await;
    assert_eq!(operator::gaps(&world).len(), 0);
}

fn in_spool(disk: &Disk) -> WorldOptions {
    WorldOptions::default()
        .archiver_setting("spool_dir", disk.path().join("spool").to_str().expect("a plain name"))
}
