//! Segments that stand on the backup host and that the spool does not know: are they ours?
//!
//! They may be (the spool was restored from a backup, or is new), or somebody put them there who can write on the
//! backup host. With keys, ours carry our signature. With and without, their commits that the slot still offers are
//! compared with it one by one, so that no file of the archive moves a position past changes that are not in it.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::{BufReader, Seek as _, SeekFrom};

use syncdata_archive::ArchiveHandle;
use syncdata_formats::chain::Verified;
use syncdata_formats::change::Record;
use syncdata_formats::error::Context as _;
use syncdata_formats::layout::SegmentSeq;
use syncdata_formats::lsn::Lsn;
use syncdata_formats::manifest::{Gap, Manifest};
use syncdata_formats::name::TableName;
use syncdata_formats::segment::SegmentReader;
use syncdata_formats::{Error, Kind, Result};

use crate::source::Offered;
use crate::spool::ArchivedCommit;

/// What segments say of the source's commits.
#[derive(Debug, Default)]
pub(crate) struct Claims {
    /// Each with its segment.
    commits: Vec<(SegmentSeq, ArchivedCommit)>,
    gaps: Vec<Gap>,
    /// The union of the tables that the adopted segments captured.
    capture: BTreeSet<TableName>,
    start_lsn: Lsn,
    end_lsn: Lsn,
}

impl Claims {
    /// Reads the segments' commits from the archive. The files are read whole, against their manifests.
    pub(crate) async fn read(archive: &ArchiveHandle, segments: &[Verified]) -> Result<Claims> {
        let mut claims = Claims::default();
        for (number, segment) in segments.iter().enumerate() {
            let manifest = segment.manifest();
            claims.end_lsn = manifest.end_lsn;
            claims.gaps.extend(manifest.gaps.iter().cloned());
            let captured: BTreeSet<TableName> = manifest.capture.iter().cloned().collect();
            match number {
                0 => (claims.start_lsn, claims.capture) = (manifest.start_lsn, captured),
                _ => claims.capture.retain(|table| captured.contains(table)),
            }
            if manifest.file.is_some() {
                let segment = segment.clone();
                claims.commits.extend(archive.run(move |archive| commits_of(archive, &segment)).await?);
            }
        }
        Ok(claims)
    }

    /// The last commit of them all.
    pub(crate) fn last(&self) -> Option<ArchivedCommit> {
        self.commits.last().map(|(_, commit)| *commit)
    }

    pub(crate) fn end_lsn(&self) -> Lsn {
        self.end_lsn
    }

    /// Holds them against what the slot offers after `confirmed`. `travels_as` is the captured table that rows of a
    /// relation belong to.
    pub(crate) fn check(
        &self,
        offered: &[Offered],
        confirmed: Lsn,
        travels_as: impl Fn(&TableName) -> Option<TableName>,
    ) -> Result<()> {
        let by_end: BTreeMap<Lsn, &Offered> =
            offered.iter().map(|offered| (offered.transaction.end_lsn, offered)).collect();
        for (segment, commit) in self.commits.iter().filter(|(_, commit)| commit.end_lsn > confirmed) {
            let same = by_end.get(&commit.end_lsn).is_some_and(|offered| {
                let transaction = &offered.transaction;
                (transaction.xid, transaction.committed_at) == (commit.xid, commit.ts)
            });
            if !same {
                return Err(foreign(format!(
                    "segment {segment} of the archive has a transaction {} that ends at {}, which the source's slot \
                     does not offer",
                    commit.xid, commit.end_lsn
                )));
            }
        }
        let archived: BTreeSet<Lsn> = self.commits.iter().map(|(_, commit)| commit.end_lsn).collect();
        for offered in offered {
            let end = offered.transaction.end_lsn;
            if end <= self.start_lsn || end > self.end_lsn || archived.contains(&end) {
                continue;
            }
            let tables = offered.relations.iter().filter_map(&travels_as);
            if let Some(table) = tables.filter(|table| self.is_claimed(table, end)).min() {
                return Err(foreign(format!(
                    "the archive ends at {}, but does not have the transaction {} of {table} that ends at {end}",
                    self.end_lsn, offered.transaction.xid
                )));
            }
        }
        Ok(())
    }

    /// Captured then, and not declared missing.
    fn is_claimed(&self, table: &TableName, end: Lsn) -> bool {
        let missing = |gap: &Gap| gap.from < end && end <= gap.to && gap.concerns(table);
        self.capture.contains(table) && !self.gaps.iter().any(missing)
    }
}

/// One that cannot be held against the source, whose WAL ends at `flush`.
pub(crate) fn past_the_end(segment: &Manifest, flush: Lsn) -> Error {
    let Manifest { seq, end_lsn, .. } = segment;
    foreign(format!(
        "segment {seq} of the archive ends at {end_lsn}, past the end of the source's WAL ({flush})"
    ))
}

