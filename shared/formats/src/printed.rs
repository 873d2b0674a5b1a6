//! Names and values in statements and commands that somebody will run: whatever they contain, each stays one word of
//! one line. A line end in a name would end the comment or the command that it stands in, and what is printed on a
//! terminal shows it in another way than it is.

use std::fmt::Write as _;

use postgres_protocol::escape::{escape_identifier, escape_literal};

/// A name as a quoted SQL identifier.
pub fn identifier(name: &str) -> String {
    if !name.contains(char::is_control) {
        return escape_identifier(name);
    }
    let mut quoted = String::from("U&\"");
    for c in name.chars() {
        match c {
            '\\' => quoted.push_str("\\\\"),
            '"' => quoted.push_str("\"\""),
            // Of a NUL the server says that there is none.
            c if c.is_control() => write!(quoted, "\\{:04x}", u32::from(c)).expect("a String takes all"),
            c => quoted.push(c),
        }
    }
    quoted + "\""
}

/// A text as a quoted SQL literal.
pub fn literal(text: &str) -> String {
    if !text.contains(char::is_control) {
        return escape_literal(text).trim_start().to_owned();
    }
    let mut quoted = String::from("E'");
    for c in text.chars() {
        match c {
            '\\' => quoted.push_str("\\\\"),
            '\'' => quoted.push_str("''"),
            c if c.is_control() => write!(quoted, "\\u{:04x}", u32::from(c)).expect("a String takes all"),
            c => quoted.push(c),
        }
    }
    quoted + "'"
}

/// A line for psql that runs the statement unless the query has a row: a script of such lines can be run again.
pub fn unless(statement: &str, there: &str) -> String {
    let statement = literal(statement.trim_end_matches(';'));
    format!("SELECT {statement} WHERE NOT EXISTS ({there}) \\gexec")
}

/// A word that a shell hands on as it is.
pub fn shell_word(word: &str) -> String {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '.' | '-' | '/' | ':');
    match !word.is_empty() && word.chars().all(is_plain) && !word.starts_with('-') {
        true => word.to_owned(),
        false => format!("'{}'", word.replace('\'', "'\\''")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whatever_a_name_contains_it_is_one_word_of_one_line() {
        for (name, sql) in [
            ("users", "\"users\""),
            ("a\"b", "\"a\"\"b\""),
            ("a\\b", "\"a\\b\""),
            ("a\nb", "U&\"a\\000ab\""),
            ("a\\\n\"\u{85}", "U&\"a\\\\\\000a\"\"\\0085\""),
        ] {
            assert_eq!(identifier(name), sql);
        }
        for (text, sql) in
            [("a", "'a'"), ("it's", "'it''s'"), ("a\\b", "E'a\\\\b'"), ("a'\n\\", "E'a''\\u000a\\\\'")]
        {
            assert_eq!(literal(text), sql);
        }
        for (word, shell) in [
            ("sales.orders", "sales.orders"),
            ("", "''"),
            ("-rf", "'-rf'"),
            ("\"Users\"", "'\"Users\"'"),
            ("x; rm it's", "'x; rm it'\\''s'"),
            ("*", "'*'"),
        ] {
            assert_eq!(shell_word(word), shell);
        }
    }
}
