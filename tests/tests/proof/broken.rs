//! Rows that refer to nothing, and rows that break a rule of the operator.

use serde_json::{Value, json};
use syncdata_tests::world::{World, WorldOptions};
use toml::Table;

use crate::scene::{self, proofs, prove, prove_differing};

const BYPASSING: &str = "SET session_replication_role = replica; ";

/// Orders refer to customers, and production knows it.
async fn shop() -> World {
    let world = scene::world(WorldOptions::default()).await;
    world
        .execute_on_both(
            "CREATE TABLE customers (id int PRIMARY KEY, name text);
             CREATE TABLE orders (id int PRIMARY KEY, customer bigint REFERENCES customers, other int, note text);",
        )
        .await;
    world.archiver(["run", "--once"]).succeed().await;
    world.applier(["add-tables", "customers", "orders"]).succeed().await;
    world.applier(["sync"]).succeed().await;
    world
        .source
        .execute(
            "INSERT INTO customers SELECT i, 'customer ' || i FROM generate_series(1, 50) i;
             INSERT INTO orders SELECT i, i % 50 + 1, i, 'order' FROM generate_series(1, 500) i;
             INSERT INTO orders VALUES (1000, NULL, NULL, 'nobody''s');",
        )
        .await;
    world.carry().await;
    world
}

async fn checks(world: &World, arguments: &[&str]) -> (Vec<Value>, Option<i32>) {
    let arguments = [&["consistency", "check", "--json"], arguments].concat();
    let finished = world.applier(arguments).run().await;
    let code = finished.code();
    (finished.json()["checks"].as_array().expect("checks").clone(), code)
}

/// What the newest proof says of that check.
async fn by_proof(world: &World, table: &str, check: &str) -> Value {
    let select = format!(
        "SELECT to_jsonb(c) FROM data_sync_consistency c WHERE table_name = '{table}' AND check_type = '{check}'
         ORDER BY started_at DESC, proof_id DESC LIMIT 1"
    );
    let rows = world.target.query(&select).await;
    let row = rows.first().and_then(|row| row.first()).and_then(Option::as_deref);
    row.map_or(Value::Null, |text| serde_json::from_str(text).expect("JSON"))
}

fn detail(check: &Value) -> &str {
    check["detail"].as_str().unwrap_or_default()
}

#[tokio::test]
async fn rows_that_refer_to_nothing_count_unless_production_has_them_too() {
    let world = shop().await;
    // What is at another moment than the others is not asked, and that is no "all is well".
    for (state, is_asked) in [("stale", Some(2)), ("live", Some(0))] {
        let set = format!("UPDATE data_sync_table_state SET state = '{state}' WHERE table_name = 'log'");
        world.target.execute(&set).await;
        let (none, code) = checks(&world, &["log", "--types", "referential_integrity"]).await;
        assert_eq!((none.len(), code), (0, is_asked), "{state}");
    }
    prove(&world).await;
    let orders = by_proof(&world, "orders", "referential_integrity").await;
    assert_eq!((&orders["verdict"], &orders["differing"]), (&"equal".into(), &0.into()), "{orders}");
    assert!(orders["score"].is_null(), "{orders}");
    assert!(by_proof(&world, "log", "referential_integrity").await.is_null(), "it has no foreign key");
    world.applier(["verify"]).succeed().await;

    // Production bypasses its own key: that travels, and is nobody's fault here.
    world.source.execute(&format!("{BYPASSING}DELETE FROM customers WHERE id = 5")).await;
    prove(&world).await;
    let orders = by_proof(&world, "orders", "referential_integrity").await;
    assert_eq!(orders["verdict"], "equal", "{orders}");
    assert!(detail(&orders).contains("10 rows refer to nothing, as at production"), "{orders}");
    let (now, code) = checks(&world, &["orders", "--types", "referential_integrity"]).await;
    assert_eq!((now[0]["verdict"].clone(), code), ("equal".into(), Some(0)), "{now:?}");

    // Somebody's hand, past the key; and in a row that production has orphaned, which is told all the same.
    world.target.execute("UPDATE orders SET note = 'spoilt' WHERE id = 4").await;
    world.target.execute(&format!("{BYPASSING}DELETE FROM customers WHERE id IN (7, 8)")).await;
    let (now, code) = checks(&world, &["orders", "--types", "referential_integrity"]).await;
    assert_eq!(code, Some(1), "{now:?}");
    assert_eq!((&now[0]["verdict"], &now[0]["differing"]), (&"differs".into(), &20.into()), "{now:?}");
    assert!(now[0]["proof_id"].is_null() && now[0]["age_seconds"] == 0, "{now:?}");
    prove_differing(&world).await;
    let orders = by_proof(&world, "orders", "referential_integrity").await;
    assert_eq!((&orders["verdict"], &orders["differing"]), (&"differs".into(), &20.into()), "{orders}");
    assert!(detail(&orders).contains("orders_customer_fkey: 20 rows refer to nothing"), "{orders}");
    let health = world.applier(["status"]).run().await.expect_code(1);
    assert!(health.stdout.contains("orders differs"), "{}", health.stdout);

    // The rows come back, and with them what refers to them.
    world.applier(["consistency", "repair", "customers"]).succeed().await;
    world.applier(["consistency", "repair", "orders"]).succeed().await;
    world.assert_same(&["customers", "orders"]).await;
    world.applier(["status"]).run().await;
    let left = "SELECT count(*) FROM data_sync_consistency WHERE verdict = 'differs' AND repaired_at IS NULL";
    assert_eq!(world.target.value(left).await, "0");
    prove(&world).await;
    assert_eq!(by_proof(&world, "orders", "referential_integrity").await["verdict"], "equal");
}

