//! Object storage: a real SeaweedFS on free loopback ports. One of them serves all tests of a process; each has a prefix of
//! its own in its bucket.

use std::fmt::Write as _;
use std::fs;
use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::LazyLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use memchr::memmem;
use syncdata_archive::{Archive, S3Archive};
use syncdata_formats::layout::ArchivePath;
use syncdata_service::config::{BucketPlace, Endpoint, S3KeySource, S3Keys, S3Settings, Secret};

use crate::ports::free_port;
use crate::process::{Account, Process};
use crate::scratch::Scratch;

const BUCKET: &str = "archive";
const START_DEADLINE: Duration = Duration::from_secs(60);
/// As `scripts/seaweedfs` has it.
const VERSION: &str = "4.48";
/// Of a mode as the filer prints it.
const FOLDER: u64 = 1 << 31;

/// On a thread of its own: an archive blocks, and who asks for it first may be a task.
static STORE: LazyLock<Store> =
    LazyLock::new(|| std::thread::spawn(Store::start).join().expect("SeaweedFS starts"));

/// Whose keys a client has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Who {
    /// May do everything.
    Owner,
    /// May list and read.
    Reader,
}

impl Who {
    fn keys(self) -> S3Keys {
        let (id, secret) = match self {
            Who::Owner => ("OWNER", "canary-of-the-owner"),
            Who::Reader => ("READER", "canary-of-the-reader"),
        };
        S3Keys { id: id.to_owned(), secret: Secret::new(secret), token: None }
    }
}

/// See the module. It ends with the process.
#[derive(Debug)]
pub struct Store {
    folder: Scratch,
    s3: u16,
    filer: u16,
    _process: Process,
}

/// A prefix of its own.
#[derive(Clone, Debug)]
pub struct Place {
    prefix: String,
}

impl Place {
    /// One that nobody has written to.
    pub fn new() -> Place {
        static NEXT: AtomicU64 = AtomicU64::new(1);
        Place { prefix: format!("test-{}/app", NEXT.fetch_add(1, Ordering::Relaxed)) }
    }

    /// That of another process, by its URL: what it has is asked there.
    pub fn told(url: &str) -> Place {
        let place = BucketPlace::read(url).expect("a place");
        Place { prefix: place.prefix }
    }

    pub fn settings(&self) -> S3Settings {
        self.settings_of(Who::Owner)
    }

    pub fn settings_of(&self, who: Who) -> S3Settings {
        self.settings_at(STORE.address(), who)
    }

    /// Through a proxy.
    pub fn settings_at(&self, address: SocketAddr, who: Who) -> S3Settings {
        S3Settings {
            place: BucketPlace::read(&self.url()).expect("a place"),
            endpoint: Endpoint::read(&format!("http://{address}")).expect("an endpoint"),
            region: "us-east-1".to_owned(),
            keys: S3KeySource::Variables(who.keys()),
        }
    }

    pub fn url(&self) -> String {
        format!("s3://{BUCKET}/{}", self.prefix)
    }

    pub fn endpoint(&self) -> String {
        format!("http://{}", STORE.address())
    }

    /// Where the store answers.
    pub fn address(&self) -> SocketAddr {
        STORE.address()
    }

    /// A file as the tools of the makers keep keys.
    pub fn write_keys(&self, who: Who, path: &Path) {
        let S3Keys { id, secret, .. } = who.keys();
        let text =
            format!("[default]\naws_access_key_id = {id}\naws_secret_access_key = {}\n", secret.expose());
        fs::write(path, text).expect("the test's folder is writable");
        fs::set_permissions(path, fs::Permissions::from_mode(0o600)).expect("the file is ours");
    }

    /// Puts an object there, whatever its name, without asking the archive.
    pub fn plant(&self, name: &str, bytes: &[u8]) {
        STORE.expect_filer("PUT", &self.at(name), bytes);
    }

    /// The names of all objects, below the prefix.
    pub fn names(&self) -> Vec<String> {
        let (mut names, mut folders) = (Vec::new(), vec![String::new()]);
        while let Some(folder) = folders.pop() {
            let (status, list) = STORE.ask_filer("GET", &format!("{}?limit=100000", self.at(&folder)), b"");
            // A prefix without objects is nothing.
            let Ok(list) = serde_json::from_slice::<serde_json::Value>(&list) else {
                assert_eq!(status, 404, "{folder}");
                continue;
            };
            for entry in list["Entries"].as_array().into_iter().flatten() {
                let path = entry["FullPath"].as_str().expect("a path");
                let name = format!("{folder}{}", path.rsplit('/').next().unwrap_or_default());
                match entry["Mode"].as_u64().expect("a mode") & FOLDER {
                    0 => names.push(name),
                    _ => folders.push(name + "/"),
                }
            }
        }
        names.sort();
        names
    }

    pub fn read(&self, name: &str) -> Vec<u8> {
        STORE.expect_filer("GET", &self.at(name), b"")
    }

    /// Copies the whole archive into a folder, for those who look at folders.
    pub fn download(&self, into: &Path) {
        if into.exists() {
            fs::remove_dir_all(into).expect("the test's folder");
        }
        for name in self.names() {
            let file = into.join(&name);
            fs::create_dir_all(file.parent().expect("in a folder")).expect("the test's folder is writable");
            fs::write(file, self.read(&name)).expect("the test's folder is writable");
        }
    }

    fn at(&self, name: &str) -> String {
        let mut path = format!("/buckets/{BUCKET}/{}/", self.prefix);
        for byte in name.bytes() {
            if byte.is_ascii_alphanumeric() || b"-._/".contains(&byte) {
                path.push(char::from(byte));
            } else {
                write!(path, "%{byte:02X}").expect("a String takes all");
            }
        }
        path
    }
}

