//! The statement that lets a table take the record that it has refused, where the server's words name the place.

use postgres_protocol::escape::escape_identifier;
use syncdata_shared::error::{Context as _, Error};
use syncdata_shared::postgres::{db_error, sqlstate};
use tokio_postgres::Client;
use tokio_postgres::error::SqlState;

use crate::batch::{Batch, Record};

/// `; run: …`, or nothing.
pub(super) async fn of(
    client: &Client,
    batch: &Batch,
    record: &Record,
    error: &Error,
) -> Result<String, Error> {
    let table = &batch.tables[record.table].target.table;
    let statement = match sqlstate(error) {
        Some(&SqlState::INVALID_TEXT_REPRESENTATION) => missing_label(client, batch, record).await?,
        Some(&SqlState::NOT_NULL_VIOLATION) => {
            db_error(error).and_then(|error| error.column()).map(|column| {
                let column = escape_identifier(column);
                format!("ALTER TABLE {} ALTER COLUMN {column} DROP NOT NULL", table.name.sql())
            })
        }
        _ => None,
    };
    Ok(statement.map_or(String::new(), |statement| format!("; run: {statement}")))
}

/// A value that the source has added to an enum. (The server's message is in the server's language.)
async fn missing_label(client: &Client, batch: &Batch, record: &Record) -> Result<Option<String>, Error> {
    const MISSING: &str = "
        SELECT pg_catalog.format('ALTER TYPE %s ADD VALUE %L', t.oid::pg_catalog.regtype, sent.label)
        FROM unnest($2::text[], $3::text[]) AS sent(name, label)
        JOIN pg_catalog.pg_attribute a ON a.attrelid = $1 AND a.attname = sent.name
        JOIN pg_catalog.pg_type t ON t.oid = a.atttypid AND t.typtype = 'e'
        WHERE sent.label IS NOT NULL
          AND NOT EXISTS (SELECT FROM pg_catalog.pg_enum e WHERE e.enumtypid = t.oid AND e.enumlabel = sent.label)
        LIMIT 1";
    let table = &batch.tables[record.table].target.table;
    let (names, labels): (Vec<&str>, Vec<Option<&str>>) = batch
        .data(record)
        .map(|(column, cell)| (table.columns[column].name.as_str(), batch.value(cell)))
        .unzip();
    let found = client.query_opt(MISSING, &[&table.oid, &names, &labels]).await;
    let found = found.context(|| format!("looking at the enums of {}", table.name))?;
    Ok(found.map(|row| row.get(0)))
}
