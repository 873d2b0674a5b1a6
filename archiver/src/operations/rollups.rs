//! Roll-ups of a daemon: made once an hour beside its polls, over a connection of their own; and what lies alone beside
//! them leaves then. A day of `follow` is hundreds of thousands of files, for which no poll waits.

use syncdata_archive::ArchiveHandle;
use syncdata_formats::error::Result;
use syncdata_formats::manifest::Link;
use syncdata_formats::signature::SigningKey;
use syncdata_formats::time::{Day, Timestamp};
use syncdata_service::config::Config;
use tokio::task::JoinHandle;
use tracing::{info, warn};
use uuid::Uuid;

use crate::poll::archiver::Archiver;
use crate::prune::{self, Leaving};
use crate::rollup;
use crate::spool::State;

/// See the module.
#[derive(Debug, Default)]
pub(crate) struct Schedule {
    hour: Option<i64>,
    running: Option<JoinHandle<Done>>,
    done: Done,
}

/// Days before these have nothing more to do.
#[derive(Clone, Copy, Debug, Default)]
struct Done {
    made_before: Option<Day>,
    left_before: Option<Day>,
}

impl Schedule {
    /// After a clean poll. What could not be done is tried again in the next hour.
    pub(crate) async fn begin_if_due(&mut self, config: &Config, state: &State) {
        let hour = rollup::hour_of(Timestamp::now());
        if !rollup::are_wanted(config) || self.hour == Some(hour) {
            return;
        }
        match self.running.take() {
            Some(running) if !running.is_finished() => {
                self.running = Some(running);
                return;
            }
            Some(running) => self.done = running.await.unwrap_or(self.done),
            None => {}
        }
        self.hour = Some(hour);
        let end = state.tip.last.map(|last| last.segment);
        self.running = Some(tokio::spawn(once(config.clone(), state.archive_id, end, self.done)));
    }
}

async fn once(config: Config, archive_id: Uuid, end: Option<Link>, mut done: Done) -> Done {
    let archive = match open(&config) {
        Ok(archive) => archive,
        Err(error) => {
            warn!(error = %error.one_line(), hint = error.hint_text(), "segments not rolled up, tried again in an hour");
            return done;
        }
    };
    match rollup::make(&archive, &config, archive_id, done.made_before).await {
        Ok(made) => done.made_before = made.done_before,
        Err(error) => {
            warn!(error = %error.one_line(), hint = error.hint_text(), "segments not rolled up, tried again in an hour");
        }
    }
    match let_leave(&archive, &config, archive_id, end, done.left_before).await {
        // What is rolled up only later leaves later, too.
        Ok(before) => done.left_before = before.min(done.made_before),
        Err(error) => {
            warn!(error = %error.one_line(), hint = error.hint_text(), "what is in roll-ups stays where it lies alone, tried again in an hour");
        }
    }
    done
}

async fn let_leave(
    archive: &ArchiveHandle,
    config: &Config,
    archive_id: Uuid,
    end: Option<Link>,
    from: Option<Day>,
) -> Result<Option<Day>> {
    let Some(keep_singles) = config.keep_singles else { return Ok(from) };
    let verify_key = config.signing_key()?.as_ref().map(SigningKey::verify_key);
    let now = Timestamp::now();
    let mut before = from;
    let leaving = Leaving { archive_id, verify_key, keep_singles, end, now };
    for (day, next) in prune::days_to_leave(archive, &leaving, from).await? {
        let leaving = leaving.clone();
        let left = archive.run(move |archive| leaving.carry_out(archive, day, next)).await?;
        if left.files > 0 {
            info!(%day, files = left.files, bytes = left.bytes, "what is in roll-ups left where it lay alone");
        }
        if rollup::is_closed(day, now) {
            before = Some(day);
        }
    }
    Ok(before)
}

/// Without a daemon they are made before it is looked what may leave; what cannot be rolled up stays as it is. Of a dry
/// run, what that would take, in words.
pub(crate) async fn before_prune(archiver: &Archiver, dry_run: bool) -> Result<Option<String>> {
    let config = &archiver.config;
    let Some(spool) = archiver.spool().filter(|_| rollup::are_wanted(config)) else { return Ok(None) };
    let archive_id = spool.state().archive_id;
    if !dry_run {
        let made = async { rollup::make(&open(config)?, config, archive_id, None).await };
        if let Err(error) = made.await {
            warn!(error = %error.one_line(), hint = error.hint_text(), "segments not rolled up");
        }
        return Ok(None);
    }
    let segments = rollup::foresee(&open(config)?, config, archive_id).await?;
    let leaves = match config.keep_singles {
        Some(0) => ", and what lies alone of them leaves then",
        Some(_) | None => "",
    };
    Ok((segments > 0).then(|| format!("{segments} segments are rolled up first{leaves}")))
}

fn open(config: &Config) -> Result<ArchiveHandle> {
    ArchiveHandle::spawn(syncdata_archive::open(config.archive()?)?)
}
