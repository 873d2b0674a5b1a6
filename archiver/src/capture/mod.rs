//! Which tables are captured, under which names: the operator's patterns held against the source's catalog.
//!
//! Pure: the catalog comes in as values. A source may hand over more than is captured; that is dropped when the row is
//! read.
//!
//! A name in the stream is the one that a relation had when the row was written. [`changes`] tells what became of the
//! relations since the last poll, which [`memory`] knows by their oids.

mod beside;
mod changes;
pub(crate) mod joins;
pub(crate) mod memory;
pub(crate) mod naming;
pub(crate) mod position;
mod published;
mod retyped;
mod rewrite;
pub(crate) mod shape;
pub(crate) mod since;
pub(crate) mod suspects;
mod tally;
pub(crate) mod watch;

use std::collections::{BTreeMap, BTreeSet, HashMap};

use syncdata_formats::lsn::Lsn;
use syncdata_formats::name::{TableName, TablePattern};
use syncdata_formats::{Error, Kind, Result};

use beside::Beside;
use changes::ANOTHER;
pub(crate) use changes::{PARTITION, TYPE};
pub(crate) use joins::{Filled, Join, Making};
pub(crate) use memory::{Attribute, Labels, Layout, MadeOf, Marks, Memory, OwnedSequence, Storage};
use memory::{Captured, Known, Schema};
use naming::Naming;
pub(crate) use published::{CatalogRow, Publication, Stream};
pub(crate) use retyped::{Alteration, Retyped, Written};
pub(crate) use tally::Tally;

/// Partitions of partitions of partitions: more levels than anybody makes.
pub(crate) const DEPTH_MAX: usize = 64;

