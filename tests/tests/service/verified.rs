//! That somebody has verified the archive by hand is remembered, with what was found.

use std::fs;

use serde_json::{Value, json};
use syncdata_tests::program::Program;
use syncdata_tests::world::{World, WorldOptions};

const SLOT: &str = "SELECT pg_create_logical_replication_slot('syncdata_slot', 'wal2json')";

async fn remembered(status: Program) -> (Value, String) {
    let run = status.run().await;
    let problems = run.json()["last_verify"]["problems"].clone();
    (problems, run.json()["last_verify"]["at"].as_str().unwrap_or_default().to_owned())
}

async fn both(world: &World) -> [(Value, String); 2] {
    [
        remembered(world.archiver(["status", "--json"])).await,
        remembered(world.applier(["status", "--json"])).await,
    ]
}

#[tokio::test]
async fn the_newest_verification_of_the_whole_archive_is_told_by_status_with_and_without_a_daemon() {
    let world = WorldOptions::default().without_sftp().start().await;
    world.execute_on_both("CREATE TABLE users (id int PRIMARY KEY)").await;
    world.source.execute(SLOT).await;
    world.source.execute("INSERT INTO users VALUES (1)").await;
    world.archiver(["run", "--once"]).succeed().await;
    // Before anything of ours is there, verify leaves nothing there.
    world.applier(["verify"]).succeed().await;
    assert_eq!(world.target.value("SELECT to_regclass('data_sync_checkpoint') IS NULL").await, "t");
    world.applier(["add-tables", "users"]).succeed().await;
    world.applier(["sync"]).succeed().await;
    for (problems, at) in both(&world).await {
        assert_eq!((problems, at.as_str()), (Value::Null, ""));
    }

    // A look at a part, or at sizes, is none at everything.
    for arguments in [&["verify", "--quick"][..], &["verify", "--from", "1"]] {
        world.archiver(arguments).succeed().await;
        world.applier(arguments).succeed().await;
    }
    assert_eq!(both(&world).await[0].0, Value::Null);
    assert_eq!(both(&world).await[1].0, Value::Null);

    world.archiver(["verify"]).succeed().await;
    world.applier(["verify"]).succeed().await;
    let first = both(&world).await;
    for (problems, at) in &first {
        assert_eq!(problems, &json!(0));
        assert!(at.ends_with('Z'), "{at}");
    }
    for text in [world.archiver(["status"]).run().await, world.applier(["status"]).run().await] {
        assert!(
            text.stdout.lines().any(|line| line.starts_with("last verify: 20") && line.ends_with("Z, sound")),
            "{text}"
        );
    }

    // A daemon that runs tells of what comes later.
    let mut archiver = world.archiver(["run"]).spawn();
    archiver.says("started").await;
    let mut applier = world.applier(["start"]).spawn();
    applier.says("pass done").await;
    let day = fs::read_dir(world.archive_dir().join("segments"))
        .expect("a folder")
        .next()
        .expect("a day")
        .expect("an entry");
    let mut files = fs::read_dir(day.path()).expect("a folder").map(|entry| entry.expect("an entry").path());
    let changes =
        files.find(|path| path.extension().is_some_and(|ending| ending == "zst")).expect("a file of changes");
    let mut bytes = fs::read(&changes).expect("ours");
    let last = bytes.len() - 1;
    bytes[last] ^= 1;
    fs::write(&changes, bytes).expect("ours");
    world.archiver(["verify"]).run().await.expect_code(1);
    world.applier(["verify"]).run().await.expect_code(1);
    for ((problems, at), (_, before)) in both(&world).await.iter().zip(&first) {
        assert_eq!(problems, &json!(1));
        assert!(at > before, "{at} {before}");
    }
    let told = world.archiver(["status"]).run().await;
    assert!(told.stdout.contains("Z, 1 problem\n"), "{told}");
    archiver.stop().await;
    applier.stop().await;
}
