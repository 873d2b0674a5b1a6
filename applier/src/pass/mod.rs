//! One pass: all that the archive has and the copy has not.
//!
//! ```text
//! archive.json, head, listing ─▶ is it still our archive? ─▶ tables without a base ─▶ catch up
//!                                                         └▶ segments after the checkpoint, group by group
//! ```

mod catch_up;
mod context;
mod copy;
#[cfg(feature = "duckdb")]
mod duckdb;
mod local_tables;
mod postgres;
pub mod runner;
mod tally;
mod view;
mod waiting;

use std::collections::{BTreeMap, BTreeSet};

use syncdata_formats::error::{Error, Kind, Result};
use syncdata_formats::head::Size;
use syncdata_formats::layout::SegmentSeq;
use syncdata_formats::lsn::Lsn;
use syncdata_formats::manifest::Link;
use syncdata_formats::name::TableName;
use syncdata_formats::time::Timestamp;
use tokio::sync::mpsc;

use self::catch_up::catch_up;
use self::context::clean;
pub use self::context::{PassContext, Proving};
pub use self::copy::{LocalCopy, Reasons};
pub use self::postgres::PostgresCopy;
pub use self::tally::{Counts, Seen, TableCounts, Tally};
use self::view::{View, is_about_the_archive};
use crate::apply::lookahead::Ahead;
use crate::archive::fetch::Fetched;
use crate::plan::Scope;
use crate::plan::offer::{Choice, Offer};
use crate::plan::position::{Checkpoint, Position};
use crate::plan::state::{Event, State, TableState, Want};

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
    /// Somebody asked to stop: there may be more.
    pub stopped: bool,
}

impl Report {
    /// Pending tables wait for an operator, but nothing is wrong with them. That nothing comes of a live one any more is
    /// told, and nothing wrong with its rows either.
    pub fn is_clean(&self) -> bool {
        let wrong = |state: &State| state.needs_operator();
        self.missing.is_none() && !self.unhealthy.values().any(|(state, _)| wrong(state))
    }
}

/// One pass over what is new in the archive.
#[derive(Debug)]
pub struct Pass<'a, C> {
    context: PassContext<'a, C>,
}

