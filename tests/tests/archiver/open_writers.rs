//! Schemas and types are altered while a transaction is open that has written: they wait for nobody, and its rows come many
//! polls later, under the names and labels of that time.

use std::collections::BTreeSet;

use crate::story::{ANOTHER, NONE, PARTITION, Story, only};

const COLUMNS: &str = "(id int, day int, note text, PRIMARY KEY (id, day))";

#[tokio::test]
async fn what_was_written_before_a_schema_or_a_label_was_renamed_is_a_gap_when_it_comes() {
    let schema = format!(
        "CREATE SCHEMA parts; CREATE SCHEMA app; CREATE SCHEMA app_new; CREATE SCHEMA shop; CREATE TYPE mood AS ENUM ('sad', 'ok');
         CREATE TABLE orders {COLUMNS} PARTITION BY RANGE (day);
         CREATE TABLE parts.orders_1 PARTITION OF orders FOR VALUES FROM (0) TO (10);
         CREATE TABLE app.t {COLUMNS}; CREATE TABLE app_new.t {COLUMNS}; CREATE TABLE shop.granted {COLUMNS}; CREATE TABLE quiet {COLUMNS};
         CREATE TABLE felt (id int, day int, note mood, PRIMARY KEY (id, day)); INSERT INTO felt VALUES (1, 1, 'ok')"
    );
    let listed = ["orders", "app.*", "shop.granted", "felt", "quiet"];
    let mut story =
        Story::start(&listed, &schema, &["orders", "app.t", "shop.granted", "felt", "quiet"]).await;
    let swap = |away: &str, back: &str| {
        format!("BEGIN; ALTER SCHEMA app RENAME TO {away}; ALTER SCHEMA {back} RENAME TO app; COMMIT")
    };
    story.world.source.execute(&swap("app_old", "app_new")).await;
    let writer = story.world.source.connect().await;
    let written = "BEGIN; INSERT INTO orders VALUES (3, 3, 'open'); INSERT INTO app.t VALUES (7, 7, 'of the other one');
        INSERT INTO felt VALUES (3, 3, 'sad'); INSERT INTO shop.granted VALUES (3, 3, 'open')";
    writer.batch_execute(written).await.expect("nobody is in its way");
    let altered = [
        &swap("app_new", "app_old"),
        "ALTER SCHEMA parts RENAME TO parts_2",
        "ALTER TYPE mood RENAME VALUE 'sad' TO 'blue'",
        "GRANT USAGE ON SCHEMA shop TO PUBLIC",
        "INSERT INTO felt VALUES (4, 4, 'blue')",
    ];
    assert_eq!(story.after(&altered).await, NONE);
    // Whoever began after that knows the new names.
    let later = ["INSERT INTO orders VALUES (4, 4, 'later'); INSERT INTO felt VALUES (5, 5, 'blue')"];
    assert_eq!(story.after(&later).await, NONE);
    writer.batch_execute("COMMIT").await.expect("it is open");
    let expected: BTreeSet<String> =
        [only("app.t", ANOTHER), only("felt", "a type was altered"), only("orders", PARTITION)]
            .into_iter()
            .flatten()
            .collect();
    assert_eq!(story.after(&["INSERT INTO quiet VALUES (1, 1, 'x')"]).await, expected);
    assert_eq!(story.state("shop.granted").await, "live", "rights give no name");
    story.mend().await;
    let over = [
        "INSERT INTO orders VALUES (5, 5, 'x')",
        "INSERT INTO app.t VALUES (1, 1, 'x')",
        "INSERT INTO felt VALUES (6, 6, 'blue')",
    ];
    assert_eq!(story.after(&over).await, NONE);
}
