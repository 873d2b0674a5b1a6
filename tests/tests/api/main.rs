//! The API over HTTP: what is answered, what is done, and who is refused.

mod actions;
mod archiver;
mod independent;
mod refusals;

use std::fs::{self, Permissions};
use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::Value;
use syncdata_tests::{Daemon, LocalCopy, free_address};

const TOKEN: &str = "a-token-of-the-tests-0123456789abcdef";
const API: &str = "/api/v1/data-sync";

fn tokens(folder: &Path, tokens: &[&str]) -> PathBuf {
    let path = folder.join("tokens");
    fs::write(&path, tokens.join("\n")).expect("ours");
    fs::set_permissions(&path, Permissions::from_mode(0o640)).expect("ours");
    path
}

/// An answer, taken apart.
#[derive(Clone, Debug)]
struct Answer {
    status: u16,
    head: String,
    body: String,
}

impl Answer {
    #[track_caller]
    fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }

    #[track_caller]
    fn expect(self, status: u16) -> Answer {
        assert_eq!(self.status, status, "{self:?}");
        if status >= 400 && !self.head.contains("content-type: application/json") {
            let problem = self.json();
            assert!(self.head.contains("content-type: application/problem+json"), "{self:?}");
            assert_eq!(problem["status"], status);
            assert!(
                problem["type"].as_str().is_some_and(|text| text.starts_with("urn:syncdata:problem:")),
                "{problem}"
            );
        }
        self
    }

    fn header(&self, name: &str) -> Option<&str> {
        self.head.lines().find_map(|line| line.strip_prefix(&format!("{name}: ")))
    }
}

/// What comes back of these bytes.
fn send(address: &str, request: &str) -> Answer {
    let mut stream = TcpStream::connect(address).expect("the daemon listens");
    stream.set_read_timeout(Some(Duration::from_secs(60))).expect("a timeout");
    // It may have been refused before all was sent.
    let _ = stream.write_all(request.as_bytes());
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer);
    let answer = String::from_utf8_lossy(&answer).into_owned();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap_or((&answer, ""));
    let status = head.split(' ').nth(1).and_then(|status| status.parse().ok()).unwrap_or(0);
    Answer { status, head: head.replace("\r\n", "\n").to_lowercase(), body: body.to_owned() }
}

/// `SYNCDATA_WRITE_PAGES=1` writes what is committed anew.
#[track_caller]
fn assert_committed(address: &str, name: &str) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/openapi").join(name);
    let served = format!("{:#}\n", get(address, &format!("{API}/openapi.json")).expect(200).json());
    if std::env::var_os("SYNCDATA_WRITE_PAGES").is_some() {
        fs::write(&path, served).expect("the page can be written");
        return;
    }
    let committed = fs::read_to_string(&path).expect("it is committed");
    assert!(
        committed == served,
        "docs/openapi/{name} is not what is served; SYNCDATA_WRITE_PAGES=1 writes it anew"
    );
}

/// With the token.
fn get(address: &str, path: &str) -> Answer {
    send(address, &format!("GET {path} HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {TOKEN}\r\n\r\n"))
}

fn post(address: &str, path: &str, body: &str, more: &str) -> Answer {
    let kind = if body.is_empty() { "" } else { "Content-Type: application/json\r\n" };
    let head =
        format!("POST {path} HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {TOKEN}\r\n{kind}{more}");
    send(address, &format!("{head}Content-Length: {}\r\n\r\n{body}", body.len()))
}

/// A copy with two tables whose daemon answers over HTTP.
struct Served {
    copy: LocalCopy,
    daemon: Daemon,
    address: String,
}

async fn served(more: &[(&str, &str)]) -> Served {
    let schema = "CREATE TABLE users (id int PRIMARY KEY, name text);
        CREATE TABLE orders (id int PRIMARY KEY, user_id int REFERENCES users)";
    let mut copy = LocalCopy::with_orders(schema).await;
    copy.applier(&["add-tables", "users", "orders"]).succeed().await;
    let address = free_address();
    let path = tokens(copy.folder(), &[TOKEN]);
    copy.set("SYNCDATA_HTTP_LISTEN", &address);
    copy.set("SYNCDATA_API_TOKEN_FILE", path.display().to_string());
    for (name, value) in more {
        copy.set(name, *value);
    }
    let mut daemon = copy.applier(&["start"]).spawn();
    daemon.says("pass done").await;
    Served { copy, daemon, address }
}

fn rename(id: u32, name: &str) -> String {
    format!(
        r#"{{"table":"users","op":"UPDATE","data":{{"id":{id},"name":"{name}"}},"old_keys":{{"id":{id}}}}}"#
    )
}
