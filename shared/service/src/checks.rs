//! What the doctors of both programs look at alike: clocks, room on a disk, TLS, and a daemon with other settings than
//! the file.

use std::time::Duration;

use bytesize::ByteSize;
use serde_json::Value;
use syncdata_formats::error::Result;
use syncdata_formats::time::Timestamp;
use tokio_postgres::Row;

use crate::config::{Config, Origin};
use crate::finding::Finding;
use crate::postgres::{PostgresSettings, ServerContext as _, Session, lets_others_read};

/// Clocks that are further apart than that are worth a line: times are compared between hosts.
const CLOCKS_APART_MAX: Duration = Duration::from_secs(60);

/// Less is used up before somebody looks.
const ROOM_MIN: ByteSize = ByteSize::gib(1);

/// How far two clocks that were read at one moment are apart.
pub fn clocks(whose: &str, theirs: Timestamp, ours: Timestamp) -> Finding {
    let (ahead, late) = (theirs.since(ours), ours.since(theirs));
    let (apart, word) = if ahead > late { (ahead, "ahead of") } else { (late, "after") };
    if apart <= CLOCKS_APART_MAX {
        return Finding::ok("clock", format!("{whose} agrees with this host's"));
    }
    Finding::warn(
        "clock",
        format!("{whose} is {} s {word} this host's: times say too much or too little", apart.as_secs()),
    )
    .remedy("set both by NTP: timedatectl set-ntp true")
}

/// A file that says when it was written by production's clock (`said`), and the backup host when by its own (`written`).
/// A poll takes its time, and a copy of an archive is written later; nothing is written before its time, or later than now.
pub fn clock_of_backup_host(said: Timestamp, written: Timestamp, now: Timestamp) -> Finding {
    let words = if said.since(written) > CLOCKS_APART_MAX {
        format!("{} s after production's", said.since(written).as_secs())
    } else if written.since(now) > CLOCKS_APART_MAX {
        format!("{} s ahead of this host's", written.since(now).as_secs())
    } else {
        return Finding::ok("clock", "the backup host's, by the time of head.json, agrees with production's");
    };
    Finding::warn("clock", format!("the backup host's, by the time of head.json, is {words}"))
        .remedy("set all hosts' clocks by NTP: timedatectl set-ntp true")
}

pub fn room(subject: &str, place: &str, free: u64) -> Finding {
    let message = format!("{} are free in {place}", ByteSize::b(free));
    match free < ROOM_MIN.as_u64() {
        true => Finding::warn(subject, message)
            .remedy(format!("make room there: below {ROOM_MIN} the next large transaction may not fit")),
        false => Finding::ok(subject, message),
    }
}

/// Whether somebody between here and the server can read along.
pub async fn tls(settings: &PostgresSettings, session: &Session) -> Result<Finding> {
    const SUBJECT: &str = "TLS";
    let select =
        "SELECT ssl, version, cipher FROM pg_catalog.pg_stat_ssl WHERE pid = pg_catalog.pg_backend_pid()";
    let row = session
        .client()
        .query_opt(select, &[])
        .await
        .context(|| "asking whether TLS is in use".to_owned())?;
    let words = |row: Row| {
        let (version, cipher): (Option<&str>, Option<&str>) = (row.get(1), row.get(2));
        format!(
            "{}, {}, pg_sslmode {}",
            version.unwrap_or("-"),
            cipher.unwrap_or("-"),
            settings.ssl_mode.as_str()
        )
    };
    Ok(match row.filter(|row| row.get(0)) {
        Some(row) => Finding::ok(SUBJECT, words(row)),
        None if settings.is_socket() || !lets_others_read(&settings.host) => {
            Finding::ok(SUBJECT, "not in use, and the connection does not leave this host")
        }
        None => Finding::warn(
            SUBJECT,
            format!("not in use: who is between here and {} reads along", settings.host),
        )
        .remedy("switch ssl on at the server, then set pg_sslmode = \"verify-full\" here"),
    })
}

/// Settings in which a running daemon differs from what holds for a command. `running` is what the daemon says.
pub fn daemon_settings(config: &Config, running: &Value, reload: &str) -> Finding {
    const SUBJECT: &str = "daemon settings";
    let differing = differing(config, running);
    if differing.is_empty() {
        return Finding::ok(SUBJECT, "the running daemon has those of the file");
    }
    Finding::warn(
        SUBJECT,
        format!("the running daemon has older settings than the file: {}", differing.join("; ")),
    )
    .remedy(format!(
        "{reload} (or SIGHUP to its process); some settings take a restart, and the log says which"
    ))
}

/// `keep_days is unset there and 7 in archiver.toml:4`, for each setting of the file that the daemon does not have.
pub fn differing(config: &Config, running: &Value) -> Vec<String> {
    let differs = |setting: &&crate::config::Setting| {
        let theirs = &running[setting.key];
        // Who started the daemon with another word on its command line or in its environment meant it.
        let origin = theirs["origin"].as_str().unwrap_or_default();
        let of_file = matches!(setting.origin, Origin::File { .. });
        let was_of_file = origin != "default";
        let may_differ =
            ["command line", "environment", "credential"].iter().any(|word| origin.starts_with(word));
        theirs.is_object()
            && (of_file || was_of_file && setting.origin == Origin::Default)
            && !may_differ
            && shown(&theirs["value"]) != setting.value
    };
    let words = |setting: &crate::config::Setting| {
        let theirs = shown(&running[setting.key]["value"]);
        let theirs = theirs.as_deref().unwrap_or("unset");
        let ours = setting.value.as_deref().unwrap_or("unset");
        format!("{} is {theirs} there and {ours} in {}", setting.key, setting.origin)
    };
    config.describe().iter().filter(differs).map(words).collect()
}

fn shown(value: &Value) -> Option<String> {
    match value {
        Value::Null => None,
        Value::String(text) => Some(text.clone()),
        other => Some(other.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::finding::Level;

    #[test]
    fn clocks_and_room_are_judged_by_a_measure() {
        let at = |text: &str| text.parse::<Timestamp>().expect("a time");
        let ours = at("2026-02-05T10:30:00Z");
        for (theirs, level) in [
            ("2026-02-05T10:30:59Z", Level::Ok),
            ("2026-02-05T10:31:01Z", Level::Warn),
            ("2026-02-05T10:28:59Z", Level::Warn),
        ] {
            assert_eq!(clocks("it", at(theirs), ours).level, level, "{theirs}");
        }
        assert_eq!(room("disk", "here", 1 << 30).level, Level::Ok);
        assert_eq!(room("disk", "here", (1 << 30) - 1).level, Level::Warn);
    }
}
