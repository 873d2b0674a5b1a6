//! The commands of an operator, and the daemon as the service manager sees it.

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::UnixDatagram;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use rustix::process::Signal;
use serde_json::Value;
use syncdata_tests::program::{Daemon, Finished};
use syncdata_tests::world::{World, WorldOptions};

use crate::operator;
use crate::reader;
use crate::scene::{self, poll};

const USERS: &str = "CREATE TABLE users (id int PRIMARY KEY, name text)";
const CANARY: &str = "canary-3c1f9a";

fn levels(checked: &Finished) -> Vec<(String, String)> {
    let findings = checked.json()["findings"].as_array().expect("a list").clone();
    let word = |finding: &Value, key: &str| finding[key].as_str().expect("a word").to_owned();
    findings.iter().map(|finding| (word(finding, "level"), word(finding, "subject"))).collect()
}

/// As a DBA pastes them.
fn psql(world: &World, statements: &str) {
    let source = &world.source;
    let mut command = Command::new(source.installation().program("psql"));
    command.args(["-X", "-v", "ON_ERROR_STOP=1", "-U", source.user(), "-d", source.database()]);
    command.arg("-h").arg(source.socket_folder()).args(["-p", &source.port().to_string()]);
    let mut psql = command.stdin(Stdio::piped()).stdout(Stdio::null()).spawn().expect("psql starts");
    psql.stdin.take().expect("piped").write_all(statements.as_bytes()).expect("psql reads");
    assert!(psql.wait().expect("psql ends").success(), "{statements}");
}

fn path(path: &Path) -> &str {
    path.to_str().expect("temporary folders have plain names")
}

#[tokio::test]
async fn setup_creates_once_what_is_missing_and_then_all_is_well() {
    let world = World::start().await;
    world.source.execute(USERS).await;
    let before = world.archiver(["check", "--json"]).run().await.expect_code(1);
    assert!(levels(&before).contains(&("fail".into(), "slot".into())), "{before}");
    for words in ["created; it keeps WAL from now on", "exists already"] {
        let done = world.archiver(["setup", "--create-slot"]).succeed().await;
        assert!(done.stderr.contains(&format!("slot: syncdata_slot {words}")), "{done}");
        assert_eq!(done.stdout, "", "nothing is left for a DBA");
    }
    let checked = world.archiver(["check", "--json"]).succeed().await;
    assert!(!levels(&checked).iter().any(|(level, _)| level == "fail"), "{checked}");
    assert_eq!(checked.json()["healthy"], true);
    let text = world.archiver(["check"]).succeed().await.stdout;
    for subject in [
        "source",
        "wal_level",
        "max_replication_slots",
        "role",
        "slot",
        "wal2json",
        "tables",
        "archive",
        "spool",
    ] {
        assert!(
            text.contains(&format!("ok    {subject}: ")) || text.contains(&format!("warn  {subject}: ")),
            "{subject} in\n{text}"
        );
    }
    poll(&world).await;
}

#[tokio::test]
async fn setup_on_a_server_that_cannot_decode_prints_what_to_run() {
    let options = WorldOptions::default().source(|source| source.setting("wal_level", "replica"));
    let mut world = options.start().await;
    world.source.execute(USERS).await;
    let told = world.archiver(["setup", "--create-slot"]).run().await.expect_code(1);
    let stopped = "slot: syncdata_slot is not made, and nothing was created: wal_level: replica, changes cannot be decoded";
    assert!(told.stderr.contains(stopped), "{told}");
    let statements: Vec<&str> = told.stdout.lines().collect();
    assert!(statements.contains(&"ALTER SYSTEM SET wal_level = 'logical';"), "{told}");
    let restart = statements.iter().find(|line| line.starts_with("-- ")).expect("a restart is asked for");
    assert!(restart.contains("systemctl restart") && restart.contains("brew services restart"), "{told}");
    let slot = "SELECT lsn FROM pg_create_logical_replication_slot('syncdata_slot', 'wal2json');";
    assert!(told.stdout.contains(slot), "{told}");
    // The line that the test's own configuration has would win over ALTER SYSTEM's no more than a DBA's would.
    let before_restart: Vec<&str> =
        statements.iter().copied().take_while(|line| !line.starts_with("-- ")).collect();
    let alter = before_restart.iter().filter(|line| line.starts_with("ALTER")).copied().collect::<Vec<_>>();
    psql(&world, &alter.join("\n"));
    world.source.restart().await;
    world.archiver(["setup", "--create-slot"]).succeed().await;
    poll(&world).await;
}

#[tokio::test]
async fn an_unprivileged_role_is_told_statements_that_psql_runs_as_they_are() {
    let mut world = World::start().await;
    world.source.execute("CREATE TABLE keyless (n int); CREATE ROLE \"pl\"\"ain\" LOGIN").await;
    world.set_archiver("pg_user", "pl\"ain");
    let file = world.folder().join("password");
    scene::write_private(&file, CANARY);
    world.source.execute("DROP ROLE syncdata_user").await;
    let arguments = ["setup", "--create-slot", "--create-user", "--password-file", path(&file)];
    let told = world.archiver(arguments).run().await.expect_code(1);
    assert!(!told.stdout.contains(CANARY) && !told.stderr.contains(CANARY), "{told}");
    assert!(told.stdout.contains("ALTER ROLE \"pl\"\"ain\" REPLICATION;"), "{told}");
    psql(&world, &told.stdout);
    let done = world.archiver(arguments).succeed().await;
    assert_eq!(done.stdout, "", "everything was run: {done}");
    poll(&world).await;
}