/// A relation as the catalog describes it now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct CatalogTable {
    pub oid: u32,
    pub name: TableName,
    pub kind: RelationKind,
    /// The table that it is a partition of.
    pub partition_of: Option<u32>,
    /// The tables that it inherits from (INHERITS): who reads these reads its rows too, and they are its own.
    pub heir_of: Vec<u32>,
    /// Whether an UPDATE or DELETE can be decoded: the identity really has columns.
    pub identity_usable: bool,
    /// Columns without storage: a source may print them as null.
    pub virtual_columns: Vec<String>,
    pub storage: Storage,
    pub marks: Marks,
    pub making: Making,
    /// With their numbers. Empty for kinds that are not captured.
    pub columns: BTreeMap<String, i16>,
    pub layout: Layout,
    pub stream: Stream,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum RelationKind {
    Table,
    Partitioned,
    /// Kinds of relation that logical decoding does not carry, by the name people know.
    NotCaptured(&'static str),
}

/// A table of which no publication can say what was changed.
pub(crate) const NO_IDENTITY: RelationKind = RelationKind::NotCaptured("a table without a replica identity");

/// A table whose changes are in no stream.
pub(crate) const UNLOGGED: RelationKind = RelationKind::NotCaptured("an unlogged table");

/// What is captured, and under which name.
#[derive(Clone, Debug, Default)]
pub(crate) struct Capture {
    /// By every name that the catalog knows now, or that a captured relation had at the last poll.
    routes: HashMap<TableName, Route>,
    /// Tables that a row under a name which nobody knows may belong to.
    strangers: BTreeSet<TableName>,
    /// Relations whose schema had another name for a while, by their own name: which tables their rows are of.
    lodgers: BTreeMap<String, BTreeSet<TableName>>,
    /// Those whose schema is new or has other rights, and may have had another name besides.
    guests: BTreeMap<String, BTreeSet<TableName>>,
    /// Those that transactions which are still open may call otherwise, by their own name.
    elsewhere: BTreeMap<String, BTreeSet<Doubt>>,
    /// What was altered since the last look and waited for no writer.
    altered_beside_writers: Vec<Beside>,
    /// Relations that are new and whose rows are not known: they have none when the transaction begins that made them.
    awaited: BTreeMap<u32, u32>,
    /// Who altered types, as no look has shown before.
    types_altered: BTreeSet<u32>,
    /// What the labels of enums are called, by the type's oid.
    labels: BTreeMap<u32, Labels>,
    /// As the catalog has them.
    schemas: BTreeMap<u32, Schema>,
    /// Relations whose rows cannot have been counted.
    uncounted: BTreeSet<u32>,
    /// Tables of which something may have altered rows, or what they mean, before we knew them.
    touched: BTreeSet<TableName>,
    /// Tables of which nobody can say what this answer says of them.
    missed: Vec<Missed>,
    /// Relations whose columns were altered: what their rows may mean by names.
    naming: BTreeMap<u32, Naming>,
    /// Relations with columns whose types were altered.
    retyped: BTreeMap<u32, Retyped>,
    /// Who altered columns, or types of those.
    altered_by: BTreeSet<u32>,
    /// Tables that the archive has from before.
    inherited: BTreeSet<TableName>,
    /// Tables that the archive has, and that nobody remembers.
    heirs: Vec<Heir>,
    /// Relations whose enums call labels otherwise, and their tables.
    relabelled: BTreeMap<u32, TableName>,
    /// Relations that become partitions of a captured table within the answer.
    joins: BTreeMap<u32, Join>,
    /// Relations that were made as tables of their own and attached by who made them: they may have been filled before that.
    filled: BTreeMap<u32, Filled>,
    /// Partitions that are new, and who made them.
    births: BTreeMap<u32, u32>,
    /// Those of which what made them was in an answer before.
    told: BTreeSet<u32>,
    /// Those that were the first that somebody wrote.
    made_first: BTreeSet<u32>,
    /// Those under whose names rows came in an answer before.
    unborn: BTreeSet<u32>,
    /// Relations whose rows lie elsewhere now: by TRUNCATE, if the answer has one of that transaction.
    truncations: BTreeMap<u32, Truncation>,
    /// What is captured, as it is to be remembered.
    relations: BTreeMap<u32, Known>,
    /// Names that left the capture so long ago that they are not remembered any more.
    forgotten: BTreeSet<TableName>,
    /// Transactions that changed nothing of what is published are not in the stream.
    hides_commits: bool,
    /// Rows of the catalog that say what is published, with their marks.
    published: BTreeMap<u32, u32>,
    /// The oid of every name in `tables`.
    roots: BTreeMap<TableName, u32>,
    patterns: Vec<TablePattern>,
    /// The names that our files use.
    pub tables: BTreeSet<TableName>,
    /// Captured relations whose updates and deletes would be lost.
    pub without_identity: BTreeSet<TableName>,
    /// Tables that inherit from captured ones and are captured by themselves under no name.
    pub heirs_left_out: BTreeSet<String>,
    /// Listed names that stand in the catalog no more, though they once did.
    pub vanished: BTreeSet<TableName>,
}

/// What becomes of the rows that come under a name.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Route {
    pub oid: Option<u32>,
    /// `None` when they are not captured.
    pub target: Option<Target>,
    /// Tables that such a row may have belonged to, or may not: it is a gap of them.
    pub doubts: BTreeSet<Doubt>,
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Doubt {
    pub table: TableName,
    pub reason: &'static str,
    /// Of transactions alone that may have been open at a look.
    pub open: Option<Open>,
}

/// Transactions that may have been open at a look.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Open {
    /// They have a number below this one,
    pub before: Option<u32>,
    /// or wrote before this position.
    pub upto: Lsn,
}

/// What stretch of the slot was read, and the catalog of which position told what to make of it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Span {
    pub from: Lsn,
    pub to: Lsn,
    pub looked_at: Lsn,
}

/// Under which name a relation of the stream travels.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Target {
    pub table: TableName,
    /// The relation is a partition of the table that it travels as.
    pub is_partition: bool,
    pub virtual_columns: Vec<String>,
    /// All of its columns, in the order in which its rows say them. Empty when nobody knows.
    pub columns: Vec<String>,
}

/// A table of whose changes some are missing, in the whole of an answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Missed {
    pub table: TableName,
    pub reason: &'static str,
    /// Since when, where that is before the answer.
    pub since: Option<Lsn>,
}

