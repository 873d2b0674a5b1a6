//! The one connection to the source, read only but for the slot functions.

use std::sync::Arc;
use std::time::Duration;
use syncdata_service::postgres::ServerContext as _;

use postgres_protocol::escape::escape_literal;
use syncdata_formats::name::SlotName;
use syncdata_formats::{Error, Kind, Result};
use syncdata_service::config::Config;
use syncdata_service::postgres::{Session, sqlstate};
use tokio_postgres::error::SqlState;
use tokio_postgres::types::Type;
use tokio_postgres::{Client, IsolationLevel, Transaction};
use tracing::warn;

use crate::source::ask::{Planned, Plans};
use crate::source::catalog::Facts;
use crate::source::pinned::{APPLICATION_NAME, pinned};
use crate::source::stream::Stream;
use crate::source::wait::Waiting;

/// What one process at a time may do with a slot. An advisory lock has two numbers: this one, and the slot's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Work {
    Reading = 0x5359_4e43,
    /// Taking a snapshot, or removing what no snapshot needs.
    Snapshots = 0x5359_4e53,
}

/// The server process of a client that was killed holds lock and slot until it notices: a second or two.
pub(crate) const ATTEMPTS_MAX: u32 = 12;
pub(crate) const BETWEEN_ATTEMPTS: Duration = Duration::from_millis(500);

#[derive(Debug)]
pub(crate) struct Connection {
    pub session: Session,
    pub facts: Facts,
    /// For answers that may be long in coming.
    pub waiting: Waiting,
    /// The slot as a stream, while it is followed: nobody can peek at it then.
    pub stream: Option<Arc<Stream>>,
    /// Of the questions that come again and again, once it was followed.
    pub plans: Plans,
}

impl Connection {
    /// Connects to a server that can be archived from.
    pub(crate) async fn open(config: &Config) -> Result<Connection> {
        Connection::open_as(config, APPLICATION_NAME).await
    }

    /// With another name for whoever looks at production's sessions.
    pub(crate) async fn open_as(config: &Config, application_name: &str) -> Result<Connection> {
        let settings = config.postgres()?;
        let session = Session::open(settings, application_name, &pinned()).await?;
        let waiting = Waiting::on(&session, settings).await?;
        let facts = Facts::read(session.client()).await?;
        if facts.in_recovery {
            return Err(Error::new(
                Kind::Refused,
                "the source is a standby: changes are read from the primary",
            )
            .hint("set pg_host to the primary; after a failover, to the new one"));
        }
        if facts.encoding == "SQL_ASCII" {
            return Err(Error::new(Kind::Refused, "the source's database has encoding SQL_ASCII").hint(
                "its text has no known encoding and cannot be archived faithfully; convert the database",
            ));
        }
        Ok(Connection { session, facts, waiting, stream: None, plans: Plans::default() })
    }

