//! Which types take every value of another one without altering it.
//!
//! A value that does not fit is an error of the server for most types. These rules are about the others, which
//! round or cut in silence.

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
        ("numeric", "smallint" | "integer" | "bigint") => true,
        ("numeric", "numeric") => numeric_holds(&local.modifiers, &source.modifiers),
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
fn numeric_holds(local: &[u32], source: &[u32]) -> bool {
    match (local, source) {
        ([], _) => true,
        (_, []) => false,
        (local, source) => local.get(1).unwrap_or(&0) >= source.get(1).unwrap_or(&0),
    }
}

/// `character varying(20)`, `timestamp(3) with time zone`, `numeric(12,2)`, taken apart.
#[derive(PartialEq, Eq)]
struct Type<'a> {
    name: &'a str,
    /// What follows the modifiers: `with time zone`, `[]`.
    rest: &'a str,
    modifiers: Vec<u32>,
}

impl<'a> Type<'a> {
    fn parse(text: &'a str) -> Type<'a> {
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

    fn is_unlimited_text(&self) -> bool {
        self.modifiers.is_empty() && self.rest.is_empty() && matches!(self.name, "text" | "character varying")
    }

    /// Types without a limit take the longest there is.
    fn limit(&self) -> u32 {
        self.modifiers.first().copied().unwrap_or(u32::MAX)
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
            ("sales.mood", "sales.mood", true),
        ] {
            assert_eq!(takes(local, source), faithful, "{local} <- {source}");
        }
    }
}
