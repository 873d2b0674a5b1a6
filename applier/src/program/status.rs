//! What `status` says: one value, made by the daemon or from the database alone, printed as text, as JSON and as
//! metrics.

use std::fmt::Write as _;
use std::time::Duration;
use syncdata_service::postgres::ServerContext as _;

use serde::{Deserialize, Serialize};
use syncdata_formats::error::{Result, escape_control};
use syncdata_formats::lsn::Lsn;
use syncdata_formats::time::Timestamp;
use syncdata_service::control::{Metrics, Sort};
use tokio_postgres::Row;

use crate::target::postgres::local::Local;

/// Everything that an operator may want to know, as of now.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Status {
    /// `active` or `not-started`
    pub status: String,
    pub healthy: bool,
    /// What is wrong, worst first; empty when healthy.
    pub problems: Vec<String>,
    pub sync_frequency_seconds: u64,
    pub start_time: Option<Timestamp>,
    pub last_sync: Option<Timestamp>,
    /// Records of the archive that were applied since the start, before netting.
    pub records_synced: u64,
    /// Passes that failed since the start.
    pub errors: u64,
    pub stale_after_seconds: u64,
    pub archive: String,
    pub copy: CopyStatus,
    pub tables: Vec<TableStatus>,
}

/// How far the copy as a whole has come.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct CopyStatus {
    pub archive_id: Option<String>,
    /// 0: nothing was applied yet.
    pub segment: u64,
    pub lsn: Option<Lsn>,
    /// By production's clock: what committed before is here.
    pub covered_at: Option<Timestamp>,
    pub applied_at: Option<Timestamp>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TableStatus {
    pub table: String,
    pub state: String,
    pub data_as_of: Option<Timestamp>,
    pub lsn: Option<Lsn>,
    /// As the view `data_sync_freshness` says.
    pub stale: bool,
    pub reason: Option<String>,
}

/// What the database says.
#[derive(Clone, Debug, Default)]
pub struct Found {
    pub copy: CopyStatus,
    pub tables: Vec<TableStatus>,
}

impl Found {
    /// Our tables have to be there.
    pub async fn read(local: &Local) -> Result<Found> {
        let (client, meta) = (local.session.client(), &local.meta);
        let doing = || "reading how far the copy is".to_owned();
        let checkpoint = format!(
            "SELECT archive_id::text, seq, end_lsn::text, covered_at::text, applied_at::text \
             FROM {meta}.data_sync_checkpoint"
        );
        let row = client.query_opt(&checkpoint, &[]).await.context(doing)?;
        let copy = row.map(|row| copy(&row)).transpose()?.unwrap_or_default();
        let tables = format!(
            "SELECT w.table_name, coalesce(f.state, 'pending'), f.data_as_of::text, f.lsn::text, \
             coalesce(f.stale, true), s.reason FROM {meta}.tables_to_sync w \
             LEFT JOIN {meta}.data_sync_freshness f USING (table_name) \
             LEFT JOIN {meta}.data_sync_table_state s USING (table_name) ORDER BY w.id"
        );
        let rows = client.query(&tables, &[]).await.context(doing)?;
        let tables = rows.iter().map(table).collect::<Result<Vec<TableStatus>>>()?;
        Ok(Found { copy, tables })
    }
}

fn copy(row: &Row) -> Result<CopyStatus> {
    Ok(CopyStatus {
        archive_id: row.get(0),
        segment: u64::try_from(row.get::<_, i64>(1)).unwrap_or(0),
        lsn: Some(row.get::<_, &str>(2).parse()?),
        covered_at: time(row.get(3))?,
        applied_at: time(row.get(4))?,
    })
}

fn table(row: &Row) -> Result<TableStatus> {
    let lsn: Option<&str> = row.get(3);
    Ok(TableStatus {
        table: row.get(0),
        state: row.get(1),
        data_as_of: time(row.get(2))?,
        lsn: lsn.map(str::parse).transpose()?,
        stale: row.get(4),
        reason: row.get(5),
    })
}

fn time(text: Option<&str>) -> Result<Option<Timestamp>> {
    text.map(Timestamp::from_postgres).transpose()
}

/// Without the fraction of a second: for people.
pub fn second_of(time: Timestamp) -> Timestamp {
    let micros = time.as_micros();
    Timestamp::from_micros(micros - micros.rem_euclid(1_000_000)).expect("the second began at a time too")
}

impl TableStatus {
    fn is_set_aside(&self) -> bool {
        matches!(self.state.as_str(), "quarantined" | "stale")
    }

    /// Live, and yet older than `stale_after`.
    fn is_too_old(&self) -> bool {
        self.state == "live" && self.stale
    }
}

impl Status {
    /// Takes in what the database says, and judges. Problems that are there already come first.
    #[must_use]
    pub fn with(mut self, found: Found) -> Status {
        (self.copy, self.tables) = (found.copy, found.tables);
        let set_aside = self.tables.iter().filter(|table| table.is_set_aside());
        let words = |table: &TableStatus| {
            let reason = table.reason.as_deref().map(|reason| format!(": {reason}")).unwrap_or_default();
            format!("{} is {}{reason}", table.table, table.state)
        };
        self.problems.extend(set_aside.map(words));
        self.problems.extend(self.too_old());
        self.healthy = self.problems.is_empty();
        self
    }

    fn too_old(&self) -> Option<String> {
        let old: Vec<&TableStatus> = self.tables.iter().filter(|table| table.is_too_old()).collect();
        let newest = old.iter().filter_map(|table| table.data_as_of).max();
        let names = match old.as_slice() {
            [] => return None,
            [one] => one.table.clone(),
            several => format!("{} tables", several.len()),
        };
        let newest = newest.map_or_else(|| "not known".to_owned(), |time| time.to_string());
        Some(format!(
            "{names}: not fresh within stale_after ({} s), as of {newest}; look at the archiver, and at both clocks",
            self.stale_after_seconds
        ))
    }

