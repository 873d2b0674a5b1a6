//! Reading a backlog from a slot.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use syncdata_tests::postgres::PostgresServer;

use crate::archiver::Archiver;
use crate::measure::{ratio, spread, timed};
use crate::source::{copy_slot, loaded_source};
use crate::{Arguments, Workload, say};

pub(crate) async fn run(Workload { name, sql, .. }: Workload, arguments: &Arguments) {
    let source = loaded_source(sql, arguments.rows).await;
    let mut ours = Vec::new();
    let mut peers = Vec::new();
    let mut shipped = 0;
    for round in 0..arguments.rounds {
        let folder = tempfile::tempdir().expect("a temporary folder can be made");
        copy_slot(&source, &format!("ours_{round}")).await;
        copy_slot(&source, &format!("peer_{round}")).await;
        let archiver = Archiver::new(&source, folder.path(), &format!("ours_{round}"));
        ours.push(archiver.run());
        shipped = archiver.archived_bytes();
        peers.push(plain_copy(&source, folder.path(), &format!("peer_{round}")));
    }
    say(&format!("capture, {} {name}", arguments.rows));
    say(&format!(
        "  archiver (spooled, fsynced, compressed, hashed, manifested, shipped to a folder)  {}",
        spread(&ours)
    ));
    say(&format!(
        "  one COPY of the peek to a file                                                 {}",
        spread(&peers)
    ));
    say(&format!("  ratio  {}", ratio(&ours, &peers)));
    say(&format!("  change files  {} bytes, {} a change", shipped, shipped / arguments.rows.max(1)));
}

/// The same options as the archiver's, so that the plugin prints the same.
fn plain_copy(source: &PostgresServer, folder: &Path, slot: &str) -> Duration {
    let options = "'format-version','2','include-lsn','1','include-xids','1','include-timestamp','1',\
        'include-transaction','1','include-types','0','include-type-oids','1','add-tables','*.*'";
    let query = format!(
        "COPY (SELECT data FROM pg_logical_slot_peek_changes('{slot}', NULL, NULL, {options})) TO STDOUT"
    );
    let file = std::fs::File::create(folder.join("peek.copy")).expect("the folder is ours");
    let mut command = Command::new("psql");
    command
        .args(["--no-psqlrc", "--quiet", "--host", source.host(), "--port", &source.port().to_string()])
        .args(["--username", source.user(), "--dbname", source.database(), "--command", &query])
        .stdout(file);
    timed(command)
}
