//! Loads tables of a DuckDB file from a base: each is made anew in one transaction, with its base and those changes that the
//! base may or may not have seen. What came later is applied by the next pass, as to every table that lags.
//!
//! ```text
//! snapshot parts ─▶ table ─▶ changes while the snapshot was taken, the seen ones left out ─▶ position: COMMIT
//! ```
//! Who reads the file reads a copy of it, so that nobody sees a table on its way. Passes wait meanwhile.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use syncdata_formats::chain::Verified;
use syncdata_formats::error::{Error, Kind, Result};
use syncdata_formats::layout::SegmentSeq;
use syncdata_formats::lsn::Lsn;
use syncdata_formats::manifest::{ChangeFile, Relation};
use syncdata_formats::name::TableName;
use syncdata_formats::snapshot::{Part, SnapshotManifest, pour};
use syncdata_service::daemon::Stop;
use syncdata_service::faults;
use syncdata_service::own_files;
use syncdata_service::progress::{Progress, Unit};
use uuid::Uuid;

use super::catch_up::{self, Known};
use super::{Base, Halt, LOG_REF, Loaded, Report};
use crate::apply::acks::Acks;
use crate::apply::reader::{Admission, Item, Reading, Task};
use crate::archive::fetch::{Fetched, FetchedPart};
use crate::archive::source::Source;
use crate::archive::stretch::stretch;
use crate::load::difference::Changes;
use crate::plan::offer::{self, Choice, Offer};
use crate::plan::position::{Checkpoint, Position};
use crate::plan::state::{Event, State, TableState};
use crate::table;
use crate::target::duckdb::{Duckdb, is_same_shape};
use crate::target::{Entry, Outcome, Target as _};

/// What a load works with.
#[derive(Debug)]
pub struct Loading<'a> {
    pub target: &'a mut Duckdb,
    pub source: &'a Source,
    pub stop: &'a Stop,
    pub acks: &'a Acks,
    /// Tells the archive how far this copy is.
    pub name: &'a str,
}

