//! Whose spool and whose archive: before anything is read or written, both must belong to this source.

use std::collections::BTreeMap;

use syncdata_formats::chain::Verified;
use syncdata_formats::head::Head;
use syncdata_formats::identity::{ArchiveIdentity, IdentitySource};
use syncdata_formats::layout::{SegmentName, SegmentSeq};
use syncdata_formats::lsn::Lsn;
use syncdata_formats::manifest::FORMAT;
use syncdata_formats::signature::VerifyKey;
use syncdata_formats::time::{Day, Timestamp};
use syncdata_formats::{Error, Kind, Result};
use syncdata_service::config::Config;
use tracing::{info, warn};

use crate::capture::since::CaptureMemory;
use crate::ship::adoption::Claims;
use crate::ship::head;
use crate::ship::shipper::{CapturedByChain, Shipper};
use crate::source::catalog::{Facts, Position};
use crate::source::connection::Connection;
use crate::source::slot;
use crate::spool::{ArchivedCommit, LastBefore, Opened, Origin, Spool, State, Stood};

/// What spool and archive know of each other.
#[derive(Debug, Default)]
pub(crate) struct Met {
    /// Segments of the archive that the spool does not know and that go on where it ends. They are not ours before the
    /// slot has been asked.
    pub strangers: Vec<Verified>,
    /// What the archive says of idle progress.
    head: Option<Head>,
    /// Why the archive cannot be used now, if it cannot.
    pub away: Option<Error>,
    /// What a spool that has never been used will begin with.
    fresh: Option<State>,
    /// The last commit of the strangers, once they are known to be ours.
    pub last_commit: Option<ArchivedCommit>,
    /// The last transaction that the slot has up to their end, then too.
    pub before_end: Option<LastBefore>,
}

impl Met {
    pub(crate) fn state<'a>(&'a self, opened: &'a Opened) -> &'a State {
        match opened {
            Opened::Ours(spool) => spool.state(),
            Opened::New(_) => self.fresh.as_ref().expect("made where a new spool was met"),
        }
    }

    /// Goes on as if the archive could not be reached.
    pub(crate) fn without_archive(self, reason: Error) -> Met {
        Met { strangers: Vec::new(), head: None, away: Some(reason), ..self }
    }

    pub(crate) fn is_fresh(&self) -> bool {
        self.fresh.is_some()
    }
}

/// Makes sure that spool and archive belong together, and founds the archive in an empty place. Whatever is wrong
/// with the archive of a spool in use is a reason to go on without it.
pub(crate) async fn meet(
    opened: &mut Opened,
    config: &Config,
    connection: &Connection,
    shipper: &Shipper,
    key: Option<&VerifyKey>,
) -> Result<Met> {
    let identity = shipper.identity().await;
    let Opened::Ours(spool) = opened else {
        // A spool that has never been used: the archive must be seen once before anything can be spooled.
        let identity = identity.map_err(|error| {
            error.context("this spool has never been used, and the archive must be seen before it can be")
        })?;
        return found(config, connection, shipper, identity, key).await;
    };
    // After whatever happened since: the position comes from spool and archive, never from memory.
    spool.reload()?;
    match meet_again(spool, identity, shipper, key).await {
        Ok((strangers, head)) => Ok(Met { strangers, head, ..Met::default() }),
        Err(error) => Ok(Met { away: Some(advised(error)), ..Met::default() }),
    }
}

