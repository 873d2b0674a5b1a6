//! Three hops from production to the tables, as this side sees them. Their lags together are the age of the oldest data.

use std::time::Duration;

use bytesize::ByteSize;
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
        // Production's clock may be ahead of ours.
        let covered_at = covered_at.min(at);
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
        (None, _, Some(waiting @ 1..)) => {
            hop.is(HopState::Ok, format!("{waiting} segments wait{}", size(status)))
        }
        (None, ..) => hop.is(HopState::Ok, "nothing waits"),
    }
}

/// How much is in what waits, where that is known.
fn size(status: &Status) -> String {
    let known = status.waiting_records.zip(status.waiting_bytes);
    known.map_or_else(String::new, |(records, bytes)| format!(": {records} records, {}", ByteSize::b(bytes)))
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
        (None, HopState::Ok) => hop.is(HopState::Ok, format!("{} tables", status.tables.len())),
        // It works at it.
        (None, _) => hop
            .is(HopState::Slow, "what the archive holds is not in the tables yet")
            .since(status.copy.data_as_of)
            .remedy("It is being applied: the curves show whether it catches up."),
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

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::operations::status::{CopyStatus, Found};

    const LATE: Duration = Duration::from_secs(900);

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_micros(seconds * 1_000_000).expect("a time")
    }

    fn seen(covered: i64, at_second: i64) -> Option<Seen> {
        Some(Seen { covered_at: Some(at(covered)), at: at(at_second) })
    }

    /// Two tables: one that is live as of 1000, and one as the case has it.
    fn status(state: &str, as_of: i64) -> Status {
        let table = |name: &str, state: &str, as_of: i64| {
            json!({
                "table": name, "state": state, "data_as_of": at(as_of), "lsn": "0/1", "stale": false, "reason": "no",
                "nan_as_null": [], "score": null
            })
        };
        let tables = [table("users", "live", 1000), table("orders", state, as_of)];
        let tables = tables.map(|table| serde_json::from_value(table).expect("a table")).to_vec();
        let copy = CopyStatus { covered_at: Some(at(1000)), ..CopyStatus::default() };
        let status = Status { stale_after_seconds: 180, ..Status::default() };
        status.with(Found { copy, tables, ..Found::default() })
    }

    fn said(status: &Status, seen: Option<Seen>, now: i64) -> String {
        let hops = hops(status, seen, LATE, at(now));
        let word = |hop: &Hop| format!("{} {:?} {:?}", hop.name, hop.state, hop.lag_seconds.unwrap_or(0));
        hops.iter().map(word).collect::<Vec<_>>().join(", ")
    }

    #[test]
    fn the_hop_that_is_to_blame_is_named_and_the_lags_are_the_age_of_the_oldest_data() {
        let well = status("live", 1000);
        assert_eq!(said(&well, seen(1000, 1007), 1010), "archiver Ok 7, fetch Ok 3, apply Ok 0");
        assert_eq!(said(&well, None, 1010), "archiver Unknown 0, fetch Unknown 0, apply Ok 0");
        assert_eq!(said(&well, seen(1000, 1200), 1210), "archiver Slow 200, fetch Ok 10, apply Ok 0");
        assert_eq!(said(&well, seen(1000, 1900), 1910), "archiver Broken 900, fetch Ok 10, apply Ok 0");
        // Production's clock is ahead.
        assert_eq!(said(&well, seen(1100, 1007), 1010), "archiver Ok 0, fetch Ok 3, apply Ok 7");

        let quarantined = status("quarantined", 400);
        assert_eq!(said(&quarantined, seen(1000, 1007), 1010), "archiver Ok 7, fetch Ok 3, apply Broken 600");
        let hop = hops(&quarantined, seen(1000, 1007), LATE, at(1010)).pop().expect("three");
        assert_eq!((hop.since, hop.words.as_deref()), (Some(at(400)), Some("1 of 2 tables: orders")));
        let trouble = &quarantined.troubles[0];
        assert_eq!((&trouble.words, trouble.since), (&quarantined.problems[0], Some(at(400))));
        assert_eq!(trouble.command.as_deref(), Some("syncdata-applier retry orders"));

        // A load of much that waits is no silence of the archive.
        let busy = Status { waiting_segments: Some(7), ..well.clone() };
        assert_eq!(said(&busy, seen(5000, 5007), 5500), "archiver Ok 7, fetch Ok 0, apply Slow 4493");
    }

    #[test]
    fn a_peer_that_is_silent_breaks_its_hop_and_hides_the_one_before_it() {
        let open = Circuit { state: circuit::State::Open, since: Some(at(900)), failures: 3, next_try: None };
        let silent = |peer: &str| Status {
            circuits: [(peer.to_owned(), open.clone())].into(),
            ..status("live", 1000)
        };
        let (archive, local) = (silent(circuit::ARCHIVE), silent(circuit::LOCAL_SERVER));
        assert_eq!(
            said(&archive, seen(1000, 1007), 3000),
            "archiver Unknown 7, fetch Broken 1993, apply Ok 0"
        );
        assert_eq!(hops(&archive, seen(1000, 1007), LATE, at(3000))[1].since, Some(at(900)));
        assert_eq!(said(&local, seen(1000, 1007), 1010), "archiver Ok 7, fetch Ok 3, apply Broken 0");
    }
}
