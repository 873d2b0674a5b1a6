//! Waiting for an answer that may be long in coming: what the source says meanwhile is told, and one reason for which
//! it may never come is bounded.
//!
//! From PostgreSQL 17 on, a slot that standbys are to have (`failover`) is not read, and not moved, before the standbys
//! of `synchronized_standby_slots` have received as much. With one of them down the call waits for ever; the server
//! says so in warnings, and does not say so at all of one that only lags.

use std::collections::BTreeSet;
use std::pin::pin;
use std::time::Duration;

use syncdata_formats::{Error, Kind, Result};
use syncdata_service::postgres::{Canceller, Listener, PostgresSettings, ServerContext as _, Session};
use tokio::time::{Instant, timeout};
use tokio_postgres::types::Type;
use tracing::warn;

use super::pinned::{APPLICATION_NAME, pinned};

/// How often we listen.
const BETWEEN_WORDS: Duration = Duration::from_secs(1);
/// How often a second session looks what the first one is waiting for.
const BETWEEN_LOOKS: Duration = Duration::from_secs(5);
/// A standby that is only restarted is back by then.
const STANDBY_PATIENCE: Duration = Duration::from_secs(30);
/// For the end of what was cancelled.
const CANCEL_PATIENCE: Duration = Duration::from_secs(10);
/// Of what the source says during one wait.
const WORDS_MAX: usize = 20;

const WAITS_FOR: &str = "SELECT wait_event::text, current_setting('synchronized_standby_slots', true)
    FROM pg_stat_activity WHERE pid = $1";

/// Who waits for the answers of one session.
#[derive(Clone, Debug)]
pub(crate) struct Waiting {
    settings: PostgresSettings,
    listener: Listener,
    canceller: Canceller,
    pid: i32,
    /// There may be standbys to wait for.
    has_standbys: bool,
}

impl Waiting {
    pub(crate) async fn on(session: &Session, settings: &PostgresSettings) -> Result<Waiting> {
        let row = session.client().query_typed_one("SELECT pg_backend_pid()", &[]).await;
        let row = row.context(|| "asking the source for its process".to_owned())?;
        Ok(Waiting {
            settings: settings.clone(),
            listener: session.listener(),
            canceller: session.canceller(),
            pid: row.get(0),
            has_standbys: session.version().major() >= 17,
        })
    }

    /// Waits, however long, but not for a standby that does not come.
    pub(crate) async fn for_answer<T>(&self, answer: impl Future<Output = Result<T>>) -> Result<T> {
        let mut answer = pin!(answer);
        let mut told = BTreeSet::new();
        let mut looked = Instant::now();
        let mut waits_since: Option<Instant> = None;
        loop {
            if let Ok(answer) = timeout(BETWEEN_WORDS, &mut answer).await {
                return answer;
            }
            self.tell(&mut told);
            if !self.has_standbys || looked.elapsed() < BETWEEN_LOOKS {
                continue;
            }
            looked = Instant::now();
            // Who cannot look goes on waiting: that is no worse.
            let Ok(Some(slots)) = self.standbys_waited_for().await else {
                waits_since = None;
                continue;
            };
            if waits_since.get_or_insert(looked).elapsed() >= STANDBY_PATIENCE {
                self.canceller.cancel().await?;
                let _ = timeout(CANCEL_PATIENCE, &mut answer).await;
                return Err(standbys_are_away(&slots));
            }
        }
    }

    fn tell(&self, told: &mut BTreeSet<String>) {
        for notice in self.listener.notices() {
            // Those about tables without identity become gaps, which are told apart.
            let is_news = !notice.message.contains(" in table ") && told.len() < WORDS_MAX;
            if is_news && told.insert(notice.message.clone()) {
                warn!(
                    severity = notice.severity,
                    said = notice.message,
                    "the source says while we wait for it"
                );
            }
        }
    }

    /// The standbys' slots, while that is what the session waits for.
    async fn standbys_waited_for(&self) -> Result<Option<String>> {
        let looking = async {
            let session = Session::open(&self.settings, APPLICATION_NAME, &pinned()).await?;
            let rows = session.client().query_typed(WAITS_FOR, &[(&self.pid, Type::INT4)]).await;
            rows.context(|| "asking the source what it waits for".to_owned())
        };
        let rows = looking.await?;
        let Some(row) = rows.first() else { return Ok(None) };
        let is_it = row.get::<_, Option<&str>>(0) == Some("WaitForStandbyConfirmation");
        Ok(is_it.then(|| row.get::<_, Option<String>>(1).unwrap_or_default()))
    }
}

fn standbys_are_away(slots: &str) -> Error {
    let message = format!(
        "the source waits for standbys that have not received what is to be read (synchronized_standby_slots = '{slots}')"
    );
    Error::new(Kind::Unreachable, message).hint(
        "bring those standbys back; or, for one that does not come back, take its slot out of the list as superuser (ALTER \
         SYSTEM SET synchronized_standby_slots, then SELECT pg_reload_conf()); nothing is lost meanwhile, but the slot keeps \
         WAL for as long",
    )
}
