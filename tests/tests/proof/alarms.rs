//! Not one false alarm, whatever production does meanwhile.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use syncdata_formats::proof::ProofManifest;
use syncdata_tests::world::{World, WorldOptions};

use crate::scene::{self, TABLES, assert_all_equal, proofs, status};

/// Proofs under load; the soak runs them in full.
fn rounds() -> u32 {
    std::env::var("SYNCDATA_PROOFS").ok().and_then(|text| text.parse().ok()).unwrap_or(5)
}

/// Sessions that write until they are told to stop: savepoints, prepared transactions, TOAST, key moves, truncates.
/// Truncates come when they are asked for: after one too many no proof would speak of the table.
pub(crate) fn write(
    world: &World,
    stop: &Arc<AtomicBool>,
    truncate: &Arc<AtomicBool>,
    number: u32,
) -> tokio::task::JoinHandle<u64> {
    let config = world.source.config();
    let (stop, truncate) = (Arc::clone(stop), Arc::clone(truncate));
    tokio::spawn(async move {
        let client = syncdata_tests::postgres::connect(&config).await.expect("connects");
        let mut round = u64::from(number);
        while !stop.load(Ordering::Relaxed) {
            round += 8;
            let id = round % 1000 / 8 * 8 + u64::from(number) + 1;
            let sql = match round / 8 % 9 {
                0 => format!(
                    "BEGIN; UPDATE accounts SET balance = balance - 1 WHERE id = {id}; INSERT INTO entries (account, amount) VALUES ({id}, 1); COMMIT"
                ),
                1 => format!(
                    "DELETE FROM entries WHERE id IN (SELECT id FROM entries WHERE account = {id} LIMIT 2)"
                ),
                2 => format!("INSERT INTO log VALUES ('line {id}', NULL), ('line {id}', NULL)"),
                3 => format!("UPDATE accounts SET big = repeat(md5('{round}'), 100) WHERE id = {id}"),
                4 => format!(
                    "BEGIN; INSERT INTO entries (account, amount) VALUES ({id}, {round}); SAVEPOINT s; INSERT INTO log VALUES ('gone', NULL); ROLLBACK TO s; SAVEPOINT t; INSERT INTO log VALUES ('kept', NULL); COMMIT"
                ),
                5 => format!(
                    "BEGIN; UPDATE entries SET amount = amount + 1 WHERE account = {id}; PREPARE TRANSACTION 'p{number}'"
                ),
                6 => format!("COMMIT PREPARED 'p{number}'"),
                7 => format!(
                    "UPDATE accounts SET id = id + 100000 WHERE id = {id}; UPDATE accounts SET id = id - 100000 WHERE id = {id} + 100000"
                ),
                _ if truncate.swap(false, Ordering::Relaxed) => "TRUNCATE log".to_owned(),
                _ => format!("BEGIN; UPDATE entries SET amount = amount + 1 WHERE account = {id}; ROLLBACK"),
            };
            // Two sessions may meet in the log, and a prepared transaction may not have been made.
            if client.batch_execute(&sql).await.is_err() {
                let _ = client.batch_execute("ROLLBACK").await;
            }
            // Commits overlap with proofs, and the machine is not theirs alone.
            tokio::time::sleep(Duration::from_millis(12)).await;
        }
        let _ = client.batch_execute(&format!("COMMIT PREPARED 'p{number}'")).await;
        round
    })
}

#[expect(clippy::print_stderr, reason = "figures are what a soak is for")]
#[tokio::test]
async fn proofs_under_writing_sessions_raise_no_false_alarm_and_find_what_is_spoilt() {
    let options = WorldOptions::default().source(|source| source.setting("max_prepared_transactions", "20"));
    let world = scene::world(options).await;
    let stop = Arc::new(AtomicBool::new(false));
    let truncate = Arc::new(AtomicBool::new(false));
    let writers: Vec<_> = (0..8).map(|number| write(&world, &stop, &truncate, number)).collect();
    let (mut proved, mut void, mut unfit) = (0, 0, 0);
    for round in 0..rounds() {
        truncate.store(round % 3 == 0, Ordering::Relaxed);
        // Longer than it waits for older transactions: what holds it up is in what it says.
        let proof = world.archiver(["-v", "proof", "--json"]).patience(Duration::from_secs(900));
        let made = proof.run().await;
        if made.code() == Some(1) && made.stdout.is_empty() {
            // No snapshot fitted: said, and no alarm.
            unfit += 1;
            continue;
        }
        void += made.json()["void"].as_u64().expect("a number");
        // What was written while the proof was made is much where other work holds both up.
        world.applier(["-v", "sync"]).patience(Duration::from_secs(900)).succeed().await;
        let (tables, _) = status(&world).await;
        for table in &tables {
            assert!(
                table["verdict"] == "equal" || table["verdict"] == "not_proved",
                "round {round}: {table}"
            );
            proved += u32::from(table["verdict"] == "equal");
        }
    }
    stop.store(true, Ordering::Relaxed);
    for writer in writers {
        writer.await.expect("it writes to its end");
    }
    eprintln!("{} proofs, {unfit} without a fitting snapshot, {void} void, {proved} tables proved", rounds());
    assert!(proved >= 3 * (rounds() - unfit), "{proved} tables were proved, {void} attempts void");
    world.archiver(["proof"]).succeed().await;
    world.applier(["sync"]).succeed().await;
    assert_all_equal(&world).await;
    world.assert_same(&TABLES).await;
}

