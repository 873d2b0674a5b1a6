//! Restores that are tried before they are needed.

use std::fs;
use std::path::{Path, PathBuf};

use futures_util::TryStreamExt as _;
use rustix::process::Signal;
use serde_json::Value;
use syncdata_formats::digest::Digest;
use syncdata_formats::manifest::Manifest;
use syncdata_formats::proof::{Buckets, Digester, Layout, ProofManifest, RowHash};
use syncdata_tests::World;
use syncdata_tests::differential::image::PINNED;
use syncdata_tests::program::Daemon;
use syncdata_tests::world::WorldOptions;

use crate::scene::{self, TABLES, proofs, prove};

const SCHEMAS: &str = "SELECT count(*) FROM pg_namespace WHERE nspname LIKE '%drill%'";
const LIVE: &str = "SELECT string_agg(xmin || ' ' || a::text, ' ' ORDER BY id) FROM accounts a";

async fn drill(world: &World, table: &str, code: i32) -> Value {
    let drilled = world.applier(["drill", table, "--json"]).run().await.expect_code(code).json();
    assert_eq!(world.target.value(SCHEMAS).await, "0", "{drilled}");
    drilled
}

/// `verdict detail` of all drills, oldest first.
async fn noted(world: &World) -> Vec<String> {
    let sql = "SELECT concat_ws(' ', verdict, detail) FROM data_sync_drills WHERE finished_at IS NOT NULL ORDER BY id";
    world.target.query(sql).await.into_iter().flatten().flatten().collect()
}

fn word<'a>(drilled: &'a Value, key: &str) -> &'a str {
    drilled[key].as_str().unwrap_or_default()
}

/// Base copies, changes after them, and a proof of all.
async fn proved() -> World {
    let world = scene::world(WorldOptions::default()).await;
    world
        .source
        .execute(
            "UPDATE accounts SET balance = balance + 1, id = id + 5000 WHERE id % 7 = 0; DELETE FROM entries WHERE id % 11 = 0;
             INSERT INTO log VALUES ('line 1', NULL), ('line 1', NULL); UPDATE parts SET region = 'b' WHERE id = 2",
        )
        .await;
    prove(&world).await;
    world
}

#[tokio::test]
async fn a_table_that_is_restored_from_the_archive_is_what_production_was() {
    let world = proved().await;
    // What came after the proof is not of it, whatever became of the live table.
    world.source.execute("DELETE FROM accounts WHERE id < 500; TRUNCATE log").await;
    world.carry().await;
    let before = world.target.value(LIVE).await;
    for table in TABLES {
        let drilled = drill(&world, table, 0).await;
        assert_eq!((word(&drilled, "verdict"), word(&drilled, "table")), ("equal", table), "{drilled}");
        assert!(word(&drilled, "base").starts_with("snapshot "), "{drilled}");
        assert!(drilled["restore_seconds"].is_number() && drilled["bytes"].is_number(), "{drilled}");
    }
    assert_eq!(world.target.value(LIVE).await, before);
    let rows = "SELECT string_agg(table_name || ' ' || rows, ', ' ORDER BY id) FROM data_sync_drills
        WHERE verdict = 'equal' AND bytes > 0 AND time_to_restore > '0' AND duration >= time_to_restore
          AND cut_lsn IS NOT NULL AND proof_id <> '' AND base <> ''";
    assert_eq!(world.target.value(rows).await, "accounts 1000, entries 2728, log 502, parts 400");

    // Without a name it is any of them.
    let any = world.applier(["drill"]).succeed().await.stdout;
    assert!(TABLES.iter().any(|table| any.starts_with(&format!("{table}: equal, as of "))), "{any}");
    assert!(any.contains("restored: ") && any.contains(" rows, "), "{any}");
    let unknown = world.applier(["drill", "nowhere"]).run().await.expect_code(2);
    assert!(unknown.stderr.contains("not in the whitelist"), "{unknown}");
}

