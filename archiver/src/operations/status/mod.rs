//! `status`: one value, made by the daemon after every poll, or from what spool and source say themselves.

pub(crate) mod hops;
mod metrics;
mod text;
mod without_daemon;

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use syncdata_archive::verify::LastVerify;
use syncdata_formats::Error;
use syncdata_formats::lsn::Lsn;
use syncdata_formats::manifest::Gap;
use syncdata_formats::name::TableName;
use syncdata_formats::time::Timestamp;
use syncdata_service::alerts::Alert;
use syncdata_service::circuit::Circuit;
use syncdata_service::control::{Durations, EarlierKeys};
use syncdata_service::disk::Room;
use syncdata_service::hops::Hop;

use crate::capture::position::NAME;
use crate::operations::check::some;
use crate::poll::guard::Pressure;
use crate::poll::outcome::{Outcome, View};
use crate::segment::publish::Rows;
use crate::source::catalog::{OldestTransaction, STOPPED, Slot};
use crate::spool::executions::Execution;
use crate::spool::holdings::Holdings;
use crate::spool::{HeldSnapshot, Spool, verified};

pub(crate) use without_daemon::without_daemon;

/// What a running daemon calls itself.
const ACTIVE: &str = "active";

/// As many polls may take longer than the time between two.
const LATE_POLLS: u64 = 3;

/// Everything that an operator may want to know, as of the last poll.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Status {
    /// `active` or `not-started`
    pub status: String,
    pub healthy: bool,
    /// What is wrong, worst first; empty when healthy.
    pub problems: Vec<String>,
    /// Of a daemon: from production to the tables.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub hops: Vec<Hop>,
    #[serde(default)]
    pub version: String,
    pub poll_frequency_seconds: u64,
    /// With `follow`: where changes come from, `stream` or `polls`, and why.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub follow: Option<String>,
    pub start_time: Option<Timestamp>,
    #[serde(default)]
    pub uptime_seconds: Option<u64>,
    pub last_poll: Option<Timestamp>,
    pub records_archived: u64,
    /// Polls that failed or could not ship, gaps that came, prunings and proofs that failed, since the start: once for each
    /// attempt.
    pub errors: u64,
    pub source: Option<SourceStatus>,
    pub spool: Option<SpoolStatus>,
    pub archive: ArchiveStatus,
    pub degraded: Vec<String>,
    pub gaps: Vec<Gap>,
    pub tables: Vec<String>,
    pub tables_without_identity: Vec<String>,
    /// In words: tables that inherit from captured ones (INHERITS), and are not captured.
    #[serde(default)]
    pub heirs_left_out: Vec<String>,
    #[serde(default)]
    pub disks: Vec<Room>,
    /// The newest `verify` of the whole archive on this host.
    #[serde(default)]
    pub last_verify: Option<LastVerify>,
    /// Whether those whom the daemon speaks with answer: `source`, `archive`, `webhook`, `command`.
    #[serde(default)]
    pub circuits: BTreeMap<String, Circuit>,
    /// Alerts that are not over.
    #[serde(default)]
    pub alerts: Vec<Alert>,
    /// What was done, the newest first.
    #[serde(default)]
    pub executions: Vec<Execution>,
    #[serde(flatten)]
    pub earlier: EarlierKeys,
    /// Beside which it is noted that the archive was verified.
    #[serde(skip)]
    pub spool_dir: PathBuf,
    /// For the metrics alone.
    #[serde(skip)]
    pub numbers: Numbers,
    /// Partitions and tables whose rows cannot be counted, in words.
    #[serde(skip)]
    pub uncountable: Vec<String>,
}

