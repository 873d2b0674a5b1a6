//! Tables that get another name in the very transaction that makes or fills them, or in one that nobody sees yet.

use std::collections::BTreeSet;
use std::time::Duration;

use syncdata_tests::cases;

use crate::story::{ANOTHER, NONE, NOT_CAPTURED, PARTITION, Story, only};

const COLUMNS: &str = "(id int, day int, note text, PRIMARY KEY (id, day))";

/// Which is how swap scripts do it: made under another name, filled, renamed. A new owner is no new name.
#[tokio::test]
async fn a_name_that_a_table_gets_in_the_transaction_that_makes_it_is_not_its_first() {
    let root = |name: &str| format!("CREATE TABLE {name} {COLUMNS} PARTITION BY RANGE (day);");
    let roots = ["r0", "r1", "r2", "r3", "r4", "born", "owned"];
    let schema = format!(
        "CREATE ROLE owner_of_all; CREATE SCHEMA stage; CREATE TABLE a {COLUMNS}; INSERT INTO a VALUES (1, 1, 'a'); {}",
        roots.map(root).join(" ")
    );
    let rows = "SELECT g, g, 'y' FROM generate_series(1, 3) g";
    let range = "FOR VALUES FROM (0) TO (10)";
    let filled = |name: &str, root: &str| {
        format!("CREATE TABLE {name} (LIKE {root} INCLUDING ALL); INSERT INTO {name} {rows};")
    };
    let attach = |root: &str, name: &str| format!("ALTER TABLE {root} ATTACH PARTITION {name} {range}");
    let made = |name: &str, root: &str| format!("CREATE TABLE {name} PARTITION OF {root} {range};");
    let partitions = [
        format!("{} ALTER TABLE p_tmp RENAME TO p0; {}", filled("p_tmp", "r0"), attach("r0", "p0")),
        format!("{} INSERT INTO r1 {rows}; ALTER TABLE p_tmp RENAME TO p1", made("p_tmp", "r1")),
        format!("{} ALTER TABLE stage.p2 SET SCHEMA public; {}", filled("stage.p2", "r2"), attach("r2", "p2")),
        format!(
            "SAVEPOINT s; {} INSERT INTO r3 {rows}; ALTER TABLE p_tmp RENAME TO p3; RELEASE s",
            made("p_tmp", "r3")
        ),
        // Its owner is written last, and its name before that.
        format!(
            "{} ALTER TABLE p_tmp RENAME TO p4; ALTER TABLE p4 OWNER TO owner_of_all; {}",
            filled("p_tmp", "r4"),
            attach("r4", "p4")
        ),
        format!("{} {}", filled("p5", "born"), attach("born", "p5")),
        format!(
            "CREATE TABLE p6 (id int NOT NULL, day int NOT NULL, note text DEFAULT 'z'); ALTER TABLE p6 OWNER TO owner_of_all;
             INSERT INTO p6 {rows}; ALTER TABLE p6 ADD PRIMARY KEY (id, day); {}",
            attach("owned", "p6")
        ),
    ];
    let as_select = |name: &str| {
        format!(
            "CREATE TABLE {name} AS SELECT g AS id, g AS day, 'x'::text AS note FROM generate_series(1, 3) g;
            ALTER TABLE {name} ADD PRIMARY KEY (id, day);"
        )
    };
    let tables = [
        format!("{} ALTER TABLE m_tmp RENAME TO m0", as_select("m_tmp")),
        format!("{} ALTER TABLE stage.m1 SET SCHEMA public", as_select("stage.m1")),
        format!("SAVEPOINT s; {} ALTER TABLE m_tmp RENAME TO m2; RELEASE s", as_select("m_tmp")),
        format!("{} ALTER TABLE m_tmp RENAME TO m3; ALTER TABLE m3 OWNER TO owner_of_all", as_select("m_tmp")),
        format!("DO $$ BEGIN {} ALTER TABLE m_tmp RENAME TO m4; END $$", as_select("m_tmp")),
        // What was undone has left its command where the first one's would stand.
        format!("{} SAVEPOINT s; ALTER TABLE m5 RENAME TO x; ROLLBACK TO s", as_select("m5")),
        as_select("exact"),
        format!(
            "CREATE TABLE given (id int, day int CHECK (day > 0), note text DEFAULT 'x', PRIMARY KEY (id, day), UNIQUE (day));
             ALTER TABLE given OWNER TO owner_of_all; INSERT INTO given {rows}"
        ),
        "CREATE TABLE numbered (id int GENERATED ALWAYS AS IDENTITY, day serial, note text, PRIMARY KEY (id, day));
             ALTER TABLE numbered OWNER TO owner_of_all; INSERT INTO numbered (note) VALUES ('x')"
            .to_owned(),
    ];
    let in_one = |work: &String| format!("BEGIN; {work}; COMMIT");
    for listed in cases([&["a", "r0", "r1", "r2", "r3", "r4", "born", "owned"][..], &["*"]]) {
        let copied = ["a", "r0", "r1", "r2", "r3", "r4", "born", "owned"];
        let mut story = Story::start(listed, &schema, &copied).await;
        let mut work: Vec<String> = partitions.iter().map(in_one).collect();
        let mut expected: BTreeSet<String> =
            roots[..5].iter().flat_map(|root| only(root, PARTITION)).collect();
        if listed == ["*"] {
            work.extend(tables.iter().map(in_one));
            expected.extend((0..6).flat_map(|n| only(&format!("m{n}"), NOT_CAPTURED)));
        }
        let work: Vec<&str> = work.iter().map(String::as_str).collect();
        assert_eq!(story.after(&work).await, expected, "{listed:?}");
        if listed == ["*"] {
            for table in ["m0", "m1", "m2", "m3", "m4", "m5", "exact", "given", "numbered"] {
                story.world.target.execute(&format!("CREATE TABLE {table} {COLUMNS}")).await;
                story.world.applier(["add-tables", table]).run().await;
                story.copied.push(table.to_owned());
            }
            story.world.applier(["sync"]).run().await;
            story.never_unequal_and_live().await;
            for table in ["exact", "given", "numbered"] {
                assert_eq!(story.state(table).await, "live", "{table}: it has its rows without a base copy");
            }
        }
        for root in ["a", "born", "owned"] {
            assert_eq!(story.state(root).await, "live", "{listed:?}");
        }
        story.mend().await;
        assert_eq!(story.after(&["INSERT INTO r1 VALUES (7, 7, 'later')", "TRUNCATE r2"]).await, NONE);
    }
}

