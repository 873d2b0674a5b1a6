//! Relations that are, become or were part of a captured table.

use std::collections::BTreeSet;

use syncdata_formats::name::TableName;
use syncdata_formats::snapshot::Seen;

use super::types::{Altered, altered};
use super::{ANOTHER, Changes, NOT_CAPTURED, PARTITION, REWRITTEN, TYPE};
use crate::capture::rewrite::{
    Moved, have_other_types, moved, types_explain, were_computed_anew, were_written_again,
};
use crate::capture::{
    CatalogTable, DEPTH_MAX, Filled, Join, Known, Marks, RelationKind, Route, Target, Truncation, in_order,
};

impl Changes<'_> {
    /// Their rows are in the table, and never in the stream: a gap when such a partition turns up. While it is there,
    /// no snapshot takes the table, and so nothing mends that gap.
    pub(super) fn unlogged_partitions(&mut self) {
        let is_news = |oid: &u32, now: &Known| {
            let then = self.memory.relations.get(oid);
            now.not_carried && !then.is_some_and(|then| then.not_carried && then.table == now.table)
        };
        let news = self.capture.relations.iter().filter(|(oid, now)| is_news(oid, now));
        let tables: BTreeSet<TableName> = news.filter_map(|(_, known)| known.table.clone()).collect();
        tables.into_iter().for_each(|table| self.capture.miss(table, NOT_CAPTURED, None));
    }

    pub(super) fn relation(&mut self, oid: u32) {
        let Some(table) = self.capture.relations.get(&oid).and_then(|now| now.table.clone()) else { return };
        if self.is_missed(&table) {
            return;
        }
        match self.memory.relations.get(&oid) {
            Some(then) if then.table.as_ref() == Some(&table) => self.kept(oid, table, then),
            then => self.gained(oid, table, then),
        }
    }

    /// It was part of the table at the last poll and is now.
    fn kept(&mut self, oid: u32, table: TableName, then: &Known) {
        if then.unborn.is_some() {
            self.may_be_filled(oid, &table);
        }
        let now = self.capture.relations.get_mut(&oid).expect("the caller found it");
        (now.rows, now.suspected) = (then.rows, then.suspected);
        if let Some(born) = then.unborn {
            self.capture.births.insert(oid, born);
            self.capture.unborn.insert(oid);
        }
        let mut columns = then.columns.clone();
        columns.extend(now.columns.clone());
        let passed_on =
            now.columns.iter().any(|(name, number)| then.columns.get(name).is_some_and(|n| n != number));
        now.columns = columns;
        let now = now.clone();
        if self.links(oid).iter().any(|link| !self.is_known(*link)) {
            return self.capture.miss(table, PARTITION, None);
        }
        if passed_on || have_other_types(&then.attributes, &now.attributes) {
            return self.capture.miss(table, REWRITTEN, None);
        }
        match altered(then, &now) {
            Altered::Values => return self.capture.miss(table, TYPE, None),
            Altered::Labels => drop(self.capture.relabelled.insert(oid, table.clone())),
            Altered::No => {}
        }
        let reason = if self.capture.roots.get(&table) == Some(&oid) { ANOTHER } else { PARTITION };
        if self.is_unseen(now.marks.named_since(&then.marks)) {
            return self.capture.miss(table, reason, None);
        }
        if then.may_be_renamed(&now) {
            self.doubt(&then.name, &table, reason);
            self.doubt(&now.name, &table, reason);
            if then.name == now.name && then.marks.named == now.marks.named {
                let lodgers = self.capture.lodgers.entry(now.name.name().to_owned()).or_default();
                lodgers.insert(table.clone());
            } else {
                self.capture.strangers.insert(table.clone());
            }
        } else if now.marks.has_altered_schema(&then.marks) {
            self.may_lodge(&now.name, &table);
        }
        if were_computed_anew(&then.attributes, &now.attributes) {
            return self.capture.miss(table, REWRITTEN, None);
        }
        let Some(catalog) = self.catalog.get(&oid).copied() else { return };
        match moved(then.storage, now.storage) {
            Moved::No => {}
            // Its rows have the same text. Where they have another, that is told from the types.
            _ if types_explain(&then.attributes, &then.sequences, &catalog.layout) => {}
            Moved::Anew => self.capture.miss(table, REWRITTEN, None),
            Moved::Perhaps => {
                // A TRUNCATE leaves no mark on columns.
                if were_written_again(&then.attributes, &now.attributes) {
                    self.doubt(&now.name, &table, REWRITTEN);
                }
                self.expect_truncate(oid, table, now.marks);
            }
        }
    }

    /// It is part of the table now and was not at the last poll.
    fn gained(&mut self, oid: u32, table: TableName, then: Option<&Known>) {
        let Some(now) = self.catalog.get(&oid).copied() else { return };
        let is_new_to_us = !self.memory.tables.contains_key(&table);
        let links: Vec<u32> = self.links(oid).into_iter().filter(|link| !self.is_known(*link)).collect();
        let made = links.iter().chain([&oid]).filter_map(|link| self.catalog.get(link));
        let made = made.flat_map(|link| [Some(link.marks.born), link.marks.attached]).flatten();
        let named: Vec<u32> = match then {
            Some(then) => now.marks.named_since(&then.marks).collect(),
            None => vec![now.marks.named, now.marks.schema],
        };
        if self.is_unseen(made.chain(named)) {
            return self.capture.miss(table, PARTITION, None);
        }
        let (begun, known) = (self.memory.begun.get(&oid), self.capture.relations.get(&oid));
        // What rows of an answer that was cut said, was told from what it was then.
        if then.is_none() && begun.zip(known).is_some_and(|(begun, known)| !begun.has_columns_of(known)) {
            return self.capture.miss(table, REWRITTEN, None);
        }
        let has_other_schema = match then {
            Some(then) => now.marks.has_altered_schema(&then.marks),
            None => now.marks.schema != 0 && !self.memory.is_old(now.marks.schema),
        };
        if has_other_schema {
            self.may_lodge(&now.name, &table);
        }
        let joins = links.iter().filter_map(|link| {
            let marks = self.catalog.get(link)?.marks;
            let attached = marks.attached?;
            let at_once = !self.memory.relations.contains_key(link) && attached == marks.born;
            let long_ago = is_new_to_us && self.memory.is_old(attached);
            (!at_once && !long_ago).then_some(attached)
        });
        let xids: BTreeSet<u32> = joins.collect();
        if xids.is_empty() {
            self.may_be_filled(now.oid, &table);
            self.is_part_from_birth(now, table);
        } else if now.kind != RelationKind::Partitioned {
            self.joins(now, table, then, xids);
        }
    }

    /// What made it, or a table that it is a partition of, did not make it as a partition, and attached it.
    fn may_be_filled(&mut self, oid: u32, table: &TableName) {
        let Some(now) = self.catalog.get(&oid).filter(|now| now.kind == RelationKind::Table) else { return };
        if self.memory.begun.get(&oid).is_some_and(|begun| begun.is_told) {
            return;
        }
        let links = self.links(oid);
        let links = links.iter().filter_map(|link| self.catalog.get(link));
        let is_one = |link: &&&CatalogTable| {
            link.marks.attached == Some(link.marks.born)
                && !link.making.as_part
                && !self.memory.is_old(link.marks.born)
        };
        let by: BTreeSet<u32> = links.filter(is_one).map(|link| link.marks.born).collect();
        if !by.is_empty() {
            let filled = Filled { table: table.clone(), by, tainted: now.storage.file != oid };
            self.capture.filled.insert(oid, filled);
        }
    }

    fn is_part_from_birth(&mut self, now: &CatalogTable, table: TableName) {
        let marks = now.marks;
        if self.is_born_since(now) {
            let rows = self.rows_of_new(now);
            self.capture.relations.get_mut(&now.oid).expect("it is captured").rows = rows;
            if marks.is_named_at_birth() {
                self.is_born(now);
            }
            // Its TOAST table would be as old as it is, if only TRUNCATE had given it another file.
            let is_rewritten = now.storage.toast != 0 && !now.layout.written_by.contains(&marks.born);
            if now.kind == RelationKind::Table && now.storage.file != now.oid {
                match is_rewritten {
                    true => self.capture.miss(table.clone(), REWRITTEN, None),
                    false => {
                        // A TRUNCATE leaves no mark on columns.
                        let is_later = |mark: u32| mark != marks.born && !self.memory.is_old(mark);
                        if now.layout.attributes.values().any(|attribute| is_later(attribute.mark)) {
                            self.doubt(&now.name, &table, REWRITTEN);
                        }
                        self.expect_truncate(now.oid, table.clone(), marks);
                    }
                }
            }
        }
        let is_renamed = !marks.is_named_at_birth() && !self.memory.is_old(marks.named);
        if is_renamed || self.memory.may_have_renamed_schema(&now.name, &marks) {
            self.doubt(&now.name, &table, PARTITION);
            self.capture.strangers.insert(table);
        }
    }

    /// Up to what made it, rows under its name are another's. An answer that was cut may have had some of that.
    fn is_born(&mut self, now: &CatalogTable) {
        let begun = self.memory.begun.get(&now.oid);
        if begun.is_some_and(|begun| begun.is_told) {
            self.capture.told.insert(now.oid);
            return;
        }
        self.capture.births.insert(now.oid, now.marks.born);
        if begun.is_some_and(|begun| begun.unborn.is_some()) {
            self.capture.unborn.insert(now.oid);
        }
        if now.making.is_first {
            self.capture.made_first.insert(now.oid);
        }
    }

    fn joins(&mut self, now: &CatalogTable, table: TableName, then: Option<&Known>, xids: BTreeSet<u32>) {
        let in_place = match then {
            Some(then) => moved(then.storage, now.storage) == Moved::No,
            None => self.is_born_since(now) && now.storage.file == now.oid,
        };
        let one_name = match then {
            Some(then) => then.name == now.name && !now.marks.may_be_renamed(&then.marks),
            None => now.marks.is_named_at_birth(),
        };
        let rows = match then {
            Some(then) => then.rows,
            None => self.rows_of_new(now),
        };
        let own = || self.capture.lists_name(&now.name).then(|| Target::own(&now.name));
        let before = match then.and_then(|then| then.table.clone().map(|table| (table, then))) {
            Some((table, then)) => Some(Target {
                is_partition: table != then.name,
                table,
                virtual_columns: now.virtual_columns.clone(),
                columns: in_order(&now.columns),
            }),
            None => own(),
        };
        let known = self.capture.relations.get_mut(&now.oid).expect("it is captured");
        known.rows = rows.filter(|_| in_place && one_name);
        let join = Join { table, before, xids, tainted: !in_place || !one_name };
        self.capture.joins.insert(now.oid, join);
    }

    /// How many rows it has where the answer begins, or how that will be known.
    fn rows_of_new(&mut self, now: &CatalogTable) -> Option<u64> {
        let rows = self.memory.rows_of_new(now.oid);
        if rows.is_none() {
            self.capture.awaited.insert(now.oid, now.marks.born);
        }
        rows
    }

    /// Its rows may have come under another schema's name.
    fn may_lodge(&mut self, name: &TableName, table: &TableName) {
        if self.capture.tables.contains(table) {
            self.capture.guests.entry(name.name().to_owned()).or_default().insert(table.clone());
        }
    }

    /// Relations of the last poll that are none of their table's any more.
    pub(super) fn gone(&mut self) {
        for (oid, then) in self.memory.relations.iter().chain(&self.memory.begun) {
            let Some(table) = then.table.clone() else { continue };
            let now = self.capture.relations.get(oid);
            if now.is_some_and(|now| now.table.as_ref() == Some(&table)) {
                continue;
            }
            self.remember_route(*oid, then, &table);
            if !self.capture.tables.contains(&table) || self.is_missed(&table) || !then.has_storage {
                continue;
            }
            let now = self.catalog.get(oid);
            let is_unseen = now.is_some_and(|now| self.is_unseen(now.marks.named_since(&then.marks)));
            if then.rows != Some(0) || is_unseen {
                self.capture.miss(table, PARTITION, None);
                continue;
            }
            self.doubt(&then.name, &table, PARTITION);
            if now.is_some_and(|now| now.name != then.name || now.marks.may_be_renamed(&then.marks)) {
                self.capture.strangers.insert(table);
            }
        }
    }

    /// Rows that were written before it went still travel as they did, if the table is still asked for.
    fn remember_route(&mut self, oid: u32, then: &Known, table: &TableName) {
        if !self.capture.lists_name(table) {
            return;
        }
        let target = Target {
            table: table.clone(),
            is_partition: then.name != *table,
            virtual_columns: Vec::new(),
            columns: in_order(&then.columns),
        };
        let route = Route { oid: Some(oid), target: Some(target), doubts: BTreeSet::new() };
        self.capture.routes.entry(then.name.clone()).or_insert(route);
    }

    /// Its rows lie elsewhere, and it has no TOAST table to tell why: a TRUNCATE that was the last change of all is one.
    fn expect_truncate(&mut self, oid: u32, table: TableName, marks: Marks) {
        let (then, now) = (self.memory.relations.get(&oid), self.capture.relations.get(&oid));
        let has_same_columns = then.zip(now).is_some_and(|(then, now)| then.has_columns_of(now));
        // It has to leave the publication before it can become unlogged; a partition that is published with its parent has not.
        let is_published = self.catalog.get(&oid).is_some_and(|table| table.is_published());
        let only_moved = has_same_columns && is_published;
        self.capture.truncations.insert(oid, Truncation { table, xid: marks.changed, only_moved });
    }

    /// The relation and its ancestors below the table's root: each of them is a partition of the next.
    fn links(&self, oid: u32) -> Vec<u32> {
        let parent = |oid: &u32| self.capture.relations.get(oid)?.parent;
        let has_parent =
            |oid: &u32| self.capture.relations.get(oid).is_some_and(|known| known.parent.is_some());
        std::iter::successors(Some(oid), parent).take(DEPTH_MAX).take_while(has_parent).collect()
    }

    /// It is a partition of the same table as at the last poll, and was all the time.
    fn is_known(&self, link: u32) -> bool {
        let (then, now) = (self.memory.relations.get(&link), self.capture.relations.get(&link));
        then.zip(now)
            .is_some_and(|(then, now)| then.parent == now.parent && then.marks.attached == now.marks.attached)
    }

    /// Whether one of these marks is of a transaction that the slot handed out before the catalog showed it: rows have been
    /// read without knowing of what it did.
    pub(super) fn is_unseen(&self, marks: impl IntoIterator<Item = u32>) -> bool {
        let Some(seen) = self.memory.seen.as_ref().filter(|_| !self.memory.unseen.is_empty()) else {
            return false;
        };
        // It may be a part of such a transaction, which has a number of its own.
        let all_begun = Seen { xmin: seen.xmax, xmax: seen.xmax, xip: Vec::new() };
        let began_before = |mark: u32| !self.memory.is_old(mark) && all_begun.has(mark);
        marks.into_iter().any(|mark| self.memory.unseen.contains(&mark) || began_before(mark))
    }
}
