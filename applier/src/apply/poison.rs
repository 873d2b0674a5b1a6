//! The record that no table would take, looked up again.

use std::path::Path;

use syncdata_formats::change::{Fields, Record, Row};
use syncdata_formats::error::{Context, Result};
use syncdata_formats::manifest::Manifest;
use syncdata_formats::segment::SegmentReader;

use crate::target::Found;

/// Reads that line of a change file again: rare enough to be slow. `None`: it is longer than that.
pub(crate) fn find(
    file: &Path,
    manifest: &Manifest,
    line: u64,
    line_bytes_max: usize,
) -> Result<Option<Found>> {
    let source = std::fs::File::open(file).context(|| format!("opening {}", file.display()))?;
    let mut reader = SegmentReader::new(source, manifest)?.with_line_bytes_max(line_bytes_max);
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
