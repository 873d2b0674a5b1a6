//! `list-tables`.

use std::time::Duration;

use serde_json::{Value, json};
use syncdata_formats::error::Result;
use syncdata_service::config::Config;
use syncdata_service::postgres::ServerContext as _;

use super::Answer;
use super::status::Found;
use crate::target::postgres::cursor::Cursor;
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

/// Names that a shell offers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Names {
    /// On the whitelist.
    Synced,
    /// What production captures, as far as it is known here, and the whitelist has not.
    Captured,
}

/// Nobody waits for them, and nobody reads why there are none.
pub async fn names(config: &Config, wanted: Names) -> Answer {
    const PATIENCE: Duration = Duration::from_secs(2);
    let found = tokio::time::timeout(PATIENCE, find(config, wanted)).await;
    let names = found.ok().and_then(Result::ok).unwrap_or_default();
    let text = names.iter().map(|name| format!("{name}\n")).collect();
    Answer::done(text, json!(names))
}

async fn find(config: &Config, wanted: Names) -> Result<Vec<String>> {
    let synced = list_tables(config).await?.document;
    let synced: Vec<String> = synced
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(|table| table["table"].as_str().map(str::to_owned))
        .collect();
    if wanted == Names::Synced {
        return Ok(synced);
    }
    let local = Local::connect(config).await?;
    let captured = Cursor::of(&local.meta).capture_since(local.session.client()).await?;
    Ok(captured.keys().map(ToString::to_string).filter(|name| !synced.contains(name)).collect())
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
