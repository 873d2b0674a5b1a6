//! Which table takes what from which segment of a group: what the reader is asked for.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::sync::Arc;

use syncdata_formats::error::{Error, Kind};
use syncdata_formats::lsn::Lsn;
use syncdata_formats::manifest::{Column, Manifest, Relation};
use syncdata_formats::name::TableName;

use crate::apply::outcome::{Ended, Stop};
use crate::apply::reader::{self, Admission, Task};
use crate::archive::fetch::Fetched;
use crate::batch::TxPlace;
use crate::plan::state::TableState;
use crate::plan::{self, Bound, Share};
use crate::table::{Fit, Table};
use crate::target::CutOff;

/// What a try is going to do.
#[derive(Default)]
pub(crate) struct Layout {
    pub tasks: Vec<Task>,
    pub cut_off: Vec<CutOff>,
}

/// What the layout of a stretch depends on.
pub(crate) struct Ground<'a> {
    /// Of the tables in scope.
    pub states: BTreeMap<&'a TableName, TableState>,
    /// The local tables.
    pub tables: &'a BTreeMap<TableName, Arc<Table>>,
    /// What earlier tries have found.
    pub stops: &'a BTreeMap<TableName, Stop>,
    /// Tables of the whitelist that take nothing for now, and up to where they have everything.
    pub held: &'a BTreeMap<TableName, Lsn>,
}

/// The shape that each table had in the segment before.
#[derive(Default)]
struct Shapes<'a>(BTreeMap<&'a TableName, (Arc<Fit>, Arc<Relation>)>);

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

/// Columns that come within a group: rows of its earlier segments are older than they, and get what such rows have in
/// them at the source, as rows of the same segment do.
struct Coming<'a> {
    group: &'a [Fetched],
    /// Those that are not the same in all of it.
    altered: BTreeSet<&'a TableName>,
}

impl<'a> Coming<'a> {
    fn of(group: &'a [Fetched]) -> Coming<'a> {
        let (mut first, mut altered) = (BTreeMap::new(), BTreeSet::new());
        for (name, relation) in group.iter().flat_map(|fetched| &fetched.segment.manifest().relations) {
            if *first.entry(name).or_insert(&relation.fingerprint) != &relation.fingerprint {
                altered.insert(name);
            }
        }
        Coming { group, altered }
    }

    /// The relation of the segment at that place, with the columns that come after it, as they were said first.
    /// `ends`: the table takes nothing of that one, nor of those after it.
    fn with_later(
        &self,
        place: usize,
        table: &TableName,
        relation: Arc<Relation>,
        ends: impl Fn(&Manifest) -> bool,
    ) -> Arc<Relation> {
        let is_numbered = relation.columns.iter().all(|column| column.attnum.is_some());
        if !self.altered.contains(table) || !is_numbered {
            return relation;
        }
        let mut columns = relation.columns.clone();
        let later = self.group[place + 1..].iter().map(|fetched| fetched.segment.manifest());
        let later = later.take_while(|manifest| !ends(manifest));
        for column in later.filter_map(|manifest| manifest.relations.get(table)).flat_map(|it| &it.columns) {
            let is_known = |known: &Column| known.attnum == column.attnum || known.name == column.name;
            if column.attnum.is_some() && !columns.iter().any(is_known) {
                columns.push(column.clone());
            }
        }
        match columns.len() == relation.columns.len() {
            true => relation,
            false => Arc::new(Relation { columns, ..Relation::clone(&relation) }),
        }
    }
}

impl Ground<'_> {
    pub(crate) fn lay_out(&self, group: &[Fetched]) -> Result<Layout, Ended> {
        let mut layout = Layout::default();
        let mut shapes = Shapes::default();
        let coming = Coming::of(group);
        for (place, fetched) in group.iter().enumerate() {
            let mut admitted = HashMap::new();
            for (&table, state) in &self.states {
                if layout.cut_off.iter().any(|cut| cut.table == *table) {
                    continue;
                }
                if let Some(admission) = self.admit(fetched, table, state)? {
                    let ends = |manifest: &Manifest| self.ends(manifest, table, state);
                    let relation = coming.with_later(place, table, admission.relation, ends);
                    let admission = Admission { relation, ..admission };
                    admitted.insert(table.to_string(), shapes.shared(table, admission));
                }
                if let Some(gap) = plan::gap(fetched.segment.manifest(), table, state)
                    && !self.stops.contains_key(table)
                {
                    layout.cut_off.push(CutOff {
                        table: table.clone(),
                        seq: fetched.segment.manifest().seq.get(),
                        position: gap.from.max(state.position.unwrap_or(Lsn::ZERO)),
                        commit_time: None,
                        gap: plan::GapName::from(gap),
                        reason: format!(
                            "changes from {} to {} are lost: {}; {}",
                            gap.from,
                            gap.to,
                            gap.reason,
                            plan::gap_remedy(table)
                        ),
                    });
                }
            }
            if let Some(file) = &fetched.file {
                let held = self.held_in(fetched, file, &layout.cut_off)?;
                layout.tasks.push(Task {
                    segment: fetched.segment.clone(),
                    file: file.clone(),
                    line_bytes_max: fetched.line_bytes_max,
                    admitted,
                    held,
                });
            }
        }
        Ok(layout)
    }

