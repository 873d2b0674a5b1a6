//! What a daemon hears from its surroundings and tells them: signals, and the service manager's protocol.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use sd_notify::NotifyState;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::watch;
use tracing::{info, warn};

use syncdata_formats::error::{Context, Result, escape_control};

/// Whether somebody asked us to stop: a signal, or a command over the control socket. Clones are one.
#[derive(Clone, Debug)]
pub struct Stop(Arc<watch::Sender<bool>>);

impl Default for Stop {
    fn default() -> Stop {
        Stop::new()
    }
}

impl Stop {
    pub fn new() -> Stop {
        Stop(Arc::new(watch::channel(false).0))
    }

    pub fn ask(&self) {
        self.0.send_replace(true);
    }

    pub fn is_asked(&self) -> bool {
        *self.0.borrow()
    }

    /// Waits until it is asked. Dropping the wait loses nothing.
    pub async fn asked(&self) {
        let asked = self.0.subscribe().wait_for(|asked| *asked).await.is_ok();
        debug_assert!(asked, "the sender lives in self");
    }

    /// The work's own end; `None` when it was abandoned, because it went on for `grace` after somebody asked.
    pub async fn grant<T>(&self, grace: Duration, work: impl Future<Output = T>) -> Option<T> {
        let too_late = async {
            self.asked().await;
            tokio::time::sleep(grace).await;
        };
        tokio::select! {
            done = work => Some(done),
            () = too_late => None,
        }
    }

    /// SIGTERM and SIGINT ask from now on. (SIGPIPE needs nothing: Rust programs ignore it from the start, and
    /// a closed pipe is an error of the write.)
    pub fn on_signals(&self) -> Result<()> {
        let (mut terminate, mut interrupt) =
            (listen(SignalKind::terminate())?, listen(SignalKind::interrupt())?);
        let stop = self.clone();
        tokio::spawn(async move {
            loop {
                let name = tokio::select! {
                    Some(()) = terminate.recv() => "SIGTERM",
                    Some(()) = interrupt.recv() => "SIGINT",
                    else => return,
                };
                info!(signal = name, "stop asked for");
                stop.ask();
            }
        });
        Ok(())
    }
}

/// SIGHUP, each one a wish to read the settings again. Several that nobody waited for are one.
#[derive(Debug)]
pub struct Reloads(Signal);

impl Reloads {
    pub fn listen() -> Result<Reloads> {
        listen(SignalKind::hangup()).map(Reloads)
    }

    /// Dropping the wait loses nothing.
    pub async fn next(&mut self) {
        if self.0.recv().await.is_none() {
            // The runtime is going down; nobody asks any more.
            std::future::pending::<()>().await;
        }
    }
}

fn listen(kind: SignalKind) -> Result<Signal> {
    signal(kind).context(|| "listening to signals".to_owned())
}

/// What the service manager wants to know. Without one, telling it does nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase<'a> {
    /// Started, or reloaded.
    Ready,
    Reloading,
    Stopping,
    /// A line for `systemctl status`.
    Status(&'a str),
}

pub fn notify(phase: Phase<'_>) {
    // A line break would begin another variable of the protocol.
    let text = match phase {
        Phase::Status(text) => escape_control(text),
        _ => String::new(),
    };
    let sent = match phase {
        Phase::Ready => sd_notify::notify(&[NotifyState::Ready]),
        Phase::Stopping => sd_notify::notify(&[NotifyState::Stopping]),
        Phase::Status(_) => sd_notify::notify(&[NotifyState::Status(&text)]),
        // systemd compares its own clock with ours to know which READY answers this.
        Phase::Reloading => NotifyState::monotonic_usec_now()
            .and_then(|now| sd_notify::notify(&[NotifyState::Reloading, now])),
    };
    if let Err(error) = sent {
        warn!(%error, "service manager not reached");
    }
}

/// The main loop's sign of life. Work beats now and then; a wait that may be long (a timer, the server's
/// answer) is declared for as long as it lasts. Clones are one.
#[derive(Clone, Debug)]
pub struct Heartbeat(Arc<Life>);

