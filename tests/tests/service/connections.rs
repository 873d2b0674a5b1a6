//! Connections to real servers: TLS in every mode, passwords, sockets, pinned settings, notices, and what an
//! error means.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
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
const PATIENCE: Duration = Duration::from_secs(30);

/// The superuser over TCP, with nothing in its home folder.
fn settings(server: &PostgresServer, home: &Path) -> PostgresSettings {
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

async fn open(settings: &PostgresSettings) -> Result<Session> {
    Session::open(settings, "syncdata-tests", &PinnedSettings::new()).await
}

async fn text(session: &Session, sql: &str) -> String {
    session.client().query_one(sql, &[]).await.unwrap_or_else(|error| panic!("{sql}: {error:?}")).get(0)
}

fn home() -> TempDir {
    tempfile::tempdir().expect("a temporary folder")
}

fn chmod(path: &Path, mode: u32) {
    fs::set_permissions(path, Permissions::from_mode(mode)).expect("our own file");
}

/// An authority of this test, and what it signed.
pub(crate) struct Authority {
    folder: TempDir,
}

impl Authority {
    pub(crate) fn new() -> Authority {
        let authority = Authority { folder: home() };
        authority.openssl(&[
            "req",
            "-x509",
            "-newkey",
            "ec",
            "-pkeyopt",
            "ec_paramgen_curve:prime256v1",
            "-nodes",
            "-days",
            "2",
            "-subj",
            "/CN=authority",
            "-keyout",
            "ca.key",
            "-out",
            "ca.crt",
        ]);
        authority
    }

    pub(crate) fn certificate(&self) -> PathBuf {
        self.folder.path().join("ca.crt")
    }

    /// A certificate and its key.
    pub(crate) fn sign(&self, name: &str, alternative_names: &str) -> (PathBuf, PathBuf) {
        fs::write(self.folder.path().join("ext"), format!("subjectAltName={alternative_names}"))
            .expect("writable");
        self.openssl(&[
            "req",
            "-newkey",
            "ec",
            "-pkeyopt",
            "ec_paramgen_curve:prime256v1",
            "-nodes",
            "-subj",
            &format!("/CN={name}"),
            "-keyout",
            "one.key",
            "-out",
            "one.csr",
        ]);
        self.openssl(&[
            "x509",
            "-req",
            "-in",
            "one.csr",
            "-CA",
            "ca.crt",
            "-CAkey",
            "ca.key",
            "-CAcreateserial",
            "-days",
            "2",
            "-extfile",
            "ext",
            "-out",
            "one.crt",
        ]);
        let (certificate, key) = (self.folder.path().join("one.crt"), self.folder.path().join("one.key"));
        chmod(&key, 0o600);
        (certificate, key)
    }

    fn openssl(&self, arguments: &[&str]) {
        let done = Command::new("openssl").args(arguments).current_dir(self.folder.path()).output();
        let done = done.expect("openssl is installed");
        assert!(done.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&done.stderr));
    }
}

/// A home folder in which libpq, and we, find this authority by themselves.
fn home_that_trusts(authority: &Authority) -> TempDir {
    let home = home();
    fs::create_dir(home.path().join(".postgresql")).expect("writable");
    fs::copy(authority.certificate(), home.path().join(".postgresql/root.crt")).expect("writable");
    home
}

/// `tls`, `plain` or `refused`.
async fn our_outcome(settings: &PostgresSettings) -> (&'static str, String) {
    const USES_TLS: &str = "SELECT ssl FROM pg_catalog.pg_stat_ssl WHERE pid = pg_catalog.pg_backend_pid()";
    match open(settings).await {
        Ok(session) => {
            let row = session.client().query_one(USES_TLS, &[]).await.expect("everybody may ask");
            (if row.get(0) { "tls" } else { "plain" }, String::new())
        }
        Err(error) => ("refused", error.report()),
    }
}

