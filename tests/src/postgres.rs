//! A throw-away PostgreSQL server: its own folder, a free loopback port, stopped when it is dropped.
//!
//! Everything about it is real but one thing: it does not wait for the disk (`fsync = off`), unless a test
//! asks for it with [`PostgresOptions::durable`].

mod options;

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use postgres_protocol::escape::escape_identifier;
use rustix::process::Signal;
use tokio_postgres::{Client, Config, NoTls, SimpleQueryMessage};

use crate::installation::Installation;
use crate::ports::free_port;
use crate::process::{Account, Process};
use crate::scratch::{self, Scratch};
pub use options::PostgresOptions;

/// A server starts within a second; a machine under load gets a minute.
const PATIENCE: Duration = Duration::from_secs(60);

/// How `pg_ctl stop -m` calls them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StopMode {
    /// Sessions are ended, a checkpoint is written.
    Fast,
    /// As a crash: what was not checkpointed is recovered from WAL at the next start.
    Immediate,
}

/// See the module.
#[derive(Debug)]
pub struct PostgresServer {
    installation: Installation,
    account: Account,
    folder: Scratch,
    port: u16,
    database: String,
    process: Option<Process>,
}

impl PostgresServer {
    pub async fn start() -> PostgresServer {
        PostgresServer::start_with(PostgresOptions::default()).await
    }

    pub async fn start_with(options: PostgresOptions) -> PostgresServer {
        // initdb and the copy of its result block for a while: two servers can start side by side.
        let prepared = tokio::task::spawn_blocking(|| PostgresServer::prepare(options)).await;
        let mut server = prepared.expect("a server's folder can be prepared");
        server.start_on_a_free_port().await;
        server
    }

    pub fn installation(&self) -> &Installation {
        &self.installation
    }

