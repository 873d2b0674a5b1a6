//! What the daemon answers a command with.

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use syncdata_formats::error::escape_control;
use syncdata_formats::{Error, Kind, Result};
use syncdata_service::output;

use crate::operations::snapshot::Snapshot;
use crate::poll::outcome::Outcome;
use crate::proof::Made;
use crate::prune::Plan;

#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Answer {
    pub exit_code: u8,
    pub message: String,
    /// What went wrong, and what to do about it, on one line each.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hint: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub plan: Option<Plan>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub proof: Option<Made>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub snapshot: Option<Snapshot>,
}

impl Answer {
    pub(crate) fn new(exit_code: u8, message: impl Into<String>) -> Answer {
        Answer {
            exit_code,
            message: message.into(),
            error: None,
            hint: None,
            plan: None,
            proof: None,
            snapshot: None,
        }
    }

    pub(crate) fn failed(exit_code: u8, error: &Error) -> Answer {
        Answer {
            error: Some(error.one_line()),
            hint: error.hint_text().map(escape_control),
            ..Answer::new(exit_code, error.report())
        }
    }

    /// With something to know beside what went wrong.
    pub(crate) fn with_note(mut self, note: Option<String>) -> Answer {
        if let Some(note) = note {
            self.message.push_str(&format!("\nhint: {}", escape_control(&note)));
            let hint = self.hint.take().map(|hint| format!("{hint}; ")).unwrap_or_default();
            self.hint = Some(format!("{hint}{note}"));
        }
        self
    }

    /// The message for machines.
    pub(crate) fn document(&self) -> Value {
        match &self.error {
            Some(error) => output::error_document(error, self.hint.as_deref()),
            None => json!({"message": self.message}),
        }
    }

    pub(crate) fn of_poll(outcome: &Outcome) -> Answer {
        Answer::new(u8::from(!outcome.is_clean()), "")
    }

    pub(crate) fn of_proof(made: Made) -> Answer {
        Answer { proof: Some(made), ..Answer::new(0, "") }
    }

    pub(crate) fn of_snapshot(snapshot: Snapshot) -> Answer {
        Answer { snapshot: Some(snapshot), ..Answer::new(0, "") }
    }

    pub(crate) fn into_snapshot(self) -> Result<Snapshot> {
        self.snapshot.ok_or_else(|| {
            let error = Error::new(Kind::Refused, self.error.unwrap_or(self.message));
            match self.hint {
                Some(hint) => error.hint(hint),
                None => error,
            }
        })
    }

    pub(crate) fn of_prune(plan: Plan) -> Answer {
        Answer { plan: Some(plan), ..Answer::new(0, "") }
    }
}
