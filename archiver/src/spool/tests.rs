//! A spool through crashes, restarts and second archivers.

use syncdata_formats::manifest::Gap;
use syncdata_formats::name::TableName;

use super::*;

fn state() -> State {
    State::founded("syncdata_slot")
}

fn gap_manifest(state: &State, to: u64) -> Manifest {
    let from = state.tip.end_lsn;
    let to = Lsn::from_u64(to);
    Manifest {
        format: syncdata_formats::manifest::FORMAT,
        archive_id: state.archive_id,
        seq: state.chain_tip().next_seq(),
        previous: state.chain_tip().previous(),
        file: None,
        records: 0,
        transactions: 0,
        tables: BTreeMap::new(),
        start_lsn: from,
        end_lsn: to,
        span: None,
        source: syncdata_formats::manifest::Source {
            system_identifier: "7".into(),
            timeline: 1,
            database: "app".into(),
            server_version: "18.6".into(),
            slot: "syncdata_slot".into(),
            plugin: "wal2json 2.7".into(),
            settings: BTreeMap::new(),
            degraded: Vec::new(),
            kind: Default::default(),
            order: None,
            batch: None,
        },
        capture: Vec::new(),
        capture_since: BTreeMap::new(),
        relations: BTreeMap::new(),
        gaps: vec![Gap { from, to, reason: "a test".into(), tables: None }],
        proof: None,
        created_at: Timestamp::from_micros(0).expect("a time"),
        archiver: "0.1.0".into(),
    }
}

fn day() -> Day {
    "2026-02-05".parse().expect("a day")
}

fn claimed(root: &Path) -> Spool {
    match Spool::open(root).expect("opens") {
        Opened::New(folder) => folder.claim(state()).expect("claims"),
        Opened::Ours(spool) => *spool,
    }
}

#[test]
fn what_was_published_is_there_after_a_restart() {
    let root = tempfile::tempdir().expect("a folder");
    let mut spool = claimed(root.path());
    for to in [0x20, 0x30] {
        let manifest = gap_manifest(spool.state(), to);
        spool.publish(&manifest, day(), None).expect("publishes");
    }
    let before = spool.state().clone();
    drop(spool);
    let spool = claimed(root.path());
    assert_eq!(spool.state(), &before);
    assert_eq!((spool.unshipped().count(), spool.position()), (2, Lsn::from_u64(0x30)));
}

#[test]
fn a_manifest_that_the_state_does_not_know_yet_counts() {
    let root = tempfile::tempdir().expect("a folder");
    let mut spool = claimed(root.path());
    let old_state = fs::read(root.path().join("state.json")).expect("a state");
    let manifest = gap_manifest(spool.state(), 0x20);
    spool.publish(&manifest, day(), None).expect("publishes");
    let after = spool.state().clone();
    drop(spool);
    // As if killed between the manifest and the state.
    fs::write(root.path().join("state.json"), old_state).expect("writes");
    assert_eq!(claimed(root.path()).state(), &after);
}

#[test]
fn leftovers_of_a_crash_are_swept_out() {
    let root = tempfile::tempdir().expect("a folder");
    drop(claimed(root.path()));
    let folder = root.path().join("segments/2026-02-05");
    fs::create_dir_all(&folder).expect("a folder");
    let name = gap_manifest(&state(), 0x20).name();
    for path in [root.path().join("segment-0.part"), folder.join(name.file_name()), folder.join("x.part")] {
        fs::write(path, "half").expect("writes");
    }
    // A task beside the poll is writing it.
    fs::write(root.path().join("alerts.json.part"), "half").expect("writes");
    let spool = claimed(root.path());
    assert_eq!(spool.segments().count(), 0);
    assert!(root.path().join("alerts.json.part").exists());
    assert_eq!(fs::read_dir(&folder).expect("lists").count(), 0);
    assert!(!root.path().join("segment-0.part").exists());
}

#[test]
fn a_second_archiver_is_refused_and_the_first_named() {
    let root = tempfile::tempdir().expect("a folder");
    let spool = claimed(root.path());
    let error = Spool::open(root.path()).expect_err("locked");
    assert_eq!(error.kind(), Kind::Locked);
    assert!(error.to_string().contains(&std::process::id().to_string()), "{error}");
    drop(spool);
    assert!(Spool::open(root.path()).is_ok(), "the lock goes with its holder");
}

#[test]
fn a_damaged_manifest_stops_the_start() {
    let root = tempfile::tempdir().expect("a folder");
    let mut spool = claimed(root.path());
    let old_state = fs::read(root.path().join("state.json")).expect("a state");
    let manifest = gap_manifest(spool.state(), 0x20);
    spool.publish(&manifest, day(), None).expect("publishes");
    let path = spool.path(&manifest.name().manifest(day()));
    drop(spool);
    fs::write(root.path().join("state.json"), old_state).expect("writes");
    fs::write(&path, &manifest.encode()[1..]).expect("writes");
    assert!(Spool::open(root.path()).is_err());
}

