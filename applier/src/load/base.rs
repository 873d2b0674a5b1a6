//! What a group of tables is made from.

use std::sync::Arc;

use syncdata_formats::lsn::Lsn;
use syncdata_formats::name::TableName;
use syncdata_formats::snapshot::{SnapshotId, SnapshotManifest};
use syncdata_formats::time::Day;

use super::Known;
use crate::archive::range::CLOCK_DAYS;

/// Rows of the tables that are loaded together; a larger table is loaded alone.
const GROUP_BYTES_MAX: u64 = 8 << 30;

#[derive(Clone, Debug)]
pub(crate) enum Base {
    Snapshot(Arc<SnapshotManifest>),
    /// Everything since its capture began, when it was empty.
    Start {
        from: Lsn,
    },
}

/// What tells bases apart, and the order in which they are loaded.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum BaseKey {
    Snapshot(SnapshotId),
    Start { from: Lsn },
}

impl Base {
    pub(crate) fn key(&self) -> BaseKey {
        match self {
            Base::Snapshot(snapshot) => BaseKey::Snapshot(snapshot.id.clone()),
            Base::Start { from } => BaseKey::Start { from: *from },
        }
    }

    pub(crate) fn known(&self) -> Known {
        match self {
            Base::Snapshot(snapshot) => {
                Known { upto: snapshot.start_lsn, snapshot: Some(Arc::clone(snapshot)), until: None }
            }
            Base::Start { from, .. } => Known { upto: *from, snapshot: None, until: None },
        }
    }

    /// The first folder that may hold changes after it: what was seen committed before it was taken, and clocks go back.
    pub(crate) fn first_day(&self) -> Option<Day> {
        match self {
            Base::Snapshot(snapshot) => Some(snapshot.taken_at.day().days_before(CLOCK_DAYS)),
            Base::Start { .. } => None,
        }
    }

    pub(crate) fn name(&self) -> String {
        match self {
            Base::Snapshot(snapshot) => format!("snapshot {}", snapshot.id),
            Base::Start { .. } => "segment 1".to_owned(),
        }
    }

    /// Everything up to here is in what it makes, changes included.
    pub(crate) fn end(&self) -> Lsn {
        match self {
            Base::Snapshot(snapshot) => snapshot.end_lsn,
            Base::Start { .. } => Lsn::ZERO,
        }
    }

    /// What is loaded together: changes after the base are read once for all of it, and its shadows need room at the
    /// same time. Without the replica role foreign keys tie all tables together.
    pub(super) fn in_groups(&self, tables: &[TableName], replica: bool) -> Vec<Vec<TableName>> {
        let bytes_of = |table: &TableName| match self {
            Base::Snapshot(snapshot) => snapshot.tables.get(table).map_or(0, |copy| copy.content_bytes),
            Base::Start { .. } => 0,
        };
        let mut groups: Vec<Vec<TableName>> = Vec::new();
        let mut bytes = 0;
        for table in tables {
            let more = bytes_of(table);
            match groups.last_mut() {
                Some(group) if !replica || bytes + more <= GROUP_BYTES_MAX => {
                    group.push(table.clone());
                    bytes += more;
                }
                _ => {
                    groups.push(vec![table.clone()]);
                    bytes = more;
                }
            }
        }
        groups
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table(name: &str) -> TableName {
        name.parse().expect("a name")
    }

    #[test]
    fn tables_are_loaded_together_as_far_as_their_shadows_have_room() {
        let base = crate::plan::offer::sample(&[
            ("a", 5 << 30),
            ("b", 3 << 30),
            ("c", 1),
            ("d", 20 << 30),
            ("e", 1),
        ]);
        let names: Vec<TableName> = ["a", "b", "c", "d", "e"].into_iter().map(table).collect();
        let groups = Base::Snapshot(base.clone()).in_groups(&names, true);
        let expected = [vec!["a", "b"], vec!["c"], vec!["d"], vec!["e"]];
        let expected: Vec<Vec<TableName>> =
            expected.into_iter().map(|group| group.into_iter().map(table).collect()).collect();
        assert_eq!(groups, expected);
        assert_eq!(Base::Snapshot(base).in_groups(&names, false), std::slice::from_ref(&names));
        assert_eq!(Base::Start { from: Lsn::ZERO }.in_groups(&names, true), [names]);
    }
}
