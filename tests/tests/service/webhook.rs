//! Alerts over https: told to whom the machine trusts, and to nobody else.

use std::fs::{self, Permissions};
use std::io::{Read as _, Write as _};
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, channel};

use openssl::ssl::{SslAcceptor, SslFiletype, SslMethod};
use serde_json::Value;
use syncdata_service::hmac;
use syncdata_tests::program::{Finished, Program};

use super::tls::Authority;

const SECRET: &str = "a secret of ours";

/// Listens with that certificate; what was posted over TLS: the head, and the body.
fn server((certificate, key): (PathBuf, PathBuf)) -> (u16, Receiver<(String, String)>) {
    let mut acceptor = SslAcceptor::mozilla_intermediate(SslMethod::tls()).expect("a server");
    acceptor.set_certificate_chain_file(certificate).expect("a certificate");
    acceptor.set_private_key_file(key, SslFiletype::PEM).expect("its key");
    let acceptor = acceptor.build();
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let port = listener.local_addr().expect("bound").port();
    let (posts, received) = channel();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            // Whoever does not trust us hangs up.
            let Ok(mut stream) = acceptor.accept(stream.expect("a connection")) else { continue };
            let mut text = String::new();
            let mut buffer = [0; 4096];
            let (head, body) = loop {
                let Ok(read) = stream.read(&mut buffer) else { break (text.clone(), String::new()) };
                text.push_str(std::str::from_utf8(&buffer[..read]).expect("JSON"));
                if let Some((head, body)) = text.split_once("\r\n\r\n")
                    && (read == 0 || body.ends_with('}'))
                {
                    break (head.to_owned(), body.to_owned());
                }
                if read == 0 {
                    break (text.clone(), String::new());
                }
            };
            // It may have hung up already.
            let _ = stream.write_all(b"HTTP/1.1 204 No Content\r\nContent-Length: 0\r\n\r\n");
            if !body.is_empty() && posts.send((head, body)).is_err() {
                return;
            }
        }
    });
    (port, received)
}

/// The daemon of that program has failed, says the service manager.
async fn ended(name: &'static str, home: &Path, url: &str, trusted: Option<&Path>) -> Finished {
    fs::create_dir_all(home.join("logs")).expect("ours");
    let secret = home.join("secret");
    fs::write(&secret, SECRET).expect("ours");
    fs::set_permissions(&secret, Permissions::from_mode(0o600)).expect("ours");
    let program = Program::new(name, ["daemon-ended"], &home.join("logs"))
        .env("HOME", home)
        .env("STATE_DIRECTORY", home.join("state"))
        .env("RUNTIME_DIRECTORY", home.join("run"))
        .env("SYNCDATA_SPOOL_DIR", home.join("spool"))
        .env("SYNCDATA_ARCHIVE_DIR", home.join("archive"))
        .env("PG_DB_NAME", "nowhere")
        .env("SYNCDATA_ALERT_WEBHOOK", url)
        .env("SYNCDATA_ALERT_WEBHOOK_SECRET_FILE", &secret)
        .env("SERVICE_RESULT", "exit-code");
    let program = trusted.into_iter().fold(program, |program, file| program.env("SSL_CERT_FILE", file));
    program.run().await.expect_code(0)
}

#[tokio::test]
async fn an_alert_is_told_over_tls_to_whom_the_machine_trusts_and_to_nobody_else() {
    let (authority, stranger) = (Authority::new(), Authority::new());
    let (ours, ours_received) = server(authority.sign("localhost", "DNS:localhost"));
    let (other, other_received) = server(authority.sign("elsewhere", "DNS:elsewhere"));
    let plain = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let plain_port = plain.local_addr().expect("bound").port();
    std::thread::spawn(move || {
        for stream in plain.incoming() {
            let _ = stream.expect("a connection").write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n");
        }
    });
    for name in ["syncdata-archiver", "syncdata-applier"] {
        let folder = tempfile::tempdir().expect("a folder");
        let home = folder.path();
        let url = |port: u16| format!("https://localhost:{port}/hook/canary");
        let certificate = authority.certificate();
        let strange = stranger.certificate();
        for (case, port, trusted) in [
            ("signed by nobody whom the machine trusts", ours, None),
            ("signed by another authority", ours, Some(strange.as_path())),
            ("made out to another host", other, Some(certificate.as_path())),
            ("no TLS", plain_port, Some(certificate.as_path())),
        ] {
            let refused = ended(name, home, &url(port), trusted).await;
            assert!(refused.stderr.contains("an alert was not taken"), "{name}, {case}: {refused}");
            assert!(
                refused.stderr.contains(&format!("webhook at localhost:{port}: TLS failed: ")),
                "{case}: {refused}"
            );
            assert!(refused.stderr.contains("SSL_CERT_FILE"), "{case}: {refused}");
            assert!(!refused.stderr.contains("canary"), "{case}: {refused}");
        }
        assert!(ours_received.try_recv().is_err() && other_received.try_recv().is_err(), "{name}");

        // It was kept meanwhile, and is told as the hint says.
        let told = ended(name, home, &url(ours), Some(&certificate)).await;
        assert!(!told.stderr.contains("not taken"), "{told}");
        let (head, body) = ours_received.try_recv().expect("it was told");
        assert!(head.starts_with("POST /hook/canary HTTP/1.1\r\n"), "{head}");
        let signature =
            format!("sha256={}", hmac::sha256_hex(SECRET.as_bytes(), body.as_bytes()).expect("a hash"));
        assert!(head.to_lowercase().contains(&format!("x-syncdata-signature: {signature}")), "{head}");
        let message: Value = serde_json::from_str(&body).expect("JSON");
        assert_eq!(
            (&message["kind"], &message["subject"], &message["program"]),
            (&"daemon_failed".into(), &"exit-code".into(), &name.into())
        );
    }
}
