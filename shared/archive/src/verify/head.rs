//! What head.json, floor.json and whoever remembers a segment say of the archive, held against what is there.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use super::chain::Walked;
use super::inventory::Inventory;
use super::range::Range;
use super::report::{Class, Missing, Report, Verdict};
use crate::Archive;
use syncdata_formats::digest::Digest;
use syncdata_formats::document::Document;
use syncdata_formats::error::{Error, Result};
use syncdata_formats::head::{Head, Newest};
use syncdata_formats::identity::ArchiveIdentity;
use syncdata_formats::layout::{ArchivePath, SegmentSeq};
use syncdata_formats::time::Timestamp;

/// An archive that covers nothing newer than this stands still, or is an old copy of one.
const STILL_AFTER: Duration = Duration::from_secs(24 * 60 * 60);

/// A manifest that somebody remembers: `42=9c1f…`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Remembered {
    seq: SegmentSeq,
    sha256: Digest,
}

impl FromStr for Remembered {
    type Err = Error;

    fn from_str(text: &str) -> Result<Remembered> {
        let bad = || Error::bad_input("a segment's number and the SHA-256 of its manifest (42=9c1f…)", text);
        let (seq, sha256) = text.split_once('=').ok_or_else(bad)?;
        let seq = SegmentSeq::new(seq.parse().map_err(|_| bad())?)?;
        Ok(Remembered { seq, sha256: sha256.parse()? })
    }
}

impl fmt::Display for Remembered {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}={}", self.seq.get(), self.sha256)
    }
}

/// head.json, as it was before anything else was looked at: what is shipped later it does not name.
pub(super) enum HeadFile {
    Missing,
    /// Whatever is wrong with it was reported already.
    Unfit,
    Damaged(Error),
    Sound(Head),
}

impl HeadFile {
    pub(super) fn read(archive: &mut dyn Archive, report: &mut Report) -> Result<HeadFile> {
        let problems = report.problems.len();
        Ok(match super::small_file(archive, &ArchivePath::head(), Document::Head, report)? {
            None if report.problems.len() > problems => HeadFile::Unfit,
            None => HeadFile::Missing,
            Some(bytes) => Head::decode(&bytes).map_or_else(HeadFile::Damaged, HeadFile::Sound),
        })
    }

    pub(super) fn sound(&self) -> Option<&Head> {
        match self {
            HeadFile::Sound(head) => Some(head),
            HeadFile::Missing | HeadFile::Unfit | HeadFile::Damaged(_) => None,
        }
    }
}

/// What the documents beside the segments claim.
pub(super) struct Claims<'a> {
    pub identity: Option<&'a ArchiveIdentity>,
    pub range: &'a Range,
    pub inventory: &'a Inventory,
    /// Of this archive.
    pub head: Option<&'a Head>,
    pub walked: &'a Walked,
}

impl Claims<'_> {
    /// A hint that is missing or old is no problem; one that names more than there is, or something else, is.
    pub(super) fn head(&self, file: &HeadFile, now: Timestamp, report: &mut Report) {
        let path = ArchivePath::head();
        let head = match file {
            HeadFile::Missing => return report.note("head.json is missing: the next poll writes it"),
            HeadFile::Unfit => return,
            HeadFile::Damaged(error) => return report.error(Verdict::Damaged, None, path.as_str(), error),
            HeadFile::Sound(head) => head,
        };
        if self.head.is_none() {
            let what = format!("it is the head of archive {}", head.archive_id);
            return report.problem(Verdict::Foreign, None, path.as_str(), what);
        }
        report.covered_at = Some(head.covered_at);
        let age = now.since(head.covered_at);
        if age > STILL_AFTER {
            let hours = age.as_secs() / 3600;
            report.note(format!(
                "head.json is {hours} hours old: the archive stands still, or this is an old copy"
            ));
        }
        match head.newest {
            Some(named) => self.newest(head, named, report),
            None if self.inventory.newest().is_some() => {
                report.note("head.json is older than the first segment: the next poll replaces it");
            }
            None => {}
        }
    }

    /// One that is not there was told by the walk.
    fn newest(&self, head: &Head, named: Newest, report: &mut Report) {
        let seq = named.name.seq;
        let Some(listed) = self.inventory.manifests.get(&seq) else { return };
        let path = named.manifest_path();
        let there = listed.name.manifest(listed.day);
        let wrong = |report: &mut Report, what: String| {
            report.problem(Verdict::Damaged, None, ArchivePath::head().as_str(), what);
        };
        if there.as_str() != path.as_str() {
            wrong(report, format!("it names {path}, and segment {seq} is {there}"));
        } else if self.walked.digests.get(&seq).is_some_and(|found| *found != named.sha256) {
            let what = "its SHA-256 is not the one that head.json names: one of them was changed";
            let known = report.problems.iter().any(|problem| problem.file == path.as_str());
            if !known {
                report.problem(Verdict::Damaged, Some(seq.get()), path.as_str(), what);
            }
        } else if head.covered_lsn < named.name.end_lsn {
            let (covered, end) = (head.covered_lsn, named.name.end_lsn);
            wrong(
                report,
                format!("it covers all up to {covered}, and names segment {seq}, which ends at {end}"),
            );
        } else if self.inventory.newest() > Some(seq) {
            report.note("head.json is older than the newest segment: the next poll replaces it");
        }
    }

    /// Which segments are not there for a reason that is none of damage.
    pub(super) fn missing(&self, report: &mut Report) {
        if let Some(floor) = &self.inventory.floor {
            if self.identity.is_some_and(|ours| ours.archive_id != floor.archive_id) {
                let what = format!("it is the floor of archive {}", floor.archive_id);
                report.problem(Verdict::Foreign, None, "floor.json", what);
            }
            let (from, to) = self.range.numbers();
            let (from, to) = (from.unwrap_or(1), to.map_or(floor.seq.get(), |to| to.min(floor.seq.get())));
            if from < to {
                report.missing.push(Missing { from, to: to - 1, class: Class::Pruned });
            }
        }
        let newest = self.inventory.known_end(self.head);
        let on_its_way = self.inventory.without_manifest.keys().next_back().copied().unwrap_or(0);
        let asked = self.range.numbers().1.map_or(0, |to| to - 1);
        let last = on_its_way.max(asked);
        if last > newest {
            let from = self.range.numbers().0.map_or(newest + 1, |from| from.max(newest + 1));
            report.missing.push(Missing { from, to: last, class: Class::NotYetShipped });
        }
    }

    /// What somebody remembers must still be there: nothing in an archive shows that all of it was taken back.
    pub(super) fn remembered(&self, remembered: Remembered, report: &mut Report) {
        let seq = remembered.seq;
        let file = format!("segment {}", seq.get());
        match self.walked.digests.get(&seq) {
            Some(found) if *found == remembered.sha256 => {}
            Some(_) => {
                let what = "its manifest is not the one that is remembered: the archive was rewritten";
                report.problem(Verdict::Foreign, Some(seq.get()), &file, what);
            }
            None if self.inventory.is_pruned(seq) => {
                report.note(format!("{file}, which is remembered, was pruned"));
            }
            None if self.range.is_part() => {
                report.note(format!("{file}, which is remembered, is not in the range"));
            }
            None => {
                let what =
                    "it is remembered and not there any more: the archive was taken back to an earlier state";
                report.problem(Verdict::Lost, Some(seq.get()), &file, what);
            }
        }
    }
}
