//! Rules of the operator: `[rules.NAME]` with a table and a query that answers the keys of rows which break them.

use std::collections::BTreeMap;

use syncdata_formats::digest::Digest;
use syncdata_formats::error::{Error, Kind, Result};
use syncdata_formats::name::TableName;
use syncdata_formats::proof::rule_sha256;
use toml::de::{DeTable, DeValue};

use super::raw::Origin;

/// A rule of the operator: a query that finds rows which break it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rule {
    pub table: TableName,
    /// A query, without a semicolon at its end.
    pub sql: String,
}

impl Rule {
    /// By what it is the same one on both sides, beside its name.
    pub fn sha256(&self) -> Digest {
        rule_sha256(&self.sql)
    }
}

/// All of a settings file, and where the first one stands.
#[derive(Clone, Debug, Default)]
pub(super) struct Rules {
    pub(super) by_name: BTreeMap<String, Rule>,
    pub(super) origin: Option<Origin>,
}

const TAKEN: &str = "a rule is written [rules.NAME], and below it table = \"…\" and sql = \"SELECT …\"";

impl Rules {
    /// `place` tells the line of an offset.
    pub(super) fn read(
        value: &DeValue<'_>,
        origin: Origin,
        place: impl Fn(usize) -> Origin,
    ) -> Result<Rules> {
        let DeValue::Table(rules) = value else { return Err(refused("rules is no list of rules", &origin)) };
        let mut by_name = BTreeMap::new();
        for (name, rule) in rules {
            let at = place(name.span().start);
            let is_name = !name.get_ref().is_empty()
                && name.get_ref().len() <= 63
                && !name.get_ref().chars().any(char::is_control);
            let DeValue::Table(rule) = rule.get_ref() else {
                return Err(refused(&format!("rules.{} is no rule", name.get_ref()), &at));
            };
            if !is_name {
                return Err(refused("the name of a rule has 1 to 63 bytes and no control characters", &at));
            }
            by_name.insert(name.get_ref().to_string(), one(name.get_ref(), rule, &at)?);
        }
        Ok(Rules { by_name, origin: Some(origin) })
    }
}

fn one(name: &str, rule: &DeTable<'_>, at: &Origin) -> Result<Rule> {
    let (mut table, mut sql) = (None, None);
    for (key, value) in rule {
        let text = value.get_ref().as_str().filter(|text| !text.contains('\0'));
        let Some(text) = text else {
            return Err(refused(&format!("rules.{name}.{} is no text", key.get_ref()), at));
        };
        match key.get_ref().as_ref() {
            "table" => table = Some(text),
            "sql" => sql = Some(text.trim().trim_end_matches(';').trim_end()),
            other => return Err(refused(&format!("rules.{name}.{other} is no part of a rule"), at)),
        }
    }
    let (Some(table), Some(sql)) = (table, sql.filter(|sql| !sql.is_empty())) else {
        return Err(refused(&format!("rules.{name} lacks its table or its sql"), at));
    };
    // A pattern names several.
    let parsed: Option<TableName> = table.parse().ok().filter(|_| !table.trim_end().ends_with('*'));
    let table = parsed.ok_or_else(|| {
        refused(&format!("rules.{name}.table is no table: users, sales.orders, \"Odd.Name\""), at)
    })?;
    Ok(Rule { table, sql: sql.to_owned() })
}

fn refused(what: &str, at: &Origin) -> Error {
    Error::new(Kind::BadInput, format!("{what} ({at})")).hint(TAKEN)
}
