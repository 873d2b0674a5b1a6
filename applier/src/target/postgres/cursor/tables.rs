//! The tables of the whitelist: the state of each, how far it is, and what is noted beside that.

use std::collections::BTreeMap;

use syncdata_formats::error::{Error, Kind, Result};
use syncdata_formats::lsn::Lsn;
use syncdata_formats::name::TableName;
use syncdata_formats::printed;
use syncdata_formats::snapshot::SnapshotManifest;
use syncdata_service::postgres::OwnTablesContext as _;
use tokio_postgres::GenericClient;
use uuid::Uuid;

use super::checkpoint::Cursor;
use crate::plan::GapName;
use crate::plan::group::GroupName;
use crate::plan::position::Position;
use crate::plan::state::{Event, State, TableState, Want};
use crate::table::{Memory, SourceColumns};
use crate::target::postgres::kept;
use crate::target::postgres::meta::MetaSchema;

/// The tables of the whitelist with their states. One that was written into `tables_to_sync` by hand is pending; one that
/// was taken off it for a while, and is below its group's checkpoint now, has to catch up before it is live.
pub async fn table_states(
    client: &impl GenericClient,
    meta: &MetaSchema,
) -> Result<BTreeMap<TableName, TableState>> {
    let select = format!(
        "SELECT w.table_name, CASE WHEN s.state = 'live' AND coalesce(s.position_lsn, '0/0') < c.end_lsn \
         THEN 'loading' ELSE coalesce(s.state, 'pending') END, \
         s.position_lsn::text, s.reason, coalesce(s.accepted_gaps, '{{}}'), s.load, coalesce(s.held_with, '{{}}'), \
         s.source_columns, s.local_columns, coalesce(s.load_asked, 0), s.source_key, s.base_lsn::text, w.group_name \
         FROM {meta}.tables_to_sync w LEFT JOIN {meta}.data_sync_checkpoints c USING (group_name) \
         LEFT JOIN {meta}.data_sync_table_state s USING (table_name) ORDER BY w.id"
    );
    let rows = client.query(&select, &[]).await.context(|| "reading the states of the tables".to_owned())?;
    let mut states = BTreeMap::new();
    for row in rows {
        let name = whitelisted(row.get(0))?;
        let position: Option<&str> = row.get(2);
        let memory = row.get::<_, Option<&str>>(8).and_then(Memory::parse).unwrap_or_default();
        let state = TableState {
            group: row.get::<_, &str>(12).parse()?,
            state: row.get::<_, &str>(1).parse()?,
            position: position.map(str::parse).transpose()?,
            reason: row.get(3),
            accepted_gaps: row.get::<_, Vec<&str>>(4).into_iter().map(str::parse).collect::<Result<_>>()?,
            load: row.get::<_, Option<&str>>(5).map(str::parse).transpose()?,
            held_with: row.get::<_, Vec<&str>>(6).into_iter().map(str::parse).collect::<Result<_>>()?,
            // What cannot be read is as good as nothing: it is only there to tell a new name from a new column.
            source_columns: row
                .get::<_, Option<&str>>(7)
                .and_then(|text| serde_json::from_str(text).ok())
                .unwrap_or_default(),
            paired: memory.paired,
            vouched: memory.vouched,
            load_asked: row.get(9),
            source_key: row.get::<_, Option<&str>>(10).and_then(|text| serde_json::from_str(text).ok()),
            base: row.get::<_, Option<&str>>(11).map(str::parse).transpose()?,
        };
        states.insert(name, state);
    }
    Ok(states)
}

/// A line of the whitelist, which people may write into by hand. Another spelling would be another table to
/// everything that joins by it.
fn whitelisted(text: &str) -> Result<TableName> {
    let name: TableName = text.parse()?;
    let spelling = name.to_string();
    if spelling == text {
        return Ok(name);
    }
    Err(Error::new(
        Kind::StateDamaged,
        format!("tables_to_sync names {text:?}, which is written {spelling:?}"),
    )
    .hint(format!(
        "UPDATE tables_to_sync SET table_name = {} WHERE table_name = {}",
        printed::literal(&spelling),
        printed::literal(text)
    )))
}

