use std::fs;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};

use syncdata_formats::document::FORMAT;
use syncdata_formats::layout::{SegmentName, SegmentSeq};
use syncdata_formats::lsn::Lsn;
use syncdata_formats::manifest::Link;
use syncdata_formats::rollup::Member;
use syncdata_formats::tar;

use super::*;
use crate::DirectoryArchive;

const SEGMENTS: u64 = 300;

/// Counts what the backup host is asked.
struct Counted {
    inner: DirectoryArchive,
    questions: Arc<AtomicU64>,
}

impl Counted {
    fn count(&mut self) -> &mut DirectoryArchive {
        self.questions.fetch_add(1, Ordering::Relaxed);
        &mut self.inner
    }
}

impl Archive for Counted {
    fn location(&self) -> &str {
        self.inner.location()
    }

    fn put(&mut self, path: &ArchivePath, content: &mut dyn Content, facts: Facts) -> Result<Put> {
        self.count().put(path, content, facts)
    }

    fn replace(&mut self, path: &ArchivePath, content: &[u8]) -> Result<()> {
        self.count().replace(path, content)
    }

    fn read(&mut self, path: &ArchivePath, offset: u64, into: &mut dyn Write) -> Result<u64> {
        self.count().read(path, offset, into)
    }

    fn list(&mut self, folder: &ArchivePath) -> Result<Vec<Entry>> {
        self.count().list(folder)
    }

    fn stat(&mut self, path: &ArchivePath) -> Result<Option<Entry>> {
        self.count().stat(path)
    }

    fn remove(&mut self, path: &ArchivePath) -> Result<bool> {
        self.count().remove(path)
    }

    fn changed_at(&mut self, path: &ArchivePath) -> Result<Option<Timestamp>> {
        self.count().changed_at(path)
    }

    fn room(&mut self) -> Result<Option<u64>> {
        self.count().room()
    }
}

fn day() -> Day {
    "2026-02-05".parse().expect("a day")
}

fn name(seq: u64) -> SegmentName {
    SegmentName { seq: SegmentSeq::new(seq).expect("a number"), end_lsn: Lsn::from_u64(seq * 16) }
}

fn contents(file: SegmentFile) -> Vec<u8> {
    match file {
        // Too large for a window.
        SegmentFile::Changes(name) if name.seq.get() == 7 => vec![7; 3 << 20],
        _ => file.file_name().repeat(20).into_bytes(),
    }
}

/// Segments that are in a roll-up, and nowhere else.
fn rolled_up(folder: &Path) -> Rollup {
    rolled_up_from(folder, 1)
}

fn rolled_up_from(folder: &Path, first: u64) -> Rollup {
    let last = first + SEGMENTS - 1;
    let manifests = (first..=last).map(|seq| SegmentFile::Manifest(name(seq)));
    let changes = (first..=last).map(|seq| SegmentFile::Changes(name(seq)));
    let (mut bytes, mut files) = (Vec::new(), Vec::new());
    for file in manifests.chain(changes) {
        let content = contents(file);
        let path = format!("segments/{}/{}", day(), file.file_name());
        bytes.extend(tar::header(&path, content.len() as u64, day().start()));
        bytes.extend(&content);
        bytes.resize(bytes.len().next_multiple_of(512), 0);
        files.push(Member {
            name: file.file_name(),
            bytes: content.len() as u64,
            sha256: Digest::of(&content),
        });
    }
    bytes.extend([0; tar::END_BYTES as usize]);
    let link = |seq| {
        let sha256 = Digest::of(&contents(SegmentFile::Manifest(name(seq))));
        Link { seq: name(seq).seq, sha256 }
    };
    let rolled = RollupName { first: name(first).seq, last: name(last).seq };
    let rollup = Rollup {
        format: FORMAT,
        archive_id: uuid::Uuid::nil(),
        day: day(),
        first: link(first),
        last: link(last),
        file: rolled.tar_name(),
        bytes: bytes.len() as u64,
        sha256: Digest::of(&bytes),
        files,
        created_at: day().start(),
        archiver: "0.1.0".to_owned(),
    };
    let rollups = folder.join("rollups").join(day().to_string());
    fs::create_dir_all(&rollups).expect("ours");
    fs::write(rollups.join(rolled.tar_name()), bytes).expect("ours");
    fs::write(rollups.join(rolled.manifest_name()), rollup.encode()).expect("ours");
    rollup
}

