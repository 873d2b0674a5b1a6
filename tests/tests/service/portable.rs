//! The tarball's programs in a root that has glibc and nothing else: no OpenSSL, no libssh2, no zlib.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use serde_json::Value;
use syncdata_tests::world::{World, WorldOptions};

use crate::packages::{run, text};
use crate::tls::Authority;

const PROGRAMS: [&str; 2] = ["archiver", "applier"];

/// What glibc's own package brings along: its parts, and what unwinds the stack, without which it is not installed.
const GLIBC: [&str; 7] =
    ["libc.so.6", "libm.so.6", "libdl.so.2", "libpthread.so.0", "librt.so.1", "libgcc_s.so.1", "ld-linux"];

/// As `scripts/package` builds it, but for the optimizer.
fn unpacked(folder: &Path) -> PathBuf {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../scripts/package");
    let mut command = Command::new(script);
    command.args(["--only", "tarball", "--out"]).arg(folder).env("SYNCDATA_PACKAGE_PROFILE", "dev");
    let made = text(&run(&mut command).stdout);
    run(Command::new("tar").arg("-xzf").arg(made.trim()).arg("-C").arg(folder));
    let name = Path::new(made.trim()).file_name().expect("a file").to_str().expect("plain");
    folder.join(name.strip_suffix(".tar.gz").expect("a tarball"))
}

/// What the loader is asked for.
fn needed(program: &Path) -> Vec<String> {
    let shown = text(&run(Command::new("readelf").arg("-d").arg(program)).stdout);
    let lines = shown.lines().filter(|line| line.contains("(NEEDED)"));
    let name = |line: &str| Some(line.split_once('[')?.1.split_once(']')?.0.to_owned());
    lines.filter_map(name).collect()
}

/// Where this machine has them, the loader itself among them.
fn found(program: &Path) -> Vec<PathBuf> {
    let shown = text(&run(Command::new("ldd").arg(program)).stdout);
    let path = |line: &str| line.split_whitespace().find(|word| word.starts_with('/')).map(PathBuf::from);
    shown.lines().filter_map(path).collect()
}

struct Root(tempfile::TempDir);

impl Root {
    fn new(unpacked: &Path) -> Root {
        let root = tempfile::tempdir().expect("a folder");
        for program in PROGRAMS {
            let program = unpacked.join("bin").join(format!("syncdata-{program}"));
            for library in found(&program) {
                let target = root.path().join(library.strip_prefix("/").expect("absolute"));
                fs::create_dir_all(target.parent().expect("a folder")).expect("ours");
                fs::copy(&library, target).expect("readable");
            }
        }
        fs::create_dir_all(root.path().join("home/.postgresql")).expect("ours");
        fs::create_dir_all(root.path().join("state")).expect("ours");
        Root(root)
    }

    fn put(&self, from: &Path, name: &str) {
        let target = self.0.path().join(name);
        fs::copy(from, &target).expect("readable");
        fs::set_permissions(&target, fs::Permissions::from_mode(0o600)).expect("ours");
    }

    /// As root of that root.
    fn run(&self, program: &str, arguments: &[&str]) -> Output {
        let mut command = match rustix::process::geteuid().is_root() {
            true => Command::new("chroot"),
            false => {
                let mut command = Command::new("unshare");
                command.args(["--user", "--map-root-user", "chroot"]);
                command
            }
        };
        let path = std::env::var("PATH").unwrap_or_default();
        command.arg(self.0.path()).arg(format!("/syncdata-{program}")).args(arguments).env_clear();
        command
            .env("PATH", format!("{path}:/usr/sbin:/sbin"))
            .env("HOME", "/home")
            .env("STATE_DIRECTORY", "/state");
        command.output().unwrap_or_else(|error| panic!("{command:?}: {error}"))
    }
}

