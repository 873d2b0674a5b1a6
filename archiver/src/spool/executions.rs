//! `executions.json`: what was done, when, by whose wish, and what it came to. A line is written before the work begins; of
//! who died in the middle it is said so. Several processes write it, each for a moment under a lock.

use std::future::Future;
use std::path::{Path, PathBuf};
use std::sync::LazyLock;
use std::time::Duration;

use rustix::process::{Pid, test_kill_process};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use syncdata_formats::time::Timestamp;
use syncdata_formats::{Error, Kind as ErrorKind, Result};
use syncdata_service::{faults, own_files, small_file};
use uuid::Uuid;

use super::{lock_file, make_folder};

/// The oldest leave.
const KEPT_MAX: usize = 200;

/// In a status.
const LISTED_MAX: usize = 50;

const BYTES_MAX: usize = 4 << 20;

/// Of an error, which may quote much.
const WORDS_MAX: usize = 1000;

const ATTEMPTS_MAX: u32 = 40;
const BETWEEN_ATTEMPTS: Duration = Duration::from_millis(25);

/// Tells this process from an earlier one with its number.
static PROCESS: LazyLock<Uuid> = LazyLock::new(Uuid::new_v4);

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Kind {
    Poll,
    Snapshot,
    Proof,
    Prune,
}

/// By whose wish something is done.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Trigger {
    /// Its time had come.
    Schedule,
    /// Somebody waits for it.
    Command,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum State {
    Running,
    Succeeded,
    Failed,
    /// Who did it is gone.
    Abandoned,
}

/// One execution, as status and API tell it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Execution {
    pub id: Uuid,
    pub kind: Kind,
    pub trigger: Trigger,
    pub started_at: Timestamp,
    pub ended_at: Option<Timestamp>,
    pub state: State,
    pub counts: Value,
    pub error: Option<String>,
    /// Of polls in a row that found nothing: how many there were.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub times: Option<u64>,
}

/// What it came to.
#[derive(Clone, Debug)]
pub(crate) struct Came {
    pub counts: Value,
    /// There was nothing to do.
    pub is_idle: bool,
    pub error: Option<String>,
}

impl Came {
    fn failed(error: &Error) -> Came {
        Came { counts: json!({}), is_idle: false, error: Some(error.one_line()) }
    }
}

#[derive(Debug, Default, Serialize, Deserialize)]
struct Kept {
    /// The oldest first.
    executions: Vec<Line>,
}

#[derive(Debug, Serialize, Deserialize)]
struct Line {
    #[serde(flatten)]
    execution: Execution,
    process: i32,
    /// Of the process; without it (an older file, or a system that does not say) the number alone counts.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    birth: Option<String>,
    incarnation: Uuid,
}

/// Numbers of processes come again: this tells one from a later one, also after this host was started anew. `None` where
/// the system does not say.
fn birth(process: i32) -> Option<String> {
    let boot = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").ok()?;
    let stat = std::fs::read_to_string(format!("/proc/{process}/stat")).ok()?;
    // The program's name stands in parentheses and may have some itself; the 22nd field is when the process began.
    let (_, fields) = stat.rsplit_once(')')?;
    Some(format!("{} {}", boot.trim(), fields.split_ascii_whitespace().nth(19)?))
}

impl Line {
    fn is_alive(&self) -> bool {
        let own = rustix::process::getpid().as_raw_nonzero().get();
        if self.process == own {
            return self.incarnation == *PROCESS;
        }
        // kill takes a number below 1 for a group of processes.
        let pid = Some(self.process).filter(|process| *process > 0).and_then(Pid::from_raw);
        pid.is_some_and(|pid| !matches!(test_kill_process(pid), Err(rustix::io::Errno::SRCH)))
    }

    /// Whether another process has its number by now.
    fn is_of_another(&self) -> bool {
        matches!((&self.birth, birth(self.process)), (Some(noted), Some(now)) if *noted != now)
    }

    fn sweep(&mut self, now: Timestamp) {
        if self.execution.state == State::Running && (!self.is_alive() || self.is_of_another()) {
            (self.execution.state, self.execution.ended_at) = (State::Abandoned, Some(now));
        }
    }
}

