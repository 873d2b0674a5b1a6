//! Instants in UTC, as our files print them, and days.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::error::{Error, Result};
use crate::json;

/// An instant with PostgreSQL's precision of a microsecond, printed `2026-02-05T10:30:00.123456Z`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Timestamp(jiff::Timestamp);

impl Timestamp {
    pub fn now() -> Timestamp {
        Timestamp::from_micros(jiff::Timestamp::now().as_microsecond())
            .expect("now is a time that jiff knows")
    }

    pub fn from_micros(microseconds: i64) -> Result<Timestamp> {
        jiff::Timestamp::from_microsecond(microseconds)
            .map(Timestamp)
            .map_err(|_| Error::bad_input("a time in microseconds since 1970", &microseconds.to_string()))
    }

    pub fn as_micros(self) -> i64 {
        self.0.as_microsecond()
    }

    pub fn day(self) -> Day {
        Day(self.0.to_zoned(jiff::tz::TimeZone::UTC).date())
    }

    /// Time from `earlier` until here; zero when clocks went back.
    pub fn since(self, earlier: Timestamp) -> std::time::Duration {
        std::time::Duration::from_micros(u64::try_from(self.as_micros() - earlier.as_micros()).unwrap_or(0))
    }

    /// What wal2json prints under `TimeZone = UTC` and `DateStyle = ISO`: `2026-02-05 10:30:00.123456+00`.
    pub fn from_postgres(text: &str) -> Result<Timestamp> {
        let rfc = text.strip_suffix("+00").map(|local| format!("{}Z", local.replacen(' ', "T", 1)));
        rfc.and_then(|rfc| rfc.parse().ok())
            .ok_or_else(|| Error::bad_input("a time as PostgreSQL prints it in UTC", text))
    }
}

impl FromStr for Timestamp {
    type Err = Error;

    fn from_str(text: &str) -> Result<Timestamp> {
        let bad = || Error::bad_input("a time like 2026-02-05T10:30:00Z", text);
        let exact = text.parse::<jiff::Timestamp>().map_err(|_| bad())?;
        // Finer than a microsecond could not be printed again.
        if exact.as_nanosecond() % 1_000 != 0 { Err(bad()) } else { Ok(Timestamp(exact)) }
    }
}

impl fmt::Display for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl Serialize for Timestamp {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Timestamp {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Timestamp, D::Error> {
        json::one_spelling(deserializer)
    }
}

/// A day in UTC, printed `2026-02-05`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Day(jiff::civil::Date);

impl FromStr for Day {
    type Err = Error;

    fn from_str(text: &str) -> Result<Day> {
        text.parse::<jiff::civil::Date>()
            .ok()
            .map(Day)
            .filter(|day| day.to_string() == text)
            .ok_or_else(|| Error::bad_input("a day like 2026-02-05", text))
    }
}

impl Serialize for Day {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Day {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Day, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

impl Day {
    /// 1970-01-01
    pub const EPOCH: Day = Day(jiff::civil::date(1970, 1, 1));

    /// The day that many days earlier; the first there is, if it would lie before that.
    #[must_use]
    pub fn days_before(self, days: u32) -> Day {
        let earlier = self.0.checked_sub(jiff::Span::new().days(i64::from(days)));
        earlier.map_or(Day(jiff::civil::Date::MIN), Day)
    }

    /// Midnight, where the day begins.
    pub fn start(self) -> Timestamp {
        let midnight = self.0.to_zoned(jiff::tz::TimeZone::UTC).expect("UTC has every midnight");
        Timestamp(midnight.timestamp())
    }
}

impl fmt::Display for Day {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// An instant as people name it: a time, or a day, which is its midnight UTC.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Moment(pub Timestamp);

impl FromStr for Moment {
    type Err = Error;

    fn from_str(text: &str) -> Result<Moment> {
        let day = text.parse::<Day>().map(Day::start);
        day.or_else(|_| text.parse())
            .map(Moment)
            .map_err(|_| Error::bad_input("a day like 2026-02-05 or a time like 2026-02-05T10:30:00Z", text))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prints_what_it_reads() {
        for text in ["2026-02-05T10:30:00.123456Z", "2026-02-05T10:31:00Z", "2026-02-05T10:31:00.1Z"] {
            assert_eq!(text.parse::<Timestamp>().expect("a time").to_string(), text);
        }
    }

    #[test]
    fn reads_what_postgres_prints() {
        let time = Timestamp::from_postgres("2026-02-05 10:30:00.123456+00").expect("a time");
        assert_eq!(time.to_string(), "2026-02-05T10:30:00.123456Z");
        for text in ["2026-02-05 10:30:00+05:30", "05.02.2026 10:30:00 CET", "infinity", ""] {
            assert!(Timestamp::from_postgres(text).is_err(), "accepted {text:?}");
        }
    }

    #[test]
    fn days_begin_at_midnight_utc() {
        let time: Timestamp = "2026-02-05T23:59:59.999999Z".parse().expect("a time");
        assert_eq!(time.day().to_string(), "2026-02-05");
        assert_eq!(time.day().start().to_string(), "2026-02-05T00:00:00Z");
        for text in ["2026-2-5", "20260205", "2026-02-30", "../2026-02-05", ""] {
            assert!(text.parse::<Day>().is_err(), "accepted {text:?}");
        }
        assert_eq!(time.day().days_before(5).to_string(), "2026-01-31");
    }

    #[test]
    fn a_moment_is_a_day_or_a_time() {
        let moment = |text: &str| text.parse::<Moment>().map(|moment| moment.0.to_string()).ok();
        assert_eq!(moment("2026-02-05").as_deref(), Some("2026-02-05T00:00:00Z"));
        assert_eq!(moment("2026-02-05T10:30:00Z").as_deref(), Some("2026-02-05T10:30:00Z"));
        assert_eq!(moment("yesterday"), None);
    }
}
