//! One answer of the slot, from the peek to published segments in the spool.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::{self, Write};
use std::path::PathBuf;
use syncdata_service::postgres::ServerContext as _;

use syncdata_formats::Result;
use syncdata_formats::layout::SegmentName;
use syncdata_formats::lsn::Lsn;
use syncdata_formats::manifest::{FORMAT, Gap, Manifest, Relation, Source, SourceKind};
use syncdata_formats::name::TableName;
use syncdata_formats::segment::Summary;
use syncdata_formats::signature::SigningKey;
use syncdata_formats::time::Timestamp;
use syncdata_service::config::Config;
use syncdata_service::faults;
use syncdata_service::postgres::{Notices, sqlstate};
use syncdata_service::progress::{Progress, Unit};
use tokio_postgres::Transaction;
use tracing::{info, warn};

use crate::capture::Capture;
use crate::capture::shape::{self, ShapeMemory};
use crate::capture::since::{CaptureMemory, Look, Stretch};
use crate::segment::segmenter::{Files, Finished, Harvest, Limits, Segmenter};
use crate::source::catalog::{self, Position, Slot};
use crate::source::columns;
use crate::source::connection::{Connection, pinned};
use crate::source::wait::Waiting;
use crate::source::wal2json::slot::{self, Peek, Plugin};
use crate::spool::{Spool, State};

/// What is the same for every answer of a poll.
pub(crate) struct Reading<'a> {
    pub config: &'a Config,
    pub plugin: Plugin,
    pub signing_key: Option<&'a SigningKey>,
}

/// What one answer came to.
#[derive(Debug, Default)]
pub(crate) struct Batch {
    pub segments: u64,
    pub records: u64,
    /// There is more behind it.
    pub was_cut: bool,
    pub gaps: Vec<Gap>,
    pub capture: Capture,
}

/// What came of asking.
#[derive(Debug)]
pub(crate) enum Taken {
    Batch(Batch),
    /// The slot is not where it was: somebody else moved it, or made it again, and what it said is not taken.
    SlotMoved(Slot),
}

/// What the server said in the transaction of the peek.
struct Answer {
    harvest: Harvest<Scratch>,
    bytes: u64,
    capture: Capture,
    relations: BTreeMap<TableName, Relation>,
    settings: BTreeMap<String, String>,
    /// Where WAL ended when the catalog had been read.
    catalog_at: Lsn,
    /// As it was when the peek had ended.
    slot: Slot,
    captured: CaptureMemory,
    shapes: ShapeMemory,
    /// All that committed up to here was looked at.
    end: Lsn,
}

/// What is asked of the slot.
struct Wanted {
    /// Transactions of which it matters where they end.
    watched: BTreeSet<u32>,
    upto: Lsn,
    lines_max: Option<u32>,
}

/// How long an answer is. Of a long one somebody who waits is told.
#[derive(Debug, Default)]
struct Length {
    lines: u64,
    bytes: u64,
    progress: Option<Progress>,
}

/// A change file that has no name yet.
#[derive(Debug)]
struct Scratch {
    path: PathBuf,
    file: File,
}

struct ScratchFiles<'a> {
    spool: &'a Spool,
    count: usize,
}

