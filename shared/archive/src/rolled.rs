//! An archive whose segments may lie in roll-ups: what is in one is listed and read as if it lay alone, so that nobody
//! above this file has to know. A file that lies in both places is the same file.
//!
//! ```text
//! list, read ─▶ Rolled ─┬─▶ segments/<day>/…              what lies alone
//!                       └─▶ rollups/<day>/….manifest.json   where in the tar: a window of it is read at once
//! ```
//! A roll-up proves nothing: every file out of it has the digest that its manifest promises, or it is not handed out; and
//! whoever asked holds it against the chain as before.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::fmt;
use std::io::Write;
use std::sync::Arc;

use syncdata_formats::digest::{Digest, Hashing};
use syncdata_formats::error::{Error, Kind, Result};
use syncdata_formats::layout::{
    ArchivePath, RollupName, SegmentFile, SegmentName, SegmentSeq, parse_segment_path,
};
use syncdata_formats::lsn::Lsn;
use syncdata_formats::rollup::{Place, Rollup, SEGMENTS_MAX};
use syncdata_formats::time::{Day, Timestamp};

use crate::rollups::{self, Listed};
use crate::{Archive, Content, Entry, EntryKind, Facts, Put, listing};

/// Manifests have a few thousand bytes, and are asked for one after the other: hundreds come with one question.
const WINDOW_BYTES: u64 = 1 << 20;
/// One for manifests, one for change files, and the same of the next roll-up.
const WINDOWS_MAX: usize = 4;
/// Of all roll-ups that are remembered: some 40 MB.
const PLACES_MAX: usize = 500_000;

const BRING_BACK: &str = "bring the roll-up back from a sound copy of the archive, all files of it";

/// Which of two same files is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Prefer {
    RollUps,
    /// Whoever checks an archive looks at what lies alone, too.
    Singles,
}

/// See the module.
pub struct Rolled {
    inner: Box<dyn Archive>,
    prefer: Prefer,
    /// Whether there was any roll-up when the days were listed last: most archives have none, and need no second question.
    has_any: Option<bool>,
    known: BTreeMap<(Day, RollupName), Known>,
    places_max: usize,
    windows: VecDeque<Window>,
    clock: u64,
}

struct Known {
    state: State,
    used: u64,
}

#[derive(Clone)]
enum State {
    Sound(Arc<Index>),
    /// In words.
    Spoiled(String),
}

struct Index {
    tar: ArchivePath,
    bytes: u64,
    /// In the order of their files.
    places: Vec<Place>,
}

/// A stretch of a tar.
struct Window {
    tar: ArchivePath,
    offset: u64,
    bytes: Vec<u8>,
}

impl Rolled {
    pub fn new(inner: Box<dyn Archive>, prefer: Prefer) -> Rolled {
        Rolled {
            inner,
            prefer,
            has_any: None,
            known: BTreeMap::new(),
            places_max: PLACES_MAX,
            windows: VecDeque::new(),
            clock: 0,
        }
    }

    /// The roll-ups of a day as they are now; what is remembered of others is forgotten.
    fn listed(&mut self, day: Day) -> Result<Vec<Listed>> {
        let listed = rollups::list(self.inner.as_mut(), day)?;
        let there: BTreeSet<RollupName> = listed.iter().map(|listed| listed.name).collect();
        self.known.retain(|(of, name), _| *of != day || there.contains(name));
        Ok(listed)
    }

    /// Remembered, or read.
    fn state(&mut self, listed: Listed) -> Result<State> {
        self.clock += 1;
        let (day, name) = (listed.day, listed.name);
        // A spoiled one may have been brought back.
        if let Some(Known { state: State::Sound(index), used }) = self.known.get_mut(&(day, name)) {
            *used = self.clock;
            return Ok(State::Sound(Arc::clone(index)));
        }
        let read = rollups::read(self.inner.as_mut(), listed, None);
        let state = match read.and_then(|rollup| Index::of(&rollup)) {
            Ok(index) => State::Sound(Arc::new(index)),
            // A prune may have taken it away since it was listed.
            Err(error) if matches!(error.kind(), Kind::Corrupt | Kind::Foreign | Kind::NotFound) => {
                State::Spoiled(spoiled(day, name, &error))
            }
            Err(error) => return Err(error),
        };
        self.known.insert((day, name), Known { state: state.clone(), used: self.clock });
        self.forget_oldest();
        Ok(state)
    }

