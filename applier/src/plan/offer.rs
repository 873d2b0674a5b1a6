//! Which base a table is loaded from. Pure: what was asked for and what the archive offers in, a choice out.

use std::collections::BTreeMap;
use std::sync::Arc;

use syncdata_formats::floor::Floor;
use syncdata_formats::layout::SegmentSeq;
use syncdata_formats::lsn::Lsn;
use syncdata_formats::manifest::Since;
use syncdata_formats::name::TableName;
use syncdata_formats::snapshot::{SnapshotId, SnapshotManifest};

use crate::plan::state::Want;

/// Since when production captures each table, in what archives call text.
pub(crate) type CaptureSince = BTreeMap<TableName, Since>;

/// What the archive has, and how far this copy is.
#[derive(Debug)]
pub(crate) struct Offer<'a> {
    /// From the newest to the oldest.
    pub snapshots: &'a [Arc<SnapshotManifest>],
    pub floor: Option<&'a Floor>,
    /// Everything that committed up to here is in the live tables.
    pub reached: Lsn,
    /// Since when production captures each table, as far as it is known.
    pub since: &'a CaptureSince,
}

#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Choice {
    Snapshot(Arc<SnapshotManifest>),
    /// Everything since its capture began: it was empty then.
    Start(Lsn),
    /// There is a base, which is ahead of this copy: tables move together, so it has to wait.
    Wait(SnapshotId),
    /// In words, why there is none, and what to do.
    Nothing(String),
}

impl Offer<'_> {
    pub(crate) fn choose(&self, table: &TableName, want: Want) -> Choice {
        let with_table = || self.snapshots.iter().filter(|snapshot| snapshot.tables.contains_key(table));
        let covered = with_table().find(|snapshot| snapshot.end_lsn <= self.reached);
        let newest = with_table().next();
        match (want, covered, newest) {
            (Want::Start, _, _) => self.start(table),
            (_, Some(snapshot), _) => Choice::Snapshot(Arc::clone(snapshot)),
            (_, None, Some(snapshot)) => Choice::Wait(snapshot.id.clone()),
            (Want::Snapshot, None, None) => {
                Choice::Nothing(format!("no snapshot in the archive has {table}; {}", take_snapshot(table)))
            }
            (Want::Auto | Want::Rebuild, None, None) => self.start(table),
        }
    }

    fn start(&self, table: &TableName) -> Choice {
        let reason = match self.since.get(table) {
            Some(since) if since.empty => return self.start_at(table, since.lsn),
            Some(_) => "had rows when its capture began, which the archive does not have",
            None => "may have had rows when its capture began: the archive does not say",
        };
        Choice::Nothing(format!("it {reason}; {}", take_snapshot(table)))
    }

    fn start_at(&self, table: &TableName, from: Lsn) -> Choice {
        match self.floor {
            Some(floor) if floor.seq != SegmentSeq::FIRST => Choice::Nothing(format!(
                "needs a base copy: the archive begins at segment {}. Load it with pg_dump and add it with --from now, \
                 or: {}",
                floor.seq,
                take_snapshot(table)
            )),
            _ => Choice::Start(from),
        }
    }
}

/// What makes a base of it, as somebody types it.
pub(crate) fn take_snapshot(table: &TableName) -> String {
    format!("run on the production host: syncdata-archiver snapshot --tables {}", table.shell_word())
}

/// A snapshot of these tables, each with so many bytes.
#[cfg(test)]
pub(crate) fn sample(tables: &[(&str, u64)]) -> Arc<SnapshotManifest> {
    use syncdata_formats::manifest::{FORMAT, Relation, ReplicaIdentity};
    use syncdata_formats::snapshot::{Seen, SnapshotSource, TableCopy};

    let at = "2026-02-05T10:30:00Z".parse().expect("a time");
    let copy = |bytes| TableCopy {
        relation: Relation::new(Vec::new(), Vec::new(), ReplicaIdentity::Default),
        columns: Vec::new(),
        rows: 0,
        content_bytes: bytes,
        parts: Vec::new(),
        sequences: Default::default(),
    };
    Arc::new(SnapshotManifest {
        format: FORMAT,
        archive_id: uuid::Uuid::nil(),
        id: SnapshotId::new(Lsn::ZERO, at),
        start_lsn: Lsn::ZERO,
        end_lsn: Lsn::ZERO,
        snapshot: Seen { xmin: 1, xmax: 1, xip: Vec::new() },
        taken_at: at,
        source: SnapshotSource {
            system_identifier: String::new(),
            timeline: 1,
            database: String::new(),
            server_version: String::new(),
            slot: String::new(),
            settings: Default::default(),
        },
        tables: tables.iter().map(|(name, bytes)| (name.parse().expect("a name"), copy(*bytes))).collect(),
        created_at: at,
        archiver: String::new(),
    })
}