    /// Holds the data folder, the log and the unix socket.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    pub fn data_folder(&self) -> PathBuf {
        self.folder().join("data")
    }

    /// The folder of the unix socket, as `pg_host` takes it.
    pub fn socket_folder(&self) -> &Path {
        self.folder.path()
    }

    pub fn host(&self) -> &'static str {
        "127.0.0.1"
    }

    pub fn port(&self) -> u16 {
        self.port
    }

    /// The superuser; it needs no password.
    pub fn user(&self) -> &'static str {
        "postgres"
    }

    pub fn database(&self) -> &str {
        &self.database
    }

    /// From here on, [`PostgresServer::connect`] goes to that database.
    pub fn use_database(&mut self, name: &str) {
        self.database = name.into();
    }

    /// What the server has written to its log so far.
    pub fn log(&self) -> String {
        let log = fs::read(self.log_file()).expect("a server has a log");
        String::from_utf8_lossy(&log).into_owned()
    }

    /// The superuser over the unix socket, which no pg_hba line or certificate can close.
    pub fn config(&self) -> Config {
        let mut config = Config::new();
        config.host_path(self.socket_folder()).port(self.port);
        config.user(self.user()).dbname(&self.database).application_name("syncdata-tests");
        // A test that waits for a lock which nobody lets go would say nothing until its stage is cut off.
        config.options("-c lock_timeout=120s");
        config
    }

    pub async fn connect(&self) -> Client {
        connect(&self.config()).await.unwrap_or_else(|error| self.fail(&error))
    }

    pub async fn connect_to(&self, database: &str) -> Client {
        let mut config = self.config();
        connect(config.dbname(database)).await.unwrap_or_else(|error| self.fail(&error))
    }

    /// Runs statements, in a session of their own.
    pub async fn execute(&self, sql: &str) {
        let done = self.connect().await.batch_execute(sql).await;
        done.unwrap_or_else(|error| panic!("{sql}: {}", words(&error)));
    }

    /// Every row as text, as PostgreSQL prints it.
    pub async fn query(&self, sql: &str) -> Vec<Vec<Option<String>>> {
        let answer = self.connect().await.simple_query(sql).await;
        let answer = answer.unwrap_or_else(|error| panic!("{sql}: {}", words(&error)));
        let row = |message: &SimpleQueryMessage| match message {
            SimpleQueryMessage::Row(row) => {
                Some((0..row.len()).map(|column| row.get(column).map(str::to_owned)).collect())
            }
            _ => None,
        };
        answer.iter().filter_map(row).collect()
    }

    /// The first column of the only row.
    pub async fn value(&self, sql: &str) -> String {
        let mut rows = self.query(sql).await;
        assert_eq!(rows.len(), 1, "{sql}: one row was expected, not {rows:?}");
        let value = rows.remove(0).into_iter().next().flatten();
        value.unwrap_or_else(|| panic!("{sql}: NULL was not expected"))
    }

    /// Another server with a copy of this one's folder, slots included, as a standby has it or a backup of the
    /// whole machine. Both are running afterwards; the copy goes its own way from here on.
    pub async fn copied(&mut self, promoted: bool) -> PostgresServer {
        let mut copy = self.copy();
        if promoted {
            // Recovers what is there, and begins a timeline of its own.
            copy.append_setting("restore_command", "false");
            let signal = copy.data_folder().join("recovery.signal");
            fs::write(&signal, "").expect("our folder");
            copy.account.give(&signal);
        }
        copy.start_on_a_free_port().await;
        if promoted {
            copy.wait_until_promoted().await;
        }
        self.resume().await;
        copy
    }

    /// A standby that follows this server through the physical slot `slot`, and may take its slots over. Needs a line
    /// of pg_hba.conf for replication over the socket.
    pub async fn standby(&mut self, slot: &str) -> PostgresServer {
        let mut standby = self.copy();
        let slots = standby.data_folder().join("pg_replslot");
        for kept in fs::read_dir(&slots).expect("our folder").flatten() {
            fs::remove_dir_all(kept.path()).expect("our folder");
        }
        let (socket, port) = (self.socket_folder().display().to_string(), self.port);
        let primary = format!("host={socket} port={port} user={} dbname={}", self.user(), self.database);
        standby.append_setting("primary_conninfo", &primary);
        standby.append_setting("primary_slot_name", slot);
        standby.append_setting("hot_standby_feedback", "on");
        let signal = standby.data_folder().join("standby.signal");
        fs::write(&signal, "").expect("our folder");
        standby.account.give(&signal);
        self.resume().await;
        standby.start_on_a_free_port().await;
        standby
    }

    /// Ends its recovery.
    pub async fn promote(&self) {
        self.execute("SELECT pg_promote()").await;
        self.wait_until_promoted().await;
    }

    /// Stops this server and takes a copy of it with addresses of its own.
    fn copy(&mut self) -> PostgresServer {
        self.stop(StopMode::Fast);
        let folder = Scratch::new("pg");
        self.account.give(folder.path());
        copy_folder(&self.data_folder(), &folder.path().join("data"));
        let copy = PostgresServer {
            installation: self.installation.clone(),
            account: self.account.clone(),
            port: free_port(),
            folder,
            database: self.database.clone(),
            process: None,
        };
        copy.append_setting("port", &copy.port.to_string());
        copy.append_setting("unix_socket_directories", &copy.socket_folder().display().to_string());
        copy
    }

    /// A server answers before its recovery has ended.
    async fn wait_until_promoted(&self) {
        let deadline = Instant::now() + PATIENCE;
        while self.value("SELECT pg_is_in_recovery()").await != "f" {
            assert!(Instant::now() < deadline, "the recovery does not end\n{}", self.log());
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// Starts a stopped server again, on the same port.
    pub async fn resume(&mut self) {
        assert!(self.process.is_none(), "the server is running");
        self.spawn();
        self.wait_until_ready().await.unwrap_or_else(|reason| panic!("{reason}"));
    }

    pub fn stop(&mut self, mode: StopMode) {
        let Some(mut process) = self.process.take() else { return };
        process.signal(match mode {
            StopMode::Fast => Signal::INT,
            StopMode::Immediate => Signal::QUIT,
        });
        process.wait(PATIENCE);
    }

    /// Stops as if the power had gone, but for what the operating system still holds.
    pub fn crash(&mut self) {
        self.stop(StopMode::Immediate);
    }

    pub async fn restart(&mut self) {
        self.stop(StopMode::Fast);
        self.resume().await;
    }

    /// Runs one of the installation's programs on the folder of the stopped server, as its owner.
    pub fn run(&self, program: &str, arguments: &[&str]) {
        let mut command = Command::new(self.installation.program(program));
        self.account.run(command.args(arguments));
    }

    /// Makes a file in the data folder the server's own.
    pub fn give(&self, file: &Path) {
        self.account.give(file);
    }

    /// Adds a line to postgresql.conf; takes effect at the next reload or start.
    pub fn append_setting(&self, name: &str, value: &str) {
        append(&self.data_folder().join("postgresql.conf"), &setting_line(name, value));
    }

    /// Makes the server read its files again, as `pg_ctl reload` does.
    pub fn reload(&self) {
        self.process.as_ref().expect("the server is running").signal(Signal::HUP);
    }

    /// Between finding a free port and using it somebody else may take it.
    async fn start_on_a_free_port(&mut self) {
        for _ in 0..5 {
            self.spawn();
            match self.wait_until_ready().await {
                Ok(()) => return,
                Err(_) if self.log().contains("Address already in use") => {
                    self.process = None;
                    self.port = free_port();
                    self.append_setting("port", &self.port.to_string());
                }
                Err(reason) => panic!("{reason}"),
            }
        }
        panic!("no port stayed free\n{}", self.log());
    }

    fn spawn(&mut self) {
        let mut command = Command::new(self.installation.program("postgres"));
        command.arg("-D").arg(self.data_folder());
        // Else every session would look up by itself what it calls.
        command.env("LD_BIND_NOW", "1");
        self.process = Some(Process::spawn(&command, &self.account, "QUIT", &self.log_file()));
    }

    fn prepare(options: PostgresOptions) -> PostgresServer {
        let installation = options.installation.clone().unwrap_or_else(Installation::chosen);
        let account = Account::unprivileged();
        let folder = Scratch::new("pg");
        account.give(folder.path());
        let data = folder.path().join("data");
        if options.own_cluster {
            make_cluster(&installation, &account, &data, &options.database);
        } else {
            copy_folder(&template(&installation, &account, &options.database), &data);
        }
        let server = PostgresServer {
            installation,
            account,
            port: free_port(),
            folder,
            database: options.database.clone(),
            process: None,
        };
        server.configure(&options);
        server
    }

    fn configure(&self, options: &PostgresOptions) {
        let data = self.data_folder();
        let mut text = String::new();
        let mut set = |name: &str, value: &str| text.push_str(&setting_line(name, value));
        set("port", &self.port.to_string());
        set("unix_socket_directories", &self.socket_folder().display().to_string());
        BASE_SETTINGS.iter().for_each(|(name, value)| set(name, value));
        // Minor releases from August 2026 on load no other plugin; older ones refuse to start with the line.
        if self.installation.knows_setting("output_plugin_libraries") {
            set("output_plugin_libraries", "pgoutput, test_decoding, wal2json");
        }
        if let Some(tls) = &options.tls {
            self.install(&tls.certificate, "server.crt");
            self.install(&tls.key, "server.key");
            set("ssl", "on");
        }
        options.settings.iter().for_each(|(name, value)| set(name, value));
        append(&data.join("postgresql.conf"), &text);
        let everybody = ["host all all 127.0.0.1/32 trust".to_owned()];
        let hba = if options.hba.is_empty() { &everybody[..] } else { &options.hba };
        let hba = format!("local all all trust\n{}\n", hba.join("\n"));
        fs::write(data.join("pg_hba.conf"), hba).expect("pg_hba.conf is writable");
    }

    /// PostgreSQL wants its key file to be its own and nobody else's.
    fn install(&self, file: &Path, name: &str) {
        use std::os::unix::fs::PermissionsExt as _;
        let path = self.data_folder().join(name);
        fs::copy(file, &path).unwrap_or_else(|error| panic!("{}: {error}", file.display()));
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).expect("the file is ours");
        self.account.give(&path);
    }

    fn log_file(&self) -> PathBuf {
        self.folder().join("server.log")
    }

    /// As `pg_ctl -w start` does: the postmaster writes its state into its pid file.
    async fn wait_until_ready(&mut self) -> Result<(), String> {
        let deadline = Instant::now() + PATIENCE;
        let pid_file = self.data_folder().join("postmaster.pid");
        loop {
            let process = self.process.as_mut().expect("the server was started");
            let text = fs::read_to_string(&pid_file).unwrap_or_default();
            if is_ready(&text, process.id()) {
                return Ok(());
            }
            if let Some(status) = process.ended() {
                return Err(format!("the server did not start: {status}\n{}", self.log()));
            }
            if Instant::now() > deadline {
                return Err(format!("the server did not get ready\n{}", self.log()));
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    fn fail(&self, error: &tokio_postgres::Error) -> Client {
        panic!("cannot connect: {}\nthe server's log:\n{}", words(error), self.log())
    }
}

impl Drop for PostgresServer {
    fn drop(&mut self) {
        self.stop(StopMode::Immediate);
    }
}

const BASE_SETTINGS: &[(&str, &str)] = &[
    ("listen_addresses", "127.0.0.1"),
    ("wal_level", "logical"),
    ("max_wal_senders", "10"),
    ("max_replication_slots", "20"),
    ("max_connections", "60"),
    ("max_prepared_transactions", "10"),
    ("shared_buffers", "64MB"),
    ("fsync", "off"),
    ("jit", "off"),
    ("timezone", "UTC"),
    ("log_timezone", "UTC"),
    ("log_line_prefix", "%m [%p] %q%u@%d "),
];

/// Connects and drives the connection until the client is dropped.
pub async fn connect(config: &Config) -> Result<Client, tokio_postgres::Error> {
    let (client, connection) = config.connect(NoTls).await?;
    // How a connection ended, the client's next call says.
    tokio::spawn(connection);
    Ok(client)
}

fn words(error: &tokio_postgres::Error) -> String {
    error.as_db_error().map_or_else(|| format!("{error:?}"), ToString::to_string)
}

fn setting_line(name: &str, value: &str) -> String {
    format!("{name} = '{}'\n", value.replace('\\', "\\\\").replace('\'', "''"))
}

fn append(path: &Path, text: &str) {
    let file = File::options().append(true).open(path);
    let mut file = file.unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    std::io::Write::write_all(&mut file, text.as_bytes()).expect("the file is writable");
}

fn is_ready(pid_file: &str, pid: u32) -> bool {
    let mut lines = pid_file.lines();
    lines.next() == Some(&pid.to_string())
        && lines.nth(6).map(str::trim).is_some_and(|state| state == "ready" || state == "standby")
}

/// The result of one initdb with that database, which every such server of this installation starts from.
fn template(installation: &Installation, account: &Account, database: &str) -> PathBuf {
    let plain = |c: char| if c.is_ascii_alphanumeric() { c } else { '_' };
    let version = installation.version().chars().map(plain).collect::<String>();
    // Any name can be a file's name in hexadecimal digits.
    let database_digits: String = database.bytes().map(|byte| format!("{byte:02x}")).collect();
    let name = format!("initdb-{version}-{database_digits}");
    let finished = scratch::shared().join(&name);
    // Several test processes start at once: the first one makes it, the others wait.
    let lock = File::create(finished.with_extension("lock")).expect("target is writable");
    lock.lock().expect("a lock file can be locked");
    if !finished.exists() {
        // Made in a folder that the server's account can reach, whoever may enter the one of the sources.
        let folder = Scratch::new("initdb");
        account.give(folder.path());
        let data = folder.path().join("data");
        make_cluster(installation, account, &data, database);
        let unfinished = finished.with_extension("part");
        fs::remove_dir_all(&unfinished).ok();
        make_sparse(&data, &unfinished);
        fs::rename(&unfinished, &finished).expect("target is writable");
    }
    finished
}

/// initdb, and the database in the same cluster: made by each server anew, it would take longer than its start.
fn make_cluster(installation: &Installation, account: &Account, data: &Path, database: &str) {
    let mut command = Command::new(installation.program("initdb"));
    command.arg("-D").arg(data).args(["-U", "postgres", "-A", "trust", "-E", "UTF8", "--no-sync"]);
    account.run(command.args(["--locale=C.UTF-8"]));
    if database == "postgres" {
        return;
    }
    let mut command = Command::new(installation.program("postgres"));
    command.args(["--single", "-F", "-D"]).arg(data).arg("postgres");
    let sql = format!("CREATE DATABASE {};\n", escape_identifier(database));
    account.run_with_input(&command, &sql);
    // What was written for it is in no copy's way then.
    let mut command = Command::new(installation.program("pg_resetwal"));
    account.run(command.arg(data));
}

fn copy_folder(from: &Path, to: &Path) {
    let mut command = Command::new("cp");
    command.args(["-a", "--reflink=auto", "--"]).arg(from).arg(to);
    Account::own().run(&command);
}

/// A copy without the zeros, of which WAL that nobody has written yet is made: neither it nor copies of it carry them.
fn make_sparse(from: &Path, to: &Path) {
    let mut command = Command::new("cp");
    command.args(["-a", "--sparse=always", "--"]).arg(from).arg(to);
    Account::own().run(&command);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pid_file_of_an_earlier_postmaster_is_not_ready() {
        let file = |state: &str| format!("77\n/data\n1700000000\n5432\n/tmp\n127.0.0.1\n  1  2\n{state}\n");
        assert!(is_ready(&file("ready   "), 77));
        assert!(!is_ready(&file("ready   "), 78));
        assert!(!is_ready(&file("starting"), 77));
        assert!(!is_ready("77\n/data\n", 77));
    }

    #[test]
    fn quotes_values_of_settings() {
        assert_eq!(setting_line("a", r"it's \ b"), "a = 'it''s \\\\ b'\n");
    }
}
