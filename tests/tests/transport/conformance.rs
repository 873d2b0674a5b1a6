//! What every archive promises, tried on every implementation.

use std::ffi::OsStr;
use std::fs;
use std::io::{self, Cursor, Write};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};

use syncdata_archive::{Archive, DirectoryArchive, Entry, EntryKind, Facts, Put};
use syncdata_formats::Kind;
use syncdata_formats::digest::Digest;
use syncdata_formats::layout::ArchivePath;
use syncdata_formats::time::Timestamp;
use syncdata_tests::sshd::Sshd;
use syncdata_tests::store::Place;

use super::{assert_refused, content, path, put, read, sftp, storage};

/// An implementation under test, and its files as whoever keeps them sees them.
struct Bench {
    archive: Box<dyn Archive>,
    kept: Kept,
}

enum Kept {
    Folder { dir: PathBuf, server: Box<Sshd> },
    Bucket(Place),
}

impl Bench {
    /// A directory and SFTP get a server and the folder that it lends; a directory uses the folder only.
    fn of_folder(open: impl FnOnce(&Sshd) -> Box<dyn Archive>) -> Bench {
        let server = Box::new(Sshd::start());
        let (archive, dir) = (open(&server), server.archive_dir().to_owned());
        Bench { archive, kept: Kept::Folder { dir, server } }
    }

    fn of_bucket() -> Bench {
        let place = Place::new();
        Bench { archive: Box::new(storage(&place.settings())), kept: Kept::Bucket(place) }
    }

    /// Where there are links, devices and empty folders.
    fn folder(&self) -> Option<&Path> {
        match &self.kept {
            Kept::Folder { dir, .. } => Some(dir),
            Kept::Bucket(_) => None,
        }
    }

    fn dir(&self) -> &Path {
        self.folder().expect("a case of folders")
    }

    /// A folder beside the archive, that nothing may touch.
    fn outside(&self) -> PathBuf {
        let Kept::Folder { server, .. } = &self.kept else { panic!("a case of folders") };
        let outside = server.folder().join("outside");
        fs::create_dir_all(&outside).expect("a folder of the test");
        outside
    }

    fn names(&self) -> Vec<String> {
        match &self.kept {
            Kept::Folder { dir, .. } => {
                let mut names = Vec::new();
                collect_names(dir, Path::new(""), &mut names);
                names.sort();
                names
            }
            Kept::Bucket(place) => place.names(),
        }
    }
}

fn collect_names(base: &Path, below: &Path, names: &mut Vec<String>) {
    for entry in fs::read_dir(base.join(below)).expect("a folder").flatten() {
        let name = below.join(entry.file_name());
        if entry.file_type().expect("a type").is_dir() {
            collect_names(base, &name, names);
        } else {
            names.push(name.display().to_string());
        }
    }
}

