//! Rows that are older than the capture of their table: only a snapshot has them.

use syncdata_tests::world::World;

const SLOT: &str = "SELECT pg_create_logical_replication_slot('syncdata_slot', 'wal2json')";

async fn world() -> World {
    let world = World::start().await;
    world
        .execute_on_both(
            "CREATE TABLE old (id int PRIMARY KEY, v text); CREATE TABLE young (id int PRIMARY KEY, v text)",
        )
        .await;
    world.source.execute("INSERT INTO old SELECT i, 'old' FROM generate_series(1, 1000) i").await;
    world.source.execute(SLOT).await;
    world.source.execute("INSERT INTO old VALUES (2000, 'new'); INSERT INTO young VALUES (1, 'new')").await;
    world
}

async fn state(world: &World, table: &str) -> (String, String) {
    let sql = format!("SELECT state, reason FROM data_sync_table_state WHERE table_name = '{table}'");
    let mut row = world.target.query(&sql).await.remove(0).into_iter().map(Option::unwrap_or_default);
    (row.next().expect("a state"), row.next().expect("a reason"))
}

#[tokio::test]
async fn a_table_with_older_rows_stays_pending_until_there_is_a_snapshot() {
    let world = world().await;
    world.archiver(["run", "--once"]).succeed().await;
    world.applier(["add-tables", "old", "young"]).succeed().await;
    world.applier(["sync"]).succeed().await;
    world.assert_same(&["young"]).await;
    let (found, reason) = state(&world, "old").await;
    assert_eq!(found, "pending", "{reason}");
    let command = "syncdata-archiver snapshot --tables old";
    assert!(reason.contains("had rows when its capture began") && reason.ends_with(command), "{reason}");
    assert_eq!(world.target.query("SELECT FROM old").await.len(), 0);
    let status = world.applier(["status"]).run().await;
    assert!(status.stdout.contains(command), "{status:?}");

    // What it tells people to do mends it.
    let told: Vec<&str> = command.split(' ').skip(1).collect();
    world.archiver(told).succeed().await;
    world.source.execute("UPDATE old SET v = 'later' WHERE id < 10; INSERT INTO young VALUES (2, 'x')").await;
    world.carry().await;
    world.applier(["sync"]).succeed().await;
    world.assert_same(&["old", "young"]).await;
    assert_eq!(state(&world, "old").await.0, "live");
}

#[tokio::test]
async fn resync_without_a_snapshot_leaves_a_table_with_older_rows_as_it_is() {
    let world = world().await;
    world.target.execute("INSERT INTO old SELECT i, 'old' FROM generate_series(1, 1000) i").await;
    world.archiver(["run", "--once"]).succeed().await;
    // Loaded by hand, as of the slot.
    world.applier(["add-tables", "young"]).succeed().await;
    world.applier(["sync"]).succeed().await;
    world.applier(["add-tables", "old", "--from", "now"]).succeed().await;
    world.target.execute("INSERT INTO old VALUES (2000, 'new')").await;
    world.carry().await;
    world.assert_same(&["old", "young"]).await;
    let refused = world.applier(["resync", "old"]).run().await.expect_code(1);
    let said = refused.stdout.clone() + &refused.stderr;
    assert!(said.contains("syncdata-archiver snapshot --tables old"), "{said}");
    world.assert_same(&["old"]).await;
    // A table that was empty is made from its changes.
    world.target.execute("DELETE FROM young").await;
    world.applier(["resync", "young"]).succeed().await;
    world.assert_same(&["young"]).await;
}

#[tokio::test]
async fn a_table_that_was_made_later_is_loaded_from_its_changes() {
    let world = world().await;
    world.applier(["add-tables", "young"]).succeed().await;
    world.carry().await;
    world.execute_on_both("CREATE TABLE later (id int PRIMARY KEY, v text)").await;
    world
        .source
        .execute(
            "INSERT INTO later SELECT i, 'x' FROM generate_series(1, 100) i; DELETE FROM later WHERE id < 5",
        )
        .await;
    world.archiver(["run", "--once"]).succeed().await;
    world.applier(["add-tables", "later"]).succeed().await;
    world.applier(["sync"]).succeed().await;
    world.assert_same(&["later"]).await;
    assert_eq!(state(&world, "later").await.0, "live");
}

