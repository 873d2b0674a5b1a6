//! Which local table a position is about. A table that was dropped, replaced or may have been emptied keeps its name,
//! and with it the line of its state: its rows are others all the same, and only a new base makes them right.

use std::collections::BTreeMap;

use syncdata_formats::error::Result;
use syncdata_formats::name::TableName;
use syncdata_formats::printed::identifier;
use syncdata_service::postgres::ServerContext as _;
use tokio_postgres::GenericClient;

use crate::plan::state::State;
use crate::table::{Altered, Column, Memory, Seen, SourceColumns};
use crate::target::postgres::files;
use crate::target::postgres::found::{Found, found};
use crate::target::postgres::kept;
use crate::target::postgres::labels;
use crate::target::postgres::lost::Lost;
use crate::target::postgres::meta::MetaSchema;
use crate::target::postgres::restored::{Origin, Ours};
use crate::target::postgres::{copied_lines, heirs, named_types, nested, others, schema};

/// This server and this database, which no other has in common.
pub(super) const HERE: &str = "(SELECT s.system_identifier || '/' || d.oid FROM pg_catalog.pg_control_system() s, \
    pg_catalog.pg_database d WHERE d.datname = pg_catalog.current_database())";

/// What keeps rows from a table that has none of its position yet. A table that is not there has no such thing.
pub async fn unfit_for_rows(
    client: &impl GenericClient,
    meta: &MetaSchema,
    table: &TableName,
) -> Result<Option<Lost>> {
    let here = found(client, &[table]).await?;
    if here.values().any(|found| found.is_unlogged) {
        return Ok(Some(Lost::Unlogged));
    }
    let oids: Vec<u32> = here.values().map(|found| found.oid).collect();
    let nested = nested::of(client, meta, false).await?;
    if let Some(lost) = oids.iter().find_map(|oid| nested.get(oid)) {
        return Ok(Some(lost.clone()));
    }
    if let Some(heir) = heirs::with_rows(client, meta, &oids).await?.into_values().next() {
        return Ok(Some(heir.lost()));
    }
    Ok(others::of(client, meta, table).await?.map(Lost::Shared))
}

/// Whether some row is in it, or a partition of it. A table that is not there has none.
pub async fn has_rows(client: &impl GenericClient, table: &TableName) -> Result<bool> {
    let looking = || format!("looking for rows of {table}");
    let loaded = schema::load(client, std::slice::from_ref(table)).await?;
    let Some(found) = loaded.get(table) else { return Ok(false) };
    let select = format!("SELECT EXISTS (SELECT FROM {})", found.sql());
    Ok(client.query_one(&select, &[]).await.context(looking)?.get(0))
}

/// Notes which table the position is about: the one that has the name now, with its columns. In the transaction of its
/// rows.
pub async fn note(client: &impl GenericClient, meta: &MetaSchema, table: &TableName) -> Result<()> {
    note_as(client, meta, table, false).await
}

/// The same where somebody says that the rows which are here are those of the position.
pub async fn vouch(client: &impl GenericClient, meta: &MetaSchema, table: &TableName) -> Result<()> {
    note_as(client, meta, table, true).await?;
    labels::vouch(client, meta, table).await
}

async fn note_as(
    client: &impl GenericClient,
    meta: &MetaSchema,
    table: &TableName,
    is_vouched: bool,
) -> Result<()> {
    let before = files::oldest_open(client).await?;
    let found = found(client, &[table]).await?;
    let Some(found) = found.into_values().next() else { return Ok(()) };
    let columns = schema::columns(client, &[found.oid]).await?.remove(&found.oid).unwrap_or_default();
    let leaves = files::of(client, &[found.oid]).await?.remove(&found.oid).unwrap_or_default();
    let types = named_types::of(client, &[found.oid]).await?.remove(&found.oid).unwrap_or_default();
    let select = format!(
        "SELECT source_columns, changed_lsn::text FROM {meta}.data_sync_table_state WHERE table_name = $1"
    );
    let known = client.query_opt(&select, &[&table.to_string()]).await.context(|| noting(table))?;
    let source = known.as_ref().map_or_else(SourceColumns::new, |row| parse_source(row.get(0)));
    let changed: Option<String> = known.and_then(|row| row.get(1));
    let files = files::kept(&leaves, None, changed.as_deref());
    let mut memory = Memory::of(&columns, &source, files, types.types);
    memory.noted = changed;
    memory.filled = Some(files::filled(client, &leaves).await?);
    // The rows are of this very transaction: the next pass looks at them again.
    memory.seen = Some(Seen { before, changed: Some(String::new()) });
    memory.functions = Some(Ours::of(client, meta).await?.functions);
    memory.vouched = is_vouched.then(|| columns.iter().map(|column| column.attnum).collect());
    write(client, meta, table, &found, &memory).await
}

