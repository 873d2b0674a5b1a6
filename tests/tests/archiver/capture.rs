//! The stream: what a transaction, an idle hour, and a message of somebody else leave in the archive.

use std::time::{Duration, Instant};

use rustix::process::Signal;
use syncdata_tests::world::{World, WorldOptions};

use crate::reader::{self, Segment};
use crate::scene::{self, Line, news, poll, shapes};

const USERS: &str = "CREATE TABLE users (id bigint PRIMARY KEY, name text)";

#[tokio::test]
async fn rows_arrive_as_the_lines_that_the_format_page_shows() {
    let world = scene::world(
        "CREATE SCHEMA sales; CREATE TABLE users (id bigint PRIMARY KEY, name text);
        CREATE TABLE sales.orders (id int PRIMARY KEY, total numeric)",
    )
    .await;
    world.source.execute("INSERT INTO users VALUES (1, 'John'), (2, E'a\"b\\\\c\\n')").await;
    world.source.execute("BEGIN; UPDATE users SET name = 'Jane' WHERE id = 1; INSERT INTO sales.orders VALUES (7, 1.10); DELETE FROM sales.orders; TRUNCATE users; COMMIT").await;
    let segments = poll(&world).await;
    assert_eq!(segments.len(), 1);
    assert_eq!(
        shapes(&segments),
        [
            r#"users INSERT {"id":1,"name":"John"}"#,
            r#"users INSERT {"id":2,"name":"a\"b\\c\n"}"#,
            "COMMIT 2",
            r#"users UPDATE {"id":1,"name":"Jane"} old {"id":1}"#,
            r#"sales.orders INSERT {"id":7,"total":1.10}"#,
            r#"sales.orders DELETE old {"id":7}"#,
            "users TRUNCATE",
            "COMMIT 4",
        ]
    );
    assert_eq!(segments[0].manifest["records"], 6);
    assert_eq!(segments[0].manifest["transactions"], 2);
}

#[tokio::test]
async fn interleaved_transactions_lie_in_the_order_of_their_commits() {
    let world = scene::world(USERS).await;
    let (first, second) = (world.source.connect().await, world.source.connect().await);
    let run = async |client: &tokio_postgres::Client, sql: &str| {
        client.batch_execute(sql).await.expect("runs");
    };
    run(&first, "BEGIN; INSERT INTO users VALUES (1, 'began first')").await;
    run(&second, "BEGIN; INSERT INTO users VALUES (2, 'began second')").await;
    run(&first, "INSERT INTO users VALUES (3, 'began first')").await;
    run(&second, "COMMIT").await;
    run(&first, "COMMIT").await;

    let segments = poll(&world).await;
    assert_eq!(
        shapes(&segments),
        [
            r#"users INSERT {"id":2,"name":"began second"}"#,
            "COMMIT 1",
            r#"users INSERT {"id":1,"name":"began first"}"#,
            r#"users INSERT {"id":3,"name":"began first"}"#,
            "COMMIT 2",
        ]
    );
    let lines: Vec<Line> = segments[0].lines.iter().map(|line| Line::parse(line)).collect();
    assert!(lsn(lines[2].word("lsn")) < lsn(lines[0].word("lsn")), "rows go by commit, not by place");
    assert!(lsn(lines[1].word("end_lsn")) < lsn(lines[4].word("end_lsn")));
    assert_eq!(segments[0].manifest["end_lsn"], lines[4].word("end_lsn"));
    assert!(
        lines[4].raw("xid").parse::<u32>().expect("a number")
            < lines[1].raw("xid").parse().expect("a number")
    );
}

#[tokio::test]
async fn an_idle_source_leaves_no_file_but_its_slot_and_the_head_go_on() {
    let world = scene::world(USERS).await;
    assert!(poll(&world).await.is_empty());
    let head = || reader::json(&world.archive_dir().join("head.json"));
    let first = head();
    assert_eq!((&first["seq"], &first["manifest"]), (&0.into(), &serde_json::Value::Null));
    // WAL of no captured table.
    world.source.execute("CREATE TABLE pg_temp.t AS SELECT 1; SELECT pg_switch_wal()").await;
    let position = slot(&world).await;
    assert!(poll(&world).await.is_empty());
    let second = head();
    assert!(slot(&world).await > position, "an idle slot must not keep WAL");
    let at = |head: &serde_json::Value, key: &str| head[key].as_str().expect("a string").to_owned();
    assert!(lsn(&at(&second, "covered_lsn")) > lsn(&at(&first, "covered_lsn")));
    assert!(at(&second, "covered_at") > at(&first, "covered_at"));
    assert!(slot(&world).await >= lsn(&at(&second, "covered_lsn")));
}

