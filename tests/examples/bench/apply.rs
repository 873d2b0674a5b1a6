//! Applying what was captured, against native logical replication of the same changes.

use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use syncdata_tests::postgres::PostgresServer;

use crate::archiver::Archiver;
use crate::measure::{ratio, release, spread, timed};
use crate::source::{copy_slot, load, new_source, server};
use crate::{Arguments, Workload, say};

pub(crate) async fn run(Workload { name, sql, .. }: Workload, arguments: &Arguments) {
    let source = new_source(sql).await;
    let mut target = server("postgres").await;
    let folder = tempfile::tempdir().expect("a temporary folder can be made");
    copy_slot(&source, "base", "captured").await;
    let archiver = Archiver::new(&source, folder.path(), "captured");
    // The copies begin while production has the same rows.
    archiver.run();
    for round in 0..arguments.rounds {
        fresh(&mut target, &format!("ours_{round}"), sql).await;
        applier(&target, folder.path(), &archiver.archive, &["add-tables", "--from", "now", "public.*"]);
    }
    load(&source, arguments.rows).await;
    archiver.run();
    let mut ours = Vec::new();
    let mut native = Vec::new();
    for round in 0..arguments.rounds {
        target.use_database(&format!("ours_{round}"));
        ours.push(applier(&target, folder.path(), &archiver.archive, &["sync"]));
        assert_same(&source, &target).await;
        fresh(&mut target, &format!("native_{round}"), sql).await;
        native.push(replicate(&source, &target, round).await);
        assert_same(&source, &target).await;
    }
    say(&format!("apply, {} {name}", arguments.rows));
    say(&format!("  applier (verify, decompress, parse, net, apply, commit)  {}", spread(&ours)));
    say(&format!("  native logical replication                               {}", spread(&native)));
    say(&format!("  ratio, native over ours  {}", ratio(&native, &ours)));
}

/// A database with the tables as they were before the changes.
async fn fresh(target: &mut PostgresServer, database: &str, sql: &str) {
    target.use_database("postgres");
    target.execute(&format!("CREATE DATABASE {database}")).await;
    target.use_database(database);
    target.execute(sql).await;
    target.execute("VACUUM ANALYZE").await;
    target.execute("CHECKPOINT").await;
}

fn applier(target: &PostgresServer, folder: &Path, archive: &Path, arguments: &[&str]) -> Duration {
    let config = folder.join(format!("{}.toml", target.database()));
    let settings = format!(
        "archive_dir = {archive:?}\ncache_dir = {:?}\npg_host = {:?}\npg_port = {}\npg_user = {:?}\npg_database = {:?}\n",
        folder.join(target.database()),
        target.host(),
        target.port(),
        target.user(),
        target.database()
    );
    std::fs::write(&config, settings).expect("the folder is ours");
    let mut command = Command::new(release("syncdata-applier"));
    command.args(arguments).arg("--config").arg(&config).stdout(Stdio::null()).stderr(Stdio::null());
    timed(command)
}

/// From the start of the subscription until the last change is there.
async fn replicate(source: &PostgresServer, target: &PostgresServer, round: usize) -> Duration {
    let slot = format!("native_{round}");
    source.execute(&format!("SELECT pg_copy_logical_replication_slot('base_native', '{slot}')")).await;
    let connection = format!(
        "host={} port={} user={} dbname={}",
        source.host(),
        source.port(),
        source.user(),
        source.database()
    );
    let start = Instant::now();
    target
        .execute(&format!(
            "CREATE SUBSCRIPTION native CONNECTION '{connection}' PUBLICATION everything
             WITH (create_slot = false, slot_name = '{slot}', copy_data = false)"
        ))
        .await;
    while target.value("SELECT count(*) FROM done").await == "0" {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let took = start.elapsed();
    target.execute("ALTER SUBSCRIPTION native DISABLE").await;
    target.execute("ALTER SUBSCRIPTION native SET (slot_name = NONE)").await;
    target.execute("DROP SUBSCRIPTION native").await;
    took
}

/// Every table by the text of its rows.
async fn assert_same(source: &PostgresServer, target: &PostgresServer) {
    let tables = source
        .query("SELECT relname FROM pg_class WHERE relkind = 'r' AND relnamespace = 'public'::regnamespace ORDER BY 1")
        .await;
    for table in tables.into_iter().flatten().flatten() {
        let digest = format!("SELECT count(*), md5(string_agg(md5(t::text), '' ORDER BY id)) FROM {table} t");
        assert_eq!(source.query(&digest).await, target.query(&digest).await, "{table} differs");
    }
}
