//! The manifest of a segment: what its change file holds, how it follows the one before it, and what is
//! known to be missing.

mod check;
mod raw;
#[cfg(test)]
pub(crate) mod sample;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::change::Op;
use crate::digest::Digest;
use crate::document::Document;
use crate::error::Result;
use crate::json;
use crate::layout::{SegmentName, SegmentSeq};
use crate::lsn::Lsn;
use crate::name::TableName;
use crate::proof::Mark;
use crate::time::Timestamp;

pub use crate::document::FORMAT;
pub use crate::frame::ChangeFile;
pub use crate::relation::{Column, FingerprintVersion, Generated, Identity, Relation, ReplicaIdentity};

/// One segment, described. Field order is the order in the file.
///
/// What `decode` returns holds by itself: counts add up, a file's fields are all there or all absent, every
/// fingerprint is right. Whether it belongs where it lies is for `chain` to say.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "raw::RawManifest")]
pub struct Manifest {
    pub format: u64,
    pub archive_id: uuid::Uuid,
    pub seq: SegmentSeq,
    /// `None` for the first segment.
    pub previous: Option<Link>,
    /// `None` for a gap alone, or a mark alone.
    #[serde(flatten)]
    pub file: Option<ChangeFile>,
    pub records: u64,
    pub transactions: u64,
    pub tables: BTreeMap<TableName, OpCounts>,
    pub start_lsn: Lsn,
    pub end_lsn: Lsn,
    #[serde(flatten)]
    pub span: Option<Span>,
    pub source: Source,
    pub capture: Vec<TableName>,
    /// Since when each captured table is, in the first manifest and in those before which that changed.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub capture_since: BTreeMap<TableName, Since>,
    pub relations: BTreeMap<TableName, Relation>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub gaps: Vec<Gap>,
    /// Here the source's tables are as a proof will say, if one comes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub proof: Option<Mark>,
    pub created_at: Timestamp,
    pub archiver: String,
}

impl Manifest {
    /// The file's bytes: one JSON object with a line end.
    pub fn encode(&self) -> Vec<u8> {
        json::encode(self)
    }

    /// Strict: one sound JSON object of format 1 in which no key stands twice; unknown fields are ignored.
    pub fn decode(bytes: &[u8]) -> Result<Manifest> {
        let manifest: Manifest = json::decode(Document::Manifest, bytes)?;
        manifest.check()?;
        Ok(manifest)
    }

    /// The stem of its own file's name and of its change file's.
    pub fn name(&self) -> SegmentName {
        SegmentName { seq: self.seq, end_lsn: self.end_lsn }
    }
}

/// The manifest before this one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Link {
    pub seq: SegmentSeq,
    pub sha256: Digest,
}

/// Smallest and largest commit time and xid of the segment's transactions.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Span {
    pub first_ts: Timestamp,
    pub last_ts: Timestamp,
    pub min_xid: u32,
    pub max_xid: u32,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct OpCounts {
    pub insert: u64,
    pub update: u64,
    pub delete: u64,
    pub truncate: u64,
}

impl OpCounts {
    pub fn add(&mut self, op: Op) {
        *match op {
            Op::Insert => &mut self.insert,
            Op::Update => &mut self.update,
            Op::Delete => &mut self.delete,
            Op::Truncate => &mut self.truncate,
        } += 1;
    }

    /// Of all four; saturating, since counts also come from outside.
    pub fn total(self) -> u64 {
        [self.update, self.delete, self.truncate].into_iter().fold(self.insert, u64::saturating_add)
    }
}

/// From which position on a table is captured without interruption.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Since {
    /// What committed later is captured.
    pub lsn: Lsn,
    /// It had no rows there: its changes from there on are all of it.
    pub empty: bool,
}

/// What the changes were read from. Not written for wal2json, which was the first.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum SourceKind {
    #[default]
    #[serde(skip)]
    Wal2json,
    Pgoutput,
    Triggers,
}

impl SourceKind {
    fn is_wal2json(&self) -> bool {
        *self == SourceKind::Wal2json
    }
}

/// Where the changes were read, and how.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Source {
    #[serde(default, skip_serializing_if = "SourceKind::is_wal2json")]
    pub kind: SourceKind,
    pub system_identifier: String,
    pub timeline: u32,
    pub database: String,
    pub server_version: String,
    pub slot: String,
    pub plugin: String,
    pub settings: BTreeMap<String, String>,
    pub degraded: Vec<String>,
    /// In which order its transactions happened, where that is not the order of their commits.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub order: Option<Order>,
    /// The snapshot that its rows are of, where they are of one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub batch: Option<Batch>,
}

/// Rows as they were in one snapshot: those that were touched since the snapshot before.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Batch {
    /// `xmin:xmax:xip,…`, as `pg_current_snapshot()` prints it.
    pub snapshot: String,
    /// All that the snapshot shows was written and flushed before there.
    pub wal_lsn: Lsn,
}

/// In which order transactions happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Order {
    /// That is not told: they are one.
    Batch,
}

/// Changes that committed after `from` and up to `to` are known to be missing.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Gap {
    pub from: Lsn,
    pub to: Lsn,
    pub reason: String,
    /// `None`: of all tables.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tables: Option<Vec<TableName>>,
}

impl Gap {
    /// Whether changes of that table are lost in it.
    pub fn concerns(&self, table: &TableName) -> bool {
        self.tables.as_ref().is_none_or(|tables| tables.contains(table))
    }
}
