//! `history`: every change of one row, from the archive alone.

use std::process::ExitCode;

use syncdata_formats::error::{Error, Result};
use syncdata_service::config::Config;
use syncdata_service::output::{self, Output};

use crate::history::row::{Change, RowHistory, RowOf};

/// Prints changes as they are found: a row may have changed more often than memory holds.
pub async fn history(config: &Config, row: &RowOf, output: Output) -> Result<ExitCode> {
    let mut history = RowHistory::open(config, row).await?;
    let mut printed = Printed::begin(row, output);
    if let Err(error) = history.read(|change| printed.change(change)).await {
        return printed.break_off(error);
    }
    printed.end(&history);
    Ok(ExitCode::from(u8::from(history.lost.is_some())))
}

/// The answer, as it comes.
struct Printed {
    output: Output,
    changes: u64,
}

impl Printed {
    fn begin(row: &RowOf, output: Output) -> Printed {
        if output.is_json() {
            let (table, key) = (row.table.to_string(), &row.key);
            let head = serde_json::json!({"table": table, "key": key}).to_string();
            let open = head.strip_suffix('}').expect("an object");
            output.raw(format!("{open},\"changes\":[").as_bytes());
        }
        Printed { output, changes: 0 }
    }

    fn change(&mut self, change: &Change) {
        if self.output.is_json() {
            let comma = if self.changes > 0 { "," } else { "" };
            self.output.raw(format!("{comma}{}", change.json()).as_bytes());
        } else {
            self.output.line(&change.line());
        }
        self.changes += 1;
    }

    /// A document that was begun is ended as one.
    fn break_off(self, error: Error) -> Result<ExitCode> {
        if !self.output.is_json() {
            return Err(error);
        }
        self.output.words(&error.report());
        let rest = output::document_of(&error).to_string();
        self.output.line(&format!("],{}", rest.strip_prefix('{').expect("an object")));
        Ok(ExitCode::from(2))
    }

    fn end(self, history: &RowHistory) {
        let (read, skipped) = (history.segments_read(), history.segments_skipped);
        let lost = history.lost.as_deref();
        if self.output.is_json() {
            let lost = serde_json::json!(lost);
            self.output.line(&format!(
                "],\"segments_read\":{read},\"segments_skipped\":{skipped},\"lost\":{lost}}}"
            ));
        } else {
            if let Some(lost) = lost {
                self.output.line(&format!("not all of it: {lost}"));
            }
            let words = format!("{} changes, in {read} segments; {skipped} were skipped", self.changes);
            self.output.words(&words);
        }
        if let Some(begins_late) = &history.begins_late {
            self.output.words(begins_late);
        }
    }
}