/// Something happens to a table: the only place that writes a state. Its position stays where it is, unless another
/// one is given.
pub async fn change(
    client: &impl GenericClient,
    meta: &MetaSchema,
    table: &TableName,
    event: Event,
    position: Option<Position>,
    reason: Option<&str>,
) -> Result<()> {
    let doing = || format!("noting the state of {table}");
    let select = format!("SELECT state FROM {meta}.data_sync_table_state WHERE table_name = $1 FOR UPDATE");
    let known = client.query_opt(&select, &[&table.to_string()]).await.context(doing)?;
    // One that was written into the whitelist by hand has no line yet.
    let state: State = known.map_or(Ok(State::Pending), |row| row.get::<_, &str>(0).parse())?;
    let state = state.after(event).map_err(|error| error.context(doing()))?;

    let upsert = format!(
        "INSERT INTO {meta}.data_sync_table_state AS s \
         (table_name, state, position_lsn, position_time, reason, made_in) \
         VALUES ($1, $2, $3::text::pg_lsn, $4::text::timestamptz, $5, pg_catalog.pg_current_xact_id()::text) \
         ON CONFLICT (table_name) DO UPDATE SET state = EXCLUDED.state, \
         position_lsn = coalesce(EXCLUDED.position_lsn, s.position_lsn), \
         position_time = coalesce(EXCLUDED.position_time, s.position_time), reason = EXCLUDED.reason, \
         since = CASE WHEN s.state = EXCLUDED.state THEN s.since ELSE now() END, \
         held_with = CASE WHEN s.state = EXCLUDED.state THEN s.held_with ELSE '{{}}' END, waiting = NULL"
    );
    let lsn = position.map(|position| position.lsn.to_string());
    let time = position.and_then(|position| position.commit_time).map(|time| time.to_string());
    let reason = match reason {
        Some(reason) => Some(kept::words(client, reason).await?),
        None => None,
    };
    client
        .execute(&upsert, &[&table.to_string(), &state.to_string(), &lsn, &time, &reason])
        .await
        .context(doing)?;
    Ok(())
}

/// Asks for a base, or takes back what was asked for.
pub async fn want(
    client: &impl GenericClient,
    meta: &MetaSchema,
    table: &TableName,
    want: Option<Want>,
) -> Result<()> {
    let upsert = format!(
        "INSERT INTO {meta}.data_sync_table_state AS s (table_name, state, load, load_asked, made_in) \
         VALUES ($1, 'pending', $2, 1, pg_catalog.pg_current_xact_id()::text) \
         ON CONFLICT (table_name) DO UPDATE SET load = EXCLUDED.load, load_asked = s.load_asked + 1"
    );
    client
        .execute(&upsert, &[&table.to_string(), &want.map(Want::as_str)])
        .await
        .context(|| format!("noting the base that {table} waits for"))?;
    Ok(())
}

/// What was asked for is taken back. A table that has no position waits for its first rows all the same.
pub async fn want_nothing(client: &impl GenericClient, meta: &MetaSchema, table: &TableName) -> Result<()> {
    let update = format!(
        "UPDATE {meta}.data_sync_table_state SET load = NULL, load_asked = load_asked + 1 \
         WHERE table_name = $1 AND position_lsn IS NOT NULL"
    );
    let updated = client.execute(&update, &[&table.to_string()]).await;
    updated.context(|| format!("noting that {table} waits for no base"))?;
    Ok(())
}

/// What was asked for cannot be had. A wish that has come since (`asked` is known) stays.
pub async fn grant_nothing(
    client: &impl GenericClient,
    meta: &MetaSchema,
    table: &TableName,
    asked: i64,
) -> Result<()> {
    let update = format!(
        "UPDATE {meta}.data_sync_table_state SET load = NULL WHERE table_name = $1 AND load_asked <= $2"
    );
    let updated = client.execute(&update, &[&table.to_string(), &asked]).await;
    updated.context(|| format!("noting that {table} waits for no base"))?;
    Ok(())
}

