//! Digests of tables, against `COPY … TO STDOUT` of the same rows to nowhere.

use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use syncdata_tests::postgres::PostgresServer;

use crate::archiver::Archiver;
use crate::measure::{ratio, ratios, release, spread, timed, timed_with_peak};
use crate::source::server;
use crate::{Arguments, say};

/// Of the speed of COPY.
const RATIO_LEAST: f64 = 0.5;
/// Over what a proof of an empty table, or a pass that meets one, has.
const MIB_MOST: f64 = 64.0;

/// A table's name, and the expressions of its columns for row `i`.
struct Rows {
    name: &'static str,
    columns: &'static str,
}

const TABLES: [Rows; 2] = [
    Rows { name: "narrow", columns: "i::bigint AS id, i::bigint * 7919 % 1000003 AS n, i / 100.0 AS m" },
    Rows {
        name: "wide",
        columns: "i::bigint AS id, 'item number ' || i AS name, md5(i::text) AS a, md5((i / 3)::text) AS b,
            '2026-01-01 00:00:00+00'::timestamptz + i * interval '1 second' AS at, (i % 7 = 0) AS flag, i * 0.01 AS price,
            NULL::text AS nothing, repeat(md5((i % 1000)::text), 20) AS text, E'a\\tb\\\\c' || i AS odd",
    },
];

/// Both sides have the same rows, without anything of ours in between.
pub(crate) async fn run(arguments: &Arguments) {
    let (source, target) = (server("app").await, server("copy").await);
    let mut bytes = Vec::new();
    for side in [&source, &target] {
        side.execute("CREATE TABLE nothing (id bigint PRIMARY KEY)").await;
        for rows in &TABLES {
            bytes.push(fill(side, rows, arguments.mib << 20).await);
        }
    }
    source.execute("SELECT pg_create_logical_replication_slot('bench', 'wal2json')").await;
    let folder = tempfile::tempdir().expect("a temporary folder can be made");
    let archiver = Archiver::new(&source, folder.path(), "bench");
    archiver.run();
    let applier = Applier::new(&target, folder.path(), &archiver.archive);
    timed(applier.command(&["add-tables", "--from", "now", "public.*"]));
    timed(applier.command(&["sync"]));

    for (rows, bytes) in TABLES.iter().zip(bytes) {
        let name = rows.name;
        let (mut here, mut there) = (Measured::default(), Measured::default());
        for _ in 0..arguments.rounds {
            // The whole command less what it takes without rows.
            let (empty, sync_empty) = (archiver.proof("nothing"), applier.sync());
            let (full, sync_full) = (archiver.proof(name), applier.sync());
            there.add(full, empty, copy(&source, name));
            here.add(sync_full, sync_empty, copy(&target, name));
        }
        let verdict = format!(
            "SELECT verdict FROM data_sync_consistency WHERE table_name = '{name}' AND check_type = 'data_hash'
             ORDER BY finished_at DESC LIMIT 1"
        );
        assert_eq!(target.value(&verdict).await, "equal", "{name}");
        say(&format!("proof, {name} rows, {} MiB of them", bytes >> 20));
        there.say("archiver");
        here.say("applier");
    }
}

/// That many bytes, as COPY prints them.
async fn fill(server: &PostgresServer, Rows { name, columns }: &Rows, bytes: u64) -> u64 {
    let select = |rows: u64| format!("SELECT {columns} FROM generate_series(1, {rows}::int) i");
    let measured = 10_000;
    let width = format!("SELECT sum(length(r::text)) FROM ({}) r", select(measured));
    let width: u64 = server.value(&width).await.parse().expect("a number");
    let rows = bytes * measured / width;
    server.execute(&format!("CREATE TABLE {name} AS {}", select(rows))).await;
    server.execute(&format!("ALTER TABLE {name} ADD PRIMARY KEY (id)")).await;
    server.execute(&format!("VACUUM (FREEZE, ANALYZE) {name}")).await;
    rows * width / measured
}

fn copy(server: &PostgresServer, table: &str) -> Duration {
    let mut command = Command::new(server.installation().program("psql"));
    command.args(["--no-psqlrc", "--quiet", "--host", server.host(), "--port", &server.port().to_string()]);
    command.args(["--username", server.user(), "--dbname", server.database()]);
    command.args(["--command", &format!("COPY {table} TO STDOUT")]).stdout(Stdio::null());
    timed(command)
}

struct Applier<'a> {
    config: std::path::PathBuf,
    folder: &'a Path,
}

impl Applier<'_> {
    fn new<'a>(target: &PostgresServer, folder: &'a Path, archive: &Path) -> Applier<'a> {
        let config = folder.join("applier.toml");
        let settings = format!(
            "archive_dir = {archive:?}\ncache_dir = {:?}\npg_host = {:?}\npg_port = {}\npg_user = {:?}\npg_database = {:?}\n",
            folder.join("cache"),
            target.host(),
            target.port(),
            target.user(),
            target.database()
        );
        std::fs::write(&config, settings).expect("the folder is ours");
        Applier { config, folder }
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(release("syncdata-applier"));
        command.args(arguments).arg("--config").arg(&self.config).env("STATE_DIRECTORY", self.folder);
        command.stdout(Stdio::null()).stderr(Stdio::null());
        command
    }

    /// A pass waits for its digests.
    fn sync(&self) -> (Duration, f64) {
        timed_with_peak(self.command(&["sync"]))
    }
}

/// One side: how long digests and copies took, and what memory digests took.
#[derive(Default)]
struct Measured {
    digests: Vec<Duration>,
    copies: Vec<Duration>,
    mib: f64,
}

impl Measured {
    fn add(&mut self, full: (Duration, f64), empty: (Duration, f64), copy: Duration) {
        self.digests.push(full.0.saturating_sub(empty.0).max(Duration::from_millis(1)));
        self.copies.push(copy);
        self.mib = self.mib.max(full.1 - empty.1);
    }

    fn say(&self, side: &str) {
        let ratios = ratios(&self.copies, &self.digests);
        let middle = ratios[ratios.len() / 2];
        say(&format!("  {side}, digest (the command, less one without rows)  {}", spread(&self.digests)));
        say(&format!("  psql COPY TO STDOUT > /dev/null                      {}", spread(&self.copies)));
        say(&format!(
            "  ratio of their speeds, at least {RATIO_LEAST}  {}: {}",
            ratio(&self.copies, &self.digests),
            held(middle >= RATIO_LEAST)
        ));
        say(&format!(
            "  memory over one without rows, at most {MIB_MOST} MiB  {:.0} MiB: {}",
            self.mib,
            held(self.mib <= MIB_MOST)
        ));
    }
}

fn held(is_held: bool) -> &'static str {
    if is_held { "held" } else { "MISSED" }
}
