//! Where the archive is: what `archive_*` in the settings says.

use std::path::PathBuf;

use super::{S3Settings, Secret};

/// Which archive.
#[derive(Clone, Debug)]
pub enum ArchiveSettings {
    /// A local or mounted directory.
    Directory(PathBuf),
    /// A folder of an SSH account that offers SFTP.
    Sftp(SftpSettings),
    /// A place in a bucket of an object storage.
    S3(S3Settings),
}

impl ArchiveSettings {
    /// The folder, on whichever host, or the place in its bucket.
    pub fn place(&self) -> String {
        match self {
            ArchiveSettings::Directory(dir) => dir.display().to_string(),
            ArchiveSettings::Sftp(sftp) => sftp.dir.display().to_string(),
            ArchiveSettings::S3(s3) => s3.place.to_string(),
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
