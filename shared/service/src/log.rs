//! Logs on stderr: for a person on a terminal, for the journal, or as JSON. Whatever a name or a message from
//! outside contains, an event is one line and cannot paint a terminal.

mod recent;

use std::fmt;
use std::io::{self, IsTerminal};
use std::os::fd::AsFd;

use tracing::{Event, Level, Subscriber};
use tracing_subscriber::filter::{LevelFilter, Targets};
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields, MakeWriter};
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::registry::LookupSpan;

pub use self::recent::{Line, lines as recent_lines};
use syncdata_formats::error::escape_control;

/// How an event is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Style {
    /// Time, level, event, fields.
    Plain,
    /// … with colours.
    Terminal,
    /// The journal keeps time itself and reads the level from `<4>`.
    Journal,
    /// One JSON object a line.
    Json,
}

impl Style {
    /// What fits where stderr goes. `NO_COLOR` is respected, as <https://no-color.org> asks.
    pub fn of_stderr(json: bool) -> Style {
        let colours = || std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
        match json {
            true => Style::Json,
            false if io::stderr().is_terminal() && colours() => Style::Terminal,
            false if is_journal(std::env::var("JOURNAL_STREAM").ok().as_deref(), io::stderr()) => {
                Style::Journal
            }
            false => Style::Plain,
        }
    }
}

/// systemd names the device and inode of what it connected, and a program that redirects stderr elsewhere
/// still inherits the variable: only the comparison tells.
fn is_journal(journal_stream: Option<&str>, stream: impl AsFd) -> bool {
    let found = rustix::fs::fstat(stream).map(|stat| format!("{}:{}", stat.st_dev, stat.st_ino));
    journal_stream.is_some_and(|named| found.is_ok_and(|found| found == named))
}

/// The level after so many `-v`.
pub fn level(quiet: Level, verbose: u8) -> Level {
    let levels = [Level::ERROR, Level::WARN, Level::INFO, Level::DEBUG, Level::TRACE];
    let start = levels.iter().position(|level| *level == quiet).unwrap_or(0);
    levels[(start + usize::from(verbose)).min(levels.len() - 1)]
}

/// From here on, events go to stderr. Calling it again changes nothing.
pub fn start(level: Level, style: Style) {
    // The first one stays: tests of one process may all ask.
    let _ = tracing::subscriber::set_global_default(subscriber(level, style, io::stderr));
}

fn subscriber<W>(level: Level, style: Style, writer: W) -> Box<dyn Subscriber + Send + Sync>
where
    W: for<'w> MakeWriter<'w> + Send + Sync + 'static,
{
    // Libraries may not go below WARN: the database driver's DEBUG shows parameters, which are rows.
    let filter = Targets::new()
        .with_default(LevelFilter::WARN)
        .with_target("syncdata", LevelFilter::from_level(level));
    // A closed stderr is no reason to panic, which the library's own complaint on stderr would do.
    let lines = tracing_subscriber::fmt::layer().with_writer(writer).log_internal_errors(false);
    let registry = tracing_subscriber::registry().with(filter).with(recent::Recent);
    match style {
        Style::Json => Box::new(registry.with(lines.json().flatten_event(true))),
        style => Box::new(registry.with(lines.event_format(Lines(style)))),
    }
}

/// One event, one line.
struct Lines(Style);

impl<S, N> FormatEvent<S, N> for Lines
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(
        &self,
        context: &FmtContext<'_, S, N>,
        mut line: Writer<'_>,
        event: &Event<'_>,
    ) -> fmt::Result {
        let mut fields = String::new();
        context.format_fields(Writer::new(&mut fields), event)?;
        let fields = escape_control(&fields);
        let level = *event.metadata().level();
        match self.0 {
            Style::Journal => writeln!(line, "<{}>{fields}", priority(level)),
            Style::Terminal => writeln!(line, "{} \x1b[{}m{level:>5}\x1b[0m {fields}", now(), colour(level)),
            Style::Plain | Style::Json => writeln!(line, "{} {level:>5} {fields}", now()),
        }
    }
}

fn now() -> impl fmt::Display {
    jiff::Timestamp::now().strftime("%Y-%m-%dT%H:%M:%S%.3fZ")
}

/// syslog's numbers.
fn priority(level: Level) -> u8 {
    match level {
        Level::ERROR => 3,
        Level::WARN => 4,
        Level::INFO => 6,
        Level::DEBUG | Level::TRACE => 7,
    }
}

fn colour(level: Level) -> u8 {
    match level {
        Level::ERROR => 31,
        Level::WARN => 33,
        Level::INFO => 32,
        Level::DEBUG | Level::TRACE => 2,
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use tracing::{debug, info, warn};

    use super::*;

    #[derive(Clone, Default)]
    struct Sink(Arc<Mutex<Vec<u8>>>);

    impl io::Write for Sink {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().expect("one thread").extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn logged(level: Level, style: Style, events: impl FnOnce()) -> String {
        let sink = Sink::default();
        let writer = sink.clone();
        tracing::subscriber::with_default(subscriber(level, style, move || writer.clone()), events);
        let bytes = sink.0.lock().expect("one thread").clone();
        String::from_utf8(bytes).expect("logs are text")
    }

    #[test]
    fn an_event_is_one_line_whatever_a_name_contains() {
        let hostile = "a\nERROR forged \x1b[31mred\r\u{9b}";
        for style in [Style::Plain, Style::Journal, Style::Json, Style::Terminal] {
            let text = logged(Level::INFO, style, || {
                warn!(table = hostile, error = %hostile, "skipped {hostile}");
            });
            assert_eq!(text.matches('\n').count(), 1, "{style:?}: {text:?}");
            let body = text.trim_end_matches('\n').replace("\x1b[33m", "").replace("\x1b[0m", "");
            let is_safe = body.chars().all(|c| !c.is_control() || style == Style::Json && c == '\u{9b}');
            assert!(is_safe, "{style:?}: {text:?}");
        }
    }

    #[test]
    fn the_journal_gets_priorities_and_no_time() {
        let text = logged(Level::INFO, Style::Journal, || {
            info!(bytes = 7, "segment shipped");
            debug!("not asked for");
        });
        assert_eq!(text, "<6>segment shipped bytes=7\n");
    }

    #[test]
    fn libraries_do_not_show_parameters() {
        let text = logged(Level::TRACE, Style::Plain, || {
            debug!(target: "tokio_postgres::query", "executing with parameters: [\"canary\"]");
        });
        assert_eq!(text, "");
    }

    #[test]
    fn the_journal_is_where_systemd_says_and_nowhere_else() {
        let file = tempfile::tempfile().expect("a temporary file");
        let stat = rustix::fs::fstat(&file).expect("it is open");
        let named = format!("{}:{}", stat.st_dev, stat.st_ino);
        assert!(is_journal(Some(&named), &file));
        assert!(!is_journal(Some("1:1"), &file), "redirected");
        assert!(!is_journal(None, &file));
    }

    #[test]
    fn verbosity_adds_up_and_ends() {
        assert_eq!(level(Level::WARN, 0), Level::WARN);
        assert_eq!(level(Level::WARN, 1), Level::INFO);
        assert_eq!(level(Level::INFO, 9), Level::TRACE);
    }
}
