//! What the archiver remembers of the tables that it captures, by oid: names change hands, oids do not.
//!
//! It stands in the spool's state, and holds for one position of the slot: a table is compared with what it was when
//! the slot had been read up to there. What may have happened in between, and what follows, is decided in
//! [`changes`](super::changes).

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use syncdata_formats::lsn::Lsn;
use syncdata_formats::name::{TableName, TablePattern};
use syncdata_formats::snapshot::Seen;

use super::beside::Beside;
use super::published::Entered;
use super::retyped::Alteration;
use super::suspects::Postponed;

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct Memory {
    /// The slot had been read up to here.
    pub position: Lsn,
    /// Which transactions the catalog showed then.
    pub seen: Option<Seen>,
    /// Transactions that the slot handed out and that the catalog did not show yet: their changes of tables are news
    /// although they lie before `position`.
    pub unseen: BTreeSet<u32>,
    /// `seen` is what a look at the catalog showed, and nothing was read or passed over since.
    pub is_of_a_look: bool,
    /// Relations that are new since that look, that answers which were cut have shown, and of which not all is certain.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub begun: BTreeMap<u32, Known>,
    /// The schemas, by oid.
    pub schemas: BTreeMap<u32, Schema>,
    /// Every relation whose rows travel, and what lies between it and the table that they travel as.
    pub relations: BTreeMap<u32, Known>,
    /// Every name under which rows travel, or did.
    pub tables: BTreeMap<TableName, Captured>,
    /// What `tables` ever listed.
    pub patterns: BTreeSet<String>,
    /// Names that meant tables of a database which is gone: to list one is no spelling mistake.
    pub former: BTreeSet<TableName>,
    /// Tables that the archive has, and of which a new spool knows no more.
    pub inherited: BTreeSet<TableName>,
    /// Of those, the ones that another spool has not read to the end.
    pub interrupted: BTreeSet<TableName>,
    /// The archive is older than the spool: what it does not capture at its end, it may have captured before.
    pub is_heir: bool,
    /// Rows of the catalog that say what is published, where that does not count for all transactions yet.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub published: BTreeMap<u32, Entered>,
    /// Who altered types, as looks have shown, and where the first of these looks was.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub types_altered: BTreeMap<u32, Lsn>,
    /// What the labels of enums are called, by the type's oid.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<u32, Vec<String>>,
    /// What transactions may still say that were open when something was altered that waits for no writer.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub beside: Vec<Beside>,
    /// No transaction that the catalog shows now has this number or a higher one.
    #[serde(skip)]
    pub next: Option<u64>,
}

/// A relation as it was.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Known {
    pub name: TableName,
    /// The name under which its rows travelled; `None` for one that is watched because it is about to join a table.
    pub table: Option<TableName>,
    /// The table that it was a partition of.
    pub parent: Option<u32>,
    /// Whether it holds rows itself.
    pub has_storage: bool,
    /// Its changes are in no stream: it is unlogged, or a foreign table.
    #[serde(default, rename = "unlogged")]
    pub not_carried: bool,
    pub storage: Storage,
    pub marks: Marks,
    /// Every column that it ever had under our eyes, with its number in the catalog.
    #[serde(default)]
    pub columns: BTreeMap<String, i16>,
    /// The columns that it had last, by number.
    #[serde(default)]
    pub attributes: BTreeMap<i16, Attribute>,
    /// Numbers of columns that are gone, and who dropped them.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub dropped: BTreeMap<i16, u32>,
    /// The files of the sequences that its columns own.
    #[serde(default)]
    pub sequences: BTreeSet<u32>,
    /// How many rows it has, where all of them came and went under our eyes.
    #[serde(default)]
    pub rows: Option<u64>,
    /// Production's own count has to say whether that is right.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub suspected: bool,
    /// That count could not be taken, and is not tried again before some time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub postponed: Option<Postponed>,
    /// Rows came under its name, and not yet what made it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unborn: Option<u32>,
    /// What its enums call their labels has been told in a segment.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub labels_told: bool,
    /// What made it has come.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub is_told: bool,
}

impl Known {
    /// Whether the catalog says of its columns now what it said then.
    pub(super) fn has_columns_of(&self, now: &Known) -> bool {
        let is_still = |(number, column): (&i16, &Attribute)| {
            now.attributes.get(number).is_some_and(|now| column.is_still(now))
        };
        self.dropped == now.dropped
            && self.attributes.len() == now.attributes.len()
            && self.attributes.iter().all(is_still)
    }

