//! From what was given to what holds: every setting is taken once and understood, or refused.

use std::path::PathBuf;

use super::key::Field;
use super::key::{RawArchive, RawPostgres, RawPrograms};
use super::raw::{Given, Origin};
use super::reading::{Reading, Setting};
use super::rules::Rules;
use super::s3::{Endpoint, Usual};
use super::{
    ArchiveSettings, Config, Key, Places, S3Settings, Secret, SftpSettings, file as settings_file, value,
};
use crate::postgres::{PostgresSettings, SslFiles};
use syncdata_formats::error::{Error, Kind, Result};

/// What counts beside settings.
pub(super) struct Around {
    pub file: settings_file::Found,
    pub places: Places,
    pub usual: Usual,
    /// Where the earlier script kept its files.
    pub backup_dir: Option<PathBuf>,
}

/// `find` answers what was given for a key.
pub(super) fn check(find: &impl Fn(&Key) -> Option<Given>, rules: Rules, around: Around) -> Result<Config> {
    let Around { file, places, usual, backup_dir } = around;
    let mut read = Reading::default();
    let archive = archive(&mut read, RawArchive::collect(find), &places, &file, &usual)?;
    let postgres = postgres(&mut read, RawPostgres::collect(find), &places)?;
    let found = Found { archive, postgres, rules, file, places, backup_dir };
    programs(read, RawPrograms::collect(find), found)
}

/// What the last step puts together.
struct Found {
    archive: Option<ArchiveSettings>,
    postgres: Option<PostgresSettings>,
    rules: Rules,
    file: settings_file::Found,
    places: Places,
    backup_dir: Option<PathBuf>,
}

fn archive(
    read: &mut Reading,
    raw: RawArchive,
    places: &Places,
    file: &settings_file::Found,
    usual: &Usual,
) -> Result<Option<ArchiveSettings>> {
    let RawArchive {
        archive_host,
        archive_user,
        archive_port,
        archive_dir,
        archive_identity_file,
        archive_identity_passphrase,
        archive_passphrase_file,
        archive_known_hosts,
        archive_url,
        archive_region,
        archive_endpoint,
        archive_credentials_file,
    } = raw;
    one_place(&archive_url, [&archive_host, &archive_dir])?;
    let host = read.optional(archive_host, value::text)?;
    let user = read.optional(archive_user, value::text)?;
    let port = read.value(archive_port, value::port)?;
    let dir = read.optional(archive_dir, value::path)?;
    let identity_file = read.optional(archive_identity_file, value::path)?;
    let passphrase = one_secret(read, archive_identity_passphrase, archive_passphrase_file)?;
    let known_hosts =
        read.derived(archive_known_hosts, value::path, || shown(places.home.join(".ssh/known_hosts")))?;
    let bucket = Bucket { archive_url, archive_region, archive_endpoint, archive_credentials_file };
    if let Some(s3) = bucket.read(read, places, usual)? {
        return Ok(Some(ArchiveSettings::S3(s3)));
    }
    let Some(dir) = dir else { return Ok(None) };
    let Some(host) = host else { return Ok(Some(ArchiveSettings::Directory(places.expand(dir)))) };
    Ok(Some(ArchiveSettings::Sftp(SftpSettings {
        host,
        user: user.ok_or_else(|| file.lacks("archive_user"))?,
        port,
        // A folder of the backup host is the backup host's to understand.
        dir,
        identity_file: identity_file.map(|path| places.expand(path)),
        known_hosts: Some(places.expand(known_hosts)),
        passphrase: passphrase.map(|secret| secret.read(places)).transpose()?,
    })))
}

/// An archive is in one place.
fn one_place(url: &Field, others: [&Field; 2]) -> Result<()> {
    let Some(given) = &url.given else { return Ok(()) };
    match others.into_iter().find_map(|other| Some((other.key.name, other.given.as_ref()?))) {
        Some((name, other)) => {
            let message =
                format!("archive_url and {name} are both set: {} and {}", given.origin, other.origin);
            Err(Error::new(Kind::BadInput, message)
                .hint("object storage has no host and no folder: take one of the two out"))
        }
        None => Ok(()),
    }
}

/// What is said of object storage.
struct Bucket {
    archive_url: Field,
    archive_region: Field,
    archive_endpoint: Field,
    archive_credentials_file: Field,
}

