//! A stretch of commit time, as operators name it.

use std::fmt;

use syncdata_formats::error::{Error, Kind, Result};
use syncdata_formats::lsn::Lsn;
use syncdata_formats::manifest::{Gap, Manifest};
use syncdata_formats::name::TableName;
use syncdata_formats::time::{Day, Moment, Timestamp};

use crate::plan::concerns;

/// A folder's day is that of its segments' last commits; a clock that went back in the middle of a segment may have
/// left earlier commits than that in it. By more than this it does not go back.
pub(crate) const CLOCK_DAYS: u32 = 2;

/// Half open: what begins it is in it, what ends it is not.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TimeRange {
    pub from: Option<Timestamp>,
    pub to: Option<Timestamp>,
}

impl TimeRange {
    pub fn new(from: Option<Moment>, to: Option<Moment>) -> Result<TimeRange> {
        let range = TimeRange { from: from.map(|moment| moment.0), to: to.map(|moment| moment.0) };
        match (range.from, range.to) {
            (Some(from), Some(to)) if to <= from => {
                Err(Error::new(Kind::BadInput, "--to must be later than --from"))
            }
            _ => Ok(range),
        }
    }

    pub fn has(&self, ts: Timestamp) -> bool {
        self.from.is_none_or(|from| ts >= from) && self.to.is_none_or(|to| ts < to)
    }

    /// Whether a segment may have commits in it.
    pub fn meets(&self, manifest: &Manifest) -> bool {
        let Some(span) = manifest.span else { return false };
        self.from.is_none_or(|from| span.last_ts >= from) && self.to.is_none_or(|to| span.first_ts < to)
    }

    /// Whether changes that a gap swallowed may have committed in it: after the last commit before the gap, and before
    /// the first one after it. Beside commits of its own segment it has no time of its own.
    fn may_have_lost(&self, chain: &[&Manifest], place: usize, gap: &Gap) -> bool {
        let manifest = chain[place];
        let own = manifest.span;
        let before = chain[..place].iter().rev().find_map(|manifest| manifest.span).map(|span| span.last_ts);
        let before =
            if gap.from <= manifest.start_lsn { before } else { own.map(|span| span.first_ts).or(before) };
        let after = chain[place + 1..].iter().find_map(|manifest| manifest.span).map(|span| span.first_ts);
        let after = if gap.to >= manifest.end_lsn { after } else { own.map(|span| span.last_ts).or(after) };
        let is_over = self.to.is_some_and(|to| before.is_some_and(|before| before >= to));
        let is_to_come = self.from.is_some_and(|from| after.is_some_and(|after| after < from));
        !is_over && !is_to_come
    }

    /// What the archive says of that table's lost changes in it, of those before `until`.
    pub fn lost(&self, chain: &[&Manifest], table: &TableName, until: Option<Lsn>) -> Option<String> {
        let places = chain.iter().enumerate();
        let mut gaps = places.flat_map(|(place, manifest)| manifest.gaps.iter().map(move |gap| (place, gap)));
        let (place, gap) = gaps.find(|&(place, gap)| {
            let is_asked = concerns(gap, table) && until.is_none_or(|until| gap.from < until);
            is_asked && self.may_have_lost(chain, place, gap)
        })?;
        Some(format!(
            "changes of it from {} to {} are lost (segment {}: {})",
            gap.from,
            gap.to,
            chain[place].seq.get(),
            gap.reason
        ))
    }

    /// The earliest folder that may have segments of it; `None`: all of them may.
    pub fn first_day(&self) -> Option<Day> {
        self.from.map(|from| from.day().days_before(CLOCK_DAYS))
    }
}

/// `2026-02-05T00:00:00Z..2026-02-06T00:00:00Z`, as the log names it.
impl fmt::Display for TimeRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let end = |end: Option<Timestamp>| end.map(|end| end.to_string()).unwrap_or_default();
        write!(f, "{}..{}", end(self.from), end(self.to))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn range(from: &str, to: &str) -> Result<TimeRange> {
        TimeRange::new(Some(from.parse()?), Some(to.parse()?))
    }

    #[test]
    fn is_half_open() {
        let day = range("2026-02-05", "2026-02-06").expect("a range");
        let has = |text: &str| day.has(text.parse().expect("a time"));
        assert!(has("2026-02-05T00:00:00Z") && has("2026-02-05T23:59:59.999999Z"));
        assert!(!has("2026-02-04T23:59:59.999999Z") && !has("2026-02-06T00:00:00Z"));
        assert_eq!(day.to_string(), "2026-02-05T00:00:00Z..2026-02-06T00:00:00Z");
    }

    #[test]
    fn an_empty_range_is_a_mistake() {
        assert!(range("2026-02-05", "2026-02-05").is_err());
        assert!(range("2026-02-05", "2026-02-04").is_err());
    }
}
