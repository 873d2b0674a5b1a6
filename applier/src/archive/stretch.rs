//! A stretch of the archive that was applied before: from a position up to a segment that we have and that vouches for
//! all before it.

use syncdata_formats::chain::Verified;
use syncdata_formats::error::{Error, Kind, Result};
use syncdata_formats::layout::SegmentName;
use syncdata_formats::lsn::Lsn;
use syncdata_formats::manifest::Link;
use syncdata_formats::time::Day;
use uuid::Uuid;

use crate::archive::source::Source;

/// The manifests that end after `from`, up to `last`, which was applied and ends at `end`: each is checked against the one
/// before, and the last one against that link.
pub(crate) async fn stretch(
    source: &Source,
    archive_id: Uuid,
    last: Link,
    end: Lsn,
    from: Lsn,
) -> Result<Vec<Verified>> {
    let listing = source.list(None).await?;
    let names: Vec<(Day, SegmentName)> =
        listing.names().filter(|(_, name)| name.seq <= last.seq && name.end_lsn > from).collect();
    let Some(&(_, first)) = names.first() else {
        // A folder that is empty, or an older archive, says nothing of what came after.
        return match listing.floor() {
            _ if end <= from => Ok(Vec::new()),
            Some(floor) if floor.seq > last.seq => Err(Error::new(
                Kind::Foreign,
                format!("the archive was pruned up to segment {}: it has nothing from {from} on", floor.seq),
            )
            .hint("take a new snapshot: syncdata-archiver snapshot, on the production host")),
            _ => Err(not_those(last)),
        };
    };

    let before = listing.names().take_while(|(_, name)| name.seq < first.seq).last();
    let mut tip = match before {
        Some(before) => source.tip_after(archive_id, before).await?,
        None => listing.origin(archive_id),
    };
    let mut segments = Vec::new();
    for (day, name) in names {
        let segment = source.manifest(&tip, day, name).await?;
        tip = segment.tip();
        segments.push(segment);
    }

    if tip.previous() != Some(last) {
        return Err(not_those(last));
    }
    Ok(segments)
}

fn not_those(last: Link) -> Error {
    let message = format!("the archive's segments up to {} are not those that were applied here", last.seq);
    Error::new(Kind::Foreign, message).hint("nothing was applied; bring the archive back from a sound copy")
}
