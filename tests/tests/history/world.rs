//! Repairs beside a running daemon, with changes that production made and an archive behind SFTP.

use std::time::{Duration, Instant};

use syncdata_tests::World;

const TABLES: &str = "
    CREATE SCHEMA sales;
    CREATE TABLE users (id int GENERATED ALWAYS AS IDENTITY PRIMARY KEY, name text UNIQUE, big text, amount numeric,
        twice int GENERATED ALWAYS AS (id * 2) STORED);
    CREATE TABLE sales.\"Odd.Name\" (a text, b numeric(10,2), j json, p point, PRIMARY KEY (a, b));
    ALTER TABLE users ALTER big SET STORAGE EXTERNAL";

const BIG: &str = "(SELECT string_agg(md5(n::text), '') FROM generate_series(1, 200) n)";

async fn world() -> World {
    let world = World::start().await;
    world.execute_on_both(TABLES).await;
    world.source.execute("SELECT pg_create_logical_replication_slot('syncdata_slot', 'wal2json')").await;
    world.applier(["add-tables", "public.users", "sales.*"]).succeed().await;
    world
}

/// Production's clock, and some time before anything else is done.
async fn now(world: &World) -> String {
    let clock = "SELECT to_char(clock_timestamp() AT TIME ZONE 'UTC', 'YYYY-MM-DD\"T\"HH24:MI:SS.US\"Z\"') \
        FROM pg_sleep(0.01)";
    world.source.value(clock).await
}

async fn archive(world: &World, sql: &str) {
    world.source.execute(sql).await;
    world.archiver(["run", "--once"]).succeed().await;
}

