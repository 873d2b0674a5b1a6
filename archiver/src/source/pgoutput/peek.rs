//! One call of the slot that changes nothing on the server.

use std::pin::pin;

use futures_util::TryStreamExt as _;
use postgres_protocol::escape::{escape_identifier, escape_literal};
use syncdata_formats::lsn::Lsn;
use syncdata_formats::name::SlotName;
use syncdata_formats::{Error, Kind, Result};
use syncdata_service::postgres::ServerContext as _;
use tokio_postgres::Transaction as Tx;
use tokio_postgres::binary_copy::BinaryCopyOutStream;
use tokio_postgres::types::{PgLsn, Type};

use super::message::{Message, Relations, Tuples};
use crate::source::Read;
use crate::source::connection::Connection;
use crate::source::event::{Begin, Event, Place, Row};
use crate::source::length::Length;
use crate::source::wait::Waiting;

/// One call of the slot.
#[derive(Clone, Copy, Debug)]
pub(super) struct Peek<'a> {
    pub slot: &'a SlotName,
    pub publication: &'a str,
    /// Stops with the first transaction that ends at or past it.
    pub upto: Lsn,
    /// Stops with the transaction in which this many messages are reached.
    pub lines_max: Option<u32>,
}

/// What an answer has said so far.
#[derive(Debug, Default)]
pub(super) struct Answer {
    relations: Relations,
    begin: Option<Begin>,
}

impl Peek<'_> {
    /// In a transaction of its own, so that its failure leaves the session usable.
    pub(super) async fn run(
        &self,
        connection: &mut Connection,
        take: impl for<'e> FnMut(Event<'e, Tuples<'e>>) -> Result<()>,
    ) -> Result<Read> {
        connection.let_go().await?;
        let waiting = connection.waiting.clone();
        let tx = connection.transaction().await?;
        self.read(&tx, &waiting, take).await
    }

    /// Hands the answer's events to `take`, one by one, as they come.
    pub(super) async fn read(
        &self,
        client: &Tx<'_>,
        waiting: &Waiting,
        mut take: impl for<'e> FnMut(Event<'e, Tuples<'e>>) -> Result<()>,
    ) -> Result<Read> {
        let doing = || format!("reading the slot {}", self.slot);
        let sql = self.sql();
        let answer = waiting.for_answer(async { client.copy_out(&sql).await.context(doing) }).await?;
        let mut rows = pin!(BinaryCopyOutStream::new(answer, &[Type::PG_LSN, Type::BYTEA]));
        // Before the first of them the server decodes all of the answer.
        let mut next = waiting.for_answer(async { rows.try_next().await.context(doing) }).await?;
        let (mut said, mut length) = (Answer::default(), Length::default());
        while let Some(row) = next {
            let lsn: PgLsn = row.try_get(0).context(doing)?;
            let message: &[u8] = row.try_get(1).context(doing)?;
            length.add(message.len());
            said.take(Lsn::from_u64(lsn.into()), message, &mut take)?;
            next = rows.try_next().await.context(doing)?;
        }
        let Length { lines, bytes, .. } = length;
        length.finish();
        let was_cut = self.lines_max.is_some_and(|max| lines >= u64::from(max));
        Ok(Read { lines, bytes, was_cut })
    }

    /// COPY takes no parameters. Version 1 knows neither transactions that are still open nor prepared ones: both come
    /// whole, when they commit. No message is asked for: any role can write one.
    fn sql(&self) -> String {
        let lines_max = self.lines_max.map_or("NULL".to_owned(), |lines| lines.to_string());
        format!(
            "COPY (SELECT lsn, data FROM pg_catalog.pg_logical_slot_peek_binary_changes({}, {}, {lines_max}, \
             'proto_version', '1', 'publication_names', {})) TO STDOUT (FORMAT binary)",
            escape_literal(self.slot.as_str()),
            escape_literal(&self.upto.to_string()),
            escape_literal(&escape_identifier(self.publication))
        )
    }
}

impl Answer {
    pub(super) fn take(
        &mut self,
        lsn: Lsn,
        bytes: &[u8],
        take: &mut impl for<'e> FnMut(Event<'e, Tuples<'e>>) -> Result<()>,
    ) -> Result<()> {
        match Message::parse(bytes)? {
            Message::Begin(begin) => {
                self.begin = Some(begin);
                take(Event::Begin(begin))
            }
            Message::Commit { lsn, end_lsn, committed_at } => {
                let begin = self
                    .begin
                    .take()
                    .ok_or_else(|| Error::new(Kind::Corrupt, "pgoutput sent a commit without its begin"))?;
                take(Event::Commit(Message::committed(begin, lsn, end_lsn, committed_at)?))
            }
            Message::Relation(oid, relation) => {
                self.relations.learn(oid, relation);
                Ok(())
            }
            Message::Row { action, relation: oid, old, new } => {
                let relation = self.relations.get(oid)?;
                let place = Place { lsn, schema: &relation.schema, table: &relation.table, oid: Some(oid) };
                take(Event::Row(Row { action, place, columns: relation.row(action, old, new)? }))
            }
            Message::Truncate(relations) => {
                for oid in relations {
                    let relation = self.relations.get(oid)?;
                    let (schema, table) = (&relation.schema, &relation.table);
                    take(Event::Truncate(Place { lsn, schema, table, oid: Some(oid) }))?;
                }
                Ok(())
            }
            Message::Other => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn everything_in_the_statement_is_a_literal() {
        let slot = "syncdata_slot".parse().expect("a name");
        let peek =
            Peek { slot: &slot, publication: "it's, \"two\"", upto: Lsn::from_u64(0x10), lines_max: None };
        let sql = peek.sql();
        assert!(sql.contains(r#"'publication_names', '"it''s, ""two"""'"#), "{sql}");
        assert!(sql.contains("'0/10', NULL,"), "{sql}");
    }
}