/// A table is as its base and all changes up to there make it. A wish that has come since its base was chosen (`asked` is
/// known) stays.
pub async fn note_loaded(
    client: &impl GenericClient,
    meta: &MetaSchema,
    table: &TableName,
    position: Lsn,
    base: Option<&SnapshotManifest>,
    asked: i64,
) -> Result<()> {
    let loaded = Some(Position { lsn: position, commit_time: None });
    change(client, meta, table, Event::Loaded, loaded, None).await?;

    let update = format!(
        "UPDATE {meta}.data_sync_table_state s SET load = CASE WHEN s.load_asked > $3 THEN s.load END, \
         gap = NULL, incomplete_lsn = NULL, base_lsn = $4::text::pg_lsn, \
         position_time = coalesce(c.commit_time, $2::text::timestamptz), since = now(), \
         changed_lsn = s.position_lsn, changed_at = coalesce(c.commit_time, $2::text::timestamptz), \
         nan_as_null = CASE WHEN $2::text IS NULL THEN nan_as_null ELSE '{{}}' END \
         FROM {meta}.tables_to_sync w JOIN {meta}.data_sync_checkpoints c USING (group_name) \
         WHERE s.table_name = $1 AND w.table_name = s.table_name"
    );
    let taken_at = base.map(|base| base.taken_at.to_string());
    let base = base.map(|base| base.start_lsn.to_string());
    let noting = || format!("noting that {table} is loaded");
    client.execute(&update, &[&table.to_string(), &taken_at, &asked, &base]).await.context(noting)?;
    Ok(())
}

/// Rows came with a newer base copy, though the table was not loaded anew.
pub async fn note_base(
    client: &impl GenericClient,
    meta: &MetaSchema,
    table: &TableName,
    base: Lsn,
) -> Result<()> {
    let update = format!(
        "UPDATE {meta}.data_sync_table_state SET base_lsn = greatest(base_lsn, $2::text::pg_lsn) WHERE table_name = $1"
    );
    let noting = || format!("noting the base copy of {table}");
    client.execute(&update, &[&table.to_string(), &base.to_string()]).await.context(noting)?;
    Ok(())
}

/// Notes columns in which NaN and infinities arrive as NULL. Whether that was new.
pub async fn note_nan(
    client: &impl GenericClient,
    meta: &MetaSchema,
    table: &TableName,
    columns: &[String],
) -> Result<bool> {
    let update = format!(
        "UPDATE {meta}.data_sync_table_state \
         SET nan_as_null = ARRAY(SELECT DISTINCT c FROM unnest(nan_as_null || $2) AS u(c) ORDER BY c) \
         WHERE table_name = $1 AND NOT nan_as_null @> $2"
    );
    let updated = client.execute(&update, &[&table.to_string(), &columns]).await;
    Ok(updated.context(|| format!("noting what {table} cannot be told"))? > 0)
}

/// Forgets all positions: what the tables hold is of another archive, or of a part that this one no longer has. They
/// keep their rows and wait for a base. Those that are off the whitelist are new if they come back.
pub async fn start_over(
    client: &impl GenericClient,
    meta: &MetaSchema,
    archive_id: Uuid,
    tables: &[TableName],
) -> Result<()> {
    let names: Vec<String> = tables.iter().map(ToString::to_string).collect();
    let statements = [
        format!("DELETE FROM {meta}.data_sync_checkpoint"),
        format!("INSERT INTO {meta}.data_sync_checkpoint DEFAULT VALUES"),
        format!(
            "UPDATE {meta}.data_sync_group_checkpoint SET seq = 0, manifest_sha256 = NULL, end_lsn = '0/0', day = NULL, \
             commit_time = NULL, covered_lsn = NULL, covered_at = NULL, applied_at = NULL, capture_since = NULL"
        ),
    ];
    let doing = || "starting over".to_owned();
    for statement in &statements {
        client.execute(statement, &[]).await.context(doing)?;
    }
    Cursor::of(meta).adopt(client, archive_id).await?;
    let reason = Some("waits for its base: the copy was started over");
    for table in tables {
        change(client, meta, table, Event::StartedOver, None, reason).await?;
    }
    let forget = format!(
        "UPDATE {meta}.data_sync_table_state SET load = 'rebuild', load_asked = load_asked + 1, \
         position_lsn = NULL, position_time = NULL, \
         gap = NULL, nan_as_null = '{{}}', changed_lsn = NULL, changed_at = NULL, incomplete_lsn = NULL, since = now() \
         WHERE table_name = ANY ($1)"
    );
    client.execute(&forget, &[&names]).await.context(doing)?;
    let others = format!("DELETE FROM {meta}.data_sync_table_state WHERE table_name <> ALL ($1)");
    client.execute(&others, &[&names]).await.context(doing)?;
    // What was proved was proved of the other archive.
    for table in ["data_sync_consistency", "data_sync_digests"] {
        client.execute(&format!("DELETE FROM {meta}.{table}"), &[]).await.context(doing)?;
    }
    Ok(())
}

