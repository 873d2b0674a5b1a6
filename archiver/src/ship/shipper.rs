//! From the spool to the backup host: change file, signature, manifest, and last the head.
//!
//! Everything here may be done twice. What the backup host has already is left alone when it is the same, and
//! stops us when it is not; what it lost since is sent again while the spool still has it.

use std::collections::{BTreeMap, BTreeSet};

use syncdata_archive::{Archive, ArchiveHandle, Entry, listing, probe, small, snapshots};
use syncdata_formats::chain::{ChainTip, Verified};
use syncdata_formats::digest::Digest;
use syncdata_formats::document::Document;
use syncdata_formats::error::Context as _;
use syncdata_formats::head::Head;
use syncdata_formats::identity::ArchiveIdentity;
use syncdata_formats::layout::{ArchivePath, SegmentName, SegmentSeq};
use syncdata_formats::lsn::Lsn;
use syncdata_formats::manifest::{Link, Manifest, Since};
use syncdata_formats::name::TableName;
use syncdata_formats::signature::VerifyKey;
use syncdata_formats::snapshot::SnapshotId;
use syncdata_formats::time::{Day, Timestamp};
use syncdata_formats::{Error, Kind, Result};
use syncdata_service::faults;
use tracing::{info, warn};

use crate::ship::files::read_manifest;
use crate::ship::head;
use crate::ship::parcel::Parcel;
use crate::spool::{HeldSnapshot, Last, Spool, Spooled, State, Tip};

/// The archive as its only writer uses it.
#[derive(Clone, Debug)]
pub(crate) struct Shipper {
    archive: ArchiveHandle,
}

/// The last segment of an archive.
#[derive(Debug)]
pub(crate) struct End {
    /// After the last segment, and the timeline that this was read from; `None` without a segment.
    pub last: Option<(Tip, u32)>,
    pub head: Option<Head>,
    /// The segments that end after where the slot stands.
    pub after_slot: Vec<Verified>,
}

/// What the chain says of the tables that it captures.
#[derive(Debug, Default)]
pub(crate) struct CapturedByChain {
    /// The newest that it says.
    pub since: BTreeMap<TableName, Since>,
    /// At its end.
    pub captured: BTreeSet<TableName>,
    /// Before, and at its end no more.
    pub left: BTreeSet<TableName>,
}

/// The result of one round of shipping.
#[derive(Debug, Default)]
pub(crate) struct Sent {
    pub segments: u64,
    /// Why the backup host does not have the rest.
    pub away: Option<Error>,
}

impl Shipper {
    pub(crate) fn new(archive: ArchiveHandle) -> Shipper {
        Shipper { archive }
    }

