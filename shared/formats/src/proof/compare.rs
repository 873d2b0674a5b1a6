//! Two digests of a table, held against each other.

use std::fmt;

use super::Buckets;

/// What can be said from buckets alone: rows in buckets that differ may still agree, but nobody knows how many.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Comparison {
    pub source_rows: u64,
    pub local_rows: u64,
    /// In their order.
    pub differing: Vec<u32>,
    /// Rows in buckets that are equal.
    agreeing: u64,
    /// No more rows than these are on one side or the other.
    union_max: u64,
}

/// Percent with two digits after the point, rounded down: only what is equal has 100.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Score(u64);

impl Comparison {
    /// Both of the same k; what the mark says decides over it.
    pub fn of(source: &Buckets, local: &Buckets) -> Comparison {
        assert_eq!(source.k(), local.k(), "both sides count by the mark");
        let (mut differing, mut agreeing, mut union_max) = (Vec::new(), 0_u64, 0_u64);
        for (place, (theirs, ours)) in (0..).zip(source.iter().zip(local.iter())) {
            if theirs == ours {
                agreeing = agreeing.saturating_add(theirs.0);
                union_max = union_max.saturating_add(theirs.0);
            } else {
                differing.push(place);
                union_max = union_max.saturating_add(theirs.0).saturating_add(ours.0);
            }
        }
        let (source_rows, local_rows) = (source.rows(), local.rows());
        Comparison { source_rows, local_rows, differing, agreeing, union_max }
    }

    pub fn is_equal(&self) -> bool {
        self.differing.is_empty()
    }

    /// At least so much agrees.
    pub fn score(&self) -> Score {
        Score::of(self.agreeing, self.union_max, !self.is_equal())
    }

    /// Numerator and denominator of the score, to be added up over tables.
    pub fn parts(&self) -> (u64, u64) {
        (self.agreeing, self.union_max)
    }
}

impl Score {
    /// `agreeing` of the `union` of rows of both sides. Empty is equal to empty.
    pub fn of(agreeing: u64, union: u64, differs: bool) -> Score {
        const WHOLE: u64 = 10_000;
        let share = match u128::from(union) {
            0 => WHOLE,
            union => u64::try_from(u128::from(agreeing) * u128::from(WHOLE) / union).unwrap_or(WHOLE),
        };
        Score(share.min(if differs { WHOLE - 1 } else { WHOLE }))
    }
}

impl fmt::Display for Score {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{:02}", self.0 / 100, self.0 % 100)
    }
}
