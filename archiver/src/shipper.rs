//! From the spool to the backup host: change file, signature, manifest, and last the head.
//!
//! Everything here may be done twice. What the backup host has already is left alone when it is the same, and
//! stops us when it is not; what it lost since is sent again while the spool still has it.

use std::fs::File;
use std::io::Cursor;
use std::path::PathBuf;

use syncdata_shared::archive::{Archive, ArchiveHandle, Entry, EntryKind, Facts, Put};
use syncdata_shared::chain::{ChainTip, Verified};
use syncdata_shared::digest::{Digest, Hashing};
use syncdata_shared::error::Context as _;
use syncdata_shared::faults;
use syncdata_shared::head::{Head, Newest};
use syncdata_shared::identity::ArchiveIdentity;
use syncdata_shared::layout::{ArchivePath, SegmentFile, SegmentName};
use syncdata_shared::manifest::{Link, Manifest};
use syncdata_shared::time::{Day, Timestamp};
use syncdata_shared::{Error, Kind, Result};
use tracing::{info, warn};

use crate::home::missing_behind_head;
use crate::spool::{Last, Spool, Spooled, State, Tip};

/// The archive as its only writer uses it.
#[derive(Clone, Debug)]
pub(crate) struct Shipper {
    archive: ArchiveHandle,
}

/// Files of one segment, on the way.
struct Parcel {
    name: SegmentName,
    manifest: Vec<u8>,
    manifest_path: ArchivePath,
    signature: Option<(ArchivePath, PathBuf)>,
    changes: Option<(ArchivePath, PathBuf, Facts)>,
}

impl Shipper {
    pub(crate) fn new(archive: ArchiveHandle) -> Shipper {
        Shipper { archive }
    }

    pub(crate) fn location(&self) -> &str {
        self.archive.location()
    }

    /// Who owns the archive; `None` when nobody does yet.
    pub(crate) async fn identity(&self) -> Result<Option<ArchiveIdentity>> {
        self.archive
            .run(|archive| {
                let bytes = read_small(archive, &ArchivePath::identity(), ArchiveIdentity::BYTES_MAX)?;
                bytes.map(|bytes| ArchiveIdentity::decode(&bytes)).transpose()
            })
            .await
    }

    pub(crate) async fn found(&self, identity: ArchiveIdentity) -> Result<()> {
        self.archive
            .run(move |archive| put_bytes(archive, &ArchivePath::identity(), &identity.encode()))
            .await
    }

    /// The end of the chain as it lies on the backup host; `None` without a segment.
    pub(crate) async fn tip(&self, archive_id: uuid::Uuid) -> Result<Option<(Tip, Option<Head>)>> {
        self.archive.run(move |archive| find_tip(archive, archive_id)).await
    }

    /// The names of all manifests from a day on, in order of their numbers.
    pub(crate) async fn list(&self, from: Option<Day>) -> Result<Vec<(Day, SegmentName)>> {
        self.archive.run(move |archive| list_manifests(archive, from)).await
    }

    /// Those segments, which must go on where `tip` ends.
    pub(crate) async fn read(
        &self,
        mut tip: ChainTip,
        names: Vec<(Day, SegmentName)>,
    ) -> Result<Vec<Verified>> {
        self.archive
            .run(move |archive| {
                let mut found = Vec::new();
                for (day, name) in names {
                    let bytes = read_manifest(archive, day, name)?;
                    let verified = Verified::new(&tip, day, name, &bytes)?;
                    tip = verified.tip();
                    found.push(verified);
                }
                Ok(found)
            })
            .await
    }

    /// `None` also when it cannot be made out: a torn head is as good as a missing one.
    pub(crate) async fn head(&self) -> Result<Option<Head>> {
        self.archive.run(read_head).await
    }

    /// Sends what the backup host does not have, oldest first; the number of segments sent. What was sent before
    /// an error stays sent.
    pub(crate) async fn ship(&self, spool: &mut Spool) -> Result<u64> {
        let waiting: Vec<Spooled> = spool.unshipped().cloned().collect();
        let mut sent = 0;
        for segment in waiting {
            let parcel = Parcel::pack(spool, &segment)?;
            self.archive.run(move |archive| parcel.deliver(archive)).await?;
            spool.mark_shipped(segment.name.seq, Timestamp::now())?;
            faults::hit("ship.marked")?;
            info!(segment = %segment.name.seq, lsn = %segment.name.end_lsn, bytes = segment.bytes, "segment shipped");
            sent += 1;
        }
        Ok(sent)
    }

