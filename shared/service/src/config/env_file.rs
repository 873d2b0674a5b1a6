//! A file of variables, `NAME=value` a line, as other tools keep theirs: read where `--env-file` names it, and never by
//! itself. What it says counts as the environment, after the real one.

use std::collections::BTreeMap;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use syncdata_formats::error::{Context as _, Error, Kind, Result};

use super::KEYS;
use crate::secret::refuse_if_exposed;
use crate::small_file;

/// A file of variables, as it was read.
#[derive(Debug, Default)]
pub(super) struct EnvFile {
    pub path: PathBuf,
    variables: BTreeMap<String, Variable>,
}

/// Not shown by `Debug`: it may be a password.
struct Variable {
    value: String,
    line: usize,
}

impl std::fmt::Debug for Variable {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "line {}", self.line)
    }
}

impl EnvFile {
    pub(super) fn read(path: &Path) -> Result<EnvFile> {
        let reading = || format!("reading the variables in {}", path.display());
        let mode = std::fs::metadata(path).context(reading)?.mode();
        let file = EnvFile::parse(&small_file::read_handed_over(path).context(reading)?, path)?;
        let names_of = |key: &super::Key| [Some(key.own_env()), key.env.map(str::to_owned)];
        let secrets = KEYS.iter().filter(|key| key.secret).flat_map(names_of).flatten();
        for secret in secrets.filter(|name| file.variables.contains_key(name)) {
            refuse_if_exposed(path, mode, &secret)?;
        }
        Ok(file)
    }

    /// Values are taken as they stand, nothing in them is expanded; quotes around a whole value go.
    fn parse(text: &str, path: &Path) -> Result<EnvFile> {
        let mut variables = BTreeMap::new();
        for (number, line) in (1..).zip(text.lines()) {
            let line = line.trim();
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            let line = line.strip_prefix("export ").unwrap_or(line);
            // The line may hold a password: it is not shown.
            let wrong = |what: &str| {
                let message = format!("{}:{number} is no variable: {what}", path.display());
                Error::new(Kind::BadInput, message).hint("one NAME=value a line; # begins a comment line")
            };
            let (name, value) = line.split_once('=').ok_or_else(|| wrong("there is no ="))?;
            let name = name.trim_end();
            let is_name = |c: char| c.is_ascii_alphanumeric() || c == '_';
            if name.is_empty() || !name.chars().all(is_name) {
                return Err(wrong("its name has other characters than letters, digits and _"));
            }
            let value = unquoted(value.trim()).ok_or_else(|| wrong("a quote stays open"))?;
            variables.insert(name.to_owned(), Variable { value: value.to_owned(), line: number });
        }
        Ok(EnvFile { path: path.to_owned(), variables })
    }

    /// The value and its line.
    pub(super) fn get(&self, name: &str) -> Option<(&str, usize)> {
        self.variables.get(name).map(|variable| (variable.value.as_str(), variable.line))
    }

    pub(super) fn names(&self) -> impl Iterator<Item = &String> {
        self.variables.keys()
    }
}

fn unquoted(value: &str) -> Option<&str> {
    let Some(quote) = value.chars().next().filter(|c| matches!(c, '"' | '\'')) else { return Some(value) };
    value[1..].strip_suffix(quote)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<EnvFile> {
        EnvFile::parse(text, Path::new("/srv/sync.env"))
    }

    #[test]
    fn values_are_taken_as_they_stand() {
        let text =
            "# earlier tool\n\nPG_HOST=db\nexport PG_PORT = 5433\nPG_PASSWORD=\"a=b #c$d\"\nX='it'\nEMPTY=\n";
        let file = parse(text).expect("right");
        assert_eq!(file.get("PG_HOST"), Some(("db", 3)));
        assert_eq!(file.get("PG_PORT"), Some(("5433", 4)));
        assert_eq!(file.get("PG_PASSWORD"), Some(("a=b #c$d", 5)));
        assert_eq!(file.get("X"), Some(("it", 6)));
        assert_eq!(file.get("EMPTY"), Some(("", 7)));
        assert_eq!(file.get("NONE"), None);
        assert!(!format!("{file:?}").contains("a=b"));
    }

    #[test]
    fn a_line_that_is_none_is_refused_by_its_number_and_not_shown() {
        for text in ["\nsecret-word", "\n=secret-word", "\nA B=secret-word", "\nA=\"secret-word"] {
            let report = parse(text).expect_err(text).report();
            assert!(report.contains("/srv/sync.env:2") && !report.contains("secret-word"), "{report}");
        }
    }
}