/// DDL between a base copy and now: what the archive says makes the old rows right, or a newer copy is asked for.
#[tokio::test]
async fn rows_of_a_base_copy_that_is_older_than_a_column_are_right_or_refused() {
    let world = World::start().await;
    let make = "CREATE TYPE mood AS ENUM ('sad', 'fine'); CREATE TABLE t (id int PRIMARY KEY, v int, m mood);
        CREATE TABLE ev (id int PRIMARY KEY, n int) PARTITION BY RANGE (id);
        CREATE TABLE ev_1 PARTITION OF ev FOR VALUES FROM (0) TO (50); CREATE TABLE ev_2 PARTITION OF ev DEFAULT";
    world.execute_on_both(make).await;
    world.source.execute("INSERT INTO t SELECT i, i, 'sad' FROM generate_series(1, 100) i").await;
    world.source.execute("INSERT INTO ev SELECT i, i FROM generate_series(1, 100) i").await;
    world.source.execute(SLOT).await;
    world.archiver(["run", "--once"]).succeed().await;
    world.archiver(["snapshot"]).succeed().await;
    world.applier(["add-tables", "t", "ev"]).succeed().await;
    world.source.execute("INSERT INTO t VALUES (101, 1, 'fine'); INSERT INTO ev VALUES (101, 1)").await;
    world.carry().await;
    world.applier(["sync"]).succeed().await;
    world.assert_same(&["t", "ev"]).await;

    // Old rows have 'was' in it, here too; a row in between has not said so.
    let ddl = "ALTER TABLE t ADD w text DEFAULT 'was', ADD empty int; ALTER TABLE t ALTER w DROP DEFAULT; \
        ALTER TYPE mood ADD VALUE 'so-so'";
    world.source.execute("INSERT INTO t VALUES (102, 1, 'fine')").await;
    world.execute_on_both(ddl).await;
    world.target.execute("ALTER TABLE t ALTER w SET DEFAULT 'was'").await;
    world.source.execute("INSERT INTO t VALUES (103, 1, 'so-so', NULL, 7)").await;
    world.carry().await;
    world.assert_same(&["t"]).await;
    // The catalog forgets it when the table is written anew; the archive does not.
    world.execute_on_both("ALTER TABLE t ALTER v TYPE bigint").await;
    world.source.execute("INSERT INTO t VALUES (110, 5000000000, 'so-so', NULL, 7)").await;
    world.carry().await;
    world.target.execute("UPDATE t SET v = 0").await;
    world.applier(["resync", "t"]).succeed().await;
    world.assert_same(&["t"]).await;

    // Nor of partitions, of which the table itself has no rows.
    for ddl in ["ALTER TABLE ev ADD c text DEFAULT 'x'", "ALTER TABLE ev ALTER n TYPE bigint"] {
        world.source.execute(ddl).await;
        world.archiver(["run", "--once"]).succeed().await;
    }
    world.source.execute("INSERT INTO ev VALUES (102, 5000000000, 'y')").await;
    world.archiver(["run", "--once"]).succeed().await;
    world.target.execute("ALTER TABLE ev ALTER n TYPE bigint").await;
    world.applier(["sync"]).run().await.expect_code(1);
    let reason = state(&world, "ev").await.1;
    let (_, statement) = reason.split_once("run: ").unwrap_or_else(|| panic!("{reason}"));
    assert!(statement.contains("ADD COLUMN \"c\" text DEFAULT 'x'"), "{reason}");
    world.target.execute(statement).await;
    world.applier(["retry", "ev"]).succeed().await;
    world.assert_same(&["ev"]).await;
    world.target.execute("UPDATE ev SET c = NULL WHERE id < 60").await;
    world.applier(["resync", "ev"]).succeed().await;
    world.assert_same(&["ev"]).await;

    // A renamed label: old rows have another word now.
    world.execute_on_both("ALTER TYPE mood RENAME VALUE 'sad' TO 'blue'").await;
    world.source.execute("INSERT INTO t VALUES (104, 1, 'blue')").await;
    world.carry().await;
    world.assert_same(&["t"]).await;
    let refused = world.applier(["resync", "t"]).run().await.expect_code(1);
    let said = refused.stdout.clone() + &refused.stderr;
    assert!(
        said.contains("label \"sad\"") && said.contains("syncdata-archiver snapshot --tables t"),
        "{said}"
    );
    world.assert_same(&["t"]).await;
    world.archiver(["snapshot", "--tables", "t"]).succeed().await;
    world.carry().await;
    world.applier(["resync", "t"]).succeed().await;
    world.assert_same(&["t"]).await;

    // One that is there again after it was renamed is another one.
    let clock = "SELECT clock_timestamp()::text FROM pg_sleep(0.01)";
    let then = world.source.value(clock).await;
    world.source.execute("INSERT INTO t VALUES (108, 1, 'blue')").await;
    world.carry().await;
    for (ddl, id) in [("RENAME VALUE 'blue' TO 'low'", 106), ("ADD VALUE 'blue'", 107)] {
        world.execute_on_both(&format!("ALTER TYPE mood {ddl}")).await;
        world
            .source
            .execute(
                &format!("INSERT INTO t VALUES ({id}, 1, 'blue'::text::mood)")
                    .replace("106, 1, 'blue'", "106, 1, 'low'"),
            )
            .await;
        world.carry().await;
    }
    world.assert_same(&["t"]).await;
    let refused = world.applier(["resync", "t"]).run().await.expect_code(1);
    let said = refused.stdout.clone() + &refused.stderr;
    assert!(
        said.contains("label \"blue\"") && said.contains("syncdata-archiver snapshot --tables t"),
        "{said}"
    );
    let now = world.source.value(clock).await;
    let later = ["replay", "--yes", "--from", &now, "--to", "2100-01-01", "--tables", "t"];
    let replayed = world.applier(later).succeed().await;
    assert!(replayed.stdout.contains("nothing was changed"), "{replayed}");
    let before = ["replay", "--yes", "--from", &then, "--to", &now, "--tables", "t"];
    let replayed = world.applier(before).run().await.expect_code(1);
    assert!(replayed.stdout.contains("left alone: after the range label \"blue\""), "{replayed}");
    let past = world.applier(["as-of", &now, "--into", "past", "--tables", "t"]).run().await.expect_code(1);
    assert!(past.stdout.contains("label \"blue\""), "{past}");
    world.assert_same(&["t"]).await;
    world.archiver(["snapshot", "--tables", "t"]).succeed().await;
    world.carry().await;

    // A renamed column.
    world.execute_on_both("ALTER TABLE t RENAME v TO v2").await;
    world.source.execute("INSERT INTO t VALUES (105, 1, 'blue')").await;
    world.carry().await;
    let refused = world.applier(["resync", "t"]).run().await.expect_code(1);
    let said = refused.stdout.clone() + &refused.stderr;
    assert!(said.contains("newer base copy is needed") && said.contains("snapshot --tables t"), "{said}");
    world.assert_same(&["t"]).await;
}

