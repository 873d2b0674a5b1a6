//! Is the slot still where the archive left it? If it is ahead, changes are lost, and the cause decides the words.
//!
//! Pure: what the server says and what the spool remembers go in, a verdict comes out.

use syncdata_formats::lsn::Lsn;
use syncdata_formats::manifest::Gap;
use syncdata_formats::name::SlotName;
use syncdata_formats::{Error, Kind, Result};

use crate::source::catalog::{Facts, Slot};
use crate::spool::{Origin, State};

/// What the server's facts mean for this spool: that it is another server is an error, never a gap.
pub(crate) fn check_origin(origin: &Origin, facts: &Facts, slot: &SlotName) -> Result<()> {
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
pub(crate) fn explain_missing_slot(error: Error, origin: &Origin, facts: &Facts) -> Error {
    if error.kind() != Kind::NotFound || origin.database_oid == facts.database_oid {
        return error;
    }
    let (before, now) = (origin.database_oid, facts.database_oid);
    error.context(format!(
        "the database {} was dropped and made again (its oid was {before}, is {now}), and its slots went with it",
        facts.database
    ))
}

/// Whether a server on another timeline, or behind us, still has the history that we archived.
pub(crate) fn check_history(
    state: &State,
    position: Lsn,
    timeline: u32,
    flush: Lsn,
    switch: Option<Lsn>,
) -> Result<()> {
    let diverged = |why: String| {
        Err(Error::new(Kind::Foreign, format!("the source has diverged from the archive: {why}")).hint(
            "archived changes are not in production any more: use a new archive_dir and spool_dir, \
             then `resync --all --adopt` on the local side",
        ))
    };
    if state.source.timeline != timeline {
        let (from, to) = (state.source.timeline, timeline);
        return match switch {
            Some(switch) if position <= switch => Ok(()),
            Some(switch) => diverged(format!(
                "timeline {to} left timeline {from} at {switch}, but changes up to {position} are archived"
            )),
            None => diverged(format!("timeline {to} does not descend from timeline {from}")),
        };
    }
    if flush < position {
        return diverged(format!("its WAL ends at {flush}, but changes up to {position} are archived"));
    }
    Ok(())
}

/// The gap that a slot ahead of the archive means; `None` when it is not ahead.
pub(crate) fn of_slot(state: &State, position: Lsn, facts: &Facts, slot: &Slot) -> Option<Gap> {
    let confirmed = slot.confirmed_flush_lsn?;
    if confirmed <= position {
        return None;
    }
    let fewer =
        matches!((state.slot_transactions, slot.transactions), (Some(before), Some(now)) if now < before);
    let cause = if state.source.database_oid != facts.database_oid {
        "the database was dropped and made again"
    } else if fewer {
        "the slot was dropped and made again"
    } else {
        "the slot was consumed by another reader, or made again"
    };
    let reason = format!("{cause}: it stands at {confirmed}, the archive ends at {position}");
    Some(Gap { from: position, to: confirmed, reason, tables: None })
}

/// Is the commit that ends there in one of the gaps?
pub(crate) fn covers(gaps: &[Gap], end: Lsn) -> bool {
    gaps.iter().any(|gap| gap.from < end && end <= gap.to)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::capture::Remembered;
    use crate::spool::Tip;

    fn lsn(position: u64) -> Lsn {
        Lsn::from_u64(position)
    }

    fn state() -> State {
        State {
            archive_id: uuid::Uuid::nil(),
            source: Origin {
                system_identifier: "7".into(),
                timeline: 1,
                database: "app".into(),
                database_oid: 5,
                slot: "syncdata_slot".into(),
            },
            tip: Tip { last: None, end_lsn: lsn(0x10) },
            shipped: 0,
            shipped_at: None,
            covered_lsn: lsn(0x10),
            covered_at: None,
            gaps: Vec::new(),
            newest_snapshot: None,
            remembered: Remembered::default(),
            warned: BTreeMap::new(),
            warned_from: None,
            slot_transactions: Some(9),
        }
    }

    fn facts() -> Facts {
        Facts {
            system_identifier: "7".into(),
            database: "app".into(),
            database_oid: 5,
            server_version: "18.6".into(),
            server_version_num: 180_006,
            encoding: "UTF8".into(),
            in_recovery: false,
        }
    }

    fn slot(confirmed: u64, transactions: u64) -> Slot {
        Slot {
            plugin: "wal2json".into(),
            database: "app".into(),
            active_pid: None,
            restart_lsn: Some(lsn(1)),
            confirmed_flush_lsn: Some(lsn(confirmed)),
            wal_status: "reserved".into(),
            invalidation_reason: None,
            transactions: Some(transactions),
            spilled_bytes: None,
        }
    }

    #[test]
    fn a_slot_at_or_behind_the_archive_is_no_gap() {
        for confirmed in [0x5, 0x20] {
            assert_eq!(of_slot(&state(), lsn(0x20), &facts(), &slot(confirmed, 9)), None);
        }
    }

    #[test]
    fn causes_of_a_gap_are_told_apart() {
        let other_database = Facts { database_oid: 6, ..facts() };
        for (facts, transactions, says) in [
            (facts(), 12, "another reader"),
            (facts(), 1, "dropped and made again"),
            (other_database, 12, "the database was dropped"),
        ] {
            let gap = of_slot(&state(), lsn(0x20), &facts, &slot(0x30, transactions)).expect("a gap");
            assert!(gap.reason.contains(says), "{}", gap.reason);
            assert!(
                gap.reason.contains("0/30") && gap.reason.contains("0/20"),
                "both positions: {}",
                gap.reason
            );
            assert_eq!((gap.from, gap.to, gap.tables), (lsn(0x20), lsn(0x30), None));
        }
    }

    #[test]
    fn another_cluster_database_or_slot_is_refused() {
        let slot = |name: &str| name.parse().expect("a name");
        for (facts, name) in [
            (Facts { system_identifier: "8".into(), ..facts() }, "syncdata_slot"),
            (Facts { database: "other".into(), ..facts() }, "syncdata_slot"),
            (facts(), "other_slot"),
        ] {
            assert!(check_origin(&state().source, &facts, &slot(name)).is_err());
        }
        assert!(check_origin(&state().source, &facts(), &slot("syncdata_slot")).is_ok());
    }

    #[test]
    fn history_is_ours_only_if_the_archive_ends_before_the_switch() {
        let at = |timeline, flush, switch: Option<u64>| {
            check_history(&state(), lsn(0x20), timeline, lsn(flush), switch.map(Lsn::from_u64))
        };
        assert!(at(1, 0x20, None).is_ok());
        assert!(at(1, 0x1F, None).is_err(), "the server lost what we have");
        assert!(at(2, 0x40, Some(0x20)).is_ok());
        assert!(at(2, 0x40, Some(0x1F)).is_err());
        assert!(at(3, 0x40, None).is_err(), "not our descendant");
    }
}
