//! What is answered over HTTP: the table, and who answers. Questions that need a session of their own, and what was asked
//! for, run on threads of their own: no request holds up a pass.

mod actions;
mod apart;
mod reads;
mod routes;

use std::sync::Arc;
use std::time::Instant;

use serde_json::{Value, json};
use syncdata_service::control::Response;
use syncdata_service::http::{Both, Call, Problem, Sort};
use tokio::sync::{Mutex, Semaphore};
use tokio::task::JoinHandle;

use self::routes::{Operation, SITE};
use super::life::Life;
use super::one_answer::OneAnswer;
use super::orders::Orders;

/// So many questions with a session of their own at once; the others wait.
const QUESTIONS_MAX: usize = 4;
/// So much that was asked for may wait or run.
const WORK_MAX: usize = 16;

/// What answers are made of.
#[derive(Debug)]
struct Api {
    life: Arc<Life>,
    orders: Orders,
    questions: Semaphore,
    work: Arc<Semaphore>,
    /// What is asked for is looked at one after the other, so that rivals with one key get one execution.
    asking: Mutex<()>,
    /// Repairs and checks, one at a time.
    at_work: Semaphore,
    /// What the archive said last of its end, and when.
    head: Mutex<Option<(Instant, Value)>>,
    /// What needs no token costs no more however often it is asked at once.
    status: OneAnswer<Response>,
    metrics: OneAnswer<Response>,
}

pub(super) async fn serve(life: &Arc<Life>, orders: &Orders) -> JoinHandle<()> {
    let api = Arc::new(Api {
        life: Arc::clone(life),
        orders: orders.clone(),
        questions: Semaphore::new(QUESTIONS_MAX),
        work: Arc::new(Semaphore::new(WORK_MAX)),
        asking: Mutex::default(),
        at_work: Semaphore::new(1),
        head: Mutex::default(),
        status: OneAnswer::default(),
        metrics: OneAnswer::default(),
    });
    let handler = move |call| answer(call, Arc::clone(&api));
    tokio::spawn(Arc::clone(life.http()).serve(SITE, handler).await)
}

async fn answer(call: Call<Operation>, api: Arc<Api>) -> Response {
    let answered = match call.operation {
        Operation::Both(Both::Status) => return api.status.get(|| status(&api.life)).await,
        Operation::Both(Both::Health) => return health(&api.life).await,
        Operation::Both(Both::Metrics) => return api.metrics.get(|| metrics(&api.life)).await,
        Operation::Both(Both::Dashboard) => return api.life.dashboard().await.answer(),
        Operation::Both(Both::OpenApi) => Ok(openapi()),
        Operation::CdcStatus => reads::cdc_status(&api).await,
        Operation::Tables => reads::tables(&api, &call).await,
        Operation::Both(Both::Executions) => reads::executions(&api, &call).await,
        Operation::Both(Both::Execution) => reads::execution(&api, &call).await,
        Operation::DeadLetters => reads::dead_letters(&api, &call).await,
        Operation::DeadLetter => reads::dead_letter(&api, &call).await,
        Operation::Consistency => reads::consistency(&api).await,
        Operation::Validate => reads::validate(&api, &call).await,
        Operation::Both(Both::Alerts) => reads::alerts(&api, &call).await,
        Operation::DualWrite => Err(dual_write()),
        Operation::Run
        | Operation::Full
        | Operation::Incremental
        | Operation::Retry
        | Operation::RetryDeadLetter
        | Operation::SkipDeadLetter
        | Operation::Check => return actions::act(&api, call).await,
    };
    answered.map_or_else(Response::from, |document| Response::json(200, &document))
}

pub(super) async fn status(life: &Life) -> Response {
    Response::json(200, &json!(life.status().await))
}

pub(super) async fn health(life: &Life) -> Response {
    let status = life.status().await;
    Response::health(status.healthy, &json!({"healthy": status.healthy, "problems": status.problems}))
}

pub(super) async fn metrics(life: &Life) -> Response {
    Response::metrics(life.metrics().await)
}

fn openapi() -> Value {
    let schemas = serde_json::from_str(include_str!("api/schemas.json")).expect("the schemas are JSON");
    SITE.openapi("syncdata-applier", &schemas)
}

/// What an earlier service offered in place of one write to production.
fn dual_write() -> Problem {
    Problem::new(
        Sort::ReadOnlyCopy,
        "rows are written at production and come here through the archive: a second write here would make the copy unequal",
    )
    .hint("write to production; SELECT data_sync_wait_for(lsn, timeout) waits here until that is in the copy")
}
