//! One poll: settle what an earlier run left, read the slot into the spool, ship, confirm.
//!
//! ```text
//! peek ──▶ spool (synced) ──▶ backup host ──▶ head ──▶ confirm
//!    └── again, while the answer was cut ◀──────────────────┘
//! ```
//! The order of these lines is the promise: the slot moves after the changes are safe where `confirm` says. After a
//! crash the position is derived from spool and archive; nothing is taken from memory.

pub(crate) mod gap;
pub(crate) mod guard;
pub(crate) mod mended;
pub(crate) mod told;

mod answers;
mod relief;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use syncdata_archive::{self, ArchiveHandle};
use syncdata_formats::lsn::Lsn;
use syncdata_formats::manifest::Gap;
use syncdata_formats::name::SlotName;
use syncdata_formats::signature::SigningKey;
use syncdata_formats::snapshot::SnapshotId;
use syncdata_formats::time::{Day, Timestamp};
use syncdata_formats::{Error, Kind, Result};
use syncdata_service::config::{Config, Confirm};
use syncdata_service::faults;
use syncdata_service::postgres::Canceller;
use tracing::{info, warn};

use crate::capture::Capture;
use crate::poll::guard::Pressure;
use crate::prune::{self, Plan, Terms};
use crate::segment::reading::{Reading, publish_gap};
use crate::ship::ownership::Home;
use crate::ship::shipper::Shipper;
use crate::snapshot::SnapshotLock;
use crate::source::catalog::{self, OldestTransaction, Position, Slot};
use crate::source::connection::{Connection, Work, while_in_use};
use crate::source::wal2json::poison::Poison;
use crate::source::wal2json::slot::{self, Plugin, Trouble};
use crate::spool::{HeldSnapshot, Spool};

/// Everything a poll works with; it lives as long as the process.
#[derive(Debug)]
pub(crate) struct Archiver {
    pub config: Config,
    shipper: Shipper,
    signing_key: Option<SigningKey>,
    home: Home,
    connection: Option<Connection>,
    /// What the archive's snapshots hold, as far as it has been read.
    snapshots: BTreeMap<SnapshotId, HeldSnapshot>,
    /// On which occasion what nobody needs was removed last.
    pruned: Option<(Day, Option<SnapshotId>)>,
    canceller: Arc<Mutex<Option<Canceller>>>,
    /// What was seen of the source when a poll failed.
    last_view: View,
}

/// What a poll came to.
#[derive(Debug, Default)]
pub(crate) struct Outcome {
    pub segments: u64,
    pub records: u64,
    pub shipped: u64,
    /// Why the backup host does not have everything.
    pub away: Option<Error>,
    /// Why there is more in the slot than was read.
    pub held_back: Option<Error>,
    pub gaps: Vec<Gap>,
    pub pressure: Pressure,
    pub view: View,
}

/// What `status` shows of the source, as it was at the end of the poll.
#[derive(Clone, Debug, Default)]
pub(crate) struct View {
    pub slot: Option<Slot>,
    pub flush: Lsn,
    pub oldest_transaction: Option<OldestTransaction>,
    pub plugin: Option<Plugin>,
    pub capture: Capture,
    pub server_version: String,
}

/// For a server that does not answer any more.
const LAST_LOOK: Duration = Duration::from_secs(5);

impl View {
    async fn look(connection: &Connection, slot: &SlotName) -> Result<View> {
        let client = connection.session.client();
        Ok(View {
            slot: Slot::read(client, slot).await?,
            flush: Position::read(client).await?.flush,
            oldest_transaction: OldestTransaction::read(client).await?,
            plugin: connection.plugin.clone(),
            capture: Capture::default(),
            server_version: connection.facts.server_version.clone(),
        })
    }
}

/// One poll under way.
struct Poll<'a> {
    config: &'a Config,
    shipper: &'a Shipper,
    signing_key: Option<&'a SigningKey>,
    spool: &'a mut Spool,
    connection: &'a mut Connection,
    snapshots: &'a mut BTreeMap<SnapshotId, HeldSnapshot>,
    slot: Slot,
    plugin: Plugin,
    position: Position,
    /// What head.json says since this poll: all before is archived, by position and by clock.
    head: Option<(Lsn, Timestamp)>,
    /// What stops the reading.
    poison: Option<Poison>,
    outcome: Outcome,
}