impl Kept {
    fn read(path: &Path) -> Kept {
        let read = small_file::read_own_if_there(path, BYTES_MAX);
        let kept =
            read.and_then(|bytes| bytes.map_or_else(|| Ok(Kept::default()), |bytes| Kept::parse(&bytes)));
        kept.unwrap_or_else(|error| {
            tracing::warn!(file = %path.display(), error = %error.one_line(), "what was done before cannot be read");
            Kept::default()
        })
    }

    fn parse(bytes: &[u8]) -> Result<Kept> {
        serde_json::from_slice(bytes)
            .map_err(|error| Error::new(ErrorKind::Corrupt, "these are no executions").caused_by(error))
    }

    fn begin(&mut self, kind: Kind, trigger: Trigger, now: Timestamp) -> Uuid {
        self.executions.iter_mut().for_each(|line| line.sweep(now));
        let id = Uuid::new_v4();
        let execution = Execution {
            id,
            kind,
            trigger,
            started_at: now,
            ended_at: None,
            state: State::Running,
            counts: json!({}),
            error: None,
            times: None,
        };
        let process = rustix::process::getpid().as_raw_nonzero().get();
        self.executions.push(Line { execution, process, birth: birth(process), incarnation: *PROCESS });
        let too_many = self.executions.len().saturating_sub(KEPT_MAX);
        self.executions.drain(..too_many);
        id
    }

    /// One of many that found nothing to do takes the line of the one before.
    fn end(&mut self, id: Uuid, came: Came, now: Timestamp) {
        let Some(place) = self.executions.iter().position(|line| line.execution.id == id) else { return };
        let is_idle = came.is_idle && came.error.is_none();
        if is_idle
            && let Some(earlier) = place.checked_sub(1).map(|earlier| &mut self.executions[earlier].execution)
            && let Some(times) = earlier.times
        {
            (earlier.times, earlier.ended_at) = (Some(times.saturating_add(1)), Some(now));
            self.executions.remove(place);
            return;
        }
        let execution = &mut self.executions[place].execution;
        execution.state = if came.error.is_some() { State::Failed } else { State::Succeeded };
        execution.ended_at = Some(now);
        execution.counts = came.counts;
        execution.error = came.error.map(|words| words.chars().take(WORDS_MAX).collect());
        execution.times = is_idle.then_some(1);
    }
}

fn path(spool_dir: &Path) -> PathBuf {
    spool_dir.join("executions.json")
}

/// The newest, of which the last comes first.
pub(crate) fn list(spool_dir: &Path) -> Vec<Execution> {
    let now = Timestamp::now();
    let mut lines = Kept::read(&path(spool_dir)).executions;
    lines.iter_mut().for_each(|line| line.sweep(now));
    lines.into_iter().rev().take(LISTED_MAX).map(|line| line.execution).collect()
}

/// Does it, and notes it. That it cannot be noted is no reason not to do it.
pub(crate) async fn noted<T>(
    spool_dir: &Path,
    kind: Kind,
    trigger: Trigger,
    work: impl Future<Output = Result<T>>,
    came: impl FnOnce(&T) -> Came,
) -> Result<T> {
    let begun = change(spool_dir, |kept| kept.begin(kind, trigger, Timestamp::now())).await;
    let begun = begun.and_then(|id| faults::hit("execution.begun").map(|()| id)).inspect_err(warn).ok();
    let done = work.await;
    if let Some(id) = begun {
        let came = done.as_ref().map_or_else(Came::failed, came);
        let ended = change(spool_dir, |kept| kept.end(id, came, Timestamp::now())).await;
        ended.unwrap_or_else(|error| warn(&error));
    }
    done
}

fn warn(error: &Error) {
    tracing::warn!(error = %error.one_line(), "executions.json lacks a line");
}

async fn change<T>(spool_dir: &Path, change: impl FnOnce(&mut Kept) -> T) -> Result<T> {
    make_folder(spool_dir)?;
    let _lock = lock(spool_dir).await?;
    let path = path(spool_dir);
    let mut kept = Kept::read(&path);
    let changed = change(&mut kept);
    let bytes = serde_json::to_vec(&kept).expect("executions are JSON");
    own_files::replace(&path, &bytes, "execution.before_rename")?;
    Ok(changed)
}