    pub fn text(&self) -> String {
        let time =
            |time: Option<Timestamp>| time.map_or_else(|| "-".to_owned(), |time| second_of(time).to_string());
        let mut text = format!(
            "status: {}\nsync frequency: {} seconds\nstart time: {}\nlast sync: {}\nrecords synced: {}\n\
             errors: {}\n\nsynced tables ({}):\n",
            self.status,
            self.sync_frequency_seconds,
            time(self.start_time),
            time(self.last_sync),
            self.records_synced,
            self.errors,
            self.tables.len()
        );
        let mut line = |line: std::fmt::Arguments<'_>| writeln!(text, "{line}").expect("a String takes all");
        for table in &self.tables {
            line(format_args!("  - {}", escape_control(&table.table)));
        }
        line(format_args!("\nhealthy: {}", if self.healthy { "yes" } else { "no" }));
        line(format_args!("archive: {}", self.archive));
        line(format_args!("segment: {}", self.copy.segment));
        line(format_args!("data as of: {}", time(self.copy.covered_at)));
        for table in self.tables.iter().filter(|table| matches!(table.state.as_str(), "pending" | "loading"))
        {
            let reason = table.reason.as_deref().map(|reason| format!(": {reason}")).unwrap_or_default();
            let words = format!("{}: {}{reason}", table.table, table.state);
            line(format_args!("table {}", escape_control(&words)));
        }
        for problem in &self.problems {
            line(format_args!("problem: {}", escape_control(problem)));
        }
        text
    }

    pub fn metrics(&self) -> Metrics {
        use Sort::{Counter, Gauge};
        let mut metrics = Metrics::new();
        let mut add = |name: &str, sort, help: &str, value: u64| {
            metrics.add(&format!("syncdata_applier_{name}"), sort, help, value);
        };
        let seconds = |time: Option<Timestamp>| {
            time.map_or(0, |time| time.as_micros().max(0).unsigned_abs() / 1_000_000)
        };
        add("healthy", Gauge, "1 when status names no problem", u64::from(self.healthy));
        add("records_total", Counter, "Records applied since start", self.records_synced);
        add("errors_total", Counter, "Passes that failed since start", self.errors);
        add("last_sync_timestamp_seconds", Gauge, "When the last pass succeeded", seconds(self.last_sync));
        add("segment", Gauge, "Number of the last segment applied", self.copy.segment);
        add(
            "covered_timestamp_seconds",
            Gauge,
            "Until when all commits of production are here",
            seconds(self.copy.covered_at),
        );
        let labels: Vec<[(&str, &str); 2]> = self
            .tables
            .iter()
            .map(|table| [("table", table.table.as_str()), ("state", table.state.as_str())])
            .collect();
        let samples = |value: fn(&TableStatus) -> u64| {
            labels.iter().zip(&self.tables).map(move |(labels, table)| (&labels[..], value(table)))
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
        metrics
    }
}

/// What a status starts from, before anybody was asked.
pub fn frame(frequency: Duration, stale_after: Duration, archive: String) -> Status {
    Status {
        sync_frequency_seconds: frequency.as_secs(),
        stale_after_seconds: stale_after.as_secs(),
        archive,
        ..Status::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(text: &str) -> Option<Timestamp> {
        Some(text.parse().expect("a time"))
    }

    fn table(name: &str, state: &str, stale: bool) -> TableStatus {
        let data_as_of = at("2026-02-05T10:45:00Z");
        TableStatus { table: name.into(), state: state.into(), data_as_of, lsn: None, stale, reason: None }
    }

    fn active() -> Status {
        Status {
            status: "active".into(),
            start_time: at("2026-02-05T10:30:00Z"),
            last_sync: at("2026-02-05T10:45:00.25Z"),
            records_synced: 1234,
            ..frame(Duration::from_secs(600), Duration::from_secs(1800), "/archive".into())
        }
    }

    #[test]
    fn the_text_begins_as_it_always_did() {
        let tables = ["users", "orders", "products"].map(|name| table(name, "live", false));
        let status = active().with(Found { tables: tables.to_vec(), copy: CopyStatus::default() });
        let expected = "status: active\nsync frequency: 600 seconds\nstart time: 2026-02-05T10:30:00Z\n\
            last sync: 2026-02-05T10:45:00Z\nrecords synced: 1234\nerrors: 0\n\nsynced tables (3):\n  \
            - users\n  - orders\n  - products\n\nhealthy: yes\n";
        assert!(status.text().starts_with(expected), "{}", status.text());
    }

    #[test]
    fn times_that_are_not_known_are_a_dash() {
        let status = Status { status: "not-started".into(), ..Status::default() };
        assert!(status.text().contains("start time: -\nlast sync: -\n"), "{}", status.text());
    }

    #[test]
    fn only_what_is_set_aside_or_old_is_unhealthy() {
        for (state, stale, healthy) in [
            ("live", false, true),
            ("live", true, false),
            ("pending", true, true),
            ("loading", true, true),
            ("quarantined", true, false),
            ("stale", true, false),
        ] {
            let found = Found { tables: vec![table("users", state, stale)], copy: CopyStatus::default() };
            let status = active().with(found);
            assert_eq!(status.healthy, healthy, "{state}: {:?}", status.problems);
            assert_eq!(status.text().contains("problem: users"), !healthy, "{}", status.text());
        }
    }

    #[test]
    fn metrics_have_a_line_for_every_table() {
        let tables = vec![table("users", "live", false), table("odd\"name", "stale", true)];
        let text = active().with(Found { tables, copy: CopyStatus::default() }).metrics().into_text();
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
