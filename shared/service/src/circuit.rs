//! Whether a peer answers, as people are told it. A circuit defers what is asked of a peer that fails, and drops nothing.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use syncdata_formats::time::Timestamp;

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum State {
    /// All is well, as far as anybody knows.
    #[default]
    Closed,
    /// It failed, and is left alone until the next try.
    Open,
    /// It is tried again just now.
    HalfOpen,
}

impl State {
    pub const ALL: [State; 3] = [State::Closed, State::Open, State::HalfOpen];

    pub fn as_str(self) -> &'static str {
        match self {
            State::Closed => "closed",
            State::Open => "open",
            State::HalfOpen => "half_open",
        }
    }
}

/// One peer's.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Circuit {
    pub state: State,
    /// Since when it fails without a success in between; `None`: it does not.
    pub since: Option<Timestamp>,
    /// In a row.
    pub failures: u64,
    pub next_try: Option<Timestamp>,
}

impl Circuit {
    /// For people; `None`: it is closed.
    pub fn line(&self, peer: &str) -> Option<String> {
        let Circuit { state, since, failures, next_try } = self;
        let next = next_try.map(|next| format!(", next try {}", next.to_second())).unwrap_or_default();
        Some(format!(
            "{peer}: {} since {}, {failures} failures{next}",
            state.as_str(),
            since.as_ref()?.to_second()
        ))
    }

    /// A try begins.
    pub fn tries(&mut self) {
        if self.state == State::Open {
            self.state = State::HalfOpen;
            self.next_try = None;
        }
    }

    pub fn succeeded(&mut self) {
        *self = Circuit::default();
    }

    pub fn failed(&mut self, now: Timestamp) {
        self.state = State::Open;
        self.since.get_or_insert(now);
        self.failures += 1;
    }

    /// One that fails is left alone for so long.
    pub fn waits(&mut self, now: Timestamp, pause: Duration) {
        if self.state != State::Closed {
            self.state = State::Open;
            let micros = i64::try_from(pause.as_micros()).unwrap_or(i64::MAX);
            self.next_try = Timestamp::from_micros(now.as_micros().saturating_add(micros)).ok();
        }
    }
}

/// Those of a program, by whom it speaks with.
#[derive(Debug, Default)]
pub struct Circuits(Mutex<BTreeMap<String, Circuit>>);

pub const ARCHIVE: &str = "archive";
pub const LOCAL_SERVER: &str = "local_server";
pub const SOURCE: &str = "source";

impl Circuits {
    /// All of them are closed.
    pub fn of(peers: &[&str]) -> Circuits {
        let circuits = peers.iter().map(|peer| ((*peer).to_owned(), Circuit::default()));
        Circuits(Mutex::new(circuits.collect()))
    }

    pub fn now(&self) -> BTreeMap<String, Circuit> {
        self.lock().clone()
    }

    /// Which of these there are.
    pub fn are_of(&self, peers: &[&str], is_there: impl Fn(&str) -> bool) {
        let mut circuits = self.lock();
        for peer in peers {
            match is_there(peer) {
                true => {
                    circuits.entry((*peer).to_owned()).or_default();
                }
                false => {
                    circuits.remove(*peer);
                }
            }
        }
    }

    /// It is asked again.
    pub fn tries(&self, peer: &str) {
        self.change(peer, Circuit::tries);
    }

    pub fn tried(&self, peer: &str, is_well: bool) {
        self.change(peer, |circuit| match is_well {
            true => circuit.succeeded(),
            false => circuit.failed(Timestamp::now()),
        });
    }

    /// It is left alone for so long, if it fails.
    pub fn wait(&self, peer: &str, pause: Duration) {
        self.change(peer, |circuit| circuit.waits(Timestamp::now(), pause));
    }

    fn change(&self, peer: &str, change: impl FnOnce(&mut Circuit)) {
        change(self.lock().entry(peer.to_owned()).or_default());
    }

    /// A panic elsewhere leaves states that are at worst old.
    fn lock(&self) -> MutexGuard<'_, BTreeMap<String, Circuit>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_circuit_opens_is_tried_and_closes() {
        let at = |seconds: i64| Timestamp::from_micros(seconds * 1_000_000).expect("a time");
        let mut circuit = Circuit::default();
        circuit.tries();
        assert_eq!(circuit, Circuit::default(), "nothing has failed");
        circuit.failed(at(1));
        circuit.waits(at(2), Duration::from_secs(5));
        circuit.tries();
        assert_eq!((circuit.state, circuit.next_try), (State::HalfOpen, None));
        assert_eq!(
            circuit.line("archive").as_deref(),
            Some("archive: half_open since 1970-01-01T00:00:01Z, 1 failures")
        );
        circuit.failed(at(8));
        circuit.waits(at(8), Duration::from_secs(10));
        let expected =
            Circuit { state: State::Open, since: Some(at(1)), failures: 2, next_try: Some(at(18)) };
        assert_eq!(circuit, expected);
        circuit.succeeded();
        circuit.waits(at(9), Duration::from_secs(1));
        assert_eq!(circuit, Circuit::default());
    }
}
