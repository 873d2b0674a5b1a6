//! The status as Prometheus reads it. What somebody may have built an alert on keeps its name; docs/monitoring.md lists
//! them all.

use std::collections::BTreeMap;

use syncdata_formats::manifest::OpCounts;
use syncdata_formats::time::Timestamp;
use syncdata_service::alerts::AlertKind;
use syncdata_service::control::{Metrics, Sort};

use super::{SourceStatus, SpoolStatus, Status};

const PREFIX: &str = "syncdata_archiver";

/// Those of PostgreSQL, and ours for a slot that has no position yet.
const WAL_STATES: [&str; 5] = ["reserved", "extended", "unreserved", "lost", "being made"];

fn name(name: &str) -> String {
    format!("{PREFIX}_{name}")
}

impl Status {
    pub(crate) fn metrics(&self) -> Metrics {
        let mut metrics = Metrics::new();
        self.program(&mut metrics);
        if let Some(source) = &self.source {
            source.metrics(&mut metrics);
        }
        if let Some(spool) = &self.spool {
            spool.metrics(&mut metrics);
        }
        self.of_archive(&mut metrics);
        self.rows(&mut metrics);
        metrics
    }

    /// How the daemon itself is.
    fn program(&self, metrics: &mut Metrics) {
        use Sort::{Counter, Gauge};
        let version = [("version", self.version.as_str())];
        metrics.family(&name("build_info"), Gauge, "1; the version of the program", [(&version[..], 1)]);
        metrics.time(&name("start_timestamp_seconds"), "When the daemon was started", self.start_time);
        let mut add = |what: &str, sort, help: &str, value: u64| metrics.add(&name(what), sort, help, value);
        add("healthy", Gauge, "1 when status names no problem", u64::from(self.healthy));
        add("problems", Gauge, "Problems that status names", self.problems.len() as u64);
        let errors = "Polls that failed or could not ship, gaps, prunings and proofs that failed, each attempt, since start";
        add("errors_total", Counter, errors, self.errors);
        let failures = "Polls that failed or could not bring everything to the backup host, since start";
        add("poll_failures_total", Counter, failures, self.numbers.polls_failed);
        add(
            "poll_frequency_seconds",
            Gauge,
            "The time between two polls (data_sync_freq)",
            self.poll_frequency_seconds,
        );
        metrics.time(
            &name("last_poll_timestamp_seconds"),
            "When a poll read production last",
            self.last_poll,
        );
        metrics.durations(&name("poll_duration_seconds"), "How long polls took", &self.numbers.polls);
        metrics.circuits(PREFIX, &self.circuits);
        metrics.alerts(PREFIX, &AlertKind::OF_ARCHIVER, &self.alerts);
        metrics.rooms(PREFIX, &self.disks);
    }

    /// The backup host.
    fn of_archive(&self, metrics: &mut Metrics) {
        use Sort::{Counter, Gauge};
        let mut add = |what: &str, sort, help: &str, value: u64| metrics.add(&name(what), sort, help, value);
        add("segments_total", Counter, "Segments made since start", self.numbers.segments);
        add("newest_segment", Gauge, "Number of the newest segment", self.archive.newest_segment);
        let shipped = "Number of the newest segment on the backup host";
        add("shipped_segment", Gauge, shipped, self.archive.shipped_segment);
        let reachable = u64::from(self.archive.out_of_reach.is_none());
        add(
            "archive_reachable",
            Gauge,
            "1 when the last poll brought everything to the backup host",
            reachable,
        );
        add("gaps", Gauge, "Gaps that no snapshot has mended", self.gaps.len() as u64);
        add(
            "gaps_found_total",
            Counter,
            "Gaps that polls have declared since start",
            self.numbers.gaps_found,
        );
        let free = self.archive.free_bytes.map(|bytes| (&[][..], bytes));
        let help = "Room that is left on the backup host, where it says so";
        metrics.family(&name("archive_free_bytes"), Gauge, help, free);
        metrics.time(
            &name("last_shipped_timestamp_seconds"),
            "When a segment came to the backup host last",
            self.archive.last_shipped,
        );
        metrics.time(
            &name("newest_snapshot_timestamp_seconds"),
            "When the newest snapshot was taken",
            self.archive.newest_snapshot.as_ref().map(|snapshot| snapshot.taken_at),
        );
        metrics.time(
            &name("newest_proof_timestamp_seconds"),
            "When the newest proof was made, as far as this daemon knows",
            self.archive.newest_proof_at,
        );
        metrics.time(
            &name("last_verify_timestamp_seconds"),
            "When a command on this host verified the whole archive last",
            self.last_verify.map(|last| last.at),
        );
        let problems = self.last_verify.map(|last| (&[][..], last.problems));
        metrics.family(
            &name("last_verify_problems"),
            Gauge,
            "Problems that the last verification of the whole archive found",
            problems,
        );
    }