async fn waits_for(world: &World, query: &str) {
    let deadline = Instant::now() + Duration::from_secs(60);
    while world.target.value(query).await != "t" {
        assert!(Instant::now() < deadline, "{query} is still not so");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test]
async fn a_day_in_the_middle_is_repaired_while_the_daemon_goes_on() {
    let world = world().await;
    archive(
        &world,
        &format!(
            "INSERT INTO users (name, big, amount) SELECT 'n' || i, {BIG} || i, i / 8.0 FROM generate_series(1, 60) i;
             INSERT INTO sales.\"Odd.Name\" SELECT 'a' || i, i, '{{\"x\": 1}}', point(i, i) FROM generate_series(1, 40) i"
        ),
    )
    .await;
    let from = now(&world).await;
    archive(
        &world,
        "UPDATE users SET amount = amount + 0.10 WHERE id <= 30; DELETE FROM users WHERE id = 31",
    )
    .await;
    archive(&world, "UPDATE sales.\"Odd.Name\" SET a = a || 'x', p = point(0, 0) WHERE b <= 20").await;
    let to = now(&world).await;
    archive(
        &world,
        "UPDATE users SET id = DEFAULT WHERE id = 1; UPDATE users SET name = 'later ' || id WHERE id % 2 = 0;
         DELETE FROM sales.\"Odd.Name\" WHERE b = 3; UPDATE sales.\"Odd.Name\" SET b = b + 1000 WHERE b = 4",
    )
    .await;
    let mut daemon = world.applier(["start"]).spawn();
    daemon.says("pass done").await;
    let tables = ["users", "sales.\"Odd.Name\""];
    world.assert_same(&tables).await;

    world
        .target
        .execute(
            "DELETE FROM users WHERE id IN (5, 7, 8, 61); UPDATE users SET name = 'x' || id, big = NULL, amount = -1 \
             WHERE id BETWEEN 9 AND 20; INSERT INTO users (id, name) OVERRIDING SYSTEM VALUE VALUES (31, 'again'); \
             UPDATE sales.\"Odd.Name\" SET j = '{}', p = NULL WHERE b <= 20; \
             DELETE FROM sales.\"Odd.Name\" WHERE b IN (5, 1004); INSERT INTO sales.\"Odd.Name\" VALUES ('a3x', 3)",
        )
        .await;
    // The daemon is in the middle of its life: it goes on before, while and after.
    archive(&world, "INSERT INTO users (name) VALUES ('while')").await;
    let (blocker, blocking) =
        (world.target.connect().await, "BEGIN; SELECT FROM users WHERE id = 9 FOR UPDATE");
    blocker.batch_execute(blocking).await.expect("a lock");
    let replay = world.applier(["replay", "--yes", "--from", &from, "--to", &to]);
    let sync = world.applier(["sync"]);
    let (replayed, synced, ()) = tokio::join!(replay.run(), sync.run(), async {
        let waiting = "SELECT count(*) > 0 FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND query LIKE 'UPDATE %'";
        waits_for(&world, waiting).await;
        blocker.batch_execute("COMMIT").await.expect("the lock ends");
    });
    let replayed = replayed.expect_code(0);
    assert!(replayed.stdout.contains("rows were changed"), "{replayed}");
    synced.expect_code(0);
    world.assert_same(&tables).await;
    let again = world.applier(["replay", "--yes", "--from", &from, "--to", &to]).succeed().await;
    assert!(again.stdout.contains("nothing was changed"), "{again}");

    archive(&world, "INSERT INTO users (name) VALUES ('after')").await;
    world.applier(["sync"]).succeed().await;
    world.assert_same(&tables).await;
    daemon.stop().await.expect_code(0);
}

#[tokio::test]
async fn a_repair_that_is_killed_before_its_commit_has_changed_nothing() {
    let world = world().await;
    archive(&world, "INSERT INTO users (name) VALUES ('one'), ('two')").await;
    world.applier(["sync"]).succeed().await;
    world.target.execute("DELETE FROM users WHERE id = 1").await;
    let replay = || world.applier(["replay", "--yes", "--from", "2000-01-01", "--to", "2100-01-01"]);
    assert!(replay().fault("replay.before_commit=kill").run().await.was_killed());
    assert_eq!(world.target.value("SELECT count(*) FROM users").await, "1");
    let cache = world.folder().join("applier/state/cache");
    let entries = || {
        let names =
            std::fs::read_dir(&cache).expect("the cache is there").map(|entry| entry.expect("an entry"));
        names.filter(|entry| entry.file_name().to_string_lossy().starts_with("by-hand-")).count()
    };
    assert_eq!(entries(), 1, "the folder of the killed one");
    replay().succeed().await;
    world.assert_same(&["users"]).await;
    assert_eq!(entries(), 0, "it is swept away");
}

/// Columns have changed names since the range: by name its values would go into the other ones.
#[tokio::test]
async fn a_range_from_before_columns_changed_names_is_written_into_no_other_column() {
    let world = World::start().await;
    let tables = "CREATE TABLE swapped (id int PRIMARY KEY, a text, b text);
        CREATE TABLE reused (id int PRIMARY KEY, a text)";
    world.execute_on_both(tables).await;
    world.make_slot().await;
    world.applier(["add-tables", "swapped", "reused"]).succeed().await;
    let from = now(&world).await;
    archive(&world, "INSERT INTO swapped VALUES (1, 'a1', 'b1'); INSERT INTO reused VALUES (1, 'old')").await;
    let to = now(&world).await;
    world.applier(["sync"]).succeed().await;
    let later = "BEGIN; ALTER TABLE swapped RENAME a TO t; ALTER TABLE swapped RENAME b TO a; ALTER TABLE swapped RENAME t TO b;
        COMMIT; ALTER TABLE reused RENAME a TO was; ALTER TABLE reused ADD a text";
    world.execute_on_both(later).await;
    let new = "INSERT INTO swapped VALUES (2, 'a2', 'b2'); INSERT INTO reused VALUES (2, 'kept', 'new')";
    world.source.execute(new).await;
    // What was swapped is a gap.
    world.archiver(["run", "--once"]).run().await;
    world.applier(["sync"]).run().await;
    let rows = "SELECT (SELECT string_agg(s::text, ' ' ORDER BY id) FROM swapped s WHERE id = 1) || ' ' ||
        (SELECT string_agg(r::text, ' ' ORDER BY id) FROM reused r WHERE id = 1)";
    assert_eq!(world.target.value(rows).await, "(1,a1,b1) (1,old,)");
    let replayed =
        world.applier(["replay", "--yes", "--from", &from, "--to", &to]).run().await.expect_code(1);
    assert_eq!(world.target.value(rows).await, "(1,a1,b1) (1,old,)", "{replayed}");
    assert!(replayed.stdout.contains("mend it with resync"), "{replayed}");
}

/// A column was renamed before the range, or after it; and here is one of ours that has its old name.
#[tokio::test]
async fn a_column_that_was_renamed_is_not_sought_under_its_old_name() {
    let world = World::start().await;
    let table = |name: &str| {
        format!(
            "CREATE TABLE {name} (id int PRIMARY KEY, a text, n int);
        ALTER TABLE {name} ALTER a SET STORAGE EXTERNAL;"
        )
    };
    world.execute_on_both(&["r", "plain", "own"].map(table).concat()).await;
    world.make_slot().await;
    world.applier(["add-tables", "r", "plain", "own"]).succeed().await;
    let insert = |name: &str| format!("INSERT INTO {name} SELECT i, {BIG}, 0 FROM generate_series(1, 2) i;");
    archive(&world, &["r", "plain"].map(insert).concat()).await;
    world.applier(["sync"]).succeed().await;
    let before = now(&world).await;
    archive(&world, "INSERT INTO own VALUES (1, 'theirs', 0)").await;
    world.applier(["sync"]).succeed().await;
    let rename = "ALTER TABLE r RENAME a TO b; ALTER TABLE own RENAME a TO b";
    archive(&world, rename).await;
    world.target.execute(rename).await;
    let from = now(&world).await;
    archive(&world, "UPDATE r SET n = 1 WHERE id = 1; UPDATE plain SET n = 1 WHERE id = 1; INSERT INTO own VALUES (2, 'x', 0)").await;
    world.applier(["sync"]).succeed().await;
    world.assert_same(&["r", "plain", "own"]).await;
    world.target.execute("ALTER TABLE own ADD a text; UPDATE own SET a = 'ours'").await;
    let to = now(&world).await;
    world.target.execute("DELETE FROM r WHERE id = 1; DELETE FROM plain WHERE id = 1").await;
    let replayed =
        world.applier(["replay", "--yes", "--from", &from, "--to", &to]).run().await.expect_code(1);
    world.assert_same(&["plain"]).await;
    assert_eq!(world.target.value("SELECT count(*) FROM r").await, "1", "{replayed}");
    assert!(replayed.stdout.contains("r: left alone: "), "{replayed}");
    assert!(replayed.stdout.contains("has another name now; mend it with resync"), "{replayed}");
    let replayed =
        world.applier(["replay", "--yes", "--from", &before, "--to", &from]).run().await.expect_code(1);
    let own = "SELECT string_agg(o::text, ' ' ORDER BY id) FROM own o";
    assert_eq!(world.target.value(own).await, "(1,theirs,0,ours) (2,x,0,ours)", "{replayed}");
    assert!(replayed.stdout.contains("is called \"b\" by now"), "{replayed}");
    assert!(replayed.stdout.contains("mend it with resync"), "{replayed}");
    assert!(!replayed.stdout.contains("RENAME COLUMN"), "{replayed}");
}

/// The archive knows the values under the former name: rows that were spoilt are not called mended without them.
#[tokio::test]
async fn a_table_whose_column_was_renamed_since_the_range_is_left_alone() {
    let world = World::start().await;
    world.execute_on_both("CREATE TABLE t (id int PRIMARY KEY, v text)").await;
    world.make_slot().await;
    world.applier(["add-tables", "t"]).succeed().await;
    world.archiver(["run", "--once"]).succeed().await;
    let from = now(&world).await;
    archive(&world, "INSERT INTO t VALUES (1, 'a'), (2, 'b')").await;
    let to = now(&world).await;
    world.applier(["sync"]).succeed().await;
    let rename = "ALTER TABLE t RENAME v TO w";
    archive(&world, rename).await;
    world.target.execute(rename).await;
    archive(&world, "INSERT INTO t VALUES (3, 'c')").await;
    world.applier(["sync"]).succeed().await;
    world.target.execute("UPDATE t SET w = 'spoilt' WHERE id < 3").await;
    let replayed =
        world.applier(["replay", "--yes", "--from", &from, "--to", &to]).run().await.expect_code(1);
    assert!(replayed.stdout.contains("t: left alone: "), "{replayed}");
    assert!(replayed.stdout.contains("is called \"w\" by now; mend it with resync"), "{replayed}");
    assert_eq!(world.target.value("SELECT count(*) FROM t WHERE w = 'spoilt'").await, "2");
}
