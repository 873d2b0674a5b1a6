use std::io::Cursor;

use proptest::prelude::*;

use super::*;
use crate::error::Kind;
use crate::manifest::sample::{archive_id, lsn, table, ts};
use crate::manifest::{Column, FORMAT, ReplicaIdentity};

/// Files of parts by name: what an archive holds.
type Files = BTreeMap<String, Vec<u8>>;

fn id() -> SnapshotId {
    SnapshotId::new(lsn("0/16B3D40"), ts("2026-02-05T10:30:00.5Z"))
}

fn name(content: &[u8], kind: PartKind) -> PartName {
    PartName { snapshot: id(), content: Digest::of(content), kind }
}

fn rows(count: u32, changed: Option<u32>) -> Vec<u8> {
    let row = |n| {
        let text = if changed == Some(n) { "other" } else { "value" };
        format!("{n}\t{text} {}\n", u64::from(n) * 7919)
    };
    (0..count).map(row).collect::<String>().into_bytes()
}

fn whole(content: &[u8], files: &mut Files) -> Part {
    let (bytes, file) = compress(&name(content, PartKind::Whole), content, 3).expect("memory");
    files.insert(file.file.clone(), bytes);
    Part {
        rows: content.iter().filter(|byte| **byte == b'\n').count() as u64,
        content_bytes: content.len() as u64,
        content_sha256: Digest::of(content),
        first_key: Some("0".into()),
        files: vec![file],
    }
}

fn with_delta(base: &Part, before: &[u8], content: &[u8], files: &mut Files) -> Part {
    let delta = Blocks::of(before, base.rows).delta(content).expect("a delta");
    let (bytes, mut file) = compress(&name(content, PartKind::Delta), &delta, 3).expect("memory");
    file.file = name(content, PartKind::Delta).to_string();
    files.insert(file.file.clone(), bytes);
    let mut chain = base.files.clone();
    chain.push(file);
    Part {
        content_bytes: content.len() as u64,
        content_sha256: Digest::of(content),
        files: chain,
        ..base.clone()
    }
}

fn poured(part: &Part, files: &Files) -> Result<Vec<u8>> {
    let mut content = Vec::new();
    let open = |file: &ChangeFile| {
        let bytes = files.get(&file.file).cloned();
        bytes.map(Cursor::new).ok_or_else(|| crate::Error::new(Kind::NotFound, "no such file"))
    };
    pour(part, open, |piece| {
        content.extend_from_slice(piece);
        Ok(())
    })?;
    Ok(content)
}

fn manifest() -> SnapshotManifest {
    let mut files = Files::new();
    let (before, after) = (rows(500, None), rows(500, Some(250)));
    let base = whole(&before, &mut files);
    let part = with_delta(&base, &before, &after, &mut files);
    let column = |name: &str| Column {
        name: name.into(),
        type_name: "text".into(),
        not_null: true,
        ..Column::default()
    };
    let copy = TableCopy {
        relation: crate::manifest::Relation::new(
            vec![column("id"), column("name")],
            vec!["id".into()],
            ReplicaIdentity::Default,
        ),
        columns: vec!["id".into(), "name".into()],
        rows: part.rows,
        content_bytes: part.content_bytes,
        parts: vec![part],
        sequences: BTreeMap::from([("users_id_seq".into(), Some(500))]),
    };
    SnapshotManifest {
        format: FORMAT,
        archive_id: archive_id(),
        id: id(),
        start_lsn: lsn("0/16B3D40"),
        end_lsn: lsn("0/16B3E00"),
        snapshot: Seen { xmin: 751, xmax: 760, xip: vec![751, 755] },
        taken_at: ts("2026-02-05T10:30:00Z"),
        source: SnapshotSource {
            system_identifier: "7300000000000000001".into(),
            timeline: 1,
            database: "app".into(),
            server_version: "18.6".into(),
            slot: "syncdata_slot".into(),
            settings: BTreeMap::new(),
        },
        tables: BTreeMap::from([(table("users"), copy)]),
        created_at: ts("2026-02-05T10:31:00Z"),
        archiver: "0.1.0".into(),
    }
}

#[test]
fn reads_what_it_writes() {
    let sound = manifest();
    assert_eq!(SnapshotManifest::decode(&sound.encode()).ok(), Some(sound));
}

