//! The tables in the file: made of what the archive says of the source's, and read back from DuckDB's catalog.

use std::collections::BTreeMap;

use syncdata_formats::error::Result;
use syncdata_formats::manifest::{self, Generated, Relation};
use syncdata_formats::name::TableName;

use super::cursor::{self, Known};
use super::database::Database;
use super::error::DuckdbContext as _;
use super::names::{self, quoted};
use super::types::Mapping;
use crate::table::{Column, Difference, Shape, Table, TextEquality, UniqueIndex};

/// What DuckDB calls no type: the column is not in the file, and what records say of it is left out.
const GONE: &str = "GONE";

/// What a column's values are kept in.
pub(super) fn mapping(column: &Column) -> Mapping {
    match column.base_type.as_str() {
        "VARCHAR" | GONE => Mapping::Text,
        _ => Mapping::of(&column.type_name),
    }
}

/// The columns of a table that are in the file. Those come first.
pub(super) fn here(table: &Table) -> impl Iterator<Item = usize> + Clone {
    (0..table.columns.len()).filter(|&column| is_here(&table.columns[column]))
}

pub(super) fn is_here(column: &Column) -> bool {
    column.base_type != GONE
}

/// `"id", "name"`: those of its columns that are here.
pub(super) fn column_list(table: &Table) -> String {
    here(table).map(|column| quoted(&table.columns[column].name)).collect::<Vec<_>>().join(", ")
}

/// What makes a table what it is at the source again.
pub(super) fn resync(table: &TableName) -> String {
    format!(
        "syncdata-applier resync {}  # from a snapshot that is newer: syncdata-archiver snapshot, on the production host",
        table.shell_word()
    )
}

/// Whether the settings keep the column as text.
pub(super) fn is_text(database: &Database, table: &TableName, column: &str) -> bool {
    database.text_columns.contains(&format!("{table}.{column}"))
}

/// `"copy"."main"."users"`.
pub(super) fn sql(database: &Database, table: &TableName) -> String {
    let (schema, name) = (quoted(names::schema(table)), quoted(table.name()));
    format!("{}.{schema}.{name}", database.catalog)
}

/// Makes the table, empty, in place of one that is there. Without its key: DuckDB's would keep rows from being written.
pub(super) fn make(database: &Database, table: &TableName, relation: &Relation) -> Result<()> {
    let doing = || format!("making {table}");
    let columns = relation.columns.iter().filter(|column| column.generated != Some(Generated::Virtual));
    let columns: Vec<String> = columns
        .map(|column| {
            let is_text = is_text(database, table, &column.name);
            let mapping = if is_text { Mapping::Text } else { Mapping::of(&column.type_name) };
            format!("{} {}", quoted(&column.name), mapping.sql())
        })
        .collect();
    let statements = format!(
        "CREATE SCHEMA IF NOT EXISTS {}.{}; CREATE OR REPLACE TABLE {} ({})",
        database.catalog,
        quoted(names::schema(table)),
        sql(database, table),
        columns.join(", ")
    );
    database.connection.execute_batch(&statements).context(doing)?;
    // By which key its rows were taken is noted with them.
    let set = "relation = ?, source_key = NULL, source_columns = NULL, gone = '[]'";
    cursor::note(database, table, set, &[&cursor::json(relation)])
}

