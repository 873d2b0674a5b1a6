//! Reads segments on a thread of its own: while the server works on one batch, the next one is unpacked, checked,
//! netted and encoded.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::fs::File;
use std::path::PathBuf;
use std::sync::Arc;

use syncdata_formats::chain::Verified;
use syncdata_formats::change::{Commit, LongRow, Op, Record, Row};
use syncdata_formats::error::{Context, Error, Kind, Result};
use syncdata_formats::lsn::Lsn;
use syncdata_formats::manifest::{OpCounts, Relation};
use syncdata_formats::name::TableName;
use syncdata_formats::segment::SegmentReader;
use syncdata_service::own_files;
use tokio::sync::{mpsc, oneshot};

use crate::batch::{Batch, Limits, Place, TxPlace};
use crate::plan::position::Position;
use crate::table::{Difference, Fit};

/// One batch is read ahead of the one that waits.
const BATCHES_AHEAD: usize = 1;

/// A segment to read, and what of it is wanted.
#[derive(Debug, PartialEq)]
pub struct Task {
    pub segment: Verified,
    pub file: PathBuf,
    /// A longer record sets its table aside.
    pub line_bytes_max: usize,
    /// By the table's name as the archive spells it.
    pub admitted: HashMap<String, Admission>,
    /// Tables that take no more for now, with the transactions that they have: a TRUNCATE that names one of them holds up
    /// the others that it names.
    pub held: HashMap<String, u64>,
}

/// A table's share of a segment.
#[derive(Clone, Debug, PartialEq)]
pub struct Admission {
    pub target: Arc<Fit>,
    pub relation: Arc<Relation>,
    /// Transactions before this one are in the table already.
    pub from: u64,
    /// This transaction and all after it stay out.
    pub until: Option<u64>,
    /// Transactions in between that are in the table already: a snapshot has seen them.
    pub skip: HashSet<u64>,
}

impl Admission {
    fn takes(&self, transaction: u64) -> bool {
        transaction >= self.from
            && self.until.is_none_or(|until| transaction < until)
            && !self.skip.contains(&transaction)
    }
}

#[derive(Debug)]
pub enum Item<P> {
    Batch {
        netting: Netting<P>,
        /// Nothing more is to be read.
        is_last: bool,
    },
    /// All of a segment was read, and every promise of its manifest holds.
    Segment(SegmentEnd),
    /// A row has a column that its local table lacks; reading ended there.
    Lacking { table: String, place: Place, difference: Difference },
    /// A TRUNCATE names that table and others, which are held up; reading ended there.
    Held { table: String, with: Vec<String>, place: Place },
}

/// How much of a segment was handed out.
#[derive(Debug)]
pub struct SegmentEnd {
    pub seq: u64,
    pub counts: BTreeMap<String, OpCounts>,
    /// Where the tables stand that were cut off: at the end of the transaction before.
    pub stopped: BTreeMap<String, Position>,
}

/// A batch that is netted on a thread of its own, while the next one is read.
#[derive(Debug)]
pub struct Netting<P>(oneshot::Receiver<Box<P>>);

impl<P: Send + 'static> Netting<P> {
    fn start(batch: Batch, prepare: fn(Batch) -> P) -> Result<Netting<P>> {
        let (sender, receiver) = oneshot::channel();
        let work = move || {
            // Nobody may be waiting any more.
            let _ = sender.send(Box::new(prepare(batch)));
        };
        let thread = std::thread::Builder::new().name("net".into());
        thread.spawn(work).context(|| "starting a thread to net a batch".to_owned())?;
        Ok(Netting(receiver))
    }

    pub async fn prepared(self) -> Result<Box<P>> {
        let ended = |_| Error::new(Kind::Io, "the thread that nets a batch ended early");
        self.0.await.map_err(ended)
    }
}

/// A reader at work. Dropping it ends its thread.
#[derive(Debug)]
pub struct Reading<P> {
    tasks: Arc<Vec<Task>>,
    items: mpsc::Receiver<Result<Item<P>>>,
}

impl<P: Send + 'static> Reading<P> {
    /// `prepare` makes of each batch what the target writes.
    pub fn start(tasks: Vec<Task>, prepare: fn(Batch) -> P) -> Result<Reading<P>> {
        let (items, receiver) = mpsc::channel(BATCHES_AHEAD);
        let tasks = Arc::new(tasks);
        let asked = Arc::clone(&tasks);
        let work = move || {
            // As much as memory allows: a row that one transaction updates in batch after batch leaves versions that
            // nothing can prune before the commit, and every further update walks over them.
            let mut reader =
                Reader { limits: Limits::of_memory(), batch: Batch::default(), prepare, items: &items };
            // Nobody may be listening any more: then nobody needs the error.
            if let Err(Stop::Failed(error)) = reader.run(&asked) {
                let _ = items.blocking_send(Err(error));
            }
        };
        let thread = std::thread::Builder::new().name("reader".into());
        thread.spawn(work).context(|| "starting the reader's thread".to_owned())?;
        Ok(Reading { tasks, items: receiver })
    }

    pub fn is_of(&self, tasks: &[Task]) -> bool {
        *self.tasks == tasks
    }

    /// The next item of the segments, in order; `None` after the last one.
    pub async fn next(&mut self) -> Option<Result<Item<P>>> {
        self.items.recv().await
    }
}

