//! One local transaction: some whole segments, the positions, the log and the counts, all or nothing.
//!
//! A record that its table cannot take ends the transaction; it is tried again without that table from that
//! record's transaction on, so that nothing of it is half applied.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;
use std::time::Instant;

use syncdata_shared::config::OnError;
use syncdata_shared::error::{Context, Error as Shared};
use syncdata_shared::faults;
use syncdata_shared::lsn::Lsn;
use syncdata_shared::manifest::{OpCounts, Relation};
use syncdata_shared::name::TableName;
use syncdata_shared::postgres::{db_error, failure};
use syncdata_shared::time::Timestamp;

use crate::apply::{Oddities, Outcome, Rejection, Writer};
use crate::batch::{Limits, TxPlace};
use crate::cursor::{self, Checkpoint, Position, State, TableState};
use crate::error::{Error, Kind, Result};
use crate::fetch::Fetched;
use crate::ledger::{self, Entry};
use crate::local::Local;
use crate::plan::{self, Bound, Scope, Share};
use crate::quarantine::{self, Poison};
use crate::reader::{self, Admission, Item, SegmentEnd, Task};
use crate::schema::{self, Difference, Table, Target};

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

/// A table that stops in the middle of the group.
#[derive(Clone, Debug)]
struct Stop {
    before: TxPlace,
    poison: Poison,
}

/// Everything that a try has found out by reading and writing.
#[derive(Default)]
struct Findings {
    ends: Vec<SegmentEnd>,
    oddities: BTreeMap<TableName, Oddities>,
}

/// A table that a gap cuts off.
struct CutOff {
    table: TableName,
    /// Of the segment that declares the gap.
    seq: u64,
    position: Lsn,
    gap: String,
    reason: String,
}

/// What a try is going to do.
#[derive(Default)]
struct Layout {
    tasks: Vec<Task>,
    cut_off: Vec<CutOff>,
    /// Local tables that the tasks write into.
    tables: BTreeMap<TableName, Arc<Table>>,
}

/// The shape that each table had in the segment before.
#[derive(Default)]
struct Shapes<'a>(BTreeMap<&'a TableName, (Arc<Target>, Arc<Relation>)>);

impl<'a> Shapes<'a> {
    /// Segments in which a table is the same share it, and with it their batches.
    fn shared(&mut self, table: &'a TableName, admission: Admission) -> Admission {
        let known = self
            .0
            .get(table)
            .filter(|(target, relation)| **target == *admission.target && **relation == *admission.relation);
        let (target, relation) = match known {
            Some((target, relation)) => (Arc::clone(target), Arc::clone(relation)),
            None => (Arc::clone(&admission.target), Arc::clone(&admission.relation)),
        };
        self.0.insert(table, (Arc::clone(&target), Arc::clone(&relation)));
        Admission { target, relation, ..admission }
    }
}

/// Why a try ended without a commit.
enum Ended {
    Stop(TableName, Box<Stop>),
    Failed(Error),
}

impl<E: Into<Error>> From<E> for Ended {
    fn from(error: E) -> Ended {
        Ended::Failed(error.into())
    }
}

