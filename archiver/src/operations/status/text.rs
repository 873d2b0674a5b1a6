//! The status as people read it.

use std::fmt::Write as _;

use bytesize::ByteSize;
use syncdata_formats::error::escape_control;
use syncdata_formats::lsn::Lsn;
use syncdata_formats::manifest::Gap;
use syncdata_formats::time::Timestamp;
use syncdata_service::output::span;

use super::{SourceStatus, Status};

impl Status {
    pub(crate) fn text(&self) -> String {
        let mut text = String::new();
        let time = |time: Option<Timestamp>| {
            time.map_or_else(|| "-".to_owned(), |time| time.to_second().to_string())
        };
        let mut line = |name: &str, value: &dyn std::fmt::Display| {
            writeln!(text, "{name}: {value}").expect("a String takes all");
        };
        line("status", &self.status);
        line("poll frequency", &format_args!("{} seconds", self.poll_frequency_seconds));
        if let Some(follow) = &self.follow {
            line("follow", follow);
        }
        line("start time", &time(self.start_time));
        line("last poll", &time(self.last_poll));
        line("records archived", &self.records_archived);
        line("errors", &self.errors);
        line("healthy", &if self.healthy { "yes" } else { "no" });
        if let Some(seconds) = self.uptime_seconds {
            line("uptime", &span(seconds));
        }
        if let Some(source) = &self.source {
            source.lines(&mut line);
        }
        if let Some(spool) = &self.spool {
            line("covered", &format_args!("{} as of {}", spool.covered_lsn, time(spool.covered_at)));
            let lag = spool.behind_source_seconds.map_or_else(|| "-".to_owned(), span);
            line("behind source", &format_args!("{lag}, {} of WAL", size(spool.behind_source_bytes)));
            line(
                "spool",
                &format_args!(
                    "{} of {}, {} segments",
                    size(spool.bytes),
                    size(spool.max_bytes),
                    spool.segments
                ),
            );
            line(
                "not shipped",
                &format_args!(
                    "{} segments, {}, for {}",
                    spool.unshipped_segments,
                    size(spool.unshipped_bytes),
                    span(spool.unshipped_seconds)
                ),
            );
        }
        line("archive", &self.archive.location);
        if let Some(bytes) = self.archive.free_bytes {
            line("archive room", &size(bytes));
        }
        line("newest segment", &self.archive.newest_segment);
        line(
            "last shipped",
            &format_args!("{} at {}", self.archive.shipped_segment, time(self.archive.last_shipped)),
        );
        match &self.archive.newest_snapshot {
            Some(snapshot) => line(
                "newest snapshot",
                &format_args!(
                    "{} as of {}, {} old, {} tables",
                    snapshot.id,
                    snapshot.taken_at.to_second(),
                    span(snapshot.age_seconds),
                    snapshot.tables.len()
                ),
            ),
            None => line("newest snapshot", &"-"),
        }
        if let Some(last) = &self.last_verify {
            line("last verify", &last.words());
        }
        for degraded in &self.degraded {
            line("degraded", degraded);
        }
        for heir in &self.heirs_left_out {
            line("not captured", heir);
        }
        for gap in &self.gaps {
            let tables = of_tables(gap);
            line("gap", &format_args!("after {} up to {}{tables}: {}", gap.from, gap.to, gap.reason));
        }
        for alert in &self.alerts {
            line("alert", &escape_control(&alert.line()));
        }
        for words in self.circuits.iter().filter_map(|(peer, circuit)| circuit.line(peer)) {
            line("circuit", &words);
        }
        for problem in &self.problems {
            line("problem", problem);
        }
        let heading = match (self.status.as_str(), self.tables.len()) {
            ("active", count) => format!("captured tables ({count}):"),
            (_, 0) => "captured tables: no poll has noted any, and no daemon runs that would look".to_owned(),
            (_, count) => format!("captured tables, as the last poll left them ({count}):"),
        };
        writeln!(text, "\n{heading}").expect("a String takes all");
        for table in &self.tables {
            writeln!(text, "  - {table}").expect("a String takes all");
        }
        text
    }
}

