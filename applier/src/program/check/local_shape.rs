//! What a local table is made of, where it takes changes and yet is not as safe, or not the same, as at the source.

use std::collections::BTreeMap;
use std::sync::Arc;

use syncdata_formats::error::Result;
use syncdata_formats::printed::identifier;
use syncdata_service::finding::Finding;
use syncdata_service::postgres::ServerContext as _;

use super::archive::Newest;
use crate::table::{self, Table};
use crate::target::postgres::local::Local;

/// Of the tables and all that is below them: what is unlogged, what lies elsewhere, what is not a partition and inherits.
const PARTS: &str = "
WITH RECURSIVE below(root, relid) AS (
    SELECT root, root FROM unnest($1::oid[]) AS root
    UNION SELECT below.root, i.inhrelid FROM below JOIN pg_inherits i ON i.inhparent = below.relid
)
SELECT below.root, c.oid::regclass::text, c.relpersistence = 'u' AND c.relkind = 'r', c.relkind = 'f',
    NOT c.relispartition AND below.relid <> below.root,
    below.relid = below.root AND NOT c.relispartition AND EXISTS (SELECT FROM pg_inherits i WHERE i.inhrelid = c.oid)
FROM below JOIN pg_class c ON c.oid = below.relid ORDER BY 2";

const USAGE: &str = "
SELECT DISTINCT n.nspname::text, current_user::text FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE c.oid = ANY($1) AND NOT has_schema_privilege(n.oid, 'USAGE')
UNION SELECT DISTINCT n.nspname::text, current_user::text FROM pg_attribute a
    JOIN pg_type t ON t.oid = a.atttypid JOIN pg_namespace n ON n.oid = t.typnamespace
WHERE a.attrelid = ANY($1) AND a.attnum > 0 AND NOT a.attisdropped AND NOT has_schema_privilege(n.oid, 'USAGE')
ORDER BY 1";

pub(super) async fn look(
    local: &Local,
    newest: &Newest,
    tables: &BTreeMap<u32, Arc<Table>>,
    findings: &mut Vec<Finding>,
) -> Result<()> {
    let oids: Vec<u32> = tables.keys().copied().collect();
    let rows = local.session.client().query(USAGE, &[&oids]).await;
    for row in rows.context(|| "reading the rights on schemas".to_owned())? {
        let (schema, user): (&str, &str) = (row.get(0), row.get(1));
        findings.push(
            Finding::fail(
                "rights",
                format!("{user} may not use the schema {schema}, in which tables or their types lie"),
            )
            .remedy("run the statement as the schema's owner")
            .statement(format!(
                "GRANT USAGE ON SCHEMA {} TO {};",
                identifier(schema),
                identifier(user)
            )),
        );
    }
    let rows = local.session.client().query(PARTS, &[&oids]).await;
    for row in rows.context(|| "reading what the tables are made of".to_owned())? {
        let Some(table) = tables.get(&row.get(0)) else { continue };
        findings.extend(of_part(table, row.get(1), [row.get(2), row.get(3), row.get(4), row.get(5)]));
    }
    for table in tables.values() {
        findings.extend(booleans_as_text(table, newest));
        findings.extend(loose_keys(table, newest));
    }
    Ok(())
}

fn of_part(table: &Table, part: &str, [unlogged, foreign, child, inherits]: [bool; 4]) -> Vec<Finding> {
    let name = &table.name;
    let resync = format!("syncdata-applier resync {}", name.shell_word());
    let mut findings = Vec::new();
    if unlogged {
        findings.push(
            Finding::fail(
                "unlogged",
                format!("{part} is unlogged: a crash of the server empties it, and the positions stay"),
            )
            .remedy(format!("run the statement, then: {resync}"))
            .statement(format!("ALTER TABLE {part} SET LOGGED;")),
        );
    }
    if foreign {
        findings.push(
            Finding::warn("foreign table", format!("{part}, a part of {name}, lies on another server: its rows do not commit with our positions"))
                .remedy(format!("put a local table in its place, then: {resync}")),
        );
    }
    if child {
        findings.push(
            Finding::warn("inheritance", format!("{part} inherits from {name}: queries of {name} show its rows too, and changes do not reach them"))
                .remedy("run the statement")
                .statement(format!("ALTER TABLE {part} NO INHERIT {};", name.sql())),
        );
    }
    if inherits {
        findings.push(
            Finding::warn(
                "inheritance",
                format!("{name} inherits from another table: queries of that one show its rows too"),
            )
            .remedy("leave it, where production has it so; else ALTER TABLE … NO INHERIT"),
        );
    }
    findings
}

/// They are kept as PostgreSQL prints them. What else somebody writes there no proof sees: texts are not held against booleans.
fn booleans_as_text(table: &Arc<Table>, newest: &Newest) -> Option<Finding> {
    let relation = newest.relations.get(&table.name)?;
    let is_boolean = |name: &str| {
        relation.columns.iter().any(|column| column.name == name && column.type_name == "boolean")
    };
    let kept = |column: &&table::Column| column.type_name != "boolean" && is_boolean(&column.name);
    let columns: Vec<&table::Column> = table.columns.iter().filter(kept).collect();
    if columns.is_empty() {
        return None;
    }
    let names = columns
        .iter()
        .map(|column| format!("{} ({})", column.name, column.type_name))
        .collect::<Vec<_>>()
        .join(", ");
    let statements = columns.iter().map(|column| {
        let name = identifier(&column.name);
        format!("ALTER TABLE {} ALTER COLUMN {name} TYPE boolean USING {name}::boolean;", table.name.sql())
    });
    let finding = Finding::warn(
        "boolean",
        format!(
            "{}: {names} keeps booleans of the source as text (t and f): no proof compares the table",
            table.name
        ),
    )
    .remedy("run the statement");
    Some(statements.fold(finding, Finding::statement))
}

/// Rows that the source tells apart are one here.
fn loose_keys(table: &Arc<Table>, newest: &Newest) -> Option<Finding> {
    let relation = newest.relations.get(&table.name)?;
    let loose: Vec<&str> = table
        .columns
        .iter()
        .filter(|column| column.is_loose && relation.key.contains(&column.name))
        .map(|column| column.name.as_str())
        .collect();
    if loose.is_empty() {
        return None;
    }
    let message = format!(
        "{}: the collation of the key column {} is nondeterministic here: texts that the source tells apart may be one key",
        table.name,
        loose.join(", ")
    );
    Some(
        Finding::warn("key", message)
            .remedy("where the source's collation is another one: ALTER TABLE … ALTER COLUMN … TYPE text COLLATE \"default\""),
    )
}
