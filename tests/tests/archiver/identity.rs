//! Identity is the oid: tables that are renamed, swapped, attached, detached, dropped and made again, that leave the capture
//! and return. The copy equals production, or exactly the table that differs has its gap.

use std::collections::BTreeSet;

use syncdata_tests::cases;
use toml::Value;

use crate::story::{ANOTHER, NONE, NOT_CAPTURED, PARTITION, REWRITTEN, Story, gaps, only};

const ORDERS: &str = "CREATE SCHEMA parts;
    CREATE TABLE orders (id int, day int, note text, PRIMARY KEY (id, day)) PARTITION BY RANGE (day);
    CREATE TABLE orders_1 PARTITION OF orders FOR VALUES FROM (0) TO (10);
    CREATE TABLE orders_2 PARTITION OF orders FOR VALUES FROM (10) TO (20);
    CREATE TABLE staging (LIKE orders INCLUDING ALL);
    CREATE TABLE a (LIKE orders INCLUDING ALL); CREATE TABLE b (LIKE orders INCLUDING ALL);
    CREATE TABLE n (id int PRIMARY KEY, day int);
    INSERT INTO orders VALUES (1, 1, 'one'), (2, 11, 'two'); INSERT INTO a VALUES (1, 1, 'a'); INSERT INTO b VALUES (2, 2, 'b')";

#[tokio::test]
async fn partitions_that_are_made_filled_and_removed_empty_need_no_gap() {
    for tables in cases([&["orders", "a"][..], &["*"]]) {
        let mut story = Story::start(tables, ORDERS, &["orders"]).await;
        let from_birth = [
            "CREATE TABLE orders_3 PARTITION OF orders FOR VALUES FROM (20) TO (30)",
            "INSERT INTO orders VALUES (3, 21, 'three'); UPDATE orders SET note = 'zwei' WHERE id = 2",
            "GRANT SELECT ON orders_3 TO PUBLIC; CREATE INDEX ON orders (note); ALTER TABLE orders_3 SET (fillfactor = 90)",
            "INSERT INTO orders VALUES (4, 22, 'four')",
        ];
        assert_eq!(story.after(&from_birth).await, NONE, "{tables:?}");
        let by_attaching = [
            "CREATE TABLE parts.orders_4 (LIKE orders INCLUDING ALL)",
            "ALTER TABLE orders ATTACH PARTITION parts.orders_4 FOR VALUES FROM (30) TO (40)",
            "INSERT INTO orders VALUES (5, 31, 'five'); DELETE FROM orders WHERE id = 3",
        ];
        assert_eq!(story.after(&by_attaching).await, NONE, "{tables:?}");
        let in_one_transaction = [
            "BEGIN; CREATE TABLE orders_5 (LIKE orders INCLUDING ALL); INSERT INTO orders_5 VALUES (6, 41, 'six'), (7, 42, 'seven');
             ALTER TABLE orders ATTACH PARTITION orders_5 FOR VALUES FROM (40) TO (50); COMMIT",
            "UPDATE orders SET note = 'sechs' WHERE id = 6; DELETE FROM orders WHERE id = 7",
        ];
        assert_eq!(story.after(&in_one_transaction).await, NONE, "{tables:?}");
        // As the extensions that look after partitions do it.
        let in_a_part_of_one = [
            "DO $$ BEGIN
               CREATE TABLE orders_6 (LIKE orders INCLUDING ALL);
               ALTER TABLE orders ATTACH PARTITION orders_6 FOR VALUES FROM (50) TO (60);
             EXCEPTION WHEN division_by_zero THEN NULL; END $$",
            "INSERT INTO orders VALUES (8, 51, 'eight')",
        ];
        assert_eq!(story.after(&in_a_part_of_one).await, NONE, "{tables:?}");
        assert_eq!(story.after(&["DELETE FROM orders WHERE day >= 50"]).await, NONE);
        assert_eq!(story.after(&["DROP TABLE orders_6"]).await, NONE, "it was empty");
        assert_eq!(story.after(&["DELETE FROM orders WHERE id = 5"]).await, NONE);
        assert_eq!(
            story.after(&["ALTER TABLE orders DETACH PARTITION parts.orders_4"]).await,
            NONE,
            "it was empty"
        );
        let rename_at_rest =
            ["ALTER TABLE orders_1 RENAME TO orders_first", "ALTER TABLE orders_2 SET SCHEMA parts"];
        assert_eq!(story.after(&rename_at_rest).await, NONE);
        assert_eq!(story.after(&["UPDATE orders SET note = note || '!'"]).await, NONE);
        assert_eq!(story.after(&["TRUNCATE orders", "INSERT INTO orders VALUES (9, 9, 'nine')"]).await, NONE);
        assert_eq!(
            story.after(&["VACUUM FULL orders_first", "CLUSTER orders_first USING orders_1_pkey"]).await,
            NONE
        );
        assert_eq!(story.state("orders").await, "live");
    }
}

