//! A local table as an archive describes it, as statements. Pure. An archive's words never become SQL: names are quoted,
//! types are those that the server knows by that name, and of a default only a constant that is written anew.

use std::collections::{BTreeMap, BTreeSet};

use syncdata_formats::manifest::{self, Generated, Relation};
use syncdata_formats::name::TableName;
use syncdata_formats::printed::{identifier, literal};
use syncdata_formats::types::is_type_name;

/// An enum type as the archive describes it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Enum {
    pub name: TableName,
    pub labels: Vec<String>,
}

/// What makes the table, and what of the source's it is without.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Creation {
    /// In this order, in one transaction.
    pub statements: Vec<String>,
    /// In words, each with the column.
    pub without: Vec<String>,
}

/// The types by which columns are declared and defaults cast: those that have to be looked up.
pub(crate) fn types(relation: &Relation) -> BTreeSet<String> {
    let columns = relation.columns.iter();
    let cast = columns.clone().filter_map(|column| Constant::parse(column.default.as_deref()?));
    let cast = cast.flat_map(|constant| constant.casts);
    columns.map(|column| column.type_name.clone()).chain(cast).filter(|name| is_type_name(name)).collect()
}

/// The enum types that its columns have.
pub(crate) fn enums(relation: &Relation) -> Vec<Enum> {
    let read = |(name, labels): (&String, &Vec<String>)| {
        Some(Enum { name: name.parse().ok()?, labels: labels.clone() })
    };
    relation.types.iter().filter_map(read).collect()
}

impl Enum {
    pub(crate) fn statement(&self) -> String {
        let labels: Vec<String> = self.labels.iter().map(|label| literal(label)).collect();
        format!("CREATE TYPE {} AS ENUM ({});", self.name.sql(), labels.join(", "))
    }
}

/// `known` are those of [`types`] that this server has. `Err`: why there can be no such table.
pub(crate) fn table(
    name: &TableName,
    relation: &Relation,
    known: &BTreeSet<String>,
) -> Result<Creation, String> {
    refuse_name(name)?;
    let mut without = Vec::new();
    let mut lines = Vec::new();
    for column in &relation.columns {
        let quoted = identifier(&column.name);
        if column.generated == Some(Generated::Virtual) {
            without
                .push(format!("column {quoted}, which is computed at the source: its values do not travel"));
            continue;
        }
        lines.push(format!("{quoted} {}", declared(name, column, known, &mut without)?));
    }
    let there = |key: &String| relation.columns.iter().any(|column| column.name == *key);
    if !relation.key.is_empty() && relation.key.iter().all(there) {
        let key: Vec<String> = relation.key.iter().map(|name| identifier(name)).collect();
        lines.push(format!("PRIMARY KEY ({})", key.join(", ")));
    }
    let statement = format!("CREATE TABLE {} (\n    {}\n);", name.sql(), lines.join(",\n    "));
    Ok(Creation { statements: vec![statement], without })
}

/// The server's own schemas are no place for tables of an archive, whatever role is at work.
fn refuse_name(name: &TableName) -> Result<(), String> {
    let is_servers = name.schema().starts_with("pg_") || name.schema() == "information_schema";
    match is_servers || name.schema().contains('\0') || name.name().contains('\0') {
        true => Err("no table can have that name".to_owned()),
        false => Ok(()),
    }
}

fn declared(
    table: &TableName,
    column: &manifest::Column,
    known: &BTreeSet<String>,
    without: &mut Vec<String>,
) -> Result<String, String> {
    let quoted = identifier(&column.name);
    if column.name.is_empty() || column.name.contains('\0') {
        return Err(format!("no column can be named {quoted}"));
    }
    let type_name = &column.type_name;
    if !known.contains(type_name) {
        return Err(format!(
            "column {quoted} has the type {}, which is not known here: make it (CREATE TYPE, CREATE EXTENSION), and run this \
             again; or make {table} by hand",
            syncdata_formats::types::printable(type_name)
        ));
    }
    if column.generated.is_some() {
        without.push(format!("the expression of column {quoted}, whose values come with the rows"));
    }
    if column.identity.is_some() {
        without.push(format!("the identity of column {quoted}"));
    }
    let mut text = type_name.clone();
    if let Some(default) = &column.default {
        match Constant::parse(default).filter(|constant| constant.is_known(known)) {
            Some(constant) => text.push_str(&format!(" DEFAULT {}", constant.sql())),
            None => without.push(format!("the default of column {quoted}")),
        }
    }
    text.push_str(if column.not_null { " NOT NULL" } else { "" });
    Ok(text)
}