#[tokio::test]
async fn keys_that_only_one_side_has_and_keys_that_promise_nothing_are_named() {
    let world = shop().await;
    // Only production has this one.
    world.target.execute("ALTER TABLE orders DROP CONSTRAINT orders_customer_fkey").await;
    // Only the copy has these.
    world
        .target
        .execute(
            "CREATE TABLE notes (note text PRIMARY KEY); INSERT INTO notes VALUES ('order'), ('nobody''s');
             ALTER TABLE orders ADD CONSTRAINT to_notes FOREIGN KEY (note) REFERENCES notes;
             ALTER TABLE orders ADD CONSTRAINT to_self FOREIGN KEY (other) REFERENCES orders NOT VALID;",
        )
        .await;
    let is_18 = world.source.installation().major() >= 18;
    if is_18 {
        world
            .target
            .execute(
                "ALTER TABLE orders ADD CONSTRAINT loose FOREIGN KEY (other) REFERENCES customers NOT ENFORCED;
                 CREATE TABLE spans (r int4range, valid daterange, PRIMARY KEY (r, valid WITHOUT OVERLAPS));
                 ALTER TABLE orders ADD COLUMN r int4range, ADD COLUMN valid daterange;
                 ALTER TABLE orders ADD CONSTRAINT spanning FOREIGN KEY (r, PERIOD valid) REFERENCES spans",
            )
            .await;
    }
    world.source.execute("INSERT INTO orders VALUES (2000, 1, 77777, 'order')").await;
    prove(&world).await;
    let orders = by_proof(&world, "orders", "referential_integrity").await;
    assert_eq!(orders["verdict"], "equal", "{orders}");
    assert!(detail(&orders).contains("to_notes: skipped, notes is not synced"), "{orders}");
    assert!(detail(&orders).contains("to_self: 1 rows refer to nothing, as at production"), "{orders}");
    if is_18 {
        assert!(detail(&orders).contains("loose: skipped, it is NOT ENFORCED"), "{orders}");
        assert!(detail(&orders).contains("spanning: skipped, it has a PERIOD"), "{orders}");
    }
    world.target.execute("DELETE FROM customers WHERE id = 9").await;
    prove_differing(&world).await;
    let orders = by_proof(&world, "orders", "referential_integrity").await;
    assert_eq!((&orders["verdict"], &orders["differing"]), (&"differs".into(), &10.into()), "{orders}");

    // A table that stands elsewhere says nothing of what refers to it.
    world.target.execute("ALTER TABLE customers DROP COLUMN name").await;
    world.source.execute("UPDATE customers SET name = 'x' WHERE id = 1").await;
    world.archiver(["proof"]).succeed().await;
    world.applier(["sync"]).run().await;
    let orders = by_proof(&world, "orders", "referential_integrity").await;
    assert_eq!(orders["verdict"], "not_proved", "{orders}");
    assert!(detail(&orders).contains("customers does not stand at the same place"), "{orders}");
    assert!(orders["differing"].is_null(), "{orders}");
}

/// Rules for both sides: by name the table and the query.
fn set_rules(world: &mut World, archiver: &[(&str, &str, &str)], applier: &[(&str, &str, &str)]) {
    let rules = |rules: &[(&str, &str, &str)]| {
        let rule = |(name, table, sql): &(&str, &str, &str)| {
            let (table, sql) = ((*table).to_owned(), (*sql).to_owned());
            let rule: Table =
                [("table".to_owned(), table.into()), ("sql".to_owned(), sql.into())].into_iter().collect();
            ((*name).to_owned(), toml::Value::Table(rule))
        };
        toml::Value::Table(rules.iter().map(rule).collect())
    };
    world.set_archiver("rules", rules(archiver));
    world.set_applier("rules", rules(applier));
}

