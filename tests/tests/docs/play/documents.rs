//! The documents that `--json` prints, and the fields that a page says they have.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

use crate::pages::code_spans;

/// A section headed by a command, and what it says that the command prints.
pub(super) struct Described<'a> {
    pub command: &'a str,
    pub section: &'a str,
}

/// A row: `| `path` | type | (seldom) … |`.
struct Field<'a> {
    path: &'a str,
    types: BTreeSet<&'a str>,
    is_seldom: bool,
}

pub(super) fn described(page: &str) -> Vec<Described<'_>> {
    let sections = page.split("\n### `").skip(1);
    let described = sections.filter_map(|section| {
        let (command, section) = section.split_once("`\n")?;
        Some(Described { command, section })
    });
    described.collect()
}

impl<'a> Described<'a> {
    /// What it says itself, or what the document says that it names instead.
    fn fields(&self, all: &[Described<'a>]) -> (Vec<Field<'a>>, bool) {
        let own: Vec<Field<'a>> = self.section.lines().filter_map(field).collect();
        if !own.is_empty() {
            return (own, true);
        }
        let named = code_spans(self.section).into_iter().next().unwrap_or_default();
        let other = all.iter().find(|other| other.command == named);
        let other =
            other.unwrap_or_else(|| panic!("{} is as {named:?}, which is not described", self.command));
        (other.section.lines().filter_map(field).collect(), false)
    }

    /// Every field that was printed is described, and every one that is always there was printed.
    pub(super) fn compare(&self, printed: &Value, all: &[Described<'a>]) -> Vec<String> {
        let (fields, is_its_own) = self.fields(all);
        let mut found = BTreeMap::new();
        flatten(printed, String::new(), &mut found);
        let mut wrong = Vec::new();
        for (path, types) in &found {
            match fields.iter().find(|field| is_like(field.path, path)) {
                None => wrong.push(format!("{}: | `{path}` | {types:?} | is not described", self.command)),
                Some(field) if field.types.contains("any") || types.is_subset(&field.types) => {}
                Some(field) => {
                    wrong.push(format!("{}: `{path}` is {types:?}, not {:?}", self.command, field.types))
                }
            }
        }
        let is_printed = |field: &&Field<'_>| found.keys().any(|path| is_like(field.path, path));
        let absent = fields.iter().filter(|field| is_its_own && !field.is_seldom && !is_printed(field));
        wrong.extend(absent.map(|field| format!("{}: `{}` is not printed", self.command, field.path)));
        wrong
    }
}

fn field(line: &str) -> Option<Field<'_>> {
    let (path, rest) = line.strip_prefix("| `")?.split_once("` | ")?;
    let (types, meaning) = rest.split_once(" |")?;
    let types = types.split("\\|").collect();
    Some(Field { path, types, is_seldom: meaning.trim().starts_with("(seldom)") })
}

/// `tables.users.rows` is like `tables.*.rows`.
fn is_like(described: &str, printed: &str) -> bool {
    let (described, printed): (Vec<_>, Vec<_>) =
        (described.split('.').collect(), printed.split('.').collect());
    described.len() == printed.len()
        && described.iter().zip(&printed).all(|(one, other)| *one == "*" || one == other)
}

fn flatten(value: &Value, path: String, found: &mut BTreeMap<String, BTreeSet<&'static str>>) {
    let type_name = match value {
        Value::Object(fields) => {
            for (name, value) in fields {
                let dot = if path.is_empty() { "" } else { "." };
                flatten(value, format!("{path}{dot}{name}"), found);
            }
            return;
        }
        Value::Array(items) => {
            for item in items {
                flatten(item, format!("{path}[]"), found);
            }
            return;
        }
        Value::Null => "null",
        Value::Bool(_) => "boolean",
        Value::Number(_) => "number",
        Value::String(_) => "string",
    };
    found.entry(path).or_default().insert(type_name);
}

#[test]
fn fields_are_held_against_what_was_printed() {
    let page = "\n### `a --json`\n| `x` | string\\|null | |\n| `l[].*.n` | number | |\n| `s` | string | (seldom) |\n\n### `b --json`\nAs `a --json`.\n";
    let all = described(page);
    let printed = serde_json::json!({"x": null, "l": [{"users": {"n": 1}}]});
    assert_eq!(all[0].compare(&printed, &all), Vec::<String>::new());
    assert_eq!(all[1].compare(&printed, &all), Vec::<String>::new());
    let printed = serde_json::json!({"x": 1, "y": "new"});
    assert_eq!(
        all[0].compare(&printed, &all).len(),
        3,
        "another type, an unknown field, one that is missing"
    );
}
