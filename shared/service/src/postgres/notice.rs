//! What the server says beside its answers.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio_postgres::error::{DbError, SqlState};

/// A server that talks without end must not fill our memory. What it says again is counted: enough for several
/// warnings of every table.
const NOTICES_MAX: usize = 10_000;

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Notice {
    /// In English, whatever the server's language: `WARNING`, `NOTICE`, …
    pub severity: String,
    pub sqlstate: SqlState,
    pub message: String,
    /// How often it was said.
    pub times: u64,
}

impl Notice {
    pub(super) fn new(error: &DbError) -> Notice {
        let severity = match error.parsed_severity() {
            Some(severity) => severity.to_string(),
            None => error.severity().to_owned(),
        };
        Notice { severity, sqlstate: error.code().clone(), message: error.message().to_owned(), times: 1 }
    }
}

/// Notices since the last look.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Notices {
    pub notices: Vec<Notice>,
    /// How many more there were than are kept, all of them different. Above 0 nobody can say what was not said.
    pub dropped: u64,
}

/// Shared by the task that reads the connection and the session.
#[derive(Clone, Debug, Default)]
pub(super) struct NoticeQueue(Arc<Mutex<Queue>>);

#[derive(Debug, Default)]
struct Queue {
    /// In the order in which they were said first.
    notices: Vec<Notice>,
    places: HashMap<(String, String), usize>,
    dropped: u64,
}

impl NoticeQueue {
    pub(super) fn push(&self, notice: Notice) {
        let mut queue = self.lock();
        let key = (notice.sqlstate.code().to_owned(), notice.message.clone());
        let place = queue.places.get(&key).copied();
        if let Some(known) = place.and_then(|place| queue.notices.get_mut(place)) {
            known.times += notice.times;
        } else if queue.notices.len() < NOTICES_MAX {
            let place = queue.notices.len();
            queue.places.insert(key, place);
            queue.notices.push(notice);
        } else {
            queue.dropped += 1;
        }
    }

    pub(super) fn take(&self) -> Notices {
        let queue = std::mem::take(&mut *self.lock());
        Notices { notices: queue.notices, dropped: queue.dropped }
    }

    /// What was said since the last `take`, which stays.
    pub(super) fn look(&self) -> Vec<Notice> {
        self.lock().notices.clone()
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
        let say = |message: String| {
            queue.push(Notice { severity: "WARNING".into(), sqlstate: SqlState::WARNING, message, times: 1 });
        };
        for number in 0..NOTICES_MAX + 3 {
            say("again and again".into());
            say(format!("something else, {number}"));
        }
        assert_eq!(queue.look().len(), NOTICES_MAX);
        let taken = queue.take();
        assert_eq!((taken.notices.len(), taken.dropped), (NOTICES_MAX, 4));
        assert_eq!(taken.notices[0].times, NOTICES_MAX as u64 + 3, "said first, and counted");
        assert_eq!(taken.notices[2].message, "something else, 1");
        assert_eq!(queue.take(), Notices::default());
    }
}