    /// Looks for the roll-up that has a segment.
    fn look(&mut self, day: Day, seq: SegmentSeq) -> Result<()> {
        for listed in self.listed(day)?.into_iter().filter(|listed| listed.name.has(seq)) {
            self.state(listed)?;
        }
        Ok(())
    }

    fn forget_oldest(&mut self) {
        let places = |known: &Known| match &known.state {
            State::Sound(index) => index.places.len(),
            State::Spoiled(_) => 0,
        };
        let mut sum: usize = self.known.values().map(places).sum();
        while sum > self.places_max {
            let newest = self.clock;
            let oldest = self.known.iter().filter(|(_, known)| known.used < newest && places(known) > 0);
            let Some(key) = oldest.min_by_key(|(_, known)| known.used).map(|(key, _)| *key) else { break };
            sum -= self.known.remove(&key).map_or(0, |known| places(&known));
        }
    }

    /// What a day's folder has beside what lies alone.
    fn rolled_of_day(&mut self, day: Day, alone: &[Entry]) -> Result<Vec<Entry>> {
        let files: BTreeSet<SegmentFile> = alone.iter().filter_map(listing::segment_file).collect();
        let manifests = files.iter().filter(|file| matches!(file, SegmentFile::Manifest(_)));
        let mut numbers: BTreeSet<SegmentSeq> = manifests.map(|file| file.segment().seq).collect();
        let mut rolled = BTreeMap::new();
        let mut lost = Vec::new();
        for listed in self.listed(day)? {
            match self.state(listed)? {
                State::Sound(index) => {
                    // A roll-up that calls a segment otherwise is wrong, and must not make a second one of it.
                    let is_new = |file: SegmentFile| {
                        let is_manifest = matches!(file, SegmentFile::Manifest(_));
                        let is_named = is_manifest && numbers.contains(&file.segment().seq);
                        !files.contains(&file) && !is_named
                    };
                    let new = index.places.iter().filter(|place| is_new(place.file));
                    let new: Vec<(SegmentFile, u64)> = new.map(|place| (place.file, place.bytes)).collect();
                    numbers.extend(new.iter().map(|(file, _)| file.segment().seq));
                    rolled.extend(new);
                }
                // They are in it and cannot be read: whoever comes to one of them hears why.
                State::Spoiled(why) => {
                    tracing::warn!(rollup = %listed.name.tar(day), reason = %why, "a roll-up is of no use");
                    lost.push(listed.name);
                }
            }
        }
        let lost = lost.into_iter().flat_map(unreadable).filter(|segment| !numbers.contains(&segment.seq));
        rolled.extend(lost.map(|segment| (SegmentFile::Manifest(segment), 0)));
        let entry = |(file, bytes): (SegmentFile, u64)| Entry {
            name: file.file_name(),
            kind: EntryKind::Rolled,
            bytes,
        };
        Ok(rolled.into_iter().map(entry).collect())
    }

    fn of_day(&self, day: Day) -> impl Iterator<Item = (&RollupName, &Known)> {
        let of_day = self.known.iter().filter(move |((of, _), _)| *of == day);
        of_day.map(|((_, name), known)| (name, known))
    }

    /// Where a file lies, of the roll-ups that are known.
    fn place(&mut self, day: Day, file: SegmentFile) -> Option<(RollupName, Arc<Index>, Place)> {
        let seq = file.segment().seq;
        let (name, index, place) =
            self.of_day(day).filter(|(name, _)| name.has(seq)).find_map(|(name, known)| {
                match &known.state {
                    State::Sound(index) => Some((*name, Arc::clone(index), index.place(file)?)),
                    State::Spoiled(_) => None,
                }
            })?;
        self.clock += 1;
        let now = self.clock;
        if let Some(known) = self.known.get_mut(&(day, name)) {
            known.used = now;
        }
        Some((name, index, place))
    }

