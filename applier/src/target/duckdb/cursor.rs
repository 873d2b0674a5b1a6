//! The positions: of the whole copy (the checkpoint) and of each table. They move in the transaction of the rows that they
//! stand for, and nowhere else.

use std::collections::{BTreeMap, BTreeSet};
use std::str::FromStr;
use std::time::Duration;

use duckdb::{Row, params};
use syncdata_formats::digest::Digest;
use syncdata_formats::error::{Error, Kind, Result};
use syncdata_formats::layout::SegmentSeq;
use syncdata_formats::lsn::Lsn;
use syncdata_formats::manifest::{Column, Link, Relation};
use syncdata_formats::name::{TableName, TablePattern};
use syncdata_formats::time::Timestamp;
use uuid::Uuid;

use super::database::Database;
use super::error::DuckdbContext as _;
use crate::plan::GapName;
use crate::plan::group::GroupName;
use crate::plan::offer::CaptureSince;
use crate::plan::position::{Applied, Checkpoint, Position};
use crate::plan::state::{Event, State, TableState, Want};
use crate::table::SourceColumns;

/// A time of ours as DuckDB reads it without an extension: `epoch_us` is what it gives back.
pub(super) const TIME: &str = "CAST(CAST(make_timestamp(?) AS VARCHAR) || '+00' AS TIMESTAMPTZ)";

pub(super) fn checkpoint(database: &Database) -> Result<Checkpoint> {
    let select = format!(
        "SELECT archive_id, seq, manifest_sha256, end_lsn, day FROM {}",
        database.own("data_sync_checkpoint")
    );
    let doing = || "reading the checkpoint".to_owned();
    let mut statement = database.connection.prepare(&select).context(doing)?;
    let rows = statement.query_map([], |row| {
        let text = |place| row.get::<_, Option<String>>(place);
        Ok((text(0)?, row.get::<_, u64>(1)?, text(2)?, row.get::<_, u64>(3)?, text(4)?))
    });
    let rows: Vec<_> = rows.context(doing)?.collect::<duckdb::Result<_>>().context(doing)?;
    let [(archive_id, seq, sha256, end_lsn, day)] = rows.as_slice() else {
        let what = format!("data_sync_checkpoint has {} rows instead of one", rows.len());
        return Err(
            Error::new(Kind::StateDamaged, what).hint("nothing was applied; restore the file from a backup")
        );
    };
    let bad = |what: &str| Error::bad_input(what, "the checkpoint's");
    let archive_id: Option<Uuid> =
        archive_id.as_deref().map(|text| text.parse().map_err(|_| bad("a uuid"))).transpose()?;
    if *seq == 0 {
        return Ok(Checkpoint { archive_id, segment: None });
    }
    let sha256: Digest = sha256.as_deref().ok_or_else(|| bad("a SHA-256"))?.parse()?;
    let day = day.as_deref().ok_or_else(|| bad("a day"))?.parse()?;
    let link = Link { seq: SegmentSeq::new(*seq)?, sha256 };
    Ok(Checkpoint { archive_id, segment: Some(Applied { link, end_lsn: Lsn::from_u64(*end_lsn), day }) })
}

pub(super) fn adopt(database: &Database, archive_id: Uuid) -> Result<()> {
    let update = format!(
        "UPDATE {} SET archive_id = ? WHERE archive_id IS NULL",
        database.own("data_sync_checkpoint")
    );
    let noted = database.connection.execute(&update, [archive_id.to_string()]);
    noted.context(|| "noting the archive".to_owned())?;
    Ok(())
}

/// What tells this copy from every other one.
pub(super) fn copy_id(database: &Database) -> Result<Uuid> {
    let select = format!("SELECT CAST(min(copy_id) AS VARCHAR) FROM {}", database.own("data_sync_version"));
    let id: duckdb::Result<Option<String>> = database.connection.query_row(&select, [], |row| row.get(0));
    let id = id.context(|| "reading which copy this is".to_owned())?.unwrap_or_default();
    id.parse().map_err(|_| Error::bad_input("a uuid", &id))
}