impl Bucket {
    /// Without `archive_url` the others have no meaning.
    fn read(self, read: &mut Reading, places: &Places, usual: &Usual) -> Result<Option<S3Settings>> {
        let Some(place) = read.optional(self.archive_url, value::bucket_place)? else {
            read.optional(self.archive_region, value::region)?;
            read.optional(self.archive_endpoint, value::endpoint)?;
            read.optional(self.archive_credentials_file, value::path)?;
            return Ok(None);
        };
        let region = read.derived(self.archive_region, value::region, || {
            let region = usual.region();
            (region.clone(), region)
        })?;
        let usual_endpoint = match self.archive_endpoint.given {
            Some(_) => Endpoint::of_region(&region),
            None => usual.endpoint(&region)?,
        };
        let endpoint = read.derived(self.archive_endpoint, value::endpoint, || {
            let shown = usual_endpoint.to_string();
            (usual_endpoint, shown)
        })?;
        let file = read.optional(self.archive_credentials_file, value::path)?;
        let file = file.map(|path| places.expand(path));
        Ok(Some(S3Settings { place, endpoint, region, keys: usual.keys(file.as_deref()) }))
    }
}

fn postgres(read: &mut Reading, raw: RawPostgres, places: &Places) -> Result<Option<PostgresSettings>> {
    let RawPostgres {
        pg_host,
        pg_port,
        pg_user,
        pg_password,
        pg_password_file,
        pg_database,
        pg_sslmode,
        pg_sslrootcert,
        pg_sslcert,
        pg_sslkey,
    } = raw;
    let host = read.value(pg_host, value::text)?;
    let port = read.value(pg_port, value::port)?;
    let user = read.value(pg_user, value::text)?;
    let password = one_secret(read, pg_password, pg_password_file)?;
    let database = read.optional(pg_database, value::text)?;
    let ssl_mode = read.value(pg_sslmode, value::ssl_mode)?;
    let mut file = |field| Ok(read.optional(field, value::path)?.map(|path| places.expand(path)));
    let ssl_files =
        SslFiles { root_cert: file(pg_sslrootcert)?, cert: file(pg_sslcert)?, key: file(pg_sslkey)? };
    let Some(database) = database else { return Ok(None) };
    Ok(Some(PostgresSettings {
        host,
        port,
        user,
        password: password.map(|secret| secret.read(places)).transpose()?,
        database,
        ssl_mode,
        ssl_files,
        home: places.home.clone(),
        password_file: places.password_file.clone(),
    }))
}

