//! What triggers cost: production with every row that it writes, and the archiver that reads what they noted.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use syncdata_tests::postgres::PostgresServer;

use crate::archiver::Archiver;
use crate::measure::{ratio, ratios, spread, timed};
use crate::source::{load, server};
use crate::{Arguments, say};

const TABLES: &str =
    "CREATE TABLE plain (id bigint PRIMARY KEY, k int, t text, at timestamptz, n numeric(12,2));
    CREATE TABLE noted (LIKE plain INCLUDING ALL);
    CREATE TABLE written (LIKE plain INCLUDING ALL)";

/// The least that a row's trigger can do to note a key, with nothing of what keeps ours from harm: no pinned settings, no
/// other's rights, no guard for errors, no fuse.
const PLAINEST: &str = "CREATE SCHEMA least;
    CREATE SEQUENCE least.number;
    CREATE TABLE least.notes (LIKE syncdata.changes_0 INCLUDING ALL);
    CREATE FUNCTION least.note() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
      INSERT INTO least.notes (change_id, relid, op, key)
        VALUES (nextval('least.number'), TG_RELID, 'U', ARRAY[coalesce(NEW.id, OLD.id)::text]);
      RETURN NULL; END $$;
    CREATE TRIGGER note AFTER INSERT OR UPDATE OR DELETE ON written FOR EACH ROW EXECUTE FUNCTION least.note()";

/// Many rows a statement, so that nothing else is measured.
const STATEMENTS: [(&str, &str); 4] = [
    (
        "INSERT",
        "INSERT INTO {t} SELECT i, i % 1000, md5(i::text), timestamptz '2026-01-01 00:00:00+00' + i * interval '1 s', i / 100.0
         FROM generate_series(1, {n}) i",
    ),
    ("UPDATE", "UPDATE {t} SET k = k + 1"),
    ("UPDATE of the key", "UPDATE {t} SET id = - id"),
    ("DELETE", "DELETE FROM {t}"),
];

/// The same statements on a table with triggers and on one without, in turns.
pub(crate) async fn run(arguments: &Arguments) {
    let source = server("app").await;
    source.execute(TABLES).await;
    install(&source, "public.noted");
    source.execute(PLAINEST).await;
    let rows = arguments.rows.min(200_000);
    let client = source.connect().await;
    let row = client.query_one("SELECT pg_backend_pid()", &[]).await.expect("a process");
    let pid: i32 = row.get(0);
    let mut measured = STATEMENTS.map(|_| [const { Vec::new() }; 3]);
    for _ in 0..arguments.rounds {
        for ((_, sql), times) in STATEMENTS.iter().zip(&mut measured) {
            for (table, times) in ["noted", "plain", "written"].into_iter().zip(times) {
                let sql = sql.replace("{t}", table).replace("{n}", &rows.to_string());
                let before = processor_time(pid);
                client.batch_execute(&sql).await.expect("our statement");
                times.push(processor_time(pid) - before);
            }
        }
        let forget = "VACUUM plain; VACUUM noted; VACUUM written; TRUNCATE syncdata.changes_0, syncdata.changes_1, least.notes; CHECKPOINT";
        for statement in forget.split("; ") {
            source.execute(statement).await;
        }
    }
    say(&format!("triggers, {rows} rows a statement, the server's processor time"));
    for ((name, _), [with, without, plainest]) in STATEMENTS.iter().zip(&measured) {
        let more = |times: &[Duration]| -> Vec<Duration> {
            times.iter().zip(without).map(|(with, without)| with.saturating_sub(*without)).collect()
        };
        let (ours, least) = (more(with), more(plainest));
        say(&format!("  {name}"));
        say(&format!("    with triggers           {}", spread(with)));
        say(&format!("    with the plainest one   {}", spread(plainest)));
        say(&format!("    without                 {}", spread(without)));
        say(&format!("    they add                {}", a_row(&ours, rows)));
        say(&format!("    the plainest one adds   {}", a_row(&least, rows)));
        say(&format!("    ratio of what is added  {}", ratio(&ours, &least)));
    }
}

