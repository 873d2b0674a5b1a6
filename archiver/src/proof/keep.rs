//! The newest three proofs of each table stay, the others go.

use std::collections::BTreeMap;

use syncdata_archive::{Archive, ArchiveHandle, Entry, proofs};
use syncdata_formats::name::TableName;
use syncdata_formats::proof::ProofId;
use syncdata_formats::signature::VerifyKey;
use syncdata_formats::time::Timestamp;
use syncdata_formats::{Kind, Result};
use tracing::{info, warn};

const KEPT: usize = 3;

/// Beside the one that was just published.
pub(super) async fn newest(archive: &ArchiveHandle, published: &ProofId) -> Result<()> {
    let published = published.clone();
    archive.run(move |archive| remove_old(archive, &published)).await
}

/// When the newest proof was made that can be read and counts.
pub(super) fn newest_taken_at(
    archive: &mut dyn Archive,
    verify_key: Option<&VerifyKey>,
    counts: impl Fn(Timestamp) -> bool,
) -> Result<Option<Timestamp>> {
    for (id, entries) in proofs::file_names(archive)?.into_iter().rev() {
        match proofs::has_manifest(&entries).then(|| proofs::read(archive, &id, None, verify_key)) {
            Some(Ok(Some(proof))) if counts(proof.taken_at) => return Ok(Some(proof.taken_at)),
            Some(Err(error)) if error.kind() == Kind::Unreachable => return Err(error),
            _ => {}
        }
    }
    Ok(None)
}

fn remove_old(archive: &mut dyn Archive, published: &ProofId) -> Result<()> {
    let mut counted: BTreeMap<TableName, usize> = BTreeMap::new();
    for (id, entries) in proofs::file_names(archive)?.into_iter().rev() {
        if !proofs::has_manifest(&entries) {
            // One proof is made at a time: an older one that has no manifest by now never gets one.
            if id < *published {
                remove_files(archive, &id, &entries)?;
                info!(proof = %id, "what was left of a proof that was never published is removed");
            }
            continue;
        }
        let proof = match proofs::read(archive, &id, None, None) {
            Ok(Some(proof)) => proof,
            Ok(None) => continue,
            // Somebody may want to see what is wrong with it.
            Err(error) => {
                warn!(proof = %id, error = %error.one_line(), "a proof cannot be read, and stays");
                continue;
            }
        };
        let is_wanted = proof.tables.keys().any(|table| counted.get(table).copied().unwrap_or(0) < KEPT);
        for table in proof.tables.keys() {
            *counted.entry(table.clone()).or_default() += 1;
        }
        if !is_wanted {
            // The manifest first: with it the proof goes, and the rest is nobody's.
            archive.remove(&id.manifest())?;
            remove_files(archive, &id, &entries)?;
            info!(proof = %id, "an old proof is removed");
        }
    }
    Ok(())
}

fn remove_files(archive: &mut dyn Archive, id: &ProofId, entries: &[Entry]) -> Result<()> {
    for entry in entries {
        archive.remove(&id.folder().join(&entry.name)?)?;
    }
    archive.remove(&id.folder())?;
    Ok(())
}
