//! Names of types, as format_type prints them: which changes of a column's type leave the text of every value as it was.

use std::borrow::Cow;

use crate::printed;

/// Whether a column that is made another type keeps the text of each of its values, however it is converted. (A `USING`
/// that computes other values is not seen here.) What is not listed is taken to alter values.
pub fn keeps_text(old: &str, new: &str) -> bool {
    if old == new {
        return true;
    }
    if let (Some(old), Some(new)) = (old.strip_suffix("[]"), new.strip_suffix("[]")) {
        return keeps_text(old, new);
    }
    let (old, new) = (Type::parse(old), Type::parse(new));
    if old.rest != new.rest {
        return false;
    }
    match (old.name, new.name) {
        ("smallint", "integer" | "bigint") | ("integer", "bigint") => true,
        ("smallint" | "integer" | "bigint", "numeric") => new.scale() == Some(0) || new.modifiers.is_empty(),
        // More digits before the point; as many after it, or as many as there are.
        ("numeric", "numeric") => {
            new.modifiers.is_empty() || !old.modifiers.is_empty() && old.scale() == new.scale()
        }
        ("character varying" | "text", "text") => true,
        ("character varying" | "text", "character varying") => new.limit() >= old.limit(),
        (
            "smallint" | "integer" | "bigint" | "numeric" | "uuid" | "json" | "jsonb",
            "text" | "character varying",
        ) => new.modifiers.is_empty(),
        ("bit varying", "bit varying") => new.limit() >= old.limit(),
        (name, other) if name == other && (name.starts_with("time") || name == "interval") => {
            new.limit() >= old.limit()
        }
        _ => false,
    }
}

/// Whether PostgreSQL leaves the rows where they are when a column is made that type, of those changes that keep the text.
pub fn keeps_rows(old: &str, new: &str) -> bool {
    let (old, new) = (Type::parse(old), Type::parse(new));
    let is_text = |name: &str| matches!(name, "character varying" | "text");
    let is_same = old.name == new.name && old.rest == new.rest && !old.rest.ends_with("[]");
    (is_text(old.name) && is_text(new.name) && old.rest.is_empty() && new.rest.is_empty())
        || is_same && !old.name.ends_with("[]")
}

/// Whether it is the name of a type as format_type prints one, and nothing else: it can stand in a statement.
pub fn is_type_name(text: &str) -> bool {
    const OF_WORDS: [&str; 7] = [
        "double precision",
        "character varying",
        "bit varying",
        "timestamp without time zone",
        "timestamp with time zone",
        "time without time zone",
        "time with time zone",
    ];
    let mut text = text;
    while let Some(element) = text.strip_suffix("[]") {
        text = element;
    }
    // The modifiers, wherever they stand.
    let without = match text.split_once('(') {
        None => text.to_owned(),
        Some((name, after)) => {
            let Some((modifiers, rest)) = after.split_once(')') else { return false };
            let is_modifier = |c: char| c.is_ascii_alphanumeric() || matches!(c, ',' | '-' | '_');
            if modifiers.is_empty() || !modifiers.chars().all(is_modifier) {
                return false;
            }
            format!("{name}{rest}")
        }
    };
    if OF_WORDS.contains(&without.as_str()) {
        return true;
    }
    if let Some(fields) = without.strip_prefix("interval ") {
        return fields
            .split(' ')
            .all(|word| matches!(word, "year" | "month" | "day" | "hour" | "minute" | "second" | "to"));
    }
    is_qualified_name(&without)
}

/// The name of a type as an archive has it, in a statement that somebody will run: what is no type's name is made one
/// that does not exist.
pub fn printable(type_name: &str) -> Cow<'_, str> {
    match is_type_name(type_name) && !type_name.contains(char::is_control) {
        true => Cow::Borrowed(type_name),
        false => Cow::Owned(printed::identifier(type_name)),
    }
}

/// `name` or `schema.name`, each quoted where it has to be.
fn is_qualified_name(text: &str) -> bool {
    let Some(rest) = after_identifier(text) else { return false };
    match rest.strip_prefix('.') {
        Some(second) => after_identifier(second) == Some(""),
        None => rest.is_empty(),
    }
}