impl SourceStatus {
    fn lines(&self, line: &mut impl FnMut(&str, &dyn std::fmt::Display)) {
        let lsn = |lsn: Option<Lsn>| lsn.map_or_else(|| "-".to_owned(), |lsn| lsn.to_string());
        let retained = format!("{} of {}", size(self.retained_bytes), size(self.wal_guard_bytes));
        if self.is_of_triggers() {
            line("triggers", &format_args!("{} for {}", self.wal_status, self.slot));
            line("batch", &lsn(self.confirmed_flush_lsn));
            line("notes", &retained);
            if let Some(seconds) = self.seconds_until_guard {
                line("they stop in", &format_args!("{} at this pace", span(seconds)));
            }
            return;
        }
        line("slot", &format_args!("{} ({})", self.slot, self.wal_status));
        line("slot position", &lsn(self.confirmed_flush_lsn));
        line("retained WAL", &retained);
        if let Some(seconds) = self.seconds_until_guard {
            line("WAL guard acts in", &format_args!("{} at this pace", span(seconds)));
        }
        if let Some(bytes) = self.spilled_bytes.filter(|bytes| *bytes > 0) {
            line("decoding spilled", &format_args!("{} to production's disk", size(bytes)));
        }
        if !self.guard.is_empty() {
            line("WAL guard", &self.guard);
        }
        if let Some(oldest) = &self.oldest_transaction {
            line("oldest transaction", oldest);
        }
    }
}

/// Bytes are for machines, and in --json.
fn size(bytes: u64) -> ByteSize {
    ByteSize::b(bytes)
}

fn of_tables(gap: &Gap) -> String {
    match &gap.tables {
        None => " of all tables".to_owned(),
        Some(tables) => {
            format!(" of {}", tables.iter().map(ToString::to_string).collect::<Vec<_>>().join(", "))
        }
    }
}

#[cfg(test)]
mod tests {
    use syncdata_formats::{Error, Kind};

    use super::*;

    #[test]
    fn the_wal_guard_is_foretold_in_words_and_in_seconds_for_machines() {
        let source = serde_json::json!({
            "slot": "s", "seen_at": "2026-02-05T10:30:00Z", "wal_status": "reserved", "confirmed_flush_lsn": null,
            "restart_lsn": null, "flush_lsn": "0/1", "retained_bytes": 1, "wal_guard_bytes": 2,
            "seconds_until_guard": 13_500, "guard": "", "spilled_bytes": null, "server_version": "", "plugin": "",
            "oldest_transaction": null
        });
        let source = serde_json::from_value(source).expect("what the daemon says, a command reads");
        let status = Status { source: Some(source), ..Status::default() };
        let text = status.text();
        assert!(text.contains("WAL guard acts in: 3 h 45 min at this pace\n"), "{text}");
        assert_eq!(serde_json::json!(status)["source"]["seconds_until_guard"], 13_500);
    }

    #[test]
    fn times_that_passed_are_told_in_words_and_in_seconds_for_machines() {
        let document = serde_json::json!({
            "uptime_seconds": 100_800,
            "spool": {
                "segments": 1, "bytes": 1, "unshipped_segments": 2, "unshipped_bytes": 1024, "max_bytes": 1,
                "covered_lsn": "0/1", "covered_at": null, "behind_source_bytes": 0, "behind_source_seconds": 11_520,
                "unshipped_seconds": 65, "unshipped_since": null
            }
        });
        let mut whole = serde_json::json!(Status::default());
        whole.as_object_mut().expect("an object").extend(document.as_object().expect("an object").clone());
        let status: Status = serde_json::from_value(whole).expect("what the daemon says, a command reads");
        let text = status.text();
        for line in [
            "uptime: 1 d 4 h",
            "behind source: 3 h 12 min, 0 B of WAL",
            "not shipped: 2 segments, 1.0 KiB, for 1 min",
        ] {
            assert!(text.contains(&format!("\n{line}\n")), "{line} is not in {text}");
        }
        let json = serde_json::json!(status);
        assert_eq!(
            (&json["uptime_seconds"], &json["spool"]["behind_source_seconds"]),
            (&100_800.into(), &11_520.into())
        );
    }

    #[test]
    fn the_text_has_a_line_for_everything_that_is_wrong() {
        let mut status = Status { status: "active".into(), ..Status::default() };
        status.failed(&Error::new(Kind::Unreachable, "gone").hint("look"));
        let text = status.text();
        assert!(text.starts_with("status: active\n"), "{text}");
        assert!(text.contains("problem: gone (hint: look)"), "{text}");
    }
}
