//! Loads from archives that are damaged, pruned, or of another copy; loads that are killed; and what the archive is told.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use syncdata_formats::ack::Ack;
use syncdata_formats::snapshot::Seen;
use syncdata_tests::forge::Forge;
use syncdata_tests::{Daemon, LocalCopy};

use crate::{USERS, insert, state, update, users};

#[tokio::test]
async fn damaged_bases_are_refused_and_the_table_keeps_its_rows() {
    type Damage = fn(&Path);
    let flip: Damage = |file| {
        let mut bytes = fs::read(file).expect("there");
        let at = bytes.len() / 2;
        bytes[at] ^= 1;
        fs::write(file, bytes).expect("ours");
    };
    let cut: Damage = |file| {
        let bytes = fs::read(file).expect("there");
        fs::write(file, &bytes[..bytes.len() - 3]).expect("ours");
    };
    let longer: Damage =
        |file| fs::write(file, [fs::read(file).expect("there"), vec![0]].concat()).expect("ours");
    let gone: Damage = |file| fs::remove_file(file).expect("there");
    for (what, ending, damage, code) in [
        ("a flipped bit in a whole part", ".copy.zst", flip, 2),
        ("a flipped bit in a delta", ".delta.zst", flip, 2),
        ("a cut delta", ".delta.zst", cut, 2),
        ("a byte behind a part", ".copy.zst", longer, 2),
        ("a lost part", ".copy.zst", gone, 2),
        ("a lost delta", ".delta.zst", gone, 2),
        // As good as no snapshot: the archive reaches back, and says so.
        ("a flipped bit in the manifest", "manifest.json", flip, 1),
        ("no digest", "json.sha256", gone, 1),
    ] {
        let mut copy = users().await;
        copy.forge.segment(&[vec![
            insert(1, "one"),
            insert(2, "two"),
            insert(3, "three"),
            insert(4, "four"),
        ]]);
        copy.applier(&["add-tables", "users"]).succeed().await;
        copy.sync(0).await;
        // The source changed 2 and 4 where nobody saw it: only the snapshot knows.
        let first = copy.forge.snapshot(&[("users", &["1\tone", "2\ttwo", "3\tthree", "4\tfour"])]);
        let second = copy.forge.snapshot(&[("users", &["1\tone", "2\tzwei", "3\tthree", "4\tvier"])]);
        // What is whole lies in the first one; without its manifest, that is all that it is for.
        fs::remove_file(first.join("snapshot.manifest.json")).expect("there");
        let folder = if ending == ".copy.zst" { &first } else { &second };
        let files = fs::read_dir(folder).expect("ours").map(|entry| entry.expect("listed").path());
        let file = files.filter(|path| path.to_string_lossy().ends_with(ending)).min().expect("there is one");
        damage(&file);
        copy.server.execute("UPDATE users SET name = 'kept'").await;
        let refused = copy.applier(&["resync", "users"]).run().await;
        if code == 2 {
            let refused = refused.expect_code(2);
            let name = file.file_name().expect("a file").to_string_lossy().into_owned();
            assert!(refused.stderr.contains(&name), "{what}: {refused}");
            assert_eq!(copy.rows("SELECT DISTINCT name FROM users").await, "kept", "{what}");
        } else {
            // Loaded from segment 1 instead.
            assert!(refused.stderr.contains("snapshot cannot be used"), "{what}: {refused}");
            assert_eq!(copy.rows("SELECT name FROM users WHERE id = 2").await, "two", "{what}");
        }
        assert_eq!(state(&copy, "users").await, "live", "{what}");
    }
}

#[tokio::test]
async fn killed_anywhere_a_load_has_happened_or_has_not() {
    for point in
        ["load.part_fetched", "load.filled", "load.caught_up", "load.before_commit", "load.after_commit"]
    {
        let mut copy = users().await;
        copy.forge.segment(&[vec![insert(1, "one"), insert(2, "two")]]);
        copy.applier(&["add-tables", "users"]).succeed().await;
        copy.sync(0).await;
        copy.forge.snapshot(&[("users", &["1\tone", "2\ttwo", "3\tthree"])]);
        copy.forge.segment(&[vec![insert(4, "four")]]);
        copy.server.execute("UPDATE users SET name = 'old'").await;
        copy.applier(&["resync", "users"]).fault(&format!("{point}=kill@1")).run().await;
        let rows = copy.rows("SELECT * FROM users WHERE id <> 4 ORDER BY id").await;
        let expected = if point == "load.after_commit" { "1,one 2,two 3,three" } else { "1,old 2,old" };
        assert_eq!(rows, expected, "{point}");
        // It was asked for: the next pass does it.
        copy.sync(0).await;
        assert_eq!(
            copy.rows("SELECT * FROM users ORDER BY id").await,
            "1,one 2,two 3,three 4,four",
            "{point}"
        );
        assert_eq!(copy.rows("SELECT load IS NULL FROM data_sync_table_state").await, "t", "{point}");
    }
}

