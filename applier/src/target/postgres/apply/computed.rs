//! Columns that both sides compute: whether what they come to here is what the source sent. The archive does not say by
//! which expression; that another one is meant shows in the values alone.

use std::collections::HashSet;

use postgres_protocol::escape::escape_literal;
use syncdata_formats::change::Op;
use syncdata_formats::error::Result;
use syncdata_service::postgres::ServerContext as _;
use tokio_postgres::types::ToSql;
use tokio_postgres::{Client, Row};

use crate::batch::{Batch, BatchTable, Cell, Record};
use crate::table::Table;
use crate::target::Rejection;
use crate::target::postgres::step::Prepared;

/// So many rows are compared in one question.
const ROWS_MAX: usize = 5_000;

/// Rows that are computed once more, for a moment.
const COMPUTED: &str = "pg_temp.syncdata_computed";

/// A table has no more, and that one has one more than the other.
const COLUMNS_MAX: usize = 1_600;

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
        if columns.is_empty() {
            continue;
        }
        // Without a key that is told apart by its text nobody can say which row it was: it is computed once more.
        let (rows, is_found) = match table.target.key.nettable {
            true => (left(&prepared.batch, table, number, &columns), true),
            false => (whole(&prepared.batch, table, &columns), false),
        };
        for rows in rows.chunks(ROWS_MAX) {
            let rejection = match is_found {
                true => compare(client, table, &columns, rows).await?,
                false => compute_again(client, table, &columns, rows).await?,
            };
            if rejection.is_some() {
                return Ok(rejection);
            }
        }
    }
    Ok(None)
}

/// The columns that the source sends. Those that are here alone have what they have by default.
fn plain(table: &BatchTable) -> Vec<usize> {
    let columns = table.target.table.columns.iter().enumerate();
    let plain = columns.filter(|(_, column)| !column.generated && table.is_of_source(column));
    plain.map(|(place, _)| place).collect()
}

/// Rows of which the source has sent all that they are computed from here, with that in the place of a key.
fn whole<'b>(batch: &'b Batch, table: &BatchTable, columns: &[usize]) -> Vec<Left<'b>> {
    let local = &table.target.table;
    let plain = plain(table);
    if local.columns.len() >= COLUMNS_MAX {
        return Vec::new();
    }
    let mut rows = Vec::new();
    for &index in &table.records {
        let record = &batch.records[index as usize];
        if !matches!(record.op, Op::Insert | Op::Update) {
            continue;
        }
        let data: Vec<(usize, Cell)> = batch.data(record).collect();
        let old: Vec<(usize, Cell)> = batch.old_keys(record).collect();
        let value = |column: &usize| {
            let of = |field: &&(usize, Cell)| field.0 == *column && field.1 != Cell::ABSENT;
            data.iter().chain(&old).find(of).map(|field| batch.value(field.1))
        };
        let sent = |&column: &usize| {
            let cell = batch.sent(record, &local.columns[column].name)?;
            (cell != Cell::ABSENT).then(|| batch.value(cell))
        };
        let key: Option<Vec<Option<&str>>> = plain.iter().map(value).collect();
        let sent: Option<Vec<Option<&str>>> = columns.iter().map(sent).collect();
        rows.extend(key.zip(sent).map(|(key, sent)| Left { record, key, sent }));
    }
    rows
}

