//! The settings: found in a file, the environment and the command line, understood once, and from then on
//! right. `Config` holds what was checked; how a value is written is known in this folder only.
//!
//! ```text
//! source (file, environment, …) ─▶ raw (key, text, origin) ─▶ value (one parser per kind) ─▶ Config
//! ```

mod archive;
mod check;
mod env_file;
mod file;
mod key;
mod percent;
mod places;
mod raw;
mod reading;
mod rules;
mod s3;
mod source;
mod value;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::num::NonZeroU32;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use bytesize::ByteSize;
use serde_json::{Map, Value, json};
use tracing::warn;

pub use self::archive::{ArchiveSettings, SftpSettings};
use self::env_file::EnvFile;
use self::file::Found;
pub use self::key::{Default, KEYS, Key};
pub use self::percent::Percent;
pub use self::places::{Places, Program};
pub use self::raw::Origin;
pub use self::reading::Setting;
pub use self::rules::Rule;
pub use self::s3::{BucketPlace, Endpoint, S3KeySource, S3Keys, S3Settings};
pub use self::source::Overrides;
use self::source::{Credentials, SettingsFile};
pub use self::value::split_list;
use crate::postgres::PostgresSettings;
pub use crate::secret::{MASK, Secret};
use crate::small_file;
use crate::webhook::Webhook;
use syncdata_formats::digest::Digest;
use syncdata_formats::error::{Context, Error, Kind, Result};
use syncdata_formats::name::{SlotName, TablePattern};
use syncdata_formats::signature::{SigningKey, VerifyKey};

/// Settings that are numbers and nothing else: no unit, no word.
const NUMBERS: [&str; 12] = [
    "archive_port",
    "pg_port",
    "poll_max_changes",
    "segment_max_changes",
    "compression_level",
    "apply_batch_changes",
    "duckdb_worker_threads",
    "log_keep_days",
    "sync_lag_alert_threshold_minutes",
    "dead_letter_queue_alert_threshold",
    "keep_days",
    "keep_singles",
];

/// Settings that are yes or no.
const FLAGS: [&str; 3] = ["follow", "http_behind_proxy", "enable_sync_monitoring"];

/// How production's changes are read: the output plugin of its slot, or without one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    Wal2json,
    Pgoutput,
    /// No plugin, and no slot: triggers note which rows were touched.
    Triggers,
}

impl Source {
    /// As PostgreSQL calls it.
    pub fn as_str(self) -> &'static str {
        match self {
            Source::Wal2json => "wal2json",
            Source::Pgoutput => "pgoutput",
            Source::Triggers => "triggers",
        }
    }
}

/// Where the applier keeps the copy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Target {
    /// The server next to the program.
    Postgres,
    /// A DuckDB file.
    Duckdb,
}

/// What readers of the copy get beside it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Publish {
    /// A copy of the DuckDB file.
    Duckdb,
}

/// What has to hold a change before production may forget it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Confirm {
    /// The backup host.
    Shipped,
    /// The spool on production's own disk.
    Spooled,
}

/// What a change that a table cannot take does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OnError {
    /// The table is set aside, the others go on.
    Quarantine,
    /// Everything stops.
    Stop,
}

/// What is kept of the values of a record that a table cannot take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum QuarantineValues {
    /// The values themselves.
    Keep,
    /// Keyed hashes: equal values stay equal, and nobody reads them.
    Hash,
}

/// What becomes of what others than the applier write into synced tables.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LocalWrites {
    /// It stays, until production changes the same rows.
    Allow,
    /// It is refused.
    Block,
}

