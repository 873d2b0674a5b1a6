//! Is the slot still where the archive left it? If it is ahead, changes are lost, and the cause decides the words.
//!
//! Pure: what the server says and what the spool remembers go in, a verdict comes out.

use syncdata_formats::lsn::Lsn;
use syncdata_formats::manifest::Gap;

use crate::source::catalog::{Facts, Slot};
use crate::spool::State;

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
    use super::*;

    fn lsn(position: u64) -> Lsn {
        Lsn::from_u64(position)
    }

    fn state() -> State {
        State { slot_transactions: Some(9), ..State::founded("syncdata_slot") }
    }

    fn slot(confirmed: u64, transactions: u64) -> Slot {
        Slot {
            plugin: "wal2json".into(),
            database: "app".into(),
            active_pid: None,
            restart_lsn: Some(lsn(1)),
            confirmed_flush_lsn: Some(lsn(confirmed)),
            wal_status: "reserved".into(),
            safe_wal_bytes: None,
            notes_bytes: None,
            invalidation_reason: None,
            transactions: Some(transactions),
            spilled_bytes: None,
            catalog_xmin: None,
        }
    }

    #[test]
    fn a_slot_at_or_before_the_end_of_the_archive_is_no_gap() {
        for confirmed in [0x5, 0x20] {
            assert_eq!(of_slot(&state(), lsn(0x20), &Facts::founded(), &slot(confirmed, 9)), None);
        }
    }

    #[test]
    fn causes_of_a_gap_are_told_apart() {
        let other_database = Facts { database_oid: 6, ..Facts::founded() };
        for (facts, transactions, says) in [
            (Facts::founded(), 12, "another reader"),
            (Facts::founded(), 1, "dropped and made again"),
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
}