impl Reading<'_> {
    /// Reads up to `upto` and publishes it in the spool. Killed anywhere in here, the next run reads it again. `slot`
    /// is where it was last seen, or put by us.
    pub(crate) async fn take(
        &self,
        connection: &mut Connection,
        spool: &mut Spool,
        slot: &Slot,
        position: &Position,
        upto: Lsn,
        lines_max: Option<u32>,
    ) -> Result<Taken> {
        let before = spool.position();
        connection.session.take_notices();
        let mut answer = self.ask(connection, spool, position, upto, lines_max).await?;
        faults::hit("read.answer_complete")?;
        let said = connection.session.take_notices();
        // Behind changes that somebody else consumed it would pass for all there is.
        let stands = answer.slot.confirmed_flush_lsn;
        if stands != slot.confirmed_flush_lsn || stands > Some(before) {
            spool.discard_scratch()?;
            return Ok(Taken::SlotMoved(answer.slot));
        }
        let lost = LostChanges::read(&said, &answer.capture);
        let was_cut = lines_max.is_some_and(|max| answer.harvest.lines >= u64::from(max));
        let end = answer.harvest.position.max(before);
        if answer.end >= position.flush {
            prove_empty(connection, &mut answer).await?;
        }
        // Before anything of it is published: whoever comes after a crash knows since when tables are captured.
        let (captured, shapes) = (answer.captured.clone(), answer.shapes.clone());
        if captured != spool.state().captured || shapes != spool.state().shapes {
            spool.update(|state| (state.captured, state.shapes) = (captured, shapes))?;
        }
        let catalog_at = answer.catalog_at;
        let answer_bytes = answer.bytes;
        let mut batch = Batch { was_cut, capture: answer.capture.clone(), ..Batch::default() };
        let warned = match spool.state().warned_from == stands {
            true => spool.state().warned.clone(),
            false => self.warned_already(connection, &answer, &lost).await?,
        };
        self.publish(connection, spool, answer, &lost.newer_than(&warned), end, &mut batch)?;
        let complete = !was_cut && upto >= position.flush;
        let remembered = batch.capture.remember(&spool.state().remembered, complete, catalog_at);
        spool.update(|state| {
            state.warned = lost.added_to(warned);
            state.warned_from = stands;
            state.remembered = remembered;
            let read_upto = if complete { end.max(upto) } else { end };
            state.rereading = Some(state.read_again(stands, read_upto, answer_bytes));
            state.covered_lsn = state.covered_lsn.max(end);
            if complete {
                state.covered_lsn = state.covered_lsn.max(position.flush);
                state.covered_at = Some(position.at);
            }
        })?;
        Ok(Taken::Batch(batch))
    }

    /// The slot stands elsewhere than when it warned before, and may give some of the same warnings again: those about
    /// what it hands out again. A warning does not say of which transaction it is, so it is asked for these alone.
    async fn warned_already(
        &self,
        connection: &mut Connection,
        answer: &Answer,
        lost: &LostChanges,
    ) -> Result<BTreeMap<String, u64>> {
        let Some(upto) = answer.harvest.repeated.filter(|_| !lost.is_empty()) else {
            return Ok(BTreeMap::new());
        };
        let peek = Peek {
            slot: &self.config.slot_name,
            plugin: self.plugin.clone(),
            filter: &answer.capture.filter,
            upto,
            lines_max: None,
        };
        peek.run(connection, |_| Ok(())).await?;
        let said = connection.session.take_notices();
        Ok(LostChanges::read(&said, &answer.capture).added_to(BTreeMap::new()))
    }

    async fn ask(
        &self,
        connection: &mut Connection,
        spool: &Spool,
        position: &Position,
        upto: Lsn,
        lines_max: Option<u32>,
    ) -> Result<Answer> {
        let waiting = connection.waiting.clone();
        let tx = connection.transaction().await?;
        let settings = pinned().read_back(&tx).await?;
        // After `upto` was asked for: whatever committed before it is in this catalog, unless dropped since.
        let (schemas, catalog) = catalog::catalog(&tx).await?;
        let catalog_at = catalog::insert_position(&tx).await?;
        let capture = Capture::resolve(&self.config.tables, &schemas, &catalog, &spool.state().remembered)?;
        let standing = columns::standing(&tx, &capture, &catalog).await?;
        let (mut captured, mut shapes) = (spool.state().captured.clone(), spool.state().shapes.clone());
        captured.look(&Look {
            patterns: &self.config.tables,
            tables: &standing.tables,
            position: spool.position(),
            catalog_at,
        });
        shapes.look(standing.shapes, catalog_at);
        let watched = captured.watched().into_iter().chain(shapes.watched()).collect();
        let (harvest, bytes) =
            self.peek(&tx, &waiting, spool, &capture, Wanted { watched, upto, lines_max }).await?;
        let complete = upto >= position.flush && lines_max.is_none_or(|max| harvest.lines < u64::from(max));
        let end = harvest.position.max(if complete { position.flush } else { spool.position() });
        captured.settle(&Stretch {
            seen: harvest.seen.clone(),
            counts: harvest.segments.iter().map(|segment| &segment.summary.tables).collect(),
        });
        let slot = slot::read(&tx, &self.config.slot_name).await?;
        let named: BTreeSet<TableName> =
            harvest.segments.iter().flat_map(|segment| segment.summary.tables.keys().cloned()).collect();
        let relations = columns::relations(&tx, &named, &shapes).await?;
        tx.commit().await.context(|| "ending the transaction on the source".to_owned())?;
        Ok(Answer { harvest, bytes, capture, relations, settings, catalog_at, slot, captured, shapes, end })
    }

    async fn peek(
        &self,
        tx: &Transaction<'_>,
        waiting: &Waiting,
        spool: &Spool,
        capture: &Capture,
        wanted: Wanted,
    ) -> Result<(Harvest<Scratch>, u64)> {
        let Wanted { watched, upto, lines_max } = wanted;
        let limits = Limits {
            changes: u64::from(self.config.segment_max_changes.get()),
            content_bytes: self.config.segment_max_bytes.as_u64(),
            compression_level: self.config.compression_level,
        };
        let files = ScratchFiles { spool, count: 0 };
        let mut segmenter =
            Segmenter::new(capture, files, limits, spool.state().tip.end_lsn, spool.position())
                .watching(watched);
        let peek = Peek {
            slot: &self.config.slot_name,
            plugin: self.plugin.clone(),
            filter: &capture.filter,
            upto,
            lines_max,
        };
        let mut length = Length::default();
        peek.read(tx, waiting, |line| {
            length.add(line);
            segmenter.line(line)
        })
        .await?;
        let bytes = length.bytes;
        length.tell();
        Ok((segmenter.finish()?, bytes))
    }

    /// Names the files, writes their manifests, and last a manifest for a gap behind them.
    fn publish(
        &self,
        connection: &Connection,
        spool: &mut Spool,
        answer: Answer,
        lost: &[TableName],
        end: Lsn,
        batch: &mut Batch,
    ) -> Result<()> {
        let Answer { harvest, capture, relations, settings, end: looked_at, .. } = answer;
        let source = self.source(connection, spool.state(), settings);
        let seen = harvest.seen.clone();
        let lost_in = |from: Lsn, to: Lsn| lost_gap(lost, from, to);
        // Of which transaction it is the work nobody can say: all that was read between two looks is in doubt.
        let shapes = spool.state().shapes.clone();
        let rewritten_in =
            |from: Lsn, to: Lsn| gap_of(&shapes.rewritten_after(&seen, from), shape::REWRITTEN, from, to);
        for finished in harvest.segments {
            let Finished { file, summary, last_commit, mut gaps } = finished;
            gaps.extend(lost_in(summary.start_lsn, summary.end_lsn));
            gaps.extend(rewritten_in(summary.start_lsn, summary.end_lsn));
            let draft = draft(spool.state(), source.clone(), &capture, summary.end_lsn, gaps);
            let manifest = with_changes(draft, &summary, &relations);
            let day = spool.state().chain_tip().day_of_next(summary.last_commit_ts);
            spool.keep_changes(&file.path, &file.file, &manifest.name().file(day))?;
            batch.segments += 1;
            batch.records += summary.records;
            batch.gaps.extend(manifest.gaps.iter().cloned());
            spool.publish(&manifest, day, self.signing_key)?;
            spool.update(|state| state.last_commit = last_commit)?;
            info!(
                segment = %manifest.seq, lsn = %manifest.end_lsn, records = summary.records,
                bytes = summary.bytes, "segment spooled"
            );
        }
        let mut gaps = harvest.gaps;
        gaps.extend(lost_in(spool.state().tip.end_lsn, end));
        gaps.extend(rewritten_in(spool.state().tip.end_lsn, looked_at));
        // It says no more than what is missing, and so it ends where that does.
        if let Some(end) = gaps.iter().map(|gap| gap.to).max() {
            let source = source.clone();
            let manifest = publish_gap(spool, source, &capture, end, gaps, self.signing_key)?;
            batch.gaps.extend(manifest.gaps);
            batch.segments += 1;
        }
        if shapes.is_in_doubt() {
            spool.update(|state| state.shapes.told(&seen, state.tip.end_lsn))?;
        }
        Ok(())
    }

    /// What a manifest without changes says of the source.
    pub(crate) async fn describe(
        &self,
        connection: &mut Connection,
        state: &State,
    ) -> Result<(Source, Capture)> {
        let tx = connection.transaction().await?;
        let settings = pinned().read_back(&tx).await?;
        let (schemas, catalog) = catalog::catalog(&tx).await?;
        let capture = Capture::resolve(&self.config.tables, &schemas, &catalog, &state.remembered)?;
        drop(tx);
        Ok((self.source(connection, state, settings), capture))
    }

    fn source(&self, connection: &Connection, state: &State, settings: BTreeMap<String, String>) -> Source {
        Source {
            kind: SourceKind::Wal2json,
            system_identifier: state.source.system_identifier.clone(),
            timeline: state.source.timeline,
            database: state.source.database.clone(),
            server_version: connection.facts.server_version.clone(),
            slot: state.source.slot.clone(),
            plugin: self.plugin.name.clone(),
            settings,
            degraded: self.plugin.degraded(),
        }
    }
}

