//! Another server takes over: the archive goes on only where its history is still true.

use std::time::Duration;

use syncdata_formats::lsn::Lsn;
use syncdata_tests::postgres::PostgresServer;
use syncdata_tests::{Finished, StopMode, World, WorldOptions};

use crate::operator::{self, SLOT};
use crate::{reader, replay};

async fn world() -> World {
    let world = World::start().await;
    world.source.execute("CREATE TABLE notes (id int PRIMARY KEY, text text)").await;
    world.source.execute(SLOT).await;
    world.source.execute("INSERT INTO notes VALUES (1, 'before')").await;
    world.archiver(["run", "--once"]).succeed().await;
    world
}

async fn run(world: &World, code: i32) -> Finished {
    world.archiver(["run", "--once"]).run().await.expect_code(code)
}

#[tokio::test]
async fn after_a_failover_that_lost_nothing_archived_it_goes_on() {
    let mut world = world().await;
    world.source.execute("INSERT INTO notes VALUES (2, 'replicated, not archived')").await;
    let standby = world.source.copied(true).await;
    world.set_archiver("pg_port", i64::from(standby.port()));
    standby.execute("INSERT INTO notes VALUES (3, 'after')").await;
    // Nobody told the new server that the archiver may read its history.
    let asked = run(&world, 2).await;
    let (_, statement) = asked.stderr.split_once("run as superuser: ").expect("a statement");
    standby.execute(statement.lines().next().expect("a line")).await;
    run(&world, 0).await;
    replay::assert_equals(world.archive_dir(), &standby, &["notes"]).await;
    assert_eq!(reader::last_manifest(world.archive_dir()).expect("segments")["source"]["timeline"], 2);
    assert_eq!(operator::gaps(&world).len(), 0);
    run(&world, 0).await;
}

/// Production writes what nobody captures, an idle poll says that all up to there is archived, and the standby does not
/// have it: it writes other changes at these positions.
async fn with_a_standby_that_lags() -> (World, PostgresServer) {
    let mut world = world().await;
    let standby = world.source.copied(true).await;
    standby.execute("GRANT EXECUTE ON FUNCTION pg_catalog.pg_read_file(text) TO syncdata_user").await;
    world.source.execute("SELECT pg_logical_emit_message(false, 'nobody', repeat('x', 1000000))").await;
    run(&world, 0).await;
    world.set_archiver("pg_port", i64::from(standby.port()));
    (world, standby)
}

#[tokio::test]
async fn after_a_failover_changes_at_positions_that_an_idle_poll_had_passed_are_read() {
    let (world, standby) = with_a_standby_that_lags().await;
    standby
        .execute("INSERT INTO notes VALUES (2, 'after'); UPDATE notes SET text = 'new' WHERE id = 1")
        .await;
    run(&world, 0).await;
    replay::assert_equals(world.archive_dir(), &standby, &["notes"]).await;
    standby.execute("INSERT INTO notes VALUES (3, 'later')").await;
    run(&world, 0).await;
    replay::assert_equals(world.archive_dir(), &standby, &["notes"]).await;
}

#[tokio::test]
async fn a_slot_that_was_made_after_a_failover_is_a_gap_from_where_the_timelines_part() {
    let (world, standby) = with_a_standby_that_lags().await;
    standby.execute("SELECT pg_drop_replication_slot('syncdata_slot')").await;
    standby.execute("INSERT INTO notes VALUES (2, 'in no slot')").await;
    standby.execute(SLOT).await;
    run(&world, 1).await;
    let gaps = operator::gaps(&world);
    assert_eq!((gaps.len(), gaps[0]["tables"].is_null()), (1, true), "{gaps:?}");
}

#[tokio::test]
async fn a_failover_that_lost_archived_changes_has_diverged() {
    let mut world = world().await;
    let standby = world.source.copied(true).await;
    standby.execute("GRANT EXECUTE ON FUNCTION pg_catalog.pg_read_file(text) TO syncdata_user").await;
    world.source.execute("INSERT INTO notes VALUES (2, 'never replicated')").await;
    run(&world, 0).await;
    standby.execute("INSERT INTO notes SELECT i, 'other' FROM generate_series(3, 900) i").await;
    assert_diverged(&mut world, standby.port(), "timeline 2 left timeline 1 at").await;
}

