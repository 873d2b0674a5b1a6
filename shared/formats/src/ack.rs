//! `acks/<name>.json`: how far a reader of the archive has come. Readers that may write there say so, and pruning then
//! waits for them.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::document::Document;
use crate::error::{Error, Result};
use crate::json;
use crate::layout::ArchivePath;
use crate::lsn::Lsn;
use crate::snapshot::SnapshotId;
use crate::time::Timestamp;

/// Replaced as a whole, by its reader alone.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ack {
    pub format: u64,
    #[serde(deserialize_with = "json::one_spelling")]
    pub archive_id: Uuid,
    #[serde(deserialize_with = "json::one_spelling")]
    pub name: AckName,
    /// The last segment that it does not need any more; 0 when it needs all.
    pub seq: u64,
    /// All that committed up to here is applied, to every table.
    pub end_lsn: Lsn,
    /// The reader's clock.
    pub at: Timestamp,
    /// Snapshots that it is reading.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub loading: Vec<SnapshotId>,
}

impl Ack {
    pub fn encode(&self) -> Vec<u8> {
        json::encode(self)
    }

    pub fn decode(bytes: &[u8]) -> Result<Ack> {
        json::decode(Document::Ack, bytes)
    }

    pub fn path(&self) -> ArchivePath {
        self.name.path()
    }
}

/// A reader's name, which is the stem of its file's: letters, digits, `-` and `_`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct AckName(String);

const NAME_BYTES_MAX: usize = 64;
const ENDING: &str = ".json";

impl AckName {
    pub fn path(&self) -> ArchivePath {
        let path = ArchivePath::acks().join(&format!("{self}{ENDING}"));
        path.expect("the name is plain")
    }

    /// What a name in the folder says it is.
    pub fn of_file(file_name: &str) -> Option<AckName> {
        file_name.strip_suffix(ENDING)?.parse().ok()
    }
}

impl FromStr for AckName {
    type Err = Error;

    fn from_str(text: &str) -> Result<AckName> {
        let plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_');
        if (1..=NAME_BYTES_MAX).contains(&text.len()) && text.bytes().all(plain) {
            Ok(AckName(text.to_owned()))
        } else {
            Err(Error::bad_input("a reader's name (letters, digits, - and _, at most 64)", text))
        }
    }
}

impl fmt::Display for AckName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl Serialize for AckName {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::document::FORMAT;
    use crate::manifest::sample::{archive_id, lsn, ts};

    fn ack() -> Ack {
        Ack {
            format: FORMAT,
            archive_id: archive_id(),
            name: "reports-1".parse().expect("a name"),
            seq: 42,
            end_lsn: lsn("0/16B3D40"),
            at: ts("2026-03-01T00:00:00Z"),
            loading: vec![SnapshotId::new(lsn("0/16B3D40"), ts("2026-02-05T10:30:00Z"))],
        }
    }

    #[test]
    fn reads_what_it_writes() {
        for ack in [ack(), Ack { loading: Vec::new(), seq: 0, ..ack() }] {
            assert_eq!(Ack::decode(&ack.encode()).ok(), Some(ack));
        }
        assert_eq!(ack().path().as_str(), "acks/reports-1.json");
        assert_eq!(AckName::of_file("reports-1.json"), Some(ack().name));
    }

    #[test]
    fn refuses_what_is_not_one() {
        let sound = String::from_utf8(ack().encode()).expect("UTF-8");
        for (text, says) in [
            (sound.replace("\"format\":1", "\"format\":2"), "has format 2"),
            (sound.replace("reports-1", "../x"), "a reader's name"),
            (sound.replace("\"seq\":42", "\"seq\":42,\"seq\":42"), "twice in one object"),
        ] {
            let error = Ack::decode(text.as_bytes()).expect_err(says).report();
            assert!(error.contains(says), "{says:?} is not in {error}");
        }
        for name in ["", ".", "..", "a.b", "a/b", "ü", &"x".repeat(65)] {
            assert!(name.parse::<AckName>().is_err(), "accepted {name:?}");
            assert_eq!(AckName::of_file(&format!("{name}.json")), None);
        }
    }
}
