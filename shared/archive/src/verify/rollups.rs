//! Roll-ups: each holds, byte for byte, what the chain vouches for.

use std::collections::BTreeMap;

use super::chain::Walked;
use super::contents::Job;
use super::inventory::Inventory;
use super::range::Range;
use super::report::{Problem, Report, Verdict};
use crate::rollups::{self, Listed};
use crate::{Archive, EntryKind};
use syncdata_formats::digest::Digest;
use syncdata_formats::document::Document;
use syncdata_formats::error::Result;
use syncdata_formats::layout::{ArchivePath, RollupFile, SegmentFile, SegmentName};
use syncdata_formats::rollup::Rollup;
use syncdata_formats::signature::VerifyKey;
use syncdata_formats::time::Day;
use uuid::Uuid;

pub(super) struct RollUps<'a> {
    pub archive_id: Option<Uuid>,
    pub verify_key: Option<&'a VerifyKey>,
    pub quick: bool,
    pub range: &'a Range,
    pub inventory: &'a Inventory,
    pub walked: &'a Walked,
    /// What is read of the segments: their sound manifests.
    pub jobs: &'a [Job],
}

impl RollUps<'_> {
    pub(super) fn run(&self, archive: &mut dyn Archive, report: &mut Report) -> Result<()> {
        let (days, others) = rollups::folders(archive)?;
        for other in others {
            report.note(format!("rollups/{} is not ours", other.name));
        }
        let files: BTreeMap<SegmentName, Digest> = self.jobs.iter().filter_map(Job::change_file).collect();
        for day in days.into_iter().filter(|day| self.range.may_lie_in(*day)) {
            let entries = archive.list(&ArchivePath::rollups_of(day))?;
            let listed = rollups::listed(day, &entries);
            for entry in &entries {
                let path = format!("{}/{}", ArchivePath::rollups_of(day), entry.name);
                match RollupFile::parse(&entry.name).filter(|_| entry.kind == EntryKind::File) {
                    Some(file) if listed.iter().any(|listed| listed.name == file.name()) => {}
                    Some(_) => report.note(format!("{path} has no manifest: it does not exist, or not yet")),
                    None if entry.name.ends_with(".part") => {
                        report.note(format!("{path} is the rest of an upload"));
                    }
                    None => report.note(format!("{path} is not ours")),
                }
            }
            for listed in listed {
                let before = report.problems.len();
                self.one(archive, day, listed, &files, report)?;
                let is_lost = |problem: &Problem| problem.verdict == Verdict::Lost;
                // A prune takes the manifest first: what it removes while we look is nobody's loss.
                if report.problems[before..].iter().any(is_lost)
                    && archive.stat(&listed.name.manifest(day))?.is_none()
                {
                    report.problems.truncate(before);
                }
            }
        }
        Ok(())
    }

    fn one(
        &self,
        archive: &mut dyn Archive,
        day: Day,
        listed: Listed,
        files: &BTreeMap<SegmentName, Digest>,
        report: &mut Report,
    ) -> Result<()> {
        let name = listed.name;
        let (path, seq) = (name.manifest(day), Some(name.last.get()));
        if !self.range.may_have_some(name.first, name.last) {
            return Ok(());
        }
        if self.inventory.is_pruned(name.last) {
            report.note(format!("{path} lies before the floor: a prune was interrupted"));
            return Ok(());
        }
        let rollup = match rollups::read(archive, listed, None) {
            Ok(rollup) => rollup,
            Err(error) => {
                let Some(verdict) = super::verdict(&error) else { return Err(error) };
                report.error(verdict, seq, path.as_str(), &error);
                return Ok(());
            }
        };
        self.check_signature(archive, listed, report)?;
        if self.archive_id.is_some_and(|ours| ours != rollup.archive_id) {
            let what = format!("it belongs to archive {}", rollup.archive_id);
            report.problem(Verdict::Foreign, seq, path.as_str(), what);
            return Ok(());
        }
        self.compare(&rollup, files, report)?;
        if !self.quick
            && let Err(error) = rollups::check(archive, &rollup)
        {
            let verdict = super::verdict(&error);
            let verdict = verdict.or_else(|| super::is_of_one_file(&error).then_some(Verdict::Unreadable));
            let Some(verdict) = verdict else { return Err(error) };
            report.error(verdict, seq, name.tar(day).as_str(), &error);
        }
        Ok(())
    }

    /// Another file than the chain's, under the same name, would be sound by itself.
    fn compare(
        &self,
        rollup: &Rollup,
        files: &BTreeMap<SegmentName, Digest>,
        report: &mut Report,
    ) -> Result<()> {
        for place in rollup.places()? {
            let segment = place.file.segment();
            let known = match place.file {
                SegmentFile::Manifest(_) => self.walked.digests.get(&segment.seq),
                SegmentFile::Changes(_) => files.get(&segment),
                SegmentFile::Signature(_) => None,
            };
            if known.is_some_and(|known| *known != place.sha256) {
                let path = rollup.name().manifest(rollup.day);
                let what = format!("it holds another {} than the chain vouches for", place.file.file_name());
                report.problem(Verdict::Foreign, Some(segment.seq.get()), path.as_str(), what);
            }
        }
        Ok(())
    }

    fn check_signature(&self, archive: &mut dyn Archive, listed: Listed, report: &mut Report) -> Result<()> {
        let (path, seq) = (listed.name.signature(listed.day), Some(listed.name.last.get()));
        let Some(key) = self.verify_key else {
            if listed.is_signed {
                report.unchecked_signature();
            }
            return Ok(());
        };
        if !listed.is_signed {
            report.problem(Verdict::Unsigned, seq, path.as_str(), "the signature is missing");
            return Ok(());
        }
        let manifest = listed.name.manifest(listed.day);
        let manifest = super::small_file(archive, &manifest, Document::RollupManifest, report)?;
        let signature = super::small_file(archive, &path, Document::Signature, report)?;
        if let (Some(manifest), Some(signature)) = (manifest, signature)
            && let Err(error) = key.verify(&manifest, &listed.name.manifest_name(), &signature)
        {
            report.error(Verdict::Unsigned, seq, path.as_str(), &error);
        }
        Ok(())
    }
}
