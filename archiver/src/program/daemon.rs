//! `run`: one poll, or polls until somebody asks to stop.
//!
//! ```text
//! signals ─▶ Stop, Reloads ┐
//! control socket ─ orders ─┼─▶ loop { poll, or an order, or wait } ─▶ Status ─▶ control socket, http_listen
//! ```

use std::process::ExitCode;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use serde_json::json;
use syncdata_formats::error::Remedy;
use syncdata_formats::time::Timestamp;
use syncdata_formats::{Kind, Result};
use syncdata_service::backoff::{Backoff, Dice};
use syncdata_service::config::{Config, Program};
use syncdata_service::control::{self, ControlSocket, Method, Request, Response};
use syncdata_service::daemon::{Heartbeat, Phase, Reloads, Stop, notify};
use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;
use tracing::{error, info};

use crate::operations;
use crate::operations::declare_gap::DeclareGap;
use crate::operations::prune::Prune;
use crate::operations::status::{Frame, SpoolStatus, Status};
use crate::poll::archiver::Archiver;
use crate::poll::outcome::Outcome;
use crate::program::answer::Answer;
use crate::program::poll_log::PollLog;
use crate::program::stopping::unless_stopped;

/// Without any sign of life for so long, the watchdog may strike.
const PATIENCE: Duration = Duration::from_secs(300);

const FIRST_RETRY: Duration = Duration::from_secs(5);

/// What a command asks the daemon to do between two polls.
#[derive(Debug)]
enum Order {
    Poll(oneshot::Sender<Response>),
    DeclareGap(DeclareGap, oneshot::Sender<Response>),
    Prune(Prune, oneshot::Sender<Response>),
}

type Shared = Arc<Mutex<Status>>;

/// The daemon. `reload` reads the settings again.
pub(crate) async fn serve(config: Config, reload: impl Fn() -> Result<Config>) -> Result<ExitCode> {
    let stop = Stop::new();
    stop.on_signals()?;
    let mut reloads = Reloads::listen()?;
    let heartbeat = Heartbeat::new();
    let (orders, mut ordered) = mpsc::channel(8);
    let status = Shared::default();
    let mut archiver = Archiver::new(config)?;
    {
        let mut status = lock(&status);
        status.poll_frequency_seconds = archiver.config.data_sync_freq.as_secs();
        status.started(frame(&archiver), archiver.spool());
    }
    serve_control(&archiver.config, &status, &orders, &stop).await?;
    notify(Phase::Ready);
    heartbeat.feed_watchdog(PATIENCE);
    info!(version = env!("CARGO_PKG_VERSION"), "started");
    let mut backoff = Backoff::endless(FIRST_RETRY, archiver.config.data_sync_freq);
    let mut log = PollLog::default();
    while !stop.is_asked() {
        let polled = {
            let _waiting = heartbeat.wait();
            poll(&mut archiver, &mut log, &status, &stop).await
        };
        let Some(outcome) = polled else { break };
        let pause = match outcome {
            Ok(outcome) if outcome.away.is_none() && outcome.held_back.is_none() => {
                backoff.reset();
                archiver.config.data_sync_freq
            }
            // Asking again soon helps nobody when a person has to act, and costs production a look at the slot.
            Err(error) if error.kind().remedy() == Remedy::Operator => archiver.config.data_sync_freq,
            _ => backoff.next(Dice::roll()).unwrap_or(archiver.config.data_sync_freq),
        };
        let _waiting = heartbeat.wait();
        let next_poll = Instant::now() + pause.min(archiver.config.data_sync_freq);
        loop {
            tokio::select! {
                () = tokio::time::sleep_until(next_poll) => break,
                () = stop.asked() => break,
                () = reloads.next() => {
                    notify(Phase::Reloading);
                    archiver = reloaded(archiver, &reload, &status)?;
                    backoff = Backoff::endless(FIRST_RETRY, archiver.config.data_sync_freq);
                    notify(Phase::Ready);
                    break;
                }
                Some(order) = ordered.recv() => {
                    if obey(order, &mut archiver, &mut log, &status, &stop).await {
                        break;
                    }
                }
            }
        }
    }
    notify(Phase::Stopping);
    info!("stopped");
    Ok(ExitCode::SUCCESS)
}

/// `None`: abandoned, because the daemon stops.
async fn poll(
    archiver: &mut Archiver,
    log: &mut PollLog,
    status: &Shared,
    stop: &Stop,
) -> Option<Result<Outcome>> {
    let canceller = archiver.canceller();
    let outcome = unless_stopped(operations::poll::poll(archiver), stop, &canceller).await?;
    match &outcome {
        Ok(outcome) => {
            log.note(outcome);
            if let Some(spool) = archiver.spool() {
                lock(status).polled(frame(archiver), outcome, spool);
            }
            if outcome.is_clean() && archiver.is_prune_due() {
                prune(archiver, status, stop).await?;
            }
        }
        Err(error) => {
            error!(error = %error.one_line(), hint = error.hint_text(), "poll failed");
            lock(status).poll_failed(frame(archiver), error, archiver.last_view(), archiver.spool());
        }
    }
    notify(Phase::Status(&summary(&lock(status))));
    Some(outcome)
}

/// `None`: abandoned, because the daemon stops. What fails is tried again after the next poll.
async fn prune(archiver: &mut Archiver, status: &Shared, stop: &Stop) -> Option<()> {
    let canceller = archiver.canceller();
    match unless_stopped(operations::prune::prune(archiver, Prune { dry_run: false }), stop, &canceller)
        .await?
    {
        Ok(_) => {}
        Err(error) if error.kind() == Kind::Locked => {
            info!(reason = %error.one_line(), "not pruned now");
        }
        Err(error) => {
            error!(error = %error.one_line(), hint = error.hint_text(), "archive not pruned");
            lock(status).add_problem(&error);
        }
    }
    Some(())
}

