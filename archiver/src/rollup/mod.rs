//! Roll-ups: the small files of segments of a closed hour or day, once more, in one tar. Readers who begin ask for a few
//! files instead of hundreds of thousands; what lies alone may leave then (`prune`, `keep_singles`).
//!
//! ```text
//! a day's folder ─▶ plan ─▶ each run: manifests as a chain, files with their SHA-256 ─▶ tar on this host
//!                                                          tar ─▶ signature ─▶ manifest, on the backup host
//! ```
//! Its manifest comes last: without it a roll-up does not exist, so that a crash leaves nothing but a file that is sent
//! again. It is made beside the polls, over a connection of its own, out of what the spool still has.

mod pack;
mod plan;

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use syncdata_archive::{Archive, ArchiveHandle, Entry, EntryKind, listing, rollups};
use syncdata_formats::layout::{ArchivePath, SegmentFile, SegmentName, SegmentSeq};
use syncdata_formats::signature::SigningKey;
use syncdata_formats::time::{Day, Timestamp};
use syncdata_formats::{Error, Kind, Result};
use syncdata_service::config::Config;
use tracing::{info, warn};
use uuid::Uuid;

use pack::{Neighbours, Packing};
use plan::Piece;
pub(crate) use plan::hour_of;

/// A day's folder gets its last segments somewhat after midnight.
const DAY_CLOSES_AFTER: Duration = Duration::from_secs(24 * 3600 + 300);

/// Whether somebody wants them: with a poll every ten minutes an archive is small enough without.
pub(crate) fn are_wanted(config: &Config) -> bool {
    config.follow || config.keep_singles.is_some()
}

/// What making them depends on.
#[derive(Clone, Debug)]
struct Terms {
    archive_id: Uuid,
    /// Where files may still lie that the backup host has.
    spool_dir: PathBuf,
    signing_key: Option<Arc<SigningKey>>,
    now: Timestamp,
}

/// What came of it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Made {
    pub rollups: u64,
    pub segments: u64,
    /// Before that day there is nothing more to do.
    pub done_before: Option<Day>,
}

/// Makes those that are due, from the oldest day on; with `from`, days before it have been looked at. A run that cannot be
/// rolled up stays as it is, and keeps no other one from it.
pub(crate) async fn make(
    archive: &ArchiveHandle,
    config: &Config,
    archive_id: Uuid,
    from: Option<Day>,
) -> Result<Made> {
    let terms = Terms::of(config, archive_id)?;
    let mut made = Made { done_before: from, ..Made::default() };
    let (floor, days) = due_days(archive, from).await?;
    let (mut before, mut is_clean) = (None, true);
    for day in days {
        let due = due_of(archive, day, &terms, floor).await?;
        for run in due.runs {
            let neighbours = Neighbours::of(&run, &due.places, before, day);
            let (signed, terms) = (Arc::clone(&due.signed), Arc::clone(&terms));
            let packing = Packing { day, run, signed, neighbours, terms };
            let segments = packing.run.len() as u64;
            match archive.run(move |archive| packing.publish(archive)).await {
                Ok(()) => {
                    made.rollups += 1;
                    made.segments += segments;
                }
                Err(error) if is_of_one_run(&error) => {
                    is_clean = false;
                    warn!(error = %error.one_line(), hint = error.hint_text(), "segments stay as they are");
                }
                Err(error) => return Err(error),
            }
        }
        if is_clean && terms.is_closed(day) {
            made.done_before = Some(day);
        }
        before = due.places.last_key_value().map(|(_, name)| (day, *name)).or(before);
    }
    if made.rollups > 0 {
        info!(rollups = made.rollups, segments = made.segments, "segments rolled up");
    }
    Ok(made)
}

/// Whether others may still be rolled up.
fn is_of_one_run(error: &Error) -> bool {
    matches!(error.kind(), Kind::Corrupt | Kind::Foreign | Kind::NotFound | Kind::Conflict | Kind::BadInput)
}

/// How many segments the next making takes.
pub(crate) async fn foresee(archive: &ArchiveHandle, config: &Config, archive_id: Uuid) -> Result<u64> {
    let terms = Terms::of(config, archive_id)?;
    let (floor, days) = due_days(archive, None).await?;
    let mut segments = 0;
    for day in days {
        let due = due_of(archive, day, &terms, floor).await?;
        segments += due.runs.iter().map(|run| run.len() as u64).sum::<u64>();
    }
    Ok(segments)
}

