//! The local server as the copy that a pass works on.

use std::collections::BTreeMap;
use std::time::Duration;

use syncdata_formats::chain::Verified;
use syncdata_formats::error::{Context as _, Result};
use syncdata_formats::head::Head;
use syncdata_formats::lsn::Lsn;
use syncdata_formats::name::TableName;
use syncdata_formats::time::Timestamp;
use tokio_postgres::Client;
use uuid::Uuid;

use super::context::Proving;
use super::copy::{LocalCopy, Reasons};
use crate::apply::lookahead::Ahead;
use crate::apply::transaction::{self, Done, Rules};
use crate::archive::fetch::Fetched;
use crate::batch::Batch;
use crate::plan::group::GroupName;
use crate::plan::position::{Checkpoint, Position};
use crate::plan::state::{Event, TableState, Want};
use crate::plan::{self, GapName, Scope};
use crate::proof::cut_after;
use crate::table::Table;
use crate::target::postgres::apply::{Writer, is_no_fault_of_a_record};
use crate::target::postgres::cursor::{self, Cursor};
use crate::target::postgres::identity::{self, Moment};
use crate::target::postgres::ledger;
use crate::target::postgres::local::Local;
use crate::target::postgres::meta::MetaSchema;
use crate::target::postgres::quarantine::{self, Resolution};
use crate::target::postgres::step::Prepared;
use crate::target::postgres::transaction::Postgres;
use crate::target::postgres::{captured, schema};
use crate::target::{Entry, Poison};

/// The local server, with the lock of the pass.
#[derive(Debug)]
pub struct PostgresCopy<'a> {
    local: &'a Local,
    cursor: Cursor<'a>,
    writer: Writer,
    /// What is digested at marks; `None`: nothing is.
    proofs: Option<Proving>,
}

impl<'a> PostgresCopy<'a> {
    /// Of the group whose checkpoint that is. The lock of its passes is held.
    pub fn new(local: &'a Local, cursor: Cursor<'a>, proofs: Option<Proving>) -> PostgresCopy<'a> {
        PostgresCopy { local, cursor, writer: Writer::new(local.replica), proofs }
    }

    fn parts(&self) -> (&Client, &MetaSchema) {
        (self.local.session.client(), &self.local.meta)
    }
}

