//! From the spool to the backup host: change file, signature, manifest, and last the head.
//!
//! Everything here may be done twice. What the backup host has already is left alone when it is the same, and
//! stops us when it is not; what it lost since is sent again while the spool still has it.

use std::collections::BTreeMap;
use std::fs::File;

use syncdata_archive::{Archive, ArchiveHandle, Entry, EntryKind, Facts};
use syncdata_archive::{small, snapshots};
use syncdata_formats::chain::{ChainTip, Verified};
use syncdata_formats::digest::{Digest, Hashing};
use syncdata_formats::document::Document;
use syncdata_formats::error::Context as _;
use syncdata_formats::head::{Head, Newest};
use syncdata_formats::identity::ArchiveIdentity;
use syncdata_formats::layout::{ArchivePath, SegmentFile, SegmentName};
use syncdata_formats::manifest::{Link, Manifest};
use syncdata_formats::signature::VerifyKey;
use syncdata_formats::snapshot::SnapshotId;
use syncdata_formats::time::{Day, Timestamp};
use syncdata_formats::{Error, Kind, Result};
use syncdata_service::{faults, small_file};
use tracing::{info, warn};

use crate::prune::{self, Inventory, Plan};
use crate::ship::ownership::missing_behind_head;
use crate::spool::{HeldSnapshot, Last, Spool, Spooled, State, Tip};

/// The archive as its only writer uses it.
#[derive(Clone, Debug)]
pub(crate) struct Shipper {
    archive: ArchiveHandle,
}

/// Where an archive ends.
#[derive(Debug)]
pub(crate) struct End {
    /// Behind the last segment, and the timeline that this was read from; `None` without a segment.
    pub last: Option<(Tip, u32)>,
    pub head: Option<Head>,
}

/// What a round of shipping came to.
#[derive(Debug, Default)]
pub(crate) struct Sent {
    pub segments: u64,
    /// Why the backup host does not have the rest.
    pub away: Option<Error>,
}

/// Files of one segment, on the way. All that the spool has to give is at hand before the backup host is asked.
struct Parcel {
    name: SegmentName,
    manifest: Vec<u8>,
    manifest_path: ArchivePath,
    signature: Option<(ArchivePath, Vec<u8>)>,
    changes: Option<(ArchivePath, File, Facts)>,
}

/// The backup host cannot be used now, and the spool goes on without it: it is out of reach, or it refuses us, or
/// its disk is full or gone. Only what the archive holds can stop us.
pub(crate) fn is_away(error: &Error) -> bool {
    match error.kind() {
        Kind::Unreachable | Kind::Refused | Kind::NoSpace | Kind::Locked | Kind::Io | Kind::BadInput => true,
        Kind::Corrupt
        | Kind::Foreign
        | Kind::Conflict
        | Kind::NotFound
        | Kind::StateDamaged
        | Kind::Rejected => false,
    }
}

