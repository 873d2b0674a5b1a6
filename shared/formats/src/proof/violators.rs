//! Rows that break a rule, or refer to nothing: which ones, as far as a list goes.
//!
//! Of too many the smallest hashes are listed: both sides list the same ones, and what lies between them and is in one
//! list alone is in one side alone.

use std::collections::BinaryHeap;

use memchr::memchr;
use serde::{Deserialize, Serialize};

use super::{RowHash, copy_fields, hash_of};
use crate::error::{Error, Kind, Result};

/// More are not listed.
pub const VIOLATORS_MAX: usize = 10_000;

/// In the order of their hashes.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Violators {
    pub rows: Vec<RowHash>,
    /// There are more, with greater hashes.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub more: bool,
}

/// What one side has and the other does not.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Surplus {
    /// At least so many.
    pub certain: u64,
    /// The other side lists no more than it does: these may be among its own.
    pub unknown: u64,
    /// There are more than these.
    pub more: bool,
}

impl Violators {
    pub fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    /// What is here and not there.
    pub fn beyond(&self, theirs: &Violators) -> Surplus {
        let mut surplus = Surplus { more: self.more && !theirs.more, ..Surplus::default() };
        let mut others = theirs.rows.iter().peekable();
        for row in &self.rows {
            while others.next_if(|other| *other < row).is_some() {}
            if others.next_if(|other| *other == row).is_some() {
                continue;
            }
            let is_past_their_list = theirs.more && theirs.rows.last().is_none_or(|last| row >= last);
            if is_past_their_list {
                surplus.unknown += 1;
            } else {
                surplus.certain += 1;
            }
        }
        if self.more && theirs.more {
            surplus.unknown += 1;
        }
        // All of theirs are listed, and those of ours that are not are beyond them.
        if surplus.more {
            surplus.certain = surplus.certain.max(1);
        }
        surplus
    }

    pub(super) fn check(&self) -> Result<(), String> {
        if self.rows.len() > VIOLATORS_MAX {
            return Err(format!("lists more than {VIOLATORS_MAX} violators"));
        }
        if self.more && self.rows.len() < VIOLATORS_MAX {
            return Err(format!("says that there are more violators, and lists {}", self.rows.len()));
        }
        if !self.rows.is_sorted() {
            return Err("lists violators that are not in order".into());
        }
        Ok(())
    }
}

/// Takes the answer of COPY, in pieces as they come: all columns of a line are the row.
#[derive(Debug, Default)]
pub struct ViolatorsOfCopy {
    /// The greatest is on top.
    smallest: BinaryHeap<RowHash>,
    more: bool,
    /// The start of a row whose end has not come.
    rest: Vec<u8>,
}

impl ViolatorsOfCopy {
    pub fn push(&mut self, piece: &[u8]) -> Result<()> {
        let mut piece = piece;
        while let Some(end) = memchr(b'\n', piece) {
            self.rest.extend_from_slice(&piece[..end]);
            let line = std::mem::take(&mut self.rest);
            self.line(&line)?;
            piece = &piece[end + 1..];
        }
        self.rest.extend_from_slice(piece);
        Ok(())
    }

    fn line(&mut self, line: &[u8]) -> Result<()> {
        let fields = copy_fields(line)?;
        self.smallest.push(hash_of(fields.iter().map(Option::as_deref)));
        if self.smallest.len() > VIOLATORS_MAX {
            self.smallest.pop();
            self.more = true;
        }
        Ok(())
    }

    pub fn finish(self) -> Result<Violators> {
        if !self.rest.is_empty() {
            return Err(Error::new(Kind::Corrupt, "the answer of COPY ends within a row"));
        }
        Ok(Violators { rows: self.smallest.into_sorted_vec(), more: self.more })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn listed(rows: &[u128], more: bool) -> Violators {
        Violators { rows: rows.iter().copied().map(RowHash).collect(), more }
    }

    #[test]
    fn only_what_the_other_side_does_not_have_counts() {
        for (ours, theirs, certain, unknown) in [
            (listed(&[], false), listed(&[], false), 0, 0),
            (listed(&[], false), listed(&[1], false), 0, 0),
            (listed(&[1], false), listed(&[1, 2], false), 0, 0),
            (listed(&[1, 2, 9], false), listed(&[2, 3], false), 2, 0),
            (listed(&[2, 2, 2], false), listed(&[2], false), 2, 0),
            // Their list ends at 3: what is greater may be theirs too.
            (listed(&[1, 4], false), listed(&[2, 3], true), 1, 1),
            (listed(&[1, 4], true), listed(&[1, 4], true), 0, 1),
            // All of theirs are listed, and ours go on.
            (listed(&[1, 4], true), listed(&[1, 4], false), 1, 0),
        ] {
            let surplus = ours.beyond(&theirs);
            assert_eq!((surplus.certain, surplus.unknown), (certain, unknown), "{ours:?} {theirs:?}");
        }
        let surplus = listed(&[1], true).beyond(&listed(&[1], false));
        assert!(surplus.more && surplus.certain == 1, "{surplus:?}");
    }

    #[test]
    fn of_too_many_the_smallest_are_listed_whatever_their_order_and_pieces() {
        let count = VIOLATORS_MAX + 500;
        let line = |number: usize| format!("{number}\t\\N\n");
        let (mut forth, mut back) = (ViolatorsOfCopy::default(), ViolatorsOfCopy::default());
        for number in 0..count {
            forth.push(line(number).as_bytes()).expect("rows");
            for piece in line(count - 1 - number).as_bytes().chunks(2) {
                back.push(piece).expect("rows");
            }
        }
        let (forth, back) = (forth.finish().expect("whole"), back.finish().expect("whole"));
        assert_eq!(forth, back);
        assert!(forth.more && forth.rows.len() == VIOLATORS_MAX && forth.check().is_ok());
        let mut torn = ViolatorsOfCopy::default();
        torn.push(b"1\t2").expect("a piece");
        assert!(torn.finish().is_err());
        let mut one = ViolatorsOfCopy::default();
        one.push(b"7\t\\N\n").expect("a row");
        assert_eq!(one.finish().expect("whole").rows, [hash_of([Some(&b"7"[..]), None])]);
    }
}
