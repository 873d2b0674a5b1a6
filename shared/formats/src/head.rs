//! head.json: the newest segment, and how fresh the archive is. Replaced at every poll.
//!
//! A hint, never a proof: nothing vouches for its bytes. A flipped bit in it may name another segment, whose
//! manifest then does not have that SHA-256 or is not there, or claim another freshness; the chain is the truth.

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::digest::Digest;
use crate::document::{Document, FORMAT};
use crate::error::{Error, Result};
use crate::json;
use crate::layout::{ArchivePath, SegmentName, parse_manifest_path};
use crate::lsn::Lsn;
use crate::manifest::Manifest;
use crate::name::TablePattern;
use crate::time::{Day, Timestamp};

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "RawHead", into = "RawHead")]
pub struct Head {
    pub archive_id: Uuid,
    /// `None` before the first segment.
    pub newest: Option<Newest>,
    /// The newest segments, the newest first; empty where it is not known. Names hold end positions and cannot be
    /// computed: with this a reader near the end needs no listing.
    pub recent: Vec<Recent>,
    /// Everything that committed up to here is in the archive.
    pub covered_lsn: Lsn,
    /// By production's clock: everything that committed before is in the archive.
    pub covered_at: Timestamp,
    /// Tables of which changes that committed since the newest segment's end are not in the archive, though they were
    /// captured up to there. A pattern where there are too many to name.
    pub not_captured: Vec<TablePattern>,
    /// Places after the newest segment's end that the source's slot was moved to, `covered_lsn` among them, the newest last: it
    /// comes back to these after a crash. Empty where it is not known.
    pub stood: Vec<Lsn>,
    pub archiver: String,
}

/// The newest segment: where its manifest lies, and its SHA-256.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Newest {
    pub day: Day,
    pub name: SegmentName,
    pub sha256: Digest,
}

/// One of the newest segments.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Recent {
    pub segment: Newest,
    /// For people who wait for it; `None` where it is not known.
    pub size: Option<Size>,
}

/// How much there is in a segment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Size {
    pub records: u64,
    /// Of its change file, compressed.
    pub bytes: u64,
}

impl Size {
    pub fn of(manifest: &Manifest) -> Size {
        Size { records: manifest.records, bytes: manifest.file.as_ref().map_or(0, |file| file.bytes) }
    }

    #[must_use]
    pub fn and(self, other: Size) -> Size {
        Size {
            records: self.records.saturating_add(other.records),
            bytes: self.bytes.saturating_add(other.bytes),
        }
    }

    #[must_use]
    pub fn less(self, other: Size) -> Size {
        Size {
            records: self.records.saturating_sub(other.records),
            bytes: self.bytes.saturating_sub(other.bytes),
        }
    }
}

impl Head {
    /// A day of polls is more, and a reader that far back lists.
    pub const RECENT_MAX: usize = 64;

    /// More tables than these are told as all.
    pub const NOT_CAPTURED_MAX: usize = 100;

    /// Of the places of the slot.
    pub const STOOD_MAX: usize = 64;

    /// Whether a slot at that place is the one that was read.
    pub fn may_stand(&self, place: Lsn) -> bool {
        place >= self.covered_lsn || self.stood.is_empty() || self.stood.contains(&place)
    }

    /// Up to where nothing is missing for a slot that stands there, where the chain ends at `end`.
    pub fn excused(&self, end: Lsn, place: Lsn) -> Lsn {
        if place <= end || self.may_stand(place) { self.covered_lsn.min(place) } else { end }
    }

    pub fn encode(&self) -> Vec<u8> {
        json::encode(self)
    }

    pub fn decode(bytes: &[u8]) -> Result<Head> {
        json::decode(Document::Head, bytes)
    }
}

impl Newest {
    pub fn manifest_path(&self) -> ArchivePath {
        self.name.manifest(self.day)
    }
}

/// The fields as they are written, in their order.
#[derive(Serialize, Deserialize)]
struct RawHead {
    format: u64,
    #[serde(deserialize_with = "json::one_spelling")]
    archive_id: Uuid,
    seq: u64,
    #[serde(deserialize_with = "json::null_must_be_said")]
    manifest: Option<String>,
    #[serde(deserialize_with = "json::null_must_be_said")]
    sha256: Option<Digest>,
    covered_lsn: Lsn,
    covered_at: Timestamp,
    archiver: String,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    recent: Vec<RawRecent>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    not_captured: Vec<String>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    stood: Vec<Lsn>,
}