/// head.json spares a reader the listing; what it says is only a hint.
#[tokio::test]
async fn a_head_that_names_what_is_not_there_is_a_hint_only() {
    let world = World::start().await;
    world.execute_on_both("CREATE TABLE t (id int PRIMARY KEY)").await;
    world.source.execute(SLOT).await;
    world.applier(["add-tables", "t"]).succeed().await;
    let head = world.archive_dir().join("head.json");
    let step = async |id: u32| {
        world.source.execute(&format!("INSERT INTO t VALUES ({id})")).await;
        world.archiver(["run", "--once"]).succeed().await;
    };
    step(1).await;
    world.applier(["sync"]).succeed().await;
    step(2).await;
    let said = world.applier(["-vv", "sync"]).succeed().await;
    assert!(said.stderr.contains("nothing is listed"), "{said}");
    world.assert_same(&["t"]).await;
    // One that names another segment than is there.
    step(3).await;
    let text = std::fs::read_to_string(&head).expect("there");
    let mut wrong: serde_json::Value = serde_json::from_str(&text).expect("JSON");
    let digest = "0".repeat(64);
    wrong["recent"][0]["sha256"] = digest.clone().into();
    wrong["sha256"] = digest.into();
    std::fs::write(&head, format!("{wrong}\n")).expect("ours");
    let said = world.applier(["sync"]).run().await;
    assert_ne!(said.code(), Some(0), "a head that names another manifest is refused, as before: {said}");
    std::fs::write(&head, &text).expect("ours");
    world.applier(["sync"]).succeed().await;
    world.assert_same(&["t"]).await;
    // One whose path is nowhere, and one without the list.
    step(4).await;
    let text = std::fs::read_to_string(&head).expect("there");
    let mut wrong: serde_json::Value = serde_json::from_str(&text).expect("JSON");
    let moved = wrong["manifest"].as_str().expect("a path").replace("segments/20", "segments/21");
    wrong["recent"][0]["manifest"] = moved.clone().into();
    wrong["manifest"] = moved.into();
    std::fs::write(&head, format!("{wrong}\n")).expect("ours");
    world.applier(["sync"]).succeed().await;
    world.assert_same(&["t"]).await;
    step(5).await;
    let text = std::fs::read_to_string(&head).expect("there");
    let mut without: serde_json::Value = serde_json::from_str(&text).expect("JSON");
    without.as_object_mut().expect("an object").remove("recent");
    std::fs::write(&head, format!("{without}\n")).expect("ours");
    world.applier(["sync"]).succeed().await;
    world.assert_same(&["t"]).await;
}

