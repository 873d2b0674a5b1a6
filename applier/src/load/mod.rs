//! Loads tables from a base: makes each anew in a shadow, catches up with the others, and brings the difference over
//! in one transaction.
//!
//! ```text
//! snapshot parts ─▶ shadow ─▶ index ─▶ changes behind the snapshot ─▶ ┐ no pass meanwhile:
//! (or the changes since segment 1)     (again, while others move on)  └▶ last changes ─▶ difference, position: COMMIT
//! ```
//! Until that commit readers see the old rows, and the other tables go on. Killed anywhere before it, nothing has
//! happened; after it, all has.

mod difference;
mod parts;
mod plan;
pub(crate) mod replay;
pub(crate) mod shadow;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Instant;

use bytesize::ByteSize;
use syncdata_shared::chain::Verified;
use syncdata_shared::config::Config;
use syncdata_shared::daemon::Stop;
use syncdata_shared::error::Context;
use syncdata_shared::faults;
use syncdata_shared::lsn::Lsn;
use syncdata_shared::manifest::OpCounts;
use syncdata_shared::name::TableName;
use syncdata_shared::progress::{Progress, Unit};
use syncdata_shared::snapshot::SnapshotManifest;
use syncdata_shared::time::Day;
use tokio::sync::Mutex;

pub use self::difference::Changes;
pub(crate) use self::difference::Pair;
pub(crate) use self::plan::{Choice, Offer};
use self::replay::Refusal;
pub(crate) use self::replay::{Copy, Known};
use crate::acks::Acks;
use crate::apply::{FREE_PLANS, Writer};
use crate::catch_up;
use crate::cursor::{self, Checkpoint, State, TableState, Want};
use crate::error::{Error, Kind, Result};
use crate::fetch::Source;
use crate::ledger::{self, Entry};
use crate::local::Local;
use crate::plan::not_found;
use crate::range::CLOCK_DAYS;
use crate::schema::{self, Table};
use crate::{quarantine, runner};

/// Rows of the tables that are loaded together; a larger table is loaded alone.
const GROUP_BYTES_MAX: u64 = 8 << 30;

/// What data_sync_logs names where a base could not be loaded.
pub const LOG_REF: &str = "base copy";