/// Its rows come under names that no catalog shows yet, and once it shows the new ones, nothing more comes.
#[tokio::test]
async fn a_rename_in_a_commit_that_waits_for_a_standby_is_a_gap_of_its_table() {
    let schema = format!(
        "CREATE SCHEMA shop; CREATE TABLE shop.t {COLUMNS}; CREATE TABLE a {COLUMNS}; CREATE TABLE quiet {COLUMNS};
         CREATE TABLE r {COLUMNS} PARTITION BY RANGE (day); CREATE TABLE r0 PARTITION OF r FOR VALUES FROM (0) TO (10);
         CREATE TABLE q {COLUMNS} PARTITION BY RANGE (day); CREATE TABLE q0 PARTITION OF q FOR VALUES FROM (0) TO (10)"
    );
    // With a right besides, and in a part of the transaction.
    let done = "SET synchronous_commit = on; BEGIN; INSERT INTO quiet VALUES (2, 2, 'x');
        ALTER TABLE r0 RENAME TO r0x; INSERT INTO r VALUES (2, 5, 'renamed');
        ALTER TABLE a RENAME TO b; INSERT INTO b VALUES (2, 2, 'renamed'); ALTER TABLE b RENAME TO a;
        GRANT USAGE ON SCHEMA shop TO PUBLIC; ALTER SCHEMA shop RENAME TO other; INSERT INTO other.t VALUES (2, 2, 'x');
        ALTER SCHEMA other RENAME TO shop;
        SAVEPOINT s; ALTER TABLE q0 RENAME TO q1; INSERT INTO q VALUES (2, 5, 'renamed'); RELEASE s; COMMIT";
    for (polls, listed) in cases([(1, &["a", "quiet", "r", "q", "shop.t"][..]), (2, &["*"])]) {
        let mut story = Story::start(listed, &schema, &["a", "quiet", "r", "q", "shop.t"]).await;
        let first = [
            "INSERT INTO r VALUES (1, 1, 'one'); INSERT INTO q VALUES (1, 1, 'one')",
            "INSERT INTO a VALUES (1, 1, 'one'); INSERT INTO shop.t VALUES (1, 1, 'one')",
        ];
        assert_eq!(story.after(&first).await, NONE);
        story.world.source.execute("ALTER DATABASE app SET synchronous_commit = local").await;
        story.world.source.append_setting("synchronous_standby_names", "nobody");
        story.world.source.restart().await;
        let client = story.world.source.connect().await;
        let waits = tokio::spawn(async move { client.batch_execute(done).await.expect("it ends some time") });
        let waiting = "SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'SyncRep'";
        while story.world.source.value(waiting).await == "0" {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        // Once, or again before it is seen. It holds its locks: nobody can compare.
        for id in 0..polls {
            let insert = format!("INSERT INTO quiet VALUES (1, {id}, 'one')");
            story.world.source.execute(&insert).await;
            story.world.carry().await;
        }
        story.world.source.append_setting("synchronous_standby_names", "");
        story.world.source.reload();
        waits.await.expect("it was committed");
        let expected: BTreeSet<String> =
            [only("a", ANOTHER), only("q", PARTITION), only("r", PARTITION), only("shop.t", ANOTHER)]
                .into_iter()
                .flatten()
                .collect();
        assert_eq!(story.after(&["INSERT INTO quiet VALUES (3, 3, 'x')"]).await, expected, "{listed:?}");
        assert_eq!(story.state("quiet").await, "live");
        story.mend().await;
    }
}
