use std::collections::BTreeMap;

use syncdata_archive::{Entry, EntryKind};
use syncdata_formats::digest::Digest;
use syncdata_formats::floor::Floor;
use syncdata_formats::manifest::{FORMAT, Link};
use syncdata_formats::snapshot::PartKind;

use super::super::inventory::SegmentEntry;
use super::*;

const TODAY: u32 = 20;

fn time(day: u32) -> Timestamp {
    format!("2026-03-{day:02}T12:00:00Z").parse().expect("a time")
}

fn lsn(position: u64) -> Lsn {
    Lsn::from_u64(position)
}

fn tables(names: &str) -> BTreeSet<TableName> {
    names.split(' ').filter(|name| !name.is_empty()).map(|name| name.parse().expect("a name")).collect()
}

fn id(day: u32) -> SnapshotId {
    // At noon of that day, in the middle of its segment.
    SnapshotId::new(lsn(u64::from(day) * 10 - 5), time(day))
}

/// One segment a day, which ends at ten times the day: number `day`, from the first of March on.
fn archive() -> Inventory {
    let mut inventory = Inventory::default();
    for day in 1..=TODAY {
        let name = SegmentName {
            seq: SegmentSeq::new(day.into()).expect("a number"),
            end_lsn: lsn(u64::from(day) * 10),
        };
        let entry = |file_name: String, is_manifest| SegmentEntry {
            file_name,
            bytes: 1,
            segment: Some(name),
            is_manifest,
            is_alone: true,
        };
        let entries = vec![
            entry(name.file_name(), false),
            entry(name.manifest_name(), true),
            entry(name.signature_name(), false),
        ];
        inventory.days.insert(time(day).day(), entries);
    }
    inventory
}

fn file(day: u32, content: u32) -> PartName {
    PartName { snapshot: id(day), content: Digest::of(&content.to_be_bytes()), kind: PartKind::Whole }
}

/// A copy of those tables. Each part lies where it was written: (day, content).
fn with_snapshot(mut inventory: Inventory, day: u32, names: &str, parts: &[(u32, u32)]) -> Inventory {
    let own = parts.iter().filter(|(of, _)| *of == day).map(|(of, content)| file(*of, *content).file_name());
    let documents = [SnapshotId::DIGEST, SnapshotId::SIGNATURE, SnapshotId::MANIFEST].map(str::to_owned);
    let folder = Folder {
        entries: own.chain(documents).map(|name| Entry { name, kind: EntryKind::File, bytes: 100 }).collect(),
        copy: Copy::Known {
            tables: tables(names),
            files: parts.iter().map(|(of, content)| file(*of, *content).to_string()).collect(),
            is_complete: true,
        },
    };
    inventory.snapshots.insert(id(day), folder);
    inventory
}

fn ack(end_lsn: u64, day: u32) -> Ack {
    Ack {
        format: FORMAT,
        archive_id: uuid::Uuid::nil(),
        name: "reports".parse().expect("a name"),
        seq: 0,
        end_lsn: lsn(end_lsn),
        at: time(day),
        loading: Vec::new(),
    }
}

fn plan(inventory: &Inventory, keep_days: u32, captured: &str) -> Plan {
    let captured = tables(captured);
    let terms = terms(keep_days, &captured, time(TODAY));
    let plan = Plan::of(inventory, &terms);
    check(inventory, &plan);
    plan
}

fn terms(keep_days: u32, captured: &BTreeSet<TableName>, now: Timestamp) -> Terms<'_> {
    static NONE: BTreeMap<TableName, Lsn> = BTreeMap::new();
    Terms { archive_id: uuid::Uuid::nil(), keep_days, captured, born_empty: &NONE, now, flush: lsn(10_000) }
}

/// Checks what must be true of every plan.
fn check(inventory: &Inventory, plan: &Plan) {
    let gone: BTreeSet<&str> = plan.removals().map(|removal| removal.path.as_str()).collect();
    let floor = plan.floor.or(inventory.floor.as_ref().map(|floor| floor.seq));
    for (day, entries) in &inventory.days {
        for entry in entries {
            let goes = gone.contains(format!("segments/{day}/{}", entry.file_name).as_str());
            let is_before = floor.is_some_and(|floor| entry.segment.is_some_and(|name| name.seq < floor));
            assert!(!goes || is_before, "{} {floor:?}", entry.file_name);
            assert!(goes || !is_before || plan.floor.is_none(), "{} {floor:?}", entry.file_name);
        }
    }
    for (id, folder) in &inventory.snapshots {
        let stays = !gone.contains(id.manifest().as_str());
        if let Copy::Known { files, .. } = &folder.copy
            && stays
        {
            let lost = files.iter().find(|file| gone.contains(format!("snapshots/{file}").as_str()));
            assert_eq!(lost, None, "a file that {id} needs");
        }
    }
}

