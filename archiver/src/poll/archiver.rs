//! What lives as long as the process: the spool, the way to the archive, and the connection to the source.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, Once, PoisonError};
use std::time::Duration;

use syncdata_archive::ArchiveHandle;
use syncdata_formats::Result;
use syncdata_formats::lsn::Lsn;
use syncdata_formats::signature::SigningKey;
use syncdata_formats::snapshot::SnapshotId;
use syncdata_formats::time::{Day, Timestamp};
use syncdata_service::config::{Config, Source};
use syncdata_service::postgres::Canceller;
use tokio::time::Instant;
use tracing::{info, warn};

use crate::capture::Capture;
use crate::capture::position::next;
use crate::poll::guard::Pressure;
use crate::poll::history::{is_as_it_was, last_commit_missing};
use crate::poll::leftover;
use crate::poll::outcome::{Outcome, View};
use crate::poll::steps::Poll;
use crate::poll::strangers::Asked;
use crate::segment::cut::Watch;
use crate::ship::shipper::Shipper;
use crate::ship::{origin, ownership};
use crate::source::ask::Plans;
use crate::source::connection::{Connection, Work, while_in_use};
use crate::source::followable;
use crate::source::look::Look;
use crate::source::pgoutput::publication;
use crate::source::production::{About, Production};
use crate::source::slot;
use crate::source::triggers::reader;
use crate::spool::{HeldSnapshot, Keep, Opened, Spool};

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
    /// With the plugin of the server of that connection.
    source: Option<Production>,
    /// Whether the server of that connection is known to have the history that was archived.
    has_our_history: bool,
    /// Whether its slot is known to stand where it was moved to.
    has_same_slot: bool,
    /// What the archive's snapshots hold, as far as it has been read.
    snapshots: BTreeMap<SnapshotId, HeldSnapshot>,
    /// On which occasion what nobody needs was removed last.
    pruned: Option<(Day, Option<SnapshotId>)>,
    announcement: Announcement,
    canceller: Arc<Mutex<Option<Canceller>>>,
    /// What a proof looks for in the stream.
    watch: Watch,
    /// What was seen of the source when a poll failed.
    last_view: View,
    /// Why the slot is not followed although it should be.
    not_followed: Option<String>,
    /// When a poll last looked at what the backup host holds.
    looked_back: Option<Instant>,
    /// Whether the poll that comes does.
    looks_back: bool,
}

/// Where the changes of a slot come from that is to be followed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Follows {
    Stream,
    /// Not now, for a reason that is perhaps not known yet.
    Polls(Option<String>),
}

