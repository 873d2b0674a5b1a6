//! Rules of local tables (CREATE RULE) and triggers: they do something else than what is written, or something beside it,
//! and the server says that all went well.

use std::collections::BTreeMap;

use syncdata_formats::error::Result;
use syncdata_formats::name::TableName;
use syncdata_formats::printed::identifier;
use syncdata_service::postgres::ServerContext as _;
use tokio_postgres::GenericClient;

use crate::table::Table;
use crate::target::postgres::meta::MetaSchema;
use crate::target::postgres::writers;

/// Those that act in this session, under the role that it has now: rules of INSERT, UPDATE and DELETE, and triggers that see
/// a row before it is written, which may write another one. Triggers that come afterwards act because this session may not have
/// the replica role; or because they were told to act on what is applied (ENABLE ALWAYS): those are watched, but for the
/// DEFERRABLE ones. Foreign keys act under the replica role where somebody has told their triggers to. Without it foreign keys
/// lead on: what they change in another table, its triggers see, and what these do is watched too. Our own refuse local writes, and
/// let ours through as they are; made by somebody to act before a row, the same function would leave rows out.
const ACTING: &str = "
WITH RECURSIVE w AS (
    SELECT root, root AS relid FROM pg_catalog.unnest($1::oid[]) AS root
    UNION SELECT root, leaf.relid FROM pg_catalog.unnest($1::oid[]) AS root, pg_catalog.pg_partition_tree(root) AS leaf
), own AS (
    SELECT CASE pg_catalog.current_setting('session_replication_role') WHEN 'replica' THEN 'R' ELSE 'O' END AS enabled,
        (SELECT p.oid FROM pg_catalog.pg_proc p JOIN pg_catalog.pg_namespace n ON n.oid = p.pronamespace
         WHERE p.proname = $3 AND p.pronargs = 0 AND n.nspname = $2) AS refusing
), reached AS (
    SELECT w.root, w.relid, false AS is_led FROM w
    UNION
    SELECT r.root, f.conrelid, true FROM reached r, own, pg_catalog.pg_constraint f
    WHERE own.enabled = 'O' AND f.contype = 'f' AND f.confrelid = r.relid
        AND (f.confdeltype IN ('c', 'n', 'd') OR f.confupdtype IN ('c', 'n', 'd'))
), acting AS (
    SELECT r.oid, r.ev_class AS relid, r.rulename AS name, 'rule' AS kind, false AS is_watched FROM pg_catalog.pg_rewrite r, own
    WHERE r.ev_type IN ('2', '3', '4') AND r.ev_enabled IN ('A', own.enabled)
    UNION ALL
    SELECT t.oid, t.tgrelid, t.tgname, 'trigger',
        t.tgtype & 3 <> 3 AND t.tgenabled <> 'O' AND NOT t.tgdeferrable FROM pg_catalog.pg_trigger t, own
    WHERE NOT t.tgisinternal AND t.tgenabled IN ('A', own.enabled) AND (t.tgfoid IS DISTINCT FROM own.refusing OR t.tgtype & 3 = 3)
    UNION ALL
    SELECT t.oid, t.tgrelid, t.tgname, 'key', false
    FROM own, pg_catalog.pg_trigger t JOIN pg_catalog.pg_constraint f ON f.oid = t.tgconstraint
    WHERE own.enabled = 'R' AND t.tgisinternal AND t.tgenabled IN ('A', 'R') AND f.contype = 'f' AND f.confrelid = t.tgrelid
        AND (f.confdeltype IN ('c', 'n', 'd') OR f.confupdtype IN ('c', 'n', 'd'))
)
SELECT w.root, n.nspname::text, c.relname::text, a.name::text, a.kind, a.is_watched OR w.is_led, w.is_led
FROM reached w
JOIN acting a ON a.relid = w.relid
JOIN pg_catalog.pg_class c ON c.oid = w.relid
JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
ORDER BY w.is_led, a.is_watched, a.kind, a.oid";