impl Length {
    /// A second's work.
    const LONG_LINES: u64 = 200_000;
    /// Asking the clock for every line would cost more than reading some of them.
    const STEP_LINES: u64 = 4096;

    fn add(&mut self, line: &str) {
        self.lines += 1;
        self.bytes += line.len() as u64;
        if self.lines >= Length::LONG_LINES && self.lines.is_multiple_of(Length::STEP_LINES) {
            let progress =
                self.progress.get_or_insert_with(|| Progress::start("reading the slot", Unit::Rows, None));
            progress.add(self.lines - progress.done());
        }
    }

    fn tell(self) {
        if let Some(mut progress) = self.progress {
            progress.add(self.lines - progress.done());
            progress.finish();
            info!(bytes = self.bytes, "the server kept this answer in temporary files while it was read");
        }
    }
}

/// Of tables that are new the rows are counted, once all is read that had committed when the poll began.
async fn prove_empty(connection: &mut Connection, answer: &mut Answer) -> Result<()> {
    let provable = answer.captured.provable();
    let proved = if provable.is_empty() {
        BTreeSet::new()
    } else {
        let xids: Vec<u32> = answer
            .harvest
            .segments
            .iter()
            .flat_map(|s| [s.summary.span.min_xid, s.summary.span.max_xid])
            .collect();
        let tx = connection.transaction().await?;
        match columns::with_rows(&tx, &provable, &xids).await {
            Ok(proved) => proved,
            // A lock, a time limit, a right that is missing: no reason not to read.
            Err(error) if sqlstate(&error).is_some() => {
                warn!(error = %error.one_line(), "tables that are new count as not empty");
                BTreeSet::new()
            }
            Err(error) => return Err(error),
        }
    };
    answer.captured.prove(&proved);
    Ok(())
}

