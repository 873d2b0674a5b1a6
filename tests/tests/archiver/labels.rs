//! Labels of enums get other names, which waits for nobody: not for who has written them, nor for who reads them.

use std::collections::BTreeSet;
use std::time::Duration;

use syncdata_tests::world::World;

use crate::scene;
use crate::story::{NONE, PARTITION, Story, only};

const TYPE: &str = "a type was altered";
const COLUMNS: &str = "(id int, day int, note text, PRIMARY KEY (id, day))";
const TABLES: [&str; 6] = ["felt", "listed", "of_domain", "inside", "orders", "quiet"];

/// Those whose values are labels, or have some.
fn of_labels() -> BTreeSet<String> {
    TABLES[..4].iter().flat_map(|table| only(table, TYPE)).collect()
}

/// A row of each of these tables.
fn rows(id: u32, label: &str, tables: &[&str]) -> String {
    let value = |table: &str| match table {
        "listed" => format!("ARRAY['{label}', NULL]::mood[]"),
        "inside" => format!("ROW(1, '{label}')::feels"),
        _ => format!("'{label}'"),
    };
    let rows =
        tables.iter().map(|table| format!("INSERT INTO {table} VALUES ({id}, {id}, {});", value(table)));
    rows.collect()
}

async fn story() -> Story {
    let mut schema = format!(
        "CREATE TYPE mood AS ENUM ('sad', 'ok'); CREATE DOMAIN feeling AS mood; CREATE TYPE feels AS (n int, m mood);
         CREATE SCHEMA parts; CREATE TABLE quiet {COLUMNS}; CREATE TABLE orders {COLUMNS} PARTITION BY RANGE (day);
         CREATE TABLE parts.orders_1 PARTITION OF orders FOR VALUES FROM (0) TO (100);"
    );
    let of = [("felt", "mood"), ("listed", "mood[]"), ("of_domain", "feeling"), ("inside", "feels")];
    for (table, column) in of {
        schema += &format!("CREATE TABLE {table} {};", COLUMNS.replace("text", column));
    }
    schema += &rows(1, "ok", &TABLES[..4]);
    let mut story = Story::start(&TABLES, &schema, &TABLES).await;
    // A segment has told the labels.
    assert_eq!(story.after(&[&rows(2, "sad", &TABLES[..4])]).await, NONE);
    story
}

#[tokio::test]
async fn what_a_label_that_came_was_called_is_a_gap_where_rows_of_an_open_transaction_say_it() {
    let mut story = story().await;
    let writer = story.world.source.connect().await;
    for (id, (came, renamed), polls_between) in [(10, ("hapy", "happy"), false), (20, ("gad", "glad"), true)]
    {
        story.world.source.execute(&format!("ALTER TYPE mood ADD VALUE '{came}'")).await;
        let written = format!("BEGIN; {}", rows(id, came, &TABLES[..4]));
        writer.batch_execute(&written).await.expect("nobody is in its way");
        story.world.source.execute(&format!("ALTER TYPE mood RENAME VALUE '{came}' TO '{renamed}'")).await;
        if polls_between {
            for id in [id + 1, id + 2] {
                assert_eq!(story.after(&[&rows(id, "ok", &["quiet", "felt"])]).await, NONE);
            }
        }
        writer.batch_execute("COMMIT").await.expect("it is open");
        assert_eq!(story.after(&[&rows(id + 3, renamed, &["quiet", "felt"])]).await, of_labels());
        story.mend().await;
        assert_eq!(story.after(&[&rows(id + 4, renamed, &TABLES)]).await, NONE);
    }
}

#[tokio::test]
async fn a_label_that_only_comes_is_no_doubt_about_what_an_open_transaction_says() {
    let mut story = story().await;
    let writer = story.world.source.connect().await;
    let plain = ["felt", "listed", "of_domain"];
    writer.batch_execute(&format!("BEGIN; {}", rows(10, "ok", &plain))).await.expect("nobody is in its way");
    story.world.source.execute(&rows(11, "sad", &plain)).await;
    story.world.source.execute("ALTER TYPE mood ADD VALUE 'new' BEFORE 'ok'").await;
    let between = [&rows(12, "new", &plain), &rows(13, "ok", &plain)];
    assert_eq!(story.after(&between.map(String::as_str)).await, NONE);
    writer.batch_execute(&format!("{} COMMIT", rows(14, "new", &plain))).await.expect("it is open");
    assert_eq!(story.after(&[&rows(15, "new", &plain)]).await, NONE);
    assert_eq!(story.after(&[&rows(16, "new", &TABLES)]).await, NONE);
}