#[tokio::test]
async fn a_failover_has_diverged_also_for_a_new_spool() {
    let mut world = world().await;
    let standby = world.source.copied(true).await;
    standby.execute("GRANT EXECUTE ON FUNCTION pg_catalog.pg_read_file(text) TO syncdata_user").await;
    world.source.execute("INSERT INTO notes VALUES (2, 'never replicated')").await;
    run(&world, 0).await;
    standby.execute("INSERT INTO notes SELECT i, 'other' FROM generate_series(3, 900) i").await;
    std::fs::remove_dir_all(world.spool_dir()).expect("our folder");
    assert_diverged(&mut world, standby.port(), "timeline 2 left timeline 1 at").await;
    let stopped = run(&world, 2).await;
    assert!(!stopped.stderr.contains("declare-gap"), "it is refused with a new spool: {stopped}");
}

#[tokio::test]
async fn a_machine_restored_to_an_earlier_moment_has_diverged() {
    let mut world = world().await;
    let restored = world.source.copied(false).await;
    world.source.execute("INSERT INTO notes SELECT i, 'lost' FROM generate_series(2, 2000) i").await;
    run(&world, 0).await;
    assert_diverged(&mut world, restored.port(), "its WAL ends at").await;
}

/// Nothing that anybody captures was lost; but rows of a base copy are as of a moment that the server does not have.
#[tokio::test]
async fn a_snapshot_of_a_history_that_is_lost_is_no_base_of_the_new_one() {
    for (promoted, is_known) in [(true, true), (false, true), (true, false), (false, false)] {
        let mut world = world().await;
        let other = world.source.copied(promoted).await;
        other.execute("GRANT EXECUTE ON FUNCTION pg_catalog.pg_read_file(text) TO syncdata_user").await;
        world.source.execute("SELECT pg_logical_emit_message(false, 'nobody', repeat('x', 1000000))").await;
        world.archiver(["snapshot"]).succeed().await;
        // Or the spool has never heard of it: no poll came after it, or the host went back together with production.
        if is_known {
            run(&world, 0).await;
        }
        let why = if promoted { "timeline 2 left timeline 1 at" } else { "its WAL ends at" };
        assert_diverged(&mut world, other.port(), why).await;
        other.execute("SELECT pg_logical_emit_message(false, 'nobody', repeat('x', 20000))").await;
        let upto = other.value("SELECT pg_current_wal_flush_lsn()").await;
        let refused = world.archiver(["declare-gap", "--upto", &upto, "--reason", "failover"]).run().await;
        assert!(refused.expect_code(2).stderr.contains("has rows as of"), "a gap before the snapshot's end");
        // The way on, once the server's positions have passed it.
        other.execute("SELECT pg_logical_emit_message(false, 'nobody', repeat('x', 2000000))").await;
        other.execute("INSERT INTO notes VALUES (2, 'after')").await;
        let stopped = run(&world, 2).await;
        assert!(stopped.stderr.contains("a gap has to end past that"), "{stopped}");
        let upto = other.value("SELECT pg_current_wal_flush_lsn()").await;
        world.archiver(["declare-gap", "--upto", &upto, "--reason", "failover"]).succeed().await;
        world.archiver(["snapshot"]).succeed().await;
        world.archiver(["run", "--once"]).run().await;
        run(&world, 0).await;
    }
}

async fn assert_diverged(world: &mut World, port: u16, why: &str) {
    let before = reader::manifests(world.archive_dir()).len();
    let head = reader::json(&world.archive_dir().join("head.json"));
    world.set_archiver("pg_port", i64::from(port));
    for _ in 0..2 {
        let stopped = run(world, 2).await;
        assert!(stopped.stderr.contains("has diverged from the archive"), "{stopped}");
        assert!(stopped.stderr.contains(why), "{stopped}");
        assert!(stopped.stderr.contains("new archive_dir"), "{stopped}");
    }
    assert_eq!(reader::manifests(world.archive_dir()).len(), before, "nothing is published");
    assert_eq!(reader::json(&world.archive_dir().join("head.json")), head);
}

