//! The list of settings: one line each, from which the raw settings, their environment names, the
//! suggestions for a misspelt key and the check of the manual page follow.

use super::raw::Given;
use crate::secret::MASK;

/// One setting, as the manual shows it.
#[derive(Debug, PartialEq, Eq)]
pub struct Key {
    pub name: &'static str,
    /// The name that the earlier tools gave it in the environment.
    pub env: Option<&'static str>,
    pub default: Default,
    pub secret: bool,
    pub meaning: &'static str,
}

/// One setting, as it is given or not.
#[derive(Debug)]
pub(super) struct Field {
    pub(super) key: &'static Key,
    pub(super) given: Option<Given>,
}

/// What holds when nobody says anything.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Default {
    /// This text, read like a text from the environment.
    Text(&'static str),
    /// Found out at start; the text says how.
    Derived(&'static str),
    /// Nothing: the feature is off.
    Nothing,
    /// Commands that need it say so.
    Required,
}

impl Default {
    pub fn describe(self) -> &'static str {
        match self {
            Default::Text("") => "none",
            Default::Text(text) | Default::Derived(text) => text,
            Default::Nothing => "–",
            Default::Required => "required",
        }
    }
}

impl Key {
    /// The name in the environment that every key has.
    pub fn own_env(&self) -> String {
        format!("SYNCDATA_{}", self.name.to_uppercase())
    }

    pub(super) fn show(&self, text: String) -> String {
        if self.secret { MASK.to_owned() } else { text }
    }
}

macro_rules! keys {
    ($($group:ident {
        $($name:ident: $env:expr, $default:expr, $secret:expr, $meaning:literal;)*
    })*) => {
        /// Every setting, in the order of the manual.
        pub static KEYS: &[Key] = &[$($(Key {
            name: stringify!($name),
            env: $env,
            default: $default,
            secret: $secret,
            meaning: $meaning,
        },)*)*];

        $(
            /// Settings as they were given, not yet understood. They are taken apart field by field, so that
            /// a key added here has to be dealt with there.
            #[derive(Debug)]
            pub(super) struct $group {
                $(pub(super) $name: Field,)*
            }

            impl $group {
                /// `find` answers what was given for a key.
                pub(super) fn collect(find: &impl Fn(&Key) -> Option<Given>) -> $group {
                    $(let $name = {
                        let key = key(stringify!($name)).expect("every field is a key");
                        Field { key, given: find(key) }
                    };)*
                    $group { $($name),* }
                }
            }
        )*
    };
}

pub(super) fn key(name: &str) -> Option<&'static Key> {
    KEYS.iter().find(|key| key.name == name)
}

/// Settings files may say the names that the earlier tools had in the environment.
pub(super) fn key_or_earlier(name: &str) -> Option<&'static Key> {
    key(name).or_else(|| KEYS.iter().find(|key| key.env == Some(name)))
}

use self::Default::{Derived, Nothing, Required, Text};

