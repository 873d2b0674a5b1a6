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
use syncdata_tests::sshd::Sshd;

use super::{assert_refused, content, path, put, read, sftp};

/// An implementation under test, and its folder as the backup host sees it.
struct Bench {
    archive: Box<dyn Archive>,
    dir: PathBuf,
    server: Sshd,
}

impl Bench {
    /// Every implementation gets a server and the folder that it lends; a directory uses the folder only.
    fn new(open: impl FnOnce(&Sshd) -> Box<dyn Archive>) -> Bench {
        let server = Sshd::start();
        Bench { archive: open(&server), dir: server.archive_dir().to_owned(), server }
    }

    /// A folder beside the archive, that nothing may touch.
    fn outside(&self) -> PathBuf {
        let outside = self.server.folder().join("outside");
        fs::create_dir_all(&outside).expect("a folder of the test");
        outside
    }

    fn names(&self) -> Vec<String> {
        let mut names = Vec::new();
        collect_names(&self.dir, Path::new(""), &mut names);
        names.sort();
        names
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

/// The suite, once for each implementation: a further one is one more line here.
macro_rules! suite {
    ($($case:ident),* $(,)?) => {
        suite!(@for directory, |server| Box::new(DirectoryArchive::new(server.archive_dir())), $($case)*);
        suite!(@for over_sftp, |server| Box::new(sftp(&server.settings())), $($case)*);
    };
    (@for $name:ident, $open:expr, $($case:ident)*) => {
        mod $name {
            use super::*;

            $(#[test] fn $case() { super::$case(&mut Bench::new($open)); })*
        }
    };
}

suite!(
    put_then_read_returns_every_byte,
    put_makes_folders_and_files_private,
    put_of_the_same_content_is_already_there,
    put_of_other_content_is_a_conflict_that_names_both_digests,
    put_refuses_content_that_is_not_as_announced,
    put_starts_over_what_an_earlier_run_left,
    replace_makes_and_replaces,
    read_resumes_at_an_offset,
    read_part_ends_where_it_is_told_to,
    read_of_what_is_not_there_is_not_found,
    read_tells_a_reader_that_cannot_store,
    list_is_sorted_and_tells_kinds,
    list_passes_over_foreign_names,
    stat_tells_what_is_there,
    remove_tells_what_was_there,
    remove_keeps_a_folder_in_use,
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
    let mode = |name: &str| fs::metadata(bench.dir.join(name)).expect("there").permissions().mode() & 0o777;
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
    fs::create_dir_all(bench.dir.join("segments/2026-02-05")).expect("a folder");
    fs::write(bench.dir.join(format!("{SEGMENT}.part")), content(70_000)).expect("a part");
    assert_eq!(put(&mut *bench.archive, &path(SEGMENT), b"short").expect("written"), Put::Written);
    assert_eq!(fs::read(bench.dir.join(SEGMENT)).expect("there"), b"short");
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
    symlink("a", bench.dir.join("segments/link")).expect("a link");
    let found = bench.archive.list(&path("segments")).expect("listed");
    let found: Vec<_> = found.iter().map(|entry| (entry.name.as_str(), entry.kind)).collect();
    let expected = [
        ("a", EntryKind::File),
        ("b", EntryKind::File),
        ("c", EntryKind::Directory),
        ("link", EntryKind::Other),
    ];
    assert_eq!(found, expected);
    let file = bench.archive.list(&path("segments/c")).expect("listed");
    assert_eq!(file, [Entry { name: "d".into(), kind: EntryKind::File, bytes: 12 }]);
}

fn list_passes_over_foreign_names(bench: &mut Bench) {
    put(&mut *bench.archive, &path("segments/ours"), b"x").expect("written");
    for name in
        [&b"with space"[..], b"line\nbreak", b"\xff\xfe", b"back\\slash", b"\x1b[31m", "ümlaut".as_bytes()]
    {
        fs::write(bench.dir.join("segments").join(OsStr::from_bytes(name)), b"x").expect("a hostile file");
    }
    let found = bench.archive.list(&path("segments")).expect("listed");
    assert_eq!(found.iter().map(|entry| entry.name.as_str()).collect::<Vec<_>>(), ["ours"]);
}

fn stat_tells_what_is_there(bench: &mut Bench) {
    put(&mut *bench.archive, &path("segments/file"), b"12345").expect("written");
    symlink("/etc/passwd", bench.dir.join("segments/link")).expect("a link");
    for (name, expected) in [
        ("segments/file", Some((EntryKind::File, 5))),
        ("segments", Some((EntryKind::Directory, 0))),
        ("segments/link", Some((EntryKind::Other, 0))),
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
    let outside = bench.outside().join("kept");
    fs::write(&outside, b"x").expect("a file");
    put(&mut *bench.archive, &path("segments/a"), b"x").expect("written");
    symlink(&outside, bench.dir.join("segments/link")).expect("a link");
    for (name, was_there) in [
        ("segments/a", true),
        ("segments/a", false),
        ("segments/link", true),
        ("segments", true),
        ("segments", false),
        ("none/none", false),
    ] {
        assert_eq!(bench.archive.remove(&path(name)).expect("removed"), was_there, "{name}");
    }
    assert!(outside.exists(), "the link went, not what it points to");
}

fn remove_keeps_a_folder_in_use(bench: &mut Bench) {
    put(&mut *bench.archive, &path("segments/a"), b"x").expect("written");
    assert_refused(bench.archive.remove(&path("segments")), Kind::Conflict, &["segments", "not empty"]);
}

fn links_are_never_followed(bench: &mut Bench) {
    let outside = bench.outside();
    fs::write(outside.join("secret"), b"secret").expect("a file");
    symlink(outside.join("secret"), bench.dir.join("head.json")).expect("a link");
    symlink(&outside, bench.dir.join("segments")).expect("a link");
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
    symlink(&outside, bench.dir.join("archive.json.part")).expect("a link");
    // A directory can clear the way; over SFTP the refusal names what stands in it.
    match put(&mut *bench.archive, &path("archive.json"), b"ours") {
        Ok(written) => assert_eq!(written, Put::Written),
        Err(error) => drop(assert_refused::<()>(Err(error), Kind::Conflict, &["archive.json.part"])),
    }
    assert_eq!(fs::read(&outside).expect("there"), b"victim");
}

fn a_folder_is_no_file_and_a_file_is_no_folder(bench: &mut Bench) {
    fs::create_dir_all(bench.dir.join("head.json")).expect("a folder");
    fs::write(bench.dir.join("segments"), b"x").expect("a file");
    let archive = &mut *bench.archive;
    assert_refused(read(archive, &path("head.json")), Kind::Foreign, &["head.json"]);
    assert_refused(put(archive, &path("head.json"), b"x"), Kind::Conflict, &["head.json"]);
    assert_refused(archive.replace(&path("head.json"), b"x"), Kind::Conflict, &["head.json"]);
    assert_refused(put(archive, &path("segments/a"), b"x"), Kind::Foreign, &["segments"]);
    assert_refused(archive.list(&path("segments")), Kind::Foreign, &["segments"]);
}

fn a_pipe_is_not_waited_for(bench: &mut Bench) {
    let made = std::process::Command::new("mkfifo").arg(bench.dir.join("head.json")).status();
    assert!(made.expect("mkfifo is part of coreutils").success());
    assert_refused(read(&mut *bench.archive, &path("head.json")), Kind::Foreign, &["head.json"]);
}

fn a_missing_directory_is_not_an_empty_archive(bench: &mut Bench) {
    put(&mut *bench.archive, &path(SEGMENT), b"x").expect("written while it is there");
    fs::rename(&bench.dir, bench.dir.with_extension("away")).expect("the test owns it");
    let dir = bench.dir.display().to_string();
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
    assert!(!bench.dir.exists(), "nobody made it");
    fs::rename(bench.dir.with_extension("away"), &bench.dir).expect("the test owns it");
    assert_eq!(read(archive, &path(SEGMENT)).expect("back again"), b"x");
}

fn a_file_as_directory_is_refused(bench: &mut Bench) {
    fs::remove_dir(&bench.dir).expect("it is empty");
    fs::write(&bench.dir, b"x").expect("a file");
    let archive = &mut *bench.archive;
    assert!(read(archive, &path("head.json")).is_err());
    assert_refused(put(archive, &path("archive.json"), b"x"), Kind::BadInput, &["not a directory"]);
    assert_refused(archive.list(&path("segments")), Kind::BadInput, &["not a directory"]);
}