/// The slot on the standby is older than the archive: what it hands out again is there already. Where the standby lacks
/// what is archived, nothing goes on.
#[tokio::test]
async fn a_slot_that_was_synchronised_to_a_standby_goes_on_there_unless_the_standby_lacks_what_is_archived() {
    for lacks in [false, true] {
        let hba = ["host all all 127.0.0.1/32 trust", "local replication all trust"];
        let options = WorldOptions::default().source(|source| source.hba(hba[0]).hba(hba[1]));
        let mut world = options.start().await;
        if !world.source.installation().knows_setting("sync_replication_slots") {
            // An older server takes no slot along.
            let client = world.source.connect().await;
            assert!(client.batch_execute("ALTER SYSTEM SET sync_replication_slots = on").await.is_err());
            return;
        }
        world.source.execute("CREATE TABLE notes (id int PRIMARY KEY, text text)").await;
        world
            .source
            .execute("GRANT EXECUTE ON FUNCTION pg_catalog.pg_read_file(text) TO syncdata_user")
            .await;
        let slots =
            "SELECT pg_create_logical_replication_slot('syncdata_slot', 'wal2json', false, false, true),
            pg_create_physical_replication_slot('standby', true)";
        world.source.execute(slots).await;
        let mut standby = world.source.standby("standby").await;
        world.source.execute("INSERT INTO notes VALUES (1, 'before')").await;
        run(&world, 0).await;
        let synced = "SELECT count(*) FROM pg_replication_slots WHERE slot_name = 'syncdata_slot' AND synced AND NOT temporary";
        world.source.execute("INSERT INTO notes VALUES (2, 'synced')").await;
        while standby.value(synced).await == "0" {
            // It is kept there once production's slot needs no transaction any more that the standby has had.
            world.source.execute("SELECT pg_log_standby_snapshot()").await;
            run(&world, 0).await;
            caught_up(&world, &standby).await;
            standby.execute("SELECT pg_sync_replication_slots()").await;
        }
        if lacks {
            standby.stop(StopMode::Fast);
        }
        world
            .source
            .execute(
                "INSERT INTO notes VALUES (100, 'archived'); UPDATE notes SET text = 'twice?' WHERE id = 1",
            )
            .await;
        run(&world, 0).await;
        if !lacks {
            caught_up(&world, &standby).await;
        }
        world.source.crash();
        if lacks {
            standby.resume().await;
        }
        standby.promote().await;
        standby.execute("INSERT INTO notes SELECT i, 'after' FROM generate_series(200, 900) i").await;
        if lacks {
            assert_diverged(&mut world, standby.port(), "timeline 2 left timeline 1 at").await;
            continue;
        }
        world.set_archiver("pg_port", i64::from(standby.port()));
        run(&world, 0).await;
        replay::assert_equals(world.archive_dir(), &standby, &["notes"]).await;
        standby.execute("DELETE FROM notes WHERE id > 300").await;
        run(&world, 0).await;
        replay::assert_equals(world.archive_dir(), &standby, &["notes"]).await;
        assert_eq!(operator::gaps(&world).len(), 0);
    }
}

