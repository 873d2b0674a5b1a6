//! What a `check` finds: one line a subject, with the remedy where something is wrong.

use std::fmt;

use serde::Serialize;

use syncdata_formats::error::{Error, escape_control};

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Level {
    Ok,
    Warn,
    Fail,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Finding {
    pub level: Level,
    /// What was looked at: `slot`, `host key`.
    pub subject: String,
    pub message: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub remedy: Option<String>,
    /// Statements that mend it, ready to run.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub statements: Vec<String>,
}

impl Finding {
    pub fn ok(subject: &str, message: impl Into<String>) -> Finding {
        Finding::new(Level::Ok, subject, message)
    }

    pub fn warn(subject: &str, message: impl Into<String>) -> Finding {
        Finding::new(Level::Warn, subject, message)
    }

    pub fn fail(subject: &str, message: impl Into<String>) -> Finding {
        Finding::new(Level::Fail, subject, message)
    }

    /// An error, with its own hint as the remedy.
    pub fn of_error(subject: &str, error: &Error) -> Finding {
        let finding = Finding::fail(subject, error.one_line());
        match error.hint_text() {
            Some(hint) => finding.remedy(hint),
            None => finding,
        }
    }

    #[must_use]
    pub fn remedy(mut self, remedy: impl Into<String>) -> Finding {
        self.remedy = Some(remedy.into());
        self
    }

    #[must_use]
    pub fn statement(mut self, statement: impl Into<String>) -> Finding {
        self.statements.push(statement.into());
        self
    }

    fn new(level: Level, subject: &str, message: impl Into<String>) -> Finding {
        let (subject, message) = (subject.to_owned(), message.into());
        Finding { level, subject, message, remedy: None, statements: Vec::new() }
    }
}

/// The worst of them; `Ok` when there are none.
pub fn worst(findings: &[Finding]) -> Level {
    findings.iter().map(|finding| finding.level).max().unwrap_or(Level::Ok)
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let level = match self.level {
            Level::Ok => "ok  ",
            Level::Warn => "warn",
            Level::Fail => "fail",
        };
        write!(f, "{level}  {}: {}", self.subject, escape_control(&self.message))?;
        if let Some(remedy) = &self.remedy {
            write!(f, "\n      {}", escape_control(remedy))?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_worst_decides() {
        let findings = [Finding::ok("a", "fine"), Finding::fail("b", "broken"), Finding::warn("c", "odd")];
        assert_eq!(worst(&findings), Level::Fail);
        assert_eq!(worst(&[]), Level::Ok);
    }

    #[test]
    fn a_line_has_its_remedy_below() {
        let finding = Finding::fail("slot", "it is\ngone").remedy("make it again");
        assert_eq!(finding.to_string(), "fail  slot: it is\\ngone\n      make it again");
    }
}
