//! Copies of one table: what the second one sends, and how fast the first one is.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use serde_json::Value;
use syncdata_tests::postgres::PostgresServer;

use crate::archiver::Archiver;
use crate::measure::{ratio, spread, timed};
use crate::source::server;
use crate::{Arguments, say};

/// A row is about 200 bytes of text: five million make 1 GB.
const TABLE: &str =
    "CREATE TABLE items (id bigint PRIMARY KEY, name text NOT NULL, price numeric(12,2) NOT NULL,
    changed timestamptz NOT NULL, note text NOT NULL)";

pub(crate) async fn run(arguments: &Arguments) {
    let rows = arguments.rows;
    let source = server("app").await;
    source.execute(TABLE).await;
    let fill = format!(
        "INSERT INTO items SELECT i, 'item number ' || i, (i::bigint * 7919 % 1000003) / 100.0,
           '2026-01-01 00:00:00+00'::timestamptz + i * interval '1 second',
           md5(i::text) || ' ' || md5((i / 3)::text) || ' some words that come again in every row of it ' || i % 1000
         FROM generate_series(1, {rows}) i"
    );
    source.execute(&fill).await;
    source.execute("VACUUM (ANALYZE) items").await;
    source.execute("SELECT pg_create_logical_replication_slot('bench', 'wal2json')").await;
    let folder = tempfile::tempdir().expect("a temporary folder can be made");
    let archiver = Archiver::new(&source, folder.path(), "bench");
    let first = archiver.snapshot(&[]);
    let unchanged = archiver.snapshot(&[]);
    source.execute("UPDATE items SET price = price + 1, changed = now() WHERE id % 100 = 7").await;
    let updated = archiver.snapshot(&[]);
    say(&format!(
        "snapshot, {rows} rows, {} bytes of them, {} parts",
        first["content_bytes"], first["parts"]
    ));
    say(&format!("  first      {} bytes sent", first["bytes_sent"]));
    say(&format!("  unchanged  {}", of_first(&unchanged, &first)));
    say(&format!("  1 % of rows updated in place  {}", of_first(&updated, &first)));
    let (mut ours, mut peers) = (Vec::new(), Vec::new());
    for _ in 0..arguments.rounds {
        let whole = archiver.snapshot(&["--full"]);
        ours.push(Duration::from_secs_f64(whole["seconds"].as_f64().expect("a number")));
        peers.push(plain_copy(&source, folder.path()));
    }
    say(&format!(
        "  archiver, everything whole (cut, hashed, compressed, told by blocks, fsynced)  {}",
        spread(&ours)
    ));
    say(&format!(
        "  psql COPY TO STDOUT | zstd -3                                                 {}",
        spread(&peers)
    ));
    say(&format!("  ratio  {}", ratio(&ours, &peers)));
}

fn of_first(taken: &Value, first: &Value) -> String {
    let bytes = |taken: &Value| taken["bytes_sent"].as_f64().expect("a number");
    format!("{} bytes sent, {:.3} % of the first", taken["bytes_sent"], 100.0 * bytes(taken) / bytes(first))
}

fn plain_copy(source: &PostgresServer, folder: &Path) -> Duration {
    let copy = format!(
        "psql --no-psqlrc --quiet --host {} --port {} --username {} --dbname {} --command 'COPY items TO STDOUT' | \
         zstd -q -3 -f -o {}",
        source.host(),
        source.port(),
        source.user(),
        source.database(),
        folder.join("items.copy.zst").display()
    );
    let mut command = Command::new("sh");
    command.args(["-c", &copy]);
    timed(command)
}
