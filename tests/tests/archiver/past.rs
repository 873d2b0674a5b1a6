//! What manifests say of the past: columns before they were there, tables before they were captured, rows that DDL
//! wrote anew.

use serde_json::{Value, json};
use syncdata_tests::world::{World, WorldOptions};

use crate::reader;
use crate::scene::{self, gaps, poll};

/// The newest that the archive says of the time since when tables are captured: `table` → whether it was empty.
fn since(world: &World) -> Vec<(String, bool)> {
    let segments = reader::segments(world.archive_dir());
    let said =
        segments.iter().rev().map(|segment| &segment.manifest["capture_since"]).find(|s| s.is_object());
    let said = said.and_then(Value::as_object).into_iter().flatten();
    said.map(|(table, since)| (table.clone(), since["empty"].as_bool().expect("said"))).collect()
}

#[tokio::test]
async fn columns_are_described_with_what_old_rows_have_in_them() {
    let world = scene::world(
        "CREATE SCHEMA sales; CREATE TYPE sales.mood AS ENUM ('sad', 'fine'); ALTER TYPE sales.mood ADD VALUE 'so-so' BEFORE 'fine';
        CREATE DOMAIN sales.moods AS sales.mood[];
        CREATE TABLE notes (id int PRIMARY KEY, gone text); INSERT INTO notes VALUES (1);
        ALTER TABLE notes DROP gone, ADD b box DEFAULT '(1,1),(0,0)', ADD m sales.mood DEFAULT 'fine', ADD n numeric(5,2) DEFAULT 1.5,
          ADD t timestamptz DEFAULT '2026-02-05 10:00:00+02', ADD a text[] DEFAULT '{x,\"y z\"}', ADD e text DEFAULT '',
          ADD plain int, ADD late timestamptz, ADD ms sales.moods, ADD v varchar(5) DEFAULT 'ab', ADD f float8 DEFAULT 0.1;
        ALTER TABLE notes ALTER late SET DEFAULT now(), ALTER plain SET DEFAULT -7;
        ALTER ROLE syncdata_user SET datestyle = 'German, DMY'",
    )
    .await;
    world.source.execute("INSERT INTO notes (id) VALUES (2)").await;
    let segments = poll(&world).await;
    let relation = segments[0].manifest["relations"]["notes"].clone();
    let fact = |fact: &str| -> Vec<Value> {
        let columns = relation["columns"].as_array().expect("columns");
        columns.iter().map(|column| column.get(fact).cloned().unwrap_or(Value::Null)).collect()
    };
    let null = Value::Null;
    assert_eq!(fact("attnum"), [1, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13].map(Value::from));
    let missing = json!([
        null,
        "(1,1),(0,0)",
        "fine",
        "1.50",
        "2026-02-05 08:00:00+00",
        "{x,\"y z\"}",
        "",
        null,
        null,
        null,
        "ab",
        "0.1"
    ]);
    assert_eq!(Value::from(fact("missing")), missing);
    let defaults = fact("default");
    assert_eq!(defaults[2], "'fine'::sales.mood");
    assert_eq!((&defaults[0], &defaults[8], &defaults[9]), (&null, &null, &null), "none, or no constant");
    assert_eq!((&defaults[7], &defaults[6]), (&json!("'-7'::integer"), &json!("''::text")));
    assert_eq!(relation["types"], json!({"sales.mood": ["sad", "so-so", "fine"]}));
    assert_eq!(relation["fingerprint_version"], 2);

    // The catalog forgets it when the table is written anew; the archive does not.
    world.source.execute("VACUUM FULL notes").await;
    world.source.execute("INSERT INTO notes (id) VALUES (3)").await;
    let segments = poll(&world).await;
    let again = &segments[1].manifest["relations"]["notes"];
    // Its key is one that was seen before.
    assert_eq!(relation["key_kept"], Value::Null);
    let mut expected = relation.clone();
    expected["key_kept"] = true.into();
    assert_eq!(again, &expected);
    assert!(gaps(&segments).is_empty(), "rows are as they were");

    world.archiver(["snapshot"]).succeed().await;
    let snapshots: Vec<_> =
        std::fs::read_dir(world.archive_dir().join("snapshots")).expect("there").collect();
    let folder = snapshots[0].as_ref().expect("it can be listed").path();
    let snapshot = reader::json(&folder.join("snapshot.manifest.json"));
    assert_eq!(snapshot["tables"]["notes"]["relation"]["types"], relation["types"]);
    assert_eq!(snapshot["tables"]["notes"]["relation"]["columns"][1]["attnum"], 3);
}