/// Takes over what the archive knows better, now that the strangers among its segments are known to be ours. `slot_at`
/// is where the slot stands: nobody's word moves a position past what it still offers.
pub(crate) fn take_over(
    opened: &mut Opened,
    met: Met,
    slot_at: Option<Lsn>,
) -> Result<(&mut Spool, Option<Error>)> {
    let Met { strangers, head, away, fresh, last_commit, before_end } = met;
    if let (Opened::New(folder), Some(state)) = (&*opened, fresh) {
        *opened = Opened::Ours(Box::new(folder.claim(state)?));
    }
    let Opened::Ours(spool) = opened else { unreachable!("a new spool was claimed above") };
    // Of a new spool they are in the state already.
    let known = spool.state().tip.seq();
    for verified in strangers.iter().filter(|verified| verified.manifest().seq.get() > known) {
        warn!(segment = %verified.manifest().seq, "the archive has a segment that this spool did not know");
        spool.adopt(verified)?;
    }
    if last_commit.is_some() {
        spool.update(|state| state.last_commit = last_commit)?;
    }
    if before_end.is_some_and(|before| before.place == spool.state().tip.end_lsn) {
        spool.update(|state| state.commit_before_tip = before_end)?;
    }
    if let (Some(head), Some(slot_at)) = (head, slot_at) {
        let excused = head.excused(spool.state().tip.end_lsn, slot_at);
        spool.update(|state| {
            let is_former = state.former_head.is_some_and(|former| head.covered_at <= former);
            if head.archive_id == state.archive_id && !is_former && excused > state.covered_lsn {
                state.leave(|table| head.not_captured.iter().any(|pattern| pattern.matches(table)));
                state.covered_lsn = excused;
                state.covered_at = Some(head.covered_at);
            }
        })?;
    }
    Ok((spool, away))
}

/// Of a source with another history: spool and archive stay as they are.
pub(crate) fn keep_apart(opened: &mut Opened, met: Met) -> Result<(&mut Spool, Option<Error>)> {
    match opened {
        Opened::Ours(spool) => Ok((spool, met.away)),
        Opened::New(_) => Err(Error::new(Kind::Foreign, "this spool has never been used")),
    }
}

fn advised(error: Error) -> Error {
    match error.hint_text() {
        Some(_) => error,
        None => error.hint(
            "capture goes on into the spool meanwhile; bring the file back from a sound copy (`syncdata-archiver verify` \
             says what else is wrong)",
        ),
    }
}

/// What spool and archive hold that the other does not. Changes nothing.
async fn meet_again(
    spool: &Spool,
    identity: Result<Option<ArchiveIdentity>>,
    shipper: &Shipper,
    key: Option<&VerifyKey>,
) -> Result<(Vec<Verified>, Option<Head>)> {
    let identity = match identity {
        Err(error) if error.kind() == Kind::NotFound => None,
        identity => identity?,
    };
    // As a disk that is not mounted looks: nothing is written there, and capture goes on.
    let Some(identity) = identity else { return Err(no_identity(shipper.location())) };
    check_identity(spool.state(), &identity, shipper.location())?;
    let strangers = strangers(spool, shipper, key).await?;
    let head = shipper.head().await?.filter(|head| head.archive_id == spool.state().archive_id);
    let end = strangers.last().map_or(spool.state().tip.seq(), |verified| verified.manifest().seq.get());
    match head.as_ref().and_then(|head| head.newest) {
        Some(newest) if newest.name.seq.get() > end => Err(head::missing_segment(newest.name.seq)),
        _ => Ok((strangers, head)),
    }
}

pub(crate) fn no_identity(location: &str) -> Error {
    let message = format!("the archive {location} has no archive.json any more");
    Error::new(Kind::NotFound, message).hint(
        "is the right disk mounted? Bring the archive back; for a new one use a new archive_dir and spool_dir",
    )
}

pub(crate) fn check_identity(state: &State, identity: &ArchiveIdentity, location: &str) -> Result<()> {
    if identity.archive_id == state.archive_id {
        return Ok(());
    }
    let message = format!(
        "the archive {location} is {}, but this spool belongs to {}",
        identity.archive_id, state.archive_id
    );
    Err(Error::new(Kind::Foreign, message)
        .hint("correct archive_dir, or use a new spool_dir for this archive"))
}

