//! Relations that become partitions of a captured table, or are made as such.

use std::collections::BTreeSet;

use syncdata_formats::name::TableName;

use super::{Capture, CatalogTable, Tally, Target};

/// How a partition came to be that was made and attached in one transaction, or in one part of it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Making {
    /// It was made as a partition: nothing could be in it before it was one.
    pub as_part: bool,
    /// It was the first that this transaction wrote: no row of it came before.
    pub is_first: bool,
}

impl Making {
    /// By their oids.
    pub(crate) fn as_parts(catalog: &[CatalogTable]) -> BTreeSet<u32> {
        catalog.iter().filter(|table| table.making.as_part).map(|table| table.oid).collect()
    }
}

/// A relation that becomes a partition of a captured table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Join {
    pub table: TableName,
    /// How its rows travel until then.
    pub before: Option<Target>,
    /// The transactions in which that happens; the last one counts.
    pub xids: BTreeSet<u32>,
    /// Its rows may lie in it without ever having been in the stream.
    pub tainted: bool,
}

/// A relation that was no partition when it was made, and one when that was over.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Filled {
    pub table: TableName,
    /// The transactions, or parts of them, that made and attached it, or what it is a partition of.
    pub by: BTreeSet<u32>,
    /// Its rows may have been written anew meanwhile.
    pub tainted: bool,
}

impl Join {
    /// The transaction in which it happened was there, or nothing depends on where it was.
    pub(super) fn came_true(&self, oid: u32, tally: &Tally) -> bool {
        let is_empty = tally.is_empty(oid) && !tally.touched.contains(&oid) && !self.tainted;
        is_empty || self.xids.is_subset(&tally.joined)
    }
}

impl Capture {
    /// The relation becomes a partition of a captured table within the answer.
    pub(crate) fn join(&self, oid: u32) -> Option<&Join> {
        self.joins.get(&oid)
    }

    /// Who made a partition that is new.
    pub(crate) fn born_by(&self, oid: u32) -> Option<u32> {
        self.births.get(&oid).copied()
    }

    pub(crate) fn joins(&self) -> impl Iterator<Item = (u32, &Join)> {
        self.joins.iter().map(|(oid, join)| (*oid, join))
    }

    pub(crate) fn filled(&self) -> impl Iterator<Item = (u32, &Filled)> {
        self.filled.iter().map(|(oid, filled)| (*oid, filled))
    }

    /// Whether a row of the relation says none of a column that has values of its own there.
    pub(crate) fn lacks_any(&self, oid: u32, said: &BTreeSet<String>) -> bool {
        let Some(known) = self.relations.get(&oid) else { return false };
        let is_virtual = |name: &String| {
            let route = self.routes.get(&known.name).and_then(|route| route.target.as_ref());
            route.is_some_and(|target| target.virtual_columns.contains(name))
        };
        // What is computed from the others is computed anew with a column that comes.
        let stored = known.attributes.values().filter(|column| column.expression == 0);
        stored.map(|column| &column.name).any(|name| !said.contains(name) && !is_virtual(name))
    }
}
