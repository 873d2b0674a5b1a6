//! Writes batches into the local tables, inside a transaction that somebody else opens and commits.
//!
//! ```text
//! batch ─▶ savepoint ─▶ truncates ─▶ steps, set by set ─▶ records in order ─▶ release
//!              ▲                          │ error
//!              └── again, that table in ◀─┘
//!                  a more patient way: COPY straight in → staged upsert → row by row → the record to blame
//! ```

mod actions;
pub(crate) mod altered;
pub(crate) mod computed;
mod param;
mod remedy;
mod row;
mod sending;
mod sql;
mod statements;
mod truncate;
mod watched;

use std::collections::{BTreeMap, BTreeSet};
use syncdata_service::postgres::ServerContext as _;

use futures_util::future::join_all;
use syncdata_formats::change::Op;
use syncdata_formats::error::{Error, Result};
use syncdata_formats::name::TableName;
use syncdata_service::postgres::{Session, db_error, parameter, server_words, sqlstate};
use tokio_postgres::error::SqlState;
use tokio_postgres::{Client, Statement};

pub(super) use self::actions::Actions;
use self::param::{ArrayParam, TextParam};
use self::remedy::Remedy;
use self::row::{Role, RowStatement};
pub(super) use self::sending::control;
use self::sending::{copy, freely};
pub(crate) use self::sql::FREE_PLANS;
use self::sql::Rows;
use self::statements::Statements;
pub(crate) use self::watched::Beside;
use self::watched::Changed;
pub(super) use self::watched::{Counts, Watched};
use crate::batch::{Cell, Record};
use crate::table::{Fit, Table};
use crate::target::postgres::step::{Body, Prepared, Step, StepKind};
pub use crate::target::{Oddities, Outcome, Rejection};

/// Statements in flight at once, row by row: enough to hide the round trips, few enough to bound memory.
const PIPELINE_RECORDS: usize = 256;

/// How patiently a table's rows are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Way {
    /// New rows are copied straight into the table.
    Direct,
    /// Every row may be there already.
    Staged,
    RowByRow,
}

/// Writes into one session's transactions.
#[derive(Debug)]
pub struct Writer {
    /// Foreign keys and ordinary triggers are off.
    replica: bool,
    statements: Statements,
    /// Temporary tables of this session, by what they are for as it was then.
    stages: Vec<(Fit, String)>,
    /// The tables as the statements were prepared for them.
    known: BTreeMap<TableName, Table>,
    /// Tables that have shown that their new rows may be there already.
    staged: BTreeSet<TableName>,
    /// Tables whose rows are those of the source, at whatever position.
    pub(super) synced: BTreeSet<TableName>,
    /// Tables in which rows may share a key for a moment, so that a new row cannot be written over one that is there; with
    /// the columns of that key.
    sharing: BTreeMap<TableName, Vec<usize>>,
    /// Triggers that come after what is written.
    pub(super) watched: Option<Watched>,
    /// Foreign keys, where they act.
    pub(super) actions: Option<Actions>,
}

/// A statement of one table failed.
struct Failed {
    /// `None`: a statement of no table in particular.
    table: Option<usize>,
    /// Its number in the batch.
    record: Option<usize>,
    /// The value that could not be read, if the server has said which one.
    value: Option<Cell>,
    error: Error,
}

impl From<Error> for Failed {
    fn from(error: Error) -> Failed {
        Failed { table: None, record: None, value: None, error }
    }
}

impl Writer {
    pub fn new(replica: bool) -> Writer {
        Writer {
            replica,
            statements: Statements::default(),
            stages: Vec::new(),
            known: BTreeMap::new(),
            staged: BTreeSet::new(),
            synced: BTreeSet::new(),
            sharing: BTreeMap::new(),
            watched: None,
            actions: None,
        }
    }

    /// A parameter has the type that its column had: a table that changed needs new statements.
    pub fn meet(&mut self, tables: &BTreeMap<TableName, Table>) {
        if self.known != *tables {
            self.statements.clear();
            self.known.clone_from(tables);
        }
    }

