//! What lives as long as the process: the spool, the way to the archive, and the connection to the source.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use syncdata_archive::ArchiveHandle;
use syncdata_formats::Result;
use syncdata_formats::lsn::Lsn;
use syncdata_formats::signature::SigningKey;
use syncdata_formats::snapshot::SnapshotId;
use syncdata_formats::time::{Day, Timestamp};
use syncdata_service::config::Config;
use syncdata_service::postgres::Canceller;
use tracing::warn;

use crate::poll::outcome::{Outcome, View};
use crate::poll::steps::Poll;
use crate::ship::shipper::Shipper;
use crate::ship::{origin, ownership};
use crate::source::catalog::Position;
use crate::source::connection::{Connection, Work, while_in_use};
use crate::source::wal2json::slot::{self, Plugin};
use crate::spool::{HeldSnapshot, Opened, Spool};

/// For a server that does not answer any more.
const LAST_LOOK: Duration = Duration::from_secs(5);

/// Everything a poll works with; it lives as long as the process.
#[derive(Debug)]
pub(crate) struct Archiver {
    pub config: Config,
    shipper: Shipper,
    signing_key: Option<SigningKey>,
    spool: Opened,
    connection: Option<Connection>,
    /// As it was asked over that connection.
    plugin: Option<Plugin>,
    /// What the archive's snapshots hold, as far as it has been read.
    snapshots: BTreeMap<SnapshotId, HeldSnapshot>,
    /// On which occasion what nobody needs was removed last.
    pruned: Option<(Day, Option<SnapshotId>)>,
    canceller: Arc<Mutex<Option<Canceller>>>,
    /// What was seen of the source when a poll failed.
    last_view: View,
}

impl Archiver {
    /// Takes the spool; touches neither the source nor the backup host.
    pub(crate) fn new(config: Config) -> Result<Archiver> {
        let shipper = Shipper::new(ArchiveHandle::spawn(syncdata_archive::open(config.archive()?)?)?);
        let signing_key = config.signing_key()?;
        let spool = Spool::open(&config.spool_dir)?;
        Ok(Archiver {
            config,
            shipper,
            signing_key,
            spool,
            connection: None,
            plugin: None,
            canceller: Arc::default(),
            last_view: View::default(),
            snapshots: BTreeMap::new(),
            pruned: None,
        })
    }

    pub(crate) fn spool(&self) -> Option<&Spool> {
        self.spool.spool()
    }

    pub(crate) fn location(&self) -> &str {
        self.shipper.location()
    }

    /// Ends what the source is doing for us, for somebody who cannot wait for the poll.
    pub(crate) fn canceller(&self) -> Arc<Mutex<Option<Canceller>>> {
        self.canceller.clone()
    }

    pub(crate) async fn poll(&mut self) -> Result<Outcome> {
        self.last_view = View::default();
        let mut connection = self.connect().await?;
        match self.poll_through(&mut connection).await {
            Ok(outcome) => {
                self.keep(connection);
                Ok(outcome)
            }
            Err(error) => {
                // The session is in doubt, and is not kept. What it still answers is for `status`.
                let looked = View::look(&connection, &self.config.slot_name, self.plugin.clone());
                if let Ok(Ok(view)) = tokio::time::timeout(LAST_LOOK, looked).await {
                    self.last_view = view;
                }
                Err(error)
            }
        }
    }

    async fn poll_through(&mut self, connection: &mut Connection) -> Result<Outcome> {
        self.begin(connection).await?.run().await
    }

    pub(crate) fn last_view(&self) -> &View {
        &self.last_view
    }

    /// Declares that everything up to `upto` may be missing, and lets the slot go past it.
    pub(crate) async fn declare_gap(&mut self, upto: Lsn, reason: &str) -> Result<Outcome> {
        let mut connection = self.connect().await?;
        self.begin(&mut connection).await?.declare(upto, reason).await
    }

    /// Notes that what nobody needs is gone.
    pub(crate) fn mark_pruned(&mut self) {
        self.pruned = Some(self.prune_occasion());
    }

    /// A new day and a new snapshot are reasons to look what may go.
    pub(crate) fn is_prune_due(&self) -> bool {
        self.config.keep_days.is_some() && self.pruned.as_ref() != Some(&self.prune_occasion())
    }

    fn prune_occasion(&self) -> (Day, Option<SnapshotId>) {
        (Timestamp::now().day(), self.snapshots.keys().next_back().cloned())
    }

    /// Takes the connection that an earlier poll left, or makes one that holds the lock of the slot.
    pub(crate) async fn connect(&mut self) -> Result<Connection> {
        match self.connection.take() {
            Some(connection) if !connection.is_closed() => Ok(connection),
            _ => {
                let connection = Connection::open(&self.config).await?;
                connection.lock(Work::Reading, &self.config.slot_name).await?;
                // Another server may have answered, with another plugin.
                self.plugin = None;
                let canceller = connection.session.canceller();
                *self.canceller.lock().unwrap_or_else(PoisonError::into_inner) = Some(canceller);
                Ok(connection)
            }
        }
    }

    /// For the next poll. After an error the session is in doubt, and with it the lock is let go.
    pub(crate) fn keep(&mut self, connection: Connection) {
        self.connection = Some(connection);
    }

    /// Everything is looked at before anything is done.
    pub(crate) async fn begin<'a>(&'a mut self, connection: &'a mut Connection) -> Result<Poll<'a>> {
        let config = &self.config;
        let (spool, away) = ownership::settle(&mut self.spool, config, connection, &self.shipper).await?;
        origin::check_server(&spool.state().source, &connection.facts, &config.slot_name)?;
        let slot = origin::read_slot(&spool.state().source, connection, &config.slot_name).await?;
        let position = Position::settled(connection.session.client()).await?;
        origin::check_history(spool.state(), connection, &position, &config.postgres()?.user).await?;
        spool.update(|state| state.source.timeline = position.timeline)?;

        let plugin = match &self.plugin {
            Some(known) => known.clone(),
            None => self.plugin.insert(probe(config, connection).await?).clone(),
        };
        Ok(Poll {
            config,
            shipper: &self.shipper,
            signing_key: self.signing_key.as_ref(),
            spool,
            connection,
            snapshots: &mut self.snapshots,
            slot,
            plugin,
            position,
            head: None,
            poison: None,
            outcome: Outcome { away, ..Outcome::default() },
        })
    }
}

async fn probe(config: &Config, connection: &mut Connection) -> Result<Plugin> {
    let plugin = while_in_use(async || Plugin::probe(connection, &config.slot_name).await).await;
    let plugin = plugin.map_err(|error| slot::explain_to(error, config, connection))?;
    if !plugin.numbers_as_text {
        warn!(
            plugin = %plugin.name,
            "degraded: NaN and infinities of numeric and float columns arrive as NULL; wal2json 2.6 can say them"
        );
    }
    Ok(plugin)
}
