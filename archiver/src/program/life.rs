//! What the daemon knows of its own work: the status that everybody is answered with, and what its alerts are made of.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use syncdata_formats::time::Timestamp;
use syncdata_formats::{Error, Kind, Result};
use syncdata_service::alerts::{Alert, Journal, Look, Watched};
use syncdata_service::circuit::{ARCHIVE, Circuits, SOURCE};
use syncdata_service::config::{Config, Program};
use syncdata_service::daemon::Stop;
use syncdata_service::http::Http;
use syncdata_service::points::Points;
use tokio::sync::Notify;

use crate::operations::alerts::conditions;
use crate::operations::dashboard::{self, Dashboard};
use crate::operations::status::{Status, hops};
use crate::poll::outcome::Outcome;
use crate::spool::executions::{self, Execution};

/// Of the daemon, and of who speaks for it.
pub(super) fn journal(config: &Config) -> Journal {
    Journal::at(config.spool_dir.join("alerts.json"))
}

#[derive(Debug)]
pub(super) struct Life {
    config: Mutex<Config>,
    status: Mutex<Status>,
    circuits: Circuits,
    http: Arc<Http>,
    /// Alerts that are not over.
    alerts: Mutex<Vec<Alert>>,
    points: Points,
    /// A poll has ended.
    polled: Notify,
    has_polled: AtomicBool,
}

impl Life {
    pub(super) fn new(config: &Config) -> Life {
        Life {
            config: Mutex::new(config.clone()),
            status: Mutex::default(),
            circuits: Circuits::of(&[SOURCE, ARCHIVE]),
            http: Arc::new(Http::new(Program::Archiver, config)),
            alerts: Mutex::default(),
            points: Points::at(config.spool_dir.join("points.json"), Program::Archiver, Timestamp::now()),
            polled: Notify::new(),
            has_polled: AtomicBool::new(false),
        }
    }

    pub(super) fn http(&self) -> &Arc<Http> {
        &self.http
    }

    pub(super) fn configured(&self, config: &Config) {
        self.http.configured(config);
        *lock(&self.config) = config.clone();
    }

    pub(super) fn status(&self) -> MutexGuard<'_, Status> {
        lock(&self.status)
    }

    /// With what grows by itself.
    pub(super) fn as_of_now(&self) -> Status {
        let status = Status {
            circuits: self.circuits.now(),
            alerts: lock(&self.alerts).clone(),
            ..self.status().clone()
        };
        let mut status = status.seen_at(Timestamp::now());
        status.problems.extend(self.http.problems());
        status.healthy &= status.problems.is_empty();
        status.hops = hops::hops(&status, lock(&self.config).lag_that_is_an_alert());
        status
    }

    /// All that the page shows.
    pub(super) fn dashboard(&self) -> Dashboard {
        dashboard::dashboard(self.as_of_now(), self.points.all(), &self.executions())
    }

    /// Minute by minute, for the page's curves.
    pub(super) async fn keep_points(&self, stop: &Stop) {
        let sample = || std::future::ready(dashboard::sample(&self.as_of_now(), Timestamp::now()));
        self.points.keep(stop, sample).await;
    }

    /// What was done, the newest first.
    pub(super) fn executions(&self) -> Vec<Execution> {
        executions::list(&lock(&self.config).spool_dir)
    }

    pub(super) fn polls(&self) {
        self.circuits.tries(SOURCE);
        self.circuits.tries(ARCHIVE);
    }

    pub(super) fn polled(&self, outcome: &Result<Outcome>) {
        let is_away = |error: &Error| matches!(error.kind(), Kind::Unreachable | Kind::Refused);
        match outcome {
            Ok(outcome) => {
                self.circuits.tried(SOURCE, !outcome.held_back.as_ref().is_some_and(is_away));
                self.circuits.tried(ARCHIVE, outcome.away.is_none());
            }
            // What the backup host says no to is told with an outcome.
            Err(error) if is_away(error) => self.circuits.tried(SOURCE, false),
            Err(_) => {}
        }
        self.has_polled.store(true, Ordering::Relaxed);
        self.polled.notify_one();
    }

    /// The next poll comes then.
    pub(super) fn waits(&self, pause: Duration) {
        self.circuits.wait(SOURCE, pause);
        self.circuits.wait(ARCHIVE, pause);
    }
}

/// A panic elsewhere leaves what is at worst old.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Production is read only: the journal in the spool is the one place where alerts are kept.
impl Watched for Life {
    fn program(&self) -> Program {
        Program::Archiver
    }

    fn config(&self) -> Config {
        lock(&self.config).clone()
    }

    fn circuits(&self) -> &Circuits {
        &self.circuits
    }

    async fn news(&self) {
        self.polled.notified().await;
    }

    async fn look(&self, _now: Timestamp) -> Look {
        let lag = Watched::config(self).lag_that_is_an_alert();
        let is_whole = self.has_polled.load(Ordering::Relaxed);
        Look { is_whole, ..conditions(&self.as_of_now(), lag) }
    }

    fn alerts_are(&self, open: Vec<Alert>) {
        *lock(&self.alerts) = open;
    }
}
