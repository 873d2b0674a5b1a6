//! The rows of a base copy, as COPY prints them, into a table of the file.

use std::borrow::Cow;

use syncdata_formats::error::{Error, Kind, Result};
use syncdata_formats::manifest::Relation;
use syncdata_formats::name::TableName;

use super::database::Database;
use super::error::DuckdbContext as _;
use super::stage::{self, Field, Stage};
use super::{cursor, tables};
use crate::plan::position::Position;
use crate::plan::state::{Event, State};
use crate::table::{Difference, Table, source_columns};

/// Makes the table anew, without rows. `Err`: it cannot be.
pub(super) fn begin(
    database: &Database,
    name: &TableName,
    relation: &Relation,
) -> Result<Result<(), Difference>> {
    let known = cursor::tables(database)?;
    if let Some(difference) = tables::refused(database, name, relation, known.keys()) {
        return Ok(Err(difference));
    }
    let is_ours = known.get(name).is_some_and(|known| known.relation.is_some());
    if !is_ours && let Some(difference) = tables::taken(database, name)? {
        return Ok(Err(difference));
    }
    let state = known.get(name).map(|known| known.state.state);
    if matches!(state, Some(State::Pending | State::Loading)) {
        cursor::change(database, name, Event::LoadBegins, None, None)?;
    }
    tables::make(database, name, relation)?;
    Ok(Ok(()))
}

/// Appends whole lines of `COPY … TO STDOUT` with these columns; how many rows that were. `Err`: a value would not stay the same.
pub(super) fn append(
    database: &Database,
    name: &TableName,
    columns: &[String],
    lines: &[u8],
) -> Result<Result<u64, Difference>> {
    let doing = || format!("copying rows into {name}");
    let known = cursor::tables(database)?;
    let table = tables::load(database, &known, std::slice::from_ref(name))?.remove(name);
    let table = table.ok_or_else(|| Error::new(Kind::NotFound, format!("{name} is not in the file")))?;
    let places = places(&table, columns)?;
    let rows = rows(lines, columns.len())?;
    let stage = Stage::new("syncdata_stage", &table, &[], Vec::new());
    stage.make(database)?;
    let staged = rows.iter().map(|row| {
        let value = |place: &Option<usize>| Field::Value(place.and_then(|place| row[place].as_deref()));
        (2, std::iter::empty(), places.iter().map(value))
    });
    stage.fill(database, staged)?;
    if let Some(altered) = stage.altered(database)?.first() {
        let column = &table.columns[altered.column];
        return Ok(Err(Difference {
            what: stage::altered_words(column),
            remedy: stage::altered_remedy(&table, column),
            in_doubt: false,
        }));
    }
    let values: Vec<String> = tables::here(&table).map(|column| stage.value(column, "NULL")).collect();
    let insert = format!(
        "INSERT INTO {} ({}) SELECT {} FROM {} AS s ORDER BY s.n",
        tables::sql(database, name),
        tables::column_list(&table),
        values.join(", "),
        stage.sql()
    );
    let inserted = database.connection.execute(&insert, []).context(doing)?;
    stage.drop(database)?;
    Ok(Ok(inserted as u64))
}

/// Whatever rows it has are none of ours, and its first change makes it.
pub(super) fn forget(database: &Database, name: &TableName) -> Result<()> {
    let is_ours = cursor::tables(database)?.get(name).is_some_and(|known| known.relation.is_some());
    if !is_ours {
        return Ok(());
    }
    let drop = format!("DROP TABLE IF EXISTS {}", tables::sql(database, name));
    database.connection.execute_batch(&drop).context(|| format!("dropping {name}"))?;
    cursor::note(
        database,
        name,
        "relation = NULL, source_key = NULL, source_columns = NULL, gone = '[]'",
        &[],
    )
}

