//! Tables as they were at a moment, beside the live ones: the newest base copy from before it, and the changes up to
//! there; without a base copy all changes since the archive's first segment.
//!
//! A moment is a place in the order of commits: all that stands before the first transaction that committed later than
//! it. Clocks go back now and then; a state that the source never had is not made.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::sync::Arc;
use syncdata_formats::error::{Error, Kind, Result, escape_control};

use serde::Serialize;
use syncdata_formats::chain::Verified;
use syncdata_formats::layout::SegmentSeq;
use syncdata_formats::lsn::Lsn;
use syncdata_formats::manifest::{Gap, OpCounts};
use syncdata_formats::name::TableName;
use syncdata_formats::snapshot::SnapshotManifest;
use syncdata_formats::time::Timestamp;
use syncdata_service::config::Config;
use syncdata_service::progress::{Progress, Unit};

use super::Standing;
use super::into::{Copies, copies, fill_copy, make_copy};
use super::schemas;
use crate::apply::reader;
use crate::archive::hand_files::HandFiles;
use crate::archive::source::Source;
use crate::archive::trail::Trail;
use crate::batch::TxPlace;
use crate::load::{self, Base, BaseKey, Copy, Halt, Known, Refusal, columns};
use crate::plan::{GapName, concerns, not_found};
use crate::table::Table;
use crate::target::postgres::apply::Writer;
use crate::target::postgres::cursor::Cursor;
use crate::target::postgres::ledger::{self, Entry};
use crate::target::postgres::local::Local;

