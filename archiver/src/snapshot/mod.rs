//! `snapshot`: a consistent copy of tables into the archive, while production works.
//!
//! ```text
//! start_lsn ─▶ older transactions have ended ─▶ BEGIN, end_lsn ─▶ lock, rows, unlock ─▶ parts ─▶ archive ─▶ COMMIT
//!                                                  ─▶ WAL is written up to end_lsn ─▶ manifest
//! ```
//! All that committed up to `start_lsn` is in the copy, nothing that committed after `end_lsn` is, and of what lies
//! between, the transaction's snapshot says which is. The order of these steps is the promise.

pub(crate) mod barrier;
mod cutter;
mod earlier;
pub(crate) mod hold;
mod memory;
pub(crate) mod process;
mod publish;
pub(crate) mod reading;
mod rows;
mod store;
pub(crate) mod tables;
mod taken;
pub(crate) mod view;

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use futures_util::TryStreamExt as _;
use serde::{Deserialize, Serialize};
use syncdata_archive::{self, Archive, ArchiveHandle};
use syncdata_formats::digest::Digest;
use syncdata_formats::identity::ArchiveIdentity;
use syncdata_formats::lsn::Lsn;
use syncdata_formats::manifest::FORMAT;
use syncdata_formats::name::{TableName, TablePattern};
use syncdata_formats::signature::SigningKey;
use syncdata_formats::snapshot::{Seen, SnapshotId, SnapshotManifest, SnapshotSource, TableCopy};
use syncdata_formats::time::Timestamp;
use syncdata_formats::{Error, Kind, Result};
use syncdata_service::config::{Config, Source};
use syncdata_service::faults;
use syncdata_service::progress::{Progress, Unit};
use tracing::{info, warn};

use crate::ship::shipper::Shipper;
use crate::ship::{origin, ownership};
use crate::source::catalog::{self, Position};
use crate::source::connection::{Connection, Work};
use crate::source::pgoutput::publication;
use crate::source::slot;
use crate::source::triggers::reader;
use crate::spool::{OfferedSnapshot, SnapshotLock, Spool, State};

use earlier::Earlier;
use hold::{Neighbours, Unread};
use memory::Memory;
use process::ServerProcess;
use reading::Pace;
use store::{Store, Stored};
use tables::{LeftOut, Selection, Table};
pub(crate) use taken::Taken;
use view::View;

const APPLICATION_NAME: &str = "syncdata-archiver snapshot";

/// Parts that are packed and sent while the next one is read: each is in memory, twice where it is compressed.
const PARTS_UNDER_WAY: usize = 2;

#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Options {
    /// Instead of all that is captured.
    pub tables: Option<Vec<TablePattern>>,
    /// Bytes of rows that are read in a second.
    pub rate: Option<u64>,
    pub full: bool,
    /// How long older transactions may keep the snapshot from beginning.
    pub wait: Option<Duration>,
}

/// Takes one. It exists when this returns, or does not: without any table there is none. `poll` has the archiver of these settings poll once.
pub(crate) async fn take(
    config: &Config,
    options: &Options,
    poll: impl AsyncFn() -> Result<()>,
) -> Result<Taken> {
    let started = Instant::now();
    let _lock = SnapshotLock::wait(&config.spool_dir).await?;
    let mut taken = Snapshot::prepare(config, options, &poll).await?.run(&poll).await?;
    taken.seconds = started.elapsed().as_millis() as f64 / 1000.0;
    Ok(taken)
}

/// The state of the snapshot that is being taken.
struct Snapshot<'a> {
    config: &'a Config,
    options: &'a Options,
    signing_key: Option<SigningKey>,
    archive: ArchiveHandle,
    state: State,
    connection: Connection,
}

/// Where in the stream a copy stands: all up to the first position is in it, nothing after the second.
#[derive(Clone, Copy, Debug)]
struct Between {
    start_lsn: Lsn,
    end_lsn: Lsn,
}

/// How copying one table ended.
enum Copied {
    Whole(Vec<Stored>),
    /// The other tables can still be copied.
    Not(LeftOut),
}