/// Publishes a segment that only says what is missing.
pub(crate) fn publish_gap(
    spool: &mut Spool,
    source: Source,
    capture: &Capture,
    end: Lsn,
    gaps: Vec<Gap>,
    signing_key: Option<&SigningKey>,
) -> Result<Manifest> {
    for gap in &gaps {
        warn!(from = %gap.from, to = %gap.to, reason = %gap.reason, "gap: changes are missing");
    }
    let manifest = draft(spool.state(), source, capture, end, gaps);
    let day = spool.state().chain_tip().day_of_next(Timestamp::now());
    spool.publish(&manifest, day, signing_key)?;
    Ok(manifest)
}

/// A manifest without changes.
fn draft(state: &State, source: Source, capture: &Capture, end_lsn: Lsn, gaps: Vec<Gap>) -> Manifest {
    let tip = state.chain_tip();
    Manifest {
        format: FORMAT,
        archive_id: state.archive_id,
        seq: tip.next_seq(),
        previous: tip.previous(),
        file: None,
        records: 0,
        transactions: 0,
        tables: BTreeMap::new(),
        start_lsn: state.tip.end_lsn,
        end_lsn,
        span: None,
        source,
        capture: capture.tables.iter().cloned().collect(),
        capture_since: state.captured.news(end_lsn),
        relations: BTreeMap::new(),
        gaps,
        created_at: Timestamp::now(),
        archiver: env!("CARGO_PKG_VERSION").to_owned(),
    }
}

