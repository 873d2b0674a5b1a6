//! A whole world: production, backup host and local server, with the programs between them.

use std::ffi::OsStr;
use std::fmt::Write as _;
use std::fs;
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use postgres_protocol::escape::{escape_identifier, escape_literal};
use toml::{Table, Value};

use crate::postgres::{PostgresOptions, PostgresServer};
use crate::program::Program;
use crate::scratch::Scratch;
use crate::sshd::{self, Sshd};
use crate::store::{Place, Who};

/// How a world differs from the ordinary one.
#[derive(Debug)]
#[must_use]
pub struct WorldOptions {
    source: PostgresOptions,
    target: PostgresOptions,
    backup: sshd::Options,
    over_sftp: Option<bool>,
    storage: Option<SocketAddr>,
    plugin: Plugin,
    archiver: Table,
    applier: Table,
}

impl Default for WorldOptions {
    fn default() -> WorldOptions {
        WorldOptions {
            source: PostgresOptions::default().database("app"),
            target: PostgresOptions::default().database("reporting"),
            backup: sshd::Options::default(),
            over_sftp: None,
            storage: None,
            plugin: Plugin::chosen(),
            archiver: Table::new(),
            applier: Table::new(),
        }
    }
}

impl WorldOptions {
    pub fn source(mut self, change: impl FnOnce(PostgresOptions) -> PostgresOptions) -> Self {
        self.source = change(self.source);
        self
    }

    pub fn target(mut self, change: impl FnOnce(PostgresOptions) -> PostgresOptions) -> Self {
        self.target = change(self.target);
        self
    }

    pub fn backup(mut self, options: sshd::Options) -> Self {
        self.backup = options;
        // Who chooses it has it used.
        self.over_sftp.get_or_insert(true);
        self
    }

    /// Both programs take the archive for a local folder: quicker, where a test is not about the way.
    pub fn without_sftp(mut self) -> Self {
        self.over_sftp = Some(false);
        self
    }

    /// Whatever `SYNCDATA_TEST_ARCHIVE` says: something befalls the backup host.
    pub fn over_sftp(mut self) -> Self {
        self.over_sftp = Some(true);
        self
    }

    /// The archive is on object storage, which is asked at that address.
    pub fn on_storage(mut self, address: SocketAddr) -> Self {
        self.storage = Some(address);
        self
    }

    pub fn plugin(mut self, plugin: Plugin) -> Self {
        self.plugin = plugin;
        self
    }

    /// A setting of the archiver's file, instead of the world's own or beside them.
    pub fn archiver_setting(mut self, key: &str, value: impl Into<Value>) -> Self {
        self.archiver.insert(key.into(), value.into());
        self
    }

    pub fn applier_setting(mut self, key: &str, value: impl Into<Value>) -> Self {
        self.applier.insert(key.into(), value.into());
        self
    }

    pub async fn start(self) -> World {
        let WorldOptions { source, target, backup, over_sftp, storage, plugin, mut archiver, applier } = self;
        let source = match plugin {
            Plugin::Triggers => source.setting("wal_level", "replica"),
            Plugin::Wal2json | Plugin::Pgoutput => source,
        };
        let backup = tokio::task::spawn_blocking(move || Sshd::start_with(backup));
        let (source, target, backup) =
            tokio::join!(PostgresServer::start_with(source), PostgresServer::start_with(target), async {
                backup.await.expect("sshd starts")
            });
        source.execute(&format!("CREATE ROLE {ARCHIVER_ROLE} LOGIN REPLICATION BYPASSRLS")).await;
        source.execute(&format!("GRANT pg_read_all_data TO {ARCHIVER_ROLE}")).await;
        match plugin {
            Plugin::Wal2json => {}
            Plugin::Pgoutput => drop(archiver.entry("source").or_insert("pgoutput".into())),
            Plugin::Triggers => drop(archiver.entry("source").or_insert("triggers".into())),
        }
        let folder = Scratch::new("world");
        let mut world = World {
            archiver_host: Host::new(folder.path(), "archiver"),
            applier_host: Host::new(folder.path(), "applier"),
            source,
            target,
            backup,
            place: storage.map(|_| Place::new()),
            plugin,
            folder,
        };
        let archive = match storage {
            Some(address) => world.storage_settings(address),
            None => world.archive_settings(over_sftp.unwrap_or_else(is_sftp_chosen)),
        };
        world.write_settings(archive, archiver, applier);
        world
    }
}

