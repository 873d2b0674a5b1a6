//! The control socket: what is answered at once, and what the daemon's loop is asked to do.

use std::sync::Arc;

use serde_json::json;
use syncdata_formats::error::Result;
use syncdata_service::config::{Config, Program};
use syncdata_service::control::{self, ControlSocket, Method, Response};
use syncdata_service::daemon::Stop;
use syncdata_service::progress;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use tracing::info;
use uuid::Uuid;

use super::api;
use super::life::Life;
use super::orders::{Order, Ordered, Orders};
use crate::operations::Answer;
use crate::operations::dead_letters::{self, DeadLetters};
use crate::operations::resync;
use crate::operations::retry;
use crate::operations::sync;
use crate::pass::runner::{Runner, Synced};
use crate::program::request::Request;
use crate::target::postgres::executions::Trigger;

pub(super) async fn serve(
    config: &Config,
    life: &Arc<Life>,
    orders: &Orders,
    stop: &Stop,
) -> Result<Vec<JoinHandle<()>>> {
    let handler = {
        let (life, orders, stop) = (Arc::clone(life), orders.clone(), stop.clone());
        move |request| answer(request, Arc::clone(&life), orders.clone(), stop.clone())
    };
    let socket = ControlSocket::bind(&config.socket(Program::Applier))?;
    Ok(vec![tokio::spawn(socket.serve(handler)), api::serve(life, orders).await])
}

async fn answer(request: control::Request, life: Arc<Life>, orders: Orders, stop: Stop) -> Response {
    match (request.method, request.path.as_str()) {
        (Method::Get, "/status") => api::status(&life).await,
        (Method::Get, "/health") => api::health(&life).await,
        (Method::Get, "/metrics") => api::metrics(&life).await,
        // By POST, so that only who may command us reads it.
        (Method::Post, "/settings") => Response::json(200, &life.settings()),
        (Method::Post, "/jobs") => Response::json(200, &json!(progress::jobs())),
        (Method::Post, path) => match Request::read(&request) {
            Ok(Some(asked)) => do_as_asked(asked, &life, &orders, &stop).await,
            Ok(None) => Response::not_found(path),
            Err(error) => Response::error(400, &error.one_line()),
        },
        (_, path) => Response::not_found(path),
    }
}

async fn do_as_asked(asked: Request, life: &Life, orders: &Orders, stop: &Stop) -> Response {
    match asked {
        Request::Stop => {
            info!("stop asked for by a command");
            stop.ask();
            Response::json(200, &json!(Answer::done("stopping".into(), json!({}))))
        }
        Request::Sync => enqueue(orders, Order::Sync).await,
        Request::Load => {
            let (to, _) = oneshot::channel();
            // A full queue ends in a pass all the same.
            let _ = orders.try_send(Ordered { order: Order::Sync, to, execution: None });
            Response::json(200, &json!(accepted()))
        }
        Request::Retry(retry) => enqueue(orders, Order::Retry(retry)).await,
        Request::Resync(resync) => enqueue(orders, Order::Resync(resync)).await,
        // Who only looks does not wait for a pass.
        Request::DeadLetters(order @ (DeadLetters::List { .. } | DeadLetters::Show { .. })) => {
            let looked = dead_letters::look(&life.config(), &order).await;
            Response::json(200, &json!(looked.unwrap_or_else(|error| Answer::failed(&error))))
        }
        Request::DeadLetters(order) => enqueue(orders, Order::DeadLetters(order)).await,
    }
}

fn accepted() -> Answer {
    Answer::done("accepted".into(), json!({"accepted": true}))
}

async fn enqueue(orders: &Orders, order: Order) -> Response {
    let (to, answered) = oneshot::channel();
    if orders.send(Ordered { order, to, execution: None }).await.is_err() {
        return stopping();
    }
    answered.await.unwrap_or_else(|_| stopping())
}

fn stopping() -> Response {
    Response::error(503, "the daemon is stopping")
}

/// Carries an order out, and answers who asked.
pub(super) async fn obey(order: Order, execution: Option<Uuid>, life: &Life, runner: &Runner) -> Response {
    let trigger = if execution.is_some() { Trigger::Api } else { Trigger::Command };
    if let Some(id) = execution {
        life.execution_runs(id).await;
    }
    let released = match order {
        Order::Sync => Ok(None),
        Order::Retry(retry) => retry::release(&runner.config, &retry).await.map(|()| None),
        Order::DeadLetters(order) => dead_letters::release(&runner.config, &order).await,
        Order::Resync(resync) => {
            // Who asked looks at the tables until they are made; a pass comes next, and the load after it.
            let noted = resync::request(&runner.config, &resync).await;
            let answer = noted.map_or_else(|error| Answer::failed(&error), |_| accepted());
            return Response::json(200, &json!(answer));
        }
    };
    let answer = match released {
        // Somebody waits for the end: what passes by itself is not a failure yet.
        Ok(skipped) => match life.pass(&runner.config, runner.patient_pass(trigger)).await {
            None => return stopping(),
            Some(Ok(report)) => {
                dead_letters::with_skipped(sync::answer(&Synced::from(report)), skipped.as_ref())
            }
            Some(Err(error)) => Answer::failed(&error),
        },
        Err(error) => Answer::failed(&error),
    };
    Response::json(200, &json!(answer))
}
