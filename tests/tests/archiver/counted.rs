//! What the stream and the catalog say alike of right and of wrong rows: production's rows are counted, or the order of
//! transactions tells.

use syncdata_tests::world::Plugin;

use crate::scene;
use crate::story::{NONE, PARTITION, REWRITTEN, Story, only};

const ORDERS: &str = "
    CREATE TABLE orders (id int, day int, note text, PRIMARY KEY (id, day)) PARTITION BY RANGE (day);
    CREATE TABLE orders_1 PARTITION OF orders FOR VALUES FROM (0) TO (10);
    CREATE TABLE orders_2 PARTITION OF orders FOR VALUES FROM (10) TO (20);
    CREATE TABLE other (LIKE orders INCLUDING ALL);
    INSERT INTO orders VALUES (1, 1, 'one'); INSERT INTO other VALUES (1, 21, 'x'), (2, 22, 'x')";

const MAKE: &str = "CREATE TABLE orders_3 PARTITION OF orders FOR VALUES FROM (20) TO (30)";
const FILL: &str = "INSERT INTO orders VALUES (5, 25, 'first'), (6, 26, 'first')";
const FILL_AGAIN: &str = "INSERT INTO orders VALUES (7, 27, 'again')";
const DROP: &str = "DROP TABLE orders_3";

async fn orders() -> Story {
    Story::start(&["orders"], ORDERS, &["orders"]).await
}

#[tokio::test]
async fn a_partition_that_is_made_twice_under_one_name_is_not_taken_for_one() {
    let in_a_savepoint = format!("BEGIN; SAVEPOINT s; {MAKE}; RELEASE s; COMMIT");
    let filled_in_a_savepoint = format!("BEGIN; SAVEPOINT s; {MAKE}; RELEASE s; {FILL_AGAIN}; COMMIT");
    let all_in_one = format!("BEGIN; {MAKE}; {FILL}; {DROP}; {MAKE}; {FILL_AGAIN}; COMMIT");
    let was_another = format!(
        "ALTER TABLE other RENAME TO orders_3; BEGIN; DELETE FROM orders_3; INSERT INTO orders_3 VALUES (1, 1, 'x'); COMMIT;
         {DROP}"
    );
    let cases: [&[&str]; 6] = [
        &[MAKE, FILL, DROP, MAKE, FILL_AGAIN],
        &[MAKE, FILL, DROP, &in_a_savepoint, FILL_AGAIN],
        &[MAKE, FILL, DROP, &filled_in_a_savepoint],
        &[&all_in_one],
        &[MAKE, FILL, DROP, MAKE],
        &[&was_another, MAKE, FILL_AGAIN],
    ];
    for (number, statements) in cases.into_iter().enumerate() {
        let mut story = orders().await;
        let gaps = story.after(statements).await;
        if number == 5 && story.world.plugin == Plugin::Pgoutput {
            assert_eq!(gaps, NONE, "what is not published is in no stream");
            continue;
        }
        assert!(gaps == only("orders", PARTITION) || gaps == only("orders", REWRITTEN), "{number}: {gaps:?}");
        story.mend().await;
    }
}

#[tokio::test]
async fn a_partition_that_is_made_twice_in_answers_that_are_cut() {
    let mut story = orders().await;
    story.world.set_archiver("poll_max_changes", 1);
    let gaps = story.after(&[MAKE, FILL, DROP, MAKE, FILL_AGAIN, FILL]).await;
    assert_eq!(gaps, only("orders", PARTITION));
    story.mend().await;
}

#[tokio::test]
async fn a_partition_that_is_made_and_filled_is_exact_however_that_is_done() {
    let in_a_savepoint = format!("BEGIN; SAVEPOINT s; {MAKE}; RELEASE s; {FILL}; COMMIT");
    let in_one = format!("BEGIN; {MAKE}; {FILL}; DELETE FROM orders WHERE id = 5; COMMIT");
    let emptied = format!("BEGIN; {MAKE}; {FILL}; TRUNCATE orders_3; {FILL_AGAIN}; COMMIT");
    for statements in [&[MAKE, FILL][..], &[&in_a_savepoint, FILL_AGAIN], &[&in_one, FILL_AGAIN]] {
        for rows in [500_000, 1] {
            let mut story = orders().await;
            story.world.set_archiver("poll_max_changes", rows);
            assert_eq!(story.after(statements).await, NONE, "{rows} {statements:?}");
            assert_eq!(story.after(&["UPDATE orders SET note = 'later'"]).await, NONE);
        }
    }
    // The TRUNCATE of a partition cannot be said.
    orders().await.after(&[&emptied]).await;
}

/// A transaction that is older than all of that keeps the rows from being counted: they are at a later poll.
#[tokio::test]
async fn rows_that_cannot_be_counted_yet_are_counted_later() {
    let schema = format!("{ORDERS}; CREATE TABLE p (id int PRIMARY KEY, day int, note \"char\")");
    let mut story = Story::start(&["orders", "p"], &schema, &["orders"]).await;
    let older = story.world.source.connect().await;
    older.batch_execute("BEGIN; INSERT INTO other VALUES (3, 3, 'open')").await.expect("writes");
    let twice = format!("BEGIN; {MAKE}; {FILL}; {DROP}; {MAKE}; {FILL_AGAIN}; COMMIT");
    story.world.source.execute(&twice).await;
    if story.world.plugin == Plugin::Pgoutput {
        return;
    }
    story.world.archiver(["run", "--once"]).succeed().await;
    older.batch_execute("COMMIT").await.expect("commits");
    assert_eq!(story.after(&["INSERT INTO p VALUES (1, 1, 'x')"]).await, only("orders", REWRITTEN));
    story.mend().await;
}

