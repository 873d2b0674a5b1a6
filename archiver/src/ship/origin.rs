//! Is this server still the source of the spool, with the history that was archived?

use std::collections::BTreeMap;

use syncdata_formats::lsn::Lsn;
use syncdata_formats::name::SlotName;
use syncdata_formats::snapshot::SnapshotId;
use syncdata_formats::{Error, Kind, Result};

use crate::capture::position::number_of;
use crate::source::catalog::{self, Facts, Position, Slot};
use crate::source::connection::Connection;
use crate::source::slot;
use crate::spool::{HeldSnapshot, Origin, State};

/// The slot, or why it is not there. Whoever followed it before has let go of it.
pub(crate) async fn read_slot(origin: &Origin, connection: &Connection, name: &SlotName) -> Result<Slot> {
    let slot = slot::read_at_rest(connection, name).await;
    slot.map_err(|error| explain_missing_slot(error, origin, &connection.facts))
}

/// How a server's history and the archive's belong together.
#[derive(Debug, Default)]
pub(crate) struct History {
    /// Why the server is not the one that was archived: it has lost archived changes, or never had them.
    pub diverged: Option<String>,
    /// Where the server left the timeline that was read last. Positions after it are other ones now.
    pub switch: Option<Lsn>,
}

/// `held` are the snapshots that the archive is known to have.
pub(crate) async fn history(
    state: &State,
    held: &BTreeMap<SnapshotId, HeldSnapshot>,
    connection: &Connection,
    position: &Position,
    user: &str,
) -> Result<History> {
    if state.diverged.is_some() {
        return Ok(History { diverged: state.diverged.clone(), switch: None });
    }
    let (before, now) = (state.source.timeline, position.timeline);
    let switch = match before == now {
        true => None,
        false => catalog::switch_point(connection.session.client(), before, now, user).await?,
    };
    let mut diverged = is_ours(state, state.needed_wal(), now, position.flush, switch).err();
    if diverged.is_none() {
        diverged = undone(state, held, connection, position, user).await?;
    }
    Ok(History { diverged, switch })
}

/// Rows of a base copy come to the local side, and no segment may end after it yet. Why one of them is of a history that is
/// lost: the newest that is known, or one that was taken after it and that the spool has not heard of.
pub(crate) async fn undone(
    state: &State,
    held: &BTreeMap<SnapshotId, HeldSnapshot>,
    connection: &Connection,
    position: &Position,
    user: &str,
) -> Result<Option<String>> {
    let known = state.newest_snapshot.as_ref();
    let later = held.values().filter(|snapshot| known.is_none_or(|known| snapshot.taken_at > known.taken_at));
    // The batch that a copy ends with is one of the spool's, whose WAL is asked for by itself; of a batch that it has lost, the
    // next one takes another number.
    let is_of_wal = |one: &&HeldSnapshot| number_of(one.end_lsn).is_none();
    let ahead = |one: &&HeldSnapshot| one.end_lsn > state.tip.end_lsn;
    for snapshot in known.into_iter().chain(later).filter(is_of_wal).filter(ahead) {
        let now = position.timeline;
        let switch = match snapshot.timeline == now {
            true => None,
            false => catalog::switch_point(connection.session.client(), snapshot.timeline, now, user).await?,
        };
        if let Err(why) = has_rows_of(snapshot, now, position.flush, switch) {
            return Ok(Some(why));
        }
    }
    Ok(None)
}

/// Whether a server still has the history that a base copy was taken of.
fn has_rows_of(
    snapshot: &HeldSnapshot,
    timeline: u32,
    flush: Lsn,
    switch: Option<Lsn>,
) -> Result<(), String> {
    let HeldSnapshot { id, end_lsn, timeline: from, .. } = snapshot;
    let what = format!("the snapshot {id} has rows as of {end_lsn}, and a gap has to end past that");
    if *from != timeline {
        return match switch {
            Some(switch) if *end_lsn <= switch => Ok(()),
            Some(switch) => Err(format!("timeline {timeline} left timeline {from} at {switch}; {what}")),
            None => Err(format!("timeline {timeline} does not descend from timeline {from}; {what}")),
        };
    }
    if flush < *end_lsn { Err(format!("its WAL ends at {flush}; {what}")) } else { Ok(()) }
}

