//! The manifest, last: with it the snapshot exists.

use syncdata_archive::{Archive, ArchiveHandle, small};
use syncdata_formats::Result;
use syncdata_formats::document::Document;
use syncdata_formats::error::Context as _;
use syncdata_formats::layout::ArchivePath;
use syncdata_formats::signature::SigningKey;
use syncdata_formats::snapshot::{SnapshotId, SnapshotManifest};
use syncdata_service::faults;

/// The number of bytes that were sent.
pub(crate) async fn publish(
    archive: &ArchiveHandle,
    manifest: &SnapshotManifest,
    signing_key: Option<&SigningKey>,
) -> Result<u64> {
    let bytes = manifest.encode();
    // What we would refuse to read must not be written.
    SnapshotManifest::decode(&bytes).context(|| "checking the snapshot's manifest".to_owned())?;
    let id = &manifest.id;
    let mut files = vec![(id.digest(), Document::SnapshotDigest, SnapshotManifest::digest_file(&bytes))];
    if let Some(key) = signing_key {
        files.push((id.signature(), Document::Signature, key.sign(&bytes, SnapshotId::MANIFEST)?));
    }
    let path = id.manifest();
    archive
        .run(move |archive| {
            let mut sent = 0;
            for (path, document, bytes) in files {
                sent += put(archive, &path, document, &bytes)?;
            }
            faults::hit("snapshot.before_manifest")?;
            sent += put(archive, &path, Document::SnapshotManifest, &bytes)?;
            faults::hit("snapshot.after_manifest")?;
            Ok(sent)
        })
        .await
}

fn put(archive: &mut dyn Archive, path: &ArchivePath, document: Document, bytes: &[u8]) -> Result<u64> {
    small::put(archive, path, document, bytes)?;
    Ok(bytes.len() as u64)
}
