//! A backup host that is away, silent, full or read-only, and a network that is cut at any byte.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use syncdata_archive::{
    self as archive, Archive, ArchiveHandle, DirectoryArchive, Patience, Put, SftpArchive,
};
use syncdata_formats::Kind;
use syncdata_formats::digest::Digest;
use syncdata_formats::layout::ArchivePath;
use syncdata_service::config::{ArchiveSettings, SftpSettings};
use syncdata_tests::proxy::{Direction, Proxy};
use syncdata_tests::sshd::{Options, Sshd};

use super::{IMPATIENT, assert_refused, content, path, put, read, sftp};

const SEGMENT: &str = "segments/2026-02-05/0000000001-0000000000000001.jsonl.zst";

/// Gives up soon, and calls again twice.
const PATIENT: Patience = Patience { retries: 2, ..IMPATIENT };
const HASTY: Patience =
    Patience { connect: Duration::from_millis(700), answer: Duration::from_millis(700), ..IMPATIENT };
/// Far above what HASTY allows, far below for ever.
const SOON: Duration = Duration::from_secs(10);

/// The way to the server leads through the proxy.
fn through(server: &Sshd, proxy: &Proxy) -> SftpSettings {
    let known_hosts = server.folder().join("known_hosts_of_proxy");
    fs::write(&known_hosts, format!("[127.0.0.1]:* {}\n", server.host_key("ed25519"))).expect("a file");
    SftpSettings { port: proxy.port(), known_hosts: Some(known_hosts), ..server.settings() }
}

fn assert_no_final_name(dir: &Path, name: &str) {
    assert!(!dir.join(name).exists(), "{name} was published unfinished");
}

#[test]
fn an_absent_backup_host_is_an_error_of_the_operation_and_not_of_the_start() {
    let mut server = Sshd::start();
    server.stop();
    let mut settings = server.settings();
    let mut archive =
        archive::open(&ArchiveSettings::Sftp(settings.clone())).expect("opening connects to nobody");
    let parts = ["SFTP client not connected", "127.0.0.1", "archive_port"];
    assert_refused(archive.stat(&ArchivePath::head()), Kind::Unreachable, &parts);
    server.restart();
    assert_eq!(archive.stat(&ArchivePath::head()).expect("it is back"), None);
    settings.host = "no-such-host.invalid".into();
    let mut archive = sftp(&settings);
    assert_refused(archive.stat(&ArchivePath::head()), Kind::Unreachable, &["SFTP client not connected"]);
}

#[test]
fn a_restarted_server_is_called_again_without_a_word() {
    let mut server = Sshd::start();
    let mut archive = sftp(&server.settings()).with_patience(PATIENT);
    for round in 0..3_u8 {
        let path = path(&format!("segments/{round}"));
        assert_eq!(put(&mut archive, &path, &[round]).expect("written"), Put::Written);
        server.restart();
        assert_eq!(read(&mut archive, &path).expect("there"), [round]);
        server.restart();
        archive.replace(&ArchivePath::head(), &[round]).expect("replaced");
        server.restart();
        assert_eq!(archive.list(&super::path("segments")).expect("listed").len(), usize::from(round) + 1);
    }
}

#[test]
fn a_frozen_server_is_given_up_and_serves_again_after_the_thaw() {
    let server = Sshd::start();
    let mut archive = sftp(&server.settings()).with_patience(HASTY);
    let content = content(3_000_000);
    put(&mut archive, &path("segments/before"), &content).expect("written");
    server.freeze();
    let started = Instant::now();
    assert_refused(put(&mut archive, &path(SEGMENT), &content), Kind::Unreachable, &["did not answer"]);
    assert_refused(read(&mut archive, &path("segments/before")), Kind::Unreachable, &["not connected"]);
    drop(archive);
    assert!(started.elapsed() < SOON, "it took {:?}", started.elapsed());
    server.thaw();
    let mut archive = sftp(&server.settings());
    put(&mut archive, &path(SEGMENT), &content).expect("written after the thaw");
    assert!(read(&mut archive, &path(SEGMENT)).expect("there") == content);
}

