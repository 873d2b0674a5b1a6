//! A question at somebody's snapshot: which rows? It may only read, for a limited time.

use std::pin::pin;
use std::time::Duration;

use futures_util::TryStreamExt as _;
use postgres_protocol::escape::{escape_identifier, escape_literal};
use syncdata_formats::error::{Error, Kind, Result};
use syncdata_formats::proof::{Violators, ViolatorsOfCopy};
use tokio_postgres::Client;
use tokio_postgres::types::{ToSql, Type};

use super::ServerContext as _;

/// What is asked, and how.
#[derive(Clone, Copy, Debug)]
pub struct Question<'a> {
    /// As its owner has exported it, and holds it still.
    pub snapshot: &'a str,
    pub limit: Option<Duration>,
    /// Where names without a schema are looked for, before `public`.
    pub schema: &'a str,
    pub sql: &'a str,
}

/// Nobody is kept from a table for longer than that by a question that waits for it.
const LOCK_TIMEOUT: &str = "1s";

/// The files of all that this session has read, as its snapshot has seen them.
const FILES_READ: &str = "SELECT coalesce(array_agg(c.oid::int8 ORDER BY c.oid), '{}'),
    coalesce(string_agg(c.oid || '/' || c.relfilenode, ' ' ORDER BY c.oid), '')
  FROM pg_catalog.pg_locks l JOIN pg_catalog.pg_class c ON c.oid = l.relation
  WHERE l.locktype = 'relation' AND l.pid = pg_catalog.pg_backend_pid() AND c.oid >= 16384
    AND c.relkind IN ('r', 'm', 'p')
    AND l.database = (SELECT oid FROM pg_catalog.pg_database WHERE datname = pg_catalog.current_database())";

const FILES: &str = "SELECT coalesce(string_agg(c.oid || '/' || c.relfilenode, ' ' ORDER BY c.oid), '')
  FROM pg_catalog.pg_class c WHERE c.oid = ANY ($1::int8[]::oid[])";

impl Question<'_> {
    /// The rows, while another session looks whether they are whole. The session is ready for the next question, whatever
    /// fails.
    pub async fn ask(&self, client: &Client, other: &Client) -> Result<Violators> {
        let answered = self.answered(client, other).await;
        let ended = client.batch_execute("ROLLBACK").await.context(|| "ending a question".to_owned());
        let violators = answered?;
        ended.map(|()| violators)
    }

    async fn answered(&self, client: &Client, other: &Client) -> Result<Violators> {
        self.begin(client).await?;
        let violators = rows(client, self.sql).await?;
        let doing = || "asking which tables were read".to_owned();
        let row = client.query_typed_one(FILES_READ, &[]).await.context(doing)?;
        let (oids, seen): (Vec<i64>, String) = (row.get(0), row.get(1));
        let oids: (&(dyn ToSql + Sync), Type) = (&oids, Type::INT8_ARRAY);
        let now: String = other.query_typed_one(FILES, &[oids]).await.context(doing)?.get(0);
        // A TRUNCATE gives a table other files: to an older snapshot it is empty.
        if now != seen {
            let message = "a table that it reads was truncated or written anew after the snapshot";
            return Err(Error::new(Kind::Conflict, message));
        }
        Ok(violators)
    }

    async fn begin(&self, client: &Client) -> Result<()> {
        let limit = self.limit.map_or(0, |limit| limit.as_millis().min(i32::MAX as u128));
        let begin = format!(
            "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY; SET TRANSACTION SNAPSHOT {}; \
             SET LOCAL statement_timeout = '{limit}ms'; SET LOCAL lock_timeout = '{LOCK_TIMEOUT}'; \
             SET LOCAL search_path = {}, public",
            escape_literal(self.snapshot),
            escape_identifier(self.schema),
        );
        client.batch_execute(&begin).await.context(|| "preparing to ask".to_owned())
    }
}

async fn rows(client: &Client, sql: &str) -> Result<Violators> {
    // A comment at the end of the query ends with its line.
    let statement = format!("COPY (\n{sql}\n) TO STDOUT");
    let doing = || "asking".to_owned();
    let answer = client.copy_out(&statement).await.context(doing)?;
    let mut answer = pin!(answer);
    let mut violators = ViolatorsOfCopy::default();
    while let Some(piece) = answer.try_next().await.context(doing)? {
        violators.push(&piece)?;
    }
    violators.finish()
}
