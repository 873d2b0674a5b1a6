//! Whether tables have just the rows that the stream has brought: those that are new to the capture, if they had none
//! when it began, and those in which others may hide.
//!
//! They are counted in a snapshot of production. The snapshot is later than the end of the answer. What it sees beyond is read for it, and of a table
//! whose place, name or partitions have changed meanwhile nothing is claimed.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use syncdata_formats::Result;
use syncdata_formats::lsn::Lsn;
use syncdata_formats::manifest::OpCounts;
use syncdata_formats::name::{TableName, TablePattern};
use syncdata_formats::snapshot::Seen;
use syncdata_service::postgres::ServerContext as _;
use tokio_postgres::IsolationLevel;

use crate::capture::suspects::Uncounted;
use crate::capture::{Capture, CatalogTable, DEPTH_MAX, Memory};
use crate::source::catalog::{self, Position};
use crate::source::columns;
use crate::source::connection::Connection;
use crate::source::event::{Action, Event, Place};
use crate::source::look::{self, Look};
use crate::source::production::{Production, Session};
use crate::source::{Source as _, Stretch};

/// What production's count came to. A table that is to be counted at a later poll is nowhere.
#[derive(Debug, Default)]
pub(super) struct Counted {
    pub as_claimed: BTreeSet<TableName>,
    pub otherwise: BTreeSet<TableName>,
    /// Not counted, and why.
    pub uncounted: BTreeMap<TableName, Uncounted>,
}

/// What the stream says of tables.
pub(super) struct Claims<'a> {
    /// Each with the rows that it has if the stream brought all of them.
    pub tables: BTreeMap<TableName, u64>,
    /// All up to here is in these numbers.
    pub end: Lsn,
    /// Transactions that are: one that waits for its standby is in the stream before anybody sees it.
    pub xids: BTreeSet<u32>,
    /// The catalog where they end.
    pub look: &'a Look,
    /// What else decides whether a table is in the stream.
    pub publication: Option<&'a str>,
}

impl Claims<'_> {
    /// As far as that can be said soon.
    pub(super) async fn counted(self, connection: &mut Connection, source: &Production) -> Result<Counted> {
        // What is read for it is peeked at.
        connection.let_go().await?;
        let waiting = connection.waiting.clone();
        let tx = connection.transaction_at(IsolationLevel::RepeatableRead).await?;
        let seen = catalog::seen(&tx).await?;
        let all_before = seen.oldest();
        if !self.xids.iter().all(|xid| all_before.has(*xid)) {
            return Ok(Counted::default());
        }
        let (_, then) = catalog::catalog(&tx, self.publication).await?;
        let written = catalog::insert_position(&tx).await?;
        let mut expected = self.tables.clone();
        if written > self.end {
            if Position::soon(&tx).await?.0.flush < written {
                return Ok(Counted::default());
            }
            let later = self
                .later(
                    source,
                    &Session { tx: &tx, waiting: &waiting, stream: None, batch: None },
                    written,
                    &seen,
                )
                .await?;
            expected = with_later(expected, &later);
        }
        let rows = columns::with_rows(&tx, &expected).await?;
        tx.commit().await.context(|| "ending the transaction on the source".to_owned())?;

        // TRUNCATE takes rows from snapshots that are older than it, too.
        let (_, now) = catalog::catalog(connection.session.client(), self.publication).await?;
        let catalogs = [&self.look.tables, &then, &now];
        let altered: BTreeSet<TableName> =
            catalogs.windows(2).flat_map(|pair| altered(pair[0], pair[1])).collect();
        let unaltered = |tables: BTreeSet<TableName>| tables.difference(&altered).cloned().collect();
        let locked = rows.locked.into_iter().map(|table| (table, Uncounted::Locked));
        let refused = rows.refused.into_iter().map(|table| (table, Uncounted::Refused));
        Ok(Counted {
            as_claimed: unaltered(rows.as_expected),
            otherwise: unaltered(rows.otherwise),
            uncounted: locked.chain(refused).collect(),
        })
    }

    /// What transactions after the end did to the tables, as far as the snapshot shows them.
    async fn later(
        &self,
        source: &Production,
        session: &Session<'_>,
        upto: Lsn,
        seen: &Seen,
    ) -> Result<BTreeMap<TableName, OpCounts>> {
        let patterns: Vec<TablePattern> = self.tables.keys().cloned().map(TablePattern::Table).collect();
        let Look { schemas, tables, .. } = self.look;
        let (capture, _) = Capture::passing_over_mistakes(&patterns, schemas, tables, &Memory::default());
        let mut later =
            Later { capture: &capture, from: self.end, seen, open: BTreeMap::new(), counts: BTreeMap::new() };
        let stretch = Stretch { capture: &capture, upto, lines_max: None };
        source.read(session, &stretch, |event| later.take(event)).await?;
        Ok(later.counts)
    }
}

