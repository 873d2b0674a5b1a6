//! Settings as an operator gives them: every key from every place, who wins, and what is refused how.

use std::fs;
use std::path::Path;
use std::time::Duration;

use proptest::prelude::*;
use syncdata_service::config::{
    ArchiveSettings, Config, Confirm, KEYS, Key, MASK, OnError, Origin, Overrides,
};
use syncdata_service::postgres::SslMode;

use crate::settings_file::{CANARY, SettingsFile, chmod, env, file, load, refusal, setting};

/// Every key: a value in the file, another one in the environment.
const VALUES: &[(&str, &str, &str)] = &[
    ("archive_host", "\"backup\"", "backup.example.org"),
    ("archive_user", "\"sync\"", "other"),
    ("archive_port", "2222", "2223"),
    ("archive_dir", "\"/srv/archive\"", "/srv/other"),
    ("archive_identity_file", "\"/k/id\"", "/k/id2"),
    ("archive_identity_passphrase", "\"canary-7d1f\"", "canary-7d1f-2"),
    ("archive_passphrase_file", "\"/k/secret\"", "/k/secret2"),
    ("archive_known_hosts", "\"/k/hosts\"", "/k/hosts2"),
    ("archive_url", "\"s3://backups/app\"", "s3://other"),
    ("archive_region", "\"eu-central-1\"", "auto"),
    ("archive_endpoint", "\"https://minio.example:9000\"", "http://127.0.0.1:8333"),
    ("archive_credentials_file", "\"/k/s3\"", "/k/s3-2"),
    ("pg_host", "\"db\"", "/var/run/postgresql"),
    ("pg_port", "5433", "5434"),
    ("pg_user", "\"me\"", "you"),
    ("pg_password", "\"canary-7d1f\"", "canary-7d1f-2"),
    ("pg_password_file", "\"/k/secret\"", "/k/secret2"),
    ("pg_database", "\"app\"", "other"),
    ("pg_sslmode", "\"verify-full\"", "disable"),
    ("pg_sslrootcert", "\"/k/root.crt\"", "/k/root2.crt"),
    ("pg_sslcert", "\"/k/our.crt\"", "/k/our2.crt"),
    ("pg_sslkey", "\"/k/our.key\"", "/k/our2.key"),
    ("data_sync_freq", "900", "20min"),
    ("follow", "true", "false"),
    ("follow_interval", "\"250ms\"", "2"),
    ("target", "\"duckdb\"", "postgres"),
    ("duckdb_database_path", "\"/data/copy.duckdb\"", "/data/other.duckdb"),
    ("duckdb_memory_limit", "\"4GiB\"", "1GiB"),
    ("duckdb_worker_threads", "2", "8"),
    ("duckdb_text_columns", "[\"users.day\", \"sales.orders.total\"]", "users.name"),
    ("publish", "\"duckdb\"", "none"),
    ("publish_interval", "\"5min\"", "60"),
    ("metric_freq", "\"12h\"", "6"),
    ("slot_name", "\"slot_a\"", "slot_b"),
    ("source", "\"pgoutput\"", "wal2json"),
    ("tables", "[\"users\", \"sales.*\"]", "users,\"a,b\".x"),
    ("confirm", "\"spooled\"", "shipped"),
    ("wal_guard", "\"1GiB\"", "2GiB"),
    ("spool_dir", "\"/spool\"", "/spool2"),
    ("spool_max", "1000000", "5GiB"),
    ("poll_max_changes", "1000", "2000"),
    ("segment_max_changes", "1000", "2000"),
    ("segment_max_bytes", "\"1MiB\"", "2MiB"),
    ("compression_level", "7", "9"),
    ("cache_dir", "\"/cache\"", "/cache2"),
    ("cache_max", "\"1GiB\"", "3GiB"),
    ("line_max", "\"16MiB\"", "32MiB"),
    ("apply_batch_changes", "1000", "2000"),
    ("on_error", "\"stop\"", "quarantine"),
    ("quarantine_values", "\"hash\"", "keep"),
    ("local_writes", "\"block\"", "allow"),
    ("stale_after", "\"1h\"", "7200"),
    ("meta_schema", "\"sync\"", "Meta"),
    ("http_listen", "\"127.0.0.1:9187\"", "[::1]:9188"),
    ("http_listen_archiver", "\"127.0.0.1:9189\"", "[::1]:9189"),
    ("http_behind_proxy", "true", "false"),
    ("http_hosts", "[\"sync.example.org\", \"[fd00::7]\"]", "a.example,b.example"),
    ("api_token_file", "\"/k/tokens\"", "/k/tokens2"),
    ("log_keep_days", "7", "0"),
    ("enable_sync_monitoring", "false", "true"),
    ("sync_lag_alert_threshold_minutes", "20", "30"),
    ("consistency_score_alert_threshold", "99.95", "80"),
    ("dead_letter_queue_alert_threshold", "7", "8"),
    ("alert_webhook", "\"https://alerts.example/canary-7d1f\"", "http://127.0.0.1:8080/canary-7d1f-2"),
    ("alert_webhook_secret_file", "\"/k/hook\"", "/k/hook2"),
    ("alert_command", "\"logger\"", "mail ops"),
    ("keep_days", "30", "0"),
    ("keep_singles", "2", "0"),
    ("proof_every", "\"6h\"", "0"),
    ("rule_timeout", "\"2min\"", "90"),
    ("verify_key", "\"/k/key.pub\"", "/k/key2.pub"),
    ("signing_key", "\"/k/key.sec\"", "/k/key2.sec"),
];

