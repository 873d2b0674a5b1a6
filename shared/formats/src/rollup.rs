//! A roll-up: the files of a run of segments in one tar, byte for byte, and the manifest that says what is in it.
//!
//! It is a shorter way to the same bytes and proves nothing by itself: who reads a segment out of it checks its manifest
//! against the chain, its signature and its change file as if they lay alone.

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::digest::Digest;
use crate::document::Document;
use crate::error::{Error, Kind, Result};
use crate::json;
use crate::layout::{ArchivePath, RollupName, SegmentFile, SegmentSeq};
use crate::manifest::Link;
use crate::tar;
use crate::time::{Day, Timestamp};

/// Its manifest stays a few MiB.
pub const SEGMENTS_MAX: usize = 10_000;

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rollup {
    pub format: u64,
    #[serde(deserialize_with = "json::one_spelling")]
    pub archive_id: Uuid,
    /// The folder that its segments lie under.
    pub day: Day,
    /// Number and SHA-256 of the manifest of the first segment in it, and of the last.
    pub first: Link,
    pub last: Link,
    /// The tar: a plain name beside the manifest.
    pub file: String,
    pub bytes: u64,
    pub sha256: Digest,
    /// In the order of the tar: the manifests, each with its signature, then the change files.
    pub files: Vec<Member>,
    pub created_at: Timestamp,
    pub archiver: String,
}

/// A file in a roll-up.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Member {
    pub name: String,
    pub bytes: u64,
    pub sha256: Digest,
}

/// Where a file lies in the tar.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    pub file: SegmentFile,
    /// Of its first byte.
    pub offset: u64,
    pub bytes: u64,
    pub sha256: Digest,
}

impl Rollup {
    pub fn encode(&self) -> Vec<u8> {
        json::encode(self)
    }

    pub fn decode(bytes: &[u8]) -> Result<Rollup> {
        let rollup: Rollup = json::decode(Document::RollupManifest, bytes)?;
        rollup.check()?;
        Ok(rollup)
    }

    pub fn name(&self) -> RollupName {
        RollupName { first: self.first.seq, last: self.last.seq }
    }

    /// Every file in it, and where.
    pub fn places(&self) -> Result<Vec<Place>> {
        let mut at = 0;
        let mut places = Vec::with_capacity(self.files.len());
        for member in &self.files {
            let file = SegmentFile::parse(&member.name)
                .filter(|_| member.bytes <= tar::FILE_BYTES_MAX)
                .ok_or_else(|| contradiction(format!("{:?} is not a file of a segment", member.name)))?;
            places.push(Place {
                file,
                offset: at + tar::BLOCK_BYTES,
                bytes: member.bytes,
                sha256: member.sha256,
            });
            at += tar::taken(member.bytes);
        }
        Ok(places)
    }

    fn check(&self) -> Result<()> {
        let places = self.places()?;
        let taken: u64 = self.files.iter().map(|member| tar::taken(member.bytes)).sum();
        if taken + tar::END_BYTES != self.bytes || self.file != self.name().tar_name() {
            return Err(contradiction("it does not describe its own tar".to_owned()));
        }
        let (mut seq, mut changes_of, mut last) = (self.first.seq, None, None);
        for place in &places {
            let name = place.file.segment();
            let fits = match place.file {
                SegmentFile::Manifest(_) => {
                    let fits = name.seq == seq && seq <= self.last.seq && changes_of.is_none();
                    let link = Link { seq: name.seq, sha256: place.sha256 };
                    let is_end = |end: Link| end.seq != name.seq || end == link;
                    seq = seq.next();
                    fits && is_end(self.first) && is_end(self.last)
                }
                // Right after its manifest.
                SegmentFile::Signature(_) => last == Some(SegmentFile::Manifest(name)),
                SegmentFile::Changes(_) => {
                    let rises = changes_of.is_none_or(|before: SegmentSeq| before < name.seq);
                    changes_of = Some(name.seq);
                    rises && self.name().has(name.seq)
                }
            };
            if !fits {
                return Err(contradiction(format!("{} is not where it belongs", place.file.file_name())));
            }
            last = Some(place.file);
        }
        if seq != self.last.seq.next() {
            return Err(contradiction(format!("it has no manifest of segment {seq}")));
        }
        Ok(())
    }
}