    pub(crate) fn archive(&self) -> &ArchiveHandle {
        &self.archive
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
                probe::require_names_kept(archive)?;
                let path = ArchivePath::identity();
                small::put(archive, &path, Document::Identity, &identity.encode()).map(drop)
            })
            .await
    }

    /// The end of the archive as it lies on the backup host.
    pub(crate) async fn end(
        &self,
        archive_id: uuid::Uuid,
        slot_at: Lsn,
        key: Option<VerifyKey>,
    ) -> Result<End> {
        self.archive.run(move |archive| find_end(archive, archive_id, slot_at, key.as_ref())).await
    }

    /// What of an archive stands there beside archive.json.
    pub(crate) async fn remains(&self) -> Result<Vec<ArchivePath>> {
        self.archive
            .run(|archive| {
                let mut remains = Vec::new();
                for folder in [ArchivePath::segments(), ArchivePath::snapshots()] {
                    if !archive.list(&folder)?.is_empty() {
                        remains.push(folder);
                    }
                }
                for file in [ArchivePath::head(), ArchivePath::floor()] {
                    if archive.stat(&file)?.is_some() {
                        remains.push(file);
                    }
                }
                Ok(remains)
            })
            .await
    }

    /// The names of all manifests, in order of their numbers.
    pub(crate) async fn list(&self) -> Result<Vec<(Day, SegmentName)>> {
        self.archive.run(|archive| listing::manifests(archive, None)).await
    }

    /// From a number on, which lies under that day.
    pub(crate) async fn list_from(&self, place: (Day, SegmentSeq)) -> Result<Vec<(Day, SegmentName)>> {
        self.archive.run(move |archive| listing::manifests_from(archive, place)).await
    }

    /// What the chain says of captured tables.
    pub(crate) async fn capture_since(&self, archive_id: uuid::Uuid) -> Result<CapturedByChain> {
        self.archive.run(move |archive| find_capture_since(archive, archive_id)).await
    }

    /// The last segment that has changes.
    pub(crate) async fn newest_changes(&self, archive_id: uuid::Uuid) -> Result<Option<Verified>> {
        self.archive.run(move |archive| find_newest_changes(archive, archive_id)).await
    }

    /// Those segments, which must go on where `tip` ends and, with a key, carry its signature.
    pub(crate) async fn read(
        &self,
        tip: ChainTip,
        names: Vec<(Day, SegmentName)>,
        key: Option<VerifyKey>,
    ) -> Result<Vec<Verified>> {
        self.archive.run(move |archive| read_chain(archive, tip, names, key.as_ref())).await
    }

    /// `None` also when it cannot be made out: a torn head is as good as a missing one.
    pub(crate) async fn head(&self) -> Result<Option<Head>> {
        self.archive.run(head::read).await
    }

    /// Sends what the backup host does not have, oldest first. That it is away ends this and is no error; what was
    /// sent before stays sent. A spool that cannot be read or written is one: it must not pass for an absence, with
    /// which changes may be given up.
    pub(crate) async fn ship(&self, spool: &mut Spool) -> Result<Sent> {
        let waiting: Vec<Spooled> = spool.unshipped().cloned().collect();
        let mut sent = Sent::default();
        for segment in waiting {
            let parcel = Parcel::pack(spool, &segment)?;
            if let Err(away) = self.archive.run(move |archive| parcel.deliver(archive)).await {
                sent.away = Some(away);
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
                    Err(away) => return Ok(Some(away)),
                    Ok(entries) => &listed.insert((day, entries)).1,
                },
            };
            let mut parcel = Parcel::pack(spool, &segment)?;
            let whole = parcel.is_listed_whole(entries);
            let read_back = segment.name == newest;
            let looked = self.archive.run(move |archive| {
                if !whole || read_back && !parcel.is_there(archive)? {
                    warn!(segment = %parcel.seq(), "the backup host lost a segment, sending it again");
                    parcel.replace(archive)?;
                }
                Ok(())
            });
            if let Err(away) = looked.await {
                return Ok(Some(away));
            }
        }
        Ok(None)
    }

    /// The snapshots that the archive has, from the oldest to the newest. Manifests are read once: `known` are those of
    /// earlier looks.
    pub(crate) async fn snapshots(
        &self,
        mut known: BTreeMap<SnapshotId, HeldSnapshot>,
        verify_key: Option<VerifyKey>,
    ) -> Result<BTreeMap<SnapshotId, HeldSnapshot>> {
        self.archive
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
            .await
    }

    /// The heartbeat: what the archive holds now, and until when. The reason, if the backup host is away.
    pub(crate) async fn publish_head(&self, state: &State, covered_at: Timestamp) -> Result<Option<Error>> {
        let head = head::of(state, covered_at);
        faults::hit("ship.before_head")?;
        let replaced = self.archive.run(move |archive| {
            small::replace(archive, &ArchivePath::head(), Document::Head, &head.encode())
        });
        let away = replaced.await.err();
        faults::hit("ship.after_head")?;
        Ok(away)
    }
}

/// From the end backwards, all of it: a name that left long ago may come back.
fn find_capture_since(archive: &mut dyn Archive, archive_id: uuid::Uuid) -> Result<CapturedByChain> {
    let (mut found, mut last) = (CapturedByChain::default(), None);
    for (day, name) in listing::manifests(archive, None)?.into_iter().rev() {
        let manifest = Manifest::decode(&read_manifest(archive, day, name)?)
            .context(|| format!("reading {}", name.manifest(day)))?;
        if manifest.archive_id != archive_id {
            break;
        }
        if found.since.is_empty() {
            found.since = manifest.capture_since;
        }
        let captured: BTreeSet<TableName> = manifest.capture.into_iter().collect();
        let last: &BTreeSet<TableName> = last.get_or_insert_with(|| captured.clone());
        found.left.extend(captured.difference(last).cloned());
    }
    found.captured = last.unwrap_or_default();
    Ok(found)
}