#[test]
fn refuses_what_contradicts_itself() {
    type Damage = fn(&mut SnapshotManifest);
    type PartDamage = fn(&mut Part);
    let part = |manifest: &mut SnapshotManifest, damage: PartDamage| {
        damage(&mut manifest.tables.get_mut(&table("users")).expect("it is there").parts[0]);
    };
    let copies: &[(&str, Damage)] = &[
        ("start_lsn", |m| m.start_lsn = lsn("0/16B3D41")),
        ("end_lsn", |m| m.end_lsn = lsn("0/1")),
        ("xmin", |m| m.snapshot.xmin = 761),
        ("xip", |m| m.snapshot.xip = vec![755, 751]),
        ("columns", |m| m.tables.get_mut(&table("users")).expect("there").columns.truncate(1)),
        ("rows", |m| m.tables.get_mut(&table("users")).expect("there").rows += 1),
    ];
    let parts: &[(&str, PartDamage)] = &[
        ("do not lead", |part| part.files.truncate(1)),
        ("do not lead", |part| part.files.clear()),
        ("belongs", |part| part.files.reverse()),
        ("not a file of a snapshot", |part| part.files[0].file = "../../etc/passwd".into()),
        ("named by another digest", |part| part.files[0].content_sha256 = Digest::of(b"")),
        ("too many", |part| {
            let last = part.files[1].clone();
            part.files.extend([last.clone(), last.clone(), last.clone(), last]);
        }),
    ];
    for (says, damage) in copies {
        let mut copy = manifest();
        damage(&mut copy);
        let error = SnapshotManifest::decode(&copy.encode()).expect_err(says).report();
        assert!(error.contains(says), "{says:?} is not in {error}");
    }
    for (says, damage) in parts {
        let mut copy = manifest();
        part(&mut copy, *damage);
        let error = SnapshotManifest::decode(&copy.encode()).expect_err(says).report();
        assert!(error.contains(says), "{says:?} is not in {error}");
    }
    let sound = manifest().encode();
    for length in 0..sound.len() {
        assert!(SnapshotManifest::decode(&sound[..length]).is_err(), "accepted {length} bytes");
    }
}

#[test]
fn names_are_exactly_ours() {
    assert_eq!(id().as_str(), "00000000016B3D40-20260205T103000Z");
    assert_eq!(id().as_str().parse().ok(), Some(id()));
    assert_eq!(id().taken_at(), Some(ts("2026-02-05T10:30:00Z")));
    let no_day: SnapshotId = "00000000016B3D40-20269999T999999Z".parse().expect("its form is right");
    assert_eq!(no_day.taken_at(), None);
    let whole = name(b"x", PartKind::Whole);
    assert_eq!(whole.to_string().parse().ok(), Some(whole));
    for text in ["", "00000000016B3D40", "00000000016B3D40-20260205T103000", "../6B3D40-20260205T103000Z"] {
        assert!(text.parse::<SnapshotId>().is_err(), "accepted {text:?}");
    }
    for text in ["x.copy.zst", "00000000016B3D40-20260205T103000Z/../x.copy.zst"] {
        assert!(text.parse::<PartName>().is_err(), "accepted {text:?}");
    }
}

#[test]
fn a_part_is_read_whole_or_through_its_deltas() {
    let mut files = Files::new();
    let contents: Vec<Vec<u8>> =
        [None, Some(1), Some(499), Some(7), Some(300)].iter().map(|changed| rows(500, *changed)).collect();
    let mut part = whole(&contents[0], &mut files);
    assert!(poured(&part, &files).expect("sound") == contents[0]);
    for pair in contents.windows(2) {
        part = with_delta(&part, &pair[0], &pair[1], &mut files);
        assert!(poured(&part, &files).expect("sound") == pair[1]);
        let delta = part.files.last().expect("it has one");
        assert!(delta.content_bytes < 500, "a changed row costs {} bytes", delta.content_bytes);
    }
    assert_eq!(part.files.len(), 1 + DELTAS_MAX);
}

#[test]
fn every_flipped_bit_and_every_truncation_of_a_parts_files_is_refused() {
    let mut files = Files::new();
    let (before, after) = (rows(40, None), rows(40, Some(20)));
    let part = with_delta(&whole(&before, &mut files), &before, &after, &mut files);
    for file in &part.files {
        let sound = files[&file.file].clone();
        for at in 0..sound.len() {
            let mut damaged = sound.clone();
            damaged[at] ^= 1 << (at % 8);
            files.insert(file.file.clone(), damaged);
            assert!(poured(&part, &files).is_err(), "byte {at} of {}", file.file);
            files.insert(file.file.clone(), sound[..at].to_vec());
            assert!(poured(&part, &files).is_err(), "{at} bytes of {}", file.file);
        }
        files.insert(file.file.clone(), sound);
    }
}

