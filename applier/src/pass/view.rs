//! What the archive shows of itself at the beginning of a pass.

use syncdata_archive::listing::Listing;
use syncdata_formats::chain::ChainTip;
use syncdata_formats::digest::Digest;
use syncdata_formats::error::{Error, Kind, Result};
use syncdata_formats::floor::Floor;
use syncdata_formats::head::{Head, Newest, Recent, Size};
use syncdata_formats::layout::SegmentName;
use syncdata_formats::time::{Day, Timestamp};

use crate::archive::source::Source;
use crate::plan::position::Checkpoint;

/// The archive as one pass sees it.
#[derive(Debug)]
pub(super) struct View {
    pub head: Option<Head>,
    /// The segments after the checkpoint, and its own.
    listing: Listing,
    /// They are those that head.json names; nobody has looked whether they are there, or whether there are more.
    pub is_hint: bool,
    /// After the checkpoint's segment, or where the archive begins.
    pub tip: ChainTip,
}

impl View {
    /// Looks at the archive and refuses it if it is not what it was.
    /// `known` is how fresh the head was at the last pass; with it a newer one spares the listing.
    pub(super) async fn of(
        source: &Source,
        checkpoint: &Checkpoint,
        known: Option<Timestamp>,
    ) -> Result<View> {
        let archive_id = checkpoint.archive_id.expect("adopted before");
        // The head first: what it names was there when it was written.
        let head = source.head().await?.filter(|head| {
            let ours = head.archive_id == archive_id;
            if !ours {
                tracing::warn!(archive = %head.archive_id, "head.json is of another archive and ignored");
            }
            ours
        });
        let hinted = hinted(checkpoint, head.as_ref(), known);
        let is_hint = hinted.is_some();
        let listing = match hinted {
            Some(names) => {
                tracing::debug!(segments = names.len(), "head.json names what is new: nothing is listed");
                Listing::of(names, source.floor().await?)
            }
            None => source.list(checkpoint.segment.map(|segment| segment.day)).await?,
        };
        if listing.floor().is_some_and(|floor| floor.archive_id != archive_id) {
            return Err(Error::new(Kind::Foreign, "floor.json is of another archive"));
        }
        let tip = match checkpoint.segment {
            None => listing.origin(archive_id),
            Some(_) => checkpoint.tip(archive_id),
        };
        if checkpoint.segment.is_some() {
            match check_own(source, checkpoint, &listing).await {
                Err(error) if is_hint && is_about_the_archive(&error) => {
                    return Box::pin(View::of(source, checkpoint, None)).await;
                }
                checked => checked?,
            }
        }
        if let Some(newest) = head.as_ref().and_then(|head| head.newest)
            && newest.name.seq.get() < checkpoint.seq()
        {
            tracing::warn!(
                segment = newest.name.seq.get(),
                "head.json is older than the checkpoint and ignored"
            );
        }
        Ok(View { head, listing, is_hint, tip })
    }

    /// The manifests after the checkpoint, in order; where one number stands twice, both, so that the chain refuses.
    pub(super) fn after(&self, checkpoint: &Checkpoint) -> Vec<(Day, SegmentName)> {
        self.listing.names().filter(|(_, name)| name.seq.get() > checkpoint.seq()).collect()
    }

    /// How much is in them, where head.json says it of each.
    pub(super) fn size_after(&self, checkpoint: &Checkpoint) -> Option<Size> {
        let recent = self.head.as_ref().map_or(&[][..], |head| &head.recent);
        let size = |(day, name): (Day, SegmentName)| {
            let is_it = |recent: &&Recent| recent.segment.name == name && recent.segment.day == day;
            recent.iter().find(is_it).and_then(|recent| recent.size)
        };
        self.after(checkpoint).into_iter().map(size).try_fold(Size::default(), |all, one| Some(all.and(one?)))
    }

    pub(super) fn floor(&self) -> Option<&Floor> {
        self.listing.floor()
    }
}

/// The segments from the checkpoint's own on, if head.json names them all and was replaced since: one that was not may
/// hide what came after it.
fn hinted(
    checkpoint: &Checkpoint,
    head: Option<&Head>,
    known: Option<Timestamp>,
) -> Option<Vec<(Day, SegmentName)>> {
    let (own, head) = (checkpoint.segment?, head?);
    if head.covered_at <= known? {
        return None;
    }
    let is_own = |segment: &&Newest| {
        segment.name.seq == own.link.seq && segment.sha256 == own.link.sha256 && segment.day == own.day
    };
    let recent = head.recent.iter().map(|recent| &recent.segment);
    recent.clone().find(is_own)?;
    let from_own = recent.take_while(|segment| segment.name.seq >= own.link.seq);
    Some(from_own.map(|segment| (segment.day, segment.name)).collect())
}

/// Not that it is out of reach: what it has is not as it should be.
pub(super) fn is_about_the_archive(error: &Error) -> bool {
    error.kind().refuses_archive() || error.kind() == Kind::NotFound
}

/// The segment at the checkpoint is still there as it was, or was pruned.
async fn check_own(source: &Source, checkpoint: &Checkpoint, listing: &Listing) -> Result<()> {
    let own = checkpoint.segment.expect("asked for one that has");
    let seq = own.link.seq;
    let places = listing.places(seq);
    if !places.is_empty() {
        for &(day, name) in places {
            let bytes = source.manifest_bytes(day, name).await?;
            if name.end_lsn == own.end_lsn && Digest::of(&bytes) == own.link.sha256 {
                return Ok(());
            }
        }
        return Err(Error::new(
            Kind::Foreign,
            format!("segment {seq}, which is applied here, was rewritten in the archive"),
        )
        .hint("nothing was applied; bring the archive back from a sound copy"));
    }
    match listing.floor() {
        Some(floor) if floor.previous == Some(own.link) => Ok(()),
        Some(floor) if floor.seq > seq.next() => Err(Error::new(
            Kind::Foreign,
            format!("the archive was pruned up to segment {}; this copy ends at {seq}", floor.seq),
        )
        .hint("what lies between is gone from the archive: syncdata-applier resync --all")),
        _ => Err(Error::new(
            Kind::Foreign,
            format!("the archive no longer has segment {seq}, which is applied here: it was rolled back"),
        )
        .hint("nothing was applied; bring the newer archive back, or check archive_dir")),
    }
}