fn after_identifier(text: &str) -> Option<&str> {
    if let Some(mut rest) = text.strip_prefix('"') {
        loop {
            let end = rest.find('"')?;
            rest = &rest[end + 1..];
            match rest.strip_prefix('"') {
                Some(quoted) => rest = quoted,
                None => return Some(rest),
            }
        }
    }
    let end = text.find(|c: char| !(c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_'));
    let (name, rest) = text.split_at(end.unwrap_or(text.len()));
    (!name.is_empty() && !name.starts_with(|c: char| c.is_ascii_digit())).then_some(rest)
}

/// `character varying(20)`, `timestamp(3) with time zone`, `numeric(12,2)`, taken apart.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Type<'a> {
    pub name: &'a str,
    /// What follows the modifiers: `with time zone`, `[]`.
    pub rest: &'a str,
    pub modifiers: Vec<i64>,
}

impl<'a> Type<'a> {
    pub fn parse(text: &'a str) -> Type<'a> {
        let plain = Type { name: text, rest: "", modifiers: Vec::new() };
        if let Some((name, after)) = text.split_once('(') {
            let Some((modifiers, rest)) = after.split_once(')') else { return plain };
            let Ok(modifiers) = modifiers.split(',').map(str::parse).collect() else { return plain };
            return Type { name, rest, modifiers };
        }
        match text.find(" with").filter(|_| text.starts_with("time")) {
            Some(at) => Type { name: &text[..at], rest: &text[at..], modifiers: Vec::new() },
            None => plain,
        }
    }

    /// Every text fits into it.
    pub fn is_unlimited_text(&self) -> bool {
        self.modifiers.is_empty() && self.rest.is_empty() && matches!(self.name, "text" | "character varying")
    }

    /// Types without a limit take the longest there is.
    pub fn limit(&self) -> i64 {
        self.modifiers.first().copied().unwrap_or(i64::MAX)
    }

    /// Digits after the point, of a numeric that has a limit.
    pub fn scale(&self) -> Option<i64> {
        (!self.modifiers.is_empty()).then(|| self.modifiers.get(1).copied().unwrap_or(0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_names_of_types_can_stand_in_a_statement() {
        for name in [
            "integer",
            "text[]",
            "integer[][]",
            "numeric(12,-2)",
            "character varying(20)[]",
            "timestamp(3) with time zone",
            "interval day to second(3)",
            "interval year to month",
            "public.mood",
            "\"Bad Schema\".\"Ty\"\"pe\"",
            "\"char\"",
            "postgis.geometry(Point,4326)",
            "double precision",
        ] {
            assert!(is_type_name(name), "{name}");
        }
        for name in [
            "",
            "integer; DROP TABLE t",
            "integer primary key",
            "integer)",
            "text(1); --)",
            "text COLLATE \"C\"",
            "a.b.c",
            "\"open",
            "\"a\"b",
            "text -- x",
            "integer DEFAULT pg_sleep(9)",
            "text(;)",
            "text\n",
            "numeric(1)(2)",
            "1a",
        ] {
            assert!(!is_type_name(name), "{name}");
        }
    }

    #[test]
    fn only_listed_changes_keep_the_text_of_values() {
        for (old, new, keeps) in [
            ("integer", "integer", true),
            ("integer", "bigint", true),
            ("bigint", "integer", false),
            ("integer", "numeric", true),
            ("integer", "numeric(20,0)", true),
            ("integer", "numeric(20,2)", false),
            ("integer", "double precision", false),
            ("integer", "text", true),
            ("integer", "character varying(5)", false),
            ("numeric(12,2)", "numeric", true),
            ("numeric(12,2)", "numeric(14,2)", true),
            ("numeric(12,2)", "numeric(14,3)", false),
            ("numeric", "numeric(14,2)", false),
            ("character varying(10)", "character varying(20)", true),
            ("character varying(10)", "character varying(5)", false),
            ("character varying(10)", "text", true),
            ("text", "character varying", true),
            ("text", "character varying(10)", false),
            ("character(10)", "text", false),
            ("real", "double precision", false),
            ("boolean", "text", false),
            ("inet", "text", false),
            ("jsonb", "text", true),
            ("json", "jsonb", false),
            ("uuid", "text", true),
            ("timestamp(3) without time zone", "timestamp without time zone", true),
            ("timestamp without time zone", "timestamp(3) without time zone", false),
            ("timestamp without time zone", "timestamp with time zone", false),
            ("date", "timestamp without time zone", false),
            ("integer[]", "bigint[]", true),
            ("integer[]", "text", false),
            ("public.mood", "text", false),
            ("public.mood", "sales.mood", false),
        ] {
            assert_eq!(keeps_text(old, new), keeps, "{old} -> {new}");
        }
    }

    #[test]
    fn rows_stay_where_they_are_when_only_a_limit_is_widened() {
        for (old, new, keeps) in [
            ("integer", "bigint", false),
            ("integer", "text", false),
            ("uuid", "text", false),
            ("integer[]", "bigint[]", false),
            ("character varying(3)[]", "character varying(5)[]", false),
            ("numeric(12,2)", "numeric", true),
            ("character varying(10)", "character varying(20)", true),
            ("character varying(10)", "text", true),
            ("timestamp(3) without time zone", "timestamp without time zone", true),
            ("bit varying(3)", "bit varying(5)", true),
        ] {
            assert_eq!(keeps_rows(old, new), keeps, "{old} -> {new}");
        }
    }
}
