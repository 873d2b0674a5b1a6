//! What is asked for: noted as a queued execution, and then done by whoever does it for commands too.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use clap::ValueEnum as _;
use serde::Deserialize;
use serde_json::{Value, json};
use syncdata_formats::digest::Digest;
use syncdata_formats::error::{Error, Kind, Result};
use syncdata_formats::name::{TableName, TablePattern};
use syncdata_formats::time::{Moment, Timestamp};
use syncdata_service::config::Config;
use syncdata_service::control::Response;
use syncdata_service::http::{Call, EXECUTIONS, Problem, Sort};
use syncdata_service::output;
use tokio::sync::oneshot;
use uuid::Uuid;

use super::Api;
use super::apart::apart;
use super::reads::id;
use super::routes::Operation;
use crate::archive::range::TimeRange;
use crate::history;
use crate::operations::consistency::{self, CheckType};
use crate::operations::dead_letters::{self, DeadLetters, Skipped};
use crate::operations::resync::{self, Resync};
use crate::operations::retry::{self, Retry};
use crate::operations::sync::Unhealthy;
use crate::operations::whitelist;
use crate::operations::{Answer, replay};
use crate::program::daemon::orders::{Order, Ordered};
use crate::target::postgres::executions::{self, Asked, Came, Execution, Queued};
use crate::target::postgres::local::Local;

/// The database may be away when something has ended; its word is kept for so long.
const NOTE_TRIES: u32 = 60;
const BETWEEN_TRIES: Duration = Duration::from_secs(5);

/// Who asks is answered before they give up: what they were told did not begin must not begin later.
const PATIENCE: Duration = Duration::from_secs(15);

#[derive(Clone, Debug)]
enum Action {
    Run,
    Full(TableName),
    Incremental(TableName, Timestamp),
    Retry(TableName),
    DeadLetter(DeadLetters),
    Check { tables: Vec<String>, types: Vec<CheckType> },
}