/// Rows after a position, of transactions that a snapshot shows.
struct Later<'a> {
    capture: &'a Capture,
    from: Lsn,
    seen: &'a Seen,
    /// Of the transaction whose rows are coming.
    open: BTreeMap<TableName, OpCounts>,
    counts: BTreeMap<TableName, OpCounts>,
}

impl Later<'_> {
    fn take<C>(&mut self, event: Event<'_, C>) -> Result<()> {
        match event {
            Event::Begin(_) => self.open.clear(),
            Event::Row(row) => self.count(&row.place, |counts| match row.action {
                Action::Insert => counts.insert += 1,
                Action::Update => counts.update += 1,
                Action::Delete => counts.delete += 1,
            })?,
            Event::Truncate(place) => self.count(&place, |counts| counts.truncate += 1)?,
            Event::Commit(commit) if commit.end_lsn > self.from && self.seen.has(commit.xid) => {
                for (table, open) in std::mem::take(&mut self.open) {
                    let counts = self.counts.entry(table).or_default();
                    counts.insert += open.insert;
                    counts.delete += open.delete;
                    counts.truncate += open.truncate;
                }
            }
            Event::Commit(_) => {}
        }
        Ok(())
    }

    fn count(&mut self, place: &Place<'_>, add: impl FnOnce(&mut OpCounts)) -> Result<()> {
        if let Some(table) = self.capture.table_of(&place.relation()?) {
            add(self.open.entry(table).or_default());
        }
        Ok(())
    }
}

/// What TRUNCATE removed nobody has counted.
fn with_later(
    tables: BTreeMap<TableName, u64>,
    later: &BTreeMap<TableName, OpCounts>,
) -> BTreeMap<TableName, u64> {
    let rows = |(table, rows): (TableName, u64)| match later.get(&table) {
        None => Some((table, rows)),
        Some(counts) if counts.truncate > 0 => None,
        Some(counts) => Some((table, rows.checked_add(counts.insert)?.checked_sub(counts.delete)?)),
    };
    tables.into_iter().filter_map(rows).collect()
}

/// The names of relations that differ, and of the tables that they are partitions of.
fn altered(before: &[CatalogTable], after: &[CatalogTable]) -> BTreeSet<TableName> {
    let differing = look::differing(before, after);
    if differing.is_empty() {
        return BTreeSet::new();
    }
    let names_in = |catalog: &[CatalogTable]| {
        let by_oid: HashMap<u32, &CatalogTable> = catalog.iter().map(|table| (table.oid, table)).collect();
        let parent = |table: &&CatalogTable| by_oid.get(&table.partition_of?).copied();
        let lineage = |oid: &u32| std::iter::successors(by_oid.get(oid).copied(), parent).take(DEPTH_MAX);
        differing.iter().flat_map(lineage).map(|table| table.name.clone()).collect::<BTreeSet<_>>()
    };
    names_in(before).into_iter().chain(names_in(after)).collect()
}