/// What is counted since the start.
#[derive(Clone, Debug, Default)]
pub(crate) struct Numbers {
    pub segments: u64,
    pub rows: Rows,
    pub polls: Durations,
    pub polls_failed: u64,
    pub gaps_found: u64,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct SourceStatus {
    pub slot: String,
    /// When these numbers were read.
    pub seen_at: Timestamp,
    pub wal_status: String,
    pub confirmed_flush_lsn: Option<Lsn>,
    pub restart_lsn: Option<Lsn>,
    pub flush_lsn: Lsn,
    pub retained_bytes: u64,
    /// What production may still write before it takes the slot's WAL away; `None` where it never does.
    #[serde(default)]
    pub safe_wal_bytes: Option<u64>,
    pub wal_guard_bytes: u64,
    /// At the pace since the look before; `None` while the retained WAL does not grow.
    pub seconds_until_guard: Option<u64>,
    pub guard: String,
    /// What decoding wrote to production's disk, since the slot was made.
    pub spilled_bytes: Option<u64>,
    pub server_version: String,
    pub plugin: String,
    pub oldest_transaction: Option<OldestTransaction>,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct SpoolStatus {
    pub segments: usize,
    pub bytes: u64,
    pub unshipped_segments: usize,
    pub unshipped_bytes: u64,
    pub max_bytes: u64,
    pub covered_lsn: Lsn,
    /// `None` before the slot was read to its end for the first time.
    pub covered_at: Option<Timestamp>,
    /// The first hop's lag: WAL between what is spooled and the server's end, as of the last look at the server.
    pub behind_source_bytes: u64,
    /// How long ago all was spooled that had committed, as of now.
    pub behind_source_seconds: Option<u64>,
    /// The second hop's lag: how long the oldest segment waits for the backup host, as of now.
    pub unshipped_seconds: u64,
    pub unshipped_since: Option<Timestamp>,
}

#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(crate) struct ArchiveStatus {
    pub location: String,
    pub archive_id: Option<String>,
    pub newest_segment: u64,
    pub shipped_segment: u64,
    pub last_shipped: Option<Timestamp>,
    pub newest_snapshot: Option<SnapshotStatus>,
    /// As far as this daemon has made or looked for one.
    #[serde(default)]
    pub newest_proof_at: Option<Timestamp>,
    pub out_of_reach: Option<String>,
    /// Room that is left on the backup host, as of the last poll that could ask.
    #[serde(default)]
    pub free_bytes: Option<u64>,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct SnapshotStatus {
    pub id: String,
    pub taken_at: Timestamp,
    pub age_seconds: u64,
    pub tables: Vec<String>,
}

impl SnapshotStatus {
    fn of(held: &HeldSnapshot, now: Timestamp) -> SnapshotStatus {
        SnapshotStatus {
            id: held.id.to_string(),
            taken_at: held.taken_at,
            age_seconds: now.since(held.taken_at).as_secs(),
            tables: held.tables.iter().map(ToString::to_string).collect(),
        }
    }
}

/// What a status is made of beside the outcome of a poll.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Frame<'a> {
    pub wal_guard: u64,
    pub spool_max: u64,
    pub location: &'a str,
    pub spool_dir: &'a Path,
    pub now: Timestamp,
}

impl Status {
    /// Before the first poll, which may take long: a gap that was there is there.
    pub(crate) fn started(&mut self, frame: Frame<'_>, spool: Option<&Spool>) {
        self.status = ACTIVE.into();
        self.version = env!("CARGO_PKG_VERSION").into();
        self.start_time = Some(frame.now);
        frame.spool_dir.clone_into(&mut self.spool_dir);
        if let Some(spool) = spool {
            self.spooled(frame, &Holdings::of(spool), Lsn::from_u64(0));
        }
        self.problems = unmended(&self.gaps).into_iter().collect();
        self.healthy = self.problems.is_empty();
    }

    /// Takes in what a poll found.
    pub(crate) fn polled(&mut self, frame: Frame<'_>, outcome: &Outcome, spool: &Spool) {
        self.last_poll = Some(frame.now);
        self.records_archived += outcome.records;
        self.numbers.segments += outcome.segments;
        self.numbers.rows.add(&outcome.rows.0);
        for gap in &outcome.gaps {
            self.numbers.gaps_found += 1;
            self.note_error(format!("gap after {} up to {}: {}", gap.from, gap.to, gap.reason));
        }
        if let Some(error) = outcome.held_back.as_ref().or(outcome.away.as_ref()) {
            self.numbers.polls_failed += 1;
            self.note_error(error.one_line());
        }
        let view = &outcome.view;
        self.looked(frame, view, spool);
        if let Some(source) = &mut self.source {
            source.guard = words(outcome.pressure).to_owned();
        }
        self.degraded = view.plugin.as_ref().map(|plugin| plugin.degraded.clone()).unwrap_or_default();
        self.tables = view.capture.tables.iter().map(ToString::to_string).collect();
        self.tables_without_identity =
            view.capture.without_identity.iter().map(ToString::to_string).collect();
        self.heirs_left_out = view.capture.heirs_left_out.iter().cloned().collect();
        self.archive.free_bytes = view.archive_free.or(self.archive.free_bytes);
        self.archive.out_of_reach = outcome.away.as_ref().map(|error| error.one_line());
        self.problems = problems(self, outcome);
        self.healthy = self.problems.is_empty();
    }

