//! The hosts of a page: a shell on each of them, and the daemons.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::time::{Duration, Instant};

use rustix::process::Signal;
use syncdata_tests::{Daemon, PostgresServer, World, program};
use tempfile::TempDir;
use toml::{Table, Value};

use super::page::{Command, Settings, Step, first_missing};

/// What is not run as it stands, and why.
const PLAYED: [(&str, &str); 2] = [
    ("systemctl", "no service manager in a test: the daemons are started and stopped in its place"),
    ("pg_ctl promote", "the standby is a copy of production's server, made and promoted at that moment"),
];

const PATIENCE: Duration = Duration::from_secs(60);

/// What a command came to.
struct Output {
    code: Option<i32>,
    stdout: String,
    stderr: String,
}

pub(super) struct Scene {
    pub world: World,
    daemons: BTreeMap<String, Daemon>,
    /// After a promotion: takes production's place once the archiver is pointed at it.
    standby: Option<PostgresServer>,
    /// The former primary: it runs on, and nobody asks it any more.
    left: Option<PostgresServer>,
    /// Where the shells are.
    folder: TempDir,
    /// Where the applier listens.
    address: String,
}

impl Scene {
    pub(super) fn of(world: World) -> Scene {
        let folder = tempfile::tempdir().expect("a folder");
        let address = syncdata_tests::free_address();
        Scene { world, daemons: BTreeMap::new(), standby: None, left: None, folder, address }
    }

    pub(super) async fn play(&mut self, steps: Vec<Step<'_>>) {
        for step in steps {
            match step {
                Step::Command(command) => self.carry_out(&command).await,
                Step::Settings(settings) => self.set(&settings),
            }
        }
    }

    /// The one document that a command of ours prints.
    pub(super) async fn document(&self, command: &str) -> serde_json::Value {
        let host = if command.starts_with("syncdata-archiver") { "production" } else { "local" };
        let Output { stdout, stderr, .. } = self.shell(host, command).await;
        serde_json::from_str(&stdout).unwrap_or_else(|error| panic!("{command}: {error}\n{stdout}\n{stderr}"))
    }

    pub(super) async fn stop_all(&mut self) {
        while let Some((_, daemon)) = self.daemons.pop_first() {
            daemon.stop().await.expect_code(0);
        }
    }

    async fn carry_out(&mut self, command: &Command<'_>) {
        if let Some((_, arguments)) = PLAYED.iter().find_map(|(name, _)| command.line.split_once(name)) {
            match command.host {
                "standby" => self.standby = Some(self.world.source.copied(true).await),
                host => self.service(host, arguments.trim()).await,
            }
            return;
        }
        let Output { code, stdout, stderr } = self.shell(command.host, command.line).await;
        let printed = stdout + &stderr;
        let shown =
            format!("{}: {}# {}\nexit code {code:?}\n{printed}", command.under, command.host, command.line);
        assert_eq!(code, Some(command.exit_code), "{shown}");
        let wanted: Vec<String> = command.prints.iter().map(|line| self.in_this_world(line)).collect();
        let wanted: Vec<&str> = wanted.iter().map(String::as_str).collect();
        let missing = first_missing(&wanted, &printed);
        assert_eq!(missing, None, "not printed, or not in this order: {shown}");
    }

    /// Every line of a block of settings goes into the file that it names.
    fn set(&mut self, settings: &Settings<'_>) {
        let text = self.in_this_world(&settings.text);
        let mut table: Table = text.parse().unwrap_or_else(|error| panic!("{}: {error}", settings.under));
        if table.get("pg_host").and_then(Value::as_str) == Some("standby.example.org") {
            let standby = self.standby.take().expect("a standby was promoted before it is named");
            table.insert("pg_host".into(), standby.host().into());
            table.insert("pg_port".into(), i64::from(standby.port()).into());
            self.left = Some(std::mem::replace(&mut self.world.source, standby));
        }
        for (key, value) in table {
            match settings.file {
                "/etc/syncdata/archiver.toml" => self.world.set_archiver(&key, value),
                "/etc/syncdata/applier.toml" => self.world.set_applier(&key, value),
                other => panic!("nobody reads {other}"),
            }
        }
    }

