//! What became of the captured tables since the last poll: identity is the oid.
//!
//! The stream names a relation as it was called when the row was written, and never by its oid. Whoever goes by today's
//! names takes the rows of one table for those of another as soon as tables are renamed, attached, detached, dropped and
//! made again. So the catalog of the last poll ([`Memory`]) is held against that of this one, both as they are exactly
//! where the reading ends ([`Look`](crate::source::look::Look)).
//!
//! DDL leaves marks in the catalog: the transaction that wrote a catalog row last (`xmin`). A row that was not written
//! again proves that nothing happened to what it says:
//!
//! | catalog row | written by | unchanged means |
//! |---|---|---|
//! | pg_type, of the row type | rename, another schema or owner | it had this one name all the time |
//! | pg_inherits | becoming a partition | it was a partition of this parent all the time |
//! | pg_attribute, of a system column | the creation alone | (written together with pg_inherits: a partition from birth) |
//! | pg_class: file and TOAST table | see [`Storage`](super::Storage) | no rows but those of the stream |
//!
//! A changed mark shows the last change only, and earlier ones hide behind it. What follows:
//! - A relation with all its marks is what it was. Its name could not be another's meanwhile: its rows are its table's.
//! - A partition from birth is its parent's, whenever that was: nothing was in it before.
//! - A table that became a partition has a known place in the order of commits where its mark is the transaction of a
//!   COMMIT in the stream. Before it the rows are its own, after it the parent's; and what it held at that moment the
//!   parent gained without a row in the stream. So it must have been empty, by our own count of its rows from birth (or
//!   from a TRUNCATE) on; else, or with a mark that is part of a transaction (a savepoint has a number of its own, which
//!   the stream does not tell), it is a gap of the parent.
//! - A partition that was dropped or detached took its rows along, unless it was empty by our count and no row came
//!   under its name since: else it is a gap of the parent. When it went, nobody can say.
//! - Of a partition that was renamed or moved to another schema, rows are in doubt: they may be of another relation that
//!   had one of the names meanwhile, and rows under names in between are nobody's. Each such row is a gap of the parent; a
//!   partition that rests can be renamed freely. To see these rows, such an answer is read without a filter.
//! - A name that now means another table is a gap of that name, as is one that comes into the capture with rows that
//!   never travelled under it. So is a table whose name was away and came back, if rows came meanwhile.
//! - Rows that are written anew by ALTER TABLE, or while a table is unlogged, are not in the stream: a gap. So is a column
//!   name that passed to another column.
//!
//! The first poll of all has no memory. It takes for new what is marked by a transaction that the slot may have seen, and
//! nothing that is older.
//!
//! Writers and DDL cannot overlap on one table (a row's lock conflicts with that of DDL until the commit), which is why
//! the order of commits is also the order of rows and DDL of a table. A schema that is renamed is not locked so; its
//! tables have other names then, and that counts as any other rename. Not seen: a schema that is renamed away, replaced
//! by another with a table of the same name, and renamed back between two polls.
//!
//! What other types of columns make of rows that are written anew is told from the types, in [`shape`](super::shape).
//!
//! What cannot be told is a gap of exactly the tables it concerns, for the length of the answer.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use syncdata_formats::name::TableName;

use super::{
    Capture, CatalogTable, DEPTH_MAX, Doubt, Join, Known, Marks, Memory, RelationKind, Route, Storage,
    Target, Truncation,
};

pub(crate) const NOT_CAPTURED: &str = "not captured meanwhile";
pub(crate) const ANOTHER: &str = "another table of this name";
pub(crate) const PARTITION: &str = "partition changed";
pub(crate) const REWRITTEN: &str = "rewritten by ALTER TABLE";

/// Completes a capture that knows the catalog of today by what has changed since.
pub(super) fn find(capture: &mut Capture, catalog: &HashMap<u32, &CatalogTable>, memory: &Memory) {
    let mut changes = Changes { capture, catalog, memory };
    changes.unlogged_partitions();
    if memory.seen.is_none() {
        return;
    }
    if !memory.is_new() {
        changes.tables();
    }
    for oid in changes.capture.relations.keys().copied().collect::<Vec<_>>() {
        changes.relation(oid);
    }
    changes.gone();
    changes.names();
}

