//! TLS with real servers: every mode means what it means to libpq.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use syncdata_formats::Kind;
use syncdata_service::postgres::{PostgresSettings, SslFiles, SslMode, sqlstate};
use syncdata_tests::{PostgresOptions, PostgresServer};
use tempfile::TempDir;

use crate::connections::{PATIENCE, chmod, failed, home, open, settings, text};

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
