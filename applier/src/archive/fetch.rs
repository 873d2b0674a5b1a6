//! Brings segments from the archive into the cache: manifests in their order, each checked against the one
//! before, change files with resume, the next one while this one is applied.
//!
//! ```text
//! archive ─▶ listing, head ─▶ manifest ─ chain, signature ─▶ file ─ resume ─▶ cache ─ size, SHA-256 ─▶ pass
//! ```

use std::collections::BTreeSet;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use syncdata_archive::listing::{self, Listing};
use syncdata_archive::{Archive, ArchiveHandle, small, snapshots};
use syncdata_formats::ack::Ack;
use syncdata_formats::chain::{ChainTip, Verified};
use syncdata_formats::digest::Digest;
use syncdata_formats::document::Document;
use syncdata_formats::error::{Context, Error, Kind, Result};
use syncdata_formats::floor::Floor;
use syncdata_formats::head::{Head, Newest};
use syncdata_formats::identity::ArchiveIdentity;
use syncdata_formats::layout::{ArchivePath, SegmentFile, SegmentName};
use syncdata_formats::manifest::{ChangeFile, Link, Manifest};
use syncdata_formats::name::TableName;
use syncdata_formats::segment::SegmentReader;
use syncdata_formats::signature::VerifyKey;
use syncdata_formats::snapshot::{Part, PartName, SnapshotManifest};
use syncdata_formats::time::Day;
use syncdata_service::faults;
use syncdata_service::own_files;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use uuid::Uuid;

use super::silence::{Attentive, Silence};

/// Segments that wait in the cache; `cache_max` bounds their bytes.
const SEGMENTS_AHEAD: usize = 16;
/// The cache's bytes are counted in these.
const PERMIT_BYTES: u64 = 64 << 10;
/// Of a download that is not whole yet.
const PART_ENDING: &str = ".part";

/// The archive, and the place where its files are kept while they are applied.
#[derive(Clone, Debug)]
pub struct Source {
    archive: ArchiveHandle,
    cache: PathBuf,
    cache_room: Arc<Semaphore>,
    permits: u32,
    verify_key: Option<VerifyKey>,
    line_bytes_max: usize,
    silence: Silence,
}

/// A segment that is verified and whose change file lies in the cache.
#[derive(Debug)]
pub struct Fetched {
    pub segment: Verified,
    /// `None` for a gap alone, and when nobody wanted its changes.
    pub file: Option<PathBuf>,
    pub transfer: Duration,
    /// The longest record that is read.
    pub line_bytes_max: usize,
    /// Its share of the cache.
    _room: Option<OwnedSemaphorePermit>,
}

/// A part of a snapshot: its files are verified and lie in the cache.
#[derive(Debug)]
pub struct FetchedPart {
    pub files: Vec<PathBuf>,
    /// Its share of the cache.
    _room: OwnedSemaphorePermit,
}

impl Source {
    pub fn new(
        archive: ArchiveHandle,
        cache: PathBuf,
        cache_bytes_max: u64,
        verify_key: Option<VerifyKey>,
    ) -> Result<Source> {
        let mut builder = fs::DirBuilder::new();
        let made = builder.recursive(true).mode(0o700).create(&cache);
        made.context(|| format!("making the cache folder {}", cache.display()))?;
        own_files::check_folder(&cache)?;
        let permits = u32::try_from((cache_bytes_max / PERMIT_BYTES).clamp(1, 1 << 20)).expect("clamped");
        let cache_room = Arc::new(Semaphore::new(permits as usize));
        let line_bytes_max = SegmentReader::<File>::LINE_BYTES_MAX;
        let silence = Silence::default();
        Ok(Source { archive, cache, cache_room, permits, verify_key, line_bytes_max, silence })
    }

    /// Whoever waits for all of it hears how long nothing was heard.
    #[must_use]
    pub fn with_silence(self, silence: Silence) -> Source {
        Source { silence, ..self }
    }

