//! Tables that change at the source in the middle of the stream: what the copy can take goes on, the rest waits for the
//! statement that is printed. Production, archiver and applier are the real ones.

use syncdata_tests::{Finished, World, WorldOptions};

const SLOT: &str = "SELECT pg_create_logical_replication_slot('syncdata_slot', 'wal2json')";
const TABLE: &str = "CREATE TYPE mood AS ENUM ('ok'); CREATE TABLE t (id int PRIMARY KEY, a text, n numeric(5,2), \
                     small int, gone int, m mood)";

async fn world() -> World {
    let world = WorldOptions::default().without_sftp().start().await;
    world.execute_on_both(TABLE).await;
    world.source.execute(SLOT).await;
    world.source.execute("INSERT INTO t VALUES (1, 'one', 1.50, 1, 1, 'ok')").await;
    world.archiver(["run", "--once"]).succeed().await;
    world.applier(["add-tables", "t"]).succeed().await;
    world.applier(["sync"]).succeed().await;
    world
}

/// The statement that `sync` prints for the table that waits.
fn statement(sync: &Finished) -> String {
    let line = sync.stdout.lines().find(|line| line.starts_with("t: quarantined: "));
    let line = line.unwrap_or_else(|| panic!("the table goes on: {sync}"));
    let (_, statement) = line.split_once("; run: ").unwrap_or_else(|| panic!("no statement: {sync}"));
    statement.to_owned()
}

/// The source does this; the copy waits, takes the statement that it prints, and has everything.
async fn is_mended_by_what_is_printed(world: &World, source: &str, says: &str) {
    // Each a transaction of its own.
    for statement in source.split("; ") {
        world.source.execute(statement).await;
    }
    world.archiver(["run", "--once"]).succeed().await;
    let sync = world.applier(["sync"]).run().await.expect_code(1);
    let statement = statement(&sync);
    assert!(statement.contains(says), "{says:?} is not in {statement:?}");
    // Meanwhile more comes.
    world.source.execute("INSERT INTO t (id) SELECT max(id) + 1 FROM t").await;
    world.archiver(["run", "--once"]).succeed().await;
    world.applier(["sync"]).run().await.expect_code(1);
    world.target.execute(&statement).await;
    world.applier(["retry", "t"]).succeed().await;
    world.assert_same(&["t"]).await;
}

#[tokio::test]
async fn a_table_that_changes_in_the_middle_of_the_stream_goes_on_or_waits_for_the_statement_that_is_printed()
{
    let world = world().await;
    is_mended_by_what_is_printed(
        &world,
        "INSERT INTO t VALUES (2, 'two'); ALTER TABLE t ADD b jsonb; INSERT INTO t (id, b) VALUES (3, '{\"x\": 1}')",
        r#"ADD COLUMN "b" jsonb"#,
    )
    .await;
    is_mended_by_what_is_printed(
        &world,
        "UPDATE t SET a = 'before' WHERE id = 1; ALTER TABLE t RENAME a TO label; UPDATE t SET label = 'after'",
        r#"RENAME COLUMN "a" TO "label""#,
    )
    .await;
    is_mended_by_what_is_printed(
        &world,
        "ALTER TABLE t ALTER small TYPE bigint; UPDATE t SET small = 5000000000 WHERE id = 1",
        r#"ALTER COLUMN "small" TYPE bigint"#,
    )
    .await;
    is_mended_by_what_is_printed(
        &world,
        "ALTER TYPE mood ADD VALUE 'it''s new'; UPDATE t SET m = 'it''s new' WHERE id = 2",
        "ALTER TYPE public.mood ADD VALUE 'it''s new'",
    )
    .await;
    is_mended_by_what_is_printed(
        &world,
        "ALTER TYPE mood RENAME VALUE 'ok' TO 'fine'; UPDATE t SET m = 'fine' WHERE id = 2",
        "ALTER TYPE public.mood RENAME VALUE 'ok' TO 'fine'",
    )
    .await;
    // What old rows have in it comes with the statement.
    is_mended_by_what_is_printed(
        &world,
        "INSERT INTO t (id) VALUES (50); ALTER TABLE t ADD since timestamptz NOT NULL DEFAULT '2026-01-01 00:00+02'; \
         ALTER TABLE t ALTER since DROP DEFAULT; INSERT INTO t (id, since) VALUES (51, '2026-02-01'); ALTER TABLE t ALTER since SET DEFAULT now()",
        r#"ADD COLUMN "since" timestamp with time zone DEFAULT '2025-12-31 22:00:00+00' NOT NULL"#,
    )
    .await;
    // A column that is gone at the source stays here, and is NULL in new rows.
    world.source.execute("ALTER TABLE t DROP gone; INSERT INTO t (id) VALUES (100)").await;
    world.carry().await;
    world.assert_same(&["t"]).await;
    assert_eq!(world.target.value("SELECT count(*) FROM t WHERE id = 100 AND gone IS NULL").await, "1");
}

