//! Base copies end to end: production at work, the real programs, and in the end both sides hold the same rows.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use syncdata_tests::world::{ARCHIVER_ROLE, World, WorldOptions};

const SLOT: &str = "SELECT pg_create_logical_replication_slot('syncdata_slot', 'wal2json')";
const TABLES: [&str; 3] = ["accounts", "entries", "log"];

/// Tables that have rows from before the slot, which no change will ever bring.
async fn world(options: WorldOptions) -> World {
    let world = options.start().await;
    world
        .source
        .execute(&format!("GRANT pg_read_all_data TO {ARCHIVER_ROLE}; ALTER ROLE {ARCHIVER_ROLE} BYPASSRLS"))
        .await;
    world
        .execute_on_both(
            "CREATE TABLE accounts (id int PRIMARY KEY, owner text UNIQUE, balance numeric(20,2) NOT NULL, big text);
             CREATE TABLE entries (id bigint PRIMARY KEY GENERATED ALWAYS AS IDENTITY, account int REFERENCES accounts, amount numeric,
                 at timestamptz DEFAULT now(), twice numeric GENERATED ALWAYS AS (amount * 2) STORED);
             CREATE TABLE log (text text, place box); ALTER TABLE log REPLICA IDENTITY FULL;",
        )
        .await;
    world
        .source
        .execute(
            "INSERT INTO accounts SELECT i, 'owner ' || i, i, repeat(md5(i::text), i % 200) FROM generate_series(1, 2000) i;
             INSERT INTO entries (account, amount) SELECT i % 2000 + 1, i / 7.0 FROM generate_series(1, 20000) i;
             INSERT INTO log SELECT 'line ' || i % 50, box(point(i % 3, 1), point(0, 0)) FROM generate_series(1, 1000) i;",
        )
        .await;
    world.source.execute(SLOT).await;
    world
}

/// Sessions that write until the guard is dropped.
struct Load {
    stop: Arc<AtomicBool>,
    sessions: Vec<tokio::task::JoinHandle<u64>>,
}

impl Load {
    async fn start(world: &World, sessions: u32) -> Load {
        let stop = Arc::new(AtomicBool::new(false));
        let mut running = Vec::new();
        for number in 0..sessions {
            let (client, stop) = (world.source.connect().await, Arc::clone(&stop));
            running.push(tokio::spawn(async move {
                let mut round = u64::from(number);
                while !stop.load(Ordering::Relaxed) {
                    round += 8;
                    // Each session has accounts of its own: none waits for another, and commits overlap.
                    let account = round % 2000 / 8 * 8 + u64::from(number) + 1;
                    let account = account.min(2000);
                    let other = (account + 8) % 1999 + 1;
                    let sql = match round / 8 % 7 {
                        0 => format!("BEGIN; UPDATE accounts SET balance = balance - 1 WHERE id = {account}; INSERT INTO entries (account, amount) VALUES ({account}, 1); COMMIT"),
                        1 => format!("DELETE FROM entries WHERE id IN (SELECT id FROM entries WHERE account = {account} LIMIT 2)"),
                        2 => format!("INSERT INTO log VALUES ('line {account}', NULL), ('line {account}', NULL)"),
                        3 => "DELETE FROM log WHERE ctid IN (SELECT ctid FROM log WHERE place IS NULL ORDER BY random() LIMIT 1)".to_owned(),
                        4 => format!("UPDATE accounts SET big = repeat(md5('{round}'), 100) WHERE id = {account}"),
                        5 => format!("BEGIN; INSERT INTO entries (account, amount) VALUES ({other}, {round}); SAVEPOINT s; INSERT INTO log VALUES ('gone', NULL); ROLLBACK TO s; COMMIT"),
                        _ => format!("BEGIN; UPDATE entries SET amount = amount + 1 WHERE account = {account}; ROLLBACK"),
                    };
                    // Two sessions may take the same line: one of them waits, or finds it gone.
                    client.batch_execute(&sql).await.unwrap_or_else(|error| panic!("{sql}: {error}"));
                    // Many commits at once, not as many as the machine can write.
                    tokio::time::sleep(Duration::from_millis(5)).await;
                }
                round
            }));
        }
        Load { stop, sessions: running }
    }

    async fn end(self) {
        self.stop.store(true, Ordering::Relaxed);
        for session in self.sessions {
            assert!(session.await.expect("no statement fails") > 8);
        }
    }
}

#[tokio::test]
async fn tables_older_than_the_slot_are_copied_under_load_and_resynced_under_load() {
    let world = world(WorldOptions::default()).await;
    let load = Load::start(&world, 8).await;
    world.archiver(["run", "--once"]).succeed().await;
    world.archiver(["snapshot"]).succeed().await;
    world.archiver(["run", "--once"]).succeed().await;
    let arguments = [&["add-tables", "--from", "snapshot"], TABLES.as_slice()].concat();
    world.applier(arguments).succeed().await;
    world.applier(["sync"]).succeed().await;
    // Some changes later again, and with rows that somebody changed here.
    world.archiver(["run", "--once"]).succeed().await;
    world.applier(["sync"]).succeed().await;
    world
        .target
        .execute(
            "SET session_replication_role = replica; DELETE FROM accounts WHERE id % 100 = 0;
             UPDATE entries SET amount = 0 WHERE id % 50 = 0; INSERT INTO log SELECT * FROM log LIMIT 10",
        )
        .await;
    world.archiver(["snapshot"]).succeed().await;
    world.archiver(["run", "--once"]).succeed().await;
    let resync = [&["resync"], TABLES.as_slice()].concat();
    let done = world.applier(resync).succeed().await;
    assert_eq!(done.stdout.matches("from snapshot").count(), 3, "{done}");
    load.end().await;
    world.carry().await;
    world.assert_same(&TABLES).await;
    // The view of freshness, which people build on, knows it.
    assert_eq!(world.target.value("SELECT count(*) FROM data_sync_freshness WHERE NOT stale").await, "3");
}

