//! Where the archive is: what `archive_*` in the settings says.

use std::path::{Path, PathBuf};

use super::Secret;

/// Which archive.
#[derive(Clone, Debug)]
pub enum ArchiveSettings {
    /// A local or mounted directory.
    Directory(PathBuf),
    /// A folder of an SSH account that offers SFTP.
    Sftp(SftpSettings),
}

impl ArchiveSettings {
    /// The folder, on whichever host.
    pub fn dir(&self) -> &Path {
        match self {
            ArchiveSettings::Directory(dir) => dir,
            ArchiveSettings::Sftp(sftp) => &sftp.dir,
        }
    }
}

#[derive(Clone, Debug)]
pub struct SftpSettings {
    pub host: String,
    pub user: String,
    pub port: u16,
    pub dir: PathBuf,
    /// `None`: what the agent holds, then `~/.ssh/id_ed25519`.
    pub identity_file: Option<PathBuf>,
    /// `None`: `~/.ssh/known_hosts`.
    pub known_hosts: Option<PathBuf>,
    /// Opens the private key, if that is encrypted.
    pub passphrase: Option<Secret>,
}
