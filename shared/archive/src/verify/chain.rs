//! The chain of manifests, walked to its end even where it is broken.

use std::collections::BTreeMap;

use super::contents::Job;

use super::inventory::{Inventory, Listed};
use super::range::Range;
use super::report::{Class, Missing, Report, Verdict};
use crate::Archive;
use syncdata_formats::chain::{ChainTip, Verified};
use syncdata_formats::digest::Digest;
use syncdata_formats::document::Document;
use syncdata_formats::error::{Error, Result};
use syncdata_formats::head::Head;
use syncdata_formats::identity::ArchiveIdentity;
use syncdata_formats::layout::{ArchivePath, SegmentSeq};
use syncdata_formats::manifest::{Link, Manifest};
use syncdata_formats::signature::VerifyKey;

pub(super) struct Walk<'a> {
    /// `None`: archive.json cannot tell, the first manifest does.
    pub identity: Option<&'a ArchiveIdentity>,
    pub range: &'a Range,
    pub inventory: &'a Inventory,
    /// Of this archive.
    pub head: Option<&'a Head>,
    pub verify_key: Option<&'a VerifyKey>,
}

/// What the walk has found beside its report.
#[derive(Default)]
pub(super) struct Walked {
    /// Change files to read: those whose manifests are sound.
    pub jobs: Vec<Job>,
    /// Of every manifest that is there, sound or not.
    pub digests: BTreeMap<SegmentSeq, Digest>,
    /// What each that can be read names before it.
    links: BTreeMap<SegmentSeq, Option<Link>>,
    /// Sound but for that link: it, or the one before it, was changed.
    torn: Vec<(SegmentSeq, Error)>,
}

impl Walk<'_> {
    pub(super) fn run(&self, archive: &mut dyn Archive, report: &mut Report) -> Result<Walked> {
        let mut walked = Walked::default();
        let mut expected = self.first_seq();
        let mut tip = None;
        // What is missing after the range was not asked about.
        let mut is_over = false;
        for listed in self.inventory.manifests.values() {
            let seq = listed.name.seq;
            if let Some(expected) = expected {
                if seq > expected {
                    tip = None;
                }
                if !is_over {
                    self.lost(expected.get(), seq.get(), report);
                }
            }
            expected = Some(seq.next());
            let path = listed.name.manifest(listed.day);
            let Some(bytes) = super::small_file(archive, &path, Document::Manifest, report)? else {
                tip = None;
                continue;
            };
            walked.digests.insert(seq, Digest::of(&bytes));
            self.check_signature(archive, listed, &bytes, report)?;
            let manifest = match Manifest::decode(&bytes) {
                Ok(manifest) => manifest,
                Err(error) => {
                    report.error(Verdict::Damaged, Some(seq.get()), path.as_str(), &error);
                    tip = None;
                    continue;
                }
            };
            is_over = self.range.ends_before(&manifest);
            if self.range.ends_long_before(&manifest) {
                break;
            }
            walked.links.insert(seq, manifest.previous);
            let start = tip.take().unwrap_or_else(|| self.start(&manifest));
            let verified = match Verified::new(&start, listed.day, listed.name, &bytes) {
                Ok(verified) => verified,
                Err(error) => {
                    // What would it be if it named what stands before it?
                    let alone = ChainTip::floor(start.archive_id(), manifest.previous);
                    match Verified::new(&alone, listed.day, listed.name, &bytes) {
                        Ok(verified) if manifest.previous != start.previous() => {
                            walked.torn.push((seq, error));
                            verified
                        }
                        _ => {
                            let verdict = super::verdict(&error).unwrap_or(Verdict::Damaged);
                            report.error(verdict, Some(seq.get()), path.as_str(), &error);
                            continue;
                        }
                    }
                }
            };
            tip = Some(verified.tip());
            if self.range.has(verified.manifest(), listed.day) {
                let has_its_size = check_size(listed, verified.manifest(), report);
                self.check_source(&verified, report);
                report.count(verified.manifest());
                walked.jobs.extend(job(&verified).filter(|_| has_its_size));
            }
        }
        if let Some(expected) = expected.filter(|_| !is_over) {
            let known_end = self.inventory.known_end(self.head);
            let end = self.range.numbers().1.map_or(known_end, |to| known_end.min(to - 1));
            self.lost(expected.get(), end + 1, report);
        }
        self.tell_torn(&walked, report);
        Ok(walked)
    }

    /// A link that does not fit: whichever of the two manifests somebody else vouches for is the sound one.
    fn tell_torn(&self, walked: &Walked, report: &mut Report) {
        for (seq, error) in &walked.torn {
            let digest = walked.digests[seq];
            let next = walked.links.get(&seq.next()).copied().flatten();
            let newest = self.head.and_then(|head| head.newest);
            let witness = if next.is_some_and(|link| link.sha256 == digest) {
                format!("segment {}", seq.next())
            } else if newest.is_some_and(|newest| newest.name.seq == *seq && newest.sha256 == digest) {
                "head.json".to_owned()
            } else {
                let listed = &self.inventory.manifests[seq];
                let path = listed.name.manifest(listed.day);
                report.error(Verdict::Foreign, Some(seq.get()), path.as_str(), error);
                continue;
            };
            let before = self.inventory.manifests.values().rev().find(|listed| listed.name.seq < *seq);
            let (number, file) = match before {
                Some(listed) => {
                    (Some(listed.name.seq.get()), listed.name.manifest(listed.day).as_str().to_owned())
                }
                None => (None, "floor.json".to_owned()),
            };
            let what = format!(
                "it is not what segment {seq} names as the one before it, and {witness} vouches for that one: it was \
                 changed"
            );
            report.problem(Verdict::Damaged, number, &file, what);
        }
    }

    /// Segments from one number up to, and without, another one are missing, and must have been there.
    fn lost(&self, from: u64, to: u64, report: &mut Report) {
        if from >= to {
            return;
        }
        report.missing.push(Missing { from, to: to - 1, class: Class::Lost });
        for seq in (from..to).take(super::NAMED_MAX) {
            let (file, mut what) = if seq > self.inventory.newest_seen() {
                let what = "head.json names it or a later one, but it is not there: the archiver sends it again \
                            from its spool, for a day";
                ("head.json".to_owned(), what.to_owned())
            } else {
                let what = "it is missing, and later ones are there: it was lost";
                (format!("segment {seq}"), what.to_owned())
            };
            if self.inventory.without_manifest.contains_key(&seq) {
                what.push_str("; its change file is still there, its manifest is not");
            }
            report.problem(Verdict::Lost, Some(seq), &file, what);
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

    /// Where the archive, or the part of it, must begin; `None` when that goes by time.
    fn first_seq(&self) -> Option<SegmentSeq> {
        let first = self.inventory.floor.as_ref().map_or(SegmentSeq::FIRST, |floor| floor.seq);
        let asked = self.range.numbers().0.and_then(|from| SegmentSeq::new(from).ok());
        (!self.range.begins_with_a_time()).then(|| asked.map_or(first, |asked| asked.max(first)))
    }

    /// What a manifest without a known predecessor has to follow: what it says itself, or the floor.
    fn start(&self, manifest: &Manifest) -> ChainTip {
        let archive_id = self.identity.map_or(manifest.archive_id, |identity| identity.archive_id);
        match &self.inventory.floor {
            Some(floor) if floor.seq == manifest.seq => floor.tip(),
            _ => ChainTip::floor(archive_id, manifest.previous),
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
        if let Some(signature) = super::small_file(archive, &path, Document::Signature, report)?
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
