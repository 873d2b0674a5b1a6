//! What a snapshot came to, in numbers.

use bytesize::ByteSize;
use serde::{Deserialize, Serialize};
use syncdata_formats::lsn::Lsn;
use syncdata_formats::snapshot::SnapshotManifest;

use super::store::{How, Stored};
use super::tables::LeftOut;

/// The numbers of a finished snapshot.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Taken {
    pub id: String,
    pub start_lsn: Lsn,
    pub end_lsn: Lsn,
    pub tables: usize,
    pub rows: u64,
    pub parts: u64,
    pub parts_reused: u64,
    pub parts_delta: u64,
    /// Bytes of all rows before compression.
    pub content_bytes: u64,
    pub bytes_sent: u64,
    pub seconds: f64,
    /// What the copy does not have, though it was wanted.
    pub left_out: Vec<LeftOut>,
}

impl Taken {
    pub(super) fn count(&mut self, stored: &Stored) {
        self.parts += 1;
        self.parts_reused += u64::from(stored.how == How::Reused);
        self.parts_delta += u64::from(stored.how == How::Delta);
        self.bytes_sent += stored.bytes_sent;
    }

    pub(super) fn describe(&mut self, manifest: &SnapshotManifest) {
        self.id = manifest.id.to_string();
        (self.start_lsn, self.end_lsn) = (manifest.start_lsn, manifest.end_lsn);
        self.tables = manifest.tables.len();
        (self.rows, self.content_bytes) = (manifest.rows(), manifest.content_bytes());
    }

    pub(crate) fn text(&self) -> String {
        if self.tables == 0 && !self.left_out.is_empty() {
            return "no snapshot: none of its tables could be copied now\n".to_owned();
        }
        format!(
            "snapshot {}: {} tables, {} rows, {} parts ({} of them already there, {} as differences), {} sent, {:.1} s\n",
            self.id,
            self.tables,
            self.rows,
            self.parts,
            self.parts_reused,
            self.parts_delta,
            ByteSize::b(self.bytes_sent),
            self.seconds
        )
    }
}
