//! How a status looks: as text, and as metrics. (As JSON it is as it is.)

use std::fmt::Write as _;

use syncdata_formats::error::escape_control;
use syncdata_formats::time::Timestamp;
use syncdata_service::control::{Metrics, Sort};

use crate::operations::status::{Status, TableStatus};
use crate::plan::state::State;

/// Without the fraction of a second: for people.
pub(super) fn second_of(time: Timestamp) -> Timestamp {
    let micros = time.as_micros();
    Timestamp::from_micros(micros - micros.rem_euclid(1_000_000)).expect("the second began at a time too")
}

pub(super) fn text(status: &Status) -> String {
    let time =
        |time: Option<Timestamp>| time.map_or_else(|| "-".to_owned(), |time| second_of(time).to_string());
    let mut text = format!(
        "status: {}\nsync frequency: {} seconds\nstart time: {}\nlast sync: {}\nrecords synced: {}\n\
             errors: {}\n\nsynced tables ({}):\n",
        status.status,
        status.sync_frequency_seconds,
        time(status.start_time),
        time(status.last_sync),
        status.records_synced,
        status.errors,
        status.tables.len()
    );
    let mut line = |line: std::fmt::Arguments<'_>| writeln!(text, "{line}").expect("a String takes all");
    for table in &status.tables {
        line(format_args!("  - {}", escape_control(&table.table)));
    }
    line(format_args!("\nhealthy: {}", if status.healthy { "yes" } else { "no" }));
    line(format_args!("archive: {}", status.archive));
    line(format_args!("segment: {}", status.copy.segment));
    line(format_args!("data as of: {}", time(status.copy.data_as_of)));
    for table in status.tables.iter().filter(|table| matches!(table.state, State::Pending | State::Loading)) {
        let reason = table.reason.as_deref().map(|reason| format!(": {reason}")).unwrap_or_default();
        let words = format!("{}: {}{reason}", table.table, table.state);
        line(format_args!("table {}", escape_control(&words)));
    }
    for warning in status.tables.iter().filter_map(TableStatus::warning) {
        line(format_args!("warning: {}", escape_control(&warning)));
    }
    for problem in &status.problems {
        line(format_args!("problem: {}", escape_control(problem)));
    }
    text
}

