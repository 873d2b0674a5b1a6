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
SELECT pg_catalog.pg_stat_get_xact_tuples_inserted(t), pg_catalog.pg_stat_get_xact_tuples_updated(t),
    pg_catalog.pg_stat_get_xact_tuples_deleted(t)
FROM unnest($1::oid[]) WITH ORDINALITY AS u(t, place) ORDER BY place";

/// How many rows of a table have changed. Kept apart: a row that moves into another partition is one that comes and one that
/// goes, and what a trigger does must not pass for that.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Changed {
    inserted: i64,
    updated: i64,
    deleted: i64,
}

impl Changed {
    pub(super) fn inserted(rows: u64) -> Changed {
        Changed { inserted: signed(rows), ..Changed::default() }
    }

    pub(super) fn updated(rows: u64) -> Changed {
        Changed { updated: signed(rows), ..Changed::default() }
    }

    pub(super) fn deleted(rows: u64) -> Changed {
        Changed { deleted: signed(rows), ..Changed::default() }
    }

    /// They have gone and come again.
    pub(super) fn replaced(rows: u64) -> Changed {
        Changed { inserted: signed(rows), updated: 0, deleted: signed(rows) }
    }

    pub(super) fn and(self, more: Changed) -> Changed {
        Changed {
            inserted: self.inserted + more.inserted,
            updated: self.updated + more.updated,
            deleted: self.deleted + more.deleted,
        }
    }

    fn since(self, before: Changed) -> Changed {
        Changed {
            inserted: self.inserted - before.inserted,
            updated: self.updated - before.updated,
            deleted: self.deleted - before.deleted,
        }
    }

    /// What is left when what was written is taken away. Updated rows may have moved into other partitions.
    fn is_more_than(self, written: Changed, is_partitioned: bool) -> bool {
        let left = self.since(written);
        match is_partitioned {
            true => left != Changed { inserted: left.deleted, updated: -left.deleted, deleted: left.deleted },
            // Nothing moves: only what a trigger does adds to all of them.
            false => left.inserted + left.updated + left.deleted != 0,
        }
    }
}

fn signed(rows: u64) -> i64 {
    i64::try_from(rows).unwrap_or(i64::MAX)
}

/// Of each table.
pub(crate) type Counts = BTreeMap<TableName, Changed>;

fn of(counts: &Counts, name: &TableName) -> Changed {
    counts.get(name).copied().unwrap_or_default()
}

/// See the module.
#[derive(Debug)]
pub(in crate::target::postgres) struct Watched {
    rules: BTreeMap<TableName, Rule>,
    names: Vec<TableName>,
    oids: Vec<u32>,
    /// Rows that our statements have changed in this try, and foreign keys for certain.
    written: Counts,
    /// Those with partitions.
    partitioned: BTreeSet<TableName>,
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
        Ok(Some(Watched { rules, names: tables, oids, written: Counts::new(), partitioned }))
    }

    pub(super) fn hit(&mut self, table: &TableName, rows: Changed) {
        let written = self.written.entry(table.clone()).or_default();
        *written = written.and(rows);
    }

    /// Whether new rows have to be told from those that were there: a row that comes may be one that moved.
    pub(super) fn tells_new_rows(&self, table: &TableName) -> bool {
        self.partitioned.contains(table)
    }

    /// Whether the table has such a trigger.
    pub(super) fn is_over(&self, table: &TableName) -> bool {
        self.rules.contains_key(table)
    }

    /// Before a try. `None`: the batch has nothing of tables with such triggers.
    pub(super) async fn begin(&mut self, client: &Client, prepared: &Prepared) -> Result<Option<Counts>> {
        self.written.clear();
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
        before: &Counts,
    ) -> Result<Option<Rejection>> {
        let now = self.count(client).await?;
        let is_other = |(name, count): &(&TableName, &Changed)| {
            count
                .since(of(before, name))
                .is_more_than(of(&self.written, name), self.partitioned.contains(*name))
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
        before: &Counts,
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
    pub(in crate::target::postgres) async fn count(&self, client: &Client) -> Result<Counts> {
        let rows = client.query(COUNTED, &[&self.oids]).await;
        let rows = rows.context(|| "counting rows that triggers may have changed".to_owned())?;
        let mut counts = Counts::new();
        for (name, row) in self.names.iter().zip(rows) {
            let of_part = Changed { inserted: row.get(0), updated: row.get(1), deleted: row.get(2) };
            let count = counts.entry(name.clone()).or_default();
            *count = count.and(of_part);
        }
        Ok(counts)
    }
}

/// Synced tables while some of them are written at once, and one of these has such a trigger: nothing changes in any of them but
/// what is told.
#[derive(Debug)]
pub(crate) struct Beside {
    watched: Watched,
    before: Counts,
    /// Of those that are written.
    written: Counts,
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
        Ok(Some(Beside { watched, before, written: Counts::new(), replica }))
    }

    pub(crate) async fn count(&self, client: &Client) -> Result<Counts> {
        self.watched.count(client).await
    }

    pub(crate) fn leave_out(&mut self, table: &TableName) {
        let all = self.watched.names.iter().cloned().zip(self.watched.oids.iter().copied());
        let kept = all.filter(|(name, _)| name != table);
        (self.watched.names, self.watched.oids) = kept.unzip();
    }

    /// So many rows of the table are changed on purpose.
    pub(crate) fn expect(&mut self, table: &TableName, inserted: u64, updated: u64, deleted: u64) {
        let told = Changed { inserted: signed(inserted), updated: signed(updated), deleted: signed(deleted) };
        let written = self.written.entry(table.clone()).or_default();
        *written = written.and(told);
    }

    /// What was rolled back since then is counted all the same.
    pub(crate) async fn forget_since(&mut self, client: &Client, before: &Counts) -> Result<()> {
        for (table, count) in self.count(client).await? {
            let tried = count.since(of(before, &table));
            let known = self.before.entry(table).or_default();
            *known = known.and(tried);
        }
        Ok(())
    }

    /// One in which more has changed, with the trigger that may have done that and its table.
    pub(crate) async fn changed(&self, client: &Client) -> Result<Option<(TableName, &TableName, &Rule)>> {
        if self.replica {
            let acting =
                client.batch_execute("SET CONSTRAINTS ALL IMMEDIATE; SET CONSTRAINTS ALL DEFERRED").await;
            acting.context(|| "waiting for deferred triggers".to_owned())?;
        }
        let now = self.watched.count(client).await?;
        let is_other = |(name, count): &(TableName, Changed)| {
            let is_partitioned = self.watched.partitioned.contains(name);
            count.since(of(&self.before, name)).is_more_than(of(&self.written, name), is_partitioned)
        };
        let changed = now.into_iter().find(is_other);
        let first = self.watched.rules.iter().next();
        Ok(changed.zip(first).map(|((changed, _), (table, rule))| (changed, table, rule)))
    }
}