/// Every setting, checked. Only what all commands need is required at load; `archive` and `postgres` ask for
/// what their users need.
#[derive(Clone, Debug)]
pub struct Config {
    archive: Option<ArchiveSettings>,
    postgres: Option<PostgresSettings>,
    /// Where these settings come from, for messages.
    file: Found,
    pub data_sync_freq: Duration,
    pub follow: bool,
    pub follow_interval: Duration,
    pub target: Target,
    duckdb_database_path: Option<PathBuf>,
    pub duckdb_memory_limit: ByteSize,
    pub duckdb_worker_threads: u16,
    /// `table.column`
    pub duckdb_text_columns: Vec<String>,
    /// `None`: nothing is published.
    pub publish: Option<Publish>,
    pub publish_interval: Duration,
    pub metric_freq: Duration,
    pub slot_name: SlotName,
    pub source: Source,
    pub tables: Vec<TablePattern>,
    pub confirm: Confirm,
    pub wal_guard: ByteSize,
    pub spool_dir: PathBuf,
    pub spool_max: ByteSize,
    pub poll_max_changes: NonZeroU32,
    pub segment_max_changes: NonZeroU32,
    pub segment_max_bytes: ByteSize,
    pub compression_level: i32,
    pub cache_dir: PathBuf,
    pub cache_max: ByteSize,
    /// Bytes.
    pub line_max: usize,
    pub apply_batch_changes: NonZeroU32,
    pub on_error: OnError,
    pub quarantine_values: QuarantineValues,
    pub local_writes: LocalWrites,
    pub stale_after: Duration,
    pub meta_schema: String,
    pub http_listen: Option<SocketAddr>,
    pub http_listen_archiver: Option<SocketAddr>,
    pub http_behind_proxy: bool,
    /// Lower case, without ports. `None`: loopback names and the address itself.
    pub http_hosts: Option<Vec<String>>,
    pub api_token_file: Option<PathBuf>,
    /// 0: for ever.
    pub log_keep_days: u32,
    pub enable_sync_monitoring: bool,
    pub sync_lag_alert_threshold: Duration,
    pub consistency_score_alert_threshold: Percent,
    pub dead_letter_queue_alert_threshold: NonZeroU32,
    pub alert_webhook: Option<Webhook>,
    pub alert_webhook_secret_file: Option<PathBuf>,
    pub alert_command: Option<String>,
    /// `None`: nothing is ever too old.
    pub keep_days: Option<u32>,
    /// `None`: what lies alone stays beside the roll-up that has it.
    pub keep_singles: Option<u32>,
    /// Zero: never by itself.
    pub proof_every: Duration,
    /// By their names.
    pub rules: BTreeMap<String, Rule>,
    pub rule_timeout: Duration,
    verify_key: Option<String>,
    signing_key: Option<PathBuf>,
    pub places: Places,
    settings: Vec<Setting>,
}

impl Config {
    /// `file` is that of `--config`; without one, the environment's `DATA_SYNC_CONFIG` is read, if any.
    pub fn load(
        file: Option<&Path>,
        env: impl Fn(&str) -> Option<String>,
        overrides: &Overrides,
    ) -> Result<Config> {
        let places = Places::find(&env);
        let found = named(file, &env).map_or(Found::default(), |path| Found::named(&path, &places));
        Config::read(found, places, &env, &EnvFile::default(), overrides)
    }

    /// Settings of this process. Start the log first: a variable that looks misspelt is a warning, since other
    /// software (Kubernetes for a service of that name) makes variables that begin like ours.
    pub fn of_process(program: Program, files: &Files, overrides: &Overrides) -> Result<Config> {
        let env = |name: &str| std::env::var(name).ok();
        let places = Places::find(&env);
        let env_file = match &files.env_file {
            Some(path) => EnvFile::read(&places.expand(path.clone()))?,
            None => EnvFile::default(),
        };

        let names = std::env::vars_os().filter_map(|(name, _)| name.into_string().ok());
        for (name, meant) in source::misspelt(names.chain(env_file.names().cloned())) {
            warn!(name, meant, "environment variable is not a setting");
        }

        let variable =
            |name: &str| env(name).or_else(|| env_file.get(name).map(|(value, _)| value.to_owned()));
        let found = match named(files.config.as_deref(), &variable) {
            Some(path) => Found::named(&path, &places),
            None => Found::look(program, &places)?,
        };
        let config = Config::read(found, places, &env, &env_file, overrides)?;
        match program {
            Program::Archiver => config.fits_to_its_source()?,
            Program::Applier => {}
        }
        Ok(config)
    }

    /// What one way to read production allows, and another does not.
    fn fits_to_its_source(&self) -> Result<()> {
        let refuse = |message: &str, hint: &str| Err(Error::new(Kind::BadInput, message).hint(hint));
        match self.source {
            Source::Triggers if self.follow => refuse(
                "follow: with source = \"triggers\" there is no stream to follow",
                "set follow = false; data_sync_freq may be as low as 5",
            ),
            Source::Wal2json | Source::Pgoutput if self.data_sync_freq < value::FREQ_MIN => refuse(
                "data_sync_freq: at least 60 seconds where a slot is read",
                "for less, set follow = true; 5 seconds are enough with source = \"triggers\"",
            ),
            Source::Wal2json | Source::Pgoutput | Source::Triggers => Ok(()),
        }
    }