/// Rows of it have changed beside the stream: digests of ours that production's are still to be compared with are of rows
/// that are no more.
pub async fn outdate_digests(
    client: &impl GenericClient,
    meta: &MetaSchema,
    table: &TableName,
    reason: &str,
) -> Result<()> {
    let update = format!(
        "UPDATE {meta}.data_sync_digests SET buckets = NULL, reason = $2 \
         WHERE table_name = $1 AND NOT judged AND reason IS NULL"
    );
    let updated = client.execute(&update, &[&table.to_string(), &reason]).await;
    updated.context(|| format!("noting that {table} was {reason}"))?;
    Ok(())
}

/// What keeps a stale table back.
pub async fn note_gap(
    client: &impl GenericClient,
    meta: &MetaSchema,
    table: &TableName,
    gap: GapName,
) -> Result<()> {
    let update = format!("UPDATE {meta}.data_sync_table_state SET gap = $2 WHERE table_name = $1");
    client
        .execute(&update, &[&table.to_string(), &gap.to_string()])
        .await
        .context(|| format!("noting the gap of {table}"))?;
    Ok(())
}

/// What the source calls the columns of a table now that it has taken their changes.
pub async fn note_columns(
    client: &impl GenericClient,
    meta: &MetaSchema,
    table: &TableName,
    columns: &SourceColumns,
) -> Result<()> {
    let text = serde_json::to_string(columns).expect("numbers are its keys");
    let update = format!("UPDATE {meta}.data_sync_table_state SET source_columns = $2 WHERE table_name = $1");
    client
        .execute(&update, &[&table.to_string(), &text])
        .await
        .context(|| format!("noting the columns of {table}"))?;
    Ok(())
}

/// The keys of the source by which tables have taken their changes.
pub async fn note_keys(
    client: &impl GenericClient,
    meta: &MetaSchema,
    keys: &[(&TableName, &[String])],
) -> Result<()> {
    if keys.is_empty() {
        return Ok(());
    }
    let text = |key: &[String]| kept::ascii(&serde_json::to_string(key).expect("names are texts"));
    let (tables, keys): (Vec<String>, Vec<String>) =
        keys.iter().map(|(table, key)| (table.to_string(), text(key))).unzip();
    let update = format!(
        "UPDATE {meta}.data_sync_table_state s SET source_key = k.key \
         FROM unnest($1::text[], $2::text[]) AS k(name, key) WHERE s.table_name = k.name"
    );
    client.execute(&update, &[&tables, &keys]).await.context(|| "noting the keys of tables".to_owned())?;
    Ok(())
}

/// What a table that was set aside is held together with: one TRUNCATE named them all.
pub async fn note_held(
    client: &impl GenericClient,
    meta: &MetaSchema,
    table: &TableName,
    with: &[TableName],
) -> Result<()> {
    let update = format!("UPDATE {meta}.data_sync_table_state SET held_with = $2 WHERE table_name = $1");
    let with: Vec<String> = with.iter().map(ToString::to_string).collect();
    client
        .execute(&update, &[&table.to_string(), &with])
        .await
        .context(|| format!("noting what {table} is held together with"))?;
    Ok(())
}

/// Lets those go on that were held together with a table which is right again.
pub async fn release_held(client: &impl GenericClient, meta: &MetaSchema, table: &TableName) -> Result<()> {
    let doing = || format!("releasing what is held together with {table}");
    let select = format!(
        "SELECT table_name FROM {meta}.data_sync_table_state WHERE state = 'quarantined' AND $1 = ANY (held_with)"
    );
    for row in client.query(&select, &[&table.to_string()]).await.context(doing)? {
        change(client, meta, &row.get::<_, &str>(0).parse()?, Event::Retried, None, None).await?;
    }
    Ok(())
}

