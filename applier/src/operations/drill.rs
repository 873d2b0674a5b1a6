//! `drill`: whether a table can be restored from the archive, tried before it has to be.

use serde_json::json;
use syncdata_formats::error::Result;
use syncdata_service::config::Config;

use super::Answer;
use crate::history;

pub async fn drill(config: &Config, table: Option<&str>) -> Result<Answer> {
    let table = table.map(str::parse).transpose()?;
    let drill = history::drill(config, table.as_ref()).await?;
    Ok(Answer { exit_code: drill.exit_code(), ..Answer::done(drill.text(), json!(drill)) })
}
