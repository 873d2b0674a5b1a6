//! A small sound proof, for tests.

use super::*;
use crate::manifest::sample::{archive_id, table, ts, users};

pub(crate) fn id() -> ProofId {
    "00000000016B3D40-20260205T103000Z".parse().expect("an id")
}

pub(crate) fn mark() -> Mark {
    let marked = MarkedTable { k: 1, relation: users(), foreign_keys: vec![] };
    Mark { id: id(), tables: BTreeMap::from([(table("users"), marked)]) }
}

pub(crate) fn buckets() -> Buckets {
    let mut digester = Digester::new(Layout::of(&users()), 1);
    digester.push(b"1\tJohn\n2\t\\N\n3\t\n").expect("rows");
    digester.finish().expect("whole rows")
}

pub(crate) fn proved(file: &[u8]) -> ProvedTable {
    ProvedTable {
        rows: 3,
        k: 1,
        relation: users().fingerprint,
        file: ProofId::buckets_name(1),
        bytes: file.len() as u64,
        sha256: Digest::of(file),
        not_comparable: vec![],
        computed: BTreeMap::new(),
        foreign_keys: vec![],
        rules: BTreeMap::new(),
    }
}

pub(crate) fn proof() -> ProofManifest {
    let file = buckets().encode().expect("zstd");
    let mut orders = proved(&file);
    orders.file = ProofId::buckets_name(2);
    orders.not_comparable = vec!["note".into()];
    orders.foreign_keys = vec![ForeignKey {
        name: "orders_user".into(),
        columns: vec!["user_id".into()],
        references: table("users"),
        key: vec!["id".into()],
        orphans: Some(Violators { rows: vec![RowHash(7), RowHash(8)], more: false }),
    }];
    let answer = |answer| RuleAnswer::new(rule_sha256("SELECT id FROM orders"), answer);
    orders.rules = BTreeMap::from([
        ("positive".into(), answer(Ok(Violators { rows: vec![RowHash(0x1234)], more: false }))),
        ("slow".into(), answer(Err("canceling statement due to statement timeout".into()))),
    ]);
    ProofManifest {
        format: crate::document::FORMAT,
        archive_id: archive_id(),
        id: id(),
        cut: Cut {
            seq: SegmentSeq::new(2).expect("a number"),
            sha256: Digest::of(b"manifest"),
            end_lsn: "0/16B3D40".parse().expect("an LSN"),
        },
        taken_at: ts("2026-02-05T10:30:00Z"),
        snapshot: Seen { xmin: 700, xmax: 760, xip: vec![701, 754] },
        tables: BTreeMap::from([(table("users"), proved(&file)), (table("sales.orders"), orders)]),
        not_proved: BTreeMap::from([(table("held"), "DDL waited".into())]),
        created_at: ts("2026-02-05T10:45:00Z"),
        archiver: "0.1.0".into(),
    }
}
