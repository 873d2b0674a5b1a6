//! Enums and composites that columns are made of are altered: no table is touched, and its values have another text.

use std::collections::BTreeSet;

use syncdata_tests::world::{World, WorldOptions};

use crate::{reader, scene};

const TYPES: &str = "CREATE TYPE mood AS ENUM ('sad', 'ok'); CREATE DOMAIN feeling AS mood;
    CREATE TYPE address AS (street text, zip int); CREATE TYPE felt AS (what mood)";

/// A table, the type of its column, and a value.
const TABLES: &[(&str, &str, &str)] = &[
    ("plain", "mood", "'sad'"),
    ("written", "mood", "'sad'"),
    ("listed", "mood[]", "'{sad}'"),
    ("domain", "feeling", "'sad'"),
    ("inside", "felt", "'(sad)'"),
    ("composite", "address", "'(x,1)'"),
    ("composites", "address[]", "ARRAY['(x,1)'::address]"),
    ("of_rows", "rows", "'(1,2)'"),
];

async fn world() -> World {
    let world = WorldOptions::default().without_sftp().start().await;
    for server in [&world.source, &world.target] {
        server.execute(TYPES).await;
        server.execute("CREATE TABLE rows (a int, b int)").await;
        for (table, column, _) in TABLES {
            server.execute(&format!("CREATE TABLE {table} (id int PRIMARY KEY, v {column})")).await;
        }
    }
    for (table, _, value) in TABLES {
        world.source.execute(&format!("INSERT INTO {table} VALUES (1, {value})")).await;
    }
    world.source.execute(scene::SLOT).await;
    world.archiver(["run", "--once"]).succeed().await;
    world.archiver(["snapshot"]).succeed().await;
    world.applier(["add-tables"].into_iter().chain(TABLES.iter().map(|(table, ..)| *table))).succeed().await;
    world.applier(["sync"]).succeed().await;
    world
}

/// Polls, and finds no table of the copy that differs and is live. The tables that have a gap.
async fn gaps(world: &World) -> BTreeSet<String> {
    world.archiver(["run", "--once"]).run().await;
    world.applier(["sync"]).run().await;
    for (table, ..) in TABLES {
        let state = format!("SELECT state FROM data_sync_table_state WHERE table_name = '{table}'");
        if world.target.value(&state).await == "live" {
            let rows = format!("SELECT id, v::text FROM {table} ORDER BY id");
            assert_eq!(world.source.query(&rows).await, world.target.query(&rows).await, "{table}");
        }
    }
    let segments = reader::segments(world.archive_dir());
    let gaps = segments.iter().filter_map(|segment| segment.manifest["gaps"].as_array()).flatten();
    let of_types = gaps.filter(|gap| gap["reason"] == "a type was altered");
    let tables = of_types.filter_map(|gap| gap["tables"].as_array()).flatten();
    tables.map(|table| table.as_str().expect("a name").to_owned()).collect()
}

#[tokio::test]
async fn a_type_that_is_altered_is_a_gap_of_the_tables_whose_values_it_changes() {
    let world = world().await;
    let source = &world.source;
    // Nothing changes by these.
    source
        .execute(
            "ALTER TYPE mood ADD VALUE 'new' BEFORE 'sad'; ALTER TYPE address RENAME ATTRIBUTE zip TO code",
        )
        .await;
    assert_eq!(gaps(&world).await, BTreeSet::new());
    source.execute("ALTER TYPE mood RENAME VALUE 'sad' TO 'blue'").await;
    // Whoever reads this row is told what the labels are.
    source.execute("INSERT INTO written VALUES (2, 'ok')").await;
    assert_eq!(gaps(&world).await, ["plain", "listed", "domain", "inside"].map(str::to_owned).into());
    source.execute("ALTER TYPE address DROP ATTRIBUTE code; ALTER TYPE address ADD ATTRIBUTE code int").await;
    source.execute("ALTER TABLE rows DROP b; ALTER TABLE rows ADD b int").await;
    source
        .execute("INSERT INTO composite VALUES (2, '(y,2)'); INSERT INTO of_rows VALUES (2, '(3,4)')")
        .await;
    let all = TABLES.iter().map(|(table, ..)| (*table).to_owned()).filter(|table| table != "written");
    assert_eq!(gaps(&world).await, all.collect());
    // What is said to mend it does.
    world.target.execute("ALTER TYPE mood RENAME VALUE 'sad' TO 'blue'").await;
    world.archiver(["snapshot"]).succeed().await;
    let tables = TABLES.iter().map(|(table, ..)| *table);
    world.applier(["resync"].into_iter().chain(tables)).succeed().await;
    for (table, ..) in TABLES {
        let state = format!("SELECT state FROM data_sync_table_state WHERE table_name = '{table}'");
        assert_eq!(world.target.value(&state).await, "live", "{table}");
        let rows = format!("SELECT id, v::text FROM {table} ORDER BY id");
        assert_eq!(world.source.query(&rows).await, world.target.query(&rows).await, "{table}");
    }
}

/// No label is missing afterwards, and rows mean another one.
#[tokio::test]
async fn labels_that_exchange_their_names_are_a_gap() {
    let world = world().await;
    world
        .source
        .execute(
            "ALTER TYPE mood RENAME VALUE 'sad' TO 'x'; ALTER TYPE mood RENAME VALUE 'ok' TO 'sad';
             ALTER TYPE mood RENAME VALUE 'x' TO 'ok'; INSERT INTO written VALUES (2, 'ok')",
        )
        .await;
    let moods = ["plain", "written", "listed", "domain", "inside"];
    assert_eq!(gaps(&world).await, moods.map(str::to_owned).into());
}

/// Somebody has done here what production did, and vouches for it.
#[tokio::test]
async fn what_was_altered_alike_on_both_sides_may_be_accepted() {
    let world = world().await;
    let alter = "ALTER TYPE mood RENAME VALUE 'sad' TO 'blue'; ALTER TYPE address ADD ATTRIBUTE more int";
    world.source.execute(&format!("{alter}; INSERT INTO written VALUES (2, 'ok')")).await;
    let mut stale = gaps(&world).await;
    stale.remove("written");
    assert!(stale.contains("plain") && stale.contains("listed") && stale.contains("composite"), "{stale:?}");
    world.target.execute(alter).await;
    // It had a row with the new name before the type was altered here.
    world.applier(["retry", "written"]).run().await;
    let retry = ["retry", "--accept-gap"].into_iter().chain(stale.iter().map(String::as_str));
    // Nobody here knows that production has done the same: it is named first.
    let refused = world.applier(retry.clone()).run().await.expect_code(2);
    assert!(refused.stderr.contains("nothing was released"), "{refused}");
    world.applier(retry).succeed().await;
    world.applier(["sync"]).succeed().await;
    for table in &stale {
        let state = format!(
            "SELECT state || coalesce(reason, '') FROM data_sync_table_state WHERE table_name = '{table}'"
        );
        assert_eq!(world.target.value(&state).await, "live", "{table}");
        let rows = format!("SELECT id, v::text FROM {table} ORDER BY id");
        assert_eq!(world.source.query(&rows).await, world.target.query(&rows).await, "{table}");
    }
}
