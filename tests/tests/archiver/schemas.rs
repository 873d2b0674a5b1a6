//! Schemas that are renamed between two polls: rows of their tables come under names that nobody knows.

use std::collections::BTreeSet;

use syncdata_tests::World;

use crate::scene;

/// One poll after the statements, and the tables of the gaps that it told.
async fn told(world: &World, statements: &[&str]) -> BTreeSet<String> {
    for sql in statements {
        world.source.execute(sql).await;
    }
    let before = scene::gaps_with_reasons(world);
    world.archiver(["run", "--once"]).run().await;
    let new: BTreeSet<String> = scene::gaps_with_reasons(world).difference(&before).cloned().collect();
    new.iter().map(|gap| gap.split(':').next().expect("a table").to_owned()).collect()
}

fn tables(names: &[&str]) -> BTreeSet<String> {
    names.iter().map(ToString::to_string).collect()
}

#[tokio::test]
async fn a_row_under_a_schema_s_name_of_a_while_is_a_gap_of_its_table() {
    let schema = "CREATE SCHEMA sales; CREATE TABLE sales.t (id int PRIMARY KEY, note text);
        CREATE TABLE sales.o (id int, day int, PRIMARY KEY (id, day)) PARTITION BY LIST (day)";
    let world = scene::world_with(scene::listing(&["sales.*"]), schema).await;
    scene::poll(&world).await;
    let in_a_new_schema = [
        "CREATE SCHEMA tmp",
        "CREATE TABLE tmp.o_4 PARTITION OF sales.o FOR VALUES IN (4)",
        "INSERT INTO sales.o VALUES (1, 4), (2, 4)",
        "ALTER SCHEMA tmp RENAME TO parts",
    ];
    assert_eq!(told(&world, &in_a_new_schema).await, tables(&["sales.o"]));
    // New schemas and rights are everyday life.
    let innocent = [
        "CREATE SCHEMA one; CREATE TABLE one.o_5 PARTITION OF sales.o FOR VALUES IN (5)",
        "CREATE SCHEMA two; CREATE TABLE two.o_5 PARTITION OF sales.o FOR VALUES IN (6); CREATE TABLE two.t (id int)",
        "INSERT INTO sales.o VALUES (1, 5), (1, 6); INSERT INTO two.t VALUES (1)",
        "GRANT USAGE ON SCHEMA sales, one, two TO PUBLIC",
        "INSERT INTO sales.o VALUES (2, 5), (2, 6); INSERT INTO sales.t VALUES (1); INSERT INTO two.t VALUES (2)",
    ];
    assert_eq!(told(&world, &innocent).await, tables(&[]));
    let there_and_back = [
        "ALTER SCHEMA sales RENAME TO x",
        "INSERT INTO x.t VALUES (7)",
        "ALTER SCHEMA x RENAME TO sales",
        "REVOKE USAGE ON SCHEMA sales FROM PUBLIC",
    ];
    assert_eq!(told(&world, &there_and_back).await, tables(&["sales.t"]));
    let swapped = [
        "CREATE SCHEMA fresh; CREATE TABLE fresh.f (id int PRIMARY KEY)",
        "INSERT INTO fresh.f SELECT generate_series(1, 5)",
        "ALTER SCHEMA sales RENAME TO old",
        "ALTER SCHEMA fresh RENAME TO sales",
        "INSERT INTO sales.f VALUES (6)",
    ];
    assert_eq!(told(&world, &swapped).await, tables(&["sales.f"]));
}

#[tokio::test]
async fn a_table_that_is_new_in_a_schema_that_was_renamed() {
    let schema = "CREATE SCHEMA sales; CREATE SCHEMA next; CREATE TABLE sales.t (id int PRIMARY KEY);
        CREATE TABLE next.u (id int PRIMARY KEY)";
    let world = scene::world_with(scene::listing(&["sales.*", "next.*"]), schema).await;
    scene::poll(&world).await;
    let both_have_one = [
        "CREATE TABLE sales.f (id int PRIMARY KEY); CREATE TABLE next.f (id int PRIMARY KEY)",
        "INSERT INTO sales.f VALUES (1); INSERT INTO next.f VALUES (2)",
        "ALTER SCHEMA sales RENAME TO x",
        "ALTER SCHEMA next RENAME TO sales",
        "ALTER SCHEMA x RENAME TO next",
    ];
    let gaps = told(&world, &both_have_one).await;
    assert!(gaps.is_superset(&tables(&["sales.f", "next.f"])), "{gaps:?}");
}
