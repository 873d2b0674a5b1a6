//! `proof`: digests of tables at one place of the commit order, while production works and its stream is read.
//!
//! ```text
//! older transactions have ended ─▶ poll ─▶ snapshot ─▶ poll: the segment ends where the snapshot does, with the mark
//!      └─ polls go on                         └─▶ rows, hashed ─▶ WAL is written ─▶ manifest
//! ```
//! A mark promises nothing. The files exist only once the stream was read past the snapshot and nothing contradicted.

pub(crate) mod asking;
mod digest;
mod keep;
mod questions;

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};
use syncdata_archive::{self, ArchiveHandle, proofs};
use syncdata_formats::manifest::{FORMAT, Gap};
use syncdata_formats::name::{TableName, TablePattern};
use syncdata_formats::proof::{Buckets, Cut, Mark, MarkedTable, ProofId, ProofManifest};
use syncdata_formats::signature::SigningKey;
use syncdata_formats::time::Timestamp;
use syncdata_formats::{Error, Kind, Result};
use syncdata_service::config::{Config, Source};
use syncdata_service::faults;
use syncdata_service::postgres::{CatalogKey, Session};
use tracing::{info, warn};

use crate::segment::cut::{Progress, Watch};
use crate::ship::origin;
use crate::snapshot::barrier;
use crate::snapshot::hold::{self, Neighbours};
use crate::snapshot::process::ServerProcess;
use crate::snapshot::tables::{LeftOut, Selection};
use crate::snapshot::view::View;
use crate::source::catalog::{self, Position};
use crate::source::connection::Connection;
use crate::source::pgoutput::publication;
use crate::source::pinned::pinned;
use crate::spool::{OfferedSnapshot, Spool, State};

use asking::{Asks, Step};
use digest::Digests;
use questions::Questions;

const APPLICATION_NAME: &str = "syncdata-archiver proof";

/// Snapshots that are tried before the operator is told that none fits.
const ATTEMPTS_MAX: u32 = 8;
const BETWEEN_ATTEMPTS: Duration = Duration::from_millis(200);

/// Polls that an attempt may take to be read past, and the pause before each, which grows.
const POLLS_MAX: u32 = 200;
const BETWEEN_POLLS: Duration = Duration::from_millis(50);
const BETWEEN_POLLS_MAX: Duration = Duration::from_secs(1);

/// Rows of a table that was never analysed.
const ROWS_UNKNOWN: u64 = 64_000;

/// Older transactions may take so long.
pub(crate) const WAIT: Duration = Duration::from_secs(600);

/// What is asked for, here or of a daemon.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Options {
    /// Instead of all that is captured; patterns.
    pub tables: Option<Vec<String>>,
    /// Bytes of rows that are read in a second.
    pub rate: Option<u64>,
    /// How long older transactions may keep it from beginning, in seconds.
    pub wait_seconds: Option<u64>,
}

/// What came of it, in figures.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Made {
    pub id: String,
    pub cut_lsn: String,
    pub segment: u64,
    pub tables: usize,
    pub rows: u64,
    /// Snapshots that did not fit.
    pub void: u32,
    pub not_proved: BTreeMap<String, String>,
    pub seconds: f64,
}

impl Made {
    pub(crate) fn text(&self) -> String {
        let mut text = format!(
            "proof {}: {} tables, {} rows, as of {} (segment {}), in {:.1} s\n",
            self.id, self.tables, self.rows, self.cut_lsn, self.segment, self.seconds
        );
        if self.void > 0 {
            text.push_str(&format!(
                "void: {} of {} snapshots were no prefix of the stream of commits\n",
                self.void,
                self.void + 1
            ));
        }
        for (table, reason) in &self.not_proved {
            text.push_str(&format!("not proved: {table}: {reason}\n"));
        }
        text
    }
}

