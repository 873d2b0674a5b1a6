//! Measures: runs of ours and of a peer take turns, and what is printed is their ratio.
//!
//! `scripts/bench capture` reads one backlog from a slot, with the archiver and with one plain COPY of the peek, through either plugin, and what triggers noted of the same.
//! `scripts/bench triggers` writes rows with our triggers, with the plainest trigger that notes a key, and without, and says what they add to a row.
//! `scripts/bench apply` applies one captured archive, and lets native logical replication apply the same changes.
//! `scripts/bench snapshot` copies a table three times, unchanged and with 1 % of its rows updated, and has psql and zstd
//! copy it too; `--rows 5000000` is 1 GB.
//! `scripts/bench proof` digests a narrow and a wide table on both sides, and has psql copy them to nowhere.
//! `scripts/bench verify` proves an archive, and has zstd and sha256sum look at the same files.
//! `scripts/bench lag` follows 200 transactions a second, and has native logical replication carry the same.
//! `scripts/bench watched` compares the memory of a daemon with API, page, metrics and alerts with one without.

mod apply;
mod archiver;
mod capture;
mod lag;
mod measure;
mod proof;
mod snapshot;
mod source;
mod triggers;
mod verify;
mod watched;

/// Its name on the command line, in words, and its statements with a procedure `load(changes)`.
#[derive(Clone, Copy)]
pub(crate) struct Workload {
    key: &'static str,
    pub name: &'static str,
    pub sql: &'static str,
}

const WORKLOADS: [Workload; 3] = [
    Workload { key: "mixed", name: "mixed changes of ten tables", sql: include_str!("mixed.sql") },
    Workload { key: "inserts", name: "narrow inserts", sql: include_str!("inserts.sql") },
    Workload { key: "hot", name: "updates of hot rows", sql: include_str!("hot.sql") },
];

pub(crate) struct Arguments {
    pub rows: u64,
    pub rounds: usize,
    /// Of lines, for `verify`; of rows of each table, for `proof`.
    pub mib: u64,
    /// For `lag`.
    pub seconds: u64,
    pub rate: u64,
    pub interval_ms: u64,
    workloads: Vec<Workload>,
}

impl Arguments {
    /// `None`: not understood.
    fn read(mut words: impl Iterator<Item = String>) -> Option<Arguments> {
        let mut arguments = Arguments {
            rows: 1_000_000,
            rounds: 3,
            mib: 1024,
            seconds: 300,
            rate: 200,
            interval_ms: 500,
            workloads: WORKLOADS.to_vec(),
        };
        while let Some(option) = words.next() {
            let value = words.next()?;
            match option.as_str() {
                "--rows" => arguments.rows = value.parse().ok()?,
                "--rounds" => arguments.rounds = value.parse().ok().filter(|rounds| *rounds > 0)?,
                "--mib" => arguments.mib = value.parse().ok().filter(|mib| *mib > 0)?,
                "--seconds" => arguments.seconds = value.parse().ok().filter(|seconds| *seconds > 0)?,
                "--rate" => arguments.rate = value.parse().ok().filter(|rate| *rate > 0)?,
                "--interval" => arguments.interval_ms = value.parse().ok()?,
                "--workload" => arguments.workloads.retain(|workload| workload.key == value),
                _ => return None,
            }
        }
        Some(arguments).filter(|arguments| !arguments.workloads.is_empty())
    }
}

#[tokio::main(flavor = "current_thread")]
async fn main() {
    let mut words = std::env::args().skip(1);
    let part = words.next().unwrap_or_default();
    let Some(arguments) = Arguments::read(words) else { usage() };
    if part == "verify" {
        return verify::run(&arguments);
    }
    if part == "snapshot" {
        return snapshot::run(&arguments).await;
    }
    if part == "proof" {
        return proof::run(&arguments).await;
    }
    if part == "lag" {
        return lag::run(&arguments).await;
    }
    if part == "triggers" {
        return triggers::run(&arguments).await;
    }
    if part == "watched" {
        return watched::run(&arguments).await;
    }
    for workload in &arguments.workloads {
        match part.as_str() {
            "capture" => capture::run(*workload, &arguments).await,
            "apply" => apply::run(*workload, &arguments).await,
            _ => usage(),
        }
    }
}

fn usage() -> ! {
    say(
        "usage: bench capture|apply [--workload mixed|inserts|hot] [--rows N] [--rounds N], bench snapshot [--rows N] [--rounds N], bench proof|verify [--mib N] [--rounds N], bench lag [--seconds N] [--rate N] [--interval MS], bench watched [--rounds N], or bench triggers [--rows N] [--rounds N]",
    );
    std::process::exit(2)
}

#[allow(clippy::print_stdout, reason = "what a benchmark prints is its result")]
pub(crate) fn say(words: &str) {
    println!("{words}");
}
