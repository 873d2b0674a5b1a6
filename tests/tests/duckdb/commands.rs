//! The command line with a DuckDB file.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use syncdata_formats::snapshot::Seen;
use syncdata_tests::Forge;

use super::file::{File, python};
use super::forged::{AFTER, SEGMENTS, Users, delete, insert, update};

/// Settings, state and a file of their own.
pub(super) struct Copy {
    pub(super) file: File,
    folder: tempfile::TempDir,
    settings: PathBuf,
}

impl Copy {
    pub(super) fn of(archive: &Path) -> Copy {
        Copy::with(archive, "")
    }

    pub(super) fn with(archive: &Path, more: &str) -> Copy {
        let (file, folder) = (File::new(), tempfile::tempdir().expect("a folder"));
        let settings = folder.path().join("applier.toml");
        let copy = Copy { file, folder, settings };
        copy.set(archive, more);
        copy
    }

    pub(super) fn set(&self, archive: &Path, more: &str) {
        let text = format!(
            "target = \"duckdb\"\nduckdb_database_path = \"{}\"\narchive_dir = \"{}\"\nduckdb_memory_limit = \"512MiB\"\n\
             duckdb_worker_threads = 2\nstale_after = \"3650d\"\n{more}\n",
            self.file.path().display(),
            archive.display()
        );
        std::fs::write(&self.settings, text).expect("written");
    }

    pub(super) fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(program());
        command
            .env("STATE_DIRECTORY", self.folder.path().join("state"))
            .env("RUNTIME_DIRECTORY", self.folder.path().join("run"))
            .env("HOME", self.folder.path())
            .arg("--config")
            .arg(&self.settings)
            .args(arguments);
        command
    }

    /// Its words and its exit code.
    pub(super) fn run(&self, arguments: &[&str]) -> (i32, String, String) {
        let Output { status, stdout, stderr } = self.command(arguments).output().expect("it starts");
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).expect("text");
        (status.code().expect("it ended by itself"), text(stdout), text(stderr))
    }

    /// What it prints, having ended well.
    pub(super) fn done(&self, arguments: &[&str]) -> String {
        let (code, out, err) = self.run(arguments);
        assert_eq!(code, 0, "{arguments:?}: {out}{err}");
        out
    }

    /// The daemon, once it answers.
    pub(super) fn start(&self) -> Daemon<'_> {
        let child = self.command(&["start"]).stderr(Stdio::null()).spawn().expect("it starts");
        let daemon = Daemon { copy: self, child };
        wait_until("the daemon answers", || self.run(&["status"]).1.starts_with("status: active"));
        daemon
    }
}

pub(super) struct Daemon<'a> {
    copy: &'a Copy,
    child: Child,
}

impl Daemon<'_> {
    pub(super) fn stop(mut self) {
        assert_eq!(self.copy.done(&["stop"]), "stopped\n");
        assert!(self.child.wait().expect("ours").success());
    }

    pub(super) fn kill(mut self) {
        self.child.kill().expect("ours");
        self.child.wait().expect("ours");
    }
}

pub(super) fn wait_until(what: &str, is_so: impl Fn() -> bool) {
    let begun = Instant::now();
    while !is_so() {
        assert!(begun.elapsed() < Duration::from_secs(60), "in vain: {what}");
        std::thread::sleep(Duration::from_millis(50));
    }
}

fn program() -> PathBuf {
    let test = std::env::current_exe().expect("a path");
    let folder = test.parent().and_then(Path::parent).expect("below target/debug/deps");
    folder.join("syncdata-applier")
}

const ROWS: &str = "SELECT id, note FROM users ORDER BY id";

