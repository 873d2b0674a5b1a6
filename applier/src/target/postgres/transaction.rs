//! The local PostgreSQL as the target of a pass: rows, positions, log and counts in one of its transactions.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use syncdata_formats::error::{Error, Kind, Result};
use syncdata_formats::name::TableName;
use syncdata_formats::time::Timestamp;
use syncdata_service::faults;
use syncdata_service::postgres::{db_error, failure, server_words};
use tokio_postgres::error::SqlState;

use crate::batch::Batch;
use crate::plan::position::{Checkpoint, Position};
use crate::plan::state::{Event, State, TableState};
use crate::table::{SourceColumns, Table, source_columns};
use crate::target::postgres::apply::{Actions, Counts, Watched, Writer, is_no_fault_of_a_record};
use crate::target::postgres::cascades::Watch;
use crate::target::postgres::cursor::{self, Cursor};
use crate::target::postgres::identity::{self, Moment};
use crate::target::postgres::local::Local;
use crate::target::postgres::lost::Lost;
use crate::target::postgres::rules::Rule;
use crate::target::postgres::step::Prepared;
use crate::target::postgres::{captured, labels, ledger, older, quarantine, rules, schema, writers};
use crate::target::{Outcome, Positions, SetAside, Target, Violation};

/// The transaction in which a group of segments is applied.
#[derive(Debug)]
pub struct Postgres<'a> {
    local: &'a Local,
    cursor: Cursor<'a>,
    writer: &'a mut Writer,
    metric_freq: Duration,
    states: BTreeMap<TableName, TableState>,
    watch: Watch,
    /// Tables in which foreign keys of the copy have changed rows.
    touched: BTreeSet<TableName>,
    /// Rules and triggers that do something else than what is written.
    rules: BTreeMap<TableName, Rule>,
}

