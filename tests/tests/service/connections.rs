//! Connections to real servers: passwords, sockets, pinned settings, notices, and what an error means.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::Duration;

use syncdata_formats::{Error, Kind, Result};
use syncdata_service::config::Secret;
use syncdata_service::postgres::{
    PinnedSettings, PostgresSettings, Session, SslFiles, SslMode, db_error, failure, sqlstate,
};
use syncdata_tests::{PostgresOptions, PostgresServer};
use tempfile::TempDir;

const CANARY: &str = "canary-51c0";

/// Events of a connection come at once; a machine under load gets this long.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

/// The superuser over TCP, with nothing in its home folder.
pub(crate) fn settings(server: &PostgresServer, home: &Path) -> PostgresSettings {
    PostgresSettings {
        host: server.host().into(),
        port: server.port(),
        user: server.user().into(),
        password: None,
        database: server.database().into(),
        ssl_mode: SslMode::Disable,
        ssl_files: SslFiles::default(),
        home: home.into(),
        password_file: home.join(".pgpass"),
    }
}

pub(crate) async fn open(settings: &PostgresSettings) -> Result<Session> {
    Session::open(settings, "syncdata-tests", &PinnedSettings::new()).await
}

pub(crate) async fn text(session: &Session, sql: &str) -> String {
    session.client().query_one(sql, &[]).await.unwrap_or_else(|error| panic!("{sql}: {error:?}")).get(0)
}

pub(crate) fn home() -> TempDir {
    tempfile::tempdir().expect("a temporary folder")
}

pub(crate) fn chmod(path: &Path, mode: u32) {
    fs::set_permissions(path, Permissions::from_mode(mode)).expect("our own file");
}

#[tokio::test]
async fn a_connection_that_does_not_come_about_says_the_cause_first() {
    let options = PostgresOptions::default().hba("host all all 127.0.0.1/32 scram-sha-256");
    let server = PostgresServer::start_with(options).await;
    server.execute("CREATE ROLE ours LOGIN PASSWORD 'right'").await;
    let home = home();
    let ours = || PostgresSettings {
        user: "ours".into(),
        password: Some(Secret::new("right")),
        ssl_mode: SslMode::Prefer,
        ..settings(&server, home.path())
    };
    open(&ours()).await.expect("all is right");
    let wrong_password = PostgresSettings { password: Some(Secret::new("wrong")), ..ours() };
    let no_password = PostgresSettings { password: None, ..ours() };
    let wrong_database = PostgresSettings { database: "nowhere".into(), ..ours() };
    let wrong_port = PostgresSettings { port: 1, ..ours() };
    for (settings, cause, hint) in [
        (
            wrong_password,
            "password authentication failed for user \"ours\" (SQLSTATE 28P01): connecting",
            "pg_password",
        ),
        (no_password, "invalid configuration: password missing: connecting", "pg_password_file"),
        (
            wrong_database,
            "database \"nowhere\" does not exist (SQLSTATE 3D000): connecting",
            "pg_database (nowhere)",
        ),
        (
            wrong_port,
            "error connecting to server: Connection refused (os error 111): connecting",
            "pg_port (1)",
        ),
    ] {
        let error = open(&settings).await.expect_err("wrong");
        assert!(error.one_line().starts_with(cause), "{error:?}");
        assert!(error.one_line().contains(&settings.location()), "{error:?}");
        assert!(error.hint_text().is_some_and(|text| text.contains(hint)), "{error:?}");
    }
}