fn key(name: &str) -> &'static Key {
    KEYS.iter().find(|key| key.name == name).expect("a key")
}

/// What `config` shows for a value of the tables above.
fn shown(name: &str, value: &str) -> String {
    if key(name).secret {
        return MASK.to_owned();
    }
    match value.strip_prefix('[') {
        Some(list) if ["tables", "http_hosts", "duckdb_text_columns"].contains(&name) => {
            list.strip_suffix(']').unwrap_or(list).replace(['"', ' '], "")
        }
        _ if name == "tables" => value.to_owned(),
        _ => value.trim_matches('"').to_owned(),
    }
}

/// Keys that make the others complete.
fn with_user(name: &str) -> &'static str {
    if name == "archive_host" { "archive_user = \"u\"\n" } else { "" }
}

#[test]
fn the_table_of_this_test_has_every_key() {
    let ours: Vec<&str> = VALUES.iter().map(|(name, ..)| *name).collect();
    assert_eq!(ours, KEYS.iter().map(|key| key.name).collect::<Vec<_>>());
}

#[test]
fn every_key_is_read_from_every_place_and_says_where() {
    for (name, in_file, in_env) in VALUES {
        let text = format!("# a comment\n{}{name} = {in_file}\n", with_user(name));
        let line = text.lines().count();
        let file = file(&text);
        let load = |vars: &[(&str, &str)], overrides: &Overrides| {
            let config = Config::load(Some(&file.path), env(vars), overrides);
            setting(&config.unwrap_or_else(|error| panic!("{name}: {}", error.report())), name)
        };
        let none = Overrides::default();

        let from_file = load(&[], &none);
        assert_eq!(from_file.value, Some(shown(name, in_file)), "{name}");
        assert_eq!(from_file.origin, Origin::File { path: file.path.clone(), line }, "{name}");

        let own = key(name).own_env();
        let from_env = load(&[(&own, in_env)], &none);
        assert_eq!(from_env.value, Some(shown(name, in_env)), "{name}");
        assert_eq!(from_env.origin, Origin::Environment(own.clone()), "{name}");

        let empty = load(&[(&own, "")], &none);
        assert_eq!(empty, from_file, "{name}: an empty variable is none");

        if let Some(earlier) = key(name).env {
            assert_eq!(load(&[(earlier, in_env)], &none).origin, Origin::Environment(earlier.into()));
            let both = load(&[(earlier, in_env), (&own, in_env)], &none);
            assert_eq!(both.origin, Origin::Environment(own.clone()), "{name}: our own name wins");
        }

        let mut overrides = Overrides::default();
        overrides.set(name, *in_env);
        assert_eq!(load(&[(&own, in_env)], &overrides).origin, Origin::CommandLine, "{name}");
    }
}