/// What the tables that waited for a base came to.
#[derive(Clone, Debug, Default)]
pub struct Report {
    pub loaded: BTreeMap<TableName, Loaded>,
    /// Those that cannot be loaded as they are, with the reason.
    pub refused: BTreeMap<TableName, String>,
    /// Those whose base is still ahead of this copy, with the reason.
    pub waiting: BTreeMap<TableName, String>,
    /// Records of segments that were applied.
    pub records: u64,
    /// Somebody asked to stop.
    pub stopped: bool,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Loaded {
    /// The snapshot's id, or the first segment.
    pub base: String,
    pub changes: Changes,
    pub position: Lsn,
}

/// What the base of a group of tables is.
#[derive(Clone, Debug)]
pub(crate) enum Base {
    Snapshot(Arc<SnapshotManifest>),
    /// Everything since the archive's first segment; over the rows that are there, or in place of them.
    Start {
        over: bool,
    },
}

/// Loads what waits for a base. One loader at a time in a database; passes go on beside it until it commits.
/// `turn` keeps the passes of this process out meanwhile, so that they need not wait for the lock in vain.
pub async fn run(config: &Config, stop: &Stop, turn: &Mutex<()>, acks: &Acks) -> Result<Report> {
    let mut report = Report::default();
    let local = Local::open_for_pass(config).await?;
    let states = cursor::table_states(local.session.client(), &local.meta).await?;
    if !states.values().any(|state| state.wants().is_some()) {
        return Ok(report);
    }
    local.lock_load().await?;
    let source = runner::source_of_load(config)?;
    let checkpoint = Checkpoint::read(local.session.client(), &local.meta).await?;
    // The first pass has to meet the archive.
    let Some(archive_id) = checkpoint.archive_id else { return Ok(report) };
    let snapshots = source.snapshots(archive_id).await?;
    let floor = source.floor().await?;
    let reached = cursor::reached(local.session.client(), &local.meta).await?;
    let offer = Offer { snapshots: &snapshots, floor: floor.as_ref(), reached };
    let mut loader = Loader { local: &local, source: &source, config, stop, turn, report: &mut report };
    let mut bad = None;
    let chosen = loader.choose(&states, &offer).await?;
    let groups = chosen.iter().flat_map(|(base, tables)| {
        let groups = in_groups(base, tables, local.replica);
        groups.into_iter().map(move |group| (base, group))
    });
    for (base, tables) in groups {
        if let Base::Snapshot(snapshot) = base {
            acks.load(Some(&snapshot.id));
            acks.tell(&local, &source).await;
        }
        let done = loader.load(base, &tables).await;
        acks.load(None);
        match done {
            Ok(()) => {}
            // A damaged base is no reason to leave the tables that have another one.
            Err(error) if error.kind() == Kind::ArchiveRefused => {
                tracing::error!(base = base.name(), error = %error.one_line(), "the base cannot be used");
                local.session.client().batch_execute("ROLLBACK").await.context(|| "ROLLBACK".to_owned())?;
                bad = bad.or(Some(error));
            }
            Err(error) => return Err(error),
        }
        if loader.report.stopped {
            break;
        }
    }
    source.forget()?;
    bad.map_or(Ok(report), Err)
}

/// What loading a new table will come to, in words. `Err`: there is no such base.
pub async fn foresee(
    config: &Config,
    local: &Local,
    tables: &[TableName],
    want: Want,
) -> Result<Vec<(TableName, Result<String, String>)>> {
    let source = runner::source(config)?;
    let identity = source.identity().await?;
    let snapshots = source.snapshots(identity.archive_id).await?;
    let (floor, listing) = (source.floor().await?, source.list(None).await?);
    let reached = cursor::reached(local.session.client(), &local.meta).await?;
    // A copy that has nothing yet gets as far as the archive before it loads.
    let newest = listing.values().flatten().map(|(_, name)| name.end_lsn).max();
    let head = source.head().await?.map(|head| head.covered_lsn);
    let reached = reached.max(newest.unwrap_or(Lsn::ZERO)).max(head.unwrap_or(Lsn::ZERO));
    let offer = Offer { snapshots: &snapshots, floor: floor.as_ref(), reached };
    let behind = |from: Lsn| listing.values().flatten().filter(|(_, name)| name.end_lsn > from).count();
    let words = |table: &TableName| match offer.choose(table, want) {
        Choice::Snapshot(snapshot) => {
            let copy = &snapshot.tables[table];
            Ok(format!(
                "is loaded from snapshot {} of {} ({} rows, {}), then {} segments behind it",
                snapshot.id,
                snapshot.taken_at,
                copy.rows,
                ByteSize(copy.content_bytes),
                behind(snapshot.start_lsn)
            ))
        }
        Choice::Start => {
            Ok(format!("starts with the archive's first segment: {} segments", behind(Lsn::ZERO)))
        }
        Choice::Wait(id) => Ok(format!("is loaded from snapshot {id} once the archive covers it")),
        Choice::Nothing(reason) => Err(reason),
    };
    Ok(tables.iter().map(|table| (table.clone(), words(table))).collect())
}

/// What is loaded together: changes behind the base are read once for all of it, and its shadows need room at the same
/// time. Without the replica role foreign keys tie all tables together.
fn in_groups(base: &Base, tables: &[TableName], replica: bool) -> Vec<Vec<TableName>> {
    let bytes_of = |table: &TableName| match base {
        Base::Snapshot(snapshot) => snapshot.tables.get(table).map_or(0, |copy| copy.content_bytes),
        Base::Start { .. } => 0,
    };
    let mut groups: Vec<Vec<TableName>> = Vec::new();
    let mut bytes = 0;
    for table in tables {
        let more = bytes_of(table);
        match groups.last_mut() {
            Some(group) if !replica || bytes + more <= GROUP_BYTES_MAX => {
                group.push(table.clone());
                bytes += more;
            }
            _ => {
                groups.push(vec![table.clone()]);
                bytes = more;
            }
        }
    }
    groups
}

struct Loader<'a> {
    local: &'a Local,
    source: &'a Source,
    config: &'a Config,
    stop: &'a Stop,
    turn: &'a Mutex<()>,
    report: &'a mut Report,
}

