//! Looking at the past: the stretch alone, applied to copies of the tables in another schema.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::path::Path;
use std::sync::Arc;
use syncdata_formats::error::{Error, Kind, Result};
use syncdata_service::postgres::ServerContext as _;

use syncdata_formats::chain::Verified;
use syncdata_formats::change::{Op, Row};
use syncdata_formats::manifest::{Manifest, OpCounts};
use syncdata_formats::name::TableName;
use syncdata_service::config::Config;
use syncdata_service::progress::{Progress, Unit};
use tokio::sync::mpsc;
use tokio_postgres::Client;

use super::keys::{KeyHash, KeyHasher, Shape};
use super::report::{Report, TableReport};
use super::schemas;
use super::{BATCHES_AHEAD, Order, Standing};
use crate::apply::reader;
use crate::archive::hand_files::HandFiles;
use crate::archive::range::TimeRange;
use crate::archive::trail::Trail;
use crate::batch::{Batch, Limits, Place};
use crate::load::{self, Copy, Halt, Pair};
use crate::plan::not_found;
use crate::table::{self, Fit, Table};
use crate::target::postgres::apply::{FREE_PLANS, Outcome, Writer};
use crate::target::postgres::ledger::{self, Entry};
use crate::target::postgres::local::Local;
use crate::target::postgres::schema;
use crate::target::postgres::step::{COPY_ROWS_MIN, Prepared};

/// Makes the copies and applies the range alone to them. The live tables are not touched, nobody waits for it.
pub async fn look(config: &Config, order: &Order, schema_name: &str) -> Result<Report> {
    let mut files = HandFiles::open(config)?;
    let local = Local::open(config).await?;
    let source = files.source.clone();
    let standing = Standing::read(&local, &source, order.tables.as_deref()).await?;
    let mut trail = Trail::open(&source, standing.archive_id, Some(standing.applied), None).await?;
    trail.reach_before(&order.range).await?;

    let copies = copies(&local, &standing, schema_name).await?;
    let mut looking = Looking::new(&local, order, copies);
    let meets = |segment: &&Verified| {
        let manifest = segment.manifest();
        order.range.meets(manifest) && looking.copies.keys().any(|name| manifest.tables.contains_key(name))
    };
    let segments: Vec<Verified> = trail.manifests().iter().filter(meets).cloned().collect();
    let chain: Vec<&Manifest> = trail.manifests().iter().map(Verified::manifest).collect();
    looking.note_gaps(&chain);

    let bytes = segments.iter().filter_map(|segment| segment.manifest().file.as_ref()).map(|f| f.bytes).sum();
    let mut progress = Progress::start("replaying the range", Unit::Bytes, Some(bytes));
    let replay = async {
        if !order.dry_run {
            looking.make_copies(schema_name).await?;
        }
        for segment in &segments {
            let Some(file) = files.get(segment).await? else { continue };
            looking.segment((segment, &file), files.source.line_bytes_max()).await?;
            progress.add(segment.manifest().file.as_ref().map_or(0, |file| file.bytes));
        }
        progress.finish();
        match order.dry_run {
            true => Ok(()),
            false => looking.log(schema_name).await,
        }
    };
    match order.dry_run {
        true => replay.await?,
        // A failure leaves nothing behind.
        false => local.in_transaction(replay).await?,
    }
    let pruned = trail.pruned_of(&order.range);
    Ok(looking.report(schema_name, &standing, segments.len(), pruned))
}

/// By a live table's name: its copy's name, and the table, if it is there.
pub(super) type Copies = BTreeMap<TableName, (TableName, Option<Arc<Table>>)>;

pub(super) async fn copies(local: &Local, standing: &Standing, schema_name: &str) -> Result<Copies> {
    let names: Vec<TableName> = standing.states.keys().cloned().collect();
    let mut live = schema::load(local.session.client(), &names).await?;
    let mut copies = BTreeMap::new();
    let mut taken = BTreeSet::new();
    for name in names {
        let copy = TableName::new(schema_name, name.name())?;
        if !taken.insert(copy.clone()) {
            let message = format!("two of the tables would have the copy {copy}");
            return Err(Error::new(Kind::BadInput, message)
                .hint("replay them one after the other, each --into a schema of its own (--tables)"));
        }
        let table = live.remove(&name).map(Arc::new);
        copies.insert(name, (copy, table));
    }
    Ok(copies)
}

