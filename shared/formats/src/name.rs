//! Names of tables and slots, how they are written in the archive and in SQL, and patterns of tables.

use std::fmt;
use std::str::FromStr;

use postgres_protocol::escape::escape_identifier;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::error::{Error, Kind, Result};
use crate::printed;

/// PostgreSQL cuts longer names silently; a cut name would be another table.
const NAME_BYTES_MAX: usize = 63;

/// A table: schema and name as the catalog holds them.
///
/// Written `name` in schema public and `schema.name` elsewhere. A part with a dot, a quote or a capital is
/// written as a quoted SQL identifier. Read, an unquoted part is folded to lower case, as SQL does.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TableName {
    schema: String,
    name: String,
}

impl TableName {
    /// From the two parts as the catalog holds them.
    pub fn new(schema: impl Into<String>, name: impl Into<String>) -> Result<TableName> {
        let table = TableName::any(schema, name)?;
        match table.schema.contains('\0') || table.name.contains('\0') {
            true => Err(Error::bad_input("a name that PostgreSQL allows", &table.to_string())),
            false => Ok(table),
        }
    }

    /// Of an archive, in which somebody may have written what no catalog holds: a table of that name is nowhere, and is
    /// no reason to refuse what the archive says of the others.
    fn any(schema: impl Into<String>, name: impl Into<String>) -> Result<TableName> {
        let table = TableName { schema: schema.into(), name: name.into() };
        for part in [&table.schema, &table.name] {
            if part.is_empty() {
                return Err(Error::bad_input("a name that PostgreSQL allows", part));
            }
            if part.len() > NAME_BYTES_MAX {
                return Err(Error::bad_input("a name of at most 63 bytes", part));
            }
        }
        Ok(table)
    }

    /// The archive knows one spelling of every name; any other is not ours.
    pub fn from_archive(text: &str) -> Result<TableName> {
        let table = TableName::read(text, TableName::any)?;
        if table.to_string() == text {
            Ok(table)
        } else {
            Err(Error::bad_input("a table name as we write it", text))
        }
    }

    fn read(text: &str, of: impl Fn(String, String) -> Result<TableName>) -> Result<TableName> {
        match parts(text)?.as_slice() {
            [name] => of("public".to_owned(), name.text.clone()),
            [schema, name] => of(schema.text.clone(), name.text.clone()),
            _ => Err(Error::bad_input("a table name (table, or schema.table)", text)),
        }
    }

    pub fn schema(&self) -> &str {
        &self.schema
    }

    pub fn name(&self) -> &str {
        &self.name
    }

    /// `"schema"."name"`, safe inside any statement.
    pub fn sql(&self) -> String {
        format!("{}.{}", printed::identifier(&self.schema), printed::identifier(&self.name))
    }

    /// The shell word of a name that is kept as a text.
    pub fn word_of(name: &str) -> String {
        name.parse().map_or_else(|_| printed::shell_word(name), |name: TableName| name.shell_word())
    }

    /// As an argument of our commands, which take lists with commas, on the command line of a shell.
    pub fn shell_word(&self) -> String {
        printed::shell_word(&self.list_item())
    }

    /// As an item of a list with commas.
    pub fn list_item(&self) -> String {
        let is_bare = |part: &String| !part.contains(',') && part.trim() == part;
        match is_bare(&self.schema) && is_bare(&self.name) {
            true => self.to_string(),
            false => format!("{}.{}", escape_identifier(&self.schema), escape_identifier(&self.name)),
        }
    }
}

/// One part as we write it.
fn write_part(part: &str, f: &mut fmt::Formatter<'_>) -> fmt::Result {
    let plain = !part.bytes().any(|b| matches!(b, b'.' | b'"' | b'A'..=b'Z'));
    // A lone star would read as a pattern.
    if plain && part != "*" { f.write_str(part) } else { f.write_str(&escape_identifier(part)) }
}

impl fmt::Display for TableName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.schema != "public" {
            write_part(&self.schema, f)?;
            f.write_str(".")?;
        }
        write_part(&self.name, f)
    }
}

impl FromStr for TableName {
    type Err = Error;

    fn from_str(text: &str) -> Result<TableName> {
        TableName::read(text, TableName::new)
    }
}