    fn read(
        found: Found,
        places: Places,
        env: &impl Fn(&str) -> Option<String>,
        env_file: &EnvFile,
        overrides: &Overrides,
    ) -> Result<Config> {
        let file = match &found.path {
            Some(path) => SettingsFile::read(path)?,
            None => SettingsFile::default(),
        };
        let credentials_dir = env("CREDENTIALS_DIRECTORY").map(PathBuf::from);
        let credentials = Credentials::read(credentials_dir.as_deref())?;
        let find = |key: &Key| {
            let spoken = overrides.get(key).or_else(|| source::from_environment(key, env));
            let spoken = spoken.or_else(|| source::from_env_file(key, env_file));
            spoken.or_else(|| credentials.get(key)).or_else(|| file.get(key))
        };
        let backup_dir = env("PG_BACKUP_DIR")
            .or_else(|| env_file.get("PG_BACKUP_DIR").map(|(value, _)| value.to_owned()))
            .filter(|path| !path.is_empty())
            .map(|path| places.expand(PathBuf::from(path)));
        let variable =
            |name: &str| env(name).or_else(|| env_file.get(name).map(|(value, _)| value.to_owned()));
        let usual = s3::Usual::find(&variable, &places);
        let around = check::Around { file: found, places, usual, backup_dir };
        check::check(&find, file.rules.clone(), around)
    }

    pub fn archive(&self) -> Result<&ArchiveSettings> {
        self.archive.as_ref().ok_or_else(|| self.file.lacks("archive_dir"))
    }

    pub fn postgres(&self) -> Result<&PostgresSettings> {
        self.postgres.as_ref().ok_or_else(|| self.file.lacks("pg_database"))
    }

    /// With `target = "duckdb"`.
    pub fn duckdb_database_path(&self) -> Result<&Path> {
        self.duckdb_database_path.as_deref().ok_or_else(|| self.file.lacks("duckdb_database_path"))
    }

    pub fn settings_path(&self) -> Option<&Path> {
        self.file.path.as_deref()
    }

    /// Which file they are of, for people.
    pub fn settings_file(&self) -> String {
        self.file
            .path
            .as_ref()
            .map_or_else(|| "no settings file".to_owned(), |path| format!("settings {}", path.display()))
    }

    /// The same, connected as another role. The password is that of the settings' own.
    pub fn with_login(&self, login: &str) -> Result<Config> {
        let settings = self.postgres()?.clone();
        let postgres = Some(PostgresSettings { user: login.to_owned(), password: None, ..settings });
        Ok(Config { postgres, ..self.clone() })
    }

    /// Where the daemon of these settings answers over HTTP.
    pub fn http_address(&self, program: Program) -> Option<SocketAddr> {
        match program {
            Program::Archiver => self.http_listen_archiver.or(self.http_listen),
            Program::Applier => self.http_listen,
        }
    }

    /// Where the daemon of these settings answers.
    pub fn socket(&self, program: Program) -> PathBuf {
        self.places.runtime.join(self.socket_name(program))
    }

    /// Where a command looks for it, in this order.
    pub fn sockets(&self, program: Program) -> Vec<PathBuf> {
        self.places.sockets(program, &self.socket_name(program))
    }

    /// Where the applier of these settings keeps segments. Two copies on one machine must not write into each other's.
    pub fn cache_of_copy(&self) -> PathBuf {
        self.cache_dir.join(self.who(Program::Applier))
    }

    fn socket_name(&self, program: Program) -> String {
        format!("{}-{}.sock", program.name(), self.who(program))
    }

    /// A file of this copy's in the state folder: several daemons may share that.
    pub fn state_file_of_copy(&self, name: &str) -> PathBuf {
        self.places.state.join(format!("{name}-{}.json", self.who(Program::Applier)))
    }

    /// Several daemons may share a machine, one for each database and slot: a command must not stop another's.
    fn who(&self, program: Program) -> String {
        // Settings may be those of both programs, and the file is the applier's.
        if program == Program::Applier && self.target == Target::Duckdb {
            let path = self.duckdb_database_path.as_deref().unwrap_or(Path::new(""));
            let who = ["duckdb", &path.to_string_lossy()];
            return Digest::of(who.join("\0").as_bytes()).to_string()[..8].to_owned();
        }
        let server = self.postgres.as_ref();
        let who = [
            server.map_or("", |server| &server.host),
            &server.map_or(0, |server| server.port).to_string(),
            server.map_or("", |server| &server.database),
            self.slot_name.as_str(),
            &self.meta_schema,
        ];
        let digest = Digest::of(who.join("\0").as_bytes()).to_string();
        digest[..8].to_owned()
    }

    /// A pass or a poll that is not due yet is no lag.
    pub fn lag_that_is_an_alert(&self) -> Duration {
        self.sync_lag_alert_threshold.max(self.data_sync_freq.saturating_mul(3))
    }

    /// Whose signature manifests must have, if any is asked for.
    pub fn verify_key(&self) -> Result<Option<VerifyKey>> {
        let read = |path: &Path| small_file::read_text(&self.places.expand(path.to_owned()));
        self.verify_key.as_deref().map(|setting| VerifyKey::from_setting(setting, read)).transpose()
    }

