//! The synced tables: are they there, may we write them, can they take what the archive holds, and what of theirs
//! acts on it.

use std::collections::BTreeMap;
use std::sync::Arc;
use syncdata_formats::error::Result;
use syncdata_service::postgres::ServerContext as _;

use syncdata_formats::manifest::{self, Generated, Relation};
use syncdata_formats::name::TableName;
use syncdata_formats::printed::identifier;
use syncdata_service::finding::Finding;

use super::archive::Newest;
use super::{local_shape, states};
use crate::plan;
use crate::table::{self, Difference, Table, UniqueIndex};
use crate::target::postgres::cursor;
use crate::target::postgres::local::Local;
use crate::target::postgres::local_writes;
use crate::target::postgres::schema;
use crate::target::postgres::{meta, others};

const SUBJECT: &str = "tables";

const RIGHTS: &str = "
SELECT c.oid, current_user::text, array_remove(ARRAY[
        CASE WHEN NOT has_table_privilege(c.oid, 'SELECT') THEN 'SELECT' END,
        CASE WHEN NOT has_table_privilege(c.oid, 'INSERT') THEN 'INSERT' END,
        CASE WHEN NOT has_table_privilege(c.oid, 'UPDATE') THEN 'UPDATE' END,
        CASE WHEN NOT has_table_privilege(c.oid, 'DELETE') THEN 'DELETE' END,
        CASE WHEN NOT has_table_privilege(c.oid, 'TRUNCATE') THEN 'TRUNCATE' END], NULL),
    row_security_active(c.oid)
FROM pg_class c WHERE c.oid = ANY($1)";

/// Of the partitions too. Internal ones are the foreign keys' own; ours let through what is applied.
const TRIGGERS: &str = "
SELECT below.root, t.tgname::text, t.tgrelid::regclass::text, t.tgenabled::text
FROM (
    SELECT root, root AS relid FROM unnest($1::oid[]) AS root
    UNION SELECT root, leaf.relid FROM unnest($1::oid[]) AS root, pg_partition_tree(root) AS leaf
) AS below
JOIN pg_trigger t ON t.tgrelid = below.relid
WHERE NOT t.tgisinternal AND NOT EXISTS (
    SELECT FROM pg_proc p JOIN pg_namespace n ON n.oid = p.pronamespace WHERE p.oid = t.tgfoid AND t.tgtype & 3 <> 3 AND p.proname = $3 AND n.nspname = $4)
AND (t.tgenabled IN ('A', 'R') OR t.tgenabled = 'O' AND NOT $2)
ORDER BY 3, 2";

/// Foreign keys that change rows by themselves, outside the replica role or switched on under it; exclusion
/// constraints that the replica role does not enforce. Those of partitions are their root's.
const CONSTRAINTS: &str = "
SELECT c.conname::text, c.conrelid::regclass::text, pg_get_constraintdef(c.oid), c.contype::text
FROM pg_constraint c
WHERE c.conparentid = 0 AND (
    c.contype = 'f' AND c.confrelid = ANY($1) AND (confdeltype IN ('c', 'n', 'd') OR confupdtype IN ('c', 'n', 'd'))
        AND (NOT $2 OR EXISTS (
            SELECT FROM pg_trigger t WHERE t.tgconstraint = c.oid AND t.tgenabled IN ('A', 'R')))
    OR c.contype = 'x' AND c.conrelid = ANY($1) AND c.condeferrable AND $2)
ORDER BY 2, 1";

