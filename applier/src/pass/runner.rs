//! Runs passes: opens the session and the archive, and ends at a commit boundary when somebody asks.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use serde_json::json;
use syncdata_formats::error::{Error, Remedy, Result};
use syncdata_formats::name::TableName;
use syncdata_service::backoff::{Backoff, Dice};
use syncdata_service::config::Config;
use syncdata_service::daemon::Stop;
use syncdata_service::postgres::Canceller;

use super::{Pass, PassContext, PostgresCopy, Proving, Report, Tally, waiting};
use crate::apply::acks::Acks;
use crate::apply::transaction::Rules;
use crate::archive;
use crate::archive::news::News;
use crate::archive::silence::Silence;
use crate::archive::source::Source;
use crate::load::{self, Loaded};
use crate::plan::group::GroupName;
use crate::plan::state::State;
use crate::proof::{self, Proofs};
use crate::target::postgres::cursor::Cursor;
use crate::target::postgres::executions::{self, Came, Trigger};
use crate::target::postgres::local::Local;
use crate::target::postgres::{ledger, local_writes, quarantine};

/// A pass is tried again so often, within about a minute, before its trouble is reported.
const RETRIES: u32 = 8;
const PAUSE_FIRST: Duration = Duration::from_millis(250);
const PAUSE_MAX: Duration = Duration::from_secs(15);

/// Who waits for a pass gives up on an archive that says nothing for so long, however often it is asked: with all that
/// comes before and after, within 90 s.
const SILENCE_MAX: Duration = Duration::from_secs(75);

/// Acknowledgements, verdicts of proofs and the like, while the archive is followed.
const TIDIED_EVERY: Duration = Duration::from_secs(10);

/// A transaction that was asked to stop may go on for so long; then it is abandoned, which loses nothing.
const GRACE: Duration = Duration::from_secs(7);

/// What passes and loads came to together.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Synced {
    /// Of all passes: counts are added up, and the newest one knows how things are.
    pub pass: Report,
    /// Tables that were loaded from a base.
    pub loaded: BTreeMap<TableName, Loaded>,
    /// Tables that wanted to be and could not, with the reason.
    pub not_loaded: BTreeMap<TableName, String>,
}

impl From<Report> for Synced {
    fn from(pass: Report) -> Synced {
        Synced { pass, ..Synced::default() }
    }
}

impl Synced {
    pub(crate) fn then(&mut self, later: Report) {
        let earlier = std::mem::replace(&mut self.pass, later);
        self.pass.segments += earlier.segments;
        self.pass.records += earlier.records;
    }

    pub(crate) fn add(&mut self, loads: load::Report) {
        self.pass.records += loads.records;
        self.pass.stopped |= loads.stopped;
        self.loaded.extend(loads.loaded);
        for (table, reason) in loads.refused.into_iter().chain(loads.waiting) {
            // What it waits for is all that there is to say of a table without a base.
            if let Some((State::Pending | State::Loading, known)) = self.pass.unhealthy.get_mut(&table) {
                known.clone_from(&reason);
            }
            self.not_loaded.insert(table, reason);
        }
    }
}

/// Runs passes and loads side by side, and stops them.
#[derive(Debug)]
pub struct Runner {
    pub config: Config,
    stop: Stop,
    /// Of the pass that is under way.
    canceller: Mutex<Option<Canceller>>,
    /// Passes and the ends of loads take turns.
    turn: Arc<tokio::sync::Mutex<()>>,
    acks: Arc<Acks>,
    tally: Arc<Tally>,
    silence: Silence,
    proofs: Arc<Proofs>,
    /// With `follow`: the archive, which stays open from pass to pass.
    followed: Mutex<Option<Source>>,
    news: tokio::sync::Mutex<News>,
    /// The session of the pass before, for one because of news.
    kept: Mutex<Option<Local>>,
    /// When what need not be done in each pass was done last.
    tidied: Mutex<Option<Instant>>,
}

impl Runner {
    pub fn new(config: Config, stop: Stop) -> Runner {
        Runner {
            config,
            stop,
            canceller: Mutex::default(),
            turn: Arc::default(),
            acks: Arc::default(),
            tally: Arc::default(),
            silence: Silence::default(),
            proofs: Arc::default(),
            followed: Mutex::default(),
            news: tokio::sync::Mutex::default(),
            kept: Mutex::default(),
            tidied: Mutex::default(),
        }
    }

