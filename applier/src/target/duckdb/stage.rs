//! Rows on their way: as text in a temporary table, until it is known that each value stays the same in its column.

use duckdb::appender_params_from_iter;
use duckdb::types::{Null, ToSqlOutput, ValueRef};
use syncdata_formats::error::Result;

use super::database::Database;
use super::error::DuckdbContext as _;
use super::names::quoted;
use super::tables::mapping;
use super::types::Mapping;
use crate::batch::Record;
use crate::table::{Column, Table};
use crate::target::Rejection;

/// What a row says of a column.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Field<'a> {
    Value(Option<&'a str>),
    Unchanged,
}

/// A temporary table: `n`, the row's number; `kind`; the texts of a key, `k0`…; of all columns, `v0`…; and of columns that some
/// row leaves as they are, whether it does, `u0`….
#[derive(Debug)]
pub(super) struct Stage<'a> {
    name: &'static str,
    table: &'a Table,
    key: &'a [usize],
    /// Columns that some row leaves as they are.
    unchanged: Vec<usize>,
}

/// A value that would not stay the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Altered {
    /// Of the staged row.
    pub row: usize,
    pub column: usize,
    /// It stands in the row's key.
    pub in_key: bool,
}

impl<'a> Stage<'a> {
    pub(super) fn new(
        name: &'static str,
        table: &'a Table,
        key: &'a [usize],
        unchanged: Vec<usize>,
    ) -> Stage<'a> {
        Stage { name, table, key, unchanged }
    }

    /// The table in statements.
    pub(super) fn sql(&self) -> String {
        format!("temp.main.{}", self.name)
    }

    pub(super) fn unchanged(&self) -> &[usize] {
        &self.unchanged
    }

    pub(super) fn make(&self, database: &Database) -> Result<()> {
        let keys = (0..self.key.len()).map(|place| format!(", k{place} VARCHAR"));
        let values = (0..self.table.columns.len()).map(|place| format!(", v{place} VARCHAR"));
        let unchanged = self.unchanged.iter().map(|place| format!(", u{place} BOOLEAN"));
        let columns: String = keys.chain(values).chain(unchanged).collect();
        let make =
            format!("CREATE OR REPLACE TEMPORARY TABLE {} (n BIGINT, kind TINYINT{columns})", self.name);
        database.connection.execute_batch(&make).context(|| self.doing())
    }

    /// Gives its room back.
    pub(super) fn drop(&self, database: &Database) -> Result<()> {
        let drop = format!("DROP TABLE {}", self.sql());
        database.connection.execute_batch(&drop).context(|| self.doing())
    }

    /// Each row with its kind, its key and a field for each column.
    pub(super) fn fill<'r, K, F>(
        &self,
        database: &Database,
        rows: impl Iterator<Item = (i8, K, F)>,
    ) -> Result<()>
    where
        K: Iterator<Item = Option<&'r str>>,
        F: Iterator<Item = Field<'r>>,
    {
        let appender = database.connection.appender_to_catalog_and_db(self.name, "temp", "main");
        let mut appender = appender.context(|| self.doing())?;
        for (number, (kind, key, fields)) in rows.enumerate() {
            let fields: Vec<Field<'r>> = fields.collect();
            let mut row = Vec::with_capacity(2 + self.key.len() + fields.len() + self.unchanged.len());
            row.push(ToSqlOutput::from(i64::try_from(number).expect("a batch has some thousand rows")));
            row.push(ToSqlOutput::from(kind));
            row.extend(key.map(text));
            row.extend(fields.iter().map(|field| match field {
                Field::Value(value) => text(*value),
                Field::Unchanged => text(None),
            }));
            let is_unchanged = |column: &usize| ToSqlOutput::from(fields[*column] == Field::Unchanged);
            row.extend(self.unchanged.iter().map(is_unchanged));
            appender.append_row(appender_params_from_iter(row.iter())).context(|| self.doing())?;
        }
        appender.flush().context(|| self.doing())
    }

    /// Values that would not stay the same; at most a few thousand of them.
    pub(super) fn altered(&self, database: &Database) -> Result<Vec<Altered>> {
        let column = |place: usize| &self.table.columns[place];
        let of_key = self.key.iter().enumerate().filter_map(|(place, &at)| {
            mapping(column(at)).kept(&format!("k{place}")).map(|kept| (kept, -1 - i64_of(at)))
        });
        let of_values = (0..self.table.columns.len()).filter_map(|place| {
            mapping(column(place)).kept(&format!("v{place}")).map(|kept| (kept, i64_of(place)))
        });
        let cases: String =
            of_values.chain(of_key).map(|(kept, code)| format!(" WHEN NOT {kept} THEN {code}")).collect();
        if cases.is_empty() {
            return Ok(Vec::new());
        }
        let select = format!(
            "SELECT n, CASE{cases} END AS altered FROM {} WHERE altered IS NOT NULL ORDER BY n LIMIT 4096",
            self.sql()
        );
        let doing = || format!("looking at the values of {}", self.table.name);
        let mut statement = database.connection.prepare(&select).context(doing)?;
        let found = statement.query_map([], |row| Ok((row.get::<_, i64>(0)?, row.get::<_, i64>(1)?)));
        let found: Vec<(i64, i64)> = found.context(doing)?.collect::<duckdb::Result<_>>().context(doing)?;
        Ok(found.into_iter().map(|(row, code)| Altered::of(row, code)).collect())
    }

    /// `o."id" IS NOT DISTINCT FROM …`, for a row `o` of the table and a row `s` of the stage.
    pub(super) fn same_key(&self) -> String {
        let part = |(place, &column): (usize, &usize)| {
            let column = &self.table.columns[column];
            format!("o.{} = {}", quoted(&column.name), mapping(column).read(&format!("s.k{place}")))
        };
        self.key.iter().enumerate().map(part).collect::<Vec<_>>().join(" AND ")
    }

    /// The value that a row `s` of the stage brings for the column; `old` is the row whose values it may keep.
    pub(super) fn value(&self, column: usize, old: &str) -> String {
        let read = mapping(&self.table.columns[column]).read(&format!("s.v{column}"));
        match self.unchanged.contains(&column) {
            true => format!("CASE WHEN s.u{column} THEN {old} ELSE {read} END"),
            false => read,
        }
    }

    fn doing(&self) -> String {
        format!("staging rows of {}", self.table.name)
    }
}