    /// Looks at what the backup host holds of the segments that the spool still has, and sends again what is
    /// missing or cut; of the newest also the content, since that is what a power cut takes.
    pub(crate) async fn look_back(&self, spool: &Spool) -> Result<()> {
        let shipped = spool.state().shipped;
        let held: Vec<Spooled> = spool.segments().filter(|s| s.name.seq.get() <= shipped).cloned().collect();
        let Some(newest) = held.last().map(|segment| segment.name) else { return Ok(()) };
        let mut listed: Option<(Day, Vec<Entry>)> = None;
        for segment in held {
            let day = segment.day;
            let entries = match &listed {
                Some((of, entries)) if *of == day => entries,
                _ => {
                    let entries =
                        self.archive.run(move |archive| archive.list(&ArchivePath::day(day))).await?;
                    &listed.insert((day, entries)).1
                }
            };
            let parcel = Parcel::pack(spool, &segment)?;
            let whole = parcel.is_listed_whole(entries);
            let read_back = segment.name == newest;
            self.archive
                .run(move |archive| {
                    if !whole || read_back && !parcel.is_there(archive)? {
                        warn!(segment = %parcel.name.seq, "the backup host lost a segment, sending it again");
                        parcel.replace(archive)?;
                    }
                    Ok(())
                })
                .await?;
        }
        Ok(())
    }

    /// The heartbeat: what the archive holds now, and until when.
    pub(crate) async fn publish_head(&self, state: &State) -> Result<()> {
        let newest = state.tip.last.map(|last| Newest {
            day: last.day,
            name: SegmentName { seq: last.segment.seq, end_lsn: state.tip.end_lsn },
            sha256: last.segment.sha256,
        });
        let head = Head {
            archive_id: state.archive_id,
            newest,
            covered_lsn: state.covered_lsn,
            covered_at: state.covered_at,
            archiver: env!("CARGO_PKG_VERSION").to_owned(),
        };
        faults::hit("ship.before_head")?;
        self.archive.run(move |archive| archive.replace(&ArchivePath::head(), &head.encode())).await?;
        faults::hit("ship.after_head")
    }
}

impl Parcel {
    fn pack(spool: &Spool, segment: &Spooled) -> Result<Parcel> {
        let (name, day) = (segment.name, segment.day);
        let manifest = spool.manifest_bytes(segment)?;
        let signature = spool.path(&name.signature(day));
        let described =
            Manifest::decode(&manifest).context(|| format!("reading {} in the spool", name.manifest(day)))?;
        let changes = described.file.map(|file| {
            let facts = Facts { bytes: file.bytes, sha256: file.sha256 };
            (name.file(day), spool.path(&name.file(day)), facts)
        });
        Ok(Parcel {
            name,
            manifest,
            manifest_path: name.manifest(day),
            signature: signature.exists().then(|| (name.signature(day), signature)),
            changes,
        })
    }

    /// A power cut between rename and sync can leave a torn file under its final name, and it is ours to replace;
    /// a sound manifest of somebody else is not.
    fn deliver(&self, archive: &mut dyn Archive) -> Result<()> {
        match self.send(archive) {
            Err(error) if error.kind() == Kind::Conflict => {
                let there = read_small(archive, &self.manifest_path, Manifest::BYTES_MAX)?;
                if there.is_some_and(|bytes| bytes != self.manifest && Manifest::decode(&bytes).is_ok()) {
                    return Err(error.hint("another archiver writes to this archive: stop one of them"));
                }
                warn!(segment = %self.name.seq, "the backup host holds a torn file, sending the segment again");
                self.replace(archive)
            }
            done => done,
        }
    }

    fn send(&self, archive: &mut dyn Archive) -> Result<()> {
        let doing = || format!("shipping segment {}", self.name.seq);
        if let Some((path, from, facts)) = &self.changes {
            let mut file = File::open(from).context(|| format!("opening {}", from.display()))?;
            archive.put(path, &mut file, *facts).context(doing)?;
        }
        faults::hit("ship.changes_there")?;
        if let Some((path, from)) = &self.signature {
            let bytes = std::fs::read(from).context(|| format!("reading {}", from.display()))?;
            put_bytes(archive, path, &bytes).context(doing)?;
        }
        put_bytes(archive, &self.manifest_path, &self.manifest).context(doing)?;
        faults::hit("ship.manifest_there")
    }

    fn is_listed_whole(&self, entries: &[Entry]) -> bool {
        let has = |name: &str, bytes: u64| {
            entries
                .iter()
                .any(|entry| entry.kind == EntryKind::File && entry.name == name && entry.bytes == bytes)
        };
        let changes = self.changes.as_ref().is_none_or(|(path, _, facts)| has(path.file_name(), facts.bytes));
        changes && has(self.manifest_path.file_name(), self.manifest.len() as u64)
    }