struct Changes<'a> {
    capture: &'a mut Capture,
    /// As it is now.
    catalog: &'a HashMap<u32, &'a CatalogTable>,
    memory: &'a Memory,
}

impl Changes<'_> {
    /// Their rows are in the table, and never in the stream.
    fn unlogged_partitions(&mut self) {
        let is_unlogged = |oid: &u32| {
            self.catalog
                .get(oid)
                .is_some_and(|now| now.kind == RelationKind::NotCaptured("an unlogged table"))
        };
        let unlogged = self.capture.relations.iter().filter(|(oid, _)| is_unlogged(oid));
        let tables: BTreeSet<TableName> = unlogged.filter_map(|(_, known)| known.table.clone()).collect();
        tables.into_iter().for_each(|table| self.capture.miss(table, NOT_CAPTURED, None));
    }

    /// Does every name still mean the table that it meant?
    fn tables(&mut self) {
        for (table, oid) in self.capture.roots.clone() {
            match self.memory.tables.get(&table) {
                Some(known) if known.oid != oid => self.capture.miss(table, ANOTHER, None),
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
        let asks = |pattern: &String| {
            pattern.parse().is_ok_and(|p: syncdata_formats::name::TablePattern| p.matches(table))
        };
        self.memory.patterns.iter().any(asks)
    }

    /// Made since the last poll, and under this name: it was empty then.
    fn is_newborn(&self, oid: u32) -> bool {
        let Some(now) = self.catalog.get(&oid) else { return false };
        self.is_born_since(now) && now.marks.named == now.marks.born
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
        let rows = then.rows;
        self.doubt(&then.name, table, ANOTHER);
        self.doubt(&now.name, table, ANOTHER);
        if then.name != now.name || then.marks.named != now.marks.named {
            self.capture.strangers.insert(table.clone());
        }
        if let Some(known) = self.capture.relations.get_mut(&oid) {
            known.rows = rows;
        }
    }

    fn is_born_since(&self, now: &CatalogTable) -> bool {
        self.memory.seen.is_some()
            && !self.memory.relations.contains_key(&now.oid)
            && !self.memory.is_old(now.marks.born)
    }

    fn relation(&mut self, oid: u32) {
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
        let now = self.capture.relations.get_mut(&oid).expect("the caller found it");
        now.rows = then.rows;
        let mut columns = then.columns.clone();
        columns.extend(now.columns.clone());
        let passed_on =
            now.columns.iter().any(|(name, number)| then.columns.get(name).is_some_and(|n| n != number));
        now.columns = columns;
        let now = now.clone();
        if self.links(oid).iter().any(|link| !self.is_known(*link)) {
            return self.capture.miss(table, PARTITION, None);
        }
        if passed_on {
            return self.capture.miss(table, REWRITTEN, None);
        }
        if was_renamed(then, &now) {
            let reason = if self.capture.roots.get(&table) == Some(&oid) { ANOTHER } else { PARTITION };
            self.doubt(&then.name, &table, reason);
            self.doubt(&now.name, &table, reason);
            self.capture.strangers.insert(table.clone());
        }
        match moved(then.storage, now.storage) {
            Moved::No => {}
            // What other types make of rows is told from the types.
            _ if then.types != now.types => {}
            Moved::Anew => self.capture.miss(table, REWRITTEN, None),
            Moved::Perhaps => self.expect_truncate(oid, table, now.marks),
        }
    }

    /// It is part of the table now and was not at the last poll.
    fn gained(&mut self, oid: u32, table: TableName, then: Option<&Known>) {
        let Some(now) = self.catalog.get(&oid).copied() else { return };
        let is_new_to_us = !self.memory.tables.contains_key(&table);
        let links: Vec<u32> = self.links(oid).into_iter().filter(|link| !self.is_known(*link)).collect();
        if links.iter().chain([&oid]).any(|link| self.is_unseen(*link)) {
            return self.capture.miss(table, PARTITION, None);
        }
        let joins = links.iter().filter_map(|link| {
            let marks = self.catalog.get(link)?.marks;
            let attached = marks.attached?;
            let from_birth = !self.memory.relations.contains_key(link) && attached == marks.born;
            let long_ago = is_new_to_us && self.memory.is_old(attached);
            (!from_birth && !long_ago).then_some(attached)
        });
        let xids: BTreeSet<u32> = joins.collect();
        if xids.is_empty() {
            self.is_part_from_birth(now, table);
        } else if now.kind != RelationKind::Partitioned {
            self.joins(now, table, then, xids);
        }
    }

    fn is_part_from_birth(&mut self, now: &CatalogTable, table: TableName) {
        let marks = now.marks;
        if self.is_born_since(now) {
            self.capture.relations.get_mut(&now.oid).expect("it is captured").rows = Some(0);
            if now.kind == RelationKind::Table && now.storage.file != now.oid {
                self.expect_truncate(now.oid, table.clone(), marks);
            }
        }
        if marks.named != marks.born && !self.memory.is_old(marks.named) {
            self.doubt(&now.name, &table, PARTITION);
            self.capture.strangers.insert(table);
        }
    }

    fn joins(&mut self, now: &CatalogTable, table: TableName, then: Option<&Known>, xids: BTreeSet<u32>) {
        let in_place = match then {
            Some(then) => moved(then.storage, now.storage) == Moved::No,
            None => self.is_born_since(now) && now.storage.file == now.oid,
        };
        let one_name = match then {
            Some(then) => then.name == now.name && then.marks.named == now.marks.named,
            None => now.marks.named == now.marks.born,
        };
        let rows = match then {
            Some(then) => then.rows,
            None => Some(0),
        };
        let own = || self.capture.lists_name(&now.name).then(|| Target::own(&now.name));
        let before = match then.and_then(|then| then.table.clone().map(|table| (table, then))) {
            Some((table, then)) => Some(Target {
                is_partition: table != then.name,
                table,
                virtual_columns: now.virtual_columns.clone(),
            }),
            None => own(),
        };
        let known = self.capture.relations.get_mut(&now.oid).expect("it is captured");
        known.rows = rows.filter(|_| in_place && one_name);
        let join = Join { table, before, xids, tainted: !in_place || !one_name };
        self.capture.joins.insert(now.oid, join);
    }

    /// Relations of the last poll that are none of their table's any more.
    fn gone(&mut self) {
        for (oid, then) in &self.memory.relations {
            let Some(table) = then.table.clone() else { continue };
            let now = self.capture.relations.get(oid);
            if now.is_some_and(|now| now.table.as_ref() == Some(&table)) {
                continue;
            }
            self.remember_route(*oid, then, &table);
            if !self.capture.tables.contains(&table) || self.is_missed(&table) || !then.has_storage {
                continue;
            }
            if then.rows != Some(0) {
                self.capture.miss(table, PARTITION, None);
                continue;
            }
            self.doubt(&then.name, &table, PARTITION);
            if self
                .catalog
                .get(oid)
                .is_some_and(|now| now.name != then.name || now.marks.named != then.marks.named)
            {
                self.capture.strangers.insert(table);
            }
        }
    }

    /// Rows that were written before it went still travel as they did, if the table is still asked for.
    fn remember_route(&mut self, oid: u32, then: &Known, table: &TableName) {
        if !self.capture.lists_name(table) {
            return;
        }
        let target =
            Target { table: table.clone(), is_partition: then.name != *table, virtual_columns: Vec::new() };
        let route = Route { oid: Some(oid), target: Some(target), doubts: BTreeSet::new() };
        self.capture.routes.entry(then.name.clone()).or_insert(route);
    }

    /// Names that passed from one relation to another.
    fn names(&mut self) {
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
            let may_be_new_here = match self.memory.relations.get(&now.oid) {
                Some(then) => then.name != now.name || then.marks.named != now.marks.named,
                None => !self.memory.is_old(now.marks.named),
            };
            if may_be_new_here {
                strangers.iter().for_each(|table| self.doubt(&now.name, table, PARTITION));
            }
        }
    }

    /// From now on a row under that name is a gap of that table.
    fn doubt(&mut self, name: &TableName, table: &TableName, reason: &'static str) {
        if self.capture.tables.contains(table) && !self.is_missed(table) {
            let route = self.capture.routes.entry(name.clone()).or_default();
            route.doubts.insert(Doubt { table: table.clone(), reason });
        }
    }

    /// Its rows lie elsewhere, and it has no TOAST table to tell why: a TRUNCATE that was the last change of all is one.
    fn expect_truncate(&mut self, oid: u32, table: TableName, marks: Marks) {
        self.capture.truncations.insert(oid, Truncation { table, xid: marks.changed });
    }

    fn is_missed(&self, table: &TableName) -> bool {
        self.capture.missed.iter().any(|missed| missed.table == *table)
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

    /// What happened to it lies in transactions that the slot handed out before the catalog showed them: their rows
    /// have been read without knowing of it.
    fn is_unseen(&self, link: u32) -> bool {
        let (Some(now), Some(seen)) = (self.catalog.get(&link), &self.memory.seen) else { return false };
        if self.memory.unseen.is_empty() {
            return false;
        }
        let began_before = |mark: u32| {
            let all_begun =
                syncdata_formats::snapshot::Seen { xmin: seen.xmax, xmax: seen.xmax, xip: Vec::new() };
            !self.memory.is_old(mark) && all_begun.has(mark)
        };
        let marks = [Some(now.marks.born), now.marks.attached];
        marks.into_iter().flatten().any(|mark| self.memory.unseen.contains(&mark) || began_before(mark))
    }
}

fn was_renamed(then: &Known, now: &Known) -> bool {
    then.name != now.name || then.marks.named != now.marks.named
}

/// What a new place of its rows says of a table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Moved {
    /// At most by TRUNCATE, which is in the stream, or by VACUUM FULL, CLUSTER and the like, which alter nothing.
    No,
    /// Its rows were written anew, and perhaps changed.
    Anew,
    /// Without a TOAST table nobody can say.
    Perhaps,
}