#[test]
fn a_silent_network_is_given_up_and_dropping_waits_for_nobody() {
    let server = Sshd::start();
    let proxy = Proxy::start(server.address());
    let mut archive = sftp(&through(&server, &proxy)).with_patience(HASTY);
    put(&mut archive, &path("segments/before"), &content(100_000)).expect("written");
    proxy.hang();
    let started = Instant::now();
    assert_refused(archive.list(&path("segments")), Kind::Unreachable, &["did not answer"]);
    assert_refused(archive.list(&path("segments")), Kind::Unreachable, &["not connected"]);
    assert!(started.elapsed() < SOON, "it took {:?}", started.elapsed());
    proxy.heal();
    assert_eq!(archive.list(&path("segments")).expect("healed").len(), 1);
    proxy.hang();
    let started = Instant::now();
    drop(archive);
    assert!(started.elapsed() < HASTY.answer, "dropping took {:?}", started.elapsed());
}

/// Byte positions over the whole of a conversation, dense where it begins.
fn positions(total: u64) -> Vec<u64> {
    let mut positions = vec![0, 1, 30, 500, 1500, 2500, 3500];
    positions.extend((1..24).map(|n| total * n / 24));
    positions.extend([total - 2000, total - 500, total - 100, total - 1]);
    positions.retain(|&position| position < total);
    positions
}

/// How many bytes that conversation has in that direction.
fn total(server: &Sshd, direction: Direction, talk: impl FnOnce(&mut SftpArchive)) -> u64 {
    let proxy = Proxy::start(server.address());
    let mut archive = sftp(&through(server, &proxy));
    talk(&mut archive);
    proxy.carried(direction)
}

#[test]
fn a_put_that_is_cut_at_any_byte_publishes_nothing_unfinished_and_succeeds_when_repeated() {
    let server = Sshd::start();
    let calm = Proxy::start(server.address());
    let content = content(400_000);
    for direction in [Direction::Up, Direction::Down] {
        let all = total(&server, direction, |archive| {
            put(archive, &path("segments/measure"), &content).expect("written");
        });
        server_forget(&server);
        for position in positions(all) {
            let proxy = Proxy::start(server.address());
            let mut archive = sftp(&through(&server, &proxy));
            proxy.cut_after(direction, position);
            let file = server.archive_dir().join(SEGMENT);
            match put(&mut archive, &path(SEGMENT), &content) {
                Ok(written) => {
                    assert_eq!(written, Put::Written);
                    // The last words of the conversation may be those that nobody waits for. Then the cut comes
                    // between the two, and the second would find the connection broken.
                    archive = sftp(&through(&server, &calm));
                }
                Err(error) => {
                    assert_eq!(error.kind(), Kind::Unreachable, "{direction:?} {position}: {error:?}")
                }
            }
            if let Ok(published) = fs::read(&file) {
                assert!(published == content, "{direction:?} {position}: published unfinished");
            }
            put(&mut archive, &path(SEGMENT), &content)
                .unwrap_or_else(|error| panic!("{position}: {error:?}"));
            assert!(fs::read(&file).expect("there") == content, "{direction:?} {position}");
            server_forget(&server);
        }
    }
}

#[test]
fn a_put_that_is_cut_calls_again_by_itself() {
    let server = Sshd::start();
    let content = content(400_000);
    for position in [0, 3000, 10_000, 200_000, 400_000] {
        let proxy = Proxy::start(server.address());
        let mut archive = sftp(&through(&server, &proxy)).with_patience(PATIENT);
        proxy.cut_after(Direction::Up, position);
        put(&mut archive, &path(SEGMENT), &content).unwrap_or_else(|error| panic!("{position}: {error:?}"));
        assert!(!proxy.cut_is_due(), "{position}: the network was never cut");
        assert!(fs::read(server.archive_dir().join(SEGMENT)).expect("there") == content);
        server_forget(&server);
    }
}

#[test]
fn a_read_that_is_cut_at_any_byte_resumes_where_it_was() {
    let server = Sshd::start();
    let content = content(400_000);
    put(&mut DirectoryArchive::new(server.archive_dir()), &path(SEGMENT), &content).expect("written");
    let all = total(&server, Direction::Down, |archive| drop(read(archive, &path(SEGMENT)).expect("there")));
    for position in positions(all) {
        let proxy = Proxy::start(server.address());
        let mut archive = sftp(&through(&server, &proxy));
        proxy.cut_after(Direction::Down, position);
        let mut bytes = Vec::new();
        if let Err(error) = archive.read(&path(SEGMENT), 0, &mut bytes) {
            assert_eq!(error.kind(), Kind::Unreachable, "{position}: {error:?}");
            assert!(content.starts_with(&bytes), "{position}: what arrived is a beginning");
            let offset = bytes.len() as u64;
            archive.read(&path(SEGMENT), offset, &mut bytes).expect("the rest");
        }
        assert!(bytes == content, "{position}");
    }
}

