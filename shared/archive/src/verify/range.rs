//! Which part of an archive: by commit time, or by segment number.

use std::str::FromStr;

use syncdata_formats::error::{Error, Kind, Result};
use syncdata_formats::layout::SegmentSeq;
use syncdata_formats::manifest::Manifest;
use syncdata_formats::time::{Day, Moment, Timestamp};

/// One end of a range: a segment's number, a day (its midnight UTC), or a time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bound {
    Segment(SegmentSeq),
    Time(Timestamp),
}

impl FromStr for Bound {
    type Err = Error;

    fn from_str(text: &str) -> Result<Bound> {
        if !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit()) {
            let number = text.parse().map_err(|_| Error::bad_input("a segment number", text))?;
            return SegmentSeq::new(number).map(Bound::Segment);
        }
        text.parse::<Moment>().map(|moment| Bound::Time(moment.0)).map_err(|_| {
            Error::bad_input(
                "a segment number, a day like 2026-02-05 or a time like 2026-02-05T10:30:00Z",
                text,
            )
        })
    }
}

/// By more than this a clock does not go back.
const CLOCK_DAYS: u32 = 2;

/// Half open: what begins it is in it, what ends it is not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Range {
    from: Option<Bound>,
    to: Option<Bound>,
}

impl Range {
    pub(super) fn new(from: Option<Bound>, to: Option<Bound>) -> Result<Range> {
        let empty = match (from, to) {
            (Some(Bound::Segment(from)), Some(Bound::Segment(to))) => to <= from,
            (Some(Bound::Time(from)), Some(Bound::Time(to))) => to <= from,
            _ => false,
        };
        if empty {
            Err(Error::new(Kind::BadInput, "--to must be past --from"))
        } else {
            Ok(Range { from, to })
        }
    }

    /// Anything less than the whole archive.
    pub(super) fn is_part(&self) -> bool {
        self.from.is_some() || self.to.is_some()
    }

    /// Whether a folder may hold segments of the range: a folder's day is that of its segments' last commits.
    pub(super) fn may_lie_in(&self, day: Day) -> bool {
        match self.from {
            // A clock that went back inside a segment may have left earlier commits than its last one in it.
            Some(Bound::Time(from)) => day >= from.day().days_before(CLOCK_DAYS),
            _ => true,
        }
    }

    /// The numbers that it goes by, where it does.
    pub(super) fn numbers(&self) -> (Option<u64>, Option<u64>) {
        let number = |bound: Option<Bound>| match bound {
            Some(Bound::Segment(seq)) => Some(seq.get()),
            Some(Bound::Time(_)) | None => None,
        };
        (number(self.from), number(self.to))
    }

    pub(super) fn may_have(&self, seq: SegmentSeq) -> bool {
        let from = matches!(self.from, Some(Bound::Segment(from)) if seq < from);
        let to = matches!(self.to, Some(Bound::Segment(to)) if seq >= to);
        !from && !to
    }

    /// Whether any of these numbers is one of the range.
    pub(super) fn may_have_some(&self, first: SegmentSeq, last: SegmentSeq) -> bool {
        let from = matches!(self.from, Some(Bound::Segment(from)) if last < from);
        let to = matches!(self.to, Some(Bound::Segment(to)) if first >= to);
        !from && !to
    }

    /// Whether a segment has commits in the range. A gap alone counts by its folder's day.
    pub(super) fn has(&self, manifest: &Manifest, day: Day) -> bool {
        let Some(span) = manifest.span else {
            let before = matches!(self.from, Some(Bound::Time(from)) if day < from.day());
            let after = matches!(self.to, Some(Bound::Time(to)) if day.start() >= to);
            return !before && !after;
        };
        let before = matches!(self.from, Some(Bound::Time(from)) if span.last_ts < from);
        let after = matches!(self.to, Some(Bound::Time(to)) if span.first_ts >= to);
        !before && !after
    }

    /// Whether that segment's commits are all after it.
    pub(super) fn ends_before(&self, manifest: &Manifest) -> bool {
        let Some(span) = manifest.span else { return false };
        matches!(self.to, Some(Bound::Time(to)) if span.first_ts >= to)
    }

    /// Whether nothing that follows can have commits in it, although clocks go back.
    pub(super) fn ends_long_before(&self, manifest: &Manifest) -> bool {
        let Some(span) = manifest.span else { return false };
        matches!(self.to, Some(Bound::Time(to)) if span.first_ts.day().days_before(CLOCK_DAYS) > to.day())
    }

    /// Whether it begins with a time: then nobody knows which number is the first.
    pub(super) fn begins_with_a_time(&self) -> bool {
        matches!(self.from, Some(Bound::Time(_)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bound(text: &str) -> Bound {
        text.parse().expect("a bound")
    }

    #[test]
    fn numbers_days_and_times() {
        assert_eq!(bound("42"), Bound::Segment(SegmentSeq::new(42).expect("a number")));
        assert_eq!(bound("0000000042"), bound("42"));
        assert_eq!(bound("2026-02-05"), bound("2026-02-05T00:00:00Z"));
        for text in ["", "0", "yesterday", "2026-2-5", "-1", "99999999999999999999"] {
            assert!(text.parse::<Bound>().is_err(), "accepted {text:?}");
        }
    }

    #[test]
    fn an_empty_range_is_a_mistake() {
        assert!(Range::new(Some(bound("5")), Some(bound("5"))).is_err());
        assert!(Range::new(Some(bound("2026-02-05")), Some(bound("2026-02-04"))).is_err());
        assert!(Range::new(Some(bound("5")), Some(bound("6"))).is_ok());
    }
}