    /// Whether a column of it has that type.
    pub(super) fn has_type(&self, oid: u32) -> bool {
        self.attributes.values().any(|column| column.type_oid == oid)
    }

    /// Whether it may have had another name than this one meanwhile.
    pub(super) fn may_be_renamed(&self, now: &Known) -> bool {
        self.name != now.name || now.marks.may_be_renamed(&self.marks)
    }
}

/// A schema as it was.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Schema {
    pub name: String,
    pub mark: u32,
    /// Owner and rights, in short.
    pub rest: i32,
}

/// Where the rows lie. TRUNCATE, VACUUM FULL and CLUSTER give a table another file; ALTER TABLE, where it writes all rows
/// anew, gives it another TOAST table besides.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Storage {
    pub file: u32,
    /// 0 for a table whose rows are too short for one.
    pub toast: u32,
}

/// Which transaction, or which part of one, wrote the catalog's rows about a relation. A row that somebody changes gets
/// another mark, and so an equal one says that nothing happened; of several changes it shows the last.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Marks {
    /// pg_class: nearly every ALTER TABLE, TRUNCATE, GRANT.
    pub changed: u32,
    /// pg_type: name, schema or owner.
    pub named: u32,
    /// pg_attribute, of a system column: the relation came to be, and never again.
    pub born: u32,
    /// pg_inherits: it became a partition.
    pub attached: Option<u32>,
    /// pg_namespace, of its schema: name, owner or rights.
    #[serde(default)]
    pub schema: u32,
    #[serde(default)]
    pub schema_oid: u32,
    /// Owner and rights of the schema, in short.
    #[serde(default)]
    pub schema_rest: i32,
    /// `named` is `born`, and yet it had another name before, or may have had: in that very transaction.
    #[serde(default)]
    pub renamed_at_birth: bool,
}

impl Marks {
    /// Whether it never had another name than this one, in this schema.
    pub(crate) fn is_named_at_birth(&self) -> bool {
        self.named == self.born && !self.renamed_at_birth
    }

    /// What may have given it, or its schema, another name since.
    pub(super) fn named_since(&self, then: &Marks) -> impl Iterator<Item = u32> + use<> {
        let named = (self.named != then.named).then_some(self.named);
        let schema = self.has_altered_schema(then).then_some(self.schema);
        named.into_iter().chain(schema)
    }

    /// Whether the relation, or its schema, may have had another name meanwhile. A schema whose row was written again
    /// and says the same was renamed there and back, if anything.
    pub(super) fn may_be_renamed(&self, then: &Marks) -> bool {
        self.named != then.named || self.has_new_schema_name(then)
    }

    pub(super) fn has_new_schema_name(&self, then: &Marks) -> bool {
        self.has_altered_schema(then) && self.schema_rest == then.schema_rest
    }

    /// Rights were granted on its schema, or that had another name besides.
    pub(super) fn has_altered_schema(&self, then: &Marks) -> bool {
        // Earlier versions did not look.
        then.schema != 0 && self.schema != then.schema
    }
}

/// A column. What an earlier version did not look at is 0, empty or no.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct Attribute {
    pub name: String,
    pub type_name: String,
    /// A type of the same name may be another one.
    #[serde(skip_serializing_if = "is_zero")]
    pub type_oid: u32,
    /// Who wrote its row of pg_attribute last.
    pub mark: u32,
    /// What else stands there, in short.
    pub rest: i32,
    /// Nothing else does.
    pub plain: bool,
    /// No value of it is long enough to lie elsewhere.
    pub is_short: bool,
    /// The oid of what a stored generated column is computed by, which SET EXPRESSION changes; 0 for others. Virtual ones
    /// do not travel.
    #[serde(skip_serializing_if = "is_zero")]
    pub expression: u32,
    /// What its type consists of; `None` for a type that nobody can alter.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub made_of: Option<MadeOf>,
}

impl Attribute {
    /// Whether the catalog says of it now what it said then.
    pub(super) fn is_still(&self, now: &Attribute) -> bool {
        let type_oid = if self.type_oid == 0 { 0 } else { now.type_oid };
        *self == Attribute { type_oid, ..now.clone() }
    }