impl Loading<'_> {
    /// Loads what waits for a base.
    pub async fn run(mut self) -> Result<Report> {
        let mut report = Report::default();
        let states = self.target.table_states().await?;
        if !states.values().any(|state| state.wants().is_some()) {
            return Ok(report);
        }
        let checkpoint = self.target.checkpoint().await?;
        // The first pass has to meet the archive.
        let Some(archive_id) = checkpoint.archive_id else { return Ok(report) };
        let snapshots = self.source.snapshots(archive_id).await?;
        let floor = self.source.floor().await?;
        let since = self.target.capture_since().await?;
        let reached = self.target.reached().await?;
        let offer = Offer { snapshots: &snapshots, floor: floor.as_ref(), reached, since: &since };
        let mut bad = None;
        for (table, state) in &states {
            let Some(want) = state.wants() else { continue };
            if self.stop.is_asked() {
                report.stopped = true;
                break;
            }
            let base = match offer.choose(table, want) {
                Choice::Snapshot(snapshot) => Base::Snapshot(snapshot),
                Choice::Start(from) => Base::Start { from },
                Choice::Wait(id) => {
                    let reason = format!(
                        "waits until the archive covers snapshot {id}: the archiver's next poll does that"
                    );
                    self.wait(table, state, &reason).await?;
                    report.waiting.insert(table.clone(), reason);
                    continue;
                }
                Choice::Nothing(reason) => {
                    self.refuse(table, state, reason, &mut report).await?;
                    continue;
                }
            };
            match self.load(table, state, &base, &checkpoint).await {
                Ok((loaded, records)) => {
                    report.records += records;
                    report.loaded.insert(table.clone(), loaded);
                }
                Err(Halt::Refused(refusal)) => self.fail(table, state, &refusal.reason, &mut report).await?,
                // A damaged base is no reason to leave the tables that have another one.
                Err(Halt::Failed(error)) if error.kind().refuses_archive() => {
                    tracing::error!(base = base.name(), error = %error.one_line(), "the base cannot be used");
                    bad = bad.or(Some(error));
                }
                Err(Halt::Failed(_)) if self.stop.is_asked() => {
                    report.stopped = true;
                    break;
                }
                Err(Halt::Failed(error)) => return Err(error),
            }
        }
        self.source.forget()?;
        bad.map_or(Ok(report), Err)
    }

    async fn wait(&self, table: &TableName, state: &TableState, reason: &str) -> Result<()> {
        let now = state.state.after(Event::WaitsForBase)?;
        let is_known = now == state.state && state.reason.as_deref() == Some(reason);
        // A table that is live stays so until its new base is there.
        if is_known || now == State::Live {
            return Ok(());
        }
        self.target.change(table.clone(), Event::WaitsForBase, None, Some(reason.to_owned())).await
    }

    /// There is no base for it. A table that never had one goes on waiting, an operator's wish is answered.
    async fn refuse(
        &self,
        table: &TableName,
        state: &TableState,
        reason: String,
        report: &mut Report,
    ) -> Result<()> {
        if state.position.is_none() {
            self.wait(table, state, &reason).await?;
            report.waiting.insert(table.clone(), reason);
            return Ok(());
        }
        self.target.grant_nothing(table.clone(), state.load_asked).await?;
        self.target.log(Entry::failed(table, LOG_REF, &reason)).await?;
        report.refused.insert(table.clone(), reason);
        Ok(())
    }

    /// The table, or its base, is in the way. It is left as it was; one without a position is set aside, lest it be tried, in
    /// vain, with every pass.
    async fn fail(
        &self,
        table: &TableName,
        state: &TableState,
        reason: &str,
        report: &mut Report,
    ) -> Result<()> {
        tracing::error!(%table, reason, "Failed to apply changes: the table cannot be loaded");
        match state.position {
            None => {
                let reason = Some(reason.to_owned());
                self.target.change(table.clone(), Event::LoadFails, None, reason).await?;
            }
            Some(_) => self.target.grant_nothing(table.clone(), state.load_asked).await?,
        }
        self.target.log(Entry::failed(table, LOG_REF, reason)).await?;
        report.refused.insert(table.clone(), reason.to_owned());
        Ok(())
    }

    /// One table, in one transaction. How many changes of it that took beside the base.
    async fn load(
        &mut self,
        table: &TableName,
        state: &TableState,
        base: &Base,
        checkpoint: &Checkpoint,
    ) -> Result<(Loaded, u64), Halt> {
        if state.state == State::Pending && state.position.is_none() {
            let reason = Some(format!("is loaded from {}", base.name()));
            self.target.change(table.clone(), Event::LoadBegins, None, reason).await?;
        }
        if let Base::Snapshot(snapshot) = base {
            self.acks.load(Some(&snapshot.id));
            self.tell(checkpoint).await?;
        }
        tracing::info!(%table, base = base.name(), "loading a table");
        self.target.begin().await?;
        let done = self.in_transaction(table, state, base, checkpoint).await;
        self.acks.load(None);
        if done.is_err() {
            self.target.roll_back().await;
        }
        done
    }

    async fn tell(&self, checkpoint: &Checkpoint) -> Result<()> {
        let states = self.target.table_states().await?;
        self.acks.tell_as(self.source, self.name, checkpoint, &states).await;
        Ok(())
    }

    async fn in_transaction(
        &mut self,
        table: &TableName,
        state: &TableState,
        base: &Base,
        checkpoint: &Checkpoint,
    ) -> Result<(Loaded, u64), Halt> {
        let known = base.known();
        let later = match checkpoint.segment {
            Some(own) if own.end_lsn > known.upto => {
                let archive_id = checkpoint.archive_id.unwrap_or(Uuid::nil());
                stretch(self.source, archive_id, own.link, own.end_lsn, known.upto).await?
            }
            _ => Vec::new(),
        };
        check_whole(table, base, &later)?;
        let (position, inserted, records) = match base {
            Base::Snapshot(snapshot) => {
                let rows = self.copy(table, snapshot).await?;
                faults::pass("load.filled").await?;
                let (position, records) = self.catch_up(table, snapshot, &known, &later).await?;
                (position.max(checkpoint_of(snapshot, checkpoint)), rows, records)
            }
            Base::Start { from } => {
                self.empty(table, *from, &later).await?;
                (*from, 0, 0)
            }
        };
        let commit_time = match base {
            Base::Snapshot(snapshot) => Some(snapshot.taken_at),
            Base::Start { .. } => None,
        };
        let from = match base {
            Base::Snapshot(snapshot) => snapshot.start_lsn,
            Base::Start { from } => *from,
        };
        let at = Position { lsn: position, commit_time };
        let started = Position { lsn: from, commit_time: None };
        self.target.end_base(table.clone(), at, started, state.load_asked).await?;
        faults::hit("load.before_commit")?;
        self.target.commit_base().await?;
        let changes = Changes { inserted, ..Changes::default() };
        Ok((Loaded { base: base.name(), changes, position }, records))
    }

    /// The rows of the snapshot.
    async fn copy(&mut self, table: &TableName, snapshot: &SnapshotManifest) -> Result<u64, Halt> {
        let copied = &snapshot.tables[table];
        let begun = self.target.begin_base(table.clone(), copied.relation.clone()).await?;
        begun.map_err(|difference| Halt::refused(table, difference))?;
        let mut progress =
            Progress::start(format!("loading {table}"), Unit::Bytes, Some(copied.content_bytes));
        let mut rows = 0;
        for part in &copied.parts {
            if self.stop.is_asked() {
                return Err(Error::new(Kind::Locked, "stopped while a base copy was loaded").into());
            }
            let fetched = self.source.part(part).await?;
            let lines = lines(part.clone(), &fetched).await?;
            let appended = self.target.append_base(table.clone(), copied.columns.clone(), lines).await?;
            let appended = appended.map_err(|difference| Halt::refused(table, difference))?;
            if appended != part.rows {
                let what = format!("a part of {} rows had {appended}", part.rows);
                return Err(Error::new(Kind::Corrupt, what).into());
            }
            rows += appended;
            progress.add_rows(appended);
            progress.add(part.content_bytes);
            fetched.clean()?;
        }
        progress.finish();
        Ok(rows)
    }

    /// The table without rows, as it is described first.
    async fn empty(&mut self, table: &TableName, from: Lsn, later: &[Verified]) -> Result<(), Halt> {
        let manifests = later.iter().map(Verified::manifest).filter(|manifest| manifest.end_lsn > from);
        let Some(relation) = manifests.filter_map(|manifest| manifest.relations.get(table)).next() else {
            // It is made with its first change.
            return Ok(self.target.forget_base(table.clone()).await?);
        };
        let begun = self.target.begin_base(table.clone(), relation.clone()).await?;
        begun.map_err(|difference| Halt::refused(table, difference))
    }

    /// Changes of the segments that the snapshot may have seen, but for those that it has; up to where that is.
    async fn catch_up(
        &mut self,
        table: &TableName,
        snapshot: &SnapshotManifest,
        known: &Known,
        later: &[Verified],
    ) -> Result<(Lsn, u64), Halt> {
        let relation = Arc::new(snapshot.tables[table].relation.clone());
        let (mut position, mut records) = (Lsn::ZERO, 0);
        let overlapping = later.iter().filter(|segment| segment.manifest().start_lsn < snapshot.end_lsn);
        for segment in overlapping {
            let manifest = segment.manifest();
            position = manifest.end_lsn;
            if !manifest.tables.contains_key(table) {
                continue;
            }
            if let Some(other) = manifest.relations.get(table)
                && !is_same_shape(other, &relation)
            {
                let what = format!(
                    "the table became another one while snapshot {} was taken; a newer base copy is needed, {}",
                    snapshot.id,
                    offer::take_snapshot(table)
                );
                return Err(Halt::refused(table, what));
            }
            let fetched = self.source.fetch_file(segment.clone()).await?;
            records += self.apply(table, &relation, known, &fetched).await?;
            fetched.clean()?;
        }
        Ok((position, records))
    }

    async fn apply(
        &mut self,
        name: &TableName,
        relation: &Arc<Relation>,
        known: &Known,
        fetched: &Fetched,
    ) -> Result<u64, Halt> {
        let Some(file) = &fetched.file else { return Ok(0) };
        let mut tables = self.target.loaded_base(name.clone()).await?;
        let local =
            tables.remove(name).ok_or_else(|| Error::new(Kind::NotFound, format!("{name} is not there")))?;
        let manifest = fetched.segment.manifest();
        let relation =
            manifest.relations.get(name).map_or_else(|| Arc::clone(relation), |it| Arc::new(it.clone()));
        let target =
            table::fit_of_changes(&relation, &local).map_err(|difference| Halt::refused(name, difference))?;
        let (from, skip) = match known.reaches_into(manifest) {
            true => catch_up::passed_over(fetched, file, known)?,
            false => (0, HashSet::new()),
        };
        let admission = Admission { target: Arc::new(target), relation, from, until: None, skip };
        let task = Task {
            segment: fetched.segment.clone(),
            file: file.clone(),
            line_bytes_max: fetched.line_bytes_max,
            admitted: HashMap::from([(name.to_string(), admission)]),
            held: HashMap::new(),
        };
        let mut reading = Reading::start(vec![task], Duckdb::prepare)?;
        let (mut records, mut is_whole) = (0, false);
        while let Some(item) = reading.next().await {
            match item? {
                Item::Batch { netting, .. } => match self.target.write(&*netting.prepared().await?).await? {
                    Outcome::Applied(found) => {
                        let missing: u64 = found.values().map(|found| found.missing).sum();
                        if missing > 0 {
                            tracing::warn!(table = %name, rows = missing, "rows to update or delete were not in the base");
                        }
                    }
                    Outcome::Rejected(rejection) => {
                        let (seq, line) = (rejection.place.tx.seq, rejection.place.line);
                        return Err(Halt::refused(
                            name,
                            format!("segment {seq}, line {line}: {}", rejection.words()),
                        ));
                    }
                },
                Item::Segment(end) => {
                    is_whole = true;
                    records += end.counts.values().map(|counts| counts.total()).sum::<u64>();
                }
                Item::Held { .. } => return Err(Halt::refused(name, "it is held up by other tables")),
                Item::Lacking { difference, .. } => return Err(Halt::refused(name, difference)),
            }
        }
        match is_whole {
            true => Ok(records),
            false => Err(Error::new(Kind::Io, "the reader ended early").into()),
        }
    }
}