impl<'a> Postgres<'a> {
    pub fn new(
        local: &'a Local,
        cursor: Cursor<'a>,
        writer: &'a mut Writer,
        metric_freq: Duration,
    ) -> Postgres<'a> {
        let (states, watch, touched) = (BTreeMap::new(), Watch::default(), BTreeSet::new());
        Postgres { local, cursor, writer, metric_freq, states, watch, touched, rules: BTreeMap::new() }
    }

    /// A table that catches up must not act on rows of others, which are newer. `None`: those that were touched are no
    /// longer what they were, and are told so with the commit.
    fn acting(&mut self, written: &[&Table]) -> Option<Violation> {
        self.touched.retain(|name| written.iter().all(|table| table.name != *name));
        self.touched.extend(self.writer.actions.iter().flat_map(Actions::unsaid).cloned());
        self.touched.retain(|name| self.states.contains_key(name));
        let state_of = |name: &TableName| self.states.get(name).map(|state| state.state);
        let newer = |name: &&TableName| state_of(name).is_some_and(State::goes_on);
        let touched = self.touched.iter().find(newer)?.clone();
        let catches_up = |table: &&&Table| {
            (table.acts_on_delete || table.acts_on_update) && state_of(&table.name) == Some(State::Loading)
        };
        let table = written.iter().find(catches_up)?.name.clone();
        Some(Violation {
            server_words: None,
            sqlstate: Some(SqlState::FOREIGN_KEY_VIOLATION.code().to_owned()),
            reason: format!(
                "its older changes would act on newer rows of {touched} through a foreign key of the copy"
            ),
            remedy: Some(format!("run: syncdata-applier resync {}", table.shell_word())),
            table,
        })
    }

    /// Live tables that the commit sets aside, though none of their own changes is to blame, and why.
    pub fn set_aside_beside(&self) -> Vec<(TableName, String)> {
        let is_live =
            |table: &&TableName| self.states.get(*table).map(|state| state.state) == Some(State::Live);
        let reason = |table: &TableName| {
            let reason = format!(
                "a foreign key of the copy changed rows of it that the source did not change: {}",
                Lost::Touched.reason(table)
            );
            (table.clone(), reason)
        };
        self.touched.iter().filter(is_live).map(reason).collect()
    }

    async fn note_touched(&self, set_aside: &[SetAside]) -> Result<()> {
        let (client, meta) = (self.local.session.client(), &self.local.meta);
        for table in &self.touched {
            identity::disown(client, meta, table).await?;
        }
        for (table, reason) in &self.set_aside_beside() {
            if set_aside.iter().any(|aside| aside.poison.table == *table) {
                continue;
            }
            cursor::change(client, meta, table, Event::SetAside, None, Some(reason)).await?;
            tracing::error!(%table, "the table is quarantined: a foreign key of the copy changed rows of it");
        }
        Ok(())
    }

    async fn note(&self, positions: &Positions) -> Result<()> {
        let (client, meta) = (self.local.session.client(), &self.local.meta);
        let moved: Vec<String> = positions.moved.iter().map(ToString::to_string).collect();
        cursor::advance(client, meta, &moved, positions.end).await?;
        for (table, columns) in &positions.columns {
            cursor::note_columns(client, meta, table, columns).await?;
        }
        let known = |table: &TableName| self.states.get(table).and_then(|state| state.source_key.as_ref());
        // The last description of each counts.
        let keys: BTreeMap<&TableName, &Vec<String>> =
            positions.described.iter().map(|(table, relation)| (table, &relation.key)).collect();
        let keys = keys.into_iter().filter(|(table, _)| positions.moved.contains(table));
        let keys = keys.filter(|(table, key)| known(table) != Some(*key));
        let keys: Vec<(&TableName, &[String])> = keys.map(|(table, key)| (table, key.as_slice())).collect();
        cursor::note_keys(client, meta, &keys).await?;
        let names = |table: &TableName| self.states.get(table).map(|state| state.source_columns.clone());
        let mut names_before: BTreeMap<&TableName, SourceColumns> = BTreeMap::new();
        for (table, relation) in &positions.described {
            let before = names_before.entry(table).or_insert_with(|| names(table).unwrap_or_default());
            if !relation.types.is_empty() {
                labels::note(client, meta, table, relation, before).await?;
            }
            *before = source_columns(relation);
        }
        for cut in &positions.cut_off {
            let position = Some(Position { lsn: cut.position, commit_time: cut.commit_time });
            cursor::change(client, meta, &cut.table, Event::CutOff, position, Some(&cut.reason)).await?;
            cursor::note_gap(client, meta, &cut.table, cut.gap).await?;
            tracing::warn!(table = %cut.table, lsn = %cut.position, "table is stale: changes of it are lost");
        }
        for SetAside { poison, record, position, reason, held_with, in_doubt } in &positions.set_aside {
            quarantine::keep(self.local, poison, record.as_ref()).await?;
            cursor::change(client, meta, &poison.table, Event::SetAside, Some(*position), Some(reason))
                .await?;
            if !held_with.is_empty() {
                cursor::note_held(client, meta, &poison.table, held_with).await?;
            }
            // Without rows whatever was done is right.
            if *in_doubt && identity::has_rows(client, &poison.table).await? {
                identity::disown(client, meta, &poison.table).await?;
            }
        }
        cursor::add_waiting(client, meta, &positions.waiting).await?;
        self.note_touched(&positions.set_aside).await?;
        let changed = positions.entries.iter().filter(|entry| entry.counts.total() > 0);
        let changed: BTreeSet<String> = changed.map(|entry| entry.table.to_string()).collect();
        cursor::note_changed(client, meta, &changed.into_iter().collect::<Vec<String>>()).await?;
        let emptied = positions.entries.iter().filter(|entry| entry.counts.truncate > 0);
        let emptied: BTreeSet<&TableName> = emptied.map(|entry| &entry.table).collect();
        for table in emptied {
            identity::note_files(client, meta, table).await?;
        }
        let took = positions.started.elapsed();
        match self.local.logs_by_minute {
            true => ledger::log_by_minute(client, meta, &positions.entries, took).await?,
            false => ledger::log(client, meta, &positions.entries, took).await?,
        }
        ledger::count(client, meta, &positions.entries, self.metric_freq, Timestamp::now()).await?;
        if let Some(checkpoint) = &positions.checkpoint {
            self.cursor.write(client, checkpoint, positions.end.commit_time).await?;
        }
        for (table, columns) in &positions.nan_as_null {
            if cursor::note_nan(client, meta, table, columns).await? {
                let columns = columns.join(", ");
                tracing::warn!(%table, columns, "NaN and infinities arrive as NULL: the source's wal2json cannot say them");
            }
        }
        if let Some(captured) = &positions.captured {
            captured::note(client, meta, self.cursor.group(), captured).await?;
        }
        if let Some(since) = &positions.capture_since {
            self.cursor.note_capture_since(client, since).await?;
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
        self.touched.clear();
        self.local.begin().await?;
        self.writer.begin(self.local.session.client()).await?;
        self.local.announce_writes().await
    }

    async fn claim(&mut self, checkpoint: &Checkpoint) -> Result<()> {
        self.cursor.claim(self.local.session.client(), checkpoint).await
    }

    async fn states(&mut self) -> Result<BTreeMap<TableName, TableState>> {
        let client = self.local.session.client();
        self.states = cursor::table_states(client, &self.local.meta).await?;
        self.writer.synced = self.states.keys().cloned().collect();
        if !self.local.replica {
            self.watch = Watch::over(client, &self.writer.synced).await?;
            self.writer.actions = Some(Actions::read(client).await?);
        }
        Ok(self.states.clone())
    }

    async fn tables(&mut self, names: &[TableName]) -> Result<BTreeMap<TableName, Arc<Table>>> {
        let mut loaded = schema::load_known(self.local.session.client(), names, &self.states).await?;
        for (name, table) in &mut loaded {
            let Some(state) = self.states.get(name) else { continue };
            table.source_key.clone_from(&state.source_key);
        }
        self.writer.meet(&loaded);
        let client = self.local.session.client();
        let [acting, watched] = rules::acting_and_watched(client, &self.local.meta, loaded.values()).await?;
        self.rules = acting;
        self.writer.watched = Watched::over(client, watched, &self.writer.synced).await?;
        Ok(loaded.into_iter().map(|(name, table)| (name, Arc::new(table))).collect())
    }

    async fn look_again(&mut self, tables: &[&TableName]) -> Result<()> {
        let has_rows = |table: &&&TableName| {
            self.states.get(**table).is_some_and(|state| {
                state.position.is_some() && (state.wants().is_none() || state.state == State::Live)
            })
        };
        let tables: Vec<&TableName> = tables.iter().filter(has_rows).copied().collect();
        let (client, meta) = (self.local.session.client(), &self.local.meta);
        match identity::look_at_tables(client, meta, &tables, Moment::Begin).await?.into_iter().next() {
            // The next pass sets it aside where it stands.
            Some((table, lost)) => {
                let message =
                    format!("{table} has changed while a pass is under way: {}", lost.reason(&table));
                Err(Error::new(Kind::Locked, message))
            }
            None => Ok(()),
        }
    }

    async fn disown(&mut self, table: &TableName) -> Result<()> {
        let (client, meta) = (self.local.session.client(), &self.local.meta);
        match identity::has_rows(client, table).await? {
            true => identity::disown(client, meta, table).await,
            false => Ok(()),
        }
    }

    async fn other_values(
        &mut self,
        table: &Table,
        columns: &[(usize, Option<String>)],
    ) -> Result<Option<usize>> {
        older::other_values(self.local.session.client(), table, columns).await
    }

    async fn as_ours(&mut self, statement: String) -> Result<String> {
        writers::as_ours(self.local.session.client(), &self.local.meta, statement).await
    }

    async fn write(&mut self, batch: &Prepared) -> Result<Outcome> {
        let session = &self.local.session;
        if !self.writer.foreign_keys_act(batch) {
            return self.writer.apply(session, batch).await;
        }
        let before = self.watch.count(session.client()).await?;
        let outcome = self.writer.apply(session, batch).await?;
        self.touched.extend(self.watch.changed(session.client(), &before).await?);
        Ok(outcome)
    }

    async fn check(&mut self, written: &[&Table]) -> Result<Option<Violation>> {
        if let Some(violation) = self.acting(written) {
            return Ok(Some(violation));
        }
        if let Some((table, rule)) = written.iter().find_map(|table| self.rules.get_key_value(&table.name)) {
            return Ok(Some(Violation {
                table: table.clone(),
                sqlstate: None,
                reason: rule.what(table),
                remedy: Some(format!("run: {}", rule.remedy())),
                server_words: None,
            }));
        }
        let client = self.local.session.client();
        for table in written {
            match self.writer.duplicates(client, table).await {
                Ok(false) => {}
                Ok(true) => {
                    return Ok(Some(Violation {
                        table: table.name.clone(),
                        sqlstate: Some("23505".into()),
                        reason: "two rows have the same value in a deferrable unique constraint".into(),
                        remedy: None,
                        server_words: None,
                    }));
                }
                Err(error) if is_no_fault_of_a_record(&error) => return Err(error),
                Err(error) => return Ok(Some(violation(table.name.clone(), &error))),
            }
        }
        let watched = self.writer.watched.as_ref();
        if self.local.replica && watched.is_none() {
            return Ok(None);
        }
        let before = match watched {
            Some(watched) => watched.count(client).await?,
            None => Counts::new(),
        };
        let immediate = client.batch_execute("SET CONSTRAINTS ALL IMMEDIATE").await;
        let Err(error) = immediate.map_err(|error| failure("checking deferred constraints", error)) else {
            return Ok(match watched {
                Some(watched) => watched.after_deferred(client, &before, written).await?.map(of_deferred),
                None => None,
            });
        };
        match blamed(&error, written) {
            Some(table) => Ok(Some(violation(table, &error))),
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

/// A deferred trigger that was reached from the table has changed rows that nobody wrote.
fn of_deferred((changed, table, rule): (TableName, &TableName, &Rule)) -> Violation {
    Violation {
        table: table.clone(),
        sqlstate: None,
        reason: format!("{}: more rows of {changed} have changed than were written", rule.what(table)),
        remedy: Some(format!("run: {}", rule.remedy())),
        server_words: None,
    }
}

fn violation(table: TableName, error: &Error) -> Violation {
    let sqlstate = db_error(error).map(|error| error.code().code().to_owned());
    Violation { table, sqlstate, reason: error.one_line(), remedy: None, server_words: server_words(error) }
}

/// The table whose constraint it is. Where that has taken nothing, one that it refers to has lost a row.
fn blamed(error: &Error, written: &[&Table]) -> Option<TableName> {
    let error = db_error(error)?;
    let violated = TableName::new(error.schema()?, error.table()?).ok()?;
    let own = written.iter().find(|table| table.name == violated);
    let referenced = || written.iter().find(|table| table.referenced_by.contains(&violated));
    own.or_else(referenced).map(|table| table.name.clone())
}
