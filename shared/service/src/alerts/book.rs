//! The alerts that are open, or of which somebody has not heard everything. A pure value.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use syncdata_formats::time::Timestamp;
use uuid::Uuid;

use super::{AlertKind, Bad};
use crate::config::Program;

/// So many checks in a row have to be good before it is over: what goes to and fro wakes nobody twice.
const GOOD_CHECKS: u8 = 2;

/// Of those that are over and that nobody could be told; the oldest are only in the database then.
const WAITING_MAX: usize = 1000;

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Alert {
    pub id: Uuid,
    pub kind: AlertKind,
    /// See `Bad`.
    pub subject: String,
    /// As it was when it began.
    pub value: String,
    pub threshold: String,
    pub since: Timestamp,
    pub resolved_at: Option<Timestamp>,
    /// When the newest event had reached everybody.
    pub delivered_at: Option<Timestamp>,
    /// `webhook fired`: what has reached whom.
    pub delivered: BTreeSet<String>,
    /// In a row.
    #[serde(default)]
    pub good_checks: u8,
}

/// What there is to say of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    Fired,
    Resolved,
}

impl Event {
    pub fn as_str(self) -> &'static str {
        match self {
            Event::Fired => "fired",
            Event::Resolved => "resolved",
        }
    }
}

impl Alert {
    fn begins(bad: Bad, now: Timestamp) -> Alert {
        Alert {
            id: Uuid::new_v4(),
            kind: bad.kind,
            subject: bad.subject,
            value: bad.value,
            threshold: bad.threshold,
            since: now,
            resolved_at: None,
            delivered_at: None,
            delivered: BTreeSet::new(),
            good_checks: 0,
        }
    }

    /// As bad as it was.
    pub fn as_bad(&self) -> Bad {
        Bad {
            kind: self.kind,
            subject: self.subject.clone(),
            value: self.value.clone(),
            threshold: self.threshold.clone(),
        }
    }

    pub(super) fn is_of(&self, bad: &Bad) -> bool {
        self.resolved_at.is_none() && self.kind == bad.kind && self.subject == bad.subject
    }

    /// The next thing that this sink has not heard.
    fn lacks(&self, sink: &str) -> Option<Event> {
        let events = [Some(Event::Fired), self.resolved_at.map(|_| Event::Resolved)];
        events.into_iter().flatten().find(|event| !self.delivered.contains(&key(sink, *event)))
    }

    /// For people.
    pub fn line(&self) -> String {
        let Alert { subject, value, threshold, since, .. } = self;
        let (kind, since) = (self.kind.as_str(), since.to_second());
        format!("{kind} of {subject}: {value} (threshold {threshold}) since {since}")
    }

    /// The message. The id and the event together are said once; who hears them twice knows it.
    pub fn message(&self, program: Program, event: Event) -> Value {
        json!({
            "id": self.id, "event": event.as_str(), "program": program.name(), "kind": self.kind,
            "subject": self.subject, "value": self.value, "threshold": self.threshold, "since": self.since,
            "resolved_at": self.resolved_at,
        })
    }
}

fn key(sink: &str, event: Event) -> String {
    format!("{sink} {}", event.as_str())
}

/// The alerts of one daemon.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Book {
    pub alerts: Vec<Alert>,
}

impl Book {
    /// Whether something began or is over.
    pub fn check(&mut self, bad: Vec<Bad>, now: Timestamp) -> bool {
        let mut has_changed = false;
        for alert in self.alerts.iter_mut().filter(|alert| alert.resolved_at.is_none()) {
            if bad.iter().any(|bad| alert.is_of(bad)) {
                alert.good_checks = 0;
                continue;
            }
            alert.good_checks = alert.good_checks.saturating_add(1);
            if alert.good_checks >= GOOD_CHECKS {
                alert.resolved_at = Some(now);
                alert.delivered_at = None;
                has_changed = true;
            }
        }
        for bad in bad {
            has_changed |= self.also(bad, now);
        }
        has_changed
    }

    /// Whether it is new.
    pub fn also(&mut self, bad: Bad, now: Timestamp) -> bool {
        let is_new = !self.alerts.iter().any(|alert| alert.is_of(&bad));
        if is_new {
            self.alerts.push(Alert::begins(bad, now));
        }
        is_new
    }

    /// What is open.
    pub fn open(&self) -> impl Iterator<Item = &Alert> {
        self.alerts.iter().filter(|alert| alert.resolved_at.is_none())
    }

    /// What somebody has to be told, the oldest first.
    pub fn due(&self, sink: &str) -> Option<(&Alert, Event)> {
        self.alerts.iter().find_map(|alert| Some((alert, alert.lacks(sink)?)))
    }

    /// It has been told.
    pub fn told(&mut self, id: Uuid, sink: &str, event: Event) {
        if let Some(alert) = self.alerts.iter_mut().find(|alert| alert.id == id) {
            alert.delivered.insert(key(sink, event));
        }
    }

