//! What the daemon has gone through; what the control socket's answers are made of.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use syncdata_formats::error::{Remedy, Result};
use syncdata_formats::time::Timestamp;
use syncdata_service::config::Config;
use syncdata_service::daemon::{Phase, notify};
use tracing::{error, info, warn};

use crate::load;
use crate::operations::status::{Found, Status, archive_location};
use crate::operations::sync;
use crate::pass::{Report, Tally};
use crate::program::status::second_of;
use crate::target::postgres::local::{APPLICATION_NAME, Local};

/// A status is answered within this, with or without the database.
const STATUS_PATIENCE: Duration = Duration::from_secs(5);

/// What the daemon knows of its own work, for `status` and /health.
#[derive(Debug)]
pub(super) struct Life {
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
    /// Why the last load was not.
    load_trouble: Option<String>,
    waits_for_base: bool,
    /// For the time when the database cannot be asked.
    found: Found,
}

impl Life {
    pub(super) fn new(config: &Config, tally: Arc<Tally>) -> Life {
        let life = Life {
            start_time: second_of(Timestamp::now()),
            tally,
            facts: Mutex::default(),
            session: Mutex::default(),
        };
        life.configured(config);
        life
    }

    pub(super) fn configured(&self, config: &Config) {
        let mut facts = self.facts();
        facts.frequency = config.data_sync_freq;
        facts.stale_after = config.stale_after;
        facts.archive = archive_location(config);
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
                if !report.waits_for_base {
                    facts.load_trouble = None;
                }
                if !report.stopped {
                    facts.last_sync = Some(second_of(Timestamp::now()));
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
                facts.records += report.records;
                facts.errors += report.refused.len() as u64;
                facts.load_trouble = None;
                !report.loaded.is_empty()
            }
            Err(error) => {
                error!(error = %error.one_line(), hint = error.hint_text(), "loading base copies failed");
                facts.errors += 1;
                facts.load_trouble = Some(format!("tables cannot be loaded: {}", error.with_hint()));
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

    pub(super) async fn status(&self) -> Status {
        let silence = self.look().await.err();
        let facts = self.facts();
        let mut status = Status {
            status: "active".into(),
            start_time: Some(self.start_time),
            last_sync: facts.last_sync,
            records_synced: self.tally.records() + facts.records,
            errors: facts.errors + self.tally.set_aside(),
            problems: facts.trouble.iter().chain(&facts.load_trouble).cloned().collect(),
            sync_frequency_seconds: facts.frequency.as_secs(),
            stale_after_seconds: facts.stale_after.as_secs(),
            archive: facts.archive.clone(),
            ..Status::default()
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
}