/// In the transaction of the rows.
pub(super) fn move_checkpoint(database: &Database, checkpoint: &Checkpoint, end: Position) -> Result<()> {
    let Some(Applied { link, end_lsn, day }) = checkpoint.segment else { return Ok(()) };
    let update = format!(
        "UPDATE {} SET archive_id = ?, seq = ?, manifest_sha256 = ?, end_lsn = ?, day = ?, \
         commit_time = coalesce({TIME}, commit_time), applied_at = now()",
        database.own("data_sync_checkpoint")
    );
    let archive_id = checkpoint.archive_id.map(|id| id.to_string());
    let time = end.commit_time.map(|time| time.as_micros());
    let (sha256, day) = (link.sha256.to_string(), day.to_string());
    let moved = database
        .connection
        .execute(&update, params![archive_id, link.seq.get(), sha256, end_lsn.as_u64(), day, time])
        .context(|| "moving the checkpoint".to_owned())?;
    match moved {
        1 => Ok(()),
        _ => Err(Error::new(Kind::StateDamaged, "data_sync_checkpoint has not one row")),
    }
}

pub(super) fn note_capture_since(database: &Database, since: &CaptureSince) -> Result<()> {
    let update = format!("UPDATE {} SET capture_since = ?", database.own("data_sync_checkpoint"));
    let noted = database.connection.execute(&update, [json(since)]);
    noted.context(|| "noting since when tables are captured".to_owned())?;
    Ok(())
}

/// What the manifests up to the checkpoint say of it; nothing where none of them did.
pub(super) fn capture_since(database: &Database) -> Result<CaptureSince> {
    let select = format!("SELECT max(capture_since) FROM {}", database.own("data_sync_checkpoint"));
    let text: duckdb::Result<Option<String>> = database.connection.query_row(&select, [], |row| row.get(0));
    let Some(text) = text.context(|| "reading the checkpoint".to_owned())? else {
        return Ok(CaptureSince::new());
    };
    serde_json::from_str(&text).map_err(|error| {
        Error::new(Kind::StateDamaged, "data_sync_checkpoint.capture_since cannot be read").caused_by(error)
    })
}

/// Notes how fresh the copy is: all of the archive is applied, and it covers all up to there.
pub(super) fn note_covered(database: &Database, covered: Lsn, at: Timestamp) -> Result<()> {
    let update = format!(
        "UPDATE {} SET covered_lsn = ?, covered_at = {TIME} WHERE epoch_us(covered_at) IS DISTINCT FROM ?",
        database.own("data_sync_checkpoint")
    );
    let at = at.as_micros();
    let noted = database.connection.execute(&update, params![covered.as_u64(), at, at]);
    noted.context(|| "noting the freshness".to_owned())?;
    Ok(())
}

/// How fresh the head was that was noted last.
pub(super) fn covered_at(database: &Database) -> Result<Option<Timestamp>> {
    let select = format!("SELECT epoch_us(max(covered_at)) FROM {}", database.own("data_sync_checkpoint"));
    let at: duckdb::Result<Option<i64>> = database.connection.query_row(&select, [], |row| row.get(0));
    at.context(|| "reading the checkpoint".to_owned())?.map(Timestamp::from_micros).transpose()
}

/// Up to where everything that committed is in the live tables.
pub(super) fn reached(database: &Database) -> Result<Lsn> {
    let select = format!(
        "SELECT greatest(max(end_lsn), coalesce(max(covered_lsn), 0)) FROM {}",
        database.own("data_sync_checkpoint")
    );
    let lsn: duckdb::Result<u64> = database.connection.query_row(&select, [], |row| row.get(0));
    Ok(Lsn::from_u64(lsn.context(|| "reading the checkpoint".to_owned())?))
}

