//! Nets the changes of one table in a batch: what is left to do for each key when all is said.
//!
//! Pure. The result is the same table as the changes one by one in source order would give, for rows that the
//! local table lacks or has against expectation too. Keys that move are left out of it, together with all
//! that touches them: those records stay in source order.

use std::hash::BuildHasher;
use std::ops::Range;

use hashbrown::{DefaultHashBuilder, HashSet, HashTable};
use syncdata_formats::change::Op;

use crate::batch::{Batch, Cell, Record};
use crate::table::TextEquality;

/// What is left to do in one table, in this order: deletes, updates, inserts, then the records in order.
#[derive(Debug, Default)]
pub struct Net {
    pub deletes: Vec<Row>,
    pub updates: Vec<Row>,
    pub inserts: Vec<Row>,
    /// Records that could not be netted, in source order.
    pub in_order: Vec<u32>,
    /// Deletes of rows that must have been there before the batch.
    pub expected_deletes: u64,
    /// Updates and deletes of rows that the batch itself had removed.
    pub missing: u64,
    /// Dense rows: as many cells for each as the local table has columns.
    cells: Vec<Cell>,
    width: usize,
}

/// A row of a net.
#[derive(Clone, Copy, Debug)]
pub struct Row {
    at: usize,
}

impl Net {
    /// One cell for each local column. Of a delete, only those of the key are there.
    pub fn cells(&self, row: Row) -> &[Cell] {
        &self.cells[row.at..row.at + self.width]
    }

    /// All of a table's changes, untouched.
    pub fn in_order(records: &[u32]) -> Net {
        Net { in_order: records.to_vec(), ..Net::default() }
    }

    /// Nets the records of one table of the batch.
    pub fn of(batch: &Batch, table: usize) -> Net {
        let batch_table = &batch.tables[table];
        let all_inserts = || {
            let mut records = batch_table.records.iter();
            records.all(|&record| batch.records[record as usize].op == Op::Insert)
        };
        if batch_table.target.key.nettable {
            Netting::new(batch, table).run()
        } else if !batch_table.target.key.deferrable && all_inserts() {
            Net::plain_inserts(batch, table)
        } else {
            Net::in_order(&batch_table.records)
        }
    }

    /// Rows that are new as they stand: for tables whose keys cannot be compared here.
    fn plain_inserts(batch: &Batch, table: usize) -> Net {
        let width = batch.tables[table].target.table.columns.len();
        let mut net = Net { width, ..Net::default() };
        for &record in &batch.tables[table].records {
            let row = net.add_row();
            net.overlay(row, batch.data(&batch.records[record as usize]));
            net.inserts.push(row);
        }
        net
    }

    fn add_row(&mut self) -> Row {
        let at = self.cells.len();
        self.cells.resize(at + self.width, Cell::ABSENT);
        Row { at }
    }

    fn clear(&mut self, row: Row) {
        self.cells[row.at..row.at + self.width].fill(Cell::ABSENT);
    }

    fn overlay(&mut self, row: Row, fields: impl Iterator<Item = (usize, Cell)>) {
        let cells = &mut self.cells[row.at..row.at + self.width];
        for (column, cell) in fields {
            cells[column] = cell;
        }
    }
}

/// What is at a key now, seen from the row that may have been there before the batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Now {
    /// That row, untouched.
    Before,
    /// That row with other values, if it was there.
    Patched,
    /// That row with other values; a new row, if it was not there.
    Upserted,
    /// A new row. That one is gone.
    New,
    Gone,
}

struct Entry {
    /// Where its canonical text lies.
    key: Range<usize>,
    hash: u64,
    now: Now,
    /// Whether the row from before has to be deleted, and whether it must be there.
    delete: Option<Expected>,
    row: Row,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Expected {
    Yes,
    No,
}

/// What the records of a table say about keys.
struct Keys {
    /// The key by which each record finds its row, as a range of the text of all keys.
    old: Vec<Range<usize>>,
    /// Keys that UPDATEs gave up or took.
    moved: HashSet<Vec<u8>>,
}

struct Netting<'a> {
    batch: &'a Batch,
    table: usize,
    key_columns: Vec<(usize, TextEquality)>,
    /// The canonical texts of all keys, one after the other.
    keys: Vec<u8>,
    entries: Vec<Entry>,
    index: HashTable<u32>,
    hasher: DefaultHashBuilder,
    net: Net,
}

