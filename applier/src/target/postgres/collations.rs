//! Collations of another version than indexes were made by: the operating system under the server has another libc or ICU. Index
//! searches miss rows then, and nobody says so.

use std::collections::BTreeSet;

use syncdata_formats::error::{Error, Kind, Result};
use syncdata_formats::name::TableName;
use syncdata_formats::printed::identifier;
use syncdata_service::postgres::ServerContext as _;
use tokio_postgres::GenericClient;

use crate::target::postgres::meta::MetaSchema;

/// By which collations rows of the tables are told apart, or found: any index may be used for that. The database's own is
/// `default`.
const USED: &str = "
SELECT n.nspname = 'pg_catalog' AND k.collname = 'default', w.name,
    pg_catalog.quote_ident(n.nspname) || '.' || pg_catalog.quote_ident(k.collname),
    k.collversion, pg_catalog.pg_collation_actual_version(k.oid), i.indisunique
FROM unnest($1::text[], $2::text[], $3::text[]) AS w(name, schema, relation)
JOIN pg_catalog.pg_namespace t ON t.nspname = w.schema
JOIN pg_catalog.pg_class c ON c.relnamespace = t.oid AND c.relname = w.relation
CROSS JOIN LATERAL (SELECT c.oid UNION SELECT p.relid FROM pg_catalog.pg_partition_tree(c.oid) p) AS part(oid)
JOIN pg_catalog.pg_index i ON i.indrelid = part.oid
JOIN pg_catalog.pg_class x ON x.oid = i.indexrelid
JOIN pg_catalog.pg_am m ON m.oid = x.relam AND m.amname = 'btree'
CROSS JOIN LATERAL pg_catalog.unnest(i.indcollation::oid[]) AS u(collatoid)
JOIN pg_catalog.pg_collation k ON k.oid = u.collatoid JOIN pg_catalog.pg_namespace n ON n.oid = k.collnamespace
ORDER BY i.indisunique DESC, w.name, 4";

/// Before PostgreSQL 15 nobody has noted that.
const OF_DATABASE: &str = "
SELECT d.datcollversion, pg_catalog.pg_database_collation_actual_version(d.oid)
FROM pg_catalog.pg_database d WHERE d.datname = pg_catalog.current_database()";

/// What is wrong, and what to do.
#[derive(Debug)]
pub(crate) struct Moved {
    pub what: String,
    pub remedy: String,
}

/// The first collation of an index of the whitelist's tables that is of another version now.
pub(crate) async fn moved(client: &impl GenericClient, meta: &MetaSchema) -> Result<Option<Moved>> {
    let doing = || "looking at the collations of keys".to_owned();
    let select = format!("SELECT table_name FROM {meta}.tables_to_sync");
    let rows = client.query(&select, &[]).await.context(doing)?;
    // A line that is no name was written by hand, and is none of ours.
    let tables: Vec<TableName> = rows.iter().filter_map(|row| row.get::<_, &str>(0).parse().ok()).collect();
    let names: Vec<String> = tables.iter().map(ToString::to_string).collect();
    let (schemas, relations): (Vec<&str>, Vec<&str>) =
        tables.iter().map(|table| (table.schema(), table.name())).unzip();
    let here =
        "SELECT pg_catalog.current_database()::text, pg_catalog.current_setting('server_version_num')::int";
    let here = client.query_one(here, &[]).await.context(doing)?;
    let (database, is_noted): (&str, bool) = (here.get(0), here.get::<_, i32>(1) >= 150_000);
    let mut seen: BTreeSet<String> = BTreeSet::new();
    for row in client.query(USED, &[&names, &schemas, &relations]).await.context(doing)? {
        let (is_default, table, collation): (bool, &str, &str) = (row.get(0), row.get(1), row.get(2));
        let what = if row.get(5) { "the key" } else { "an index" };
        if !seen.insert(collation.to_owned()) {
            continue;
        }
        let versions: (Option<String>, Option<String>) = match is_default {
            true if is_noted => {
                let row = client.query_one(OF_DATABASE, &[]).await.context(doing)?;
                (row.get(0), row.get(1))
            }
            true => (None, None),
            false => (row.get(3), row.get(4)),
        };
        let (Some(noted), Some(actual)) = versions else { continue };
        if noted == actual {
            continue;
        }
        let refresh = match is_default {
            true => format!("ALTER DATABASE {} REFRESH COLLATION VERSION", identifier(database)),
            false => format!("ALTER COLLATION {collation} REFRESH VERSION"),
        };
        return Ok(Some(Moved {
            what: format!(
                "collation {collation}, by which {what} of {table} is sorted, is of version {actual} here, and its indexes are of \
                 {noted}: rows would not be found"
            ),
            remedy: format!("REINDEX DATABASE {}; {refresh}", identifier(database)),
        }));
    }
    Ok(None)
}

/// Nothing is applied before its indexes are made anew.
pub(crate) async fn refuse_moved(client: &impl GenericClient, meta: &MetaSchema) -> Result<()> {
    match moved(client, meta).await? {
        None => Ok(()),
        Some(Moved { what, remedy }) => {
            Err(Error::new(Kind::BadInput, what).hint(format!("nothing was applied; run: {remedy}")))
        }
    }
}