#[tokio::test]
async fn a_partition_that_comes_or_goes_with_rows_is_a_gap_of_its_table() {
    for tables in cases([&["orders", "a"][..], &["*"]]) {
        let mut story = Story::start(tables, ORDERS, &["orders", "a"]).await;
        for (number, statements) in [
            // Its own changes first: they are not the parent's, and what it holds is in no change.
            &["INSERT INTO staging VALUES (7, 21, 'mine'), (2, 11, 'two'); DELETE FROM staging WHERE day = 11",
              "ALTER TABLE orders ATTACH PARTITION staging FOR VALUES FROM (20) TO (30)", "UPDATE orders SET note = 'x' WHERE id = 7"][..],
            &["ALTER TABLE orders DETACH PARTITION staging"],
            &["INSERT INTO orders VALUES (5, 12, 'five')", "ALTER TABLE orders DETACH PARTITION orders_2", "INSERT INTO orders_2 VALUES (6, 12, 'six')"],
            &["ALTER TABLE orders ATTACH PARTITION orders_2 FOR VALUES FROM (10) TO (20)"],
            &["ALTER TABLE orders DETACH PARTITION orders_2", "ALTER TABLE orders ATTACH PARTITION orders_2 FOR VALUES FROM (10) TO (20)"],
            &["DROP TABLE orders_2"],
            &["CREATE TABLE orders_9 PARTITION OF orders FOR VALUES FROM (90) TO (100)", "INSERT INTO orders VALUES (1, 91, 'x')",
              "ALTER TABLE orders_9 RENAME TO orders_nine", "INSERT INTO orders VALUES (2, 91, 'y')"],
            &["INSERT INTO orders VALUES (3, 92, 'x')", "ALTER TABLE orders_nine SET SCHEMA parts", "INSERT INTO orders VALUES (4, 92, 'y')"],
            // The name of a partition passes to another table.
            &["DELETE FROM orders WHERE day = 1", "ALTER TABLE orders DETACH PARTITION orders_1; DROP TABLE orders_1",
              "CREATE TABLE orders_1 (LIKE orders)", "INSERT INTO orders_1 VALUES (5, 5, 'not of orders')"],
            &["TRUNCATE parts.orders_nine"],
            &["ALTER TABLE parts.orders_nine SET UNLOGGED", "INSERT INTO orders VALUES (50, 93, 'unlogged')",
              "ALTER TABLE parts.orders_nine SET LOGGED"],
        ].into_iter().enumerate() {
            let gaps = story.after(statements).await;
            let of_orders: Vec<&String> = gaps.iter().filter(|gap| gap.starts_with("orders: ")).collect();
            assert_eq!(of_orders.len(), 1, "{tables:?} {number} {statements:?}: {gaps:?}");
            assert!(!gaps.iter().any(|gap| gap.starts_with("a: ")), "{gaps:?}");
            assert_eq!(story.state("orders").await, "stale", "{statements:?}");
            assert_eq!(story.state("a").await, "live");
            story.mend().await;
        }
        let reasons: BTreeSet<String> =
            self::gaps(&story.world).into_iter().filter(|gap| gap.starts_with("orders: ")).collect();
        assert!(
            reasons.contains(&format!("orders: {PARTITION}"))
                && reasons.contains(&format!("orders: {REWRITTEN}")),
            "{reasons:?}"
        );
    }
}