fn floor(plan: &Plan) -> Option<u64> {
    plan.floor.map(SegmentSeq::get)
}

#[test]
fn what_the_window_the_tables_and_the_readers_need_stays() {
    let full =
        |days: &[u32]| days.iter().fold(archive(), |archive, day| with_snapshot(archive, *day, "a b", &[]));
    let with_ack = |mut archive: Inventory, ack: Ack| {
        archive.acks.push(ack);
        archive
    };
    let loading = |day: u32| Ack { loading: vec![id(day)], ..ack(500, TODAY) };
    for (what, archive, keep_days, first_kept) in [
        ("no snapshot", archive(), 0, None),
        ("a snapshot of today, with an empty window", full(&[20]), 0, Some(20)),
        ("a snapshot of yesterday, with an empty window", full(&[5, 19]), 0, Some(19)),
        ("one day: today", full(&[5, 19]), 1, Some(19)),
        ("two days: yesterday too", full(&[5, 19]), 2, Some(5)),
        ("ten days", full(&[5, 8, 10, 11, 19]), 10, Some(10)),
        ("no snapshot before the window", full(&[15, 19]), 10, None),
        ("more days than there are", full(&[2, 5]), 400, None),
        ("a reader that lags", with_ack(full(&[5, 10]), ack(31, TODAY)), 5, Some(4)),
        ("a reader that is ahead", with_ack(full(&[5, 10]), ack(150, TODAY)), 5, Some(10)),
        ("a reader that loads an older copy", with_ack(full(&[5, 10]), loading(5)), 5, Some(5)),
    ] {
        let plan = plan(&archive, keep_days, "a b");
        assert_eq!(floor(&plan), first_kept, "{what}: {plan:#?}");
        assert_eq!(plan.is_empty(), first_kept.is_none(), "{what}");
        assert_eq!(plan.notes.is_empty(), first_kept.is_some(), "{what}: {:?}", plan.notes);
    }
}

#[test]
fn a_reader_that_was_silent_for_long_holds_nothing_back_and_is_named() {
    let mut archive = with_snapshot(archive(), 10, "a", &[]);
    archive.acks.push(Ack { at: "2026-02-17T12:00:00Z".parse().expect("a time"), ..ack(31, 1) });
    let old = plan(&archive, 5, "a");
    assert_eq!(floor(&old), Some(10));
    assert!(old.notes[0].contains("reader reports reported last at 2026-02-17T12:00:00Z"), "{:?}", old.notes);
    // Thirty-one days are less than four times eight.
    assert_eq!(floor(&plan(&archive, 8, "a")), Some(4));
    archive.acks[0].archive_id = uuid::Uuid::max();
    assert_eq!(floor(&plan(&archive, 8, "a")), Some(10), "a reader of another archive");
}

#[test]
fn copies_of_some_tables_leave_the_others_theirs() {
    for (copies, keep_days, captured, first_kept) in [
        (&[(2, "a b"), (10, "a")][..], 5, "a b", Some(2)),
        (&[(2, "a b"), (10, "a")], 5, "a", Some(10)),
        (&[(2, "a b"), (10, "a"), (12, "b")], 5, "a b", Some(10)),
        // Its own base is in the window: it starts from there.
        (&[(2, "a"), (10, "a"), (18, "b")], 5, "a b", Some(10)),
        // Before the window, b has the old copy only.
        (&[(2, "a b"), (10, "a"), (18, "b")], 5, "a b", Some(2)),
        (&[(10, "a")], 5, "a b", None),
        (&[(10, "a")], 5, "", None),
    ] {
        let archive =
            copies.iter().fold(archive(), |archive, (day, names)| with_snapshot(archive, *day, names, &[]));
        let plan = plan(&archive, keep_days, captured);
        assert_eq!(floor(&plan), first_kept, "{copies:?} {captured:?}: {:?}", plan.notes);
    }
}