/// Nothing has to be said with it.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Nothing {}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Since {
    since: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Skip {
    reason: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct WhatToCheck {
    #[serde(default)]
    tables: Vec<String>,
    #[serde(default)]
    check_types: Vec<String>,
}

/// On a task of its own: who hangs up in the middle has asked all the same.
pub(super) async fn act(api: &Arc<Api>, call: Call<Operation>) -> Response {
    let task = tokio::spawn(asked_for(Arc::clone(api), call));
    let answered = task.await.unwrap_or_else(|_| Err(Problem::new(Sort::Failed, "the request has panicked")));
    answered.unwrap_or_else(Response::from)
}

async fn asked_for(api: Arc<Api>, call: Call<Operation>) -> std::result::Result<Response, Problem> {
    let action = Action::read(&call)?;
    let late = |_| Problem::new(Sort::NotNow, "the local server does not answer; nothing was begun");
    let _one_at_a_time = tokio::time::timeout(PATIENCE, api.asking.lock()).await.map_err(late)?;
    let local =
        api.life.session().ok_or_else(|| Problem::new(Sort::NotNow, "the local server is out of reach"))?;
    let body: Value = call.json()?;
    let mut asked = Asked {
        kind: action.kind(),
        tables: action.tables(),
        path: &call.path,
        key: call.idempotency_key.as_deref(),
        sha256: Digest::of(body.to_string().as_bytes()).to_string(),
    };
    let before =
        tokio::time::timeout(PATIENCE, executions::asked_before(&local, &asked)).await.map_err(late)??;
    match before {
        Some(Queued::Known(execution)) => return Ok(accepted(&execution)),
        Some(Queued::OtherBody) => {
            return Err(Problem::new(Sort::NotUnderstood, "this Idempotency-Key was used with another body")
                .hint("a key is for one request and its repetitions; take a new one"));
        }
        None | Some(Queued::New(_)) => {}
    }
    let (considered, config) = (action.clone(), api.life.config());
    let considering = apart(move || async move { considered.consider(&config).await });
    let table = tokio::time::timeout(PATIENCE, considering).await.map_err(late)??;
    if let Some(table) = table {
        asked.tables = Some(vec![table]);
    }
    let place = Arc::clone(&api.work).try_acquire_owned().map_err(|_| {
        Problem::new(Sort::TooMany, "as much as may wait is waiting")
            .hint("GET /api/v1/data-sync/sync/executions shows what")
            .header("retry-after", "30")
    })?;
    let execution = executions::queue(&local, &asked).await?;
    let (api, id, tables) = (Arc::clone(&api), execution.id, asked.tables.unwrap_or_default());
    tokio::spawn(async move {
        let came = action.carry_out(&api, id, &tables).await.unwrap_or_else(|error| Came::failed(&error));
        note(&api, id, &came).await;
        drop(place);
    });
    Ok(accepted(&execution))
}

fn accepted(execution: &Execution) -> Response {
    let Execution { id, kind, state, .. } = execution;
    let mut response = Response::json(202, &json!({"execution": {"id": id, "kind": kind, "state": state}}));
    response.headers.push(("location", format!("{EXECUTIONS}/{id}")));
    response
}

/// Says what came of it; while the database is away, later.
async fn note(api: &Api, id: Uuid, came: &Came) {
    for _ in 0..NOTE_TRIES {
        let noted = match api.life.session() {
            Some(local) => executions::settle(&local, id, came).await,
            None => Err(Error::new(Kind::Unreachable, "the local server is out of reach")),
        };
        match noted {
            Ok(()) => return,
            Err(error) => executions::warn(&error),
        }
        tokio::time::sleep(BETWEEN_TRIES).await;
    }
}

impl Action {
    fn read(call: &Call<Operation>) -> std::result::Result<Action, Problem> {
        let argument = call.arguments.first().map_or("", String::as_str);
        let table = || argument.parse::<TableName>().map_err(Problem::from);
        Ok(match call.operation {
            Operation::Full => {
                call.json::<Nothing>()?;
                batch_size(call)?;
                Action::Full(table()?)
            }
            Operation::Incremental => {
                let since: Moment = call.json::<Since>()?.since.parse().map_err(Problem::from)?;
                Action::Incremental(table()?, since.0)
            }
            Operation::Retry => {
                call.json::<Nothing>()?;
                Action::Retry(table()?)
            }
            Operation::RetryDeadLetter => {
                call.json::<Nothing>()?;
                Action::DeadLetter(DeadLetters::Retry { id: id(call, "dead letter")? })
            }
            Operation::SkipDeadLetter => {
                let reason = call.json::<Skip>()?.reason;
                if reason.trim().is_empty() || reason.contains('\0') {
                    return Err(Problem::new(
                        Sort::NotUnderstood,
                        "a transaction is passed over for a reason",
                    )
                    .hint("reason: it is kept for ever, for whoever asks later why rows are missing"));
                }
                Action::DeadLetter(DeadLetters::Skip { id: id(call, "dead letter")?, reason })
            }
            Operation::Check => {
                let WhatToCheck { mut tables, check_types } = call.json()?;
                for table in &tables {
                    table.parse::<TablePattern>()?;
                }
                // Said twice, it is meant once.
                let mut seen = HashSet::new();
                tables.retain(|table| seen.insert(table.clone()));
                let types = check_types.iter().map(|text| check_type(text));
                Action::Check { types: types.collect::<std::result::Result<_, _>>()?, tables }
            }
            _ => {
                call.json::<Nothing>()?;
                Action::Run
            }
        })
    }

    fn kind(&self) -> executions::Kind {
        match self {
            Action::Run | Action::Retry(_) | Action::DeadLetter(_) => executions::Kind::Pass,
            Action::Full(_) => executions::Kind::Load,
            Action::Incremental(..) => executions::Kind::Replay,
            Action::Check { .. } => executions::Kind::Check,
        }
    }

    fn tables(&self) -> Option<Vec<String>> {
        match self {
            Action::Run | Action::DeadLetter(_) => None,
            Action::Full(table) | Action::Incremental(table, _) | Action::Retry(table) => {
                Some(vec![table.to_string()])
            }
            Action::Check { tables, .. } => (!tables.is_empty()).then(|| tables.clone()),
        }
    }

    /// Whether it can be done as things are; the table of a dead letter.
    async fn consider(&self, config: &Config) -> Result<Option<String>> {
        match self {
            Action::Run => Ok(None),
            Action::Full(table) => resync::consider_one(config, table).await.map(|()| None),
            Action::Incremental(table, _) => {
                resync::consider(config, std::slice::from_ref(table)).await.map(|()| None)
            }
            Action::Retry(table) => {
                let local = Local::open(config).await?;
                retry::consider(&local, table).await.map(|()| None)
            }
            Action::DeadLetter(order) => dead_letters::consider(config, order).await.map(Some),
            Action::Check { tables, .. } => whitelist::consider(config, tables).await.map(|()| None),
        }
    }

    async fn carry_out(self, api: &Api, id: Uuid, tables: &[String]) -> Result<Came> {
        let config = api.life.config();
        match self {
            Action::Run => came_of(api.order(Order::Sync, id).await?, &[]),
            Action::Retry(table) => {
                let retry = Retry { tables: vec![table.list_item()], accept_gap: false };
                came_of(api.order(Order::Retry(retry), id).await?, tables)
            }
            Action::DeadLetter(order) => came_of(api.order(Order::DeadLetters(order), id).await?, tables),
            Action::Full(table) => {
                let asked_at = Timestamp::now();
                let resync = Resync { tables: vec![table.list_item()], all: false, adopt: false };
                came_of(api.order(Order::Resync(resync.clone()), id).await?, &[])?;
                let made = apart(move || async move { resync::until_made(&config, &resync, asked_at).await })
                    .await?;
                match made.exit_code {
                    0 => Ok(Came::to(json!({"tables": 1}))),
                    _ => Err(Error::new(Kind::Rejected, made.text.trim().to_owned())),
                }
            }
            Action::Incremental(table, since) => {
                let _alone = api.alone(id).await;
                let range = TimeRange { from: Some(since), to: None };
                let order = history::Order { range, tables: Some(table.list_item()), dry_run: false };
                let done = apart(move || async move { replay::repair(&config, &order).await }).await?;
                match done.exit_code {
                    0 => Ok(Came::to(json!({"clean": true}))),
                    _ => Err(Error::new(Kind::Rejected, done.text.trim().to_owned())),
                }
            }
            Action::Check { tables, types } => {
                let _alone = api.alone(id).await;
                let checked = apart(move || async move {
                    let no_wait = None::<fn() -> std::future::Ready<Result<()>>>;
                    consistency::check(&config, &tables, &types, no_wait).await
                });
                Ok(Came::to(checked.await?.counts()))
            }
        }
    }
}

impl Api {
    /// What the daemon's loop does between two passes, as for a command.
    async fn order(&self, order: Order, id: Uuid) -> Result<Answer> {
        let stopping = || Error::new(Kind::Locked, "the daemon is stopping");
        let (to, answered) = oneshot::channel();
        let ordered = Ordered { order, to, execution: Some(id) };
        self.orders.send(ordered).await.map_err(|_| stopping())?;
        let response = answered.await.map_err(|_| stopping())?;
        if response.is_success() { response.read_json() } else { Err(stopping()) }
    }

    /// The turn of what runs beside the passes.
    async fn alone(&self, id: Uuid) -> tokio::sync::SemaphorePermit<'_> {
        let turn = self.at_work.acquire().await.expect("the semaphore is never closed");
        self.life.execution_runs(id).await;
        turn
    }
}

