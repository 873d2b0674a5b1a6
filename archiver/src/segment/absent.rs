//! What is not in an answer although it should be, as the gaps of its segments.

use syncdata_formats::lsn::Lsn;
use syncdata_formats::manifest::Gap;
use syncdata_formats::name::TableName;

use crate::capture::Missed;
use crate::source::wal2json::lost;

/// It lies somewhere between the ends of the answer.
pub(crate) struct Absent {
    /// Tables of which the source dropped changes.
    pub lost: Vec<TableName>,
    /// Tables of which nobody can say what the answer says of them.
    pub missed: Vec<Missed>,
    pub from: Lsn,
    pub lost_to: Lsn,
    pub missed_to: Lsn,
}

impl Absent {
    /// The gaps of a segment.
    pub(crate) fn inside(&self, from: Lsn, to: Lsn) -> Vec<Gap> {
        self.between(from, to, to)
    }

    /// The gaps after the last segment, which ends there.
    pub(crate) fn after(&self, from: Lsn) -> Vec<Gap> {
        self.between(from, self.lost_to, self.missed_to)
    }

    /// There is a gap to be told, and no segment to tell it in before the source has written something.
    pub(crate) fn must_wait(&self, chain_end: Lsn) -> bool {
        self.missed.iter().any(|missed| self.missed_to <= chain_end || self.missed_to <= self.begins(missed))
    }

    /// What was archived before the answer is sound, unless the table was not captured then.
    fn begins(&self, missed: &Missed) -> Lsn {
        missed.since.unwrap_or(self.from)
    }

    fn between(&self, from: Lsn, lost_to: Lsn, missed_to: Lsn) -> Vec<Gap> {
        let missed = self.missed.iter().filter_map(|missed| self.gap(missed, from, missed_to));
        lost::gap(&self.lost, from, lost_to).into_iter().chain(missed).collect()
    }

    fn gap(&self, missed: &Missed, start: Lsn, to: Lsn) -> Option<Gap> {
        let from = if start <= self.from { self.begins(missed) } else { start };
        let (reason, tables) = (missed.reason.to_owned(), Some(vec![missed.table.clone()]));
        // A manifest covers something, and so does a gap.
        (start < to && from < to).then_some(Gap { from, to, reason, tables })
    }
}

/// The same may be found in several ways.
pub(crate) fn each_once(gaps: Vec<Gap>) -> Vec<Gap> {
    let mut once: Vec<Gap> = Vec::with_capacity(gaps.len());
    for gap in gaps {
        let overlaps = |other: &&mut Gap| {
            (&other.tables, &other.reason) == (&gap.tables, &gap.reason)
                && other.from < gap.to
                && gap.from < other.to
        };
        match once.iter_mut().find(overlaps) {
            Some(other) => (other.from, other.to) = (other.from.min(gap.from), other.to.max(gap.to)),
            None => once.push(gap),
        }
    }
    once
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lsn(position: u64) -> Lsn {
        Lsn::from_u64(position)
    }

    fn absent(since: &[Option<u64>], from: u64, to: u64) -> Absent {
        let missed = |(number, since): (usize, &Option<u64>)| Missed {
            table: format!("t{number}").parse().expect("a name"),
            reason: "lost",
            since: since.map(Lsn::from_u64),
        };
        let missed = since.iter().enumerate().map(missed).collect();
        Absent { lost: Vec::new(), missed, from: lsn(from), lost_to: lsn(from), missed_to: lsn(to) }
    }

    #[test]
    fn a_gap_that_no_segment_can_tell_yet_waits() {
        for (since, from, to, chain_end, waits) in [
            (&[][..], 5, 5, 5, false),
            (&[None][..], 5, 9, 5, false),
            (&[None], 5, 5, 3, true),
            (&[Some(3)], 5, 5, 3, false),
            (&[Some(3)], 5, 5, 5, true),
            // One is told with another that is older, and the other one is not.
            (&[Some(3), None], 5, 5, 3, true),
        ] {
            let absent = absent(since, from, to);
            assert_eq!(absent.must_wait(lsn(chain_end)), waits, "{since:?} {from} {to} {chain_end}");
            let told = absent.after(lsn(chain_end)).len();
            assert!(waits || told == since.len(), "what does not wait is told");
        }
    }
}
