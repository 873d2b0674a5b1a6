//! Statements that were prepared in the server, which holds each until it is told to forget it.

use std::collections::HashMap;

use tokio_postgres::Statement;

/// Each costs the server some 50 KiB. Every set of columns that is sent has statements of its own, and there are as many
/// as a table has rows, at the worst.
const STATEMENTS_MAX: usize = 256;

/// Those used last. One that is dropped here, and is in nobody's hands, is closed in the server.
#[derive(Debug, Default)]
pub(super) struct Statements {
    known: HashMap<String, (Statement, u64)>,
    /// Counts the uses of all statements: the smallest number beside one is the longest unused.
    clock: u64,
}

impl Statements {
    pub(super) fn clear(&mut self) {
        self.known.clear();
    }

    pub(super) fn get(&mut self, sql: &str) -> Option<Statement> {
        self.clock += 1;
        let (statement, used) = self.known.get_mut(sql)?;
        *used = self.clock;
        Some(statement.clone())
    }

    pub(super) fn keep(&mut self, sql: &str, statement: &Statement) {
        if self.known.len() >= STATEMENTS_MAX {
            self.forget_older_half();
        }
        self.known.insert(sql.to_owned(), (statement.clone(), self.clock));
    }

    /// Many at once: looking for the oldest one each time would cost more than preparing it.
    fn forget_older_half(&mut self) {
        let mut uses: Vec<u64> = self.known.values().map(|(_, used)| *used).collect();
        let (_, &mut middle, _) = uses.select_nth_unstable(STATEMENTS_MAX / 2);
        self.known.retain(|_, (_, used)| *used >= middle);
    }
}
