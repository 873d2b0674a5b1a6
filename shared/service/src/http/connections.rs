//! How many connections there are at once. Above the cap one has to go: the oldest of those that keep us waiting (their
//! request is not whole, or they do not read their answer), and only where there is none, the oldest at all. A thousand
//! that say nothing keep nobody out.

use std::collections::BTreeMap;
use std::future::Future;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::task::AbortHandle;

#[derive(Debug)]
pub(super) struct Connections {
    max: usize,
    open: Mutex<Open>,
}

#[derive(Debug, Default)]
struct Open {
    next: u64,
    by_age: BTreeMap<u64, Connection>,
}

#[derive(Debug)]
struct Connection {
    task: AbortHandle,
    /// It waits for us, not we for it.
    is_worked_on: bool,
}

/// Of one connection; it is over when this is dropped.
#[derive(Debug)]
pub(super) struct Ticket {
    connections: Arc<Connections>,
    number: u64,
}

impl Connections {
    pub(super) fn new(max: usize) -> Arc<Connections> {
        Arc::new(Connections { max, open: Mutex::default() })
    }

    fn open(&self) -> MutexGuard<'_, Open> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Serves one more.
    pub(super) fn admit<F>(self: &Arc<Self>, serve: impl FnOnce(Ticket) -> F)
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let mut open = self.open();
        while open.by_age.len() >= self.max {
            let idle = open.by_age.iter().find(|(_, connection)| !connection.is_worked_on);
            let Some(goes) = idle.or_else(|| open.by_age.iter().next()).map(|(number, _)| *number) else {
                break;
            };
            if let Some(connection) = open.by_age.remove(&goes) {
                connection.task.abort();
            }
        }
        let number = open.next;
        open.next += 1;
        let ticket = Ticket { connections: Arc::clone(self), number };
        // It cannot end before it is noted: what it does first is to wait for this lock.
        let served = serve(ticket);
        let task = tokio::spawn(served).abort_handle();
        open.by_age.insert(number, Connection { task, is_worked_on: false });
    }
}

impl Ticket {
    /// From now on it waits for us, or we for it.
    pub(super) fn is_worked_on(&self, is_worked_on: bool) {
        if let Some(connection) = self.connections.open().by_age.get_mut(&self.number) {
            connection.is_worked_on = is_worked_on;
        }
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        self.connections.open().by_age.remove(&self.number);
    }
}

#[cfg(test)]
mod tests {
    use tokio::sync::oneshot;

    use super::*;

    #[tokio::test]
    async fn the_oldest_that_keeps_us_waiting_goes_first() {
        let connections = Connections::new(2);
        let mut ends = Vec::new();
        let mut admit = |works: bool| {
            let (end, ended) = oneshot::channel::<()>();
            connections.admit(|ticket| async move {
                ticket.is_worked_on(works);
                let _end = end;
                std::future::pending::<()>().await;
            });
            ends.push(ended);
        };
        let settle = || async {
            for _ in 0..10 {
                tokio::task::yield_now().await;
            }
        };
        admit(true);
        admit(false);
        settle().await;
        admit(true);
        settle().await;
        admit(true);
        settle().await;
        let gone: Vec<bool> = ends
            .iter_mut()
            .map(|ended| matches!(ended.try_recv(), Err(oneshot::error::TryRecvError::Closed)))
            .collect();
        // First the one that was idle; then, where all are worked on, the oldest.
        assert_eq!(gone, [true, true, false, false]);
        assert_eq!(connections.open().by_age.len(), 2);
    }
}
