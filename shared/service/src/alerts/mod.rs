//! Alerts: what somebody is woken for. Each is kept before it is sent, has an id that stays, and is said once when it begins
//! and once when it is over.
//!
//! ```text
//! what is bad ─▶ book: what began, what is over ─▶ journal, and the program's own place ─▶ sinks: webhook, command
//! ```

mod book;
mod ended;
mod journal;
mod sinks;
mod watch;

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

pub use self::book::{Alert, Book, Event};
pub use self::ended::speak_for;
pub use self::journal::Journal;
pub use self::sinks::Sink;
pub use self::watch::{Alerting, Look, Watched};
use crate::circuit::Circuit;

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum AlertKind {
    /// Something lags production by more than it may.
    SyncLag,
    /// A proof found that a table differs, and by more than the threshold.
    ConsistencyScore,
    /// Too many records wait for quarantined tables.
    DeadLetterQueue,
    /// Production keeps as much WAL for us as it may.
    WalGuard,
    /// Changes are missing, and no snapshot has mended that.
    Gap,
    /// A peer has failed several times in a row.
    Unreachable,
    /// The service manager found the daemon dead, and it has not lasted since.
    DaemonFailed,
}

impl AlertKind {
    pub const OF_APPLIER: [AlertKind; 4] = [
        AlertKind::SyncLag,
        AlertKind::ConsistencyScore,
        AlertKind::DeadLetterQueue,
        AlertKind::DaemonFailed,
    ];
    pub const OF_ARCHIVER: [AlertKind; 5] = [
        AlertKind::SyncLag,
        AlertKind::WalGuard,
        AlertKind::Gap,
        AlertKind::Unreachable,
        AlertKind::DaemonFailed,
    ];

    pub fn as_str(self) -> &'static str {
        match self {
            AlertKind::SyncLag => "sync_lag",
            AlertKind::ConsistencyScore => "consistency_score",
            AlertKind::DeadLetterQueue => "dead_letter_queue",
            AlertKind::WalGuard => "wal_guard",
            AlertKind::Gap => "gap",
            AlertKind::Unreachable => "unreachable",
            AlertKind::DaemonFailed => "daemon_failed",
        }
    }
}

/// Something that is bad just now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Bad {
    pub kind: AlertKind,
    /// A table, a peer, how a daemon ended; `*`: the program's work as a whole.
    pub subject: String,
    pub value: String,
    pub threshold: String,
}

impl Bad {
    pub fn new(kind: AlertKind, subject: &str, value: impl ToString, threshold: impl ToString) -> Bad {
        let (subject, value) = (subject.to_owned(), value.to_string());
        Bad { kind, subject, value, threshold: threshold.to_string() }
    }
}

/// A server that is restarted is no reason to wake anybody.
const FAILURES_MAX: u64 = 5;

/// Peers that have failed, and how often: those that are bad, and those that may be about to.
pub fn unreachable(circuits: &BTreeMap<String, Circuit>) -> (Vec<Bad>, Vec<Bad>) {
    let failing = circuits.iter().filter(|(_, circuit)| circuit.failures > 0);
    let bad = |failures, peer: &String| Bad::new(AlertKind::Unreachable, peer, failures, FAILURES_MAX);
    let (many, few): (Vec<_>, Vec<_>) = failing.partition(|(_, circuit)| circuit.failures >= FAILURES_MAX);
    let each = |of: Vec<(&String, &Circuit)>| of.into_iter().map(|(peer, c)| bad(c.failures, peer)).collect();
    (each(many), each(few))
}
