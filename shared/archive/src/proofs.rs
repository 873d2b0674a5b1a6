//! Which proofs an archive has, read with every check that a file can be given, and written so that one exists whole or
//! not at all.

use std::collections::BTreeMap;

use uuid::Uuid;

use crate::{Archive, Entry, EntryKind, small};
use syncdata_formats::document::Document;
use syncdata_formats::error::{Context as _, Error, Kind, Result};
use syncdata_formats::layout::ArchivePath;
use syncdata_formats::proof::{Buckets, ProofId, ProofManifest, ProvedTable};
use syncdata_formats::signature::{SigningKey, VerifyKey};

/// Every folder that is named as a proof's is, with what lies in it, from the oldest to the newest. One without a
/// manifest is being written, or was left by a crash.
pub fn file_names(archive: &mut dyn Archive) -> Result<BTreeMap<ProofId, Vec<Entry>>> {
    let mut found = BTreeMap::new();
    for folder in archive.list(&ArchivePath::proofs())? {
        if let (EntryKind::Directory, Ok(id)) = (folder.kind, folder.name.parse::<ProofId>()) {
            let entries = archive.list(&id.folder())?;
            found.insert(id, entries);
        }
    }
    Ok(found)
}

pub fn has_manifest(entries: &[Entry]) -> bool {
    entries.iter().any(|entry| entry.kind == EntryKind::File && entry.name == ProofManifest::FILE)
}

/// The manifest, against the digest beside it and, with a key, its signature; of that archive, and of that name.
/// `None`: there is no such proof, or not yet.
pub fn read(
    archive: &mut dyn Archive,
    id: &ProofId,
    archive_id: Option<Uuid>,
    verify_key: Option<&VerifyKey>,
) -> Result<Option<ProofManifest>> {
    let Some(bytes) = small::read(archive, &id.manifest(), Document::ProofManifest)? else { return Ok(None) };
    checked(archive, id, archive_id, verify_key, &bytes)
        .map(Some)
        .map_err(|error| error.context(format!("proof {id} is refused")))
}

fn checked(
    archive: &mut dyn Archive,
    id: &ProofId,
    archive_id: Option<Uuid>,
    verify_key: Option<&VerifyKey>,
    bytes: &[u8],
) -> Result<ProofManifest> {
    let beside = required(archive, &id.digest(), Document::ProofDigest)?;
    if beside != ProofManifest::digest_file(bytes) {
        let message = format!("{} is not the file whose SHA-256 stands in {}", id.manifest(), id.digest());
        return Err(Error::new(Kind::Corrupt, message)
            .hint("nothing of this proof is used; bring both files back from a sound copy, or have a new proof made"));
    }
    if let Some(key) = verify_key {
        let signature = required(archive, &id.signature(), Document::Signature)?;
        key.verify(bytes, ProofManifest::FILE, &signature)?;
    }
    let manifest = ProofManifest::decode(bytes)?;
    if manifest.id != *id {
        let message = format!("{} is the manifest of proof {}", id.manifest(), manifest.id);
        return Err(Error::new(Kind::Foreign, message));
    }
    if archive_id.is_some_and(|ours| ours != manifest.archive_id) {
        let message = format!("it belongs to archive {}", manifest.archive_id);
        return Err(Error::new(Kind::Foreign, message));
    }
    Ok(manifest)
}

/// What production's table was reduced to.
pub fn buckets(archive: &mut dyn Archive, id: &ProofId, table: &ProvedTable) -> Result<Buckets> {
    let path = id.buckets(&table.file)?;
    let bytes = required(archive, &path, Document::ProofBuckets)?;
    Buckets::decode(table, &bytes).context(|| format!("{path} is refused"))
}

fn required(archive: &mut dyn Archive, path: &ArchivePath, document: Document) -> Result<Vec<u8>> {
    small::read(archive, path, document)?
        .ok_or_else(|| Error::new(Kind::NotFound, format!("{path} is missing on the backup host")))
}

/// A file of buckets. It is nobody's before the manifest is there.
pub fn put_buckets(archive: &mut dyn Archive, id: &ProofId, name: &str, file: &[u8]) -> Result<()> {
    small::put(archive, &id.buckets(name)?, Document::ProofBuckets, file).map(drop)
}

/// The manifest, last: with it the proof exists.
pub fn publish(
    archive: &mut dyn Archive,
    manifest: &ProofManifest,
    signing_key: Option<&SigningKey>,
) -> Result<()> {
    let bytes = manifest.encode();
    // What we would refuse to read must not be written.
    ProofManifest::decode(&bytes).context(|| "checking the proof's manifest".to_owned())?;
    let id = &manifest.id;
    small::put(archive, &id.digest(), Document::ProofDigest, &ProofManifest::digest_file(&bytes))?;
    if let Some(key) = signing_key {
        let signature = key.sign(&bytes, ProofManifest::FILE)?;
        small::put(archive, &id.signature(), Document::Signature, &signature)?;
    }
    small::put(archive, &id.manifest(), Document::ProofManifest, &bytes).map(drop)
}