    /// Reads it back.
    fn is_there(&self, archive: &mut dyn Archive) -> Result<bool> {
        let mut same = digest_of(archive, &self.manifest_path)? == Some(Digest::of(&self.manifest));
        if let Some((path, _, facts)) = &self.changes {
            same = same && digest_of(archive, path)? == Some(facts.sha256);
        }
        Ok(same)
    }

    /// Ours to replace: the spool has what the manifest promises, the backup host has something else.
    fn replace(&self, archive: &mut dyn Archive) -> Result<()> {
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

fn put_bytes(archive: &mut dyn Archive, path: &ArchivePath, bytes: &[u8]) -> Result<()> {
    let facts = Facts { bytes: bytes.len() as u64, sha256: Digest::of(bytes) };
    match archive.put(path, &mut Cursor::new(bytes), facts)? {
        Put::Written | Put::AlreadyThere => Ok(()),
    }
}

fn digest_of(archive: &mut dyn Archive, path: &ArchivePath) -> Result<Option<Digest>> {
    let mut hashing = Hashing::new(std::io::sink());
    match archive.read(path, 0, &mut hashing) {
        Ok(_) => Ok(Some(hashing.finish().1)),
        Err(error) if error.kind() == Kind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// A whole small file; `None` when there is none.
fn read_small(archive: &mut dyn Archive, path: &ArchivePath, bytes_max: usize) -> Result<Option<Vec<u8>>> {
    let Some(entry) = archive.stat(path)? else { return Ok(None) };
    if entry.kind != EntryKind::File || entry.bytes > bytes_max as u64 {
        let message = format!("{path} on {} is not a file of at most {bytes_max} bytes", archive.location());
        return Err(Error::new(Kind::Corrupt, message));
    }
    let mut bytes = Vec::new();
    match archive.read(path, 0, &mut bytes) {
        Ok(_) => Ok(Some(bytes)),
        Err(error) if error.kind() == Kind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

fn read_manifest(archive: &mut dyn Archive, day: Day, name: SegmentName) -> Result<Vec<u8>> {
    let path = name.manifest(day);
    read_small(archive, &path, Manifest::BYTES_MAX)?
        .ok_or_else(|| Error::new(Kind::NotFound, format!("{path} was listed but is not there")))
}

/// All manifests from a day on, in order of their numbers.
fn list_manifests(archive: &mut dyn Archive, from: Option<Day>) -> Result<Vec<(Day, SegmentName)>> {
    let mut manifests = Vec::new();
    for folder in archive.list(&ArchivePath::segments())? {
        let Ok(day) = folder.name.parse::<Day>() else { continue };
        if from.is_some_and(|from| day < from) {
            continue;
        }
        for entry in archive.list(&ArchivePath::day(day))? {
            if let Some(SegmentFile::Manifest(name)) = SegmentFile::parse(&entry.name) {
                manifests.push((day, name));
            }
        }
    }
    manifests.sort_by_key(|(_, name)| name.seq);
    Ok(manifests)
}

fn read_head(archive: &mut dyn Archive) -> Result<Option<Head>> {
    let bytes = read_small(archive, &ArchivePath::head(), Head::BYTES_MAX)?;
    Ok(bytes.and_then(|bytes| Head::decode(&bytes).ok()))
}

fn find_tip(archive: &mut dyn Archive, archive_id: uuid::Uuid) -> Result<Option<(Tip, Option<Head>)>> {
    let head = read_head(archive)?;
    let from = head.as_ref().and_then(|head| head.newest).map(|newest| newest.day);
    let newest = list_manifests(archive, from)?.pop();
    if let Some(claimed) = head.as_ref().and_then(|head| head.newest)
        && newest.is_none_or(|(_, name)| name.seq < claimed.name.seq)
    {
        return Err(missing_behind_head(claimed.name.seq));
    }
    let Some((day, name)) = newest else { return Ok(None) };
    let bytes = read_manifest(archive, day, name)?;
    let manifest = Manifest::decode(&bytes).context(|| format!("reading {}", name.manifest(day)))?;
    if manifest.name() != name || manifest.archive_id != archive_id {
        let message = format!("{} is not a manifest of this archive under its own name", name.manifest(day));
        return Err(Error::new(Kind::Foreign, message));
    }
    let segment = Link { seq: name.seq, sha256: Digest::of(&bytes) };
    Ok(Some((Tip { last: Some(Last { segment, day }), end_lsn: manifest.end_lsn }, head)))
}
