//! Rules of local tables (CREATE RULE) and triggers: they do something else than what is written, or something beside it,
//! and the server says that all went well.

use std::collections::BTreeMap;

use syncdata_formats::error::Result;
use syncdata_formats::name::TableName;
use syncdata_formats::printed::identifier;
use syncdata_service::postgres::ServerContext as _;
use tokio_postgres::GenericClient;

use crate::table::Table;

/// Those that act in this session, under the role that it has now: rules of INSERT, UPDATE and DELETE, and triggers that see
/// a row before it is written, which may write another one. Triggers that come afterwards act because this session may not have
/// the replica role; or because they were told to act on what is applied (ENABLE ALWAYS): those are watched, but for the
/// DEFERRABLE ones, which act when nobody looks any more.
const ACTING: &str = "
WITH w AS (
    SELECT root, root AS relid FROM pg_catalog.unnest($1::oid[]) AS root
    UNION SELECT root, leaf.relid FROM pg_catalog.unnest($1::oid[]) AS root, pg_catalog.pg_partition_tree(root) AS leaf
), own AS (
    SELECT CASE pg_catalog.current_setting('session_replication_role') WHEN 'replica' THEN 'R' ELSE 'O' END AS enabled
), acting AS (
    SELECT r.oid, r.ev_class AS relid, r.rulename AS name, false AS is_trigger, false AS is_watched FROM pg_catalog.pg_rewrite r, own
    WHERE r.ev_type IN ('2', '3', '4') AND r.ev_enabled IN ('A', own.enabled)
    UNION ALL
    SELECT t.oid, t.tgrelid, t.tgname, true,
        t.tgtype & 3 <> 3 AND t.tgenabled <> 'O' AND NOT t.tgdeferrable FROM pg_catalog.pg_trigger t, own
    WHERE NOT t.tgisinternal AND t.tgenabled IN ('A', own.enabled)
)
SELECT w.root, n.nspname::text, c.relname::text, a.name::text, a.is_trigger, a.is_watched
FROM w
JOIN acting a ON a.relid = w.relid
JOIN pg_catalog.pg_class c ON c.oid = w.relid
JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
ORDER BY a.is_watched, a.is_trigger, a.oid";

/// A rule or a trigger of a table, or of a partition of it.
#[derive(Clone, Debug)]
pub(crate) struct Rule {
    name: String,
    table: TableName,
    is_trigger: bool,
    /// What it does shows in what has changed afterwards.
    is_watched: bool,
}

impl Rule {
    pub(crate) fn what(&self, table: &TableName) -> String {
        let name = identifier(&self.name);
        match self.is_trigger {
            false => format!("rule {name} of {table} does something else than what is applied"),
            true => format!("trigger {name} of {table} may do something else than what is applied"),
        }
    }

    pub(crate) fn remedy(&self) -> String {
        let kind = if self.is_trigger { "TRIGGER" } else { "RULE" };
        format!("ALTER TABLE {} DISABLE {kind} {}", self.table.sql(), identifier(&self.name))
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
    let mut found = all(client, tables).await?;
    found.retain(|_, rule| !rule.is_watched);
    Ok(found)
}

/// The same, and apart from them tables of which only what comes afterwards acts.
pub(crate) async fn acting_and_watched(
    client: &impl GenericClient,
    tables: impl Iterator<Item = &Table>,
) -> Result<[BTreeMap<TableName, Rule>; 2]> {
    let (watched, acting) = all(client, tables).await?.into_iter().partition(|(_, rule)| rule.is_watched);
    Ok([acting, watched])
}

async fn all(
    client: &impl GenericClient,
    tables: impl Iterator<Item = &Table>,
) -> Result<BTreeMap<TableName, Rule>> {
    let names: BTreeMap<u32, &TableName> = tables.map(|table| (table.oid, &table.name)).collect();
    let oids: Vec<u32> = names.keys().copied().collect();
    let rows = client.query(ACTING, &[&oids]).await;
    let mut found = BTreeMap::new();
    for row in rows.context(|| "looking for rules and triggers of the local tables".to_owned())? {
        let Some(root) = names.get(&row.get(0)) else { continue };
        let table = TableName::new(row.get::<_, &str>(1), row.get::<_, &str>(2))?;
        let rule = Rule { name: row.get(3), table, is_trigger: row.get(4), is_watched: row.get(5) };
        found.entry((*root).clone()).or_insert(rule);
    }
    Ok(found)
}
