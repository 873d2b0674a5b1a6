//! From a commit at production until its row is in the copy, over SFTP, beside native logical replication of the same table.

use std::fs::File;
use std::process::{Child, Command};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use syncdata_tests::postgres::PostgresServer;
use syncdata_tests::program::Program;
use syncdata_tests::{World, WorldOptions};

use crate::measure::release;
use crate::{Arguments, say};

/// How finely it is looked.
const BETWEEN_LOOKS: Duration = Duration::from_millis(10);
const IDLE: Duration = Duration::from_secs(60);
const SCHEMA: &str = "CREATE TABLE events (id bigint PRIMARY KEY, note text)";

pub(crate) async fn run(arguments: &Arguments) {
    let interval = format!("{}ms", arguments.interval_ms);
    let options = WorldOptions::default();
    let options = options.archiver_setting("follow", true).applier_setting("follow", true);
    let options = options
        .archiver_setting("follow_interval", interval.as_str())
        .applier_setting("follow_interval", interval.as_str());
    let world = options.start().await;
    world.execute_on_both(SCHEMA).await;
    world.make_slot().await;
    let native = PostgresServer::start().await;
    replicate(&world.source, &native).await;
    world.archiver(["run", "--once"]).succeed().await;
    world.applier(["add-tables", "events"]).succeed().await;
    let programs =
        [("syncdata-archiver", world.archiver(["run"])), ("syncdata-applier", world.applier(["start"]))];
    let mut daemons = programs.map(|(name, program)| start(&world, name, &program));
    // One row to begin with: both ways are open.
    world.source.execute("INSERT INTO events VALUES (0, '')").await;
    for server in [&world.target, &native] {
        while server.value("SELECT count(*)::text FROM events").await != "1" {
            tokio::time::sleep(BETWEEN_LOOKS).await;
        }
    }

    let daemon_ids = [daemons[0].id(), daemons[1].id()];
    let before = Used::look(&world, daemon_ids).await;
    let begun = Instant::now();
    let last = arguments.rate * arguments.seconds;
    let (committed, ours, theirs) = tokio::join!(
        commit(&world.source, arguments.rate, last),
        look(&world.target, last),
        look(&native, last)
    );
    let took = begun.elapsed();
    let after = Used::look(&world, daemon_ids).await;
    tokio::time::sleep(IDLE).await;
    let idle = Used::look(&world, daemon_ids).await;

    say(&format!(
        "lag, {} transactions a second for {} s, follow_interval {interval}",
        arguments.rate, arguments.seconds
    ));
    say(&format!("  ours    {}", percentiles(&committed, &ours)));
    say(&format!("  native  {}", percentiles(&committed, &theirs)));
    for (n, name) in WHOSE.into_iter().enumerate() {
        let busy = share(after.times[n].saturating_sub(before.times[n]), took);
        let idle = share(idle.times[n].saturating_sub(after.times[n]), IDLE);
        say(&format!("  {name}: {busy:.1} % of a core, idle {idle:.2} %"));
    }
    let (busy, idle) = (after.calls.saturating_sub(before.calls), idle.calls.saturating_sub(after.calls));
    say(&format!(
        "  the backup host's sftp processes read and write {:.0} times a second, idle {:.1}",
        busy as f64 / took.as_secs_f64(),
        idle as f64 / IDLE.as_secs_f64()
    ));
    for daemon in &mut daemons {
        stop(daemon);
    }
}

async fn replicate(source: &PostgresServer, native: &PostgresServer) {
    native.execute(SCHEMA).await;
    source.execute("CREATE PUBLICATION native FOR TABLE events").await;
    source.execute("SELECT pg_create_logical_replication_slot('native', 'pgoutput')").await;
    let (host, port, user, database) = (source.host(), source.port(), source.user(), source.database());
    native
        .execute(&format!(
            "CREATE SUBSCRIPTION native CONNECTION 'host={host} port={port} user={user} dbname={database}'
             PUBLICATION native WITH (create_slot = false, slot_name = 'native', copy_data = false)"
        ))
        .await;
}

fn start(world: &World, name: &str, program: &Program) -> Child {
    let log = File::create(world.folder().join(format!("{name}.log"))).expect("the folder is ours");
    let mut command = Command::new(release(name));
    command.arg(if name == "syncdata-applier" { "start" } else { "run" });
    command.stderr(log).envs(program.environment().iter().cloned()).spawn().expect("the program is there")
}