#[test]
fn what_a_proof_is_drilled_from_stays() {
    let copies = with_snapshot(with_snapshot(archive(), 5, "a b", &[]), 12, "a b", &[]);
    let newest = floor(&plan(&copies, 2, "a b"));
    for (cut, names, older) in [(70, "a", true), (70, "c", false), (130, "b", false)] {
        let mut archive = copies.clone();
        archive.proofs.push((lsn(cut), tables(names)));
        let kept = floor(&plan(&archive, 2, "a b"));
        assert_eq!(kept < newest, older, "{cut} {names}: {kept:?} {newest:?}");
    }
}

#[test]
fn what_a_proof_is_drilled_from_stays_also_where_that_is_all_changes() {
    let captured = tables("a b");
    let born_empty = BTreeMap::from([("b".parse().expect("a name"), lsn(20))]);
    let archive = with_snapshot(with_snapshot(archive(), 5, "a", &[]), 8, "a b", &[]);
    for (cut, names, floor_at, stays) in [
        // Older than the copy, newer than it, older than the capture; and of a table that has a copy.
        (70, "b", None, true),
        (90, "b", None, false),
        (10, "b", None, false),
        (90, "a", None, false),
        // What readers would begin with is gone already.
        (70, "b", Some(3), false),
    ] {
        let mut archive = floor_at.map_or_else(|| archive.clone(), |seq| with_floor(archive.clone(), seq));
        archive.proofs.push((lsn(cut), tables(names)));
        let terms = Terms { born_empty: &born_empty, ..terms(2, &captured, time(TODAY)) };
        let plan = Plan::of(&archive, &terms);
        check(&archive, &plan);
        assert_eq!(plan.is_empty(), stays, "{cut} {names} {floor_at:?}: {:?}", plan.notes);
        assert_eq!(plan.notes.iter().any(|note| note.contains("all its changes")), stays, "{:?}", plan.notes);
    }
}

#[test]
fn an_incomplete_copy_is_no_base() {
    let mut archive = with_snapshot(with_snapshot(archive(), 5, "a", &[]), 10, "a", &[(10, 1)]);
    let broken = archive.snapshots.get_mut(&id(10)).expect("it is there");
    let Copy::Known { is_complete, .. } = &mut broken.copy else { unreachable!("made above") };
    *is_complete = false;
    assert_eq!(floor(&plan(&archive, 5, "a")), Some(5));
}

#[test]
fn files_that_later_copies_need_outlive_their_own() {
    let archive = with_snapshot(archive(), 2, "a", &[(2, 1), (2, 2), (2, 3)]);
    let archive = with_snapshot(archive, 6, "a", &[(2, 1), (2, 2), (6, 4)]);
    let archive = with_snapshot(archive, 10, "a", &[(2, 1), (6, 4), (10, 5)]);
    let plan = plan(&archive, 5, "a");
    let paths = |removals: &[Removal]| removals.iter().map(|r| r.path.clone()).collect::<Vec<_>>();
    let document = |day, name: &str| format!("{}/{name}", id(day).folder());
    let mut documents = Vec::new();
    for day in [2, 6] {
        documents.extend(
            [SnapshotId::MANIFEST, SnapshotId::DIGEST, SnapshotId::SIGNATURE].map(|n| document(day, n)),
        );
    }
    assert_eq!(paths(&plan.snapshots), documents, "the manifest first");
    let mut parts = [file(2, 2), file(2, 3)].map(|name| name.path().to_string());
    parts.sort();
    let mut found = paths(&plan.parts);
    found.sort();
    assert_eq!(found, parts);
    assert!(!plan.folders.iter().any(|folder| folder.starts_with("snapshots/")), "{:?}", plan.folders);
}

#[test]
fn what_interrupted_snapshots_left_goes_after_a_day() {
    let mut archive = with_snapshot(archive(), 10, "a", &[(12, 1)]);
    for day in [12, 13, TODAY] {
        let names = [file(day, 1).file_name(), format!("{}.part", file(day, 2).file_name())];
        let entries = names.map(|name| Entry { name, kind: EntryKind::File, bytes: 100 }).into();
        archive.snapshots.insert(id(day), Folder { entries, copy: Copy::None });
    }
    archive.snapshots.get_mut(&id(13)).expect("it is there").entries.push(Entry {
        name: "notes.txt".into(),
        kind: EntryKind::File,
        bytes: 1,
    });
    let plan = plan(&archive, 5, "a");
    let gone: Vec<&str> = plan.parts.iter().map(|removal| removal.path.as_str()).collect();
    let part = |day| format!("{}.part", file(day, 2).path());
    assert_eq!(gone.len(), 3, "{gone:?}");
    for path in [part(12), part(13), file(13, 1).path().to_string()] {
        assert!(gone.contains(&path.as_str()), "{path} stays");
    }
    assert!(!plan.folders.iter().any(|folder| folder.starts_with("snapshots/")), "{:?}", plan.folders);
}