#[test]
fn a_read_that_is_cut_again_and_again_goes_on_as_long_as_it_gets_on() {
    let server = Sshd::start();
    let content = content(2_000_000);
    put(&mut DirectoryArchive::new(server.archive_dir()), &path(SEGMENT), &content).expect("written");
    let proxy = Proxy::start(server.address());
    let mut archive = sftp(&through(&server, &proxy)).with_patience(PATIENT);
    let cuts = 2 * (PATIENT.retries + 1);
    proxy.cut_every(Direction::Down, 200_000, cuts);
    assert!(read(&mut archive, &path(SEGMENT)).expect("whole in the end") == content);
    assert!(!proxy.cut_is_due(), "the network was not cut as often as asked");
}

/// What a run of this test that is to be killed is told: whether over SFTP, and the server's particulars.
const CHILD: &str = "SYNCDATA_TEST_PUT";

#[test]
fn a_putter_killed_or_failing_at_any_step_can_be_followed_by_another() {
    if let Ok(order) = std::env::var(CHILD) {
        return put_as_told(&order);
    }
    for over_sftp in [false, true] {
        for point in ["archive.part_written", "archive.before_rename", "archive.after_rename"] {
            for action in ["kill", "error"] {
                let server = Sshd::start();
                let status = have_put(&server, over_sftp, &format!("{point}={action}"));
                assert!(!status.success(), "{point}={action} was never visited");
                let published = server.archive_dir().join(SEGMENT).exists();
                assert_eq!(published, point == "archive.after_rename", "{point}={action}");
                assert!(have_put(&server, over_sftp, "").success(), "after {point}={action}");
                assert!(fs::read(server.archive_dir().join(SEGMENT)).expect("there") == content(100_000));
                let left = fs::read_dir(server.archive_dir().join("segments/2026-02-05")).expect("made");
                assert_eq!(left.count(), 1, "{point}={action} left something behind");
            }
        }
    }
}

fn have_put(server: &Sshd, over_sftp: bool, faults: &str) -> std::process::ExitStatus {
    let port = if over_sftp { server.port() } else { 0 };
    let mut command = Command::new(std::env::current_exe().expect("a test knows its program"));
    command.args(["--exact", "faults::a_putter_killed_or_failing_at_any_step_can_be_followed_by_another"]);
    command.env(CHILD, format!("{port} {} {}", server.user(), server.folder().display()));
    command.env("SYNCDATA_FAULTS", faults);
    command.output().expect("a test can start its own program").status
}

fn put_as_told(order: &str) {
    let parts: Vec<&str> = order.splitn(3, ' ').collect();
    let [port, user, folder] = parts[..] else { panic!("{order:?} is not an order") };
    let folder = PathBuf::from(folder);
    let port: u16 = port.parse().expect("a port");
    let sftp = SftpSettings {
        host: "127.0.0.1".to_owned(),
        user: user.to_owned(),
        port,
        dir: folder.join("archive"),
        identity_file: Some(folder.join("user_key")),
        known_hosts: Some(folder.join("known_hosts")),
        passphrase: None,
    };
    let settings = match port {
        0 => ArchiveSettings::Directory(sftp.dir),
        _ => ArchiveSettings::Sftp(sftp),
    };
    let mut archive = archive::open(&settings).expect("sound settings");
    put(&mut *archive, &path(SEGMENT), &content(100_000)).expect("put");
}

#[test]
fn a_server_killed_while_it_receives_publishes_nothing_unfinished() {
    let mut server = Sshd::start();
    let content = content(20_000_000);
    let mut archive = sftp(&server.settings());
    let part = server.archive_dir().join(format!("{SEGMENT}.part"));
    let dir = server.archive_dir().to_owned();
    let written = std::thread::scope(|scope| {
        let putting = scope.spawn(|| put(&mut archive, &path(SEGMENT), &content));
        let deadline = Instant::now() + SOON;
        while fs::metadata(&part).map_or(0, |part| part.len()) == 0 && !putting.is_finished() {
            assert!(Instant::now() < deadline, "the part does not appear");
        }
        server.stop();
        putting.join().expect("no panic")
    });
    if written.is_err() {
        assert_no_final_name(&dir, SEGMENT);
    }
    server.restart();
    put(&mut archive, &path(SEGMENT), &content).expect("written after the restart");
    assert!(fs::read(dir.join(SEGMENT)).expect("there") == content);
}

