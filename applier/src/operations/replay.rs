//! `replay`: repairs the rows of a stretch of time, or shows that stretch in copies.

use serde_json::json;
use syncdata_formats::error::Result;
use syncdata_service::config::Config;

use super::Answer;
use crate::history::{self, Order, Report};
use crate::target::postgres::executions::{self, Came, Trigger};
use crate::target::postgres::ledger;
use crate::target::postgres::local::Local;

/// Repairs the rows that changed in the range, or, with `into`, applies the range alone to copies in that schema.
/// `confirm` is asked whether to go on, unless nothing is written.
pub async fn replay(
    config: &Config,
    order: &Order,
    into: Option<&str>,
    confirm: impl FnOnce(&str) -> Result<bool>,
) -> Result<Answer> {
    let range = order.range;
    if !order.dry_run {
        let what = match into {
            Some(schema) => format!("Replay {range} into schema {schema}"),
            None => format!("Bring the rows that changed in {range} back to what the archive says of them"),
        };
        if !confirm(&format!("{what}, at {}", config.postgres()?.location()))? {
            return Ok(Answer::declined(json!({"changed": 0})));
        }
    }

    let work = async {
        match into {
            Some(schema) => history::look(config, order, schema).await,
            None => history::repair(config, order).await,
        }
    };
    // Where nothing is written there is nothing to note.
    let done = match order.dry_run {
        true => work.await,
        false => {
            let tables = order.tables.as_ref().map(|tables| vec![tables.clone()]);
            let came =
                |report: &Report| Came::to(json!({"range": range.to_string(), "clean": report.is_clean()}));
            let kind = (executions::Kind::Replay, Trigger::Command);
            executions::noted(config, kind, tables.as_deref(), work, came).await
        }
    };
    if let Err(error) = &done
        && !order.dry_run
    {
        note_failure(config, &format!("replay {range}: {}", error.one_line())).await;
    }
    Ok(answer(&done?))
}

fn answer(report: &Report) -> Answer {
    let exit_code = u8::from(!report.is_clean());
    Answer { exit_code, ..Answer::done(report.text(), json!(report)) }
}

/// Repairs what changed in the range; whoever asked has confirmed it by asking.
pub async fn repair(config: &Config, order: &Order) -> Result<Answer> {
    let done = history::repair(config, order).await;
    if let Err(error) = &done {
        note_failure(config, &format!("replay {}: {}", order.range, error.one_line())).await;
    }
    Ok(answer(&done?))
}

/// Where the server can be reached: that it cannot may be the very failure.
async fn note_failure(config: &Config, error: &str) {
    let noted = async {
        let local = Local::open(config).await?;
        ledger::log_failure(local.session.client(), &local.meta, Some("replay"), error).await
    };
    if let Err(second) = noted.await {
        tracing::warn!(error = %second.one_line(), "the failure could not be noted in data_sync_logs");
    }
}
