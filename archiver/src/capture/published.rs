//! Which relations' rows are in the stream at all, where a publication decides that.
//!
//! A publication works from a transaction on: what was changed before it was told of a table is never handed out, nor is
//! what a transaction changes that was open at that time, before it saw. So a table counts as published when the rows of
//! the catalog that say so are older than the last look, nobody has written them again, and every transaction has ended
//! that was open when they were seen first. Somebody may bend a publication and put it back: its rows are others then.
//!
//! A partition is published with the table that it is a partition of, if it was that all the time, or from birth.
//!
//! Whatever is not published so, changed without a word: it is a gap of its table, and nothing is known of its rows.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use syncdata_formats::snapshot::Seen;

use super::changes::{Changes, NOT_CAPTURED};
use super::{CatalogTable, DEPTH_MAX, Memory};

/// What brings the changes of a relation into the stream.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) enum Stream {
    /// The source hands out those of all relations.
    #[default]
    Whole,
    Published(Publication),
}

/// A relation's place in the publication.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Publication {
    /// The rows of the catalog that say that it is published; none when it is not, or not all of it.
    pub rows: Vec<CatalogRow>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct CatalogRow {
    pub oid: u32,
    /// The transaction that wrote it.
    pub mark: u32,
    /// A transaction has taken it away, or written it anew, which is not over yet.
    pub is_leaving: bool,
}

/// A row of the catalog that may not count for all transactions yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Entered {
    pub mark: u32,
    /// It counts for transactions from this number on; older ones may have been open when it came.
    pub from: u64,
}

impl CatalogTable {
    /// By itself; with what it is a partition of, it may be all the same.
    pub(crate) fn is_published(&self) -> bool {
        !self.rows().is_empty()
    }

    fn rows(&self) -> &[CatalogRow] {
        match &self.stream {
            Stream::Whole => &[],
            Stream::Published(publication) => &publication.rows,
        }
    }
}

/// All rows of the catalog that say what is published, each with its mark.
pub(super) fn rows_of(catalog: &[CatalogTable]) -> BTreeMap<u32, u32> {
    catalog.iter().flat_map(CatalogTable::rows).map(|row| (row.oid, row.mark)).collect()
}

/// What is to be remembered of them after a look.
pub(super) fn remember(rows: &BTreeMap<u32, u32>, earlier: &Memory, seen: &Seen) -> BTreeMap<u32, Entered> {
    let entered = |(&oid, &mark): (&u32, &u32)| {
        let known = earlier.published.get(&oid).filter(|known| known.mark == mark).copied();
        // Before that it is no older than the look, and does not count at all.
        let is_new = !earlier.is_old(mark) && is_over(mark, seen);
        let entered = known.or_else(|| is_new.then_some(Entered { mark, from: seen.xmax }))?;
        (seen.xmin < entered.from).then_some((oid, entered))
    };
    rows.iter().filter_map(entered).collect()
}

/// The transaction, or the part of one, had ended.
fn is_over(mark: u32, seen: &Seen) -> bool {
    Seen { xmin: seen.xmin, xmax: seen.xmin, xip: Vec::new() }.has(mark)
}

impl Memory {
    /// All transactions since the last look saw that row.
    fn has_settled(&self, row: CatalogRow) -> bool {
        let entered = self.published.get(&row.oid).filter(|entered| entered.mark == row.mark);
        let oldest = self.seen.as_ref().map_or(0, |seen| seen.xmin);
        !row.is_leaving && self.is_old(row.mark) && entered.is_none_or(|entered| oldest >= entered.from)
    }
}

impl Changes<'_> {
    /// Relations of which changes may be missing since the last look.
    pub(super) fn unpublished(&mut self) {
        let holds_rows = self.capture.relations.iter().filter(|(_, known)| known.has_storage);
        let oids = holds_rows.map(|(oid, _)| *oid).filter(|oid| !self.is_published(*oid));
        for oid in oids.collect::<Vec<u32>>() {
            self.capture.uncounted.insert(oid);
            let Some(table) = self.capture.relations.get(&oid).and_then(|known| known.table.clone()) else {
                continue;
            };
            self.capture.touched.insert(table.clone());
            self.capture.miss(table, NOT_CAPTURED, None);
        }
    }

    fn is_published(&self, oid: u32) -> bool {
        let mut next = self.catalog.get(&oid);
        for _ in 0..DEPTH_MAX {
            let Some(relation) = next else { return false };
            let Stream::Published(publication) = &relation.stream else { return true };
            let rows = &publication.rows;
            if !rows.is_empty() && rows.iter().all(|row| self.memory.has_settled(*row)) {
                return true;
            }
            let is_old_part = relation.marks.attached.is_some_and(|attached| self.memory.is_old(attached));
            if !is_old_part && !relation.making.as_part {
                return false;
            }
            next = relation.partition_of.and_then(|parent| self.catalog.get(&parent));
        }
        false
    }
}
