//! Memory is bounded, however large a transaction is.

use std::time::Duration;

use syncdata_tests::LocalCopy;

/// Several times what a batch may hold, so that all batches that are ever alive at once are full.
const ROWS: u64 = 10_000_000;
const KIB_MAX: u64 = 512 * 1024;

#[tokio::test]
async fn ten_million_rows_in_one_transaction_take_no_more_than_512_mib() {
    let mut copy = LocalCopy::start("CREATE TABLE numbers (id int PRIMARY KEY, v int)").await;
    copy.forge.relation("numbers", &["id integer not null", "v integer"], &["id"]);
    let insert =
        |id: u64| format!(r#"{{"table":"numbers","op":"INSERT","data":{{"id":{id},"v":{}}}}}"#, id % 7);
    copy.forge.segment_of([(1..=ROWS).map(insert)]);
    copy.applier(&["add-tables", "numbers"]).succeed().await;
    let sync = copy.applier(&["sync"]).spawn();
    let mut peak = 0;
    // Until it has ended: a process that has, has no memory.
    while let Some(kib) = sync.peak_kib() {
        peak = peak.max(kib);
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    sync.ended().await.expect_code(0);
    assert!(peak > 0 && peak < KIB_MAX, "{peak} KiB");
    assert_eq!(copy.rows("SELECT count(*), sum(v) FROM numbers").await, format!("{ROWS},{}", sum()));
}

fn sum() -> u64 {
    (1..=ROWS).map(|id| id % 7).sum()
}