/// Its changes have emptied it: the rows that come are in other files. In the transaction of its rows, after it was noted that
/// they have changed.
pub(super) async fn note_files(
    client: &impl GenericClient,
    meta: &MetaSchema,
    table: &TableName,
) -> Result<()> {
    let select = format!(
        "SELECT local_columns, changed_lsn::text FROM {meta}.data_sync_table_state WHERE table_name = $1"
    );
    let Some(row) = client.query_opt(&select, &[&table.to_string()]).await.context(|| noting(table))? else {
        return Ok(());
    };
    let Some(mut memory) = row.get::<_, Option<&str>>(0).and_then(Memory::parse) else { return Ok(()) };
    let Some(found) = found(client, &[table]).await?.into_values().next() else { return Ok(()) };
    let leaves = files::of(client, &[found.oid]).await?.remove(&found.oid).unwrap_or_default();
    (memory.noted, memory.filled) = (row.get(1), None);
    memory.files = Some(files::kept(&leaves, None, memory.noted.as_deref()));
    let update = format!("UPDATE {meta}.data_sync_table_state SET local_columns = $2 WHERE table_name = $1");
    client.execute(&update, &[&table.to_string(), &text(&memory)]).await.context(|| noting(table))?;
    Ok(())
}

/// Names of columns may have characters that the database has not.
fn text(memory: &Memory) -> String {
    kept::ascii(&serde_json::to_string(memory).expect("numbers are its keys"))
}

/// What cannot be read is as good as nothing known.
fn parse_source(text: Option<&str>) -> SourceColumns {
    text.and_then(|text| serde_json::from_str(text).ok()).unwrap_or_default()
}

/// Its rows are no longer those of its position, whatever becomes of it. In a transaction: its commit waits for the disk,
/// since after a crash nobody can see any more what was seen here.
pub async fn disown(client: &impl GenericClient, meta: &MetaSchema, table: &TableName) -> Result<()> {
    let durable = "SET LOCAL synchronous_commit = on";
    client.batch_execute(durable).await.context(|| noting(table))?;
    let nobody = Found { oid: 0, parts: Vec::new(), is_unlogged: false };
    write(client, meta, table, &nobody, &Memory::default()).await
}

/// What nobody would see any more when that is forgotten. Tables that are others than before are seen all the same.
pub async fn hidden_by_forgetting(
    client: &impl GenericClient,
    meta: &MetaSchema,
    tables: &[&TableName],
) -> Result<Vec<(TableName, Lost)>> {
    let found = found(client, tables).await?;
    let oids: Vec<u32> = found.values().map(|found| found.oid).collect();
    let types = named_types::of(client, &oids).await?;
    let names: Vec<String> = tables.iter().map(ToString::to_string).collect();
    let select = format!(
        "SELECT table_name, local_oid, local_parts, local_columns, source_labels FROM {meta}.data_sync_table_state \
         WHERE table_name = ANY ($1) AND noted_in = tableoid AND noted_at = {HERE}"
    );
    let rows = client.query(&select, &[&names]).await;
    let mut hidden = Vec::new();
    for row in rows.context(|| "reading which local tables those are".to_owned())? {
        let name: &str = row.get(0);
        let Some(now) = found.get(name).filter(|now| row.get::<_, Option<u32>>(1) == Some(now.oid)) else {
            continue;
        };
        let parts: Vec<u32> = row.get::<_, Option<_>>(2).unwrap_or_default();
        let is_gone = parts.iter().any(|part| !now.parts.contains(part));
        let memory = row.get::<_, Option<&str>>(3).and_then(Memory::parse);
        let named = memory.and_then(|memory| types.get(&now.oid)?.lost(&memory, &labels::parse(row.get(4))));
        let table: TableName = name.parse()?;
        hidden.extend(is_gone.then(|| (table.clone(), Lost::PartGone)));
        hidden.extend(named.map(|lost| (table, lost)));
    }
    Ok(hidden)
}