#[tokio::test]
async fn a_column_that_is_no_longer_generated_at_the_source_waits_for_its_statement() {
    let world = world().await;
    world.execute_on_both("ALTER TABLE t ADD twice int GENERATED ALWAYS AS (small * 2) STORED").await;
    // That wrote the source's table anew, and what it wrote does not travel: a gap, which a snapshot mends.
    world.archiver(["run", "--once"]).run().await.expect_code(1);
    world.archiver(["snapshot"]).succeed().await;
    world.applier(["sync"]).run().await.expect_code(1);
    world.applier(["resync", "t"]).succeed().await;
    is_mended_by_what_is_printed(
        &world,
        "UPDATE t SET small = 3; ALTER TABLE t ALTER twice DROP EXPRESSION; UPDATE t SET twice = 7",
        r#"ALTER COLUMN "twice" DROP EXPRESSION"#,
    )
    .await;
    assert_eq!(world.target.value("SELECT twice FROM t WHERE id = 1").await, "7");
}

#[tokio::test]
async fn a_table_that_is_renamed_at_the_source_is_missed_by_check() {
    let world = world().await;
    world
        .source
        .execute("INSERT INTO t VALUES (2); ALTER TABLE t RENAME TO renamed; INSERT INTO renamed VALUES (3)")
        .await;
    // The rows that came under the old name are none of the new one's.
    let renamed = world.archiver(["run", "--once"]).run().await.expect_code(1);
    assert!(renamed.stderr.contains("another table of this name"), "{renamed}");
    let synced = world.applier(["sync"]).succeed().await;
    assert!(synced.stdout.contains("captured no more"), "{synced}");
    assert_eq!(world.target.value("SELECT max(id) FROM t").await, "2");
    let check = world.applier(["check"]).run().await;
    assert!(check.stdout.contains("does not capture t"), "{check}");
}

