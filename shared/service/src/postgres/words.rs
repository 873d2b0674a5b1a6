//! What the server said, without what it quotes: its messages, details and contexts hold values of rows, and what is
//! printed or logged is read by people who may not see them.

use tokio_postgres::error::DbError;

/// What happened and where, in our own words wherever the server's may quote a row: a table, a column, a constraint, a
/// line, the SQLSTATE.
pub(super) fn of(error: &DbError, is_of_our_tables: bool) -> String {
    let code = error.code().code();
    let quotes = !is_of_our_tables && may_quote_rows(error);
    let what = if quotes { condition(code) } else { error.message() };
    let mut words = format!("{}: {what}", error.severity());
    // Where the server's own message is printed it names them.
    let named = [("table", error.table()), ("column", column(error)), ("constraint", error.constraint())];
    for (what, name) in named.into_iter().filter(|_| quotes) {
        if let Some(name) = name {
            words.push_str(&format!(", {what} \"{name}\""));
        }
    }
    if let Some(line) = copied_line(error) {
        words.push_str(&format!(", line {line} of the rows that were sent"));
    }
    words.push_str(&format!(" (SQLSTATE {code})"));
    words
}

/// Everything that the server said, values of rows included.
pub(super) fn whole(error: &DbError) -> String {
    let mut words = format!("{}: {} (SQLSTATE {})", error.severity(), error.message(), error.code().code());
    for (what, more) in [("DETAIL", error.detail()), ("HINT", error.hint()), ("CONTEXT", error.where_())] {
        if let Some(more) = more {
            words.push_str(&format!("; {what}: {more}"));
        }
    }
    words
}

fn may_quote_rows(error: &DbError) -> bool {
    is_of_a_function(error) || !has_plain_words(error)
}

/// Functions of the database, triggers among them, say what they like under any code.
fn is_of_a_function(error: &DbError) -> bool {
    let raised = error.routine().is_some_and(|routine| {
        routine == "exec_stmt_raise" || ["PLy", "plperl", "pltcl"].iter().any(|pl| routine.starts_with(pl))
    });
    // Statements that they run are of their making, with values in them. COPY names its line there, a decoding slot its
    // plugin, a parameter its number.
    let context = error.where_().unwrap_or_default();
    let runs_statements =
        ["PL/", "SQL function", "SQL statement"].iter().any(|words| context.contains(words));
    raised || runs_statements || error.position().is_some_and(is_internal)
}

/// A statement that is not the one that we sent.
fn is_internal(position: &tokio_postgres::error::ErrorPosition) -> bool {
    matches!(position, tokio_postgres::error::ErrorPosition::Internal { .. })
}

/// Of these classes the server's messages speak of objects, settings and itself.
fn has_plain_words(error: &DbError) -> bool {
    match error.code().code().get(..2).unwrap_or_default() {
        "00" | "01" | "02" | "03" | "08" | "0A" | "0L" | "0P" | "23" | "25" | "26" | "28" | "2B" | "2D"
        | "34" | "3B" | "3D" | "3F" | "40" | "42" | "53" | "54" | "55" | "57" | "58" | "F0" => true,
        // Internal errors name what is broken; what they quote may be anything.
        "XX" => !error.message().contains(['"', '\'', '«', '»', '„', '“', '”']),
        _ => false,
    }
}

/// What the code means, for the codes that rows lead to.
fn condition(code: &str) -> &'static str {
    match code {
        "22001" => "a value is too long for its type",
        "22003" => "a number is out of range for its type",
        "22007" => "a value is no date or time",
        "22008" => "a date or time is out of range",
        "22021" => "a value has bytes that are no characters",
        "22P05" => "a value has a character that the encoding of the database has not",
        "22P02" => "a value cannot be read as its type",
        "22P03" | "22P04" => "the rows are not as COPY takes them",
        "P0001" => "a function of the database refused it",
        code => match code.get(..2).unwrap_or_default() {
            "22" => "a value does not fit its type",
            "23" => "a constraint is violated",
            "XX" => "an internal error of the server",
            _ => "the server's words may quote rows and are not repeated",
        },
    }
}

/// A constraint's column is named; that of a COPY, in its context: `COPY users, line 3, column id: "x"`.
fn column(error: &DbError) -> Option<&str> {
    let copied = || {
        let (_, rest) = copy_context(error)?.split_once(", column ")?;
        rest.split_once(": ").map(|(name, _)| name).or(Some(rest))
    };
    error.column().or_else(copied)
}

fn copied_line(error: &DbError) -> Option<u64> {
    let (_, rest) = copy_context(error)?.split_once(", line ")?;
    let digits = rest.find(|c: char| !c.is_ascii_digit()).unwrap_or(rest.len());
    rest[..digits].parse().ok()
}

/// Only as far as the names go: what follows the first colon is a value.
fn copy_context(error: &DbError) -> Option<&str> {
    let context = error.where_()?.lines().next()?;
    let names = context.split_once(": \"").map_or(context, |(names, _)| names);
    names.starts_with("COPY ").then_some(names)
}