/// Makes a proof.
pub(crate) async fn make(config: &Config, options: &Options, watch: &Watch, asks: &Asks) -> Result<Made> {
    let Some(_claim) = watch.claim() else {
        let error = Error::new(Kind::Locked, "another proof is being made");
        return Err(error.hint("wait until it is done: the newest proof counts"));
    };
    Proof { config, options, watch, asks, started: Instant::now() }.run().await
}

/// When the newest proof of the archive was taken.
pub(crate) async fn newest_taken_at(config: &Config) -> Result<Option<Timestamp>> {
    let archive = ArchiveHandle::spawn(syncdata_archive::open(config.archive()?)?)?;
    let key = config.signing_key()?.map(|key| key.verify_key());
    let (now, every) = (Timestamp::now(), config.proof_every);
    // One from further in the future than that is by a clock that was wrong, or by nobody.
    let counts = move |taken_at: Timestamp| taken_at.since(now) < every;
    archive.run(move |archive| keep::newest_taken_at(archive, key.as_ref(), counts)).await
}

struct Proof<'a> {
    config: &'a Config,
    options: &'a Options,
    watch: &'a Watch,
    asks: &'a Asks,
    started: Instant,
}

/// A snapshot whose place in the stream is known.
struct Held {
    connection: Connection,
    view: View,
    /// Foreign keys between tables of the mark.
    keys: Vec<CatalogKey>,
    mark: Mark,
    cut: Cut,
    lost: Vec<Gap>,
    is_degraded: bool,
    void: u32,
}

/// What became of one snapshot.
enum Attempt {
    Held(Box<Held>),
    /// It cannot be used; why.
    Void(String),
}

