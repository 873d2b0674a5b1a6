//! Whom we trust, and how we are trusted: host keys, keys, agents.

use std::fs;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use syncdata_archive::{Archive as _, Patience};
use syncdata_formats::layout::ArchivePath;
use syncdata_formats::{Kind, Result};
use syncdata_service::config::{Secret, SftpSettings};
use syncdata_tests::sshd::{Options, Sshd, make_key, public_key};

use super::{IMPATIENT, assert_refused, put, read, sftp};

/// The first thing that anybody asks of an archive.
fn ask(settings: &SftpSettings) -> Result<()> {
    sftp(settings).stat(&ArchivePath::identity()).map(|_| ())
}

fn fingerprint(public_key_file: &Path) -> String {
    let output =
        Command::new("ssh-keygen").arg("-lf").arg(public_key_file).output().expect("ssh-keygen runs");
    let line = String::from_utf8(output.stdout).expect("ASCII");
    line.split(' ').nth(1).expect("bits, fingerprint, comment").to_owned()
}

#[test]
fn a_host_key_that_is_not_known_for_sure_is_refused_before_logging_in() {
    let server = Sshd::start_with(Options { config: "LogLevel DEBUG1\n".into(), ..Options::default() });
    make_key(&server.folder().join("other"), "ed25519", "");
    let (key, other) = (server.host_key("ed25519"), public_key(&server.folder().join("other")));
    let (port, shown) = (server.port(), fingerprint(&server.folder().join("host_key_ed25519.pub")));
    let name = format!("[127.0.0.1]:{port}");
    for (text, what) in [
        (String::new(), "is unknown"),
        (format!("[127.0.0.1]:{} {key}\n", port ^ 1), "is unknown"),
        (format!("[127.0.0.1]:*,!{name} {key}\n"), "is unknown"),
        (format!("@cert-authority {name} {key}\n"), "@cert-authority in line 1 is not supported"),
        (format!("{name} {other}\n"), "has changed"),
        (format!("{name} {other}\n127.0.0.1 {key}\n"), "has changed"),
        (format!("{name} {key}\n@revoked * {key}\n"), "is revoked"),
    ] {
        fs::write(server.known_hosts(), &text).expect("the test's own file");
        let file = server.known_hosts().display().to_string();
        let parts = [what, &shown, &file, "SFTP client not connected"];
        assert_refused(ask(&server.settings()), Kind::Refused, &parts);
    }
    assert!(!server.log().contains("userauth-request"), "somebody tried to log in: {}", server.log());
    assert!(server.log().contains("SSH2_MSG_NEWKEYS"), "the log would have shown it: {}", server.log());
}

#[test]
fn a_known_host_key_is_trusted_however_the_line_is_written() {
    let server = Sshd::start();
    let (key, port) = (server.host_key("ed25519"), server.port());
    let hashed = server.folder().join("hashed");
    fs::write(&hashed, format!("[127.0.0.1]:{port} {key}\n")).expect("a file");
    let status = Command::new("ssh-keygen")
        .args(["-q", "-H", "-f"])
        .arg(&hashed)
        .stderr(Stdio::null())
        .stdout(Stdio::null())
        .status();
    assert!(status.expect("ssh-keygen runs").success());
    for text in [
        fs::read_to_string(&hashed).expect("hashed in place"),
        format!("# ours\r\n\r\n[127.0.0.1]:{port} {key} backup host\r\n"),
        format!("[127.0.0.*]:{port} {key}"),
        format!("127.0.0.1 {key}"),
    ] {
        fs::write(server.known_hosts(), &text).expect("the test's own file");
        ask(&server.settings()).unwrap_or_else(|error| panic!("{text:?}: {error:?}"));
    }
}

#[test]
fn a_host_with_several_keys_is_known_by_any_of_them() {
    let types = ["ed25519", "ecdsa", "rsa"];
    let server = Sshd::start_with(Options { host_key_types: types.to_vec(), ..Options::default() });
    for known in types {
        let line = format!("[127.0.0.1]:{} {}\n", server.port(), server.host_key(known));
        fs::write(server.known_hosts(), line).expect("the test's own file");
        ask(&server.settings()).unwrap_or_else(|error| panic!("{known}: {error:?}"));
    }
}

#[test]
fn a_known_hosts_file_that_cannot_be_read_is_an_error_and_a_missing_one_knows_nobody() {
    let server = Sshd::start();
    let mut settings = server.settings();
    settings.known_hosts = Some(server.folder().to_owned());
    assert_refused(ask(&settings), Kind::BadInput, &["cannot read", "archive_known_hosts"]);
    settings.known_hosts = Some(server.folder().join("none"));
    assert_refused(ask(&settings), Kind::Refused, &["is unknown", "the file does not exist", "ssh-keyscan"]);
}

