//! What an answer of the slot said of the captured relations: which came in, how many rows they have now.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use syncdata_formats::change::Op;
use syncdata_formats::lsn::Lsn;
use syncdata_formats::name::TableName;
use syncdata_formats::snapshot::Seen;

use super::changes::{ANOTHER, PARTITION, REWRITTEN, TYPE};
use super::naming::Naming;
use super::rewrite::{Moved, moved};
use super::suspects::{Birth, Postponed};
use super::{
    Attribute, Capture, Captured, Known, Memory, Missed, Retyped, Route, Span, Truncation, beside, published,
};

/// What an answer said of each relation, by oid.
#[derive(Clone, Debug, Default)]
pub(crate) struct Tally {
    /// How many rows they have, where that is known.
    pub rows: HashMap<u32, Option<u64>>,
    /// Of the transactions in which relations become partitions, those that have been there.
    pub joined: BTreeSet<u32>,
    /// Relations that rows came of.
    pub touched: BTreeSet<u32>,
    /// Of relations whose rows lie elsewhere now, what became of the expected TRUNCATE.
    pub truncations: HashMap<u32, Truncated>,
    /// What is known of partitions that are new.
    pub births: BTreeMap<u32, Birth>,
    /// Relations that still have to be counted.
    pub suspects: BTreeSet<u32>,
    /// Of those, what came of the attempts.
    pub postponed: BTreeMap<u32, Postponed>,
    /// Those of which production has other rows than we have counted.
    pub miscounted: BTreeSet<u32>,
    /// Tables that a segment has lines of.
    pub written: BTreeSet<TableName>,
    /// Tables whose rows are in doubt.
    pub doubted: BTreeMap<TableName, &'static str>,
    /// The transaction with the lowest number that was not archived before.
    pub oldest: Option<u32>,
    /// Transactions that the catalog did not show.
    pub unseen: BTreeSet<u32>,
    /// Transactions that altered columns, or types of those, and where their commits ended.
    pub altered: BTreeMap<u32, Lsn>,
    /// What rows said was held to be certain because these would come later.
    pub relied_on: BTreeMap<u32, BTreeSet<TableName>>,
}

/// What the answer says of an expected TRUNCATE. Numbers are those of transactions as the stream knows them.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Truncated {
    /// That truncated the relation last.
    by: Option<u32>,
    /// The last one to commit whose number is below the mark.
    last_older: Option<u32>,
    /// One has the very number of the mark.
    mark_is_known: bool,
}

impl Truncated {
    /// In a savepoint or a block with an exception handler a TRUNCATE has a number that the stream does not tell. It is
    /// part of a transaction with a lower number; if the one that truncated the relation is the last of these, nobody
    /// else can have changed the relation after it. That holds for an answer that is complete.
    fn explains(self, mark: u32) -> bool {
        let in_savepoint = !self.mark_is_known && self.by.is_some() && self.by == self.last_older;
        self.by == Some(mark) || in_savepoint
    }
}

impl Tally {
    /// Whose the names are that a row of the table says, is certain if those transactions are yet to come.
    pub(crate) fn relies_on(&mut self, xids: BTreeSet<u32>, table: &TableName) {
        for xid in xids {
            self.relied_on.entry(xid).or_default().insert(table.clone());
        }
    }

    /// A transaction has come to its end.
    pub(crate) fn committed(&mut self, xid: u32, end_lsn: Lsn, capture: &Capture) {
        if capture.alters_columns(xid) {
            self.altered.insert(xid, end_lsn);
            self.relied_on.remove(&xid);
        }
        let born = capture.births.iter().filter(|(_, born)| **born == xid);
        born.for_each(|(oid, _)| self.births.entry(*oid).or_default().committed());
        for (oid, truncation) in capture.truncations() {
            let known = self.truncations.entry(oid).or_default();
            if xid == truncation.xid {
                known.mark_is_known = true;
            } else if xid.wrapping_sub(truncation.xid).cast_signed() < 0 {
                known.last_older = Some(xid);
            }
        }
    }

    /// A transaction truncates the relation, of which that is expected.
    pub(crate) fn truncated(&mut self, oid: u32, xid: u32) {
        self.truncations.entry(oid).or_default().by = Some(xid);
    }

    /// A transaction that was not archived before begins.
    pub(crate) fn began(&mut self, xid: u32, capture: &Capture) {
        for (oid, _) in capture.awaited.iter().filter(|(_, born)| **born == xid) {
            self.rows.insert(*oid, Some(0));
        }
        let is_older = |oldest: u32| xid.wrapping_sub(oldest).cast_signed() < 0;
        if self.oldest.is_none_or(is_older) {
            self.oldest = Some(xid);
        }
    }

