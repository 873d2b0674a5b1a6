//! Schemas, partitions, identities and tables that change while a backlog waits, or before anybody looked.

use syncdata_tests::world::WorldOptions;

use crate::scene;
use crate::story::{ANOTHER, NONE, NOT_CAPTURED, PARTITION, Story, only};

const LOST: &str = "UPDATE or DELETE without a replica identity: wal2json cannot say which rows";

const ORDERS: &str =
    "CREATE TABLE orders (id int, day int, note text, PRIMARY KEY (id, day)) PARTITION BY RANGE (day);
    CREATE TABLE orders_1 PARTITION OF orders FOR VALUES FROM (0) TO (10);
    CREATE TABLE a (LIKE orders INCLUDING ALL); CREATE TABLE b (LIKE orders INCLUDING ALL);
    INSERT INTO orders VALUES (1, 1, 'one'); INSERT INTO a VALUES (1, 1, 'a')";

const ORDERS_2: &str = "CREATE TABLE orders_2 PARTITION OF orders FOR VALUES FROM (10) TO (20)";

/// What came under a name that may have been another's was not counted, and an empty partition can be dropped in silence.
#[tokio::test]
async fn a_partition_that_had_a_gap_is_not_taken_for_empty() {
    for (was_gap, goes) in [
        (
            &["INSERT INTO orders VALUES (5, 11, 'x')", "ALTER TABLE orders_2 RENAME TO orders_two"][..],
            "DROP TABLE orders_two",
        ),
        (
            &[
                "ALTER TABLE orders_2 SET UNLOGGED",
                "INSERT INTO orders VALUES (6, 12, 'x')",
                "ALTER TABLE orders_2 SET LOGGED",
            ],
            "TRUNCATE orders_2",
        ),
        (
            &[
                "ALTER TABLE orders_2 SET UNLOGGED",
                "INSERT INTO orders VALUES (6, 12, 'x')",
                "ALTER TABLE orders_2 SET LOGGED",
            ],
            "ALTER TABLE orders DETACH PARTITION orders_2",
        ),
    ] {
        let mut story = Story::start(&["*"], ORDERS, &["orders", "a"]).await;
        assert_eq!(story.after(&[ORDERS_2, "DELETE FROM a"]).await, NONE);
        let gaps = story.after(was_gap).await;
        assert_eq!(gaps.len(), 1, "{gaps:?}");
        story.mend().await;
        let gaps = story.after(&[goes, "INSERT INTO a VALUES (1, 1, 'b')"]).await;
        assert!(gaps.iter().any(|gap| gap.starts_with("orders: ")), "{goes}: {gaps:?}");
        story.mend().await;
    }
}

/// The warning names a partition as it was called then.
#[tokio::test]
async fn a_change_without_an_identity_under_a_former_name_is_a_gap() {
    let mut story = Story::start(&["*"], ORDERS, &["orders", "a"]).await;
    let of_partition = [
        "ALTER TABLE orders_1 REPLICA IDENTITY NOTHING; UPDATE orders SET note = 'lost'; ALTER TABLE orders_1 REPLICA IDENTITY DEFAULT",
        "ALTER TABLE orders_1 RENAME TO orders_one",
    ];
    assert_eq!(story.after(&of_partition).await, only("orders", LOST));
    story.mend().await;
    let for_a_while = [
        "ALTER TABLE a REPLICA IDENTITY NOTHING; ALTER TABLE a RENAME TO a_while; UPDATE a_while SET note = 'lost'",
        "ALTER TABLE a_while RENAME TO a; ALTER TABLE a REPLICA IDENTITY DEFAULT",
        "INSERT INTO b VALUES (1, 1, 'b')",
    ];
    let gaps = story.after(&for_a_while).await;
    assert_eq!(gaps, only("a a_while", LOST));
}

