//! The session through which the local tables are written.

use std::time::Duration;
use syncdata_formats::error::{Error, Kind, Result};
use syncdata_service::postgres::ServerContext as _;

use postgres_protocol::escape::escape_literal;
use syncdata_service::config::{Config, LocalWrites, QuarantineValues};
use syncdata_service::postgres::{PinnedSettings, Session, sqlstate};
use tokio_postgres::error::SqlState;

use crate::plan::group::GroupName;
use crate::target::postgres::collations;
use crate::target::postgres::meta::{self, MetaSchema};
use crate::target::postgres::values::Values;
use crate::target::postgres::writers;

/// Advisory locks: the first number spells "sync".
const LOCK_CLASS: i32 = 0x7379_6e63;
const PASS_LOCK: i32 = 1;
const DAEMON_LOCK: i32 = 2;
const LOAD_LOCK: i32 = 3;
const DRILL_LOCK: i32 = 4;
/// And the number of a group.
const GROUP_LOCKS: i32 = 1000;

/// Rows that readers hold locked: they win for so long, then the pass is tried again.
pub(crate) const LOCK_TIMEOUT: &str = "10s";

/// How long another pass may take before we say so.
const PASS_LOCK_PATIENCE: Duration = Duration::from_secs(30);
/// A daemon that has just ended may still have a session on the server.
const DAEMON_LOCK_PATIENCE: Duration = Duration::from_secs(5);
/// A loader that has just ended may still have a session on the server.
const LOAD_LOCK_PATIENCE: Duration = Duration::from_secs(5);
/// The server notices within a second that a drill was killed.
const DRILL_LOCK_PATIENCE: Duration = Duration::from_secs(10);
const LOCK_PAUSE: Duration = Duration::from_millis(200);

pub const APPLICATION_NAME: &str = "syncdata-applier";

/// One state of the database for all that is read.
const READING: &str = "ISOLATION LEVEL REPEATABLE READ READ ONLY";

/// A session of ours, and what it may do.
#[derive(Debug)]
pub struct Local {
    pub session: Session,
    pub meta: MetaSchema,
    /// It may switch foreign keys and triggers off for itself.
    pub replica: bool,
    /// Triggers that refuse local writes may be there: a transaction that may not take the replica role says that it is ours.
    writes_guarded: bool,
    /// Lines of data_sync_logs are of a table and a minute, not of a segment.
    pub logs_by_minute: bool,
    /// What is kept of records that tables cannot take.
    pub(super) values: Values,
}

impl Local {
    /// Connects and makes our tables if they are missing.
    pub async fn open(config: &Config) -> Result<Local> {
        Local::open_as(config, APPLICATION_NAME).await
    }

    /// For rows. Their commits do not wait for the disk: one that a crash takes takes its checkpoint along, and
    /// the segments are applied again.
    pub async fn open_for_pass(config: &Config) -> Result<Local> {
        let local = Local::open(config).await?;
        let relax = "SET synchronous_commit = off";
        local.session.client().batch_execute(relax).await.context(|| "preparing the session".to_owned())?;
        collations::refuse_moved(local.session.client(), &local.meta).await?;
        Ok(local)
    }

    /// The name is what administrators see in `pg_stat_activity`.
    pub async fn open_as(config: &Config, application_name: &str) -> Result<Local> {
        let mut local = Local::connect_as(config, application_name).await?;
        if let Some(lossy) = local.lossy_encoding().await? {
            let hint = "nothing was changed; make the local database anew, in UTF8";
            return Err(Error::new(Kind::BadInput, format!("the local database {lossy}")).hint(hint));
        }
        meta::create(&mut local.session, &local.meta, config.stale_after).await?;
        Ok(local)
    }

    /// Connects, and leaves everything as it is.
    pub async fn connect(config: &Config) -> Result<Local> {
        Local::connect_as(config, APPLICATION_NAME).await
    }

