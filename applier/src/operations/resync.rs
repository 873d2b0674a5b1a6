//! `resync`: makes tables anew from a base of the archive. They stay as they are until that is done.

use std::time::Duration;
use syncdata_service::postgres::ServerContext as _;

use serde_json::json;
use syncdata_formats::error::{Error, Kind, Result};
use syncdata_formats::name::TableName;
use syncdata_formats::time::Timestamp;
use syncdata_service::config::Config;

use super::{Answer, sync};
use crate::load;
use crate::pass::runner;
use crate::program::daemon::{self, ResyncOrder};
use crate::target::postgres::cursor::{self, Checkpoint, State, TableState, Want};
use crate::target::postgres::local::Local;

/// How often the tables are looked at while the daemon makes them anew.
const LOOK_EVERY: Duration = Duration::from_millis(500);

pub async fn run(config: Config, order: ResyncOrder) -> Result<Answer> {
    if order.all && !order.tables.is_empty() {
        return Err(Error::new(Kind::BadInput, "--all leaves no table to be named"));
    }
    let asked_at = Timestamp::now();
    match daemon::ask(&config, "/resync", Some(&json!(order))).await? {
        Some(answer) if answer.exit_code != 0 => Ok(answer),
        Some(_) => wait(&config, &order, asked_at).await,
        None => {
            let tables = request(&config, &order).await?;
            let Some(report) = sync::report_here(config).await? else {
                return Ok(Answer::done(String::new(), json!({}))
                    .with_words("stopped; what was asked for is noted, and the next sync does it"));
            };
            let answer = sync::of_report(&report);
            let is_done = tables.iter().all(|table| report.loaded.contains_key(table));
            Ok(Answer { exit_code: answer.exit_code.max(u8::from(!is_done)), ..answer })
        }
    }
}

fn is_made(state: &TableState) -> bool {
    state.state == State::Live && state.wants().is_none()
}

/// Notes what is to be made anew; from then on every pass, and the daemon at once, sees to it.
pub async fn request(config: &Config, order: &ResyncOrder) -> Result<Vec<TableName>> {
    if order.adopt && !order.all {
        return Err(Error::new(Kind::BadInput, "another archive is adopted for all tables: --all"));
    }
    let local = Local::open(config).await?;
    local.lock_pass().await?;
    let tables = wanted(&local, order).await?;
    if tables.is_empty() {
        return Err(Error::new(Kind::NotFound, "No tables in whitelist"));
    }
    let names: Vec<TableName> = tables.iter().map(|(table, _)| table.clone()).collect();
    let starts_over = starts_over(config, &local, order).await?;
    let (client, meta) = (local.session.client(), &local.meta);
    client.batch_execute("BEGIN").await.context(|| "beginning the transaction".to_owned())?;
    if let Some(archive_id) = starts_over {
        cursor::start_over(client, meta, archive_id, &names).await?;
        tracing::warn!(archive = %archive_id, "the copy starts over: positions of all tables are forgotten");
    } else {
        for (table, state) in &tables {
            cursor::want(client, meta, table, Some(Want::Rebuild)).await?;
            if state.position.is_none() {
                cursor::set_state(client, meta, table, State::Pending, None, None).await?;
            }
        }
    }
    client.batch_execute("COMMIT").await.context(|| "committing".to_owned())?;
    Ok(names)
}

/// The archive to begin with, when what is here cannot go on from where it is.
async fn starts_over(config: &Config, local: &Local, order: &ResyncOrder) -> Result<Option<uuid::Uuid>> {
    let source = runner::source(config)?;
    let identity = source.identity().await?;
    let checkpoint = match Checkpoint::read(local.session.client(), &local.meta).await {
        Err(error) if error.kind() == Kind::StateDamaged && order.all => {
            return Ok(Some(identity.archive_id));
        }
        checkpoint => checkpoint?,
    };
    if order.adopt {
        return Ok(Some(identity.archive_id));
    }
    if checkpoint.archive_id.is_some_and(|ours| ours != identity.archive_id) {
        return Err(Error::new(
            Kind::Foreign,
            format!("{} holds archive {}, this copy belongs to another", source.location(), identity.archive_id),
        )
        .hint("nothing was changed; check archive_dir. If production really has a new archive: resync --all --adopt"));
    }
    let pruned = source
        .floor()
        .await?
        .filter(|floor| checkpoint.segment.is_some() && floor.seq.get() > checkpoint.seq() + 1);
    match pruned {
        None => Ok(None),
        Some(_) if order.all => Ok(Some(identity.archive_id)),
        Some(floor) => Err(Error::new(
            Kind::Foreign,
            format!(
                "the archive was pruned up to segment {}; this copy ends at {}",
                floor.seq,
                checkpoint.seq()
            ),
        )
        .hint("no table can go on from here: syncdata-applier resync --all")),
    }
}

async fn wanted(local: &Local, order: &ResyncOrder) -> Result<Vec<(TableName, TableState)>> {
    let states = cursor::table_states(local.session.client(), &local.meta).await?;
    if order.all {
        return Ok(states.into_iter().collect());
    }
    let state_of = |name: TableName| match states.get(&name) {
        Some(state) => Ok((name, state.clone())),
        None => Err(Error::new(Kind::NotFound, format!("{name} is not in the whitelist"))
            .hint("syncdata-applier list-tables shows what is")),
    };
    sync::parse_names(&order.tables)?.into_iter().map(state_of).collect()
}

/// The daemon is at it; interrupted here, it goes on all the same.
async fn wait(config: &Config, order: &ResyncOrder, asked_at: Timestamp) -> Result<Answer> {
    let local = Local::connect(config).await?;
    loop {
        let tables = wanted(&local, order).await?;
        if tables.iter().all(|(_, state)| state.wants().is_none()) {
            return told(&local, tables, asked_at).await;
        }
        if daemon::ask_status(config).await?.is_none() {
            let error = Error::new(Kind::Locked, "the daemon has ended before the tables were made anew");
            return Err(
                error.hint("it goes on with it when it is started again; or run: syncdata-applier sync")
            );
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

/// A table that could not be made is as it was: only the log knows why.
async fn told(local: &Local, tables: Vec<(TableName, TableState)>, asked_at: Timestamp) -> Result<Answer> {
    let select = format!(
        "SELECT DISTINCT ON (table_name) table_name, error_detail FROM {}.data_sync_logs \
         WHERE status = 'FAILED' AND archive_ref = $1 AND sync_time >= $2::text::timestamptz \
         ORDER BY table_name, sync_time DESC",
        local.meta
    );
    let rows = local.session.client().query(&select, &[&load::LOG_REF, &asked_at.to_string()]).await;
    let rows = rows.context(|| "reading data_sync_logs".to_owned())?;
    let failed = |table: &TableName| {
        let row = rows.iter().find(|row| row.get::<_, &str>(0) == table.to_string())?;
        row.get::<_, Option<String>>(1)
    };
    let (mut text, mut document, mut is_done) = (String::new(), Vec::new(), true);
    for (table, state) in tables {
        let reason = failed(&table).or(state.reason.clone());
        is_done &= is_made(&state) && reason.is_none();
        let words = reason.as_ref().map_or(String::new(), |reason| format!(": {reason}"));
        text.push_str(&format!("{table}: {}{words}\n", state.state));
        let state = state.state.as_str();
        document.push(json!({"table": table.to_string(), "state": state, "reason": reason}));
    }
    Ok(Answer { exit_code: u8::from(!is_done), ..Answer::done(text, json!({ "tables": document })) })
}