#[test]
fn a_host_that_offers_only_weak_algorithms_is_refused() {
    for weak in [
        "KexAlgorithms diffie-hellman-group14-sha256,diffie-hellman-group14-sha1\n",
        "Ciphers aes128-ctr,aes256-cbc\n",
        "HostKeyAlgorithms ssh-rsa\n",
    ] {
        let options = Options { config: weak.into(), host_key_types: vec!["rsa"], ..Options::default() };
        let server = Sshd::start_with(options);
        assert_refused(ask(&server.settings()), Kind::Refused, &["none of the algorithms"]);
    }
}

#[test]
fn keys_of_every_usual_type_log_in_with_and_without_passphrase() {
    let server = Sshd::start();
    for key_type in ["ed25519", "ecdsa", "rsa"] {
        for passphrase in ["", "open sesame"] {
            let key = server.folder().join(format!("key_{key_type}_{}", passphrase.len()));
            make_key(&key, key_type, passphrase);
            server.authorize(&public_key(&key));
            let mut settings = server.settings();
            settings.identity_file = Some(key.clone());
            settings.passphrase = (!passphrase.is_empty()).then(|| Secret::new(passphrase));
            ask(&settings).unwrap_or_else(|error| panic!("{}: {error:?}", key.display()));
        }
    }
}

#[test]
fn a_passphrase_that_is_wrong_or_missing_is_named() {
    let server = Sshd::start();
    for key_type in ["ed25519", "ecdsa", "rsa"] {
        let key = server.folder().join(format!("key_{key_type}"));
        make_key(&key, key_type, "open sesame");
        server.authorize(&public_key(&key));
        let mut settings = server.settings();
        settings.identity_file = Some(key.clone());
        let name = key.display().to_string();
        assert_refused(ask(&settings), Kind::BadInput, &["encrypted", "no passphrase", &name]);
        settings.passphrase = Some(Secret::new("open barley"));
        let error = assert_refused(ask(&settings), Kind::BadInput, &["passphrase does not open", &name]);
        fs::write(server.folder().join("authorized_keys"), "").expect("the server's own file");
        settings.passphrase = Some(Secret::new("open sesame"));
        assert_refused(ask(&settings), Kind::Refused, &["does not let the user", &name]);
        assert!(!error.report().contains("barley"), "a secret in a message: {error:?}");
        assert!(!format!("{settings:?}").contains("barley"), "a secret in a log");
    }
}

#[test]
fn a_key_that_others_can_read_is_refused() {
    let server = Sshd::start();
    let set = |mode| {
        fs::set_permissions(server.identity_file(), fs::Permissions::from_mode(mode))
            .expect("the test's own");
    };
    let is_root = fs::metadata(server.identity_file()).expect("the test's own").uid() == 0;
    for mode in [0o644, 0o604, 0o660] {
        set(mode);
        let hint = if is_root { "chmod 640" } else { "chmod 600" };
        assert_refused(ask(&server.settings()), Kind::BadInput, &["others can read it", hint]);
    }
    // What root keeps for the service's group is no secret of a person.
    set(0o640);
    match is_root {
        true => ask(&server.settings()).expect("root's, and the group's"),
        false => drop(assert_refused(ask(&server.settings()), Kind::BadInput, &["others can read it"])),
    }
    fs::set_permissions(server.identity_file(), fs::Permissions::from_mode(0o400)).expect("the test's own");
    ask(&server.settings()).expect("as strict as can be");
}

#[test]
fn a_stranger_is_told_what_to_check() {
    let server = Sshd::start();
    let mut wrong_user = server.settings();
    wrong_user.user = "nobody-of-that-name".into();
    assert_refused(
        ask(&wrong_user),
        Kind::Refused,
        &["does not let the user nobody-of-that-name in", "archive_user"],
    );
    let key = server.folder().join("stranger");
    make_key(&key, "ed25519", "");
    let mut wrong_key = server.settings();
    wrong_key.identity_file = Some(key);
    assert_refused(ask(&wrong_key), Kind::Refused, &["does not let the user", "stranger", "authorized_keys"]);
}

#[test]
fn a_key_file_that_is_none_is_named() {
    let server = Sshd::start();
    let mut settings = server.settings();
    settings.identity_file = Some(server.folder().join("none"));
    assert_refused(ask(&settings), Kind::BadInput, &["cannot read the private key", "archive_identity_file"]);
    let garbage = server.folder().join("garbage");
    fs::write(&garbage, "no key at all\n").expect("a file");
    fs::set_permissions(&garbage, fs::Permissions::from_mode(0o600)).expect("the test's own");
    settings.identity_file = Some(garbage);
    assert_refused(ask(&settings), Kind::BadInput, &["garbage", "not a private key that can be used"]);
}

/// An ssh-agent that ends with the test.
struct Agent {
    process: Child,
    socket: PathBuf,
}

