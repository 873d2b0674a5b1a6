//! What production does to tables beside rows, one thing after the other between two polls: the copy equals production, or
//! exactly the table that differs has its gap.

use std::fmt::Write as _;

use syncdata_tests::world::{Plugin, World, WorldOptions};
use syncdata_tests::{Installation, cases};
use toml::Value;

use crate::scene;

const ANOTHER: &str = "another table of this name";
const REWRITTEN: &str = "rewritten by ALTER TABLE";
const PARTITION: &str = "partition changed";
const TYPE: &str = "a type was altered";
const LOST: &str = "UPDATE or DELETE without a replica identity: wal2json cannot say which rows";

/// A table `{t}`, what happens to it, and the reason of its gap.
struct Case {
    name: &'static str,
    /// What makes it.
    make: &'static str,
    /// What makes the copy.
    here: &'static str,
    /// Each in a transaction of its own. One that begins with `!` is refused.
    then: &'static [&'static str],
    gap: Option<&'static str>,
    /// The same with triggers: they note keys whatever the replica identity says.
    noted: Option<&'static str>,
    from_major: u32,
}

const PLAIN: &str = "CREATE TABLE {t} (id int PRIMARY KEY, day int, note text); \
    INSERT INTO {t} VALUES (1, 1, 'one'), (2, 2, 'two'), (3, 3, 'three')";
const PARTED: &str = "CREATE TABLE {t} (id int, day int, note text, PRIMARY KEY (id, day)) PARTITION BY RANGE (day); \
    CREATE TABLE {t}_1 PARTITION OF {t} FOR VALUES FROM (0) TO (10); \
    INSERT INTO {t} VALUES (1, 1, 'one'), (2, 2, 'two')";
const PARTED_LATE: &str = "CREATE TABLE {t} (id int, day int, note text, PRIMARY KEY (id, day)) PARTITION BY RANGE (day);
    CREATE TABLE {t}_2 (id int, day int, note text, PRIMARY KEY (id, day) DEFERRABLE INITIALLY DEFERRED);
    ALTER TABLE {t}_2 REPLICA IDENTITY FULL; ALTER TABLE {t} ATTACH PARTITION {t}_2 FOR VALUES FROM (10) TO (20)";
const HERE: &str = "CREATE TABLE {t} (id int PRIMARY KEY, day int, note text, more int)";
const HERE_PARTED: &str =
    "CREATE TABLE {t} (id int, day int, note text, more int DEFAULT 5, PRIMARY KEY (id, day))";
const ROWS: &str = "INSERT INTO {t} (id, day, note) VALUES (7, 7, 'x'); UPDATE {t} SET note = 'y' WHERE id = 1; DELETE FROM {t} WHERE id = 2";

/// No gap, and not live either: the applier asks for something.
const QUARANTINED: Option<&str> = Some("");

const fn noted(noted: Option<&'static str>, case: Case) -> Case {
    Case { noted, ..case }
}

