//! Which local table a position is about. A table that was dropped, replaced or may have been emptied keeps its name,
//! and with it the line of its state: its rows are others all the same, and only a new base makes them right.

use std::collections::BTreeMap;

use syncdata_formats::error::Result;
use syncdata_formats::name::TableName;
use syncdata_service::postgres::ServerContext as _;
use tokio_postgres::GenericClient;

use crate::plan::not_found;
use crate::target::postgres::labels::{self, OldLabel};
use crate::target::postgres::meta::MetaSchema;
use crate::target::postgres::schema;

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

/// This server and this database, which no other has in common.
const HERE: &str = "(SELECT s.system_identifier || '/' || d.oid FROM pg_catalog.pg_control_system() s, \
    pg_catalog.pg_database d WHERE d.datname = pg_catalog.current_database())";

/// Why the rows here are not those of the table's position.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Lost {
    NotFound,
    /// The name belongs to another table now.
    Replaced,
    /// A partition is gone.
    PartGone,
    /// A crash would empty it, or has done so.
    Unlogged,
    /// Something else than its changes has changed them.
    Touched,
    /// The position is of another moment than the rows: a dump of our tables was restored, and the table was not.
    OtherMoment,
    /// Some have a label that the source calls otherwise by now.
    OldLabel(OldLabel),
}

impl Lost {
    /// What happened, and what to do.
    pub fn reason(&self, table: &TableName) -> String {
        let resync = format!("syncdata-applier resync {}", table.shell_word());
        match self {
            Lost::NotFound => format!("{}, then: {resync}", not_found(table)),
            Lost::Replaced => format!(
                "the local table is another one than its rows were written to: it was dropped and made again, or \
                 renamed; run: {resync}"
            ),
            Lost::PartGone => {
                format!("a partition of the local table is gone, and its rows with it; run: {resync}")
            }
            Lost::Unlogged => format!(
                "the local table is UNLOGGED: a crash of its server empties it; run: ALTER TABLE {} SET LOGGED  -- then: \
                 {resync}",
                table.sql()
            ),
            Lost::Touched => format!("its rows are no longer those of its position; run: {resync}"),
            Lost::OtherMoment => format!(
                "its position was restored from a dump, and its rows were not: they are of another moment; run: {resync}"
            ),
            Lost::OldLabel(old) => old.reason(table),
        }
    }
}

#[derive(Debug)]
struct Found {
    oid: u32,
    parts: Vec<u32>,
    is_unlogged: bool,
}

async fn found(client: &impl GenericClient, tables: &[&TableName]) -> Result<BTreeMap<String, Found>> {
    let names: Vec<String> = tables.iter().map(ToString::to_string).collect();
    let schemas: Vec<&str> = tables.iter().map(|table| table.schema()).collect();
    let relations: Vec<&str> = tables.iter().map(|table| table.name()).collect();
    let rows = client.query(FOUND, &[&names, &schemas, &relations]).await;
    let rows = rows.context(|| "looking for the local tables".to_owned())?;
    let found =
        |row: &tokio_postgres::Row| Found { oid: row.get(1), parts: row.get(2), is_unlogged: row.get(3) };
    Ok(rows.iter().map(|row| (row.get(0), found(row))).collect())
}

/// Whether a crash of the server may empty it. A table that is not there is no such one.
pub async fn is_unlogged(client: &impl GenericClient, table: &TableName) -> Result<bool> {
    Ok(found(client, &[table]).await?.values().any(|found| found.is_unlogged))
}

/// Whether some row is in it, or a partition of it. A table that is not there has none.
pub async fn has_rows(client: &impl GenericClient, table: &TableName) -> Result<bool> {
    let looking = || format!("looking for rows of {table}");
    let loaded = schema::load(client, std::slice::from_ref(table)).await?;
    let Some(found) = loaded.get(table) else { return Ok(false) };
    let select = format!("SELECT EXISTS (SELECT FROM {})", found.sql());
    Ok(client.query_one(&select, &[]).await.context(looking)?.get(0))
}

