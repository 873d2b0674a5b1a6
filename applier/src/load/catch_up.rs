//! Brings shadows up to date: applies the changes of segments, exactly those that are not in them yet.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use syncdata_formats::chain::Verified;
use syncdata_formats::change::Commit;
use syncdata_formats::error::{Error, Kind, Result};
use syncdata_formats::lsn::Lsn;
use syncdata_formats::manifest::{Manifest, Relation, ReplicaIdentity};
use syncdata_formats::name::TableName;
use syncdata_formats::snapshot::SnapshotManifest;
use syncdata_service::faults;
use syncdata_service::postgres::Session;

use super::Halt;
use crate::apply::reader::{self, Admission, Item, Reading, Task};
use crate::archive::fetch::Fetched;
use crate::batch::TxPlace;
use crate::plan;
use crate::table::{self, Table};
use crate::target::postgres::apply::{Outcome, Writer};
use crate::target::postgres::step::Prepared;

/// Which transactions are in the shadows already.
#[derive(Clone, Debug)]
pub(crate) struct Known {
    /// All that committed up to here.
    pub upto: Lsn,
    /// And those after it that this snapshot has seen.
    pub snapshot: Option<Arc<SnapshotManifest>>,
    /// This transaction and all after it are not wanted.
    pub until: Option<TxPlace>,
}

impl Known {
    pub(crate) fn has(&self, commit: &Commit) -> bool {
        let seen = |snapshot: &Arc<SnapshotManifest>| {
            commit.end_lsn <= snapshot.end_lsn && snapshot.snapshot.has(commit.xid)
        };
        commit.end_lsn <= self.upto || self.snapshot.as_ref().is_some_and(seen)
    }

    /// Whether some of the segment's transactions may be known: its file has to be looked through.
    pub(super) fn reaches_into(&self, manifest: &Manifest) -> bool {
        let seen_upto = self.snapshot.as_ref().map_or(Lsn::ZERO, |snapshot| snapshot.end_lsn);
        manifest.start_lsn < self.upto.max(seen_upto)
    }
}

/// A table of ours and the shadow that takes its changes.
#[derive(Clone, Debug)]
pub(crate) struct Copy {
    pub table: Arc<Table>,
    pub shadow: Arc<Table>,
    /// As the archive described it last.
    pub relation: Arc<Relation>,
    /// Whether `relation` is what the archive says, not only how the table is here.
    pub described: bool,
    /// Columns that the source has, or had while changes were made.
    pub columns: Vec<usize>,
    /// How long the files that it is made from took from the backup host.
    pub transfer: Duration,
}

impl Copy {
    /// Another shape of the table: what it has now counts, and what it had stays known.
    pub(crate) fn meet(&mut self, relation: &Arc<Relation>) {
        self.relation = Arc::clone(relation);
        self.add_columns(relation);
    }

    /// A row had that column, under a name that no description has: the source renamed it since.
    fn add_written(&mut self, place: usize) {
        if !self.table.columns[place].generated && !self.columns.contains(&place) {
            self.columns.push(place);
            self.columns.sort_unstable();
        }
    }

    /// Columns that the table has by then: a proof may speak of them before any change does.
    pub(crate) fn add_columns(&mut self, relation: &Relation) {
        for column in &relation.columns {
            if let Some(place) = self.table.column(&column.name)
                && !self.table.columns[place].generated
                && !self.columns.contains(&place)
            {
                self.columns.push(place);
            }
        }
        self.columns.sort_unstable();
    }
}

/// Counts of what was applied while catching up.
#[derive(Debug, Default)]
pub(crate) struct CaughtUp {
    pub records: u64,
    /// Updates and deletes of rows that were not there, by table.
    pub missing: BTreeMap<TableName, u64>,
}

