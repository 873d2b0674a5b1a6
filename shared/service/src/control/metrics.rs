//! Prometheus' text format.

use std::collections::BTreeMap;
use std::fmt::{Display, Write as _};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use syncdata_formats::time::Timestamp;

use crate::alerts::{Alert, AlertKind};
use crate::circuit::{Circuit, State};
use crate::disk::Room;

/// What a number means over time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sort {
    /// Only rises, from the start of the program on.
    Counter,
    Gauge,
}

/// Families of numbers, one after the other.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Metrics(String);

impl Metrics {
    pub fn new() -> Metrics {
        Metrics::default()
    }

    /// A number without labels.
    pub fn add(&mut self, name: &str, sort: Sort, help: &str, value: impl Display) {
        self.family(name, sort, help, [(&[][..], value)]);
    }

    /// The same number for several things, told apart by labels.
    pub fn family<'a, V: Display>(
        &mut self,
        name: &str,
        sort: Sort,
        help: &str,
        samples: impl IntoIterator<Item = (&'a [(&'a str, &'a str)], V)>,
    ) {
        let sort = match sort {
            Sort::Counter => "counter",
            Sort::Gauge => "gauge",
        };
        let mut samples = samples.into_iter().peekable();
        // What nobody knows is absent, name and all.
        if samples.peek().is_none() {
            return;
        }
        self.head(name, sort, help);
        for (labels, value) in samples {
            let labels: Vec<String> =
                labels.iter().map(|(name, text)| format!("{name}=\"{}\"", escape(text))).collect();
            match labels.as_slice() {
                [] => self.line(format_args!("{name} {value}")),
                labels => self.line(format_args!("{name}{{{}}} {value}", labels.join(","))),
            }
        }
    }

    /// A moment, if it is known: an age would stand still with whoever tells it.
    pub fn time(&mut self, name: &str, help: &str, time: Option<Timestamp>) {
        self.family(name, Sort::Gauge, help, time.map(|time| (&[][..], seconds(time))));
    }

    /// A state as one series for each value that it can have, 1 for the one that it has.
    pub fn states<'a>(
        &mut self,
        name: &str,
        help: &str,
        label: &str,
        values: &[&str],
        things: impl IntoIterator<Item = (Option<(&'a str, &'a str)>, &'a str)>,
    ) {
        let mut things = things.into_iter().peekable();
        if things.peek().is_none() {
            return;
        }
        self.head(name, "gauge", help);
        for (thing, state) in things {
            for value in values {
                let of =
                    thing.map(|(label, name)| format!("{label}=\"{}\",", escape(name))).unwrap_or_default();
                let is = u8::from(*value == state);
                self.line(format_args!("{name}{{{of}{label}=\"{}\"}} {is}", escape(value)));
            }
        }
    }

    /// How long something took, each time.
    pub fn durations(&mut self, name: &str, help: &str, durations: &Durations) {
        self.head(name, "histogram", help);
        for (limit, count) in LIMITS.iter().zip(&durations.within) {
            self.line(format_args!("{name}_bucket{{le=\"{limit}\"}} {count}"));
        }
        let Durations { count, micros, .. } = durations;
        self.line(format_args!("{name}_bucket{{le=\"+Inf\"}} {count}"));
        self.line(format_args!("{name}_sum {}.{:06}", micros / 1_000_000, micros % 1_000_000));
        self.line(format_args!("{name}_count {count}"));
    }

    /// Of the folders that a program fills.
    pub fn rooms(&mut self, prefix: &str, rooms: &[Room]) {
        let mut family = |name: &str, help: &str, bytes: fn(&Room) -> u64| {
            let labels: Vec<[(&str, &str); 1]> =
                rooms.iter().map(|room| [("folder", room.folder.as_str())]).collect();
            let samples = labels.iter().zip(rooms).map(|(labels, room)| (&labels[..], bytes(room)));
            self.family(&format!("{prefix}_{name}"), Sort::Gauge, help, samples);
        };
        family("disk_free_bytes", "Room that is left where the folder lies", |room| room.free_bytes);
        family("disk_size_bytes", "All the room where the folder lies", |room| room.size_bytes);
    }

    /// Of those whom a program speaks with.
    pub fn circuits(&mut self, prefix: &str, circuits: &BTreeMap<String, Circuit>) {
        let name = |name: &str| format!("{prefix}_{name}");
        let labels: Vec<[(&str, &str); 1]> = circuits.keys().map(|peer| [("peer", peer.as_str())]).collect();
        let states = labels.iter().zip(circuits.values()).map(|([peer], c)| (Some(*peer), c.state.as_str()));
        let values = State::ALL.map(State::as_str);
        let help =
            "1 for the state of the circuit: whether the peer answers, is left alone, or is tried again";
        self.states(&name("circuit_state"), help, "state", &values, states);
        let failures = labels.iter().zip(circuits.values()).map(|(labels, c)| (&labels[..], c.failures));
        self.family(
            &name("circuit_failures"),
            Sort::Gauge,
            "How often the peer has failed in a row",
            failures,
        );
    }