/// Applies the group and commits. `checkpoint` is where the copy stands; in [`Scope::Live`] it moves behind
/// the group.
pub async fn apply(
    local: &Local,
    writer: &mut Writer,
    rules: &Rules,
    checkpoint: &Checkpoint,
    scope: &Scope,
    group: &[Fetched],
) -> Result<Done> {
    let mut transaction = Transaction { local, rules, checkpoint, scope, group, stops: BTreeMap::new() };
    loop {
        match transaction.attempt(writer).await {
            Ok(done) => return Ok(done),
            Err(Ended::Failed(error)) => {
                transaction.roll_back().await;
                return Err(error);
            }
            Err(Ended::Stop(table, stop)) => {
                transaction.roll_back().await;
                if rules.on_error == OnError::Stop {
                    return Err(rejected(&table, &stop));
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
    async fn attempt(&mut self, writer: &mut Writer) -> Result<Done, Ended> {
        let started = Instant::now();
        let client = self.local.session.client();
        client.batch_execute("BEGIN").await.context(|| "beginning the transaction".to_owned())?;
        writer.begin(client).await?;
        faults::hit("apply.begun")?;
        self.checkpoint.claim(client, &self.local.meta).await?;
        let states = cursor::table_states(client, &self.local.meta).await?;
        let layout = self.lay_out(writer, &states).await?;
        let findings = self.write_rows(writer, layout.tasks).await?;
        self.check_constraints(writer, &layout.tables).await?;
        faults::hit("apply.before_checkpoint")?;
        let done = self.note(&states, &layout.cut_off, &findings, started).await?;
        faults::hit("apply.before_commit")?;
        // Without an answer it may or may not have happened: the next try looks at the checkpoint.
        client.batch_execute("COMMIT").await.context(|| "committing".to_owned())?;
        faults::hit("apply.after_commit")?;
        Ok(done)
    }

    async fn roll_back(&self) {
        // It fails when the connection is gone, and with it the transaction.
        if let Err(error) = self.local.session.client().batch_execute("ROLLBACK").await {
            tracing::debug!(%error, "rollback");
        }
    }

    /// Which table takes what from which segment.
    async fn lay_out(
        &mut self,
        writer: &mut Writer,
        states: &BTreeMap<TableName, TableState>,
    ) -> Result<Layout, Ended> {
        let in_scope: Vec<&TableName> = states
            .iter()
            .filter(|(table, state)| self.scope.contains(table, state))
            .map(|(table, _)| table)
            .collect();
        let names: Vec<TableName> = in_scope.iter().map(|&table| table.clone()).collect();
        let loaded = schema::load(self.local.session.client(), &names).await?;
        writer.meet(&loaded);
        let tables: BTreeMap<TableName, Arc<Table>> =
            loaded.into_iter().map(|(name, table)| (name, Arc::new(table))).collect();
        let mut layout = Layout { tables, ..Layout::default() };
        let mut shapes = Shapes::default();
        for fetched in self.group {
            let mut admitted = HashMap::new();
            for &table in &in_scope {
                if layout.cut_off.iter().any(|cut| cut.table == *table) {
                    continue;
                }
                let state = &states[table];
                if let Some(admission) = self.admit(fetched, table, state, &layout)? {
                    admitted.insert(table.to_string(), shapes.shared(table, admission));
                }
                if let Some(gap) = plan::gap(fetched.segment.manifest(), table, state)
                    && !self.stops.contains_key(table)
                {
                    layout.cut_off.push(CutOff {
                        table: table.clone(),
                        seq: fetched.segment.manifest().seq.get(),
                        position: gap.from.max(state.position.unwrap_or(Lsn::ZERO)),
                        gap: plan::gap_name(gap),
                        reason: format!("changes from {} to {} are lost: {}", gap.from, gap.to, gap.reason),
                    });
                }
            }
            if let Some(file) = &fetched.file {
                layout.tasks.push(Task { segment: fetched.segment.clone(), file: file.clone(), admitted });
            }
        }
        Ok(layout)
    }

    fn admit(
        &self,
        fetched: &Fetched,
        table: &TableName,
        state: &TableState,
        layout: &Layout,
    ) -> Result<Option<Admission>, Ended> {
        let manifest = fetched.segment.manifest();
        let stop = self.stops.get(table).map(|stop| stop.before);
        let (target, relation, from, until) =
            match plan::share(manifest, table, state, layout.tables.get(table), stop) {
                Share::Nothing => return Ok(None),
                Share::Unfit(difference) => {
                    return Err(unfit(
                        table,
                        TxPlace { seq: manifest.seq.get(), index: 0 },
                        None,
                        &difference,
                    ));
                }
                Share::Some { target, relation, from, until } => (target, relation, from, until),
            };
        let Some(file) = &fetched.file else {
            let message = format!("{table} went live after segment {} was passed over", manifest.seq);
            return Err(Ended::Failed(Error::new(Kind::Passing, message)));
        };
        let exact = |until: &Bound| match until {
            Bound::End | Bound::Before(_) => None,
            Bound::Gap(lsn) => Some(*lsn),
        };
        // Positions between two commits are rare: only then is the file read twice.
        let commits = if from > manifest.start_lsn || exact(&until).is_some() {
            reader::commits(&fetched.segment, file)?
        } else {
            Vec::new()
        };
        let up_to = |lsn: Lsn| commits.iter().filter(|commit| commit.end_lsn <= lsn).count() as u64;
        Ok(Some(Admission {
            target,
            relation,
            from: up_to(from),
            until: match until {
                Bound::End => None,
                Bound::Before(place) => Some(place.index),
                Bound::Gap(lsn) => Some(up_to(lsn)),
            },
            skip: HashSet::new(),
        }))
    }

    async fn write_rows(&self, writer: &mut Writer, tasks: Vec<Task>) -> Result<Findings, Ended> {
        let mut findings = Findings::default();
        // As much as memory allows: a row that one transaction updates in batch after batch leaves versions that
        // nothing can prune before the commit, and every further update walks over them.
        let mut items = reader::spawn(tasks, Limits::of_memory())?;
        let expected = self.group.iter().filter(|fetched| fetched.file.is_some()).count();
        while let Some(item) = items.recv().await {
            match item? {
                Item::Batch(prepared) => match writer.apply(&self.local.session, &prepared).await? {
                    Outcome::Applied(oddities) => {
                        findings.add(oddities);
                        faults::hit("apply.half_batch")?;
                    }
                    Outcome::Rejected(rejection) => return Err(stopped_by(rejection)),
                },
                Item::Segment(end) => findings.ends.push(end),
                Item::Lacking { table, place, difference } => {
                    let table: TableName = table.parse()?;
                    return Err(unfit(&table, place.tx, Some(place.line), &difference));
                }
            }
        }
        // The reader has died without a word: nothing of this may be committed.
        if findings.ends.len() != expected {
            return Err(Ended::Failed(Error::new(Kind::Other, "the reader ended early")));
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
    fn blamed(&self, error: &Shared, tables: &BTreeMap<TableName, Arc<Table>>) -> Option<TableName> {
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
        cut_off: &[CutOff],
        findings: &Findings,
        started: Instant,
    ) -> Result<Done, Ended> {
        let (client, meta) = (self.local.session.client(), &self.local.meta);
        let last = self.group.last().expect("a group has a segment");
        let end = last.segment.manifest().end_lsn;
        let commit_time = self.commit_time();
        let moving: Vec<String> = states
            .iter()
            .filter(|(table, state)| {
                self.scope.contains(table, state)
                    && !self.stops.contains_key(*table)
                    && cut_off.iter().all(|cut| cut.table != **table)
            })
            .map(|(table, _)| table.to_string())
            .collect();
        cursor::advance(client, meta, &moving, Position { lsn: end, commit_time }).await?;
        for cut in cut_off {
            let position = Some(Position { lsn: cut.position, commit_time: None });
            cursor::set_state(client, meta, &cut.table, State::Stale, position, Some(&cut.reason)).await?;
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
            Checkpoint::after(&last.segment).write(client, meta, commit_time).await?;
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
        let reason = &stop.poison.reason;
        cursor::set_state(client, meta, table, State::Quarantined, Some(position), Some(reason)).await?;
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
            // Segments that share a transaction share batches: the last one speaks for all.
            if let Some(last) = entries.iter_mut().rfind(|entry| entry.table == *table) {
                last.missing = oddities.missing;
                oddities.warn(table, &last.archive_ref);
            }
        }
        entries
    }

    /// Tables that end in that segment, and why.
    fn failures(&self, seq: u64, cut_off: &[CutOff]) -> BTreeMap<TableName, String> {
        let stops = self.stops.iter().filter(|(_, stop)| stop.before.seq == seq);
        let stops = stops
            .map(|(table, stop)| (table.clone(), format!("Failed to apply changes: {}", stop.poison.reason)));
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

fn unfit(table: &TableName, before: TxPlace, line: Option<u64>, difference: &Difference) -> Ended {
    let reason = difference.to_string();
    let poison = Poison { table: table.clone(), seq: before.seq, line, sqlstate: None, reason };
    Ended::Stop(table.clone(), Box::new(Stop { before, poison }))
}

fn stopped_by(rejection: Rejection) -> Ended {
    let Rejection { table, place, sqlstate, reason } = rejection;
    let poison = Poison { table: table.clone(), seq: place.tx.seq, line: Some(place.line), sqlstate, reason };
    Ended::Stop(table, Box::new(Stop { before: place.tx, poison }))
}

fn rejected(table: &TableName, stop: &Stop) -> Error {
    let line = stop.poison.line.map_or(String::new(), |line| format!(", line {line}"));
    Error::new(
        Kind::Rejected,
        format!(
            "Failed to apply changes of {table}: segment {}{line}: {}",
            stop.before.seq, stop.poison.reason
        ),
    )
    .hint("nothing of this transaction was applied; mend the cause, or set on_error = \"quarantine\"")
}

fn violated_table(error: &Shared) -> Option<TableName> {
    let error = db_error(error)?;
    TableName::new(error.schema()?, error.table()?).ok()
}