#[tokio::test]
async fn a_source_that_writes_nothing_at_all_is_fresh_as_of_now() {
    let world = scene::world(USERS).await;
    poll(&world).await;
    let head = || reader::json(&world.archive_dir().join("head.json"));
    let (first, asked) =
        (head(), world.source.value("SELECT to_json(now() AT TIME ZONE 'UTC')#>>'{}'").await);
    poll(&world).await;
    let second = head();
    let at = second["covered_at"].as_str().expect("a time");
    assert!(at > asked.as_str(), "{first} {second}: not older than the poll, asked at {asked}");
}

#[tokio::test]
async fn a_head_claims_nothing_that_was_not_read() {
    let world = scene::world(USERS).await;
    world.source.execute("INSERT INTO users VALUES (1, 'a')").await;
    let run = world.archiver(["run", "--once"]).fault("read.answer_complete=error").run();
    run.await.expect_code(2);
    assert!(world.archive_dir().join("archive.json").exists(), "the archive is founded");
    assert!(!world.archive_dir().join("head.json").exists(), "nobody knows how fresh it is");
    let status = world.archiver(["status", "--json"]).run().await.json();
    assert_eq!(status["spool"]["covered_at"], serde_json::Value::Null);
    poll(&world).await;
    assert!(world.archive_dir().join("head.json").exists());
}

#[tokio::test]
async fn a_commit_that_nobody_waited_for_is_there_when_it_was_there_for_readers() {
    let options = WorldOptions::default().source(|source| source.setting("wal_writer_delay", "300ms"));
    let world = scene::world_with(options, USERS).await;
    for id in 0..5 {
        let commit = format!("SET synchronous_commit = off; INSERT INTO users VALUES ({id}, 'a')");
        world.source.execute(&commit).await;
        assert_eq!(news(&world).await.len(), 2, "row {id}");
    }
}

