//! What is noted, of every way in which a row can be touched.

use crate::script::{OWNER, install, noted, server, succeeded};

#[tokio::test]
async fn every_touch_of_a_row_is_noted_with_its_key() {
    let server = server("CREATE TABLE users (id int PRIMARY KEY, name text)").await;
    succeeded(&install(&server, "public.users"));
    for (statement, notes) in [
        ("INSERT INTO users VALUES (1, 'a'), (2, 'b')", &["users I {1}", "users I {2}"][..]),
        ("UPDATE users SET name = 'c' WHERE id = 1", &["users U {1}"]),
        ("UPDATE users SET id = 7 WHERE id = 2", &["users D {2}", "users I {7}"]),
        ("INSERT INTO users VALUES (1, 'd') ON CONFLICT (id) DO UPDATE SET name = 'e'", &["users U {1}"]),
        ("DELETE FROM users WHERE id = 7", &["users D {7}"]),
        (
            "BEGIN; SAVEPOINT s; INSERT INTO users VALUES (3); ROLLBACK TO s; INSERT INTO users VALUES (4); COMMIT",
            &["users I {4}"],
        ),
        ("BEGIN; INSERT INTO users VALUES (5); ROLLBACK", &[]),
        ("SET session_replication_role = replica; INSERT INTO users VALUES (6)", &["users I {6}"]),
        ("TRUNCATE users", &["users T"]),
    ] {
        server.execute(statement).await;
        assert_eq!(noted(&server).await, notes, "{statement}");
    }
}

#[tokio::test]
async fn a_transaction_has_one_number_whatever_its_savepoints() {
    let server = server("CREATE TABLE t (id int PRIMARY KEY)").await;
    succeeded(&install(&server, "public.t"));
    server
        .execute("BEGIN; INSERT INTO t VALUES (1); SAVEPOINT s; INSERT INTO t VALUES (2); RELEASE s; COMMIT")
        .await;
    assert_eq!(server.value("SELECT count(DISTINCT xid) FROM syncdata.changes").await, "1");
    server.execute("INSERT INTO t VALUES (3)").await;
    assert_eq!(server.value("SELECT count(DISTINCT xid) FROM syncdata.changes").await, "2");
}

#[tokio::test]
async fn a_key_reads_the_same_whoever_writes() {
    let schema = "CREATE TABLE t (at timestamptz, c char(3), b bytea, f float8, PRIMARY KEY (at, c, b, f));
        CREATE DOMAIN number AS int; CREATE TYPE mood AS ENUM ('so', 'la la');
        CREATE TABLE \"Odd ta%ble\" (\"Ne\"\"w\" number, mood mood, \"k;1\" text, PRIMARY KEY (mood, \"Ne\"\"w\", \"k;1\"))";
    let server = server(schema).await;
    succeeded(&install(&server, "public.t, public.\"Odd ta%ble\""));
    let settings = "SET DateStyle = 'German'; SET TimeZone = 'Europe/Berlin'; SET bytea_output = 'escape';
        SET extra_float_digits = -5; SET search_path = public";
    let row =
        "INSERT INTO t VALUES ('01.02.2026 03:04:05.678 CET', 'a', '\\x00ff', float8 '0.1' + float8 '0.2')";
    server.execute(&format!("{settings}; {row}")).await;
    let key = r#"t I {"2026-02-01 02:04:05.678+00","a  ","\\x00ff",0.30000000000000004}"#;
    assert_eq!(noted(&server).await, [key]);
    server.execute("INSERT INTO \"Odd ta%ble\" VALUES (7, 'la la', 'x,\"y')").await;
    assert_eq!(noted(&server).await, [r#""Odd ta%ble" I {"la la",7,"x,\"y"}"#]);
}

#[tokio::test]
async fn new_partitions_are_noted_as_their_root_and_truncated_ones_by_themselves() {
    let schema = "CREATE TABLE p (a int, b int, PRIMARY KEY (a, b)) PARTITION BY RANGE (a);
        CREATE TABLE p1 PARTITION OF p FOR VALUES FROM (0) TO (10)";
    let server = server(schema).await;
    succeeded(&install(&server, "public.p"));
    server.execute("CREATE TABLE p2 PARTITION OF p FOR VALUES FROM (10) TO (20)").await;
    server.execute("INSERT INTO p VALUES (1, 1); UPDATE p SET a = 11; INSERT INTO p2 VALUES (12, 1)").await;
    assert_eq!(noted(&server).await, ["p I {1,1}", "p D {1,1}", "p I {11,1}", "p I {12,1}"]);
    server.execute("SET session_replication_role = replica; INSERT INTO p2 VALUES (13, 1)").await;
    assert_eq!(noted(&server).await, ["p I {13,1}"], "ENABLE ALWAYS reaches new partitions");
    server.execute("TRUNCATE p1; TRUNCATE p").await;
    assert_eq!(noted(&server).await, ["p1 T", "p T", "p1 T"]);
}

#[tokio::test]
async fn whoever_writes_needs_no_right_on_what_is_noted() {
    let server =
        server("CREATE TABLE t (id int PRIMARY KEY); CREATE ROLE clerk LOGIN; GRANT ALL ON t TO clerk").await;
    succeeded(&install(&server, "public.t"));
    server.execute("SET SESSION AUTHORIZATION clerk; INSERT INTO t VALUES (1); TRUNCATE t").await;
    assert_eq!(noted(&server).await, ["t I {1}", "t T"]);
    let owners =
        "SELECT DISTINCT proowner::regrole FROM pg_proc WHERE pronamespace = 'syncdata'::regnamespace";
    assert_eq!(server.value(owners).await, OWNER);
}

#[tokio::test]
async fn a_key_whose_column_got_another_name_stops_no_statement() {
    let server = server("CREATE TABLE t (id int PRIMARY KEY)").await;
    succeeded(&install(&server, "public.t"));
    server.execute("ALTER TABLE t RENAME id TO number; INSERT INTO t VALUES (1); DELETE FROM t").await;
    assert_eq!(noted(&server).await, ["t ?", "t ?"]);
    succeeded(&install(&server, "public.t"));
    server.execute("INSERT INTO t VALUES (2)").await;
    assert_eq!(noted(&server).await, ["t I {2}"]);
    server
        .execute("ALTER TABLE t DROP number CASCADE; ALTER TABLE t ADD other int; INSERT INTO t VALUES (1)")
        .await;
    assert_eq!(noted(&server).await, ["t ?"]);
}
