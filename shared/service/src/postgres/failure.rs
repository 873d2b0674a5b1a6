//! PostgreSQL's errors as ours: the SQLSTATE decides what can be done about it.

use std::error::Error as StdError;
use std::fmt;

use tokio_postgres::error::{DbError, SqlState};

use super::{PostgresSettings, words};

use syncdata_formats::error::{Error, Kind, Result};

/// The server's or the connection's own words, without values of rows.
#[derive(Debug)]
struct Failure {
    error: tokio_postgres::Error,
    /// Of a statement that touches no rows but ours.
    is_of_our_tables: bool,
    /// Nothing else is said before it.
    is_alone: bool,
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(error) = self.error.as_db_error() {
            let words = words::of(error, self.is_of_our_tables);
            let severity = format!("{}: ", error.severity());
            let plain = words.strip_prefix(&severity).filter(|_| self.is_alone);
            return f.write_str(plain.unwrap_or(&words));
        }
        write!(f, "{}", self.error)?;
        let mut cause = self.error.source();
        while let Some(error) = cause {
            write!(f, ": {error}")?;
            cause = error.source();
        }
        Ok(())
    }
}

impl StdError for Failure {}

/// `doing` says what was tried.
pub fn failure(doing: impl Into<String>, error: tokio_postgres::Error) -> Error {
    // A value that does not fit its column's type, an answer that is not what was asked for.
    failure_or(doing, error, Kind::BadInput, false)
}

/// While connecting, what is neither the server's word nor the network's is TLS or authentication.
pub(super) fn connect_failure(doing: impl Into<String>, error: tokio_postgres::Error) -> Error {
    failure_or(doing, error, Kind::Refused, false)
}

fn failure_or(
    doing: impl Into<String>,
    error: tokio_postgres::Error,
    otherwise: Kind,
    is_of_our_tables: bool,
) -> Error {
    let kind = match error.code() {
        Some(code) => kind_of(code),
        None => kind_of_connection(&error, otherwise),
    };
    Error::new(kind, doing).caused_by(Failure { error, is_of_our_tables, is_alone: false })
}

/// A connection that did not come about: the cause first, since that is what has to be mended, then which one it was.
pub(super) fn not_connected(settings: &PostgresSettings, how: &str, error: tokio_postgres::Error) -> Error {
    let hint = connect_hint(settings, &error);
    let kind = match error.code() {
        Some(code) => kind_of(code),
        None => kind_of_connection(&error, Kind::Refused),
    };
    let failure = Failure { error, is_of_our_tables: false, is_alone: true };
    let cause = failure.to_string();
    let layer = Error::new(kind, format!("connecting to PostgreSQL as {}{how}", settings.location()));
    let whole = Error::new(kind, cause).caused_by(layer.caused_by(failure));
    match hint {
        Some(hint) => whole.hint(hint),
        None => whole,
    }
}

/// What to look at, for what people meet when they connect for the first time.
fn connect_hint(settings: &PostgresSettings, error: &tokio_postgres::Error) -> Option<String> {
    let PostgresSettings { host, port, user, database, .. } = settings;
    let Some(code) = error.code() else {
        let is_io = kind_of_connection(error, Kind::Refused) == Kind::Unreachable && !error.is_closed();
        if is_io {
            return Some(format!(
                "does the server run, and are pg_host ({host}) and pg_port ({port}) right?"
            ));
        }
        return is_without_password(error).then(|| {
            format!("set pg_password or pg_password_file for {user}, or put a line into ~/.pgpass")
        });
    };
    Some(match code.code() {
        "28P01" => {
            format!("correct pg_password (or pg_password_file, or the line in ~/.pgpass) for pg_user {user}")
        }
        "28000" if !settings.is_socket() || error.to_string().contains("pg_hba") => {
            format!(
                "is pg_user ({user}) right? Else let it in: a line in pg_hba.conf of that server, then SELECT pg_reload_conf()"
            )
        }
        "28000" => format!(
            "is pg_user ({user}) right? Over a socket, peer authentication wants the name of the system's user"
        ),
        "3D000" => format!(
            "correct pg_database ({database}): `psql -l` shows which there are; is pg_port ({port}) that server's?"
        ),
        "53300" => "raise max_connections of that server, or end sessions that nobody uses".to_owned(),
        _ => return None,
    })
}

/// `syncdata_formats::error::Context` for what PostgreSQL answers.
pub trait ServerContext<T> {
    fn context(self, doing: impl FnOnce() -> String) -> Result<T>;
}

impl<T> ServerContext<T> for Result<T, tokio_postgres::Error> {
    fn context(self, doing: impl FnOnce() -> String) -> Result<T> {
        self.map_err(|error| failure(doing(), error))
    }
}

/// The same for statements about our own tables, where the server's words can be repeated: no row is in them.
pub trait OwnTablesContext<T> {
    fn context(self, doing: impl FnOnce() -> String) -> Result<T>;
}

