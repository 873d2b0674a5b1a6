//! Which tables are captured, under which names: the operator's patterns held against the source's catalog.
//!
//! Pure: the catalog comes in as values. A source may hand over more than is captured; that is dropped when the row is
//! read.

pub(crate) mod shape;
pub(crate) mod since;

use std::collections::{BTreeMap, BTreeSet, HashMap};

use syncdata_formats::lsn::Lsn;
use syncdata_formats::name::{TableName, TablePattern};
use syncdata_formats::{Error, Kind, Result};

/// Partitions of partitions of partitions: more levels than anybody makes.
const DEPTH_MAX: usize = 64;

/// A relation as the catalog describes it now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct CatalogTable {
    pub oid: u32,
    pub name: TableName,
    pub kind: RelationKind,
    /// The table that it is a partition of.
    pub partition_of: Option<u32>,
    /// Whether an UPDATE or DELETE can be decoded: the identity really has columns.
    pub identity_usable: bool,
    /// Columns without storage: a source may print them as null.
    pub virtual_columns: Vec<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum RelationKind {
    Table,
    Partitioned,
    /// Kinds of relation that logical decoding does not carry, by the name people know.
    NotCaptured(&'static str),
}

/// What is captured, and under which name.
#[derive(Clone, Debug, Default)]
pub(crate) struct Capture {
    /// Every relation that the catalog knows; `None` for those that are not captured.
    relations: HashMap<TableName, Option<Target>>,
    /// Partitions that were dropped since an earlier poll.
    dropped_partitions: BTreeMap<TableName, TableName>,
    /// What was a partition of a captured table at an earlier poll, and now is none of it.
    detached: BTreeMap<TableName, Former>,
    patterns: Vec<TablePattern>,
    /// The names that our files use.
    pub tables: BTreeSet<TableName>,
    /// Captured relations whose updates and deletes would be lost.
    pub without_identity: BTreeSet<TableName>,
    /// Listed names that stand in the catalog no more, though they once did.
    pub vanished: BTreeSet<TableName>,
}

/// Under which name a relation of the stream travels.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Target {
    pub table: TableName,
    /// The relation is a partition of the table that it travels as.
    pub is_partition: bool,
    pub virtual_columns: Vec<String>,
}

/// What earlier polls captured: a table that was dropped since is no spelling mistake, and a partition that was
/// dropped since belonged to its parent when its last rows were written.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub(crate) struct Remembered {
    pub tables: BTreeSet<TableName>,
    /// Partition → the name that it travelled as.
    pub partitions: BTreeMap<TableName, TableName>,
    /// The same as of one poll earlier: rows that were written after a poll asked for its position may have been
    /// followed by a DROP that the catalog of that poll shows already.
    #[serde(default)]
    pub partitions_before: BTreeMap<TableName, TableName>,
    /// Where the source's WAL ended when that catalog had been read: what committed later, it knew.
    #[serde(default)]
    pub catalog_at: Lsn,
}

/// What a relation belonged to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Former {
    pub table: TableName,
    /// Transactions that ended after it came after the detaching; `None` when that is not known yet.
    pub until: Option<Lsn>,
}

impl Former {
    pub(crate) fn concerns(&self, end_lsn: Lsn) -> bool {
        self.until.is_none_or(|until| end_lsn <= until)
    }
}

impl Capture {
    pub(crate) fn resolve(
        patterns: &[TablePattern],
        schemas: &BTreeSet<String>,
        catalog: &[CatalogTable],
        remembered: &Remembered,
    ) -> Result<Capture> {
        if patterns.is_empty() {
            return Err(Error::new(Kind::BadInput, "No tables in whitelist")
                .hint("list tables in the setting `tables`, for example tables = [\"users\", \"sales.*\"]"));
        }
        let mut capture = Capture { patterns: patterns.to_vec(), ..Capture::default() };
        for pattern in patterns {
            capture.check(pattern, schemas, catalog, remembered)?;
        }
        let by_oid: HashMap<u32, &CatalogTable> = catalog.iter().map(|table| (table.oid, table)).collect();
        for table in catalog {
            let ancestor = capture.captured_ancestor(table, &by_oid);
            capture.add(table, ancestor);
        }
        capture.recall_partitions(remembered);
        Ok(capture)
    }

    /// How a relation of the stream travels; `None` when it is not captured.
    pub(crate) fn target(&self, relation: &TableName) -> Option<Target> {
        if let Some(known) = self.relations.get(relation) {
            return known.clone();
        }
        if let Some(parent) = self.dropped_partitions.get(relation) {
            return Some(Target { table: parent.clone(), is_partition: true, virtual_columns: Vec::new() });
        }
        // Dropped or renamed since, but its rows were written under a name that is listed.
        let listed = self.patterns.iter().any(|pattern| pattern.matches(relation));
        listed.then(|| Target { table: relation.clone(), is_partition: false, virtual_columns: Vec::new() })
    }

