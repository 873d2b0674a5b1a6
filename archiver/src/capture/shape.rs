//! Whether ALTER TABLE has rewritten the rows of a captured table: what it does to rows is not in the stream.
//!
//! Pure: the columns and the file node of each relation, as polls saw them one after the other. A new file node alone
//! is VACUUM FULL, CLUSTER or TRUNCATE; new columns alone leave rows as they are. What cannot be told apart counts as
//! rewritten: a gap that is none costs a snapshot, one that is not told costs the truth.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};
use syncdata_formats::lsn::Lsn;
use syncdata_formats::name::TableName;
use syncdata_formats::types::keeps_text;

use super::Capture;

/// The reason of the gap.
pub(crate) const REWRITTEN: &str = "rewritten by ALTER TABLE";

/// What is remembered from poll to poll.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct ShapeMemory {
    shapes: BTreeMap<u32, Shape>,
    /// Tables that were rewritten at some position.
    in_doubt: BTreeMap<TableName, Doubt>,
    /// Partitioned tables that the archive has from before, and whose partitions did not have the same in old rows when we
    /// saw them first: what the table's had, nobody can say.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    unknown: BTreeSet<TableName>,
}

/// Where a table was rewritten: by these transactions, and at the latest there.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Doubt {
    writers: BTreeSet<u32>,
    upto: Lsn,
}

/// A relation that has rows, or had: a table or a partition.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Shape {
    /// The table that its rows travel as.
    pub table: TableName,
    /// 0 for a partitioned table.
    pub filenode: u32,
    pub columns: Vec<ShapeColumn>,
    /// The transactions that wrote what the catalog says of it.
    pub writers: BTreeSet<u32>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key: Option<KeyIndex>,
}

/// The index of a primary key. One that is dropped and made again is another.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct KeyIndex {
    pub oid: u32,
    /// Where the catalog was read that showed it first.
    pub seen_at: Lsn,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct ShapeColumn {
    pub attnum: u16,
    pub name: String,
    pub type_name: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub missing: Option<String>,
    /// The oid of the label that this is: it may get another name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub label: Option<u32>,
}

impl ShapeMemory {
    /// Takes in what the catalog shows, by oid, as of `catalog_at`, with the labels that enums have.
    pub(crate) fn look(&mut self, mut now: BTreeMap<u32, Shape>, catalog_at: Lsn, capture: &Capture) {
        let Agreed { at_odds, unknown } = self.agree(&mut now);
        for (oid, shape) in &mut now {
            let before = self.shapes.get(oid);
            shape.date_key(before, catalog_at);
            before.into_iter().for_each(|before| shape.keep_missing(before));
            shape.name_labels(*oid, capture);
            let Some(before) = before else { continue };
            if before.was_rewritten(shape) || before.has_got_any(shape, &at_odds) {
                let doubt = self.in_doubt.entry(shape.table.clone()).or_default();
                doubt.writers.extend(shape.writers.difference(&before.writers));
                doubt.upto = doubt.upto.max(catalog_at);
            }
        }
        self.shapes = now;
        self.unknown.extend(unknown);
        self.unknown.retain(|table| capture.inherits(table));
    }

    /// Tables of which nobody can say what older base copies lack.
    pub(crate) fn unknown(&self) -> &BTreeSet<TableName> {
        &self.unknown
    }

    /// Tables that were rewritten after that position, as far as is known with what was seen.
    pub(crate) fn rewritten_after(&self, seen: &BTreeMap<u32, Lsn>, position: Lsn) -> Vec<TableName> {
        let after = self.in_doubt.iter().filter(|(_, doubt)| doubt.reaches_past(seen, position));
        after.map(|(table, _)| table.clone()).collect()
    }

    pub(crate) fn is_in_doubt(&self) -> bool {
        !self.in_doubt.is_empty()
    }

    /// The transactions of which it matters where they end.
    pub(crate) fn watched(&self) -> impl Iterator<Item = u32> {
        self.in_doubt.values().flat_map(|doubt| doubt.writers.iter().copied())
    }

