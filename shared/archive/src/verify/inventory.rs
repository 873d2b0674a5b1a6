//! What lies in an archive: one listing of every day's folder.

use std::collections::BTreeMap;

use super::range::Range;
use super::report::{Report, Verdict};
use crate::{Archive, EntryKind, listing};
use syncdata_formats::document::Document;
use syncdata_formats::error::Result;
use syncdata_formats::floor::Floor;
use syncdata_formats::head::Head;
use syncdata_formats::layout::{ArchivePath, SegmentFile, SegmentName, SegmentSeq};
use syncdata_formats::time::Day;

/// Segments by their manifests.
#[derive(Debug, Default)]
pub(super) struct Inventory {
    pub manifests: BTreeMap<SegmentSeq, Listed>,
    /// Change files alone, by number.
    pub without_manifest: BTreeMap<u64, ArchivePath>,
    pub floor: Option<Floor>,
    /// The largest number of any manifest that was seen, in the range or not.
    newest_seen: u64,
}

#[derive(Clone, Copy, Debug)]
pub(super) struct Listed {
    pub day: Day,
    pub name: SegmentName,
    /// The change file's size, if there is one.
    pub changes: Option<u64>,
    pub is_signed: bool,
}

impl Inventory {
    /// `.part` files and files without a manifest are notes: a crash leaves them, and they do not exist.
    pub(super) fn take(archive: &mut dyn Archive, range: &Range, report: &mut Report) -> Result<Inventory> {
        let floor = super::small_file(archive, &ArchivePath::floor(), Document::Floor, report)?;
        let mut inventory = Inventory::default();
        match floor.map(|bytes| Floor::decode(&bytes)).transpose() {
            Ok(floor) => inventory.floor = floor,
            Err(error) => report.error(Verdict::Damaged, None, "floor.json", &error),
        }
        let (days, others) = listing::folders(archive)?;
        for other in others {
            report.note(format!("segments/{} is not ours", other.name));
        }
        for day in days.into_iter().filter(|day| range.may_lie_in(*day)) {
            inventory.take_day(archive, day, range, report)?;
        }
        Ok(inventory)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.manifests.is_empty()
    }

    pub(super) fn is_pruned(&self, seq: SegmentSeq) -> bool {
        self.floor.as_ref().is_some_and(|floor| seq < floor.seq)
    }

    pub(super) fn newest(&self) -> Option<SegmentSeq> {
        self.manifests.keys().next_back().copied()
    }

    /// Up to this number every segment must have been here: of the newest that is here, or that head.json names.
    pub(super) fn known_end(&self, head: Option<&Head>) -> u64 {
        let named = head.and_then(|head| head.newest).map_or(0, |newest| newest.name.seq.get());
        self.newest_seen.max(named)
    }

    pub(super) fn newest_seen(&self) -> u64 {
        self.newest_seen
    }

    fn take_day(
        &mut self,
        archive: &mut dyn Archive,
        day: Day,
        range: &Range,
        report: &mut Report,
    ) -> Result<()> {
        let mut changes = BTreeMap::new();
        let mut signatures = Vec::new();
        for entry in archive.list(&ArchivePath::day(day))? {
            let path = format!("segments/{day}/{}", entry.name);
            match listing::segment_file(&entry) {
                // In a roll-up of which a part is pruned.
                Some(file) if entry.kind == EntryKind::Rolled && self.is_pruned(file.segment().seq) => {}
                Some(SegmentFile::Manifest(name)) => self.add(day, name, range, report),
                Some(SegmentFile::Changes(name)) => drop(changes.insert(name, entry.bytes)),
                Some(SegmentFile::Signature(name)) => signatures.push(name),
                None if entry.name.ends_with(".part") => {
                    report.note(format!("{path} is the rest of an upload"))
                }
                None if SegmentFile::parse(&entry.name).is_some() => {
                    report.note(format!("{path} has the name of a file and is none: it is not looked into"));
                }
                None => report.note(format!("{path} is not ours")),
            }
        }
        for (name, bytes) in changes {
            match self.manifests.get_mut(&name.seq).filter(|listed| listed.name == name && listed.day == day)
            {
                Some(listed) => listed.changes = Some(bytes),
                None if range.may_have(name.seq) => {
                    let path = name.file(day);
                    report.note(format!("{path} has no manifest: it does not exist, or not yet"));
                    self.without_manifest.insert(name.seq.get(), path);
                }
                None => {}
            }
        }
        for name in signatures {
            match self.manifests.get_mut(&name.seq).filter(|listed| listed.name == name && listed.day == day)
            {
                Some(listed) => listed.is_signed = true,
                None if range.may_have(name.seq) => {
                    report.note(format!("{} signs a manifest that is not there", name.signature(day)));
                }
                None => {}
            }
        }
        Ok(())
    }

    fn add(&mut self, day: Day, name: SegmentName, range: &Range, report: &mut Report) {
        self.newest_seen = self.newest_seen.max(name.seq.get());
        if self.is_pruned(name.seq) {
            report.note(format!("{} lies before the floor: a prune was interrupted", name.manifest(day)));
        } else if range.may_have(name.seq) {
            let listed = Listed { day, name, changes: None, is_signed: false };
            if let Some(other) = self.manifests.insert(name.seq, listed) {
                let what =
                    format!("there is another segment of that number: {}", other.name.manifest(other.day));
                report.problem(Verdict::Foreign, Some(name.seq.get()), name.manifest(day).as_str(), what);
            }
        }
    }
}
