//! What a replay found and did, for people and for programs.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use serde::Serialize;
use syncdata_formats::error::escape_control;
use syncdata_formats::manifest::OpCounts;

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Report {
    pub range: String,
    /// The schema of the copies, when it was for looking.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub into: Option<String>,
    /// Nothing was written.
    pub dry_run: bool,
    /// Up to which segment rows were followed.
    pub checkpoint: u64,
    /// What of the range the archive has no more.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pruned: Option<String>,
    /// With transactions of the range.
    pub segments: u64,
    pub transactions: u64,
    pub tables: BTreeMap<String, TableReport>,
    /// With the reason.
    pub left_alone: BTreeMap<String, String>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct TableReport {
    /// Records of the range.
    pub inserts: u64,
    pub updates: u64,
    pub deletes: u64,
    pub truncates: u64,
    /// Different keys of the range, where the table has one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub keys: Option<u64>,
    /// Records on those keys after the range.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub later: Option<u64>,
    /// What a repair wrote.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub changed: Option<Changed>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub not_rebuilt: Option<NotRebuilt>,
    /// Updates and deletes of rows that a copy does not have: skipped.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub missing: Option<u64>,
    /// What of the range the archive itself does not have: of a look at it only.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub lost: Option<String>,
    /// Columns of the archive that the table does not have any more.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub without: Vec<String>,
}

/// Counts of the rows that a merge wrote.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Changed {
    pub inserted: u64,
    pub updated: u64,
    pub deleted: u64,
}

impl Changed {
    pub fn total(self) -> u64 {
        self.inserted + self.updated + self.deleted
    }
}

/// Rows that are missing here and whose values the archive does not tell all.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct NotRebuilt {
    pub rows: u64,
    /// Keys of some of them.
    pub keys: Vec<String>,
}

impl TableReport {
    pub fn of(counts: OpCounts) -> TableReport {
        TableReport {
            inserts: counts.insert,
            updates: counts.update,
            deletes: counts.delete,
            truncates: counts.truncate,
            ..TableReport::default()
        }
    }
}

impl Report {
    /// Everything that was asked for is as the archive says.
    pub fn is_clean(&self) -> bool {
        let is_whole = |table: &TableReport| table.not_rebuilt.as_ref().is_none_or(|rows| rows.rows == 0);
        let is_told = |table: &TableReport| table.lost.is_none();
        self.pruned.is_none()
            && self.left_alone.is_empty()
            && self.tables.values().all(|table| is_whole(table) && is_told(table))
    }

    pub fn changed(&self) -> u64 {
        self.tables.values().filter_map(|table| table.changed).map(Changed::total).sum()
    }

    pub fn text(&self) -> String {
        let mut text = String::new();
        let mut line = |words: String| {
            writeln!(text, "{}", escape_control(&words)).expect("a String takes all");
        };
        line(format!("range         {}", self.range));
        line(format!("segments      {} with {} transactions in the range", self.segments, self.transactions));
        if self.into.is_none() {
            line(format!("brought to    segment {}", self.checkpoint));
        }
        if let Some(pruned) = &self.pruned {
            line(format!("not all of it: {pruned}"));
        }
        for (name, table) in &self.tables {
            line(format!("{name}: {}", table.words()));
        }
        for (name, reason) in &self.left_alone {
            line(format!("{name}: left alone: {reason}"));
        }
        line(self.result());
        text
    }

    fn result(&self) -> String {
        match (&self.into, self.changed()) {
            _ if self.dry_run => "nothing was written (dry run)".to_owned(),
            (Some(schema), _) => format!("{} tables are in schema {schema}", self.tables.len()),
            (None, 0) if !self.is_clean() => "nothing was changed".to_owned(),
            (None, 0) => "nothing was changed: all rows of the range are as the archive says".to_owned(),
            (None, changed) => format!("{changed} rows were changed"),
        }
    }
}

impl TableReport {
    fn words(&self) -> String {
        let mut words =
            format!("{} inserts, {} updates, {} deletes", self.inserts, self.updates, self.deletes);
        let mut add = |more: String| write!(words, "{more}").expect("a String takes all");
        if self.truncates > 0 {
            add(format!(", {} truncates", self.truncates));
        }
        if let Some(keys) = self.keys {
            add(format!(" of {keys} keys"));
        }
        if let Some(later) = self.later.filter(|later| *later > 0) {
            add(format!(", {later} later changes of them"));
        }
        if let Some(Changed { inserted, updated, deleted }) = self.changed {
            add(format!("; here {inserted} inserted, {updated} updated, {deleted} deleted"));
        }
        if let Some(missing) = self.missing.filter(|missing| *missing > 0) {
            add(format!("; {missing} of them skipped: the range does not have their rows"));
        }
        if let Some(lost) = &self.lost {
            add(format!("; {lost}"));
        }
        if !self.without.is_empty() {
            add(format!("; without the columns {}", self.without.join(", ")));
        }
        if let Some(NotRebuilt { rows, keys }) = self.not_rebuilt.as_ref().filter(|rows| rows.rows > 0) {
            add(format!(
                "; {rows} rows are missing and cannot be rebuilt, the archive does not tell all of their values: {}",
                keys.join(", ")
            ));
        }
        words
    }
}