impl Default for Place {
    fn default() -> Place {
        Place::new()
    }
}

impl Store {
    fn start() -> Store {
        let folder = Scratch::new("store");
        let rights = serde_json::json!({"identities": [
            identity(Who::Owner, &["Admin", "Read", "Write", "List"]),
            identity(Who::Reader, &["Read", "List"]),
        ]});
        fs::write(folder.path().join("s3.json"), rights.to_string()).expect("the folder is ours");
        fs::create_dir(folder.path().join("data")).expect("the folder is ours");
        // A free port may be taken by somebody else before the store has it.
        for _ in 0..5 {
            let [master, master_grpc, volume, volume_grpc, filer, filer_grpc, s3, s3_grpc] =
                std::array::from_fn(|_| free_port());
            let mut command = Command::new(program());
            command.arg("server");
            command.arg(format!("-dir={}", folder.path().join("data").display()));
            command.arg(format!("-s3.config={}", folder.path().join("s3.json").display()));
            command.args([
                "-ip=127.0.0.1",
                "-ip.bind=127.0.0.1",
                "-filer",
                "-s3",
                "-s3.autoCreateBucket=false",
            ]);
            command.args(["-s3.iam=false", "-s3.port.iceberg=0", "-s3.port.lance=0"]);
            // Volumes are files that are made as they are needed.
            command.args(["-volume.max=100", "-master.volumeSizeLimitMB=64", "-volume.minFreeSpace=1"]);
            for (name, port) in [
                ("master.port", master),
                ("master.port.grpc", master_grpc),
                ("volume.port", volume),
                ("volume.port.grpc", volume_grpc),
                ("filer.port", filer),
                ("filer.port.grpc", filer_grpc),
                ("s3.port", s3),
                ("s3.port.grpc", s3_grpc),
            ] {
                command.arg(format!("-{name}={port}"));
            }
            let log = folder.path().join("weed.log");
            let mut process = Process::spawn(&command, &Account::own(), "KILL", &log);
            if is_up(&mut process, s3, filer) {
                let store = Store { folder, s3, filer, _process: process };
                store.make_bucket();
                return store;
            }
        }
        panic!("SeaweedFS does not start: {}", log_end(folder.path()))
    }

    fn address(&self) -> SocketAddr {
        (Ipv4Addr::LOCALHOST, self.s3).into()
    }

    fn make_bucket(&self) {
        self.expect_filer("POST", &format!("/buckets/{BUCKET}/"), b"");
        // A place may be had for objects only a moment later.
        let probe = Place { prefix: "first".to_owned() };
        let deadline = Instant::now() + START_DEADLINE;
        loop {
            let put = S3Archive::new(&probe.settings_at(self.address(), Who::Owner))
                .replace(&ArchivePath::parse("a").expect("a name"), b"x");
            let Err(error) = put else { return };
            assert!(Instant::now() < deadline, "{}: {}", error.report(), log_end(self.folder.path()));
            std::thread::sleep(Duration::from_millis(100));
        }
    }

    fn expect_filer(&self, method: &str, path: &str, body: &[u8]) -> Vec<u8> {
        let (status, said) = self.ask_filer(method, path, body);
        let words = String::from_utf8_lossy(&said);
        assert!((200..300).contains(&status), "{method} {path}: {status} {words}");
        said
    }

    /// The files below the buckets, by another door than that of the store. Status and body of the answer.
    fn ask_filer(&self, method: &str, path: &str, body: &[u8]) -> (u16, Vec<u8>) {
        let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, self.filer)).expect("the filer listens");
        let head = format!(
            "{method} {path} HTTP/1.0\r\nAccept: application/json\r\n\
             Content-Length: {}\r\n\r\n",
            body.len()
        );
        stream.write_all(head.as_bytes()).and_then(|()| stream.write_all(body)).expect("the filer listens");
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).expect("the filer answers");
        let end = memmem::find(&answer, b"\r\n\r\n").expect("an answer of HTTP");
        let words = String::from_utf8_lossy(&answer[..end]).into_owned();
        let status = words.split(' ').nth(1).and_then(|status| status.parse().ok());
        (status.expect("an answer of HTTP"), answer.split_off(end + 4))
    }
}

fn identity(who: Who, actions: &[&str]) -> serde_json::Value {
    let S3Keys { id, secret, .. } = who.keys();
    serde_json::json!({
        "name": id,
        "credentials": [{"accessKey": id, "secretKey": secret.expose()}],
        "actions": actions,
    })
}

/// False when it ended.
fn is_up(process: &mut Process, s3: u16, filer: u16) -> bool {
    let deadline = Instant::now() + START_DEADLINE;
    let listens = |port| TcpStream::connect((Ipv4Addr::LOCALHOST, port)).is_ok();
    while !listens(filer) || !listens(s3) {
        if process.ended().is_some() || Instant::now() > deadline {
            return false;
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    true
}

/// Root's lies where all of root's servers find it, as with the PostgreSQL of `scripts/pg18`.
fn program() -> PathBuf {
    let cache = match rustix::process::geteuid().is_root() {
        true => PathBuf::from("/var/cache"),
        false => std::env::var_os("XDG_CACHE_HOME").map_or_else(
            || std::env::home_dir().expect("an account has a home").join(".cache"),
            PathBuf::from,
        ),
    };
    let program = cache.join(format!("syncdata/seaweedfs-{VERSION}/weed"));
    assert!(program.exists(), "{} is missing; `scripts/seaweedfs` gets it", program.display());
    program
}

fn log_end(folder: &Path) -> String {
    let log = fs::read_to_string(folder.join("weed.log")).unwrap_or_default();
    log.lines().rev().take(20).collect::<Vec<_>>().join("\n")
}