    /// Other settings from the next pass on.
    pub fn configure(&mut self, config: Config) {
        self.config = config;
        *self.followed() = None;
        self.news = tokio::sync::Mutex::default();
        self.keep(None);
    }

    fn followed(&self) -> MutexGuard<'_, Option<Source>> {
        self.followed.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn keep(&self, local: Option<Local>) -> Option<Local> {
        std::mem::replace(&mut *self.kept.lock().unwrap_or_else(PoisonError::into_inner), local)
    }

    /// Waits until the archive has news; never, without `follow`.
    pub async fn news(&self) {
        // Before the first pass there is nothing that it could be news to.
        let source = self.followed().clone().filter(|_| self.config.follow);
        let Some(source) = source else { return std::future::pending().await };
        if let Err(error) = self.news.lock().await.come(&source, self.config.follow_interval).await {
            tracing::debug!(error = %error.one_line(), "the archive cannot be looked at");
        }
    }

    /// One pass because of news.
    pub async fn pass_on_news(&self) -> Option<Result<Report>> {
        self.pass_by(Trigger::News).await
    }

    /// What its passes have applied since it was made.
    pub fn tally(&self) -> Arc<Tally> {
        Arc::clone(&self.tally)
    }

    /// How the archive answers its passes.
    pub fn silence(&self) -> Silence {
        self.silence.clone()
    }

    /// One pass; `None` when it had to be abandoned.
    pub async fn pass(&self) -> Option<Result<Report>> {
        self.pass_by(Trigger::Schedule).await
    }

    async fn pass_by(&self, trigger: Trigger) -> Option<Result<Report>> {
        self.silence.end();
        let result = self.unless_stopped(self.pass_once(trigger)).await?;
        if let Err(error) = &result {
            self.note_failure(None, error).await;
        }
        Some(result)
    }

    /// One pass; what passes by itself is tried again, from the checkpoint on.
    pub async fn patient_pass(&self, trigger: Trigger) -> Option<Result<Report>> {
        let (segments, records) = (self.tally.segments(), self.tally.records());
        let done = self.patiently(async || self.pass_once(trigger).await).await?;
        // What was applied before it had to be tried again counts too.
        Some(done.map(|report| Report {
            segments: self.tally.segments() - segments,
            records: self.tally.records() - records,
            ..report
        }))
    }

    /// A pass, then loads of what waits for a base, then what came after their bases. The digests of a proof end before
    /// this does.
    pub async fn sync(&self) -> Option<Result<Synced>> {
        let synced = self.sync_rows().await?;
        let is_stopped = synced.as_ref().is_ok_and(|synced| synced.pass.stopped);
        if synced.is_ok() && !is_stopped && self.proofs.has_begun() {
            self.stop.grant(GRACE, self.proofs.finish()).await?;
            let judged = async {
                let (source, local) = (
                    archive::open::open(&self.config, &GroupName::DEFAULT)?,
                    Local::open(&self.config).await?,
                );
                judge(&local, &source).await;
                Ok::<_, Error>(())
            };
            if let Err(error) = self.unless_stopped(judged).await? {
                tracing::warn!(error = %error.one_line(), "proofs were not looked at");
            }
        }
        Some(synced)
    }

    async fn sync_rows(&self) -> Option<Result<Synced>> {
        let pass = match self.patient_pass(Trigger::Command).await? {
            Ok(pass) if pass.waits_for_base && !pass.stopped => pass,
            ended => return Some(ended.map(Synced::from)),
        };
        let loads = match self.patiently(async || self.load(Trigger::Command).await).await? {
            Ok(loads) => loads,
            Err(error) => return Some(Err(error)),
        };

        // Also what it told a table that waits: a load that was interrupted is `pending` again.
        let changed =
            [loads.loaded.is_empty(), loads.refused.is_empty(), loads.waiting.is_empty()].contains(&false);
        let mut synced = Synced::from(pass);
        if changed && !loads.stopped {
            match self.patient_pass(Trigger::Command).await? {
                Ok(later) => synced.then(later),
                Err(error) => return Some(Err(error)),
            }
        }
        synced.add(loads);
        Some(Ok(synced))
    }

