//! The slot as a stream: what commits is here before anybody asks.
//!
//! ```text
//! server ─▶ reader ─▶ queue (bounded) ─▶ `read`, by a poll
//! server ◀─ teller ◀─ what is durable, every second; asked for signs of life
//! ```
//! It is another way to have a poll's answer, and nothing else: what is read here is what a peek would say. So whatever
//! is odd ends it, and the slot, which moves with what is durable only, is peeked at.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use syncdata_formats::lsn::Lsn;
use syncdata_formats::{Error, Kind, Result};
use syncdata_service::faults;
use syncdata_service::postgres::PostgresSettings;
use syncdata_service::postgres::replication::{Incoming, Outgoing, Replication, Told};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep, timeout};
use tracing::debug;

use super::pinned::pinned;

/// What administrators see in `pg_stat_activity` and `pg_stat_replication`.
pub(crate) const APPLICATION_NAME: &str = "syncdata-archiver follow";

/// Of what waits to be read; beyond it the server waits. (One value may be larger.)
const QUEUE_BYTES_MAX: usize = 16 << 20;
/// How often the server hears of us, whatever we do: far below the least useful wal_sender_timeout.
const BETWEEN_WORDS: Duration = Duration::from_millis(500);
/// How often it is asked whether there is more.
const BETWEEN_QUESTIONS: Duration = Duration::from_millis(50);
/// So much is taken without a look at anything else.
const YIELD_LINES: u64 = 64;
/// So long nothing may come of asking. What is written in part only is flushed by the server within 15 s.
const PATIENCE: Duration = Duration::from_secs(20);

/// What a message of the plugin is, as far as transactions go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Mark {
    /// With the place where the commit record begins.
    Begin(Lsn),
    /// With the place where it ends.
    Commit(Lsn),
    Inside,
}

/// How the plugin's messages are told apart.
pub(super) type Marks = fn(&[u8]) -> Result<Mark>;

/// See the module. Dropping it ends the connection.
#[derive(Debug)]
pub(crate) struct Stream {
    shared: Arc<Shared>,
    tell: watch::Sender<Words>,
    tasks: [JoinHandle<()>; 2],
    /// What the plugin was asked for.
    asked: String,
    /// The server's.
    pid: i32,
}

#[derive(Debug)]
struct Shared {
    queue: Mutex<Queue>,
    changed: watch::Sender<()>,
}

#[derive(Debug, Default)]
struct Queue {
    items: VecDeque<Item>,
    bytes: usize,
    /// Of transactions that changed something.
    commits: usize,
    /// All that committed before was in the queue.
    sent: Lsn,
    notice: Option<String>,
    ended: Option<String>,
}

#[derive(Debug)]
struct Item {
    lsn: Lsn,
    mark: Mark,
    bytes: Bytes,
    /// It ends a transaction that changed rows of ours.
    is_news: bool,
}

/// What the server is to be told.
#[derive(Clone, Copy, Debug, Default)]
struct Words {
    durable: Lsn,
    questions: u64,
    is_end: bool,
}

enum Next {
    Item(Item),
    /// There is no more up to where it was asked for.
    End,
    /// With what was known then.
    Wait(Lsn),
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn end(&self, why: &Error) {
        self.lock().ended.get_or_insert_with(|| why.one_line());
        self.changed.send_replace(());
    }

    /// Waits while there is no room.
    async fn push(&self, mut item: Item) {
        let mut changed = self.changed.subscribe();
        while self.lock().bytes >= QUEUE_BYTES_MAX {
            changed.mark_unchanged();
            if self.lock().bytes >= QUEUE_BYTES_MAX && changed.changed().await.is_err() {
                return;
            }
        }
        let mut queue = self.lock();
        // One that changed no row of ours is no news. What it did to tables, a poll has to see all the same.
        let has_rows = queue.items.back().is_none_or(|item| matches!(item.mark, Mark::Inside));
        item.is_news = has_rows && matches!(item.mark, Mark::Commit(_));
        queue.commits += usize::from(item.is_news);
        queue.bytes += item.bytes.len();
        queue.items.push_back(item);
        drop(queue);
        self.changed.send_replace(());
    }

