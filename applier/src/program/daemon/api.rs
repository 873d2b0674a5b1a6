//! What is answered over HTTP: the table, and who answers.

mod routes;

use std::sync::Arc;

use serde_json::json;
use syncdata_service::control::Response;
use syncdata_service::http::{Call, Http};
use tokio::task::JoinHandle;

use self::routes::{Operation, SITE};
use super::life::Life;

pub(super) async fn serve(http: &Arc<Http>, life: &Arc<Life>) -> JoinHandle<()> {
    let handler = {
        let life = Arc::clone(life);
        move |call| answer(call, Arc::clone(&life))
    };
    tokio::spawn(Arc::clone(http).serve(SITE, handler).await)
}

async fn answer(call: Call<Operation>, life: Arc<Life>) -> Response {
    match call.operation {
        Operation::Status => status(&life).await,
        Operation::Health => health(&life).await,
        Operation::Metrics => metrics(&life).await,
        Operation::Dashboard => life.dashboard().await.answer(),
    }
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
