//! The name of a proof, and where its files lie.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::ProofManifest;
use crate::error::{Error, Kind, Result};
use crate::json;
use crate::layout::ArchivePath;
use crate::lsn::Lsn;
use crate::snapshot::SnapshotId;
use crate::time::Timestamp;

/// Named as a snapshot is: a position in 16 hex digits, then the time. Ids sort from the oldest to the newest.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ProofId(SnapshotId);

const BUCKETS_ENDING: &str = ".buckets.zst";

impl ProofId {
    pub fn new(taken_at_lsn: Lsn, at: Timestamp) -> ProofId {
        ProofId(SnapshotId::new(taken_at_lsn, at))
    }

    pub fn as_str(&self) -> &str {
        self.0.as_str()
    }

    pub fn folder(&self) -> ArchivePath {
        self.path("")
    }

    pub fn manifest(&self) -> ArchivePath {
        self.path(ProofManifest::FILE)
    }

    pub fn digest(&self) -> ArchivePath {
        self.path("proof.manifest.json.sha256")
    }

    pub fn signature(&self) -> ArchivePath {
        self.path("proof.manifest.json.minisig")
    }

    /// The name of a file of buckets: tables are numbered from 1.
    pub fn buckets_name(number: usize) -> String {
        format!("{number}{BUCKETS_ENDING}")
    }

    /// Whether it is a name of that kind, in its one spelling.
    pub fn is_buckets_name(name: &str) -> bool {
        name.strip_suffix(BUCKETS_ENDING).is_some_and(|number| {
            (1..=9).contains(&number.len())
                && number.bytes().all(|b| b.is_ascii_digit())
                && !number.starts_with('0')
        })
    }

    pub fn buckets(&self, name: &str) -> Result<ArchivePath> {
        if ProofId::is_buckets_name(name) {
            Ok(self.path(name))
        } else {
            Err(Error::new(Kind::Corrupt, format!("{name:?} is not the name of a file of buckets")))
        }
    }

    fn path(&self, file: &str) -> ArchivePath {
        let text = format!("{}/{self}/{file}", ArchivePath::proofs());
        ArchivePath::parse(text.trim_end_matches('/')).expect("its parts are plain")
    }
}

impl FromStr for ProofId {
    type Err = Error;

    fn from_str(text: &str) -> Result<ProofId> {
        text.parse().map(ProofId).map_err(|_| Error::bad_input("the id of a proof", text))
    }
}

impl fmt::Display for ProofId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

impl Serialize for ProofId {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for ProofId {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<ProofId, D::Error> {
        json::one_spelling(deserializer)
    }
}