#[tokio::test]
async fn a_null_that_the_copy_does_not_take_waits_for_its_statement() {
    let world = world().await;
    world.target.execute("ALTER TABLE t ALTER a SET NOT NULL").await;
    is_mended_by_what_is_printed(&world, "INSERT INTO t VALUES (2)", r#"ALTER COLUMN "a" DROP NOT NULL"#)
        .await;
}

#[tokio::test]
async fn a_column_that_was_dropped_behind_rows_that_have_it_can_be_lent_to_them() {
    let world = world().await;
    // One transaction has rows of both shapes, and the copy was altered too early.
    world.source.execute("UPDATE t SET gone = 2; ALTER TABLE t DROP gone; UPDATE t SET a = 'new'").await;
    world.target.execute("ALTER TABLE t DROP gone").await;
    world.archiver(["run", "--once"]).succeed().await;
    let sync = world.applier(["sync"]).run().await.expect_code(1);
    assert!(sync.stdout.contains("the source has dropped it since"), "{sync}");
    world.target.execute(&statement(&sync)).await;
    world.applier(["retry", "t"]).succeed().await;
    world.assert_same(&["t"]).await;
}

#[tokio::test]
async fn a_label_that_got_another_name_and_comes_no_more_is_noticed() {
    let world = WorldOptions::default().without_sftp().start().await;
    world
        .source
        .execute(
            "CREATE TYPE mood AS ENUM ('sad', 'ok'); CREATE TABLE t (id int PRIMARY KEY, m mood, n mood)",
        )
        .await;
    world
        .target
        .execute(
            "CREATE TYPE mood AS ENUM ('sad', 'ok'); CREATE TABLE t (id int PRIMARY KEY, m mood, n text)",
        )
        .await;
    world.source.execute(SLOT).await;
    world.source.execute("INSERT INTO t VALUES (1, 'sad', 'sad'), (2, 'ok', 'ok')").await;
    world.archiver(["run", "--once"]).succeed().await;
    world.applier(["add-tables", "t"]).succeed().await;
    world.applier(["sync"]).succeed().await;
    // The last row with the old name, and others afterwards.
    world.source.execute("INSERT INTO t VALUES (3, 'sad', NULL)").await;
    world.source.execute("ALTER TYPE mood RENAME VALUE 'sad' TO 'blue'").await;
    world.source.execute("INSERT INTO t VALUES (4, 'ok', NULL)").await;
    world.archiver(["run", "--once"]).succeed().await;
    let mut said = world.applier(["sync"]).run().await.expect_code(1);
    for statement in [
        "ALTER TYPE public.mood RENAME VALUE 'sad' TO 'blue'",
        r#"UPDATE "public"."t" SET "n" = 'blue' WHERE "n" = 'sad'"#,
    ] {
        assert_eq!(statement_without_words(&said), statement);
        world.applier(["retry", "t"]).run().await.expect_code(1);
        world.target.execute(statement).await;
        said = world.applier(["retry", "t"]).run().await;
    }
    let said = said.expect_code(0);
    assert!(!said.stdout.contains("quarantined"), "{said}");
    world.assert_same(&["t"]).await;
    world.source.execute("INSERT INTO t VALUES (5, 'blue', 'ok')").await;
    world.carry().await;
    world.assert_same(&["t"]).await;
    // Rows that nobody has: nothing to be done.
    world.execute_on_both("DELETE FROM t WHERE m = 'ok'").await;
    world.carry().await;
    world.source.execute("ALTER TYPE mood RENAME VALUE 'ok' TO 'fine'").await;
    world.source.execute("UPDATE t SET n = NULL").await;
    world.carry().await;
    world.assert_same(&["t"]).await;
    // A name that one poll alone has seen.
    for (old, new, id) in [("blue", "low", 6), ("low", "navy", 7)] {
        world.source.execute(&format!("ALTER TYPE mood RENAME VALUE '{old}' TO '{new}'")).await;
        world.source.execute(&format!("INSERT INTO t VALUES ({id}, NULL, '{new}')")).await;
        world.archiver(["run", "--once"]).succeed().await;
    }
    let mut said = world.applier(["sync"]).run().await.expect_code(1);
    for statement in [
        "ALTER TYPE public.mood RENAME VALUE 'blue' TO 'low'",
        "ALTER TYPE public.mood RENAME VALUE 'low' TO 'navy'",
        r#"UPDATE "public"."t" SET "n" = 'navy' WHERE "n" = 'low'"#,
    ] {
        assert_eq!(statement_without_words(&said), statement);
        world.target.execute(statement).await;
        said = world.applier(["retry", "t"]).run().await;
    }
    said.expect_code(0);
    world.assert_same(&["t"]).await;
}

/// It is run by hand, where whatever is written by hand is refused.
#[tokio::test]
async fn the_statement_for_a_label_goes_past_what_refuses_local_writes() {
    let options = WorldOptions::default().without_sftp().applier_setting("local_writes", "block");
    let world = options.start().await;
    let of_source = "CREATE TYPE mood AS ENUM ('sad', 'ok'); CREATE TABLE t (id int PRIMARY KEY, m mood)";
    world.source.execute(of_source).await;
    world.target.execute("CREATE TABLE t (id int PRIMARY KEY, m text)").await;
    world.source.execute(SLOT).await;
    world.source.execute("INSERT INTO t VALUES (1, 'sad')").await;
    world.archiver(["run", "--once"]).succeed().await;
    world.applier(["add-tables", "t"]).succeed().await;
    world.applier(["sync"]).succeed().await;
    world.source.execute("ALTER TYPE mood RENAME VALUE 'sad' TO 'blue'").await;
    world.source.execute("INSERT INTO t VALUES (2, 'ok')").await;
    world.archiver(["run", "--once"]).succeed().await;
    let said = world.applier(["sync"]).run().await.expect_code(1);
    let statement = statement_without_words(&said);
    let update = r#"UPDATE "public"."t" SET "m" = 'blue' WHERE "m" = 'sad'"#;
    assert_eq!(statement, format!("BEGIN; SET LOCAL session_replication_role = replica; {update}; COMMIT"));
    world.target.connect().await.batch_execute(update).await.expect_err("it is refused");
    world.target.execute(&statement).await;
    world.applier(["retry", "t"]).succeed().await;
    world.assert_same(&["t"]).await;
}

fn statement_without_words(sync: &Finished) -> String {
    statement(sync).split("  -- ").next().expect("a statement").to_owned()
}
