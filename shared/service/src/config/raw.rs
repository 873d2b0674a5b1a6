//! Settings as they are given: a text, a number or a list, and where it stands.

use std::fmt;
use std::path::PathBuf;

/// Where the value of a setting comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Origin {
    Default,
    File {
        path: PathBuf,
        line: usize,
    },
    Environment(String),
    /// A file of variables.
    EnvFile {
        path: PathBuf,
        line: usize,
    },
    /// A file that the service manager hands over.
    Credential(PathBuf),
    CommandLine,
}

impl Origin {
    /// Of two, the smaller one counts.
    pub(super) fn rank(&self) -> u8 {
        match self {
            Origin::CommandLine => 0,
            Origin::Environment(_) => 1,
            Origin::EnvFile { .. } => 2,
            Origin::Credential(_) => 3,
            Origin::File { .. } => 4,
            Origin::Default => 5,
        }
    }
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Origin::Default => f.write_str("default"),
            Origin::File { path, line } | Origin::EnvFile { path, line } => {
                write!(f, "{}:{line}", path.display())
            }
            Origin::Environment(name) => write!(f, "environment {name}"),
            Origin::Credential(path) => write!(f, "credential {}", path.display()),
            Origin::CommandLine => f.write_str("command line"),
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum RawValue {
    Text(String),
    Number(i64),
    Bool(bool),
    /// Digit for digit.
    Decimal(String),
    List(Vec<String>),
}

impl fmt::Display for RawValue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            RawValue::Text(text) => f.write_str(text),
            RawValue::Number(number) => number.fmt(f),
            RawValue::Bool(is) => is.fmt(f),
            RawValue::Decimal(text) => f.write_str(text),
            RawValue::List(items) => f.write_str(&items.join(",")),
        }
    }
}

/// A value and its origin. Not `Debug` by its content: it may be a password.
#[derive(Clone)]
pub(super) struct Given {
    pub(super) value: RawValue,
    pub(super) origin: Origin,
}

impl fmt::Debug for Given {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "given by {}", self.origin)
    }
}

impl Given {
    /// Only a file has types; elsewhere everything is text.
    pub(super) fn is_typed(&self) -> bool {
        matches!(self.origin, Origin::File { .. })
    }
}
