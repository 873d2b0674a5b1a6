//! Pages whose commands are carried out, in their order, in one world of real servers.

mod documents;
mod facts;
mod page;
mod scene;

use syncdata_tests::{World, WorldOptions};

use self::documents::described;
use self::page::steps;
use self::scene::Scene;
use crate::pages::{commands_in, page, refused_by_parser};

const MANUAL: &str = "shared/Documents/syncdata-readme.md";
const FOR_AGENTS: &str = "shared/Documents/syncdata-agent.md";

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

/// One world for both pages: it is what takes the time.
#[tokio::test]
async fn every_command_of_the_manual_does_what_it_says_and_documents_are_as_described() {
    let manual = page(MANUAL);
    let steps = steps(&manual);
    for drill in
        ["local database is lost", "slot is lost", "backup host is lost", "fails over", "refuses the plugin"]
    {
        assert!(steps.iter().any(|step| step.under().contains(drill)), "no drill says {drill:?}");
    }
    let mut scene = Scene::of(as_the_earlier_tool_left_it().await);
    scene.play(steps).await;
    scene.world.assert_same(&["users", "orders"]).await;
    facts::tables_and_columns_are_those_of_the_database(&manual, &scene.world).await;
    facts::lines_of_status_are_explained(&manual, &scene.world).await;
    documents_are_as_described(&mut scene).await;
}

async fn documents_are_as_described(scene: &mut Scene) {
    scene.stop_all().await;
    let page = page(FOR_AGENTS);
    let (before, _) = page.split_once("\n### `").expect("documents are described");
    scene.play(steps(before)).await;
    let all = described(&page);
    let mut wrong = Vec::new();
    for one in &all {
        wrong.extend(one.compare(&scene.document(one.command).await, &all));
        scene.play(steps(one.section)).await;
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[tokio::test]
async fn every_command_of_both_pages_is_one_that_its_program_takes() {
    let folder = tempfile::tempdir().expect("a folder");
    for path in [MANUAL, FOR_AGENTS] {
        let commands = commands_in(&page(path));
        let refused = refused_by_parser(&commands, folder.path()).await;
        assert!(refused.is_empty(), "{path}: {refused:#?}");
    }
}
