//! What the archiver says of itself, and keeps of what it did: in its spool, since production is read only.

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use rustix::process::Signal;
use serde_json::Value;
use syncdata_tests::world::{World, WorldOptions};

use super::scene;

const USERS: &str = "CREATE TABLE users (id int PRIMARY KEY, name text)";

async fn status(world: &World) -> Value {
    world.archiver(["status", "--json"]).run().await.json()
}

/// The messages that the command has written, once there are so many.
async fn said(file: &Path, count: usize) -> Vec<Value> {
    let deadline = Instant::now() + Duration::from_secs(60);
    loop {
        let text = fs::read_to_string(file).unwrap_or_default();
        let messages: Vec<Value> =
            text.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
        if messages.len() >= count {
            return messages;
        }
        assert!(Instant::now() < deadline, "{messages:?}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test]
async fn a_backup_host_that_is_away_is_said_under_one_id_whoever_is_killed_and_over_once() {
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("said");
    let options =
        WorldOptions::default().archiver_setting("alert_command", format!("cat >> {}", file.display()));
    let mut world = scene::world_with(options, USERS).await;
    let mut daemon = world.archiver(["run"]).fault("alerts.kept=kill").spawn();
    daemon.says("started").await;
    while status(&world).await["last_poll"].is_null() {}
    world.source.execute("INSERT INTO users VALUES (1, 'Ann')").await;
    world.backup.stop();
    // A command whose daemon is killed meanwhile polls itself.
    while !world.spool_dir().join("alerts.json").exists() {
        world.archiver(["run", "--once"]).run().await;
    }
    assert!(daemon.ended().await.was_killed());
    let kept: Value = serde_json::from_slice(&fs::read(world.spool_dir().join("alerts.json")).expect("kept"))
        .expect("JSON");
    assert!(!file.exists(), "nothing was said before it died");

    let mut daemon = world.archiver(["run"]).spawn();
    let fired = said(&file, 1).await.remove(0);
    assert_eq!((&fired["id"], &fired["event"]), (&kept["alerts"][0]["id"], &"fired".into()));
    let of = [&fired["kind"], &fired["subject"], &fired["threshold"], &fired["program"]];
    assert_eq!(of, ["unreachable", "archive", "5", "syncdata-archiver"]);
    // It has failed fewer times since the restart, which is no reason to call it well.
    for _ in 0..3 {
        world.archiver(["run", "--once"]).run().await.expect_code(1);
    }
    let open = status(&world).await;
    assert_eq!(open["alerts"][0]["id"], fired["id"], "{open}");
    assert_ne!(open["circuits"]["archive"]["state"], "closed", "{open}");
    assert_eq!(open["circuits"]["source"]["state"], "closed", "{open}");
    let failed =
        |line: &Value| line["kind"] == "poll" && line["state"] == "failed" && line["error"].is_string();
    assert!(open["executions"].as_array().expect("a list").iter().any(failed), "{open}");
    let words = world.archiver(["status"]).run().await.stdout;
    assert!(words.contains("\nalert: unreachable of archive: "), "{words}");
    assert!(words.contains("\ncircuit: archive: "), "{words}");

    world.backup.restart();
    while fs::read_to_string(&file).expect("it wrote").lines().count() < 2 {
        world.archiver(["run", "--once"]).run().await;
    }
    daemon.says("alert is over").await;
    let events = said(&file, 2).await;
    assert_eq!((&events[1]["id"], &events[1]["event"]), (&fired["id"], &"resolved".into()));
    let well = status(&world).await;
    assert_eq!(
        (&well["alerts"], &well["circuits"]["archive"]["state"]),
        (&Value::Array(vec![]), &"closed".into())
    );
    daemon.stop().await.expect_code(0);
    assert_eq!(said(&file, 2).await.len(), 2, "each event was said once");
}

#[tokio::test]
async fn what_was_done_is_kept_in_the_spool_and_what_a_kill_broke_off_is_called_abandoned() {
    let world = scene::world(USERS).await;
    world.source.execute("INSERT INTO users VALUES (1, 'Ann')").await;
    assert!(world.archiver(["run", "--once"]).fault("execution.begun=kill").run().await.was_killed());
    let newest = async || status(&world).await["executions"][0].clone();
    let broken = newest().await;
    assert_eq!(
        (&broken["kind"], &broken["state"], &broken["trigger"]),
        (&"poll".into(), &"abandoned".into(), &"command".into())
    );
    // Another process has its number by now: this one.
    let file = world.spool_dir().join("executions.json");
    let mut kept: Value = serde_json::from_slice(&fs::read(&file).expect("kept")).expect("JSON");
    let line = kept["executions"].as_array_mut().and_then(|lines| lines.last_mut()).expect("a line");
    assert_eq!((&line["state"], line["birth"].is_string()), (&"running".into(), true), "{line}");
    line["process"] = std::process::id().into();
    fs::write(&file, kept.to_string()).expect("ours");
    assert_eq!(newest().await["state"], "abandoned");

    scene::poll(&world).await;
    let polled = newest().await;
    assert_eq!(
        (&polled["state"], &polled["counts"]["records"]),
        (&"succeeded".into(), &1.into()),
        "{polled}"
    );
    for times in 1..3 {
        scene::poll(&world).await;
        assert_eq!(newest().await["times"], times, "polls that find nothing share a line");
    }
    world.archiver(["snapshot"]).succeed().await;
    world.archiver(["proof"]).succeed().await;
    let done = status(&world).await;
    let listed = done["executions"].as_array().expect("a list").iter();
    let of = |kind: &str| {
        listed.clone().find(|line| line["kind"] == kind).unwrap_or_else(|| panic!("{kind}: {done}"))
    };
    assert_eq!(
        (&of("snapshot")["state"], &of("snapshot")["counts"]["rows"]),
        (&"succeeded".into(), &1.into())
    );
    assert_eq!((&of("proof")["state"], &of("proof")["counts"]["tables"]), (&"succeeded".into(), &1.into()));
    assert!(listed.clone().any(|line| line["id"] == broken["id"] && line["state"] == "abandoned"), "{done}");

    // What is damaged there holds up nothing.
    fs::write(world.spool_dir().join("executions.json"), "no JSON").expect("ours");
    scene::poll(&world).await;
    assert_eq!(newest().await["state"], "succeeded");
}

/// Polls until the command has written so many messages; the newest of them in short.
async fn said_while_polling(world: &World, file: &Path, count: usize) -> String {
    let deadline = Instant::now() + Duration::from_secs(120);
    while fs::read_to_string(file).unwrap_or_default().lines().count() < count {
        assert!(Instant::now() < deadline, "{}", fs::read_to_string(file).unwrap_or_default());
        world.archiver(["run", "--once"]).run().await;
    }
    in_short(&said(file, count).await[count - 1])
}

fn in_short(message: &Value) -> String {
    let word = |key: &str| message[key].as_str().unwrap_or("-").to_owned();
    format!("{} {} {}", word("event"), word("kind"), word("subject"))
}

#[tokio::test]
async fn lost_changes_wal_past_the_guard_and_lag_wake_somebody_and_are_over_when_mended() {
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("said");
    let options =
        WorldOptions::default().archiver_setting("alert_command", format!("cat >> {}", file.display()));
    let mut world = scene::world_with(options, USERS).await;
    world.source.execute("CREATE TABLE notes (body text); INSERT INTO notes VALUES ('a')").await;
    let mut daemon = world.archiver(["run"]).spawn();
    daemon.says("started").await;

    world.set_archiver("wal_guard", "1KiB");
    daemon.signal(Signal::HUP);
    daemon.says("settings reloaded").await;
    world.source.execute("INSERT INTO users VALUES (1, 'Ann')").await;
    assert_eq!(said_while_polling(&world, &file, 1).await, "fired wal_guard syncdata_slot");
    world.set_archiver("wal_guard", "8GiB");
    daemon.signal(Signal::HUP);
    daemon.says("settings reloaded").await;
    assert_eq!(said_while_polling(&world, &file, 2).await, "resolved wal_guard syncdata_slot");

    // No key says which row it was.
    world.source.execute("UPDATE notes SET body = 'b'").await;
    assert_eq!(said_while_polling(&world, &file, 3).await, "fired gap *");
    world.archiver(["snapshot"]).succeed().await;
    assert_eq!(said_while_polling(&world, &file, 4).await, "resolved gap *");

    // What was read before the backup host went away, forty minutes later: more than three times data_sync_freq.
    world.backup.stop();
    world.source.execute("INSERT INTO users VALUES (2, 'Bob')").await;
    world.archiver(["run", "--once"]).run().await.expect_code(1);
    daemon.stop().await;
    let mut daemon = world.archiver(["run"]).clock("+40m").spawn();
    daemon.says("started").await;
    let lag = |messages: &[Value]| -> Vec<Value> {
        messages.iter().filter(|message| message["kind"] == "sync_lag").cloned().collect()
    };
    let mut count = 5;
    let fired = loop {
        let fired = lag(&said(&file, count).await);
        if let Some(fired) = fired.iter().find(|message| message["subject"] == "archive") {
            break fired.clone();
        }
        count += 1;
    };
    assert_eq!((in_short(&fired).as_str(), &fired["threshold"]), ("fired sync_lag archive", &"30".into()));
    assert!(fired["value"].as_str().and_then(|value| value.parse::<u64>().ok()) >= Some(39), "{fired}");
    daemon.stop().await;
    world.backup.restart();
    let mut daemon = world.archiver(["run"]).spawn();
    // Else a `run --once` could have its lock first.
    daemon.says("started").await;
    let deadline = Instant::now() + Duration::from_secs(120);
    loop {
        let ran = world.archiver(["run", "--once"]).run().await;
        let messages: Vec<Value> = fs::read_to_string(&file)
            .expect("it wrote")
            .lines()
            .map(|line| serde_json::from_str(line).expect("JSON"))
            .collect();
        if messages.iter().any(|message| message["id"] == fired["id"] && message["event"] == "resolved") {
            break;
        }
        assert!(Instant::now() < deadline, "{messages:?} {ran}\n{}", world.archiver(["status"]).run().await);
    }
    daemon.stop().await.expect_code(0);
}