/// A batch that has shown what the source does not have.
pub(crate) fn not_shown(segment: &Manifest) -> Error {
    let Manifest { seq, end_lsn, .. } = segment;
    foreign(format!(
        "segment {seq} of the archive, which ends at {end_lsn}, has rows of transactions that the source does not have"
    ))
}

fn foreign(message: String) -> Error {
    Error::new(Kind::Foreign, message).hint(
        "nothing of it was taken over, and nothing was consumed from the slot: look who writes to the archive, and take \
         away what is not this archiver's; if production was restored to an earlier moment, use a new archive_dir and \
         spool_dir, then `resync --all --adopt` on the local side",
    )
}

fn commits_of(
    archive: &mut dyn syncdata_archive::Archive,
    segment: &Verified,
) -> Result<Vec<(SegmentSeq, ArchivedCommit)>> {
    let (manifest, path) = (segment.manifest(), segment.name().file(segment.day()));
    let doing = || format!("reading {path} of the archive");
    let mut file: File = tempfile::tempfile().context(doing)?;
    archive.read(&path, 0, &mut file).context(doing)?;
    file.seek(SeekFrom::Start(0)).context(doing)?;
    let mut reader = SegmentReader::new(BufReader::new(file), manifest).context(doing)?;
    let mut commits = Vec::new();
    while let Some(record) = reader.next().context(doing)? {
        if let Record::Commit(commit) = record {
            let commit = ArchivedCommit { end_lsn: commit.end_lsn, xid: commit.xid, ts: commit.ts };
            commits.push((manifest.seq, commit));
        }
    }
    Ok(commits)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::source::event::Transaction;

    fn lsn(position: u64) -> Lsn {
        Lsn::from_u64(position)
    }

    fn table(name: &str) -> TableName {
        name.parse().expect("a name")
    }

    fn claims(commits: &[(u64, u32)]) -> Claims {
        let ts = "2026-02-05T10:30:00Z".parse().expect("a time");
        let commit =
            |&(end, xid): &(u64, u32)| (SegmentSeq::FIRST, ArchivedCommit { end_lsn: lsn(end), xid, ts });
        Claims {
            commits: commits.iter().map(commit).collect(),
            gaps: Vec::new(),
            capture: [table("a"), table("b")].into(),
            start_lsn: lsn(0x08),
            end_lsn: lsn(0x30),
        }
    }

    fn offered(transactions: &[(u64, u32, &str)]) -> Vec<Offered> {
        let committed_at = "2026-02-05T10:30:00Z".parse().expect("a time");
        let one = |&(end, xid, tables): &(u64, u32, &str)| Offered {
            transaction: Transaction { xid, committed_at, lsn: lsn(end - 1), end_lsn: lsn(end) },
            relations: tables.split_whitespace().map(table).collect(),
        };
        transactions.iter().map(one).collect()
    }

    fn check(claims: &Claims, offered: &[Offered]) -> Result<()> {
        claims.check(offered, lsn(0x10), |name| Some(name.clone()))
    }

    #[test]
    fn commits_that_the_slot_offers_again_are_ours() {
        let claims = claims(&[(0x08, 1), (0x20, 2), (0x30, 4)]);
        let sound = offered(&[(0x20, 2, "a"), (0x28, 3, ""), (0x30, 4, "b"), (0x40, 5, "a")]);
        check(&claims, &sound).expect("the same history");
    }

    #[test]
    fn a_commit_that_never_was_or_one_that_is_missing_is_foreign() {
        for (archived, from_slot, says) in [
            (&[(0x20, 2)][..], &[(0x28, 2, "a")][..], "does not offer"),
            (&[(0x20, 2)], &[(0x20, 3, "a")], "does not offer"),
            (&[(0x20, 2)], &[], "does not offer"),
            (&[(0x20, 2)], &[(0x20, 2, "a"), (0x28, 3, "b")], "does not have"),
            (&[], &[(0x30, 3, "b")], "does not have"),
        ] {
            let error = check(&claims(archived), &offered(from_slot)).expect_err("another history");
            assert!(error.report().contains(says), "{archived:?} {from_slot:?}: {error:?}");
        }
    }

    #[test]
    fn what_was_not_captured_or_is_declared_missing_is_not_missed() {
        let claims = claims(&[(0x20, 2)]);
        check(&claims, &offered(&[(0x20, 2, "a"), (0x28, 3, "other")])).expect("not captured then");
        let gap =
            Gap { from: lsn(0x20), to: lsn(0x30), reason: "declared".into(), tables: Some(vec![table("b")]) };
        let claims = Claims { gaps: vec![gap], ..claims };
        check(&claims, &offered(&[(0x20, 2, "a"), (0x28, 3, "b")])).expect("declared");
        assert!(check(&claims, &offered(&[(0x20, 2, "a"), (0x28, 3, "a")])).is_err(), "of another table");
    }
}