/// Applies the segments' changes of these tables inside a transaction that somebody else commits.
pub(crate) async fn catch_up(
    session: &Session,
    writer: &mut Writer,
    segments: &[Fetched],
    known: &Known,
    copies: &mut BTreeMap<TableName, Copy>,
) -> Result<CaughtUp, Halt> {
    let mut tasks = Vec::new();
    for fetched in segments {
        tasks.extend(task(fetched, known, copies)?);
    }
    let real = |shadow: &TableName| {
        let pair = copies.iter().find(|(_, copy)| copy.shadow.name == *shadow);
        pair.map(|(name, _)| name.clone()).expect("changes go to shadows only")
    };
    let expected = tasks.len();
    let (mut done, mut ends) = (CaughtUp::default(), 0);
    let mut written: BTreeSet<(TableName, usize)> = BTreeSet::new();
    let mut reading = Reading::start(tasks, Prepared::of)?;
    while let Some(item) = reading.next().await {
        match item? {
            Item::Batch { netting, .. } => {
                let prepared = netting.prepared().await?;
                for table in &prepared.batch.tables {
                    let name = real(&table.target.table.name);
                    written.extend(table.written().map(|column| (name.clone(), column)));
                }
                match writer.apply(session, &prepared).await? {
                    Outcome::Applied(oddities) => {
                        for (shadow, found) in oddities {
                            *done.missing.entry(real(&shadow)).or_default() += found.missing;
                        }
                    }
                    Outcome::Rejected(rejection) => {
                        let (seq, line) = (rejection.place.tx.seq, rejection.place.line);
                        let reason = format!("segment {seq}, line {line}: {}", rejection.words());
                        return Err(Halt::refused(&real(&rejection.table), reason));
                    }
                }
            }
            Item::Segment(end) => {
                ends += 1;
                done.records += end.counts.values().map(|counts| counts.total()).sum::<u64>();
            }
            Item::Held { table, .. } => {
                return Err(Halt::refused(&table.parse()?, "it is held up by other tables"));
            }
            Item::Lacking { table, difference, .. } => {
                return Err(Halt::refused(&table.parse()?, difference));
            }
        }
    }
    if ends != expected {
        return Err(Halt::Failed(Error::new(Kind::Io, "the reader ended early")));
    }
    for (table, column) in written {
        copies.get_mut(&table).expect("one of them").add_written(column);
    }
    // What shares a key with what came now was there before: a row of the base that the change is older than.
    let is_full = |copy: &&Copy| copy.relation.replica_identity == ReplicaIdentity::Full;
    for copy in copies.values().filter(is_full) {
        writer.duplicates(session.client(), &copy.shadow).await?;
    }
    faults::hit("load.caught_up")?;
    done.missing.retain(|_, missing| *missing > 0);
    Ok(done)
}

/// What of a segment goes where; `None`: nothing.
fn task(
    fetched: &Fetched,
    known: &Known,
    copies: &mut BTreeMap<TableName, Copy>,
) -> Result<Option<Task>, Halt> {
    let manifest = fetched.segment.manifest();
    let Some(file) = &fetched.file else { return Ok(None) };
    let (from, skip) =
        if known.reaches_into(manifest) { passed_over(fetched, file, known)? } else { (0, HashSet::new()) };
    let mut admitted = HashMap::new();
    for (name, copy) in copies.iter_mut().filter(|(name, _)| manifest.tables.contains_key(*name)) {
        let relation = match manifest.relations.get(name) {
            Some(relation) => Arc::new(relation.clone()),
            None => Arc::clone(&copy.relation),
        };
        let key_before = copy.relation.key.clone();
        let source_columns = table::source_columns(&copy.relation);
        copy.meet(&relation);
        // First against the table itself: a difference names that one.
        let refused = |difference| Halt::refused(name, difference);
        table::fit(&relation, &copy.table).map_err(refused)?;
        let source_key = Some(key_before).filter(|key| !table::is_same_key(key, &relation.key));
        let source_key = source_key.or_else(|| copy.shadow.source_key.clone());
        let shadow = Arc::new(Table { source_key, source_columns, ..Table::clone(&copy.shadow) });
        let target =
            Arc::new(table::with_a_key_that_stood(&relation, table::fit_of_shadow(&relation, &shadow)));
        let until = known.until.filter(|until| until.seq == manifest.seq.get()).map(|until| until.index);
        let admission = Admission { target, relation, from, until, skip: skip.clone() };
        admitted.insert(name.to_string(), admission);
    }
    let (segment, file, held) = (fetched.segment.clone(), file.clone(), HashMap::new());
    Ok(Some(Task { segment, file, line_bytes_max: fetched.line_bytes_max, admitted, held }))
}

/// The first transaction that is not known, and those after it that are.
pub(super) fn passed_over(fetched: &Fetched, file: &Path, known: &Known) -> Result<(u64, HashSet<u64>)> {
    let commits = reader::commits(&fetched.segment, file, fetched.line_bytes_max)?;
    let places = (0_u64..).zip(&commits);
    let mut known = places.filter(|(_, commit)| known.has(commit)).map(|(place, _)| place).peekable();
    let mut from = 0;
    while known.next_if_eq(&from).is_some() {
        from += 1;
    }
    Ok((from, known.collect()))
}

/// Whether the change is lost for good somewhere in these segments; in words.
pub(crate) fn lost(segments: &[Verified], table: &TableName, after: Lsn) -> Option<String> {
    let gaps = segments.iter().flat_map(|segment| &segment.manifest().gaps);
    let concerns =
        |tables: &Option<Vec<TableName>>| tables.as_ref().is_none_or(|tables| tables.contains(table));
    let mut lost = gaps.filter(|gap| gap.to > after && concerns(&gap.tables));
    lost.next().map(|gap| {
        format!("changes {} of it are lost ({}); a base that is newer is needed: run `syncdata-archiver snapshot`", plan::GapName::from(gap), gap.reason)
    })
}
