//! One roll-up: its segments checked as a chain while they are written into a tar, which is then published.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File, OpenOptions};
use std::io::{self, Cursor, Read, Write};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;
use std::sync::Arc;

use bytesize::ByteSize;
use syncdata_archive::{Archive, Facts, rollups, small};
use syncdata_formats::chain::{ChainTip, Verified};
use syncdata_formats::digest::{Digest, Hashing};
use syncdata_formats::document::{Document, FORMAT};
use syncdata_formats::error::{Context as _, Error, Kind, Result};
use syncdata_formats::layout::{ArchivePath, RollupName, SegmentName};
use syncdata_formats::manifest::{ChangeFile, Link, Manifest};
use syncdata_formats::rollup::{Member, Rollup};
use syncdata_formats::signature::SigningKey;
use syncdata_formats::tar;
use syncdata_formats::time::{Day, Timestamp};
use syncdata_service::{faults, own_files, small_file};

use crate::rollup::Terms;

/// What stands before a run in the chain and after it, where that is there.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Neighbours {
    before: Option<(Day, SegmentName)>,
    after: Option<SegmentName>,
}

pub(super) struct Packing {
    pub day: Day,
    pub run: Vec<SegmentName>,
    /// What is listed with a signature, so that nobody has to ask for each.
    pub signed: Arc<BTreeSet<SegmentName>>,
    pub neighbours: Neighbours,
    pub terms: Arc<Terms>,
}

impl Neighbours {
    pub(super) fn of(
        run: &[SegmentName],
        of_day: &BTreeMap<u64, SegmentName>,
        of_earlier: Option<(Day, SegmentName)>,
        day: Day,
    ) -> Neighbours {
        let (first, last) = (run[0].seq.get(), run[run.len() - 1].seq.get());
        let before = of_day.get(&(first - 1)).map(|name| (day, *name));
        Neighbours {
            before: before.or(of_earlier.filter(|(_, name)| name.seq.get() + 1 == first)),
            after: of_day.get(&(last + 1)).copied(),
        }
    }
}

/// So much of the backup host's disk is for segments alone: they cannot wait.
const ROOM_LEFT: u64 = 1 << 30;

/// A roll-up is there twice until what lies alone leaves.
fn leaves_room(archive: &mut dyn Archive, bytes: u64) -> Result<()> {
    match archive.room()? {
        Some(room) if room < bytes.saturating_add(ROOM_LEFT) => {
            let (room, bytes) = (ByteSize(room), ByteSize(bytes));
            Err(Error::new(
                Kind::NoSpace,
                format!("the backup host has {room} left, and the roll-up takes {bytes}"),
            )
            .hint("segments stay as they are; make room there, or have them leave (keep_singles)"))
        }
        _ => Ok(()),
    }
}

impl Packing {
    /// The tar, the signature, and last the manifest.
    pub(super) fn publish(&self, archive: &mut dyn Archive) -> Result<()> {
        let name = RollupName { first: self.run[0].seq, last: self.run[self.run.len() - 1].seq };
        let doing = || format!("rolling up the segments {} to {} of {}", name.first, name.last, self.day);
        let (mut file, rollup) = self.pack(archive, name).context(doing)?;
        faults::hit("rollup.packed")?;
        leaves_room(archive, rollup.bytes).context(doing)?;

        let facts = Facts { bytes: rollup.bytes, sha256: rollup.sha256 };
        let path = name.tar(self.day);
        match archive.put(&path, &mut file, facts) {
            // Without a manifest it is what a crash left.
            Err(error) if error.kind() == Kind::Conflict && !self.exists(archive, name)? => {
                archive.remove(&path)?;
                archive.put(&path, &mut file, facts)
            }
            put => put,
        }
        .context(doing)?;
        faults::hit("rollup.tar_there")?;

        let bytes = rollup.encode();
        if let Some(key) = &self.terms.signing_key {
            self.put_signature(archive, name, key, &bytes).context(doing)?;
        }
        small::put(archive, &name.manifest(self.day), Document::RollupManifest, &bytes).context(doing)?;
        faults::hit("rollup.manifest_there")
    }