/// What an operator asks for.
#[derive(Clone, Debug)]
pub struct AsOf {
    pub at: Timestamp,
    pub schema: String,
    pub tables: Option<String>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Past {
    pub as_of: String,
    pub into: String,
    /// The archive covers no more than this: the tables are as of then.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub covered_at: Option<String>,
    pub tables: BTreeMap<String, PastTable>,
    /// With the reason.
    pub left_alone: BTreeMap<String, String>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct PastTable {
    /// The base that the table's first rows come from.
    pub base: String,
    pub rows: u64,
    /// Updates and deletes of rows that were not there.
    pub missing: u64,
}

impl Past {
    /// Everything that was asked for is there, and nothing in it is made up.
    pub fn is_clean(&self) -> bool {
        self.left_alone.is_empty() && self.tables.values().all(|table| table.missing == 0)
    }

    pub fn text(&self) -> String {
        let mut text = String::new();
        let mut line =
            |words: String| writeln!(text, "{}", escape_control(&words)).expect("a String takes all");
        line(format!("as of         {}", self.as_of));
        if let Some(covered_at) = &self.covered_at {
            line(format!("note          the archive covers all up to {covered_at} and no more"));
        }
        for (name, PastTable { base, rows, missing }) in &self.tables {
            let missing = if *missing > 0 {
                format!("; {missing} changes of rows that were not there")
            } else {
                String::new()
            };
            line(format!("{name}: {rows} rows, from {base}{missing}"));
        }
        for (name, reason) in &self.left_alone {
            line(format!("{name}: left alone: {reason}"));
        }
        line(format!("{} tables are in schema {}", self.tables.len(), self.into));
        text
    }
}

/// Makes the tables. The live ones are not touched, nobody waits for it; a failure leaves nothing behind.
pub async fn as_of(config: &Config, order: &AsOf) -> Result<Past> {
    let files = HandFiles::open(config)?;
    let source = files.source.clone();
    let local = Local::open(config).await?;
    let standing = Standing::read(&local, &source, order.tables.as_deref()).await?;

    let copies = copies(&local, &standing, &order.schema).await?;
    let mut past = Past { as_of: order.at.to_string(), into: order.schema.clone(), ..Past::default() };
    let head = source.head().await?.filter(|head| head.archive_id == standing.archive_id);
    past.covered_at = head.map(|head| head.covered_at).filter(|at| *at < order.at).map(|at| at.to_string());

    let mut making =
        Making { local: &local, source: &source, order, past, writer: Writer::new(local.replica) };
    let bases = making.bases(&standing, &copies).await?;
    let mut trail = Trail::open(&source, standing.archive_id, Some(standing.applied), None).await?;

    let make = async {
        let client = local.session.client();
        making.writer.begin(client).await?;
        schemas::make_schema(client, &order.schema).await?;

        let mut number = 0;
        for (base, names) in bases {
            trail.reach(base.first_day()).await?;
            // The clock may have been ahead when the base was taken.
            trail.reach_position(base.known().upto).await?;
            let tables = names.iter().filter_map(|name| Some((name.clone(), copies[name].1.clone()?)));
            making.group(&base, tables.collect(), &trail, &mut number, &copies).await?;
        }
        making.log().await
    };
    local.in_transaction(make).await?;
    Ok(making.past)
}

struct Making<'a> {
    local: &'a Local,
    source: &'a Source,
    order: &'a AsOf,
    past: Past,
    writer: Writer,
}

impl Making<'_> {
    /// The tables by the base that they are made from.
    async fn bases(&mut self, standing: &Standing, copies: &Copies) -> Result<Vec<(Base, Vec<TableName>)>> {
        let snapshots = self.source.snapshots(standing.archive_id).await?;
        let floor = self.source.floor().await?;
        let is_whole = floor.is_none_or(|floor| floor.seq == SegmentSeq::FIRST);
        let since = Cursor::of_group(&self.local.meta, &standing.group)
            .capture_since(self.local.session.client())
            .await?;
        let mut groups: BTreeMap<BaseKey, (Base, Vec<TableName>)> = BTreeMap::new();
        for (name, (_, table)) in copies {
            let has_it = |snapshot: &&Arc<SnapshotManifest>| {
                snapshot.tables.contains_key(name) && snapshot.taken_at <= self.order.at
            };
            let base =
                match snapshots.iter().find(has_it) {
                    _ if table.is_none() => Err(not_found(name).to_string()),
                    Some(snapshot) => Ok(Base::Snapshot(Arc::clone(snapshot))),
                    None if is_whole => match since.get(name) {
                        Some(since) if since.empty => Ok(Base::Start { from: since.lsn }),
                        _ => Err("it had rows when its capture began, or may have had, and no snapshot from before that \
                                  moment has them"
                            .to_owned()),
                    },
                    None => Err("the archive has neither a snapshot from before that moment nor all changes"
                        .to_owned()),
                };
            match base {
                Ok(base) => groups.entry(base.key()).or_insert((base, Vec::new())).1.push(name.clone()),
                Err(reason) => drop(self.past.left_alone.insert(name.to_string(), reason)),
            }
        }
        Ok(groups.into_values().collect())
    }

    /// Tables that start from the same snapshot.
    async fn group(
        &mut self,
        base: &Base,
        tables: BTreeMap<TableName, Arc<Table>>,
        trail: &Trail<'_>,
        number: &mut usize,
        copies: &Copies,
    ) -> Result<()> {
        let mut known = base.known();
        let stretch = self.stretch(trail, &known).await?;
        let Stretch { segments, end, .. } = &stretch;
        known.until = end.map(|end| end.place);
        let mut made = BTreeMap::new();
        for (name, table) in tables {
            if let Some(reason) = unreachable_from(base, &stretch, &known, &name) {
                self.past.left_alone.insert(name.to_string(), reason);
                continue;
            }
            let shadow = load::shadow::make(self.local.session.client(), &table, *number).await?;
            *number += 1;
            let filled = load::fill(self.local, self.source, base, &table, shadow).await;
            let mut copy = filled.map_err(cannot_be_made)?;
            match self.bridge(base, &mut copy, segments).await {
                Ok(()) => drop(made.insert(name, copy)),
                Err(Halt::Refused(refusal)) => {
                    self.past.left_alone.insert(name.to_string(), refusal.reason);
                }
                Err(Halt::Failed(error)) => return Err(error),
            }
        }
        let missing = self.changes(segments, &known, &mut made).await?;
        for (name, copy) in made {
            let rows = self.bring_over(&name, &copy, &copies[&name].0).await?;
            let missing = missing.get(&name).copied().unwrap_or(0);
            if missing > 0 {
                tracing::warn!(table = %name, rows = missing, "rows to update or delete were not there");
            }
            self.past.tables.insert(name.to_string(), PastTable { base: base.name(), rows, missing });
        }
        Ok(())
    }

