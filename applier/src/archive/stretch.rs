//! A stretch of the archive that was applied before: from a position up to a segment that we have and that vouches for
//! all before it.

use syncdata_formats::chain::{ChainTip, Verified};
use syncdata_formats::digest::Digest;
use syncdata_formats::error::{Error, Kind, Result};
use syncdata_formats::floor::Floor;
use syncdata_formats::layout::SegmentName;
use syncdata_formats::lsn::Lsn;
use syncdata_formats::manifest::Link;
use syncdata_formats::time::Day;
use uuid::Uuid;

use crate::archive::fetch::{Listing, Source};

/// The manifests that end after `from`, up to `last`, which was applied: each is checked against the one before, and the
/// last one against that link.
pub(crate) async fn stretch(
    source: &Source,
    archive_id: Uuid,
    last: Link,
    from: Lsn,
) -> Result<Vec<Verified>> {
    let (mut listing, floor) = (source.list(None).await?, source.floor().await?);
    if let Some(floor) = &floor {
        // A prune that was interrupted leaves some before the floor: they do not exist.
        listing.retain(|seq, _| *seq >= floor.seq);
    }

    let names: Vec<(Day, SegmentName)> = listing
        .range(..=last.seq)
        .flat_map(|(_, places)| places.iter().copied())
        .filter(|(_, name)| name.end_lsn > from)
        .collect();
    let Some(&(_, first)) = names.first() else { return Ok(Vec::new()) };

    let mut tip = tip_before(source, archive_id, &listing, floor.as_ref(), first).await?;
    let mut segments = Vec::new();
    for (day, name) in names {
        let segment = source.manifest(&tip, day, name).await?;
        tip = segment.tip();
        segments.push(segment);
    }

    if tip.previous() != Some(last) {
        return Err(Error::new(
            Kind::Foreign,
            format!("the archive's segments up to {} are not those that were applied here", last.seq),
        )
        .hint("nothing was applied; bring the archive back from a sound copy"));
    }
    Ok(segments)
}

async fn tip_before(
    source: &Source,
    archive_id: Uuid,
    listing: &Listing,
    floor: Option<&Floor>,
    first: SegmentName,
) -> Result<ChainTip> {
    let before = listing.range(..first.seq).next_back().and_then(|(_, places)| places.first());
    if let Some(&(day, name)) = before {
        // Not verified by itself; the links from here to the last segment do that.
        let bytes = source.manifest_bytes(day, name).await?;
        let link = Link { seq: name.seq, sha256: Digest::of(&bytes) };
        return Ok(ChainTip::after(archive_id, link, name.end_lsn, day));
    }
    Ok(floor.map_or(ChainTip::origin(archive_id), Floor::tip))
}