/// Why the file cannot have that table, beside those that it has and is about to have.
pub(super) fn refused<'a>(
    database: &Database,
    table: &TableName,
    relation: &Relation,
    others: impl Iterator<Item = &'a TableName>,
) -> Option<Difference> {
    let schema = names::schema(table);
    let others: Vec<&TableName> = others.filter(|other| *other != table).collect();
    let is_same_schema = |other: &TableName| names::is_same(schema, names::schema(other));
    let twin =
        others.iter().find(|other| is_same_schema(other) && names::is_same(table.name(), other.name()));
    let twin_schema = others
        .iter()
        .map(|other| names::schema(other))
        .find(|other| *other != schema && names::is_same(schema, other));
    let travelling: Vec<&str> = relation
        .columns
        .iter()
        .filter(|column| column.generated != Some(Generated::Virtual))
        .map(|column| column.name.as_str())
        .collect();
    let twin_columns = travelling.iter().enumerate().find_map(|(place, one)| {
        let other = travelling[..place].iter().find(|other| names::is_same(one, other))?;
        Some((*other, *one))
    });
    let what = if let Some(what) = names::refused(table, &database.stem) {
        what
    } else if let Some((one, other)) = twin_columns {
        format!("{table} has the columns {} and {}, which are one name to DuckDB", quoted(one), quoted(other))
    } else if let Some(bad) = travelling.iter().find(|name| name.is_empty() || name.contains('\0')) {
        format!("no column of {table} can be named {bad:?}")
    } else if travelling.is_empty() {
        format!("{table} has no columns that travel, and DuckDB has no tables without columns")
    } else if let Some(other) = twin {
        format!("{} and {} are one name to DuckDB", table.sql(), other.sql())
    } else if let Some(other) = twin_schema {
        format!(
            "{table} is in the schema {}, which is the same as {} to DuckDB",
            quoted(schema),
            quoted(other)
        )
    } else {
        return None;
    };
    let remedy = format!(
        "syncdata-applier remove-tables {}  # or give it another name at the source, or the file",
        table.shell_word()
    );
    Some(Difference { what, remedy, in_doubt: false })
}

/// Somebody else has made something of that name in the file.
pub(super) fn taken(database: &Database, table: &TableName) -> Result<Option<Difference>> {
    let select = "SELECT (SELECT count(*) FROM duckdb_tables() WHERE database_name = ?1 AND lower(schema_name) = lower(?2) \
            AND lower(table_name) = lower(?3)) \
        + (SELECT count(*) FROM duckdb_views() WHERE database_name = ?1 AND lower(schema_name) = lower(?2) \
            AND lower(view_name) = lower(?3))";
    let values = [database.stem.as_str(), names::schema(table), table.name()];
    let found: i64 = database
        .connection
        .query_row(select, values, |row| row.get(0))
        .context(|| format!("looking for {table}"))?;
    Ok((found > 0).then(|| Difference {
        what: format!("{} is in the file already, and none of ours", table.sql()),
        remedy: format!(
            "syncdata-applier retry {}  # once it is dropped, or has another name",
            table.shell_word()
        ),
        in_doubt: false,
    }))
}

pub(super) fn has_rows(database: &Database, table: &TableName) -> Result<bool> {
    let known = "SELECT count(*) > 0 FROM duckdb_tables() WHERE database_name = ? AND schema_name = ? AND table_name = ?";
    let values = [database.stem.as_str(), names::schema(table), table.name()];
    let doing = || format!("looking whether {table} has rows");
    let is_there: bool = database.connection.query_row(known, values, |row| row.get(0)).context(doing)?;
    if !is_there {
        return Ok(false);
    }
    let select = format!("SELECT EXISTS (FROM {})", sql(database, table));
    database.connection.query_row(&select, [], |row| row.get(0)).context(doing)
}

/// The first of these columns in which some row has another value than that.
pub(super) fn other_values(
    database: &Database,
    table: &Table,
    columns: &[(usize, Option<String>)],
) -> Result<Option<usize>> {
    let doing = || format!("looking at newer columns of {}", table.name);
    for (place, missing) in columns {
        let column = &table.columns[*place];
        if !is_here(column) {
            continue;
        }
        let (name, mapping) = (quoted(&column.name), mapping(column));
        let other = match (missing, mapping.kept("CAST(? AS VARCHAR)")) {
            (None, _) => format!("{name} IS NOT NULL"),
            // No value of the column has that text.
            (Some(text), Some(kept)) if !keeps(database, &kept, text).context(doing)? => {
                return Ok(Some(*place));
            }
            (Some(_), _) => format!("{name} IS DISTINCT FROM {}", mapping.read("CAST(? AS VARCHAR)")),
        };
        let select = format!("SELECT EXISTS (FROM {} WHERE {other})", sql(database, &table.name));
        let found = database
            .connection
            .query_row(&select, duckdb::params_from_iter(missing.iter()), |row| row.get(0));
        if found.context(doing)? {
            return Ok(Some(*place));
        }
    }
    Ok(None)
}

