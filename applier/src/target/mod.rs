//! Where rows end up: what a transaction asks of such a place.
//!
//! ```text
//! begin ─▶ claim ─▶ states, make, tables ─▶ write, write … ─▶ check ─▶ commit, positions with it
//!    └────────────── roll back: nothing of it was ◀───────────┘
//! ```

#[cfg(feature = "duckdb")]
pub mod duckdb;
pub mod postgres;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use syncdata_formats::error::Result;
use syncdata_formats::lsn::Lsn;
use syncdata_formats::manifest::{OpCounts, Relation};
use syncdata_formats::name::TableName;
use syncdata_formats::time::Timestamp;

use crate::batch::{Batch, Place};
use crate::plan::GapName;
use crate::plan::offer::CaptureSince;
use crate::plan::position::{Checkpoint, Position};
use crate::plan::state::TableState;
use crate::table::{Difference, SourceColumns, Table};

/// One transaction at a time. Rows and positions are committed together, or neither is: a target that has no
/// transactions of its own carries the checkpoint in the file that makes the rows visible.
pub trait Target: Send {
    /// A batch as it is written. It is made on another thread, while the one before is written.
    type Prepared: Send + Sync + 'static;

    fn prepare(batch: Batch) -> Self::Prepared;

    fn begin(&mut self) -> impl Future<Output = Result<()>> + Send;

    /// Keeps others from moving the checkpoint. `Err`: it is not that one any more; somebody else has applied.
    fn claim(&mut self, checkpoint: &Checkpoint) -> impl Future<Output = Result<()>> + Send;

    /// The tables that are kept up.
    fn states(&mut self) -> impl Future<Output = Result<BTreeMap<TableName, TableState>>> + Send;

    /// All segments of a transaction describe each of its tables alike.
    const IS_OF_ONE_SHAPE: bool = false;

    /// Makes those of the tables that were never made, and brings the others to how they are described, where the target makes
    /// its tables itself. Which of them it cannot have so, and why.
    fn make(
        &mut self,
        _described: &BTreeMap<&TableName, &Relation>,
    ) -> impl Future<Output = Result<BTreeMap<TableName, Difference>>> + Send {
        std::future::ready(Ok(BTreeMap::new()))
    }

    /// Those of the tables that are there.
    fn tables(
        &mut self,
        names: &[TableName],
    ) -> impl Future<Output = Result<BTreeMap<TableName, Arc<Table>>>> + Send;

    /// `Err`: somebody has changed one of the tables since the pass has looked at them. Before anything is written.
    fn look_again(&mut self, _tables: &[&TableName]) -> impl Future<Output = Result<()>> + Send {
        std::future::ready(Ok(()))
    }

    /// The first of these columns in which some row that is here has another value than that.
    fn other_values(
        &mut self,
        table: &Table,
        columns: &[(usize, Option<String>)],
    ) -> impl Future<Output = Result<Option<usize>>> + Send;

    /// The statement as somebody else may run it here: their writes may be refused.
    fn as_ours(&mut self, statement: String) -> impl Future<Output = Result<String>> + Send {
        std::future::ready(Ok(statement))
    }

    /// What is to be run about a table that is not as the archive describes it; `None`: the statement that is said with it.
    fn remedy(_table: &TableName) -> Option<String> {
        None
    }

    /// What will be done about the table may leave other rows than the source has: only a new base makes it live. Outside a
    /// transaction.
    fn disown(&mut self, _table: &TableName) -> impl Future<Output = Result<()>> + Send {
        std::future::ready(Ok(()))
    }

    /// All of the batch, or nothing of it and the record that is to blame.
    fn write(&mut self, batch: &Self::Prepared) -> impl Future<Output = Result<Outcome>> + Send;

    /// What would make the commit fail, while it can still be said which of these tables it is.
    fn check(&mut self, written: &[&Table]) -> impl Future<Output = Result<Option<Violation>>> + Send;

    /// Without an answer it may or may not have happened: whoever tries again looks at the checkpoint.
    fn commit(&mut self, positions: &Positions) -> impl Future<Output = Result<()>> + Send;

    /// Ends the transaction after an error of any of the steps above.
    fn roll_back(&mut self) -> impl Future<Output = ()> + Send;
}

