//! What a transaction notes beside its rows: where every table stands then, what is set aside, what the log says.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Instant;

use syncdata_formats::error::Result;
use syncdata_formats::lsn::Lsn;
use syncdata_formats::manifest::{Generated, Manifest, OpCounts, Relation};
use syncdata_formats::name::TableName;
use syncdata_formats::time::Timestamp;

use super::{Findings, Transaction};
use crate::apply::outcome::Stop;
use crate::apply::poison;
use crate::plan::position::{Checkpoint, Position};
use crate::plan::state::{State, TableState};
use crate::plan::{self, Scope};
use crate::table::{SourceColumns, Table, is_told_by_mark};
use crate::target::{CutOff, Entry, Oddities, Positions, SetAside};

impl Transaction<'_> {
    pub(super) fn positions(
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
        let is_live = matches!(self.scope, Scope::Live(_));
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
            captured: is_live.then(|| last.segment.manifest().capture.clone()),
            columns,
            described: Vec::new(),
            nan_as_null,
            waiting: if is_live { self.waiting(states) } else { BTreeMap::new() },
            entries,
            started,
        })
    }

    /// What these segments have of tables that are quarantined already.
    fn waiting(&self, states: &BTreeMap<TableName, TableState>) -> BTreeMap<TableName, u64> {
        let is_quarantined =
            |state: &TableState| state.state == State::Quarantined && self.scope.is_of_group(state);
        let quarantined = states.iter().filter(|(_, state)| is_quarantined(state));
        let waiting = quarantined.filter_map(|(table, state)| {
            let manifests = self.group.iter().map(|fetched| fetched.segment.manifest());
            let ahead = manifests.filter(|manifest| state.position.is_some_and(|own| own < manifest.end_lsn));
            let records = ahead.filter_map(|manifest| Some(manifest.tables.get(table)?.total())).sum::<u64>();
            (records > 0).then(|| (table.clone(), records))
        });
        waiting.collect()
    }

    /// As the segments that have changes of each say it, one after the other: a label may have had a name in between. Also
    /// of tables that ended in the middle, up to there.
    pub(super) fn described(
        &self,
        positions: &Positions,
        states: &BTreeMap<TableName, TableState>,
    ) -> Vec<(TableName, Relation)> {
        let mut described: Vec<(TableName, Relation)> = Vec::new();
        let aside = positions.set_aside.iter().map(|stop| &stop.poison.table);
        let cut = positions.cut_off.iter().map(|cut| &cut.table);
        for name in positions.moved.iter().chain(aside).chain(cut) {
            let Some(upto) = self.upto(positions, name) else { continue };
            let position = states.get(name).and_then(|state| state.position);
            let takes = |manifest: &&Manifest| {
                manifest.start_lsn < upto && position.is_none_or(|position| position < manifest.end_lsn)
            };
            let manifests = self.group.iter().map(|fetched| fetched.segment.manifest()).filter(takes);
            let mut last: Option<&Relation> = None;
            for relation in manifests.filter_map(|manifest| manifest.relations.get(name)) {
                if last.is_none_or(|last| last.fingerprint != relation.fingerprint) {
                    described.push((name.clone(), relation.clone()));
                }
                last = Some(relation);
            }
        }
        described
    }

    /// What the source calls the columns of the tables, also of those that ended in the middle: what they took had these.
    pub(super) fn columns(
        &self,
        positions: &Positions,
        tables: &BTreeMap<TableName, Arc<Table>>,
    ) -> Vec<(TableName, SourceColumns)> {
        let columns = |(name, table): (&TableName, &Arc<Table>)| {
            Some((name.clone(), self.new_columns(table, self.upto(positions, name)?)?))
        };
        tables.iter().filter_map(columns).collect()
    }

    /// Where the table stands after the group. Neither moved nor ended: it took nothing of it.
    fn upto(&self, positions: &Positions, name: &TableName) -> Option<Lsn> {
        if positions.moved.contains(name) {
            return Some(self.end());
        }
        let stop = positions.set_aside.iter().find(|stop| stop.poison.table == *name);
        let cut = positions.cut_off.iter().find(|cut| cut.table == *name);
        stop.map(|stop| stop.position.lsn).or_else(|| cut.map(|cut| cut.position))
    }

    /// What the source calls the table's columns now, if that is news: of those that are here under these names. (A
    /// manifest may be younger than the rows of its segment.) What is known for the first time is known of all or none: a
    /// column that is not noted later is held to be newer than the rows.
    fn new_columns(&self, table: &Table, upto: Lsn) -> Option<SourceColumns> {
        let manifests = self.group.iter().rev().map(|fetched| fetched.segment.manifest());
        let manifests = manifests.filter(|manifest| manifest.start_lsn < upto);
        let relation = manifests.clone().find_map(|manifest| manifest.relations.get(&table.name));
        let known = &table.source_columns;
        let mut columns = if relation.is_some() { SourceColumns::new() } else { known.clone() };
        for column in relation.into_iter().flat_map(|relation| &relation.columns) {
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
        // What a proof's mark told was looked at too.
        let marks = manifests.filter_map(|manifest| manifest.proof.as_ref()?.tables.get(&table.name));
        let told = marks.flat_map(|marked| &marked.relation.columns).filter(|it| is_told_by_mark(it));
        if !columns.is_empty() {
            for column in told.filter(|column| table.column(&column.name).is_some()) {
                columns.entry(column.attnum?).or_insert_with(|| column.name.clone());
            }
        }
        (columns != *known).then_some(columns)
    }

    /// Columns that are here, of tables with rows from a source that cannot say them.
    pub(super) fn nan_as_null(
        &self,
        tables: &BTreeMap<TableName, Arc<Table>>,
    ) -> BTreeMap<TableName, Vec<String>> {
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