#[tokio::test]
async fn what_a_stranger_consumed_comes_with_a_newer_base() {
    let world = world(WorldOptions::default().without_sftp()).await;
    world.archiver(["snapshot"]).succeed().await;
    world.archiver(["run", "--once"]).succeed().await;
    let arguments = [&["add-tables"], TABLES.as_slice()].concat();
    let added = world.applier(arguments).succeed().await;
    assert!(added.stderr.contains("is loaded from snapshot"), "{added}");
    world.applier(["sync"]).succeed().await;
    world.assert_same(&TABLES).await;
    // Changes are consumed by a stranger: the copy is stale until a newer base is there.
    world
        .source
        .execute("INSERT INTO log VALUES ('lost', NULL); UPDATE accounts SET owner = 'lost' WHERE id = 1")
        .await;
    world
        .source
        .execute("SELECT count(*) FROM pg_logical_slot_get_changes('syncdata_slot', NULL, NULL, 'format-version', '2')")
        .await;
    world.archiver(["run", "--once"]).run().await.expect_code(1);
    let stale = world.applier(["sync"]).run().await.expect_code(1);
    assert!(stale.stdout.contains("stale"), "{stale}");
    world.archiver(["snapshot"]).succeed().await;
    world.archiver(["run", "--once"]).run().await;
    world.applier(["resync", "--all"]).succeed().await;
    world.carry().await;
    world.assert_same(&TABLES).await;
}

#[tokio::test]
async fn a_prune_that_races_a_resync_takes_nothing_that_it_needs() {
    let mut world = world(WorldOptions::default().without_sftp()).await;
    world.set_archiver("keep_days", 0);
    world.archiver(["snapshot"]).succeed().await;
    world.archiver(["run", "--once"]).succeed().await;
    let arguments = [&["add-tables"], TABLES.as_slice()].concat();
    world.applier(arguments).succeed().await;
    world.applier(["sync"]).succeed().await;
    for round in 0..4 {
        let write = format!(
            "UPDATE accounts SET balance = {round} WHERE id % 7 = {round}; INSERT INTO log VALUES ('round {round}', NULL)"
        );
        world.source.execute(&write).await;
        world.archiver(["run", "--once"]).succeed().await;
        world.archiver(["snapshot"]).succeed().await;
        world
            .target
            .execute("SET session_replication_role = replica; DELETE FROM accounts WHERE id % 3 = 0")
            .await;
        let (resync, pruned) =
            tokio::join!(world.applier(["resync", "--all"]).run(), world.archiver(["prune"]).succeed());
        // A base may go while it is read, which is said; then the next one is there.
        if resync.code() != Some(0) {
            assert!(resync.stderr.contains("missing on the backup host"), "{resync}\n{pruned}");
            world.applier(["sync"]).succeed().await;
        }
        world.carry().await;
        world.assert_same(&TABLES).await;
    }
}

/// Both sides stream: what they hold does not grow with the table.
#[tokio::test]
async fn a_table_that_is_larger_than_memory_may_be_takes_no_more_on_either_side() {
    // Half as much again as either may take.
    const ROWS: u64 = 600_000;
    const ROW_BYTES: u64 = 400;
    const KIB_MAX: u64 = 160 * 1024;
    let options = WorldOptions::default().without_sftp();
    let world = options.start().await;
    world
        .source
        .execute(&format!("GRANT pg_read_all_data TO {ARCHIVER_ROLE}; ALTER ROLE {ARCHIVER_ROLE} BYPASSRLS"))
        .await;
    world.execute_on_both("CREATE TABLE numbers (id int PRIMARY KEY, text text)").await;
    world
        .source
        .execute(&format!(
            "INSERT INTO numbers SELECT i, rpad('row ' || i, {ROW_BYTES}, md5(i::text)) FROM generate_series(1, {ROWS}) i"
        ))
        .await;
    world.source.execute(SLOT).await;
    let patience = Duration::from_secs(600);
    let (snapshot, peak) = world.archiver(["snapshot"]).patience(patience).spawn().ended_with_peak().await;
    snapshot.expect_code(0);
    assert!(peak < KIB_MAX, "the archiver took {peak} KiB");
    world.archiver(["run", "--once"]).succeed().await;
    world.applier(["add-tables", "numbers"]).succeed().await;
    let (sync, peak) = world.applier(["sync"]).patience(patience).spawn().ended_with_peak().await;
    sync.expect_code(0);
    assert!(peak < KIB_MAX, "the applier took {peak} KiB");
    world.assert_same(&["numbers"]).await;
}