    /// That of an attempt that did not get to its manifest signs another one.
    fn put_signature(
        &self,
        archive: &mut dyn Archive,
        name: RollupName,
        key: &SigningKey,
        manifest: &[u8],
    ) -> Result<()> {
        let path = name.signature(self.day);
        let signature = key.sign(manifest, &name.manifest_name())?;
        archive.remove(&path)?;
        small::put(archive, &path, Document::Signature, &signature)?;
        faults::hit("rollup.signature_there")
    }

    fn exists(&self, archive: &mut dyn Archive, name: RollupName) -> Result<bool> {
        Ok(rollups::list(archive, self.day)?.iter().any(|listed| listed.name == name))
    }

    fn pack(&self, archive: &mut dyn Archive, name: RollupName) -> Result<(File, Rollup)> {
        let mut tar = Tar::create(&self.terms.spool_dir, self.day)?;
        let mut files: Vec<(SegmentName, ChangeFile)> = Vec::new();
        let mut links: Vec<Link> = Vec::with_capacity(self.run.len());
        let mut tip = match self.neighbours.before {
            Some((day, before)) => {
                let bytes = manifest_bytes(archive, &self.terms, day, before)?;
                let link = Link { seq: before.seq, sha256: Digest::of(&bytes) };
                Some(ChainTip::after(self.terms.archive_id, link, before.end_lsn, day))
            }
            None => None,
        };
        for &segment in &self.run {
            let bytes = manifest_bytes(archive, &self.terms, self.day, segment)?;
            let start = match tip.take() {
                Some(tip) => tip,
                None => ChainTip::floor(self.terms.archive_id, Manifest::decode(&bytes)?.previous),
            };
            let verified = Verified::new(&start, self.day, segment, &bytes)?;
            tar.add(&segment.manifest(self.day), &bytes)?;
            self.add_signature(archive, segment, &bytes, &mut tar)?;
            links.extend(verified.tip().previous());
            files.extend(verified.manifest().file.clone().map(|file| (segment, file)));
            tip = Some(verified.tip());
        }
        if let (Some(after), Some(tip)) = (self.neighbours.after, tip) {
            let bytes = manifest_bytes(archive, &self.terms, self.day, after)?;
            Verified::new(&tip, self.day, after, &bytes)?;
        }
        for (segment, file) in &files {
            self.add_changes(archive, *segment, file, &mut tar)?;
        }
        let (first, last) = (links[0], links[links.len() - 1]);
        let (file, bytes, sha256, files) = tar.finish()?;
        let rollup = Rollup {
            format: FORMAT,
            archive_id: self.terms.archive_id,
            day: self.day,
            first,
            last,
            file: name.tar_name(),
            bytes,
            sha256,
            files,
            created_at: Timestamp::now().to_second(),
            archiver: env!("CARGO_PKG_VERSION").to_owned(),
        };
        Ok((file, rollup))
    }

    fn add_signature(
        &self,
        archive: &mut dyn Archive,
        segment: SegmentName,
        manifest: &[u8],
        tar: &mut Tar,
    ) -> Result<()> {
        if !self.signed.contains(&segment) {
            return Ok(());
        }
        let path = segment.signature(self.day);
        let Some(signature) = document(archive, &self.terms, &path, Document::Signature)? else {
            return Ok(());
        };
        if let Some(key) = &self.terms.signing_key {
            key.verify_key().verify(manifest, &segment.manifest_name(), &signature)?;
        }
        tar.add(&path, &signature)
    }

    fn add_changes(
        &self,
        archive: &mut dyn Archive,
        segment: SegmentName,
        file: &ChangeFile,
        tar: &mut Tar,
    ) -> Result<()> {
        let path = segment.file(self.day);
        let spooled = self.terms.spool_dir.join(path.as_str());
        tar.add_from(&path, file.bytes, file.sha256, |into| {
            if spooled.exists() {
                let opened = own_files::read_plain(&spooled)?;
                io::copy(&mut opened.take(file.bytes + 1), into)
                    .context(|| format!("reading {}", spooled.display()))?;
                return Ok(());
            }
            archive.read_part(&path, 0, file.bytes + 1, into).map(drop)
        })
    }
}