fn stop(daemon: &mut Child) {
    let id = i32::try_from(daemon.id()).ok().and_then(Pid::from_raw).expect("a process");
    kill_process(id, Signal::TERM).expect("it is our child");
    daemon.wait().expect("it is our child");
}

/// When each of them had committed.
async fn commit(source: &PostgresServer, rate: u64, last: u64) -> Vec<Instant> {
    let client = source.connect().await;
    let insert =
        client.prepare("INSERT INTO events VALUES ($1, 'what happened')").await.expect("a statement");
    let mut beat =
        tokio::time::interval(Duration::from_secs(1) / u32::try_from(rate).expect("a small number"));
    let mut committed = Vec::new();
    for id in 1..=last {
        beat.tick().await;
        client.execute(&insert, &[&i64::try_from(id).expect("a small number")]).await.expect("it commits");
        committed.push(Instant::now());
    }
    committed
}

/// When each of them was seen.
async fn look(copy: &PostgresServer, last: u64) -> Vec<Instant> {
    let client = copy.connect().await;
    let newest = client.prepare("SELECT coalesce(max(id), 0) FROM events").await.expect("a statement");
    let mut seen = Vec::new();
    while (seen.len() as u64) < last {
        let row = client.query_one(&newest, &[]).await.expect("an answer");
        let (now, newest) = (Instant::now(), row.get::<_, i64>(0));
        seen.resize(usize::try_from(newest).expect("a number").max(seen.len()), now);
        tokio::time::sleep(BETWEEN_LOOKS).await;
    }
    seen
}

fn percentiles(committed: &[Instant], seen: &[Instant]) -> String {
    let lag = |(committed, seen): (&Instant, &Instant)| seen.saturating_duration_since(*committed);
    let mut lags: Vec<Duration> = committed.iter().zip(seen).map(lag).collect();
    lags.sort();
    let at = |percent: usize| lags[(lags.len() - 1) * percent / 100].as_secs_f64();
    format!("p50 {:.3} s, p99 {:.3} s, at most {:.3} s", at(50), at(99), at(100))
}

/// In this order everywhere.
const WHOSE: [&str; 5] = [
    "archiver",
    "applier",
    "production's processes that serve the archiver",
    "production's process that serves the native subscription",
    "the backup host",
];

/// What was used so far.
struct Used {
    /// Of a core, by each of [`WHOSE`].
    times: [Duration; 5],
    /// Reads and writes of the backup host's processes; each request of SFTP is a few of them.
    calls: u64,
}

impl Used {
    async fn look(world: &World, [archiver, applier]: [u32; 2]) -> Used {
        let ours = serving(&world.source, "application_name LIKE 'syncdata%'").await;
        let native = serving(&world.source, "application_name = 'native'").await;
        let host = world.backup.processes();
        let all = |processes: &[u32]| processes.iter().map(|process| cpu(*process)).sum();
        Used {
            times: [cpu(archiver), cpu(applier), all(&ours), all(&native), all(&host)],
            calls: host.iter().map(|process| calls(*process)).sum(),
        }
    }
}

async fn serving(source: &PostgresServer, whom: &str) -> Vec<u32> {
    let sql = format!("SELECT coalesce(string_agg(pid::text, ' '), '') FROM pg_stat_activity WHERE {whom}");
    let pids = source.value(&sql).await;
    pids.split(' ').filter_map(|pid| pid.parse().ok()).collect()
}

/// 0 for a process of somebody else, unless root asks.
fn calls(process: u32) -> u64 {
    let io = std::fs::read_to_string(format!("/proc/{process}/io")).unwrap_or_default();
    let of = |name| io.lines().find_map(|line| line.strip_prefix(name)?.trim().parse::<u64>().ok());
    of("syscr:").unwrap_or(0) + of("syscw:").unwrap_or(0)
}

/// What the process has had of a core, of user and system time.
fn cpu(process: u32) -> Duration {
    const TICKS_A_SECOND: u64 = 100;
    let stat = std::fs::read_to_string(format!("/proc/{process}/stat")).unwrap_or_default();
    let fields = stat.rsplit_once(')').map_or("", |(_, fields)| fields);
    let ticks =
        fields.split_ascii_whitespace().skip(11).take(2).filter_map(|ticks| ticks.parse::<u64>().ok());
    Duration::from_millis(ticks.sum::<u64>() * 1000 / TICKS_A_SECOND)
}

fn share(of: Duration, total: Duration) -> f64 {
    100.0 * of.as_secs_f64() / total.as_secs_f64()
}
