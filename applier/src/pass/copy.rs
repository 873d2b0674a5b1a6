//! The copy as a pass meets it beside its transactions: how far it is, how its tables are, and what is noted of them. The
//! PostgreSQL next to the program is one, a DuckDB file another.

use std::collections::BTreeMap;

use syncdata_formats::chain::Verified;
use syncdata_formats::error::Result;
use syncdata_formats::head::Head;
use syncdata_formats::name::TableName;
use syncdata_formats::time::Timestamp;
use uuid::Uuid;

use crate::apply::lookahead::Ahead;
use crate::apply::transaction::{Done, Rules};
use crate::archive::fetch::Fetched;
use crate::batch::Batch;
use crate::plan::group::GroupName;
use crate::plan::position::{Checkpoint, Position};
use crate::plan::state::{Event, TableState, Want};
use crate::plan::{GapName, Scope};
use crate::target::{Entry, Poison};

type States = BTreeMap<TableName, TableState>;

/// Tables that cannot go on, and why.
pub type Reasons = BTreeMap<TableName, String>;

/// What a pass asks of the place where rows end up.
pub trait LocalCopy {
    /// A batch as it is written.
    type Prepared: Send + Sync + 'static;

    /// All segments of a transaction have to describe each of its tables alike.
    const IS_OF_ONE_SHAPE: bool = false;

    fn prepare(batch: Batch) -> Self::Prepared;

    /// Whose tables a pass moves. A copy that knows no groups has them all in one.
    fn group(&self) -> GroupName {
        GroupName::DEFAULT
    }

    /// One transaction. Which tables were set aside beside it, by other changes than theirs.
    fn apply(
        &mut self,
        rules: &Rules,
        checkpoint: &Checkpoint,
        scope: &Scope,
        group: &[Fetched],
        ahead: Option<&mut Ahead<Self::Prepared>>,
    ) -> impl Future<Output = (Result<Done>, Reasons)>;

    /// The tables of the group that are kept up.
    fn states(&self) -> impl Future<Output = Result<States>>;

    fn checkpoint(&self) -> impl Future<Output = Result<Checkpoint>>;

    /// How fresh the head was that was noted last.
    fn covered_at(&self) -> impl Future<Output = Result<Option<Timestamp>>>;

    /// Notes which archive the copy belongs to.
    fn adopt(&self, archive_id: Uuid) -> impl Future<Output = Result<()>>;

    /// Those of the tables whose rows are no longer those of their positions, at the end of a pass or before.
    fn look(&self, tables: &[&TableName], is_end: bool) -> impl Future<Output = Result<Reasons>>;

    /// A table that takes nothing any more, with no record to blame.
    fn set_aside(&self, poison: &Poison, entry: Entry) -> impl Future<Output = Result<()>>;

    /// What keeps rows from a table that has none of its position yet.
    fn unfit_for_rows(&self, table: &TableName) -> impl Future<Output = Result<Option<String>>>;

    /// Whether some row is in it; `None`: something of the table itself keeps everybody from looking.
    fn has_rows(&self, table: &TableName) -> impl Future<Output = Result<Option<bool>>>;

    /// The table begins there without a base.
    fn begin(&self, table: &TableName, position: Position) -> impl Future<Output = Result<()>>;

    /// Something happens to a table.
    fn change(
        &self,
        table: &TableName,
        event: Event,
        reason: Option<&str>,
    ) -> impl Future<Output = Result<()>>;

    /// Asks for a base.
    fn want(&self, table: &TableName, want: Want) -> impl Future<Output = Result<()>>;

    /// The tables in the order in which they may catch up, those that may together.
    fn together(
        &self,
        tables: &[TableName],
        states: &States,
    ) -> impl Future<Output = Result<Vec<Vec<TableName>>>>;

    /// The table has taken everything up to the checkpoint: what was in its way is settled.
    fn is_through(&self, table: &TableName) -> impl Future<Output = Result<()>>;

    /// Nothing of the archive leads on from where it is.
    fn cut_off(&self, table: &TableName, reason: &str, gap: GapName) -> impl Future<Output = Result<()>>;

    /// All of the archive is applied: as fresh as its head says, which names what is captured no more.
    fn note_covered(&self, head: &Head) -> impl Future<Output = Result<()>>;

    /// Tables of which nothing comes any more, in words, by their names as texts.
    fn left(&self) -> impl Future<Output = Result<BTreeMap<String, String>>>;

    /// Goes on with digests that an earlier process has begun.
    fn resume_proofs(&self, _checkpoint: &Checkpoint) -> impl Future<Output = Result<()>> {
        std::future::ready(Ok(()))
    }

    /// Digests that are under way give way to these segments, where they have to.
    fn make_way(&self, _group: &[Fetched]) {}

    /// The copy stands at the end of this segment, where a mark may be. Nobody moves it before this returns.
    fn prove(&self, _segment: &Verified, _checkpoint: &Checkpoint) -> impl Future<Output = ()> {
        std::future::ready(())
    }
}
