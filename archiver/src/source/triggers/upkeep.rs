//! What the reader writes in production: how far it has come, and that notes may go.

use std::time::Duration;

use syncdata_formats::lsn::Lsn;
use syncdata_formats::name::SlotName;
use syncdata_formats::snapshot::Seen;
use syncdata_formats::{Error, Result};
use syncdata_service::faults;
use syncdata_service::postgres::{ServerContext as _, sqlstate};
use tokio_postgres::types::Type;
use tracing::info;

use super::reader::{BLOWN, REARMED_NOW, Reader, missing, text_of};
use crate::capture::position::number_of;
use crate::source::ask::one;
use crate::source::catalog::Slot;
use crate::source::connection::Connection;

/// So many bytes of notes that were read are reason enough to take the other table.
const ROTATE_BYTES: i64 = 8 << 20;

/// What is safe may be forgotten: not before `rotate` finds time for it.
pub(super) async fn acknowledge(connection: &Connection, name: &SlotName, upto: Lsn) -> Result<Slot> {
    let client = connection.session.client();
    let stands = Slot::read(client, name).await?.ok_or_else(|| missing(name))?;
    if stands.confirmed_flush_lsn >= Some(upto) {
        return Ok(stands);
    }
    faults::hit("slot.before_advance")?;
    let batch = number_of(upto).ok_or_else(|| Error::bad_input("a batch", &upto.to_string()))?;
    let batch = i64::try_from(batch).map_err(|_| Error::bad_input("a batch", &upto.to_string()))?;
    let sql = format!(
        "BEGIN READ WRITE; SET LOCAL lock_timeout = '2s'; UPDATE syncdata.reader SET batch = {batch} WHERE batch < {batch}; COMMIT"
    );
    in_its_own(connection, &sql, "noting how far the notes were read").await?;
    faults::hit("slot.after_advance")?;
    Slot::read(client, name).await?.ok_or_else(|| missing(name))
}

/// The limit past which nothing is noted, as the settings have it.
pub(crate) async fn keep_guard(connection: &Connection, reader: &Reader, bytes: u64) -> Result<()> {
    if reader.guard_bytes == bytes {
        return Ok(());
    }
    let bytes = i64::try_from(bytes).unwrap_or(i64::MAX);
    let sql = format!(
        "BEGIN READ WRITE; SET LOCAL lock_timeout = '2s'; UPDATE syncdata.reader SET guard_bytes = {bytes}; COMMIT"
    );
    in_its_own(connection, &sql, "noting how much may be noted").await
}

/// All is noted again: transactions that may have left something out have numbers by now, which are below this one's.
pub(crate) async fn date_rearming(connection: &Connection, reader: &Reader) -> Result<()> {
    if reader.rearmed != REARMED_NOW {
        return Ok(());
    }
    let sql = format!(
        "BEGIN READ WRITE; SET LOCAL lock_timeout = '2s'; UPDATE syncdata.reader
         SET rearmed = pg_current_xact_id()::text::bigint WHERE rearmed = {REARMED_NOW}; COMMIT"
    );
    in_its_own(connection, &sql, "noting since when all is noted again").await
}

const TABLES: &str =
    "SELECT last_value >> 32, (last_value >> 32) & 1, pg_relation_size('syncdata.changes_0'),
    pg_relation_size('syncdata.changes_1') FROM syncdata.change_id";

/// Empties the table that nobody writes, once all in it is safe: `seen` is what the last batch that is safe has shown. If the
/// other one has grown, it is no more written from now on. Nobody is waited for: there is another poll.
pub(crate) async fn rotate(connection: &Connection, seen: &Seen) -> Result<()> {
    let client = connection.session.client();
    let row = one(client, "looking at the size of what is noted", TABLES, &[]).await?;
    let (range, written): (i64, i64) = (row.get(0), row.get(1));
    let sizes: [i64; 2] = [row.get(2), row.get(3)];
    let (in_use, idle) = if written == 0 { (sizes[0], sizes[1]) } else { (sizes[1], sizes[0]) };
    if range >= BLOWN >> 32 {
        return Ok(());
    }
    if idle > 0 {
        return empty(connection, 1 - written, seen).await;
    }
    if in_use >= ROTATE_BYTES {
        let sql =
            // The fuse may have blown since.
            format!("BEGIN READ WRITE; SELECT setval('syncdata.change_id', {}) FROM syncdata.change_id WHERE last_value < {BLOWN}; COMMIT", (range + 1) << 32);
        in_its_own(connection, &sql, "taking the other table for notes").await?;
        info!(bytes = in_use, "notes go to the other table from now on");
    }
    Ok(())
}

async fn empty(connection: &Connection, table: i64, seen: &Seen) -> Result<()> {
    const PATIENCE: Duration = Duration::from_millis(100);
    let doing = "emptying the notes that were read";
    let client = connection.session.client();
    let begin = format!(
        "BEGIN READ WRITE; SET LOCAL enable_seqscan = off; SET LOCAL lock_timeout = {}; LOCK syncdata.changes_{table} IN ACCESS EXCLUSIVE MODE",
        PATIENCE.as_millis()
    );
    let emptied = async {
        client.batch_execute(&begin).await.context(|| doing.to_owned())?;
        // A transaction that took its number before the tables changed places may have written since. By the index: writers wait
        // for this lock.
        let sql = format!(
            "SELECT EXISTS (SELECT FROM syncdata.changes_{table} WHERE xid >= pg_snapshot_xmin($1::text::pg_snapshot)
               AND NOT pg_visible_in_snapshot(xid, $1::text::pg_snapshot))"
        );
        let text = text_of(seen);
        if one(client, doing, &sql, &[(&text, Type::TEXT)]).await?.get::<_, bool>(0) {
            return client.batch_execute("ROLLBACK").await.context(|| doing.to_owned());
        }
        let truncate = format!("TRUNCATE syncdata.changes_{table}; COMMIT");
        client.batch_execute(&truncate).await.context(|| doing.to_owned())
    };
    match emptied.await {
        Err(error) if sqlstate(&error).is_some() => {
            client.batch_execute("ROLLBACK").await.context(|| doing.to_owned())?;
            info!(reason = %error.one_line(), "notes that were read are removed at a later poll");
            Ok(())
        }
        done => done,
    }
}

/// Statements that begin and end a transaction, after which the session is outside of one.
async fn in_its_own(connection: &Connection, sql: &str, doing: &str) -> Result<()> {
    let client = connection.session.client();
    let done = client.batch_execute(sql).await.context(|| doing.to_owned());
    if done.is_err() {
        client.batch_execute("ROLLBACK").await.context(|| doing.to_owned())?;
    }
    done
}