    /// At the start of every transaction.
    pub async fn begin(&self, client: &Client) -> Result<()> {
        let mut settings = sql::INDEX_PLANS.to_owned();
        if self.replica {
            settings.push_str("; SET LOCAL session_replication_role = replica");
        } else {
            settings.push_str("; SET CONSTRAINTS ALL DEFERRED");
        }
        client.batch_execute(&settings).await.context(|| "preparing the transaction".to_owned())?;
        Ok(())
    }

    /// Applies the whole batch or nothing.
    pub async fn apply(&mut self, session: &Session, prepared: &Prepared) -> Result<Outcome> {
        let client = session.client();
        if let Some(rejection) = self.blocked_truncate(prepared) {
            return Ok(Outcome::Rejected(rejection));
        }
        if let Some(rejection) = altered::look(client, prepared).await? {
            return Ok(Outcome::Rejected(rejection));
        }
        let sharing = prepared.batch.tables.iter().map(|table| &table.target);
        let sharing = sharing.filter(|target| target.key.by_image && !target.key.columns.is_empty());
        let sharing = sharing.map(|target| (target.table.name.clone(), target.key.columns.clone()));
        self.sharing.extend(sharing);
        let mut ways: Vec<Way> =
            prepared.batch.tables.iter().map(|table| self.first_way(&table.target)).collect();
        let foreign_keys_act = self.foreign_keys_act(prepared);
        if foreign_keys_act {
            ways.fill(Way::RowByRow);
        }
        self.listen(prepared, foreign_keys_act);
        loop {
            control(client, "SAVEPOINT syncdata_batch").await?;
            let before = match &mut self.watched {
                Some(watched) => watched.begin(client, prepared).await?,
                None => None,
            };
            let failed = match self.attempt(client, prepared, &ways).await {
                Ok(oddities) => {
                    if let (Some(watched), Some(before)) = (&self.watched, &before)
                        && let Some(rejection) = watched.look(client, prepared, before).await?
                    {
                        return Ok(Outcome::Rejected(rejection));
                    }
                    control(client, "RELEASE SAVEPOINT syncdata_batch").await?;
                    if let Some(rejection) = computed::look(client, prepared).await? {
                        return Ok(Outcome::Rejected(rejection));
                    }
                    return Ok(Outcome::Applied(named(prepared, &oddities)));
                }
                Err(failed) if is_no_fault_of_a_record(&failed.error) => return Err(failed.error),
                Err(failed) => failed,
            };
            control(client, "ROLLBACK TO SAVEPOINT syncdata_batch").await?;
            let Some(table) = failed.table else { return Err(failed.error) };
            // What is left of a set may have been in the record's way: only source order convicts.
            if let Some(record) = failed.record
                && self.is_patient(&ways, table, &failed.error)
            {
                let record = &prepared.batch.records[record];
                let remedy = remedy::of(client, &prepared.batch, record, &failed.error).await?;
                return Ok(Outcome::Rejected(rejection(prepared, record, &failed, remedy)));
            }
            self.be_patient(prepared, &mut ways, table, &failed.error);
        }
    }

    /// Before the commit: uniqueness that the replica role left unchecked.
    pub async fn duplicates(&self, client: &Client, table: &Table) -> Result<bool> {
        let shared = self.sharing.get(&table.name);
        if !self.replica && shared.is_none() {
            return Ok(false);
        }
        for index in table.deferrable_unique() {
            // Of a constraint that is none of the key nobody says that the source has it too.
            // Nor that rows are the source's one row, where only the collation or the type here calls their keys equal.
            let is_exact =
                !index.is_loose && index.columns.iter().all(|&column| !table.columns[column].may_merge());
            let is_sharing = is_exact
                && shared.is_some_and(|key| {
                    key.len() == index.columns.len()
                        && key.iter().all(|column| index.columns.contains(column))
                });
            let doing = || format!("looking for duplicates in {}", table.name);
            let look = sql::has_duplicates(table, &index.columns);
            let mut found: bool = client.query_one(&look, &[]).await.context(doing)?.get(0);
            // What goes unseen takes nothing along.
            let is_unseen = self.actions.is_some() && table.acts_on_delete
                || self.watched.as_ref().is_some_and(|watched| watched.is_over(&table.name));
            if found && is_sharing && !is_unseen {
                let gone = client.execute(&sql::give_way(table, &index.columns), &[]).await.context(doing)?;
                tracing::warn!(table = %table.name, rows = gone, "rows were there already and are replaced");
                found = client.query_one(&look, &[]).await.context(doing)?.get(0);
            }
            if found {
                return Ok(true);
            }
        }
        Ok(false)
    }

