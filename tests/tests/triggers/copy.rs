//! From production's tables to the copy, without a slot. After every poll the copy is a state that production had.

use syncdata_tests::world::{Plugin, World, WorldOptions};

pub(crate) async fn world(schema: &str) -> World {
    let options = WorldOptions::default().without_sftp().plugin(Plugin::Triggers);
    let world = options.start().await;
    world.execute_on_both(schema).await;
    world.source.execute("CREATE TABLE steady (id int PRIMARY KEY)").await;
    world.make_slot().await;
    world
}

/// The copy takes the tables, and has them from their beginning.
pub(crate) async fn follow(world: &World, tables: &[&str]) {
    // Without a segment nobody can say since when they are captured.
    world.source.execute("INSERT INTO steady VALUES (1)").await;
    world.archiver(["run", "--once"]).succeed().await;
    let add = ["add-tables"].iter().chain(tables).copied().chain(["--from", "start"]);
    world.applier(add).succeed().await;
    world.applier(["sync"]).succeed().await;
}

const USERS: &str = "CREATE TABLE users (id int PRIMARY KEY, name text UNIQUE)";

#[tokio::test]
async fn rows_come_over_as_they_are() {
    let world = world(USERS).await;
    world.source.execute("INSERT INTO users VALUES (1, 'a'), (2, 'b'), (3, NULL)").await;
    follow(&world, &["users"]).await;
    world.assert_same(&["users"]).await;
    for statements in [
        "UPDATE users SET name = 'c' WHERE id = 1",
        "UPDATE users SET id = 7 WHERE id = 2",
        "DELETE FROM users WHERE id = 3; INSERT INTO users VALUES (3, 'again')",
        // Unique values change places.
        "UPDATE users SET name = 'x' WHERE id = 1; UPDATE users SET name = 'c' WHERE id = 3; UPDATE users SET name = 'again' WHERE id = 1",
        "INSERT INTO users VALUES (8, 'eight'); DELETE FROM users WHERE id = 8",
        "BEGIN; INSERT INTO users VALUES (9, 'nine'); SAVEPOINT s; DELETE FROM users; ROLLBACK TO s; COMMIT",
        "TRUNCATE users; INSERT INTO users VALUES (1, 'after')",
        "INSERT INTO users VALUES (2, 'b'); TRUNCATE users",
        "INSERT INTO users VALUES (1, 'back\\slash\ttab\nline \"quoted\" ü')",
    ] {
        world.source.execute(statements).await;
        world.carry().await;
        if let Some(difference) = world.difference("users").await {
            panic!("{statements}: {difference}");
        }
    }
}

#[tokio::test]
async fn nothing_is_lost_of_what_commits_late() {
    let world = world(USERS).await;
    follow(&world, &["users"]).await;
    let (early, late) = (world.source.connect().await, world.source.connect().await);
    late.batch_execute("BEGIN; INSERT INTO users VALUES (1, 'late')").await.expect("ours");
    early.batch_execute("BEGIN; INSERT INTO users VALUES (2, 'early'); COMMIT").await.expect("ours");
    world.carry().await;
    world.assert_same(&["users"]).await;
    late.batch_execute("INSERT INTO users VALUES (3, 'later'); DELETE FROM users WHERE id = 2")
        .await
        .expect("ours");
    for round in 10..13 {
        early.batch_execute(&format!("INSERT INTO users VALUES ({round})")).await.expect("ours");
        world.carry().await;
        world.assert_same(&["users"]).await;
    }
    late.batch_execute("COMMIT").await.expect("ours");
    world.carry().await;
    world.assert_same(&["users"]).await;
    assert_eq!(world.target.value("SELECT count(*) FROM users").await, "5");
}

#[tokio::test]
async fn every_type_reads_as_the_server_prints_it() {
    let schema =
        "CREATE TABLE t (id numeric PRIMARY KEY, b bool, n numeric, f float8, y bytea, j json, x text[],
        at timestamptz, d interval, m money, c char(5), v varchar(3), u uuid, i inet)";
    let world = world(schema).await;
    world
        .source
        .execute(
            "INSERT INTO t VALUES (1.0, true, 'NaN', 'Infinity', '\\x00ff5c', '{\"a\" : 1, \"a\":2}', '{a,NULL,\"b c\"}',
             '2026-02-01 03:04:05.678+01', '-1 days 02:00:00', '-1234.56', 'ab', 'xyz', '6f1c2f0e-0000-4000-8000-000000000000',
             '10.0.0.1'), (2.50, false, 1e400, 'NaN', '', 'null', '{}', '-infinity', NULL, NULL, NULL, NULL, NULL, NULL)",
        )
        .await;
    follow(&world, &["t"]).await;
    world.assert_same(&["t"]).await;
    // Equal in the sense of its type, and another text.
    world.source.execute("UPDATE t SET id = 1.00 WHERE id = 1; UPDATE t SET n = 7 WHERE id = 2.5").await;
    world.carry().await;
    world.assert_same(&["t"]).await;
}

#[tokio::test]
async fn partitions_travel_as_their_root() {
    let schema = "CREATE TABLE p (a int, b int, v text, PRIMARY KEY (a, b)) PARTITION BY RANGE (a);
        CREATE TABLE p1 PARTITION OF p FOR VALUES FROM (0) TO (10)";
    let world = world(schema).await;
    world.source.execute("INSERT INTO p VALUES (1, 1, 'x')").await;
    follow(&world, &["p"]).await;
    let new = "CREATE TABLE p2 PARTITION OF p FOR VALUES FROM (10) TO (20)";
    world.execute_on_both(new).await;
    world
        .source
        .execute("UPDATE p SET a = 11; INSERT INTO p2 VALUES (12, 1, 'y'); INSERT INTO p VALUES (1, 1, 'z')")
        .await;
    world.carry().await;
    world.assert_same(&["p"]).await;
    world.source.execute("TRUNCATE p; INSERT INTO p VALUES (3, 3, 'after')").await;
    world.carry().await;
    world.assert_same(&["p"]).await;
}