#[test]
fn defaults_are_those_of_the_manual() {
    let config = load("", &[("HOME", "/home/me"), ("STATE_DIRECTORY", "/state")]);
    for key in KEYS {
        assert_eq!(setting(&config, key.name).origin, Origin::Default, "{}", key.name);
    }
    assert_eq!(config.data_sync_freq, Duration::from_secs(600));
    assert_eq!(config.metric_freq, Duration::from_secs(24 * 3600));
    assert_eq!(config.stale_after, Duration::from_secs(1800));
    assert_eq!(config.slot_name.as_str(), "syncdata_slot");
    assert_eq!(config.tables, []);
    assert_eq!((config.confirm, config.on_error), (Confirm::Shipped, OnError::Quarantine));
    assert_eq!(config.wal_guard.as_u64(), 8 << 30);
    assert_eq!(config.spool_max.as_u64(), 20 << 30);
    assert_eq!(config.cache_max.as_u64(), 2 << 30);
    assert_eq!(config.segment_max_bytes.as_u64(), 64 << 20);
    assert_eq!(config.poll_max_changes.get(), 500_000);
    assert_eq!(config.segment_max_changes.get(), 250_000);
    assert_eq!(config.apply_batch_changes.get(), 100_000);
    assert_eq!((config.line_max, config.log_keep_days), (256 << 20, 90));
    assert_eq!((config.compression_level, config.keep_days), (3, None));
    assert_eq!(config.spool_dir, Path::new("/state/changes"));
    assert_eq!(config.cache_dir, Path::new("/state/cache"));
    assert_eq!((config.meta_schema.as_str(), config.http_listen), ("public", None));
}

#[test]
fn connection_settings_come_out_whole() {
    let config = load(
        "archive_host = \"b\"\narchive_user = \"u\"\narchive_dir = \"~/x\"\narchive_known_hosts = \"~/hosts\"\n\
         pg_database = \"app\"\npg_sslmode = \"verify-ca\"\npg_sslrootcert = \"~/root.crt\"",
        &[("HOME", "/home/me"), ("PG_BACKUP_DIR", "/var/backups/pg")],
    );
    let ArchiveSettings::Sftp(archive) = config.archive().expect("it is set") else {
        panic!("a host is set");
    };
    assert_eq!((archive.host.as_str(), archive.user.as_str(), archive.port), ("b", "u", 22));
    assert_eq!(archive.dir, Path::new("~/x"), "the backup host's own folder");
    assert_eq!(archive.known_hosts.as_deref(), Some(Path::new("/home/me/hosts")));
    let postgres = config.postgres().expect("it is set");
    assert_eq!(postgres.location(), "admin@127.0.0.1:5432/app");
    assert_eq!(postgres.ssl_mode, SslMode::VerifyCa);
    assert_eq!(postgres.ssl_files.root_cert.as_deref(), Some(Path::new("/home/me/root.crt")));
    assert_eq!(postgres.password_file, Path::new("/home/me/.pgpass"));
    assert_eq!(config.spool_dir, Path::new("/var/backups/pg/changes"));
    let local = load("archive_dir = \"~/x\"", &[("HOME", "/home/me")]);
    let ArchiveSettings::Directory(dir) = local.archive().expect("it is set") else {
        panic!("no host is set");
    };
    assert_eq!(dir, Path::new("/home/me/x"));
}