/// How often the freshness view calls a copy fresh.
pub(super) fn note_stale_after(database: &Database, stale_after: Duration) -> Result<()> {
    let update = format!(
        "UPDATE {} SET stale_after = to_seconds(?) WHERE stale_after IS DISTINCT FROM to_seconds(?)",
        database.own("data_sync_checkpoint")
    );
    let seconds = i64::try_from(stale_after.as_secs()).unwrap_or(i64::MAX);
    let noted = database.connection.execute(&update, [seconds, seconds]);
    noted.context(|| "noting stale_after".to_owned())?;
    Ok(())
}

/// What is kept of a table beside its state.
#[derive(Debug)]
pub(super) struct Known {
    pub state: TableState,
    /// The description by which it is as it is.
    pub relation: Option<Relation>,
    /// Columns that it had and the source has not: older records may name them.
    pub gone: Vec<Column>,
    /// Its rows may be others than the source has.
    pub is_disowned: bool,
}

/// The tables of the whitelist. One that was taken off it for a while, and is below the checkpoint now, has to catch up
/// before it is live.
pub(super) fn tables(database: &Database) -> Result<BTreeMap<TableName, Known>> {
    let select = format!(
        "SELECT w.table_name, CASE WHEN s.state = 'live' AND coalesce(s.position_lsn, 0) < \
         (SELECT max(end_lsn) FROM {}) THEN 'loading' ELSE coalesce(s.state, 'pending') END, \
         s.position_lsn, s.reason, coalesce(s.accepted_gaps, '[]'), s.load, coalesce(s.load_asked, 0), \
         coalesce(s.held_with, '[]'), s.source_columns, s.source_key, s.base_lsn, s.relation, \
         coalesce(s.is_disowned, false), coalesce(s.gone, '[]') \
         FROM {} w LEFT JOIN {} s USING (table_name) ORDER BY w.id",
        database.own("data_sync_checkpoint"),
        database.own("tables_to_sync"),
        database.own("data_sync_table_state")
    );
    let doing = || "reading the states of the tables".to_owned();
    let mut statement = database.connection.prepare(&select).context(doing)?;
    let mut rows = statement.query([]).context(doing)?;
    let mut tables = BTreeMap::new();
    while let Some(row) = rows.next().context(doing)? {
        let (name, known) = known(row)?;
        tables.insert(name, known);
    }
    Ok(tables)
}

fn known(row: &Row<'_>) -> Result<(TableName, Known)> {
    let text = |place| row.get::<_, Option<String>>(place).context(|| "reading a table's state".to_owned());
    let lsn = |place| {
        let number = row.get::<_, Option<u64>>(place).context(|| "reading a table's state".to_owned());
        number.map(|number| number.map(Lsn::from_u64))
    };
    let name: TableName = text(0)?.unwrap_or_default().parse()?;
    let state = TableState {
        // A file has one group.
        group: GroupName::DEFAULT,
        state: text(1)?.unwrap_or_default().parse()?,
        position: lsn(2)?,
        reason: text(3)?,
        accepted_gaps: list(text(4)?.as_deref())?,
        load: text(5)?.as_deref().map(Want::from_str).transpose()?,
        vouched: None,
        load_asked: row.get(6).context(|| "reading a table's state".to_owned())?,
        held_with: list(text(7)?.as_deref())?,
        // What cannot be read is as good as nothing: it is only there to tell a new name from a new column.
        source_columns: text(8)?.and_then(|text| serde_json::from_str(&text).ok()).unwrap_or_default(),
        paired: BTreeMap::new(),
        source_key: text(9)?.and_then(|text| serde_json::from_str(&text).ok()),
        base: lsn(10)?,
    };
    let unreadable = |error: serde_json::Error| {
        let what = format!("what is kept of {name} cannot be read");
        Error::new(Kind::StateDamaged, what).caused_by(error)
    };
    let relation = text(11)?.map(|text| serde_json::from_str(&text)).transpose().map_err(unreadable)?;
    let is_disowned = row.get(12).context(|| "reading a table's state".to_owned())?;
    let gone = serde_json::from_str(text(13)?.as_deref().unwrap_or("[]")).map_err(unreadable)?;
    Ok((name, Known { state, relation, gone, is_disowned }))
}

