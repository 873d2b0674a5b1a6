//! `executions`: what was done, when, and what it came to.

use std::fmt::Write as _;

use serde_json::json;
use syncdata_formats::error::{Result, escape_control};
use syncdata_service::config::Config;
use uuid::Uuid;

use super::Answer;
use crate::target::postgres::executions::{self, Execution};
use crate::target::postgres::local::Local;

/// The newest first; what follows begins at the cursor.
pub async fn list(config: &Config, limit: u16, cursor: Option<&str>) -> Result<Answer> {
    let local = Local::open(config).await?;
    let (items, next_cursor) = executions::list(&local, limit, cursor).await?;
    let text = items.iter().map(line).collect();
    Ok(Answer::done(text, json!({"items": items, "next_cursor": next_cursor})))
}

pub async fn show(config: &Config, id: Uuid) -> Result<Answer> {
    let found = executions::find(&Local::open(config).await?, id).await?;
    Ok(Answer::done(line(&found), json!(found)))
}

fn line(execution: &Execution) -> String {
    let Execution { id, kind, trigger, started_at, state, .. } = execution;
    let mut words = format!("{started_at} {id} {kind} ({trigger}): {state}");
    if let Some(tables) = &execution.tables {
        write!(words, ", {}", tables.join(" ")).expect("a String takes all");
    }
    if let Some(counts) = execution.counts.as_object() {
        for (name, count) in counts {
            write!(words, ", {name} {count}").expect("a String takes all");
        }
    }
    if let Some(ended) = execution.ended_at {
        write!(words, ", ended {ended}").expect("a String takes all");
    }
    if let Some(error) = &execution.error {
        write!(words, ": {error}").expect("a String takes all");
    }
    format!("{}\n", escape_control(&words))
}