#[test]
fn a_file_system_that_is_full_read_only_or_out_of_inodes_is_told_apart() {
    let Some(mount) = Mount::new("size=1m,nr_inodes=12") else {
        // Not root, or a container that may not mount: the limit on file sizes below is the same answer.
        return quota_is_told_from_a_broken_server();
    };
    let server =
        Sshd::start_with(Options { archive_dir: Some(mount.dir().to_owned()), ..Options::default() });
    let over_sftp: Box<dyn Archive> = Box::new(sftp(&server.settings()));
    let local: Box<dyn Archive> = Box::new(DirectoryArchive::new(mount.dir()));
    for (mut archive, what) in
        [(over_sftp, ["is full", "inode", "read-only"]), (local, ["space", "no inode left", "read-only"])]
    {
        let archive = &mut *archive;
        mount.remount("rw");
        put(archive, &path("segments/small"), b"x").expect("there is room");
        let too_large = content(3_000_000);
        assert_refused(put(archive, &path(SEGMENT), &too_large), Kind::NoSpace, &[what[0]]);
        assert_no_final_name(mount.dir(), SEGMENT);
        put(archive, &path("segments/other"), b"x").expect("the unfinished part does not keep the disk full");
        let full = (0..12).map(|n| put(archive, &path(&format!("segments/{n}")), b"x")).find_map(Result::err);
        let full = full.expect("twelve inodes are soon used up");
        assert_refused::<()>(Err(full), Kind::NoSpace, &[what[1]]);
        mount.remount("ro");
        assert_refused(put(archive, &path("segments/late"), b"x"), Kind::Refused, &[what[2]]);
        assert_refused(archive.replace(&path("head.json"), b"x"), Kind::Refused, &[what[2]]);
        assert_eq!(read(archive, &path("segments/small")).expect("reading goes on"), b"x");
        mount.remount("rw");
        for entry in archive.list(&path("segments")).expect("listed") {
            archive.remove(&path(&format!("segments/{}", entry.name))).ok();
        }
    }
}

#[test]
fn quota_is_told_from_a_broken_server() {
    let server = Sshd::start_with(Options { file_bytes_max: Some(500_000), ..Options::default() });
    let mut archive = sftp(&server.settings());
    let outcome = put(&mut archive, &path(SEGMENT), &content(2_000_000));
    assert_refused(outcome, Kind::NoSpace, &["quota", SEGMENT]);
    assert_no_final_name(server.archive_dir(), SEGMENT);
    assert_eq!(fs::read_dir(server.archive_dir().join("segments/2026-02-05")).expect("made").count(), 0);
    put(&mut archive, &path(SEGMENT), &content(400_000)).expect("the connection is still well");
}

#[test]
fn an_account_that_may_only_read_reads_and_is_told_that_it_may_not_write() {
    let server = Sshd::start_with(Options { sftp_arguments: "-R".into(), ..Options::default() });
    put(&mut DirectoryArchive::new(server.archive_dir()), &path(SEGMENT), b"x").expect("written");
    let mut archive = sftp(&server.settings());
    assert_eq!(read(&mut archive, &path(SEGMENT)).expect("readable"), b"x");
    let parts = ["permission denied", "archive_user"];
    assert_refused(put(&mut archive, &path("segments/new"), b"x"), Kind::Refused, &parts);
    assert_refused(put(&mut archive, &path("new/new"), b"x"), Kind::Refused, &parts);
    assert_refused(archive.replace(&path("head.json"), b"x"), Kind::Refused, &parts);
    assert_refused(archive.remove(&path(SEGMENT)), Kind::Refused, &parts);
}

