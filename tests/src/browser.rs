//! A real browser: Debian's chromium, driven over WebDriver by the chromedriver that comes with it. The protocol is a dozen
//! JSON messages over HTTP; crates that speak it bring fifty others, among them `time`, which is banned here.

use std::io::{Read as _, Write as _};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use rustix::process::Signal;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::process::{Account, Process};
use crate::scratch::Scratch;

/// What is waited for in a page takes moments; a machine under load gets this long.
const PATIENCE: Duration = Duration::from_secs(60);

/// As WebDriver names an element in JSON.
const ELEMENT: &str = "element-6066-11e4-a52e-4f735466cecf";

/// One window. It is closed when this is dropped.
#[derive(Debug)]
pub struct Browser {
    driver: Process,
    port: u16,
    session: String,
    _folder: Scratch,
}

/// Light or dark.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scheme {
    Light,
    Dark,
}

impl Browser {
    /// # Panics
    /// When there is none: `scripts/install-deps` installs it.
    pub async fn start() -> Browser {
        let folder = Scratch::new("browser");
        let log = folder.path().join("chromedriver.log");
        let mut command = Command::new("chromedriver");
        command.arg("--port=0").env("HOME", folder.path()).env("TMPDIR", folder.path());
        let driver = Process::spawn(&command, &Account::own(), "TERM", &log);
        let port = port_in(&log).await;
        let mut browser = Browser { driver, port, session: String::new(), _folder: folder };

        let user_data = browser._folder.path().join("profile").display().to_string();
        // Root has no sandbox, and a container little /dev/shm.
        let arguments = [
            "--headless=new",
            // It ends when its driver does, however that was.
            "--remote-debugging-pipe",
            "--no-sandbox",
            "--disable-gpu",
            "--disable-dev-shm-usage",
            "--no-first-run",
            "--disable-background-networking",
            &format!("--user-data-dir={user_data}"),
        ];
        let wanted = json!({"capabilities": {"alwaysMatch": {
            "browserName": "chrome",
            "goog:chromeOptions": {"args": arguments},
            "goog:loggingPrefs": {"browser": "ALL", "performance": "ALL"},
        }}});
        let made = browser.ask("POST", "/session", Some(&wanted)).await;
        let id = made["sessionId"].as_str().expect("a session has an id");
        browser.session = format!("/session/{id}");
        // The page of a new window loads much, from inside of the browser.
        browser.go("about:blank").await;
        browser.requests().await;
        browser
    }

    pub async fn go(&self, url: &str) {
        self.order("/url", json!({"url": url})).await;
    }

    /// What a function's body returns; `arguments[0]` is the argument.
    pub async fn run(&self, script: &str, argument: Value) -> Value {
        self.order("/execute/sync", json!({"script": script, "args": [argument]})).await
    }

    /// The text of the first element that a selector finds, as a person sees it: nothing of what is hidden.
    pub async fn text(&self, selector: &str) -> String {
        let script = "const found = document.querySelector(arguments[0]);
            return found?.checkVisibility() ? found.innerText : ''";
        self.run(script, json!(selector)).await.as_str().expect("text").to_owned()
    }

