//! What the file says of the copy and its tables, for who asks how far they are.

use duckdb::Row;
use syncdata_formats::error::Result;
use syncdata_formats::lsn::Lsn;
use syncdata_formats::name::TableName;
use syncdata_formats::time::Timestamp;

use super::database::Database;
use super::error::DuckdbContext as _;
use super::names;
use crate::plan::state::State;

/// The copy as a whole.
#[derive(Clone, Debug, Default)]
pub struct FoundCopy {
    pub archive_id: Option<String>,
    pub segment: u64,
    pub lsn: Lsn,
    pub covered_at: Option<Timestamp>,
    pub applied_at: Option<Timestamp>,
    pub tables: Vec<FoundTable>,
    /// Records in data_sync_quarantine that nothing has settled.
    pub quarantine_records: u64,
}

/// One table of the whitelist.
#[derive(Clone, Debug)]
pub struct FoundTable {
    pub table: String,
    pub state: State,
    pub data_as_of: Option<Timestamp>,
    pub lsn: Option<Lsn>,
    pub stale: bool,
    pub reason: Option<String>,
    pub captured_until: Option<Timestamp>,
    pub nan_as_null: Vec<String>,
    pub changed_at: Option<Timestamp>,
    pub waiting_records: Option<u64>,
    pub incomplete_lsn: Option<Lsn>,
    pub rows: Option<u64>,
}

const DOING: &str = "reading how far the copy is";

pub(super) fn found(database: &Database) -> Result<FoundCopy> {
    let doing = || DOING.to_owned();
    let select = format!(
        "SELECT archive_id, seq, end_lsn, epoch_us(covered_at), epoch_us(applied_at), \
         (SELECT count(*) FROM {} WHERE resolved_at IS NULL) FROM {}",
        database.own("data_sync_quarantine"),
        database.own("data_sync_checkpoint")
    );
    let mut statement = database.connection.prepare(&select).context(doing)?;
    let mut rows = statement.query([]).context(doing)?;
    let mut copy = FoundCopy::default();
    if let Some(row) = rows.next().context(doing)? {
        copy = FoundCopy {
            archive_id: row.get(0).context(doing)?,
            segment: row.get(1).context(doing)?,
            lsn: Lsn::from_u64(row.get(2).context(doing)?),
            covered_at: time(row, 3)?,
            applied_at: time(row, 4)?,
            quarantine_records: row.get(5).context(doing)?,
            tables: Vec::new(),
        };
    }
    copy.tables = tables_of(database)?;
    Ok(copy)
}

fn tables_of(database: &Database) -> Result<Vec<FoundTable>> {
    let doing = || DOING.to_owned();
    let select = format!(
        "SELECT w.table_name, f.state, epoch_us(f.data_as_of), f.stale, s.reason, epoch_us(s.captured_until), \
         coalesce(s.nan_as_null, '[]'), epoch_us(s.changed_at), s.waiting, s.incomplete_lsn, f.lsn \
         FROM {w} w LEFT JOIN {f} f USING (table_name) LEFT JOIN {s} s USING (table_name) ORDER BY w.id",
        w = database.own("tables_to_sync"),
        f = database.own("data_sync_freshness"),
        s = database.own("data_sync_table_state")
    );
    let mut statement = database.connection.prepare(&select).context(doing)?;
    let mut rows = statement.query([]).context(doing)?;
    let mut found = Vec::new();
    while let Some(row) = rows.next().context(doing)? {
        let table: String = row.get(0).context(doing)?;
        let state: Option<String> = row.get(1).context(doing)?;
        let lsn: Option<String> = row.get(10).context(doing)?;
        let waiting: Option<i64> = row.get(8).context(doing)?;
        let nan: String = row.get(6).context(doing)?;
        found.push(FoundTable {
            state: state.as_deref().unwrap_or("pending").parse()?,
            data_as_of: time(row, 2)?,
            lsn: lsn.as_deref().map(str::parse).transpose()?,
            stale: row.get::<_, Option<bool>>(3).context(doing)?.unwrap_or(true),
            reason: row.get(4).context(doing)?,
            captured_until: time(row, 5)?,
            nan_as_null: serde_json::from_str(&nan).unwrap_or_default(),
            changed_at: time(row, 7)?,
            waiting_records: waiting.and_then(|records| u64::try_from(records).ok()),
            incomplete_lsn: row.get::<_, Option<u64>>(9).context(doing)?.map(Lsn::from_u64),
            rows: None,
            table,
        });
    }
    drop(rows);
    for table in &mut found {
        let Ok(name) = table.table.parse() else { continue };
        table.rows = estimate(database, &name)?;
    }
    Ok(found)
}

/// The rows of a table, as DuckDB's catalog has the number.
fn estimate(database: &Database, table: &TableName) -> Result<Option<u64>> {
    let select = "SELECT max(estimated_size) FROM duckdb_tables() \
        WHERE database_name = ? AND schema_name = ? AND table_name = ?";
    let values = [database.stem.as_str(), names::schema(table), table.name()];
    let rows: duckdb::Result<Option<i64>> = database.connection.query_row(select, values, |row| row.get(0));
    let rows = rows.context(|| DOING.to_owned())?;
    Ok(rows.and_then(|rows| u64::try_from(rows).ok()))
}

fn time(row: &Row<'_>, place: usize) -> Result<Option<Timestamp>> {
    let micros = row.get::<_, Option<i64>>(place).context(|| DOING.to_owned())?;
    micros.map(Timestamp::from_micros).transpose()
}
