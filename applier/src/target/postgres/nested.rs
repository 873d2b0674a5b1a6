//! Synced tables that are partitions of other synced ones here alone. Production keeps them apart: what one of them has is
//! not the other's.

use std::collections::BTreeMap;

use syncdata_formats::error::Result;
use syncdata_formats::name::TableName;
use syncdata_service::postgres::ServerContext as _;
use tokio_postgres::GenericClient;

use crate::target::postgres::lost::Lost;
use crate::target::postgres::meta::MetaSchema;

const NESTED: &str = "
WITH synced AS MATERIALIZED (
    SELECT c.oid FROM unnest($1::text[], $2::text[]) AS wanted(schema, relation)
    JOIN pg_catalog.pg_namespace n ON n.nspname = wanted.schema
    JOIN pg_catalog.pg_class c ON c.relnamespace = n.oid AND c.relname = wanted.relation
)
SELECT part.oid, whole.relid::oid, pg_catalog.quote_ident(n.nspname) || '.' || pg_catalog.quote_ident(c.relname),
    pg_catalog.quote_ident(pn.nspname) || '.' || pg_catalog.quote_ident(p.relname),
    pg_catalog.quote_ident(wn.nspname) || '.' || pg_catalog.quote_ident(w.relname)
FROM synced part
JOIN pg_catalog.pg_class c ON c.oid = part.oid AND c.relispartition JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
CROSS JOIN LATERAL pg_catalog.pg_partition_ancestors(part.oid) AS whole
JOIN pg_catalog.pg_class w ON w.oid = whole.relid JOIN pg_catalog.pg_namespace wn ON wn.oid = w.relnamespace
JOIN pg_catalog.pg_inherits i ON i.inhrelid = part.oid
JOIN pg_catalog.pg_class p ON p.oid = i.inhparent JOIN pg_catalog.pg_namespace pn ON pn.oid = p.relnamespace
WHERE whole.relid <> part.oid AND whole.relid IN (SELECT oid FROM synced)
ORDER BY 1, 2";

/// By their numbers: those of the tables of the whitelist that are a part of another one, or have one. Where there may be rows
/// (`has_position`) or anywhere.
pub(super) async fn of(
    client: &impl GenericClient,
    meta: &MetaSchema,
    has_position: bool,
) -> Result<BTreeMap<u32, Lost>> {
    let doing = || "looking for synced tables that are parts of each other".to_owned();
    let select = format!(
        "SELECT w.table_name FROM {meta}.tables_to_sync w LEFT JOIN {meta}.data_sync_table_state s USING (table_name) \
         WHERE s.position_lsn IS NOT NULL OR NOT $1"
    );
    let rows = client.query(&select, &[&has_position]).await.context(doing)?;
    // A line that is no name was written by hand, and is none of ours.
    let tables: Vec<TableName> = rows.iter().filter_map(|row| row.get::<_, &str>(0).parse().ok()).collect();
    let (schemas, names): (Vec<&str>, Vec<&str>) =
        tables.iter().map(|table| (table.schema(), table.name())).unzip();
    let mut nested = BTreeMap::new();
    for row in client.query(NESTED, &[&schemas, &names]).await.context(doing)? {
        let lost = Lost::Nested { part: row.get(2), parent: row.get(3), whole: row.get(4) };
        for oid in [0, 1] {
            nested.entry(row.get(oid)).or_insert_with(|| lost.clone());
        }
    }
    Ok(nested)
}
