//! A daemon looks after itself: what is bad is kept, and said. On a task of its own, and messages on others, so that whoever
//! is told holds up no work and no look.

use std::collections::{BTreeMap, BTreeSet};
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use syncdata_formats::error::Result;
use syncdata_formats::time::Timestamp;
use tokio::task::JoinSet;
use tokio::time::Instant;
use tracing::{debug, info, warn};
use uuid::Uuid;

use super::{Alert, AlertKind, Bad, Book, Event, Journal, Sink};
use crate::backoff::{Backoff, Dice};
use crate::circuit::Circuits;
use crate::config::{Config, Program};
use crate::daemon::Stop;
use crate::faults;

/// Also when nothing happens: time makes things bad by itself.
const LOOK_EVERY: Duration = Duration::from_secs(60);

const FIRST_RETRY: Duration = Duration::from_secs(1);
const RETRY_MAX: Duration = Duration::from_secs(300);

const LASTED: Duration = Duration::from_secs(600);

/// What a look has found.
#[derive(Clone, Debug, Default)]
pub struct Look {
    pub bad: Vec<Bad>,
    /// What keeps an alert open, and begins none.
    pub not_good: Vec<Bad>,
    /// Everything was seen. Else what is not bad here may be bad all the same.
    pub is_whole: bool,
}

/// The daemon that is watched, and where it keeps alerts beside the journal.
pub trait Watched: Send + Sync + 'static {
    fn program(&self) -> Program;

    fn config(&self) -> Config;

    fn circuits(&self) -> &Circuits;

    /// Ends when there may be something new to see.
    fn news(&self) -> impl Future<Output = ()> + Send;

    fn look(&self, now: Timestamp) -> impl Future<Output = Look> + Send;

    /// Which alerts are not over, for who asks the daemon.
    fn alerts_are(&self, open: Vec<Alert>);

    /// Beside the journal.
    const HAS_PLACE_OF_ITS_OWN: bool = false;

    /// What daemons before have left there; `None`: nobody can say now.
    fn left(&self) -> impl Future<Output = Result<Option<Vec<Alert>>>> + Send {
        async { Ok(Some(Vec::new())) }
    }

    /// Whether it is kept there now.
    fn keep(&self, _alert: &Alert) -> impl Future<Output = Result<bool>> + Send {
        async { Ok(true) }
    }
}

/// Looks at intervals, keeps the book in its journal, and tells the sinks.
#[derive(Debug)]
pub struct Alerting<W> {
    watched: Arc<W>,
    started: Instant,
    book: Book,
    journal: Journal,
    /// What was left in the other place is taken in.
    has_met: bool,
    /// What began or is over is kept: it may be said.
    is_safe: bool,
    /// What only the journal has yet.
    unkept: BTreeSet<Uuid>,
    /// How patient we are with whom, by their names.
    pauses: BTreeMap<&'static str, Pause>,
    telling: JoinSet<Told>,
}

#[derive(Debug)]
struct Pause {
    backoff: Backoff,
    /// Not before; `None`: it is being told.
    next: Option<Instant>,
}

impl Pause {
    fn none() -> Pause {
        Pause { backoff: Backoff::endless(FIRST_RETRY, RETRY_MAX), next: Some(Instant::now()) }
    }
}

#[derive(Debug)]
struct Told {
    sink: &'static str,
    id: Uuid,
    event: Event,
    result: Result<()>,
}

impl<W: Watched> Alerting<W> {
    pub fn new(watched: Arc<W>, journal: Journal) -> Alerting<W> {
        let book = journal.read();
        let unkept = book.alerts.iter().map(|alert| alert.id).collect();
        Alerting {
            watched,
            started: Instant::now(),
            book,
            journal,
            has_met: false,
            is_safe: true,
            unkept,
            pauses: BTreeMap::new(),
            telling: JoinSet::new(),
        }
    }

    /// Until the daemon stops.
    pub async fn watch(mut self, stop: Stop) {
        // What an earlier daemon left is open until somebody has looked.
        self.watched.alerts_are(self.book.open().cloned().collect());
        let mut next_look = Instant::now() + LOOK_EVERY;
        loop {
            let config = self.watched.config();
            let sinks = if config.enable_sync_monitoring { Sink::all(&config) } else { Vec::new() };
            self.watched.circuits().are_of(&Sink::NAMES, |name| sinks.iter().any(|sink| sink.name() == name));
            let next_word = self.begin_telling(&sinks);
            let next = next_word.map_or(next_look, |word| word.min(next_look));
            let is_telling = !self.telling.is_empty();
            tokio::select! {
                () = tokio::time::sleep_until(next) => {}
                () = self.watched.news() => next_look = Instant::now(),
                Some(told) = self.telling.join_next(), if is_telling => self.note(told, &sinks).await,
                () = stop.asked() => return,
            }
            if next_look <= Instant::now() {
                next_look = Instant::now() + LOOK_EVERY;
                if config.enable_sync_monitoring
                    && let Err(error) = self.look(&sinks).await
                {
                    warn!(error = %error.one_line(), "alerts could not be kept");
                }
            }
        }
    }