/// The archive may know more than a spool that was restored from a backup, or less than it shipped.
async fn strangers(spool: &Spool, shipper: &Shipper, key: Option<&VerifyKey>) -> Result<Vec<Verified>> {
    let listed = match shipped_last(spool) {
        Some(place) => shipper.list_from(place).await?,
        None => shipper.list().await?,
    };
    if listed.last().is_none_or(|(_, newest)| newest.seq.get() < spool.state().shipped) {
        check_rollback(spool, &shipper.list().await?, shipper.location())?;
    }
    let (known, tip) = (spool.state().shipped, spool.state().chain_tip());
    let (mut theirs, mut ours) = (listed, Vec::new());
    theirs.retain(|(_, name)| name.seq.get() > known);
    ours.extend(theirs.extract_if(.., |(_, name)| name.seq < tip.next_seq()).map(|(_, name)| name));
    if let Some(other) = ours.iter().find(|name| spool.segment(name.seq).map(|own| own.name) != Some(**name))
    {
        let message = format!(
            "the archive {} has another segment {} than this spool: {}",
            shipper.location(),
            other.seq,
            other.manifest_name()
        );
        return Err(Error::new(Kind::Conflict, message)
            .hint("another archiver writes to this archive: stop one of them"));
    }
    shipper.read(tip, theirs, key.cloned()).await
}

/// Days never go back: what was shipped later lies in this folder or in a later one.
fn shipped_last(spool: &Spool) -> Option<(Day, SegmentSeq)> {
    let state = spool.state();
    let seq = SegmentSeq::new(state.shipped).ok()?;
    let last = state.tip.last.filter(|last| last.segment.seq == seq);
    let held = || spool.segments().find(|segment| segment.name.seq == seq);
    let day = last.map(|last| last.day).or_else(|| held().map(|segment| segment.day))?;
    Some((day, seq))
}

/// What the archive has lost since it was shipped is sent again if the spool still has all of it.
fn check_rollback(spool: &Spool, listed: &[(Day, SegmentName)], location: &str) -> Result<()> {
    let newest = listed.last().map_or(0, |(_, name)| name.seq.get());
    let shipped = spool.state().shipped;
    let held = spool.segments().filter(|s| (newest + 1..=shipped).contains(&s.name.seq.get())).count() as u64;
    if newest + held >= shipped {
        return Ok(());
    }
    let message = format!(
        "the archive {location} was rolled back: it ends with segment {newest}, but segments up to {shipped} \
         (position {}) were shipped, and the spool does not have all of those between any more",
        spool.state().tip.end_lsn
    );
    Err(Error::new(Kind::Foreign, message).hint(
        "bring the missing segments back on the backup host; if they are lost, use a new archive_dir and spool_dir, \
         then `resync --all --adopt` on the local side",
    ))
}

async fn found(
    config: &Config,
    connection: &Connection,
    shipper: &Shipper,
    identity: Option<ArchiveIdentity>,
    key: Option<&VerifyKey>,
) -> Result<Met> {
    let client = connection.session.client();
    let facts = &connection.facts;
    let ours = owner(config, facts);
    let slot = match &identity {
        // A name that is not the archive's is a mistake, and no loss.
        Some(identity) => {
            check_owner(identity, &ours, shipper.location())?;
            slot::read(client, &config.slot_name).await?
        }
        None => slot::read_first(client, &config.slot_name).await?,
    };
    let position = Position::read(client).await?;
    let began =
        slot.confirmed_flush_lsn.ok_or_else(|| Error::new(Kind::NotFound, "the slot has no position yet"))?;
    let source = Origin {
        system_identifier: facts.system_identifier.clone(),
        timeline: position.timeline,
        database: facts.database.clone(),
        database_oid: facts.database_oid,
        slot: config.slot_name.to_string(),
    };
    let mut state = State::new(uuid::Uuid::new_v4(), source, began);
    state.slot_transactions = slot.transactions;
    let strangers = match identity {
        Some(identity) => adopt_archive(&mut state, &identity, began, shipper, key).await?,
        None => {
            refuse_remains(shipper).await?;
            let archive_id = state.archive_id;
            let identity = ArchiveIdentity {
                format: FORMAT,
                archive_id,
                source: ours,
                created_at: Timestamp::now(),
                archiver: env!("CARGO_PKG_VERSION").to_owned(),
            };
            shipper.found(identity).await?;
            info!(%archive_id, archive = shipper.location(), lsn = %began, "archive founded");
            Vec::new()
        }
    };
    Ok(Met { strangers, fresh: Some(state), ..Met::default() })
}

