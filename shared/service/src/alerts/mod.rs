//! Alerts: what somebody is woken for. Each is kept before it is sent, has an id that stays, and is said once when it begins
//! and once when it is over.
//!
//! ```text
//! what is bad ─▶ book: what began, what is over ─▶ journal, and the program's own place ─▶ sinks: webhook, command
//! ```

mod book;
mod journal;
mod sinks;
mod watch;

use serde::{Deserialize, Serialize};

pub use self::book::{Alert, Book, Event};
pub use self::journal::Journal;
pub use self::sinks::Sink;
pub use self::watch::{Alerting, Look, Watched};
use crate::circuit::Circuit;

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum AlertKind {
    /// Something is too far behind production.
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
}

impl AlertKind {
    pub const OF_APPLIER: [AlertKind; 3] =
        [AlertKind::SyncLag, AlertKind::ConsistencyScore, AlertKind::DeadLetterQueue];
    pub const OF_ARCHIVER: [AlertKind; 4] =
        [AlertKind::SyncLag, AlertKind::WalGuard, AlertKind::Gap, AlertKind::Unreachable];

    pub fn as_str(self) -> &'static str {
        match self {
            AlertKind::SyncLag => "sync_lag",
            AlertKind::ConsistencyScore => "consistency_score",
            AlertKind::DeadLetterQueue => "dead_letter_queue",
            AlertKind::WalGuard => "wal_guard",
            AlertKind::Gap => "gap",
            AlertKind::Unreachable => "unreachable",
        }
    }
}

/// Something that is bad just now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Bad {
    pub kind: AlertKind,
    /// A table, a peer; `*`: the program's work as a whole.
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

/// A peer that does not answer.
pub fn unreachable(peer: &str, circuit: &Circuit) -> Option<Bad> {
    let failures = circuit.failures;
    (failures >= FAILURES_MAX).then(|| Bad::new(AlertKind::Unreachable, peer, failures, FAILURES_MAX))
}
