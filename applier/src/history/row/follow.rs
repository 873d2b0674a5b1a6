//! Every change of one row, as the archive tells it. Pure: records in, changes out, oldest first.
//!
//! A row that gets another key is followed there, until it is deleted or its table emptied. Where the row that has the
//! key now came from is said, but not followed: what it was before stands under its earlier key.

use std::borrow::Cow;
use std::collections::{BTreeMap, HashMap};
use std::fmt::Write as _;

use syncdata_formats::change::{Fields, Op, Row, Value};
use syncdata_formats::lsn::Lsn;
use syncdata_formats::manifest::Relation;
use syncdata_formats::time::Timestamp;

/// The values of a key's columns, each in one spelling.
type Key = Vec<String>;

/// One change of the row.
#[derive(Clone, Debug, PartialEq)]
pub struct Change {
    pub ts: Timestamp,
    pub lsn: Lsn,
    pub segment: u64,
    pub op: Op,
    /// The key that it found the row by: column and JSON value.
    pub key: Vec<(String, String)>,
    /// Columns that changed, as JSON values: what they were, where that is known, and what they are since.
    pub columns: Vec<(String, Option<String>, String)>,
}

/// Follows one row through the archive.
#[derive(Debug)]
pub(super) struct History {
    table: String,
    asked: Vec<String>,
    /// Where rows went that once had the key.
    moved_to: Vec<Key>,
    /// The last known values of the rows, as JSON, by their keys.
    images: HashMap<Key, BTreeMap<String, String>>,
}

impl History {
    /// `asked` are the values of the key's columns, in their order.
    pub(super) fn new(table: String, asked: Vec<String>) -> History {
        History { table, asked, moved_to: Vec::new(), images: HashMap::new() }
    }

    /// `None`: it is about another row.
    pub(super) fn take(&mut self, row: &Row<'_>, relation: &Relation, segment: u64) -> Option<Change> {
        if row.table != self.table {
            return None;
        }
        if row.op == Op::Truncate {
            self.moved_to.clear();
            self.images.clear();
            return Some(self.change(row, relation, segment, Vec::new()));
        }
        let old = key(relation, &row.old_keys, None).or_else(|| self.named_otherwise(row));
        let new = key(relation, &row.data, Some(&row.old_keys));
        let asked = self.asked(relation);
        let is_ours =
            |key: &Option<Key>| key.as_ref().is_some_and(|key| *key == asked || self.moved_to.contains(key));
        if !is_ours(&old) && !is_ours(&new) {
            return None;
        }
        let before = old.as_ref().and_then(|old| self.images.remove(old)).unwrap_or_default();
        let columns = changed(row, &before);
        if let Some(old) = &old {
            let went = self.moved_to.iter().position(|key| key == old);
            let follow = went.is_some() || *old == asked;
            went.map(|place| self.moved_to.remove(place));
            if let Some(new) = new.as_ref().filter(|new| follow && **new != asked && row.op == Op::Update) {
                self.moved_to.push(new.clone());
            }
        }
        if let Some(new) = new.filter(|_| row.op != Op::Delete) {
            let mut image = if row.op == Op::Insert { BTreeMap::new() } else { before };
            image.extend(row.data.iter().map(|(name, value)| (name.clone().into_owned(), value.to_string())));
            self.images.insert(new, image);
        }
        Some(self.change(row, relation, segment, columns))
    }

    /// The row whose last known values are those that name it: its replica identity is another index than its key.
    fn named_otherwise(&self, row: &Row<'_>) -> Option<Key> {
        let has = |image: &BTreeMap<String, String>| {
            let same = |(name, value): &(Cow<'_, str>, Value<'_>)| {
                image.get(name.as_ref()) == Some(&value.to_string())
            };
            !row.old_keys.is_empty() && row.old_keys.iter().all(same)
        };
        self.images.iter().find(|(_, image)| has(image)).map(|(key, _)| key.clone())
    }

    /// The asked key in the spelling of its types.
    fn asked(&self, relation: &Relation) -> Key {
        let types = relation.key.iter().map(|name| type_of(relation, name));
        types.zip(&self.asked).map(|(type_name, text)| one_spelling(type_name, text).into_owned()).collect()
    }

    fn change(
        &self,
        row: &Row<'_>,
        relation: &Relation,
        segment: u64,
        columns: Vec<(String, Option<String>, String)>,
    ) -> Change {
        let found_by = if row.op == Op::Insert { &row.data } else { &row.old_keys };
        let of_key = |name: &String| Some((name.clone(), find(found_by, name)?.to_string()));
        let mut key: Vec<(String, String)> = relation.key.iter().filter_map(of_key).collect();
        if key.is_empty() {
            let named = row.old_keys.iter();
            key = named.map(|(name, value)| (name.clone().into_owned(), value.to_string())).collect();
        }
        Change { ts: row.ts, lsn: row.lsn, segment, op: row.op, key, columns }
    }
}

/// Of an INSERT everything. Of an UPDATE what differs, and what cannot be told.
fn changed(row: &Row<'_>, before: &BTreeMap<String, String>) -> Vec<(String, Option<String>, String)> {
    let was = |name: &str| match before.get(name) {
        Some(value) => Some(value.clone()),
        None => find(&row.old_keys, name).map(ToString::to_string),
    };
    let columns = row.data.iter().map(|(name, value)| {
        let was = if row.op == Op::Update { was(name) } else { None };
        (name.clone().into_owned(), was, value.to_string())
    });
    columns.filter(|(_, was, now)| was.as_ref() != Some(now)).collect()
}

fn find<'f, 'v>(fields: &'f Fields<'v>, name: &str) -> Option<&'f Value<'v>> {
    fields.iter().find(|field| field.0 == name).map(|field| &field.1)
}