    /// Paths of the page, where they are here.
    fn in_this_world(&self, text: &str) -> String {
        let archive = self.world.archive_dir().display().to_string();
        let places = [
            ("/srv/syncdata/app2", format!("{archive}2")),
            ("\"/app2\"", format!("\"{archive}2\"")),
            ("/srv/syncdata/app", archive),
            // This machine has no such account.
            ("-o syncdata -g syncdata ", String::new()),
            ("-g syncdata ", String::new()),
            ("/var/lib/syncdata/changes", self.world.spool_dir().display().to_string()),
            ("/etc/syncdata/api_tokens", self.folder.path().join("api_tokens").display().to_string()),
            ("127.0.0.1:9187", self.address.clone()),
        ];
        places.iter().fold(text.to_owned(), |text, (page, here)| text.replace(page, here))
    }

    async fn shell(&self, host: &str, line: &str) -> Output {
        let programs = program::program("syncdata-archiver");
        program::program("syncdata-applier");
        let mut path = OsString::from(programs.parent().expect("a program lies in a folder"));
        let (run, server) = match host {
            "local" => (self.world.applier(["status"]), &self.world.target),
            _ => (self.world.archiver(["status"]), &self.world.source),
        };
        let servers = server.installation().program("psql");
        for folder in [servers.parent().expect("a program lies in a folder").into(), env_path()] {
            path.push(":");
            path.push(folder);
        }
        let mut shell = tokio::process::Command::new("sh");
        shell.arg("-c").arg(self.in_this_world(line)).current_dir(self.folder.path()).kill_on_drop(true);
        shell.env_clear().envs(run.environment().iter().cloned()).env("PATH", path).env("LC_ALL", "C.UTF-8");
        shell
            .env("PGHOST", server.host())
            .env("PGPORT", server.port().to_string())
            .env("PGUSER", server.user());
        shell.stdin(std::process::Stdio::null());
        let output = tokio::time::timeout(PATIENCE, shell.output()).await;
        let output =
            output.unwrap_or_else(|_| panic!("{line} does not end")).expect("a shell can be started");
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        Output { code: output.status.code(), stdout: text(&output.stdout), stderr: text(&output.stderr) }
    }

    /// `systemctl start syncdata-applier`.
    async fn service(&mut self, host: &str, arguments: &str) {
        let (verb, unit) = arguments.split_once(' ').expect("a verb and a unit");
        match verb {
            "start" => {
                let program = match unit {
                    "syncdata-archiver" => self.world.archiver(["run"]),
                    "syncdata-applier" => self.world.applier(["start"]),
                    other => panic!("there is no unit {other}"),
                };
                let before = self.daemons.insert(unit.to_owned(), program.spawn());
                assert!(before.is_none(), "{unit} is running already");
                self.wait_until_active(host, unit).await;
            }
            "stop" => {
                if let Some(daemon) = self.daemons.remove(unit) {
                    daemon.stop().await.expect_code(0);
                }
            }
            "reload" => {
                let daemon = self.daemons.get_mut(unit).unwrap_or_else(|| panic!("{unit} does not run"));
                daemon.signal(Signal::HUP);
                daemon.says("settings reloaded").await;
            }
            other => panic!("nobody knows how to {other} {unit}"),
        }
    }

    async fn wait_until_active(&self, host: &str, unit: &str) {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let printed = self.shell(host, &format!("{unit} status")).await.stdout;
            if printed.contains("status: active")
                && !printed.contains("last sync: -")
                && !printed.contains("last poll: -")
            {
                return;
            }
            assert!(Instant::now() < deadline, "{unit} does not answer\n{printed}");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }
}

fn env_path() -> OsString {
    std::env::var_os("PATH").unwrap_or_default()
}
