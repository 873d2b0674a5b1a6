//! Partitions that are new where what is remembered is not of the place where the reading begins: after a crash, after a
//! stretch that was passed over, in an answer that goes on, and at the first look of all.

use syncdata_tests::World;

use crate::scene;
use crate::story::{self, PARTITION, REWRITTEN, Story, only};

const TRUNCATED: &str = "TRUNCATE of a partition cannot be said of its parent";

fn partitioned(table: &str) -> String {
    format!(
        "CREATE TABLE {table} (id int, day int, note text, PRIMARY KEY (id, day)) PARTITION BY LIST (day);
         CREATE TABLE {table}_1 PARTITION OF {table} FOR VALUES IN (1); INSERT INTO {table} VALUES (1, 1, 'one');"
    )
}

async fn make(world: &World, table: &str, day: u32, rows: u32) {
    for sql in [
        format!("CREATE TABLE {table}_{day} PARTITION OF {table} FOR VALUES IN ({day})"),
        format!("INSERT INTO {table} SELECT n, {day}, 'x' FROM generate_series(1, {rows}) n"),
    ] {
        world.source.execute(&sql).await;
    }
}

/// What the two tables lose is told, each at its time.
async fn empties(story: &mut Story, day: u32) {
    let gaps = story.after(&[&format!("TRUNCATE a_{day}")]).await;
    assert_eq!(gaps, only("a", TRUNCATED), "{day}");
    let gone = format!("DROP TABLE b_{day}");
    assert_eq!(story.after(&[&gone, "UPDATE b SET note = 'later'"]).await, only("b", PARTITION), "{day}");
    story.mend().await;
}

#[tokio::test]
async fn a_partition_whose_rows_nobody_counted_is_not_empty() {
    let schema = ["a", "b", "c", "d"].map(partitioned).concat();
    let mut story = Story::start(&["a", "b", "c", "d"], &schema, &["a", "b", "c"]).await;

    // Killed after the rows are published, and before it is remembered what the tables were.
    make(&story.world, "a", 5, 50).await;
    make(&story.world, "b", 5, 50).await;
    for sql in [
        "CREATE TABLE c_5 (LIKE c INCLUDING ALL)",
        "INSERT INTO c_5 SELECT n, 5, 'x' FROM generate_series(1, 50) n",
        "INSERT INTO c VALUES (2, 1, 'two')",
        "ALTER TABLE c ATTACH PARTITION c_5 FOR VALUES IN (5)",
    ] {
        story.world.source.execute(sql).await;
    }
    story.world.archiver(["run", "--once"]).fault("spool.manifest_written=kill@1").run().await;
    assert_eq!(story.carry().await, only("c", PARTITION));
    empties(&mut story, 5).await;

    // Somebody else has read the slot.
    make(&story.world, "a", 6, 50).await;
    make(&story.world, "b", 6, 50).await;
    let advance = "SELECT pg_replication_slot_advance('syncdata_slot', pg_current_wal_flush_lsn())";
    story.world.source.execute(advance).await;
    story.world.archiver(["run", "--once"]).run().await.expect_code(1);
    story.mend().await;
    empties(&mut story, 6).await;

    // The TRUNCATE comes in a later answer than the rows. While it is expected, nothing of the partition is certain.
    story.world.set_archiver("poll_max_changes", 100);
    make(&story.world, "a", 7, 300).await;
    let gaps = story
        .after(&[
            "INSERT INTO d VALUES (2, 1, 'two')",
            "TRUNCATE a_7",
            "INSERT INTO a VALUES (7, 7, 'seven')",
        ])
        .await;
    assert!(gaps == only("a", TRUNCATED) || gaps == only("a", REWRITTEN), "{gaps:?}");
    story.mend().await;
}

/// Its slot says that all may be news which happened since the oldest slot of the cluster was read last.
#[tokio::test]
async fn a_first_look_takes_no_partition_for_empty_that_is_older_than_the_slot() {
    let world = scene::listing(&["a", "b"]).start().await;
    for sql in [
        "SELECT pg_create_logical_replication_slot('lags', 'test_decoding')",
        &partitioned("a"),
        &partitioned("b"),
    ] {
        world.source.execute(sql).await;
    }
    make(&world, "a", 5, 50).await;
    make(&world, "b", 5, 50).await;
    world.make_slot().await;
    make(&world, "a", 6, 0).await;
    scene::poll(&world).await;
    world.archiver(["snapshot"]).succeed().await;
    world.source.execute("TRUNCATE a_6").await;
    scene::poll(&world).await;
    world.source.execute("TRUNCATE a_5").await;
    world.source.execute("DROP TABLE b_5").await;
    world.source.execute("UPDATE b SET note = 'later'").await;
    world.archiver(["run", "--once"]).run().await.expect_code(1);
    let mut gaps = story::gaps(&world);
    gaps.sort_unstable();
    assert_eq!(gaps, [format!("a: {TRUNCATED}"), format!("b: {PARTITION}")]);
}
