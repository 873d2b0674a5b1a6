//! A base copy of tables: what was in them at one moment of production, in parts that are named by what they hold.
//!
//! ```text
//! snapshots/<id>/<digest>.copy.zst              a part: rows as COPY prints them
//! snapshots/<id>/<digest>.delta.zst             a part again, as its difference from an earlier one
//! snapshots/<id>/snapshot.manifest.json.sha256  for sha256sum -c
//! snapshots/<id>/snapshot.manifest.json         last: without it the snapshot does not exist
//! ```
//! The manifest says between which two positions the copy was taken and which transactions it has seen, so that the
//! changes of the archive can be applied over it exactly.

mod blocks;
mod check;
mod id;
mod part;
mod seen;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::digest::Digest;
use crate::document::Document;
use crate::error::Result;
use crate::frame::ChangeFile;
use crate::json;
use crate::lsn::Lsn;
use crate::name::TableName;
use crate::relation::Relation;
use crate::time::Timestamp;

pub use blocks::Blocks;
pub use id::{PartKind, PartName, SnapshotId};
pub use part::{DELTA_CONTENT_MAX, compress, pour};
pub use seen::Seen;

/// Longer chains of deltas would make every load read, and trust, ever more files.
pub const DELTAS_MAX: usize = 4;

/// One snapshot, described. Field order is the order in the file.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SnapshotManifest {
    pub format: u64,
    #[serde(deserialize_with = "json::one_spelling")]
    pub archive_id: Uuid,
    pub id: SnapshotId,
    /// All that committed up to here is in the copy.
    pub start_lsn: Lsn,
    /// Nothing that committed after this is. What committed in between is there if `snapshot` says so.
    pub end_lsn: Lsn,
    pub snapshot: Seen,
    /// Production's clock, when the copy began.
    pub taken_at: Timestamp,
    pub source: SnapshotSource,
    pub tables: BTreeMap<TableName, TableCopy>,
    pub created_at: Timestamp,
    pub archiver: String,
}

/// Where the rows were read, and how.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SnapshotSource {
    pub system_identifier: String,
    pub timeline: u32,
    pub database: String,
    pub server_version: String,
    pub slot: String,
    pub settings: BTreeMap<String, String>,
}

/// The rows of one table.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TableCopy {
    pub relation: Relation,
    /// The columns of each row, in their order: all but virtual ones.
    pub columns: Vec<String>,
    pub rows: u64,
    /// Of the rows as COPY prints them.
    pub content_bytes: u64,
    pub parts: Vec<Part>,
    /// Sequences that belong to columns of the table; `null`: never used.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub sequences: BTreeMap<String, Option<i64>>,
}

/// Some rows that follow each other in the order of the key.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Part {
    pub rows: u64,
    pub content_bytes: u64,
    pub content_sha256: Digest,
    /// The key of its first row, as COPY prints it; absent for a table without one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub first_key: Option<String>,
    /// One whole copy, then the deltas that lead from it to this part. `file` is a path below `snapshots/`.
    pub files: Vec<ChangeFile>,
}

impl SnapshotManifest {
    /// The line beside the manifest, for `sha256sum -c`.
    pub fn digest_file(bytes: &[u8]) -> Vec<u8> {
        format!("{}  {}\n", Digest::of(bytes), SnapshotId::MANIFEST).into_bytes()
    }

    pub fn encode(&self) -> Vec<u8> {
        json::encode(self)
    }

    /// Strict, as manifests of segments are.
    pub fn decode(bytes: &[u8]) -> Result<SnapshotManifest> {
        let manifest: SnapshotManifest = json::decode(Document::SnapshotManifest, bytes)?;
        manifest.check()?;
        Ok(manifest)
    }

    /// Every file that it needs, its own and those of earlier snapshots.
    pub fn files(&self) -> impl Iterator<Item = &ChangeFile> {
        self.tables.values().flat_map(|table| &table.parts).flat_map(|part| &part.files)
    }

    pub fn rows(&self) -> u64 {
        self.tables.values().map(|table| table.rows).sum()
    }

    pub fn content_bytes(&self) -> u64 {
        self.tables.values().map(|table| table.content_bytes).sum()
    }
}
