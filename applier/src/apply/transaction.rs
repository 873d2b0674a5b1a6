//! One local transaction: some whole segments, the positions, the log and the counts, all or nothing.
//!
//! A record that its table cannot take ends the transaction; it is tried again without that table from that
//! record's transaction on, so that nothing of it is half applied.

mod positions;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Instant;

use syncdata_formats::error::{Error, Kind, Result};
use syncdata_formats::lsn::Lsn;
use syncdata_formats::manifest::{Manifest, OpCounts, Relation};
use syncdata_formats::name::TableName;
use syncdata_service::config::OnError;
use syncdata_service::faults;

use crate::apply::layout::Ground;
use crate::apply::lookahead::Ahead;
use crate::apply::outcome::{Ended, Stop};
use crate::apply::reader::{Item, Reading, SegmentEnd};
use crate::archive::fetch::Fetched;
use crate::batch::TxPlace;
use crate::plan::position::Checkpoint;
use crate::plan::state::TableState;
use crate::plan::{self, Scope};
use crate::table::{self, SourceColumns, Table};
use crate::target::{CutOff, Oddities, Outcome, Poison, Positions, SetAside, Target, Violation};

/// What all transactions of a pass have in common.
#[derive(Clone, Debug)]
pub struct Rules {
    pub apply_batch_changes: u64,
    pub on_error: OnError,
    pub metric_freq: std::time::Duration,
}

/// A row is referred to, or refers to one that is not there.
const TIED: &str = "23503";

/// What a transaction has done.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Done {
    pub records: u64,
    /// Tables that take nothing any more, and why.
    pub set_aside: BTreeMap<TableName, String>,
    /// What each table took of each segment, and how many of the rows were not here.
    pub taken: Vec<(TableName, OpCounts, u64)>,
    /// Those of them that foreign keys of the copy keep from it.
    pub tied: Vec<TableName>,
}

impl Done {
    fn of(positions: &Positions) -> Done {
        let records = positions.entries.iter().map(|entry| entry.counts.total()).sum();
        let quarantined = positions.set_aside.iter();
        let quarantined = quarantined.map(|aside| (aside.poison.table.clone(), aside.reason.clone()));
        let stale = positions.cut_off.iter().map(|cut| (cut.table.clone(), cut.reason.clone()));
        let is_tied = |set_aside: &&SetAside| set_aside.poison.sqlstate.as_deref() == Some(TIED);
        let tied = positions.set_aside.iter().filter(is_tied).map(|set_aside| set_aside.poison.table.clone());
        let taken = positions.entries.iter().map(|entry| (entry.table.clone(), entry.counts, entry.missing));
        Done {
            records,
            set_aside: quarantined.chain(stale).collect(),
            taken: taken.collect(),
            tied: tied.collect(),
        }
    }
}

/// Everything that a try has found out by reading and writing.
#[derive(Default)]
struct Findings {
    ends: Vec<SegmentEnd>,
    oddities: BTreeMap<TableName, Oddities>,
}

/// Applies the group and commits. `checkpoint` is where the copy stands; in [`Scope::Live`] it moves to
/// the group's end. What is ahead of it begins to be read meanwhile.
pub async fn apply<T: Target>(
    target: &mut T,
    rules: &Rules,
    checkpoint: &Checkpoint,
    scope: &Scope,
    group: &[Fetched],
    mut ahead: Option<&mut Ahead<T::Prepared>>,
) -> Result<Done> {
    let mut transaction = Transaction { checkpoint, scope, group, stops: BTreeMap::new() };
    loop {
        match transaction.attempt(target, ahead.as_deref_mut()).await {
            Ok(done) => return Ok(done),
            Err(Ended::Failed(error)) => return Err(error),
            Err(Ended::Stop(table, mut stop)) => {
                if let Some(remedy) = T::remedy(&table).filter(|_| stop.is_statement) {
                    stop.poison.remedy = Some(format!("run: {remedy}"));
                }
                if rules.on_error == OnError::Stop {
                    if stop.in_doubt {
                        target.disown(&table).await?;
                    }
                    return Err(stop.into_error());
                }
                tracing::error!(
                    table = %table, segment = stop.before.seq, line = stop.poison.line,
                    sqlstate = stop.poison.sqlstate.as_deref(),
                    "Failed to apply changes: the table is quarantined, the others go on"
                );
                transaction.stops.insert(table, *stop);
            }
        }
    }
}