/// That the backup host is away is no error; that it holds something else is.
fn unless_away(done: Result<()>) -> Result<Option<Error>> {
    match done {
        Err(error) if is_away(&error) => Ok(Some(error)),
        done => done.map(|()| None),
    }
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
                let bytes = small::read(archive, &ArchivePath::identity(), Document::Identity)?;
                bytes.map(|bytes| ArchiveIdentity::decode(&bytes)).transpose()
            })
            .await
    }

    pub(crate) async fn found(&self, identity: ArchiveIdentity) -> Result<()> {
        self.archive
            .run(move |archive| {
                let path = ArchivePath::identity();
                small::put(archive, &path, Document::Identity, &identity.encode()).map(drop)
            })
            .await
    }

    /// The end of the archive as it lies on the backup host.
    pub(crate) async fn end(&self, archive_id: uuid::Uuid) -> Result<End> {
        self.archive.run(move |archive| find_end(archive, archive_id)).await
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

    /// Sends what the backup host does not have, oldest first. That it is away ends this and is no error; what was
    /// sent before stays sent. A spool that cannot be read or written is one: it must not pass for an absence, with
    /// which changes may be given up.
    pub(crate) async fn ship(&self, spool: &mut Spool) -> Result<Sent> {
        let waiting: Vec<Spooled> = spool.unshipped().cloned().collect();
        let mut sent = Sent::default();
        for segment in waiting {
            let parcel = Parcel::pack(spool, &segment)?;
            sent.away = unless_away(self.archive.run(move |archive| parcel.deliver(archive)).await)?;
            if sent.away.is_some() {
                break;
            }
            spool.mark_shipped(segment.name.seq, Timestamp::now())?;
            faults::hit("ship.marked")?;
            info!(segment = %segment.name.seq, lsn = %segment.name.end_lsn, bytes = segment.bytes, "segment shipped");
            sent.segments += 1;
        }
        Ok(sent)
    }

    /// Looks at what the backup host holds of the segments that the spool still has, and sends again what is
    /// missing or cut; of the newest also the content, since that is what a power cut takes. The reason, if the
    /// backup host is away.
    pub(crate) async fn look_back(&self, spool: &Spool) -> Result<Option<Error>> {
        let shipped = spool.state().shipped;
        let held: Vec<Spooled> = spool.segments().filter(|s| s.name.seq.get() <= shipped).cloned().collect();
        let Some(newest) = held.last().map(|segment| segment.name) else { return Ok(None) };
        let mut listed: Option<(Day, Vec<Entry>)> = None;
        for segment in held {
            let day = segment.day;
            let entries = match &listed {
                Some((of, entries)) if *of == day => entries,
                _ => match self.archive.run(move |archive| archive.list(&ArchivePath::day(day))).await {
                    Err(error) if is_away(&error) => return Ok(Some(error)),
                    entries => &listed.insert((day, entries?)).1,
                },
            };
            let mut parcel = Parcel::pack(spool, &segment)?;
            let whole = parcel.is_listed_whole(entries);
            let read_back = segment.name == newest;
            let looked = self.archive.run(move |archive| {
                if !whole || read_back && !parcel.is_there(archive)? {
                    warn!(segment = %parcel.name.seq, "the backup host lost a segment, sending it again");
                    parcel.replace(archive)?;
                }
                Ok(())
            });
            if let Some(away) = unless_away(looked.await)? {
                return Ok(Some(away));
            }
        }
        Ok(None)
    }

    /// What lies in the archive.
    pub(crate) async fn inventory(&self, verify_key: Option<VerifyKey>) -> Result<Inventory> {
        self.archive.run(move |archive| Inventory::read(archive, verify_key.as_ref())).await
    }

    /// Makes sure that files can be removed, and then says that the archive begins later now. Nothing is removed yet.
    pub(crate) async fn begin_prune(
        &self,
        plan: &Plan,
        inventory: Inventory,
        archive_id: uuid::Uuid,
    ) -> Result<()> {
        let floor = plan.floor;
        self.archive
            .run(move |archive| {
                prune::check_rights(archive)?;
                match floor {
                    Some(seq) => prune::raise_floor(archive, &inventory, seq, archive_id),
                    None => Ok(()),
                }
            })
            .await
    }

    pub(crate) async fn remove(&self, plan: Plan) -> Result<()> {
        self.archive.run(move |archive| prune::remove(archive, &plan)).await
    }

    /// The snapshots that the archive has, from the oldest to the newest. Manifests are read once: `known` are those of
    /// earlier looks. The reason in place of them, if the backup host is away.
    pub(crate) async fn snapshots(
        &self,
        mut known: BTreeMap<SnapshotId, HeldSnapshot>,
        verify_key: Option<VerifyKey>,
    ) -> Result<Result<BTreeMap<SnapshotId, HeldSnapshot>, Error>> {
        let listed = self
            .archive
            .run(move |archive| {
                let mut held = BTreeMap::new();
                for id in snapshots::list(archive)? {
                    let found = match known.remove(&id) {
                        Some(found) => Ok(found),
                        None => snapshots::read(archive, &id, verify_key.as_ref()).map(HeldSnapshot::of),
                    };
                    match found {
                        Ok(found) => drop(held.insert(id, found)),
                        // A manifest that nobody vouches for is refused too, and no sign of an absent host.
                        Err(error) if matches!(error.kind(), Kind::Unreachable | Kind::Io) => return Err(error),
                        Err(error) => {
                            warn!(snapshot = %id, error = %error.one_line(), "a snapshot of the archive is of no use");
                        }
                    }
                }
                Ok(held)
            })
            .await;
        match listed {
            Err(error) if is_away(&error) => Ok(Err(error)),
            listed => listed.map(Ok),
        }
    }

    /// The heartbeat: what the archive holds now, and until when. The reason, if the backup host is away.
    pub(crate) async fn publish_head(&self, state: &State, covered_at: Timestamp) -> Result<Option<Error>> {
        let newest = state.tip.last.map(|last| Newest {
            day: last.day,
            name: SegmentName { seq: last.segment.seq, end_lsn: state.tip.end_lsn },
            sha256: last.segment.sha256,
        });
        let head = Head {
            archive_id: state.archive_id,
            newest,
            recent: Vec::new(),
            covered_lsn: state.covered_lsn,
            covered_at,
            archiver: env!("CARGO_PKG_VERSION").to_owned(),
        };
        faults::hit("ship.before_head")?;
        let replaced = self.archive.run(move |archive| {
            small::replace(archive, &ArchivePath::head(), Document::Head, &head.encode())
        });
        let away = unless_away(replaced.await)?;
        faults::hit("ship.after_head")?;
        Ok(away)
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
            let path = spool.path(&name.file(day));
            let opened = File::open(&path).context(|| format!("opening {}", path.display()));
            opened.map(|opened| (name.file(day), opened, facts))
        });
        let signature = small_file::read_if_there(&signature, Document::Signature.bytes_max())?
            .map(|bytes| (name.signature(day), bytes));
        let manifest_path = name.manifest(day);
        Ok(Parcel { name, manifest, manifest_path, signature, changes: changes.transpose()? })
    }

    /// A power cut between rename and sync can leave a torn file under its final name, and it is ours to replace;
    /// a sound manifest of somebody else is not.
    fn deliver(mut self, archive: &mut dyn Archive) -> Result<()> {
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

    fn is_listed_whole(&self, entries: &[Entry]) -> bool {
        let has = |name: &str, bytes: u64| {
            entries
                .iter()
                .any(|entry| entry.kind == EntryKind::File && entry.name == name && entry.bytes == bytes)
        };
        let changes = self.changes.as_ref().is_none_or(|(path, _, facts)| has(path.file_name(), facts.bytes));
        let signature = self.signature.as_ref();
        let signed = signature.is_none_or(|(path, bytes)| has(path.file_name(), bytes.len() as u64));
        changes && signed && has(self.manifest_path.file_name(), self.manifest.len() as u64)
    }

    /// Reads it back.
    fn is_there(&self, archive: &mut dyn Archive) -> Result<bool> {
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
    fn replace(&mut self, archive: &mut dyn Archive) -> Result<()> {
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

fn digest_of(archive: &mut dyn Archive, path: &ArchivePath) -> Result<Option<Digest>> {
    let mut hashing = Hashing::new(std::io::sink());
    match archive.read(path, 0, &mut hashing) {
        Ok(_) => Ok(Some(hashing.finish().1)),
        Err(error) if error.kind() == Kind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// A whole small file; `None` when there is none.
fn read_manifest(archive: &mut dyn Archive, day: Day, name: SegmentName) -> Result<Vec<u8>> {
    let path = name.manifest(day);
    small::read(archive, &path, Document::Manifest)?
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
    let bytes = small::read(archive, &ArchivePath::head(), Document::Head)?;
    Ok(bytes.and_then(|bytes| Head::decode(&bytes).ok()))
}

fn find_end(archive: &mut dyn Archive, archive_id: uuid::Uuid) -> Result<End> {
    let head = read_head(archive)?.filter(|head| head.archive_id == archive_id);
    let from = head.as_ref().and_then(|head| head.newest).map(|newest| newest.day);
    let newest = list_manifests(archive, from)?.pop();
    if let Some(claimed) = head.as_ref().and_then(|head| head.newest)
        && newest.is_none_or(|(_, name)| name.seq < claimed.name.seq)
    {
        return Err(missing_behind_head(claimed.name.seq));
    }
    let Some((day, name)) = newest else { return Ok(End { last: None, head }) };
    let bytes = read_manifest(archive, day, name)?;
    let manifest = Manifest::decode(&bytes).context(|| format!("reading {}", name.manifest(day)))?;
    if manifest.name() != name || manifest.archive_id != archive_id {
        let message = format!("{} is not a manifest of this archive under its own name", name.manifest(day));
        return Err(Error::new(Kind::Foreign, message));
    }
    let segment = Link { seq: name.seq, sha256: Digest::of(&bytes) };
    let tip = Tip { last: Some(Last { segment, day }), end_lsn: manifest.end_lsn };
    Ok(End { last: Some((tip, manifest.source.timeline)), head })
}
