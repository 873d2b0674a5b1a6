//! What lies in an archive, as far as pruning asks.

use std::collections::{BTreeMap, BTreeSet};

use syncdata_archive::snapshots::{self, Files, has_manifest};
use syncdata_archive::{Archive, Entry, EntryKind, listing, proofs, rollups, small};
use syncdata_formats::ack::{Ack, AckName};
use syncdata_formats::digest::Digest;
use syncdata_formats::document::Document;
use syncdata_formats::error::{Context as _, Error, Kind, Result};
use syncdata_formats::floor::Floor;
use syncdata_formats::layout::{ArchivePath, SegmentFile, SegmentName, SegmentSeq};
use syncdata_formats::lsn::Lsn;
use syncdata_formats::manifest::Manifest;
use syncdata_formats::name::TableName;
use syncdata_formats::signature::VerifyKey;
use syncdata_formats::snapshot::SnapshotId;
use syncdata_formats::time::Day;
use uuid::Uuid;

#[derive(Clone, Debug, Default)]
pub(crate) struct Inventory {
    pub floor: Option<Floor>,
    /// By day, then by name: manifests, signatures, change files, and parts of uploads.
    pub days: BTreeMap<Day, Vec<SegmentEntry>>,
    /// By day: what lies in the folders of roll-ups.
    pub rollups: BTreeMap<Day, Vec<Entry>>,
    pub snapshots: BTreeMap<SnapshotId, Folder>,
    pub acks: Vec<Ack>,
    /// Where proofs speak of tables: what differs there is rebuilt from a copy that is older.
    pub proofs: Vec<(Lsn, BTreeSet<TableName>)>,
    /// What could not be read, in words.
    pub troubles: Vec<String>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct SegmentEntry {
    pub file_name: String,
    pub bytes: u64,
    /// `None` when the file is not one of ours.
    pub segment: Option<SegmentName>,
    pub is_manifest: bool,
    /// False: it is only in a roll-up.
    pub is_alone: bool,
}

/// A snapshot's folder.
#[derive(Clone, Debug, Default)]
pub(crate) struct Folder {
    pub entries: Vec<Entry>,
    pub copy: Copy,
}

#[derive(Clone, Debug, Default)]
pub(crate) enum Copy {
    /// Without a manifest: interrupted, or pruned.
    #[default]
    None,
    /// Its manifest cannot be read: nobody knows which files it needs.
    Unreadable,
    Known {
        tables: BTreeSet<TableName>,
        /// Paths below `snapshots/`, its own and those of earlier snapshots.
        files: BTreeSet<String>,
        is_complete: bool,
    },
}

impl Inventory {
    /// One that cannot be read is of no use to anybody, and needs nothing.
    fn read_proofs(
        &mut self,
        archive: &mut dyn Archive,
        archive_id: Uuid,
        verify_key: Option<&VerifyKey>,
    ) -> Result<()> {
        for (id, entries) in proofs::file_names(archive)? {
            if !proofs::has_manifest(&entries) {
                continue;
            }
            match proofs::read(archive, &id, Some(archive_id), verify_key) {
                Ok(Some(proof)) => {
                    self.proofs.push((proof.cut.end_lsn, proof.tables.into_keys().collect()));
                }
                Ok(None) => {}
                Err(error) if error.kind() == Kind::Unreachable => return Err(error),
                Err(error) => self.troubles.push(error.one_line()),
            }
        }
        Ok(())
    }

    /// Of the archive that is ours. What it says of itself is believed only where its manifests prove it.
    pub(crate) fn read(
        archive: &mut dyn Archive,
        archive_id: Uuid,
        verify_key: Option<&VerifyKey>,
    ) -> Result<Inventory> {
        let mut inventory = Inventory::default();
        let (days, _) = listing::folders(archive)?;
        for day in days {
            let entries = archive.list(&ArchivePath::day(day))?;
            inventory.days.insert(day, entries.into_iter().map(SegmentEntry::of).collect());
        }
        for day in rollups::folders(archive)?.0 {
            inventory.rollups.insert(day, archive.list(&ArchivePath::rollups_of(day))?);
        }
        inventory.floor = listing::floor(archive)?;
        inventory.check_floor(archive, archive_id)?;
        inventory.read_snapshots(archive, archive_id, verify_key)?;
        inventory.read_acks(archive)?;
        inventory.read_proofs(archive, archive_id, verify_key)?;
        Ok(inventory)
    }

    /// What one day has, and the segments of the day after it.
    pub(super) fn of_day(archive: &mut dyn Archive, day: Day, next: Option<Day>) -> Result<Inventory> {
        let mut inventory = Inventory::default();
        for day in [Some(day), next].into_iter().flatten() {
            let entries = archive.list(&ArchivePath::day(day))?;
            inventory.days.insert(day, entries.into_iter().map(SegmentEntry::of).collect());
        }
        inventory.rollups.insert(day, archive.list(&ArchivePath::rollups_of(day))?);
        Ok(inventory)
    }