#[tokio::test]
async fn messages_of_others_cannot_stop_the_archiver() {
    let world = scene::world(USERS).await;
    let messages = "SELECT pg_logical_emit_message(true, 'x', '\\xff00fe'::bytea);
        SELECT pg_logical_emit_message(false, 'x', '\\xff'::bytea);
        SELECT pg_logical_emit_message(true, 'syncdatabase', '\\xc3'::bytea);
        SELECT pg_logical_emit_message(true, '', '\\xff'::bytea);
        SELECT pg_logical_emit_message(true, 'large', repeat('x', 20000000));";
    world.source.execute(messages).await;
    world.source.execute("BEGIN; SELECT pg_logical_emit_message(true, 'x', '\\xff'::bytea); INSERT INTO users VALUES (1, 'a'); COMMIT").await;
    world.source.execute("BEGIN; SELECT pg_logical_emit_message(false, 'x', '\\xff'::bytea); INSERT INTO users VALUES (9, 'z'); ROLLBACK").await;
    assert_eq!(news(&world).await, [r#"users INSERT {"id":1,"name":"a"}"#, "COMMIT 1"]);
}

#[tokio::test]
async fn what_was_rolled_back_is_not_there_and_what_was_prepared_is_once() {
    let world = scene::world(USERS).await;
    for sql in [
        "BEGIN; INSERT INTO users VALUES (1, 'kept'); SAVEPOINT s; INSERT INTO users VALUES (2, 'gone'); ROLLBACK TO s; INSERT INTO users VALUES (3, 'kept'); COMMIT",
        "BEGIN; INSERT INTO users SELECT n, 'gone' FROM generate_series(100, 5000) n; ROLLBACK",
        "BEGIN; INSERT INTO users VALUES (4, 'prepared'); PREPARE TRANSACTION 'later'",
        "BEGIN; INSERT INTO users VALUES (5, 'gone'); PREPARE TRANSACTION 'never'",
    ] {
        world.source.execute(sql).await;
    }
    let kept = |id, name: &str| format!(r#"users INSERT {{"id":{id},"name":"{name}"}}"#);
    assert_eq!(news(&world).await, [kept(1, "kept"), kept(3, "kept"), "COMMIT 2".into()]);
    world.source.execute("COMMIT PREPARED 'later'").await;
    world.source.execute("ROLLBACK PREPARED 'never'").await;
    assert_eq!(news(&world).await, [kept(4, "prepared"), "COMMIT 1".into()]);
}

#[tokio::test]
async fn one_truncate_of_several_tables_is_neighbouring_lines_with_one_lsn() {
    let world = scene::world(
        "CREATE TABLE a (id int PRIMARY KEY); CREATE TABLE b (id int PRIMARY KEY REFERENCES a);
        CREATE TABLE c (id int PRIMARY KEY)",
    )
    .await;
    world
        .source
        .execute(
            "BEGIN; INSERT INTO c VALUES (1); TRUNCATE a, b; TRUNCATE c; INSERT INTO c VALUES (2); COMMIT",
        )
        .await;
    let segments = poll(&world).await;
    let mut shape = shapes(&segments);
    shape[1..3].sort();
    assert_eq!(
        shape,
        [
            r#"c INSERT {"id":1}"#,
            "a TRUNCATE",
            "b TRUNCATE",
            "c TRUNCATE",
            r#"c INSERT {"id":2}"#,
            "COMMIT 5"
        ]
    );
    let at = |line: usize| Line::parse(&segments[0].lines[line]).word("lsn").to_owned();
    assert_eq!(at(1), at(2));
    assert_ne!(at(2), at(3));
}

#[tokio::test]
async fn a_segment_ends_at_the_first_commit_past_its_limits() {
    let options = WorldOptions::default()
        .archiver_setting("segment_max_changes", 10)
        .archiver_setting("segment_max_bytes", "4KiB")
        .archiver_setting("poll_max_changes", 1000);
    let world = scene::world_with(options, USERS).await;
    for (from, to, name) in [(1, 4, "x"), (5, 8, "x"), (9, 30, "x"), (31, 33, "x"), (40, 40, "long")] {
        let sql = format!("INSERT INTO users SELECT n, '{name}' FROM generate_series({from}, {to}) n");
        world.source.execute(&sql).await;
    }
    world.source.execute("INSERT INTO users VALUES (50, repeat('y', 5000))").await;
    world.source.execute("INSERT INTO users VALUES (51, 'last')").await;
    let segments = poll(&world).await;
    let records: Vec<&serde_json::Value> = segments.iter().map(|s| &s.manifest["records"]).collect();
    assert_eq!(records, [30, 5, 1]);
    for pair in segments.windows(2) {
        assert_eq!(pair[0].manifest["end_lsn"], pair[1].manifest["start_lsn"]);
    }
    for segment in &segments {
        assert!(segment.lines.last().expect("it has lines").contains(r#""op":"COMMIT""#));
    }
}

#[tokio::test]
async fn the_role_s_own_settings_change_no_byte() {
    let world = scene::world(
        "CREATE TABLE t (id int PRIMARY KEY, b bytea, d timestamptz, i interval, f float8, m money);
        CREATE ROLE odd LOGIN REPLICATION;
        ALTER ROLE odd SET bytea_output = 'escape'; ALTER ROLE odd SET DateStyle = 'German, DMY';
        ALTER ROLE odd SET IntervalStyle = 'iso_8601'; ALTER ROLE odd SET TimeZone = 'Asia/Kolkata';
        ALTER ROLE odd SET extra_float_digits = -10; ALTER ROLE odd SET search_path = public;
        ALTER ROLE odd SET quote_all_identifiers = on; ALTER ROLE odd SET client_encoding = 'LATIN1'",
    )
    .await;
    world.source.execute("SELECT pg_create_logical_replication_slot('odd_slot', 'wal2json')").await;
    world
        .source
        .execute("INSERT INTO t SELECT n, decode('00ff5c41', 'hex'), '2026-02-03 04:05:06.789+02', '1 year -2 days 03:04:05.5', 1/3.0, 12.34 FROM generate_series(1, 5) n")
        .await;
    world.source.execute("UPDATE t SET b = '\\x7f' WHERE id = 1; DELETE FROM t WHERE id = 2").await;
    let segments = poll(&world).await;
    let archive = world.folder().join("odd-archive");
    let spool = world.folder().join("odd-spool");
    let odd = scene::settings(
        &world,
        "odd.toml",
        &[
            ("archive_host", ""),
            ("archive_port", ""),
            ("archive_user", ""),
            ("archive_identity_file", ""),
            ("archive_known_hosts", ""),
            ("archive_dir", archive.to_str().expect("a plain path")),
            ("spool_dir", spool.to_str().expect("a plain path")),
            ("pg_user", "odd"),
            ("slot_name", "odd_slot"),
        ],
    );
    std::fs::create_dir_all(&archive).expect("the world's folder is writable");
    world.archiver(["run", "--once", "--config", odd.to_str().expect("a plain path")]).succeed().await;
    let others = reader::segments(&archive);
    let contents = |segments: &[Segment]| segments.iter().flat_map(|s| s.lines.clone()).collect::<Vec<_>>();
    assert_eq!(contents(&segments), contents(&others));
    assert_eq!(segments[0].manifest["content_sha256"], others[0].manifest["content_sha256"]);
    assert_eq!(segments[0].manifest["sha256"], others[0].manifest["sha256"]);
    assert_eq!(segments[0].manifest["source"]["settings"], others[0].manifest["source"]["settings"]);
}

#[tokio::test]
async fn a_poll_takes_one_connection_and_locks_no_user_table() {
    let world = scene::world(USERS).await;
    world
        .source
        .execute("INSERT INTO users SELECT n, repeat('x', 300) FROM generate_series(1, 100000) n")
        .await;
    let archiver = world.archiver(["run", "--once"]).spawn();
    let sessions =
        "SELECT count(*), min(state), min(query) FROM pg_stat_activity WHERE usename = 'syncdata_user'";
    // In the middle of its big answer it is made to stand still.
    let deadline = Instant::now() + Duration::from_secs(60);
    loop {
        let rows = world.source.query(sessions).await;
        let query = rows[0][2].clone().unwrap_or_default();
        if rows[0][1].as_deref() == Some("active") && query.contains("pg_logical_slot_peek_changes") {
            break;
        }
        assert!(Instant::now() < deadline, "no peek was seen\n{}", archiver.stderr());
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    archiver.signal(Signal::STOP);
    let rows = world.source.query(sessions).await;
    let locks = "SELECT l.locktype, l.mode, coalesce(c.relname, '') FROM pg_locks l
        JOIN pg_stat_activity a ON a.pid = l.pid LEFT JOIN pg_class c ON c.oid = l.relation
        WHERE a.usename = 'syncdata_user' AND l.locktype <> 'virtualxid'
          AND (l.locktype <> 'relation' OR c.oid >= 16384 OR l.mode <> 'AccessShareLock')";
    let held = world.source.query(locks).await;
    archiver.signal(Signal::CONT);
    archiver.ended().await.expect_code(0);
    assert_eq!(rows[0][0].as_deref(), Some("1"), "one connection");
    let advisory = held.iter().map(|row| row[0].clone().unwrap_or_default());
    assert_eq!(advisory.collect::<Vec<_>>(), ["advisory"], "{held:?}");
}

#[tokio::test]
async fn the_archiver_s_session_can_write_nothing() {
    let options = WorldOptions::default().source(|source| source.setting("log_statement", "all"));
    let world = scene::world_with(options, USERS).await;
    world.source.execute("INSERT INTO users VALUES (1, 'a')").await;
    poll(&world).await;
    let log = world.source.log();
    let of_archiver = || log.lines().filter(|line| line.contains("syncdata_user@app"));
    assert!(of_archiver().count() > 5, "the log shows its statements\n{log}");
    assert!(of_archiver().any(|line| line.contains("default_transaction_read_only")), "{log}");
    for word in ["INSERT", "UPDATE", "DELETE", "CREATE", "LOCK TABLE", "READ WRITE", " users"] {
        assert!(!of_archiver().any(|line| line.contains(word)), "{word} in\n{log}");
    }
}

async fn slot(world: &World) -> u64 {
    let sql = "SELECT confirmed_flush_lsn FROM pg_replication_slots WHERE slot_name = 'syncdata_slot'";
    lsn(&world.source.value(sql).await)
}

fn lsn(text: &str) -> u64 {
    text.parse::<syncdata_formats::lsn::Lsn>().expect("an LSN").as_u64()
}