impl<'a> Snapshot<'a> {
    /// Everything is looked at before anything is done.
    async fn prepare(
        config: &'a Config,
        options: &'a Options,
        poll: &impl AsyncFn() -> Result<()>,
    ) -> Result<Snapshot<'a>> {
        let archive = ArchiveHandle::spawn(syncdata_archive::open(config.archive()?)?)?;
        let signing_key = config.signing_key()?;
        let (state, identity) = founded(config, &Shipper::new(archive.clone()), poll).await?;
        let connection = Connection::open_as(config, APPLICATION_NAME).await?;
        connection.lock(Work::Snapshots, &config.slot_name).await?;
        let (client, facts) = (connection.session.client(), &connection.facts);
        ownership::check_identity(&state, &identity, archive.location())?;
        ownership::check_owner(&identity, &ownership::owner(config, facts), archive.location())?;
        origin::check_server(&state.source, facts, &config.slot_name)?;
        reader::expect(client, config).await?;
        origin::read_slot(&state.source, &connection, &config.slot_name).await?;
        let position = Position::read(client).await?;
        let history =
            origin::history(&state, &BTreeMap::new(), &connection, &position, &config.postgres()?.user)
                .await?;
        if let Some(why) = history.diverged {
            return Err(origin::diverged(&why));
        }