#[tokio::test]
async fn without_a_snapshot_a_table_is_made_from_the_archives_beginning_or_not_at_all() {
    let mut copy = users().await;
    copy.server.execute("CREATE TABLE silent (id int PRIMARY KEY, name text)").await;
    copy.forge.relation("silent", USERS, &["id"]);
    copy.forge.had_rows("silent");
    copy.forge.segment(&[vec![insert(1, "one"), insert(2, "two")], vec![update(2, "zwei")]]);
    copy.applier(&["add-tables", "users", "silent"]).succeed().await;
    copy.sync(0).await;
    copy.server
        .execute(
            "DELETE FROM users WHERE id = 1; UPDATE users SET name = 'x'; INSERT INTO users VALUES (99, 'surplus');
             INSERT INTO silent VALUES (1, 'older than the archive')",
        )
        .await;
    copy.applier(&["resync", "users"]).succeed().await;
    assert_eq!(copy.rows("SELECT * FROM users ORDER BY id").await, "1,one 2,zwei");
    // Nobody knows the rows of a table that the archive never mentions, nor of one whose rows it never saw come.
    let silent = copy.applier(&["resync", "silent"]).run().await.expect_code(1);
    assert!(silent.stdout.contains("had rows when its capture began"), "{silent}");
    assert_eq!(copy.rows("SELECT name FROM silent").await, "older than the archive");
    copy.forge.segment(&[vec![update(50, "older")]]);
    copy.sync(0).await;
    let older = copy.applier(&["resync", "users"]).run().await.expect_code(1);
    assert!(older.stdout.contains("it does not reach back to them"), "{older}");
    assert_eq!(copy.rows("SELECT * FROM users ORDER BY id").await, "1,one 2,zwei");
    assert_eq!(state(&copy, "users").await, "live");
}

#[tokio::test]
async fn a_cleared_table_gets_its_rows_again_by_a_resync() {
    let mut copy = users().await;
    copy.forge.segment(&[vec![insert(1, "one")]]);
    copy.forge.snapshot(&[("users", &["1\tone"])]);
    copy.applier(&["add-tables", "users"]).succeed().await;
    copy.sync(0).await;
    copy.applier(&["clear", "--yes"]).succeed().await;
    copy.forge.segment(&[vec![insert(2, "two")]]);
    copy.sync(0).await;
    assert_eq!(copy.rows("SELECT count(*) FROM users").await, "0");
    copy.applier(&["resync", "users"]).succeed().await;
    assert_eq!(copy.rows("SELECT * FROM users ORDER BY id").await, "1,one 2,two");
}

#[tokio::test]
async fn a_copy_behind_the_floor_starts_over() {
    let mut copy = users().await;
    copy.forge.segment(&[vec![insert(1, "one")]]);
    copy.applier(&["add-tables", "users"]).succeed().await;
    copy.sync(0).await;
    copy.forge.segment(&[vec![insert(2, "two")]]);
    let left = copy.forge.segment(&[vec![insert(3, "three")]]);
    copy.forge.snapshot(&[("users", &["1\tone", "2\ttwo", "3\tthree"])]);
    let kept = copy.forge.segment(&[vec![insert(4, "four")]]);
    // The prune is not done yet.
    let files = [left.manifest, left.file].map(|file| (fs::read(&file).expect("forged"), file));
    copy.forge.prune_before(&kept);
    for (bytes, file) in files {
        fs::write(file, bytes).expect("ours");
    }
    let behind = copy.applier(&["sync"]).run().await.expect_code(2);
    assert!(behind.stderr.contains("resync --all"), "{behind}");
    let one = copy.applier(&["resync", "users"]).run().await.expect_code(2);
    assert!(one.stderr.contains("resync --all"), "{one}");
    assert_eq!(copy.rows("SELECT * FROM users").await, "1,one");
    copy.applier(&["resync", "--all"]).succeed().await;
    assert_eq!(copy.rows("SELECT * FROM users ORDER BY id").await, "1,one 2,two 3,three 4,four");
    copy.forge.segment(&[vec![insert(5, "five")]]);
    copy.sync(0).await;
    assert_eq!(copy.rows("SELECT count(*) FROM users").await, "5");
}

