//! Columns that the source renames after rows of the same poll: the description has the new name, the rows have the old one.

use syncdata_tests::world::{World, WorldOptions};

/// Tables that are live in both, empty so far.
async fn world(there: &str, here: &str) -> World {
    let world = WorldOptions::default().without_sftp().start().await;
    world.source.execute(there).await;
    world.target.execute(here).await;
    world.make_slot().await;
    world.archiver(["run", "--once"]).succeed().await;
    world.archiver(["snapshot"]).succeed().await;
    world.applier(["add-tables", "public.*"]).succeed().await;
    world.applier(["sync"]).succeed().await;
    world
}

/// A poll and a pass, whatever that says.
async fn carry(world: &World) {
    world.archiver(["run", "--once"]).succeed().await;
    world.applier(["sync"]).run().await;
}

/// What the table waits for; empty where it is live.
async fn reason(world: &World, table: &str) -> String {
    let state = format!(
        "SELECT CASE state WHEN 'live' THEN '' ELSE state || ': ' || coalesce(reason, '') END FROM data_sync_table_state \
         WHERE table_name = '{table}'"
    );
    world.target.value(&state).await
}

/// Does what is said, until nothing more is.
async fn obey(world: &World, tables: &[&str]) {
    for _ in 0..5 {
        for table in tables {
            let reason = reason(world, table).await;
            let Some((_, statement)) = reason.split_once("run: ALTER").or(reason.split_once("run: UPDATE"))
            else {
                continue;
            };
            let verb = if reason.contains("run: ALTER") { "ALTER" } else { "UPDATE" };
            let statement = statement.split("  -- ").next().expect("a part");
            // Of two tables with one type the first has done it for both.
            let _ = world.target.connect().await.batch_execute(&format!("{verb}{statement}")).await;
            world.applier(["retry", table]).run().await;
        }
    }
}

async fn assert_live_and_equal(world: &World, table: &str, columns: &str) {
    assert_eq!(reason(world, table).await, "", "{table}");
    let rows = format!("SELECT {columns} FROM {table} ORDER BY 1, 2");
    assert_eq!(world.target.query(&rows).await, world.source.query(&rows).await, "{table}");
}

#[tokio::test]
async fn a_column_is_the_one_that_rows_call_by_its_former_name() {
    let tables = "CREATE TYPE mood AS ENUM ('a', 'b');
        CREATE TABLE g (id int PRIMARY KEY, price numeric(10, 2), at timestamp(0));
        CREATE TABLE f (n numeric, v text); ALTER TABLE f REPLICA IDENTITY FULL;
        CREATE TABLE nn (id int PRIMARY KEY, name text NOT NULL);
        CREATE TABLE v1 (id int PRIMARY KEY, m mood); CREATE TABLE v2 (id int PRIMARY KEY, m mood);
        CREATE TABLE u (id int PRIMARY KEY, m mood)";
    let here = tables.replace("TABLE u (id int PRIMARY KEY, m mood)", "TABLE u (id int PRIMARY KEY, m text)");
    let world = world(tables, &here).await;
    world
        .source
        .execute(
            "INSERT INTO f VALUES (1.5, 'x'), (1.50, 'x'), (2.0, 'y'), (2.00, 'y'); INSERT INTO nn VALUES (1, 'a');
             INSERT INTO v1 VALUES (1, 'a'); INSERT INTO v2 VALUES (1, 'a'); INSERT INTO u VALUES (1, 'a')",
        )
        .await;
    carry(&world).await;
    for statement in [
        "ALTER TABLE g ALTER price TYPE numeric, ALTER at TYPE timestamp(6)",
        "INSERT INTO g VALUES (2, 1.0051, '2026-01-01 10:00:00.6')",
        "ALTER TABLE g RENAME price TO unit_price",
        "ALTER TABLE g RENAME at TO at_time",
        "DELETE FROM f WHERE n::text = '1.50'; UPDATE f SET v = 'z' WHERE n::text = '2.00'; ALTER TABLE f RENAME n TO amount",
        "ALTER TABLE nn RENAME name TO title; INSERT INTO nn VALUES (2, 'b')",
        "ALTER TYPE mood RENAME VALUE 'a' TO 'aa'; ALTER TABLE v1 RENAME m TO mm; ALTER TABLE u RENAME m TO mm",
        "INSERT INTO v1 VALUES (2, 'b'); INSERT INTO v2 VALUES (2, 'b'); INSERT INTO u VALUES (2, 'b')",
    ] {
        world.source.execute(statement).await;
    }
    world.archiver(["run", "--once"]).succeed().await;
    world
        .source
        .execute(
            "ALTER TABLE v2 RENAME m TO mm; INSERT INTO v2 VALUES (3, 'b'); INSERT INTO f VALUES (3, 'w')",
        )
        .await;
    carry(&world).await;
    let tables = ["g", "f", "nn", "v1", "v2", "u"];
    obey(&world, &tables).await;
    // The column of a copy with rows of the old label is found under the name that it has here.
    world.source.execute("INSERT INTO g VALUES (3, 2.5, '2026-01-01 10:00:00')").await;
    carry(&world).await;
    obey(&world, &tables).await;
    for (table, columns) in [
        ("g", "id, unit_price::text, at_time"),
        ("f", "v, amount::text"),
        ("nn", "id, title"),
        ("v1", "id, mm::text"),
        ("v2", "id, mm::text"),
        ("u", "id, mm::text"),
    ] {
        assert_live_and_equal(&world, table, columns).await;
    }
    let not_null =
        "SELECT attnotnull FROM pg_attribute WHERE attrelid = 'nn'::regclass AND attname = 'title'";
    assert_eq!(world.target.value(not_null).await, "t", "nothing but the name has changed");
}

