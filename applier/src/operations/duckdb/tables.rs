//! What commands ask for, carried out: about tables of the whitelist, and passes.

use syncdata_formats::error::{Error, Kind, Result};
use syncdata_formats::manifest::Manifest;
use syncdata_formats::name::{TableName, TablePattern};
use syncdata_service::config::Config;

use super::asked::Asked;
use super::owner::Owner;
use crate::archive;
use crate::load;
use crate::operations::Answer;
use crate::operations::resync::{Resync, starts_over, wanted_of};
use crate::operations::retry::{Retry, released};
use crate::operations::whitelist::{matching, named, not_found, parse_names};
use crate::plan::state::Want;
use serde_json::json;

impl Owner {
    /// Carries out what somebody asked for, whatever comes of it.
    pub(crate) async fn carry_out(&mut self, asked: Asked) -> Answer {
        self.try_to(asked).await.unwrap_or_else(|error| Answer::failed(&error))
    }

    async fn try_to(&mut self, asked: Asked) -> Result<Answer> {
        match asked {
            Asked::Sync => self.synced().await,
            Asked::AddTables { tables, from, waits } => add(self, &tables, from.parse()?, waits).await,
            Asked::RemoveTables { tables } => remove(self, &tables).await,
            Asked::Resync(resync) => self::resync(self, &resync).await,
            Asked::Retry(retry) => {
                release(self, &retry).await?;
                self.synced().await
            }
            Asked::Clear => clear(self).await,
        }
    }
}

/// Puts tables on the whitelist; the file's tables are made of what the archive says of them. One that is there already stays
/// as it is.
async fn add(owner: &mut Owner, patterns: &[String], want: Want, waits: bool) -> Result<Answer> {
    let known: Vec<TableName> = owner.target.table_states().await?.into_keys().collect();
    let names = resolve(&owner.config, patterns, &known).await?;
    for table in &names {
        if let Some(reason) = owner.target.refused(table.clone()).await? {
            return Err(Error::new(Kind::Conflict, reason).hint("nothing was added"));
        }
    }
    let new: Vec<TableName> = names.iter().filter(|name| !known.contains(name)).cloned().collect();
    let mut words = Vec::new();
    for (table, foreseen) in foreseen(owner, &new, want).await? {
        match foreseen {
            Ok(foreseen) => words.push(format!("{table} {foreseen}")),
            Err(reason) if want == Want::Auto => words.push(format!("{table}: {reason}")),
            Err(reason) => return Err(not_found(format!("{table}: {reason}"), "nothing was added")),
        }
    }
    let added = owner.target.add(new, want, creator()).await?;
    let there: Vec<String> =
        names.iter().filter(|name| known.contains(name)).map(ToString::to_string).collect();
    if !there.is_empty() {
        words.push(format!("on the whitelist already: {}", there.join(", ")));
    }
    let mut answer = named("added", &added);
    if !words.is_empty() {
        answer = answer.with_words(words.join("\n"));
    }
    if !waits {
        return Ok(answer);
    }
    let synced = owner.synced().await?;
    let states = owner.target.table_states().await?;
    let is_live = |name: &TableName| states.get(name).is_some_and(crate::operations::resync::is_made);
    let all_live = names.iter().all(is_live);
    Ok(Answer {
        text: format!("{}{}", answer.text, synced.text),
        exit_code: synced.exit_code.max(u8::from(!all_live)),
        ..answer
    })
}

/// Who runs the command; the database's own user has no name there.
fn creator() -> Option<String> {
    std::env::var("USER").ok().filter(|name| !name.is_empty())
}

async fn foreseen(owner: &Owner, tables: &[TableName], want: Want) -> Result<load::Foreseen> {
    let (reached, since) = (owner.target.reached().await?, owner.target.capture_since().await?);
    let source = archive::open::open_by_hand(&owner.config)?;
    match load::foresee_from(&source, reached, since, tables, want).await {
        Ok(foreseen) => Ok(foreseen),
        // Tables may be chosen before there is an archive, or while it is away.
        Err(error) => {
            tracing::warn!(error = %error.one_line(), "the archive cannot be looked at yet");
            Ok(Vec::new())
        }
    }
}

