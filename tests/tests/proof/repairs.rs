//! Repairs: values that have changed places, foreign keys, rules and triggers of the copy, and several at once.

use serde_json::Value;
use syncdata_tests::world::{World, WorldOptions};

use crate::scene::{self, TABLES, assert_all_equal, prove, prove_differing};

async fn repaired(world: &World, table: &str) -> Value {
    world.applier(["consistency", "repair", table, "--json"]).succeed().await.json()
}

/// A role that may not switch foreign keys and triggers off, and owns what it writes to.
async fn as_plain_role(world: &mut World) {
    world
        .target
        .execute(
            "CREATE ROLE plain LOGIN; GRANT CREATE, TEMPORARY ON DATABASE reporting TO plain;
             GRANT CREATE ON SCHEMA public TO plain;
             DO $$ DECLARE t regclass; BEGIN
               FOR t IN SELECT c.oid FROM pg_class c WHERE c.relnamespace = 'public'::regnamespace AND c.relkind IN ('r', 'p', 'v')
               LOOP EXECUTE format('ALTER TABLE %s OWNER TO plain', t); END LOOP; END $$;",
        )
        .await;
    world.set_applier("pg_user", "plain");
}

/// No order of single steps makes two rows change places in a unique index.
#[tokio::test]
async fn unique_values_and_keys_that_have_changed_places_are_mended() {
    let world = scene::world(WorldOptions::default()).await;
    world
        .target
        .execute(
            "UPDATE accounts SET owner = 'nobody' WHERE id = 1; UPDATE accounts SET owner = 'owner 1' WHERE id = 2;
             UPDATE accounts SET owner = 'owner 2' WHERE id = 3; UPDATE accounts SET owner = 'owner 3' WHERE id = 1;
             UPDATE parts SET id = 9001 WHERE id = 1; UPDATE parts SET id = 1 WHERE id = 3; UPDATE parts SET id = 3 WHERE id = 9001",
        )
        .await;
    prove_differing(&world).await;
    assert_eq!(repaired(&world, "accounts").await["repaired"], 3);
    assert_eq!(repaired(&world, "parts").await["repaired"], 2);
    world.assert_same(&TABLES).await;
    prove(&world).await;
    assert_all_equal(&world).await;
}

/// Where the role may not switch them off, foreign keys of the copy act on what a repair removes.
#[tokio::test]
async fn no_repair_takes_rows_of_other_tables_along() {
    let mut world = scene::world(WorldOptions::default()).await;
    // Production has no such key, and rows of it refer to an account that it does not have.
    world.source.execute("INSERT INTO entries (account, amount) VALUES (7777, 1), (7777, 2)").await;
    world.carry().await;
    // A folder of segments that is not mounted is no archive in which nothing came after the snapshot.
    world.archiver(["snapshot"]).succeed().await;
    world.source.execute("UPDATE accounts SET owner = owner || ' after it'").await;
    world.carry().await;
    let (segments, aside) = (world.archive_dir().join("segments"), world.archive_dir().join("aside"));
    std::fs::rename(&segments, &aside).expect("ours");
    let repair = ["consistency", "repair", "accounts"];
    let refused = world.applier(repair).run().await.expect_code(2);
    assert!(refused.stderr.contains("not those that were applied here"), "{refused}");
    std::fs::rename(&aside, &segments).expect("ours");
    world.assert_same(&["accounts"]).await;
    let key = "INSERT INTO accounts VALUES (7777, 'by hand', 0, NULL);
        ALTER TABLE entries ADD CONSTRAINT of_account FOREIGN KEY (account) REFERENCES accounts ON DELETE CASCADE";
    world.target.execute(key).await;
    as_plain_role(&mut world).await;
    let refused = world.applier(["consistency", "repair", "accounts"]).run().await.expect_code(2);
    assert!(refused.stderr.contains("cannot change without those of entries"), "{refused}");
    world.assert_same(&["entries"]).await;
    assert_eq!(world.target.value("SELECT count(*) FROM accounts WHERE id = 7777").await, "1");
    let (_, grant) = refused.stderr.split_once("as superuser: ").expect("a statement");
    let grant = grant.lines().next().expect("a line");
    world.target.execute(grant).await;
    assert_eq!(repaired(&world, "accounts").await["repaired"], 1);
    world.assert_same(&TABLES).await;
}

#[tokio::test]
async fn a_trigger_that_writes_something_else_refuses_a_repair_with_the_statement() {
    let world = scene::world(WorldOptions::default()).await;
    prove(&world).await;
    world
        .target
        .execute(
            "UPDATE accounts SET owner = 'Mallory' WHERE id = 42;
             CREATE FUNCTION note() RETURNS trigger LANGUAGE plpgsql AS $$
               BEGIN DELETE FROM entries WHERE id = 1; RETURN NEW; END $$;
             CREATE TRIGGER noting BEFORE UPDATE ON accounts FOR EACH ROW EXECUTE FUNCTION note();
             ALTER TABLE accounts ENABLE ALWAYS TRIGGER noting",
        )
        .await;
    let refused = world.applier(["consistency", "repair", "accounts"]).run().await.expect_code(2);
    assert!(refused.stderr.contains("trigger \"noting\" of accounts"), "{refused}");
    world.assert_same(&["entries"]).await;
    let (_, statement) = refused.stderr.split_once("nothing was changed; run: ").expect("a statement");
    world.target.execute(statement.lines().next().expect("a line")).await;
    repaired(&world, "accounts").await;
    world.assert_same(&TABLES).await;
}

