//! Of several changes of a table between two polls the catalog shows the last one only. Whatever hides behind it: the
//! copy equals production, or exactly the table that differs has its gap.

use std::collections::BTreeSet;
use std::fmt::Write as _;

use syncdata_tests::Installation;
use syncdata_tests::world::{World, WorldOptions};

use crate::identity::Story;
use crate::scene;

const REWRITTEN: &str = "rewritten by ALTER TABLE";
const ANOTHER: &str = "another table of this name";

/// A table, what happens to it between two polls, and the reason of its gap.
struct Case {
    name: &'static str,
    /// Of production. The copy has the same columns, of types that every wider one fits into.
    columns: &'static str,
    rows: &'static str,
    /// `{t}` is the table; each in a transaction of its own.
    then: &'static [&'static str],
    gap: Option<&'static str>,
    from_major: u32,
}

const TOAST: &str = "id int PRIMARY KEY, day int, note text, code varchar(10)";
const TOAST_ROWS: &str = "(1, 1, 'one', 'a'), (2, 2, 'two', 'b')";
/// No value can be so long that it needs a TOAST table.
const PLAIN: &str = "id int PRIMARY KEY, day int, hour int, code varchar(10)";
const PLAIN_ROWS: &str = "(1, 1, 1, 'a'), (2, 2, 2, 'b')";
const SERIAL: &str = "id serial PRIMARY KEY, day int, note text, code varchar(10)";

const UNLOGGED: &str = "ALTER TABLE {t} SET UNLOGGED";
const UNSEEN: &str = "INSERT INTO {t} (id, day) VALUES (50, 50); UPDATE {t} SET day = 70 WHERE id = 1";
const LOGGED: &str = "ALTER TABLE {t} SET LOGGED";
const WIDER: &str = "ALTER TABLE {t} ALTER day TYPE bigint";
const LIMIT: &str = "ALTER TABLE {t} ALTER code TYPE varchar(20)";
const ROW: &str = "INSERT INTO {t} (id, day, code) VALUES (7, 7, 'seven')";

const MORE: &str = "INSERT INTO {t} (id, more) VALUES (8, 8)";
const ADD_MORE: &str = "ALTER TABLE {t} ADD more int DEFAULT 1";