    fn first_way(&self, target: &Fit) -> Way {
        if self.staged.contains(&target.table.name) { Way::Staged } else { Way::Direct }
    }

    /// Everything that the record depends on was done in source order.
    fn is_patient(&self, ways: &[Way], table: usize, error: &Error) -> bool {
        let all = || ways.iter().all(|way| *way == Way::RowByRow);
        ways[table] == Way::RowByRow && (all() || !self.ties_tables(error))
    }

    /// Without the replica role foreign keys tie the tables together: only source order satisfies them.
    fn ties_tables(&self, error: &Error) -> bool {
        !self.replica && sqlstate(error) == Some(&SqlState::FOREIGN_KEY_VIOLATION)
    }

    /// Once a table's new rows were found there, its next ones will be too: a copy that is older than its data.
    fn be_patient(&mut self, prepared: &Prepared, ways: &mut [Way], table: usize, error: &Error) {
        let target = &prepared.batch.tables[table].target;
        let code = sqlstate(error);
        tracing::debug!(
            table = %target.table.name, sqlstate = code.map(SqlState::code), "the batch is tried more patiently"
        );
        let exists = code == Some(&SqlState::UNIQUE_VIOLATION);
        if self.ties_tables(error) {
            ways.fill(Way::RowByRow);
        } else if ways[table] == Way::Direct && target.key.arbiter && exists {
            ways[table] = Way::Staged;
            self.staged.insert(target.table.name.clone());
        } else {
            ways[table] = Way::RowByRow;
        }
    }

    async fn attempt(
        &mut self,
        client: &Client,
        prepared: &Prepared,
        ways: &[Way],
    ) -> Result<Vec<Oddities>, Failed> {
        let mut oddities = vec![Oddities::default(); ways.len()];
        self.truncate(client, prepared).await?;
        let mut in_order: Vec<u32> = Vec::new();
        for (table, work) in prepared.work.iter().enumerate() {
            if ways[table] == Way::RowByRow {
                in_order.extend(&prepared.batch.tables[table].records);
                continue;
            }
            in_order.extend(&work.in_order);
            let missing = self.steps(client, prepared, table, ways[table]).await.map_err(|error| Failed {
                table: Some(table),
                record: None,
                value: None,
                error,
            })?;
            oddities[table].missing += missing;
        }
        in_order.sort_unstable();
        self.rows(client, prepared, &in_order, &mut oddities).await?;
        Ok(oddities)
    }

    /// The steps of a table; how many rows they did not find.
    async fn steps(
        &mut self,
        client: &Client,
        prepared: &Prepared,
        table: usize,
        way: Way,
    ) -> Result<u64, Error> {
        let target = &prepared.batch.tables[table].target;
        let work = &prepared.work[table];
        let mut missing = work.missing;
        for step in &work.steps {
            let (hit, replaced, there) = self.step(client, target, step, way).await?;
            if let Some(watched) = &mut self.watched {
                let changed = match step.kind {
                    StepKind::Delete => Changed::deleted(hit),
                    StepKind::Update => Changed::updated(hit),
                    StepKind::Insert => {
                        // Of those that were there, some have gone and come again.
                        let overwritten = there.saturating_sub(replaced).min(hit);
                        Changed::updated(overwritten).and(Changed::inserted(hit - overwritten))
                    }
                };
                watched.hit(&target.table.name, changed.and(Changed::replaced(replaced)));
            }
            let hit = hit + replaced;
            missing += match step.kind {
                StepKind::Delete => work.expected_deletes.saturating_sub(hit),
                StepKind::Update => (step.rows as u64).saturating_sub(hit),
                StepKind::Insert => 0,
            };
        }
        Ok(missing)
    }