fn key(relation: &Relation, fields: &Fields<'_>, otherwise: Option<&Fields<'_>>) -> Option<Key> {
    let part = |name: &String| {
        let value = find(fields, name).or_else(|| find(otherwise?, name))?;
        Some(one_spelling(type_of(relation, name), value.as_text()?).into_owned())
    };
    relation.key.iter().map(part).collect()
}

fn type_of<'r>(relation: &'r Relation, name: &str) -> &'r str {
    let column = relation.columns.iter().find(|column| column.name == name);
    column.map_or("", |column| column.type_name.as_str())
}

/// As far as it is known, one text for all texts that the server calls equal; what people write without thinking of a
/// type's own spelling is one of them.
fn one_spelling<'t>(type_name: &str, text: &'t str) -> Cow<'t, str> {
    let name = type_name.split(['(', '[']).next().unwrap_or_default();
    match name {
        "smallint" | "integer" | "bigint" | "oid" => {
            text.trim().parse::<i128>().map_or(Cow::Borrowed(text), |number| number.to_string().into())
        }
        "numeric" | "real" | "double precision" => decimal(text).map_or(text.into(), Cow::from),
        "boolean" => match text {
            "t" | "true" | "yes" | "on" | "1" => "true".into(),
            "f" | "false" | "no" | "off" | "0" => "false".into(),
            other => other.into(),
        },
        "character" => text.trim_end_matches(' ').into(),
        "uuid" => text.to_ascii_lowercase().replace(['-', '{', '}'], "").into(),
        name if name.rsplit('.').next() == Some("citext") => text.to_lowercase().into(),
        _ => text.into(),
    }
}

/// A number by its digits alone: `1.50`, `1.5` and `15e-1` are all `15e-1`. `None`: it is NaN, infinite or no number.
fn decimal(text: &str) -> Option<String> {
    let text = text.trim();
    let (sign, text) =
        text.strip_prefix('-').map_or(("", text.trim_start_matches('+')), |digits| ("-", digits));
    let (mantissa, exponent) = text.split_once(['e', 'E']).unwrap_or((text, "0"));
    let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
    let digits = format!("{whole}{fraction}");
    if digits.is_empty() || !digits.bytes().all(|digit| digit.is_ascii_digit()) {
        return None;
    }
    let significant = digits.trim_end_matches('0');
    let exponent = i64::from(exponent.parse::<i32>().ok()?) - i64::try_from(fraction.len()).ok()?
        + i64::try_from(digits.len() - significant.len()).ok()?;
    let significant = significant.trim_start_matches('0');
    // Zero has two spellings too.
    Some(if significant.is_empty() { "0".to_owned() } else { format!("{sign}{significant}e{exponent}") })
}

impl Change {
    /// One line for people: values as JSON.
    pub fn line(&self) -> String {
        let mut line = format!("{}  {}  {}", self.ts, self.lsn, self.op);
        let mut add = |text: String| write!(line, "{text}").expect("a String takes all");
        for (name, value) in &self.key {
            add(format!("  {name}={value}"));
        }
        for (place, (name, was, value)) in self.columns.iter().enumerate() {
            add(format!("{} {name}: ", if place == 0 { " |" } else { "," }));
            match was {
                Some(was) => add(format!("{was} -> {value}")),
                None => add(value.clone()),
            }
        }
        line
    }

    /// One JSON object; numbers keep their digits.
    pub fn json(&self) -> String {
        let key: Vec<String> =
            self.key.iter().map(|(name, value)| format!("{}:{value}", json(name))).collect();
        let columns = self.columns.iter().map(|(name, was, value)| {
            let was = was.as_ref().map_or(String::new(), |was| format!("\"from\":{was},"));
            format!("{}:{{{was}\"to\":{value}}}", json(name))
        });
        format!(
            "{{\"ts\":\"{}\",\"lsn\":\"{}\",\"segment\":{},\"op\":\"{}\",\"key\":{{{}}},\"columns\":{{{}}}}}",
            self.ts,
            self.lsn,
            self.segment,
            self.op,
            key.join(","),
            columns.collect::<Vec<_>>().join(",")
        )
    }
}

fn json(text: &str) -> String {
    serde_json::to_string(text).expect("a string is JSON")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_that_are_one_value_have_one_spelling() {
        for (type_name, one, other) in [
            ("integer", "7", "007"),
            ("numeric(10,2)", "1.50", "1.5"),
            ("numeric", "0.0", "-0"),
            ("numeric", ".5", "0.50"),
            ("numeric", "100", "0100.0"),
            ("numeric", "1200", "1.2e3"),
            ("double precision", "-0", "0.0"),
            ("double precision", "1e+20", "100000000000000000000"),
            ("real", "1.5e-07", "0.00000015"),
            ("real", "NaN", "NaN"),
            ("boolean", "t", "true"),
            ("character(5)", "ab   ", "ab"),
            ("uuid", "A0EEBC99-9c0b-4ef8-bb6d-6bb9bd380a11", "a0eebc999c0b4ef8bb6d6bb9bd380a11"),
            ("public.citext", "Ann", "aNN"),
            ("text", "Ann", "Ann"),
        ] {
            assert_eq!(one_spelling(type_name, one), one_spelling(type_name, other), "{type_name} {one}");
        }
        for (type_name, one, other) in [
            ("text", "a", "a "),
            ("numeric", "10", "1"),
            ("numeric", "-1", "1"),
            ("numeric", "12345678901234567890.1", "12345678901234567890.2"),
            ("double precision", "0.1", "0.01"),
            ("text", "Ann", "ann"),
        ] {
            assert_ne!(one_spelling(type_name, one), one_spelling(type_name, other), "{type_name} {one}");
        }
    }
}
