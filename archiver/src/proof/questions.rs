//! What production is asked beside the digests, at the same snapshot: which rows refer to nothing, and which break a rule
//! of the operator.
//!
//! Each question has a session of its own, which may only read, for a limited time, and gives way to whoever waits for a
//! lock of it. One that fails is not answered; the proof is none the worse.

use syncdata_formats::proof::Violators;
use syncdata_formats::{Error, Kind, Result};
use syncdata_service::config::Config;
use syncdata_service::faults;
use syncdata_service::postgres::{CatalogKey, Question, ServerContext as _, Session};
use tokio_postgres::Client;

use super::APPLICATION_NAME;
use crate::snapshot::hold::{self, Neighbours, Unread};
use crate::snapshot::tables::Table;
use crate::source::pinned::pinned;

/// Of both tables of a foreign key: production joins no larger ones for us.
const ROWS_JOINED_MAX: u64 = 5_000_000;

/// A snapshot that others may look at, as long as its session holds it.
pub(super) struct Questions<'a> {
    config: &'a Config,
    snapshot: String,
    neighbours: &'a Neighbours,
    holder: i32,
}

impl<'a> Questions<'a> {
    pub(super) async fn at(
        config: &'a Config,
        client: &Client,
        neighbours: &'a Neighbours,
        holder: i32,
    ) -> Result<Questions<'a>> {
        let doing = || "exporting the snapshot of the proof".to_owned();
        // A snapshot cannot be exported after a savepoint.
        client.batch_execute("RELEASE SAVEPOINT syncdata_table").await.context(doing)?;
        let row = client.query_typed_one("SELECT pg_catalog.pg_export_snapshot()", &[]).await;
        let snapshot = row.context(doing)?.get(0);
        hold::mark(client).await?;
        Ok(Questions { config, snapshot, neighbours, holder })
    }

    /// The rows that the query answers, or why it was not answered.
    pub(super) async fn ask(&self, table: &Table, sql: &str) -> Result<Violators, String> {
        self.asked(table, sql).await.map_err(|error| error.one_line())
    }

    async fn asked(&self, table: &Table, sql: &str) -> Result<Violators> {
        if self.neighbours.is_to_end().await? {
            return Err(Error::new(Kind::Locked, "DDL waited"));
        }
        let settings = pinned().with("max_parallel_workers_per_gather", "0").with("row_security", "off");
        let session = Session::open(self.config.postgres()?, APPLICATION_NAME, &settings).await?;
        let process = session.client().query_typed_one("SELECT pg_catalog.pg_backend_pid()", &[]).await;
        let process = process.context(|| "asking for the session's process".to_owned())?.get(0);
        let neighbours =
            Neighbours::open(self.config, APPLICATION_NAME, process, session.canceller()).await?;
        let neighbours = neighbours.ending_with(self.holder);
        faults::hit("proof.asked")?;
        let limit = Some(self.config.rule_timeout);
        let question = Question { snapshot: &self.snapshot, limit, schema: table.name.schema(), sql };
        let reading = question.ask(session.client(), neighbours.client());
        neighbours.give_way(table, reading).await.map_err(|unread| match unread {
            Unread::Table(error) | Unread::Now(error) | Unread::GaveWay(error) | Unread::All(error) => error,
        })
    }
}

/// The question for rows of `table` whose key is not in `parent`. `None`: there are too many to be joined.
pub(super) fn orphans(table: &Table, key: &CatalogKey, parent: &Table, columns: &[String]) -> Option<String> {
    let rows = table.rows_estimate.unwrap_or(0).saturating_add(parent.rows_estimate.unwrap_or(0));
    (rows <= ROWS_JOINED_MAX && !columns.is_empty())
        .then(|| key.orphans(&table.source(), &parent.source(), columns))
}