/// One secret, as itself or as the file that holds it.
enum GivenSecret {
    Itself(Secret),
    InFile { key: &'static str, path: PathBuf },
}

impl GivenSecret {
    fn read(self, places: &Places) -> Result<Secret> {
        match self {
            GivenSecret::Itself(secret) => Ok(secret),
            GivenSecret::InFile { key, path } => Secret::of_file(key, &places.expand(path)),
        }
    }
}

/// Of the two forms the one whose place counts more; both in one file are a mistake. A file that is not needed is not opened:
/// a unit may not be able to.
fn one_secret(read: &mut Reading, itself: Field, in_file: Field) -> Result<Option<GivenSecret>> {
    let key = in_file.key.name;
    let is_in_file = match (&itself.given, &in_file.given) {
        (Some(itself), Some(file)) => {
            let is_one_file = file.origin.rank() == itself.origin.rank()
                && matches!(file.origin, Origin::File { .. } | Origin::EnvFile { .. });
            if is_one_file {
                let message = format!("one secret is said twice: {} and {}", itself.origin, file.origin);
                return Err(Error::new(Kind::BadInput, message).hint("take one of the two lines out"));
            }
            file.origin.rank() < itself.origin.rank()
        }
        (_, file) => file.is_some(),
    };
    let secret = read.optional(itself, value::secret)?;
    let path = read.optional(in_file, value::path)?;
    Ok(match (is_in_file, secret, path) {
        (true, _, Some(path)) => Some(GivenSecret::InFile { key, path }),
        (_, secret, _) => secret.map(GivenSecret::Itself),
    })
}

fn programs(mut read: Reading, raw: RawPrograms, found: Found) -> Result<Config> {
    let RawPrograms {
        data_sync_freq,
        follow,
        follow_interval,
        target,
        duckdb_database_path,
        duckdb_memory_limit,
        duckdb_worker_threads,
        duckdb_text_columns,
        publish,
        publish_interval,
        metric_freq,
        slot_name,
        source,
        tables,
        confirm,
        wal_guard,
        spool_dir,
        spool_max,
        poll_max_changes,
        segment_max_changes,
        segment_max_bytes,
        compression_level,
        cache_dir,
        cache_max,
        line_max,
        apply_batch_changes,
        on_error,
        quarantine_values,
        local_writes,
        stale_after,
        meta_schema,
        http_listen,
        http_listen_archiver,
        http_behind_proxy,
        http_hosts,
        api_token_file,
        log_keep_days,
        enable_sync_monitoring,
        sync_lag_alert_threshold_minutes,
        consistency_score_alert_threshold,
        dead_letter_queue_alert_threshold,
        alert_webhook,
        alert_webhook_secret_file,
        alert_command,
        keep_days,
        keep_singles,
        proof_every,
        rule_timeout,
        verify_key,
        signing_key,
    } = raw;
    let Found { archive, postgres, rules, file, places, backup_dir } = found;
    let local = |path: PathBuf| places.expand(path);
    let spool =
        backup_dir.as_deref().unwrap_or_else(|| places.spool_state(file.path.as_deref())).join("changes");
    let data_sync_freq = read.value(data_sync_freq, value::sync_freq)?;
    let mut config = Config {
        archive,
        postgres,
        file,
        data_sync_freq,
        follow: read.value(follow, value::yes_or_no)?,
        follow_interval: read.value(follow_interval, value::follow_interval)?,
        target: read.value(target, value::target)?,
        duckdb_database_path: read.optional(duckdb_database_path, value::path)?.map(local),
        duckdb_memory_limit: read.value(duckdb_memory_limit, value::size)?,
        duckdb_worker_threads: read.value(duckdb_worker_threads, value::threads)?,
        duckdb_text_columns: read.value(duckdb_text_columns, value::column_names)?,
        publish: read.value(publish, value::publish)?,
        publish_interval: read.value(publish_interval, value::seconds)?,
        metric_freq: read.value(metric_freq, value::metric_freq)?,
        slot_name: read.value(slot_name, value::slot_name)?,
        source: read.value(source, value::source)?,
        tables: read.value(tables, value::patterns)?,
        confirm: read.value(confirm, value::confirm)?,
        wal_guard: read.value(wal_guard, value::size)?,
        spool_dir: local(read.derived(spool_dir, value::path, || shown(spool))?),
        spool_max: read.value(spool_max, value::size)?,
        poll_max_changes: read.value(poll_max_changes, value::count)?,
        segment_max_changes: read.value(segment_max_changes, value::count)?,
        segment_max_bytes: read.value(segment_max_bytes, value::size)?,
        compression_level: read.value(compression_level, value::compression_level)?,
        cache_dir: local(read.derived(cache_dir, value::path, || shown(places.state.join("cache")))?),
        cache_max: read.value(cache_max, value::size)?,
        line_max: read.value(line_max, value::line_max)?,
        apply_batch_changes: read.value(apply_batch_changes, value::count)?,
        on_error: read.value(on_error, value::on_error)?,
        quarantine_values: read.value(quarantine_values, value::quarantine_values)?,
        local_writes: read.value(local_writes, value::local_writes)?,
        stale_after: read.derived(stale_after, value::seconds, || {
            let age = data_sync_freq.saturating_mul(3);
            (age, age.as_secs().to_string())
        })?,
        meta_schema: read.value(meta_schema, value::identifier)?,
        http_listen: read.optional(http_listen, value::listen)?,
        http_listen_archiver: read.optional(http_listen_archiver, value::listen)?,
        http_behind_proxy: read.value(http_behind_proxy, value::yes_or_no)?,
        http_hosts: read.optional(http_hosts, value::host_names)?,
        api_token_file: read.optional(api_token_file, value::path)?.map(local),
        log_keep_days: read.value(log_keep_days, value::days)?,
        enable_sync_monitoring: read.value(enable_sync_monitoring, value::yes_or_no)?,
        sync_lag_alert_threshold: read.value(sync_lag_alert_threshold_minutes, value::minutes)?,
        consistency_score_alert_threshold: read.value(consistency_score_alert_threshold, value::percent)?,
        dead_letter_queue_alert_threshold: read.value(dead_letter_queue_alert_threshold, value::count)?,
        alert_webhook: read.optional(alert_webhook, value::webhook)?,
        alert_webhook_secret_file: read.optional(alert_webhook_secret_file, value::path)?.map(local),
        alert_command: read.optional(alert_command, value::text)?,
        keep_days: read.optional(keep_days, value::days)?,
        keep_singles: read.optional(keep_singles, value::days)?,
        proof_every: read.value(proof_every, value::every)?,
        rule_timeout: read.value(rule_timeout, value::seconds)?,
        rules: rules.by_name,
        verify_key: read.optional(verify_key, value::text)?,
        signing_key: read.optional(signing_key, value::path)?.map(local),
        settings: read.settings,
        places,
    };
    if let Some(origin) = rules.origin {
        let names: Vec<&str> = config.rules.keys().map(String::as_str).collect();
        config.settings.push(Setting { key: "rules", value: Some(names.join(",")), origin });
    }
    Ok(config)
}

/// A folder that was derived, and how `config` shows it.
fn shown(path: PathBuf) -> (PathBuf, String) {
    let text = path.display().to_string();
    (path, text)
}
