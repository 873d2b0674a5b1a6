//! A place in the order of commits where a snapshot is a prefix of it.
//!
//! A snapshot sees a transaction when the server has ended it, the stream has it where its commit was written: these two
//! orders differ a little. So a place is looked for while the stream is read: before it all is seen, after it nothing.
//! Where there is none, the attempt is void, and another snapshot is tried.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use syncdata_formats::lsn::Lsn;
use syncdata_formats::manifest::Gap;
use syncdata_formats::name::TableName;
use syncdata_formats::proof::{Cut, Mark};
use syncdata_formats::snapshot::Seen;

use crate::source::event::{Begin, Transaction};

/// More commits than these are not remembered: the attempt is void.
const PUBLISHED_MAX: usize = 1 << 20;

/// What a proof and the polls of the same process say to each other.
#[derive(Clone, Debug, Default)]
pub(crate) struct Watch {
    search: Arc<Mutex<Option<Search>>>,
    is_taken: Arc<AtomicBool>,
}

/// One proof at a time.
#[derive(Debug)]
pub(crate) struct Claim(Watch);

impl Drop for Claim {
    fn drop(&mut self) {
        self.0.end();
        self.0.is_taken.store(false, Ordering::Release);
    }
}

/// The search that is under way.
#[derive(Clone, Debug, Default)]
pub(crate) struct Search {
    /// Captured transactions that were published before the snapshot was there.
    published: Vec<u32>,
    wanted: Option<Wanted>,
    /// What the stream is known to lack since the snapshot was taken.
    lost: Vec<Gap>,
    /// All that committed up to here was looked at.
    reached: Lsn,
    /// NULL in the stream may stand for NaN.
    is_degraded: bool,
    /// An answer is being published that this search has not heard of.
    is_behind: bool,
}

#[derive(Clone, Debug)]
struct Wanted {
    seen: Seen,
    mark: Mark,
    tables: BTreeSet<TableName>,
    /// What the snapshot sees committed before this.
    upto: Lsn,
    found: Found,
}

#[derive(Clone, Debug)]
enum Found {
    Nothing,
    /// In the answer that is being read.
    Place,
    Marked(Cut),
    Void(String),
}

/// Where a segment ends because the snapshot does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Place {
    /// After that one of the answer's change files.
    After(usize),
    /// Before all of them: there is none that could end there.
    Alone(Lsn),
}

/// How far a search is.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Progress {
    UnderWay,
    /// Nothing can come any more that contradicts.
    Found {
        cut: Cut,
        lost: Vec<Gap>,
        is_degraded: bool,
    },
    Void(String),
}

/// An answer was published in part, and then an error came: nobody knows which transactions were in it.
const BEHIND: &str = "a poll failed while it published what it had read";

/// `begin` and `want` come between two polls, never in one: what a poll found for the search that it began with would
/// take the place of the new one.
impl Watch {
    /// Until it is dropped, nobody else searches. `None`: somebody does.
    pub(crate) fn claim(&self) -> Option<Claim> {
        let was_taken = self.is_taken.swap(true, Ordering::AcqRel);
        (!was_taken).then(|| Claim(self.clone()))
    }

    /// From now on commits are remembered.
    pub(crate) fn begin(&self) {
        *self.lock() = Some(Search::default());
    }

    /// A snapshot is there. What was published before and is not seen makes it void at once.
    pub(crate) fn want(&self, seen: Seen, mark: Mark, upto: Lsn) {
        let mut search = self.lock();
        let Some(search) = search.as_mut() else { return };
        let tables = mark.tables.keys().cloned().collect();
        let unseen = search.published.iter().find(|xid| !seen.has(**xid)).copied();
        let found = match unseen {
            Some(xid) => Found::Void(format!(
                "transaction {xid} was read before production's sessions saw it (it may wait for a standby)"
            )),
            None if search.published.len() >= PUBLISHED_MAX => {
                Found::Void("too many transactions committed meanwhile".to_owned())
            }
            None if search.is_behind => Found::Void(BEHIND.to_owned()),
            None => Found::Nothing,
        };
        search.wanted = Some(Wanted { seen, mark, tables, upto, found });
    }

    /// What polls have found.
    pub(crate) fn progress(&self) -> Progress {
        let search = self.lock();
        let Some(Search { wanted: Some(wanted), lost, reached, is_degraded, .. }) = search.as_ref() else {
            return Progress::UnderWay;
        };
        match &wanted.found {
            Found::Void(reason) => Progress::Void(reason.clone()),
            Found::Marked(cut) if *reached >= wanted.upto => {
                Progress::Found { cut: *cut, lost: lost.clone(), is_degraded: *is_degraded }
            }
            Found::Nothing | Found::Place | Found::Marked(_) => Progress::UnderWay,
        }
    }