#[test]
fn an_archive_on_object_storage_has_its_place_and_the_usual_rest() {
    let home = tempfile::tempdir().expect("a temporary folder");
    fs::create_dir(home.path().join(".aws")).expect("writable");
    let home_path = home.path().to_str().expect("UTF-8");
    let s3 = |text: &str, vars: &[(&str, &str)]| {
        let vars = [vars, &[("HOME", home_path)]].concat();
        let config = load(&format!("archive_url = \"s3://backups/app/\"\n{text}"), &vars);
        match config.archive().expect("it is set") {
            ArchiveSettings::S3(s3) => s3.clone(),
            other => panic!("{other:?}"),
        }
    };
    let plain = s3("", &[]);
    assert_eq!((plain.place.to_string().as_str(), plain.region.as_str()), ("s3://backups/app", "us-east-1"));
    assert_eq!(plain.endpoint.to_string(), "https://s3.us-east-1.amazonaws.com");
    fs::write(home.path().join(".aws/config"), "[default]\nregion = eu-west-3\n[profile x]\nregion = auto\n")
        .expect("writable");
    assert_eq!(s3("", &[]).endpoint.to_string(), "https://s3.eu-west-3.amazonaws.com");
    assert_eq!(s3("", &[("AWS_PROFILE", "x")]).region, "auto");
    assert_eq!(s3("", &[("AWS_REGION", "eu-north-1")]).region, "eu-north-1");
    let named =
        s3("archive_region = \"here\"\narchive_endpoint = \"http://[::1]:9000\"", &[("AWS_REGION", "there")]);
    assert_eq!((named.region.as_str(), named.endpoint.to_string().as_str()), ("here", "http://[::1]:9000"));
    let variable = [("AWS_ENDPOINT_URL_S3", "http://store:1"), ("AWS_ENDPOINT_URL", "http://store:2")];
    assert_eq!(s3("", &variable).endpoint.to_string(), "http://store:1");

    // The keys of the environment, of the usual file, and before both those of our own setting.
    let id = |s3: &syncdata_service::config::S3Settings| s3.keys.read().map(|keys| keys.id);
    assert!(id(&plain).expect_err("there is no file").report().contains("archive_credentials_file"));
    let write = |name: &str, text: &str| {
        let path = home.path().join(name);
        fs::write(&path, text).expect("writable");
        chmod(&path, 0o600);
    };
    write(
        ".aws/credentials",
        "[default]\naws_access_key_id = A\naws_secret_access_key = s\n[x]\naws_access_key_id = X\naws_secret_access_key = s\n",
    );
    assert_eq!(id(&plain).expect("read when they are needed"), "A");
    assert_eq!(id(&s3("", &[("AWS_PROFILE", "x")])).expect("there"), "X");
    let vars = [("AWS_ACCESS_KEY_ID", "E"), ("AWS_SECRET_ACCESS_KEY", CANARY)];
    let of_environment = s3("", &vars);
    assert_eq!(id(&of_environment).expect("there"), "E");
    assert!(!format!("{of_environment:?}").contains(CANARY), "{of_environment:?}");
    write("ours", &format!("aws_access_key_id = O\naws_secret_access_key = {CANARY}\n"));
    let of_ours = s3("archive_credentials_file = \"~/ours\"", &vars);
    assert_eq!(id(&of_ours).expect("there"), "O");
    assert!(!format!("{of_ours:?} {:?}", of_ours.keys.read()).contains(CANARY));

    for other in ["archive_host = \"b\"\narchive_user = \"u\"", "archive_dir = \"/x\""] {
        let report = refusal(&format!("archive_url = \"s3://backups\"\n{other}"), &[]);
        assert!(report.contains("are both set") && report.contains("syncdata.toml:1"), "{report}");
    }
    let vars = [("SYNCDATA_ARCHIVE_URL", "s3://backups")];
    assert!(refusal("archive_dir = \"/x\"", &vars).contains("environment SYNCDATA_ARCHIVE_URL"));
}

#[test]
fn what_a_command_needs_and_nobody_set_is_named_with_its_places() {
    let config = load("", &[]);
    let archive = config.archive().expect_err("no archive_dir").report();
    assert!(archive.contains("archive_dir = ") && archive.contains("SYNCDATA_ARCHIVE_DIR"), "{archive}");
    let postgres = config.postgres().expect_err("no pg_database").report();
    assert!(postgres.contains("PG_DB_NAME") && postgres.contains("SYNCDATA_PG_DATABASE"), "{postgres}");
    assert!(refusal("archive_host = \"b\"\narchive_dir = \"/x\"", &[]).contains("archive_user"));
}