impl LocalCopy for PostgresCopy<'_> {
    type Prepared = Prepared;

    fn prepare(batch: Batch) -> Prepared {
        Prepared::of(batch)
    }

    fn group(&self) -> GroupName {
        self.cursor.group().clone()
    }

    async fn apply(
        &mut self,
        rules: &Rules,
        checkpoint: &Checkpoint,
        scope: &Scope,
        group: &[Fetched],
        ahead: Option<&mut Ahead<Prepared>>,
    ) -> (Result<Done>, Reasons) {
        let mut target = Postgres::new(self.local, self.cursor, &mut self.writer, rules.metric_freq);
        let done = transaction::apply(&mut target, rules, checkpoint, scope, group, ahead).await;
        let beside = match done {
            Ok(_) => target.set_aside_beside().into_iter().collect(),
            Err(_) => Reasons::new(),
        };
        (done, beside)
    }

    async fn states(&self) -> Result<BTreeMap<TableName, TableState>> {
        let (client, meta) = self.parts();
        let mut states = cursor::table_states(client, meta).await?;
        states.retain(|_, state| state.group == *self.cursor.group());
        Ok(states)
    }

    async fn checkpoint(&self) -> Result<Checkpoint> {
        self.cursor.read(self.local.session.client()).await
    }

    async fn covered_at(&self) -> Result<Option<Timestamp>> {
        self.cursor.covered_at(self.local.session.client()).await
    }

    async fn adopt(&self, archive_id: Uuid) -> Result<()> {
        self.cursor.adopt(self.local.session.client(), archive_id).await
    }

    async fn look(&self, tables: &[&TableName], is_end: bool) -> Result<Reasons> {
        let (client, meta) = self.parts();
        let moment = if is_end { Moment::End } else { Moment::Begin };
        let lost = self.local.in_transaction(identity::look(client, meta, tables, moment)).await?;
        Ok(lost
            .into_iter()
            .map(|(table, lost)| {
                let reason = lost.reason(&table);
                (table, reason)
            })
            .collect())
    }

    async fn set_aside(&self, poison: &Poison, entry: Entry) -> Result<()> {
        let (client, meta) = self.parts();
        let (table, reason) = (&poison.table, Some(poison.reason.as_str()));
        let note = async {
            quarantine::keep(self.local, poison, None).await?;
            cursor::change(client, meta, table, Event::SetAside, None, reason).await?;
            ledger::log(client, meta, &[entry], Duration::ZERO).await
        };
        self.local.in_transaction(note).await
    }

    async fn unfit_for_rows(&self, table: &TableName) -> Result<Option<String>> {
        let (client, meta) = self.parts();
        let lost = identity::unfit_for_rows(client, meta, table).await?;
        Ok(lost.map(|lost| lost.reason(table)))
    }

    async fn has_rows(&self, table: &TableName) -> Result<Option<bool>> {
        match identity::has_rows(self.local.session.client(), table).await {
            Ok(has_rows) => Ok(Some(has_rows)),
            Err(error) if is_no_fault_of_a_record(&error) => Err(error),
            Err(_) => Ok(None),
        }
    }

    async fn begin(&self, table: &TableName, position: Position) -> Result<()> {
        let (client, meta) = self.parts();
        cursor::change(client, meta, table, Event::NeedsNoBase, Some(position), None).await?;
        cursor::want(client, meta, table, None).await?;
        identity::note(client, meta, table).await
    }

    async fn change(&self, table: &TableName, event: Event, reason: Option<&str>) -> Result<()> {
        let (client, meta) = self.parts();
        cursor::change(client, meta, table, event, None, reason).await
    }

    async fn want(&self, table: &TableName, want: Want) -> Result<()> {
        let (client, meta) = self.parts();
        cursor::want(client, meta, table, Some(want)).await
    }

    /// All at once. But where foreign keys act, a table that is ahead of one that it refers to would be acted upon by changes
    /// that are older than its rows, and nobody could tell: then the one that lags most goes first.
    async fn together(
        &self,
        tables: &[TableName],
        states: &BTreeMap<TableName, TableState>,
    ) -> Result<Vec<Vec<TableName>>> {
        let position =
            |table: &TableName| states.get(table).and_then(|state| state.position).unwrap_or(Lsn::ZERO);
        let acts = |table: &Table| {
            let is_ahead =
                |other: &&TableName| tables.contains(other) && position(other) > position(&table.name);
            (table.acts_on_delete || table.acts_on_update)
                && table.referenced_by.iter().any(|other| is_ahead(&other))
        };
        let local = schema::load(self.local.session.client(), tables).await?;
        if self.local.replica || !local.values().any(acts) {
            return Ok(vec![tables.to_vec()]);
        }
        let mut by_position: BTreeMap<Lsn, Vec<TableName>> = BTreeMap::new();
        for table in tables {
            by_position.entry(position(table)).or_default().push(table.clone());
        }
        Ok(by_position.into_values().collect())
    }

    async fn is_through(&self, table: &TableName) -> Result<()> {
        let (client, meta) = self.parts();
        let go_live = async {
            cursor::change(client, meta, table, Event::CaughtUp, None, None).await?;
            quarantine::settle(client, meta, table, Resolution::Applied).await
        };
        self.local.in_transaction(go_live).await.context(|| format!("making {table} live"))
    }

    async fn cut_off(&self, table: &TableName, reason: &str, gap: GapName) -> Result<()> {
        let (client, meta) = self.parts();
        let note = async {
            cursor::change(client, meta, table, Event::CutOff, None, Some(reason)).await?;
            cursor::note_gap(client, meta, table, gap).await
        };
        self.local.in_transaction(note).await.context(|| format!("noting that {table} is stale"))
    }

    async fn note_covered(&self, head: &Head) -> Result<()> {
        let (client, meta) = self.parts();
        let tables = self.states().await?;
        captured::note_left(client, meta, self.cursor.group(), &head.not_captured, tables.keys()).await?;
        self.cursor.note_covered(client, head).await
    }

    async fn left(&self) -> Result<BTreeMap<String, String>> {
        let (client, meta) = self.parts();
        let left = captured::left(client, meta).await?;
        Ok(left.into_iter().map(|(table, until)| (table, plan::left_words(&until))).collect())
    }

    async fn resume_proofs(&self, checkpoint: &Checkpoint) -> Result<()> {
        match &self.proofs {
            Some(proving) => proving.proofs.resume(&proving.config, self.local, checkpoint).await,
            None => Ok(()),
        }
    }

    fn make_way(&self, group: &[Fetched]) {
        if let Some(proving) = &self.proofs {
            proving.proofs.make_way(group.iter().map(|fetched| fetched.segment.manifest()));
        }
    }

    async fn prove(&self, segment: &Verified, checkpoint: &Checkpoint) {
        if let (Some(proving), Some(mark), Some(own)) =
            (&self.proofs, &segment.manifest().proof, checkpoint.segment)
        {
            let cut = cut_after(&own);
            proving.proofs.begin(&proving.config, self.local, mark, &cut).await;
        }
    }
}
