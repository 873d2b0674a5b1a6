//! The two waits that make a snapshot fit the stream exactly.
//!
//! Before it begins: a transaction's commit may be in the WAL, and so in the stream before the snapshot's start, while
//! nobody sees it yet (it waits for its flush, or for a synchronous standby). It would be in neither.
//! After it ended: a snapshot may have seen an asynchronous commit that a crash takes back, and the next transaction
//! gets its number. It would be in both, as two different ones.

use std::time::{Duration, Instant};
use syncdata_service::postgres::ServerContext as _;

use syncdata_formats::lsn::Lsn;
use syncdata_formats::{Error, Kind, Result};
use tokio_postgres::types::{PgLsn, Type};
use tokio_postgres::{Client, GenericClient};
use tracing::{info, warn};

const BETWEEN_LOOKS: Duration = Duration::from_millis(100);
/// Nobody is named before a wait is longer than that, and then not more often than that.
const WORDS_AFTER: Duration = Duration::from_secs(5);
const WORDS_EVERY: Duration = Duration::from_secs(60);

/// The server writes within three times wal_writer_delay, which is at most 10 s.
const FLUSH_PATIENCE: Duration = Duration::from_secs(60);

/// Who had a transaction number that is not above `$1`. Prepared transactions hold the lock of no process.
const HOLDERS: &str = "SELECT 'process ' || l.pid || coalesce(' of ' || a.usename, '')
      || coalesce(', open for ' || extract(epoch FROM clock_timestamp() - a.xact_start)::int8 || ' s', '')
    FROM pg_locks l LEFT JOIN pg_stat_activity a ON a.pid = l.pid
    WHERE l.locktype = 'transactionid' AND l.mode = 'ExclusiveLock' AND l.granted AND l.pid IS NOT NULL
      AND age(l.transactionid) >= age($1::text::xid)
  UNION ALL
  SELECT 'prepared transaction ' || quote_literal(gid) || ' of ' || owner || ' in database ' || database
    FROM pg_prepared_xacts WHERE age(transaction) >= age($1::text::xid)";

/// Waits until every transaction that has a number now has ended: what committed before this was called is seen by
/// every snapshot that is taken afterwards.
pub(crate) async fn wait_for_older_transactions(client: &Client, wait: Option<Duration>) -> Result<()> {
    let newest = newest_xid(client).await?;
    let started = Instant::now();
    let mut said: Option<Instant> = None;
    while oldest_running_xid(client).await? <= newest {
        let waited = started.elapsed();
        if wait.is_some_and(|wait| waited >= wait) {
            return Err(still_open(waited, &holders(client, newest).await?));
        }
        if waited >= WORDS_AFTER && said.is_none_or(|said| said.elapsed() >= WORDS_EVERY) {
            said = Some(Instant::now());
            let holders = holders(client, newest).await?.join("; ");
            warn!(
                holders,
                seconds = waited.as_secs(),
                "a snapshot begins when older transactions have ended"
            );
        }
        tokio::time::sleep(BETWEEN_LOOKS).await;
    }
    if said.is_some() {
        info!(seconds = started.elapsed().as_secs(), "older transactions have ended");
    }
    Ok(())
}

fn still_open(waited: Duration, holders: &[String]) -> Error {
    let message = format!(
        "transactions that were open when the snapshot was asked for have not ended within {} s: {}",
        waited.as_secs(),
        holders.join("; ")
    );
    Error::new(Kind::Locked, message).hint(
        "end them (COMMIT, ROLLBACK PREPARED, pg_terminate_backend; a commit that waits for a standby needs the \
         standby), or give a longer --wait",
    )
}

/// Waits until a crash of the server cannot take back anything that lies before `upto`.
pub(crate) async fn wait_for_flush(client: &Client, upto: Lsn) -> Result<()> {
    let started = Instant::now();
    let mut said = false;
    while flush_position(client).await? < upto {
        if !std::mem::replace(&mut said, true) {
            info!(lsn = %upto, "waiting until production has written its WAL");
        }
        if started.elapsed() >= FLUSH_PATIENCE {
            let message = format!(
                "the server has not written its WAL up to {upto} within {} s: the snapshot is discarded",
                FLUSH_PATIENCE.as_secs()
            );
            return Err(
                Error::new(Kind::Unreachable, message).hint("look at the server's disk, then try again")
            );
        }
        // A commit without a change hurries nobody, but wakes the process that writes what others left unwritten.
        newest_xid(client).await?;
        tokio::time::sleep(BETWEEN_LOOKS).await;
    }
    Ok(())
}

/// Has the server write WAL, for whoever needs a position after all that was read.
pub(crate) async fn write_something(client: &Client) -> Result<()> {
    newest_xid(client).await.map(drop)
}

/// Takes a number of its own, which is above every other; in 64 bits. Read-only sessions may.
async fn newest_xid(client: &Client) -> Result<u64> {
    number(client, "SELECT pg_current_xact_id()::text").await
}

async fn oldest_running_xid(client: &Client) -> Result<u64> {
    number(client, "SELECT pg_snapshot_xmin(pg_current_snapshot())::text").await
}

async fn number(client: &Client, sql: &str) -> Result<u64> {
    let row = client.query_typed_one(sql, &[]).await;
    let row = row.context(|| "asking the source for a transaction number".to_owned())?;
    let text: &str = row.get(0);
    text.parse().map_err(|_| Error::bad_input("a transaction number", text))
}

async fn holders(client: &Client, newest: u64) -> Result<Vec<String>> {
    // The server compares the 32 bits that it has; all that run are within half of them.
    let newest = (newest & u64::from(u32::MAX)).to_string();
    let rows = client.query_typed(HOLDERS, &[(&newest, Type::TEXT)]).await;
    let rows = rows.context(|| "asking who has an open transaction".to_owned())?;
    Ok(rows.iter().map(|row| row.get(0)).collect())
}

async fn flush_position(client: &(impl GenericClient + Sync)) -> Result<Lsn> {
    let row = client.query_typed("SELECT pg_current_wal_flush_lsn()", &[]).await;
    let rows = row.context(|| "asking the source how far its WAL is written".to_owned())?;
    let row = rows.first().ok_or_else(|| Error::new(Kind::NotFound, "no answer"))?;
    Ok(Lsn::from_u64(row.get::<_, PgLsn>(0).into()))
}