impl Altered {
    fn of(row: i64, code: i64) -> Altered {
        let number = |number: i64| usize::try_from(number).expect("as it was staged");
        match code < 0 {
            true => Altered { row: number(row), column: number(-1 - code), in_key: true },
            false => Altered { row: number(row), column: number(code), in_key: false },
        }
    }
}

/// What is wrong with a column's value, for everybody: without the value.
pub(super) fn altered_words(column: &Column) -> String {
    let mapping: Mapping = mapping(column);
    format!(
        "column {} is {} at the source and {} here, which does not hold a value of it as it is",
        quoted(&column.name),
        column.type_name,
        mapping.sql()
    )
}

/// What to run about it.
pub(super) fn altered_remedy(table: &Table, column: &Column) -> String {
    let name = format!("{}.{}", table.name, column.name);
    format!(
        "syncdata-applier resync {}  # with {name:?} in duckdb_text_columns, which keeps it as text",
        table.name.shell_word()
    )
}

/// A record with a value that would not stay the same.
pub(super) fn rejection(record: &Record, table: &Table, column: usize) -> Rejection {
    let column = &table.columns[column];
    Rejection {
        table: table.name.clone(),
        place: record.place,
        sqlstate: None,
        reason: altered_words(column),
        remedy: Some(format!("run: {}", altered_remedy(table, column))),
        server_words: None,
        in_doubt: false,
    }
}

fn text(value: Option<&str>) -> ToSqlOutput<'_> {
    match value {
        Some(value) => ToSqlOutput::Borrowed(ValueRef::Text(value.as_bytes())),
        None => ToSqlOutput::from(Null),
    }
}

fn i64_of(place: usize) -> i64 {
    i64::try_from(place).expect("a table has at most some thousand columns")
}
