//! Relations that become partitions of a captured table in the transaction whose rows are coming: which of its rows are the
//! table's, and whether all that they hold is told.

use std::collections::BTreeSet;

use syncdata_formats::Result;
use syncdata_formats::name::TableName;

use super::{Files, Segmenter};
use crate::capture::shape::REWRITTEN;
use crate::capture::{Filled, PARTITION, Target};
use crate::segment::targets::Found;
use crate::source::event::{Columns, Row, unescape};

/// A relation that becomes a partition in the transaction whose rows are coming.
#[derive(Clone, Debug)]
pub(super) struct Entering {
    pub(super) table: TableName,
    /// It had no rows before this transaction, or none any more when it became one, and what came since is new rows alone:
    /// wherever among them it became one, they are its table's from there on.
    pub(super) is_clean: bool,
    pub(super) had_rows: bool,
    /// This transaction made it, or a part of it, which may be one of another.
    pub(super) is_new: bool,
}

impl<F: Files> Segmenter<'_, F> {
    /// From this transaction on, rows of some relations may be those of the table that they have become a partition of.
    pub(super) fn see_joins(&mut self, xid: u32, archived_already: bool) {
        for (oid, join) in self.capture.joins().filter(|(_, join)| join.xids.contains(&xid)) {
            self.tally.joined.insert(xid);
            if join.xids.is_subset(&self.tally.joined) && !archived_already {
                let is_clean = self.tally.is_empty(oid) && !join.tainted;
                let table = join.table.clone();
                self.entering.insert(oid, Entering { table, is_clean, had_rows: false, is_new: false });
            }
        }
        // A part of a transaction has a higher number than the whole, which is all that the stream tells.
        let may_be = |by: &u32| xid.wrapping_sub(*by).cast_signed() <= 0;
        let is_to_come = |by: &u32| may_be(by) && !self.tally.joined.contains(by);
        let filled = self.capture.filled().filter(|(_, filled)| filled.by.iter().any(is_to_come));
        for (oid, Filled { table, tainted, .. }) in filled.filter(|_| !archived_already) {
            let (table, is_clean) = (table.clone(), !tainted);
            self.entering.insert(oid, Entering { table, is_clean, had_rows: false, is_new: true });
        }
        if self.capture.filled().any(|(_, filled)| filled.by.contains(&xid)) {
            self.tally.joined.insert(xid);
        }
    }

    /// A row comes of a table, and of that relation: whether it became a part of the table before or after, is to be all
    /// the same.
    pub(super) fn see_entering(&mut self, table: &TableName, oid: Option<u32>, is_insert: bool) {
        if self.entering.is_empty() {
            return;
        }
        if let Some(entering) = oid.and_then(|oid| self.entering.get_mut(&oid)) {
            entering.is_clean &= is_insert;
            entering.had_rows = true;
            return;
        }
        for entering in self.entering.values_mut().filter(|entering| entering.table == *table) {
            entering.is_clean &= !entering.had_rows;
        }
    }

    /// What a relation held when it became a partition, its table has gained, and the stream does not say so.
    pub(super) fn check_entered(&mut self) {
        for entered in std::mem::take(&mut self.entering).into_values() {
            if !entered.is_clean && (entered.had_rows || !entered.is_new) {
                self.miss(&entered.table, PARTITION);
            }
        }
    }

    /// A column that came after the row has a value in it that the table's own column may not have there.
    pub(super) fn check_columns<C: Columns>(
        &mut self,
        row: &Row<'_, C>,
        found: &Found,
        target: &Target,
    ) -> Result<()> {
        let mut said = BTreeSet::new();
        row.columns.each(|_, column| {
            said.insert(unescape(column.name).unwrap_or_else(|_| column.name.to_owned()));
        })?;
        if found.route.oid.is_some_and(|oid| self.capture.lacks_any(oid, &said)) {
            self.miss(&target.table, REWRITTEN);
        }
        Ok(())
    }
}
