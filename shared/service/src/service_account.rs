//! Root at a shell, and a folder that belongs to the service's account: root's own files in there would be closed to the
//! service, and an account that was taken over could lead root to other files by links. So systemd runs the command as it
//! runs the unit: with its account, its folder and its secrets.

use std::collections::BTreeMap;
use std::env;
use std::ffi::{OsStr, OsString};
use std::fs;
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, ExitStatus};

use syncdata_formats::error::Context as _;
use syncdata_formats::{Error, Kind, Result};
use tokio::signal::unix::{SignalKind, signal};
use tracing::warn;

use crate::config::{Config, KEYS};
use crate::own_files::own_user;

/// Where systemd keeps the folders that units call their state.
const STATE: &str = "/var/lib";
/// Is there when systemd is what started this machine.
const BOOTED: &str = "/run/systemd/system";
/// What of a unit decides as whom it runs and what it may read.
const TAKEN_OVER: [&str; 12] = [
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
    "Environment",
    "UMask",
];
/// From here on an exit code is systemd's own: it could not start the command as the unit is.
const OF_SYSTEMD: std::ops::RangeInclusive<i32> = 200..=243;

/// Runs this command so where `folder` is in the state folder of `unit` and belongs to its account; `None` where there is
/// nothing to do.
pub async fn run_as(unit: &str, folder: &Path, config: &Config) -> Result<Option<ExitCode>> {
    if own_user() != 0 || !Path::new(BOOTED).exists() {
        return Ok(None);
    }
    // It may not be there yet: then it is made where this is.
    let Some(folder) = folder.ancestors().find(|folder| folder.exists()) else { return Ok(None) };
    if fs::metadata(folder).is_ok_and(|facts| facts.uid() == 0) {
        return Ok(None);
    }
    let Ok(shown) = Command::new("systemctl").args(["cat", unit]).output() else { return Ok(None) };
    let settings = Unit::parse(&String::from_utf8_lossy(&shown.stdout));
    if !shown.status.success() || !settings.has_state_at(folder) {
        return Ok(None);
    }
    let name = format!("{unit}-by-hand-{}.service", std::process::id());
    let mut command = Command::new("systemd-run");
    // A terminal where all three streams are one, and else the streams themselves.
    command.args(["--quiet", "--pipe", "--pty", "--wait", "--collect"]).arg(format!("--unit={name}"));
    command.args(settings.properties(unit)).args(variables(config));
    if let Ok(here) = env::current_dir() {
        // Its account may not be let in here; then paths have to be whole ones.
        let mut property = OsString::from("--property=WorkingDirectory=-");
        property.push(here);
        command.arg(property);
    }
    let program = env::current_exe().context(|| "looking for this program's file".to_owned())?;
    command.arg("--").arg(program).args(env::args_os().skip(1).map(|word| unexpanded(&word)));
    tracing::debug!(?command, "run as the service is");
    let starting = || format!("starting systemd-run, since {} belongs to the service", folder.display());
    let ended = end_of(command, &name, starting).await?;
    let code = ended.code().unwrap_or(1);
    if OF_SYSTEMD.contains(&code) {
        let message = format!("systemd could not run this as {unit} is run (status {code})");
        return Err(Error::new(Kind::Refused, message).hint(format!("journalctl -u {name} says why")));
    }
    Ok(Some(ExitCode::from(u8::try_from(code).unwrap_or(1))))
}

/// What stops us stops the command, and we wait for its end: without a terminal, nothing else tells it.
async fn end_of(mut command: Command, name: &str, starting: impl FnOnce() -> String) -> Result<ExitStatus> {
    let listen = |kind| signal(kind).context(|| "listening to signals".to_owned());
    let (mut interrupt, mut terminate) = (listen(SignalKind::interrupt())?, listen(SignalKind::terminate())?);
    let mut hangup = listen(SignalKind::hangup())?;
    let mut child = command.spawn().context(starting)?;
    let mut ended = tokio::task::spawn_blocking(move || child.wait());
    loop {
        let stop = tokio::select! {
            ended = &mut ended => {
                let waiting = || "waiting for systemd-run".to_owned();
                return ended.map_err(std::io::Error::other).and_then(|ended| ended).context(waiting);
            }
            _ = interrupt.recv() => "INT",
            _ = terminate.recv() => "TERM",
            _ = hangup.recv() => "TERM",
        };
        let told = Command::new("systemctl").args(["kill", "-s", stop, name]).status();
        if !told.is_ok_and(|status| status.success()) {
            warn!(unit = name, "it could not be stopped; it goes on until systemctl stop");
        }
    }
}

/// The settings of this shell, but for its secrets: what a unit has in its environment anybody on the machine may ask for.
fn variables(config: &Config) -> Vec<OsString> {
    let secret = KEYS.iter().filter(|key| key.secret);
    let mut secret: Vec<String> =
        secret.flat_map(|key| [Some(key.own_env()), key.env.map(str::to_owned)]).flatten().collect();
    secret.push("PGPASSWORD".to_owned());
    let is_ours =
        |name: &str| ["SYNCDATA_", "DATA_SYNC_", "PG", "TZ"].iter().any(|begin| name.starts_with(begin));
    let mut variables = Vec::new();
    for (name, value) in env::vars_os() {
        let Some(name) = name.to_str().filter(|name| is_ours(name)) else { continue };
        if secret.iter().any(|secret| secret == name) {
            warn!(name, "not handed on: the service's own secrets are used");
            continue;
        }
        let mut variable = OsString::from(format!("--setenv={name}="));
        variable.push(value);
        variables.push(variable);
    }
    // The unit may name another one.
    if let Some(file) = config.settings_path() {
        let mut variable = OsString::from("--setenv=DATA_SYNC_CONFIG=");
        variable.push(std::path::absolute(file).unwrap_or_else(|_| file.to_owned()));
        variables.push(variable);
    }
    variables
}

/// systemd puts variables in place of what begins with a dollar.
fn unexpanded(word: &OsStr) -> OsString {
    let bytes = word.as_bytes().iter();
    let doubled = bytes.flat_map(|byte| std::iter::repeat_n(*byte, 1 + usize::from(*byte == b'$')));
    OsString::from_vec(doubled.collect())
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
        for line in text.replace("\\\n", " ").lines().map(str::trim) {
            if line.starts_with('[') {
                is_service = line == "[Service]";
            }
            let is_said = is_service && !line.starts_with(['#', ';']);
            let Some((key, value)) = line.split_once('=').filter(|_| is_said) else { continue };
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
            "Environment=HOME=/var/lib/syncdata",
            "User=a",
        ];
        assert_eq!(properties, wanted.map(|property| format!("--property={property}")));
        let named = Unit::parse("[Service]\nUser=syncdata\nDynamicUser=no").properties("a");
        assert_eq!(named, ["--property=User=syncdata", "--property=DynamicUser=no"]);
    }

    #[test]
    fn a_dollar_is_a_dollar() {
        assert_eq!(unexpanded(OsStr::new("cost $5 ${x} $$")), "cost $$5 $${x} $$$$");
    }
}
