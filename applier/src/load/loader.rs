//! One group of tables on its way from a base to the moment in which all of them are live.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use syncdata_formats::chain::Verified;
use syncdata_formats::error::{Error, Kind, Result};
use syncdata_formats::floor::Floor;
use syncdata_formats::layout::SegmentSeq;
use syncdata_formats::manifest::{Manifest, Relation};
use syncdata_formats::name::TableName;
use syncdata_formats::snapshot::SnapshotManifest;
use syncdata_service::config::Config;
use syncdata_service::daemon::Stop;
use syncdata_service::faults;
use syncdata_service::postgres::ServerContext as _;
use tokio::sync::Mutex;
use tokio_postgres::Client;
use uuid::Uuid;

use super::catch_up::{self, Copy, Known};
use super::{Base, Halt, Refusal, Report, columns, fill, is_of_a_row, shadow};
use crate::apply::acks::Acks;
use crate::archive::fetch::Fetched;
use crate::archive::groups::Groups;
use crate::archive::source::Source;
use crate::archive::stretch::stretch;
use crate::plan::offer::Offer;
use crate::plan::state::{Event, State, TableState};
use crate::plan::{self, not_found, offer};
use crate::target::postgres::apply::Writer;
use crate::target::postgres::cursor::{self, Checkpoint, Cursor};
use crate::target::postgres::identity;
use crate::target::postgres::local::Local;
use crate::target::postgres::schema;

pub(super) struct Loader<'a> {
    pub local: &'a Local,
    /// Up to where they are loaded: that of their group.
    pub cursor: Cursor<'a>,
    pub source: &'a Source,
    pub config: &'a Config,
    pub stop: &'a Stop,
    pub turn: &'a Mutex<()>,
    /// The archive that bases were chosen in.
    pub archive_id: Uuid,
    /// The wishes that they were chosen for.
    pub asked: BTreeMap<TableName, i64>,
    pub report: &'a mut Report,
}

/// What the archive has to begin with.
pub(super) struct Offered {
    pub snapshots: Vec<Arc<SnapshotManifest>>,
    pub floor: Option<Floor>,
}

/// A group of tables that is being loaded.
pub(super) struct Work<'a> {
    pub base: &'a Base,
    pub known: Known,
    /// The checkpoint up to which they have caught up.
    pub seq: u64,
    pub copies: BTreeMap<TableName, Copy>,
    /// Changes of each table that were applied over the base.
    pub records: BTreeMap<TableName, u64>,
    /// Columns in which their changes could not say NaN and infinities.
    pub nan_as_null: BTreeMap<TableName, BTreeSet<String>>,
}

impl Work<'_> {
    fn has_some_of(&self, manifest: &Manifest) -> bool {
        manifest.tables.keys().any(|table| self.copies.contains_key(table))
    }

    fn count(&mut self, manifest: &Manifest) {
        for (table, counts) in manifest.tables.iter().filter(|(table, _)| self.copies.contains_key(*table)) {
            *self.records.entry(table.clone()).or_default() += counts.total();
        }
        if !plan::is_without_nan(&manifest.source.degraded) {
            return;
        }
        for (name, relation) in
            manifest.relations.iter().filter(|(name, _)| manifest.tables.contains_key(*name))
        {
            let Some(copy) = self.copies.get(name) else { continue };
            let columns = plan::columns_with_nan(relation).into_iter();
            let here = columns.filter(|column| copy.table.column(column).is_some()).map(str::to_owned);
            self.nan_as_null.entry(name.clone()).or_default().extend(here);
        }
    }
}