    /// Reads a small file out of a roll-up; nothing of it counts before its digest is right.
    fn whole(&mut self, index: &Index, place: &Place) -> Result<Vec<u8>> {
        let end = place.offset + place.bytes;
        let has = |window: &Window| {
            window.tar == index.tar
                && window.offset <= place.offset
                && end <= window.offset + window.bytes.len() as u64
        };
        if !self.windows.iter().any(has) {
            let bytes = WINDOW_BYTES.min(index.bytes - place.offset);
            let mut window = Vec::with_capacity(usize::try_from(bytes).expect("a window"));
            self.inner.read_part(&index.tar, place.offset, bytes, &mut window)?;
            self.windows.truncate(WINDOWS_MAX - 1);
            self.windows.push_front(Window { tar: index.tar.clone(), offset: place.offset, bytes: window });
        }
        let window = self.windows.iter().find(|window| has(window));
        let found = window.map(|window| {
            let from = usize::try_from(place.offset - window.offset).expect("in the window");
            window.bytes[from..from + usize::try_from(place.bytes).expect("in the window")].to_vec()
        });
        match found {
            Some(bytes) if Digest::of(&bytes) == place.sha256 => Ok(bytes),
            _ => Err(not_promised(index, place)),
        }
    }

    /// A large file: its bytes go on as they come, and who asked holds them against the manifest.
    fn stream(&mut self, index: &Index, place: &Place, offset: u64, into: &mut dyn Write) -> Result<u64> {
        let Some(left) = place.bytes.checked_sub(offset).filter(|left| *left > 0) else { return Ok(0) };
        let mut hashing = Hashing::new(into);
        let copied = self.inner.read_part(&index.tar, place.offset + offset, left, &mut hashing)?;
        if copied != left || offset == 0 && hashing.digest() != place.sha256 {
            return Err(not_promised(index, place));
        }
        Ok(copied)
    }

    fn hand_out(
        &mut self,
        (name, index, place): &(RollupName, Arc<Index>, Place),
        day: Day,
        offset: u64,
        into: &mut dyn Write,
    ) -> Result<u64> {
        let read = match place.bytes > WINDOW_BYTES {
            true => self.stream(index, place, offset, into),
            false => self.whole(index, place).and_then(|bytes| {
                let rest = bytes.get(usize::try_from(offset).unwrap_or(usize::MAX)..).unwrap_or_default();
                into.write_all(rest).map_err(|error| {
                    Error::io(format!("storing what was read of {}", place.path(day)), error)
                })?;
                Ok(rest.len() as u64)
            }),
        };
        if let Err(error) = &read
            && error.kind() == Kind::Corrupt
        {
            self.windows.retain(|window| window.tar != index.tar);
            let state = State::Spoiled(spoiled(day, *name, error));
            self.known.insert((day, *name), Known { state, used: self.clock });
        }
        read
    }
}

impl Archive for Rolled {
    fn location(&self) -> &str {
        self.inner.location()
    }

    fn put(&mut self, path: &ArchivePath, content: &mut dyn Content, facts: Facts) -> Result<Put> {
        self.inner.put(path, content, facts)
    }

    fn replace(&mut self, path: &ArchivePath, content: &[u8]) -> Result<()> {
        self.inner.replace(path, content)
    }

    fn read(&mut self, path: &ArchivePath, offset: u64, into: &mut dyn Write) -> Result<u64> {
        let Some((day, file)) = parse_segment_path(path) else { return self.inner.read(path, offset, into) };
        if self.prefer == Prefer::RollUps
            && let Some(found) = self.place(day, file)
            && found.2.bytes <= WINDOW_BYTES
        {
            match self.hand_out(&found, day, offset, into) {
                // It may lie alone as well.
                Err(error) if matches!(error.kind(), Kind::Corrupt | Kind::NotFound) => {}
                read => return read,
            }
        }
        let alone = self.inner.read(path, offset, into);
        if !alone.as_ref().is_err_and(|error| error.kind() == Kind::NotFound) {
            return alone;
        }
        if self.place(day, file).is_none() {
            self.look(day, file.segment().seq)?;
        }
        if let Some(found) = self.place(day, file) {
            return self.hand_out(&found, day, offset, into);
        }
        let seq = file.segment().seq;
        let why =
            self.of_day(day).filter(|(name, _)| name.has(seq)).find_map(|(_, known)| match &known.state {
                State::Spoiled(why) => Some(why.clone()),
                State::Sound(_) => None,
            });
        match why {
            Some(why) => {
                Err(Error::new(Kind::Corrupt, format!("{path} is only in a roll-up: {why}")).hint(BRING_BACK))
            }
            None => alone,
        }
    }

    fn read_part(
        &mut self,
        path: &ArchivePath,
        offset: u64,
        bytes: u64,
        into: &mut dyn Write,
    ) -> Result<u64> {
        self.inner.read_part(path, offset, bytes, into)
    }