    /// All up to here is told, and in it those transactions have ended.
    pub(crate) fn told(&mut self, seen: &BTreeMap<u32, Lsn>, end: Lsn) {
        self.in_doubt.retain(|_, doubt| {
            let remains = doubt.reaches_past(seen, end);
            doubt.writers.retain(|writer| seen.get(writer).is_none_or(|ended| *ended > end));
            remains
        });
    }

    /// The key of this table has stood since a position before, as of the last look.
    pub(crate) fn has_kept_key(&self, oid: u32, since: Lsn) -> bool {
        let key = self.shapes.get(&oid).and_then(|shape| shape.key);
        key.is_some_and(|key| key.seen_at <= since)
    }

    /// What rows older than the column have in it, where the column is known. The catalog forgets it when the table is written
    /// anew.
    pub(crate) fn missing(&self, oid: u32, attnum: u16) -> Option<Option<&str>> {
        Some(self.shapes.get(&oid)?.column(attnum)?.missing.as_deref())
    }

    /// A partitioned table has no rows that could be older than a column: what they have is what those partitions agree on
    /// that were there before it came. One that came later has rows of its own, and says nothing of theirs. Where nobody knows
    /// which was there, those speak that have something to say.
    fn agree(&self, now: &mut BTreeMap<u32, Shape>) -> Agreed {
        type Said = BTreeSet<Option<String>>;
        let mut said: BTreeMap<(TableName, String), (Said, Said)> = BTreeMap::new();
        for (oid, shape) in now.iter().filter(|(_, shape)| !shape.is_partitioned()) {
            let was_there = self.shapes.get(oid).is_some_and(|before| before.table == shape.table);
            for column in &shape.columns {
                let (old, all) = said.entry((shape.table.clone(), column.name.clone())).or_default();
                if was_there {
                    old.insert(column.missing.clone());
                }
                all.insert(column.missing.clone());
            }
        }
        let mut agreed = Agreed::default();
        for (oid, shape) in now.iter_mut().filter(|(_, shape)| shape.is_partitioned()) {
            let is_new = !self.shapes.contains_key(oid);
            for column in &mut shape.columns {
                let place = (shape.table.clone(), column.name.clone());
                let (old, all) = said.get(&place).cloned().unwrap_or_default();
                if is_new && all.len() > 1 {
                    agreed.unknown.insert(shape.table.clone());
                }
                let speak =
                    if old.is_empty() { all.into_iter().filter(Option::is_some).collect() } else { old };
                if speak.len() > 1 {
                    agreed.at_odds.insert(place);
                }
                column.missing = speak.first().filter(|_| speak.len() == 1).cloned().flatten();
            }
        }
        agreed
    }
}

/// What comes of asking partitions for what old rows have.
#[derive(Debug, Default)]
struct Agreed {
    /// Columns of which they say different things.
    at_odds: BTreeSet<(TableName, String)>,
    /// Tables that are new to us, and of which they do.
    unknown: BTreeSet<TableName>,
}

impl Doubt {
    /// Where all of its transactions were seen, the last of them says it; else where the catalog was read.
    fn reaches_past(&self, seen: &BTreeMap<u32, Lsn>, position: Lsn) -> bool {
        let ends: Option<Vec<Lsn>> = self.writers.iter().map(|writer| seen.get(writer).copied()).collect();
        ends.and_then(|ends| ends.into_iter().max()).unwrap_or(self.upto) > position
    }
}

impl Shape {
    fn is_partitioned(&self) -> bool {
        self.filenode == 0
    }

    fn column(&self, attnum: u16) -> Option<&ShapeColumn> {
        self.columns.iter().find(|column| column.attnum == attnum)
    }

    fn was_rewritten(&self, now: &Shape) -> bool {
        let is_new_file = self.filenode != now.filenode;
        now.columns.iter().any(|column| match self.column(column.attnum) {
            // Also where no row was written anew: one as UTC needs no writing and prints another text.
            Some(before) if !keeps_text(&before.type_name, &column.type_name) => true,
            // By name, as changes and the copy know it, it is another column now.
            _ if self.columns.iter().any(|old| old.name == column.name && old.attnum != column.attnum) => {
                true
            }
            Some(_) => false,
            // Whatever default it came with may be gone, and what old rows have from it with the file.
            None => is_new_file && column.missing.is_none(),
        })
    }

