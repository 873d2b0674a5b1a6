//! Passwords and keys among the settings: where they come from, and that they are shown to nobody.

use std::fs;

use syncdata_service::config::{ArchiveSettings, Config, MASK, Origin, Overrides};

use crate::settings_file::{CANARY, chmod, env, file, load, refusal, setting};

#[test]
fn a_secret_shows_nowhere() {
    let text = format!(
        "pg_password = \"{CANARY}\"\narchive_identity_passphrase = \"{CANARY}\"\n\
        archive_dir = \"/x\"\npg_database = \"app\"\n"
    );
    let config = load(&text, &[]);
    let archive = config.archive().expect("set");
    let postgres = config.postgres().expect("set");
    assert_eq!(postgres.password.as_ref().map(|secret| secret.expose()), Some(CANARY));
    for printed in [
        format!("{config:?} {config:#?}"),
        format!("{archive:?} {postgres:?} {}", postgres.location()),
        format!("{:?} {}", config.describe(), config.describe_json()),
        serde_json::to_string(&postgres.password).expect("JSON"),
    ] {
        assert!(!printed.contains(CANARY), "{printed}");
        assert!(printed.contains(MASK) || !printed.contains("password"), "{printed}");
    }
    for broken in [
        format!("pg_password = \"{CANARY}"),
        format!("pg_password = [\"{CANARY}\"]"),
        format!("pg_password = {{ x = \"{CANARY}\" }}"),
        format!("pg_password = \"{CANARY}\"\npg_password = \"{CANARY}\""),
        format!("pg_password = \"{CANARY}\\u0000\""),
        format!("pg_passwort = \"{CANARY}\""),
    ] {
        let report = refusal(&broken, &[]);
        assert!(!report.contains(CANARY), "{report}");
        assert!(report.contains("syncdata.toml:"), "{report}");
    }
}

#[test]
fn a_file_with_a_secret_is_not_for_everybody() {
    let file = file("pg_password = \"x\"\n");
    let load = || Config::load(Some(&file.path), env(&[]), &Overrides::default());
    for mode in [0o600, 0o640, 0o660] {
        chmod(&file.path, mode);
        assert!(load().is_ok(), "{mode:o}");
    }
    for mode in [0o644, 0o604, 0o602, 0o601] {
        chmod(&file.path, mode);
        let report = load().expect_err("exposed").report();
        assert!(report.contains("chmod 0640") && report.contains("pg_password"), "{report}");
    }
    fs::write(&file.path, "pg_host = \"x\"\n").expect("writable");
    chmod(&file.path, 0o644);
    assert!(load().is_ok(), "without a secret, everybody may read it");
}

#[test]
fn the_service_manager_hands_secrets_over() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    fs::write(folder.path().join("pg_password"), "from-systemd\n").expect("writable");
    fs::write(folder.path().join("archive_identity"), "a key").expect("writable");
    let credentials = folder.path().to_str().expect("UTF-8");
    let settings =
        "archive_host = \"b\"\narchive_user = \"u\"\narchive_dir = \"/x\"\npg_database = \"app\"\n";
    let config = load(settings, &[("CREDENTIALS_DIRECTORY", credentials)]);
    let password = &config.postgres().expect("set").password;
    assert_eq!(password.as_ref().map(|secret| secret.expose()), Some("from-systemd"));
    let identity = folder.path().join("archive_identity");
    let ArchiveSettings::Sftp(sftp) = config.archive().expect("set") else { panic!("a host is set") };
    assert_eq!(sftp.identity_file.as_ref(), Some(&identity));
    assert_eq!(setting(&config, "archive_identity_file").origin, Origin::Credential(identity.clone()));
    // Root at a shell reads the file's line, the unit its own copy.
    let named = format!(
        "{settings}archive_identity_file = \"/etc/syncdata/id\"\npg_password_file = \"/etc/syncdata/none\"\n"
    );
    let config = load(&named, &[("CREDENTIALS_DIRECTORY", credentials)]);
    assert_eq!(setting(&config, "archive_identity_file").origin, Origin::Credential(identity.clone()));
    assert_eq!(
        config.postgres().expect("set").password.as_ref().map(|secret| secret.expose()),
        Some("from-systemd")
    );
    let vars = [("CREDENTIALS_DIRECTORY", credentials), ("SYNCDATA_ARCHIVE_IDENTITY_FILE", "/mine")];
    let origin = setting(&load(&named, &vars), "archive_identity_file").origin;
    assert_eq!(origin, Origin::Environment("SYNCDATA_ARCHIVE_IDENTITY_FILE".to_owned()));
    let vars = [("CREDENTIALS_DIRECTORY", credentials), ("PG_PASSWORD", "mine")];
    let password = &load(settings, &vars).postgres().expect("set").password.clone();
    assert_eq!(password.as_ref().map(|secret| secret.expose()), Some("mine"));
}

