//! A status as Prometheus reads it. What somebody may have built an alert on keeps its name; docs/monitoring.md lists
//! them all.

use syncdata_service::alerts::AlertKind;
use syncdata_service::control::{Metrics, Sort};

use crate::operations::status::{Status, TableStatus};
use crate::pass::{Counts, TableCounts};
use crate::plan::state::State;

const PREFIX: &str = "syncdata_applier";

pub(super) fn metrics(status: &Status, counts: &Counts) -> Metrics {
    let mut metrics = Metrics::new();
    program(&mut metrics, status, counts);
    copy(&mut metrics, status, counts);
    tables(&mut metrics, status);
    taken(&mut metrics, status, counts);
    metrics
}

/// How the daemon itself is.
fn program(metrics: &mut Metrics, status: &Status, counts: &Counts) {
    use Sort::{Counter, Gauge};
    let name = |name: &str| format!("{PREFIX}_{name}");
    let version = [("version", status.version.as_str())];
    metrics.family(&name("build_info"), Gauge, "1; the version of the program", [(&version[..], 1)]);
    metrics.time(&name("start_timestamp_seconds"), "When the daemon was started", status.start_time);
    let mut add = |what: &str, sort, help: &str, value: u64| metrics.add(&name(what), sort, help, value);
    add("healthy", Gauge, "1 when status names no problem", u64::from(status.healthy));
    add("problems", Gauge, "Problems that status names", status.problems.len() as u64);
    let errors = "Passes and loads that failed, tables that could not be loaded or were set aside, each attempt, since start";
    add("errors_total", Counter, errors, status.errors);
    add(
        "pass_failures_total",
        Counter,
        "Passes that failed, each attempt, since start",
        counts.passes_failed,
    );
    add(
        "load_failures_total",
        Counter,
        "Loads that failed, and tables that one could not load, since start",
        counts.loads_failed,
    );
    add(
        "tables_set_aside_total",
        Counter,
        "How often a table was quarantined or cut off, since start",
        counts.set_aside,
    );
    add(
        "sync_frequency_seconds",
        Gauge,
        "The time between two passes (data_sync_freq)",
        status.sync_frequency_seconds,
    );
    add("stale_after_seconds", Gauge, "How old a table may be (stale_after)", status.stale_after_seconds);
    metrics.durations(&name("pass_duration_seconds"), "How long passes took", &counts.passes);
    metrics.circuits(PREFIX, &status.circuits);
    metrics.alerts(PREFIX, &AlertKind::OF_APPLIER, &status.alerts);
    metrics.rooms(PREFIX, &status.disks);
}

/// The copy as a whole.
fn copy(metrics: &mut Metrics, status: &Status, counts: &Counts) {
    use Sort::{Counter, Gauge};
    let name = |name: &str| format!("{PREFIX}_{name}");
    metrics.add(&name("records_total"), Counter, "Records applied since start", status.records_synced);
    metrics.add(&name("segments_total"), Counter, "Segments applied since start", counts.segments);
    metrics.add(&name("segment"), Gauge, "Number of the last segment applied", status.copy.segment);
    let waiting = status.waiting_segments.map(|segments| (&[][..], segments));
    let help = "Segments that the archive has and the copy has not, as the last pass saw it";
    metrics.family(&name("waiting_segments"), Gauge, help, waiting);
    let waiting = status.waiting_records.map(|records| (&[][..], records));
    metrics.family(
        &name("waiting_records"),
        Gauge,
        "Records in these segments, where the archive says it",
        waiting,
    );
    let waiting = status.waiting_bytes.map(|bytes| (&[][..], bytes));
    metrics.family(
        &name("waiting_bytes"),
        Gauge,
        "Bytes to fetch for these segments, where the archive says it",
        waiting,
    );
    metrics.time(&name("last_sync_timestamp_seconds"), "When the last pass succeeded", status.last_sync);
    let help = "Until when all commits of production are in every table that has rows";
    metrics.time(&name("covered_timestamp_seconds"), help, status.copy.data_as_of);
    let set_aside = status.tables.iter().filter(|table| table.state == State::Quarantined).count();
    metrics.add(
        &name("quarantined_tables"),
        Gauge,
        "Tables that take nothing until somebody mends them",
        set_aside,
    );
    let records = status.quarantine_records.map(|records| (&[][..], records));
    let help = "Records in data_sync_quarantine, which their tables could not take";
    metrics.family(&name("quarantine_records"), Gauge, help, records);
    let queue = status.dead_letter_queue.map(|records| (&[][..], records));
    let help = "Records that wait for quarantined tables: those that failed, and all after them";
    metrics.family(&name("dead_letter_queue_records"), Gauge, help, queue);
    let proved = status.tables.iter().filter_map(|table| table.proved_at).max();
    metrics.time(
        &name("last_proof_timestamp_seconds"),
        "When a table was compared with production last",
        proved,
    );
    metrics.time(
        &name("last_verify_timestamp_seconds"),
        "When a command with these settings verified the whole archive last",
        status.last_verify.map(|last| last.at),
    );
    let problems = status.last_verify.map(|last| (&[][..], last.problems));
    let help = "Problems that the last verification of the whole archive found";
    metrics.family(&name("last_verify_problems"), Gauge, help, problems);
}