#[tokio::test]
async fn a_partitioned_table_says_what_its_partitions_have_in_old_rows() {
    let world = scene::world(
        "CREATE TABLE orders (id int PRIMARY KEY) PARTITION BY RANGE (id);
        CREATE TABLE orders_1 PARTITION OF orders FOR VALUES FROM (0) TO (10); INSERT INTO orders VALUES (1);
        ALTER TABLE orders ADD more text DEFAULT 'old';
        CREATE TABLE orders_2 PARTITION OF orders FOR VALUES FROM (10) TO (20)",
    )
    .await;
    world.source.execute("INSERT INTO orders VALUES (11)").await;
    let segments = poll(&world).await;
    assert_eq!(segments[0].manifest["relations"]["orders"]["columns"][1]["missing"], "old");

    // One that comes with another value, and without a row, in the same interval as the column: no row of it is older.
    world
        .source
        .execute(
            "CREATE TABLE orders_3 (id int PRIMARY KEY, more text); ALTER TABLE orders ADD last text DEFAULT 'x';
            ALTER TABLE orders_3 ADD last text DEFAULT 'y';
            ALTER TABLE orders ATTACH PARTITION orders_3 FOR VALUES FROM (20) TO (30); INSERT INTO orders VALUES (12)",
        )
        .await;
    let segments = poll(&world).await;
    let columns = &segments[1].manifest["relations"]["orders"]["columns"];
    assert_eq!((&columns[2]["name"], &columns[2]["missing"]), (&"last".into(), &"x".into()));
}

/// Writes until the newest record ends with its page. The first thing on the next one will be a header, for which nobody
/// waits.
pub(crate) const FILL_PAGE: &str = "DO $$ DECLARE here int; BEGIN LOOP
    here := mod(pg_current_wal_insert_lsn() - '0/0', 8192);
    EXIT WHEN here = 24;
    PERFORM pg_logical_emit_message(false, 'p', repeat('x', CASE WHEN here < 7800 THEN 8192 - here - 55 ELSE 400 END));
    END LOOP; END $$";

#[tokio::test]
async fn a_record_that_ends_with_its_page_is_all_there_is() {
    let world = scene::world("CREATE TABLE users (id int PRIMARY KEY)").await;
    world.source.execute("INSERT INTO users VALUES (1)").await;
    world.source.execute(FILL_PAGE).await;
    poll(&world).await;
    assert_eq!(since(&world), [("users".to_owned(), true)]);
    world.source.execute(FILL_PAGE).await;
    world.archiver(["snapshot"]).succeed().await;
}

