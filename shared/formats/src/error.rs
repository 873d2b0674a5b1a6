//! The one error of the project: what happened, which thing it happened to, and a `Kind` that answers
//! "what now?". `Display` prints its own line only; `report` prints the whole story for a person.

use std::error::Error as StdError;
use std::fmt;

pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What a caller can do about an error.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A setting, an argument or a file of the operator cannot be used as it is.
    BadInput,
    /// A peer did not answer or the connection broke.
    Unreachable,
    /// A peer answered and said no: host key, credentials, rights.
    Refused,
    /// Bytes are not what their format or their checksum promises.
    Corrupt,
    /// Sound by itself, but it does not belong where it stands: another archive, a broken chain.
    Foreign,
    /// Nothing of that name exists.
    NotFound,
    /// Something else of that name exists.
    Conflict,
    /// Our own tables in the local database contradict themselves.
    StateDamaged,
    /// A table cannot take a change of the source, and everything waits until it can.
    Rejected,
    /// A disk, a quota or an inode table is full.
    NoSpace,
    /// Another process holds what we need.
    Locked,
    /// The operating system refused a read or a write.
    Io,
}

/// Who has to act before a repetition can succeed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Remedy {
    /// Nobody: it is transient, try again after a pause.
    Retry,
    /// Nobody here: somebody makes room, and the next round finds it.
    Wait,
    /// A person.
    Operator,
}

impl Kind {
    pub fn remedy(self) -> Remedy {
        match self {
            Kind::Unreachable | Kind::Locked => Remedy::Retry,
            Kind::NoSpace => Remedy::Wait,
            Kind::BadInput
            | Kind::Refused
            | Kind::Corrupt
            | Kind::Foreign
            | Kind::NotFound
            | Kind::Conflict
            | Kind::StateDamaged
            | Kind::Rejected
            | Kind::Io => Remedy::Operator,
        }
    }

    /// A deadlock, a lost connection, a restart: the same try may succeed a moment later.
    pub fn is_transient(self) -> bool {
        self.remedy() == Remedy::Retry
    }

    /// The archive cannot be trusted, or is not the one that was followed so far.
    pub fn refuses_archive(self) -> bool {
        matches!(self, Kind::Corrupt | Kind::Foreign)
    }
}

/// ENFILE and EMFILE: the whole system's, and our own.
const NO_FILE_HANDLE: [i32; 2] = [23, 24];

/// See the module. Boxed, so that a `Result` stays one word wide.
pub struct Error(Box<Inner>);

struct Inner {
    kind: Kind,
    message: String,
    hint: Option<String>,
    file: Option<String>,
    source: Option<Box<dyn StdError + Send + Sync>>,
}

impl Error {
    pub fn new(kind: Kind, message: impl Into<String>) -> Error {
        Error(Box::new(Inner { kind, message: message.into(), hint: None, file: None, source: None }))
    }

    /// Text from outside that is not a `what`.
    pub fn bad_input(what: &str, text: &str) -> Error {
        Error::new(Kind::BadInput, format!("{text:?} is not {what}"))
    }

    /// A failed system call; the kind follows from the operating system's answer.
    pub fn io(doing: impl Into<String>, source: std::io::Error) -> Error {
        let kind = match source.kind() {
            std::io::ErrorKind::NotFound => Kind::NotFound,
            std::io::ErrorKind::StorageFull | std::io::ErrorKind::QuotaExceeded => Kind::NoSpace,
            std::io::ErrorKind::PermissionDenied => Kind::Refused,
            _ => Kind::Io,
        };
        let no_handle = source.raw_os_error().is_some_and(|code| NO_FILE_HANDLE.contains(&code));
        let error = Error::new(kind, doing).caused_by(source);
        match no_handle {
            true => error.hint("raise the limit (LimitNOFILE= of the service, ulimit -n, fs.file-max)"),
            false => error,
        }
    }

    /// What to do about it, in the imperative.
    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Error {
        self.0.hint = Some(hint.into());
        self
    }

    /// The file of the archive that it is about, unless a cause names one already.
    #[must_use]
    pub fn of_file(mut self, file: impl ToString) -> Error {
        if self.file().is_none() {
            self.0.file = Some(file.to_string());
        }
        self
    }

    #[must_use]
    pub fn caused_by(mut self, source: impl Into<Box<dyn StdError + Send + Sync>>) -> Error {
        self.0.source = Some(source.into());
        self
    }

    /// The same trouble seen from one level up; the kind stays and the hint is inherited.
    #[must_use]
    pub fn context(self, doing: impl Into<String>) -> Error {
        let (kind, hint) = (self.0.kind, self.0.hint.clone());
        let outer = Error::new(kind, doing).caused_by(self);
        match hint {
            Some(hint) => outer.hint(hint),
            None => outer,
        }
    }

    pub fn kind(&self) -> Kind {
        self.0.kind
    }

    pub fn hint_text(&self) -> Option<&str> {
        self.0.hint.as_deref()
    }

