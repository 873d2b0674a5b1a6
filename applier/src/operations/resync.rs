//! `resync`: makes tables anew from a base of the archive. They stay as they are until that is done.

use std::collections::BTreeMap;
use std::io::IsTerminal as _;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};
use serde_json::json;
use syncdata_formats::error::{Error, Kind, Result, escape_control};
use syncdata_formats::name::TableName;
use syncdata_formats::time::Timestamp;
use syncdata_service::config::Config;
use syncdata_service::output::Output;
use syncdata_service::postgres::ServerContext as _;
use syncdata_service::progress::Job;

use super::whitelist::{not_listed, parse_names};
use super::{Answer, sync};
use crate::archive;
use crate::load;
use crate::plan::state::{Event, State, TableState, Want};
use crate::target::postgres::cursor::{self, Checkpoint, Cursor};
use crate::target::postgres::ledger;
use crate::target::postgres::local::Local;

/// How often the tables are looked at while the daemon makes them anew.
pub(super) const LOOK_EVERY: Duration = Duration::from_millis(500);
/// How often it is said how far they are.
const SAY_EVERY: Duration = Duration::from_secs(10);
/// What was in vain so often is not waited for: the daemon goes on trying, and says why in its status.
const FAILURES_MAX: usize = 3;
/// … or after the first time in vain, for so long: it may have been tried again at once.
const FAILING_MAX: Duration = Duration::from_secs(20);
/// A base that was just being made has come by then.
const BASE_PATIENCE: Duration = Duration::from_secs(60);
/// So long somebody who asks for one table waits for the archive to be looked at.
const LOOK_PATIENCE: Duration = Duration::from_secs(5);

/// What is asked for; it may travel to the daemon.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Resync {
    pub tables: Vec<String>,
    pub all: bool,
    pub adopt: bool,
}

impl Resync {
    pub fn new(tables: Vec<String>, all: bool, adopt: bool) -> Result<Resync> {
        if all && !tables.is_empty() {
            return Err(Error::new(Kind::BadInput, "--all leaves no table to be named"));
        }
        Ok(Resync { tables, all, adopt })
    }
}

pub async fn resync(config: Config, resync: &Resync) -> Result<Answer> {
    let tables = request(&config, resync).await?;
    let Some(synced) = sync::run(config).await? else {
        return Ok(Answer::done(String::new(), json!({}))
            .with_words("stopped; what was asked for is noted, and the next sync does it"));
    };

    let answer = sync::answer(&synced);
    let is_done = tables.iter().all(|table| synced.loaded.contains_key(table));
    Ok(Answer { exit_code: answer.exit_code.max(u8::from(!is_done)), ..answer })
}

pub(crate) fn is_made(state: &TableState) -> bool {
    state.state == State::Live && state.wants().is_none()
}

/// Notes what is to be made anew; from then on every pass, and the daemon at once, sees to it.
pub async fn request(config: &Config, resync: &Resync) -> Result<Vec<TableName>> {
    if resync.adopt && !resync.all {
        return Err(Error::new(Kind::BadInput, "another archive is adopted for all tables: --all"));
    }

    let local = Local::open(config).await?;
    local.lock_pass().await?;
    let tables = wanted(&local, resync).await?;
    if tables.is_empty() {
        return Err(Error::new(Kind::NotFound, "No tables in whitelist"));
    }
    let names: Vec<TableName> = tables.iter().map(|(table, _)| table.clone()).collect();
    let checkpoint = Cursor::of(&local.meta).read(local.session.client()).await;
    let starts_over = starts_over(config, checkpoint, resync).await?;

    let (client, meta) = (local.session.client(), &local.meta);
    let ask = async {
        ledger::log_command(client, meta, "resync", &names).await?;
        if let Some(archive_id) = starts_over {
            cursor::start_over(client, meta, archive_id, &names).await?;
            tracing::warn!(archive = %archive_id, "the copy starts over: positions of all tables are forgotten");
            return Ok::<_, Error>(());
        }
        for (table, state) in &tables {
            cursor::want(client, meta, table, Some(Want::Rebuild)).await?;
            if state.position.is_none() {
                cursor::change(client, meta, table, Event::ResyncAsked, None, None).await?;
            }
        }
        Ok(())
    };
    local.in_transaction(ask).await?;
    Ok(names)
}

