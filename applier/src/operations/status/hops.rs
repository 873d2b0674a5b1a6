//! Three hops from production to the tables, as this side sees them. Their lags together are the age of the oldest data.

use std::time::Duration;

use syncdata_formats::time::Timestamp;
use syncdata_service::circuit::{self, Circuit};
use syncdata_service::hops::{Hop, HopState, Trouble};

use super::Status;
use crate::pass::Seen;

/// The archiver's work.
pub const ARCHIVER: &str = "archiver";
pub const FETCH: &str = "fetch";
pub const APPLY: &str = "apply";

/// Names of tables in a sentence; the troubles have them all.
const NAMED_MAX: usize = 3;

/// `late` is when a lag is worth a message.
pub fn hops(status: &Status, seen: Option<Seen>, late: Duration, now: Timestamp) -> Vec<Hop> {
    let lags = Lags::of(status, seen, now);
    let late = Late { stale: Duration::from_secs(status.stale_after_seconds), broken: late };
    vec![archiver(status, seen, &lags, &late), fetch(status, &lags), apply(status, &lags, &late)]
}

#[derive(Debug, Default)]
struct Lags {
    archiver: Option<Duration>,
    fetch: Option<Duration>,
    apply: Option<Duration>,
}

impl Lags {
    fn of(status: &Status, seen: Option<Seen>, now: Timestamp) -> Lags {
        let Some(Seen { covered_at: Some(covered_at), at }) = seen else { return Lags::default() };
        let archiver = at.since(covered_at);
        let as_of = status.copy.data_as_of;
        // While segments wait here, it is not the archive that is waited for.
        let (fetch, apply) = match status.waiting_segments {
            Some(1..) => (Duration::ZERO, as_of.map(|as_of| now.since(as_of).saturating_sub(archiver))),
            _ => (now.since(at), as_of.map(|as_of| covered_at.since(as_of))),
        };
        Lags { archiver: Some(archiver), fetch: Some(fetch), apply }
    }
}

struct Late {
    stale: Duration,
    broken: Duration,
}

impl Late {
    fn state(&self, lag: Option<Duration>) -> HopState {
        match lag {
            Some(lag) if lag >= self.broken => HopState::Broken,
            Some(lag) if lag >= self.stale => HopState::Slow,
            _ => HopState::Ok,
        }
    }
}

fn with_lag(hop: Hop, lag: Option<Duration>) -> Hop {
    Hop { lag_seconds: lag.map(|lag| lag.as_secs()), ..hop }
}

/// That fails.
fn open<'a>(status: &'a Status, peer: &str) -> Option<&'a Circuit> {
    status.circuits.get(peer).filter(|circuit| circuit.state != circuit::State::Closed)
}

fn archiver(status: &Status, seen: Option<Seen>, lags: &Lags, late: &Late) -> Hop {
    let hop = with_lag(Hop::new(ARCHIVER, "production", "backup host"), lags.archiver);
    let Some(seen) = seen else { return hop.is(HopState::Unknown, "the archive has not been seen yet") };
    let Some(covered_at) = seen.covered_at else {
        return hop.is(HopState::Unknown, "the archive does not say how fresh it is: it has no head.json");
    };
    if open(status, circuit::ARCHIVE).is_some() {
        let words = format!("as of {}, when the archive was seen last", seen.at.to_second());
        return hop.is(HopState::Unknown, words);
    }
    match late.state(lags.archiver) {
        HopState::Broken | HopState::Slow => hop
            .is(late.state(lags.archiver), format!("nothing after {} is in the archive", covered_at.to_second()))
            .since(Some(covered_at))
            .remedy(
                "Look at the archiver on production's host: its page, or syncdata-archiver status; and at both clocks.",
            ),
        HopState::Ok | HopState::Unknown => {
            hop.is(HopState::Ok, format!("archived up to {}", covered_at.to_second()))
        }
    }
}

fn fetch(status: &Status, lags: &Lags) -> Hop {
    let hop = with_lag(Hop::new(FETCH, "backup host", "this host"), lags.fetch);
    let trouble = first_of(status, FETCH);
    if let Some(circuit) = open(status, circuit::ARCHIVE) {
        let next = circuit.next_try.map_or(String::new(), |next| format!(", next try {}", next.to_second()));
        let words = format!("the archive does not answer, {} tries{next}", circuit.failures);
        return hop.is(HopState::Broken, words).since(circuit.since).remedy(
            "Look at the backup host: is it up, does sshd answer, is the key accepted? syncdata-applier check says. Nothing is \
             lost meanwhile, and it is tried again by itself.",
        );
    }
    match (trouble, lags.fetch, status.waiting_segments) {
        (Some(trouble), ..) => hop
            .is(HopState::Broken, "what the archive holds is not taken")
            .since(trouble.since)
            .remedy("Do what the problem above says; syncdata-applier verify looks at the whole archive."),
        (None, None, _) => hop.is(HopState::Unknown, "the archive has not been seen yet"),
        (None, _, Some(waiting @ 1..)) => hop.is(HopState::Ok, format!("{waiting} segments wait")),
        (None, ..) => hop.is(HopState::Ok, "nothing waits"),
    }
}

fn apply(status: &Status, lags: &Lags, late: &Late) -> Hop {
    let hop = with_lag(Hop::new(APPLY, "this host", "tables"), lags.apply);
    if let Some(circuit) = open(status, circuit::LOCAL_SERVER) {
        let words = format!("the local server does not answer, {} tries", circuit.failures);
        return hop.is(HopState::Broken, words).since(circuit.since).remedy(
            "Start the local PostgreSQL, or mend what syncdata-applier check names. Nothing is lost meanwhile, and it is tried \
             again by itself.",
        );
    }
    let troubles = || status.troubles.iter().filter(|trouble| trouble.hop.as_deref() == Some(APPLY));
    let mut tables: Vec<&str> = troubles().filter_map(|trouble| trouble.table.as_deref()).collect();
    tables.dedup();
    if !tables.is_empty() {
        let since = troubles().filter_map(|trouble| trouble.since).min();
        let words = format!("{} of {} tables: {}", tables.len(), status.tables.len(), named(&tables));
        return hop
            .is(HopState::Broken, words)
            .since(since)
            .remedy("The others go on. What to do for each stands with the problems.");
    }
    match (first_of(status, APPLY), late.state(lags.apply)) {
        (Some(trouble), _) => hop
            .is(HopState::Broken, "nothing is applied")
            .since(trouble.since)
            .remedy("Do what the problem above says."),
        (None, HopState::Ok) if status.tables.is_empty() => {
            hop.is(HopState::Ok, "no tables yet").remedy("syncdata-applier add-tables TABLE")
        }
        (None, state) => hop.is(state, format!("{} tables", status.tables.len())),
    }
}

fn first_of<'a>(status: &'a Status, hop: &str) -> Option<&'a Trouble> {
    status.troubles.iter().find(|trouble| trouble.hop.as_deref() == Some(hop))
}

fn named(tables: &[&str]) -> String {
    let more = tables.len().saturating_sub(NAMED_MAX);
    let words = tables.iter().take(NAMED_MAX).copied().collect::<Vec<_>>().join(", ");
    if more > 0 { format!("{words} and {more} more") } else { words }
}
