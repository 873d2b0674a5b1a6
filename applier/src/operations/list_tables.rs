//! `list-tables`.

use serde_json::{Value, json};
use syncdata_formats::error::Result;
use syncdata_service::config::Config;
use syncdata_service::postgres::ServerContext as _;

use super::Answer;
use super::status::Found;
use crate::target::postgres::local::Local;
use crate::target::postgres::meta;

/// The whitelist, in the order in which it grew.
pub async fn list_tables(config: &Config) -> Result<Answer> {
    let local = Local::connect(config).await?;
    if !meta::exists(&local.session, &local.meta).await? {
        return earlier(&local).await;
    }
    let tables = Found::read(&local).await?.tables;
    let text = tables.iter().map(|table| format!("{}\n", table.table)).collect();
    let document: Value =
        tables.iter().map(|table| json!({"table": table.table, "state": table.state})).collect();
    Ok(Answer::done(text, document))
}

/// Nothing of ours is there yet; an earlier tool may have left its whitelist, which ours goes on with.
async fn earlier(local: &Local) -> Result<Answer> {
    let (client, meta) = (local.session.client(), &local.meta);
    let doing = || "reading the earlier whitelist".to_owned();
    let name = format!("{meta}.tables_to_sync");
    let there = "SELECT pg_catalog.to_regclass($1) IS NOT NULL";
    let is_there: bool = client.query_one(there, &[&name]).await.context(doing)?.get(0);
    if !is_there {
        return Ok(Answer::done(String::new(), json!([])));
    }
    let rows = client.query(&format!("SELECT table_name::text FROM {name} ORDER BY id"), &[]).await;
    let names: Vec<String> = rows.context(doing)?.iter().map(|row| row.get(0)).collect();
    let text = names.iter().map(|name| format!("{name}\n")).collect();
    let document: Value = names.iter().map(|name| json!({"table": name, "state": null})).collect();
    let words = "a whitelist of an earlier tool: the next add-tables, sync or start goes on with it";
    Ok(Answer::done(text, document).with_words(words))
}
