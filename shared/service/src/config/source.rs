//! Where settings are found: the file, credentials of the service manager, the environment, the command
//! line. The last one wins.

use std::collections::BTreeMap;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use toml::de::{DeTable, DeValue};

use super::env_file::EnvFile;
use super::key::{self, KEYS, Key};
use super::raw::{Given, Origin, RawValue};
use super::rules::Rules;
use crate::secret::refuse_if_exposed;
use crate::small_file;
use syncdata_formats::error::{Context, Error, Kind, Result};

/// What a settings file says.
#[derive(Debug, Default)]
pub(super) struct SettingsFile {
    settings: BTreeMap<&'static str, Given>,
    pub(super) rules: Rules,
}

impl SettingsFile {
    pub(super) fn read(path: &Path) -> Result<SettingsFile> {
        let reading = || format!("reading the settings file {}", path.display());
        let metadata = std::fs::metadata(path).context(reading)?;
        let text = small_file::read_handed_over(path).context(reading)?;
        let file = SettingsFile::parse(&text, path)?;
        file.refuse_if_exposed(path, metadata.mode())?;
        Ok(file)
    }

    pub(super) fn parse(text: &str, path: &Path) -> Result<SettingsFile> {
        // The error's own text quotes the line, which may hold a password.
        let table = DeTable::parse(text).map_err(|error| {
            let line = error.span().map_or(1, |span| line_of(text, span.start));
            Error::new(Kind::BadInput, format!("{}:{line} is not TOML: {}", path.display(), error.message()))
        })?;
        let mut settings: BTreeMap<&'static str, Given> = BTreeMap::new();
        let mut rules = Rules::default();
        for (name, value) in table.get_ref() {
            let origin = Origin::File { path: path.to_owned(), line: line_of(text, name.span().start) };
            if name.get_ref() == "rules" {
                rules = Rules::read(value.get_ref(), origin, |place| Origin::File {
                    path: path.to_owned(),
                    line: line_of(text, place),
                })?;
                continue;
            }
            let key =
                key::key_or_earlier(name.get_ref()).ok_or_else(|| unknown_key(name.get_ref(), &origin))?;
            let value =
                raw_value(key, value.get_ref()).ok_or_else(|| wrong_type(key, value.get_ref(), &origin))?;
            if let Some(other) = settings.get(key.name) {
                let message = format!("{} is said twice: {} and {origin}", key.name, other.origin);
                return Err(Error::new(Kind::BadInput, message).hint("take one of the two lines out"));
            }
            settings.insert(key.name, Given { value, origin });
        }
        Ok(SettingsFile { settings, rules })
    }

    pub(super) fn get(&self, key: &Key) -> Option<Given> {
        self.settings.get(key.name).cloned()
    }

    fn refuse_if_exposed(&self, path: &Path, mode: u32) -> Result<()> {
        match KEYS.iter().find(|key| key.secret && self.settings.contains_key(key.name)) {
            Some(key) => refuse_if_exposed(path, mode, key.name),
            None => Ok(()),
        }
    }
}

fn line_of(text: &str, offset: usize) -> usize {
    1 + text.bytes().take(offset).filter(|byte| *byte == b'\n').count()
}

fn unknown_key(name: &str, origin: &Origin) -> Error {
    let error = Error::new(Kind::BadInput, format!("{name:?} is not a setting ({origin})"));
    match nearest_key(name) {
        Some(nearest) => error.hint(format!("did you mean {nearest}?")),
        None => error.hint("docs/settings.md lists all settings"),
    }
}

fn nearest_key(name: &str) -> Option<&'static str> {
    let near = |key: &'static Key| (strsim::jaro_winkler(&name.to_lowercase(), key.name), key.name);
    let best = KEYS.iter().map(near).max_by(|a, b| a.0.total_cmp(&b.0))?;
    // Below that, the suggestion would be a guess.
    (best.0 > 0.8).then_some(best.1)
}

/// Variables that begin like ours, are no setting, and look like one.
pub(super) fn misspelt(names: impl Iterator<Item = String>) -> Vec<(String, String)> {
    let meant = |name: &String| {
        let written = name.strip_prefix("SYNCDATA_")?.to_lowercase();
        let nearest = nearest_key(&written).filter(|nearest| *nearest != written)?;
        key::key(nearest).map(Key::own_env)
    };
    names.filter_map(|name| meant(&name).map(|meant| (name, meant))).collect()
}

fn wrong_type(key: &Key, value: &DeValue<'_>, origin: &Origin) -> Error {
    Error::new(Kind::BadInput, format!("{} cannot be a TOML {} ({origin})", key.name, value.type_str()))
        .hint(format!("{}: {}", key.name, key.meaning))
}