const fn case(name: &'static str, then: &'static [&'static str], gap: Option<&'static str>) -> Case {
    Case { name, make: PLAIN, here: HERE, then, gap, noted: gap, from_major: 0 }
}

/// Triggers note nothing of a table whose partitions have no key of it.
const OF_KEYS: &[Case] = &[
    // The first step of a key without long locks: partitions have none yet.
    Case {
        make: "CREATE TABLE {t} (id int NOT NULL, day int NOT NULL, note text) PARTITION BY RANGE (day);
            CREATE TABLE {t}_1 PARTITION OF {t} FOR VALUES FROM (0) TO (10); ALTER TABLE {t}_1 REPLICA IDENTITY FULL;
            ALTER TABLE ONLY {t} ADD PRIMARY KEY (id, day)",
        here: HERE_PARTED,
        ..case(
            "key_of_the_table_alone",
            &["INSERT INTO {t} VALUES (7, 7, 'a'), (8, 8, 'x')", "INSERT INTO {t} VALUES (7, 7, 'b')"],
            QUARANTINED,
        )
    },
    Case {
        make: PARTED_LATE,
        here: HERE_PARTED,
        ..case(
            "key_that_is_deferrable_in_a_partition",
            &[
                "INSERT INTO {t} VALUES (1, 11, 'a'), (2, 11, 'b')",
                "BEGIN; UPDATE {t}_2 SET id = 2 WHERE note = 'a'; UPDATE {t}_2 SET id = 1 WHERE note = 'b'; COMMIT",
            ],
            QUARANTINED,
        )
    },
];

const CASES: &[Case] = &[
    case(
        "moved_to_a_tablespace",
        &[ROWS, "ALTER TABLE {t} SET TABLESPACE elsewhere", "UPDATE {t} SET note = 'z' WHERE id = 3"],
        None,
    ),
    // The copy has a column of that name.
    case(
        "renamed_to_one_that_is_here",
        &["ALTER TABLE {t} RENAME day TO more", "UPDATE {t} SET more = 5 WHERE id = 1"],
        QUARANTINED,
    ),
    case(
        "renamed_to_a_dropped_one",
        &[
            "UPDATE {t} SET note = 'x'",
            "ALTER TABLE {t} DROP note",
            "ALTER TABLE {t} RENAME day TO note",
            "INSERT INTO {t} VALUES (9, 9)",
        ],
        Some(REWRITTEN),
    ),
    // Rows that shared it, one of which goes, are not taken for one another: the second is refused here.
    noted(
        None,
        Case {
            make: "CREATE TABLE {t} (id int PRIMARY KEY, day int, note text); ALTER TABLE {t} REPLICA IDENTITY FULL",
            ..case(
                "key_that_was_gone_for_a_while",
                &[
                    "ALTER TABLE {t} DROP CONSTRAINT {t}_pkey",
                    "INSERT INTO {t} VALUES (7, 1, 'a'), (7, 2, 'b')",
                    "DELETE FROM {t} WHERE note = 'a'",
                    "ALTER TABLE {t} ADD PRIMARY KEY (id)",
                ],
                QUARANTINED,
            )
        },
    ),
    noted(
        None,
        Case {
            make: "CREATE TABLE {t} (id int PRIMARY KEY, day int NOT NULL UNIQUE, note text); ALTER TABLE {t} REPLICA IDENTITY USING INDEX {t}_day_key",
            ..case(
                "key_beside_the_identity_that_was_gone",
                &[
                    "ALTER TABLE {t} DROP CONSTRAINT {t}_pkey",
                    "INSERT INTO {t} VALUES (7, 1, 'a'), (7, 2, 'b')",
                    "DELETE FROM {t} WHERE day = 2",
                    "ALTER TABLE {t} ADD PRIMARY KEY (id)",
                ],
                QUARANTINED,
            )
        },
    ),
    // A label that nobody has heard of, and that has another name when the types are looked at.
    Case {
        noted: None,
        make: "CREATE TYPE {t}_mood AS ENUM ('sad', 'ok'); CREATE TABLE {t} (id int PRIMARY KEY, day int, note {t}_mood);
            INSERT INTO {t} VALUES (1, 1, 'ok')",
        ..case(
            "label_that_came_and_was_renamed",
            &[
                "ALTER TYPE {t}_mood ADD VALUE 'hapy'",
                "INSERT INTO {t} VALUES (3, 3, 'hapy')",
                "ALTER TYPE {t}_mood RENAME VALUE 'hapy' TO 'happy'",
                "INSERT INTO {t} VALUES (4, 4, 'happy')",
            ],
            Some(TYPE),
        )
    },
    Case {
        make: "CREATE TYPE {t}_mood AS ENUM ('sad', 'ok'); CREATE TABLE {t} (id int PRIMARY KEY, day int, note {t}_mood);
            INSERT INTO {t} VALUES (1, 1, 'ok')",
        ..case(
            "label_that_came",
            &[
                "INSERT INTO {t} VALUES (2, 2, 'sad')",
                "ALTER TYPE {t}_mood ADD VALUE 'hapy'",
                "UPDATE {t} SET note = 'hapy' WHERE note = 'sad'",
                "INSERT INTO {t} VALUES (3, 3, 'sad'), (4, 4, NULL)",
            ],
            None,
        )
    },
    // No segment has told what its labels were called.
    Case {
        noted: Some("a type of its columns was altered"),
        make: "CREATE TYPE {t}_mood AS ENUM ('sad', 'ok'); CREATE TABLE {t} (id int PRIMARY KEY, day int, note {t}_mood)",
        ..case(
            "label_that_was_never_told",
            &[
                "INSERT INTO {t} VALUES (1, 1, 'sad'), (2, 2, 'ok')",
                "ALTER TYPE {t}_mood RENAME VALUE 'sad' TO 'blue'",
                "INSERT INTO {t} VALUES (3, 3, 'ok')",
            ],
            Some(TYPE),
        )
    },
    case("clustered", &[ROWS, "CLUSTER {t} USING {t}_pkey", "UPDATE {t} SET note = 'z' WHERE id = 3"], None),
    noted(
        Some("keys of its rows could not be noted"),
        case(
            "inherits",
            &[
                "CREATE TABLE {t}_parent (id int, day int, note text)",
                "ALTER TABLE {t} ALTER id SET NOT NULL",
                "ALTER TABLE {t}_parent ALTER id SET NOT NULL",
                "ALTER TABLE {t} INHERIT {t}_parent",
                "INSERT INTO {t} VALUES (7, 7, 'x'); UPDATE {t} SET note = 'y' WHERE id = 1",
                "UPDATE {t}_parent SET note = 'z' WHERE id = 3",
                "ALTER TABLE {t} NO INHERIT {t}_parent",
                "DELETE FROM {t} WHERE id = 7",
            ],
            None,
        ),
    ),
    // Rows of a child are none of the parent's own.
    case(
        "has_a_child",
        &[
            "CREATE TABLE {t}_child () INHERITS ({t})",
            "INSERT INTO {t}_child VALUES (9, 9, 'child')",
            "UPDATE {t} SET note = 'all'",
            "ALTER TABLE {t}_child NO INHERIT {t}",
            "DROP TABLE {t}_child",
        ],
        None,
    ),
    case(
        "identity_nothing",
        &[
            "ALTER TABLE {t} REPLICA IDENTITY NOTHING",
            "INSERT INTO {t} VALUES (9, 9, 'x')",
            "ALTER TABLE {t} REPLICA IDENTITY DEFAULT",
            ROWS,
        ],
        None,
    ),
    noted(
        None,
        case(
            "identity_nothing_lost",
            &[
                "ALTER TABLE {t} REPLICA IDENTITY NOTHING",
                "UPDATE {t} SET note = 'x'",
                "ALTER TABLE {t} REPLICA IDENTITY DEFAULT",
            ],
            Some(LOST),
        ),
    ),
    case(
        "identity_index_dropped",
        &[
            "ALTER TABLE {t} ALTER day SET NOT NULL; CREATE UNIQUE INDEX {t}_day ON {t} (day); ALTER TABLE {t} REPLICA IDENTITY USING INDEX {t}_day",
            "UPDATE {t} SET note = 'by day' WHERE id = 1",
            "DELETE FROM {t} WHERE id = 2",
            "DROP INDEX {t}_day",
            "INSERT INTO {t} VALUES (9, 9, 'x')",
        ],
        None,
    ),
    noted(
        None,
        case(
            "identity_index_lost",
            &[
                "ALTER TABLE {t} ALTER day SET NOT NULL; CREATE UNIQUE INDEX {t}_day ON {t} (day); ALTER TABLE {t} REPLICA IDENTITY USING INDEX {t}_day",
                "DROP INDEX {t}_day",
                "UPDATE {t} SET note = 'lost'",
                "ALTER TABLE {t} REPLICA IDENTITY DEFAULT",
            ],
            Some(LOST),
        ),
    ),
    // In PostgreSQL 18 the key is not gone with its constraint, and it is another one afterwards.
    case(
        "key_made_anew",
        &[
            ROWS,
            "ALTER TABLE {t} DROP CONSTRAINT {t}_pkey, ADD PRIMARY KEY (id)",
            "DELETE FROM {t} WHERE id = 1",
        ],
        None,
    ),
    case(
        "two_phases",
        &[
            "BEGIN; INSERT INTO {t} VALUES (9, 9, 'x'); ALTER TABLE {t} RENAME note TO x; ALTER TABLE {t} ADD note text; UPDATE {t} SET note = x; ALTER TABLE {t} DROP x; PREPARE TRANSACTION '{t}'",
            "COMMIT PREPARED '{t}'",
            "INSERT INTO {t} (id, day, note) VALUES (10, 10, 'y')",
        ],
        Some(REWRITTEN),
    ),
    case(
        "two_phases_undone",
        &[
            "BEGIN; INSERT INTO {t} VALUES (9, 9, 'x'); ALTER TABLE {t} DROP note; ALTER TABLE {t} ADD note int; PREPARE TRANSACTION '{t}'",
            "ROLLBACK PREPARED '{t}'",
            ROWS,
        ],
        None,
    ),
    case(
        "undone_in_a_savepoint",
        &[
            "BEGIN; SAVEPOINT s; ALTER TABLE {t} RENAME day TO x; ALTER TABLE {t} RENAME id TO day; ALTER TABLE {t} RENAME x TO id; INSERT INTO {t} (id, day) VALUES (50, 60); ROLLBACK TO s; INSERT INTO {t} VALUES (9, 9, 'x'); COMMIT",
            ROWS,
        ],
        None,
    ),
    case(
        "truncate_undone",
        &[
            "BEGIN; SAVEPOINT s; TRUNCATE {t}; INSERT INTO {t} VALUES (60, 60, 'x'); ROLLBACK TO s; INSERT INTO {t} VALUES (9, 9, 'x'); COMMIT",
            ROWS,
        ],
        None,
    ),
    case(
        "set_schema_and_replaced",
        &[
            "ALTER TABLE {t} SET SCHEMA other; CREATE TABLE {t} (LIKE other.{t} INCLUDING ALL); INSERT INTO {t} VALUES (77, 77, 'new')",
        ],
        Some(ANOTHER),
    ),
    case(
        "temporary_namesake",
        &[
            "CREATE TEMP TABLE {t} (id int PRIMARY KEY, day int, note text); INSERT INTO {t} VALUES (99, 99, 'temporary'); TRUNCATE {t}; INSERT INTO public.{t} VALUES (9, 9, 'x')",
            ROWS,
        ],
        None,
    ),
    case(
        "row_security",
        &[
            "ALTER TABLE {t} ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY; CREATE POLICY p ON {t} USING (id > 100)",
            ROWS,
        ],
        None,
    ),
    Case {
        here: "CREATE TABLE {t} (id int PRIMARY KEY, day int, note text, more int DEFAULT 7)",
        ..case(
            "default_tricks",
            &[
                "ALTER TABLE {t} ADD more int DEFAULT 7",
                "ALTER TABLE {t} ALTER more SET DEFAULT 8",
                "INSERT INTO {t} (id) VALUES (9)",
                "ALTER TABLE {t} ALTER more DROP DEFAULT",
                "INSERT INTO {t} (id) VALUES (10)",
            ],
            None,
        )
    },
    case(
        "volatile_default",
        &["ALTER TABLE {t} ADD more int DEFAULT (random() * 1000000)::int", ROWS],
        Some(REWRITTEN),
    ),
    case(
        "becomes_identity",
        &[
            "ALTER TABLE {t} ALTER id ADD GENERATED ALWAYS AS IDENTITY (START 100)",
            "INSERT INTO {t} (day) VALUES (9)",
            "ALTER TABLE {t} ALTER id SET GENERATED BY DEFAULT",
            ROWS,
            "ALTER TABLE {t} ALTER id DROP IDENTITY",
            "DELETE FROM {t} WHERE id = 1",
        ],
        None,
    ),
    case(
        "added_identity",
        &["ALTER TABLE {t} ADD more int GENERATED BY DEFAULT AS IDENTITY", ROWS],
        Some(REWRITTEN),
    ),
    case(
        "messages",
        &[
            "SELECT pg_logical_emit_message(true, 'syncdata', 'x'), pg_logical_emit_message(false, 'wal2json', 'y')",
            ROWS,
            "BEGIN; SELECT pg_logical_emit_message(true, 'syncdata', 'x'); INSERT INTO {t} VALUES (9, 9, 'x'); COMMIT",
        ],
        None,
    ),
    case(
        "copied_frozen",
        &["BEGIN; TRUNCATE {t}; COPY {t} FROM PROGRAM 'printf \"5\\t5\\tfive\\n\"' (FREEZE); COMMIT"],
        None,
    ),
    Case {
        make: "CREATE TABLE {t} (id int PRIMARY KEY, day int, note text); CREATE TABLE {t}_refers (id int PRIMARY KEY, of int REFERENCES {t} ON DELETE CASCADE); INSERT INTO {t} VALUES (1, 1, 'one'), (2, 2, 'two'); INSERT INTO {t}_refers VALUES (1, 1)",
        ..case("truncated_with_others", &["TRUNCATE {t} CASCADE", "INSERT INTO {t} VALUES (9, 9, 'x')"], None)
    },
    Case {
        make: "CREATE DOMAIN {t}_d AS int; CREATE TABLE {t} (id int PRIMARY KEY, day {t}_d, note text); INSERT INTO {t} VALUES (1, 1, 'one')",
        here: "CREATE DOMAIN {t}_d AS int; CREATE TABLE {t} (id int PRIMARY KEY, day {t}_d, note text)",
        ..case(
            "domain_altered",
            &[
                "ALTER DOMAIN {t}_d SET DEFAULT 5",
                "ALTER DOMAIN {t}_d ADD CHECK (VALUE < 1000)",
                "INSERT INTO {t} (id) VALUES (9)",
                "ALTER DOMAIN {t}_d SET NOT NULL",
                "UPDATE {t} SET note = 'x'",
            ],
            None,
        )
    },
    Case {
        make: "CREATE DOMAIN {t}_d AS int DEFAULT 5; CREATE TABLE {t} (id int PRIMARY KEY, day int, note text); INSERT INTO {t} VALUES (1, 1, 'one')",
        here: "CREATE DOMAIN {t}_d AS int; CREATE TABLE {t} (id int PRIMARY KEY, day int, note text, more {t}_d DEFAULT 5)",
        ..case("domain_added", &["ALTER TABLE {t} ADD more {t}_d", "INSERT INTO {t} (id) VALUES (9)"], None)
    },
    Case {
        make: "CREATE TYPE {t}_c AS (a int, b text); CREATE TABLE {t} (id int PRIMARY KEY, day int, note text, extra {t}_c); INSERT INTO {t} VALUES (1, 1, 'one', '(1,x)')",
        here: "CREATE TABLE {t} (id int PRIMARY KEY, day int, note text, extra text)",
        ..noted(
            Some("a type of its columns was altered"),
            case("composite_altered", &["ALTER TYPE {t}_c ADD ATTRIBUTE c int", ROWS], Some(TYPE)),
        )
    },
    Case {
        make: "CREATE UNLOGGED TABLE {t}_u (id int PRIMARY KEY, day int, note text); CREATE TABLE {t} (LIKE {t}_u INCLUDING ALL); INSERT INTO {t} VALUES (1, 1, 'one')",
        ..case(
            "logged_namesake",
            &[
                "INSERT INTO {t}_u VALUES (9, 9, 'unlogged')",
                "DROP TABLE {t}; ALTER TABLE {t}_u RENAME TO {t}; ALTER TABLE {t} SET LOGGED",
            ],
            Some(ANOTHER),
        )
    },
    Case {
        make: PARTED,
        here: HERE_PARTED,
        ..case(
            "attached_and_detached",
            &[
                "BEGIN; CREATE TABLE {t}_2 (LIKE {t} INCLUDING ALL); INSERT INTO {t}_2 VALUES (15, 15, 'x'); ALTER TABLE {t} ATTACH PARTITION {t}_2 FOR VALUES FROM (10) TO (20); INSERT INTO {t} VALUES (16, 16, 'y'); ALTER TABLE {t} DETACH PARTITION {t}_2; COMMIT",
                "INSERT INTO {t} VALUES (3, 3, 'x')",
            ],
            None,
        )
    },
    Case {
        make: PARTED,
        here: HERE_PARTED,
        ..noted(
            Some("its triggers were changed"),
            case(
                "detached_and_attached",
                &[
                    "BEGIN; ALTER TABLE {t} DETACH PARTITION {t}_1; DELETE FROM {t}_1 WHERE id = 1; ALTER TABLE {t} ATTACH PARTITION {t}_1 FOR VALUES FROM (0) TO (10); INSERT INTO {t} VALUES (3, 3, 'x'); COMMIT",
                ],
                Some(PARTITION),
            ),
        )
    },
    Case {
        make: PARTED,
        here: HERE_PARTED,
        ..case(
            "detached_concurrently",
            &[
                "ALTER TABLE {t} DETACH PARTITION {t}_1 CONCURRENTLY",
                "INSERT INTO {t}_1 VALUES (8, 8, 'its own')",
            ],
            Some(PARTITION),
        )
    },
    Case {
        make: PARTED,
        here: HERE_PARTED,
        ..noted(
            Some(PARTITION),
            case(
                "attached_with_other_columns",
                &[
                    "CREATE TABLE {t}_2 (gone int, note text, day int NOT NULL, id int NOT NULL, PRIMARY KEY (id, day)); ALTER TABLE {t}_2 DROP gone; ALTER TABLE {t} ATTACH PARTITION {t}_2 FOR VALUES FROM (10) TO (20)",
                    "INSERT INTO {t} VALUES (15, 15, 'x'), (16, 16, 'y')",
                    "UPDATE {t} SET note = 'z' WHERE id = 15; DELETE FROM {t} WHERE id = 16",
                ],
                None,
            ),
        )
    },
    Case {
        make: PARTED,
        here: HERE_PARTED,
        ..case(
            "columns_of_all_partitions",
            &[
                ROWS,
                "ALTER TABLE {t} ADD more int DEFAULT 5",
                "INSERT INTO {t} VALUES (5, 5, 'x', 6)",
                "ALTER TABLE {t} ALTER more SET DEFAULT 9",
                "UPDATE {t} SET more = 1 WHERE id = 5",
            ],
            None,
        )
    },
    Case {
        make: PARTED,
        here: HERE_PARTED,
        ..noted(
            QUARANTINED,
            case(
                "columns_of_partitions_swapped",
                &[
                    "ALTER TABLE {t} ADD more int",
                    "INSERT INTO {t} VALUES (5, 5, 'x', 6)",
                    "ALTER TABLE {t} DROP more",
                    "ALTER TABLE {t} ADD more int",
                    "INSERT INTO {t} VALUES (6, 6, 'x', 7)",
                ],
                Some(REWRITTEN),
            ),
        )
    },
    Case {
        // In all versions the others stay as they were born.
        make: "CREATE TABLE {t} (day int, note text, id int, PRIMARY KEY (id, day)) PARTITION BY RANGE (day)",
        here: HERE_PARTED,
        ..noted(
            Some(PARTITION),
            case(
                "born_and_rewritten",
                &[
                    "CREATE TABLE {t}_1 PARTITION OF {t} FOR VALUES FROM (0) TO (10)",
                    "INSERT INTO {t} (id, day, note) VALUES (1, 1, 'one')",
                    "ALTER TABLE {t} ALTER id TYPE int USING id + 100",
                ],
                Some(REWRITTEN),
            ),
        )
    },
    Case {
        make: "CREATE TABLE {t} (day int, note text, id int, PRIMARY KEY (id, day)) PARTITION BY RANGE (day)",
        here: HERE_PARTED,
        ..case(
            "born_and_rewritten_at_once",
            &["CREATE TABLE {t}_1 PARTITION OF {t} FOR VALUES FROM (0) TO (10); \
               INSERT INTO {t} (id, day, note) VALUES (1, 1, 'one'); ALTER TABLE {t} ALTER id TYPE int USING id + 100"],
            Some(REWRITTEN),
        )
    },
    Case {
        make: PARTED,
        here: HERE_PARTED,
        ..case(
            "row_moved",
            &[
                "CREATE TABLE {t}_2 PARTITION OF {t} FOR VALUES FROM (10) TO (20)",
                "UPDATE {t} SET day = 15 WHERE id = 1",
                "UPDATE {t} SET day = 5 WHERE id = 1; UPDATE {t} SET day = 16 WHERE id = 2",
            ],
            None,
        )
    },
    Case {
        make: "CREATE TABLE {t} (id int PRIMARY KEY, day int, note text, twice int GENERATED ALWAYS AS (day * 2)); INSERT INTO {t} VALUES (1, 1, 'one')",
        here: "CREATE TABLE {t} (id int PRIMARY KEY, day int, note text, more int DEFAULT 4)",
        from_major: 18,
        ..case(
            "virtual_column",
            &[
                ROWS,
                "ALTER TABLE {t} ALTER twice SET EXPRESSION AS (day * 3)",
                "UPDATE {t} SET day = 5 WHERE id = 1",
                "ALTER TABLE {t} ADD more int DEFAULT 4",
                "INSERT INTO {t} (id, day, note) VALUES (9, 9, 'x')",
            ],
            None,
        )
    },
    // Rows from before say it as a column without a value, which the copy does not have.
    Case {
        make: "CREATE TABLE {t} (id int PRIMARY KEY, day int, note text, twice int GENERATED ALWAYS AS (day * 2)); INSERT INTO {t} VALUES (1, 1, 'one')",
        from_major: 18,
        ..noted(
            None,
            case(
                "virtual_column_dropped",
                &[ROWS, "ALTER TABLE {t} DROP twice", "UPDATE {t} SET day = 5 WHERE id = 1"],
                QUARANTINED,
            ),
        )
    },
    Case {
        make: "CREATE TABLE {t} (id int PRIMARY KEY, day int, note text, twice int GENERATED ALWAYS AS (day * 2) STORED); INSERT INTO {t} VALUES (1, 1, 'one')",
        here: "CREATE TABLE {t} (id int PRIMARY KEY, day int, note text, twice int)",
        ..case(
            "stored_column_is_kept",
            &[ROWS, "ALTER TABLE {t} ALTER twice DROP EXPRESSION", "UPDATE {t} SET twice = 77 WHERE id = 1"],
            None,
        )
    },
];

fn of_this_version(cases: &'static [Case]) -> impl Iterator<Item = &'static Case> {
    let major = Installation::chosen().major();
    cases.iter().filter(move |case| case.from_major <= major)
}

/// By the columns that both have.
async fn is_equal(world: &World, table: &str) -> bool {
    let columns = format!(
        "SELECT string_agg(attname, ', ' ORDER BY attname) FROM pg_attribute WHERE attrelid = '{table}'::regclass
           AND attname IN ('id', 'day', 'note', 'more') AND NOT attisdropped"
    );
    let columns = world.source.value(&columns).await;
    let rows = format!("SELECT {columns} FROM ONLY {table} ORDER BY id");
    let parted = format!("SELECT relkind = 'p' FROM pg_class WHERE oid = '{table}'::regclass");
    let rows = if world.source.value(&parted).await == "t" { rows.replace("ONLY ", "") } else { rows };
    world.source.query(&rows).await == world.target.query(&rows).await
}

#[tokio::test]
async fn whatever_is_done_beside_rows_a_copy_is_equal_or_not_live() {
    for plugin in cases([Plugin::Triggers, Plugin::Wal2json]) {
        beside(plugin, CASES).await;
    }
}

#[tokio::test]
async fn rows_that_share_a_key_of_the_table_alone_are_not_taken_for_one() {
    for plugin in cases([Plugin::Wal2json, Plugin::Pgoutput]) {
        beside(plugin, OF_KEYS).await;
    }
}

async fn beside(plugin: Plugin, of: &'static [Case]) {
    let tables: Vec<Value> = of_this_version(of).map(|case| case.name.into()).collect();
    let options = WorldOptions::default().without_sftp().plugin(plugin).archiver_setting("tables", tables);
    let world = options
        .source(|s| s.setting("max_prepared_transactions", "10").setting("autovacuum", "off"))
        .start()
        .await;
    let folder = world.folder().join("elsewhere");
    std::fs::create_dir(&folder).expect("our folder");
    let tablespace = std::process::Command::new("chown").arg("postgres").arg(&folder).status();
    assert!(tablespace.expect("chown").success());
    world.source.execute(&format!("CREATE TABLESPACE elsewhere LOCATION '{}'", folder.display())).await;
    world.source.execute("CREATE SCHEMA other").await;
    for case in of_this_version(of) {
        world.source.execute(&case.make.replace("{t}", case.name)).await;
        world.target.execute(&case.here.replace("{t}", case.name)).await;
    }
    world.make_slot().await;
    world.archiver(["run", "--once"]).succeed().await;
    world.archiver(["snapshot"]).succeed().await;
    let names: Vec<&str> = of_this_version(of).map(|case| case.name).collect();
    world.applier(["add-tables"].iter().chain(&names)).succeed().await;
    world.applier(["sync"]).run().await;
    for case in of_this_version(of) {
        for sql in case.then {
            world.source.execute(&sql.replace("{t}", case.name)).await;
        }
    }
    if plugin == Plugin::Triggers {
        // Of a table that is new under its name nothing is noted before.
        world.make_slot().await;
    }
    let ran = world.archiver(["run", "--once"]).run().await;
    let has_gaps = of_this_version(of).any(|case| case.gap.is_some_and(|reason| !reason.is_empty()));
    assert_eq!(ran.code(), Some(i32::from(has_gaps)), "{ran}");
    world.applier(["sync"]).run().await;
    let gaps = scene::gaps_with_reasons(&world);
    let mut wrong = String::new();
    for case in of_this_version(of) {
        let found: Vec<&String> =
            gaps.iter().filter(|gap| gap.starts_with(&format!("{}: ", case.name))).collect();
        let reason = if plugin == Plugin::Triggers { case.noted } else { case.gap };
        let wanted: Vec<String> = reason
            .iter()
            .filter(|reason| !reason.is_empty())
            .map(|reason| format!("{}: {reason}", case.name))
            .collect();
        let state = format!(
            "SELECT state || coalesce(': ' || reason, '') FROM data_sync_table_state WHERE table_name = '{}'",
            case.name
        );
        let state = world.target.value(&state).await;
        if state == "live" && !is_equal(&world, case.name).await {
            writeln!(wrong, "{}: live and unequal", case.name).expect("a String");
        }
        if found != wanted.iter().collect::<Vec<_>>() || (state == "live") != reason.is_none() {
            writeln!(wrong, "{}: {state}, gaps {found:?}, wanted {wanted:?}", case.name).expect("a String");
        }
    }
    assert!(wrong.is_empty(), "{plugin:?}: {wrong}{ran}");
}