#[tokio::test]
async fn another_archive_is_adopted_only_when_that_is_said() {
    let mut copy = users().await;
    copy.server.execute("CREATE TABLE t (id int PRIMARY KEY, name text)").await;
    copy.forge.relation("t", USERS, &["id"]);
    let in_t = |id: u32| insert(id, "of t").replace("users", "t");
    copy.forge.segment(&[vec![insert(1, "one"), insert(2, "two"), in_t(1)]]);
    copy.applier(&["add-tables", "users", "t"]).succeed().await;
    copy.sync(0).await;
    // It may come back, and is not of the archive by then that it was of.
    copy.server.execute("DELETE FROM tables_to_sync WHERE table_name = 't'").await;
    fs::remove_dir_all(copy.archive_dir()).expect("ours");
    copy.forge = syncdata_tests::forge::Forge::new(&copy.archive_dir());
    copy.forge.relation("users", USERS, &["id"]);
    copy.forge.relation("t", USERS, &["id"]);
    copy.forge.segment(&[vec![insert(7, "seven"), in_t(7)]]);
    copy.forge.snapshot(&[("users", &["1\tone", "7\tseven"]), ("t", &["7\tof t"])]);
    let refused = copy.applier(&["resync", "--all"]).run().await.expect_code(2);
    assert!(refused.stderr.contains("--adopt"), "{refused}");
    let usage = copy.applier(&["resync", "users", "--adopt"]).run().await.expect_code(2);
    assert!(usage.stderr.contains("--all"), "{usage}");
    // What was proved was proved of the other archive.
    let proved = "INSERT INTO data_sync_consistency (proof_id, table_name, check_type, cut_lsn, verdict)
        VALUES ('p', 'users', 'data_hash', 'F/0', 'equal')";
    copy.server.execute(proved).await;
    copy.applier(&["resync", "--all", "--adopt"]).succeed().await;
    assert_eq!(copy.rows("SELECT * FROM users ORDER BY id").await, "1,one 7,seven");
    assert_eq!(copy.rows("SELECT count(*) FROM data_sync_consistency").await, "0");
    copy.server.execute("INSERT INTO tables_to_sync (table_name) VALUES ('t')").await;
    copy.sync(0).await;
    assert_eq!(
        (state(&copy, "t").await.as_str(), copy.rows("SELECT id FROM t").await.as_str()),
        ("live", "7")
    );
}

/// Loads that are held where their shadows have the rows of the base.
pub(crate) struct Held {
    gates: PathBuf,
    trace: PathBuf,
    came: usize,
}

impl Held {
    pub(crate) fn of(copy: &LocalCopy) -> Held {
        let held = Held { gates: copy.folder().join("gates"), trace: copy.folder().join("trace"), came: 0 };
        fs::create_dir(&held.gates).expect("ours");
        held
    }

    /// A `resync` that is held.
    async fn resync(&mut self, copy: &LocalCopy, table: &str) -> Daemon {
        self.command(copy, &["resync", table]).await
    }