/// `SYNCDATA_TEST_ARCHIVE=directory` spares the scenarios that are not about the way the way over SFTP.
fn is_sftp_chosen() -> bool {
    match std::env::var("SYNCDATA_TEST_ARCHIVE").as_deref() {
        Ok("directory") => false,
        Ok("sftp") | Err(_) => true,
        Ok(other) => panic!("SYNCDATA_TEST_ARCHIVE={other}: sftp or directory"),
    }
}

/// How production is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Plugin {
    Wal2json,
    Pgoutput,
    /// Without a slot, where none could be.
    Triggers,
}

impl Plugin {
    /// `SYNCDATA_TEST_SOURCE=pgoutput` (or triggers) runs the scenarios of a world with that one.
    fn chosen() -> Plugin {
        match std::env::var("SYNCDATA_TEST_SOURCE").as_deref() {
            Ok("pgoutput") => Plugin::Pgoutput,
            Ok("triggers") => Plugin::Triggers,
            Ok("wal2json") | Err(_) => Plugin::Wal2json,
            Ok(other) => panic!("SYNCDATA_TEST_SOURCE={other}: wal2json, pgoutput or triggers"),
        }
    }
}

/// Reads production's slot and tables, without being its superuser: as `setup --create-user` makes it.
pub const ARCHIVER_ROLE: &str = "syncdata_user";

/// See the module. Everything stops and vanishes when it is dropped.
#[derive(Debug)]
pub struct World {
    /// Production.
    pub source: PostgresServer,
    /// The local server.
    pub target: PostgresServer,
    pub backup: Sshd,
    /// Where the archive is instead, if it is on object storage.
    pub place: Option<Place>,
    pub plugin: Plugin,
    archiver_host: Host,
    applier_host: Host,
    folder: Scratch,
}

impl World {
    pub async fn start() -> World {
        WorldOptions::default().start().await
    }

    /// A run of `syncdata-archiver` with these arguments.
    pub fn archiver<A: AsRef<OsStr>>(&self, arguments: impl IntoIterator<Item = A>) -> Program {
        self.archiver_host.program("syncdata-archiver", arguments)
    }

    /// A run of `syncdata-applier` with these arguments.
    pub fn applier<A: AsRef<OsStr>>(&self, arguments: impl IntoIterator<Item = A>) -> Program {
        self.applier_host.program("syncdata-applier", arguments)
    }

    /// Production keeps its changes from now on. The tables are there already.
    pub async fn make_slot(&self) {
        match self.plugin {
            Plugin::Wal2json => {
                self.source
                    .execute("SELECT pg_create_logical_replication_slot('syncdata_slot', 'wal2json')")
                    .await;
            }
            Plugin::Pgoutput => self.run_as_told(["setup", "--create-slot"]).await,
            Plugin::Triggers => self.run_as_told(["setup", "--create-triggers"]).await,
        }
    }

    /// A superuser runs what the archiver prints. What tables without an identity could be given is for their owners.
    pub async fn run_as_told<A: AsRef<OsStr>>(&self, arguments: impl IntoIterator<Item = A>) {
        let told = self.archiver(arguments).run().await;
        for statement in told.stdout.lines().filter(|line| !line.starts_with("ALTER TABLE")) {
            self.source.execute(statement).await;
        }
    }

    /// One poll and one pass, both clean.
    pub async fn carry(&self) {
        self.archiver(["run", "--once"]).succeed().await;
        self.applier(["sync"]).succeed().await;
    }

    /// Changes a setting of the archiver's file; a running daemon does not see it before SIGHUP.
    pub fn set_archiver(&mut self, key: &str, value: impl Into<Value>) {
        self.archiver_host.set(key, value.into());
    }

