//! Looks back for rows that a record tells only a part of: which older records, under which keys, make them whole.
//!
//! Segments are read from the newest to the oldest; within one, in source order. What is remembered are keys, never
//! values: the rows are put together later, by reading those records in order.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

use syncdata_formats::change::Row;

use super::scan::Origin;
use crate::batch::Place;
use crate::history::keys::{KeyHash, Shape, Told, Touch};

/// Where the row at a key came from, seen from the beginning of the segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum From {
    /// It was there already, at this key.
    Key(KeyHash),
    /// The segment tells it whole.
    Whole,
    /// There is no such row.
    Nowhere,
}

/// The search for the rows of one table.
#[derive(Debug, Default)]
pub(super) struct Search {
    origins: Vec<Origin>,
    /// By segment and line, those that have not been reached yet.
    waiting: BTreeMap<(u64, u64), Vec<usize>>,
    /// At the beginning of the segment that was read last: origins that are still looked for.
    open: HashMap<KeyHash, Vec<usize>>,
    found: HashSet<usize>,
    /// Every key under which such a row lay.
    pub keys: HashSet<KeyHash>,
    /// Segments with records of them.
    pub segments: BTreeSet<u64>,
    /// Which columns records of those segments tell.
    pub told: Told,
    /// Why older records cannot be read: nothing can be told of the table then.
    pub refused: Option<String>,
}

/// One reading of one segment.
#[derive(Debug)]
pub(super) struct Reading {
    seq: u64,
    tracked: HashSet<KeyHash>,
    now: HashMap<KeyHash, From>,
    emptied: bool,
    /// Where each origin of this segment came from.
    reached: Vec<(usize, From)>,
    /// A key turned out to matter that was read over: the segment has to be read again.
    again: bool,
    /// A record of one of the keys is in it.
    hit: bool,
    /// A record that does not say its key.
    keyless: Option<Place>,
    told: Told,
}

impl Search {
    pub(super) fn new(origins: Vec<Origin>) -> Search {
        let mut search =
            Search { keys: origins.iter().map(|origin| origin.key).collect(), ..Search::default() };
        for (number, origin) in origins.iter().enumerate() {
            search.waiting.entry(line_of(origin.place)).or_default().push(number);
        }
        search.origins = origins;
        search
    }

    /// Every wanted row has been found.
    pub(super) fn is_done(&self) -> bool {
        self.waiting.is_empty() && self.open.is_empty()
    }

    /// Whether that segment has to be read, if it has records of the table.
    pub(super) fn wants(&self, seq: u64) -> bool {
        !self.open.is_empty() || self.waiting.range((seq, 0)..(seq + 1, 0)).next().is_some()
    }

    pub(super) fn begin(&self, seq: u64) -> Reading {
        let waiting = self.waiting.range((seq, 0)..(seq + 1, 0)).flat_map(|(_, numbers)| numbers);
        let mut tracked: HashSet<KeyHash> = waiting.map(|&number| self.origins[number].key).collect();
        tracked.extend(self.open.keys());
        Reading {
            seq,
            tracked,
            now: HashMap::new(),
            emptied: false,
            reached: Vec::new(),
            again: false,
            hit: false,
            keyless: None,
            told: Told::default(),
        }
    }

    pub(super) fn take(&self, reading: &mut Reading, row: &Row<'_>, shape: &mut Shape, place: Place) {
        if let Some(numbers) = self.waiting.get(&line_of(place)) {
            let from = numbers.iter().map(|&number| (number, reading.from(self.origins[number].key)));
            let from: Vec<_> = from.collect();
            reading.reached.extend(from);
        }
        shape.note(row, &mut reading.told);
        match shape.touch(row) {
            Some(touch) => reading.step(touch),
            None => drop(reading.keyless.get_or_insert(place)),
        }
    }

    /// The segment was read to its end. `Some`: once more, with the keys that turned out to matter.
    pub(super) fn end(&mut self, reading: Reading) -> Option<Reading> {
        if reading.again {
            let Reading { seq, tracked, hit, told, .. } = reading;
            return Some(Reading { tracked, hit, told, ..self.begin(seq) });
        }
        if let Some(place) = reading.keyless {
            self.refuse(keyless(place));
            return None;
        }
        self.waiting.retain(|line, _| line.0 != reading.seq);
        if reading.hit {
            self.segments.insert(reading.seq);
            self.told.add(&reading.told);
        }
        let ended = self.open.iter().flat_map(|(&key, numbers)| {
            let from = reading.from(key);
            numbers.iter().map(move |&number| (number, from))
        });
        let mut open: HashMap<KeyHash, Vec<usize>> = HashMap::new();
        for (number, from) in reading.reached.iter().copied().chain(ended) {
            match from {
                From::Whole => drop(self.found.insert(number)),
                From::Nowhere => {}
                From::Key(key) => open.entry(key).or_default().push(number),
            }
        }
        self.keys.extend(reading.tracked);
        self.open = open;
        None
    }

    /// What lies before is lost, or not there: whoever is not found by now stays so.
    pub(super) fn give_up(&mut self) {
        self.waiting.clear();
        self.open.clear();
    }

    /// Nothing of the table can be told.
    pub(super) fn refuse(&mut self, reason: String) {
        self.give_up();
        self.refused = Some(reason);
    }

    /// Rows that the archive does not tell whole remain.
    pub(super) fn has_not_found(&self) -> bool {
        self.found.len() < self.origins.len()
    }

    /// Where records stand whose row was found.
    pub(super) fn found(&self) -> impl Iterator<Item = Place> + '_ {
        self.found.iter().map(|&number| self.origins[number].place)
    }
}

impl Reading {
    fn from(&self, key: KeyHash) -> From {
        let untouched = if self.emptied { From::Nowhere } else { From::Key(key) };
        self.now.get(&key).copied().unwrap_or(untouched)
    }

    fn step(&mut self, touch: Touch) {
        match touch {
            Touch::Image { new, from } => {
                if let Some(old) = from {
                    self.set(old, From::Nowhere);
                }
                self.set(new, From::Whole);
            }
            Touch::Part { old, new } if old != new => {
                if self.tracked.contains(&new) && self.tracked.insert(old) {
                    self.again = true;
                }
                let from = self.from(old);
                self.set(new, from);
                self.set(old, From::Nowhere);
            }
            Touch::Part { old, .. } => self.hit |= self.tracked.contains(&old),
            Touch::Gone(key) => self.set(key, From::Nowhere),
            Touch::Emptied => {
                self.now.clear();
                self.emptied = true;
            }
        }
    }

    fn set(&mut self, key: KeyHash, from: From) {
        if self.tracked.contains(&key) {
            self.hit = true;
            self.now.insert(key, from);
        }
    }
}

/// Whose row a record is about cannot be told.
pub(super) fn keyless(place: Place) -> String {
    format!("segment {}, line {}, does not say the key of its row", place.tx.seq, place.line)
}

fn line_of(place: Place) -> (u64, u64) {
    (place.tx.seq, place.line)
}
