//! Proving to the backup host who we are: a key file, or what the agent holds, or the default key.

use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::MetadataExt as _;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use libssh2_sys as raw;
use ssh2::{ErrorCode, Session};

use syncdata_formats::error::{Error, Kind, Result};
use syncdata_service::config::Secret;
use syncdata_service::small_file;

/// Where keys come from.
#[derive(Clone, Debug)]
pub(super) struct Identity {
    pub(super) user: String,
    pub(super) file: Option<PathBuf>,
    pub(super) passphrase: Option<Secret>,
    /// The agent's socket.
    pub(super) agent: Option<PathBuf>,
    /// Tried last, when no file is named.
    pub(super) default_file: Option<PathBuf>,
    /// For the agent's answer; the session has its own time-out.
    pub(super) agent_timeout: Duration,
}

impl Identity {
    /// Logs the session in, or says all that was tried.
    pub(super) fn prove(&self, session: &Session) -> Result<()> {
        if let Some(file) = &self.file {
            return self.prove_by_file(session, file);
        }
        let mut tried = Vec::new();
        if let Some(socket) = &self.agent {
            match self.prove_by_agent(session, socket) {
                Ok(()) => return Ok(()),
                Err(error) if error.kind() == Kind::Unreachable => return Err(error),
                Err(error) => tried.push(error.one_line()),
            }
        } else {
            tried.push("no agent (SSH_AUTH_SOCK is not set)".to_owned());
        }
        match &self.default_file {
            Some(file) if file.exists() => return self.prove_by_file(session, file),
            Some(file) => tried.push(format!("{} does not exist", file.display())),
            None => tried.push("no home directory to look for a key in".to_owned()),
        }
        Err(Error::new(
            Kind::Refused,
            format!("no key to log in with as {}: {}", self.user, tried.join("; ")),
        )
        .hint("name a private key in archive_identity_file"))
    }

    fn prove_by_file(&self, session: &Session, file: &Path) -> Result<()> {
        let key = read_private_key(file)?;
        let passphrase = self.passphrase.as_ref().map(Secret::expose);
        if is_encrypted(&key) && passphrase.is_none() {
            return Err(Error::new(Kind::BadInput, format!("the private key {} is encrypted, and no passphrase is set", file.display()))
                .hint("give its passphrase, load it into an agent and unset archive_identity_file, or make a key without one for this job"));
        }
        session
            .userauth_pubkey_memory(&self.user, None, &key, passphrase)
            .map_err(|error| self.file_refusal(error, file, is_encrypted(&key)))
    }

    fn file_refusal(&self, error: ssh2::Error, file: &Path, encrypted: bool) -> Error {
        let name = file.display();
        match error.code() {
            ErrorCode::Session(
                raw::LIBSSH2_ERROR_FILE
                | raw::LIBSSH2_ERROR_KEYFILE_AUTH_FAILED
                | raw::LIBSSH2_ERROR_METHOD_NONE,
            ) if encrypted => {
                Error::new(Kind::BadInput, format!("the passphrase does not open the private key {name}"))
                    .caused_by(error)
                    .hint("correct the passphrase")
            }
            ErrorCode::Session(
                raw::LIBSSH2_ERROR_FILE
                | raw::LIBSSH2_ERROR_KEYFILE_AUTH_FAILED
                | raw::LIBSSH2_ERROR_METHOD_NONE,
            ) => Error::new(Kind::BadInput, format!("{name} is not a private key that can be used"))
                .caused_by(error)
                .hint("use an ed25519, ECDSA or RSA key as ssh-keygen makes it"),
            _ => self.login_refusal(error, &format!("the key {name}")),
        }
    }

    fn prove_by_agent(&self, session: &Session, socket: &Path) -> Result<()> {
        let gone = |error: io::Error| {
            Error::new(Kind::Refused, format!("the agent at {} does not answer", socket.display()))
                .caused_by(error)
                .hint("start ssh-agent again, or name a private key in archive_identity_file")
        };
        // libssh2 would wait for a silent agent for ever.
        let keys = count_agent_keys(socket, self.agent_timeout).map_err(gone)?;
        if keys == 0 {
            return Err(Error::new(Kind::Refused, format!("the agent at {} holds no key", socket.display()))
                .hint("load one with ssh-add, or name a private key in archive_identity_file"));
        }
        self.try_agent_keys(session, socket)
            .map_err(|error| self.login_refusal(error, "any of the agent's keys"))
    }

    fn try_agent_keys(&self, session: &Session, socket: &Path) -> Result<(), ssh2::Error> {
        let mut agent = session.agent()?;
        agent.set_identity_path(socket)?;
        agent.connect()?;
        agent.list_identities()?;
        let mut refusal = None;
        for identity in agent.identities()? {
            match agent.userauth(&self.user, &identity) {
                Ok(()) => return Ok(()),
                // A server that has refused several keys (MaxAuthTries) hangs up.
                Err(error) if is_no_answer(&error) => return Err(refusal.unwrap_or(error)),
                Err(error) => refusal = Some(error),
            }
        }
        Err(refusal.unwrap_or_else(ssh2::Error::unknown))
    }

