//! The statement that lets a table take the record that it has refused, where the server's words name the place.

use syncdata_formats::error::Error;
use syncdata_formats::{printed, types};
use syncdata_service::postgres::ServerContext as _;
use syncdata_service::postgres::{db_error, sqlstate};
use tokio_postgres::Client;
use tokio_postgres::error::SqlState;

use crate::batch::{Batch, Record};
use crate::table::{Renamed, converts_exactly, renamed};

/// PostgreSQL's own limit on labels of enums.
const LABEL_BYTES_MAX: usize = 63;

/// A statement, and whether it may be the wrong one, which nobody could tell afterwards.
pub(super) type Remedy = (String, bool);

/// `run: …`, where it is known.
pub(super) async fn of(
    client: &Client,
    batch: &Batch,
    record: &Record,
    error: &Error,
) -> Result<Option<Remedy>, Error> {
    let sure = |statement| (statement, false);
    let statement = match sqlstate(error) {
        Some(&SqlState::INVALID_TEXT_REPRESENTATION) => match missing_label(client, batch, record).await? {
            Some(statement) => Some(statement),
            None => narrow_type(batch, record),
        },
        Some(&SqlState::NOT_NULL_VIOLATION) => required_column(batch, record, error).map(sure),
        // What does not fit: too long, out of range, not to be parsed.
        Some(code) if code.code().starts_with("22") => narrow_type(batch, record),
        _ => None,
    };
    Ok(statement.map(|(statement, in_doubt)| (format!("run: {statement}"), in_doubt)))
}

fn required_column(batch: &Batch, record: &Record, error: &Error) -> Option<String> {
    let table = &batch.tables[record.table].target.table;
    let column = printed::identifier(db_error(error)?.column()?);
    Some(format!("ALTER TABLE {} ALTER COLUMN {column} DROP NOT NULL", table.name.sql()))
}

/// The server does not say which column it was: any that was sent and has another type than at the source.
fn narrow_type(batch: &Batch, record: &Record) -> Option<Remedy> {
    let batch_table = &batch.tables[record.table];
    let table = &batch_table.target.table;
    let mut other = batch_table.other_types();
    let (column, source) = other.find(|other| batch.data(record).any(|(column, _)| column == other.0))?;
    let local = &table.columns[column];
    let (name, type_name) = (local.sql(), types::printable(source));
    let alter = format!("ALTER TABLE {} ALTER COLUMN {name} TYPE {type_name}", table.name.sql());
    Some(match converts_exactly(&local.plain_type, source) {
        true => (alter, false),
        false => (format!("{alter}  -- then: syncdata-applier resync {}", table.name.shell_word()), true),
    })
}

/// A label that the source has added to an enum, or renamed: then old rows have the old one, here as there. (The
/// server's message is in the server's language.)
async fn missing_label(client: &Client, batch: &Batch, record: &Record) -> Result<Option<Remedy>, Error> {
    const MISSING: &str = "
        SELECT t.oid::pg_catalog.regtype::text, sent.name, sent.label,
            ARRAY(SELECT e.enumlabel::text FROM pg_catalog.pg_enum e WHERE e.enumtypid = t.oid ORDER BY e.enumsortorder)
        FROM unnest($2::text[], $3::text[]) AS sent(name, label)
        JOIN pg_catalog.pg_attribute a ON a.attrelid = $1 AND a.attname = sent.name
        JOIN pg_catalog.pg_type t ON t.oid = a.atttypid AND t.typtype = 'e'
        WHERE sent.label IS NOT NULL
          AND NOT EXISTS (SELECT FROM pg_catalog.pg_enum e WHERE e.enumtypid = t.oid AND e.enumlabel = sent.label)
        LIMIT 1";
    let batch_table = &batch.tables[record.table];
    let table = &batch_table.target.table;
    let (names, labels): (Vec<&str>, Vec<Option<&str>>) = batch
        .data(record)
        .map(|(column, cell)| (table.columns[column].name.as_str(), batch.value(cell)))
        // A NUL cannot be sent, not even as a part of a question.
        .filter(|(_, label)| {
            label.is_none_or(|label| label.len() <= LABEL_BYTES_MAX && !label.contains('\0'))
        })
        .unzip();
    let found = client.query_opt(MISSING, &[&table.oid, &names, &labels]).await;
    let found = found.context(|| format!("looking at the enums of {}", table.name))?;
    Ok(found.and_then(|row| {
        let (local, label): (Vec<String>, &str) = (row.get(3), row.get(2));
        // What the archive does not describe as a label is a value of a row, and is not printed.
        let source =
            batch_table.labels(row.get(1)).filter(|source| source.iter().any(|known| known == label))?;
        let type_name: &str = row.get(0);
        let label_sql = printed::literal(label);
        let add = format!("ALTER TYPE {type_name} ADD VALUE {label_sql}");
        Some(match renamed(&local, source, label) {
            Renamed::From(old) => {
                (format!("ALTER TYPE {type_name} RENAME VALUE {} TO {label_sql}", printed::literal(old)), false)
            }
            Renamed::No => (add, false),
            Renamed::Unknown => {
                let word = table.name.shell_word();
                let resync = format!(
                    "{add}  -- it may be the new name of another label, which nothing here proves: then run: \
                     syncdata-applier resync {word}  # from a snapshot that is newer: syncdata-archiver snapshot, on the \
                     production host"
                );
                (resync, true)
            }
        })
    }))
}
