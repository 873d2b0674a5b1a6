//! `list-tables`.

use serde_json::{Value, json};
use syncdata_formats::error::Result;
use syncdata_service::config::Config;

use super::Answer;
use super::status::Found;
use crate::target::postgres::local::Local;
use crate::target::postgres::meta;

/// The whitelist, in the order in which it grew.
pub async fn list_tables(config: &Config) -> Result<Answer> {
    let local = Local::connect(config).await?;
    if !meta::exists(&local.session, &local.meta).await? {
        return Ok(Answer::done(String::new(), json!([])));
    }
    let tables = Found::read(&local).await?.tables;
    let text = tables.iter().map(|table| format!("{}\n", table.table)).collect();
    let document: Value =
        tables.iter().map(|table| json!({"table": table.table, "state": table.state})).collect();
    Ok(Answer::done(text, document))
}