/// What a load job does: the table is emptied, filled and becomes a partition.
#[tokio::test]
async fn a_staging_table_is_emptied_filled_and_attached() {
    let mut story = Story::start(&["*"], ORDERS, &["orders", "staging"]).await;
    assert_eq!(story.after(&["INSERT INTO staging VALUES (1, 21, 'old')"]).await, NONE);
    let one_transaction =
        "BEGIN; TRUNCATE staging; INSERT INTO staging VALUES (2, 22, 'new'), (3, 23, 'too');
        ALTER TABLE orders ATTACH PARTITION staging FOR VALUES FROM (20) TO (30); COMMIT";
    assert_eq!(story.after(&[one_transaction, "DELETE FROM orders WHERE id = 3"]).await, NONE);
    assert_eq!(story.state("orders").await, "live");
    // Emptied before, and filled in a transaction of its own: what the parent gains is in no change of its own.
    let several = [
        "CREATE TABLE load (LIKE orders INCLUDING ALL); INSERT INTO load VALUES (1, 31, 'old')",
        "TRUNCATE load",
        "INSERT INTO load VALUES (4, 32, 'new')",
        "ALTER TABLE orders ATTACH PARTITION load FOR VALUES FROM (30) TO (40)",
    ];
    assert_eq!(story.after(&several).await, only("orders", PARTITION));
}

#[tokio::test]
async fn a_name_that_means_another_table_is_a_gap_of_that_name() {
    for tables in cases([&["a", "b", "orders"][..], &["*"]]) {
        let mut story = Story::start(tables, ORDERS, &["a", "b", "orders"]).await;
        let swap = [
            "INSERT INTO a VALUES (10, 1, 'x')",
            "ALTER TABLE a RENAME TO a_old; ALTER TABLE b RENAME TO a",
            "INSERT INTO a VALUES (11, 1, 'y')",
        ];
        let mut expected = only("a", ANOTHER);
        if tables == ["*"] {
            expected.extend(only("a_old", ANOTHER));
        }
        assert_eq!(story.after(&swap).await, expected);
        assert_eq!((story.state("a").await, story.state("orders").await), ("stale".into(), "live".into()));
        story.mend().await;
        let again = [
            "INSERT INTO a VALUES (12, 1, 'x')",
            "DROP TABLE a",
            "CREATE TABLE a (LIKE orders INCLUDING ALL)",
            "INSERT INTO a VALUES (13, 1, 'y')",
        ];
        assert_eq!(story.after(&again).await, only("a", ANOTHER));
        story.mend().await;
        // Away, replaced and back: the rows of the replacement are not its own.
        let back = [
            "ALTER TABLE a RENAME TO a_kept; CREATE TABLE a (LIKE a_kept INCLUDING ALL)",
            "INSERT INTO a VALUES (14, 1, 'of the replacement'); DELETE FROM a WHERE id = 13",
            "DROP TABLE a; ALTER TABLE a_kept RENAME TO a",
        ];
        assert_eq!(story.after(&back).await, only("a", ANOTHER));
        story.mend().await;
        assert_eq!(
            story
                .after(&["ALTER TABLE a OWNER TO CURRENT_USER", "INSERT INTO orders VALUES (20, 2, 'x')"])
                .await,
            NONE
        );
        assert_eq!(
            story
                .after(&[
                    "CREATE TABLE b (LIKE orders INCLUDING ALL)",
                    "INSERT INTO b VALUES (1, 1, 'another')"
                ])
                .await,
            only("b", ANOTHER)
        );
    }
}

#[tokio::test]
async fn rows_that_changed_without_a_change_are_a_gap_of_their_table() {
    let mut story = Story::start(&["*"], ORDERS, &["a", "b"]).await;
    let unlogged =
        ["ALTER TABLE a SET UNLOGGED", "INSERT INTO a VALUES (5, 5, 'unlogged')", "ALTER TABLE a SET LOGGED"];
    assert_eq!(story.after(&unlogged).await, only("a", REWRITTEN));
    story.mend().await;
    assert_eq!(story.after(&unlogged[..1]).await, only("a", NOT_CAPTURED));
    assert_eq!(story.after(&["INSERT INTO b VALUES (7, 7, 'x')"]).await, NONE, "it is told once");
    assert_eq!(
        story.after(&["INSERT INTO a VALUES (6, 6, 'unlogged')", "ALTER TABLE a SET LOGGED"]).await,
        only("a", NOT_CAPTURED)
    );
    story.mend().await;
    let swapped = [
        "INSERT INTO a VALUES (7, 8, 'before')",
        "ALTER TABLE a RENAME id TO x; ALTER TABLE a RENAME day TO id; ALTER TABLE a RENAME x TO day",
        "INSERT INTO a VALUES (9, 10, 'after')",
    ];
    assert_eq!(story.after(&swapped).await, only("a", REWRITTEN));
    assert_eq!(story.state("b").await, "live");
    assert_eq!(
        story.after(&["TRUNCATE b", "INSERT INTO b VALUES (1, 1, 'x')", "VACUUM FULL b", "TRUNCATE b"]).await,
        NONE
    );
    // Without a TOAST table nobody can tell why the rows lie elsewhere, but for a TRUNCATE.
    assert_eq!(story.after(&["TRUNCATE n", "INSERT INTO n VALUES (1, 1)"]).await, NONE);
    assert_eq!(
        story
            .after(&[
                "TRUNCATE n",
                "ALTER TABLE n SET UNLOGGED",
                "INSERT INTO n VALUES (2, 2)",
                "ALTER TABLE n SET LOGGED"
            ])
            .await,
        only("n", REWRITTEN)
    );
}

