//! Where the slot has stood. After a crash, or with a disk of before, it stands again where it stood once; anywhere else it was
//! made anew, and what committed before is in no slot.
//!
//! A server keeps the slot's place at its checkpoints: it comes back to one of those since the last but one began.

use serde::{Deserialize, Serialize};
use syncdata_formats::lsn::Lsn;

/// Places that the slot was moved to, or was to be, after the end of the chain.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Stood {
    /// The newest last, and never none of them once one is known.
    checkpoints: Vec<Checkpoint>,
    /// None is missing that the server may come back to. Spools of earlier versions knew none at first.
    is_whole: bool,
}

/// What was known since a checkpoint was met.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Checkpoint {
    redo: Lsn,
    places: Vec<Lsn>,
}

impl Stood {
    /// One checkpoint was under way when the slot was moved, one has come to its end since, and one is the newest.
    const CHECKPOINTS_MIN: usize = 3;

    /// For disks of long ago.
    const PLACES_MAX: usize = 1000;

    /// Of a slot that nobody has moved yet.
    pub(super) fn new(place: Lsn) -> Stood {
        let first = Checkpoint { redo: Lsn::from_u64(0), places: vec![place] };
        Stood { checkpoints: vec![first], is_whole: true }
    }

    /// What another spool knew; nothing, if it said nothing.
    pub(crate) fn inherited(places: &[Lsn], stands: Lsn) -> Stood {
        let mut stood = Stood::new(stands);
        stood.is_whole = !places.is_empty();
        for place in places {
            stood.at(*place);
        }
        stood
    }

    /// It is moved there, if not now then as soon as what is before is safe.
    pub(super) fn at(&mut self, place: Lsn) {
        let is_known = |checkpoint: &Checkpoint| checkpoint.places.contains(&place);
        match self.checkpoints.last_mut() {
            Some(newest) if is_known(newest) => {}
            Some(newest) => newest.places.push(place),
            None => {
                self.checkpoints.push(Checkpoint { redo: Lsn::from_u64(0), places: vec![place] });
            }
        }
    }

    /// The slot was met at `place`, and the newest checkpoint of the server began at `redo`.
    pub(crate) fn met(&mut self, place: Lsn, redo: Lsn) {
        if self.checkpoints.last().is_none_or(|newest| newest.redo != redo) {
            self.checkpoints.push(Checkpoint { redo, places: Vec::new() });
        }
        self.at(place);
        self.is_whole |= self.checkpoints.len() > Stood::CHECKPOINTS_MIN;
        let places = |stood: &Stood| stood.checkpoints.iter().map(|one| one.places.len()).sum::<usize>();
        while self.checkpoints.len() > Stood::CHECKPOINTS_MIN {
            let older = self.checkpoints.len() - Stood::CHECKPOINTS_MIN;
            match self.checkpoints[..older].iter().position(|one| one.places.is_empty()) {
                Some(empty) => drop(self.checkpoints.remove(empty)),
                None if places(self) > Stood::PLACES_MAX => drop(self.checkpoints.remove(0)),
                None => break,
            }
        }
    }

    /// What is not after the end of the chain is not asked for any more.
    pub(super) fn forget_upto(&mut self, end: Lsn) {
        for checkpoint in &mut self.checkpoints {
            checkpoint.places.retain(|place| *place > end);
        }
    }

    /// Its places were those of a history that is lost.
    pub(super) fn forget_after(&mut self, end: Lsn) {
        for checkpoint in &mut self.checkpoints {
            checkpoint.places.retain(|place| *place <= end);
        }
    }

    /// Whether a slot that stands there has never been moved there.
    pub(crate) fn is_made_anew(&self, place: Lsn) -> bool {
        self.is_whole && !self.checkpoints.iter().any(|checkpoint| checkpoint.places.contains(&place))
    }

    /// The newest places, the newest last, for whoever has lost this spool.
    pub(crate) fn newest(&self, count: usize) -> Vec<Lsn> {
        let mut places: Vec<Lsn> = Vec::new();
        for place in self.checkpoints.iter().flat_map(|checkpoint| &checkpoint.places) {
            places.retain(|known| known != place);
            places.push(*place);
        }
        let passed_over = places.len().saturating_sub(count);
        if self.is_whole { places.split_off(passed_over) } else { Vec::new() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lsn(position: u64) -> Lsn {
        Lsn::from_u64(position)
    }

    #[test]
    fn what_the_server_may_come_back_to_is_known_for_as_long() {
        let mut stood = Stood::new(lsn(0x10));
        stood.met(lsn(0x10), lsn(0x100));
        stood.at(lsn(0x20));
        for redo in [0x200, 0x200, 0x300] {
            stood.met(lsn(0x20), lsn(redo));
            assert!(!stood.is_made_anew(lsn(0x10)) && !stood.is_made_anew(lsn(0x20)), "{stood:?}");
            assert!(stood.is_made_anew(lsn(0x18)), "{stood:?}");
        }
        assert_eq!(stood.newest(5), [lsn(0x10), lsn(0x20)]);
        assert_eq!(stood.newest(1), [lsn(0x20)]);
        stood.forget_upto(lsn(0x10));
        assert_eq!(stood.newest(5), [lsn(0x20)]);
        stood.forget_after(lsn(0x18));
        assert!(stood.is_made_anew(lsn(0x20)));
    }

    #[test]
    fn it_is_bounded_and_keeps_the_newest_checkpoints_whole() {
        let mut stood = Stood::new(lsn(1));
        for number in 2..=5000 {
            stood.met(lsn(number), lsn(number / 400));
        }
        assert_eq!(stood.checkpoints.len(), Stood::CHECKPOINTS_MIN);
        assert!(!stood.is_made_anew(lsn(4400)) && stood.is_made_anew(lsn(400)));
    }

    /// It says of no place that it is another one before it has seen enough.
    #[test]
    fn an_earlier_spool_knows_nothing_at_first() {
        let mut stood = Stood::default();
        for redo in 1..=3 {
            stood.met(lsn(0x20), lsn(redo));
            assert!(!stood.is_made_anew(lsn(0x10)) && stood.newest(9).is_empty(), "{redo}");
        }
        stood.met(lsn(0x20), lsn(4));
        assert!(stood.is_made_anew(lsn(0x10)) && !stood.is_made_anew(lsn(0x20)));
        assert!(!Stood::inherited(&[], lsn(0x20)).is_made_anew(lsn(0x10)));
        assert!(!Stood::inherited(&[lsn(0x10)], lsn(0x20)).is_made_anew(lsn(0x10)));
    }
}
