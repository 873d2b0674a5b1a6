//! One call of the slot that changes nothing on the server.

use std::pin::pin;

use futures_util::TryStreamExt as _;
use postgres_protocol::escape::escape_literal;
use syncdata_formats::Result;
use syncdata_formats::lsn::Lsn;
use syncdata_formats::name::SlotName;
use syncdata_service::postgres::ServerContext as _;
use tokio_postgres::Transaction;
use tokio_postgres::binary_copy::BinaryCopyOutStream;
use tokio_postgres::types::Type;

use crate::source::connection::Connection;
use crate::source::wait::Waiting;

/// No message is read, whatever its prefix: any role can write one that cannot be printed, and nothing after it could
/// ever be read again. The plugin has no switch for that; a prefix that is the only one asked for and is left out as
/// well lets none pass. (An empty list of prefixes would let all pass.)
const NO_MESSAGES: [(&str, &str); 2] =
    [("add-msg-prefixes", "syncdata"), ("filter-msg-prefixes", "syncdata")];

/// One call of the slot.
#[derive(Clone, Copy, Debug)]
pub(super) struct Peek<'a> {
    pub slot: &'a SlotName,
    /// The server's wal2json has the option for it.
    pub numbers_as_text: bool,
    /// wal2json's `add-tables`; empty selects no table at all.
    pub filter: &'a str,
    /// Stops with the first transaction that ends at or past it.
    pub upto: Lsn,
    /// Stops with the transaction in which this many lines are reached.
    pub lines_max: Option<u32>,
}

impl Peek<'_> {
    /// In a transaction of its own, so that its failure leaves the session usable.
    pub(super) async fn run(
        &self,
        connection: &mut Connection,
        take: impl FnMut(&str) -> Result<()>,
    ) -> Result<()> {
        connection.let_go().await?;
        let waiting = connection.waiting.clone();
        let tx = connection.transaction().await?;
        self.read(&tx, &waiting, take).await
    }

    /// Hands the answer's lines to `take`, one by one, as they come.
    pub(super) async fn read(
        &self,
        client: &Transaction<'_>,
        waiting: &Waiting,
        mut take: impl FnMut(&str) -> Result<()>,
    ) -> Result<()> {
        let doing = || format!("reading the slot {}", self.slot);
        let sql = self.sql();
        let answer = waiting.for_answer(async { client.copy_out(&sql).await.context(doing) }).await?;
        let mut rows = pin!(BinaryCopyOutStream::new(answer, &[Type::TEXT]));
        // Before the first of them the server decodes all of the answer.
        let mut next = waiting.for_answer(async { rows.try_next().await.context(doing) }).await?;
        while let Some(row) = next {
            take(row.try_get(0).context(doing)?)?;
            next = rows.try_next().await.context(doing)?;
        }
        Ok(())
    }

    /// COPY takes no parameters. It is binary, because text would escape every backslash of the JSON again.
    fn sql(&self) -> String {
        let lines_max = self.lines_max.map_or("NULL".to_owned(), |lines| lines.to_string());
        let options: Vec<String> = self
            .options()
            .iter()
            .flat_map(|(name, value)| [escape_literal(name), escape_literal(value)])
            .collect();
        format!(
            "COPY (SELECT data FROM pg_catalog.pg_logical_slot_peek_changes({}, {}, {lines_max}, {})) \
             TO STDOUT (FORMAT binary)",
            escape_literal(self.slot.as_str()),
            escape_literal(&self.upto.to_string()),
            options.join(", ")
        )
    }

    /// What the plugin is asked for.
    pub(super) fn options(&self) -> Vec<(&str, &str)> {
        let mut options = vec![
            ("format-version", "2"),
            ("include-lsn", "1"),
            ("include-xids", "1"),
            ("include-timestamp", "1"),
            ("include-transaction", "1"),
            ("include-types", "0"),
            // Which columns are bytea, whose prefix is not printed, and which are numbers.
            ("include-type-oids", "1"),
            ("add-tables", self.filter),
        ];
        options.extend(NO_MESSAGES);
        if self.numbers_as_text {
            options.push(("numeric-data-types-as-string", "1"));
        }
        options
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn everything_in_the_statement_is_a_literal() {
        let slot = "syncdata_slot".parse().expect("a name");
        let filter = r"public.it\'s,public.back\\slash";
        let upto = Lsn::from_u64(0x10);
        let peek = Peek { slot: &slot, numbers_as_text: false, filter, upto, lines_max: None };
        let sql = peek.sql();
        assert!(sql.contains(r"'add-tables',  E'public.it\\''s,public.back\\\\slash'"), "{sql}");
        assert!(sql.contains("'0/10', NULL,"), "{sql}");
        assert!(!sql.contains("numeric-data-types-as-string"), "{sql}");
        let none_pass = ["'add-msg-prefixes', 'syncdata'", "'filter-msg-prefixes', 'syncdata'"];
        assert!(none_pass.iter().all(|option| sql.contains(option)), "{sql}");
    }
}