    async fn patiently<T>(&self, mut work: impl AsyncFnMut() -> Result<T>) -> Option<Result<T>> {
        let mut backoff = Backoff::bounded(PAUSE_FIRST, PAUSE_MAX, RETRIES);
        self.silence.end();
        loop {
            let (error, is_last) = tokio::select! {
                ended = self.unless_stopped(work()) => match ended? {
                    Ok(done) => return Some(Ok(done)),
                    Err(error) => (error, false),
                },
                error = self.silence.lasting(SILENCE_MAX) => {
                    self.tally.pass_failed(&error);
                    (error, true)
                }
            };
            let pause = match error.kind().remedy() {
                Remedy::Retry if !is_last => backoff.next(Dice::roll()),
                Remedy::Retry | Remedy::Wait | Remedy::Operator => None,
            };
            let Some(pause) = pause else {
                self.note_failure(None, &error).await;
                return Some(Err(error));
            };
            tracing::warn!(error = %error.one_line(), "it is tried again");
            tokio::select! {
                () = tokio::time::sleep(pause) => {}
                () = self.stop.asked() => return None,
            }
        }
    }

    /// In data_sync_logs, if the server can be reached: that it cannot may be the very failure.
    pub async fn note_failure(&self, archive_ref: Option<&str>, error: &Error) {
        let noted = async {
            let local = Local::open(&self.config).await?;
            let (client, meta) = (local.session.client(), &local.meta);
            ledger::log_failure(client, meta, archive_ref.or(error.file()), &error.with_hint()).await
        };
        if let Some(Err(second)) = self.stop.grant(Duration::ZERO, noted).await {
            tracing::warn!(error = %second.one_line(), "the failure could not be noted in data_sync_logs");
        }
    }

    /// Loads what waits for a base. On a task of its own, it goes on beside the passes.
    pub fn load(&self, trigger: Trigger) -> impl Future<Output = Result<load::Report>> + Send + 'static {
        let (config, stop) = (self.config.clone(), self.stop.clone());
        let (turn, acks) = (Arc::clone(&self.turn), Arc::clone(&self.acks));
        let (silence, tally) = (self.silence.clone(), Arc::clone(&self.tally));
        async move {
            let work = load::run(&config, &stop, &turn, &acks, silence);
            let kind = (executions::Kind::Load, trigger);
            let loaded = executions::noted(&config, kind, None, work, load_came_to).await;
            match &loaded {
                Ok(report) => tally.loaded(report),
                Err(error) => tally.load_failed(error),
            }
            loaded
        }
    }

    /// One attempt, counted.
    async fn pass_once(&self, trigger: Trigger) -> Result<Report> {
        let _turn = self.turn.lock().await;
        let started = Instant::now();
        let passed = self.pass_in_turn(trigger).await;
        self.tally.pass_took(started.elapsed());
        if let Err(error) = &passed {
            self.tally.pass_failed(error);
            // The way to the archive is in doubt.
            *self.followed() = None;
        }
        passed
    }

    fn source(&self) -> Result<Source> {
        if let Some(source) = self.followed().clone() {
            return Ok(source);
        }
        let source =
            archive::open::open(&self.config, &GroupName::DEFAULT)?.with_silence(self.silence.clone());
        *self.followed() = self.config.follow.then(|| source.clone());
        Ok(source)
    }

    /// What every pass does that comes by itself, those because of news only now and then.
    fn tidies(&self, trigger: Trigger) -> bool {
        let mut tidied = self.tidied.lock().unwrap_or_else(PoisonError::into_inner);
        let is_due = trigger != Trigger::News || tidied.is_none_or(|at| at.elapsed() >= TIDIED_EVERY);
        if is_due {
            *tidied = Some(Instant::now());
        }
        is_due
    }

    async fn pass_in_turn(&self, trigger: Trigger) -> Result<Report> {
        let source = self.source()?;
        let kept = self.keep(None).filter(|local| trigger == Trigger::News && !local.session.is_closed());
        let local = match kept {
            Some(local) => local,
            None => Local::open_for_pass(&self.config).await?,
        };
        *self.canceller.lock().unwrap_or_else(PoisonError::into_inner) = Some(local.session.canceller());
        let cursor = Cursor::of(&local.meta);
        local.lock_pass_of(cursor.group()).await?;
        let begun = match trigger {
            Trigger::Api | Trigger::News => None,
            Trigger::Schedule | Trigger::Command => {
                let begun = executions::begin(&local, executions::Kind::Pass, trigger, None).await;
                begun.inspect_err(executions::warn).ok()
            }
        };
        let passed = self.pass_with(&local, cursor, &source, self.tidies(trigger)).await;
        // Without its session there is nobody to tell it: it is called abandoned later.
        if let Some(begun) = begun.filter(|_| !local.session.is_closed()) {
            let came = passed.as_ref().map_or_else(Came::failed, pass_came_to);
            if let Err(error) = executions::end(&local, begun, &came).await {
                executions::warn(&error);
            }
        }
        if self.config.follow && passed.is_ok() && local.end_pass_of(cursor.group()).await.is_ok() {
            self.keep(Some(local));
        }
        passed
    }

    async fn pass_with(
        &self,
        local: &Local,
        cursor: Cursor<'_>,
        source: &Source,
        tidies: bool,
    ) -> Result<Report> {
        if tidies {
            forget_old_logs(local, self.config.log_keep_days).await;
            local_writes::keep(local, self.config.local_writes).await?;
        }
        let rules = rules(&self.config);
        let proving = Proving { proofs: Arc::clone(&self.proofs), config: self.config.clone() };
        let copy = PostgresCopy::new(local, cursor, Some(proving));
        let mut context = PassContext::new(copy, source, &rules);
        context.stop = self.stop.clone();
        context.tally = Arc::clone(&self.tally);
        let report = Pass::new(context).run().await?;
        if tidies {
            judge(local, source).await;
            count_waiting(local, cursor, source).await;
            self.acks.tell(local, source).await;
        }
        Ok(report)
    }

    async fn unless_stopped<T>(&self, work: impl Future<Output = Result<T>>) -> Option<Result<T>> {
        let done = self.stop.grant(GRACE, work).await;
        let canceller = self.canceller.lock().unwrap_or_else(PoisonError::into_inner).take();
        if done.is_none() {
            tracing::warn!("stopping in the middle of a transaction; the next pass applies it again");
            if let Some(canceller) = canceller
                && let Err(error) = canceller.cancel().await
            {
                tracing::warn!(error = %error.one_line(), "the server was not told; its process ends by itself");
            }
        }
        done
    }
}

