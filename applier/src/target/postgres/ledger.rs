//! What happened, for people: the log of every table and segment, and the counts per period. Written in the
//! transaction of the rows, so that they are exact.

use std::time::Duration;
use syncdata_service::postgres::OwnTablesContext as _;

use syncdata_formats::error::Result;
use syncdata_formats::manifest::OpCounts;
use syncdata_formats::name::TableName;
use syncdata_formats::time::Timestamp;
use tokio_postgres::GenericClient;

pub use crate::target::Entry;
use crate::target::postgres::kept;
use crate::target::postgres::meta::MetaSchema;

/// Old lines go in small steps: a pass waits for them, and a first one may meet years.
const FORGET_ROWS_MAX: i64 = 10_000;
const FORGET_ROUNDS_MAX: u32 = 20;

/// Writes the entries; `apply` is how long their transaction took so far.
pub async fn log(
    client: &impl GenericClient,
    meta: &MetaSchema,
    entries: &[Entry],
    apply: Duration,
) -> Result<()> {
    let insert = format!(
        "INSERT INTO {meta}.data_sync_logs \
         (table_name, status, rows_synced, archive_ref, error_detail, rows_missing, transfer_ms, apply_ms, sync_time) \
         SELECT t, CASE WHEN e IS NULL THEN 'SUCCESS' ELSE 'FAILED' END, r, a, e, m, d, $7, clock_timestamp() \
         FROM unnest($1::text[], $2::int[], $3::text[], $4::text[], $5::bigint[], $6::bigint[]) AS u(t, r, a, e, m, d)"
    );
    let tables: Vec<String> = entries.iter().map(|entry| entry.table.to_string()).collect();
    let rows: Vec<i32> = entries.iter().map(|entry| clamp(entry.counts.total())).collect();
    let files: Vec<&str> = entries.iter().map(|entry| entry.archive_ref.as_str()).collect();
    let mut errors: Vec<Option<String>> = Vec::with_capacity(entries.len());
    for entry in entries {
        errors.push(match &entry.error {
            Some(error) => Some(kept::words(client, error).await?),
            None => None,
        });
    }
    let missing: Vec<i64> = entries.iter().map(|entry| clamp(entry.missing)).collect();
    let transfer: Vec<i64> = entries.iter().map(|entry| milliseconds(entry.transfer)).collect();
    client
        .execute(&insert, &[&tables, &rows, &files, &errors, &missing, &transfer, &milliseconds(apply)])
        .await
        .context(|| "writing data_sync_logs".to_owned())?;
    Ok(())
}

/// The same, added to what the table's line of this minute says.
pub async fn log_by_minute(
    client: &impl GenericClient,
    meta: &MetaSchema,
    entries: &[Entry],
    apply: Duration,
) -> Result<()> {
    let add = format!(
        "UPDATE {meta}.data_sync_logs SET rows_synced = least(rows_synced::bigint + $2, 2147483647)::int, archive_ref = $3, \
           rows_missing = rows_missing + $4, transfer_ms = transfer_ms + $5, apply_ms = apply_ms + $6, \
           sync_time = clock_timestamp() \
         WHERE id = (SELECT id FROM {meta}.data_sync_logs WHERE sync_time >= date_trunc('minute', clock_timestamp()) \
           AND table_name = $1 AND status = 'SUCCESS' AND transfer_ms IS NOT NULL AND apply_ms IS NOT NULL \
           ORDER BY sync_time DESC LIMIT 1)"
    );
    for entry in entries {
        let added = match &entry.error {
            Some(_) => 0,
            None => {
                let (table, rows) = (entry.table.to_string(), clamp::<i64>(entry.counts.total()));
                let (missing, transfer) = (clamp::<i64>(entry.missing), milliseconds(entry.transfer));
                let apply = milliseconds(apply);
                let added = client
                    .execute(&add, &[&table, &rows, &entry.archive_ref, &missing, &transfer, &apply])
                    .await;
                added.context(|| "writing data_sync_logs".to_owned())?
            }
        };
        if added == 0 {
            log(client, meta, std::slice::from_ref(entry), apply).await?;
        }
    }
    Ok(())
}

