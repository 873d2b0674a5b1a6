//! Questions: what the CLI is answered, as a document.

use std::time::{Duration, Instant};

use serde_json::{Value, json};
use syncdata_formats::error::Result;
use syncdata_service::circuit;
use syncdata_service::config::Config;
use syncdata_service::http::{Call, Problem, Sort};
use uuid::Uuid;

use super::Api;
use super::apart::apart;
use super::routes::Operation;
use crate::archive;
use crate::operations::dead_letters::{self, DeadLetters};
use crate::operations::{Answer, consistency, executions};

type Answered = std::result::Result<Value, Problem>;

/// The backup host is asked again after this; it need not be asked as often as somebody looks.
const HEAD_AGE_MAX: Duration = Duration::from_secs(5);
const HEAD_PATIENCE: Duration = Duration::from_secs(20);

/// A question with a session of its own.
async fn asked<F>(api: &Api, question: impl FnOnce(Config) -> F + Send + 'static) -> Answered
where
    F: Future<Output = Result<Answer>>,
{
    let _place = api.questions.acquire().await.expect("the semaphore is never closed");
    let config = api.life.config();
    Ok(apart(move || question(config)).await?.document)
}

pub(super) async fn tables(api: &Api, call: &Call<Operation>) -> Answered {
    let status = api.life.status().await;
    call.page(status.tables.iter().map(|table| (table.table.clone(), json!(table))))
}

pub(super) async fn alerts(api: &Api, call: &Call<Operation>) -> Answered {
    let status = api.life.status().await;
    call.page(status.alerts.iter().map(|alert| (format!("{} {}", alert.since, alert.id), json!(alert))))
}

pub(super) async fn executions(api: &Api, call: &Call<Operation>) -> Answered {
    let (limit, cursor) = (call.limit()?, call.cursor().map(str::to_owned));
    asked(api, async move |config| executions::list(&config, limit, cursor.as_deref()).await).await
}

pub(super) async fn execution(api: &Api, call: &Call<Operation>) -> Answered {
    let id = id(call, "execution")?;
    asked(api, async move |config| executions::show(&config, id).await).await
}

pub(super) async fn dead_letters(api: &Api, call: &Call<Operation>) -> Answered {
    let table = call.parameter("table").map(str::to_owned);
    let all = match call.parameter("all") {
        None | Some("false") => false,
        Some("true") => true,
        Some(_) => return Err(Problem::new(Sort::NotUnderstood, "all is true or false")),
    };
    let order = DeadLetters::List { table, all };
    let found = asked(api, async move |config| dead_letters::look(&config, &order).await).await?;
    let items = found["items"].as_array().cloned().unwrap_or_default();
    let key = |letter: &Value| {
        let text = |name: &str| letter[name].as_str().unwrap_or_default().to_owned();
        format!("{} {}", text("at"), text("operation_id"))
    };
    call.page(items.into_iter().map(|letter| (key(&letter), letter)))
}

pub(super) async fn dead_letter(api: &Api, call: &Call<Operation>) -> Answered {
    let order = DeadLetters::Show { id: id(call, "dead letter")? };
    asked(api, async move |config| dead_letters::look(&config, &order).await).await
}

pub(super) async fn consistency(api: &Api) -> Answered {
    asked(api, async move |config| consistency::status(&config).await).await
}

/// One row, against the archive.
pub(super) async fn validate(api: &Api, call: &Call<Operation>) -> Answered {
    let key = call.parameters.get("primary_key").cloned().unwrap_or_default();
    let table = call.arguments.first().cloned().unwrap_or_default();
    asked(api, async move |config| consistency::rows(&config, &table, Some(key)).await).await
}

/// How far the archive is, by what its archiver wrote last, and how far we are after it.
pub(super) async fn cdc_status(api: &Api) -> Answered {
    let status = api.life.status().await;
    // Whoever comes meanwhile gets the same answer.
    let mut known = api.head.lock().await;
    let head = match known.as_ref().filter(|(asked_at, _)| asked_at.elapsed() < HEAD_AGE_MAX) {
        Some((_, head)) => head.clone(),
        None => {
            let config = api.life.config();
            let read = tokio::time::timeout(HEAD_PATIENCE, apart(move || read_head(config))).await;
            let head = read.map_err(|_| Problem::new(Sort::NotNow, "the archive does not answer"))??;
            *known = Some((Instant::now(), head.clone()));
            head
        }
    };
    Ok(json!({
        "archive": head, "location": status.archive, "circuit": status.circuits.get(circuit::ARCHIVE),
        "waiting_segments": status.waiting_segments, "waiting_records": status.waiting_records,
        "waiting_bytes": status.waiting_bytes,
        "applied": {"segment": status.copy.segment, "lsn": status.copy.lsn, "covered_at": status.copy.covered_at},
    }))
}

async fn read_head(config: Config) -> Result<Value> {
    let source = archive::open::open_by_hand(&config)?;
    let written_at = source.head_written_at().await?;
    let Some(head) = source.head().await? else { return Ok(Value::Null) };
    Ok(json!({
        "archive_id": head.archive_id, "newest_segment": head.newest.map(|newest| newest.name.to_string()),
        "covered_lsn": head.covered_lsn, "covered_at": head.covered_at, "written_at": written_at,
        "archiver": head.archiver,
        "not_captured": head.not_captured.iter().map(ToString::to_string).collect::<Vec<_>>(),
    }))
}

pub(super) fn id(call: &Call<Operation>, what: &str) -> std::result::Result<Uuid, Problem> {
    let text = call.arguments.first().map_or("", String::as_str);
    // Written as we write it: one thing has one address.
    let id = text.parse::<Uuid>().ok().filter(|id| id.to_string() == text);
    id.ok_or_else(|| Problem::new(Sort::NotFound, format!("there is no {what} {text:?}")))
}
