//! The chain of manifests: each names the one before it by number and SHA-256, and goes on where it ended.
//!
//! Without signatures the chain stops accidents, not an attacker who rewrites all of it: then only what the
//! reader remembers (its own tip) holds. With signatures every link is vouched for.

use uuid::Uuid;

use crate::digest::Digest;
use crate::error::{Error, Kind, Result};
use crate::layout::{ArchivePath, SegmentName, SegmentSeq};
use crate::lsn::Lsn;
use crate::manifest::{Link, Manifest};
use crate::time::{Day, Timestamp};

/// How far a chain is known: what the next manifest has to follow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ChainTip {
    archive_id: Uuid,
    previous: Option<Link>,
    /// Unknown before the first segment, and before the first that a prune has kept.
    end: Option<End>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct End {
    lsn: Lsn,
    day: Day,
}

/// A manifest that is sound and follows the one before it; `Verified::new` is the only way to get one.
#[derive(Clone, Debug, PartialEq)]
pub struct Verified {
    manifest: Manifest,
    day: Day,
    sha256: Digest,
}

impl ChainTip {
    /// Before the first segment: the chain may begin at any position.
    pub fn origin(archive_id: Uuid) -> ChainTip {
        ChainTip { archive_id, previous: None, end: None }
    }

    /// Before the first segment that is kept, as floor.json names it.
    pub fn floor(archive_id: Uuid, previous: Option<Link>) -> ChainTip {
        ChainTip { archive_id, previous, end: None }
    }

    /// After a segment that was verified earlier, as a checkpoint remembers it.
    pub fn after(archive_id: Uuid, segment: Link, end_lsn: Lsn, day: Day) -> ChainTip {
        ChainTip { archive_id, previous: Some(segment), end: Some(End { lsn: end_lsn, day }) }
    }

    pub fn archive_id(&self) -> Uuid {
        self.archive_id
    }

    /// The last segment: what the next manifest has as its `previous`.
    pub fn previous(&self) -> Option<Link> {
        self.previous
    }

    /// The next segment's number.
    pub fn next_seq(&self) -> SegmentSeq {
        self.previous.map_or(SegmentSeq::FIRST, |link| link.seq.next())
    }

    /// Where the last segment ended and the next one starts.
    pub fn end_lsn(&self) -> Option<Lsn> {
        self.end.map(|end| end.lsn)
    }

    /// The last segment's day.
    pub fn day(&self) -> Option<Day> {
        self.end.map(|end| end.day)
    }

    /// The next segment's day: that of its last commit (of now, for a gap alone), but never one before the last.
    pub fn day_of_next(&self, last_commit: Timestamp) -> Day {
        self.day().map_or(last_commit.day(), |day| day.max(last_commit.day()))
    }

    fn check_number(&self, manifest: &Manifest) -> Result<()> {
        let (found, expected) = (manifest.seq, self.next_seq());
        if found > expected {
            let message =
                format!("segment {expected} is missing: segment {found} cannot be applied without it");
            return Err(Error::new(Kind::NotFound, message).hint(format!(
                "put segment {expected} (manifest and change file) back on the backup host; segment {found} waits"
            )));
        }
        if found < expected {
            let message = format!(
                "segment {found} comes again where segment {expected} is expected: repeated, or the archive went back"
            );
            return Err(Error::new(Kind::Foreign, message).hint(
                "compare the backup host's folder with what it held before; nothing of it was applied",
            ));
        }
        Ok(())
    }

    fn check_link(&self, manifest: &Manifest) -> Result<()> {
        let (named, known) = (manifest.previous, self.previous);
        if named == known {
            return Ok(());
        }
        let text = |link: Option<Link>| match link {
            None => "no segment".to_owned(),
            Some(link) => format!("segment {} with SHA-256 {}", link.seq, link.sha256),
        };
        let message = format!(
            "segment {} follows {}, but before it stands {}: one of them was rewritten",
            manifest.seq,
            text(named),
            text(known)
        );
        Err(Error::new(Kind::Foreign, message)
            .hint("bring both manifests back from a sound copy; nothing after them was applied"))
    }

    fn check_position(&self, manifest: &Manifest, day: Day) -> Result<()> {
        let Manifest { seq, start_lsn, end_lsn, .. } = manifest;
        let foreign = |message: String| Err(Error::new(Kind::Foreign, message));
        if end_lsn <= start_lsn {
            return foreign(format!(
                "segment {seq} starts at {start_lsn} and ends at {end_lsn}: it covers nothing"
            ));
        }
        let Some(end) = self.end else { return Ok(()) };
        if *start_lsn != end.lsn {
            let how = if *start_lsn < end.lsn { "overlaps" } else { "leaves a hole after" };
            return foreign(format!(
                "segment {seq} starts at {start_lsn}, the one before ended at {}: it {how} it",
                end.lsn
            ));
        }
        if day < end.day {
            return foreign(format!("segment {seq} lies under {day}, the one before it under {}", end.day));
        }
        Ok(())
    }
}