/// Where the copy is, when a snapshot has all of that.
fn checkpoint_of(snapshot: &SnapshotManifest, checkpoint: &Checkpoint) -> Lsn {
    match checkpoint.segment {
        // Nothing had happened between the last segment and the snapshot, or it would be in a later one.
        Some(own) if own.end_lsn <= snapshot.end_lsn => own.end_lsn,
        Some(_) => snapshot.start_lsn,
        None => snapshot.end_lsn,
    }
}

/// The part's lines, proved on a thread of their own.
async fn lines(part: Part, fetched: &FetchedPart) -> Result<Vec<u8>> {
    let paths = fetched.files.clone();
    let pouring = tokio::task::spawn_blocking(move || {
        let mut next = paths.into_iter();
        let open = |_: &ChangeFile| {
            let path = next.next().ok_or_else(|| Error::new(Kind::Io, "a part lost a file"))?;
            own_files::read_plain(&path)
        };
        let mut lines = Vec::new();
        pour(&part, open, |piece| {
            lines.extend_from_slice(piece);
            Ok(())
        })?;
        Ok(lines)
    });
    pouring.await.map_err(|_| Error::new(Kind::Io, "unpacking a part panicked"))?
}

/// Nothing between the base and the checkpoint may be missing.
fn check_whole(table: &TableName, base: &Base, later: &[Verified]) -> Result<(), Halt> {
    let known = base.known();
    let begins_late = |first: &Verified| {
        let is_first = matches!(base, Base::Start { .. }) && first.manifest().seq == SegmentSeq::FIRST;
        first.manifest().start_lsn > known.upto && !is_first
    };
    if let Some(first) = later.first().filter(|first| begins_late(first)) {
        let message = format!(
            "the archive begins at {}, after {}, which needs all from {} on",
            first.manifest().start_lsn,
            base.name(),
            known.upto
        );
        return Err(Error::new(Kind::Foreign, message)
            .hint("take a new snapshot: syncdata-archiver snapshot, on the production host")
            .into());
    }
    if let Some(lost) = catch_up::lost(later, table, known.upto) {
        return Err(Halt::refused(table, lost));
    }
    let from_snapshot = matches!(base, Base::Snapshot(_));
    let mut manifests = later.iter().map(Verified::manifest);
    match manifests.find(|manifest| from_snapshot && !manifest.capture.contains(table)) {
        Some(manifest) => Err(Halt::refused(
            table,
            format!(
                "segment {} did not capture it, though it is newer than the base: capture it (tables), then take a new \
                 snapshot",
                manifest.seq
            ),
        )),
        None => Ok(()),
    }
}