#[test]
fn a_misspelt_key_is_told_its_neighbour_and_its_line() {
    for (written, meant) in [
        ("data_sync_frequency", "data_sync_freq"),
        ("pg_pasword", "pg_password"),
        ("archive_directory", "archive_dir"),
        ("segment_max_byte", "segment_max_bytes"),
        ("slotname", "slot_name"),
        ("keepdays", "keep_days"),
    ] {
        let report = refusal(&format!("\n\n{written} = \"{CANARY}\"\n"), &[]);
        assert!(report.contains(&format!("did you mean {meant}?")), "{report}");
        assert!(report.contains("syncdata.toml:3"), "{report}");
        assert!(!report.contains(CANARY), "{report}");
    }
    assert!(refusal("[postgres]\nhost = \"x\"", &[]).contains("\"postgres\" is not a setting"));
    assert!(!refusal("zzz = 1", &[]).contains("did you mean"));
}

#[test]
fn a_bad_value_is_told_key_place_and_what_is_taken() {
    for (name, in_file, accepted) in [
        ("data_sync_freq", "4", "at least 5 seconds"),
        ("data_sync_freq", "0", "at least 5 seconds"),
        ("data_sync_freq", "-600", "at least 5 seconds"),
        ("data_sync_freq", "\"soon\"", "at least 5 seconds"),
        ("data_sync_freq", "\"600\"", "at least 5 seconds"),
        ("data_sync_freq", "\"1000years\"", "at least 5 seconds"),
        ("metric_freq", "0", "at least a minute"),
        ("stale_after", "0", "at least a second"),
        ("archive_port", "0", "a port number"),
        ("archive_url", "\"https://backups/app\"", "s3://backups/app"),
        ("archive_url", "\"s3://Backups\"", "s3://backups/app"),
        ("archive_endpoint", "\"minio.example\"", "a host, no path"),
        ("archive_region", "\"eu central\"", "the name of a region"),
        ("pg_port", "65536", "a port number"),
        ("pg_port", "\"5432\"", "a port number"),
        ("pg_host", "5", "a text"),
        ("pg_database", "\"\"", "a text"),
        ("pg_sslmode", "\"allow\"", "disable, prefer, require, verify-ca, verify-full"),
        ("slot_name", "\"My-Slot\"", "a slot name"),
        ("tables", "\"users\"", "a list of tables"),
        ("tables", "[\"us*\"]", "\"us*\" is none of these"),
        ("confirm", "\"yes\"", "shipped, spooled"),
        ("on_error", "\"skip\"", "quarantine, stop"),
        ("local_writes", "\"track\"", "one of allow, block (track is not built yet)"),
        ("wal_guard", "\"8 apples\"", "64MiB"),
        ("wal_guard", "0", "above 0"),
        ("spool_max", "-1", "above 0"),
        ("poll_max_changes", "0", "1 to 2147483647"),
        ("segment_max_changes", "2147483648", "1 to 2147483647"),
        ("compression_level", "20", "1 to 19"),
        ("compression_level", "0", "1 to 19"),
        ("http_listen", "\"localhost\"", "an address and a port"),
        ("http_hosts", "[\"sync.example.org:443\"]", "without ports"),
        ("http_hosts", "[]", "a list of host names"),
        ("keep_days", "-1", "a number of days"),
        ("log_keep_days", "-1", "a number of days"),
        ("keep_singles", "-1", "a number of days"),
        ("line_max", "\"2GiB\"", "a size from 256KiB to 1GiB"),
        ("line_max", "\"1KiB\"", "a size from 256KiB to 1GiB"),
        ("meta_schema", &format!("\"{}\"", "x".repeat(64)), "at most 63 bytes"),
    ] {
        let report = refusal(&format!("# one\n{name} = {in_file}"), &[]);
        assert!(report.contains(name) && report.contains("syncdata.toml:2"), "{report}");
        assert!(report.contains(accepted), "{report}");
    }
    for (name, value) in [("PG_PORT", "x"), ("DATA_SYNC_FREQ", "4"), ("SYNCDATA_TABLES", "a,,b")] {
        let report = refusal("", &[(name, value)]);
        assert!(report.contains(&format!("environment {name}")), "{report}");
    }
    for typed in ["pg_port = 5432.5", "pg_host = true", "tables = [1]", "pg_host = 2026-01-01"] {
        assert!(refusal(typed, &[]).contains("cannot be a TOML "), "{typed}");
    }
}

