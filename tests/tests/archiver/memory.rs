//! Memory is bounded, however large a transaction is.

use std::time::Duration;

use syncdata_tests::World;

use crate::operator::SLOT;
use crate::reader;

const ROWS: u64 = 500_000;
const KIB_MAX: u64 = 64 * 1024;

#[tokio::test]
async fn half_a_million_rows_in_one_transaction_take_no_more_than_64_mib() {
    let world = World::start().await;
    world.source.execute("CREATE TABLE numbers (id int PRIMARY KEY, text text)").await;
    world.source.execute(SLOT).await;
    world
        .source
        .execute(&format!("INSERT INTO numbers SELECT i, 'row ' || i FROM generate_series(1, {ROWS}) i"))
        .await;
    let run = world.archiver(["run", "--once"]).patience(Duration::from_secs(300)).spawn();
    let (run, peak) = run.ended_with_peak().await;
    let run = run.expect_code(0);
    let lines = ROWS + 2;
    assert!(run.stderr.contains(&format!("job=\"reading the slot\" rows={lines} ")), "{run}");
    assert!(run.stderr.contains("the server kept this answer in temporary files"), "{run}");
    assert!(peak < KIB_MAX, "{peak} KiB");
    let segments = reader::segments(world.archive_dir());
    assert_eq!(segments.len(), 1, "a transaction is never cut");
    assert_eq!(segments[0].manifest["records"], ROWS);
    assert_eq!(segments[0].lines.len() as u64, ROWS + 1);
}
