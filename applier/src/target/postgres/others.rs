//! Other appliers in this database, with tables of their own in another schema. Two that write into the same table would
//! each go on from a position that says nothing of what the other one does.

use std::collections::BTreeSet;
use std::sync::{Mutex, PoisonError};

use syncdata_formats::error::Result;
use syncdata_formats::name::TableName;
use syncdata_formats::printed::identifier;
use syncdata_service::postgres::ServerContext as _;
use tokio_postgres::GenericClient;

use crate::target::postgres::found::{Found, found};
use crate::target::postgres::meta::MetaSchema;

/// Where somebody keeps such tables: with the view, which a copy of the tables does not have.
const SCHEMAS: &str = "
SELECT n.nspname::text, bool_and(
    pg_catalog.has_schema_privilege(n.oid, 'USAGE') AND (c.relkind = 'v' OR pg_catalog.has_table_privilege(c.oid, 'SELECT')))
FROM pg_catalog.pg_namespace n JOIN pg_catalog.pg_class c ON c.relnamespace = n.oid
WHERE n.nspname <> $1 AND (c.relname IN ('data_sync_table_state', 'tables_to_sync') AND c.relkind = 'r'
    OR c.relname = 'data_sync_freshness' AND c.relkind = 'v')
GROUP BY n.nspname HAVING count(*) = 3 ORDER BY 1";

/// A table that has rows of another applier.
#[derive(Debug)]
pub(super) struct Claimed {
    pub schema: String,
    pub found: Found,
}

/// All of them that this role may read.
pub(super) async fn claimed(client: &impl GenericClient, meta: &MetaSchema) -> Result<Vec<Claimed>> {
    let doing = || "looking for other appliers in this database".to_owned();
    let mut claimed = Vec::new();
    for row in client.query(SCHEMAS, &[&meta.name()]).await.context(doing)? {
        let (schema, is_readable): (&str, bool) = (row.get(0), row.get(1));
        if !is_readable {
            warn_once(schema);
            continue;
        }
        let other = MetaSchema::new(schema);
        let select = format!(
            "SELECT w.table_name FROM {other}.tables_to_sync w JOIN {other}.data_sync_table_state s USING (table_name) \
             WHERE s.position_lsn IS NOT NULL"
        );
        let rows = client.query(&select, &[]).await.context(doing)?;
        // A line that is no name was written by hand, and is none of ours.
        let tables: Vec<TableName> =
            rows.iter().filter_map(|row| row.get::<_, &str>(0).parse().ok()).collect();
        let of_it = found(client, &tables.iter().collect::<Vec<_>>()).await?;
        claimed.extend(of_it.into_values().map(|found| Claimed { schema: schema.to_owned(), found }));
    }
    Ok(claimed)
}

/// Schemas with tables of other appliers that this role may not read, each with the statement that lets it.
pub(crate) async fn unreadable(
    client: &impl GenericClient,
    meta: &MetaSchema,
) -> Result<Vec<(String, String)>> {
    let doing = || "looking for other appliers in this database".to_owned();
    let row = client.query_one("SELECT current_user::text", &[]).await.context(doing)?;
    let user = identifier(row.get(0));
    let rows = client.query(SCHEMAS, &[&meta.name()]).await.context(doing)?;
    let unreadable = rows.iter().filter(|row| !row.get::<_, bool>(1)).map(|row| {
        let schema: &str = row.get(0);
        let name = identifier(schema);
        let grant = format!(
            "GRANT USAGE ON SCHEMA {name} TO {user}; GRANT SELECT ON {name}.tables_to_sync, {name}.data_sync_table_state \
             TO {user};"
        );
        (schema.to_owned(), grant)
    });
    Ok(unreadable.collect())
}

/// Passes come every minute.
fn warn_once(schema: &str) {
    static WARNED: Mutex<BTreeSet<String>> = Mutex::new(BTreeSet::new());
    if WARNED.lock().unwrap_or_else(PoisonError::into_inner).insert(schema.to_owned()) {
        tracing::warn!(
            schema,
            "another applier has its tables there, which this role may not read: whether both write into one table is not \
             seen; syncdata-applier check prints the GRANT"
        );
    }
}

/// The schema of another applier that has rows in that table.
pub(crate) async fn of(
    client: &impl GenericClient,
    meta: &MetaSchema,
    table: &TableName,
) -> Result<Option<String>> {
    let Some(own) = found(client, &[table]).await?.into_values().next() else { return Ok(None) };
    let claimed = claimed(client, meta).await?.into_iter().find(|other| other.found.overlaps(&own));
    Ok(claimed.map(|other| other.schema))
}
