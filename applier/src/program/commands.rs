//! Commands that a running daemon carries out, where there is one; else they are carried out here.

use std::time::Duration;

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
use crate::operations::until_live::{self, Until, joined};
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

/// `wait`: until they are live, for so long.
pub(super) async fn add_tables(
    config: &Config,
    patterns: &[String],
    want: Option<Want>,
    wait: Option<Option<Duration>>,
) -> Result<Answer> {
    let asked_at = Timestamp::now();
    let wake = async || Ok(client::ask(config, &Request::Load).await?.is_some());
    let added = add_tables::add_tables(config, patterns, want, wake).await?;
    let Some(within) = wait else { return Ok(added.answer) };
    if !added.impossible.is_empty() {
        let words = format!(
            "not possible yet: {} (added; loaded as soon as there is a base)",
            added.impossible.join(", ")
        );
        let not_possible = Answer { exit_code: 2, ..Answer::done(String::new(), json!({})) };
        return Ok(joined(added.answer, not_possible.with_words(words)));
    }
    let until = Until { tables: added.tables, asked_at, within };
    // Also for those that were on the whitelist and wait.
    let loaded = match client::ask(config, &Request::Load).await? {
        Some(_) => until_live::wait(config, &until, async || client::jobs(config).await).await?,
        None => until_live::load(config.clone(), &until).await?,
    };
    Ok(joined(added.answer, loaded))
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
        Some(_) => resync::wait(&config, &resync, asked_at, async || client::jobs(&config).await).await,
        None => resync::resync(config, &resync).await,
    }
}

pub(super) async fn dead_letters(config: Config, order: DeadLetters) -> Result<Answer> {
    match client::ask(&config, &Request::DeadLetters(order.clone())).await? {
        Some(answer) => Ok(answer),
        None => dead_letters::carry_out(config, &order).await,
    }
}
