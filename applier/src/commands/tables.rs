//! `add-tables`, `remove-tables`, `list-tables`: the whitelist.

use std::collections::BTreeSet;

use serde_json::{Value, json};
use syncdata_shared::config::Config;
use syncdata_shared::error::{Context, Error as Shared, Kind as SharedKind};
use syncdata_shared::name::{TableName, TablePattern};

use super::{Answer, sync};
use crate::cursor::{self, Checkpoint, Position, State};
use crate::error::{Error, Kind, Result};
use crate::local::Local;
use crate::runner;
use crate::{meta, status};

/// Where the first rows of a new table come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum From {
    /// From the archive's first segment, if it still has that
    Auto,
    /// From a base copy in the archive
    Snapshot,
    /// From the archive's first segment
    Start,
    /// They are there already: loaded with pg_dump, just now
    Now,
}

/// Puts tables on the whitelist. One that is there already stays as it is.
pub async fn add(config: &Config, patterns: &[String], from: From) -> Result<Answer> {
    if from == From::Snapshot {
        return Err(Shared::new(
            SharedKind::BadInput,
            "this version does not load base copies (--from snapshot)",
        )
        .hint("load the tables with pg_dump and say --from now, or --from start while the archive has it all")
        .into());
    }
    let local = Local::open(config).await?;
    let (client, meta) = (local.session.client(), &local.meta);
    if from == From::Now {
        // A pass would move the checkpoint from under the new position.
        local.lock_pass().await?;
    }
    let names = resolve(&local, patterns).await?;
    let known = cursor::table_states(client, meta).await?;
    let (known, new): (Vec<TableName>, Vec<TableName>) =
        names.into_iter().partition(|name| known.contains_key(name));
    let position = match from {
        From::Now => Some(newest(config, &local).await?),
        From::Auto | From::Snapshot | From::Start => None,
    };
    for table in &new {
        add_one(&local, table, position).await?;
    }
    let answer = named("added", &new);
    Ok(match known.as_slice() {
        [] => answer,
        known => {
            let known: Vec<String> = known.iter().map(ToString::to_string).collect();
            answer.with_words(format!("on the whitelist already: {}", known.join(", ")))
        }
    })
}

async fn add_one(local: &Local, table: &TableName, position: Option<Position>) -> Result<()> {
    let (client, meta) = (local.session.client(), &local.meta);
    let adding = || format!("adding {table} to the whitelist");
    client.batch_execute("BEGIN").await.context(adding)?;
    // What an earlier life of the table left behind would be taken for its position.
    let forget = format!("DELETE FROM {meta}.data_sync_table_state WHERE table_name = $1");
    client.execute(&forget, &[&table.to_string()]).await.context(adding)?;
    let state = if position.is_some() { State::Live } else { State::Pending };
    cursor::set_state(client, meta, table, state, position, None).await?;
    let insert = format!(
        "INSERT INTO {meta}.tables_to_sync (table_name, creator) VALUES ($1, session_user) \
         ON CONFLICT (table_name) DO NOTHING"
    );
    client.execute(&insert, &[&table.to_string()]).await.context(adding)?;
    client.batch_execute("COMMIT").await.context(adding)?;
    Ok(())
}

/// Takes tables off the whitelist; their rows stay.
pub async fn remove(config: &Config, names: &[String]) -> Result<Answer> {
    let local = Local::open(config).await?;
    local.lock_pass().await?;
    let (client, meta) = (local.session.client(), &local.meta);
    let known = cursor::table_states(client, meta).await?;
    let names = sync::parse_names(names)?;
    if let Some(stranger) = names.iter().find(|name| !known.contains_key(name)) {
        return Err(not_found(format!("{stranger} is not in the whitelist"), "syncdata-applier list-tables"));
    }
    for table in &names {
        for place in ["tables_to_sync", "data_sync_table_state", "data_sync_quarantine"] {
            let delete = format!("DELETE FROM {meta}.{place} WHERE table_name = $1");
            let removing = || format!("removing {table} from the whitelist");
            client.execute(&delete, &[&table.to_string()]).await.context(removing)?;
        }
    }
    Ok(named("removed", &names))
}

fn named(did: &str, names: &[TableName]) -> Answer {
    let text = names.iter().map(|name| format!("{did} {name}\n")).collect();
    let names: Vec<String> = names.iter().map(ToString::to_string).collect();
    Answer::done(text, json!({ did: names }))
}

/// The whitelist, in the order in which it grew.
pub async fn list(config: &Config) -> Result<Answer> {
    let local = Local::connect(config).await?;
    if !meta::exists(&local.session, &local.meta).await? {
        return Ok(Answer::done(String::new(), json!([])));
    }
    let tables = status::Found::read(&local).await?.tables;
    let text = tables.iter().map(|table| format!("{}\n", table.table)).collect();
    let document: Value =
        tables.iter().map(|table| json!({"table": table.table, "state": table.state})).collect();
    Ok(Answer::done(text, document))
}

/// The local tables that the patterns name, in the order of the patterns.
async fn resolve(local: &Local, patterns: &[String]) -> Result<Vec<TableName>> {
    let tables = local_tables(local).await?;
    let (mut names, mut seen) = (Vec::new(), BTreeSet::new());
    for text in patterns {
        let pattern: TablePattern = text.parse()?;
        let found: Vec<&TableName> = tables.iter().filter(|table| pattern.matches(table)).collect();
        if found.is_empty() {
            return Err(not_found(
                format!("Table not found locally: {pattern}"),
                "create it here as it is at the source, then add it",
            ));
        }
        names.extend(found.into_iter().filter(|table| seen.insert((*table).clone())).cloned());
    }
    Ok(names)
}

/// Ordinary and partitioned tables, their leaves and our own left out.
async fn local_tables(local: &Local) -> Result<Vec<TableName>> {
    let select = "SELECT n.nspname::text, c.relname::text FROM pg_class c \
        JOIN pg_namespace n ON n.oid = c.relnamespace \
        WHERE c.relkind IN ('r', 'p') AND NOT c.relispartition AND c.relpersistence <> 't' \
        AND n.nspname <> 'information_schema' AND n.nspname !~ '^pg_' ORDER BY 1, 2";
    let rows = local.session.client().query(select, &[]).await;
    let mut tables = Vec::new();
    for row in rows.context(|| "listing the local tables".to_owned())? {
        let (schema, name): (&str, &str) = (row.get(0), row.get(1));
        let ours = schema == local.meta.name() && meta::TABLES.contains(&name);
        if !ours {
            tables.push(TableName::new(schema, name)?);
        }
    }
    Ok(tables)
}

/// All that is applied here, or, before anything is, all that the archive covers.
async fn newest(config: &Config, local: &Local) -> Result<Position> {
    let checkpoint = Checkpoint::read(local.session.client(), &local.meta).await?;
    if checkpoint.segment.is_some() {
        return Ok(Position { lsn: checkpoint.end_lsn(), commit_time: None });
    }
    let head = runner::source(config)?.head().await?;
    let head = head.ok_or_else(|| Error::new(Kind::ArchiveRefused, "the archive has no head.json yet"))?;
    // The position means something in that archive alone.
    cursor::adopt(local.session.client(), &local.meta, head.archive_id).await?;
    Ok(Position { lsn: head.covered_lsn, commit_time: Some(head.covered_at) })
}

fn not_found(message: String, hint: &str) -> Error {
    Shared::new(SharedKind::NotFound, message).hint(hint).into()
}
