//! One local transaction: some whole segments, the positions, the log and the counts, all or nothing.
//!
//! A record that its table cannot take ends the transaction; it is tried again without that table from that
//! record's transaction on, so that nothing of it is half applied.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Instant;

use syncdata_formats::error::{Error, Kind, Result};
use syncdata_formats::lsn::Lsn;
use syncdata_formats::manifest::{Generated, Manifest, OpCounts, Relation};
use syncdata_formats::name::TableName;
use syncdata_formats::time::Timestamp;
use syncdata_service::config::OnError;
use syncdata_service::faults;

use crate::apply::layout::Ground;
use crate::apply::lookahead::Ahead;
use crate::apply::outcome::{Ended, Stop};
use crate::apply::poison;
use crate::apply::reader::{Item, Reading, SegmentEnd};
use crate::archive::fetch::Fetched;
use crate::batch::TxPlace;
use crate::plan::position::{Checkpoint, Position};
use crate::plan::state::{State, TableState};
use crate::plan::{self, Scope};
use crate::table::{self, SourceColumns, Table};
use crate::target::{CutOff, Entry, Oddities, Outcome, Poison, Positions, SetAside, Target, Violation};

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
            Err(Ended::Stop(table, stop)) => {
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
        positions.described = self.described(&positions.moved);
        positions.nan_as_null = self.nan_as_null(&tables);
        target.commit(&positions).await?;
        Ok(Done::of(&positions))
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
            for fetched in self.group {
                let manifest = fetched.segment.manifest();
                let gap = plan::gap(manifest, name, state);
                // It takes nothing from here on, and may not be said to stand after what it lacks.
                if gap.is_some_and(|gap| gap.from <= manifest.start_lsn) {
                    break;
                }
                if let Some(relation) = manifest.relations.get(name) {
                    self.look_at_newer_columns_of(target, table, state, manifest, relation).await?;
                }
                if gap.is_some() {
                    break;
                }
            }
        }
        Ok(())
    }

    async fn look_at_newer_columns_of<T: Target>(
        &self,
        target: &mut T,
        table: &Table,
        state: &TableState,
        manifest: &Manifest,
        relation: &Relation,
    ) -> Result<(), Ended> {
        let before = TxPlace { seq: manifest.seq.get(), index: 0 };
        let has_it = state.position.is_some_and(|position| position >= manifest.end_lsn);
        if has_it || self.stops.get(&table.name).is_some_and(|stop| stop.before <= before) {
            return Ok(());
        }
        let newer = table::newer(relation, table);
        if newer.is_empty() {
            return Ok(());
        }
        let Some(column) = target.other_values(table, &newer).await? else { return Ok(()) };
        let missing = newer.iter().find(|(place, _)| *place == column);
        let missing = missing.and_then(|(_, missing)| missing.as_deref());
        let difference = table::other_old_values(table, column, missing);
        Err(Ended::unfit(&table.name, before, None, &difference))
    }

    /// What takes nothing until an operator has mended it. A table that lags or waits for its base comes by itself.
    fn held(&self, states: &BTreeMap<TableName, TableState>) -> BTreeMap<TableName, Lsn> {
        let is_held = |state: &TableState| matches!(state.state, State::Quarantined | State::Stale);
        let out = states.iter().filter(|(table, state)| !self.scope.contains(table, state) && is_held(state));
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
        Ended::Stop(table, Box::new(Stop { before, poison, held_with: Vec::new(), in_doubt: false }))
    }

    /// The first transaction of the group.
    fn beginning(&self) -> TxPlace {
        let first = self.group.first().expect("a group has a segment");
        TxPlace { seq: first.segment.manifest().seq.get(), index: 0 }
    }

    fn positions(
        &self,
        states: &BTreeMap<TableName, TableState>,
        moved: Vec<TableName>,
        mut cut_off: Vec<CutOff>,
        findings: &Findings,
        started: Instant,
    ) -> Result<Positions> {
        for cut in &mut cut_off {
            let position = states.get(&cut.table).and_then(|state| state.position);
            let reached = self.reached(&cut.table, cut.seq, findings);
            cut.commit_time = reached.commit_time.filter(|_| position.is_none_or(|own| own < reached.lsn));
        }
        let entries = self.entries(findings, &cut_off);
        let set_aside = self.stops.iter().map(|(table, stop)| {
            let position = states.get(table).and_then(|state| state.position);
            self.set_aside(table, stop, position, findings)
        });
        let set_aside = set_aside.collect::<Result<_>>()?;
        let last = self.group.last().expect("a group has a segment");
        let is_live = *self.scope == Scope::Live;
        let checkpoint = is_live.then(|| Checkpoint::after(&last.segment));
        let manifests = self.group.iter().rev().map(|fetched| fetched.segment.manifest());
        let said = manifests.map(|manifest| &manifest.capture_since).find(|said| !said.is_empty());
        let capture_since = said.filter(|_| is_live).cloned();
        let end = Position { lsn: self.end(), commit_time: self.commit_time() };
        let (columns, nan_as_null) = (Vec::new(), BTreeMap::new());
        Ok(Positions {
            moved,
            end,
            cut_off,
            set_aside,
            checkpoint,
            capture_since,
            columns,
            described: Vec::new(),
            nan_as_null,
            waiting: if is_live { self.waiting(states) } else { BTreeMap::new() },
            entries,
            started,
        })
    }

    /// What the group has of tables that are quarantined already.
    fn waiting(&self, states: &BTreeMap<TableName, TableState>) -> BTreeMap<TableName, u64> {
        let quarantined = states.iter().filter(|(_, state)| state.state == State::Quarantined);
        let waiting = quarantined.filter_map(|(table, state)| {
            let manifests = self.group.iter().map(|fetched| fetched.segment.manifest());
            let ahead = manifests.filter(|manifest| state.position.is_some_and(|own| own < manifest.end_lsn));
            let records = ahead.filter_map(|manifest| Some(manifest.tables.get(table)?.total())).sum::<u64>();
            (records > 0).then(|| (table.clone(), records))
        });
        waiting.collect()
    }

    /// As the last segment that has changes of each says it.
    fn described(&self, moved: &[TableName]) -> Vec<(TableName, Relation)> {
        let described = |name: &TableName| {
            let manifests = self.group.iter().rev().map(|fetched| fetched.segment.manifest());
            let relation = manifests.filter_map(|manifest| manifest.relations.get(name)).next()?;
            Some((name.clone(), relation.clone()))
        };
        moved.iter().filter_map(described).collect()
    }

    /// What the source calls the columns of the tables, also of those that ended in the middle: what they took had these.
    fn columns(
        &self,
        positions: &Positions,
        tables: &BTreeMap<TableName, Arc<Table>>,
    ) -> Vec<(TableName, SourceColumns)> {
        let columns = |(name, table): (&TableName, &Arc<Table>)| {
            let upto = if positions.moved.contains(name) {
                self.end()
            } else {
                let stop = positions.set_aside.iter().find(|stop| stop.poison.table == *name);
                let cut = positions.cut_off.iter().find(|cut| cut.table == *name);
                stop.map(|stop| stop.position.lsn).or_else(|| cut.map(|cut| cut.position))?
            };
            Some((name.clone(), self.new_columns(table, upto)?))
        };
        tables.iter().filter_map(columns).collect()
    }

    /// What the source calls the table's columns now, if that is news: of those that are here under these names. (A
    /// manifest may be younger than the rows of its segment.) What is known for the first time is known of all or none: a
    /// column that is not noted later is held to be newer than the rows.
    fn new_columns(&self, table: &Table, upto: Lsn) -> Option<SourceColumns> {
        let manifests = self.group.iter().rev().map(|fetched| fetched.segment.manifest());
        let manifests = manifests.filter(|manifest| manifest.start_lsn < upto);
        let relation = manifests.filter_map(|manifest| manifest.relations.get(&table.name)).next()?;
        let known = &table.source_columns;
        let mut columns = SourceColumns::new();
        for column in &relation.columns {
            let number = column.attnum?;
            let is_here =
                column.generated == Some(Generated::Virtual) || table.column(&column.name).is_some();
            match known.get(&number) {
                _ if is_here => drop(columns.insert(number, column.name.clone())),
                Some(old) => drop(columns.insert(number, old.clone())),
                None if known.is_empty() => return None,
                None => {}
            }
        }
        (columns != *known).then_some(columns)
    }

    /// Columns that are here, of tables with rows from a source that cannot say them.
    fn nan_as_null(&self, tables: &BTreeMap<TableName, Arc<Table>>) -> BTreeMap<TableName, Vec<String>> {
        let mut found: BTreeMap<TableName, Vec<String>> = BTreeMap::new();
        let manifests = self.group.iter().map(|fetched| fetched.segment.manifest());
        for manifest in manifests.filter(|manifest| plan::is_without_nan(&manifest.source.degraded)) {
            for (name, relation) in &manifest.relations {
                let Some(table) = tables.get(name) else { continue };
                let columns = plan::columns_with_nan(relation).into_iter();
                for column in columns.filter(|column| table.column(column).is_some()) {
                    let known = found.entry(name.clone()).or_default();
                    if !known.iter().any(|known| known == column) {
                        known.push(column.to_owned());
                    }
                }
            }
        }
        found
    }

    fn set_aside(
        &self,
        table: &TableName,
        stop: &Stop,
        position: Option<Lsn>,
        findings: &Findings,
    ) -> Result<SetAside> {
        let seq = stop.before.seq;
        let fetched = self.group.iter().find(|fetched| fetched.segment.manifest().seq.get() == seq);
        let fetched = fetched.expect("a stop lies in the group");
        let manifest = fetched.segment.manifest();
        let reached = self.reached(table, seq, findings);
        // One that was loaded later than the segment keeps its own position.
        let position = match position {
            Some(own) if own >= reached.lsn => Position { lsn: own, commit_time: None },
            _ => reached,
        };
        let record = match (&fetched.file, stop.poison.line) {
            (Some(file), Some(line)) => poison::find(file, manifest, line, fetched.line_bytes_max)?,
            _ => None,
        };
        Ok(SetAside {
            poison: stop.poison.clone(),
            record,
            position,
            reason: stop.reason_and_remedy(),
            held_with: stop.held_with.clone(),
            in_doubt: stop.in_doubt,
        })
    }

    /// Where a table stands that ends in that segment: after its last transaction before.
    fn reached(&self, table: &TableName, seq: u64, findings: &Findings) -> Position {
        let earlier = self.group.iter().map(|fetched| fetched.segment.manifest());
        let mut earlier = earlier.take_while(|manifest| manifest.seq.get() < seq);
        let commit_time =
            earlier.by_ref().filter_map(|manifest| manifest.span).last().map(|span| span.last_ts);
        let end = findings.ends.iter().find(|end| end.seq == seq);
        let stopped = end.and_then(|end| end.stopped.get(&table.to_string())).copied();
        let begins = || {
            let manifests = self.group.iter().map(|fetched| fetched.segment.manifest());
            let mut of_segment = manifests.filter(|manifest| manifest.seq.get() == seq);
            of_segment.next().expect("it lies in the group").start_lsn
        };
        let reached = stopped.unwrap_or_else(|| Position { lsn: begins(), commit_time: None });
        Position { commit_time: reached.commit_time.or(commit_time), ..reached }
    }

    /// One for every table and segment: what it took, and why it took no more.
    fn entries(&self, findings: &Findings, cut_off: &[CutOff]) -> Vec<Entry> {
        let mut entries = Vec::new();
        for fetched in self.group {
            let manifest = fetched.segment.manifest();
            let archive_ref = manifest
                .file
                .as_ref()
                .map_or_else(|| fetched.segment.manifest_path().to_string(), |f| f.file.clone());
            let end = findings.ends.iter().find(|end| end.seq == manifest.seq.get());
            let entry = |table: TableName, counts: OpCounts, error: Option<String>| Entry {
                missing: 0,
                table,
                archive_ref: archive_ref.clone(),
                counts,
                transfer: fetched.transfer,
                error,
            };
            let mut failures = self.failures(manifest.seq.get(), cut_off);
            for (name, counts) in end.iter().flat_map(|end| &end.counts) {
                let table: TableName = name.parse().expect("a name that the reader took from the plan");
                let error = failures.remove(&table);
                entries.push(entry(table, *counts, error));
            }
            let took_nothing = failures.into_iter();
            entries.extend(took_nothing.map(|(table, error)| entry(table, OpCounts::default(), Some(error))));
        }
        for (table, oddities) in &findings.oddities {
            let is_of_table = |entry: &Entry| entry.table == *table;
            let first =
                entries.iter().find(|entry| is_of_table(entry)).map(|first| first.archive_ref.clone());
            // Segments that share a transaction share batches: the last one speaks for all.
            if let (Some(first), Some(last)) = (first, entries.iter_mut().rfind(|entry| is_of_table(entry))) {
                last.missing = oddities.missing;
                let files = match first == last.archive_ref {
                    true => first,
                    false => format!("{first} to {}", last.archive_ref),
                };
                oddities.warn(table, &files);
            }
        }
        entries
    }

    /// Tables that end in that segment, and why.
    fn failures(&self, seq: u64, cut_off: &[CutOff]) -> BTreeMap<TableName, String> {
        let stops = self.stops.iter().filter(|(_, stop)| stop.before.seq == seq);
        let stops = stops.map(|(table, stop)| {
            (table.clone(), format!("Failed to apply changes: {}", stop.reason_and_remedy()))
        });
        let cut_off = cut_off.iter().filter(|cut| cut.seq == seq);
        stops.chain(cut_off.map(|cut| (cut.table.clone(), cut.reason.clone()))).collect()
    }

    fn commit_time(&self) -> Option<Timestamp> {
        self.group.iter().filter_map(|fetched| fetched.segment.manifest().span).map(|span| span.last_ts).max()
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

impl Oddities {
    fn warn(&self, table: &TableName, archive_ref: &str) {
        if self.missing > 0 {
            tracing::warn!(%table, file = archive_ref, rows = self.missing, "rows to update or delete were not here");
        }
        if self.replaced > 0 {
            tracing::warn!(%table, file = archive_ref, rows = self.replaced, "rows were in the way of a new key");
        }
    }
}
