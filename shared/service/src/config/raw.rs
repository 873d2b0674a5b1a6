//! Settings as they are given: a text, a number or a list, and where it stands.

use std::fmt;
use std::path::PathBuf;

use super::key::{Default, Key};
use syncdata_formats::error::{Error, Kind, Result};

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

#[derive(Debug)]
pub(super) struct Field {
    pub(super) key: &'static Key,
    pub(super) given: Option<Given>,
}

/// One line of `config`: a setting, what holds, and who said so.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Setting {
    pub key: &'static str,
    /// Masked when it is a secret; `None` when nothing holds.
    pub value: Option<String>,
    pub origin: Origin,
}

/// Understands fields one by one and notes what holds.
#[derive(Debug, std::default::Default)]
pub(super) struct Reading {
    pub(super) settings: Vec<Setting>,
}

/// Why a value is not taken: what would be. The value itself is added where it may be shown.
pub(super) type Parsed<T> = std::result::Result<T, String>;

impl Reading {
    /// The value, given or by default.
    pub(super) fn value<T>(&mut self, field: Field, parse: fn(&Given) -> Parsed<T>) -> Result<T> {
        let Default::Text(text) = field.key.default else {
            unreachable!("{} has no default text; read it with `optional` or `derived`", field.key.name)
        };
        let given =
            field.given.unwrap_or(Given { value: RawValue::Text(text.to_owned()), origin: Origin::Default });
        self.understand(field.key, given, parse)
    }

    /// The value, if there is one.
    pub(super) fn optional<T>(&mut self, field: Field, parse: fn(&Given) -> Parsed<T>) -> Result<Option<T>> {
        match field.given {
            Some(given) => self.understand(field.key, given, parse).map(Some),
            None => {
                self.settings.push(Setting { key: field.key.name, value: None, origin: Origin::Default });
                Ok(None)
            }
        }
    }

    /// The value, or what `derive` finds.
    pub(super) fn derived<T>(
        &mut self,
        field: Field,
        parse: fn(&Given) -> Parsed<T>,
        derive: impl FnOnce() -> (T, String),
    ) -> Result<T> {
        if let Some(given) = field.given {
            return self.understand(field.key, given, parse);
        }
        let (value, shown) = derive();
        self.settings.push(Setting { key: field.key.name, value: Some(shown), origin: Origin::Default });
        Ok(value)
    }

    fn understand<T>(
        &mut self,
        key: &'static Key,
        given: Given,
        parse: fn(&Given) -> Parsed<T>,
    ) -> Result<T> {
        let value = parse(&given).map_err(|accepted| refusal(key, &given, &accepted))?;
        let shown = key.show(given.value.to_string());
        self.settings.push(Setting { key: key.name, value: Some(shown), origin: given.origin });
        Ok(value)
    }
}

fn refusal(key: &Key, given: &Given, accepted: &str) -> Error {
    let shown = match &given.value {
        _ if key.secret => "this".to_owned(),
        RawValue::Text(text) => format!("{text:?}"),
        other => other.to_string(),
    };
    Error::new(Kind::BadInput, format!("{} does not accept {shown} ({})", key.name, given.origin))
        .hint(format!("{} takes {accepted}", key.name))
}