    fn next(&self, upto: Lsn, is_inside: bool) -> Result<Next> {
        let mut queue = self.lock();
        if let Some(said) = &queue.notice {
            return Err(Error::new(Kind::Conflict, format!("the source said in the stream: {said}")));
        }
        let begins_after = queue.items.front().is_some_and(|item| match item.mark {
            Mark::Begin(lsn) => lsn >= upto,
            Mark::Commit(_) | Mark::Inside => false,
        });
        if begins_after {
            return Ok(Next::End);
        }
        if let Some(item) = queue.items.pop_front() {
            queue.bytes -= item.bytes.len();
            queue.commits -= usize::from(item.is_news);
            drop(queue);
            self.changed.send_replace(());
            return Ok(Next::Item(item));
        }
        if let Some(why) = &queue.ended {
            return Err(Error::new(Kind::Unreachable, format!("the stream has ended: {why}")));
        }
        Ok(if !is_inside && queue.sent >= upto { Next::End } else { Next::Wait(queue.sent) })
    }
}

impl Stream {
    /// Begins where the slot stands. `options` are the plugin's.
    pub(super) async fn start(
        settings: &PostgresSettings,
        slot: &str,
        options: &[(&str, &str)],
        marks: Marks,
    ) -> Result<Stream> {
        let mut replication = Replication::open(settings, APPLICATION_NAME, &pinned()).await?;
        let pid = replication.query("SELECT pg_catalog.pg_backend_pid()").await?;
        let pid = pid.first().and_then(|row| row.first()?.as_deref()?.parse().ok());
        let pid = pid.ok_or_else(|| Error::new(Kind::Corrupt, "the server does not say its process"))?;
        let asked = self::options(options);
        let command = format!("START_REPLICATION SLOT \"{slot}\" LOGICAL 0/0 ({asked})");
        let (incoming, outgoing) = replication.start(&command).await?;
        faults::hit("follow.started")?;
        let shared = Arc::new(Shared { queue: Mutex::default(), changed: watch::Sender::new(()) });
        let (tell, told) = watch::channel(Words::default());
        let reader = tokio::spawn({
            let (shared, tell) = (Arc::clone(&shared), tell.clone());
            async move {
                let Err(error) = read_all(incoming, &shared, &tell, marks).await;
                debug!(error = %error.one_line(), "the stream has ended");
                shared.end(&error);
            }
        });
        let teller = tokio::spawn({
            let shared = Arc::clone(&shared);
            async move {
                if let Err(error) = tell_all(outgoing, told).await {
                    shared.end(&error);
                }
            }
        });
        Ok(Stream { shared, tell, tasks: [reader, teller], asked, pid })
    }

    /// The server's process that sends it.
    pub(super) fn process(&self) -> i32 {
        self.pid
    }

    /// Why nothing more comes of it.
    pub(crate) fn ended(&self) -> Option<String> {
        let queue = self.shared.lock();
        queue.ended.clone().or_else(|| queue.notice.clone())
    }

    /// A poll that would ask for something else cannot take its answer from here.
    pub(super) fn is_asked_for(&self, options: &[(&str, &str)]) -> Result<()> {
        if self.asked == self::options(options) {
            return Ok(());
        }
        Err(Error::new(Kind::Conflict, "the tables are others than those that the stream was begun with"))
    }

    /// Waits until there is something to read, or nothing more to wait for.
    pub(crate) async fn news(&self) {
        let mut changed = self.shared.changed.subscribe();
        loop {
            {
                let queue = self.shared.lock();
                let is_full = queue.bytes >= QUEUE_BYTES_MAX;
                if queue.commits > 0 || is_full || queue.ended.is_some() || queue.notice.is_some() {
                    return;
                }
            }
            if changed.changed().await.is_err() {
                return;
            }
        }
    }

    /// Hands over the messages of all transactions that have committed before `upto`; `true`: `lines_max` ended it.
    /// After an error the stream is of no use.
    pub(super) async fn read(
        &self,
        upto: Lsn,
        lines_max: Option<u32>,
        mut take: impl FnMut(Lsn, &[u8]) -> Result<()>,
    ) -> Result<bool> {
        let (mut lines, mut is_inside) = (0_u64, false);
        let mut changed = self.shared.changed.subscribe();
        let (mut progress, mut known) = (Instant::now(), Lsn::ZERO);
        let mut asked: Option<Instant> = None;
        loop {
            changed.mark_unchanged();
            match self.shared.next(upto, is_inside)? {
                Next::End => return Ok(false),
                Next::Item(item) => {
                    take(item.lsn, &item.bytes)?;
                    lines += 1;
                    progress = Instant::now();
                    is_inside = true;
                    // The server has to hear of us meanwhile.
                    if lines.is_multiple_of(YIELD_LINES) {
                        tokio::task::yield_now().await;
                    }
                    if let Mark::Commit(end) = item.mark {
                        is_inside = false;
                        if end >= upto {
                            return Ok(false);
                        }
                        if lines_max.is_some_and(|max| lines >= u64::from(max)) {
                            return Ok(true);
                        }
                    }
                }
                Next::Wait(sent) => {
                    if sent > known {
                        (progress, known) = (Instant::now(), sent);
                    }
                    if progress.elapsed() >= PATIENCE {
                        let message = format!("the stream stands at {sent} and does not get to {upto}");
                        return Err(Error::new(Kind::Unreachable, message));
                    }
                    if asked.is_none_or(|asked| asked.elapsed() >= BETWEEN_QUESTIONS) {
                        asked = Some(Instant::now());
                        self.tell.send_modify(|words| words.questions += 1);
                    }
                    let _ = timeout(BETWEEN_QUESTIONS, changed.changed()).await;
                }
            }
        }
    }