impl Verified {
    /// Reads the manifest that lies under that day and name, and checks that it belongs there.
    pub fn new(tip: &ChainTip, day: Day, name: SegmentName, bytes: &[u8]) -> Result<Verified> {
        let path = name.manifest(day);
        Verified::follow(tip, day, name, bytes).map_err(|error| error.context(format!("{path} is refused")))
    }

    fn follow(tip: &ChainTip, day: Day, name: SegmentName, bytes: &[u8]) -> Result<Verified> {
        let manifest = Manifest::decode(bytes)?;
        if manifest.archive_id != tip.archive_id {
            let message = format!(
                "segment {} belongs to archive {}, not to {}",
                manifest.seq, manifest.archive_id, tip.archive_id
            );
            return Err(Error::new(Kind::Foreign, message)
                .hint("check archive_dir: two archives must never share a folder"));
        }
        if manifest.name() != name {
            let message = format!("it describes {}: the file was renamed", manifest.name());
            return Err(Error::new(Kind::Foreign, message));
        }
        tip.check_number(&manifest)?;
        tip.check_link(&manifest)?;
        tip.check_position(&manifest, day)?;
        Ok(Verified { manifest, day, sha256: Digest::of(bytes) })
    }

    pub fn manifest(&self) -> &Manifest {
        &self.manifest
    }

    /// Of the manifest's bytes: the link by which the next segment names this one.
    pub fn sha256(&self) -> Digest {
        self.sha256
    }

    pub fn day(&self) -> Day {
        self.day
    }

    pub fn name(&self) -> SegmentName {
        self.manifest.name()
    }

    pub fn manifest_path(&self) -> ArchivePath {
        self.name().manifest(self.day)
    }

    /// The change file beside it; `None` for a gap alone.
    pub fn file_path(&self) -> Option<ArchivePath> {
        self.manifest.file.as_ref().map(|_| self.name().file(self.day))
    }