#[tokio::test]
async fn passwords_come_from_the_settings_or_the_password_file() {
    let options = PostgresOptions::default().hba("host all all 127.0.0.1/32 scram-sha-256");
    let server = PostgresServer::start_with(options).await;
    server.execute(&format!("CREATE ROLE reader LOGIN PASSWORD '{CANARY}:\\x'")).await;
    let home = home();
    let ours = PostgresSettings { user: "reader".into(), ..settings(&server, home.path()) };
    let with = |text: &str| PostgresSettings { password: Some(Secret::new(text)), ..ours.clone() };
    open(&with(&format!("{CANARY}:\\x"))).await.expect("the right one");

    let wrong = open(&with(&format!("{CANARY}-wrong"))).await.expect_err("the wrong one");
    assert_eq!((wrong.kind(), sqlstate(&wrong).map(|code| code.code())), (Kind::Refused, Some("28P01")));
    assert!(!format!("{wrong:?} {}", wrong.one_line()).contains(CANARY), "{wrong:?}");
    let none = open(&ours).await.expect_err("no password at all");
    assert_eq!(none.kind(), Kind::Refused, "{none:?}");

    fs::write(&ours.password_file, format!("# ours\n127.0.0.1:*:*:reader:{CANARY}\\:\\\\x\n"))
        .expect("writable");
    chmod(&ours.password_file, 0o644);
    assert!(open(&ours).await.is_err(), "others may read it, so it does not count");
    chmod(&ours.password_file, 0o600);
    open(&ours).await.expect("found in the password file");
}

#[tokio::test]
async fn a_socket_needs_neither_network_nor_tls() {
    let server = PostgresServer::start().await;
    let (folder, host) = (home(), server.socket_folder().to_str().expect("UTF-8").to_owned());
    let ours = settings(&server, folder.path());
    let session =
        open(&PostgresSettings { host, ssl_mode: SslMode::VerifyFull, ..ours }).await.expect("it is open");
    assert_eq!(text(&session, "SELECT current_user::text").await, "postgres");
    assert_eq!(text(&session, "SELECT current_setting('application_name')").await, "syncdata-tests");
    assert_eq!(session.version().num.to_string(), text(&session, "SHOW server_version_num").await);
    assert_eq!(session.version().major(), server.installation().major());
}

/// A role whose defaults change all that they can.
async fn odd_role(server: &PostgresServer) {
    for setting in [
        "bytea_output = escape",
        "DateStyle = 'German'",
        "IntervalStyle = iso_8601",
        "TimeZone = 'Asia/Kolkata'",
        "extra_float_digits = 0",
        "search_path = odd",
        "quote_all_identifiers = on",
        "client_min_messages = error",
        "client_encoding = latin1",
        "xmloption = document",
        "standard_conforming_strings = off",
        "statement_timeout = '200ms'",
        "lock_timeout = '200ms'",
        "idle_in_transaction_session_timeout = '200ms'",
        "default_transaction_read_only = on",
    ] {
        server.execute(&format!("ALTER ROLE odd SET {setting}")).await;
    }
}

const VALUES: &str = "SELECT concat_ws(' ', '\\xdead'::bytea, timestamptz '2026-02-05 10:30:00.5+00', \
    interval '1 day 2 hours', 0.1::float8 + 0.2::float8, 'pg_class'::regclass, 'public.t'::regclass, 1234.5::money)";
const PRINTED: &str =
    "\\xdead 2026-02-05 10:30:00.5+00 1 day 02:00:00 0.30000000000000004 pg_class public.t $1,234.50";