#[test]
fn rules_are_sections_with_a_table_and_a_query() {
    let config = load(
        "pg_host = \"x\"\n[rules.positive]\ntable = \"sales.orders\"\nsql = \"\"\"\nSELECT id FROM orders\nWHERE n < 0;\n\"\"\"\n\
         [rules.\"no names\"]\ntable = \"users\"\nsql = \"SELECT id FROM users\"\n",
        &[],
    );
    let names: Vec<&str> = config.rules.keys().map(String::as_str).collect();
    assert_eq!(names, ["no names", "positive"]);
    let positive = &config.rules["positive"];
    assert_eq!(
        (positive.table.to_string().as_str(), positive.sql.as_str()),
        ("sales.orders", "SELECT id FROM orders\nWHERE n < 0")
    );
    assert_eq!(setting(&config, "rules").value.as_deref(), Some("no names,positive"));
    assert_eq!(config.rule_timeout, Duration::from_secs(30));
    assert!(load("", &[]).rules.is_empty());
    for (text, says) in [
        ("rules = 1", "is no list of rules"),
        ("[rules]\na = 1", "rules.a is no rule"),
        ("[rules.a]\ntable = \"t\"", "rules.a lacks its table or its sql"),
        ("[rules.a]\ntable = \"t\"\nsql = \" ; \"", "rules.a lacks its table or its sql"),
        ("[rules.a]\ntable = \"sales.*\"\nsql = \"SELECT 1\"", "rules.a.table is no table"),
        ("[rules.a]\ntable = \"t\"\nsql = 7", "rules.a.sql is no text"),
        ("[rules.a]\ntabel = \"t\"\nsql = \"SELECT 1\"", "rules.a.tabel is no part of a rule"),
    ] {
        let report = refusal(&format!("pg_host = \"x\"\n{text}"), &[]);
        assert!(report.contains(says) && report.contains("[rules.NAME]"), "{text}: {report}");
        assert!(report.contains("syncdata.toml:"), "{report}");
    }
}

#[test]
fn times_and_sizes_have_units() {
    for (written, seconds) in [("90", 90), ("\"10min\"", 600), ("\"2h\"", 7200), ("\"1day\"", 86_400)] {
        let config = load(&format!("data_sync_freq = {written}"), &[]);
        assert_eq!(config.data_sync_freq, Duration::from_secs(seconds), "{written}");
        assert_eq!(config.stale_after, Duration::from_secs(3 * seconds), "{written}");
    }
    // The earlier tool counted this one in hours.
    for (written, hours) in [("12", 12), ("12h", 12), ("1day", 24)] {
        let config = load("", &[("METRIC_FREQ", written)]);
        assert_eq!(config.metric_freq, Duration::from_secs(hours * 3600), "{written}");
    }
    for (written, bytes) in
        [("1024", 1024), ("\"64MiB\"", 64 << 20), ("\"1.5GiB\"", 3 << 29), ("\"1GB\"", 1_000_000_000)]
    {
        let config = load(&format!("cache_max = {written}"), &[]);
        assert_eq!(config.cache_max.as_u64(), bytes, "{written}");
    }
}

#[test]
fn lists_in_the_environment_respect_quotes() {
    let config =
        load("tables = [\"x\"]", &[("SYNCDATA_TABLES", "users, Sales.Orders,\"a,b\".x,sales.*,\"*\"")]);
    let tables: Vec<String> = config.tables.iter().map(ToString::to_string).collect();
    assert_eq!(tables, ["users", "sales.orders", "a,b.x", "sales.*", "\"*\""]);
}

