//! Which gaps snapshots have mended: the copy of a table that was taken after a gap needs nothing from before.
//!
//! Pure.

use std::collections::BTreeSet;

use syncdata_formats::manifest::Gap;
use syncdata_formats::name::TableName;

use crate::spool::HeldSnapshot;

/// The gaps that are left. One that names no table concerns all that are captured.
pub(crate) fn unmended<'a>(
    gaps: &[Gap],
    snapshots: impl Iterator<Item = &'a HeldSnapshot> + Clone,
    captured: &BTreeSet<TableName>,
) -> Vec<Gap> {
    // A poll that could not look at the catalog knows nothing.
    let is_open = |gap: &&Gap| {
        if captured.is_empty() {
            return true;
        }
        let after = snapshots.clone().filter(|snapshot| snapshot.id.start_lsn() >= gap.to);
        let copied: BTreeSet<&TableName> = after.flat_map(|snapshot| &snapshot.tables).collect();
        match &gap.tables {
            // What is captured no more concerns nobody.
            Some(tables) => tables.iter().any(|table| captured.contains(table) && !copied.contains(table)),
            None => captured.iter().any(|table| !copied.contains(table)),
        }
    };
    gaps.iter().filter(is_open).cloned().collect()
}

#[cfg(test)]
mod tests {
    use syncdata_formats::lsn::Lsn;
    use syncdata_formats::snapshot::SnapshotId;
    use syncdata_formats::time::Timestamp;

    use super::*;

    fn tables(names: &[&str]) -> BTreeSet<TableName> {
        names.iter().map(|name| name.parse().expect("a name")).collect()
    }

    fn gap(to: u64, names: Option<&[&str]>) -> Gap {
        let tables = names.map(|names| tables(names).into_iter().collect());
        Gap { from: Lsn::from_u64(1), to: Lsn::from_u64(to), reason: String::new(), tables }
    }

    fn snapshot(start: u64, names: &[&str]) -> HeldSnapshot {
        let taken_at = Timestamp::from_micros(0).expect("a time");
        let (id, tables) = (SnapshotId::new(Lsn::from_u64(start), taken_at), tables(names));
        HeldSnapshot { id, taken_at, tables, end_lsn: Lsn::from_u64(start), timeline: 1 }
    }

    #[test]
    fn a_gap_is_mended_when_every_table_that_it_concerns_was_copied_after_it() {
        let all = &["a", "b"][..];
        for (gap, snapshots, is_mended) in [
            (gap(9, None), vec![], false),
            (gap(9, None), vec![snapshot(8, all)], false),
            (gap(9, None), vec![snapshot(9, all)], true),
            (gap(9, None), vec![snapshot(9, &["a"])], false),
            (gap(9, None), vec![snapshot(9, &["a"]), snapshot(12, &["b"])], true),
            (gap(9, Some(&["a"])), vec![snapshot(9, &["a"])], true),
            (gap(9, Some(&["a"])), vec![snapshot(9, &["b"])], false),
            (gap(9, Some(&["gone"])), vec![], true),
        ] {
            let left = unmended(std::slice::from_ref(&gap), snapshots.iter(), &tables(all));
            assert_eq!(left.is_empty(), is_mended, "{gap:?} {snapshots:?}");
            let left = unmended(std::slice::from_ref(&gap), snapshots.iter(), &tables(&[]));
            assert_eq!(left, [gap], "of what is captured, nothing is known");
        }
    }
}
