//! Triggers that come after what is written and were told to act on it (ENABLE ALWAYS), and those of tables to which foreign keys
//! lead. What they do beside the synced tables is their owner's business. That they change nothing in those shows in how many rows
//! have changed.

use std::collections::{BTreeMap, BTreeSet};

use syncdata_formats::error::Result;
use syncdata_formats::name::TableName;
use syncdata_service::postgres::ServerContext as _;
use tokio_postgres::Client;

use crate::batch::BatchTable;
use crate::table::Table;
use crate::target::postgres::rules::Rule;
use crate::target::{Rejection, postgres::cascades};

use super::Prepared;

/// The tables and their partitions.
const PARTS: &str = "
SELECT w.name, coalesce(t.relid::oid, c.oid), c.relkind = 'p' FROM unnest($1::text[], $2::text[], $3::text[]) AS w(name, schema, relation)
JOIN pg_catalog.pg_namespace n ON n.nspname = w.schema
JOIN pg_catalog.pg_class c ON c.relnamespace = n.oid AND c.relname = w.relation
LEFT JOIN LATERAL (SELECT relid FROM pg_catalog.pg_partition_tree(c.oid) WHERE isleaf) t ON true";

const COUNTED: &str = "
SELECT pg_catalog.pg_stat_get_xact_tuples_inserted(t) + pg_catalog.pg_stat_get_xact_tuples_updated(t)
    + pg_catalog.pg_stat_get_xact_tuples_deleted(t)
FROM unnest($1::oid[]) WITH ORDINALITY AS u(t, place) ORDER BY place";

/// See the module.
#[derive(Debug)]
pub(in crate::target::postgres) struct Watched {
    rules: BTreeMap<TableName, Rule>,
    names: Vec<TableName>,
    oids: Vec<u32>,
    /// Rows that our statements have changed in this try.
    hits: BTreeMap<TableName, i64>,
    /// How many of them may have moved into another partition, which counts as two.
    may_move: BTreeMap<TableName, i64>,
    /// Tables of which nobody can say how many.
    unsure: BTreeSet<TableName>,
    /// Those with partitions.
    partitioned: BTreeSet<TableName>,
    /// To all of the triggers only foreign keys lead.
    is_led: bool,
}

impl Watched {
    /// `None`: there is no such trigger.
    pub(in crate::target::postgres) async fn over(
        client: &Client,
        rules: BTreeMap<TableName, Rule>,
        synced: &BTreeSet<TableName>,
    ) -> Result<Option<Watched>> {
        if rules.is_empty() {
            return Ok(None);
        }
        cascades::is_counting(client).await?;
        let is_led = rules.values().all(Rule::is_led);
        let names: Vec<String> = synced.iter().map(ToString::to_string).collect();
        let schemas: Vec<&str> = synced.iter().map(TableName::schema).collect();
        let relations: Vec<&str> = synced.iter().map(TableName::name).collect();
        let (mut tables, mut oids, mut partitioned) = (Vec::new(), Vec::new(), BTreeSet::new());
        let rows = client.query(PARTS, &[&names, &schemas, &relations]).await;
        for row in rows.context(|| "looking for what triggers may change".to_owned())? {
            let table: TableName = row.get::<_, &str>(0).parse()?;
            if row.get(2) {
                partitioned.insert(table.clone());
            }
            tables.push(table);
            oids.push(row.get(1));
        }
        let (hits, may_move, unsure) = (BTreeMap::new(), BTreeMap::new(), BTreeSet::new());
        Ok(Some(Watched { rules, names: tables, oids, hits, may_move, unsure, partitioned, is_led }))
    }

    pub(super) fn hit(&mut self, table: &TableName, rows: u64) {
        *self.hits.entry(table.clone()).or_default() += i64::try_from(rows).unwrap_or(i64::MAX);
    }

    /// Of those that were hit, so many were updated.
    pub(super) fn may_move(&mut self, table: &TableName, rows: u64) {
        if self.partitioned.contains(table) {
            *self.may_move.entry(table.clone()).or_default() += i64::try_from(rows).unwrap_or(i64::MAX);
        }
    }

    pub(super) fn be_unsure(&mut self, table: &TableName) {
        self.unsure.insert(table.clone());
    }

    /// Whether the table has such a trigger.
    pub(super) fn is_over(&self, table: &TableName) -> bool {
        self.rules.contains_key(table)
    }

    /// Before a try. `None`: the batch has nothing of tables with such triggers.
    pub(super) async fn begin(
        &mut self,
        client: &Client,
        prepared: &Prepared,
    ) -> Result<Option<BTreeMap<TableName, i64>>> {
        self.hits.clear();
        self.may_move.clear();
        self.unsure.clear();
        match self.to_blame(prepared, None) {
            Some(_) => self.count(client).await.map(Some),
            None => Ok(None),
        }
    }

