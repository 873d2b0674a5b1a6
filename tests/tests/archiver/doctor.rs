//! `check` on the production host: each line is seen when the thing that it names is broken, and gone when it is mended.

use std::fs::File;
use std::process::{Child, Command};
use std::time::{Duration, SystemTime};

use rustix::process::Signal;
use syncdata_tests::disk::Disk;
use syncdata_tests::program::Finished;
use syncdata_tests::sshd;
use syncdata_tests::world::{World, WorldOptions};
use toml::Value;

use crate::daemon::{daemon, status_that};
use crate::scene::{self, poll};

const USERS: &str = "CREATE TABLE users (id int PRIMARY KEY, name text)";

#[track_caller]
fn assert_says(checked: &Finished, line: &str) {
    assert!(checked.stdout.lines().any(|found| found.starts_with(line)), "{line:?} in\n{checked}");
}

fn account(sftp_arguments: &str) -> WorldOptions {
    let options = sshd::Options { sftp_arguments: sftp_arguments.into(), ..sshd::Options::default() };
    WorldOptions::default().backup(options)
}

#[tokio::test]
async fn what_the_account_on_the_backup_host_may_not_do_is_named() {
    for (arguments, remedy) in [
        ("-R", "give the folder to the archiver's account"),
        ("-P rename,posix-rename", "no `-P rename`"),
        ("-P remove", "allow remove and rmdir"),
    ] {
        let world = scene::world_with(account(arguments), USERS).await;
        let checked = world.archiver(["check"]).run().await.expect_code(1);
        assert_says(&checked, "fail  archive rights: ");
        assert!(checked.stdout.contains(remedy), "{arguments}: {checked}");
        if arguments == "-P remove" {
            // What the check leaves there is no archive's: founding goes on beside it.
            assert!(world.archive_dir().join("check.part").exists());
            poll(&world).await;
            world.archiver(["verify"]).run().await.expect_code(0);
        }
    }
    let world = scene::world(USERS).await;
    let checked = world.archiver(["check"]).run().await.expect_code(0);
    assert_says(&checked, "ok    archive rights: ");
    assert_eq!(std::fs::read_dir(world.archive_dir()).expect("a folder").count(), 0, "nothing stays");
}

#[tokio::test]
async fn little_room_is_said_before_there_is_none() {
    let disk = Disk::mount("size=8m");
    let (archive, spool) = (disk.path().join("archive"), disk.path().join("spool"));
    std::fs::create_dir(&archive).expect("the disk is writable");
    let options = WorldOptions::default()
        .without_sftp()
        .archiver_setting("archive_dir", archive.to_str().expect("plain"))
        .archiver_setting("spool_dir", spool.to_str().expect("plain"));
    let world = scene::world_with(options, USERS).await;
    let checked = world.archiver(["check"]).run().await.expect_code(0);
    for subject in ["archive room", "spool room"] {
        assert_says(&checked, &format!("warn  {subject}: "));
    }
    assert_eq!(checked.stdout.matches(" are free in ").count(), 2, "{checked}");
    let over_sftp = scene::world(USERS).await.archiver(["check"]).run().await.expect_code(0);
    assert!(over_sftp.stdout.contains(" archive room: "), "a server says it too: {over_sftp}");
}

#[tokio::test]
async fn a_backup_host_with_another_clock_is_named_on_both_sides() {
    let world = scene::world(USERS).await;
    world.target.execute(USERS).await;
    poll(&world).await;
    world.applier(["add-tables", "users"]).succeed().await;
    let hour = Duration::from_secs(3600);
    for (time, words) in [
        (SystemTime::now() + hour, "warn  clock: the backup host's, by the time of head.json, is 3"),
        (SystemTime::now() - hour, "warn  clock: the backup host's, by the time of head.json, is 3"),
        (SystemTime::now(), "ok    clock: the backup host's, by the time of head.json, agrees"),
    ] {
        let head = File::options().write(true).open(world.archive_dir().join("head.json")).expect("a head");
        head.set_modified(time).expect("our file");
        assert_says(&world.archiver(["check"]).run().await.expect_code(0), words);
        assert_says(&world.applier(["check"]).run().await.expect_code(0), words);
    }
}

