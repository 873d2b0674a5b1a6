//! `setup --snapshot`: what was there before the capture is copied at once, and no more.

use syncdata_tests::{World, WorldOptions};

use crate::scene::{RIGHTS, manifests};

const TABLES: &str = r#"CREATE TABLE old (id int PRIMARY KEY, text text); CREATE TABLE empty (id int PRIMARY KEY);
    CREATE SCHEMA "we,ird"; CREATE TABLE "we,ird"."ta.b""le" (id int PRIMARY KEY);
    CREATE TABLE parted (id int PRIMARY KEY) PARTITION BY RANGE (id);
    CREATE TABLE parted_1 PARTITION OF parted FOR VALUES FROM (0) TO (10)"#;
const WEIRD: &str = r#""we,ird"."ta.b""le""#;
/// As we print it.
const SHOWN: &str = r#"we,ird."ta.b""le""#;
/// From before the slot.
const ROWS: &str = r#"INSERT INTO old SELECT i, 'before' FROM generate_series(1, 100) i;
    INSERT INTO "we,ird"."ta.b""le" VALUES (1); INSERT INTO parted VALUES (3)"#;

async fn world() -> World {
    let world = WorldOptions::default().without_sftp().start().await;
    world.source.execute(RIGHTS).await;
    world.execute_on_both(TABLES).await;
    world.source.execute(ROWS).await;
    world
}

fn copied(world: &World) -> Vec<Vec<String>> {
    let manifests = manifests(world.archive_dir());
    manifests.iter().map(|one| one.tables.keys().map(ToString::to_string).collect()).collect()
}

#[tokio::test]
async fn setup_takes_the_snapshot_of_the_tables_that_need_one() {
    let world = world().await;
    let done = world.archiver(["setup", "--create-slot", "--snapshot"]).succeed().await;
    assert!(done.stderr.contains("only a snapshot has the rows that were there before"), "{done}");
    assert_eq!(copied(&world), [["old", "parted", SHOWN]], "{done}");
    let later =
        "INSERT INTO empty VALUES (1); INSERT INTO old VALUES (101, 'after'); INSERT INTO parted VALUES (4)";
    world.source.execute(later).await;
    world.archiver(["run", "--once"]).succeed().await;
    let tables = ["old", WEIRD, "parted", "empty"];
    world.applier(["add-tables"].iter().chain(&tables)).succeed().await;
    world.applier(["sync"]).succeed().await;
    world.assert_same(&tables).await;
    // Nothing is left to do.
    let again = world.archiver(["setup", "--snapshot"]).succeed().await;
    assert!(again.stderr.contains("or has a snapshot"), "{again}");
    assert_eq!((copied(&world).len(), again.stdout.as_str()), (1, ""), "{again}");
}

#[tokio::test]
async fn setup_with_a_snapshot_prints_one_json_document() {
    let world = world().await;
    let done = world.archiver(["setup", "--create-slot", "--snapshot", "--json"]).succeed().await;
    let document = done.json();
    assert_eq!((&document["healthy"], &document["snapshot"]["tables"]), (&true.into(), &3.into()), "{done}");
    assert!(document["findings"].as_array().is_some_and(|findings| !findings.is_empty()), "{done}");
    let again = world.archiver(["setup", "--snapshot", "--json"]).succeed().await;
    assert!(again.json()["snapshot"].is_null(), "{again}");
}

#[tokio::test]
async fn a_table_that_the_first_snapshot_leaves_out_is_named_and_is_no_success() {
    let world = world().await;
    let hidden = "ALTER TABLE old ENABLE ROW LEVEL SECURITY; ALTER ROLE syncdata_user NOBYPASSRLS";
    world.source.execute(hidden).await;
    let left_out = world.archiver(["setup", "--create-slot", "--snapshot"]).run().await.expect_code(1);
    assert!(
        left_out.stderr.contains("left out: old: row level security would hide rows of old"),
        "{left_out}"
    );
    assert_eq!(copied(&world), [["parted", SHOWN]], "{left_out}");
    // What it says to do.
    let statement = "ALTER ROLE \"syncdata_user\" BYPASSRLS;";
    assert!(left_out.stderr.contains(statement), "{left_out}");
    world.source.execute(statement).await;
    world.archiver(["setup", "--snapshot"]).succeed().await;
    assert_eq!(copied(&world)[1], ["old"]);
}