#[tokio::test]
async fn a_schema_that_had_another_name_for_a_while_is_a_gap_of_its_tables_with_rows() {
    let schema =
        "CREATE SCHEMA shop; CREATE TABLE shop.t (id int, day int, note text, PRIMARY KEY (id, day));
        CREATE TABLE shop.quiet (LIKE shop.t INCLUDING ALL); CREATE TABLE a (LIKE shop.t INCLUDING ALL);
        INSERT INTO shop.t VALUES (1, 1, 'one')";
    let mut story = Story::start(&["shop.t", "shop.quiet", "a"], schema, &["shop.t", "shop.quiet"]).await;
    assert_eq!(
        story.after(&["GRANT USAGE ON SCHEMA shop TO PUBLIC", "INSERT INTO shop.t VALUES (2, 2, 'x')"]).await,
        NONE
    );
    let there_and_back = [
        "ALTER SCHEMA shop RENAME TO other",
        "INSERT INTO other.t VALUES (5, 5, 'x')",
        "ALTER SCHEMA other RENAME TO shop",
        "INSERT INTO a VALUES (1, 1, 'a')",
    ];
    assert_eq!(story.after(&there_and_back).await, only("shop.t", ANOTHER));
    story.mend().await;
    let replaced = [
        "ALTER SCHEMA shop RENAME TO other; CREATE SCHEMA shop; CREATE TABLE shop.t (LIKE other.t INCLUDING ALL)",
        "INSERT INTO shop.t VALUES (6, 6, 'not its own')",
        "DROP SCHEMA shop CASCADE; ALTER SCHEMA other RENAME TO shop",
    ];
    assert_eq!(story.after(&replaced).await, only("shop.t", ANOTHER));
}

/// Its rows are the table's for every reader, and no change of them is in the stream.
#[tokio::test]
async fn a_foreign_partition_is_a_gap_of_its_table() {
    let schema = "CREATE TABLE orders (id int NOT NULL, day int NOT NULL, note text) PARTITION BY RANGE (day);
        CREATE TABLE orders_1 PARTITION OF orders FOR VALUES FROM (0) TO (10); ALTER TABLE orders_1 REPLICA IDENTITY FULL;
        CREATE TABLE a (id int, day int, note text, PRIMARY KEY (id, day));
        CREATE EXTENSION file_fdw; CREATE SERVER files FOREIGN DATA WRAPPER file_fdw; INSERT INTO orders VALUES (1, 1, 'one')";
    let mut story = Story::start(&["*"], schema, &["orders", "a"]).await;
    let foreign = [
        "CREATE FOREIGN TABLE abroad PARTITION OF orders FOR VALUES FROM (30) TO (40) SERVER files OPTIONS (program 'echo 9,31,far', format 'csv')",
        "INSERT INTO a VALUES (1, 1, 'a')",
    ];
    assert_eq!(story.after(&foreign).await, only("orders", NOT_CAPTURED));
    assert_eq!(story.after(&["INSERT INTO orders VALUES (2, 2, 'two')"]).await, NONE, "told once");
    let left_out = story.world.archiver(["snapshot"]).run().await.expect_code(1);
    let remedy = r#"ALTER TABLE "public"."orders" DETACH PARTITION "public"."abroad";"#;
    assert!(left_out.stderr.contains(remedy), "{left_out}");
    let gone = story.after(&[remedy, "INSERT INTO a VALUES (2, 2, 'a')"]).await;
    assert!(gone.is_subset(&only("orders", PARTITION)), "{gone:?}");
    story.mend().await;
}