fn frame(archiver: &Archiver) -> Frame<'_> {
    Frame {
        wal_guard: archiver.config.wal_guard.as_u64(),
        spool_max: archiver.config.spool_max.as_u64(),
        location: archiver.location(),
        now: Timestamp::now(),
    }
}

fn summary(status: &Status) -> String {
    match (status.problems.first(), &status.spool) {
        (Some(problem), _) => problem.clone(),
        (None, Some(SpoolStatus { covered_lsn, covered_at: Some(at), .. })) => {
            format!("archived up to {covered_lsn} as of {at}")
        }
        (None, _) => "waiting for the first poll".to_owned(),
    }
}

/// Settings that cannot be used change nothing.
fn reloaded(archiver: Archiver, reload: &impl Fn() -> Result<Config>, status: &Shared) -> Result<Archiver> {
    let before = archiver.config.clone();
    // The spool's lock is ours until the old one is gone.
    drop(archiver);
    let archiver = match reload().and_then(Archiver::new) {
        Ok(archiver) => {
            info!("settings reloaded");
            archiver
        }
        Err(error) => {
            error!(error = %error.one_line(), hint = error.hint_text(), "settings not reloaded, going on with the old ones");
            Archiver::new(before)?
        }
    };
    lock(status).poll_frequency_seconds = archiver.config.data_sync_freq.as_secs();
    Ok(archiver)
}

/// Whether a poll has to follow.
async fn obey(
    order: Order,
    archiver: &mut Archiver,
    log: &mut PollLog,
    status: &Shared,
    stop: &Stop,
) -> bool {
    let declares = matches!(order, Order::DeclareGap(..));
    let canceller = archiver.canceller();
    let (answer, to) = match order {
        Order::Poll(to) => {
            let polled = poll(archiver, log, status, stop).await;
            (polled.map(|polled| polled.map(|outcome| Answer::of_poll(&outcome))), to)
        }
        Order::DeclareGap(gap, to) => {
            let declared =
                unless_stopped(operations::declare_gap::declare_gap(archiver, &gap), stop, &canceller).await;
            (declared.map(|declared| declared.map(|gap| Answer::new(gap.exit_code(), gap.text()))), to)
        }
        Order::Prune(prune, to) => {
            let pruned = unless_stopped(operations::prune::prune(archiver, prune), stop, &canceller).await;
            (pruned.map(|pruned| pruned.map(Answer::of_prune)), to)
        }
    };
    let changed = declares && matches!(answer, Some(Ok(_)));
    let response = match answer {
        None => Response::error(503, "the daemon is stopping"),
        Some(Ok(answer)) => Response::json(200, &json!(answer)),
        Some(Err(error)) => Response::json(200, &json!(Answer::new(2, error.report()))),
    };
    // Who asked may have gone; it was done all the same.
    let _ = to.send(response);
    changed
}

async fn serve_control(
    config: &Config,
    status: &Shared,
    orders: &mpsc::Sender<Order>,
    stop: &Stop,
) -> Result<()> {
    let handler = {
        let (status, orders, stop) = (status.clone(), orders.clone(), stop.clone());
        move |request| answer(request, status.clone(), orders.clone(), stop.clone())
    };
    let socket = ControlSocket::bind(&config.socket(Program::Archiver))?;
    tokio::spawn(socket.serve(handler.clone()));
    if let Some(address) = config.http_listen {
        let (_, serving) = control::serve_tcp(address, handler).await?;
        tokio::spawn(serving);
    }
    Ok(())
}

async fn answer(request: Request, status: Shared, orders: mpsc::Sender<Order>, stop: Stop) -> Response {
    match (request.method, request.path.as_str()) {
        (Method::Get, "/status") => Response::json(200, &json!(as_of_now(&status))),
        (Method::Get, "/health") => {
            let status = as_of_now(&status);
            Response::health(status.healthy, &json!({"healthy": status.healthy, "problems": status.problems}))
        }
        (Method::Get, "/metrics") => Response::metrics(as_of_now(&status).metrics()),
        (Method::Post, "/stop") => {
            stop.ask();
            Response::json(200, &json!(Answer::new(0, "stopping")))
        }
        (Method::Post, "/poll") => ordered(&orders, Order::Poll).await,
        (Method::Post, "/prune") => match request.json::<Prune>() {
            Ok(order) => ordered(&orders, |to| Order::Prune(order, to)).await,
            Err(error) => Response::error(400, &error.one_line()),
        },
        (Method::Post, "/declare-gap") => match request.json::<DeclareGap>() {
            Ok(gap) => ordered(&orders, |to| Order::DeclareGap(gap, to)).await,
            Err(error) => Response::error(400, &error.one_line()),
        },
        (_, path) => Response::not_found(path),
    }
}

async fn ordered(
    orders: &mpsc::Sender<Order>,
    order: impl FnOnce(oneshot::Sender<Response>) -> Order,
) -> Response {
    let (to, answered) = oneshot::channel();
    let stopping = || Response::error(503, "the daemon is stopping");
    if orders.send(order(to)).await.is_err() {
        return stopping();
    }
    answered.await.unwrap_or_else(|_| stopping())
}

fn as_of_now(status: &Shared) -> Status {
    lock(status).clone().seen_at(Timestamp::now())
}

/// A panic elsewhere leaves a status that is at worst old.
fn lock(status: &Shared) -> std::sync::MutexGuard<'_, Status> {
    status.lock().unwrap_or_else(PoisonError::into_inner)
}
