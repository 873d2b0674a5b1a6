//! `sync`: one pass now.

use serde_json::{Value, json};
use syncdata_formats::error::Result;
use syncdata_formats::layout::SegmentSeq;
use syncdata_formats::name::TableName;
use syncdata_service::config::Config;
use syncdata_service::daemon::Stop;

use super::Answer;
use crate::load::{Changes, Loaded};
use crate::pass::Report;
use crate::pass::runner::Runner;
use crate::program::daemon;

pub async fn run(config: Config) -> Result<Answer> {
    match daemon::ask(&config, "/sync", None).await? {
        Some(answer) => Ok(answer),
        None => here(config).await,
    }
}

/// In this process.
pub async fn here(config: Config) -> Result<Answer> {
    Ok(match report_here(config).await? {
        Some(report) => of_report(&report),
        // Everything up to here is committed; the next pass goes on.
        None => Answer::done(String::new(), json!({})).with_words("stopped"),
    })
}

/// `None`: stopped.
pub async fn report_here(config: Config) -> Result<Option<Report>> {
    let stop = Stop::new();
    stop.on_signals()?;
    Runner::new(config, stop).sync().await.transpose()
}

pub fn answer(result: Result<Report>) -> Answer {
    match result {
        Ok(report) => of_report(&report),
        Err(error) => Answer::failed(&error),
    }
}

pub fn of_report(report: &Report) -> Answer {
    let unhealthy: Vec<Value> = report
        .unhealthy
        .iter()
        .map(|(table, (state, reason))| {
            json!({"table": table.to_string(), "state": state.as_str(), "reason": reason})
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
        "segments": report.segments,
        "records": report.records,
        "tables": report.tables,
        "missing_segment": report.missing.map(|seq| seq.get()),
        "stopped": report.stopped,
        "loaded": loaded,
        "not_loaded": not_loaded,
        "unhealthy": unhealthy,
    });
    let exit_code = u8::from(!report.is_clean());
    Answer { exit_code, ..Answer::done(describe(report), document) }
}

/// For people: what was done, and what is not as it should be.
fn describe(report: &Report) -> String {
    if report.tables == 0 {
        return "No tables in whitelist\n".to_owned();
    }
    let mut text = format!(
        "applied {} records in {} segments to {} tables\n",
        report.records, report.segments, report.tables
    );
    if report.stopped {
        text.push_str("stopped; the next pass goes on from here\n");
    }
    if let Some(seq) = report.missing {
        text.push_str(&format!("{}\n", missing(seq)));
    }
    for (table, Loaded { base, changes: Changes { inserted, updated, deleted }, position }) in &report.loaded
    {
        text.push_str(&format!(
            "loaded {table} from {base}, as of {position}: {inserted} rows inserted, {updated} updated, {deleted} deleted\n"
        ));
    }
    for (table, reason) in &report.not_loaded {
        let is_told = report.unhealthy.get(table).is_some_and(|(_, told)| told == reason);
        if !is_told {
            text.push_str(&format!("{table}: not loaded: {reason}\n"));
        }
    }
    for (table, (state, reason)) in &report.unhealthy {
        let reason = if reason.is_empty() { String::new() } else { format!(": {reason}") };
        text.push_str(&format!("{table}: {state}{reason}\n"));
    }
    text
}

pub fn missing(seq: SegmentSeq) -> String {
    format!("segment {seq} is missing on the backup host, though its head names it")
}

/// The tables as the command line names them.
pub fn parse_names(names: &[String]) -> Result<Vec<TableName>> {
    names.iter().map(|name| name.parse()).collect()
}
