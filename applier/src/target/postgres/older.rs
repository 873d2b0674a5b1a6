//! Rows that are older than a column: whether they have in it here what such rows have at the source.

use postgres_protocol::escape::escape_literal;
use syncdata_formats::error::Result;
use syncdata_service::postgres::ServerContext as _;
use tokio_postgres::Client;

use super::apply::{control, is_no_fault_of_a_record};
use crate::table::{Column, Table};

/// The first of these columns in which some row has another value than that. All rows are looked at, once for a column
/// that comes.
pub(super) async fn other_values(
    client: &Client,
    table: &Table,
    columns: &[(usize, Option<String>)],
) -> Result<Option<usize>> {
    for (place, missing) in columns {
        let is_other = is_other(&table.columns[*place], missing.as_deref());
        let select = format!("SELECT EXISTS (SELECT FROM {} WHERE {is_other})", table.sql());
        control(client, "SAVEPOINT syncdata_older").await?;
        let found = client.query_one(&select, &[]).await;
        match found.context(|| format!("looking at older rows of {}", table.name)) {
            Ok(row) => {
                control(client, "RELEASE SAVEPOINT syncdata_older").await?;
                if row.get(0) {
                    return Ok(Some(*place));
                }
            }
            Err(error) if is_no_fault_of_a_record(&error) => return Err(error),
            // Not a value of the type that the column has here.
            Err(_) => {
                control(client, "ROLLBACK TO SAVEPOINT syncdata_older").await?;
                return Ok(Some(*place));
            }
        }
    }
    Ok(None)
}

/// By what is printed: not every type has an equality.
fn is_other(column: &Column, missing: Option<&str>) -> String {
    let name = column.sql();
    match missing {
        None => format!("pg_catalog.num_nulls({name}) = 0"),
        // What its own type here makes of the text may be another one, in both.
        Some(missing) if column.is_by_name => format!(
            "pg_catalog.num_nulls({name}) = 1 OR pg_catalog.format('%s', {name}) COLLATE \"C\" <> {}",
            escape_literal(missing)
        ),
        Some(missing) => format!(
            "pg_catalog.num_nulls({name}) = 1 OR pg_catalog.format('%s', {name}) COLLATE \"C\" \
             <> pg_catalog.format('%s', {}::{})",
            escape_literal(missing),
            column.type_name
        ),
    }
}