impl Proof<'_> {
    async fn run(&self) -> Result<Made> {
        // Founds what is missing, and says what is captured.
        self.asks.poll(Step::None).await?;
        let state = Spool::peek_state(&self.config.spool_dir)?;
        let state = state.ok_or_else(|| Error::new(Kind::NotFound, "the spool has no state yet"))?;
        if let Some(why) = &state.diverged {
            return Err(origin::diverged(why));
        }
        let archive = ArchiveHandle::spawn(syncdata_archive::open(self.config.archive()?)?)?;
        let held = self.hold(&state).await?;
        faults::pass("proof.marked").await?;
        let Held { connection, view, keys, mark, cut, lost, is_degraded, void } = held;
        info!(proof = %mark.id, lsn = %cut.end_lsn, segment = %cut.seq, tables = mark.tables.len(), "proof begun");

        let session = ServerProcess::of(connection.session.client()).await?;
        let neighbours =
            Neighbours::open(self.config, APPLICATION_NAME, session.pid, connection.session.canceller())
                .await?
                .ending_with(session.pid);
        let mut digests = Digests::new(&archive, &mark, self.options.rate, is_degraded);
        digests.note_lost(&lost);
        digests.read_all(connection.session.client(), &view, &neighbours).await?;
        let questions =
            Questions::at(self.config, connection.session.client(), &neighbours, session.pid).await?;
        digests.ask(&questions, &view, &keys, &self.config.rules).await;
        drop(questions);
        drop(neighbours);
        faults::hit("proof.digested")?;
        self.make_sure(&connection, &view, &session).await?;

        let (tables, not_proved) = digests.finish(&view.closed);
        let manifest = ProofManifest {
            format: FORMAT,
            archive_id: state.archive_id,
            id: mark.id.clone(),
            cut,
            taken_at: view.taken_at,
            snapshot: view.seen.clone(),
            tables,
            not_proved,
            created_at: Timestamp::now(),
            archiver: env!("CARGO_PKG_VERSION").to_owned(),
        };
        self.publish(&archive, &manifest).await?;
        keep::newest(&archive, &manifest.id).await?;
        let made = Made {
            id: manifest.id.to_string(),
            cut_lsn: cut.end_lsn.to_string(),
            segment: cut.seq.get(),
            tables: manifest.tables.len(),
            rows: manifest.rows(),
            void,
            not_proved: manifest.not_proved.iter().map(|(t, r)| (t.to_string(), r.clone())).collect(),
            seconds: self.started.elapsed().as_millis() as f64 / 1000.0,
        };
        info!(proof = made.id, rows = made.rows, void, "proof published");
        Ok(made)
    }

    /// A snapshot, and where it stands in the order of commits.
    async fn hold(&self, state: &State) -> Result<Held> {
        let mut reasons = Vec::new();
        for attempt in 0..ATTEMPTS_MAX {
            if attempt > 0 {
                tokio::time::sleep(BETWEEN_ATTEMPTS).await;
            }
            match self.attempt(state).await? {
                Attempt::Held(held) => return Ok(Held { void: attempt, ..*held }),
                Attempt::Void(reason) => {
                    info!(attempt, reason, "the snapshot is no prefix of the stream, another one is tried");
                    reasons.push(reason);
                }
            }
        }
        let last = reasons.last().cloned().unwrap_or_default();
        let message =
            format!("no snapshot of {ATTEMPTS_MAX} was a prefix of the stream of commits; the last: {last}");
        Err(Error::new(Kind::Locked, message).hint(
            "commits overtake each other (synchronous_commit = off, or a standby that is waited for): try again when \
             less is written",
        ))
    }

    async fn attempt(&self, state: &State) -> Result<Attempt> {
        let connection = Connection::open_as(self.config, APPLICATION_NAME).await?;
        origin::check_server(&state.source, &connection.facts, &self.config.slot_name)?;
        let helper = Session::open(self.config.postgres()?, APPLICATION_NAME, &pinned()).await?;
        // First: a commit that nobody remembers could be one that the snapshot does not see.
        self.asks.poll(Step::Begin).await?;
        // A batch has no order of commits in which one could be behind.
        let has_order = self.config.source != Source::Triggers;
        if has_order {
            self.wait_for_older(&connection).await?;
        }
        // The next poll knows of the snapshot that is taken meanwhile.
        let _quiet = self.asks.poll_and_wait(Step::None).await?;

        let patterns = self.patterns()?;
        let state = Spool::peek_state(&self.config.spool_dir)?.unwrap_or_else(|| state.clone());
        let selection = Selection {
            captured: &self.config.tables,
            only: patterns.as_deref(),
            memory: &state.memory,
            publication: publication::of(self.config),
        };
        let role = &self.config.postgres()?.user;
        let view = View::open(connection.session.client(), &selection, role).await?;
        faults::pass("proof.snapshot_taken").await?;
        if view.tables.is_empty() {
            return Err(nothing_to_read(&view.closed));
        }
        let keys = foreign_keys(connection.session.client(), &view).await?;
        let mark = mark_of(&view, &keys);
        // An idle source has no WAL after what was read, and so no place for a mark.
        barrier::write_something(helper.client()).await?;
        let upto = catalog::insert_position(helper.client()).await?;
        barrier::wait_for_flush(helper.client(), upto).await?;
        let offered = match has_order {
            true => None,
            false => Some(OfferedSnapshot::make(&self.config.spool_dir, &view.exported)?),
        };
        let mut step = Step::Want(Box::new((view.seen.clone(), mark.clone(), upto)));
        for polls in 0..POLLS_MAX {
            // The first is enough, unless there is much to read.
            tokio::time::sleep((BETWEEN_POLLS * polls).min(BETWEEN_POLLS_MAX)).await;
            self.asks.poll(std::mem::take(&mut step)).await?;
            match self.watch.progress() {
                Progress::UnderWay => {}
                Progress::Void(reason) => return Ok(Attempt::Void(reason)),
                Progress::Found { cut, lost, is_degraded } => {
                    self.watch.end();
                    drop(offered);
                    let void = 0;
                    let held = Held { connection, view, keys, mark, cut, lost, is_degraded, void };
                    return Ok(Attempt::Held(Box::new(held)));
                }
            }
        }
        let message = "the stream was not read past the snapshot: polls do not get that far";
        Err(Error::new(Kind::Locked, message).hint("look at `syncdata-archiver status`"))
    }

    /// Polls go on while somebody is waited for.
    async fn wait_for_older(&self, connection: &Connection) -> Result<()> {
        let wait = self.options.wait_seconds.map_or(WAIT, Duration::from_secs);
        let mut waiting =
            std::pin::pin!(barrier::wait_for_older_transactions(connection.session.client(), Some(wait)));
        loop {
            tokio::select! {
                waited = &mut waiting => return waited,
                () = tokio::time::sleep(self.config.data_sync_freq) => {}
            }
            let mut polling = std::pin::pin!(self.asks.poll(Step::None));
            tokio::select! {
                waited = &mut waiting => {
                    polling.await?;
                    return waited;
                }
                polled = &mut polling => polled?,
            }
        }
    }

    fn patterns(&self) -> Result<Option<Vec<TablePattern>>> {
        let Some(tables) = &self.options.tables else { return Ok(None) };
        tables.iter().map(|text| text.parse()).collect::<Result<Vec<_>>>().map(Some)
    }

    /// What was seen has happened, for good, and the server is still the same one.
    async fn make_sure(&self, connection: &Connection, view: &View, session: &ServerProcess) -> Result<()> {
        let client = connection.session.client();
        view.close(client).await?;
        barrier::wait_for_flush(client, view.end_lsn).await?;
        let now = ServerProcess::of(client).await?;
        if now != *session {
            let message =
                format!("the session was {session} and is {now}: the server may have crashed between");
            return Err(Error::new(Kind::Conflict, message)
                .hint("connect to the server itself, not through a pooler that shares sessions"));
        }
        let timeline = Position::read(client).await?.timeline;
        if timeline != view.timeline {
            let message = format!("the server was on timeline {}, and is on {timeline}", view.timeline);
            return Err(Error::new(Kind::Foreign, message));
        }
        Ok(())
    }

    async fn publish(&self, archive: &ArchiveHandle, manifest: &ProofManifest) -> Result<()> {
        let (manifest, key): (ProofManifest, Option<SigningKey>) =
            (manifest.clone(), self.config.signing_key()?);
        archive
            .run(move |archive| {
                faults::hit("proof.before_manifest")?;
                proofs::publish(archive, &manifest, key.as_ref())
            })
            .await
    }
}