    /// Whether what left that mark may be in the answer: a part of a transaction has a higher number than the whole.
    fn may_have(&self, mark: u32) -> bool {
        self.oldest.is_some_and(|oldest| mark.wrapping_sub(oldest).cast_signed() >= 0)
    }

    fn of_truncation(&self, oid: u32) -> Truncated {
        self.truncations.get(&oid).copied().unwrap_or_default()
    }

    /// A row comes under the name of that relation, in that transaction.
    pub(crate) fn comes_under(&mut self, oid: u32, xid: u32, capture: &Capture) {
        if let Some(born) = capture.born_by(oid) {
            self.births.entry(oid).or_default().row(born, xid);
        }
    }

    /// A row is that relation's, as the source says.
    pub(crate) fn is_its_own(&mut self, oid: u32, capture: &Capture) {
        if capture.born_by(oid).is_some() {
            self.births.entry(oid).or_default().is_there();
        }
    }

    /// A row came of that relation.
    pub(crate) fn count(&mut self, oid: u32, op: Op) {
        self.touched.insert(oid);
        let rows = self.rows.entry(oid).or_default();
        *rows = rows.and_then(|rows| match op {
            Op::Insert => rows.checked_add(1),
            Op::Delete => rows.checked_sub(1),
            Op::Update | Op::Truncate => Some(rows),
        });
    }

    /// Something came under a name of which it is not known whose it was, in that transaction, which wrote its first row there.
    pub(crate) fn doubt(&mut self, route: &Route, xid: u32, written_from: Lsn) {
        for doubt in route.doubts.iter().filter(|doubt| doubt.is_of(xid, written_from)) {
            self.doubted.entry(doubt.table.clone()).or_insert(doubt.reason);
        }
    }

    pub(crate) fn emptied(&mut self, oid: u32) {
        self.touched.insert(oid);
        self.rows.insert(oid, Some(0));
    }

    pub(crate) fn is_empty(&self, oid: u32) -> bool {
        self.rows.get(&oid) == Some(&Some(0))
    }
}

impl Capture {
    /// Tables of which the whole answer is in doubt. That an expected transaction has not come counts when the
    /// answer is `complete`: until then it may still come.
    pub(crate) fn missed(&self, tally: &Tally, complete: bool) -> Vec<Missed> {
        let mut missed = self.missed.clone();
        let mut add = |table: &TableName, reason| {
            if self.tables.contains(table) && !missed.iter().any(|known| known.table == *table) {
                missed.push(Missed { table: table.clone(), reason, since: None });
            }
        };
        for heir in &self.heirs {
            let has_any = |marks: &[u32]| marks.iter().any(|mark| tally.may_have(*mark));
            match () {
                () if heir.is_partitioned && tally.oldest.is_some() => add(&heir.table, PARTITION),
                () if has_any(&heir.named_by) => add(&heir.table, ANOTHER),
                () if has_any(&heir.changed_by) => add(&heir.table, REWRITTEN),
                () => {}
            }
        }
        tally.doubted.iter().for_each(|(table, reason)| add(table, reason));
        for oid in self.had_namesakes(tally) {
            self.names_of(oid).into_iter().for_each(|(_, table)| add(table, PARTITION));
        }
        for oid in &tally.miscounted {
            self.names_of(*oid).into_iter().for_each(|(_, table)| add(table, REWRITTEN));
        }
        // In a savepoint, or after an answer that was cut: when that was, nobody will say.
        tally.relied_on.values().flatten().for_each(|table| add(table, REWRITTEN));
        if complete {
            let joins = self.joins.iter().filter(|(oid, join)| !join.came_true(**oid, tally));
            joins.for_each(|(_, join)| add(&join.table, PARTITION));
            let is_told = |oid: u32, truncation: &Truncation| {
                let truncated = tally.of_truncation(oid);
                // Where commits are hidden, another transaction may have come between.
                match self.hides_commits && !truncation.only_moved {
                    true => truncated.by == Some(truncation.xid),
                    false => truncated.explains(truncation.xid),
                }
            };
            let moved = self.truncations().filter(|(oid, truncation)| !is_told(*oid, truncation));
            moved.for_each(|(_, truncation)| add(&truncation.table, REWRITTEN));
            // Where a segment has rows of it, that says what its labels are now.
            let resting = self.relabelled.values().filter(|table| !tally.written.contains(*table));
            resting.for_each(|table| add(table, TYPE));
        }
        missed
    }