/// Two hands, a look and a daemon at the same time: each waits for its turn, and all is right in the end.
#[tokio::test]
async fn several_commands_at_once_wait_for_each_other() {
    let world = scene::world(WorldOptions::default()).await;
    prove(&world).await;
    let mut daemon = world.applier(["-v", "start"]).spawn();
    daemon.says("pass done").await;
    world.target.execute("UPDATE accounts SET owner = 'Mallory' WHERE id = 42").await;
    world.target.execute("DELETE FROM accounts WHERE id = 43").await;
    world.source.execute("UPDATE accounts SET balance = 7 WHERE id < 30").await;
    world.archiver(["run", "--once"]).succeed().await;
    let commands = [
        &["consistency", "repair", "accounts", "--json"][..],
        &["consistency", "repair", "accounts", "--json"],
        &["consistency", "rows", "entries", "--json"],
        &["sync"],
    ];
    let running: Vec<_> = commands.iter().map(|command| world.applier(command.iter()).spawn()).collect();
    let mut mended = 0;
    for (command, running) in commands.iter().zip(running) {
        let done = running.ended().await.expect_code(0);
        if command.contains(&"repair") {
            mended += done.json()["repaired"].as_u64().expect("a number");
        }
    }
    assert_eq!(mended, 2);
    daemon.stop().await;
    world.applier(["sync"]).succeed().await;
    world.assert_same(&TABLES).await;
}

/// Whoever mistypes a key is not told that all is well.
#[tokio::test]
async fn a_row_that_is_nowhere_is_not_called_right() {
    let world = scene::world(WorldOptions::default()).await;
    prove(&world).await;
    let validate = async |key: &str, code| {
        world.applier(["consistency", "validate", "accounts", key]).run().await.expect_code(code)
    };
    validate("42", 0).await;
    let nowhere = validate("424242", 2).await;
    assert!(nowhere.stdout.contains("neither the copy nor the archive has a row of that key"), "{nowhere}");
    world.target.execute("DELETE FROM accounts WHERE id = 42").await;
    let missing = validate("42", 1).await;
    assert!(missing.stdout.contains("missing"), "{missing}");
}

/// A kill at the last moment leaves the rows as they were, and the table as it was called.
#[tokio::test]
async fn a_repair_that_is_killed_changes_nothing() {
    let world = scene::world(WorldOptions::default()).await;
    world.target.execute("UPDATE accounts SET owner = 'Mallory' WHERE id = 42").await;
    prove_differing(&world).await;
    let killed =
        world.applier(["consistency", "repair", "accounts"]).fault("proof.repaired=kill").run().await;
    assert!(killed.was_killed(), "{killed}");
    assert_eq!(world.target.value("SELECT owner FROM accounts WHERE id = 42").await, "Mallory");
    let health = world.applier(["status"]).run().await.expect_code(1);
    assert!(health.stdout.contains("accounts differs"), "{health}");
    repaired(&world, "accounts").await;
    world.assert_same(&TABLES).await;
}

/// Production has been idle since the base copy: nothing of the stream was ever applied here.
#[tokio::test]
async fn a_table_that_a_base_copy_alone_has_brought_is_compared_with_it_and_mended() {
    let world = WorldOptions::default().start().await;
    world.execute_on_both("CREATE TABLE users (id int PRIMARY KEY, name text)").await;
    world.source.execute("INSERT INTO users SELECT i, 'user ' || i FROM generate_series(1, 100) i").await;
    world.archiver(["setup", "--create-slot", "--snapshot"]).succeed().await;
    world.applier(["add-tables", "users"]).succeed().await;
    world.applier(["sync"]).succeed().await;
    let position =
        "SELECT (SELECT seq FROM data_sync_checkpoint) || ' ' || (SELECT state FROM data_sync_table_state)";
    assert_eq!(world.target.value(position).await, "0 live");

    let equal = world.applier(["consistency", "rows", "users", "--json"]).succeed().await.json();
    assert_eq!(equal["differing"], 0, "{equal}");
    assert!(equal["base"].is_string(), "{equal}");
    world
        .target
        .execute("UPDATE users SET name = 'Mallory' WHERE id = 42; DELETE FROM users WHERE id = 7")
        .await;
    let differs = world.applier(["consistency", "rows", "users", "--json"]).run().await.expect_code(1).json();
    assert_eq!((&differs["differing"], &differs["blame"]), (&2.into(), &"local".into()), "{differs}");
    let one =
        world.applier(["consistency", "validate", "users", "42", "--json"]).run().await.expect_code(1).json();
    assert_eq!(one["rows"][0]["columns"][0]["archive"], "user 42", "{one}");
    assert_eq!(repaired(&world, "users").await["repaired"], 2);
    world.assert_same(&["users"]).await;
}
