//! The file beside its transactions: what passes, loads and commands ask of it.

use std::collections::BTreeMap;
use std::time::Duration;

use syncdata_formats::error::{Error, Result};
use syncdata_formats::head::Head;
use syncdata_formats::lsn::Lsn;
use syncdata_formats::name::TableName;
use syncdata_formats::time::Timestamp;
use uuid::Uuid;

use super::database::Database;
use super::transaction::Duckdb;
use super::{cursor, notes, tables, whitelist};
use crate::plan::GapName;
use crate::plan::offer::CaptureSince;
use crate::plan::position::{Checkpoint, Position};
use crate::plan::state::{Event, TableState, Want};
use crate::target::{Entry, Poison};

impl Duckdb {
    /// A whole or nothing.
    async fn in_transaction<T, F>(&self, work: F) -> Result<T>
    where
        T: Send + 'static,
        F: FnOnce(&Database) -> Result<T> + Send + 'static,
    {
        self.file.run(move |database| database.in_transaction(|| work(database))).await
    }

    pub async fn checkpoint(&self) -> Result<Checkpoint> {
        self.file.run(cursor::checkpoint).await
    }

    pub async fn table_states(&self) -> Result<BTreeMap<TableName, TableState>> {
        let known = self.file.run(cursor::tables).await?;
        Ok(known.into_iter().map(|(name, known)| (name, known.state)).collect())
    }

    /// Notes which archive this copy belongs to, unless it belongs to one.
    pub async fn adopt(&self, archive_id: Uuid) -> Result<()> {
        self.file.run(move |database| cursor::adopt(database, archive_id)).await
    }

    /// What tells this copy from every other one.
    pub async fn copy_id(&self) -> Result<Uuid> {
        self.file.run(cursor::copy_id).await
    }

    pub async fn covered_at(&self) -> Result<Option<Timestamp>> {
        self.file.run(cursor::covered_at).await
    }

    /// All of the archive is applied: as fresh as its head says, which names what is captured no more.
    pub async fn note_covered(&self, head: &Head) -> Result<()> {
        let (left, lsn, at) = (head.not_captured.clone(), head.covered_lsn, head.covered_at);
        let note = move |database: &Database| {
            if !left.is_empty() {
                cursor::note_left(database, &left)?;
            }
            cursor::note_covered(database, lsn, at)
        };
        self.in_transaction(note).await
    }

    /// The tables that are captured no more, each with the time after which nothing of it is in the archive.
    pub async fn left(&self) -> Result<BTreeMap<String, Timestamp>> {
        self.file.run(cursor::left).await
    }

    /// Up to where everything that committed is in the live tables.
    pub async fn reached(&self) -> Result<Lsn> {
        self.file.run(cursor::reached).await
    }

    pub(crate) async fn capture_since(&self) -> Result<CaptureSince> {
        self.file.run(cursor::capture_since).await
    }

    pub async fn note_stale_after(&self, stale_after: Duration) -> Result<()> {
        self.file.run(move |database| cursor::note_stale_after(database, stale_after)).await
    }

    /// Something happens to a table.
    pub async fn change(
        &self,
        table: TableName,
        event: Event,
        position: Option<Position>,
        reason: Option<String>,
    ) -> Result<()> {
        let change =
            move |database: &Database| cursor::change(database, &table, event, position, reason.as_deref());
        self.in_transaction(change).await
    }

    /// A table begins without a base.
    pub async fn begin_without_base(&self, table: TableName, position: Position) -> Result<()> {
        self.in_transaction(move |database| whitelist::begin(database, &table, position)).await
    }

    /// A table takes nothing any more, with no record to blame.
    pub async fn set_aside(&self, poison: Poison, entry: Entry) -> Result<()> {
        let note = move |database: &Database| {
            notes::keep(database, &poison, None)?;
            cursor::change(database, &poison.table, Event::SetAside, None, Some(&poison.reason))?;
            notes::log(database, &[entry], Duration::ZERO)
        };
        self.in_transaction(note).await
    }

    /// The table has taken everything up to the checkpoint: what was in its way is settled.
    pub async fn is_through(&self, table: TableName) -> Result<()> {
        let go_live = move |database: &Database| {
            cursor::change(database, &table, Event::CaughtUp, None, None)?;
            whitelist::settle(database, &table, "applied")
        };
        self.in_transaction(go_live).await
    }

