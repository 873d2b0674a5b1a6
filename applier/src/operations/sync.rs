//! `sync`: one pass now.

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use syncdata_formats::error::Result;
use syncdata_formats::layout::SegmentSeq;
use syncdata_service::config::Config;
use syncdata_service::daemon::Stop;

use super::Answer;
use crate::load::{Changes, Loaded};
use crate::pass::runner::{Runner, Synced};

/// A table that is not as it should be.
#[derive(Debug, Serialize, Deserialize)]
pub struct Unhealthy {
    pub table: String,
    pub state: String,
    pub reason: String,
}

/// Everything up to a stop is committed; the next pass goes on.
pub async fn sync(config: Config) -> Result<Answer> {
    Ok(match run(config).await? {
        Some(report) => answer(&report),
        None => Answer::done(String::new(), json!({})).with_words("stopped"),
    })
}

/// A pass, and the loads that it asks for. `None`: stopped.
pub async fn run(config: Config) -> Result<Option<Synced>> {
    let stop = Stop::new();
    stop.on_signals()?;
    Runner::new(config, stop).sync().await.transpose()
}

pub fn answer(report: &Synced) -> Answer {
    let unhealthy: Vec<Unhealthy> = report
        .pass
        .unhealthy
        .iter()
        .map(|(table, (state, reason))| Unhealthy {
            table: table.to_string(),
            state: state.as_str().to_owned(),
            reason: reason.clone(),
        })
        .collect();
    let loaded: Vec<Value> = report
        .loaded
        .iter()
        .map(|(table, loaded)| {
            let Changes { inserted, updated, deleted } = loaded.changes;
            json!({
                "table": table.to_string(), "base": loaded.base, "lsn": loaded.position.to_string(),
                "inserted": inserted, "updated": updated, "deleted": deleted,
            })
        })
        .collect();
    let not_loaded: Vec<Value> = report
        .not_loaded
        .iter()
        .map(|(table, reason)| json!({"table": table.to_string(), "reason": reason}))
        .collect();
    let document = json!({
        "segments": report.pass.segments,
        "records": report.pass.records,
        "tables": report.pass.tables,
        "missing_segment": report.pass.missing.map(|seq| seq.get()),
        "stopped": report.pass.stopped,
        "loaded": loaded,
        "not_loaded": not_loaded,
        "unhealthy": unhealthy,
    });
    let exit_code = u8::from(!report.pass.is_clean());
    Answer { exit_code, ..Answer::done(describe(report), document) }
}

/// For people: what was done, and what is not as it should be.
fn describe(report: &Synced) -> String {
    if report.pass.tables == 0 {
        return "No tables in whitelist\n".to_owned();
    }
    let mut text = format!(
        "applied {} records in {} segments to {} tables\n",
        report.pass.records, report.pass.segments, report.pass.tables
    );
    if report.pass.stopped {
        text.push_str("stopped; the next pass goes on from here\n");
    }
    if let Some(seq) = report.pass.missing {
        text.push_str(&format!("{}\n", missing(seq)));
    }
    for (table, Loaded { base, changes: Changes { inserted, updated, deleted }, position }) in &report.loaded
    {
        text.push_str(&format!(
            "loaded {table} from {base}, as of {position}: {inserted} rows inserted, {updated} updated, {deleted} deleted\n"
        ));
    }
    for (table, reason) in &report.not_loaded {
        let is_told = report.pass.unhealthy.get(table).is_some_and(|(_, told)| told == reason);
        if !is_told {
            text.push_str(&format!("{table}: not loaded: {reason}\n"));
        }
    }
    for (table, (state, reason)) in &report.pass.unhealthy {
        let reason = if reason.is_empty() { String::new() } else { format!(": {reason}") };
        text.push_str(&format!("{table}: {state}{reason}\n"));
    }
    text
}

pub fn missing(seq: SegmentSeq) -> String {
    format!("segment {seq} is missing on the backup host, though its head names it")
}