#[tokio::test]
async fn a_base_or_a_segment_that_is_spoilt_is_found_by_a_drill_before_it_is_needed() {
    let world = proved().await;
    let archive = world.archive_dir();
    let segment = files(&archive.join("segments"), ".jsonl.zst").pop().expect("changes");
    let part = files(&archive.join("snapshots"), ".zst").pop().expect("a part");
    for file in [&segment, &part] {
        let sound = fs::read(file).expect("there");
        let mut damaged = sound.clone();
        damaged[sound.len() / 2] ^= 1;
        let mut tables = 0;
        for spoilt in [Some(damaged), None] {
            match spoilt {
                Some(bytes) => fs::write(file, bytes).expect("ours"),
                None => fs::remove_file(file).expect("ours"),
            }
            // A base copy has files of its own for each table.
            for table in TABLES {
                let drilled = world.applier(["drill", table, "--json"]).run().await;
                if drilled.code() == Some(0) {
                    continue;
                }
                tables += 1;
                let drilled = drilled.expect_code(2).json();
                let name = file.file_name().expect("a name").to_str().expect("plain");
                let number = name.split('.').next().expect("a name");
                assert_eq!(word(&drilled, "verdict"), "not_proved", "{drilled}");
                assert!(word(&drilled, "detail").contains(number), "{name}: {drilled}");
            }
        }
        assert!(tables >= 2, "nobody met {}", file.display());
        fs::write(file, &sound).expect("ours");
    }
    assert_eq!(world.target.value(SCHEMAS).await, "0");
    drill(&world, "accounts", 0).await;

    // Files that are sound and not what production was.
    let folder = proofs(&world).pop().expect("a proof");
    forge(&folder, "entries");
    let drilled = drill(&world, "entries", 1).await;
    assert_eq!(word(&drilled, "verdict"), "differs", "{drilled}");
    assert!(word(&drilled, "detail").contains("buckets differ"), "{drilled}");
    assert!(word(&drilled, "remedy").contains("syncdata-archiver snapshot --tables"), "{drilled}");
    assert!(noted(&world).await.last().expect("noted").starts_with("differs 1 of "));
}

/// Production says that it had one row more.
fn forge(folder: &Path, table: &str) {
    let place = folder.join(ProofManifest::FILE);
    let mut proof = ProofManifest::decode(&fs::read(&place).expect("there")).expect("sound");
    let id = proof.id.clone();
    let proved = proof.tables.get_mut(&table.parse().expect("a name")).expect("it is proved");
    let file = folder.join(&proved.file);
    let mut buckets = Buckets::decode(proved, &fs::read(&file).expect("there")).expect("sound");
    buckets.add(0, RowHash(7));
    let bytes = buckets.encode().expect("zstd");
    (proved.rows, proved.bytes, proved.sha256) = (proved.rows + 1, bytes.len() as u64, Digest::of(&bytes));
    fs::write(file, bytes).expect("ours");
    let bytes = proof.encode();
    fs::write(place, &bytes).expect("ours");
    let beside = id.digest().as_str().rsplit('/').next().expect("a name").to_owned();
    fs::write(folder.join(beside), ProofManifest::digest_file(&bytes)).expect("ours");
}

fn files(folder: &Path, ending: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).expect("a folder").map(|entry| entry.expect("an entry").path()) {
        match entry.is_dir() {
            true => found.extend(files(&entry, ending)),
            false if entry.to_string_lossy().ends_with(ending) => found.push(entry),
            false => {}
        }
    }
    found.sort();
    found
}

#[tokio::test]
async fn a_table_without_a_base_or_without_a_proof_is_not_drilled_with_the_reason() {
    let world = scene::world(WorldOptions::default()).await;
    world.source.execute("UPDATE accounts SET balance = 0 WHERE id = 1").await;
    world.carry().await;
    let early = world.applier(["drill", "accounts"]).run().await.expect_code(2);
    assert!(early.stderr.contains("no proof of accounts") && early.stderr.contains("proof_every"), "{early}");
    prove(&world).await;
    drill(&world, "accounts", 0).await;
    let snapshots = world.archive_dir().join("snapshots");
    fs::rename(&snapshots, world.archive_dir().join("elsewhere")).expect("ours");
    let drilled = drill(&world, "accounts", 2).await;
    let detail = word(&drilled, "detail");
    assert!(detail.contains("rows when its capture began") && detail.contains("snapshot"), "{detail}");
    assert_eq!(noted(&world).await, ["equal".to_owned(), format!("not_proved {detail}")]);
}

