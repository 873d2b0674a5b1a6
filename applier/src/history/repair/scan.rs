//! The first reading: which keys changed in the range, where their rows went later, and what of them is not told.
//!
//! Pure: records in, in source order. Of a key 16 bytes and a few more are held, never a value: ten million keys take
//! about half a gigabyte.

use std::collections::{BTreeSet, HashMap};

use syncdata_formats::change::Row;
use syncdata_formats::manifest::OpCounts;

use crate::batch::Place;
use crate::history::keys::{KeyHash, Shape, Told, Touch};

/// What is known of the row at a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Life {
    Whole,
    Gone,
    /// It began before the first reading saw it: the number of its origin.
    Older(u32),
}

/// A row that was there before a record that tells only a part of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Origin {
    pub key: KeyHash,
    pub place: Place,
}

#[derive(Clone, Copy, Debug)]
struct Known {
    life: Life,
    in_range: bool,
}

/// What the first reading finds out about one table.
#[derive(Debug, Default)]
pub(super) struct TableScan {
    /// Of the range.
    pub counts: OpCounts,
    /// Different keys of the range.
    pub keys: u64,
    /// Records after the range on those keys.
    pub later: u64,
    /// Every record counts from now on: keys are not compared by us, or the range empties the table.
    all: bool,
    /// The range empties it: what is not told after that is not there.
    pub emptied: bool,
    /// Which columns records tell.
    pub told: Told,
    /// Columns that are not here any more: dropped, or renamed.
    pub strange: BTreeSet<String>,
    /// A record does not say its key.
    pub keyless: Option<Place>,
    /// The range has records that the base copy of the table already knew.
    pub older: bool,
    origins: Vec<Origin>,
    known: HashMap<KeyHash, Known>,
}

impl TableScan {
    /// Takes the next record. `all`: keys of this table cannot be told apart by their text.
    pub(super) fn take(&mut self, row: &Row<'_>, shape: &mut Shape, place: Place, in_range: bool, all: bool) {
        // Also of records that do not count yet: when a key is known they are read again.
        shape.note(row, &mut self.told);
        if in_range {
            self.counts.add(row.op);
            self.all |= all;
        } else if self.known.is_empty() && !self.all {
            return;
        }
        let Some(touch) = shape.touch(row) else {
            self.keyless.get_or_insert(place);
            return;
        };
        let counts = self.step(touch, place, in_range);
        self.later += u64::from(counts && !in_range);
        if counts && matches!(touch, Touch::Image { .. }) {
            self.note_strange(shape, row);
        }
    }

    /// Whether records of that key matter.
    pub(super) fn knows(&self, key: KeyHash) -> bool {
        self.known.contains_key(&key)
    }

    /// Rows that are there in the end, and of which something is not told.
    pub(super) fn origins(&self) -> Vec<Origin> {
        let mut wanted = vec![false; self.origins.len()];
        for known in self.known.values() {
            if let Life::Older(origin) = known.life {
                wanted[origin as usize] = true;
            }
        }
        let wanted = self.origins.iter().zip(wanted).filter(|(_, wanted)| *wanted);
        wanted.map(|(origin, _)| *origin).collect()
    }

    /// Where records stand that tell only a part of a row that was there before.
    pub(super) fn parts(&self) -> impl Iterator<Item = Place> + '_ {
        self.origins.iter().map(|origin| origin.place)
    }

    /// Whether the record counts.
    fn step(&mut self, touch: Touch, place: Place, in_range: bool) -> bool {
        let all = in_range || self.all;
        match touch {
            Touch::Emptied => {
                for known in self.known.values_mut() {
                    known.life = Life::Gone;
                }
                if in_range {
                    (self.emptied, self.all) = (true, true);
                }
            }
            Touch::Image { new, from } => {
                let followed = from.is_some_and(|old| self.known.contains_key(&old));
                if !all && !followed && !self.known.contains_key(&new) {
                    return false;
                }
                if let Some(old) = from
                    && (all || followed)
                {
                    self.set(old, Life::Gone, in_range);
                }
                self.set(new, Life::Whole, in_range);
            }
            Touch::Part { old, new } => {
                if !all && !self.known.contains_key(&old) && !self.known.contains_key(&new) {
                    return false;
                }
                let life = match self.known.get(&old).map(|known| known.life) {
                    Some(life @ (Life::Whole | Life::Older(_))) => life,
                    Some(Life::Gone) | None => {
                        self.origins.push(Origin { key: old, place });
                        Life::Older(u32::try_from(self.origins.len() - 1).expect("fewer rows than memory"))
                    }
                };
                if old != new {
                    self.set(old, Life::Gone, in_range);
                }
                self.set(new, life, in_range);
            }
            Touch::Gone(key) => {
                if !all && !self.known.contains_key(&key) {
                    return false;
                }
                self.set(key, Life::Gone, in_range);
            }
        }
        true
    }

    fn set(&mut self, key: KeyHash, life: Life, in_range: bool) {
        let known = self.known.entry(key).or_insert(Known { life, in_range: false });
        known.life = life;
        if in_range && !known.in_range {
            known.in_range = true;
            self.keys += 1;
        }
    }

    fn note_strange(&mut self, shape: &Shape, row: &Row<'_>) {
        let strange = row.data.iter().map(|(name, _)| name.as_ref());
        let strange =
            strange.filter(|name| shape.table.column(name).is_none() && !self.strange.contains(*name));
        let strange: Vec<String> = strange.map(str::to_owned).collect();
        self.strange.extend(strange);
    }
}
