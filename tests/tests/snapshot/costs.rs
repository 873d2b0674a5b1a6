//! What a second snapshot sends.

use serde_json::Value;
use syncdata_tests::World;

use crate::scene::{self, files, lines, newest};

/// About 64 MiB of rows that compress as names and numbers do.
async fn world() -> World {
    scene::world(
        "CREATE TABLE items (id int PRIMARY KEY, name text, price numeric, note text);
         INSERT INTO items SELECT i * 2, 'item number ' || i, (i * 7919::bigint % 100003) / 100.0, md5(i::text) || md5((-i)::text)
           FROM generate_series(1, 650000) i",
    )
    .await
}

fn share(second: &Value, first: &Value) -> f64 {
    let bytes = |taken: &Value| taken["bytes_sent"].as_f64().expect("a number");
    bytes(second) / bytes(first)
}

#[tokio::test]
async fn what_did_not_change_is_not_sent_again_and_what_changed_a_little_costs_little() {
    let world = world().await;
    let first = scene::take(&world).await;
    assert!(first["parts"].as_u64() >= Some(4), "{first}");
    let second = scene::take(&world).await;
    assert_eq!(second["parts_reused"], first["parts"], "{second}");
    assert!(share(&second, &first) < 0.001, "{second} {first}");

    world.source.execute("UPDATE items SET price = price + 1 WHERE id % 200 = 0").await;
    let third = scene::take(&world).await;
    assert_eq!((&third["parts"], &third["parts_delta"]), (&first["parts"], &first["parts"]), "{third}");
    assert!(share(&third, &first) < 0.05, "{third} {first}");
    let expected: Vec<String> = world
        .source
        .query("SELECT id || E'\\t' || name || E'\\t' || price || E'\\t' || note FROM items ORDER BY id")
        .await
        .into_iter()
        .flatten()
        .flatten()
        .collect();
    assert_eq!(lines(world.archive_dir(), &newest(world.archive_dir()), "items"), expected);

    world.source.execute("INSERT INTO items VALUES (650001, 'new', 1, 'x')").await;
    let fourth = scene::take(&world).await;
    let changed = fourth["parts"].as_u64().unwrap_or(0) - fourth["parts_reused"].as_u64().unwrap_or(0);
    assert!((1..=2).contains(&changed), "{fourth}");
}

#[tokio::test]
async fn full_sends_everything_whole() {
    let world = world().await;
    let first = scene::take(&world).await;
    let full = scene::take_with(&world, &["--full"]).await;
    assert_eq!((&full["parts_reused"], &full["parts_delta"]), (&0.into(), &0.into()));
    let own = |id: &Value| {
        let prefix = format!("{}/", id.as_str().expect("an id"));
        files(world.archive_dir()).into_iter().filter(|(name, _)| name.starts_with(&prefix)).count()
    };
    assert_eq!(own(&full["id"]), own(&first["id"]));
}
