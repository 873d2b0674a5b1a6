//! Tables that the archiver captures no more.

use syncdata_tests::world::{World, WorldOptions};

/// Nothing of what comes then is in the archive, and only manifests and head.json say so.
#[tokio::test]
async fn a_table_that_is_captured_no_more_is_no_fresher_than_when_it_left() {
    let mut world = WorldOptions::default().without_sftp().start().await;
    world
        .execute_on_both("CREATE TABLE users (id int PRIMARY KEY); CREATE TABLE orders (id int PRIMARY KEY)")
        .await;
    world.source.execute("SELECT pg_create_logical_replication_slot('syncdata_slot', 'wal2json')").await;
    world.archiver(["run", "--once"]).succeed().await;
    world.applier(["add-tables", "users", "orders"]).succeed().await;
    world.source.execute("INSERT INTO users VALUES (1); INSERT INTO orders VALUES (1)").await;
    world.carry().await;
    let [users, orders] = [as_of(&world, "users").await, as_of(&world, "orders").await];
    assert_eq!(users, orders);

    // Nothing else happens: head.json alone says it. Then the next segment does.
    world.applier(["status", "--json"]).run().await.expect_code(1);
    world.set_archiver("tables", vec!["users"]);
    world.source.execute("INSERT INTO orders VALUES (2)").await;
    carry(&world).await;
    assert_eq!(as_of(&world, "orders").await, orders, "left");
    let status = world.applier(["status", "--json"]).run().await.expect_code(1).json();
    let troubles = status["troubles"].as_array().expect("troubles");
    let trouble = troubles.iter().find(|trouble| trouble["table"] == "orders").expect("it is named at once");
    let words = trouble["words"].as_str().expect("words");
    assert!(words.starts_with("orders is captured no more: what committed after 20"), "{status}");
    assert_eq!(trouble["command"], "syncdata-applier remove-tables orders");
    assert_eq!(troubles.iter().filter(|trouble| trouble["table"] == "users").count(), 0, "{status}");
    let fresher = as_of(&world, "users").await;
    assert_ne!(fresher, users);
    for id in 2..4 {
        world.source.execute(&format!("INSERT INTO users VALUES ({id})")).await;
        carry(&world).await;
        assert_eq!(as_of(&world, "orders").await, orders, "still away");
    }
    assert_ne!(as_of(&world, "users").await, fresher);

    world.set_archiver("tables", vec!["*"]);
    world.source.execute("INSERT INTO orders VALUES (3)").await;
    world.archiver(["run", "--once"]).run().await;
    world.applier(["sync"]).run().await.expect_code(1);
    world.archiver(["snapshot"]).succeed().await;
    world.archiver(["run", "--once"]).succeed().await;
    world.applier(["resync", "orders"]).succeed().await;
    world.carry().await;
    world.assert_same(&["users", "orders"]).await;
    assert_eq!(as_of(&world, "users").await, as_of(&world, "orders").await);
}

/// What the archive has is applied, and the table that left is told.
async fn carry(world: &World) {
    world.archiver(["run", "--once"]).succeed().await;
    let synced = world.applier(["sync"]).succeed().await;
    assert!(synced.stdout.contains("orders: live: captured no more"), "{synced}");
}

async fn as_of(world: &World, table: &str) -> String {
    let select =
        format!("SELECT state || ' ' || data_as_of FROM data_sync_freshness WHERE table_name = '{table}'");
    let rows = world.target.query(&select).await;
    rows.into_iter().flatten().flatten().collect()
}
