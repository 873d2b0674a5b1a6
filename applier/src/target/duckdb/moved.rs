//! Records that move keys, followed from row to row. Pure. What is left is the same table as the changes one by one in source
//! order give: rows that go, and rows that come, of which some go on from what a row had before.

use std::collections::HashMap;

use syncdata_formats::change::Op;

use crate::batch::{Batch, Cell, Record};

/// The values of a key, in the order of its columns.
pub(super) type KeyCells = Vec<Cell>;

#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Moved {
    /// Rows from before that are no more.
    pub deletes: Vec<KeyCells>,
    pub rows: Vec<Row>,
    /// Updates and deletes of rows that are not here.
    pub missing: u64,
    /// Rows that were in the way of a key that moved.
    pub replaced: u64,
}

#[derive(Debug, PartialEq, Eq)]
pub(super) struct Row {
    /// The row from before that it is, and whose other values it keeps. `None`: a new one.
    pub origin: Option<KeyCells>,
    /// One for each local column.
    pub cells: Vec<Cell>,
}

/// What is at a key now.
#[derive(Clone, Copy)]
enum Now {
    /// The row from before.
    Before,
    Row(usize),
    Nothing,
}

/// The keys that the records name, each once.
pub(super) fn keys(batch: &Batch, key: &[usize], records: &[u32]) -> Vec<KeyCells> {
    let mut known = HashMap::new();
    for &index in records {
        let record = &batch.records[index as usize];
        for cells in [old_key(batch, key, record), new_key(batch, key, record)].into_iter().flatten() {
            known.entry(text(batch, &cells)).or_insert(cells);
        }
    }
    let mut keys: Vec<KeyCells> = known.into_values().collect();
    keys.sort_unstable_by_key(|cells| text(batch, cells));
    keys
}

/// `is_here` tells of which keys there is a row.
pub(super) fn follow(batch: &Batch, table: usize, records: &[u32], is_here: impl Fn(&[u8]) -> bool) -> Moved {
    let target = &batch.tables[table].target;
    let following = Following {
        batch,
        key: &target.key.columns,
        width: target.table.columns.len(),
        is_here,
        now: HashMap::new(),
        rows: Vec::new(),
        moved: Moved::default(),
    };
    following.run(records)
}

struct Following<'a, F> {
    batch: &'a Batch,
    key: &'a [usize],
    width: usize,
    is_here: F,
    now: HashMap<Vec<u8>, Now>,
    /// `None`: it is no more.
    rows: Vec<Option<Row>>,
    moved: Moved,
}

impl<F: Fn(&[u8]) -> bool> Following<'_, F> {
    fn run(mut self, records: &[u32]) -> Moved {
        for &index in records {
            let record = &self.batch.records[index as usize];
            match record.op {
                Op::Insert => self.insert(record),
                Op::Update => self.update(record),
                Op::Delete => self.delete(record),
                // Records from before it are not among these.
                Op::Truncate => {}
            }
        }
        self.moved.rows = self.rows.into_iter().flatten().collect();
        self.moved
    }

    fn insert(&mut self, record: &Record) {
        let Some(key) = new_key(self.batch, self.key, record) else { return };
        let row = match self.at(&key) {
            Now::Row(row) => row,
            Now::Before => self.begin(Some(key.clone()), &key),
            Now::Nothing => self.begin(None, &key),
        };
        self.overlay(row, record);
        self.now.insert(text(self.batch, &key), Now::Row(row));
    }

    fn update(&mut self, record: &Record) {
        let Some(old) = old_key(self.batch, self.key, record) else { return };
        let row = match self.at(&old) {
            Now::Nothing => {
                self.moved.missing += 1;
                return;
            }
            Now::Row(row) => row,
            Now::Before => self.begin(Some(old.clone()), &old),
        };
        self.overlay(row, record);
        let new = new_key(self.batch, self.key, record).unwrap_or_else(|| old.clone());
        let (old, new_text) = (text(self.batch, &old), text(self.batch, &new));
        if old != new_text {
            if self.remove(&new) {
                self.moved.replaced += 1;
            }
            self.now.insert(old, Now::Nothing);
        }
        self.now.insert(new_text, Now::Row(row));
    }

    fn delete(&mut self, record: &Record) {
        let Some(key) = old_key(self.batch, self.key, record) else { return };
        if !self.remove(&key) {
            self.moved.missing += 1;
        }
        self.now.insert(text(self.batch, &key), Now::Nothing);
    }

    fn at(&self, key: &[Cell]) -> Now {
        let text = text(self.batch, key);
        match self.now.get(&text) {
            Some(now) => *now,
            None if (self.is_here)(&text) => Now::Before,
            None => Now::Nothing,
        }
    }

    /// Whether there was a row.
    fn remove(&mut self, key: &[Cell]) -> bool {
        match self.at(key) {
            Now::Nothing => return false,
            Now::Before => self.moved.deletes.push(key.to_vec()),
            Now::Row(row) => {
                let origin = self.rows[row].take().and_then(|row| row.origin);
                self.moved.deletes.extend(origin);
            }
        }
        true
    }

    fn begin(&mut self, origin: Option<KeyCells>, key: &[Cell]) -> usize {
        let mut cells = vec![Cell::ABSENT; self.width];
        for (&column, &cell) in self.key.iter().zip(key) {
            cells[column] = cell;
        }
        self.rows.push(Some(Row { origin, cells }));
        self.rows.len() - 1
    }

    fn overlay(&mut self, row: usize, record: &Record) {
        let row = self.rows[row].as_mut().expect("what is at a key is there");
        for (column, cell) in self.batch.data(record) {
            row.cells[column] = cell;
        }
    }
}

/// The key by which an update or a delete finds its row; of an insert none.
fn old_key(batch: &Batch, key: &[usize], record: &Record) -> Option<KeyCells> {
    if record.op == Op::Insert {
        return None;
    }
    let cell =
        |column: &usize| batch.old_keys(record).find(|(found, _)| found == column).map(|(_, cell)| cell);
    key.iter().map(cell).collect()
}

/// The key that the row has then; of a delete none. A part that an update does not say is the old one.
fn new_key(batch: &Batch, key: &[usize], record: &Record) -> Option<KeyCells> {
    if record.op == Op::Delete {
        return None;
    }
    let cell = |column: &usize| {
        let mut fields = batch.data(record).chain(batch.old_keys(record));
        fields.find(|(found, _)| found == column).map(|(_, cell)| cell)
    };
    key.iter().map(cell).collect()
}

/// One text for a key: ("a", "bc") and ("ab", "c") are two.
pub(super) fn text(batch: &Batch, key: &[Cell]) -> Vec<u8> {
    let mut text = Vec::new();
    for &cell in key {
        let part = batch.value(cell).unwrap_or_default();
        text.extend_from_slice(part.as_bytes());
        text.extend_from_slice(&part.len().to_le_bytes());
    }
    text
}
