//! Brings the archive's files into the cache: the segments in their order, each checked against the one before, the
//! next one while this one is applied.
//!
//! ```text
//! archive ─▶ listing, head ─▶ manifest ─ chain, signature ─▶ file ─ resume ─▶ cache ─ size, SHA-256 ─▶ pass
//! ```

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use syncdata_formats::chain::{ChainTip, Verified};
use syncdata_formats::error::{Context, Error, Kind, Result};
use syncdata_formats::head::Newest;
use syncdata_formats::layout::{ArchivePath, SegmentName};
use syncdata_formats::manifest::{ChangeFile, Manifest};
use syncdata_formats::name::TableName;
use syncdata_formats::snapshot::{Part, PartName};
use syncdata_formats::time::Day;
use syncdata_service::faults;
use tokio::sync::mpsc;

use super::cache::{self, Room};
use super::source::{Source, missing};

/// Segments that wait in the cache; `cache_max` bounds their bytes.
const SEGMENTS_AHEAD: usize = 16;

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
    _room: Option<Room>,
}

/// A part of a snapshot: its files are verified and lie in the cache.
#[derive(Debug)]
pub struct FetchedPart {
    pub files: Vec<PathBuf>,
    /// Its share of the cache.
    _room: Room,
}

impl Source {
    /// All files that a part of a snapshot is made of.
    pub async fn part(&self, part: &Part) -> Result<FetchedPart> {
        // Together: one of them must not wait for room that another one holds.
        let room = self.cache.room(part.files.iter().map(|file| file.bytes).sum()).await;
        let mut files = Vec::with_capacity(part.files.len());
        for file in &part.files {
            let name: PartName = file.file.parse()?;
            let cached = self.cache.file(&name.file_name());
            self.fetch(&name.path(), &cached, file).await?;
            files.push(cached);
        }
        faults::hit("load.part_fetched")?;
        Ok(FetchedPart { files, _room: room })
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
        let room = self.cache.room(file.bytes).await;
        let path = segment.file_path().expect("it has a file");
        let cached = self.cache.file(&file.file);
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
        room: Option<Room>,
    ) -> Fetched {
        Fetched { segment, file, transfer, line_bytes_max: self.line_bytes_max, _room: room }
    }

    /// Downloads it and holds it against what its manifest promises.
    async fn fetch(&self, path: &ArchivePath, cached: &Path, file: &ChangeFile) -> Result<()> {
        self.download(path, cached, file.bytes).await?;
        faults::hit("apply.downloaded")?;
        if let Err(first) = cache::check(file, cached).await {
            // What was resumed may have been another file's beginning.
            tracing::warn!(file = %path, error = %first.one_line(), "downloading again");
            cache::remove(cached)?;
            self.download(path, cached, file.bytes).await?;
            cache::check(file, cached).await.inspect_err(|_| {
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
        cache::remove(cached)?;
        let part = cache::part_of(cached);
        let (archived, name) = (path.clone(), part.clone());
        // Who waits for the job holds it.
        let waiter = Arc::new(());
        let awaited = Arc::downgrade(&waiter);
        let reading = self.ask(move |archive| cache::resume(archive, &archived, &name, bytes, awaited));
        match reading.await {
            Ok(_) => {}
            Err(error) if error.kind() == Kind::NotFound => return Err(missing(path)),
            Err(error) => return Err(error.context(format!("downloading {path}"))),
        }
        let renaming = || format!("renaming {}", part.display());
        fs::rename(&part, cached).context(renaming)?;
        Ok(())
    }

    /// Removes from the cache what nobody needs any more.
    pub fn sweep(&self, is_needed: impl Fn(SegmentName) -> bool) -> Result<()> {
        self.cache.sweep(is_needed)
    }

    /// Forgets everything that was fetched.
    pub fn forget(&self) -> Result<()> {
        self.cache.remove()
    }

    /// Whether its change file has room in the cache beside those that are held now.
    pub fn has_room_for(&self, segment: &Verified) -> bool {
        self.cache.has_room_for(segment.manifest().file.as_ref().map_or(0, |file| file.bytes))
    }
}

impl Fetched {
    /// After the commit: the archive has it, the cache need not.
    pub fn clean(&self) -> Result<()> {
        match &self.file {
            Some(file) => cache::remove(file),
            None => Ok(()),
        }
    }
}

impl FetchedPart {
    /// It was read: the archive has it, the cache need not.
    pub fn clean(&self) -> Result<()> {
        self.files.iter().try_for_each(|file| cache::remove(file))
    }
}

fn refused(message: String) -> Error {
    Error::new(Kind::Foreign, message).hint(
        "nothing of it was applied; bring both files back from a sound copy or from the archiver's spool",
    )
}

#[cfg(test)]
mod tests {
    use std::io::{self, Write};
    use std::sync::mpsc::{Receiver, Sender, channel};

    use syncdata_archive::{Archive, ArchiveHandle, Content, Entry, Facts, Put};
    use syncdata_formats::error::Result as Answer;
    use syncdata_formats::time::Timestamp;
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

        fn changed_at(&mut self, _: &ArchivePath) -> Answer<Option<Timestamp>> {
            unreachable!("only read")
        }

        fn room(&mut self) -> Answer<Option<u64>> {
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
        assert_eq!(fs::read(cache::part_of(&cached)).expect("it is there"), b"one");
    }
}
