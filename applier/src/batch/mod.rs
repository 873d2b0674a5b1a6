//! A batch: some thousand changes of one or more transactions, held compactly.
//!
//! All values lie in one text, one after the other; a record is a few numbers that point there. A batch never
//! grows past [`Limits`], however large a transaction is: it may end in the middle of one.

mod identity;
pub mod net;

use std::sync::Arc;

use hashbrown::HashMap;
use syncdata_formats::change::{Fields, Op, Row};
use syncdata_formats::manifest::{self, Generated, Relation, ReplicaIdentity};

use crate::table::{self, Difference, Fit, TextEquality, lacking, same_family};

/// What a batch may hold.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    pub records: usize,
    /// Of all values.
    pub text_bytes: usize,
    /// Columns times records: what netting needs memory for.
    pub cells: usize,
}

impl Limits {
    /// Three batches are alive at once (one read, one ready, one applied), each with its text, the same text
    /// encoded for the server, and 8 bytes for every cell, twice: about 100 MiB each at the worst.
    pub fn of_memory() -> Limits {
        Limits { records: 3 << 18, text_bytes: 18 << 20, cells: 9 << 18 }
    }
}

/// Which transaction of which segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TxPlace {
    /// The segment's number.
    pub seq: u64,
    /// Transactions before it in that segment.
    pub index: u64,
}

/// Where a record stands in the archive.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    pub tx: TxPlace,
    /// The line of the change file, from 1.
    pub line: u64,
}

/// A value: where its text lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cell {
    start: u32,
    len: u32,
}

impl Cell {
    pub const NULL: Cell = Cell { start: 0, len: u32::MAX };
    /// Not sent: unchanged.
    pub const ABSENT: Cell = Cell { start: 1, len: u32::MAX };
}

/// The column list that records share: each cell's local column, `None` for what is not written here, or not looked at
/// to find a row.
#[derive(Debug)]
struct Form {
    side: Side,
    names: Vec<String>,
    /// Of the names, then of what is added to them.
    columns: Vec<Option<usize>>,
    /// What rows older than a column have in it, where the source says so.
    added: Vec<Cell>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Side {
    /// All of a row, as its table was then.
    New,
    Data,
    OldKeys,
}

#[derive(Clone, Copy, Debug)]
struct Part {
    form: u32,
    cells: u32,
}

#[derive(Clone, Copy, Debug)]
pub struct Record {
    pub table: usize,
    pub op: Op,
    pub place: Place,
    data: Part,
    old_keys: Part,
}

/// A table of the batch.
#[derive(Debug)]
pub struct BatchTable {
    pub target: Arc<Fit>,
    relation: Arc<Relation>,
    forms: Vec<Form>,
    /// Indices of its records, those before its last TRUNCATE left out: they left no trace.
    pub records: Vec<u32>,
    pub truncated: Option<u32>,
}

#[derive(Debug, Default)]
pub struct Batch {
    text: String,
    cells: Vec<Cell>,
    pub records: Vec<Record>,
    pub tables: Vec<BatchTable>,
    by_name: HashMap<String, usize>,
    /// Cells that a dense row of every record would need.
    dense_cells: usize,
}

impl Batch {
    pub fn is_empty(&self) -> bool {
        self.records.is_empty()
    }

    /// Whether another record may be added. The TRUNCATE lines of one statement stay together.
    pub fn is_full(&self, limits: Limits, next: Op) -> bool {
        let within = self.records.len() < limits.records
            && self.text.len() < limits.text_bytes
            && self.dense_cells < limits.cells;
        let same_statement =
            next == Op::Truncate && self.records.last().is_some_and(|last| last.op == Op::Truncate);
        !within && !same_statement
    }

    /// Whether rows of that table go to another target than this batch knows: another shape of the table.
    pub fn knows_other(&self, name: &str, target: &Arc<Fit>) -> bool {
        self.by_name.get(name).is_some_and(|&table| !Arc::ptr_eq(&self.tables[table].target, target))
    }

    /// Takes a row in. `Err`: it carries a column that the local table lacks, or does not say which row it is about.
    pub fn push(
        &mut self,
        row: &Row<'_>,
        target: &Arc<Fit>,
        relation: &Arc<Relation>,
        place: Place,
    ) -> Result<(), Difference> {
        let table = match self.by_name.get(row.table.as_ref()) {
            Some(&table) => table,
            None => self.add_table(&row.table, target, relation),
        };
        let data = self.part(table, &row.data, if row.op == Op::Insert { Side::New } else { Side::Data })?;
        let old_side = if matches!(row.op, Op::Update | Op::Delete) { Side::OldKeys } else { Side::Data };
        let old_keys = self.part(table, &row.old_keys, old_side)?;
        let index = u32::try_from(self.records.len()).expect("a batch has some thousand records");
        self.records.push(Record { table, op: row.op, place, data, old_keys });
        self.dense_cells += target.table.columns.len();
        let table = &mut self.tables[table];
        if row.op == Op::Truncate {
            table.truncated = Some(index);
            table.records.clear();
        } else {
            table.records.push(index);
        }
        Ok(())
    }

