//! Root at a shell, and a folder that belongs to the service's account: root's own files in there would be closed to the
//! service, and an account that was taken over could lead root to other files by links. So systemd runs the command as it
//! runs the unit: with its account, its folder and its secrets.

use std::collections::BTreeMap;
use std::env;
use std::ffi::OsString;
use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use syncdata_formats::error::Context as _;
use syncdata_formats::{Error, Result};

use crate::own_files::own_user;

/// Where systemd keeps the folders that units call their state.
const STATE: &str = "/var/lib";
/// Is there when systemd is what started this machine.
const BOOTED: &str = "/run/systemd/system";
/// What of a unit decides as whom it runs and what it may read.
const TAKEN_OVER: [&str; 11] = [
    "User",
    "DynamicUser",
    "Group",
    "SupplementaryGroups",
    "StateDirectory",
    "StateDirectoryMode",
    "LoadCredential",
    "LoadCredentialEncrypted",
    "SetCredential",
    "EnvironmentFile",
    "UMask",
];

/// Becomes that command where `folder` is the state folder of `unit` and belongs to its account; returns where there is
/// nothing to do.
pub fn take_over(folder: &Path, unit: &str) -> Result<()> {
    if own_user() != 0 || !Path::new(BOOTED).exists() {
        return Ok(());
    }
    let Ok(facts) = fs::metadata(folder) else { return Ok(()) };
    if facts.uid() == 0 {
        return Ok(());
    }
    let Ok(shown) = Command::new("systemctl").args(["cat", unit]).output() else { return Ok(()) };
    let settings = Unit::parse(&String::from_utf8_lossy(&shown.stdout));
    if !shown.status.success() || !settings.has_state_at(folder) {
        return Ok(());
    }
    let program = env::current_exe().context(|| "looking for this program's file".to_owned())?;
    let mut command = Command::new("systemd-run");
    command.args(["--quiet", "--pipe", "--pty", "--wait", "--collect"]).args(settings.properties(unit));
    if let Ok(here) = env::current_dir() {
        // Its account may not be let in here; then paths have to be whole ones.
        let mut property = OsString::from("--property=WorkingDirectory=-");
        property.push(here);
        command.arg(property);
    }
    for (name, _) in env::vars_os() {
        let is_ours = |name: &str| {
            ["SYNCDATA_", "DATA_SYNC_", "PG", "TZ", "TERM"].iter().any(|begin| name.starts_with(begin))
        };
        if let Some(name) = name.to_str().filter(|name| is_ours(name)) {
            command.arg(format!("--setenv={name}"));
        }
    }
    command.arg("--").arg(program).args(env::args_os().skip(1));
    tracing::debug!(?command, "run as the service is");
    // It returns only if it could not begin.
    let error = command.exec();
    Err(Error::io(format!("starting systemd-run, since {} belongs to the service", folder.display()), error))
}

/// What its file and the files beside it say, `systemctl edit` among them.
#[derive(Debug, Default, PartialEq, Eq)]
struct Unit {
    lines: BTreeMap<String, Vec<String>>,
}

impl Unit {
    fn parse(text: &str) -> Unit {
        let mut unit = Unit::default();
        let mut is_service = false;
        for line in text.lines().map(str::trim) {
            if line.starts_with('[') {
                is_service = line == "[Service]";
            }
            let Some((key, value)) = line.split_once('=').filter(|_| is_service && !line.starts_with('#'))
            else {
                continue;
            };
            let (key, value) = (key.trim().to_owned(), value.trim().to_owned());
            let values = unit.lines.entry(key).or_default();
            // Nothing takes back what was said before.
            if value.is_empty() {
                values.clear();
            } else {
                values.push(value);
            }
        }
        unit
    }

    fn has_state_at(&self, folder: &Path) -> bool {
        let names = self.lines.get("StateDirectory").into_iter().flatten();
        let states = names.flat_map(|names| names.split_whitespace());
        let real = |path: PathBuf| fs::canonicalize(path).ok();
        let folder = real(folder.to_owned());
        let mut states = states.filter_map(|name| real(Path::new(STATE).join(name.split(':').next()?)));
        folder.is_some_and(|folder| states.any(|state| folder.starts_with(state)))
    }

    fn properties(&self, name: &str) -> Vec<String> {
        let mut properties = Vec::new();
        for key in TAKEN_OVER {
            let values = self.lines.get(key).into_iter().flatten();
            properties.extend(values.map(|value| format!("--property={key}={value}")));
        }
        // Where a unit names none, systemd calls its account like the unit.
        if self.lines.get("User").is_none_or(Vec::is_empty) {
            properties.push(format!("--property=User={name}"));
        }
        let environment = self.lines.get("Environment").into_iter().flatten();
        properties.extend(environment.map(|value| format!("--property=Environment={value}")));
        properties
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_unit_says_is_what_its_files_say_one_after_the_other() {
        let unit = Unit::parse(
            "# /usr/lib/systemd/system/a.service\n[Unit]\nUser=not of the service\n[Service]\nDynamicUser=yes\n\
             Group=syncdata\nStateDirectory=syncdata\nLoadCredential=pg_password:/etc/a\n\
             # LoadCredential=signing_key:/etc/k\nLoadCredential=archive_identity:/etc/b\nExecStart=/usr/bin/a run\n\
             Environment=HOME=/var/lib/syncdata\n\
             # /etc/systemd/system/a.service.d/override.conf\n[Service]\nLoadCredential=\nLoadCredential=x:/etc/c\n",
        );
        let properties = unit.properties("a");
        let wanted = [
            "DynamicUser=yes",
            "Group=syncdata",
            "StateDirectory=syncdata",
            "LoadCredential=x:/etc/c",
            "User=a",
            "Environment=HOME=/var/lib/syncdata",
        ];
        assert_eq!(properties, wanted.map(|property| format!("--property={property}")));
        let named = Unit::parse("[Service]\nUser=syncdata\nDynamicUser=no").properties("a");
        assert_eq!(named, ["--property=User=syncdata", "--property=DynamicUser=no"]);
    }
}