    /// What began or is over is on the disk when this returns.
    async fn look(&mut self, sinks: &[Sink]) -> Result<()> {
        let now = Timestamp::now();
        if let Err(error) = self.meet(now).await {
            debug!(error = %error.one_line(), "alerts that were left are not known yet");
        }
        let Look { mut bad, not_good, is_whole } = self.watched.look(now).await;
        // That it was dead is over when it has lasted: so often, and not more, a daemon that comes and goes wakes somebody.
        let has_lasted = self.started.elapsed() >= LASTED;
        let goes_on = |alert: &&Alert| match alert.kind {
            _ if !is_whole || not_good.iter().any(|bad| alert.is_of(bad)) => true,
            AlertKind::DaemonFailed => !has_lasted,
            _ => false,
        };
        bad.extend(self.book.open().filter(goes_on).map(Alert::as_bad));
        let known: BTreeSet<Uuid> = self.book.open().map(|alert| alert.id).collect();
        if self.book.check(bad, now) {
            let open: BTreeSet<Uuid> = self.book.open().map(|alert| alert.id).collect();
            let changed: BTreeSet<Uuid> = known.symmetric_difference(&open).copied().collect();
            self.say(&changed);
            self.unkept.extend(changed);
            self.is_safe = false;
        }
        self.settle(sinks);
        let written = match self.is_safe {
            true => Ok(()),
            false => self.journal.write(&self.book),
        };
        self.keep().await;
        if !self.is_safe {
            // One of both is enough.
            if !(W::HAS_PLACE_OF_ITS_OWN && self.unkept.is_empty()) {
                written?;
            }
            self.is_safe = true;
            faults::hit("alerts.kept")?;
        }
        self.tidy(sinks);
        self.watched.alerts_are(self.book.open().cloned().collect());
        Ok(())
    }

    /// The log has it too, whoever else is told.
    fn say(&self, changed: &BTreeSet<Uuid>) {
        for alert in self.book.alerts.iter().filter(|alert| changed.contains(&alert.id)) {
            let (kind, subject) = (alert.kind.as_str(), &alert.subject);
            match alert.resolved_at {
                None => warn!(kind, subject, value = alert.value, threshold = alert.threshold, "alert"),
                Some(_) => info!(kind, subject, "alert is over"),
            }
        }
    }

    /// Alerts of a daemon that had another state folder.
    async fn meet(&mut self, now: Timestamp) -> Result<()> {
        if self.has_met {
            return Ok(());
        }
        let Some(left) = self.watched.left().await? else { return Ok(()) };
        for over in self.book.take_in(left, now) {
            self.watched.keep(&over).await?;
        }
        self.has_met = true;
        Ok(())
    }

    /// What cannot be brought there now is brought later; the journal has it.
    async fn keep(&mut self) {
        for alert in &self.book.alerts {
            if !self.unkept.contains(&alert.id) {
                continue;
            }
            match self.watched.keep(alert).await {
                Ok(true) => {
                    self.unkept.remove(&alert.id);
                }
                Ok(false) => return,
                Err(error) => {
                    debug!(error = %error.one_line(), "an alert is in the journal alone");
                    return;
                }
            }
        }
    }

    /// Each sink hears one message at a time, the oldest first. When somebody who did not listen is asked again.
    fn begin_telling(&mut self, sinks: &[Sink]) -> Option<Instant> {
        if !self.is_safe {
            return None;
        }
        let mut next_word = None::<Instant>;
        for sink in sinks {
            let name = sink.name();
            let Some((alert, event)) = self.book.due(name) else { continue };
            let pause = self.pauses.entry(name).or_insert_with(Pause::none);
            match pause.next {
                None => {}
                Some(next) if next > Instant::now() => {
                    next_word = Some(next_word.map_or(next, |word| word.min(next)));
                }
                Some(_) => {
                    pause.next = None;
                    self.watched.circuits().tries(name);
                    let (id, message) = (alert.id, alert.message(self.watched.program(), event));
                    let sink = sink.clone();
                    self.telling.spawn(async move {
                        let result = sink.tell(message).await;
                        Told { sink: name, id, event, result }
                    });
                }
            }
        }
        next_word
    }

    async fn note(&mut self, told: Result<Told, tokio::task::JoinError>, sinks: &[Sink]) {
        let Ok(Told { sink, id, event, result }) = told else {
            warn!("a task that was telling an alert has ended early");
            // Nobody knows which.
            self.pauses.clear();
            return;
        };
        let circuits = self.watched.circuits();
        circuits.tried(sink, result.is_ok());
        if let Err(error) = result {
            let pause = self.pauses.entry(sink).or_insert_with(Pause::none);
            let wait = pause.backoff.next(Dice::roll()).unwrap_or(RETRY_MAX);
            pause.next = Some(Instant::now() + wait);
            circuits.wait(sink, wait);
            warn!(sink, error = %error.with_hint(), "an alert was not taken, it is said again");
            return;
        }
        self.pauses.remove(sink);
        if let Err(error) = faults::hit("alerts.told") {
            warn!(error = %error.one_line(), "an alert that was said may be said again");
            return;
        }
        self.book.told(id, sink, event);
        self.unkept.insert(id);
        self.settle(sinks);
        if let Err(error) = self.journal.write(&self.book) {
            warn!(error = %error.one_line(), "an alert that was said may be said again");
        }
        self.keep().await;
        self.tidy(sinks);
    }

    fn settle(&mut self, sinks: &[Sink]) {
        let names: Vec<&str> = sinks.iter().map(Sink::name).collect();
        self.unkept.extend(self.book.settle(&names, Timestamp::now()));
    }

    /// What is over and said is in the other place alone.
    fn tidy(&mut self, sinks: &[Sink]) {
        if self.unkept.is_empty() {
            let names: Vec<&str> = sinks.iter().map(Sink::name).collect();
            self.book.tidy(&names);
        }
    }
}