    /// All before is durable: the server may forget it.
    pub(super) fn confirm(&self, upto: Lsn) {
        self.tell.send_modify(|words| {
            words.durable = words.durable.max(upto);
            words.questions += 1;
        });
    }

    /// Lets the server know that nobody reads any more.
    pub(super) async fn end(mut self) {
        const GRACE: Duration = Duration::from_secs(1);
        self.tell.send_modify(|words| words.is_end = true);
        let _ = timeout(GRACE, &mut self.tasks[1]).await;
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        for task in &self.tasks {
            task.abort();
        }
    }
}

async fn read_all(
    mut incoming: Incoming,
    shared: &Shared,
    tell: &watch::Sender<Words>,
    marks: Marks,
) -> Result<std::convert::Infallible> {
    loop {
        match incoming.next().await? {
            Told::Data { lsn, bytes } => {
                shared.push(Item { lsn, mark: marks(&bytes)?, bytes, is_news: false }).await;
            }
            Told::Alive { sent, wants_answer } => {
                let mut queue = shared.lock();
                queue.sent = queue.sent.max(sent);
                drop(queue);
                shared.changed.send_replace(());
                if wants_answer {
                    // Without a question of our own: the server would answer that with another one.
                    tell.send_modify(|_| ());
                }
            }
            Told::Notice { severity, message } => {
                shared.lock().notice.get_or_insert(format!("{severity}: {message}"));
                shared.changed.send_replace(());
            }
        }
    }
}

async fn tell_all(mut outgoing: Outgoing, mut words: watch::Receiver<Words>) -> Result<()> {
    let mut answered = 0;
    loop {
        let now = *words.borrow_and_update();
        if now.is_end {
            return outgoing.end().await;
        }
        outgoing.tell(now.durable, now.questions > answered).await?;
        answered = now.questions;
        tokio::select! {
            changed = words.changed() => if changed.is_err() { return Ok(()) },
            () = sleep(BETWEEN_WORDS) => {}
        }
    }
}

/// In this grammar a backslash is itself.
fn options(options: &[(&str, &str)]) -> String {
    let quoted = |(name, value): &(&str, &str)| format!("\"{name}\" '{}'", value.replace('\'', "''"));
    options.iter().map(quoted).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn everything_in_the_command_is_a_literal() {
        let text = options(&[("add-tables", r"public.it\'s"), ("format-version", "2")]);
        assert_eq!(text, r#""add-tables" 'public.it\''s', "format-version" '2'"#);
    }

    fn item(lsn: u64, mark: Mark) -> Item {
        Item { lsn: Lsn::from_u64(lsn), mark, bytes: Bytes::from_static(b"x"), is_news: false }
    }

    #[tokio::test]
    async fn what_changed_nothing_is_no_news_and_what_comes_later_stays() {
        let shared = Shared { queue: Mutex::default(), changed: watch::Sender::new(()) };
        let lsn = Lsn::from_u64;
        for (at, has_row) in [(10, false), (20, true), (30, true)] {
            shared.push(item(at, Mark::Begin(lsn(at)))).await;
            if has_row {
                shared.push(item(at, Mark::Inside)).await;
            }
            shared.push(item(at, Mark::Commit(lsn(at + 5)))).await;
        }
        let known = |queue: &Queue| (queue.commits, queue.items.len(), queue.bytes);
        assert_eq!(known(&shared.lock()), (2, 8, 8));
        let mut read = 0;
        while let Next::Item(_) = shared.next(lsn(30), false).expect("no error") {
            read += 1;
        }
        assert_eq!(read, 5, "the one that begins to commit at 30 is not before it");
        assert!(matches!(shared.next(lsn(30), false), Ok(Next::End)));
        assert_eq!(known(&shared.lock()), (1, 3, 3));
    }
}
