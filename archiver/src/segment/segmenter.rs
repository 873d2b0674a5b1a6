//! From a source's events to finished change files: which rows are ours, under which name, and where a file ends.
//!
//! A file ends at the first commit past its limits and never inside a transaction. Nothing is collected: a line
//! goes into the file's compressor as it comes, and one transaction may be larger than the machine.

mod entering;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::io::Write;
use std::sync::Arc;

use syncdata_formats::change::{Commit, LineBuilder, Op};
use syncdata_formats::lsn::Lsn;
use syncdata_formats::manifest::Gap;
use syncdata_formats::name::TableName;
use syncdata_formats::segment::{SegmentWriter, Summary};
use syncdata_formats::snapshot::Seen;
use syncdata_formats::{Error, Kind, Result};

use crate::capture::naming::{Naming, Passed, Says, Verdict};
use crate::capture::shape::REWRITTEN;
use crate::capture::suspects::Birth;
use crate::capture::{Capture, Doubt, PARTITION, TYPE, Tally, Target, Written};
use crate::segment::cut::{Place as CutPlace, Search};
use crate::segment::targets::{Found, Order, Targets, is_virtual};
use crate::source::event::{
    Action, Begin, Columns, Event, JsonString, Part, Place, Row, Transaction, unescape,
};
use crate::spool::ArchivedCommit;
use entering::Entering;

/// When a change file is long enough.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Limits {
    pub changes: u64,
    pub content_bytes: u64,
    pub compression_level: i32,
}

/// Opens the files that segments are written to.
pub(crate) trait Files {
    type File: Write + Send + 'static;
    fn open(&mut self) -> Result<Self::File>;
}

pub(crate) struct Segmenter<'a, F: Files> {
    capture: &'a Capture,
    files: F,
    limits: Limits,
    /// Where the chain ends, and so where the next segment starts.
    start_lsn: Lsn,
    /// Up to here all is archived: what the slot hands out again is passed over.
    archived: Lsn,
    /// The end of the last transaction that was looked at.
    position: Lsn,
    targets: Targets,
    builder: LineBuilder,
    open: Option<SegmentWriter<F::File>>,
    finished: Vec<Finished<F::File>>,
    transaction: Option<Open>,
    truncates: Vec<(Lsn, Arc<Target>)>,
    truncated_at: Option<Lsn>,
    /// Relations that the statement emptied.
    emptied: BTreeSet<u32>,
    gaps: Vec<Gap>,
    /// Tables of which the open transaction has changes that cannot be told, and why.
    missing: Vec<(TableName, String)>,
    last_commit: Option<ArchivedCommit>,
    newest: Option<ArchivedCommit>,
    repeated: Option<Lsn>,
    watched: BTreeSet<u32>,
    seen: BTreeMap<u32, Lsn>,
    tally: Tally,
    /// Relations that become partitions of a captured table in this transaction.
    entering: BTreeMap<u32, Entering>,
    /// Which transactions the catalog shows that `capture` was made of.
    shown: Option<&'a Seen>,
    /// A place that is looked for.
    search: Option<Search>,
    cut: Option<CutPlace>,
}

/// The transaction whose rows are coming.
#[derive(Clone, Copy, Debug)]
struct Open {
    begin: Begin,
    rows: u64,
    archived_already: bool,
    /// It has rows of tables that a proof is about.
    concerns: bool,
    /// Where its first row was written.
    written_from: Option<Lsn>,
}

/// A change file that needs only a name and a manifest.
#[derive(Debug)]
pub(crate) struct Finished<W> {
    pub file: W,
    pub summary: Summary,
    pub last_commit: Option<ArchivedCommit>,
    pub gaps: Vec<Gap>,
}

/// What a whole stretch came to.
#[derive(Debug)]
pub(crate) struct Harvest<W> {
    pub segments: Vec<Finished<W>>,
    /// The end of the last transaction in the answer, whether it was captured or not.
    pub position: Lsn,
    /// The last transaction in the answer, whether it was captured, archived already, or neither.
    pub newest: Option<ArchivedCommit>,
    /// Gaps after the last segment.
    pub gaps: Vec<Gap>,
    /// The end of the last transaction that was archived already; `None` when there was none.
    pub repeated: Option<Lsn>,
    /// Where those transactions ended that were watched for.
    pub seen: BTreeMap<u32, Lsn>,
    pub tally: Tally,
    /// Where a segment ends for a proof, and what is known of that search.
    pub cut: Option<CutPlace>,
    pub search: Option<Search>,
}