#[tokio::test]
async fn the_role_that_setup_makes_can_do_a_poll_and_its_password_is_nowhere() {
    let options = WorldOptions::default().source(|source| {
        let source = source.setting("log_statement", "all").setting("log_min_error_statement", "debug5");
        source
            .hba("host all syncdata_user 127.0.0.1/32 scram-sha-256")
            .hba("host all postgres 127.0.0.1/32 trust")
    });
    let mut world = options.start().await;
    world.source.execute(USERS).await;
    world.source.execute("DROP ROLE syncdata_user").await;
    world.set_archiver("pg_user", "postgres");
    let file = world.folder().join("password");
    scene::write_private(&file, &format!("{CANARY}\n"));
    for words in ["syncdata_user created", "syncdata_user exists already"] {
        let arguments = ["setup", "--create-slot", "--create-user", "--password-file", path(&file)];
        let done = world.archiver(arguments).succeed().await;
        assert!(done.stderr.contains(words), "{done}");
        assert!(!done.stderr.contains(CANARY) && !done.stdout.contains(CANARY), "{done}");
    }
    let rights = "SELECT rolsuper, rolcreaterole, rolcreatedb, rolbypassrls, rolreplication, rolcanlogin FROM pg_roles WHERE rolname = 'syncdata_user'";
    assert_eq!(world.source.query(rights).await[0].iter().flatten().cloned().collect::<String>(), "fffttt");
    let groups = "SELECT string_agg(roleid::regrole::text, ',') FROM pg_auth_members WHERE member = 'syncdata_user'::regrole";
    assert_eq!(world.source.value(groups).await, "pg_read_all_data");

    world.set_archiver("pg_user", "syncdata_user");
    let refused = world.archiver(["run", "--once"]).run().await.expect_code(2);
    assert!(refused.stderr.contains("pg_password") || refused.stderr.contains("password"), "{refused}");
    world.set_archiver("pg_password", CANARY);
    world.source.execute("INSERT INTO users VALUES (1, 'a')").await;
    assert_eq!(poll(&world).await.len(), 1);
    assert!(!world.source.log().contains(CANARY), "the server's log");
    let shown = world.archiver(["config"]).succeed().await;
    assert!(shown.stdout.contains("pg_password") && !shown.stdout.contains(CANARY), "{shown}");
    let shown = world.archiver(["config", "--json"]).succeed().await;
    assert!(!shown.stdout.contains(CANARY), "{shown}");
    assert!(shown.json().to_string().contains("slot_name"), "{shown}");
}

#[tokio::test]
async fn a_role_that_lacks_rights_is_given_them_once() {
    let mut world = World::start().await;
    world.source.execute(USERS).await;
    world.source.execute("ALTER ROLE syncdata_user NOREPLICATION NOBYPASSRLS").await;
    world.source.execute("REVOKE pg_read_all_data FROM syncdata_user").await;
    let told = world.archiver(["setup", "--create-slot", "--create-user"]).run().await.expect_code(1);
    assert!(told.stdout.contains("ALTER ROLE \"syncdata_user\" LOGIN REPLICATION BYPASSRLS;\n"), "{told}");
    assert!(told.stdout.contains("GRANT pg_read_all_data TO \"syncdata_user\";\n"), "{told}");
    assert!(!told.stdout.contains("PASSWORD"), "{told}");
    world.set_archiver("pg_user", "postgres");
    let given = world.archiver(["setup", "--create-slot", "--create-user"]).succeed().await;
    assert!(given.stderr.contains("exists already, and was given what it lacked"), "{given}");
    let again = world.archiver(["setup", "--create-slot", "--create-user"]).succeed().await;
    assert!(again.stderr.contains("syncdata_user exists already\n"), "{again}");
    world.set_archiver("pg_user", "syncdata_user");
    assert_eq!(world.archiver(["setup", "--create-slot", "--create-user"]).succeed().await.stdout, "");
}

#[tokio::test]
async fn tables_that_a_snapshot_could_not_read_are_named_with_the_statement() {
    let world = scene::world(USERS).await;
    let schema = "CREATE SCHEMA closed; CREATE TABLE closed.safe (id int PRIMARY KEY);
        ALTER TABLE users ENABLE ROW LEVEL SECURITY; GRANT SELECT ON users TO syncdata_user";
    world.source.execute(schema).await;
    let snapshot = |checked: &Finished| {
        let findings = checked.json()["findings"].as_array().expect("a list").clone();
        findings.into_iter().find(|finding| finding["subject"] == "snapshot").expect("it is looked at")
    };
    let checked = world.archiver(["check", "--json"]).succeed().await;
    assert_eq!(snapshot(&checked)["level"], "ok", "{checked}");
    world.source.execute("REVOKE pg_read_all_data FROM syncdata_user").await;
    world.source.execute("ALTER ROLE syncdata_user NOBYPASSRLS").await;
    let checked = world.archiver(["check", "--json"]).succeed().await;
    let found = snapshot(&checked);
    assert_eq!(found["level"], "warn");
    let message = found["message"].as_str().expect("words");
    assert!(message.contains("syncdata_user may not read closed.safe"), "{message}");
    assert!(message.contains("row level security hides rows of users"), "{message}");
    // What can be captured is captured all the same.
    world.source.execute("INSERT INTO users VALUES (1, 'a')").await;
    assert_eq!(poll(&world).await.len(), 1);
    let told = world.archiver(["setup"]).succeed().await;
    psql(&world, &told.stdout);
    let checked = world.archiver(["check", "--json"]).succeed().await;
    assert_eq!(snapshot(&checked)["level"], "ok", "{checked}");
    assert_eq!(world.archiver(["setup"]).succeed().await.stdout, "");
}