#[derive(Serialize, Deserialize)]
struct RawRecent {
    seq: u64,
    manifest: String,
    sha256: Digest,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    records: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    bytes: Option<u64>,
}

impl From<Head> for RawHead {
    fn from(head: Head) -> RawHead {
        RawHead {
            format: FORMAT,
            archive_id: head.archive_id,
            seq: head.newest.map_or(0, |newest| newest.name.seq.get()),
            manifest: head.newest.map(|newest| newest.manifest_path().as_str().to_owned()),
            sha256: head.newest.map(|newest| newest.sha256),
            covered_lsn: head.covered_lsn,
            covered_at: head.covered_at,
            archiver: head.archiver,
            recent: head.recent.into_iter().map(RawRecent::from).collect(),
            not_captured: head.not_captured.iter().map(ToString::to_string).collect(),
            stood: head.stood,
        }
    }
}

impl From<Recent> for RawRecent {
    fn from(Recent { segment, size }: Recent) -> RawRecent {
        RawRecent {
            seq: segment.name.seq.get(),
            manifest: segment.manifest_path().as_str().to_owned(),
            sha256: segment.sha256,
            records: size.map(|size| size.records),
            bytes: size.map(|size| size.bytes),
        }
    }
}

impl TryFrom<RawRecent> for Recent {
    type Error = String;

    fn try_from(raw: RawRecent) -> Result<Recent, String> {
        let size = raw.records.zip(raw.bytes).map(|(records, bytes)| Size { records, bytes });
        Ok(Recent { segment: named(raw.seq, &raw.manifest, raw.sha256)?, size })
    }
}

impl TryFrom<RawHead> for Head {
    type Error = String;

    fn try_from(raw: RawHead) -> Result<Head, String> {
        let newest = match (raw.seq, raw.manifest, raw.sha256) {
            (0, None, None) => None,
            (seq, Some(manifest), Some(sha256)) => Some(named(seq, &manifest, sha256)?),
            (seq, _, _) => return Err(format!("seq {seq} does not fit manifest and sha256")),
        };
        let recent = raw.recent.into_iter().map(Recent::try_from).collect::<Result<Vec<Recent>, String>>()?;
        check_recent(newest, &recent)?;
        if raw.stood.len() > Head::STOOD_MAX {
            return Err(format!(
                "{} places of the slot, of which at most {} are expected",
                raw.stood.len(),
                Head::STOOD_MAX
            ));
        }
        let not_captured = raw.not_captured.iter().map(|text| pattern(text));
        let not_captured = not_captured.collect::<Result<Vec<TablePattern>, String>>()?;
        Ok(Head {
            archive_id: raw.archive_id,
            newest,
            recent,
            covered_lsn: raw.covered_lsn,
            covered_at: raw.covered_at,
            not_captured,
            stood: raw.stood,
            archiver: raw.archiver,
        })
    }
}

fn named(seq: u64, manifest: &str, sha256: Digest) -> Result<Newest, String> {
    let (day, name) = parse_manifest_path(manifest).map_err(|error| error.to_string())?;
    if name.seq.get() != seq {
        return Err(format!("seq is {seq}, but manifest is {manifest:?}"));
    }
    Ok(Newest { day, name, sha256 })
}

fn pattern(text: &str) -> Result<TablePattern, String> {
    let pattern: TablePattern = text.parse().map_err(|error: Error| error.to_string())?;
    match pattern.to_string() == text {
        true => Ok(pattern),
        false => Err(format!("not_captured: {text:?} is written {:?}", pattern.to_string())),
    }
}