/// All rows of a table that was empty at first come from changes, and no description of them has the column.
#[tokio::test]
async fn rows_from_the_first_segment_have_the_column_that_was_renamed_after_them() {
    let world = WorldOptions::default().without_sftp().start().await;
    world.execute_on_both("CREATE TABLE z (id int PRIMARY KEY)").await;
    world.source.execute("CREATE TABLE old (id int PRIMARY KEY, n text)").await;
    world.target.execute("CREATE TABLE old (id int PRIMARY KEY, n text DEFAULT 'of ours')").await;
    world.make_slot().await;
    world.archiver(["run", "--once"]).succeed().await;
    world.applier(["add-tables", "z"]).succeed().await;
    world.source.execute("INSERT INTO z VALUES (1)").await;
    carry(&world).await;
    world.source.execute("INSERT INTO old VALUES (1, 'a'), (2, NULL)").await;
    world.source.execute("ALTER TABLE old RENAME n TO nn").await;
    carry(&world).await;
    world.applier(["add-tables", "old"]).succeed().await;
    world.applier(["sync"]).succeed().await;
    assert_eq!(reason(&world, "old").await, "");
    world.target.execute("ALTER TABLE old RENAME n TO nn").await;
    world.source.execute("INSERT INTO old VALUES (3, 'c')").await;
    carry(&world).await;
    assert_live_and_equal(&world, "old", "id, nn").await;
}

/// What nobody has looked at is not forgotten: the table or the column had another name for a while, or nobody had said
/// the labels of a column that is no enum here.
#[tokio::test]
async fn an_old_label_is_found_again_whatever_was_out_of_the_way() {
    let there = "CREATE TYPE mood AS ENUM ('a', 'b'); CREATE TABLE w1 (id int PRIMARY KEY, m mood);
        CREATE TABLE w2 (id int PRIMARY KEY, m mood); CREATE TABLE w3 (id int PRIMARY KEY, m mood)";
    let here = there.replace("w1 (id int PRIMARY KEY, m mood)", "w1 (id int PRIMARY KEY, m text)");
    let world = WorldOptions::default().without_sftp().start().await;
    world.source.execute(there).await;
    world.target.execute(&here).await;
    world.make_slot().await;
    let row = "INSERT INTO w1 VALUES (1, 'a')";
    world.source.execute(row).await;
    world.target.execute(row).await;
    world.archiver(["run", "--once"]).succeed().await;
    world.archiver(["snapshot"]).succeed().await;
    world.applier(["add-tables", "w2", "w3"]).succeed().await;
    world.applier(["sync"]).succeed().await;
    world.applier(["add-tables", "--from", "now", "w1"]).succeed().await;
    world.source.execute("INSERT INTO w2 VALUES (1, 'a'); INSERT INTO w3 VALUES (1, 'a')").await;
    carry(&world).await;
    world.source.execute("ALTER TYPE mood RENAME VALUE 'a' TO 'aa'").await;
    world
        .source
        .execute(
            "INSERT INTO w1 VALUES (2, 'b'); INSERT INTO w2 VALUES (2, 'b'); INSERT INTO w3 VALUES (2, 'b')",
        )
        .await;
    carry(&world).await;
    world.target.execute("ALTER TABLE w2 RENAME TO w2_x; ALTER TABLE w3 RENAME m TO mx").await;
    world.applier(["sync"]).run().await;
    world.target.execute("ALTER TABLE w2_x RENAME TO w2; ALTER TABLE w3 RENAME mx TO m").await;
    world.applier(["retry", "w2", "w3"]).run().await;
    world.applier(["sync"]).run().await;
    for table in ["w1", "w2", "w3"] {
        let reason = reason(&world, table).await;
        assert!(reason.contains("label \"a\" in column \"m\""), "{table}: {reason}");
    }
    world.target.execute("ALTER TYPE mood RENAME VALUE 'a' TO 'aa'").await;
    world.applier(["retry", "w2", "w3"]).run().await;
    for table in ["w2", "w3"] {
        assert_live_and_equal(&world, table, "id, m::text").await;
    }
}

#[tokio::test]
async fn rows_with_arrays_of_numbers_of_another_scale_are_found_by_their_values() {
    let there = "CREATE TABLE t (id int, a numeric(10, 2)[]); ALTER TABLE t REPLICA IDENTITY FULL";
    let world = world(there, &there.replace("(10, 2)", "(12, 4)")).await;
    world.source.execute("INSERT INTO t VALUES (1, '{1.5,2.25}'), (2, '{3}')").await;
    carry(&world).await;
    world.source.execute("UPDATE t SET id = 10 WHERE id = 1; DELETE FROM t WHERE id = 2").await;
    carry(&world).await;
    assert_eq!(reason(&world, "t").await, "");
    let rows = "SELECT string_agg(id || ': ' || (a = '{1.5,2.25}'), ', ') FROM t";
    assert_eq!(world.target.value(rows).await, "10: true");
}