/// Those that the newest manifest says are captured; a name that stands for itself may be one that it does not know yet.
async fn resolve(config: &Config, patterns: &[String], known: &[TableName]) -> Result<Vec<TableName>> {
    let captured = captured(config).await;
    let mut tables = match captured {
        Ok(tables) => tables,
        Err(error) => {
            let is_name = |pattern: &TablePattern| pattern.to_string().parse::<TableName>().is_ok();
            if !crate::operations::whitelist::patterns(patterns)?.iter().all(is_name) {
                return Err(error.context("looking for the tables that the archive has"));
            }
            tracing::warn!(error = %error.one_line(), "the archive cannot be looked at yet");
            parse_names(patterns)?
        }
    };
    tables.extend(known.iter().cloned());
    tables.sort();
    tables.dedup();
    matching(&tables, patterns, |stranger| {
        not_found(
            format!("Table not found in the archive: {stranger}"),
            "capture it first: `tables` of the archiver, on the production host",
        )
    })
}

async fn captured(config: &Config) -> Result<Vec<TableName>> {
    let source = archive::open::open_by_hand(config)?;
    let newest = source.list(None).await?.names().next_back();
    let (day, name) = newest.ok_or_else(|| Error::new(Kind::NotFound, "the archive has no segment yet"))?;
    Ok(Manifest::decode(&source.manifest_bytes(day, name).await?)?.capture)
}

/// Those of the whitelist that the patterns name.
async fn listed(owner: &Owner, patterns: &[String]) -> Result<Vec<TableName>> {
    let known: Vec<TableName> = owner.target.table_states().await?.into_keys().collect();
    matching(&known, patterns, |stranger| {
        not_found(format!("{stranger} is not in the whitelist"), "syncdata-applier list-tables shows what is")
    })
}

/// Takes tables off the whitelist, all or none; their rows stay.
async fn remove(owner: &mut Owner, patterns: &[String]) -> Result<Answer> {
    let names = listed(owner, patterns).await?;
    owner.target.remove(names.clone()).await?;
    Ok(named("removed", &names))
}

/// From here on they are caught up by the next pass.
async fn release(owner: &Owner, retry: &Retry) -> Result<()> {
    let names = listed(owner, &retry.tables).await?;
    let states = owner.target.table_states().await?;
    let names = released(names, &states, retry.accept_gap)?;
    owner.target.retry(names, retry.accept_gap).await
}

async fn resync(owner: &mut Owner, resync: &Resync) -> Result<Answer> {
    if resync.adopt && !resync.all {
        return Err(Error::new(Kind::BadInput, "another archive is adopted for all tables: --all"));
    }
    let states = owner.target.table_states().await?;
    let tables = wanted_of(states, resync)?;
    if tables.is_empty() {
        return Err(Error::new(Kind::NotFound, "No tables in whitelist"));
    }
    let starts_over = starts_over(&owner.config, owner.target.checkpoint().await, resync).await?;
    if let Some(archive_id) = starts_over {
        tracing::warn!(archive = %archive_id, "the copy starts over: positions of all tables are forgotten");
    }
    let names: Vec<TableName> = tables.iter().map(|(table, _)| table.clone()).collect();
    owner.target.resync(tables, starts_over).await?;
    let answer = owner.synced().await?;
    let states = owner.target.table_states().await?;
    let is_made = |name: &TableName| states.get(name).is_some_and(crate::operations::resync::is_made);
    let all_made = names.iter().all(is_made);
    Ok(Answer { exit_code: answer.exit_code.max(u8::from(!all_made)), ..answer })
}

/// Empties all tables of the whitelist. Their positions stay, so that nothing fills them by itself.
async fn clear(owner: &mut Owner) -> Result<Answer> {
    let names: Vec<TableName> = owner.target.table_states().await?.into_keys().collect();
    owner.target.clear(names.clone()).await?;
    let text: String = names.iter().map(|table| format!("cleared {table}\n")).collect();
    let names: Vec<String> = names.iter().map(ToString::to_string).collect();
    Ok(Answer::done(text, json!({ "cleared": names }))
        .with_words("the tables are pending: resync loads them again"))
}
