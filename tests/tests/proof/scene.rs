//! A production with tables of several kinds, and a copy of them.

use std::path::PathBuf;

use serde_json::Value;
use syncdata_tests::world::{ARCHIVER_ROLE, World, WorldOptions};

const SLOT: &str = "SELECT pg_create_logical_replication_slot('syncdata_slot', 'wal2json')";

pub(crate) const TABLES: [&str; 4] = ["accounts", "entries", "log", "parts"];

/// Rows from before the slot and after it, on both sides.
pub(crate) async fn world(options: WorldOptions) -> World {
    let world = options.start().await;
    world
        .source
        .execute(&format!("GRANT pg_read_all_data TO {ARCHIVER_ROLE}; ALTER ROLE {ARCHIVER_ROLE} BYPASSRLS"))
        .await;
    world
        .execute_on_both(
            "CREATE TABLE accounts (id int PRIMARY KEY, owner text UNIQUE, balance numeric(20,2) NOT NULL, big text);
             CREATE TABLE entries (id bigint PRIMARY KEY GENERATED ALWAYS AS IDENTITY, account int, amount numeric,
                 at timestamptz DEFAULT now(), twice numeric GENERATED ALWAYS AS (amount * 2) STORED);
             CREATE TABLE log (text text, place box); ALTER TABLE log REPLICA IDENTITY FULL;
             CREATE TABLE parts (id int, region text, v bytea, PRIMARY KEY (id, region)) PARTITION BY LIST (region);
             CREATE TABLE parts_a PARTITION OF parts FOR VALUES IN ('a');
             CREATE TABLE parts_b PARTITION OF parts FOR VALUES IN ('b');",
        )
        .await;
    world
        .source
        .execute(
            "INSERT INTO accounts SELECT i, 'owner ' || i, i, repeat(md5(i::text), i % 200) FROM generate_series(1, 1000) i;
             INSERT INTO entries (account, amount) SELECT i % 1000 + 1, i / 7.0 FROM generate_series(1, 3000) i;
             INSERT INTO log SELECT 'line ' || i % 50, box(point(i % 3, 1), point(0, 0)) FROM generate_series(1, 500) i;
             INSERT INTO parts SELECT i, CASE i % 2 WHEN 0 THEN 'a' ELSE 'b' END, decode(md5(i::text), 'hex') FROM generate_series(1, 400) i;
             ANALYZE;",
        )
        .await;
    world.source.execute(SLOT).await;
    world.archiver(["run", "--once"]).succeed().await;
    world.archiver(["snapshot"]).succeed().await;
    world.applier(["add-tables"].into_iter().chain(TABLES)).succeed().await;
    world.archiver(["run", "--once"]).succeed().await;
    world.applier(["sync"]).succeed().await;
    world.assert_same(&TABLES).await;
    world
}

/// Has one made, and the copy compared with it.
pub(crate) async fn prove(world: &World) -> Value {
    let made = world.archiver(["proof", "--json"]).succeed().await.json();
    world.applier(["sync"]).succeed().await;
    made
}

/// The same of a copy that differs, which is said as an error and changes no exit code.
pub(crate) async fn prove_differing(world: &World) -> Value {
    let made = world.archiver(["proof", "--json"]).succeed().await.json();
    let synced = world.applier(["sync"]).run().await.expect_code(0);
    assert!(synced.stderr.contains("differs from production"), "{}", synced.stderr);
    made
}

/// What is said of each table, in the order of their names; and the exit code.
pub(crate) async fn status(world: &World) -> (Vec<Value>, Option<i32>) {
    let finished = world.applier(["consistency", "status", "--json"]).run().await;
    let code = finished.code();
    let mut tables = finished.json()["tables"].as_array().expect("tables").clone();
    tables.sort_by_key(|table| table["table"].as_str().map(str::to_owned));
    (tables, code)
}

pub(crate) async fn assert_all_equal(world: &World) {
    let (tables, code) = status(world).await;
    for table in &tables {
        assert_eq!(table["verdict"], "equal", "{table}");
        assert_eq!(table["score"], "100.00", "{table}");
    }
    assert_eq!(code, Some(0));
}

/// The folders of proofs that the archive has, oldest first.
pub(crate) fn proofs(world: &World) -> Vec<PathBuf> {
    let folder = world.archive_dir().join("proofs");
    let mut found: Vec<PathBuf> = std::fs::read_dir(folder)
        .map(|entries| entries.map(|entry| entry.expect("an entry").path()).collect())
        .unwrap_or_default();
    found.sort();
    found
}