/// What an operator reads of a divergence, at every poll until one decides.
pub(crate) fn diverged(why: &str) -> Error {
    Error::new(Kind::Foreign, format!("the source has diverged from the archive: {why}")).hint(
        "archived changes are not in production any more. Either use a new archive_dir and spool_dir, then \
         `resync --all --adopt` on the local side; or keep the archive and run `syncdata-archiver declare-gap --upto LSN \
         --reason TEXT` with the source's present position (SELECT pg_current_wal_flush_lsn()), then `syncdata-archiver \
         snapshot`, then `resync --all` on the local side",
    )
}

/// The same, where the spool is new: nothing in it could remember a decision to go on with that archive.
pub(crate) fn diverged_from_the_start(why: &str) -> Error {
    Error::new(Kind::Foreign, format!("the source has diverged from the archive: {why}")).hint(
        "archived changes are not in production any more, and this spool is new: it cannot go on with that archive. Use a new \
         archive_dir, then `resync --all --adopt` on the local side; or bring the old spool back, and decide with it",
    )
}

/// What the server's facts mean for this spool: that it is another server is an error, never a gap.
pub(crate) fn check_server(origin: &Origin, facts: &Facts, slot: &SlotName) -> Result<()> {
    let refuse = |what: &str, before: &str, now: &str| {
        Err(Error::new(
            Kind::Foreign,
            format!("the source is not the one of this spool: {what} was {before}, is {now}"),
        )
        .hint(
            "check pg_host, pg_port, pg_database and slot_name; another source needs a new archive_dir and a new \
             spool_dir",
        ))
    };
    if origin.system_identifier != facts.system_identifier {
        return refuse("system_identifier", &origin.system_identifier, &facts.system_identifier);
    }
    if origin.database != facts.database {
        return refuse("the database", &origin.database, &facts.database);
    }
    if origin.slot != slot.as_str() {
        return refuse("slot_name", &origin.slot, slot.as_str());
    }
    Ok(())
}

/// A database takes its slots along when it is dropped.
fn explain_missing_slot(error: Error, origin: &Origin, facts: &Facts) -> Error {
    if error.kind() != Kind::NotFound || origin.database_oid == facts.database_oid {
        return error;
    }
    let (before, now) = (origin.database_oid, facts.database_oid);
    error.context(format!(
        "the database {} was dropped and made again (its oid was {before}, is {now}), and its slots went with it",
        facts.database
    ))
}

/// Whether a server on another timeline, or one that ends before the archive, still has the history that we archived.
fn is_ours(
    state: &State,
    position: Lsn,
    timeline: u32,
    flush: Lsn,
    switch: Option<Lsn>,
) -> Result<(), String> {
    if state.source.timeline != timeline {
        let (from, to) = (state.source.timeline, timeline);
        return match switch {
            Some(switch) if position <= switch => Ok(()),
            Some(switch) => Err(format!(
                "timeline {to} left timeline {from} at {switch}, but changes up to {position} are archived"
            )),
            None => Err(format!("timeline {to} does not descend from timeline {from}")),
        };
    }
    if flush < position {
        return Err(format!("its WAL ends at {flush}, but changes up to {position} are archived"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lsn(position: u64) -> Lsn {
        Lsn::from_u64(position)
    }

    fn state() -> State {
        State { slot_transactions: Some(9), ..State::founded("syncdata_slot") }
    }

    #[test]
    fn another_cluster_database_or_slot_is_refused() {
        let slot = |name: &str| name.parse().expect("a name");
        for (facts, name) in [
            (Facts { system_identifier: "8".into(), ..Facts::founded() }, "syncdata_slot"),
            (Facts { database: "other".into(), ..Facts::founded() }, "syncdata_slot"),
            (Facts::founded(), "other_slot"),
        ] {
            assert!(check_server(&state().source, &facts, &slot(name)).is_err());
        }
        assert!(check_server(&state().source, &Facts::founded(), &slot("syncdata_slot")).is_ok());
    }

    #[test]
    fn history_is_ours_only_if_the_archive_ends_before_the_switch() {
        let at = |timeline, flush, switch: Option<u64>| {
            is_ours(&state(), lsn(0x20), timeline, lsn(flush), switch.map(Lsn::from_u64))
        };
        assert!(at(1, 0x20, None).is_ok());
        assert!(at(1, 0x1F, None).is_err(), "the server lost what we have");
        assert!(at(2, 0x40, Some(0x20)).is_ok());
        assert!(at(2, 0x40, Some(0x1F)).is_err());
        assert!(at(3, 0x40, None).is_err(), "not our descendant");
    }
}