#[tokio::test]
async fn values_are_printed_alike_whatever_the_role_s_defaults() {
    let server = PostgresServer::start().await;
    server.execute("CREATE ROLE odd LOGIN; CREATE SCHEMA odd; CREATE TABLE t (id int)").await;
    odd_role(&server).await;
    // What stands before pg_catalog in its search_path is found before it.
    for name in ["text", "int4", "bool"] {
        server.execute(&format!("CREATE TYPE odd.{name} AS (x pg_catalog.int8)")).await;
    }
    server
        .execute(
            "CREATE FUNCTION odd.differs(pg_catalog.text, pg_catalog.text) RETURNS pg_catalog.bool LANGUAGE sql \
             AS 'SELECT false'; CREATE OPERATOR odd.<> (LEFTARG = pg_catalog.text, RIGHTARG = pg_catalog.text, \
             FUNCTION = odd.differs); GRANT USAGE ON SCHEMA odd TO odd; \
             ALTER ROLE odd SET search_path = odd, pg_catalog",
        )
        .await;
    let home = home();
    let ours = PostgresSettings { user: "odd".into(), ..settings(&server, home.path()) };
    let pinned =
        PinnedSettings::new().with("default_transaction_read_only", "off").with("lock_timeout", "5s");
    let session = Session::open(&ours, "syncdata-tests", &pinned).await.expect("it opens");
    assert_eq!(text(&session, VALUES).await, PRINTED);
    for (name, value) in [
        ("statement_timeout", "0"),
        ("lock_timeout", "5s"),
        ("idle_in_transaction_session_timeout", "0"),
        ("default_transaction_read_only", "off"),
        ("standard_conforming_strings", "on"),
        ("xmloption", "content"),
    ] {
        assert_eq!(text(&session, &format!("SHOW {name}")).await, value, "{name}");
    }
    session.client().batch_execute("SELECT pg_sleep(0.3)").await.expect("long work is not the role's to end");
    let echo = pinned.read_back(session.client()).await.expect("all is pinned");
    assert_eq!(echo.get("DateStyle").map(String::as_str), Some("ISO, MDY"));
    assert_eq!(echo.get("bytea_output").map(String::as_str), Some("hex"));
    assert!(!echo.contains_key("lock_timeout"), "only what decides about text is echoed: {echo:?}");
}

#[tokio::test]
async fn what_a_pooler_resets_is_noticed_and_pinned_again_in_the_transaction() {
    let server = PostgresServer::start().await;
    server.execute("CREATE TABLE t (id int)").await;
    let home = home();
    let mut session = open(&settings(&server, home.path())).await.expect("it opens");
    let pinned = PinnedSettings::new();
    // What DISCARD ALL of a pooler does, with a server default that differs.
    let reset = "SET DateStyle = 'German'; SET bytea_output = 'escape'; SET TimeZone = 'Asia/Kolkata'";
    session.client().batch_execute(reset).await.expect("anybody may");
    let noticed = pinned.read_back(session.client()).await.expect_err("they differ");
    assert!(noticed.report().contains("pooler"), "{noticed:?}");

    let transaction = session.client_mut().transaction().await.expect("it begins");
    pinned.apply_to_transaction(&transaction).await.expect("they are set");
    pinned.read_back(&transaction).await.expect("they hold");
    let printed: String = transaction.query_one(VALUES, &[]).await.expect("it prints").get(0);
    assert_eq!(printed, PRINTED);
    transaction.commit().await.expect("it commits");
    assert_eq!(
        text(&session, "SHOW bytea_output").await,
        "escape",
        "the rest of the session is the pooler's"
    );
}

#[tokio::test]
async fn notices_are_there_when_the_answer_is() {
    let server = PostgresServer::start().await;
    let home = home();
    let session = open(&settings(&server, home.path())).await.expect("it opens");
    assert_eq!(session.take_notices().notices, []);
    let talk = "DO $$ BEGIN RAISE NOTICE 'chatter'; RAISE WARNING 'no tuple identifier for UPDATE in table \"public\".\"t\"'; \
        RAISE WARNING 'second' USING ERRCODE = '01004'; END $$";
    session.client().batch_execute(talk).await.expect("it talks");
    let said = session.take_notices();
    let said: Vec<(&str, &str, &str)> = said
        .notices
        .iter()
        .map(|notice| (notice.severity.as_str(), notice.sqlstate.code(), notice.message.as_str()))
        .collect();
    let warning = "no tuple identifier for UPDATE in table \"public\".\"t\"";
    assert_eq!(said, [("WARNING", "01000", warning), ("WARNING", "01004", "second")]);
    assert_eq!(session.take_notices().notices, [], "taken is taken");
}

pub(crate) async fn failed(session: &Session, sql: &str) -> Error {
    let error = session.client().batch_execute(sql).await.expect_err(sql);
    failure(format!("running {sql}"), error)
}