#[test]
fn a_manifest_as_large_as_the_format_allows_is_read_whole_and_a_larger_one_is_refused() {
    let root = tempfile::tempdir().expect("a folder");
    let mut spool = claimed(root.path());
    let manifest = gap_manifest(spool.state(), 0x20);
    spool.publish(&manifest, day(), None).expect("publishes");
    let spooled = Spooled { name: manifest.name(), day: day(), bytes: 0 };
    let file = OpenOptions::new().write(true).open(spool.path(&manifest.name().manifest(day())));
    let file = file.expect("it is there");
    let bytes_max = Document::Manifest.bytes_max();
    file.set_len(bytes_max as u64).expect("without blocks on the disk");
    assert_eq!(spool.manifest_bytes(&spooled).expect("allowed").len(), bytes_max);
    file.set_len(bytes_max as u64 + 1).expect("without blocks on the disk");
    assert_eq!(spool.manifest_bytes(&spooled).expect_err("too long").kind(), Kind::Corrupt);
}

#[test]
fn segments_without_a_state_are_taken_over_or_refused_but_never_passed_over() {
    let root = tempfile::tempdir().expect("a folder");
    let mut spool = claimed(root.path());
    let manifest = gap_manifest(spool.state(), 0x20);
    spool.publish(&manifest, day(), None).expect("publishes");
    let before = spool.state().clone();
    drop(spool);
    let lose_state = || fs::remove_file(root.path().join("state.json")).expect("a state");
    lose_state();
    assert_eq!(claimed(root.path()).state(), &before, "it follows what the archive has");
    lose_state();
    let Opened::New(folder) = Spool::open(root.path()).expect("opens") else { panic!("it has a state") };
    let other = State { archive_id: uuid::Uuid::max(), ..state() };
    let error = folder.claim(other).expect_err("of another archive");
    assert!(error.report().contains("move the spool aside"), "{error:?}");
    assert!(!root.path().join("state.json").exists(), "nothing was claimed");
}

#[test]
fn two_segments_of_one_number_are_refused() {
    let root = tempfile::tempdir().expect("a folder");
    let mut spool = claimed(root.path());
    let manifest = gap_manifest(spool.state(), 0x20);
    spool.publish(&manifest, day(), None).expect("publishes");
    let other = Manifest { end_lsn: Lsn::from_u64(0x30), ..manifest };
    fs::write(spool.path(&other.name().manifest(day())), "{}").expect("writes");
    let error = spool.reload().expect_err("which one is it?");
    assert!(error.to_string().contains("two segments 0000000001"), "{error}");
}

#[test]
fn without_room_shipped_segments_leave_at_once() {
    let root = tempfile::tempdir().expect("a folder");
    let mut spool = claimed(root.path());
    for to in [0x20, 0x30, 0x40] {
        let manifest = gap_manifest(spool.state(), to);
        spool.publish(&manifest, day(), None).expect("publishes");
    }
    assert!(!spool.make_room().expect("looks"), "nothing is shipped");
    spool.mark_shipped(SegmentSeq::new(2).expect("a number"), Timestamp::now()).expect("marks");
    assert!(spool.make_room().expect("removes"));
    let left: Vec<u64> = spool.segments().map(|segment| segment.name.seq.get()).collect();
    assert_eq!(left, [3], "what only the spool has stays");
    assert!(!spool.make_room().expect("looks"), "nothing more to give");
}

#[test]
fn shipped_segments_leave_after_a_day_and_not_before() {
    let root = tempfile::tempdir().expect("a folder");
    let mut spool = claimed(root.path());
    for to in [0x20, 0x30, 0x40] {
        let manifest = gap_manifest(spool.state(), to);
        spool.publish(&manifest, day(), None).expect("publishes");
    }
    let now = Timestamp::now();
    for seq in [1, 2] {
        spool.mark_shipped(SegmentSeq::new(seq).expect("a number"), now).expect("marks");
    }
    let first = spool.segments().next().expect("three").clone();
    let manifest = File::options().append(true).open(spool.path(&first.name.manifest(day()))).expect("there");
    manifest.set_modified(SystemTime::now() - KEPT_AFTER_SHIPPING).expect("a time");
    spool.sweep(u64::MAX).expect("sweeps");
    let left: Vec<u64> = spool.segments().map(|segment| segment.name.seq.get()).collect();
    assert_eq!(left, [2, 3]);
    drop(spool);
    assert_eq!(claimed(root.path()).state().tip.seq(), 3);
}

#[test]
fn gaps_that_nobody_mends_do_not_grow_without_end() {
    let gap = |at: u64, table: Option<&str>| Gap {
        from: Lsn::from_u64(at),
        to: Lsn::from_u64(at + 1),
        reason: format!("at {at}"),
        tables: table.map(|table| vec![table.parse().expect("a name")]),
    };
    let mut state = state();
    for at in 0..10_000 {
        state.add_gaps(&[gap(2 * at, Some(if at % 2 == 0 { "a" } else { "b" }))]);
    }
    state.add_gaps(&[gap(5, None)]);
    assert!(state.gaps.len() <= 100, "{}", state.gaps.len());
    for table in ["a", "b"] {
        let table: TableName = table.parse().expect("a name");
        let of_table =
            || state.gaps.iter().filter(|gap| gap.tables.as_deref() == Some(std::slice::from_ref(&table)));
        let last = if table.to_string() == "a" { 19_997 } else { 19_999 };
        assert_eq!(of_table().map(|gap| gap.to).max(), Some(Lsn::from_u64(last)));
    }
    assert!(state.gaps.iter().any(|gap| gap.tables.is_none()));
}
