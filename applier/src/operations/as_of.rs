//! `as-of`: tables as they were at a moment.

use serde_json::json;
use syncdata_formats::error::Result;
use syncdata_formats::time::Moment;
use syncdata_service::config::Config;

use super::Answer;
use crate::history::{self, AsOf};

#[derive(Clone, Debug, clap::Args)]
pub struct Arguments {
    /// The moment: a day (its midnight UTC) or a time
    pub time: Moment,
    /// Where the tables are made; the live ones are left as they are
    #[arg(long, value_name = "SCHEMA")]
    pub into: String,
    /// Tables and patterns of the whitelist, separated by commas, instead of all
    #[arg(long)]
    pub tables: Option<String>,
}

pub async fn run(config: &Config, arguments: Arguments) -> Result<Answer> {
    let Arguments { time, into, tables } = arguments;
    let past = history::as_of(config, &AsOf { at: time.0, schema: into, tables }).await?;
    let exit_code = u8::from(!past.is_clean());
    Ok(Answer { exit_code, ..Answer::done(past.text(), json!(past)) })
}