/// A prepared transaction is in the stream when it commits, and so is what it did to tables.
#[tokio::test]
async fn what_was_prepared_before_a_poll_and_committed_after_it() {
    let mut story = Story::start(&["*"], ORDERS, &["orders", "a", "b"]).await;
    let prepare = |work: &str| format!("BEGIN; {work}; PREPARE TRANSACTION 'p'");
    for (number, (work, meanwhile, gap)) in [
        ("INSERT INTO b VALUES (7, 15, 'x'), (8, 16, 'y'); ALTER TABLE orders ATTACH PARTITION b FOR VALUES FROM (10) TO (20)", "DELETE FROM a", true),
        ("ALTER TABLE orders DETACH PARTITION b", "INSERT INTO a VALUES (3, 3, 'x')", true),
        ("INSERT INTO a VALUES (9, 9, 'x'); ALTER TABLE a RENAME day TO x; ALTER TABLE a RENAME id TO day; ALTER TABLE a RENAME x TO id;
          INSERT INTO a (id, day) VALUES (10, 11)", "INSERT INTO orders VALUES (4, 4, 'x')", true),
        ("TRUNCATE a; INSERT INTO a (id, day) VALUES (5, 5)", "INSERT INTO orders VALUES (5, 5, 'x')", false),
        ("DROP TABLE b; CREATE TABLE b (LIKE a INCLUDING ALL); INSERT INTO b (id, day) VALUES (1, 2)", "INSERT INTO orders VALUES (6, 6, 'x')", true),
    ].into_iter().enumerate() {
        // What is prepared holds its locks: nobody can compare.
        for sql in [prepare(work), meanwhile.to_owned()] {
            story.world.source.execute(&sql).await;
            story.world.carry().await;
        }
        let gaps = story.after(&["COMMIT PREPARED 'p'"]).await;
        assert_eq!(!gaps.is_empty(), gap, "{number} {gaps:?}");
        if gap {
            story.mend().await;
        }
    }
}

#[tokio::test]
async fn identities_and_keys_that_change_in_the_middle_of_a_backlog() {
    let mut story = Story::start(&["*"], ORDERS, &["orders", "a", "b"]).await;
    story
        .after(&[
            "INSERT INTO a SELECT n, n, 'x' FROM generate_series(10, 30) n",
            "INSERT INTO b SELECT n, n + 100, 'x' FROM generate_series(10, 30) n",
        ])
        .await;
    for size in [500_000, 4] {
        story.world.set_archiver("poll_max_changes", size);
        story.world.set_archiver("segment_max_changes", size.min(2));
        for (number, statements) in [
            &["UPDATE a SET note = 'y' WHERE id < 15; ALTER TABLE a REPLICA IDENTITY FULL; UPDATE a SET day = day + 1 WHERE id > 20;
               DELETE FROM a WHERE id = 25; ALTER TABLE a REPLICA IDENTITY DEFAULT; UPDATE a SET id = id + 100 WHERE id < 12"][..],
            &["DELETE FROM b WHERE id = 10", "ALTER TABLE b DROP CONSTRAINT b_pkey, ADD PRIMARY KEY (day)", "UPDATE b SET id = id + 1000",
              "DELETE FROM b WHERE day = 115", "ALTER TABLE b DROP CONSTRAINT b_pkey, ADD PRIMARY KEY (id, day)", "UPDATE b SET day = day + 1 WHERE id > 1020"],
            &["CREATE UNIQUE INDEX by_day ON b (day)", "ALTER TABLE b REPLICA IDENTITY USING INDEX by_day", "UPDATE b SET note = 'z', id = id + 1 WHERE id > 1015",
              "UPDATE b SET day = day + 500 WHERE id < 1014", "DROP INDEX by_day", "INSERT INTO b VALUES (1, 1, 'one')"],
            &["UPDATE b SET note = 'lost'", "ALTER TABLE b REPLICA IDENTITY DEFAULT"],
            // Two rows of one key for a while: the one that stays is not the one that came last.
            &["ALTER TABLE b DROP CONSTRAINT b_pkey; ALTER TABLE b REPLICA IDENTITY FULL", "INSERT INTO b SELECT id, day, 'twin' FROM b",
              "DELETE FROM b WHERE note = 'twin'", "ALTER TABLE b ADD PRIMARY KEY (id, day); ALTER TABLE b REPLICA IDENTITY DEFAULT"],
            &["UPDATE b SET note = 'found' WHERE id > 1010; DELETE FROM b WHERE id < 1012", "INSERT INTO a VALUES (77, 77, 'x') ON CONFLICT DO NOTHING"],
        ].into_iter().enumerate() {
            let gaps = story.after(statements).await;
            if number == 3 {
                assert_eq!(gaps, only("b", LOST));
                story.mend().await;
            } else {
                assert_eq!(gaps, NONE, "{size} {number} {statements:?}");
            }
            // Rows of two keys in one answer are more than the copy can tell apart; it says so.
            let state = story.state("b").await;
            assert!(number != 4 || state == "quarantined", "{size} {state}");
            if state != "live" {
                assert!([1, 4].contains(&number) && state == "quarantined", "{size} {number} {state}");
                story.mend().await;
            }
            assert_eq!(story.state("a").await, "live", "{size} {number}");
        }
        story.after(&["DELETE FROM a; DELETE FROM b", "INSERT INTO a SELECT n, n, 'x' FROM generate_series(10, 30) n; INSERT INTO b SELECT n, n + 100, 'x' FROM generate_series(10, 30) n"]).await;
    }
}

#[tokio::test]
async fn partitions_of_partitions_come_and_go() {
    let schema = format!(
        "{ORDERS}; CREATE TABLE big (LIKE orders INCLUDING ALL) PARTITION BY RANGE (day);
        CREATE TABLE big_1 PARTITION OF big FOR VALUES FROM (0) TO (1000)"
    );
    let mut story = Story::start(&["*"], &schema, &["orders", "big", "a"]).await;
    let mid = "CREATE TABLE mid (LIKE orders INCLUDING ALL) PARTITION BY RANGE (id);
        CREATE TABLE leaf PARTITION OF mid FOR VALUES FROM (0) TO (100); CREATE TABLE leaf_2 (LIKE orders INCLUDING ALL)";
    let attach = "ALTER TABLE orders ATTACH PARTITION mid FOR VALUES FROM (20) TO (30)";
    let attach_2 = "ALTER TABLE mid ATTACH PARTITION leaf_2 FOR VALUES FROM (100) TO (200)";
    // Empty, with its leaf, in one transaction with rows.
    let one = format!(
        "BEGIN; {mid}; {attach}; {attach_2}; INSERT INTO orders VALUES (3, 21, 'x'), (150, 22, 'y'); COMMIT"
    );
    let gaps = story.after(&[&one, "UPDATE orders SET note = 'z' WHERE day = 22"]).await;
    assert_eq!(gaps, NONE);
    let moved = [
        "BEGIN; ALTER TABLE orders DETACH PARTITION mid; ALTER TABLE a RENAME TO a_old; ALTER TABLE a_old RENAME TO a; COMMIT",
        "DELETE FROM mid WHERE id = 3",
        attach,
    ];
    assert_eq!(story.after(&moved).await, only("orders", PARTITION));
    story.mend().await;
    let between = [
        "BEGIN; ALTER TABLE big DETACH PARTITION big_1; ALTER TABLE mid DETACH PARTITION leaf_2;
        ALTER TABLE big ATTACH PARTITION leaf_2 FOR VALUES FROM (0) TO (1000); COMMIT",
        "INSERT INTO big VALUES (500, 500, 'x')",
    ];
    let gaps = story.after(&between).await;
    assert!(
        gaps.contains(&format!("orders: {PARTITION}")) && gaps.contains(&format!("big: {PARTITION}")),
        "{gaps:?}"
    );
    story.mend().await;
    let concurrently = [
        "ALTER TABLE orders DETACH PARTITION orders_1 CONCURRENTLY",
        "INSERT INTO orders_1 VALUES (3, 3, 'its own')",
    ];
    let gaps = story.after(&concurrently).await;
    assert!(gaps.contains(&format!("orders: {PARTITION}")), "{gaps:?}");
    story.mend().await;
    let whole = ["DROP TABLE mid", "INSERT INTO a VALUES (9, 9, 'x')"];
    assert_eq!(story.after(&whole).await, only("orders", PARTITION));
    story.mend().await;
}

#[tokio::test]
async fn new_tables_are_exact_however_they_are_made() {
    let mut story = Story::start(&["*"], ORDERS, &["a", "c1", "c2", "c3"]).await;
    let made = [
        "CREATE TABLE c1 AS SELECT n AS id, n AS day, 'ctas' AS note FROM generate_series(1, 500) n",
        "SELECT n AS id, n AS day, 'into'::text AS note INTO c2 FROM generate_series(1, 500) n",
        "BEGIN; CREATE TABLE c3 (LIKE a INCLUDING ALL); SAVEPOINT s; INSERT INTO c3 VALUES (1, 1, 'x'); DROP TABLE b; CREATE TABLE b (LIKE a);
         INSERT INTO b VALUES (9, 9, 'undone'); ROLLBACK TO s; INSERT INTO c3 VALUES (2, 2, 'y'); COMMIT",
        "CREATE TEMP TABLE a (id int, day int, note text)",
        "ALTER TABLE c1 REPLICA IDENTITY FULL; UPDATE c1 SET note = 'z' WHERE id < 5; ALTER TABLE c2 REPLICA IDENTITY FULL; DELETE FROM c2 WHERE id < 5",
    ];
    let gaps = story.after(&made).await;
    assert_eq!(gaps, NONE);
    let temp = "CREATE TEMP TABLE a (id int, day int, note text, PRIMARY KEY (id, day)); INSERT INTO a VALUES (99, 99, 'temp'); DELETE FROM public.a WHERE id = 1";
    assert_eq!(story.after(&[temp, "INSERT INTO b VALUES (99, 1, 'x')"]).await, NONE);
    assert_eq!(story.state("a").await, "live");
}

/// Rows that were written anew before the first poll, or before the one that first captured the table.
#[tokio::test]
async fn a_table_that_was_written_anew_in_its_first_stretch_is_not_said_to_have_been_empty() {
    let tables: Vec<toml::Value> = vec!["u".into(), "v".into(), "s".into()];
    let mut world = WorldOptions::default().without_sftp().archiver_setting("tables", tables).start().await;
    let shape = "(id int PRIMARY KEY, day int, note text)";
    for name in ["u", "v", "s", "late"] {
        world.execute_on_both(&format!("CREATE TABLE {name} {shape}")).await;
    }
    world.source.execute(scene::SLOT).await;
    let upper = |t: &str| format!("ALTER TABLE {t} ALTER note TYPE text USING upper(note)");
    let fill = |t: &str| format!("INSERT INTO {t} VALUES (1, 2, 'one'), (3, 4, 'two')");
    world.source.execute(&fill("u")).await;
    world.source.execute(&upper("u")).await;
    world.source.execute(&fill("v")).await;
    world
        .source
        .execute(
            "ALTER TABLE s RENAME day TO x; ALTER TABLE s RENAME id TO day; ALTER TABLE s RENAME x TO id",
        )
        .await;
    world.source.execute("INSERT INTO s (id, day, note) VALUES (1, 2, 'x')").await;
    world
        .source
        .execute(
            "ALTER TABLE s RENAME day TO x; ALTER TABLE s RENAME id TO day; ALTER TABLE s RENAME x TO id",
        )
        .await;
    world.archiver(["run", "--once"]).run().await;
    world.source.execute(&fill("late")).await;
    world.source.execute(&upper("late")).await;
    world.set_archiver("tables", ["u", "v", "s", "late"].map(toml::Value::from).to_vec());
    world.archiver(["run", "--once"]).run().await;
    world.applier(["add-tables", "u", "v", "s", "late"]).run().await;
    world.applier(["sync"]).run().await;
    let mut wrong = String::new();
    for table in ["u", "v", "s", "late"] {
        let state = world
            .target
            .value(&format!("SELECT state FROM data_sync_table_state WHERE table_name = '{table}'"))
            .await;
        if state == "live" {
            wrong.extend(world.difference(table).await);
        }
    }
    assert_eq!(wrong, "");
    let state = world.target.value("SELECT state FROM data_sync_table_state WHERE table_name = 'v'").await;
    assert_eq!(state, "live", "of this one it is known");
}
