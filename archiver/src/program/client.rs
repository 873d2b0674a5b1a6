//! Asking the running daemon, if there is one.

use syncdata_formats::{Error, Kind, Result};
use syncdata_service::checks;
use syncdata_service::config::{Config, Program};
use syncdata_service::control::{self, Method};

use crate::operations;
use crate::operations::status::Status;
use crate::poll::archiver::Archiver;
use crate::program::answer::Answer;
use crate::program::poll_log::PollLog;
use crate::spool::executions::Trigger;

/// Asks the daemon to do something; `None` when there is none.
pub(crate) async fn ask(
    config: &Config,
    path: &str,
    body: Option<&serde_json::Value>,
) -> Result<Option<Answer>> {
    let sockets = config.sockets(Program::Archiver);
    match control::call_first(&sockets, Method::Post, path, body).await? {
        None => Ok(None),
        Some(response) if response.is_success() => {
            let answer: Answer = response.read_json()?;
            match answer.error {
                // What it refuses may be what the file says already.
                Some(_) => Ok(Some(answer.with_note(older_settings(config).await?))),
                None => Ok(Some(answer)),
            }
        }
        Some(response) => {
            Err(Error::new(Kind::Refused, String::from_utf8_lossy(&response.body).trim().to_owned()))
        }
    }
}

/// How its settings differ from ours, if they do.
async fn older_settings(config: &Config) -> Result<Option<String>> {
    let running = ask_settings(config).await?.unwrap_or_default();
    let differing = checks::differing(config, &running);
    Ok((!differing.is_empty()).then(|| {
        format!("the running daemon has older settings than the file: {}; {RELOAD}", differing.join("; "))
    }))
}

pub(crate) const RELOAD: &str = "systemctl reload syncdata-archiver";

/// The settings that the daemon works with, as `config --json` prints them; `None` when there is none, or one that does
/// not tell.
pub(crate) async fn ask_settings(config: &Config) -> Result<Option<serde_json::Value>> {
    let sockets = config.sockets(Program::Archiver);
    let response = control::call_first(&sockets, Method::Post, "/settings", None).await?;
    response.filter(control::Response::is_success).map(|response| response.read_json()).transpose()
}

/// Where a daemon works that answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Works {
    Nowhere,
    /// In the spool of our settings, as far as it tells already.
    Here,
    Elsewhere,
}

/// One of another archive is none that could be asked for anything.
pub(crate) async fn daemon_works(config: &Config) -> Result<Works> {
    let sockets = config.sockets(Program::Archiver);
    let Some(response) = control::call_first(&sockets, Method::Post, "/settings", None).await? else {
        return Ok(Works::Nowhere);
    };
    if !response.is_success() {
        return Ok(Works::Here);
    }
    let running: serde_json::Value = response.read_json()?;
    let ours = config.describe_json();
    let differs = |key: &str| running[key]["value"] != ours[key]["value"];
    let of_archive =
        ["archive_host", "archive_port", "archive_user", "archive_dir", "archive_url", "archive_endpoint"];
    if let Some(key) = of_archive.into_iter().find(|key| differs(key)) {
        let (its, ours) = (&running[key]["value"], &ours[key]["value"]);
        let message = format!(
            "the running daemon has another archive than the settings: {key} is {its} there, {ours} here"
        );
        return Err(Error::new(Kind::Refused, message).hint(RELOAD));
    }
    Ok(if differs("spool_dir") { Works::Elsewhere } else { Works::Here })
}

/// The daemon's own status; `None` when there is none.
pub(crate) async fn ask_status(config: &Config) -> Result<Option<Status>> {
    let sockets = config.sockets(Program::Archiver);
    let response = control::call_first(&sockets, Method::Get, "/status", None).await?;
    response.map(|response| response.read_json()).transpose()
}

/// One poll for a command that needs it: by the running daemon, or here. It is that of the settings, always.
pub(crate) async fn poll_now(config: &Config) -> Result<()> {
    if let Some(answer) = ask(config, "/poll", None).await? {
        return match answer.exit_code {
            0 | 1 => Ok(()),
            _ => Err(Error::new(Kind::Refused, format!("the daemon could not poll: {}", answer.message))),
        };
    }
    let outcome = operations::poll::poll(&mut Archiver::new(config.clone())?, Trigger::Command).await?;
    PollLog::default().note(&outcome);
    Ok(())
}