#[tokio::test]
async fn only_violators_that_production_does_not_have_count() {
    let mut world = scene::world(WorldOptions::default()).await;
    let negative = ("negative", "accounts", "SELECT id FROM accounts WHERE balance < 0 -- nobody owes;\n;");
    let unbooked = (
        "unbooked",
        "entries",
        "SELECT e.id FROM entries e WHERE NOT EXISTS (SELECT FROM accounts a WHERE a.id = e.account)",
    );
    set_rules(&mut world, &[negative, unbooked], &[negative, unbooked]);
    world.source.execute("UPDATE accounts SET balance = -1 WHERE id IN (3, 4)").await;
    let killed = world.archiver(["proof"]).fault("proof.asked=kill").run().await;
    assert!(killed.was_killed(), "{}", killed.stderr);
    world.applier(["sync"]).succeed().await;
    prove(&world).await;
    for table in ["accounts", "entries"] {
        let check = by_proof(&world, table, "business_rules").await;
        assert_eq!((&check["verdict"], &check["differing"]), (&"equal".into(), &0.into()), "{check}");
    }
    world.applier(["verify"]).succeed().await;
    let manifest = proofs(&world).pop().expect("a proof").join("proof.manifest.json");
    let manifest: Value = serde_json::from_slice(&std::fs::read(manifest).expect("there")).expect("JSON");
    let answered = &manifest["tables"]["accounts"]["rules"]["negative"];
    assert_eq!(answered["violators"].as_array().map(Vec::len), Some(2), "{answered}");

    world.target.execute("UPDATE accounts SET balance = -5 WHERE id = 42").await;
    prove_differing(&world).await;
    let accounts = by_proof(&world, "accounts", "business_rules").await;
    assert_eq!((&accounts["verdict"], &accounts["differing"]), (&"differs".into(), &1.into()), "{accounts}");
    assert!(detail(&accounts).contains("negative: 1 rows break it that do not at production"), "{accounts}");
    let (rules, code) = checks(&world, &["--types", "business_rules"]).await;
    assert_eq!((rules.len(), code), (2, Some(1)), "{rules:?}");
    let (_, code) = checks(&world, &["entries", "--types", "business_rules"]).await;
    assert_eq!(code, Some(0));
    world.applier(["consistency", "repair", "accounts"]).succeed().await;
    let (_, code) = checks(&world, &["accounts"]).await;
    assert_eq!(code, Some(0));
    prove(&world).await;
    assert_eq!(by_proof(&world, "accounts", "business_rules").await["verdict"], "equal");
}

/// A rule that is new, or has another SQL by now, was not asked: nothing is claimed before a proof has.
#[tokio::test]
async fn a_rule_that_no_proof_has_asked_yet_is_not_called_kept() {
    let mut world = scene::world(WorldOptions::default()).await;
    prove(&world).await;
    let negative = ("negative", "accounts", "SELECT id FROM accounts WHERE balance < 0");
    set_rules(&mut world, &[negative], &[negative]);
    let (found, code) = checks(&world, &["--types", "business_rules"]).await;
    assert_eq!((found.len(), code), (1, Some(2)), "{found:?}");
    assert_eq!(found[0]["verdict"], "not_proved", "{found:?}");
    assert!(detail(&found[0]).contains("negative: no proof has asked it yet"), "{found:?}");
    prove(&world).await;
    let (found, code) = checks(&world, &["--types", "business_rules"]).await;
    assert_eq!((found.len(), code, &found[0]["verdict"]), (1, Some(0), &"equal".into()), "{found:?}");
    let poor = ("negative", "accounts", "SELECT id FROM accounts WHERE balance < 1");
    set_rules(&mut world, &[poor], &[poor]);
    let (found, code) = checks(&world, &["accounts"]).await;
    assert_eq!(code, Some(2), "{found:?}");
    let of_rules = found.iter().find(|check| check["check_type"] == "business_rules").expect("said");
    assert_eq!(
        (&of_rules["verdict"], &of_rules["differing"]),
        (&"not_proved".into(), &Value::Null),
        "{found:?}"
    );
}

