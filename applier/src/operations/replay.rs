//! `replay`: repairs the rows of a stretch of time, or shows that stretch in copies.

use serde_json::json;
use syncdata_formats::error::Result;
use syncdata_formats::time::Moment;
use syncdata_service::config::Config;

use super::{Answer, ask};
use crate::archive::range::TimeRange;
use crate::history::{self, Order, Report};
use crate::target::postgres::ledger;
use crate::target::postgres::local::Local;

#[derive(Clone, Debug, clap::Args)]
pub struct Arguments {
    /// From this day (its midnight UTC) or time of commit on
    #[arg(long, value_name = "T")]
    pub from: Moment,
    /// Up to, and without, this day or time
    #[arg(long, value_name = "T")]
    pub to: Moment,
    /// Tables and patterns of the whitelist, separated by commas, instead of all
    #[arg(long)]
    pub tables: Option<String>,
    /// Apply the range alone to copies of the tables in this schema, and leave the live ones as they are
    #[arg(long, value_name = "SCHEMA")]
    pub into: Option<String>,
    /// Only say what there is to do
    #[arg(long)]
    pub dry_run: bool,
    /// Do not ask
    #[arg(long)]
    pub yes: bool,
}

pub async fn run(config: &Config, arguments: Arguments) -> Result<Answer> {
    let range = TimeRange::new(Some(arguments.from), Some(arguments.to))?;
    let order = Order { range, tables: arguments.tables, dry_run: arguments.dry_run };
    if !order.dry_run && !arguments.yes {
        let what = match &arguments.into {
            Some(schema) => format!("Replay {range} into schema {schema}"),
            None => format!("Bring the rows that changed in {range} back to what the archive says of them"),
        };
        let question = format!("{what}, at {}", config.postgres()?.location());
        if !ask::confirm("replay", &question)? {
            return Ok(Answer { exit_code: 1, ..Answer::done(String::new(), json!({"changed": 0})) }
                .with_words("nothing was changed"));
        }
    }
    let done = match &arguments.into {
        Some(schema) => history::look(config, &order, schema).await,
        None => history::repair(config, &order).await,
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

/// Where the server can be reached: that it cannot may be the very failure.
async fn note_failure(config: &Config, error: &str) {
    let noted = async {
        let local = Local::open(config).await?;
        ledger::log_failure(local.session.client(), &local.meta, error).await
    };
    if let Err(second) = noted.await {
        tracing::warn!(error = %second.one_line(), "the failure could not be noted in data_sync_logs");
    }
}