#[derive(Debug)]
struct Life {
    last_beat: Mutex<Instant>,
    waits: AtomicUsize,
}

/// A declared wait; it ends when this is dropped.
#[derive(Debug)]
#[must_use = "the wait ends when this is dropped"]
pub struct Waiting<'a>(&'a Heartbeat);

impl Default for Heartbeat {
    fn default() -> Heartbeat {
        Heartbeat::new()
    }
}

impl Heartbeat {
    pub fn new() -> Heartbeat {
        Heartbeat(Arc::new(Life { last_beat: Mutex::new(Instant::now()), waits: AtomicUsize::new(0) }))
    }

    pub fn beat(&self) {
        *self.0.last_beat.lock().unwrap_or_else(PoisonError::into_inner) = Instant::now();
    }

    pub fn wait(&self) -> Waiting<'_> {
        self.0.waits.fetch_add(1, Ordering::SeqCst);
        Waiting(self)
    }

    fn is_alive(&self, patience: Duration, now: Instant) -> bool {
        let last = *self.0.last_beat.lock().unwrap_or_else(PoisonError::into_inner);
        self.0.waits.load(Ordering::SeqCst) > 0 || now.saturating_duration_since(last) < patience
    }

    /// Pings the service manager's watchdog, if it has one, while there are signs of life. Work that shows
    /// none for `patience` is stuck, and the service manager starts us again.
    pub fn feed_watchdog(&self, patience: Duration) {
        let Some(deadline) = sd_notify::watchdog_enabled() else { return };
        let heartbeat = self.clone();
        tokio::spawn(async move {
            // Twice is what systemd advises; thrice forgives a busy machine one delay.
            let mut ticks = tokio::time::interval((deadline / 3).max(Duration::from_millis(1)));
            loop {
                ticks.tick().await;
                if !heartbeat.is_alive(patience, Instant::now()) {
                    warn!(patience = patience.as_secs(), "no sign of life from the main loop");
                } else if let Err(error) = sd_notify::notify(&[NotifyState::Watchdog]) {
                    warn!(%error, "service manager not reached");
                }
            }
        });
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        // First the beat, so that no moment looks dead.
        self.0.beat();
        self.0.0.waits.fetch_sub(1, Ordering::SeqCst);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn silence_is_death_unless_it_was_declared() {
        let heartbeat = Heartbeat::new();
        let patience = Duration::from_secs(60);
        let later = Instant::now() + Duration::from_secs(120);
        assert!(heartbeat.is_alive(patience, Instant::now()));
        assert!(!heartbeat.is_alive(patience, later));
        let waiting = heartbeat.wait();
        assert!(heartbeat.is_alive(patience, later));
        drop(waiting);
        assert!(!heartbeat.is_alive(patience, later));
        assert!(heartbeat.is_alive(patience, Instant::now()));
    }

    #[tokio::test(flavor = "current_thread", start_paused = true)]
    async fn work_that_is_asked_to_stop_has_a_while_left() {
        let (stop, grace) = (Stop::new(), Duration::from_secs(7));
        stop.ask();
        let short = tokio::time::sleep(Duration::from_secs(6));
        assert_eq!(stop.grant(grace, short).await, Some(()));
        let long = tokio::time::sleep(Duration::from_secs(8));
        assert_eq!(stop.grant(grace, long).await, None);
        let unasked = tokio::time::sleep(Duration::from_secs(8));
        assert_eq!(Stop::new().grant(grace, unasked).await, Some(()));
    }

    #[tokio::test(flavor = "current_thread")]
    async fn signals_ask_to_stop_and_to_reload() {
        let stop = Stop::new();
        stop.on_signals().expect("signals can be heard");
        let mut reloads = Reloads::listen().expect("signals can be heard");
        let ourselves = rustix::process::getpid();
        rustix::process::kill_process(ourselves, rustix::process::Signal::HUP)
            .expect("we may signal ourselves");
        reloads.next().await;
        assert!(!stop.is_asked());
        rustix::process::kill_process(ourselves, rustix::process::Signal::TERM)
            .expect("we may signal ourselves");
        stop.asked().await;
        assert!(stop.is_asked());
    }
}