#[tokio::test]
async fn a_host_that_pg_hba_does_not_let_in_is_given_the_line() {
    let options = WorldOptions::default().source(|source| source.hba("host all postgres 127.0.0.1/32 trust"));
    let world = scene::world_with(options, USERS).await;
    for command in ["check", "setup"] {
        let told = world.archiver([command]).run().await.expect_code(1);
        assert!(told.stdout.contains("SELECT pg_reload_conf();"), "{told}");
        let (_, rest) = told.stdout.split_once("-- in pg_hba.conf: ").expect("a line");
        let line = rest.lines().next().expect("a line");
        assert_eq!(line, "host \"app\" \"syncdata_user\" 127.0.0.1/32 scram-sha-256", "{told}");
    }
}

#[tokio::test]
async fn a_slot_for_standbys_needs_senders_and_a_server_that_knows_them() {
    let options = WorldOptions::default().source(|source| source.setting("max_wal_senders", "0"));
    let mut world = options.start().await;
    world.source.execute(USERS).await;
    let told = world.archiver(["setup", "--create-slot", "--failover"]).run().await.expect_code(1);
    assert!(told.stdout.starts_with("ALTER SYSTEM SET max_wal_senders = 10;\n-- then restart: "), "{told}");
    assert!(
        told.stderr.contains("syncdata_slot is not made, and nothing was created: max_wal_senders: 0"),
        "{told}"
    );
    assert_eq!(world.source.value("SELECT count(*) FROM pg_replication_slots").await, "0");
    world.source.append_setting("max_wal_senders", "10");
    world.source.restart().await;
    if world.source.installation().major() < 17 {
        let told = world.archiver(["setup", "--create-slot", "--failover"]).run().await.expect_code(1);
        assert!(told.stderr.contains("--failover needs PostgreSQL 17"), "{told}");
        assert_eq!(world.source.value("SELECT count(*) FROM pg_replication_slots").await, "0");
        return;
    }
    world.archiver(["setup", "--create-slot", "--failover"]).succeed().await;
    let failover = "SELECT failover FROM pg_replication_slots WHERE slot_name = 'syncdata_slot'";
    assert_eq!(world.source.value(failover).await, "t");
    poll(&world).await;
}

/// Each check that fails, with what makes it fail.
#[tokio::test]
async fn setup_stops_at_a_check_that_fails_and_creates_nothing() {
    let mut world = World::start().await;
    world.source.execute(USERS).await;
    world.source.execute("INSERT INTO users VALUES (1, 'before'); DROP ROLE syncdata_user").await;
    world.source.execute("CREATE ROLE plain LOGIN; GRANT pg_read_all_data TO plain").await;
    world.set_archiver("pg_user", "plain");
    let arguments = ["setup", "--create-slot", "--snapshot"];
    let stopped = world.archiver(arguments).run().await.expect_code(1);
    let why = "syncdata_slot is not made, and nothing was created: role: plain may not use replication slots";
    assert!(stopped.stderr.contains(why), "{stopped}");
    let nothing = async |world: &World| {
        let made = "SELECT (SELECT count(*) FROM pg_replication_slots) + (SELECT count(*) FROM pg_roles WHERE rolname = 'syncdata_user')";
        assert_eq!(world.source.value(made).await, "0");
        assert!(!world.archive_dir().join("snapshots").exists() && !world.spool_dir().exists());
    };
    nothing(&world).await;
    let document = world.archiver(["setup", "--create-slot", "--json"]).run().await.expect_code(1).json();
    assert_eq!(document["healthy"], false);

    // Whoever may make everything makes nothing either, as long as something is in the way.
    world.set_archiver("pg_user", "postgres");
    world.source.append_setting("wal_level", "replica");
    world.source.restart().await;
    let both = ["setup", "--create-slot", "--create-user", "--snapshot"];
    let stopped = world.archiver(both).run().await.expect_code(1);
    let why = "nothing was created: wal_level: replica, changes cannot be decoded";
    assert!(stopped.stderr.contains(why) && !stopped.stderr.contains("shown only now"), "{stopped}");
    nothing(&world).await;
    world.source.append_setting("wal_level", "logical");
    world.source.restart().await;
    let done = world.archiver(both).succeed().await;
    assert!(done.stderr.contains("syncdata_user created"), "{done}");
}

#[tokio::test]
async fn setup_without_a_slot_tells_whether_the_plugin_loads() {
    let world = World::start().await;
    world.source.execute(USERS).await;
    let told = world.archiver(["setup"]).run().await.expect_code(1);
    assert!(told.stderr.contains("wal2json: it can be loaded"), "{told}");
    assert_eq!(world.source.value("SELECT count(*) FROM pg_replication_slots").await, "0");
    world.source.append_setting("dynamic_library_path", "/nowhere");
    world.source.reload();
    let deadline = Instant::now() + Duration::from_secs(60);
    loop {
        let told = world.archiver(["setup"]).run().await.expect_code(1);
        let major = world.source.installation().major();
        if told.stderr.contains(&format!("apt-get install postgresql-{major}-wal2json")) {
            break;
        }
        assert!(Instant::now() < deadline, "{told}");
    }
}

#[tokio::test]
async fn limits_of_the_server_that_come_before_the_guard_are_named() {
    let options = WorldOptions::default().source(|source| source.setting("max_slot_wal_keep_size", "1GB"));
    let world = scene::world_with(options, USERS).await;
    let warned = world.archiver(["check"]).succeed().await;
    assert!(
        warned.stdout.contains("warn  max_slot_wal_keep_size: 1GB: the server gives the slot up"),
        "{warned}"
    );
    let guarded = world.archiver(["check"]).env("SYNCDATA_WAL_GUARD", "500MiB").succeed().await;
    assert!(!guarded.stdout.contains("max_slot_wal_keep_size"), "{guarded}");
}