fn open(folder: &Path, prefer: Prefer) -> (Rolled, Arc<AtomicU64>) {
    let questions = Arc::new(AtomicU64::new(0));
    let inner = Counted { inner: DirectoryArchive::new(folder), questions: Arc::clone(&questions) };
    (Rolled::new(Box::new(inner), prefer), questions)
}

fn read(archive: &mut Rolled, file: SegmentFile, offset: u64) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    let path = ArchivePath::day(day()).join(&file.file_name()).expect("plain");
    archive.read(&path, offset, &mut bytes)?;
    Ok(bytes)
}

#[test]
fn hundreds_of_small_files_are_a_few_questions() {
    let folder = tempfile::tempdir().expect("a folder");
    let rollup = rolled_up(folder.path());
    let (mut archive, questions) = open(folder.path(), Prefer::RollUps);
    let days = archive.list(&ArchivePath::segments()).expect("listed");
    assert_eq!(days, [Entry { name: day().to_string(), kind: EntryKind::Directory, bytes: 0 }]);
    let entries = archive.list(&ArchivePath::day(day())).expect("listed");
    assert_eq!(entries.len(), rollup.files.len());
    assert!(entries.iter().all(|entry| entry.kind == EntryKind::Rolled), "{entries:?}");
    for seq in 1..=SEGMENTS {
        // In turn, as a reader asks for them.
        for file in [SegmentFile::Manifest(name(seq)), SegmentFile::Changes(name(seq))] {
            assert!(read(&mut archive, file, 0).expect("in the tar") == contents(file), "{file:?}");
        }
    }
    let asked = questions.load(Ordering::Relaxed);
    assert!(asked < 15, "{asked} questions");
}

#[test]
fn more_roll_ups_than_are_remembered_are_listed_and_read() {
    let folder = tempfile::tempdir().expect("a folder");
    for first in [1, SEGMENTS + 1, 2 * SEGMENTS + 1] {
        rolled_up_from(folder.path(), first);
    }
    let (mut archive, questions) = open(folder.path(), Prefer::RollUps);
    archive.places_max = usize::try_from(2 * SEGMENTS).expect("small");
    let listed = archive.list(&ArchivePath::day(day())).expect("listed");
    assert_eq!(listed.len() as u64, 3 * 2 * SEGMENTS);
    assert_eq!(archive.known.len(), 1);
    questions.store(0, Ordering::Relaxed);
    for seq in 1..=3 * SEGMENTS {
        let file = SegmentFile::Manifest(name(seq));
        assert!(read(&mut archive, file, 0).expect("in a tar") == contents(file), "{file:?}");
    }
    let asked = questions.load(Ordering::Relaxed);
    assert!(asked < 30, "{asked} questions");
}

#[test]
fn what_leaves_while_somebody_holds_a_listing_is_read_out_of_the_roll_up() {
    let folder = tempfile::tempdir().expect("a folder");
    let alone = folder.path().join("segments").join(day().to_string());
    fs::create_dir_all(&alone).expect("ours");
    let file = SegmentFile::Manifest(name(3));
    fs::write(alone.join(file.file_name()), contents(file)).expect("ours");
    let (mut archive, _) = open(folder.path(), Prefer::RollUps);
    archive.list(&ArchivePath::segments()).expect("listed");
    assert_eq!(archive.list(&ArchivePath::day(day())).expect("listed").len(), 1);
    rolled_up(folder.path());
    fs::remove_dir_all(folder.path().join("segments")).expect("ours");
    assert!(read(&mut archive, file, 0).expect("in the tar") == contents(file));
    // The roll-up goes, too: that is what a prune does.
    fs::remove_dir_all(folder.path().join("rollups")).expect("ours");
    assert!(read(&mut archive, SegmentFile::Manifest(name(4)), 0).is_ok(), "it was read with the one before");
    let error = read(&mut archive, SegmentFile::Changes(name(7)), 0).expect_err("gone");
    assert_eq!(error.kind(), Kind::NotFound);
    let listed = archive.list(&ArchivePath::segments()).expect("listed");
    assert_eq!(listed, []);
}

