//! A second opinion on what an archive says: its lines, applied by the book to one map per table.

use std::collections::BTreeMap;
use std::path::Path;

use serde_json::value::RawValue;
use syncdata_formats::lsn::Lsn;
use syncdata_tests::PostgresServer;

use crate::reader::{self, Segment};

type Fields<'a> = BTreeMap<String, &'a RawValue>;
/// Text as PostgreSQL prints it; `None` is NULL.
type Row = BTreeMap<String, Option<String>>;

/// Tables with their rows by key: every table's key is its column `id`.
#[derive(Debug, Default)]
pub(crate) struct Replay {
    tables: BTreeMap<String, BTreeMap<String, Row>>,
    /// The end of the last commit.
    end: Option<Lsn>,
    rows_in_transaction: u64,
    pub transactions: usize,
}

/// Replays the whole archive. On the way: no transaction comes twice, and commits are in order.
pub(crate) fn replay(archive: &Path) -> Replay {
    let mut replay = Replay::default();
    for Segment { lines, .. } in reader::segments(archive) {
        lines.iter().for_each(|line| replay.line(line));
        assert_eq!(replay.rows_in_transaction, 0, "a segment holds whole transactions only");
    }
    replay
}

/// Whether the archive, replayed, holds the rows of the source.
pub(crate) async fn assert_equals(archive: &Path, source: &PostgresServer, tables: &[&str]) -> Replay {
    let replay = replay(archive);
    let nothing = BTreeMap::new();
    for table in tables {
        let (wanted, found) = (rows(source, table).await, replay.tables.get(*table).unwrap_or(&nothing));
        for (key, row) in &wanted {
            assert_eq!(found.get(key), Some(row), "{table}, row {key}");
        }
        assert_eq!(found.len(), wanted.len(), "{table}: rows");
    }
    replay
}

async fn rows(source: &PostgresServer, table: &str) -> BTreeMap<String, Row> {
    let names = format!(
        "SELECT attname FROM pg_attribute WHERE attrelid = '{table}'::regclass AND attnum > 0
         AND NOT attisdropped ORDER BY attnum"
    );
    let names: Vec<String> = source.query(&names).await.into_iter().flatten().flatten().collect();
    let rows = source.query(&format!("SELECT * FROM {table}")).await;
    rows.into_iter()
        .map(|values| names.iter().cloned().zip(values).collect::<Row>())
        .map(|row| (key(&row), row))
        .collect()
}

fn key(row: &Row) -> String {
    row["id"].clone().expect("a key is not NULL")
}

impl Replay {
    fn line(&mut self, line: &str) {
        let fields: Fields<'_> = serde_json::from_str(line).expect("a line is an object");
        let op = text(fields["op"]).expect("an operation");
        if op == "COMMIT" {
            return self.commit(&fields);
        }
        self.rows_in_transaction += 1;
        let table = self.tables.entry(text(fields["table"]).expect("a name")).or_default();
        let old = fields.get("old_keys").map(|keys| row(keys));
        let data = fields.get("data").map(|data| row(data));
        match op.as_str() {
            "INSERT" => {
                let data = data.expect("an insert has data");
                assert!(table.insert(key(&data), data).is_none(), "inserted twice: {line}");
            }
            "UPDATE" => {
                let old = key(&old.expect("an update has its key"));
                let mut row =
                    table.remove(&old).unwrap_or_else(|| panic!("updated what is not there: {line}"));
                // What is absent did not change.
                row.extend(data.expect("an update has data"));
                assert!(table.insert(key(&row), row).is_none(), "moved onto another row: {line}");
            }
            "DELETE" => {
                let old = key(&old.expect("a delete has its key"));
                assert!(table.remove(&old).is_some(), "deleted what is not there: {line}");
            }
            "TRUNCATE" => table.clear(),
            other => panic!("{other} is no operation"),
        }
    }

    fn commit(&mut self, fields: &Fields<'_>) {
        let end: Lsn = text(fields["end_lsn"]).expect("a position").parse().expect("an LSN");
        assert!(self.end < Some(end), "a commit at {end} comes behind one at {:?}", self.end);
        assert_eq!(fields["changes"].get(), self.rows_in_transaction.to_string(), "rows of {end}");
        (self.end, self.rows_in_transaction) = (Some(end), 0);
        self.transactions += 1;
    }
}

fn row(object: &RawValue) -> Row {
    let fields: Fields<'_> = serde_json::from_str(object.get()).expect("columns are an object");
    fields.into_iter().map(|(name, value)| (name, text(value))).collect()
}

/// Numbers keep their digits.
fn text(value: &RawValue) -> Option<String> {
    match value.get() {
        "null" => None,
        quoted if quoted.starts_with('"') => Some(serde_json::from_str(quoted).expect("a string")),
        token => Some(token.to_owned()),
    }
}