#[tokio::test]
async fn check_names_an_archive_that_is_not_the_spools() {
    let world = scene::world(USERS).await;
    poll(&world).await;
    let identity = world.archive_dir().join("archive.json");
    let text = fs::read_to_string(&identity).expect("our file");
    let id = reader::json(&identity)["archive_id"].as_str().expect("an id").to_owned();
    fs::write(&identity, text.replace(&id, &uuid_of_another(&id))).expect("our file");
    let checked = world.archiver(["check"]).run().await.expect_code(1);
    assert!(checked.stdout.contains("not that of the spool"), "{checked}");
    fs::remove_file(&identity).expect("our file");
    let checked = world.archiver(["check"]).run().await.expect_code(1);
    assert!(checked.stdout.contains("has no archive.json any more"), "{checked}");
}

fn uuid_of_another(id: &str) -> String {
    id.replace(|c: char| c.is_ascii_digit(), "7")
}

#[tokio::test]
async fn every_reading_command_prints_one_document_wherever_the_flag_stands() {
    let world = scene::world(USERS).await;
    world.source.execute("INSERT INTO users VALUES (1, 'a')").await;
    poll(&world).await;
    for command in ["status", "check", "verify", "config", "setup"] {
        for arguments in [["--json", command], [command, "--json"]] {
            let run = world.archiver(arguments).run().await;
            assert!(matches!(run.code(), Some(0 | 1)), "{run}");
            assert!(run.json().is_object(), "{run}");
        }
    }
}

#[tokio::test]
async fn a_made_password_is_shown_once_and_works() {
    let mut world = World::start().await;
    world.source.execute("DROP ROLE syncdata_user").await;
    world.set_archiver("pg_user", "postgres");
    let done = world.archiver(["setup", "--create-slot", "--create-user"]).run().await;
    let shown = done.stderr.lines().find_map(|line| line.split("shown only now: ").nth(1));
    let made = shown.unwrap_or_else(|| panic!("{done}"));
    assert_eq!(made.len(), 24);
    let again = world.archiver(["setup", "--create-user"]).run().await;
    assert!(!again.stderr.contains("shown only now"), "{again}");
}