/// A pass, or a load, that failed as a whole: under the name that stands for all tables. `archive_ref` is the file that
/// it is about, where that is known.
pub async fn log_failure(
    client: &impl GenericClient,
    meta: &MetaSchema,
    archive_ref: Option<&str>,
    error: &str,
) -> Result<()> {
    let insert = format!(
        "INSERT INTO {meta}.data_sync_logs (table_name, status, archive_ref, error_detail) \
         VALUES ('*', 'FAILED', $1, $2)"
    );
    let error = kept::words(client, error).await?;
    client.execute(&insert, &[&archive_ref, &error]).await.context(|| "writing data_sync_logs".to_owned())?;
    Ok(())
}

/// What a command did to tables, in its transaction.
pub async fn log_command(
    client: &impl GenericClient,
    meta: &MetaSchema,
    command: &str,
    tables: &[TableName],
) -> Result<()> {
    let insert = format!(
        "INSERT INTO {meta}.data_sync_logs (table_name, status, archive_ref) \
         SELECT t, 'SUCCESS', $2 FROM unnest($1::text[]) AS u(t)"
    );
    let tables: Vec<String> = tables.iter().map(ToString::to_string).collect();
    client.execute(&insert, &[&tables, &command]).await.context(|| "writing data_sync_logs".to_owned())?;
    Ok(())
}

/// Changes that somebody has gone on without.
const FOR_EVER: &str = "'dead-letters skip', 'retry --accept-gap'";

/// Removes what is older than so many days; 0 keeps all. It is announced a day before that is done for the first time, or with
/// fewer days than before.
pub async fn forget_old(client: &impl GenericClient, meta: &MetaSchema, days: u32) -> Result<()> {
    let Some(days) = i32::try_from(days).ok().filter(|days| *days > 0) else { return Ok(()) };
    if !is_announced(client, meta, days).await? {
        return Ok(());
    }
    let old_lines = format!(
        "DELETE FROM {meta}.data_sync_logs WHERE ctid = ANY (ARRAY( \
         SELECT ctid FROM {meta}.data_sync_logs WHERE sync_time < now() - make_interval(days => $1) \
         AND coalesce(archive_ref, '') <> ALL (ARRAY[{FOR_EVER}]) LIMIT $2))"
    );
    let old_executions = format!(
        "DELETE FROM {meta}.sync_executions WHERE id = ANY (ARRAY( \
         SELECT id FROM {meta}.sync_executions WHERE ended_at < now() - make_interval(days => $1) LIMIT $2))"
    );
    let old_alerts = format!(
        "DELETE FROM {meta}.data_sync_alerts WHERE id = ANY (ARRAY( \
         SELECT id FROM {meta}.data_sync_alerts WHERE resolved_at < now() - make_interval(days => $1) LIMIT $2))"
    );
    for delete in [&old_lines, &old_executions, &old_alerts] {
        for _ in 0..FORGET_ROUNDS_MAX {
            let forgotten = client.execute(delete, &[&days, &FORGET_ROWS_MAX]).await;
            let forgotten = forgotten.context(|| "forgetting what is older than log_keep_days".to_owned())?;
            if forgotten < FORGET_ROWS_MAX as u64 {
                break;
            }
        }
    }
    Ok(())
}

