//! `head.json`: how far the archive goes, and until when by production's clock.

use syncdata_archive::{Archive, small};
use syncdata_formats::document::Document;
use syncdata_formats::head::{Head, Newest};
use syncdata_formats::layout::{ArchivePath, SegmentName, SegmentSeq};
use syncdata_formats::name::TablePattern;
use syncdata_formats::time::Timestamp;
use syncdata_formats::{Error, Kind, Result};

use crate::spool::State;

/// What it says when the archive holds all that the state speaks of.
pub(super) fn of(state: &State, covered_at: Timestamp) -> Head {
    let newest = state.tip.last.map(|last| Newest {
        day: last.day,
        name: SegmentName { seq: last.segment.seq, end_lsn: state.tip.end_lsn },
        sha256: last.segment.sha256,
    });
    Head {
        archive_id: state.archive_id,
        newest,
        covered_lsn: state.covered_lsn,
        covered_at,
        recent: state.recent(),
        not_captured: not_captured(state),
        stood: state.stood.newest(Head::STOOD_MAX),
        archiver: env!("CARGO_PKG_VERSION").to_owned(),
    }
}

/// Tables that have left since the newest segment: its manifest says that they are captured.
fn not_captured(state: &State) -> Vec<TablePattern> {
    let left = state.memory.left_since(state.tip.end_lsn);
    match left.len() > Head::NOT_CAPTURED_MAX {
        true => vec![TablePattern::All],
        false => left.into_iter().map(TablePattern::Table).collect(),
    }
}

/// `None` also when it cannot be made out: a torn head is as good as a missing one.
pub(super) fn read(archive: &mut dyn Archive) -> Result<Option<Head>> {
    let bytes = small::read(archive, &ArchivePath::head(), Document::Head)?;
    Ok(bytes.and_then(|bytes| Head::decode(&bytes).ok()))
}

pub(super) fn missing_segment(seq: SegmentSeq) -> Error {
    Error::new(Kind::NotFound, format!("head.json names segment {seq}, which the archive does not have"))
        .hint("put the missing segments back on the backup host; nothing was written")
}
