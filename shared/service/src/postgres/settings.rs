//! Which server, as whom, and how much TLS.

use std::path::PathBuf;

use crate::secret::Secret;

/// What libpq means by these words.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SslMode {
    /// Never TLS.
    Disable,
    /// TLS if the server has it, else none: no protection from somebody in between.
    Prefer,
    /// TLS; the certificate counts only where certificates of authorities are at hand.
    Require,
    /// TLS, and an authority that we know signed the certificate.
    VerifyCa,
    /// … and it is the certificate of the host that we asked for.
    VerifyFull,
}

impl SslMode {
    pub const ALL: [SslMode; 5] =
        [SslMode::Disable, SslMode::Prefer, SslMode::Require, SslMode::VerifyCa, SslMode::VerifyFull];

    pub fn as_str(self) -> &'static str {
        match self {
            SslMode::Disable => "disable",
            SslMode::Prefer => "prefer",
            SslMode::Require => "require",
            SslMode::VerifyCa => "verify-ca",
            SslMode::VerifyFull => "verify-full",
        }
    }
}

/// `None` means libpq's file in `~/.postgresql`, if it is there.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SslFiles {
    /// `system` means the authorities that this machine trusts.
    pub root_cert: Option<PathBuf>,
    pub cert: Option<PathBuf>,
    pub key: Option<PathBuf>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PostgresSettings {
    /// A name, an address, or the directory of a unix socket.
    pub host: String,
    pub port: u16,
    pub user: String,
    /// `None`: the password file is asked.
    pub password: Option<Secret>,
    pub database: String,
    pub ssl_mode: SslMode,
    pub ssl_files: SslFiles,
    /// Where `.postgresql` is.
    pub home: PathBuf,
    /// `$PGPASSFILE` or `~/.pgpass`.
    pub password_file: PathBuf,
}

impl PostgresSettings {
    pub fn is_socket(&self) -> bool {
        self.host.starts_with('/')
    }

    /// For messages: `user@host:port/database`.
    pub fn location(&self) -> String {
        format!("{}@{}:{}/{}", self.user, self.host, self.port, self.database)
    }
}
