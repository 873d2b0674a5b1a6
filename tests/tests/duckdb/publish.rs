//! The copy for readers, whom the process that owns the file locks out.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use syncdata_tests::Forge;

use super::commands::{Copy, wait_until};
use super::file::python;
use super::forged::insert;

fn published(copy: &Copy) -> PathBuf {
    let mut name = copy.file.path().as_os_str().to_owned();
    name.push(".published");
    PathBuf::from(name)
}

/// What a reader of another make finds there.
fn read(copy: &Copy, query: &str) -> String {
    let script = "import duckdb, sys; c = duckdb.connect(sys.argv[1], read_only=True)\n\
        print(*['|'.join(map(str, row)) for row in c.execute(sys.argv[2]).fetchall()], sep=' ')";
    let read = Command::new(python()).args(["-c", script]).arg(published(copy)).arg(query).output();
    let read = read.expect("it starts");
    assert!(read.status.success(), "{}", String::from_utf8_lossy(&read.stderr));
    String::from_utf8(read.stdout).expect("text").trim().to_owned()
}

#[test]
fn readers_keep_the_copy_that_they_have_opened() {
    let folder = tempfile::tempdir().expect("a folder");
    let mut forge = Forge::new(folder.path());
    forge.relation("t", &["id integer not null"], &["id"]);
    forge.relation("sales.u", &["id integer not null", "Odd text"], &["id"]);
    forge.segment(&[vec![insert("t", r#""id":1"#), insert("sales.u", r#""id":1,"Odd":"x""#)]]);
    forge.head();
    let copy = Copy::with(folder.path(), "publish = \"duckdb\"\npublish_interval = 1");
    copy.done(&["add-tables", "t,sales.u"]);
    let daemon = copy.start();
    wait_until("it is published", || published(&copy).exists());
    assert_eq!(read(&copy, "SELECT * FROM t"), "1");
    assert_eq!(read(&copy, r#"SELECT "Odd" FROM sales.u"#), "x");
    assert_eq!(
        read(&copy, "SELECT table_name, state, stale FROM syncdata.data_sync_freshness ORDER BY 1"),
        "sales.u|live|False t|live|False"
    );
    let mode = fs::metadata(published(&copy)).expect("there").permissions().mode();
    assert_eq!(mode & 0o777, 0o444);

    // One reads on while the next copy comes.
    let script = "import duckdb, sys; c = duckdb.connect(sys.argv[1], read_only=True)\n\
        print(c.execute('SELECT count(*) FROM t').fetchone()[0], flush=True); sys.stdin.read()\n\
        print(c.execute('SELECT count(*) FROM t').fetchone()[0], flush=True)";
    let mut old = Command::new(python());
    let old = old.args(["-c", script]).arg(published(&copy)).stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut old = old.spawn().expect("it starts");
    // Somebody who has opened it to write has left this, which the next reader would take for a part of it.
    let mut wal = published(&copy).into_os_string();
    wal.push(".wal");
    forge.segment(&[vec![insert("t", r#""id":2"#)]]);
    forge.head();
    std::thread::sleep(std::time::Duration::from_secs(2));
    fs::write(&wal, "none of ours").expect("written");
    copy.done(&["sync"]);
    assert_eq!(read(&copy, "SELECT count(*) FROM t"), "2");
    assert!(!fs::exists(&wal).expect("looked"));
    drop(old.stdin.take());
    let said = old.wait_with_output().expect("ours");
    assert_eq!(String::from_utf8_lossy(&said.stdout), "1\n1\n");
    daemon.stop();
}

#[test]
fn a_copy_comes_at_most_every_publish_interval() {
    let folder = tempfile::tempdir().expect("a folder");
    let mut forge = Forge::new(folder.path());
    forge.relation("t", &["id integer not null"], &["id"]);
    forge.segment(&[vec![insert("t", r#""id":1"#)]]);
    forge.head();
    let copy = Copy::with(folder.path(), "publish = \"duckdb\"");
    copy.done(&["add-tables", "t"]);
    copy.done(&["sync"]);
    forge.segment(&[vec![insert("t", r#""id":2"#)]]);
    forge.head();
    copy.done(&["sync"]);
    assert_eq!(read(&copy, "SELECT count(*) FROM t"), "1");
    assert_eq!(copy.file.lines("SELECT count(*) FROM t"), ["2"]);
    // A rest of a copy that was never ended is nobody's.
    let mut part = published(&copy).into_os_string();
    part.push(".part");
    fs::write(&part, "half").expect("written");
    copy.set(folder.path(), "publish = \"duckdb\"\npublish_interval = 1");
    std::thread::sleep(std::time::Duration::from_secs(1));
    copy.done(&["sync"]);
    assert_eq!(read(&copy, "SELECT count(*) FROM t"), "2");
    assert!(!fs::exists(&part).expect("looked"));
}
