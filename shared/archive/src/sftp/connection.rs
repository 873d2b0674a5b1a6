//! One SFTP connection: made with bounded waits, checked before a secret is shown, dropped without waiting.

use std::cell::{Cell, OnceCell};
use std::io;
use std::net::{Shutdown, TcpStream, ToSocketAddrs as _};
use std::path::PathBuf;
use std::time::Duration;

use libssh2_sys as raw;
use rustix::net::sockopt;
use ssh2::{ErrorCode, MethodType, Session, Sftp};

use super::extensions::{Extensions, Room};
use super::identity::Identity;
use super::known_hosts::{HostName, KnownHosts};
use syncdata_formats::error::{Error, Kind, Result};

/// A peer that went away without a word is noticed by the kernel after half a minute and six probes, and
/// routers that forget idle connections are kept awake. The keepalive of libssh2 is not used: while it is on,
/// a call that waits ends with a time-out when the next keepalive is due, be that after a second.
const KEEPALIVE_IDLE: Duration = Duration::from_secs(30);
const KEEPALIVE_PROBE: Duration = Duration::from_secs(10);

/// Only what is sound today. GCM and ChaCha20-Poly1305 authenticate by themselves, so that no MAC is chosen;
/// ChaCha20 comes first because it is faster in libssh2.
const KEY_EXCHANGES: &str = "curve25519-sha256,curve25519-sha256@libssh.org";
const CIPHERS: &str = "chacha20-poly1305@openssh.com,aes256-gcm@openssh.com,aes128-gcm@openssh.com";
const MACS: &str = "hmac-sha2-256,hmac-sha2-512";
const HOST_KEYS: [&str; 6] = [
    "ssh-ed25519",
    "ecdsa-sha2-nistp256",
    "ecdsa-sha2-nistp384",
    "ecdsa-sha2-nistp521",
    "rsa-sha2-512",
    "rsa-sha2-256",
];

/// Where to, and who is expected there.
#[derive(Clone, Debug)]
pub(super) struct Target {
    pub(super) host: String,
    pub(super) port: u16,
    pub(super) known_hosts: PathBuf,
    pub(super) identity: Identity,
    /// For reaching the host, for agreeing on keys and for logging in, each.
    pub(super) connect_timeout: Duration,
    /// For every answer after that.
    pub(super) answer_timeout: Duration,
}

/// See the module.
pub(super) struct Connection {
    // Dropped in this order, the channels before their session.
    extensions: OnceCell<Option<Extensions>>,
    sftp: Sftp,
    line: Line,
    answer_timeout: Duration,
    broken: Cell<bool>,
}

/// A session and its socket, which is shut before the session is freed.
struct Line {
    session: Session,
    socket: TcpStream,
}

impl Connection {
    pub(super) fn open(target: &Target) -> Result<Connection> {
        // Read first: a file that cannot be read is an error of its own, before anybody is called.
        let known = KnownHosts::read(&target.known_hosts)?;
        let name = HostName::new(&target.host, target.port);
        let host_keys = host_key_order(&known.key_types(&name));
        let line = match Line::agree(target, &host_keys) {
            // libssh2 has one word for algorithms that do not fit and for a line cut before the server could
            // name its own. Only the former happens twice.
            Err(error) if error.kind() == Kind::Refused => Line::agree(target, &host_keys)?,
            agreed => agreed?,
        };
        check_host_key(&line.session, &known, &name)?;
        // Only now: whoever shows a wrong key is told nothing about us.
        target.identity.prove(&line.session)?;
        let sftp = line.session.sftp().map_err(|error| no_sftp(error, &line, &target.identity.user))?;
        line.session.set_timeout(milliseconds(target.answer_timeout));
        Ok(Connection {
            extensions: OnceCell::new(),
            sftp,
            line,
            answer_timeout: target.answer_timeout,
            broken: Cell::new(false),
        })
    }

    pub(super) fn sftp(&self) -> &Sftp {
        &self.sftp
    }

    /// `None` when the server gives us no second channel.
    pub(super) fn extensions(&self) -> Result<Option<&Extensions>> {
        if self.extensions.get().is_none() {
            let opened = match Extensions::open(&self.line.session) {
                Ok(extensions) => Some(extensions),
                // As with MaxSessions 1: refused, but the connection is well.
                Err(error) if self.line.refused_channel(&error) => None,
                Err(error) => return Err(self.failure("opening a second channel", error)),
            };
            // Nobody else can have set it: the cell belongs to this thread.
            let _ = self.extensions.set(opened);
        }
        Ok(self.extensions.get().and_then(Option::as_ref))
    }

    /// The room on the file system of `path`, if the server says it.
    pub(super) fn room(&self, path: &str) -> Option<Room> {
        self.extensions().ok()??.room(path).ok()
    }

    /// Whether the connection must not be used again.
    pub(super) fn is_broken(&self) -> bool {
        self.broken.get()
    }

