//! `sync_executions`: what was done, when, by whose wish, and what it came to. A line is written before the work begins,
//! outside of its transactions; who died in the middle is found by the session that is gone.

use std::future::Future;

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use syncdata_formats::error::{Error, Kind as ErrorKind, Result};
use syncdata_formats::time::Timestamp;
use syncdata_service::config::Config;
use syncdata_service::faults;
use syncdata_service::postgres::OwnTablesContext as _;
use tokio_postgres::types::ToSql;
use tokio_postgres::{GenericClient, Row};
use uuid::Uuid;

use crate::target::postgres::kept;
use crate::target::postgres::local::Local;
use crate::target::postgres::meta::MetaSchema;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Pass,
    Load,
    Replay,
    Check,
}

impl Kind {
    fn as_str(self) -> &'static str {
        match self {
            Kind::Pass => "pass",
            Kind::Load => "load",
            Kind::Replay => "replay",
            Kind::Check => "check",
        }
    }
}

/// By whose wish something is done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trigger {
    /// Its time had come.
    Schedule,
    /// Somebody waits for it.
    Command,
    /// Somebody asked for it over HTTP, and it is noted there as a whole.
    Api,
    /// The archive had news: there may be ten of these in a second, and none is noted.
    News,
}

impl Trigger {
    fn as_str(self) -> &'static str {
        match self {
            Trigger::Schedule => "schedule",
            Trigger::Command => "command",
            Trigger::Api => "api",
            Trigger::News => "news",
        }
    }
}

/// One that is under way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Begun {
    id: Uuid,
    kind: Kind,
    trigger: Trigger,
}

/// What it came to.
#[derive(Clone, Debug, Default)]
pub struct Came {
    pub counts: Value,
    /// Those that it turned out to be about.
    pub tables: Option<Vec<String>>,
    /// There was nothing to do.
    pub is_idle: bool,
    pub error: Option<String>,
}

impl Came {
    pub fn to(counts: Value) -> Came {
        Came { counts, ..Came::default() }
    }

    pub fn failed(error: &Error) -> Came {
        Came { error: Some(error.with_hint()), counts: json!({}), ..Came::default() }
    }
}

/// Whether the session that does it is there. Sessions of other roles hide when they began.
const IS_ALIVE: &str = "EXISTS (SELECT FROM pg_catalog.pg_stat_activity a WHERE a.pid = e.server_process \
    AND (a.backend_start IS NULL OR a.backend_start = e.process_started))";

/// Notes that it begins, in the session that does it; those that were broken off are called so.
pub async fn begin(local: &Local, kind: Kind, trigger: Trigger, tables: Option<&[String]>) -> Result<Begun> {
    let (client, meta) = (local.session.client(), &local.meta);
    sweep(client, meta).await?;
    let insert = format!(
        "INSERT INTO {meta}.sync_executions (kind, trigger, tables, state, server_process, process_started) \
         SELECT $1, $2, $3, 'running', a.pid, a.backend_start FROM pg_catalog.pg_stat_activity a \
         WHERE a.pid = pg_catalog.pg_backend_pid() RETURNING id::text"
    );
    let row = client.query_one(&insert, &[&kind.as_str(), &trigger.as_str(), &tables]).await;
    let row = row.context(|| "noting in sync_executions what begins".to_owned())?;
    let id = row.get::<_, &str>(0).parse().map_err(|_| Error::bad_input("a uuid", "sync_executions' id"))?;
    faults::hit("execution.begun")?;
    Ok(Begun { id, kind, trigger })
}

async fn sweep(client: &impl GenericClient, meta: &MetaSchema) -> Result<()> {
    let update = format!(
        "UPDATE {meta}.sync_executions e SET state = 'abandoned', ended_at = clock_timestamp() \
         WHERE e.ended_at IS NULL AND NOT {IS_ALIVE}"
    );
    client.execute(&update, &[]).await.context(|| "looking for what was broken off".to_owned())?;
    Ok(())
}

/// Notes what came of it. One of many that found nothing to do takes the line of the one before.
pub async fn end(local: &Local, begun: Begun, came: &Came) -> Result<()> {
    let (client, meta) = (local.session.client(), &local.meta);
    let doing = || "noting in sync_executions what came of it".to_owned();
    let state = if came.error.is_some() { "failed" } else { "succeeded" };
    let error = match &came.error {
        Some(error) => Some(kept::words(client, error).await?),
        None => None,
    };
    let id = begun.id.to_string();
    let is_idle = came.is_idle && came.error.is_none() && begun.trigger == Trigger::Schedule;
    if is_idle {
        // Only where nothing else was done in between.
        let merge = format!(
            "WITH earlier AS (SELECT p.id FROM {meta}.sync_executions p, {meta}.sync_executions e \
               WHERE e.id = $1::text::uuid AND p.kind = e.kind AND p.id <> e.id \
               ORDER BY p.started_at DESC, p.id DESC LIMIT 1), \
             merged AS (UPDATE {meta}.sync_executions p SET ended_at = clock_timestamp(), idle_times = p.idle_times + 1, \
               counts = $2::text::jsonb FROM earlier WHERE p.id = earlier.id AND p.idle_times IS NOT NULL RETURNING p.id) \
             DELETE FROM {meta}.sync_executions WHERE id = $1::text::uuid AND EXISTS (SELECT FROM merged)"
        );
        if client.execute(&merge, &[&id, &came.counts.to_string()]).await.context(doing)? > 0 {
            return Ok(());
        }
    }
    let update = format!(
        "UPDATE {meta}.sync_executions SET ended_at = clock_timestamp(), state = $2, counts = $3::text::jsonb, error = $4, \
         idle_times = $5, tables = coalesce($6, tables) WHERE id = $1::text::uuid"
    );
    let idle_times = is_idle.then_some(1_i32);
    client
        .execute(&update, &[&id, &state, &came.counts.to_string(), &error, &idle_times, &came.tables])
        .await
        .context(doing)?;
    Ok(())
}