    /// What manifests are signed with, if they are.
    pub fn signing_key(&self) -> Result<Option<SigningKey>> {
        let Some(path) = &self.signing_key else { return Ok(None) };
        let doing = || format!("reading the signing key {}", path.display());
        let mode = std::fs::metadata(path).context(doing)?.mode();
        if mode & 0o007 != 0 {
            let message =
                format!("everybody may read the signing key {} (mode {:04o})", path.display(), mode & 0o7777);
            return Err(Error::new(Kind::BadInput, message).hint(format!("chmod 0600 {}", path.display())));
        }
        let text = small_file::read_text(path).context(doing)?;
        SigningKey::parse(&text, None).map(Some).context(doing)
    }

    /// What holds and who said so, secrets masked.
    pub fn describe(&self) -> &[Setting] {
        &self.settings
    }

    /// `{"key": {"value": …, "origin": …}}`
    pub fn describe_json(&self) -> Value {
        let line = |setting: &Setting| {
            let value = match setting.value.as_deref() {
                Some(text) if FLAGS.contains(&setting.key) => json!(["true", "1"].contains(&text)),
                Some(text) if NUMBERS.contains(&setting.key) => {
                    text.parse::<i64>().map_or_else(|_| json!(text), |number| json!(number))
                }
                text => json!(text),
            };
            let facts = json!({"value": value, "origin": setting.origin.to_string()});
            (setting.key.to_owned(), facts)
        };
        Value::Object(self.settings.iter().map(line).collect::<Map<String, Value>>())
    }
}

/// Files that the command line names.
#[derive(Clone, Debug, std::default::Default)]
pub struct Files {
    /// `--config`
    pub config: Option<PathBuf>,
    /// `--env-file`
    pub env_file: Option<PathBuf>,
}

/// The settings file that somebody names.
fn named(file: Option<&Path>, env: &impl Fn(&str) -> Option<String>) -> Option<PathBuf> {
    let variable = || env("DATA_SYNC_CONFIG").filter(|path| !path.is_empty()).map(PathBuf::from);
    file.map(Path::to_owned).or_else(variable)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_given_is_enough_to_load() {
        let config = Config::load(None, |_| None, &Overrides::default()).expect("defaults are right");
        assert_eq!(config.describe().len(), KEYS.len());
        let keys: Vec<&str> = config.describe().iter().map(|setting| setting.key).collect();
        assert_eq!(keys, KEYS.iter().map(|key| key.name).collect::<Vec<_>>());
        let error = config.archive().expect_err("no archive_dir");
        assert!(error.report().contains("SYNCDATA_ARCHIVE_DIR"), "{error:?}");
    }

    #[test]
    fn numbers_and_flags_are_that_for_machines() {
        let config = Config::load(None, |_| None, &Overrides::default()).expect("defaults are right");
        let described = config.describe_json();
        for key in NUMBERS {
            let is_unset =
                config.describe().iter().any(|setting| setting.key == key && setting.value.is_none());
            assert!(described[key]["value"].is_i64() || is_unset, "{key}: {}", described[key]);
        }
        for key in FLAGS {
            assert!(described[key]["value"].is_boolean(), "{key}: {}", described[key]);
        }
        assert_eq!(described["wal_guard"]["value"], "8GiB");
    }

    #[test]
    fn daemons_of_two_databases_have_two_sockets() {
        let socket = |database: &str, program| {
            let env = |name: &str| (name == "PG_DB_NAME").then(|| database.to_owned());
            let config = Config::load(None, env, &Overrides::default()).expect("right");
            assert!(config.sockets(program).contains(&config.socket(program)));
            config.socket(program)
        };
        assert_eq!(socket("a", Program::Applier), socket("a", Program::Applier));
        assert_ne!(socket("a", Program::Applier), socket("b", Program::Applier));
        assert_ne!(socket("a", Program::Applier), socket("a", Program::Archiver));
    }

    #[test]
    fn the_file_of_the_copy_tells_appliers_apart_and_not_archivers() {
        let socket = |target: &str, path: &str, program| {
            let env = |name: &str| match name {
                "SYNCDATA_TARGET" => Some(target.to_owned()),
                "SYNCDATA_DUCKDB_DATABASE_PATH" => Some(path.to_owned()),
                _ => None,
            };
            Config::load(None, env, &Overrides::default()).expect("right").socket(program)
        };
        let applier = |target, path| socket(target, path, Program::Applier);
        assert_eq!(applier("duckdb", "/a"), applier("duckdb", "/a"));
        assert_ne!(applier("duckdb", "/a"), applier("duckdb", "/b"));
        assert_ne!(applier("duckdb", "/a"), applier("postgres", "/a"));
        let archiver = |target| socket(target, "/a", Program::Archiver);
        assert_eq!(archiver("duckdb"), archiver("postgres"));
    }
}