async fn lock(spool_dir: &Path) -> Result<std::fs::File> {
    let path = spool_dir.join("executions.lock");
    let take = || {
        lock_file(&path, |holder| {
            Error::new(ErrorKind::Locked, format!("process {holder} holds {}", path.display()))
        })
    };
    for _ in 1..ATTEMPTS_MAX {
        match take() {
            Err(error) if error.kind() == ErrorKind::Locked => tokio::time::sleep(BETWEEN_ATTEMPTS).await,
            taken => return taken,
        }
    }
    take()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Whatever the file says, it can be gone on with.
    #[test]
    fn fuzz_executions() {
        let now = Timestamp::now();
        syncdata_fuzz::replay("executions", |bytes| {
            let Ok(mut kept) = Kept::parse(bytes) else { return false };
            let id = kept.begin(Kind::Poll, Trigger::Schedule, now);
            kept.end(id, Came { counts: json!({}), is_idle: true, error: None }, now);
            let written = serde_json::to_vec(&kept).expect("names are its keys");
            assert!(Kept::parse(&written).is_ok());
            true
        });
    }

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_micros(seconds * 1_000_000).expect("a time")
    }

    fn idle() -> Came {
        Came { counts: json!({"records": 0}), is_idle: true, error: None }
    }

    #[test]
    fn polls_that_found_nothing_share_a_line_and_the_oldest_leave() {
        let mut kept = Kept::default();
        for second in [1, 3, 5] {
            let id = kept.begin(Kind::Poll, Trigger::Schedule, at(second));
            kept.end(id, idle(), at(second + 1));
        }
        let line = &kept.executions[0].execution;
        assert_eq!((kept.executions.len(), line.times, line.ended_at), (1, Some(3), Some(at(6))));
        let id = kept.begin(Kind::Prune, Trigger::Command, at(7));
        kept.end(id, Came::failed(&Error::new(ErrorKind::Io, "no")), at(8));
        let id = kept.begin(Kind::Poll, Trigger::Schedule, at(9));
        kept.end(id, idle(), at(10));
        assert_eq!((kept.executions.len(), kept.executions[1].execution.state), (3, State::Failed));
        for second in 0..300 {
            kept.begin(Kind::Poll, Trigger::Schedule, at(100 + second));
        }
        assert_eq!(kept.executions.len(), KEPT_MAX);
    }

    #[test]
    fn what_another_process_did_not_end_is_abandoned() {
        let mut kept = Kept::default();
        kept.begin(Kind::Snapshot, Trigger::Command, at(1));
        kept.executions[0].sweep(at(2));
        assert_eq!(kept.executions[0].execution.state, State::Running);
        // The number of this process, in an earlier life.
        kept.executions[0].incarnation = Uuid::new_v4();
        kept.executions[0].sweep(at(3));
        let line = &kept.executions[0].execution;
        assert_eq!((line.state, line.ended_at), (State::Abandoned, Some(at(3))));
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn a_process_with_the_number_of_one_that_is_gone_is_another_one() {
        let first = 1;
        let own = birth(first).expect("the first process is always there");
        let (boot, began) = own.split_once(' ').expect("two parts");
        assert_eq!((boot.len(), began.parse::<u64>().is_ok()), (36, true), "{own}");
        let mut kept = Kept::default();
        kept.begin(Kind::Poll, Trigger::Schedule, at(1));
        let state_of = |birth: Option<String>| {
            let mut kept: Kept = serde_json::from_value(json!(kept)).expect("as it is kept");
            let line = &mut kept.executions[0];
            (line.process, line.birth) = (first, birth);
            line.sweep(at(2));
            line.execution.state
        };
        assert_eq!(state_of(Some(own.clone())), State::Running);
        assert_eq!(state_of(None), State::Running, "of an earlier version");
        assert_eq!(state_of(Some(format!("{boot} 7{began}"))), State::Abandoned);
        assert_eq!(
            state_of(Some(format!("{} {began}", Uuid::new_v4()))),
            State::Abandoned,
            "this host was started anew"
        );
    }
}
