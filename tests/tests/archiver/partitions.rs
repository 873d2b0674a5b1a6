//! Rows of partitions travel as those of the table that is captured.

use syncdata_tests::world::WorldOptions;

use crate::reader;
use crate::scene::{self, listing, news, poll, poll_with_gap, shapes};

const ORDERS: &str = "CREATE SCHEMA parts; CREATE TABLE orders (id int, day int, note text, PRIMARY KEY (id, day)) PARTITION BY RANGE (day);
    CREATE TABLE parts.orders_1 PARTITION OF orders FOR VALUES FROM (0) TO (10);
    CREATE TABLE parts.orders_2 PARTITION OF orders FOR VALUES FROM (10) TO (20) PARTITION BY RANGE (id);
    CREATE TABLE parts.orders_2_1 PARTITION OF parts.orders_2 FOR VALUES FROM (0) TO (1000);
    CREATE TABLE parts.odd (note text, day int NOT NULL, id int NOT NULL, PRIMARY KEY (id, day));
    ALTER TABLE orders ATTACH PARTITION parts.odd FOR VALUES FROM (20) TO (30);";

const ORDER_CHANGES: &str = "BEGIN; INSERT INTO orders VALUES (1, 1, 'a'), (2, 11, 'b'), (3, 21, 'c');
    UPDATE orders SET day = 12 WHERE id = 1; TRUNCATE orders; COMMIT";