#[test]
fn the_keys_of_a_store_are_a_credential_too() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let file = folder.path().join("archive_credentials");
    fs::write(&file, format!("aws_access_key_id = A\naws_secret_access_key = {CANARY}\n")).expect("writable");
    chmod(&file, 0o400);
    let settings = "archive_url = \"s3://backups/app\"\narchive_credentials_file = \"/etc/syncdata/none\"\n";
    let config = load(settings, &[("CREDENTIALS_DIRECTORY", folder.path().to_str().expect("UTF-8"))]);
    assert_eq!(setting(&config, "archive_credentials_file").origin, Origin::Credential(file));
    let ArchiveSettings::S3(s3) = config.archive().expect("set") else { panic!("a bucket is set") };
    let keys = s3.keys.read().expect("it is there");
    assert_eq!((keys.id.as_str(), keys.secret.expose()), ("A", CANARY));
    assert!(!format!("{config:?} {keys:?} {}", config.describe_json()).contains(CANARY));
}

#[test]
fn a_secret_in_a_file_of_its_own_is_read_where_nothing_else_gives_it() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let (secret, home) = (folder.path().join("secret"), folder.path().to_str().expect("UTF-8"));
    fs::write(&secret, "from-file\n").expect("writable");
    chmod(&secret, 0o600);
    let settings = "archive_host = \"b\"\narchive_user = \"u\"\narchive_dir = \"/x\"\npg_database = \"app\"\n\
        pg_password_file = \"~/secret\"\narchive_passphrase_file = \"~/secret\"";
    let vars = [("HOME", home)];
    let config = load(settings, &vars);
    let password = |config: &Config| {
        config.postgres().expect("set").password.as_ref().map(|secret| secret.expose().to_owned())
    };
    assert_eq!(password(&config).as_deref(), Some("from-file"));
    let ArchiveSettings::Sftp(sftp) = config.archive().expect("set") else { panic!("a host is set") };
    assert_eq!(sftp.passphrase.as_ref().map(|secret| secret.expose()), Some("from-file"));

    // A file that the environment names counts more than what stands in the settings, which must not say both.
    let both = format!("{settings}\npg_password = \"plain\"");
    assert!(refusal(&both, &vars).contains("said twice"));
    let plain = "pg_database = \"app\"\npg_password = \"plain\"";
    let named = [("HOME", home), ("SYNCDATA_PG_PASSWORD_FILE", "~/secret")];
    assert_eq!(password(&load(plain, &named)).as_deref(), Some("from-file"));
    let spoken = [("HOME", home), ("SYNCDATA_PG_PASSWORD", "spoken")];
    assert_eq!(password(&load(settings, &spoken)).as_deref(), Some("spoken"));

    for text in ["", "two\nlines\n"] {
        fs::write(&secret, text).expect("writable");
        let report = refusal(settings, &vars);
        assert!(report.contains("one line") && !report.contains("two"), "{report}");
    }
    chmod(&secret, 0o644);
    assert!(refusal(settings, &vars).contains("chmod 0640"));

    // A unit may not be able to open the file: with a credential nobody asks it to.
    fs::remove_file(&secret).expect("ours");
    let credentials = tempfile::tempdir().expect("a temporary folder");
    for name in ["pg_password", "archive_identity_passphrase"] {
        fs::write(credentials.path().join(name), "from-systemd\n").expect("writable");
    }
    let folder = credentials.path().to_str().expect("UTF-8");
    let config = load(settings, &[("HOME", home), ("CREDENTIALS_DIRECTORY", folder)]);
    assert_eq!(password(&config).as_deref(), Some("from-systemd"));
}

#[test]
fn keys_for_signatures_are_read_when_they_are_asked_for() {
    let (secret, public) = syncdata_formats::signature::SigningKey::generate().expect("a key");
    let folder = tempfile::tempdir().expect("a temporary folder");
    let (sec, key) = (folder.path().join("key.sec"), folder.path().join("key.pub"));
    fs::write(&sec, secret).expect("writable");
    fs::write(&key, &public).expect("writable");
    chmod(&sec, 0o600);
    let settings = format!("signing_key = {sec:?}\nverify_key = {key:?}");
    let config = load(&settings, &[]);
    let signing = config.signing_key().expect("readable").expect("set");
    assert_eq!(
        config.verify_key().expect("readable").expect("set").to_string(),
        signing.verify_key().to_string()
    );
    chmod(&sec, 0o644);
    assert!(config.signing_key().expect_err("exposed").report().contains("chmod 0600"));
    let line = public.lines().nth(1).expect("the key's line").to_owned();
    let inline = load(&format!("verify_key = \"{line}\""), &[]).verify_key().expect("a key").expect("set");
    assert_eq!(inline.to_string(), line);
}

/// A daemon that is started would wait for somebody who writes into it.
#[test]
fn a_key_that_is_a_pipe_is_refused_at_once() {
    let folder = tempfile::tempdir().expect("a folder");
    let pipe = folder.path().join("pipe");
    let mode = rustix::fs::Mode::from_raw_mode(0o600);
    rustix::fs::mknodat(rustix::fs::CWD, &pipe, rustix::fs::FileType::Fifo, mode, 0).expect("a pipe");
    let config = load(&format!("signing_key = {pipe:?}\nverify_key = {pipe:?}"), &[]);
    let refused =
        [config.signing_key().err(), config.verify_key().err()].map(|error| error.expect("no file").report());
    for report in refused {
        assert!(report.contains("is no plain file"), "{report}");
    }
}
