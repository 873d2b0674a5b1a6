//! Relations whose rows have to be counted: stream and catalog say the same of right and of wrong ones.
//!
//! Two things hide so:
//! - A partition that was made since the last poll may have had a namesake before, whose rows came under the same name. A
//!   row that commits before what made it is its namesake's, whichever of the two got its number first. Within that
//!   transaction, unless it wrote nothing before, and where the partition was made in a savepoint, whose number the stream
//!   does not tell, nobody can say.
//! - Rows that were written unlogged after the TRUNCATE that explains where the others are.
//!
//! Our own count of such a relation begins with 0 and is exact if nothing is hidden. Production's count decides, at the
//! first poll that can take it. It decides of rows that came; of one that was altered or went it tells nothing: a gap.

use std::collections::BTreeSet;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use syncdata_formats::time::Timestamp;

use super::{Capture, Memory, Tally};

/// What the answer said of a partition that is new.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Birth {
    /// The transaction that made it has committed.
    is_told: bool,
    /// Rows are its own from here on.
    is_over: bool,
    /// A row came before that.
    had_earlier: bool,
    /// The transaction that made it has rows under its name, or may have.
    had_own: bool,
    /// Not all of these rows are new ones.
    altered: bool,
}

/// Why a relation was not counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Uncounted {
    /// It may be at the next poll: a transaction is open, or the relation was altered while we counted.
    NotYet,
    /// Somebody holds it.
    Locked,
    /// It takes too long, or we have no right to.
    Refused,
}

/// What came of counting a relation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Postponed {
    attempts: u32,
    refused: u32,
    /// By production's clock.
    until: Timestamp,
}

impl Postponed {
    const REFUSED_MAX: u32 = 6;
    const LONGEST: Duration = Duration::from_secs(600);

    /// After one more attempt; `None` once it will not be counted. The first attempts follow with the polls, those after
    /// them less and less often.
    pub(crate) fn again(before: Option<Postponed>, why: Uncounted, at: Timestamp) -> Option<Postponed> {
        let attempts = before.map_or(0, |before| before.attempts).saturating_add(1);
        let refused = before.map_or(0, |before| before.refused) + u32::from(why == Uncounted::Refused);
        let at_once = if why == Uncounted::Refused { 0 } else { 2 };
        let doubled = attempts.checked_sub(at_once + 1).map(|steps| 1_u64 << steps.min(6));
        let wait = Duration::from_secs(doubled.map_or(0, |steps| 10 * steps)).min(Postponed::LONGEST);
        let until = at.as_micros().saturating_add(i64::try_from(wait.as_micros()).unwrap_or(i64::MAX));
        let until = Timestamp::from_micros(until).unwrap_or(at);
        (refused < Postponed::REFUSED_MAX).then_some(Postponed { attempts, refused, until })
    }

    pub(crate) fn is_due(self, at: Timestamp) -> bool {
        // A clock that was put back is no reason to wait for it.
        at >= self.until || self.until.since(at) > Postponed::LONGEST
    }

    pub(super) fn refused(self) -> u32 {
        self.refused
    }
}

impl Birth {
    /// A row of that transaction comes under its name.
    pub(super) fn row(&mut self, born: u32, xid: u32) {
        if self.is_over {
            return;
        }
        // Who got its number later may have written before all the same.
        self.had_own |= xid == born;
        self.had_earlier |= xid != born;
    }

    /// What a row says that came is not new.
    pub(crate) fn alters(&mut self) {
        self.altered |= !self.is_over;
    }

    /// It has rows of its own.
    pub(super) fn is_there(&mut self) {
        self.is_over = true;
    }

    pub(super) fn committed(&mut self) {
        (self.is_told, self.is_over) = (true, true);
    }

    fn is_in_doubt(self) -> bool {
        self.had_earlier || self.had_own
    }
}

