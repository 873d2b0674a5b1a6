//! The local disk is full: the pass stops with the reason, nothing is half applied, and with room it goes on.

use syncdata_tests::{Disk, LocalCopy};

fn row(id: u32) -> String {
    format!(r#"{{"table":"t","op":"INSERT","data":{{"id":{id},"v":"{id} is a row of some length"}}}}"#)
}

async fn copy_of(schema: &str) -> LocalCopy {
    let mut copy = LocalCopy::start(schema).await;
    for table in ["t", "u"] {
        copy.forge.relation(table, &["id integer not null", "v text"], &["id"]);
    }
    copy
}

#[tokio::test]
async fn a_full_disk_under_the_tables_stops_the_pass_and_quarantines_nothing() {
    let disk = Disk::mount("size=4m");
    let folder = disk.folder_of_a_server("space");
    let mut copy = copy_of("CREATE TABLE u (id int PRIMARY KEY, v text)").await;
    copy.server.execute(&format!("CREATE TABLESPACE small LOCATION '{}'", folder.display())).await;
    copy.server.execute("CREATE TABLE t (id int PRIMARY KEY, v text) TABLESPACE small").await;
    copy.applier(&["add-tables", "t", "u"]).succeed().await;
    copy.forge.segment(&[vec![r#"{"table":"u","op":"INSERT","data":{"id":1,"v":"x"}}"#.to_owned()]]);
    copy.sync(0).await;
    copy.forge.segment(&[
        vec![r#"{"table":"u","op":"INSERT","data":{"id":2,"v":"x"}}"#.to_owned()],
        (1..2000).map(row).collect(),
    ]);
    disk.fill();
    let said = copy.sync(2).await;
    assert!(said.contains("No space left on device") && said.contains("53100"), "{said}");
    assert_eq!(copy.rows("SELECT (SELECT count(*) FROM t), (SELECT count(*) FROM u)").await, "0,1");
    assert_eq!(copy.rows("SELECT DISTINCT state FROM data_sync_table_state").await, "live");
    assert_eq!(copy.rows("SELECT seq FROM data_sync_checkpoint").await, "1");
    let failed =
        "SELECT count(*) FROM data_sync_logs WHERE status = 'FAILED' AND error_detail LIKE '%No space%'";
    assert_eq!(copy.rows(failed).await, "1");
    disk.relieve();
    copy.sync(0).await;
    assert_eq!(copy.rows("SELECT (SELECT count(*) FROM t), (SELECT count(*) FROM u)").await, "1999,2");
    let counted = "SELECT sum(records_added) FROM data_sync_metrics WHERE period_type = 'WEEK'";
    assert_eq!(copy.rows(counted).await, "2001");
    // Its files lie on the disk.
    copy.server.execute("DROP TABLE t").await;
}

#[tokio::test]
async fn a_full_disk_under_the_cache_stops_the_pass_and_the_download_goes_on_later() {
    let disk = Disk::mount("size=1m");
    let mut copy = copy_of("CREATE TABLE t (id int PRIMARY KEY, v text)").await;
    copy.set("SYNCDATA_CACHE_DIR", disk.path().join("cache").to_str().expect("a plain name"));
    copy.applier(&["add-tables", "t"]).succeed().await;
    copy.forge.segment(&[vec![row(1)]]);
    copy.sync(0).await;
    copy.forge.segment(&[(2..5000).map(row).collect()]);
    disk.fill();
    let said = copy.sync(2).await;
    assert!(said.contains("No space left on device") && said.contains("0000000002"), "{said}");
    assert_eq!(copy.rows("SELECT count(*) FROM t").await, "1");
    disk.relieve();
    copy.sync(0).await;
    assert_eq!(copy.rows("SELECT count(*) FROM t").await, "4999");
}
