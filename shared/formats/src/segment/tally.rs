//! What writer and reader both count, and the rules that every transaction keeps.

use std::collections::BTreeMap;

use crate::change::{Commit, Op};
use crate::lsn::Lsn;
use crate::manifest::{OpCounts, Span};
use crate::name::TableName;
use crate::time::Timestamp;

#[derive(Debug)]
pub(super) struct Tally {
    pub(super) start_lsn: Lsn,
    /// Of the last commit; before the first one `start_lsn`.
    pub(super) end_lsn: Lsn,
    pub(super) records: u64,
    pub(super) transactions: u64,
    /// Rows since the last COMMIT.
    pub(super) open_rows: u64,
    pub(super) span: Option<Span>,
    pub(super) last_commit_ts: Option<Timestamp>,
    numbers: BTreeMap<TableName, usize>,
    counts: Vec<OpCounts>,
}

impl Tally {
    pub(super) fn new(start_lsn: Lsn) -> Tally {
        Tally {
            start_lsn,
            end_lsn: start_lsn,
            records: 0,
            transactions: 0,
            open_rows: 0,
            span: None,
            last_commit_ts: None,
            numbers: BTreeMap::new(),
            counts: Vec::new(),
        }
    }

    /// The number under which `row` knows a table: names are looked up once, not for each row.
    pub(super) fn number_of(&mut self, table: &TableName) -> usize {
        if let Some(&number) = self.numbers.get(table) {
            return number;
        }
        self.counts.push(OpCounts::default());
        self.numbers.insert(table.clone(), self.counts.len() - 1);
        self.counts.len() - 1
    }

    pub(super) fn row(&mut self, table: usize, op: Op) {
        self.counts[table].add(op);
        self.records += 1;
        self.open_rows += 1;
    }

    pub(super) fn commit(&mut self, commit: &Commit) -> Result<(), String> {
        let Commit { xid, changes, lsn, end_lsn, ts } = *commit;
        if changes != self.open_rows {
            return Err(format!("transaction {xid} should have {changes} rows and has {}", self.open_rows));
        }
        if end_lsn <= self.end_lsn {
            return Err(format!("transaction {xid} ends at {end_lsn}, not after {}", self.end_lsn));
        }
        if lsn > end_lsn {
            return Err(format!("transaction {xid} commits at {lsn}, after its own end {end_lsn}"));
        }
        self.open_rows = 0;
        self.transactions += 1;
        self.end_lsn = end_lsn;
        self.last_commit_ts = Some(ts);
        self.span = Some(match self.span {
            None => Span { first_ts: ts, last_ts: ts, min_xid: xid, max_xid: xid },
            Some(span) => Span {
                first_ts: span.first_ts.min(ts),
                last_ts: span.last_ts.max(ts),
                min_xid: span.min_xid.min(xid),
                max_xid: span.max_xid.max(xid),
            },
        });
        Ok(())
    }

    pub(super) fn tables(&self) -> BTreeMap<TableName, OpCounts> {
        self.numbers.iter().map(|(table, &number)| (table.clone(), self.counts[number])).collect()
    }
}
