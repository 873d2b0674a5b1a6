//! One record as statements: the way of last resort, in source order, which also finds the record to blame.

use postgres_protocol::escape::escape_literal;
use syncdata_formats::change::Op;
use syncdata_formats::manifest::ReplicaIdentity;

use super::sql;
use super::watched::Changed;
use crate::batch::{Batch, BatchTable, Cell, Record};
use crate::table::{Fit, Shape, Table};

/// A statement with one parameter for each value.
#[derive(Debug)]
pub(super) struct RowStatement {
    pub(super) sql: String,
    pub(super) values: Vec<Cell>,
    pub(super) role: Role,
    says: Says,
}

/// What the number of rows is that a statement says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Says {
    /// Rows that are new, or were there and take other values.
    Written,
    Updated,
    /// One that has taken other values, or two for one that has gone and come again.
    UpdatedOrPairs,
    Deleted,
    /// Rows that have gone and come again.
    Pairs,
    /// Rows that are there.
    Found,
    /// The same under the key of the new row that comes next.
    There,
}

impl RowStatement {
    pub(super) fn says_what_is_there(&self) -> bool {
        self.says == Says::There
    }

    /// What changes those rows are, where so many are known to have been there under the key of a new one.
    pub(super) fn changes(&self, rows: u64, there: Option<u64>) -> Changed {
        match self.says {
            Says::Written if there.is_some_and(|there| there > 0) => Changed::updated(rows),
            Says::Written => Changed::inserted(rows),
            Says::Updated => Changed::updated(rows),
            Says::UpdatedOrPairs => Changed::updated(rows % 2).and(Changed::replaced(rows / 2)),
            Says::Deleted => Changed::deleted(rows),
            Says::Pairs => Changed::replaced(rows),
            Says::Found | Says::There => Changed::default(),
        }
    }
}

/// What is done to rows to which others may refer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Acts {
    Delete,
    /// They take the record's values.
    Update,
    /// They go, and come again with these.
    Replace,
}

/// The rows, as a condition on their table.
#[derive(Debug)]
pub(super) struct Acting {
    pub(super) acts: Acts,
    pub(super) condition: String,
    pub(super) values: Vec<Cell>,
}

/// What the number of rows that it hits says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Role {
    /// One is right, none means that the row was missing.
    Exactly,
    /// Whatever there is.
    Any,
    /// None is right, one means that a key moved onto a row that should not have been there.
    Nothing,
}

/// The statements of a record, in order; whether a new row is there already is asked where somebody wants to know.
pub(super) fn statements(batch: &Batch, record: &Record, tells_new_rows: bool) -> Vec<RowStatement> {
    let writer = Writer::new(batch, record);
    match record.op {
        Op::Insert => writer.insert(tells_new_rows),
        Op::Update => writer.update(),
        Op::Delete => vec![writer.delete()],
        // Done for the whole batch before any row.
        Op::Truncate => Vec::new(),
    }
}

/// What its statements do to rows that are there, as far as it concerns others that refer to them.
pub(super) fn acting(batch: &Batch, record: &Record) -> Vec<Acting> {
    let writer = Writer::new(batch, record);
    let mut values = Vec::new();
    match record.op {
        Op::Insert => writer.acting_insert(),
        Op::Update => writer.acting_update(),
        Op::Delete => {
            let condition = writer.condition(&mut values);
            vec![Acting { acts: Acts::Delete, condition, values }]
        }
        Op::Truncate => Vec::new(),
    }
}

struct Writer<'a> {
    batch: &'a Batch,
    batch_table: &'a BatchTable,
    target: &'a Fit,
    data: Vec<(usize, Cell)>,
    find: Find,
}

/// How the row is found that the record speaks of.
enum Find {
    Key {
        fields: Vec<(usize, Cell)>,
        unique: bool,
    },
    /// By all that is in it: types without equality, and equal rows of which any one is as good.
    Image(Vec<(usize, Cell)>),
}