    async fn connect_as(config: &Config, application_name: &str) -> Result<Local> {
        let session = Session::open(config.postgres()?, application_name, &pinned_for_session()).await?;
        // Whoever is stopped or killed gives its locks back, whatever the server is doing for it.
        let look = "SET client_connection_check_interval = '1s'";
        if let Err(error) = session.client().batch_execute(look).await {
            // A server on a system that cannot tell it goes on to the end of the statement.
            tracing::debug!(%error, "the server does not look whether we are there");
        }
        let replica = may_be_replica(&session).await?;
        let values = match config.quarantine_values {
            QuarantineValues::Keep => Values::Plain,
            QuarantineValues::Hash => Values::Hashed { key_file: config.places.state.join("quarantine.key") },
        };
        let meta = MetaSchema::new(&config.meta_schema);
        let blocks = config.local_writes == LocalWrites::Block;
        let writes_guarded = blocks || !replica && writers::triggers_stand(session.client(), &meta).await?;
        Ok(Local { session, meta, replica, writes_guarded, logs_by_minute: config.follow, values })
    }

    /// In each transaction that writes into synced tables, before it does: triggers that refuse local writes let it through.
    /// Under the replica role, which it may take, they do not fire.
    pub async fn announce_writes(&self) -> Result<()> {
        match self.writes_guarded && !self.replica {
            true => writers::register(self.session.client(), &self.meta).await,
            false => Ok(()),
        }
    }

    /// Whether triggers that refuse local writes may be there, in this moment.
    pub(super) async fn may_be_refused(&self) -> Result<bool> {
        Ok(self.writes_guarded || writers::triggers_stand(self.session.client(), &self.meta).await?)
    }

    /// What the local database's encoding makes of texts, where that is another text or cannot be known. In all others of
    /// PostgreSQL a character that they lack is refused with its record.
    pub async fn lossy_encoding(&self) -> Result<Option<String>> {
        let encoding = "SELECT pg_catalog.current_setting('server_encoding')";
        let row = self.session.client().query_one(encoding, &[]).await;
        let row = row.context(|| "asking for the database's encoding".to_owned())?;
        let encoding: &str = row.get(0);
        let what = match encoding {
            "EUC_JP" => "makes another character (U+FFE4) of U+00A6, and says nothing",
            "SQL_ASCII" => {
                "knows no characters: the lengths of char(n) and varchar(n) are those of bytes, and values are cut or not padded \
                 as at the source"
            }
            _ => return Ok(None),
        };
        Ok(Some(format!("is in {encoding}, which {what}")))
    }

    /// Everything that `work` does in this session, or nothing of it. A failure leaves the session ready for the next
    /// statement. When the commit is not answered it may or may not have happened: whoever tries again looks first.
    pub async fn in_transaction<T, E: From<Error>>(
        &self,
        work: impl Future<Output = Result<T, E>>,
    ) -> Result<T, E> {
        self.begin().await?;
        let done = match work.await {
            Ok(done) => done,
            Err(error) => {
                self.roll_back().await;
                return Err(error);
            }
        };
        self.commit().await?;
        Ok(done)
    }

    /// Begins to read, and lets other sessions see what this one sees, as long as it holds the transaction.
    pub async fn export_snapshot(&self) -> Result<String> {
        let doing = || "exporting a snapshot".to_owned();
        let client = self.session.client();
        let begin = format!("BEGIN {READING}");
        client.batch_execute(&begin).await.context(doing)?;
        Ok(client.query_one("SELECT pg_export_snapshot()", &[]).await.context(doing)?.get(0))
    }

    /// What `work` reads at the snapshot of another session, which `settings` may set up further. Nothing of it stays, and
    /// the session is ready for the next statement, whatever fails.
    pub async fn at_snapshot<T, E: From<Error>>(
        &self,
        snapshot: &str,
        settings: &str,
        work: impl Future<Output = Result<T, E>>,
    ) -> Result<T, E> {
        let client = self.session.client();
        let doing = || "beginning to read".to_owned();
        let begin = async {
            let begin = format!("BEGIN {READING}; SET TRANSACTION SNAPSHOT {}", escape_literal(snapshot));
            client.batch_execute(&begin).await.context(doing)?;
            // Behind a pooler the session of before may have been another one.
            pinned().apply_to_transaction(client).await?;
            client.batch_execute(settings).await.context(doing)
        };
        let done = match begin.await {
            Ok(()) => work.await,
            Err(error) => Err(error.into()),
        };
        let ended = client.batch_execute("ROLLBACK").await.context(|| "ending what was read".to_owned());
        let done = done?;
        ended?;
        Ok(done)
    }