    pub fn set_applier(&mut self, key: &str, value: impl Into<Value>) {
        self.applier_host.set(key, value.into());
    }

    pub fn archiver_config(&self) -> &Path {
        &self.archiver_host.config
    }

    pub fn applier_config(&self) -> &Path {
        &self.applier_host.config
    }

    /// The archive as it lies on the backup host's disk.
    pub fn archive_dir(&self) -> &Path {
        self.backup.archive_dir()
    }

    /// The place of an archive on object storage.
    pub fn place(&self) -> &Place {
        self.place.as_ref().expect("the world was started on_storage")
    }

    /// A copy of an archive on object storage, as it is now.
    pub fn downloaded(&self) -> PathBuf {
        let folder = self.folder().join("downloaded");
        self.place().download(&folder);
        folder
    }

    pub fn spool_dir(&self) -> PathBuf {
        self.archiver_host.folder.join("spool")
    }

    /// Settings, state and logs of both programs.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// Runs the same statements in both databases: the tables of both sides.
    pub async fn execute_on_both(&self, sql: &str) {
        self.source.execute(sql).await;
        self.target.execute(sql).await;
    }

    /// # Panics
    /// With the rows that differ, when a table does not hold the same rows on both sides.
    pub async fn assert_same<T: AsRef<str>>(&self, tables: &[T]) {
        for table in tables {
            if let Some(difference) = self.difference(table.as_ref()).await {
                panic!("{difference}");
            }
        }
    }

    /// What differs, in words; `None` when both sides hold the same rows. `table` is SQL: a name in quotes if
    /// it needs them. Rows are compared by the text of the source's columns.
    pub async fn difference(&self, table: &str) -> Option<String> {
        let image = self.image_of_a_row(table).await;
        let digest = format!(
            "SELECT count(*), md5(string_agg(md5(image), '' ORDER BY image)) FROM
             (SELECT ({image}) COLLATE \"C\" AS image FROM {table}) images"
        );
        let (source, target) = (self.source.query(&digest).await, self.target.query(&digest).await);
        if source == target {
            return None;
        }
        let rows = format!("SELECT ({image}) COLLATE \"C\" FROM {table} ORDER BY 1");
        let (source, target) = (self.source.query(&rows).await, self.target.query(&rows).await);
        Some(describe(table, &source, &target))
    }

    async fn image_of_a_row(&self, table: &str) -> String {
        let regclass = escape_literal(table);
        let columns = self
            .source
            .query(&format!(
                "SELECT attname FROM pg_attribute WHERE attrelid = {regclass}::regclass
                 AND attnum > 0 AND NOT attisdropped ORDER BY attnum"
            ))
            .await;
        let columns = columns.into_iter().flatten().flatten();
        let columns: Vec<_> = columns.map(|name| escape_identifier(&name)).collect();
        format!("ROW({})::text", columns.join(", "))
    }

    fn write_settings(&mut self, archive: Table, archiver: Table, applier: Table) {
        // A proof by itself would come in the way of those who count segments.
        let archiver_own = toml::toml! { tables = ["*"] proof_every = 0 };
        let server = server_settings(&self.source, ARCHIVER_ROLE);
        self.archiver_host.settings = merged([archive.clone(), server, archiver_own, archiver]);
        let spool = path_value(&self.spool_dir());
        self.archiver_host.settings.entry("spool_dir").or_insert(spool);
        let server = server_settings(&self.target, self.target.user());
        self.applier_host.settings = merged([archive, server, applier]);
        self.archiver_host.write();
        self.applier_host.write();
    }

    fn storage_settings(&self, address: SocketAddr) -> Table {
        let keys = self.folder().join("keys");
        self.place().write_keys(Who::Owner, &keys);
        let settings: [(&str, Value); 3] = [
            ("archive_url", self.place().url().into()),
            ("archive_endpoint", format!("http://{address}").into()),
            ("archive_credentials_file", path_value(&keys)),
        ];
        settings.into_iter().map(|(key, value)| (key.to_owned(), value)).collect()
    }

    fn archive_settings(&self, over_sftp: bool) -> Table {
        let backup = &self.backup;
        let settings: [(&str, Value); 6] = [
            ("archive_host", "127.0.0.1".into()),
            ("archive_port", i64::from(backup.port()).into()),
            ("archive_user", backup.user().into()),
            ("archive_dir", path_value(backup.archive_dir())),
            ("archive_identity_file", path_value(&backup.identity_file())),
            ("archive_known_hosts", path_value(&backup.known_hosts())),
        ];
        let chosen = settings.into_iter().filter(|(key, _)| over_sftp || *key == "archive_dir");
        chosen.map(|(key, value)| (key.to_owned(), value)).collect()
    }
}

/// The machine that a program runs on: its settings file and its folders.
#[derive(Debug)]
struct Host {
    folder: PathBuf,
    config: PathBuf,
    settings: Table,
}

impl Host {
    fn new(world: &Path, name: &str) -> Host {
        let folder = world.join(name);
        for part in ["state", "run", "home", "logs"] {
            fs::create_dir_all(folder.join(part)).expect("the world's folder is writable");
        }
        Host { config: folder.join("syncdata.toml"), folder, settings: Table::new() }
    }

