//! Dead letters: the records that no table would take, kept with all that is known about them, also when they are settled.

use serde::{Deserialize, Serialize};
use syncdata_formats::error::Result;
use syncdata_formats::lsn::Lsn;
use syncdata_formats::name::TableName;
use syncdata_formats::time::Timestamp;
use syncdata_service::postgres::OwnTablesContext as _;
use tokio_postgres::{GenericClient, Row};
use uuid::Uuid;

use crate::target::postgres::kept::{self, RECORD_BYTES_MAX};
use crate::target::postgres::local::Local;
use crate::target::postgres::meta::MetaSchema;
use crate::target::postgres::values::Values;
use crate::target::{Found, Poison};

/// A record that its table could not take.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeadLetter {
    /// The same place of the archive keeps it, however often it is tried.
    pub operation_id: Uuid,
    pub table: String,
    /// Its place: segment and line.
    pub seq: u64,
    /// `None`: no record in particular is to blame.
    pub line: Option<u64>,
    pub lsn: Option<Lsn>,
    pub sqlstate: Option<String>,
    /// With the server's own words, which may quote values.
    pub reason: String,
    /// When it failed first.
    pub at: Timestamp,
    pub attempts: u32,
    pub resolved_at: Option<Timestamp>,
    pub resolution: Option<String>,
}

/// How a dead letter was settled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Resolution {
    /// A later try took it.
    Applied,
    /// The table was made anew from a base.
    Resynced,
    /// The table was emptied.
    Cleared,
    /// The table was taken off the whitelist.
    Removed,
}

impl Resolution {
    fn as_str(self) -> &'static str {
        match self {
            Resolution::Applied => "applied",
            Resolution::Resynced => "resynced",
            Resolution::Cleared => "cleared",
            Resolution::Removed => "removed",
        }
    }
}

/// Keeps what failed. A record that has failed before counts one more attempt; what failed earlier in the archive was
/// taken meanwhile.
pub async fn keep(local: &Local, poison: &Poison, record: Option<&Found>) -> Result<()> {
    let (client, meta) = (local.session.client(), &local.meta);
    let seq = i64::try_from(poison.seq).expect("ten digits");
    let line = poison.line.and_then(|line| i64::try_from(line).ok());
    let table = poison.table.to_string();
    if line.is_some() {
        let passed = format!(
            "UPDATE {meta}.data_sync_quarantine SET resolved_at = clock_timestamp(), resolution = 'applied' \
             WHERE table_name = $1 AND resolved_at IS NULL \
             AND (seq < $2 OR (seq = $2 AND (line IS NULL OR line < $3)))"
        );
        let noted = client.execute(&passed, &[&table, &seq, &line]).await;
        noted.context(|| "settling what was taken meanwhile".to_owned())?;
    }

    let (reason, text) = words(local, poison, record).await?;
    let upsert = format!(
        "INSERT INTO {meta}.data_sync_quarantine AS q (table_name, seq, line, lsn, sqlstate, reason, record) \
         VALUES ($1, $2, $3, $4::text::pg_lsn, $5, $6, $7) \
         ON CONFLICT (table_name, seq, coalesce(line, -1)) DO UPDATE SET lsn = EXCLUDED.lsn, \
         sqlstate = EXCLUDED.sqlstate, reason = EXCLUDED.reason, record = EXCLUDED.record, attempts = q.attempts + 1, \
         resolved_at = NULL, resolution = NULL"
    );
    let lsn = record.map(|record| record.lsn.to_string());
    client
        .execute(&upsert, &[&table, &seq, &line, &lsn, &poison.sqlstate, &reason, &text])
        .await
        .context(|| "keeping the record in data_sync_quarantine".to_owned())?;
    Ok(())
}

/// The reason and the record, as they may be kept.
async fn words(local: &Local, poison: &Poison, record: Option<&Found>) -> Result<(String, Option<String>)> {
    let client = local.session.client();
    let hashed = record.and_then(|record| local.values.hashed(&record.text));
    let (said, text) = match &local.values {
        Values::Plain => (poison.server_words.as_ref(), record.map(|record| &record.text)),
        // What the server says may quote values.
        Values::Hashed { .. } => (None, hashed.as_ref()),
    };
    let said = said.map_or(String::new(), |words| format!(" [{words}]"));
    let mut reason = format!("{}{said}", poison.words());
    let kept = match text {
        Some(text) => kept::document(client, text).await?,
        None => None,
    };
    if let (Some(text), None) = (text, &kept) {
        let bytes = text.len();
        reason = format!(
            "the record of {bytes} bytes is too long to be kept here (more than {RECORD_BYTES_MAX}), it is in the \
             archive: {reason}"
        );
    }
    Ok((kept::words(client, &reason).await?, kept))
}

/// Settles what is open of a table.
pub async fn settle(
    client: &impl GenericClient,
    meta: &MetaSchema,
    table: &TableName,
    resolution: Resolution,
) -> Result<()> {
    let update = format!(
        "UPDATE {meta}.data_sync_quarantine SET resolved_at = clock_timestamp(), resolution = $2 \
         WHERE table_name = $1 AND resolved_at IS NULL"
    );
    let settled = client.execute(&update, &[&table.to_string(), &resolution.as_str()]).await;
    settled.context(|| format!("settling the dead letters of {table}"))?;
    Ok(())
}

const COLUMNS: &str = "operation_id::text, table_name, seq, line, lsn::text, sqlstate, reason, at::text, attempts, \
    resolved_at::text, resolution";

