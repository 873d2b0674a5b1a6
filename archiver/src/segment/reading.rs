//! One answer of the source, from its first event to published segments in the spool.

use std::collections::{BTreeMap, BTreeSet};

use syncdata_formats::Result;
use syncdata_formats::lsn::Lsn;
use syncdata_formats::manifest::{Gap, Source as ManifestSource};
use syncdata_formats::name::TableName;
use syncdata_formats::signature::SigningKey;
use syncdata_service::config::{Config, Source as Kind};
use syncdata_service::faults;
use syncdata_service::postgres::{ServerContext as _, sqlstate};
use tracing::{info, warn};

use crate::capture::shape::{self, ShapeMemory};
use crate::capture::since::{self, CaptureMemory};
use crate::capture::suspects::{Postponed, Uncounted};
use crate::capture::{Capture, CatalogTable, Memory, Span};
use crate::segment::absent::Absent;
use crate::segment::cut::{Place, Watch};
use crate::segment::empty::{Claims, Counted};
use crate::segment::publish::{self, Circumstances, Published, publish};
use crate::segment::scratch::{Scratch, ScratchFiles};
use crate::segment::segmenter::{Files, Harvest, Limits, Segmenter};
use crate::source::catalog::{self, Slot};
use crate::source::columns;
use crate::source::connection::Connection;
use crate::source::look::Look;
use crate::source::pgoutput::publication;
use crate::source::pinned::pinned;
use crate::source::production::{Production, Session};
use crate::source::slot;
use crate::source::wal2json::lost::LostChanges;
use crate::source::{Read, Source, Stretch};
use crate::spool::{Spool, State};

/// What is the same for every answer of a poll.
pub(crate) struct Reading<'a> {
    pub config: &'a Config,
    pub source: &'a Production,
    pub signing_key: Option<&'a SigningKey>,
    pub watch: &'a Watch,
    /// Names in the settings that match nothing do not keep the others from being read.
    pub passes_over_mistakes: bool,
}

/// What one answer came to.
#[derive(Debug)]
pub(crate) struct Batch {
    pub published: Published,
    /// There is more after it.
    pub was_cut: bool,
    pub capture: Capture,
}

/// What came of asking.
#[derive(Debug)]
pub(crate) enum Taken {
    Batch(Box<Batch>),
    /// The slot is not where it was: somebody else moved it, or made it again, and what it said is not taken.
    SlotMoved(Slot),
}

/// What the server said in the transaction of the peek.
struct Answer {
    harvest: Harvest<Scratch>,
    read: Read,
    circumstances: Circumstances,
    /// As it was when the peek had ended.
    slot: Slot,
    captured: CaptureMemory,
    shapes: ShapeMemory,
    /// All that committed up to here was looked at.
    end: Lsn,
}

impl Answer {
    fn gaps(&self) -> impl Iterator<Item = &Gap> {
        let inside = self.harvest.segments.iter().flat_map(|segment| &segment.gaps);
        inside.chain(&self.harvest.gaps)
    }
}

/// Takes all of a stretch to change files. Any source will do.
pub(crate) async fn read_into<S: Source, F: Files>(
    source: &S,
    session: &S::Session<'_>,
    stretch: &Stretch<'_>,
    mut segmenter: Segmenter<'_, F>,
) -> Result<(Harvest<F::File>, Read)> {
    let read = source.read(session, stretch, |event| segmenter.take(event)).await?;
    Ok((segmenter.finish()?, read))
}