fn list<T: FromStr<Err = Error>>(text: Option<&str>) -> Result<Vec<T>> {
    let words: Vec<String> = serde_json::from_str(text.unwrap_or("[]")).map_err(|error| {
        Error::new(Kind::StateDamaged, "a list in data_sync_table_state").caused_by(error)
    })?;
    words.iter().map(|word| word.parse()).collect()
}

pub(super) fn json(value: &impl serde::Serialize) -> String {
    serde_json::to_string(value).expect("names and numbers are its keys")
}

/// Something happens to a table: the only place that writes a state. Its position stays where it is, unless another one is
/// given.
pub(super) fn change(
    database: &Database,
    table: &TableName,
    event: Event,
    position: Option<Position>,
    reason: Option<&str>,
) -> Result<()> {
    let doing = || format!("noting the state of {table}");
    let states = database.own("data_sync_table_state");
    let select = format!("SELECT state FROM {states} WHERE table_name = ?");
    let mut statement = database.connection.prepare(&select).context(doing)?;
    let mut rows = statement.query([table.to_string()]).context(doing)?;
    let known: Option<String> = match rows.next().context(doing)? {
        Some(row) => Some(row.get(0).context(doing)?),
        None => None,
    };
    // One that was only put on the whitelist has no line yet.
    let state = known.as_deref().map_or(Ok(State::Pending), str::parse)?;
    let state = state.after(event).map_err(|error| error.context(doing()))?;
    if known.is_none() {
        let insert = format!("INSERT INTO {states} (table_name, state) VALUES (?, ?)");
        database.connection.execute(&insert, [table.to_string(), state.to_string()]).context(doing)?;
    }

    let update = format!(
        "UPDATE {states} SET since = CASE WHEN state = ? THEN since ELSE now() END, \
         held_with = CASE WHEN state = ? THEN held_with ELSE '[]' END, state = ?, \
         position_lsn = coalesce(?, position_lsn), position_time = coalesce({TIME}, position_time), reason = ?, \
         waiting = NULL WHERE table_name = ?"
    );
    let state = state.as_str();
    let lsn = position.map(|position| position.lsn.as_u64());
    let time = position.and_then(|position| position.commit_time).map(|time| time.as_micros());
    let values = params![state, state, state, lsn, time, reason, table.to_string()];
    database.connection.execute(&update, values).context(doing)?;
    Ok(())
}

/// Sets columns of a table's line, which has to be there.
pub(super) fn note(
    database: &Database,
    table: &TableName,
    set: &str,
    values: &[&dyn duckdb::ToSql],
) -> Result<()> {
    let update = format!("UPDATE {} SET {set} WHERE table_name = ?", database.own("data_sync_table_state"));
    let name = table.to_string();
    let values: Vec<&dyn duckdb::ToSql> =
        values.iter().copied().chain([&name as &dyn duckdb::ToSql]).collect();
    let noted = database.connection.execute(&update, values.as_slice());
    noted.context(|| format!("noting what is known of {table}"))?;
    Ok(())
}

/// Moves tables on that took everything up to there.
pub(super) fn advance(database: &Database, tables: &[TableName], position: Position) -> Result<()> {
    let (lsn, time) = (position.lsn.as_u64(), position.commit_time.map(|time| time.as_micros()));
    let set = format!(
        "position_time = CASE WHEN coalesce(position_lsn, 0) < ? THEN coalesce({TIME}, position_time) ELSE position_time END, \
         position_lsn = greatest(coalesce(position_lsn, 0), ?)"
    );
    for table in tables {
        note(database, table, &set, &[&lsn, &time, &lsn])?;
    }
    Ok(())
}

pub(super) fn note_columns(database: &Database, table: &TableName, columns: &SourceColumns) -> Result<()> {
    note(database, table, "source_columns = ?", &[&json(columns)])
}