async fn caught_up(world: &World, standby: &PostgresServer) {
    let flush = world.source.value("SELECT pg_current_wal_flush_lsn()").await;
    let replayed = format!("SELECT pg_last_wal_replay_lsn() >= '{flush}'");
    while standby.value(&replayed).await != "t" {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// Nothing of it can be archived, and its disk is not to fill for that.
#[tokio::test]
async fn a_diverged_source_past_the_guard_lets_its_wal_go_unread_and_says_so() {
    let mut world = world().await;
    let restored = world.source.copied(false).await;
    world.source.execute("INSERT INTO notes SELECT i, 'lost' FROM generate_series(2, 500) i").await;
    run(&world, 0).await;
    let published = reader::manifests(world.archive_dir()).len();
    restored.execute("INSERT INTO notes SELECT i, 'unread' FROM generate_series(3, 4000) i").await;
    world.set_archiver("pg_port", i64::from(restored.port()));
    let confirmed = "SELECT confirmed_flush_lsn FROM pg_replication_slots WHERE slot_name = 'syncdata_slot'";
    let before = restored.value(confirmed).await;
    let stopped = run(&world, 2).await;
    assert!(stopped.stderr.contains("has diverged from the archive"), "{stopped}");
    assert_eq!(restored.value(confirmed).await, before, "within the guard it stays");

    world.set_archiver("wal_guard", "1MiB");
    restored.execute("CHECKPOINT; SELECT pg_switch_wal(); CHECKPOINT").await;
    let flush: Lsn = restored.value("SELECT pg_current_wal_flush_lsn()").await.parse().expect("an LSN");
    let stopped = run(&world, 2).await;
    assert!(stopped.stderr.contains("its slot moves on unread"), "{stopped}");
    assert!(stopped.stderr.contains("has diverged from the archive"), "{stopped}");
    let now: Lsn = restored.value(confirmed).await.parse().expect("an LSN");
    assert!(now >= flush, "{now} {flush}");
    assert_eq!(reader::manifests(world.archive_dir()).len(), published, "nothing is published");

    // What the hint says: the gap holds all that was let go.
    restored.execute("INSERT INTO notes VALUES (5000, 'after'); SELECT pg_switch_wal()").await;
    let upto = restored.value("SELECT pg_current_wal_flush_lsn()").await;
    world.archiver(["declare-gap", "--upto", &upto, "--reason", "restored"]).succeed().await;
    let gaps = operator::gaps(&world);
    assert_eq!((gaps.len(), gaps[0]["tables"].is_null()), (1, true), "{gaps:?}");
    restored.execute("INSERT INTO notes VALUES (5001, 'archived')").await;
    run(&world, 0).await;
    let lines: String =
        reader::segments(world.archive_dir()).into_iter().flat_map(|segment| segment.lines).collect();
    assert_eq!((lines.contains("unread"), lines.contains("archived")), (false, true));
}

/// A call of the slot would wait for ever, and say why only to whoever listens.
#[tokio::test]
async fn a_standby_that_is_away_is_waited_for_for_a_while_and_then_named() {
    let world = world().await;
    if !world.source.installation().knows_setting("synchronized_standby_slots") {
        // An older server has no such wait, and refuses the setting itself.
        let client = world.source.connect().await;
        assert!(client.batch_execute("ALTER SYSTEM SET synchronized_standby_slots = 'away'").await.is_err());
        return;
    }
    world.source.execute("SELECT pg_drop_replication_slot('syncdata_slot')").await;
    let failover =
        "SELECT pg_create_logical_replication_slot('syncdata_slot', 'wal2json', false, false, true)";
    world.source.execute(failover).await;
    run(&world, 1).await;
    world.source.execute("SELECT pg_create_physical_replication_slot('away', true)").await;
    world.source.execute("ALTER SYSTEM SET synchronized_standby_slots = 'away'").await;
    world.source.execute("SELECT pg_reload_conf()").await;
    world.source.execute("INSERT INTO notes VALUES (2, 'waits')").await;
    let before = operator::confirmed(&world).await;
    let mut waiting = world.archiver(["run", "--once"]).spawn();
    waiting.says("the source says while we wait for it").await;
    let stopped = waiting.ended().await.expect_code(2);
    assert!(stopped.stderr.contains("synchronized_standby_slots = 'away'"), "{stopped}");
    assert!(stopped.stderr.contains("hint: bring those standbys back"), "{stopped}");
    assert_eq!(operator::confirmed(&world).await, before, "nothing was consumed");
    let checked = world.archiver(["check"]).run().await.expect_code(1);
    let said = "fail  synchronized_standby_slots: the slot away is not used by any standby now";
    assert!(checked.stdout.contains(said), "{checked}");
    // What the hint says.
    world.source.execute("ALTER SYSTEM SET synchronized_standby_slots = ''").await;
    world.source.execute("SELECT pg_reload_conf()").await;
    run(&world, 0).await;
    replay::assert_equals(world.archive_dir(), &world.source, &["notes"]).await;
}