    fn set(&mut self, key: &str, value: Value) {
        self.settings.insert(key.into(), value);
        self.write();
    }

    fn write(&self) {
        fs::write(&self.config, self.settings.to_string()).expect("the world's folder is writable");
        fs::set_permissions(&self.config, fs::Permissions::from_mode(0o600)).expect("the file is ours");
    }

    fn program<A: AsRef<OsStr>>(
        &self,
        name: &'static str,
        arguments: impl IntoIterator<Item = A>,
    ) -> Program {
        Program::new(name, arguments, &self.folder.join("logs"))
            .env("DATA_SYNC_CONFIG", &self.config)
            .env("HOME", self.folder.join("home"))
            .env("STATE_DIRECTORY", self.folder.join("state"))
            .env("RUNTIME_DIRECTORY", self.folder.join("run"))
    }
}

fn server_settings(server: &PostgresServer, user: &str) -> Table {
    let settings: [(&str, Value); 4] = [
        ("pg_host", server.host().into()),
        ("pg_port", i64::from(server.port()).into()),
        ("pg_user", user.into()),
        ("pg_database", server.database().into()),
    ];
    settings.into_iter().map(|(key, value)| (key.to_owned(), value)).collect()
}

/// Later tables win.
fn merged<const N: usize>(tables: [Table; N]) -> Table {
    tables.into_iter().flatten().collect()
}

fn path_value(path: &Path) -> Value {
    path.to_str().expect("temporary folders have plain names").into()
}

type Rows = [Vec<Option<String>>];

/// Both are sorted. A few rows of each kind say more than thousands.
fn describe(table: &str, source: &Rows, target: &Rows) -> String {
    const SHOWN: usize = 10;
    let mut text = format!("{table}: {} rows at the source, {} rows in the copy", source.len(), target.len());
    for (words, rows, others) in [("missing", source, target), ("surplus", target, source)] {
        let differing = rows.iter().filter(|row| others.binary_search(row).is_err());
        for row in differing.take(SHOWN) {
            let row = row.first().and_then(Option::as_deref).unwrap_or_default();
            write!(text, "\n  {words}: {row}").expect("a String takes all");
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_difference_names_the_rows_of_each_side() {
        let rows =
            |texts: &[&str]| texts.iter().map(|text| vec![Some((*text).to_owned())]).collect::<Vec<_>>();
        assert_eq!(
            describe("t", &rows(&["(1)", "(2)"]), &rows(&["(2)", "(3)"])),
            "t: 2 rows at the source, 2 rows in the copy\n  missing: (1)\n  surplus: (3)"
        );
    }

    #[test]
    fn settings_of_a_test_win_over_those_of_the_world() {
        let merged = merged([toml::toml! { a = 1 b = 2 }, toml::toml! { b = "3" }]);
        assert_eq!(merged, toml::toml! { a = 1 b = "3" });
    }
}
