//! The socket of the process that owns the file: what is answered at once, and what waits for its turn.

use std::sync::Arc;
use std::time::Duration;

use serde_json::json;
use syncdata_formats::error::Result;
use syncdata_service::config::{Config, Program};
use syncdata_service::control::{self, ControlSocket, Method, Response};
use syncdata_service::daemon::Stop;
use syncdata_service::progress;
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;
use tracing::info;

use crate::operations::Answer;
use crate::operations::duckdb::{Asked, Owner, Watch};
use crate::program::metrics::metrics;

/// More that was asked for at once waits with its connection.
const ORDERS_MAX: usize = 8;

/// Answers that were given have gone out by then.
const FAREWELL: Duration = Duration::from_millis(200);

struct Ordered {
    asked: Asked,
    to: oneshot::Sender<Answer>,
}

/// See the module.
pub(super) struct Serving {
    watch: Arc<Watch>,
    ordered: mpsc::Receiver<Ordered>,
    task: JoinHandle<()>,
    stop: Stop,
}

impl Serving {
    pub(super) fn start(config: &Config, watch: Watch, stop: &Stop) -> Result<Serving> {
        let (orders, ordered) = mpsc::channel(ORDERS_MAX);
        let watch = Arc::new(watch);
        let handler = {
            let (watch, stop) = (Arc::clone(&watch), stop.clone());
            move |request| answer(request, Arc::clone(&watch), orders.clone(), stop.clone())
        };
        let socket = ControlSocket::bind(&config.socket(Program::Applier))?;
        Ok(Serving { watch, ordered, task: tokio::spawn(socket.serve(handler)), stop: stop.clone() })
    }

    pub(super) fn watch(&self) -> &Watch {
        &self.watch
    }

    /// Waits until somebody asks for something, and does it.
    pub(super) async fn obey_next(&mut self, owner: &mut Owner) {
        match self.ordered.recv().await {
            Some(ordered) => self.obey(ordered, owner).await,
            None => std::future::pending().await,
        }
    }

    async fn obey(&self, ordered: Ordered, owner: &mut Owner) {
        let answer = match self.stop.is_asked() {
            true => Answer { exit_code: 2, ..Answer::done(String::new(), json!({})) }
                .with_words("the process that owns the file is stopping"),
            false => owner.carry_out(ordered.asked).await,
        };
        // Who asked may have gone; it was done all the same.
        let _ = ordered.to.send(answer);
    }

    /// Nobody can ask any more. What was asked for before is done.
    pub(super) async fn end(&mut self, owner: &mut Owner) {
        self.task.abort();
        // The socket's file goes with its task.
        let _ = (&mut self.task).await;
        let mut has_answered = false;
        while let Ok(ordered) = self.ordered.try_recv() {
            self.obey(ordered, owner).await;
            has_answered = true;
        }
        if has_answered {
            tokio::time::sleep(FAREWELL).await;
        }
    }
}

async fn answer(
    request: control::Request,
    watch: Arc<Watch>,
    orders: mpsc::Sender<Ordered>,
    stop: Stop,
) -> Response {
    match (request.method, request.path.as_str()) {
        (Method::Get, "/status") => Response::json(200, &json!(watch.status().await)),
        (Method::Get, "/health") => {
            let status = watch.status().await;
            Response::health(status.healthy, &json!({"healthy": status.healthy, "problems": status.problems}))
        }
        (Method::Get, "/metrics") => Response::metrics(metrics(&watch.status().await, &watch.counts())),
        // By POST, so that only who may command us reads it.
        (Method::Post, "/settings") => Response::json(200, &watch.settings()),
        (Method::Post, "/jobs") => Response::json(200, &json!(progress::jobs())),
        (Method::Post, "/list") => Response::json(200, &json!(watch.list().await)),
        (Method::Post, "/stop") => {
            info!("stop asked for by a command");
            stop.ask();
            Response::json(200, &json!(Answer::done("stopping".into(), json!({}))))
        }
        (Method::Post, "/file") => match request.json() {
            Ok(asked) => {
                let (to, answered) = oneshot::channel();
                let is_sent = orders.send(Ordered { asked, to }).await.is_ok();
                match answered.await {
                    Ok(answer) if is_sent => Response::json(200, &json!(answer)),
                    _ => Response::error(503, "the process that owns the file is stopping"),
                }
            }
            Err(error) => Response::error(400, &error.one_line()),
        },
        (_, path) => Response::not_found(path),
    }
}