/// Does it, and notes it in a session of its own. That it cannot be noted is no reason not to do it.
pub async fn noted<T>(
    config: &Config,
    (kind, trigger): (Kind, Trigger),
    tables: Option<&[String]>,
    work: impl Future<Output = Result<T>>,
    came: impl FnOnce(&T) -> Came,
) -> Result<T> {
    if matches!(trigger, Trigger::Api | Trigger::News) {
        return work.await;
    }
    let begun = async {
        let local = Local::open(config).await?;
        let begun = begin(&local, kind, trigger, tables).await?;
        Ok::<_, Error>((local, begun))
    };
    let begun = begun.await.inspect_err(warn).ok();
    let done = work.await;
    if let Some((local, begun)) = begun {
        let came = done.as_ref().map_or_else(Came::failed, came);
        if let Err(error) = end(&local, begun, &came).await {
            warn(&error);
        }
    }
    done
}

pub fn warn(error: &Error) {
    tracing::warn!(error = %error.one_line(), "sync_executions lacks a line");
}

/// What somebody asks for over HTTP.
#[derive(Clone, Debug)]
pub struct Asked<'a> {
    pub kind: Kind,
    pub tables: Option<Vec<String>>,
    pub path: &'a str,
    pub key: Option<&'a str>,
    /// Of the body, so that the same key with another one is found out.
    pub sha256: String,
}

#[derive(Clone, Debug)]
pub enum Queued {
    New(Execution),
    /// The same was asked before.
    Known(Execution),
    /// Something else was asked under this key.
    OtherBody,
}

/// What was asked under the same key, within a day.
pub async fn asked_before(local: &Local, asked: &Asked<'_>) -> Result<Option<Queued>> {
    let Some(key) = asked.key else { return Ok(None) };
    let select = format!(
        "SELECT e.request_sha256, {COLUMNS} FROM {}.sync_executions e WHERE e.request_path = $1 AND e.request_key = $2 \
         AND e.asked_at > now() - interval '24 hours' ORDER BY e.asked_at DESC LIMIT 1",
        local.meta
    );
    let row = local.session.client().query_opt(&select, &[&asked.path, &key]).await;
    let Some(row) = row.context(|| "reading sync_executions".to_owned())? else { return Ok(None) };
    let is_same = row.get::<_, Option<&str>>(0) == Some(asked.sha256.as_str());
    Ok(Some(if is_same { Queued::Known(execution_from(&row, 1)?) } else { Queued::OtherBody }))
}

/// Notes it before it is begun. Whoever dies before that leaves it to be called abandoned.
pub async fn queue(local: &Local, asked: &Asked<'_>) -> Result<Execution> {
    let insert = format!(
        "WITH e AS (INSERT INTO {meta}.sync_executions (kind, trigger, tables, state, server_process, process_started, \
         request_path, request_key, request_sha256, asked_at) \
         SELECT $1, 'api', $2, 'queued', a.pid, a.backend_start, $3, $4, $5, clock_timestamp() \
         FROM pg_catalog.pg_stat_activity a WHERE a.pid = pg_catalog.pg_backend_pid() RETURNING *) SELECT {COLUMNS} FROM e",
        meta = local.meta
    );
    let values: [&(dyn ToSql + Sync); 5] =
        [&asked.kind.as_str(), &asked.tables, &asked.path, &asked.key, &asked.sha256];
    let row = local.session.client().query_one(&insert, &values).await;
    execution(&row.context(|| "noting in sync_executions what was asked for".to_owned())?)
}

/// What was queued begins.
pub async fn runs(local: &Local, id: Uuid) -> Result<()> {
    let update = format!(
        "UPDATE {}.sync_executions e SET state = 'running', started_at = clock_timestamp(), ended_at = NULL, \
         server_process = a.pid, process_started = a.backend_start FROM pg_catalog.pg_stat_activity a \
         WHERE a.pid = pg_catalog.pg_backend_pid() AND e.id = $1::text::uuid",
        local.meta
    );
    let noted = local.session.client().execute(&update, &[&id.to_string()]).await;
    noted.context(|| "noting in sync_executions what begins".to_owned()).map(drop)
}