/// A table that is in the archive already. Its spool is lost, and with it what the table was.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Heir {
    pub table: TableName,
    pub is_partitioned: bool,
    /// Who made it, or gave it its name.
    pub named_by: Vec<u32>,
    /// Who changed anything else of it.
    pub changed_by: Vec<u32>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Truncation {
    pub table: TableName,
    /// What changed the relation last.
    pub xid: u32,
    /// Nothing but a TRUNCATE, or a rewrite that alters no row, can have done it in a commit that the stream hides: ALTER
    /// TABLE would have left its mark on a column, or on the publication.
    pub only_moved: bool,
}

impl Capture {
    pub(crate) fn resolve(
        patterns: &[TablePattern],
        schemas: &BTreeSet<String>,
        catalog: &[CatalogTable],
        memory: &Memory,
    ) -> Result<Capture> {
        match Capture::passing_over_mistakes(patterns, schemas, catalog, memory) {
            (capture, None) => Ok(capture),
            (_, Some(mistake)) => Err(mistake),
        }
    }

    /// Of patterns that match nothing in the source, nothing is captured; the first mistake.
    pub(crate) fn passing_over_mistakes(
        patterns: &[TablePattern],
        schemas: &BTreeSet<String>,
        catalog: &[CatalogTable],
        memory: &Memory,
    ) -> (Capture, Option<Error>) {
        let nothing = patterns.is_empty().then(|| {
            Error::new(Kind::BadInput, "No tables in whitelist")
                .hint("list tables in the setting `tables`, for example tables = [\"users\", \"sales.*\"]")
        });
        let (patterns_of, inherited) = (patterns.to_vec(), memory.inherited.clone());
        let mut capture = Capture { patterns: patterns_of, inherited, ..Capture::default() };
        let mut check = |pattern| capture.check(pattern, schemas, catalog, memory).err();
        let mistakes: Vec<Error> = patterns.iter().filter_map(&mut check).chain(nothing).collect();
        let by_oid: HashMap<u32, &CatalogTable> = catalog.iter().map(|table| (table.oid, table)).collect();
        for table in catalog {
            let ancestor = capture.captured_ancestor(table, &by_oid);
            capture.add(table, ancestor);
        }
        capture.heirs_left_out = capture.heirs_left_out(catalog);
        capture.hides_commits = catalog.iter().any(|table| table.stream != Stream::Whole);
        capture.published = published::rows_of(catalog);
        capture.schemas = catalog.iter().map(schema_of).collect();
        let captured = catalog.iter().filter(|table| capture.relations.contains_key(&table.oid));
        capture.labels = captured.flat_map(|table| table.layout.labels.clone()).collect();
        changes::find(&mut capture, &by_oid, memory);
        (capture, mistakes.into_iter().next())
    }

    /// Relations that changed while the catalog was read: what they were where the answer ends, nobody knows.
    pub(crate) fn doubt_all_of(&mut self, relations: &BTreeSet<u32>, memory: &Memory) {
        let now = relations.iter().filter_map(|oid| self.relations.get(oid));
        let then = relations.iter().filter_map(|oid| memory.relations.get(oid));
        let tables: BTreeSet<TableName> = now.chain(then).filter_map(|known| known.table.clone()).collect();
        tables.into_iter().for_each(|table| self.miss(table, PARTITION, None));
        self.uncounted.extend(relations);
    }

    /// The archive has the table from before, and perhaps base copies of it.
    pub(crate) fn inherits(&self, table: &TableName) -> bool {
        self.inherited.contains(table)
    }

    /// What older rows of these have in columns that came is not known.
    pub(crate) fn doubt_heirs(&mut self, tables: &BTreeSet<TableName>) {
        tables.iter().cloned().for_each(|table| self.miss(table, changes::REWRITTEN, None));
    }

    /// What becomes of the rows of a relation of the stream.
    pub(crate) fn route(&self, relation: &TableName) -> Route {
        if let Some(known) = self.routes.get(relation) {
            return known.clone();
        }
        // Dropped or renamed since, but its rows were written under a name that is listed.
        let listed = self.lists_name(relation);
        let doubts =
            self.strangers.iter().cloned().map(|table| Doubt { table, reason: PARTITION, open: None });
        let named_so = |map: &BTreeMap<String, BTreeSet<TableName>>| map.get(relation.name()).cloned();
        let lodgers = [&self.lodgers, &self.guests].into_iter().filter_map(named_so).flatten();
        let lodgers = lodgers.map(|table| Doubt { table, reason: ANOTHER, open: None });
        let elsewhere = self.elsewhere.get(relation.name()).into_iter().flatten().cloned();
        Route {
            oid: None,
            target: listed.then(|| Target::own(relation)),
            doubts: doubts.chain(lodgers).chain(elsewhere).collect(),
        }
    }