    fn add_table(&mut self, name: &str, target: &Arc<Fit>, relation: &Arc<Relation>) -> usize {
        self.tables.push(BatchTable {
            target: Arc::clone(target),
            relation: Arc::clone(relation),
            forms: Vec::new(),
            records: Vec::new(),
            truncated: None,
        });
        self.by_name.insert(name.to_owned(), self.tables.len() - 1);
        self.tables.len() - 1
    }

    fn part(&mut self, table: usize, fields: &Fields<'_>, side: Side) -> Result<Part, Difference> {
        let form = self.form(table, fields, side)?;
        let cells = u32::try_from(self.cells.len()).expect("cells are limited");
        for (_, value) in fields {
            let cell = match value.as_text() {
                None => Cell::NULL,
                Some(text) => self.keep(text),
            };
            self.cells.push(cell);
        }
        self.cells.extend_from_slice(&self.tables[table].forms[form as usize].added);
        Ok(Part { form, cells })
    }

    fn keep(&mut self, text: &str) -> Cell {
        let start = self.text.len();
        self.text.push_str(text);
        let at = |n| u32::try_from(n).expect("a batch's text is limited, and a line to less than 2 GiB");
        Cell { start: at(start), len: at(text.len()) }
    }

    /// The form with these names; nearly always one of the first two.
    fn form(&mut self, table: usize, fields: &Fields<'_>, side: Side) -> Result<u32, Difference> {
        let same = |form: &Form| {
            form.side == side
                && form.names.len() == fields.len()
                && form.names.iter().zip(fields).all(|(a, (b, _))| a == b)
        };
        let place = match self.tables[table].forms.iter().position(same) {
            Some(place) => place,
            None => {
                let mut form = self.tables[table].new_form(fields, side)?;
                if side == Side::New {
                    for (column, missing) in self.tables[table].newer_than(&form.names) {
                        form.columns.push(Some(column));
                        form.added.push(missing.map_or(Cell::NULL, |missing| self.keep(&missing)));
                    }
                }
                self.tables[table].forms.push(form);
                self.tables[table].forms.len() - 1
            }
        };
        Ok(u32::try_from(place).expect("fewer forms than records"))
    }

    /// The text of a cell; `None` for NULL.
    pub fn value(&self, cell: Cell) -> Option<&str> {
        if cell.len == u32::MAX {
            return None;
        }
        let start = cell.start as usize;
        Some(&self.text[start..start + cell.len as usize])
    }

    /// What the source sent of a row, by local column.
    pub fn data(&self, record: &Record) -> impl Iterator<Item = (usize, Cell)> + Clone + '_ {
        self.fields(record.table, record.data)
    }

    /// The replica identity before the change, by local column.
    pub fn old_keys(&self, record: &Record) -> impl Iterator<Item = (usize, Cell)> + Clone + '_ {
        self.fields(record.table, record.old_keys)
    }

    /// The local column that a value of a record belongs to.
    pub fn column_of(&self, record: &Record, value: Cell) -> Option<&table::Column> {
        let mut fields = self.data(record).chain(self.old_keys(record));
        let (column, _) = fields.find(|(_, cell)| *cell == value)?;
        self.tables[record.table].target.table.columns.get(column)
    }

    /// What the source sent for that column of a row, whether or not it is written here.
    pub fn sent(&self, record: &Record, name: &str) -> Option<Cell> {
        let form = &self.tables[record.table].forms[record.data.form as usize];
        let place = form.names.iter().position(|known| known == name)?;
        Some(self.cells[record.data.cells as usize + place])
    }

    fn fields(&self, table: usize, part: Part) -> impl Iterator<Item = (usize, Cell)> + Clone + '_ {
        let columns = &self.tables[table].forms[part.form as usize].columns;
        let cells = &self.cells[part.cells as usize..part.cells as usize + columns.len()];
        columns.iter().zip(cells).filter_map(|(column, cell)| column.map(|column| (column, *cell)))
    }
}

impl BatchTable {
    pub fn replica_identity(&self) -> ReplicaIdentity {
        self.relation.replica_identity
    }

    fn source_of(&self, column: &table::Column) -> Option<&manifest::Column> {
        table::source_of(&self.relation, &self.target.table, column)
    }