    /// A pooler may have handed us another server's session.
    pub(super) async fn begin(&self) -> Result<()> {
        let begun = self.session.client().batch_execute("BEGIN").await;
        begun.context(|| "beginning the transaction".to_owned())?;
        let pinned = pinned().apply_to_transaction(self.session.client()).await;
        if pinned.is_err() {
            self.roll_back().await;
        }
        pinned
    }

    pub(super) async fn commit(&self) -> Result<()> {
        self.session.client().batch_execute("COMMIT").await.context(|| "committing".to_owned())
    }

    pub(super) async fn roll_back(&self) {
        // It fails when the connection is gone, and with it the transaction.
        if let Err(error) = self.session.client().batch_execute("ROLLBACK").await {
            tracing::debug!(%error, "rollback");
        }
    }

    /// No pass of any group meanwhile, and no group that is made. Ends with the session.
    pub async fn lock_pass(&self) -> Result<()> {
        self.lock_pass_of(&GroupName::DEFAULT).await?;
        // All take them in this order, and nobody makes or drops a group without the first.
        for number in self.numbers_of_other_groups().await? {
            self.lock_or_say_who_applies(GROUP_LOCKS + number).await?;
        }
        Ok(())
    }

    /// One pass of a group at a time in a database. Ends with the session.
    pub async fn lock_pass_of(&self, group: &GroupName) -> Result<()> {
        self.lock_or_say_who_applies(self.pass_lock(group).await?).await
    }

    async fn lock_or_say_who_applies(&self, lock: i32) -> Result<()> {
        if self.lock(lock, PASS_LOCK_PATIENCE).await? {
            return Ok(());
        }
        let holder = self.holder(lock).await?;
        Err(Error::new(Kind::Locked, format!("{holder} is applying to this database"))
            .hint("wait until it has finished, or end it with pg_terminate_backend"))
    }

    /// That of `default` is the one of programs that know no groups.
    async fn pass_lock(&self, group: &GroupName) -> Result<i32> {
        if *group == GroupName::DEFAULT {
            return Ok(PASS_LOCK);
        }
        let select = format!("SELECT number FROM {}.sync_configurations WHERE name = $1", self.meta);
        let found = self.session.client().query_opt(&select, &[&group.as_str()]).await;
        let found = found.context(|| format!("looking for the group {group}"))?;
        let found = found.ok_or_else(|| Error::new(Kind::NotFound, format!("there is no group {group}")))?;
        Ok(GROUP_LOCKS + found.get::<_, i32>(0))
    }

    /// In their order; none where our tables are of a time without groups.
    async fn numbers_of_other_groups(&self) -> Result<Vec<i32>> {
        let version = meta::version(&self.session, &self.meta).await?;
        if !meta::tables_of(version).any(|table| table == "sync_configurations") {
            return Ok(Vec::new());
        }
        let select =
            format!("SELECT number FROM {}.sync_configurations WHERE name <> $1 ORDER BY number", self.meta);
        let rows = self.session.client().query(&select, &[&GroupName::DEFAULT.as_str()]).await;
        let rows = rows.context(|| "reading which groups there are".to_owned())?;
        Ok(rows.iter().map(|row| row.get(0)).collect())
    }

    /// Lets the group's next pass go, before the session ends.
    pub async fn unlock_pass_of(&self, group: &GroupName) -> Result<()> {
        let lock = self.pass_lock(group).await?;
        let unlock = "SELECT pg_advisory_unlock($1, $2)";
        let unlocked = self.session.client().query_one(unlock, &[&LOCK_CLASS, &lock]).await;
        unlocked.context(|| "giving an advisory lock back".to_owned())?;
        Ok(())
    }

    /// Leaves nothing of a pass of the group in the session, which another one will have.
    pub async fn end_pass_of(&self, group: &GroupName) -> Result<()> {
        let discarded = self.session.client().batch_execute("DISCARD TEMP").await;
        discarded.context(|| "leaving the session to the next pass".to_owned())?;
        self.unlock_pass_of(group).await
    }

    /// One loader of base copies at a time. Ends with the session.
    pub async fn lock_load(&self) -> Result<()> {
        if self.lock(LOAD_LOCK, LOAD_LOCK_PATIENCE).await? {
            return Ok(());
        }
        let holder = self.holder(LOAD_LOCK).await?;
        Err(Error::new(Kind::Locked, format!("{holder} is loading tables of this database"))
            .hint("it takes what waits for a base when it has finished; syncdata-applier status shows how far it is"))
    }

