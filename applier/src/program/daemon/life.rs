//! What the daemon has gone through; what the control socket's answers are made of.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use serde_json::Value;
use syncdata_formats::error::{Error, Remedy, Result};
use syncdata_formats::time::Timestamp;
use syncdata_service::alerts::Alert;
use syncdata_service::circuit::{self, Circuits};
use syncdata_service::config::{Config, Program};
use syncdata_service::control::{EarlierKeys, Metrics};
use syncdata_service::daemon::{Phase, Stop, notify};
use syncdata_service::hops::Trouble;
use syncdata_service::http::Http;
use syncdata_service::points::Points;
use tokio::sync::Notify;
use tracing::{debug, error, info, warn};
use uuid::Uuid;

use super::one_answer::OneAnswer;
use crate::archive::silence::Silence;
use crate::load;
use crate::operations::dashboard::{self, Dashboard, Lists};
use crate::operations::status::{Found, Status, hops};
use crate::operations::sync;
use crate::pass::{Report, Tally};
use crate::program::metrics::metrics;
use crate::program::status::second_of;
use crate::target::postgres::executions;
use crate::target::postgres::local::{APPLICATION_NAME, Local};

/// A status is answered within this, with or without the database.
const STATUS_PATIENCE: Duration = Duration::from_secs(5);

/// What the daemon knows of its own work, for `status` and /health.
#[derive(Debug)]
pub(super) struct Life {
    start_time: Timestamp,
    tally: Arc<Tally>,
    config: Mutex<Config>,
    facts: Mutex<Facts>,
    session: Mutex<Option<Arc<Local>>>,
    /// Of the archive, towards passes.
    silence: Silence,
    circuits: Circuits,
    http: Arc<Http>,
    /// Alerts that are not over.
    alerts: Mutex<Vec<Alert>>,
    points: Points,
    looks: OneAnswer<Result<(), String>>,
    /// A pass has ended.
    passed: Notify,
}

#[derive(Debug, Default)]
struct Facts {
    last_sync: Option<Timestamp>,
    /// The last pass did not get to its end.
    has_failed: bool,
    /// Why the last pass was not all well.
    trouble: Option<Trouble>,
    /// Why the last load was not.
    load_trouble: Option<Trouble>,
    /// Tables that the last attempt could not load, and why.
    not_loaded: BTreeMap<String, String>,
    waits_for_base: bool,
    /// For the time when the database cannot be asked.
    found: Found,
}

impl Life {
    pub(super) fn new(config: &Config, tally: Arc<Tally>, silence: Silence) -> Life {
        Life {
            start_time: second_of(Timestamp::now()),
            tally,
            config: Mutex::new(config.clone()),
            facts: Mutex::default(),
            session: Mutex::default(),
            silence,
            circuits: Circuits::of(&[circuit::ARCHIVE, circuit::LOCAL_SERVER]),
            http: Arc::new(Http::new(Program::Applier, config)),
            alerts: Mutex::default(),
            points: Points::at(config.state_file_of_copy("points"), Program::Applier, Timestamp::now()),
            looks: OneAnswer::default(),
            passed: Notify::new(),
        }
    }

    pub(super) fn http(&self) -> &Arc<Http> {
        &self.http
    }

    pub(super) fn configured(&self, config: &Config) {
        self.http.configured(config);
        *self.config.lock().unwrap_or_else(PoisonError::into_inner) = config.clone();
    }

