//! What ends the word that a table differs, and what must not; and which word is the last one.

use std::fs;

use serde_json::Value;
use syncdata_tests::world::{World, WorldOptions};
use toml::Table;

use crate::blame::lose_at_production;
use crate::scene::{self, TABLES, assert_all_equal, proofs, prove, prove_differing, status};

async fn said_of(world: &World, table: &str) -> Value {
    let (tables, _) = status(world).await;
    tables.iter().find(|found| found["table"] == table).expect("on the whitelist").clone()
}

async fn rows(world: &World, table: &str, code: i32) -> Value {
    world.applier(["consistency", "rows", table, "--json"]).run().await.expect_code(code).json()
}

/// A table that is captured since before it had rows.
async fn add(world: &World, name: &str, there: &str, here: &str, rows: &str) {
    world.source.execute(&format!("CREATE TABLE {name} ({there})")).await;
    world.target.execute(&format!("CREATE TABLE {name} ({here})")).await;
    world.archiver(["run", "--once"]).succeed().await;
    world.applier(["add-tables", name]).succeed().await;
    world.applier(["sync"]).succeed().await;
    world.source.execute(&format!("INSERT INTO {name} {rows}")).await;
}

/// The copy is as the archive says, and the archive is not as production was: a proof of other tables changes nothing.
#[tokio::test]
async fn no_repair_clears_what_the_stream_is_to_blame_for_whatever_mark_came_since() {
    let world = scene::world(WorldOptions::default()).await;
    lose_at_production(&world, "accounts", 500).await;
    prove_differing(&world).await;
    let first = proofs(&world).pop().expect("a proof");
    world.archiver(["proof", "--tables", "log"]).succeed().await;
    world.applier(["sync"]).succeed().await;
    assert_eq!(said_of(&world, "accounts").await["verdict"], "not_proved");
    let found = rows(&world, "accounts", 1).await;
    assert_eq!(found["blame"], "stream", "{found}");
    assert_eq!(found["buckets"][0]["archive_rows"], 1000, "{found}");
    world.applier(["consistency", "repair", "accounts"]).run().await.expect_code(1);
    assert_eq!(said_of(&world, "accounts").await["differs"], true);

    // Nobody can say any more who it was.
    fs::remove_dir_all(&first).expect("ours");
    let found = rows(&world, "accounts", 2).await;
    assert_eq!(found["blame"], "unknown", "{found}");
    assert!(
        found["differing"].is_null()
            && found["remedy"].as_str().is_some_and(|remedy| remedy.contains("syncdata-archiver proof")),
        "{found}"
    );
    world.target.execute("UPDATE accounts SET owner = 'Mallory' WHERE id = 42").await;
    let found = rows(&world, "accounts", 1).await;
    assert_eq!((&found["blame"], &found["differing"]), (&"unknown".into(), &1.into()), "{found}");
    let repaired = world.applier(["consistency", "repair", "accounts"]).run().await;
    assert!(repaired.stdout.contains("syncdata-archiver proof"), "{repaired}");
    assert_eq!(world.target.value("SELECT owner FROM accounts WHERE id = 42").await, "owner 42");
    assert_eq!(said_of(&world, "accounts").await["differs"], true);

    world.archiver(["snapshot", "--tables", "accounts"]).succeed().await;
    world.applier(["resync", "accounts"]).succeed().await;
    prove(&world).await;
    assert_all_equal(&world).await;
}

/// What the stream never said is in a newer base copy, and so in the table that was made from it.
#[tokio::test]
async fn rows_that_came_with_a_newer_base_copy_are_not_taken_for_spoilt() {
    let world = scene::world(WorldOptions::default()).await;
    prove(&world).await;
    lose_at_production(&world, "accounts", 500).await;
    world.archiver(["snapshot", "--tables", "accounts"]).succeed().await;
    world.archiver(["run", "--once"]).succeed().await;
    world.applier(["sync"]).succeed().await;
    world.applier(["resync", "accounts"]).succeed().await;
    world.assert_same(&["accounts"]).await;
    let found = rows(&world, "accounts", 0).await;
    assert_eq!(found["differing"], 0, "{found}");
    world.applier(["consistency", "repair", "accounts"]).succeed().await;
    world.assert_same(&["accounts"]).await;
    // A row that is spoilt is found all the same, and it was somebody here.
    world.target.execute("UPDATE accounts SET owner = 'Mallory' WHERE id = 42").await;
    let found = rows(&world, "accounts", 1).await;
    assert_eq!((&found["blame"], &found["differing"]), (&"local".into(), &1.into()), "{found}");
    world.applier(["consistency", "repair", "accounts"]).succeed().await;
    world.assert_same(&["accounts"]).await;
}

