//! One local transaction: some whole segments, the positions, the log and the counts, all or nothing.
//!
//! A record that its table cannot take ends the transaction; it is tried again without that table from that
//! record's transaction on, so that nothing of it is half applied.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Instant;

use syncdata_formats::error::{Error, Kind, Result};
use syncdata_formats::lsn::Lsn;
use syncdata_formats::manifest::OpCounts;
use syncdata_formats::name::TableName;
use syncdata_formats::time::Timestamp;
use syncdata_service::config::OnError;
use syncdata_service::faults;
use syncdata_service::postgres::{db_error, failure};

use crate::apply::layout::{CutOff, Ground};
use crate::apply::lookahead::Ahead;
use crate::apply::outcome::{Ended, Stop};
use crate::apply::reader::{Item, Reading, SegmentEnd};
use crate::archive::fetch::Fetched;
use crate::batch::TxPlace;
use crate::plan::Scope;
use crate::plan::state::{Event, TableState};
use crate::table::Table;
use crate::target::postgres::apply::{Oddities, Outcome, Writer};
use crate::target::postgres::cursor::{self, Checkpoint, Position};
use crate::target::postgres::ledger::{self, Entry};
use crate::target::postgres::local::Local;
use crate::target::postgres::quarantine::{self, Poison};
use crate::target::postgres::schema;

/// What all transactions of a pass have in common.
#[derive(Clone, Debug)]
pub struct Rules {
    pub apply_batch_changes: u64,
    pub on_error: OnError,
    pub metric_freq: std::time::Duration,
}

/// What a transaction has done.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Done {
    pub records: u64,
    pub set_aside: Vec<TableName>,
}

/// Everything that a try has found out by reading and writing.
#[derive(Default)]
struct Findings {
    ends: Vec<SegmentEnd>,
    oddities: BTreeMap<TableName, Oddities>,
}