/// A TRUNCATE explains that rows lie elsewhere, and so would rows that were written unlogged after it.
#[tokio::test]
async fn rows_that_were_written_unlogged_after_a_truncate_are_missed() {
    let schema = "CREATE TABLE p (id int, day int, note varchar(10), PRIMARY KEY (id, day)); INSERT INTO p VALUES (1, 1, 'a')";
    let mut story = Story::start(&["p"], schema, &["p"]).await;
    let refilled = "BEGIN; TRUNCATE p; INSERT INTO p VALUES (2, 2, 'b'), (3, 3, 'c'); COMMIT";
    assert_eq!(story.after(&[refilled, "DELETE FROM p WHERE id = 2"]).await, NONE);
    let hidden = "BEGIN; TRUNCATE p; ALTER TABLE p SET UNLOGGED; INSERT INTO p VALUES (4, 4, 'd'); ALTER TABLE p SET LOGGED; COMMIT";
    if story.world.plugin == Plugin::Wal2json {
        assert_eq!(story.after(&[hidden]).await, only("p", REWRITTEN));
        story.mend().await;
    }
}

#[tokio::test]
async fn a_new_partition_is_emptied_and_its_column_computed_anew() {
    let schema = format!(
        "{ORDERS}; CREATE TABLE q (id int, day int, hour int, PRIMARY KEY (id, day)) PARTITION BY RANGE (day)"
    );
    let mut story = Story::start(&["q", "other"], &schema, &["other"]).await;
    story.world.target.execute("CREATE TABLE q (id int, day int, hour int, PRIMARY KEY (id, day))").await;
    story.world.applier(["add-tables", "q"]).succeed().await;
    story.world.applier(["sync"]).run().await;
    story.copied.push("q".into());
    let gaps = story
        .after(&[
            "CREATE TABLE q1 PARTITION OF q FOR VALUES FROM (0) TO (10)",
            "BEGIN; TRUNCATE q; INSERT INTO q VALUES (1, 1, 10); ALTER TABLE q ALTER hour TYPE int USING hour * 2; COMMIT",
        ])
        .await;
    assert_eq!(gaps, only("q", REWRITTEN));
}

/// Labels are told with rows. A TRUNCATE of what is empty anyway is not told at all.
#[tokio::test]
async fn a_label_is_renamed_and_only_what_says_nothing_follows() {
    let schema = format!("CREATE TYPE mood AS ENUM ('a', 'b'); {ORDERS}");
    let schema = schema.replace("note text", "note mood").replace("'one'", "'a'").replace("'x'", "'b'");
    let mut story = Story::start(&["orders"], &schema, &["orders"]).await;
    assert_eq!(story.after(&[MAKE]).await, NONE);
    let gaps = story.after(&["ALTER TYPE mood RENAME VALUE 'a' TO 'c'", "TRUNCATE orders_3"]).await;
    assert_eq!(gaps, only("orders", "a type was altered"));
    story.mend().await;
}

/// One that somebody holds keeps no other from being counted, and is counted once it is free.
#[tokio::test]
async fn rows_that_cannot_be_counted_hold_up_no_others() {
    let columns = "(id int, day int, note varchar(10), PRIMARY KEY (id, day))";
    let schema =
        format!("CREATE TABLE a {columns}; CREATE TABLE p {columns}; INSERT INTO a VALUES (1, 1, 'a')");
    let story = Story::start(&["a", "p"], &schema, &["a", "p"]).await;
    if story.world.plugin == Plugin::Pgoutput {
        return;
    }
    let hidden = |table: &str| {
        format!(
            "BEGIN; TRUNCATE {table}; ALTER TABLE {table} SET UNLOGGED; INSERT INTO {table} VALUES (4, 4, 'd'); \
             ALTER TABLE {table} SET LOGGED; COMMIT"
        )
    };
    story.world.source.execute(&hidden("a")).await;
    story.world.source.execute(&hidden("p")).await;
    let holder = story.world.source.connect().await;
    holder.batch_execute("BEGIN; LOCK TABLE a IN ACCESS EXCLUSIVE MODE").await.expect("locks");
    // A lock that is written brings no WAL to the disk by itself.
    story.world.source.execute("CREATE TABLE noise (id int)").await;
    story.world.archiver(["run", "--once"]).run().await.expect_code(1);
    let mut told = only("p", REWRITTEN);
    assert_eq!(scene::gaps_with_reasons(&story.world), told);
    holder.batch_execute("COMMIT").await.expect("lets go");
    story.world.archiver(["run", "--once"]).run().await.expect_code(1);
    told.extend(only("a", REWRITTEN));
    assert_eq!(scene::gaps_with_reasons(&story.world), told);
}
