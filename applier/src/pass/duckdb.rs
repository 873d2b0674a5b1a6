//! A DuckDB file as the copy that a pass works on.

use std::collections::BTreeMap;

use syncdata_formats::error::Result;
use syncdata_formats::head::Head;
use syncdata_formats::name::TableName;
use syncdata_formats::time::Timestamp;
use uuid::Uuid;

use super::copy::{LocalCopy, Reasons};
use crate::apply::lookahead::Ahead;
use crate::apply::transaction::{self, Done, Rules};
use crate::archive::fetch::Fetched;
use crate::batch::Batch;
use crate::plan::position::{Checkpoint, Position};
use crate::plan::state::{Event, TableState, Want};
use crate::plan::{self, GapName, Scope};
use crate::target::duckdb::{Duckdb, Prepared};
use crate::target::{Entry, Poison, Target};

impl LocalCopy for &mut Duckdb {
    type Prepared = Prepared;

    const IS_OF_ONE_SHAPE: bool = <Duckdb as Target>::IS_OF_ONE_SHAPE;

    fn prepare(batch: Batch) -> Prepared {
        Duckdb::prepare(batch)
    }

    async fn apply(
        &mut self,
        rules: &Rules,
        checkpoint: &Checkpoint,
        scope: &Scope,
        group: &[Fetched],
        ahead: Option<&mut Ahead<Prepared>>,
    ) -> (Result<Done>, Reasons) {
        // It has no foreign keys: nothing changes beside the rows.
        (transaction::apply(&mut **self, rules, checkpoint, scope, group, ahead).await, Reasons::new())
    }

    async fn states(&self) -> Result<BTreeMap<TableName, TableState>> {
        self.table_states().await
    }

    async fn checkpoint(&self) -> Result<Checkpoint> {
        Duckdb::checkpoint(self).await
    }

    async fn covered_at(&self) -> Result<Option<Timestamp>> {
        Duckdb::covered_at(self).await
    }

    async fn adopt(&self, archive_id: Uuid) -> Result<()> {
        Duckdb::adopt(self, archive_id).await
    }

    async fn look(&self, tables: &[&TableName], _is_end: bool) -> Result<Reasons> {
        let tables = tables.iter().map(|&table| table.clone()).collect();
        Ok(self.lost(tables).await?.into_iter().collect())
    }

    async fn set_aside(&self, poison: &Poison, entry: Entry) -> Result<()> {
        Duckdb::set_aside(self, poison.clone(), entry).await
    }

    async fn unfit_for_rows(&self, table: &TableName) -> Result<Option<String>> {
        self.refused(table.clone()).await
    }

    async fn has_rows(&self, table: &TableName) -> Result<Option<bool>> {
        Ok(Some(Duckdb::has_rows(self, table.clone()).await?))
    }

    async fn begin(&self, table: &TableName, position: Position) -> Result<()> {
        self.begin_without_base(table.clone(), position).await
    }

    async fn change(&self, table: &TableName, event: Event, reason: Option<&str>) -> Result<()> {
        Duckdb::change(self, table.clone(), event, None, reason.map(str::to_owned)).await
    }

    async fn want(&self, table: &TableName, want: Want) -> Result<()> {
        Duckdb::want(self, table.clone(), want).await
    }

    async fn together(
        &self,
        tables: &[TableName],
        _states: &BTreeMap<TableName, TableState>,
    ) -> Result<Vec<Vec<TableName>>> {
        Ok(vec![tables.to_vec()])
    }

    async fn is_through(&self, table: &TableName) -> Result<()> {
        Duckdb::is_through(self, table.clone()).await
    }

    async fn cut_off(&self, table: &TableName, reason: &str, gap: GapName) -> Result<()> {
        Duckdb::cut_off(self, table.clone(), reason.to_owned(), gap).await
    }

    async fn note_covered(&self, head: &Head) -> Result<()> {
        Duckdb::note_covered(self, head).await
    }

    async fn left(&self) -> Result<BTreeMap<String, String>> {
        let left = Duckdb::left(self).await?;
        Ok(left.into_iter().map(|(table, until)| (table, plan::left_words(&until.to_string()))).collect())
    }
}