#[test]
fn a_file_is_made_filled_and_asked_without_a_daemon() {
    let archive = Users::new();
    let copy = Copy::of(archive.archive());
    // Nothing is made by who only looks.
    assert_eq!(copy.done(&["list-tables"]), "");
    let (code, status, _) = copy.run(&["status"]);
    assert!(code == 1 && status.starts_with("status: not-started\n"), "{status}");
    assert!(!copy.file.path().exists());

    assert_eq!(copy.done(&["add-tables", "*"]), "added users\n");
    assert_eq!(copy.done(&["list-tables"]), "users\n");
    let synced = copy.done(&["sync"]);
    assert!(synced.starts_with("applied 10 records in 5 segments to 1 tables\n"), "{synced}");
    assert_eq!(copy.file.lines(ROWS), AFTER[SEGMENTS]);
    let again = copy.done(&["sync"]);
    assert!(again.starts_with("applied 0 records in 0 segments to 1 tables\n"), "{again}");

    let (code, status, _) = copy.run(&["status"]);
    assert_eq!(code, 1);
    assert!(status.contains("synced tables (1):\n  - users\n"), "{status}");
    assert!(status.contains("users: live, about "), "{status}");
    assert!(status.contains("segment: 5\n") && status.contains("problem: no daemon is running"), "{status}");
    let (code, checked, _) = copy.run(&["check"]);
    assert!(checked.contains("DuckDB file") && checked.contains("1 tables"), "{checked}");
    assert_eq!(code, 0, "{checked}");

    // The list goes by names that the archive captures.
    let (code, _, err) = copy.run(&["add-tables", "strangers"]);
    assert!(code == 2 && err.contains("Table not found in the archive: strangers"), "{err}");
    assert_eq!(copy.done(&["remove-tables", "users"]), "removed users\n");
    assert_eq!(copy.done(&["list-tables"]), "");
    // The rows stay, and added again it begins anew.
    assert_eq!(copy.file.lines(ROWS), AFTER[SEGMENTS]);
    copy.done(&["add-tables", "users"]);
    let synced = copy.done(&["sync"]);
    assert!(synced.contains("loaded users from segment 1"), "{synced}");
    assert_eq!(copy.file.lines(ROWS), AFTER[SEGMENTS]);
}

#[test]
fn commands_that_do_not_work_on_a_file_are_refused_by_name() {
    let archive = Users::new();
    let copy = Copy::of(archive.archive());
    for arguments in [
        &["setup"][..],
        &["uninstall", "--yes"],
        &["history", "users", "1"],
        &["executions"],
        &["dead-letters", "list"],
        &["drill"],
        &["consistency", "status"],
        &["as-of", "2026-02-05", "--into", "s"],
        &["replay", "--from", "2026-02-05", "--to", "2026-02-06"],
    ] {
        let (code, out, err) = copy.run(arguments);
        let expected = format!("{}: not with target = \"duckdb\"", arguments[0]);
        assert!(code == 2 && out.is_empty() && err.contains(&expected), "{arguments:?}: {out}{err}");
    }
    let (code, _, err) = copy.run(&["add-tables", "users", "--from", "now"]);
    assert!(code == 2 && err.contains("--from now: not with target"), "{err}");
    for more in ["follow = true", "http_listen = \"127.0.0.1:1\""] {
        let copy = Copy::with(archive.archive(), more);
        let (code, _, err) = copy.run(&["start"]);
        assert!(code == 2 && err.contains("not with target = \"duckdb\""), "{more}: {err}");
    }
    // A promise that a file does not keep while nobody has it open.
    let copy = Copy::with(archive.archive(), "local_writes = \"block\"");
    for arguments in [&["start"][..], &["sync"], &["add-tables", "users"], &["clear", "--yes"]] {
        let (code, _, err) = copy.run(arguments);
        let expected = "local_writes = \"block\": not with target = \"duckdb\"";
        assert!(code == 2 && err.contains(expected) && err.contains("take it out"), "{arguments:?}: {err}");
    }
    let (code, out, _) = copy.run(&["check"]);
    assert!(code == 1 && out.contains("fail  settings: local_writes"), "{out}");
    assert!(!copy.file.path().exists());
    assert!(!copy.file.path().exists());
}

#[test]
fn a_daemon_owns_the_file_and_does_what_commands_ask() {
    let archive = Users::new();
    let copy = Copy::of(archive.archive());
    let daemon = copy.start();
    assert_eq!(copy.done(&["add-tables", "users"]), "added users\n");
    let synced = copy.done(&["sync"]);
    assert!(synced.contains("to 1 tables"), "{synced}");
    let (code, status, _) = copy.run(&["status"]);
    assert_eq!(code, 0, "{status}");
    assert!(status.contains("users: live"), "{status}");
    assert_eq!(copy.done(&["list-tables"]), "users\n");
    // A second one is refused, and the first one goes on.
    let (code, _, err) = copy.run(&["start"]);
    assert!(code == 2 && err.contains("one process owns the file"), "{err}");
    assert_eq!(copy.done(&["clear", "--yes"]), "cleared users\n");
    let (code, status, _) = copy.run(&["status"]);
    assert!(code == 1 && status.contains("users: pending"), "{status}");
    let made = copy.done(&["resync", "users"]);
    assert!(made.contains("loaded users from segment 1"), "{made}");
    daemon.stop();
    assert_eq!(copy.file.lines(ROWS), AFTER[SEGMENTS]);

    // One that was killed has left its socket, and nobody answers there.
    copy.start().kill();
    assert_eq!(copy.done(&["list-tables"]), "users\n");
    copy.done(&["sync"]);
}

