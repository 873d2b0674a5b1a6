//! The newest three proofs of each table stay, the others go.

use std::collections::BTreeMap;

use syncdata_archive::{Archive, ArchiveHandle, proofs};
use syncdata_formats::name::TableName;
use syncdata_formats::proof::ProofId;
use syncdata_formats::time::Timestamp;
use syncdata_formats::{Kind, Result};
use tracing::{info, warn};

const KEPT: usize = 3;

pub(super) async fn newest(archive: &ArchiveHandle) -> Result<()> {
    archive.run(|archive| remove_old(archive)).await
}

/// When the newest proof was made that can be read.
pub(super) fn newest_taken_at(archive: &mut dyn Archive) -> Result<Option<Timestamp>> {
    for (id, entries) in proofs::file_names(archive)?.into_iter().rev() {
        match proofs::has_manifest(&entries).then(|| proofs::read(archive, &id, None, None)) {
            Some(Ok(Some(proof))) => return Ok(Some(proof.taken_at)),
            Some(Err(error)) if error.kind() == Kind::Unreachable => return Err(error),
            _ => {}
        }
    }
    Ok(None)
}

fn remove_old(archive: &mut dyn Archive) -> Result<()> {
    let mut counted: BTreeMap<TableName, usize> = BTreeMap::new();
    for (id, entries) in proofs::file_names(archive)?.into_iter().rev() {
        if !proofs::has_manifest(&entries) {
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
            remove(archive, &id, entries.iter().map(|entry| entry.name.as_str()))?;
        }
    }
    Ok(())
}

/// The manifest first: with it the proof goes, and the rest is nobody's.
fn remove<'a>(archive: &mut dyn Archive, id: &ProofId, names: impl Iterator<Item = &'a str>) -> Result<()> {
    archive.remove(&id.manifest())?;
    for name in names {
        archive.remove(&id.folder().join(name)?)?;
    }
    archive.remove(&id.folder())?;
    info!(proof = %id, "an old proof is removed");
    Ok(())
}