#[tokio::test]
async fn a_table_that_leaves_the_capture_and_returns_is_a_gap_from_then_on() {
    let mut story = Story::start(&["a", "b"], ORDERS, &["a", "b"]).await;
    story.set_tables(&["a"]);
    assert_eq!(
        story.after(&["INSERT INTO a VALUES (5, 5, 'x'); INSERT INTO b VALUES (5, 5, 'x')"]).await,
        NONE
    );
    let refused = story.world.archiver(["snapshot", "--tables", "b"]).run().await.expect_code(2);
    assert!(refused.stderr.contains("b is no table that is captured"), "{refused}");
    story.set_tables(&["a", "b"]);
    // It is told with the next thing that the source writes: a manifest has to cover something.
    assert_eq!(story.after(&["INSERT INTO a VALUES (55, 5, 'y')"]).await, only("b", NOT_CAPTURED));
    assert_eq!((story.state("a").await, story.state("b").await), ("live".into(), "stale".into()));
    story.mend().await;
    // One poll by hand with fewer tables is enough.
    story.world.source.execute("INSERT INTO b VALUES (6, 6, 'x'); DELETE FROM a").await;
    story.world.archiver(["run", "--once", "--tables", "a"]).succeed().await;
    assert_eq!(story.after(&["INSERT INTO a VALUES (56, 5, 'z')"]).await, only("b", NOT_CAPTURED));
    story.mend().await;
    // A table that is listed for the first time has no gap, and no base either.
    story.set_tables(&["a", "b", "staging"]);
    assert_eq!(story.after(&["INSERT INTO staging VALUES (1, 1, 'x')"]).await, NONE);
}

/// Rows of before and after lie in several answers of one poll.
#[tokio::test]
async fn columns_that_change_names_in_the_middle_of_a_backlog_are_a_gap_of_their_table_alone() {
    let mut story = Story::start(&["*"], ORDERS, &["a", "b"]).await;
    story.world.set_archiver("poll_max_changes", 4);
    story.world.set_archiver("segment_max_changes", 2);
    let rows = |from: u32| {
        format!(
            "DO $$ BEGIN FOR n IN {from}..{} LOOP
           INSERT INTO a VALUES (n, 1, 'a'); INSERT INTO b VALUES (n, 1, 'b'); COMMIT; END LOOP; END $$",
            from + 9
        )
    };
    let (before, after) = (rows(100), rows(200));
    let swap = "ALTER TABLE a RENAME id TO x; ALTER TABLE a RENAME day TO id; ALTER TABLE a RENAME x TO day";
    assert_eq!(story.after(&[&before, swap, &after]).await, only("a", REWRITTEN));
    assert_eq!((story.state("a").await, story.state("b").await), ("stale".into(), "live".into()));
    story.mend().await;
}