impl Base {
    pub(crate) fn known(&self) -> Known {
        match self {
            Base::Snapshot(snapshot) => {
                Known { upto: snapshot.start_lsn, snapshot: Some(Arc::clone(snapshot)), until: None }
            }
            Base::Start { .. } => Known { upto: Lsn::ZERO, snapshot: None, until: None },
        }
    }

    /// The first folder that may hold changes behind it: what was seen committed before it was taken, and clocks go back.
    pub(crate) fn first_day(&self) -> Option<Day> {
        match self {
            Base::Snapshot(snapshot) => Some(snapshot.taken_at.day().days_before(CLOCK_DAYS)),
            Base::Start { .. } => None,
        }
    }

    pub(crate) fn name(&self) -> String {
        match self {
            Base::Snapshot(snapshot) => format!("snapshot {}", snapshot.id),
            Base::Start { .. } => "segment 1".to_owned(),
        }
    }

    /// Everything up to here is in what it makes, changes included.
    fn end(&self) -> Lsn {
        match self {
            Base::Snapshot(snapshot) => snapshot.end_lsn,
            Base::Start { .. } => Lsn::ZERO,
        }
    }
}

impl Loader<'_> {
    /// The tables by their base; the others are told what they wait for.
    async fn choose(
        &mut self,
        states: &BTreeMap<TableName, TableState>,
        offer: &Offer<'_>,
    ) -> Result<Vec<(Base, Vec<TableName>)>> {
        let mut groups: BTreeMap<String, (Base, Vec<TableName>)> = BTreeMap::new();
        for (table, state) in states {
            let Some(want) = state.wants() else { continue };
            let base = match offer.choose(table, want) {
                Choice::Snapshot(snapshot) => Base::Snapshot(snapshot),
                Choice::Start => Base::Start { over: want != Want::Rebuild },
                Choice::Wait(id) => {
                    let reason = format!(
                        "waits until the archive covers snapshot {id}: the archiver's next poll does that"
                    );
                    self.note(table, state, &reason).await?;
                    self.report.waiting.insert(table.clone(), reason);
                    continue;
                }
                Choice::Nothing(reason) => {
                    self.refuse(table, state, &reason).await?;
                    continue;
                }
            };
            let key = format!("{base:?}");
            groups.entry(key).or_insert_with(|| (base, Vec::new())).1.push(table.clone());
        }
        Ok(groups.into_values().collect())
    }

    /// One group, which is brought over in one transaction.
    async fn load(&mut self, base: &Base, tables: &[TableName]) -> Result<()> {
        let started = Instant::now();
        let states = cursor::table_states(self.local.session.client(), &self.local.meta).await?;
        for table in tables {
            let is_first = |state: &TableState| state.state == State::Pending && state.position.is_none();
            if states.get(table).is_some_and(is_first) {
                let reason = format!("is loaded from {}", base.name());
                let (client, meta) = (self.local.session.client(), &self.local.meta);
                cursor::set_state(client, meta, table, State::Loading, None, Some(&reason)).await?;
            }
        }
        tracing::info!(base = base.name(), tables = tables.len(), "loading tables");
        let mut work = Work { base, known: base.known(), copies: BTreeMap::new(), records: BTreeMap::new() };
        let mut writer = Writer::new(self.local.replica);
        self.make_shadows(&mut work, tables).await?;
        // The others move on meanwhile: again, until nothing is left.
        while !work.copies.is_empty() && self.catch_up(&mut work, &mut writer).await? {}
        if work.copies.is_empty() || self.report.stopped {
            return Ok(());
        }
        let _turn = self.turn.lock().await;
        self.local.lock_pass().await?;
        // After an error the lock goes with the session, or with the next group's.
        self.bring_over(&mut work, &mut writer, started).await?;
        self.local.unlock_pass().await
    }

    /// Rows of the base, with the key that changes are applied by.
    async fn make_shadows(&mut self, work: &mut Work<'_>, tables: &[TableName]) -> Result<()> {
        let client = self.local.session.client();
        let loaded = schema::load(client, tables).await?;
        for (number, name) in tables.iter().enumerate() {
            if self.must_stop() {
                return Ok(());
            }
            let Some(table) = loaded.get(name) else {
                self.fail(name, &not_found(name).to_string()).await?;
                continue;
            };
            let table = Arc::new(table.clone());
            let shadow = shadow::make(client, &table, number).await?;
            match fill(self.local, self.source, work.base, &table, shadow).await? {
                Ok(copy) => {
                    work.copies.insert(name.clone(), copy);
                }
                Err(reason) => self.fail(name, &reason).await?,
            }
            faults::hit("load.filled")?;
        }
        Ok(())
    }

    /// Applies what the shadows lack up to the checkpoint. False: it was nothing.
    async fn catch_up(&mut self, work: &mut Work<'_>, writer: &mut Writer) -> Result<bool> {
        let checkpoint = Checkpoint::read(self.local.session.client(), &self.local.meta).await?;
        let Some(own) = checkpoint.segment else { return Ok(false) };
        if own.end_lsn <= work.known.upto {
            return Ok(false);
        }
        let segments = catch_up::chain(self.source, &checkpoint, own, work.known.upto).await?;
        self.check_whole(work, &segments).await?;
        let mut group = Vec::new();
        let mut segments = segments.into_iter().peekable();
        while let Some(segment) = segments.next() {
            let has_ours = segment.manifest().tables.keys().any(|table| work.copies.contains_key(table));
            let end = segment.manifest().end_lsn;
            if has_ours {
                group.push(self.source.fetch_file(segment).await?);
            }
            let records: u64 = group.iter().map(|fetched| fetched.segment.manifest().records).sum();
            let limit = u64::from(self.config.apply_batch_changes.get());
            let next_fits = segments.peek().is_some_and(|next| self.source.has_room_for(next));
            if next_fits && records < limit && group.len() < catch_up::GROUP_SEGMENTS_MAX {
                continue;
            }
            self.replay(work, writer, &group).await?;
            group.drain(..).try_for_each(|fetched| fetched.clean())?;
            work.known.upto = work.known.upto.max(end);
            if work.copies.is_empty() || self.must_stop() {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Nothing between the base and the checkpoint may be missing.
    async fn check_whole(&mut self, work: &mut Work<'_>, segments: &[Verified]) -> Result<()> {
        if let (Some(first), Base::Snapshot(snapshot)) = (segments.first(), work.base)
            && first.manifest().start_lsn > work.known.upto
        {
            let message = format!(
                "the archive begins at {}, behind snapshot {}, which needs all from {} on",
                first.manifest().start_lsn,
                snapshot.id,
                snapshot.start_lsn
            );
            return Err(Error::new(Kind::ArchiveRefused, message)
                .hint("take a new snapshot: syncdata-archiver snapshot, on the production host"));
        }
        let from_snapshot = matches!(work.base, Base::Snapshot(_));
        let names: Vec<TableName> = work.copies.keys().cloned().collect();
        for table in names {
            let uncaptured = segments
                .iter()
                .map(Verified::manifest)
                .find(|manifest| from_snapshot && !manifest.capture.contains(&table));
            let reason = match (replay::lost(segments, &table, work.known.upto), uncaptured) {
                (Some(lost), _) => lost,
                (None, Some(manifest)) => format!(
                    "segment {} did not capture it, though it is newer than the base: capture it (tables), then take a \
                     new snapshot",
                    manifest.seq
                ),
                (None, None) => continue,
            };
            work.copies.remove(&table);
            self.fail(&table, &reason).await?;
        }
        Ok(())
    }

    /// A table that cannot take its changes leaves; the others take theirs again without it.
    async fn replay(
        &mut self,
        work: &mut Work<'_>,
        writer: &mut Writer,
        group: &[crate::fetch::Fetched],
    ) -> Result<()> {
        let session = &self.local.session;
        while !group.is_empty() && !work.copies.is_empty() {
            control(session.client(), "BEGIN").await?;
            writer.begin(session.client()).await?;
            match replay::replay(session, writer, group, &work.known, &mut work.copies).await? {
                Ok(done) => {
                    control(session.client(), "COMMIT").await?;
                    self.report.records += done.records;
                    return self.look_at_missing(work, done.missing).await.inspect(|()| {
                        for fetched in group {
                            work.count(fetched.segment.manifest());
                        }
                    });
                }
                Err(Refusal { table, reason }) => {
                    control(session.client(), "ROLLBACK").await?;
                    work.copies.remove(&table);
                    self.fail(&table, &reason).await?;
                }
            }
        }
        Ok(())
    }

    /// A table that is made anew from changes alone must not lack rows: those that are older than the archive.
    async fn look_at_missing(
        &mut self,
        work: &mut Work<'_>,
        missing: BTreeMap<TableName, u64>,
    ) -> Result<()> {
        for (table, rows) in missing {
            if matches!(work.base, Base::Start { over: false }) {
                work.copies.remove(&table);
                let reason = format!(
                    "{rows} changes of rows that the archive never inserted: it does not reach back to them. Run \
                     `syncdata-archiver snapshot` on the production host"
                );
                self.fail(&table, &reason).await?;
            } else {
                tracing::warn!(%table, rows, "rows to update or delete were not in the base");
            }
        }
        Ok(())
    }

    /// The last changes, the difference, the positions: one transaction. No pass runs meanwhile.
    async fn bring_over(&mut self, work: &mut Work<'_>, writer: &mut Writer, started: Instant) -> Result<()> {
        while self.catch_up(work, writer).await? {}
        if work.copies.is_empty() || self.report.stopped {
            return Ok(());
        }
        let (client, meta) = (self.local.session.client(), &self.local.meta);
        let checkpoint = Checkpoint::read(client, meta).await?;
        control(client, "BEGIN").await?;
        writer.begin(client).await?;
        control(client, FREE_PLANS).await?;
        checkpoint.claim(client, meta).await?;
        let position = checkpoint.end_lsn().max(work.base.end());
        let names: Vec<TableName> = work.copies.keys().cloned().collect();
        let (mut loaded, mut refused) = (BTreeMap::new(), BTreeMap::new());
        for name in names {
            match self.bring_one_over(work, writer, &name).await? {
                Ok(changes) => {
                    let loaded_now = Loaded { base: work.base.name(), changes, position };
                    loaded.insert(name, loaded_now);
                }
                Err(reason) => {
                    refused.insert(name, reason);
                }
            }
        }
        let taken_at = match work.base {
            Base::Snapshot(snapshot) => Some(snapshot.taken_at),
            Base::Start { .. } => None,
        };
        for table in loaded.keys() {
            cursor::note_loaded(client, meta, table, position, taken_at).await?;
            quarantine::forget(client, meta, table).await?;
        }
        let entries: Vec<Entry> = loaded.iter().map(|(table, loaded)| entry(table, loaded)).collect();
        ledger::log(client, meta, &entries, started.elapsed()).await?;
        faults::hit("load.before_commit")?;
        control(client, "COMMIT").await?;
        faults::hit("load.after_commit")?;
        for (table, done) in &loaded {
            let Changes { inserted, updated, deleted } = done.changes;
            tracing::info!(%table, base = done.base, lsn = %position, inserted, updated, deleted, "table is live");
        }
        self.report.loaded.extend(loaded);
        for (table, reason) in refused {
            self.fail(&table, &reason).await?;
        }
        Ok(())
    }

    async fn bring_one_over(
        &self,
        work: &Work<'_>,
        writer: &Writer,
        name: &TableName,
    ) -> Result<Result<Changes, String>> {
        let client = self.local.session.client();
        let copy = &work.copies[name];
        if matches!(work.base, Base::Start { .. }) && !work.records.contains_key(name) {
            // A table that is silent since the archive began is as it was before: in a base copy, or nowhere.
            return Ok(match work.base {
                Base::Start { over: true } => Ok(Changes::default()),
                _ => Err(
                    "the archive has no change of it since its first segment: nobody knows its rows. Run \
                     `syncdata-archiver snapshot` on the production host"
                        .to_owned(),
                ),
            });
        }
        let target = schema::fit(&copy.relation, &copy.table);
        let target = match target {
            Ok(target) => target,
            Err(difference) => return Ok(Err(difference.to_string())),
        };
        let pair = Pair {
            table: &copy.table,
            shadow: &copy.shadow,
            key: if target.key.arbiter { &target.key.columns } else { &[] },
            columns: copy.columns.clone(),
            replica: self.local.replica,
        };
        control(client, "SAVEPOINT syncdata_table").await?;
        let brought = match pair.bring_over(client).await {
            Ok(changes) if writer.duplicates(client, &copy.table).await? => {
                tracing::debug!(table = %name, rows = changes.total(), "brought over in vain");
                Err("two rows have the same value in a deferrable unique constraint".to_owned())
            }
            Ok(changes) => Ok(changes),
            Err(error) => {
                let error = Error::from(error);
                if !is_of_a_row(&error) {
                    return Err(error);
                }
                Err(error.one_line())
            }
        };
        if brought.is_err() {
            control(client, "ROLLBACK TO SAVEPOINT syncdata_table").await?;
        }
        Ok(brought)
    }

    fn must_stop(&mut self) -> bool {
        self.report.stopped |= self.stop.is_asked();
        self.report.stopped
    }

    async fn note(&self, table: &TableName, state: &TableState, reason: &str) -> Result<()> {
        let now = match state.state {
            // A load that was interrupted.
            State::Loading => State::Pending,
            other => other,
        };
        let is_known = now == state.state && state.reason.as_deref() == Some(reason);
        // A table that is live stays so until its new base is there.
        if is_known || now == State::Live {
            return Ok(());
        }
        let (client, meta) = (self.local.session.client(), &self.local.meta);
        cursor::set_state(client, meta, table, now, None, Some(reason)).await
    }

    /// There is no base for it. A table that never had one goes on waiting, an operator's wish is answered.
    async fn refuse(&mut self, table: &TableName, state: &TableState, reason: &str) -> Result<()> {
        let (client, meta) = (self.local.session.client(), &self.local.meta);
        if state.position.is_some() {
            cursor::want(client, meta, table, None).await?;
            self.log_failure(table, reason).await?;
        } else {
            self.note(table, state, reason).await?;
        }
        self.report.refused.insert(table.clone(), reason.to_owned());
        Ok(())
    }

    /// The table itself is in the way. It is left as it was; one without a position is set aside, lest it be tried, in
    /// vain, with every pass.
    async fn fail(&mut self, table: &TableName, reason: &str) -> Result<()> {
        let (client, meta) = (self.local.session.client(), &self.local.meta);
        tracing::error!(%table, reason, "Failed to apply changes: the table cannot be loaded");
        let states = cursor::table_states(client, meta).await?;
        if states.get(table).is_some_and(|state| state.position.is_none()) {
            cursor::set_state(client, meta, table, State::Quarantined, None, Some(reason)).await?;
        } else {
            cursor::want(client, meta, table, None).await?;
        }
        self.log_failure(table, reason).await?;
        self.report.refused.insert(table.clone(), reason.to_owned());
        Ok(())
    }

    async fn log_failure(&self, table: &TableName, reason: &str) -> Result<()> {
        let (client, meta) = (self.local.session.client(), &self.local.meta);
        let entry = Entry {
            table: table.clone(),
            archive_ref: LOG_REF.to_owned(),
            counts: OpCounts::default(),
            missing: 0,
            transfer: std::time::Duration::ZERO,
            error: Some(format!("Failed to apply changes: {reason}")),
        };
        ledger::log(client, meta, &[entry], std::time::Duration::ZERO).await
    }
}

/// `Err`: why the table cannot hold the base.
pub(crate) async fn fill(
    local: &Local,
    source: &Source,
    base: &Base,
    table: &Arc<Table>,
    shadow: Arc<Table>,
) -> Result<Result<Copy, String>> {
    let client = local.session.client();
    let (relation, columns) = match base {
        Base::Snapshot(snapshot) => {
            let copy = &snapshot.tables[&table.name];
            let statement = match (schema::fit(&copy.relation, table), parts::statement(copy, &shadow)) {
                (Ok(_), Ok(statement)) => statement,
                (Err(difference), _) => return Ok(Err(difference.to_string())),
                (_, Err(difference)) => {
                    // It names the shadow; the column is the table's.
                    let what = difference.what.replace(&shadow.name.to_string(), &table.name.to_string());
                    let remedy = difference.remedy.replace(&shadow.name.sql(), &table.name.sql());
                    return Ok(Err(format!("{what}; run: {remedy}")));
                }
            };
            let job = format!("loading {} from {}", table.name, base.name());
            let mut progress = Progress::start(job, Unit::Bytes, Some(copy.content_bytes));
            let copied = parts::copy_in(client, source, copy, &statement, &mut progress).await;
            match copied {
                Ok(()) => {}
                Err(error) if is_of_a_row(&error) => return Ok(Err(error.one_line())),
                Err(error) => return Err(error),
            }
            progress.finish();
            let places = copy.columns.iter().filter_map(|name| table.column(name));
            let columns = places.filter(|column| !table.columns[*column].generated).collect();
            (copy.relation.clone(), columns)
        }
        Base::Start { over } => {
            if *over {
                shadow::seed(client, table, &shadow).await?;
            }
            // What it was at the source, its first segment says.
            (crate::plan::as_local(table), Vec::new())
        }
    };
    let relation = Arc::new(relation);
    let target = match schema::fit(&relation, &shadow) {
        Ok(target) => target,
        Err(difference) => return Ok(Err(difference.to_string())),
    };
    let shadow = shadow::index(client, &shadow, &target).await?;
    Ok(Ok(Copy { table: Arc::clone(table), shadow, relation, columns }))
}

/// A group of tables under way.
struct Work<'a> {
    base: &'a Base,
    known: Known,
    copies: BTreeMap<TableName, Copy>,
    /// Changes of each table that were applied over the base.
    records: BTreeMap<TableName, u64>,
}

impl Work<'_> {
    fn count(&mut self, manifest: &syncdata_shared::manifest::Manifest) {
        for (table, counts) in manifest.tables.iter().filter(|(table, _)| self.copies.contains_key(*table)) {
            *self.records.entry(table.clone()).or_default() += counts.total();
        }
    }
}

