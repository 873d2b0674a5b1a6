//! A small sound segment, for tests.

use std::collections::BTreeMap;

use super::*;
use crate::change::{Commit, LineBuilder};
use crate::segment::{SegmentWriter, Summary};

pub(crate) fn lsn(text: &str) -> Lsn {
    text.parse().expect("an LSN")
}

pub(crate) fn ts(text: &str) -> Timestamp {
    text.parse().expect("a time")
}

pub(crate) fn table(text: &str) -> TableName {
    TableName::from_archive(text).expect("a table")
}

pub(crate) fn archive_id() -> uuid::Uuid {
    uuid::Uuid::from_u128(0x6f1c2f0e_0000_4000_8000_000000000001)
}

/// Two transactions, clocks going back between them: four rows of two tables, then one.
pub(crate) fn change_file() -> (Vec<u8>, Summary) {
    let mut lines = LineBuilder::new();
    let mut segment = SegmentWriter::new(Vec::new(), 3, lsn("0/16B3D00")).expect("zstd starts");
    let time = ts("2026-02-05T10:32:00Z");
    for (table_name, op) in [
        ("users", Op::Insert),
        ("users", Op::Update),
        ("sales.orders", Op::Delete),
        ("sales.orders", Op::Truncate),
    ] {
        let table = table(table_name);
        lines.begin(&table, op);
        if op.has_data() {
            lines.data_column("\"id\"", "1");
            lines.data_column("\"name\"", "\"John\"");
        }
        if op.has_old_keys() {
            lines.old_key("\"id\"", "1");
        }
        let line = lines.finish(lsn("0/16B3D08"), time).expect("fits");
        segment.row(&table, op, line).expect("a Vec takes all");
    }
    let first = Commit { xid: 754, changes: 4, lsn: lsn("0/16B3D10"), end_lsn: lsn("0/16B3D20"), ts: time };
    segment.commit(&first).expect("in order");

    let earlier = ts("2026-02-05T10:30:00.123456Z");
    lines.begin(&table("users"), Op::Insert);
    lines.data_column("\"id\"", "2");
    let line = lines.finish(lsn("0/16B3D04"), earlier).expect("fits");
    segment.row(&table("users"), Op::Insert, line).expect("a Vec takes all");
    let second =
        Commit { xid: 751, changes: 1, lsn: lsn("0/16B3D30"), end_lsn: lsn("0/16B3D40"), ts: earlier };
    segment.commit(&second).expect("in order");
    segment.finish().expect("a Vec takes all")
}

/// The second segment of its archive, with its change file.
pub(crate) fn segment() -> (Vec<u8>, Manifest) {
    let (file, summary) = change_file();
    let manifest = manifest(2, Some(link(1, b"the first manifest")), &summary);
    (file, manifest)
}

pub(crate) fn link(seq: u64, manifest: &[u8]) -> Link {
    Link { seq: SegmentSeq::new(seq).expect("a number"), sha256: Digest::of(manifest) }
}

pub(crate) fn manifest(seq: u64, previous: Option<Link>, summary: &Summary) -> Manifest {
    let seq = SegmentSeq::new(seq).expect("a number");
    let name = SegmentName { seq, end_lsn: summary.end_lsn };
    Manifest {
        format: FORMAT,
        archive_id: archive_id(),
        seq,
        previous,
        file: Some(summary.change_file(name)),
        records: summary.records,
        transactions: summary.transactions,
        tables: summary.tables.clone(),
        start_lsn: summary.start_lsn,
        end_lsn: summary.end_lsn,
        span: Some(summary.span),
        source: Source {
            kind: SourceKind::Wal2json,
            system_identifier: "7300000000000000001".into(),
            timeline: 1,
            database: "app".into(),
            server_version: "18.6".into(),
            slot: "syncdata_slot".into(),
            plugin: "wal2json 2.7".into(),
            settings: BTreeMap::from([("DateStyle".into(), "ISO, MDY".into())]),
            degraded: vec![],
            order: None,
            batch: None,
        },
        capture: vec![table("users"), table("sales.orders")],
        capture_since: BTreeMap::new(),
        relations: BTreeMap::from([(table("users"), users())]),
        gaps: vec![],
        proof: None,
        created_at: ts("2026-02-05T10:45:00Z"),
        archiver: "0.1.0".into(),
    }
}

pub(crate) fn users() -> Relation {
    let column = |name: &str, type_name: &str| Column {
        name: name.into(),
        type_name: type_name.into(),
        not_null: name == "id",
        generated: None,
        identity: (name == "id").then_some(Identity::Always),
        ..Column::default()
    };
    let columns = vec![column("id", "bigint"), column("name", "text")];
    Relation::new(columns, vec!["id".into()], ReplicaIdentity::Default)
}

/// A manifest without a change file.
pub(crate) fn gap_alone(seq: u64, previous: Option<Link>, from: &str, to: &str) -> Manifest {
    let (_, mut manifest) = segment();
    manifest.seq = SegmentSeq::new(seq).expect("a number");
    manifest.previous = previous;
    manifest.file = None;
    manifest.span = None;
    (manifest.records, manifest.transactions) = (0, 0);
    manifest.tables.clear();
    manifest.relations.clear();
    (manifest.start_lsn, manifest.end_lsn) = (lsn(from), lsn(to));
    manifest.gaps =
        vec![Gap { from: lsn(from), to: lsn(to), reason: "the slot was recreated".into(), tables: None }];
    manifest
}
