//! A proof: digests of production's tables at one place of the commit order, so that a copy which has come to that place
//! can be compared without the two ever talking.
//!
//! ```text
//! segments/…/….manifest.json                 at the cut, with the mark: `proof`
//! proofs/<id>/<n>.buckets.zst                digests of one table
//! proofs/<id>/proof.manifest.json.sha256     for sha256sum -c
//! proofs/<id>/proof.manifest.json            last: without it the proof does not exist
//! ```
//! A row is hashed whole and counted into one of 2^k buckets, which its key chooses. Nothing depends on the order of rows.

mod buckets;
mod check;
mod compare;
mod id;
mod mark;
mod row;
#[cfg(test)]
pub(crate) mod sample;
#[cfg(test)]
mod tests;
mod types;
mod violators;

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use uuid::Uuid;

use crate::digest::Digest;
use crate::document::Document;
use crate::error::{Error, Result};
use crate::json;
use crate::layout::SegmentSeq;
use crate::lsn::Lsn;
use crate::name::TableName;
use crate::snapshot::Seen;
use crate::time::Timestamp;

pub use buckets::Buckets;
pub use compare::{Comparison, Score};
pub use id::ProofId;
pub use mark::{Mark, MarkedTable};
pub use row::{Digester, Layout, copy_fields, hash_of};
pub use types::{prints_alike, prints_alike_here};
pub use violators::{Surplus, VIOLATORS_MAX, Violators, ViolatorsOfCopy};

/// One proof, described. Field order is the order in the file.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ProofManifest {
    pub format: u64,
    #[serde(deserialize_with = "json::one_spelling")]
    pub archive_id: Uuid,
    pub id: ProofId,
    pub cut: Cut,
    /// Production's clock, when its tables were read.
    pub taken_at: Timestamp,
    pub snapshot: Seen,
    pub tables: BTreeMap<TableName, ProvedTable>,
    /// Tables of the mark of which there is no digest, each with the reason.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub not_proved: BTreeMap<TableName, String>,
    pub created_at: Timestamp,
    pub archiver: String,
}

/// The place in the commit order: after the segment that carries the mark. The same number and position of another
/// history is another cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cut {
    pub seq: SegmentSeq,
    /// Of the manifest of that segment.
    pub sha256: Digest,
    pub end_lsn: Lsn,
}

/// What production says of one table.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProvedTable {
    pub rows: u64,
    pub k: u8,
    /// The fingerprint of the relation in the mark.
    pub relation: Digest,
    /// A plain name beside the manifest.
    pub file: String,
    pub bytes: u64,
    pub sha256: Digest,
    /// Columns that hold values of which production knows that the stream does not say them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub not_comparable: Vec<String>,
    /// Columns that production computes and that do not travel, each with its sum.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub computed: BTreeMap<String, RowHash>,
    /// Foreign keys of the table that refer to tables which are captured too.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub foreign_keys: Vec<ForeignKey>,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub rules: BTreeMap<String, RuleAnswer>,
}

/// A foreign key that production enforces.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ForeignKey {
    pub name: String,
    pub columns: Vec<String>,
    pub references: TableName,
    pub key: Vec<String>,
    /// Rows that refer to nothing all the same; absent: nobody has asked, or was answered. Of the proof; the mark comes
    /// before anybody asks.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub orphans: Option<Violators>,
}

/// What production answered to a rule of its operator.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RuleAnswer {
    /// Of the rule's SQL.
    pub sha256: Digest,
    /// `null`: it was not answered.
    #[serde(deserialize_with = "json::null_must_be_said")]
    pub violators: Option<Vec<RowHash>>,
    /// There are more than are listed.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub more: bool,
    /// Why it was not answered, without values of rows.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

impl RuleAnswer {
    pub fn new(sha256: Digest, answer: Result<Violators, String>) -> RuleAnswer {
        match answer {
            Ok(Violators { rows, more }) => RuleAnswer { sha256, violators: Some(rows), more, reason: None },
            Err(reason) => RuleAnswer { sha256, violators: None, more: false, reason: Some(reason) },
        }
    }

    /// `Err`: why there is no answer.
    pub fn answer(&self) -> Result<Violators, String> {
        match &self.violators {
            Some(rows) => Ok(Violators { rows: rows.clone(), more: self.more }),
            None => Err(self.reason.clone().unwrap_or_else(|| "it was not answered".to_owned())),
        }
    }
}

/// By what a rule is the same one on both sides, beside its name.
pub fn rule_sha256(sql: &str) -> Digest {
    Digest::of(sql.as_bytes())
}

/// The first 16 bytes of the SHA-256 of a row's image, printed as 32 lower-case hex digits.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RowHash(pub u128);

impl ProofManifest {
    pub const FILE: &str = "proof.manifest.json";

    /// The line beside the manifest, for `sha256sum -c`.
    pub fn digest_file(bytes: &[u8]) -> Vec<u8> {
        format!("{}  {}\n", Digest::of(bytes), ProofManifest::FILE).into_bytes()
    }

    pub fn encode(&self) -> Vec<u8> {
        json::encode(self)
    }

    /// Strict, as manifests of segments are.
    pub fn decode(bytes: &[u8]) -> Result<ProofManifest> {
        let manifest: ProofManifest = json::decode(Document::ProofManifest, bytes)?;
        manifest.check()?;
        Ok(manifest)
    }

    pub fn rows(&self) -> u64 {
        self.tables.values().fold(0, |sum, table| sum.saturating_add(table.rows))
    }
}

impl fmt::Display for RowHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", self.0)
    }
}

impl fmt::Debug for RowHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

impl FromStr for RowHash {
    type Err = Error;

    fn from_str(text: &str) -> Result<RowHash> {
        let bad = || Error::bad_input("a row hash in 32 lower-case hex digits", text);
        if text.len() != 32 || !text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f')) {
            return Err(bad());
        }
        u128::from_str_radix(text, 16).map(RowHash).map_err(|_| bad())
    }
}

impl Serialize for RowHash {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for RowHash {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<RowHash, D::Error> {
        json::one_spelling(deserializer)
    }
}
