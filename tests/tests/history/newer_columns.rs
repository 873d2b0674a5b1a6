//! The past of a table that has got columns since, and rows of it that are put together again: what rows older than a
//! column have in it, production's catalog says, not the default that the column has here.

use syncdata_tests::World;

const SLOT: &str = "SELECT pg_create_logical_replication_slot('syncdata_slot', 'wal2json')";
const CLOCK: &str = "SELECT to_char(clock_timestamp() AT TIME ZONE 'UTC', 'YYYY-MM-DD\"T\"HH24:MI:SS.US\"Z\"') FROM pg_sleep(0.01)";

async fn now(world: &World) -> String {
    let time = world.source.value(CLOCK).await;
    world.source.query("SELECT pg_sleep(0.01)").await;
    time
}

/// `t` is copied before it gets a column, `young` never; where rows came before the column, `from` lies before it.
async fn world() -> (World, String) {
    let world = World::start().await;
    world
        .execute_on_both(
            "CREATE TABLE t (id int PRIMARY KEY, v text); CREATE TABLE young (id int PRIMARY KEY, v text)",
        )
        .await;
    world.source.execute(SLOT).await;
    world.source.execute("INSERT INTO t VALUES (1, 'a')").await;
    world.archiver(["run", "--once"]).succeed().await;
    world.archiver(["snapshot", "--tables", "t"]).succeed().await;
    world.applier(["add-tables", "t", "young"]).succeed().await;
    world.source.execute("INSERT INTO t VALUES (2, 'b'); INSERT INTO young VALUES (1, 'y'), (2, 'y')").await;
    world.carry().await;
    world.applier(["sync"]).succeed().await;
    let from = now(&world).await;
    world.source.execute("UPDATE t SET v = 'c'; UPDATE young SET v = 'z'").await;
    world.archiver(["run", "--once"]).succeed().await;
    for table in ["t", "young"] {
        let ddl = format!("ALTER TABLE {table} ADD w text DEFAULT 'was', ADD e int");
        world.execute_on_both(&ddl).await;
        world.source.execute(&format!("INSERT INTO {table} VALUES (3, 'x', 'new', 7)")).await;
    }
    world.carry().await;
    world.assert_same(&["t", "young"]).await;
    (world, from)
}

#[tokio::test]
async fn as_of_a_moment_older_rows_have_what_they_had_in_newer_columns() {
    let (world, _) = world().await;
    let at = now(&world).await;
    // It is no matter what the default is by now, on either side.
    for table in ["t", "young"] {
        world.source.execute(&format!("ALTER TABLE {table} ALTER w SET DEFAULT 'later'")).await;
        world
            .target
            .execute(&format!("ALTER TABLE {table} ALTER w SET DEFAULT 'ours', ALTER e SET DEFAULT 9"))
            .await;
    }
    world.applier(["as-of", &at, "--into", "past"]).succeed().await;
    for table in ["t", "young"] {
        let rows =
            |schema: &str| format!("SELECT string_agg(t::text, ' ' ORDER BY id) FROM {schema}.{table} t");
        let wanted = world.source.value(&rows("public")).await;
        assert!(wanted.contains("was"), "{wanted}");
        assert_eq!(world.target.value(&rows("past")).await, wanted);
    }
}

#[tokio::test]
async fn a_row_that_is_put_together_again_has_what_it_had_in_newer_columns() {
    let (world, from) = world().await;
    let until = now(&world).await;
    world.target.execute("ALTER TABLE t ALTER w SET DEFAULT 'ours', ALTER e SET DEFAULT 9").await;
    world.target.execute("ALTER TABLE young ALTER w DROP DEFAULT").await;
    world.target.execute("DELETE FROM t WHERE id < 3; DELETE FROM young WHERE id < 3").await;
    world.applier(["replay", "--yes", "--from", &from, "--to", &until]).succeed().await;
    world.assert_same(&["t", "young"]).await;

    // What a newer base copy brought is not undone: the stream may never have said it. wal2json of Debian 12 says NaN so.
    world.execute_on_both("ALTER TABLE t ADD n numeric").await;
    let from = now(&world).await;
    // In one segment with what comes after the snapshot.
    world.source.execute("UPDATE t SET n = 'NaN' WHERE id = 1").await;
    world.archiver(["snapshot", "--tables", "t"]).succeed().await;
    world.carry().await;
    world.applier(["resync", "t"]).succeed().await;
    world.assert_same(&["t"]).await;
    world.target.execute("UPDATE t SET v = 'spoilt' WHERE id = 2").await;
    let replayed = world
        .applier(["replay", "--yes", "--from", &from, "--to", "2100-01-01", "--tables", "t"])
        .run()
        .await
        .expect_code(1);
    assert!(replayed.stdout.contains("t: left alone: its rows came with a base copy"), "{replayed}");
    assert!(replayed.stdout.contains("run: syncdata-applier consistency repair t"), "{replayed}");
    world.applier(["consistency", "repair", "t"]).succeed().await;
    world.assert_same(&["t"]).await;
    // Nor what a repair has brought from a newer one.
    let from = now(&world).await;
    world.source.execute("UPDATE t SET n = 'NaN' WHERE id = 2").await;
    world.archiver(["snapshot", "--tables", "t"]).succeed().await;
    world.source.execute("UPDATE t SET v = 'd' WHERE id = 3").await;
    world.carry().await;
    let repaired = world.applier(["consistency", "repair", "t"]).succeed().await;
    assert!(world.difference("t").await.is_none(), "{repaired}");
    let replayed = ["replay", "--yes", "--from", &from, "--to", "2100-01-01", "--tables", "t"];
    // Where the plugin says NaN there was nothing to repair, and a replay does no harm.
    let replayed = world.applier(replayed).run().await;
    assert!(world.difference("t").await.is_none(), "{replayed}");
}