    /// The tip after this segment.
    pub fn tip(&self) -> ChainTip {
        let link = Link { seq: self.manifest.seq, sha256: self.sha256 };
        ChainTip::after(self.manifest.archive_id, link, self.manifest.end_lsn, self.day)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::manifest::sample::{self, lsn, ts};

    fn day(text: &str) -> Day {
        text.parse().expect("a day")
    }

    /// Three segments; the second is a gap alone.
    fn chain() -> Vec<(Day, Manifest)> {
        let (_, summary) = sample::change_file();
        let first = sample::manifest(1, None, &summary);
        let link = |manifest: &Manifest| Some(sample::link(manifest.seq.get(), &manifest.encode()));
        let gap = sample::gap_alone(2, link(&first), "0/16B3D40", "0/16B3D80");
        let mut third = sample::gap_alone(3, link(&gap), "0/16B3D80", "0/16B4000");
        third.gaps[0].from = lsn("0/16B3D90");
        vec![(day("2026-02-05"), first), (day("2026-02-05"), gap), (day("2026-02-06"), third)]
    }

    fn next(tip: &ChainTip, (day, manifest): &(Day, Manifest)) -> Result<Verified> {
        Verified::new(tip, *day, manifest.name(), &manifest.encode())
    }

    fn origin() -> ChainTip {
        ChainTip::origin(sample::archive_id())
    }

    /// The tip after the first `count` segments.
    fn tip_after(count: usize) -> ChainTip {
        chain()[..count].iter().fold(origin(), |tip, segment| next(&tip, segment).expect("in order").tip())
    }

    #[track_caller]
    fn refused(tip: &ChainTip, segment: &(Day, Manifest), kind: Kind, says: &str) {
        let error = next(tip, segment).expect_err(says);
        assert_eq!(error.kind(), kind, "{error:?}");
        let report = error.report();
        assert!(report.contains(says), "{says:?} is not in {report}");
        assert!(report.contains(segment.1.name().manifest(segment.0).as_str()), "no file in {report}");
    }

    #[test]
    fn each_segment_follows_the_one_before() {
        let tip = tip_after(3);
        assert_eq!(tip.next_seq().get(), 4);
        assert_eq!((tip.end_lsn(), tip.day()), (Some(lsn("0/16B4000")), Some(day("2026-02-06"))));
        let first = next(&origin(), &chain()[0]).expect("in order");
        assert_eq!(
            first.file_path().expect("it has a change file").as_str(),
            "segments/2026-02-05/0000000001-00000000016B3D40.jsonl.zst"
        );
        assert_eq!(next(&tip_after(1), &chain()[1]).expect("in order").file_path(), None);
    }

    #[test]
    fn a_checkpoint_takes_up_where_it_was() {
        let tip = tip_after(2);
        let (link, lsn, day) = (tip.previous(), tip.end_lsn(), tip.day());
        let again = ChainTip::after(
            tip.archive_id(),
            link.expect("after a segment"),
            lsn.expect("known"),
            day.expect("known"),
        );
        assert!(next(&again, &chain()[2]).is_ok());
    }

    #[test]
    fn a_pruned_archive_begins_at_its_floor() {
        let chain = chain();
        let floor = ChainTip::floor(sample::archive_id(), chain[2].1.previous);
        assert!(next(&floor, &chain[2]).is_ok());
        refused(&floor, &chain[1], Kind::Foreign, "segment 0000000002 comes again");
    }

    #[test]
    fn a_hole_is_named() {
        let chain = chain();
        refused(&origin(), &chain[1], Kind::NotFound, "segment 0000000001 is missing");
        refused(&tip_after(1), &chain[2], Kind::NotFound, "segment 0000000002 is missing");
        let error = next(&tip_after(1), &chain[2]).expect_err("a hole");
        assert!(error.hint_text().is_some_and(|hint| hint.contains("put segment 0000000002")));
    }

    #[test]
    fn what_came_before_is_not_taken_again() {
        refused(
            &tip_after(2),
            &chain()[0],
            Kind::Foreign,
            "segment 0000000001 comes again where segment 0000000003",
        );
        refused(&tip_after(3), &chain()[2], Kind::Foreign, "comes again");
    }

    #[test]
    fn another_archive_is_told_apart() {
        let (first_day, mut first) = chain().remove(0);
        first.archive_id = Uuid::from_u128(7);
        refused(&origin(), &(first_day, first), Kind::Foreign, "belongs to archive 00000000-");
    }

    #[test]
    fn a_rewritten_predecessor_is_noticed() {
        let chain = chain();
        let (first_day, mut first) = chain[0].clone();
        first.created_at = ts("2026-02-05T10:45:01Z");
        let rewritten = next(&origin(), &(first_day, first)).expect("sound by itself").tip();
        refused(&rewritten, &chain[1], Kind::Foreign, "one of them was rewritten");
    }

    /// Every bit of a manifest that the next one names: what still decodes and belongs here breaks the link after it.
    #[test]
    fn every_flipped_bit_of_a_manifest_breaks_the_chain() {
        let chain = chain();
        let bytes = chain[0].1.encode();
        for bit in 0..bytes.len() * 8 {
            let mut flipped = bytes.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            if let Ok(first) = Verified::new(&origin(), chain[0].0, chain[0].1.name(), &flipped) {
                assert!(next(&first.tip(), &chain[1]).is_err(), "bit {bit}");
            }
        }
    }

    #[test]
    fn a_renamed_file_is_refused() {
        let (day, first) = chain().remove(0);
        let mut name = first.name();
        name.seq = name.seq.next();
        let error = Verified::new(&origin(), day, name, &first.encode()).expect_err("renamed").report();
        assert!(error.contains("the file was renamed"), "{error}");
    }

    #[test]
    fn positions_meet_and_rise_and_days_never_go_back() {
        let (day_2, gap) = chain().remove(1);
        let tip = tip_after(1);
        let mut overlapping = gap.clone();
        overlapping.start_lsn = lsn("0/16B3D30");
        refused(&tip, &(day_2, overlapping), Kind::Foreign, "overlaps");
        let mut apart = gap.clone();
        apart.start_lsn = lsn("0/16B3D50");
        refused(&tip, &(day_2, apart), Kind::Foreign, "leaves a hole after");
        let mut standing = sample::gap_alone(2, gap.previous, "0/16B3D40", "0/16B3D40");
        standing.gaps[0].from = lsn("0/1");
        refused(&tip, &(day_2, standing), Kind::Foreign, "it covers nothing");
        refused(&tip, &(day("2026-02-04"), gap), Kind::Foreign, "lies under 2026-02-04");
    }

    #[test]
    fn the_next_day_is_the_last_commit_s_but_never_earlier() {
        let tip = tip_after(3);
        assert_eq!(tip.day_of_next(ts("2026-02-05T23:00:00Z")), day("2026-02-06"));
        assert_eq!(tip.day_of_next(ts("2026-02-07T01:00:00Z")), day("2026-02-07"));
        assert_eq!(origin().day_of_next(ts("2026-02-05T23:00:00Z")), day("2026-02-05"));
    }
}
