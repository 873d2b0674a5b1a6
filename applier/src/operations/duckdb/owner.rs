//! The process that owns the file: its passes and loads, one after the other.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde_json::json;
use syncdata_formats::error::{Error, Remedy, Result};
use syncdata_service::backoff::{Backoff, Dice};
use syncdata_service::config::{Config, Publish};
use syncdata_service::daemon::Stop;

use super::seen::Watch;
use crate::apply::acks::Acks;
use crate::archive;
use crate::archive::silence::Silence;
use crate::archive::source::Source;
use crate::load::duckdb::Loading;
use crate::load::{self};
use crate::operations::{Answer, sync};
use crate::pass::runner::{Synced, rules};
use crate::pass::{Pass, PassContext, Report, Tally};
use crate::plan::group::GroupName;
use crate::target::duckdb::{Duckdb, File, Options};

/// A pass is tried again so often, within about a minute, before its trouble is reported.
const RETRIES: u32 = 8;
const PAUSE_FIRST: Duration = Duration::from_millis(250);
const PAUSE_MAX: Duration = Duration::from_secs(15);

/// Who waits for a pass gives up on an archive that says nothing for so long, however often it is asked.
const SILENCE_MAX: Duration = Duration::from_secs(75);

/// A transaction that was asked to stop may go on for so long; then it is abandoned, which loses nothing.
const GRACE: Duration = Duration::from_secs(7);

/// See the module.
#[derive(Debug)]
pub(crate) struct Owner {
    pub(super) config: Config,
    pub(super) target: Duckdb,
    file: File,
    stop: Stop,
    tally: Arc<Tally>,
    silence: Silence,
    acks: Acks,
    /// Under which it tells the archive how far it is.
    name: String,
}

impl Owner {
    /// Opens the file of the settings, or makes it. `Err`: another process has it.
    pub(crate) async fn open(config: Config, stop: Stop) -> Result<Owner> {
        let options = Options {
            path: config.duckdb_database_path()?.to_owned(),
            memory_limit_bytes: config.duckdb_memory_limit.as_u64(),
            threads: config.duckdb_worker_threads,
            text_columns: config.duckdb_text_columns.clone(),
        };
        let file = File::open(options)?;
        let target = Duckdb::new(file.clone(), config.metric_freq);
        target.note_stale_after(config.stale_after).await?;
        let name = format!("duckdb-{}", target.copy_id().await?);
        let (tally, silence, acks) = (Arc::default(), Silence::default(), Acks::default());
        Ok(Owner { config, target, file, stop, tally, silence, acks, name })
    }

    /// For who looks on.
    pub(crate) fn watch(&self, is_daemon: bool) -> Watch {
        Watch::new(&self.config, self.file.clone(), Arc::clone(&self.tally), is_daemon)
    }

    pub(crate) fn config(&self) -> &Config {
        &self.config
    }

    /// Other settings from the next pass on.
    pub(crate) async fn configure(&mut self, config: Config) -> Result<()> {
        self.target.note_stale_after(config.stale_after).await?;
        self.target = Duckdb::new(self.file.clone(), config.metric_freq);
        self.config = config;
        Ok(())
    }

    /// A pass, and what it leads to, as an answer.
    pub(super) async fn synced(&mut self) -> Result<Answer> {
        Ok(match self.sync().await.transpose()? {
            Some(synced) => sync::answer(&synced),
            None => Answer::done(String::new(), json!({})).with_words("stopped"),
        })
    }

    /// A pass, loads of what waits for a base, and what came after their bases; then the copy for readers, when it is due.
    /// What passes by itself is tried again. `None`: abandoned, because somebody asked to stop.
    pub(crate) async fn sync(&mut self) -> Option<Result<Synced>> {
        let (segments, records) = (self.tally.segments(), self.tally.records());
        let synced = self.patiently().await?;
        let synced = synced.map(|mut synced| {
            // What was applied before it had to be tried again counts too.
            synced.pass.segments = self.tally.segments() - segments;
            synced.pass.records = self.tally.records() - records;
            synced
        });
        match &synced {
            Ok(_) => self.publish_if_due().await,
            Err(error) => self.note_failure(error).await,
        }
        Some(synced)
    }

