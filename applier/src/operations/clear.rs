//! `clear`: empties all synced tables. Their positions stay, so that nothing fills them by itself.

use serde_json::json;
use syncdata_formats::error::Result;
use syncdata_formats::name::TableName;
use syncdata_service::config::Config;

use super::Answer;
use crate::plan::state::Event;
use crate::target::postgres::cursor;
use crate::target::postgres::emptying;
use crate::target::postgres::ledger;
use crate::target::postgres::local::Local;
use crate::target::postgres::quarantine::{self, Resolution};
use crate::target::postgres::schema;

/// `confirm` is asked whether to go on.
pub async fn clear(config: &Config, confirm: impl FnOnce(&str) -> Result<bool>) -> Result<Answer> {
    let local = Local::open(config).await?;
    let names: Vec<TableName> =
        cursor::table_states(local.session.client(), &local.meta).await?.into_keys().collect();
    if names.is_empty() {
        return Ok(Answer::done("No tables in whitelist\n".into(), json!({"cleared": []})));
    }
    if !confirm(&question(config, &names)?)? {
        return Ok(Answer::declined(json!({"cleared": []})));
    }

    local.lock_pass().await?;
    let cleared = empty(&local, &names).await?;
    let text: String = cleared.iter().map(|table| format!("cleared {table}\n")).collect();
    let cleared: Vec<String> = cleared.iter().map(ToString::to_string).collect();
    Ok(Answer::done(text, json!({ "cleared": cleared }))
        .with_words("the tables are pending: resync loads them again"))
}

fn question(config: &Config, names: &[TableName]) -> Result<String> {
    let location = config.postgres()?.location();
    let listed: Vec<String> = names.iter().map(ToString::to_string).collect();
    let file = config.settings_file();
    Ok(format!("Empty {} tables at {location} ({file}): {}", names.len(), listed.join(", ")))
}

/// All in one transaction: tables that refer to each other go together.
async fn empty(local: &Local, names: &[TableName]) -> Result<Vec<TableName>> {
    let (client, meta) = (local.session.client(), &local.meta);
    let empty = async {
        let tables = schema::load(client, names).await?;
        emptying::empty(local, &tables).await?;

        for table in names {
            let reason = Some("emptied by clear: it needs its rows again (resync)");
            cursor::change(client, meta, table, Event::Emptied, None, reason).await?;
            cursor::want_nothing(client, meta, table).await?;
            quarantine::settle(client, meta, table, Resolution::Cleared).await?;
        }
        let cleared: Vec<TableName> = tables.into_keys().collect();
        ledger::log_command(client, meta, "clear", &cleared).await?;
        Ok(cleared)
    };
    local.in_transaction(empty).await
}
