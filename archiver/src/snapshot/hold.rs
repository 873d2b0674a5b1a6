//! The lock of the table that is being read: the only one that a snapshot has, taken when the reading begins, and let
//! go of when it ends or somebody waits for it.
//!
//! Whoever waits for an ACCESS EXCLUSIVE lock (ALTER TABLE, TRUNCATE, DROP) makes everybody else queue after him, and
//! a large table is read for hours. So a second session looks who waits. Since no table is locked between the snapshot
//! and its reading, it also tells whether the table is still the one that the snapshot has seen: one that was written
//! anew since looks empty to an older snapshot.

use std::time::Duration;

use syncdata_formats::error::Result;
use syncdata_formats::{Error, Kind};
use syncdata_service::config::Config;
use syncdata_service::postgres::{Canceller, ServerContext as _, Session, db_error, sqlstate};
use tokio::time::Instant;
use tokio_postgres::Client;
use tokio_postgres::error::SqlState;
use tokio_postgres::types::Type;
use tracing::{info, warn};

use super::tables::Table;
use crate::source::pinned::pinned;

/// Who waits is to wait no longer than about a second.
const BETWEEN_LOOKS: Duration = Duration::from_millis(300);

/// For somebody who has the table locked. Asked for again and again without waiting: a request in the queue would
/// itself be waited for.
const LOCK_PATIENCE: Duration = Duration::from_secs(60);

/// Sessions that wait until a snapshot has ended: whoever builds an index beside writers waits for every older one.
const WAITING_FOR_THE_END: &str = "SELECT DISTINCT 'process ' || w.pid || coalesce(' of ' || a.usename, '')
      || coalesce(' (' || nullif(a.application_name, '') || ')', '')
    FROM pg_locks h JOIN pg_locks w ON w.locktype = 'virtualxid' AND w.virtualxid = h.virtualxid AND NOT w.granted
    LEFT JOIN pg_stat_activity a ON a.pid = w.pid
    WHERE h.locktype = 'virtualxid' AND h.granted AND h.pid = $1";

/// Sessions that wait for what another one holds. Only a lock that excludes everybody waits for a reader.
const WAITING: &str = "SELECT DISTINCT 'process ' || w.pid || coalesce(' of ' || a.usename, '')
      || coalesce(' (' || nullif(a.application_name, '') || ')', '')
    FROM pg_locks h JOIN pg_locks w ON w.locktype = 'relation' AND w.database = h.database AND w.relation = h.relation
      AND NOT w.granted AND w.mode = 'AccessExclusiveLock'
    LEFT JOIN pg_stat_activity a ON a.pid = w.pid
    WHERE h.locktype = 'relation' AND h.granted AND h.pid = $1";

const HOLDING: &str = "SELECT DISTINCT 'process ' || l.pid || coalesce(' of ' || a.usename, '')
      || coalesce(' (' || nullif(a.application_name, '') || ')', '')
    FROM pg_locks l LEFT JOIN pg_stat_activity a ON a.pid = l.pid
    WHERE l.locktype = 'relation' AND l.mode = 'AccessExclusiveLock' AND l.pid IS NOT NULL
      AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database()) AND l.relation = $1::int8::oid";

/// Why a table is not in the copy.
#[derive(Debug)]
pub(crate) enum Unread {
    /// The others can be read all the same.
    Table(Error),
    /// Somebody was in the way, and is not for ever.
    Now(Error),
    /// Somebody waited for us, and has not to any more.
    GaveWay(Error),
    /// Nothing more can be read.
    All(Error),
}

impl Unread {
    /// The snapshot itself is waited for.
    pub(crate) fn to_end(waiting: &[String]) -> Unread {
        let message = format!("{} waited for the snapshot to end, and it gave way", waiting.join(" and "));
        Unread::GaveWay(Error::new(Kind::Locked, message))
    }

    pub(crate) fn of(error: Error) -> Unread {
        // What is not the server's word is about the archive, or our own disk.
        let Some(state) = sqlstate(&error) else { return Unread::All(error) };
        // Somebody cancelled it: not to have the next table read.
        if *state == SqlState::QUERY_CANCELED || db_error(&error).is_some_and(is_the_end_of_the_session) {
            return Unread::All(error);
        }
        match error.kind() {
            Kind::Unreachable | Kind::NoSpace => Unread::All(error),
            Kind::Locked => Unread::Now(error),
            // A missing or broken file of the table, its index, a right, a type without an order.
            Kind::Io
            | Kind::BadInput
            | Kind::Refused
            | Kind::Corrupt
            | Kind::Foreign
            | Kind::NotFound
            | Kind::Conflict
            | Kind::StateDamaged
            | Kind::Rejected => Unread::Table(error),
        }
    }
}

fn is_the_end_of_the_session(said: &tokio_postgres::error::DbError) -> bool {
    use tokio_postgres::error::Severity;
    matches!(said.parsed_severity(), Some(Severity::Fatal | Severity::Panic))
        || *said.code() == SqlState::NO_ACTIVE_SQL_TRANSACTION
}

/// The session that watches whether somebody waits for the first one's locks.
#[derive(Debug)]
pub(crate) struct Neighbours {
    session: Session,
    reader: i32,
    canceller: Canceller,
    /// The process that holds the snapshot, where that is given up too.
    holder: Option<i32>,
}

impl Neighbours {
    /// `reader` is the server's process of the session that reads, and `canceller` its own.
    pub(crate) async fn open(
        config: &Config,
        application_name: &str,
        reader: i32,
        canceller: Canceller,
    ) -> Result<Neighbours> {
        let session = Session::open(config.postgres()?, application_name, &pinned()).await?;
        Ok(Neighbours { session, reader, canceller, holder: None })
    }

