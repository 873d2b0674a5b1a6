//! Values that a type of ours would alter in silence. A domain or a composite is known by its name alone: what its owner
//! has defined here may round or cut what the source's takes as it is. Whether it does, the server says.

use std::collections::HashSet;

use syncdata_formats::error::{Error, Result};
use syncdata_service::postgres::ServerContext as _;
use tokio_postgres::Client;

use super::{control, is_no_fault_of_a_record};
use crate::batch::{Batch, BatchTable};
use crate::table::{Column, Table, converts_exactly};
use crate::target::Rejection;
use crate::target::postgres::step::Prepared;

/// The first value of the batch that its column would not keep.
pub(super) async fn look(client: &Client, prepared: &Prepared) -> Result<Option<Rejection>> {
    for table in &prepared.batch.tables {
        let columns = table.target.table.columns.iter().enumerate();
        for (place, column) in columns.filter(|(_, column)| column.is_by_name && !column.generated) {
            if let Some(rejection) = look_at(client, &prepared.batch, table, place, column).await? {
                return Ok(Some(rejection));
            }
        }
    }
    Ok(None)
}

async fn look_at(
    client: &Client,
    batch: &Batch,
    table: &BatchTable,
    place: usize,
    column: &Column,
) -> Result<Option<Rejection>> {
    let sent = |&index: &u32| {
        let record = &batch.records[index as usize];
        let cell = batch.data(record).find(|field| field.0 == place)?.1;
        Some((record, batch.value(cell)?))
    };
    let sent = table.records.iter().filter_map(sent);
    let texts: HashSet<&str> = sent.clone().map(|(_, text)| text).collect();
    let texts: HashSet<&str> = texts.into_iter().filter(|text| !is_plain(column, text)).collect();
    if texts.is_empty() {
        return Ok(None);
    }
    control(client, "SAVEPOINT syncdata_values").await?;
    let altered = match ask(client, column, texts.iter().copied().collect()).await {
        Ok(altered) => altered,
        Err(error) if is_no_fault_of_a_record(&error) => return Err(error),
        // A value that the type does not take at all: the write says which.
        Err(_) => {
            control(client, "ROLLBACK TO SAVEPOINT syncdata_values").await?;
            HashSet::new()
        }
    };
    control(client, "RELEASE SAVEPOINT syncdata_values").await?;
    let mut sent = sent;
    let found = sent.find(|(_, text)| altered.contains(*text));
    Ok(found.map(|(record, _)| Rejection {
        table: table.target.table.name.clone(),
        place: record.place,
        sqlstate: None,
        reason: what(&table.target.table, column),
        remedy: Some(format!("run: {}", remedy(&table.target.table, column))),
        server_words: None,
        in_doubt: !converts_exactly(&column.plain_type, "text"),
    }))
}

async fn ask(client: &Client, column: &Column, texts: Vec<&str>) -> Result<HashSet<String>, Error> {
    let altered = format!("SELECT u.v FROM unnest($1::text[]) AS u(v) WHERE {}", is_altered(column, "u.v"));
    let doing = || "looking for values that would be altered".to_owned();
    let rows = client.query(&altered, &[&texts]).await.context(doing)?;
    Ok(rows.iter().map(|row| row.get(0)).collect())
}

/// Whether the text comes back as another one. An explicit cast rounds and cuts what an assignment does, and more.
pub(crate) fn is_altered(column: &Column, text: &str) -> String {
    format!("pg_catalog.format('%s', {}) COLLATE \"C\" <> {text}", converted(column, text))
}

/// The text as a value of the column's type.
pub(crate) fn converted(column: &Column, text: &str) -> String {
    match column.has_own_cast {
        true => format!("{}::{}", column.parsed(text), column.type_name),
        false => format!("{text}::{}", column.type_name),
    }
}

fn what(table: &Table, column: &Column) -> String {
    let (name, type_name) = (column.sql(), &column.type_name);
    format!(
        "column {name} of {} would alter the value: {type_name} is defined otherwise here than at the source",
        table.name
    )
}

fn remedy(table: &Table, column: &Column) -> String {
    let (name, type_name) = (column.sql(), &column.type_name);
    let alter = format!(
        "ALTER TABLE {} ALTER COLUMN {name} TYPE text  -- or define {type_name} as at the source",
        table.name.sql()
    );
    match converts_exactly(&column.plain_type, "text") {
        true => alter,
        false => format!("{alter}; then run: syncdata-applier resync {}", table.name.shell_word()),
    }
}

/// What is wrong with a column that cannot hold a base copy, and the remedy.
pub(crate) fn words(table: &Table, column: &Column) -> String {
    format!("{}; run: {}", what(table, column), remedy(table, column))
}

/// Texts that nothing alters: the digits of an integer.
fn is_plain(column: &Column, text: &str) -> bool {
    if !matches!(column.base_type.as_str(), "pg_catalog.int2" | "pg_catalog.int4" | "pg_catalog.int8") {
        return false;
    }
    let digits = text.strip_prefix('-').unwrap_or(text);
    digits.bytes().all(|byte| byte.is_ascii_digit()) && !digits.starts_with('0') || text == "0"
}