    /// What there is up to the moment that the base does not have.
    async fn stretch<'t>(&self, trail: &'t Trail<'_>, known: &Known) -> Result<Stretch<'t>> {
        let mut stretch = Stretch { segments: Vec::new(), looked_at: Vec::new(), end: None };
        for segment in trail.manifests().iter().filter(|segment| segment.manifest().end_lsn > known.upto) {
            let comes_later = segment.manifest().span.is_some_and(|span| span.last_ts > self.order.at);
            stretch.end = if comes_later { self.first_later(segment, known).await? } else { None };
            stretch.looked_at.push(segment);
            if stretch.end.is_none_or(|end| end.place.index > 0) {
                stretch.segments.push(segment);
            }
            if stretch.end.is_some() {
                break;
            }
        }
        Ok(stretch)
    }

    async fn first_later(&self, segment: &Verified, known: &Known) -> Result<Option<End>> {
        let fetched = self.source.fetch_file(segment.clone()).await?;
        let Some(file) = &fetched.file else { return Ok(None) };
        let commits = reader::commits(segment, file, fetched.line_bytes_max)?;
        let mut commits = (0_u64..).zip(&commits);
        let later = commits.find(|(_, commit)| commit.ts > self.order.at && !known.has(commit));
        let seq = segment.manifest().seq.get();
        let end = later.map(|(index, commit)| End { place: TxPlace { seq, index }, lsn: commit.end_lsn });
        fetched.clean()?;
        Ok(end)
    }

    /// Rows of the base are older than columns that came up to the moment: they get what such rows have at the source.
    async fn bridge(&self, base: &Base, copy: &mut Copy, segments: &[&Verified]) -> Result<(), Halt> {
        let manifests = segments.iter().map(|segment| segment.manifest());
        let since = columns::told(manifests, &copy.table.name, Some(&copy.relation), base.end());
        let Some(now) = since.last().map(|told| told.relation.clone()) else { return Ok(()) };
        let now = columns::first_said(now, since.iter().map(|told| told.relation.clone()));
        let older = |reason| {
            let reason = format!("{} is older than a change of it: {reason}", base.name());
            Halt::refused(&copy.table.name, reason)
        };
        let client = self.local.session.client();
        let (values, has_rows) = match base {
            // Its rows come with its changes, whatever columns they have.
            Base::Start { .. } => {
                columns::bridge(&since[0].relation, &since, &now).map_err(older)?;
                (columns::old_values(&now), false)
            }
            Base::Snapshot(_) => (columns::bridge(&copy.relation, &since, &now).map_err(older)?, true),
        };
        copy.add_columns(&now);
        match load::shadow::fill_old_rows(client, copy, &values, has_rows).await? {
            Some(reason) => Err(Halt::refused(&copy.table.name, reason)),
            None => Ok(()),
        }
    }

    async fn changes(
        &mut self,
        segments: &[&Verified],
        known: &Known,
        made: &mut BTreeMap<TableName, Copy>,
    ) -> Result<BTreeMap<TableName, u64>> {
        let mut missing = BTreeMap::new();
        let bytes = segments
            .iter()
            .filter_map(|segment| segment.manifest().file.as_ref())
            .map(|file| file.bytes)
            .sum();
        let mut progress = Progress::start("applying changes", Unit::Bytes, Some(bytes));
        for &segment in segments {
            if !segment.manifest().tables.keys().any(|table| made.contains_key(table)) {
                continue;
            }
            let fetched = [self.source.fetch_file(segment.clone()).await?];
            let session = &self.local.session;
            let done = load::catch_up::catch_up(session, &mut self.writer, &fetched, known, made).await;
            for (table, rows) in done.map_err(cannot_be_made)?.missing {
                *missing.entry(table).or_insert(0) += rows;
            }
            progress.add(segment.manifest().file.as_ref().map_or(0, |file| file.bytes));
            fetched.iter().try_for_each(|fetched| fetched.clean())?;
        }
        progress.finish();
        Ok(missing)
    }