    /// Gives way also to whoever waits for the end of that process's snapshot.
    #[must_use]
    pub(crate) fn ending_with(self, holder: i32) -> Neighbours {
        Neighbours { holder: Some(holder), ..self }
    }

    /// Whether somebody waits for the end of the snapshot.
    pub(crate) async fn is_to_end(&self) -> Result<bool> {
        Ok(!self.who_wait_for_the_end().await?.is_empty())
    }

    /// Sessions that wait until the snapshot is over, in words.
    pub(crate) async fn who_wait_for_the_end(&self) -> Result<Vec<String>> {
        let Some(holder) = self.holder else { return Ok(Vec::new()) };
        let mut waiting = self.names(WAITING_FOR_THE_END, &holder, Type::INT4).await?;
        if self.reader != holder {
            waiting.extend(self.names(WAITING_FOR_THE_END, &self.reader, Type::INT4).await?);
        }
        Ok(waiting)
    }

    /// Reads while nobody waits for it. The reading that gave way is over when this returns, but its transaction may
    /// be aborted.
    pub(crate) async fn give_way<T>(
        &self,
        table: &Table,
        reading: impl Future<Output = Result<T>>,
    ) -> Result<T, Unread> {
        let waits = tokio::select! {
            read = reading => return read.map_err(Unread::of),
            waits = self.somebody_waits() => waits.map_err(Unread::All)?,
        };
        info!(table = %table.name, waits, "the snapshot gives way");
        self.canceller.cancel().await.map_err(Unread::All)?;
        let message = format!("{waits} waited for its lock, and the snapshot gave way");
        Err(Unread::GaveWay(Error::new(Kind::Locked, message)))
    }

    async fn somebody_waits(&self) -> Result<String> {
        loop {
            tokio::time::sleep(BETWEEN_LOOKS).await;
            let mut waiting = self.names(WAITING, &self.reader, Type::INT4).await?;
            waiting.extend(self.who_wait_for_the_end().await?);
            if !waiting.is_empty() {
                return Ok(waiting.join(" and "));
            }
        }
    }

    async fn names(
        &self,
        sql: &str,
        parameter: &(dyn tokio_postgres::types::ToSql + Sync),
        type_: Type,
    ) -> Result<Vec<String>> {
        let rows = self.session.client().query_typed(sql, &[(parameter, type_)]).await;
        let rows = rows.context(|| "asking the source who waits for whom".to_owned())?;
        Ok(rows.iter().map(|row| row.get(0)).collect())
    }

    pub(crate) fn client(&self) -> &Client {
        self.session.client()
    }

    /// Whether the table, which is locked, is the one that the snapshot has seen.
    pub(crate) async fn check(&self, table: &Table) -> Result<(), Unread> {
        let now = table.as_it_is_now(self.session.client()).await.map_err(Unread::All)?;
        let what = match now {
            None => "was dropped or renamed",
            Some(now) if now.relation != table.relation => "was altered",
            Some(now) if now.files != table.files => {
                "was truncated or written anew, or its partitions changed,"
            }
            Some(_) => return Ok(()),
        };
        Err(changed(what))
    }
}

fn changed(what: &str) -> Unread {
    Unread::Now(Error::new(Kind::Conflict, format!("it {what} after the snapshot had begun")))
}

/// In the transaction of the snapshot: the place to come back to.
pub(crate) async fn mark(client: &Client) -> Result<()> {
    client
        .batch_execute("SAVEPOINT syncdata_table")
        .await
        .context(|| "setting a savepoint on the source".to_owned())
}

/// Lets go of every lock since `mark`, whatever became of the statements since then. The snapshot stays.
pub(crate) async fn release(client: &Client) -> Result<()> {
    const ATTEMPTS_MAX: u32 = 3;
    let mut attempt = 0;
    loop {
        attempt += 1;
        let released = client.batch_execute("ROLLBACK TO SAVEPOINT syncdata_table").await;
        match released.context(|| "letting go of a table on the source".to_owned()) {
            // The cancel that was meant for the reading came when that had ended.
            Err(error) if sqlstate(&error) == Some(&SqlState::QUERY_CANCELED) && attempt < ATTEMPTS_MAX => {}
            released => return released,
        }
    }
}

/// Keeps DDL away from the table until `release`.
pub(crate) async fn lock(client: &Client, table: &Table, neighbours: &Neighbours) -> Result<(), Unread> {
    let sql = format!("LOCK TABLE {} IN ACCESS SHARE MODE NOWAIT", table.source());
    let deadline = Instant::now() + LOCK_PATIENCE;
    let mut said = false;
    loop {
        let locked = client.batch_execute(&sql).await;
        let error = match locked.context(|| "locking it against DDL (ACCESS SHARE)".to_owned()) {
            Ok(()) => return Ok(()),
            Err(error) => error,
        };
        match error.kind() {
            Kind::Locked => {}
            Kind::NotFound => return Err(changed("was dropped or renamed")),
            _ => return Err(Unread::of(error)),
        }
        release(client).await.map_err(Unread::All)?;
        let holders =
            neighbours.names(HOLDING, &i64::from(table.oid), Type::INT8).await.map_err(Unread::All)?;
        let holders = holders.join(" and ");
        if Instant::now() >= deadline {
            let message = format!("a TRUNCATE or DDL holds it, or waits for it: {holders}");
            return Err(Unread::Now(error.context(message)));
        }
        if !std::mem::replace(&mut said, true) {
            warn!(table = %table.name, holders, "waiting for a TRUNCATE or DDL to end");
        }
        tokio::time::sleep(BETWEEN_LOOKS).await;
    }
}