    /// One job for the archive.
    async fn ask<T: Send + 'static>(
        &self,
        job: impl FnOnce(&mut dyn Archive) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let (question, silence) = (self.silence.ask(), self.silence.clone());
        let attentive = move |archive: &mut dyn Archive| job(&mut Attentive { archive, silence });
        let answer = tokio::select! {
            answer = self.archive.run(attentive) => answer,
            () = self.silence.say() => unreachable!("it says so for ever"),
        };
        if answer.as_ref().is_err_and(|error| error.kind() == Kind::Unreachable) {
            question.in_vain();
        }
        answer
    }

    /// The longest record that is read, instead of the usual one.
    #[must_use]
    pub fn with_line_bytes_max(self, line_bytes_max: usize) -> Source {
        Source { line_bytes_max, ..self }
    }

    /// Removes what nobody needs any more: a pass that was killed leaves what it has applied.
    pub fn sweep(&self, is_needed: impl Fn(SegmentName) -> bool) -> Result<()> {
        let reading = || format!("reading the cache folder {}", self.cache.display());
        for entry in fs::read_dir(&self.cache).context(reading)? {
            let name = entry.context(reading)?.file_name();
            let Some(name) = name.to_str() else { continue };
            let whole = name.strip_suffix(PART_ENDING).unwrap_or(name);
            if let Some(SegmentFile::Changes(segment)) = SegmentFile::parse(whole)
                && !is_needed(segment)
            {
                remove(&self.cache.join(name))?;
            }
        }
        Ok(())
    }

    pub(super) fn verify_key(&self) -> Option<&VerifyKey> {
        self.verify_key.as_ref()
    }

    /// Waits for the archive's turn and for the job.
    pub(super) async fn on_archive<T: Send + 'static>(
        &self,
        job: impl FnOnce(&mut dyn syncdata_archive::Archive) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        self.archive.run(job).await
    }

    pub fn location(&self) -> &str {
        self.archive.location()
    }

    pub async fn identity(&self) -> Result<ArchiveIdentity> {
        let path = ArchivePath::identity();
        let bytes = self.small_file(&path, Document::Identity).await?.ok_or_else(|| {
            let message = format!("{} holds no archive: archive.json is missing", self.location());
            Error::new(Kind::NotFound, message)
                .hint("check archive_dir; the archiver writes archive.json at its first run")
        })?;
        ArchiveIdentity::decode(&bytes)
    }

    /// `None` when there is none or it cannot be read: it is a hint, and the chain is the truth.
    pub async fn head(&self) -> Result<Option<Head>> {
        let Some(bytes) = self.small_file(&ArchivePath::head(), Document::Head).await? else {
            return Ok(None);
        };
        match Head::decode(&bytes) {
            Ok(head) => Ok(Some(head)),
            Err(error) => {
                tracing::warn!(error = %error.one_line(), "head.json cannot be read; the listing is used instead");
                Ok(None)
            }
        }
    }

    pub async fn floor(&self) -> Result<Option<Floor>> {
        self.ask(listing::floor).await
    }

    /// The manifests under that day and later ones.
    pub async fn list(&self, from: Option<Day>) -> Result<Listing> {
        self.ask(move |archive| Listing::read(archive, from)).await
    }

    /// What has to follow a segment that is not verified by itself: the links from there on do that.
    pub async fn tip_after(&self, archive_id: Uuid, (day, name): (Day, SegmentName)) -> Result<ChainTip> {
        let bytes = self.manifest_bytes(day, name).await?;
        let link = Link { seq: name.seq, sha256: Digest::of(&bytes) };
        Ok(ChainTip::after(archive_id, link, name.end_lsn, day))
    }

    /// Reads the manifest and checks that it follows `tip`.
    pub async fn manifest(&self, tip: &ChainTip, day: Day, name: SegmentName) -> Result<Verified> {
        let of_file = |error: Error| error.of_file(name.manifest_name());
        let bytes = self.manifest_bytes(day, name).await.map_err(of_file)?;
        let segment = Verified::new(tip, day, name, &bytes).map_err(of_file)?;
        if let Some(key) = &self.verify_key {
            let path = name.signature(day);
            let signature = self.small_file(&path, Document::Signature).await?.ok_or_else(|| {
                Error::new(Kind::Foreign, format!("{path} is missing, and verify_key is set"))
                    .hint("nothing of this segment was applied; have the archiver sign (signing_key)")
                    .of_file(name.manifest_name())
            })?;
            key.verify(&bytes, &name.manifest_name(), &signature).map_err(|error| {
                let refused = Error::new(Kind::Foreign, format!("{} is refused", name.manifest(day)));
                refused.caused_by(error).of_file(name.manifest_name())
            })?;
        }
        Ok(segment)
    }

    pub async fn manifest_bytes(&self, day: Day, name: SegmentName) -> Result<Vec<u8>> {
        let path = name.manifest(day);
        self.small_file(&path, Document::Manifest).await?.ok_or_else(|| missing(&path))
    }

    /// Tells the archive how far a reader is.
    pub async fn acknowledge(&self, ack: Ack) -> Result<()> {
        let replaced =
            self.ask(move |archive| small::replace(archive, &ack.path(), Document::Ack, &ack.encode()));
        replaced.await
    }

    /// The archive's snapshots, from the newest to the oldest. One that cannot be trusted is as good as none.
    pub async fn snapshots(&self, archive_id: Uuid) -> Result<Vec<Arc<SnapshotManifest>>> {
        let verify_key = self.verify_key.clone();
        let read = self.ask(move |archive| {
            let mut found = Vec::new();
            for id in snapshots::list(archive)?.into_iter().rev() {
                match snapshots::read(archive, &id, verify_key.as_ref()) {
                    Ok(manifest) if manifest.archive_id == archive_id => found.push(Arc::new(manifest)),
                    Ok(manifest) => {
                        tracing::warn!(snapshot = %id, archive = %manifest.archive_id, "snapshot of another archive ignored");
                    }
                    Err(error) if error.kind() == Kind::Unreachable => return Err(error),
                    Err(error) => {
                        tracing::warn!(snapshot = %id, error = %error.one_line(), "snapshot cannot be used");
                    }
                }
            }
            Ok(found)
        });
        read.await.map_err(|error| error.context("looking for snapshots"))
    }

    /// All files that a part of a snapshot is made of.
    pub async fn part(&self, part: &Part) -> Result<FetchedPart> {
        // Together: one of them must not wait for room that another one holds.
        let room = self.room(part.files.iter().map(|file| file.bytes).sum()).await;
        let mut files = Vec::with_capacity(part.files.len());
        for file in &part.files {
            let name: PartName = file.file.parse()?;
            let cached = self.cache.join(name.file_name());
            self.fetch(&name.path(), &cached, file).await?;
            files.push(cached);
        }
        faults::hit("load.part_fetched")?;
        Ok(FetchedPart { files, _room: room })
    }

    /// Forgets everything that was fetched.
    pub fn forget(&self) -> Result<()> {
        let removing = || format!("emptying the cache folder {}", self.cache.display());
        match fs::remove_dir_all(&self.cache) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error).context(removing)?,
            _ => Ok(()),
        }
    }

    /// The segments, one after the other, the next ones while the first are applied. The stream ends after an
    /// error. `newest` is what head.json says. A segment that has changes of none of the `wanted` tables is verified by
    /// its manifest alone.
    pub fn stream(
        &self,
        tip: ChainTip,
        names: Vec<(Day, SegmentName)>,
        newest: Option<Newest>,
        wanted: BTreeSet<TableName>,
    ) -> mpsc::Receiver<Result<Fetched>> {
        let (sender, receiver) = mpsc::channel(SEGMENTS_AHEAD);
        let source = self.clone();
        tokio::spawn(async move {
            let sent = tokio::select! {
                sent = source.send_all(tip, &names, newest, &wanted, &sender) => sent,
                // The pass is over. The next one fetches into the same files.
                () = sender.closed() => return,
            };
            if let Err(error) = sent {
                // Nobody may be listening any more.
                let _ = sender.send(Err(error)).await;
            }
        });
        receiver
    }

    async fn send_all(
        &self,
        tip: ChainTip,
        names: &[(Day, SegmentName)],
        newest: Option<Newest>,
        wanted: &BTreeSet<TableName>,
        sender: &mpsc::Sender<Result<Fetched>>,
    ) -> Result<()> {
        let Some(&(day, name)) = names.first() else { return Ok(()) };
        let mut next = Some(self.manifest(&tip, day, name).await);
        let mut later = names[1..].iter();
        while let Some(segment) = next.take() {
            let segment = segment?;
            next = match later.next() {
                Some(&(day, name)) => {
                    let follower = self.manifest(&segment.tip(), day, name).await;
                    if follower.is_err() {
                        self.check_vouched(&segment, day, name).await?;
                    }
                    Some(follower)
                }
                None => None,
            };
            if let Some(newest) = newest
                && newest.name == segment.name()
                && newest.sha256 != segment.sha256()
            {
                let path = segment.manifest_path();
                return Err(refused(format!(
                    "{path} is refused: its SHA-256 is not the one that head.json names"
                )));
            }
            let fetched = if segment.manifest().tables.keys().any(|table| wanted.contains(table)) {
                self.fetch_file(segment).await?
            } else {
                self.fetched(segment, None, Duration::ZERO, None)
            };
            if sender.send(Ok(fetched)).await.is_err() {
                return Ok(());
            }
        }
        Ok(())
    }

    /// A flipped bit may leave a manifest well-formed; the next one knows better. `Err`: it contradicts.
    async fn check_vouched(&self, segment: &Verified, day: Day, next: SegmentName) -> Result<()> {
        let Ok(bytes) = self.manifest_bytes(day, next).await else { return Ok(()) };
        let Some(link) = Manifest::decode(&bytes).ok().and_then(|manifest| manifest.previous) else {
            return Ok(());
        };
        if link.seq == segment.manifest().seq && link.sha256 != segment.sha256() {
            let (path, next) = (segment.manifest_path(), next.manifest(day));
            return Err(refused(format!("{path} is refused: its SHA-256 is not the one that {next} names")));
        }
        Ok(())
    }

    /// One segment whose manifest is verified already.
    pub async fn fetch_file(&self, segment: Verified) -> Result<Fetched> {
        let started = Instant::now();
        let Some(file) = segment.manifest().file.clone() else {
            return Ok(self.fetched(segment, None, started.elapsed(), None));
        };
        let room = self.room(file.bytes).await;
        let path = segment.file_path().expect("it has a file");
        let cached = self.cache.join(&file.file);
        self.fetch(&path, &cached, &file).await.map_err(|error| error.of_file(&file.file))?;
        faults::hit("apply.verified")?;
        tracing::debug!(segment = segment.manifest().seq.get(), bytes = file.bytes, "segment fetched");
        Ok(self.fetched(segment, Some(cached), started.elapsed(), Some(room)))
    }

    fn fetched(
        &self,
        segment: Verified,
        file: Option<PathBuf>,
        transfer: Duration,
        room: Option<OwnedSemaphorePermit>,
    ) -> Fetched {
        Fetched { segment, file, transfer, line_bytes_max: self.line_bytes_max, _room: room }
    }

    /// A file above the whole bound may come too, alone.
    async fn room(&self, bytes: u64) -> OwnedSemaphorePermit {
        let permits = u32::try_from(bytes.div_ceil(PERMIT_BYTES)).unwrap_or(u32::MAX).min(self.permits);
        let room = Arc::clone(&self.cache_room).acquire_many_owned(permits).await;
        room.expect("the semaphore is never closed")
    }

    /// Downloads it and holds it against what its manifest promises.
    async fn fetch(&self, path: &ArchivePath, cached: &Path, file: &ChangeFile) -> Result<()> {
        self.download(path, cached, file.bytes).await?;
        faults::hit("apply.downloaded")?;
        if let Err(first) = check(file, cached).await {
            // What was resumed may have been another file's beginning.
            tracing::warn!(file = %path, error = %first.one_line(), "downloading again");
            remove(cached)?;
            self.download(path, cached, file.bytes).await?;
            check(file, cached).await.inspect_err(|_| {
                // A bad file must not wait in the cache for the next pass.
                let _ = fs::remove_file(cached);
            })?;
        }
        Ok(())
    }

    /// Goes on where an earlier download stopped.
    async fn download(&self, path: &ArchivePath, cached: &Path, bytes: u64) -> Result<()> {
        if fs::metadata(cached).is_ok_and(|metadata| metadata.len() == bytes) {
            return Ok(());
        }
        remove(cached)?;
        let part = part_of(cached);
        let (archived, name) = (path.clone(), part.clone());
        // Who waits for the job holds it.
        let waiter = Arc::new(());
        let awaited = Arc::downgrade(&waiter);
        let reading = self.ask(move |archive| {
            let opening = || format!("writing {}", name.display());
            is_awaited(&awaited).context(opening)?;
            let mut options = OpenOptions::new();
            let mut file = own_files::open_plain(&name, options.create(true).append(true).mode(0o600))?;
            own_files::check_file(&file, &name)?;
            let mut have = file.metadata().context(opening)?.len();
            if have > bytes {
                file.set_len(0).context(opening)?;
                have = 0;
            }
            // A server that sends without end fills the cache by one byte more than promised.
            archive.read(&archived, have, &mut Bounded { file: &mut file, left: bytes + 1 - have, awaited })
        });
        match reading.await {
            Ok(_) => {}
            Err(error) if error.kind() == Kind::NotFound => return Err(missing(path)),
            Err(error) => return Err(error.context(format!("downloading {path}"))),
        }
        let renaming = || format!("renaming {}", part.display());
        fs::rename(&part, cached).context(renaming)?;
        Ok(())
    }

    /// Whether its change file has room in the cache beside those that are held now.
    pub fn has_room_for(&self, segment: &Verified) -> bool {
        let bytes = segment.manifest().file.as_ref().map_or(0, |file| file.bytes);
        bytes.div_ceil(PERMIT_BYTES) <= self.cache_room.available_permits() as u64
    }

    /// `None`: there is no such file.
    async fn small_file(&self, path: &ArchivePath, document: Document) -> Result<Option<Vec<u8>>> {
        let wanted = path.clone();
        let read = self.ask(move |archive| small::read(archive, &wanted, document));
        read.await.map_err(|error| error.context(format!("reading {path}")))
    }
}

