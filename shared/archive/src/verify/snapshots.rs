//! Base copies: each with its manifest, the digest beside it, its signature, and every file that it needs.

use std::collections::{BTreeMap, BTreeSet};

use uuid::Uuid;

use super::contents::Job;
use super::report::{Problem, Report, Verdict};
use crate::snapshots;
use crate::{Archive, Entry, EntryKind};
use syncdata_formats::document::Document;
use syncdata_formats::error::Result;
use syncdata_formats::layout::ArchivePath;
use syncdata_formats::signature::VerifyKey;
use syncdata_formats::snapshot::{PartName, SnapshotId, SnapshotManifest};

/// What lies below `snapshots/`.
pub(super) struct Snapshots<'a> {
    /// `None`: archive.json cannot tell.
    pub archive_id: Option<Uuid>,
    pub verify_key: Option<&'a VerifyKey>,
}

impl Snapshots<'_> {
    /// The parts to read; what manifests and sizes tell is in the report.
    pub(super) fn run(&self, archive: &mut dyn Archive, report: &mut Report) -> Result<Vec<Job>> {
        let folders = snapshots::file_names(archive)?;
        strangers(archive, report)?;
        let mut sizes = BTreeMap::new();
        for (id, entries) in &folders {
            for entry in entries {
                if let Some(name) =
                    PartName::parse_in(id, &entry.name).filter(|_| entry.kind == EntryKind::File)
                {
                    sizes.insert(name.to_string(), entry.bytes);
                }
            }
        }
        let mut needed = BTreeSet::new();
        let mut all_are_sound = true;
        // Snapshots share parts: each is read once.
        let mut jobs = BTreeMap::new();
        for (id, entries) in &folders {
            let has = |name: &str| entries.iter().any(|entry| entry.name == name);
            if !has(SnapshotId::MANIFEST) {
                report.note(format!(
                    "{} has no manifest: it is being made, or was left by a crash",
                    id.folder()
                ));
                all_are_sound = false;
                continue;
            }
            let Some(manifest) = self.manifest(archive, id, has(SnapshotId::SIGNATURE), report)? else {
                all_are_sound = false;
                continue;
            };
            report.count_snapshot(&manifest);
            check_sizes(&manifest, &sizes, report);
            for part in manifest.tables.into_values().flat_map(|table| table.parts) {
                needed.extend(part.files.iter().map(|file| file.file.clone()));
                let chain: Vec<String> = part.files.iter().map(|file| file.file.clone()).collect();
                jobs.entry(chain).or_insert(Job::Part(part));
            }
        }
        leftovers(&folders, &needed, all_are_sound, report);
        Ok(jobs.into_values().collect())
    }

    /// A snapshot that was pruned while we looked is nobody's loss: only what is still needed is.
    pub(super) fn forget_removed(&self, archive: &mut dyn Archive, report: &mut Report) -> Result<()> {
        let is_of_one = |problem: &Problem| problem.file.starts_with("snapshots/");
        if !report.problems.iter().any(|problem| problem.verdict == Verdict::Lost && is_of_one(problem)) {
            return Ok(());
        }
        let mut now = Report::new("", true);
        self.run(archive, &mut now)?;
        let still = |problem: &Problem| now.problems.iter().any(|now| now.file == problem.file);
        report
            .problems
            .retain(|problem| problem.verdict != Verdict::Lost || !is_of_one(problem) || still(problem));
        Ok(())
    }

    /// `None`: it cannot be trusted, and the report says why.
    fn manifest(
        &self,
        archive: &mut dyn Archive,
        id: &SnapshotId,
        is_signed: bool,
        report: &mut Report,
    ) -> Result<Option<SnapshotManifest>> {
        let path = id.manifest();
        // The signature is looked at apart: it is another kind of trouble.
        let manifest = match snapshots::read(archive, id, None) {
            Ok(manifest) => manifest,
            Err(error) => {
                let Some(verdict) = super::verdict(&error) else { return Err(error) };
                report.error(verdict, None, path.as_str(), &error);
                return Ok(None);
            }
        };
        if let Some(key) = self.verify_key {
            self.check_signature(archive, id, key, is_signed, report)?;
        } else if is_signed {
            report.unchecked_signature();
        }
        if self.archive_id.is_some_and(|ours| ours != manifest.archive_id) {
            let what = format!("it belongs to archive {}", manifest.archive_id);
            report.problem(Verdict::Foreign, None, path.as_str(), what);
            return Ok(None);
        }
        Ok(Some(manifest))
    }

    fn check_signature(
        &self,
        archive: &mut dyn Archive,
        id: &SnapshotId,
        key: &VerifyKey,
        is_signed: bool,
        report: &mut Report,
    ) -> Result<()> {
        let path = id.signature();
        if !is_signed {
            report.problem(Verdict::Unsigned, None, path.as_str(), "the signature is missing");
            return Ok(());
        }
        let manifest = super::small_file(archive, &id.manifest(), Document::SnapshotManifest, report)?;
        let signature = super::small_file(archive, &path, Document::Signature, report)?;
        if let (Some(manifest), Some(signature)) = (manifest, signature)
            && let Err(error) = key.verify(&manifest, SnapshotId::MANIFEST, &signature)
        {
            report.error(Verdict::Unsigned, None, path.as_str(), &error);
        }
        Ok(())
    }
}

fn check_sizes(manifest: &SnapshotManifest, sizes: &BTreeMap<String, u64>, report: &mut Report) {
    for file in manifest.files() {
        let path = format!("{}/{}", ArchivePath::snapshots(), file.file);
        let what = match sizes.get(&file.file) {
            Some(bytes) if *bytes == file.bytes => continue,
            Some(bytes) => (
                Verdict::Damaged,
                format!("it has {bytes} bytes, snapshot {} says {}", manifest.id, file.bytes),
            ),
            None => (Verdict::Lost, format!("it is missing, and snapshot {} needs it", manifest.id)),
        };
        if !report.problems.iter().any(|problem| problem.file == path) {
            report.problem(what.0, None, &path, what.1);
        }
    }
}

/// What nobody needs. While a manifest cannot be read, nobody knows what it needs.
fn leftovers(
    folders: &BTreeMap<SnapshotId, Vec<Entry>>,
    needed: &BTreeSet<String>,
    all_are_sound: bool,
    report: &mut Report,
) {
    for (id, entries) in folders {
        for Entry { name, kind, .. } in entries {
            let own =
                [SnapshotId::MANIFEST, SnapshotId::DIGEST, SnapshotId::SIGNATURE].contains(&name.as_str());
            let path = format!("{}/{name}", id.folder());
            if name.ends_with(".part") {
                report.note(format!("{path} is the rest of an upload"));
            } else if let Some(part) = PartName::parse_in(id, name).filter(|_| *kind == EntryKind::File) {
                if all_are_sound && !needed.contains(&part.to_string()) {
                    report.note(format!("{path} is in no snapshot's manifest"));
                }
            } else if !own {
                report.note(format!("{path} is not ours"));
            }
        }
    }
}

fn strangers(archive: &mut dyn Archive, report: &mut Report) -> Result<()> {
    for folder in archive.list(&ArchivePath::snapshots())? {
        if folder.kind != EntryKind::Directory || folder.name.parse::<SnapshotId>().is_err() {
            report.note(format!("{}/{} is not ours", ArchivePath::snapshots(), folder.name));
        }
    }
    Ok(())
}
