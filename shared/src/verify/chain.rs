//! The chain of manifests, walked to its end even where it is broken.

use std::collections::BTreeMap;

use super::contents::Job;

use super::inventory::{Inventory, Listed};
use super::range::Range;
use super::report::{Class, Missing, Report, Verdict};
use crate::archive::Archive;
use crate::chain::{ChainTip, Verified};
use crate::digest::Digest;
use crate::error::Result;
use crate::identity::ArchiveIdentity;
use crate::layout::{ArchivePath, SegmentSeq};
use crate::manifest::Manifest;
use crate::signature::{SIGNATURE_BYTES_MAX, VerifyKey};

pub(super) struct Walk<'a> {
    /// `None`: archive.json cannot tell, the first manifest does.
    pub identity: Option<&'a ArchiveIdentity>,
    pub range: &'a Range,
    pub inventory: &'a Inventory,
    pub verify_key: Option<&'a VerifyKey>,
}

/// What the walk has found beside its report.
#[derive(Default)]
pub(super) struct Walked {
    /// Change files to read: those whose manifests are sound.
    pub jobs: Vec<Job>,
    /// Of every manifest that is there, sound or not.
    pub digests: BTreeMap<SegmentSeq, Digest>,
}

impl Walk<'_> {
    pub(super) fn run(&self, archive: &mut dyn Archive, report: &mut Report) -> Result<Walked> {
        let mut walked = Walked::default();
        let mut expected = self.first_seq();
        let mut tip = None;
        for listed in self.inventory.manifests.values() {
            let seq = listed.name.seq;
            if let Some(expected) = expected
                && seq > expected
            {
                self.lost(expected, seq, report);
                tip = None;
            }
            expected = Some(seq.next());
            let path = listed.name.manifest(listed.day);
            let Some(bytes) = super::small_file(archive, &path, Manifest::BYTES_MAX, report)? else {
                tip = None;
                continue;
            };
            walked.digests.insert(seq, Digest::of(&bytes));
            self.check_signature(archive, listed, &bytes, report)?;
            let start = tip.or_else(|| self.start(seq, &bytes));
            tip = None;
            match start.map(|start| Verified::new(&start, listed.day, listed.name, &bytes)) {
                Some(Ok(verified)) => {
                    tip = Some(verified.tip());
                    if self.range.has(verified.manifest()) {
                        let has_its_size = check_size(listed, verified.manifest(), report);
                        self.check_source(&verified, report);
                        report.count(verified.manifest());
                        walked.jobs.extend(job(&verified).filter(|_| has_its_size));
                    }
                }
                Some(Err(error)) => {
                    let verdict = super::verdict(&error).unwrap_or(Verdict::Damaged);
                    report.error(verdict, Some(seq.get()), path.as_str(), &error);
                }
                None => {
                    let error = Manifest::decode(&bytes).expect_err("only what cannot be read has no start");
                    report.error(Verdict::Damaged, Some(seq.get()), path.as_str(), &error);
                }
            }
        }
        Ok(walked)
    }

    /// Segments from one number up to, and without, another one are missing, and later ones are there.
    fn lost(&self, from: SegmentSeq, to: SegmentSeq, report: &mut Report) {
        report.missing.push(Missing { from: from.get(), to: to.get() - 1, class: Class::Lost });
        for seq in (from.get()..to.get()).take(super::NAMED_MAX) {
            let mut what = "it is missing, and later ones are there: it was lost".to_owned();
            if self.inventory.without_manifest.contains_key(&seq) {
                what.push_str("; its change file is still there, its manifest is not");
            }
            report.problem(Verdict::Lost, Some(seq), &format!("segment {seq}"), what);
        }
    }

    /// A copy of another cluster's archive may have the same id; its rows are other rows all the same.
    fn check_source(&self, segment: &Verified, report: &mut Report) {
        let Some(identity) = self.identity else { return };
        let (found, ours) = (&segment.manifest().source, &identity.source);
        let same = found.system_identifier == ours.system_identifier
            && found.database == ours.database
            && found.slot == ours.slot;
        if !same {
            let (seq, path) = (segment.manifest().seq.get(), segment.manifest_path());
            let what = format!(
                "it was read from slot {} of database {} in cluster {}; the archive belongs to slot {} of database {} in \
                 cluster {}",
                found.slot,
                found.database,
                found.system_identifier,
                ours.slot,
                ours.database,
                ours.system_identifier
            );
            report.problem(Verdict::Foreign, Some(seq), path.as_str(), what);
        }
    }

    /// Where the archive must begin; `None` for a part of it, which may begin anywhere.
    fn first_seq(&self) -> Option<SegmentSeq> {
        match &self.inventory.floor {
            _ if self.range.is_part() => None,
            Some(floor) => Some(floor.seq),
            None => Some(SegmentSeq::FIRST),
        }
    }

    /// What a manifest without a known predecessor has to follow: what it says itself, or the floor.
    fn start(&self, seq: SegmentSeq, bytes: &[u8]) -> Option<ChainTip> {
        let manifest = Manifest::decode(bytes).ok()?;
        let archive_id = self.identity.map_or(manifest.archive_id, |identity| identity.archive_id);
        match &self.inventory.floor {
            Some(floor) if floor.seq == seq => Some(floor.tip()),
            _ => Some(ChainTip::floor(archive_id, manifest.previous)),
        }
    }

    fn check_signature(
        &self,
        archive: &mut dyn Archive,
        listed: &Listed,
        manifest: &[u8],
        report: &mut Report,
    ) -> Result<()> {
        let Some(key) = self.verify_key else {
            if listed.is_signed {
                report.unchecked_signature();
            }
            return Ok(());
        };
        let seq = Some(listed.name.seq.get());
        let path: ArchivePath = listed.name.signature(listed.day);
        if !listed.is_signed {
            report.problem(Verdict::Unsigned, seq, path.as_str(), "the signature is missing");
            return Ok(());
        }
        if let Some(signature) = super::small_file(archive, &path, SIGNATURE_BYTES_MAX, report)?
            && let Err(error) = key.verify(manifest, &listed.name.manifest_name(), &signature)
        {
            report.error(Verdict::Unsigned, seq, path.as_str(), &error);
        }
        Ok(())
    }
}

/// Without what reading the change file does not need: an archive has many manifests.
fn job(segment: &Verified) -> Option<Job> {
    let path = segment.file_path()?;
    let mut manifest = segment.manifest().clone();
    manifest.relations.clear();
    manifest.capture.clear();
    Some(Job::Segment { path, manifest: Box::new(manifest) })
}

/// False: there is nothing to read, or nothing that could be right.
fn check_size(listed: &Listed, manifest: &Manifest, report: &mut Report) -> bool {
    let Some(file) = &manifest.file else { return false };
    let (seq, path) = (Some(manifest.seq.get()), listed.name.file(listed.day));
    match listed.changes {
        None => report.problem(Verdict::Lost, seq, path.as_str(), "the change file is missing"),
        Some(bytes) if bytes != file.bytes => {
            let what = format!("it has {bytes} bytes, its manifest says {}", file.bytes);
            report.problem(Verdict::Damaged, seq, path.as_str(), what);
        }
        Some(_) => return true,
    }
    false
}
