//! The files of one segment on their way to the archive.

use std::fs::File;

use syncdata_archive::{Archive, Entry, EntryKind, Facts, small};
use syncdata_formats::digest::Digest;
use syncdata_formats::document::Document;
use syncdata_formats::error::Context as _;
use syncdata_formats::layout::{ArchivePath, SegmentName, SegmentSeq};
use syncdata_formats::manifest::Manifest;
use syncdata_formats::{Kind, Result};
use syncdata_service::{faults, own_files, small_file};
use tracing::warn;

use crate::ship::files::digest_of;
use crate::spool::{Spool, Spooled};

/// All that the spool has to give is at hand before the backup host is asked.
pub(super) struct Parcel {
    name: SegmentName,
    manifest: Vec<u8>,
    manifest_path: ArchivePath,
    signature: Option<(ArchivePath, Vec<u8>)>,
    changes: Option<(ArchivePath, File, Facts)>,
}

impl Parcel {
    pub(super) fn pack(spool: &Spool, segment: &Spooled) -> Result<Parcel> {
        let (name, day) = (segment.name, segment.day);
        let manifest = spool.manifest_bytes(segment)?;
        let signature = spool.path(&name.signature(day));
        let described =
            Manifest::decode(&manifest).context(|| format!("reading {} in the spool", name.manifest(day)))?;
        let changes = described.file.map(|file| {
            let facts = Facts { bytes: file.bytes, sha256: file.sha256 };
            let path = spool.path(&name.file(day));
            let opened = own_files::read_plain(&path);
            opened.map(|opened| (name.file(day), opened, facts))
        });
        let signature = small_file::read_own_if_there(&signature, Document::Signature.bytes_max())?
            .map(|bytes| (name.signature(day), bytes));
        let manifest_path = name.manifest(day);
        Ok(Parcel { name, manifest, manifest_path, signature, changes: changes.transpose()? })
    }

    pub(super) fn seq(&self) -> SegmentSeq {
        self.name.seq
    }

    /// A power cut between rename and sync can leave a torn file under its final name, and it is ours to replace;
    /// a sound manifest of somebody else is not.
    pub(super) fn deliver(mut self, archive: &mut dyn Archive) -> Result<()> {
        match self.send(archive) {
            Err(error) if error.kind() == Kind::Conflict => {
                let there = small::read(archive, &self.manifest_path, Document::Manifest)?;
                if there.is_some_and(|bytes| bytes != self.manifest && Manifest::decode(&bytes).is_ok()) {
                    return Err(error.hint("another archiver writes to this archive: stop one of them"));
                }
                warn!(segment = %self.name.seq, "the backup host holds a torn file, sending the segment again");
                self.replace(archive)
            }
            done => done,
        }
    }

    fn send(&mut self, archive: &mut dyn Archive) -> Result<()> {
        let seq = self.name.seq;
        let doing = || format!("shipping segment {seq}");
        if let Some((path, file, facts)) = &mut self.changes {
            archive.put(path, file, *facts).context(doing)?;
        }
        faults::hit("ship.changes_there")?;
        if let Some((path, bytes)) = &self.signature {
            small::put(archive, path, Document::Signature, bytes).context(doing)?;
        }
        small::put(archive, &self.manifest_path, Document::Manifest, &self.manifest).context(doing)?;
        faults::hit("ship.manifest_there")
    }

    pub(super) fn is_listed_whole(&self, entries: &[Entry]) -> bool {
        let has = |name: &str, bytes: u64| {
            entries
                .iter()
                .filter(|entry| matches!(entry.kind, EntryKind::File | EntryKind::Rolled))
                .any(|entry| entry.name == name && entry.bytes == bytes)
        };
        let changes = self.changes.as_ref().is_none_or(|(path, _, facts)| has(path.file_name(), facts.bytes));
        let signature = self.signature.as_ref();
        let signed = signature.is_none_or(|(path, bytes)| has(path.file_name(), bytes.len() as u64));
        changes && signed && has(self.manifest_path.file_name(), self.manifest.len() as u64)
    }

    /// Reads all its files back from the archive: whether they are there as they should be.
    pub(super) fn is_there(&self, archive: &mut dyn Archive) -> Result<bool> {
        let mut same = digest_of(archive, &self.manifest_path)? == Some(Digest::of(&self.manifest));
        if let Some((path, _, facts)) = &self.changes {
            same = same && digest_of(archive, path)? == Some(facts.sha256);
        }
        if let Some((path, bytes)) = &self.signature {
            same = same && digest_of(archive, path)? == Some(Digest::of(bytes));
        }
        Ok(same)
    }

    /// Ours to replace: the spool has what the manifest promises, the backup host has something else.
    pub(super) fn replace(&mut self, archive: &mut dyn Archive) -> Result<()> {
        archive.remove(&self.manifest_path)?;
        if let Some((path, _)) = &self.signature {
            archive.remove(path)?;
        }
        if let Some((path, _, _)) = &self.changes {
            archive.remove(path)?;
        }
        self.send(archive)
    }
}