#[tokio::test]
async fn a_rule_that_fails_is_not_proved_hurts_nobody_and_quotes_no_row() {
    let mut world = scene::world(WorldOptions::default()).await;
    let same = [
        ("fine", "accounts", "SELECT id FROM accounts WHERE balance > 1000000"),
        ("quoting", "parts", "SELECT id FROM parts WHERE region::int > 0"),
        ("slow", "log", "SELECT text FROM log WHERE pg_sleep(600) IS NULL"),
        ("writing", "entries", "DELETE FROM entries RETURNING id"),
    ];
    let ([mut here, mut there], select) =
        ([same.to_vec(), same.to_vec()], "SELECT id FROM accounts WHERE owner IS NULL");
    here.push(("only here", "accounts", select));
    there.push(("only there", "accounts", select));
    here.push(("unlike", "accounts", select));
    there.push(("unlike", "accounts", "SELECT id FROM accounts WHERE owner = ''"));
    there.push(("nowhere", "missing", "SELECT 1"));
    set_rules(&mut world, &there, &here);
    world.set_archiver("rule_timeout", "1s");
    world.set_applier("rule_timeout", "1s");
    let made = world.archiver(["proof", "-v"]).run().await.expect_code(0);
    let synced = world.applier(["sync", "-v"]).run().await.expect_code(0);
    for said in [&made.stderr, &synced.stderr] {
        assert!(!said.contains("invalid input syntax"), "{said}");
    }
    assert_eq!(world.source.value("SELECT count(*) > 0 FROM entries").await, "t");
    world.assert_same(&scene::TABLES).await;
    for (table, says) in [
        ("parts", &["quoting: not answered here", "SQLSTATE 22P02"][..]),
        ("log", &["slow: not answered here", "SQLSTATE 57014"]),
        ("entries", &["writing: not answered here", "SQLSTATE 25006"]),
        (
            "accounts",
            &[
                "only here: the proof of production does not have it",
                "only there: it is not in the settings here",
                "unlike: its SQL is another one",
            ],
        ),
    ] {
        let check = by_proof(&world, table, "business_rules").await;
        assert_eq!(check["verdict"], "not_proved", "{check}");
        assert!(check["differing"].is_null(), "{check}");
        for says in says {
            assert!(detail(&check).contains(says), "{says}: {check}");
        }
        assert!(!detail(&check).contains("fine"), "{check}");
    }
    let manifest = proofs(&world).pop().expect("a proof").join("proof.manifest.json");
    let manifest: Value = serde_json::from_slice(&std::fs::read(manifest).expect("there")).expect("JSON");
    let slow = &manifest["tables"]["log"]["rules"]["slow"];
    assert!(slow["violators"].is_null() && slow["reason"].is_string(), "{slow}");
    // Its data is proved all the same.
    let (checks, code) = checks(&world, &["--types", "row_count,data_hash"]).await;
    assert!(checks.iter().all(|check| check["verdict"] == json!("equal")), "{checks:?}");
    assert_eq!(code, Some(0));
}

/// DDL of production that waits for a rule waits no longer than a second.
#[tokio::test]
async fn a_rule_gives_way_to_whoever_waits_for_its_lock() {
    let mut world = scene::world(WorldOptions::default()).await;
    let slow = ("slow", "accounts", "SELECT id FROM accounts WHERE pg_sleep(1) IS NULL");
    set_rules(&mut world, &[slow], &[slow]);
    let running = world.archiver(["proof", "--json"]).spawn();
    let asks =
        "SELECT count(*) FROM pg_stat_activity WHERE query LIKE 'COPY%pg_sleep%' AND wait_event = 'PgSleep'";
    while world.source.value(asks).await == "0" {
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
    let started = std::time::Instant::now();
    world.source.execute("ALTER TABLE accounts ADD COLUMN later int").await;
    assert!(started.elapsed() < std::time::Duration::from_secs(2), "{:?}", started.elapsed());
    running.ended().await.expect_code(0);
    let manifest = proofs(&world).pop().expect("a proof").join("proof.manifest.json");
    let manifest: Value = serde_json::from_slice(&std::fs::read(manifest).expect("there")).expect("JSON");
    let slow = &manifest["tables"]["accounts"]["rules"]["slow"];
    assert!(slow["violators"].is_null(), "{slow}");
    assert!(slow["reason"].as_str().is_some_and(|reason| reason.contains("gave way")), "{slow}");
}

#[tokio::test]
async fn a_check_that_is_none_is_refused_with_the_names_of_those_that_are() {
    let world = scene::world(WorldOptions::default()).await;
    let refused =
        world.applier(["consistency", "check", "--types", "row_count,hash"]).run().await.expect_code(2);
    for name in ["hash", "row_count", "data_hash", "referential_integrity", "business_rules"] {
        assert!(refused.stderr.contains(name), "{}", refused.stderr);
    }
}