impl Serialize for TableName {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for TableName {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<TableName, D::Error> {
        let text = String::deserialize(deserializer)?;
        TableName::from_archive(&text).map_err(serde::de::Error::custom)
    }
}

/// What an operator lists: one table, all of a schema (`sales.*`), or all (`*`).
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum TablePattern {
    All,
    Schema(String),
    Table(TableName),
}

impl TablePattern {
    pub fn matches(&self, table: &TableName) -> bool {
        match self {
            TablePattern::All => true,
            TablePattern::Schema(schema) => schema == table.schema(),
            TablePattern::Table(name) => name == table,
        }
    }
}

impl FromStr for TablePattern {
    type Err = Error;

    fn from_str(text: &str) -> Result<TablePattern> {
        let parts = parts(text)?;
        let star = |part: &Part| !part.quoted && part.text == "*";
        let pattern = match parts.as_slice() {
            [only] if star(only) => TablePattern::All,
            [schema, name] if star(schema) && star(name) => TablePattern::All,
            [schema, name] if star(name) && !star(schema) => TablePattern::Schema(schema.text.clone()),
            _ => TablePattern::Table(text.parse()?),
        };
        let inner_star = |part: &Part| !part.quoted && part.text.contains('*');
        match &pattern {
            TablePattern::Table(_) if parts.iter().any(inner_star) => {
                Err(Error::new(Kind::BadInput, format!("{text:?} is not a pattern that is understood"))
                    .hint("write *, schema.*, or one table; a star in a table's name needs quotes: \"a*\""))
            }
            TablePattern::Schema(schema) if schema.contains('*') && inner_star(&parts[0]) => {
                Err(Error::bad_input("a pattern (schema.*)", text))
            }
            _ => Ok(pattern),
        }
    }
}

impl Serialize for TablePattern {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for TablePattern {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<TablePattern, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

impl fmt::Display for TablePattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            TablePattern::All => f.write_str("*"),
            TablePattern::Schema(schema) => {
                write_literally(schema, f)?;
                f.write_str(".*")
            }
            TablePattern::Table(table) => {
                if table.schema != "public" {
                    write_literally(&table.schema, f)?;
                    f.write_str(".")?;
                }
                write_literally(&table.name, f)
            }
        }
    }
}

/// One part of a pattern in which a star is only a star.
fn write_literally(part: &str, f: &mut fmt::Formatter<'_>) -> fmt::Result {
    if part.contains('*') { f.write_str(&escape_identifier(part)) } else { write_part(part, f) }
}

struct Part {
    text: String,
    quoted: bool,
}

/// Splits at dots outside quotes, folds unquoted parts, undoubles quotes.
fn parts(text: &str) -> Result<Vec<Part>> {
    let bad = || Error::bad_input("a table name (table, schema.table, \"Quoted\".\"Name\")", text);
    let mut parts = Vec::new();
    let mut rest = text;
    loop {
        let part = if let Some(quoted) = rest.strip_prefix('"') {
            let mut unquoted = String::new();
            let mut from = quoted;
            loop {
                let end = from.find('"').ok_or_else(bad)?;
                unquoted.push_str(&from[..end]);
                from = &from[end + 1..];
                match from.strip_prefix('"') {
                    Some(after) => {
                        unquoted.push('"');
                        from = after;
                    }
                    None => break,
                }
            }
            rest = from;
            Part { text: unquoted, quoted: true }
        } else {
            let end = rest.find('.').unwrap_or(rest.len());
            let (part, after) = rest.split_at(end);
            rest = after;
            if part.contains('"') {
                return Err(bad());
            }
            Part { text: part.to_ascii_lowercase(), quoted: false }
        };
        if part.text.is_empty() {
            return Err(bad());
        }
        parts.push(part);
        match rest.strip_prefix('.') {
            Some(after) => rest = after,
            None if rest.is_empty() => return Ok(parts),
            None => return Err(bad()),
        }
    }
}

/// A replication slot's name, as PostgreSQL allows them: lower-case letters, digits and underscores.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct SlotName(String);

