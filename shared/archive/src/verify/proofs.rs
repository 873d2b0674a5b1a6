//! Proofs: each with its manifest, the digest beside it, its signature, and its files of buckets.

use uuid::Uuid;

use super::report::{Problem, Report, Verdict};
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
                let before = report.problems.len();
                self.one(archive, id, entries, report)?;
                let is_lost = |problem: &Problem| problem.verdict == Verdict::Lost;
                // A prune takes the manifest first: what it removes while we look is nobody's loss.
                if report.problems[before..].iter().any(is_lost) && archive.stat(&id.manifest())?.is_none() {
                    report.problems.truncate(before);
                }
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

#[cfg(test)]
mod tests {
    use std::fs;
    use std::io::Write;
    use std::path::Path;

    use syncdata_formats::time::Timestamp;

    use super::*;
    use crate::{Content, DirectoryArchive, Facts, Put};

    /// A prune begins when the first file of buckets is asked for.
    struct Pruned<'a> {
        archive: DirectoryArchive,
        folder: &'a Path,
    }

    impl Archive for Pruned<'_> {
        fn location(&self) -> &str {
            self.archive.location()
        }

        fn put(&mut self, path: &ArchivePath, content: &mut dyn Content, facts: Facts) -> Result<Put> {
            self.archive.put(path, content, facts)
        }

        fn replace(&mut self, path: &ArchivePath, content: &[u8]) -> Result<()> {
            self.archive.replace(path, content)
        }

        fn read(&mut self, path: &ArchivePath, offset: u64, into: &mut dyn Write) -> Result<u64> {
            if path.as_str().ends_with(".buckets.zst") {
                let place = self.folder.join(path.as_str());
                fs::remove_file(place.with_file_name(ProofManifest::FILE)).expect("it was read before");
                fs::remove_file(place).expect("it was listed before");
            }
            self.archive.read(path, offset, into)
        }

        fn list(&mut self, folder: &ArchivePath) -> Result<Vec<Entry>> {
            self.archive.list(folder)
        }

        fn stat(&mut self, path: &ArchivePath) -> Result<Option<Entry>> {
            self.archive.stat(path)
        }

        fn remove(&mut self, path: &ArchivePath) -> Result<bool> {
            self.archive.remove(path)
        }

        fn changed_at(&mut self, path: &ArchivePath) -> Result<Option<Timestamp>> {
            self.archive.changed_at(path)
        }

        fn room(&mut self) -> Result<Option<u64>> {
            self.archive.room()
        }
    }

    #[test]
    fn a_proof_that_is_pruned_while_we_look_is_nobodys_loss() {
        let folder = tempfile::tempdir().expect("a folder");
        let mut archive = DirectoryArchive::new(folder.path());
        let proof = proofs::sample::published(&mut archive);
        let all = Proofs { archive_id: Some(proof.archive_id), verify_key: None, quick: false };
        let mut report = Report::new("here", false);
        let mut pruned = Pruned { archive, folder: folder.path() };
        all.run(&mut pruned, &mut report).expect("readable");
        assert_eq!(report.problems, []);

        // A file that is missing while the proof stands is one.
        let mut archive = DirectoryArchive::new(folder.path());
        proofs::sample::published(&mut archive);
        fs::remove_file(folder.path().join(proof.id.folder().as_str()).join("1.buckets.zst")).expect("ours");
        all.run(&mut archive, &mut report).expect("readable");
        assert_eq!(report.problems.len(), 1, "{:?}", report.problems);
    }
}
