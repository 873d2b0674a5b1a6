//! What happened, for people: the log of every table and segment, counts per period, and the records that no table would
//! take. In the transaction of the rows.

use std::time::Duration;

use duckdb::params;
use syncdata_formats::error::Result;
use syncdata_formats::name::TableName;
use syncdata_formats::time::Timestamp;

use super::database::Database;
use super::error::DuckdbContext as _;
use crate::target::{Entry, Found, Poison};

/// Of a record. What is longer is in the archive.
const RECORD_BYTES_MAX: usize = 64 << 20;

/// Keeps what failed. A record that has failed before counts one more attempt; what failed earlier in the archive was taken
/// meanwhile.
pub(super) fn keep(database: &Database, poison: &Poison, record: Option<&Found>) -> Result<()> {
    let quarantine = database.own("data_sync_quarantine");
    let doing = || format!("keeping a record of {} in data_sync_quarantine", poison.table);
    let (table, seq, line) = (poison.table.to_string(), poison.seq, poison.line);
    if line.is_some() {
        let passed = format!(
            "UPDATE {quarantine} SET resolved_at = now(), resolution = 'applied' \
             WHERE table_name = ? AND resolved_at IS NULL AND (seq < ? OR (seq = ? AND (line IS NULL OR line < ?)))"
        );
        database.connection.execute(&passed, params![table, seq, seq, line]).context(doing)?;
    }

    let kept = record.map(|record| record.text.as_str()).filter(|text| text.len() <= RECORD_BYTES_MAX);
    let mut reason = poison.words();
    if let Some(words) = &poison.server_words {
        reason = format!("{reason} [{words}]");
    }
    if let (Some(record), None) = (record, kept) {
        reason = format!(
            "the record of {} bytes is too long to be kept here (more than {RECORD_BYTES_MAX}), it is in the archive: \
             {reason}",
            record.text.len()
        );
    }
    let lsn = record.map(|record| record.lsn.as_u64());
    let again = format!(
        "UPDATE {quarantine} SET lsn = ?, sqlstate = ?, reason = ?, record = ?, attempts = attempts + 1, \
         resolved_at = NULL, resolution = NULL WHERE table_name = ? AND seq = ? AND line IS NOT DISTINCT FROM ?"
    );
    let values = params![lsn, poison.sqlstate, reason, kept, table, seq, line];
    if database.connection.execute(&again, values).context(doing)? == 0 {
        let insert = format!(
            "INSERT INTO {quarantine} (id, table_name, seq, line, lsn, sqlstate, reason, record) \
             SELECT (SELECT coalesce(max(id), 0) + 1 FROM {quarantine}), ?, ?, ?, ?, ?, ?, ?"
        );
        let values = params![table, seq, line, lsn, poison.sqlstate, reason, kept];
        database.connection.execute(&insert, values).context(doing)?;
    }
    Ok(())
}

/// Writes the entries; `apply` is how long their transaction took so far.
pub(super) fn log(database: &Database, entries: &[Entry], apply: Duration) -> Result<()> {
    let doing = || "writing data_sync_logs".to_owned();
    let insert = format!(
        "INSERT INTO {} (table_name, status, rows_synced, archive_ref, error_detail, rows_missing, transfer_ms, apply_ms) \
         VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
        database.own("data_sync_logs")
    );
    let mut statement = database.connection.prepare(&insert).context(doing)?;
    for entry in entries {
        let status = if entry.error.is_none() { "SUCCESS" } else { "FAILED" };
        let (rows, missing) = (entry.counts.total(), entry.missing);
        let (transfer, apply) = (milliseconds(entry.transfer), milliseconds(apply));
        let table = entry.table.to_string();
        statement
            .execute(params![table, status, rows, entry.archive_ref, entry.error, missing, transfer, apply])
            .context(doing)?;
    }
    Ok(())
}

