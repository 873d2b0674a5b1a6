//! A shadow: a temporary table in which a table is made anew while everybody reads the old rows. It goes with the
//! session: whatever kills a load leaves nothing behind.

use std::sync::Arc;
use syncdata_formats::error::Result;
use syncdata_service::postgres::ServerContext as _;

use syncdata_formats::name::TableName;
use tokio_postgres::Client;

use crate::target::postgres::schema::{Shape, Table, Target};

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
    }))
}

/// The rows that the table has now: changes are applied over them.
pub(crate) async fn seed(client: &Client, table: &Table, shadow: &Table) -> Result<()> {
    let columns: Vec<usize> = (0..table.columns.len()).collect();
    let (into, list) = (shadow.name.sql(), table.column_list(&columns));
    let seed = format!("INSERT INTO {into} ({list}) SELECT {list} FROM {}", table.sql());
    client.batch_execute(&seed).await.context(|| format!("copying {}", table.name))?;
    Ok(())
}

/// The key by which changes find their rows, built once the rows are there. Other indexes would only cost: no one
/// else reads the shadow, and the table itself refuses what it must.
pub(crate) async fn index(client: &Client, shadow: &Arc<Table>, target: &Target) -> Result<Arc<Table>> {
    let doing = || format!("indexing a shadow of {} columns", shadow.columns.len());
    let mut indexed = Table::clone(shadow);
    indexed.unique.retain(|unique| {
        unique.columns.len() == target.key.columns.len()
            && target.key.columns.iter().all(|column| unique.columns.contains(column))
    });
    for unique in &indexed.unique {
        // What is checked at commit only may stand twice in between.
        let kind = if unique.immediate { "UNIQUE INDEX" } else { "INDEX" };
        let list = shadow.column_list(&unique.columns);
        let create = format!("CREATE {kind} ON {} ({list})", shadow.name.sql());
        client.batch_execute(&create).await.context(doing)?;
    }
    let analyze = format!("ANALYZE {}", shadow.name.sql());
    client.batch_execute(&analyze).await.context(doing)?;
    Ok(Arc::new(indexed))
}
