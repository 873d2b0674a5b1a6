//! What the database says of the copy and its tables. It takes no lock on any table of the copy, so that nobody who asks is
//! in the way of a pass.

use std::collections::BTreeMap;

use syncdata_archive::verify::LastVerify;
use syncdata_formats::error::Result;
use syncdata_formats::name::TableName;
use syncdata_formats::time::Timestamp;
use syncdata_service::postgres::ServerContext as _;
use tokio_postgres::{Client, Row};

use super::{CopyStatus, TableStatus};
use crate::target::postgres::local::Local;
use crate::target::postgres::meta::MetaSchema;

/// What the database says of the copy and its tables.
#[derive(Clone, Debug, Default)]
pub struct Found {
    pub copy: CopyStatus,
    pub tables: Vec<TableStatus>,
    pub quarantine_records: Option<u64>,
    pub last_verify: Option<LastVerify>,
    /// From when on old lines of our logs go, where that has just been announced.
    pub forgets_from: Option<(i32, Timestamp)>,
    /// Synced tables that inherit from other synced ones, each with that one.
    pub heirs: Vec<(String, String)>,
}

const DOING: &str = "reading how far the copy is";

/// The rows of each table as VACUUM and ANALYZE left the number, those of partitions together. -1: nobody has looked.
const ESTIMATES: &str = "WITH RECURSIVE parts AS (
    SELECT n.place, c.oid, c.relkind, c.reltuples
      FROM unnest($1::text[], $2::text[]) WITH ORDINALITY AS n(schema, name, place)
      JOIN pg_catalog.pg_namespace s ON s.nspname = n.schema
      JOIN pg_catalog.pg_class c ON c.relnamespace = s.oid AND c.relname = n.name
    UNION ALL
    SELECT p.place, c.oid, c.relkind, c.reltuples FROM parts p
      JOIN pg_catalog.pg_inherits i ON i.inhparent = p.oid JOIN pg_catalog.pg_class c ON c.oid = i.inhrelid
      WHERE p.relkind = 'p')
  SELECT place, CASE WHEN min(reltuples) >= 0 THEN sum(reltuples::float8)::int8 END
  FROM parts WHERE relkind <> 'p' GROUP BY place";

/// Those of the tables that inherit from others of them, however far up. Partitions are no heirs.
const HEIRS: &str = "WITH RECURSIVE synced AS MATERIALIZED (
    SELECT c.oid, pg_catalog.quote_ident(n.schema) || '.' || pg_catalog.quote_ident(n.name) AS name
      FROM unnest($1::text[], $2::text[]) AS n(schema, name)
      JOIN pg_catalog.pg_namespace s ON s.nspname = n.schema
      JOIN pg_catalog.pg_class c ON c.relnamespace = s.oid AND c.relname = n.name AND NOT c.relispartition
  ), parents AS (
    SELECT s.oid AS heir, i.inhparent AS parent FROM synced s JOIN pg_catalog.pg_inherits i ON i.inhrelid = s.oid
    UNION SELECT p.heir, i.inhparent FROM parents p JOIN pg_catalog.pg_inherits i ON i.inhrelid = p.parent
  )
  SELECT h.name, s.name FROM parents p JOIN synced h ON h.oid = p.heir JOIN synced s ON s.oid = p.parent ORDER BY 1, 2";

impl Found {
    /// Our tables have to be there.
    pub async fn read(local: &Local) -> Result<Found> {
        let (client, meta) = (local.session.client(), &local.meta);
        let copy = read_copy(client, meta).await?;
        let mut tables = read_tables(client, meta).await?;
        let estimates = estimates(client, &tables).await?;
        for table in &mut tables {
            if table.rows.is_none() {
                table.rows = estimates.get(&table.table).copied().flatten();
            }
        }
        let count = format!("SELECT count(*) FROM {meta}.data_sync_quarantine WHERE resolved_at IS NULL");
        let waiting: i64 = client.query_one(&count, &[]).await.context(|| DOING.to_owned())?.get(0);
        let forgets_from = forgets_from(client, meta).await?;
        let last_verify = last_verify(client, meta).await?;
        let quarantine_records = u64::try_from(waiting).ok();
        let heirs = heirs(client, &tables).await?;
        Ok(Found { copy, tables, quarantine_records, last_verify, forgets_from, heirs })
    }
}

