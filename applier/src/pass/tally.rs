//! What passes and loads have done since the program started: the numbers of `status` and the metrics.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use syncdata_formats::error::Error;
use syncdata_formats::head::Size;
use syncdata_formats::manifest::OpCounts;
use syncdata_formats::name::TableName;
use syncdata_formats::time::Timestamp;
use syncdata_service::control::Durations;

use crate::apply::transaction::Done;
use crate::load;

/// Shared by whatever works and whoever is asked.
#[derive(Debug, Default)]
pub struct Tally(Mutex<Counts>);

/// The counts as they are at one moment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Applied by passes, also by those that failed afterwards.
    pub segments: u64,
    /// Of the archive, before netting; those of loads too.
    pub records: u64,
    pub tables: BTreeMap<TableName, TableCounts>,
    pub passes: Durations,
    pub passes_failed: u64,
    pub loads_failed: u64,
    /// How often a table could not go on.
    pub set_aside: u64,
    /// Segments that the archive had for the last pass and that are not applied yet.
    pub waiting: Option<u64>,
    /// How much is in them, where the archive says it.
    pub waiting_size: Option<Size>,
    pub last_error: Option<String>,
    /// As the last pass found it.
    pub archive: Option<Seen>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TableCounts {
    pub rows: OpCounts,
    /// Updates and deletes of rows that were not here.
    pub missing: u64,
}

/// How fresh the archive was when it was looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Seen {
    /// As head.json says; `None` without one.
    pub covered_at: Option<Timestamp>,
    pub at: Timestamp,
}

impl Counts {
    /// Once for each attempt.
    pub fn errors(&self) -> u64 {
        self.passes_failed + self.loads_failed + self.set_aside
    }
}

impl Tally {
    pub fn counts(&self) -> Counts {
        self.lock().clone()
    }

    pub fn segments(&self) -> u64 {
        self.lock().segments
    }

    pub fn records(&self) -> u64 {
        self.lock().records
    }

    /// A transaction was committed.
    pub(super) fn add(&self, segments: usize, done: &Done) {
        let mut counts = self.lock();
        counts.segments += segments as u64;
        counts.records += done.records;
        for (table, taken, missing) in &done.taken {
            let of_table = counts.tables.entry(table.clone()).or_default();
            of_table.rows.insert += taken.insert;
            of_table.rows.update += taken.update;
            of_table.rows.delete += taken.delete;
            of_table.rows.truncate += taken.truncate;
            of_table.missing += missing;
        }
    }

    /// A table takes nothing any more.
    pub(super) fn table_set_aside(&self, table: &TableName, reason: &str) {
        let mut counts = self.lock();
        counts.set_aside += 1;
        counts.last_error = Some(format!("{table}: {reason}"));
    }

    /// A pass came to its end, however it did.
    pub(crate) fn pass_took(&self, took: Duration) {
        self.lock().passes.add(took);
    }

    pub fn pass_failed(&self, error: &Error) {
        let mut counts = self.lock();
        counts.passes_failed += 1;
        counts.last_error = Some(error.with_hint());
    }

    pub(crate) fn loaded(&self, report: &load::Report) {
        let mut counts = self.lock();
        counts.records += report.records;
        counts.loads_failed += report.refused.len() as u64;
        if let Some((table, reason)) = report.refused.last_key_value() {
            counts.last_error = Some(format!("{table} cannot be loaded: {reason}"));
        }
    }

    pub fn load_failed(&self, error: &Error) {
        let mut counts = self.lock();
        counts.loads_failed += 1;
        counts.last_error = Some(format!("tables cannot be loaded: {}", error.with_hint()));
    }

    /// The archive was looked at; it covers what committed before.
    pub(super) fn sees(&self, covered_at: Option<Timestamp>, at: Timestamp) {
        self.lock().archive = Some(Seen { covered_at, at });
    }

    pub(super) fn waits(&self, segments: usize, size: Option<Size>) {
        let mut counts = self.lock();
        (counts.waiting, counts.waiting_size) = (Some(segments as u64), size);
    }

    /// So many of those that waited are applied.
    pub(super) fn waits_less(&self, segments: usize, size: Size) {
        let mut counts = self.lock();
        counts.waiting_size = counts.waiting_size.map(|waiting| waiting.less(size));
        counts.waiting = counts.waiting.map(|waiting| waiting.saturating_sub(segments as u64));
    }

    /// A panic elsewhere leaves counts that are at worst old.
    fn lock(&self) -> MutexGuard<'_, Counts> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use syncdata_formats::error::Kind;

    use super::*;

    #[test]
    fn every_failed_attempt_is_an_error() {
        let tally = Tally::default();
        let table: TableName = "users".parse().expect("a name");
        let error = Error::new(Kind::Unreachable, "gone");
        tally.pass_failed(&error);
        tally.pass_failed(&error);
        tally.load_failed(&error);
        let refused = BTreeMap::from([(table.clone(), "no".to_owned())]);
        tally.loaded(&load::Report { refused, records: 5, ..load::Report::default() });
        tally.table_set_aside(&table, "bad");
        let counts = tally.counts();
        assert_eq!((counts.errors(), counts.records), (5, 5));
        assert_eq!(counts.last_error.as_deref(), Some("users: bad"));
    }

    #[test]
    fn what_waits_becomes_less_with_what_is_applied() {
        let tally = Tally::default();
        let size = |records| Size { records, bytes: 10 * records };
        tally.waits_less(1, size(1));
        assert_eq!((tally.counts().waiting, tally.counts().waiting_size), (None, None), "nobody has looked");
        tally.waits(3, Some(size(30)));
        tally.waits_less(2, size(20));
        assert_eq!((tally.counts().waiting, tally.counts().waiting_size), (Some(1), Some(size(10))));
        tally.waits(1, None);
        tally.waits_less(1, size(10));
        assert_eq!((tally.counts().waiting, tally.counts().waiting_size), (Some(0), None));
    }
}
