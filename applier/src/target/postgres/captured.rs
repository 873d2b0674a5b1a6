//! Tables that the source captures no more: they left `tables`, or are gone. Nothing that came since is in the archive, so
//! they are no fresher than when that was noticed, whatever else is applied.

use std::collections::{BTreeMap, HashSet};

use syncdata_formats::error::Result;
use syncdata_formats::name::{TableName, TablePattern};
use syncdata_formats::time::Timestamp;
use syncdata_service::postgres::OwnTablesContext as _;
use tokio_postgres::{GenericClient, Row};

use crate::plan::group::GroupName;
use crate::target::postgres::meta::MetaSchema;

const DOING: &str = "noting which tables are captured";

/// As the newest of the manifests that are applied says it of the group's tables, in their transaction.
pub(super) async fn note(
    client: &impl GenericClient,
    meta: &MetaSchema,
    group: &GroupName,
    captured: &[TableName],
) -> Result<()> {
    let captured: HashSet<String> = captured.iter().map(ToString::to_string).collect();
    // What has no rows yet has nothing that could be too old: it may be captured before it is loaded, and no manifest
    // says so before its first change.
    let known = format!(
        "SELECT s.table_name, s.captured_until IS NULL FROM {meta}.data_sync_table_state s \
         LEFT JOIN {meta}.tables_to_sync w USING (table_name) \
         WHERE (s.position_lsn IS NOT NULL OR s.captured_until IS NOT NULL) \
           AND coalesce(w.group_name, '{}') = $1",
        GroupName::DEFAULT
    );
    let known = client.query(&known, &[&group.as_str()]).await.context(|| DOING.to_owned())?;
    // By names that this database has told: it may be unable to take others, in its encoding.
    let changed: Vec<&str> = known
        .iter()
        .filter(|row| captured.contains(row.get::<_, &str>(0)) != row.get::<_, bool>(1))
        .map(|row| row.get(0))
        .collect();
    if changed.is_empty() {
        return Ok(());
    }
    let update = format!(
        "UPDATE {meta}.data_sync_table_state s SET captured_until = CASE WHEN s.captured_until IS NULL \
         THEN coalesce(c.covered_at, s.position_time, now()) END FROM {meta}.data_sync_checkpoints c \
         WHERE s.table_name = ANY ($1) AND c.group_name = $2 RETURNING s.table_name, s.captured_until IS NULL"
    );
    let rows = client.query(&update, &[&changed, &group.as_str()]).await.context(|| DOING.to_owned())?;
    rows.iter().for_each(say);
    Ok(())
}

/// As head.json says of the newest manifest's tables: these of the group left since. Before its freshness is noted.
pub async fn note_left(
    client: &impl GenericClient,
    meta: &MetaSchema,
    group: &GroupName,
    left: &[TablePattern],
    tables: impl Iterator<Item = &TableName>,
) -> Result<()> {
    let has_left = |table: &&TableName| left.iter().any(|pattern| pattern.matches(table));
    let tables: Vec<String> = tables.filter(has_left).map(ToString::to_string).collect();
    if tables.is_empty() {
        return Ok(());
    }
    let update = format!(
        "UPDATE {meta}.data_sync_table_state s SET captured_until = coalesce(c.covered_at, s.position_time, now()) \
         FROM {meta}.data_sync_checkpoints c WHERE s.captured_until IS NULL AND s.table_name = ANY ($1) \
         AND c.group_name = $2 \
         RETURNING s.table_name, false"
    );
    let rows = client.query(&update, &[&tables, &group.as_str()]).await.context(|| DOING.to_owned())?;
    rows.iter().for_each(say);
    Ok(())
}

/// The tables of the whitelist that are captured no more, each with the time after which nothing of it is in the archive.
pub async fn left(client: &impl GenericClient, meta: &MetaSchema) -> Result<BTreeMap<String, String>> {
    let left = format!(
        "SELECT s.table_name, s.captured_until::text FROM {meta}.data_sync_table_state s JOIN {meta}.tables_to_sync w USING (table_name) \
         WHERE s.captured_until IS NOT NULL"
    );
    let rows = client.query(&left, &[]).await.context(|| DOING.to_owned())?;
    rows.iter().map(|row| Ok((row.get(0), Timestamp::from_postgres(row.get(1))?.to_string()))).collect()
}

fn say(row: &Row) {
    let table: &str = row.get(0);
    match row.get(1) {
        true => tracing::info!(table, "the archiver captures the table again"),
        false => tracing::warn!(
            table,
            "the archiver captures the table no more: it stays as of now; list it in `tables` there again, take a snapshot and \
             resync, or take it off the whitelist: syncdata-applier remove-tables"
        ),
    }
}