/// A default partition is split, and what came of it is put out of the way, all between two polls: the rows have gone from
/// their partition, and under their keys others came to one that no look has seen. Keys that were new in it go without a word.
#[tokio::test]
async fn rows_that_leave_with_a_partition_which_no_look_has_seen_are_gone() {
    let schema = "CREATE TABLE p (a int PRIMARY KEY, v text) PARTITION BY RANGE (a);
        CREATE TABLE p1 PARTITION OF p FOR VALUES FROM (0) TO (10); CREATE TABLE rest PARTITION OF p DEFAULT";
    let world = world(schema).await;
    world.source.execute("INSERT INTO p VALUES (1, 'x'), (51, 'a'), (52, 'b'), (53, 'c'), (71, 'd')").await;
    follow(&world, &["p"]).await;
    let split = |from: u32, to: u32| {
        format!(
            "BEGIN; CREATE TEMP TABLE moved AS SELECT * FROM rest WHERE a >= {from} AND a < {to};
             DELETE FROM rest WHERE a >= {from} AND a < {to};
             CREATE TABLE later PARTITION OF p FOR VALUES FROM ({from}) TO ({to}); INSERT INTO p SELECT * FROM moved; COMMIT;
             DROP TABLE moved; INSERT INTO p VALUES ({from}, 'new') ON CONFLICT DO NOTHING"
        )
    };
    for (from, leaves) in [
        (50, "ALTER TABLE p DETACH PARTITION later; DROP TABLE later; INSERT INTO p VALUES (52, 'back')"),
        (70, "TRUNCATE later; DROP TABLE later"),
    ] {
        world.source.execute(&split(from, from + 10)).await;
        world.source.execute(leaves).await;
        world.archiver(["run", "--once"]).succeed().await;
        world.applier(["sync"]).succeed().await;
        world.assert_same(&["p"]).await;
        let missing = "SELECT coalesce(sum(rows_missing), 0) FROM data_sync_logs";
        assert_eq!(world.target.value(missing).await, "0", "{leaves}");
    }
}

/// Its rows were loaded while nothing was noted of them, and then it looks as if nothing had ever been off.
#[tokio::test]
async fn a_new_partition_whose_triggers_were_off_for_a_while_is_a_gap() {
    let schema = "CREATE TABLE p (a int, b int, v text, PRIMARY KEY (a, b)) PARTITION BY RANGE (a);
        CREATE TABLE p1 PARTITION OF p FOR VALUES FROM (0) TO (10)";
    for (turned, is_gap) in [
        ("ALTER TABLE p2 DISABLE TRIGGER ALL; INSERT INTO p VALUES (11, 1, 'loaded'); ENABLE", true),
        (
            "BEGIN; MAKE; ALTER TABLE p2 DISABLE TRIGGER ALL; INSERT INTO p VALUES (11, 1, 'loaded'); ENABLE; COMMIT",
            true,
        ),
        ("INSERT INTO p VALUES (11, 1, 'loaded')", false),
        ("BEGIN; SAVEPOINT s; MAKE; INSERT INTO p VALUES (11, 1, 'loaded'); COMMIT", false),
    ] {
        let world = world(schema).await;
        world.source.execute("INSERT INTO p VALUES (1, 1, 'x')").await;
        follow(&world, &["p"]).await;
        let note = world
            .source
            .value("SELECT tgname FROM pg_trigger WHERE tgrelid = 'p'::regclass AND tgname ~ 'note'")
            .await;
        let make = "CREATE TABLE p2 PARTITION OF p FOR VALUES FROM (10) TO (20)";
        let enable =
            format!("ALTER TABLE p2 ENABLE TRIGGER ALL; ALTER TABLE p2 ENABLE ALWAYS TRIGGER {note}");
        world.target.execute(make).await;
        if !turned.contains("MAKE") {
            world.source.execute(make).await;
        }
        world.source.execute(&turned.replace("MAKE", make).replace("ENABLE", &enable)).await;
        world.source.execute("INSERT INTO p VALUES (12, 1, 'noted')").await;
        let polled = world.archiver(["run", "--once"]).run().await.expect_code(i32::from(is_gap));
        world.applier(["sync"]).run().await;
        let state =
            world.target.value("SELECT state FROM data_sync_table_state WHERE table_name = 'p'").await;
        assert_eq!(state == "live", !is_gap, "{turned}: {state}, {polled}");
        if !is_gap {
            world.assert_same(&["p"]).await;
        }
    }
}

/// What a poll reads goes away once it is safe, without anybody waiting.
#[tokio::test]
async fn notes_that_were_read_make_room() {
    let world = world(USERS).await;
    follow(&world, &["users"]).await;
    world.source.execute("INSERT INTO users SELECT i FROM generate_series(1, 120000) i").await;
    let notes = "SELECT count(*) FROM syncdata.changes";
    // With the one that `follow` left, and which was read.
    assert_eq!(world.source.value(notes).await, "120001");
    // The other table is taken; then the first one is emptied.
    world.carry().await;
    world.source.execute("UPDATE users SET name = 'a' WHERE id = 1").await;
    world.carry().await;
    world.carry().await;
    assert_eq!(world.source.value(notes).await, "1");
    world.assert_same(&["users"]).await;
}