    /// After it, before its savepoint is released: a TRUNCATE in it takes back then what was counted before. The table whose
    /// trigger has changed more than what was written.
    pub(super) async fn look(
        &self,
        client: &Client,
        prepared: &Prepared,
        before: &BTreeMap<TableName, i64>,
    ) -> Result<Option<Rejection>> {
        let now = self.count(client).await?;
        let of = |counts: &BTreeMap<TableName, i64>, name: &TableName| counts.get(name).copied().unwrap_or(0);
        let is_other = |(name, count): &(&TableName, &i64)| {
            // What foreign keys do to a row twice is theirs, where nothing but they leads to a trigger.
            if self.unsure.contains(*name) {
                return !self.is_led;
            }
            let unsaid = **count - of(before, name) - of(&self.hits, name);
            !(0..=of(&self.may_move, name)).contains(&unsaid)
        };
        let Some((changed, _)) = now.iter().find(is_other) else { return Ok(None) };
        let Some((table, rule)) = self.to_blame(prepared, Some(changed)) else { return Ok(None) };
        let of_table = prepared.batch.tables.iter().find(|of| of.target.table.name == *table);
        let first = of_table.and_then(|of| of.records.first().or(of.truncated.as_ref()));
        let first = first.expect("it has records in the batch, or is emptied by it");
        Ok(Some(Rejection {
            table: table.clone(),
            place: prepared.batch.records[*first as usize].place,
            sqlstate: None,
            reason: format!("{}: more rows of {changed} have changed than were written", rule.what(table)),
            remedy: Some(format!("run: {}", rule.remedy())),
            server_words: None,
            in_doubt: false,
        }))
    }

    /// Triggers that are deferred act now. The table of which they have changed rows, and the written one with its trigger.
    pub(in crate::target::postgres) async fn after_deferred(
        &self,
        client: &Client,
        before: &BTreeMap<TableName, i64>,
        written: &[&Table],
    ) -> Result<Option<(TableName, &TableName, &Rule)>> {
        let now = self.count(client).await?;
        let changed = now.into_iter().find(|(name, count)| before.get(name) != Some(count));
        let of_written = written.iter().find_map(|table| self.rules.get_key_value(&table.name));
        Ok(changed.zip(of_written).map(|((changed, _), (table, rule))| (changed, table, rule)))
    }

    /// A table of the batch with such a trigger: that one, where it has some.
    fn to_blame<'a>(
        &'a self,
        prepared: &Prepared,
        changed: Option<&TableName>,
    ) -> Option<(&'a TableName, &'a Rule)> {
        let is_written = |table: &&BatchTable| !table.records.is_empty() || table.truncated.is_some();
        let mut names = prepared.batch.tables.iter().filter(is_written);
        let own = changed.filter(|changed| names.clone().any(|table| table.target.table.name == **changed));
        own.and_then(|own| self.rules.get_key_value(own))
            .or_else(|| names.find_map(|table| self.rules.get_key_value(&table.target.table.name)))
    }

    /// How many rows of each this session has changed so far.
    pub(in crate::target::postgres) async fn count(
        &self,
        client: &Client,
    ) -> Result<BTreeMap<TableName, i64>> {
        let rows = client.query(COUNTED, &[&self.oids]).await;
        let rows = rows.context(|| "counting rows that triggers may have changed".to_owned())?;
        let mut counts = BTreeMap::new();
        for (name, row) in self.names.iter().zip(rows) {
            *counts.entry(name.clone()).or_insert(0) += row.get::<_, i64>(0);
        }
        Ok(counts)
    }
}

/// Synced tables beside those that are written at once, while one of these has such a trigger.
#[derive(Debug)]
pub(crate) struct Beside {
    watched: Watched,
    before: BTreeMap<TableName, i64>,
    /// Foreign keys are off: deferred triggers can act at any time.
    replica: bool,
}

impl Beside {
    /// `None`: there is no such trigger.
    pub(in crate::target::postgres) async fn of(
        client: &Client,
        rules: BTreeMap<TableName, Rule>,
        others: &BTreeSet<TableName>,
        replica: bool,
    ) -> Result<Option<Beside>> {
        let Some(watched) = Watched::over(client, rules, others).await? else {
            return Ok(None);
        };
        let before = watched.count(client).await?;
        Ok(Some(Beside { watched, before, replica }))
    }

    /// One that has changed, with the trigger that may have done that and its table.
    pub(crate) async fn changed(&self, client: &Client) -> Result<Option<(TableName, &TableName, &Rule)>> {
        if self.replica {
            let acting =
                client.batch_execute("SET CONSTRAINTS ALL IMMEDIATE; SET CONSTRAINTS ALL DEFERRED").await;
            acting.context(|| "waiting for deferred triggers".to_owned())?;
        }
        let now = self.watched.count(client).await?;
        let changed = now.into_iter().find(|(name, count)| self.before.get(name) != Some(count));
        let first = self.watched.rules.iter().next();
        Ok(changed.zip(first).map(|((changed, _), (table, rule))| (changed, table, rule)))
    }
}