async fn last_verify(client: &Client, meta: &MetaSchema) -> Result<Option<LastVerify>> {
    let select = format!(
        "SELECT (to_jsonb(c) ->> 'verified_at')::timestamptz::text, (to_jsonb(c) ->> 'verify_problems')::int8 \
         FROM {meta}.data_sync_checkpoint c"
    );
    let row = client.query_opt(&select, &[]).await.context(|| DOING.to_owned())?;
    let Some(row) = row else { return Ok(None) };
    let at = time(row.get(0))?.zip(row.get::<_, Option<i64>>(1));
    Ok(at.map(|(at, problems)| LastVerify { at, problems: u64::try_from(problems).unwrap_or(0) }))
}

async fn forgets_from(client: &Client, meta: &MetaSchema) -> Result<Option<(i32, Timestamp)>> {
    let select = format!(
        "SELECT (to_jsonb(c) ->> 'keep_days')::int, \
         ((to_jsonb(c) ->> 'keep_announced_at')::timestamptz + interval '1 day')::text FROM {meta}.data_sync_checkpoint c \
         WHERE (to_jsonb(c) ->> 'keep_announced_at')::timestamptz > now() - interval '1 day'"
    );
    let row = client.query_opt(&select, &[]).await.context(|| DOING.to_owned())?;
    let Some(row) = row else { return Ok(None) };
    Ok(row.get::<_, Option<i32>>(0).zip(time(row.get(1))?))
}

async fn read_copy(client: &Client, meta: &MetaSchema) -> Result<CopyStatus> {
    let checkpoint = format!(
        "SELECT archive_id::text, seq, end_lsn::text, covered_at::text, applied_at::text \
         FROM {meta}.data_sync_checkpoint"
    );
    let row = client.query_opt(&checkpoint, &[]).await.context(|| DOING.to_owned())?;
    row.map(|row| copy(&row)).transpose().map(Option::unwrap_or_default)
}

async fn read_tables(client: &Client, meta: &MetaSchema) -> Result<Vec<TableStatus>> {
    // What a proof has counted on both sides is the number of rows as long as no change has come.
    let tables = format!(
        "SELECT w.table_name, coalesce(f.state, 'pending'), f.data_as_of::text, f.lsn::text, \
         coalesce(f.stale, true), s.reason, \
         ARRAY(SELECT jsonb_array_elements_text(coalesce(to_jsonb(s) -> 'nan_as_null', '[]'))), \
         f.score::text, f.proved_lsn::text, f.proved_at::text, \
         ARRAY(SELECT v.check_type FROM ( \
           SELECT DISTINCT ON (c.check_type) c.check_type, c.verdict, c.repaired_at \
           FROM {meta}.data_sync_consistency c \
           WHERE c.table_name = w.table_name AND c.verdict IN ('equal', 'differs') \
           ORDER BY c.check_type, c.ordinal DESC) v \
           WHERE v.verdict = 'differs' AND v.repaired_at IS NULL ORDER BY v.check_type), \
         (to_jsonb(s) ->> 'changed_at')::timestamptz::text, counted.local_rows, counted.finished_at::text, \
         s.waiting, s.incomplete_lsn::text, s.captured_until::text \
         FROM {meta}.tables_to_sync w \
         LEFT JOIN {meta}.data_sync_freshness f USING (table_name) \
         LEFT JOIN {meta}.data_sync_table_state s USING (table_name) \
         LEFT JOIN LATERAL (SELECT c.local_rows, c.finished_at, c.cut_lsn, c.verdict \
           FROM {meta}.data_sync_consistency c WHERE c.table_name = w.table_name AND c.check_type = 'row_count' \
             AND c.verdict IN ('equal', 'differs') \
           ORDER BY c.ordinal DESC LIMIT 1) AS counted \
           ON f.state = 'live' AND counted.verdict = 'equal' \
             AND (to_jsonb(s) ->> 'changed_lsn')::pg_lsn <= counted.cut_lsn \
         ORDER BY w.id"
    );
    let rows = client.query(&tables, &[]).await.context(|| DOING.to_owned())?;
    rows.iter().map(table).collect()
}

