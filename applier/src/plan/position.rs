//! How far a copy has come: as a whole (the checkpoint) and with each table.

use syncdata_formats::chain::{ChainTip, Verified};
use syncdata_formats::lsn::Lsn;
use syncdata_formats::manifest::Link;
use syncdata_formats::time::{Day, Timestamp};
use uuid::Uuid;

/// How far the copy as a whole has come.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Checkpoint {
    /// `None` until the first pass has met an archive.
    pub archive_id: Option<Uuid>,
    /// `None`: nothing was applied yet.
    pub segment: Option<Applied>,
}

/// The last segment that was applied.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Applied {
    pub link: Link,
    pub end_lsn: Lsn,
    pub day: Day,
}

/// What was there, and when, at the end of a transaction.
#[derive(Clone, Copy, Debug)]
pub struct Position {
    pub lsn: Lsn,
    /// Of the newest transaction up to there, where it is known.
    pub commit_time: Option<Timestamp>,
}

impl Checkpoint {
    pub fn end_lsn(&self) -> Lsn {
        self.segment.map_or(Lsn::ZERO, |segment| segment.end_lsn)
    }

    pub fn seq(&self) -> u64 {
        self.segment.map_or(0, |segment| segment.link.seq.get())
    }

    /// What the next manifest has to follow, in that archive.
    pub fn tip(&self, archive_id: Uuid) -> ChainTip {
        match self.segment {
            None => ChainTip::origin(archive_id),
            Some(Applied { link, end_lsn, day }) => ChainTip::after(archive_id, link, end_lsn, day),
        }
    }

    /// After that segment.
    pub fn after(segment: &Verified) -> Checkpoint {
        let manifest = segment.manifest();
        let link = Link { seq: manifest.seq, sha256: segment.sha256() };
        Checkpoint {
            archive_id: Some(manifest.archive_id),
            segment: Some(Applied { link, end_lsn: manifest.end_lsn, day: segment.day() }),
        }
    }
}