    /// Translates what the library says. All but an answer of the server is the end of the connection: a
    /// request may be half sent, an answer on its way.
    pub(super) fn failure(&self, doing: impl Into<String>, error: ssh2::Error) -> Error {
        let doing = doing.into();
        let code = match error.code() {
            ErrorCode::SFTP(raw::LIBSSH2_FX_NO_CONNECTION | raw::LIBSSH2_FX_CONNECTION_LOST)
            | ErrorCode::Session(_) => return self.broke(doing, error),
            ErrorCode::SFTP(code) => code,
        };
        let refused = Error::new(status_kind(code), doing).caused_by(error);
        match status_hint(code) {
            Some(hint) => refused.hint(hint),
            None => refused,
        }
    }

    /// The same for `Read` and `Write`, whose errors keep only the text of the server's answer.
    pub(super) fn stream_failure(&self, error: &std::io::Error) -> ssh2::Error {
        let session_error = ssh2::Error::last_session_error(&self.line.session);
        let text = error.to_string();
        match session_error {
            Some(found) if found.code() != ErrorCode::Session(raw::LIBSSH2_ERROR_SFTP_PROTOCOL) => found,
            _ => (raw::LIBSSH2_FX_EOF..=raw::LIBSSH2_FX_LINK_LOOP)
                .map(|code| ssh2::Error::from_errno(ErrorCode::SFTP(code)))
                .find(|status| status.message() == text)
                .unwrap_or_else(|| ssh2::Error::from_errno(ErrorCode::SFTP(raw::LIBSSH2_FX_FAILURE))),
        }
    }

    fn broke(&self, doing: String, error: ssh2::Error) -> Error {
        self.broken.set(true);
        self.line.shut();
        let why = match error.code() {
            ErrorCode::Session(raw::LIBSSH2_ERROR_TIMEOUT | raw::LIBSSH2_ERROR_SOCKET_TIMEOUT) => {
                format!(
                    "{doing}: the backup host did not answer within {} s",
                    self.answer_timeout.as_secs_f32()
                )
            }
            _ => format!("{doing}: the connection broke"),
        };
        Error::new(Kind::Unreachable, why).caused_by(error)
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        // The farewells of libssh2 wait for answers; a dead peer would hold us for a time-out each.
        self.line.shut();
    }
}

impl Line {
    /// Reaches the host and agrees on keys with it; nobody is trusted yet.
    fn agree(target: &Target, host_keys: &str) -> Result<Line> {
        let socket = reach(target)?;
        let peer = format!("{}:{}", target.host, target.port);
        let session = Session::new().map_err(|error| handshake_failure(error, &peer))?;
        // Before the handshake: without it a silent peer would hold this thread for ever.
        session.set_timeout(milliseconds(target.connect_timeout));
        offer(&session, host_keys).map_err(|error| handshake_failure(error, &peer))?;
        let its_socket = socket.try_clone().map_err(|error| unreachable_host(&peer, error))?;
        let mut line = Line { session, socket };
        line.session.set_tcp_stream(its_socket);
        line.session.handshake().map_err(|error| handshake_failure(error, &peer))?;
        Ok(line)
    }

    /// Whether the server said no to a channel. libssh2 says the same when the line is cut meanwhile, but a
    /// server that refuses stays on the line.
    fn refused_channel(&self, error: &ssh2::Error) -> bool {
        let says_refused = matches!(
            error.code(),
            ErrorCode::Session(
                raw::LIBSSH2_ERROR_CHANNEL_FAILURE
                    | raw::LIBSSH2_ERROR_CHANNEL_REQUEST_DENIED
                    | raw::LIBSSH2_ERROR_REQUEST_DENIED
            )
        );
        // libssh2 made the socket non-blocking.
        let is_open = match self.socket.peek(&mut [0]) {
            Ok(bytes) => bytes > 0,
            Err(error) => error.kind() == io::ErrorKind::WouldBlock,
        };
        says_refused && is_open
    }

    /// Whatever the library still wants to say or hear fails at once from now on.
    fn shut(&self) {
        // It may be shut already.
        let _ = self.socket.shutdown(Shutdown::Both);
    }
}

impl Drop for Line {
    fn drop(&mut self) {
        self.shut();
    }
}

/// The first of the host's addresses that answers.
fn reach(target: &Target) -> Result<TcpStream> {
    let peer = format!("{}:{}", target.host, target.port);
    let addresses = (target.host.as_str(), target.port)
        .to_socket_addrs()
        .map_err(|error| unreachable_host(&peer, error))?;
    let mut last = io::Error::from(io::ErrorKind::HostUnreachable);
    for address in addresses {
        match TcpStream::connect_timeout(&address, target.connect_timeout).and_then(prepare) {
            Ok(socket) => return Ok(socket),
            Err(error) => last = error,
        }
    }
    Err(unreachable_host(&peer, last))
}

fn prepare(socket: TcpStream) -> io::Result<TcpStream> {
    socket.set_nodelay(true)?;
    sockopt::set_socket_keepalive(&socket, true)?;
    sockopt::set_tcp_keepidle(&socket, KEEPALIVE_IDLE)?;
    sockopt::set_tcp_keepintvl(&socket, KEEPALIVE_PROBE)?;
    Ok(socket)
}

