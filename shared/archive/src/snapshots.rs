//! Which snapshots an archive has.

use std::collections::{BTreeMap, HashMap};

use crate::{Archive, Entry, EntryKind, small};
use syncdata_formats::document::Document;
use syncdata_formats::error::{Error, Kind, Result};
use syncdata_formats::layout::ArchivePath;
use syncdata_formats::manifest::ChangeFile;
use syncdata_formats::signature::VerifyKey;
use syncdata_formats::snapshot::{Part, PartName, SnapshotId, SnapshotManifest};

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
    let found = file_names(archive)?.into_iter();
    Ok(found.filter(|(_, entries)| has_manifest(entries)).map(|(id, _)| id).collect())
}

/// The manifest, against the digest beside it and, with a key, its signature.
pub fn read(
    archive: &mut dyn Archive,
    id: &SnapshotId,
    verify_key: Option<&VerifyKey>,
) -> Result<SnapshotManifest> {
    let bytes = required(archive, &id.manifest(), Document::SnapshotManifest)?;
    let beside = required(archive, &id.digest(), Document::SnapshotDigest)?;
    if beside != SnapshotManifest::digest_file(&bytes) {
        let message = format!("{} is not the file whose SHA-256 stands in {}", id.manifest(), id.digest());
        return Err(Error::new(Kind::Corrupt, message).hint(
            "nothing of this snapshot is used; bring both files back from a sound copy, or take a new snapshot",
        ));
    }
    if let Some(key) = verify_key {
        let signature = required(archive, &id.signature(), Document::Signature)?;
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

fn required(archive: &mut dyn Archive, path: &ArchivePath, document: Document) -> Result<Vec<u8>> {
    small::read(archive, path, document)?
        .ok_or_else(|| Error::new(Kind::NotFound, format!("{path} is missing on the backup host")))
}

/// Whether the snapshot exists: without a manifest it is being written, or was left by a crash.
pub fn has_manifest(entries: &[Entry]) -> bool {
    entries.iter().any(|entry| entry.kind == EntryKind::File && entry.name == SnapshotId::MANIFEST)
}

/// Which files of parts are there, with their sizes.
#[derive(Debug, Default)]
pub struct Files(HashMap<String, u64>);

impl Files {
    pub fn of(listed: &BTreeMap<SnapshotId, Vec<Entry>>) -> Files {
        let mut files = HashMap::new();
        for (id, entries) in listed {
            for entry in entries.iter().filter(|entry| entry.kind == EntryKind::File) {
                if let Some(name) = PartName::parse_in(id, &entry.name) {
                    files.insert(name.to_string(), entry.bytes);
                }
            }
        }
        Files(files)
    }

    pub fn have(&self, part: &Part) -> bool {
        part.files.iter().all(|file| self.has(file))
    }

    pub fn has(&self, file: &ChangeFile) -> bool {
        self.0.get(&file.file) == Some(&file.bytes)
    }
}

#[cfg(test)]
mod tests {
    use std::io::Cursor;

    use syncdata_formats::digest::Digest;
    use syncdata_formats::manifest::{Column, FORMAT, Relation, ReplicaIdentity};
    use syncdata_formats::snapshot::{Seen, SnapshotSource, TableCopy};

    use super::*;
    use crate::{DirectoryArchive, Facts};

    fn id() -> SnapshotId {
        SnapshotId::new(
            "0/16B3D40".parse().expect("an LSN"),
            "2026-02-05T10:30:00.5Z".parse().expect("a time"),
        )
    }

    fn manifest() -> SnapshotManifest {
        let id_column =
            Column { name: "id".into(), type_name: "bigint".into(), not_null: true, ..Column::default() };
        let empty = TableCopy {
            relation: Relation::new(vec![id_column], vec!["id".into()], ReplicaIdentity::Default),
            columns: vec!["id".into()],
            rows: 0,
            content_bytes: 0,
            parts: vec![],
            sequences: BTreeMap::new(),
        };
        SnapshotManifest {
            format: FORMAT,
            archive_id: uuid::Uuid::from_u128(7),
            id: id(),
            start_lsn: "0/16B3D40".parse().expect("an LSN"),
            end_lsn: "0/16B3E00".parse().expect("an LSN"),
            snapshot: Seen { xmin: 751, xmax: 760, xip: vec![751, 755] },
            taken_at: "2026-02-05T10:30:00Z".parse().expect("a time"),
            source: SnapshotSource {
                system_identifier: "7300000000000000001".into(),
                timeline: 1,
                database: "app".into(),
                server_version: "18.6".into(),
                slot: "syncdata_slot".into(),
                settings: BTreeMap::new(),
            },
            tables: BTreeMap::from([("users".parse().expect("a table"), empty)]),
            created_at: "2026-02-05T10:31:00Z".parse().expect("a time"),
            archiver: "0.1.0".into(),
        }
    }

    #[test]
    fn every_flipped_bit_of_a_manifest_in_an_archive_is_refused() {
        let folder = tempfile::tempdir().expect("a folder");
        let mut archive = DirectoryArchive::new(folder.path());
        let sound = manifest().encode();
        let digest = SnapshotManifest::digest_file(&sound);
        for (path, bytes) in [(id().digest(), &digest), (id().manifest(), &sound)] {
            let facts = Facts { bytes: bytes.len() as u64, sha256: Digest::of(bytes) };
            archive.put(&path, &mut Cursor::new(bytes.clone()), facts).expect("written");
        }
        assert_eq!(list(&mut archive).ok(), Some(vec![id()]));
        assert_eq!(read(&mut archive, &id(), None).ok(), Some(manifest()));
        for (path, bytes) in [(id().digest(), digest), (id().manifest(), sound)] {
            let file = folder.path().join(path.as_str());
            for at in 0..bytes.len() {
                let mut damaged = bytes.clone();
                damaged[at] ^= 1 << (at % 8);
                std::fs::write(&file, &damaged).expect("ours");
                assert!(read(&mut archive, &id(), None).is_err(), "accepted byte {at} of {path}");
            }
            std::fs::write(&file, &bytes).expect("ours");
        }
    }
}