/// What a pass says of itself, as `sync --json` prints it.
#[derive(Default, Deserialize)]
#[serde(default)]
struct Passed {
    segments: Option<u64>,
    records: Option<u64>,
    unhealthy: Vec<Unhealthy>,
    skipped: Option<Skipped>,
}

/// What an answer comes to, where these tables have to be well afterwards.
fn came_of(answer: Answer, tables: &[String]) -> Result<Came> {
    let document = answer.document;
    if answer.exit_code > 1 {
        return Err(output::error_in(&document).unwrap_or_else(|| Error::new(Kind::Rejected, "it failed")));
    }
    let passed: Passed = serde_json::from_value(document).map_err(|error| {
        Error::new(Kind::Rejected, "what came of it is not told as it should be").caused_by(error)
    })?;
    if let Some(Unhealthy { table, state, reason }) =
        passed.unhealthy.iter().find(|one| tables.contains(&one.table))
    {
        return Err(Error::new(Kind::Rejected, format!("{table} is {state}: {reason}")));
    }
    let mut counts = json!({
        "segments": passed.segments, "records": passed.records, "unhealthy": passed.unhealthy.len(),
    });
    if let Some(skipped) = passed.skipped {
        counts["skipped_records"] = skipped.records.into();
    }
    Ok(Came::to(counts))
}

fn check_type(text: &str) -> std::result::Result<CheckType, Problem> {
    CheckType::from_str(text, false).map_err(|_| {
        Problem::new(Sort::NotUnderstood, format!("{text:?} is no type of a check"))
            .hint("row_count, data_hash, referential_integrity, business_rules")
    })
}

/// An earlier service took it; here rows come as a stream, in batches of their own.
fn batch_size(call: &Call<Operation>) -> std::result::Result<(), Problem> {
    let is_number = |text: &str| text.parse::<u32>().is_ok_and(|number| number > 0);
    match call.parameter("batch_size") {
        Some(text) if !is_number(text) => {
            Err(Problem::new(Sort::NotUnderstood, "batch_size is a number above 0"))
        }
        _ => Ok(()),
    }
}
