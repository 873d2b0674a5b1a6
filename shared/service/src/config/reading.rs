//! Given values understood, or refused with what would be; and the list of what holds.

use super::key::{Default, Field, Key};
use super::raw::{Given, Origin, RawValue};
use syncdata_formats::error::{Error, Kind, Result};

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
