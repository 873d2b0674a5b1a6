//! Where everything lies in an archive, and the only door through which a name from outside becomes a path.

use std::fmt;

use crate::error::{Error, Kind, Result};
use crate::lsn::Lsn;
use crate::time::Day;

/// A file or folder of the archive, relative to `archive_dir`: plain parts, no way out.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ArchivePath(String);

impl ArchivePath {
    /// `archive.json`: who owns this archive.
    pub fn identity() -> ArchivePath {
        ArchivePath("archive.json".into())
    }

    /// `head.json`: the newest segment, and how fresh the archive is.
    pub fn head() -> ArchivePath {
        ArchivePath("head.json".into())
    }

    /// `floor.json`: after a prune, the first segment that is kept.
    pub fn floor() -> ArchivePath {
        ArchivePath("floor.json".into())
    }

    pub fn segments() -> ArchivePath {
        ArchivePath("segments".into())
    }

    pub fn day(day: Day) -> ArchivePath {
        ArchivePath(format!("segments/{day}"))
    }

    pub fn rollups() -> ArchivePath {
        ArchivePath("rollups".into())
    }

    /// The roll-ups of the segments under that day.
    pub fn rollups_of(day: Day) -> ArchivePath {
        ArchivePath(format!("rollups/{day}"))
    }

    pub fn snapshots() -> ArchivePath {
        ArchivePath("snapshots".into())
    }

    pub fn proofs() -> ArchivePath {
        ArchivePath("proofs".into())
    }

    /// What readers say of themselves.
    pub fn acks() -> ArchivePath {
        ArchivePath("acks".into())
    }

    /// A foreign path, such as `manifest` in head.json: relative, plain parts only.
    pub fn parse(text: &str) -> Result<ArchivePath> {
        let plain = |part: &str| {
            !matches!(part, "" | "." | "..")
                && part.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.'))
        };
        if text.len() <= 512 && text.split('/').all(plain) {
            Ok(ArchivePath(text.to_owned()))
        } else {
            Err(Error::new(Kind::Corrupt, format!("{text:?} is not a path of an archive")))
        }
    }

    /// One level deeper.
    pub fn join(&self, name: &str) -> Result<ArchivePath> {
        if name.contains('/') {
            return Err(Error::new(Kind::Corrupt, format!("{name:?} is not a plain file name")));
        }
        ArchivePath::parse(&format!("{}/{name}", self.0))
    }

    /// The name while it is being written.
    pub fn part(&self) -> ArchivePath {
        ArchivePath(format!("{}.part", self.0))
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }

    pub fn file_name(&self) -> &str {
        self.0.rsplit('/').next().unwrap_or(&self.0)
    }

    pub fn parent(&self) -> Option<ArchivePath> {
        self.0.rsplit_once('/').map(|(parent, _)| ArchivePath(parent.to_owned()))
    }
}

impl fmt::Display for ArchivePath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A segment's number: starts at 1, rises by 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize)]
#[serde(try_from = "u64", into = "u64")]
pub struct SegmentSeq(u64);

impl TryFrom<u64> for SegmentSeq {
    type Error = Error;

    fn try_from(number: u64) -> Result<SegmentSeq> {
        SegmentSeq::new(number)
    }
}

impl From<SegmentSeq> for u64 {
    fn from(seq: SegmentSeq) -> u64 {
        seq.0
    }
}

impl SegmentSeq {
    pub const FIRST: SegmentSeq = SegmentSeq(1);
    /// Ten digits in a file name: a segment a second for three centuries.
    const MAX: u64 = 9_999_999_999;

    pub fn new(number: u64) -> Result<SegmentSeq> {
        if (1..=SegmentSeq::MAX).contains(&number) {
            Ok(SegmentSeq(number))
        } else {
            Err(Error::bad_input("a segment number", &number.to_string()))
        }
    }

    pub fn get(self) -> u64 {
        self.0
    }

    #[must_use]
    pub fn next(self) -> SegmentSeq {
        SegmentSeq(self.0 + 1)
    }
}

impl fmt::Display for SegmentSeq {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:010}", self.0)
    }
}

/// The stem that a change file and its manifest share: `0000000042-00000000016B3D40`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SegmentName {
    pub seq: SegmentSeq,
    pub end_lsn: Lsn,
}

const FILE_ENDING: &str = ".jsonl.zst";
const MANIFEST_ENDING: &str = ".manifest.json";
const SIGNATURE_ENDING: &str = ".manifest.json.minisig";

