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

    /// Without the fraction of a second: for people.
    #[must_use]
    pub fn to_second(self) -> Timestamp {
        let micros = self.as_micros();
        Timestamp::from_micros(micros - micros.rem_euclid(1_000_000)).expect("the second began at a time too")
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
        if let Some(time) = as_printed(text.as_bytes()) {
            return Ok(time);
        }
        let bad = || Error::bad_input("a time like 2026-02-05T10:30:00Z", text);
        let exact = text.parse::<jiff::Timestamp>().map_err(|_| bad())?;
        // Finer than a microsecond could not be printed again.
        if exact.as_nanosecond() % 1_000 != 0 { Err(bad()) } else { Ok(Timestamp(exact)) }
    }
}

/// Our own print, which stands in every line of a change file, without a general parser's cost. `None`: that has to
/// say what it is.
fn as_printed(text: &[u8]) -> Option<Timestamp> {
    let (fixed, rest) = text.split_at_checked(19)?;
    let number = |digits: &[u8]| {
        let value =
            |value: i64, digit: &u8| digit.is_ascii_digit().then(|| value * 10 + i64::from(digit - b'0'));
        digits.iter().try_fold(0, value)
    };
    let marks = (fixed[4], fixed[7], fixed[10], fixed[13], fixed[16]);
    if marks != (b'-', b'-', b'T', b':', b':') {
        return None;
    }
    let (year, month, day) = (number(&fixed[..4])?, number(&fixed[5..7])?, number(&fixed[8..10])?);
    let (hour, minute, second) = (number(&fixed[11..13])?, number(&fixed[14..16])?, number(&fixed[17..])?);
    // A 29th and later, and a leap second, are the general parser's.
    let is_plain =
        (1..=12).contains(&month) && (1..=28).contains(&day) && hour < 24 && minute < 60 && second < 60;
    let micros = match rest.strip_suffix(b"Z")? {
        [] => 0,
        [b'.', digits @ ..] if (1..=6).contains(&digits.len()) => {
            number(digits)? * [100_000, 10_000, 1_000, 100, 10, 1][digits.len() - 1]
        }
        _ => return None,
    };
    if !is_plain {
        return None;
    }
    // Days since 1970 with years that begin in March, so that a leap day is the last of its year.
    let (years, months) = if month > 2 { (year, month - 3) } else { (year - 1, month + 9) };
    let days = years * 365 + years.div_euclid(4) - years.div_euclid(100)
        + years.div_euclid(400)
        + (153 * months + 2) / 5
        + day
        - 719_469;
    let seconds = ((days * 24 + hour) * 60 + minute) * 60 + second;
    Timestamp::from_micros(seconds * 1_000_000 + micros).ok()
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
    fn the_short_way_to_read_a_time_agrees_with_the_long_one() {
        for days in (-719_000..2_900_000).step_by(97) {
            for micros in [0, 1, 86_399_999_999, 43_200_500_000, 123_456] {
                let time = Timestamp::from_micros(days * 86_400_000_000 + micros).expect("a time");
                let text = time.to_string();
                let long: jiff::Timestamp = text.parse().expect("jiff's own print");
                assert_eq!(text.parse::<Timestamp>().ok(), Some(Timestamp(long)), "{text}");
                assert!(as_printed(text.as_bytes()).is_none_or(|short| short.0 == long), "{text}");
            }
        }
        for text in [
            "2026-02-29T10:30:00Z",
            "2026-13-01T10:30:00Z",
            "2026-00-01T10:30:00Z",
            "2026-01-00T10:30:00Z",
            "2026-01-01T24:00:00Z",
            "2026-01-01T10:60:00Z",
            "2026-01-01T10:30:00.Z",
            "2026-01-01T10:30:00.1234567Z",
            "2026-01-01T10:30:00",
            "2026-01-01 10:30:00+0",
            "+026-01-01T10:30:00Z",
            "2026-01-01T10:30:-1Z",
            "",
        ] {
            assert!(as_printed(text.as_bytes()).is_none(), "{text}");
        }
        assert!(as_printed(b"2026-02-05T10:30:00.5Z").is_some());
    }

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