pub(super) fn note_gap(database: &Database, table: &TableName, gap: GapName) -> Result<()> {
    note(database, table, "gap = ?", &[&gap.to_string()])
}

/// Tables that the source captures no more, or again: `captured` are those that it does.
pub(super) fn note_captured(database: &Database, captured: &[TableName]) -> Result<()> {
    let doing = || "noting which tables are captured".to_owned();
    // What has no rows yet has nothing that could be too old.
    let select = format!(
        "SELECT table_name, captured_until IS NULL FROM {} \
         WHERE position_lsn IS NOT NULL OR captured_until IS NOT NULL",
        database.own("data_sync_table_state")
    );
    let mut statement = database.connection.prepare(&select).context(doing)?;
    let known = statement.query_map([], |row| Ok((row.get::<_, String>(0)?, row.get::<_, bool>(1)?)));
    let known: Vec<(String, bool)> = known.context(doing)?.collect::<duckdb::Result<_>>().context(doing)?;
    for (name, was_captured) in known {
        let table: TableName = name.parse()?;
        match (was_captured, captured.contains(&table)) {
            (false, true) => {
                note(database, &table, "captured_until = NULL", &[])?;
                tracing::info!(%table, "the archiver captures the table again");
            }
            (true, false) => {
                let set = format!(
                    "captured_until = (SELECT coalesce(max(covered_at), position_time, now()) FROM {})",
                    database.own("data_sync_checkpoint")
                );
                note(database, &table, &set, &[])?;
                tracing::warn!(%table, "the archiver captures the table no more: it stays as of now");
            }
            (true, true) | (false, false) => {}
        }
    }
    Ok(())
}

/// As head.json says of the newest manifest's tables: these left since. Before its freshness is noted.
pub(super) fn note_left(database: &Database, left: &[TablePattern]) -> Result<()> {
    let tables = tables(database)?;
    for table in tables.keys().filter(|table| left.iter().any(|pattern| pattern.matches(table))) {
        let set = format!(
            "captured_until = coalesce(captured_until, (SELECT coalesce(max(covered_at), position_time, now()) FROM {}))",
            database.own("data_sync_checkpoint")
        );
        note(database, table, &set, &[])?;
    }
    Ok(())
}

/// The tables of the whitelist that are captured no more, each with the time after which nothing of it is in the archive.
pub(super) fn left(database: &Database) -> Result<BTreeMap<String, Timestamp>> {
    let doing = || "reading which tables are captured".to_owned();
    let select = format!(
        "SELECT s.table_name, epoch_us(s.captured_until) FROM {} s JOIN {} w USING (table_name) \
         WHERE s.captured_until IS NOT NULL",
        database.own("data_sync_table_state"),
        database.own("tables_to_sync")
    );
    let mut statement = database.connection.prepare(&select).context(doing)?;
    let rows = statement.query_map([], |row| Ok((row.get::<_, String>(0)?, row.get::<_, i64>(1)?)));
    let rows: Vec<(String, i64)> = rows.context(doing)?.collect::<duckdb::Result<_>>().context(doing)?;
    rows.into_iter().map(|(table, at)| Ok((table, Timestamp::from_micros(at)?))).collect()
}

/// Notes columns in which NaN and infinities arrive as NULL. Whether that was new.
pub(super) fn note_nan(database: &Database, table: &TableName, columns: &[String]) -> Result<bool> {
    let doing = || format!("noting what {table} cannot be told");
    let select = format!(
        "SELECT max(nan_as_null) FROM {} WHERE table_name = ?",
        database.own("data_sync_table_state")
    );
    let known: Option<String> =
        database.connection.query_row(&select, [table.to_string()], |row| row.get(0)).context(doing)?;
    let known: Vec<String> = known.and_then(|text| serde_json::from_str(&text).ok()).unwrap_or_default();
    let all: BTreeSet<&String> = known.iter().chain(columns).collect();
    if all.len() == known.len() {
        return Ok(false);
    }
    note(database, table, "nan_as_null = ?", &[&json(&all)])?;
    Ok(true)
}
