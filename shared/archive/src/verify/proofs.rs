//! Proofs: each with its manifest, the digest beside it, its signature, and its files of buckets.

use uuid::Uuid;

use super::report::{Report, Verdict};
use crate::{Archive, Entry, EntryKind, proofs};
use syncdata_formats::document::Document;
use syncdata_formats::error::Result;
use syncdata_formats::layout::ArchivePath;
use syncdata_formats::proof::{ProofId, ProofManifest};
use syncdata_formats::signature::VerifyKey;

/// What lies below `proofs/`.
pub(super) struct Proofs<'a> {
    /// `None`: archive.json cannot tell.
    pub archive_id: Option<Uuid>,
    pub verify_key: Option<&'a VerifyKey>,
    /// Sizes only.
    pub quick: bool,
}

impl Proofs<'_> {
    pub(super) fn run(&self, archive: &mut dyn Archive, report: &mut Report) -> Result<()> {
        strangers(archive, report)?;
        for (id, entries) in &proofs::file_names(archive)? {
            if proofs::has_manifest(entries) {
                self.one(archive, id, entries, report)?;
            } else {
                report.note(format!(
                    "{} has no manifest: it is being made, or was left by a crash",
                    id.folder()
                ));
            }
        }
        Ok(())
    }

    fn one(
        &self,
        archive: &mut dyn Archive,
        id: &ProofId,
        entries: &[Entry],
        report: &mut Report,
    ) -> Result<()> {
        let path = id.manifest();
        let proof = match proofs::read(archive, id, self.archive_id, None) {
            Ok(Some(proof)) => proof,
            // It was pruned while we looked.
            Ok(None) => return Ok(()),
            Err(error) => {
                let Some(verdict) = super::verdict(&error) else { return Err(error) };
                report.error(verdict, None, path.as_str(), &error);
                return Ok(());
            }
        };
        self.check_signature(archive, id, entries, report)?;
        for table in proof.tables.values() {
            let path = id.buckets(&table.file)?;
            let there =
                entries.iter().find(|entry| entry.name == table.file && entry.kind == EntryKind::File);
            match there {
                None => report.problem(
                    Verdict::Lost,
                    None,
                    path.as_str(),
                    "it is missing, and the proof needs it",
                ),
                Some(entry) if entry.bytes != table.bytes => {
                    let what = format!("it has {} bytes, the proof says {}", entry.bytes, table.bytes);
                    report.problem(Verdict::Damaged, None, path.as_str(), what);
                }
                Some(_) if self.quick => {}
                Some(_) => {
                    if let Err(error) = proofs::buckets(archive, id, table) {
                        let Some(verdict) = super::verdict(&error) else { return Err(error) };
                        report.error(verdict, None, path.as_str(), &error);
                    }
                }
            }
        }
        leftovers(id, entries, &proof, report);
        Ok(())
    }

    /// It is another kind of trouble than damage.
    fn check_signature(
        &self,
        archive: &mut dyn Archive,
        id: &ProofId,
        entries: &[Entry],
        report: &mut Report,
    ) -> Result<()> {
        let path = id.signature();
        let is_signed = entries.iter().any(|entry| entry.name == path.file_name());
        let Some(key) = self.verify_key else {
            if is_signed {
                report.unchecked_signature();
            }
            return Ok(());
        };
        if !is_signed {
            report.problem(Verdict::Unsigned, None, path.as_str(), "the signature is missing");
            return Ok(());
        }
        let manifest = super::small_file(archive, &id.manifest(), Document::ProofManifest, report)?;
        let signature = super::small_file(archive, &path, Document::Signature, report)?;
        if let (Some(manifest), Some(signature)) = (manifest, signature)
            && let Err(error) = key.verify(&manifest, ProofManifest::FILE, &signature)
        {
            report.error(Verdict::Unsigned, None, path.as_str(), &error);
        }
        Ok(())
    }
}

fn leftovers(id: &ProofId, entries: &[Entry], proof: &ProofManifest, report: &mut Report) {
    let own = [id.manifest(), id.digest(), id.signature()];
    for Entry { name, .. } in entries {
        let is_own = own.iter().any(|path| path.file_name() == name)
            || proof.tables.values().any(|table| table.file == *name);
        if name.ends_with(".part") {
            report.note(format!("{}/{name} is the rest of an upload", id.folder()));
        } else if !is_own {
            report.note(format!("{}/{name} is not ours", id.folder()));
        }
    }
}

fn strangers(archive: &mut dyn Archive, report: &mut Report) -> Result<()> {
    for folder in archive.list(&ArchivePath::proofs())? {
        if folder.kind != EntryKind::Directory || folder.name.parse::<ProofId>().is_err() {
            report.note(format!("{}/{} is not ours", ArchivePath::proofs(), folder.name));
        }
    }
    Ok(())
}
