//! One batch of notes, from two snapshots of production to a published segment.
//!
//! Everything is asked in one snapshot: the notes, the rows, and the catalog that describes them. So there is no moment in which a
//! row means something else than the catalog says, and no name that was another table's. What the triggers could not see is found
//! by comparing the catalog with that of the last batch.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use syncdata_formats::lsn::Lsn;
use syncdata_formats::manifest::{self, Gap, Order, Relation, ReplicaIdentity};
use syncdata_formats::name::TableName;
use syncdata_formats::snapshot::Seen;
use syncdata_formats::{Error, Kind, Result};
use syncdata_service::faults;
use syncdata_service::postgres::{ServerContext as _, sqlstate};
use tokio_postgres::IsolationLevel;
use tracing::{info, warn};

use crate::capture::position::next;
use crate::capture::watch::{self, LastBatch, Watched};
use crate::capture::{Making, shape, since};
use crate::segment::cut::Place;
use crate::segment::publish::{self, Circumstances, publish};
use crate::segment::reading::{Batch as Answer, Reading, Taken, read_into};
use crate::segment::scratch::ScratchFiles;
use crate::segment::segmenter::Segmenter;
use crate::source::catalog::{self, Position, Slot};
use crate::source::columns;
use crate::source::connection::Connection;
use crate::source::pinned::pinned;
use crate::source::production::Session;
use crate::source::triggers::batch::{Batch, are_as_seen, moved};
use crate::source::triggers::keys::{self, Table, does_not_fit};
use crate::source::triggers::noted::Noted;
use crate::source::triggers::{self, reader};
use crate::source::{Source as _, Stretch};
use crate::spool::{ExportedSnapshot, OfferedSnapshot, Spool};

const BLOWN: &str = "nobody read what the triggers had noted, and past wal_guard they stopped";
const NOT_CAPTURED: &str = "not captured meanwhile";
/// Of another spool nobody knows how the triggers and the tables were when it read last.
const NEW_SPOOL: &str = "what the triggers could not see is not known to a new spool";
const MADE_ANEW: &str = "the triggers were taken away and made anew";
const PART_TRUNCATED: &str = "TRUNCATE of a partition cannot be said of its parent";

