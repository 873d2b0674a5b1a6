//! Segments, fetched in groups that share one local transaction.

use std::iter::Peekable;
use std::vec::IntoIter;

use syncdata_formats::chain::Verified;
use syncdata_formats::error::Result;
use syncdata_formats::lsn::Lsn;
use syncdata_formats::manifest::Manifest;

use crate::archive::fetch::Fetched;
use crate::archive::source::Source;
use crate::plan;

/// Each segment of a group holds room in the cache until the group is committed.
const GROUP_SEGMENTS_MAX: usize = 16;

/// The segments that are still to come.
pub(crate) struct Groups<'a> {
    source: &'a Source,
    segments: Peekable<IntoIter<Verified>>,
    apply_batch_changes: u64,
    is_of_one_shape: bool,
}

/// What one transaction takes.
pub(crate) struct Group {
    pub segments: Vec<Fetched>,
    /// Where its last segment ends, also when that one was not wanted.
    pub end: Lsn,
}

impl<'a> Groups<'a> {
    pub(crate) fn new(source: &'a Source, segments: Vec<Verified>, apply_batch_changes: u64) -> Groups<'a> {
        let segments = segments.into_iter().peekable();
        Groups { source, segments, apply_batch_changes, is_of_one_shape: false }
    }

    /// Where that is asked for, all segments of a group describe each table alike.
    #[must_use]
    pub(crate) fn of_one_shape(self, is_of_one_shape: bool) -> Groups<'a> {
        Groups { is_of_one_shape, ..self }
    }

    /// The next group; segments that are not wanted are passed over. `None`: there are no more segments.
    pub(crate) async fn next(&mut self, is_wanted: impl Fn(&Manifest) -> bool) -> Result<Option<Group>> {
        let mut group: Option<Group> = None;
        let mut records = 0;

        while let Some(segment) = self.segments.next() {
            let end = segment.manifest().end_lsn;
            let mut fetched = group.map_or_else(Vec::new, |group| group.segments);
            if is_wanted(segment.manifest()) {
                records += segment.manifest().records;
                fetched.push(self.source.fetch_file(segment).await?);
            }

            let is_full = fetched.len() >= GROUP_SEGMENTS_MAX;
            let next = self.segments.peek().map(Verified::manifest).filter(|_| self.is_of_one_shape);
            let is_alike = |next: &Manifest| {
                fetched.iter().all(|known| plan::is_of_one_shape(known.segment.manifest(), next))
            };
            let is_alike = next.is_none_or(is_alike);
            group = Some(Group { segments: fetched, end });
            // What the group holds of the cache it holds until its commit: to wait for more would be for ever.
            let next_fits = self.segments.peek().is_some_and(|next| {
                !is_wanted(next.manifest())
                    || !is_full
                        && is_alike
                        && plan::fits(records, next.manifest(), self.apply_batch_changes)
                        && self.source.has_room_for(next)
            });
            if !next_fits {
                break;
            }
        }
        Ok(group)
    }
}