#[tokio::test]
async fn partitions_that_came_and_went_since_the_last_poll_are_named() {
    let world = scene::world(
        "CREATE TABLE parted (id int PRIMARY KEY) PARTITION BY RANGE (id);
         CREATE TABLE parted_1 PARTITION OF parted FOR VALUES FROM (0) TO (10);
         CREATE TABLE parted_2 PARTITION OF parted FOR VALUES FROM (10) TO (20);
         INSERT INTO parted VALUES (1), (11)",
    )
    .await;
    poll(&world).await;
    let before = world.archiver(["check"]).run().await.expect_code(0);
    assert!(!before.stdout.contains("partitions: "), "{before}");
    world
        .source
        .execute(
            "DROP TABLE parted_1; CREATE TABLE parted_3 PARTITION OF parted FOR VALUES FROM (20) TO (30)",
        )
        .await;
    let checked = world.archiver(["check"]).run().await.expect_code(0);
    assert_says(
        &checked,
        "warn  partitions: parted lost parted_1 since the last poll: the rows that were in it stay",
    );
    assert!(checked.stdout.contains("syncdata-applier resync parted"), "{checked}");
    assert_says(&checked, "warn  partitions: parted gained parted_3 since the last poll");
}

#[tokio::test]
async fn a_connection_that_others_could_read_is_named() {
    let mut world = scene::world(USERS).await;
    let checked = world.archiver(["check"]).run().await.expect_code(0);
    assert_says(&checked, "ok    TLS: not in use, and the connection does not leave this host");
    assert_says(&checked, "ok    archive_mode: off, archive_timeout 0: not needed");
    // Another way to write it, which does not say that it is this host.
    world.set_archiver("pg_host", "127.1");
    let checked = world.archiver(["check"]).run().await.expect_code(0);
    assert_says(&checked, "warn  TLS: not in use: who is between here and 127.1 reads along");
    world.set_applier("pg_host", "127.1");
    poll(&world).await;
    let checked = world.applier(["check"]).run().await.expect_code(0);
    assert_says(&checked, "warn  TLS: not in use");
}

#[tokio::test]
async fn a_daemon_with_older_settings_than_the_file_is_named_with_them() {
    let mut world: World = scene::world(USERS).await;
    poll(&world).await;
    let mut archiver = world.archiver(["run"]).spawn();
    archiver.says("started").await;
    let mut applier = world.applier(["start"]).spawn();
    applier.says("started").await;
    let newest = "ok    daemon settings: ";
    assert_says(&world.archiver(["check"]).run().await.expect_code(0), newest);
    assert_says(&world.applier(["check"]).run().await.expect_code(0), newest);

    world.set_archiver("keep_days", 7);
    world.set_applier("stale_after", "2h");
    let checked = world.archiver(["check"]).run().await.expect_code(0);
    assert_says(
        &checked,
        "warn  daemon settings: the running daemon has older settings than the file: keep_days is unset there and 7 in ",
    );
    assert!(checked.stdout.contains("systemctl reload syncdata-archiver"), "{checked}");
    let checked = world.applier(["check"]).run().await.expect_code(0);
    assert_says(
        &checked,
        "warn  daemon settings: the running daemon has older settings than the file: stale_after is ",
    );

    // What such a daemon refuses comes with the reason.
    let pruned = world.archiver(["prune", "--json"]).run().await.expect_code(2);
    let hint = pruned.json()["hint"].as_str().expect("words").to_owned();
    assert!(hint.contains("older settings than the file: keep_days is unset there and 7 in "), "{pruned}");
    assert!(pruned.stderr.contains("systemctl reload syncdata-archiver"), "{pruned}");

    archiver.signal(Signal::HUP);
    archiver.says("settings reloaded").await;
    applier.signal(Signal::HUP);
    applier.says("settings reloaded").await;
    world.archiver(["prune"]).succeed().await;
    assert_says(&world.archiver(["check"]).run().await.expect_code(0), newest);
    assert_says(&world.applier(["check"]).run().await.expect_code(0), newest);
    archiver.stop().await.expect_code(0);
    applier.stop().await.expect_code(0);
}