/// An empty table that is like the live one.
pub(super) async fn make_copy(client: &Client, live: &TableName, copy: &TableName) -> Result<()> {
    let there = "SELECT pg_catalog.to_regclass($1) IS NOT NULL";
    let row = client.query_one(there, &[&copy.sql()]).await;
    if row.context(|| format!("looking for {copy}"))?.get(0) {
        return Err(Error::new(Kind::Conflict, format!("{copy} exists already"))
            .hint("nothing was changed; choose another schema, or drop that one first"));
    }
    let like = format!("CREATE TABLE {} (LIKE {} INCLUDING ALL)", copy.sql(), live.sql());
    client.batch_execute(&like).await.context(|| format!("making {copy}"))?;
    Ok(())
}

/// Brings the rows of a shadow into a table that was made like the live one. How many they are.
pub(super) async fn fill_copy(
    local: &Local,
    live: &TableName,
    copy: &Copy,
    name: &TableName,
) -> Result<(Arc<Table>, u64), Halt> {
    let client = local.session.client();
    let mut tables = schema::load(client, std::slice::from_ref(name)).await?;
    let Some(table) = tables.remove(name) else {
        return Err(Halt::refused(live, "its copy is not there"));
    };
    let table = Arc::new(table);
    let target = table::fit(&copy.relation, &table).map_err(|difference| Halt::refused(live, difference))?;

    client.batch_execute(FREE_PLANS).await.context(|| "preparing the transaction".to_owned())?;
    let key: &[usize] = if target.key.arbiter { &target.key.columns } else { &[] };
    let columns = match copy.columns.as_slice() {
        // The archive has not said yet which there are: no row has come.
        [] => (0..table.columns.len()).filter(|place| !table.columns[*place].generated).collect(),
        columns => columns.to_vec(),
    };
    let pair = Pair { table: &table, shadow: &copy.shadow, key, columns, replica: local.replica };
    // The copy is made like the live table: what that forbids by now it forbids too.
    let brought = pair.bring_over(client).await;
    let refused = |error: Error| match load::is_of_a_row(&error) {
        true => Halt::refused(live, error.one_line()),
        false => error.into(),
    };
    Ok((table, brought.map_err(refused)?.inserted))
}

struct Looking<'a> {
    local: &'a Local,
    order: &'a Order,
    writer: Writer,
    /// By the live table's name: the copy's, and the table itself once it is known.
    copies: Copies,
    found: BTreeMap<String, TableReport>,
    left_alone: BTreeMap<String, String>,
    transactions: u64,
    hasher: KeyHasher,
    /// Of the tables that have some: the keys that the range touches.
    keys: HashMap<String, HashSet<KeyHash>>,
}

/// What a segment's reading found.
#[derive(Default)]
struct Found {
    counts: BTreeMap<String, OpCounts>,
    without: BTreeMap<String, BTreeSet<String>>,
    keys: HashMap<String, HashSet<KeyHash>>,
    transactions: u64,
    last: Option<u64>,
}

