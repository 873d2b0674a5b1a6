//! Records of tables whose rows no key tells apart, in the source's order: each finds its row by all that it says of it.

use std::collections::BTreeSet;

use duckdb::params;
use syncdata_formats::change::Op;
use syncdata_formats::error::Result;

use super::database::Database;
use super::error::DuckdbContext as _;
use super::names::{self, quoted};
use super::stage::{Field, Stage, rejection};
use super::tables::{self, mapping};
use super::types::Mapping;
use crate::batch::{Batch, Cell};
use crate::table::Table;
use crate::target::{Oddities, Rejection};

/// The record to blame has a value that would not stay the same.
pub(super) fn write(
    database: &Database,
    batch: &Batch,
    table: usize,
    records: &[u32],
) -> Result<Result<Oddities, Rejection>> {
    let target = &batch.tables[table].target;
    let local = &*target.table;
    let (name, doing) = (tables::sql(database, &local.name), || format!("writing into {}", local.name));
    if let Some(column) = local.columns.iter().position(|column| names::is_same(&column.name, "rowid")) {
        return Ok(Err(hides_rows(&batch.records[records[0] as usize], local, column)));
    }
    // What a record says of the row that it is about stands beside what it says of the new one.
    let named: Vec<usize> = (0..local.columns.len()).collect();
    let all: Vec<usize> = tables::here(local).collect();
    let stage = Stage::new("syncdata_stage", local, &all, all.clone());
    stage.make(database)?;
    let rows = records.iter().map(|&index| {
        let record = &batch.records[index as usize];
        let old = all.iter().map(move |&column| {
            batch.old_keys(record).find(|(at, _)| *at == column).and_then(|(_, cell)| batch.value(cell))
        });
        let new = named.iter().map(move |&column| {
            let cell = batch.data(record).find(|(at, _)| *at == column).map(|(_, cell)| cell);
            match cell.filter(|cell| *cell != Cell::ABSENT) {
                Some(cell) => Field::Value(batch.value(cell)),
                None => Field::Unchanged,
            }
        });
        (0, old, new)
    });
    stage.fill(database, rows)?;
    if let Some(altered) = stage.altered(database)?.first() {
        let record = &batch.records[records[altered.row] as usize];
        return Ok(Err(rejection(record, local, altered.column)));
    }

    let values = |old: &dyn Fn(usize) -> String| {
        let values: Vec<String> = all.iter().map(|&column| stage.value(column, &old(column))).collect();
        values.join(", ")
    };
    let columns = tables::column_list(local);
    let insert = format!(
        "INSERT INTO {name} ({columns}) SELECT {} FROM {} AS s WHERE s.n = ?",
        values(&|_| "NULL".to_owned()),
        stage.sql()
    );
    let replace = format!(
        "INSERT INTO {name} ({columns}) SELECT {} FROM {} AS s, {name} AS o WHERE s.n = ? AND o.rowid = ?",
        values(&|column| format!("o.{}", quoted(&local.columns[column].name))),
        stage.sql()
    );
    let remove = format!("DELETE FROM {name} WHERE rowid = ?");
    let mut oddities = Oddities::default();
    for (number, &index) in records.iter().enumerate() {
        let record = &batch.records[index as usize];
        let number = i64::try_from(number).expect("a batch has some thousand records");
        if record.op == Op::Insert {
            database.connection.execute(&insert, [number]).context(doing)?;
            continue;
        }
        let said = batch.old_keys(record).map(|(column, _)| column);
        let said: BTreeSet<usize> = said.filter(|column| all.contains(column)).collect();
        let Some(row) = find(database, &stage, local, &said, number)? else {
            oddities.missing += 1;
            continue;
        };
        if record.op == Op::Update {
            database.connection.execute(&replace, params![number, row]).context(doing)?;
        }
        database.connection.execute(&remove, [row]).context(doing)?;
    }
    stage.drop(database)?;
    Ok(Ok(oddities))
}

/// One of the rows that have these values.
fn find(
    database: &Database,
    stage: &Stage<'_>,
    table: &Table,
    said: &BTreeSet<usize>,
    number: i64,
) -> Result<Option<i64>> {
    let same = said.iter().map(|&place| {
        let column = &table.columns[place];
        let (name, read) = (quoted(&column.name), mapping(column).read(&format!("s.k{place}")));
        // -0 is equal to 0, and another value.
        let sign = match mapping(column) {
            Mapping::Float(_) => format!(" AND signbit(o.{name}) IS NOT DISTINCT FROM signbit({read})"),
            _ => String::new(),
        };
        format!(" AND o.{name} IS NOT DISTINCT FROM {read}{sign}")
    });
    let select = format!(
        "SELECT min(o.rowid) FROM {} AS o, {} AS s WHERE s.n = ?{}",
        tables::sql(database, &table.name),
        stage.sql(),
        same.collect::<String>()
    );
    let found = database.connection.query_row(&select, [number], |row| row.get(0));
    found.context(|| format!("looking for a row of {}", table.name))
}

/// Such a column stands where DuckDB has the numbers of rows.
fn hides_rows(record: &crate::batch::Record, table: &Table, column: usize) -> Rejection {
    Rejection {
        table: table.name.clone(),
        place: record.place,
        sqlstate: None,
        reason: format!(
            "its rows are told apart by all of their values, and with a column {} DuckDB cannot say which row one is",
            quoted(&table.columns[column].name)
        ),
        remedy: Some("give it a primary key at the source, or that column another name".to_owned()),
        server_words: None,
        in_doubt: false,
    }
}
