//! Types whose values every server prints alike. What is not listed is not compared, and a table with such a column is
//! never called equal.

use std::collections::BTreeMap;

use crate::types::keeps_text;

/// Names as format_type prints them, without modifiers and dimensions. Their text is the same in every version that is
/// supported, on every architecture and whatever a database is called or sorted by. Absent on purpose: `"char"` (bytes
/// that are no UTF-8), jsonpath and aclitem (printed anew by major versions), money (the locale's), `reg…` (names of
/// another catalog), ranges and rows of one's own, domains and types of extensions.
const ALIKE: [&str; 58] = [
    "bigint",
    "bit",
    "bit varying",
    "boolean",
    "box",
    "bytea",
    "character",
    "character varying",
    "cid",
    "cidr",
    "circle",
    "date",
    "datemultirange",
    "daterange",
    "double precision",
    "inet",
    "int4multirange",
    "int4range",
    "int8multirange",
    "int8range",
    "integer",
    "interval",
    "json",
    "jsonb",
    "line",
    "lseg",
    "macaddr",
    "macaddr8",
    "name",
    "nummultirange",
    "numrange",
    "numeric",
    "oid",
    "path",
    "pg_lsn",
    "pg_snapshot",
    "point",
    "polygon",
    "real",
    "smallint",
    "text",
    "tid",
    "time with time zone",
    "time without time zone",
    "timestamp with time zone",
    "timestamp without time zone",
    "tsmultirange",
    "tsquery",
    "tsrange",
    "tstzmultirange",
    "tstzrange",
    "tsvector",
    "txid_snapshot",
    "uuid",
    "xid",
    "xid8",
    "xml",
    "int2vector",
];

/// Whether values of this type are printed alike everywhere. `enums` are the enum types that the relation knows: they
/// print as their labels.
pub fn prints_alike(type_name: &str, enums: &BTreeMap<String, Vec<String>>) -> bool {
    let mut name = type_name;
    while let Some(element) = name.strip_suffix("[]") {
        name = element;
    }
    if enums.contains_key(name) {
        return true;
    }
    let plain = without_modifiers(name);
    ALIKE.contains(&plain.as_str()) || plain.strip_prefix("interval ").is_some_and(is_fields)
}

/// Whether a local column prints the values of production's as production does: the same type, or a wider one.
pub fn prints_alike_here(local: &str, source: &str, enums: &BTreeMap<String, Vec<String>>) -> bool {
    let is_text = matches!(local, "text" | "character varying");
    prints_alike(source, enums) && (keeps_text(source, local) || is_text && enums.contains_key(source))
}

fn without_modifiers(name: &str) -> String {
    match name.split_once('(').and_then(|(before, after)| Some((before, after.split_once(')')?.1))) {
        Some((before, after)) => format!("{before}{after}"),
        None => name.to_owned(),
    }
}

/// `day to second` and the like.
fn is_fields(text: &str) -> bool {
    text.split(' ').all(|word| matches!(word, "year" | "month" | "day" | "hour" | "minute" | "second" | "to"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn enums() -> BTreeMap<String, Vec<String>> {
        BTreeMap::from([("public.mood".into(), vec!["sad".into()])])
    }

    #[test]
    fn only_listed_types_are_compared() {
        for (name, alike) in [
            ("integer", true),
            ("integer[][]", true),
            ("numeric(12,2)", true),
            ("character varying(10)[]", true),
            ("timestamp(3) with time zone", true),
            ("interval day to second(3)", true),
            ("interval(3)", true),
            ("public.mood", true),
            ("public.mood[]", true),
            ("public.other", false),
            ("\"char\"", false),
            ("jsonpath", false),
            ("aclitem", false),
            ("aclitem[]", false),
            ("money", false),
            ("regclass", false),
            ("citext", false),
            ("record", false),
            ("", false),
        ] {
            assert_eq!(prints_alike(name, &enums()), alike, "{name}");
        }
    }

    #[test]
    fn a_local_column_may_be_wider_and_nothing_else() {
        for (local, source, alike) in [
            ("integer", "integer", true),
            ("bigint", "integer", true),
            ("integer", "bigint", false),
            ("numeric", "numeric(12,2)", true),
            ("numeric(12,4)", "numeric(12,2)", false),
            ("double precision", "real", false),
            ("text", "character varying(9)", true),
            ("text", "boolean", false),
            ("text", "public.mood", true),
            ("public.mood", "public.mood", true),
            ("sales.mood", "public.mood", false),
            ("text", "money", false),
            ("money", "money", false),
        ] {
            assert_eq!(prints_alike_here(local, source, &enums()), alike, "{local} <- {source}");
        }
    }
}