impl Capture {
    /// Partitions under whose names rows of another relation came.
    pub(super) fn had_namesakes(&self, tally: &Tally) -> impl Iterator<Item = u32> {
        let had_one = |(oid, birth): (&u32, &Birth)| {
            let is_known = birth.is_told && (birth.had_earlier || self.unborn.contains(oid));
            (is_known || birth.altered && birth.is_in_doubt()).then_some(*oid)
        };
        tally.births.iter().filter_map(had_one)
    }

    /// What made a partition has come.
    pub(super) fn is_told(&self, oid: u32, tally: &Tally) -> bool {
        self.told.contains(&oid) || tally.births.get(&oid).is_some_and(|birth| birth.is_told)
    }

    /// That transaction made the partition before it wrote anything else.
    pub(crate) fn is_made_first(&self, oid: u32, xid: u32) -> bool {
        self.made_first.contains(&oid) && self.births.get(&oid) == Some(&xid)
    }

    /// Who is yet to come that made a partition of which rows have come.
    pub(super) fn unborn(&self, oid: u32, tally: &Tally) -> Option<u32> {
        let birth = tally.births.get(&oid).copied().unwrap_or_default();
        let had_earlier = birth.had_earlier || self.unborn.contains(&oid);
        self.births.get(&oid).copied().filter(|_| had_earlier && !birth.is_told)
    }

    /// Nothing says yet that its rows are not a namesake's.
    pub(super) fn waits_for_birth(&self, oid: u32, tally: &Tally) -> bool {
        let birth = || tally.births.get(&oid).copied().unwrap_or_default();
        self.births.contains_key(&oid)
            && !self.unborn.contains(&oid)
            && !birth().is_over
            && !birth().is_in_doubt()
    }

    /// Relations whose rows are to be counted after this answer.
    pub(crate) fn suspects(&self, memory: &Memory, tally: &Tally) -> BTreeSet<u32> {
        let earlier = memory.relations.iter().filter(|(_, known)| known.suspected).map(|(oid, _)| *oid);
        let births = tally.births.iter().filter(|(_, birth)| birth.is_in_doubt()).map(|(oid, _)| *oid);
        let emptied =
            self.truncations().map(|(oid, _)| oid).filter(|oid| tally.truncations.contains_key(oid));
        let is_there = |oid: &u32| self.relations.get(oid).is_some_and(|known| known.table.is_some());
        let unborn = self.unborn.iter().copied();
        earlier.chain(births).chain(unborn).chain(emptied).filter(is_there).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn after(whys: &[Uncounted]) -> (Option<Postponed>, Timestamp) {
        let mut at = Timestamp::from_micros(0).expect("a time");
        let mut postponed = None;
        for why in whys {
            postponed = Postponed::again(postponed, *why, at);
            let Some(known) = postponed else { break };
            at = at.max(known.until);
            assert!(known.is_due(at));
        }
        (postponed, at)
    }

    #[test]
    fn what_cannot_be_counted_is_tried_less_and_less_often_and_then_given_up() {
        use Uncounted::{Locked, NotYet, Refused};
        assert_eq!(after(&[NotYet, NotYet]).1.as_micros(), 0, "the next poll tries again");
        assert_eq!(after(&[NotYet, Locked, NotYet, Locked]).1.as_micros(), 30_000_000);
        let (locked, at) = after(&[Locked; 100]);
        assert!(locked.is_some_and(|locked| locked.refused() == 0), "a lock ends at some time");
        assert!(locked.is_some_and(|locked| locked.until.since(at) <= Postponed::LONGEST));
        assert_eq!(after(&[Refused; 5]).1.as_micros(), 310_000_000);
        assert_eq!(after(&[Refused; 6]).0, None);
        let later = Timestamp::from_micros(3_600_000_000).expect("a time");
        let postponed = Postponed::again(None, Refused, later).expect("once more");
        assert!(!postponed.is_due(later));
        assert!(postponed.is_due(Timestamp::from_micros(0).expect("a time")));
    }
}