    /// A command that loads, and is held.
    pub(crate) async fn command(&mut self, copy: &LocalCopy, command: &[&str]) -> Daemon {
        fs::write(self.gates.join("load.filled"), "").expect("ours");
        let program = copy.applier(command).env("SYNCDATA_FAULT_GATES", &self.gates).trace(&self.trace);
        let loading = program.spawn();
        let deadline = Instant::now() + Duration::from_secs(60);
        loop {
            let trace = fs::read_to_string(&self.trace).unwrap_or_default();
            let held = trace.lines().filter(|line| *line == "load.filled held").count();
            if held > self.came {
                self.came = held;
                return loading;
            }
            assert!(Instant::now() < deadline, "no load begins");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    pub(crate) fn go(&self) {
        fs::remove_file(self.gates.join("load.filled")).expect("it is closed");
    }
}

#[tokio::test]
async fn what_is_asked_for_while_a_load_is_under_way_is_not_taken_for_done_by_it() {
    let mut copy = users().await;
    let older = copy.archive_dir();
    copy.forge.segment(&[vec![insert(1, "one"), insert(2, "two")]]);
    copy.applier(&["add-tables", "users"]).succeed().await;
    copy.sync(0).await;
    copy.forge.snapshot(&[("users", &["1\tone", "2\ttwo"])]);
    let mut held = Held::of(&copy);

    // A newer base is there, and meant.
    let first = held.resync(&copy, "users").await;
    copy.forge.snapshot(&[("users", &["1\tone", "2\ttwo", "3\tthree"])]);
    let asked = "SELECT load_asked FROM data_sync_table_state WHERE table_name = 'users'";
    let before = copy.rows(asked).await;
    let second = copy.applier(&["resync", "users"]).spawn();
    copy.wait_until(asked, |asked| asked != before).await;
    held.go();
    first.ended().await.expect_code(0);
    second.ended().await.expect_code(0);
    assert_eq!(copy.rows("SELECT id FROM users ORDER BY id").await, "1 2 3");

    // Another archive is adopted.
    let first = held.resync(&copy, "users").await;
    let newer = copy.folder().join("newer");
    copy.forge = Forge::new(&newer);
    copy.forge.relation("users", USERS, &["id"]);
    copy.forge.segment(&[vec![insert(7, "seven")]]);
    copy.forge.snapshot(&[("users", &["7\tseven"])]);
    let archive = "SELECT archive_id, seq FROM data_sync_checkpoint";
    let before = copy.rows(archive).await;
    assert!(before.ends_with(",1"), "{before}");
    let adopt = copy.applier(&["resync", "--all", "--adopt"]).env("SYNCDATA_ARCHIVE_DIR", &newer).spawn();
    copy.wait_until(archive, |found| found != before && found.ends_with(",1")).await;
    held.go();
    let ended = first.ended().await;
    assert_ne!(ended.code(), Some(0), "{} is no longer its archive: {ended}", older.display());
    adopt.ended().await.expect_code(0);
    assert_eq!(copy.rows("SELECT id FROM users ORDER BY id").await, "7");
}

#[tokio::test]
async fn a_base_of_which_all_changes_were_pruned_is_refused_at_once() {
    let mut copy = users().await;
    let (start, xid) = (copy.forge.position(), u64::from(copy.forge.next_xid()));
    copy.forge.segment(&[vec![insert(1, "one")]]);
    copy.applier(&["add-tables", "users"]).succeed().await;
    copy.sync(0).await;
    let seen = Seen { xmin: xid, xmax: xid, xip: Vec::new() };
    copy.forge.snapshot_between(start, copy.forge.position(), seen, &[("users", &[])]);
    let kept = copy.forge.segment(&[vec![insert(2, "two")]]);
    copy.forge.prune_before(&kept);
    fs::remove_file(kept.manifest).expect("ours");
    fs::remove_file(kept.file).expect("ours");
    let refused = copy.applier(&["resync", "users"]).run().await;
    assert_ne!(refused.code(), Some(0), "{refused}");
    assert!(refused.stderr.contains("take a new snapshot"), "{refused}");
    assert_eq!(copy.rows("SELECT * FROM users").await, "1,one");
}

/// The only acknowledgement in the archive.
fn ack(copy: &LocalCopy) -> Ack {
    let entries = fs::read_dir(copy.archive_dir().join("acks")).expect("there is one");
    let files: Vec<_> = entries.map(|entry| entry.expect("listed").path()).collect();
    let [file] = files.as_slice() else { panic!("{files:?}") };
    Ack::decode(&fs::read(file).expect("there")).expect("sound")
}

#[tokio::test]
async fn the_archive_is_told_what_this_copy_still_needs() {
    let mut copy = users().await;
    copy.server.execute("CREATE TABLE t (id int PRIMARY KEY, v text CHECK (v <> 'bad'))").await;
    copy.forge.relation("t", &["id integer not null", "v text"], &["id"]);
    copy.forge.segment(&[vec![insert(1, "one")]]);
    copy.applier(&["add-tables", "users", "t"]).succeed().await;
    copy.sync(0).await;
    assert_eq!((ack(&copy).seq, ack(&copy).end_lsn), (1, copy.forge.position()));
    let before = copy.forge.position();
    copy.forge.segment(&[vec![r#"{"table":"t","op":"INSERT","data":{"id":1,"v":"bad"}}"#.to_owned()]]);
    copy.forge.segment(&[vec![insert(2, "two")]]);
    // The quarantined table goes on from before segment 2, some day.
    copy.sync(1).await;
    assert_eq!((ack(&copy).seq, ack(&copy).end_lsn), (1, before));
    copy.server.execute("ALTER TABLE t DROP CONSTRAINT t_v_check").await;
    copy.applier(&["retry", "t"]).succeed().await;
    copy.sync(0).await;
    assert_eq!((ack(&copy).seq, ack(&copy).end_lsn), (3, copy.forge.position()));
    // A snapshot that is being read is needed.
    let folder = copy.forge.snapshot(&[("users", &["1\tone", "2\ttwo"])]);
    let id = folder.file_name().expect("a folder").to_string_lossy().into_owned();
    copy.applier(&["resync", "users"]).fault("load.filled=kill").run().await;
    let loading: Vec<String> = ack(&copy).loading.iter().map(ToString::to_string).collect();
    assert_eq!(loading, [id]);
    copy.sync(0).await;
    copy.sync(0).await;
    assert!(ack(&copy).loading.is_empty());
    // An archive that takes nothing from us is as good.
    fs::remove_dir_all(copy.archive_dir().join("acks")).expect("ours");
    fs::write(copy.archive_dir().join("acks"), "no folder").expect("ours");
    copy.forge.segment(&[vec![insert(3, "three")]]);
    copy.sync(0).await;
    assert_eq!(copy.rows("SELECT count(*) FROM users").await, "3");
}

#[tokio::test]
async fn the_daemon_loads_beside_its_passes() {
    let mut copy = users().await;
    copy.server.execute("CREATE TABLE big (id int PRIMARY KEY, v text)").await;
    copy.forge.relation("big", &["id integer not null", "v text"], &["id"]);
    copy.forge.segment(&[vec![insert(1, "one")]]);
    copy.applier(&["add-tables", "users"]).succeed().await;
    let daemon = copy.applier(&["start"]).spawn();
    copy.wait_until("SELECT count(*) FROM users", |rows| rows == "1").await;
    let rows: Vec<String> = (1..=500).map(|id| format!("{id}\tv{id}")).collect();
    let rows: Vec<&str> = rows.iter().map(String::as_str).collect();
    copy.forge.snapshot(&[("big", &rows), ("users", &["1\tone"])]);
    let added = copy.applier(&["add-tables", "big", "--from", "snapshot"]).succeed().await;
    assert!(added.stderr.contains("the running daemon sees to it now"), "{added}");
    copy.wait_until("SELECT count(*) FROM big", |rows| rows == "500").await;
    copy.server.execute("UPDATE users SET name = 'x'; DELETE FROM big WHERE id < 100").await;
    let done = copy.applier(&["resync", "users", "big"]).succeed().await;
    assert_eq!(done.stdout, "users: live\nbig: live\n");
    assert_eq!(copy.rows("SELECT (SELECT name FROM users), (SELECT count(*) FROM big)").await, "one,500");
    copy.forge.segment(&[vec![insert(2, "two")]]);
    copy.applier(&["sync"]).succeed().await;
    assert_eq!(copy.rows("SELECT count(*) FROM users").await, "2");
    copy.applier(&["stop"]).succeed().await;
    daemon.ended().await.expect_code(0);
}

/// An index of production may be damaged: then a base copy has two rows of one key. That is its table's own affair.
#[tokio::test]
async fn a_base_copy_with_a_key_twice_refuses_its_table_alone() {
    let mut copy = LocalCopy::start(
        "CREATE TABLE users (id int PRIMARY KEY, name text); CREATE TABLE t (id int PRIMARY KEY, name text)",
    )
    .await;
    copy.forge.relation("users", USERS, &["id"]);
    copy.forge.relation("t", USERS, &["id"]);
    copy.forge.segment(&[vec![insert(1, "one")]]);
    copy.forge.snapshot(&[("users", &["1\tone", "1\ttwin"]), ("t", &["1\tof t"])]);
    copy.forge.segment(&[vec![insert(2, "two")]]);
    copy.applier(&["add-tables", "users", "t"]).succeed().await;
    let said = copy.sync(1).await;
    assert!(said.contains("users: quarantined: the base copy has two rows with the same (\"id\")"), "{said}");
    assert_eq!(copy.rows("SELECT * FROM t").await, "1,of t");
    assert_eq!(state(&copy, "t").await, "live");
    copy.applier(&["resync", "users"]).run().await.expect_code(1);
    assert_eq!(copy.rows("SELECT * FROM users").await, "");
}
