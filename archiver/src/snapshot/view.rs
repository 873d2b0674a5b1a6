//! Production as it was at one moment: which tables, and which transactions are seen.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;
use syncdata_service::postgres::ServerContext as _;

use syncdata_formats::lsn::Lsn;
use syncdata_formats::name::TableName;
use syncdata_formats::snapshot::Seen;
use syncdata_formats::time::Timestamp;
use syncdata_formats::{Error, Kind, Result};
use syncdata_service::postgres::PinnedSettings;
use tokio_postgres::Client;
use tracing::info;

use super::tables::{Selection, Table};
use crate::source::catalog::{self, Position};
use crate::source::connection::pinned;

/// For ACCESS SHARE, which waits for nothing but DDL, TRUNCATE and the like.
const LOCK_TIMEOUT: &str = "60s";

/// Tables come and go while we look, but not for ever.
const ATTEMPTS_MAX: u32 = 5;
const BETWEEN_ATTEMPTS: Duration = Duration::from_millis(500);

/// It lasts until `close`, in a session that is dropped if that is not reached.
#[derive(Debug)]
pub(crate) struct View {
    pub seen: Seen,
    /// Nothing is seen that committed behind it.
    pub end_lsn: Lsn,
    pub taken_at: Timestamp,
    pub timeline: u32,
    pub settings: BTreeMap<String, String>,
    pub tables: Vec<Table>,
}

impl View {
    /// From here on vacuum keeps, in the whole database, what this view may still read.
    pub(crate) async fn open(client: &Client, selection: &Selection<'_>, role: &str) -> Result<View> {
        for attempt in 0..ATTEMPTS_MAX {
            if attempt > 0 {
                info!(attempt, "tables came or went while they were being locked, trying again");
                tokio::time::sleep(BETWEEN_ATTEMPTS).await;
            }
            let wanted = selection.resolve(client).await?;
            // Rights first: LOCK TABLE says no more than that one of them is missing.
            let tables = Table::read_all(client, &wanted, role).await?;
            begin_and_lock(client, &wanted).await?;
            let view = View::look(client, selection, role).await?;
            let is_as_locked = view.tables.iter().map(|table| &table.name).eq(&wanted)
                && view.tables.iter().zip(&tables).all(|(now, before)| now.relation == before.relation);
            if is_as_locked {
                return Ok(view);
            }
            view.close(client).await?;
        }
        let message = "tables come and go so fast that no snapshot of them can be taken";
        Err(Error::new(Kind::Locked, message)
            .hint("try again when no DDL runs, or name the tables: --tables"))
    }

    async fn look(client: &Client, selection: &Selection<'_>, role: &str) -> Result<View> {
        let settings = copying();
        // The first statement that takes the snapshot, which all that follow share.
        settings.apply_to_transaction(client).await?;
        let row = client.query_typed_one("SELECT pg_current_snapshot()::text", &[]).await;
        let row = row.context(|| "asking the source for its snapshot".to_owned())?;
        let text: &str = row.get(0);
        let seen = Seen::parse(text).ok_or_else(|| Error::bad_input("a snapshot of PostgreSQL", text))?;
        // After the snapshot: whatever is seen was written before.
        let end_lsn = catalog::insert_position(client).await?;
        let position = Position::read(client).await?;
        let names = selection.resolve(client).await?;
        Ok(View {
            seen,
            end_lsn,
            taken_at: position.at,
            timeline: position.timeline,
            settings: settings.read_back(client).await?,
            tables: Table::read_all(client, &names, role).await?,
        })
    }

    pub(crate) async fn close(&self, client: &Client) -> Result<()> {
        client.batch_execute("COMMIT").await.context(|| "ending the snapshot's transaction".to_owned())
    }
}

/// The locks come before the snapshot, and neither statement takes one. A TRUNCATE, or an ALTER TABLE that writes the
/// table anew, in between would leave it empty for us, and the stream would not say so.
async fn begin_and_lock(client: &Client, tables: &BTreeSet<TableName>) -> Result<()> {
    let begin = "START TRANSACTION ISOLATION LEVEL REPEATABLE READ READ ONLY";
    client.batch_execute(begin).await.context(|| "starting a transaction on the source".to_owned())?;
    let names: Vec<String> = tables.iter().map(TableName::sql).collect();
    let lock = format!(
        "SET LOCAL lock_timeout = '{LOCK_TIMEOUT}'; LOCK TABLE {} IN ACCESS SHARE MODE",
        names.join(", ")
    );
    let locked = client.batch_execute(&lock).await;
    locked.context(|| "locking the tables against DDL (ACCESS SHARE)".to_owned()).map_err(|error| match error
        .kind()
    {
        Kind::Locked => error.hint("a TRUNCATE or DDL holds one of the tables: try again when it has ended"),
        _ => error,
    })
}

fn copying() -> PinnedSettings {
    pinned()
        // An error instead of a part of the rows.
        .with("row_security", "off")
        // The key's index has the order already; sorting would fill production's disk with temporary files.
        .with("enable_sort", "off")
        // Without a key, rows come as they lie, and that the same way every time.
        .with("synchronize_seqscans", "off")
        .with("max_parallel_workers_per_gather", "0")
}
