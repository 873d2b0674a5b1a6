//! One pass: all that the archive has and the copy has not.
//!
//! ```text
//! archive.json, head, listing ─▶ is it still our archive? ─▶ tables without a base ─▶ catch up
//!                                                         └▶ segments after the checkpoint, group by group
//! ```

pub mod catch_up;
pub mod runner;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use syncdata_formats::chain::ChainTip;
use syncdata_formats::digest::Digest;
use syncdata_formats::error::{Context, Error, Kind, Result};
use syncdata_formats::floor::Floor;
use syncdata_formats::head::Head;
use syncdata_formats::layout::{SegmentName, SegmentSeq};
use syncdata_formats::lsn::Lsn;
use syncdata_formats::manifest::Link;
use syncdata_formats::name::TableName;
use syncdata_formats::time::Day;
use syncdata_service::daemon::Stop;
use syncdata_service::faults;
use tokio::sync::mpsc;

use crate::apply::lookahead::Ahead;
use crate::apply::transaction::{self, Rules};
use crate::archive::fetch::{Fetched, Listing, Source};
use crate::load::{self, Choice, Loaded, Offer};
use crate::plan::Scope;
use crate::target::postgres::apply::Writer;
use crate::target::postgres::cursor::{self, Checkpoint, Position, State, TableState, Want};
use crate::target::postgres::local::Local;

/// What a pass did and what is left to say.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    pub segments: u64,
    pub records: u64,
    /// The head names a segment that is not there.
    pub missing: Option<SegmentSeq>,
    /// Tables that are not live, with the reason.
    pub unhealthy: BTreeMap<TableName, (State, String)>,
    pub tables: usize,
    /// Some table waits for a base.
    pub waits_for_base: bool,
    /// Tables that were loaded from one.
    pub loaded: BTreeMap<TableName, Loaded>,
    /// Tables that wanted to be and could not, with the reason.
    pub not_loaded: BTreeMap<TableName, String>,
    /// Somebody asked to stop: there may be more.
    pub stopped: bool,
}

impl Report {
    /// Pending tables wait for an operator, but nothing is wrong with them.
    pub fn is_clean(&self) -> bool {
        let wrong = |state: &State| matches!(state, State::Quarantined | State::Stale);
        self.missing.is_none() && !self.unhealthy.values().any(|(state, _)| wrong(state))
    }

    /// One that follows another: counts add up, the newer one knows how things are.
    #[must_use]
    pub fn after(mut self, earlier: Report) -> Report {
        self.segments += earlier.segments;
        self.records += earlier.records;
        self
    }

    #[must_use]
    pub fn with_loads(mut self, loads: load::Report) -> Report {
        self.records += loads.records;
        self.stopped |= loads.stopped;
        self.loaded.extend(loads.loaded);
        for (table, reason) in loads.refused.into_iter().chain(loads.waiting) {
            // What it waits for is all that there is to say of a table without a base.
            if let Some((State::Pending | State::Loading, known)) = self.unhealthy.get_mut(&table) {
                known.clone_from(&reason);
            }
            self.not_loaded.insert(table, reason);
        }
        self
    }
}

/// What passes have applied, also those that failed behind it.
#[derive(Debug, Default)]
pub struct Tally {
    segments: AtomicU64,
    records: AtomicU64,
}

impl Tally {
    pub(crate) fn add(&self, segments: usize, records: u64) {
        self.segments.fetch_add(segments as u64, Ordering::Relaxed);
        self.records.fetch_add(records, Ordering::Relaxed);
    }

    pub fn segments(&self) -> u64 {
        self.segments.load(Ordering::Relaxed)
    }

    pub fn records(&self) -> u64 {
        self.records.load(Ordering::Relaxed)
    }
}

/// What a pass works with.
#[derive(Debug)]
pub struct Pass<'a> {
    pub local: &'a Local,
    pub source: &'a Source,
    pub rules: &'a Rules,
    pub writer: Writer,
    /// Asked, the pass ends behind the transaction that is under way.
    pub stop: Stop,
    pub tally: Arc<Tally>,
}

/// What the archive shows of itself.
#[derive(Debug)]
pub(crate) struct View {
    head: Option<Head>,
    floor: Option<Floor>,
    listing: Listing,
    /// Behind the checkpoint, or where the archive begins.
    tip: ChainTip,
}

