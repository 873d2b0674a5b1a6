//! Settings in a file and an environment, as the tests of settings give them.

use std::collections::BTreeMap;
use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use syncdata_formats::Kind;
use syncdata_service::config::{Config, Overrides, Setting};
use tempfile::TempDir;

pub(crate) const CANARY: &str = "canary-7d1f";

pub(crate) struct SettingsFile {
    _folder: TempDir,
    pub(crate) path: PathBuf,
}

pub(crate) fn file(text: &str) -> SettingsFile {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let path = folder.path().join("syncdata.toml");
    fs::write(&path, text).expect("writable");
    chmod(&path, 0o640);
    SettingsFile { _folder: folder, path }
}

pub(crate) fn chmod(path: &Path, mode: u32) {
    fs::set_permissions(path, Permissions::from_mode(mode)).expect("our own file");
}

pub(crate) fn env(vars: &[(&str, &str)]) -> impl Fn(&str) -> Option<String> {
    let vars: BTreeMap<String, String> =
        vars.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
    move |name| vars.get(name).cloned()
}

pub(crate) fn load(text: &str, vars: &[(&str, &str)]) -> Config {
    let file = file(text);
    Config::load(Some(&file.path), env(vars), &Overrides::default()).expect("these settings are right")
}

/// The report of the refusal.
pub(crate) fn refusal(text: &str, vars: &[(&str, &str)]) -> String {
    let file = file(text);
    let error = Config::load(Some(&file.path), env(vars), &Overrides::default());
    let error = error.expect_err(&format!("accepted {text} {vars:?}"));
    assert_eq!(error.kind(), Kind::BadInput, "{error:?}");
    error.report()
}

pub(crate) fn setting(config: &Config, key: &str) -> Setting {
    config.describe().iter().find(|setting| setting.key == key).expect("every key is described").clone()
}