#[cfg(test)]
pub(crate) mod sample {
    use syncdata_formats::digest::Digest;
    use syncdata_formats::layout::SegmentSeq;
    use syncdata_formats::manifest::FORMAT;
    use syncdata_formats::proof::Cut;
    use syncdata_formats::snapshot::Seen;

    use super::*;

    /// A proof of one empty table that exists.
    pub(crate) fn published(archive: &mut dyn Archive) -> ProofManifest {
        let file = Buckets::new(0).encode().expect("zstd");
        let proof = proof(&file);
        put_buckets(archive, &proof.id, "1.buckets.zst", &file).expect("put");
        publish(archive, &proof, None).expect("published");
        proof
    }

    pub(crate) fn proof(buckets: &[u8]) -> ProofManifest {
        let table = ProvedTable {
            rows: 0,
            k: 0,
            relation: Digest::of(b"relation"),
            file: ProofId::buckets_name(1),
            bytes: buckets.len() as u64,
            sha256: Digest::of(buckets),
            not_comparable: vec![],
            computed: BTreeMap::new(),
            foreign_keys: vec![],
            rules: BTreeMap::new(),
        };
        ProofManifest {
            format: FORMAT,
            archive_id: Uuid::from_u128(7),
            id: "00000000016B3D40-20260205T103000Z".parse().expect("an id"),
            cut: Cut {
                seq: SegmentSeq::FIRST,
                sha256: Digest::of(b"m"),
                end_lsn: "0/16B3D40".parse().expect("an LSN"),
            },
            taken_at: "2026-02-05T10:30:00Z".parse().expect("a time"),
            snapshot: Seen { xmin: 1, xmax: 2, xip: vec![] },
            tables: BTreeMap::from([("users".parse().expect("a table"), table)]),
            not_proved: BTreeMap::new(),
            created_at: "2026-02-05T10:31:00Z".parse().expect("a time"),
            archiver: "0.1.0".into(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::sample::proof;
    use super::*;
    use crate::DirectoryArchive;

    #[test]
    fn a_proof_that_is_forged_swapped_or_damaged_is_refused_by_name() {
        let folder = tempfile::tempdir().expect("a folder");
        let mut archive = DirectoryArchive::new(folder.path());
        let file = Buckets::new(0).encode().expect("zstd");
        let proof = proof(&file);
        let (secret, _) = SigningKey::generate().expect("a key");
        let key = SigningKey::parse(&secret, None).expect("our key");
        let ours = Some(proof.archive_id);
        assert_eq!(read(&mut archive, &proof.id, ours, None).expect("readable"), None);
        put_buckets(&mut archive, &proof.id, "1.buckets.zst", &file).expect("put");
        assert!(!has_manifest(&file_names(&mut archive).expect("listed")[&proof.id]));
        publish(&mut archive, &proof, Some(&key)).expect("published");

        let verify_key = key.verify_key();
        let found = read(&mut archive, &proof.id, ours, Some(&verify_key)).expect("sound");
        assert_eq!(found.as_ref(), Some(&proof));
        let table = proof.tables.values().next().expect("one");
        assert_eq!(buckets(&mut archive, &proof.id, table).expect("sound"), Buckets::new(0));
        let other = Some(Uuid::from_u128(8));
        let error = read(&mut archive, &proof.id, other, None).expect_err("another archive").report();
        assert!(error.contains(proof.id.as_str()) && error.contains("belongs to archive"), "{error}");
        let (secret, _) = SigningKey::generate().expect("a key");
        let stranger = SigningKey::parse(&secret, None).expect("a key").verify_key();
        let error = read(&mut archive, &proof.id, ours, Some(&stranger)).expect_err("forged").report();
        assert!(error.contains("signature"), "{error}");

        // Another proof's files under this name.
        let swapped: ProofId = "00000000016B3D41-20260205T103000Z".parse().expect("an id");
        std::fs::create_dir_all(folder.path().join(swapped.folder().as_str())).expect("ours");
        for name in [ProofManifest::FILE, "proof.manifest.json.sha256"] {
            let from = folder.path().join(proof.id.folder().as_str()).join(name);
            std::fs::copy(from, folder.path().join(swapped.folder().as_str()).join(name)).expect("ours");
        }
        let error = read(&mut archive, &swapped, ours, None).expect_err("swapped").report();
        assert!(error.contains("is the manifest of proof"), "{error}");

        for path in
            [proof.id.manifest(), proof.id.digest(), proof.id.buckets("1.buckets.zst").expect("a name")]
        {
            let place = folder.path().join(path.as_str());
            let sound = std::fs::read(&place).expect("there");
            for at in 0..sound.len() {
                let mut damaged = sound.clone();
                damaged[at] ^= 1 << (at % 8);
                std::fs::write(&place, &damaged).expect("ours");
                let read = read(&mut archive, &proof.id, ours, None);
                let both = read.and_then(|_| buckets(&mut archive, &proof.id, table));
                assert!(both.is_err(), "accepted byte {at} of {path}");
            }
            std::fs::write(&place, &sound).expect("ours");
        }
    }
}