/// The suite, once for each implementation: a further one is one more line here. What only folders can have is not asked of
/// a bucket.
macro_rules! suite {
    (all: $($all:ident),* $(,)?; folders: $($of_folders:ident),* $(,)?) => {
        suite!(@for directory, Bench::of_folder(|server| Box::new(DirectoryArchive::new(server.archive_dir()))),
            $($all)* $($of_folders)*);
        suite!(@for over_sftp, Bench::of_folder(|server| Box::new(sftp(&server.settings()))), $($all)* $($of_folders)*);
        suite!(@for on_object_storage, Bench::of_bucket(), $($all)*);
    };
    (@for $name:ident, $bench:expr, $($case:ident)*) => {
        mod $name {
            use super::*;

            $(#[test] fn $case() { super::$case(&mut $bench); })*
        }
    };
}

suite!(
    all:
    put_then_read_returns_every_byte,
    put_of_the_same_content_is_already_there,
    put_of_other_content_is_a_conflict_that_names_both_digests,
    put_refuses_content_that_is_not_as_announced,
    replace_makes_and_replaces,
    read_resumes_at_an_offset,
    read_part_ends_where_it_is_told_to,
    read_of_what_is_not_there_is_not_found,
    read_tells_a_reader_that_cannot_store,
    list_is_sorted_and_tells_kinds,
    list_after_a_name_has_the_rest,
    list_passes_over_foreign_names,
    stat_tells_what_is_there,
    remove_tells_what_was_there,
    remove_keeps_a_folder_in_use,
    a_time_is_that_of_the_last_writing;
    folders:
    put_makes_folders_and_files_private,
    put_starts_over_what_an_earlier_run_left,
    links_are_never_followed,
    a_link_in_place_of_the_part_is_not_written_through,
    a_folder_is_no_file_and_a_file_is_no_folder,
    a_pipe_is_not_waited_for,
    a_missing_directory_is_not_an_empty_archive,
    a_file_as_directory_is_refused,
);

const SEGMENT: &str = "segments/2026-02-05/0000000042-00000000016B3D40.jsonl.zst";

fn put_then_read_returns_every_byte(bench: &mut Bench) {
    // Around the sizes of a packet, of a buffer and of nothing.
    for (number, bytes) in
        [0, 1, 29_999, 30_000, 30_001, 32_768, 1_000_000, (4 << 20) - 1, 4 << 20, (4 << 20) + 1]
            .into_iter()
            .enumerate()
    {
        let (path, content) = (path(&format!("segments/{number}")), content(bytes));
        assert_eq!(
            put(&mut *bench.archive, &path, &content).expect("written"),
            Put::Written,
            "{bytes} bytes"
        );
        assert!(
            read(&mut *bench.archive, &path).expect("readable") == content,
            "{bytes} bytes came back other"
        );
    }
    assert!(bench.names().iter().all(|name| !name.ends_with(".part")));
}

fn put_makes_folders_and_files_private(bench: &mut Bench) {
    put(&mut *bench.archive, &path(SEGMENT), b"x").expect("written");
    bench.archive.replace(&ArchivePath::head(), b"{}").expect("written");
    let mode = |name: &str| fs::metadata(bench.dir().join(name)).expect("there").permissions().mode() & 0o777;
    for (name, expected) in
        [("segments", 0o700), ("segments/2026-02-05", 0o700), (SEGMENT, 0o600), ("head.json", 0o600)]
    {
        assert_eq!(mode(name), expected, "{name}");
    }
}

fn put_of_the_same_content_is_already_there(bench: &mut Bench) {
    for bytes in [0, 100_000] {
        let (path, content) = (path(&format!("segments/{bytes}")), content(bytes));
        assert_eq!(put(&mut *bench.archive, &path, &content).expect("written"), Put::Written);
        assert_eq!(put(&mut *bench.archive, &path, &content).expect("there"), Put::AlreadyThere);
    }
}

fn put_of_other_content_is_a_conflict_that_names_both_digests(bench: &mut Bench) {
    put(&mut *bench.archive, &path(SEGMENT), b"first").expect("written");
    for other in [&b"other"[..], b"", b"a longer one"] {
        let (there, wanted) = (Digest::of(b"first").to_string(), Digest::of(other).to_string());
        assert_refused(
            put(&mut *bench.archive, &path(SEGMENT), other),
            Kind::Conflict,
            &[&there, &wanted, SEGMENT],
        );
    }
    assert_eq!(read(&mut *bench.archive, &path(SEGMENT)).expect("there"), b"first");
}

fn put_refuses_content_that_is_not_as_announced(bench: &mut Bench) {
    for (bytes, announced) in
        [(10_u64, &b"longer than that"[..]), (100, b"shorter"), (5, b"other"), (0, b"some")]
    {
        let facts = Facts { bytes, sha256: Digest::of(b"known") };
        let outcome = bench.archive.put(&path(SEGMENT), &mut Cursor::new(announced), facts);
        assert_refused(outcome, Kind::Corrupt, &[SEGMENT]);
    }
    assert_eq!(bench.names(), Vec::<String>::new());
}

fn put_starts_over_what_an_earlier_run_left(bench: &mut Bench) {
    fs::create_dir_all(bench.dir().join("segments/2026-02-05")).expect("a folder");
    fs::write(bench.dir().join(format!("{SEGMENT}.part")), content(70_000)).expect("a part");
    assert_eq!(put(&mut *bench.archive, &path(SEGMENT), b"short").expect("written"), Put::Written);
    assert_eq!(fs::read(bench.dir().join(SEGMENT)).expect("there"), b"short");
    assert_eq!(bench.names(), [SEGMENT]);
}

fn replace_makes_and_replaces(bench: &mut Bench) {
    for text in [&b"{\"seq\":1}"[..], b"{\"seq\":2, \"longer\":true}", b"{}", b""] {
        bench.archive.replace(&ArchivePath::head(), text).expect("replaced");
        assert_eq!(read(&mut *bench.archive, &ArchivePath::head()).expect("there"), text);
    }
    bench.archive.replace(&path("a/b/c.json"), b"{}").expect("made with its folders");
    assert_eq!(bench.names(), ["a/b/c.json", "head.json"]);
}

fn read_resumes_at_an_offset(bench: &mut Bench) {
    let content = content(300_000);
    put(&mut *bench.archive, &path(SEGMENT), &content).expect("written");
    for offset in [0, 1, 29_999, 150_000, 299_999, 300_000, 300_001, 10_000_000] {
        let mut rest = Vec::new();
        let copied = bench.archive.read(&path(SEGMENT), offset as u64, &mut rest).expect("readable");
        assert_eq!(copied, rest.len() as u64);
        assert!(rest == content[offset.min(content.len())..], "from {offset}");
    }
}

fn read_part_ends_where_it_is_told_to(bench: &mut Bench) {
    let content = content(3_000_000);
    put(&mut *bench.archive, &path(SEGMENT), &content).expect("written");
    for (offset, bytes) in [
        (0, 0),
        (0, 1),
        (7, 30_000),
        (1, 1 << 20),
        (2_999_999, 1),
        (0, 3_000_000),
        (2_999_990, 100),
        (4_000_000, 5),
    ] {
        let mut part = Vec::new();
        let copied = bench.archive.read_part(&path(SEGMENT), offset, bytes, &mut part).expect("readable");
        let from = content.len().min(usize::try_from(offset).expect("small"));
        let to = content.len().min(from + usize::try_from(bytes).expect("small"));
        assert!(part == content[from..to], "{bytes} bytes from {offset}");
        assert_eq!(copied, part.len() as u64, "{bytes} bytes from {offset}");
    }
    let missing = bench.archive.read_part(&path("segments/none"), 0, 1, &mut Vec::new());
    assert_eq!(missing.expect_err("not there").kind(), Kind::NotFound);
}

fn read_of_what_is_not_there_is_not_found(bench: &mut Bench) {
    for name in ["head.json", SEGMENT] {
        assert_refused(read(&mut *bench.archive, &path(name)), Kind::NotFound, &[name]);
    }
}

fn read_tells_a_reader_that_cannot_store(bench: &mut Bench) {
    struct Full;
    impl Write for Full {
        fn write(&mut self, _: &[u8]) -> io::Result<usize> {
            Err(io::ErrorKind::StorageFull.into())
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }
    put(&mut *bench.archive, &path(SEGMENT), &content(100_000)).expect("written");
    assert_refused(bench.archive.read(&path(SEGMENT), 0, &mut Full), Kind::NoSpace, &[SEGMENT]);
    assert_eq!(read(&mut *bench.archive, &path(SEGMENT)).expect("still readable").len(), 100_000);
}

fn list_is_sorted_and_tells_kinds(bench: &mut Bench) {
    assert_eq!(bench.archive.list(&path("segments")).expect("no such folder is empty"), []);
    for name in ["segments/b", "segments/a", "segments/c/d"] {
        put(&mut *bench.archive, &path(name), name.as_bytes()).expect("written");
    }
    let mut expected = vec![("a", EntryKind::File), ("b", EntryKind::File), ("c", EntryKind::Directory)];
    if let Some(dir) = bench.folder() {
        symlink("a", dir.join("segments/link")).expect("a link");
        expected.push(("link", EntryKind::Other));
    }
    let found = bench.archive.list(&path("segments")).expect("listed");
    let found: Vec<_> = found.iter().map(|entry| (entry.name.as_str(), entry.kind)).collect();
    assert_eq!(found, expected);
    let file = bench.archive.list(&path("segments/c")).expect("listed");
    assert_eq!(file, [Entry { name: "d".into(), kind: EntryKind::File, bytes: 12 }]);
}

fn list_after_a_name_has_the_rest(bench: &mut Bench) {
    for name in ["1", "2", "20", "3"] {
        put(&mut *bench.archive, &path(&format!("segments/{name}")), b"x").expect("written");
    }
    for (after, expected) in [
        ("0", &["1", "2", "20", "3"][..]),
        ("1", &["2", "20", "3"]),
        ("2", &["20", "3"]),
        ("21", &["3"]),
        ("3", &[]),
    ] {
        let found = bench.archive.list_after(&path("segments"), after).expect("listed");
        assert_eq!(
            found.iter().map(|entry| entry.name.as_str()).collect::<Vec<_>>(),
            expected,
            "after {after}"
        );
    }
    assert_eq!(bench.archive.list_after(&path("none"), "1").expect("no such folder is empty"), []);
}

fn list_passes_over_foreign_names(bench: &mut Bench) {
    put(&mut *bench.archive, &path("segments/ours"), b"x").expect("written");
    for name in
        [&b"with space"[..], b"line\nbreak", b"\xff\xfe", b"back\\slash", b"\x1b[31m", "ümlaut".as_bytes()]
    {
        match &bench.kept {
            Kept::Folder { dir, .. } => {
                fs::write(dir.join("segments").join(OsStr::from_bytes(name)), b"x").expect("a hostile file")
            }
            // Names of objects are text.
            Kept::Bucket(place) => {
                let Ok(name) = std::str::from_utf8(name) else { continue };
                place.plant(&format!("segments/{name}"), b"x");
            }
        }
    }
    let found = bench.archive.list(&path("segments")).expect("listed");
    assert_eq!(found.iter().map(|entry| entry.name.as_str()).collect::<Vec<_>>(), ["ours"]);
}

fn stat_tells_what_is_there(bench: &mut Bench) {
    put(&mut *bench.archive, &path("segments/file"), b"12345").expect("written");
    let link = bench.folder().map(|dir| {
        symlink("/etc/passwd", dir.join("segments/link")).expect("a link");
        (EntryKind::Other, 0)
    });
    for (name, expected) in [
        ("segments/file", Some((EntryKind::File, 5))),
        ("segments", Some((EntryKind::Directory, 0))),
        ("segments/link", link),
        ("segments/none", None),
        ("none", None),
        ("none/none/none", None),
    ] {
        let found = bench.archive.stat(&path(name)).expect("asked");
        let found = found.map(|entry| {
            assert_eq!(entry.name, path(name).file_name());
            (entry.kind, if entry.kind == EntryKind::File { entry.bytes } else { 0 })
        });
        assert_eq!(found, expected, "{name}");
    }
}

fn remove_tells_what_was_there(bench: &mut Bench) {
    put(&mut *bench.archive, &path("segments/a"), b"x").expect("written");
    let outside = bench.folder().map(|dir| {
        let outside = bench.outside().join("kept");
        fs::write(&outside, b"x").expect("a file");
        symlink(&outside, dir.join("segments/link")).expect("a link");
        outside
    });
    // In a bucket a folder without files is none.
    let is_of_folders = outside.is_some();
    for (name, was_there) in [
        ("segments/a", true),
        ("segments/a", false),
        ("segments/link", is_of_folders),
        ("segments", is_of_folders),
        ("segments", false),
        ("none/none", false),
    ] {
        assert_eq!(bench.archive.remove(&path(name)).expect("removed"), was_there, "{name}");
    }
    assert!(outside.is_none_or(|outside| outside.exists()), "the link went, not what it points to");
}

fn remove_keeps_a_folder_in_use(bench: &mut Bench) {
    put(&mut *bench.archive, &path("segments/a"), b"x").expect("written");
    assert_refused(bench.archive.remove(&path("segments")), Kind::Conflict, &["segments", "not empty"]);
}

fn a_time_is_that_of_the_last_writing(bench: &mut Bench) {
    assert_eq!(bench.archive.changed_at(&ArchivePath::head()).expect("asked"), None);
    bench.archive.replace(&ArchivePath::head(), b"{}").expect("written");
    let at = bench.archive.changed_at(&ArchivePath::head()).expect("asked").expect("it is there");
    let age = (Timestamp::now().as_micros() - at.as_micros()) / 1_000_000;
    // Whole seconds, and no other clock than ours.
    assert!((-1..60).contains(&age), "{at}");
}

fn links_are_never_followed(bench: &mut Bench) {
    let outside = bench.outside();
    fs::write(outside.join("secret"), b"secret").expect("a file");
    symlink(outside.join("secret"), bench.dir().join("head.json")).expect("a link");
    symlink(&outside, bench.dir().join("segments")).expect("a link");
    let archive = &mut *bench.archive;
    assert_refused(read(archive, &path("head.json")), Kind::Foreign, &["head.json"]);
    assert_refused(put(archive, &path("head.json"), b"secret"), Kind::Conflict, &["head.json"]);
    assert_refused(read(archive, &path("segments/secret")), Kind::Foreign, &["segments"]);
    assert_refused(put(archive, &path("segments/new"), b"x"), Kind::Foreign, &["segments"]);
    assert_refused(archive.replace(&path("segments/secret"), b"x"), Kind::Foreign, &["segments"]);
    assert_refused(archive.list(&path("segments")), Kind::Foreign, &["segments"]);
    assert_refused(archive.stat(&path("segments/secret")), Kind::Foreign, &["segments"]);
    assert_refused(archive.remove(&path("segments/secret")), Kind::Foreign, &["segments"]);
    archive.replace(&path("head.json"), b"ours").expect("the link itself is replaced");
    assert_eq!(fs::read(outside.join("secret")).expect("there"), b"secret");
    assert_eq!(fs::read_dir(&outside).expect("there").count(), 1);
}

fn a_link_in_place_of_the_part_is_not_written_through(bench: &mut Bench) {
    let outside = bench.outside().join("victim");
    fs::write(&outside, b"victim").expect("a file");
    symlink(&outside, bench.dir().join("archive.json.part")).expect("a link");
    // A directory can clear the way; over SFTP the refusal names what stands in it.
    match put(&mut *bench.archive, &path("archive.json"), b"ours") {
        Ok(written) => assert_eq!(written, Put::Written),
        Err(error) => drop(assert_refused::<()>(Err(error), Kind::Conflict, &["archive.json.part"])),
    }
    assert_eq!(fs::read(&outside).expect("there"), b"victim");
}

fn a_folder_is_no_file_and_a_file_is_no_folder(bench: &mut Bench) {
    fs::create_dir_all(bench.dir().join("head.json")).expect("a folder");
    fs::write(bench.dir().join("segments"), b"x").expect("a file");
    let archive = &mut *bench.archive;
    assert_refused(read(archive, &path("head.json")), Kind::Foreign, &["head.json"]);
    assert_refused(put(archive, &path("head.json"), b"x"), Kind::Conflict, &["head.json"]);
    assert_refused(archive.replace(&path("head.json"), b"x"), Kind::Conflict, &["head.json"]);
    assert_refused(put(archive, &path("segments/a"), b"x"), Kind::Foreign, &["segments"]);
    assert_refused(archive.list(&path("segments")), Kind::Foreign, &["segments"]);
}

fn a_pipe_is_not_waited_for(bench: &mut Bench) {
    let made = std::process::Command::new("mkfifo").arg(bench.dir().join("head.json")).status();
    assert!(made.expect("mkfifo is part of coreutils").success());
    assert_refused(read(&mut *bench.archive, &path("head.json")), Kind::Foreign, &["head.json"]);
}

fn a_missing_directory_is_not_an_empty_archive(bench: &mut Bench) {
    put(&mut *bench.archive, &path(SEGMENT), b"x").expect("written while it is there");
    let folder = bench.dir().to_owned();
    fs::rename(&folder, folder.with_extension("away")).expect("the test owns it");
    let dir = folder.display().to_string();
    let parts = [dir.as_str(), "does not exist"];
    let archive = &mut *bench.archive;
    assert_refused(read(archive, &path("head.json")), Kind::BadInput, &parts);
    assert_refused(read(archive, &path(SEGMENT)), Kind::BadInput, &parts);
    assert_refused(put(archive, &path("archive.json"), b"x"), Kind::BadInput, &parts);
    assert_refused(put(archive, &path(SEGMENT), b"x"), Kind::BadInput, &parts);
    assert_refused(archive.replace(&path("head.json"), b"x"), Kind::BadInput, &parts);
    assert_refused(archive.list(&path("segments")), Kind::BadInput, &parts);
    assert_refused(archive.stat(&path("head.json")), Kind::BadInput, &parts);
    assert_refused(archive.stat(&path(SEGMENT)), Kind::BadInput, &parts);
    assert_refused(archive.remove(&path("head.json")), Kind::BadInput, &parts);
    assert!(!folder.exists(), "nobody made it");
    fs::rename(folder.with_extension("away"), &folder).expect("the test owns it");
    assert_eq!(read(archive, &path(SEGMENT)).expect("back again"), b"x");
}

fn a_file_as_directory_is_refused(bench: &mut Bench) {
    fs::remove_dir(bench.dir()).expect("it is empty");
    fs::write(bench.dir(), b"x").expect("a file");
    let archive = &mut *bench.archive;
    assert!(read(archive, &path("head.json")).is_err());
    assert_refused(put(archive, &path("archive.json"), b"x"), Kind::BadInput, &["not a directory"]);
    assert_refused(archive.list(&path("segments")), Kind::BadInput, &["not a directory"]);
}
