//! The DuckDB file as the target of a pass: rows, positions, log and counts in one of its transactions.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use syncdata_formats::error::{Error, Kind, Result};
use syncdata_formats::manifest::Relation;
use syncdata_formats::name::TableName;
use syncdata_formats::time::Timestamp;
use syncdata_service::faults;

use super::cursor::{self, Known, json};
use super::database::Database;
use super::file::File;
use super::work::Prepared;
use super::{base, follow, notes, tables, write};
use crate::batch::Batch;
use crate::plan::position::{Checkpoint, Position};
use crate::plan::state::{Event, TableState};
use crate::table::{Difference, Table};
use crate::target::{Outcome, Positions, SetAside, Target, Violation};

/// The transaction in which a group of segments is applied.
#[derive(Debug)]
pub struct Duckdb {
    pub(super) file: File,
    metric_freq: Duration,
    known: Arc<BTreeMap<TableName, Known>>,
}

impl Duckdb {
    pub fn new(file: File, metric_freq: Duration) -> Duckdb {
        Duckdb { file, metric_freq, known: Arc::default() }
    }

    /// In a transaction: the table is made anew, without rows, for those of a base copy. `Err`: it cannot be.
    pub async fn begin_base(
        &mut self,
        table: TableName,
        relation: Relation,
    ) -> Result<Result<(), Difference>> {
        self.file.run(move |database| base::begin(database, &table, &relation)).await
    }

    /// In a transaction: whole lines of `COPY … TO STDOUT` with these columns; how many rows that were. `Err`: a value would
    /// not stay the same.
    pub async fn append_base(
        &mut self,
        table: TableName,
        columns: Vec<String>,
        lines: Vec<u8>,
    ) -> Result<Result<u64, Difference>> {
        self.file.run(move |database| base::append(database, &table, &columns, &lines)).await
    }

    /// In a transaction: there are no rows of it, and its first change makes it.
    pub async fn forget_base(&mut self, table: TableName) -> Result<()> {
        self.file.run(move |database| base::forget(database, &table)).await
    }

    /// In a transaction: the table as its base has made it.
    pub async fn loaded_base(&mut self, table: TableName) -> Result<BTreeMap<TableName, Arc<Table>>> {
        self.known = Arc::new(self.file.run(cursor::tables).await?);
        self.tables(&[table]).await
    }

    /// In a transaction: the base and what came after it up to there is in the table. It goes on from there with the commit. A
    /// wish that has come since its base was chosen (`asked` is known) stays.
    pub async fn end_base(
        &mut self,
        table: TableName,
        position: Position,
        base: Position,
        asked: i64,
    ) -> Result<()> {
        self.file.run(move |database| base::end(database, &table, position, base, asked)).await
    }

    /// In a transaction: ends it, with nothing but what was asked for.
    pub async fn commit_base(&mut self) -> Result<()> {
        self.file.run(Database::commit).await
    }
}

impl Target for Duckdb {
    type Prepared = Prepared;

    const IS_OF_ONE_SHAPE: bool = true;

    fn remedy(table: &TableName) -> Option<String> {
        Some(tables::resync(table))
    }

    fn prepare(batch: Batch) -> Prepared {
        Prepared::of(batch)
    }

    async fn begin(&mut self) -> Result<()> {
        self.file.run(Database::begin).await
    }

    async fn claim(&mut self, checkpoint: &Checkpoint) -> Result<()> {
        let found = self.file.run(cursor::checkpoint).await?;
        match found == *checkpoint {
            true => Ok(()),
            // The file is ours alone: only a caller of our own has moved it.
            false => Err(Error::new(
                Kind::Locked,
                format!(
                    "the checkpoint moved from segment {} to {} meanwhile",
                    checkpoint.seq(),
                    found.seq()
                ),
            )),
        }
    }

    async fn states(&mut self) -> Result<BTreeMap<TableName, TableState>> {
        self.known = Arc::new(self.file.run(cursor::tables).await?);
        Ok(self.known.iter().map(|(name, known)| (name.clone(), known.state.clone())).collect())
    }

    async fn make(
        &mut self,
        described: &BTreeMap<&TableName, &Relation>,
    ) -> Result<BTreeMap<TableName, Difference>> {
        let is_other = |name: &TableName, relation: &Relation| match self.known.get(name) {
            Some(known) => {
                known.relation.as_ref().is_none_or(|made| made.fingerprint != relation.fingerprint)
            }
            None => false,
        };
        let described = described.iter().filter(|(name, relation)| is_other(name, relation));
        let described: BTreeMap<TableName, Relation> =
            described.map(|(name, relation)| ((*name).clone(), (*relation).clone())).collect();
        if described.is_empty() {
            return Ok(BTreeMap::new());
        }
        let known = Arc::clone(&self.known);
        let make = move |database: &Database| make(database, &known, &described);
        let (refused, known) = self.file.run(make).await?;
        if let Some(known) = known {
            self.known = Arc::new(known);
        }
        Ok(refused)
    }