/// Lets a table go on over the gap that keeps it back, and remembers that for ever.
pub async fn accept_gap(client: &impl GenericClient, meta: &MetaSchema, table: &TableName) -> Result<()> {
    let update = format!(
        "UPDATE {meta}.data_sync_table_state SET accepted_gaps = accepted_gaps || gap, gap = NULL \
         WHERE table_name = $1 AND gap IS NOT NULL"
    );
    client
        .execute(&update, &[&table.to_string()])
        .await
        .context(|| format!("accepting the gap of {table}"))?;
    Ok(())
}

/// The tables have taken changes: where they stand now, nothing of it was later.
pub async fn note_changed(client: &impl GenericClient, meta: &MetaSchema, tables: &[String]) -> Result<()> {
    if tables.is_empty() {
        return Ok(());
    }
    let update = format!(
        "UPDATE {meta}.data_sync_table_state SET changed_lsn = position_lsn, changed_at = position_time \
         WHERE table_name = ANY ($1)"
    );
    client.execute(&update, &[&tables]).await.context(|| "noting which tables have changed".to_owned())?;
    Ok(())
}

/// Records that were passed over with the copy wait for the quarantined tables that they are of. Where those that wait
/// already were not counted yet, these are counted with them.
pub async fn add_waiting(
    client: &impl GenericClient,
    meta: &MetaSchema,
    waiting: &BTreeMap<TableName, u64>,
) -> Result<()> {
    let update = format!(
        "UPDATE {meta}.data_sync_table_state SET waiting = waiting + $2 WHERE table_name = $1 AND state = 'quarantined'"
    );
    for (table, records) in waiting {
        let records = i64::try_from(*records).unwrap_or(i64::MAX);
        let added = client.execute(&update, &[&table.to_string(), &records]).await;
        added.context(|| format!("counting what waits for {table}"))?;
    }
    Ok(())
}

/// Quarantined tables of the group for which nobody has counted yet what waits for them, with their positions.
pub async fn uncounted(
    client: &impl GenericClient,
    meta: &MetaSchema,
    group: &GroupName,
) -> Result<Vec<(TableName, Lsn)>> {
    let select = format!(
        "SELECT s.table_name, s.position_lsn::text \
         FROM {meta}.data_sync_table_state s LEFT JOIN {meta}.tables_to_sync w USING (table_name) \
         WHERE s.state = 'quarantined' AND s.waiting IS NULL AND s.position_lsn IS NOT NULL \
           AND coalesce(w.group_name, '{}') = $1",
        GroupName::DEFAULT
    );
    let rows = client.query(&select, &[&group.as_str()]).await.context(|| "reading what waits".to_owned())?;
    rows.iter().map(|row| Ok((row.get::<_, &str>(0).parse()?, row.get::<_, &str>(1).parse()?))).collect()
}

/// So many records wait for it, from its position on.
pub async fn note_waiting(
    client: &impl GenericClient,
    meta: &MetaSchema,
    table: &TableName,
    records: u64,
) -> Result<()> {
    let update = format!(
        "UPDATE {meta}.data_sync_table_state SET waiting = $2 WHERE table_name = $1 AND waiting IS NULL \
         AND state = 'quarantined'"
    );
    let records = i64::try_from(records).unwrap_or(i64::MAX);
    let noted = client.execute(&update, &[&table.to_string(), &records]).await;
    noted.context(|| format!("counting what waits for {table}"))?;
    Ok(())
}

/// Moves tables on that took everything up to there.
pub async fn advance(
    client: &impl GenericClient,
    meta: &MetaSchema,
    tables: &[String],
    position: Position,
) -> Result<()> {
    let update = format!(
        "UPDATE {meta}.data_sync_table_state SET position_lsn = $2::text::pg_lsn, \
         position_time = coalesce($3::text::timestamptz, position_time) \
         WHERE table_name = ANY ($1) AND (position_lsn IS NULL OR position_lsn < $2::text::pg_lsn)"
    );
    let time = position.commit_time.map(|time| time.to_string());
    client
        .execute(&update, &[&tables, &position.lsn.to_string(), &time])
        .await
        .context(|| "moving the tables' positions".to_owned())?;
    Ok(())
}
