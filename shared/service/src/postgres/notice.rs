//! What the server says beside its answers.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio_postgres::error::{DbError, SqlState};

/// A server that talks without end must not fill our memory. Enough for one warning of every table.
const NOTICES_MAX: usize = 10_000;

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Notice {
    /// In English, whatever the server's language: `WARNING`, `NOTICE`, …
    pub severity: String,
    pub sqlstate: SqlState,
    pub message: String,
}

impl Notice {
    pub(super) fn new(error: &DbError) -> Notice {
        let severity = match error.parsed_severity() {
            Some(severity) => severity.to_string(),
            None => error.severity().to_owned(),
        };
        Notice { severity, sqlstate: error.code().clone(), message: error.message().to_owned() }
    }
}

/// Notices since the last look.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Notices {
    pub notices: Vec<Notice>,
    /// How many more there were than are kept. Above 0 nobody can say what was not said.
    pub dropped: u64,
}

/// Shared by the task that reads the connection and the session.
#[derive(Clone, Debug, Default)]
pub(super) struct NoticeQueue(Arc<Mutex<Queue>>);

#[derive(Debug, Default)]
struct Queue {
    notices: VecDeque<Notice>,
    dropped: u64,
}

impl NoticeQueue {
    pub(super) fn push(&self, notice: Notice) {
        let mut queue = self.lock();
        if queue.notices.len() < NOTICES_MAX {
            queue.notices.push_back(notice);
        } else {
            queue.dropped += 1;
        }
    }

    pub(super) fn take(&self) -> Notices {
        let queue = std::mem::take(&mut *self.lock());
        Notices { notices: queue.notices.into(), dropped: queue.dropped }
    }

    /// A panic elsewhere leaves the queue whole: every change to it is one step.
    fn lock(&self) -> MutexGuard<'_, Queue> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keeps_a_bounded_number_and_counts_the_rest() {
        let queue = NoticeQueue::default();
        for _ in 0..NOTICES_MAX + 3 {
            queue.push(Notice {
                severity: "WARNING".into(),
                sqlstate: SqlState::WARNING,
                message: String::new(),
            });
        }
        let taken = queue.take();
        assert_eq!((taken.notices.len(), taken.dropped), (NOTICES_MAX, 3));
        assert_eq!(queue.take(), Notices::default());
    }
}