impl<'a, F: Files> Segmenter<'a, F> {
    pub(crate) fn new(
        capture: &'a Capture,
        files: F,
        limits: Limits,
        start_lsn: Lsn,
        archived: Lsn,
    ) -> Segmenter<'a, F> {
        Segmenter {
            capture,
            files,
            limits,
            start_lsn,
            archived,
            position: archived,
            targets: Targets::default(),
            builder: LineBuilder::new(),
            open: None,
            finished: Vec::new(),
            transaction: None,
            truncates: Vec::new(),
            truncated_at: None,
            emptied: BTreeSet::new(),
            gaps: Vec::new(),
            missing: Vec::new(),
            last_commit: None,
            newest: None,
            repeated: None,
            watched: BTreeSet::new(),
            seen: BTreeMap::new(),
            tally: Tally { rows: capture.rows(), ..Tally::default() },
            entering: BTreeMap::new(),
            shown: None,
            search: None,
            cut: None,
        }
    }

    /// Notes transactions that are not among these.
    pub(crate) fn noting_unseen(self, shown: &'a Seen) -> Self {
        Segmenter { shown: Some(shown), ..self }
    }

    /// With transactions of which it matters where they end, whether anything of them travels or not.
    pub(crate) fn watching(self, watched: BTreeSet<u32>) -> Segmenter<'a, F> {
        Segmenter { watched, ..self }
    }

    /// With a place that is looked for, where a segment has to end.
    pub(crate) fn searching(self, search: Option<Search>) -> Segmenter<'a, F> {
        Segmenter { search, ..self }
    }

    /// Takes the next event of the stretch.
    pub(crate) fn take<C: Columns>(&mut self, event: Event<'_, C>) -> Result<()> {
        match event {
            Event::Begin(begin) => self.begin(begin),
            Event::Row(row) => self.row(&row),
            Event::Truncate(place) => self.truncate(&place),
            Event::Commit(commit) => self.commit(&commit),
        }
    }

    /// The answer has ended.
    pub(crate) fn finish(mut self) -> Result<Harvest<F::File>> {
        if self.transaction.is_some() {
            return Err(out_of_order("the answer ends inside a transaction"));
        }
        self.close()?;
        let Segmenter {
            finished: segments,
            position,
            newest,
            gaps,
            repeated,
            seen,
            mut tally,
            cut,
            search,
            ..
        } = self;
        tally.written = segments.iter().flat_map(|segment| segment.summary.tables.keys().cloned()).collect();
        Ok(Harvest { segments, position, newest, gaps, repeated, seen, tally, cut, search })
    }

    fn begin(&mut self, begin: Begin) -> Result<()> {
        if self.transaction.is_some() {
            return Err(out_of_order("a transaction begins inside another"));
        }
        let archived_already = begin.lies_before(self.archived);
        self.transaction =
            Some(Open { begin, rows: 0, archived_already, concerns: false, written_from: None });
        if !archived_already {
            self.tally.began(begin.xid, self.capture);
        }
        self.see_joins(begin.xid, archived_already);
        if !archived_already && self.shown.is_some_and(|shown| !shown.has(begin.xid)) {
            self.tally.unseen.insert(begin.xid);
        }
        Ok(())
    }

    fn row<C: Columns>(&mut self, row: &Row<'_, C>) -> Result<()> {
        self.flush_truncates()?;
        self.written_at(&row.place);
        let Some(found) = self.find(row.place.schema, row.place.table)? else { return Ok(()) };
        self.doubt(&found);
        let op = match row.action {
            Action::Insert => Op::Insert,
            Action::Update => Op::Update,
            Action::Delete => Op::Delete,
        };
        self.see_whose(&row.place, &found, op);
        if let Some(oid) = found.route.oid {
            self.tally.count(oid, op);
        }
        let Some(target) = found.target(&self.tally) else { return Ok(()) };
        self.see_entering(&target.table, found.route.oid, op == Op::Insert);
        self.builder.begin(&target.table, op);
        let builder = &mut self.builder;
        let (mut data, mut identity) = (Order::of(target), Order::of(target));
        let naming = found.route.oid.and_then(|oid| self.capture.naming(oid));
        let retyped = found.route.oid.and_then(|oid| self.capture.retyped(oid));
        let written = Written {
            from: self.transaction.as_ref().and_then(|open| open.written_from).unwrap_or_default(),
            altered: &self.tally.altered,
            is_first: retyped.is_some()
                && !self.finished.iter().any(|finished| finished.summary.tables.contains_key(&target.table)),
        };
        let mut had_other_types = false;
        let (mut said, mut of_identity) = (Vec::new(), Vec::new());
        let name_of = |name: JsonString<'_>| unescape(name).unwrap_or_else(|_| name.to_owned());
        row.columns.each(|part, column| match part {
            _ if is_virtual(target, column.name) => {}
            Part::Columns => {
                data.see(column.name);
                had_other_types |=
                    retyped.is_some_and(|of| !of.is_certain(&name_of(column.name), &column.value, written));
                said.extend(naming.map(|_| name_of(column.name)));
                builder.data_column(column.name, &column.value);
            }
            Part::Identity => {
                identity.see(column.name);
                had_other_types |=
                    retyped.is_some_and(|of| !of.is_certain(&name_of(column.name), &column.value, written));
                of_identity.extend(naming.map(|_| name_of(column.name)));
                builder.old_key(column.name, &column.value);
            }
        })?;
        let may_lack = op == Op::Insert && !data.has_all();
        if data.is_another || identity.is_another {
            self.miss(&target.table, REWRITTEN);
        }
        if may_lack && found.route.oid.is_some_and(|oid| self.entering.contains_key(&oid)) {
            self.check_columns(row, &found, target)?;
        }
        if had_other_types {
            self.miss(&target.table, TYPE);
        }
        if let Some(naming) = naming {
            self.check_names(naming, target, op, &said, &of_identity);
        }
        self.write(&target.table, op, row.place.lsn)
    }

    fn written_at(&mut self, place: &Place<'_>) {
        if let Some(open) = &mut self.transaction {
            open.written_from.get_or_insert(place.lsn);
        }
    }

    fn doubt(&mut self, found: &Found) {
        if let Some(open) = &self.transaction {
            self.tally.doubt(&found.route, open.begin.xid, open.written_from.unwrap_or_default());
        }
    }

    /// The relation that has the name now may not be the one that had it then.
    fn see_whose(&mut self, place: &Place<'_>, found: &Found, op: Op) {
        let Some(open) = &self.transaction else { return };
        match (place.oid, found.route.oid) {
            (None, Some(now)) if self.capture.is_made_first(now, open.begin.xid) => {}
            (None, Some(now)) => {
                self.tally.comes_under(now, open.begin.xid, self.capture);
                // Of a table of its own a namesake was captured too: what it altered had come, and is counted.
                let is_partition = found.route.target.as_ref().is_some_and(|target| target.is_partition);
                if is_partition && matches!(op, Op::Update | Op::Delete) {
                    self.tally.births.get_mut(&now).into_iter().for_each(Birth::alters);
                }
            }
            (None, None) => {}
            (Some(then), Some(now)) if then == now => self.tally.is_its_own(now, self.capture),
            (Some(then), now) => {
                let taken_for =
                    now.and_then(|_| found.target(&self.tally)).map(|target| target.table.clone());
                let from = open.written_from.unwrap_or_default();
                let tells = |doubt: &Doubt, table: &TableName| {
                    doubt.table == *table && doubt.is_of(open.begin.xid, from)
                };
                let is_told = |table: &TableName| found.route.doubts.iter().any(|doubt| tells(doubt, table));
                let of = self.capture.names_of(then).map(|(_, table)| table.clone());
                let tables = [taken_for, of.filter(|table| !is_told(table))];
                tables.into_iter().flatten().for_each(|table| self.miss(&table, PARTITION));
            }
        }
    }

    /// Columns were altered since the last poll: the names of a row may be those of other ones than they are of now.
    fn check_names(
        &mut self,
        naming: &Naming,
        target: &Target,
        op: Op,
        said: &[String],
        of_identity: &[String],
    ) {
        let Some(open) = &self.transaction else { return };
        let passed = Passed { before: &self.tally.altered, xid: open.begin.xid };
        let says = if op == Op::Insert { Says::All } else { Says::AllButLong };
        let mut verdicts = Vec::new();
        if op != Op::Delete {
            verdicts.push(naming.verdict(said, says, passed));
        }
        // Names that the row says twice mean the same column.
        if !of_identity.iter().all(|name| said.contains(name)) {
            verdicts.push(naming.verdict(of_identity, Says::Some, passed));
        }
        for verdict in verdicts {
            match verdict {
                Verdict::Certain { relies_on } => self.tally.relies_on(relies_on, &target.table),
                Verdict::Unsure => self.miss(&target.table, REWRITTEN),
            }
        }
    }

    /// Held back until the statement's last table is known: a partition's TRUNCATE says nothing beside its
    /// parent's, and without it cannot be said.
    fn truncate(&mut self, place: &Place<'_>) -> Result<()> {
        if self.truncated_at != Some(place.lsn) {
            self.flush_truncates()?;
            self.truncated_at = Some(place.lsn);
        }
        self.written_at(place);
        let Some(found) = self.find(place.schema, place.table)? else { return Ok(()) };
        self.doubt(&found);
        self.see_whose(place, &found, Op::Truncate);
        self.emptied.extend(found.route.oid);
        let is_of_another = found.route.oid.is_none_or(|oid| !self.entering.contains_key(&oid));
        if let Some(target) = found.target(&self.tally).filter(|_| is_of_another) {
            self.see_entering(&target.table, None, false);
        }
        let says_nothing = found.route.oid.is_some_and(|oid| self.emptied(oid));
        match found.target(&self.tally) {
            // There was nothing to remove.
            Some(travels) if travels.is_partition && says_nothing => {}
            Some(travels) => self.truncates.push((place.lsn, Arc::new(travels.clone()))),
            None => {}
        }
        Ok(())
    }

    /// A relation is empty now; whether that changes nothing of the table whose partition it is.
    fn emptied(&mut self, oid: u32) -> bool {
        if let Some(open) = self.transaction.as_ref().filter(|_| self.capture.truncation(oid).is_some()) {
            self.tally.truncated(oid, open.begin.xid);
        }
        let was_empty = self.tally.is_empty(oid);
        self.tally.emptied(oid);
        match self.entering.get_mut(&oid).filter(|entering| !entering.is_new) {
            Some(entering) => {
                // Rows of this transaction before it have travelled already.
                let is_tainted = self.capture.join(oid).is_none_or(|join| join.tainted);
                entering.is_clean = !entering.had_rows && !is_tainted;
                true
            }
            None => was_empty,
        }
    }

    fn flush_truncates(&mut self) -> Result<()> {
        if self.truncated_at.take().is_none() {
            return Ok(());
        }
        let statement = std::mem::take(&mut self.truncates);
        let emptied = std::mem::take(&mut self.emptied);
        let mut whole: BTreeSet<TableName> = statement
            .iter()
            .filter(|(_, target)| !target.is_partition)
            .map(|(_, t)| t.table.clone())
            .collect();
        for (lsn, target) in &statement {
            let has_all =
                || self.capture.all_parts(&target.table).is_some_and(|parts| parts.is_subset(&emptied));
            if !target.is_partition || !whole.contains(&target.table) && has_all() {
                whole.insert(target.table.clone());
                self.builder.begin(&target.table, Op::Truncate);
                self.write(&target.table, Op::Truncate, *lsn)?;
            } else if !whole.contains(&target.table) {
                self.miss(&target.table, "TRUNCATE of a partition cannot be said of its parent");
            }
        }
        Ok(())
    }

    /// A change of `table` in the open transaction is lost, and known to be.
    fn miss(&mut self, table: &TableName, reason: &str) {
        let missing = (table.clone(), reason.to_owned());
        if !self.missing.contains(&missing) {
            self.missing.push(missing);
        }
    }

    fn write(&mut self, table: &TableName, op: Op, lsn: Lsn) -> Result<()> {
        self.cut_here()?;
        let Some(transaction) = &mut self.transaction else {
            return Err(out_of_order("a row outside a transaction"));
        };
        transaction.rows += 1;
        transaction.concerns |= self.search.as_ref().is_some_and(|search| search.concerns(table));
        let ts = transaction.begin.committed_at;
        if self.open.is_none() {
            let start_lsn = self.finished.last().map_or(self.start_lsn, |finished| finished.summary.end_lsn);
            self.open =
                Some(SegmentWriter::new(self.files.open()?, self.limits.compression_level, start_lsn)?);
        }
        let writer = self.open.as_mut().expect("opened above");
        writer.row(table, op, self.builder.finish(lsn, ts)?)
    }

    fn commit(&mut self, commit: &Transaction) -> Result<()> {
        self.flush_truncates()?;
        self.check_entered();
        let Some(open) = self.transaction.take() else {
            return Err(out_of_order("a commit without a begin"));
        };
        if open.begin != commit.begin() {
            return Err(out_of_order("a commit of another transaction than began"));
        }
        self.tally.committed(commit.xid, commit.end_lsn, self.capture);
        let it = ArchivedCommit { end_lsn: commit.end_lsn, xid: commit.xid, ts: commit.committed_at };
        self.newest = Some(it);
        if self.watched.contains(&commit.xid) {
            self.seen.insert(commit.xid, commit.end_lsn);
        }
        if open.archived_already {
            self.repeated = Some(commit.end_lsn);
            return Ok(());
        }
        if let Some(search) = self.search.as_mut().filter(|_| open.rows > 0) {
            search.committed(commit, open.concerns);
        }
        let from = self.position;
        for (table, reason) in std::mem::take(&mut self.missing) {
            self.gaps.push(Gap { from, to: commit.end_lsn, reason, tables: Some(vec![table]) });
        }
        self.position = commit.end_lsn;
        if open.rows == 0 {
            return Ok(());
        }
        let Some(writer) = &mut self.open else { return Err(out_of_order("rows without a file")) };
        writer.commit(&Commit {
            xid: commit.xid,
            changes: open.rows,
            lsn: commit.lsn,
            end_lsn: commit.end_lsn,
            ts: commit.committed_at,
        })?;
        self.last_commit = Some(it);
        let is_long =
            writer.records() >= self.limits.changes || writer.content_bytes() >= self.limits.content_bytes;
        if is_long { self.close() } else { Ok(()) }
    }

    /// The open transaction may be the first that a proof's snapshot does not see: what is before it ends here.
    fn cut_here(&mut self) -> Result<()> {
        let Some(open) = &self.transaction else { return Ok(()) };
        let begin = open.begin;
        if !self.search.as_ref().is_some_and(|search| search.ends_before(&begin)) {
            return Ok(());
        }
        self.close()?;
        let place = if self.finished.is_empty() {
            // Between what is archived and this commit: the stream was read up to there.
            let between = [self.position, begin.lsn].into_iter().find(|lsn| *lsn > self.start_lsn);
            between.map(CutPlace::Alone)
        } else {
            Some(CutPlace::After(self.finished.len() - 1))
        };
        let search = self.search.as_mut().expect("asked above");
        match place {
            Some(place) => {
                search.placed();
                self.cut = Some(place);
                if let CutPlace::Alone(lsn) = place {
                    self.start_lsn = lsn;
                }
            }
            None => search.void("nothing was written between two commits"),
        }
        Ok(())
    }

    fn close(&mut self) -> Result<()> {
        let Some(writer) = self.open.take() else { return Ok(()) };
        let (file, summary) = writer.finish()?;
        // A transaction of which nothing travels may lie after the file's last one, and its gap too.
        let inside = |gap: &mut Gap| gap.to <= summary.end_lsn;
        let gaps = self.gaps.extract_if(.., inside).collect();
        self.finished.push(Finished { file, summary, last_commit: self.last_commit, gaps });
        Ok(())
    }

    /// Nothing for what is not captured, and for all of a transaction that is archived already.
    fn find(&mut self, schema: JsonString<'_>, table: JsonString<'_>) -> Result<Option<Arc<Found>>> {
        match &self.transaction {
            None => Err(out_of_order("a row outside a transaction")),
            Some(open) if open.archived_already => Ok(None),
            Some(_) => self.targets.find(self.capture, schema, table).map(Some),
        }
    }
}

fn out_of_order(what: &str) -> Error {
    Error::new(Kind::Corrupt, format!("the source's answer is out of order: {what}"))
        .hint("nothing was consumed from the slot; check the version of the output plugin")
}
