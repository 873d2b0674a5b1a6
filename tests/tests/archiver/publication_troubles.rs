//! The source pgoutput where things go wrong: a commit that waits for a standby, a row that is too large, a slot that cannot
//! be copied; and what its stream leaves out.

use std::time::Duration;

use syncdata_formats::lsn::Lsn;
use syncdata_tests::postgres::StopMode;
use syncdata_tests::world::{Plugin, World, WorldOptions};
use tokio::task::JoinHandle;

use crate::past::FILL_PAGE;
use crate::publication::{STEADY, gaps, missed, poll, world};
use crate::{operator, reader, scene};

/// A session whose commits wait for the standby, as production's own do. It is told when they have come to that.
async fn waiting_for_the_standby(world: &World, sql: &str) -> JoinHandle<()> {
    let client = world.source.connect().await;
    let sql = format!("SET synchronous_commit = on; {sql}");
    let waiting = "SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'SyncRep'";
    let before = world.source.value(waiting).await;
    let task = tokio::spawn(async move { client.batch_execute(&sql).await.expect("it commits at last") });
    while world.source.value(waiting).await == before {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    task
}

/// Such a commit counts for the stream already, and nobody sees it in the catalog.
#[tokio::test]
async fn what_is_done_to_the_publication_by_a_commit_that_waits_for_a_standby_is_a_gap() {
    let hba = ["host all all 127.0.0.1/32 trust", "local replication all trust"];
    let options = WorldOptions::default().without_sftp().plugin(Plugin::Pgoutput);
    let mut world = options.source(|source| source.hba(hba[0]).hba(hba[1])).start().await;
    let tables = ["a", "b"].map(|name| format!("CREATE TABLE {name} (id int PRIMARY KEY, n int)"));
    world.source.execute(&format!("{STEADY}; {}", tables.join(";"))).await;
    world.source.execute("SELECT pg_create_physical_replication_slot('standby', true)").await;
    world.make_slot().await;
    world.source.execute("INSERT INTO a VALUES (1, 1); INSERT INTO b VALUES (1, 1)").await;
    assert_eq!(poll(&world).await, [].into());
    let mut standby = world.source.standby("standby").await;
    // Those of everybody but the ones that say otherwise.
    world.source.execute("ALTER DATABASE app SET synchronous_commit = local").await;
    world.source.append_setting("synchronous_standby_names", "*");
    world.source.restart().await;
    let all = ["a", "b", "steady"];
    let publication = "ALTER PUBLICATION syncdata_slot_pub";
    for (done, back, tables) in [
        (format!("{publication} DROP TABLE a"), String::new(), &["a"][..]),
        (
            format!("BEGIN; {publication} DROP TABLE b; {publication} ADD TABLE b WHERE (id > 5); COMMIT"),
            format!("{publication} DROP TABLE b"),
            &["b"],
        ),
        (
            format!("{publication} SET (publish = 'insert')"),
            format!("{publication} SET (publish = 'insert, update, delete, truncate')"),
            &all,
        ),
    ] {
        let missing =
            || tables.iter().flat_map(|table| missed(table)).collect::<std::collections::BTreeSet<_>>();
        standby.stop(StopMode::Fast);
        let waits = waiting_for_the_standby(&world, &done).await;
        world.source.execute("UPDATE a SET n = n + 1; UPDATE b SET n = n + 1").await;
        assert!(poll(&world).await.is_superset(&missing()), "{done}");
        world.source.execute("UPDATE a SET n = n + 1; UPDATE b SET n = n + 1").await;
        assert!(poll(&world).await.is_superset(&missing()), "{done}: it waits still");
        standby.resume().await;
        waits.await.expect("it ends");
        if !back.is_empty() {
            world.source.execute(&back).await;
        }
        assert!(poll(&world).await.is_superset(&missing()), "{done}: it is over");
        while !poll(&world).await.is_empty() {}
    }
    // What has settled is in the stream again.
    world.source.execute("UPDATE a SET n = n + 1").await;
    assert_eq!(poll(&world).await, [].into());

    // In a part of the transaction, as our event trigger does it, while nobody else gets a number and comes to an end.
    standby.stop(StopMode::Fast);
    let before = gaps(&world).len();
    let in_a_part = format!("BEGIN; SAVEPOINT s; {publication} DROP TABLE a; RELEASE s; COMMIT");
    let dropped = waiting_for_the_standby(&world, &in_a_part).await;
    let updated = waiting_for_the_standby(&world, "UPDATE a SET n = n + 1").await;
    world.archiver(["run", "--once"]).run().await.expect_code(1);
    assert_eq!(gaps(&world).split_off(before), missed("a").into_iter().collect::<Vec<_>>());
    standby.resume().await;
    for waits in [dropped, updated] {
        waits.await.expect("it ends");
    }
}

/// What is printed of it is more than the gigabyte that a message may have.
#[tokio::test]
async fn where_a_row_is_too_large_to_be_printed_is_found_and_can_be_declared_a_gap() {
    const PATIENCE: Duration = Duration::from_secs(400);
    let world = world(&format!("{STEADY}; CREATE TABLE notes (id int PRIMARY KEY, data bytea)")).await;
    assert_eq!(poll(&world).await, [].into());
    world.source.execute("INSERT INTO steady VALUES (DEFAULT)").await;
    let begin = world.source.value("SELECT pg_current_wal_insert_lsn()").await;
    world.source.execute("INSERT INTO notes VALUES (1, convert_to(repeat('x', 540000000), 'UTF8'))").await;
    let end = world.source.value("SELECT pg_current_wal_insert_lsn()").await;
    world.source.execute("INSERT INTO steady VALUES (DEFAULT)").await;
    let stopped = world.archiver(["run", "--once"]).patience(PATIENCE).run().await.expect_code(2).to_string();
    assert!(stopped.contains("cannot be read"), "{stopped}");
    let before = reader::segments(world.archive_dir());
    assert_eq!(
        before.iter().filter(|segment| !segment.lines.is_empty()).count(),
        2,
        "all before it is archived"
    );
    let (_, upto) = stopped.split_once("declare-gap --upto ").expect("a command");
    let upto: String = upto.chars().take_while(|c| !c.is_whitespace()).collect();
    // Its commit record begins before that.
    assert!(lsn(&begin) < lsn(&upto) && lsn(&upto) <= lsn(&end), "{begin}, {end}: {stopped}");
    world
        .archiver(["declare-gap", "--upto", &upto, "--reason", "too large"])
        .patience(PATIENCE)
        .succeed()
        .await;
    poll(&world).await;
    let told = gaps(&world);
    assert_eq!(told.len(), 1, "{told:?}");
    world.source.execute("DELETE FROM notes").await;
    assert_eq!(poll(&world).await, [].into());
    assert_eq!(operator::gaps(&world)[0]["to"], upto.as_str());
}

/// The record of its commit begins after the header of a page.
#[tokio::test]
async fn a_transaction_that_cannot_be_read_and_commits_on_a_new_page_is_passed_over() {
    let source = |options: syncdata_tests::PostgresOptions| {
        options.setting("temp_file_limit", "1MB").setting("work_mem", "64kB")
    };
    let options = WorldOptions::default().without_sftp().plugin(Plugin::Pgoutput).source(source);
    let schema = format!("{STEADY}; CREATE TABLE good (id int PRIMARY KEY)");
    let world = scene::world_with(options, &schema).await;
    assert_eq!(poll(&world).await, [].into());
    let client = world.source.connect().await;
    let on_a_new_page =
        format!("BEGIN; INSERT INTO good SELECT generate_series(1, 40000); {}; COMMIT", FILL_PAGE);
    client.batch_execute(&on_a_new_page).await.expect("runs");
    world.source.execute("INSERT INTO steady VALUES (DEFAULT)").await;
    let stopped = world.archiver(["run", "--once"]).run().await.expect_code(2).to_string();
    let (_, upto) = stopped.split_once("declare-gap --upto ").expect("a command");
    let upto: String = upto.chars().take_while(|c| !c.is_whitespace()).collect();
    assert_eq!(lsn(&upto).as_u64() % 8192, 25, "{stopped}");
    world.archiver(["declare-gap", "--upto", &upto, "--reason", "too large"]).succeed().await;
    world.archiver(["run", "--once"]).succeed().await;
    assert_eq!(operator::gaps(&world).len(), 1);
    assert_eq!(poll(&world).await, [].into());
}

fn lsn(text: &str) -> Lsn {
    text.parse().expect("an LSN")
}

/// The root has no key, so that each partition is published by itself. One that is published with its parent may have been
/// unlogged meanwhile, and nothing tells that from it: there it is a gap, which nobody needed.
#[tokio::test]
async fn a_truncate_in_a_savepoint_of_partitions_without_toast_is_no_gap_where_they_are_published_themselves()
{
    let world = world(&format!(
        "{STEADY}; CREATE TABLE numbers (id int PRIMARY KEY, n int);
         CREATE TABLE orders (id int, n int) PARTITION BY RANGE (id);
         CREATE TABLE orders_1 PARTITION OF orders (PRIMARY KEY (id)) FOR VALUES FROM (0) TO (10);
         CREATE TABLE orders_2 PARTITION OF orders (PRIMARY KEY (id)) FOR VALUES FROM (10) TO (20);
         CREATE TABLE keyed (id int PRIMARY KEY, n int) PARTITION BY RANGE (id);
         CREATE TABLE keyed_1 PARTITION OF keyed FOR VALUES FROM (0) TO (20)"
    ))
    .await;
    assert_eq!(poll(&world).await, [].into());
    let within = |table: &str, inner: &str| {
        format!(
            "BEGIN; INSERT INTO {table} VALUES (1, 1), (11, 1); SAVEPOINT s; {inner}; RELEASE s; INSERT INTO {table} VALUES (2, 2); COMMIT"
        )
    };
    for inner in [
        "TRUNCATE orders",
        "TRUNCATE numbers, orders",
        "TRUNCATE orders_1, orders_2",
        "SAVEPOINT t; TRUNCATE orders; RELEASE t",
    ] {
        world.source.execute(&within("orders", inner)).await;
        assert_eq!(poll(&world).await, [].into(), "{inner}");
        world.source.execute("TRUNCATE orders").await;
    }
    // What is taken back has not happened.
    world.source.execute(&within("orders", "TRUNCATE orders; ROLLBACK TO s; SAVEPOINT s")).await;
    assert_eq!(poll(&world).await, [].into());
    world.source.execute("DELETE FROM orders").await;
    // Of one partition alone it cannot be said, there as anywhere.
    world.source.execute(&within("orders", "TRUNCATE orders_1")).await;
    let told = poll(&world).await;
    assert_eq!(told, ["orders TRUNCATE of a partition cannot be said of its parent".to_owned()].into());
    world.source.execute("DO $$ BEGIN TRUNCATE numbers; INSERT INTO numbers VALUES (4, 4); EXCEPTION WHEN division_by_zero THEN NULL; END $$").await;
    assert_eq!(poll(&world).await, [].into());
    world.source.execute(&within("keyed", "TRUNCATE keyed")).await;
    assert_eq!(poll(&world).await, ["keyed rewritten by ALTER TABLE".to_owned()].into());
    world.source.execute("TRUNCATE keyed; INSERT INTO keyed VALUES (3, 3)").await;
    assert_eq!(poll(&world).await, [].into());
}

/// A copy of a slot is none for standbys. What the message says instead is done.
#[tokio::test]
async fn a_slot_for_standbys_is_not_switched_and_what_is_said_instead_works() {
    let mut world = WorldOptions::default().without_sftp().plugin(Plugin::Wal2json).start().await;
    world.execute_on_both("CREATE TABLE a (id int PRIMARY KEY, n int)").await;
    if world.source.installation().major() < 17 {
        let told = world.archiver(["setup", "--create-slot", "--failover"]).run().await.expect_code(1);
        assert!(told.to_string().contains("--failover needs PostgreSQL 17"), "{told}");
        return;
    }
    world.archiver(["setup", "--create-slot", "--failover"]).succeed().await;
    world.source.execute("INSERT INTO a VALUES (1, 1)").await;
    world.archiver(["run", "--once"]).succeed().await;
    world.applier(["add-tables", "a"]).succeed().await;
    world.carry().await;
    world.source.execute("INSERT INTO a VALUES (2, 2)").await;
    let refused =
        world.archiver(["setup", "--switch-source", "pgoutput"]).run().await.expect_code(1).to_string();
    for step in
        ["stop production's writers", "run --once", "drop-slot", "setup --create-slot --failover", "snapshot"]
    {
        assert!(refused.contains(step), "{step}: {refused}");
    }
    world.archiver(["run", "--once"]).succeed().await;
    world.archiver(["drop-slot"]).succeed().await;
    world.set_archiver("source", "pgoutput");
    world.run_as_told(["setup", "--create-slot", "--failover"]).await;
    let slot =
        "SELECT concat_ws(' ', plugin, failover) FROM pg_replication_slots WHERE slot_name = 'syncdata_slot'";
    assert_eq!(world.source.value(slot).await, "pgoutput t");
    world.source.execute("INSERT INTO a VALUES (3, 3)").await;
    world.archiver(["run", "--once"]).run().await;
    world.archiver(["snapshot"]).succeed().await;
    world.applier(["sync"]).run().await;
    world.applier(["resync", "--all"]).succeed().await;
    world.source.execute("UPDATE a SET n = n + 1").await;
    world.carry().await;
    world.assert_same(&["a"]).await;
}

/// Before 18 pgoutput leaves out what the server computes. The copy may compute it too, or go without it.
#[tokio::test]
async fn a_computed_column_whose_values_do_not_travel_is_never_a_wrong_one_here() {
    const PLAIN: &str = "CREATE TABLE plain (id int PRIMARY KEY, n int, twice int";
    const ALIKE: &str =
        "CREATE TABLE alike (id int, n int, twice int GENERATED ALWAYS AS (n * 2) STORED, t text);
        ALTER TABLE alike REPLICA IDENTITY FULL";
    let world = WorldOptions::default().without_sftp().plugin(Plugin::Pgoutput).start().await;
    world.source.execute(&format!("{PLAIN} GENERATED ALWAYS AS (n * 2) STORED); {ALIKE}")).await;
    world.target.execute(&format!("{PLAIN}); {ALIKE}")).await;
    world.make_slot().await;
    world.archiver(["run", "--once"]).succeed().await;
    world.applier(["add-tables", "plain", "alike"]).succeed().await;
    world
        .source
        .execute("INSERT INTO plain VALUES (1, 1), (2, 2); INSERT INTO alike VALUES (1, 1, DEFAULT, 'a')")
        .await;
    world.source.execute("UPDATE plain SET n = 5 WHERE id = 1; UPDATE alike SET n = 7; INSERT INTO alike VALUES (2, 2, DEFAULT, 'b')").await;
    world.archiver(["run", "--once"]).succeed().await;
    let synced = world.applier(["sync"]).run().await;
    world.assert_same(&["alike"]).await;
    if world.source.installation().major() >= 18 {
        assert_eq!(synced.code(), Some(0), "{synced}");
        return world.assert_same(&["plain"]).await;
    }
    assert_eq!(synced.code(), Some(1), "{synced}");
    assert!(synced.to_string().contains("whose values do not travel"), "{synced}");
    // As it says.
    world.target.execute("ALTER TABLE plain DROP COLUMN twice").await;
    world.applier(["retry", "plain"]).succeed().await;
    world.applier(["sync"]).succeed().await;
    assert_eq!(
        world.target.query("SELECT * FROM plain ORDER BY id").await,
        world.source.query("SELECT id, n FROM plain ORDER BY id").await
    );
    // Base copies are of the same columns.
    world.archiver(["snapshot"]).succeed().await;
    world.applier(["resync", "plain", "alike"]).succeed().await;
    world.assert_same(&["alike"]).await;
}

/// Whatever else production does in its transactions: our event triggers lock none of its tables.
#[tokio::test]
async fn a_transaction_of_production_that_changes_the_schema_locks_no_published_table() {
    let world = world(&format!(
        "{STEADY}; CREATE TABLE orders (id int PRIMARY KEY) PARTITION BY RANGE (id);
         CREATE TABLE orders_1 PARTITION OF orders FOR VALUES FROM (0) TO (10)"
    ))
    .await;
    assert_eq!(poll(&world).await, [].into());
    let client = world.source.connect().await;
    client.batch_execute("BEGIN; CREATE TABLE unrelated (id int)").await.expect("nobody is in the way");
    let locked = "SELECT count(*) FROM pg_locks WHERE relation IN ('orders'::regclass, 'orders_1'::regclass, 'steady'::regclass)";
    assert_eq!(world.source.value(locked).await, "0");
}
