//! What the archiver answers over HTTP: the table, and who answers.

mod routes;

use std::sync::Arc;

use serde_json::json;
use syncdata_service::control::Response;
use syncdata_service::http::{Call, Http};

use self::routes::{Operation, SITE};
use super::life::Life;
use crate::operations::status::Status;

pub(super) async fn serve(http: &Arc<Http>, life: &Arc<Life>) {
    let handler = {
        let life = Arc::clone(life);
        move |call: Call<Operation>| {
            let answer = answer(&call, &life);
            async move { answer }
        }
    };
    tokio::spawn(Arc::clone(http).serve(SITE, handler).await);
}

fn answer(call: &Call<Operation>, life: &Life) -> Response {
    match call.operation {
        Operation::Status => status(life),
        Operation::Health => health(life),
        Operation::Metrics => metrics(life),
        Operation::Dashboard => life.dashboard().answer(),
    }
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