/// What a commit notes beside the rows.
#[derive(Debug)]
pub struct Positions {
    /// Tables that took everything up to `end`.
    pub moved: Vec<TableName>,
    pub end: Position,
    pub cut_off: Vec<CutOff>,
    pub set_aside: Vec<SetAside>,
    /// Of the whole copy; `None`: it stays where it is.
    pub checkpoint: Option<Checkpoint>,
    /// What the manifests say of it, where one of them does and the checkpoint moves.
    pub capture_since: Option<CaptureSince>,
    /// The tables that are captured, where the checkpoint moves.
    pub captured: Option<Vec<TableName>>,
    /// Columns of the source that are called otherwise than before.
    pub columns: Vec<(TableName, SourceColumns)>,
    /// How the source describes the tables that moved, or ended on the way, where they changed.
    pub described: Vec<(TableName, Relation)>,
    /// Columns of tables in which the source cannot say NaN and infinities: they arrived as NULL.
    pub nan_as_null: BTreeMap<TableName, Vec<String>>,
    /// Records of quarantined tables that the checkpoint passes.
    pub waiting: BTreeMap<TableName, u64>,
    pub entries: Vec<Entry>,
    pub started: Instant,
}

/// A table that a gap cuts off.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CutOff {
    pub table: TableName,
    /// Of the segment that declares the gap.
    pub seq: u64,
    pub position: Lsn,
    /// Of the last transaction up to there, where it is one of these.
    pub commit_time: Option<Timestamp>,
    pub gap: GapName,
    pub reason: String,
}

/// A table that takes nothing from some record on.
#[derive(Clone, Debug)]
pub struct SetAside {
    pub poison: Poison,
    pub record: Option<Found>,
    pub position: Position,
    /// The reason, with the remedy.
    pub reason: String,
    /// What one TRUNCATE named with it, where that is the reason.
    pub held_with: Vec<TableName>,
    /// What is told to be done may leave other rows than the source has: nothing but a new base makes it live.
    pub in_doubt: bool,
}

/// Why a table was set aside.
#[derive(Clone, Debug)]
pub struct Poison {
    pub table: TableName,
    pub seq: u64,
    /// `None`: no record in particular.
    pub line: Option<u64>,
    pub sqlstate: Option<String>,
    /// For everybody: without values of rows.
    pub reason: String,
    /// What to do about it, where more is known than that it has to be mended.
    pub remedy: Option<String>,
    /// What the server said, which may quote values: for the quarantine, never for a log.
    pub server_words: Option<String>,
}

/// The record itself, looked up again.
#[derive(Clone, Debug)]
pub struct Found {
    pub lsn: Lsn,
    pub text: String,
}

/// What a batch found that was not as at the source, by table.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Oddities {
    /// Updates and deletes of rows that are not here.
    pub missing: u64,
    /// Rows that were in the way of a key that moved.
    pub replaced: u64,
}

/// A record that its table cannot take.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rejection {
    pub table: TableName,
    pub place: Place,
    pub sqlstate: Option<String>,
    /// For everybody: without values of rows.
    pub reason: String,
    /// What to do about it, where more is known than that it has to be mended: `run: ALTER …`.
    pub remedy: Option<String>,
    /// What the server said, which may quote values: for the quarantine, never for a log.
    pub server_words: Option<String>,
    /// Rows from before may be wrong too, or what is told to be done may be.
    pub in_doubt: bool,
}

impl Rejection {
    /// Why, and what to do about it where that is known.
    pub fn words(&self) -> String {
        with_remedy(&self.reason, self.remedy.as_deref())
    }
}

impl Poison {
    pub fn words(&self) -> String {
        with_remedy(&self.reason, self.remedy.as_deref())
    }
}

fn with_remedy(reason: &str, remedy: Option<&str>) -> String {
    remedy.map_or_else(|| reason.to_owned(), |remedy| format!("{reason}; {remedy}"))
}

#[derive(Debug)]
pub enum Outcome {
    Applied(BTreeMap<TableName, Oddities>),
    Rejected(Rejection),
}

/// A table that would make the commit fail. Nobody knows which record it was.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation {
    pub table: TableName,
    pub sqlstate: Option<String>,
    /// For everybody: without values of rows.
    pub reason: String,
    /// What to do about it, where more is known than that it has to be mended.
    pub remedy: Option<String>,
    /// What the server said, which may quote values: for the quarantine, never for a log.
    pub server_words: Option<String>,
}

/// One table in one segment.
#[derive(Clone, Debug)]
pub struct Entry {
    pub table: TableName,
    pub archive_ref: String,
    pub counts: OpCounts,
    pub missing: u64,
    pub transfer: Duration,
    /// Why it took no more than that; `None`: it succeeded.
    pub error: Option<String>,
}

impl Entry {
    /// Of a table that could not go on; nothing of it was applied.
    pub fn failed(table: &TableName, archive_ref: &str, reason: &str) -> Entry {
        Entry {
            table: table.clone(),
            archive_ref: archive_ref.to_owned(),
            counts: OpCounts::default(),
            missing: 0,
            transfer: Duration::ZERO,
            error: Some(format!("Failed to apply changes: {reason}")),
        }
    }
}