pub(super) fn metrics(status: &Status) -> Metrics {
    use Sort::{Counter, Gauge};
    let mut metrics = Metrics::new();
    let mut add = |name: &str, sort, help: &str, value: u64| {
        metrics.add(&format!("syncdata_applier_{name}"), sort, help, value);
    };
    let seconds =
        |time: Option<Timestamp>| time.map_or(0, |time| time.as_micros().max(0).unsigned_abs() / 1_000_000);
    add("healthy", Gauge, "1 when status names no problem", u64::from(status.healthy));
    add("records_total", Counter, "Records applied since start", status.records_synced);
    add(
        "errors_total",
        Counter,
        "Passes and loads that failed, and tables set aside, since start",
        status.errors,
    );
    add("last_sync_timestamp_seconds", Gauge, "When the last pass succeeded", seconds(status.last_sync));
    add("segment", Gauge, "Number of the last segment applied", status.copy.segment);
    add(
        "covered_timestamp_seconds",
        Gauge,
        "Until when all commits of production are in every table that has rows",
        seconds(status.copy.data_as_of),
    );
    let labels: Vec<[(&str, &str); 2]> = status
        .tables
        .iter()
        .map(|table| [("table", table.table.as_str()), ("state", table.state.as_str())])
        .collect();
    let samples = |value: fn(&TableStatus) -> u64| {
        labels.iter().zip(&status.tables).map(move |(labels, table)| (&labels[..], value(table)))
    };
    metrics.family(
        "syncdata_applier_table_stale",
        Gauge,
        "1 when the table is not live or older than stale_after",
        samples(|table| u64::from(table.stale)),
    );
    metrics.family(
        "syncdata_applier_table_as_of_timestamp_seconds",
        Gauge,
        "Until when all commits of production are in the table",
        samples(|table| {
            table.data_as_of.map_or(0, |time| time.as_micros().max(0).unsigned_abs() / 1_000_000)
        }),
    );
    metrics.family(
        "syncdata_applier_table_differs",
        Gauge,
        "1 when a proof found that the table differs from production",
        samples(|table| u64::from(table.differs)),
    );
    metrics.family(
        "syncdata_applier_table_proved_timestamp_seconds",
        Gauge,
        "When the table was compared with production last",
        samples(|table| table.proved_at.map_or(0, |time| time.as_micros().max(0).unsigned_abs() / 1_000_000)),
    );
    metrics
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::operations::status::{CopyStatus, Found};

    fn at(text: &str) -> Option<Timestamp> {
        Some(text.parse().expect("a time"))
    }

    fn table(name: &str, state: State, stale: bool) -> TableStatus {
        let data_as_of = at("2026-02-05T10:45:00Z");
        TableStatus {
            table: name.into(),
            state,
            data_as_of,
            lsn: None,
            stale,
            reason: None,
            nan_as_null: Vec::new(),
            differs: false,
            score: None,
            proved_lsn: None,
            proved_at: None,
        }
    }

    fn active() -> Status {
        Status {
            status: "active".into(),
            start_time: at("2026-02-05T10:30:00Z"),
            last_sync: at("2026-02-05T10:45:00.25Z"),
            records_synced: 1234,
            sync_frequency_seconds: 600,
            stale_after_seconds: 1800,
            archive: "/archive".into(),
            ..Status::default()
        }
    }

    #[test]
    fn the_text_begins_as_it_always_did() {
        let tables = ["users", "orders", "products"].map(|name| table(name, State::Live, false));
        let status = active().with(Found { tables: tables.to_vec(), copy: CopyStatus::default() });
        let expected = "status: active\nsync frequency: 600 seconds\nstart time: 2026-02-05T10:30:00Z\n\
            last sync: 2026-02-05T10:45:00Z\nrecords synced: 1234\nerrors: 0\n\nsynced tables (3):\n  \
            - users\n  - orders\n  - products\n\nhealthy: yes\n";
        assert!(text(&status).starts_with(expected), "{}", text(&status));
    }

    #[test]
    fn times_that_are_not_known_are_a_dash() {
        let status = Status { status: "not-started".into(), ..Status::default() };
        assert!(text(&status).contains("start time: -\nlast sync: -\n"), "{}", text(&status));
    }

    #[test]
    fn only_what_is_set_aside_or_old_is_unhealthy() {
        for (state, stale, healthy) in [
            (State::Live, false, true),
            (State::Live, true, false),
            (State::Pending, true, true),
            (State::Loading, true, true),
            (State::Quarantined, true, false),
            (State::Stale, true, false),
        ] {
            let found = Found { tables: vec![table("users", state, stale)], copy: CopyStatus::default() };
            let status = active().with(found);
            assert_eq!(status.healthy, healthy, "{state}: {:?}", status.problems);
            assert_eq!(text(&status).contains("problem: users"), !healthy, "{}", text(&status));
        }
    }

    #[test]
    fn metrics_have_a_line_for_every_table() {
        let tables = vec![table("users", State::Live, false), table("odd\"name", State::Stale, true)];
        let text = metrics(&active().with(Found { tables, copy: CopyStatus::default() })).into_text();
        for line in [
            "syncdata_applier_healthy 0\n",
            "syncdata_applier_records_total 1234\n",
            "syncdata_applier_table_stale{table=\"users\",state=\"live\"} 0\n",
            "syncdata_applier_table_stale{table=\"odd\\\"name\",state=\"stale\"} 1\n",
        ] {
            assert!(text.contains(line), "{line:?} is not in {text}");
        }
    }
}