#[tokio::test]
async fn errors_say_what_can_be_done() {
    let server = PostgresServer::start().await;
    server
        .execute(
            "CREATE TABLE t (id int PRIMARY KEY); INSERT INTO t VALUES (51077); CREATE ROLE nobody LOGIN",
        )
        .await;
    let home = home();
    let ours = settings(&server, home.path());
    let session = open(&ours).await.expect("it opens");
    for (sql, code, kind) in [
        ("SELECT * FROM missing", "42P01", Kind::NotFound),
        ("SET ROLE nobody; SELECT * FROM public.t", "42501", Kind::Refused),
        ("RESET ROLE; SELECT 1/0", "22012", Kind::BadInput),
    ] {
        let error = failed(&session, sql).await;
        assert_eq!((sqlstate(&error).map(|code| code.code()), error.kind()), (Some(code), kind), "{error:?}");
    }
    let duplicate = session.client().batch_execute("INSERT INTO public.t VALUES (51077)").await;
    let duplicate = failure("inserting a row", duplicate.expect_err("it is there")).context("one level up");
    assert_eq!(db_error(&duplicate).and_then(|error| error.constraint()), Some("t_pkey"));
    assert!(duplicate.one_line().contains("t_pkey"), "{duplicate:?}");
    assert!(!duplicate.one_line().contains("51077"), "rows are not for logs: {duplicate:?}");

    let holder = open(&ours).await.expect("it opens");
    holder.client().batch_execute("BEGIN; LOCK TABLE public.t").await.expect("it is free");
    let locked = failed(&session, "BEGIN; LOCK TABLE public.t NOWAIT").await;
    assert_eq!(locked.kind(), Kind::Locked, "{locked:?}");

    let nowhere = PostgresSettings { database: "nowhere".into(), ..ours.clone() };
    let nowhere = open(&nowhere).await.expect_err("no such database");
    assert_eq!(nowhere.kind(), Kind::NotFound, "{nowhere:?}");
    assert!(nowhere.report().contains("/nowhere"), "{nowhere:?}");
}

#[tokio::test]
async fn a_lost_connection_is_noticed_and_worth_another_try() {
    let mut server = PostgresServer::start().await;
    let home = home();
    let ours = settings(&server, home.path());
    let session = open(&ours).await.expect("it opens");
    assert!(!session.is_closed());
    let pid = text(&session, "SELECT pg_backend_pid()::text").await;
    server.execute(&format!("SELECT pg_terminate_backend({pid})")).await;
    tokio::time::timeout(PATIENCE, session.closed()).await.expect("the end is noticed");
    let lost = failed(&session, "SELECT 1").await;
    assert_eq!(lost.kind(), Kind::Unreachable, "{lost:?}");

    server.stop(syncdata_tests::StopMode::Fast);
    let down = open(&ours).await.expect_err("it is down");
    assert_eq!(down.kind(), Kind::Unreachable, "{down:?}");
    let socket = server.socket_folder().to_str().expect("UTF-8").to_owned();
    let down = open(&PostgresSettings { host: socket, ..ours }).await.expect_err("it is down");
    assert_eq!(down.kind(), Kind::Unreachable, "{down:?}");
}

/// Accepts and says nothing, as a server does whose host is frozen. The clock runs ahead while all wait.
#[tokio::test(start_paused = true)]
async fn a_silent_server_does_not_hold_us() {
    let server = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("loopback has free ports");
    let home = home();
    let ours = PostgresSettings {
        host: "127.0.0.1".into(),
        port: server.local_addr().expect("it is bound").port(),
        user: "nobody".into(),
        password: None,
        database: "none".into(),
        ssl_mode: SslMode::Prefer,
        ssl_files: SslFiles::default(),
        home: home.path().into(),
        password_file: home.path().join(".pgpass"),
    };
    let silent = open(&ours).await.expect_err("it says nothing");
    assert_eq!(silent.kind(), Kind::Unreachable, "{silent:?}");
}