impl<'a> Netting<'a> {
    fn new(batch: &'a Batch, table: usize) -> Netting<'a> {
        let local = &batch.tables[table].target.table;
        let key = batch.tables[table].target.key.columns.iter();
        Netting {
            batch,
            table,
            key_columns: key.map(|&column| (column, local.columns[column].text_equality)).collect(),
            keys: Vec::new(),
            entries: Vec::new(),
            index: HashTable::new(),
            hasher: DefaultHashBuilder::default(),
            net: Net { width: local.columns.len(), ..Net::default() },
        }
    }

    fn run(mut self) -> Net {
        let records = &self.batch.tables[self.table].records;
        let Some(Keys { old, moved }) = self.read_keys(records) else { return Net::in_order(records) };
        for (&index, key) in records.iter().zip(old) {
            // A record that moves a key has its old one in there, so this finds all that touch either.
            if !moved.is_empty() && moved.contains(&self.keys[key.clone()]) {
                self.net.in_order.push(index);
            } else {
                self.take(&self.batch.records[index as usize], key);
            }
        }
        self.finish()
    }

    /// `None`: a record does not say its key.
    fn read_keys(&mut self, records: &[u32]) -> Option<Keys> {
        let (mut keys, mut ranges) = (Vec::new(), Vec::with_capacity(records.len()));
        let (mut moved, mut new) = (HashSet::new(), Vec::new());
        for &index in records {
            let record = &self.batch.records[index as usize];
            let (start, none) = (keys.len(), std::iter::empty());
            let is_whole = match record.op {
                Op::Insert => self.key(self.batch.data(record), none, &mut keys),
                _ => self.key(self.batch.old_keys(record), none, &mut keys),
            };
            if !is_whole {
                return None;
            }
            if record.op == Op::Update {
                new.clear();
                // A part that the update did not send is the old one.
                if !self.key(self.batch.data(record), self.batch.old_keys(record), &mut new) {
                    return None;
                }
                if keys[start..] != new {
                    moved.insert(keys[start..].to_vec());
                    moved.insert(new.clone());
                }
            }
            ranges.push(start..keys.len());
        }
        self.keys = keys;
        Some(Keys { old: ranges, moved })
    }

    /// Appends the canonical text of the key; false if it is not all there.
    fn key<A, B>(&self, fields: A, otherwise: B, key: &mut Vec<u8>) -> bool
    where
        A: Iterator<Item = (usize, Cell)> + Clone,
        B: Iterator<Item = (usize, Cell)> + Clone,
    {
        for &(wanted, equality) in &self.key_columns {
            let find = |(column, cell): (usize, Cell)| (column == wanted).then_some(cell);
            let cell = fields.clone().find_map(find).or_else(|| otherwise.clone().find_map(find));
            // A key with a NULL equals nothing, itself included.
            let Some(text) = cell.and_then(|cell| self.batch.value(cell)) else { return false };
            let text = canonical(equality, text);
            key.extend_from_slice(text.as_bytes());
            if self.key_columns.len() > 1 {
                // ("a", "bc") and ("ab", "c") are two keys.
                key.extend_from_slice(&text.len().to_le_bytes());
            }
        }
        true
    }

    fn take(&mut self, record: &Record, key: Range<usize>) {
        let place = self.entry(key);
        let entry = &mut self.entries[place];
        let row = entry.row;
        match (record.op, entry.now) {
            (Op::Truncate, _) => return,
            (Op::Update | Op::Delete, Now::Gone) => {
                self.net.missing += 1;
                return;
            }
            (Op::Update, Now::Before) => entry.now = Now::Patched,
            (Op::Insert, Now::Before | Now::Patched) => entry.now = Now::Upserted,
            (Op::Insert, Now::Gone) => entry.now = Now::New,
            (Op::Insert | Op::Update, Now::Patched | Now::Upserted | Now::New) => {}
            (Op::Delete, Now::Before | Now::Patched) => {
                (entry.now, entry.delete) = (Now::Gone, Some(Expected::Yes));
            }
            (Op::Delete, Now::Upserted) => (entry.now, entry.delete) = (Now::Gone, Some(Expected::No)),
            (Op::Delete, Now::New) => entry.now = Now::Gone,
        }
        if record.op == Op::Delete {
            // Values of the row that is gone must not shine through a later one.
            self.net.clear(row);
        }
        if record.op != Op::Insert {
            let is_key = |&(column, _): &(usize, Cell)| self.key_columns.iter().any(|key| key.0 == column);
            self.net.overlay(row, self.batch.old_keys(record).filter(is_key));
        }
        self.net.overlay(row, self.batch.data(record));
    }

    fn entry(&mut self, key: Range<usize>) -> usize {
        let hash = self.hasher.hash_one(&self.keys[key.clone()]);
        let (keys, entries) = (&self.keys, &self.entries);
        let same = |&place: &u32| {
            let entry = &entries[place as usize];
            entry.hash == hash && keys[entry.key.clone()] == keys[key.clone()]
        };
        if let Some(&place) = self.index.find(hash, same) {
            return place as usize;
        }
        let truncated = self.batch.tables[self.table].truncated.is_some();
        let now = if truncated { Now::Gone } else { Now::Before };
        self.entries.push(Entry { key, hash, now, delete: None, row: self.net.add_row() });
        let place = self.entries.len() - 1;
        let number = u32::try_from(place).expect("fewer keys than records");
        let entries = &self.entries;
        self.index.insert_unique(hash, number, |&place| entries[place as usize].hash);
        place
    }

    fn finish(mut self) -> Net {
        for entry in &self.entries {
            if let Some(expected) = entry.delete {
                self.net.deletes.push(entry.row);
                self.net.expected_deletes += u64::from(expected == Expected::Yes);
            }
            match entry.now {
                Now::Patched => self.net.updates.push(entry.row),
                Now::Upserted | Now::New => self.net.inserts.push(entry.row),
                Now::Before | Now::Gone => {}
            }
        }
        self.net
    }
}

/// One text for all texts that the server calls equal.
pub(crate) fn canonical(equality: TextEquality, text: &str) -> &str {
    match equality {
        TextEquality::Exact => text,
        TextEquality::Padded => text.trim_end_matches(' '),
        TextEquality::Numeric => {
            let text = match text.split_once('.') {
                Some(_) => text.trim_end_matches('0').trim_end_matches('.'),
                None => text,
            };
            if text == "-0" { "0" } else { text }
        }
        TextEquality::Unknown => unreachable!("such a key is not nettable"),
    }
}