/// An operator knows better what became of its partitions, and of the types of its columns.
pub async fn forget_parts_and_types(
    client: &impl GenericClient,
    meta: &MetaSchema,
    table: &TableName,
) -> Result<()> {
    let known = format!("SELECT local_columns FROM {meta}.data_sync_table_state WHERE table_name = $1");
    let row = client.query_opt(&known, &[&table.to_string()]).await.context(|| noting(table))?;
    let memory = row.and_then(|row| Memory::parse(row.get::<_, Option<&str>>(0)?));
    let memory = memory.map(|memory| text(&memory.without_types()));
    let forget = format!(
        "UPDATE {meta}.data_sync_table_state SET local_parts = NULL, local_columns = coalesce($2, local_columns) \
         WHERE table_name = $1"
    );
    client.execute(&forget, &[&table.to_string(), &memory]).await.context(|| noting(table))?;
    Ok(())
}

async fn write(
    client: &impl GenericClient,
    meta: &MetaSchema,
    table: &TableName,
    found: &Found,
    memory: &Memory,
) -> Result<()> {
    let update = format!(
        "UPDATE {meta}.data_sync_table_state SET local_oid = $2, local_parts = $3, local_columns = $4, \
         noted_in = tableoid, noted_at = {HERE} WHERE table_name = $1"
    );
    client
        .execute(&update, &[&table.to_string(), &found.oid, &found.parts, &text(memory)])
        .await
        .context(|| noting(table))?;
    Ok(())
}

fn noting(table: &TableName) -> String {
    format!("noting which local table {table} is")
}

/// When a pass looks. What types are made of is judged when all is applied: before, the archive may be about to tell that
/// production has altered them too.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Moment {
    Begin,
    End,
}

/// Those of the tables whose rows are not those of their positions. What is seen for the first time is noted, and so is
/// what makes rows doubtful for good.
pub async fn look(
    client: &impl GenericClient,
    meta: &MetaSchema,
    tables: &[&TableName],
    moment: Moment,
) -> Result<BTreeMap<TableName, Lost>> {
    let mut lost = look_at_tables(client, meta, tables, moment).await?;
    for (table, old) in labels::look(client, meta, tables).await? {
        lost.entry(table).or_insert(Lost::OldLabel(old));
    }
    Ok(lost)
}