fn find_newest_changes(archive: &mut dyn Archive, archive_id: uuid::Uuid) -> Result<Option<Verified>> {
    for (day, name) in listing::manifests(archive, None)?.into_iter().rev() {
        let before = tip_before(archive, archive_id, day, name)?;
        let bytes = read_manifest(archive, day, name)?;
        let segment = Verified::new(&before, day, name, &bytes)?;
        if segment.manifest().file.is_some() {
            return Ok(Some(segment));
        }
    }
    Ok(None)
}

fn find_end(
    archive: &mut dyn Archive,
    archive_id: uuid::Uuid,
    slot_at: Lsn,
    key: Option<&VerifyKey>,
) -> Result<End> {
    let head = head::read(archive)?.filter(|head| head.archive_id == archive_id);
    let from = head.as_ref().and_then(|head| head.newest).map(|newest| newest.day);
    let mut listed = listing::manifests(archive, from)?;
    if let Some(claimed) = head.as_ref().and_then(|head| head.newest)
        && listed.last().is_none_or(|(_, name)| name.seq < claimed.name.seq)
    {
        return Err(head::missing_segment(claimed.name.seq));
    }
    let Some((day, name)) = listed.last().copied() else {
        return Ok(End { last: None, head, after_slot: Vec::new() });
    };
    let bytes = read_manifest(archive, day, name)?;
    if let Some(key) = key {
        check_signature(archive, key, day, name, &bytes)?;
    }
    let manifest = Manifest::decode(&bytes).context(|| format!("reading {}", name.manifest(day)))?;
    if manifest.name() != name || manifest.archive_id != archive_id {
        let message = format!("{} is not a manifest of this archive under its own name", name.manifest(day));
        return Err(Error::new(Kind::Foreign, message));
    }
    if listed.iter().any(|(_, name)| name.end_lsn > slot_at) {
        // They may lie in earlier folders, too.
        listed = listing::manifests(archive, None)?;
    }
    listed.retain(|(_, name)| name.end_lsn > slot_at);
    let after_slot = match listed.first().copied() {
        None => Vec::new(),
        Some((day, name)) => {
            let before = tip_before(archive, archive_id, day, name)?;
            read_chain(archive, before, listed, None)?
        }
    };
    let segment = Link { seq: name.seq, sha256: Digest::of(&bytes) };
    let tip = Tip { last: Some(Last { segment, day }), end_lsn: manifest.end_lsn };
    Ok(End { last: Some((tip, manifest.source.timeline)), head, after_slot })
}

/// What a segment says that it follows.
fn tip_before(
    archive: &mut dyn Archive,
    archive_id: uuid::Uuid,
    day: Day,
    name: SegmentName,
) -> Result<ChainTip> {
    let bytes = read_manifest(archive, day, name)?;
    let manifest = Manifest::decode(&bytes).context(|| format!("reading {}", name.manifest(day)))?;
    Ok(ChainTip::floor(archive_id, manifest.previous))
}

fn read_chain(
    archive: &mut dyn Archive,
    mut tip: ChainTip,
    names: Vec<(Day, SegmentName)>,
    key: Option<&VerifyKey>,
) -> Result<Vec<Verified>> {
    let mut found = Vec::new();
    for (day, name) in names {
        let bytes = read_manifest(archive, day, name)?;
        if let Some(key) = key {
            check_signature(archive, key, day, name, &bytes)?;
        }
        let verified = Verified::new(&tip, day, name, &bytes)?;
        tip = verified.tip();
        found.push(verified);
    }
    Ok(found)
}

/// What does not carry our signature is not ours.
fn check_signature(
    archive: &mut dyn Archive,
    key: &VerifyKey,
    day: Day,
    name: SegmentName,
    manifest: &[u8],
) -> Result<()> {
    let signature = small::read(archive, &name.signature(day), Document::Signature)?;
    let checked = match &signature {
        None => Err(Error::new(Kind::Foreign, "there is no signature")),
        Some(signature) => key.verify(manifest, &name.manifest_name(), signature),
    };
    checked.map_err(|error| {
        let message = format!("segment {} of the archive does not carry the signature of signing_key", name.seq);
        Error::new(Kind::Foreign, message).caused_by(error).hint(
            "nothing of it was taken over, and nothing was consumed from the slot: look who writes to the archive, and \
             take away what is not this archiver's; for an archive that was not signed so far, start the new spool once \
             without signing_key",
        )
    })
}
