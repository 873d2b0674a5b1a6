//! What production did while nobody remembered: the spool is lost, or a schema is.

use std::collections::BTreeSet;

use syncdata_tests::WorldOptions;
use toml::Value;

use crate::{reader, scene};

const SCHEMA: &str = "CREATE TABLE orders (id int PRIMARY KEY, note text) PARTITION BY RANGE (id);
    CREATE TABLE orders_1 PARTITION OF orders FOR VALUES FROM (0) TO (10);
    CREATE TABLE quiet (id int PRIMARY KEY, note text); CREATE TABLE again (LIKE quiet INCLUDING ALL);
    CREATE TABLE a (LIKE quiet INCLUDING ALL); CREATE TABLE b (LIKE quiet INCLUDING ALL);
    CREATE TABLE upper (LIKE quiet INCLUDING ALL);
    INSERT INTO orders VALUES (1, 'one'); INSERT INTO quiet VALUES (1, 'q'); INSERT INTO again VALUES (1, 'old');
    INSERT INTO a VALUES (1, 'a'); INSERT INTO b VALUES (1, 'b'); INSERT INTO upper VALUES (1, 'u')";

#[tokio::test]
async fn what_became_of_tables_while_the_spool_was_lost_is_a_gap() {
    let world = scene::world_with(WorldOptions::default().without_sftp(), SCHEMA).await;
    scene::poll(&world).await;
    let source = &world.source;
    source.execute("INSERT INTO quiet VALUES (2, 'r')").await;
    scene::poll(&world).await;
    std::fs::remove_dir_all(world.spool_dir()).expect("our folder");
    source.execute("DROP TABLE orders_1").await;
    source.execute("DROP TABLE again").await;
    source.execute("CREATE TABLE again (id int PRIMARY KEY, note text)").await;
    source.execute("ALTER TABLE a RENAME TO c").await;
    source.execute("ALTER TABLE b RENAME TO a").await;
    source.execute("ALTER TABLE c RENAME TO b").await;
    source
        .execute(
            "BEGIN; SAVEPOINT s; ALTER TABLE upper ALTER note TYPE text USING upper(note); RELEASE s; COMMIT",
        )
        .await;
    source.execute("INSERT INTO quiet VALUES (3, 's')").await;
    world.archiver(["run", "--once"]).run().await.expect_code(1);
    let segments = reader::segments(world.archive_dir());
    let gaps = segments.iter().filter_map(|segment| segment.manifest["gaps"].as_array()).flatten();
    let tables = gaps.filter_map(|gap| gap["tables"].as_array()).flatten();
    let tables: BTreeSet<&str> = tables.map(|table| table.as_str().expect("a name")).collect();
    assert_eq!(tables, ["orders", "again", "a", "b", "upper"].into());
    source.execute("INSERT INTO quiet VALUES (4, 't')").await;
    scene::poll(&world).await;
}

#[tokio::test]
async fn a_schema_that_is_dropped_stops_no_other_table() {
    let patterns: Vec<Value> = ["public.*", "sales.*"].map(Value::from).to_vec();
    let options = WorldOptions::default().without_sftp().archiver_setting("tables", patterns);
    let schema = "CREATE SCHEMA sales; CREATE TABLE sales.orders (id int PRIMARY KEY); CREATE TABLE t (id int PRIMARY KEY)";
    let world = scene::world_with(options, schema).await;
    scene::poll(&world).await;
    world.source.execute("DROP SCHEMA sales CASCADE; INSERT INTO t VALUES (1)").await;
    assert_eq!(scene::news(&world).await.len(), 2, "a row and its commit");
    let check = world.archiver(["check"]).run().await;
    assert!(check.stdout.contains("sales"), "{check}");
    // One that comes in its place is captured, and no mistake in the settings was ever made.
    world.source.execute("CREATE SCHEMA sales; CREATE TABLE sales.orders (id int PRIMARY KEY)").await;
    world.source.execute("INSERT INTO sales.orders VALUES (7)").await;
    world.archiver(["run", "--once"]).run().await.expect_code(1);
}
