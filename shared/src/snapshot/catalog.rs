//! Which snapshots an archive has.

use std::collections::BTreeMap;

use super::{SnapshotId, SnapshotManifest};
use crate::archive::{Archive, Entry, EntryKind};
use crate::digest::Digest;
use crate::error::{Error, Kind, Result};
use crate::layout::ArchivePath;
use crate::signature::{SIGNATURE_BYTES_MAX, VerifyKey};

/// Every folder that is named as a snapshot's is, with what lies in it, from the oldest to the newest. One without a
/// manifest is being written, or was left by a crash.
pub fn file_names(archive: &mut dyn Archive) -> Result<BTreeMap<SnapshotId, Vec<Entry>>> {
    let mut found = BTreeMap::new();
    for folder in archive.list(&ArchivePath::snapshots())? {
        if let (EntryKind::Directory, Ok(id)) = (folder.kind, folder.name.parse::<SnapshotId>()) {
            let entries = archive.list(&id.folder())?;
            found.insert(id, entries);
        }
    }
    Ok(found)
}

/// Those that exist, which is those that have a manifest.
pub fn list(archive: &mut dyn Archive) -> Result<Vec<SnapshotId>> {
    let has_manifest = |entries: &[Entry]| {
        entries.iter().any(|entry| entry.kind == EntryKind::File && entry.name == SnapshotId::MANIFEST)
    };
    let found = file_names(archive)?.into_iter();
    Ok(found.filter(|(_, entries)| has_manifest(entries)).map(|(id, _)| id).collect())
}

/// The manifest, against the digest beside it and, with a key, its signature.
pub fn read(
    archive: &mut dyn Archive,
    id: &SnapshotId,
    verify_key: Option<&VerifyKey>,
) -> Result<SnapshotManifest> {
    let bytes = small_file(archive, &id.manifest(), SnapshotManifest::BYTES_MAX)?;
    let beside = small_file(archive, &id.digest(), DIGEST_FILE_BYTES_MAX)?;
    if beside != digest_file(&bytes) {
        let message = format!("{} is not the file whose SHA-256 stands in {}", id.manifest(), id.digest());
        return Err(Error::new(Kind::Corrupt, message).hint(
            "nothing of this snapshot is used; bring both files back from a sound copy, or take a new snapshot",
        ));
    }
    if let Some(key) = verify_key {
        let signature = small_file(archive, &id.signature(), SIGNATURE_BYTES_MAX)?;
        key.verify(&bytes, SnapshotId::MANIFEST, &signature)
            .map_err(|error| error.context(format!("snapshot {id}")))?;
    }
    let manifest = SnapshotManifest::decode(&bytes)?;
    if manifest.id != *id {
        let message = format!("{} is the manifest of snapshot {}", id.manifest(), manifest.id);
        return Err(Error::new(Kind::Foreign, message));
    }
    Ok(manifest)
}

const DIGEST_FILE_BYTES_MAX: usize = 1024;

/// One line for `sha256sum -c`.
pub(super) fn digest_file(manifest: &[u8]) -> Vec<u8> {
    format!("{}  {}\n", Digest::of(manifest), SnapshotId::MANIFEST).into_bytes()
}

impl SnapshotManifest {
    /// The line beside the manifest, for `sha256sum -c`.
    pub fn digest_file(bytes: &[u8]) -> Vec<u8> {
        digest_file(bytes)
    }
}

fn small_file(archive: &mut dyn Archive, path: &ArchivePath, bytes_max: usize) -> Result<Vec<u8>> {
    match archive.stat(path)? {
        Some(Entry { kind: EntryKind::File, bytes, .. }) if bytes <= bytes_max as u64 => {
            let mut content = Vec::new();
            archive.read(path, 0, &mut content)?;
            Ok(content)
        }
        Some(_) => Err(Error::new(Kind::Corrupt, format!("{path} is no file of at most {bytes_max} bytes"))),
        None => Err(Error::new(Kind::NotFound, format!("{path} is missing on the backup host"))),
    }
}
