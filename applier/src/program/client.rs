//! Asking the running daemon, over its socket.

use std::time::{Duration, Instant};

use serde_json::json;
use syncdata_formats::error::{Error, Kind, Result};
use syncdata_service::config::{Config, Program};
use syncdata_service::control::{self, Method};
use syncdata_service::progress::Job;

use super::request::Request;
use crate::operations::Answer;
use crate::operations::status::Status;

/// Ten seconds are promised; a machine under load may need more.
const PATIENCE: Duration = Duration::from_secs(60);
const PAUSE: Duration = Duration::from_millis(50);

/// Has the daemon do something; `None` when there is none.
pub(super) async fn ask(config: &Config, request: &Request) -> Result<Option<Answer>> {
    let sockets = config.sockets(Program::Applier);
    match control::call_first(&sockets, Method::Post, request.path(), request.body().as_ref()).await? {
        None => Ok(None),
        Some(response) if response.is_success() => Ok(Some(response.read_json()?)),
        Some(response) => {
            let words = String::from_utf8_lossy(&response.body).trim().to_owned();
            Err(Error::new(Kind::Locked, format!("the daemon answered {}: {words}", response.status)))
        }
    }
}

/// The settings that the daemon works with, as `config --json` prints them; `None` when there is none, or one that does
/// not tell.
pub(super) async fn settings(config: &Config) -> Result<Option<serde_json::Value>> {
    let sockets = config.sockets(Program::Applier);
    let response = control::call_first(&sockets, Method::Post, "/settings", None).await?;
    response.filter(control::Response::is_success).map(|response| response.read_json()).transpose()
}

/// What the daemon does that takes time, and how far it is; `None` when there is no daemon.
pub(super) async fn jobs(config: &Config) -> Result<Option<Vec<Job>>> {
    let sockets = config.sockets(Program::Applier);
    let response = control::call_first(&sockets, Method::Post, "/jobs", None).await?;
    // An older one does not tell.
    let told = |response: control::Response| match response.is_success() {
        true => response.read_json(),
        false => Ok(Vec::new()),
    };
    response.map(told).transpose()
}

/// The daemon's own status; `None` when there is none.
pub(super) async fn status(config: &Config) -> Result<Option<Status>> {
    let sockets = config.sockets(Program::Applier);
    let response = control::call_first(&sockets, Method::Get, "/status", None).await?;
    response.map(|response| response.read_json()).transpose()
}

/// Asks the daemon to end at the next commit boundary, and waits until it has.
pub(super) async fn stop(config: &Config) -> Result<Answer> {
    if ask(config, &Request::Stop).await?.is_none() {
        return Ok(Answer::done("no daemon is running\n".into(), json!({"was_running": false})));
    }

    let deadline = Instant::now() + PATIENCE;
    while is_there(config).await {
        if Instant::now() > deadline {
            return Err(Error::new(Kind::Refused, format!("the daemon did not stop within {PATIENCE:?}"))
                .hint("look into its log; kill -9 loses nothing: what is not committed is applied again"));
        }
        tokio::time::sleep(PAUSE).await;
    }
    Ok(Answer::done("stopped\n".into(), json!({"was_running": true})))
}

/// A socket that hangs up in the middle of an answer is still one.
async fn is_there(config: &Config) -> bool {
    let sockets = config.sockets(Program::Applier);
    !matches!(control::call_first(&sockets, Method::Get, "/", None).await, Ok(None))
}
