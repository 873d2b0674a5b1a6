//! `start`: passes, until somebody asks to stop.
//!
//! ```text
//! signals ─▶ Stop, Reloads ┐
//! control socket ─ orders ─┼─▶ loop { pass, or an order, or wait } ─▶ Life ┐
//!                          └─▶ GET /status /health /metrics ◀─ database ◀──┘
//! ```
//!
//! One session is kept beside those of the passes: it holds the lock that makes this the only daemon of its
//! database, and answers how far the tables are.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use syncdata_formats::error::{Error, Kind, Remedy, Result};
use syncdata_formats::time::Timestamp;
use syncdata_service::backoff::{Backoff, Dice};
use syncdata_service::config::{ArchiveSettings, Config, Program};
use syncdata_service::control::{self, ControlSocket, Method, Request, Response};
use syncdata_service::daemon::{Heartbeat, Phase, Reloads, Stop, notify};
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;
use tracing::{error, info, warn};

use crate::load;
use crate::operations::{Answer, resync, retry, sync};
use crate::pass::runner::Runner;
use crate::pass::{Report, Tally};
use crate::program::status::{self, Found, Status};
use crate::target::postgres::local::{APPLICATION_NAME, Local};

/// Without any sign of life for so long, the watchdog may strike.
const PATIENCE: Duration = Duration::from_secs(300);

const FIRST_RETRY: Duration = Duration::from_secs(1);

/// A status is answered within this, with or without the database.
const STATUS_PATIENCE: Duration = Duration::from_secs(5);

/// What a command asks the daemon to do between two passes.
#[derive(Debug)]
enum Order {
    Sync,
    Retry(RetryOrder),
    Resync(ResyncOrder),
}

/// As it travels to the daemon.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct RetryOrder {
    pub tables: Vec<String>,
    pub accept_gap: bool,
}

/// As it travels to the daemon.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ResyncOrder {
    pub tables: Vec<String>,
    pub all: bool,
    pub adopt: bool,
}

type Orders = mpsc::Sender<(Order, oneshot::Sender<Response>)>;

/// What the daemon has gone through; what the control socket's answers are made of.
#[derive(Debug)]
struct Life {
    start_time: Timestamp,
    tally: Arc<Tally>,
    facts: Mutex<Facts>,
    session: Mutex<Option<Arc<Local>>>,
}

#[derive(Debug, Default)]
struct Facts {
    frequency: Duration,
    stale_after: Duration,
    archive: String,
    last_sync: Option<Timestamp>,
    /// That loads have applied; those of passes are in the tally.
    records: u64,
    errors: u64,
    /// Why the last pass was not all well.
    trouble: Option<String>,
    waits_for_base: bool,
    /// For the time when the database cannot be asked.
    found: Found,
}

/// The daemon. `reload` reads the settings again.
pub async fn serve(config: Config, reload: impl Fn() -> Result<Config>) -> Result<()> {
    let stop = Stop::new();
    stop.on_signals()?;
    let mut reloads = Reloads::listen()?;
    let mut runner = Runner::new(config.clone(), stop.clone());
    let life = Arc::new(Life::new(&config, runner.tally()));
    match life.only_one(&config).await {
        Err(error) if error.kind() == Kind::Unreachable => {
            warn!(error = %error.one_line(), "the local server is not there yet");
        }
        result => result?,
    }
    let (orders, mut ordered) = mpsc::channel(8);
    let serving = serve_control(&config, &life, &orders, &stop).await?;
    let heartbeat = Heartbeat::new();
    notify(Phase::Ready);
    heartbeat.feed_watchdog(PATIENCE);
    info!(version = env!("CARGO_PKG_VERSION"), "started");
    let mut backoff = Backoff::endless(FIRST_RETRY, runner.config.data_sync_freq);
    let (mut is_due, mut pause) = (true, runner.config.data_sync_freq);
    // What waits for a base is loaded beside the passes, one load at a time.
    let mut loading: Option<JoinHandle<Result<load::Report>>> = None;
    while !stop.is_asked() {
        let frequency = runner.config.data_sync_freq;
        let _waiting = heartbeat.wait();
        if is_due {
            pause = match life.pass(&runner.config, runner.pass()).await {
                None => break,
                Some(Ok(_)) => {
                    backoff.reset();
                    frequency
                }
                Some(Err(_)) => backoff.next(Dice::roll()).unwrap_or(frequency).min(frequency),
            };
        }
        if loading.is_none() && life.waits_for_base() {
            loading = Some(tokio::spawn(runner.load()));
        }
        is_due = true;
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            () = stop.asked() => {}
            () = reloads.next() => reloaded(&mut runner, &reload, &life),
            // A pass comes next and says how the tables are now. What was in vain is tried again with the next regular one.
            loaded = finished(&mut loading) => is_due = life.loaded(loaded),
            Some((order, to)) = ordered.recv() => {
                is_due = matches!(order, Order::Resync(_));
                let response = life.obey(order, &runner).await;
                // Who asked may have gone; it was done all the same.
                let _ = to.send(response);
            }
        }
    }
    notify(Phase::Stopping);
    if let Some(loading) = loading {
        // It loses nothing: the next daemon begins it anew.
        loading.abort();
    }
    for task in serving {
        task.abort();
        // The socket's file goes with its task; the lock after it.
        let _ = task.await;
    }
    info!("stopped");
    Ok(())
}