/// What PostgreSQL prints for a constant: `'a'::text`, `0`, `'-1'::integer`, `(1)::bigint`.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Constant {
    value: Value,
    /// From the inside out.
    casts: Vec<String>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Value {
    Text(String),
    /// A number or a word, as it is.
    Plain(String),
}

impl Constant {
    fn parse(text: &str) -> Option<Constant> {
        let (mut constant, mut rest) = match text.strip_prefix('(') {
            Some(_) => {
                let close = closing(text)?;
                (Constant::parse(&text[1..close])?, &text[close + 1..])
            }
            None => value(text).map(|(value, rest)| (Constant { value, casts: Vec::new() }, rest))?,
        };
        while !rest.is_empty() {
            let after = rest.strip_prefix("::")?;
            let end = after.find("::").unwrap_or(after.len());
            let (cast, more) = after.split_at(end);
            if !is_type_name(cast) {
                return None;
            }
            constant.casts.push(cast.to_owned());
            rest = more;
        }
        Some(constant)
    }

    fn is_known(&self, known: &BTreeSet<String>) -> bool {
        self.casts.iter().all(|cast| known.contains(cast))
            && !matches!(&self.value, Value::Text(text) if text.contains('\0'))
    }

    fn sql(&self) -> String {
        let value = match &self.value {
            Value::Text(text) => literal(text),
            Value::Plain(text) => text.clone(),
        };
        self.casts.iter().fold(value, |sql, cast| format!("({sql})::{cast}"))
    }
}

/// Where the parenthesis that opens the text closes; quoted ones do not count.
fn closing(text: &str) -> Option<usize> {
    let (mut depth, mut quote) = (0_u32, None);
    for (at, c) in text.char_indices() {
        match (quote, c) {
            (Some(open), c) if c == open => quote = None,
            (Some(_), _) => {}
            (None, '\'' | '"') => quote = Some(c),
            (None, '(') => depth += 1,
            (None, ')') if depth == 1 => return Some(at),
            (None, ')') => depth -= 1,
            (None, _) => {}
        }
    }
    None
}

fn value(text: &str) -> Option<(Value, &str)> {
    if let Some(rest) = text.strip_prefix("E'") {
        return quoted(rest, true);
    }
    if let Some(rest) = text.strip_prefix('\'') {
        return quoted(rest, false);
    }
    let end = text.find("::").unwrap_or(text.len());
    let (word, rest) = text.split_at(end);
    let is_plain = matches!(word, "true" | "false" | "NULL") || is_number(word);
    is_plain.then(|| (Value::Plain(word.to_owned()), rest))
}

fn is_number(text: &str) -> bool {
    let unsigned = text.strip_prefix('-').unwrap_or(text);
    let (mantissa, exponent) = match unsigned.split_once('e') {
        Some((mantissa, exponent)) => (mantissa, Some(exponent.trim_start_matches(['+', '-']))),
        None => (unsigned, None),
    };
    let is_digits = |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    let (whole, fraction) = mantissa.split_once('.').map_or((mantissa, "0"), |parts| parts);
    is_digits(whole) && is_digits(fraction) && exponent.is_none_or(is_digits)
}

/// After the opening quote. Quotes are doubled; with `escapes`, backslashes are too, and nothing else is escaped.
fn quoted(text: &str, escapes: bool) -> Option<(Value, &str)> {
    let mut value = String::new();
    let mut chars = text.char_indices();
    while let Some((at, c)) = chars.next() {
        match c {
            '\'' if text[at + 1..].starts_with('\'') => {
                chars.next();
                value.push('\'');
            }
            '\'' => return Some((Value::Text(value), &text[at + 1..])),
            '\\' if escapes => match chars.next() {
                Some((_, '\\')) => value.push('\\'),
                _ => return None,
            },
            c => value.push(c),
        }
    }
    None
}

/// The newest description of each type wins where two tables describe it.
pub(crate) fn by_name(described: impl IntoIterator<Item = Enum>) -> BTreeMap<TableName, Enum> {
    let mut found = BTreeMap::new();
    for one in described {
        found.entry(one.name.clone()).or_insert(one);
    }
    found
}

