//! Rules of local tables (CREATE RULE): they do something else than what is written, or something beside it, and the
//! server says that all went well.

use std::collections::BTreeMap;

use syncdata_formats::error::Result;
use syncdata_formats::name::TableName;
use syncdata_formats::printed::identifier;
use syncdata_service::postgres::ServerContext as _;
use tokio_postgres::GenericClient;

use crate::table::Table;

/// Those that act in this session, under the role that it has now: of INSERT, UPDATE and DELETE.
const ACTING: &str = "
SELECT w.root, n.nspname::text, c.relname::text, r.rulename::text
FROM (
    SELECT root, root AS relid FROM pg_catalog.unnest($1::oid[]) AS root
    UNION SELECT root, leaf.relid FROM pg_catalog.unnest($1::oid[]) AS root, pg_catalog.pg_partition_tree(root) AS leaf
) AS w
JOIN pg_catalog.pg_rewrite r ON r.ev_class = w.relid AND r.ev_type IN ('2', '3', '4')
JOIN pg_catalog.pg_class c ON c.oid = w.relid
JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
WHERE r.ev_enabled = 'A'
    OR r.ev_enabled = CASE pg_catalog.current_setting('session_replication_role') WHEN 'replica' THEN 'R' ELSE 'O' END
ORDER BY r.oid";

/// A rule of a table, or of a partition of it.
#[derive(Clone, Debug)]
pub(crate) struct Rule {
    name: String,
    table: TableName,
}

impl Rule {
    pub(crate) fn what(&self, table: &TableName) -> String {
        format!("rule {} of {table} does something else than what is applied", identifier(&self.name))
    }

    pub(crate) fn remedy(&self) -> String {
        format!("ALTER TABLE {} DISABLE RULE {}", self.table.sql(), identifier(&self.name))
    }

    /// Both.
    pub(crate) fn words(&self, table: &TableName) -> String {
        format!("{}; run: {}", self.what(table), self.remedy())
    }
}

/// Of each table that has some, the first.
pub(crate) async fn acting(
    client: &impl GenericClient,
    tables: impl Iterator<Item = &Table>,
) -> Result<BTreeMap<TableName, Rule>> {
    let names: BTreeMap<u32, &TableName> = tables.map(|table| (table.oid, &table.name)).collect();
    let oids: Vec<u32> = names.keys().copied().collect();
    let rows = client.query(ACTING, &[&oids]).await;
    let mut found = BTreeMap::new();
    for row in rows.context(|| "looking for rules of the local tables".to_owned())? {
        let Some(root) = names.get(&row.get(0)) else { continue };
        let rule =
            Rule { name: row.get(3), table: TableName::new(row.get::<_, &str>(1), row.get::<_, &str>(2))? };
        found.entry((*root).clone()).or_insert(rule);
    }
    Ok(found)
}