/// The load that was under way; never, without one.
async fn finished(loading: &mut Option<JoinHandle<Result<load::Report>>>) -> Result<load::Report> {
    let Some(task) = loading else { return std::future::pending().await };
    let done = task.await;
    *loading = None;
    done.unwrap_or_else(|_| Err(Error::new(Kind::Io, "the load of a base copy has panicked")))
}

/// Settings that cannot be used change nothing.
fn reloaded(runner: &mut Runner, reload: &impl Fn() -> Result<Config>, life: &Life) {
    notify(Phase::Reloading);
    match reload().and_then(|config| same_daemon(&runner.config, config)) {
        Ok(config) => {
            life.configured(&config);
            runner.config = config;
            info!("settings reloaded");
        }
        Err(error) => {
            error!(error = %error.one_line(), hint = error.hint_text(), "settings not reloaded, going on with the old ones");
        }
    }
    notify(Phase::Ready);
}

/// Lock, socket and address are those of the start.
fn same_daemon(old: &Config, new: Config) -> Result<Config> {
    let is_same =
        old.socket(Program::Applier) == new.socket(Program::Applier) && old.http_listen == new.http_listen;
    if is_same {
        return Ok(new);
    }
    let message = "the target database, meta_schema or http_listen changed: that takes a restart";
    Err(Error::new(Kind::BadInput, message).hint("syncdata-applier stop, then start again"))
}

impl Life {
    fn new(config: &Config, tally: Arc<Tally>) -> Life {
        let life = Life {
            start_time: status::second_of(Timestamp::now()),
            tally,
            facts: Mutex::default(),
            session: Mutex::default(),
        };
        life.configured(config);
        life
    }

    fn configured(&self, config: &Config) {
        let mut facts = self.facts();
        facts.frequency = config.data_sync_freq;
        facts.stale_after = config.stale_after;
        facts.archive = location(config);
    }

    /// A panic elsewhere leaves facts that are at worst old.
    fn facts(&self) -> MutexGuard<'_, Facts> {
        self.facts.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn session(&self) -> Option<Arc<Local>> {
        let session = self.session.lock().unwrap_or_else(PoisonError::into_inner);
        session.clone().filter(|local| !local.session.is_closed())
    }

    /// Makes sure that no other daemon has this database; again when the server has ended the session.
    async fn only_one(&self, config: &Config) -> Result<()> {
        if self.session().is_some() {
            return Ok(());
        }
        let name = format!("{APPLICATION_NAME} start, process {}", std::process::id());
        let local = Local::open_as(config, &name).await?;
        local.lock_daemon().await?;
        *self.session.lock().unwrap_or_else(PoisonError::into_inner) = Some(Arc::new(local));
        Ok(())
    }

    /// `None`: abandoned, because the daemon stops.
    async fn pass(
        &self,
        config: &Config,
        work: impl Future<Output = Option<Result<Report>>>,
    ) -> Option<Result<Report>> {
        let result = match self.only_one(config).await {
            Ok(()) => work.await?,
            Err(error) => Err(error),
        };
        // First the tables, then the word: who reads that a pass is done may ask at once how far they are.
        if let Err(error) = self.look().await {
            warn!(%error, "the tables' states are not known");
        }
        self.passed(&result);
        notify(Phase::Status(&self.summary()));
        Some(result)
    }

