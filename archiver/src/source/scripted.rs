//! A source for tests: a list of events that it hands out until they are acknowledged.

use std::borrow::Cow;
use std::cell::Cell;

use syncdata_formats::Result;
use syncdata_formats::lsn::Lsn;
use syncdata_formats::time::Timestamp;

use super::event::{Action, Column, Columns, Event, Part, Place, Row, Transaction};
use super::{Described, Read, Source, Stretch};

/// One event, with names and values as JSON text.
#[derive(Clone, Debug)]
pub(crate) enum Entry {
    Begin(Transaction),
    Row { action: Action, lsn: Lsn, table: String, columns: Listed },
    Truncate { lsn: Lsn, table: String },
    Commit(Transaction),
}

#[derive(Clone, Debug, Default)]
pub(crate) struct Listed(pub Vec<(Part, String, String)>);

/// A script of whole transactions.
#[derive(Debug)]
pub(crate) struct Script {
    entries: Vec<Entry>,
    acknowledged: Cell<Lsn>,
}

impl Entry {
    pub(crate) fn insert(table: &str, lsn: u64, id: u32) -> Entry {
        Entry::row(Action::Insert, Part::Columns, table, lsn, id)
    }

    pub(crate) fn delete(table: &str, lsn: u64, id: u32) -> Entry {
        Entry::row(Action::Delete, Part::Identity, table, lsn, id)
    }

    fn row(action: Action, part: Part, table: &str, lsn: u64, id: u32) -> Entry {
        let columns = Listed(vec![(part, "\"id\"".into(), id.to_string())]);
        Entry::Row { action, lsn: Lsn::from_u64(lsn), table: table.into(), columns }
    }

    pub(crate) fn truncate(table: &str, lsn: u64) -> Entry {
        Entry::Truncate { lsn: Lsn::from_u64(lsn), table: table.into() }
    }

    pub(crate) fn begin(xid: u32, end: u64) -> Entry {
        Entry::Begin(ends_at(xid, end))
    }

    pub(crate) fn commit(xid: u32, end: u64) -> Entry {
        Entry::Commit(ends_at(xid, end))
    }

    /// `rows` between begin and commit.
    pub(crate) fn transaction(xid: u32, end: u64, rows: &[Entry]) -> Vec<Entry> {
        let mut all = vec![Entry::begin(xid, end)];
        all.extend_from_slice(rows);
        all.push(Entry::commit(xid, end));
        all
    }

    /// Hands the event to `take`. Names are of schema public.
    pub(crate) fn hand_over(
        &self,
        mut take: impl for<'a> FnMut(Event<'a, &'a Listed>) -> Result<()>,
    ) -> Result<()> {
        let quoted = |table: &str| format!("\"{table}\"");
        let schema = "\"public\"";
        match self {
            Entry::Begin(begin) => take(Event::Begin(begin.begin())),
            Entry::Commit(commit) => take(Event::Commit(*commit)),
            Entry::Truncate { lsn, table } => {
                take(Event::Truncate(Place { lsn: *lsn, schema, table: &quoted(table), oid: None }))
            }
            Entry::Row { action, lsn, table, columns } => {
                let table = quoted(table);
                let place = Place { lsn: *lsn, schema, table: &table, oid: None };
                take(Event::Row(Row { action: *action, place, columns }))
            }
        }
    }
}

fn ends_at(xid: u32, end: u64) -> Transaction {
    let committed_at = Timestamp::from_postgres("2026-02-05 10:30:00+00").expect("a time");
    Transaction { xid, committed_at, lsn: Lsn::from_u64(end - 1), end_lsn: Lsn::from_u64(end) }
}

impl Columns for &Listed {
    fn each(&self, mut take: impl FnMut(Part, Column<'_>)) -> Result<()> {
        for (part, name, value) in &self.0 {
            take(*part, Column { name, value: Cow::Borrowed(value) });
        }
        Ok(())
    }
}

impl Script {
    pub(crate) fn new(transactions: impl IntoIterator<Item = Vec<Entry>>) -> Script {
        let entries = transactions.into_iter().flatten().collect();
        Script { entries, acknowledged: Cell::default() }
    }
}

impl Source for Script {
    type Session<'s> = ();
    type Client = ();
    type Standing = Lsn;
    type Columns<'a> = &'a Listed;

    async fn read(
        &self,
        (): &Self::Session<'_>,
        stretch: &Stretch<'_>,
        mut take: impl for<'a> FnMut(Event<'a, &'a Listed>) -> Result<()>,
    ) -> Result<Read> {
        let mut read = Read::default();
        let mut is_acknowledged = false;
        for entry in &self.entries {
            if let Entry::Begin(begin) = entry {
                is_acknowledged = begin.begin().lies_before(self.acknowledged.get());
            }
            if is_acknowledged {
                continue;
            }
            read.lines += 1;
            entry.hand_over(&mut take)?;
            if let Entry::Commit(commit) = entry {
                read.was_cut = stretch.lines_max.is_some_and(|max| read.lines >= u64::from(max));
                if read.was_cut || commit.end_lsn >= stretch.upto {
                    break;
                }
            }
        }
        Ok(read)
    }

    async fn acknowledge(&self, (): &(), upto: Lsn) -> Result<Lsn> {
        self.acknowledged.set(upto.max(self.acknowledged.get()));
        Ok(self.acknowledged.get())
    }

    fn described(&self) -> Described {
        let slot = "scripted".parse().expect("a name");
        Described::Wal2json { slot, plugin: "scripted".into(), degraded: Vec::new() }
    }
}