    /// One drill at a time in a database. Ends with the session, which ends with this process: then the server breaks off
    /// what it is doing for us.
    pub async fn lock_drill(&self) -> Result<()> {
        if self.lock(DRILL_LOCK, DRILL_LOCK_PATIENCE).await? {
            return Ok(());
        }
        let holder = self.holder(DRILL_LOCK).await?;
        Err(Error::new(Kind::Locked, format!("another drill is under way: {holder}"))
            .hint("wait until it has finished, or end it with pg_terminate_backend"))
    }

    /// Whether somebody is loading base copies.
    pub async fn is_loading(&self) -> Result<bool> {
        let held = "SELECT EXISTS (SELECT FROM pg_locks l WHERE l.locktype = 'advisory' AND l.granted \
            AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database()) \
            AND l.classid = $1::int::oid AND l.objid = $2::int::oid)";
        let row = self.session.client().query_one(held, &[&LOCK_CLASS, &LOAD_LOCK]).await;
        Ok(row.context(|| "asking whether tables are loaded".to_owned())?.get(0))
    }

    /// One daemon for a database. Ends with the session.
    pub async fn lock_daemon(&self) -> Result<()> {
        if self.lock(DAEMON_LOCK, DAEMON_LOCK_PATIENCE).await? {
            return Ok(());
        }
        let holder = self.holder(DAEMON_LOCK).await?;
        Err(Error::new(Kind::Locked, format!("another daemon keeps this database: {holder}"))
            .hint("one is enough; stop that one first: syncdata-applier stop, on its host"))
    }

    async fn lock(&self, lock: i32, patience: Duration) -> Result<bool> {
        let started = tokio::time::Instant::now();
        loop {
            let try_lock = "SELECT pg_try_advisory_lock($1, $2)";
            let row = self.session.client().query_one(try_lock, &[&LOCK_CLASS, &lock]).await;
            let is_ours = row.context(|| "taking an advisory lock".to_owned())?.get(0);
            if is_ours || started.elapsed() > patience {
                return Ok(is_ours);
            }
            tokio::time::sleep(LOCK_PAUSE).await;
        }
    }

    /// Who has the lock, in words.
    async fn holder(&self, lock: i32) -> Result<String> {
        let holder = "SELECT a.pid, coalesce(a.application_name, ''), coalesce(a.client_addr::text, 'this host') \
            FROM pg_locks l JOIN pg_stat_activity a USING (pid) WHERE l.locktype = 'advisory' AND l.granted \
            AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database()) \
            AND l.classid = $1::int::oid AND l.objid = $2::int::oid";
        let row = self.session.client().query_opt(holder, &[&LOCK_CLASS, &lock]).await;
        Ok(row.context(|| "asking who holds a lock".to_owned())?.map_or(
            "another session".to_owned(),
            |row| {
                let (pid, name, host): (i32, &str, &str) = (row.get(0), row.get(1), row.get(2));
                format!("{name} (server process {pid}, from {host})")
            },
        ))
    }
}

/// Role defaults must not change what we write or when we give up.
fn pinned() -> PinnedSettings {
    PinnedSettings::new()
        .with("default_transaction_read_only", "off")
        .with("default_transaction_isolation", "read committed")
        .with("default_transaction_deferrable", "off")
        // Off, NULL in an array would be read as a text.
        .with("array_nulls", "on")
        // A policy that hides rows is an error, not a row that is missing.
        .with("row_security", "off")
        .with("jit", "off")
        .with("lock_timeout", LOCK_TIMEOUT)
}

/// What an operator was told is done survives a crash.
fn pinned_for_session() -> PinnedSettings {
    pinned().with("synchronous_commit", "on")
}

async fn may_be_replica(session: &Session) -> Result<bool> {
    let probe = "SET session_replication_role = replica; RESET session_replication_role";
    match session.client().batch_execute(probe).await.context(|| "asking for the replica role".to_owned()) {
        Ok(()) => Ok(true),
        Err(error) if sqlstate(&error) == Some(&SqlState::INSUFFICIENT_PRIVILEGE) => Ok(false),
        Err(error) => Err(error),
    }
}