/// Notes which table the position is about: the one that has the name now. In the transaction of its rows.
pub async fn note(client: &impl GenericClient, meta: &MetaSchema, table: &TableName) -> Result<()> {
    let found = found(client, &[table]).await?;
    match found.into_values().next() {
        Some(Found { oid, parts, .. }) => write(client, meta, table, oid, &parts).await,
        None => Ok(()),
    }
}

/// Its rows are no longer those of its position, whatever becomes of it.
pub async fn disown(client: &impl GenericClient, meta: &MetaSchema, table: &TableName) -> Result<()> {
    write(client, meta, table, 0, &[]).await
}

/// An operator knows better what became of its partitions.
pub async fn forget_parts(client: &impl GenericClient, meta: &MetaSchema, table: &TableName) -> Result<()> {
    let forget = format!("UPDATE {meta}.data_sync_table_state SET local_parts = NULL WHERE table_name = $1");
    client.execute(&forget, &[&table.to_string()]).await.context(|| noting(table))?;
    Ok(())
}

async fn write(
    client: &impl GenericClient,
    meta: &MetaSchema,
    table: &TableName,
    oid: u32,
    parts: &[u32],
) -> Result<()> {
    let update = format!(
        "UPDATE {meta}.data_sync_table_state SET local_oid = $2, local_parts = $3, noted_in = tableoid, noted_at = {HERE} \
         WHERE table_name = $1"
    );
    client.execute(&update, &[&table.to_string(), &oid, &parts]).await.context(|| noting(table))?;
    Ok(())
}

fn noting(table: &TableName) -> String {
    format!("noting which local table {table} is")
}

/// Those of the tables whose rows are not those of their positions. What is seen for the first time is noted.
pub async fn look(
    client: &impl GenericClient,
    meta: &MetaSchema,
    tables: &[&TableName],
) -> Result<BTreeMap<TableName, Lost>> {
    let found = found(client, tables).await?;
    let names: Vec<String> = tables.iter().map(ToString::to_string).collect();
    let select = format!(
        "SELECT table_name, local_oid, local_parts, noted_in = tableoid, noted_at = {HERE} \
         FROM {meta}.data_sync_table_state WHERE table_name = ANY ($1)"
    );
    let rows = client.query(&select, &[&names]).await;
    let mut lost = BTreeMap::new();
    for row in rows.context(|| "reading which local tables those are".to_owned())? {
        let Some(table) = tables.iter().find(|table| table.to_string() == row.get::<_, &str>(0)) else {
            continue;
        };
        let (oid, parts): (Option<u32>, Option<Vec<u32>>) = (row.get(1), row.get(2));
        // Where all was restored from a dump, nothing that was noted before means anything.
        let is_here = row.get::<_, Option<bool>>(3).unwrap_or(false);
        let known = oid.filter(|oid| is_here || *oid == 0);
        let is_same_database = row.get::<_, Option<bool>>(4).unwrap_or(false);
        // Whoever restores a database makes its tables anew, all of them.
        let stayed = oid.filter(|oid| !is_here && is_same_database && *oid != 0);
        let verdict = match (found.get(&table.to_string()), known) {
            (None, _) => Some(Lost::NotFound),
            (Some(now), _) if now.is_unlogged => Some(Lost::Unlogged),
            (_, Some(0)) => Some(Lost::Touched),
            (Some(now), _) if stayed == Some(now.oid) => Some(Lost::OtherMoment),
            (Some(now), Some(oid)) if now.oid != oid => Some(Lost::Replaced),
            (Some(now), Some(_)) if parts.iter().flatten().any(|part| !now.parts.contains(part)) => {
                Some(Lost::PartGone)
            }
            (Some(now), known) => {
                if known.is_none() || parts.as_ref() != Some(&now.parts) {
                    write(client, meta, table, now.oid, &now.parts).await?;
                }
                None
            }
        };
        lost.extend(verdict.map(|verdict| ((*table).clone(), verdict)));
    }
    for (table, old) in labels::look(client, meta, tables).await? {
        lost.entry(table).or_insert(Lost::OldLabel(old));
    }
    Ok(lost)
}