#[test]
fn with_a_copy_that_nobody_can_read_no_file_of_a_copy_goes() {
    let mut archive = with_snapshot(with_snapshot(archive(), 5, "a", &[(5, 1)]), 10, "a", &[(10, 2)]);
    archive.snapshots.insert(id(12), Folder { entries: Vec::new(), copy: Copy::Unreadable });
    let plan = plan(&archive, 5, "a");
    assert_eq!(floor(&plan), Some(10));
    assert!(plan.snapshots.is_empty() && plan.parts.is_empty());
    assert!(plan.notes.iter().any(|note| note.contains("cannot be read")), "{:?}", plan.notes);
}

fn with_floor(mut archive: Inventory, seq: u64) -> Inventory {
    let link = Link { seq: SegmentSeq::new(seq - 1).expect("a number"), sha256: Digest::of(b"") };
    archive.floor = Some(Floor {
        format: FORMAT,
        archive_id: uuid::Uuid::nil(),
        seq: SegmentSeq::new(seq).expect("a number"),
        previous: Some(link),
        pruned_at: time(19),
    });
    archive
}

#[test]
fn an_interrupted_prune_is_finished_and_the_floor_never_goes_back() {
    let plan = plan(&with_floor(with_snapshot(archive(), 10, "a", &[]), 10), 5, "a");
    assert_eq!(plan.floor, None);
    assert_eq!(plan.segments.len(), 9 * 3);
    assert!(
        plan.segments[0].path.ends_with("0000000001-000000000000000A.manifest.json"),
        "{:?}",
        plan.segments[0]
    );
    assert_eq!(plan.folders.len(), 9);
}

#[test]
fn a_floor_is_no_reason_to_remove_what_the_plan_needs() {
    for seq in [6, 10, 20] {
        let plan = plan(&with_floor(with_snapshot(archive(), 5, "a", &[]), seq), 5, "a");
        assert_eq!((plan.floor, plan.segments.len()), (None, 4 * 3), "{seq}");
        assert!(
            plan.notes.iter().any(|note| note.contains("before the floor, and stay")),
            "{:?}",
            plan.notes
        );
    }
}

/// Days never go back, so that all later segments lie under the day of the one that was dated wrongly.
#[test]
fn commits_of_a_future_day_go_when_a_copy_from_after_them_is_old_enough() {
    let in_the_future = |mut archive: Inventory, from: u32| {
        let day: Timestamp = "2099-01-01T00:00:00Z".parse().expect("a time");
        let late: Vec<_> =
            (from..=TODAY).filter_map(|of| archive.days.remove(&time(of).day())).flatten().collect();
        archive.days.insert(day.day(), late);
        archive
    };
    for (copies, keep_days, first_kept) in
        [(&[8, 12][..], 5, Some(12)), (&[8, 12], 9, Some(8)), (&[8, 18], 5, Some(8)), (&[18], 5, None)]
    {
        let archive = copies.iter().fold(archive(), |archive, day| with_snapshot(archive, *day, "a", &[]));
        assert_eq!(
            floor(&plan(&in_the_future(archive, 4), keep_days, "a")),
            first_kept,
            "{copies:?} {keep_days}"
        );
    }
}

#[test]
fn a_copy_of_another_history_is_no_base() {
    let archive = with_snapshot(with_snapshot(archive(), 5, "a", &[]), 10, "a", &[]);
    let captured = tables("a");
    let shorter = Terms { flush: lsn(80), ..terms(5, &captured, time(TODAY)) };
    assert_eq!(floor(&Plan::of(&archive, &shorter)), Some(5));
}

#[test]
fn the_newest_segment_stays_and_so_does_the_folder_of_today() {
    let mut archive = with_snapshot(archive(), TODAY, "a", &[]);
    let later = SnapshotId::new(lsn(500), time(TODAY));
    let folder = archive.snapshots.remove(&id(TODAY)).expect("it is there");
    archive.snapshots = BTreeMap::from([(later, folder)]);
    let plan = plan(&archive, 0, "a");
    assert_eq!(floor(&plan), Some(u64::from(TODAY)));
    let today = format!("segments/{}", time(TODAY).day());
    assert!(!plan.folders.contains(&today) && plan.folders.len() == TODAY as usize - 1);
}