/// The slot is made, and nobody has written that down.
#[tokio::test]
async fn setup_that_is_killed_while_it_makes_the_slot_can_be_run_again() {
    let world = World::start().await;
    world.source.execute(USERS).await;
    // It waits for this transaction.
    let open = world.source.connect().await;
    open.batch_execute("BEGIN; INSERT INTO users VALUES (1, 'before')").await.expect("inserts");
    let first = world.archiver(["setup", "--create-slot"]).spawn();
    let slots = "SELECT count(*) FROM pg_replication_slots";
    while world.source.value(slots).await == "0" {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let second = world.archiver(["setup", "--create-slot"]).run().await.expect_code(1);
    assert!(second.stderr.contains("the slot syncdata_slot is being made by process"), "{second}");
    first.kill().await;
    while world.source.value(slots).await != "0" {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    open.batch_execute("COMMIT").await.expect("commits");
    let killed = world.archiver(["setup", "--create-slot"]).fault("setup.slot_made=kill@1").run().await;
    assert!(killed.was_killed(), "{killed}");
    let again = world.archiver(["setup", "--create-slot"]).succeed().await;
    assert!(again.stderr.contains("syncdata_slot exists already"), "{again}");
    world.source.execute("INSERT INTO users VALUES (2, 'behind')").await;
    let segments = poll(&world).await;
    assert_eq!(scene::shapes(&segments), [r#"users INSERT {"id":2,"name":"behind"}"#, "COMMIT 1"]);
}

/// Nothing was ever kept under that name: there is nothing that could be lost.
#[tokio::test]
async fn a_slot_that_never_existed_is_no_loss_and_the_nearest_name_is_told() {
    let mut world = scene::world(USERS).await;
    world.set_archiver("slot_name", "syncdata_slto");
    for (command, code) in [(&["run", "--once"][..], 2), (&["check"], 1), (&["snapshot"], 2)] {
        let run = world.archiver(command).run().await.expect_code(code);
        let said = format!("{}{}", run.stdout, run.stderr);
        assert!(said.contains("syncdata_slto") && said.contains("does not exist"), "{run}");
        assert!(said.contains("did you mean syncdata_slot?"), "{run}");
        assert!(!said.contains("lost") && !said.contains("in silence"), "{run}");
    }
    assert!(!world.archive_dir().join("archive.json").exists(), "no archive was founded for it");
    world.set_archiver("slot_name", "syncdata_slot");
    poll(&world).await;
    // It is not the archive's either, once there is one; also for a spool that is new.
    world.set_archiver("slot_name", "syncdata_slto");
    let spool = world.spool_dir();
    for _ in 0..2 {
        let run = world.archiver(["run", "--once"]).run().await.expect_code(2);
        assert!(run.stderr.contains("syncdata_slot") && !run.stderr.contains("lost"), "{run}");
        fs::remove_dir_all(&spool).unwrap_or_default();
    }
}

#[tokio::test]
async fn status_without_a_daemon_says_what_spool_and_source_say() {
    let world = World::start().await;
    world.source.execute(USERS).await;
    let status = world.archiver(["status"]).run().await.expect_code(1);
    assert!(status.stdout.starts_with("status: not-started\n"), "{status}");
    assert!(status.stdout.contains("the replication slot syncdata_slot does not exist"), "{status}");
    assert!(!world.spool_dir().exists(), "a look changes nothing");
    world.source.execute(scene::SLOT).await;
    world.source.execute("INSERT INTO users VALUES (1, 'a')").await;
    poll(&world).await;
    let status = world.archiver(["status", "--json"]).run().await.expect_code(1).json();
    assert_eq!(status["status"], "not-started");
    assert_eq!(status["spool"]["segments"], 1);
    assert_eq!(status["spool"]["unshipped_segments"], 0);
    assert!(status["spool"]["bytes"].as_u64().expect("a number") > 0);
    assert_eq!(status["archive"]["shipped_segment"], 1);
    assert_eq!(status["source"]["slot"], "syncdata_slot");
    assert!(status["source"]["retained_bytes"].is_u64());
}

#[tokio::test]
async fn status_looks_into_a_spool_that_somebody_works_in() {
    let mut world = scene::world(USERS).await;
    world.source.execute("INSERT INTO users VALUES (1, 'a')").await;
    poll(&world).await;
    let mut daemon = world.archiver(["run"]).spawn();
    daemon.says("started").await;
    // The same spool under settings by which the daemon is not found.
    world.set_archiver("meta_schema", "elsewhere");
    let part = world.spool_dir().join("segment-7.part");
    fs::write(&part, "of the daemon").expect("the spool is ours");
    let status = world.archiver(["status"]).run().await.expect_code(1);
    assert!(status.stdout.starts_with("status: not-started\n"), "{status}");
    assert!(status.stdout.contains("newest segment: 1\n"), "{status}");
    assert!(!status.stdout.contains("another archiver"), "{status}");
    assert!(part.exists(), "what the daemon writes is left alone");
    daemon.stop().await.expect_code(0);
}

async fn daemon(world: &World) -> Daemon {
    let mut daemon = world.archiver(["run"]).spawn();
    daemon.says("started").await;
    daemon
}

/// Asks until the answer fits.
async fn status_that(world: &World, fits: impl Fn(&Value) -> bool) -> Value {
    let deadline = Instant::now() + Duration::from_secs(60);
    loop {
        let status = world.archiver(["status", "--json"]).run().await;
        if status.stdout.starts_with('{') && fits(&status.json()) {
            return status.json();
        }
        assert!(Instant::now() < deadline, "{status}");
    }
}

#[tokio::test]
async fn the_daemon_answers_commands_and_keeps_others_from_its_slot() {
    let world = scene::world(USERS).await;
    let daemon = daemon(&world).await;
    let status = status_that(&world, |status| !status["last_poll"].is_null()).await;
    assert_eq!((&status["status"], &status["healthy"]), (&"active".into(), &true.into()));
    assert_eq!(status["tables"], serde_json::json!(["users"]));
    let degraded = if world.source.installation().major() >= 18 { 0 } else { 1 };
    assert_eq!(status["degraded"].as_array().map(Vec::len), Some(degraded));
    world.archiver(["status"]).succeed().await;

    world.source.execute("INSERT INTO users VALUES (1, 'a')").await;
    assert_eq!(poll(&world).await.len(), 1, "run --once has the daemon poll");
    // Said at once, and as one document.
    let dropped = world.archiver(["drop-slot", "--force", "--json"]).run().await.expect_code(2);
    assert!(!dropped.stderr.contains("WARN"), "{dropped}");
    let document = dropped.json();
    let words = |key: &str| document[key].as_str().expect("words").to_owned();
    assert!(words("error").contains("the daemon of these settings runs"), "{dropped}");
    assert!(words("hint").contains("systemctl stop syncdata-archiver"), "{dropped}");

    let refused =
        world.archiver(["declare-gap", "--upto", "FFFFFFFF/0", "--reason", "x"]).run().await.expect_code(2);
    assert!(refused.stderr.contains("cannot be declared"), "{refused}");
    // What can be read is archived, not declared away.
    world.source.execute("INSERT INTO users VALUES (2, 'b')").await;
    let flush = world.source.value("SELECT pg_current_wal_flush_lsn()").await;
    let arguments = ["declare-gap", "--upto", &flush, "--reason", "a test"];
    world.archiver(arguments).run().await.expect_code(2);
    poll(&world).await;
    assert_eq!(reader::segments(world.archive_dir()).len(), 2);
    world.archiver(["status"]).succeed().await;
    daemon.stop().await.expect_code(0);
    for is_there in [true, false] {
        let dropped = world.archiver(["drop-slot", "--json"]).succeed().await;
        assert_eq!(dropped.json(), serde_json::json!({"slot": "syncdata_slot", "dropped": is_there}));
    }
}

#[tokio::test]
async fn an_error_with_json_is_a_document_too() {
    let mut world = scene::world(USERS).await;
    world.source.execute("INSERT INTO users VALUES (1, 'a')").await;
    let polled = world.archiver(["run", "--once", "--json"]).succeed().await;
    assert_eq!(polled.json(), serde_json::json!({"clean": true}));
    let gap = ["declare-gap", "--upto", "FFFFFFFF/0", "--reason", "x", "--json"];
    let alone = world.archiver(gap).run().await.expect_code(2).json();
    let daemon = daemon(&world).await;
    let asked = world.archiver(gap).run().await.expect_code(2).json();
    daemon.stop().await.expect_code(0);
    for document in [&alone, &asked] {
        assert!(document["error"].as_str().expect("words").contains("cannot be declared"), "{document}");
    }
    assert!(alone["hint"].is_string() && asked["hint"].is_string(), "{alone} {asked}");
    world.set_archiver("poll_max_changes", "none");
    let refused = world.archiver(["status", "--json"]).run().await.expect_code(2);
    assert!(refused.json()["error"].as_str().expect("words").contains("poll_max_changes"), "{refused}");
    assert!(refused.stderr.contains("error: "), "{refused}");
}

#[tokio::test]
async fn declare_gap_refuses_what_is_archived_and_what_is_not_written_yet() {
    let world = scene::world(USERS).await;
    world.source.execute("INSERT INTO users VALUES (1, 'a')").await;
    let segments = poll(&world).await;
    let archived = segments[0].manifest["end_lsn"].as_str().expect("an LSN");
    for upto in ["0/1", archived, "FFFFFFFF/0"] {
        let refused =
            world.archiver(["declare-gap", "--upto", upto, "--reason", "x"]).run().await.expect_code(2);
        assert!(refused.stderr.contains("cannot be declared"), "{refused}");
    }
    let refused = world.archiver(["declare-gap", "--upto", "nonsense", "--reason", "x"]).run().await;
    refused.expect_code(2);
    assert_eq!(reader::segments(world.archive_dir()).len(), 1);
}

#[tokio::test]
async fn drop_slot_refuses_while_changes_are_pending() {
    let world = scene::world(USERS).await;
    poll(&world).await;
    world.source.execute("INSERT INTO users VALUES (1, 'a')").await;
    let refused = world.archiver(["drop-slot"]).run().await.expect_code(2);
    assert!(refused.stderr.contains("changes wait in the slot syncdata_slot"), "{refused}");
    poll(&world).await;
    // WAL that is no change of a captured table is nobody's loss.
    world
        .source
        .execute("CREATE TABLE other (id int); CREATE TEMP TABLE t AS SELECT 1; SELECT pg_switch_wal()")
        .await;
    world.archiver(["drop-slot"]).succeed().await;
    assert_eq!(world.source.value("SELECT count(*) FROM pg_replication_slots").await, "0");
    world.archiver(["drop-slot"]).succeed().await;
    world.source.execute(scene::SLOT).await;
    world.source.execute("INSERT INTO users VALUES (2, 'b')").await;
    world.archiver(["drop-slot", "--force"]).succeed().await;
}

#[tokio::test]
async fn stock_minisign_checks_the_manifests_that_a_made_key_signed() {
    let mut world = scene::world(USERS).await;
    let key = world.folder().join("signing.key");
    world.archiver(["keygen", path(&key)]).succeed().await;
    assert_eq!(fs::metadata(&key).expect("a file").permissions().mode() & 0o777, 0o600);
    world.archiver(["keygen", path(&key)]).run().await.expect_code(2);
    world.set_archiver("signing_key", path(&key));
    world.source.execute("INSERT INTO users VALUES (1, 'a')").await;
    poll(&world).await;
    let days = world.archive_dir().join("segments");
    let day = fs::read_dir(days).expect("a folder").next().expect("a day").expect("an entry").path();
    let names = fs::read_dir(&day).expect("a folder").map(|entry| entry.expect("an entry").path());
    let manifest = names.into_iter().find(|path| path.to_string_lossy().ends_with(".manifest.json"));
    let manifest = manifest.expect("a manifest");
    let public = format!("{}.pub", path(&key));
    let verify = || {
        let mut minisign = Command::new("minisign");
        minisign.args(["-V", "-p", &public, "-m", path(&manifest)]);
        minisign.arg("-x").arg(format!("{}.minisig", path(&manifest)));
        minisign.output().expect("minisign is installed")
    };
    assert!(verify().status.success(), "{:?}", verify());
    let changed = fs::read_to_string(&manifest).expect("a file").replace("\"records\":1", "\"records\":2");
    fs::write(&manifest, changed).expect("the archive is ours");
    assert!(!verify().status.success());
}

#[tokio::test]
async fn flags_stand_before_or_after_the_command() {
    let world = scene::world(USERS).await;
    let file = path(world.archiver_config()).to_owned();
    let orders =
        [["--json", "-v", "--config", &file, "config"], ["config", "--json", "-v", "--config", &file]];
    let [before, after] =
        orders.map(|arguments| world.archiver(arguments).env("DATA_SYNC_CONFIG", "/nowhere"));
    assert_eq!(before.succeed().await.json(), after.succeed().await.json());
    world.archiver(["no-such-command"]).run().await.expect_code(2);
    for shell in ["bash", "zsh", "fish"] {
        let script = world.archiver(["completions", shell]).succeed().await.stdout;
        assert!(script.contains("declare-gap"), "{shell}: {script}");
    }
    let page = world.archiver(["man"]).succeed().await.stdout;
    assert!(page.starts_with(".ie") && page.contains("declare\\-gap"), "{page}");
}

/// A poll that takes long: the answer's lines are many.
async fn long_poll(world: &World) {
    world
        .source
        .execute("INSERT INTO users SELECT n, repeat('x', 200) FROM generate_series(1, 600000) n")
        .await;
}

#[tokio::test]
async fn the_service_manager_is_told_ready_status_and_stopping() {
    let world = scene::world(USERS).await;
    let socket = world.folder().join("notify");
    let manager = UnixDatagram::bind(&socket).expect("a socket");
    manager.set_read_timeout(Some(Duration::from_secs(60))).expect("a time");
    let daemon =
        world.archiver(["run"]).env("NOTIFY_SOCKET", &socket).env("WATCHDOG_USEC", "2000000").spawn();
    let hear = |what: &str| {
        let mut bytes = [0; 4096];
        loop {
            let length =
                manager.recv(&mut bytes).unwrap_or_else(|error| panic!("{what} was not said: {error}"));
            if String::from_utf8_lossy(&bytes[..length]).contains(what) {
                return;
            }
        }
    };
    hear("READY=1");
    hear("STATUS=archived up to ");
    hear("WATCHDOG=1");
    daemon.signal(Signal::HUP);
    hear("RELOADING=1");
    hear("READY=1");
    let stopped = daemon.stop().await.expect_code(0);
    assert!(stopped.stderr.contains("stopped"), "{stopped}");
    hear("STOPPING=1");
}

#[tokio::test]
async fn sigterm_in_the_middle_of_a_long_poll_ends_it_and_loses_nothing() {
    let world = scene::world(USERS).await;
    long_poll(&world).await;
    let daemon = world.archiver(["run"]).spawn();
    reads(&world, &daemon).await;
    daemon.stop().await.expect_code(0);
    all_is_archived(&world).await;
}

#[tokio::test]
async fn sigterm_before_a_declared_gap_is_told_declares_nothing() {
    let world = scene::world(USERS).await;
    long_poll(&world).await;
    let end = world.source.value("SELECT pg_current_wal_flush_lsn()").await;
    let before = operator::confirmed(&world).await;
    let arguments = ["declare-gap", "--upto", &end, "--reason", "by hand"];
    let command = world.archiver(arguments).spawn();
    reads(&world, &command).await;
    let stopped = command.stop().await;
    assert_ne!(stopped.code(), Some(0), "{stopped}");
    assert_eq!(operator::confirmed(&world).await, before);
    all_is_archived(&world).await;
    assert_eq!(operator::gaps(&world).len(), 0);
}

/// Waits until the poll has begun to read.
async fn reads(world: &World, program: &Daemon) {
    let deadline = Instant::now() + Duration::from_secs(60);
    while !fs::exists(world.spool_dir().join("segment-0.part")).expect("the spool can be looked into") {
        assert!(Instant::now() < deadline, "no segment was begun\n{}", program.stderr());
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

async fn all_is_archived(world: &World) {
    world.archiver(["run", "--once"]).patience(Duration::from_secs(300)).succeed().await;
    let segments = reader::segments(world.archive_dir());
    let records: u64 = segments.iter().map(|s| s.manifest["records"].as_u64().expect("a number")).sum();
    assert_eq!(records, 600_000);
}

#[tokio::test]
async fn sighup_takes_new_settings_and_keeps_the_old_ones_when_they_are_bad() {
    let mut world = scene::world(USERS).await;
    let mut daemon = daemon(&world).await;
    world.set_archiver("data_sync_freq", 90);
    daemon.signal(Signal::HUP);
    daemon.says("settings reloaded").await;
    let status = status_that(&world, |status| status["poll_frequency_seconds"] == 90).await;
    assert_eq!(status["healthy"], true);
    let good = fs::read(world.archiver_config()).expect("a file");
    fs::write(world.archiver_config(), [&good[..], b"\nslot_nam = 'x'\n"].concat()).expect("ours");
    daemon.signal(Signal::HUP);
    daemon.says("settings not reloaded").await;
    assert_eq!(daemon.stderr().matches("settings reloaded").count(), 1);
    fs::write(world.archiver_config(), good).expect("ours");
    status_that(&world, |status| status["poll_frequency_seconds"] == 90 && status["healthy"] == true).await;
    daemon.stop().await.expect_code(0);
}

fn get(port: u16, resource: &str) -> String {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).expect("somebody listens");
    write!(stream, "GET {resource} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n").expect("sent");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("an answer");
    answer
}

#[tokio::test]
async fn health_and_metrics_are_served_over_http() {
    let port =
        TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr()).expect("free").port();
    let options = WorldOptions::default().archiver_setting("http_listen", format!("127.0.0.1:{port}"));
    let world = scene::world_with(options, USERS).await;
    world.source.execute("INSERT INTO users VALUES (1, 'a')").await;
    let daemon = daemon(&world).await;
    status_that(&world, |status| status["archive"]["shipped_segment"] == 1).await;
    assert!(get(port, "/health").starts_with("HTTP/1.1 200"));
    assert!(get(port, "/status").contains("\"records_archived\":1"));
    let metrics = get(port, "/metrics");
    for name in ["healthy 1", "records_total 1", "shipped_segment 1", "errors_total 0"] {
        assert!(metrics.contains(&format!("\nsyncdata_archiver_{name}\n")), "{metrics}");
    }
    assert!(get(port, "/else").starts_with("HTTP/1.1 404"));
    world.source.execute("SELECT pg_drop_replication_slot('syncdata_slot')").await;
    let failed = world.archiver(["run", "--once"]).run().await.expect_code(2);
    assert!(failed.stderr.contains("does not exist"), "{failed}");
    assert!(get(port, "/health").starts_with("HTTP/1.1 503"));
    daemon.stop().await.expect_code(0);
}

#[test]
fn the_unit_files_are_sound_and_tightly_sandboxed() {
    let units = Path::new(env!("CARGO_MANIFEST_DIR")).join("../systemd");
    let folder = tempfile::tempdir().expect("a folder");
    let copy = |name: &str| {
        let text = fs::read_to_string(units.join(name)).expect("the unit file is there");
        let copy = folder.path().join(name);
        // systemd looks whether the program is there, which a machine that tests need not have installed.
        fs::write(&copy, text.replace("/usr/local/bin/syncdata-archiver", "/bin/true")).expect("a file");
        (text, copy)
    };
    for (name, command) in
        [("syncdata-archiver.service", "run"), ("syncdata-archiver-snapshot.service", "-v snapshot")]
    {
        let (text, copy) = copy(name);
        assert!(text.contains(&format!("ExecStart=/usr/local/bin/syncdata-archiver {command}\n")), "{name}");
        let speaks = text.contains("ExecStopPost=-/usr/local/bin/syncdata-archiver daemon-ended\n");
        assert_eq!(speaks, command == "run", "{name}: who starts again by itself says that it failed");
        analyze(&["security", "--offline=true", "--threshold=20"], &copy);
        analyze(&["verify", "--man=no"], &copy);
    }
    let (_, timer) = copy("syncdata-archiver-snapshot.timer");
    analyze(&["verify", "--man=no"], &timer);
}

/// Without a word about the unit.
fn analyze(arguments: &[&str], unit: &Path) {
    let output = Command::new("systemd-analyze").args(arguments).arg(unit).output();
    let output = output.expect("systemd-analyze is installed by scripts/install-deps");
    let words = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{words}\n{}", String::from_utf8_lossy(&output.stdout));
    assert!(!words.contains("syncdata-archiver"), "{words}");
}

#[tokio::test]
async fn the_old_script_is_setup_under_another_name() {
    let world = World::start().await;
    world.source.execute(USERS).await;
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../scripts/setup_logical_replication.sh");
    let folder = syncdata_tests::program::program("syncdata-archiver");
    let folder = folder.parent().expect("a program lies in a folder");
    let run = |search: String| {
        let mut command = Command::new(&script);
        command.arg("--create-slot").env("PATH", search).env("DATA_SYNC_CONFIG", world.archiver_config());
        command.output().expect("the script starts")
    };
    let output = run(format!("{}:/usr/bin:/bin", folder.display()));
    assert!(output.status.success(), "{output:?}");
    assert!(String::from_utf8_lossy(&output.stderr).contains("syncdata_slot created"), "{output:?}");
    assert_eq!(run("/usr/bin:/bin".into()).status.code(), Some(2));
}

/// Whoever has wal2json before 2.6 learns what it cannot say before the copies differ.
#[tokio::test]
async fn check_deep_counts_what_an_old_plugin_cannot_say() {
    let world = scene::world(
        "CREATE TABLE n (id int PRIMARY KEY, v numeric, \"fl,oat\" float8, small float4, text text);
         CREATE TABLE parted (id int, v numeric) PARTITION BY RANGE (id);
         CREATE TABLE parted_1 PARTITION OF parted FOR VALUES FROM (0) TO (10);
         CREATE TABLE parent (id int, v float8); CREATE TABLE child () INHERITS (parent)",
    )
    .await;
    let nan = async || {
        let checked = world.archiver(["check", "--deep", "--json"]).run().await.expect_code(0);
        let findings = checked.json()["findings"].as_array().expect("a list").clone();
        let found = findings.into_iter().find(|finding| finding["subject"] == "NaN").expect("it is counted");
        let word = |key: &str| found[key].as_str().unwrap_or_default().to_owned();
        (word("level"), word("message"))
    };
    let (level, message) = nan().await;
    assert_eq!((level.as_str(), message.contains("no captured table has NaN")), ("ok", true), "{message}");
    world
        .source
        .execute(
            "INSERT INTO n VALUES (1, 'NaN', 'Infinity', 1, 'NaN'), (2, 'Infinity', '-Infinity', 'NaN', ''), (3, 1, 2, 3, 'Infinity');
             INSERT INTO parted VALUES (1, 'NaN'); INSERT INTO child VALUES (1, 'NaN'); INSERT INTO parent VALUES (1, 0)",
        )
        .await;
    let (level, message) = nan().await;
    let expected = "child.v: 1 NaN or infinities; n.v: 2 NaN or infinities; n.fl,oat: 2 NaN or infinities; \
                    n.small: 1 NaN or infinities; parted.v: 1 NaN or infinities";
    assert_eq!((level.as_str(), message.as_str()), ("warn", expected));
    let shallow = world.archiver(["check"]).succeed().await;
    assert!(!shallow.stdout.contains(" NaN: "), "every row is read only where that is asked for: {shallow}");
    let deep = world.archiver(["check", "--deep"]).succeed().await;
    assert!(deep.stdout.contains("warn  NaN: child.v: 1 NaN"), "{deep}");
}

#[tokio::test]
async fn drop_slot_all_leaves_nothing_of_ours_on_the_server() {
    let world = World::start().await;
    world.source.execute("DROP ROLE syncdata_user").await;
    world.source.execute(USERS).await;
    let catalog = "SELECT string_agg(what, ' ' ORDER BY what) FROM (SELECT rolname::text FROM pg_roles
        UNION ALL SELECT slot_name::text FROM pg_replication_slots
        UNION ALL SELECT to_jsonb(s)::text FROM pg_db_role_setting s
        UNION ALL SELECT pubname::text FROM pg_publication) AS all_of_it(what)";
    let before = world.source.value(catalog).await;
    let file = world.folder().join("password");
    scene::write_private(&file, CANARY);
    let told =
        world.archiver(["setup", "--create-user", "--password-file", path(&file)]).run().await.expect_code(1);
    for _ in 0..2 {
        psql(&world, &told.stdout);
    }
    world.archiver(["setup", "--create-slot"]).succeed().await;
    poll(&world).await;
    let asked = world.archiver(["drop-slot", "--all"]).run().await.expect_code(2);
    assert!(asked.stderr.contains("say --yes") && asked.stderr.contains("/app (settings "), "{asked}");
    let told = world.archiver(["drop-slot", "--all", "--yes"]).run().await.expect_code(1);
    assert!(told.stderr.contains("a role cannot drop itself"), "{told}");
    psql(&world, &told.stdout);
    assert_eq!(world.source.value(catalog).await, before);
}

#[tokio::test]
async fn a_slot_whose_name_is_nearly_another_one_s_is_asked_about_and_not_made() {
    let mut world = World::start().await;
    world.source.execute(USERS).await;
    world.archiver(["setup", "--create-slot"]).succeed().await;
    world.set_archiver("slot_name", "syncdata_slto");
    let asked = world.archiver(["setup", "--create-slot"]).run().await.expect_code(1);
    let words = "slot: syncdata_slto is not made: there is syncdata_slot, nearly the same name";
    assert!(asked.stderr.contains(words) && asked.stderr.contains("say --yes"), "{asked}");
    let slots = "SELECT string_agg(slot_name, ' ' ORDER BY slot_name) FROM pg_replication_slots";
    assert_eq!(world.source.value(slots).await, "syncdata_slot");
    world.archiver(["setup", "--create-slot", "--yes"]).succeed().await;
    assert_eq!(world.source.value(slots).await, "syncdata_slot syncdata_slto");
    world.set_archiver("slot_name", "quite_another");
    world.archiver(["setup", "--create-slot"]).succeed().await;
}
