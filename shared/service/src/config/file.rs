//! Which settings file holds: the one that is named, else the first of those that people put in the usual places.

use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use syncdata_formats::error::{Context as _, Error, Kind, Result};

use super::{KEYS, Places, Program};

/// The settings file that holds, or where one was looked for.
#[derive(Clone, Debug, Default)]
pub(super) struct Found {
    /// `None`: there is none.
    pub path: Option<PathBuf>,
    /// Where one was looked for.
    sought: Vec<PathBuf>,
}

impl Found {
    /// That one, and no other.
    pub(super) fn named(path: &Path, places: &Places) -> Found {
        Found { path: Some(places.expand(path.to_owned())), sought: Vec::new() }
    }

    /// One that may not be looked at counts as found: it is not passed over in silence.
    pub(super) fn look(program: Program, places: &Places) -> Result<Found> {
        let own = format!("{}.toml", program.short_name());
        let ours = places.config.join("syncdata");
        let sought = vec![ours.join(&own), ours.join("config.toml"), Path::new("/etc/syncdata").join(&own)];
        for path in &sought {
            match std::fs::metadata(path) {
                Ok(_) => return Ok(Found { path: Some(path.clone()), sought: Vec::new() }),
                Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => {}
                Err(error) => {
                    return Err(error)
                        .context(|| format!("looking for the settings file {}", path.display()));
                }
            }
        }
        Ok(Found { path: None, sought })
    }

    /// A setting that somebody needs is in none of the places.
    pub(super) fn lacks(&self, name: &str) -> Error {
        let key = KEYS.iter().find(|key| key.name == name).expect("a key of ours");
        let names: Vec<String> =
            [key.env.map(str::to_owned), Some(key.own_env())].into_iter().flatten().collect();
        let names = names.join(" or ");
        let line = format!("{name} = \"…\"");
        let sought: Vec<String> = self.sought.iter().map(|path| path.display().to_string()).collect();
        let (message, hint) = match (&self.path, sought.is_empty()) {
            (Some(path), _) => (
                format!("{name} is not set in {}", path.display()),
                format!("write {line} into it, or set {names} in the environment"),
            ),
            (None, false) => (
                format!("{name} is not set, and there is no settings file"),
                format!(
                    "write {line} into one of {}, name a file with --config, or set {names} in the environment",
                    sought.join(", ")
                ),
            ),
            (None, true) => (
                format!("{name} is not set"),
                format!("write {line} into the settings file, or set {names} in the environment"),
            ),
        };
        Error::new(Kind::BadInput, message).hint(hint)
    }
}
