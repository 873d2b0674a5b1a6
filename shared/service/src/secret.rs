//! A text that no log, message or listing can show.

use std::fmt;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use serde::{Serialize, Serializer};
use syncdata_formats::error::{Context as _, Error, Kind, Result};

use crate::small_file;

/// What stands in a secret's place.
pub const MASK: &str = "***";

/// Printing, debugging and serializing give the mask; `expose` is the only way to the text, and easy to
/// search for.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    pub fn new(text: impl Into<String>) -> Secret {
        Secret(text.into())
    }

    pub fn expose(&self) -> &str {
        &self.0
    }

    /// What a file has that a setting names: a password in one line.
    pub fn of_file(key: &str, path: &Path) -> Result<Secret> {
        let doing = || format!("reading {key} {}", path.display());
        let file = small_file::open_plain(path).context(doing)?;
        refuse_if_exposed(path, file.metadata().context(doing)?.mode(), "a secret")?;
        let text = small_file::read_opened_text(file, path).context(doing)?;
        let text = text.trim_end_matches(['\r', '\n']);
        if text.is_empty() || text.contains(['\r', '\n', '\0']) {
            let message = format!("{key} {} does not hold one line", path.display());
            return Err(
                Error::new(Kind::BadInput, message).hint("the secret stands in it alone, in one line")
            );
        }
        Ok(Secret::new(text))
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(MASK)
    }
}

impl fmt::Display for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(MASK)
    }
}

impl Serialize for Secret {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(MASK)
    }
}

/// A file with a secret in it that everybody may read is refused.
pub(crate) fn refuse_if_exposed(path: &Path, mode: u32, secret: &str) -> Result<()> {
    if mode & 0o007 == 0 {
        return Ok(());
    }
    let message = format!(
        "{} contains {secret} and everybody may read it (mode {:04o})",
        path.display(),
        mode & 0o7777
    );
    Err(Error::new(Kind::BadInput, message).hint(format!("chmod 0640 {}", path.display())))
}