    /// Whether it has another type now under the same name.
    pub(super) fn has_namesake_of_its_type(&self, now: &Attribute) -> bool {
        self.type_oid != 0 && self.type_oid != now.type_oid && self.type_name == now.type_name
    }
}

fn is_zero(number: &u32) -> bool {
    *number == 0
}

/// What lies below a type: in a domain, an array, a composite. Altering it alters the text of values, and leaves no mark
/// on the tables that have them.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct MadeOf {
    /// The attributes of composites, in short: numbers and types, not their names.
    pub attributes: i32,
    /// The labels of enums, in short, by their oid.
    pub labels: BTreeMap<u32, i32>,
    /// They are not those of the column's own type.
    pub is_nested: bool,
}

/// The labels of an enum in their order, with their oids.
pub(crate) type Labels = Arc<[(u32, String)]>;

/// What the catalog says of the rows of a table beside their place. Empty for kinds that are not captured.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Layout {
    /// By number.
    pub attributes: BTreeMap<i16, Attribute>,
    /// Numbers of those that nobody has altered since the relation was made.
    pub from_birth: BTreeSet<i16>,
    /// Numbers of columns that are gone, and who dropped them.
    pub dropped: BTreeMap<i16, u32>,
    /// With a TOAST table: who made that. Without: who wrote the table's row of pg_class, and those of its indexes.
    /// Whatever else any of these may be of: a later rewrite by ALTER TABLE would have left its own mark on all of them.
    pub written_by: Vec<u32>,
    /// What became of the types of its columns, by number, where they were altered.
    pub alterations: BTreeMap<i16, Alteration>,
    /// What the labels of its columns' own enums are called, by the type's oid.
    pub labels: BTreeMap<u32, Labels>,
    pub sequences: Vec<OwnedSequence>,
}

impl Layout {
    /// Who altered a type that its columns are made of.
    pub(crate) fn types_altered_by(&self) -> impl Iterator<Item = u32> {
        self.alterations.values().flat_map(|alteration| alteration.by.iter().copied())
    }
}

/// SET UNLOGGED and SET LOGGED give it another file, from PostgreSQL 15 on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct OwnedSequence {
    pub file: u32,
    /// The number of the column that owns it.
    pub owner: i16,
    /// Who wrote its row of pg_class last.
    pub mark: u32,
}

/// A table, in the sense of a name that rows travel under.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Captured {
    /// 0 where only the archive knows of it.
    pub oid: u32,
    /// Captured no more; up to where it was.
    pub left: Option<Lsn>,
}

impl Memory {
    /// The very first poll has nothing to compare with.
    pub(crate) fn is_new(&self) -> bool {
        self.tables.values().all(|table| table.oid == 0)
    }

    /// The tables that are captured as of the last poll.
    pub(crate) fn captured(&self) -> BTreeSet<TableName> {
        let captured = self.tables.iter().filter(|(_, table)| table.left.is_none());
        captured.map(|(name, _)| name.clone()).collect()
    }

    /// Whether rows ever travelled under that name.
    pub(crate) fn knows(&self, table: &TableName) -> bool {
        self.tables.contains_key(table) || self.former.contains(table)
    }

    /// All that is to be known where the catalog itself is read with the rows: what was captured once is no mistake in the
    /// settings when it is gone.
    pub(crate) fn remember_names(
        &mut self,
        tables: &BTreeSet<TableName>,
        patterns: &[TablePattern],
        position: Lsn,
    ) {
        self.patterns.extend(patterns.iter().map(ToString::to_string));
        for (name, captured) in &mut self.tables {
            if captured.left.is_none() && !tables.contains(name) {
                captured.left = Some(position);
            }
        }
        for name in tables {
            self.tables.insert(name.clone(), Captured { oid: 0, left: None });
        }
    }

    /// Tables that are not captured any more, since that position or a later one.
    pub(crate) fn left_since(&self, position: Lsn) -> Vec<TableName> {
        let left = self.tables.iter().filter(|(_, table)| table.left.is_some_and(|left| left >= position));
        let left: BTreeSet<&TableName> = left.map(|(name, _)| name).chain(&self.interrupted).collect();
        left.into_iter().cloned().collect()
    }

    /// Tables that the archive captured, and no more at its end.
    pub(crate) fn left_before(&mut self, tables: BTreeSet<TableName>, end: Lsn) {
        let left = Some(Lsn::from_u64(end.as_u64().saturating_sub(1)));
        self.tables.extend(tables.into_iter().map(|table| (table, Captured { oid: 0, left })));
    }