#[test]
fn a_delta_that_was_made_to_lead_elsewhere_is_refused_within_its_limit() {
    let mut files = Files::new();
    let (before, after) = (rows(400, None), rows(400, Some(20)));
    let mut part = with_delta(&whole(&before, &mut files), &before, &after, &mut files);
    // Copies the first 4 KiB a hundred thousand times: 6 bytes an operation, 400 MiB in the end.
    let mut bomb = 0x7273_0236_u32.to_be_bytes().to_vec();
    for _ in 0..100_000 {
        bomb.extend_from_slice(&[0x46, 0, 16, 0]);
    }
    bomb.push(0);
    let (bytes, file) = compress(&name(&after, PartKind::Delta), &bomb, 3).expect("memory");
    files.insert(file.file.clone(), bytes);
    *part.files.last_mut().expect("it has one") = file;
    let error = poured(&part, &files).expect_err("a bomb").report();
    assert!(error.contains("exceeded output size limit"), "{error}");
}

#[test]
fn checksums_of_a_part_are_looked_at_before_they_are_used() {
    let content = rows(500, None);
    let sound = Blocks::of(&content, 500).encode();
    assert!(Blocks::decode(&sound).is_ok());
    let with = |block: u32, hash: u32| {
        let mut body = sound[32..].to_vec();
        body[4..8].copy_from_slice(&block.to_be_bytes());
        body[8..12].copy_from_slice(&hash.to_be_bytes());
        [Digest::of(&body).as_bytes().as_slice(), &body].concat()
    };
    for (block, hash) in [(0, 8), (1, 8), (u32::MAX, 8), (64, 0), (64, 7), (64, 17), (64, u32::MAX)] {
        assert!(Blocks::decode(&with(block, hash)).is_err(), "blocks of {block}, hashes of {hash}");
    }
    for length in 0..sound.len() {
        assert!(Blocks::decode(&sound[..length]).is_err(), "accepted {length} bytes");
    }
}

#[test]
fn a_transaction_was_seen_or_not_across_a_wraparound() {
    let epoch = 1 << 32;
    let seen = Seen { xmin: epoch - 2, xmax: epoch + 10, xip: vec![epoch - 1, epoch + 5] };
    for (xid, expected) in
        [(u32::MAX - 2, true), (u32::MAX - 1, true), (u32::MAX, false), (0, true), (3, true), (5, false)]
    {
        assert_eq!(seen.has(xid), expected, "{xid}");
    }
    for (xid, expected) in [(9, true), (10, false), (11, false), (1 << 30, false), (3 << 30, true)] {
        assert_eq!(seen.has(xid), expected, "{xid}");
    }
    let young = Seen { xmin: 10, xmax: 20, xip: vec![] };
    assert!(young.has(3) && young.has(15) && !young.has(20) && !young.has(1 << 30));
}

#[test]
fn a_snapshot_is_read_as_postgresql_prints_it() {
    let seen = Seen { xmin: 751, xmax: 760, xip: vec![751, 755] };
    assert_eq!(Seen::parse("751:760:751,755"), Some(seen));
    assert_eq!(Seen::parse("5:5:"), Some(Seen { xmin: 5, xmax: 5, xip: vec![] }));
    for text in ["", "5", "5:5", "a:5:", "5:5:x"] {
        assert_eq!(Seen::parse(text), None, "{text:?}");
    }
}

proptest! {
    #[test]
    fn a_delta_leads_from_any_content_to_any_other(
        before in prop::collection::vec(any::<u8>(), 0..5000),
        after in prop::collection::vec(any::<u8>(), 0..5000),
        shared in prop::collection::vec(any::<u8>(), 0..5000),
    ) {
        let (before, after) = ([before, shared.clone()].concat(), [shared, after].concat());
        let mut files = Files::new();
        let part = with_delta(&whole(&before, &mut files), &before, &after, &mut files);
        prop_assert!(poured(&part, &files).expect("sound") == after);
    }
}