/// The highest number that the source's snapshot knows of is not the highest that was given: that one is still open.
#[tokio::test]
async fn who_was_open_when_something_was_renamed_may_have_the_highest_number_of_all() {
    let mut story = story().await;
    let source = &story.world.source;
    let (renames, writer) = (source.connect().await, source.connect().await);
    renames.batch_execute(&format!("BEGIN; {}", rows(10, "ok", &["felt"]))).await.expect("begins");
    writer.batch_execute(&format!("BEGIN; {}", rows(11, "sad", &["felt", "orders"]))).await.expect("begins");
    let renamed =
        "ALTER TYPE mood RENAME VALUE 'sad' TO 'blue'; ALTER SCHEMA parts RENAME TO parts_2; COMMIT";
    renames.batch_execute(renamed).await.expect("it waits for nobody");
    let gaps = story.carry().await;
    // Whose labels are not told by a segment, or lie in arrays and the like.
    let expected = ["listed", "of_domain", "inside"].iter().flat_map(|table| only(table, TYPE)).collect();
    assert_eq!(gaps, expected);
    story.world.target.execute("UPDATE felt SET note = 'blue' WHERE note = 'sad'").await;
    story.world.applier(["retry", "felt"]).run().await;
    writer.batch_execute("COMMIT").await.expect("it is open");
    let expected: BTreeSet<String> =
        [only("felt", TYPE), only("orders", PARTITION)].into_iter().flatten().collect();
    assert_eq!(story.carry().await, expected);
    story.mend().await;
    assert_eq!(story.after(&[&rows(12, "blue", &TABLES)]).await, NONE);
}

#[tokio::test]
async fn what_a_label_was_called_for_a_moment_is_a_gap() {
    let mut story = story().await;
    let felt = ["felt"];
    let rename = |from: &str, to: &str| format!("ALTER TYPE mood RENAME VALUE '{from}' TO '{to}'");
    let statements = [
        rows(10, "ok", &felt),
        rename("ok", "so-so"),
        rows(11, "so-so", &felt),
        rename("so-so", "fine"),
        rows(12, "fine", &felt),
    ];
    assert_eq!(story.after(&statements.each_ref().map(String::as_str)).await, of_labels());
    story.mend().await;
    assert_eq!(story.after(&[&rows(13, "fine", &TABLES)]).await, NONE);
}

