//! A real production, a real archiver, and a DuckDB file at the end.

use syncdata_tests::program::Program;
use syncdata_tests::world::Plugin;
use syncdata_tests::{World, WorldOptions};

use super::file::File;

/// With the library where the tests have it.
fn applier<const N: usize>(world: &World, arguments: [&str; N]) -> Program {
    let library = std::env::var("DUCKDB_LIB_DIR").expect("as scripts/install-duckdb prints it");
    world.applier(arguments).env("LD_LIBRARY_PATH", library)
}

#[tokio::test]
async fn a_table_of_a_real_server_is_followed_from_its_base_through_its_changes() {
    let file = File::new();
    let world = WorldOptions::default()
        .plugin(Plugin::Pgoutput)
        .without_sftp()
        .applier_setting("target", "duckdb")
        .applier_setting("duckdb_database_path", file.path().to_str().expect("UTF-8"))
        .start()
        .await;
    world
        .source
        .execute(
            "CREATE TABLE t (id int PRIMARY KEY, name varchar(10), price numeric(6,2), day date); \
             INSERT INTO t SELECT i, 'n' || i, i, '2026-01-01' FROM generate_series(1, 50) i",
        )
        .await;
    world.make_slot().await;
    world.archiver(["run", "--once"]).succeed().await;
    world.archiver(["snapshot"]).succeed().await;
    world.source.execute("UPDATE t SET name = 'changed' WHERE id % 10 = 0; DELETE FROM t WHERE id = 1").await;
    world.archiver(["run", "--once"]).succeed().await;
    applier(&world, ["add-tables", "*"]).succeed().await;
    let synced = applier(&world, ["sync"]).succeed().await;
    assert!(synced.stdout.contains("loaded t from snapshot"), "{synced}");
    let sums = "SELECT count(*), sum(id), sum(price), max(name) FROM t";
    assert_eq!(
        file.lines(sums)[0],
        world.source.value("SELECT concat_ws('|', count(*), sum(id), sum(price), max(name)) FROM t").await
    );

    world
        .source
        .execute(
            "ALTER TABLE t ALTER COLUMN name TYPE varchar(40); ALTER TABLE t ALTER COLUMN id TYPE bigint; \
             ALTER TABLE t ADD COLUMN kind text DEFAULT 'old'; ALTER TABLE t DROP COLUMN day",
        )
        .await;
    world.archiver(["run", "--once"]).succeed().await;
    world
        .source
        .execute("INSERT INTO t VALUES (9999999999, 'a name of more than ten letters', 1.50, 'new'); UPDATE t SET price = 0 WHERE id = 2")
        .await;
    world.archiver(["run", "--once"]).run().await;
    applier(&world, ["sync"]).succeed().await;
    let rows = "SELECT id, name, price, kind FROM t ORDER BY id";
    let there = world
        .source
        .value("SELECT string_agg(concat_ws('|', id, name, price, kind), ' ' ORDER BY id) FROM t")
        .await;
    assert_eq!(file.lines(rows).join(" "), there);
    let types = "SELECT string_agg(data_type, ',' ORDER BY column_index) FROM duckdb_columns() WHERE table_name = 't'";
    assert_eq!(file.lines(types), ["BIGINT,VARCHAR,DECIMAL(6,2),VARCHAR"]);
}
