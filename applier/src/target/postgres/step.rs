//! The set-wise steps of a batch: nets as the bytes that go to the server.
//!
//! Large steps travel as COPY text, small ones as one array for each column, so that many of them fit into one
//! round trip.

use std::collections::HashMap;

use bytes::Bytes;

use crate::batch::net::{Net, Row};
use crate::batch::{Batch, BatchTable, Cell};
use crate::table::{Table, TextEquality};

/// From here on a COPY is faster than arrays. Measured: below a few hundred rows its round trips cost more.
pub const COPY_ROWS_MIN: usize = 500;

/// A statement with its arrays is in memory several times, here and in the server; COPY goes in pieces.
const ARRAY_BYTES_MAX: usize = 1 << 20;

/// OID of `text`, as arrays name their elements' type.
const TEXT_OID: i32 = 25;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StepKind {
    Delete,
    Update,
    Insert,
}

/// Rows of one table that have values for the same columns.
#[derive(Debug)]
pub struct Step {
    pub kind: StepKind,
    /// Local columns that find the row; none for inserts.
    pub keys: Vec<usize>,
    /// Local columns that are written; none for deletes.
    pub columns: Vec<usize>,
    pub rows: usize,
    pub body: Body,
}

/// The values: of the keys, then of the columns.
#[derive(Clone, Debug)]
pub enum Body {
    Copy(Bytes),
    /// Each a `text[]` in the server's binary form.
    Arrays(Vec<Bytes>),
}

/// All that is to be done for one table of a batch.
#[derive(Debug, Default)]
pub struct TableWork {
    pub steps: Vec<Step>,
    /// Records of the batch that are applied one by one after the steps.
    pub in_order: Vec<u32>,
    pub expected_deletes: u64,
    pub missing: u64,
}

/// A batch with its work worked out.
#[derive(Debug)]
pub struct Prepared {
    pub batch: Batch,
    /// For each of the batch's tables.
    pub work: Vec<TableWork>,
}

impl Prepared {
    pub fn of(batch: Batch) -> Prepared {
        Prepared::new(batch, COPY_ROWS_MIN)
    }

    /// Steps of `copy_rows_min` rows and more are copied.
    pub fn new(batch: Batch, copy_rows_min: usize) -> Prepared {
        let work = (0..batch.tables.len()).map(|table| work(&batch, table, copy_rows_min)).collect();
        Prepared { batch, work }
    }

    /// Nothing netted: every record by itself, in source order.
    pub fn row_by_row(batch: Batch) -> Prepared {
        let in_order =
            |table: &BatchTable| TableWork { in_order: table.records.clone(), ..TableWork::default() };
        let work = batch.tables.iter().map(in_order).collect();
        Prepared { batch, work }
    }
}

fn work(batch: &Batch, table: usize, copy_rows_min: usize) -> TableWork {
    let target = &batch.tables[table].target;
    let net = Net::of(batch, table);
    let keys = &target.key.columns;
    // Values of an array are cast, those of a COPY go through the input functions.
    let has_own_cast = target.table.columns.iter().any(|column| column.has_own_cast);
    let body = |columns: &[usize], rows: &[Row]| {
        if has_own_cast
            || rows.len() >= copy_rows_min
            || text_bytes(batch, &net, columns, rows) > ARRAY_BYTES_MAX
        {
            Body::Copy(copy_text(batch, &net, columns, rows))
        } else {
            Body::Arrays(columns.iter().map(|&column| text_array(batch, &net, column, rows)).collect())
        }
    };
    let mut steps = Vec::new();
    if !net.deletes.is_empty() {
        let (rows, body) = (net.deletes.len(), body(keys, &net.deletes));
        steps.push(Step { kind: StepKind::Delete, keys: keys.clone(), columns: Vec::new(), rows, body });
    }
    for (columns, rows) in by_columns(&net, &net.updates) {
        let columns = updated(&target.table, keys, columns);
        // An update that changes nothing needs no statement.
        if !columns.is_empty() {
            let sent: Vec<usize> = keys.iter().chain(&columns).copied().collect();
            let (body, rows) = (body(&sent, &rows), rows.len());
            steps.push(Step { kind: StepKind::Update, keys: keys.clone(), columns, rows, body });
        }
    }
    for (columns, rows) in by_columns(&net, &net.inserts) {
        let (body, rows) = (body(&columns, &rows), rows.len());
        steps.push(Step { kind: StepKind::Insert, keys: Vec::new(), columns, rows, body });
    }
    TableWork { steps, expected_deletes: net.expected_deletes, missing: net.missing, in_order: net.in_order }
}

