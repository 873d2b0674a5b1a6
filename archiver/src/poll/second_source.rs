//! A source that is no server: all that comes after it takes its events, and the archive has them once.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::BufReader;
use std::path::Path;

use syncdata_archive::{ArchiveHandle, DirectoryArchive};
use syncdata_formats::chain::{ChainTip, Verified};
use syncdata_formats::change::Record;
use syncdata_formats::lsn::Lsn;
use syncdata_formats::segment::SegmentReader;

use crate::capture::{Capture, CatalogTable, RelationKind};
use crate::segment::publish::{self, Circumstances, publish};
use crate::segment::reading::read_into;
use crate::segment::scratch::ScratchFiles;
use crate::segment::segmenter::{Limits, Segmenter};
use crate::ship::shipper::Shipper;
use crate::source::scripted::{Entry, Script};
use crate::source::{Read, Source as _, Stretch};
use crate::spool::{Opened, Spool, State};

/// Three rows are a file.
const LIMITS: Limits = Limits { changes: 3, content_bytes: u64::MAX, compression_level: 1 };

fn lsn(position: u64) -> Lsn {
    Lsn::from_u64(position)
}

fn script() -> Script {
    Script::new([
        Entry::transaction(1, 0x20, &[Entry::insert("t", 0x11, 1), Entry::insert("t", 0x12, 2)]),
        Entry::transaction(2, 0x30, &[Entry::insert("other", 0x21, 9), Entry::insert("t", 0x22, 3)]),
        Entry::transaction(3, 0x40, &[Entry::delete("t", 0x31, 1)]),
        Entry::transaction(4, 0x50, &[Entry::truncate("t", 0x41), Entry::insert("t", 0x42, 4)]),
        Entry::transaction(5, 0x60, &[Entry::insert("other", 0x51, 10)]),
        Entry::transaction(6, 0x70, &[Entry::insert("t", 0x61, 5)]),
    ])
}

/// What the archive holds of it, file by file.
const ARCHIVED: [&[&str]; 3] = [
    &["INSERT t id=1", "INSERT t id=2", "COMMIT 1 of 2 at 0/20", "INSERT t id=3", "COMMIT 2 of 1 at 0/30"],
    &["DELETE t id=1", "COMMIT 3 of 1 at 0/40", "TRUNCATE t", "INSERT t id=4", "COMMIT 4 of 2 at 0/50"],
    &["INSERT t id=5", "COMMIT 6 of 1 at 0/70"],
];

fn capture() -> Capture {
    let table = CatalogTable::plain(1, "t", RelationKind::Table, None);
    let patterns = ["t".parse().expect("a pattern")];
    Capture::resolve(&patterns, &BTreeSet::new(), &[table], &Default::default()).expect("resolves")
}

fn open(root: &Path) -> Spool {
    let folder = match Spool::open(root).expect("opens") {
        Opened::Ours(spool) => return *spool,
        Opened::New(folder) => folder,
    };
    folder.claim(State::founded("scripted")).expect("claims")
}

/// Takes a stretch into the spool, as a poll does.
async fn read(source: &Script, spool: &mut Spool, upto: Lsn, lines_max: Option<u32>) -> Read {
    let capture = capture();
    let stretch = Stretch { capture: &capture, upto, lines_max };
    let (start, archived) = (spool.state().tip.end_lsn, spool.position());
    let segmenter = Segmenter::new(&capture, ScratchFiles::of(spool), LIMITS, start, archived);
    let (harvest, read) = read_into(source, &(), &stretch, segmenter).await.expect("reads");

    let said = publish::source(spool.state(), "none", source.described(), BTreeMap::new());
    let circumstances = Circumstances { source: said, capture: capture.clone(), relations: BTreeMap::new() };
    let end = harvest.position.max(archived);
    publish(spool, &circumstances, harvest, |_, _| Vec::new(), None).expect("publishes");
    spool.update(|state| state.covered_lsn = end).expect("notes how far it read");
    read
}

/// The lines of a file of the archive, held against its manifest.
fn records(archive: &Path, segment: &Verified) -> Vec<String> {
    let path = segment.file_path().expect("it has changes");
    let file = BufReader::new(File::open(archive.join(path.as_str())).expect("a file"));
    let mut reader = SegmentReader::new(file, segment.manifest()).expect("a segment");
    let mut lines = Vec::new();
    while let Some(record) = reader.next().expect("sound") {
        lines.push(match record {
            Record::Commit(commit) => {
                format!("COMMIT {} of {} at {}", commit.xid, commit.changes, commit.end_lsn)
            }
            Record::Long(long) => format!("{} {}, {} bytes", long.op, long.table, long.bytes),
            Record::Row(row) => {
                let columns = row.data.iter().chain(&row.old_keys);
                let columns: String = columns.map(|(name, value)| format!(" {name}={value}")).collect();
                format!("{} {}{columns}", row.op, row.table)
            }
        });
    }
    lines
}

#[tokio::test]
async fn what_any_source_yields_is_in_the_archive_once() {
    let folders = [(); 2].map(|()| tempfile::tempdir().expect("a folder"));
    let [spool_dir, archive_dir] = folders.each_ref().map(|folder| folder.path());
    let source = script();

    let mut spool = open(spool_dir);
    read(&source, &mut spool, lsn(0x50), None).await;
    assert_eq!((spool.unshipped().count(), spool.position()), (2, lsn(0x50)));
    // As if killed before anything was shipped or acknowledged.
    drop(spool);

    let mut spool = open(spool_dir);
    let again = read(&source, &mut spool, lsn(0x50), None).await;
    assert_eq!(
        (again.lines, spool.unshipped().count()),
        (15, 2),
        "all comes again, and nothing is kept twice"
    );
    let archive = Box::new(DirectoryArchive::new(archive_dir));
    let shipper = Shipper::new(ArchiveHandle::spawn(archive).expect("a thread"));
    assert_eq!(shipper.ship(&mut spool).await.expect("ships").segments, 2);
    let shipped = spool.shipped_position().expect("it was shipped");
    assert_eq!(source.acknowledge(&(), shipped).await.expect("acknowledges"), lsn(0x50));

    // The rest, one transaction in an answer.
    let mut answers = 0;
    while read(&source, &mut spool, lsn(0x70), Some(1)).await.was_cut {
        shipper.ship(&mut spool).await.expect("ships");
        source.acknowledge(&(), spool.position()).await.expect("acknowledges");
        answers += 1;
    }
    assert_eq!(answers, 2);

    let names = shipper.list().await.expect("lists");
    let origin = ChainTip::origin(spool.state().archive_id);
    let segments = shipper.read(origin, names, None).await.expect("a chain");
    let spans = segments.iter().map(|segment| (segment.manifest().start_lsn, segment.manifest().end_lsn));
    assert_eq!(
        spans.collect::<Vec<_>>(),
        [(lsn(0x10), lsn(0x30)), (lsn(0x30), lsn(0x50)), (lsn(0x50), lsn(0x70))]
    );
    let held: Vec<Vec<String>> = segments.iter().map(|segment| records(archive_dir, segment)).collect();
    assert_eq!(held, ARCHIVED);
}