/// What a file name in a day's folder says it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum SegmentFile {
    Changes(SegmentName),
    Manifest(SegmentName),
    Signature(SegmentName),
}

impl SegmentName {
    pub fn file_name(self) -> String {
        format!("{self}{FILE_ENDING}")
    }

    pub fn manifest_name(self) -> String {
        format!("{self}{MANIFEST_ENDING}")
    }

    pub fn signature_name(self) -> String {
        format!("{self}{SIGNATURE_ENDING}")
    }

    pub fn file(self, day: Day) -> ArchivePath {
        ArchivePath(format!("segments/{day}/{}", self.file_name()))
    }

    pub fn manifest(self, day: Day) -> ArchivePath {
        ArchivePath(format!("segments/{day}/{}", self.manifest_name()))
    }

    pub fn signature(self, day: Day) -> ArchivePath {
        ArchivePath(format!("segments/{day}/{}", self.signature_name()))
    }

    fn parse(stem: &str) -> Option<SegmentName> {
        let (seq, lsn) = stem.split_once('-')?;
        if seq.len() != 10 || !seq.bytes().all(|b| b.is_ascii_digit()) {
            return None;
        }
        Some(SegmentName {
            seq: SegmentSeq::new(seq.parse().ok()?).ok()?,
            end_lsn: Lsn::from_fixed_width(lsn)?,
        })
    }
}

impl fmt::Display for SegmentName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.seq, self.end_lsn.fixed_width())
    }
}

impl SegmentFile {
    pub fn segment(self) -> SegmentName {
        match self {
            SegmentFile::Changes(name) | SegmentFile::Manifest(name) | SegmentFile::Signature(name) => name,
        }
    }

    pub fn file_name(self) -> String {
        match self {
            SegmentFile::Changes(name) => name.file_name(),
            SegmentFile::Manifest(name) => name.manifest_name(),
            SegmentFile::Signature(name) => name.signature_name(),
        }
    }

    /// `None` for every name that is not exactly one of ours.
    pub fn parse(file_name: &str) -> Option<SegmentFile> {
        if let Some(stem) = file_name.strip_suffix(SIGNATURE_ENDING) {
            SegmentName::parse(stem).map(SegmentFile::Signature)
        } else if let Some(stem) = file_name.strip_suffix(MANIFEST_ENDING) {
            SegmentName::parse(stem).map(SegmentFile::Manifest)
        } else {
            SegmentName::parse(file_name.strip_suffix(FILE_ENDING)?).map(SegmentFile::Changes)
        }
    }
}

/// The stem that a roll-up and its manifest share: the numbers of its first and last segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RollupName {
    pub first: SegmentSeq,
    pub last: SegmentSeq,
}

const TAR_ENDING: &str = ".tar";

/// What a file name in a day's folder of roll-ups says it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RollupFile {
    Tar(RollupName),
    Manifest(RollupName),
    Signature(RollupName),
}

impl RollupName {
    pub fn has(self, seq: SegmentSeq) -> bool {
        (self.first..=self.last).contains(&seq)
    }

    pub fn tar_name(self) -> String {
        format!("{self}{TAR_ENDING}")
    }

    pub fn manifest_name(self) -> String {
        format!("{self}{MANIFEST_ENDING}")
    }

    pub fn signature_name(self) -> String {
        format!("{self}{SIGNATURE_ENDING}")
    }

    pub fn tar(self, day: Day) -> ArchivePath {
        ArchivePath(format!("rollups/{day}/{}", self.tar_name()))
    }

    pub fn manifest(self, day: Day) -> ArchivePath {
        ArchivePath(format!("rollups/{day}/{}", self.manifest_name()))
    }

    pub fn signature(self, day: Day) -> ArchivePath {
        ArchivePath(format!("rollups/{day}/{}", self.signature_name()))
    }

    fn parse(stem: &str) -> Option<RollupName> {
        let (first, last) = stem.split_once('-')?;
        let number = |digits: &str| {
            let is_ours = digits.len() == 10 && digits.bytes().all(|b| b.is_ascii_digit());
            is_ours.then(|| SegmentSeq::new(digits.parse().ok()?).ok()).flatten()
        };
        let name = RollupName { first: number(first)?, last: number(last)? };
        (name.first <= name.last).then_some(name)
    }
}

impl fmt::Display for RollupName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.first, self.last)
    }
}