    fn rows(&self, metrics: &mut Metrics) {
        use Sort::{Counter, Gauge};
        let mut add = |what: &str, sort, help: &str, value: u64| metrics.add(&name(what), sort, help, value);
        add("records_total", Counter, "Rows archived since start", self.records_archived);
        add("captured_tables", Gauge, "Tables that are captured", self.tables.len() as u64);
        let help = "Captured tables without replica identity, whose updates and deletes are lost";
        add("tables_without_identity", Gauge, help, self.tables_without_identity.len() as u64);
        // 0 for those of which nothing came yet, so that the first change is a rise.
        let mut rows: BTreeMap<String, OpCounts> =
            self.tables.iter().map(|table| (table.clone(), OpCounts::default())).collect();
        rows.extend(self.numbers.rows.0.iter().map(|(table, rows)| (table.to_string(), *rows)));
        let samples: Vec<([(&str, &str); 2], u64)> = rows
            .iter()
            .flat_map(|(table, rows)| {
                let each = [
                    ("insert", rows.insert),
                    ("update", rows.update),
                    ("delete", rows.delete),
                    ("truncate", rows.truncate),
                ];
                each.map(|(operation, rows)| ([("table", table.as_str()), ("operation", operation)], rows))
            })
            .collect();
        let samples = samples.iter().map(|(labels, rows)| (&labels[..], rows));
        metrics.family(&name("rows_total"), Counter, "Changes archived since start", samples);
    }
}

impl SourceStatus {
    /// The slot on production, as it was seen.
    fn metrics(&self, metrics: &mut Metrics) {
        use Sort::Gauge;
        metrics.time(
            &name("source_seen_timestamp_seconds"),
            "When these numbers of the slot were read",
            Some(self.seen_at),
        );
        metrics.add(
            &name("slot_retained_wal_bytes"),
            Gauge,
            "WAL that the slot keeps on production",
            self.retained_bytes,
        );
        let help = "What production may write before it takes the slot's WAL away (max_slot_wal_keep_size)";
        metrics.family(
            &name("slot_safe_wal_bytes"),
            Gauge,
            help,
            self.safe_wal_bytes.map(|bytes| (&[][..], bytes)),
        );
        let help = "1 for the state that the slot's WAL is in";
        metrics.states(
            &name("slot_wal_status"),
            help,
            "wal_status",
            &WAL_STATES,
            [(None, self.wal_status.as_str())],
        );
        metrics.add(
            &name("wal_guard_bytes"),
            Gauge,
            "Where the WAL guard acts (wal_guard)",
            self.wal_guard_bytes,
        );
        let help = "What decoding wrote to production's disk, since the slot was made";
        metrics.family(
            &name("decoding_spilled_bytes_total"),
            Sort::Counter,
            help,
            self.spilled_bytes.map(|bytes| (&[][..], bytes)),
        );
        let began = self.oldest_transaction.as_ref().and_then(|oldest| oldest.seconds).and_then(|seconds| {
            let micros = self.seen_at.as_micros().checked_sub(seconds.checked_mul(1_000_000)?)?;
            Timestamp::from_micros(micros).ok()
        });
        let help = "When the oldest transaction began that keeps the slot's WAL";
        metrics.time(&name("oldest_transaction_timestamp_seconds"), help, began);
    }
}

impl SpoolStatus {
    fn metrics(&self, metrics: &mut Metrics) {
        use Sort::Gauge;
        let mut add = |what: &str, help: &str, value: u64| metrics.add(&name(what), Gauge, help, value);
        add("spool_bytes", "Bytes in the spool", self.bytes);
        add("spool_max_bytes", "How large the spool may become (spool_max)", self.max_bytes);
        add("spool_segments", "Segments in the spool", self.segments as u64);
        add("unshipped_segments", "Segments that only the spool has", self.unshipped_segments as u64);
        add("unshipped_bytes", "Bytes that only the spool has", self.unshipped_bytes);
        add(
            "source_lag_bytes",
            "WAL that was not in the spool yet at the last look",
            self.behind_source_bytes,
        );
        metrics.time(
            &name("unshipped_since_timestamp_seconds"),
            "Since when the oldest segment waits for the backup host",
            self.unshipped_since,
        );
        metrics.time(
            &name("covered_timestamp_seconds"),
            "Until when all commits of production are safe in spool or archive",
            self.covered_at,
        );
    }
}
