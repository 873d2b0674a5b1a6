//! Finds where the transaction commits that cannot be read, so that all before it can be saved and it can be named.
//!
//! The plugin tells of no transaction without its rows. So the place is found by halving the WAL itself: an answer that
//! ends before the commit record can be had, one that has it cannot.

use syncdata_formats::Result;
use syncdata_formats::lsn::Lsn;
use syncdata_service::faults;

use super::Pgoutput;
use crate::source::catalog;
use crate::source::connection::{Connection, while_in_use};
use crate::source::poison::Poison;
use crate::source::slot::Trouble;

/// What lies before `upto` could not be read: from where on? All before `from` is archived.
pub(super) async fn locate(
    connection: &mut Connection,
    source: &Pgoutput,
    from: Lsn,
    upto: Lsn,
) -> Result<Option<Poison>> {
    // An answer up to `readable` can be had, one up to `unreadable` cannot.
    let (mut readable, mut unreadable) = (Lsn::from_u64(1), upto);
    if can_read(connection, source, unreadable).await? {
        return Ok(None);
    }
    if from < upto && can_read(connection, source, from).await? {
        readable = from;
    }
    while unreadable.as_u64() - readable.as_u64() > 1 {
        let middle = Lsn::from_u64(readable.as_u64() + (unreadable.as_u64() - readable.as_u64()) / 2);
        if can_read(connection, source, middle).await? {
            readable = middle;
        } else {
            unreadable = middle;
        }
    }
    // What lies before it is worth an answer only if something commits there.
    let before = source.offered(connection, readable).await?;
    let last = before.last().map(|offered| offered.transaction.end_lsn);
    // The record begins where the last readable answer ends, or after the header of the page that begins there; and the
    // slot hands out no commit that begins before the place where it stands.
    let begin = catalog::begin_after(connection.session.client(), readable).await?;
    Ok(Some(Poison {
        xid: None,
        end_lsn: Lsn::from_u64(begin.as_u64() + 1),
        readable_upto: last.filter(|last| *last > from),
        tables: Vec::new(),
        besides: None,
    }))
}

/// A connection that breaks, or a call that somebody cancels, says nothing of what was to be read.
async fn can_read(connection: &mut Connection, source: &Pgoutput, upto: Lsn) -> Result<bool> {
    let read = while_in_use(async || {
        faults::hit("poison.before_try")?;
        source.peek(upto, None).run(connection, |_| Ok(())).await.map(|_| ())
    });
    match read.await {
        Ok(()) => Ok(true),
        Err(error) if Trouble::of(&error) == Trouble::Content => Ok(false),
        Err(error) => Err(error.context("looking for the transaction that cannot be read")),
    }
}