/// The archive to begin with, when what is here cannot go on from where it is.
pub(super) async fn starts_over(
    config: &Config,
    checkpoint: Result<Checkpoint>,
    resync: &Resync,
) -> Result<Option<uuid::Uuid>> {
    let source = archive::open::open_by_hand(config)?;
    let identity = source.identity().await?;
    let checkpoint = match checkpoint {
        Err(error) if error.kind() == Kind::StateDamaged && resync.all => {
            return Ok(Some(identity.archive_id));
        }
        checkpoint => checkpoint?,
    };
    if resync.adopt {
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
        Some(_) if resync.all => Ok(Some(identity.archive_id)),
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

async fn wanted(local: &Local, resync: &Resync) -> Result<Vec<(TableName, TableState)>> {
    let states = cursor::table_states(local.session.client(), &local.meta).await?;
    wanted_of(states, resync)
}

pub(super) fn wanted_of(
    states: BTreeMap<TableName, TableState>,
    resync: &Resync,
) -> Result<Vec<(TableName, TableState)>> {
    if resync.all {
        return Ok(states.into_iter().collect());
    }
    let state_of = |name: TableName| match states.get(&name) {
        Some(state) => Ok((name, state.clone())),
        None => Err(not_listed(&name)),
    };
    parse_names(&resync.tables)?.into_iter().map(state_of).collect()
}

/// Waits until a daemon has made the tables anew; interrupted here, it goes on all the same. `jobs` is what it does at the
/// moment, `None` when there is no daemon any more.
pub async fn wait(
    config: &Config,
    resync: &Resync,
    asked_at: Timestamp,
    jobs: impl AsyncFn() -> Result<Option<Vec<Job>>>,
) -> Result<Answer> {
    let local = Local::connect(config).await?;
    let (mut failing_since, mut said) = (None, Said::new());
    let mut failures = 0;
    loop {
        // Before the tables are looked at: what is made after that is seen as such.
        let is_loading = local.is_loading().await?;
        let tables = wanted(&local, resync).await?;
        let waiting: Vec<String> = tables
            .iter()
            .filter(|(_, state)| state.wants().is_some())
            .map(|(table, _)| table.to_string())
            .collect();
        if waiting.is_empty() {
            return outcome(&local, tables, asked_at).await;
        }

        let troubles = troubles_since(&local, asked_at).await?;
        for trouble in troubles.iter().skip(failures) {
            say(&format!("not yet: {trouble}"));
            failing_since.get_or_insert_with(Instant::now);
        }
        failures = failures.max(troubles.len());
        if let (Some(since), Some(trouble)) = (failing_since, troubles.last())
            && (failures >= FAILURES_MAX || since.elapsed() > FAILING_MAX)
            && !is_loading
        {
            let message = format!("{} could not be made anew so far: {trouble}", waiting.join(", "));
            return Err(Error::new(Kind::Locked, message)
                .hint("the daemon goes on trying; mend the cause, and look at syncdata-applier status"));
        }
        let Some(jobs) = jobs().await? else {
            let error = Error::new(Kind::Locked, "the daemon has ended before the tables were made anew");
            return Err(
                error.hint("it goes on with it when it is started again; or run: syncdata-applier sync")
            );
        };
        said.progress(&waiting.join(", "), &jobs);
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

/// The same without a word, inside the daemon.
pub async fn until_made(config: &Config, resync: &Resync, asked_at: Timestamp) -> Result<Answer> {
    let local = Local::connect(config).await?;
    loop {
        let is_loading = local.is_loading().await?;
        let tables = wanted(&local, resync).await?;
        if tables.iter().all(|(_, state)| state.wants().is_none()) {
            return outcome(&local, tables, asked_at).await;
        }
        let reason = tables.iter().find_map(|(table, state)| Some((table, without_base(state)?)));
        if let Some((table, reason)) = reason
            && !is_loading
            && Timestamp::now().since(asked_at) > BASE_PATIENCE
        {
            let message = format!(
                "{table} still waits for its first base, and after {} s nobody waits for that here: {reason}",
                BASE_PATIENCE.as_secs()
            );
            return Err(Error::new(Kind::Conflict, message)
                .hint("what was asked for stays noted: it is loaded by itself once there is a base, and nothing has to be repeated"));
        }
        let troubles = troubles_since(&local, asked_at).await?;
        if let Some(trouble) = troubles.last().filter(|_| troubles.len() >= FAILURES_MAX && !is_loading) {
            return Err(Error::new(Kind::Locked, format!("it could not be made anew so far: {trouble}"))
                .hint("the daemon goes on trying; mend the cause, and look at its status"));
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

/// Whether there are such tables.
pub async fn consider(config: &Config, tables: &[TableName]) -> Result<()> {
    let local = Local::open(config).await?;
    let states = cursor::table_states(local.session.client(), &local.meta).await?;
    match tables.iter().find(|table| !states.contains_key(table)) {
        Some(table) => Err(not_listed(table)),
        None => Ok(()),
    }
}

/// Whether that one can be made anew now. One that never had rows, and for which there is no base, waits for it anyhow.
pub async fn consider_one(config: &Config, table: &TableName) -> Result<()> {
    let local = Local::open(config).await?;
    let states = cursor::table_states(local.session.client(), &local.meta).await?;
    let state = states.get(table).ok_or_else(|| not_listed(table))?;
    let (Some(_), Some(want)) = (without_base(state), state.wants()) else { return Ok(()) };
    // What the last pass found may be old, and the reason of one that was started over is none: the archive knows.
    let looking = load::foresee(config, &local, std::slice::from_ref(table), want);
    let foreseen = match tokio::time::timeout(LOOK_PATIENCE, looking).await {
        Ok(Ok(foreseen)) => foreseen,
        // That is what the load says too.
        Ok(Err(_)) | Err(_) => return Ok(()),
    };
    match foreseen.into_iter().find_map(|(_, words)| words.err()) {
        Some(reason) => {
            Err(Error::new(Kind::Conflict, format!("{table} waits for its first base: {reason}"))
                .hint("it is loaded by itself once there is one; a pass looks now"))
        }
        None => Ok(()),
    }
}

/// Why there is none, for a table that never had rows.
fn without_base(state: &TableState) -> Option<&str> {
    state.reason.as_deref().filter(|_| state.state == State::Pending && state.position.is_none())
}

/// While somebody waits: what is said at the end is the answer.
fn say(words: &str) {
    Output::new(false).words(&escape_control(words));
}

/// When it was said last how far they are.
#[derive(Debug)]
pub(super) struct Said(Instant);

impl Said {
    pub(super) fn new() -> Said {
        Said(Instant::now())
    }

    /// Now and then; on a terminal somebody looks on.
    pub(super) fn progress(&mut self, waiting: &str, jobs: &[Job]) {
        let every = if std::io::stderr().is_terminal() { SAY_EVERY / 5 } else { SAY_EVERY };
        if self.0.elapsed() < every {
            return;
        }
        self.0 = Instant::now();
        let jobs: Vec<String> = jobs.iter().map(ToString::to_string).collect();
        let doing = match jobs.is_empty() {
            true => "the daemon fetches their base, or applies the changes after it".to_owned(),
            false => jobs.join("; "),
        };
        say(&format!("waiting for {waiting}: {doing}"));
    }
}

/// Passes and loads that failed as a whole, oldest first.
pub(super) async fn troubles_since(local: &Local, asked_at: Timestamp) -> Result<Vec<String>> {
    let select = format!(
        "SELECT coalesce(error_detail, '') FROM {}.data_sync_logs WHERE status = 'FAILED' AND table_name = '*' \
         AND sync_time >= $1::text::timestamptz ORDER BY sync_time",
        local.meta
    );
    let rows = local.session.client().query(&select, &[&asked_at.to_string()]).await;
    Ok(rows.context(|| "reading data_sync_logs".to_owned())?.iter().map(|row| row.get(0)).collect())
}

/// How each of the tables is now.
pub(super) async fn outcome(
    local: &Local,
    tables: Vec<(TableName, TableState)>,
    asked_at: Timestamp,
) -> Result<Answer> {
    let mut failed = failures_since(local, asked_at).await?;
    let (mut text, mut document, mut is_done) = (String::new(), Vec::new(), true);
    for (table, state) in tables {
        let reason = failed.remove(&table).or(state.reason.clone());
        is_done &= is_made(&state) && reason.is_none();
        let words = reason.as_ref().map_or(String::new(), |reason| format!(": {reason}"));
        text.push_str(&format!("{table}: {}{words}\n", state.state));
        let state = state.state.as_str();
        document.push(json!({"table": table.to_string(), "state": state, "reason": reason}));
    }
    Ok(Answer { exit_code: u8::from(!is_done), ..Answer::done(text, json!({ "tables": document })) })
}

/// The newest failure of each table. One that could not be made is as it was: only the log knows why.
pub(super) async fn failures_since(
    local: &Local,
    asked_at: Timestamp,
) -> Result<BTreeMap<TableName, String>> {
    let select = format!(
        "SELECT DISTINCT ON (table_name) table_name, error_detail FROM {}.data_sync_logs \
         WHERE status = 'FAILED' AND archive_ref = $1 AND table_name <> '*' AND sync_time >= $2::text::timestamptz \
         ORDER BY table_name, sync_time DESC",
        local.meta
    );
    let rows = local.session.client().query(&select, &[&load::LOG_REF, &asked_at.to_string()]).await;
    let mut failures = BTreeMap::new();
    for row in rows.context(|| "reading data_sync_logs".to_owned())? {
        if let Some(reason) = row.get(1) {
            failures.insert(row.get::<_, &str>(0).parse()?, reason);
        }
    }
    Ok(failures)
}
