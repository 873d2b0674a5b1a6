//! Every change of one row, read from the archive alone.

mod follow;

use std::path::Path;

use syncdata_formats::chain::Verified;
use syncdata_formats::error::{Error, Kind, Result};
use syncdata_formats::manifest::{Manifest, Relation};
use syncdata_formats::name::TableName;
use syncdata_service::config::Config;
use syncdata_service::progress::{Progress, Unit};
use tokio::sync::mpsc;

pub use self::follow::Change;
use self::follow::History;
use crate::apply::reader;
use crate::archive::hand_files::HandFiles;
use crate::archive::range::TimeRange;
use crate::archive::trail::Trail;

/// Changes on their way from the reading thread.
const CHANGES_AHEAD: usize = 1024;

/// The row that is asked for, and when.
#[derive(Clone, Debug)]
pub struct RowOf {
    /// As the archive names it.
    pub table: TableName,
    /// A value for each column of the key, in their order.
    pub key: Vec<String>,
    pub range: TimeRange,
}

/// The segments that may hold changes of the row.
#[derive(Debug)]
pub struct RowHistory {
    row: RowOf,
    files: HandFiles,
    segments: Vec<Verified>,
    pub segments_skipped: usize,
    /// Which changes of the table the archive does not have; in words.
    pub lost: Option<String>,
    /// Who asks for all changes gets those that the archive still has; in words.
    pub begins_late: Option<String>,
}

impl RowHistory {
    /// The table is there, and has as many key columns as values were given.
    pub async fn open(config: &Config, row: &RowOf) -> Result<RowHistory> {
        let files = HandFiles::open(config)?;
        let source = files.source.clone();
        let archive_id = source.identity().await?.archive_id;
        let mut trail = Trail::open(&source, archive_id, None, None).await?;
        trail.reach_before(&row.range).await?;

        let may_hold = |segment: &&Verified| {
            let manifest = segment.manifest();
            row.range.meets(manifest) && manifest.tables.contains_key(&row.table)
        };
        let segments: Vec<Verified> = trail.manifests().iter().filter(may_hold).cloned().collect();
        check_key(row, &segments)?;

        let chain: Vec<&Manifest> = trail.manifests().iter().map(Verified::manifest).collect();
        let lost = row.range.lost(&chain, &row.table, None).or_else(|| trail.pruned_of(&row.range));
        let begins_late = trail.begins_late().filter(|_| row.range.from.is_none());
        let segments_skipped = chain.len() - segments.len();
        Ok(RowHistory { row: row.clone(), files, segments, segments_skipped, lost, begins_late })
    }

    pub fn segments_read(&self) -> usize {
        self.segments.len()
    }

    /// Oldest first, as they are found: a row may have changed more often than memory holds.
    pub async fn read(&mut self, mut tell: impl FnMut(&Change)) -> Result<()> {
        let bytes = self.segments.iter().map(bytes_of).sum();
        let mut progress = Progress::start("reading the archive", Unit::Bytes, Some(bytes));
        let mut history = History::new(self.row.table.to_string(), self.row.key.clone());
        let mut relation = self.segments.iter().find_map(|segment| relation(segment, &self.row.table));

        for segment in &self.segments {
            relation = self::relation(segment, &self.row.table).or(relation);
            let (Some(file), Some(relation)) = (self.files.get(segment).await?, relation.clone()) else {
                continue;
            };
            let (changes, mut found) = mpsc::channel::<Change>(CHANGES_AHEAD);
            let (segment_read, row) = (segment.clone(), self.row.clone());
            let line_bytes_max = self.files.source.line_bytes_max();
            let reading = tokio::task::spawn_blocking(move || {
                let from = (&segment_read, file.as_path());
                read_segment(from, line_bytes_max, &row, &relation, history, &changes)
            });
            while let Some(change) = found.recv().await {
                tell(&change);
            }
            history = reading.await.expect("reading does not panic")?;
            progress.add(bytes_of(segment));
        }
        progress.finish();
        Ok(())
    }
}

fn read_segment(
    (segment, file): (&Verified, &Path),
    line_bytes_max: usize,
    asked: &RowOf,
    relation: &Relation,
    mut history: History,
    changes: &mpsc::Sender<Change>,
) -> Result<History> {
    let seq = segment.manifest().seq.get();
    let table = asked.table.to_string();
    let is_asked = |name: &str| name == table;
    reader::rows(segment, file, line_bytes_max, is_asked, |row, _| {
        if asked.range.has(row.ts)
            && let Some(change) = history.take(row, relation, seq)
        {
            // Whoever does not listen has an error of his own.
            let _ = changes.blocking_send(change);
        }
        Ok(())
    })?;
    Ok(history)
}

fn bytes_of(segment: &Verified) -> u64 {
    segment.manifest().file.as_ref().map_or(0, |file| file.bytes)
}

fn relation(segment: &Verified, table: &TableName) -> Option<Relation> {
    segment.manifest().relations.get(table).cloned()
}

/// That the table is there, and has as many key columns as values were given.
fn check_key(row: &RowOf, segments: &[Verified]) -> Result<()> {
    let RowOf { table, key, .. } = row;
    if segments.is_empty() {
        return Err(Error::new(Kind::NotFound, format!("the archive has no changes of {table} there"))
            .hint("names are those of the archive: users, sales.orders, \"Odd.Name\""));
    }
    let mut relations = segments.iter().rev().filter_map(|segment| segment.manifest().relations.get(table));
    let Some(relation) = relations.next() else {
        let message = format!("the archive does not describe {table}: it was dropped before it was read");
        return Err(Error::new(Kind::NotFound, message));
    };
    if relation.key.is_empty() {
        let message = format!("{table} has no key: its rows cannot be told apart");
        return Err(Error::new(Kind::BadInput, message)
            .hint("docs/archive-format.md shows how to search change files with zstdcat and jq"));
    }
    if relation.key.len() != key.len() {
        let message = format!("the key of {table} is ({}): one value for each", relation.key.join(", "));
        return Err(Error::new(Kind::BadInput, message));
    }
    Ok(())
}
