//! Pages whose commands are carried out, in their order, in one world of real servers.

mod page;
mod scene;

use syncdata_tests::{World, WorldOptions};

use self::page::{Step, steps};
use self::scene::Scene;
use crate::pages::page;

const MANUAL: &str = "shared/Documents/syncdata-readme.md";

/// What production and the earlier tool have left: tables with rows, the slot, a whitelist, rows that are not up to date.
async fn as_the_earlier_tool_left_it() -> World {
    let world = WorldOptions::default().start().await;
    let tables = "CREATE TABLE users (id int PRIMARY KEY, name text);
        CREATE TABLE orders (id int PRIMARY KEY, user_id int)";
    world.execute_on_both(tables).await;
    world
        .source
        .execute("INSERT INTO users VALUES (1, 'Ann'), (2, 'Bob'); INSERT INTO orders VALUES (7, 1)")
        .await;
    world.source.execute("SELECT pg_create_logical_replication_slot('syncdata_slot', 'wal2json')").await;
    let earlier = "INSERT INTO users VALUES (1, 'Anna');
        CREATE TABLE tables_to_sync (id SERIAL PRIMARY KEY, table_name TEXT NOT NULL, creator TEXT DEFAULT NULL,
            created_at TIMESTAMPTZ DEFAULT now(), UNIQUE (table_name));
        INSERT INTO tables_to_sync (table_name) VALUES ('users'), ('orders')";
    world.target.execute(earlier).await;
    world
}

#[tokio::test]
async fn every_command_of_the_manual_does_what_it_says_drills_included() {
    let manual = page(MANUAL);
    let steps = steps(&manual);
    for drill in
        ["local database is lost", "slot is lost", "backup host is lost", "fails over", "refuses the plugin"]
    {
        assert!(steps.iter().any(|step| step.under().contains(drill)), "no drill says {drill:?}");
    }
    let mut scene = Scene::of(as_the_earlier_tool_left_it().await);
    for step in steps {
        match step {
            Step::Command(command) => scene.carry_out(&command).await,
            Step::Settings(settings) => scene.set(&settings),
        }
    }
    scene.world.assert_same(&["users", "orders"]).await;
}