impl Reading<'_> {
    /// Reads what was touched since the last batch, and publishes it in the spool. Killed anywhere in here, the next run reads
    /// it again.
    pub(crate) async fn take_batch(
        &self,
        connection: &mut Connection,
        spool: &mut Spool,
        slot: &Slot,
    ) -> Result<Taken> {
        let taken = self.take_batch_without(connection, spool, slot, &BTreeSet::new()).await;
        let Err(error) = taken else { return taken };
        if !keys::is_of_values(&error) {
            return Err(error);
        }
        spool.discard_scratch()?;
        let passed_over = self.not_understood(connection, spool).await?;
        if passed_over.is_empty() {
            return Err(error);
        }
        self.take_batch_without(connection, spool, slot, &passed_over).await
    }

    /// The captured tables whose keys stand in the way.
    async fn not_understood(
        &self,
        connection: &mut Connection,
        spool: &Spool,
    ) -> Result<BTreeSet<TableName>> {
        let last = spool.state().last_batch.as_ref().and_then(|last| Seen::parse(&last.snapshot));
        let mut tx = connection.transaction().await?;
        let Some(reader) = reader::read(&tx).await? else { return Ok(BTreeSet::new()) };
        let since = last.unwrap_or(reader.snapshot);
        let touched: Vec<u32> = Noted::read(&tx, &since).await?.touched.into_iter().collect();
        let tables: Vec<Table> = Table::read(&tx, &touched).await?.into_values().flatten().collect();
        keys::not_understood(&mut tx, &tables, &since).await
    }

    async fn take_batch_without(
        &self,
        connection: &mut Connection,
        spool: &mut Spool,
        slot: &Slot,
        passed_over: &BTreeSet<TableName>,
    ) -> Result<Taken> {
        let version = connection.facts.server_version.clone();
        let waiting = connection.waiting.clone();
        let before = spool.position();
        let last = spool.state().last_batch.clone().unwrap_or_default();
        let known = if last.snapshot.is_empty() { None } else { Seen::parse(&last.snapshot) };
        let offered = self.offered(connection, known.as_ref()).await?;
        let tx = match &offered {
            Some(offered) => connection.transaction_in(&offered.id).await?,
            None => connection.transaction_at(IsolationLevel::RepeatableRead).await?,
        };
        // The clock of the transaction's beginning: what had committed then, the snapshot shows.
        let at = match &offered {
            Some(offered) => offered.at,
            None => catalog::transaction_time(&tx).await?,
        };
        let seen = catalog::seen(&tx).await?;
        // A position after all that the snapshot shows.
        let wal = catalog::insert_position(&tx).await?;
        let settings = pinned().read_back(&tx).await?;
        // An error instead of a part of the rows, which would pass for deletes.
        tx.batch_execute("SET LOCAL lock_timeout = '10s'; SET LOCAL row_security = off")
            .await
            .context(|| "limiting our waiting".to_owned())?;
        let reader = reader::read(&tx).await?.ok_or_else(|| reader::missing(&self.config.slot_name))?;
        let began = reader::text_of(&reader.snapshot);
        // Nobody noted anything between the two.
        let are_made_anew = !last.began.is_empty() && last.began != began;
        let is_exact = last.position == before && !last.snapshot.is_empty() && !are_made_anew;
        let since = known.unwrap_or_else(|| reader.snapshot.clone());
        // The first batch of all: nothing is archived, and so nothing can be there that has gone since.
        let is_first = spool.state().tip.seq() == 0;
        let is_of_new_spool = last.snapshot.is_empty() && !is_first;

        let (schemas, catalog_tables) = catalog::catalog(&tx, None).await?;
        let capture = self.capture(&schemas, &catalog_tables, &spool.state().memory)?;
        let standing = columns::standing(&tx, &capture, &catalog_tables).await?;
        let ours = triggers::catalog::triggers(&tx).await?;
        let from_birth = Making::as_parts(&catalog_tables);
        let (mut now, unnoted) = watch::watched(&capture, &catalog_tables, &ours, &from_birth);
        if let Some(table) = unnoted.first() {
            let message =
                format!("not all is noted of {table}: its triggers are missing, or not ENABLE ALWAYS");
            return Err(Error::new(Kind::Refused, message).hint(
                "run `syncdata-archiver setup --create-triggers`, or take the table out of `tables`; what was changed meanwhile is \
                 then declared as missing",
            ));
        }

        let noted = Noted::read(&tx, &since).await?;
        let touched = now.values().map(Watched::oid).filter(|oid| noted.touched.contains(oid));
        let touched = Table::read(&tx, &touched.collect::<Vec<u32>>()).await?;
        let is_silent = reader::is_blown(&tx).await?;
        // Transactions may have left something out that were open when all was noted again.
        let is_blown = is_silent || seen.xmin < reader.rearmed;
        let position = next(before);
        let mut missing: BTreeMap<TableName, &'static str> = BTreeMap::new();
        let mut is_exact = is_exact || is_first;
        let layouts = catalog_tables.iter().map(|relation| (relation.oid, &relation.layout)).collect();
        for (table, watched) in &now {
            if noted.unknown.contains(&watched.oid()) || passed_over.contains(table) {
                missing.insert(table.clone(), watch::UNKNOWN);
            }
            let Some(then) = last.tables.get(table) else {
                // It was captured once, and nobody can say what became of it since.
                if spool.state().memory.knows(table) {
                    missing.insert(table.clone(), NOT_CAPTURED);
                }
                continue;
            };
            is_exact &= !then.has_new_part(watched);
            let is_cut = |oid: &u32| *oid != watched.oid() && noted.truncated.contains(oid);
            let cut =
                !noted.truncated.contains(&watched.oid()) && watched.relations().any(|oid| is_cut(&oid));
            let key = touched.get(&watched.oid()).and_then(Option::as_ref).map(Table::key);
            let is_lent = key.is_some_and(|key| then.may_have_lent_its_key(watched, &key));
            let missed = then
                .missed(watched, &layouts, &noted.truncated)
                .or(cut.then_some(PART_TRUNCATED))
                .or(is_lent.then_some(watch::UNKNOWN));
            missing.extend(missed.map(|reason| (table.clone(), reason)));
        }
        for (table, watched) in &mut now {
            last.tables.get(table).into_iter().for_each(|then| watched.remember_names(then));
        }
        let mut shapes = spool.state().shapes.clone();
        shapes.look(standing.shapes, position, &capture);
        for table in shapes.rewritten_after(&BTreeMap::new(), before) {
            missing.entry(table).or_insert(shape::REWRITTEN);
        }

        let Touched { truncated, tables, xid } = Touched::of(&now, &noted, &missing, touched)?;
        let batch = Batch { since, is_exact, after: before, position, at, xid, truncated, tables };
        let mut captured = spool.state().captured.clone();
        captured.look(&since::Look {
            patterns: &self.config.tables,
            tables: &standing.tables,
            position: before,
            catalog_at: position,
        });

        let start = spool.state().tip.end_lsn;
        let segmenter = Segmenter::new(&capture, ScratchFiles::of(spool), self.limits(), start, before);
        let session = Session { tx: &tx, waiting: &waiting, stream: None, batch: Some(&batch) };
        let stretch = Stretch { capture: &capture, upto: position, lines_max: None };
        let (mut harvest, _) = read_into(self.source, &session, &stretch, segmenter).await?;
        captured.settle(&since::Stretch {
            seen: BTreeMap::new(),
            counts: harvest.segments.iter().map(|segment| &segment.summary.tables).collect(),
            upto: position,
        });
        captured
            .uncounted(|table| missing.contains_key(table) || is_blown || is_of_new_spool || are_made_anew);
        let provable = captured.provable();
        if !provable.is_empty() {
            let counted = columns::with_rows(&tx, &provable).await?;
            captured.prove(&counted.as_expected);
        }
        let read_or_counted = batch.tables.iter().map(|table| &table.name).chain(provable.keys());
        let relations: Vec<u32> =
            read_or_counted.filter_map(|table| now.get(table)).flat_map(Watched::relations).collect();
        if !moved(&tx, &relations).await?.is_empty() || !are_as_seen(&tx, &batch.tables).await? {
            spool.discard_scratch()?;
            info!("tables were altered or emptied while they were read, trying again");
            return Ok(Taken::SlotMoved(slot.clone()));
        }
        let named: BTreeSet<TableName> =
            harvest.segments.iter().flat_map(|segment| segment.summary.tables.keys().cloned()).collect();
        let described = columns::relations(&tx, &named, &shapes, None, None, None).await?;
        let oids: Vec<u32> = named.iter().filter_map(|table| now.get(table)).map(Watched::oid).collect();
        let described = with_keys(described, &Table::read(&tx, &oids).await?);
        tx.commit().await.context(|| "ending the transaction on the source".to_owned())?;
        faults::pass("read.answer_complete").await?;
        // What is seen and then lost in a crash leaves a number that another transaction gets. The same session still lives.
        let settled = flushed(connection, wal).await?;

        let mut source = publish::source(spool.state(), &version, self.source.described(), settings);
        let snapshot = reader::text_of(&seen);
        source.order = Some(Order::Batch);
        source.batch = Some(manifest::Batch { snapshot: snapshot.clone(), wal_lsn: wal });
        let circumstances = Circumstances { source, capture: capture.clone(), relations: described };
        let (captured_now, shapes_now) = (captured.clone(), shapes.clone());
        if captured != spool.state().captured || shapes != spool.state().shapes {
            spool.update(|state| (state.captured, state.shapes) = (captured_now, shapes_now))?;
        }

        let mut gaps: Vec<Gap> = missing
            .iter()
            .map(|(table, reason)| Gap {
                from: before,
                to: position,
                reason: (*reason).to_owned(),
                tables: Some(vec![table.clone()]),
            })
            .collect();
        // Once when it is found, and once for what was left out since.
        let of_all =
            [(is_blown != last.blown, BLOWN), (is_of_new_spool, NEW_SPOOL), (are_made_anew, MADE_ANEW)];
        for (_, reason) in of_all.into_iter().filter(|(is_true, _)| *is_true) {
            gaps.push(Gap { from: before, to: position, reason: reason.to_owned(), tables: None });
        }
        let mut search = self.watch.search().map(|search| search.within(&capture.tables));
        let is_marked = search.as_mut().is_some_and(|search| search.placed_at(&seen, position));
        if is_marked {
            harvest.cut =
                Some(harvest.segments.len().checked_sub(1).map_or(Place::Alone(position), Place::After));
        }
        harvest.search = search;
        if is_silent {
            warn!("the triggers have stopped to note: run `syncdata-archiver setup --create-triggers`");
        }
        let says_something = is_marked || !gaps.is_empty() || !harvest.segments.is_empty();
        let missing_in = |from: Lsn, _: Option<Lsn>| if from < position { gaps.clone() } else { Vec::new() };
        let is_idle = !says_something && offered.is_none();
        self.watch.publishing();
        let mut published = publish(spool, &circumstances, harvest, missing_in, self.signing_key)?;
        self.watch.note(published.search.take().map(|search| *search));
        faults::hit("batch.published")?;
        spool.update(|state| {
            if shapes.is_in_doubt() {
                state.shapes.told(&BTreeMap::new(), position);
            }
            if says_something {
                state.covered_lsn = state.covered_lsn.max(position);
            }
            state.covered_at = Some(at);
            state.source.timeline = settled.timeline;
            let position = state.position();
            state.memory.remember_names(&capture.tables, &self.config.tables, position);
            match &mut state.last_batch {
                // The next batch comes after the same one: production may lose, with what nobody captured, what was seen of it.
                Some(last) if is_idle => last.tables = now,
                last => {
                    *last = Some(LastBatch { position, snapshot, wal, tables: now, began, blown: is_blown })
                }
            }
        })?;
        Ok(Taken::Batch(Box::new(Answer { published, was_cut: false, capture })))
    }

    /// A snapshot that this batch can end with: it still lasts, and sees all that was read.
    async fn offered(
        &self,
        connection: &mut Connection,
        read: Option<&Seen>,
    ) -> Result<Option<ExportedSnapshot>> {
        let Some(offered) = OfferedSnapshot::find(&self.config.spool_dir) else { return Ok(None) };
        let seen = match connection.transaction_in(&offered.id).await {
            Ok(tx) => catalog::seen(&tx).await?,
            Err(error) if sqlstate(&error).is_some() => {
                info!(error = %error.one_line(), "the snapshot that is on offer is gone");
                return Ok(None);
            }
            Err(error) => return Err(error),
        };
        Ok(read.is_none_or(|read| seen.includes(read)).then_some(offered))
    }
}

