//! The commands of an operator.

use std::fs;
use std::io::Write as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::{Command, Stdio};

use syncdata_tests::world::{World, WorldOptions};

use crate::daemon::daemon;
use crate::reader;
use crate::scene::{self, poll};

pub(crate) const USERS: &str = "CREATE TABLE users (id int PRIMARY KEY, name text)";
pub(crate) const CANARY: &str = "canary-3c1f9a";

/// As a DBA pastes them.
pub(crate) fn psql(world: &World, statements: &str) {
    let source = &world.source;
    let mut command = Command::new(source.installation().program("psql"));
    command.args(["-X", "-v", "ON_ERROR_STOP=1", "-U", source.user(), "-d", source.database()]);
    command.arg("-h").arg(source.socket_folder()).args(["-p", &source.port().to_string()]);
    let mut psql = command.stdin(Stdio::piped()).stdout(Stdio::null()).spawn().expect("psql starts");
    psql.stdin.take().expect("piped").write_all(statements.as_bytes()).expect("psql reads");
    assert!(psql.wait().expect("psql ends").success(), "{statements}");
}

pub(crate) fn path(path: &Path) -> &str {
    path.to_str().expect("temporary folders have plain names")
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
