//! How a server is to be.

use std::path::{Path, PathBuf};

use crate::installation::Installation;

/// What a server is started with; later settings win over earlier ones.
#[derive(Clone, Debug)]
pub struct PostgresOptions {
    pub(super) installation: Option<Installation>,
    pub(super) database: String,
    pub(super) settings: Vec<(String, String)>,
    pub(super) hba: Vec<String>,
    pub(super) tls: Option<Tls>,
    pub(super) own_cluster: bool,
}

#[derive(Clone, Debug)]
pub(super) struct Tls {
    pub certificate: PathBuf,
    pub key: PathBuf,
}

impl Default for PostgresOptions {
    fn default() -> PostgresOptions {
        PostgresOptions {
            installation: None,
            database: "postgres".into(),
            settings: Vec::new(),
            hba: Vec::new(),
            tls: None,
            own_cluster: false,
        }
    }
}

impl PostgresOptions {
    /// Instead of the one that `Installation::chosen` finds.
    #[must_use]
    pub fn installation(mut self, installation: Installation) -> Self {
        self.installation = Some(installation);
        self
    }

    /// The database that is made at the start and that `PostgresServer::connect` goes to.
    #[must_use]
    pub fn database(mut self, name: &str) -> Self {
        self.database = name.into();
        self
    }

    /// One line of postgresql.conf; the value is quoted here.
    #[must_use]
    pub fn setting(mut self, name: &str, value: &str) -> Self {
        self.settings.push((name.into(), value.into()));
        self
    }

    /// Waits for the disk as production does.
    #[must_use]
    pub fn durable(self) -> Self {
        self.setting("fsync", "on")
    }

    /// A line of pg_hba.conf. The first one replaces the rule that lets everybody in over loopback; the unix
    /// socket stays open to the tests.
    #[must_use]
    pub fn hba(mut self, line: &str) -> Self {
        self.hba.push(line.into());
        self
    }

    /// With a system identifier of its own: other servers are copies of one initdb.
    #[must_use]
    pub fn own_cluster(mut self) -> Self {
        self.own_cluster = true;
        self
    }

    /// TLS with these PEM files.
    #[must_use]
    pub fn tls(mut self, certificate: &Path, key: &Path) -> Self {
        self.tls = Some(Tls { certificate: certificate.into(), key: key.into() });
        self
    }
}