    async fn tables(&mut self, names: &[TableName]) -> Result<BTreeMap<TableName, Arc<Table>>> {
        let (known, names) = (Arc::clone(&self.known), names.to_vec());
        let loaded = self.file.run(move |database| tables::load(database, &known, &names)).await?;
        Ok(loaded.into_iter().map(|(name, table)| (name, Arc::new(table))).collect())
    }

    async fn look_again(&mut self, tables: &[&TableName]) -> Result<()> {
        let is_disowned =
            |table: &&&TableName| self.known.get(**table).is_some_and(|known| known.is_disowned);
        match tables.iter().find(is_disowned) {
            Some(table) => {
                let what = format!("rows of {table} may be others than the source has");
                let hint = format!(
                    "only a new base makes them right: syncdata-applier resync {}",
                    table.shell_word()
                );
                Err(Error::new(Kind::Rejected, what).hint(hint))
            }
            None => Ok(()),
        }
    }

    async fn other_values(
        &mut self,
        table: &Table,
        columns: &[(usize, Option<String>)],
    ) -> Result<Option<usize>> {
        let (table, columns) = (table.clone(), columns.to_vec());
        self.file.run(move |database| tables::other_values(database, &table, &columns)).await
    }

    async fn disown(&mut self, table: &TableName) -> Result<()> {
        let table = table.clone();
        self.file.run(move |database| database.in_transaction(|| disown(database, &table))).await
    }

    async fn write(&mut self, batch: &Prepared) -> Result<Outcome> {
        let work = batch.work();
        self.file.run(move |database| write::write(database, &work)).await
    }

    async fn check(&mut self, _: &[&Table]) -> Result<Option<Violation>> {
        Ok(None)
    }

    async fn commit(&mut self, positions: &Positions) -> Result<()> {
        let notes = Notes::of(positions, &self.known);
        let metric_freq = self.metric_freq;
        self.file.run(move |database| notes.write(database, metric_freq)).await?;
        faults::hit("apply.before_commit")?;
        self.file.run(Database::commit).await
    }

    async fn roll_back(&mut self) {
        let roll_back = |database: &Database| {
            database.roll_back();
            Ok(())
        };
        // A thread that has died has rolled back with its connection.
        let _ = self.file.run(roll_back).await;
    }
}

/// Makes those that were never made, and brings the others to how they are described. What is kept of the tables then, where
/// that is something else; and which cannot be.
#[allow(clippy::type_complexity, reason = "two answers of one job")]
fn make(
    database: &Database,
    known: &BTreeMap<TableName, Known>,
    described: &BTreeMap<TableName, Relation>,
) -> Result<(BTreeMap<TableName, Difference>, Option<BTreeMap<TableName, Known>>)> {
    let mut refused = BTreeMap::new();
    let mut made = Vec::new();
    for (name, relation) in described {
        let of_table = &known[name];
        let others = known.iter().filter(|(_, other)| other.relation.is_some()).map(|(other, _)| other);
        let refusal = tables::refused(database, name, relation, others.chain(&made));
        let difference = match (&of_table.relation, refusal) {
            (_, Some(difference)) => Some(difference),
            (None, None) => tables::taken(database, name)?,
            (Some(before), None) => follow::follow(database, name, of_table, before, relation)?.err(),
        };
        match difference {
            Some(difference) => drop(refused.insert(name.clone(), difference)),
            None => {
                if of_table.relation.is_none() {
                    tables::make(database, name, relation)?;
                    tracing::info!(table = %name, "table made as the archive describes it");
                }
                made.push(name.clone());
            }
        }
    }
    let known = if made.is_empty() { None } else { Some(cursor::tables(database)?) };
    Ok((refused, known))
}

/// Without rows whatever was done is right.
fn disown(database: &Database, table: &TableName) -> Result<()> {
    if tables::has_rows(database, table)? {
        cursor::note(database, table, "is_disowned = true", &[])?;
    }
    Ok(())
}