keys! {
    RawArchive {
        archive_host: None, Nothing, false, "backup host; without it `archive_dir` is a local or mounted directory";
        archive_user: None, Nothing, false, "account on the backup host; needed with `archive_host`";
        archive_port: None, Text("22"), false, "SSH port of the backup host";
        archive_dir: None, Required, false, "where the archive lives";
        archive_identity_file: None, Derived("agent, then ~/.ssh/id_ed25519"), false, "private key for the backup host";
        archive_identity_passphrase: None, Nothing, true, "passphrase of that key";
        archive_passphrase_file: None, Nothing, false, "file that holds it, in one line";
        archive_known_hosts: None, Derived("~/.ssh/known_hosts"), false, "host keys that are trusted";
        archive_url: None, Nothing, false, "`s3://bucket/prefix`: an archive on object storage, in place of `archive_host` and `archive_dir`";
        archive_region: None, Derived("AWS_REGION, then ~/.aws/config, then us-east-1"), false, "region of the bucket, which requests are signed for";
        archive_endpoint: None, Derived("AWS_ENDPOINT_URL_S3, then Amazon's for the region"), false, "where the store answers, such as https://minio.example.com:9000";
        archive_credentials_file: None, Derived("AWS_ACCESS_KEY_ID, then ~/.aws/credentials"), false, "file with `aws_access_key_id` and `aws_secret_access_key`, as ~/.aws/credentials has them";
    }
    RawPostgres {
        pg_host: Some("PG_HOST"), Text("127.0.0.1"), false, "name or address of the server next to the program, or the directory of its socket";
        pg_port: Some("PG_PORT"), Text("5432"), false, "its port";
        pg_user: Some("PG_USER_NAME"), Text("admin"), false, "role to connect as";
        pg_password: Some("PG_PASSWORD"), Nothing, true, "its password; else `pg_password_file`, then ~/.pgpass are asked";
        pg_password_file: None, Nothing, false, "file that holds the password, in one line";
        pg_database: Some("PG_DB_NAME"), Required, false, "database to connect to";
        pg_sslmode: None, Text("prefer"), false, "disable, prefer, require, verify-ca or verify-full, as libpq means them";
        pg_sslrootcert: None, Derived("~/.postgresql/root.crt"), false, "certificates of the authorities that may sign the server's; `system` for those of the machine";
        pg_sslcert: None, Derived("~/.postgresql/postgresql.crt"), false, "our own certificate";
        pg_sslkey: None, Derived("~/.postgresql/postgresql.key"), false, "its private key";
    }
    RawPrograms {
        data_sync_freq: Some("DATA_SYNC_FREQ"), Text("600"), false, "time between two polls or passes; seconds when it is a bare number; at least 5, or 60 where a slot is read";
        follow: None, Text("false"), false, "whether changes are carried over as they commit: the archiver reads the slot as a stream, the applier looks at the archive every `follow_interval`";
        follow_interval: None, Text("500ms"), false, "the least time between two polls or passes of `follow`, at least 100ms";
        target: None, Text("postgres"), false, "where the applier keeps the copy: postgres, the server next to it, or duckdb, a DuckDB file (a syncdata-applier that was built with the feature duckdb)";
        duckdb_database_path: Some("DUCKDB_DATABASE_PATH"), Nothing, false, "the DuckDB file, with `target = \"duckdb\"`";
        duckdb_memory_limit: Some("DUCKDB_MEMORY_LIMIT"), Text("2GiB"), false, "memory that DuckDB may take";
        duckdb_worker_threads: Some("DUCKDB_WORKER_THREADS"), Text("4"), false, "threads that DuckDB may take";
        duckdb_text_columns: None, Text(""), false, "columns that are kept as text in the DuckDB file whatever their type is: `table.column`; what is listed later counts from the next resync on";
        publish: None, Text("none"), false, "none, or duckdb: after passes, a copy of the DuckDB file for readers, beside it as `.published`";
        publish_interval: None, Text("10min"), false, "the least time between two copies for readers";
        metric_freq: Some("METRIC_FREQ"), Text("24h"), false, "period of the metrics; hours when it is a bare number";
        slot_name: None, Text("syncdata_slot"), false, "replication slot in production";
        source: None, Text("wal2json"), false, "how production is read: wal2json or pgoutput, the output plugin of the slot, of which a running archive changes one for the other with `setup --switch-source`; or triggers, without a slot";
        tables: None, Text(""), false, "tables to capture: names, `schema.*`, `*`";
        confirm: None, Text("shipped"), false, "shipped or spooled: what has to be durable where before production may forget it";
        wal_guard: None, Text("8GiB"), false, "WAL that the slot may retain before the archiver acts";
        spool_dir: None, Derived("$PG_BACKUP_DIR/changes, else STATE/changes"), false, "where change files wait until they are shipped";
        spool_max: None, Text("20GiB"), false, "size that the spool may reach";
        poll_max_changes: None, Text("500000"), false, "changes that one peek asks for";
        segment_max_changes: None, Text("250000"), false, "a segment is closed at the first commit past this many changes";
        segment_max_bytes: None, Text("64MiB"), false, "… or past this many bytes of lines, before compression";
        compression_level: None, Text("3"), false, "zstd level, 1 to 19";
        cache_dir: None, Derived("STATE/cache"), false, "where downloaded segments wait until they are applied";
        cache_max: None, Text("2GiB"), false, "size that the cache may reach";
        line_max: None, Text("256MiB"), false, "longest record that is applied; a longer one sets its table aside";
        apply_batch_changes: None, Text("100000"), false, "changes of small segments that share one local transaction";
        on_error: None, Text("quarantine"), false, "quarantine sets the table aside that cannot take a change; stop stops everything";
        quarantine_values: None, Text("keep"), false, "keep or hash: whether data_sync_quarantine holds the values of a record that a table could not take, or keyed hashes of them";
        local_writes: None, Text("allow"), false, "allow or block: whether others than the applier may write the synced tables of the copy; block refuses it with triggers";
        stale_after: None, Derived("3 × data_sync_freq"), false, "age at which data counts as stale";
        meta_schema: None, Text("public"), false, "schema of our own tables";
        http_listen: None, Nothing, false, "address for the HTTP API, /status, /health and /metrics, such as 127.0.0.1:9187";
        http_listen_archiver: None, Nothing, false, "the same for the archiver alone, where one file is for both programs";
        http_behind_proxy: None, Text("false"), false, "whether a proxy with TLS stands before `http_listen`; without one only a loopback address is opened";
        http_hosts: None, Nothing, false, "names that a request may call us by (its Host) beside loopback ones and the address of http_listen; any other one is refused";
        api_token_file: None, Nothing, false, "file with the tokens of the HTTP API, one a line, each of at least 32 characters; none: only what needs no token";
        log_keep_days: None, Text("90"), false, "days that data_sync_logs, sync_executions and data_sync_alerts reach back; 0 keeps all";
        enable_sync_monitoring: Some("ENABLE_SYNC_MONITORING"), Text("true"), false, "whether the daemons look after themselves and keep alerts";
        sync_lag_alert_threshold_minutes: Some("SYNC_LAG_ALERT_THRESHOLD_MINUTES"), Text("15"), false, "lag that is an alert, in minutes; at least 3 × data_sync_freq";
        consistency_score_alert_threshold: Some("CONSISTENCY_SCORE_ALERT_THRESHOLD"), Text("90.0"), false, "score of a table, in percent, below which it is an alert (any difference is a problem of status)";
        dead_letter_queue_alert_threshold: Some("DEAD_LETTER_QUEUE_ALERT_THRESHOLD"), Text("100"), false, "records waiting for quarantined tables that are an alert";
        alert_webhook: None, Nothing, true, "web address that alerts are posted to, as JSON: https://…";
        alert_webhook_secret_file: None, Nothing, false, "file with the secret that signs them (X-Syncdata-Signature), in one line";
        alert_command: None, Nothing, false, "shell command that gets each alert as JSON on its stdin";
        keep_days: None, Nothing, false, "days that the archive reaches back; 0 keeps the newest snapshot and what follows it; unset keeps all";
        keep_singles: None, Nothing, false, "days that files of segments stay alone beside the roll-up that has them; 0 is none; unset keeps them";
        proof_every: None, Text("1d"), false, "how often the archiver digests production's tables, so that copies can be compared with them; 0 is never";
        rule_timeout: None, Text("30s"), false, "how long a question beside the digests of a proof may take on either server: a rule, or a foreign key of production";
        verify_key: None, Nothing, false, "public key that manifests must be signed with: the line of a .pub file that begins with RW, or its path";
        signing_key: None, Nothing, false, "file with the secret key that signs manifests";
    }
}