/// The catalog is the same before and after: only rows show that it was another one meanwhile.
#[tokio::test]
async fn columns_that_change_names_and_change_back_are_a_gap_of_their_table_alone() {
    let mut story = Story::start(&["*"], ORDERS, &["a", "b", "orders"]).await;
    let swap = |table: &str| {
        format!(
            "ALTER TABLE {table} RENAME id TO x; ALTER TABLE {table} RENAME day TO id; ALTER TABLE {table} RENAME x TO day"
        )
    };
    let (a, orders) = (swap("a"), swap("orders"));
    // A DELETE whose key names another row, and an INSERT whose values stand in each other's places.
    for change in ["DELETE FROM a", "INSERT INTO a (id, day) VALUES (5, 6)", "UPDATE a SET note = 'x'"] {
        let work = [
            "DELETE FROM a; DELETE FROM b; INSERT INTO a VALUES (7, 8, 'a'), (9, 10, 'b')",
            &a,
            change,
            &a,
            "INSERT INTO b VALUES (8, 8, 'x')",
        ];
        assert_eq!(story.after(&work).await, only("a", REWRITTEN), "{change}");
        assert_eq!((story.state("a").await, story.state("b").await), ("stale".into(), "live".into()));
        story.mend().await;
    }
    // Of a partitioned table, whose partitions change with it.
    let work = ["INSERT INTO orders VALUES (5, 15, 'a')", &orders, "DELETE FROM orders", &orders];
    assert_eq!(story.after(&work).await, only("orders", REWRITTEN));
    story.mend().await;
    // With no row in between nothing is lost.
    assert_eq!(story.after(&[&a, &a, "INSERT INTO a VALUES (17, 18, 'a')"]).await, NONE);
}

/// Its commit does not wait for the flush: the catalog shows it before the stream does.
#[tokio::test]
async fn a_snapshot_takes_a_table_that_was_made_anew_a_moment_ago() {
    let mut story = Story::start(&["*"], ORDERS, &["a", "b"]).await;
    story.world.source.execute("ALTER SYSTEM SET wal_writer_delay = '10s'").await;
    story.world.source.execute("SELECT pg_reload_conf()").await;
    let anew = "SET synchronous_commit = off; ALTER TABLE a RENAME TO old; ALTER TABLE b RENAME TO a";
    story.world.source.execute(anew).await;
    story.world.archiver(["snapshot"]).succeed().await;
    story.world.source.execute("ALTER SYSTEM RESET wal_writer_delay").await;
    story.world.source.execute("SELECT pg_reload_conf()").await;
    story.mend().await;
}

/// One of these backlogs is read to its last change by an answer that is full: whether more comes is known only later.
#[tokio::test]
async fn a_snapshot_takes_a_table_that_was_made_anew_and_nothing_was_written_since() {
    let mut story = Story::start(&["*"], ORDERS, &["a", "b"]).await;
    story.world.set_archiver("poll_max_changes", 4);
    for rows in 1..=6 {
        story.world.source.execute("DROP TABLE a").await;
        story.world.archiver(["run", "--once"]).succeed().await;
        story.world.source.execute("CREATE TABLE a (LIKE orders INCLUDING ALL)").await;
        let insert = format!("INSERT INTO b SELECT {rows}, 10 + n, 'x' FROM generate_series(1, {rows}) AS n");
        story.world.source.execute(&insert).await;
        story.world.archiver(["run", "--once"]).run().await;
        story.world.archiver(["snapshot"]).succeed().await;
    }
    story.mend().await;
}

/// Nobody has to change the settings for the others to go on.
#[tokio::test]
async fn a_listed_table_that_is_unlogged_now_is_a_gap_and_the_others_go_on() {
    let mut story = Story::start(&["a", "b"], ORDERS, &["a", "b"]).await;
    let unlogged = ["ALTER TABLE a SET UNLOGGED", "INSERT INTO a VALUES (5, 5, 'unlogged')", "DELETE FROM b"];
    assert_eq!(story.after(&unlogged).await, only("a", NOT_CAPTURED));
    assert_eq!((story.state("a").await, story.state("b").await), ("stale".into(), "live".into()));
    assert_eq!(story.after(&["INSERT INTO b VALUES (8, 8, 'x')"]).await, NONE);
    let checked = story.world.archiver(["check"]).run().await;
    assert!(checked.stdout.contains("a is an unlogged table"), "{checked}");
    assert_eq!(story.after(&["ALTER TABLE a SET LOGGED"]).await, only("a", NOT_CAPTURED));
    story.mend().await;
    // A view in the place of a table is nothing else.
    let view = ["ALTER TABLE a RENAME TO a_kept; CREATE VIEW a AS SELECT * FROM a_kept", "DELETE FROM b"];
    assert_eq!(story.after(&view).await, only("a", NOT_CAPTURED));
    assert_eq!(story.state("b").await, "live");
    // One that never was anything else is named before anything begins.
    story.world.source.execute("CREATE UNLOGGED TABLE u (id int PRIMARY KEY)").await;
    story.set_tables(&["b", "u"]);
    let checked = story.world.archiver(["check"]).run().await.expect_code(1);
    assert!(checked.stdout.contains("u is an unlogged table"), "{checked}");
    assert!(checked.stdout.contains("take it out of `tables`"), "{checked}");
}

