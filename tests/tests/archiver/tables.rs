//! Tables: which are captured, under which name, and what their keys, partitions and identities mean.

use syncdata_tests::world::{World, WorldOptions};
use toml::Value;

use crate::operator;
use crate::reader;
use crate::scene::{self, gaps, news, poll, shapes, world};

fn listing(tables: &[&str]) -> WorldOptions {
    let tables: Vec<Value> = tables.iter().map(|&table| table.into()).collect();
    WorldOptions::default().archiver_setting("tables", tables)
}

/// A poll that finds a gap: the tables of all gaps so far.
async fn poll_with_gap(world: &World) -> Vec<String> {
    world.archiver(["run", "--once"]).run().await.expect_code(1);
    gaps(&reader::segments(world.archive_dir()))
}

// 3 kB that do not compress.
const LONG: &str = "(SELECT string_agg(md5(n::text), '') FROM generate_series(1, 100) n)";

#[tokio::test]
async fn an_unchanged_toasted_value_is_absent_and_never_null() {
    let world = world(
        "CREATE TABLE plain (id int PRIMARY KEY, n int, long text);
        CREATE TABLE whole (id int PRIMARY KEY, n int, long text); ALTER TABLE whole REPLICA IDENTITY FULL;
        ALTER TABLE plain ALTER long SET STORAGE EXTERNAL; ALTER TABLE whole ALTER long SET STORAGE EXTERNAL",
    )
    .await;
    for table in ["plain", "whole"] {
        world.source.execute(&format!("INSERT INTO {table} VALUES (1, 1, {LONG}), (2, 2, NULL)")).await;
    }
    news(&world).await;
    let long = world.source.value(&format!("SELECT {LONG}")).await;
    for table in ["plain", "whole"] {
        world.source.execute(&format!("UPDATE {table} SET n = n + 10")).await;
    }
    assert_eq!(
        news(&world).await,
        [
            r#"plain UPDATE {"id":1,"n":11} old {"id":1}"#,
            r#"plain UPDATE {"id":2,"n":12,"long":null} old {"id":2}"#,
            "COMMIT 2",
            &format!(r#"whole UPDATE {{"id":1,"n":11}} old {{"id":1,"n":1,"long":"{long}"}}"#),
            r#"whole UPDATE {"id":2,"n":12,"long":null} old {"id":2,"n":2,"long":null}"#,
            "COMMIT 2",
        ]
    );
    world.source.execute("UPDATE plain SET long = NULL WHERE id = 1").await;
    assert_eq!(news(&world).await[0], r#"plain UPDATE {"id":1,"n":11,"long":null} old {"id":1}"#);
}

#[tokio::test]
async fn a_key_that_is_stored_out_of_line_stands_in_old_keys() {
    let world = world(
        "CREATE TABLE t (k text, n int); ALTER TABLE t ALTER k SET STORAGE EXTERNAL;
        ALTER TABLE t ADD PRIMARY KEY (k)",
    )
    .await;
    // Longer than a page holds four of, shorter than an index entry may be.
    let key = "(SELECT string_agg(md5(n::text), '') FROM generate_series(1, 80) n)";
    world.source.execute(&format!("INSERT INTO t VALUES ({key}, 1)")).await;
    news(&world).await;
    world.source.execute("UPDATE t SET n = 2").await;
    let long = world.source.value(&format!("SELECT {key}")).await;
    assert_eq!(news(&world).await[0], format!(r#"t UPDATE {{"n":2}} old {{"k":"{long}"}}"#));
}

#[tokio::test]
async fn old_keys_are_the_identity_before_the_change() {
    let world = world(
        "CREATE TABLE d (id int PRIMARY KEY, v text);
        CREATE TABLE i (id int PRIMARY KEY, u text NOT NULL UNIQUE); ALTER TABLE i REPLICA IDENTITY USING INDEX i_u_key;
        CREATE TABLE f (id int, v text); ALTER TABLE f REPLICA IDENTITY FULL",
    )
    .await;
    world
        .source
        .execute(
            "INSERT INTO d VALUES (1, 'a'); INSERT INTO i VALUES (1, 'a'); INSERT INTO f VALUES (1, NULL)",
        )
        .await;
    news(&world).await;
    world.source.execute("BEGIN; UPDATE d SET id = 2; UPDATE d SET id = 3; DELETE FROM d; UPDATE i SET id = 2, u = 'b'; UPDATE i SET id = 3; DELETE FROM i; UPDATE f SET id = 2; DELETE FROM f; COMMIT").await;
    assert_eq!(
        news(&world).await,
        [
            r#"d UPDATE {"id":2,"v":"a"} old {"id":1}"#,
            r#"d UPDATE {"id":3,"v":"a"} old {"id":2}"#,
            r#"d DELETE old {"id":3}"#,
            r#"i UPDATE {"id":2,"u":"b"} old {"u":"a"}"#,
            r#"i UPDATE {"id":3,"u":"b"} old {"u":"b"}"#,
            r#"i DELETE old {"u":"b"}"#,
            r#"f UPDATE {"id":2,"v":null} old {"id":1,"v":null}"#,
            r#"f DELETE old {"id":2,"v":null}"#,
            "COMMIT 8",
        ]
    );
    let segments = reader::segments(world.archive_dir());
    let relations = &segments[1].manifest["relations"];
    let identity = |table: &str| relations[table]["replica_identity"].as_str().expect("a word").to_owned();
    assert_eq!([identity("d"), identity("i"), identity("f")], ["default", "index", "full"]);
    assert_eq!(relations["i"]["key"], serde_json::json!(["id"]));
    assert_eq!(relations["f"]["key"], serde_json::json!([]));
}

#[tokio::test]
async fn generated_and_identity_columns_are_described_and_virtual_ones_do_not_travel() {
    let has_virtual = syncdata_tests::Installation::chosen().major() >= 18;
    let virtual_column =
        if has_virtual { ", \"vir\"\"tual\" int GENERATED ALWAYS AS (n + 1) VIRTUAL" } else { "" };
    let world = world(&format!(
        "CREATE TABLE g (id int GENERATED ALWAYS AS IDENTITY PRIMARY KEY, n int, s int GENERATED ALWAYS AS (n * 2) STORED{virtual_column});
        CREATE TABLE h (id int GENERATED BY DEFAULT AS IDENTITY, n int{virtual_column}); ALTER TABLE h REPLICA IDENTITY FULL"
    ))
    .await;
    world.source.execute("BEGIN; INSERT INTO g (n) VALUES (4); UPDATE g SET n = 5; INSERT INTO h (n) VALUES (1); DELETE FROM h; COMMIT").await;
    let segments = poll(&world).await;
    assert_eq!(
        shapes(&segments),
        [
            r#"g INSERT {"id":1,"n":4,"s":8}"#,
            r#"g UPDATE {"id":1,"n":5,"s":10} old {"id":1}"#,
            r#"h INSERT {"id":1,"n":1}"#,
            r#"h DELETE old {"id":1,"n":1}"#,
            "COMMIT 4",
        ]
    );
    let columns =
        |table: &str| segments[0].manifest["relations"][table]["columns"].as_array().expect("a list").clone();
    let g = columns("g");
    assert_eq!(
        g[0],
        serde_json::json!({"name":"id","attnum":1,"type":"integer","not_null":true,"identity":"always"})
    );
    assert_eq!(
        g[2],
        serde_json::json!({"name":"s","attnum":3,"type":"integer","not_null":false,"generated":"stored"})
    );
    assert_eq!(columns("h")[0]["identity"], "by default");
    let named = g.get(3).map(|column| (column["name"].clone(), column["generated"].clone()));
    assert_eq!(named, has_virtual.then(|| ("vir\"tual".into(), "virtual".into())));
}

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
    let options = WorldOptions::default().archiver_setting("poll_max_changes", 8);
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
    let options = WorldOptions::default().archiver_setting("poll_max_changes", 8);
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
    let mut world = scene::world(
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
    let mut world = scene::world(KEYLESS).await;
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

const KEYLESS: &str = "CREATE TABLE sound (id serial PRIMARY KEY); CREATE TABLE keyless (n int);
    INSERT INTO keyless SELECT generate_series(1, 5)";

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

const HOSTILE: &[(&str, &str)] = &[
    ("public", "a.b"),
    ("public", "Ü x"),
    ("public", "q'q\"q"),
    ("public", "sixty-three bytes: aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"),
    ("public", "*"),
    ("public", "select"),
    ("public", "back\\slash"),
    ("public", "comma, (paren) $1 %s"),
    ("public", "x\"; DROP TABLE y; --"),
    ("public", "tab\tline\nend"),
    ("public", " lead and trail "),
    ("S.che\"ma, *", "../../etc/passwd"),
    ("S.che\"ma, *", "plain"),
];

fn quoted(schema: &str, name: &str) -> String {
    let escape = postgres_protocol::escape::escape_identifier;
    format!("{}.{}", escape(schema), escape(name))
}

#[tokio::test]
async fn hostile_names_are_captured_as_they_are() {
    let mut schema = "CREATE SCHEMA \"S.che\"\"ma, *\"; CREATE TABLE y (id int PRIMARY KEY);".to_owned();
    for (namespace, name) in HOSTILE {
        schema.push_str(&format!(
            "CREATE TABLE {} (id int PRIMARY KEY, \"c\"\"; DROP TABLE y; -- \\\" text);",
            quoted(namespace, name)
        ));
    }
    let listed: Vec<String> = HOSTILE.iter().map(|(schema, name)| quoted(schema, name)).collect();
    let listed: Vec<&str> = listed.iter().map(String::as_str).collect();
    let by_name = listing(&listed);
    let by_pattern = listing(&["public.*", "\"S.che\"\"ma, *\".*"]);
    for (options, y) in [(by_name, 0), (by_pattern, 1), (WorldOptions::default(), 1)] {
        let world = scene::world_with(options, &schema).await;
        world.source.execute("INSERT INTO y VALUES (1)").await;
        for (namespace, name) in HOSTILE {
            world
                .source
                .execute(&format!(
                    "INSERT INTO {} VALUES (1, 'v'); UPDATE {0} SET id = 2",
                    quoted(namespace, name)
                ))
                .await;
        }
        let segments = poll(&world).await;
        let tables = segments[0].manifest["tables"].as_object().expect("an object").clone();
        assert_eq!(tables.len(), HOSTILE.len() + y, "{tables:?}");
        for (namespace, name) in HOSTILE {
            let table =
                syncdata_formats::name::TableName::new(*namespace, *name).expect("a name").to_string();
            assert_eq!(tables[&table]["update"], 1, "{table}");
            assert_eq!(
                segments[0].manifest["relations"][&table]["columns"][1]["name"],
                "c\"; DROP TABLE y; -- \\"
            );
        }
        world.archiver(["check"]).run().await.expect_code(0);
    }
}

#[tokio::test]
async fn names_that_match_nothing_are_refused_by_name() {
    let mut world = world("CREATE SCHEMA empty; CREATE TABLE users (id int PRIMARY KEY)").await;
    for (tables, says) in [
        (vec!["usr"], "usr"),
        (vec!["users", "Users"], ""),
        (vec!["users", "\"Users\""], "\"Users\""),
        (vec!["missing.*"], "missing"),
        (vec![], "No tables in whitelist"),
        (vec!["*"], ""),
        (vec!["\"*\""], "\"*\""),
        (vec!["empty.*"], ""),
    ] {
        let setting: Vec<Value> = tables.iter().map(|&table| table.into()).collect();
        world.set_archiver("tables", setting);
        world.source.execute("INSERT INTO users SELECT count(*) FROM users").await;
        let ran = world.archiver(["run", "--once"]).run().await;
        let ran = ran.expect_code(if says.is_empty() { 0 } else { 2 });
        assert!(ran.stderr.contains(says), "{tables:?}: {ran}");
        world.archiver(["check"]).run().await.expect_code(if says.is_empty() { 0 } else { 1 });
    }
    // It was not captured meanwhile.
    let returned = world.archiver(["run", "--once", "--tables", "users"]).run().await.expect_code(1);
    assert!(returned.stderr.contains("not captured meanwhile"), "{returned}");
}

#[tokio::test]
async fn tables_come_and_go_under_a_pattern() {
    let mut world = scene::world_with(listing(&["sales.*"]), "CREATE SCHEMA sales").await;
    poll(&world).await;
    world
        .source
        .execute("CREATE TABLE sales.new (id int PRIMARY KEY); INSERT INTO sales.new VALUES (1)")
        .await;
    world.source.execute("CREATE TABLE public.other (id int); INSERT INTO other VALUES (1)").await;
    assert_eq!(news(&world).await, [r#"sales.new INSERT {"id":1}"#, "COMMIT 1"]);
    // Each row under the name that its table had then.
    world.source.execute("INSERT INTO sales.new VALUES (2); ALTER TABLE sales.new RENAME TO newer").await;
    world
        .source
        .execute("INSERT INTO sales.newer VALUES (3); ALTER TABLE sales.newer RENAME id TO number")
        .await;
    world.source.execute("INSERT INTO sales.newer VALUES (4)").await;
    // The rows that it had came under its old name.
    assert!(poll_with_gap(&world).await.iter().all(|tables| tables == r#"["sales.newer"]"#));
    let renamed = [
        r#"sales.new INSERT {"id":2}"#,
        "COMMIT 1",
        r#"sales.newer INSERT {"id":3}"#,
        "COMMIT 1",
        r#"sales.newer INSERT {"number":4}"#,
        "COMMIT 1",
    ];
    let segments = reader::segments(world.archive_dir());
    assert_eq!(shapes(&segments)[2..], renamed);
    let of_rows = segments.iter().rfind(|segment| !segment.lines.is_empty());
    let relations = of_rows.expect("one").manifest["relations"].as_object().expect("an object");
    assert_eq!(relations.keys().collect::<Vec<_>>(), ["sales.newer"], "a table that is gone has no entry");

    world.set_archiver("tables", vec![Value::from("sales.newer")]);
    poll(&world).await;
    world.source.execute("INSERT INTO sales.newer VALUES (5); DROP TABLE sales.newer").await;
    assert_eq!(news(&world).await, [r#"sales.newer INSERT {"number":5}"#, "COMMIT 1"]);
    poll(&world).await;
    let checked = world.archiver(["check"]).run().await.expect_code(0);
    assert!(checked.stdout.contains("warn  tables: sales.newer is listed, but was dropped"), "{checked}");
}

/// Each row as its table was when it was written; the manifest describes the table as it is now.
#[tokio::test]
async fn columns_and_enum_values_change_between_rows() {
    let world = scene::world(
        "CREATE TYPE mood AS ENUM ('fine', 'sad'); CREATE TABLE notes (id int PRIMARY KEY, gone int, mood mood)",
    )
    .await;
    for sql in [
        "INSERT INTO notes VALUES (1, 7, 'fine'); ALTER TABLE notes DROP COLUMN gone; ALTER TABLE notes ADD text text DEFAULT 'new'",
        "INSERT INTO notes VALUES (2, 'fine'); ALTER TABLE notes ALTER id TYPE numeric(20,2)",
        "INSERT INTO notes VALUES (3, 'fine'); ALTER TABLE notes RENAME text TO words; ALTER TYPE mood RENAME VALUE 'fine' TO 'well'",
        "INSERT INTO notes VALUES (4, 'well'); UPDATE notes SET mood = 'sad' WHERE id = 1",
    ] {
        world.source.execute(sql).await;
    }
    assert_eq!(
        news(&world).await,
        [
            r#"notes INSERT {"id":1,"gone":7,"mood":"fine"}"#,
            "COMMIT 1",
            r#"notes INSERT {"id":2,"mood":"fine","text":"new"}"#,
            "COMMIT 1",
            r#"notes INSERT {"id":3.00,"mood":"fine","text":"new"}"#,
            "COMMIT 1",
            r#"notes INSERT {"id":4.00,"mood":"well","words":"new"}"#,
            r#"notes UPDATE {"id":1.00,"mood":"sad","words":"new"} old {"id":1.00}"#,
            "COMMIT 2",
        ]
    );
    let segments = reader::segments(world.archive_dir());
    let columns = segments[0].manifest["relations"]["notes"]["columns"].as_array().expect("columns").clone();
    let named: Vec<&serde_json::Value> = columns.iter().map(|column| &column["name"]).collect();
    assert_eq!(named, ["id", "mood", "words"]);
    assert_eq!(columns[0]["type"], "numeric(20,2)");
}

#[tokio::test]
async fn what_cannot_be_captured_is_named() {
    let mut world = world(
        "CREATE TABLE t (id int PRIMARY KEY); CREATE UNLOGGED TABLE quick (id int PRIMARY KEY);
        CREATE VIEW seen AS SELECT * FROM t; CREATE SEQUENCE numbers;
        CREATE EXTENSION postgres_fdw; CREATE SERVER far FOREIGN DATA WRAPPER postgres_fdw;
        CREATE FOREIGN TABLE abroad (id int) SERVER far",
    )
    .await;
    world
        .source
        .execute("CREATE MATERIALIZED VIEW totals AS SELECT id FROM t; CREATE UNIQUE INDEX ON totals (id)")
        .await;
    world.source.execute("INSERT INTO t VALUES (1); INSERT INTO quick VALUES (1)").await;
    world.source.execute("REFRESH MATERIALIZED VIEW CONCURRENTLY totals").await;
    world.source.execute("DELETE FROM t; SELECT nextval('numbers')").await;
    world.source.execute("REFRESH MATERIALIZED VIEW CONCURRENTLY totals").await;
    let lines = news(&world).await;
    assert_eq!(lines, [r#"t INSERT {"id":1}"#, "COMMIT 1", r#"t DELETE old {"id":1}"#, "COMMIT 1"]);
    let checked = world.archiver(["check"]).run().await.expect_code(0);
    for what in ["quick is an unlogged table", "totals is a materialized view", "abroad is a foreign table"] {
        assert!(checked.stdout.contains(what), "{checked}");
    }
    for (name, kind) in [
        ("quick", "an unlogged table"),
        ("totals", "a materialized view"),
        ("abroad", "a foreign table"),
        ("numbers", "a sequence"),
        ("seen", "a view"),
    ] {
        world.set_archiver("tables", vec![Value::from(name)]);
        let refused = world.archiver(["run", "--once"]).run().await.expect_code(2);
        assert!(refused.stderr.contains(&format!("{name} is {kind}")), "{refused}");
        world.archiver(["check"]).run().await.expect_code(1);
    }
}