/// The same, of the tables themselves. In a transaction.
pub(super) async fn look_at_tables(
    client: &impl GenericClient,
    meta: &MetaSchema,
    tables: &[&TableName],
    moment: Moment,
) -> Result<BTreeMap<TableName, Lost>> {
    copied_lines::look(client, meta).await?;
    let before = files::oldest_open(client).await?;
    let found = found(client, tables).await?;
    let oids: Vec<u32> = found.values().map(|found| found.oid).collect();
    let columns = schema::columns(client, &oids).await?;
    let files = files::of(client, &oids).await?;
    let others = others::claimed(client, meta).await?;
    let heirs = heirs::with_rows(client, meta, &oids).await?;
    let nested = nested::of(client, meta, true).await?;
    let mut types = named_types::of(client, &oids).await?;
    let ours = Ours::of(client, meta).await?;
    let names: Vec<String> = tables.iter().map(ToString::to_string).collect();
    let select = format!(
        "SELECT table_name, local_oid, local_parts, noted_in = tableoid, noted_at = {HERE}, local_columns, \
         source_columns, state, source_labels, changed_lsn::text, noted_in = 0 FROM {meta}.data_sync_table_state WHERE table_name = ANY ($1)"
    );
    let rows = client.query(&select, &[&names]).await;
    let mut lost = BTreeMap::new();
    for row in rows.context(|| "reading which local tables those are".to_owned())? {
        let Some(table) = tables.iter().find(|table| table.to_string() == row.get::<_, &str>(0)) else {
            continue;
        };
        let (oid, parts): (Option<u32>, Option<Vec<u32>>) = (row.get(1), row.get(2));
        let is_same_database = row.get::<_, Option<bool>>(4).unwrap_or(false);
        // Where all was restored from a dump, no number that was noted before means anything. In another database one may be the
        // same by chance; in one that was copied file by file they all are.
        let is_known = || found.get(&table.to_string()).is_some_and(|now| Some(now.oid) == oid);
        let is_here = row.get::<_, Option<bool>>(3).unwrap_or(false) && (is_same_database || is_known());
        let known = oid.filter(|oid| is_here || *oid == 0);
        let was_copied = row.get::<_, Option<bool>>(10).unwrap_or(false);
        let origin = Origin { oid, is_here, is_same_database, was_copied };
        let noted = row.get::<_, Option<&str>>(5).and_then(Memory::parse);
        let memory = noted.clone().filter(|_| known.is_some() && is_same_database);
        let changed: Option<String> = row.get(9);
        let source = parse_source(row.get(6));
        let is_live = row.get::<_, &str>(7) == State::Live.as_str();
        let verdict = match (found.get(&table.to_string()), known) {
            (None, _) => Some(Lost::NotFound),
            (Some(now), _) if now.is_unlogged => Some(Lost::Unlogged),
            (_, Some(0)) => Some(Lost::Touched),
            (Some(now), _) if ours.is_of_other_moment(origin, noted.as_ref(), now.oid) => {
                Some(Lost::OtherMoment)
            }
            (Some(now), Some(oid)) if now.oid != oid => Some(Lost::Replaced),
            (Some(now), Some(_)) if parts.iter().flatten().any(|part| !now.parts.contains(part)) => {
                Some(Lost::PartGone)
            }
            (Some(now), known) => {
                let columns = columns.get(&now.oid).map(Vec::as_slice).unwrap_or_default();
                let altered = match &memory {
                    Some(memory) => altered(client, table, memory, columns, &source, is_live).await?,
                    None => None,
                };
                let shared = others.iter().find(|other| other.found.overlaps(now));
                let leaves = files.get(&now.oid).map(Vec::as_slice).unwrap_or_default();
                let written = match &memory {
                    Some(memory) => {
                        files::look(client, table, memory, columns, leaves, changed.as_deref()).await?
                    }
                    None => origin.not_restored(client, noted.as_ref(), leaves).await?,
                };
                let written = match (written, parts.as_ref().filter(|_| known.is_some())) {
                    (None, Some(parts)) => foreign_part(client, parts, now).await?,
                    (written, _) => written,
                };
                let types = types.remove(&now.oid).unwrap_or_default();
                let judges_types = is_live && moment == Moment::End;
                let named = memory.as_ref().filter(|_| judges_types);
                let named = named.and_then(|memory| types.lost(memory, &labels::parse(row.get(8))));
                let kept = files::kept(leaves, memory.as_ref(), changed.as_deref());
                let after = memory.clone().unwrap_or_default();
                let mut after = after.after(columns, &source, kept, types.types, judges_types);
                after.functions = Some(ours.functions);
                after.filled = after.filled.filter(|_| after.noted == changed);
                after.noted.clone_from(&changed);
                let is_other = after.seen.as_ref().is_none_or(|seen| seen.changed != changed);
                if moment == Moment::End && (is_other || after.filled.is_none()) {
                    after.filled = Some(files::filled(client, leaves).await?);
                }
                if moment == Moment::End && is_other {
                    after.seen = Some(Seen { before, changed });
                }
                let is_new =
                    known.is_none() || parts.as_ref() != Some(&now.parts) || memory.as_ref() != Some(&after);
                let stays = |lost: &Lost| lost.stays();
                let altered = altered.map(Lost::Altered).or_else(|| written.clone().filter(stays)).or(named);
                let lost = altered
                    .or_else(|| nested.get(&now.oid).cloned())
                    .or(written)
                    .or_else(|| Some(Lost::Shared(shared?.schema.clone())))
                    .or_else(|| Some(heirs.get(&now.oid)?.lost()));
                if lost.is_none() && is_new {
                    write(client, meta, table, now, &after).await?;
                }
                lost
            }
        };
        if known != Some(0) && verdict.as_ref().is_some_and(Lost::stays) {
            disown(client, meta, table).await?;
        }
        lost.extend(verdict.map(|verdict| ((*table).clone(), verdict)));
    }
    Ok(lost)
}

/// A partition of another server that came since.
async fn foreign_part(client: &impl GenericClient, known: &[u32], now: &Found) -> Result<Option<Lost>> {
    let new: Vec<u32> = now.parts.iter().filter(|part| !known.contains(part)).copied().collect();
    if new.is_empty() {
        return Ok(None);
    }
    Ok(files::foreign(client, &new).await?.map(Lost::PartWithRows))
}

/// What was done to a column that has values.
async fn altered(
    client: &impl GenericClient,
    table: &TableName,
    memory: &Memory,
    columns: &[Column],
    source: &SourceColumns,
    is_live: bool,
) -> Result<Option<Altered>> {
    for altered in memory.altered(columns, source, is_live) {
        let has_values = match &altered {
            Altered::Converted { column, .. } => {
                let select = format!(
                    "SELECT EXISTS (SELECT FROM {} WHERE pg_catalog.num_nulls({}) = 0)",
                    table.sql(),
                    identifier(column)
                );
                let row = client.query_one(&select, &[]).await;
                row.context(|| format!("looking at column {column} of {table}"))?.get(0)
            }
            Altered::Computed { .. } | Altered::Remade { .. } => true,
        };
        if has_values {
            return Ok(Some(altered));
        }
    }
    Ok(None)
}