    fn login_refusal(&self, error: ssh2::Error, what: &str) -> Error {
        if is_no_answer(&error) {
            return Error::new(Kind::Unreachable, "the connection broke while logging in").caused_by(error);
        }
        Error::new(Kind::Refused, format!("the backup host does not let the user {} in with {what}", self.user))
            .caused_by(error)
            .hint("check archive_user, and that the public key stands in the account's authorized_keys on the backup host; if an agent holds many keys, name the right one in archive_identity_file")
    }
}

/// Whether the server said nothing at all. libssh2 uses the code of a refusal for a connection that breaks
/// while it waits for the verdict; only its words tell them apart.
fn is_no_answer(error: &ssh2::Error) -> bool {
    match error.code() {
        ErrorCode::Session(raw::LIBSSH2_ERROR_PUBLICKEY_UNVERIFIED) => {
            error.message().starts_with("Waiting for")
        }
        ErrorCode::Session(code) => matches!(
            code,
            raw::LIBSSH2_ERROR_TIMEOUT
                | raw::LIBSSH2_ERROR_SOCKET_DISCONNECT
                | raw::LIBSSH2_ERROR_SOCKET_RECV
                | raw::LIBSSH2_ERROR_SOCKET_SEND
                | raw::LIBSSH2_ERROR_SOCKET_TIMEOUT
        ),
        ErrorCode::SFTP(_) => false,
    }
}

/// Refuses, as ssh does, a key of ours that others can read: it is no secret. One of root's may be for a group too: the
/// service's, whose members do at a shell what the service does.
fn read_private_key(path: &Path) -> Result<String> {
    // Never `Kind::NotFound`, which is for what the archive does not have.
    let unreadable = |error: Error| {
        Error::new(Kind::BadInput, format!("cannot read the private key {}", path.display()))
            .caused_by(error)
            .hint("archive_identity_file must name a private key that this account can read")
    };
    let reading = |error| unreadable(Error::io(format!("opening {}", path.display()), error));
    let file = small_file::open_plain(path).map_err(unreadable)?;
    let metadata = file.metadata().map_err(reading)?;
    let mode = metadata.mode() & 0o777;
    let is_of_root = metadata.uid() == 0;
    let too_much = if is_of_root { 0o027 } else { 0o077 };
    if metadata.uid() == rustix::process::getuid().as_raw() && mode & too_much != 0 {
        return Err(Error::new(
            Kind::BadInput,
            format!("the private key {} has mode {mode:04o}: others can read it", path.display()),
        )
        .hint(format!("run: chmod {} {}", if is_of_root { "640" } else { "600" }, path.display())));
    }
    small_file::read_opened_text(file, path).map_err(unreadable)
}

/// OpenSSH's format names its cipher in front; PEM says it in a header.
fn is_encrypted(key: &str) -> bool {
    if key.contains("ENCRYPTED") {
        return true;
    }
    let body: String = key.lines().filter(|line| !line.starts_with('-')).map(str::trim).collect();
    let bytes = openssl::base64::decode_block(&body).unwrap_or_default();
    let cipher = bytes.strip_prefix(b"openssh-key-v1\0");
    cipher.is_some_and(|rest| !rest.starts_with(b"\0\0\0\x04none"))
}

/// SSH_AGENTC_REQUEST_IDENTITIES and the count in its answer.
fn count_agent_keys(socket: &Path, timeout: Duration) -> io::Result<u32> {
    const REQUEST: [u8; 5] = [0, 0, 0, 1, 11];
    const ANSWER: u8 = 12;
    let mut stream = UnixStream::connect(socket)?;
    stream.set_read_timeout(Some(timeout))?;
    stream.set_write_timeout(Some(timeout))?;
    stream.write_all(&REQUEST)?;
    let mut head = [0; 9];
    stream.read_exact(&mut head[..5])?;
    if head[4] != ANSWER {
        return Err(io::Error::other("it refuses to list its keys"));
    }
    stream.read_exact(&mut head[5..])?;
    let [.., a, b, c, d] = head;
    Ok(u32::from_be_bytes([a, b, c, d]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn knows_an_encrypted_key_by_its_head() {
        let openssh = |cipher: &[u8]| {
            let bytes = [
                b"openssh-key-v1\0\0\0\0".as_slice(),
                &[u8::try_from(cipher.len()).expect("short")],
                cipher,
                &[0; 40],
            ]
            .concat();
            let body = openssl::base64::encode_block(&bytes);
            format!("-----BEGIN OPENSSH PRIVATE KEY-----\n{body}\n-----END OPENSSH PRIVATE KEY-----\n")
        };
        assert!(is_encrypted(&openssh(b"aes256-ctr")));
        assert!(!is_encrypted(&openssh(b"none")));
        assert!(is_encrypted("-----BEGIN ENCRYPTED PRIVATE KEY-----\nAAAA\n"));
        assert!(!is_encrypted("-----BEGIN PRIVATE KEY-----\nAAAA\n"));
        assert!(!is_encrypted(""));
    }
}
