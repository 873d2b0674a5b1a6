//! Who is to blame: the copy, the stream, both, or nobody knows.

use serde_json::Value;
use syncdata_tests::world::{World, WorldOptions};

use crate::scene::{self, assert_all_equal, proofs, prove, prove_differing, status};

/// A row of production goes, and no transaction says so: what a broken disk does. Logical decoding does not see it.
pub(crate) async fn lose_at_production(world: &World, table: &str, id: u32) {
    world.source.execute("CREATE EXTENSION IF NOT EXISTS pg_surgery").await;
    let lose = format!(
        "SELECT heap_force_kill('{table}', ARRAY[(SELECT ctid FROM {table} WHERE id = {id})]::tid[])"
    );
    world.source.execute(&lose).await;
    let left = world.source.value(&format!("SELECT count(*) FROM {table} WHERE id = {id}")).await;
    assert_eq!(left, "0");
}

async fn rows(world: &World, table: &str, code: i32) -> Value {
    world.applier(["consistency", "rows", table, "--json"]).run().await.expect_code(code).json()
}

async fn blame_in_status(world: &World, table: &str) -> Value {
    let (tables, code) = status(world).await;
    assert_eq!(code, Some(1), "{tables:?}");
    let found = tables.iter().find(|found| found["table"] == table).expect("on the whitelist");
    assert_eq!(found["verdict"], "differs", "{found}");
    found["blame"].clone()
}

#[tokio::test]
async fn what_production_lost_without_saying_so_is_blamed_on_the_stream_and_its_remedy_works() {
    let world = scene::world(WorldOptions::default()).await;
    lose_at_production(&world, "accounts", 500).await;
    prove_differing(&world).await;
    let found = rows(&world, "accounts", 1).await;
    assert_eq!(found["blame"], "stream", "{found}");
    assert!(found["differing"].is_null() && found["rows"].as_array().is_some_and(Vec::is_empty), "{found}");
    assert_eq!(found["buckets"][0]["source_rows"], 999, "{found}");
    assert_eq!(found["buckets"][0]["archive_rows"], 1000, "{found}");
    assert_eq!(blame_in_status(&world, "accounts").await, "stream");
    // A repair brings what the archive says: that is no cure, and is not taken for one.
    world.applier(["consistency", "repair", "accounts"]).run().await.expect_code(1);
    assert_eq!(blame_in_status(&world, "accounts").await, "stream");

    let remedy = found["remedy"].as_str().expect("said");
    assert!(remedy.contains("syncdata-archiver snapshot") && remedy.contains("resync accounts"), "{remedy}");
    assert!(remedy.contains("syncdata-archiver proof"), "{remedy}");

    // An operator brings the copy to what production has, before the next proof or after it: no repair takes that back.
    world.target.execute("DELETE FROM accounts WHERE id = 500").await;
    let repair = async || {
        let repaired = world.applier(["consistency", "repair", "accounts"]).run().await.expect_code(1);
        assert!(repaired.stdout.contains("not known: nothing was repaired"), "{repaired}");
        assert!(repaired.stdout.contains("resync accounts"), "{repaired}");
        assert_eq!(world.target.value("SELECT count(*) FROM accounts WHERE id = 500").await, "0");
    };
    repair().await;
    prove(&world).await;
    assert_all_equal(&world).await;
    let found = rows(&world, "accounts", 1).await;
    assert_eq!(found["blame"], "stream", "{found}");
    repair().await;
    world.archiver(["snapshot", "--tables", "accounts"]).succeed().await;
    world.applier(["resync", "accounts"]).succeed().await;
    prove(&world).await;
    assert_all_equal(&world).await;
}

#[tokio::test]
async fn rows_spoilt_on_both_sides_are_blamed_on_both() {
    let world = scene::world(WorldOptions::default()).await;
    lose_at_production(&world, "accounts", 500).await;
    world.target.execute("UPDATE accounts SET owner = 'Mallory' WHERE id = 42").await;
    prove_differing(&world).await;
    let found = rows(&world, "accounts", 1).await;
    assert_eq!((&found["blame"], &found["differing"]), (&"both".into(), &1.into()), "{found}");
    assert_eq!(found["rows"][0]["key"]["id"], "42", "{found}");
    assert!(found["buckets"].as_array().is_some_and(|buckets| !buckets.is_empty()), "{found}");
    assert_eq!(blame_in_status(&world, "accounts").await, "both");
    world.archiver(["snapshot", "--tables", "accounts"]).succeed().await;
    world.applier(["resync", "accounts"]).succeed().await;
    prove(&world).await;
    assert_all_equal(&world).await;
}