    /// The file of the archive that it is about, as far as that is known.
    pub fn file(&self) -> Option<&str> {
        let mut error = self;
        loop {
            if let Some(file) = &error.0.file {
                return Some(file);
            }
            error = error.0.source.as_deref()?.downcast_ref()?;
        }
    }

    /// `message: cause: cause` in one line, control characters escaped: for logs and tables.
    pub fn one_line(&self) -> String {
        escape_control(&chain(self).join(": "))
    }

    /// On one line: what happened, and what to do about it.
    pub fn with_hint(&self) -> String {
        let hint = self.0.hint.as_ref().map(|hint| format!(" (hint: {hint})"));
        format!("{}{}", self.one_line(), hint.unwrap_or_default())
    }

    /// The lines a person reads on stderr.
    pub fn report(&self) -> String {
        let mut lines = chain(self).into_iter();
        let mut text = format!("error: {}", escape_control(&lines.next().unwrap_or_default()));
        for cause in lines {
            text.push_str("\n  ");
            text.push_str(&escape_control(&cause));
        }
        if let Some(hint) = &self.0.hint {
            text.push_str("\nhint: ");
            text.push_str(&escape_control(hint));
        }
        text
    }
}

/// Adds what was being done to an error that passes by.
pub trait Context<T> {
    fn context(self, doing: impl FnOnce() -> String) -> Result<T>;
}

impl<T> Context<T> for Result<T> {
    fn context(self, doing: impl FnOnce() -> String) -> Result<T> {
        self.map_err(|error| error.context(doing()))
    }
}

impl<T> Context<T> for std::io::Result<T> {
    fn context(self, doing: impl FnOnce() -> String) -> Result<T> {
        self.map_err(|error| Error::io(doing(), error))
    }
}

fn chain(error: &Error) -> Vec<String> {
    let mut lines = vec![error.to_string()];
    let mut next = error.source();
    while let Some(cause) = next {
        let line = without_code(cause.to_string());
        // Some libraries print their source themselves.
        if !lines.iter().any(|earlier| earlier.ends_with(&line)) {
            lines.push(line);
        }
        next = cause.source();
    }
    lines
}

/// libssh2's numbers, which the library puts before its words, say nothing to a person.
fn without_code(line: String) -> String {
    let words = |line: &str| {
        let code = line.strip_prefix("[Session(").or_else(|| line.strip_prefix("[SFTP("))?;
        let (number, words) = code.split_once(")] ")?;
        number.parse::<i32>().is_ok().then(|| words.to_owned())
    };
    words(&line).unwrap_or(line)
}

/// Names and messages come from outside: a line break or an escape sequence in them must not be able to
/// forge a log line or paint a terminal.
pub fn escape_control(text: &str) -> String {
    let mut safe = String::with_capacity(text.len());
    for c in text.chars() {
        if c.is_control() {
            safe.extend(c.escape_default());
        } else {
            safe.push(c);
        }
    }
    safe
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.message)
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}: {}", self.0.kind, self.report())
    }
}

impl StdError for Error {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        self.0.source.as_deref().map(|source| source as &(dyn StdError + 'static))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn report_tells_what_why_and_what_to_do() {
        let disk = std::io::Error::from(std::io::ErrorKind::StorageFull);
        let error = Error::io("writing a.part", disk).hint("free some space").context("spooling segment 7");
        assert_eq!(error.kind(), Kind::NoSpace);
        assert_eq!(
            error.report(),
            "error: spooling segment 7\n  writing a.part\n  no storage space\nhint: free some space"
        );
    }

    #[test]
    fn what_nobody_has_to_mend_is_tried_again_soon_or_in_the_next_round() {
        for (kind, is_transient, refuses_archive) in [
            (Kind::Unreachable, true, false),
            (Kind::Locked, true, false),
            (Kind::NoSpace, false, false),
            (Kind::Corrupt, false, true),
            (Kind::Foreign, false, true),
            (Kind::StateDamaged, false, false),
            (Kind::Rejected, false, false),
            (Kind::Refused, false, false),
            (Kind::BadInput, false, false),
            (Kind::NotFound, false, false),
            (Kind::Conflict, false, false),
            (Kind::Io, false, false),
        ] {
            assert_eq!(
                (kind.is_transient(), kind.refuses_archive()),
                (is_transient, refuses_archive),
                "{kind:?}"
            );
        }
        assert_eq!(Kind::NoSpace.remedy(), Remedy::Wait);
    }

    #[test]
    fn numbers_of_a_library_are_left_out() {
        for (said, line) in [
            ("[Session(-18)] Authentication failed", "Authentication failed"),
            ("[SFTP(4)] failure", "failure"),
            ("[Session(x)] text", "[Session(x)] text"),
        ] {
            let error = Error::new(Kind::Refused, "logging in").caused_by(said);
            assert_eq!(error.one_line(), format!("logging in: {line}"));
        }
    }

    #[test]
    fn control_characters_cannot_forge_a_line() {
        let error = Error::new(Kind::BadInput, "table \"a\nERROR b\x1b[31m\"");
        assert_eq!(error.one_line(), "table \"a\\nERROR b\\u{1b}[31m\"");
    }
}