/// Two ways to the same rows: a moment, and a place in the commit order.
#[tokio::test]
async fn tables_as_of_the_cut_have_the_buckets_of_the_proof() {
    let world = proved().await;
    let clock = "SELECT to_char(clock_timestamp() AT TIME ZONE 'UTC', 'YYYY-MM-DD\"T\"HH24:MI:SS.US\"Z\"') FROM pg_sleep(0.01)";
    let time = world.source.value(clock).await;
    world.source.query("SELECT pg_sleep(0.01)").await;
    let later = "DELETE FROM accounts WHERE id < 500; TRUNCATE log; UPDATE parts SET v = NULL; DELETE FROM entries WHERE id < 9";
    world.source.execute(later).await;
    world.carry().await;
    world.applier(["as-of", &time, "--into", "at_cut"]).succeed().await;

    let folder = proofs(&world).pop().expect("a proof");
    let read = |file: &Path| fs::read(file).expect("it is there");
    let proof = ProofManifest::decode(&read(&folder.join(ProofManifest::FILE))).expect("sound");
    let number = format!("{}-", proof.cut.seq);
    let named_so =
        |file: &PathBuf| file.file_name().is_some_and(|name| name.to_string_lossy().starts_with(&number));
    let manifest = files(&world.archive_dir().join("segments"), ".manifest.json").into_iter().find(named_so);
    let manifest = Manifest::decode(&read(&manifest.expect("the cut's"))).expect("sound");
    let mark = manifest.proof.expect("a mark");
    let client = world.target.connect().await;
    client.batch_execute(PINNED).await.expect("settings");
    assert_eq!(proof.tables.len(), TABLES.len());
    for (name, proved) in &proof.tables {
        let layout = Layout::of(&mark.tables[name].relation);
        let copy = format!("COPY at_cut.{} ({}) TO STDOUT", name.name(), layout.columns.join(", "));
        let mut answer = std::pin::pin!(client.copy_out(&copy).await.expect("rows"));
        let mut digester = Digester::new(layout, proved.k);
        while let Some(piece) = answer.try_next().await.expect("rows") {
            digester.push(&piece).expect("rows");
        }
        let theirs = Buckets::decode(proved, &read(&folder.join(&proved.file))).expect("sound");
        assert!(digester.finish().expect("whole rows") == theirs, "{name}");
    }
}

/// A table whose rows come only when whoever holds the lock lets them.
async fn held_up(world: &World) -> tokio_postgres::Client {
    world
        .target
        .execute(
            "CREATE FUNCTION comes(int) RETURNS bool LANGUAGE plpgsql AS $$ BEGIN
                 WHILE EXISTS (SELECT FROM pg_locks WHERE locktype = 'advisory' AND objid = 77) LOOP PERFORM pg_sleep(0.02); END LOOP;
                 RETURN true; END $$;
             ALTER TABLE accounts ADD CONSTRAINT comes CHECK (comes(id))",
        )
        .await;
    let holder = world.target.connect().await;
    holder.batch_execute("SELECT pg_advisory_lock(77)").await.expect("a lock");
    holder
}

async fn begun(world: &World) -> Daemon {
    let running = world.applier(["drill", "accounts"]).spawn();
    let waits = "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'syncdata-applier drill'
        AND wait_event = 'PgSleep'";
    while world.target.value(waits).await == "0" {
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
    running
}

#[tokio::test]
async fn a_drill_holds_up_no_pass_and_leaves_nothing_when_it_is_stopped_or_killed() {
    let world = proved().await;
    let holder = held_up(&world).await;
    let running = begun(&world).await;
    // The strongest lock that a pass takes, beside it.
    world.source.execute("TRUNCATE accounts; INSERT INTO log VALUES ('after', NULL)").await;
    world.carry().await;
    assert_eq!(world.target.value("SELECT count(*) FROM accounts").await, "0");
    let second = world.applier(["drill", "log"]).run().await.expect_code(2);
    assert!(second.stderr.contains("another drill is under way"), "{second}");
    running.signal(Signal::TERM);
    let stopped = running.ended().await.expect_code(2);
    assert!(
        stopped.stdout.contains("accounts: not proved, as of") && stopped.stdout.contains("interrupted"),
        "{stopped}"
    );
    assert_eq!(world.target.value(SCHEMAS).await, "0");

    begun(&world).await.kill().await;
    assert_eq!(world.target.value(SCHEMAS).await, "1");
    drill(&world, "log", 0).await;
    holder.batch_execute("SELECT pg_advisory_unlock(77)").await.expect("ours");
    for fault in ["drill.made", "drill.restored", "drill.compared"] {
        let killed = world.applier(["drill", "accounts"]).fault(&format!("{fault}=kill")).run().await;
        assert!(killed.was_killed(), "{fault}: {}", killed.stderr);
        let drilled = drill(&world, "accounts", 0).await;
        assert_eq!(drilled["rows"], 1000, "{drilled}");
    }
    let failed =
        world.applier(["drill", "accounts"]).fault("drill.restored=error").run().await.expect_code(2);
    assert!(failed.stdout.contains("fault injected"), "{failed}");
    assert_eq!(world.target.value(SCHEMAS).await, "0");
    let interrupted = noted(&world).await.iter().filter(|noted| *noted == "not_proved interrupted").count();
    assert_eq!(interrupted, 5);
}