#[tokio::test]
async fn a_snapshot_that_is_interrupted_says_so() {
    let world = scene::world(
        "CREATE TABLE users (id int PRIMARY KEY); INSERT INTO users SELECT generate_series(1, 100000)",
    )
    .await;
    poll(&world).await;
    let snapshot = world.archiver(["snapshot", "--rate", "1"]).spawn();
    let sessions = "SELECT count(*) > 0 FROM pg_stat_activity WHERE backend_xmin IS NOT NULL AND usename = 'syncdata_user'";
    while world.source.value(sessions).await != "t" {}
    snapshot.signal(Signal::INT);
    let ended = snapshot.ended().await.expect_code(2);
    assert!(ended.stderr.contains("stopped by a signal: no snapshot was made"), "{ended}");
    // As the hint says.
    world.archiver(["snapshot"]).succeed().await;
}

/// Holds the slot as a poll does while it reads, under that name.
fn reading_slot(world: &World, name: &str) -> Child {
    let source = &world.source;
    let mut reader = Command::new(source.installation().program("pg_recvlogical"));
    reader.args(["--start", "--slot", "syncdata_slot", "--file", "/dev/null", "--no-loop", "--no-password"]);
    reader.arg("--host").arg(source.socket_folder()).args(["--port", &source.port().to_string()]);
    reader.args(["--username", source.user(), "--dbname", source.database()]).env("PGAPPNAME", name);
    reader.spawn().expect("it comes with the server")
}

