//! Three hops from production to the tables, as this side sees them.

use std::time::Duration;

use syncdata_service::circuit::{ARCHIVE, Circuit, SOURCE, State};
use syncdata_service::hops::{Hop, HopState};

use super::{SourceStatus, Status};

/// From production into the spool.
const SOURCE_HOP: &str = "source";
const SHIP: &str = "ship";
/// The applier's work.
const APPLIER: &str = "applier";

/// `late` is when a lag is worth a message.
pub(crate) fn hops(status: &Status, late: Duration) -> Vec<Hop> {
    let applier = Hop::new(APPLIER, "backup host", "tables");
    let words = "what the copies take stands on the appliers' pages";
    vec![source(status, late), ship(status, late), applier.is(HopState::Unknown, words)]
}

/// That fails.
fn open<'a>(status: &'a Status, peer: &str) -> Option<&'a Circuit> {
    status.circuits.get(peer).filter(|circuit| circuit.state != State::Closed)
}

fn tries(circuit: &Circuit) -> String {
    let next = circuit.next_try.map_or(String::new(), |next| format!(", next try {}", next.to_second()));
    format!("{} tries{next}", circuit.failures)
}

fn source(status: &Status, late: Duration) -> Hop {
    let hop = Hop::new(SOURCE_HOP, "production", "this host");
    let Some(spool) = &status.spool else {
        return hop
            .is(HopState::Unknown, "nothing has been read yet")
            .remedy("syncdata-archiver check says what is missing.");
    };
    let seconds = spool.behind_source_seconds;
    let hop = Hop { lag_seconds: seconds, ..hop };
    if let Some(circuit) = open(status, SOURCE) {
        let words = format!("production is not read, {}", tries(circuit));
        return hop.is(HopState::Broken, words).since(circuit.since).remedy(
            "Do what the problem above says; syncdata-archiver check names what is missing. Meanwhile production keeps its WAL \
             for us.",
        );
    }
    let of_triggers = status.source.as_ref().filter(|source| source.is_of_triggers());
    if let Some(problem) = of_triggers.and_then(SourceStatus::problem_of_triggers) {
        return hop
            .is(HopState::Broken, problem)
            .remedy("Run syncdata-archiver setup --create-triggers, then take a snapshot.");
    }
    if let Some(source) =
        status.source.as_ref().filter(|source| source.retained_bytes >= source.wal_guard_bytes)
    {
        let kept = bytesize::ByteSize::b(source.retained_bytes);
        return hop.is(HopState::Broken, format!("the slot keeps {kept} of WAL")).remedy(
            "Look for a long transaction on production, and whether the backup host takes what is in the spool.",
        );
    }
    match seconds {
        Some(seconds) if seconds >= late.as_secs() => hop
            .is(HopState::Broken, "production is not read to its end")
            .since(spool.covered_at)
            .remedy("A poll that lasts, or none: look at the log, and for a long transaction on production."),
        None => hop.is(HopState::Unknown, "production has not been read to its end yet"),
        Some(_) => hop.is(HopState::Ok, format!("{} tables", status.tables.len())),
    }
}

fn ship(status: &Status, late: Duration) -> Hop {
    let hop = Hop::new(SHIP, "this host", "backup host");
    let Some(spool) = &status.spool else {
        return hop.is(HopState::Unknown, "nothing has been shipped yet");
    };
    let hop = Hop { lag_seconds: Some(spool.unshipped_seconds), ..hop };
    let waiting = format!("{} segments wait in the spool", spool.unshipped_segments);
    if let Some(circuit) = open(status, ARCHIVE) {
        let words = format!("the backup host does not answer, {}; {waiting}", tries(circuit));
        return hop.is(HopState::Broken, words).since(circuit.since).remedy(
            "Look at the backup host: is it up, does sshd answer, is the key accepted, is there room? syncdata-archiver check \
             says. Nothing is lost meanwhile, and it is tried again by itself.",
        );
    }
    let state = match spool.unshipped_seconds {
        seconds if seconds >= late.as_secs() => HopState::Slow,
        _ => HopState::Ok,
    };
    hop.is(state, waiting).since(spool.unshipped_since.filter(|_| state == HopState::Slow))
}
