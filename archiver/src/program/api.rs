//! What the archiver answers over HTTP: the table, and who answers. All of it is known without asking anybody.

mod routes;

use std::sync::Arc;

use serde_json::{Value, json};
use syncdata_service::control::Response;
use syncdata_service::http::{Both, Call, Problem, Sort};

use self::routes::{Operation, SITE};
use super::life::Life;
use crate::operations::status::Status;
use crate::spool::executions::Kind;

pub(super) async fn serve(life: &Arc<Life>) {
    let handler = {
        let life = Arc::clone(life);
        move |call: Call<Operation>| {
            let answer = answer(&call, &life);
            async move { answer }
        }
    };
    tokio::spawn(Arc::clone(life.http()).serve(SITE, handler).await);
}

fn answer(call: &Call<Operation>, life: &Life) -> Response {
    let answered = match call.operation {
        Operation::Both(Both::Status) => return status(life),
        Operation::Both(Both::Health) => return health(life),
        Operation::Both(Both::Metrics) => return metrics(life),
        Operation::Both(Both::Dashboard) => return life.dashboard().answer(),
        Operation::Both(Both::OpenApi) => Ok(openapi()),
        Operation::CdcStatus => {
            let status = life.as_of_now();
            let Status { source, spool, archive, gaps, .. } = &status;
            Ok(json!({"slot": source, "spool": spool, "archive": archive, "gaps": gaps}))
        }
        Operation::Slot => life.as_of_now().source.map(|slot| json!(slot)).ok_or_else(not_looked),
        Operation::Spool => life.as_of_now().spool.map(|spool| json!(spool)).ok_or_else(not_looked),
        Operation::Snapshots => Ok(
            json!({"newest": life.as_of_now().archive.newest_snapshot, "items": of_kind(life, Kind::Snapshot)}),
        ),
        Operation::Proofs => Ok(
            json!({"newest_at": life.as_of_now().archive.newest_proof_at, "items": of_kind(life, Kind::Proof)}),
        ),
        Operation::Both(Both::Executions) => executions(call, life),
        Operation::Both(Both::Execution) => execution(call, life),
        Operation::Both(Both::Alerts) => {
            let alerts = life.as_of_now().alerts;
            call.page(alerts.iter().map(|alert| (format!("{} {}", alert.since, alert.id), json!(alert))))
        }
    };
    answered.map_or_else(Response::from, |document| Response::json(200, &document))
}

fn not_looked() -> Problem {
    Problem::new(Sort::NotNow, "the first poll has not ended yet").header("retry-after", "10")
}

fn of_kind(life: &Life, kind: Kind) -> Vec<Value> {
    life.executions()
        .iter()
        .filter(|execution| execution.kind == kind)
        .map(|execution| json!(execution))
        .collect()
}

/// The newest first: the list is kept short, and its places count from there.
fn executions(call: &Call<Operation>, life: &Life) -> Result<Value, Problem> {
    let limit = usize::from(call.limit()?);
    let all = life.executions();
    let after = match call.cursor() {
        None => 0,
        Some(cursor) => {
            let place = all.iter().position(|execution| execution.id.to_string() == cursor);
            place.map(|place| place + 1).ok_or_else(|| {
                Problem::new(Sort::NotUnderstood, "this cursor leads nowhere any more")
                    .hint("begin without one")
            })?
        }
    };
    let items: Vec<Value> = all.iter().skip(after).take(limit).map(|execution| json!(execution)).collect();
    let has_more = all.len() > after + items.len();
    let next = all.get(after + items.len().saturating_sub(1)).filter(|_| has_more).map(|last| last.id);
    Ok(json!({"items": items, "next_cursor": next}))
}

fn execution(call: &Call<Operation>, life: &Life) -> Result<Value, Problem> {
    let id = call.arguments.first().map_or("", String::as_str);
    let found = life.executions().into_iter().find(|execution| execution.id.to_string() == id);
    found
        .map(|execution| json!(execution))
        .ok_or_else(|| Problem::new(Sort::NotFound, format!("there is no execution {id:?}")))
}

pub(super) fn status(life: &Life) -> Response {
    let executions = life.executions();
    Response::json(200, &json!(Status { executions, ..life.as_of_now() }))
}

pub(super) fn health(life: &Life) -> Response {
    let status = life.as_of_now();
    Response::health(status.healthy, &json!({"healthy": status.healthy, "problems": status.problems}))
}

pub(super) fn metrics(life: &Life) -> Response {
    Response::metrics(life.as_of_now().metrics())
}

fn openapi() -> Value {
    let schemas = serde_json::from_str(include_str!("api/schemas.json")).expect("the schemas are JSON");
    SITE.openapi("syncdata-archiver", &schemas)
}