#[tokio::test]
async fn rows_of_partitions_carry_the_name_of_the_captured_ancestor() {
    let insert = |table: &str, rest: &str| format!("{table} INSERT {rest}");
    for (tables, names) in [
        (&["orders"][..], ["orders", "orders", "orders"]),
        (&["public.*"], ["orders", "orders", "orders"]),
        (&["orders", "parts.orders_1", "parts.orders_2"], ["orders", "orders", "orders"]),
        (
            &["parts.orders_1", "parts.orders_2", "parts.odd"],
            ["parts.orders_1", "parts.orders_2", "parts.odd"],
        ),
        (
            &["parts.orders_1", "parts.orders_2_1", "parts.odd"],
            ["parts.orders_1", "parts.orders_2_1", "parts.odd"],
        ),
    ] {
        let world = scene::world_with(listing(tables), ORDERS).await;
        world.source.execute(ORDER_CHANGES).await;
        let [one, two, odd] = names;
        let mut lines = news(&world).await;
        let truncates = lines.iter().filter(|line| line.ends_with(" TRUNCATE")).count();
        lines.retain(|line| !line.ends_with(" TRUNCATE"));
        assert_eq!(
            lines[..5],
            [
                insert(one, r#"{"id":1,"day":1,"note":"a"}"#),
                insert(two, r#"{"id":2,"day":11,"note":"b"}"#),
                insert(odd, r#"{"note":"c","day":21,"id":3}"#),
                format!(r#"{one} DELETE old {{"id":1,"day":1}}"#),
                insert(two, r#"{"id":1,"day":12,"note":"a"}"#),
            ],
            "{tables:?}"
        );
        assert_eq!(truncates, if one == "orders" { 1 } else { 3 }, "{tables:?}");
        assert_eq!(lines.len(), 6);
    }
}

/// Whoever holds a partition for long holds up no poll, and so nobody waits behind one either.
#[tokio::test]
async fn a_poll_waits_for_no_lock_of_a_partition() {
    let world = scene::world_with(listing(&["orders"]), ORDERS).await;
    world.source.execute("ALTER TABLE orders ADD COLUMN seen int DEFAULT 7").await;
    let client = world.source.connect().await;
    client
        .batch_execute("BEGIN; LOCK TABLE parts.orders_2, parts.odd IN ACCESS EXCLUSIVE MODE")
        .await
        .expect("nobody else is there");
    world.source.execute("INSERT INTO parts.orders_1 VALUES (1, 1, 'a')").await;
    assert_eq!(news(&world).await[0], r#"orders INSERT {"id":1,"day":1,"note":"a","seen":7}"#);
}

#[tokio::test]
async fn a_truncate_of_one_partition_is_a_gap_of_its_root() {
    let world = scene::world_with(listing(&["orders"]), ORDERS).await;
    world.source.execute("INSERT INTO orders VALUES (1, 1, 'before')").await;
    // A transaction of which nothing can be said, behind one that fills the file, and before one that is not ours.
    world.source.execute("TRUNCATE parts.orders_1").await;
    world.source.execute("CREATE TABLE other (id int); INSERT INTO other VALUES (1)").await;
    assert_eq!(poll_with_gap(&world).await, [r#"["orders"]"#]);
    assert_eq!(
        shapes(&reader::segments(world.archive_dir())),
        [r#"orders INSERT {"id":1,"day":1,"note":"before"}"#, "COMMIT 1"]
    );
    // The chain goes on behind it.
    world.source.execute("INSERT INTO orders VALUES (2, 1, 'after'); TRUNCATE parts.orders_2").await;
    assert_eq!(poll_with_gap(&world).await.len(), 2);
    world.archiver(["status"]).run().await.expect_code(1);
}

#[tokio::test]
async fn partitions_that_come_and_go_between_polls_are_their_root_s() {
    let world = scene::world_with(listing(&["orders"]), ORDERS).await;
    poll(&world).await;
    world
        .source
        .execute("CREATE TABLE parts.\"new, one\" PARTITION OF orders FOR VALUES FROM (30) TO (40)")
        .await;
    world.source.execute("INSERT INTO orders VALUES (5, 31, 'new')").await;
    assert_eq!(news(&world).await[0], r#"orders INSERT {"id":5,"day":31,"note":"new"}"#);
    world.source.execute("INSERT INTO orders VALUES (6, 32, 'old')").await;
    world.source.execute("DROP TABLE parts.\"new, one\"").await;
    // What it held is gone without a change.
    assert!(poll_with_gap(&world).await.iter().all(|tables| tables == r#"["orders"]"#));
    let lines = shapes(&reader::segments(world.archive_dir()));
    assert_eq!(lines[2..], [r#"orders INSERT {"id":6,"day":32,"note":"old"}"#, "COMMIT 1"]);
}

/// Answers that fit the server's limit come one after the other; only the last of them is the end of what the
/// partitions of then may have written.
#[tokio::test]
async fn a_partition_is_remembered_until_a_backlog_is_read_to_its_end() {
    let limited = |source: syncdata_tests::PostgresOptions| {
        source.setting("temp_file_limit", "1MB").setting("work_mem", "64kB")
    };
    let options = listing(&["orders", "good"]).source(limited);
    let world = scene::world_with(options, ORDERS).await;
    world.source.execute("CREATE TABLE good (id int PRIMARY KEY)").await;
    world.source.execute("INSERT INTO orders VALUES (1, 5, 'a')").await;
    poll(&world).await;
    for first in [10_000, 20_000, 30_000] {
        let last = first + 3990;
        world.source.execute(&format!("INSERT INTO good SELECT generate_series({first}, {last})")).await;
    }
    world.source.execute("DELETE FROM orders WHERE id = 1").await;
    world.source.execute("DROP TABLE parts.orders_1").await;
    // The partition took its rows along.
    let gaps = poll_with_gap(&world).await;
    assert!(gaps.iter().all(|tables| tables == r#"["orders"]"#), "{gaps:?}");
    let lines = shapes(&reader::segments(world.archive_dir())).split_off(2);
    let deleted = lines.iter().filter(|line| line.starts_with("orders DELETE")).count();
    assert_eq!((lines.len(), deleted), (3 * 3992 + 2, 1));
}

#[tokio::test]
async fn rows_of_a_partition_that_was_detached_since_are_a_gap_of_its_root() {
    let world = scene::world_with(listing(&["orders"]), ORDERS).await;
    poll(&world).await;
    world.source.execute("INSERT INTO parts.odd VALUES ('then', 25, 1)").await;
    world.source.execute("ALTER TABLE orders DETACH PARTITION parts.odd").await;
    let gaps = poll_with_gap(&world).await;
    assert!(gaps.iter().all(|tables| tables == r#"["orders"]"#), "{gaps:?}");
    let lines = shapes(&reader::segments(world.archive_dir()));
    world.source.execute("INSERT INTO parts.odd VALUES ('now', 26, 1)").await;
    poll(&world).await;
    poll(&world).await;
    assert_eq!(shapes(&reader::segments(world.archive_dir())), lines, "no row of it travels any more");
}

/// What is committed with synchronous_commit = off is in the catalog before it is in the stream: the server is waited for,
/// or the rename would seem older than the row.
#[tokio::test]
async fn a_rename_that_is_seen_before_it_is_flushed_hides_no_row() {
    let options = WorldOptions::default()
        .without_sftp()
        .source(|options| options.setting("wal_writer_delay", "5s"))
        .archiver_setting("tables", vec![toml::Value::from("orders")]);
    let schema = "CREATE TABLE orders (id int PRIMARY KEY) PARTITION BY RANGE (id);
        CREATE TABLE orders_1 PARTITION OF orders FOR VALUES FROM (0) TO (10)";
    let world = scene::world_with(options, schema).await;
    scene::poll(&world).await;
    let client = world.source.connect().await;
    for statement in [
        "SET synchronous_commit = off",
        "INSERT INTO orders VALUES (1)",
        "ALTER TABLE orders_1 RENAME TO orders_9",
    ] {
        client.batch_execute(statement).await.expect("runs");
    }
    for _ in 0..2 {
        world.archiver(["run", "--once"]).run().await;
        // A commit that is waited for.
        world.source.execute("CREATE TABLE IF NOT EXISTS another ()").await;
    }
    let segments = crate::reader::segments(world.archive_dir());
    let is_there = segments.iter().any(|segment| !segment.lines.is_empty());
    assert!(
        is_there || scene::gaps(&segments).iter().any(|tables| tables.contains("orders")),
        "{segments:?}"
    );
}