/// What a commit notes, on its way to the file's thread.
struct Notes {
    moved: Vec<TableName>,
    end: Position,
    cut_off: Vec<crate::target::CutOff>,
    set_aside: Vec<SetAside>,
    checkpoint: Option<Checkpoint>,
    capture_since: Option<crate::plan::offer::CaptureSince>,
    captured: Option<Vec<TableName>>,
    columns: Vec<(TableName, crate::table::SourceColumns)>,
    /// Keys of the source that are others than those that are known.
    keys: BTreeMap<TableName, Vec<String>>,
    nan_as_null: BTreeMap<TableName, Vec<String>>,
    waiting: BTreeMap<TableName, u64>,
    entries: Vec<crate::target::Entry>,
    started: std::time::Instant,
}

impl Notes {
    fn of(positions: &Positions, known: &BTreeMap<TableName, Known>) -> Notes {
        let is_known = |table: &TableName, key: &Vec<String>| {
            known.get(table).and_then(|known| known.state.source_key.as_ref()) == Some(key)
        };
        // The last description of each counts.
        let keys: BTreeMap<TableName, Vec<String>> = positions
            .described
            .iter()
            .filter(|(table, _)| positions.moved.contains(table))
            .map(|(table, relation)| (table.clone(), relation.key.clone()))
            .collect();
        Notes {
            moved: positions.moved.clone(),
            end: positions.end,
            cut_off: positions.cut_off.clone(),
            set_aside: positions.set_aside.clone(),
            checkpoint: positions.checkpoint.clone(),
            capture_since: positions.capture_since.clone(),
            captured: positions.captured.clone(),
            columns: positions.columns.clone(),
            keys: keys.into_iter().filter(|(table, key)| !is_known(table, key)).collect(),
            nan_as_null: positions.nan_as_null.clone(),
            waiting: positions.waiting.clone(),
            entries: positions.entries.clone(),
            started: positions.started,
        }
    }

    fn write(&self, database: &Database, metric_freq: Duration) -> Result<()> {
        cursor::advance(database, &self.moved, self.end)?;
        for (table, columns) in &self.columns {
            cursor::note_columns(database, table, columns)?;
        }
        for (table, key) in &self.keys {
            cursor::note(database, table, "source_key = ?", &[&json(key)])?;
        }
        self.write_stops(database)?;
        for (table, records) in &self.waiting {
            let set = "waiting = CASE WHEN state = 'quarantined' THEN waiting + ? END";
            cursor::note(database, table, set, &[&i64::try_from(*records).unwrap_or(i64::MAX)])?;
        }
        let changed = self.entries.iter().filter(|entry| entry.counts.total() > 0);
        let changed: BTreeSet<&TableName> = changed.map(|entry| &entry.table).collect();
        for table in changed {
            cursor::note(database, table, "changed_lsn = position_lsn, changed_at = position_time", &[])?;
        }
        notes::log(database, &self.entries, self.started.elapsed())?;
        notes::count(database, &self.entries, metric_freq, Timestamp::now())?;
        if let Some(checkpoint) = &self.checkpoint {
            cursor::move_checkpoint(database, checkpoint, self.end)?;
        }
        for (table, columns) in &self.nan_as_null {
            if cursor::note_nan(database, table, columns)? {
                let columns = columns.join(", ");
                tracing::warn!(%table, columns, "NaN and infinities arrive as NULL: the source's wal2json cannot say them");
            }
        }
        if let Some(captured) = &self.captured {
            cursor::note_captured(database, captured)?;
        }
        if let Some(since) = &self.capture_since {
            cursor::note_capture_since(database, since)?;
        }
        Ok(())
    }

    /// Tables that take no more than this.
    fn write_stops(&self, database: &Database) -> Result<()> {
        for cut in &self.cut_off {
            let position = Some(Position { lsn: cut.position, commit_time: cut.commit_time });
            cursor::change(database, &cut.table, Event::CutOff, position, Some(&cut.reason))?;
            cursor::note_gap(database, &cut.table, cut.gap)?;
            tracing::warn!(table = %cut.table, lsn = %cut.position, "table is stale: changes of it are lost");
        }
        for SetAside { poison, record, position, reason, held_with, in_doubt } in &self.set_aside {
            notes::keep(database, poison, record.as_ref())?;
            cursor::change(database, &poison.table, Event::SetAside, Some(*position), Some(reason))?;
            if !held_with.is_empty() {
                let held_with: Vec<String> = held_with.iter().map(ToString::to_string).collect();
                cursor::note(database, &poison.table, "held_with = ?", &[&json(&held_with)])?;
            }
            if *in_doubt {
                disown(database, &poison.table)?;
            }
        }
        Ok(())
    }
}
