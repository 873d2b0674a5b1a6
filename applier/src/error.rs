//! The applier's error: an error of the shared crate, and what it means for a pass.

use std::fmt;

use syncdata_formats::error::{Error as Shared, Kind as SharedKind};
use syncdata_service::postgres::sqlstate;

pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What a pass does about it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Deadlock, lock timeout, lost connection, restart: the whole transaction is tried again.
    Passing,
    /// The archive cannot be trusted, or is not the one that was applied so far.
    ArchiveRefused,
    /// Our own tables in the local database contradict themselves.
    StateDamaged,
    /// A table cannot take a change, and the settings say that everything stops then.
    Rejected,
    /// Whatever else needs a person.
    Other,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Remedy {
    /// Again, after a pause.
    Retry,
    Operator,
}

impl Kind {
    pub fn remedy(self) -> Remedy {
        match self {
            Kind::Passing => Remedy::Retry,
            Kind::ArchiveRefused | Kind::StateDamaged | Kind::Rejected | Kind::Other => Remedy::Operator,
        }
    }
}

pub struct Error {
    kind: Kind,
    inner: Shared,
}

impl Error {
    pub fn new(kind: Kind, message: impl Into<String>) -> Error {
        let shared = match kind {
            Kind::Passing => SharedKind::Locked,
            Kind::ArchiveRefused => SharedKind::Foreign,
            Kind::StateDamaged | Kind::Rejected | Kind::Other => SharedKind::Conflict,
        };
        Error { kind, inner: Shared::new(shared, message) }
    }

    #[must_use]
    pub fn hint(self, hint: impl Into<String>) -> Error {
        Error { inner: self.inner.hint(hint), ..self }
    }

    #[must_use]
    pub fn context(self, doing: impl Into<String>) -> Error {
        Error { inner: self.inner.context(doing), ..self }
    }

    #[must_use]
    pub fn caused_by(self, source: Shared) -> Error {
        Error { inner: self.inner.caused_by(source), ..self }
    }

    pub fn kind(&self) -> Kind {
        self.kind
    }

    pub fn report(&self) -> String {
        self.inner.report()
    }

    pub fn one_line(&self) -> String {
        self.inner.one_line()
    }

    /// On one line: what happened, and what to do about it.
    pub fn with_hint(&self) -> String {
        let hint = self.inner.hint_text().map(|hint| format!(" (hint: {hint})"));
        format!("{}{}", self.one_line(), hint.unwrap_or_default())
    }

    pub fn shared(&self) -> &Shared {
        &self.inner
    }
}

impl From<Shared> for Error {
    fn from(inner: Shared) -> Error {
        let from_server = sqlstate(&inner).is_some();
        let kind = match inner.kind() {
            SharedKind::Unreachable | SharedKind::Locked => Kind::Passing,
            // A server's own "corrupt" speaks of its own disk.
            SharedKind::Corrupt | SharedKind::Foreign if !from_server => Kind::ArchiveRefused,
            SharedKind::BadInput
            | SharedKind::Refused
            | SharedKind::Corrupt
            | SharedKind::Foreign
            | SharedKind::NotFound
            | SharedKind::Conflict
            | SharedKind::NoSpace
            | SharedKind::Io => Kind::Other,
        };
        Error { kind, inner }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.inner.fmt(f)
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}: {:?}", self.kind, self.inner)
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        std::error::Error::source(&self.inner)
    }
}