#[test]
fn servers_that_cannot_do_all_that_openssh_can_are_good_enough() {
    for denied in [
        "posix-rename",
        "fsync",
        "statvfs,fstatvfs",
        "posix-rename,fsync,statvfs,fstatvfs,hardlink",
        "setstat,fsetstat,symlink",
    ] {
        let server =
            Sshd::start_with(Options { sftp_arguments: format!("-P {denied}"), ..Options::default() });
        let mut archive = sftp(&server.settings());
        for text in [&b"1"[..], b"22"] {
            archive.replace(&ArchivePath::head(), text).unwrap_or_else(|error| panic!("{denied}: {error:?}"));
            assert_eq!(read(&mut archive, &ArchivePath::head()).expect("there"), text, "{denied}");
        }
        put(&mut archive, &path(SEGMENT), b"x").unwrap_or_else(|error| panic!("{denied}: {error:?}"));
        assert_eq!(put(&mut archive, &path(SEGMENT), b"x").expect("there"), Put::AlreadyThere, "{denied}");
    }
}

#[test]
fn an_account_that_may_not_remove_still_puts_and_replaces() {
    let server = Sshd::start_with(Options { sftp_arguments: "-P remove,rmdir".into(), ..Options::default() });
    let mut archive = sftp(&server.settings());
    fs::create_dir_all(server.archive_dir().join("segments/2026-02-05")).expect("a folder");
    fs::write(server.archive_dir().join(format!("{SEGMENT}.part")), content(1000)).expect("a part");
    put(&mut archive, &path(SEGMENT), b"x").expect("over the part of an earlier run");
    for text in [&b"1"[..], b"22"] {
        archive.replace(&ArchivePath::head(), text).expect("in one step");
    }
    assert_refused(archive.remove(&path(SEGMENT)), Kind::Refused, &["permission denied"]);
}

#[test]
fn a_replaced_file_is_never_missing_and_never_half() {
    let server = Sshd::start();
    let mut archive = sftp(&server.settings());
    let texts: Vec<Vec<u8>> = (0..40_u8).map(|n| vec![n; 5000 + usize::from(n)]).collect();
    archive.replace(&ArchivePath::head(), &texts[0]).expect("made");
    let head = server.archive_dir().join("head.json");
    std::thread::scope(|scope| {
        let replacing = scope.spawn(|| {
            texts.iter().for_each(|text| archive.replace(&ArchivePath::head(), text).expect("replaced"));
        });
        while !replacing.is_finished() {
            let found = fs::read(&head).expect("never missing");
            assert!(texts.contains(&found), "half a file was seen");
        }
    });
}

#[tokio::test]
async fn many_tasks_share_one_connection() {
    let server = Sshd::start();
    let archive = archive::open(&ArchiveSettings::Sftp(server.settings()))
        .and_then(ArchiveHandle::spawn)
        .expect("a thread");
    let tasks: Vec<_> = (0..40_u64)
        .map(|n| {
            let archive = archive.clone();
            tokio::spawn(async move {
                let bytes = content(usize::try_from(n * 1000).expect("small"));
                let sent = bytes.clone();
                let name = path(&format!("segments/{n}"));
                let named = name.clone();
                archive.run(move |archive| put(archive, &named, &sent)).await.expect("written");
                let found = archive.run(move |archive| read(archive, &name)).await.expect("there");
                assert_eq!(Digest::of(&found), Digest::of(&bytes));
            })
        })
        .collect();
    for task in tasks {
        task.await.expect("no panic");
    }
    assert_eq!(server.log().matches("Accepted publickey").count(), 1, "{}", server.log());
}

fn server_forget(server: &Sshd) {
    fs::remove_dir_all(server.archive_dir().join("segments")).ok();
}

/// A small file system of its own.
struct Mount(tempfile::TempDir);

impl Mount {
    /// `None` if we may not mount.
    fn new(options: &str) -> Option<Mount> {
        let dir = tempfile::tempdir().expect("a folder");
        let options = format!("mode=0700,{options}");
        run("mount", &["-t", "tmpfs", "-o", &options, "syncdata"], dir.path()).then_some(Mount(dir))
    }

    fn dir(&self) -> &Path {
        self.0.path()
    }

    fn remount(&self, mode: &str) {
        assert!(run("mount", &["-o", &format!("remount,{mode}")], self.dir()), "remount {mode}");
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        // Lazily: a session of the server may still stand in it.
        run("umount", &["-l"], self.dir());
    }
}

fn run(program: &str, arguments: &[&str], dir: &Path) -> bool {
    let dir: PathBuf = dir.to_owned();
    let output = Command::new(program).args(arguments).arg(dir).output();
    output.is_ok_and(|output| output.status.success())
}