/// The newest one first, each followed by the one before it.
fn check_recent(newest: Option<Newest>, recent: &[Recent]) -> Result<(), String> {
    if recent.len() > Head::RECENT_MAX {
        return Err(format!(
            "{} recent segments, of which at most {} are expected",
            recent.len(),
            Head::RECENT_MAX
        ));
    }
    if recent.first().is_some_and(|first| Some(first.segment) != newest) {
        return Err("recent does not begin with the newest segment".into());
    }
    for pair in recent.windows(2) {
        let [Recent { segment: later, .. }, Recent { segment: earlier, .. }] = pair else { continue };
        if earlier.name.seq.next() != later.name.seq
            || earlier.day > later.day
            || earlier.name.end_lsn > later.name.end_lsn
        {
            return Err(format!("recent: {} does not follow {}", later.name, earlier.name));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::manifest::sample::{archive_id, lsn, ts};

    fn head(newest: Option<Newest>) -> Head {
        Head {
            archive_id: archive_id(),
            newest,
            recent: newest.map(sized).into_iter().chain(newest.map(|_| earlier())).collect(),
            covered_lsn: lsn("0/16B4000"),
            covered_at: ts("2026-02-05T10:45:00.5Z"),
            stood: newest.map(|_| lsn("0/16B4000")).into_iter().collect(),
            not_captured: newest.map(|_| "sales.\"A b\"".parse().expect("a name")).into_iter().collect(),
            archiver: "0.1.0".into(),
        }
    }

    fn newest() -> Newest {
        let path = "segments/2026-02-05/0000000042-00000000016B3D40.manifest.json";
        let (day, name) = parse_manifest_path(path).expect("a path");
        Newest { day, name, sha256: Digest::of(b"the manifest") }
    }

    fn sized(segment: Newest) -> Recent {
        Recent { segment, size: Some(Size { records: 7, bytes: 1234 }) }
    }

    fn earlier() -> Recent {
        let path = "segments/2026-02-04/0000000041-00000000016B3D00.manifest.json";
        let (day, name) = parse_manifest_path(path).expect("a path");
        // As an earlier archiver wrote it.
        Recent { segment: Newest { day, name, sha256: Digest::of(b"the manifest before") }, size: None }
    }

    fn text(head: &Head) -> String {
        String::from_utf8(head.encode()).expect("UTF-8")
    }

    #[test]
    fn reads_what_it_writes() {
        for head in [head(None), head(Some(newest()))] {
            assert_eq!(Head::decode(&head.encode()).ok(), Some(head));
        }
        assert!(
            text(&head(None))
                .contains("\"seq\":0,\"manifest\":null,\"sha256\":null,\"covered_lsn\":\"0/16B4000\"")
        );
        let head = head(Some(newest()));
        assert!(text(&head).contains(
            "\"seq\":42,\"manifest\":\"segments/2026-02-05/0000000042-00000000016B3D40.manifest.json\",\"sha256\":\""
        ));
    }

    #[test]
    fn refuses_what_contradicts_itself() {
        let (some, none) = (text(&head(Some(newest()))), text(&head(None)));
        for (text, says) in [
            (some.replace("\"seq\":42", "\"seq\":41"), "seq is 41, but manifest is"),
            (some.replace("\"seq\":42", "\"seq\":0"), "seq is 0"),
            (none.replace("\"seq\":0", "\"seq\":1"), "seq 1 does not fit"),
            (none.replace("\"manifest\":null,", ""), "missing field `manifest`"),
            (none.replace("\"seq\":0", "\"seq\":0,\"seq\":0"), "twice in one object"),
            (none.replace("\"format\":1", "\"format\":2"), "head.json has format 2"),
            (none.replace('\n', "\r\n"), "Windows line ends"),
            (format!("\u{feff}{none}"), "byte order mark"),
            (none.replace("0/16B4000", "16B4000"), "an LSN like"),
            (none.replace("null", "\"x\""), "SHA-256"),
            (some.replace("segments/", "../segments/"), "is not the path of a manifest"),
            (some.replace("segments/", "/segments/"), "is not the path of a manifest"),
            (
                some.replace("segments/2026-02-05/", "segments/2026-02-05/../"),
                "is not the path of a manifest",
            ),
            (some.replace("2026-02-05/", "2026-02-05//"), "is not the path of a manifest"),
            (some.replace("2026-02-05/", "2026-02-30/"), "is not the path of a manifest"),
            (some.replace("manifest.json\"", "manifest.json\\u0000\""), "is not the path of a manifest"),
            (some.replace("00000000016B3D40", "00000000016b3d40"), "is not the path of a manifest"),
        ] {
            let error = Head::decode(text.as_bytes()).expect_err(says).report();
            assert!(error.contains(says), "{says:?} is not in {error}");
        }
        let later = none.replace("\"seq\":0", "\"seq\":0,\"later\":{\"a\":1}");
        assert_eq!(Head::decode(later.as_bytes()).ok(), Some(head(None)));
    }

    #[test]
    fn a_slot_that_never_stood_there_excuses_nothing_after_the_end_of_the_chain() {
        let head = Head { stood: vec![lsn("0/16B3F00"), lsn("0/16B4000")], ..head(Some(newest())) };
        let end = lsn("0/16B3D40");
        for (place, upto) in [
            ("0/16B3D00", "0/16B3D00"),
            ("0/16B3D40", "0/16B3D40"),
            ("0/16B3E00", "0/16B3D40"),
            ("0/16B3F00", "0/16B3F00"),
            ("0/16B4000", "0/16B4000"),
            ("0/16B5000", "0/16B4000"),
        ] {
            assert_eq!(head.excused(end, lsn(place)), lsn(upto), "{place}");
        }
        let unknown = Head { stood: Vec::new(), ..head };
        assert_eq!(unknown.excused(end, lsn("0/16B3E00")), lsn("0/16B3E00"));
        let many = Head { stood: vec![end; 65], ..unknown };
        assert!(Head::decode(&many.encode()).is_err());
    }

    #[test]
    fn recent_segments_follow_each_other() {
        let sound = text(&head(Some(newest())));
        assert!(sound.contains(
            "\"recent\":[{\"seq\":42,\"manifest\":\"segments/2026-02-05/0000000042-00000000016B3D40.manifest.json\",\"sha256\":\""
        ));
        assert!(sound.contains("\",\"records\":7,\"bytes\":1234},{\"seq\":41,"), "{sound}");
        let half = sound.replace("\"records\":7,", "");
        assert_eq!(Head::decode(half.as_bytes()).expect("a hint").recent[0].size, None);
        let without = Head { recent: vec![], ..head(Some(newest())) };
        assert!(!text(&without).contains("recent"));
        assert_eq!(Head::decode(&without.encode()).ok(), Some(without));
        for (from, to, says) in [
            ("{\"seq\":41,", "{\"seq\":40,", "seq is 40, but manifest is"),
            (
                "{\"seq\":41,\"manifest\":\"segments/2026-02-04/0000000041",
                "{\"seq\":40,\"manifest\":\"segments/2026-02-04/0000000040",
                "does not follow",
            ),
            ("2026-02-04/", "2026-02-06/", "does not follow"),
            ("00000000016B3D00", "00000000016B3D50", "does not follow"),
            ("\"manifest\":\"segments/2026-02-04", "\"manifest\":\"../2026-02-04", "is not the path"),
        ] {
            let changed = sound.replace(from, to);
            assert_ne!(changed, sound, "{from}");
            let error = Head::decode(changed.as_bytes()).expect_err(says).report();
            assert!(error.contains(says), "{says:?} is not in {error}");
        }
        let other = Head { recent: vec![earlier()], ..head(Some(newest())) };
        assert!(Head::decode(&other.encode()).expect_err("other").report().contains("does not begin"));
        let none = Head { newest: None, ..head(Some(newest())) };
        assert!(Head::decode(&none.encode()).is_err());
        let many = Head { recent: vec![sized(newest()); 65], ..head(Some(newest())) };
        assert!(Head::decode(&many.encode()).expect_err("many").report().contains("at most 64"));
    }

    #[test]
    fn tables_that_are_not_captured_have_one_spelling() {
        let sound = text(&head(Some(newest())));
        assert!(sound.contains(r#""not_captured":["sales.\"A b\""]"#), "{sound}");
        for (to, says) in [
            (r#"sales.\"ab\""#, "is written \"sales.ab\""),
            ("sales.A", "is written"),
            ("", "is not a table name"),
        ] {
            let changed = sound.replace(r#"sales.\"A b\""#, to);
            let error = Head::decode(changed.as_bytes()).expect_err(says).report();
            assert!(error.contains(says), "{says:?} is not in {error}");
        }
        let all = sound.replace(r#"sales.\"A b\""#, "*");
        assert_eq!(Head::decode(all.as_bytes()).expect("a pattern").not_captured, [TablePattern::All]);
    }

    #[test]
    fn refuses_every_truncation() {
        let bytes = head(Some(newest())).encode();
        for length in 0..bytes.len() {
            assert!(Head::decode(&bytes[..length]).is_err(), "accepted {length} bytes");
        }
    }

    /// Nothing vouches for a head, so another byte may leave another sound head. What is promised: never a panic,
    /// never a path outside the pattern, and never the same head. One that names another segment or another SHA-256
    /// is corrected by the manifests that are there; one that claims another freshness stands until the next poll.
    #[test]
    fn a_flipped_byte_is_refused_or_leaves_another_head() {
        let head = head(Some(newest()));
        let bytes = head.encode();
        for at in 0..bytes.len() {
            for flip in [1, 2, 4, 8, 16, 32, 64, 128, 255] {
                let mut flipped = bytes.clone();
                flipped[at] ^= flip;
                let Ok(read) = Head::decode(&flipped) else { continue };
                assert_ne!(read, head, "byte {at} flipped by {flip:#x}");
                let newest = read.newest.expect("one byte cannot make it null");
                assert_eq!(
                    parse_manifest_path(newest.manifest_path().as_str()).ok(),
                    Some((newest.day, newest.name))
                );
            }
        }
    }
}