    /// For questions that each poll has.
    pub(crate) fn asked(&self) -> Planned<'_, Client> {
        self.plans.of(self.session.client())
    }

    /// Keeps others with the same work away, on whatever host: the lock goes when the connection does.
    pub(crate) async fn lock(&self, work: Work, slot: &SlotName) -> Result<()> {
        let class = work as i32;
        let sql = "SELECT pg_try_advisory_lock($1, hashtext($2)), \
            (SELECT string_agg(coalesce(a.client_addr::text, 'this host') || ' process ' || a.pid, ', ') \
             FROM pg_locks l JOIN pg_stat_activity a ON a.pid = l.pid \
             WHERE l.locktype = 'advisory' AND l.classid = $1::int8::oid \
               AND l.objid = (hashtext($2)::int8 & 4294967295)::oid AND l.pid <> pg_backend_pid())";
        let mut holder = String::new();
        for attempt in 0..ATTEMPTS_MAX {
            if attempt > 0 {
                warn!(%slot, holder, attempt, "another session holds the lock of the slot, trying again");
                tokio::time::sleep(BETWEEN_ATTEMPTS).await;
            }
            let rows = self
                .session
                .client()
                .query_typed(sql, &[(&class, Type::INT4), (&slot.as_str(), Type::TEXT)])
                .await
                .context(|| format!("locking the slot {slot} for this archiver"))?;
            let row = rows.first().ok_or_else(|| Error::new(Kind::Unreachable, "no answer"))?;
            if row.get(0) {
                return Ok(());
            }
            holder = row.get::<_, Option<String>>(1).unwrap_or_else(|| "unknown".to_owned());
        }
        let (what, hint) = match work {
            Work::Reading => ("another archiver reads the slot", "one archiver per slot: stop the other one"),
            Work::Snapshots => ("somebody takes or prunes snapshots of the slot", "wait until that is done"),
        };
        Err(Error::new(Kind::Locked, format!("{what} {slot} (its connection: {holder})")).hint(hint))
    }

    /// Lets others do that work again, in a session that goes on.
    pub(crate) async fn unlock(&self, work: Work, slot: &SlotName) -> Result<()> {
        let (class, sql) = (work as i32, "SELECT pg_advisory_unlock($1, hashtext($2))");
        let unlocked = self
            .session
            .client()
            .query_typed(sql, &[(&class, Type::INT4), (&slot.as_str(), Type::TEXT)])
            .await;
        unlocked.context(|| format!("unlocking the slot {slot}")).map(|_| ())
    }

    /// A transaction with the settings pinned inside: poolers forget what a session pinned.
    pub(crate) async fn transaction(&mut self) -> Result<Transaction<'_>> {
        self.transaction_at(IsolationLevel::ReadCommitted).await
    }

    pub(crate) async fn transaction_at(&mut self, level: IsolationLevel) -> Result<Transaction<'_>> {
        let tx = self.session.client_mut().build_transaction().isolation_level(level).start().await;
        let tx = tx.context(|| "starting a transaction on the source".to_owned())?;
        pinned().apply_to_transaction(&tx).await?;
        Ok(tx)
    }

    /// In a snapshot that another session has exported, and still holds.
    pub(crate) async fn transaction_in(&mut self, snapshot: &str) -> Result<Transaction<'_>> {
        let level = IsolationLevel::RepeatableRead;
        let tx = self.session.client_mut().build_transaction().isolation_level(level).start().await;
        let tx = tx.context(|| "starting a transaction on the source".to_owned())?;
        tx.batch_execute(&format!("SET TRANSACTION SNAPSHOT {}", escape_literal(snapshot)))
            .await
            .context(|| "taking a snapshot over".to_owned())?;
        pinned().apply_to_transaction(&tx).await?;
        Ok(tx)
    }

    /// Ends the stream, and waits until the server's process has let go of the slot.
    pub(crate) async fn let_go(&mut self) -> Result<()> {
        const LOOKS_MAX: u32 = 600;
        const BETWEEN_LOOKS: Duration = Duration::from_millis(20);
        // After that the process, which is our role's, is ended.
        const PATIENCE: u32 = 100;
        let Some(stream) = self.stream.take() else { return Ok(()) };
        let pid = stream.process();
        if let Some(stream) = Arc::into_inner(stream) {
            stream.end().await;
        }
        let sql =
            "SELECT CASE WHEN $2 THEN pg_terminate_backend(pid) END FROM pg_stat_replication WHERE pid = $1";
        for look in 0..LOOKS_MAX {
            let ends = look == PATIENCE;
            let rows =
                self.session.client().query_typed(sql, &[(&pid, Type::INT4), (&ends, Type::BOOL)]).await;
            if rows.context(|| "ending the stream".to_owned())?.is_empty() {
                return Ok(());
            }
            tokio::time::sleep(BETWEEN_LOOKS).await;
        }
        // Whoever needs the slot says that it is in use.
        Ok(())
    }

    pub(crate) fn is_closed(&self) -> bool {
        self.session.is_closed()
    }
}

/// The server process of a client that died may hold the slot for a while.
pub(crate) async fn while_in_use<T>(mut attempt: impl AsyncFnMut() -> Result<T>) -> Result<T> {
    for number in 1..ATTEMPTS_MAX {
        match attempt().await {
            Err(error) if is_slot_in_use(&error) => {
                warn!(error = %error.one_line(), attempt = number, "the slot is in use, trying again");
                tokio::time::sleep(BETWEEN_ATTEMPTS).await;
            }
            done => return done,
        }
    }
    attempt().await
}

pub(crate) fn is_slot_in_use(error: &Error) -> bool {
    sqlstate(error) == Some(&SqlState::OBJECT_IN_USE)
}