fn offer(session: &Session, host_keys: &str) -> Result<(), ssh2::Error> {
    for (method, names) in [
        (MethodType::Kex, KEY_EXCHANGES),
        (MethodType::HostKey, host_keys),
        (MethodType::CryptCs, CIPHERS),
        (MethodType::CryptSc, CIPHERS),
        (MethodType::MacCs, MACS),
        (MethodType::MacSc, MACS),
    ] {
        session.method_pref(method, names)?;
    }
    Ok(())
}

/// The types of which we know a key first, as OpenSSH does: a host with several keys then shows one of them.
fn host_key_order(known_types: &[&str]) -> String {
    let is_known = |name: &&str| {
        let of_key = if name.starts_with("rsa-") { "ssh-rsa" } else { name };
        known_types.contains(&of_key)
    };
    let (mut order, rest): (Vec<&str>, Vec<&str>) = HOST_KEYS.into_iter().partition(is_known);
    order.extend(rest);
    order.join(",")
}

fn check_host_key(session: &Session, known: &KnownHosts, name: &HostName) -> Result<()> {
    let (key, _) =
        session.host_key().ok_or_else(|| Error::new(Kind::Refused, "the backup host showed no host key"))?;
    known.refusal(name, key).map_or(Ok(()), Err)
}

fn unreachable_host(peer: &str, error: io::Error) -> Error {
    Error::new(Kind::Unreachable, format!("the backup host {peer} cannot be reached"))
        .caused_by(error)
        .hint("check archive_host and archive_port, the network, and whether sshd runs there")
}

fn handshake_failure(error: ssh2::Error, peer: &str) -> Error {
    match error.code() {
        ErrorCode::Session(raw::LIBSSH2_ERROR_KEX_FAILURE | raw::LIBSSH2_ERROR_METHOD_NOT_SUPPORTED) => {
            Error::new(Kind::Refused, format!("the backup host {peer} offers none of the algorithms that are safe today"))
                .caused_by(error)
                .hint("update its sshd: wanted are curve25519-sha256, an ed25519, ECDSA or rsa-sha2 host key, and chacha20-poly1305 or AES-GCM")
        }
        ErrorCode::Session(raw::LIBSSH2_ERROR_HOSTKEY_INIT | raw::LIBSSH2_ERROR_HOSTKEY_SIGN) => {
            Error::new(Kind::Refused, format!("the backup host {peer} cannot prove that its host key is its own"))
                .caused_by(error)
        }
        _ => Error::new(Kind::Unreachable, format!("the backup host {peer} does not complete the SSH handshake"))
            .caused_by(error)
            .hint("check that archive_port is that of an sshd, and that it is not overloaded"),
    }
}

fn no_sftp(error: ssh2::Error, line: &Line, user: &str) -> Error {
    if !line.refused_channel(&error) {
        return Error::new(Kind::Unreachable, "the connection broke while asking for SFTP").caused_by(error);
    }
    Error::new(Kind::Refused, format!("the backup host gives {user} no SFTP"))
        .caused_by(error)
        .hint("its sshd_config needs `Subsystem sftp internal-sftp`, and the account the right to use it")
}

fn milliseconds(duration: Duration) -> u32 {
    // Zero would mean for ever.
    u32::try_from(duration.as_millis()).unwrap_or(u32::MAX).max(1)
}

/// What an answer of the server means for the caller.
fn status_kind(code: i32) -> Kind {
    match code {
        raw::LIBSSH2_FX_NO_SUCH_FILE | raw::LIBSSH2_FX_NO_SUCH_PATH => Kind::NotFound,
        raw::LIBSSH2_FX_PERMISSION_DENIED
        | raw::LIBSSH2_FX_WRITE_PROTECT
        | raw::LIBSSH2_FX_OP_UNSUPPORTED => Kind::Refused,
        raw::LIBSSH2_FX_NO_SPACE_ON_FILESYSTEM | raw::LIBSSH2_FX_QUOTA_EXCEEDED => Kind::NoSpace,
        raw::LIBSSH2_FX_FILE_ALREADY_EXISTS | raw::LIBSSH2_FX_DIR_NOT_EMPTY => Kind::Conflict,
        _ => Kind::Io,
    }
}

fn status_hint(code: i32) -> Option<&'static str> {
    match code {
        raw::LIBSSH2_FX_PERMISSION_DENIED => Some(
            "give the account of archive_user the rights on archive_dir that this needs (writing needs more than reading)",
        ),
        raw::LIBSSH2_FX_NO_SPACE_ON_FILESYSTEM | raw::LIBSSH2_FX_QUOTA_EXCEEDED => {
            Some("free space on the backup host")
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn asks_for_known_key_types_first_and_for_nothing_weak() {
        let order = host_key_order(&["ssh-rsa", "ecdsa-sha2-nistp384"]);
        assert!(order.starts_with("ecdsa-sha2-nistp384,rsa-sha2-512,rsa-sha2-256,ssh-ed25519"), "{order}");
        let order = host_key_order(&["ssh-dss"]);
        assert!(order.starts_with("ssh-ed25519,"), "{order}");
        assert!(!order.contains("ssh-dss") && !order.contains("ssh-rsa"), "{order}");
    }
}