#[tokio::test]
async fn without_a_base_in_the_archive_nobody_is_blamed_and_a_new_snapshot_is_the_remedy() {
    let world = scene::world(WorldOptions::default()).await;
    world.target.execute("DELETE FROM entries WHERE id = 7").await;
    prove_differing(&world).await;
    std::fs::remove_dir_all(world.archive_dir().join("snapshots")).expect("ours");
    let found = rows(&world, "entries", 2).await;
    assert_eq!(found["blame"], "unknown", "{found}");
    assert!(found["differing"].is_null() && found["unknown"].is_string(), "{found}");
    assert!(found["remedy"].as_str().is_some_and(|remedy| remedy.contains("a new snapshot")), "{found}");
    assert_eq!(blame_in_status(&world, "entries").await, "unknown");

    // One from after the proof says how the table is now, and not who it was.
    world.archiver(["snapshot"]).succeed().await;
    world.source.execute("UPDATE accounts SET balance = 0 WHERE id = 7").await;
    world.carry().await;
    let found = rows(&world, "entries", 1).await;
    assert_eq!((&found["blame"], &found["differing"]), (&"unknown".into(), &1.into()), "{found}");
    world.applier(["resync", "entries"]).succeed().await;
    prove(&world).await;
    assert_all_equal(&world).await;
}

/// A table that was captured since it had no row needs every segment since: once these are pruned, nobody knows.
#[tokio::test]
async fn where_segments_were_pruned_nobody_is_blamed() {
    let mut world = scene::world(WorldOptions::default()).await;
    world.execute_on_both("CREATE TABLE late (id int PRIMARY KEY, v text)").await;
    world.archiver(["run", "--once"]).succeed().await;
    world.applier(["add-tables", "late"]).succeed().await;
    world.applier(["sync"]).succeed().await;
    world.source.execute("INSERT INTO late SELECT i, 'v' FROM generate_series(1, 100) i").await;
    world.carry().await;
    world.target.execute("UPDATE late SET v = 'spoilt' WHERE id = 7").await;
    prove_differing(&world).await;
    let found = rows(&world, "late", 1).await;
    assert_eq!((&found["blame"], &found["differing"]), (&"local".into(), &1.into()), "{found}");

    world.set_archiver("keep_days", 0);
    for round in 0..2 {
        world.source.execute(&format!("UPDATE accounts SET balance = {round} WHERE id = 1")).await;
        world.archiver(["snapshot"]).succeed().await;
        world.archiver(["run", "--once"]).succeed().await;
    }
    world.source.execute("UPDATE accounts SET balance = 9 WHERE id = 1").await;
    world.archiver(["run", "--once"]).succeed().await;
    world.applier(["sync"]).succeed().await;
    // What blame needs stays as long as the proof does, and it is said why.
    let pruned = world.archiver(["prune"]).succeed().await;
    assert!(pruned.stdout.contains("nothing is pruned: late"), "{}", pruned.stdout);
    let found = rows(&world, "late", 1).await;
    assert_eq!((&found["blame"], &found["differing"]), (&"local".into(), &1.into()), "{found}");
    // By hand, as somebody does who needs room: what drills need would stay otherwise.
    for proof in proofs(&world) {
        std::fs::rename(&proof, world.folder().join("aside")).expect("one file system");
        world.archiver(["prune"]).succeed().await;
        std::fs::rename(world.folder().join("aside"), &proof).expect("one file system");
    }
    let found = rows(&world, "late", 1).await;
    assert_eq!((&found["blame"], &found["differing"]), (&"unknown".into(), &1.into()), "{found}");
    assert_eq!(blame_in_status(&world, "late").await, "unknown");
    let remedy = found["remedy"].as_str().expect("said");
    assert!(remedy.contains("resync late"), "{remedy}");
    world.applier(["resync", "late"]).succeed().await;
    world.assert_same(&["late"]).await;
}
