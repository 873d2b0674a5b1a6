//! Loads tables from a base: makes each anew in a shadow, catches up with the others, and brings the difference over
//! in one transaction.
//!
//! ```text
//! snapshot parts ─▶ shadow ─▶ index ─▶ changes behind the snapshot ─▶ ┐ no pass meanwhile:
//! (or the changes since segment 1)     (again, while others move on)  └▶ last changes ─▶ difference, position: COMMIT
//! ```
//! Until that commit readers see the old rows, and the other tables go on. Killed anywhere before it, nothing has
//! happened; after it, all has.

mod base;
mod difference;
mod fill;
mod foresee;
mod parts;
mod plan;
pub(crate) mod replay;
pub(crate) mod shadow;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Instant;
use syncdata_service::postgres::ServerContext as _;

use syncdata_formats::chain::Verified;
use syncdata_formats::error::{Error, Kind, Result};
use syncdata_formats::lsn::Lsn;
use syncdata_formats::manifest::OpCounts;
use syncdata_formats::name::TableName;
use syncdata_service::config::Config;
use syncdata_service::daemon::Stop;
use syncdata_service::faults;
use tokio::sync::Mutex;

pub(crate) use self::base::Base;
pub use self::difference::Changes;
pub(crate) use self::difference::Pair;
pub(crate) use self::fill::fill;
pub use self::foresee::foresee;
pub(crate) use self::plan::{Choice, Offer};
use self::replay::Refusal;
pub(crate) use self::replay::{Copy, Known};
use crate::archive::acks::Acks;
use crate::archive::fetch::Source;
use crate::pass::catch_up;
use crate::pass::runner;
use crate::plan::not_found;
use crate::target::postgres::apply::{FREE_PLANS, Writer};
use crate::target::postgres::cursor::{self, Checkpoint, State, TableState, Want};
use crate::target::postgres::ledger::{self, Entry};
use crate::target::postgres::local::Local;
use crate::target::postgres::quarantine;
use crate::target::postgres::schema;

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
        let groups = base.in_groups(tables, local.replica);
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
            Err(error) if error.kind().refuses_archive() => {
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

struct Loader<'a> {
    local: &'a Local,
    source: &'a Source,
    config: &'a Config,
    stop: &'a Stop,
    turn: &'a Mutex<()>,
    report: &'a mut Report,
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
            return Err(Error::new(Kind::Foreign, message)
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
        group: &[crate::archive::fetch::Fetched],
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
                let error = error;
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

/// A group of tables under way.
struct Work<'a> {
    base: &'a Base,
    known: Known,
    copies: BTreeMap<TableName, Copy>,
    /// Changes of each table that were applied over the base.
    records: BTreeMap<TableName, u64>,
}

impl Work<'_> {
    fn count(&mut self, manifest: &syncdata_formats::manifest::Manifest) {
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
    let has_code = syncdata_service::postgres::sqlstate(error).is_some();
    has_code && !crate::target::postgres::apply::is_no_fault_of_a_record(error)
}

async fn control(client: &tokio_postgres::Client, statement: &str) -> Result<()> {
    client.batch_execute(statement).await.context(|| statement.to_owned())?;
    Ok(())
}
