//! Updates and deletes of tables that have no replica identity: gaps of these tables, told once.

use syncdata_tests::world::WorldOptions;

use crate::operator;
use crate::reader;
use crate::scene::{self, gaps, news, poll, poll_with_gap, shapes, world};

const KEYLESS: &str = "CREATE TABLE sound (id serial PRIMARY KEY); CREATE TABLE keyless (n int);
    INSERT INTO keyless SELECT generate_series(1, 5)";

#[tokio::test]
async fn an_update_without_an_identity_is_a_gap_of_that_table_alone() {
    let world = world(
        "CREATE TABLE sound (id int PRIMARY KEY); CREATE TABLE keyless (n int);
        CREATE TABLE nothing (id int PRIMARY KEY); ALTER TABLE nothing REPLICA IDENTITY NOTHING;
        CREATE TABLE \"Deferr\"\"able\" (id int PRIMARY KEY DEFERRABLE)",
    )
    .await;
    let tables = ["keyless", "nothing", "\"Deferr\"\"able\""];
    for command in ["check", "setup"] {
        let said = world.archiver([command]).run().await.expect_code(0);
        for (table, sql) in tables.iter().zip(["keyless", "nothing", "Deferr\"\"able"]) {
            assert!(
                said.stdout.contains(&format!("ALTER TABLE \"public\".\"{sql}\" REPLICA IDENTITY FULL;")),
                "{said}"
            );
            let words = format!("{}{}", said.stdout, said.stderr);
            assert!(words.contains(&format!("warn  replica identity: {table} has none")), "{said}");
        }
    }
    for table in tables {
        world
            .source
            .execute(&format!(
                "INSERT INTO {table} VALUES (1); TRUNCATE {table}; INSERT INTO {table} VALUES (2)"
            ))
            .await;
    }
    // One statement list is one transaction.
    let insert = |table: &str, n: u32| {
        let column = if table == "keyless" { "n" } else { "id" };
        format!(r#"{table} INSERT {{"{column}":{n}}}"#)
    };
    let expected =
        tables.iter().flat_map(|t| [insert(t, 1), format!("{t} TRUNCATE"), insert(t, 2), "COMMIT 3".into()]);
    assert_eq!(news(&world).await, expected.collect::<Vec<_>>());
    world.archiver(["status"]).run().await;

    for (n, table) in tables.iter().enumerate() {
        let change =
            if n == 1 { format!("DELETE FROM {table}") } else { format!("UPDATE {table} SET ctid = ctid") };
        let change = change.replace("ctid = ctid", if n == 0 { "n = 3" } else { "id = 3" });
        world.source.execute(&format!("INSERT INTO sound VALUES ({n}); {change}")).await;
        let found = poll_with_gap(&world).await;
        assert_eq!(found.len(), n + 1, "told once: {found:?}");
        let name: String = serde_json::from_str::<Vec<String>>(&found[n]).expect("a list").join(",");
        assert_eq!(&name, table);
    }
    // Said once: the slot has moved on.
    poll(&world).await;
    let status = world.archiver(["status"]).run().await.expect_code(1);
    assert!(status.stdout.contains("gap: after"), "{status}");
    let sound =
        shapes(&reader::segments(world.archive_dir())).iter().filter(|s| s.starts_with("sound")).count();
    assert_eq!(sound, 3, "the other tables' rows of the same transactions travel");
}

/// The slot repeats what it said while it cannot move, and a short answer less of it than a long one.
#[tokio::test]
async fn a_change_without_an_identity_is_told_once_while_the_slot_cannot_move() {
    let options = WorldOptions::default().over_sftp().archiver_setting("poll_max_changes", 8);
    let mut world = scene::world_with(options, KEYLESS).await;
    poll(&world).await;
    world.backup.stop();
    for _ in 0..2 {
        world.source.execute("UPDATE keyless SET n = n + 1").await;
        for _ in 0..8 {
            world.source.execute("INSERT INTO sound DEFAULT VALUES").await;
        }
    }
    // What is covered ends past the last segment: there is room for a gap.
    world.source.execute("SELECT pg_switch_wal()").await;
    let spooled = async || {
        world.archiver(["run", "--once"]).run().await.expect_code(1);
        gaps(&reader::segments(&world.spool_dir()))
    };
    let found = spooled().await;
    assert_eq!(found, [r#"["keyless"]"#, r#"["keyless"]"#]);
    for _ in 0..2 {
        world.source.execute("INSERT INTO sound DEFAULT VALUES").await;
        assert_eq!(spooled().await, found, "told again");
    }
}

/// A part of what waits is shipped, and the slot moves there: of the rest it says again what it said before.
#[tokio::test]
async fn a_change_without_an_identity_is_told_once_when_a_part_of_the_rest_is_shipped() {
    let options = WorldOptions::default().over_sftp().archiver_setting("poll_max_changes", 8);
    let mut world = scene::world_with(options, KEYLESS).await;
    poll(&world).await;
    world.backup.stop();
    for _ in 0..3 {
        world.source.execute("UPDATE keyless SET n = n + 1").await;
        for _ in 0..8 {
            world.source.execute("INSERT INTO sound DEFAULT VALUES").await;
        }
    }
    world.archiver(["run", "--once"]).run().await.expect_code(1);
    let found = gaps(&reader::segments(&world.spool_dir()));
    let before = operator::confirmed(&world).await;
    world.backup.restart();
    let cut =
        world.archiver(["run", "--once"]).fault("ship.manifest_there=error@2").run().await.expect_code(1);
    assert!(operator::confirmed(&world).await > before, "a part was shipped: {cut}");
    assert_eq!(gaps(&reader::segments(&world.spool_dir())), found, "told again");
    world.source.execute("INSERT INTO sound DEFAULT VALUES").await;
    poll(&world).await;
    assert_eq!(gaps(&reader::segments(world.archive_dir())), found, "told again");
    // What comes behind it is news.
    world.source.execute("UPDATE keyless SET n = n + 1").await;
    assert_eq!(poll_with_gap(&world).await.len(), found.len() + 1);
}

/// More warnings than anybody keeps, all of one table: the others have lost nothing.
#[tokio::test]
async fn a_flood_of_warnings_is_a_gap_of_the_tables_that_they_name() {
    let options = WorldOptions::default().over_sftp();
    let mut world = scene::world_with(
        options,
        "CREATE TABLE keyless (n int); INSERT INTO keyless SELECT generate_series(1, 12000);
         CREATE TABLE quiet (n int); CREATE TABLE sound (id serial PRIMARY KEY)",
    )
    .await;
    poll(&world).await;
    world.backup.stop();
    world.source.execute("UPDATE keyless SET n = n + 1").await;
    world.source.execute("INSERT INTO quiet VALUES (1); INSERT INTO sound DEFAULT VALUES").await;
    let spooled = async || {
        world.archiver(["run", "--once"]).run().await.expect_code(1);
        gaps(&reader::segments(&world.spool_dir()))
    };
    assert_eq!(spooled().await, [r#"["keyless"]"#]);
    world.source.execute("INSERT INTO quiet VALUES (2)").await;
    assert_eq!(spooled().await, [r#"["keyless"]"#], "told again, or of a table that lost nothing");
    let status = world.archiver(["status"]).run().await.expect_code(1);
    assert!(status.stdout.contains(" of keyless: UPDATE or DELETE without a replica identity"), "{status}");
}

/// What another slot of that name says is news, however little.
#[tokio::test]
async fn a_change_without_an_identity_is_told_of_a_slot_that_was_made_again() {
    let mut world = scene::world_with(WorldOptions::default().over_sftp(), KEYLESS).await;
    poll(&world).await;
    world.backup.stop();
    world.source.execute("UPDATE keyless SET n = n + 1").await;
    world.archiver(["run", "--once"]).run().await.expect_code(1);
    world.source.execute("SELECT pg_drop_replication_slot('syncdata_slot')").await;
    world.source.execute(scene::SLOT).await;
    world.source.execute("UPDATE keyless SET n = n + 1 WHERE n = 2").await;
    world.backup.restart();
    assert_eq!(poll_with_gap(&world).await, [r#"["keyless"]"#, "null", r#"["keyless"]"#]);
}
