//! The status as Prometheus reads it.

use syncdata_service::control::{Metrics, Sort};

use super::Status;

impl Status {
    pub(crate) fn metrics(&self) -> Metrics {
        use Sort::{Counter, Gauge};
        let mut metrics = Metrics::new();
        let mut add = |name: &str, sort, help: &str, value: u64| {
            metrics.add(&format!("syncdata_archiver_{name}"), sort, help, value);
        };
        add("healthy", Gauge, "1 when status names no problem", u64::from(self.healthy));
        add("records_total", Counter, "Rows archived since start", self.records_archived);
        add("errors_total", Counter, "Polls that failed since start", self.errors);
        add("gaps", Gauge, "Gaps that no snapshot has mended", self.gaps.len() as u64);
        add("newest_segment", Gauge, "Number of the newest segment", self.archive.newest_segment);
        add(
            "shipped_segment",
            Gauge,
            "Number of the newest segment on the backup host",
            self.archive.shipped_segment,
        );
        if let Some(snapshot) = &self.archive.newest_snapshot {
            let taken = snapshot.taken_at.as_micros().max(0).unsigned_abs() / 1_000_000;
            add("newest_snapshot_timestamp_seconds", Gauge, "When the newest snapshot was taken", taken);
        }
        if let Some(source) = &self.source {
            add("retained_wal_bytes", Gauge, "WAL that the slot keeps on production", source.retained_bytes);
            add("wal_guard_bytes", Gauge, "Where the WAL guard acts", source.wal_guard_bytes);
        }
        if let Some(spool) = &self.spool {
            add("spool_bytes", Gauge, "Bytes in the spool", spool.bytes);
            add(
                "unshipped_segments",
                Gauge,
                "Segments that only the spool has",
                spool.unshipped_segments as u64,
            );
            add("behind_source_bytes", Gauge, "WAL that is not in the spool yet", spool.behind_source_bytes);
            add("unshipped_seconds", Gauge, "How long the oldest of them waits", spool.unshipped_seconds);
            if let Some(at) = spool.covered_at {
                let covered = at.as_micros().max(0).unsigned_abs() / 1_000_000;
                add("covered_timestamp_seconds", Gauge, "Until when all commits are safe", covered);
            }
        }
        metrics
    }
}