        let mut snapshot = Snapshot { config, options, signing_key, archive, state, connection };
        snapshot.make_sure_of_capture(poll).await?;
        Ok(snapshot)
    }

    /// The changes of a table that the running archiver does not capture yet would be in neither the copy nor the stream,
    /// and nothing would ever tell.
    async fn make_sure_of_capture(&mut self, poll: &impl AsyncFn() -> Result<()>) -> Result<()> {
        let wanted = self.selection().resolve(self.connection.session.client()).await?;
        if wanted.is_subset(&self.state.memory.captured()) {
            return Ok(());
        }
        // Tables that are new since the last poll: whoever captures them knows them after this one. A commit that did not
        // wait for its flush is in the catalog before it is in the stream, and until then a gap of its table cannot be told; nor can it while nothing at all was written since the last poll.
        let client = self.connection.session.client();
        barrier::write_something(client).await?;
        barrier::wait_for_flush(client, catalog::insert_position(client).await?).await?;
        poll().await?;
        if let Some(state) = Spool::peek_state(&self.config.spool_dir)? {
            self.state = state;
        }
        let unknown: Vec<String> =
            wanted.difference(&self.state.memory.captured()).map(ToString::to_string).collect();
        if unknown.is_empty() {
            return Ok(());
        }
        let message = format!("the running archiver does not capture {} yet", unknown.join(", "));
        Err(Error::new(Kind::Refused, message).hint(
            "have it read its settings again (systemctl reload syncdata-archiver), then take the snapshot: a copy from \
             before would miss changes",
        ))
    }

    async fn run(&self, poll: &impl AsyncFn() -> Result<()>) -> Result<Taken> {
        let client = self.connection.session.client();
        let session = ServerProcess::of(client).await?;
        let (mut view, place) = match self.config.source {
            Source::Wal2json | Source::Pgoutput => {
                let start_lsn = catalog::insert_position(client).await?;
                barrier::wait_for_older_transactions(client, self.options.wait).await?;
                let view = View::open(client, &self.selection(), &self.config.postgres()?.user).await?;
                let end_lsn = view.end_lsn;
                (view, Between { start_lsn, end_lsn })
            }
            Source::Triggers => {
                let (view, end) = self.view_of_a_batch(poll).await?;
                (view, Between { start_lsn: end, end_lsn: end })
            }
        };
        let closed = std::mem::take(&mut view.closed);
        if view.tables.is_empty() && !closed.is_empty() {
            return Err(nothing_can_be_read(&closed));
        }
        let id = SnapshotId::new(place.start_lsn, view.taken_at);
        info!(snapshot = %id, end_lsn = %place.end_lsn, tables = view.tables.len(), "snapshot begun");
        let taken = self.carry_out(id, place, view, closed, &session).await;
        taken.map_err(|error| {
            error.context("the snapshot is discarded; the next one uses what was sent of it")
        })
    }

    /// A view with which a batch of triggers ends, and where: nothing of the stream lies between.
    async fn view_of_a_batch(&self, poll: &impl AsyncFn() -> Result<()>) -> Result<(View, Lsn)> {
        const ATTEMPTS_MAX: u32 = 8;
        let client = self.connection.session.client();
        for _ in 0..ATTEMPTS_MAX {
            let view = View::open(client, &self.selection(), &self.config.postgres()?.user).await?;
            let offered = OfferedSnapshot::make(&self.config.spool_dir, &view.exported)?;
            poll().await?;
            drop(offered);
            let state = Spool::peek_state(&self.config.spool_dir)?;
            if state.as_ref().and_then(|state| state.last_batch.as_ref()).is_some_and(|last| last.blown) {
                return Err(notes_are_left_out());
            }
            let ended = state.and_then(|state| Some((state.last_batch.clone()?.snapshot, state.position())));
            if let Some((snapshot, position)) = ended
                && Seen::parse(&snapshot).as_ref() == Some(&view.seen)
            {
                return Ok((view, position));
            }
            info!("another poll came between, taking another snapshot");
            view.close(client).await?;
        }
        let message = format!("no poll of {ATTEMPTS_MAX} ended with the snapshot that was taken for it");
        Err(Error::new(Kind::Locked, message).hint("look at `syncdata-archiver status`, then try again"))
    }

    async fn carry_out(
        &self,
        id: SnapshotId,
        place: Between,
        view: View,
        closed: Vec<LeftOut>,
        session: &ServerProcess,
    ) -> Result<Taken> {
        faults::hit("snapshot.begun")?;
        let store = self.store(id, &view.tables).await?;
        let mut taken = Taken { left_out: closed, ..Taken::default() };
        let neighbours =
            Neighbours::open(self.config, APPLICATION_NAME, session.pid, self.connection.session.canceller())
                .await?
                .ending_with(session.pid);
        let copies = self.copy(&view, &store, &neighbours, &mut taken).await?;
        drop(neighbours);
        if copies.is_empty() && !view.tables.is_empty() {
            if !taken.left_out.iter().any(|left| left.passes) {
                return Err(nothing_can_be_read(&taken.left_out));
            }
            view.close(self.connection.session.client()).await?;
            return Ok(taken);
        }
        faults::hit("snapshot.all_parts_sent")?;
        self.make_sure(session, &view).await.map_err(|error| {
            error.context("nobody can say any more that production keeps what the snapshot saw")
        })?;
        let manifest = self.manifest(store.id.clone(), place, view, copies);
        taken.describe(&manifest);
        taken.bytes_sent += publish::publish(&self.archive, &manifest, self.signing_key.as_ref()).await?;
        info!(snapshot = %manifest.id, rows = taken.rows, bytes = taken.bytes_sent, "snapshot published");
        forget_others(&store, &manifest, self.options.tables.is_none() && taken.left_out.is_empty());
        Ok(taken)
    }

    fn selection(&self) -> Selection<'_> {
        Selection {
            captured: &self.config.tables,
            only: self.options.tables.as_deref(),
            memory: &self.state.memory,
            publication: publication::of(self.config),
        }
    }

    async fn store(&self, id: SnapshotId, tables: &[Table]) -> Result<Store> {
        let wanted: BTreeSet<TableName> = tables.iter().map(|table| table.name.clone()).collect();
        let verify_key = self.signing_key.as_ref().map(SigningKey::verify_key);
        let read = move |archive: &mut dyn Archive| Earlier::read(archive, wanted, verify_key.as_ref());
        let earlier = self.archive.run(read).await?;
        if earlier.has(&id) {
            // start_lsn rises with every snapshot of one server.
            let message = format!("the archive has a snapshot {id} already");
            return Err(Error::new(Kind::Conflict, message).hint("look who else writes to this archive"));
        }
        Ok(Store {
            archive: self.archive.clone(),
            id,
            earlier,
            memory: Memory::new(&self.config.spool_dir),
            compression_level: self.config.compression_level,
            full: self.options.full,
            sent: Default::default(),
            sound: Default::default(),
        })
    }

    async fn copy(
        &self,
        view: &View,
        store: &Store,
        neighbours: &Neighbours,
        taken: &mut Taken,
    ) -> Result<BTreeMap<TableName, TableCopy>> {
        let estimate = view.tables.iter().map(|table| table.rows_estimate).sum::<Option<u64>>();
        let mut progress = Progress::start("snapshot", Unit::Rows, estimate);
        let mut pace = Pace::new(self.options.rate);
        let mut copies = BTreeMap::new();
        for table in &view.tables {
            let mut work = Tools { store, neighbours, pace: &mut pace, progress: &mut progress };
            match self.copy_table(table, &mut work).await? {
                Copied::Whole(stored) => {
                    stored.iter().for_each(|stored| taken.count(stored));
                    copies.insert(table.name.clone(), copy_of(table, stored));
                }
                Copied::Not(left) => {
                    warn!(table = %left.table, reason = left.reason, hint = left.remedy, "left out of the snapshot");
                    taken.left_out.push(left);
                }
            }
        }
        progress.finish();
        Ok(copies)
    }

    /// The parts of one table, or why it is left out.
    async fn copy_table(&self, table: &Table, work: &mut Tools<'_>) -> Result<Copied> {
        let client = self.connection.session.client();
        let waiting = work.neighbours.who_wait_for_the_end().await?;
        let mut read = match waiting.is_empty() {
            true => self.read_table(table, work).await,
            // Nothing of the table is locked, and yet somebody waits until all that is older than he is over.
            false => Err(Unread::to_end(&waiting)),
        };
        hold::release(client).await?;
        if let Err(Unread::Table(error)) = &read
            && table.is_ordered()
        {
            warn!(
                table = %table.name, error = %error.one_line(),
                "it cannot be read in the order of its key, and is read as it lies"
            );
            read = self.read_table(&table.as_it_lies(), work).await;
            hold::release(client).await?;
        }
        let again = || {
            let name = table.name.to_string().replace('\'', "'\\''");
            format!("take it again when that is done: `syncdata-archiver snapshot --tables '{name}'`")
        };
        let (error, passes) = match read {
            Ok(stored) => return Ok(Copied::Whole(stored)),
            Err(Unread::All(error)) => return Err(error.context(format!("copying {}", table.name))),
            Err(Unread::Table(error)) => (error, false),
            Err(Unread::Now(error) | Unread::GaveWay(error)) => (error, true),
        };
        let remedy = match passes {
            true => again(),
            false => "mend the table (is its index sound? REINDEX makes it anew), then take another snapshot"
                .to_owned(),
        };
        Ok(Copied::Not(LeftOut { table: table.name.clone(), reason: error.one_line(), remedy, passes }))
    }

    /// Whatever comes of it, the table is to be let go of.
    async fn read_table(&self, table: &Table, work: &mut Tools<'_>) -> Result<Vec<Stored>, Unread> {
        let client = self.connection.session.client();
        hold::lock(client, table, work.neighbours).await?;
        work.neighbours.check(table).await?;
        let mut bases = work.store.earlier.bases_of(&table.name);
        let store = work.store;
        let reading = async {
            let parts = reading::parts(client, table, work.pace, work.progress).await?;
            parts
                .map_ok(|cut| {
                    let base = bases.nearest(cut.first_key.as_deref());
                    store.put(cut, base)
                })
                .try_buffered(PARTS_UNDER_WAY)
                .try_collect()
                .await
        };
        let stored = work.neighbours.give_way(table, reading).await?;
        // A partition can be attached while rows are read.
        work.neighbours.check(table).await?;
        Ok(stored)
    }

    /// What was seen has happened, for good, and the stream that follows is still the same one.
    async fn make_sure(&self, session: &ServerProcess, view: &View) -> Result<()> {
        let client = self.connection.session.client();
        view.close(client).await?;
        barrier::wait_for_flush(client, view.end_lsn).await?;
        let now = ServerProcess::of(client).await?;
        if now != *session {
            let message =
                format!("the session was {session} and is {now}: the server may have crashed between");
            return Err(Error::new(Kind::Conflict, message)
                .hint("connect to the server itself, not through a pooler that shares sessions"));
        }
        slot::read(client, &self.config.slot_name).await?;
        let timeline = Position::read(client).await?.timeline;
        if timeline != view.timeline {
            let message = format!("the server was on timeline {}, and is on {timeline}", view.timeline);
            return Err(Error::new(Kind::Foreign, message).hint("take another snapshot"));
        }
        Ok(())
    }

    fn manifest(
        &self,
        id: SnapshotId,
        place: Between,
        view: View,
        tables: BTreeMap<TableName, TableCopy>,
    ) -> SnapshotManifest {
        let facts = &self.connection.facts;
        SnapshotManifest {
            format: FORMAT,
            archive_id: self.state.archive_id,
            id,
            start_lsn: place.start_lsn,
            end_lsn: place.end_lsn,
            snapshot: view.seen,
            taken_at: view.taken_at,
            source: SnapshotSource {
                system_identifier: facts.system_identifier.clone(),
                timeline: view.timeline,
                database: facts.database.clone(),
                server_version: facts.server_version.clone(),
                slot: self.config.slot_name.to_string(),
                settings: view.settings,
            },
            tables,
            created_at: Timestamp::now(),
            archiver: env!("CARGO_PKG_VERSION").to_owned(),
        }
    }
}

