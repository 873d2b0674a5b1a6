//! Which local tables there are of those names.

use std::collections::BTreeMap;

use syncdata_formats::error::Result;
use syncdata_formats::name::TableName;
use syncdata_service::postgres::ServerContext as _;
use tokio_postgres::GenericClient;

/// Of each table that is there: its number, its leaves, and whether a crash of the server may empty some of it.
const FOUND: &str = "
SELECT wanted.name, c.oid, ARRAY(SELECT relid::oid FROM pg_partition_tree(c.oid) WHERE isleaf AND c.relkind = 'p' ORDER BY 1),
    c.relkind = 'r' AND c.relpersistence = 'u' OR EXISTS (
        SELECT FROM pg_partition_tree(c.oid) t JOIN pg_class l ON l.oid = t.relid
        WHERE t.isleaf AND l.relpersistence = 'u')
FROM unnest($1::text[], $2::text[], $3::text[]) AS wanted(name, schema, relation)
JOIN pg_namespace n ON n.nspname = wanted.schema
JOIN pg_class c ON c.relnamespace = n.oid AND c.relname = wanted.relation
WHERE c.relkind IN ('r', 'p') AND c.relpersistence <> 't'";

/// A local table that is there.
#[derive(Debug)]
pub(super) struct Found {
    pub oid: u32,
    pub parts: Vec<u32>,
    pub is_unlogged: bool,
}

impl Found {
    /// Some row would be in both.
    pub(super) fn overlaps(&self, other: &Found) -> bool {
        let is_part = |found: &Found, oid: &u32| found.oid == *oid || found.parts.contains(oid);
        is_part(self, &other.oid) || other.parts.iter().any(|part| is_part(self, part))
    }
}

/// Those of the tables that are there, by their names.
pub(super) async fn found(
    client: &impl GenericClient,
    tables: &[&TableName],
) -> Result<BTreeMap<String, Found>> {
    let names: Vec<String> = tables.iter().map(ToString::to_string).collect();
    let schemas: Vec<&str> = tables.iter().map(|table| table.schema()).collect();
    let relations: Vec<&str> = tables.iter().map(|table| table.name()).collect();
    let rows = client.query(FOUND, &[&names, &schemas, &relations]).await;
    let rows = rows.context(|| "looking for the local tables".to_owned())?;
    let found =
        |row: &tokio_postgres::Row| Found { oid: row.get(1), parts: row.get(2), is_unlogged: row.get(3) };
    Ok(rows.iter().map(|row| (row.get(0), found(row))).collect())
}
