//! `add-tables`, `remove-tables`, `list-tables`: the whitelist.

use std::collections::BTreeSet;
use syncdata_service::postgres::ServerContext as _;

use serde_json::{Value, json};
use syncdata_formats::error::{Error, Kind, Result};
use syncdata_formats::name::{TableName, TablePattern};
use syncdata_service::config::Config;

use super::Answer;
use crate::load;
use crate::pass::runner;
use crate::program::daemon;
use crate::program::status;
use crate::target::postgres::cursor::{self, Checkpoint, Position, State, Want};
use crate::target::postgres::local::Local;
use crate::target::postgres::meta;

/// Where the first rows of a new table come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum From {
    /// From the newest base copy that has it; without one, from the archive's first segment
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
    let want = from.want();
    let mut words = match want {
        Some(want) => foreseen(config, &local, &new, want).await?,
        None => Vec::new(),
    };
    for table in &new {
        add_one(&local, table, position, want).await?;
    }
    if want.is_some() && !new.is_empty() && daemon::ask(config, "/load", None).await?.is_some() {
        words.push("the running daemon sees to it now".to_owned());
    }
    if !known.is_empty() {
        let known: Vec<String> = known.iter().map(ToString::to_string).collect();
        words.push(format!("on the whitelist already: {}", known.join(", ")));
    }
    let answer = named("added", &new);
    Ok(if words.is_empty() { answer } else { answer.with_words(words.join("\n")) })
}

impl From {
    /// The base that the tables wait for; none where the rows are there.
    fn want(self) -> Option<Want> {
        match self {
            From::Auto => Some(Want::Auto),
            From::Snapshot => Some(Want::Snapshot),
            From::Start => Some(Want::Start),
            From::Now => None,
        }
    }
}

/// What will come of it. A base that was asked for by name has to be there.
async fn foreseen(config: &Config, local: &Local, tables: &[TableName], want: Want) -> Result<Vec<String>> {
    let foreseen = match load::foresee(config, local, tables, want).await {
        Ok(foreseen) => foreseen,
        // Tables may be chosen before there is an archive, or while it is away.
        Err(error) => {
            return Ok(vec![format!("the archive cannot be looked at yet ({})", error.one_line())]);
        }
    };
    let mut words = Vec::new();
    for (table, words_of_it) in foreseen {
        match words_of_it {
            Ok(words_of_it) => words.push(format!("{table} {words_of_it}")),
            Err(reason) if want == Want::Auto => words.push(format!("{table}: {reason}")),
            Err(reason) => return Err(not_found(format!("{table}: {reason}"), "nothing was added")),
        }
    }
    Ok(words)
}

async fn add_one(
    local: &Local,
    table: &TableName,
    position: Option<Position>,
    want: Option<Want>,
) -> Result<()> {
    let (client, meta) = (local.session.client(), &local.meta);
    let adding = || format!("adding {table} to the whitelist");
    client.batch_execute("BEGIN").await.context(adding)?;
    // What an earlier life of the table left behind would be taken for its position.
    let forget = format!("DELETE FROM {meta}.data_sync_table_state WHERE table_name = $1");
    client.execute(&forget, &[&table.to_string()]).await.context(adding)?;
    let state = if position.is_some() { State::Live } else { State::Pending };
    cursor::set_state(client, meta, table, state, position, None).await?;
    cursor::want(client, meta, table, want).await?;
    let insert = format!(
        "INSERT INTO {meta}.tables_to_sync (table_name, creator) VALUES ($1, session_user) \
         ON CONFLICT (table_name) DO NOTHING"
    );
    client.execute(&insert, &[&table.to_string()]).await.context(adding)?;
    client.batch_execute("COMMIT").await.context(adding)?;
    Ok(())
}

/// Takes tables off the whitelist, all or none; their rows stay.
pub async fn remove(config: &Config, patterns: &[String]) -> Result<Answer> {
    let local = Local::open(config).await?;
    local.lock_pass().await?;
    let (client, meta) = (local.session.client(), &local.meta);
    let known: Vec<TableName> = cursor::table_states(client, meta).await?.into_keys().collect();
    let names = matching(&known, patterns, |stranger| {
        not_found(format!("{stranger} is not in the whitelist"), "syncdata-applier list-tables")
    })?;
    client.batch_execute("BEGIN").await.context(|| "removing tables from the whitelist".to_owned())?;
    for table in &names {
        for place in ["tables_to_sync", "data_sync_table_state", "data_sync_quarantine"] {
            let delete = format!("DELETE FROM {meta}.{place} WHERE table_name = $1");
            let removing = || format!("removing {table} from the whitelist");
            client.execute(&delete, &[&table.to_string()]).await.context(removing)?;
        }
    }
    client.batch_execute("COMMIT").await.context(|| "removing tables from the whitelist".to_owned())?;
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
    matching(&local_tables(local).await?, patterns, |stranger| {
        not_found(
            format!("Table not found locally: {stranger}"),
            "create it here as it is at the source, then add it",
        )
    })
}

/// Those of the tables that the patterns name, in the order of the patterns, each of which names one at least.
fn matching(
    tables: &[TableName],
    patterns: &[String],
    strange: impl Fn(&TablePattern) -> Error,
) -> Result<Vec<TableName>> {
    let (mut names, mut seen) = (Vec::new(), BTreeSet::new());
    for text in patterns {
        let pattern: TablePattern = text.parse()?;
        let found: Vec<&TableName> = tables.iter().filter(|table| pattern.matches(table)).collect();
        if found.is_empty() {
            return Err(strange(&pattern));
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
    let head = head.ok_or_else(|| Error::new(Kind::Foreign, "the archive has no head.json yet"))?;
    // The position means something in that archive alone.
    cursor::adopt(local.session.client(), &local.meta, head.archive_id).await?;
    Ok(Position { lsn: head.covered_lsn, commit_time: Some(head.covered_at) })
}

fn not_found(message: String, hint: &str) -> Error {
    Error::new(Kind::NotFound, message).hint(hint)
}