    /// Those of which everybody has heard everything by now; `sinks` are all that there are.
    pub fn settle(&mut self, sinks: &[&str], now: Timestamp) -> Vec<Uuid> {
        let unsettled = self.alerts.iter_mut().filter(|alert| alert.delivered_at.is_none());
        let heard = unsettled
            .filter(|alert| !sinks.is_empty() && sinks.iter().all(|sink| alert.lacks(sink).is_none()));
        let noted = heard.map(|alert| {
            alert.delivered_at = Some(now);
            alert.id
        });
        noted.collect()
    }

    /// Alerts that an earlier daemon left. One that is open here already is over there.
    pub fn take_in(&mut self, others: Vec<Alert>, now: Timestamp) -> Vec<Alert> {
        let mut over = Vec::new();
        for mut other in others {
            if self.alerts.iter().any(|alert| alert.id == other.id) {
                continue;
            }
            let is_twice = |alert: &Alert| {
                alert.resolved_at.is_none() && alert.kind == other.kind && alert.subject == other.subject
            };
            if other.resolved_at.is_none() && self.alerts.iter().any(is_twice) {
                other.resolved_at = Some(now);
                over.push(other);
            } else {
                self.alerts.push(other);
            }
        }
        over
    }

    /// Those of which everything is said go.
    pub fn tidy(&mut self, sinks: &[&str]) {
        let is_said = |alert: &Alert| sinks.iter().all(|sink| alert.lacks(sink).is_none());
        self.alerts.retain(|alert| alert.resolved_at.is_none() || !is_said(alert));
        let over = self.alerts.iter().filter(|alert| alert.resolved_at.is_some()).count();
        let mut too_many = over.saturating_sub(WAITING_MAX);
        self.alerts.retain(|alert| {
            let goes = too_many > 0 && alert.resolved_at.is_some();
            too_many -= usize::from(goes);
            !goes
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_micros(seconds * 1_000_000).expect("a time")
    }

    fn lag(value: &str) -> Bad {
        Bad::new(AlertKind::SyncLag, "*", value, 15)
    }

    #[test]
    fn an_alert_begins_once_and_is_over_after_two_good_checks() {
        let mut book = Book::default();
        assert!(book.check(vec![lag("15")], at(1)));
        let id = book.alerts[0].id;
        assert!(!book.check(vec![lag("16")], at(2)));
        assert!(!book.check(vec![], at(3)), "once is no proof");
        assert!(!book.check(vec![lag("16")], at(4)));
        assert!(!book.check(vec![], at(5)));
        assert!(book.check(vec![], at(6)));
        assert_eq!((book.alerts[0].id, book.alerts[0].resolved_at), (id, Some(at(6))));
        assert!(book.check(vec![lag("20")], at(7)), "the next one is another");
        assert_ne!(book.alerts[1].id, id);
    }

    #[test]
    fn every_sink_is_told_of_both_events_in_order() {
        let mut book = Book::default();
        book.check(vec![lag("15")], at(1));
        let sinks = ["webhook", "command"];
        let id = book.alerts[0].id;
        assert!(book.settle(&[], at(2)).is_empty(), "nobody is there to hear it");
        assert_eq!(book.due("webhook").map(|(_, event)| event), Some(Event::Fired));
        book.told(id, "webhook", Event::Fired);
        assert_eq!(book.due("webhook"), None);
        assert!(book.settle(&sinks, at(2)).is_empty());
        book.check(vec![], at(3));
        book.check(vec![], at(4));
        assert_eq!(book.due("webhook").map(|(_, event)| event), Some(Event::Resolved));
        assert_eq!(book.due("command").map(|(_, event)| event), Some(Event::Fired));
        for (sink, event) in
            [("command", Event::Fired), ("command", Event::Resolved), ("webhook", Event::Resolved)]
        {
            book.tidy(&sinks);
            assert!(book.settle(&sinks, at(4)).is_empty());
            book.told(id, sink, event);
        }
        assert_eq!(book.settle(&sinks, at(5)), [id]);
        assert_eq!(book.alerts[0].delivered_at, Some(at(5)));
        book.tidy(&sinks);
        assert!(book.alerts.is_empty());
    }

    #[test]
    fn what_an_earlier_daemon_left_goes_on_under_its_id() {
        let mut earlier = Book::default();
        earlier.check(vec![lag("15")], at(1));
        let mut book = Book::default();
        assert!(book.take_in(earlier.alerts.clone(), at(2)).is_empty());
        assert!(!book.check(vec![lag("15")], at(3)));
        assert_eq!(book.alerts[0].id, earlier.alerts[0].id);
        let mut twice = Book::default();
        twice.check(vec![lag("15")], at(3));
        let over = twice.take_in(earlier.alerts, at(4));
        assert_eq!((over[0].resolved_at, twice.alerts.len()), (Some(at(4)), 1));
    }
}