    /// Counts what went wrong, once.
    pub(crate) fn note_error(&mut self, words: String) {
        self.errors += 1;
        self.earlier.last_error = Some(words);
    }

    /// Something else than the poll went wrong.
    pub(crate) fn add_problem(&mut self, error: &Error) {
        self.note_error(error.one_line());
        self.healthy = false;
        self.problems.push(error.one_line());
    }

    /// Takes in that a poll failed, and what was seen of the source all the same: its WAL goes on growing.
    pub(crate) fn poll_failed(
        &mut self,
        frame: Frame<'_>,
        error: &Error,
        view: &View,
        spool: Option<&Spool>,
    ) {
        if let Some(spool) = spool
            && view.flush > Lsn::from_u64(0)
        {
            self.looked(frame, view, spool);
        }
        self.numbers.polls_failed += 1;
        self.failed(error);
    }

    fn looked(&mut self, frame: Frame<'_>, view: &View, spool: &Spool) {
        let before = self.source.as_ref().map(|source| (source.seen_at, source.retained_bytes));
        self.source = view.slot.as_ref().map(|slot| SourceStatus {
            server_version: view.server_version.clone(),
            plugin: view.plugin.as_ref().map(|plugin| plugin.name.clone()).unwrap_or_default(),
            oldest_transaction: view.oldest_transaction.clone(),
            ..SourceStatus::of(slot, spool.state().source.slot.clone(), view.flush, frame, before)
        });
        self.spooled(frame, &Holdings::of(spool), view.flush);
    }

    /// With what grows by itself between two polls; and red by itself, for a poll that hangs says nothing.
    pub(crate) fn seen_at(mut self, now: Timestamp) -> Status {
        let quiet = self.last_poll.or(self.start_time).map_or(0, |last| now.since(last).as_secs());
        if self.status == ACTIVE && quiet > LATE_POLLS * self.poll_frequency_seconds {
            self.problems.push(format!("no poll has succeeded for {quiet} seconds"));
            self.healthy = false;
        }
        if let Some(spool) = &mut self.spool {
            spool.behind_source_seconds = spool.covered_at.map(|at| now.since(at).as_secs());
            spool.unshipped_seconds = spool.unshipped_since.map_or(0, |since| now.since(since).as_secs());
        }
        if let Some(snapshot) = &mut self.archive.newest_snapshot {
            snapshot.age_seconds = now.since(snapshot.taken_at).as_secs();
        }
        // What cannot be read is as if it were not there: the next verification writes it anew.
        self.last_verify = verified::last(&self.spool_dir).ok().flatten();
        self.uptime_seconds = self.start_time.map(|start| now.since(start).as_secs());
        self.name_earlier();
        self
    }

    /// The same again under the names that an earlier tool's users ask for.
    fn name_earlier(&mut self) {
        self.earlier.last_lsn = self.spool.as_ref().map(|spool| spool.covered_lsn);
        self.earlier.last_sync_time = self.last_poll;
        self.earlier.records_replicated = self.records_archived;
        self.earlier.error_count = self.errors;
        self.earlier.is_running = self.status == ACTIVE;
    }

