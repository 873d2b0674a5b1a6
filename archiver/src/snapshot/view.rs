//! Production as it was at one moment: which tables, and which transactions are seen.

use std::collections::BTreeMap;
use std::time::Duration;
use syncdata_service::postgres::ServerContext as _;

use syncdata_formats::lsn::Lsn;
use syncdata_formats::snapshot::Seen;
use syncdata_formats::time::Timestamp;
use syncdata_formats::{Error, Kind, Result};
use syncdata_service::postgres::PinnedSettings;
use tokio_postgres::Client;
use tracing::info;

use super::hold;
use super::tables::{LeftOut, Selection, Table};
use crate::source::catalog::{self, Position};
use crate::source::pinned::pinned;
use crate::spool::ExportedSnapshot;

/// Tables come and go while we look, but not for ever.
const ATTEMPTS_MAX: u32 = 5;
const BETWEEN_ATTEMPTS: Duration = Duration::from_millis(500);

/// It lasts until `close`, in a session that is dropped if that is not reached.
#[derive(Debug)]
pub(crate) struct View {
    pub seen: Seen,
    /// Nothing is seen that committed after it.
    pub end_lsn: Lsn,
    pub taken_at: Timestamp,
    pub timeline: u32,
    pub settings: BTreeMap<String, String>,
    pub tables: Vec<Table>,
    /// Of those that were wanted.
    pub closed: Vec<LeftOut>,
    /// For a poll of triggers, which can end with it.
    pub exported: ExportedSnapshot,
}

impl View {
    /// From here on vacuum keeps, in the whole database, what this view may still read. No table is locked.
    pub(crate) async fn open(client: &Client, selection: &Selection<'_>, role: &str) -> Result<View> {
        for _ in 1..ATTEMPTS_MAX {
            match View::look(client, selection, role).await {
                Err(error) if error.kind() == Kind::NotFound => {
                    info!(error = %error.one_line(), "tables went while they were looked at, trying again");
                    View::give_up(client).await?;
                    tokio::time::sleep(BETWEEN_ATTEMPTS).await;
                }
                looked => return looked,
            }
        }
        View::look(client, selection, role).await
    }

    async fn look(client: &Client, selection: &Selection<'_>, role: &str) -> Result<View> {
        let begin = "START TRANSACTION ISOLATION LEVEL REPEATABLE READ READ ONLY";
        client.batch_execute(begin).await.context(|| "starting a transaction on the source".to_owned())?;
        let settings = copying();
        // The first statement that takes the snapshot, which all that follow share.
        settings.apply_to_transaction(client).await?;
        let row = client.query_typed_one("SELECT pg_current_snapshot()::text", &[]).await;
        let row = row.context(|| "asking the source for its snapshot".to_owned())?;
        let text: &str = row.get(0);
        let seen = Seen::parse(text).ok_or_else(|| Error::bad_input("a snapshot of PostgreSQL", text))?;
        // Before there is a part of the transaction, in which none is exported.
        let exported = export(client).await?;
        // The catalog is not held either while tables are read.
        hold::mark(client).await?;
        // After the snapshot: whatever is seen was written before.
        let end_lsn = catalog::insert_position(client).await?;
        let position = Position::read(client).await?;
        let names = selection.resolve(client).await?;
        let (tables, closed) =
            Table::read_all(client, &names, role, selection.publication.as_deref()).await?;
        let settings = settings.read_back(client).await?;
        hold::release(client).await?;
        Ok(View {
            seen,
            end_lsn,
            taken_at: position.at,
            timeline: position.timeline,
            settings,
            tables,
            closed,
            exported,
        })
    }

    async fn give_up(client: &Client) -> Result<()> {
        client.batch_execute("ROLLBACK").await.context(|| "ending the snapshot's transaction".to_owned())
    }

    pub(crate) async fn close(&self, client: &Client) -> Result<()> {
        client.batch_execute("COMMIT").await.context(|| "ending the snapshot's transaction".to_owned())
    }
}

async fn export(client: &Client) -> Result<ExportedSnapshot> {
    let sql = "SELECT pg_export_snapshot(), (extract(epoch FROM now()) * 1000000)::int8";
    let row = client.query_typed_one(sql, &[]).await;
    let row = row.context(|| "exporting a snapshot on the source".to_owned())?;
    Ok(ExportedSnapshot { id: row.get(0), at: Timestamp::from_micros(row.get(1))? })
}

fn copying() -> PinnedSettings {
    pinned()
        // An error instead of a part of the rows.
        .with("row_security", "off")
        // The key's index has the order already; sorting would fill production's disk with temporary files.
        .with("enable_sort", "off")
        // What that makes every plan cost would have it compiled.
        .with("jit", "off")
        // Without a key, rows come as they lie, and that the same way every time.
        .with("synchronize_seqscans", "off")
        .with("max_parallel_workers_per_gather", "0")
}
