//! The local PostgreSQL as the target of a pass: rows, positions, log and counts in one of its transactions.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use syncdata_formats::error::{Error, Result};
use syncdata_formats::name::TableName;
use syncdata_formats::time::Timestamp;
use syncdata_service::faults;
use syncdata_service::postgres::{db_error, failure};

use crate::batch::Batch;
use crate::plan::position::{Checkpoint, Position};
use crate::plan::state::{Event, TableState};
use crate::table::Table;
use crate::target::postgres::apply::Writer;
use crate::target::postgres::local::Local;
use crate::target::postgres::step::Prepared;
use crate::target::postgres::{cursor, ledger, quarantine, schema};
use crate::target::{Outcome, Positions, SetAside, Target, Violation};

/// See the module.
#[derive(Debug)]
pub struct Postgres<'a> {
    local: &'a Local,
    writer: &'a mut Writer,
    metric_freq: Duration,
}

impl<'a> Postgres<'a> {
    pub fn new(local: &'a Local, writer: &'a mut Writer, metric_freq: Duration) -> Postgres<'a> {
        Postgres { local, writer, metric_freq }
    }

    async fn note(&self, positions: &Positions) -> Result<()> {
        let (client, meta) = (self.local.session.client(), &self.local.meta);
        let moved: Vec<String> = positions.moved.iter().map(ToString::to_string).collect();
        cursor::advance(client, meta, &moved, positions.end).await?;
        for cut in &positions.cut_off {
            let position = Some(Position { lsn: cut.position, commit_time: None });
            cursor::change(client, meta, &cut.table, Event::CutOff, position, Some(&cut.reason)).await?;
            cursor::note_gap(client, meta, &cut.table, &cut.gap).await?;
            tracing::warn!(table = %cut.table, lsn = %cut.position, "table is stale: changes of it are lost");
        }
        for SetAside { poison, record, position, reason } in &positions.set_aside {
            quarantine::keep(client, meta, poison, record.as_ref()).await?;
            cursor::change(client, meta, &poison.table, Event::SetAside, Some(*position), Some(reason))
                .await?;
        }
        ledger::log(client, meta, &positions.entries, positions.started.elapsed()).await?;
        ledger::count(client, meta, &positions.entries, self.metric_freq, Timestamp::now()).await?;
        if let Some(checkpoint) = &positions.checkpoint {
            checkpoint.write(client, meta, positions.end.commit_time).await?;
        }
        if let Some(since) = &positions.capture_since {
            cursor::note_capture_since(client, meta, since).await?;
        }
        Ok(())
    }
}

impl Target for Postgres<'_> {
    type Prepared = Prepared;

    fn prepare(batch: Batch) -> Prepared {
        Prepared::of(batch)
    }

    async fn begin(&mut self) -> Result<()> {
        self.local.begin().await?;
        self.writer.begin(self.local.session.client()).await
    }

    async fn claim(&mut self, checkpoint: &Checkpoint) -> Result<()> {
        checkpoint.claim(self.local.session.client(), &self.local.meta).await
    }

    async fn states(&mut self) -> Result<BTreeMap<TableName, TableState>> {
        cursor::table_states(self.local.session.client(), &self.local.meta).await
    }

    async fn tables(&mut self, names: &[TableName]) -> Result<BTreeMap<TableName, Arc<Table>>> {
        let loaded = schema::load(self.local.session.client(), names).await?;
        self.writer.meet(&loaded);
        Ok(loaded.into_iter().map(|(name, table)| (name, Arc::new(table))).collect())
    }

    async fn write(&mut self, batch: &Prepared) -> Result<Outcome> {
        self.writer.apply(&self.local.session, batch).await
    }

    async fn check(&mut self, written: &[&Table]) -> Result<Option<Violation>> {
        let client = self.local.session.client();
        for table in written {
            if self.writer.duplicates(client, table).await? {
                return Ok(Some(Violation {
                    table: table.name.clone(),
                    sqlstate: Some("23505".into()),
                    reason: "two rows have the same value in a deferrable unique constraint".into(),
                }));
            }
        }
        if self.local.replica {
            return Ok(None);
        }
        let immediate = client.batch_execute("SET CONSTRAINTS ALL IMMEDIATE").await;
        let Err(error) = immediate.map_err(|error| failure("checking deferred constraints", error)) else {
            return Ok(None);
        };
        match blamed(&error, written) {
            Some(table) => Ok(Some(Violation {
                table,
                sqlstate: db_error(&error).map(|error| error.code().code().to_owned()),
                reason: error.one_line(),
            })),
            None => Err(error),
        }
    }

    async fn commit(&mut self, positions: &Positions) -> Result<()> {
        self.note(positions).await?;
        faults::hit("apply.before_commit")?;
        self.local.commit().await
    }

    async fn roll_back(&mut self) {
        self.local.roll_back().await;
    }
}

/// The table whose constraint it is. Where that has taken nothing, one that it refers to has lost a row.
fn blamed(error: &Error, written: &[&Table]) -> Option<TableName> {
    let error = db_error(error)?;
    let violated = TableName::new(error.schema()?, error.table()?).ok()?;
    let own = written.iter().find(|table| table.name == violated);
    let referenced = || written.iter().find(|table| table.referenced_by.contains(&violated));
    own.or_else(referenced).map(|table| table.name.clone())
}
