//! What `status` says of snapshots, and of the gaps that they mend.

use serde_json::Value;
use syncdata_tests::World;

use crate::scene;

async fn status(world: &World) -> Value {
    world.archiver(["status", "--json"]).run().await.json()
}

#[tokio::test]
async fn a_gap_stays_red_until_a_snapshot_behind_it_holds_its_tables() {
    let world =
        scene::world("CREATE TABLE one (id int PRIMARY KEY); CREATE TABLE two (id int PRIMARY KEY)").await;
    let first = scene::take(&world).await;
    world.source.execute("INSERT INTO one VALUES (1)").await;
    world.source.execute("SELECT pg_logical_slot_get_changes('syncdata_slot', NULL, NULL)").await;
    world.archiver(["run", "--once"]).run().await.expect_code(1);
    let before = status(&world).await;
    assert_eq!(before["gaps"].as_array().map(Vec::len), Some(1), "{before}");
    assert_eq!(before["archive"]["newest_snapshot"]["id"], first["id"]);

    let daemon = scene::daemon(&world).await;
    scene::take_with(&world, &["--tables", "one"]).await;
    let half = world.archiver(["status"]).run().await.expect_code(1);
    assert!(half.stdout.contains("gap: after"), "{half}");
    let last = scene::take_with(&world, &["--tables", "two"]).await;
    let mended = world.archiver(["status"]).run().await.expect_code(0);
    assert!(!mended.stdout.contains("gap: after"), "{mended}");
    let id = last["id"].as_str().expect("an id");
    assert!(mended.stdout.contains(&format!("newest snapshot: {id} as of ")), "{mended}");
    let held = status(&world).await["archive"]["newest_snapshot"].clone();
    assert_eq!((&held["id"], &held["tables"]), (&last["id"], &serde_json::json!(["two"])), "{held}");
    assert!(held["age_seconds"].as_u64().is_some(), "{held}");
    daemon.stop().await.expect_code(0);
}