/// What a batch reads: nothing of tables whose changes are missing anyway.
struct Touched {
    truncated: Vec<(u32, TableName)>,
    tables: Vec<Table>,
    xid: u32,
}

impl Touched {
    /// `found`: those that were touched, by what is noted of them.
    fn of(
        tables: &BTreeMap<TableName, Watched>,
        noted: &Noted,
        missing: &BTreeMap<TableName, &'static str>,
        mut found: BTreeMap<u32, Option<Table>>,
    ) -> Result<Touched> {
        let among = |oids: &BTreeSet<u32>| -> Vec<(u32, TableName)> {
            let concerned = tables.iter().filter(|(table, _)| !missing.contains_key(*table));
            let named = concerned.map(|(table, watched)| (watched.oid(), table.clone()));
            named.filter(|(oid, _)| oids.contains(oid)).collect()
        };
        let (truncated, touched) = (among(&noted.truncated), among(&noted.touched));
        let mut tables = Vec::new();
        for (oid, table) in &touched {
            tables.push(found.remove(oid).flatten().ok_or_else(|| does_not_fit(table))?);
        }
        let of_these = truncated.iter().chain(&touched);
        let newest = of_these.filter_map(|(oid, _)| noted.xids.get(oid)).max().copied().unwrap_or_default();
        // As the stream of a slot has them: without what came round.
        Ok(Touched { truncated, tables, xid: newest as u32 })
    }
}