/// Each table, by its name alone: a label that changes with the state would begin a new series each time.
fn tables(metrics: &mut Metrics, status: &Status) {
    let name = |name: &str| format!("{PREFIX}_{name}");
    let states =
        status.tables.iter().map(|table| (Some(("table", table.table.as_str())), table.state.as_str()));
    let values = State::ALL.map(State::as_str);
    metrics.states(&name("table_state"), "1 for the state that the table is in", "state", &values, states);
    let mut each = Each { metrics, tables: &status.tables };
    each.family("table_stale", "1 when the table is not live or older than stale_after", |table| {
        Some(u8::from(table.stale))
    });
    each.family("table_differs", "1 when a proof found that the table differs from production", |table| {
        Some(u8::from(table.differs))
    });
    each.family(
        "table_score_ratio",
        "The part of the rows that agree with production, at least, by the newest proof",
        |table| table.score.as_deref().and_then(ratio),
    );
    each.family("table_incomplete", "1 when a transaction of the table was passed over by hand", |table| {
        Some(u8::from(table.incomplete_lsn.is_some()))
    });
    // Of a quarantined one that is not counted yet nobody knows it.
    each.family("table_waiting_records", "Records that wait for the quarantined table", |table| match table
        .state
    {
        State::Quarantined => table.waiting_records,
        State::Pending | State::Loading | State::Live | State::Stale => Some(0),
    });
    each.family("table_rows", "Rows, as the server estimates them or a proof has counted them", |table| {
        table.rows
    });
    let micros =
        |time: Option<syncdata_formats::time::Timestamp>| time.map(syncdata_service::control::seconds);
    each.family(
        "data_as_of_timestamp_seconds",
        "Until when all commits of production are in the table",
        move |table| micros(table.data_as_of),
    );
    each.family(
        "table_changed_timestamp_seconds",
        "When production made the newest change that is in the table",
        move |table| micros(table.changed_at),
    );
    each.family(
        "table_proved_timestamp_seconds",
        "When the table was compared with production last",
        move |table| micros(table.proved_at),
    );
}

struct Each<'a> {
    metrics: &'a mut Metrics,
    tables: &'a [TableStatus],
}

impl Each<'_> {
    /// A gauge for every table of which it is known.
    fn family<V: std::fmt::Display>(
        &mut self,
        name: &str,
        help: &str,
        value: impl Fn(&TableStatus) -> Option<V>,
    ) {
        let labels: Vec<([(&str, &str); 1], V)> = self
            .tables
            .iter()
            .filter_map(|table| Some(([("table", table.table.as_str())], value(table)?)))
            .collect();
        let samples = labels.iter().map(|(labels, value)| (&labels[..], value));
        self.metrics.family(&format!("{PREFIX}_{name}"), Sort::Gauge, help, samples);
    }
}

