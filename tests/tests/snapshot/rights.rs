//! A copy is complete or it is not made.

use syncdata_tests::WorldOptions;

use crate::scene::{self, files, lines, newest, refused};

const TABLES: &str = "CREATE TABLE users (id int PRIMARY KEY); INSERT INTO users VALUES (1), (2);
    CREATE SCHEMA sales; CREATE TABLE sales.orders (id int PRIMARY KEY, buyer text)";

#[tokio::test]
async fn a_table_that_may_not_be_read_is_refused_with_the_statements_that_allow_it() {
    let world = WorldOptions::default().without_sftp().start().await;
    world.source.execute(TABLES).await;
    world.source.execute(scene::SLOT).await;
    world.source.execute("REVOKE pg_read_all_data FROM syncdata_user").await;
    let run = refused(&world, &[]).await;
    for statement in [
        "GRANT SELECT ON \"public\".\"users\" TO \"syncdata_user\";",
        "GRANT USAGE ON SCHEMA \"sales\" TO \"syncdata_user\";",
        "GRANT SELECT ON \"sales\".\"orders\" TO \"syncdata_user\";",
    ] {
        assert!(run.stderr.contains(statement), "{run}");
        world.source.execute(statement).await;
    }
    scene::take(&world).await;
    assert_eq!(lines(world.archive_dir(), &newest(world.archive_dir()), "users"), ["1", "2"]);
}

#[tokio::test]
async fn row_level_security_that_would_hide_rows_is_refused() {
    let world = scene::world(TABLES).await;
    world
        .source
        .execute(
            "ALTER ROLE syncdata_user NOBYPASSRLS; ALTER TABLE users ENABLE ROW LEVEL SECURITY;
             CREATE POLICY first_row ON users USING (id = 1)",
        )
        .await;
    let run = refused(&world, &[]).await;
    assert!(run.stderr.contains("row level security would hide rows of users"), "{run}");
    assert!(run.stderr.contains("ALTER ROLE \"syncdata_user\" BYPASSRLS;"), "{run}");
    assert!(files(world.archive_dir()).is_empty(), "{run}");
    world.source.execute("ALTER ROLE syncdata_user BYPASSRLS").await;
    scene::take(&world).await;
    assert_eq!(lines(world.archive_dir(), &newest(world.archive_dir()), "users"), ["1", "2"]);
}

#[tokio::test]
async fn names_that_match_nothing_that_is_captured_are_refused() {
    let mut world = scene::world(TABLES).await;
    world.set_archiver("tables", vec!["users"]);
    for (tables, says) in
        [("orders", "orders is no table"), ("sales.orders", "add the table to `tables`"), ("users,", "list")]
    {
        let run = refused(&world, &["--tables", tables]).await;
        assert!(run.stderr.contains(says), "{run}");
    }
    let taken = scene::take_with(&world, &["--tables", "users"]).await;
    assert_eq!(taken["tables"], 1);
    world.set_archiver("tables", vec!["*"]);
    let taken = scene::take_with(&world, &["--tables", "sales.*,users"]).await;
    assert_eq!(taken["tables"], 2);
}