fn with_changes(draft: Manifest, summary: &Summary, relations: &BTreeMap<TableName, Relation>) -> Manifest {
    let name = SegmentName { seq: draft.seq, end_lsn: summary.end_lsn };
    let named = |table: &TableName| relations.get(table).map(|relation| (table.clone(), relation.clone()));
    Manifest {
        file: Some(summary.change_file(name)),
        records: summary.records,
        transactions: summary.transactions,
        tables: summary.tables.clone(),
        span: Some(summary.span),
        relations: summary.tables.keys().filter_map(named).collect(),
        ..draft
    }
}

/// Of a table of which more may have been said than anybody has counted: nothing is news any more before the slot moves.
const UNCOUNTED: u64 = u64::MAX;

/// Changes that the plugin dropped, by table: it says so in warnings that come before the first line, so that no
/// more is known than that they lie in this answer.
#[derive(Debug, Default)]
struct LostChanges {
    counts: BTreeMap<String, u64>,
    /// Tables that may have lost changes when nobody can say which did.
    suspects: BTreeSet<TableName>,
}

impl LostChanges {
    fn read(said: &Notices, capture: &Capture) -> LostChanges {
        let mut lost = LostChanges::default();
        let travels = |relation: &TableName| capture.target(relation).map(|target| target.table);
        if said.dropped > 0 {
            lost.suspects = capture.without_identity.iter().filter_map(travels).collect();
        }
        for notice in &said.notices {
            let Some((_, relation)) = notice.message.split_once(" in table ") else { continue };
            if !notice.message.starts_with("no ") {
                continue;
            }
            let found = capture.without_identity.iter().find(|name| as_warned(name) == relation);
            let table = found.cloned().or_else(|| name_in(relation)).and_then(|name| travels(&name));
            if let Some(table) = table {
                *lost.counts.entry(table.to_string()).or_default() += notice.times;
            }
        }
        lost
    }

    fn is_empty(&self) -> bool {
        self.counts.is_empty() && self.suspects.is_empty()
    }

    /// The slot repeats its warnings until it moves; only those beyond the known ones are news.
    fn newer_than(&self, known: &BTreeMap<String, u64>) -> Vec<TableName> {
        let news = self.counts.iter().filter(|(table, count)| known.get(*table) < Some(count));
        let named = news.filter_map(|(table, _)| TableName::from_archive(table).ok());
        let suspects = self.suspects.iter().filter(|table| known.get(&table.to_string()) < Some(&UNCOUNTED));
        named.chain(suspects.cloned()).collect::<BTreeSet<_>>().into_iter().collect()
    }