#[cfg(test)]
mod tests {
    use syncdata_formats::manifest::ReplicaIdentity;

    use super::*;

    fn known(names: &[&str]) -> BTreeSet<String> {
        names.iter().map(|&name| name.to_owned()).collect()
    }

    #[test]
    fn constants_are_written_anew_and_nothing_else_is_a_default() {
        let types =
            known(&["text", "integer", "bigint", "numeric(5,2)", "public.mood", "bit(3)", "date", "text[]"]);
        for (default, sql) in [
            ("0", Some("0")),
            ("-1.5", Some("-1.5")),
            ("1e+20", Some("1e+20")),
            ("true", Some("true")),
            ("'a'::text", Some("('a')::text")),
            ("'it''s'::text", Some("('it''s')::text")),
            ("E'a\\\\b'::text", Some("(E'a\\\\b')::text")),
            ("'-1'::integer", Some("('-1')::integer")),
            ("(1)::bigint", Some("(1)::bigint")),
            ("('2026-01-01'::text)::date", Some("(('2026-01-01')::text)::date")),
            ("('a)'::text)::date", Some("(('a)')::text)::date")),
            ("'{}'::text[]", Some("('{}')::text[]")),
            ("'sad'::public.mood", Some("('sad')::public.mood")),
            ("NULL::text", Some("(NULL)::text")),
            ("1.5::numeric(5,2)", Some("(1.5)::numeric(5,2)")),
            ("now()", None),
            ("pg_sleep(9)", None),
            ("'a'::other", None),
            ("'a' || 'b'", None),
            ("'a'; DROP TABLE t; --", None),
            ("'a'::text); DROP TABLE t; --", None),
            ("0); DROP TABLE t; --", None),
            ("(0", None),
            ("E'\\n'::text", None),
            ("'a", None),
            ("", None),
            ("'a\0'::text", None),
            ("0x10", None),
            ("1.", None),
        ] {
            let made = Constant::parse(default).filter(|constant| constant.is_known(&types));
            assert_eq!(made.map(|constant| constant.sql()).as_deref(), sql, "{default:?}");
        }
    }

    fn column(name: &str, type_name: &str) -> manifest::Column {
        manifest::Column { name: name.into(), type_name: type_name.into(), ..manifest::Column::default() }
    }

    fn relation(columns: Vec<manifest::Column>) -> Relation {
        Relation::described(columns, vec!["id\"; --".into()], ReplicaIdentity::Default, BTreeMap::new())
    }

    #[test]
    fn names_of_an_archive_stay_names() {
        let name = TableName::new("sa\"les", "t); DROP TABLE x; --").expect("an allowed name");
        let mut id = column("id\"; --", "integer");
        id.not_null = true;
        let made = table(&name, &relation(vec![id, column("a\nb", "text")]), &known(&["integer", "text"]));
        let sql = made.expect("it can be made").statements.concat();
        assert_eq!(
            sql,
            "CREATE TABLE \"sa\"\"les\".\"t); DROP TABLE x; --\" (\n    \"id\"\"; --\" integer NOT NULL,\n    \
             U&\"a\\000ab\" text,\n    PRIMARY KEY (\"id\"\"; --\")\n);"
        );
    }

    #[test]
    fn what_is_not_known_here_is_named_and_not_made() {
        let name: TableName = "t".parse().expect("a name");
        let made = |column| table(&name, &relation(vec![column]), &known(&["integer"]));
        for bad in ["public.mood", "integer); DROP TABLE t; --"] {
            let reason = made(column("a", bad)).expect_err("not known");
            assert!(reason.contains("not known here"), "{reason}");
        }
        let generated = manifest::Column { generated: Some(Generated::Virtual), ..column("v", "integer") };
        let with =
            |default: &str| manifest::Column { default: Some(default.into()), ..column("d", "integer") };
        assert!(made(generated).expect("made").without[0].contains("computed at the source"));
        assert_eq!(made(with("nextval('s')")).expect("made").without, ["the default of column \"d\""]);
        assert!(made(with("7")).expect("made").statements[0].contains("\"d\" integer DEFAULT 7"));
        let system = TableName::new("pg_catalog", "pg_class").expect("a name");
        assert!(table(&system, &relation(Vec::new()), &known(&[])).is_err());
    }
}
