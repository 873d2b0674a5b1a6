//! The tables that patterns name, and the answer that names tables.

use std::collections::BTreeSet;

use serde_json::json;
use syncdata_formats::error::{Error, Kind, Result};
use syncdata_formats::name::{TableName, TablePattern};
use syncdata_service::config::{Config, split_list};

use super::Answer;
use crate::target::postgres::cursor;
use crate::target::postgres::local::Local;

/// Those of the tables that the patterns name, in the order of the patterns, each of which names one at least.
pub(super) fn matching(
    tables: &[TableName],
    patterns: &[String],
    strange: impl Fn(&TablePattern) -> Error,
) -> Result<Vec<TableName>> {
    let (mut names, mut seen) = (Vec::new(), BTreeSet::new());
    for pattern in self::patterns(patterns)? {
        let found: Vec<&TableName> = tables.iter().filter(|table| pattern.matches(table)).collect();
        if found.is_empty() {
            return Err(strange(&pattern));
        }
        names.extend(found.into_iter().filter(|table| seen.insert((*table).clone())).cloned());
    }
    Ok(names)
}

/// Those of the whitelist that the patterns name.
pub(super) async fn of(local: &Local, patterns: &[String]) -> Result<Vec<TableName>> {
    let states = cursor::table_states(local.session.client(), &local.meta).await?;
    let known: Vec<TableName> = states.into_keys().collect();
    matching(&known, patterns, |stranger| {
        not_found(format!("{stranger} is not in the whitelist"), "syncdata-applier list-tables shows what is")
    })
}

/// Whether each of the patterns names one of the whitelist at least.
pub(crate) async fn consider(config: &Config, patterns: &[String]) -> Result<()> {
    of(&Local::open(config).await?, patterns).await.map(drop)
}

/// The tables as the command line names them, each once.
pub(super) fn parse_names(names: &[String]) -> Result<Vec<TableName>> {
    let (mut tables, mut seen) = (Vec::new(), BTreeSet::new());
    for name in listed(names)? {
        let table: TableName = name.parse()?;
        if seen.insert(table.clone()) {
            tables.push(table);
        }
    }
    Ok(tables)
}

/// As the command line names them.
pub(super) fn patterns(arguments: &[String]) -> Result<Vec<TablePattern>> {
    listed(arguments)?.iter().map(|text| text.parse()).collect()
}

/// Arguments may be lists, as in settings: `a,b c`.
fn listed(arguments: &[String]) -> Result<Vec<String>> {
    let mut listed = Vec::new();
    for argument in arguments {
        let items = split_list(argument).filter(|items| !items.is_empty());
        listed.extend(items.ok_or_else(|| {
            Error::bad_input("a list of tables", argument)
                .hint("write a,b or a b; a name with a comma needs quotes: '\"a,b\"'")
        })?);
    }
    Ok(listed)
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