    /// Waits until that text is as wanted.
    ///
    /// # Panics
    /// When that takes too long.
    pub async fn wait_until(&self, selector: &str, is_wanted: impl Fn(&str) -> bool) -> String {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let text = self.text(selector).await;
            if is_wanted(&text) {
                return text;
            }
            assert!(Instant::now() < deadline, "{selector} still says {text:?}");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    /// As with a mouse: what lies under something else, or outside of the window, cannot be clicked.
    pub async fn click(&self, selector: &str) {
        let element = self.find(selector).await;
        self.order(&format!("{element}/click"), json!({})).await;
    }

    /// Into the element that the selector finds.
    pub async fn types(&self, selector: &str, text: &str) {
        let element = self.find(selector).await;
        self.order(&format!("{element}/value"), json!({"text": text})).await;
    }

    /// One key, wherever the focus is: `\u{e004}` is the tabulator, `\u{e006}` enter.
    pub async fn key(&self, key: &str) {
        let actions = [json!({"type": "keyDown", "value": key}), json!({"type": "keyUp", "value": key})];
        let keyboard = json!({"type": "key", "id": "keyboard", "actions": actions});
        self.order("/actions", json!({"actions": [keyboard]})).await;
    }

    async fn find(&self, selector: &str) -> String {
        let found = self.order("/element", json!({"using": "css selector", "value": selector})).await;
        let id = found[ELEMENT].as_str().unwrap_or_else(|| panic!("no element {selector}: {found}"));
        format!("/element/{id}")
    }

    /// A window of that width, in that scheme of colours.
    pub async fn looks(&self, width: u32, height: u32, scheme: Scheme) {
        let scheme = if scheme == Scheme::Dark { "dark" } else { "light" };
        let features = json!([{"name": "prefers-color-scheme", "value": scheme}]);
        self.devtools("Emulation.setEmulatedMedia", json!({"features": features})).await;
        let metrics = json!({"width": width, "height": height, "deviceScaleFactor": 1, "mobile": false});
        self.devtools("Emulation.setDeviceMetricsOverride", metrics).await;
    }

    async fn devtools(&self, command: &str, parameters: Value) -> Value {
        self.order("/goog/cdp/execute", json!({"cmd": command, "params": parameters})).await
    }

    /// A PNG of what the window shows.
    pub async fn screenshot(&self) -> Vec<u8> {
        let shot = self.ask("GET", &format!("{}/screenshot", self.session), None).await;
        from_base64(shot.as_str().expect("a picture"))
    }

    /// What the console says: errors of scripts, and what the policy has blocked.
    pub async fn console(&self) -> Vec<String> {
        let lines = self.order("/se/log", json!({"type": "browser"})).await;
        let line = |line: &Value| format!("{} {}", line["level"], line["message"]);
        lines.as_array().expect("a list").iter().map(line).collect()
    }

    /// The addresses that were asked for.
    pub async fn requests(&self) -> Vec<String> {
        let lines = self.order("/se/log", json!({"type": "performance"})).await;
        let url = |line: &Value| {
            let event: Value = serde_json::from_str(line["message"].as_str()?).ok()?;
            let is_request = event["message"]["method"] == "Network.requestWillBeSent";
            let url = event["message"]["params"]["request"]["url"].as_str()?;
            is_request.then(|| url.to_owned())
        };
        lines.as_array().expect("a list").iter().filter_map(url).collect()
    }

    async fn order(&self, path: &str, body: Value) -> Value {
        self.ask("POST", &format!("{}{path}", self.session), Some(&body)).await
    }

    async fn ask(&self, method: &str, path: &str, body: Option<&Value>) -> Value {
        let answer = tokio::time::timeout(2 * PATIENCE, call(self.port, method, path, body)).await;
        let answer = answer.unwrap_or_else(|_| panic!("chromedriver does not answer {method} {path}"));
        let value = answer["value"].clone();
        assert!(value["error"].is_null(), "{method} {path} {body:?}: {value}");
        value
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        // First the browser: left to itself, it would go on writing into a folder that is being removed.
        let ended = || {
            let mut stream = std::net::TcpStream::connect(("127.0.0.1", self.port))?;
            stream.set_read_timeout(Some(Duration::from_secs(10)))?;
            write!(
                stream,
                "DELETE {} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n",
                self.session
            )?;
            stream.read(&mut [0; 1024])
        };
        let _ = ended();
        self.driver.signal(Signal::TERM);
        self.driver.wait(Duration::from_secs(10));
    }
}

async fn port_in(log: &Path) -> u16 {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let text = std::fs::read_to_string(log).unwrap_or_default();
        let port = text.split_once("successfully on port ").map(|(_, rest)| rest);
        let port = port.and_then(|rest| rest.split('.').next()?.trim().parse().ok());
        if let Some(port) = port {
            return port;
        }
        let hint = "is chromium-driver installed? scripts/install-deps does it";
        assert!(Instant::now() < deadline && !text.contains("No such file"), "{hint}\n{text}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

async fn call(port: u16, method: &str, path: &str, body: Option<&Value>) -> Value {
    let body = body.map(Value::to_string).unwrap_or_default();
    let request = format!(
        "{method} {path} HTTP/1.1\r\nHost: localhost:{port}\r\nContent-Type: application/json\r\n\
         Content-Length: {}\r\nConnection: close\r\n\r\n{body}",
        body.len()
    );
    let mut stream = TcpStream::connect(("127.0.0.1", port)).await.expect("chromedriver listens");
    stream.write_all(request.as_bytes()).await.expect("chromedriver reads");
    let mut answer = Vec::new();
    let mut wanted = usize::MAX;
    while answer.len() < wanted {
        if stream.read_buf(&mut answer).await.expect("chromedriver answers") == 0 {
            break;
        }
        if wanted == usize::MAX {
            wanted = end_of(&answer).unwrap_or(usize::MAX);
        }
    }
    let start = memchr::memmem::find(&answer, b"\r\n\r\n").map_or(answer.len(), |end| end + 4);
    serde_json::from_slice(&answer[start..])
        .unwrap_or_else(|error| panic!("{error}: {}", String::from_utf8_lossy(&answer)))
}

/// Where an answer ends that has begun to come.
fn end_of(answer: &[u8]) -> Option<usize> {
    let head = memchr::memmem::find(answer, b"\r\n\r\n")? + 4;
    let text = String::from_utf8_lossy(&answer[..head]).to_ascii_lowercase();
    let length = text.lines().find_map(|line| line.strip_prefix("content-length:"))?;
    Some(head + length.trim().parse::<usize>().ok()?)
}

fn from_base64(text: &str) -> Vec<u8> {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let (mut bytes, mut bits, mut kept) = (Vec::with_capacity(text.len() / 4 * 3), 0_u32, 0);
    for digit in text.bytes().filter_map(|c| ALPHABET.iter().position(|known| *known == c)) {
        bits = bits << 6 | u32::try_from(digit).expect("six bits");
        kept += 6;
        if kept >= 8 {
            kept -= 8;
            bytes.push((bits >> kept & 0xff) as u8);
        }
    }
    bytes
}

/// `docs/…`, where a scenario keeps what it has seen.
pub fn docs() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn base64_is_read() {
        for (text, bytes) in
            [("", &b""[..]), ("TQ==", b"M"), ("TWE=", b"Ma"), ("TWFu", b"Man"), ("/+8=", &[255, 239])]
        {
            assert_eq!(from_base64(text), bytes);
        }
    }

    #[test]
    fn an_answer_ends_where_its_head_says() {
        assert_eq!(end_of(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{"), Some(40));
        assert_eq!(end_of(b"HTTP/1.1 200 OK\r\nContent-Len"), None);
    }
}
