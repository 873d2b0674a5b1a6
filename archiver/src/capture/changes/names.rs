//! Names: whether each still means the table that it meant.

use std::collections::{BTreeMap, BTreeSet};

use syncdata_formats::lsn::Lsn;
use syncdata_formats::name::{TableName, TablePattern};

use super::{ANOTHER, Changes, NOT_CAPTURED, PARTITION, REWRITTEN};
use crate::capture::rewrite::{Moved, moved};
use crate::capture::{Heir, Memory, Missed, RelationKind};

/// So many take a few megabytes of the spool's state.
pub(super) const LEFT_MAX: usize = 10_000;

impl Changes<'_> {
    /// Does every name still mean the table that it meant?
    pub(super) fn tables(&mut self) {
        for (table, oid) in self.capture.roots.clone() {
            match self.memory.tables.get(&table) {
                Some(known) if known.oid != oid && known.oid != 0 => {
                    self.capture.miss(table, ANOTHER, known.left)
                }
                Some(known) if known.left.is_some() => self.capture.miss(table, NOT_CAPTURED, known.left),
                Some(_) => {}
                None if self.is_newborn(oid) || !self.was_listed(&table) => {}
                None if self.is_known_empty(oid) => self.doubt_both_names(oid, &table),
                None if self.memory.relations.contains_key(&oid) => self.capture.miss(table, ANOTHER, None),
                None => self.capture.miss(table, NOT_CAPTURED, None),
            }
        }
    }

    /// Whether `tables` had asked for that name before: if so, its rows were expected.
    fn was_listed(&self, table: &TableName) -> bool {
        let asks =
            |pattern: &String| pattern.parse().is_ok_and(|pattern: TablePattern| pattern.matches(table));
        self.memory.patterns.iter().any(asks)
    }

    /// Made since the last poll, and under this name: it was empty then.
    fn is_newborn(&self, oid: u32) -> bool {
        let Some(now) = self.catalog.get(&oid) else { return false };
        self.is_born_since(now)
            && now.marks.is_named_at_birth()
            && !self.memory.may_have_renamed_schema(&now.name, &now.marks)
    }

    /// It had no rows at the last poll, so that it has only those that came under a name since.
    fn is_known_empty(&self, oid: u32) -> bool {
        let then = self.memory.relations.get(&oid).filter(|then| then.has_storage && then.rows == Some(0));
        then.zip(self.catalog.get(&oid))
            .is_some_and(|(then, now)| moved(then.storage, now.storage) == Moved::No)
    }

    /// It was called otherwise, or was a partition of another table: until when, nobody can say.
    fn doubt_both_names(&mut self, oid: u32, table: &TableName) {
        let (Some(then), Some(now)) = (self.memory.relations.get(&oid), self.catalog.get(&oid)) else {
            return;
        };
        if self.is_unseen(now.marks.named_since(&then.marks)) {
            return self.capture.miss(table.clone(), ANOTHER, None);
        }
        let rows = then.rows;
        self.doubt(&then.name, table, ANOTHER);
        self.doubt(&now.name, table, ANOTHER);
        if then.name != now.name || now.marks.may_be_renamed(&then.marks) {
            self.capture.strangers.insert(table.clone());
        }
        if let Some(known) = self.capture.relations.get_mut(&oid) {
            known.rows = rows;
        }
    }

    /// Tables that an archive has whose spool is lost: whatever may have become of them since it was read last.
    pub(super) fn inherited(&mut self) {
        for table in self.not_inherited() {
            self.capture.miss(table, NOT_CAPTURED, None);
        }
        for table in &self.memory.inherited {
            let root = self.capture.roots.get(table).and_then(|oid| self.catalog.get(oid));
            let Some(now) = root else { continue };
            let layout = &now.layout;
            let columns = layout.attributes.values().map(|attribute| attribute.mark);
            let written = layout.written_by.iter().copied().chain(layout.types_altered_by());
            let heir = Heir {
                table: table.clone(),
                is_partitioned: now.kind == RelationKind::Partitioned,
                named_by: vec![now.marks.born, now.marks.named, now.marks.schema],
                changed_by: columns.chain(written).chain([now.marks.changed]).collect(),
            };
            match self.capture.hides_commits {
                true => self.doubt_heir(&heir),
                false => self.capture.heirs.push(heir),
            }
        }
    }

    /// Tables of which the archive may have rows, and does not have all changes since.
    fn not_inherited(&self) -> Vec<TableName> {
        let Memory { inherited, interrupted, is_heir, .. } = self.memory;
        let is_one =
            |table: &TableName| interrupted.contains(table) || *is_heir && !inherited.contains(table);
        self.capture.tables.iter().filter(|table| is_one(table)).cloned().collect()
    }

    /// The stream does not say which transactions it has: all of them may have done what is not older than the slot.
    fn doubt_heir(&mut self, heir: &Heir) {
        let has_any = |marks: &[u32]| marks.iter().any(|mark| !self.memory.is_old(*mark));
        let reason = match () {
            () if heir.is_partitioned => PARTITION,
            () if has_any(&heir.named_by) => ANOTHER,
            () if has_any(&heir.changed_by) => REWRITTEN,
            () => return,
        };
        self.capture.miss(heir.table.clone(), reason, None);
    }

    /// Tables that became something whose changes are in no stream: unlogged, or a view in their place.
    pub(super) fn not_carried(&mut self) {
        let asked = self.catalog.values().filter(|now| self.capture.asks_for(now));
        let asked: BTreeSet<&TableName> = asked.map(|now| &now.name).collect();
        for (table, then) in &self.memory.tables {
            if then.left.is_none() && !self.capture.tables.contains(table) && asked.contains(table) {
                self.capture.missed.push(Missed { table: table.clone(), reason: NOT_CAPTURED, since: None });
            }
        }
    }

    /// A name whose table is gone may come back, and is remembered for that; but production may make and drop tables
    /// under ever new names. The oldest of them are told to be missing, all in one gap, and then need no memory.
    pub(super) fn forgotten(&mut self) {
        let is_listed =
            |table: &TableName| self.capture.patterns.contains(&TablePattern::Table(table.clone()));
        let left = self.memory.tables.iter().filter_map(|(table, known)| Some((known.left?, table)));
        let mut left: Vec<(Lsn, &TableName)> =
            left.filter(|(_, table)| !self.capture.tables.contains(*table) && !is_listed(table)).collect();
        if left.len() <= LEFT_MAX {
            return;
        }
        left.sort_unstable();
        left.truncate(left.len() - LEFT_MAX / 2);
        for (since, table) in left {
            let missed = Missed { table: table.clone(), reason: NOT_CAPTURED, since: Some(since) };
            self.capture.missed.push(missed);
            self.capture.forgotten.insert(table.clone());
        }
    }

    /// Names that passed from one relation to another.
    pub(super) fn names(&mut self) {
        let then: BTreeMap<&TableName, u32> =
            self.memory.relations.iter().map(|(oid, then)| (&then.name, *oid)).collect();
        let strangers = self.capture.strangers.clone();
        for now in self.catalog.values() {
            let had_it = then.get(&now.name).filter(|oid| **oid != now.oid);
            let had_it = had_it.and_then(|oid| self.memory.relations.get(oid)?.table.clone());
            let has_it = self.capture.relations.get(&now.oid).and_then(|known| known.table.clone());
            if let Some(had_it) = had_it {
                for table in [Some(had_it), has_it].into_iter().flatten() {
                    self.doubt(&now.name, &table, PARTITION);
                }
            }
            let then = self.memory.relations.get(&now.oid);
            let was_renamed = match then {
                Some(then) => then.name != now.name || now.marks.may_be_renamed(&then.marks),
                None => self.memory.may_have_renamed_schema(&now.name, &now.marks),
            };
            let is_newly_named = then.is_none() && !self.memory.is_old(now.marks.named);
            let is_new_by_birth = is_newly_named && now.marks.is_named_at_birth();
            if was_renamed || is_newly_named && !is_new_by_birth {
                let own = self.capture.relations.get(&now.oid).and_then(|known| known.table.clone());
                let guests = self.capture.guests.get(now.name.name()).cloned().unwrap_or_default();
                let others = guests.iter().filter(|table| Some(*table) != own.as_ref());
                others.for_each(|table| self.doubt(&now.name, table, ANOTHER));
            }
            let may_be_new_here = was_renamed || is_newly_named;
            if may_be_new_here {
                strangers.iter().for_each(|table| self.doubt(&now.name, table, PARTITION));
                let lodgers = self.capture.lodgers.get(now.name.name()).cloned().unwrap_or_default();
                lodgers.iter().for_each(|table| self.doubt(&now.name, table, ANOTHER));
            }
        }
    }
}