    fn list(&mut self, folder: &ArchivePath) -> Result<Vec<Entry>> {
        let mut entries = self.inner.list(folder)?;
        if *folder == ArchivePath::segments() {
            let days: BTreeSet<String> =
                rollups::folders(self.inner.as_mut())?.0.iter().map(Day::to_string).collect();
            self.has_any = Some(!days.is_empty());
            let alone: BTreeSet<&str> = entries.iter().map(|entry| entry.name.as_str()).collect();
            let only: Vec<String> = days.into_iter().filter(|day| !alone.contains(day.as_str())).collect();
            entries.extend(only.into_iter().map(|name| Entry { name, kind: EntryKind::Directory, bytes: 0 }));
            entries.sort();
        } else if let Some(day) = folder.as_str().strip_prefix("segments/").and_then(|day| day.parse().ok())
            && self.has_any != Some(false)
        {
            // After what lies alone: that leaves only when it is in a roll-up.
            let rolled = self.rolled_of_day(day, &entries)?;
            entries.extend(rolled);
            entries.sort();
        }
        Ok(entries)
    }

    fn list_after(&mut self, folder: &ArchivePath, name: &str) -> Result<Vec<Entry>> {
        let Some(day) = folder.as_str().strip_prefix("segments/").and_then(|day| day.parse().ok()) else {
            let mut entries = self.list(folder)?;
            entries.retain(|entry| entry.name.as_str() > name);
            return Ok(entries);
        };
        let mut entries = self.inner.list_after(folder, name)?;
        if self.has_any != Some(false) {
            let rolled = self.rolled_of_day(day, &entries)?;
            entries.extend(rolled.into_iter().filter(|entry| entry.name.as_str() > name));
            entries.sort();
        }
        Ok(entries)
    }

    fn keeps_names(&mut self, path: &ArchivePath, content: &[u8]) -> Result<bool> {
        self.inner.keeps_names(path, content)
    }

    fn stat(&mut self, path: &ArchivePath) -> Result<Option<Entry>> {
        let alone = self.inner.stat(path)?;
        let Some((day, file)) = parse_segment_path(path).filter(|_| alone.is_none()) else {
            return Ok(alone);
        };
        if self.place(day, file).is_none() {
            self.look(day, file.segment().seq)?;
        }
        let found = self.place(day, file);
        Ok(found.map(|(_, _, place)| Entry {
            name: file.file_name(),
            kind: EntryKind::Rolled,
            bytes: place.bytes,
        }))
    }

    fn remove(&mut self, path: &ArchivePath) -> Result<bool> {
        self.inner.remove(path)
    }

    fn changed_at(&mut self, path: &ArchivePath) -> Result<Option<Timestamp>> {
        self.inner.changed_at(path)
    }

    fn room(&mut self) -> Result<Option<u64>> {
        self.inner.room()
    }
}

impl Index {
    fn of(rollup: &Rollup) -> Result<Index> {
        let mut places = rollup.places()?;
        places.sort_by_key(|place| place.file);
        Ok(Index { tar: rollup.name().tar(rollup.day), bytes: rollup.bytes, places })
    }

    fn place(&self, file: SegmentFile) -> Option<Place> {
        let at = self.places.binary_search_by_key(&file, |place| place.file).ok()?;
        Some(self.places[at])
    }
}

fn not_promised(index: &Index, place: &Place) -> Error {
    let message =
        format!("{} in {} is not what the roll-up's manifest says", place.file.file_name(), index.tar);
    Error::new(Kind::Corrupt, message).hint(BRING_BACK)
}

/// What the name of a roll-up says of the segments in it. Where they end nobody knows: they are taken for needed.
fn unreadable(name: RollupName) -> impl Iterator<Item = SegmentName> {
    let numbers = (name.first.get()..=name.last.get()).take(SEGMENTS_MAX);
    let seqs = numbers.filter_map(|number| SegmentSeq::new(number).ok());
    seqs.map(|seq| SegmentName { seq, end_lsn: Lsn::from_u64(u64::MAX) })
}

fn spoiled(day: Day, name: RollupName, error: &Error) -> String {
    format!("{} cannot be used: {}", name.tar(day), error.one_line())
}

impl fmt::Debug for Rolled {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Rolled").field("location", &self.location()).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