impl<'a> Looking<'a> {
    fn new(local: &'a Local, order: &'a Order, copies: Copies) -> Looking<'a> {
        let mut looking = Looking {
            local,
            order,
            writer: Writer::new(local.replica),
            copies: BTreeMap::new(),
            found: BTreeMap::new(),
            left_alone: BTreeMap::new(),
            transactions: 0,
            hasher: KeyHasher::default(),
            keys: HashMap::new(),
        };
        for (name, (copy, table)) in copies {
            if table.is_none() {
                looking.left_alone.insert(name.to_string(), not_found(&name).to_string());
                continue;
            }
            looking.found.insert(name.to_string(), TableReport::default());
            looking.copies.insert(name, (copy, table));
        }
        looking
    }

    /// What is lost cannot be shown; the rest can.
    fn note_gaps(&mut self, chain: &[&Manifest]) {
        for name in self.copies.keys() {
            if let (Some(lost), Some(report)) =
                (self.order.range.lost(chain, name, None), self.found.get_mut(&name.to_string()))
            {
                report.lost = Some(lost);
            }
        }
    }

    /// The copies, empty.
    async fn make_copies(&mut self, schema_name: &str) -> Result<()> {
        let client = self.local.session.client();
        self.writer.begin(client).await?;
        schemas::make_schema(client, schema_name).await?;
        for (name, (copy, _)) in &self.copies {
            make_copy(client, name, copy).await?;
        }
        let names: Vec<TableName> = self.copies.values().map(|(copy, _)| copy.clone()).collect();
        let mut made = schema::load(client, &names).await?;
        self.writer.meet(&made);
        for (copy, table) in self.copies.values_mut() {
            *table = made.remove(copy).map(Arc::new);
        }
        Ok(())
    }

    async fn segment(&mut self, (segment, file): (&Verified, &Path), line_bytes_max: usize) -> Result<()> {
        let targets = self.targets(segment);
        let (sender, mut batches) = mpsc::channel(BATCHES_AHEAD);
        let (read, file, range) = (segment.clone(), file.to_owned(), self.order.range);
        let dry_run = self.order.dry_run;
        let reading = tokio::task::spawn_blocking(move || {
            let feed = Feed { targets, range, batch: Batch::default(), found: Found::default() };
            feed.run((&read, &file), line_bytes_max, (!dry_run).then_some(&sender))
        });
        while let Some(prepared) = batches.recv().await {
            self.write(&prepared).await?;
        }
        let found = reading.await.expect("reading does not panic")?;
        self.transactions += found.transactions;
        for (table, counts) in found.counts {
            let report = self.found.entry(table).or_default();
            let all = TableReport::of(counts);
            report.inserts += all.inserts;
            report.updates += all.updates;
            report.deletes += all.deletes;
            report.truncates += all.truncates;
        }
        for (table, keys) in found.keys {
            self.keys.entry(table).or_default().extend(keys);
        }
        for (table, columns) in found.without {
            let known = &mut self.found.entry(table).or_default().without;
            known.extend(columns.into_iter().filter(|column| !known.contains(column)).collect::<Vec<_>>());
        }
        Ok(())
    }

    /// Copies that take rows of that segment. One that does not fit is left alone from there on.
    fn targets(&mut self, segment: &Verified) -> HashMap<String, FeedTarget> {
        let manifest = segment.manifest();
        let mut targets = HashMap::new();
        for (name, (_, table)) in &self.copies {
            let Some(table) = table else { continue };
            if !manifest.tables.contains_key(name) || self.left_alone.contains_key(&name.to_string()) {
                continue;
            }
            let relation = match manifest.relations.get(name) {
                Some(relation) => relation.clone(),
                None => crate::plan::as_local(table),
            };
            match table::fit_of_changes(&relation, table) {
                Ok(target) => {
                    let key = &target.key.columns;
                    let shape = Shape::new(table, key, &relation, &self.hasher);
                    let shape = (!key.is_empty()).then_some(shape);
                    let target = FeedTarget { target: Arc::new(target), relation: Arc::new(relation), shape };
                    targets.insert(name.to_string(), target);
                }
                Err(difference) => {
                    let reason = format!("from segment {} on: {difference}", manifest.seq);
                    self.left_alone.insert(name.to_string(), reason);
                }
            }
        }
        targets
    }

    async fn write(&mut self, prepared: &Prepared) -> Result<()> {
        match self.writer.apply(&self.local.session, prepared).await? {
            Outcome::Applied(oddities) => {
                for (copy, oddities) in oddities {
                    let Some((name, _)) = self.copies.iter().find(|(_, (of, _))| *of == copy) else {
                        continue;
                    };
                    let report = self.found.entry(name.to_string()).or_default();
                    *report.missing.get_or_insert(0) += oddities.missing;
                }
                Ok(())
            }
            Outcome::Rejected(rejection) => Err(Error::new(
                Kind::Rejected,
                format!(
                    "Failed to apply changes to {}: segment {}, line {}: {}",
                    rejection.table,
                    rejection.place.tx.seq,
                    rejection.place.line,
                    rejection.words()
                ),
            )
            .hint("nothing was made; leave the table out with --tables")),
        }
    }

    async fn log(&mut self, schema_name: &str) -> Result<()> {
        let (client, meta) = (self.local.session.client(), &self.local.meta);
        let mut entries = Vec::new();
        for name in self.copies.keys() {
            let report = self.found.get(&name.to_string()).cloned().unwrap_or_default();
            let missing = report.missing.unwrap_or(0);
            if missing > 0 {
                tracing::warn!(table = %name, rows = missing, "rows to update or delete are not in the range: skipped");
            }
            entries.push(Entry {
                table: name.clone(),
                archive_ref: format!("replay {} into {schema_name}", self.order.range),
                counts: OpCounts {
                    insert: report.inserts,
                    update: report.updates,
                    delete: report.deletes,
                    truncate: report.truncates,
                },
                missing,
                transfer: std::time::Duration::ZERO,
                error: None,
            });
        }
        ledger::log(client, meta, &entries, std::time::Duration::ZERO).await
    }

    fn report(
        mut self,
        schema_name: &str,
        standing: &Standing,
        segments: usize,
        pruned: Option<String>,
    ) -> Report {
        for (table, keys) in &self.keys {
            self.found.entry(table.clone()).or_default().keys = Some(keys.len() as u64);
        }
        Report {
            range: self.order.range.to_string(),
            into: Some(schema_name.to_owned()),
            dry_run: self.order.dry_run,
            pruned,
            checkpoint: standing.seq().get(),
            segments: segments as u64,
            transactions: self.transactions,
            tables: self.found,
            left_alone: self.left_alone,
        }
    }
}