    /// The captured table whose partition a relation was, though it is none now. The stream does not tell the rows
    /// of then from those of now.
    pub(crate) fn detached_from(&self, relation: &TableName) -> Option<&Former> {
        self.detached.get(relation)
    }

    fn recall_partitions(&mut self, remembered: &Remembered) {
        let before = remembered.partitions_before.iter().map(|known| (known, Some(remembered.catalog_at)));
        let known = remembered.partitions.iter().map(|known| (known, None));
        for ((partition, parent), until) in before.chain(known) {
            if !self.tables.contains(parent) {
                continue;
            }
            match self.relations.get(partition) {
                None => drop(self.dropped_partitions.insert(partition.clone(), parent.clone())),
                Some(Some(now)) if &now.table == parent => {}
                Some(_) => {
                    drop(self.detached.insert(partition.clone(), Former { table: parent.clone(), until }))
                }
            }
        }
    }

    /// Relations under a pattern that cannot be captured, in words.
    pub(crate) fn passed_over<'a>(
        &'a self,
        catalog: &'a [CatalogTable],
    ) -> impl Iterator<Item = String> + 'a {
        catalog.iter().filter_map(|relation| match relation.kind {
            // Views and sequences under a pattern are nobody's mistake.
            RelationKind::NotCaptured(
                kind @ ("an unlogged table" | "a materialized view" | "a foreign table"),
            ) if self.patterns.iter().any(|pattern| pattern.matches(&relation.name)) => {
                Some(format!("{} is {kind}", relation.name))
            }
            _ => None,
        })
    }

    /// What the next poll should know of this one. While the answer is not `complete`, more rows of what earlier
    /// polls knew may come.
    pub(crate) fn remember(&self, earlier: &Remembered, complete: bool, catalog_at: Lsn) -> Remembered {
        let travels = |(relation, target): (&TableName, &Option<Target>)| {
            target
                .as_ref()
                .filter(|target| target.is_partition)
                .map(|target| (relation.clone(), target.table.clone()))
        };
        // Of what is captured no more, only names that the settings still list: there they are no spelling mistakes.
        let is_listed = |table: &&TableName| {
            self.patterns.iter().any(|pattern| matches!(pattern, TablePattern::Table(name) if name == *table))
        };
        let listed = earlier.tables.iter().filter(is_listed);
        let tables = listed.chain(&self.tables).cloned().collect();
        if !complete {
            return Remembered { tables, ..earlier.clone() };
        }
        let partitions = self.relations.iter().filter_map(travels).collect();
        Remembered { tables, partitions, partitions_before: earlier.partitions.clone(), catalog_at }
    }

    fn check(
        &mut self,
        pattern: &TablePattern,
        schemas: &BTreeSet<String>,
        catalog: &[CatalogTable],
        remembered: &Remembered,
    ) -> Result<()> {
        let name = match pattern {
            TablePattern::All => return Ok(()),
            TablePattern::Schema(schema) if schemas.contains(schema) => return Ok(()),
            TablePattern::Schema(schema) => {
                return Err(Error::new(Kind::BadInput, format!("there is no schema {schema} for {pattern}"))
                    .hint("correct the name in `tables`; unquoted names are lower case"));
            }
            TablePattern::Table(name) => name,
        };
        match catalog.iter().find(|table| &table.name == name).map(|table| table.kind) {
            Some(RelationKind::Table | RelationKind::Partitioned) => Ok(()),
            Some(RelationKind::NotCaptured(kind)) => {
                Err(Error::new(Kind::BadInput, format!("{name} is {kind}: logical decoding does not carry its changes"))
                    .hint("take it out of `tables`"))
            }
            None if remembered.tables.contains(name) => {
                self.vanished.insert(name.clone());
                Ok(())
            }
            None => Err(Error::new(Kind::BadInput, format!("there is no table {name} in the source"))
                .hint("correct the name in `tables`; outside of schema public it needs its schema, and capitals need quotes")),
        }
    }

    /// The listed relation nearest to the root among a relation and its ancestors.
    fn captured_ancestor<'a>(
        &self,
        table: &'a CatalogTable,
        by_oid: &HashMap<u32, &'a CatalogTable>,
    ) -> Option<&'a CatalogTable> {
        let parent = |table: &&CatalogTable| table.partition_of.and_then(|oid| by_oid.get(&oid).copied());
        // The catalog has no cycles; a concurrent ALTER seen half way cannot make this endless either.
        std::iter::successors(Some(table), parent).take(DEPTH_MAX).filter(|table| self.lists(table)).last()
    }

    fn lists(&self, table: &CatalogTable) -> bool {
        let carried = matches!(table.kind, RelationKind::Table | RelationKind::Partitioned);
        let listed = |pattern: &TablePattern| match pattern {
            TablePattern::Table(name) => name == &table.name,
            // Patterns mean whole tables, not their partitions.
            TablePattern::All | TablePattern::Schema(_) => {
                table.partition_of.is_none() && pattern.matches(&table.name)
            }
        };
        carried && self.patterns.iter().any(listed)
    }

    fn add(&mut self, relation: &CatalogTable, ancestor: Option<&CatalogTable>) {
        let target = ancestor.map(|ancestor| Target {
            table: ancestor.name.clone(),
            is_partition: ancestor.oid != relation.oid,
            virtual_columns: relation.virtual_columns.clone(),
        });
        if let Some(ancestor) = ancestor {
            self.tables.insert(ancestor.name.clone());
            // A partitioned table holds no rows: what counts is the identity of its partitions.
            if relation.kind == RelationKind::Table && !relation.identity_usable {
                self.without_identity.insert(relation.name.clone());
            }
        }
        self.relations.insert(relation.name.clone(), target);
    }

    /// Every relation whose rows travel, as the catalog has it.
    pub(crate) fn captured<'a>(
        &'a self,
        catalog: &'a [CatalogTable],
    ) -> impl Iterator<Item = (&'a CatalogTable, &'a Target)> {
        catalog.iter().filter_map(|table| Some((table, self.relations.get(&table.name)?.as_ref()?)))
    }

    pub(crate) fn patterns(&self) -> &[TablePattern] {
        &self.patterns
    }

    /// Every relation whose rows travel.
    pub(crate) fn relations(&self) -> impl Iterator<Item = &TableName> {
        self.relations.iter().filter(|(_, target)| target.is_some()).map(|(name, _)| name)
    }

    /// Relations whose changes are looked for though no pattern names them: partitions, also those of earlier polls.
    pub(crate) fn beyond_patterns(&self) -> impl Iterator<Item = &TableName> {
        let is_partition =
            |target: &&Option<Target>| target.as_ref().is_some_and(|target| target.is_partition);
        let partitions =
            self.relations.iter().filter(move |(_, target)| is_partition(target)).map(|(name, _)| name);
        partitions.chain(self.dropped_partitions.keys()).chain(self.detached.keys())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table(oid: u32, name: &str, kind: RelationKind, partition_of: Option<u32>) -> CatalogTable {
        CatalogTable {
            oid,
            name: name.parse().expect("a name"),
            kind,
            partition_of,
            identity_usable: true,
            virtual_columns: Vec::new(),
        }
    }

    fn catalog() -> Vec<CatalogTable> {
        use RelationKind::{NotCaptured, Partitioned, Table};
        vec![
            table(1, "users", Table, None),
            table(2, "sales.orders", Partitioned, None),
            table(3, "sales.orders_2026", Partitioned, Some(2)),
            table(4, "parts.orders_2026_01", Table, Some(3)),
            table(5, "sales.totals", NotCaptured("a materialized view"), None),
            table(6, "\"we ird,.*\\\"", Table, None),
        ]
    }

    fn resolve(patterns: &[&str], remembered: &Remembered) -> Result<Capture> {
        let patterns: Vec<TablePattern> = patterns.iter().map(|p| p.parse().expect("a pattern")).collect();
        let schemas = ["public", "sales", "parts", "empty"].map(str::to_owned).into();
        Capture::resolve(&patterns, &schemas, &catalog(), remembered)
    }

    fn travels(capture: &Capture, relation: &str) -> Option<String> {
        capture.target(&relation.parse().expect("a name")).map(|target| target.table.to_string())
    }

    fn looks_for(capture: &Capture, relation: &str) -> bool {
        let relation = relation.parse().expect("a name");
        capture.beyond_patterns().any(|name| *name == relation)
    }

    #[test]
    fn a_partition_travels_as_the_listed_ancestor_nearest_to_the_root() {
        for (patterns, travels_as) in [
            (&["sales.orders"][..], Some("sales.orders")),
            (&["sales.orders", "parts.orders_2026_01"], Some("sales.orders")),
            (&["sales.orders_2026"], Some("sales.orders_2026")),
            (&["parts.orders_2026_01"], Some("parts.orders_2026_01")),
            (&["sales.*"], Some("sales.orders")),
            (&["*"], Some("sales.orders")),
            // A pattern means tables, not the partitions that lie in its schema.
            (&["parts.*"], None),
            (&["users"], None),
        ] {
            let capture = resolve(patterns, &Remembered::default()).expect("resolves");
            assert_eq!(travels(&capture, "parts.orders_2026_01").as_deref(), travels_as, "{patterns:?}");
        }
    }

    #[test]
    fn names_that_match_nothing_are_errors() {
        for (pattern, says) in [
            ("user", "no table user"),
            ("missing.*", "no schema missing"),
            ("sales.totals", "materialized view"),
        ] {
            let error = resolve(&["users", pattern], &Remembered::default()).expect_err("refused");
            assert!(error.to_string().contains(says), "{error}");
        }
        assert!(resolve(&["empty.*"], &Remembered::default()).is_ok(), "an empty schema may fill later");
        let error = resolve(&[], &Remembered::default()).expect_err("refused");
        assert_eq!(error.to_string(), "No tables in whitelist");
    }

    #[test]
    fn what_was_dropped_since_still_travels() {
        let name = |text: &str| text.parse::<TableName>().expect("a name");
        let remembered = Remembered {
            tables: [name("gone"), name("sales.orders")].into(),
            partitions: [(name("parts.old"), name("sales.orders"))].into(),
            ..Remembered::default()
        };
        let capture = resolve(&["sales.orders", "gone"], &remembered).expect("resolves");
        assert_eq!(travels(&capture, "parts.old").as_deref(), Some("sales.orders"));
        assert_eq!(travels(&capture, "gone").as_deref(), Some("gone"));
        assert!(looks_for(&capture, "parts.old"));
        assert_eq!(capture.vanished, [name("gone")].into());
        assert!(capture.remember(&remembered, true, Lsn::default()).tables.contains(&name("gone")));
    }

    #[test]
    fn a_dropped_partition_is_known_until_nothing_of_it_can_come() {
        let name = |text: &str| text.parse::<TableName>().expect("a name");
        let mut remembered = Remembered {
            partitions: [(name("parts.old"), name("sales.orders"))].into(),
            ..Remembered::default()
        };
        for (complete, known) in [(false, true), (true, true), (true, false)] {
            let capture = resolve(&["sales.orders"], &remembered).expect("resolves");
            remembered = capture.remember(&remembered, complete, Lsn::from_u64(8));
            let capture = resolve(&["sales.orders"], &remembered).expect("resolves");
            assert_eq!(travels(&capture, "parts.old").is_some(), known, "complete: {complete}");
        }
    }

    #[test]
    fn a_detached_partition_is_told_from_a_dropped_one() {
        let name = |text: &str| text.parse::<TableName>().expect("a name");
        let remembered = Remembered {
            partitions: [(name("users"), name("sales.orders"))].into(),
            ..Remembered::default()
        };
        let capture = resolve(&["sales.orders"], &remembered).expect("resolves");
        assert_eq!(travels(&capture, "users"), None);
        let former = |until| Some(Former { table: name("sales.orders"), until });
        assert_eq!(capture.detached_from(&name("users")).cloned(), former(None));
        assert!(looks_for(&capture, "users"));

        let capture = resolve(&["sales.orders"], &capture.remember(&remembered, true, Lsn::from_u64(8)));
        let found = capture.expect("resolves").detached_from(&name("users")).cloned();
        assert_eq!(found, former(Some(Lsn::from_u64(8))));
        let concerned = |end| found.as_ref().is_some_and(|former| former.concerns(Lsn::from_u64(end)));
        assert_eq!((concerned(8), concerned(9)), (true, false));
    }

    #[test]
    fn relations_that_are_not_captured_do_not_travel_under_a_pattern() {
        let capture = resolve(&["sales.*"], &Remembered::default()).expect("resolves");
        assert_eq!(travels(&capture, "sales.totals"), None);
        assert_eq!(
            travels(&capture, "sales.new").as_deref(),
            Some("sales.new"),
            "created and dropped between polls"
        );
    }

    #[test]
    fn the_identity_that_counts_is_the_partitions() {
        let mut catalog = catalog();
        catalog[1].identity_usable = false;
        catalog[3].identity_usable = false;
        let patterns = ["sales.orders".parse().expect("a pattern")];
        let capture = Capture::resolve(&patterns, &BTreeSet::new(), &catalog, &Remembered::default())
            .expect("resolves");
        let names: Vec<String> = capture.without_identity.iter().map(ToString::to_string).collect();
        assert_eq!(names, ["parts.orders_2026_01"]);
    }
}