    fn passed(&self, result: &Result<Report>) {
        let mut facts = self.facts();
        match result {
            Ok(report) => {
                facts.trouble = report.missing.map(sync::missing);
                facts.waits_for_base = report.waits_for_base;
                if !report.stopped {
                    facts.last_sync = Some(status::second_of(Timestamp::now()));
                    info!(segments = report.segments, records = report.records, "pass done");
                }
            }
            Err(error) => {
                let (words, hint) = (error.one_line(), error.hint_text());
                match error.kind().remedy() {
                    Remedy::Retry => warn!(error = %words, hint, "pass failed, it is tried again"),
                    Remedy::Wait | Remedy::Operator => error!(error = %words, hint, "pass failed"),
                }
                facts.errors += 1;
                facts.trouble = Some(error.with_hint());
            }
        }
    }

    /// The next pass starts a load.
    fn waits_for_base(&self) -> bool {
        self.facts().waits_for_base
    }

    /// Whether some table was loaded.
    fn loaded(&self, result: Result<load::Report>) -> bool {
        let mut facts = self.facts();
        // Until a pass has looked again: what could not be loaded is not tried at once.
        facts.waits_for_base = false;
        match result {
            Ok(report) => {
                facts.records += report.records;
                !report.loaded.is_empty()
            }
            Err(error) => {
                error!(error = %error.one_line(), hint = error.hint_text(), "loading base copies failed");
                facts.errors += 1;
                false
            }
        }
    }

    fn summary(&self) -> String {
        let facts = self.facts();
        match (&facts.trouble, facts.last_sync) {
            (Some(trouble), _) => trouble.clone(),
            (None, Some(time)) => {
                let records = self.tally.records() + facts.records;
                format!("last sync {time}, {records} records since the start")
            }
            (None, None) => "in the first pass".to_owned(),
        }
    }

    async fn status(&self) -> Status {
        let silence = self.look().await.err();
        let facts = self.facts();
        let mut status = Status {
            status: "active".into(),
            start_time: Some(self.start_time),
            last_sync: facts.last_sync,
            records_synced: self.tally.records() + facts.records,
            errors: facts.errors,
            problems: facts.trouble.iter().cloned().collect(),
            ..status::frame(facts.frequency, facts.stale_after, facts.archive.clone())
        };
        // A pass that failed has said the same in its own words.
        status.problems.extend(silence.filter(|_| facts.trouble.is_none()));
        status.with(facts.found.clone())
    }

    /// Asks the database how far the tables are. `Err` says in words why it does not answer.
    async fn look(&self) -> Result<(), String> {
        let local = self.session().ok_or("the local server is out of reach")?;
        let found = tokio::time::timeout(STATUS_PATIENCE, Found::read(&local)).await;
        let found =
            found.map_err(|_| format!("the local server did not answer within {STATUS_PATIENCE:?}"))?;
        self.facts().found = found.map_err(|error| error.one_line())?;
        Ok(())
    }

    async fn obey(&self, order: Order, runner: &Runner) -> Response {
        let released = match order {
            Order::Sync => Ok(()),
            Order::Retry(order) => retry::release(&runner.config, &order.tables, order.accept_gap).await,
            Order::Resync(order) => {
                // Who asked looks at the tables until they are made; a pass comes next, and the load behind it.
                let noted = resync::request(&runner.config, &order).await;
                let answer = noted.map_or_else(|error| Answer::failed(&error), |_| accepted());
                return Response::json(200, &json!(answer));
            }
        };
        let answer = match released {
            // Somebody waits for the end: what passes by itself is not a failure yet.
            Ok(()) => self.pass(&runner.config, runner.patient_pass()).await.map(sync::answer),
            Err(error) => Some(Answer::failed(&error)),
        };
        answer.map_or_else(stopping, |answer| Response::json(200, &json!(answer)))
    }
}