/// A rule or a trigger of a table, or of a partition of it.
#[derive(Clone, Debug)]
pub(crate) struct Rule {
    name: String,
    table: TableName,
    kind: What,
    /// What it does shows in what has changed afterwards.
    is_watched: bool,
    /// It is of another table, to which foreign keys lead.
    is_led: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum What {
    Rule,
    Trigger,
    /// The trigger of a foreign key, which somebody has enabled for this session too.
    ForeignKey,
}

impl Rule {
    /// `table` is the one that is written.
    pub(crate) fn what(&self, table: &TableName) -> String {
        let name = identifier(&self.name);
        match self.kind {
            What::Rule if self.is_led => format!("rule {name} of {}, {}", self.table, led(table)),
            What::Trigger if self.is_led => format!("trigger {name} of {}, {}", self.table, led(table)),
            What::Rule => format!("rule {name} of {table} does something else than what is applied"),
            What::Trigger => format!("trigger {name} of {table} may do something else than what is applied"),
            What::ForeignKey => format!("trigger {name} of {table} has a foreign key act on what is applied"),
        }
    }

    pub(crate) fn remedy(&self) -> String {
        let what = match self.kind {
            What::Rule => "DISABLE RULE",
            What::Trigger => "DISABLE TRIGGER",
            // As it was made: it acts in ordinary sessions.
            What::ForeignKey => "ENABLE TRIGGER",
        };
        format!("ALTER TABLE {} {what} {}", self.table.sql(), identifier(&self.name))
    }

    /// Both.
    pub(crate) fn words(&self, table: &TableName) -> String {
        format!("{}; run: {}", self.what(table), self.remedy())
    }
}

fn led(table: &TableName) -> String {
    format!("to which foreign keys of the copy lead from {table}, may do something else than what is applied")
}

/// Of each table that has some, the first.
pub(crate) async fn acting(
    client: &impl GenericClient,
    meta: &MetaSchema,
    tables: impl Iterator<Item = &Table>,
) -> Result<BTreeMap<TableName, Rule>> {
    let mut found = all(client, meta, tables).await?;
    found.retain(|_, rule| !rule.is_watched);
    Ok(found)
}

/// The same, and apart from them tables of which only what comes afterwards acts.
pub(crate) async fn acting_and_watched(
    client: &impl GenericClient,
    meta: &MetaSchema,
    tables: impl Iterator<Item = &Table>,
) -> Result<[BTreeMap<TableName, Rule>; 2]> {
    let found = all(client, meta, tables).await?;
    let (watched, acting) = found.into_iter().partition(|(_, rule)| rule.is_watched);
    Ok([acting, watched])
}

async fn all(
    client: &impl GenericClient,
    meta: &MetaSchema,
    tables: impl Iterator<Item = &Table>,
) -> Result<BTreeMap<TableName, Rule>> {
    let names: BTreeMap<u32, &TableName> = tables.map(|table| (table.oid, &table.name)).collect();
    let oids: Vec<u32> = names.keys().copied().collect();
    let rows = client.query(ACTING, &[&oids, &meta.name(), &writers::FUNCTION]).await;
    let mut found = BTreeMap::new();
    for row in rows.context(|| "looking for rules and triggers of the local tables".to_owned())? {
        let Some(root) = names.get(&row.get(0)) else { continue };
        let table = TableName::new(row.get::<_, &str>(1), row.get::<_, &str>(2))?;
        let kind = match row.get(4) {
            "rule" => What::Rule,
            "trigger" => What::Trigger,
            _ => What::ForeignKey,
        };
        let (is_watched, is_led) = (row.get(5), row.get(6));
        let rule = Rule { name: row.get(3), table, kind, is_watched, is_led };
        found.entry((*root).clone()).or_insert(rule);
    }
    Ok(found)
}