/// A commit that waits for a standby is in the stream and seen by nobody.
#[tokio::test]
async fn a_commit_that_waits_for_a_standby_is_waited_for_and_never_an_alarm() {
    let mut world = scene::world(WorldOptions::default()).await;
    world.source.append_setting("synchronous_standby_names", "nobody");
    // A reload takes its time, and until then commits wait for nobody.
    world.source.restart().await;
    let waiting = world.source.connect().await;
    let commit =
        tokio::spawn(
            async move { waiting.batch_execute("UPDATE accounts SET balance = 7 WHERE id = 1").await },
        );
    let waits = "SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'SyncRep'";
    while world.source.value(waits).await != "1" {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let refused = world.archiver(["proof", "--wait", "2s"]).run().await.expect_code(1);
    assert!(
        refused.stderr.contains("have not ended") && refused.stderr.contains("process"),
        "{}",
        refused.stderr
    );

    let running = world.archiver(["proof", "--wait", "60s"]).spawn();
    tokio::time::sleep(Duration::from_millis(500)).await;
    world.source.append_setting("synchronous_standby_names", "");
    world.source.reload();
    commit.await.expect("no panic").expect("committed");
    running.ended().await.expect_code(0);
    world.applier(["sync"]).succeed().await;
    assert_all_equal(&world).await;
}

/// Whoever wants to alter a table waits no longer than a second for a proof.
#[tokio::test]
async fn ddl_of_production_is_not_held_up() {
    let world = scene::world(WorldOptions::default()).await;
    world
        .source
        .execute("INSERT INTO log SELECT repeat('x', 200), NULL FROM generate_series(1, 60000)")
        .await;
    let mut running = world.archiver(["-v", "proof", "--tables", "log", "--rate", "1MiB", "--json"]).spawn();
    running.says("proof begun").await;
    let reads = "SELECT count(*) FROM pg_stat_activity WHERE query LIKE 'COPY%log%' AND state = 'active'";
    while world.source.value(reads).await == "0" {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let started = std::time::Instant::now();
    world.source.execute("ALTER TABLE log ADD COLUMN later int").await;
    // Unyielding, it would wait for the whole table: 12 s at this rate.
    assert!(started.elapsed() < Duration::from_secs(6), "{:?}", started.elapsed());
    let finished = running.ended().await.expect_code(1);
    assert_eq!(finished.json()["not_proved"]["log"], "DDL waited");
}

/// An index that is built beside writers waits for every older snapshot of the database.
#[tokio::test]
async fn an_index_that_production_builds_concurrently_is_not_held_up() {
    let world = scene::world(WorldOptions::default()).await;
    world
        .source
        .execute("INSERT INTO log SELECT repeat('x', 200), NULL FROM generate_series(1, 100000)")
        .await;
    let arguments = ["-v", "proof", "--tables", "accounts,log", "parts", "--rate", "1MiB", "--json"];
    let mut running = world.archiver(arguments).spawn();
    running.says("proof begun").await;
    let reads = "SELECT count(*) FROM pg_stat_activity WHERE query LIKE 'COPY%log%' AND state = 'active'";
    while world.source.value(reads).await == "0" {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let started = std::time::Instant::now();
    // Of a table that is read by nobody any more.
    world.source.execute("CREATE INDEX CONCURRENTLY beside ON accounts (balance)").await;
    // Unyielding, it would wait for 20 s.
    assert!(started.elapsed() < Duration::from_secs(8), "{:?}", started.elapsed());
    let made = running.ended().await.expect_code(1).json();
    assert_eq!(made["tables"], 1, "{made}");
    for table in ["log", "parts"] {
        assert_eq!(made["not_proved"][table], "DDL waited", "{made}");
    }
    world.applier(["sync"]).succeed().await;
    let (tables, _) = status(&world).await;
    assert!(tables.iter().all(|table| table["verdict"] != "differs"), "{tables:?}");
}

/// The archive says when the newest proof was made: by a clock that may have been wrong, or by somebody else's word.
#[tokio::test]
async fn a_proof_from_the_future_does_not_keep_the_daemon_from_making_one() {
    let mut world = scene::world(WorldOptions::default()).await;
    world.archiver(["proof"]).succeed().await;
    let folder = proofs(&world).pop().expect("a proof");
    let file = folder.join("proof.manifest.json");
    let mut manifest = ProofManifest::decode(&std::fs::read(&file).expect("there")).expect("sound");
    manifest.taken_at = "2126-02-05T10:30:00Z".parse().expect("a time");
    let bytes = manifest.encode();
    std::fs::write(&file, &bytes).expect("ours");
    let digest = folder.join("proof.manifest.json.sha256");
    std::fs::write(digest, ProofManifest::digest_file(&bytes)).expect("ours");
    // What a crash has left of one that was never published goes with the next.
    let left = world.archive_dir().join("proofs/0000000000000001-20260205T103000Z");
    std::fs::create_dir(&left).expect("ours");
    std::fs::write(left.join("1.buckets.zst"), b"half").expect("ours");

    world.set_archiver("proof_every", "1d");
    let mut daemon = world.archiver(["-v", "run"]).spawn();
    daemon.says("proof published").await;
    daemon.stop().await;
    assert_eq!(proofs(&world).len(), 2);
    assert!(!left.exists());
}
