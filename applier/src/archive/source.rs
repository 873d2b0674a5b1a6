//! Questions to the archive: what is there, how far it is, and each manifest checked against the one before.

use std::fs::File;
use std::path::PathBuf;
use std::sync::Arc;

use syncdata_archive::listing::{self, Listing};
use syncdata_archive::{Archive, ArchiveHandle, small, snapshots};
use syncdata_formats::ack::Ack;
use syncdata_formats::chain::{ChainTip, Verified};
use syncdata_formats::digest::Digest;
use syncdata_formats::document::Document;
use syncdata_formats::error::{Error, Kind, Result};
use syncdata_formats::floor::Floor;
use syncdata_formats::head::Head;
use syncdata_formats::identity::ArchiveIdentity;
use syncdata_formats::layout::{ArchivePath, SegmentName};
use syncdata_formats::manifest::Link;
use syncdata_formats::segment::SegmentReader;
use syncdata_formats::signature::VerifyKey;
use syncdata_formats::snapshot::SnapshotManifest;
use syncdata_formats::time::{Day, Timestamp};
use uuid::Uuid;

use super::cache::Cache;
use super::silence::{Attentive, Silence};

/// The archive, and the place where its files are kept while they are applied.
#[derive(Clone, Debug)]
pub struct Source {
    archive: ArchiveHandle,
    pub(super) cache: Cache,
    verify_key: Option<VerifyKey>,
    pub(super) line_bytes_max: usize,
    silence: Silence,
}

impl Source {
    pub fn new(
        archive: ArchiveHandle,
        cache: PathBuf,
        cache_bytes_max: u64,
        verify_key: Option<VerifyKey>,
    ) -> Result<Source> {
        Ok(Source::of(archive, Cache::open(cache, cache_bytes_max)?, verify_key))
    }

    /// For one command by hand, which may work beside a daemon of another account.
    pub fn by_hand(
        archive: ArchiveHandle,
        cache: PathBuf,
        cache_bytes_max: u64,
        verify_key: Option<VerifyKey>,
    ) -> Result<Source> {
        Ok(Source::of(archive, Cache::open_by_hand(cache, cache_bytes_max)?, verify_key))
    }

    fn of(archive: ArchiveHandle, cache: Cache, verify_key: Option<VerifyKey>) -> Source {
        let line_bytes_max = SegmentReader::<File>::LINE_BYTES_MAX;
        Source { archive, cache, verify_key, line_bytes_max, silence: Silence::default() }
    }

    /// Whoever waits for all of it hears how long nothing was heard.
    #[must_use]
    pub fn with_silence(self, silence: Silence) -> Source {
        Source { silence, ..self }
    }

    /// One job for the archive: waits for its turn and for the answer.
    pub(super) async fn ask<T: Send + 'static>(
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
    /// Of the longest record that is read.
    pub fn line_bytes_max(&self) -> usize {
        self.line_bytes_max
    }

    pub fn with_line_bytes_max(self, line_bytes_max: usize) -> Source {
        Source { line_bytes_max, ..self }
    }

    pub(super) fn verify_key(&self) -> Option<&VerifyKey> {
        self.verify_key.as_ref()
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

    /// When head.json was written, by the clock of the host that it lies on.
    pub async fn head_written_at(&self) -> Result<Option<Timestamp>> {
        self.ask(|archive| archive.changed_at(&ArchivePath::head())).await
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

    /// `None`: there is no such file.
    async fn small_file(&self, path: &ArchivePath, document: Document) -> Result<Option<Vec<u8>>> {
        let wanted = path.clone();
        let read = self.ask(move |archive| small::read(archive, &wanted, document));
        read.await.map_err(|error| error.context(format!("reading {path}")))
    }
}

pub(super) fn missing(path: &ArchivePath) -> Error {
    Error::new(Kind::Foreign, format!("{path} is missing on the backup host"))
        .hint("put it back; the archiver keeps shipped files in its spool for a day and sends them again")
}