#[cfg(test)]
mod tests {
    use syncdata_formats::manifest::{FORMAT, Link};
    use uuid::Uuid;

    use super::*;

    fn lsn(number: u64) -> Lsn {
        Lsn::from_u64(number)
    }

    fn table() -> TableName {
        "users".parse().expect("a name")
    }

    fn snapshot(end: u64, table: &str) -> Arc<SnapshotManifest> {
        let snapshot = Arc::unwrap_or_clone(sample(&[(table, 0)]));
        let id = SnapshotId::new(lsn(end - 1), snapshot.taken_at);
        Arc::new(SnapshotManifest { id, start_lsn: lsn(end - 1), end_lsn: lsn(end), ..snapshot })
    }

    fn floor(seq: u64) -> Floor {
        let seq = SegmentSeq::new(seq).expect("a number");
        let previous = (seq > SegmentSeq::FIRST).then(|| Link {
            seq: SegmentSeq::new(seq.get() - 1).expect("a number"),
            sha256: syncdata_formats::digest::Digest::of(b""),
        });
        let pruned_at = "2026-02-05T10:30:00Z".parse().expect("a time");
        Floor { format: FORMAT, archive_id: Uuid::nil(), seq, previous, pruned_at }
    }

    fn since(empty: bool) -> CaptureSince {
        CaptureSince::from([(table(), Since { lsn: lsn(40), empty })])
    }

    #[test]
    fn the_newest_snapshot_that_the_copy_has_reached_is_taken() {
        let (new, old, other) = (snapshot(300, "users"), snapshot(200, "users"), snapshot(250, "orders"));
        let snapshots = [Arc::clone(&new), other, Arc::clone(&old)];
        for want in [Want::Auto, Want::Snapshot, Want::Rebuild] {
            let choose = |reached| {
                let offer =
                    Offer { snapshots: &snapshots, floor: None, reached: lsn(reached), since: &since(true) };
                offer.choose(&table(), want)
            };
            assert_eq!(choose(300), Choice::Snapshot(Arc::clone(&new)));
            assert_eq!(choose(299), Choice::Snapshot(Arc::clone(&old)));
            // Not from the start: a table that has a snapshot may be older than the archive.
            assert_eq!(choose(199), Choice::Wait(new.id.clone()));
        }
    }

    #[test]
    fn without_a_snapshot_the_archives_first_segment_has_to_be_there() {
        let (whole, pruned) = (floor(1), floor(7));
        let since = since(true);
        for (floor, is_whole) in [(None, true), (Some(&whole), true), (Some(&pruned), false)] {
            let offer = Offer { snapshots: &[], floor, reached: lsn(500), since: &since };
            for want in [Want::Auto, Want::Start, Want::Rebuild] {
                let starts = offer.choose(&table(), want) == Choice::Start(lsn(40));
                assert_eq!(starts, is_whole, "{want:?} {floor:?}");
            }
            assert!(matches!(offer.choose(&table(), Want::Snapshot), Choice::Nothing(_)));
        }
        let snapshots = [snapshot(300, "users")];
        let offer = Offer { snapshots: &snapshots, floor: None, reached: lsn(500), since: &since };
        assert_eq!(offer.choose(&table(), Want::Start), Choice::Start(lsn(40)));
    }

    #[test]
    fn changes_alone_are_a_base_only_of_what_was_empty_when_they_began() {
        for (since, says) in
            [(since(false), "had rows when its capture began"), (CaptureSince::new(), "may have had rows")]
        {
            let offer = Offer { snapshots: &[], floor: None, reached: lsn(500), since: &since };
            for want in [Want::Auto, Want::Start, Want::Rebuild] {
                let Choice::Nothing(reason) = offer.choose(&table(), want) else { panic!("{want:?}") };
                assert!(reason.contains(says), "{reason}");
                assert!(reason.ends_with("syncdata-archiver snapshot --tables users"), "{reason}");
            }
        }
        let odd = TableName::new("sales", "it's; rm -rf").expect("a name");
        assert!(
            take_snapshot(&odd).ends_with(r"--tables 'sales.it'\''s; rm -rf'"),
            "{}",
            take_snapshot(&odd)
        );
    }
}