/// `kept` is an expression that names its parameter as often as it likes.
fn keeps(database: &Database, kept: &str, text: &str) -> duckdb::Result<bool> {
    let select = format!(
        "SELECT {} FROM (SELECT CAST(? AS VARCHAR) AS said)",
        kept.replace("CAST(? AS VARCHAR)", "said")
    );
    database.connection.query_row(&select, [text], |row| row.get(0))
}

/// Those of the tables that are there, with their columns as DuckDB's catalog has them.
pub(super) fn load(
    database: &Database,
    known: &BTreeMap<TableName, Known>,
    names: &[TableName],
) -> Result<BTreeMap<TableName, Table>> {
    let mut tables = BTreeMap::new();
    for name in names {
        let Some(known) = known.get(name) else { continue };
        let mut columns = columns(database, name, known.relation.as_ref())?;
        if columns.is_empty() {
            continue;
        }
        let is_here = |gone: &&manifest::Column| columns.iter().any(|column| column.name == gone.name);
        let gone = known.gone.iter().filter(|gone| !is_here(gone));
        let gone: Vec<Column> = gone.map(|gone| Column::plain(&gone.name, &gone.type_name, GONE)).collect();
        columns.extend(gone);
        tables.insert(name.clone(), table(name, columns, known));
    }
    Ok(tables)
}

/// The columns of a table in the file and their types, as DuckDB's catalog has them.
pub(super) fn kept(database: &Database, table: &TableName) -> Result<Vec<(String, String)>> {
    let doing = || format!("looking at {table}");
    let select = "SELECT column_name, data_type FROM duckdb_columns() \
        WHERE database_name = ? AND schema_name = ? AND table_name = ? ORDER BY column_index";
    let mut statement = database.connection.prepare(select).context(doing)?;
    let values = [database.stem.as_str(), names::schema(table), table.name()];
    let rows = statement.query_map(values, |row| Ok((row.get(0)?, row.get(1)?)));
    rows.context(doing)?.collect::<duckdb::Result<_>>().context(doing)
}

/// Those of ours: what somebody else has added is none of the source's.
fn columns(database: &Database, table: &TableName, relation: Option<&Relation>) -> Result<Vec<Column>> {
    let Some(relation) = relation else { return Ok(Vec::new()) };
    let mut columns = Vec::new();
    for (number, (name, kept_as)) in (1..).zip(kept(database, table)?) {
        let Some(source) = relation.columns.iter().find(|column| column.name == name) else { continue };
        // A type that nobody but somebody else has given it is not the source's.
        let is_ours = kept_as == "VARCHAR" || kept_as == Mapping::of(&source.type_name).sql();
        let type_name = if is_ours { &source.type_name } else { &kept_as };
        let mapping = if kept_as == "VARCHAR" { Mapping::Text } else { Mapping::of(type_name) };
        let text_equality =
            if mapping.is_told_by_text() { TextEquality::Exact } else { TextEquality::Unknown };
        columns.push(Column { attnum: number, text_equality, ..Column::plain(&name, type_name, &kept_as) });
    }
    Ok(columns)
}

fn table(name: &TableName, columns: Vec<Column>, known: &Known) -> Table {
    let place = |name: &String| columns.iter().position(|column| column.name == *name);
    // The file has no index: what the source keeps unique, netting does.
    let key = known.relation.as_ref().map(|relation| &relation.key);
    let key: Option<Vec<usize>> = key.and_then(|key| key.iter().map(place).collect());
    let unique = key.filter(|key| !key.is_empty()).map(|columns| UniqueIndex {
        columns,
        immediate: true,
        overlaps: false,
        is_loose: false,
    });
    Table {
        name: name.clone(),
        oid: 0,
        shape: Shape::Ordinary,
        columns,
        unique: unique.into_iter().collect(),
        referenced_by: Vec::new(),
        acts_on_delete: false,
        acts_on_update: false,
        source_columns: known.state.source_columns.clone(),
        paired: known.state.paired.clone(),
        source_key: known.state.source_key.clone(),
    }
}