pub(super) async fn look(local: &Local, newest: &Newest, findings: &mut Vec<Finding>) -> Result<()> {
    let names: Vec<TableName> = match meta::exists(&local.session, &local.meta).await? {
        true => cursor::table_states(local.session.client(), &local.meta).await?.into_keys().collect(),
        false => Vec::new(),
    };
    findings.extend(states::not_listed(newest, &names));
    if names.is_empty() {
        findings.push(
            Finding::warn(SUBJECT, "No tables in whitelist").remedy("syncdata-applier add-tables NAME…"),
        );
        return Ok(());
    }
    for (schema, grant) in others::unreadable(local.session.client(), &local.meta).await? {
        let what = format!(
            "another applier has its tables in schema {schema}, which this role may not read: whether both write into one \
             table is not seen"
        );
        let remedy =
            "run the statement as the owner of that schema, or stop the other one and drop its tables";
        findings.push(Finding::warn(SUBJECT, what).remedy(remedy).statement(grant));
    }
    let tables = schema::load(local.session.client(), &names).await?;
    findings.push(Finding::ok(SUBJECT, format!("{} in the whitelist, {} here", names.len(), tables.len())));
    states::look(local, findings).await?;
    for name in names.iter().filter(|name| !tables.contains_key(name)) {
        findings.push(
            Finding::fail(SUBJECT, plan::not_found(name).what).remedy(
                "create it here as it is at the source, then `retry` it; or take it off: remove-tables",
            ),
        );
    }
    let by_oid: BTreeMap<u32, Arc<Table>> =
        tables.into_values().map(|table| (table.oid, Arc::new(table))).collect();
    for table in by_oid.values() {
        findings.extend(shape(table, newest));
        findings.extend(neighbours(table, &names));
        findings.extend(keyless(table, newest));
        findings.extend(nan_as_null(table, newest));
    }
    local_shape::look(local, newest, &by_oid, findings).await?;
    findings.extend(rights(local, &by_oid).await?);
    findings.extend(triggers(local, &by_oid).await?);
    findings.extend(constraints(local, &by_oid).await?);
    Ok(())
}

fn of_difference(difference: &Difference) -> Finding {
    Finding::fail(SUBJECT, &difference.what)
        .remedy("the statement mends it; then `retry` the table if it is in quarantine")
        .statement(format!("{};", difference.remedy))
}

/// Against the newest shape that the archive knows.
fn shape(table: &Arc<Table>, newest: &Newest) -> Vec<Finding> {
    let mut findings = Vec::new();
    if newest.capture.as_ref().is_some_and(|capture| !capture.contains(&table.name)) {
        let message = format!("the newest segment's archiver does not capture {}", table.name);
        findings.push(
            Finding::warn(SUBJECT, message).remedy("add it to `tables` of the archiver, or take it off here"),
        );
    }
    if let Some(relation) = newest.relations.get(&table.name) {
        findings.extend(differences(table, relation).iter().map(of_difference));
    }
    findings
}

fn differences(table: &Arc<Table>, relation: &Relation) -> Vec<Difference> {
    // The values of a virtual column are not sent.
    let lacks = |column: &&manifest::Column| {
        column.generated != Some(Generated::Virtual) && table.column(&column.name).is_none()
    };
    let lacking = relation.columns.iter().filter(lacks);
    let lacking = lacking.map(|column| table::lacking(&column.name, Some(relation), table));
    table::fit(relation, table).err().into_iter().chain(lacking).collect()
}

/// NaN that arrives as NULL cannot be told from it later.
fn nan_as_null(table: &Table, newest: &Newest) -> Option<Finding> {
    if !plan::is_without_nan(&newest.degraded) {
        return None;
    }
    let columns = plan::columns_with_nan(newest.relations.get(&table.name)?);
    if columns.is_empty() {
        return None;
    }
    let message = format!(
        "{}: NaN and infinities of {} arrive as NULL, since the source's wal2json cannot say them",
        table.name,
        columns.join(", ")
    );
    Some(Finding::warn(SUBJECT, message).remedy(
        "wal2json 2.6 or newer can. Whether there are such values: syncdata-archiver check --deep on the production \
         host; after an upgrade of wal2json: a snapshot, then resync",
    ))
}

/// Without an index on the source's key every change is looked for in the whole table.
fn keyless(table: &Arc<Table>, newest: &Newest) -> Option<Finding> {
    let relation = newest.relations.get(&table.name).filter(|relation| !relation.key.is_empty())?;
    let key = table::fit(relation, table).ok()?.key.columns;
    let covers = |unique: &UniqueIndex| {
        unique.columns.len() == key.len() && unique.columns.iter().all(|column| key.contains(column))
    };
    if table.unique.iter().any(covers) {
        return None;
    }
    let columns: Vec<String> = relation.key.iter().map(|column| identifier(column)).collect();
    let columns = columns.join(", ");
    let message = format!(
        "{} has no unique index on the source's key ({columns}): each change is looked for in the whole table, and a \
         row that is there already comes twice",
        table.name
    );
    Some(
        Finding::warn("key", message)
            .remedy("run the statement")
            .statement(format!("ALTER TABLE {} ADD PRIMARY KEY ({columns});", table.name.sql())),
    )
}

