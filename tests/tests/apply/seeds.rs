//! The applier is killed at every fault point while readers look on; afterwards the copy equals production.

use std::collections::BTreeMap;
use std::fs;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use syncdata_formats::manifest::{Manifest, OpCounts};
use syncdata_tests::workload::TABLES;
use syncdata_tests::{Prng, Workload, World, WorldOptions};
use tokio::task::JoinHandle;
use tokio_postgres::Client;

const SEEDS: u64 = 50;
const SLOT: &str = "SELECT pg_create_logical_replication_slot('syncdata_slot', 'wal2json')";

/// Every fault point of a pass; those of the archive are the acknowledgement's.
const POINTS: [&str; 12] = [
    "apply.after_commit",
    "apply.before_checkpoint",
    "apply.before_commit",
    "apply.begun",
    "apply.cache_cleaned",
    "apply.downloaded",
    "apply.half_batch",
    "apply.verified",
    "archive.after_rename",
    "archive.before_rename",
    "archive.part_written",
    "execution.begun",
];

/// Segments and batches are short, so that points come several times in a pass.
async fn world() -> (World, Workload) {
    let world = WorldOptions::default()
        .without_sftp()
        .archiver_setting("segment_max_changes", 12)
        .applier_setting("apply_batch_changes", 5)
        .start()
        .await;
    let workload = Workload::new(11);
    workload.create_tables(&world.source).await;
    workload.create_tables(&world.target).await;
    world.source.execute(SLOT).await;
    workload.fill(&world.source).await;
    world.archiver(["run", "--once"]).succeed().await;
    world.applier(["add-tables"].iter().chain(&TABLES)).succeed().await;
    world.applier(["sync"]).succeed().await;
    (world, workload)
}

/// How often each point comes in a clean pass.
async fn visits(world: &World, workload: &mut Workload) -> BTreeMap<String, u64> {
    workload.run(&world.source, 12).await;
    world.archiver(["run", "--once"]).succeed().await;
    let trace = world.folder().join("trace");
    world.applier(["sync"]).trace(&trace).succeed().await;
    let mut visits = BTreeMap::new();
    for point in fs::read_to_string(&trace).expect("a trace").lines() {
        *visits.entry(point.to_owned()).or_insert(0) += 1;
    }
    visits
}

/// Looks at all tables in one snapshot, one statement each, again and again.
struct Reader {
    stop: Arc<AtomicBool>,
    looks: JoinHandle<u32>,
}

impl Reader {
    async fn start(world: &World, total: i128) -> Reader {
        let client = world.target.connect().await;
        let stop = Arc::new(AtomicBool::new(false));
        let asked = Arc::clone(&stop);
        let looks = tokio::spawn(async move {
            let mut looks = 0;
            while !asked.load(Ordering::Relaxed) {
                assert_eq!(look(&client).await, total, "half a transaction was seen");
                looks += 1;
                // Others want the processors too.
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
            looks
        });
        Reader { stop, looks }
    }

    async fn stop(self) -> u32 {
        self.stop.store(true, Ordering::Relaxed);
        self.looks.await.expect("every look saw the whole sum")
    }
}

async fn look(client: &Client) -> i128 {
    client.batch_execute("BEGIN ISOLATION LEVEL REPEATABLE READ, READ ONLY").await.expect("a snapshot");
    let mut total = 0;
    for table in &TABLES[..3] {
        let sum = format!("SELECT sum(balance)::text FROM {table}");
        let row = client.query_one(&sum, &[]).await.expect("a sum");
        total += row.get::<_, &str>(0).parse::<i128>().expect("a sum is a number");
    }
    client.batch_execute("COMMIT").await.expect("the end of the snapshot");
    total
}

#[tokio::test]
async fn killed_at_any_point_readers_see_whole_transactions_and_nothing_comes_twice() {
    let (world, mut workload) = world().await;
    let total = Workload::total(&world.source).await;
    let visits = visits(&world, &mut workload).await;
    let points: Vec<&String> = visits.keys().collect();
    assert_eq!(points, POINTS, "a point was added or went: list it");
    let reader = Reader::start(&world, total).await;
    let mut kills = BTreeMap::new();
    for seed in 0..SEEDS {
        let mut random = Prng::new(seed);
        workload.run(&world.source, 6 + usize::try_from(random.below(6)).expect("a few")).await;
        world.archiver(["run", "--once"]).succeed().await;
        // Every point has its turn; which of its visits is chance.
        let point = POINTS[usize::try_from(seed).expect("a few") % POINTS.len()];
        let visit = 1 + random.below(visits[point].min(3));
        let run = world.applier(["sync"]).fault(&format!("{point}=kill@{visit}")).run().await;
        assert!(run.was_killed() || run.code() == Some(0), "seed {seed}: {point}@{visit}: {run}");
        *kills.entry(point).or_insert(0) += u32::from(run.was_killed());
        world.applier(["sync"]).succeed().await;
        world.assert_same(&TABLES).await;
        assert_eq!(world.target.value("SELECT count(*) FROM data_sync_checkpoint").await, "1", "seed {seed}");
    }
    assert!(reader.stop().await > 100, "the reader hardly looked");
    assert!(POINTS.iter().all(|point| kills.get(point) > Some(&0)), "killed at {kills:?}");
    assert_every_record_was_counted_once(&world).await;
}

/// The changes of all segments, as their manifests count them.
fn archived_changes(world: &World) -> u64 {
    let days = fs::read_dir(world.archive_dir().join("segments")).expect("the days");
    let files = days.flat_map(|day| fs::read_dir(day.expect("a day").path()).expect("a day's files"));
    let paths = files.map(|file| file.expect("a file").path());
    let manifests = paths.filter(|path| path.to_string_lossy().ends_with(".manifest.json"));
    let decoded = manifests.map(|path| Manifest::decode(&fs::read(path).expect("it is there")));
    decoded.flat_map(|manifest| manifest.expect("sound").tables.into_values()).map(OpCounts::total).sum()
}

/// The log has one row for a table and segment, and log and metrics count what the archive holds.
async fn assert_every_record_was_counted_once(world: &World) {
    let twice = "SELECT count(*) FROM (SELECT FROM data_sync_logs GROUP BY table_name, archive_ref
                 HAVING count(*) > 1) twice";
    assert_eq!(world.target.value(twice).await, "0");
    let archived = archived_changes(world).to_string();
    assert_eq!(world.target.value("SELECT sum(rows_synced) FROM data_sync_logs").await, archived);
    for period in ["FREQ", "WEEK", "MONTH"] {
        let counted = format!(
            "SELECT sum(records_added + records_updated + records_deleted) FROM data_sync_metrics
             WHERE period_type = '{period}'"
        );
        assert_eq!(world.target.value(&counted).await, archived, "{period}");
    }
}