/// Every row of a segment, with its place. Records that are longer than that may be no more than those of tables that
/// nobody asks for.
pub fn rows(
    segment: &Verified,
    file: &std::path::Path,
    line_bytes_max: usize,
    is_asked: impl Fn(&str) -> bool,
    mut each: impl FnMut(&Row<'_>, Place) -> Result<()>,
) -> Result<()> {
    let (seq, mut index) = (segment.manifest().seq.get(), 0);
    let mut reader = open(segment, file)?.with_line_bytes_max(line_bytes_max);
    loop {
        let line = reader.line() + 1;
        match reader.next()? {
            Some(Record::Row(row)) => each(&row, Place { tx: TxPlace { seq, index }, line })?,
            Some(Record::Commit(_)) => index += 1,
            Some(Record::Long(long)) if is_asked(&long.table) => {
                let message = format!(
                    "segment {seq}, line {line}: the record of {} has {} bytes, more than line_max ({line_bytes_max} bytes)",
                    long.table, long.bytes
                );
                return Err(Error::new(Kind::Rejected, message).hint(
                    "set a larger line_max, with memory for several times as much; or name other tables, or another \
                     stretch of time",
                ));
            }
            Some(Record::Long(_)) => {}
            None => return Ok(()),
        }
    }
}

/// Every commit of a segment, to find a position between them. Rows are passed over, and no longer one is held than that.
pub fn commits(segment: &Verified, file: &std::path::Path, line_bytes_max: usize) -> Result<Vec<Commit>> {
    let mut commits = Vec::new();
    let mut reader = open(segment, file)?.with_line_bytes_max(line_bytes_max);
    while let Some(record) = reader.next()? {
        if let Record::Commit(commit) = record {
            commits.push(commit);
        }
    }
    Ok(commits)
}

fn open(segment: &Verified, file: &std::path::Path) -> Result<SegmentReader<File>> {
    let source = own_files::read_plain(file)?;
    SegmentReader::ahead(source, segment.manifest())
}

/// Why reading ended early.
enum Stop {
    Failed(Error),
    /// Nobody listens, or a row was found that ends it all.
    Enough,
}

impl<E: Into<Error>> From<E> for Stop {
    fn from(error: E) -> Stop {
        Stop::Failed(error.into())
    }
}

/// The lines of one TRUNCATE.
struct Truncate {
    lsn: Lsn,
    /// The first table that takes it, and where.
    taken: Option<(String, Place)>,
    held: Vec<String>,
}

impl Truncate {
    /// The table that must not take it, because others cannot.
    fn torn(self) -> Option<(String, Vec<String>, Place)> {
        let (table, place) = self.taken?;
        (!self.held.is_empty()).then_some((table, self.held, place))
    }
}

impl Task {
    fn takes(&self, table: &str, transaction: u64) -> bool {
        self.admitted.get(table).is_some_and(|admission| admission.takes(transaction))
    }

    /// It is going to take that later, if at all.
    fn holds_up(&self, table: &str, transaction: u64) -> bool {
        let stops = self.admitted.get(table).and_then(|admission| admission.until);
        stops.is_some_and(|until| transaction >= until)
            || self.held.get(table).is_some_and(|has| transaction >= *has)
    }
}

struct Reader<'a, P> {
    limits: Limits,
    batch: Batch,
    prepare: fn(Batch) -> P,
    items: &'a mpsc::Sender<Result<Item<P>>>,
}

impl<P: Send + 'static> Reader<'_, P> {
    fn run(&mut self, tasks: &[Task]) -> Result<(), Stop> {
        for task in tasks {
            self.segment(task)?;
        }
        self.flush(true)
    }

