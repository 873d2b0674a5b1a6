//! `setup`: what is created, what is only printed, and that the printed statements do.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use serde_json::Value;
use syncdata_tests::program::Finished;
use syncdata_tests::world::{World, WorldOptions};

use crate::commands::{CANARY, USERS, path, psql};
use crate::scene::{self, poll};

fn levels(checked: &Finished) -> Vec<(String, String)> {
    let findings = checked.json()["findings"].as_array().expect("a list").clone();
    let word = |finding: &Value, key: &str| finding[key].as_str().expect("a word").to_owned();
    findings.iter().map(|finding| (word(finding, "level"), word(finding, "subject"))).collect()
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
    let words = "syncdata_user cannot be created or given its rights by pl\"ain";
    assert!(told.stderr.contains(words), "{told}");
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
        told.stderr.contains(
            "syncdata_slot is not made, and nothing was created: max_wal_senders: 0, no standby can follow"
        ),
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
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// Stock Debian: the server, and no package beside it.
#[tokio::test]
async fn without_wal2json_setup_offers_the_plugin_that_every_server_has() {
    let mut world = World::start().await;
    world.source.execute(USERS).await;
    let offer = "source: pgoutput can be loaded, which is part of PostgreSQL";
    let told = world.archiver(["setup"]).run().await.expect_code(1);
    assert!(!told.stderr.contains(offer), "{told}");
    let data = world.source.value("SHOW data_directory").await;
    let libraries = std::path::Path::new(&data).join("libraries");
    std::fs::create_dir(&libraries).expect("the server's folder is ours");
    let postgres = world.source.installation().program("postgres");
    let installed = postgres.ancestors().nth(2).expect("bin and lib lie side by side").join("lib");
    for library in ["pgoutput.so", "plpgsql.so"] {
        std::os::unix::fs::symlink(installed.join(library), libraries.join(library))
            .expect("the folder is ours");
    }
    world.source.append_setting("dynamic_library_path", &libraries.display().to_string());
    world.source.reload();
    let deadline = Instant::now() + Duration::from_secs(60);
    loop {
        let told = world.archiver(["setup"]).run().await.expect_code(1);
        if told.stderr.contains(offer) {
            break;
        }
        assert!(Instant::now() < deadline, "{told}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let told = world.archiver(["setup", "--create-slot"]).run().await.expect_code(1);
    assert!(told.stderr.contains(offer), "{told}");
    assert_eq!(world.source.value("SELECT count(*) FROM pg_replication_slots").await, "0");
    // As it says, and what is printed is run by a superuser.
    world.set_archiver("source", "pgoutput");
    world.run_as_told(["setup", "--create-slot"]).await;
    world.source.execute("INSERT INTO users VALUES (1, 'Kim')").await;
    world.archiver(["run", "--once"]).succeed().await;
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