    /// How many rows it hit, how many it replaced, and onto how many that were there it wrote new ones, where that is asked.
    async fn step(
        &mut self,
        client: &Client,
        target: &Fit,
        step: &Step,
        way: Way,
    ) -> Result<(u64, u64, u64), Error> {
        let doing = || format!("writing into {}", target.table.name);
        let asks = step.kind == StepKind::Insert
            && sql::overwrites(target, &step.columns)
            && self.watched.as_ref().is_some_and(|watched| watched.tells_new_rows(&target.table.name));
        let replaces = |hit: u64| {
            hit < step.rows as u64 && target.key.arbiter && !target.fixed(&step.columns).is_empty()
        };
        match &step.body {
            Body::Arrays(arrays) => {
                let arrays = || arrays.iter().map(|array| ArrayParam(array.clone()));
                let mut there = 0;
                if asks {
                    let look = self.prepared(client, &sql::there(target, step, Rows::Arrays)).await?;
                    there = client.execute_raw(&look, arrays()).await.context(doing)?;
                }
                let statement = self.prepared(client, &sql::statement(target, step, Rows::Arrays)).await?;
                let hit = client.execute_raw(&statement, arrays()).await.context(doing)?;
                if !replaces(hit) {
                    return Ok((hit, 0, there));
                }
                let replace = self.prepared(client, &sql::replace(target, step, Rows::Arrays)).await?;
                Ok((hit, client.execute_raw(&replace, arrays()).await.context(doing)?, there))
            }
            Body::Copy(text)
                if step.kind == StepKind::Insert && (way == Way::Direct || !target.key.arbiter) =>
            {
                let hit = copy(client, &sql::copy_to_table(&target.table, step), text).await;
                Ok((hit.context(doing)?, 0, 0))
            }
            Body::Copy(text) => {
                let stage = self.stage(client, target).await?;
                copy(client, &sql::copy_to_stage(&stage, step), text).await.context(doing)?;
                let staged = Rows::Staged(&stage);
                let mut there = 0;
                if asks {
                    there = freely(client, &sql::there(target, step, staged)).await.context(doing)?;
                }
                let hit = freely(client, &sql::statement(target, step, staged)).await.context(doing)?;
                if !replaces(hit) {
                    return Ok((hit, 0, there));
                }
                Ok((hit, freely(client, &sql::replace(target, step, staged)).await.context(doing)?, there))
            }
        }
    }

    /// The empty temporary table for the rows of that one.
    async fn stage(&mut self, client: &Client, target: &Fit) -> Result<String, Error> {
        let known = self.stages.iter().find(|(known, _)| known == target);
        let name = match known {
            Some((_, name)) => name.clone(),
            None => {
                let name = sql::stage_name(target);
                self.stages.push((target.clone(), name.clone()));
                name
            }
        };
        // Made again each time: a rollback takes it away.
        let doing = || format!("making room for rows of {}", target.table.name);
        client.batch_execute(&sql::stage(&name, target)).await.context(doing)?;
        Ok(name)
    }

    async fn rows(
        &mut self,
        client: &Client,
        prepared: &Prepared,
        records: &[u32],
        oddities: &mut [Oddities],
    ) -> Result<(), Failed> {
        for records in records.chunks(PIPELINE_RECORDS) {
            let mut pipeline = Vec::new();
            for &index in records {
                let record = &prepared.batch.records[index as usize];
                if self.listen_to(&prepared.batch, record) {
                    self.send(client, prepared, &std::mem::take(&mut pipeline), oddities).await?;
                    self.foresee(client, prepared, index).await?;
                }
                let name = &prepared.batch.tables[record.table].target.table.name;
                let tells = self.watched.as_ref().is_some_and(|watched| watched.tells_new_rows(name));
                for statement in row::statements(&prepared.batch, record, tells) {
                    let of_record = |error| Failed::of(prepared, index, error);
                    let parsed = self.prepared(client, &statement.sql).await.map_err(of_record)?;
                    pipeline.push((index, statement, parsed));
                }
            }
            self.send(client, prepared, &pipeline, oddities).await?;
        }
        Ok(())
    }