    /// All tables that a change of a relation of the stream may be of.
    pub(crate) fn tables_of(&self, relation: &TableName) -> BTreeSet<TableName> {
        let doubts = self.route(relation).doubts.into_iter().map(|doubt| doubt.table);
        doubts.chain(self.table_of(relation)).collect()
    }

    /// Of a table that is new to us, whether nothing can have altered its rows but what is in the stream.
    pub(crate) fn is_untouched(&self, table: &TableName) -> bool {
        !self.touched.contains(table)
    }

    /// The table that a relation of the stream travels as, before or after it became a partition.
    pub(crate) fn table_of(&self, relation: &TableName) -> Option<TableName> {
        let route = self.route(relation);
        let before = route.oid.and_then(|oid| self.joins.get(&oid)).and_then(|join| join.before.clone());
        route.target.or(before).map(|target| target.table)
    }

    /// The name that a relation has now, and the table that it travels as.
    pub(crate) fn names_of(&self, oid: u32) -> Option<(&TableName, &TableName)> {
        let known = self.relations.get(&oid)?;
        Some((&known.name, known.table.as_ref()?))
    }

    /// What rows of the relation may mean by the names of columns; `None` where each name means the one that has it.
    pub(crate) fn naming(&self, oid: u32) -> Option<&Naming> {
        self.naming.get(&oid)
    }

    /// What the labels of a column are called where the answer ends, if it is of an enum.
    pub(crate) fn labels(&self, oid: u32, number: u16, type_name: &str) -> Option<&[(u32, String)]> {
        let column = self.relations.get(&oid)?.attributes.get(&i16::try_from(number).ok()?)?;
        let labels = self.labels.get(&column.type_oid)?;
        (column.type_name == type_name).then_some(labels)
    }

    /// The columns of a relation that are new, and whose types were altered since.
    pub(crate) fn retyped(&self, oid: u32) -> Option<&Retyped> {
        self.retyped.get(&oid)
    }

    /// Whether that transaction altered columns, or types of those.
    fn alters_columns(&self, xid: u32) -> bool {
        self.altered_by.contains(&xid)
    }

    pub(crate) fn truncation(&self, oid: u32) -> Option<&Truncation> {
        self.truncations.get(&oid)
    }

    pub(crate) fn truncations(&self) -> impl Iterator<Item = (u32, &Truncation)> {
        self.truncations.iter().map(|(oid, truncation)| (*oid, truncation))
    }

    /// A TRUNCATE of a partitioned table is told of its partitions alone: those that have to be in it.
    pub(crate) fn all_parts(&self, table: &TableName) -> Option<BTreeSet<u32>> {
        let holds_rows = |known: &Known| known.has_storage && known.table.as_ref() == Some(table);
        let parts = || self.relations.iter().filter(|(_, known)| holds_rows(known)).map(|(oid, _)| *oid);
        self.hides_commits.then(|| parts().collect())
    }

    /// How many rows the captured relations had when the answer begins, where that is known.
    pub(crate) fn rows(&self) -> HashMap<u32, Option<u64>> {
        self.relations.iter().map(|(oid, known)| (*oid, known.rows)).collect()
    }

    fn miss(&mut self, table: TableName, reason: &'static str, since: Option<Lsn>) {
        if self.tables.contains(&table) && !self.missed.iter().any(|missed| missed.table == table) {
            self.missed.push(Missed { table, reason, since });
        }
    }

    fn lists_name(&self, name: &TableName) -> bool {
        self.patterns.iter().any(|pattern| pattern.matches(name))
    }