/// The columns that an update sets: key columns whose texts are equal need not be set.
fn updated(table: &Table, keys: &[usize], mut columns: Vec<usize>) -> Vec<usize> {
    columns.retain(|&column| {
        let local = &table.columns[column];
        // Equal keys may be spelt differently: 1.0 and 1.00.
        !(keys.contains(&column) && local.text_equality == TextEquality::Exact)
    });
    columns
}

/// Rows by the columns that they have values for.
fn by_columns(net: &Net, rows: &[Row]) -> Vec<(Vec<usize>, Vec<Row>)> {
    let mut groups: Vec<(Vec<usize>, Vec<Row>)> = Vec::new();
    let mut index: HashMap<Vec<usize>, usize> = HashMap::new();
    let mut columns = Vec::new();
    for &row in rows {
        columns.clear();
        let cells = net.cells(row).iter().enumerate();
        columns.extend(cells.filter(|(_, cell)| **cell != Cell::ABSENT).map(|(column, _)| column));
        let group = match index.get(&columns) {
            Some(&group) => group,
            None => {
                groups.push((columns.clone(), Vec::new()));
                index.insert(columns.clone(), groups.len() - 1);
                groups.len() - 1
            }
        };
        groups[group].1.push(row);
    }
    groups
}

fn text_bytes(batch: &Batch, net: &Net, columns: &[usize], rows: &[Row]) -> usize {
    let of_row = |row: &Row| -> usize {
        let cells = net.cells(*row);
        columns.iter().map(|&column| batch.value(cells[column]).map_or(0, str::len)).sum()
    };
    rows.iter().map(of_row).sum()
}

fn copy_text(batch: &Batch, net: &Net, columns: &[usize], rows: &[Row]) -> Bytes {
    let mut text = Vec::with_capacity(text_bytes(batch, net, columns, rows) + rows.len() * columns.len() * 2);
    for &row in rows {
        let cells = net.cells(row);
        for &column in columns {
            match batch.value(cells[column]) {
                Some(value) => escape(value.as_bytes(), &mut text),
                None => text.extend_from_slice(b"\\N"),
            }
            text.push(b'\t');
        }
        if let Some(last) = text.last_mut() {
            *last = b'\n';
        }
    }
    Bytes::from(text)
}

fn escape(value: &[u8], text: &mut Vec<u8>) {
    let mut rest = value;
    while let Some(at) = rest.iter().position(|byte| matches!(byte, b'\\' | b'\t' | b'\n' | b'\r')) {
        text.extend_from_slice(&rest[..at]);
        text.extend_from_slice(match rest[at] {
            b'\\' => b"\\\\",
            b'\t' => b"\\t",
            b'\n' => b"\\n",
            _ => b"\\r",
        });
        rest = &rest[at + 1..];
    }
    text.extend_from_slice(rest);
}

/// One dimension, from 1, as `array_recv` reads it.
fn text_array(batch: &Batch, net: &Net, column: usize, rows: &[Row]) -> Bytes {
    let size = |n: usize| i32::try_from(n).expect("arrays are of few rows, values of less than a gigabyte");
    let mut array = Vec::new();
    let has_nulls = rows.iter().any(|&row| batch.value(net.cells(row)[column]).is_none());
    for header in [1, i32::from(has_nulls), TEXT_OID, size(rows.len()), 1] {
        array.extend_from_slice(&header.to_be_bytes());
    }
    for &row in rows {
        match batch.value(net.cells(row)[column]) {
            None => array.extend_from_slice(&(-1_i32).to_be_bytes()),
            Some(value) => {
                array.extend_from_slice(&size(value.len()).to_be_bytes());
                array.extend_from_slice(value.as_bytes());
            }
        }
    }
    Bytes::from(array)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn copy_text_is_escaped() {
        for (value, expected) in [
            ("plain", "plain"),
            ("a\tb\nc\rd", "a\\tb\\nc\\rd"),
            ("\\N", "\\\\N"),
            ("\\.", "\\\\."),
            ("", ""),
        ] {
            let mut text = Vec::new();
            escape(value.as_bytes(), &mut text);
            assert_eq!(text, expected.as_bytes());
        }
    }
}