#[tokio::test]
async fn the_last_word_is_the_last_mark_s_whatever_the_clock_of_the_copy_said() {
    let world = scene::world(WorldOptions::default()).await;
    prove(&world).await;
    // The clock was a year ahead, and somebody has set it right.
    let ahead = "UPDATE data_sync_consistency SET started_at = started_at + interval '1 year', finished_at = finished_at + interval '1 year'";
    world.target.execute(ahead).await;
    world.target.execute("UPDATE entries SET amount = -1 WHERE id = 7").await;
    prove_differing(&world).await;
    let entries = said_of(&world, "entries").await;
    assert_eq!((&entries["verdict"], &entries["differs"]), (&"differs".into(), &true.into()), "{entries}");
    let health = world.applier(["status"]).run().await.expect_code(1);
    assert!(health.stdout.contains("entries differs"), "{}", health.stdout);
    let fresh = "SELECT score < 100 FROM data_sync_freshness WHERE table_name = 'entries'";
    assert_eq!(world.target.value(fresh).await, "t");
    let checked = world.applier(["consistency", "check", "entries"]).run().await.expect_code(1);
    assert!(checked.stdout.contains("data_hash: differs"), "{checked}");
}

/// A table of which a column cannot be compared is never called equal; and yet its difference ends.
#[tokio::test]
async fn what_was_compared_and_is_equal_ends_a_difference() {
    let world = scene::world(WorldOptions::default()).await;
    let columns = "id int PRIMARY KEY, v text, m money";
    add(&world, "prices", columns, columns, "SELECT i, 'v', i FROM generate_series(1, 20) i").await;
    world.carry().await;
    world.target.execute("UPDATE prices SET v = 'spoilt' WHERE id = 1").await;
    prove_differing(&world).await;
    assert_eq!(said_of(&world, "prices").await["verdict"], "differs");
    world.target.execute("UPDATE prices SET v = 'v' WHERE id = 1").await;
    prove(&world).await;
    let prices = said_of(&world, "prices").await;
    assert_eq!((&prices["verdict"], &prices["differs"]), (&"not_proved".into(), &false.into()), "{prices}");
    let health = world.applier(["status"]).run().await;
    assert!(!health.stdout.contains("prices differs"), "{}", health.stdout);

    // What differed is not compared any more: nobody knows that it is over.
    world.target.execute("UPDATE prices SET v = 'spoilt' WHERE id = 1").await;
    prove_differing(&world).await;
    world.source.execute("CREATE DOMAIN words AS text; ALTER TABLE prices ALTER v TYPE words").await;
    world.archiver(["proof"]).succeed().await;
    world.applier(["sync"]).run().await;
    let prices = said_of(&world, "prices").await;
    assert_eq!((&prices["verdict"], &prices["differs"]), (&"not_proved".into(), &true.into()), "{prices}");
}

