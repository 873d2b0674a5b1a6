//! The manifests of an archive from its end backwards, as far as somebody needs them: each stretch is a verified
//! chain that leads into the one after it, and so to what is known for certain.

use syncdata_formats::chain::{ChainTip, Verified};
use syncdata_formats::error::{Error, Kind, Result};
use syncdata_formats::layout::{SegmentName, SegmentSeq};
use syncdata_formats::lsn::Lsn;
use syncdata_formats::manifest::Link;
use syncdata_formats::time::Day;
use uuid::Uuid;

use crate::archive::range::TimeRange;
use crate::archive::source::Source;

/// Read at once when somebody looks further back.
const STRIDE: usize = 64;

/// See the module.
#[derive(Debug)]
pub struct Trail<'a> {
    source: &'a Source,
    archive_id: Uuid,
    /// What the first segment of all has to follow.
    origin: ChainTip,
    /// A segment that is known from elsewhere: it must be that one.
    known: Option<Link>,
    places: Vec<(Day, SegmentName)>,
    /// There are segments after the last one that counts.
    pub has_more: bool,
    /// Of the last of these places; oldest first.
    read: Vec<Verified>,
}

impl<'a> Trail<'a> {
    /// Lists the archive; `until` is the last segment that counts.
    pub async fn open(
        source: &'a Source,
        archive_id: Uuid,
        known: Option<Link>,
        until: Option<SegmentSeq>,
    ) -> Result<Trail<'a>> {
        let listing = source.list(None).await?;
        if let Some(known) = known
            && listing.places(known.seq).is_empty()
        {
            let message = format!("the archive no longer has segment {}, which is applied here", known.seq);
            return Err(Error::new(Kind::Foreign, message).hint(
                "nothing was changed; bring the archive back from a sound copy, or check archive_dir",
            ));
        }
        let counts = |name: &SegmentName| until.is_none_or(|until| name.seq <= until);
        let has_more = listing.names().next_back().is_some_and(|(_, last)| !counts(&last));
        let places = listing.names().filter(|(_, name)| counts(name)).collect();
        let origin = listing.origin(archive_id);
        Ok(Trail { source, archive_id, origin, known, places, has_more, read: Vec::new() })
    }

    /// What was read so far, oldest first, without a hole up to the end.
    pub fn manifests(&self) -> &[Verified] {
        &self.read
    }

    /// Reads everything under that day and later ones, or all there is.
    pub async fn reach(&mut self, day: Option<Day>) -> Result<()> {
        let first = day.map_or(0, |day| self.places.partition_point(|place| place.0 < day));
        self.reach_place(first).await
    }

    /// Reads all that may say something of that time: up to a commit from before it. A gap lies under the day of the
    /// commit before it, however long ago that was.
    pub async fn reach_before(&mut self, range: &TimeRange) -> Result<()> {
        self.reach(range.first_day()).await?;
        let Some(from) = range.from else { return Ok(()) };
        let is_before = |segment: &Verified| segment.manifest().span.is_some_and(|span| span.last_ts < from);
        while !self.read.iter().any(is_before) && self.reach_further().await? {}
        Ok(())
    }

    /// What of that range the archive has no more, once all was read that may say something of it; in words.
    pub fn pruned_of(&self, range: &TimeRange) -> Option<String> {
        let from = range.from?;
        let is_before = |segment: &Verified| segment.manifest().span.is_some_and(|span| span.last_ts < from);
        let begins_late = self.begins_late().filter(|_| self.read.len() == self.places.len())?;
        (!self.read.iter().any(is_before)).then_some(begins_late)
    }

    /// That segments before the first one were pruned; in words.
    pub fn begins_late(&self) -> Option<String> {
        let (_, first) = self.places.first().filter(|(_, first)| first.seq != SegmentSeq::FIRST)?;
        Some(format!(
            "the archive begins with segment {}: what committed before it was pruned",
            first.seq.get()
        ))
    }

    /// Reads all that comes after that position, whatever times it has.
    pub async fn reach_position(&mut self, from: Lsn) -> Result<()> {
        let begins_before = |segment: &Verified| segment.manifest().start_lsn <= from;
        while !self.read.first().is_some_and(begins_before) && self.reach_further().await? {}
        Ok(())
    }

    /// Reads some more. False: that was the beginning.
    pub async fn reach_further(&mut self) -> Result<bool> {
        let unread = self.places.len() - self.read.len();
        self.reach_place(unread.saturating_sub(STRIDE)).await?;
        Ok(unread > 0)
    }

    async fn reach_place(&mut self, first: usize) -> Result<()> {
        let unread = self.places.len() - self.read.len();
        if first >= unread {
            return Ok(());
        }
        let mut tip = self.tip_before(first).await?;
        let mut stretch = Vec::with_capacity(unread - first);
        for &(day, name) in &self.places[first..unread] {
            let segment = self.source.manifest(&tip, day, name).await?;
            tip = segment.tip();
            if let Some(known) = self.known
                && known.seq == name.seq
                && known.sha256 != segment.sha256()
            {
                return Err(rewritten(&segment));
            }
            stretch.push(segment);
        }
        if let (Some(last), Some(next)) = (stretch.last(), self.read.first())
            && next.manifest().previous != tip.previous()
        {
            return Err(rewritten(last));
        }
        stretch.append(&mut self.read);
        self.read = stretch;
        Ok(())
    }

    /// What the manifest at that place has to follow.
    async fn tip_before(&self, place: usize) -> Result<ChainTip> {
        let Some(before) = place.checked_sub(1) else {
            return Ok(self.origin);
        };
        self.source.tip_after(self.archive_id, self.places[before]).await
    }
}

fn rewritten(segment: &Verified) -> Error {
    let path = segment.manifest_path();
    Error::new(Kind::Foreign, format!("{path} is not the one that is known: it was rewritten"))
        .hint("nothing was changed; bring the archive back from a sound copy")
}
