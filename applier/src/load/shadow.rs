//! A shadow: a temporary table in which a table is made anew while everybody reads the old rows. It goes with the
//! session: whatever kills a load leaves nothing behind.

use std::sync::Arc;
use syncdata_formats::error::Result;
use syncdata_service::postgres::{ServerContext as _, sqlstate};

use postgres_protocol::escape::{escape_identifier, escape_literal};
use syncdata_formats::name::TableName;
use tokio_postgres::Client;
use tokio_postgres::error::SqlState;

use super::Halt;
use super::catch_up::Copy;
use super::columns::OldValue;
use crate::table::{Fit, Shape, Table};
use crate::target::postgres::apply::altered;

/// The schema of temporary tables, by the name that every session has for its own.
const SCHEMA: &str = "pg_temp";

/// Makes the shadow: the table's columns, and nothing that could refuse a row which the table itself takes.
pub(crate) async fn make(client: &Client, table: &Table, number: usize) -> Result<Arc<Table>> {
    let name = TableName::new(SCHEMA, format!("syncdata_load_{number}"))?;
    let columns: Vec<usize> = (0..table.columns.len()).collect();
    let make = format!(
        "DROP TABLE IF EXISTS {0}; CREATE TEMPORARY TABLE {0} AS SELECT {1} FROM {2} WITH NO DATA",
        name.sql(),
        table.column_list(&columns),
        table.sql()
    );
    client.batch_execute(&make).await.context(|| format!("making a shadow of {}", table.name))?;
    let mut columns = table.columns.clone();
    for column in &mut columns {
        // The source's values are taken as they come. What the table makes itself is made when they are brought over.
        column.not_null = false;
        column.has_default = false;
        column.generated = false;
        column.identity_always = false;
        column.identity = false;
    }
    Ok(Arc::new(Table {
        name,
        oid: 0,
        shape: Shape::Ordinary,
        columns,
        unique: table.unique.clone(),
        // Nobody refers to it.
        referenced_by: Vec::new(),
        acts_on_delete: false,
        acts_on_update: false,
        source_columns: Default::default(),
        paired: Default::default(),
        source_key: None,
    }))
}

/// Rows from before columns were there get what such rows have at the source; so do those that changes still bring. In
/// words, why a column cannot hold it.
pub(crate) async fn fill_old_rows(
    client: &Client,
    copy: &Copy,
    values: &[OldValue],
    has_rows: bool,
) -> Result<Option<String>> {
    let doing = || format!("filling newer columns of {}", copy.table.name);
    for OldValue { column, value } in values {
        // A table that lacks the column says so when a row brings it.
        let Some(place) = copy.table.column(column) else { continue };
        if copy.table.columns[place].generated {
            continue;
        }
        let (shadow, name) = (copy.shadow.name.sql(), escape_identifier(column));
        let value = escape_literal(value);
        let local = &copy.table.columns[place];
        if local.is_by_name {
            let altered = format!("SELECT {}", altered::is_altered(local, &value));
            if client.query_one(&altered, &[]).await.context(doing)?.get(0) {
                return Ok(Some(altered::words(&copy.table, local)));
            }
        }
        let default = format!("ALTER TABLE {shadow} ALTER COLUMN {name} SET DEFAULT {value}");
        client.batch_execute(&default).await.context(doing)?;
        if has_rows {
            let fill = format!("UPDATE {shadow} SET {name} = {value}");
            client.batch_execute(&fill).await.context(doing)?;
        }
    }
    Ok(None)
}

/// The key by which changes find their rows, built once the rows are there. Other indexes would only cost: no one
/// else reads the shadow, and the table itself refuses what it must.
pub(crate) async fn index(
    client: &Client,
    table: &TableName,
    shadow: &Arc<Table>,
    target: &Fit,
) -> Result<Arc<Table>, Halt> {
    let doing = || format!("indexing a shadow of {} columns", shadow.columns.len());
    let mut indexed = Table::clone(shadow);
    indexed.unique.retain(|unique| {
        unique.columns.len() == target.key.columns.len()
            && target.key.columns.iter().all(|column| unique.columns.contains(column))
    });
    // A row that is found by all of its values is found soon by those that the table itself tells rows apart by.
    let hint = shadow.unique.first().filter(|_| target.key.by_image && indexed.unique.is_empty());
    for unique in indexed.unique.iter().chain(hint) {
        // Rows of the source may have the same key for a moment, or for good where only the collation here calls
        // their keys equal: the table itself refuses what it must.
        let kind = if target.key.arbiter { "UNIQUE INDEX" } else { "INDEX" };
        let list = shadow.column_list(&unique.columns);
        let create = format!("CREATE {kind} ON {} ({list})", shadow.name.sql());
        match client.batch_execute(&create).await.context(doing) {
            Err(error) if sqlstate(&error) == Some(&SqlState::UNIQUE_VIOLATION) => {
                let reason = format!(
                    "the base copy has two rows with the same ({list}), which is the key at the source, and unique here: an index of \
                     production may be damaged, or a type or a collation here calls other values equal than there"
                );
                return Err(Halt::refused(table, reason));
            }
            done => done?,
        }
    }
    let analyze = format!("ANALYZE {}", shadow.name.sql());
    client.batch_execute(&analyze).await.context(doing)?;
    Ok(Arc::new(indexed))
}