#[tokio::test]
async fn the_first_manifest_says_which_tables_were_empty() {
    let world = scene::world(
        "CREATE TABLE filled (id int PRIMARY KEY); INSERT INTO filled VALUES (1), (2);
        CREATE TABLE silent (id int PRIMARY KEY); CREATE TABLE busy (id int PRIMARY KEY, n int);
        CREATE TABLE replaced (id int PRIMARY KEY); INSERT INTO replaced VALUES (1);
        CREATE TABLE updated (id int PRIMARY KEY, n int); INSERT INTO updated VALUES (1, 1);
        CREATE TABLE cleared (id int PRIMARY KEY); INSERT INTO cleared VALUES (1);
        CREATE TABLE hidden (id int PRIMARY KEY); REVOKE ALL ON hidden FROM PUBLIC",
    )
    .await;
    world
        .source
        .execute(
            "INSERT INTO filled VALUES (3); INSERT INTO busy SELECT i, i FROM generate_series(1, 100) i;
            UPDATE busy SET n = 0; DELETE FROM busy WHERE id > 50; CREATE TABLE later (id int PRIMARY KEY);
            DELETE FROM replaced; INSERT INTO replaced VALUES (1); UPDATE updated SET n = 2; TRUNCATE cleared;
            INSERT INTO cleared VALUES (5); INSERT INTO later VALUES (1)",
        )
        .await;
    let segments = poll(&world).await;
    let expected = [
        ("busy", true),
        ("cleared", false),
        ("filled", false),
        ("hidden", true),
        ("later", true),
        ("replaced", false),
        ("silent", true),
        ("updated", false),
    ];
    assert_eq!(since(&world), expected.map(|(table, empty)| (table.to_owned(), empty)));
    let first = &segments[0].manifest;
    assert_eq!(first["capture_since"]["busy"]["lsn"], first["start_lsn"]);

    // Said once; again when a table comes that was made since.
    world.source.execute("INSERT INTO filled VALUES (4)").await;
    assert_eq!(poll(&world).await[1].manifest.get("capture_since"), None);
    world.source.execute("CREATE TABLE newest (id int PRIMARY KEY); INSERT INTO newest VALUES (1); INSERT INTO filled VALUES (5)").await;
    let segments = poll(&world).await;
    let said = &segments[2].manifest["capture_since"];
    assert_eq!(said["newest"]["empty"], true);
    assert_eq!(said["filled"], first["capture_since"]["filled"]);

    // head.json names them, the newest first.
    let head = reader::json(&world.archive_dir().join("head.json"));
    let recent: Vec<u64> = head["recent"]
        .as_array()
        .expect("a list")
        .iter()
        .map(|one| one["seq"].as_u64().expect("a number"))
        .collect();
    assert_eq!(recent, [3, 2, 1]);
    assert_eq!(head["recent"][0]["manifest"], head["manifest"]);
}

#[tokio::test]
async fn a_row_that_waits_for_its_commit_to_be_seen_is_no_proof_of_emptiness() {
    let world = scene::world("CREATE TABLE t (id int PRIMARY KEY); INSERT INTO t VALUES (1)").await;
    let client = world.source.connect().await;
    client.batch_execute("BEGIN; DELETE FROM t; INSERT INTO t VALUES (2)").await.expect("runs");
    world.source.execute("CREATE TABLE other (id int PRIMARY KEY); INSERT INTO other VALUES (1)").await;
    poll(&world).await;
    assert!(since(&world).contains(&("t".into(), false)));
    client.batch_execute("COMMIT").await.expect("runs");
    world.source.execute("INSERT INTO t VALUES (3)").await;
    poll(&world).await;
    assert!(since(&world).contains(&("t".into(), false)), "what is not proved at first is not proved later");
}

/// Killed after it was counted and before it is published, or where that fails, it is read and counted again: twice as many
/// as came are just as many as there are.
#[tokio::test]
async fn rows_that_are_read_twice_are_no_proof_of_emptiness() {
    for fault in ["spool.before_manifest=kill", "spool.before_manifest=error"] {
        let options = WorldOptions::default().without_sftp().archiver_setting("poll_max_changes", 1000);
        let schema = "CREATE TABLE t (id int PRIMARY KEY); CREATE TABLE u (id int PRIMARY KEY);
            INSERT INTO t SELECT generate_series(1, 1000)";
        let world = scene::world_with(options, schema).await;
        world.source.execute("INSERT INTO t SELECT id + 1000 FROM t").await;
        world.source.execute("INSERT INTO u SELECT generate_series(1, 1000)").await;
        world.source.execute("INSERT INTO u VALUES (0)").await;
        world.archiver(["run", "--once"]).fault(fault).run().await;
        poll(&world).await;
        assert_eq!(since(&world)[0], ("t".to_owned(), false), "{fault}");
    }
}