struct FeedTarget {
    target: Arc<Fit>,
    relation: Arc<syncdata_formats::manifest::Relation>,
    /// How keys are read off its records; `None` for a table without a key.
    shape: Option<Shape>,
}

/// Reads the records of the range.
struct Feed {
    targets: HashMap<String, FeedTarget>,
    range: TimeRange,
    batch: Batch,
    found: Found,
}

impl Feed {
    /// `None`: nothing is written, only counted.
    fn run(
        mut self,
        (segment, file): (&Verified, &Path),
        line_bytes_max: usize,
        batches: Option<&mpsc::Sender<Box<Prepared>>>,
    ) -> Result<Found> {
        let names: HashSet<String> = self.targets.keys().cloned().collect();
        let is_asked = |name: &str| names.contains(name);
        reader::rows(segment, file, line_bytes_max, is_asked, |row, place| {
            if !self.range.has(row.ts) || !self.targets.contains_key(row.table.as_ref()) {
                return Ok(());
            }
            self.count(row, place);
            match batches {
                Some(batches) => self.take(row, place, batches),
                None => Ok(()),
            }
        })?;
        if let Some(batches) = batches {
            self.flush(batches);
        }
        Ok(self.found)
    }

    fn count(&mut self, row: &Row<'_>, place: Place) {
        if self.found.last != Some(place.tx.index) {
            self.found.last = Some(place.tx.index);
            self.found.transactions += 1;
        }
        self.found.counts.entry(row.table.to_string()).or_default().add(row.op);
        let target = self.targets.get_mut(row.table.as_ref());
        if let Some(touch) = target.and_then(|target| target.shape.as_mut()?.touch(row)) {
            self.found.keys.entry(row.table.to_string()).or_default().extend(touch.keys());
        }
    }

    fn take(&mut self, row: &Row<'_>, place: Place, batches: &mpsc::Sender<Box<Prepared>>) -> Result<()> {
        let FeedTarget { target, relation, .. } = &self.targets[row.table.as_ref()];
        let (target, relation) = (Arc::clone(target), Arc::clone(relation));
        if self.batch.is_full(Limits::of_memory(), row.op) {
            self.flush(batches);
        }
        let row = self.fitting(row, &target.table);
        self.batch
            .push(&row, &target, &relation, place)
            .map_err(|difference| Error::new(Kind::Conflict, difference.to_string()))?;
        Ok(())
    }

    /// Without columns that the table does not have any more. They stay in `old_keys`: without them another row might
    /// be taken for the one that is meant.
    fn fitting<'r>(&mut self, row: &Row<'r>, table: &Table) -> Row<'r> {
        let mut row = row.clone();
        if row.op == Op::Delete || row.op == Op::Truncate {
            return row;
        }
        let name = row.table.to_string();
        row.data.retain(|(column, _)| {
            let here = table.column(column).is_some();
            if !here {
                self.found.without.entry(name.clone()).or_default().insert(column.to_string());
            }
            here
        });
        row
    }

    fn flush(&mut self, batches: &mpsc::Sender<Box<Prepared>>) {
        let batch = std::mem::take(&mut self.batch);
        if !batch.is_empty() {
            // Whoever does not listen any more has an error of his own.
            let _ = batches.blocking_send(Box::new(Prepared::new(batch, COPY_ROWS_MIN)));
        }
    }
}