    /// What the spool alone can say.
    pub(crate) fn spooled(&mut self, frame: Frame<'_>, holdings: &Holdings, flush: Lsn) {
        let state = &holdings.state;
        let covered_lsn = state.position();
        let in_words = |(name, times): (&TableName, u32)| {
            format!("rows of {name} could not be counted ({times} times); in the end they count as missing")
        };
        self.uncountable = state.memory.uncountable().filter(|(_, times)| *times > 1).map(in_words).collect();
        if let Some(why) = &state.diverged {
            self.problems.push(format!("the source has diverged from the archive: {why}"));
        }
        self.spool = Some(SpoolStatus {
            segments: holdings.segments,
            bytes: holdings.bytes,
            unshipped_segments: holdings.unshipped_segments,
            unshipped_bytes: holdings.unshipped_bytes,
            max_bytes: frame.spool_max,
            covered_lsn,
            covered_at: state.covered_at,
            behind_source_bytes: flush.bytes_since(covered_lsn),
            behind_source_seconds: None,
            unshipped_seconds: 0,
            unshipped_since: holdings.unshipped_since,
        });
        self.archive = ArchiveStatus {
            location: frame.location.to_owned(),
            archive_id: Some(state.archive_id.to_string()),
            newest_segment: state.tip.seq(),
            shipped_segment: state.shipped,
            last_shipped: state.shipped_at,
            newest_snapshot: state.newest_snapshot.as_ref().map(|held| SnapshotStatus::of(held, frame.now)),
            newest_proof_at: self.archive.newest_proof_at,
            out_of_reach: self.archive.out_of_reach.take(),
            free_bytes: self.archive.free_bytes,
        };
        self.gaps = state.gaps.clone();
    }

    pub(super) fn failed(&mut self, error: &Error) {
        self.healthy = false;
        let hint = error.hint_text().map(|hint| format!(" (hint: {hint})")).unwrap_or_default();
        let words = format!("{}{hint}", error.one_line());
        self.note_error(words.clone());
        self.problems = vec![words];
    }
}

impl SourceStatus {
    pub(crate) fn is_of_triggers(&self) -> bool {
        self.plugin == NAME
    }

    pub(crate) fn problem_of_triggers(&self) -> Option<String> {
        if self.wal_status == STOPPED {
            return Some(
                "the triggers note nothing any more, because nobody read what they had noted: run `syncdata-archiver setup \
                 --create-triggers`"
                    .to_owned(),
            );
        }
        let notes = bytesize::ByteSize::b(self.retained_bytes);
        (self.retained_bytes > self.wal_guard_bytes)
            .then(|| format!("the notes of the triggers take {notes}"))
    }

    pub(crate) fn of(
        slot: &Slot,
        name: String,
        flush: Lsn,
        frame: Frame<'_>,
        before: Option<(Timestamp, u64)>,
    ) -> SourceStatus {
        let wal = || slot.restart_lsn.map_or(0, |restart| flush.bytes_since(restart));
        let retained_bytes = slot.notes_bytes.unwrap_or_else(wal);
        SourceStatus {
            slot: name,
            seen_at: frame.now,
            wal_status: slot.wal_status.clone(),
            confirmed_flush_lsn: slot.confirmed_flush_lsn,
            restart_lsn: slot.restart_lsn,
            flush_lsn: flush,
            retained_bytes,
            safe_wal_bytes: slot.safe_wal_bytes,
            wal_guard_bytes: frame.wal_guard,
            seconds_until_guard: seconds_until_guard(retained_bytes, frame, before),
            guard: String::new(),
            spilled_bytes: slot.spilled_bytes,
            server_version: String::new(),
            plugin: String::new(),
            oldest_transaction: None,
        }
    }
}

fn seconds_until_guard(retained: u64, frame: Frame<'_>, before: Option<(Timestamp, u64)>) -> Option<u64> {
    let (then, retained_then) = before?;
    let grown = retained.checked_sub(retained_then).filter(|grown| *grown > 0)?;
    let millis = u64::try_from(frame.now.since(then).as_millis()).ok()?.max(1);
    let left = frame.wal_guard.saturating_sub(retained);
    u64::try_from(u128::from(left) * u128::from(millis) / u128::from(grown) / 1000).ok()
}

fn words(pressure: Pressure) -> &'static str {
    match pressure {
        Pressure::None => "",
        Pressure::ConfirmFromSpool => "acting: production forgets what is in the spool only",
        Pressure::GiveUp => "acted: changes were given up, see gaps",
    }
}

fn unmended(gaps: &[Gap]) -> Option<String> {
    let count = gaps.len();
    let named: BTreeSet<String> =
        gaps.iter().flat_map(|gap| gap.tables.iter().flatten()).map(ToString::to_string).collect();
    let of = match gaps.iter().any(|gap| gap.tables.is_none()) {
        true => "all tables".to_owned(),
        false => some(&named),
    };
    (count > 0).then(|| {
        format!("{count} gaps that no snapshot has mended, of {of}: run `syncdata-archiver snapshot`")
    })
}