/// What came of what was asked for; also where somebody has called it abandoned meanwhile.
pub async fn settle(local: &Local, id: Uuid, came: &Came) -> Result<()> {
    let (client, meta) = (local.session.client(), &local.meta);
    let error = match &came.error {
        Some(error) => Some(kept::words(client, error).await?),
        None => None,
    };
    let state = if error.is_some() { "failed" } else { "succeeded" };
    let update = format!(
        "UPDATE {meta}.sync_executions SET ended_at = clock_timestamp(), state = $2, counts = $3::text::jsonb, error = $4 \
         WHERE id = $1::text::uuid"
    );
    let noted = client.execute(&update, &[&id.to_string(), &state, &came.counts.to_string(), &error]).await;
    noted.context(|| "noting in sync_executions what came of it".to_owned()).map(drop)
}

/// One execution, as status and API tell it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Execution {
    pub id: Uuid,
    pub kind: String,
    pub trigger: String,
    /// `None`: all of the whitelist.
    pub tables: Option<Vec<String>>,
    pub started_at: Timestamp,
    pub ended_at: Option<Timestamp>,
    pub state: String,
    pub counts: Value,
    pub error: Option<String>,
}

/// The newest, before the one that a cursor names; and the cursor of what follows.
pub async fn list(
    local: &Local,
    limit: u16,
    cursor: Option<&str>,
) -> Result<(Vec<Execution>, Option<String>)> {
    let before = cursor.map(read_cursor).transpose()?;
    let (micros, id) = before.map_or((i64::MAX, Uuid::nil()), |cursor| cursor);
    let select = format!(
        "SELECT {COLUMNS} FROM {meta}.sync_executions e \
         WHERE ($2 = 9223372036854775807 OR ((extract(epoch FROM e.started_at) * 1000000)::int8, e.id) < ($2, $3::text::uuid)) \
         ORDER BY e.started_at DESC, e.id DESC LIMIT $1",
        meta = local.meta
    );
    let asked = i64::from(limit) + 1;
    let rows = local.session.client().query(&select, &[&asked, &micros, &id.to_string()]).await;
    let mut found: Vec<Execution> = rows
        .context(|| "reading sync_executions".to_owned())?
        .iter()
        .map(execution)
        .collect::<Result<_>>()?;
    let has_more = found.len() > usize::from(limit);
    found.truncate(usize::from(limit));
    let next = found.last().filter(|_| has_more);
    let next = next.map(|last| format!("{}.{}", last.started_at.as_micros(), last.id));
    Ok((found, next))
}

fn read_cursor(text: &str) -> Result<(i64, Uuid)> {
    let read = |text: &str| {
        let (micros, id) = text.split_once('.')?;
        Some((micros.parse().ok()?, id.parse().ok()?))
    };
    read(text).ok_or_else(|| Error::bad_input("a cursor that a list gave", text))
}

pub async fn find(local: &Local, id: Uuid) -> Result<Execution> {
    let select = format!("SELECT {COLUMNS} FROM {}.sync_executions e WHERE id = $1::text::uuid", local.meta);
    let row = local.session.client().query_opt(&select, &[&id.to_string()]).await;
    let row = row.context(|| "reading sync_executions".to_owned())?;
    let row = row.ok_or_else(|| {
        Error::new(ErrorKind::NotFound, format!("there is no execution {id}"))
            .hint("syncdata-applier executions shows the newest")
    })?;
    execution(&row)
}

const COLUMNS: &str = "e.id::text, e.kind, e.trigger, e.tables, (extract(epoch FROM e.started_at) * 1000000)::int8, \
    (extract(epoch FROM e.ended_at) * 1000000)::int8, \
    CASE WHEN e.state IN ('queued', 'running') AND NOT EXISTS (SELECT FROM pg_catalog.pg_stat_activity a \
        WHERE a.pid = e.server_process AND (a.backend_start IS NULL OR a.backend_start = e.process_started)) \
      THEN 'abandoned' ELSE e.state END, \
    (e.counts || CASE WHEN e.idle_times IS NULL THEN '{}' ELSE jsonb_build_object('times', e.idle_times) END)::text, e.error";

fn execution(row: &Row) -> Result<Execution> {
    execution_from(row, 0)
}

/// `at`: where its columns begin.
fn execution_from(row: &Row, at: usize) -> Result<Execution> {
    let bad = |what: &str| Error::bad_input(what, "sync_executions'");
    Ok(Execution {
        id: row.get::<_, &str>(at).parse().map_err(|_| bad("a uuid"))?,
        kind: row.get(at + 1),
        trigger: row.get(at + 2),
        tables: row.get(at + 3),
        started_at: Timestamp::from_micros(row.get(at + 4))?,
        ended_at: row.get::<_, Option<i64>>(at + 5).map(Timestamp::from_micros).transpose()?,
        state: row.get(at + 6),
        counts: serde_json::from_str(row.get(at + 7)).map_err(|_| bad("counts"))?,
        error: row.get(at + 8),
    })
}