impl Place {
    /// As it is called in the tar, and where it lies when it lies alone.
    pub fn path(&self, day: Day) -> ArchivePath {
        let name = self.file.segment();
        match self.file {
            SegmentFile::Changes(_) => name.file(day),
            SegmentFile::Manifest(_) => name.manifest(day),
            SegmentFile::Signature(_) => name.signature(day),
        }
    }
}

fn contradiction(what: String) -> Error {
    Error::new(Kind::Corrupt, format!("a roll-up's manifest contradicts itself: {what}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::document::FORMAT;
    use crate::layout::SegmentName;
    use crate::manifest::sample::{archive_id, ts};

    fn name(seq: u64) -> SegmentName {
        SegmentName {
            seq: SegmentSeq::new(seq).expect("a number"),
            end_lsn: "0/16B3D40".parse().expect("an LSN"),
        }
    }

    fn member(name: String, bytes: u64) -> Member {
        let sha256 = Digest::of(name.as_bytes());
        Member { name, bytes, sha256 }
    }

    fn rollup(files: Vec<Member>) -> Rollup {
        let link =
            |seq| Link { seq: name(seq).seq, sha256: Digest::of(name(seq).manifest_name().as_bytes()) };
        let (first, last) = (link(41), link(42));
        Rollup {
            format: FORMAT,
            archive_id: archive_id(),
            day: "2026-02-05".parse().expect("a day"),
            first,
            last,
            file: RollupName { first: first.seq, last: last.seq }.tar_name(),
            bytes: files.iter().map(|file| tar::taken(file.bytes)).sum::<u64>() + tar::END_BYTES,
            sha256: Digest::of(b"the tar"),
            files,
            created_at: ts("2026-02-06T00:05:00Z"),
            archiver: "0.1.0".to_owned(),
        }
    }

    fn files() -> Vec<Member> {
        vec![
            member(name(41).manifest_name(), 900),
            member(name(41).signature_name(), 200),
            member(name(42).manifest_name(), 800),
            member(name(41).file_name(), 513),
        ]
    }

    #[test]
    fn reads_what_it_writes_and_says_where_files_lie() {
        let rollup = rollup(files());
        assert_eq!(Rollup::decode(&rollup.encode()).expect("sound"), rollup);
        let offsets: Vec<u64> = rollup.places().expect("sound").iter().map(|place| place.offset).collect();
        assert_eq!(offsets, [512, 2048, 3072, 4608]);
        let path = rollup.places().expect("sound")[3].path(rollup.day);
        assert_eq!(path.as_str(), "segments/2026-02-05/0000000041-00000000016B3D40.jsonl.zst");
    }

    #[test]
    fn refuses_files_that_are_not_where_they_belong() {
        let swapped = |one: usize, other: usize| {
            let mut files = files();
            files.swap(one, other);
            files
        };
        let without = |index: usize| {
            let mut files = files();
            files.remove(index);
            files
        };
        let with = |file: Member| [files(), vec![file]].concat();
        for files in [
            swapped(0, 2),
            swapped(1, 2),
            swapped(2, 3),
            without(0),
            without(2),
            with(member(name(43).file_name(), 1)),
            with(member(name(41).file_name(), 1)),
            with(member(name(42).manifest_name(), 1)),
            with(member("../0000000041-00000000016B3D40.jsonl.zst".to_owned(), 1)),
            with(member(name(42).file_name(), tar::FILE_BYTES_MAX + 1)),
            Vec::new(),
        ] {
            let rollup = rollup(files);
            assert!(Rollup::decode(&rollup.encode()).is_err(), "accepted {rollup:?}");
        }
        let mut other_tar = rollup(files());
        other_tar.bytes += 512;
        assert!(Rollup::decode(&other_tar.encode()).is_err());
        let mut other_end = rollup(files());
        other_end.last.sha256 = Digest::of(b"another manifest");
        assert!(Rollup::decode(&other_end.encode()).is_err());
    }

    #[test]
    fn no_flipped_bit_and_no_cut_leaves_it_the_same() {
        let sound = rollup(files());
        let bytes = sound.encode();
        for length in 0..bytes.len() - 1 {
            assert!(Rollup::decode(&bytes[..length]).is_err(), "accepted {length} bytes");
        }
        for at in 0..bytes.len() - 1 {
            let mut flipped = bytes.clone();
            flipped[at] ^= 1;
            assert!(Rollup::decode(&flipped).ok() != Some(sound.clone()), "byte {at}");
        }
    }
}