pub(super) fn manifest(
    archive: &mut dyn Archive,
    terms: &Terms,
    day: Day,
    segment: SegmentName,
) -> Result<Manifest> {
    let bytes = manifest_bytes(archive, terms, day, segment)?;
    Manifest::decode(&bytes).context(|| format!("reading {}", segment.manifest(day)))
}

fn manifest_bytes(
    archive: &mut dyn Archive,
    terms: &Terms,
    day: Day,
    segment: SegmentName,
) -> Result<Vec<u8>> {
    let path = segment.manifest(day);
    document(archive, terms, &path, Document::Manifest)?
        .ok_or_else(|| Error::new(Kind::NotFound, format!("{path} was listed but is not there")))
}

/// What the spool still has need not be fetched.
fn document(
    archive: &mut dyn Archive,
    terms: &Terms,
    path: &ArchivePath,
    document: Document,
) -> Result<Option<Vec<u8>>> {
    let spooled = terms.spool_dir.join(path.as_str());
    match small_file::read_own_if_there(&spooled, document.bytes_max())? {
        Some(bytes) => Ok(Some(bytes)),
        None => small::read(archive, path, document),
    }
}

/// A tar that is being written to this host's disk.
struct Tar {
    into: Hashing<File>,
    day: Day,
    members: Vec<Member>,
}

impl Tar {
    /// Its file has no name, so that no crash leaves it.
    fn create(spool_dir: &Path, day: Day) -> Result<Tar> {
        let path = spool_dir.join("rollup.part");
        let doing = || format!("creating {}", path.display());
        match fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error).context(doing),
            _ => {}
        }
        let mut options = OpenOptions::new();
        let file = options.read(true).write(true).create_new(true).mode(0o600).open(&path).context(doing)?;
        fs::remove_file(&path).context(doing)?;
        Ok(Tar { into: Hashing::new(file), day, members: Vec::new() })
    }

    fn add(&mut self, path: &ArchivePath, bytes: &[u8]) -> Result<()> {
        let pour = |into: &mut dyn Write| {
            io::copy(&mut Cursor::new(bytes), into).context(|| format!("keeping {path}")).map(drop)
        };
        self.add_from(path, bytes.len() as u64, Digest::of(bytes), pour)
    }

    /// Of so many bytes with that digest, or it fails.
    fn add_from(
        &mut self,
        path: &ArchivePath,
        bytes: u64,
        sha256: Digest,
        pour: impl FnOnce(&mut dyn Write) -> Result<()>,
    ) -> Result<()> {
        let writing = || format!("writing a roll-up with {path}");
        if bytes > tar::FILE_BYTES_MAX {
            return Err(Error::new(Kind::BadInput, format!("{path} is too large for a tar")));
        }
        self.into.write_all(&tar::header(path.as_str(), bytes, self.day.start())).context(writing)?;
        let mut counted = Hashing::new(&mut self.into);
        pour(&mut counted)?;
        let (_, found, count) = counted.finish();
        if (count, found) != (bytes, sha256) {
            let message =
                format!("{path} is not what its manifest says: it has {count} bytes with SHA-256 {found}");
            return Err(Error::new(Kind::Corrupt, message)
                .hint("run `syncdata-archiver verify`, and bring it back from a sound copy"));
        }
        let padding = usize::try_from(tar::padding(bytes)).expect("less than a block");
        self.into.write_all(&vec![0; padding]).context(writing)?;
        self.members.push(Member { name: path.file_name().to_owned(), bytes, sha256 });
        Ok(())
    }

    fn finish(mut self) -> Result<(File, u64, Digest, Vec<Member>)> {
        let end = [0; tar::END_BYTES as usize];
        self.into.write_all(&end).context(|| "writing a roll-up".to_owned())?;
        let (file, sha256, bytes) = self.into.finish();
        Ok((file, bytes, sha256, self.members))
    }
}