/// All that is in the stream was read before the rows are counted, and what happens in between is not in it yet.
#[tokio::test]
async fn what_happens_while_rows_are_counted_is_no_proof_of_emptiness() {
    let world = scene::world(
        "CREATE TABLE gone (id int PRIMARY KEY, note text); CREATE TABLE emptied (LIKE gone INCLUDING ALL);
        CREATE TABLE parts (LIKE gone INCLUDING ALL) PARTITION BY RANGE (id);
        CREATE TABLE parts_1 PARTITION OF parts FOR VALUES FROM (0) TO (10);
        INSERT INTO gone VALUES (1, 'before'); INSERT INTO emptied VALUES (1, 'before'); INSERT INTO parts VALUES (1, 'before')",
    )
    .await;
    let tables = ["gone", "emptied", "parts"];
    for table in tables {
        world.target.execute(&format!("CREATE TABLE {table} (id int PRIMARY KEY, note text)")).await;
    }
    world.source.execute("INSERT INTO gone VALUES (2, 'after')").await;
    let client = world.source.connect().await;
    let meanwhile = "BEGIN; LOCK TABLE gone, emptied, parts; DELETE FROM gone WHERE id = 2;
        TRUNCATE emptied; ALTER TABLE parts DETACH PARTITION parts_1";
    client.batch_execute(meanwhile).await.expect("runs");
    let run = world.archiver(["run", "--once"]).spawn();
    // It waits for the lock of the first that it counts, for a second at most.
    let waits = "SELECT count(*) FROM pg_locks WHERE NOT granted";
    while world.source.value(waits).await == "0" {}
    client.batch_execute("COMMIT").await.expect("runs");
    run.ended().await.expect_code(0);
    let says: Vec<(String, bool)> = since(&world);
    assert_eq!(says, [("emptied".into(), false), ("gone".into(), false), ("parts".into(), false)]);
    world.archiver(["run", "--once"]).run().await;
    world.applier(["add-tables"].iter().chain(&tables)).run().await;
    world.applier(["sync"]).run().await;
    let live = "SELECT count(*) FROM data_sync_table_state WHERE state = 'live'";
    assert_eq!(world.target.value(live).await, "0", "no copy of them was taken");
}

/// Of a production that never rests, what is seen beyond the end of the stream is counted too.
#[tokio::test]
async fn tables_that_are_written_to_while_they_are_counted_are_known_to_have_been_empty() {
    let world = scene::world(
        "CREATE TABLE busy (id bigserial PRIMARY KEY); CREATE TABLE silent (id int PRIMARY KEY)",
    )
    .await;
    let client = world.source.connect().await;
    let writing = "DO $$ BEGIN LOOP
        INSERT INTO busy DEFAULT VALUES; DELETE FROM busy WHERE id % 3 = 0; COMMIT; END LOOP; END $$";
    let cancel = client.cancel_token();
    let writer = tokio::spawn(async move { client.batch_execute(writing).await });
    while world.source.value("SELECT count(*) FROM busy").await == "0" {}
    poll(&world).await;
    cancel.cancel_query(tokio_postgres::NoTls).await.expect("it is there");
    writer.await.expect("no panic").expect_err("cancelled");
    assert_eq!(since(&world), [("busy".to_owned(), true), ("silent".to_owned(), true)]);
}