async fn due_days(archive: &ArchiveHandle, from: Option<Day>) -> Result<(Option<SegmentSeq>, Vec<Day>)> {
    let floor = archive.run(listing::floor).await?.map(|floor| floor.seq);
    let (mut days, _) = archive.run(listing::folders).await?;
    days.retain(|day| from.is_none_or(|from| *day >= from));
    Ok((floor, days))
}

async fn due_of(
    archive: &ArchiveHandle,
    day: Day,
    terms: &Arc<Terms>,
    floor: Option<SegmentSeq>,
) -> Result<Due> {
    let terms = Arc::clone(terms);
    let mut due = archive.run(move |archive| Due::of_day(archive, day, &terms)).await?;
    // The rest of a prune that was interrupted.
    due.runs.retain(|run| floor.is_none_or(|floor| run[0].seq >= floor));
    Ok(due)
}

/// What a day's folder has for us.
struct Due {
    runs: Vec<Vec<SegmentName>>,
    /// Every segment of the day, by its number, wherever it lies.
    places: BTreeMap<u64, SegmentName>,
    /// Those of them whose manifest is signed.
    signed: Arc<BTreeSet<SegmentName>>,
}

impl Due {
    fn of_day(archive: &mut dyn Archive, day: Day, terms: &Terms) -> Result<Due> {
        let entries = archive.list(&ArchivePath::day(day))?;
        let rolled = rollups::list(archive, day)?;
        let is_rolled = |name: SegmentName| rolled.iter().any(|rollup| rollup.name.has(name.seq));
        let places = entries.iter().filter_map(manifest_of).map(|name| (name.seq.get(), name)).collect();
        let pieces: Vec<Piece> =
            pieces(&entries).into_iter().filter(|piece| !is_rolled(piece.name)).collect();
        let runs = if terms.is_closed(day) {
            plan::runs(&pieces)
        } else if pieces.len() >= plan::BUSY_HOUR {
            let mut dated = Vec::with_capacity(pieces.len());
            for piece in pieces {
                let manifest = pack::manifest(archive, terms, day, piece.name)?;
                dated.push((piece, manifest.span.map(|span| span.last_ts)));
            }
            plan::busy_hours(&dated, terms.now).iter().flat_map(|hour| plan::runs(hour)).collect()
        } else {
            Vec::new()
        };
        let signed = entries.iter().filter_map(|entry| match listing::segment_file(entry)? {
            SegmentFile::Signature(name) => Some(name),
            SegmentFile::Changes(_) | SegmentFile::Manifest(_) => None,
        });
        Ok(Due { runs, places, signed: Arc::new(signed.collect()) })
    }
}

impl Terms {
    fn of(config: &Config, archive_id: Uuid) -> Result<Arc<Terms>> {
        Ok(Arc::new(Terms {
            archive_id,
            spool_dir: config.spool_dir.clone(),
            signing_key: config.signing_key()?.map(Arc::new),
            now: Timestamp::now(),
        }))
    }

    fn is_closed(&self, day: Day) -> bool {
        is_closed(day, self.now)
    }
}

/// Whether the day's folder has its last segments.
pub(crate) fn is_closed(day: Day, now: Timestamp) -> bool {
    now.since(day.start()) > DAY_CLOSES_AFTER
}

fn manifest_of(entry: &Entry) -> Option<SegmentName> {
    match listing::segment_file(entry)? {
        SegmentFile::Manifest(name) => Some(name),
        SegmentFile::Changes(_) | SegmentFile::Signature(_) => None,
    }
}

/// The segments that lie alone, with the bytes of their files.
fn pieces(entries: &[Entry]) -> Vec<Piece> {
    let mut found: BTreeMap<SegmentName, (bool, u64)> = BTreeMap::new();
    for entry in entries.iter().filter(|entry| entry.kind == EntryKind::File) {
        let Some(file) = listing::segment_file(entry) else { continue };
        let (has_manifest, bytes) = found.entry(file.segment()).or_default();
        *has_manifest |= matches!(file, SegmentFile::Manifest(_));
        *bytes += entry.bytes;
    }
    let whole = found.into_iter().filter(|(_, (has_manifest, _))| *has_manifest);
    whole.map(|(name, (_, bytes))| Piece { name, bytes }).collect()
}
