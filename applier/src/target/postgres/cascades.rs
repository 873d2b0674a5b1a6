//! Where the replica role is not to be had, foreign keys of the copy act on what is written: a DELETE here takes rows
//! there. In a table that takes no changes of its own at the same time that is not what the source did: how many rows have
//! changed shows it. What it is in others is asked row by row (`apply/actions`).

use std::collections::{BTreeMap, BTreeSet};

use syncdata_formats::error::{Error, Kind, Result};
use syncdata_formats::name::TableName;
use syncdata_service::postgres::ServerContext as _;
use tokio_postgres::Client;

// With their leaves, whose rows they are. A table that only refers, without an action, is refused instead.
const REFERRING: &str = "
WITH wanted AS (
    SELECT w.name, c.oid FROM unnest($1::text[], $2::text[], $3::text[]) AS w(name, schema, relation)
    JOIN pg_catalog.pg_namespace n ON n.nspname = w.schema
    JOIN pg_catalog.pg_class c ON c.relnamespace = n.oid AND c.relname = w.relation
)
SELECT w.name, coalesce(t.relid::oid, w.oid) FROM wanted w
LEFT JOIN LATERAL (SELECT relid FROM pg_catalog.pg_partition_tree(w.oid) WHERE isleaf) t ON true
WHERE EXISTS (
    SELECT FROM pg_catalog.pg_constraint f WHERE f.contype = 'f' AND f.conrelid = w.oid
    AND (f.confdeltype IN ('c', 'n', 'd') OR f.confupdtype IN ('c', 'n', 'd')))";

const COUNTED: &str = "
SELECT pg_catalog.pg_stat_get_xact_tuples_deleted(t) + pg_catalog.pg_stat_get_xact_tuples_updated(t)
FROM unnest($1::oid[]) WITH ORDINALITY AS u(t, place) ORDER BY place";

/// Rows that changed in the tables on which a foreign key acts.
#[derive(Clone, Debug, Default)]
pub struct Watch {
    names: Vec<TableName>,
    oids: Vec<u32>,
}

/// A server that counts nothing would say that nothing had changed.
pub(super) async fn is_counting(client: &Client) -> Result<()> {
    const COUNTS: &str = "SELECT pg_catalog.current_setting('track_counts')::bool, \
        pg_catalog.quote_ident(pg_catalog.current_database()), pg_catalog.quote_ident(CURRENT_USER)";
    let row = client.query_one(COUNTS, &[]).await;
    let row = row.context(|| "asking whether the server counts changed rows".to_owned())?;
    let (counts, database, role): (bool, &str, &str) = (row.get(0), row.get(1), row.get(2));
    if counts {
        return Ok(());
    }
    let message = "track_counts is off here: what foreign keys and triggers of the copy change beside what is applied would go unnoticed";
    Err(Error::new(Kind::BadInput, message).hint(format!(
        "nothing was applied; run as superuser: ALTER ROLE {role} IN DATABASE {database} SET track_counts = on"
    )))
}

impl Watch {
    pub fn tables(&self) -> BTreeSet<TableName> {
        self.names.iter().cloned().collect()
    }

    /// Over those of the tables that others act on.
    pub async fn over(client: &Client, tables: &BTreeSet<TableName>) -> Result<Watch> {
        let names: Vec<String> = tables.iter().map(ToString::to_string).collect();
        let schemas: Vec<&str> = tables.iter().map(TableName::schema).collect();
        let relations: Vec<&str> = tables.iter().map(TableName::name).collect();
        let rows = client.query(REFERRING, &[&names, &schemas, &relations]).await;
        let mut watch = Watch::default();
        for row in rows.context(|| "looking for tables on which foreign keys act".to_owned())? {
            watch.names.push(row.get::<_, &str>(0).parse()?);
            watch.oids.push(row.get(1));
        }
        if !watch.oids.is_empty() {
            is_counting(client).await?;
        }
        Ok(watch)
    }

    /// How many of their rows this session has changed so far.
    pub async fn count(&self, client: &Client) -> Result<BTreeMap<TableName, i64>> {
        let mut counts = BTreeMap::new();
        if self.oids.is_empty() {
            return Ok(counts);
        }
        let rows = client.query(COUNTED, &[&self.oids]).await;
        let rows = rows.context(|| "counting rows that foreign keys changed".to_owned())?;
        for (name, row) in self.names.iter().zip(rows) {
            *counts.entry(name.clone()).or_insert(0) += row.get::<_, i64>(0);
        }
        Ok(counts)
    }

    /// The tables whose rows have changed since those counts.
    pub async fn changed(
        &self,
        client: &Client,
        before: &BTreeMap<TableName, i64>,
    ) -> Result<BTreeSet<TableName>> {
        let now = self.count(client).await?;
        Ok(now
            .into_iter()
            .filter(|(name, count)| before.get(name) != Some(count))
            .map(|(name, _)| name)
            .collect())
    }
}