/// A column that production computes and the copy keeps as a plain one.
#[tokio::test]
async fn a_computed_column_that_is_plain_here_is_compared_too() {
    let world = scene::world(WorldOptions::default()).await;
    add(
        &world,
        "totals",
        "id int PRIMARY KEY, v int, twice int GENERATED ALWAYS AS (v * 2) STORED",
        "id int PRIMARY KEY, v int, twice int",
        "SELECT i, i FROM generate_series(1, 20) i",
    )
    .await;
    world.carry().await;
    world.target.execute("UPDATE totals SET twice = 999 WHERE id = 1").await;
    prove_differing(&world).await;
    let totals = said_of(&world, "totals").await;
    assert_eq!(totals["verdict"], "differs", "{totals}");
    let detail = totals["detail"].as_str().unwrap_or_default();
    assert!(detail.contains("computed otherwise than at production: twice"), "{detail}");
    let entries = said_of(&world, "entries").await;
    assert_eq!((&entries["verdict"], &entries["detail"]), (&"equal".into(), &Value::Null), "{entries}");
    let found = rows(&world, "totals", 1).await;
    assert_eq!((&found["differing"], &found["rows"][0]["key"]["id"]), (&1.into(), &"1".into()), "{found}");
    world.applier(["consistency", "repair", "totals"]).run().await.expect_code(0);
    world.carry().await;
    prove(&world).await;
    assert_eq!(said_of(&world, "totals").await["verdict"], "equal");
}

fn rules() -> Table {
    toml::toml! { [debts] table = "public.log" sql = "SELECT text FROM log WHERE text = 'debt'" }
}

/// A table of which not all was compared, and a rule that it breaks by what was not.
#[tokio::test]
async fn the_repair_of_one_table_clears_no_alarm_of_another_that_nobody_compared() {
    let mut world = scene::world(WorldOptions::default()).await;
    let columns = "id int PRIMARY KEY, v text, m money, account int REFERENCES accounts";
    add(&world, "prices", columns, columns, "SELECT i, 'v', i, i FROM generate_series(1, 20) i").await;
    world.carry().await;
    let rules = toml::toml! {
        [dear] table = "public.prices" sql = "SELECT id FROM prices WHERE m > '1000'"
        [rich] table = "public.accounts" sql = "SELECT id FROM accounts WHERE balance > 100000"
    };
    world.set_archiver("rules", rules.clone());
    world.set_applier("rules", rules);
    world
        .target
        .execute(
            "SET session_replication_role = replica; UPDATE prices SET m = '2000' WHERE id = 1;
             UPDATE accounts SET balance = 999999 WHERE id = 42; DELETE FROM accounts WHERE id = 7",
        )
        .await;
    prove_differing(&world).await;
    assert_eq!(said_of(&world, "prices").await["verdict"], "not_proved");
    let check = async |code| {
        let checked = world.applier(["consistency", "check", "accounts,prices", "--json"]).run().await;
        let checks = checked.expect_code(code).json()["checks"].as_array().expect("checks").clone();
        move |table: &str, of: &str| {
            let check = checks.iter().find(|check| check["table"] == table && check["check_type"] == of);
            let check = check.unwrap_or_else(|| panic!("{table} {of}: {checks:?}"));
            check["verdict"] == "differs" && check["is_repaired"] == false
        }
    };
    let is_open = check(1).await;
    assert!(is_open("prices", "business_rules") && is_open("accounts", "business_rules"));
    assert!(is_open("accounts", "data_hash"));
    world.applier(["consistency", "repair", "accounts"]).succeed().await;
    let is_open = check(1).await;
    // What its own rows broke is mended with them.
    assert!(!is_open("accounts", "data_hash") && !is_open("accounts", "business_rules"));
    assert!(is_open("prices", "business_rules"));
    let prices = said_of(&world, "prices").await;
    assert_eq!(prices["differs"], true, "{prices}");
    let all = world.applier(["consistency", "check", "public.*", "--types", "data_hash"]).run().await;
    assert!(all.stdout.contains("entries data_hash") && all.stdout.contains("prices data_hash"), "{all}");
    let nobody = world.applier(["consistency", "check", "sales.*"]).run().await.expect_code(2);
    assert!(nobody.stderr.contains("sales.* is not in the whitelist"), "{nobody}");

    // What was said of a table in an earlier life is not about the one that is added again.
    world.applier(["remove-tables", "prices"]).succeed().await;
    world.target.execute("DELETE FROM prices").await;
    world.applier(["add-tables", "prices"]).succeed().await;
    world.applier(["sync"]).succeed().await;
    let prices = said_of(&world, "prices").await;
    assert_eq!((&prices["differs"], &prices["verdict"]), (&false.into(), &Value::Null), "{prices}");
}