/// It was empty, and has another value than NULL in rows that are older than the column; the table has rows that have NULL.
#[tokio::test]
async fn a_partition_that_comes_later_says_nothing_of_older_rows_of_its_table() {
    let world = World::start().await;
    let make = "CREATE TABLE ev (id int PRIMARY KEY, n int) PARTITION BY RANGE (id);
        CREATE TABLE ev_1 PARTITION OF ev FOR VALUES FROM (0) TO (100)";
    world.execute_on_both(make).await;
    world.source.execute("INSERT INTO ev VALUES (1, 1), (2, 2)").await;
    world.source.execute(SLOT).await;
    world.archiver(["run", "--once"]).succeed().await;
    world.archiver(["snapshot"]).succeed().await;
    world.applier(["add-tables", "ev"]).succeed().await;
    world.source.execute("INSERT INTO ev VALUES (3, 3)").await;
    world.carry().await;
    world.applier(["sync"]).succeed().await;
    let attach = |from: u32, more: &str| {
        format!(
            "CREATE TABLE ev_{from} (id int PRIMARY KEY, n int); ALTER TABLE ev_{from} ADD {more} int DEFAULT 7;
             ALTER TABLE ev ATTACH PARTITION ev_{from} FOR VALUES FROM ({from}) TO ({from} + 100)"
        )
    };
    // In one answer with the column, and after it.
    world.execute_on_both("ALTER TABLE ev ADD c int").await;
    world.execute_on_both(&attach(100, "c")).await;
    world.source.execute("INSERT INTO ev VALUES (4, 4, 4), (101, 1, 9)").await;
    world.carry().await;
    world.execute_on_both("ALTER TABLE ev ADD d int").await;
    world.source.execute("INSERT INTO ev VALUES (5, 5, 5, 5)").await;
    world.carry().await;
    world
        .execute_on_both(&attach(200, "c").replace(
            "ALTER TABLE ev ATTACH",
            "ALTER TABLE ev_200 ADD d int DEFAULT 8; ALTER TABLE ev ATTACH",
        ))
        .await;
    world.source.execute("INSERT INTO ev VALUES (201, 1, 1, 1)").await;
    world.carry().await;
    world.assert_same(&["ev"]).await;
    world.applier(["resync", "ev"]).succeed().await;
    world.assert_same(&["ev"]).await;
    assert_eq!(state(&world, "ev").await.0, "live");
}