#[test]
fn the_file_is_the_one_that_was_named() {
    let (first, second) = (file("meta_schema = \"first\""), file("meta_schema = \"second\""));
    let path = |file: &SettingsFile| file.path.to_str().expect("UTF-8").to_owned();
    let vars = [("DATA_SYNC_CONFIG", path(&second))];
    let vars: Vec<(&str, &str)> = vars.iter().map(|(name, value)| (*name, value.as_str())).collect();
    let by_env = Config::load(None, env(&vars), &Overrides::default()).expect("right");
    assert_eq!(by_env.meta_schema, "second");
    let by_flag = Config::load(Some(&first.path), env(&vars), &Overrides::default()).expect("right");
    assert_eq!(by_flag.meta_schema, "first");
    let missing = Config::load(Some(Path::new("/nowhere/x.toml")), env(&[]), &Overrides::default());
    assert!(missing.expect_err("no such file").report().contains("/nowhere/x.toml"));
}

#[test]
fn names_of_the_earlier_tools_hold_in_the_file_and_once() {
    let config = load("PG_HOST = \"db\"\nPG_DB_NAME = \"app\"\nDATA_SYNC_FREQ = 900\nMETRIC_FREQ = 6", &[]);
    assert_eq!(config.postgres().expect("set").location(), "admin@db:5432/app");
    assert_eq!(config.data_sync_freq, Duration::from_secs(900));
    assert_eq!(config.metric_freq, Duration::from_secs(6 * 3600));
    let twice = refusal("pg_host = \"a\"\n\nPG_HOST = \"b\"", &[]);
    assert!(twice.contains("pg_host") && twice.contains("toml:1") && twice.contains("toml:3"), "{twice}");
}

#[test]
fn what_is_missing_is_said_with_the_file_that_was_read() {
    let file = file("");
    let config = Config::load(Some(&file.path), env(&[]), &Overrides::default()).expect("right");
    let report = config.postgres().expect_err("no pg_database").report();
    assert!(report.contains(&file.path.display().to_string()), "{report}");
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 256, ..ProptestConfig::default() })]

    /// Whatever an editor, or a stranger, leaves in the file or a variable: settings or a refusal, no panic.
    #[test]
    fn any_text_is_taken_or_refused(
        name in proptest::sample::select(KEYS.iter().map(|key| key.name).collect::<Vec<_>>()),
        value in "[\\PC\\x00-\\x1f]{0,40}",
        number in "-?[0-9.eE+]{1,30}[a-zA-Z]{0,4}",
    ) {
        for value in [&value, &number] {
            let file = file(&format!("{name} = {value}\n"));
            let own = key(name).own_env();
            for (path, vars) in [(Some(file.path.as_path()), vec![]), (None, vec![(own.as_str(), value.as_str())])] {
                if let Err(error) = Config::load(path, env(&vars), &Overrides::default()) {
                    prop_assert!(!error.one_line().contains(char::is_control));
                }
            }
        }
    }
}

/// The page's table: `| `key` | default | environment | meaning |`.
#[test]
fn the_manual_page_says_what_the_code_does() {
    let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/settings.md");
    let page = fs::read_to_string(page).expect("docs/settings.md");
    let rows: Vec<Vec<&str>> = page
        .lines()
        .filter_map(|line| line.strip_prefix("| `")?.strip_suffix(" |"))
        .map(|line| line.split(" | ").map(|cell| cell.trim_end_matches('`')).collect())
        .collect();
    let expected: Vec<Vec<&str>> = KEYS
        .iter()
        .map(|key| {
            vec![key.name, key.default.describe(), key.env.unwrap_or("–"), key.meaning.trim_end_matches('`')]
        })
        .collect();
    assert_eq!(rows, expected);
}

#[test]
fn the_manual_page_s_example_loads() {
    let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/settings.md");
    let page = fs::read_to_string(page).expect("docs/settings.md");
    let examples: Vec<&str> =
        page.split("```toml\n").skip(1).filter_map(|rest| rest.split("```").next()).collect();
    assert!(!examples.is_empty());
    for example in examples {
        let config = load(example, &[]);
        config.archive().expect("an example is complete");
        config.postgres().expect("an example is complete");
    }
}
