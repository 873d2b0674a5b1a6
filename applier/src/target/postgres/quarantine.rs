//! The records that no table would take, kept with all that is known about them.

use std::path::Path;
use syncdata_service::postgres::ServerContext as _;

use syncdata_formats::change::{Fields, Record, Row};
use syncdata_formats::error::{Context, Result};
use syncdata_formats::lsn::Lsn;
use syncdata_formats::manifest::Manifest;
use syncdata_formats::name::TableName;
use syncdata_formats::segment::SegmentReader;
use tokio_postgres::GenericClient;

use crate::target::postgres::meta::MetaSchema;

/// Why a table was set aside.
#[derive(Clone, Debug)]
pub struct Poison {
    pub table: TableName,
    pub seq: u64,
    /// `None`: no record in particular.
    pub line: Option<u64>,
    pub sqlstate: Option<String>,
    pub reason: String,
}

/// The record itself, looked up again.
#[derive(Clone, Debug)]
pub struct Found {
    pub lsn: Lsn,
    pub text: String,
}

pub async fn keep(
    client: &impl GenericClient,
    meta: &MetaSchema,
    poison: &Poison,
    record: Option<&Found>,
) -> Result<()> {
    let insert = format!(
        "INSERT INTO {meta}.data_sync_quarantine (table_name, seq, line, lsn, sqlstate, reason, record) \
         VALUES ($1, $2, $3, $4::text::pg_lsn, $5, $6, $7)"
    );
    let seq = i64::try_from(poison.seq).expect("ten digits");
    let line = poison.line.and_then(|line| i64::try_from(line).ok());
    let lsn = record.map(|record| record.lsn.to_string());
    let text = record.map(|record| record.text.as_str());
    let table = poison.table.to_string();
    client
        .execute(&insert, &[&table, &seq, &line, &lsn, &poison.sqlstate, &poison.reason, &text])
        .await
        .context(|| "keeping the record in data_sync_quarantine".to_owned())?;
    Ok(())
}

/// Forgets what was kept about a table that is whole again.
pub async fn forget(client: &impl GenericClient, meta: &MetaSchema, table: &TableName) -> Result<()> {
    let delete = format!("DELETE FROM {meta}.data_sync_quarantine WHERE table_name = $1");
    client.execute(&delete, &[&table.to_string()]).await.context(|| "clearing the quarantine".to_owned())?;
    Ok(())
}

/// Reads that line of a change file again: rare enough to be slow.
pub fn find(file: &Path, manifest: &Manifest, line: u64) -> Result<Option<Found>> {
    let source = std::fs::File::open(file).context(|| format!("opening {}", file.display()))?;
    let mut reader = SegmentReader::new(source, manifest)?;
    while reader.line() < line {
        let at = reader.line() + 1;
        match reader.next()? {
            Some(Record::Row(row)) if at == line => {
                return Ok(Some(Found { lsn: row.lsn, text: text(&row) }));
            }
            Some(_) => {}
            None => break,
        }
    }
    Ok(None)
}

/// The row as one JSON object, values as the archive has them.
fn text(row: &Row<'_>) -> String {
    let mut parts = vec![format!("\"table\":{}", json(&row.table)), format!("\"op\":\"{}\"", row.op)];
    for (name, fields) in [("data", &row.data), ("old_keys", &row.old_keys)] {
        if !fields.is_empty() {
            parts.push(format!("\"{name}\":{}", object(fields)));
        }
    }
    format!("{{{}}}", parts.join(","))
}

fn object(fields: &Fields<'_>) -> String {
    let members: Vec<String> = fields.iter().map(|(name, value)| format!("{}:{value}", json(name))).collect();
    format!("{{{}}}", members.join(","))
}

fn json(text: &str) -> String {
    serde_json::to_string(text).expect("a string is JSON")
}
