//! `replay`: brings every row that changed in a stretch of time to the state that the archive gives it where its table
//! stands, and moves no position.
//!
//! ```text
//! manifests ─▶ plan ─▶ scan: keys of the range, and where their rows went ─▶ origins: look back for what is not told
//!                                                                                       │
//!       live table ◀─ merge: what differs ◀─ shadow ◀─ feed: the records of those keys ─┘
//! ```
//!
//! The records of a row are never written over the live one: what lies between may stand in the way of a unique value
//! that another row has by now. They are put together beside it, and only what differs in the end is brought over.

mod carry_out;
mod feed;
mod merge;
mod origins;
mod plan;
mod scan;
mod shadow;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, HashMap, HashSet};
use std::path::Path;
use std::sync::Arc;
use syncdata_formats::error::{Error, Result};

use syncdata_formats::chain::Verified;
use syncdata_formats::change::Row;
use syncdata_formats::lsn::Lsn;
use syncdata_formats::manifest::Manifest;
use syncdata_formats::name::TableName;
use syncdata_service::config::Config;
use syncdata_service::progress::{Progress, Unit};

use self::feed::{Share, Wanted};
use self::origins::Search;
pub use self::plan::{Known, Plan, TablePlan};
use self::scan::TableScan;
use super::keys::{KeyHasher, Shape};
use super::report::{Report, TableReport};
use super::{Order, Standing};
use crate::apply::reader;
use crate::archive::hand_files::HandFiles;
use crate::archive::trail::Trail;
use crate::batch::Place;
use crate::plan::concerns;
use crate::table::TextEquality;
use crate::target::postgres::local::Local;
use crate::target::postgres::schema;

/// Brings every row that changed in the range to the state that the archive gives it where its table stands. Nobody
/// else applies meanwhile.
pub async fn repair(config: &Config, order: &Order) -> Result<Report> {
    let files = HandFiles::open(config)?;
    // No checkpoint would have it done again: its commit waits for the disk.
    let local = Local::open(config).await?;
    if !order.dry_run {
        local.lock_pass().await?;
    }

    let source = files.source.clone();
    let standing = Standing::read(&local, &source, order.tables.as_deref()).await?;
    let mut trail =
        Trail::open(&source, standing.archive_id, Some(standing.applied), Some(standing.seq())).await?;
    trail.reach_before(&order.range).await?;

    let names: Vec<TableName> = standing.states.keys().cloned().collect();
    let tables = schema::load_known(local.session.client(), &names, &standing.states).await?;
    let tables = tables.into_iter().map(|(name, table)| (name, Arc::new(table))).collect();
    let manifests = trail.manifests().iter().map(Verified::manifest).collect();
    let known = Known { range: order.range, manifests, tables: &tables, has_more: trail.has_more };
    let plan = known.plan(&standing.states);

    let mut repair =
        Repair { files, local: &local, order, standing, trail, plan, hasher: KeyHasher::default() };
    let (mut report, mut scans) = repair.scan().await?;
    let mut searches = repair.look_back(&scans).await?;
    repair.leave_unreadable(&mut scans, &mut searches, &mut report);
    if !order.dry_run {
        local.in_transaction(repair.carry_out(scans, searches, &mut report)).await?;
    }
    Ok(report)
}

struct Repair<'a> {
    files: HandFiles,
    local: &'a Local,
    order: &'a Order,
    standing: Standing,
    trail: Trail<'a>,
    plan: Plan,
    hasher: KeyHasher,
}

/// What the first reading keeps.
struct Scanning {
    scans: HashMap<String, TableScan>,
    shares: HashMap<String, Share>,
    transactions: u64,
    last: Option<(u64, u64)>,
}

type Scans = HashMap<String, TableScan>;
type Searches = HashMap<String, Search>;