/// The same rows in a table of the same expressions.
async fn compute_again(
    client: &Client,
    table: &BatchTable,
    columns: &[usize],
    rows: &[Left<'_>],
) -> Result<Option<Rejection>> {
    let local = &table.target.table;
    let plain = plain(table);
    let looking = || format!("looking at what {} computes", local.name);
    let mut place = "syncdata_place".to_owned();
    while local.column(&place).is_some() {
        place.push('_');
    }
    let make = format!(
        "CREATE TEMPORARY TABLE {COMPUTED} ({place} bigint, LIKE {} INCLUDING GENERATED INCLUDING DEFAULTS)",
        local.name.sql()
    );
    client.batch_execute(&make).await.context(looking)?;
    let own = local
        .columns
        .iter()
        .filter(|column| column.not_null && !column.generated && !table.is_of_source(column));
    for column in own {
        let may_be_null = format!("ALTER TABLE {COMPUTED} ALTER {} DROP NOT NULL", column.sql());
        client.batch_execute(&may_be_null).await.context(looking)?;
    }
    let (names, arrays) = arrays(rows, plain.len(), columns.len());
    let unnested: Vec<String> = (1..=names.len()).map(|n| format!("${n}::text[]")).collect();
    let parsed =
        plain.iter().enumerate().map(|(n, &c)| format!(", {}", local.columns[c].parsed(&format!("u.k{n}"))));
    let written = plain.iter().map(|&c| format!(", {}", local.columns[c].sql()));
    let differs = differs(local, columns);
    let select = format!(
        "WITH u AS (SELECT * FROM unnest({}) WITH ORDINALITY AS u({}, place)), \
         made AS (INSERT INTO {COMPUTED} ({place}{}) SELECT u.place{} FROM u RETURNING *) \
         SELECT u.place, ({}) FROM u JOIN made AS t ON t.{place} = u.place WHERE {} ORDER BY 1 LIMIT 1",
        unnested.join(", "),
        names.join(", "),
        written.collect::<String>(),
        parsed.collect::<String>(),
        columns_differ(&differs),
        differs.join(" OR ")
    );
    let found = client.query_opt(&select, &values(&arrays)).await.context(looking)?;
    client.batch_execute(&format!("DROP TABLE {COMPUTED}")).await.context(looking)?;
    Ok(found.map(|row| rejection(local, columns, rows, &row)))
}

type Array<'b> = Vec<Option<&'b str>>;

/// The keys, then what was sent, each column an array; with their names.
fn arrays<'b>(rows: &[Left<'b>], keys: usize, columns: usize) -> (Vec<String>, Vec<Array<'b>>) {
    let names = (0..keys).map(|n| format!("k{n}")).chain((0..columns).map(|n| format!("c{n}")));
    let arrays = (0..keys)
        .map(|n| rows.iter().map(|row| row.key[n]).collect())
        .chain((0..columns).map(|n| rows.iter().map(|row| row.sent[n]).collect()));
    (names.collect(), arrays.collect())
}

fn values<'a>(arrays: &'a [Array<'a>]) -> Vec<&'a (dyn ToSql + Sync)> {
    arrays.iter().map(|array| array as &(dyn ToSql + Sync)).collect()
}

/// For each column whether a row of it (`t`) prints something else than what was sent (`u`).
fn differs(local: &Table, columns: &[usize]) -> Vec<String> {
    let differs = columns.iter().enumerate().map(|(n, &column)| {
        let (name, is_null) = (local.columns[column].sql(), "pg_catalog.num_nulls");
        let printed = format!("pg_catalog.format({}, t.{name}) COLLATE \"C\"", escape_literal("%s"));
        format!("{is_null}(t.{name}) <> {is_null}(u.c{n}) OR {printed} <> coalesce(u.c{n}, '')")
    });
    differs.collect()
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
    let (names, arrays) = arrays(rows, keys.len(), columns.len());
    let unnested: Vec<String> = (1..=names.len()).map(|n| format!("${n}::text[]")).collect();
    let equal = keys.iter().enumerate().map(|(n, &key)| {
        let column = &local.columns[key];
        format!("t.{} {} {}", column.sql(), column.equality, column.parsed(&format!("u.k{n}")))
    });
    let equal: Vec<String> = equal.collect();
    let differs = differs(local, columns);
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
    let found = client.query_opt(&select, &values(&arrays)).await;
    let found = found.context(|| format!("looking at what {} computes", local.name))?;
    Ok(found.map(|row| rejection(local, columns, rows, &row)))
}

/// The place of a row, and the number of a column.
fn rejection(local: &Table, columns: &[usize], rows: &[Left<'_>], row: &Row) -> Rejection {
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
