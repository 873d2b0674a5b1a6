//! Until it is attached a table's rows are another table's, and until a partition is made its name may be another's: a copy
//! that takes them for the partition's all along is equal all the same, or its table has a gap.

use std::collections::BTreeSet;

use syncdata_tests::cases;
use syncdata_tests::world::Plugin;

use crate::story::{NONE, PARTITION, REWRITTEN, Story};

/// A table `{r}` with a default partition, what happens to it between two polls, and the reason of its gap.
struct Case {
    name: &'static str,
    /// Of the poll before.
    early: &'static str,
    /// Of the copy, at that time.
    here: &'static str,
    /// Each in a transaction of its own.
    then: &'static [&'static str],
    gap: Option<&'static str>,
}

const fn case(name: &'static str, then: &'static [&'static str], gap: Option<&'static str>) -> Case {
    Case { name, early: "", here: "", then, gap }
}

const ROOT: &str = "CREATE TABLE {r} (id int, day int, note text, PRIMARY KEY (id, day)) PARTITION BY RANGE (day);
    CREATE TABLE {r}_1 PARTITION OF {r} FOR VALUES FROM (0) TO (10); CREATE TABLE {r}_d PARTITION OF {r} DEFAULT;
    INSERT INTO {r} VALUES (1, 5, 'a'), (2, 15, 'b'), (3, 16, 'c');";

const GAP: Option<&str> = Some(PARTITION);

const CASES: &[Case] = &[
    // A default partition is split: the rows come before they go.
    case(
        "split",
        &["BEGIN; CREATE TABLE {r}_2 (LIKE {r} INCLUDING ALL); INSERT INTO {r}_2 SELECT * FROM {r}_d WHERE day < 20;
           DELETE FROM {r}_d WHERE day < 20; ALTER TABLE {r} ATTACH PARTITION {r}_2 FOR VALUES FROM (10) TO (20); COMMIT"],
        GAP,
    ),
    Case {
        early: "CREATE TABLE {r}_2 (LIKE {r} INCLUDING ALL)",
        ..case(
            "split_made_early",
            &["BEGIN; INSERT INTO {r}_2 SELECT * FROM {r}_d WHERE day < 20; DELETE FROM {r}_d WHERE day < 20;
               ALTER TABLE {r} ATTACH PARTITION {r}_2 FOR VALUES FROM (10) TO (20); COMMIT"],
            GAP,
        )
    },
    case(
        "split_made_before",
        &[
            "CREATE TABLE {r}_2 (LIKE {r} INCLUDING ALL)",
            "BEGIN; INSERT INTO {r}_2 SELECT * FROM {r}_d WHERE day < 20; DELETE FROM {r}_d WHERE day < 20;
             ALTER TABLE {r} ATTACH PARTITION {r}_2 FOR VALUES FROM (10) TO (20); COMMIT",
        ],
        GAP,
    ),
    case(
        "split_in_a_savepoint",
        &["BEGIN; SAVEPOINT s; CREATE TABLE {r}_2 (LIKE {r} INCLUDING ALL); INSERT INTO {r}_2 SELECT * FROM {r}_d WHERE day < 20;
           DELETE FROM {r}_d WHERE day < 20; ALTER TABLE {r} ATTACH PARTITION {r}_2 FOR VALUES FROM (10) TO (20); RELEASE s; COMMIT"],
        GAP,
    ),
    case(
        "split_in_two_levels",
        &["BEGIN; CREATE TABLE {r}_2 (LIKE {r} INCLUDING ALL) PARTITION BY RANGE (id); CREATE TABLE {r}_2a PARTITION OF {r}_2 DEFAULT;
           INSERT INTO {r}_2 SELECT * FROM {r}_d WHERE day < 20; DELETE FROM {r}_d WHERE day < 20;
           ALTER TABLE {r} ATTACH PARTITION {r}_2 FOR VALUES FROM (10) TO (20); COMMIT"],
        GAP,
    ),
    case(
        "split_by_updates",
        &["BEGIN; CREATE TABLE {r}_2 (LIKE {r} INCLUDING ALL); INSERT INTO {r}_2 SELECT * FROM {r}_d WHERE day < 20;
           UPDATE {r}_d SET day = day + 10; ALTER TABLE {r} ATTACH PARTITION {r}_2 FOR VALUES FROM (10) TO (20); COMMIT"],
        GAP,
    ),
    case(
        "split_the_other_way",
        &["BEGIN; CREATE TEMP TABLE moved ON COMMIT DROP AS SELECT * FROM {r}_d WHERE day < 20; DELETE FROM {r}_d WHERE day < 20;
           CREATE TABLE {r}_2 (LIKE {r} INCLUDING ALL); INSERT INTO {r}_2 SELECT * FROM moved;
           ALTER TABLE {r} ATTACH PARTITION {r}_2 FOR VALUES FROM (10) TO (20); COMMIT"],
        None,
    ),
    // What is loaded is looked over before it is attached.
    case(
        "duplicates_removed",
        &["BEGIN; CREATE TABLE {r}_2 (id int NOT NULL, day int NOT NULL, note text); ALTER TABLE {r}_2 REPLICA IDENTITY FULL;
           INSERT INTO {r}_2 VALUES (7, 21, 'a'), (7, 21, 'b'); DELETE FROM {r}_2 WHERE note = 'a';
           ALTER TABLE {r} ATTACH PARTITION {r}_2 FOR VALUES FROM (20) TO (30); COMMIT"],
        GAP,
    ),
    case(
        "duplicates_told_apart",
        &["BEGIN; CREATE TABLE {r}_2 (id int NOT NULL, day int NOT NULL, note text); ALTER TABLE {r}_2 REPLICA IDENTITY FULL;
           INSERT INTO {r}_2 VALUES (7, 21, 'a'), (7, 21, 'b'); UPDATE {r}_2 SET id = 8 WHERE note = 'a';
           ALTER TABLE {r} ATTACH PARTITION {r}_2 FOR VALUES FROM (20) TO (30); COMMIT"],
        GAP,
    ),
    case(
        "duplicates_in_a_savepoint",
        &["DO $$ BEGIN CREATE TABLE {r}_2 (id int NOT NULL, day int NOT NULL, note text); ALTER TABLE {r}_2 REPLICA IDENTITY FULL;
           INSERT INTO {r}_2 VALUES (7, 21, 'a'), (7, 21, 'b'); DELETE FROM {r}_2 WHERE note = 'a';
           ALTER TABLE {r} ATTACH PARTITION {r}_2 FOR VALUES FROM (20) TO (30); EXCEPTION WHEN division_by_zero THEN NULL; END $$"],
        GAP,
    ),
    // A TRUNCATE explains that its rows lie elsewhere, and nothing why.
    case(
        "computed_anew",
        &["BEGIN; CREATE TABLE {r}_2 (note text, day int NOT NULL, id int NOT NULL, PRIMARY KEY (id, day)); TRUNCATE {r}_2;
           INSERT INTO {r}_2 VALUES ('x', 21, 7); ALTER TABLE {r}_2 ALTER id TYPE int USING id + 100;
           ALTER TABLE {r} ATTACH PARTITION {r}_2 FOR VALUES FROM (20) TO (30); COMMIT"],
        GAP,
    ),
    // A column comes with a value that no row says.
    Case {
        early: "ALTER TABLE {r} ADD more int DEFAULT 5; INSERT INTO {r} VALUES (9, 9, 'x', 1)",
        here: "ALTER TABLE {r} ADD more int DEFAULT 5",
        ..case(
            "column_added",
            &["BEGIN; CREATE TABLE {r}_2 (id int, day int, note text, PRIMARY KEY (id, day)); INSERT INTO {r}_2 VALUES (7, 21, 'x');
               ALTER TABLE {r}_2 ADD more int DEFAULT 7; ALTER TABLE {r} ATTACH PARTITION {r}_2 FOR VALUES FROM (20) TO (30); COMMIT"],
            Some(REWRITTEN),
        )
    },
    Case {
        early: "ALTER TABLE {r} ADD more int DEFAULT 5; INSERT INTO {r} VALUES (9, 9, 'x', 1)",
        here: "ALTER TABLE {r} ADD more int DEFAULT 5",
        ..case(
            "column_added_and_altered",
            &[
                "CREATE TABLE {r}_2 (id int, day int, note text, PRIMARY KEY (id, day))",
                "BEGIN; INSERT INTO {r}_2 VALUES (7, 21, 'x'); ALTER TABLE {r}_2 ADD more int DEFAULT 7;
                 ALTER TABLE {r} ATTACH PARTITION {r}_2 FOR VALUES FROM (20) TO (30); COMMIT",
                "ALTER TABLE {r} ALTER more SET NOT NULL",
            ],
            Some(REWRITTEN),
        )
    },
    // As it is done every day.
    case(
        "loaded",
        &[
            "BEGIN; CREATE TABLE {r}_2 (LIKE {r} INCLUDING ALL); INSERT INTO {r}_2 VALUES (7, 21, 'x'), (8, 22, 'y');
             ALTER TABLE {r} ATTACH PARTITION {r}_2 FOR VALUES FROM (20) TO (30); COMMIT",
            "UPDATE {r} SET note = 'z' WHERE id IN (2, 7); DELETE FROM {r} WHERE id IN (1, 8)",
        ],
        None,
    ),
    case(
        "loaded_several",
        &["BEGIN; CREATE TABLE {r}_2 (LIKE {r} INCLUDING ALL); INSERT INTO {r}_2 VALUES (7, 21, 'x'); CREATE TABLE {r}_3 (LIKE {r});
           INSERT INTO {r}_3 VALUES (8, 31, 'y'); INSERT INTO {r}_2 VALUES (9, 22, 'z');
           ALTER TABLE {r} ATTACH PARTITION {r}_2 FOR VALUES FROM (20) TO (30);
           ALTER TABLE {r} ATTACH PARTITION {r}_3 FOR VALUES FROM (30) TO (40); COMMIT"],
        None,
    ),
    case(
        "loaded_made_before",
        &[
            "CREATE TABLE {r}_2 (LIKE {r} INCLUDING ALL)",
            "BEGIN; UPDATE {r} SET note = 'z' WHERE id = 1; INSERT INTO {r}_2 VALUES (7, 21, 'x');
             ALTER TABLE {r} ATTACH PARTITION {r}_2 FOR VALUES FROM (20) TO (30); COMMIT",
            "UPDATE {r} SET note = 'z' WHERE id IN (2, 7); DELETE FROM {r} WHERE id IN (1, 8)",
        ],
        None,
    ),
    case(
        "loaded_in_a_savepoint",
        &[
            "DO $$ BEGIN CREATE TABLE {r}_2 (LIKE {r} INCLUDING ALL); INSERT INTO {r}_2 VALUES (7, 21, 'x');
             ALTER TABLE {r} ATTACH PARTITION {r}_2 FOR VALUES FROM (20) TO (30); EXCEPTION WHEN division_by_zero THEN NULL; END $$",
            "INSERT INTO {r} VALUES (8, 22, 'y'); UPDATE {r} SET note = 'z' WHERE id = 2",
        ],
        None,
    ),
    case(
        "made_as_a_partition",
        &["BEGIN; CREATE TABLE {r}_2 PARTITION OF {r} FOR VALUES FROM (20) TO (30); INSERT INTO {r} VALUES (7, 21, 'x'), (8, 22, 'y');
           UPDATE {r} SET note = 'z'; DELETE FROM {r} WHERE id IN (2, 8); INSERT INTO {r} VALUES (2, 23, 'moved'); COMMIT"],
        None,
    ),
    case(
        "made_as_a_partition_and_altered",
        &[
            "BEGIN; CREATE TABLE {r}_2 PARTITION OF {r} FOR VALUES FROM (20) TO (30); INSERT INTO {r} VALUES (7, 21, 'x'), (8, 22, 'y'); COMMIT",
            "ALTER TABLE {r} ALTER note SET DEFAULT 'n'; UPDATE {r} SET note = 'z'; DELETE FROM {r} WHERE id = 8",
        ],
        None,
    ),
];

fn of(statement: &str, root: &str) -> String {
    statement.replace("{r}", root)
}

fn expected(cases: &[(&str, Option<&str>)]) -> BTreeSet<String> {
    cases.iter().filter_map(|(name, gap)| gap.map(|reason| format!("{name}: {reason}"))).collect()
}

/// Of those tables; where a publication decides what travels, rows from before the ATTACH are a gap anyhow.
fn check(gaps: &BTreeSet<String>, expected: &BTreeSet<String>, plugin: Plugin, context: &str) {
    if plugin == Plugin::Wal2json {
        assert_eq!(gaps, expected, "{context}");
    }
}

#[tokio::test]
async fn what_a_table_holds_when_it_is_attached_is_its_rows_alone_or_a_gap() {
    let names: Vec<&str> = CASES.iter().map(|case| case.name).collect();
    let schema: String = names.iter().map(|name| of(ROOT, name)).collect();
    for (listed, rows) in cases([(&names[..], 500_000), (&["*"][..], 500_000), (&names[..], 1)]) {
        let mut story = Story::start(listed, &schema, &names).await;
        for case in CASES {
            story.world.source.execute(&of(case.early, case.name)).await;
            story.world.target.execute(&of(case.here, case.name)).await;
        }
        assert_eq!(story.carry().await, NONE);
        for case in CASES {
            for statement in case.then {
                story.world.source.execute(&of(statement, case.name)).await;
            }
        }
        story.world.set_archiver("poll_max_changes", rows);
        let gaps = story.carry().await;
        let wanted: Vec<_> = CASES.iter().map(|case| (case.name, case.gap)).collect();
        check(&gaps, &expected(&wanted), story.world.plugin, &format!("{listed:?} {rows}"));
        story.mend().await;
        assert_eq!(story.after(&["UPDATE split SET note = 'later'; DELETE FROM loaded"]).await, NONE);
    }
}

/// What has its number early makes a partition late: who has written in between wrote into its namesake.
struct Namesake {
    name: &'static str,
    /// What the one that makes the partition does before the others write.
    begins: &'static str,
    /// What others write meanwhile.
    others: &'static str,
    makes: &'static str,
    /// Of others, after it.
    then: &'static str,
    is_exact: bool,
}

const MAKE: &str = "DROP TABLE {r}_2; CREATE TABLE {r}_2 PARTITION OF {r} FOR VALUES FROM (20) TO (30)";
const WRITE: &str = "INSERT INTO {r}_2 VALUES (50, 5, 'never in it'); UPDATE {r}_2 SET note = 'of another' WHERE id = 2; DELETE FROM {r}_2 WHERE id = 1";
const NUMBER: &str = "INSERT INTO log VALUES (1)";
const IN_PART: &str = "SAVEPOINT s; INSERT INTO log VALUES (1)";

const NAMESAKES: &[Namesake] = &[
    Namesake { name: "whole", begins: NUMBER, others: WRITE, makes: MAKE, then: "", is_exact: false },
    Namesake {
        name: "an_insert",
        begins: NUMBER,
        others: "INSERT INTO {r}_2 VALUES (50, 5, 'never in it')",
        makes: MAKE,
        then: "",
        is_exact: false,
    },
    Namesake {
        name: "an_update",
        begins: NUMBER,
        others: "UPDATE {r}_2 SET note = 'of another' WHERE id = 2",
        makes: MAKE,
        then: "",
        is_exact: false,
    },
    Namesake {
        name: "by_like",
        begins: NUMBER,
        others: WRITE,
        makes: "DROP TABLE {r}_2; CREATE TABLE {r}_2 (LIKE {r} INCLUDING ALL); ALTER TABLE {r} ATTACH PARTITION {r}_2 FOR VALUES FROM (20) TO (30)",
        then: "",
        is_exact: false,
    },
    // Nothing is settled while answers are cut, until what altered a column last has come.
    Namesake {
        name: "altered_later",
        begins: NUMBER,
        others: "INSERT INTO {r}_2 VALUES (50, 5, 'never in it')",
        makes: MAKE,
        then: "ALTER TABLE {r} ALTER note SET DEFAULT 'n'",
        is_exact: false,
    },
    // The number comes without a command.
    Namesake {
        name: "a_bare_number",
        begins: "SELECT pg_current_xact_id()",
        others: "INSERT INTO {r}_2 VALUES (50, 5, 'never in it'); DROP TABLE {r}_2",
        makes: "CREATE TABLE {r}_2 PARTITION OF {r} FOR VALUES FROM (20) TO (30)",
        then: "",
        is_exact: false,
    },
    Namesake {
        name: "itself",
        begins: "UPDATE {r}_2 SET note = 'of another' WHERE id = 2",
        others: "",
        makes: MAKE,
        then: "",
        is_exact: false,
    },
    Namesake {
        name: "itself_in_and_out",
        begins: "INSERT INTO {r}_2 VALUES (50, 5, 'x'); DELETE FROM {r}_2 WHERE id = 2",
        others: "",
        makes: MAKE,
        then: "INSERT INTO {r} VALUES (60, 25, 'own')",
        is_exact: false,
    },
    Namesake { name: "in_part_all", begins: IN_PART, others: WRITE, makes: MAKE, then: "", is_exact: false },
    Namesake {
        name: "in_part_an_insert",
        begins: IN_PART,
        others: "INSERT INTO {r}_2 VALUES (50, 5, 'never in it')",
        makes: MAKE,
        then: "",
        is_exact: false,
    },
    Namesake {
        name: "in_part_in_and_out",
        begins: IN_PART,
        others: "INSERT INTO {r}_2 VALUES (50, 5, 'never in it'); DELETE FROM {r}_2 WHERE id = 2",
        makes: MAKE,
        then: "INSERT INTO {r} VALUES (60, 25, 'own')",
        is_exact: false,
    },
    Namesake {
        name: "in_part_an_update_before",
        begins: "UPDATE {r}_2 SET note = 'of another' WHERE id = 2; SAVEPOINT s",
        others: "",
        makes: MAKE,
        then: "",
        is_exact: false,
    },
    // Nobody else had the name.
    Namesake {
        name: "exact",
        begins: NUMBER,
        others: "DROP TABLE {r}_2",
        makes: "CREATE TABLE {r}_2 PARTITION OF {r} FOR VALUES FROM (20) TO (30); INSERT INTO {r} VALUES (60, 25, 'own')",
        then: "UPDATE {r} SET note = 'later'; INSERT INTO {r} VALUES (61, 26, 'own')",
        is_exact: true,
    },
    Namesake {
        name: "in_part_exact",
        begins: IN_PART,
        others: "DROP TABLE {r}_2",
        makes: "CREATE TABLE {r}_2 PARTITION OF {r} FOR VALUES FROM (20) TO (30); INSERT INTO {r} VALUES (60, 25, 'own')",
        then: "UPDATE {r}_1 SET note = 'later'; INSERT INTO {r} VALUES (61, 26, 'own')",
        is_exact: true,
    },
];

#[tokio::test]
async fn rows_of_a_namesake_are_not_the_partition_s_whoever_has_the_lower_number() {
    let names: Vec<&str> = NAMESAKES.iter().map(|case| case.name).collect();
    let with_namesake = "CREATE TABLE {r} (id int, day int, note text, PRIMARY KEY (id, day)) PARTITION BY RANGE (day);
        CREATE TABLE {r}_1 PARTITION OF {r} FOR VALUES FROM (0) TO (10); CREATE TABLE {r}_2 (LIKE {r} INCLUDING ALL);
        INSERT INTO {r} VALUES (1, 5, 'a'), (2, 5, 'b'); INSERT INTO {r}_2 VALUES (1, 5, 'x'), (2, 5, 'x');";
    let schema: String = names.iter().map(|name| of(with_namesake, name)).collect();
    let schema = format!("CREATE TABLE log (x int); {schema}");
    for (listed, rows) in cases([(&names[..], 500_000), (&["*"][..], 500_000), (&names[..], 1)]) {
        let mut story = Story::start(listed, &schema, &names).await;
        for case in NAMESAKES {
            let maker = story.world.source.connect().await;
            maker.batch_execute(&of(&format!("BEGIN; {}", case.begins), case.name)).await.expect("begins");
            story.world.source.execute(&of(case.others, case.name)).await;
            maker.batch_execute(&of(&format!("{}; COMMIT", case.makes), case.name)).await.expect("makes");
            story.world.source.execute(&of(case.then, case.name)).await;
        }
        story.world.set_archiver("poll_max_changes", rows);
        let gaps = story.carry().await;
        for case in NAMESAKES.iter().filter(|_| story.world.plugin == Plugin::Wal2json) {
            let of_it = |reason: &&str| gaps.contains(&format!("{}: {reason}", case.name));
            let has_gap = [PARTITION, REWRITTEN].iter().any(of_it);
            // A name that was captured itself is in doubt anyhow.
            let wants_gap = !case.is_exact || listed == ["*"];
            assert!(has_gap == wants_gap, "{} {listed:?} {rows}: {gaps:?}", case.name);
        }
        story.mend().await;
        if listed != ["*"] {
            // What is empty and known to be so goes without a gap.
            assert_eq!(story.after(&["DELETE FROM exact", "DELETE FROM in_part_exact"]).await, NONE);
            assert_eq!(story.after(&["DROP TABLE exact_2", "DROP TABLE in_part_exact_2"]).await, NONE);
        }
    }
}