    /// Statements of records, all at once.
    async fn send(
        &mut self,
        client: &Client,
        prepared: &Prepared,
        pipeline: &[(u32, RowStatement, Statement)],
        oddities: &mut [Oddities],
    ) -> Result<(), Failed> {
        let sent = pipeline.iter().map(|(_, statement, parsed)| {
            let values = statement.values.iter().map(|&cell| TextParam(prepared.batch.value(cell)));
            client.execute_raw(parsed, values)
        });
        let answers = join_all(sent).await;
        let mut there = None;
        for ((index, statement, _), answer) in pipeline.iter().zip(answers) {
            let table = prepared.batch.records[*index as usize].table;
            let name = &prepared.batch.tables[table].target.table.name;
            let hit = answer.context(|| format!("writing into {name}")).map_err(|error| {
                let value = parameter(&error).and_then(|number| statement.values.get(number - 1)).copied();
                Failed { value, ..Failed::of(prepared, *index, error) }
            })?;
            if let Some(watched) = &mut self.watched {
                watched.hit(name, statement.changes(hit, there.take()));
            }
            if statement.says_what_is_there() {
                there = Some(hit);
            }
            count(&mut oddities[table], statement, hit);
        }
        Ok(())
    }

    async fn prepared(&mut self, client: &Client, sql: &str) -> Result<Statement, Error> {
        if let Some(statement) = self.statements.get(sql) {
            return Ok(statement);
        }
        let statement = client.prepare(sql).await.context(|| "preparing a statement".to_owned())?;
        self.statements.keep(sql, &statement);
        Ok(statement)
    }
}

impl Failed {
    fn of(prepared: &Prepared, record: u32, error: Error) -> Failed {
        let record = record as usize;
        Failed { table: Some(prepared.batch.records[record].table), record: Some(record), value: None, error }
    }
}

fn count(oddities: &mut Oddities, statement: &RowStatement, hit: u64) {
    match statement.role {
        Role::Exactly if hit == 0 => oddities.missing += 1,
        Role::Nothing => oddities.replaced += hit,
        Role::Exactly | Role::Any => {}
    }
}

fn rejection(prepared: &Prepared, record: &Record, failed: &Failed, remedy: Option<Remedy>) -> Rejection {
    let (remedy, in_doubt) = remedy.map_or((None, false), |(remedy, in_doubt)| (Some(remedy), in_doubt));
    let error = &failed.error;
    let column = failed.value.and_then(|value| prepared.batch.column_of(record, value));
    let column = column.map_or(String::new(), |column| format!(", column {}", column.sql()));
    // What is said of a TRUNCATE quotes no row: it has none.
    let message = db_error(error).filter(|_| record.op == Op::Truncate).map(|error| error.message());
    let said = message.map_or(String::new(), |message| format!(": {message}"));
    Rejection {
        table: prepared.batch.tables[record.table].target.table.name.clone(),
        place: record.place,
        sqlstate: db_error(error).map(|error| error.code().code().to_owned()),
        reason: format!("{}{column}{said}", error.one_line()),
        remedy,
        server_words: server_words(error),
        in_doubt,
    }
}

fn named(prepared: &Prepared, oddities: &[Oddities]) -> BTreeMap<TableName, Oddities> {
    let tables = prepared.batch.tables.iter().zip(oddities);
    tables.map(|(table, oddities)| (table.target.table.name.clone(), *oddities)).collect()
}

/// Server, network, disk: trying again may help, looking for a record to blame does not.
pub(crate) fn is_no_fault_of_a_record(error: &Error) -> bool {
    let Some(error) = db_error(error) else { return true };
    let code = error.code().code();
    let class = code.get(..2).unwrap_or_default();
    // An internal error, a damaged or a missing file are those of a table, or of what hangs on it.
    matches!(class, "08" | "40" | "53" | "57" | "58" | "25" | "3B") && code != "58P01"
        || code == "55P03"
        || code == "55006"
}
