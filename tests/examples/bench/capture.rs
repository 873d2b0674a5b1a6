//! Reading a backlog: from a slot, and what triggers noted.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use syncdata_tests::postgres::PostgresServer;

use crate::archiver::Archiver;
use crate::measure::{ratio, spread, timed};
use crate::source::{copy_slot, loaded_source};
use crate::triggers::Noted;
use crate::{Arguments, Workload, say};

pub(crate) async fn run(Workload { name, sql, .. }: Workload, arguments: &Arguments) {
    let source = loaded_source(sql, arguments.rows).await;
    let mut noted = Noted::load(sql, arguments.rows).await;
    let mut measured = PLUGINS.map(|_| (Vec::new(), Vec::new(), 0));
    for _ in 0..arguments.rounds {
        for (plugin, (ours, peers, shipped)) in PLUGINS.iter().zip(&mut measured) {
            let folder = tempfile::tempdir().expect("a temporary folder can be made");
            copy_slot(&source, plugin.base, OURS).await;
            copy_slot(&source, plugin.base, "peer").await;
            let archiver = Archiver::new(&source, folder.path(), OURS).reading_with(plugin.name);
            ours.push(archiver.run());
            *shipped = archiver.archived_bytes();
            peers.push(plain_copy(&source, folder.path(), plugin.peek));
            source.execute("SELECT pg_drop_replication_slot('ours'), pg_drop_replication_slot('peer')").await;
        }
        noted.round().await;
    }
    say(&format!("capture, {} {name}", arguments.rows));
    for (plugin, (ours, peers, shipped)) in PLUGINS.iter().zip(&measured) {
        say(&format!("  {}", plugin.name));
        say(&format!(
            "    archiver (spooled, fsynced, compressed, hashed, manifested, shipped to a folder)  {}",
            spread(ours)
        ));
        say(&format!(
            "    one COPY of the peek to a file                                                 {}",
            spread(peers)
        ));
        say(&format!("    ratio  {}", ratio(ours, peers)));
        say(&format!("    change files  {} bytes, {} a change", shipped, shipped / arguments.rows.max(1)));
    }
    let [(wal2json, ..), (pgoutput, ..)] = &measured;
    say(&format!("  archiver, pgoutput to wal2json  {}", ratio(pgoutput, wal2json)));
    noted.report(wal2json);
}

/// The slot that the archiver reads; its publication was there before the backlog.
const OURS: &str = "ours";

struct Plugin {
    name: &'static str,
    /// The slot with the backlog.
    base: &'static str,
    peek: &'static str,
}

/// Each with the archiver's own options, so that the plugin prints the same.
const PLUGINS: [Plugin; 2] = [
    Plugin {
        name: "wal2json",
        base: "base",
        peek: "COPY (SELECT data FROM pg_logical_slot_peek_changes('peer', NULL, NULL, 'format-version','2','include-lsn','1',\
            'include-xids','1','include-timestamp','1','include-transaction','1','include-types','0','include-type-oids','1',\
            'add-tables','*.*')) TO STDOUT",
    },
    Plugin {
        name: "pgoutput",
        base: "base_native",
        peek: "COPY (SELECT lsn, data FROM pg_logical_slot_peek_binary_changes('peer', NULL, NULL, 'proto_version','1',\
            'publication_names','ours_pub')) TO STDOUT (FORMAT binary)",
    },
];

fn plain_copy(source: &PostgresServer, folder: &Path, query: &str) -> Duration {
    let file = std::fs::File::create(folder.join("peek.copy")).expect("the folder is ours");
    let mut command = Command::new("psql");
    command
        .args(["--no-psqlrc", "--quiet", "--host", source.host(), "--port", &source.port().to_string()])
        .args(["--username", source.user(), "--dbname", source.database(), "--command", query])
        .stdout(file);
    timed(command)
}