    /// Local columns that values of rows go into.
    pub fn written(&self) -> impl Iterator<Item = usize> + '_ {
        let forms = self.forms.iter().filter(|form| form.side != Side::OldKeys);
        forms.flat_map(|form| form.columns.iter().flatten().copied())
    }

    /// Whether the source has such a column.
    pub fn is_of_source(&self, column: &table::Column) -> bool {
        self.source_of(column).is_some()
    }

    /// Columns that both sides compute and keep, by their names.
    pub fn computed(&self) -> impl Iterator<Item = usize> {
        let stored = |column: &manifest::Column| column.generated == Some(Generated::Stored);
        let stored = self.relation.columns.iter().filter(move |column| stored(column));
        let here = stored.filter_map(|column| self.target.table.column(&column.name));
        here.filter(|place| self.target.table.columns[*place].generated)
    }

    /// Local columns of another type than the source's, with that.
    pub fn other_types(&self) -> impl Iterator<Item = (usize, &str)> {
        let local = self.target.table.columns.iter().enumerate();
        local.filter_map(|(place, column)| {
            let source = self.source_of(column)?;
            let is_other = !column.generated && source.type_name != column.type_name;
            is_other.then_some((place, source.type_name.as_str()))
        })
    }

    /// Whether values of that column are equal here just when the source prints the same text.
    pub fn is_exact(&self, column: &table::Column) -> bool {
        let is_of_family = |source: &manifest::Column| same_family(&source.type_name, &column.type_name);
        column.text_equality == TextEquality::Exact && self.source_of(column).is_some_and(is_of_family)
    }

    /// Whether a value of that column prints here as it does at the source: 1.5 and 1.50 are one number, and so are
    /// 1e+06 and 1000000.
    pub fn prints_alike(&self, column: &table::Column) -> bool {
        const NUMBERS: [&str; 7] = [
            "pg_catalog.\"numeric\"",
            "pg_catalog.numeric",
            "pg_catalog.float4",
            "pg_catalog.float8",
            "pg_catalog._numeric",
            "pg_catalog._float4",
            "pg_catalog._float8",
        ];
        !NUMBERS.contains(&column.base_type.as_str())
            || self.source_of(column).is_some_and(|source| source.type_name == column.type_name)
    }

    fn new_form(&self, fields: &Fields<'_>, side: Side) -> Result<Form, Difference> {
        let names: Vec<String> = fields.iter().map(|(name, _)| name.clone().into_owned()).collect();
        let columns: Vec<Option<usize>> =
            names.iter().map(|name| self.column(name, side)).collect::<Result<_, _>>()?;
        if side != Side::OldKeys
            && let Some(difference) = table::unclear(&self.relation, &self.target.table, &names)
        {
            return Err(difference);
        }
        if side == Side::OldKeys
            && let Some(column) = identity::unsaid(&self.relation, &self.target.table, &names)
        {
            return Err(identity::difference(&column, &self.target.table));
        }
        if side == Side::OldKeys && identity::is_of_other_key(&self.relation, &self.target, &names) {
            return Err(identity::other_key(&self.target.table));
        }
        Ok(Form { side, names, columns, added: Vec::new() })
    }

    /// Columns that a new row of these names does not have: they are younger than it, and at the source it has in them
    /// what the catalog says. A default that they have here may be another.
    fn newer_than(&self, names: &[String]) -> Vec<(usize, Option<String>)> {
        let is_younger = |column: &&manifest::Column| {
            column.generated.is_none() && column.attnum.is_some() && !names.contains(&column.name)
        };
        let table = &self.target.table;
        let here = |column: &manifest::Column| {
            let place = table.column(&column.name).filter(|place| !table.columns[*place].generated)?;
            Some((place, column.missing.clone()))
        };
        self.relation.columns.iter().filter(is_younger).filter_map(here).collect()
    }

    /// The labels that the source has for a column of an enum type, as far as the archive says.
    pub fn labels(&self, column: &str) -> Option<&[String]> {
        let column = self.relation.columns.iter().find(|source| source.name == column)?;
        self.relation.types.get(&column.type_name).map(Vec::as_slice)
    }

    fn column(&self, name: &str, side: Side) -> Result<Option<usize>, Difference> {
        let source = self.relation.columns.iter().find(|column| column.name == name);
        // A virtual column is sent as NULL, whatever it is.
        if source.is_some_and(|column| column.generated == Some(Generated::Virtual)) {
            return Ok(None);
        }
        let table = &self.target.table;
        match table.column(name) {
            // A key may have it, and then finds its row by it. Otherwise it follows from the columns beside it.
            Some(place)
                if table.columns[place].generated && (side != Side::OldKeys || self.target.key.by_image) =>
            {
                Ok(None)
            }
            Some(place) => Ok(Some(place)),
            None => Err(lacking(name, Some(&self.relation), table)),
        }
    }
}
