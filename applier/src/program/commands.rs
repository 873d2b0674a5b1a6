//! Commands that a running daemon carries out, where there is one; else they are carried out here.

use serde_json::json;
use syncdata_formats::error::Result;
use syncdata_formats::time::Timestamp;
use syncdata_service::config::Config;

use super::request::Request;
use super::{client, status as view};
use crate::operations::Answer;
use crate::operations::add_tables;
use crate::operations::dead_letters::{self, DeadLetters};
use crate::operations::resync::{self, Resync};
use crate::operations::retry::{self, Retry};
use crate::operations::status;
use crate::operations::sync;
use crate::plan::state::Want;

pub(super) async fn status(config: &Config) -> Result<Answer> {
    let status = match client::status(config).await? {
        Some(status) => status,
        None => status::status(config).await,
    };
    let exit_code = u8::from(!status.healthy);
    Ok(Answer { exit_code, ..Answer::done(view::text(&status), json!(status)) })
}

pub(super) async fn sync(config: Config) -> Result<Answer> {
    match client::ask(&config, &Request::Sync).await? {
        Some(answer) => Ok(answer),
        None => sync::sync(config).await,
    }
}

pub(super) async fn add_tables(config: &Config, patterns: &[String], want: Option<Want>) -> Result<Answer> {
    let wake = async || Ok(client::ask(config, &Request::Load).await?.is_some());
    add_tables::add_tables(config, patterns, want, wake).await
}

pub(super) async fn retry(config: Config, retry: Retry) -> Result<Answer> {
    match client::ask(&config, &Request::Retry(retry.clone())).await? {
        Some(answer) => Ok(answer),
        None => retry::retry(config, &retry).await,
    }
}

pub(super) async fn resync(config: Config, resync: Resync) -> Result<Answer> {
    let asked_at = Timestamp::now();
    match client::ask(&config, &Request::Resync(resync.clone())).await? {
        Some(answer) if answer.exit_code != 0 => Ok(answer),
        Some(_) => {
            let is_running = async || Ok(client::status(&config).await?.is_some());
            resync::wait(&config, &resync, asked_at, is_running).await
        }
        None => resync::resync(config, &resync).await,
    }
}

pub(super) async fn dead_letters(config: Config, order: DeadLetters) -> Result<Answer> {
    match client::ask(&config, &Request::DeadLetters(order.clone())).await? {
        Some(answer) => Ok(answer),
        None => dead_letters::carry_out(config, &order).await,
    }
}