/// An archive is founded in an empty place only: a second one on top of another would be the end of both.
async fn refuse_remains(shipper: &Shipper) -> Result<()> {
    let remains = shipper.remains().await?;
    if remains.is_empty() {
        return Ok(());
    }
    let message = format!(
        "{} has no archive.json, but {} of an archive",
        shipper.location(),
        remains.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
    );
    Err(Error::new(Kind::Foreign, message).hint(
        "nothing was written: bring archive.json back from a sound copy, or use an empty archive_dir for a new archive",
    ))
}

/// Who an archive of ours belongs to.
pub(crate) fn owner(config: &Config, facts: &Facts) -> IdentitySource {
    IdentitySource {
        system_identifier: facts.system_identifier.clone(),
        database: facts.database.clone(),
        slot: config.slot_name.to_string(),
    }
}

pub(crate) fn check_owner(identity: &ArchiveIdentity, ours: &IdentitySource, location: &str) -> Result<()> {
    if &identity.source == ours {
        return Ok(());
    }
    let IdentitySource { system_identifier, database, slot } = &identity.source;
    let message = format!(
        "the archive {location} belongs to slot {slot} of database {database} in cluster {system_identifier}"
    );
    Err(Error::new(Kind::Foreign, message).hint("every source needs an archive_dir of its own"))
}

/// A new spool for an archive that exists: the chain goes on where the archive ends, and the slot must too. The
/// segments that end after `slot_at`, where the slot stands, are still to be compared with it.
async fn adopt_archive(
    state: &mut State,
    identity: &ArchiveIdentity,
    slot_at: Lsn,
    shipper: &Shipper,
    key: Option<&VerifyKey>,
) -> Result<Vec<Verified>> {
    state.archive_id = identity.archive_id;
    let end = shipper.end(identity.archive_id, slot_at, key.cloned()).await?;
    let held = shipper.snapshots(BTreeMap::new(), key.cloned()).await?;
    state.newest_snapshot = held.values().next_back().cloned();
    if let Some((tip, timeline)) = end.last {
        state.tip = tip;
        state.shipped = tip.seq();
        let CapturedByChain { since, captured, left } = shipper.capture_since(identity.archive_id).await?;
        state.captured = CaptureMemory::of_chain(since, &captured);
        state.memory.inherited = captured;
        state.memory.left_before(left, tip.end_lsn);
        state.memory.is_heir = true;
        // Not the server's own: whether that descends from the archive's is still to be asked.
        state.source.timeline = timeline;
        // One that the slot still offers is compared with it before it is believed.
        if let Some(segment) = shipper.newest_changes(identity.archive_id).await? {
            let last = Claims::read(shipper.archive(), &[segment]).await?.last();
            state.last_commit = last.filter(|last| last.end_lsn <= slot_at);
        }
    } else {
        // No copy of a table can have begun without a segment, but with a snapshot.
        state.memory.inherited = held.into_values().flat_map(|snapshot| snapshot.tables).collect();
    }
    if let (None, Some(head)) = (state.tip.last, &end.head) {
        // The head alone knows how far the slot had come: ahead of it, it has lost changes.
        let began = head.stood.iter().copied().min().filter(|_| !head.may_stand(slot_at));
        state.tip.end_lsn = state.tip.end_lsn.min(began.unwrap_or(head.covered_lsn));
    }
    state.covered_lsn = state.tip.end_lsn;
    if let Some(head) = end.head {
        state.leave(|table| head.not_captured.iter().any(|pattern| pattern.matches(table)));
        state.covered_lsn = state.covered_lsn.max(head.excused(state.tip.end_lsn, slot_at));
        state.stood = Stood::inherited(&head.stood, slot_at);
        state.covered_at = Some(head.covered_at);
    }
    state.pass_over_batches(
        state.newest_snapshot.iter().map(|held| held.end_lsn).collect::<Vec<_>>().into_iter(),
    );
    info!(archive_id = %identity.archive_id, lsn = %state.covered_lsn, "new spool for an archive that exists");
    Ok(end.after_slot)
}