/// Those that are open, of all or of one table; or all that ever were. Oldest first.
pub async fn list(
    client: &impl GenericClient,
    meta: &MetaSchema,
    table: Option<&TableName>,
    with_settled: bool,
) -> Result<Vec<DeadLetter>> {
    let select = format!(
        "SELECT {COLUMNS} FROM {meta}.data_sync_quarantine \
         WHERE ($1::text IS NULL OR table_name = $1) AND ($2 OR resolved_at IS NULL) ORDER BY id"
    );
    let table = table.map(ToString::to_string);
    let rows = client.query(&select, &[&table, &with_settled]).await;
    rows.context(|| "reading data_sync_quarantine".to_owned())?.iter().map(letter).collect()
}

/// The dead letter of that id, with its record.
pub async fn find(
    client: &impl GenericClient,
    meta: &MetaSchema,
    id: Uuid,
) -> Result<Option<(DeadLetter, Option<String>)>> {
    let select = format!(
        "SELECT {COLUMNS}, record FROM {meta}.data_sync_quarantine WHERE operation_id = $1::text::uuid"
    );
    let row = client.query_opt(&select, &[&id.to_string()]).await;
    let row = row.context(|| "reading data_sync_quarantine".to_owned())?;
    row.map(|row| Ok((letter(&row)?, row.get(11)))).transpose()
}

fn letter(row: &Row) -> Result<DeadLetter> {
    let bad = |what: &str| syncdata_formats::Error::bad_input(what, "data_sync_quarantine's");
    let time = |text: Option<&str>| text.map(Timestamp::from_postgres).transpose();
    Ok(DeadLetter {
        operation_id: row.get::<_, &str>(0).parse().map_err(|_| bad("a uuid"))?,
        table: row.get(1),
        seq: u64::try_from(row.get::<_, i64>(2)).map_err(|_| bad("a segment number"))?,
        line: row.get::<_, Option<i64>>(3).and_then(|line| u64::try_from(line).ok()),
        lsn: row.get::<_, Option<&str>>(4).map(str::parse).transpose()?,
        sqlstate: row.get(5),
        reason: row.get(6),
        at: time(row.get(7))?.ok_or_else(|| bad("a time"))?,
        attempts: u32::try_from(row.get::<_, i32>(8)).unwrap_or(0),
        resolved_at: time(row.get(9))?,
        resolution: row.get(10),
    })
}

/// Notes that a transaction was passed over: for ever in the log and here, and in the table's state until it is whole again.
pub async fn note_skip(
    client: &impl GenericClient,
    meta: &MetaSchema,
    letter: &DeadLetter,
    last_line: u64,
    end_lsn: Lsn,
    reason: &str,
) -> Result<()> {
    let doing = || format!("noting that a transaction of {} is passed over", letter.table);
    let why = kept::words(client, reason).await?;
    let (seq, line) = (i64::try_from(letter.seq).ok(), i64::try_from(last_line).ok());
    let settle = format!(
        "UPDATE {meta}.data_sync_quarantine SET resolved_at = clock_timestamp(), resolution = 'skipped: ' || $4 \
         WHERE table_name = $1 AND resolved_at IS NULL AND (seq < $2 OR (seq = $2 AND (line IS NULL OR line <= $3)))"
    );
    client.execute(&settle, &[&letter.table, &seq, &line, &why]).await.context(doing)?;
    let state = format!(
        "UPDATE {meta}.data_sync_table_state SET incomplete_lsn = $2::text::pg_lsn WHERE table_name = $1"
    );
    client.execute(&state, &[&letter.table, &end_lsn.to_string()]).await.context(doing)?;
    let log = format!(
        "INSERT INTO {meta}.data_sync_logs (table_name, status, archive_ref, error_detail) VALUES ($1, 'SUCCESS', $2, $3)"
    );
    let detail = format!("{}: transaction up to {end_lsn}: {why}", letter.operation_id);
    client.execute(&log, &[&letter.table, &SKIP, &detail]).await.context(doing)?;
    Ok(())
}

/// Rows of it are lost here, and somebody has accepted that. What was proved up to its position was proved of rows from before.
pub async fn note_incomplete(
    client: &impl GenericClient,
    meta: &MetaSchema,
    table: &TableName,
    position: Lsn,
) -> Result<()> {
    let after = Lsn::from_u64(position.as_u64() + 1);
    let update = format!(
        "UPDATE {meta}.data_sync_table_state SET incomplete_lsn = greatest(incomplete_lsn, $2::text::pg_lsn) \
         WHERE table_name = $1"
    );
    let updated = client.execute(&update, &[&table.to_string(), &after.to_string()]).await;
    updated.context(|| format!("noting that rows of {table} are lost"))?;
    Ok(())
}

/// What data_sync_logs calls it; such lines stay for ever.
pub const SKIP: &str = "dead-letters skip";

/// Tables of which a transaction was passed over are whole again where a proof after it says so. What it left out may be what
/// is missing.
pub async fn end_incomplete(client: &impl GenericClient, meta: &MetaSchema) -> Result<()> {
    let update = format!(
        "UPDATE {meta}.data_sync_table_state s SET incomplete_lsn = NULL \
         WHERE incomplete_lsn IS NOT NULL AND EXISTS (SELECT FROM {meta}.data_sync_consistency c \
           WHERE c.table_name = s.table_name AND c.check_type = 'data_hash' AND c.cut_lsn >= s.incomplete_lsn \
             AND coalesce(c.left_out, '{{}}') = '{{}}' AND (c.verdict = 'equal' OR c.repaired_at IS NOT NULL))"
    );
    client.execute(&update, &[]).await.context(|| "looking which tables are whole again".to_owned())?;
    Ok(())
}