/// The settings of a program in that world, for where its files are in the root.
fn settings(config: &Path, archive: &Path) -> String {
    let mut settings: toml::Table = fs::read_to_string(config).expect("ours").parse().expect("settings");
    for (key, path) in [("archive_identity_file", "/key"), ("archive_known_hosts", "/known_hosts")] {
        settings.insert(key.into(), path.into());
    }
    settings.insert("archive_dir".into(), archive.to_str().expect("plain").into());
    settings.insert("spool_dir".into(), "/state/spool".into());
    settings.insert("pg_sslmode".into(), "verify-full".into());
    settings.insert("pg_host".into(), "127.0.0.1".into());
    settings.to_string()
}

fn json(ran: &Output) -> Value {
    let words =
        || format!("{}\n{}", String::from_utf8_lossy(&ran.stdout), String::from_utf8_lossy(&ran.stderr));
    serde_json::from_slice(&ran.stdout).unwrap_or_else(|error| panic!("{error}: {}", words()))
}

fn level(checked: &Value, subject: &str) -> Value {
    let findings = checked["findings"].as_array().expect("a list");
    let found = findings.iter().find(|finding| finding["subject"] == subject);
    found.unwrap_or_else(|| panic!("{subject} in {checked}")).clone()
}

async fn world(authority: &Authority) -> World {
    let (certificate, key) = authority.sign("server", "IP:127.0.0.1");
    let tls = |server: syncdata_tests::PostgresOptions| server.tls(&certificate, &key);
    let world = WorldOptions::default().source(tls).target(tls).start().await;
    world.execute_on_both("CREATE TABLE users (id int PRIMARY KEY, name text)").await;
    world.source.execute("SELECT pg_create_logical_replication_slot('syncdata_slot', 'wal2json')").await;
    world.source.execute("INSERT INTO users VALUES (1, 'a')").await;
    world.archiver(["run", "--once"]).succeed().await;
    world.applier(["add-tables", "users"]).succeed().await;
    world.applier(["sync"]).succeed().await;
    world
}

#[tokio::test]
async fn the_programs_of_the_tarball_need_nothing_but_glibc() {
    let folder = tempfile::tempdir().expect("a folder");
    let unpacked = unpacked(folder.path());
    for program in PROGRAMS {
        let needed = needed(&unpacked.join("bin").join(format!("syncdata-{program}")));
        assert!(needed.iter().any(|library| library == "libc.so.6"), "{needed:?}");
        for library in needed {
            assert!(GLIBC.iter().any(|known| library.starts_with(known)), "{program} needs {library}");
        }
    }

    let authority = Authority::new();
    let world = world(&authority).await;
    let root = Root::new(&unpacked);
    root.put(&world.backup.identity_file(), "key");
    root.put(&world.backup.known_hosts(), "known_hosts");
    root.put(&authority.certificate(), "home/.postgresql/root.crt");
    for (program, config) in [("archiver", world.archiver_config()), ("applier", world.applier_config())] {
        let binary = root.0.path().join(format!("syncdata-{program}"));
        fs::copy(unpacked.join("bin").join(format!("syncdata-{program}")), &binary).expect("readable");
        let config_file = folder.path().join(format!("{program}.toml"));
        fs::write(&config_file, settings(config, world.archive_dir())).expect("ours");
        root.put(&config_file, &format!("{program}.toml"));
        let version = root.run(program, &["--version"]);
        assert_eq!(
            text(&version.stdout),
            format!("syncdata-{program} {}\n", env!("CARGO_PKG_VERSION")),
            "{version:?}"
        );

        let config = format!("/{program}.toml");
        let verified = json(&root.run(program, &["verify", "--json", "--config", &config]));
        assert_eq!((&verified["sound"], &verified["segments"]), (&true.into(), &1.into()), "{verified}");
        assert!(verified["archive"].as_str().is_some_and(|place| place.starts_with("sftp://")), "{verified}");
        let checked = json(&root.run(program, &["check", "--json", "--config", &config]));
        let tls = level(&checked, "TLS");
        assert_eq!(tls["level"], "ok", "{checked}");
        assert!(tls["message"].as_str().is_some_and(|words| words.contains("verify-full")), "{checked}");
        assert_eq!(level(&checked, "archive")["level"], "ok", "{checked}");
    }
}
