//! `stop`: asks the running daemon to end at the next commit boundary, and waits until it has.

use std::time::{Duration, Instant};

use serde_json::json;
use syncdata_formats::error::{Error, Kind, Result};
use syncdata_service::config::{Config, Program};
use syncdata_service::control::{self, Method};

use super::Answer;
use crate::program::daemon;

/// Ten seconds are promised; a machine under load may need more.
const PATIENCE: Duration = Duration::from_secs(60);
const PAUSE: Duration = Duration::from_millis(50);

pub async fn run(config: &Config) -> Result<Answer> {
    if daemon::ask(config, "/stop", None).await?.is_none() {
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