fn a_row(times: &[Duration], rows: u64) -> String {
    let mut each: Vec<f64> = times.iter().map(|time| time.as_secs_f64() * 1e6 / rows as f64).collect();
    each.sort_by(f64::total_cmp);
    format!("{:.2} µs a row [{:.2}..{:.2}]", each[each.len() / 2], each[0], each[each.len() - 1])
}

/// Production whose changes triggers have noted, and which was not read yet.
pub(crate) struct Noted {
    source: PostgresServer,
    rows: u64,
    ours: Vec<Duration>,
    peers: Vec<Duration>,
    bytes: u64,
}

impl Noted {
    pub(crate) async fn load(sql: &str, rows: u64) -> Noted {
        let source = server("app").await;
        source.execute(sql).await;
        let tables = "SELECT string_agg(format('%I.%I', n.nspname, c.relname), ',') FROM pg_class c JOIN pg_namespace n
            ON n.oid = c.relnamespace WHERE n.nspname = 'public' AND c.relkind = 'r'";
        install(&source, &source.value(tables).await);
        load(&source, rows).await;
        // Whoever reads them takes them away.
        source.execute("CREATE TABLE syncdata.kept AS SELECT * FROM syncdata.changes").await;
        Noted { source, rows, ours: Vec::new(), peers: Vec::new(), bytes: 0 }
    }

    pub(crate) async fn round(&mut self) {
        let folder = tempfile::tempdir().expect("a temporary folder can be made");
        let again = "TRUNCATE syncdata.changes_0, syncdata.changes_1; INSERT INTO syncdata.changes_0 SELECT * FROM syncdata.kept;
            SELECT setval('syncdata.change_id', (SELECT max(change_id) FROM syncdata.kept)); UPDATE syncdata.reader SET batch = 0";
        self.source.execute(again).await;
        self.source.execute("VACUUM ANALYZE syncdata.changes_0").await;
        let archiver = Archiver::new(&self.source, folder.path(), "syncdata_slot").reading_with("triggers");
        self.ours.push(archiver.run());
        self.bytes = archiver.archived_bytes();
        self.peers.push(plain_copy(&self.source, folder.path()));
    }

    pub(crate) fn report(&self, others: &[Duration]) {
        let touched = ratios(&self.ours, others);
        say("  triggers");
        say(&format!(
            "    archiver (the rows of the noted keys, spooled, fsynced, compressed, hashed, shipped to a folder)  {}",
            spread(&self.ours)
        ));
        say(&format!(
            "    one COPY of the notes to a file                                                                  {}",
            spread(&self.peers)
        ));
        say(&format!("    ratio  {}", ratio(&self.ours, &self.peers)));
        say(&format!("    change files  {} bytes, {} a change", self.bytes, self.bytes / self.rows.max(1)));
        say(&format!("  archiver, triggers to wal2json  {:.2}", touched[touched.len() / 2]));
    }
}

/// That the process had so far. Others may use the machine, and what triggers write is no disk's time of a statement.
fn processor_time(pid: i32) -> Duration {
    const TICK: Duration = Duration::from_millis(10);
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).expect("it lives");
    // The name may have blanks.
    let (_, fields) = stat.rsplit_once(')').expect("a name in brackets");
    let ticks: u32 =
        fields.split_whitespace().skip(11).take(2).map(|ticks| ticks.parse::<u32>().expect("ticks")).sum();
    TICK * ticks
}

fn psql(source: &PostgresServer) -> Command {
    let mut command = Command::new("psql");
    command
        .args(["--no-psqlrc", "--quiet", "--host", source.host(), "--port", &source.port().to_string()])
        .args(["--username", source.user(), "--dbname", source.database()]);
    command
}

fn install(source: &PostgresServer, tables: &str) {
    let script = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../scripts/triggers.sql");
    let mut command = psql(source);
    command.arg("--set").arg(format!("owner={}", source.user()));
    command.arg("--set").arg(format!("tables={tables}")).arg("--file").arg(script);
    command.stdout(std::process::Stdio::null());
    timed(command);
}

fn plain_copy(source: &PostgresServer, folder: &Path) -> Duration {
    let file = std::fs::File::create(folder.join("notes.copy")).expect("the folder is ours");
    let mut command = psql(source);
    command.args(["--command", "COPY (SELECT * FROM syncdata.kept) TO STDOUT"]).stdout(file);
    timed(command)
}