/// Whether whoever wanted to keep more had a day to say so.
async fn is_announced(client: &impl GenericClient, meta: &MetaSchema, days: i32) -> Result<bool> {
    let doing = || "looking how far data_sync_logs reaches back".to_owned();
    let known = format!(
        "SELECT keep_days <= $1, keep_announced_at <= now() - interval '1 day' FROM {meta}.data_sync_checkpoint"
    );
    let row = client.query_one(&known, &[&days]).await.context(doing)?;
    if row.get::<_, Option<bool>>(0) == Some(true) {
        return Ok(row.get::<_, Option<bool>>(1) == Some(true));
    }
    // A first line that is old enough is what there is to tell.
    let old = format!(
        "SELECT EXISTS (SELECT FROM {meta}.data_sync_logs WHERE sync_time < now() - make_interval(days => $1) \
           AND coalesce(archive_ref, '') <> ALL (ARRAY[{FOR_EVER}])) \
         OR EXISTS (SELECT FROM {meta}.sync_executions WHERE ended_at < now() - make_interval(days => $1)) \
         OR EXISTS (SELECT FROM {meta}.data_sync_alerts WHERE resolved_at < now() - make_interval(days => $1))"
    );
    if client.query_one(&old, &[&days]).await.context(doing)?.get(0) {
        let note = format!(
            "UPDATE {meta}.data_sync_checkpoint SET keep_days = $1, keep_announced_at = clock_timestamp()"
        );
        client.execute(&note, &[&days]).await.context(doing)?;
        tracing::warn!(
            days,
            "lines of data_sync_logs, sync_executions and data_sync_alerts that are older than log_keep_days go from tomorrow on; \
             log_keep_days = 0 keeps them"
        );
    }
    Ok(false)
}

/// Adds counts to the periods that `now` lies in.
pub async fn count(
    client: &impl GenericClient,
    meta: &MetaSchema,
    entries: &[Entry],
    metric_freq: Duration,
    now: Timestamp,
) -> Result<()> {
    // A week begins on Monday, in UTC like all of our periods.
    let upsert = format!(
        "INSERT INTO {meta}.data_sync_metrics AS m \
         (table_name, period_start, period_end, period_type, records_added, records_updated, records_deleted) \
         SELECT t, p.from, p.until, p.name, sum(i), sum(u), sum(d) \
         FROM unnest($1::text[], $2::bigint[], $3::bigint[], $4::bigint[]) AS c(t, i, u, d) \
         CROSS JOIN ( \
             SELECT 'FREQ', to_timestamp(f.start), to_timestamp(f.start + $6::bigint) FROM ( \
                 SELECT floor(extract(epoch FROM $5::text::timestamptz))::bigint / $6::bigint * $6::bigint) AS f(start) \
             UNION ALL SELECT 'WEEK', w, w + interval '7 days' FROM date_trunc('week', $5::text::timestamptz) AS w \
             UNION ALL SELECT 'MONTH', m, m + interval '1 month' FROM date_trunc('month', $5::text::timestamptz) AS m \
         ) AS p(name, \"from\", until) \
         GROUP BY t, p.from, p.until, p.name ORDER BY t, p.name \
         ON CONFLICT (table_name, period_start, period_type) DO UPDATE SET \
         records_added = m.records_added + EXCLUDED.records_added, \
         records_updated = m.records_updated + EXCLUDED.records_updated, \
         records_deleted = m.records_deleted + EXCLUDED.records_deleted"
    );
    let counted = |entry: &&Entry| entry.counts.total() > 0;
    let entries: Vec<&Entry> = entries.iter().filter(counted).collect();
    let column = |count: fn(&OpCounts) -> u64| -> Vec<i64> {
        entries.iter().map(|entry| clamp(count(&entry.counts))).collect()
    };
    let tables: Vec<String> = entries.iter().map(|entry| entry.table.to_string()).collect();
    let (added, updated, deleted) = (column(|c| c.insert), column(|c| c.update), column(|c| c.delete));
    let seconds: i64 = clamp(metric_freq.as_secs().max(1));
    client
        .execute(&upsert, &[&tables, &added, &updated, &deleted, &now.to_string(), &seconds])
        .await
        .context(|| "counting in data_sync_metrics".to_owned())?;
    Ok(())
}

fn milliseconds(duration: Duration) -> i64 {
    // What took any time took one.
    i64::try_from(duration.as_micros().div_ceil(1000)).unwrap_or(i64::MAX)
}

/// The column's type is given; a count above it is as good as the largest.
fn clamp<T: TryFrom<u64> + Bounded>(count: u64) -> T {
    T::try_from(count).unwrap_or(T::LARGEST)
}

trait Bounded {
    const LARGEST: Self;
}

impl Bounded for i32 {
    const LARGEST: i32 = i32::MAX;
}

impl Bounded for i64 {
    const LARGEST: i64 = i64::MAX;
}