impl RollupFile {
    /// `None` for every name that is not exactly one of ours.
    pub fn parse(file_name: &str) -> Option<RollupFile> {
        if let Some(stem) = file_name.strip_suffix(SIGNATURE_ENDING) {
            RollupName::parse(stem).map(RollupFile::Signature)
        } else if let Some(stem) = file_name.strip_suffix(MANIFEST_ENDING) {
            RollupName::parse(stem).map(RollupFile::Manifest)
        } else {
            RollupName::parse(file_name.strip_suffix(TAR_ENDING)?).map(RollupFile::Tar)
        }
    }

    pub fn name(self) -> RollupName {
        match self {
            RollupFile::Tar(name) | RollupFile::Manifest(name) | RollupFile::Signature(name) => name,
        }
    }
}

/// The day's folder and the file, for a path of a segment's file.
pub fn parse_segment_path(path: &ArchivePath) -> Option<(Day, SegmentFile)> {
    let (day, name) = path.as_str().strip_prefix("segments/")?.split_once('/')?;
    Some((day.parse().ok()?, SegmentFile::parse(name)?))
}

/// `segments/2026-02-05/0000000042-….manifest.json`, as head.json names it.
pub fn parse_manifest_path(path: &str) -> Result<(Day, SegmentName)> {
    let parts: Vec<&str> = path.split('/').collect();
    if let ["segments", day, name] = parts.as_slice()
        && let (Ok(day), Some(SegmentFile::Manifest(name))) = (day.parse(), SegmentFile::parse(name))
    {
        return Ok((day, name));
    }
    Err(Error::new(Kind::Corrupt, format!("{path:?} is not the path of a manifest")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_a_segment() {
        let day: Day = "2026-02-05".parse().expect("a day");
        let name = SegmentName {
            seq: SegmentSeq::new(42).expect("a number"),
            end_lsn: "0/16B3D40".parse().expect("an LSN"),
        };
        let path = name.manifest(day);
        assert_eq!(path.as_str(), "segments/2026-02-05/0000000042-00000000016B3D40.manifest.json");
        assert_eq!(parse_manifest_path(path.as_str()).ok(), Some((day, name)));
        assert_eq!(SegmentFile::parse(&name.file_name()), Some(SegmentFile::Changes(name)));
        assert_eq!(SegmentFile::parse(&name.signature_name()), Some(SegmentFile::Signature(name)));
    }

    #[test]
    fn refuses_names_that_are_not_exactly_ours() {
        for name in [
            "0000000042-00000000016B3D40.jsonl",
            "0000000042-00000000016B3D40.jsonl.zst.part",
            "42-00000000016B3D40.jsonl.zst",
            "0000000000-00000000016B3D40.jsonl.zst",
            "0000000042-00000000016b3d40.jsonl.zst",
            "+000000042-00000000016B3D40.jsonl.zst",
            "../0000000042-00000000016B3D40.jsonl.zst",
            "",
        ] {
            assert_eq!(SegmentFile::parse(name), None, "accepted {name:?}");
        }
    }

    #[test]
    fn names_of_a_roll_up() {
        let seq = |number| SegmentSeq::new(number).expect("a number");
        let name = RollupName { first: seq(42), last: seq(107) };
        let day: Day = "2026-02-05".parse().expect("a day");
        assert_eq!(name.tar(day).as_str(), "rollups/2026-02-05/0000000042-0000000107.tar");
        assert_eq!(RollupFile::parse(&name.tar_name()), Some(RollupFile::Tar(name)));
        assert_eq!(RollupFile::parse(&name.manifest_name()), Some(RollupFile::Manifest(name)));
        assert_eq!(RollupFile::parse(&name.signature_name()), Some(RollupFile::Signature(name)));
        for other in ["42-107.tar", "0000000107-0000000042.tar", "0000000042-0000000107.tar.part", ".tar"] {
            assert_eq!(RollupFile::parse(other), None, "accepted {other:?}");
        }
        // The names of segments are others.
        assert_eq!(SegmentFile::parse(&name.manifest_name()), None);
        assert_eq!(RollupFile::parse("0000000042-00000000016B3D40.manifest.json"), None);
    }

    #[test]
    fn no_path_leaves_the_archive() {
        for path in ["", "/etc/passwd", "../x", "a/../../x", "a//b", "a/./b", "a/b\0", "a\\b", "a/b\n", "a/"]
        {
            assert!(ArchivePath::parse(path).is_err(), "accepted {path:?}");
        }
        assert!(ArchivePath::parse("segments/2026-02-05/x-y_z.json").is_ok());
    }
}
