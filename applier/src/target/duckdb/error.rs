//! What DuckDB says, as an error of ours. It may quote values of rows, which belong into no log.

use syncdata_formats::error::{Error, Kind};

/// What DuckDB's messages begin with where they are about the file, the machine or our own statement, and never about a value.
const ABOUT_NO_ROW: [&str; 9] = [
    "IO Error",
    "Out of Memory Error",
    "Catalog Error",
    "Binder Error",
    "TransactionContext Error",
    "Transaction Error",
    "Dependency Error",
    "Serialization Error",
    "Permission Error",
];

/// `doing` is what was tried: `opening copy.duckdb`.
pub(super) fn failed(doing: impl Into<String>, error: &duckdb::Error) -> Error {
    let said = error.to_string();
    let (kind, hint) = judged(&said);
    let error = Error::new(kind, doing).caused_by(Said(words(&said)));
    match hint {
        Some(hint) => error.hint(hint),
        None => error,
    }
}

/// Adds what was tried to an error of DuckDB.
pub(super) trait DuckdbContext<T> {
    fn context(self, doing: impl FnOnce() -> String) -> syncdata_formats::error::Result<T>;
}

impl<T> DuckdbContext<T> for Result<T, duckdb::Error> {
    fn context(self, doing: impl FnOnce() -> String) -> syncdata_formats::error::Result<T> {
        self.map_err(|error| failed(doing(), &error))
    }
}

/// DuckDB's words without the values of rows.
#[derive(Debug)]
struct Said(String);

impl std::fmt::Display for Said {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Said {}

fn words(said: &str) -> String {
    let line = said.lines().next().unwrap_or_default();
    if ABOUT_NO_ROW.iter().any(|begin| line.starts_with(begin)) {
        return line.to_owned();
    }
    match line.split_once(": ") {
        Some((kind, _)) if kind.ends_with("Error") => format!("DuckDB: {kind}"),
        _ => "DuckDB refused it".to_owned(),
    }
}

fn judged(said: &str) -> (Kind, Option<&'static str>) {
    let is = |word: &str| said.contains(word);
    if is("Could not set lock on file") {
        let hint = "one process owns the file, and nobody else can open it meanwhile: end that one, or read the published copy";
        return (Kind::Locked, Some(hint));
    }
    if is("No space left on device") || is("Disk quota exceeded") {
        return (Kind::NoSpace, Some("make room where the file lies"));
    }
    if said.starts_with("Out of Memory Error") {
        return (Kind::NoSpace, Some("raise duckdb_memory_limit, or lower apply_batch_changes"));
    }
    if said.starts_with("INTERRUPT") {
        return (Kind::Locked, None);
    }
    (Kind::Io, None)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_about_rows_are_left_out() {
        assert_eq!(
            words("Conversion Error: Could not convert string 'secret' to INT32\nLINE 1"),
            "DuckDB: Conversion Error"
        );
        assert_eq!(words("IO Error: Cannot open file \"x\"\nmore"), "IO Error: Cannot open file \"x\"");
        assert_eq!(words("secret: words"), "DuckDB refused it");
    }

    #[test]
    fn a_file_of_somebody_else_is_waited_for_and_a_full_disk_too() {
        let kind = |said| judged(said).0;
        assert_eq!(
            kind("IO Error: Could not set lock on file \"x\": Conflicting lock is held"),
            Kind::Locked
        );
        assert_eq!(kind("IO Error: Could not write: No space left on device"), Kind::NoSpace);
        assert_eq!(kind("Constraint Error: secret"), Kind::Io);
    }
}
