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
use syncdata_formats::{Error, Kind, Result};
use syncdata_service::alerts::Alerting;
use syncdata_service::backoff::{Backoff, Dice};
use syncdata_service::config::{Config, Program};
use syncdata_service::control::{ControlSocket, Method, Request, Response};
use syncdata_service::daemon::{Heartbeat, Phase, Reloads, Stop, notify};
use syncdata_service::disk::Room;
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;
use tokio::time::Instant;
use tracing::{debug, error, info, warn};

use crate::operations;
use crate::operations::declare_gap::DeclareGap;
use crate::operations::prune::Prune;
use crate::operations::remembered;
use crate::operations::rollups;
use crate::operations::status::{Frame, SpoolStatus, Status};
use crate::poll::archiver::{Archiver, Follows};
use crate::poll::outcome::Outcome;
use crate::program::answer::Answer;
use crate::program::api;
use crate::program::life::{self, Life};
use crate::program::poll_log::PollLog;
use crate::program::snapshot_asked;
use crate::program::stopping::unless_stopped;
use crate::proof::asking::Asks;
use crate::proof::{self, Made};
use crate::segment::cut::Watch;
use crate::snapshot;
use crate::spool::Spool;
use crate::spool::executions::Trigger;

/// Without any sign of life for so long, the watchdog may strike.
const PATIENCE: Duration = Duration::from_secs(300);

/// While nothing commits, head.json says so often that it is as fresh.
const IDLE_FOLLOW: Duration = Duration::from_secs(10);

/// A copy that is seconds behind does not wait long because of what may pass by itself after all.
const FOLLOW_AGAIN: Duration = Duration::from_secs(60);

const FIRST_RETRY: Duration = Duration::from_secs(5);

/// What a command asks the daemon to do between two polls.
#[derive(Debug)]
enum Order {
    Poll(oneshot::Sender<Response>),
    DeclareGap(DeclareGap, oneshot::Sender<Response>),
    Prune(Prune, oneshot::Sender<Response>),
}

type Shared = Arc<Life>;

/// What a proof needs of the daemon: polls, and the search that they carry.
#[derive(Clone, Debug)]
struct Prover {
    config: Config,
    status: Shared,
    watch: Watch,
    asks: Asks,
}

type Provers = Arc<Mutex<Option<Prover>>>;

