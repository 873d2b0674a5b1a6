//! Which transactions the slot offers, without their rows.

use syncdata_formats::Result;
use syncdata_formats::lsn::Lsn;

use super::line::Line;
use super::peek::Peek;
use super::{Wal2json, filter};
use crate::capture::Capture;
use crate::source::Offered;
use crate::source::answer::Collected;
use crate::source::connection::{Connection, while_in_use};
use crate::source::event::Transaction;

impl Wal2json {
    /// Every transaction up to `upto`, with what it changed of the tables that are captured.
    pub(crate) async fn offered(
        &self,
        connection: &mut Connection,
        capture: &Capture,
        upto: Lsn,
    ) -> Result<Vec<Offered>> {
        let filter = filter::of(capture);
        offered(connection, &self.peek(&filter, upto, None)).await
    }

    /// Every transaction of the database up to `upto`.
    pub(crate) async fn commits(&self, connection: &mut Connection, upto: Lsn) -> Result<Vec<Transaction>> {
        commits(connection, &self.peek(filter::NOTHING, upto, None)).await
    }
}

/// Every transaction in reach of the peek, in the order of their commits.
pub(super) async fn offered(connection: &mut Connection, peek: &Peek<'_>) -> Result<Vec<Offered>> {
    let mut found = Collected::default();
    while_in_use(async || {
        found = Collected::default();
        let take = |line: &str| match Line::parse(line)? {
            Line::Event(event) => found.take(&event),
            Line::Message => Ok(()),
        };
        peek.run(connection, take).await
    })
    .await?;
    Ok(found.all)
}

/// The same of all transactions of the database: no row is printed, so that none can stand in the way.
pub(super) async fn commits(connection: &mut Connection, whole: &Peek<'_>) -> Result<Vec<Transaction>> {
    let bare = Peek { filter: filter::NOTHING, lines_max: None, ..*whole };
    Ok(offered(connection, &bare).await?.into_iter().map(|offered| offered.transaction).collect())
}