/// Applies the group and commits. `checkpoint` is where the copy stands; in [`Scope::Live`] it moves behind
/// the group. What is ahead of it begins to be read meanwhile.
pub(crate) async fn apply(
    local: &Local,
    writer: &mut Writer,
    rules: &Rules,
    checkpoint: &Checkpoint,
    scope: &Scope,
    group: &[Fetched],
    mut ahead: Option<&mut Ahead>,
) -> Result<Done> {
    let mut transaction = Transaction { local, rules, checkpoint, scope, group, stops: BTreeMap::new() };
    loop {
        match transaction.attempt(writer, ahead.as_deref_mut()).await {
            Ok(done) => return Ok(done),
            Err(Ended::Failed(error)) => return Err(error),
            Err(Ended::Stop(table, stop)) => {
                if rules.on_error == OnError::Stop {
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
    local: &'a Local,
    rules: &'a Rules,
    checkpoint: &'a Checkpoint,
    scope: &'a Scope,
    group: &'a [Fetched],
    stops: BTreeMap<TableName, Stop>,
}

impl Transaction<'_> {
    async fn attempt(&self, writer: &mut Writer, ahead: Option<&mut Ahead>) -> Result<Done, Ended> {
        let done = self.local.in_transaction(self.work(writer, ahead)).await?;
        faults::hit("apply.after_commit")?;
        Ok(done)
    }

    /// All of it, up to the commit.
    async fn work(&self, writer: &mut Writer, ahead: Option<&mut Ahead>) -> Result<Done, Ended> {
        let started = Instant::now();
        let client = self.local.session.client();
        writer.begin(client).await?;
        faults::hit("apply.begun")?;
        self.checkpoint.claim(client, &self.local.meta).await?;
        let states = cursor::table_states(client, &self.local.meta).await?;
        let tables = self.local_tables(writer, &states).await?;
        let in_scope = states.iter().filter(|(table, state)| self.scope.contains(table, state));
        let states_in_scope = in_scope.map(|(table, state)| (table, state.clone())).collect();
        let ground = Ground { states: states_in_scope, tables: &tables, stops: &self.stops };
        let layout = ground.lay_out(self.group)?;
        let moving = self.moving(ground.states, &layout.cut_off);
        let (reading, ahead) = match ahead {
            Some(ahead) => (ahead.reading(layout.tasks)?, Some(ahead)),
            None => (Reading::start(layout.tasks)?, None),
        };
        let later = Ground { states: moving, tables: &tables, stops: &BTreeMap::new() };
        let findings = self.write_rows(writer, reading, ahead.map(|ahead| (ahead, &later))).await?;
        self.check_constraints(writer, &tables).await?;
        faults::hit("apply.before_checkpoint")?;
        let done = self.note(&states, &later.states, &layout.cut_off, &findings, started).await?;
        faults::hit("apply.before_commit")?;
        Ok(done)
    }

    async fn local_tables(
        &self,
        writer: &mut Writer,
        states: &BTreeMap<TableName, TableState>,
    ) -> Result<BTreeMap<TableName, Arc<Table>>> {
        let in_scope = states.iter().filter(|(table, state)| self.scope.contains(table, state));
        let names: Vec<TableName> = in_scope.map(|(table, _)| table.clone()).collect();
        let loaded = schema::load(self.local.session.client(), &names).await?;
        writer.meet(&loaded);
        Ok(loaded.into_iter().map(|(name, table)| (name, Arc::new(table))).collect())
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

    async fn write_rows(
        &self,
        writer: &mut Writer,
        mut reading: Reading,
        mut ahead: Option<(&mut Ahead, &Ground<'_>)>,
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
                    match writer.apply(&self.local.session, &prepared).await? {
                        Outcome::Applied(oddities) => {
                            findings.add(oddities);
                            faults::hit("apply.half_batch")?;
                        }
                        Outcome::Rejected(rejection) => return Err(Ended::rejected(rejection)),
                    }
                }
                Item::Segment(end) => findings.ends.push(end),
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

    /// What the server checks at the commit, while it can still be said which table it is.
    async fn check_constraints(
        &self,
        writer: &Writer,
        tables: &BTreeMap<TableName, Arc<Table>>,
    ) -> Result<(), Ended> {
        let client = self.local.session.client();
        for table in tables.values() {
            if self.may_be_blamed(&table.name) && writer.duplicates(client, table).await? {
                let reason = "two rows have the same value in a deferrable unique constraint";
                return Err(self.stop_whole(&table.name, Some("23505"), reason));
            }
        }
        if self.local.replica {
            return Ok(());
        }
        let immediate = client.batch_execute("SET CONSTRAINTS ALL IMMEDIATE").await;
        let Err(error) = immediate.map_err(|error| failure("checking deferred constraints", error)) else {
            return Ok(());
        };
        match self.blamed(&error, tables) {
            Some(table) => {
                Err(self.stop_whole(&table, db_error(&error).map(|e| e.code().code()), &error.one_line()))
            }
            None => Err(Ended::from(error)),
        }
    }

    /// The table whose constraint it is. Where that has taken nothing, one that it refers to has lost a row.
    fn blamed(&self, error: &Error, tables: &BTreeMap<TableName, Arc<Table>>) -> Option<TableName> {
        let violated = violated_table(error)?;
        if tables.contains_key(&violated) && self.may_be_blamed(&violated) {
            return Some(violated);
        }
        let mut referenced = tables.values().filter(|table| table.referenced_by.contains(&violated));
        referenced.find(|table| self.may_be_blamed(&table.name)).map(|table| table.name.clone())
    }

    /// It is written, and was not told to take nothing of this group: to be told twice would be for ever.
    fn may_be_blamed(&self, table: &TableName) -> bool {
        self.is_written(table) && self.stops.get(table).is_none_or(|stop| stop.before != self.beginning())
    }

    fn is_written(&self, table: &TableName) -> bool {
        self.group.iter().any(|fetched| fetched.segment.manifest().tables.contains_key(table))
    }

    /// Nobody knows which record it was: the table takes nothing of this group.
    fn stop_whole(&self, table: &TableName, sqlstate: Option<&str>, reason: &str) -> Ended {
        let before = self.beginning();
        let poison = Poison {
            table: table.clone(),
            seq: before.seq,
            line: None,
            sqlstate: sqlstate.map(str::to_owned),
            reason: reason.to_owned(),
        };
        Ended::Stop(table.clone(), Box::new(Stop { before, poison }))
    }

    /// The first transaction of the group.
    fn beginning(&self) -> TxPlace {
        let first = self.group.first().expect("a group has a segment");
        TxPlace { seq: first.segment.manifest().seq.get(), index: 0 }
    }

    /// Positions, log, counts, quarantine, checkpoint.
    async fn note(
        &self,
        states: &BTreeMap<TableName, TableState>,
        moving: &BTreeMap<&TableName, TableState>,
        cut_off: &[CutOff],
        findings: &Findings,
        started: Instant,
    ) -> Result<Done, Ended> {
        let (client, meta) = (self.local.session.client(), &self.local.meta);
        let commit_time = self.commit_time();
        let names: Vec<String> = moving.keys().map(ToString::to_string).collect();
        cursor::advance(client, meta, &names, Position { lsn: self.end(), commit_time }).await?;
        for cut in cut_off {
            let position = Some(Position { lsn: cut.position, commit_time: None });
            cursor::change(client, meta, &cut.table, Event::CutOff, position, Some(&cut.reason)).await?;
            cursor::note_gap(client, meta, &cut.table, &cut.gap).await?;
            tracing::warn!(table = %cut.table, lsn = %cut.position, "table is stale: changes of it are lost");
        }
        let entries = self.entries(findings, cut_off);
        for (table, stop) in &self.stops {
            self.set_aside(table, stop, states.get(table), findings).await?;
        }
        ledger::log(client, meta, &entries, started.elapsed()).await?;
        ledger::count(client, meta, &entries, self.rules.metric_freq, Timestamp::now()).await?;
        if *self.scope == Scope::Live {
            let last = self.group.last().expect("a group has a segment");
            Checkpoint::after(&last.segment).write(client, meta, commit_time).await?;
            let manifests = self.group.iter().rev().map(|fetched| fetched.segment.manifest());
            if let Some(said) = manifests.map(|m| &m.capture_since).find(|said| !said.is_empty()) {
                cursor::note_capture_since(client, meta, said).await?;
            }
        }
        let records = entries.iter().map(|entry| entry.counts.total()).sum();
        let set_aside = self.stops.keys().cloned().chain(cut_off.iter().map(|cut| cut.table.clone()));
        Ok(Done { records, set_aside: set_aside.collect() })
    }

    async fn set_aside(
        &self,
        table: &TableName,
        stop: &Stop,
        state: Option<&TableState>,
        findings: &Findings,
    ) -> Result<(), Ended> {
        let (client, meta) = (self.local.session.client(), &self.local.meta);
        let seq = stop.before.seq;
        let fetched = self.group.iter().find(|fetched| fetched.segment.manifest().seq.get() == seq);
        let fetched = fetched.expect("a stop lies in the group");
        let manifest = fetched.segment.manifest();
        let end = findings.ends.iter().find(|end| end.seq == seq);
        let reached = end.and_then(|end| end.stopped.get(&table.to_string())).copied();
        let reached = reached.unwrap_or(manifest.start_lsn);
        // One that was loaded later than the segment keeps its own position.
        let lsn = state.and_then(|state| state.position).map_or(reached, |position| position.max(reached));
        let position = Position { lsn, commit_time: None };
        let record = match (&fetched.file, stop.poison.line) {
            (Some(file), Some(line)) => quarantine::find(file, manifest, line)?,
            _ => None,
        };
        quarantine::keep(client, meta, &stop.poison, record.as_ref()).await?;
        let reason = stop.reason_and_remedy();
        cursor::change(client, meta, table, Event::SetAside, Some(position), Some(&reason)).await?;
        Ok(())
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

fn violated_table(error: &Error) -> Option<TableName> {
    let error = db_error(error)?;
    TableName::new(error.schema()?, error.table()?).ok()
}