#[tokio::test]
async fn a_slot_that_a_poll_reads_meanwhile_is_no_fault() {
    let world = scene::world(USERS).await;
    poll(&world).await;
    for (name, line) in [
        ("syncdata-archiver", "ok    wal2json: a poll is reading syncdata_slot with it just now"),
        ("somebody", "fail  wal2json: "),
    ] {
        let mut reader = reading_slot(&world, name);
        let active = format!(
            "SELECT count(*) FROM pg_stat_activity JOIN pg_replication_slots ON active_pid = pid WHERE application_name = '{name}'"
        );
        while world.source.value(&active).await != "1" {
            assert!(reader.try_wait().expect("ours").is_none(), "it holds the slot");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        let checked = world.archiver(["check"]).run().await;
        assert_says(&checked, line);
        reader.kill().expect("ours");
        reader.wait().expect("ours");
    }
}

#[tokio::test]
async fn a_server_without_a_free_slot_or_that_drops_idle_ones_is_named() {
    let knows_idle = syncdata_tests::Installation::chosen().knows_setting("idle_replication_slot_timeout");
    let options = WorldOptions::default().source(|source| {
        let source = source.setting("max_replication_slots", "1");
        if knows_idle { source.setting("idle_replication_slot_timeout", "60") } else { source }
    });
    let mut world = options.start().await;
    world.source.execute(USERS).await;
    world.source.execute("SELECT pg_create_logical_replication_slot('somebody', 'test_decoding')").await;
    let checked = world.archiver(["check"]).run().await.expect_code(1);
    assert_says(&checked, "warn  max_replication_slots: all 1 are in use");
    assert_says(&checked, "fail  slot: syncdata_slot does not exist");
    if knows_idle {
        assert_says(
            &checked,
            "warn  idle_replication_slot_timeout: 1min: a slot that is idle longer is lost",
        );
    }
    // Nothing is made where none is free.
    let setup = world.archiver(["setup", "--create-slot"]).run().await.expect_code(1);
    assert!(setup.stderr.contains("fail  slot: "), "{setup}");
    assert_eq!(
        world.source.value("SELECT string_agg(slot_name, ' ') FROM pg_replication_slots").await,
        "somebody"
    );

    world.set_archiver("slot_name", "somebody");
    let checked = world.archiver(["check"]).run().await.expect_code(1);
    assert_says(&checked, "fail  slot: somebody is a slot of test_decoding in database app");
    world.source.execute("SELECT pg_drop_replication_slot('somebody')").await;
    world.source.execute("SELECT pg_create_logical_replication_slot('somebody', 'wal2json')").await;
    world.set_archiver("pg_user", "postgres");
    let checked = world.archiver(["check"]).run().await.expect_code(0);
    assert_says(&checked, "warn  role: postgres is a superuser: more than is needed");
}

#[tokio::test]
async fn a_slot_whose_wal_is_gone_is_named_with_what_comes_next() {
    let options = WorldOptions::default().source(|source| {
        source
            .setting("max_slot_wal_keep_size", "1MB")
            .setting("min_wal_size", "32MB")
            .setting("max_wal_size", "32MB")
    });
    let world = scene::world_with(options, USERS).await;
    let gone = "SELECT wal_status = 'lost' FROM pg_replication_slots";
    while world.source.value(gone).await != "t" {
        world.source.execute("SELECT pg_switch_wal()").await;
        world
            .source
            .execute(
                "CREATE TABLE more AS SELECT generate_series(1, 10000) AS i; DROP TABLE more; CHECKPOINT",
            )
            .await;
    }
    let checked = world.archiver(["check"]).run().await.expect_code(1);
    assert_says(&checked, "fail  slot: syncdata_slot is lost (");
    assert!(
        checked.stdout.contains("run `drop-slot --force`, `setup --create-slot`, then a snapshot"),
        "{checked}"
    );
    // As it says.
    world.archiver(["drop-slot", "--force"]).succeed().await;
    world.archiver(["setup", "--create-slot"]).run().await.expect_code(0);
    let checked = world.archiver(["check"]).run().await.expect_code(0);
    assert_says(&checked, "ok    slot: syncdata_slot stands at ");
}

/// Who reads a table with heirs reads their rows too, in production. They are captured under their own names, if these are listed.
#[tokio::test]
async fn heirs_of_a_captured_table_that_are_not_captured_are_named() {
    let schema =
        "CREATE TABLE kept (id int PRIMARY KEY); CREATE TABLE heir (PRIMARY KEY (id)) INHERITS (kept);
        CREATE TABLE grandheir (PRIMARY KEY (id)) INHERITS (heir)";
    let listed = |tables: &[&str]| tables.iter().map(|&table| table.into()).collect::<Vec<Value>>();
    let options =
        WorldOptions::default().without_sftp().archiver_setting("tables", listed(&["kept", "grandheir"]));
    let mut world = scene::world_with(options, schema).await;
    poll(&world).await;
    let words = "rows of heir, which inherits from kept, are not captured with it";
    let checked = world.archiver(["check"]).run().await.expect_code(0);
    assert_says(&checked, &format!("warn  tables: {words}"));
    assert!(!checked.stdout.contains("grandheir, which"), "{checked}");
    assert!(checked.stdout.contains("list that table in `tables` too"), "{checked}");
    let daemon = daemon(&world).await;
    let status = status_that(&world, |status| !status["last_poll"].is_null()).await;
    assert_eq!(status["heirs_left_out"], serde_json::json!([words]));
    let said = world.archiver(["status"]).succeed().await;
    assert!(said.stdout.contains(words), "{said}");
    daemon.stop().await.expect_code(0);
    // As it says.
    world.set_archiver("tables", listed(&["kept", "heir", "grandheir"]));
    poll(&world).await;
    let checked = world.archiver(["check"]).run().await.expect_code(0);
    assert!(!checked.stdout.contains("inherits from"), "{checked}");
}

#[tokio::test]
async fn tables_that_logical_decoding_does_not_carry_and_a_spool_that_cannot_be_read_are_named() {
    let world = scene::world(
        "CREATE TABLE users (id int PRIMARY KEY); CREATE UNLOGGED TABLE quick (id int PRIMARY KEY)",
    )
    .await;
    poll(&world).await;
    let checked = world.archiver(["check"]).run().await.expect_code(0);
    assert!(
        checked.stdout.contains("quick")
            && checked.stdout.contains("logical decoding does not carry its changes"),
        "{checked}"
    );
    std::fs::write(world.spool_dir().join("state.json"), "{").expect("ours");
    let checked = world.archiver(["check"]).run().await.expect_code(1);
    assert_says(&checked, "fail  spool: ");
    assert!(checked.stdout.contains("state.json"), "{checked}");
}

#[tokio::test]
async fn clocks_that_are_apart_are_named_on_both_sides() {
    let world = scene::world(USERS).await;
    world.target.execute(USERS).await;
    poll(&world).await;
    world.applier(["add-tables", "users"]).succeed().await;
    for (offset, words) in
        [("+1h", "s after this host's: times say too much"), ("-1h", "s ahead of this host's: times say")]
    {
        let checked = world.archiver(["check"]).clock(offset).run().await.expect_code(0);
        assert_says(&checked, "warn  clock: the source's clock is 3");
        assert!(checked.stdout.contains(words), "{checked}");
        assert!(checked.stdout.contains("set both by NTP: timedatectl set-ntp true"), "{checked}");
        let checked = world.applier(["check"]).clock(offset).run().await.expect_code(0);
        assert_says(&checked, "warn  clock: the local server's clock is 3");
        assert!(checked.stdout.contains(words), "{checked}");
    }
    assert_says(
        &world.archiver(["check"]).run().await.expect_code(0),
        "ok    clock: the source's clock agrees",
    );
    let checked = world.applier(["check"]).run().await.expect_code(0);
    assert_says(&checked, "ok    clock: the local server's clock agrees");
}

/// Old releases of wal2json do not know the option that keeps NaN.
#[tokio::test]
async fn a_plugin_that_is_old_or_not_allowed_is_named() {
    let mut world = scene::world(USERS).await;
    poll(&world).await;
    let client = world.source.connect().await;
    let asks = "SELECT count(*) FROM pg_logical_slot_peek_changes('syncdata_slot', NULL, NULL, 'numeric-data-types-as-string', '1')";
    let is_new = client.batch_execute(asks).await.is_ok();
    drop(client);
    let checked = world.archiver(["check"]).run().await.expect_code(0);
    match is_new {
        true => assert_says(&checked, "ok    wal2json: wal2json"),
        false => {
            let words = ": NaN and infinities of numeric and float columns arrive as NULL (numeric-nan)";
            assert!(
                checked
                    .stdout
                    .lines()
                    .any(|line| line.starts_with("warn  wal2json: ") && line.ends_with(words)),
                "{checked}"
            );
            assert!(checked.stdout.contains("install wal2json 2.6 or newer"), "{checked}");
        }
    }

    if !world.source.installation().knows_setting("output_plugin_libraries") {
        return;
    }
    world.source.execute("ALTER ROLE syncdata_user SET output_plugin_libraries = pgoutput").await;
    let refused = world.archiver(["check"]).run().await.expect_code(1);
    assert_says(&refused, "fail  wal2json: ");
    // Who may read all settings sees the list.
    world.source.execute("GRANT pg_read_all_settings TO syncdata_user").await;
    let checked = world.archiver(["check", "--json"]).run().await.expect_code(1);
    let document = checked.json();
    let findings = document["findings"].as_array().expect("a list");
    let gate = findings.iter().find(|finding| finding["subject"] == "output_plugin_libraries");
    let gate = gate.unwrap_or_else(|| panic!("{checked}"));
    assert_eq!(
        (&gate["level"], &gate["message"]),
        (&"fail".into(), &"wal2json is not listed (pgoutput): the server refuses it".into())
    );
    // As it says.
    world.source.execute(gate["statements"][0].as_str().expect("a statement")).await;
    let mended = world.archiver(["check"]).run().await.expect_code(0);
    assert_says(&mended, "ok    output_plugin_libraries: ");
    assert!(!mended.stdout.contains("fail  "), "{mended}");
    world.set_archiver("pg_user", "nobody");
    let checked = world.archiver(["check"]).run().await.expect_code(1);
    assert_says(&checked, "fail  source: role \"nobody\" does not exist");
}