#[tokio::test]
async fn a_table_that_leaves_the_capture_and_returns_begins_anew() {
    let mut world =
        scene::world("CREATE TABLE a (id int PRIMARY KEY); CREATE TABLE b (id int PRIMARY KEY)").await;
    world.set_archiver("tables", vec!["a", "b"]);
    world.source.execute("INSERT INTO a VALUES (1); INSERT INTO b VALUES (1)").await;
    poll(&world).await;
    assert_eq!(since(&world), [("a".into(), true), ("b".into(), true)]);
    world.set_archiver("tables", vec!["b"]);
    world.source.execute("INSERT INTO a VALUES (2); INSERT INTO b VALUES (2)").await;
    poll(&world).await;
    assert_eq!(since(&world), [("b".into(), true)]);
    world.set_archiver("tables", vec!["a", "b"]);
    world.source.execute("INSERT INTO a VALUES (3); INSERT INTO b VALUES (3)").await;
    world.archiver(["run", "--once"]).run().await.expect_code(1);
    let segments = reader::segments(world.archive_dir());
    assert_eq!(gaps(&segments), [r#"["a"]"#]);
    assert_eq!(segments[2].manifest["gaps"][0]["reason"], "not captured meanwhile");
    assert_eq!(since(&world), [("a".into(), false), ("b".into(), true)]);
    let last = &segments[2].manifest;
    assert_eq!(last["capture_since"]["a"]["lsn"], last["start_lsn"]);

    // A spool that is made anew knows it from the chain.
    std::fs::rename(world.spool_dir(), world.folder().join("lost")).expect("ours");
    world.source.execute("INSERT INTO a VALUES (4)").await;
    let segments = poll(&world).await;
    assert_eq!(segments[3].manifest.get("capture_since"), None, "nothing has changed");
}

#[tokio::test]
async fn rows_that_alter_table_wrote_anew_are_a_gap_of_that_table() {
    let world = scene::world(
        "CREATE TABLE t (id int PRIMARY KEY, n int, s varchar(10), at timestamp, long text); INSERT INTO t VALUES (1, 1, 'x', '2026-01-01');
        CREATE TABLE other (id int PRIMARY KEY);
        CREATE TABLE parts (id int PRIMARY KEY, n int) PARTITION BY RANGE (id);
        CREATE TABLE parts_1 PARTITION OF parts FOR VALUES FROM (0) TO (100); INSERT INTO parts VALUES (1, 1)",
    )
    .await;
    poll(&world).await;
    let mut told = 0;
    for (ddl, table) in [
        ("VACUUM FULL t", None),
        ("CLUSTER t USING t_pkey", None),
        ("ALTER TABLE t ADD constant int DEFAULT 5", None),
        ("ALTER TABLE t ADD empty text", None),
        ("ALTER TABLE t RENAME n TO m", None),
        ("ALTER TABLE t DROP constant", None),
        ("ALTER TABLE t ALTER m TYPE bigint", None),
        ("ALTER TABLE t ALTER s TYPE varchar(20)", None),
        ("ALTER TABLE t ALTER s TYPE text", None),
        ("ALTER TABLE t ALTER empty SET DEFAULT random()::text", None),
        ("TRUNCATE other", None),
        ("ALTER TABLE t ALTER m TYPE numeric(20,2)", Some("t")),
        ("ALTER TABLE t ADD volatile text DEFAULT random()::text", Some("t")),
        ("ALTER TABLE t ADD made int GENERATED ALWAYS AS (id * 2) STORED", Some("t")),
        ("ALTER TABLE t DROP empty; ALTER TABLE t ADD empty text", Some("t")),
        // In a session whose zone is UTC nothing is written anew, and every value prints another text.
        ("SET timezone = 'UTC'; ALTER TABLE t ALTER at TYPE timestamptz; RESET timezone", Some("t")),
        ("ALTER TABLE parts ALTER n TYPE text", None),
        ("ALTER TABLE parts ADD volatile float DEFAULT random()", Some("parts")),
    ] {
        world.source.execute(ddl).await;
        world.source.execute("INSERT INTO other SELECT coalesce(max(id), 0) + 1 FROM other").await;
        let done = world.archiver(["run", "--once"]).run().await;
        let segments = reader::segments(world.archive_dir());
        let mut found = gaps(&segments).split_off(told);
        told += found.len();
        // The server writes WAL of its own, every 15 s what transactions run: where that follows the last commit of an
        // answer, a gap of the whole answer stands in two segments.
        found.dedup();
        let expected: Vec<String> = table.into_iter().map(|table| format!("[\"{table}\"]")).collect();
        assert_eq!(found, expected, "{ddl}");
        assert_eq!(done.code(), Some(i32::from(table.is_some())), "{ddl}: {}", done.stderr);
        if table.is_some() {
            let reason = &segments.last().expect("a segment").manifest["gaps"][0]["reason"];
            assert_eq!(reason, "rewritten by ALTER TABLE", "{ddl}");
        }
    }
    // Said once, also when nothing else happens.
    world.source.execute("ALTER TABLE t ALTER m TYPE numeric(20,3)").await;
    world.archiver(["run", "--once"]).run().await.expect_code(1);
    world.archiver(["run", "--once"]).run().await;
    let mut found = gaps(&reader::segments(world.archive_dir())).split_off(told);
    found.dedup();
    assert_eq!(found, [r#"["t"]"#]);
}