fn entry(table: &TableName, loaded: &Loaded) -> Entry {
    let Changes { inserted, updated, deleted } = loaded.changes;
    Entry {
        table: table.clone(),
        archive_ref: loaded.base.clone(),
        counts: OpCounts { insert: inserted, update: updated, delete: deleted, truncate: 0 },
        missing: 0,
        transfer: std::time::Duration::ZERO,
        error: None,
    }
}

/// Whether the server refused a row: then the table has to be mended, and trying again does not help.
fn is_of_a_row(error: &Error) -> bool {
    let has_code = syncdata_shared::postgres::sqlstate(error.shared()).is_some();
    has_code && !crate::apply::is_no_fault_of_a_record(error.shared())
}

async fn control(client: &tokio_postgres::Client, statement: &str) -> Result<()> {
    client.batch_execute(statement).await.context(|| statement.to_owned())?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table(name: &str) -> TableName {
        name.parse().expect("a name")
    }

    #[test]
    fn tables_are_loaded_together_as_far_as_their_shadows_have_room() {
        let base = plan::sample(&[("a", 5 << 30), ("b", 3 << 30), ("c", 1), ("d", 20 << 30), ("e", 1)]);
        let names: Vec<TableName> = ["a", "b", "c", "d", "e"].into_iter().map(table).collect();
        let groups = in_groups(&Base::Snapshot(base.clone()), &names, true);
        let expected = [vec!["a", "b"], vec!["c"], vec!["d"], vec!["e"]];
        let expected: Vec<Vec<TableName>> =
            expected.into_iter().map(|group| group.into_iter().map(table).collect()).collect();
        assert_eq!(groups, expected);
        assert_eq!(in_groups(&Base::Snapshot(base), &names, false), std::slice::from_ref(&names));
        assert_eq!(in_groups(&Base::Start { over: true }, &names, true), [names]);
    }
}