/// Only what may be true or have a point is taken as such.
fn raw_value(key: &Key, value: &DeValue<'_>) -> Option<RawValue> {
    match value {
        DeValue::String(text) => Some(RawValue::Text(text.to_string())),
        DeValue::Integer(number) => {
            i64::from_str_radix(number.as_str(), number.radix()).ok().map(RawValue::Number)
        }
        DeValue::Array(items) => {
            let items = items.iter().map(|item| item.get_ref().as_str().map(str::to_owned));
            items.collect::<Option<Vec<String>>>().map(RawValue::List)
        }
        DeValue::Boolean(is) if matches!(key.default, key::Default::Text("true" | "false")) => {
            Some(RawValue::Bool(*is))
        }
        DeValue::Float(number) if matches!(key.default, key::Default::Text(text) if text.contains('.')) => {
            Some(RawValue::Decimal(number.as_str().to_owned()))
        }
        DeValue::Float(_) | DeValue::Boolean(_) | DeValue::Datetime(_) | DeValue::Table(_) => None,
    }
}

/// What the command line says about settings, such as `--tables a,b`.
#[derive(Clone, Debug, Default)]
pub struct Overrides(BTreeMap<&'static str, String>);

impl Overrides {
    pub fn set(&mut self, key: &'static str, text: impl Into<String>) {
        assert!(key::key(key).is_some(), "{key} is no setting");
        self.0.insert(key, text.into());
    }

    pub(super) fn get(&self, key: &Key) -> Option<Given> {
        let text = self.0.get(key.name)?.clone();
        Some(Given { value: RawValue::Text(text), origin: Origin::CommandLine })
    }
}

/// An empty variable is as good as none: that is how container and unit files leave one out.
pub(super) fn from_environment(key: &Key, env: &impl Fn(&str) -> Option<String>) -> Option<Given> {
    let names = [Some(key.own_env()), key.env.map(str::to_owned)];
    names.into_iter().flatten().find_map(|name| {
        let text = env(&name).filter(|text| !text.is_empty())?;
        Some(Given { value: RawValue::Text(text), origin: Origin::Environment(name) })
    })
}

/// The same, of a file of variables.
pub(super) fn from_env_file(key: &Key, file: &EnvFile) -> Option<Given> {
    let names = [Some(key.own_env()), key.env.map(str::to_owned)];
    names.into_iter().flatten().find_map(|name| {
        let (text, line) = file.get(&name).filter(|(text, _)| !text.is_empty())?;
        let origin = Origin::EnvFile { path: file.path.clone(), line };
        Some(Given { value: RawValue::Text(text.to_owned()), origin })
    })
}

/// systemd's `LoadCredential=`: files that only this service can read.
#[derive(Debug, Default)]
pub(super) struct Credentials(BTreeMap<&'static str, Given>);

impl Credentials {
    pub(super) fn read(folder: Option<&Path>) -> Result<Credentials> {
        let mut credentials = BTreeMap::new();
        for (name, key) in [
            ("pg_password", "pg_password"),
            ("archive_identity", "archive_identity_file"),
            ("archive_identity_passphrase", "archive_identity_passphrase"),
            ("archive_credentials", "archive_credentials_file"),
            ("signing_key", "signing_key"),
            ("api_token", "api_token_file"),
        ] {
            let Some(path) = folder.map(|folder| folder.join(name)).filter(|path| path.exists()) else {
                continue;
            };
            let is_secret = key::key(key).is_some_and(|key| key.secret);
            // A key is used where it lies; of a secret the content counts.
            let text = if is_secret { read_secret(&path)? } else { path.display().to_string() };
            credentials.insert(key, Given { value: RawValue::Text(text), origin: Origin::Credential(path) });
        }
        Ok(Credentials(credentials))
    }

    pub(super) fn get(&self, key: &Key) -> Option<Given> {
        self.0.get(key.name).cloned()
    }
}

fn read_secret(path: &Path) -> Result<String> {
    let text =
        small_file::read_text(path).context(|| format!("reading the credential {}", path.display()))?;
    Ok(text.trim_end_matches(['\r', '\n']).to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::file::Found;
    use crate::config::{Places, check, s3};

    /// Whatever the file holds, it is understood whole or refused with a line for the operator.
    #[test]
    fn fuzz_settings() {
        syncdata_fuzz::replay("settings", |bytes| {
            let text = String::from_utf8_lossy(bytes);
            let Ok(file) = SettingsFile::parse(&text, Path::new("/etc/syncdata.toml")) else { return false };
            let found = |key: &Key| file.get(key);
            let rules = file.rules.clone();
            let around = check::Around {
                file: Found::default(),
                places: Places::find(&|_| None),
                usual: s3::Usual::default(),
                backup_dir: None,
            };
            let checked = check::check(&found, rules, around);
            if let Err(error) = &checked {
                assert!(!error.one_line().is_empty());
            }
            checked.is_ok()
        });
    }

    #[test]
    fn a_variable_that_looks_like_a_setting_is_noticed() {
        let names =
            ["SYNCDATA_PG_HOTS", "SYNCDATA_PG_HOST", "SYNCDATA_FAULTS", "SYNCDATA_TEST_PG", "PG_HOTS"];
        let found = misspelt(names.into_iter().map(str::to_owned));
        assert_eq!(found, [("SYNCDATA_PG_HOTS".to_owned(), "SYNCDATA_PG_HOST".to_owned())]);
    }
}
