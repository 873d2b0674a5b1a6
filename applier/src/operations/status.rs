//! `status`: from the running daemon, else from the database.

use serde_json::json;
use syncdata_formats::error::Result;
use syncdata_service::config::Config;

use super::Answer;
use crate::program::daemon;
use crate::program::status::{Found, Status};
use crate::target::postgres::local::Local;
use crate::target::postgres::meta;

pub async fn run(config: &Config) -> Result<Answer> {
    let status = match daemon::ask_status(config).await? {
        Some(status) => status,
        None => without_daemon(config).await,
    };
    let exit_code = u8::from(!status.healthy);
    Ok(Answer { exit_code, ..Answer::done(status.text(), json!(status)) })
}

async fn without_daemon(config: &Config) -> Status {
    let mut status = daemon::not_started(config);
    let found = match found(config).await {
        Ok(found) => found,
        Err(error) => {
            status.problems.push(error.one_line());
            Found::default()
        }
    };
    status.last_sync = found.copy.applied_at;
    status.with(found)
}

async fn found(config: &Config) -> Result<Found> {
    let local = Local::connect(config).await?;
    if meta::exists(&local.session, &local.meta).await? {
        Found::read(&local).await
    } else {
        Ok(Found::default())
    }
}