#[test]
fn commands_at_the_same_time_take_turns() {
    let archive = Users::new();
    let copy = Copy::of(archive.archive());
    copy.done(&["add-tables", "users"]);
    let spawn = || {
        let mut command = copy.command(&["sync"]);
        command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("it starts")
    };
    let children: Vec<Child> = (0..6).map(|_| spawn()).collect();
    let mut records = 0;
    for child in children {
        let output = child.wait_with_output().expect("ours");
        let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        assert!(output.status.success(), "{out}{err}");
        let count = out.strip_prefix("applied ").and_then(|rest| rest.split(' ').next());
        records += count.and_then(|count| count.parse::<u64>().ok()).expect("a count");
    }
    assert_eq!(records, 10);
    assert_eq!(copy.file.lines(ROWS), AFTER[SEGMENTS]);
}

#[test]
fn a_base_copy_has_each_change_once_whether_or_not_it_has_seen_it() {
    let folder = tempfile::tempdir().expect("a folder");
    let mut forge = Forge::new(folder.path());
    // Without a key nothing forgives a change that comes twice.
    forge.relation("log", &["id integer", "note text"], &[]);
    forge.had_rows("log");
    forge.relation("t", &["id integer not null", "v text"], &["id"]);
    forge.had_rows("t");
    let log = |id: u32| insert("log", &format!(r#""id":{id},"note":"n""#));
    forge.segment(&[vec![log(1)]]);
    let start = forge.position();
    let seen = u64::from(forge.next_xid());
    forge.segment(&[
        vec![log(2), insert("t", r#""id":2,"v":"seen""#)],
        // Committed after the first, and not seen: it was still under way.
        vec![log(3), update("t", r#""id":1,"v":"not seen""#, r#""id":1"#)],
        vec![log(4), delete("t", r#""id":7"#)],
    ]);
    let end = forge.position();
    let snapshot = Seen { xmin: seen + 1, xmax: seen + 3, xip: vec![seen + 1] };
    forge.snapshot_between(
        start,
        end,
        snapshot,
        &[("log", &["1\tn", "2\tn", "4\tn"]), ("t", &["1\told", "2\tseen"])],
    );
    forge.segment(&[vec![log(5), update("t", r#""id":2,"v":"later""#, r#""id":2"#)]]);
    forge.head();

    let copy = Copy::of(folder.path());
    let added = copy.done(&["add-tables", "log,t", "--wait"]);
    assert!(added.contains("added log\nadded t\n"), "{added}");
    assert!(added.contains("loaded log from snapshot"), "{added}");
    let rows = "SELECT id, count(*) FROM log GROUP BY id ORDER BY id";
    assert_eq!(copy.file.lines(rows), ["1|1", "2|1", "3|1", "4|1", "5|1"]);
    assert_eq!(copy.file.lines("SELECT * FROM t ORDER BY id"), ["1|not seen", "2|later"]);
    let states = "SELECT table_name, state FROM syncdata.data_sync_freshness ORDER BY 1";
    assert_eq!(copy.file.lines(states), ["log|live", "t|live"]);

    // Anew over what is there, in one step; killed before that, what was there stays.
    for step in ["load.filled", "load.before_commit"] {
        let mut command = copy.command(&["resync", "t"]);
        let killed = command.env("SYNCDATA_FAULTS", format!("{step}=kill")).output().expect("it starts");
        assert_eq!(killed.status.code(), None, "{step}");
        assert_eq!(copy.file.lines("SELECT * FROM t ORDER BY id"), ["1|not seen", "2|later"], "{step}");
        let synced = copy.done(&["sync"]);
        assert!(synced.contains("loaded t from snapshot"), "{step}: {synced}");
        assert_eq!(copy.file.lines("SELECT * FROM t ORDER BY id"), ["1|not seen", "2|later"], "{step}");
    }
}

#[test]
fn what_was_set_aside_goes_on_where_it_stopped() {
    let folder = tempfile::tempdir().expect("a folder");
    let mut forge = Forge::new(folder.path());
    forge.relation("t", &["id integer not null", "day date"], &["id"]);
    forge.segment(&[vec![insert("t", r#""id":1,"day":"2026-01-01""#)]]);
    forge.segment(&[vec![insert("t", r#""id":2,"day":"0044-03-15 BC""#)]]);
    forge.segment(&[vec![insert("t", r#""id":3,"day":null"#)]]);
    forge.head();
    let copy = Copy::of(folder.path());
    copy.done(&["add-tables", "t"]);
    let (code, out, _) = copy.run(&["sync"]);
    assert!(code == 1 && out.contains("t: quarantined: "), "{out}");
    let (code, out, _) = copy.run(&["retry", "t"]);
    assert!(code == 1 && out.contains("t: quarantined: "), "{out}");
    assert_eq!(copy.file.lines("SELECT attempts FROM syncdata.data_sync_quarantine"), ["2"]);
    // As the reason says.
    copy.set(folder.path(), "duckdb_text_columns = [\"t.day\"]");
    copy.done(&["resync", "t"]);
    assert_eq!(copy.file.lines("SELECT * FROM t ORDER BY id"), ["1|2026-01-01", "2|0044-03-15 BC", "3|NULL"]);
    let (code, _, err) = copy.run(&["retry", "t"]);
    assert!(code == 2 && err.contains("is not in quarantine"), "{err}");
}

#[test]
fn a_gap_is_gone_over_when_somebody_says_so_or_mended_by_a_base() {
    let folder = tempfile::tempdir().expect("a folder");
    let mut forge = Forge::new(folder.path());
    forge.relation("t", &["id integer not null"], &["id"]);
    forge.relation("u", &["id integer not null"], &["id"]);
    let row = |table: &str, id: u32| insert(table, &format!(r#""id":{id}"#));
    forge.segment(&[vec![row("t", 1), row("u", 1)]]);
    forge.gap(&["t", "u"]);
    forge.segment(&[vec![row("t", 3), row("u", 3)]]);
    forge.head();
    let copy = Copy::of(folder.path());
    copy.done(&["add-tables", "t,u"]);
    let (code, out, _) = copy.run(&["sync"]);
    assert!(code == 1 && out.contains("t: stale: ") && out.contains("u: stale: "), "{out}");
    forge.snapshot(&[("u", &["1", "2", "3"])]);
    forge.head();
    let (code, out, _) = copy.run(&["retry", "t", "--accept-gap"]);
    assert!(code == 1 && out.contains("u: stale") && !out.contains("t: stale"), "{out}");
    copy.done(&["resync", "u"]);
    assert_eq!(copy.file.lines("SELECT id FROM t ORDER BY id"), ["1", "3"]);
    assert_eq!(copy.file.lines("SELECT id FROM u ORDER BY id"), ["1", "2", "3"]);
    let told =
        "SELECT archive_ref FROM syncdata.data_sync_logs WHERE archive_ref LIKE 're%' ORDER BY sync_time";
    assert_eq!(copy.file.lines(told), ["retry --accept-gap", "resync"]);
}

#[test]
fn a_file_that_somebody_has_open_is_told_by_the_copy_for_readers() {
    let archive = Users::new();
    let copy = Copy::with(archive.archive(), "publish = \"duckdb\"");
    copy.done(&["add-tables", "users"]);
    copy.done(&["sync"]);
    let script =
        "import duckdb, sys; c = duckdb.connect(sys.argv[1]); print('open', flush=True); sys.stdin.read()";
    let mut other = Command::new(python());
    let other = other.args(["-c", script]).arg(copy.file.path()).stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut other = other.spawn().expect("it starts");
    let mut line = [0; 5];
    std::io::Read::read_exact(&mut other.stdout.take().expect("piped"), &mut line).expect("it says so");
    let (code, status, _) = copy.run(&["status"]);
    assert!(code == 1 && status.contains("users: live"), "{status}");
    assert!(status.contains("problem: as of the copy for readers: "), "{status}");
    assert_eq!(copy.done(&["list-tables"]), "users\n");
    let (code, _, err) = copy.run(&["sync"]);
    assert!(code == 2 && err.contains("one process owns the file"), "{err}");
    drop(other.stdin.take());
    other.wait().expect("ours");
    copy.done(&["sync"]);
}
