//! The statement that lets a table take the record that it has refused, where the server's words name the place.

use postgres_protocol::escape::escape_identifier;
use syncdata_formats::error::Error;
use syncdata_service::postgres::ServerContext as _;
use syncdata_service::postgres::{db_error, sqlstate};
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
    let statement = match sqlstate(error) {
        Some(&SqlState::INVALID_TEXT_REPRESENTATION) => match missing_label(client, batch, record).await? {
            Some(statement) => Some(statement),
            None => narrow_type(batch, record),
        },
        Some(&SqlState::NOT_NULL_VIOLATION) => required_column(batch, record, error),
        // What does not fit: too long, out of range, not to be parsed.
        Some(code) if code.code().starts_with("22") => narrow_type(batch, record),
        _ => None,
    };
    Ok(statement.map_or(String::new(), |statement| format!("; run: {statement}")))
}

fn required_column(batch: &Batch, record: &Record, error: &Error) -> Option<String> {
    let table = &batch.tables[record.table].target.table;
    let column = escape_identifier(db_error(error)?.column()?);
    Some(format!("ALTER TABLE {} ALTER COLUMN {column} DROP NOT NULL", table.name.sql()))
}

/// The server does not say which column it was: any that was sent and has another type than at the source.
fn narrow_type(batch: &Batch, record: &Record) -> Option<String> {
    let batch_table = &batch.tables[record.table];
    let table = &batch_table.target.table;
    let mut other = batch_table.other_types();
    let (column, source) = other.find(|other| batch.data(record).any(|(column, _)| column == other.0))?;
    let name = table.columns[column].sql();
    Some(format!("ALTER TABLE {} ALTER COLUMN {name} TYPE {source}", table.name.sql()))
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
