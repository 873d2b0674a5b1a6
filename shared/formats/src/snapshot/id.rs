//! Names of snapshots and of their files, and the only doors from foreign text to them.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::digest::Digest;
use crate::error::{Error, Kind, Result};
use crate::json;
use crate::layout::ArchivePath;
use crate::lsn::Lsn;
use crate::time::Timestamp;

/// A snapshot's folder: its position in 16 hex digits, then the time. Ids sort from the oldest to the newest.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SnapshotId(String);

/// `00000000016B3D40-20260205T103000Z`.
const ID_LEN: usize = 16 + 1 + 16;

impl SnapshotId {
    pub const MANIFEST: &str = "snapshot.manifest.json";
    pub const DIGEST: &str = "snapshot.manifest.json.sha256";
    pub const SIGNATURE: &str = "snapshot.manifest.json.minisig";

    pub fn new(start_lsn: Lsn, at: Timestamp) -> SnapshotId {
        // To the second, without the separators that a file name had better not have.
        let seconds = at.to_string();
        let compact: String = seconds[..19].chars().filter(|c| !matches!(c, '-' | ':')).collect();
        SnapshotId(format!("{}-{compact}Z", start_lsn.fixed_width()))
    }

    /// The position in its name, which is its manifest's `start_lsn`.
    pub fn start_lsn(&self) -> Lsn {
        Lsn::from_fixed_width(&self.0[..16]).expect("the parser has looked")
    }

    /// The time in its name, to the second; `None` where nobody's calendar has it.
    pub fn taken_at(&self) -> Option<Timestamp> {
        let time = &self.0[17..];
        let part = |from: usize, to: usize| &time[from..to];
        let (year, month, day) = (part(0, 4), part(4, 6), part(6, 8));
        let (hour, minute, second) = (part(9, 11), part(11, 13), part(13, 15));
        format!("{year}-{month}-{day}T{hour}:{minute}:{second}Z").parse().ok()
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }

    pub fn folder(&self) -> ArchivePath {
        self.path("")
    }

    pub fn manifest(&self) -> ArchivePath {
        self.path(SnapshotId::MANIFEST)
    }

    pub fn digest(&self) -> ArchivePath {
        self.path(SnapshotId::DIGEST)
    }

    pub fn signature(&self) -> ArchivePath {
        self.path(SnapshotId::SIGNATURE)
    }

    fn path(&self, file: &str) -> ArchivePath {
        let text = format!("{}/{self}/{file}", ArchivePath::snapshots());
        ArchivePath::parse(text.trim_end_matches('/')).expect("its parts are plain")
    }
}

impl FromStr for SnapshotId {
    type Err = Error;

    fn from_str(text: &str) -> Result<SnapshotId> {
        let bad = || Error::bad_input("the id of a snapshot", text);
        let (lsn, time) = text.split_once('-').ok_or_else(bad)?;
        let digits = |place: usize, b: u8| match place {
            8 => b == b'T',
            15 => b == b'Z',
            _ => b.is_ascii_digit(),
        };
        let is_time = time.bytes().enumerate().all(|(place, b)| digits(place, b));
        if text.len() == ID_LEN && Lsn::from_fixed_width(lsn).is_some() && is_time {
            Ok(SnapshotId(text.to_owned()))
        } else {
            Err(bad())
        }
    }
}

impl fmt::Display for SnapshotId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl Serialize for SnapshotId {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.0)
    }
}

impl<'de> Deserialize<'de> for SnapshotId {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<SnapshotId, D::Error> {
        json::one_spelling(deserializer)
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum PartKind {
    /// All rows of the part.
    Whole,
    /// What leads from the file before it in the chain to the part.
    Delta,
}

/// A file of a part: in which snapshot it was written, and the digest of the rows that it leads to.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PartName {
    pub snapshot: SnapshotId,
    pub content: Digest,
    pub kind: PartKind,
}

const WHOLE_ENDING: &str = ".copy.zst";
const DELTA_ENDING: &str = ".delta.zst";

impl PartName {
    /// Inside the snapshot's folder.
    pub fn file_name(&self) -> String {
        let ending = match self.kind {
            PartKind::Whole => WHOLE_ENDING,
            PartKind::Delta => DELTA_ENDING,
        };
        format!("{}{ending}", self.content)
    }

    pub fn path(&self) -> ArchivePath {
        self.snapshot.path(&self.file_name())
    }

    /// What a name in a snapshot's folder says it is; `None` for every other name.
    pub fn parse_in(snapshot: &SnapshotId, file_name: &str) -> Option<PartName> {
        let (stem, kind) = match (file_name.strip_suffix(WHOLE_ENDING), file_name.strip_suffix(DELTA_ENDING))
        {
            (Some(stem), _) => (stem, PartKind::Whole),
            (None, Some(stem)) => (stem, PartKind::Delta),
            (None, None) => return None,
        };
        Some(PartName { snapshot: snapshot.clone(), content: stem.parse().ok()?, kind })
    }
}

/// As manifests name it: `<id>/<digest>.copy.zst`.
impl fmt::Display for PartName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.snapshot, self.file_name())
    }
}

impl FromStr for PartName {
    type Err = Error;

    fn from_str(text: &str) -> Result<PartName> {
        let parsed = text
            .split_once('/')
            .and_then(|(snapshot, file_name)| PartName::parse_in(&snapshot.parse().ok()?, file_name));
        parsed.ok_or_else(|| Error::new(Kind::Corrupt, format!("{text:?} is not a file of a snapshot")))
    }
}