/// What failed without being about a table.
pub(super) fn log_failure(database: &Database, archive_ref: Option<&str>, words: &str) -> Result<()> {
    let insert = format!(
        "INSERT INTO {} (table_name, status, archive_ref, error_detail) VALUES ('*', 'FAILED', ?, ?)",
        database.own("data_sync_logs")
    );
    let noted = database.connection.execute(&insert, params![archive_ref, words]);
    noted.context(|| "writing data_sync_logs".to_owned())?;
    Ok(())
}

/// That an operator has said something of these tables.
pub(super) fn log_command(database: &Database, command: &str, tables: &[TableName]) -> Result<()> {
    let insert = format!(
        "INSERT INTO {} (table_name, status, archive_ref) VALUES (?, 'SUCCESS', ?)",
        database.own("data_sync_logs")
    );
    for table in tables {
        let noted = database.connection.execute(&insert, [table.to_string().as_str(), command]);
        noted.context(|| "writing data_sync_logs".to_owned())?;
    }
    Ok(())
}

/// Lines that are older than so many days, but for changes that somebody has gone on without; 0 keeps all.
pub(super) fn forget_old(database: &Database, days: u32) -> Result<()> {
    if days == 0 {
        return Ok(());
    }
    let micros = i64::from(days) * 24 * 3600 * 1_000_000;
    let delete = format!(
        "DELETE FROM {} WHERE epoch_us(sync_time) < epoch_us(now()) - ? \
         AND archive_ref IS DISTINCT FROM 'retry --accept-gap'",
        database.own("data_sync_logs")
    );
    database.connection.execute(&delete, [micros]).context(|| "forgetting old logs".to_owned())?;
    Ok(())
}

/// Adds counts to the periods that `now` lies in. A week begins on Monday, in UTC like all of our periods.
pub(super) fn count(
    database: &Database,
    entries: &[Entry],
    metric_freq: Duration,
    now: Timestamp,
) -> Result<()> {
    let doing = || "counting in data_sync_metrics".to_owned();
    let metrics = database.own("data_sync_metrics");
    let seconds = i64::try_from(metric_freq.as_secs().max(1)).unwrap_or(i64::MAX);
    let micros = now.as_micros();
    let freq = seconds.saturating_mul(1_000_000);
    let start = micros.div_euclid(freq) * freq;
    let truncated = |part: &str| format!("date_trunc('{part}', make_timestamp({micros}))");
    let (week, month) = (truncated("week"), truncated("month"));
    let periods = [
        (
            "FREQ",
            format!("make_timestamp({start})"),
            format!("make_timestamp({})", start.saturating_add(freq)),
        ),
        ("WEEK", week.clone(), format!("{week} + INTERVAL '7 days'")),
        ("MONTH", month.clone(), format!("{month} + INTERVAL '1 month'")),
    ];
    let zoned = |time: &str| format!("CAST(CAST({time} AS VARCHAR) || '+00' AS TIMESTAMPTZ)");
    for entry in entries.iter().filter(|entry| entry.counts.total() > 0) {
        let (table, counts) = (entry.table.to_string(), entry.counts);
        for (name, from, until) in &periods {
            let (from, until) = (zoned(from), zoned(until));
            let add = format!(
                "UPDATE {metrics} SET records_added = records_added + ?, records_updated = records_updated + ?, \
                 records_deleted = records_deleted + ? \
                 WHERE table_name = ? AND period_type = ? AND period_start = {from}"
            );
            let values = params![counts.insert, counts.update, counts.delete, table, name];
            if database.connection.execute(&add, values).context(doing)? == 0 {
                let insert = format!("INSERT INTO {metrics} VALUES (?, {from}, {until}, ?, ?, ?, ?)");
                let values = params![table, name, counts.insert, counts.update, counts.delete];
                database.connection.execute(&insert, values).context(doing)?;
            }
        }
    }
    Ok(())
}

fn milliseconds(duration: Duration) -> u64 {
    // What took any time took one.
    u64::try_from(duration.as_micros().div_ceil(1000)).unwrap_or(u64::MAX)
}