    /// What the next answer should know of this one.
    pub(crate) fn remember(
        &self,
        earlier: &Memory,
        tally: &Tally,
        seen: &Seen,
        Span { from, to, looked_at }: Span,
        complete: bool,
    ) -> Memory {
        let beside = beside::remember(&self.altered_beside_writers, &earlier.beside, seen, looked_at);
        let mut memory = Memory { position: to, beside, ..earlier.clone() };
        memory.patterns.extend(self.patterns.iter().map(ToString::to_string));
        if complete {
            (memory.is_heir, memory.interrupted) = (false, BTreeSet::new());
            memory.inherited.clear();
            memory.published = published::remember(&self.published, earlier, seen);
            memory.seen = Some(seen.clone());
            // One that waits for a standby may be seen many polls later.
            memory.unseen.retain(|xid| !seen.has(*xid));
            memory.unseen.extend(&tally.unseen);
            memory.relations = self.relations.clone();
            memory.schemas = self.schemas.clone();
            memory.types_altered.extend(self.types_altered.iter().map(|mark| (*mark, looked_at)));
            memory.labels = self.labels.iter().map(|(oid, labels)| (*oid, names_of(labels))).collect();
            memory.begun = BTreeMap::new();
        } else {
            memory.unseen.extend(&tally.unseen);
            let settled = self.settled(earlier, tally);
            let is_settled = |oid: &u32| settled.values().any(|known| known.has_type(*oid));
            // Some segment has told them as they are called now.
            memory.labels.retain(|oid, then| {
                !is_settled(oid) || self.labels.get(oid).is_none_or(|now| names_of(now) == *then)
            });
            memory.relations.extend(settled);
        }
        memory.is_of_a_look = complete;
        let missed: BTreeSet<TableName> =
            self.missed(tally, complete).into_iter().map(|missed| missed.table).collect();
        let others: BTreeSet<u32> =
            self.had_namesakes(tally).chain(tally.miscounted.iter().copied()).collect();
        for (oid, known) in &mut memory.relations {
            if let Some(rows) = tally.rows.get(oid) {
                known.rows = *rows;
            }
            let is_still = |(number, then): (&i16, &Attribute)| {
                known.attributes.get(number).is_none_or(|now| now.made_of == then.made_of)
            };
            let was_told = |then: &Known| {
                then.labels_told && then.table == known.table && then.attributes.iter().all(is_still)
            };
            known.labels_told = known.table.as_ref().is_some_and(|table| tally.written.contains(table))
                || earlier.relations.get(oid).is_some_and(was_told);
            // Rows that are in doubt, or in no stream, were not counted as they are.
            let is_missed = known.table.as_ref().is_some_and(|table| missed.contains(table));
            known.suspected = !is_missed && tally.suspects.contains(oid);
            known.postponed = tally.postponed.get(oid).copied().filter(|_| known.suspected);
            known.unborn = self.unborn(*oid, tally).filter(|_| !is_missed && !complete);
            if is_missed && !self.was_counted(*oid, earlier) || others.contains(oid) {
                known.rows = None;
            }
            let waits = self.joins.get(oid).is_some_and(|join| !join.xids.is_subset(&tally.joined));
            // Whose these rows are will not be known if the transaction does not come.
            if waits && !complete && tally.touched.contains(oid) {
                known.rows = None;
            }
        }
        if !complete {
            let new = self.relations.iter().filter(|(oid, _)| !memory.relations.contains_key(oid));
            let begun = |(oid, known): (&u32, &Known)| {
                let is_missed = known.table.as_ref().is_some_and(|table| missed.contains(table));
                let is_counted = !others.contains(oid) && (!is_missed || self.was_counted(*oid, earlier));
                let rows = tally.rows.get(oid).copied().flatten().filter(|_| is_counted);
                let (unborn, is_told) =
                    (self.unborn(*oid, tally).filter(|_| !is_missed), self.is_told(*oid, tally));
                (*oid, Known { rows, unborn, is_told, ..known.clone() })
            };
            memory.begun = new.map(begun).collect();
        }
        self.remember_tables(&mut memory.tables, &earlier.inherited, tally, from, complete);
        memory
    }

    /// Whether the rows of a relation came under its own name all the time, and none outside of the stream.
    fn was_counted(&self, oid: u32, earlier: &Memory) -> bool {
        let Some(now) = self.relations.get(&oid) else { return false };
        if self.uncounted.contains(&oid) || self.routes.get(&now.name).is_none_or(|r| !r.doubts.is_empty()) {
            return false;
        }
        match earlier.relations.get(&oid) {
            Some(then) => {
                let has_one_name = !then.may_be_renamed(now) && !now.marks.has_altered_schema(&then.marks);
                has_one_name && moved(then.storage, now.storage) == Moved::No
            }
            None => now.marks.is_named_at_birth() && earlier.is_old(now.marks.schema),
        }
    }