impl Loader<'_> {
    /// What of one group's tables waits for a base. `Some`: one of the bases cannot be used.
    pub(super) async fn load_all(
        &mut self,
        states: &BTreeMap<TableName, TableState>,
        offered: &Offered,
        acks: &Acks,
    ) -> Result<Option<Error>> {
        let client = self.local.session.client();
        let (reached, since) = (self.cursor.reached(client).await?, self.cursor.capture_since(client).await?);
        let floor = offered.floor.as_ref();
        let offer = Offer { snapshots: &offered.snapshots, floor, reached, since: &since };
        let mut bad = None;
        let chosen = self.choose(states, &offer).await?;
        let together = chosen.iter().flat_map(|(base, tables)| {
            let together = base.in_groups(tables, self.local.replica);
            together.into_iter().map(move |tables| (base, tables))
        });
        let together: Vec<(&Base, Vec<TableName>)> = together.collect();

        for (base, tables) in together {
            if let Base::Snapshot(snapshot) = base {
                acks.load(Some(&snapshot.id));
                acks.tell(self.local, self.source).await;
            }
            let done = self.load(base, &tables).await;
            acks.load(None);
            match done {
                Ok(()) => {}
                // A damaged base is no reason to leave the tables that have another one.
                Err(error) if error.kind().refuses_archive() => {
                    tracing::error!(base = base.name(), error = %error.one_line(), "the base cannot be used");
                    bad = bad.or(Some(error));
                }
                Err(error) => return Err(error),
            }
            if self.report.stopped {
                break;
            }
        }
        Ok(bad)
    }

    /// One group, which is brought over in one transaction.
    pub(super) async fn load(&mut self, base: &Base, tables: &[TableName]) -> Result<()> {
        let started = Instant::now();
        let states = cursor::table_states(self.local.session.client(), &self.local.meta).await?;
        for table in tables {
            let is_first = |state: &TableState| state.state == State::Pending && state.position.is_none();
            if states.get(table).is_some_and(is_first) {
                let reason = format!("is loaded from {}", base.name());
                let (client, meta) = (self.local.session.client(), &self.local.meta);
                cursor::change(client, meta, table, Event::LoadBegins, None, Some(&reason)).await?;
            }
        }
        tracing::info!(base = base.name(), tables = tables.len(), "loading tables");
        let mut work = Work {
            base,
            known: base.known(),
            seq: 0,
            copies: BTreeMap::new(),
            records: BTreeMap::new(),
            nan_as_null: BTreeMap::new(),
        };
        let mut writer = Writer::new(self.local.replica);
        self.make_shadows(&mut work, tables).await?;
        // The others move on meanwhile: again, until nothing is left.
        while !work.copies.is_empty() && self.catch_up(&mut work, &mut writer).await? {}
        if work.copies.is_empty() || self.report.stopped {
            return Ok(());
        }
        let _turn = self.turn.lock().await;
        self.local.lock_pass_of(self.cursor.group()).await?;
        // After an error the lock goes with the session, or with the next group's.
        self.bring_over(&mut work, &mut writer, started).await?;
        self.local.unlock_pass_of(self.cursor.group()).await
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

            if let Some(lost) = identity::unfit_for_rows(client, &self.local.meta, name).await? {
                self.fail(name, &lost.reason(name)).await?;
                continue;
            }

            let table = Arc::new(table.clone());
            let shadow = shadow::make(client, &table, number).await?;
            match fill(self.local, self.source, work.base, &table, shadow).await {
                Ok(copy) => drop(work.copies.insert(name.clone(), copy)),
                Err(Halt::Refused(refusal)) => self.fail(name, &refusal.reason).await?,
                Err(Halt::Failed(error)) => return Err(error),
            }
            faults::pass("load.filled").await?;
        }
        Ok(())
    }

    /// Applies what the shadows lack up to the checkpoint. False: it was nothing.
    pub(super) async fn catch_up(&mut self, work: &mut Work<'_>, writer: &mut Writer) -> Result<bool> {
        let checkpoint = self.cursor.read(self.local.session.client()).await?;
        self.goes_on(work, &checkpoint)?;
        let Some(own) = checkpoint.segment else { return Ok(false) };
        if own.end_lsn <= work.known.upto {
            return Ok(false);
        }
        let segments = stretch(self.source, self.archive_id, own.link, own.end_lsn, work.known.upto).await?;
        self.check_whole(work, &segments).await?;

        let limit = u64::from(self.config.apply_batch_changes.get());
        let mut groups = Groups::new(self.source, segments, limit);
        while let Some(group) = groups.next(|manifest| work.has_some_of(manifest)).await? {
            self.apply_changes(work, writer, &group.segments).await?;
            group.segments.iter().try_for_each(Fetched::clean)?;
            work.known.upto = work.known.upto.max(group.end);
            if work.copies.is_empty() || self.must_stop() {
                return Ok(false);
            }
        }
        work.seq = checkpoint.seq();
        Ok(true)
    }

    /// `Err`: the copy was started over meanwhile. What was made for the archive from before is for nobody.
    pub(super) fn goes_on(&self, work: &Work<'_>, checkpoint: &Checkpoint) -> Result<()> {
        if checkpoint.archive_id == Some(self.archive_id) && checkpoint.seq() >= work.seq {
            return Ok(());
        }
        Err(Error::new(Kind::Locked, "the copy was started over while tables were loaded; that load ends"))
    }

    pub(super) fn asked_of(&self, table: &TableName) -> i64 {
        self.asked.get(table).copied().unwrap_or_default()
    }

    /// Nothing between the base and the checkpoint may be missing.
    async fn check_whole(&mut self, work: &mut Work<'_>, segments: &[Verified]) -> Result<()> {
        if let (Some(first), Base::Snapshot(snapshot)) = (segments.first(), work.base)
            && first.manifest().start_lsn > work.known.upto
        {
            let message = format!(
                "the archive begins at {}, after snapshot {}, which needs all from {} on",
                first.manifest().start_lsn,
                snapshot.id,
                snapshot.start_lsn
            );
            return Err(Error::new(Kind::Foreign, message)
                .hint("take a new snapshot: syncdata-archiver snapshot, on the production host"));
        }

        if let (Some(first), Base::Start { from, .. }) = (segments.first(), work.base)
            && first.manifest().start_lsn > work.known.upto
            && first.manifest().seq != SegmentSeq::FIRST
        {
            let message = format!(
                "the archive begins at {}, after {from}, from where on it is needed",
                first.manifest().start_lsn
            );
            return Err(Error::new(Kind::Foreign, message)
                .hint("take a snapshot: syncdata-archiver snapshot, on the production host"));
        }

        let from_snapshot = matches!(work.base, Base::Snapshot(_));
        let names: Vec<TableName> = work.copies.keys().cloned().collect();
        for table in names {
            let uncaptured = segments
                .iter()
                .map(Verified::manifest)
                .find(|manifest| from_snapshot && !manifest.capture.contains(&table));
            let lost = match catch_up::lost(segments, &table, work.known.upto) {
                None => self.bridge_columns(work, segments, &table).await?,
                lost => lost,
            };
            let reason = match (lost, uncaptured) {
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

    /// Rows that are in the shadow are older than columns which came in these segments: they get what such rows have at
    /// the source. The reason, where nobody can say that.
    async fn bridge_columns(
        &self,
        work: &mut Work<'_>,
        segments: &[Verified],
        table: &TableName,
    ) -> Result<Option<String>> {
        let copy = work.copies.get_mut(table).expect("one of the work's");
        let later = segments.iter().map(Verified::manifest).filter(|it| it.end_lsn > work.known.upto);
        let since = columns::told(later, table, Some(&copy.relation), work.base.end());
        let Some(now) = since.last().map(|told| told.relation.clone()) else { return Ok(None) };
        let now = columns::first_said(now, since.iter().map(|told| told.relation.clone()));
        // What changes alone make has no rows from before, but changes from before columns came.
        let is_first = matches!(work.base, Base::Start { .. }) && !copy.described;
        copy.described = true;
        let before = match is_first {
            true => since[0].relation.clone(),
            false => Relation::clone(&copy.relation),
        };
        let bridged = columns::bridge(&before, &since, &now);
        let bridged = if is_first { bridged.map(|_| columns::old_values(&now)) } else { bridged };
        match bridged {
            Ok(values) if values.iter().any(|old| old.value.contains('\0')) => {
                Ok(Some("the archive says that older rows have a NUL in a newer column".to_owned()))
            }
            Ok(values) => {
                copy.add_columns(&now);
                let client = self.local.session.client();
                match shadow::fill_old_rows(client, copy, &values, !is_first).await {
                    Err(error) if is_of_a_row(&error) => Ok(Some(error.one_line())),
                    filled => filled,
                }
            }
            Err(reason) => Ok(Some(format!(
                "{} is older than the table as it is: {reason}; a newer base copy is needed, {}",
                work.base.name(),
                offer::take_snapshot(table)
            ))),
        }
    }

    /// A table that cannot take its changes leaves; the others take theirs again without it.
    async fn apply_changes(
        &mut self,
        work: &mut Work<'_>,
        writer: &mut Writer,
        group: &[Fetched],
    ) -> Result<()> {
        let session = &self.local.session;
        while !group.is_empty() && !work.copies.is_empty() {
            let changes = async {
                writer.begin(session.client()).await?;
                catch_up::catch_up(session, writer, group, &work.known, &mut work.copies).await
            };
            match self.local.in_transaction(changes).await {
                Ok(done) => {
                    self.report.records += done.records;
                    let transfer: Duration = group.iter().map(|fetched| fetched.transfer).sum();
                    work.copies.values_mut().for_each(|copy| copy.transfer += transfer);
                    self.look_at_missing(work, done.missing).await?;
                    group.iter().for_each(|fetched| work.count(fetched.segment.manifest()));
                    return Ok(());
                }
                Err(Halt::Refused(Refusal { table, reason, .. })) => {
                    work.copies.remove(&table);
                    self.fail(&table, &reason).await?;
                }
                Err(Halt::Failed(error)) => return Err(error),
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
            if matches!(work.base, Base::Start { .. }) {
                work.copies.remove(&table);
                let reason = format!(
                    "{rows} changes of rows that the archive never inserted: it does not reach back to them; {}",
                    offer::take_snapshot(&table)
                );
                self.fail(&table, &reason).await?;
            } else {
                tracing::warn!(%table, rows, "rows to update or delete were not in the base");
            }
        }
        Ok(())
    }

    fn must_stop(&mut self) -> bool {
        self.report.stopped |= self.stop.is_asked();
        self.report.stopped
    }
}

pub(super) async fn control(client: &Client, statement: &str) -> Result<()> {
    client.batch_execute(statement).await.context(|| statement.to_owned())?;
    Ok(())
}