/// The daemon. `reload` reads the settings again.
pub(crate) async fn serve(config: Config, reload: impl Fn() -> Result<Config>) -> Result<ExitCode> {
    let stop = Stop::new();
    stop.on_signals()?;
    let mut reloads = Reloads::listen()?;
    let heartbeat = Heartbeat::new();
    let (orders, mut ordered) = mpsc::channel(8);
    let status = Shared::new(Life::new(&config));
    let journal = life::journal(&config);
    let mut archiver = Archiver::new(config)?;
    {
        let mut status = lock(&status);
        status.poll_frequency_seconds = archiver.config.data_sync_freq.as_secs();
        status.disks = rooms(&archiver.config);
        status.started(frame(&archiver), archiver.spool());
    }
    let provers = Provers::default();
    let mut proofs = Schedule::default();
    let mut rollups = rollups::Schedule::default();
    let (asks, mut asked) = Asks::new();
    let prover = |archiver: &Archiver| Prover {
        config: archiver.config.clone(),
        status: Shared::clone(&status),
        watch: archiver.watch(),
        asks: asks.clone(),
    };
    *lock_prover(&provers) = Some(prover(&archiver));
    serve_control(&archiver.config, &status, &orders, &provers, &stop).await?;
    tokio::spawn(Alerting::new(Shared::clone(&status), journal).watch(stop.clone()));
    tokio::spawn({
        let (status, stop) = (Shared::clone(&status), stop.clone());
        async move { status.keep_points(&stop).await }
    });
    notify(Phase::Ready);
    heartbeat.feed_watchdog(PATIENCE);
    info!(version = env!("CARGO_PKG_VERSION"), "started");
    let mut backoff = Backoff::endless(FIRST_RETRY, archiver.config.data_sync_freq);
    let mut log = PollLog::default();
    while !stop.is_asked() {
        let started = Instant::now();
        let polled = {
            let _waiting = heartbeat.wait();
            poll(&mut archiver, &mut log, &status, &stop, Trigger::Schedule).await
        };
        let Some(outcome) = polled else { break };
        if outcome.as_ref().is_ok_and(Outcome::is_clean) && proofs.is_due(&archiver.config) {
            proofs.begin(prover(&archiver));
        }
        if outcome.as_ref().is_ok_and(Outcome::is_clean)
            && let Some(spool) = archiver.spool()
        {
            rollups.begin_if_due(&archiver.config, spool.state()).await;
        }
        let pause = match outcome {
            Ok(outcome) if outcome.away.is_none() && outcome.held_back.is_none() => {
                match archiver.follows() {
                    // It may be possible again soon.
                    Some(Follows::Polls(_)) => {
                        backoff.next(Dice::roll()).unwrap_or(archiver.config.data_sync_freq)
                    }
                    Some(Follows::Stream) => {
                        backoff.reset();
                        IDLE_FOLLOW
                    }
                    None => {
                        backoff.reset();
                        archiver.config.data_sync_freq
                    }
                }
            }
            // Asking again soon helps nobody when a person has to act, and costs production a look at the slot.
            Err(error) if error.kind().remedy() == Remedy::Operator => match archiver.config.follow {
                true => FOLLOW_AGAIN.min(archiver.config.data_sync_freq),
                false => archiver.config.data_sync_freq,
            },
            _ => backoff.next(Dice::roll()).unwrap_or(archiver.config.data_sync_freq),
        };
        status.waits(pause);
        let _waiting = heartbeat.wait();
        let follows_after = started + archiver.config.follow_interval;
        let next_poll = Instant::now() + pause.min(archiver.config.data_sync_freq);
        loop {
            tokio::select! {
                // While it is followed there is always news, and who asks for a poll waits for one that is theirs.
                biased;
                () = stop.asked() => break,
                () = reloads.next() => {
                    notify(Phase::Reloading);
                    archiver = reloaded(archiver, &reload, &status)?;
                    *lock_prover(&provers) = Some(prover(&archiver));
                    backoff = Backoff::endless(FIRST_RETRY, archiver.config.data_sync_freq);
                    notify(Phase::Ready);
                    break;
                }
                Some(ask) = asked.recv() => {
                    let mut next = Some(ask);
                    while let Some(ask) = next {
                        let (to, quiet) = ask.taken(&archiver.watch());
                        let polled = poll(&mut archiver, &mut log, &status, &stop, Trigger::Command).await;
                        let Some(polled) = polled else { break };
                        let polled = polled.map(drop).map_err(|error| Error::new(error.kind(), error.one_line()));
                        // A proof may have been given up meanwhile.
                        let _ = to.send(polled);
                        next = tokio::select! {
                            next = quiet.next(&mut asked) => next,
                            () = stop.asked() => None,
                        };
                    }
                }
                Some(order) = ordered.recv() => {
                    if obey(order, &mut archiver, &mut log, &status, &stop).await {
                        break;
                    }
                }
                () = tokio::time::sleep_until(next_poll) => break,
                () = archiver.news(follows_after) => break,
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
    trigger: Trigger,
) -> Option<Result<Outcome>> {
    let (canceller, started) = (archiver.canceller(), Instant::now());
    status.polls();
    // There may be ten of them in a second: they are counted, and none is noted by itself.
    let is_noted = archiver.follows() != Some(Follows::Stream) || trigger == Trigger::Command;
    let outcome = match is_noted {
        true => unless_stopped(operations::poll::poll(archiver, trigger), stop, &canceller).await?,
        false => unless_stopped(archiver.poll_on_news(), stop, &canceller).await?,
    };
    if let Ok(outcome) = &outcome {
        unless_stopped(archiver.follow(outcome), stop, &canceller).await?;
    }
    {
        let mut status = lock(status);
        status.numbers.polls.add(started.elapsed());
        status.follow = archiver.follows().map(|follows| match follows {
            Follows::Stream => "stream".to_owned(),
            Follows::Polls(None) => "polls".to_owned(),
            Follows::Polls(Some(why)) => format!("polls: {why}"),
        });
        status.disks = rooms(&archiver.config);
    }
    match &outcome {
        Ok(outcome) => {
            log.note(outcome);
            if let Some(spool) = archiver.spool() {
                lock(status).polled(frame(archiver), outcome, spool);
            }
            if outcome.is_clean()
                && let Err(error) = archiver.compare_keep_days()
            {
                warn!(error = %error.one_line(), "keep_days could not be noted");
            }
            if outcome.is_clean() && archiver.is_prune_to_be_announced() {
                announce_prune(archiver, stop).await?;
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
    status.polled(&outcome);
    notify(Phase::Status(&summary(&lock(status))));
    Some(outcome)
}

/// `None`: abandoned, because the daemon stops. What fails is tried again after the next poll.
async fn prune(archiver: &mut Archiver, status: &Shared, stop: &Stop) -> Option<()> {
    let canceller = archiver.canceller();
    let pruning = operations::prune::prune(archiver, Prune { dry_run: false }, Trigger::Schedule);
    match unless_stopped(pruning, stop, &canceller).await? {
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

/// What new settings let go of does not go before somebody could read of it.
async fn announce_prune(archiver: &mut Archiver, stop: &Stop) -> Option<()> {
    let canceller = archiver.canceller();
    let planning = operations::prune::prune(archiver, Prune { dry_run: true }, Trigger::Schedule);
    match unless_stopped(planning, stop, &canceller).await? {
        Ok(plan) => {
            if let Err(error) = archiver.prune_is_announced() {
                warn!(error = %error.one_line(), "keep_days could not be noted");
            }
            warn!(
                files = plan.removals().count(),
                bytes = plan.bytes(),
                hint = "what goes: syncdata-archiver prune --dry-run; at once: syncdata-archiver prune",
                "keep_days is another one: the daily prune begins tomorrow (UTC), and so much would go now"
            );
        }
        Err(error) => warn!(error = %error.one_line(), "nobody can say yet what prune removes"),
    }
    Some(())
}

fn frame(archiver: &Archiver) -> Frame<'_> {
    Frame {
        wal_guard: archiver.config.wal_guard.as_u64(),
        spool_max: archiver.config.spool_max.as_u64(),
        location: archiver.location(),
        spool_dir: &archiver.config.spool_dir,
        now: Timestamp::now(),
    }
}

fn rooms(config: &Config) -> Vec<Room> {
    Room::of("spool", &config.spool_dir).into_iter().collect()
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
    let (before, watch) = (archiver.config.clone(), archiver.watch());
    // The spool's lock is ours until the old one is gone.
    drop(archiver);
    let keep_days = before.keep_days;
    let archiver = match reload().and_then(Archiver::new) {
        Ok(mut archiver) => {
            if archiver.config.keep_days != keep_days {
                archiver.announce_prune();
            }
            info!("settings reloaded");
            archiver
        }
        Err(error) => {
            error!(error = %error.one_line(), hint = error.hint_text(), "settings not reloaded, going on with the old ones");
            Archiver::new(before)?
        }
    };
    // A proof that is being made goes on, and no other one beside it.
    let archiver = archiver.carrying(watch);
    lock(status).poll_frequency_seconds = archiver.config.data_sync_freq.as_secs();
    status.configured(&archiver.config);
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
            let polled = poll(archiver, log, status, stop, Trigger::Command).await;
            (polled.map(|polled| polled.map(|outcome| Answer::of_poll(&outcome))), to)
        }
        Order::DeclareGap(gap, to) => {
            let declared =
                unless_stopped(operations::declare_gap::declare_gap(archiver, &gap), stop, &canceller).await;
            (declared.map(|declared| declared.map(|gap| Answer::new(gap.exit_code(), gap.text()))), to)
        }
        Order::Prune(prune, to) => {
            let pruning = operations::prune::prune(archiver, prune, Trigger::Command);
            let pruned = unless_stopped(pruning, stop, &canceller).await;
            (pruned.map(|pruned| pruned.map(Answer::of_prune)), to)
        }
    };
    let changed = declares && matches!(answer, Some(Ok(_)));
    let response = match answer {
        None => Response::error(503, "the daemon is stopping"),
        Some(Ok(answer)) => Response::json(200, &json!(answer)),
        Some(Err(error)) => Response::json(200, &json!(Answer::failed(2, &error))),
    };
    // Who asked may have gone; it was done all the same.
    let _ = to.send(response);
    changed
}

async fn serve_control(
    config: &Config,
    status: &Shared,
    orders: &mpsc::Sender<Order>,
    provers: &Provers,
    stop: &Stop,
) -> Result<()> {
    let handler = {
        let (status, orders, stop) = (status.clone(), orders.clone(), stop.clone());
        let provers = provers.clone();
        move |request| answer(request, status.clone(), orders.clone(), provers.clone(), stop.clone())
    };
    let socket = ControlSocket::bind(&config.socket(Program::Archiver))?;
    tokio::spawn(socket.serve(handler));
    api::serve(status).await;
    Ok(())
}

async fn answer(
    request: Request,
    status: Shared,
    orders: mpsc::Sender<Order>,
    provers: Provers,
    stop: Stop,
) -> Response {
    match (request.method, request.path.as_str()) {
        (Method::Get, "/status") => api::status(&status),
        (Method::Get, "/health") => api::health(&status),
        (Method::Get, "/metrics") => api::metrics(&status),
        (Method::Post, "/stop") => {
            stop.ask();
            Response::json(200, &json!(Answer::new(0, "stopping")))
        }
        // By POST, so that only who may command us reads it.
        (Method::Post, "/settings") => match lock_prover(&provers).as_ref() {
            Some(prover) => Response::json(200, &prover.config.describe_json()),
            None => Response::error(503, "the daemon is starting"),
        },
        (Method::Post, remembered::PATH) => {
            let spool = lock_prover(&provers).as_ref().map(|prover| prover.config.spool_dir.clone());
            match spool.map(|spool| Spool::peek_state(&spool)) {
                Some(Ok(state)) => Response::json(200, &json!(state)),
                Some(Err(error)) => Response::error(500, &error.one_line()),
                None => Response::error(503, "the daemon is starting"),
            }
        }
        (Method::Post, "/poll") => ordered(&orders, Order::Poll).await,
        (Method::Post, "/proof") => match request.json::<proof::Options>() {
            Ok(options) => {
                let prover = lock_prover(&provers).clone();
                match prover {
                    Some(prover) => prover.answer(&options).await,
                    None => Response::error(503, "the daemon is starting"),
                }
            }
            Err(error) => Response::error(400, &error.one_line()),
        },
        (Method::Post, "/snapshot") => match request.json::<snapshot::Options>() {
            Ok(options) => {
                let config = lock_prover(&provers).as_ref().map(|prover| prover.config.clone());
                match config {
                    Some(config) => snapshot_asked::answer(config, options).await,
                    None => Response::error(503, "the daemon is starting"),
                }
            }
            Err(error) => Response::error(400, &error.one_line()),
        },
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

impl Prover {
    async fn prove(&self, options: &proof::Options, trigger: Trigger) -> Result<Made> {
        let making = proof::make(&self.config, options, &self.watch, &self.asks);
        let made = operations::proof::noted(&self.config, trigger, making).await;
        let mut status = lock(&self.status);
        match &made {
            Ok(_) => status.archive.newest_proof_at = Some(Timestamp::now()),
            Err(error) => status.note_error(format!("no proof was made: {}", error.one_line())),
        }
        made
    }

    /// The archive remembers, so that a daemon which starts again and again does not read all of production each time.
    async fn prove_if_due(&self) -> Result<()> {
        let newest = proof::newest_taken_at(&self.config).await?;
        {
            let known = &mut lock(&self.status).archive.newest_proof_at;
            *known = newest.max(*known);
        }
        if newest.is_some_and(|newest| Timestamp::now().since(newest) < self.config.proof_every) {
            debug!("the newest proof is young enough");
            return Ok(());
        }
        self.prove(&proof::Options::default(), Trigger::Schedule).await.map(drop)
    }

    async fn answer(&self, options: &proof::Options) -> Response {
        let answer = match self.prove(options, Trigger::Command).await {
            Ok(made) => Answer::of_proof(made),
            Err(error) => Answer::failed(if error.kind().is_transient() { 1 } else { 2 }, &error),
        };
        Response::json(200, &json!(answer))
    }
}

fn lock_prover(provers: &Provers) -> std::sync::MutexGuard<'_, Option<Prover>> {
    provers.lock().unwrap_or_else(PoisonError::into_inner)
}

/// When the daemon makes a proof by itself.
#[derive(Debug, Default)]
struct Schedule {
    /// When it was last looked whether one is due.
    looked: Option<Instant>,
    running: Option<JoinHandle<()>>,
}

/// A proof that could not be made is tried again after that time; one that somebody else made counts.
const LOOK_EVERY: Duration = Duration::from_secs(3600);

impl Schedule {
    fn is_due(&self, config: &Config) -> bool {
        let is_running = self.running.as_ref().is_some_and(|task| !task.is_finished());
        let every = config.proof_every;
        let pause = every.min(LOOK_EVERY);
        !every.is_zero() && !is_running && self.looked.is_none_or(|looked| looked.elapsed() >= pause)
    }

    fn begin(&mut self, prover: Prover) {
        self.looked = Some(Instant::now());
        self.running = Some(tokio::spawn(async move {
            if let Err(error) = prover.prove_if_due().await {
                warn!(error = %error.one_line(), hint = error.hint_text(), "no proof was made");
            }
        }));
    }
}

fn lock(status: &Shared) -> std::sync::MutexGuard<'_, Status> {
    status.status()
}