impl<T> OwnTablesContext<T> for Result<T, tokio_postgres::Error> {
    fn context(self, doing: impl FnOnce() -> String) -> Result<T> {
        self.map_err(|error| failure_or(doing(), error, Kind::BadInput, true))
    }
}

/// What the server said, wherever in the chain of causes.
pub fn db_error(error: &Error) -> Option<&DbError> {
    of_client(error)?.as_db_error()
}

fn of_client(error: &Error) -> Option<&tokio_postgres::Error> {
    let mut cause = error.source();
    while let Some(error) = cause {
        if let Some(Failure { error, .. }) = error.downcast_ref::<Failure>() {
            return Some(error);
        }
        cause = error.source();
    }
    None
}

/// Everything that the server said, values of rows included: for where rows are kept, never for what is printed.
pub fn server_words(error: &Error) -> Option<String> {
    db_error(error).map(words::whole)
}

/// The number of the parameter that the server could not read, from 1, if that was it.
pub fn parameter(error: &Error) -> Option<usize> {
    let (_, rest) = db_error(error)?.where_()?.lines().next()?.split_once('$')?;
    let digits = rest.find(|c: char| !c.is_ascii_digit()).unwrap_or(rest.len());
    rest[..digits].parse().ok()
}

/// The server wants a password, and none is set: no answer of the server's.
pub fn wants_password(error: &Error) -> bool {
    of_client(error).is_some_and(is_without_password)
}

/// The client has no other name for it.
fn is_without_password(error: &tokio_postgres::Error) -> bool {
    error.source().is_some_and(|cause| cause.to_string().contains("password missing"))
}

pub fn sqlstate(error: &Error) -> Option<&SqlState> {
    db_error(error).map(DbError::code)
}

pub(super) fn kind_of(code: &SqlState) -> Kind {
    match code.code() {
        // Server restarts, connections that an administrator ended, too many of them.
        "57P01" | "57P02" | "57P03" | "57P05" | "53300" => Kind::Unreachable,
        // Out of memory passes like a full disk does: with time, or by an administrator.
        "53000" | "53100" | "53200" => Kind::NoSpace,
        // Held by another session: in use, lock not available, deadlock, serialization.
        "55006" | "55P03" | "40001" | "40P01" => Kind::Locked,
        "42501" | "0LP01" | "0L000" => Kind::Refused,
        // The server's own disk is damaged. `Corrupt` would speak of the archive's.
        "XX001" | "XX002" => Kind::Refused,
        "3D000" | "3F000" | "42P01" | "42703" | "42704" | "42883" => Kind::NotFound,
        "42710" | "42P06" | "42P07" => Kind::Conflict,
        // A configured limit was hit: trying again hits it again.
        "53400" | "54000" | "54001" | "54011" | "54023" | "57014" => Kind::Refused,
        code if code.starts_with("08") => Kind::Unreachable,
        code if code.starts_with("28") => Kind::Refused,
        code if code.starts_with("58") => Kind::Io,
        _ => Kind::BadInput,
    }
}

/// An error that is not the server's. A closed connection and a failed system call pass with time; what
/// is left has another reason, which the caller knows.
fn kind_of_connection(error: &tokio_postgres::Error, otherwise: Kind) -> Kind {
    if error.is_closed() {
        return Kind::Unreachable;
    }
    let mut cause = error.source();
    while let Some(inner) = cause {
        if let Some(io) = inner.downcast_ref::<std::io::Error>() {
            let denied = io.kind() == std::io::ErrorKind::PermissionDenied;
            return if denied { Kind::Refused } else { Kind::Unreachable };
        }
        cause = inner.source();
    }
    otherwise
}

#[cfg(test)]
mod tests {
    use super::*;
    use syncdata_formats::error::Remedy;

    #[test]
    fn what_passes_by_itself_is_tried_again_and_nothing_else() {
        for (code, kind) in [
            ("57P01", Kind::Unreachable),
            ("57P03", Kind::Unreachable),
            ("08006", Kind::Unreachable),
            ("53100", Kind::NoSpace),
            ("53200", Kind::NoSpace),
            ("40001", Kind::Locked),
            ("40P01", Kind::Locked),
            ("55006", Kind::Locked),
            ("55P03", Kind::Locked),
        ] {
            assert_eq!(kind_of(&SqlState::from_code(code)), kind, "{code}");
            assert_ne!(kind.remedy(), Remedy::Operator, "{code}");
        }
        for code in [
            "28P01", "28000", "42501", "42P01", "23505", "22P02", "57014", "53400", "XX001", "XX002", "XX000",
        ] {
            let kind = kind_of(&SqlState::from_code(code));
            assert_eq!(kind.remedy(), Remedy::Operator, "{code}");
            assert!(!kind.refuses_archive(), "{code}");
        }
    }
}
