//! The commands, one file each. Where a daemon runs, it does the work and the command waits for its answer.

pub mod as_of;
pub mod ask;
pub mod clear;
pub mod history;
pub mod replay;
pub mod resync;
pub mod retry;
pub mod status;
pub mod stop;
pub mod sync;
pub mod tables;

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use syncdata_formats::error::Error;

/// What a command has to say, here or over the control socket.
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

    pub fn failed(error: &Error) -> Answer {
        let (text, document) = (String::new(), json!({ "error": error.one_line() }));
        Answer { exit_code: 2, text, document, words: Some(error.report()) }
    }

    #[must_use]
    pub fn with_words(self, words: impl Into<String>) -> Answer {
        Answer { words: Some(words.into()), ..self }
    }
}