impl Fetched {
    /// After the commit: the archive has it, the cache need not.
    pub fn clean(&self) -> Result<()> {
        match &self.file {
            Some(file) => remove(file),
            None => Ok(()),
        }
    }
}

impl FetchedPart {
    /// It was read: the archive has it, the cache need not.
    pub fn clean(&self) -> Result<()> {
        self.files.iter().try_for_each(|file| remove(file))
    }
}

async fn check(file: &ChangeFile, cached: &Path) -> Result<()> {
    let (file, path) = (file.clone(), cached.to_owned());
    let checked = tokio::task::spawn_blocking(move || {
        let mut source = own_files::read_plain(&path)?;
        file.check(&mut source)
    });
    checked.await.expect("checking a file does not panic")
}

fn refused(message: String) -> Error {
    Error::new(Kind::Foreign, message).hint(
        "nothing of it was applied; bring both files back from a sound copy or from the archiver's spool",
    )
}

fn missing(path: &ArchivePath) -> Error {
    Error::new(Kind::Foreign, format!("{path} is missing on the backup host"))
        .hint("put it back; the archiver keeps shipped files in its spool for a day and sends them again")
}

fn part_of(cached: &Path) -> PathBuf {
    let mut name = cached.as_os_str().to_owned();
    name.push(PART_ENDING);
    PathBuf::from(name)
}