impl Agent {
    fn start(folder: &Path) -> Agent {
        let socket = folder.join("agent");
        let mut command = Command::new("ssh-agent");
        command.arg("-D").arg("-a").arg(&socket).stdout(Stdio::null()).stderr(Stdio::null());
        let process = command.spawn().expect("ssh-agent is installed");
        let deadline = Instant::now() + Duration::from_secs(10);
        while !socket.exists() {
            assert!(Instant::now() < deadline, "ssh-agent does not start");
            std::thread::sleep(Duration::from_millis(5));
        }
        Agent { process, socket }
    }

    fn load(&self, key: &Path) {
        let mut command = Command::new("ssh-add");
        let status =
            command.arg("-q").arg(key).env("SSH_AUTH_SOCK", &self.socket).stderr(Stdio::null()).status();
        assert!(status.expect("ssh-add runs").success());
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        // It may have been killed by its test.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

#[test]
fn the_agent_is_asked_when_no_file_is_named() {
    let server = Sshd::start();
    let mut settings = server.settings();
    settings.identity_file = None;
    let mut agent = Agent::start(server.folder());
    let mut archive = sftp(&settings).with_agent(Some(agent.socket.clone())).with_default_key(None);
    assert_refused(archive.stat(&ArchivePath::head()), Kind::Refused, &["holds no key"]);
    for key_type in ["rsa", "ed25519"] {
        let stranger = server.folder().join(format!("stranger_{key_type}"));
        make_key(&stranger, key_type, "");
        agent.load(&stranger);
    }
    assert_refused(archive.stat(&ArchivePath::head()), Kind::Refused, &["does not let the user"]);
    agent.load(&server.identity_file());
    assert_eq!(archive.stat(&ArchivePath::head()).expect("the third key fits"), None);
    agent.process.kill().expect("our own child");
    agent.process.wait().expect("our own child");
    assert_eq!(archive.stat(&ArchivePath::head()).expect("logged in is logged in"), None);
    let mut archive = sftp(&settings).with_agent(Some(agent.socket.clone())).with_default_key(None);
    assert_refused(archive.stat(&ArchivePath::head()), Kind::Refused, &["the agent at", "does not answer"]);
}

#[test]
fn an_agent_with_too_many_wrong_keys_is_a_refusal() {
    let server = Sshd::start_with(Options { config: "MaxAuthTries 2\n".into(), ..Options::default() });
    let agent = Agent::start(server.folder());
    for number in 0..4 {
        let stranger = server.folder().join(format!("stranger_{number}"));
        make_key(&stranger, "ed25519", "");
        agent.load(&stranger);
    }
    let settings = SftpSettings { identity_file: None, ..server.settings() };
    let mut archive = sftp(&settings).with_agent(Some(agent.socket.clone())).with_default_key(None);
    let parts = ["does not let the user", "archive_identity_file"];
    assert_refused(archive.stat(&ArchivePath::head()), Kind::Refused, &parts);
}

#[test]
fn an_agent_that_says_nothing_is_not_waited_for_for_ever() {
    let server = Sshd::start();
    let mut settings = server.settings();
    settings.identity_file = None;
    let socket = server.folder().join("silent");
    let _listener = UnixListener::bind(&socket).expect("a short path");
    let hasty = Patience { connect: Duration::from_secs(1), ..IMPATIENT };
    let archive = || sftp(&settings).with_patience(hasty).with_agent(Some(socket.clone()));
    let outcome = archive().with_default_key(None).stat(&ArchivePath::head());
    assert_refused(outcome, Kind::Refused, &["the agent at", "does not answer"]);
    let mut archive = archive().with_default_key(Some(server.identity_file()));
    assert_eq!(archive.stat(&ArchivePath::head()).expect("the default key is tried next"), None);
}

#[test]
fn without_any_key_all_that_was_tried_is_named() {
    let server = Sshd::start();
    let mut settings = server.settings();
    settings.identity_file = None;
    let none = server.folder().join("id_ed25519");
    let mut archive = sftp(&settings).with_default_key(Some(none));
    let parts = ["SSH_AUTH_SOCK is not set", "id_ed25519 does not exist", "archive_identity_file"];
    assert_refused(archive.stat(&ArchivePath::head()), Kind::Refused, &parts);
}

#[test]
fn an_account_without_sftp_is_told_apart() {
    let server = Sshd::start_with(Options { config: "MaxSessions 0\n".into(), ..Options::default() });
    assert_refused(ask(&server.settings()), Kind::Refused, &["no SFTP", "sshd_config"]);
}

#[test]
fn one_session_a_connection_is_enough() {
    let server = Sshd::start_with(Options { config: "MaxSessions 1\n".into(), ..Options::default() });
    let mut archive = sftp(&server.settings());
    for text in [&b"1"[..], b"2"] {
        archive.replace(&ArchivePath::head(), text).expect("without a second channel");
        assert_eq!(read(&mut archive, &ArchivePath::head()).expect("there"), text);
    }
    put(&mut archive, &ArchivePath::identity(), b"{}").expect("still well");
}
