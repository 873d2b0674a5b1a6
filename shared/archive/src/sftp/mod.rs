//! An archive in an SSH account that offers SFTP and nothing else. One session is kept and used again; when
//! it breaks, the operation starts over on a new one, because each of them may be repeated: a put begins its
//! part anew, a read goes on where it was.

mod connection;
mod extensions;
mod folder;
mod identity;
mod known_hosts;

use std::fmt;
use std::io::Write;
use std::path::PathBuf;

use self::connection::{Connection, Target};
use self::folder::RemoteFolder;
use self::identity::Identity;
use super::patience::Patience;
use super::{Archive, Content, Entry, Facts, Put};
use syncdata_formats::digest::Digest;
use syncdata_formats::error::{Error, Kind, Result};
use syncdata_formats::layout::ArchivePath;
use syncdata_formats::time::Timestamp;
use syncdata_service::backoff::Dice;
use syncdata_service::config::SftpSettings;

/// An archive on a backup host, over SFTP.
pub struct SftpArchive {
    target: Target,
    dir: String,
    location: String,
    patience: Patience,
    connection: Option<Connection>,
}

impl SftpArchive {
    /// Connects to nobody yet. The agent is the one of SSH_AUTH_SOCK.
    pub fn new(settings: &SftpSettings) -> Result<SftpArchive> {
        let dir = settings.dir.to_str().filter(|dir| !dir.is_empty());
        let dir = dir.ok_or_else(|| {
            Error::bad_input("a folder of the backup host", &settings.dir.display().to_string())
        })?;
        let home = std::env::home_dir();
        let in_ssh_folder = |name| home.as_ref().map(|home| home.join(".ssh").join(name));
        let known_hosts = settings.known_hosts.clone().or_else(|| in_ssh_folder("known_hosts"));
        let patience = Patience::default();
        let identity = Identity {
            user: settings.user.clone(),
            file: settings.identity_file.clone(),
            passphrase: settings.passphrase.clone(),
            agent: std::env::var_os("SSH_AUTH_SOCK").filter(|socket| !socket.is_empty()).map(PathBuf::from),
            default_file: in_ssh_folder("id_ed25519"),
            agent_timeout: patience.connect,
        };
        Ok(SftpArchive {
            target: Target {
                host: settings.host.clone(),
                port: settings.port,
                known_hosts: known_hosts.ok_or_else(|| {
                    Error::new(Kind::BadInput, "there is no home directory with a known_hosts file")
                        .hint("name the file in archive_known_hosts")
                })?,
                identity,
                connect_timeout: patience.connect,
                answer_timeout: patience.answer,
            },
            location: format!(
                "sftp://{}@{}:{}/{}",
                settings.user,
                settings.host,
                settings.port,
                dir.trim_start_matches('/')
            ),
            dir: dir.trim_end_matches('/').to_owned(),
            patience,
            connection: None,
        })
    }

    #[must_use]
    pub fn with_patience(mut self, patience: Patience) -> SftpArchive {
        self.target.connect_timeout = patience.connect;
        self.target.identity.agent_timeout = patience.connect;
        self.target.answer_timeout = patience.answer;
        self.patience = patience;
        self
    }

    /// Another agent than that of SSH_AUTH_SOCK, or none.
    #[must_use]
    pub fn with_agent(mut self, socket: Option<PathBuf>) -> SftpArchive {
        self.target.identity.agent = socket;
        self
    }

    /// Another key than `~/.ssh/id_ed25519` for when no file is named and no agent helps.
    #[must_use]
    pub fn with_default_key(mut self, file: Option<PathBuf>) -> SftpArchive {
        self.target.identity.default_file = file;
        self
    }

    /// Runs the job, on a new connection if this one breaks, until patience ends. `job` says whether it got on
    /// since its last attempt: that earns new patience.
    fn attempt<T>(&mut self, mut job: impl FnMut(&RemoteFolder<'_>, &mut bool) -> Result<T>) -> Result<T> {
        let mut backoff = self.patience.backoff();
        loop {
            let mut got_on = false;
            let error = match self.connected().and_then(|folder| job(&folder, &mut got_on)) {
                Ok(done) => return Ok(done),
                Err(error) => error,
            };
            if self.connection.as_ref().is_some_and(Connection::is_broken) {
                self.connection = None;
            }
            if error.kind() != Kind::Unreachable {
                return Err(error);
            }
            if got_on {
                backoff.reset();
            }
            let Some(wait) = backoff.next(Dice::roll()) else { return Err(error) };
            // Who gives up says so, once; whoever wants to see each call asks for more.
            tracing::debug!(archive = %self.location, error = %error.one_line(), "backup host lost, calling again");
            std::thread::sleep(wait);
        }
    }

    fn connected(&mut self) -> Result<RemoteFolder<'_>> {
        let connection = match self.connection.take() {
            Some(connection) => connection,
            None => Connection::open(&self.target)
                .map_err(|error| error.context(format!("SFTP client not connected to {}", self.location)))?,
        };
        let connection = self.connection.insert(connection);
        Ok(RemoteFolder::new(connection, &self.dir, &self.location))
    }
}

impl Archive for SftpArchive {
    fn location(&self) -> &str {
        &self.location
    }

    fn put(&mut self, path: &ArchivePath, content: &mut dyn Content, facts: Facts) -> Result<Put> {
        self.attempt(|folder, _| folder.put(path, content, facts))
    }

    fn replace(&mut self, path: &ArchivePath, content: &[u8]) -> Result<()> {
        let facts = Facts { bytes: content.len() as u64, sha256: Digest::of(content) };
        self.attempt(|folder, _| folder.replace(path, content, facts))
    }

    fn read(&mut self, path: &ArchivePath, offset: u64, into: &mut dyn Write) -> Result<u64> {
        let mut copied = 0;
        self.attempt(|folder, got_on| {
            let before = copied;
            let outcome = folder.read(path, offset, None, &mut copied, into);
            *got_on = copied > before;
            outcome
        })?;
        Ok(copied)
    }

    fn read_part(
        &mut self,
        path: &ArchivePath,
        offset: u64,
        bytes: u64,
        into: &mut dyn Write,
    ) -> Result<u64> {
        let mut copied = 0;
        self.attempt(|folder, got_on| {
            let before = copied;
            let outcome = folder.read(path, offset, Some(bytes), &mut copied, into);
            *got_on = copied > before;
            outcome
        })?;
        Ok(copied)
    }

    fn list(&mut self, path: &ArchivePath) -> Result<Vec<Entry>> {
        self.attempt(|folder, _| folder.list(path))
    }

    fn stat(&mut self, path: &ArchivePath) -> Result<Option<Entry>> {
        self.attempt(|folder, _| folder.stat(path))
    }

    fn remove(&mut self, path: &ArchivePath) -> Result<bool> {
        self.attempt(|folder, _| folder.remove(path))
    }

    fn changed_at(&mut self, path: &ArchivePath) -> Result<Option<Timestamp>> {
        self.attempt(|folder, _| folder.changed_at(path))
    }

    fn room(&mut self) -> Result<Option<u64>> {
        self.attempt(|folder, _| Ok(folder.room()))
    }
}

impl fmt::Debug for SftpArchive {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SftpArchive")
            .field("location", &self.location)
            .field("connected", &self.connection.is_some())
            .finish_non_exhaustive()
    }
}