impl Reading<'_> {
    /// Reads up to `upto` and publishes it in the spool. Killed anywhere in here, the next run reads it again. `slot`
    /// is where it was last seen, or put by us.
    pub(crate) async fn take(
        &self,
        connection: &mut Connection,
        spool: &mut Spool,
        slot: &Slot,
        look: &Look,
        upto: Lsn,
        lines_max: Option<u32>,
    ) -> Result<Taken> {
        if self.config.source == Kind::Triggers {
            return self.take_batch(connection, spool, slot).await;
        }
        let before = spool.position();
        // What was said before is not about this answer.
        connection.session.take_notices();
        let memory = spool.state().memory.at(before).or_since(slot.catalog_xmin).until(&look.seen);
        let memory = memory.read_from(slot.restart_lsn);
        let mut answer = self.ask(connection, spool, look, &memory, upto, lines_max).await?;
        faults::pass("read.answer_complete").await?;
        let said = connection.session.take_notices();
        // What follows changes that somebody else consumed would pass for all there is.
        let stands = answer.slot.confirmed_flush_lsn;
        if stands != slot.confirmed_flush_lsn || stands > Some(before) {
            spool.discard_scratch()?;
            return Ok(Taken::SlotMoved(answer.slot));
        }
        let lost = LostChanges::read(&said, &answer.circumstances.capture);
        let flush = look.position.flush;
        let complete = !answer.read.was_cut && upto >= flush;
        let missed = answer.circumstances.capture.missed(&answer.harvest.tally, complete);
        let missed_tables = missed.iter().map(|missed| &missed.table);
        let lost_tables = lost
            .tables()
            .chain(missed_tables)
            .chain(answer.gaps().flat_map(|gap| gap.tables.iter().flatten()));
        let lost_tables: BTreeSet<TableName> = lost_tables.cloned().collect();
        answer.captured.uncounted(|table| lost_tables.contains(table));
        let tally = &mut answer.harvest.tally;
        tally.suspects = answer.circumstances.capture.suspects(&memory, tally);
        tally.postponed = memory.postponed(&tally.suspects);
        if answer.end >= flush {
            self.count(connection, look, &memory, &mut answer).await?;
        }
        let missed = answer.circumstances.capture.missed(&answer.harvest.tally, complete);
        // Before anything of it is published: whoever comes after a crash knows since when tables are captured.
        // And what the catalog did not show of it: the slot may hand that out no more.
        let (captured, shapes) = (answer.captured.clone(), answer.shapes.clone());
        let unseen = answer.harvest.tally.unseen.clone();
        let state = spool.state();
        if captured != state.captured || shapes != state.shapes || !unseen.is_subset(&state.memory.unseen) {
            spool.update(|state| {
                (state.captured, state.shapes) = (captured, shapes);
                state.memory.unseen.extend(unseen);
            })?;
        }
        let warned = match spool.state().warned_from == stands {
            true => spool.state().warned.clone(),
            false => self.warned_already(connection, &answer, &lost).await?,
        };
        let Answer { harvest, read, circumstances, shapes, end: looked_at, .. } = answer;
        let end = harvest.position.max(before);
        // A cut answer may repeat only the first of what is known.
        let newest = harvest.newest.filter(|newest| !read.was_cut || newest.end_lsn > before);
        let capture = circumstances.capture.clone();
        let (seen, tally) = (harvest.seen.clone(), harvest.tally.clone());
        let absent = Absent {
            lost: lost.newer_than(&warned),
            missed,
            from: before,
            lost_to: end,
            missed_to: if complete { end.max(flush) } else { end },
        };
        let waits = absent.must_wait(spool.state().tip.end_lsn);
        // The stream does not say which transaction did it: all that was read between two looks is in doubt.
        let rewritten_in =
            |from: Lsn, to: Lsn| gaps_of(shapes.rewritten_after(&seen, from), shape::REWRITTEN, from, to);
        let missing_in = |from: Lsn, to: Option<Lsn>| {
            let absent = to.map_or_else(|| absent.after(from), |to| absent.inside(from, to));
            absent.into_iter().chain(rewritten_in(from, to.unwrap_or(looked_at))).collect::<Vec<Gap>>()
        };
        self.watch.publishing();
        let kind = circumstances.source.kind;
        let mut published = publish(spool, &circumstances, harvest, missing_in, self.signing_key)?;
        self.watch.note(published.search.take().map(|search| *search));
        if shapes.is_in_doubt() {
            spool.update(|state| state.shapes.told(&seen, state.tip.end_lsn))?;
        }

        let memory = if waits {
            spool.state().memory.clone()
        } else {
            let position = spool.position().max(absent.missed_to);
            let span = Span { from: before, to: position, looked_at: flush };
            capture.remember(&memory, &tally, &look.seen, span, complete)
        };
        spool.update(|state| {
            state.warned = lost.added_to(warned);
            state.warned_from = stands;
            state.memory = memory;
            let read_upto = if complete { end.max(upto) } else { end };
            state.rereading = Some(state.read_again(stands, read_upto, read.bytes));
            state.covered_lsn = state.covered_lsn.max(end);
            if complete {
                state.covered_lsn = state.covered_lsn.max(flush);
                state.covered_at = Some(look.position.at);
            }
            state.has_read(newest, (before, state.position()), kind);
        })?;
        Ok(Taken::Batch(Box::new(Batch { published, was_cut: read.was_cut, capture })))
    }

    /// The slot stands elsewhere than when it warned before, and may give some of the same warnings again: those about
    /// what it hands out again. A warning does not say of which transaction it is, so it is asked for these alone.
    async fn warned_already(
        &self,
        connection: &mut Connection,
        answer: &Answer,
        lost: &LostChanges,
    ) -> Result<BTreeMap<TableName, u64>> {
        let Some(upto) = answer.harvest.repeated.filter(|_| !lost.is_empty()) else {
            return Ok(BTreeMap::new());
        };
        self.source.warned_about(connection, &answer.circumstances.capture, upto).await
    }

    async fn ask(
        &self,
        connection: &mut Connection,
        spool: &Spool,
        look: &Look,
        memory: &Memory,
        upto: Lsn,
        lines_max: Option<u32>,
    ) -> Result<Answer> {
        let (waiting, stream) = (connection.waiting.clone(), connection.stream.clone());
        let plans = connection.plans.clone();
        let tx = connection.transaction().await?;
        let settings = pinned().read_back(&tx).await?;
        let mut capture = self.capture(&look.schemas, &look.tables, memory)?;
        capture.doubt_all_of(&look.unsettled, memory);
        let standing = columns::standing(&plans.of(&tx), &capture, &look.tables).await?;
        // What committed before this is in the catalog.
        let catalog_at = catalog::insert_position(&tx).await?;
        let (mut captured, mut shapes) = (spool.state().captured.clone(), spool.state().shapes.clone());
        captured.look(&since::Look {
            patterns: &self.config.tables,
            tables: &standing.tables,
            position: spool.position(),
            catalog_at,
        });
        shapes.look(standing.shapes, catalog_at, &capture);
        capture.doubt_heirs(shapes.unknown());

        let stretch = Stretch { capture: &capture, upto, lines_max };
        let (start, archived) = (spool.state().tip.end_lsn, spool.position());
        let watched = captured.watched().into_iter().chain(shapes.watched()).collect();
        let segmenter = Segmenter::new(&capture, ScratchFiles::of(spool), self.limits(), start, archived)
            .watching(watched)
            .noting_unseen(&look.seen)
            .searching(self.watch.search().map(|search| search.within(&capture.tables)));
        let session = Session { tx: &tx, waiting: &waiting, stream: stream.as_deref(), batch: None };
        let (mut harvest, read) = read_into(self.source, &session, &stretch, segmenter).await?;
        faults::pass("read.stretch_read").await?;

        let complete = upto >= look.position.flush && !read.was_cut;
        let end = harvest.position.max(if complete { look.position.flush } else { archived });
        captured.settle(&since::Stretch {
            seen: harvest.seen.clone(),
            counts: harvest.segments.iter().map(|segment| &segment.summary.tables).collect(),
            upto: end,
        });
        self.place_at_end(spool, end, &mut harvest);
        let slot = slot::read(&plans.of(&tx), &self.config.slot_name).await?;
        let named: BTreeSet<TableName> =
            harvest.segments.iter().flat_map(|segment| segment.summary.tables.keys().cloned()).collect();
        let relations = columns::relations(
            &plans.of(&tx),
            &named,
            &shapes,
            publication::of(self.config).as_deref(),
            Some(archived),
            Some(&capture),
        )
        .await?;
        tx.commit().await.context(|| "ending the transaction on the source".to_owned())?;

        let source = publish::source(
            spool.state(),
            &connection.facts.server_version,
            self.source.described(),
            settings,
        );
        let circumstances = Circumstances { source, capture, relations };
        Ok(Answer { harvest, read, circumstances, slot, captured, shapes, end })
    }

    /// All that a proof's snapshot could see was looked at, and all of it is seen: the snapshot stands at the end.
    fn place_at_end(&self, spool: &Spool, end: Lsn, harvest: &mut Harvest<Scratch>) {
        let Some(search) = &mut harvest.search else { return };
        search.degraded(!self.source.described().degraded().is_empty());
        if !search.reached(end) {
            return;
        }
        let place = match harvest.segments.len() {
            0 if end > spool.state().tip.end_lsn => Place::Alone(end),
            0 => return search.void("nothing was written since the last segment"),
            some => Place::After(some - 1),
        };
        search.placed();
        harvest.cut = Some(place);
    }

    /// Of tables that are new, and where rows may hide, the rows are counted, once all is read that had committed when the
    /// poll began.
    async fn count(
        &self,
        connection: &mut Connection,
        look: &Look,
        memory: &Memory,
        answer: &mut Answer,
    ) -> Result<()> {
        let Answer { captured, circumstances: Circumstances { capture, .. }, harvest, end, .. } = answer;
        let (tally, at) = (&mut harvest.tally, look.position.at);
        let mut tables = captured.provable();
        for oid in tally.suspects.clone() {
            let Some((name, _)) = capture.names_of(oid) else { continue };
            match tally.rows.get(&oid).copied().flatten() {
                Some(_) if tally.postponed.get(&oid).is_some_and(|known| !known.is_due(at)) => {}
                Some(rows) => drop(tables.entry(name.clone()).or_insert(rows)),
                // More went than had come.
                None => drop(tally.miscounted.insert(oid)),
            }
        }
        let counted = if tables.is_empty() {
            Counted::default()
        } else {
            let spans = harvest.segments.iter().map(|segment| segment.summary.span);
            let xids = spans.flat_map(|span| [span.min_xid, span.max_xid]);
            let xids = xids.chain(memory.unseen.iter().copied()).collect();
            let publication = publication::of(self.config);
            let publication = publication.as_deref();
            let claims = Claims { tables, end: *end, xids, look, publication };
            match claims.counted(connection, self.source).await {
                Ok(counted) => counted,
                // A lock, a time limit, a right that is missing: no reason not to read.
                Err(error) if sqlstate(&error).is_some() => {
                    warn!(error = %error.one_line(), "tables that are new count as not empty");
                    Counted::default()
                }
                Err(error) => return Err(error),
            }
        };
        captured.prove(&counted.as_claimed);
        for oid in std::mem::take(&mut tally.suspects) {
            match capture.names_of(oid) {
                Some((name, _)) if counted.as_claimed.contains(name) => {}
                Some((name, _)) if counted.otherwise.contains(name) => {
                    tally.miscounted.insert(oid);
                }
                Some((name, _)) => {
                    let before = tally.postponed.get(&oid).copied();
                    let why = counted.uncounted.get(name).copied().unwrap_or(Uncounted::NotYet);
                    let again = match before.filter(|known| !known.is_due(at)) {
                        Some(waits) => Some(waits),
                        None => Postponed::again(before, why, at),
                    };
                    match again {
                        Some(again) => {
                            info!(relation = %name, "its rows could not be counted; they are at a later poll");
                            tally.postponed.insert(oid, again);
                            tally.suspects.insert(oid);
                        }
                        None => {
                            warn!(relation = %name, "its rows cannot be counted: they count as missing");
                            tally.miscounted.insert(oid);
                        }
                    }
                }
                None => {}
            }
        }
        Ok(())
    }

    pub(super) fn limits(&self) -> Limits {
        Limits {
            changes: u64::from(self.config.segment_max_changes.get()),
            content_bytes: self.config.segment_max_bytes.as_u64(),
            compression_level: self.config.compression_level,
        }
    }

    pub(super) fn capture(
        &self,
        schemas: &BTreeSet<String>,
        catalog: &[CatalogTable],
        memory: &Memory,
    ) -> Result<Capture> {
        match Capture::passing_over_mistakes(&self.config.tables, schemas, catalog, memory) {
            (_, Some(mistake)) if !self.passes_over_mistakes => Err(mistake),
            (capture, _) => Ok(capture),
        }
    }

    /// What a manifest without changes says of the source.
    pub(crate) async fn describe(
        &self,
        connection: &mut Connection,
        state: &State,
    ) -> Result<(ManifestSource, Capture)> {
        let plans = connection.plans.clone();
        let tx = connection.transaction().await?;
        let settings = pinned().read_back(&tx).await?;
        let (schemas, catalog) =
            catalog::catalog(&plans.of(&tx), publication::of(self.config).as_deref()).await?;
        let capture = self.capture(&schemas, &catalog, &state.memory)?;
        drop(tx);
        let source =
            publish::source(state, &connection.facts.server_version, self.source.described(), settings);
        Ok((source, capture))
    }
}

/// One for each: the same may be found in another way, of one of them.
fn gaps_of(tables: Vec<TableName>, reason: &str, from: Lsn, to: Lsn) -> Vec<Gap> {
    let gap = |table| Gap { from, to, reason: reason.to_owned(), tables: Some(vec![table]) };
    tables.into_iter().filter(|_| from < to).map(gap).collect()
}
