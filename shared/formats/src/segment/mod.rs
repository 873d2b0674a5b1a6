//! A change file: lines in one zstd frame, written and read as a stream in constant memory, whatever the size of
//! a transaction.
//!
//! ```text
//! rows, commits ─▶ SegmentWriter ─ zstd ─ SHA-256 ─▶ file, Summary ─▶ manifest
//! file, manifest ─▶ ChangeFile::check ─▶ SegmentReader ─ every promise of the manifest checked ─▶ records, end
//! ```

mod compressor;
mod content;
mod lines;
mod reader;
mod shape;
mod tally;
#[cfg(test)]
mod tests;
mod writer;

use std::collections::BTreeMap;

use crate::digest::Digest;
use crate::frame::ChangeFile;
use crate::layout::SegmentName;
use crate::lsn::Lsn;
use crate::manifest::{OpCounts, Span};
use crate::name::TableName;
use crate::time::Timestamp;

pub use reader::SegmentReader;
pub use writer::SegmentWriter;

/// What a written change file holds: the manifest's fields that follow from it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Summary {
    pub bytes: u64,
    pub sha256: Digest,
    pub content_bytes: u64,
    pub content_sha256: Digest,
    pub records: u64,
    pub transactions: u64,
    pub tables: BTreeMap<TableName, OpCounts>,
    /// As given to the writer: the end of the segment before.
    pub start_lsn: Lsn,
    /// The end of the last commit.
    pub end_lsn: Lsn,
    pub span: Span,
    /// Of the commit that was last, not the largest: it decides the segment's day.
    pub last_commit_ts: Timestamp,
}

impl Summary {
    /// The manifest's fields for the file of that name.
    pub fn change_file(&self, name: SegmentName) -> ChangeFile {
        ChangeFile {
            file: name.file_name(),
            bytes: self.bytes,
            sha256: self.sha256,
            content_bytes: self.content_bytes,
            content_sha256: self.content_sha256,
        }
    }
}
