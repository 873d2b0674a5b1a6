//! The newest lines of the log, in the memory: for whoever looks at the page and has no shell. They say what stderr says, and
//! so no values of rows.

use std::collections::VecDeque;
use std::fmt::{self, Write as _};
use std::sync::{Mutex, MutexGuard, PoisonError};

use serde::Serialize;
use syncdata_formats::error::escape_control;
use syncdata_formats::time::Timestamp;
use tracing::field::{Field, Visit};
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::layer::{Context, Layer};

const LINES_MAX: usize = 100;

/// In bytes; what is longer is cut.
const LINE_MAX: usize = 1000;

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Line {
    pub at: Timestamp,
    pub level: &'static str,
    pub text: String,
}

static NEWEST: Mutex<VecDeque<Line>> = Mutex::new(VecDeque::new());

/// The oldest first.
pub fn lines() -> Vec<Line> {
    lock().iter().cloned().collect()
}

fn lock() -> MutexGuard<'static, VecDeque<Line>> {
    NEWEST.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Keeps what is logged. What is for developers would drive out what is for operators.
pub(super) struct Recent;

impl<S: Subscriber> Layer<S> for Recent {
    fn on_event(&self, event: &Event<'_>, _context: Context<'_, S>) {
        let level = *event.metadata().level();
        if level > Level::INFO {
            return;
        }
        let mut said = Said::default();
        event.record(&mut said);
        let line = Line { at: Timestamp::now(), level: level.as_str(), text: said.into_text() };
        let mut newest = lock();
        if newest.len() == LINES_MAX {
            newest.pop_front();
        }
        newest.push_back(line);
    }
}

/// Message and fields, as the log has them.
#[derive(Default)]
struct Said {
    message: String,
    fields: String,
}

impl Said {
    fn into_text(self) -> String {
        let mut text = escape_control(&format!("{}{}", self.message, self.fields));
        if text.len() > LINE_MAX {
            let end = (0..=LINE_MAX).rev().find(|end| text.is_char_boundary(*end)).unwrap_or(0);
            text.truncate(end);
            text.push('…');
        }
        text
    }
}

impl Visit for Said {
    fn record_str(&mut self, field: &Field, value: &str) {
        match field.name() {
            "message" => value.clone_into(&mut self.message),
            _ => self.record_debug(field, &value),
        }
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        let (text, name) = match field.name() {
            "message" => (&mut self.message, String::new()),
            name => (&mut self.fields, format!(" {name}=")),
        };
        write!(text, "{name}{value:?}").expect("a String takes all");
    }
}

#[cfg(test)]
mod tests {
    use tracing::{debug, info, warn};
    use tracing_subscriber::layer::SubscriberExt as _;

    use super::*;

    #[test]
    fn the_newest_lines_are_kept_and_each_has_a_limit() {
        let subscriber = tracing_subscriber::registry().with(Recent);
        tracing::subscriber::with_default(subscriber, || {
            for number in 0..2 * LINES_MAX {
                info!(number, "one of many");
            }
            let hint = Some("look\nthere");
            warn!(table = "a\u{1b}[31m", error = %"no", hint, "of this test alone");
            debug!("not for operators");
            info!("{}", "é".repeat(LINE_MAX));
        });
        // Other tests of this process may log too.
        let lines = lines();
        assert_eq!(lines.len(), LINES_MAX);
        let kept =
            lines.iter().find(|line| line.text.starts_with("of this test alone")).expect("it is there");
        assert_eq!((kept.level, kept.text.contains(" error=no")), ("WARN", true));
        assert!(!kept.text.chars().any(char::is_control), "{kept:?}");
        assert!(lines.iter().all(|line| line.text.len() <= LINE_MAX + '…'.len_utf8()));
        assert!(
            !lines.iter().any(|line| line.text.contains("developers") || line.text == "not for operators")
        );
    }
}
