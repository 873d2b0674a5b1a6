//! Commands without a daemon.

use std::io::Write as _;

use syncdata_tests::LocalCopy;
use syncdata_tests::world::{World, WorldOptions};

use super::two_tables;

#[tokio::test]
async fn the_whitelist_takes_names_and_patterns_and_refuses_strangers() {
    let copy = LocalCopy::start(
        r#"CREATE TABLE users (id int); CREATE SCHEMA sales; CREATE TABLE sales.b (id int);
           CREATE TABLE sales.a (id int); CREATE TABLE "*" (id int)"#,
    )
    .await;
    let added = copy.applier(&["add-tables", "users", "sales.*"]).succeed().await;
    assert_eq!(added.stdout, "added users\nadded sales.a\nadded sales.b\n");
    let again = copy.applier(&["add-tables", "users", r#""*""#]).succeed().await;
    assert_eq!(again.stdout, "added \"*\"\n");
    assert!(again.stderr.ends_with("on the whitelist already: users\n"), "{again}");
    assert!(again.stderr.starts_with("\"*\": it may have had rows when its capture began"), "{again}");
    assert!(again.stderr.contains(r#"syncdata-archiver snapshot --tables '"*"'"#), "{again}");
    let stranger = copy.applier(&["add-tables", "nowhere.*"]).run().await.expect_code(2);
    assert!(stranger.stderr.contains("Table not found locally: nowhere.*"), "{stranger}");
    assert_eq!(copy.applier(&["list-tables"]).succeed().await.stdout, "users\nsales.a\nsales.b\n\"*\"\n");
    copy.applier(&["remove-tables", "sales.b"]).succeed().await;
    let none = copy.applier(&["add-tables", "sales.b", "--from", "snapshot"]).run().await.expect_code(2);
    assert!(none.stderr.contains("no snapshot in the archive has sales.b"), "{none}");
    let listed = copy.applier(&["list-tables", "--json"]).succeed().await.json();
    assert_eq!(listed[1]["table"], "sales.a");
    assert_eq!(listed[1]["state"], "pending");
    let unknown = copy.applier(&["remove-tables", "sales.b"]).run().await.expect_code(2);
    assert!(unknown.stderr.contains("sales.b is not in the whitelist"), "{unknown}");
    copy.applier(&["add-tables", "sales.b"]).succeed().await;
    let unknown = copy.applier(&["remove-tables", "sales.*", "nowhere.*"]).run().await.expect_code(2);
    assert!(unknown.stderr.contains("nowhere.* is not in the whitelist"), "{unknown}");
    let removed = copy.applier(&["remove-tables", "sales.*", "users"]).succeed().await;
    assert_eq!(removed.stdout, "removed sales.a\nremoved sales.b\nremoved users\n");
    assert_eq!(copy.applier(&["list-tables"]).succeed().await.stdout, "\"*\"\n");
    assert_eq!(copy.rows("SELECT count(*) FROM data_sync_table_state").await, "1");
}

#[tokio::test]
async fn options_stand_before_or_after_the_command() {
    let copy = two_tables().await;
    for arguments in [["--json", "list-tables"], ["list-tables", "--json"]] {
        assert!(copy.applier(&arguments).succeed().await.json().is_array());
    }
    let usage = copy.applier(&["list-tables", "--jsn"]).run().await.expect_code(2);
    assert!(usage.stderr.contains("--json"), "{usage}");
}

#[tokio::test]
async fn an_empty_whitelist_is_no_trouble() {
    let copy = two_tables().await;
    let sync = copy.applier(&["sync"]).succeed().await;
    assert_eq!(sync.stdout, "No tables in whitelist\n");
    assert_eq!(copy.applier(&["clear"]).succeed().await.stdout, "No tables in whitelist\n");
}

#[tokio::test]
async fn status_without_a_daemon_comes_from_the_database() {
    let copy = two_tables().await;
    let fresh = copy.applier(&["status"]).run().await.expect_code(1);
    assert!(fresh.stdout.starts_with("status: not-started\n"), "{fresh}");
    copy.applier(&["add-tables", "users", "orders"]).succeed().await;
    copy.applier(&["sync"]).succeed().await;
    let status = copy.applier(&["status"]).run().await.expect_code(1);
    let expected = "status: not-started\nsync frequency: 600 seconds\nstart time: -\nlast sync: 20";
    assert!(status.stdout.starts_with(expected), "{status}");
    let tables = "Z\nrecords synced: 0\nerrors: 0\n\nsynced tables (2):\n  - users\n  - orders\n\n";
    assert!(status.stdout.contains(tables), "{status}");
    assert!(status.stdout.contains("problem: no daemon is running\n"), "{status}");
    let document = copy.applier(&["--json", "status"]).run().await.expect_code(1).json();
    assert_eq!(document["tables"][0]["state"], "live");
    assert_eq!(document["copy"]["segment"], 1);
}

#[tokio::test]
async fn clear_asks_first_and_what_it_emptied_stays_empty() {
    let mut copy = two_tables().await;
    copy.applier(&["add-tables", "users", "orders"]).succeed().await;
    copy.applier(&["sync"]).succeed().await;
    // A test has no terminal.
    let refused = copy.applier(&["clear"]).run().await.expect_code(2);
    assert!(refused.stderr.contains("--yes"), "{refused}");
    assert_eq!(copy.rows("SELECT count(*) FROM users").await, "2");
    let cleared = copy.applier(&["clear", "--yes"]).succeed().await;
    assert_eq!(cleared.stdout, "cleared orders\ncleared users\n");
    let positions = "SELECT state, position_lsn IS NOT NULL FROM data_sync_table_state";
    assert_eq!(copy.rows(positions).await, "pending,t pending,t");
    copy.forge.segment(&[vec![r#"{"table":"users","op":"INSERT","data":{"id":3,"name":"Cid"}}"#]]);
    copy.applier(&["sync"]).succeed().await;
    assert_eq!(
        copy.rows("SELECT count(*) FROM users").await,
        "0",
        "an empty table plus changes is a mixture"
    );
    // Off the whitelist and on it again: from the archive's first segment.
    copy.applier(&["remove-tables", "users"]).succeed().await;
    copy.applier(&["add-tables", "users"]).succeed().await;
    copy.applier(&["sync"]).succeed().await;
    assert_eq!(copy.rows("SELECT id FROM users ORDER BY id").await, "1 2 3");
}

#[tokio::test]
async fn clear_asks_on_a_terminal_and_takes_no_for_an_answer() {
    let copy = two_tables().await;
    copy.applier(&["add-tables", "users", "orders"]).succeed().await;
    copy.applier(&["sync"]).succeed().await;
    let answer = |word: &str| {
        let line = copy.applier(&["clear"]).shell_line();
        // It gives the program a terminal of its own.
        let mut script = std::process::Command::new("script");
        script.args(["-qec", &line, "/dev/null"]).stdin(std::process::Stdio::piped());
        let mut child = script.stdout(std::process::Stdio::piped()).spawn().expect("util-linux is installed");
        writeln!(child.stdin.take().expect("a pipe"), "{word}").expect("it reads");
        let output = child.wait_with_output().expect("it ends");
        (output.status.code(), String::from_utf8_lossy(&output.stdout).into_owned())
    };
    for word in ["n", "", "what"] {
        let (code, said) = answer(word);
        assert!(said.contains("Empty 2 tables at postgres@127.0.0.1:"), "{said}");
        assert!(said.contains("orders, users? [y/N]") && said.contains("nothing was changed"), "{said}");
        assert_eq!((code, copy.rows("SELECT count(*) FROM users").await.as_str()), (Some(1), "2"));
    }
    let (code, said) = answer("y");
    assert!(said.contains("cleared users"), "{said}");
    assert_eq!((code, copy.rows("SELECT count(*) FROM users").await.as_str()), (Some(0), "0"));
}

#[tokio::test]
async fn clear_leaves_everything_when_an_unsynced_table_refers_to_one() {
    let copy = two_tables().await;
    copy.applier(&["add-tables", "users"]).succeed().await;
    copy.applier(&["sync"]).succeed().await;
    copy.server.execute("INSERT INTO orders VALUES (1, 1)").await;
    let refused = copy.applier(&["clear", "--yes"]).run().await.expect_code(2);
    assert!(refused.stderr.contains("nothing was changed"), "{refused}");
    assert_eq!(copy.rows("SELECT count(*) FROM users").await, "2");
}

#[tokio::test]
async fn the_program_answers_to_its_old_name() {
    let copy = two_tables().await;
    let link = copy.folder().join("syncdata");
    std::os::unix::fs::symlink(syncdata_tests::program::program("syncdata-applier"), &link)
        .expect("the folder is ours");
    for (arguments, says) in [
        (&["--help"][..], "Usage: syncdata [OPTIONS] <COMMAND>"),
        (&["completions", "bash"], "_syncdata()"),
        (&["man"], ".TH syncdata 1"),
        (&["--version"], "syncdata 0"),
    ] {
        let output = std::process::Command::new(&link).args(arguments).env_clear().output();
        let output = output.expect("it runs");
        let text = String::from_utf8_lossy(&output.stdout);
        assert!(output.status.success() && text.contains(says), "{arguments:?}: {text}");
    }
}

/// What is captured is known since a pass has read it in a manifest.
#[tokio::test]
async fn completions_offer_what_is_captured_and_not_synced_yet() {
    let mut world = WorldOptions::default().without_sftp().start().await;
    world
        .execute_on_both(
            "CREATE TABLE users (id int PRIMARY KEY); CREATE TABLE \"Or ders\" (id int PRIMARY KEY)",
        )
        .await;
    world.archiver(["setup", "--create-slot"]).succeed().await;
    world.source.execute("INSERT INTO users VALUES (1)").await;
    let names = async |world: &World, which| {
        let run = world.applier(["list-tables", "--complete", which]).run().await.expect_code(0);
        assert_eq!(run.stderr, "", "{run}");
        run.stdout
    };
    assert_eq!(names(&world, "captured").await, "", "nothing of ours is there");
    world.applier(["add-tables", "users"]).succeed().await;
    world.carry().await;
    assert_eq!(names(&world, "synced").await, "users\n");
    assert_eq!(names(&world, "captured").await, "\"Or ders\"\n");
    // Nobody waits for a server that does not answer.
    let silent = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
    world.set_applier("pg_port", i64::from(silent.local_addr().expect("bound").port()));
    let asked = std::time::Instant::now();
    assert_eq!(names(&world, "captured").await, "");
    assert!(asked.elapsed() < std::time::Duration::from_secs(8), "{:?}", asked.elapsed());
}

/// `check` alone is the doctor, which takes no tables.
#[test]
fn words_that_are_tables_are_completed_and_no_others() {
    let completed = |words: &str| {
        let script = format!(
            r#"source <("$0" completions bash); syncdata-applier() {{ echo "of $3"; }}
            COMP_WORDS=(syncdata-applier {words} ''); COMP_CWORD=$((${{#COMP_WORDS[@]}} - 1))
            _syncdata__applier_tables syncdata-applier '' ''; printf '%s\n' "${{COMPREPLY[@]}}""#
        );
        let program = syncdata_tests::program::program("syncdata-applier");
        let output = std::process::Command::new("bash").args(["-c", &script]).arg(program).output();
        let output = output.expect("bash is there");
        assert_eq!(String::from_utf8_lossy(&output.stderr), "", "{words}");
        String::from_utf8_lossy(&output.stdout).into_owned()
    };
    for words in ["retry", "consistency check", "consistency rows", "dead-letters list", "resync users"] {
        assert!(completed(words).contains(r"of\ synced"), "{words}: {}", completed(words));
    }
    assert!(completed("add-tables").contains(r"of\ captured"));
    for words in ["check", "status", "consistency", "dead-letters show"] {
        assert!(!completed(words).contains("of"), "{words}: {}", completed(words));
    }
}

#[tokio::test]
async fn whoever_has_read_enough_may_hang_up() {
    let copy = two_tables().await;
    let (reader, writer) = std::io::pipe().expect("pipes are to be had");
    drop(reader);
    let program = syncdata_tests::program::program("syncdata-applier");
    let status = std::process::Command::new(program).arg("config").env_clear().stdout(writer).output();
    let output = status.expect("it runs");
    assert_eq!((output.status.code(), output.stderr.as_slice()), (Some(0), &b""[..]), "{output:?} {copy:?}");
}

#[tokio::test]
async fn settings_are_shown_with_their_origin_and_without_secrets() {
    let mut copy = two_tables().await;
    copy.set("PG_PASSWORD", "hunter2");
    let shown = copy.applier(&["config"]).succeed().await;
    assert!(!shown.stdout.contains("hunter2") && shown.stdout.contains("pg_password = "), "{shown}");
    assert_eq!(copy.applier(&["config", "--json"]).succeed().await.json()["on_error"]["value"], "quarantine");
}

#[test]
fn a_program_that_was_built_without_duckdb_refuses_that_target() {
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("copy.duckdb");
    for command in ["sync", "status", "start", "list-tables"] {
        let program = syncdata_tests::program::program("syncdata-applier");
        let output = std::process::Command::new(program)
            .arg(command)
            .env_clear()
            .env("HOME", folder.path())
            .env("SYNCDATA_TARGET", "duckdb")
            .env("SYNCDATA_DUCKDB_DATABASE_PATH", &file)
            .env("SYNCDATA_ARCHIVE_DIR", folder.path())
            .output()
            .expect("it runs");
        let words = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{command}: {words}");
        assert!(words.contains("was built without DuckDB") && words.contains("docs/duckdb.md"), "{words}");
        assert!(!file.exists());
    }
}

#[test]
fn the_unit_files_are_sound_and_tightly_sandboxed() {
    let units = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../systemd");
    let folder = tempfile::tempdir().expect("a folder");
    // systemd looks whether the program is there, which a machine that tests need not have installed.
    let program = "/usr/local/bin/syncdata-applier";
    let copy = |name: &str| {
        let text = std::fs::read_to_string(units.join(name)).expect("the unit file is there");
        let copy = folder.path().join(name);
        std::fs::write(&copy, text.replace(program, "/bin/true")).expect("a file");
        (text, copy)
    };
    let analyze = |arguments: &[&str], unit: &std::path::Path| {
        let output = std::process::Command::new("systemd-analyze").args(arguments).arg(unit).output();
        let output = output.expect("systemd-analyze is installed by scripts/install-deps");
        let words = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{words}\n{}", String::from_utf8_lossy(&output.stdout));
        assert!(!words.contains("syncdata-applier"), "{words}");
    };
    for (name, command, of) in [
        ("syncdata-applier.service", "start", "notify"),
        ("syncdata-applier-drill.service", "-v drill", "oneshot"),
    ] {
        let (text, copy) = copy(name);
        assert!(text.contains(&format!("ExecStart={program} {command}\n")), "{name}");
        assert!(text.contains(&format!("Type={of}\n")), "{name}");
        let speaks = text.contains(&format!("ExecStopPost=-{program} daemon-ended\n"));
        assert_eq!(speaks, of == "notify", "{name}: who starts again by itself says that it failed");
        analyze(&["verify", "--man=no"], &copy);
        analyze(&["security", "--offline=true", "--threshold=20"], &copy);
    }
    let (_, timer) = copy("syncdata-applier-drill.timer");
    analyze(&["verify", "--man=no"], &timer);
}