impl<'a> Writer<'a> {
    fn new(batch: &'a Batch, record: &Record) -> Writer<'a> {
        let batch_table = &batch.tables[record.table];
        let target: &Fit = &batch_table.target;
        let old: Vec<(usize, Cell)> = batch.old_keys(record).collect();
        let of_key = |&column: &usize| old.iter().copied().find(|field| field.0 == column);
        let key: Option<Vec<(usize, Cell)>> = target.key.columns.iter().map(of_key).collect();
        let find = match key.filter(|key| !key.is_empty() && !target.key.by_image) {
            Some(fields) => Find::key(batch, &target.table, fields),
            None if batch_table.replica_identity() == ReplicaIdentity::Full => Find::Image(old),
            None => Find::key(batch, &target.table, old),
        };
        Writer { batch, batch_table, target, data: batch.data(record).collect(), find }
    }

    fn insert(&self, tells_new_rows: bool) -> Vec<RowStatement> {
        let mut statements = Vec::from_iter(self.replace_other());
        let may_be_there = tells_new_rows && (self.target.key.arbiter || self.target.key.by_hand);
        statements.extend(self.there().filter(|_| may_be_there).map(|(key, values)| {
            let sql = format!("SELECT 1 FROM {} WHERE {key}", self.target.table.sql());
            RowStatement { sql, values, role: Role::Any, says: Says::There }
        }));
        statements.push(self.insert_or_overwrite());
        statements
    }

    /// A row that is there under the key goes, and comes again, where it has another value in a column that the server
    /// lets nobody update.
    fn replace_other(&self) -> Option<RowStatement> {
        let (condition, mut values) = self.other_there()?;
        let (gone, come) = self.gone_and_come(&condition, &mut values);
        let sql = format!("WITH {gone} {come}");
        Some(RowStatement { sql, values, role: Role::Any, says: Says::Pairs })
    }

    /// Such a row.
    fn other_there(&self) -> Option<(String, Vec<Cell>)> {
        let fixed = self.fixed(&self.target.key.columns);
        let (key, mut values) = self.there().filter(|_| !fixed.is_empty())?;
        let differs = self.differs(&fixed, &mut values);
        Some((format!("{key} AND {differs}"), values))
    }

    /// The row that is there under the key of a new one.
    fn there(&self) -> Option<(String, Vec<Cell>)> {
        let of_key = |key: &usize| self.data.iter().copied().find(|field| field.0 == *key);
        let key: Option<Vec<(usize, Cell)>> = self.target.key.columns.iter().map(of_key).collect();
        let mut values = Vec::new();
        let mut equal = |(column, cell): (usize, Cell)| {
            values.push(cell);
            self.target.table.columns[column].equals(&format!("${}", values.len()))
        };
        let key: Vec<String> = key.filter(|key| !key.is_empty())?.into_iter().map(&mut equal).collect();
        Some((key.join(" AND "), values))
    }

    fn acting_insert(&self) -> Vec<Acting> {
        let replaced = self.other_there().map(|there| (Acts::Replace, there));
        let taken = self.there().map(|there| (Acts::Update, there));
        let acting = |(acts, (condition, values))| Acting { acts, condition, values };
        replaced.into_iter().chain(taken).map(acting).collect()
    }

    fn acting_update(&self) -> Vec<Acting> {
        let moved = self.moved_key();
        let mut acting = Vec::new();
        if !moved.is_empty() && self.target.key.arbiter {
            let mut values = Vec::new();
            let condition = self.in_the_way(&moved, &mut values);
            acting.push(Acting { acts: Acts::Delete, condition, values });
        }
        let mut values = Vec::new();
        let condition = self.condition(&mut values);
        let fixed = self.fixed(&self.key_columns());
        if moved.iter().any(|&(column, _)| self.target.table.columns[column].identity_always) {
            acting.push(Acting { acts: Acts::Replace, condition, values });
            return acting;
        }
        if !fixed.is_empty() {
            let mut values = values.clone();
            let condition = format!("{condition} AND {}", self.differs(&fixed, &mut values));
            acting.push(Acting { acts: Acts::Replace, condition, values });
        }
        acting.push(Acting { acts: Acts::Update, condition, values });
        acting
    }

    fn insert_or_overwrite(&self) -> RowStatement {
        let table = &self.target.table;
        let name = table.name.sql();
        if self.data.is_empty() {
            let sql = format!("INSERT INTO {name} DEFAULT VALUES");
            return RowStatement { sql, values: Vec::new(), role: Role::Any, says: Says::Written };
        }
        let columns: Vec<usize> = self.data.iter().map(|field| field.0).collect();
        let values = self.data.iter().map(|field| field.1).collect();
        let list = table.column_list(&columns);
        let parameters: Vec<String> = (1..=columns.len()).map(|n| format!("${n}")).collect();
        let parameters = parameters.join(", ");
        let upsert_by_hand =
            self.target.key.by_hand && self.target.key.columns.iter().all(|key| columns.contains(key));
        let sql = if upsert_by_hand {
            format!(
                "WITH there AS ({} RETURNING 1), new AS (INSERT INTO {name} ({list}) OVERRIDING SYSTEM VALUE \
                 SELECT {parameters} WHERE NOT EXISTS (SELECT FROM there) RETURNING 1) \
                 SELECT 1 FROM there UNION ALL SELECT 1 FROM new",
                self.overwrite(&columns)
            )
        } else {
            format!(
                "INSERT INTO {name} AS t ({list}) OVERRIDING SYSTEM VALUE VALUES ({parameters}){}",
                sql::on_conflict(self.target, &columns)
            )
        };
        RowStatement { sql, values, role: Role::Any, says: Says::Written }
    }

    /// For keys that ON CONFLICT cannot use: the row of that key takes the values, if it is there.
    fn overwrite(&self, columns: &[usize]) -> String {
        let table = &self.target.table;
        let place = |&column: &usize| 1 + columns.iter().position(|c| *c == column).expect("among them");
        let assign = |c: &usize| format!("{} = ${}", table.columns[*c].sql(), place(c));
        let set: Vec<String> =
            columns.iter().filter(|&&c| !table.columns[c].identity_always).map(assign).collect();
        let equal = |c: &usize| table.columns[*c].equals(&format!("${}", place(c)));
        let equal: Vec<String> = self.target.key.columns.iter().map(equal).collect();
        format!("UPDATE {} SET {} WHERE {}", table.sql(), set.join(", "), equal.join(" AND "))
    }

    fn update(&self) -> Vec<RowStatement> {
        let table = &self.target.table;
        let moved = self.moved_key();
        if moved.iter().any(|&(column, _)| table.columns[column].identity_always) {
            return vec![self.replace()];
        }
        let mut set: Vec<(usize, Cell)> = self.data.clone();
        set.retain(|&(column, _)| !table.columns[column].identity_always);
        let mut statements = Vec::new();
        if !moved.is_empty() && self.target.key.arbiter {
            statements.push(self.make_way(&moved));
        }
        let mut values: Vec<Cell> = set.iter().map(|field| field.1).collect();
        let mut assign: Vec<String> = set
            .iter()
            .enumerate()
            .map(|(n, field)| format!("{} = ${}", table.columns[field.0].sql(), n + 1))
            .collect();
        if assign.is_empty() {
            // Nothing to write, but a missing row is still to be noticed.
            match table.columns.iter().find(|c| !c.generated && !c.identity_always) {
                Some(column) => assign.push(format!("{0} = {0}", column.sql())),
                None if !self.fixed(&self.key_columns()).is_empty() => return vec![self.replace()],
                None => return vec![self.look()],
            }
        }
        let condition = self.condition(&mut values);
        let update = format!("UPDATE {} SET {} WHERE {condition}", table.sql(), assign.join(", "));
        let (sql, says) = match self.fixed(&self.key_columns()) {
            fixed if fixed.is_empty() => (update, Says::Updated),
            fixed => (self.update_or_replace(&update, &fixed, &mut values), Says::UpdatedOrPairs),
        };
        statements.push(RowStatement { sql, values, role: Role::Exactly, says });
        statements
    }

    /// One statement, so that both halves find the same row. It says how many changes there were.
    fn update_or_replace(&self, update: &str, fixed: &[(usize, Cell)], values: &mut Vec<Cell>) -> String {
        let same = self.differs(fixed, values);
        let condition = self.condition(values);
        let condition = format!("{condition} AND {}", self.differs(fixed, values));
        let (gone, come) = self.gone_and_come(&condition, values);
        format!(
            "WITH kept AS ({update} AND NOT {same} RETURNING 1), {gone}, come AS ({come} RETURNING 1) \
             SELECT 1 FROM kept UNION ALL SELECT 1 FROM come UNION ALL SELECT 1 FROM come"
        )
    }

    /// What was sent for columns that the server lets nobody update, those that find the row left out.
    fn fixed(&self, key: &[usize]) -> Vec<(usize, Cell)> {
        let is_fixed = |field: &&(usize, Cell)| {
            self.target.table.columns[field.0].identity_always && !key.contains(&field.0)
        };
        self.data.iter().filter(is_fixed).copied().collect()
    }

    fn key_columns(&self) -> Vec<usize> {
        match &self.find {
            Find::Key { fields, .. } => fields.iter().map(|field| field.0).collect(),
            Find::Image(_) => Vec::new(),
        }
    }

    /// `("n" IS DISTINCT FROM $1)`.
    fn differs(&self, fields: &[(usize, Cell)], values: &mut Vec<Cell>) -> String {
        let differs = |&(column, cell): &(usize, Cell)| {
            values.push(cell);
            format!("{} IS DISTINCT FROM ${}", self.target.table.columns[column].sql(), values.len())
        };
        let differs: Vec<String> = fields.iter().map(differs).collect();
        format!("({})", differs.join(" OR "))
    }

    /// Whether the row is there, where it has no column that could be written.
    fn look(&self) -> RowStatement {
        let mut values = Vec::new();
        let condition = self.condition(&mut values);
        let sql = format!("SELECT 1 FROM {} WHERE {condition}", self.target.table.sql());
        RowStatement { sql, values, role: Role::Exactly, says: Says::Found }
    }

    fn delete(&self) -> RowStatement {
        let mut values = Vec::new();
        let condition = self.condition(&mut values);
        let sql = format!("DELETE FROM {} WHERE {condition}", self.target.table.sql());
        RowStatement { sql, values, role: Role::Exactly, says: Says::Deleted }
    }

    /// Key columns whose text is another one afterwards.
    fn moved_key(&self) -> Vec<(usize, Cell)> {
        let Find::Key { fields, .. } = &self.find else { return Vec::new() };
        let is_other = |&&(column, new): &&(usize, Cell)| {
            let old = fields.iter().find(|field| field.0 == column);
            old.is_some_and(|&(_, old)| self.batch.value(old) != self.batch.value(new))
        };
        self.data.iter().filter(is_other).copied().collect()
    }

    /// A key that moves onto another row replaces it: at the source that row is not there.
    fn make_way(&self, moved: &[(usize, Cell)]) -> RowStatement {
        let mut values = Vec::new();
        let condition = self.in_the_way(moved, &mut values);
        let sql = format!("DELETE FROM {} WHERE {condition}", self.target.table.sql());
        RowStatement { sql, values, role: Role::Nothing, says: Says::Deleted }
    }

    /// That row.
    fn in_the_way(&self, moved: &[(usize, Cell)], values: &mut Vec<Cell>) -> String {
        let table = &self.target.table;
        let old = self.condition(values);
        let Find::Key { fields, .. } = &self.find else { unreachable!("only keys move") };
        let new: Vec<String> = fields
            .iter()
            .map(|&(column, old)| {
                let new = moved.iter().find(|field| field.0 == column).map_or(old, |field| field.1);
                values.push(new);
                table.columns[column].equals(&format!("${}", values.len()))
            })
            .collect();
        // The key may only be spelt differently: then the row that would be in the way is the row itself.
        format!("{} AND NOT ({old}) AND EXISTS (SELECT FROM {} WHERE {old})", new.join(" AND "), table.sql())
    }

    /// The server updates no IDENTITY ALWAYS column: the row goes, and comes again under its new key.
    fn replace(&self) -> RowStatement {
        let mut values = Vec::new();
        let condition = self.condition(&mut values);
        let (gone, come) = self.gone_and_come(&condition, &mut values);
        let sql = format!("WITH {gone} {come}");
        RowStatement { sql, values, role: Role::Exactly, says: Says::Pairs }
    }

    /// The halves of such a statement: the row as it was, and the row as it is to be.
    fn gone_and_come(&self, condition: &str, values: &mut Vec<Cell>) -> (String, String) {
        let table = &self.target.table;
        let written: Vec<usize> =
            (0..table.columns.len()).filter(|&column| !table.columns[column].generated).collect();
        let new: Vec<String> = written
            .iter()
            .map(|&column| match self.data.iter().find(|field| field.0 == column) {
                Some(&(_, cell)) => {
                    values.push(cell);
                    format!("${}", values.len())
                }
                None => format!("gone.{}", table.columns[column].sql()),
            })
            .collect();
        let gone = format!("gone AS (DELETE FROM {} WHERE {condition} RETURNING *)", table.sql());
        let come = format!(
            "INSERT INTO {} ({}) OVERRIDING SYSTEM VALUE SELECT {} FROM gone",
            table.name.sql(),
            table.column_list(&written),
            new.join(", ")
        );
        (gone, come)
    }

    /// What is true for the one row; its values are added to those of the statement.
    fn condition(&self, values: &mut Vec<Cell>) -> String {
        let table = &self.target.table;
        let (fields, unique, image) = match &self.find {
            Find::Key { fields, unique } => (fields, *unique, false),
            Find::Image(fields) => (fields, false, true),
        };
        let tests: Vec<String> = fields
            .iter()
            .map(|&(column, cell)| {
                let column = &table.columns[column];
                if self.batch.value(cell).is_none() {
                    // A composite whose fields are all NULL is not NULL, though `IS NULL` says so.
                    return format!("{} IS NOT DISTINCT FROM NULL", column.sql());
                }
                values.push(cell);
                let value = format!("${}", values.len());
                // What is equal just when it prints the same may use an index.
                let by_text = image && !self.batch_table.is_exact(column);
                if by_text && self.batch_table.prints_alike(column) {
                    column.prints(&value)
                } else {
                    column.equals(&value)
                }
            })
            .collect();
        let test = if tests.is_empty() { "true".to_owned() } else { tests.join(" AND ") };
        if unique {
            return test;
        }
        // Any one of rows that are all alike; but a key that finds several finds none, and the server says so.
        let any = if image { " LIMIT 1" } else { "" };
        let row = match table.shape {
            Shape::Ordinary => "ctid",
            Shape::Partitioned => "tableoid, ctid",
        };
        format!("({row}) = (SELECT {row} FROM {} WHERE {test}{any})", table.sql())
    }
}

impl Find {
    fn key(batch: &Batch, table: &Table, fields: Vec<(usize, Cell)>) -> Find {
        // NULLs are not unique.
        let named =
            |column: &usize| fields.iter().any(|field| field.0 == *column && batch.value(field.1).is_some());
        let unique = table.unique.iter().any(|index| index.columns.iter().all(named));
        Find::Key { fields, unique }
    }
}

impl crate::table::Column {
    /// `"a" = $1`, by the equality that the type's own indexes use; where the collation or the type calls other texts equal
    /// too, only the same text.
    fn equals(&self, value: &str) -> String {
        // An operator of all composites, or of all ranges, says nothing of this one.
        let typed = if self.is_by_name { format!("{value}::{}", self.base_type) } else { value.to_owned() };
        let equal = format!("{} {} {typed}", self.sql(), self.equality);
        if !self.may_merge() {
            return equal;
        }
        let printed = |value: &str| format!("pg_catalog.format({}, {value})", escape_literal("%s"));
        format!("({equal} AND {} COLLATE \"C\" = {})", printed(&self.sql()), printed(value))
    }

    /// The text as the type reads it: not by a cast that somebody has made.
    pub(crate) fn parsed(&self, text: &str) -> String {
        let base = &self.base_type;
        match self.has_own_cast && !self.plain_type.ends_with("[]") {
            true => format!("((ARRAY[{text}]::text[])::text::{base}[])[1]"),
            false => format!("{text}::{base}"),
        }
    }

    /// `"a"` prints as the text $1. (NULL would print as the empty text does.)
    fn prints(&self, value: &str) -> String {
        let sql = self.sql();
        format!(
            "({sql} IS DISTINCT FROM NULL AND pg_catalog.format({}, {sql}) COLLATE \"C\" = {value})",
            escape_literal("%s")
        )
    }
}