    pub async fn cut_off(&self, table: TableName, reason: String, gap: GapName) -> Result<()> {
        let note = move |database: &Database| {
            cursor::change(database, &table, Event::CutOff, None, Some(&reason))?;
            cursor::note_gap(database, &table, gap)
        };
        self.in_transaction(note).await
    }

    pub async fn has_rows(&self, table: TableName) -> Result<bool> {
        self.file.run(move |database| tables::has_rows(database, &table)).await
    }

    /// Those of the tables whose rows are no longer those of their positions, and why.
    pub async fn lost(&self, tables: Vec<TableName>) -> Result<Vec<(TableName, String)>> {
        self.file.run(move |database| whitelist::lost(database, &tables)).await
    }

    /// Why no table of that name can be in the file.
    pub async fn refused(&self, table: TableName) -> Result<Option<String>> {
        self.file.run(move |database| whitelist::refused(database, &table)).await
    }

    /// Puts tables on the whitelist, with the base that their first rows come from; which of them are new there.
    pub async fn add(
        &self,
        names: Vec<TableName>,
        want: Want,
        creator: Option<String>,
    ) -> Result<Vec<TableName>> {
        let add = move |database: &Database| {
            let added = whitelist::add(database, &names, creator.as_deref())?;
            for table in &added {
                whitelist::want(database, table, want)?;
            }
            notes::log_command(database, "add-tables", &added)?;
            Ok(added)
        };
        self.in_transaction(add).await
    }

    /// Takes tables off the whitelist; their rows stay.
    pub async fn remove(&self, names: Vec<TableName>) -> Result<()> {
        let remove = move |database: &Database| {
            whitelist::remove(database, &names)?;
            notes::log_command(database, "remove-tables", &names)
        };
        self.in_transaction(remove).await
    }

    pub async fn want(&self, table: TableName, want: Want) -> Result<()> {
        self.in_transaction(move |database| whitelist::want(database, &table, want)).await
    }

    pub async fn grant_nothing(&self, table: TableName, asked: i64) -> Result<()> {
        self.in_transaction(move |database| whitelist::grant_nothing(database, &table, asked)).await
    }

    pub async fn retry(&self, tables: Vec<TableName>, accept_gap: bool) -> Result<()> {
        let command = if accept_gap { "retry --accept-gap" } else { "retry" };
        let retry = move |database: &Database| {
            whitelist::retry(database, &tables, accept_gap)?;
            notes::log_command(database, command, &tables)
        };
        self.in_transaction(retry).await
    }

    /// Makes tables anew; with an archive's id, all that the copy holds counts for nothing any more.
    pub async fn resync(
        &self,
        tables: Vec<(TableName, TableState)>,
        starts_over: Option<Uuid>,
    ) -> Result<()> {
        let resync = move |database: &Database| {
            let names: Vec<TableName> = tables.iter().map(|(table, _)| table.clone()).collect();
            notes::log_command(database, "resync", &names)?;
            match starts_over {
                Some(archive_id) => whitelist::start_over(database, archive_id, &names),
                None => whitelist::resync(database, &tables),
            }
        };
        self.in_transaction(resync).await
    }

    /// Empties tables.
    pub async fn clear(&self, tables: Vec<TableName>) -> Result<()> {
        let clear = move |database: &Database| {
            whitelist::clear(database, &tables)?;
            notes::log_command(database, "clear", &tables)
        };
        self.in_transaction(clear).await
    }

    /// What failed without being about a table, for data_sync_logs.
    pub async fn log_failure(&self, archive_ref: Option<&str>, error: &Error) -> Result<()> {
        let (archive_ref, words) = (archive_ref.or(error.file()).map(str::to_owned), error.with_hint());
        self.in_transaction(move |database| notes::log_failure(database, archive_ref.as_deref(), &words))
            .await
    }

    /// What one table came to outside of a transaction of rows.
    pub async fn log(&self, entry: Entry) -> Result<()> {
        self.in_transaction(move |database| notes::log(database, &[entry], Duration::ZERO)).await
    }

    /// Lines of data_sync_logs that are older than so many days.
    pub async fn forget_old_logs(&self, days: u32) -> Result<()> {
        self.in_transaction(move |database| notes::forget_old(database, days)).await
    }
}
