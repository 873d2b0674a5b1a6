//! Whose spool and whose archive: before anything is read or written, both must belong to this source.

use syncdata_formats::identity::{ArchiveIdentity, IdentitySource};
use syncdata_formats::layout::SegmentName;
use syncdata_formats::manifest::FORMAT;
use syncdata_formats::time::{Day, Timestamp};
use syncdata_formats::{Error, Kind, Result};
use syncdata_service::config::Config;
use tracing::{info, warn};

use crate::ship::head;
use crate::ship::shipper::{Shipper, is_away};
use crate::source::catalog::{Facts, Position};
use crate::source::connection::Connection;
use crate::source::wal2json::slot;
use crate::spool::{Opened, Origin, Spool, State, Tip};

/// Makes sure that spool, archive and source belong together, and founds what is not there yet. With the spool
/// comes the reason why the backup host could not be asked, if it could not.
pub(crate) async fn settle<'a>(
    opened: &'a mut Opened,
    config: &Config,
    connection: &Connection,
    shipper: &Shipper,
) -> Result<(&'a mut Spool, Option<Error>)> {
    let identity = shipper.identity().await;
    if let Opened::New(folder) = opened {
        // A spool that has never been used: the archive must be seen once before anything can be spooled.
        let identity = identity.map_err(|error| {
            error.context("this spool has never been used, and the archive must be seen before it can be")
        })?;
        let state = found(config, connection, shipper, identity).await?;
        *opened = Opened::Ours(Box::new(folder.claim(state)?));
        let Opened::Ours(spool) = opened else { unreachable!("claimed above") };
        return Ok((spool, None));
    }
    let Opened::Ours(spool) = opened else { unreachable!("the other case returned") };
    // After whatever happened since: the position comes from spool and archive, never from memory.
    spool.reload()?;
    let away = match meet(spool, identity, shipper).await {
        Err(error) if is_away(&error) => Some(error),
        met => met?,
    };
    Ok((spool, away))
}

/// Spool and archive compare what they hold; the reason why the archive cannot be used now, if it cannot.
async fn meet(
    spool: &mut Spool,
    identity: Result<Option<ArchiveIdentity>>,
    shipper: &Shipper,
) -> Result<Option<Error>> {
    let identity = match identity {
        Err(error) if error.kind() == Kind::NotFound => None,
        identity => identity?,
    };
    let Some(identity) = identity else {
        // As a disk that is not mounted looks: nothing is written there, and capture goes on.
        return Ok(Some(no_identity(shipper.location())));
    };
    check_identity(spool.state(), &identity, shipper.location())?;
    catch_up(spool, shipper).await?;
    Ok(None)
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
async fn catch_up(spool: &mut Spool, shipper: &Shipper) -> Result<()> {
    let listed = shipper.list(day_of_shipped(spool)).await?;
    if listed.last().is_none_or(|(_, newest)| newest.seq.get() < spool.state().shipped) {
        check_rollback(spool, &shipper.list(None).await?, shipper.location())?;
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
    for verified in shipper.read(tip, theirs).await? {
        warn!(segment = %verified.manifest().seq, "the archive has a segment that this spool did not know");
        spool.adopt(&verified)?;
    }
    catch_up_with_head(spool, shipper).await
}

/// Idle progress stands in the head alone.
async fn catch_up_with_head(spool: &mut Spool, shipper: &Shipper) -> Result<()> {
    let Some(head) = shipper.head().await? else { return Ok(()) };
    let state = spool.state();
    if head.archive_id != state.archive_id || head.covered_lsn <= state.covered_lsn {
        return Ok(());
    }
    if let Some(newest) = head.newest
        && newest.name.seq.get() > state.tip.seq()
    {
        return Err(head::missing_segment(newest.name.seq));
    }
    spool.update(|state| {
        state.covered_lsn = head.covered_lsn;
        state.covered_at = Some(head.covered_at);
    })
}

/// Days never go back: what was shipped later lies in this folder or in a later one.
fn day_of_shipped(spool: &Spool) -> Option<Day> {
    let state = spool.state();
    let last = state.tip.last.filter(|last| last.segment.seq.get() == state.shipped);
    let held = || spool.segments().find(|segment| segment.name.seq.get() == state.shipped);
    last.map(|last| last.day).or_else(|| held().map(|segment| segment.day))
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
) -> Result<State> {
    let client = connection.session.client();
    let facts = &connection.facts;
    let slot = slot::read(client, &config.slot_name).await?;
    let position = Position::read(client).await?;
    let began =
        slot.confirmed_flush_lsn.ok_or_else(|| Error::new(Kind::NotFound, "the slot has no position yet"))?;
    let ours = owner(config, facts);
    let mut state = State {
        archive_id: uuid::Uuid::new_v4(),
        source: Origin {
            system_identifier: facts.system_identifier.clone(),
            timeline: position.timeline,
            database: facts.database.clone(),
            database_oid: facts.database_oid,
            slot: config.slot_name.to_string(),
        },
        tip: Tip { last: None, end_lsn: began },
        shipped: 0,
        shipped_at: None,
        covered_lsn: began,
        covered_at: None,
        gaps: Vec::new(),
        newest_snapshot: None,
        remembered: Default::default(),
        warned: Default::default(),
        warned_from: None,
        slot_transactions: slot.transactions,
    };
    match identity {
        Some(identity) => adopt_archive(&mut state, &identity, &ours, shipper).await?,
        None => {
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
        }
    }
    Ok(state)
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

/// A new spool for an archive that exists: the chain goes on where the archive ends, and the slot must too.
async fn adopt_archive(
    state: &mut State,
    identity: &ArchiveIdentity,
    ours: &IdentitySource,
    shipper: &Shipper,
) -> Result<()> {
    check_owner(identity, ours, shipper.location())?;
    state.archive_id = identity.archive_id;
    let end = shipper.end(identity.archive_id).await?;
    if let Some((tip, timeline)) = end.last {
        state.tip = tip;
        state.shipped = tip.seq();
        // Not the server's own: whether that descends from the archive's is still to be asked.
        state.source.timeline = timeline;
    } else if let Some(head) = &end.head {
        // The head alone knows how far the slot had come: ahead of it, it has lost changes.
        state.tip.end_lsn = state.tip.end_lsn.min(head.covered_lsn);
    }
    state.covered_lsn = state.tip.end_lsn;
    if let Some(head) = end.head {
        state.covered_lsn = state.covered_lsn.max(head.covered_lsn);
        state.covered_at = Some(head.covered_at);
    }
    info!(archive_id = %identity.archive_id, lsn = %state.covered_lsn, "new spool for an archive that exists");
    Ok(())
}