impl SlotName {
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for SlotName {
    type Err = Error;

    fn from_str(text: &str) -> Result<SlotName> {
        let allowed = |b: u8| matches!(b, b'a'..=b'z' | b'0'..=b'9' | b'_');
        if (1..=NAME_BYTES_MAX).contains(&text.len()) && text.bytes().all(allowed) {
            Ok(SlotName(text.to_owned()))
        } else {
            Err(Error::bad_input("a slot name (a-z, 0-9 and _, at most 63)", text))
        }
    }
}

impl fmt::Display for SlotName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_name_has_one_spelling() {
        for (schema, name, text) in [
            ("public", "users", "users"),
            ("sales", "orders", "sales.orders"),
            ("public", "a.b", "\"a.b\""),
            ("public", "Ü x", "Ü x"),
            ("public", "q'q\"q", "\"q'q\"\"q\""),
            ("Sales", "Order", "\"Sales\".\"Order\""),
            ("public", "*", "\"*\""),
            ("public", "select", "select"),
            ("public", "back\\slash", "back\\slash"),
            ("public", "x\"; DROP TABLE y; --", "\"x\"\"; DROP TABLE y; --\""),
        ] {
            let table = TableName::new(schema, name).expect("an allowed name");
            assert_eq!(table.to_string(), text);
            assert_eq!(TableName::from_archive(text).expect("our own spelling"), table);
        }
    }

    #[test]
    fn reads_names_as_sql_does() {
        assert_eq!("Users".parse::<TableName>().expect("folds").to_string(), "users");
        assert_eq!("public.users".parse::<TableName>().expect("schema given").to_string(), "users");
        assert_eq!("\"users\"".parse::<TableName>().expect("quoted").to_string(), "users");
        assert!(TableName::from_archive("Users").is_err(), "the archive folds nothing");
        assert!(TableName::from_archive("public.users").is_err(), "one spelling only");
    }

    #[test]
    fn refuses_what_is_no_name() {
        let long = "x".repeat(64);
        for text in ["", ".", "a.", ".a", "a.b.c", "\"a", "a\"b", "\"\"", "\"a\"b", &long] {
            assert!(text.parse::<TableName>().is_err(), "accepted {text:?}");
        }
    }

    #[test]
    fn patterns() {
        let parse = |text: &str| text.parse::<TablePattern>();
        assert_eq!(parse("*").ok(), Some(TablePattern::All));
        assert_eq!(parse("sales.*").ok(), Some(TablePattern::Schema("sales".into())));
        assert_eq!(parse("\"*\"").ok(), TableName::new("public", "*").map(TablePattern::Table).ok());
        for text in ["\"*\"", "\"a*\"", "\"s*\".\"a*\"", "\"s*\".*", "sales.\"*\""] {
            assert_eq!(parse(text).expect("quoted").to_string(), text, "printed as it can be read again");
        }
        for text in ["us*", "*.users", "a*.*", "sales.a*"] {
            assert!(parse(text).is_err(), "accepted {text:?}");
        }
    }

    #[test]
    fn sql_form_is_always_quoted() {
        let table = TableName::new("public", "x\"; DROP TABLE y; --").expect("allowed");
        assert_eq!(table.sql(), "\"public\".\"x\"\"; DROP TABLE y; --\"");
    }

    #[test]
    fn a_name_is_one_argument_that_means_that_table() {
        for (name, word) in [
            ("users", "users"),
            ("Users", "'\"Users\"'"),
            ("a,b", "'\"public\".\"a,b\"'"),
            (" x", "'\"public\".\" x\"'"),
            ("x; rm -rf ~", "'x; rm -rf ~'"),
        ] {
            let table = TableName::new("public", name).expect("an allowed name");
            assert_eq!(table.shell_word(), word);
            let argument = word.trim_matches('\'');
            assert_eq!(argument.parse::<TableName>().expect("a name"), table);
        }
    }

    #[test]
    fn a_nul_is_read_in_an_archive_and_nowhere_else() {
        assert!("a\0b".parse::<TableName>().is_err());
        assert!(TableName::new("public", "a\0b").is_err());
        assert!(TableName::from_archive("a\0b").is_ok());
    }

    #[test]
    fn slot_names() {
        assert!("syncdata_slot".parse::<SlotName>().is_ok());
        for text in ["", "Slot", "a-b", "a b", "ä", "x\"; DROP", &"x".repeat(64)] {
            assert!(text.parse::<SlotName>().is_err(), "accepted {text:?}");
        }
    }
}