    /// Another spool has read on from there, and not of all tables.
    pub(crate) fn leave(&mut self, has_left: impl Fn(&TableName) -> bool, from: Lsn) {
        for (name, table) in &mut self.tables {
            if table.left.is_none() && has_left(name) {
                table.left = Some(from);
            }
        }
        self.interrupted.extend(self.inherited.iter().filter(|name| has_left(name)).cloned());
    }

    /// For another database in the place of this one: none of its tables can be compared with ours.
    pub(crate) fn of_another_database(&self) -> Memory {
        let former = self.tables.keys().chain(&self.former).cloned().collect();
        Memory { former, ..Memory::default() }
    }

    /// For a slot that has been read up to `position`. Whoever moved on without looking, counted no rows.
    pub(crate) fn at(&self, position: Lsn) -> Memory {
        let mut memory = self.clone();
        if position != self.position {
            memory.relations.values_mut().for_each(|known| known.rows = None);
            memory.begun.values_mut().for_each(|known| known.rows = None);
            memory.is_of_a_look = false;
        }
        memory
    }

    /// Where nothing is remembered yet: what the slot may tell of, was done by transactions from this one on.
    pub(crate) fn or_since(mut self, oldest: Option<u32>) -> Memory {
        if self.is_new() && self.seen.is_none() {
            let all_before = |xid: u32| Seen { xmin: xid.into(), xmax: xid.into(), xip: Vec::new() };
            self.seen = oldest.map(all_before);
        }
        self
    }

    /// How many rows a relation had where this memory ends that has been made since its look. A partition that was made, or
    /// filled under another name, in a stretch that was read without knowing of it is in no count of ours.
    pub(super) fn rows_of_new(&self, oid: u32) -> Option<u64> {
        self.begun.get(&oid).map_or_else(|| self.is_of_a_look.then_some(0), |begun| begun.rows)
    }

    /// Whether the schema of a relation had another name meanwhile, or may have had.
    pub(super) fn may_have_renamed_schema(&self, name: &TableName, marks: &Marks) -> bool {
        self.schemas.get(&marks.schema_oid).is_some_and(|then| {
            then.name != name.schema() || then.mark != marks.schema && then.rest == marks.schema_rest
        })
    }

    /// What came of counting these.
    pub(crate) fn postponed(&self, suspects: &BTreeSet<u32>) -> BTreeMap<u32, Postponed> {
        let postponed = |oid: &u32| Some((*oid, self.relations.get(oid)?.postponed?));
        suspects.iter().filter_map(postponed).collect()
    }

    /// Relations whose rows could not be counted again and again, each with how often that was tried.
    pub(crate) fn uncountable(&self) -> impl Iterator<Item = (&TableName, u32)> {
        let refused = |known: &Known| known.postponed.filter(|_| known.suspected).map(Postponed::refused);
        self.relations.values().filter_map(move |known| Some((&known.name, refused(known)?)))
    }

    /// For a slot that has to be read from `restart` on: rows that were written before that have all been handed out.
    pub(crate) fn read_from(mut self, restart: Option<Lsn>) -> Memory {
        let Some(restart) = restart else { return self };
        let xmin = self.seen.as_ref().map_or(0, |seen| seen.xmin);
        self.beside.retain(|former| former.upto > restart || former.before > xmin);
        let types_altered = std::mem::take(&mut self.types_altered);
        let is_still = |(mark, looked_at): &(u32, Lsn)| *looked_at > restart || !self.is_old(*mark);
        Memory { types_altered: types_altered.into_iter().filter(is_still).collect(), ..self }
    }

    /// With what the catalog shows now.
    pub(crate) fn until(self, now: &Seen) -> Memory {
        Memory { next: Some(now.xmax), ..self }
    }

    /// Whether what wrote that mark had surely ended when the catalog was looked at last. A part of a transaction has a
    /// number of its own, which no list of open transactions shows: only what is older than all of them is sure.
    pub(crate) fn is_old(&self, mark: u32) -> bool {
        // A number that is still to come was given long ago: catalog rows keep it when it comes round again.
        let is_to_come = |seen: &Seen| self.next.is_some_and(|next| seen.widen(mark) >= next);
        self.seen.as_ref().is_none_or(|seen| seen.oldest().has(mark) || is_to_come(seen))
    }
}