    pub(crate) fn end(&self) {
        *self.lock() = None;
    }

    /// For one answer, which may come to nothing.
    pub(crate) fn search(&self) -> Option<Search> {
        let mut search = self.lock();
        if let Some(search) = search.as_mut().filter(|search| search.is_behind) {
            search.void(BEHIND);
        }
        search.clone()
    }

    /// What an answer holds becomes known to the spool, one segment after the other.
    pub(crate) fn publishing(&self) {
        if let Some(search) = self.lock().as_mut() {
            search.is_behind = true;
        }
    }

    /// The answer is published. A search that ended meanwhile stays ended.
    pub(crate) fn note(&self, after: Option<Search>) {
        let mut search = self.lock();
        if let (Some(search), Some(after)) = (search.as_mut(), after) {
            *search = after;
        }
    }

    fn lock(&self) -> MutexGuard<'_, Option<Search>> {
        self.search.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Search {
    /// A table that is not captured any more is not in what is read, whatever production does with it.
    pub(crate) fn within(mut self, captured: &BTreeSet<TableName>) -> Search {
        let left = self.wanted.iter().flat_map(|wanted| wanted.tables.difference(captured)).next().cloned();
        if let Some(table) = left {
            self.void(format!("{table} is captured no more"));
        }
        self
    }

    /// Whether the segment has to end before that transaction: it is the first that the snapshot does not see.
    pub(crate) fn ends_before(&self, transaction: &Begin) -> bool {
        self.wanted
            .as_ref()
            .is_some_and(|wanted| matches!(wanted.found, Found::Nothing) && !wanted.seen.has(transaction.xid))
    }

    /// Whether all that was read is just what the snapshot sees, as batches are: then its place is their end.
    pub(crate) fn placed_at(&mut self, seen: &Seen, end: Lsn) -> bool {
        let Some(wanted) = self.wanted.as_ref().filter(|wanted| matches!(wanted.found, Found::Nothing))
        else {
            return false;
        };
        if wanted.seen != *seen {
            self.void("a poll came between");
            return false;
        }
        if self.reached(end) {
            self.placed();
        }
        true
    }

    pub(crate) fn placed(&mut self) {
        if let Some(wanted) = &mut self.wanted {
            wanted.found = Found::Place;
        }
    }

    pub(crate) fn void(&mut self, reason: impl Into<String>) {
        if let Some(wanted) = &mut self.wanted {
            wanted.found = Found::Void(reason.into());
        }
    }

    /// Whether that table is of the proof.
    pub(crate) fn concerns(&self, table: &TableName) -> bool {
        self.wanted.as_ref().is_none_or(|wanted| wanted.tables.contains(table))
    }

    /// A transaction of captured tables, which may be of the proof's.
    pub(crate) fn committed(&mut self, transaction: &Transaction, concerns: bool) {
        let Some(wanted) = &self.wanted else {
            if self.published.len() < PUBLISHED_MAX {
                self.published.push(transaction.xid);
            }
            return;
        };
        let is_after = matches!(wanted.found, Found::Place | Found::Marked(_));
        if concerns && is_after && wanted.seen.has(transaction.xid) {
            self.void(format!(
                "transaction {} committed after one that the snapshot does not see, and is seen",
                transaction.xid
            ));
        }
    }

    /// All up to `end` was looked at: where nothing was unseen, the place is there.
    pub(crate) fn reached(&mut self, end: Lsn) -> bool {
        self.reached = self.reached.max(end);
        self.wanted
            .as_ref()
            .is_some_and(|wanted| matches!(wanted.found, Found::Nothing) && end >= wanted.upto)
    }

    /// What the segment at the place says; `None`: it is no place any more.
    pub(crate) fn mark(&self) -> Option<&Mark> {
        let wanted = self.wanted.as_ref()?;
        matches!(wanted.found, Found::Place).then_some(&wanted.mark)
    }

    pub(crate) fn marked(&mut self, cut: Cut) {
        if let Some(wanted) = &mut self.wanted {
            wanted.found = Found::Marked(cut);
        }
    }

    /// What the plugin cannot say.
    pub(crate) fn degraded(&mut self, is_degraded: bool) {
        self.is_degraded |= is_degraded;
    }

    pub(crate) fn missed(&mut self, gaps: &[Gap]) {
        if self.wanted.is_some() {
            self.lost.extend_from_slice(gaps);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use syncdata_formats::digest::Digest;
    use syncdata_formats::layout::SegmentSeq;
    use syncdata_formats::manifest::{Relation, ReplicaIdentity};
    use syncdata_formats::proof::MarkedTable;

    use super::*;

    fn transaction(xid: u32, end: u64) -> Transaction {
        Transaction {
            xid,
            committed_at: "2026-02-05T10:30:00Z".parse().expect("a time"),
            lsn: Lsn::from_u64(end - 1),
            end_lsn: Lsn::from_u64(end),
        }
    }

    fn mark() -> Mark {
        let relation = Relation::new(vec![], vec![], ReplicaIdentity::Full);
        let tables = BTreeMap::from([(
            "t".parse().expect("a table"),
            MarkedTable { k: 0, relation, foreign_keys: vec![] },
        )]);
        Mark { id: "0000000000000064-20260205T103000Z".parse().expect("an id"), tables }
    }

    fn cut() -> Cut {
        Cut { seq: SegmentSeq::FIRST, sha256: Digest::of(b""), end_lsn: Lsn::from_u64(90) }
    }

    /// Sees all below 10, and 11.
    fn seen() -> Seen {
        Seen { xmin: 10, xmax: 12, xip: vec![10] }
    }

    #[test]
    fn what_was_published_and_is_not_seen_makes_an_attempt_void() {
        for (published, is_void) in [(9, false), (10, true), (11, false), (12, true)] {
            let watch = Watch::default();
            watch.begin();
            let mut search = watch.search().expect("begun");
            search.committed(&transaction(published, 50), true);
            watch.note(Some(search));
            watch.want(seen(), mark(), Lsn::from_u64(100));
            assert_eq!(matches!(watch.progress(), Progress::Void(_)), is_void, "{published}");
        }
    }

    /// Segments are in the spool by then, and the slot hands their transactions out no more.
    #[test]
    fn an_answer_that_was_published_in_part_makes_an_attempt_void() {
        for wanted_first in [true, false] {
            let watch = Watch::default();
            let want = || watch.want(seen(), mark(), Lsn::from_u64(100));
            watch.begin();
            if wanted_first {
                want();
            }
            watch.search().expect("begun");
            watch.publishing();
            // What it found is lost with the error.
            if wanted_first {
                watch.search().expect("begun");
            } else {
                want();
            }
            assert!(matches!(watch.progress(), Progress::Void(_)), "{wanted_first}");

            watch.begin();
            want();
            let search = watch.search();
            watch.publishing();
            watch.note(search);
            watch.search().expect("begun");
            assert_eq!(watch.progress(), Progress::UnderWay);
        }
    }

    #[test]
    fn a_table_that_is_captured_no_more_makes_an_attempt_void() {
        for (captured, is_void) in [(vec!["t", "u"], false), (vec!["u"], true)] {
            let watch = Watch::default();
            watch.begin();
            watch.want(seen(), mark(), Lsn::from_u64(100));
            let captured = captured.into_iter().map(|name| name.parse().expect("a table")).collect();
            watch.note(watch.search().map(|search| search.within(&captured)));
            assert_eq!(matches!(watch.progress(), Progress::Void(_)), is_void, "{captured:?}");
        }
    }

    #[test]
    fn a_place_holds_when_nothing_after_it_is_seen_up_to_where_the_snapshot_was_taken() {
        for (after, concerns, is_void) in [(12, true, false), (11, true, true), (11, false, false)] {
            let watch = Watch::default();
            watch.begin();
            watch.want(seen(), mark(), Lsn::from_u64(100));
            let mut search = watch.search().expect("begun");
            assert!(!search.ends_before(&transaction(9, 80).begin()));
            search.committed(&transaction(9, 80), true);
            assert!(search.ends_before(&transaction(10, 95).begin()));
            search.placed();
            assert!(search.mark().is_some());
            search.marked(cut());
            search.committed(&transaction(10, 95), true);
            search.reached(Lsn::from_u64(95));
            watch.note(Some(search));
            assert_eq!(watch.progress(), Progress::UnderWay, "not yet past the snapshot");

            let mut search = watch.search().expect("begun");
            search.committed(&transaction(after, 99), concerns);
            search.reached(Lsn::from_u64(100));
            watch.note(Some(search));
            match watch.progress() {
                Progress::Void(_) => assert!(is_void, "{after}"),
                Progress::Found { cut: found, .. } => assert!(!is_void && found == cut(), "{after}"),
                Progress::UnderWay => panic!("{after}: it has ended"),
            }
        }
    }
}