    /// Whether the table takes nothing of the segment, for a gap or for what an earlier try has found.
    fn ends(&self, manifest: &Manifest, table: &TableName, state: &TableState) -> bool {
        let begin = TxPlace { seq: manifest.seq.get(), index: 0 };
        plan::gap(manifest, table, state).is_some_and(|gap| gap.from <= manifest.start_lsn)
            || self.stops.get(table).is_some_and(|stop| stop.before <= begin)
    }

    /// The tables that a TRUNCATE of the segment may name in vain, with how many of its transactions they have.
    fn held_in(
        &self,
        fetched: &Fetched,
        file: &std::path::Path,
        cut_off: &[CutOff],
    ) -> Result<HashMap<String, u64>, Ended> {
        let manifest = fetched.segment.manifest();
        let seq = manifest.seq.get();
        let is_truncated =
            |table: &TableName| manifest.tables.get(table).is_some_and(|counts| counts.truncate > 0);
        let mut held = HashMap::new();
        for (table, stop) in
            self.stops.iter().filter(|(table, stop)| is_truncated(table) && stop.before.seq <= seq)
        {
            held.insert(table.to_string(), if stop.before.seq == seq { stop.before.index } else { 0 });
        }
        // Where the gap lies in a segment that the table takes a part of, its share says.
        for cut in cut_off.iter().filter(|cut| is_truncated(&cut.table)) {
            if cut.seq < seq || cut.position <= manifest.start_lsn {
                held.insert(cut.table.to_string(), 0);
            }
        }
        for (table, position) in self.held.iter().filter(|(table, _)| is_truncated(table)) {
            let has = if *position <= manifest.start_lsn {
                0
            } else {
                let commits = reader::commits(&fetched.segment, file, fetched.line_bytes_max)?;
                commits.iter().filter(|commit| commit.end_lsn <= *position).count() as u64
            };
            held.insert(table.to_string(), has);
        }
        Ok(held)
    }

    fn admit(
        &self,
        fetched: &Fetched,
        table: &TableName,
        state: &TableState,
    ) -> Result<Option<Admission>, Ended> {
        let manifest = fetched.segment.manifest();
        let stop = self.stops.get(table).map(|stop| stop.before);
        let (target, relation, from, until) =
            match plan::share(manifest, table, state, self.tables.get(table), stop) {
                Share::Nothing => return Ok(None),
                Share::Unfit(difference) => {
                    return Err(Ended::unfit(
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
            return Err(Ended::Failed(Error::new(Kind::Locked, message)));
        };
        let exact = |until: &Bound| match until {
            Bound::End | Bound::Before(_) => None,
            Bound::Gap(lsn) => Some(*lsn),
        };
        // Positions between two commits are rare: only then is the file read twice.
        let commits = if from > manifest.start_lsn || exact(&until).is_some() {
            reader::commits(&fetched.segment, file, fetched.line_bytes_max)?
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
}
