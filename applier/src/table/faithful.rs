//! Which types take every value of another one without altering it.
//!
//! A value that does not fit is an error of the server for most types. These rules are about the others, which
//! round or cut in silence.

use syncdata_formats::types::{Type, keeps_text};

/// Whether a local column of type `local` keeps every text of type `source`, or refuses it aloud.
pub(super) fn takes(local: &str, source: &str) -> bool {
    let (local, source) = (Type::parse(local), Type::parse(source));
    if local == source || local.is_unlimited_text() {
        return true;
    }
    if local.rest != source.rest {
        return false;
    }
    match (local.name, source.name) {
        // Out of range is an error.
        ("smallint" | "integer" | "bigint", "smallint" | "integer" | "bigint") => true,
        ("numeric", "smallint" | "integer" | "bigint") => local.scale().is_none_or(|scale| scale >= 0),
        ("numeric", "numeric") => numeric_holds(&local, &source),
        ("double precision", "real") => true,
        ("numeric", "real" | "double precision") => local.modifiers.is_empty(),
        ("character varying", "character varying" | "character") => local.limit() >= source.limit(),
        (name, other) if name == other && is_time(name) => local.limit() >= source.limit(),
        ("bit varying", "bit" | "bit varying") => local.limit() >= source.limit(),
        _ => false,
    }
}

fn is_time(name: &str) -> bool {
    name.starts_with("time") || name == "interval"
}

/// `numeric(p,s)` rounds what has more digits after the point, and refuses what has more before it.
fn numeric_holds(local: &Type<'_>, source: &Type<'_>) -> bool {
    match (local.scale(), source.scale()) {
        (None, _) => true,
        (_, None) => false,
        (Some(local), Some(source)) => local >= source,
    }
}

/// Whether a column that both sides compute, by one expression, comes to the same text: each rounds and cuts what it
/// computes as its own type does.
pub(super) fn computes_alike(local: &str, source: &str) -> bool {
    let integer = |name: &str| matches!(name, "smallint" | "integer" | "bigint");
    let text = |name: &str| matches!(name, "text" | "character varying");
    local == source || integer(local) && integer(source) || text(local) && text(source)
}

/// Whether a column of ours that is made another type, however it is converted, has the values that its rows would have
/// been given as that type. (A `USING` that computes others is not seen here.)
pub(crate) fn converts_exactly(old: &str, new: &str) -> bool {
    let (before, after) = (Type::parse(old), Type::parse(new));
    let is_plain = before.rest.is_empty() && after.rest.is_empty();
    match (before.name, after.name) {
        // Out of range is an error.
        ("smallint" | "integer" | "bigint", "smallint" | "integer" | "bigint" | "numeric")
        | ("numeric", "numeric")
            if is_plain =>
        {
            takes(new, old)
        }
        ("cidr", "inet") => true,
        _ => keeps_text(old, new),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_would_round_or_cut_is_no_fit() {
        for (local, source, faithful) in [
            ("integer", "integer", true),
            ("bigint", "integer", true),
            ("integer", "bigint", true), // out of range is an error
            ("text", "character varying(10)", true),
            ("text", "jsonb", true),
            ("character varying", "text", true),
            ("character varying(10)", "character varying(5)", true),
            ("character varying(5)", "character varying(10)", false),
            ("character varying(5)", "text", false),
            ("numeric", "numeric(12,2)", true),
            ("numeric(12,4)", "numeric(12,2)", true),
            ("numeric(12,1)", "numeric(12,2)", false),
            ("numeric(12,2)", "numeric", false),
            ("numeric(12,2)", "integer", true),
            ("numeric(12,-2)", "integer", false),
            ("numeric(12,2)", "double precision", false),
            ("timestamp without time zone", "timestamp(3) without time zone", true),
            ("timestamp(3) without time zone", "timestamp without time zone", false),
            ("timestamp without time zone", "timestamp with time zone", false),
            ("timestamp(3) with time zone", "timestamp(3) with time zone", true),
            ("real", "double precision", false),
            ("double precision", "real", true),
            ("jsonb", "json", false),
            ("bit(3)", "bit(4)", false),
            ("character varying(5)[]", "character varying(10)[]", false),
            ("numeric(3,-2)", "numeric(5,-1)", false),
            ("sales.mood", "sales.mood", true),
        ] {
            assert_eq!(takes(local, source), faithful, "{local} <- {source}");
        }
    }

    #[test]
    fn what_both_compute_is_alike_where_neither_rounds_otherwise() {
        for (local, source, alike) in [
            ("numeric(10,4)", "numeric(10,4)", true),
            ("numeric(5,1)", "numeric(10,4)", false),
            ("numeric", "numeric(10,4)", false), // the source rounds
            ("bigint", "integer", true),
            ("integer", "numeric", false),
            ("text", "character varying", true),
            ("text", "character varying(5)", false),
        ] {
            assert_eq!(computes_alike(local, source), alike, "{local} {source}");
        }
    }

    #[test]
    fn a_conversion_is_exact_where_rows_would_have_been_written_so() {
        for (old, new, exact) in [
            ("integer", "smallint", true), // out of range is an error
            ("integer", "numeric(12,2)", true),
            ("numeric(12,2)", "numeric", true),
            ("numeric(12,2)", "numeric(12,4)", true),
            ("numeric", "numeric(12,2)", false),
            ("numeric[]", "numeric(12,2)[]", false),
            ("character varying(5)", "text", true),
            ("text", "character varying(5)", false), // spaces are cut in silence
            ("character(5)", "text", false),
            ("boolean", "text", false),
            ("real", "double precision", false),
            ("timestamp(0) without time zone", "timestamp without time zone", true),
            ("timestamp without time zone", "timestamp with time zone", false),
            ("cidr", "inet", true),
            ("mood", "text", false),
        ] {
            assert_eq!(converts_exactly(old, new), exact, "{old} -> {new}");
        }
    }
}