    /// Those that are open, 0 for each kind that could be.
    pub fn alerts(&mut self, prefix: &str, kinds: &[AlertKind], open: &[Alert]) {
        let labels: Vec<[(&str, &str); 1]> = kinds.iter().map(|kind| [("kind", kind.as_str())]).collect();
        let count = |kind: &AlertKind| open.iter().filter(|alert| alert.kind == *kind).count();
        let samples = labels.iter().zip(kinds).map(|(labels, kind)| (&labels[..], count(kind)));
        self.family(&format!("{prefix}_alerts"), Sort::Gauge, "Alerts that are open", samples);
    }

    pub fn into_text(self) -> String {
        self.0
    }

    fn head(&mut self, name: &str, sort: &str, help: &str) {
        let help = help.replace('\\', "\\\\").replace('\n', "\\n");
        self.line(format_args!("# HELP {name} {help}"));
        self.line(format_args!("# TYPE {name} {sort}"));
    }

    fn line(&mut self, line: std::fmt::Arguments<'_>) {
        writeln!(self.0, "{line}").expect("a String takes any text");
    }
}

/// The upper limits of the buckets, in seconds: from a pass that finds nothing to a first load.
const LIMITS: [&str; 11] = ["0.1", "0.3", "1", "3", "10", "30", "60", "180", "600", "1800", "3600"];
const LIMITS_MILLIS: [u128; 11] =
    [100, 300, 1000, 3000, 10_000, 30_000, 60_000, 180_000, 600_000, 1_800_000, 3_600_000];

/// How long something took, since the start.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Durations {
    /// How many lasted no longer than each of the limits.
    within: [u64; LIMITS.len()],
    count: u64,
    micros: u64,
}

impl Durations {
    pub fn add(&mut self, took: Duration) {
        for (count, limit) in self.within.iter_mut().zip(LIMITS_MILLIS) {
            *count += u64::from(took.as_micros() <= limit * 1000);
        }
        self.count += 1;
        self.micros = self.micros.saturating_add(u64::try_from(took.as_micros()).unwrap_or(u64::MAX));
    }
}

/// As Prometheus counts time: seconds since 1970, with their fraction.
pub fn seconds(time: Timestamp) -> String {
    let micros = time.as_micros().max(0);
    format!("{}.{:06}", micros / 1_000_000, micros % 1_000_000)
}

fn escape(text: &str) -> String {
    text.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_cannot_forge_a_sample() {
        let mut metrics = Metrics::new();
        metrics.add("syncdata_up", Sort::Gauge, "1 while it runs", 1);
        let odd = [("table", "a\"} 1\nb\\")];
        metrics.family("syncdata_rows_total", Sort::Counter, "rows\napplied", [(&odd[..], 7_u64)]);
        let expected = "# HELP syncdata_up 1 while it runs\n# TYPE syncdata_up gauge\nsyncdata_up 1\n\
            # HELP syncdata_rows_total rows\\napplied\n# TYPE syncdata_rows_total counter\n\
            syncdata_rows_total{table=\"a\\\"} 1\\nb\\\\\"} 7\n";
        assert_eq!(metrics.into_text(), expected);
    }

    #[test]
    fn what_is_not_known_is_absent() {
        let mut metrics = Metrics::new();
        metrics.time("syncdata_last_timestamp_seconds", "when", None);
        metrics.family("syncdata_rows", Sort::Gauge, "rows", std::iter::empty::<(&[(&str, &str)], u64)>());
        metrics.states("syncdata_state", "state", "state", &["a"], []);
        assert_eq!(metrics.clone().into_text(), "");
        let time = Timestamp::from_micros(1_500_000).expect("a time");
        metrics.time("syncdata_last_timestamp_seconds", "when", Some(time));
        assert!(metrics.into_text().ends_with("\nsyncdata_last_timestamp_seconds 1.500000\n"));
    }

    #[test]
    fn a_state_has_a_series_for_each_value() {
        let mut metrics = Metrics::new();
        metrics.states("syncdata_state", "state", "state", &["a", "b"], [(Some(("table", "t\"")), "b")]);
        let expected = "# HELP syncdata_state state\n# TYPE syncdata_state gauge\n\
            syncdata_state{table=\"t\\\"\",state=\"a\"} 0\nsyncdata_state{table=\"t\\\"\",state=\"b\"} 1\n";
        assert_eq!(metrics.into_text(), expected);
    }

    #[test]
    fn durations_are_counted_below_their_limits() {
        for (text, millis) in LIMITS.iter().zip(LIMITS_MILLIS) {
            let seconds: f64 = text.parse().expect("a number");
            assert_eq!((seconds * 1000.0).round() as u128, millis, "{text}");
        }
        let mut durations = Durations::default();
        for millis in [100, 101, 4_000_000] {
            durations.add(Duration::from_millis(millis));
        }
        let mut metrics = Metrics::new();
        metrics.durations("syncdata_seconds", "how long", &durations);
        let text = metrics.into_text();
        for line in [
            "# TYPE syncdata_seconds histogram\n",
            "_bucket{le=\"0.1\"} 1\n",
            "_bucket{le=\"0.3\"} 2\n",
            "_bucket{le=\"3600\"} 2\n",
            "_bucket{le=\"+Inf\"} 3\n",
            "_sum 4000.201000\n",
            "_count 3\n",
        ] {
            assert!(text.contains(line), "{line} is not in {text}");
        }
    }
}
