//! Memory is bounded, however large a transaction is.

use std::time::Duration;

use syncdata_tests::LocalCopy;

/// Several times what a batch may hold, so that all batches that are ever alive at once are full.
const ROWS: u64 = 6_000_000;
const KIB_MAX: u64 = 384 * 1024;

#[tokio::test]
async fn six_million_rows_in_one_transaction_take_no_more_than_384_mib() {
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

/// The most memory that a pass with this record takes, its exit code, and what it said.
async fn pass_with_a_record_of(copy: &mut LocalCopy, bytes: usize) -> (u64, syncdata_tests::Finished) {
    copy.forge.relation("numbers", &["id integer not null", "v text"], &["id"]);
    copy.forge.relation("others", &["id integer not null"], &["id"]);
    let long =
        format!(r#"{{"table":"numbers","op":"INSERT","data":{{"id":1,"v":"{}"}}}}"#, "x".repeat(bytes));
    let other = |id: u32| format!(r#"{{"table":"others","op":"INSERT","data":{{"id":{id}}}}}"#);
    copy.forge.segment(&[vec![other(1)], vec![other(2), long], vec![other(3)]]);
    copy.applier(&["add-tables", "numbers", "others"]).succeed().await;
    let (run, peak) = copy.applier(&["sync"]).spawn().ended_with_peak().await;
    (peak, run)
}

const TEXTS: &str =
    "CREATE TABLE numbers (id int PRIMARY KEY, v text); CREATE TABLE others (id int PRIMARY KEY)";

#[tokio::test]
async fn a_record_longer_than_line_max_sets_its_table_aside_in_bounded_memory() {
    let mut copy = LocalCopy::start(TEXTS).await;
    copy.set("SYNCDATA_LINE_MAX", "50MiB");
    let (peak, run) = pass_with_a_record_of(&mut copy, 150 << 20).await;
    let run = run.expect_code(1);
    assert!(run.stdout.contains("numbers: quarantined: a record of 1572"), "{run}");
    assert!(run.stdout.contains("line_max"), "{run}");
    assert!(peak < 140 * 1024, "{peak} KiB");
    assert_eq!(copy.rows("SELECT count(*) FROM others").await, "3");
    let place = "SELECT seq, line, record IS NULL FROM data_sync_quarantine";
    assert_eq!(copy.rows(place).await, "1,4,t");
    copy.applier(&["verify"]).succeed().await;
    // The next one is read on, and what is allowed to be longer is taken.
    copy.set("SYNCDATA_LINE_MAX", "200MiB");
    copy.applier(&["retry", "numbers"]).succeed().await;
    assert_eq!(copy.rows("SELECT length(v) FROM numbers").await, (150 << 20).to_string());
}

#[tokio::test]
async fn nobody_holds_a_record_that_is_longer_than_line_max() {
    let (record, most) = (150 << 20, 120 * 1024);
    let mut copy = LocalCopy::start(TEXTS).await;
    copy.set("SYNCDATA_LINE_MAX", "1MiB");
    // A pass, which also counts what waits for the table.
    let (peak, run) = pass_with_a_record_of(&mut copy, record).await;
    run.expect_code(1);
    assert!(peak < most, "a pass: {peak} KiB");
    let past = ["as-of", "2026-02-05T10:30:00Z", "--into", "past", "--tables", "others"];
    let (run, peak) = copy.applier(&past).spawn().ended_with_peak().await;
    run.expect_code(0);
    assert!(peak < most, "as-of: {peak} KiB");
    assert_eq!(copy.rows("SELECT id FROM past.others").await, "1");
    let letter = copy.rows("SELECT operation_id FROM data_sync_quarantine").await;
    let skip = ["dead-letters", "skip", &letter, "--reason", "too long"];
    let (run, peak) = copy.applier(&skip).spawn().ended_with_peak().await;
    run.expect_code(0);
    assert!(peak < most, "dead-letters: {peak} KiB");
}

#[tokio::test]
async fn a_record_that_line_max_allows_fits_into_the_units_memory() {
    let mut copy = LocalCopy::start(TEXTS).await;
    let (peak, run) = pass_with_a_record_of(&mut copy, 250 << 20).await;
    run.expect_code(0);
    assert!(peak < 1024 * 1024, "{peak} KiB");
    assert_eq!(copy.rows("SELECT length(v) FROM numbers").await, (250 << 20).to_string());
}

fn sum() -> u64 {
    (1..=ROWS).map(|id| id % 7).sum()
}
