//! `start`: passes, until somebody asks to stop.
//!
//! ```text
//! signals ─▶ Stop, Reloads ┐
//! control socket ─ orders ─┤─▶ loop { pass, or an order, or wait } ─▶ Life ┐
//! http_listen ─────────────┴─▶ what is asked (`api`) ◀──────────── database ◀──┘
//! ```
//!
//! One session is kept beside those of the passes: it holds the lock that makes this the only daemon of its
//! database, and answers how far the tables are.

mod alerting;
mod answers;
mod api;
mod life;
mod one_answer;
mod orders;

use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};

use syncdata_formats::error::{Error, Kind, Result};
use syncdata_service::alerts::{self, Alerting, Journal};
use syncdata_service::backoff::{Backoff, Dice};
use syncdata_service::config::{Config, Program};
use syncdata_service::daemon::{Heartbeat, Phase, Reloads, Stop, notify};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tracing::{error, info, warn};

use self::life::Life;
use self::orders::{Order, Ordered};
use crate::load;
use crate::pass::Tally;
use crate::pass::runner::Runner;
use crate::target::postgres::executions::Trigger;

/// Without any sign of life for so long, the watchdog may strike.
const PATIENCE: Duration = Duration::from_secs(300);

const FIRST_RETRY: Duration = Duration::from_secs(1);

/// What has no base yet is not looked for in the archive with all of its news.
const BETWEEN_LOADS: Duration = Duration::from_secs(60);

/// The daemon. `reload` reads the settings again.
pub(super) async fn serve(config: Config, reload: impl Fn() -> Result<Config>) -> Result<()> {
    let stop = Stop::new();
    stop.on_signals()?;
    let mut reloads = Reloads::listen()?;
    let mut runner = Runner::new(config.clone(), stop.clone());
    let tally = runner.tally();
    let life = Arc::new(Life::new(&config, Arc::clone(&tally), runner.silence()));
    match life.only_one(&config).await {
        Err(error) if error.kind() == Kind::Unreachable => {
            warn!(error = %error.one_line(), "the local server is not there yet");
        }
        result => result?,
    }

    let (orders, mut ordered) = mpsc::channel(8);
    let serving = answers::serve(&config, &life, &orders, &stop).await?;
    let alerting = Alerting::new(Arc::clone(&life), journal(&config));
    let alerting = tokio::spawn(alerting.watch(stop.clone()));
    let points = {
        let (life, stop) = (Arc::clone(&life), stop.clone());
        tokio::spawn(async move { life.keep_points(&stop).await })
    };
    let heartbeat = Heartbeat::new();
    notify(Phase::Ready);
    heartbeat.feed_watchdog(PATIENCE);
    info!(version = env!("CARGO_PKG_VERSION"), "started");

    let mut backoff = Backoff::endless(FIRST_RETRY, runner.config.data_sync_freq);
    let (mut is_due, mut has_news, mut pause) = (true, false, runner.config.data_sync_freq);
    let mut load_begun: Option<Instant> = None;
    let mut follows = false;
    // What waits for a base is loaded beside the passes, one load at a time.
    let mut loading: Option<JoinHandle<Result<load::Report>>> = None;
    while !stop.is_asked() {
        let frequency = runner.config.data_sync_freq;
        let _waiting = heartbeat.wait();
        if is_due {
            let passed = match has_news {
                true => life.pass(&runner.config, runner.pass_on_news()).await,
                false => life.pass(&runner.config, runner.pass()).await,
            };
            follows = matches!(passed, Some(Ok(_)));
            pause = match passed {
                None => break,
                Some(Ok(_)) => {
                    backoff.reset();
                    frequency
                }
                Some(Err(_)) => backoff.next(Dice::roll()).unwrap_or(frequency).min(frequency),
            };
            life.waits(pause);
        }

        let is_young = load_begun.is_some_and(|begun| begun.elapsed() < BETWEEN_LOADS);
        if loading.is_none() && life.waits_for_base() && !(has_news && is_young) {
            load_begun = Some(Instant::now());
            loading = Some(tokio::spawn(runner.load(Trigger::Schedule)));
        }

        (is_due, has_news) = (true, false);
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            () = runner.news(), if follows => has_news = true,
            () = stop.asked() => {}
            () = reloads.next() => reloaded(&mut runner, &reload, &life),
            // A pass comes next and says how the tables are now. What was in vain is tried again with the next regular one.
            loaded = finished(&mut loading, &tally) => {
                if let Err(error) = &loaded {
                    runner.note_failure(Some(error.file().unwrap_or(load::LOG_REF)), error).await;
                }
                is_due = life.loaded(loaded);
            }
            Some(Ordered { order, to, execution }) = ordered.recv() => {
                is_due = matches!(order, Order::Resync(_));
                let response = answers::obey(order, execution, &life, &runner).await;
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
    // What it has not said yet is in its journal.
    alerting.abort();
    points.abort();
    for task in serving {
        task.abort();
        // The socket's file goes with its task; the lock after it.
        let _ = task.await;
    }
    info!("stopped");
    Ok(())
}

fn journal(config: &Config) -> Journal {
    Journal::at(config.state_file_of_copy("alerts"))
}

/// Speaks for a daemon that has failed. What the service manager calls its end is in the environment that it gives.
pub(super) async fn ended(config: &Config) -> Result<ExitCode> {
    let result = std::env::var("SERVICE_RESULT").unwrap_or_else(|_| "success".to_owned());
    alerts::speak_for(Program::Applier, config, &journal(config), &result).await?;
    Ok(ExitCode::SUCCESS)
}

/// The load that was under way; never, without one.
async fn finished(
    loading: &mut Option<JoinHandle<Result<load::Report>>>,
    tally: &Tally,
) -> Result<load::Report> {
    let Some(task) = loading else { return std::future::pending().await };
    let done = task.await;
    *loading = None;
    done.unwrap_or_else(|_| {
        let error = Error::new(Kind::Io, "the load of a base copy has panicked");
        tally.load_failed(&error);
        Err(error)
    })
}

/// Settings that cannot be used change nothing.
fn reloaded(runner: &mut Runner, reload: &impl Fn() -> Result<Config>, life: &Life) {
    notify(Phase::Reloading);
    match reload().and_then(|config| same_daemon(&runner.config, config)) {
        Ok(config) => {
            life.configured(&config);
            runner.configure(config);
            info!("settings reloaded");
        }
        Err(error) => {
            // The token file may have changed all the same: who was taken out of it is out.
            life.http().configured(&runner.config);
            error!(error = %error.one_line(), hint = error.hint_text(), "settings not reloaded, going on with the old ones");
        }
    }
    notify(Phase::Ready);
}

/// Lock and socket are those of the start.
fn same_daemon(old: &Config, new: Config) -> Result<Config> {
    if old.socket(Program::Applier) == new.socket(Program::Applier) {
        return Ok(new);
    }
    let message = "the target database or meta_schema changed: that takes a restart";
    Err(Error::new(Kind::BadInput, message).hint("syncdata-applier stop, then start again"))
}
