//! The segments of an archive, as its folders show them: the one place that knows which folders count, what in them is
//! a segment, and where the archive begins.

use std::collections::BTreeMap;

use syncdata_formats::chain::ChainTip;
use syncdata_formats::document::Document;
use syncdata_formats::error::Result;
use syncdata_formats::floor::Floor;
use syncdata_formats::layout::{ArchivePath, SegmentFile, SegmentName, SegmentSeq};
use syncdata_formats::time::Day;
use uuid::Uuid;

use crate::{Archive, Entry, EntryKind, small};

/// The manifests that are there, by number; where one number stands twice, both, so that the chain refuses.
#[derive(Clone, Debug, Default)]
pub struct Listing {
    places: BTreeMap<SegmentSeq, Vec<(Day, SegmentName)>>,
    floor: Option<Floor>,
}

impl Listing {
    /// The manifests under that day and later ones.
    pub fn read(archive: &mut dyn Archive, from: Option<Day>) -> Result<Listing> {
        let names = manifests(archive, from)?;
        // After the folders: a prune raises the floor first, and what is gone must lie before the floor that counts.
        Ok(Listing::of(names, floor(archive)?))
    }

    pub fn of(names: impl IntoIterator<Item = (Day, SegmentName)>, floor: Option<Floor>) -> Listing {
        let mut listing = Listing { places: BTreeMap::new(), floor };
        for (day, name) in names {
            listing.places.entry(name.seq).or_default().push((day, name));
        }
        listing
    }

    pub fn floor(&self) -> Option<&Floor> {
        self.floor.as_ref()
    }

    /// What the first segment that counts has to follow.
    pub fn origin(&self, archive_id: Uuid) -> ChainTip {
        self.floor.as_ref().map_or(ChainTip::origin(archive_id), Floor::tip)
    }

    /// Every place, in order of the numbers. A prune that was interrupted leaves some before the floor: they do not
    /// exist.
    pub fn names(&self) -> impl DoubleEndedIterator<Item = (Day, SegmentName)> {
        let begins = self.floor.as_ref().map_or(SegmentSeq::FIRST, |floor| floor.seq);
        self.places.range(begins..).flat_map(|(_, places)| places.iter().copied())
    }

    /// Those of one number, also before the floor.
    pub fn places(&self, seq: SegmentSeq) -> &[(Day, SegmentName)] {
        self.places.get(&seq).map_or(&[], Vec::as_slice)
    }
}

/// All manifests under that day and later ones, also before the floor, in order of their numbers.
pub fn manifests(archive: &mut dyn Archive, from: Option<Day>) -> Result<Vec<(Day, SegmentName)>> {
    let mut manifests = Vec::new();
    let (days, _) = folders(archive)?;
    for day in days.into_iter().filter(|day| from.is_none_or(|from| *day >= from)) {
        let entries = archive.list(&ArchivePath::day(day))?;
        manifests.extend(entries.iter().filter_map(manifest).map(|name| (day, name)));
    }
    manifests.sort_by_key(|(_, name)| name.seq);
    Ok(manifests)
}

/// Those of that number and later ones, where it lies under that day. Of a large folder only these are asked for.
pub fn manifests_from(
    archive: &mut dyn Archive,
    (from, seq): (Day, SegmentSeq),
) -> Result<Vec<(Day, SegmentName)>> {
    let mut manifests = Vec::new();
    let (days, _) = folders(archive)?;
    for day in days.into_iter().filter(|day| *day >= from) {
        let folder = ArchivePath::day(day);
        // The names of its files begin with its number, and go on.
        let entries =
            if day == from { archive.list_after(&folder, &seq.to_string()) } else { archive.list(&folder) };
        manifests.extend(entries?.iter().filter_map(manifest).map(|name| (day, name)));
    }
    manifests.sort_by_key(|(_, name)| name.seq);
    Ok(manifests)
}

/// The folders of days, oldest first, and whatever else lies beside them.
pub fn folders(archive: &mut dyn Archive) -> Result<(Vec<Day>, Vec<Entry>)> {
    let (mut days, mut others) = (Vec::new(), Vec::new());
    for folder in archive.list(&ArchivePath::segments())? {
        match folder.name.parse::<Day>() {
            Ok(day) if folder.kind == EntryKind::Directory => days.push(day),
            _ => others.push(folder),
        }
    }
    Ok((days, others))
}

/// What an entry of a day's folder is to us. Links and folders with the names of files are nothing.
pub fn segment_file(entry: &Entry) -> Option<SegmentFile> {
    SegmentFile::parse(&entry.name).filter(|_| matches!(entry.kind, EntryKind::File | EntryKind::Rolled))
}

pub fn floor(archive: &mut dyn Archive) -> Result<Option<Floor>> {
    let bytes = small::read(archive, &ArchivePath::floor(), Document::Floor)?;
    bytes.map(|bytes| Floor::decode(&bytes)).transpose()
}

fn manifest(entry: &Entry) -> Option<SegmentName> {
    match segment_file(entry)? {
        SegmentFile::Manifest(name) => Some(name),
        SegmentFile::Changes(_) | SegmentFile::Signature(_) => None,
    }
}
