//! Of several changes of a table between two polls the catalog shows the last one only. Whatever hides behind it: the
//! copy equals production, or exactly the table that differs has its gap.

use std::fmt::Write as _;

use syncdata_tests::Installation;
use syncdata_tests::world::{Plugin, World, WorldOptions};

use crate::scene;

const REWRITTEN: &str = "rewritten by ALTER TABLE";

/// A table, what happens to it between two polls, and the reason of its gap.
struct Case {
    name: &'static str,
    /// Of production. The copy has the same columns, of types that every wider one fits into.
    columns: &'static str,
    rows: &'static str,
    /// `{t}` is the table; each in a transaction of its own.
    then: &'static [&'static str],
    gap: Option<&'static str>,
    /// The same with triggers: rows that they note are read as they are, whatever their columns were called meanwhile.
    noted: Option<&'static str>,
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

/// Rows that are noted are read as they are.
const READ_AS_THEY_ARE: Option<&str> = None;
/// They are noted by the name of a column that was another one's for a while.
const NOTED_BY_ANOTHER: Option<&str> = Some("keys of its rows could not be noted");
/// No gap, and not live either: the copy has no such column.
const QUARANTINED: Option<&str> = Some("");

const fn case(name: &'static str, then: &'static [&'static str], gap: Option<&'static str>) -> Case {
    Case { name, columns: TOAST, rows: TOAST_ROWS, then, gap, noted: gap, from_major: 0 }
}

const fn noted(noted: Option<&'static str>, case: Case) -> Case {
    Case { noted, ..case }
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
    case("longer_using", &[LIMIT, "ALTER TABLE {t} ALTER note TYPE text USING upper(note)"], GAP),
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
    plain(
        "p_truncate_using_and_more",
        &["BEGIN; TRUNCATE {t}; INSERT INTO {t} VALUES (4, 4, 4, 'd'); \
             ALTER TABLE {t} ALTER code TYPE varchar(10) USING upper(code), ALTER code SET NOT NULL; COMMIT"],
        GAP,
    ),
    plain(
        "p_truncate_using_of_the_key",
        &[
            "BEGIN; TRUNCATE {t}; INSERT INTO {t} VALUES (4, 4, 4, 'd'); ALTER TABLE {t} ALTER id TYPE int USING id + 100; COMMIT",
        ],
        GAP,
    ),
    case(
        "truncate_using_of_the_key",
        &[
            "TRUNCATE {t}",
            "INSERT INTO {t} VALUES (4, 4, 'four', 'd')",
            "ALTER TABLE {t} ALTER id TYPE int USING id + 100",
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
    noted(
        NOTED_BY_ANOTHER,
        case(
            "swapped",
            &[
                "ALTER TABLE {t} RENAME day TO x; ALTER TABLE {t} RENAME id TO day; ALTER TABLE {t} RENAME x TO id",
                "INSERT INTO {t} (id, day) VALUES (61, 62)",
                "ALTER TABLE {t} RENAME day TO x; ALTER TABLE {t} RENAME id TO day; ALTER TABLE {t} RENAME x TO id",
            ],
            GAP,
        ),
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
    noted(
        READ_AS_THEY_ARE,
        case(
            "came_and_went",
            &["ALTER TABLE {t} ADD more int", MORE, "ALTER TABLE {t} DROP more", ADD_MORE],
            GAP,
        ),
    ),
    case(
        "came_and_went_at_rest",
        &["ALTER TABLE {t} ADD more int", "ALTER TABLE {t} DROP more", ADD_MORE],
        None,
    ),
    noted(
        READ_AS_THEY_ARE,
        case(
            "lent_its_name",
            &["ALTER TABLE {t} RENAME day TO more", MORE, "ALTER TABLE {t} RENAME more TO day", ADD_MORE],
            GAP,
        ),
    ),
    noted(
        QUARANTINED,
        case(
            "passed_on",
            &["ALTER TABLE {t} RENAME day TO more", MORE, "ALTER TABLE {t} RENAME more TO hour", ADD_MORE],
            GAP,
        ),
    ),
    case("added", &[ADD_MORE, MORE], None),
    noted(
        READ_AS_THEY_ARE,
        case(
            "dropped_under_its_name",
            &["ALTER TABLE {t} RENAME day TO more", MORE, "ALTER TABLE {t} DROP more", ADD_MORE],
            GAP,
        ),
    ),
    noted(
        READ_AS_THEY_ARE,
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
    ),
    noted(
        READ_AS_THEY_ARE,
        case(
            "in_one_transaction",
            &["BEGIN; ALTER TABLE {t} RENAME day TO more; INSERT INTO {t} (id, more) VALUES (8, 8); \
             ALTER TABLE {t} DROP more; ALTER TABLE {t} ADD more int DEFAULT 1; COMMIT"],
            GAP,
        ),
    ),
    noted(
        READ_AS_THEY_ARE,
        case(
            "in_a_savepoint",
            &[
                "ALTER TABLE {t} RENAME day TO more",
                MORE,
                "BEGIN; SAVEPOINT s; ALTER TABLE {t} DROP more; ALTER TABLE {t} ADD more int DEFAULT 1; RELEASE s; COMMIT",
            ],
            GAP,
        ),
    ),
    noted(
        READ_AS_THEY_ARE,
        case(
            "another_had_it",
            &[
                "ALTER TABLE {t} RENAME day TO x; ALTER TABLE {t} ADD day int",
                "INSERT INTO {t} (id, day) VALUES (9, 9)",
                "ALTER TABLE {t} DROP day; ALTER TABLE {t} RENAME x TO day",
            ],
            GAP,
        ),
    ),
    noted(
        NOTED_BY_ANOTHER,
        case(
            "another_had_the_key",
            &[
                "ALTER TABLE {t} RENAME id TO x; ALTER TABLE {t} ADD id int",
                "INSERT INTO {t} (x, id) VALUES (9, 8)",
                "ALTER TABLE {t} DROP id; ALTER TABLE {t} RENAME x TO id",
            ],
            GAP,
        ),
    ),
    noted(
        READ_AS_THEY_ARE,
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
    ),
    noted(
        READ_AS_THEY_ARE,
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
    Case {
        columns: COMPUTED,
        rows: "(1, 1, 1, DEFAULT, 'a')",
        from_major: 17,
        ..case(
            "p_expression",
            &["BEGIN; TRUNCATE {t}; INSERT INTO {t} VALUES (4, 4, 4, DEFAULT, 'd'); \
                 ALTER TABLE {t} ALTER day SET EXPRESSION AS (base * 3); COMMIT"],
            GAP,
        )
    },
    Case {
        columns: COMPUTED,
        rows: "(1, 1, 1, DEFAULT, 'a')",
        from_major: 17,
        ..case(
            "p_expression_and_wider",
            &[
                "ALTER TABLE {t} ALTER day SET EXPRESSION AS (base * 3)",
                "ALTER TABLE {t} ALTER hour TYPE bigint",
            ],
            GAP,
        )
    },
];

const COMPUTED: &str =
    "id int PRIMARY KEY, base int, hour int, day int GENERATED ALWAYS AS (base * 2) STORED, code varchar(10)";

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
    for plugin in [Plugin::Wal2json, Plugin::Triggers] {
        hidden(plugin).await;
    }
}

async fn hidden(plugin: Plugin) {
    let options = WorldOptions::default().without_sftp().plugin(plugin);
    let world = options.source(|s| s.setting("autovacuum", "off")).start().await;
    for Case { name, columns, rows, .. } in cases() {
        world.source.execute(&format!("CREATE TABLE {name} ({columns})")).await;
        world.source.execute(&format!("INSERT INTO {name} VALUES {rows}")).await;
        let here =
            columns.replace("int", "bigint").replace("serial", "bigint").replace("varchar(10)", "text");
        world.target.execute(&format!("CREATE TABLE {name} ({here}, more int DEFAULT 1)")).await;
    }
    world.make_slot().await;
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
    let polled = world.archiver(["run", "--once"]).run().await;
    world.applier(["sync"]).run().await;
    let gaps = scene::gaps_with_reasons(&world);
    let mut wrong = String::new();
    for case in cases() {
        let found: Vec<&String> =
            gaps.iter().filter(|gap| gap.starts_with(&format!("{}: ", case.name))).collect();
        let reason = if plugin == Plugin::Triggers { case.noted } else { case.gap };
        let wanted: Vec<String> = reason
            .iter()
            .filter(|reason| !reason.is_empty())
            .map(|reason| format!("{}: {reason}", case.name))
            .collect();
        let state = format!("SELECT state FROM data_sync_table_state WHERE table_name = '{}'", case.name);
        let state = world.target.value(&state).await;
        if state == "live" && !is_equal(&world, case.name).await {
            writeln!(wrong, "{}: live and unequal", case.name).expect("a String");
        }
        if found != wanted.iter().collect::<Vec<_>>() || (state == "live") != reason.is_none() {
            writeln!(wrong, "{}: {state}, gaps {found:?}, wanted {wanted:?}", case.name).expect("a String");
        }
    }
    assert!(wrong.is_empty(), "{plugin:?}: {wrong}{polled}");
}
