//! Columns that both sides compute: whether what they come to here is what the source sent. The archive does not say by
//! which expression; that another one is meant shows in the values alone.

use std::collections::HashSet;

use postgres_protocol::escape::escape_literal;
use syncdata_formats::change::Op;
use syncdata_formats::error::Result;
use syncdata_service::postgres::ServerContext as _;
use tokio_postgres::Client;

use crate::batch::{Batch, BatchTable, Cell, Record};
use crate::table::Table;
use crate::target::Rejection;
use crate::target::postgres::step::Prepared;

/// So many rows are compared in one question.
const ROWS_MAX: usize = 5_000;

/// A row as the batch leaves it: its key, and what the source sent for the columns.
struct Left<'b> {
    record: &'b Record,
    key: Vec<Option<&'b str>>,
    sent: Vec<Option<&'b str>>,
}

/// After the batch was written: the first record whose row computes another value.
pub(super) async fn look(client: &Client, prepared: &Prepared) -> Result<Option<Rejection>> {
    for (number, table) in prepared.batch.tables.iter().enumerate() {
        let columns: Vec<usize> = table.computed().collect();
        // Without a key that is told apart by its text nobody can say which row it was.
        if columns.is_empty() || !table.target.key.nettable {
            continue;
        }
        let rows = left(&prepared.batch, table, number, &columns);
        for rows in rows.chunks(ROWS_MAX) {
            if let Some(rejection) = compare(client, table, &columns, rows).await? {
                return Ok(Some(rejection));
            }
        }
    }
    Ok(None)
}

/// Rows that no later record of the batch touches.
fn left<'b>(batch: &'b Batch, table: &BatchTable, number: usize, columns: &[usize]) -> Vec<Left<'b>> {
    let local = &table.target.table;
    let mut touched: HashSet<Vec<Option<&str>>> = HashSet::new();
    let mut rows = Vec::new();
    for &index in table.records.iter().rev() {
        let record = &batch.records[index as usize];
        debug_assert_eq!(record.table, number);
        let data: Vec<(usize, Cell)> = batch.data(record).collect();
        let old: Vec<(usize, Cell)> = batch.old_keys(record).collect();
        let find = |fields: &[(usize, Cell)], column: usize| {
            fields.iter().find(|field| field.0 == column).map(|field| batch.value(field.1))
        };
        let key = |fields: &dyn Fn(usize) -> Option<Option<&'b str>>| -> Vec<Option<&'b str>> {
            table.target.key.columns.iter().map(|&column| fields(column).flatten()).collect()
        };
        let new = key(&|column| find(&data, column).or_else(|| find(&old, column)));
        let is_last = !touched.contains(&new);
        if matches!(record.op, Op::Insert | Op::Update) && is_last && new.iter().all(Option::is_some) {
            let sent: Option<Vec<Option<&str>>> = columns
                .iter()
                .map(|&column| Some(batch.value(batch.sent(record, &local.columns[column].name)?)))
                .collect();
            // What was not sent did not change.
            rows.extend(sent.map(|sent| Left { record, key: new.clone(), sent }));
        }
        touched.insert(new);
        touched.insert(key(&|column| find(&old, column)));
    }
    rows
}

async fn compare(
    client: &Client,
    table: &BatchTable,
    columns: &[usize],
    rows: &[Left<'_>],
) -> Result<Option<Rejection>> {
    let (local, keys) = (&table.target.table, &table.target.key.columns);
    let names: Vec<String> =
        (0..keys.len()).map(|n| format!("k{n}")).chain((0..columns.len()).map(|n| format!("c{n}"))).collect();
    let arrays: Vec<Vec<Option<&str>>> = (0..keys.len())
        .map(|n| rows.iter().map(|row| row.key[n]).collect())
        .chain((0..columns.len()).map(|n| rows.iter().map(|row| row.sent[n]).collect()))
        .collect();
    let unnested: Vec<String> = (1..=names.len()).map(|n| format!("${n}::text[]")).collect();
    let equal = keys.iter().enumerate().map(|(n, &key)| {
        let column = &local.columns[key];
        format!("t.{} {} u.k{n}::{}", column.sql(), column.equality, column.base_type)
    });
    let equal: Vec<String> = equal.collect();
    let differs = columns.iter().enumerate().map(|(n, &column)| {
        let (name, is_null) = (local.columns[column].sql(), "pg_catalog.num_nulls");
        let printed = format!("pg_catalog.format({}, t.{name}) COLLATE \"C\"", escape_literal("%s"));
        format!("{is_null}(t.{name}) <> {is_null}(u.c{n}) OR {printed} <> coalesce(u.c{n}, '')")
    });
    let differs: Vec<String> = differs.collect();
    let select = format!(
        "SELECT u.place, ({}) FROM unnest({}) WITH ORDINALITY AS u({}, place) JOIN {} AS t ON {} WHERE {} \
         ORDER BY 1 DESC LIMIT 1",
        columns_differ(&differs),
        unnested.join(", "),
        names.join(", "),
        local.sql(),
        equal.join(" AND "),
        differs.join(" OR ")
    );
    let arrays: Vec<&(dyn tokio_postgres::types::ToSql + Sync)> =
        arrays.iter().map(|array| array as &(dyn tokio_postgres::types::ToSql + Sync)).collect();
    let found = client.query_opt(&select, &arrays).await;
    let found = found.context(|| format!("looking at what {} computes", local.name))?;
    Ok(found.map(|row| {
        let place = usize::try_from(row.get::<_, i64>(0) - 1).expect("one of the rows");
        let column = usize::try_from(row.get::<_, i32>(1)).expect("one of the columns");
        let (what, remedy) = words(local, columns[column]);
        Rejection {
            table: local.name.clone(),
            place: rows[place].record.place,
            sqlstate: None,
            reason: what,
            remedy: Some(format!("run: {remedy}")),
            server_words: None,
            in_doubt: true,
        }
    }))
}

/// The number of the first that is so.
fn columns_differ(differs: &[String]) -> String {
    let cases: Vec<String> =
        differs.iter().enumerate().map(|(n, differs)| format!("WHEN {differs} THEN {n}")).collect();
    format!("CASE {} END", cases.join(" "))
}

/// What is wrong with it, and what mends that.
pub(crate) fn words(table: &Table, column: usize) -> (String, String) {
    let name = table.columns[column].sql();
    (
        format!("column {name} of {} computes another value here than at the source", table.name),
        format!(
            "ALTER TABLE {} ALTER COLUMN {name} DROP EXPRESSION  -- or make it again by the source's expression; then run: \
             syncdata-applier resync {}",
            table.name.sql(),
            table.name.shell_word()
        ),
    )
}