#[test]
fn a_file_is_read_from_its_middle_without_a_listing_and_after_its_end() {
    let folder = tempfile::tempdir().expect("a folder");
    rolled_up(folder.path());
    for prefer in [Prefer::RollUps, Prefer::Singles] {
        let (mut archive, _) = open(folder.path(), prefer);
        for file in [SegmentFile::Changes(name(7)), SegmentFile::Manifest(name(7))] {
            let content = contents(file);
            for offset in [0, 1, content.len() as u64 - 1, content.len() as u64, content.len() as u64 + 9] {
                let rest = content.get(usize::try_from(offset).expect("small")..).unwrap_or_default();
                assert!(
                    read(&mut archive, file, offset).expect("in the tar") == rest,
                    "{file:?} from {offset}"
                );
            }
        }
        let error = read(&mut archive, SegmentFile::Manifest(name(SEGMENTS + 1)), 0).expect_err("nowhere");
        assert_eq!(error.kind(), Kind::NotFound);
        let path = name(7).file(day());
        let found = archive.stat(&path).expect("asked").expect("there");
        assert_eq!((found.kind, found.bytes), (EntryKind::Rolled, 3 << 20));
    }
}

#[test]
fn nothing_of_a_damaged_roll_up_is_handed_out() {
    let folder = tempfile::tempdir().expect("a folder");
    let rollup = rolled_up(folder.path());
    let place = rollup.places().expect("sound")[4];
    let tar = folder.path().join(rollup.name().tar(day()).as_str());
    let mut bytes = fs::read(&tar).expect("ours");
    bytes[usize::try_from(place.offset).expect("small") + 3] ^= 1;
    fs::write(&tar, bytes).expect("ours");

    let (mut archive, _) = open(folder.path(), Prefer::RollUps);
    archive.list(&ArchivePath::day(day())).expect("listed");
    assert!(read(&mut archive, SegmentFile::Manifest(name(4)), 0).is_ok(), "it is whole");
    let error = read(&mut archive, place.file, 0).expect_err("damaged");
    assert_eq!(error.kind(), Kind::Corrupt);
    assert!(error.report().contains(rollup.name().tar(day()).as_str()), "{}", error.report());
    let mut plain = DirectoryArchive::new(folder.path());
    let found = rollups::check(&mut plain, &rollup).expect_err("damaged").report();
    assert!(found.contains(&place.file.file_name()), "{found}");

    // What lies alone as well is read there.
    let alone = folder.path().join("segments").join(day().to_string());
    fs::create_dir_all(&alone).expect("ours");
    fs::write(alone.join(place.file.file_name()), contents(place.file)).expect("ours");
    assert!(read(&mut archive, place.file, 0).expect("alone") == contents(place.file));
}

#[test]
fn every_damaged_byte_of_a_tar_is_found() {
    let folder = tempfile::tempdir().expect("a folder");
    let rollup = rolled_up(folder.path());
    let mut plain = DirectoryArchive::new(folder.path());
    rollups::check(&mut plain, &rollup).expect("sound");
    let tar = folder.path().join(rollup.name().tar(day()).as_str());
    let sound = fs::read(&tar).expect("ours");
    // A header, a file, what fills its block, and the end.
    for at in [0, 150, 520, 2000, sound.len() - 1] {
        let mut bytes = sound.clone();
        bytes[at] ^= 1;
        fs::write(&tar, bytes).expect("ours");
        assert!(rollups::check(&mut plain, &rollup).is_err(), "byte {at}");
    }
    for bytes in [&sound[..sound.len() - 1], &[&sound[..], b"x"].concat()] {
        fs::write(&tar, bytes).expect("ours");
        assert!(rollups::check(&mut plain, &rollup).is_err(), "{} bytes", bytes.len());
        let listed = rollups::list(&mut plain, day()).expect("listed")[0];
        assert!(rollups::read(&mut plain, listed, None).is_err(), "{} bytes", bytes.len());
    }
}