/// What the tables took since the start: 0 for those that took nothing yet, so that the first change is a rise.
fn taken(metrics: &mut Metrics, status: &Status, counts: &Counts) {
    let taken: Vec<(&str, TableCounts)> = status
        .tables
        .iter()
        .map(|table| {
            let counts = table.table.parse().ok().and_then(|name| counts.tables.get(&name).copied());
            (table.table.as_str(), counts.unwrap_or_default())
        })
        .collect();
    let rows: Vec<([(&str, &str); 2], u64)> = taken
        .iter()
        .flat_map(|(table, counts)| {
            let rows = counts.rows;
            let each = [
                ("insert", rows.insert),
                ("update", rows.update),
                ("delete", rows.delete),
                ("truncate", rows.truncate),
            ];
            each.map(|(operation, rows)| ([("table", *table), ("operation", operation)], rows))
        })
        .collect();
    let samples = rows.iter().map(|(labels, rows)| (&labels[..], rows));
    let help = "Changes that passes took from the archive since start";
    metrics.family(&format!("{PREFIX}_rows_total"), Sort::Counter, help, samples);
    let missing: Vec<([(&str, &str); 1], u64)> =
        taken.iter().map(|(table, counts)| ([("table", *table)], counts.missing)).collect();
    let samples = missing.iter().map(|(labels, rows)| (&labels[..], rows));
    let help = "Updates and deletes of rows that were not in the table, since start";
    metrics.family(&format!("{PREFIX}_missing_rows_total"), Sort::Counter, help, samples);
}

/// Percent as a part of one, digit for digit: `99.98` is `0.9998`.
fn ratio(percent: &str) -> Option<String> {
    let (whole, fraction) = percent.split_once('.').unwrap_or((percent, ""));
    let digits = format!("{whole:0>3}{fraction}");
    let is_number = digits.bytes().all(|byte| byte.is_ascii_digit());
    let (one, rest) = digits.split_at_checked(digits.len().checked_sub(2 + fraction.len())?)?;
    is_number.then(|| format!("{one}.{rest}"))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use syncdata_formats::manifest::OpCounts;
    use syncdata_formats::time::Timestamp;

    use super::*;
    use crate::operations::status::Found;
    use crate::program::status::tests::{active, table};

    #[test]
    fn percent_is_a_part_of_one() {
        for (percent, part) in
            [("100.00", "1.0000"), ("99.98", "0.9998"), ("7.5", "0.075"), ("0.00", "0.0000"), ("100", "1.00")]
        {
            assert_eq!(ratio(percent).as_deref(), Some(part), "{percent}");
        }
        assert_eq!(ratio("NaN"), None);
    }

    #[test]
    fn a_table_has_one_name_in_every_state() {
        let tables = vec![table("users", State::Live, false), table("odd\"name", State::Stale, true)];
        let users: syncdata_formats::name::TableName = "users".parse().expect("a name");
        let rows = OpCounts { insert: 3, ..OpCounts::default() };
        let counts = Counts {
            tables: BTreeMap::from([(users, TableCounts { rows, missing: 2 })]),
            ..Counts::default()
        };
        let text = metrics(&active().with(Found { tables, ..Found::default() }), &counts).into_text();
        for line in [
            "syncdata_applier_healthy 0\n",
            "syncdata_applier_problems 1\n",
            "syncdata_applier_records_total 1234\n",
            "syncdata_applier_table_stale{table=\"users\"} 0\n",
            "syncdata_applier_table_stale{table=\"odd\\\"name\"} 1\n",
            "syncdata_applier_table_state{table=\"users\",state=\"live\"} 1\n",
            "syncdata_applier_table_state{table=\"users\",state=\"stale\"} 0\n",
            "syncdata_applier_table_state{table=\"odd\\\"name\",state=\"stale\"} 1\n",
            "syncdata_applier_data_as_of_timestamp_seconds{table=\"users\"} 1770288300.000000\n",
            "syncdata_applier_rows_total{table=\"users\",operation=\"insert\"} 3\n",
            "syncdata_applier_rows_total{table=\"odd\\\"name\",operation=\"delete\"} 0\n",
            "syncdata_applier_missing_rows_total{table=\"users\"} 2\n",
        ] {
            assert!(text.contains(line), "{line:?} is not in {text}");
        }
    }

    #[test]
    fn what_is_not_known_has_no_number() {
        let mut status =
            active().with(Found { tables: vec![table("users", State::Live, false)], ..Found::default() });
        status.last_sync = None::<Timestamp>;
        let text = metrics(&status, &Counts::default()).into_text();
        for name in
            ["last_sync", "table_score", "table_proved", "table_rows", "waiting_", "quarantine_records"]
        {
            assert!(!text.contains(&format!("syncdata_applier_{name}")), "{name} is in {text}");
        }
    }
}