/// What a segment tells of labels is what its rows may say.
#[tokio::test]
async fn a_label_that_is_renamed_while_the_slot_is_read_is_told_with_what_comes_after() {
    const POINT: &str = "read.stretch_read";
    let mut story = story().await;
    let (world, felt) = (&story.world, ["felt"]);
    let (gates, trace) = (world.folder().join("gates"), world.folder().join("trace"));
    std::fs::create_dir(&gates).expect("the world's folder is writable");
    std::fs::write(gates.join(POINT), "").expect("a gate");
    world.source.execute(&rows(10, "ok", &felt)).await;
    let archiver = world.archiver(["run", "--once"]).env("SYNCDATA_FAULT_GATES", &gates).trace(&trace);
    let archiver = archiver.spawn();
    while !std::fs::read_to_string(&trace).unwrap_or_default().contains(POINT) {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    world.source.execute(&rows(11, "sad", &felt)).await;
    world.source.execute("ALTER TYPE mood RENAME VALUE 'sad' TO 'blue'").await;
    std::fs::remove_file(gates.join(POINT)).expect("a gate");
    archiver.ended().await.expect_code(0);
    world.applier(["sync"]).succeed().await;
    story.after(&[&rows(12, "blue", &felt)]).await;
    assert_eq!(story.state("felt").await, "quarantined", "it has rows with the old name");
    story.world.target.execute("UPDATE felt SET note = 'blue' WHERE note = 'sad'").await;
    story.world.applier(["retry", "felt"]).run().await;
    story.never_unequal_and_live().await;
    assert_eq!(story.state("felt").await, "live");
}

/// What is kept of old rows keeps the label, whatever it is called: when the rows are written anew, the catalog forgets it.
#[tokio::test]
async fn what_rows_have_that_are_older_than_a_column_gets_the_name_that_its_label_has_now() {
    let world = World::start().await;
    let make = "CREATE TABLE plain (id int PRIMARY KEY, note text); CREATE TABLE parted (id int PRIMARY KEY, note text)";
    world.target.execute(make).await;
    let parted =
        "PARTITION BY RANGE (id); CREATE TABLE parted_1 PARTITION OF parted FOR VALUES FROM (0) TO (1000)";
    world.source.execute(&format!("CREATE TYPE mood AS ENUM ('sad', 'ok'); {make} {parted}")).await;
    for table in ["plain", "parted"] {
        world
            .source
            .execute(&format!("INSERT INTO {table} SELECT i, 'x' FROM generate_series(1, 9) i"))
            .await;
    }
    world.make_slot().await;
    world.archiver(["run", "--once"]).succeed().await;
    world.archiver(["snapshot"]).succeed().await;
    world.applier(["add-tables", "plain", "parted"]).succeed().await;
    world.carry().await;
    for table in ["plain", "parted"] {
        world.source.execute(&format!("ALTER TABLE {table} ADD m mood DEFAULT 'sad'")).await;
    }
    world.archiver(["run", "--once"]).succeed().await;
    world.source.execute("ALTER TYPE mood RENAME VALUE 'sad' TO 'blue'").await;
    world.source.execute("VACUUM FULL plain").await;
    for table in ["plain", "parted"] {
        world.source.execute(&format!("INSERT INTO {table} VALUES (100, 'y', 'ok')")).await;
    }
    world.archiver(["run", "--once"]).succeed().await;
    world.target.execute("CREATE TYPE mood AS ENUM ('blue', 'ok')").await;
    world.applier(["sync"]).run().await.expect_code(1);
    for table in ["plain", "parted"] {
        let reason = format!("SELECT reason FROM data_sync_table_state WHERE table_name = '{table}'");
        let reason = world.target.value(&reason).await;
        let (_, statement) = reason.split_once("run: ").unwrap_or_else(|| panic!("{reason}"));
        assert!(statement.contains("DEFAULT 'blue'"), "{reason}");
        world.target.execute(statement).await;
    }
    world.applier(["retry", "plain", "parted"]).succeed().await;
    world.assert_same(&["plain", "parted"]).await;
    // From base copies that are older than the column.
    world.target.execute("UPDATE plain SET m = NULL; UPDATE parted SET m = NULL").await;
    world.applier(["resync", "plain", "parted"]).succeed().await;
    world.assert_same(&["plain", "parted"]).await;
}

/// The archive has a base copy that is older than a column, and who knew what its rows have there is lost with the spool.
#[tokio::test]
async fn partitions_that_have_different_values_in_old_rows_are_a_gap_for_a_new_spool() {
    let world = World::start().await;
    let make = "CREATE TABLE ev (id int PRIMARY KEY, n int)";
    world.target.execute(make).await;
    let parted = "PARTITION BY RANGE (id); CREATE TABLE ev_1 PARTITION OF ev FOR VALUES FROM (0) TO (50)";
    world.source.execute(&format!("{make} {parted}; INSERT INTO ev VALUES (1, 1)")).await;
    world.make_slot().await;
    world.archiver(["run", "--once"]).succeed().await;
    world.archiver(["snapshot"]).succeed().await;
    world.applier(["add-tables", "ev"]).succeed().await;
    world.source.execute("ALTER TABLE ev ADD more int; INSERT INTO ev VALUES (2, 2, 2)").await;
    world.target.execute("ALTER TABLE ev ADD more int").await;
    world.carry().await;
    let attach = "CREATE TABLE ev_2 (id int PRIMARY KEY, n int); ALTER TABLE ev_2 ADD more int DEFAULT 7;
        ALTER TABLE ev ATTACH PARTITION ev_2 FOR VALUES FROM (50) TO (100); INSERT INTO ev VALUES (51, 1, 1)";
    for statement in attach.split(';') {
        world.source.execute(statement).await;
    }
    world.carry().await;
    world.assert_same(&["ev"]).await;
    std::fs::remove_dir_all(world.spool_dir()).expect("our folder");
    // Nothing was written since.
    world.archiver(["run", "--once"]).run().await;
    world.source.execute("INSERT INTO ev VALUES (3, 3, 3)").await;
    world.archiver(["run", "--once"]).run().await;
    assert_eq!(scene::gaps_with_reasons(&world), only("ev", "rewritten by ALTER TABLE"));
    world.applier(["sync"]).run().await.expect_code(1);
    world.applier(["resync", "ev"]).run().await.expect_code(1);
    world.archiver(["snapshot"]).succeed().await;
    world.archiver(["run", "--once"]).succeed().await;
    world.applier(["resync", "ev"]).succeed().await;
    world.carry().await;
    world.assert_same(&["ev"]).await;
    assert_eq!(scene::gaps_with_reasons(&world), only("ev", "rewritten by ALTER TABLE"), "once");
}