fn moved(then: Storage, now: Storage) -> Moved {
    match (then.file == now.file, then.toast, now.toast) {
        (true, ..) => Moved::No,
        (false, 0, 0) => Moved::Perhaps,
        (false, then, now) if then == now => Moved::No,
        (false, ..) => Moved::Anew,
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::{looks_for, table};
    use super::*;
    use syncdata_formats::change::Op;
    use syncdata_formats::lsn::Lsn;
    use syncdata_formats::snapshot::Seen;

    use crate::capture::Tally;

    const POSITION: Lsn = Lsn::from_u64(0x100);

    /// Transactions below 10 had ended when the catalog was looked at last.
    fn seen() -> Seen {
        Seen { xmin: 10, xmax: 10, xip: Vec::new() }
    }

    fn name(text: &str) -> TableName {
        text.parse().expect("a name")
    }

    fn capture(patterns: &[&str], catalog: &[CatalogTable], memory: &Memory) -> Capture {
        let patterns: Vec<_> = patterns.iter().map(|pattern| pattern.parse().expect("a pattern")).collect();
        Capture::resolve(&patterns, &BTreeSet::new(), catalog, memory).expect("resolves")
    }

    /// What a first poll remembers; then every partition is known to be empty.
    fn memory(patterns: &[&str], catalog: &[CatalogTable]) -> Memory {
        let first = capture(patterns, catalog, &Memory::default());
        let spans = (Lsn::from_u64(0), POSITION);
        let mut memory = first.remember(&Memory::default(), &Tally::default(), &seen(), spans, true);
        memory.relations.values_mut().for_each(|known| known.rows = Some(0));
        memory
    }

    fn orders() -> Vec<CatalogTable> {
        vec![
            table(1, "orders", RelationKind::Partitioned, None),
            table(2, "orders_1", RelationKind::Table, Some(1)),
            table(3, "other", RelationKind::Table, None),
        ]
    }

    /// The tables that are missed when rows come under those names.
    fn missed(capture: &Capture, rows: &[&str]) -> Vec<(String, &'static str)> {
        let mut tally = Tally { rows: capture.rows(), ..Tally::default() };
        for row in rows {
            let route = capture.route(&name(row));
            tally.doubt(&route);
            route.oid.into_iter().for_each(|oid| tally.count(oid, Op::Insert));
        }
        let missed = capture.missed(&tally, true).into_iter();
        missed.map(|missed| (missed.table.to_string(), missed.reason)).collect()
    }

    fn travels(capture: &Capture, relation: &str) -> Option<String> {
        capture.table_of(&name(relation)).map(|table| table.to_string())
    }

    #[test]
    fn what_has_all_its_marks_is_what_it_was() {
        let memory = memory(&["orders", "other"], &orders());
        let capture = capture(&["orders", "other"], &orders(), &memory);
        assert_eq!(missed(&capture, &["orders_1", "other", "stranger"]), []);
        assert!(!capture.expects_strangers());
        assert!(looks_for(&capture, "orders_1"));
    }

    #[test]
    fn a_partition_from_birth_needs_no_gap() {
        let memory = memory(&["orders"], &orders());
        let mut catalog = orders();
        let mut born = table(4, "orders_2", RelationKind::Table, Some(1));
        born.marks = Marks { changed: 12, named: 11, born: 11, attached: Some(11) };
        catalog.push(born);
        let capture = capture(&["orders"], &catalog, &memory);
        assert_eq!(missed(&capture, &["orders_2"]), []);
        assert_eq!(travels(&capture, "orders_2").as_deref(), Some("orders"));
        assert!(looks_for(&capture, "orders_2"));
    }

    #[test]
    fn a_partition_that_is_gone_took_its_rows_along() {
        let mut memory = memory(&["orders"], &orders());
        let catalog = [orders().remove(0)];
        let empty = capture(&["orders"], &catalog, &memory);
        assert_eq!(missed(&empty, &[]), []);
        assert_eq!(missed(&empty, &["orders_1"]), [("orders".to_owned(), PARTITION)]);
        assert!(looks_for(&empty, "orders_1"), "its rows are looked for");
        memory.relations.get_mut(&2).expect("known").rows = None;
        let capture = capture(&["orders"], &catalog, &memory);
        assert_eq!(missed(&capture, &[]), [("orders".to_owned(), PARTITION)]);
    }

    #[test]
    fn a_renamed_partition_may_rest_and_its_rows_are_in_doubt() {
        let memory = memory(&["orders"], &orders());
        let mut catalog = orders();
        (catalog[1].name, catalog[1].marks.named) = (name("orders_old"), 12);
        let capture = capture(&["orders"], &catalog, &memory);
        assert!(capture.expects_strangers(), "rows under all names are looked for");
        assert_eq!(missed(&capture, &["other"]), []);
        for row in ["orders_1", "orders_old", "in_between"] {
            assert_eq!(missed(&capture, &[row]), [("orders".to_owned(), PARTITION)], "{row}");
        }
    }

    #[test]
    fn a_table_that_becomes_a_partition_is_its_parent_s_from_that_transaction_on() {
        let memory = memory(&["*"], &orders());
        let mut catalog = orders();
        catalog[2].partition_of = Some(1);
        catalog[2].marks = Marks { changed: 12, attached: Some(12), ..catalog[2].marks };
        let capture = capture(&["*"], &catalog, &memory);
        let join = capture.join(3).expect("it joins");
        assert_eq!(join.before.as_ref().map(|before| before.table.to_string()).as_deref(), Some("other"));
        assert_eq!((&join.table, join.tainted), (&name("orders"), false));
        assert_eq!(missed(&capture, &[]), [], "it is empty, whenever it joined");
        assert_eq!(missed(&capture, &["other"]), [("orders".to_owned(), PARTITION)], "before or after?");
    }

    #[test]
    fn a_name_that_means_another_table_is_a_gap_of_that_name() {
        let memory = memory(&["*"], &orders());
        let mut catalog = orders();
        catalog[2].oid = 7;
        catalog[2].storage.file = 7;
        catalog[2].marks = Marks { changed: 12, named: 12, born: 12, attached: None };
        assert_eq!(missed(&capture(&["*"], &catalog, &memory), &[]), [("other".to_owned(), ANOTHER)]);
        // Made for the first time.
        catalog[2].name = name("new");
        assert_eq!(missed(&capture(&["*"], &catalog, &memory), &["new"]), []);
    }

    #[test]
    fn a_database_that_was_made_again_is_looked_at_as_for_the_first_time() {
        let memory = memory(&["orders", "other"], &orders());
        let mut catalog = orders();
        // Attached long before the slot was made.
        catalog[1].marks = Marks { changed: 3, attached: Some(3), ..catalog[1].marks };
        for table in &mut catalog {
            table.oid += 100;
            table.partition_of = table.partition_of.map(|oid| oid + 100);
            table.storage.file = table.oid;
        }
        let other = catalog.pop();
        let patterns = ["orders", "other"];
        let all_others = capture(&patterns, &catalog, &memory);
        assert_eq!(missed(&all_others, &[]), [("orders".to_owned(), ANOTHER)]);

        let memory = memory.of_another_database().or_since(Some(10));
        let again = capture(&patterns, &catalog, &memory);
        assert_eq!(missed(&again, &["orders_1"]), []);
        assert_eq!(
            again.vanished,
            [name("other")].into(),
            "a table that is not made yet is no spelling mistake"
        );
        catalog.extend(other);
        assert_eq!(missed(&capture(&patterns, &catalog, &memory), &["orders_1", "other"]), []);
    }

    #[test]
    fn a_table_that_left_and_returns_is_a_gap_from_then_on() {
        let before = memory(&["*"], &orders());
        let narrow = capture(&["orders"], &orders(), &before);
        let spans = (POSITION, Lsn::from_u64(0x200));
        let between = narrow.remember(&before, &Tally::default(), &seen(), spans, true);
        assert_eq!(between.captured(), [name("orders")].into());
        let capture = capture(&["*"], &orders(), &between);
        let returned = &capture.missed(&Tally::default(), true)[0];
        assert_eq!(
            (&returned.table, returned.reason, returned.since),
            (&name("other"), NOT_CAPTURED, Some(POSITION))
        );
    }

    #[test]
    fn where_the_rows_lie_says_whether_they_were_written_anew() {
        let at = |file, toast| Storage { file, toast };
        for (then, now, what) in [
            (at(1, 5), at(1, 5), Moved::No),
            (at(1, 5), at(2, 5), Moved::No),
            (at(1, 5), at(2, 6), Moved::Anew),
            (at(1, 0), at(2, 6), Moved::Anew),
            (at(1, 0), at(2, 0), Moved::Perhaps),
            (at(1, 0), at(1, 6), Moved::No),
        ] {
            assert_eq!(moved(then, now), what, "{then:?} {now:?}");
        }
    }

    #[test]
    fn a_column_name_that_passes_on_is_a_gap() {
        let mut catalog = orders();
        catalog[2].columns = [("a".to_owned(), 1), ("b".to_owned(), 2)].into();
        let memory = memory(&["*"], &catalog);
        catalog[2].columns = [("c".to_owned(), 1), ("b".to_owned(), 2), ("d".to_owned(), 3)].into();
        assert_eq!(missed(&capture(&["*"], &catalog, &memory), &[]), [], "renamed and added");
        catalog[2].columns = [("b".to_owned(), 1), ("a".to_owned(), 2)].into();
        let swapped = capture(&["*"], &catalog, &memory);
        assert_eq!(missed(&swapped, &[]), [("other".to_owned(), REWRITTEN)]);
    }
}
