//! What a command, or a request to the daemon, does: one function each, in a file of its name. None of them knows whether
//! a daemon runs.

pub mod add_tables;
pub mod alerts;
pub mod as_of;
pub mod clear;
pub mod consistency;
pub mod dashboard;
pub mod dead_letters;
pub mod drill;
#[cfg(feature = "duckdb")]
pub(crate) mod duckdb;
pub mod executions;
pub mod history;
pub mod list_tables;
pub mod remove_tables;
pub mod replay;
pub mod resync;
pub mod retry;
pub(crate) mod setup;
pub mod status;
pub mod sync;
pub(crate) mod uninstall;
pub(crate) mod until_live;
pub mod verified;
pub(crate) mod whitelist;

use serde::{Deserialize, Serialize};
use serde_json::Value;
use syncdata_formats::error::Error;
use syncdata_service::output;

/// What there is to say afterwards, here or over the control socket.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Answer {
    /// 0: done, clean. 1: a difference, stale, unhealthy. 2: could not do it.
    pub exit_code: u8,
    /// For stdout.
    pub text: String,
    /// Instead of the text with `--json`.
    pub document: Value,
    /// For stderr.
    pub words: Option<String>,
}

impl Answer {
    pub fn done(text: String, document: Value) -> Answer {
        Answer { exit_code: 0, text, document, words: None }
    }

    /// An operator was asked and said no.
    pub fn declined(document: Value) -> Answer {
        Answer { exit_code: 1, ..Answer::done(String::new(), document) }.with_words("nothing was changed")
    }

    pub fn failed(error: &Error) -> Answer {
        let (text, document) = (String::new(), output::document_of(error));
        Answer { exit_code: 2, text, document, words: Some(error.report()) }
    }

    #[must_use]
    pub fn with_words(self, words: impl Into<String>) -> Answer {
        Answer { words: Some(words.into()), ..self }
    }
}