    /// The rows go into a table that is like the live one.
    async fn bring_over(&mut self, live: &TableName, copy: &Copy, name: &TableName) -> Result<u64> {
        let client = self.local.session.client();
        make_copy(client, live, name).await?;
        let (_, rows) = fill_copy(self.local, live, copy, name).await.map_err(cannot_be_made)?;
        self.writer.begin(client).await?;
        Ok(rows)
    }

    async fn log(&self) -> Result<()> {
        let (client, meta) = (self.local.session.client(), &self.local.meta);
        let mut entries = Vec::new();
        for (name, table) in &self.past.tables {
            entries.push(Entry {
                table: name.parse()?,
                archive_ref: format!("as of {} into {}", self.past.as_of, self.past.into),
                counts: OpCounts { insert: table.rows, ..OpCounts::default() },
                missing: table.missing,
                transfer: std::time::Duration::ZERO,
                error: None,
            });
        }
        ledger::log(client, meta, &entries, std::time::Duration::ZERO).await
    }
}

/// From the base to the moment.
struct Stretch<'t> {
    /// With changes up to the moment.
    segments: Vec<&'t Verified>,
    /// Those, and the one that has the first later transaction: a gap before that may lie before the moment.
    looked_at: Vec<&'t Verified>,
    end: Option<End>,
}

/// The first transaction that came later.
#[derive(Clone, Copy)]
struct End {
    place: TxPlace,
    lsn: Lsn,
}

impl Stretch<'_> {
    /// A gap that may have swallowed changes from between the base and the moment.
    fn lost(&self, known: &Known, table: &TableName) -> Option<&Gap> {
        let mut gaps = self.looked_at.iter().flat_map(|segment| &segment.manifest().gaps);
        gaps.find(|gap| {
            let is_before = self.end.is_none_or(|end| gap.from < end.lsn);
            concerns(gap, table) && gap.to > known.upto && is_before
        })
    }
}

/// Why changes between the base and the moment are not all there.
fn unreachable_from(base: &Base, stretch: &Stretch<'_>, known: &Known, table: &TableName) -> Option<String> {
    let manifests = || stretch.segments.iter().map(|segment| segment.manifest());
    match base {
        Base::Snapshot(snapshot) => {
            // One that comes later than the moment counts too: what lay before it may have been pruned.
            let first = stretch.looked_at.first().map(|segment| segment.manifest());
            if first.is_some_and(|first| first.start_lsn > snapshot.start_lsn) {
                return Some(format!("the archive begins after snapshot {}", snapshot.id));
            }
            if let Some(manifest) = manifests().find(|manifest| !manifest.capture.contains(table)) {
                return Some(format!("segment {} did not capture it", manifest.seq));
            }
        }
        Base::Start { .. } => {
            if !manifests().any(|manifest| manifest.tables.contains_key(table)) {
                return Some("the archive has no change of it up to then: nobody knows its rows".to_owned());
            }
        }
    }
    let lost = stretch.lost(known, table)?;
    Some(format!("changes {} of it are lost ({})", GapName::from(lost), lost.reason))
}

fn cannot_be_made(halt: Halt) -> Error {
    match halt {
        Halt::Failed(error) => error,
        Halt::Refused(Refusal { table, reason, .. }) => Error::new(
            Kind::Rejected,
            format!("{table} cannot be made as it was: {reason}"),
        )
        .hint(
            "nothing was made; leave it out with --tables, or mend the live table that the copy is made like",
        ),
    }
}
