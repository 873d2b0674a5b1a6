//! The tables that patterns name, and the answer that names tables.

use std::collections::BTreeSet;

use serde_json::json;
use syncdata_formats::error::{Error, Kind, Result};
use syncdata_formats::name::{TableName, TablePattern};

use super::Answer;

/// Those of the tables that the patterns name, in the order of the patterns, each of which names one at least.
pub(super) fn matching(
    tables: &[TableName],
    patterns: &[String],
    strange: impl Fn(&TablePattern) -> Error,
) -> Result<Vec<TableName>> {
    let (mut names, mut seen) = (Vec::new(), BTreeSet::new());
    for text in patterns {
        let pattern: TablePattern = text.parse()?;
        let found: Vec<&TableName> = tables.iter().filter(|table| pattern.matches(table)).collect();
        if found.is_empty() {
            return Err(strange(&pattern));
        }
        names.extend(found.into_iter().filter(|table| seen.insert((*table).clone())).cloned());
    }
    Ok(names)
}

/// The tables as the command line names them.
pub(super) fn parse_names(names: &[String]) -> Result<Vec<TableName>> {
    names.iter().map(|name| name.parse()).collect()
}

/// `added users`, a line for each.
pub(super) fn named(did: &str, names: &[TableName]) -> Answer {
    let text = names.iter().map(|name| format!("{did} {name}\n")).collect();
    let names: Vec<String> = names.iter().map(ToString::to_string).collect();
    Answer::done(text, json!({ did: names }))
}

pub(super) fn not_listed(table: &TableName) -> Error {
    not_found(format!("{table} is not in the whitelist"), "syncdata-applier list-tables shows what is")
}

pub(super) fn not_found(message: String, hint: &str) -> Error {
    Error::new(Kind::NotFound, message).hint(hint)
}
