//! The documents of an archive: what messages call each of them, and how long it may be.
//!
//! One limit for whoever writes and whoever reads: what is longer could be written once and never be read again.

use crate::error::{Error, Kind, Result};

/// The only format there is, of manifests and of every other document.
pub const FORMAT: u64 = 1;

/// A small file of the archive, which is read whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Document {
    /// archive.json
    Identity,
    /// head.json
    Head,
    /// floor.json
    Floor,
    Manifest,
    SnapshotManifest,
    /// The line beside a snapshot's manifest, for `sha256sum -c`.
    SnapshotDigest,
    ProofManifest,
    /// The digests of a table in a proof.
    ProofBuckets,
    /// The line beside a proof's manifest, for `sha256sum -c`.
    ProofDigest,
    /// Of a manifest.
    Signature,
    /// How far a reader is.
    Ack,
    /// What says what is in a roll-up.
    RollupManifest,
}

impl Document {
    pub const ALL: [Document; 12] = [
        Document::Identity,
        Document::Head,
        Document::Floor,
        Document::Manifest,
        Document::SnapshotManifest,
        Document::SnapshotDigest,
        Document::ProofManifest,
        Document::ProofBuckets,
        Document::ProofDigest,
        Document::Signature,
        Document::Ack,
        Document::RollupManifest,
    ];

    /// Nothing longer is written or read.
    pub const fn bytes_max(self) -> usize {
        match self {
            Document::Identity | Document::Head | Document::Floor | Document::Ack => 64 << 10,
            // Larger than ten thousand relations of a hundred columns make it.
            Document::Manifest => 128 << 20,
            // Three files of each of ten thousand segments make 5 MiB.
            Document::RollupManifest => 16 << 20,
            // A terabyte in parts of 16 MiB makes less.
            Document::SnapshotManifest => 256 << 20,
            // Ten thousand tables, or the violators of some hundred rules.
            Document::ProofManifest => 64 << 20,
            // 2^20 buckets that cannot be compressed.
            Document::ProofBuckets => (24 << 20) + (64 << 10),
            Document::SnapshotDigest | Document::ProofDigest => 1 << 10,
            // Larger than any signature file that minisign writes.
            Document::Signature => 8 << 10,
        }
    }

    /// For messages.
    pub const fn what(self) -> &'static str {
        match self {
            Document::Identity => "archive.json",
            Document::Head => "head.json",
            Document::Floor => "floor.json",
            Document::Manifest => "the manifest",
            Document::SnapshotManifest => "the snapshot's manifest",
            Document::SnapshotDigest => "the snapshot's digest",
            Document::ProofManifest => "the proof's manifest",
            Document::ProofBuckets => "a file of buckets",
            Document::ProofDigest => "the proof's digest",
            Document::Signature => "the signature",
            Document::Ack => "an acknowledgement",
            Document::RollupManifest => "the roll-up's manifest",
        }
    }

    /// Refuses to write what would be refused when it is read.
    pub fn check_length(self, bytes: usize) -> Result<()> {
        if bytes <= self.bytes_max() {
            return Ok(());
        }
        let (what, max) = (self.what(), self.bytes_max());
        Err(Error::new(
            Kind::BadInput,
            format!("{what} has {bytes} bytes; more than {max} are never read back"),
        )
        .hint("it was not written; capture fewer tables with one archiver"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_too_long_to_be_read_is_not_written() {
        for document in Document::ALL {
            let max = document.bytes_max();
            assert!(document.check_length(max).is_ok(), "{document:?}");
            let error = document.check_length(max + 1).expect_err("too long");
            assert!(error.report().contains(document.what()), "{error:?}");
        }
    }
}