struct Transaction<'a> {
    checkpoint: &'a Checkpoint,
    scope: &'a Scope,
    group: &'a [Fetched],
    stops: BTreeMap<TableName, Stop>,
}

impl Transaction<'_> {
    async fn attempt<T: Target>(
        &self,
        target: &mut T,
        ahead: Option<&mut Ahead<T::Prepared>>,
    ) -> Result<Done, Ended> {
        let done = match self.work(target, ahead).await {
            Ok(done) => done,
            Err(ended) => {
                target.roll_back().await;
                return Err(ended);
            }
        };
        faults::hit("apply.after_commit")?;
        Ok(done)
    }

    async fn work<T: Target>(
        &self,
        target: &mut T,
        ahead: Option<&mut Ahead<T::Prepared>>,
    ) -> Result<Done, Ended> {
        let started = Instant::now();
        target.begin().await?;
        faults::hit("apply.begun")?;
        target.claim(self.checkpoint).await?;
        let states = target.states().await?;
        self.make_tables(target, &states).await?;
        let tables = self.local_tables(target, &states).await?;
        let written: Vec<&TableName> = tables.keys().filter(|table| self.may_be_blamed(table)).collect();
        target.look_again(&written).await?;
        let in_scope = states.iter().filter(|(table, state)| self.scope.contains(table, state));
        let states_in_scope = in_scope.map(|(table, state)| (table, state.clone())).collect();
        self.look_at_newer_columns(target, &states, &tables).await?;
        let held = self.held(&states);
        let ground = Ground { states: states_in_scope, tables: &tables, stops: &self.stops, held: &held };
        let layout = ground.lay_out(self.group)?;
        let moving = self.moving(ground.states, &layout.cut_off);
        let (reading, ahead) = match ahead {
            Some(ahead) => (ahead.reading(layout.tasks)?, Some(ahead)),
            None => (Reading::start(layout.tasks, T::prepare)?, None),
        };
        let later = Ground { states: moving, tables: &tables, stops: &BTreeMap::new(), held: &held };
        let findings = self.write_rows(target, reading, ahead.map(|ahead| (ahead, &later))).await?;
        self.check(target, &tables).await?;
        faults::hit("apply.before_checkpoint")?;

        let moved: Vec<TableName> = later.states.keys().copied().cloned().collect();
        let mut positions = self.positions(&states, moved, layout.cut_off, &findings, started)?;
        positions.columns = self.columns(&positions, &tables);
        positions.described = self.described(&positions, &states);
        positions.nan_as_null = self.nan_as_null(&tables);
        target.commit(&positions).await?;
        Ok(Done::of(&positions))
    }

    /// A table begins as the first of the segments describes it that it takes something of, and becomes what that says.
    async fn make_tables<T: Target>(
        &self,
        target: &mut T,
        states: &BTreeMap<TableName, TableState>,
    ) -> Result<(), Ended> {
        let mut described = BTreeMap::new();
        let mut first = BTreeMap::new();
        for manifest in self.group.iter().map(|fetched| fetched.segment.manifest()) {
            let before = TxPlace { seq: manifest.seq.get(), index: 0 };
            for (name, relation) in &manifest.relations {
                let is_stopped = self.stops.get(name).is_some_and(|stop| stop.before <= before);
                let state = states.get(name).filter(|state| self.scope.contains(name, state));
                let takes = |state: &TableState| {
                    let has_it = state.position.is_some_and(|position| position >= manifest.end_lsn);
                    let gap = plan::gap(manifest, name, state);
                    !has_it && gap.is_none_or(|gap| gap.from > manifest.start_lsn)
                };
                if state.is_some_and(takes) && !is_stopped && !described.contains_key(name) {
                    described.insert(name, relation);
                    first.insert(name, before);
                }
            }
        }
        match target.make(&described).await?.into_iter().next() {
            Some((name, difference)) => Err(Ended::refused(&name, first[&name], &difference)),
            None => Ok(()),
        }
    }

    /// A column that is new at the source, and is here already, has in every row what rows as old have there: all that
    /// are here are older than it. Whoever made it here otherwise, or had such a column, has other rows.
    async fn look_at_newer_columns<T: Target>(
        &self,
        target: &mut T,
        states: &BTreeMap<TableName, TableState>,
        tables: &BTreeMap<TableName, Arc<Table>>,
    ) -> Result<(), Ended> {
        for (name, table) in tables {
            let Some(state) = states.get(name) else { continue };
            // Where nothing is noted yet, the rows that are here have what the first stretch of them says, but for columns that
            // came here later than the rows.
            let mut known = table.source_columns.clone();
            let newer_in = |relation: &Relation, known: &SourceColumns| match &state.vouched {
                Some(vouched) if known.is_empty() => table::newer_than_vouched(relation, vouched, table),
                _ => table::newer(relation, known, table),
            };
            for fetched in self.group {
                let manifest = fetched.segment.manifest();
                let gap = plan::gap(manifest, name, state);
                // It takes nothing from here on, and may not be said to stand after what it lacks.
                if gap.is_some_and(|gap| gap.from <= manifest.start_lsn) {
                    break;
                }
                let marked = manifest.proof.as_ref().and_then(|mark| mark.tables.get(name));
                let marked = marked.map(|marked| newer_in(&marked.relation, &known));
                // A mark that says nothing of older rows may come from a catalog that has forgotten.
                let mut newer: Vec<_> =
                    marked.into_iter().flatten().filter(|(_, missing)| missing.is_some()).collect();
                if let Some(relation) = manifest.relations.get(name) {
                    newer.extend(newer_in(relation, &known));
                    if known.is_empty() {
                        known = table::source_columns(relation);
                    }
                }
                if !newer.is_empty() && self.takes(table, state, manifest) {
                    self.look_at_newer_columns_of(target, table, manifest, &newer).await?;
                }
                if gap.is_some() {
                    break;
                }
            }
        }
        Ok(())
    }

    /// The table has not got it yet, and no earlier try has found that it cannot take it.
    fn takes(&self, table: &Table, state: &TableState, manifest: &Manifest) -> bool {
        let before = TxPlace { seq: manifest.seq.get(), index: 0 };
        let has_it = state.position.is_some_and(|position| position >= manifest.end_lsn);
        !has_it && self.stops.get(&table.name).is_none_or(|stop| stop.before > before)
    }

    async fn look_at_newer_columns_of<T: Target>(
        &self,
        target: &mut T,
        table: &Table,
        manifest: &Manifest,
        newer: &[(usize, Option<String>)],
    ) -> Result<(), Ended> {
        let Some(column) = target.other_values(table, newer).await? else { return Ok(()) };
        let missing = newer.iter().find(|(place, _)| *place == column);
        let missing = missing.and_then(|(_, missing)| missing.as_deref());
        let mut difference = table::other_old_values(table, column, missing);
        difference.remedy = target.as_ours(difference.remedy).await?;
        let before = TxPlace { seq: manifest.seq.get(), index: 0 };
        Err(Ended::unfit(&table.name, before, None, &difference))
    }

    /// What takes nothing until an operator has mended it.
    fn held(&self, states: &BTreeMap<TableName, TableState>) -> BTreeMap<TableName, Lsn> {
        let out = states.iter().filter(|(table, state)| self.scope.holds(table, state));
        out.filter_map(|(table, state)| Some((table.clone(), state.position?))).collect()
    }

    async fn local_tables<T: Target>(
        &self,
        target: &mut T,
        states: &BTreeMap<TableName, TableState>,
    ) -> Result<BTreeMap<TableName, Arc<Table>>> {
        let in_scope = states.iter().filter(|(table, state)| self.scope.contains(table, state));
        let names: Vec<TableName> = in_scope.map(|(table, _)| table.clone()).collect();
        target.tables(&names).await
    }

    /// The tables that move to the group's end, as they will be then.
    fn moving<'s>(
        &self,
        mut states: BTreeMap<&'s TableName, TableState>,
        cut_off: &[CutOff],
    ) -> BTreeMap<&'s TableName, TableState> {
        let end = self.end();
        states.retain(|table, state| {
            state.position = state.position.max(Some(end));
            !self.stops.contains_key(*table) && cut_off.iter().all(|cut| cut.table != **table)
        });
        states
    }

    fn end(&self) -> Lsn {
        self.group.last().expect("a group has a segment").segment.manifest().end_lsn
    }

    async fn write_rows<T: Target>(
        &self,
        target: &mut T,
        mut reading: Reading<T::Prepared>,
        mut ahead: Option<(&mut Ahead<T::Prepared>, &Ground<'_>)>,
    ) -> Result<Findings, Ended> {
        let mut findings = Findings::default();
        let expected = self.group.iter().filter(|fetched| fetched.file.is_some()).count();
        while let Some(item) = reading.next().await {
            match item? {
                Item::Batch { netting, is_last } => {
                    // A try that has stops before it may meet another one: what is read ahead would be read in vain.
                    let is_first_try = self.stops.is_empty();
                    if is_last
                        && is_first_try
                        && let Some((ahead, later)) = ahead.take()
                    {
                        ahead.begin(later)?;
                    }
                    let prepared = netting.prepared().await?;
                    match target.write(&prepared).await? {
                        Outcome::Applied(oddities) => {
                            findings.add(oddities);
                            faults::hit("apply.half_batch")?;
                        }
                        Outcome::Rejected(rejection) => return Err(Ended::rejected(rejection)),
                    }
                }
                Item::Segment(end) => findings.ends.push(end),
                Item::Held { table, with, place } => {
                    let table: TableName = table.parse()?;
                    let with = with.iter().map(|name| name.parse()).collect::<Result<Vec<TableName>>>()?;
                    return Err(Ended::held(&table, with, place));
                }
                Item::Lacking { table, place, difference } => {
                    let table: TableName = table.parse()?;
                    return Err(Ended::unfit(&table, place.tx, Some(place.line), &difference));
                }
            }
        }
        // The reader has died without a word: nothing of this may be committed.
        if findings.ends.len() != expected {
            return Err(Ended::Failed(Error::new(Kind::Io, "the reader ended early")));
        }
        Ok(findings)
    }

    async fn check<T: Target>(
        &self,
        target: &mut T,
        tables: &BTreeMap<TableName, Arc<Table>>,
    ) -> Result<(), Ended> {
        let written: Vec<&Table> =
            tables.values().map(|table| &**table).filter(|table| self.may_be_blamed(&table.name)).collect();
        match target.check(&written).await? {
            Some(violation) => Err(self.stop_whole(violation)),
            None => Ok(()),
        }
    }

    /// It is written, and was not told to take nothing of this group: to be told twice would be for ever.
    fn may_be_blamed(&self, table: &TableName) -> bool {
        self.is_written(table) && self.stops.get(table).is_none_or(|stop| stop.before != self.beginning())
    }

    fn is_written(&self, table: &TableName) -> bool {
        self.group.iter().any(|fetched| fetched.segment.manifest().tables.contains_key(table))
    }

    /// Nobody knows which record it was: the table takes nothing of this group.
    fn stop_whole(&self, violation: Violation) -> Ended {
        let Violation { table, sqlstate, reason, remedy, server_words } = violation;
        let before = self.beginning();
        let (seq, line) = (before.seq, None);
        let poison = Poison { table: table.clone(), seq, line, sqlstate, reason, remedy, server_words };
        let stop = Stop { before, poison, held_with: Vec::new(), in_doubt: false, is_statement: false };
        Ended::Stop(table, Box::new(stop))
    }

    /// The first transaction of the group.
    fn beginning(&self) -> TxPlace {
        let first = self.group.first().expect("a group has a segment");
        TxPlace { seq: first.segment.manifest().seq.get(), index: 0 }
    }
}

impl Findings {
    fn add(&mut self, oddities: BTreeMap<TableName, Oddities>) {
        for (table, found) in oddities {
            let known = self.oddities.entry(table).or_default();
            known.missing += found.missing;
            known.replaced += found.replaced;
        }
    }
}