    /// Relations under a pattern that cannot be captured, in words.
    pub(crate) fn passed_over<'a>(
        &'a self,
        catalog: &'a [CatalogTable],
    ) -> impl Iterator<Item = String> + 'a {
        catalog.iter().filter_map(|relation| match relation.kind {
            // Views and sequences under a pattern are nobody's mistake.
            RelationKind::NotCaptured(
                kind @ ("an unlogged table"
                | "a materialized view"
                | "a foreign table"
                | "a table without a replica identity"),
            ) if self.patterns.iter().any(|pattern| pattern.matches(&relation.name)) => {
                Some(format!("{} is {kind}", relation.name))
            }
            _ => None,
        })
    }

    fn check(
        &mut self,
        pattern: &TablePattern,
        schemas: &BTreeSet<String>,
        catalog: &[CatalogTable],
        memory: &Memory,
    ) -> Result<()> {
        let name = match pattern {
            TablePattern::All => return Ok(()),
            TablePattern::Schema(schema) if schemas.contains(schema) => return Ok(()),
            // It was there once. Its tables are gone, the others go on.
            TablePattern::Schema(schema) if memory.patterns.contains(&pattern.to_string()) => {
                let lost = memory.tables.keys().filter(|table| table.schema() == schema);
                self.vanished.extend(lost.cloned());
                return Ok(());
            }
            TablePattern::Schema(schema) => {
                return Err(Error::new(Kind::BadInput, format!("there is no schema {schema} for {pattern}"))
                    .hint("correct the name in `tables`; unquoted names are lower case"));
            }
            TablePattern::Table(name) => name,
        };
        match catalog.iter().find(|table| &table.name == name).map(|table| table.kind) {
            Some(RelationKind::Table | RelationKind::Partitioned) => Ok(()),
            // It was captured until it became so: that is a gap of this table, and no mistake in the settings.
            Some(RelationKind::NotCaptured(_)) if memory.knows(name) => Ok(()),
            Some(RelationKind::NotCaptured(kind)) => {
                Err(Error::new(Kind::BadInput, format!("{name} is {kind}: logical decoding does not carry its changes"))
                    .hint("take it out of `tables`"))
            }
            None if memory.knows(name) => {
                self.vanished.insert(name.clone());
                Ok(())
            }
            None => Err(Error::new(Kind::BadInput, format!("there is no table {name} in the source"))
                .hint("correct the name in `tables`; outside of schema public it needs its schema, and capitals need quotes")),
        }
    }

    fn heirs_left_out(&self, catalog: &[CatalogTable]) -> BTreeSet<String> {
        let is_captured = |relation: &CatalogTable| self.relations.contains_key(&relation.oid);
        let mut found = BTreeSet::new();
        for root in catalog.iter().filter(|relation| is_captured(relation)) {
            let mut above = BTreeSet::from([root.oid]);
            for _ in 0..DEPTH_MAX {
                let heirs = catalog.iter().filter(|heir| heir.heir_of.iter().any(|oid| above.contains(oid)));
                let heirs: Vec<&CatalogTable> = heirs.filter(|heir| !above.contains(&heir.oid)).collect();
                if heirs.is_empty() {
                    break;
                }
                above.extend(heirs.iter().map(|heir| heir.oid));
                found.extend(heirs.into_iter().filter(|heir| !is_captured(heir)).map(|heir| {
                    format!(
                        "rows of {}, which inherits from {}, are not captured with it",
                        heir.name, root.name
                    )
                }));
            }
        }
        found
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
        matches!(table.kind, RelationKind::Table | RelationKind::Partitioned) && self.asks_for(table)
    }

    /// Whether `tables` means that relation, whatever it is.
    pub(crate) fn asks_for(&self, table: &CatalogTable) -> bool {
        let listed = |pattern: &TablePattern| match pattern {
            TablePattern::Table(name) => name == &table.name,
            // Patterns mean whole tables, not their partitions.
            TablePattern::All | TablePattern::Schema(_) => {
                table.partition_of.is_none() && pattern.matches(&table.name)
            }
        };
        self.patterns.iter().any(listed)
    }

    fn add(&mut self, relation: &CatalogTable, ancestor: Option<&CatalogTable>) {
        let target = ancestor.map(|ancestor| Target {
            table: ancestor.name.clone(),
            is_partition: ancestor.oid != relation.oid,
            virtual_columns: relation.virtual_columns.clone(),
            columns: in_order(&relation.columns),
        });
        if let Some(ancestor) = ancestor {
            self.tables.insert(ancestor.name.clone());
            self.roots.insert(ancestor.name.clone(), ancestor.oid);
            // A partitioned table holds no rows: what counts is the identity of its partitions.
            if relation.kind == RelationKind::Table && !relation.identity_usable {
                self.without_identity.insert(relation.name.clone());
            }
            self.relations.insert(relation.oid, Known::of(relation, ancestor));
        }
        let route = Route { oid: Some(relation.oid), target, doubts: BTreeSet::new() };
        self.routes.insert(relation.name.clone(), route);
    }

    /// Every relation whose rows travel, as the catalog has it.
    pub(crate) fn captured<'a>(
        &'a self,
        catalog: &'a [CatalogTable],
    ) -> impl Iterator<Item = (&'a CatalogTable, &'a Target)> {
        catalog.iter().filter_map(|table| Some((table, self.routes.get(&table.name)?.target.as_ref()?)))
    }

    pub(crate) fn patterns(&self) -> &[TablePattern] {
        &self.patterns
    }

    /// Every relation whose rows travel.
    pub(crate) fn relations(&self) -> impl Iterator<Item = &TableName> {
        self.routes.iter().filter(|(_, route)| route.target.is_some()).map(|(name, _)| name)
    }

    /// A row under a name that nobody knows may matter: it has to be looked for under all names.
    pub(crate) fn expects_strangers(&self) -> bool {
        !self.strangers.is_empty()
            || !self.lodgers.is_empty()
            || !self.guests.is_empty()
            || !self.elsewhere.is_empty()
    }

    /// Rows may come under a name that no relation has now, and be of a captured table.
    pub(crate) fn has_former_names(&self) -> bool {
        let is_former = |route: &Route| route.target.is_none() && !route.doubts.is_empty();
        self.expects_strangers() || self.routes.values().any(is_former)
    }

    /// Relations whose changes are looked for though no pattern names them: partitions, also those of earlier polls, and
    /// whatever a captured table is in doubt about.
    pub(crate) fn beyond_patterns(&self) -> impl Iterator<Item = &TableName> {
        let of_partition = |route: &Route| {
            route.target.as_ref().is_some_and(|target| target.is_partition) || !route.doubts.is_empty()
        };
        self.routes.iter().filter(move |(_, route)| of_partition(route)).map(|(name, _)| name)
    }
}

