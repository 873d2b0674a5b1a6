//! `add-tables`.

use syncdata_formats::error::{Error, Kind, Result};
use syncdata_formats::name::TableName;
use syncdata_service::config::Config;
use syncdata_service::postgres::ServerContext as _;

use super::Answer;
use super::whitelist::{matching, named, not_found};
use crate::archive;
use crate::load;
use crate::plan::state::{Event, Want};
use crate::target::postgres::cursor::{self, Cursor, Position};
use crate::target::postgres::identity;
use crate::target::postgres::ledger;
use crate::target::postgres::local::Local;
use crate::target::postgres::lost::Lost;
use crate::target::postgres::meta;
use crate::target::postgres::others;

/// What came of it.
#[derive(Clone, Debug)]
pub struct Added {
    pub answer: Answer,
    /// All that were named, the new ones and those that were there already.
    pub tables: Vec<TableName>,
    /// Why new ones have no base yet to be loaded from.
    pub impossible: Vec<String>,
}

/// Puts tables on the whitelist. One that is there already stays as it is. `want` is the base that their first rows come
/// from, `None` where they are there already. `wake` has a running daemon load them, and says whether there is one.
pub async fn add_tables(
    config: &Config,
    patterns: &[String],
    want: Option<Want>,
    wake: impl AsyncFnOnce() -> Result<bool>,
) -> Result<Added> {
    let local = Local::open(config).await?;
    let (client, meta) = (local.session.client(), &local.meta);
    if want.is_none() {
        // A pass would move the checkpoint from under the new position.
        local.lock_pass().await?;
    }
    let names = resolve(&local, patterns).await?;
    let known = cursor::table_states(client, meta).await?;
    let tables = names.clone();
    let (known, new): (Vec<TableName>, Vec<TableName>) =
        names.into_iter().partition(|name| known.contains_key(name));

    let mut impossible = Vec::new();
    let (position, mut words) = match want {
        Some(want) => (None, foreseen(config, &local, &new, want, &mut impossible).await?),
        None => (Some(newest(config, &local).await?), Vec::new()),
    };
    for table in &new {
        add_one(&local, table, position, want).await?;
    }

    if want.is_some() && !new.is_empty() && wake().await? {
        words.push("the running daemon sees to it now".to_owned());
    }
    if !known.is_empty() {
        let known: Vec<String> = known.iter().map(ToString::to_string).collect();
        words.push(format!("on the whitelist already: {}", known.join(", ")));
    }
    let answer = named("added", &new);
    let answer = if words.is_empty() { answer } else { answer.with_words(words.join("\n")) };
    Ok(Added { answer, tables, impossible })
}

/// What will come of it. A base that was asked for by name has to be there.
async fn foreseen(
    config: &Config,
    local: &Local,
    tables: &[TableName],
    want: Want,
    impossible: &mut Vec<String>,
) -> Result<Vec<String>> {
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
            Err(reason) if want == Want::Auto => {
                words.push(format!("{table}: {reason}"));
                impossible.push(table.to_string());
            }
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
    let add = async {
        // What is left of an earlier life of the table would be taken for its position.
        let forget = format!("DELETE FROM {meta}.data_sync_table_state WHERE table_name = $1");
        client.execute(&forget, &[&table.to_string()]).await.context(adding)?;
        if position.is_some() {
            if let Some(other) = others::of(client, meta, table).await? {
                let message = format!("{table}: {}", Lost::Shared(other).reason(table));
                return Err(Error::new(Kind::Conflict, message).hint("nothing was added"));
            }
            cursor::change(client, meta, table, Event::NeedsNoBase, position, None).await?;
        }
        cursor::want(client, meta, table, want).await?;
        if position.is_some() {
            identity::vouch(client, meta, table).await?;
        }
        let insert = format!(
            "INSERT INTO {meta}.tables_to_sync (table_name, creator) VALUES ($1, session_user) \
             ON CONFLICT (table_name) DO NOTHING"
        );
        client.execute(&insert, &[&table.to_string()]).await.context(adding)?;
        ledger::log_command(client, meta, "add-tables", std::slice::from_ref(table)).await
    };
    local.in_transaction(add).await
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
    let checkpoint = Cursor::of(&local.meta).read(local.session.client()).await?;
    if checkpoint.segment.is_some() {
        return Ok(Position { lsn: checkpoint.end_lsn(), commit_time: None });
    }
    let head = archive::open::open_by_hand(config)?.head().await?;
    let head = head.ok_or_else(|| Error::new(Kind::Foreign, "the archive has no head.json yet"))?;
    // The position means something in that archive alone.
    Cursor::of(&local.meta).adopt(local.session.client(), head.archive_id).await?;
    Ok(Position { lsn: head.covered_lsn, commit_time: Some(head.covered_at) })
}
