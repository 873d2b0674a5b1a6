//! The walk-through of the earlier replicator, which polled a table of changes every five seconds: with its API on one port.

use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::time::{Duration, Instant};

use serde_json::Value;
use syncdata_tests::program::Daemon;
use syncdata_tests::world::{Plugin, World, WorldOptions};

const PATIENCE: Duration = Duration::from_secs(100);

fn get(port: u16, resource: &str) -> String {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).expect("somebody listens");
    write!(stream, "GET {resource} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n").expect("sent");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("an answer");
    answer
}

async fn until(world: &World, rows: &str, daemons: &[&Daemon]) {
    let deadline = Instant::now() + PATIENCE;
    let sql = "SELECT coalesce(string_agg(name || ' ' || email, ', ' ORDER BY user_id), '') FROM users";
    loop {
        let now = world.target.value(sql).await;
        if now == rows {
            return;
        }
        let said: Vec<String> = daemons.iter().map(|daemon| daemon.stderr()).collect();
        assert!(Instant::now() < deadline, "{rows:?} does not come, there is {now:?}\n{}", said.join("\n"));
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

#[tokio::test]
async fn the_walk_through_of_the_earlier_replicator() {
    let port =
        TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr()).expect("free").port();
    let options = WorldOptions::default()
        .without_sftp()
        .plugin(Plugin::Triggers)
        .archiver_setting("data_sync_freq", 5)
        .applier_setting("data_sync_freq", 5)
        .applier_setting("http_listen", format!("127.0.0.1:{port}"));
    let world = options.start().await;
    world
        .execute_on_both(
            "CREATE TABLE users (user_id serial PRIMARY KEY, name text NOT NULL, email text UNIQUE NOT NULL,
             created_at timestamptz DEFAULT now(), updated_at timestamptz DEFAULT now())",
        )
        .await;
    world.run_as_told(["setup", "--create-triggers"]).await;
    world.archiver(["check"]).run().await.expect_code(0);
    world
        .source
        .execute(
            "INSERT INTO users (name, email) VALUES ('Alice Johnson', 'alice@example.com'), ('Bob Smith', 'bob@example.com'),
             ('Charlie Brown', 'charlie@example.com')",
        )
        .await;
    let noted = "SELECT string_agg(concat(op, key[1]), ' ' ORDER BY change_id) FROM syncdata.changes";
    assert_eq!(world.source.value(noted).await, "I1 I2 I3");

    world.archiver(["run", "--once"]).succeed().await;
    world.applier(["add-tables", "users", "--from", "start"]).succeed().await;
    let (archiver, applier) = (world.archiver(["run"]).spawn(), world.applier(["start"]).spawn());
    let daemons = [&archiver, &applier];
    let all = "Alice Johnson alice@example.com, Bob Smith bob@example.com, Charlie Brown charlie@example.com";
    until(&world, all, &daemons).await;
    world
        .source
        .execute(
            "UPDATE users SET email = 'alice.j@example.com' WHERE name = 'Alice Johnson'; DELETE FROM users WHERE name = 'Charlie Brown'",
        )
        .await;
    until(&world, "Alice Johnson alice.j@example.com, Bob Smith bob@example.com", &daemons).await;

    assert!(get(port, "/health").starts_with("HTTP/1.1 200"));
    let answer = get(port, "/status");
    let (_, body) = answer.split_once("\r\n\r\n").expect("a body");
    let status: Value = serde_json::from_str(body).unwrap_or_else(|error| panic!("{error}: {answer}"));
    for key in ["last_lsn", "last_sync_time", "records_replicated", "error_count", "is_running"] {
        assert!(status.get(key).is_some(), "{key}: {status}");
    }
    assert_eq!(
        (&status["error_count"], &status["is_running"]),
        (&Value::from(0), &Value::from(true)),
        "{status}"
    );
    let words = world.archiver(["status"]).run().await.expect_code(0);
    assert!(words.stdout.contains("noting for syncdata_slot"), "{words}");
    for daemon in [archiver, applier] {
        daemon.stop().await.expect_code(0);
    }
    world.run_as_told(["drop-slot"]).await;
    assert_eq!(world.source.value("SELECT count(*) FROM pg_namespace WHERE nspname = 'syncdata'").await, "0");
}