/// Whose archive and whose spool. A poll comes first where one of the two is new: it founds what is missing.
async fn founded(
    config: &Config,
    shipper: &Shipper,
    poll: &impl AsyncFn() -> Result<()>,
) -> Result<(State, ArchiveIdentity)> {
    let look = async || Ok((Spool::peek_state(&config.spool_dir)?, shipper.identity().await?));
    if let (Some(state), Some(identity)) = look().await? {
        return Ok((state, identity));
    }
    info!("the archive is not founded yet, or this spool is new: a poll comes first");
    poll().await?;
    match look().await? {
        (Some(state), Some(identity)) => Ok((state, identity)),
        _ => Err(ownership::no_identity(shipper.location())),
    }
}

/// What every table's reading works with.
struct Tools<'a> {
    store: &'a Store,
    neighbours: &'a Neighbours,
    pace: &'a mut Pace,
    progress: &'a mut Progress,
}

/// A copy would pass for the end of a gap that goes on.
fn notes_are_left_out() -> Error {
    let message =
        "the triggers do not note all that is changed, or transactions are open that left something out";
    Error::new(Kind::Refused, message)
        .hint("run `syncdata-archiver setup --create-triggers`, then `run --once` until it publishes a gap, then take it again")
}

fn nothing_can_be_read(left_out: &[LeftOut]) -> Error {
    let reasons: Vec<&str> = left_out.iter().map(|left| left.reason.as_str()).collect();
    let remedies: BTreeSet<&str> = left_out.iter().map(|left| left.remedy.as_str()).collect();
    let remedies: Vec<&str> = remedies.into_iter().collect();
    let message = format!("no complete copy can be taken: {}", reasons.join("; "));
    Error::new(Kind::Refused, message).hint(remedies.join("; "))
}

fn copy_of(table: &Table, stored: Vec<Stored>) -> TableCopy {
    let parts: Vec<_> = stored.into_iter().map(|stored| stored.part).collect();
    TableCopy {
        relation: table.relation.clone(),
        columns: table.columns.clone(),
        rows: parts.iter().map(|part| part.rows).sum(),
        content_bytes: parts.iter().map(|part| part.content_bytes).sum(),
        parts,
        sequences: table.sequences.clone(),
    }
}

/// Checksums of parts that the newest copies do not have any more. A snapshot of some tables knows nothing of the
/// copies of the others.
fn forget_others(store: &Store, manifest: &SnapshotManifest, has_all_tables: bool) {
    let parts = manifest.tables.values().flat_map(|table| &table.parts);
    let needed: BTreeSet<Digest> = parts.map(|part| part.content_sha256).collect();
    let forgotten = if has_all_tables {
        store.memory.retain(&needed)
    } else {
        let replaced = manifest.tables.keys().flat_map(|table| store.earlier.contents_of(table));
        store.memory.forget(replaced.filter(|content| !needed.contains(content)))
    };
    if let Err(error) = forgotten {
        warn!(error = %error.one_line(), "checksums of earlier parts stay on this host");
    }
}