    /// An answer that was cut repeats fewer than a longer one before it said.
    fn added_to(self, mut known: BTreeMap<String, u64>) -> BTreeMap<String, u64> {
        for (table, count) in self.counts {
            let most = known.entry(table).or_default();
            *most = count.max(*most);
        }
        known.extend(self.suspects.into_iter().map(|table| (table.to_string(), UNCOUNTED)));
        known
    }
}

/// wal2json puts the names in quotes and escapes nothing.
fn as_warned(table: &TableName) -> String {
    format!("\"{}\".\"{}\"", table.schema(), table.name())
}

fn name_in(relation: &str) -> Option<TableName> {
    let (schema, name) = relation.strip_prefix('"')?.strip_suffix('"')?.split_once("\".\"")?;
    TableName::new(schema, name).ok()
}

fn lost_gap(lost: &[TableName], from: Lsn, to: Lsn) -> Option<Gap> {
    gap_of(lost, "UPDATE or DELETE without a replica identity: wal2json cannot say which rows", from, to)
}

fn gap_of(tables: &[TableName], reason: &str, from: Lsn, to: Lsn) -> Option<Gap> {
    let gap = || Gap { from, to, reason: reason.to_owned(), tables: Some(tables.to_vec()) };
    (!tables.is_empty() && from < to).then(gap)
}

impl Files for ScratchFiles<'_> {
    type File = Scratch;

    fn open(&mut self) -> Result<Scratch> {
        let (path, file) = self.spool.scratch(self.count)?;
        self.count += 1;
        Ok(Scratch { path, file })
    }
}

impl Write for Scratch {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.file.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

#[cfg(test)]
mod tests {
    use syncdata_formats::name::TablePattern;
    use syncdata_service::postgres::Notice;
    use tokio_postgres::error::SqlState;

    use super::*;
    use crate::capture::{CatalogTable, RelationKind};

    fn capture(name: &TableName) -> Capture {
        let table = CatalogTable {
            oid: 1,
            name: name.clone(),
            kind: RelationKind::Table,
            partition_of: None,
            identity_usable: false,
            virtual_columns: Vec::new(),
        };
        let patterns = [TablePattern::Table(name.clone())];
        Capture::resolve(&patterns, &BTreeSet::new(), &[table], &Default::default()).expect("resolves")
    }

    fn warning(message: &str) -> Notice {
        Notice {
            severity: "WARNING".into(),
            sqlstate: SqlState::SUCCESSFUL_COMPLETION,
            message: message.into(),
            times: 1,
        }
    }

    #[test]
    fn warnings_about_lost_changes_name_their_table() {
        let name = TableName::new("s", "a\".\"b in table \"x").expect("a name");
        let message = "no tuple identifier for UPDATE in table \"s\".\"a\".\"b in table \"x\"";
        let said = Notices { notices: vec![warning(message), warning(message), warning("else")], dropped: 0 };
        let lost = LostChanges::read(&said, &capture(&name));
        assert_eq!(lost.newer_than(&BTreeMap::new()), std::slice::from_ref(&name));
        assert!(lost.newer_than(&lost.counts).is_empty(), "said before");
        let fewer = BTreeMap::from([(name.to_string(), 1)]);
        assert_eq!(lost.newer_than(&fewer), std::slice::from_ref(&name));
        let more = BTreeMap::from([(name.to_string(), 3), ("other".to_owned(), 1)]);
        assert_eq!(lost.added_to(more.clone()), more);
    }

    #[test]
    fn when_more_was_said_than_is_kept_every_table_without_identity_is_suspect() {
        let name: TableName = "t".parse().expect("a name");
        let said = Notices { notices: Vec::new(), dropped: 1 };
        let lost = LostChanges::read(&said, &capture(&name));
        let known = BTreeMap::from([("t".to_owned(), 5)]);
        assert_eq!(lost.newer_than(&known), [name]);
        let lost_again = LostChanges::read(&said, &capture(&"t".parse().expect("a name")));
        assert!(lost_again.newer_than(&lost.added_to(known)).is_empty(), "told once");
    }
}