/// Whether it was said what a new `keep_days` removes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Announcement {
    NotNeeded,
    Owed,
    Made(Day),
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
            source: None,
            has_our_history: false,
            has_same_slot: false,
            canceller: Arc::default(),
            watch: Watch::default(),
            last_view: View::default(),
            not_followed: None,
            looked_back: None,
            looks_back: true,
            snapshots: BTreeMap::new(),
            pruned: None,
            announcement: Announcement::NotNeeded,
        })
    }

    /// With the search of the archiver that it takes the place of.
    pub(crate) fn carrying(self, watch: Watch) -> Archiver {
        Archiver { watch, ..self }
    }

    pub(crate) fn spool(&self) -> Option<&Spool> {
        self.spool.spool()
    }

    fn plugin(&self) -> Option<About> {
        self.source.as_ref().map(Production::about)
    }

    pub(crate) fn location(&self) -> &str {
        self.shipper.location()
    }

    /// Ends what the source is doing for us, for somebody who cannot wait for the poll.
    pub(crate) fn canceller(&self) -> Arc<Mutex<Option<Canceller>>> {
        self.canceller.clone()
    }

    /// For a proof, which needs polls of this archiver.
    pub(crate) fn watch(&self) -> Watch {
        self.watch.clone()
    }

    /// A poll because something has committed. There may be ten in a second, and not each looks at all of the archive.
    pub(crate) async fn poll_on_news(&mut self) -> Result<Outcome> {
        const LOOKS_BACK_EVERY: Duration = Duration::from_secs(10);
        let before = self.looked_back.filter(|looked| looked.elapsed() < LOOKS_BACK_EVERY);
        self.looks_back = before.is_none();
        let polled = self.poll().await;
        self.looks_back = true;
        polled
    }

    pub(crate) async fn poll(&mut self) -> Result<Outcome> {
        if self.looks_back {
            self.looked_back = Some(Instant::now());
        }
        self.last_view = View::default();
        let mut connection = self.connect().await?;
        match self.poll_through(&mut connection).await {
            Ok(outcome) => {
                self.keep(connection);
                Ok(outcome)
            }
            Err(error) => {
                // The session is in doubt, and is not kept. What it still answers is for `status`.
                let looked = View::look(&connection, &self.config.slot_name, self.plugin());
                if let Ok(Ok(view)) = tokio::time::timeout(LAST_LOOK, looked).await {
                    self.last_view = view;
                }
                Err(error)
            }
        }
    }

    async fn poll_through(&mut self, connection: &mut Connection) -> Result<Outcome> {
        let has_ended = connection.stream.as_ref().is_some_and(|stream| stream.ended().is_some());
        if has_ended || connection.stream.is_some() && may_follow(connection, &self.config).await.is_err() {
            connection.let_go().await?;
        }
        self.begin(connection).await?.run().await
    }

    /// After a poll that came to its end: the next ones have their answers from the stream, which begins where the slot
    /// stands. What is not well is left to polls as they always are.
    pub(crate) async fn follow(&mut self, outcome: &Outcome) {
        if !self.config.follow {
            return;
        }
        let Some(mut connection) = self.connection.take() else { return };
        let followed = self.follow_through(&mut connection, outcome).await;
        let is_new = |known: &Option<String>, words: &str| known.as_deref() != Some(words);
        match followed {
            Ok(true) if self.not_followed.take().is_some() => info!("the slot is followed again"),
            Ok(_) => {}
            Err(error) => {
                let words = error.with_hint();
                if is_new(&self.not_followed, &words) {
                    warn!(error = %error.one_line(), hint = error.hint_text(), "the slot is not followed, polls go on");
                }
                self.not_followed = Some(words);
            }
        }
        self.keep(connection);
    }

    async fn follow_through(&self, connection: &mut Connection, outcome: &Outcome) -> Result<bool> {
        let is_well = outcome.away.is_none() && outcome.held_back.is_none();
        if !is_well || outcome.pressure != Pressure::None {
            connection.let_go().await?;
            return Ok(false);
        }
        if connection.stream.is_some() {
            return Ok(true);
        }
        may_follow(connection, &self.config).await?;
        let Some(source) = &self.source else { return Ok(false) };
        let stream = source.follow(&self.config, &outcome.view.capture).await;
        let stream = stream.map_err(|error| error.context("following the slot"))?;
        info!(slot = %self.config.slot_name, "the slot is followed");
        connection.stream = Some(Arc::new(stream));
        connection.plans = Plans::kept();
        Ok(true)
    }

    /// Where changes come from, for `status`.
    pub(crate) fn follows(&self) -> Option<Follows> {
        let is_followed = self.connection.as_ref().is_some_and(|connection| connection.stream.is_some());
        self.config.follow.then(|| match (&self.not_followed, is_followed) {
            (_, true) => Follows::Stream,
            (why, false) => Follows::Polls(why.clone()),
        })
    }

    /// Ends when there is something to read, but not before `not_before`.
    pub(crate) async fn news(&self, not_before: Instant) {
        let stream = self.connection.as_ref().and_then(|connection| connection.stream.clone());
        match stream {
            Some(stream) => stream.news().await,
            None => std::future::pending().await,
        }
        tokio::time::sleep_until(not_before).await;
    }

    pub(crate) fn last_view(&self) -> &View {
        &self.last_view
    }

    /// Declares that everything up to `upto` may be missing, and lets the slot go past it.
    pub(crate) async fn declare_gap(&mut self, upto: Lsn, reason: &str) -> Result<Outcome> {
        let mut connection = self.connect().await?;
        self.begin(&mut connection).await?.declare(upto, reason).await
    }

    /// Remembers that the archive was pruned for this day and snapshot.
    pub(crate) fn mark_pruned(&mut self) {
        self.pruned = Some(self.prune_occasion());
    }

    /// A new day and a new snapshot are reasons to look what may go.
    pub(crate) fn is_prune_due(&self) -> bool {
        let may_begin = match self.announcement {
            Announcement::NotNeeded => true,
            Announcement::Owed => false,
            Announcement::Made(day) => Timestamp::now().day() > day,
        };
        self.config.keep_days.is_some() && may_begin && self.pruned.as_ref() != Some(&self.prune_occasion())
    }

    /// Somebody changed what is kept: first it is said what that takes, and removed from the next day on.
    pub(crate) fn announce_prune(&mut self) {
        self.announcement = Announcement::Owed;
    }

    pub(crate) fn is_prune_to_be_announced(&self) -> bool {
        self.config.keep_days.is_some() && self.announcement == Announcement::Owed
    }

    pub(crate) fn prune_is_announced(&mut self) -> Result<()> {
        let now = Timestamp::now();
        self.announcement = Announcement::Made(now.day());
        self.keep_in_mind(Some(now))
    }

    /// After a poll: whether `keep_days` is that of before, also of before a restart.
    pub(crate) fn compare_keep_days(&mut self) -> Result<()> {
        let known = self.spool().and_then(|spool| spool.state().keep);
        match known {
            None => self.keep_in_mind(None),
            Some(known) if known.days != self.config.keep_days => {
                self.announcement = Announcement::Owed;
                Ok(())
            }
            Some(known) => {
                if let (Some(at), Announcement::NotNeeded) = (known.said_at, self.announcement) {
                    self.announcement = Announcement::Made(at.day());
                }
                Ok(())
            }
        }
    }

    fn keep_in_mind(&mut self, said_at: Option<Timestamp>) -> Result<()> {
        let days = self.config.keep_days;
        match &mut self.spool {
            Opened::Ours(spool) => spool.update(|state| state.keep = Some(Keep { days, said_at })),
            Opened::New(_) => Ok(()),
        }
    }

    /// Notes that a change of the plugin is about to copy the slot, or has dropped the copy.
    pub(crate) fn copies_slot(&mut self, is_there: bool) -> Result<()> {
        match &mut self.spool {
            Opened::Ours(spool) => spool.update(|state| state.copies_slot = is_there),
            Opened::New(_) => Ok(()),
        }
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
                self.source = None;
                (self.has_our_history, self.has_same_slot) = (false, false);
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
        reader::expect(&connection.asked(), config).await?;
        let key = self.signing_key.as_ref().map(SigningKey::verify_key);
        let met = ownership::meet(&mut self.spool, config, connection, &self.shipper, key.as_ref()).await?;
        let state = met.state(&self.spool);
        origin::check_server(&state.source, &connection.facts, &config.slot_name)?;
        let slot = origin::read_slot(&state.source, connection, &config.slot_name).await?;
        leftover::let_go(&mut self.spool, connection, &slot, &config.slot_name).await?;
        let state = met.state(&self.spool);
        slot::check_source(&config.slot_name, &slot, config.source)?;
        if !self.has_our_history && met.away.is_none() && !met.is_fresh() {
            // Before the position is read: the server has what they have. What cannot be listed now is at the end of a poll.
            let known = self.snapshots.clone();
            if let Ok(held) = self.shipper.snapshots(known, key).await {
                self.snapshots = held;
            }
        }
        let publication = publication::of(config);
        let before = publication::keep(connection, config, &state.memory).await?;
        let mut look = Look::take(&connection.asked(), publication.as_deref(), before).await?;
        let position = look.position;
        let history =
            origin::history(state, &self.snapshots, connection, &position, &config.postgres()?.user).await?;
        let (mut diverged, switch) = (history.diverged, history.switch);
        let wal_end = look.position.flush;
        if config.source == Source::Triggers {
            look.position.flush = next(state.position());
        }
        let position = look.position;

        let retained = position.flush.bytes_since(slot.restart_lsn.unwrap_or(position.flush));
        let passes_over_mistakes = retained > config.wal_guard.as_u64();

        let source: &Production = match &mut self.source {
            Some(known) => known,
            unknown => unknown.insert(probe(config, connection).await?),
        };
        // Before anything is confirmed: what the slot is moved past cannot be compared any more.
        if diverged.is_none() && !self.has_our_history {
            diverged = last_commit_missing(config, connection, source, &slot, state).await?;
            self.has_our_history = diverged.is_none();
        }
        // A slot that stands before where it was moved to: the server has lost its memory, and perhaps its latest WAL, and may
        // have written other changes since. Where nothing captured is missing, only reading again tells.
        // With the backup host away it was not moved so far, and offers what it did.
        let state = met.state(&self.spool);
        let is_before = |confirmed: &Lsn| !self.has_same_slot && *confirmed < state.position();
        let mut reread = slot.confirmed_flush_lsn.filter(is_before).filter(|_| diverged.is_none());
        if reread.is_some() && is_as_it_was(config, connection, source, &slot, state, position.flush).await? {
            reread = None;
        }
        // It never stood there: between the end of the chain and there, commits of the server are in no slot.
        let is_made_anew =
            reread.is_some_and(|stands| stands > state.tip.end_lsn && state.stood.is_made_anew(stands));
        self.has_same_slot = true;
        let (spool, away) = match diverged {
            // Nothing of this source says anything about the archive.
            Some(_) if met.is_fresh() => {
                return Err(origin::diverged_from_the_start(&diverged.unwrap_or_default()));
            }
            Some(_) => ownership::keep_apart(&mut self.spool, met)?,
            None => {
                let archive = self.shipper.archive();
                let (timeline, flush) = (position.timeline, wal_end);
                let asked =
                    Asked { config, source, archive, slot: &slot, timeline, flush, passes_over_mistakes };
                let met = asked.about_strangers(connection, &self.spool, met).await?;
                ownership::take_over(&mut self.spool, met, slot.confirmed_flush_lsn)?
            }
        };
        spool.update(|state| match &diverged {
            Some(_) => state.diverged.clone_from(&diverged),
            None => {
                state.is_on(position.timeline, switch, slot.catalog_xmin);
                state.pass_over_batches(self.snapshots.values().map(|held| held.end_lsn));
                if let Some(confirmed) = reread {
                    // Behind the slot, so that what it does not have is a gap; unless a timeline's end has done that.
                    let is_passed_over = is_made_anew && confirmed <= state.position();
                    let upto = if is_passed_over { state.tip.end_lsn } else { confirmed };
                    state.go_back_to(upto.max(state.tip.end_lsn), slot.catalog_xmin);
                }
                if let Some(stands) = slot.confirmed_flush_lsn {
                    state.stood.met(stands, position.redo);
                }
            }
        })?;
        let mistake = || {
            let memory = &spool.state().memory;
            Capture::passing_over_mistakes(&config.tables, &look.schemas, &look.tables, memory).1
        };
        let mistake = passes_over_mistakes.then(mistake).flatten();
        Ok(Poll {
            config,
            shipper: &self.shipper,
            signing_key: self.signing_key.as_ref(),
            spool,
            connection,
            snapshots: &mut self.snapshots,
            watch: &self.watch,
            slot,
            source,
            position,
            look,
            head: None,
            poison: None,
            passes_over_mistakes,
            answer_failed: false,
            looks_back: self.looks_back,
            outcome: Outcome { away, mistake, ..Outcome::default() },
        })
    }
}

async fn may_follow(connection: &Connection, config: &Config) -> Result<()> {
    match followable::refused(connection, config.source).await? {
        Some(refusal) => Err(refusal),
        None => Ok(()),
    }
}

async fn probe(config: &Config, connection: &mut Connection) -> Result<Production> {
    let source = while_in_use(async || Production::probe(connection, config).await).await;
    let source = source.map_err(|error| slot::explain_to(error, config, connection))?;
    if !source.about().degraded.is_empty() {
        // Once per start: connections come and go.
        static SAID: Once = Once::new();
        SAID.call_once(|| {
            warn!(
                plugin = %source.about().name,
                "degraded: NaN and infinities of numeric and float columns arrive as NULL; wal2json 2.6 can say them"
            );
        });
    }
    Ok(source)
}
