//! Whether the slot may be followed: not where commits of production would wait for us, and not where the stream would be
//! other text than a peek's.

use syncdata_formats::{Error, Kind, Result};
use syncdata_service::config::Source;

use super::ask::one;
use super::connection::Connection;
use super::stream::APPLICATION_NAME;

const ASK: &str = "SELECT current_setting('synchronous_standby_names')";

/// Why it may not.
pub(crate) async fn refused(connection: &Connection, source: Source) -> Result<Option<Error>> {
    let encoding = &connection.facts.encoding;
    // What wal2json prints is converted on the way of an answer, and not in a stream.
    if source == Source::Wal2json && encoding != "UTF8" {
        let message =
            format!("the slot is not followed: wal2json's stream has the database's encoding, {encoding}");
        return Ok(Some(Error::new(Kind::Refused, message).hint(
            "run `syncdata-archiver setup --switch-source pgoutput`, or set follow = false; polls go on meanwhile",
        )));
    }
    let row =
        one(connection.session.client(), "asking the source for its synchronous standbys", ASK, &[]).await?;
    let setting: String = row.get(0);
    Ok(is_named(&setting, APPLICATION_NAME).then(|| would_wait(&setting)))
}

/// A reader of the stream whom the setting means is a standby to the server.
fn would_wait(setting: &str) -> Error {
    let message = format!(
        "the slot is not followed: synchronous_standby_names = '{setting}' would make us a synchronous standby, and \
         commits would wait for us"
    );
    Error::new(Kind::Refused, message).hint(
        "name the standbys that are meant, as superuser (ALTER SYSTEM SET synchronous_standby_names, then SELECT \
         pg_reload_conf()), or set follow = false; polls go on meanwhile",
    )
}

/// Names are compared without case; a star is everybody.
fn is_named(setting: &str, name: &str) -> bool {
    let mut rest = setting;
    while let Some(start) = rest.find(|c: char| !c.is_whitespace() && !"(),".contains(c)) {
        rest = &rest[start..];
        let (word, after) = match rest.strip_prefix('"') {
            Some(quoted) => quoted.split_once('"').unwrap_or((quoted, "")),
            None => rest.split_at(
                rest.find(|c: char| c.is_whitespace() || "(),\"".contains(c)).unwrap_or(rest.len()),
            ),
        };
        if word == "*" || word.eq_ignore_ascii_case(name) {
            return true;
        }
        rest = after;
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_star_and_our_name_mean_us() {
        for ours in ["*", "FIRST 1 (a, *)", "any 2 (b,\"SYNCDATA-archiver follow\")", "\"*\""] {
            assert!(is_named(ours, APPLICATION_NAME), "{ours}");
        }
        for others in ["", "a, b", "FIRST 1 (syncdata-archiver, follow)", "2 (\"x*\", \"y\")", "\"open"] {
            assert!(!is_named(others, APPLICATION_NAME), "{others}");
        }
    }
}