/// A target list has 1664 places.
#[tokio::test]
async fn rows_of_a_table_with_as_many_columns_as_there_may_be_are_compared_and_mended() {
    let world = scene::world(WorldOptions::default()).await;
    let wide: String = (1..=900).map(|place| format!(", c{place} int")).collect();
    let columns = format!("id int PRIMARY KEY{wide}");
    add(&world, "wide", &columns, &columns, "(id, c1, c900) SELECT i, i, i FROM generate_series(1, 5) i")
        .await;
    world.carry().await;
    world.target.execute("UPDATE wide SET c900 = 0, c2 = 7 WHERE id = 3").await;
    let found = rows(&world, "wide", 1).await;
    assert_eq!(found["rows"][0]["key"]["id"], "3", "{found}");
    let columns = found["rows"][0]["columns"].as_array().expect("columns").clone();
    let seen: Vec<_> = columns.iter().map(|c| (&c["column"], &c["local"], &c["archive"])).collect();
    let (text, null) = (|text: &str| Value::from(text), Value::Null);
    assert_eq!(seen, [(&text("c2"), &text("7"), &null), (&text("c900"), &text("0"), &text("3"))], "{found}");
    world.applier(["consistency", "repair", "wide"]).succeed().await;
    world.assert_same(&["wide"]).await;
}

/// Whoever is killed holds no lock any more, whatever the server is at.
#[tokio::test]
async fn a_command_that_is_killed_keeps_nobody_waiting() {
    let world = scene::world(WorldOptions::default()).await;
    let holder = world.target.connect().await;
    holder.batch_execute("BEGIN; LOCK TABLE accounts IN ACCESS EXCLUSIVE MODE").await.expect("a lock");
    let waiting = "SELECT count(*) FROM pg_stat_activity WHERE application_name LIKE 'syncdata-applier%' \
        AND wait_event_type = 'Lock'";
    let command = world.applier(["consistency", "rows", "accounts"]).spawn();
    while world.target.value(waiting).await == "0" {
        tokio::time::sleep(std::time::Duration::from_millis(10)).await;
    }
    command.kill().await;
    while world.target.value(waiting).await != "0" {
        tokio::time::sleep(std::time::Duration::from_millis(10)).await;
    }
    let log = world.target.log();
    assert!(log.contains("connection to client lost") && !log.contains("due to lock timeout"), "{log}");
}

/// What nobody asks for any more is broken by nobody.
#[tokio::test]
async fn a_rule_and_a_key_that_are_gone_keep_no_table_unhealthy() {
    let mut world = scene::world(WorldOptions::default()).await;
    let key = "ALTER TABLE entries ADD CONSTRAINT of_account FOREIGN KEY (account) REFERENCES accounts";
    world.execute_on_both(key).await;
    world.set_archiver("rules", rules());
    world.set_applier("rules", rules());
    world
        .target
        .execute(
            "INSERT INTO log VALUES ('debt', NULL); SET session_replication_role = replica;
             UPDATE entries SET account = 7777 WHERE id = 7",
        )
        .await;
    prove_differing(&world).await;
    world
        .target
        .execute("DELETE FROM log WHERE text = 'debt'; UPDATE entries SET account = 8 WHERE id = 7")
        .await;
    for table in ["entries", "log"] {
        let found = said_of(&world, table).await;
        assert_eq!(found["differs"], true, "{found}");
    }
    world.execute_on_both("ALTER TABLE entries DROP CONSTRAINT of_account").await;
    world.set_archiver("rules", Table::new());
    // While production has the rule, or may have it, nothing is over.
    world.applier(["sync"]).succeed().await;
    world.set_applier("rules", Table::new());
    prove(&world).await;
    assert_all_equal(&world).await;
    let (tables, _) = status(&world).await;
    assert!(tables.iter().all(|table| table["differs"] == false), "{tables:?}");
    let checked = world.applier(["consistency", "check"]).run().await.expect_code(0);
    assert!(checked.stdout.contains("log business_rules: equal"), "{checked}");
    let health = world.applier(["status"]).run().await;
    assert!(!health.stdout.contains("differs"), "{}", health.stdout);
}