fn pass_came_to(report: &Report) -> Came {
    let counts = json!({
        "segments": report.segments, "records": report.records, "unhealthy": report.unhealthy.len(),
        "stopped": report.stopped,
    });
    let is_idle = report.segments == 0 && report.missing.is_none() && !report.stopped;
    Came { is_idle, ..Came::to(counts) }
}

fn load_came_to(report: &load::Report) -> Came {
    let counts = json!({
        "loaded": report.loaded.len(), "refused": report.refused.len(), "waiting": report.waiting.len(),
        "records": report.records, "stopped": report.stopped,
    });
    let tables: Vec<String> =
        report.loaded.keys().chain(report.refused.keys()).map(ToString::to_string).collect();
    let is_idle = tables.is_empty() && !report.stopped;
    let tables = (!tables.is_empty()).then_some(tables);
    // What kept a table from its base is an error of it, and none of the load.
    Came { is_idle, tables, ..Came::to(counts) }
}

/// A log that is too long is no reason to apply nothing.
async fn forget_old_logs(local: &Local, days: u32) {
    let forgotten = ledger::forget_old(local.session.client(), &local.meta, days).await;
    if let Err(error) = forgotten {
        tracing::warn!(error = %error.one_line(), "data_sync_logs grows");
    }
}

/// What proofs say is no reason for a pass to fail.
async fn judge(local: &Local, source: &Source) {
    let judged = async {
        let checkpoint = Cursor::of(&local.meta).read(local.session.client()).await?;
        match checkpoint.archive_id {
            Some(archive_id) => proof::judge(local, source, archive_id).await?,
            None => return Ok(()),
        }
        quarantine::end_incomplete(local.session.client(), &local.meta).await
    };
    if let Err(error) = judged.await {
        tracing::warn!(error = %error.one_line(), "the newest proof could not be looked at");
    }
}

/// Neither is what waits in vain.
async fn count_waiting(local: &Local, cursor: Cursor<'_>, source: &Source) {
    if let Err(error) = waiting::count(local, cursor, source).await {
        tracing::warn!(error = %error.one_line(), "what waits for quarantined tables could not be counted");
    }
}

pub(crate) fn rules(config: &Config) -> Rules {
    Rules {
        apply_batch_changes: u64::from(config.apply_batch_changes.get()),
        on_error: config.on_error,
        metric_freq: config.metric_freq,
    }
}