    /// Whether any of these columns is new.
    fn has_got_any(&self, now: &Shape, columns: &BTreeSet<(TableName, String)>) -> bool {
        let is_new = |column: &&ShapeColumn| self.column(column.attnum).is_none();
        now.columns.iter().filter(is_new).any(|new| columns.contains(&(now.table.clone(), new.name.clone())))
    }

    fn date_key(&mut self, before: Option<&Shape>, catalog_at: Lsn) {
        let before = before.and_then(|before| before.key);
        if let Some(key) = &mut self.key {
            key.seen_at =
                before.filter(|before| before.oid == key.oid).map_or(catalog_at, |before| before.seen_at);
        }
    }

    /// Of a partitioned table what was said when the column came: another value is of a partition that came later.
    fn keep_missing(&mut self, before: &Shape) {
        let is_partitioned = self.is_partitioned();
        for column in &mut self.columns {
            let Some(known) = before.column(column.attnum) else { continue };
            if column.missing.is_none() || is_partitioned {
                column.missing.clone_from(&known.missing);
                column.label = known.label.filter(|_| known.type_name == column.type_name);
            }
        }
    }

    /// Old rows that have a label have it under the name that it has now.
    fn name_labels(&mut self, oid: u32, capture: &Capture) {
        for column in &mut self.columns {
            let Some(missing) = &mut column.missing else { continue };
            let labels = capture.labels(oid, column.attnum, &column.type_name).unwrap_or_default();
            let named = labels.iter().find(|(_, name)| name == missing).map(|(label, _)| *label);
            column.label = column.label.or(named);
            let now = labels.iter().find(|(label, _)| Some(*label) == column.label);
            now.into_iter().for_each(|(_, name)| missing.clone_from(name));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn column(attnum: u16, name: &str, type_name: &str) -> ShapeColumn {
        ShapeColumn { attnum, name: name.into(), type_name: type_name.into(), ..ShapeColumn::default() }
    }

    fn shape(filenode: u32, columns: &[ShapeColumn]) -> Shape {
        let writers = BTreeSet::from([filenode, 100 + u32::try_from(columns.len()).expect("few")]);
        Shape { table: "t".parse().expect("a name"), filenode, columns: columns.to_vec(), writers, key: None }
    }

    #[test]
    fn what_alter_table_did_to_rows_is_told_from_what_leaves_them() {
        let (id, value) = (column(1, "id", "integer"), column(2, "v", "integer"));
        let filled = |missing: Option<&str>| ShapeColumn {
            missing: missing.map(str::to_owned),
            ..column(3, "more", "text")
        };
        let before = shape(10, &[id.clone(), value.clone()]);
        for (filenode, columns, rewritten) in [
            (10, vec![id.clone(), value.clone()], false),
            // VACUUM FULL, CLUSTER, TRUNCATE.
            (11, vec![id.clone(), value.clone()], false),
            (11, vec![id.clone(), column(2, "v", "bigint")], false),
            (11, vec![id.clone(), column(2, "v", "text")], false),
            (11, vec![id.clone(), column(2, "v", "timestamp with time zone")], true),
            (10, vec![id.clone(), column(2, "v", "oid")], true),
            (10, vec![id.clone(), column(2, "w", "integer")], false),
            (10, vec![id.clone()], false),
            // A constant default is said by `missing`; a default that came later left old rows NULL.
            (10, vec![id.clone(), value.clone(), filled(Some("x"))], false),
            (10, vec![id.clone(), value.clone(), filled(None)], false),
            (11, vec![id.clone(), value.clone(), filled(None)], true),
            (11, vec![id.clone(), value.clone(), filled(Some("x"))], false),
            (11, vec![id.clone(), value.clone(), column(3, "more", "text")], true),
            // Dropped and added again; swapped.
            (10, vec![id.clone(), column(3, "v", "integer")], true),
            (10, vec![column(2, "id", "integer"), column(1, "v", "integer")], true),
        ] {
            let mut memory = ShapeMemory::default();
            memory.look(BTreeMap::from([(7, before.clone())]), Lsn::from_u64(100), &Capture::default());
            assert!(memory.in_doubt.is_empty(), "the first look compares with nothing");
            memory.look(
                BTreeMap::from([(7, shape(filenode, &columns))]),
                Lsn::from_u64(200),
                &Capture::default(),
            );
            assert_eq!(!memory.in_doubt.is_empty(), rewritten, "{filenode} {columns:?}");
            let mut other = memory.clone();
            memory.told(&BTreeMap::new(), Lsn::from_u64(199));
            assert_eq!(!memory.in_doubt.is_empty(), rewritten, "until all is told");
            memory.told(&BTreeMap::new(), Lsn::from_u64(200));
            assert!(memory.in_doubt.is_empty());
            // Or until what did it was seen.
            let seen: Vec<(u32, Lsn)> = other.watched().map(|writer| (writer, Lsn::from_u64(150))).collect();
            let seen: BTreeMap<u32, Lsn> = seen.into_iter().collect();
            if !seen.is_empty() {
                assert_eq!(other.rewritten_after(&seen, Lsn::from_u64(149)).len(), 1);
                assert!(other.rewritten_after(&seen, Lsn::from_u64(150)).is_empty());
                other.told(&seen, Lsn::from_u64(149));
                assert!(!other.in_doubt.is_empty());
                other.told(&seen, Lsn::from_u64(150));
                assert!(other.in_doubt.is_empty());
            }
        }
    }

    #[test]
    fn partitions_that_have_different_values_in_old_rows_of_a_new_column_are_a_gap() {
        let of = |filenode: u32, missing: &[&str]| {
            let more = missing.iter().map(|missing| ShapeColumn {
                missing: Some((*missing).to_owned()),
                ..column(3, "more", "text")
            });
            shape(filenode, &[column(1, "id", "integer")].into_iter().chain(more).collect::<Vec<_>>())
        };
        for (one, other, is_gap) in [("x", "x", false), ("x", "y", true)] {
            let mut memory = ShapeMemory::default();
            memory.look(
                BTreeMap::from([(7, of(0, &[])), (8, of(10, &[])), (9, of(11, &[]))]),
                Lsn::from_u64(100),
                &Capture::default(),
            );
            for later in ["of its own", "of its own too"] {
                let now =
                    [(7, of(0, &[""])), (8, of(10, &[one])), (9, of(11, &[other])), (10, of(12, &[later]))];
                memory.look(BTreeMap::from(now), Lsn::from_u64(200), &Capture::default());
            }
            assert_eq!(memory.is_in_doubt(), is_gap, "what came later is in rows of its own");
        }
    }

    #[test]
    fn a_key_has_stood_since_the_first_look_that_showed_its_index() {
        let mut memory = ShapeMemory::default();
        let lsn = Lsn::from_u64;
        for (at, index, kept_since_200) in
            [(100, Some(1), true), (300, Some(1), true), (400, None, false), (500, Some(2), false)]
        {
            let key = index.map(|oid| KeyIndex { oid, seen_at: lsn(0) });
            memory.look(BTreeMap::from([(7, Shape { key, ..shape(10, &[]) })]), lsn(at), &Capture::default());
            assert_eq!(memory.has_kept_key(7, lsn(200)), kept_since_200, "{at}");
        }
        assert!(memory.has_kept_key(7, lsn(500)) && !memory.has_kept_key(8, lsn(500)));
    }

    #[test]
    fn what_old_rows_have_outlives_the_catalogs_memory() {
        let with = |missing: Option<&str>| {
            let more = ShapeColumn { missing: missing.map(str::to_owned), ..column(3, "more", "text") };
            BTreeMap::from([(
                7,
                shape(if missing.is_some() { 10 } else { 11 }, &[column(1, "id", "integer"), more]),
            )])
        };
        let mut memory = ShapeMemory::default();
        memory.look(with(Some("x")), Lsn::from_u64(100), &Capture::default());
        memory.look(with(None), Lsn::from_u64(200), &Capture::default());
        assert_eq!(memory.missing(7, 3), Some(Some("x")));
        assert_eq!((memory.missing(7, 1), memory.missing(8, 3)), (Some(None), None));
        assert!(memory.in_doubt.is_empty());
    }

    #[test]
    fn what_old_rows_of_partitions_have_outlives_that_they_are_written_anew() {
        let of = |filenode: u32, attnum: u16, missing: Option<&str>| {
            let more = ShapeColumn { missing: missing.map(str::to_owned), ..column(attnum, "more", "text") };
            shape(filenode, &[column(1, "id", "integer"), more])
        };
        let bare = |filenode: u32| shape(filenode, &[column(1, "id", "integer")]);
        let mut memory = ShapeMemory::default();
        // The root, whose numbers are others than those of a partition that was attached.
        let mut see = |root: Shape, leaves: &[(u32, Shape)], said: Option<Option<&str>>| {
            let mut now: BTreeMap<u32, Shape> = leaves.iter().cloned().collect();
            now.insert(7, root);
            memory.look(now, Lsn::from_u64(100), &Capture::default());
            assert_eq!(memory.missing(7, 3), said);
        };
        see(bare(0), &[(8, bare(10)), (9, bare(11))], None);
        let root = || of(0, 3, None);
        see(root(), &[(8, of(10, 3, Some("x"))), (9, of(11, 5, Some("x")))], Some(Some("x")));
        see(root(), &[(8, of(12, 3, None)), (9, of(13, 5, None))], Some(Some("x")));
        see(root(), &[(8, of(12, 3, None)), (9, of(13, 5, Some("of its own")))], Some(Some("x")));
    }

    #[test]
    fn a_partition_that_comes_with_or_after_a_column_says_nothing_of_older_rows_of_the_table() {
        let of = |filenode: u32, missing: Option<&str>| {
            let more = ShapeColumn { missing: missing.map(str::to_owned), ..column(3, "more", "text") };
            shape(filenode, &[column(1, "id", "integer"), more])
        };
        let bare = |filenode: u32| shape(filenode, &[column(1, "id", "integer")]);
        for is_at_once in [true, false] {
            let mut memory = ShapeMemory::default();
            let at = Lsn::from_u64(100);
            memory.look(BTreeMap::from([(7, bare(0)), (8, bare(10))]), at, &Capture::default());
            if !is_at_once {
                memory.look(BTreeMap::from([(7, of(0, None)), (8, of(10, None))]), at, &Capture::default());
            }
            memory.look(
                BTreeMap::from([(7, of(0, None)), (8, of(10, None)), (9, of(11, Some("7")))]),
                at,
                &Capture::default(),
            );
            assert_eq!(memory.missing(7, 3), Some(None), "its rows have NULL");
            assert!(!memory.is_in_doubt());
        }
    }

    #[test]
    fn partitions_of_which_one_had_nothing_in_its_old_rows_are_a_gap() {
        let of = |filenode: u32, missing: Option<&str>| {
            let more = ShapeColumn { missing: missing.map(str::to_owned), ..column(3, "more", "text") };
            shape(filenode, &[column(1, "id", "integer"), more])
        };
        let bare = |filenode: u32| shape(filenode, &[column(1, "id", "integer")]);
        let mut memory = ShapeMemory::default();
        memory.look(
            BTreeMap::from([(7, bare(0)), (8, bare(10)), (9, bare(11))]),
            Lsn::from_u64(100),
            &Capture::default(),
        );
        let now = BTreeMap::from([(7, of(0, None)), (8, of(10, None)), (9, of(11, Some("7")))]);
        memory.look(now, Lsn::from_u64(200), &Capture::default());
        assert!(memory.is_in_doubt());
    }
}