    /// A wrong one would have whole archives removed, and readers believe it too.
    fn check_floor(&self, archive: &mut dyn Archive, archive_id: Uuid) -> Result<()> {
        let Some(floor) = &self.floor else { return Ok(()) };
        let problem = if floor.archive_id != archive_id {
            format!("is that of archive {}", floor.archive_id)
        } else {
            match self.manifest(archive, floor.seq, archive_id)? {
                Some((manifest, _)) if manifest.previous == floor.previous => return Ok(()),
                Some(_) => {
                    format!("names another segment before segment {} than that itself does", floor.seq.get())
                }
                None => {
                    format!(
                        "says that the archive begins with segment {}, which is not there",
                        floor.seq.get()
                    )
                }
            }
        };
        let hint = match self.has(SegmentSeq::FIRST) {
            true => "the archive begins with segment 1: remove floor.json, then prune again",
            false => "bring back the floor.json that the last prune wrote, from a copy of the archive",
        };
        Err(Error::new(Kind::Foreign, format!("floor.json {problem}: nothing was pruned")).hint(hint))
    }

    fn has(&self, seq: SegmentSeq) -> bool {
        self.find(seq).is_some()
    }

    /// Every segment that has a manifest, and the day that it lies under.
    pub(super) fn segments(&self) -> impl Iterator<Item = (Day, SegmentName)> {
        self.days.iter().flat_map(|(day, entries)| {
            let manifests = entries.iter().filter(|entry| entry.is_manifest);
            manifests.filter_map(|entry| Some((*day, entry.segment?)))
        })
    }

    fn find(&self, seq: SegmentSeq) -> Option<(Day, SegmentName)> {
        self.days.iter().find_map(|(day, entries)| {
            let is_it = |entry: &&SegmentEntry| {
                entry.is_manifest && entry.segment.is_some_and(|name| name.seq == seq)
            };
            Some((*day, entries.iter().find(is_it)?.segment?))
        })
    }

    /// The manifest of a segment, which must be of this archive, and its SHA-256. `None` when it is not there.
    pub(super) fn manifest(
        &self,
        archive: &mut dyn Archive,
        seq: SegmentSeq,
        archive_id: Uuid,
    ) -> Result<Option<(Manifest, Digest)>> {
        let Some((day, name)) = self.find(seq) else { return Ok(None) };
        let path = name.manifest(day);
        let Some(bytes) = small::read(archive, &path, Document::Manifest)? else { return Ok(None) };
        let manifest = Manifest::decode(&bytes).context(|| format!("reading {path}"))?;
        if manifest.name() != name || manifest.archive_id != archive_id {
            let message = format!("{path} is not a manifest of this archive under its own name");
            return Err(Error::new(Kind::Foreign, message));
        }
        Ok(Some((manifest, Digest::of(&bytes))))
    }

    fn read_snapshots(
        &mut self,
        archive: &mut dyn Archive,
        archive_id: Uuid,
        verify_key: Option<&VerifyKey>,
    ) -> Result<()> {
        let listed = snapshots::file_names(archive)?;
        let there = Files::of(&listed);
        for (id, entries) in listed {
            let copy = match has_manifest(&entries).then(|| snapshots::read(archive, &id, verify_key)) {
                None => Copy::None,
                Some(Ok(manifest)) if manifest.archive_id != archive_id => {
                    self.troubles.push(format!("snapshot {id} is that of archive {}", manifest.archive_id));
                    Copy::Unreadable
                }
                Some(Ok(manifest)) => Copy::Known {
                    tables: manifest.tables.keys().cloned().collect(),
                    files: manifest.files().map(|file| file.file.clone()).collect(),
                    is_complete: manifest.files().all(|file| there.has(file)),
                },
                Some(Err(error)) if matches!(error.kind(), Kind::Unreachable | Kind::Io) => {
                    return Err(error);
                }
                Some(Err(error)) => {
                    self.troubles.push(error.one_line());
                    Copy::Unreadable
                }
            };
            self.snapshots.insert(id, Folder { entries, copy });
        }
        Ok(())
    }

    fn read_acks(&mut self, archive: &mut dyn Archive) -> Result<()> {
        for entry in archive.list(&ArchivePath::acks())? {
            let Some(name) = AckName::of_file(&entry.name).filter(|_| entry.kind == EntryKind::File) else {
                continue;
            };
            let path = name.path();
            let bytes = match small::read(archive, &path, Document::Ack) {
                Ok(bytes) => bytes.unwrap_or_default(),
                Err(error) if error.kind() == Kind::Corrupt => {
                    self.troubles.push(error.one_line());
                    continue;
                }
                Err(error) => return Err(error),
            };
            match Ack::decode(&bytes) {
                Ok(ack) if ack.name == name => self.acks.push(ack),
                Ok(ack) => self.troubles.push(format!("{path} is the report of {}", ack.name)),
                // Readers write it: a torn one is replaced soon.
                Err(error) => self.troubles.push(format!("{path}: {}", error.one_line())),
            }
        }
        Ok(())
    }
}

impl SegmentEntry {
    fn of(entry: Entry) -> SegmentEntry {
        let whole_name = entry.name.strip_suffix(".part").unwrap_or(&entry.name);
        let file = SegmentFile::parse(whole_name)
            .filter(|_| matches!(entry.kind, EntryKind::File | EntryKind::Rolled));
        let is_manifest = matches!(file, Some(SegmentFile::Manifest(_))) && whole_name == entry.name;
        SegmentEntry {
            bytes: entry.bytes,
            segment: file.map(SegmentFile::segment),
            is_manifest,
            is_alone: entry.kind != EntryKind::Rolled,
            file_name: entry.name,
        }
    }
}
