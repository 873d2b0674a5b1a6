//! Columns that both sides compute, whose values do not travel.

use serde_json::Value;
use syncdata_tests::Installation;
use syncdata_tests::world::{Plugin, World, WorldOptions};

use crate::scene::{prove, prove_differing, status};

async fn said_of(world: &World, table: &str) -> Value {
    let (tables, _) = status(world).await;
    tables.iter().find(|found| found["table"] == table).expect("on the whitelist").clone()
}

/// Another locale, or another expression: the rows are equal, and what is computed of them is not.
#[tokio::test]
async fn what_the_copy_computes_otherwise_than_production_is_not_called_equal() {
    let world = WorldOptions::default().plugin(Plugin::Pgoutput).start().await;
    // pgoutput says what is STORED from version 18 on.
    let kind = if Installation::chosen().major() < 18 { "STORED" } else { "VIRTUAL" };
    let table = |name: &str, computed: &str| {
        format!(
            "CREATE TABLE {name} (id int PRIMARY KEY, v text, k text GENERATED ALWAYS AS ({computed}) {kind});"
        )
    };
    let there = table("keys", "lower(v)") + &table("same", "lower(v)") + &table("lacks", "lower(v)");
    world.source.execute(&there).await;
    world.target.execute(&(table("keys", "lower(v COLLATE \"C\")") + &table("same", "lower(v)"))).await;
    world.target.execute("CREATE TABLE lacks (id int PRIMARY KEY, v text)").await;
    world.make_slot().await;
    world.archiver(["run", "--once"]).succeed().await;
    world.applier(["add-tables", "keys", "same", "lacks"]).succeed().await;
    world.applier(["sync"]).succeed().await;
    for table in ["keys", "same", "lacks"] {
        world.source.execute(&format!("INSERT INTO {table} VALUES (1, 'ANN'), (2, 'Ömer'), (3, NULL)")).await;
    }
    world.carry().await;
    assert_eq!(world.target.value("SELECT k FROM keys WHERE id = 2").await, "Ömer");
    prove_differing(&world).await;
    let keys = said_of(&world, "keys").await;
    assert_eq!((&keys["verdict"], &keys["differs"]), (&"differs".into(), &true.into()), "{keys}");
    assert_ne!(keys["score"], "100.00", "{keys}");
    let detail = keys["detail"].as_str().unwrap_or_default();
    assert!(detail.contains("computed otherwise than at production: k"), "{keys}");
    for table in ["same", "lacks"] {
        let same = said_of(&world, table).await;
        assert_eq!((&same["verdict"], &same["score"]), (&"equal".into(), &"100.00".into()), "{same}");
    }
    assert!(said_of(&world, "same").await["detail"].is_null(), "it was compared");

    // No row differs, and no repair mends it.
    let found = world.applier(["consistency", "rows", "keys"]).run().await;
    assert!(found.stdout.contains("computed otherwise than at production: k"), "{found}");
    world.applier(["consistency", "repair", "keys"]).run().await;
    assert_eq!(said_of(&world, "keys").await["differs"], true);

    let column = format!("ALTER TABLE keys DROP k, ADD k text GENERATED ALWAYS AS (lower(v)) {kind}");
    world.target.execute(&column).await;
    world.archiver(["snapshot"]).succeed().await;
    world.archiver(["run", "--once"]).succeed().await;
    world.applier(["resync", "keys"]).succeed().await;
    prove(&world).await;
    let keys = said_of(&world, "keys").await;
    assert_eq!((&keys["verdict"], &keys["differs"]), (&"equal".into(), &false.into()), "{keys}");
}

/// Where the copy goes without it there is nothing to compare; where it has it, nobody has looked.
#[tokio::test]
async fn a_computed_column_of_a_type_that_may_print_otherwise_counts_where_the_copy_has_it() {
    let world = WorldOptions::default().plugin(Plugin::Pgoutput).start().await;
    let kind = if Installation::chosen().major() < 18 { "STORED" } else { "VIRTUAL" };
    let table = |name: &str| {
        format!(
            "CREATE TABLE {name} (id int PRIMARY KEY, v text, k regclass GENERATED ALWAYS AS (id::oid::regclass) {kind});"
        )
    };
    world.source.execute(&(table("has") + &table("lacks"))).await;
    world.target.execute(&table("has")).await;
    world.target.execute("CREATE TABLE lacks (id int PRIMARY KEY, v text)").await;
    world.make_slot().await;
    world.archiver(["run", "--once"]).succeed().await;
    world.applier(["add-tables", "has", "lacks"]).succeed().await;
    world.applier(["sync"]).succeed().await;
    for table in ["has", "lacks"] {
        world.source.execute(&format!("INSERT INTO {table} VALUES (1, 'a'), (2, NULL)")).await;
    }
    world.carry().await;
    prove(&world).await;
    let (has, lacks) = (said_of(&world, "has").await, said_of(&world, "lacks").await);
    assert_eq!(has["verdict"], "not_proved", "{has}");
    let detail = has["detail"].as_str().unwrap_or_default();
    assert!(detail.contains("not compared: k; all other columns are equal"), "{has}");
    assert_eq!((&lacks["verdict"], &lacks["score"]), (&"equal".into(), &"100.00".into()), "{lacks}");
}

/// A restored dump computes anew, and so does a function whose body somebody replaces: what once travelled was right then.
#[tokio::test]
async fn what_the_copy_computes_anew_after_it_was_compared_is_compared_again() {
    let world = WorldOptions::default().start().await;
    let table = "CREATE FUNCTION loud(v text) RETURNS text IMMUTABLE LANGUAGE sql AS 'SELECT upper(v)';
        CREATE TABLE loud (id int PRIMARY KEY, v text, k text GENERATED ALWAYS AS (loud(v)) STORED)";
    world.source.execute(table).await;
    world.target.execute(table).await;
    world.make_slot().await;
    world.archiver(["run", "--once"]).succeed().await;
    world.applier(["add-tables", "loud"]).succeed().await;
    world.source.execute("INSERT INTO loud VALUES (1, 'a'), (2, 'b'), (3, NULL)").await;
    world.carry().await;
    prove(&world).await;
    let loud = said_of(&world, "loud").await;
    assert_eq!((&loud["verdict"], &loud["detail"]), (&"equal".into(), &Value::Null), "{loud}");

    let other = "CREATE OR REPLACE FUNCTION loud(v text) RETURNS text IMMUTABLE LANGUAGE sql AS 'SELECT v'; \
        UPDATE loud SET v = v WHERE id = 2";
    world.target.execute(other).await;
    prove_differing(&world).await;
    let loud = said_of(&world, "loud").await;
    assert_eq!((&loud["verdict"], &loud["differs"]), (&"differs".into(), &true.into()), "{loud}");
    let detail = loud["detail"].as_str().unwrap_or_default();
    assert!(detail.contains("computed otherwise than at production: k"), "{loud}");
}