/// A gap at every poll would say nothing new: no copy is made before it is logged again.
#[tokio::test]
async fn an_unlogged_partition_is_told_once_and_keeps_its_table_out_of_snapshots() {
    let mut story = Story::start(&["*"], ORDERS, &["orders", "a"]).await;
    let unlogged = ["ALTER TABLE orders_2 SET UNLOGGED", "INSERT INTO orders VALUES (5, 15, 'unlogged')"];
    assert_eq!(story.after(&unlogged).await, only("orders", NOT_CAPTURED));
    assert_eq!(story.after(&["INSERT INTO orders VALUES (6, 16, 'unlogged'), (7, 7, 'x')"]).await, NONE);
    let left_out = story.world.archiver(["snapshot"]).run().await.expect_code(1);
    let remedy = r#"ALTER TABLE "public"."orders_2" SET LOGGED;"#;
    assert!(left_out.stderr.contains(remedy), "{left_out}");
    story.world.applier(["sync"]).run().await;
    assert_eq!(story.state("orders").await, "stale");
    assert_eq!(story.after(&[remedy]).await, only("orders", REWRITTEN));
    story.mend().await;
    assert_eq!(story.state("orders").await, "live");
}

/// The daemon goes by the settings that it has read, whatever was captured once.
#[tokio::test]
async fn a_snapshot_of_a_table_that_is_captured_no_more_is_refused() {
    let mut story = Story::start(&["a", "b"], ORDERS, &["a"]).await;
    story.set_tables(&["a"]);
    let daemon = story.world.archiver(["run"]).spawn();
    let captures = async |table: &str| {
        let status = story.world.archiver(["status", "--json"]).run().await.json();
        let has_it = |tables: &Vec<serde_json::Value>| tables.iter().any(|name| name == table);
        status["status"] == "active" && status["tables"].as_array().is_some_and(has_it)
    };
    while !captures("a").await {}
    assert!(!captures("b").await);
    story.world.set_archiver("tables", vec![Value::from("a"), Value::from("b")]);
    let refused = story.world.archiver(["snapshot"]).run().await.expect_code(2);
    assert!(refused.stderr.contains("does not capture b yet"), "{refused}");
    daemon.stop().await.expect_code(0);
}

/// No column of `numbers` can be so long that it needs a TOAST table, by which a rewrite is told from a TRUNCATE.
const NUMBERS: &str = "CREATE TABLE numbers (id int PRIMARY KEY, day int); INSERT INTO numbers VALUES (1, 1);
    CREATE TABLE other (id int, day int, note text, PRIMARY KEY (id, day))";

#[tokio::test]
async fn a_truncate_in_a_savepoint_is_no_gap_of_a_table_without_toast() {
    let mut story = Story::start(&["*"], NUMBERS, &["other"]).await;
    let savepoint = "BEGIN; INSERT INTO numbers VALUES (2, 2); SAVEPOINT s; TRUNCATE numbers; RELEASE s;
        INSERT INTO numbers VALUES (3, 3); COMMIT";
    let handler = "DO $$ BEGIN TRUNCATE numbers; INSERT INTO numbers VALUES (4, 4);
        EXCEPTION WHEN division_by_zero THEN NULL; END $$";
    assert_eq!(story.after(&[savepoint, "INSERT INTO numbers VALUES (5, 5)"]).await, NONE);
    assert_eq!(
        story.after(&["INSERT INTO numbers VALUES (6, 6)", handler, "DELETE FROM numbers"]).await,
        NONE
    );
    // What writes the rows anew after it is told from it, in a savepoint of its own or not.
    let unlogged =
        "ALTER TABLE numbers SET UNLOGGED; INSERT INTO numbers VALUES (7, 7); ALTER TABLE numbers SET LOGGED";
    assert_eq!(story.after(&[savepoint, unlogged]).await, only("numbers", REWRITTEN));
    let in_savepoint = format!("BEGIN; SAVEPOINT s; {unlogged}; RELEASE s; COMMIT");
    assert_eq!(story.after(&[handler, &in_savepoint]).await, only("numbers", REWRITTEN));
}