/// Those that production enforces, between tables that the snapshot has.
async fn foreign_keys(client: &tokio_postgres::Client, view: &View) -> Result<Vec<CatalogKey>> {
    let mut keys = CatalogKey::all(client).await?;
    let is_seen = |name: &TableName| view.tables.iter().any(|table| table.name == *name);
    keys.retain(|key| key.is_skipped().is_none() && is_seen(&key.table) && is_seen(&key.key.references));
    // The catalog is not held while tables are read.
    hold::release(client).await?;
    Ok(keys)
}

fn mark_of(view: &View, keys: &[CatalogKey]) -> Mark {
    let marked = view.tables.iter().map(|table| {
        let k = Buckets::k_for(table.rows_estimate.unwrap_or(ROWS_UNKNOWN));
        let own = keys.iter().filter(|key| key.table == table.name);
        let foreign_keys = own.map(|key| key.key.clone()).collect();
        (table.name.clone(), MarkedTable { k, relation: table.relation.clone(), foreign_keys })
    });
    Mark { id: ProofId::new(view.end_lsn, view.taken_at), tables: marked.collect() }
}

fn nothing_to_read(closed: &[LeftOut]) -> Error {
    let reasons: BTreeSet<String> = closed.iter().map(|left| left.reason.clone()).collect();
    let message = match reasons.is_empty() {
        true => "no table is captured".to_owned(),
        false => format!("no table may be read: {}", reasons.into_iter().collect::<Vec<_>>().join("; ")),
    };
    let error = Error::new(Kind::Refused, message);
    match closed.first() {
        Some(left) => error.hint(left.remedy.clone()),
        None => error,
    }
}

fn warn_not_proved(table: &TableName, reason: &str) {
    warn!(%table, reason, "not proved");
}