    /// While the answer is not complete, only what is certain to be so at its end already.
    fn settled(&self, earlier: &Memory, tally: &Tally) -> BTreeMap<u32, Known> {
        let settled = |(oid, known): (&u32, &Known)| {
            let table = known.table.as_ref()?;
            if self.missed.iter().any(|missed| missed.table == *table) || self.truncations.contains_key(oid) {
                return None;
            }
            let is_renamed = |then: &Known| then.may_be_renamed(known);
            if self.relabelled.contains_key(oid) && !tally.written.contains(table) {
                return None;
            }
            if self.waits_for_birth(*oid, tally)
                || !earlier.relations.contains_key(oid) && self.waits_for_columns(*oid, tally)
            {
                return None;
            }
            if earlier.relations.get(oid).is_some_and(is_renamed) || self.strangers.contains(table) {
                return None;
            }
            match self.joins.get(oid) {
                Some(join) if join.xids.is_subset(&tally.joined) => Some((*oid, known.clone())),
                Some(_) if earlier.relations.contains_key(oid) => None,
                // Watched, so that its rows are counted from the first.
                Some(join) => {
                    let table = join.before.as_ref().map(|before| before.table.clone());
                    let marks = super::Marks { attached: None, ..known.marks };
                    Some((*oid, Known { table, parent: None, marks, ..known.clone() }))
                }
                None => Some((*oid, self.as_told(*oid, known, earlier, tally))),
            }
        };
        self.relations.iter().filter_map(settled).map(|(oid, known)| (oid, self.as_guest(known))).collect()
    }

    /// When its schema was altered is not certain yet: the next answer looks for its rows under other names too.
    fn as_guest(&self, known: Known) -> Known {
        let is_one = |table: &TableName| {
            self.guests.get(known.name.name()).is_some_and(|guests| guests.contains(table))
        };
        if !known.table.as_ref().is_some_and(is_one) {
            return known;
        }
        let marks = super::Marks { schema: u32::MAX, schema_rest: !known.marks.schema_rest, ..known.marks };
        Known { marks, ..known }
    }

    /// Whether what altered its columns last, or their types, is yet to come.
    fn waits_for_columns(&self, oid: u32, tally: &Tally) -> bool {
        let names = self.naming.get(&oid).into_iter().flat_map(Naming::marks);
        let types = self.retyped.get(&oid).into_iter().flat_map(Retyped::marks_of_new_columns);
        names.chain(types).any(|mark| !tally.altered.contains_key(&mark))
    }

    /// With the columns as they are after the transactions that have been there.
    fn as_told(&self, oid: u32, now: &Known, earlier: &Memory, tally: &Tally) -> Known {
        let Some(then) = earlier.relations.get(&oid).filter(|_| self.naming.contains_key(&oid)) else {
            return now.clone();
        };
        let Known { mut attributes, mut dropped, .. } = then.clone();
        for (number, column) in
            now.attributes.iter().filter(|(_, column)| tally.altered.contains_key(&column.mark))
        {
            attributes.insert(*number, column.clone());
        }
        for (number, mark) in now.dropped.iter().filter(|(_, mark)| tally.altered.contains_key(mark)) {
            attributes.remove(number);
            dropped.insert(*number, *mark);
        }
        // One whose type is altered later is new to the next answer as well.
        if let Some(retyped) = self.retyped.get(&oid) {
            attributes.retain(|_, column| !retyped.waits(&column.name, &tally.altered));
        }
        Known { attributes, dropped, ..now.clone() }
    }

    fn remember_tables(
        &self,
        tables: &mut BTreeMap<TableName, Captured>,
        inherited: &BTreeSet<TableName>,
        tally: &Tally,
        from: Lsn,
        complete: bool,
    ) {
        for (table, known) in tables.iter_mut() {
            if !self.tables.contains(table) && known.left.is_none() {
                known.left = Some(from);
            }
        }
        for table in inherited.iter().filter(|table| !self.tables.contains(table)) {
            tables.entry(table.clone()).or_insert(Captured { oid: 0, left: Some(from) });
        }
        tables.retain(|table, _| !self.forgotten.contains(table));
        let missed = self.missed(tally, complete);
        for (table, &oid) in &self.roots {
            let is_missed = missed.iter().any(|missed| missed.table == *table);
            let goes_on = tables.get(table).is_some_and(|known| known.oid == oid && known.left.is_none());
            if goes_on && !is_missed || is_missed && !complete {
                continue;
            }
            tables.insert(table.clone(), Captured { oid, left: None });
        }
    }
}

fn names_of(labels: &[(u32, String)]) -> Vec<String> {
    labels.iter().map(|(_, name)| name.clone()).collect()
}