const fn case(name: &'static str, then: &'static [&'static str], gap: Option<&'static str>) -> Case {
    Case { name, columns: TOAST, rows: TOAST_ROWS, then, gap, from_major: 0 }
}

const fn plain(name: &'static str, then: &'static [&'static str], gap: Option<&'static str>) -> Case {
    Case { columns: PLAIN, rows: PLAIN_ROWS, ..case(name, then, gap) }
}

const fn serial(name: &'static str, then: &'static [&'static str], gap: Option<&'static str>) -> Case {
    Case { columns: SERIAL, ..case(name, then, gap) }
}

const GAP: Option<&str> = Some(REWRITTEN);

const CASES: &[Case] = &[
    // Types change, and not by a rewrite; so there was another one.
    case("unlogged_add", &[UNLOGGED, UNSEEN, LOGGED, "ALTER TABLE {t} ADD more int DEFAULT 7"], GAP),
    case("unlogged_drop", &[UNLOGGED, UNSEEN, LOGGED, "ALTER TABLE {t} DROP note"], GAP),
    case("unlogged_limit", &[UNLOGGED, UNSEEN, LOGGED, LIMIT], GAP),
    case("limit_unlogged", &[LIMIT, UNLOGGED, UNSEEN, LOGGED], GAP),
    case("using_drop", &["ALTER TABLE {t} ALTER note TYPE text USING upper(note), DROP code"], GAP),
    case("using_limit", &["ALTER TABLE {t} ALTER code TYPE varchar(20) USING upper(code)"], GAP),
    case("using_text", &["ALTER TABLE {t} ALTER code TYPE text USING upper(code)"], GAP),
    plain("p_unlogged_drop", &[UNLOGGED, UNSEEN, LOGGED, "ALTER TABLE {t} DROP hour"], GAP),
    plain("p_unlogged_add", &[UNLOGGED, UNSEEN, LOGGED, "ALTER TABLE {t} ADD more int DEFAULT 7"], GAP),
    plain("p_unlogged_limit", &[UNLOGGED, UNSEEN, LOGGED, LIMIT], GAP),
    plain("p_using_drop", &["ALTER TABLE {t} ALTER day TYPE int USING day * 2, DROP hour"], GAP),
    // A type whose text is the same may write all rows anew; it is seen whether that was the last that did.
    case("wider", &[ROW, WIDER, "UPDATE {t} SET day = 3000000000 WHERE id = 7"], None),
    case(
        "wider_savepoint",
        &["BEGIN; SAVEPOINT s; ALTER TABLE {t} ALTER day TYPE bigint; RELEASE s; COMMIT", ROW],
        None,
    ),
    case("wider_granted", &[WIDER, "GRANT SELECT ON {t} TO PUBLIC; CREATE INDEX ON {t} (day)", ROW], None),
    case("wider_full", &[WIDER, "VACUUM FULL {t}", "TRUNCATE {t}", ROW], None),
    case("wider_twice", &[WIDER, "ALTER TABLE {t} ALTER id TYPE bigint", ROW], None),
    case("longer", &[ROW, LIMIT, "UPDATE {t} SET code = 'a longer code' WHERE id = 1"], None),
    case("wider_unlogged", &[WIDER, UNLOGGED, UNSEEN, LOGGED], GAP),
    case("wider_using", &[WIDER, "ALTER TABLE {t} ALTER note TYPE text USING upper(note)"], GAP),
    plain("p_wider", &[ROW, WIDER, "UPDATE {t} SET day = 3000000000 WHERE id = 7"], None),
    plain("p_wider_granted", &[WIDER, "GRANT SELECT ON {t} TO PUBLIC", ROW], None),
    plain("p_wider_truncate", &[WIDER, "TRUNCATE {t}", ROW], None),
    plain("p_wider_unlogged", &[WIDER, UNLOGGED, UNSEEN, LOGGED], GAP),
    plain("p_longer", &[ROW, LIMIT, "UPDATE {t} SET code = 'a longer code' WHERE id = 1"], None),
    // One TRUNCATE, and a rewrite in the same transaction.
    plain(
        "p_truncate_using",
        &[
            "BEGIN; TRUNCATE {t}; INSERT INTO {t} VALUES (4, 4, 4, 'd'); ALTER TABLE {t} ALTER day TYPE int USING day * 2; COMMIT",
        ],
        GAP,
    ),
    plain("p_emptied", &["BEGIN; TRUNCATE {t}; INSERT INTO {t} VALUES (4, 4, 4, 'd'); COMMIT"], None),
    // Owned sequences become unlogged with their table.
    Case { from_major: 15, ..serial("s_unlogged_wider", &[UNLOGGED, UNSEEN, LOGGED, WIDER], GAP) },
    serial(
        "s_wider",
        &[ROW, "INSERT INTO {t} (id, day) VALUES (20, 9)", WIDER, "ALTER TABLE {t} ALTER id TYPE bigint"],
        None,
    ),
    // Columns that had other names for a while.
    case(
        "swapped",
        &[
            "ALTER TABLE {t} RENAME day TO x; ALTER TABLE {t} RENAME id TO day; ALTER TABLE {t} RENAME x TO id",
            "INSERT INTO {t} (id, day) VALUES (61, 62)",
            "ALTER TABLE {t} RENAME day TO x; ALTER TABLE {t} RENAME id TO day; ALTER TABLE {t} RENAME x TO id",
        ],
        GAP,
    ),
    case(
        "altered",
        &[
            ROW,
            "ALTER TABLE {t} ALTER day SET NOT NULL, ALTER note SET STATISTICS 10, ALTER note SET DEFAULT 'x'",
            "ALTER TABLE {t} ADD more int DEFAULT 1",
            "UPDATE {t} SET day = 9 WHERE id = 1",
        ],
        None,
    ),
    // A name may have been another column's for a while.
    case(
        "came_and_went",
        &["ALTER TABLE {t} ADD more int", MORE, "ALTER TABLE {t} DROP more", ADD_MORE],
        GAP,
    ),
    case(
        "came_and_went_at_rest",
        &["ALTER TABLE {t} ADD more int", "ALTER TABLE {t} DROP more", ADD_MORE],
        None,
    ),
    case(
        "lent_its_name",
        &["ALTER TABLE {t} RENAME day TO more", MORE, "ALTER TABLE {t} RENAME more TO day", ADD_MORE],
        GAP,
    ),
    case(
        "passed_on",
        &["ALTER TABLE {t} RENAME day TO more", MORE, "ALTER TABLE {t} RENAME more TO hour", ADD_MORE],
        GAP,
    ),
    case("added", &[ADD_MORE, MORE], None),
    case(
        "dropped_under_its_name",
        &["ALTER TABLE {t} RENAME day TO more", MORE, "ALTER TABLE {t} DROP more", ADD_MORE],
        GAP,
    ),
    case(
        "of_another_type",
        &[
            "ALTER TABLE {t} RENAME code TO more",
            "INSERT INTO {t} (id, more) VALUES (8, '8')",
            "ALTER TABLE {t} DROP more",
            ADD_MORE,
        ],
        GAP,
    ),
    case(
        "in_one_transaction",
        &["BEGIN; ALTER TABLE {t} RENAME day TO more; INSERT INTO {t} (id, more) VALUES (8, 8); \
             ALTER TABLE {t} DROP more; ALTER TABLE {t} ADD more int DEFAULT 1; COMMIT"],
        GAP,
    ),
    case(
        "in_a_savepoint",
        &[
            "ALTER TABLE {t} RENAME day TO more",
            MORE,
            "BEGIN; SAVEPOINT s; ALTER TABLE {t} DROP more; ALTER TABLE {t} ADD more int DEFAULT 1; RELEASE s; COMMIT",
        ],
        GAP,
    ),
    case(
        "another_had_it",
        &[
            "ALTER TABLE {t} RENAME day TO x; ALTER TABLE {t} ADD day int",
            "INSERT INTO {t} (id, day) VALUES (9, 9)",
            "ALTER TABLE {t} DROP day; ALTER TABLE {t} RENAME x TO day",
        ],
        GAP,
    ),
    case(
        "left_out",
        &[
            "UPDATE {t} SET note = (SELECT string_agg(md5(n::text), '') FROM generate_series(1, 300) n)",
            "ALTER TABLE {t} RENAME note TO x; ALTER TABLE {t} RENAME code TO note",
            "UPDATE {t} SET note = 'c' WHERE id = 1",
            "ALTER TABLE {t} RENAME note TO code; ALTER TABLE {t} RENAME x TO note",
        ],
        GAP,
    ),
    case(
        "moved_on_and_dropped",
        &[
            "UPDATE {t} SET note = (SELECT string_agg(md5(n::text), '') FROM generate_series(1, 300) n)",
            "ALTER TABLE {t} RENAME note TO x; ALTER TABLE {t} RENAME code TO note",
            "UPDATE {t} SET note = 'c' WHERE id = 1",
            "ALTER TABLE {t} DROP x; ALTER TABLE {t} RENAME note TO code",
        ],
        GAP,
    ),
    // What a row says names its columns well enough.
    case(
        "filled_from_another",
        &[
            "BEGIN; ALTER TABLE {t} ADD more int DEFAULT 1; UPDATE {t} SET more = day * 2; ALTER TABLE {t} DROP day; COMMIT",
            MORE,
        ],
        None,
    ),
    case(
        "dropped_and_added",
        &[
            ROW,
            "UPDATE {t} SET day = 5 WHERE id = 2",
            "DELETE FROM {t} WHERE id = 7",
            "ALTER TABLE {t} DROP day",
            ADD_MORE,
            MORE,
        ],
        None,
    ),
    case(
        "added_and_altered",
        &[
            ADD_MORE,
            MORE,
            "UPDATE {t} SET more = 3 WHERE id = 2",
            "ALTER TABLE {t} ALTER more SET NOT NULL, ALTER more SET DEFAULT 5",
            "UPDATE {t} SET more = 4 WHERE id = 1",
        ],
        None,
    ),
    case(
        "added_in_a_block",
        &[
            ROW,
            "DO $$ BEGIN ALTER TABLE {t} ADD more int DEFAULT 1; EXCEPTION WHEN others THEN RAISE; END $$",
            MORE,
            "UPDATE {t} SET more = 3 WHERE id = 2",
        ],
        None,
    ),
    // What writes generated columns anew.
    Case {
        columns: "id int PRIMARY KEY, day int GENERATED ALWAYS AS (id * 2) STORED, note text, code varchar(10)",
        rows: "(1, DEFAULT, 'one', 'a')",
        from_major: 17,
        ..case(
            "expression",
            &[
                "ALTER TABLE {t} ALTER day SET EXPRESSION AS (id * 3)",
                "ALTER TABLE {t} ADD more int DEFAULT 1",
            ],
            GAP,
        )
    },
];

fn cases() -> impl Iterator<Item = &'static Case> {
    let major = Installation::chosen().major();
    CASES.iter().filter(move |case| case.from_major <= major)
}

/// By the columns that it had at first and still has.
async fn is_equal(world: &World, table: &str) -> bool {
    let columns = format!(
        "SELECT string_agg(attname, ', ' ORDER BY attnum) FROM pg_attribute WHERE attrelid = '{table}'::regclass
           AND attname IN ('id', 'day', 'code', 'more') AND NOT attisdropped"
    );
    let columns = world.source.value(&columns).await;
    let rows = format!("SELECT {columns} FROM {table} ORDER BY {columns}");
    world.source.query(&rows).await == world.target.query(&rows).await
}

#[tokio::test]
async fn what_hides_behind_another_change_of_a_table_is_a_gap() {
    let options = WorldOptions::default().without_sftp().source(|s| s.setting("autovacuum", "off"));
    let world = options.start().await;
    for Case { name, columns, rows, .. } in cases() {
        world.source.execute(&format!("CREATE TABLE {name} ({columns})")).await;
        world.source.execute(&format!("INSERT INTO {name} VALUES {rows}")).await;
        let here =
            columns.replace("int", "bigint").replace("serial", "bigint").replace("varchar(10)", "text");
        world.target.execute(&format!("CREATE TABLE {name} ({here}, more int DEFAULT 1)")).await;
    }
    world.source.execute(scene::SLOT).await;
    world.archiver(["run", "--once"]).succeed().await;
    world.archiver(["snapshot"]).succeed().await;
    let names: Vec<&str> = cases().map(|case| case.name).collect();
    world.applier(["add-tables"].iter().chain(&names)).succeed().await;
    world.applier(["sync"]).succeed().await;
    for case in cases() {
        for sql in case.then {
            world.source.execute(&sql.replace("{t}", case.name)).await;
        }
    }
    world.archiver(["run", "--once"]).run().await;
    world.applier(["sync"]).run().await;
    let gaps = scene::gaps_with_reasons(&world);
    let mut wrong = String::new();
    for case in cases() {
        let found: Vec<&String> =
            gaps.iter().filter(|gap| gap.starts_with(&format!("{}: ", case.name))).collect();
        let wanted: Vec<String> = case.gap.iter().map(|reason| format!("{}: {reason}", case.name)).collect();
        let state = format!("SELECT state FROM data_sync_table_state WHERE table_name = '{}'", case.name);
        let state = world.target.value(&state).await;
        if state == "live" && !is_equal(&world, case.name).await {
            writeln!(wrong, "{}: live and unequal", case.name).expect("a String");
        }
        if found != wanted.iter().collect::<Vec<_>>() || (state == "live") != wanted.is_empty() {
            writeln!(wrong, "{}: {state}, gaps {found:?}, wanted {wanted:?}", case.name).expect("a String");
        }
    }
    assert!(wrong.is_empty(), "{wrong}");
}

const PARTITION: &str = "partition changed";
const NOT_CAPTURED: &str = "not captured meanwhile";
const LOST: &str = "UPDATE or DELETE without a replica identity: wal2json cannot say which rows";

const ORDERS: &str =
    "CREATE TABLE orders (id int, day int, note text, PRIMARY KEY (id, day)) PARTITION BY RANGE (day);
    CREATE TABLE orders_1 PARTITION OF orders FOR VALUES FROM (0) TO (10);
    CREATE TABLE a (LIKE orders INCLUDING ALL); CREATE TABLE b (LIKE orders INCLUDING ALL);
    INSERT INTO orders VALUES (1, 1, 'one'); INSERT INTO a VALUES (1, 1, 'a')";

const ORDERS_2: &str = "CREATE TABLE orders_2 PARTITION OF orders FOR VALUES FROM (10) TO (20)";

fn only(table: &str, reason: &str) -> BTreeSet<String> {
    [format!("{table}: {reason}")].into()
}

const NONE: BTreeSet<String> = BTreeSet::new();

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
            if story.state("b").await != "live" {
                assert_eq!((number, story.state("b").await.as_str()), (1, "quarantined"), "{size}");
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
        "BEGIN; CREATE TABLE c3 (LIKE a INCLUDING ALL); SAVEPOINT s; INSERT INTO c3 VALUES (1, 1, 'x'); DROP TABLE c1; CREATE TABLE c1 (LIKE a);
         INSERT INTO c1 VALUES (9, 9, 'undone'); ROLLBACK TO s; INSERT INTO c3 VALUES (2, 2, 'y'); COMMIT",
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