fn problems(status: &Status, outcome: &Outcome) -> Vec<String> {
    /// A transaction of an hour is somebody's mistake more often than somebody's work.
    const LONG_SECONDS: i64 = 3600;
    let mut problems: Vec<String> = unmended(&status.gaps).into_iter().collect();
    problems.extend(outcome.held_back.iter().chain(&outcome.mistake).map(|error| error.one_line()));
    problems.extend(outcome.away.iter().map(|error| format!("not shipped: {}", error.one_line())));
    if outcome.pressure != Pressure::None {
        problems.push(format!("WAL guard {}", words(outcome.pressure)));
    }
    if let Some(source) = status.source.as_ref().filter(|source| source.is_of_triggers()) {
        problems.extend(source.problem_of_triggers());
    } else if let Some(source) = &status.source
        && source.retained_bytes > source.wal_guard_bytes
    {
        let blame = source.oldest_transaction.as_ref();
        let blame =
            blame.map_or_else(String::new, |oldest| format!("; the oldest transaction is that of {oldest}"));
        problems
            .push(format!("the slot keeps {} of WAL{blame}", bytesize::ByteSize::b(source.retained_bytes)));
    } else if let Some(oldest) = status.source.as_ref().and_then(|source| source.oldest_transaction.as_ref())
        && oldest.seconds > Some(LONG_SECONDS)
    {
        problems.push(format!("the transaction of {oldest} keeps WAL, and makes every poll read it again"));
    }
    problems.extend(outcome.view.leftover.iter().map(ToString::to_string));
    problems.extend(status.uncountable.iter().cloned());
    problems
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_guard_is_foretold_from_the_pace() {
        let at = |seconds: i64| Timestamp::from_micros(seconds * 1_000_000).expect("a time");
        let frame = Frame {
            wal_guard: 1000,
            spool_max: 0,
            location: "",
            spool_dir: Path::new("/nowhere"),
            now: at(20),
        };
        assert_eq!(seconds_until_guard(600, frame, Some((at(10), 500))), Some(40));
        assert_eq!(seconds_until_guard(600, frame, Some((at(10), 600))), None, "it does not grow");
        assert_eq!(seconds_until_guard(600, frame, None), None, "nothing to compare with");
        assert_eq!(seconds_until_guard(2000, frame, Some((at(10), 500))), Some(0));
    }

    #[test]
    fn the_earlier_names_say_the_same() {
        let at = |seconds: i64| Timestamp::from_micros(seconds * 1_000_000).expect("a time");
        let mut status = Status {
            status: ACTIVE.into(),
            start_time: Some(at(0)),
            last_poll: Some(at(5)),
            records_archived: 7,
            poll_frequency_seconds: 60,
            ..Status::default()
        };
        status.failed(&Error::new(syncdata_formats::Kind::Unreachable, "gone"));
        let document = serde_json::json!(status.seen_at(at(9)));
        assert_eq!((&document["error_count"], &document["last_error"]), (&1.into(), &"gone".into()));
        assert_eq!(
            (&document["last_sync_time"], &document["last_lsn"]),
            (&document["last_poll"], &serde_json::Value::Null)
        );
        assert_eq!((&document["records_replicated"], &document["is_running"]), (&7.into(), &true.into()));
        assert_eq!(document["uptime_seconds"], 9);
        let again: Status =
            serde_json::from_value(document.clone()).expect("what the daemon says, a command reads");
        assert_eq!(serde_json::json!(again), document);
    }

    #[test]
    fn a_daemon_that_ends_no_poll_turns_red_by_itself() {
        let at = |seconds: i64| Timestamp::from_micros(seconds * 1_000_000).expect("a time");
        let status = |last_poll, frequency| Status {
            status: ACTIVE.into(),
            healthy: true,
            start_time: Some(at(0)),
            last_poll,
            poll_frequency_seconds: frequency,
            ..Status::default()
        };
        for (last_poll, now, healthy) in
            [(None, 180, true), (None, 181, false), (Some(at(100)), 280, true), (Some(at(100)), 281, false)]
        {
            let seen = status(last_poll, 60).seen_at(at(now));
            assert_eq!(
                (seen.healthy, seen.problems.is_empty()),
                (healthy, healthy),
                "{last_poll:?} at {now}"
            );
        }
        let stopped = Status { status: "not-started".into(), ..status(None, 60) };
        assert!(stopped.seen_at(at(1000)).healthy, "that has its own words");
    }
}