/// What is bound to the table and is not as strict, or stricter, than at the source.
fn neighbours(table: &Table, synced: &[TableName]) -> Vec<Finding> {
    let strangers = table.referenced_by.iter().filter(|other| !synced.contains(other));
    let foreign_key = |other: &TableName| {
        let message = format!(
            "{other} refers to {} and is not synced: a TRUNCATE of the source quarantines {}, a DELETE leaves orphans",
            table.name, table.name
        );
        Finding::warn("foreign key", message).remedy(format!("sync {other} too, or drop its foreign key"))
    };
    let mut findings: Vec<Finding> = strangers.map(foreign_key).collect();
    findings.extend(table.deferrable_unique().map(|index| {
        let columns = table.column_list(&index.columns);
        let message = format!(
            "unique ({columns}) of {} is deferrable: it is checked with a query before every commit",
            table.name
        );
        Finding::warn("deferrable constraint", message)
            .remedy("NOT DEFERRABLE is faster here, if the source's changes allow it")
    }));
    findings
}

async fn rights(local: &Local, tables: &BTreeMap<u32, Arc<Table>>) -> Result<Vec<Finding>> {
    let oids: Vec<u32> = tables.keys().copied().collect();
    let rows = local.session.client().query(RIGHTS, &[&oids]).await;
    let mut findings = Vec::new();
    for row in rows.context(|| "reading the rights on the tables".to_owned())? {
        let Some(table) = tables.get(&row.get(0)) else { continue };
        let (user, lacking): (&str, Vec<&str>) = (row.get(1), row.get(2));
        if !lacking.is_empty() {
            let lacking = lacking.join(", ");
            let statement = format!("GRANT {lacking} ON TABLE {} TO {};", table.name.sql(), identifier(user));
            findings.push(
                Finding::fail("rights", format!("{user} may not {lacking} {}", table.name))
                    .remedy("run the statement as the table's owner")
                    .statement(statement),
            );
        }
        if row.get(3) {
            let message = format!(
                "row level security of {} holds for {user}: the server refuses our statements",
                table.name
            );
            findings
                .push(Finding::warn("rights", message).remedy("give the role BYPASSRLS, or the table to it"));
        }
    }
    Ok(findings)
}

async fn triggers(local: &Local, tables: &BTreeMap<u32, Arc<Table>>) -> Result<Vec<Finding>> {
    let oids: Vec<u32> = tables.keys().copied().collect();
    let rows = local
        .session
        .client()
        .query(TRIGGERS, &[&oids, &local.replica, &local_writes::FUNCTION, &local.meta.name()])
        .await;
    let mut findings = Vec::new();
    for row in rows.context(|| "reading the triggers".to_owned())? {
        let (name, table, enabled): (&str, &str, &str) = (row.get(1), row.get(2), row.get(3));
        let when = match enabled {
            "A" => "always fires",
            "R" => "fires under the replica role",
            _ => "fires, because session_replication_role may not be set",
        };
        let message = format!("{name} of {table} {when}: it acts on what is applied");
        let statement = format!("ALTER TABLE {table} DISABLE TRIGGER {};", identifier(name));
        findings.push(
            Finding::warn("trigger", message)
                .remedy("if it does at the source what is archived anyway, run the statement")
                .statement(statement),
        );
    }
    Ok(findings)
}

async fn constraints(local: &Local, tables: &BTreeMap<u32, Arc<Table>>) -> Result<Vec<Finding>> {
    let oids: Vec<u32> = tables.keys().copied().collect();
    let rows = local.session.client().query(CONSTRAINTS, &[&oids, &local.replica]).await;
    let finding = |row: &tokio_postgres::Row| {
        let (name, table, definition, kind): (&str, &str, &str, &str) =
            (row.get(0), row.get(1), row.get(2), row.get(3));
        match kind {
            "f" => Finding::warn(
                "foreign key",
                format!("{name} of {table} acts on what is applied: {definition}"),
            )
            .remedy("where the source has the same foreign key, leave it: its changes are then applied row by row"),
            _ => Finding::warn(
                "deferrable constraint",
                format!("{name} of {table} is not enforced while changes are applied: {definition}"),
            )
            .remedy("NOT DEFERRABLE is enforced here too, if the source's changes allow it"),
        }
    };
    Ok(rows.context(|| "reading the constraints".to_owned())?.iter().map(finding).collect())
}