impl Target {
    fn own(table: &TableName) -> Target {
        Target { table: table.clone(), is_partition: false, virtual_columns: Vec::new(), columns: Vec::new() }
    }
}

fn schema_of(relation: &CatalogTable) -> (u32, Schema) {
    let Marks { schema_oid, schema, schema_rest, .. } = relation.marks;
    (schema_oid, Schema { name: relation.name.schema().to_owned(), mark: schema, rest: schema_rest })
}

/// Names of columns by their numbers.
fn in_order(columns: &BTreeMap<String, i16>) -> Vec<String> {
    let mut names: Vec<&String> = columns.keys().collect();
    names.sort_by_key(|name| columns[*name]);
    names.into_iter().cloned().collect()
}

impl Known {
    fn of(relation: &CatalogTable, root: &CatalogTable) -> Known {
        let is_partition = relation.oid != root.oid;
        Known {
            name: relation.name.clone(),
            table: Some(root.name.clone()),
            // What the table itself may be a partition of is not our business.
            parent: relation.partition_of.filter(|_| is_partition),
            has_storage: relation.kind != RelationKind::Partitioned,
            not_carried: matches!(relation.kind, RelationKind::NotCaptured(_)),
            storage: relation.storage,
            marks: Marks { attached: relation.marks.attached.filter(|_| is_partition), ..relation.marks },
            columns: relation.columns.clone(),
            attributes: relation.layout.attributes.clone(),
            dropped: relation.layout.dropped.clone(),
            sequences: relation.layout.sequences.iter().map(|sequence| sequence.file).collect(),
            rows: None,
            suspected: false,
            postponed: None,
            unborn: None,
            labels_told: false,
            is_told: false,
        }
    }
}

#[cfg(test)]
mod tests;