/// The base, and what came after it up to there, is in the table.
pub(super) fn end(
    database: &Database,
    name: &TableName,
    position: Position,
    base: Position,
    asked: i64,
) -> Result<()> {
    cursor::change(database, name, Event::Loaded, Some(position), None)?;
    let relation = cursor::tables(database)?.remove(name).and_then(|known| known.relation);
    let key = relation.as_ref().map(|relation| cursor::json(&relation.key));
    let columns = relation.as_ref().map(|relation| cursor::json(&source_columns(relation)));
    let set = "load = CASE WHEN load_asked > ? THEN load END, gap = NULL, incomplete_lsn = NULL, is_disowned = false, \
        base_lsn = ?, nan_as_null = '[]', changed_lsn = position_lsn, changed_at = position_time, source_key = ?, \
        source_columns = ?";
    cursor::note(database, name, set, &[&asked, &base.lsn.as_u64(), &key, &columns])
}

/// For each column of the table, where a line has it.
fn places(table: &Table, columns: &[String]) -> Result<Vec<Option<usize>>> {
    if let Some(strange) = columns.iter().find(|name| table.column(name).is_none()) {
        let what = format!("{} has no column {strange:?} here", table.name);
        return Err(Error::new(Kind::Conflict, what));
    }
    let place = |name: &str| columns.iter().position(|column| column == name);
    Ok(table.columns.iter().map(|column| place(&column.name)).collect())
}

type Fields<'a> = Vec<Option<Cow<'a, str>>>;

fn rows(lines: &[u8], columns: usize) -> Result<Vec<Fields<'_>>> {
    let corrupt = |what: &str| Error::new(Kind::Corrupt, format!("a line of a base copy {what}"));
    let text = std::str::from_utf8(lines).map_err(|_| corrupt("is not UTF-8"))?;
    let text = match text.is_empty() {
        true => return Ok(Vec::new()),
        false => text.strip_suffix('\n').ok_or_else(|| corrupt("has no end"))?,
    };
    text.split('\n')
        .map(|line| {
            let fields: Fields<'_> = line
                .split('\t')
                .map(field)
                .collect::<Option<_>>()
                .ok_or_else(|| corrupt("has an escape that COPY does not know"))?;
            match fields.len() == columns {
                true => Ok(fields),
                false => Err(corrupt("has not as many values as there are columns")),
            }
        })
        .collect()
}

/// A value without its escapes; the outer `None`: one of them is none of COPY's.
#[allow(clippy::option_option, reason = "NULL, or no value at all")]
fn field(text: &str) -> Option<Option<Cow<'_, str>>> {
    if text == "\\N" {
        return Some(None);
    }
    if !text.contains('\\') {
        return Some(Some(Cow::Borrowed(text)));
    }
    let mut plain = String::with_capacity(text.len());
    let mut chars = text.chars();
    while let Some(c) = chars.next() {
        if c != '\\' {
            plain.push(c);
            continue;
        }
        plain.push(match chars.next()? {
            'b' => '\u{8}',
            'f' => '\u{c}',
            'n' => '\n',
            'r' => '\r',
            't' => '\t',
            'v' => '\u{b}',
            '\\' => '\\',
            _ => return None,
        });
    }
    Some(Some(Cow::Owned(plain)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_of_copy_are_taken_apart() {
        let read = rows(b"1\t\\N\ta\\tb\\\\\\n\n2\t\t\\b\\f\\v\\r\n", 3).expect("sound");
        let texts: Vec<Vec<Option<&str>>> =
            read.iter().map(|row| row.iter().map(Option::as_deref).collect()).collect();
        assert_eq!(texts[0], [Some("1"), None, Some("a\tb\\\n")]);
        assert_eq!(texts[1], [Some("2"), Some(""), Some("\u{8}\u{c}\u{b}\r")]);
        assert!(rows(b"", 3).expect("none").is_empty());
        for bad in [&b"1\t2\n"[..], b"1\t2\t3", b"1\t2\t\\x41\n", b"1\t2\t\\", b"\xff\t2\t3\n"] {
            assert_eq!(rows(bad, 3).map_err(|error| error.kind()), Err(Kind::Corrupt), "{bad:?}");
        }
    }
}
