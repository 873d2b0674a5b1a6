//! How a status looks to people. (As JSON it is as it is.)

use std::fmt::Write as _;

use syncdata_formats::error::escape_control;
use syncdata_formats::time::Timestamp;
use syncdata_service::output::span;

use crate::operations::status::{Status, TableStatus};

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
    if let Some(milliseconds) = status.follow_milliseconds {
        line(format_args!("follow: every {milliseconds} ms"));
    }
    line(format_args!("archive: {}", status.archive));
    line(format_args!("segment: {}", status.copy.segment));
    line(format_args!("data as of: {}", time(status.copy.data_as_of)));
    if let Some(seconds) = status.uptime_seconds {
        line(format_args!("uptime: {}", span(seconds)));
    }
    if let Some(last) = &status.last_verify {
        line(format_args!("last verify: {}", last.words()));
    }
    for table in &status.tables {
        line(format_args!("table {}", escape_control(&row(table))));
    }
    for note in &status.notes {
        line(format_args!("note: {}", escape_control(note)));
    }
    for warning in status.tables.iter().flat_map(TableStatus::warnings) {
        line(format_args!("warning: {}", escape_control(&warning)));
    }
    for alert in &status.alerts {
        line(format_args!("alert: {}", escape_control(&alert.line())));
    }
    for words in status.circuits.iter().filter_map(|(peer, circuit)| circuit.line(peer)) {
        line(format_args!("circuit: {words}"));
    }
    for problem in &status.problems {
        line(format_args!("problem: {}", escape_control(problem)));
    }
    text
}

/// `  - users: live, 12 rows (estimated), as of …`
fn row(table: &TableStatus) -> String {
    let time = |what: &str, time: Option<Timestamp>| {
        time.map(|time| format!(", {what} {}", second_of(time))).unwrap_or_default()
    };
    let rows = match (table.rows, table.rows_counted_at) {
        (None, _) => String::new(),
        (Some(rows), Some(at)) => format!(", {rows} rows (counted {})", second_of(at)),
        (Some(rows), None) => format!(", about {rows} rows"),
    };
    let waiting =
        table.waiting_records.map(|records| format!(", {records} records wait")).unwrap_or_default();
    let incomplete = if table.incomplete_lsn.is_some() { ", incomplete" } else { "" };
    let (as_of, changed) = (time("as of", table.data_as_of), time("last change", table.changed_at));
    format!(
        "{}: {}{incomplete}{rows}{waiting}{as_of}{}{changed}",
        table.table,
        table.state,
        time("proved", table.proved_at)
    )
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::operations::status::Found;
    use crate::plan::state::State;

    fn at(text: &str) -> Option<Timestamp> {
        Some(text.parse().expect("a time"))
    }

    pub(in crate::program) fn table(name: &str, state: State, stale: bool) -> TableStatus {
        let data_as_of = at("2026-02-05T10:45:00Z");
        TableStatus {
            table: name.into(),
            state,
            data_as_of,
            lsn: None,
            stale,
            reason: None,
            captured_until: None,
            nan_as_null: Vec::new(),
            differs: false,
            differs_by: Vec::new(),
            score: None,
            proved_lsn: None,
            proved_at: None,
            changed_at: None,
            rows: None,
            rows_counted_at: None,
            load_failed: None,
            waiting_records: None,
            incomplete_lsn: None,
        }
    }

    pub(in crate::program) fn active() -> Status {
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
        let status = active().with(Found { tables: tables.to_vec(), ..Found::default() });
        let expected = "status: active\nsync frequency: 600 seconds\nstart time: 2026-02-05T10:30:00Z\n\
            last sync: 2026-02-05T10:45:00Z\nrecords synced: 1234\nerrors: 0\n\nsynced tables (3):\n  \
            - users\n  - orders\n  - products\n\nhealthy: yes\n";
        assert!(text(&status).starts_with(expected), "{}", text(&status));
    }

    #[test]
    fn the_uptime_is_told_in_words_and_in_seconds_for_machines() {
        let status = Status { uptime_seconds: Some(11_520), ..active() };
        assert!(text(&status).contains("\nuptime: 3 h 12 min\n"), "{}", text(&status));
        assert_eq!(serde_json::json!(status)["uptime_seconds"], 11_520);
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
            let found = Found { tables: vec![table("users", state, stale)], ..Found::default() };
            let status = active().with(found);
            assert_eq!(status.healthy, healthy, "{state}: {:?}", status.problems);
            assert_eq!(text(&status).contains("problem: users"), !healthy, "{}", text(&status));
        }
    }

    #[test]
    fn a_table_is_told_with_all_that_is_known_of_it() {
        let known = TableStatus {
            rows: Some(12),
            rows_counted_at: at("2026-02-05T10:40:00.5Z"),
            proved_at: at("2026-02-05T10:40:00Z"),
            changed_at: at("2026-02-05T10:35:00Z"),
            ..table("users", State::Live, false)
        };
        let line = "users: live, 12 rows (counted 2026-02-05T10:40:00Z), as of 2026-02-05T10:45:00Z, \
            proved 2026-02-05T10:40:00Z, last change 2026-02-05T10:35:00Z";
        assert_eq!(row(&known), line);
        let estimated = TableStatus { rows_counted_at: None, proved_at: None, changed_at: None, ..known };
        assert_eq!(row(&estimated), "users: live, about 12 rows, as of 2026-02-05T10:45:00Z");
    }

    #[test]
    fn a_new_table_is_healthy_and_says_what_it_waits_for() {
        let found = Found { tables: vec![table("users", State::Pending, true)], ..Found::default() };
        let status = active().with(found);
        assert!(status.healthy, "{:?}", status.problems);
        assert!(
            text(&status).contains("\nnote: users: pending: waits for its first base\n"),
            "{}",
            text(&status)
        );
    }

    #[test]
    fn a_table_that_could_not_be_loaded_is_unhealthy() {
        let failed =
            TableStatus { load_failed: Some("no room".into()), ..table("users", State::Live, false) };
        let status = active().with(Found { tables: vec![failed], ..Found::default() });
        assert_eq!(status.problems, ["users could not be loaded: no room"]);
        assert!(!status.healthy);
    }

    #[test]
    fn the_earlier_names_say_the_same() {
        let mut found = Found::default();
        found.copy.lsn = "0/16B3D40".parse().ok();
        let document = serde_json::json!(active().with(found));
        assert_eq!(document["last_lsn"], document["copy"]["lsn"]);
        assert_eq!(document["last_sync_time"], document["last_sync"]);
        assert_eq!(document["records_replicated"], 1234);
        assert_eq!(document["error_count"], document["errors"]);
        assert_eq!(
            (&document["last_error"], &document["is_running"]),
            (&serde_json::Value::Null, &true.into())
        );
        let again: Status =
            serde_json::from_value(document.clone()).expect("what the daemon says, a command reads");
        assert_eq!(serde_json::json!(again), document);
    }
}