impl<'a> Pass<'a> {
    pub fn new(local: &'a Local, source: &'a Source, rules: &'a Rules) -> Pass<'a> {
        let writer = Writer::new(local.replica);
        Pass { local, source, rules, writer, stop: Stop::new(), tally: Arc::default() }
    }

    /// Applies everything that is there. `Err` after sound segments leaves those applied.
    pub async fn run(&mut self) -> Result<Report> {
        let client = self.local.session.client();
        let mut report = Report::default();
        let states = cursor::table_states(client, &self.local.meta).await?;
        if states.is_empty() {
            tracing::warn!("No tables in whitelist");
            return Ok(report);
        }
        let checkpoint = self.checkpoint(&states).await?;
        let view = self.view(&checkpoint).await?;
        self.sweep(&states, &checkpoint)?;
        let settled = match self.settle(&states, &checkpoint, &view, &mut report).await {
            Err(error) if error.kind().is_transient() => return Err(error),
            settled => settled,
        };
        let states = cursor::table_states(client, &self.local.meta).await?;
        let live = states.iter().filter(|(_, state)| state.state == State::Live);
        let live: BTreeSet<TableName> = live.map(|(table, _)| table.clone()).collect();
        // A base is loaded up to where the copy is: it has to get there, even with nothing to apply.
        if !live.is_empty() || states.values().any(|state| state.wants().is_some()) {
            let names = behind(&checkpoint, &view);
            let newest = view.head.as_ref().and_then(|head| head.newest);
            let stream = self.source.stream(view.tip, names, newest, live);
            let applied = self.apply_stream(checkpoint, stream, &mut report).await?;
            if !self.stop.is_asked() {
                self.note_freshness(&applied, &view, &mut report).await?;
            }
        }
        // What keeps one table from its base keeps no other from going on.
        settled?;
        report.stopped = self.stop.is_asked();
        self.describe(&mut report).await?;
        Ok(report)
    }

    /// The checkpoint, in the archive that it belongs to.
    async fn checkpoint(&self, states: &BTreeMap<TableName, TableState>) -> Result<Checkpoint> {
        let (client, meta) = (self.local.session.client(), &self.local.meta);
        let checkpoint = Checkpoint::read(client, meta).await?;
        let reached = states.values().filter_map(|state| state.position).max().unwrap_or(Lsn::ZERO);
        if checkpoint.archive_id.is_none() && checkpoint.segment.is_none() && reached > Lsn::ZERO {
            return Err(Error::new(
                Kind::StateDamaged,
                format!("the checkpoint says that nothing was applied, but tables are at {reached}"),
            )
            .hint("restore data_sync_checkpoint from a backup of the same moment as the tables"));
        }
        let identity = self.source.identity().await?;
        match checkpoint.archive_id {
            Some(ours) if ours != identity.archive_id => Err(Error::new(
                Kind::Foreign,
                format!("{} holds archive {}, this copy belongs to {ours}", self.source.location(), identity.archive_id),
            )
            .hint("nothing was applied; check archive_dir. If production really has a new archive: resync --all --adopt")),
            Some(_) => Ok(checkpoint),
            None => {
                cursor::adopt(client, meta, identity.archive_id).await?;
                tracing::info!(archive = %identity.archive_id, location = self.source.location(), "archive adopted");
                Ok(Checkpoint { archive_id: Some(identity.archive_id), ..checkpoint })
            }
        }
    }

    /// Looks at the archive and refuses it if it is not what it was.
    async fn view(&self, checkpoint: &Checkpoint) -> Result<View> {
        let archive_id = checkpoint.archive_id.expect("adopted before");
        // The head first: what it names was there when it was written.
        let head = self.source.head().await?.filter(|head| {
            let ours = head.archive_id == archive_id;
            if !ours {
                tracing::warn!(archive = %head.archive_id, "head.json is of another archive and ignored");
            }
            ours
        });
        let floor = self.source.floor().await?;
        if let Some(floor) = &floor
            && floor.archive_id != archive_id
        {
            return Err(Error::new(Kind::Foreign, "floor.json is of another archive"));
        }
        let mut listing = self.source.list(checkpoint.segment.map(|segment| segment.day)).await?;
        if let (None, Some(floor)) = (checkpoint.segment, &floor) {
            // A prune that was interrupted leaves some before the floor: they do not exist.
            listing.retain(|seq, _| *seq >= floor.seq);
        }
        let tip = match checkpoint.segment {
            None => floor.as_ref().map_or(ChainTip::origin(archive_id), Floor::tip),
            Some(_) => checkpoint.tip(archive_id),
        };
        if checkpoint.segment.is_some() {
            self.check_own(checkpoint, &listing, floor.as_ref()).await?;
        }
        if let Some(newest) = head.as_ref().and_then(|head| head.newest)
            && newest.name.seq.get() < checkpoint.seq()
        {
            tracing::warn!(segment = newest.name.seq.get(), "head.json is behind the checkpoint and ignored");
        }
        Ok(View { head, floor, listing, tip })
    }

    /// The segment at the checkpoint is still there as it was, or was pruned.
    async fn check_own(
        &self,
        checkpoint: &Checkpoint,
        listing: &Listing,
        floor: Option<&Floor>,
    ) -> Result<()> {
        let own = checkpoint.segment.expect("asked for one that has");
        let seq = own.link.seq;
        if let Some(places) = listing.get(&seq) {
            for &(day, name) in places {
                let bytes = self.source.manifest_bytes(day, name).await?;
                if name.end_lsn == own.end_lsn && Digest::of(&bytes) == own.link.sha256 {
                    return Ok(());
                }
            }
            return Err(Error::new(
                Kind::Foreign,
                format!("segment {seq}, which is applied here, was rewritten in the archive"),
            )
            .hint("nothing was applied; bring the archive back from a sound copy"));
        }
        match floor {
            Some(floor) if floor.previous == Some(own.link) => Ok(()),
            Some(floor) if floor.seq > seq.next() => Err(Error::new(
                Kind::Foreign,
                format!("the archive was pruned up to segment {}; this copy ends at {seq}", floor.seq),
            )
            .hint("what lies between is gone from the archive: syncdata-applier resync --all")),
            _ => Err(Error::new(
                Kind::Foreign,
                format!("the archive no longer has segment {seq}, which is applied here: it was rolled back"),
            )
            .hint("nothing was applied; bring the newer archive back, or check archive_dir")),
        }
    }

    /// The cache keeps what the checkpoint, or a table behind it, has still to take.
    fn sweep(&self, states: &BTreeMap<TableName, TableState>, checkpoint: &Checkpoint) -> Result<()> {
        let loading = states.values().filter(|state| state.state == State::Loading);
        let behind = loading.map(|state| state.position.unwrap_or(Lsn::ZERO)).min();
        let applied = behind.map_or(checkpoint.end_lsn(), |behind| behind.min(checkpoint.end_lsn()));
        self.source.sweep(|segment| segment.end_lsn > applied)
    }

    /// Before anything was applied, a table that starts with the archive needs no base. One that left quarantine is
    /// brought to the checkpoint. (What waits for a base is loaded beside the passes: see `load`.)
    async fn settle(
        &mut self,
        states: &BTreeMap<TableName, TableState>,
        checkpoint: &Checkpoint,
        view: &View,
        report: &mut Report,
    ) -> Result<()> {
        let (client, meta) = (self.local.session.client(), &self.local.meta);
        if checkpoint.segment.is_none() {
            for table in self.starting_with_the_archive(states, checkpoint, view).await? {
                let start = Some(Position { lsn: Lsn::ZERO, commit_time: None });
                cursor::set_state(client, meta, &table, State::Live, start, None).await?;
                cursor::want(client, meta, &table, None).await?;
                tracing::info!(%table, "table starts from the archive's first segment");
            }
        }
        let is_loading = |state: &TableState| state.state == State::Loading && state.wants().is_none();
        let loading: Vec<TableName> =
            states.iter().filter(|(_, state)| is_loading(state)).map(|(table, _)| table.clone()).collect();
        if !loading.is_empty() {
            let done = catch_up::run(self, checkpoint, &loading).await?;
            report.segments += done.segments;
            report.records += done.records;
        }
        Ok(())
    }

    async fn starting_with_the_archive(
        &self,
        states: &BTreeMap<TableName, TableState>,
        checkpoint: &Checkpoint,
        view: &View,
    ) -> Result<Vec<TableName>> {
        let waiting: Vec<(&TableName, Want)> =
            states.iter().filter_map(|(table, state)| Some((table, state.wants()?))).collect();
        if waiting.is_empty() {
            return Ok(Vec::new());
        }
        let archive_id = checkpoint.archive_id.expect("adopted before");
        let snapshots = self.source.snapshots(archive_id).await?;
        let offer = Offer { snapshots: &snapshots, floor: view.floor.as_ref(), reached: Lsn::ZERO };
        let starts = |&(table, want): &(&TableName, Want)| {
            // What is made anew must not be written over what is there.
            want != Want::Rebuild && offer.choose(table, want) == Choice::Start
        };
        Ok(waiting.into_iter().filter(starts).map(|(table, _)| table.clone()).collect())
    }

    /// Applies group by group; returns where the copy stands then.
    async fn apply_stream(
        &mut self,
        mut checkpoint: Checkpoint,
        stream: mpsc::Receiver<Result<Fetched>>,
        report: &mut Report,
    ) -> Result<Checkpoint> {
        let mut ahead = Ahead::new(stream, self.rules.apply_batch_changes);
        loop {
            let group = tokio::select! {
                next = ahead.group() => match next {
                    Some(group) => group?,
                    None => return Ok(checkpoint),
                },
                () = self.stop.asked() => return Ok(checkpoint),
            };
            if self.stop.is_asked() {
                return Ok(checkpoint);
            }
            checkpoint = match self.apply_group(&checkpoint, &group, Some(&mut ahead), report).await {
                // One of them is bad. Those before it are not, and do not wait for it.
                Err(error) if group.len() > 1 && is_about_a_segment(&error) => {
                    ahead.forget();
                    for one in group.chunks(1) {
                        if self.stop.is_asked() {
                            return Ok(checkpoint);
                        }
                        checkpoint = self.apply_group(&checkpoint, one, None, report).await?;
                    }
                    checkpoint
                }
                applied => applied?,
            };
        }
    }

    async fn apply_group(
        &mut self,
        checkpoint: &Checkpoint,
        group: &[Fetched],
        ahead: Option<&mut Ahead>,
        report: &mut Report,
    ) -> Result<Checkpoint> {
        let (local, rules, scope) = (self.local, self.rules, Scope::Live);
        let writer = &mut self.writer;
        let done = transaction::apply(local, writer, rules, checkpoint, &scope, group, ahead).await?;
        let last = group.last().expect("it has one");
        let checkpoint = Checkpoint::after(&last.segment);
        report.segments += group.len() as u64;
        report.records += done.records;
        self.tally.add(group.len(), done.records);
        tracing::info!(
            segment = checkpoint.seq(), lsn = %checkpoint.end_lsn(), segments = group.len(),
            records = done.records, "segments applied"
        );
        clean(group)?;
        Ok(checkpoint)
    }

    /// Everything that the archive has is applied: as fresh as its head says.
    async fn note_freshness(&self, checkpoint: &Checkpoint, view: &View, report: &mut Report) -> Result<()> {
        let Some(head) = &view.head else { return Ok(()) };
        let newest = head.newest.map_or(0, |newest| newest.name.seq.get());
        if newest > checkpoint.seq() {
            report.missing = Some(SegmentSeq::new(checkpoint.seq() + 1)?);
            tracing::error!(
                segment = checkpoint.seq() + 1,
                head = newest,
                "the archive lacks segments that its head names; what is there is applied"
            );
        } else if newest == checkpoint.seq() && head.covered_lsn >= checkpoint.end_lsn() {
            let same = head.newest.map(|newest| Link { seq: newest.name.seq, sha256: newest.sha256 })
                == checkpoint.segment.map(|segment| segment.link);
            if same {
                cursor::note_covered(self.local.session.client(), &self.local.meta, head).await?;
            } else {
                tracing::warn!(
                    "head.json names another manifest than the one applied; its freshness is not taken"
                );
            }
        }
        Ok(())
    }

    async fn describe(&self, report: &mut Report) -> Result<()> {
        let states = cursor::table_states(self.local.session.client(), &self.local.meta).await?;
        report.tables = states.len();
        for (table, state) in states {
            report.waits_for_base |= state.wants().is_some();
            if state.state != State::Live {
                report.unhealthy.insert(table, (state.state, state.reason.unwrap_or_default()));
            }
        }
        Ok(())
    }
}

fn is_about_a_segment(error: &Error) -> bool {
    error.kind().refuses_archive() || error.kind() == Kind::Rejected
}

/// The manifests after the checkpoint, in order; where one number stands twice, both, so that the chain refuses.
fn behind(checkpoint: &Checkpoint, view: &View) -> Vec<(Day, SegmentName)> {
    let later = view.listing.iter().filter(|(seq, _)| seq.get() > checkpoint.seq());
    later.flat_map(|(_, places)| places.iter().copied()).collect()
}

pub(crate) fn clean(group: &[Fetched]) -> Result<()> {
    for fetched in group {
        fetched.clean()?;
    }
    faults::hit("apply.cache_cleaned").context(|| "cleaning the cache".to_owned())?;
    Ok(())
}