async fn heirs(client: &Client, tables: &[TableStatus]) -> Result<Vec<(String, String)>> {
    let names: Vec<TableName> = tables.iter().filter_map(|table| table.table.parse().ok()).collect();
    let (schemas, names): (Vec<&str>, Vec<&str>) =
        names.iter().map(|name| (name.schema(), name.name())).unzip();
    let rows = client.query(HEIRS, &[&schemas, &names]).await.context(|| DOING.to_owned())?;
    Ok(rows.iter().map(|row| (row.get(0), row.get(1))).collect())
}

async fn estimates(client: &Client, tables: &[TableStatus]) -> Result<BTreeMap<String, Option<u64>>> {
    // A name in the whitelist that cannot be read is the pass's to complain of.
    let named: Vec<(&str, TableName)> =
        tables.iter().filter_map(|table| Some((table.table.as_str(), table.table.parse().ok()?))).collect();
    let schemas: Vec<&str> = named.iter().map(|(_, name)| name.schema()).collect();
    let names: Vec<&str> = named.iter().map(|(_, name)| name.name()).collect();
    let rows = client.query(ESTIMATES, &[&schemas, &names]).await.context(|| DOING.to_owned())?;
    let mut found = BTreeMap::new();
    for row in rows {
        let place = usize::try_from(row.get::<_, i64>(0)).unwrap_or(0);
        let estimate = row.get::<_, Option<i64>>(1).and_then(|rows| u64::try_from(rows).ok());
        if let Some((text, _)) = place.checked_sub(1).and_then(|place| named.get(place)) {
            found.insert((*text).to_owned(), estimate);
        }
    }
    Ok(found)
}

fn copy(row: &Row) -> Result<CopyStatus> {
    Ok(CopyStatus {
        archive_id: row.get(0),
        segment: u64::try_from(row.get::<_, i64>(1)).unwrap_or(0),
        lsn: Some(row.get::<_, &str>(2).parse()?),
        covered_at: time(row.get(3))?,
        applied_at: time(row.get(4))?,
        data_as_of: None,
    })
}

fn table(row: &Row) -> Result<TableStatus> {
    let (lsn, differs_by): (Option<&str>, Vec<String>) = (row.get(3), row.get(10));
    Ok(TableStatus {
        table: row.get(0),
        state: row.get::<_, &str>(1).parse()?,
        data_as_of: time(row.get(2))?,
        lsn: lsn.map(str::parse).transpose()?,
        stale: row.get(4),
        reason: row.get(5),
        captured_until: time(row.get(16))?,
        nan_as_null: row.get(6),
        score: row.get(7),
        proved_lsn: row.get::<_, Option<&str>>(8).map(str::parse).transpose()?,
        proved_at: time(row.get(9))?,
        differs: !differs_by.is_empty(),
        differs_by,
        changed_at: time(row.get(11))?,
        rows: row.get::<_, Option<i64>>(12).and_then(|rows| u64::try_from(rows).ok()),
        rows_counted_at: time(row.get(13))?,
        load_failed: None,
        waiting_records: row.get::<_, Option<i64>>(14).and_then(|records| u64::try_from(records).ok()),
        incomplete_lsn: row.get::<_, Option<&str>>(15).map(str::parse).transpose()?,
    })
}

fn time(text: Option<&str>) -> Result<Option<Timestamp>> {
    text.map(Timestamp::from_postgres).transpose()
}