fn remove(file: &Path) -> Result<()> {
    match fs::remove_file(file) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(Error::io(format!("removing {}", file.display()), error))
        }
        _ => Ok(()),
    }
}

/// Takes no more than it should.
struct Bounded<'a> {
    file: &'a mut File,
    left: u64,
    awaited: Weak<()>,
}

/// A job goes on when nobody waits for it any more; then another one may be writing into the same file.
fn is_awaited(awaited: &Weak<()>) -> io::Result<()> {
    match awaited.strong_count() {
        0 => Err(io::Error::other("nobody waits for it any more")),
        _ => Ok(()),
    }
}

impl Write for Bounded<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        is_awaited(&self.awaited)?;
        let fits = bytes.len().min(usize::try_from(self.left).unwrap_or(usize::MAX));
        if fits == 0 && !bytes.is_empty() {
            return Err(io::Error::other("the file is longer than its manifest says"));
        }
        let written = self.file.write(&bytes[..fits])?;
        self.left -= written as u64;
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::{Receiver, Sender, channel};

    use syncdata_archive::{Content, Entry, Facts, Put};
    use syncdata_formats::error::Result as Answer;
    use tokio::sync::oneshot;

    use super::*;

    /// Sends half of a file, and the rest when it is told to.
    struct Slow {
        began: Option<oneshot::Sender<()>>,
        go_on: Receiver<()>,
        second_half: Sender<io::Result<()>>,
    }

    impl Archive for Slow {
        fn location(&self) -> &'static str {
            "slow"
        }

        fn read(&mut self, _: &ArchivePath, _: u64, into: &mut dyn Write) -> Answer<u64> {
            into.write_all(b"one").expect("somebody waits");
            self.began.take().expect("read once").send(()).expect("the test waits");
            self.go_on.recv().expect("the test goes on");
            self.second_half.send(into.write_all(b"two")).expect("the test waits");
            Ok(6)
        }

        fn put(&mut self, _: &ArchivePath, _: &mut dyn Content, _: Facts) -> Answer<Put> {
            unreachable!("only read")
        }

        fn replace(&mut self, _: &ArchivePath, _: &[u8]) -> Answer<()> {
            unreachable!("only read")
        }

        fn list(&mut self, _: &ArchivePath) -> Answer<Vec<Entry>> {
            unreachable!("only read")
        }

        fn stat(&mut self, _: &ArchivePath) -> Answer<Option<Entry>> {
            unreachable!("only read")
        }

        fn remove(&mut self, _: &ArchivePath) -> Answer<bool> {
            unreachable!("only read")
        }
    }

    #[tokio::test]
    async fn a_download_that_nobody_waits_for_writes_no_more() {
        let cache = tempfile::tempdir().expect("a folder");
        let ((began, has_begun), (go, go_on), (second_half, second)) =
            (oneshot::channel(), channel(), channel());
        let slow = Slow { began: Some(began), go_on, second_half };
        let archive = ArchiveHandle::spawn(Box::new(slow)).expect("a thread");
        let source = Source::new(archive, cache.path().to_owned(), 1 << 20, None).expect("a folder");
        let cached = cache.path().join("segment");
        let path = ArchivePath::head();
        tokio::select! {
            _ = source.download(&path, &cached, 6) => panic!("it has not sent all"),
            begun = has_begun => begun.expect("it has begun"),
        }
        go.send(()).expect("it waits");
        assert!(second.recv().expect("it goes on").is_err());
        assert_eq!(fs::read(part_of(&cached)).expect("it is there"), b"one");
    }
}