    async fn patiently(&mut self) -> Option<Result<Synced>> {
        let mut backoff = Backoff::bounded(PAUSE_FIRST, PAUSE_MAX, RETRIES);
        let (stop, silence) = (self.stop.clone(), self.silence.clone());
        silence.end();
        loop {
            let started = Instant::now();
            let (error, is_last) = tokio::select! {
                ended = stop.grant(GRACE, self.once()) => match ended {
                    None => {
                        tracing::warn!("stopping in the middle of a transaction; the next pass applies it again");
                        return None;
                    }
                    Some(Ok(synced)) => {
                        self.tally.pass_took(started.elapsed());
                        return Some(Ok(synced));
                    }
                    Some(Err(error)) => (error, false),
                },
                error = silence.lasting(SILENCE_MAX) => (error, true),
            };
            self.tally.pass_took(started.elapsed());
            self.tally.pass_failed(&error);
            let pause = match error.kind().remedy() {
                Remedy::Retry if !is_last => backoff.next(Dice::roll()),
                Remedy::Retry | Remedy::Wait | Remedy::Operator => None,
            };
            let Some(pause) = pause else { return Some(Err(error)) };
            tracing::warn!(error = %error.one_line(), "it is tried again");
            tokio::select! {
                () = tokio::time::sleep(pause) => {}
                () = self.stop.asked() => return None,
            }
        }
    }

    async fn once(&mut self) -> Result<Synced> {
        let source =
            archive::open::open(&self.config, &GroupName::DEFAULT)?.with_silence(self.silence.clone());
        let mut synced = Synced::from(self.pass(&source).await?);
        if synced.pass.waits_for_base && !synced.pass.stopped {
            let loads = self.load().await?;
            let changed = [loads.loaded.is_empty(), loads.refused.is_empty(), loads.waiting.is_empty()]
                .contains(&false);
            if changed && !loads.stopped {
                synced.then(self.pass(&source).await?);
            }
            synced.add(loads);
        }
        self.tidy(&source).await;
        Ok(synced)
    }

    async fn pass(&mut self, source: &Source) -> Result<Report> {
        let rules = rules(&self.config);
        let mut context = PassContext::new(&mut self.target, source, &rules);
        context.stop = self.stop.clone();
        context.tally = Arc::clone(&self.tally);
        Pass::new(context).run().await
    }

    async fn load(&mut self) -> Result<load::Report> {
        let source = archive::open::open_for_load(&self.config)?.with_silence(self.silence.clone());
        let (stop, acks, name) = (&self.stop, &self.acks, self.name.as_str());
        let loaded = Loading { target: &mut self.target, source: &source, stop, acks, name }.run().await;
        match &loaded {
            Ok(report) => self.tally.loaded(report),
            Err(error) => self.tally.load_failed(error),
        }
        loaded
    }

    /// What is no reason for a pass to fail.
    async fn tidy(&self, source: &Source) {
        let tidied = async {
            self.target.forget_old_logs(self.config.log_keep_days).await?;
            let (checkpoint, states) = (self.target.checkpoint().await?, self.target.table_states().await?);
            self.acks.tell_as(source, &self.name, &checkpoint, &states).await;
            Ok::<_, Error>(())
        };
        if let Err(error) = tidied.await {
            tracing::warn!(error = %error.one_line(), "data_sync_logs grows");
        }
    }

    async fn note_failure(&self, error: &Error) {
        if let Err(second) = self.target.log_failure(None, error).await {
            tracing::warn!(error = %second.one_line(), "the failure could not be noted in data_sync_logs");
        }
    }

    /// That readers get nothing new is no reason for a pass to fail, and is told with every one.
    async fn publish_if_due(&self) {
        match self.config.publish {
            Some(Publish::Duckdb) if is_due(&self.file.published(), self.config.publish_interval) => {}
            Some(Publish::Duckdb) | None => return,
        }
        match self.file.publish().await {
            Ok(published) => tracing::info!(
                segment = published.segment,
                bytes = published.bytes,
                milliseconds = u64::try_from(published.took.as_millis()).unwrap_or(u64::MAX),
                "copy for readers published"
            ),
            Err(error) => {
                tracing::error!(error = %error.one_line(), hint = error.hint_text(), "readers keep the copy that they have");
                self.tally.pass_failed(&error.context("publishing a copy for readers"));
            }
        }
    }
}

/// The copy that is there is so old, or there is none.
fn is_due(published: &Path, interval: Duration) -> bool {
    let written = std::fs::metadata(published).and_then(|metadata| metadata.modified());
    // A time in the future is none.
    written.ok().and_then(|written| written.elapsed().ok()).is_none_or(|age| age >= interval)
}