/// The same asked of libpq.
fn libpq_outcome(server: &PostgresServer, settings: &PostgresSettings) -> (&'static str, String) {
    const USES_TLS: &str = "SELECT ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()";
    let connection = format!(
        "host={} port={} user={} dbname={} sslmode={} gssencmode=disable",
        settings.host,
        settings.port,
        settings.user,
        settings.database,
        settings.ssl_mode.as_str()
    );
    let Output { status, stdout, stderr } = Command::new(server.installation().program("psql"))
        .args(["-X", "-A", "-t", "-c", USES_TLS, &connection])
        .env_clear()
        .env("HOME", &settings.home)
        .env("PGSSLROOTCERT", settings.home.join(".postgresql/root.crt"))
        .output()
        .expect("psql is installed");
    let outcome = match String::from_utf8_lossy(&stdout).trim() {
        "t" => "tls",
        "f" => "plain",
        _ => "refused",
    };
    assert_eq!(outcome != "refused", status.success());
    (outcome, String::from_utf8_lossy(&stderr).into_owned())
}

/// Servers that differ in what they offer: their certificate is made out to `localhost`.
async fn servers(authority: &Authority) -> Vec<(&'static str, PostgresServer)> {
    let (certificate, key) = authority.sign("localhost", "DNS:localhost");
    let tls = || PostgresOptions::default().tls(&certificate, &key);
    let (both, only_tls, no_tls_wanted, without) = tokio::join!(
        PostgresServer::start_with(tls()),
        PostgresServer::start_with(tls().hba("hostssl all all 127.0.0.1/32 trust")),
        PostgresServer::start_with(tls().hba("hostnossl all all 127.0.0.1/32 trust")),
        PostgresServer::start(),
    );
    vec![("both", both), ("only tls", only_tls), ("tls unwanted", no_tls_wanted), ("without", without)]
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
async fn every_sslmode_means_what_libpq_means() {
    let (authority, stranger) = (Authority::new(), Authority::new());
    let homes = [
        ("no authority", home()),
        ("the authority", home_that_trusts(&authority)),
        ("another authority", home_that_trusts(&stranger)),
    ];
    let mut seen = Vec::new();
    for (offer, server) in servers(&authority).await {
        for (trust, home) in &homes {
            for host in ["localhost", "127.0.0.1"] {
                for ssl_mode in SslMode::ALL {
                    let ours = settings(&server, home.path());
                    let ours = PostgresSettings { host: host.into(), ssl_mode, ..ours };
                    let (we, our_words) = our_outcome(&ours).await;
                    let (libpq, its_words) = libpq_outcome(&server, &ours);
                    let case = format!("server {offer}, {trust}, {host}, {}", ssl_mode.as_str());
                    assert_eq!(we, libpq, "{case}\nwe: {our_words}\nlibpq: {its_words}");
                    seen.push((offer, *trust, host, ssl_mode, we));
                }
            }
        }
    }
    // The comparison would be worth nothing if all were refused: some that an operator relies on, by name.
    for case in [
        ("both", "no authority", "127.0.0.1", SslMode::Disable, "plain"),
        ("both", "no authority", "127.0.0.1", SslMode::Prefer, "tls"),
        ("without", "no authority", "127.0.0.1", SslMode::Prefer, "plain"),
        ("without", "no authority", "127.0.0.1", SslMode::Require, "refused"),
        ("tls unwanted", "no authority", "127.0.0.1", SslMode::Prefer, "plain"),
        ("both", "another authority", "localhost", SslMode::Require, "refused"),
        ("both", "the authority", "127.0.0.1", SslMode::VerifyCa, "tls"),
        ("both", "the authority", "localhost", SslMode::VerifyFull, "tls"),
        ("both", "the authority", "127.0.0.1", SslMode::VerifyFull, "refused"),
        ("both", "no authority", "localhost", SslMode::VerifyFull, "refused"),
    ] {
        assert!(seen.contains(&case), "{case:?}");
    }
}

#[tokio::test]
async fn authorities_that_were_named_have_to_be_there() {
    let authority = Authority::new();
    let (certificate, key) = authority.sign("127.0.0.1", "IP:127.0.0.1");
    let server = PostgresServer::start_with(PostgresOptions::default().tls(&certificate, &key)).await;
    let home = home();
    let with = |ssl_mode, root: &Path| {
        let ssl_files = SslFiles { root_cert: Some(root.into()), ..SslFiles::default() };
        PostgresSettings { ssl_mode, ssl_files, ..settings(&server, home.path()) }
    };
    assert_eq!(our_outcome(&with(SslMode::VerifyFull, &authority.certificate())).await.0, "tls");
    let missing = open(&with(SslMode::Require, Path::new("/nowhere/root.crt"))).await.expect_err("missing");
    assert!(missing.report().contains("/nowhere/root.crt"), "{missing:?}");
    let weak = open(&with(SslMode::Require, Path::new("system"))).await.expect_err("proves nothing");
    assert!(weak.report().contains("verify-full"), "{weak:?}");
    let stranger = open(&with(SslMode::VerifyFull, Path::new("system"))).await.expect_err("not a public one");
    assert_eq!(stranger.kind(), Kind::Refused, "{stranger:?}");
    assert!(stranger.report().contains("certificate"), "{stranger:?}");
}

#[tokio::test]
async fn our_own_certificate_opens_the_door_if_its_key_is_ours_alone() {
    let authority = Authority::new();
    let (certificate, key) = authority.sign("server", "IP:127.0.0.1");
    let options = PostgresOptions::default().tls(&certificate, &key);
    let mut server = PostgresServer::start_with(options.hba("hostssl all all 127.0.0.1/32 cert")).await;
    fs::copy(authority.certificate(), server.data_folder().join("ca.crt")).expect("writable");
    chmod(&server.data_folder().join("ca.crt"), 0o644);
    server.append_setting("ssl_ca_file", "ca.crt");
    server.restart().await;

    let home = home();
    let (certificate, key) = authority.sign("postgres", "DNS:client");
    let ssl_files = SslFiles { cert: Some(certificate), key: Some(key.clone()), root_cert: None };
    let plain = PostgresSettings { ssl_mode: SslMode::Require, ..settings(&server, home.path()) };
    let ours = PostgresSettings { ssl_files, ..plain.clone() };
    assert_eq!(our_outcome(&ours).await.0, "tls");
    let stranger = open(&plain).await.expect_err("no certificate");
    assert_eq!(stranger.kind(), Kind::Refused, "{stranger:?}");
    chmod(&key, 0o644);
    let exposed = open(&ours).await.expect_err("everybody may read the key");
    assert!(exposed.report().contains("chmod 0600"), "{exposed:?}");
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

async fn failed(session: &Session, sql: &str) -> Error {
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

#[tokio::test]
async fn a_statement_can_be_cancelled_over_tls_too() {
    let authority = Authority::new();
    let (certificate, key) = authority.sign("localhost", "DNS:localhost");
    let server = PostgresServer::start_with(PostgresOptions::default().tls(&certificate, &key)).await;
    let home = home_that_trusts(&authority);
    for ssl_mode in [SslMode::Disable, SslMode::VerifyFull] {
        let ours = settings(&server, home.path());
        let session = open(&PostgresSettings { host: "localhost".into(), ssl_mode, ..ours }).await;
        let session = session.expect("it opens");
        let canceller = session.canceller();
        let pid = text(&session, "SELECT pg_backend_pid()::text").await;
        let sleep = tokio::spawn(async move { failed(&session, "SELECT pg_sleep(600)").await });
        let asleep =
            format!("SELECT count(*) FROM pg_stat_activity WHERE pid = {pid} AND wait_event = 'PgSleep'");
        tokio::time::timeout(PATIENCE, async {
            while server.value(&asleep).await != "1" {}
            canceller.cancel().await.expect("the server listens");
        })
        .await
        .expect("it falls asleep");
        let cancelled = tokio::time::timeout(PATIENCE, sleep).await.expect("it wakes up").expect("no panic");
        assert_eq!(sqlstate(&cancelled).map(|code| code.code()), Some("57014"), "{cancelled:?}");
    }
}