/// Rows are named by the key that is noted of them, whatever the replica identity says: by the primary key, or by another one
/// whose columns each row says.
fn with_keys(
    relations: BTreeMap<TableName, Relation>,
    tables: &BTreeMap<u32, Option<Table>>,
) -> BTreeMap<TableName, Relation> {
    let with_key = |(name, relation): (TableName, Relation)| {
        let noted = tables.values().flatten().find(|noted| noted.name == name);
        let by_primary_key = noted.is_none_or(|noted| {
            let (noted, key): (BTreeSet<String>, BTreeSet<String>) =
                (noted.key().into_iter().collect(), relation.key.iter().cloned().collect());
            noted == key
        });
        let identity = if by_primary_key { ReplicaIdentity::Default } else { ReplicaIdentity::Index };
        let Relation { columns, key, types, .. } = relation;
        // What is read are rows that were there together: no two of them ever shared a key.
        let described = Relation::described(columns, key, identity, types);
        (name, Relation { key_kept: !described.key.is_empty(), ..described })
    };
    relations.into_iter().map(with_key).collect()
}

/// Waits until WAL is flushed up to there.
async fn flushed(connection: &Connection, wal: Lsn) -> Result<Position> {
    const ROUNDS_MAX: u32 = 100;
    const PAUSE: Duration = Duration::from_millis(50);
    for _ in 0..ROUNDS_MAX {
        let position = Position::read(connection.session.client()).await?;
        if position.flush >= wal {
            return Ok(position);
        }
        tokio::time::sleep(PAUSE).await;
    }
    Err(Error::new(Kind::Locked, format!("the source does not flush its WAL up to {wal}"))
        .hint("it is tried again"))
}