impl Archiver {
    /// Takes the spool; touches neither the source nor the backup host.
    pub(crate) fn new(config: Config) -> Result<Archiver> {
        let shipper = Shipper::new(ArchiveHandle::spawn(syncdata_archive::open(config.archive()?)?)?);
        let signing_key = config.signing_key()?;
        let home = Home::open(&config.spool_dir)?;
        Ok(Archiver {
            config,
            shipper,
            signing_key,
            home,
            connection: None,
            canceller: Arc::default(),
            last_view: View::default(),
            snapshots: BTreeMap::new(),
            pruned: None,
        })
    }

    pub(crate) fn spool(&self) -> Option<&Spool> {
        self.home.spool()
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
                self.connection = Some(connection);
                Ok(outcome)
            }
            Err(error) => {
                // The session is in doubt, and is not kept. What it still answers is for `status`.
                let looked = View::look(&connection, &self.config.slot_name);
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

    /// Removes what nobody needs any more, or only says what that is.
    pub(crate) async fn prune(&mut self, dry_run: bool) -> Result<Plan> {
        let keep_days = self.config.keep_days.ok_or_else(prune::not_configured)?;
        let _lock = match dry_run {
            true => None,
            false => Some(SnapshotLock::take(&self.config.spool_dir)?),
        };
        let mut connection = self.connect().await?;
        if !dry_run {
            connection.lock(Work::Snapshots, &self.config.slot_name).await?;
        }
        let plan = self.begin(&mut connection).await?.prune(keep_days, dry_run).await?;
        if !dry_run {
            connection.unlock(Work::Snapshots, &self.config.slot_name).await?;
            self.pruned = Some(self.prune_occasion());
        }
        // After an error the session, and with it the lock, is not kept.
        self.connection = Some(connection);
        Ok(plan)
    }

    /// A new day and a new snapshot are reasons to look what may go.
    pub(crate) fn is_prune_due(&self) -> bool {
        self.config.keep_days.is_some() && self.pruned.as_ref() != Some(&self.prune_occasion())
    }

    fn prune_occasion(&self) -> (Day, Option<SnapshotId>) {
        (Timestamp::now().day(), self.snapshots.keys().next_back().cloned())
    }

    async fn connect(&mut self) -> Result<Connection> {
        match self.connection.take() {
            Some(connection) if !connection.is_closed() => Ok(connection),
            _ => {
                let connection = Connection::open(&self.config).await?;
                connection.lock(Work::Reading, &self.config.slot_name).await?;
                let canceller = connection.session.canceller();
                *self.canceller.lock().unwrap_or_else(PoisonError::into_inner) = Some(canceller);
                Ok(connection)
            }
        }
    }

    /// Everything is looked at before anything is done.
    async fn begin<'a>(&'a mut self, connection: &'a mut Connection) -> Result<Poll<'a>> {
        let (spool, away) = self.home.settle(&self.config, connection, &self.shipper).await?;
        gap::check_origin(&spool.state().source, &connection.facts, &self.config.slot_name)?;
        let slot = slot::read(connection.session.client(), &self.config.slot_name).await;
        let slot =
            slot.map_err(|error| gap::explain_missing_slot(error, &spool.state().source, &connection.facts))?;
        let position = Position::settled(connection.session.client()).await?;
        check_history(&self.config, spool, connection, &position).await?;
        let plugin = plugin(&self.config, connection).await?;
        Ok(Poll {
            config: &self.config,
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

async fn check_history(
    config: &Config,
    spool: &mut Spool,
    connection: &Connection,
    position: &Position,
) -> Result<()> {
    let before = spool.state().source.timeline;
    let switch = match position.timeline {
        now if now == before => None,
        now => {
            let user = config.postgres()?.user.as_str();
            catalog::switch_point(connection.session.client(), before, now, user).await?
        }
    };
    gap::check_history(spool.state(), spool.position(), position.timeline, position.flush, switch)?;
    spool.update(|state| state.source.timeline = position.timeline)
}

async fn plugin(config: &Config, connection: &mut Connection) -> Result<Plugin> {
    if let Some(plugin) = &connection.plugin {
        return Ok(plugin.clone());
    }
    let plugin = while_in_use(async || Plugin::probe(connection, &config.slot_name).await).await;
    let plugin = plugin.map_err(|error| explain(error, config, connection))?;
    if !plugin.numbers_as_text {
        warn!(
            plugin = %plugin.name,
            "degraded: NaN and infinities of numeric and float columns arrive as NULL; wal2json 2.6 can say them"
        );
    }
    connection.plugin = Some(plugin.clone());
    Ok(plugin)
}

fn explain(error: Error, config: &Config, connection: &Connection) -> Error {
    let user = config.postgres().map_or("", |postgres| postgres.user.as_str());
    slot::explain(error, user, connection.facts.major())
}

impl<'a> Poll<'a> {
    async fn run(mut self) -> Result<Outcome> {
        self.find_gap().await?;
        self.look_back().await?;
        self.ship().await?;
        self.confirm().await?;
        if let Err(error) = self.read_all().await {
            // The fuse does not wait for the operator of a transaction that cannot be read.
            if self.poison.is_some() {
                self.relieve().await?;
            }
            return Err(error);
        }
        self.ship().await?;
        self.confirm().await?;
        self.relieve().await?;
        self.look_at_snapshots().await?;
        self.look_around().await?;
        Ok(self.outcome)
    }

    /// A gap that an operator declares: told first, then the slot moves past it. What can be read is read before,
    /// so that no more is given up than has to be.
    async fn declare(mut self, upto: Lsn, reason: &str) -> Result<Outcome> {
        self.find_gap().await?;
        if let Err(error) = self.read_all().await {
            // Of what is behind it nobody knows yet whether it can be read.
            if Trouble::of(&error) == Trouble::Passing {
                return Err(error);
            }
            warn!(error = %error.one_line(), "this is what the declared gap steps over");
            self.spool.reload()?;
        }
        let from = self.spool.position();
        if upto <= from || upto > self.position.flush {
            let message = format!("a gap up to {upto} cannot be declared: it must end past {from}");
            let hint = format!(
                "what is before {from} is archived; the source's WAL ends at {}",
                self.position.flush
            );
            return Err(Error::new(Kind::BadInput, message).hint(hint));
        }
        if let Some(poison) = &self.poison
            && upto < poison.end_lsn
        {
            let message =
                format!("the transaction that cannot be read ends at {}, past {upto}", poison.end_lsn);
            return Err(Error::new(Kind::BadInput, message).hint(format!("use --upto {}", poison.end_lsn)));
        }
        self.publish_gap(Gap { from, to: upto, reason: reason.to_owned(), tables: None }).await?;
        // With the backup host away the slot stays: what lies before the gap may be in the spool alone.
        self.ship().await?;
        self.confirm().await?;
        Ok(self.outcome)
    }

    /// A slot that is ahead of the archive has lost changes: that is published, once.
    async fn find_gap(&mut self) -> Result<()> {
        let (state, archived) = (self.spool.state(), self.spool.position());
        if let Some(gap) = gap::of_slot(state, archived, &self.connection.facts, &self.slot) {
            self.publish_gap(gap).await?;
        }
        let oid = self.connection.facts.database_oid;
        self.spool.update(|state| state.source.database_oid = oid)
    }

    async fn publish_gap(&mut self, gap: Gap) -> Result<()> {
        let reading = self.reading();
        let (source, capture) = reading.describe(self.connection, self.spool.state()).await?;
        let end = gap.to;
        let manifest = publish_gap(self.spool, source, &capture, end, vec![gap], self.signing_key)?;
        self.outcome.gaps.extend(manifest.gaps);
        Ok(())
    }

    fn reading(&self) -> Reading<'a> {
        Reading { config: self.config, plugin: self.plugin.clone(), signing_key: self.signing_key }
    }

    /// Sends again what the backup host has lost since.
    async fn look_back(&mut self) -> Result<()> {
        if self.outcome.away.is_some() {
            return Ok(());
        }
        self.outcome.away = self.shipper.look_back(self.spool).await?;
        Ok(())
    }

    /// Sends what waits, and then says in head.json how far that goes: without it nobody who has lost this spool
    /// could tell an idle slot that moved on from one that lost changes.
    async fn ship(&mut self) -> Result<()> {
        if self.outcome.away.is_some() {
            return Ok(());
        }
        let sent = self.shipper.ship(self.spool).await?;
        self.outcome.shipped += sent.segments;
        self.outcome.away = sent.away;
        // Before the slot was read to its end once, nobody knows how fresh the archive is.
        let covered = self.spool.state().covered_at.map(|at| (self.spool.position(), at));
        if let Some((_, at)) = covered
            && self.outcome.away.is_none()
            && self.head != covered
        {
            self.outcome.away = self.shipper.publish_head(self.spool.state(), at).await?;
            self.head = covered.filter(|_| self.outcome.away.is_none());
        }
        Ok(())
    }

    /// Lets the slot move up to what is safe where `confirm` says.
    async fn confirm(&mut self) -> Result<()> {
        let upto = match self.config.confirm {
            Confirm::Spooled => Some(self.spool.position()),
            Confirm::Shipped => self.spool.shipped_position().max(self.head.map(|(covered, _)| covered)),
        };
        match upto {
            Some(upto) => self.advance(upto).await,
            None => Ok(()),
        }
    }

    async fn advance(&mut self, upto: Lsn) -> Result<()> {
        if self.slot.confirmed_flush_lsn >= Some(upto) {
            return Ok(());
        }
        self.slot = slot::confirm(self.connection.session.client(), &self.config.slot_name, upto).await?;
        Ok(())
    }

    fn explain(&self, error: Error) -> Error {
        explain(error, self.config, self.connection)
    }

    /// Which snapshots there are, and which gaps they have mended.
    async fn look_at_snapshots(&mut self) -> Result<()> {
        if self.outcome.away.is_some() {
            return Ok(());
        }
        let known = std::mem::take(self.snapshots);
        let verify_key = self.signing_key.map(SigningKey::verify_key);
        let held = match self.shipper.snapshots(known, verify_key).await? {
            Ok(held) => held,
            Err(away) => {
                self.outcome.away = Some(away);
                return Ok(());
            }
        };
        let captured = &self.outcome.view.capture.tables;
        let gaps = mended::unmended(&self.spool.state().gaps, held.values(), captured);
        if gaps.len() < self.spool.state().gaps.len() {
            info!(left = gaps.len(), "snapshots have mended gaps");
        }
        let newest = held.values().next_back().cloned();
        *self.snapshots = held;
        self.spool.update(|state| (state.gaps, state.newest_snapshot) = (gaps, newest))
    }

    /// The order of these lines is the promise: nothing goes before the floor says so, and the spool sends nothing of
    /// it again.
    async fn prune(mut self, keep_days: u32, dry_run: bool) -> Result<Plan> {
        if let Some(away) = self.outcome.away.take() {
            return Err(away.context("nothing was pruned"));
        }
        let archive_id = self.spool.state().archive_id;
        let (_, capture) = self.reading().describe(self.connection, self.spool.state()).await?;
        let inventory = self.shipper.inventory(self.signing_key.map(SigningKey::verify_key)).await?;
        let terms = Terms { archive_id, keep_days, captured: &capture.tables, now: Timestamp::now() };
        let plan = Plan::of(&inventory, &terms);
        if dry_run || plan.is_empty() {
            return Ok(plan);
        }
        faults::hit("prune.planned")?;
        let floor = plan.floor.or(inventory.floor.as_ref().map(|floor| floor.seq));
        self.shipper.begin_prune(&plan, inventory, archive_id).await?;
        if let Some(floor) = floor {
            self.spool.forget_before(floor)?;
        }
        faults::hit("prune.spool_forgot")?;
        self.shipper.remove(plan.clone()).await?;
        info!(files = plan.removals().count(), bytes = plan.bytes(), "archive pruned");
        Ok(plan)
    }

    /// The end of a poll: old files go, and what `status` shows.
    async fn look_around(&mut self) -> Result<()> {
        self.spool.sweep(self.config.spool_max.as_u64())?;
        // As late as can be: a slot that was made again has handed out fewer than this one by now.
        self.slot = slot::read(self.connection.session.client(), &self.config.slot_name).await?;
        let transactions = self.slot.transactions;
        self.spool.update(|state| state.slot_transactions = transactions)?;
        let view = View::look(self.connection, &self.config.slot_name).await?;
        let capture = std::mem::take(&mut self.outcome.view.capture);
        self.outcome.view = View { capture, ..view };
        Ok(())
    }
}
