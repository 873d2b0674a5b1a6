//! A change file: lines in one zstd frame, written and read as a stream in constant memory, whatever the size of
//! a transaction.
//!
//! ```text
//! rows, commits ─▶ SegmentWriter ─ zstd ─ SHA-256 ─▶ file, Summary ─▶ manifest
//! file, manifest ─▶ ChangeFile::check ─▶ SegmentReader ─ every promise of the manifest checked ─▶ records, end
//! ```

mod compressor;
mod content;
pub(crate) mod frame;
mod lines;
mod reader;
mod shape;
mod tally;
#[cfg(test)]
mod tests;
mod writer;

use std::collections::BTreeMap;
use std::io::Read;

use crate::digest::Digest;
use crate::error::{Context as _, Error, Kind, Result};
use crate::layout::SegmentName;
use crate::lsn::Lsn;
use crate::manifest::{ChangeFile, OpCounts, Span};
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

impl ChangeFile {
    /// Size and SHA-256 of the compressed file; never reads far beyond the size that is promised.
    pub fn check(&self, source: &mut dyn Read) -> Result<()> {
        let mut bounded = source.take(self.bytes.saturating_add(1));
        let (sha256, bytes) = Digest::of_reader(&mut bounded).context(|| format!("reading {}", self.file))?;
        self.check_facts(bytes, sha256)
    }

    fn check_facts(&self, bytes: u64, sha256: Digest) -> Result<()> {
        if bytes != self.bytes {
            let found = if bytes > self.bytes { "more".to_owned() } else { bytes.to_string() };
            return Err(self.refused(format!("it should have {} bytes and has {found}", self.bytes)));
        }
        if sha256 != self.sha256 {
            return Err(self.refused(format!("its SHA-256 should be {} and is {sha256}", self.sha256)));
        }
        Ok(())
    }

    /// The file is named, and what was expected and found.
    pub(crate) fn refused(&self, problem: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Error {
        Error::new(Kind::Corrupt, format!("{} is not what its manifest says", self.file))
            .caused_by(problem)
            .of_file(&self.file)
            .hint("nothing of it was applied; bring the file back from a sound copy or from the archiver's spool")
    }
}
