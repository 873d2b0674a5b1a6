//! Whose doing it is that a table differs: what production, archive and copy had at the cut of the newest proof.

use syncdata_formats::error::Kind;
use syncdata_formats::name::TableName;
use syncdata_formats::proof::{Buckets, Cut, MarkedTable, ProofId};
use uuid::Uuid;

use super::record::{self, Last, Outcome};
use super::report::{Blame, BucketDifference, LISTED_MAX, Report};
use super::verdict::{computed_otherwise, local_buckets};
use crate::archive::hand_files::HandFiles;
use crate::load::Halt;
use crate::target::postgres::local::Local;

/// The newest proof that compared the table.
pub(super) struct Proof {
    pub id: ProofId,
    pub cut: Cut,
    pub marked: MarkedTable,
    source: Buckets,
    /// Ours at the cut; `None` where a newer mark has discarded it.
    local: Option<Buckets>,
    /// Columns that are computed otherwise there, where all else was the same.
    pub computed_otherwise: Vec<String>,
    /// It says that the table differs.
    pub differs: bool,
}

impl Proof {
    /// Refused: it said that the table differs, and does not tell any more whose doing it was.
    pub(super) async fn of(
        local: &Local,
        files: &HandFiles,
        archive_id: Uuid,
        table: &TableName,
    ) -> Result<Option<Proof>, Halt> {
        let Some(last) = record::last_compared(local, table).await? else { return Ok(None) };
        match Proof::read(local, files, archive_id, table, &last).await {
            Ok(proof) => Ok(Some(proof)),
            Err(Halt::Refused(refusal)) if last.differs => {
                let reason = format!("proof {} said that {table} differs, and {}", last.id, refusal.reason);
                Err(Halt::refused(table, reason))
            }
            Err(Halt::Refused(_)) => Ok(None),
            Err(failed) => Err(failed),
        }
    }

    async fn read(
        local: &Local,
        files: &HandFiles,
        archive_id: Uuid,
        table: &TableName,
        last: &Last,
    ) -> Result<Proof, Halt> {
        let source = &files.source;
        let unknown = |reason: &str| Halt::refused(table, reason);
        let proof = source.proof(&last.id, archive_id).await?;
        let proof = proof.ok_or_else(|| unknown("it is not in the archive any more"))?;
        let proved =
            proof.tables.get(table).ok_or_else(|| unknown("the one in the archive does not have it"))?;
        let waiting = record::waiting(local).await?.filter(|waiting| waiting.mark.id == last.id);
        let digested = waiting.as_ref().and_then(|waiting| waiting.tables.get(table));
        let (marked, ours) = match (&waiting, digested.and_then(|digested| digested.marked.clone())) {
            (Some(waiting), Some(marked)) if waiting.cut == proof.cut => {
                let ours = match digested.map(|digested| &digested.outcome) {
                    Some(Outcome::Done { rows, buckets, .. }) => Some(local_buckets(proved, *rows, buckets)?),
                    _ => None,
                };
                (marked, ours)
            }
            (Some(_), _) => return Err(unknown("it speaks of another place by now")),
            // A newer mark has come since, and our digests of this one are gone.
            (None, _) => match super::marked(source, archive_id, &proof, table).await {
                Ok((marked, _)) => (marked, None),
                Err(error) if error.kind().refuses_archive() || error.kind() == Kind::NotFound => {
                    return Err(unknown(&error.one_line()));
                }
                Err(error) => return Err(error.into()),
            },
        };
        let theirs = source.buckets(&proof.id, proved).await?;
        if theirs.k() != marked.k {
            return Err(unknown("it counts rows otherwise than its mark says"));
        }
        let computed_otherwise = match digested.map(|digested| &digested.outcome) {
            Some(Outcome::Done { answers, .. }) if ours.as_ref() == Some(&theirs) => {
                computed_otherwise(proved, answers)
            }
            _ => Vec::new(),
        };
        let differs = ours.as_ref().map_or(last.differs, |ours| *ours != theirs);
        let differs = differs || !computed_otherwise.is_empty();
        let (id, cut) = (proof.id, proof.cut);
        Ok(Proof { id, cut, marked, source: theirs, local: ours, computed_otherwise, differs })
    }

    /// Bucket by bucket: where the archive has what production has, the copy is to blame; where it has something else than
    /// production, the stream, and the copy too unless it has what one of the two has.
    pub(super) fn blame(&self, archive: Option<&Buckets>, report: &mut Report) -> Option<Blame> {
        let Some(archive) = archive else { return self.differs.then_some(Blame::Unknown) };
        let (mut by_copy, mut by_stream) = (false, false);
        for (bucket, (theirs, stream)) in (0..).zip(self.source.iter().zip(archive.iter())) {
            let ours = self.local.as_ref().map(|local| local.get(bucket));
            by_copy |= ours.is_some_and(|ours| ours != stream && ours != theirs);
            if theirs != stream {
                by_stream = true;
                if report.buckets.len() < LISTED_MAX {
                    report.buckets.push(BucketDifference {
                        bucket,
                        source_rows: theirs.0,
                        archive_rows: stream.0,
                    });
                }
            }
        }
        match (by_copy, by_stream) {
            // Our digests are gone, and the archive had what production had.
            (false, false) if self.local.is_none() && self.differs => Some(Blame::Local),
            (false, false) => None,
            (true, false) => Some(Blame::Local),
            (false, true) => Some(Blame::Stream),
            (true, true) => Some(Blame::Both),
        }
    }
}