impl Repair<'_> {
    /// The first reading. Tables whose records do not say their keys leave the plan.
    async fn scan(&mut self) -> Result<(Report, Scans)> {
        let names = self.plan.tables.keys();
        let mut scanning = Scanning {
            scans: names.map(|name| (name.to_string(), TableScan::default())).collect(),
            shares: HashMap::new(),
            transactions: 0,
            last: None,
        };
        let segments = self.segments();
        let mut progress = progress("reading the range", &segments);
        for segment in &segments {
            let Some(file) = self.files.get(segment).await? else { continue };
            scanning.shares = self.shares(segment, &file)?;
            let (range, all) = (self.order.range, self.incomparable());
            let segment = segment.clone();
            let read = segment.clone();
            let line_bytes_max = self.files.source.line_bytes_max();
            let names: HashSet<String> = scanning.scans.keys().cloned().collect();
            let scanned = tokio::task::spawn_blocking(move || {
                let is_asked = |name: &str| names.contains(name);
                reader::rows(&read, &file, line_bytes_max, is_asked, |row, place| {
                    scanning.take(row, place, range.has(row.ts), &all);
                    Ok(())
                })?;
                Ok::<_, Error>(scanning)
            });
            scanning = scanned.await.expect("reading does not panic")?;
            progress.add(bytes_of(segment.manifest()));
        }
        progress.finish();
        let mut scans = scanning.scans;
        self.leave_keyless(&mut scans);
        self.leave_older(&mut scans);
        Ok((self.report(&scans, scanning.transactions), scans))
    }

    /// Looks for the rest of rows of which the range tells only a part.
    async fn look_back(&mut self, scans: &Scans) -> Result<Searches> {
        let mut searches: Searches =
            scans.iter().map(|(name, scan)| (name.clone(), Search::new(scan.origins()))).collect();
        let mut seq = self.plan.tables.values().map(|table| table.last).max().unwrap_or(0);
        while seq > 0 && searches.values().any(|search| !search.is_done()) {
            let first = self.trail.manifests().first().map(|segment| segment.manifest().seq.get());
            if first.is_none_or(|first| seq < first) && !self.trail.reach_further().await? {
                searches.values_mut().for_each(Search::give_up);
                break;
            }
            if let Some(segment) = self.segment(seq) {
                self.look_into(&segment, &mut searches).await?;
            }
            seq -= 1;
        }
        Ok(searches)
    }

    async fn look_into(&mut self, segment: &Verified, searches: &mut Searches) -> Result<()> {
        let manifest = segment.manifest();
        let seq = manifest.seq.get();
        for (name, plan) in &self.plan.tables {
            let Some(search) = searches.get_mut(&name.to_string()) else { continue };
            // What the gap swallowed may have been about these rows. After the range there is none.
            if seq < plan.first && manifest.gaps.iter().any(|gap| concerns(gap, name)) {
                search.give_up();
            }
            // Nor is what was told before the base copy.
            if seq < plan.first && plan.base.is_some_and(|base| manifest.start_lsn < base) {
                search.give_up();
            }
            // By a key, or under names, that the table does not have any more, records would be passed over.
            if seq < plan.first
                && search.wants(seq)
                && let Some(relation) = manifest.relations.get(name)
                && let Some(reason) = plan::other_before(relation, &plan.relation, &plan.table)
            {
                search.refuse(format!(
                    "rows of the range have values that older changes tell, and there (segment {seq}) {reason}; mend it with resync"
                ));
            }
        }
        let wanted = |name: &&TableName| {
            searches.get(&name.to_string()).is_some_and(|search| search.wants(seq))
                && manifest.tables.contains_key(*name)
        };
        let names: Vec<String> = self.plan.tables.keys().filter(wanted).map(ToString::to_string).collect();
        if names.is_empty() {
            return Ok(());
        }
        let Some(file) = self.files.get(segment).await? else { return Ok(()) };
        let mut shares = self.shares(segment, &file)?;
        for name in names {
            let (Some(mut search), Some(mut share)) = (searches.remove(&name), shares.remove(&name)) else {
                continue;
            };
            let (segment, file, table) = (segment.clone(), file.clone(), name.clone());
            let line_bytes_max = self.files.source.line_bytes_max();
            let looked = tokio::task::spawn_blocking(move || {
                let is_asked = |name: &str| name == table;
                let mut reading = Some(search.begin(seq));
                while let Some(mut now) = reading.take() {
                    reader::rows(&segment, &file, line_bytes_max, is_asked, |row, place| {
                        if row.table == table {
                            search.take(&mut now, row, &mut share.shape, place);
                        }
                        Ok(())
                    })?;
                    reading = search.end(now);
                }
                Ok::<_, Error>(search)
            });
            let search = looked.await.expect("reading does not panic")?;
            searches.insert(name, search);
        }
        Ok(())
    }

    /// Tables of which older records have to be read, and cannot.
    fn leave_unreadable(&mut self, scans: &mut Scans, searches: &mut Searches, report: &mut Report) {
        let is_refused = |_: &String, search: &mut Search| search.refused.is_some();
        let refused: Vec<(String, Search)> = searches.extract_if(is_refused).collect();
        for (name, search) in refused {
            self.plan.tables.retain(|table, _| table.to_string() != name);
            scans.remove(&name);
            report.tables.remove(&name);
            report.left_alone.insert(name, search.refused.unwrap_or_default());
        }
    }

    /// From the range on up to where the tables stand, those with records of them.
    fn segments(&self) -> Vec<Verified> {
        let concerned = |segment: &&Verified| {
            let seq = segment.manifest().seq.get();
            self.plan.tables.iter().any(|(name, plan)| {
                segment.manifest().tables.contains_key(name) && (plan.first..=plan.last).contains(&seq)
            })
        };
        self.trail.manifests().iter().filter(concerned).cloned().collect()
    }

    /// The same, and those before with records of rows that were looked for.
    fn segments_from_origins(&self, wanted: &HashMap<String, Wanted>) -> Vec<Verified> {
        let concerned = |segment: &&Verified| {
            let seq = segment.manifest().seq.get();
            self.plan.tables.iter().any(|(name, plan)| {
                let Some(wanted) = wanted.get(&name.to_string()) else { return false };
                let is_older = seq < plan.first && wanted.older.contains(&seq);
                segment.manifest().tables.contains_key(name)
                    && (is_older || (plan.first..=plan.last).contains(&seq))
            })
        };
        self.trail.manifests().iter().filter(concerned).cloned().collect()
    }

    fn segment(&self, seq: u64) -> Option<Verified> {
        let manifests = self.trail.manifests();
        let first = manifests.first()?.manifest().seq.get();
        manifests.get(usize::try_from(seq.checked_sub(first)?).ok()?).cloned()
    }

    /// What each table of the plan has in that segment.
    fn shares(&self, segment: &Verified, file: &Path) -> Result<HashMap<String, Share>> {
        let manifest = segment.manifest();
        let mut shares = HashMap::new();
        for (name, plan) in &self.plan.tables {
            if !manifest.tables.contains_key(name) || plan.position <= manifest.start_lsn {
                continue;
            }
            // A position or a base in the middle of a segment is rare: only then is the file read twice.
            let base = plan.base.filter(|base| *base > manifest.start_lsn);
            let commits = match plan.position < manifest.end_lsn || base.is_some() {
                true => reader::commits(segment, file, self.files.source.line_bytes_max())?,
                false => Vec::new(),
            };
            let up_to = |lsn: Lsn| commits.iter().filter(|commit| commit.end_lsn <= lsn).count() as u64;
            let since = base.map_or(0, up_to);
            let until = if plan.position < manifest.end_lsn { Some(up_to(plan.position)) } else { None };
            let relation = manifest.relations.get(name).unwrap_or(&plan.relation);
            let shape = Shape::new(&plan.table, &plan.key, relation, &self.hasher);
            shares.insert(name.to_string(), Share { shape, until, since });
        }
        Ok(shares)
    }

    /// Tables whose keys are equal in ways that only the server knows.
    fn incomparable(&self) -> HashSet<String> {
        let unknown = |plan: &TablePlan| {
            let mut key = plan.key.iter();
            key.any(|&column| plan.table.columns[column].shared_equality() == TextEquality::Unknown)
        };
        let tables = self.plan.tables.iter().filter(|(_, plan)| unknown(plan));
        tables.map(|(name, _)| name.to_string()).collect()
    }

    fn leave_keyless(&mut self, scans: &mut Scans) {
        let keyless = |name: &TableName| scans.get(&name.to_string()).and_then(|scan| scan.keyless);
        let found: Vec<_> =
            self.plan.tables.keys().filter_map(|name| Some((name.clone(), keyless(name)?))).collect();
        for (name, place) in found {
            let reason = origins::keyless(place);
            self.plan.tables.remove(&name);
            scans.remove(&name.to_string());
            self.plan.left_alone.insert(name, reason);
        }
    }

    fn leave_older(&mut self, scans: &mut Scans) {
        let is_older = |name: &TableName| scans.get(&name.to_string()).is_some_and(|scan| scan.older);
        let plans = self.plan.tables.iter().filter(|(name, _)| is_older(name));
        let found: Vec<(TableName, Lsn)> =
            plans.filter_map(|(name, plan)| Some((name.clone(), plan.base?))).collect();
        for (name, base) in found {
            self.plan.tables.remove(&name);
            scans.remove(&name.to_string());
            self.plan.left_alone.insert(name.clone(), plan::older_than_base(&name, base));
        }
    }

    fn report(&self, scans: &Scans, transactions: u64) -> Report {
        let table = |(name, scan): (&String, &TableScan)| {
            let report = TableReport {
                keys: Some(scan.keys),
                later: Some(scan.later),
                without: scan.strange.iter().cloned().collect(),
                ..TableReport::of(scan.counts)
            };
            (name.clone(), report)
        };
        let changed = scans.iter().filter(|(_, scan)| scan.counts.total() > 0);
        let tables: BTreeMap<String, TableReport> = changed.map(table).collect();
        let left_alone = self.plan.left_alone.iter();
        let meets = |segment: &&Verified| self.order.range.meets(segment.manifest());
        Report {
            range: self.order.range.to_string(),
            into: None,
            dry_run: self.order.dry_run,
            pruned: self.trail.pruned_of(&self.order.range),
            checkpoint: self.standing.seq().get(),
            segments: self.segments().iter().filter(meets).count() as u64,
            transactions,
            tables,
            left_alone: left_alone.map(|(name, reason)| (name.to_string(), reason.clone())).collect(),
        }
    }
}

impl Scanning {
    fn take(&mut self, row: &Row<'_>, place: Place, in_range: bool, all: &HashSet<String>) {
        let name = row.table.as_ref();
        let (Some(scan), Some(share)) = (self.scans.get_mut(name), self.shares.get_mut(name)) else { return };
        if share.until.is_some_and(|until| place.tx.index >= until) {
            return;
        }
        let transaction = Some((place.tx.seq, place.tx.index));
        if in_range && self.last != transaction {
            self.last = transaction;
            self.transactions += 1;
        }
        scan.older |= in_range && place.tx.index < share.since;
        scan.take(row, &mut share.shape, place, in_range, all.contains(name));
    }
}

fn progress(job: &str, segments: &[Verified]) -> Progress {
    let bytes = segments.iter().map(|segment| bytes_of(segment.manifest())).sum();
    Progress::start(job, Unit::Bytes, Some(bytes))
}

fn bytes_of(manifest: &Manifest) -> u64 {
    manifest.file.as_ref().map_or(0, |file| file.bytes)
}