    pub(super) fn config(&self) -> Config {
        self.config.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(super) fn settings(&self) -> Value {
        self.config().describe_json()
    }

    /// A panic elsewhere leaves facts that are at worst old.
    fn facts(&self) -> MutexGuard<'_, Facts> {
        self.facts.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The session that is kept, while the server keeps it.
    pub(super) fn session(&self) -> Option<Arc<Local>> {
        let session = self.session.lock().unwrap_or_else(PoisonError::into_inner);
        session.clone().filter(|local| !local.session.is_closed())
    }

    /// Makes sure that no other daemon has this database; again when the server has ended the session.
    pub(super) async fn only_one(&self, config: &Config) -> Result<()> {
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
    pub(super) async fn pass(
        &self,
        config: &Config,
        work: impl Future<Output = Option<Result<Report>>>,
    ) -> Option<Result<Report>> {
        self.silence.take_answer();
        self.circuits.tries(circuit::ARCHIVE);
        self.circuits.tries(circuit::LOCAL_SERVER);
        let result = match self.only_one(config).await {
            Ok(()) => work.await?,
            Err(error) => {
                self.tally.pass_failed(&error);
                Err(error)
            }
        };
        // First the tables, then the word: who reads that a pass is done may ask at once how far they are.
        let looked = self.look().await;
        if let Err(error) = &looked {
            // Why a pass failed says it already.
            match &result {
                Ok(_) => warn!(%error, "the tables' states are not known"),
                Err(_) => debug!(%error, "the tables' states are not known"),
            }
        }
        let answered = self.silence.take_answer();
        self.passed(&result, answered);
        self.circuits.tried(circuit::LOCAL_SERVER, looked.is_ok());
        if let Some(has_answered) = answered {
            self.circuits.tried(circuit::ARCHIVE, has_answered);
        }
        self.passed.notify_one();
        notify(Phase::Status(&self.summary()));
        Some(result)
    }

    /// `answered` is whether the archive did, if it was asked.
    fn passed(&self, result: &Result<Report>, answered: Option<bool>) {
        let follows = self.config().follow;
        let mut facts = self.facts();
        match result {
            Ok(report) => {
                if facts.has_failed {
                    info!("passes succeed again");
                }
                facts.has_failed = false;
                let missing = report.missing.map(|seq| Trouble::new(sync::missing(seq)).of_hop(hops::FETCH));
                facts.trouble = facts.lasting(missing);
                facts.waits_for_base = report.waits_for_base;
                if !report.waits_for_base {
                    facts.load_trouble = None;
                }
                if !report.stopped {
                    facts.last_sync = Some(second_of(Timestamp::now()));
                    // Ten a second are no change of state.
                    match follows {
                        true => debug!(segments = report.segments, records = report.records, "pass done"),
                        false => info!(segments = report.segments, records = report.records, "pass done"),
                    }
                }
            }
            Err(error) => {
                let (words, hint) = (error.one_line(), error.hint_text());
                match error.kind().remedy() {
                    // What lasts is logged when it begins and when it ends, not at every try.
                    Remedy::Retry
                        if facts.trouble.as_ref().is_some_and(|known| known.words == error.with_hint()) =>
                    {
                        debug!(error = %words, "pass failed again");
                    }
                    Remedy::Retry => warn!(error = %words, hint, "pass failed, it is tried again"),
                    Remedy::Wait | Remedy::Operator => error!(error = %words, hint, "pass failed"),
                }
                facts.has_failed = true;
                facts.trouble = facts.lasting(Some(trouble_of(error, answered)));
            }
        }
    }

    /// The next pass starts a load.
    pub(super) fn waits_for_base(&self) -> bool {
        self.facts().waits_for_base
    }

    /// Whether some table was loaded.
    pub(super) fn loaded(&self, result: Result<load::Report>) -> bool {
        let mut facts = self.facts();
        // Until a pass has looked again: what could not be loaded is not tried at once.
        facts.waits_for_base = false;
        match result {
            Ok(report) => {
                facts.load_trouble = None;
                for table in report.loaded.keys() {
                    facts.not_loaded.remove(&table.to_string());
                }
                let refused = report.refused.into_iter().map(|(table, reason)| (table.to_string(), reason));
                facts.not_loaded.extend(refused);
                !report.loaded.is_empty()
            }
            Err(error) => {
                error!(error = %error.one_line(), hint = error.hint_text(), "loading base copies failed");
                let words = format!("tables cannot be loaded: {}", error.with_hint());
                facts.load_trouble =
                    Some(Trouble::new(words).of_hop(hops::FETCH).since(Some(Timestamp::now())));
                false
            }
        }
    }

    fn summary(&self) -> String {
        let facts = self.facts();
        match (&facts.trouble, facts.last_sync) {
            (Some(trouble), _) => trouble.words.clone(),
            (None, Some(time)) => {
                format!("last sync {time}, {} records since the start", self.tally.records())
            }
            (None, None) => "in the first pass".to_owned(),
        }
    }

    pub(super) fn circuits(&self) -> &Circuits {
        &self.circuits
    }

    /// What was asked for over HTTP begins. That it cannot be noted is no reason not to do it.
    pub(super) async fn execution_runs(&self, id: Uuid) {
        let Some(local) = self.session() else { return };
        if let Err(error) = executions::runs(&local, id).await {
            executions::warn(&error);
        }
    }

    /// The next pass comes then.
    pub(super) fn waits(&self, pause: Duration) {
        self.circuits.wait(circuit::ARCHIVE, pause);
        self.circuits.wait(circuit::LOCAL_SERVER, pause);
    }

    /// Until the next pass has ended.
    pub(super) async fn pass_ended(&self) {
        self.passed.notified().await;
    }

    pub(super) fn alerts_are(&self, alerts: Vec<Alert>) {
        *self.alerts.lock().unwrap_or_else(PoisonError::into_inner) = alerts;
    }

    /// What every question is answered with, wherever it comes from.
    pub(super) async fn status(&self) -> Status {
        self.seen().await.0
    }

    /// The status, and whether the database could be asked.
    pub(super) async fn seen(&self) -> (Status, bool) {
        let silence = self.look().await.err();
        let is_seen = silence.is_none();
        let settings = Status::of_settings(&self.config.lock().unwrap_or_else(PoisonError::into_inner));
        let (facts, counts) = (self.facts(), self.tally.counts());
        let mut status = Status {
            status: "active".into(),
            start_time: Some(self.start_time),
            uptime_seconds: Some(Timestamp::now().since(self.start_time).as_secs()),
            last_sync: facts.last_sync,
            records_synced: counts.records,
            errors: counts.errors(),
            waiting_segments: counts.waiting,
            waiting_records: counts.waiting_size.map(|size| size.records),
            waiting_bytes: counts.waiting_size.map(|size| size.bytes),
            troubles: facts.trouble.iter().chain(&facts.load_trouble).cloned().collect(),
            earlier: EarlierKeys { last_error: counts.last_error, ..EarlierKeys::default() },
            circuits: self.circuits.now(),
            alerts: self.alerts.lock().unwrap_or_else(PoisonError::into_inner).clone(),
            ..settings
        };
        // A pass that failed has said the same in its own words.
        let silence = silence.filter(|_| facts.trouble.is_none());
        status.troubles.extend(silence.map(|words| Trouble::new(words).of_hop(hops::APPLY)));
        status.troubles.extend(self.http.problems().into_iter().map(Trouble::new));
        let mut found = facts.found.clone();
        for table in &mut found.tables {
            table.load_failed = facts.not_loaded.get(&table.table).cloned();
        }
        let mut status = status.with(found);
        let late = self.config().lag_that_is_an_alert();
        status.hops = hops::hops(&status, counts.archive, late, Timestamp::now());
        (status, is_seen)
    }

    pub(super) async fn metrics(&self) -> Metrics {
        let status = self.status().await;
        metrics(&status, &self.tally.counts())
    }

    /// All that the page shows.
    pub(super) async fn dashboard(&self) -> Dashboard {
        let (status, _) = self.seen().await;
        dashboard::dashboard(status, self.points.all(), self.lists().await)
    }

    async fn lists(&self) -> Result<Lists, String> {
        let local = self.session().ok_or("the local server is out of reach")?;
        let read = tokio::time::timeout(STATUS_PATIENCE, Lists::read(&local)).await;
        let read = read.map_err(|_| format!("the local server did not answer within {STATUS_PATIENCE:?}"))?;
        read.map_err(|error| error.one_line())
    }

    /// Minute by minute, for the page's curves.
    pub(super) async fn keep_points(&self, stop: &Stop) {
        let sample = || async { dashboard::sample(&self.status().await, Timestamp::now()) };
        self.points.keep(stop, sample).await;
    }

    /// Asks the database how far the tables are. `Err` says in words why it does not answer.
    async fn look(&self) -> Result<(), String> {
        self.looks.get(|| self.look_now()).await
    }

    async fn look_now(&self) -> Result<(), String> {
        let local = self.session().ok_or("the local server is out of reach")?;
        let found = tokio::time::timeout(STATUS_PATIENCE, Found::read(&local)).await;
        let found =
            found.map_err(|_| format!("the local server did not answer within {STATUS_PATIENCE:?}"))?;
        let found = found.map_err(|error| error.one_line())?;
        let mut facts = self.facts();
        // A table that leaves the whitelist and comes back begins anew.
        facts.not_loaded.retain(|table, _| found.tables.iter().any(|known| known.table == *table));
        facts.found = found;
        Ok(())
    }
}

impl Facts {
    /// It has been there since it was first seen.
    fn lasting(&self, trouble: Option<Trouble>) -> Option<Trouble> {
        let trouble = trouble?;
        let since = self.trouble.as_ref().and_then(|known| known.since);
        Some(trouble.since(since.or_else(|| Some(Timestamp::now()))))
    }
}

/// Of which hop it is: the archive's silence, what the archive holds, or this side.
fn trouble_of(error: &Error, answered: Option<bool>) -> Trouble {
    let is_of_archive = answered == Some(false) || error.kind().refuses_archive();
    Trouble::new(error.with_hint()).of_hop(if is_of_archive { hops::FETCH } else { hops::APPLY })
}
