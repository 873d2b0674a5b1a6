//! Data to stdout, words to stderr.

use std::io::Write as _;
use std::process::ExitCode;

use clap::error::ErrorKind;
use serde_json::{Value, json};

use syncdata_formats::error::{Error, Kind, escape_control};

use crate::config::Config;
use crate::finding::{Finding, Level, worst};

/// People plan in days, hours and minutes; the seconds are in --json.
pub fn span(seconds: u64) -> String {
    let (days, hours, minutes) = (seconds / 86_400, seconds / 3600 % 24, seconds / 60 % 60);
    match (days, hours, minutes) {
        (0, 0, 0) => format!("{seconds} s"),
        (0, 0, minutes) => format!("{minutes} min"),
        (0, hours, minutes) => format!("{hours} h {minutes} min"),
        (days, hours, _) => format!("{days} d {hours} h"),
    }
}

#[derive(Clone, Copy, Debug)]
pub struct Output {
    json: bool,
}

impl Output {
    pub fn new(json: bool) -> Output {
        Output { json }
    }

    pub fn is_json(self) -> bool {
        self.json
    }

    /// The answer: one JSON document, or its text.
    pub fn document(self, json: &Value, text: &str) {
        if self.json { self.line(&json.to_string()) } else { self.raw(text.as_bytes()) }
    }

    pub fn line(self, text: &str) {
        self.raw(format!("{text}\n").as_bytes());
    }

    /// Whoever closed the pipe has read enough.
    pub fn raw(self, bytes: &[u8]) {
        let mut stdout = std::io::stdout().lock();
        let _ = stdout.write_all(bytes).and_then(|()| stdout.flush());
    }

    pub fn words(self, words: &str) {
        let _ = writeln!(std::io::stderr().lock(), "{words}");
    }

    /// Why it could not be done: words for a person, and with `--json` the one document.
    pub fn error(self, error: &Error, exit_code: u8) -> ExitCode {
        self.words(&error.report());
        self.document(&document_of(error), "");
        ExitCode::from(exit_code)
    }

    /// What a `check` found. Warnings alone are success.
    pub fn findings(self, findings: &[Finding]) -> ExitCode {
        let mut text = String::new();
        for finding in findings {
            text.push_str(&format!("{finding}\n"));
            for statement in &finding.statements {
                text.push_str(&format!("      {statement}\n"));
            }
        }
        let is_healthy = worst(findings) != Level::Fail;
        self.document(&json!({"healthy": is_healthy, "findings": findings}), &text);
        ExitCode::from(u8::from(!is_healthy))
    }

    /// What a removal came to: words for the person, and the statements that are left to a DBA alone on stdout.
    pub fn removal(self, findings: &[Finding]) -> ExitCode {
        let is_done = worst(findings) != Level::Fail;
        findings.iter().for_each(|finding| self.words(&finding.to_string()));
        let statements = findings.iter().flat_map(|finding| &finding.statements);
        let statements: String = statements.map(|statement| format!("{statement}\n")).collect();
        self.document(&json!({"removed": is_done, "findings": findings}), &statements);
        ExitCode::from(u8::from(!is_done))
    }

    /// What holds, and who said so; secrets are masked.
    pub fn settings(self, config: &Config) -> ExitCode {
        let mut text = String::new();
        for setting in config.describe() {
            let value = setting.value.as_deref().unwrap_or("-");
            text.push_str(&format!("{} = {value}  # {}\n", setting.key, setting.origin));
        }
        self.document(&config.describe_json(), &text);
        ExitCode::SUCCESS
    }
}

/// A command line that is not understood; with `--json` among its words that is a document too.
pub fn refuse_usage(error: &clap::Error) -> ! {
    let is_json = std::env::args_os().any(|word| word == "--json");
    if is_json && error.use_stderr() {
        let document = match error.kind() {
            ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand => {
                error_document("a command is missing", Some("--help lists them"))
            }
            _ => of_usage(&error.to_string()),
        };
        Output::new(true).line(&document.to_string());
    }
    error.exit()
}

fn of_usage(text: &str) -> Value {
    let (what, rest) = text.split_once("\n\n").unwrap_or((text, ""));
    let joined = |text: &str| text.split_whitespace().collect::<Vec<_>>().join(" ");
    let hint = joined(rest);
    error_document(joined(what).trim_start_matches("error: "), (!hint.is_empty()).then_some(&hint))
}

/// An error for machines.
pub fn document_of(error: &Error) -> Value {
    error_document(&error.one_line(), error.hint_text().map(escape_control).as_deref())
}

/// The error that such a document tells.
pub fn error_in(document: &Value) -> Option<Error> {
    let error = Error::new(Kind::Rejected, document["error"].as_str()?);
    Some(match document["hint"].as_str() {
        Some(hint) => error.hint(hint),
        None => error,
    })
}

/// The same of what a daemon said.
pub fn error_document(error: &str, hint: Option<&str>) -> Value {
    let mut document = json!({"error": error});
    if let Some(hint) = hint {
        document["hint"] = hint.into();
    }
    document
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_span_is_told_in_what_people_plan_in() {
        for (seconds, words) in [
            (0, "0 s"),
            (59, "59 s"),
            (60, "1 min"),
            (3599, "59 min"),
            (3600, "1 h 0 min"),
            (13_500, "3 h 45 min"),
            (86_399, "23 h 59 min"),
            (1_209_599, "13 d 23 h"),
        ] {
            assert_eq!(span(seconds), words, "{seconds}");
        }
    }

    #[test]
    fn a_command_line_that_is_not_understood_is_told_in_two_parts() {
        let text = "error: the following required arguments were not provided:\n  <TABLE>\n\nUsage: x rows <TABLE>\n\n\
            For more information, try '--help'.\n";
        let document = json!({
            "error": "the following required arguments were not provided: <TABLE>",
            "hint": "Usage: x rows <TABLE> For more information, try '--help'."
        });
        assert_eq!(of_usage(text), document);
        assert_eq!(of_usage("error: none"), json!({"error": "none"}));
    }
}