fn location(config: &Config) -> String {
    let words = |archive: &ArchiveSettings| match archive {
        ArchiveSettings::Sftp(sftp) => {
            format!("sftp://{}@{}:{}{}", sftp.user, sftp.host, sftp.port, sftp.dir.display())
        }
        ArchiveSettings::Directory(dir) => dir.display().to_string(),
    };
    config.archive().map(words).unwrap_or_else(|_| "-".to_owned())
}

async fn serve_control(
    config: &Config,
    life: &Arc<Life>,
    orders: &Orders,
    stop: &Stop,
) -> Result<Vec<tokio::task::JoinHandle<()>>> {
    let handler = {
        let (life, orders, stop) = (Arc::clone(life), orders.clone(), stop.clone());
        move |request| answer(request, Arc::clone(&life), orders.clone(), stop.clone())
    };
    let socket = ControlSocket::bind(&config.socket(Program::Applier))?;
    let mut serving = vec![tokio::spawn(socket.serve(handler.clone()))];
    if let Some(address) = config.http_listen {
        let (address, answers) = control::serve_tcp(address, handler).await?;
        info!(%address, "listening");
        serving.push(tokio::spawn(answers));
    }
    Ok(serving)
}

async fn answer(request: Request, life: Arc<Life>, orders: Orders, stop: Stop) -> Response {
    match (request.method, request.path.as_str()) {
        (Method::Get, "/status") => Response::json(200, &json!(life.status().await)),
        (Method::Get, "/health") => {
            let status = life.status().await;
            Response::health(status.healthy, &json!({"healthy": status.healthy, "problems": status.problems}))
        }
        (Method::Get, "/metrics") => Response::metrics(life.status().await.metrics()),
        (Method::Post, "/stop") => {
            info!("stop asked for by a command");
            stop.ask();
            Response::json(200, &json!(Answer::done("stopping".into(), json!({}))))
        }
        (Method::Post, "/sync") => enqueue(&orders, Order::Sync).await,
        // Asked by who does not wait for it.
        (Method::Post, "/load") => {
            let (to, _) = oneshot::channel();
            // A full queue ends in a pass all the same.
            let _ = orders.try_send((Order::Sync, to));
            Response::json(200, &json!(accepted()))
        }
        (Method::Post, "/resync") => match request.json::<ResyncOrder>() {
            Ok(order) => enqueue(&orders, Order::Resync(order)).await,
            Err(error) => Response::error(400, &error.one_line()),
        },
        (Method::Post, "/retry") => match request.json::<RetryOrder>() {
            Ok(order) => enqueue(&orders, Order::Retry(order)).await,
            Err(error) => Response::error(400, &error.one_line()),
        },
        (_, path) => Response::not_found(path),
    }
}

fn accepted() -> Answer {
    Answer::done("accepted".into(), json!({"accepted": true}))
}

async fn enqueue(orders: &Orders, order: Order) -> Response {
    let (to, answered) = oneshot::channel();
    if orders.send((order, to)).await.is_err() {
        return stopping();
    }
    answered.await.unwrap_or_else(|_| stopping())
}

fn stopping() -> Response {
    Response::error(503, "the daemon is stopping")
}

/// Has the daemon do something; `None` when there is none.
pub async fn ask(config: &Config, path: &str, body: Option<&Value>) -> Result<Option<Answer>> {
    let sockets = config.sockets(Program::Applier);
    match control::call_first(&sockets, Method::Post, path, body).await? {
        None => Ok(None),
        Some(response) if response.is_success() => Ok(Some(response.read_json()?)),
        Some(response) => {
            let words = String::from_utf8_lossy(&response.body).trim().to_owned();
            Err(Error::new(Kind::Locked, format!("the daemon answered {}: {words}", response.status)))
        }
    }
}

/// The daemon's own status; `None` when there is none.
pub async fn ask_status(config: &Config) -> Result<Option<Status>> {
    let sockets = config.sockets(Program::Applier);
    let response = control::call_first(&sockets, Method::Get, "/status", None).await?;
    response.map(|response| response.read_json()).transpose()
}

/// What `status` starts from while no daemon runs.
pub fn not_started(config: &Config) -> Status {
    Status {
        status: "not-started".into(),
        problems: vec!["no daemon is running".into()],
        ..status::frame(config.data_sync_freq, config.stale_after, location(config))
    }
}