    fn segment(&mut self, task: &Task) -> Result<(), Stop> {
        let seq = task.segment.manifest().seq.get();
        // Before any of its rows: the TRUNCATE lines of one statement must not be parted by another shape.
        if task.admitted.iter().any(|(table, share)| self.batch.knows_other(table, &share.target)) {
            self.flush(false)?;
        }
        let mut end = SegmentEnd { seq, counts: BTreeMap::new(), stopped: BTreeMap::new() };
        // What each table may take, and what it took.
        let mut shares: hashbrown::HashMap<&str, (&Admission, OpCounts)> =
            task.admitted.iter().map(|(name, share)| (name.as_str(), (share, OpCounts::default()))).collect();
        let mut last_commit = Position { lsn: task.segment.manifest().start_lsn, commit_time: None };
        let mut index = 0;
        stop_at(task, index, last_commit, &mut end);
        let mut reader = open(&task.segment, &task.file)?.with_line_bytes_max(task.line_bytes_max);
        let mut statement: Option<Truncate> = None;
        loop {
            let line = reader.line() + 1;
            let record = reader.next()?;
            let goes_on = match (&record, &statement) {
                (Some(Record::Row(row)), Some(statement)) => {
                    row.op == Op::Truncate && row.lsn == statement.lsn
                }
                _ => false,
            };
            if !goes_on {
                self.end_truncate(statement.take())?;
            }
            match record {
                Some(Record::Row(row)) => {
                    if row.op == Op::Truncate {
                        let known =
                            statement.get_or_insert(Truncate { lsn: row.lsn, taken: None, held: Vec::new() });
                        let table = row.table.as_ref();
                        if task.takes(table, index) {
                            let place = Place { tx: TxPlace { seq, index }, line };
                            known.taken.get_or_insert_with(|| (table.to_owned(), place));
                        } else if task.holds_up(table, index) {
                            known.held.push(table.to_owned());
                        }
                    }
                    let Some((admission, counts)) = shares.get_mut(row.table.as_ref()) else { continue };
                    if !admission.takes(index) {
                        continue;
                    }
                    counts.add(row.op);
                    self.take(&row, admission, Place { tx: TxPlace { seq, index }, line })?;
                }
                Some(Record::Long(long)) => {
                    let Some((admission, _)) = shares.get(long.table.as_str()) else { continue };
                    if !admission.takes(index) {
                        continue;
                    }
                    let place = Place { tx: TxPlace { seq, index }, line };
                    let difference = too_long(&long, task.line_bytes_max, &admission.target.table.name);
                    self.send(Item::Lacking { table: long.table, place, difference })?;
                    return Err(Stop::Enough);
                }
                Some(Record::Commit(commit)) => {
                    if self.items.is_closed() {
                        return Err(Stop::Enough);
                    }
                    index += 1;
                    last_commit = Position { lsn: commit.end_lsn, commit_time: Some(commit.ts) };
                    stop_at(task, index, last_commit, &mut end);
                }
                None => break,
            }
        }
        let took = shares.into_iter().filter(|(_, (_, counts))| counts.total() > 0);
        end.counts = took.map(|(table, (_, counts))| (table.to_owned(), counts)).collect();
        self.send(Item::Segment(end))
    }

    fn end_truncate(&self, statement: Option<Truncate>) -> Result<(), Stop> {
        let Some((table, with, place)) = statement.and_then(Truncate::torn) else { return Ok(()) };
        self.send(Item::Held { table, with, place })?;
        Err(Stop::Enough)
    }

    fn take(&mut self, row: &Row<'_>, admission: &Admission, place: Place) -> Result<(), Stop> {
        let Admission { target, relation, .. } = admission;
        if self.batch.is_full(self.limits, row.op) {
            self.flush(false)?;
        }
        match self.batch.push(row, target, relation, place) {
            Ok(()) => Ok(()),
            Err(difference) => {
                self.send(Item::Lacking { table: row.table.to_string(), place, difference })?;
                Err(Stop::Enough)
            }
        }
    }

    fn flush(&mut self, is_last: bool) -> Result<(), Stop> {
        let batch = std::mem::take(&mut self.batch);
        if batch.is_empty() {
            return Ok(());
        }
        self.send(Item::Batch { netting: Netting::start(batch, self.prepare)?, is_last })
    }

    fn send(&self, item: Item<P>) -> Result<(), Stop> {
        self.items.blocking_send(Ok(item)).map_err(|_| Stop::Enough)
    }
}

fn too_long(long: &LongRow, line_bytes_max: usize, table: &TableName) -> Difference {
    Difference {
        what: format!("a record of {} bytes is longer than line_max ({line_bytes_max} bytes)", long.bytes),
        remedy: format!(
            "syncdata-applier retry {}, with a larger line_max and memory for several times as much; or take a snapshot \
             and resync it",
            table.shell_word()
        ),
        in_doubt: false,
    }
}

/// Notes the tables that take nothing from this transaction on.
fn stop_at(task: &Task, index: u64, last_commit: Position, end: &mut SegmentEnd) {
    for (table, admission) in &task.admitted {
        if admission.until == Some(index) {
            end.stopped.insert(table.clone(), last_commit);
        }
    }
}