/// The rows are right by the time production's word comes, whoever has mended them.
#[tokio::test]
async fn a_proof_that_comes_after_the_repair_is_no_alarm() {
    let world = scene::world(WorldOptions::default()).await;
    world.source.execute("UPDATE parts SET v = 'right' WHERE id = 1").await;
    world.carry().await;
    world
        .target
        .execute("UPDATE entries SET amount = -1 WHERE id = 7; UPDATE accounts SET balance = 0 WHERE id = 7")
        .await;
    world.target.execute("UPDATE parts SET v = 'wrong' WHERE id = 1").await;
    world.archiver(["proof"]).succeed().await;
    let late = proofs(&world).pop().expect("a proof");
    let aside = world.folder().join("late");
    fs::rename(&late, &aside).expect("one file system");
    world.applier(["sync"]).succeed().await;
    world.applier(["consistency", "repair", "entries"]).succeed().await;
    world.applier(["resync", "accounts", "log"]).succeed().await;
    let replay = ["replay", "--from", "2020-01-01", "--to", "2126-01-01", "--yes", "--tables", "parts"];
    world.applier(replay).run().await;
    world.assert_same(&TABLES).await;
    fs::rename(&aside, &late).expect("one file system");
    world.applier(["sync"]).succeed().await;
    for (table, why) in [
        ("accounts", "loaded anew meanwhile"),
        ("entries", "repaired meanwhile"),
        ("parts", "replayed meanwhile"),
    ] {
        let said = said_of(&world, table).await;
        assert_eq!((&said["verdict"], &said["differs"]), (&"not_proved".into(), &false.into()), "{said}");
        assert!(said["detail"].as_str().is_some_and(|detail| detail.contains(why)), "{said}");
    }
    // Nothing of it was changed by its load.
    assert_eq!(said_of(&world, "log").await["verdict"], "equal");
}

/// `status` names the command that shows what is wrong.
#[tokio::test]
async fn a_table_of_which_only_keys_differ_is_named_with_the_check_that_says_so() {
    let world = scene::world(WorldOptions::default()).await;
    let key = "ALTER TABLE entries ADD CONSTRAINT of_account FOREIGN KEY (account) REFERENCES accounts";
    world.execute_on_both(key).await;
    world.target.execute("SET session_replication_role = replica; DELETE FROM accounts WHERE id = 7").await;
    prove_differing(&world).await;
    let health = world.applier(["status"]).run().await.expect_code(1);
    assert!(health.stdout.contains("syncdata-applier consistency rows accounts"), "{}", health.stdout);
    assert!(health.stdout.contains("syncdata-applier consistency check entries"), "{}", health.stdout);
    assert!(!health.stdout.contains("consistency rows entries"), "{}", health.stdout);
    let words = world.applier(["consistency", "status"]).run().await.expect_code(1);
    assert!(words.stdout.contains("syncdata-applier consistency check entries"), "{words}");
    let checked = world.applier(["consistency", "check", "entries"]).run().await.expect_code(1);
    assert!(checked.stdout.contains("entries referential_integrity: differs"), "{checked}");
}

/// A row value with a NULL in it is neither NULL nor NOT NULL.
#[tokio::test]
async fn a_composite_with_a_null_in_it_is_named_where_it_differs() {
    let world = scene::world(WorldOptions::default()).await;
    world.execute_on_both("CREATE TYPE pair AS (a int, b text)").await;
    let columns = "id int PRIMARY KEY, p pair";
    add(&world, "pairs", columns, columns, "VALUES (1, ROW(1, NULL)), (2, NULL)").await;
    world.carry().await;
    world.target.execute("UPDATE pairs SET p = ROW(2, NULL) WHERE id = 1; UPDATE pairs SET p = ROW(NULL, NULL) WHERE id = 2").await;
    let found = rows(&world, "pairs", 1).await;
    assert_eq!(found["differing"], 2, "{found}");
    for row in found["rows"].as_array().expect("a list") {
        assert_eq!(row["columns"].as_array().map(Vec::len), Some(1), "{found}");
        assert_eq!(row["columns"][0]["column"], "p", "{found}");
    }
}
