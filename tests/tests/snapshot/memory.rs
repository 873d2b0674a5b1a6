//! Memory is bounded, however large a table is.

use std::time::Duration;

use syncdata_tests::World;

use crate::scene;

const ROWS: u64 = 1_000_000;
const KIB_MAX: u64 = 512 * 1024;

/// KiB of resident memory at most, until the snapshot has ended.
async fn peak(world: &World) -> u64 {
    let run = world.archiver(["snapshot"]).patience(Duration::from_secs(300)).spawn();
    let status = format!("/proc/{}/status", run.id());
    let mut peak = 0;
    while let Some(kib) = high_water_mark(&status) {
        peak = peak.max(kib);
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    run.ended().await.expect_code(0);
    peak
}

/// `None` once it has ended: a process that has, has no memory.
fn high_water_mark(status: &str) -> Option<u64> {
    let text = std::fs::read_to_string(status).ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    line.trim().strip_suffix(" kB")?.parse().ok()
}

#[tokio::test]
async fn a_large_table_is_copied_and_told_as_a_difference_within_512_mib() {
    let world = scene::world(&format!(
        "CREATE TABLE items (id int PRIMARY KEY, text text);
         INSERT INTO items SELECT i, repeat(md5(i::text), 5) FROM generate_series(1, {ROWS}) i"
    ))
    .await;
    for change in ["", "UPDATE items SET text = md5(text) || text WHERE id % 100 = 0"] {
        world.source.execute(change).await;
        let peak = peak(&world).await;
        assert!(peak > 0 && peak < KIB_MAX, "{peak} KiB");
    }
    let newest = scene::newest(world.archive_dir());
    assert_eq!(newest.rows(), ROWS);
    let parts = newest.tables.values().flat_map(|table| &table.parts);
    assert!(parts.filter(|part| part.files.len() == 2).count() > 5, "differences were made");
}
