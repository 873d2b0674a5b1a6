//! Waits until tables are live, or until the first try to make them so has failed.

use std::time::{Duration, Instant};

use serde_json::Value;
use syncdata_formats::error::{Error, Kind, Result};
use syncdata_formats::name::TableName;
use syncdata_formats::time::Timestamp;
use syncdata_service::config::Config;
use syncdata_service::progress::Job;

use super::resync::{LOOK_EVERY, Said, failures_since, is_made, outcome, troubles_since};
use super::{Answer, sync};
use crate::plan::state::TableState;
use crate::target::postgres::cursor;
use crate::target::postgres::local::Local;

/// For whom somebody waits.
#[derive(Clone, Debug)]
pub(crate) struct Until {
    pub tables: Vec<TableName>,
    pub asked_at: Timestamp,
    /// `None`: for as long as it takes.
    pub within: Option<Duration>,
}

/// Loads them here, where no daemon does.
pub(crate) async fn load(config: Config, until: &Until) -> Result<Answer> {
    let loading = sync::run(config.clone());
    let synced = match until.within {
        Some(within) => match tokio::time::timeout(within, loading).await {
            Ok(synced) => synced?,
            Err(_) => return too_late(&config, until).await,
        },
        None => loading.await?,
    };
    let local = Local::connect(&config).await?;
    let mut answer = outcome(&local, states(&local, until).await?, until.asked_at).await?;
    if synced.is_none() {
        answer = answer.with_words("stopped; the next sync goes on with it");
    }
    Ok(answer)
}

/// While a daemon loads them. `jobs` is what it does at the moment, `None` when there is no daemon any more.
pub(crate) async fn wait(
    config: &Config,
    until: &Until,
    jobs: impl AsyncFn() -> Result<Option<Vec<Job>>>,
) -> Result<Answer> {
    let local = Local::connect(config).await?;
    let (started, mut said) = (Instant::now(), Said::new());
    loop {
        // Before the tables are looked at: what is made after that is seen as such.
        let running = jobs().await?;
        let tables = states(&local, until).await?;
        let failed = failures_since(&local, until.asked_at).await?;
        let is_in_vain = |(table, state): &(TableName, TableState)| {
            failed.contains_key(table) || state.state.needs_operator()
        };
        if tables.iter().all(|(_, state)| is_made(state)) || tables.iter().any(is_in_vain) {
            return outcome(&local, tables, until.asked_at).await;
        }
        if let Some(trouble) = troubles_since(&local, until.asked_at).await?.first() {
            let answer = outcome(&local, tables, until.asked_at).await?;
            let words = format!(
                "the first try failed: {trouble}\nthe daemon goes on trying: syncdata-applier status"
            );
            return Ok(Answer { exit_code: 1, ..answer }.with_words(words));
        }
        if until.within.is_some_and(|within| started.elapsed() >= within) {
            return too_late(config, until).await;
        }
        let Some(jobs) = running else {
            let error = Error::new(Kind::Locked, "the daemon has ended before the tables were live");
            return Err(
                error.hint("it goes on with it when it is started again; or run: syncdata-applier sync")
            );
        };
        let waiting = tables.iter().filter(|(_, state)| !is_made(state)).map(|(table, _)| table.to_string());
        said.progress(&waiting.collect::<Vec<_>>().join(", "), &jobs);
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

async fn too_late(config: &Config, until: &Until) -> Result<Answer> {
    let local = Local::connect(config).await?;
    let answer = outcome(&local, states(&local, until).await?, until.asked_at).await?;
    let words = "the time is over; what was asked for is noted, and the next sync goes on with it";
    Ok(Answer { exit_code: 1, ..answer }.with_words(words))
}

async fn states(local: &Local, until: &Until) -> Result<Vec<(TableName, TableState)>> {
    let mut states = cursor::table_states(local.session.client(), &local.meta).await?;
    let state_of = |table: &TableName| match states.remove(table) {
        Some(state) => Ok((table.clone(), state)),
        None => Err(Error::new(Kind::NotFound, format!("{table} was taken off the whitelist meanwhile"))),
    };
    until.tables.iter().map(state_of).collect()
}

/// What was done before, and what came of it.
pub(crate) fn joined(added: Answer, loaded: Answer) -> Answer {
    let mut document = added.document;
    if let (Value::Object(document), Value::Object(more)) = (&mut document, loaded.document) {
        document.extend(more);
    }
    let words: Vec<String> = added.words.into_iter().chain(loaded.words).collect();
    let words = if words.is_empty() { None } else { Some(words.join("\n")) };
    let exit_code = added.exit_code.max(loaded.exit_code);
    Answer { exit_code, text: added.text + &loaded.text, document, words }
}