impl<'a, C: LocalCopy> Pass<'a, C> {
    pub fn new(context: PassContext<'a, C>) -> Pass<'a, C> {
        Pass { context }
    }

    /// Applies everything that is there. `Err` after sound segments leaves those applied.
    pub async fn run(&mut self) -> Result<Report> {
        let mut report = Report::default();
        let states = self.context.copy.states().await?;
        if states.is_empty() {
            tracing::warn!("No tables in whitelist");
            return Ok(report);
        }

        // Also while the archive is silent, or away.
        self.look_at_local_tables(&states, false).await?;
        let states = self.context.copy.states().await?;
        let checkpoint = self.checkpoint(&states).await?;
        let known = self.context.copy.covered_at().await?;
        self.context.copy.resume_proofs(&checkpoint).await?;
        let mut view = View::of(self.context.source, &checkpoint, known).await?;
        self.context.tally.sees(view.head.as_ref().map(|head| head.covered_at), Timestamp::now());
        self.sweep(&states, &checkpoint)?;
        let settled = match self.settle(&states, &checkpoint, &view, &mut report).await {
            Err(error) if error.kind().is_transient() => return Err(error),
            settled => settled,
        };

        let states = self.context.copy.states().await?;
        let live = states.iter().filter(|(_, state)| state.state == State::Live);
        let live: BTreeSet<TableName> = live.map(|(table, _)| table.clone()).collect();
        // A base is loaded up to where the copy is: it has to get there, even with nothing to apply.
        if !live.is_empty() || states.values().any(|state| state.wants().is_some()) {
            let applied = self.apply_all(checkpoint, &mut view, live, &mut report).await?;
            if !self.context.stop.is_asked() {
                self.note_freshness(&applied, &view, &mut report).await?;
            }
        }

        // What a segment says of a table may make rows here wrong that it says nothing of.
        let states = self.context.copy.states().await?;
        let is_through = !self.context.stop.is_asked();
        self.look_at_local_tables(&states, is_through).await?;
        // What keeps one table from its base keeps no other from going on.
        settled?;
        report.stopped = self.context.stop.is_asked();
        self.describe(&mut report).await?;
        Ok(report)
    }

    /// The checkpoint, in the archive that it belongs to.
    async fn checkpoint(&self, states: &BTreeMap<TableName, TableState>) -> Result<Checkpoint> {
        let checkpoint = self.context.copy.checkpoint().await?;
        let reached = states.values().filter_map(|state| state.position).max().unwrap_or(Lsn::ZERO);
        if checkpoint.archive_id.is_none() && checkpoint.segment.is_none() && reached > Lsn::ZERO {
            return Err(Error::new(
                Kind::StateDamaged,
                format!("the checkpoint says that nothing was applied, but tables are at {reached}"),
            )
            .hint("restore data_sync_checkpoint from a backup of the same moment as the tables"));
        }

        let identity = self.context.source.identity().await?;
        match checkpoint.archive_id {
            Some(ours) if ours != identity.archive_id => Err(Error::new(
                Kind::Foreign,
                format!("{} holds archive {}, this copy belongs to {ours}", self.context.source.location(), identity.archive_id),
            )
            .hint("nothing was applied; check archive_dir. If production really has a new archive: resync --all --adopt")),
            Some(_) => Ok(checkpoint),
            None => {
                self.context.copy.adopt(identity.archive_id).await?;
                tracing::info!(archive = %identity.archive_id, location = self.context.source.location(), "archive adopted");
                Ok(Checkpoint { archive_id: Some(identity.archive_id), ..checkpoint })
            }
        }
    }

    /// The cache keeps what the live tables, or a table that lags, have still to take.
    fn sweep(&self, states: &BTreeMap<TableName, TableState>, checkpoint: &Checkpoint) -> Result<()> {
        let loading = states.values().filter(|state| state.state == State::Loading);
        let lagging = loading.map(|state| state.position.unwrap_or(Lsn::ZERO)).min();
        let applied = lagging.map_or(checkpoint.end_lsn(), |lagging| lagging.min(checkpoint.end_lsn()));
        self.context.source.sweep(|segment| segment.end_lsn > applied)
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
        if checkpoint.segment.is_none() {
            for table in self.starting_with_the_archive(states, checkpoint, view).await? {
                if let Some(reason) = self.context.copy.unfit_for_rows(&table).await? {
                    self.context.copy.change(&table, Event::LoadFails, Some(&reason)).await?;
                    self.context.tally.table_set_aside(&table, &reason);
                    continue;
                }
                // Rows that are here are not production's, which has none: it is loaded beside them. Where nobody can look,
                // whoever loads it says what is in the way.
                if self.context.copy.has_rows(&table).await? != Some(false) {
                    continue;
                }
                self.context.copy.begin(&table, Position { lsn: Lsn::ZERO, commit_time: None }).await?;
                tracing::info!(%table, "table starts from the archive's first segment");
            }
        }
        let is_loading = |state: &TableState| state.state == State::Loading && state.wants().is_none();
        let loading: Vec<TableName> =
            states.iter().filter(|(_, state)| is_loading(state)).map(|(table, _)| table.clone()).collect();
        if !loading.is_empty() {
            let done = catch_up(&mut self.context, checkpoint, &loading).await?;
            report.segments += done.segments;
            report.records += done.records;
        }
        Ok(())
    }

    /// Applies what the view shows. What head.json names and is not there as it says is looked for in the archive itself.
    async fn apply_all(
        &mut self,
        checkpoint: Checkpoint,
        view: &mut View,
        live: BTreeSet<TableName>,
        report: &mut Report,
    ) -> Result<Checkpoint> {
        let source = self.context.source;
        let stream = |checkpoint: &Checkpoint, view: &View| {
            let newest = view.head.as_ref().and_then(|head| head.newest);
            source.stream(view.tip, view.after(checkpoint), newest, live.clone())
        };
        self.context.tally.waits(view.after(&checkpoint).len(), view.size_after(&checkpoint));
        let first = stream(&checkpoint, view);
        match self.apply_stream(checkpoint, first, report).await {
            Err(error) if view.is_hint && is_about_the_archive(&error) => {
                tracing::warn!(error = %error.one_line(), "looking for what head.json names");
                let checkpoint = self.context.copy.checkpoint().await?;
                *view = View::of(source, &checkpoint, None).await?;
                self.context.tally.waits(view.after(&checkpoint).len(), view.size_after(&checkpoint));
                let again = stream(&checkpoint, view);
                self.apply_stream(checkpoint, again, report).await
            }
            applied => applied,
        }
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
        let snapshots = self.context.source.snapshots(archive_id).await?;
        let Some(&(day, name)) = view.after(checkpoint).first() else { return Ok(Vec::new()) };
        let first = self.context.source.manifest(&view.tip, day, name).await?;
        let (begins, since) = (first.manifest().start_lsn, &first.manifest().capture_since);
        let offer = Offer { snapshots: &snapshots, floor: view.floor(), reached: Lsn::ZERO, since };
        let starts = |&(table, want): &(&TableName, Want)| {
            // What is made anew must not be written over what is there. What began later is loaded by itself.
            want != Want::Rebuild && offer.choose(table, want) == Choice::Start(begins)
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
        let mut ahead = Ahead::new(stream, self.context.rules.apply_batch_changes, C::prepare)
            .of_one_shape(C::IS_OF_ONE_SHAPE);
        loop {
            let group = tokio::select! {
                next = ahead.group() => match next {
                    Some(group) => group?,
                    None => return Ok(checkpoint),
                },
                () = self.context.stop.asked() => return Ok(checkpoint),
            };
            if self.context.stop.is_asked() {
                return Ok(checkpoint);
            }
            checkpoint = match self.apply_group(&checkpoint, &group, Some(&mut ahead), report).await {
                // One of them is bad. Those before it are not, and do not wait for it.
                Err(error) if group.len() > 1 && is_about_a_segment(&error) => {
                    ahead.forget();
                    for one in group.chunks(1) {
                        if self.context.stop.is_asked() {
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
        ahead: Option<&mut Ahead<C::Prepared>>,
        report: &mut Report,
    ) -> Result<Checkpoint> {
        self.context.copy.make_way(group);
        let scope = Scope::Live(self.context.copy.group());
        let done = self.context.apply(checkpoint, &scope, group, ahead).await?;
        let last = group.last().expect("it has one");
        let checkpoint = Checkpoint::after(&last.segment);
        let sizes = group.iter().map(|fetched| Size::of(fetched.segment.manifest()));
        self.context.tally.waits_less(group.len(), sizes.fold(Size::default(), Size::and));
        self.context.copy.prove(&last.segment, &checkpoint).await;
        report.segments += group.len() as u64;
        report.records += done.records;
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
                self.context.copy.note_covered(head).await?;
            } else {
                tracing::warn!(
                    "head.json names another manifest than the one applied; its freshness is not taken"
                );
            }
        }
        Ok(())
    }

    async fn describe(&self, report: &mut Report) -> Result<()> {
        let states = self.context.copy.states().await?;
        let left = self.context.copy.left().await?;
        report.tables = states.len();
        for (table, state) in states {
            report.waits_for_base |= state.wants().is_some();
            if state.state != State::Live {
                report.unhealthy.insert(table, (state.state, state.reason.unwrap_or_default()));
            } else if let Some(words) = left.get(&table.to_string()) {
                report.unhealthy.insert(table, (State::Live, words.clone()));
            }
        }
        Ok(())
    }
}

fn is_about_a_segment(error: &Error) -> bool {
    error.kind().refuses_archive() || error.kind() == Kind::Rejected
}
