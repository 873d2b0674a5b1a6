//! Tables that inherit from a synced one, as INHERITS makes them. Changes do not reach them, and queries of the synced table
//! show their rows all the same: those of a synced heir are as production has them, those of another one nobody's.

use std::collections::{BTreeMap, BTreeSet};

use syncdata_formats::error::Result;
use syncdata_formats::name::TableName;
use syncdata_service::postgres::ServerContext as _;
use tokio_postgres::GenericClient;

use crate::target::postgres::files;
use crate::target::postgres::lost::Lost;
use crate::target::postgres::meta::MetaSchema;

/// However far down. Partitions are no heirs: they are their table. Of a temporary one only its own session sees rows.
const HEIRS: &str = "
WITH RECURSIVE heirs AS (
    SELECT i.inhparent AS root, i.inhparent AS parent, i.inhrelid AS heir FROM pg_catalog.pg_inherits i
    JOIN pg_catalog.pg_class c ON c.oid = i.inhrelid
    WHERE i.inhparent = ANY ($1) AND NOT c.relispartition
    UNION SELECT h.root, i.inhparent, i.inhrelid FROM heirs h JOIN pg_catalog.pg_inherits i ON i.inhparent = h.heir
)
SELECT h.root, h.heir, c.relkind = 'f', n.nspname::text, c.relname::text,
    pg_catalog.quote_ident(n.nspname) || '.' || pg_catalog.quote_ident(c.relname),
    pg_catalog.has_schema_privilege(n.oid, 'USAGE') AND pg_catalog.has_table_privilege(c.oid, 'SELECT')
        AND NOT pg_catalog.row_security_active(c.oid),
    pg_catalog.quote_ident(pn.nspname) || '.' || pg_catalog.quote_ident(p.relname)
FROM heirs h JOIN pg_catalog.pg_class p ON p.oid = h.parent JOIN pg_catalog.pg_namespace pn ON pn.oid = p.relnamespace
JOIN pg_catalog.pg_class c ON c.oid = h.heir JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
WHERE c.relpersistence <> 't'
ORDER BY 1, 2";

/// A table with rows that nobody syncs, and the one whose queries show them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Heir {
    name: String,
    parent: String,
}

impl Heir {
    pub(super) fn lost(&self) -> Lost {
        Lost::HeirWithRows { heir: self.name.clone(), parent: self.parent.clone() }
    }
}

/// Of the tables of these numbers: an heir that is not synced and has rows.
pub(super) async fn with_rows(
    client: &impl GenericClient,
    meta: &MetaSchema,
    tables: &[u32],
) -> Result<BTreeMap<u32, Heir>> {
    let doing = || "looking for tables that inherit from the local ones".to_owned();
    let mut found = BTreeMap::new();
    let heirs = client.query(HEIRS, &[&tables]).await.context(doing)?;
    if heirs.is_empty() {
        return Ok(found);
    }
    let whitelist = format!("SELECT table_name FROM {meta}.tables_to_sync");
    let rows = client.query(&whitelist, &[]).await.context(doing)?;
    let synced: BTreeSet<TableName> =
        rows.iter().filter_map(|row| row.get::<_, &str>(0).parse().ok()).collect();
    for row in heirs {
        let name = TableName::new(row.get::<_, &str>(3), row.get::<_, &str>(4));
        let (root, heir, is_foreign, sql): (u32, u32, bool, &str) =
            (row.get(0), row.get(1), row.get(2), row.get(5));
        if found.contains_key(&root) || name.is_ok_and(|name| synced.contains(&name)) {
            continue;
        }
        // What another server has, it may have at any moment.
        if is_foreign || files::has_rows(client, heir, sql, row.get(6)).await? {
            found.insert(root, Heir { name: sql.to_owned(), parent: row.get(7) });
        }
    }
    Ok(found)
}
