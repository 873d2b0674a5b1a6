//! Runs of the real programs, as an operator or systemd would start them: a settings file, a clean
//! environment, output in files.

use std::collections::BTreeSet;
use std::ffi::{OsStr, OsString};
use std::fs::{self, File};
use std::os::unix::process::ExitStatusExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use memchr::memmem;
use rustix::process::Signal;

use crate::process::{Account, Process};
use crate::scratch;

/// A pass of the tests takes seconds. A machine under load gets this long before the run counts as hung.
const PATIENCE: Duration = Duration::from_secs(120);
/// The promise of both daemons.
const STOP_PATIENCE: Duration = Duration::from_secs(10);

/// One run that is being put together: arguments, environment, faults.
#[derive(Debug)]
#[must_use]
pub struct Program {
    name: &'static str,
    arguments: Vec<OsString>,
    environment: Vec<(OsString, OsString)>,
    /// Where its output goes.
    logs: PathBuf,
    patience: Duration,
    open_files_max: Option<u32>,
    account: Account,
}

impl Program {
    /// `name` is that of a program of this workspace.
    pub fn new<A: AsRef<OsStr>>(
        name: &'static str,
        arguments: impl IntoIterator<Item = A>,
        logs: &Path,
    ) -> Program {
        let arguments = arguments.into_iter().map(|argument| argument.as_ref().to_owned()).collect();
        Program {
            name,
            arguments,
            environment: Vec::new(),
            logs: logs.into(),
            patience: PATIENCE,
            open_files_max: None,
            account: Account::own(),
        }
    }

    pub fn env(mut self, name: impl AsRef<OsStr>, value: impl AsRef<OsStr>) -> Program {
        self.environment.push((name.as_ref().into(), value.as_ref().into()));
        self
    }

    /// A plan of fault points: `spool.before_rename=kill@3`.
    pub fn fault(self, plan: &str) -> Program {
        self.env("SYNCDATA_FAULTS", plan)
    }

    /// Appends the name of every fault point visited to `file`.
    pub fn trace(self, file: &Path) -> Program {
        self.env("SYNCDATA_FAULT_TRACE", file)
    }

    /// It sees another time than its host: `+1h`.
    pub fn clock(self, offset: &str) -> Program {
        let folders = fs::read_dir("/usr/lib").expect("a folder").flatten();
        let mut libraries = folders.map(|folder| folder.path().join("faketime/libfaketimeMT.so.1"));
        let library =
            libraries.find(|path| path.exists()).expect("faketime is installed (scripts/install-deps)");
        self.env("LD_PRELOAD", library).env("FAKETIME", offset).env("DONT_FAKE_MONOTONIC", "1")
    }

    pub fn patience(mut self, patience: Duration) -> Program {
        self.patience = patience;
        self
    }

    /// It may have so many files open, its connections among them.
    pub fn open_files_max(mut self, number: u32) -> Program {
        self.open_files_max = Some(number);
        self
    }

    /// Somebody else runs it.
    pub fn account(mut self, account: Account) -> Program {
        self.account = account;
        self
    }

    /// The variables that it runs with: those of a shell on the same host.
    pub fn environment(&self) -> &[(OsString, OsString)] {
        &self.environment
    }

    /// The same run as a line for a shell.
    pub fn shell_line(&self) -> String {
        let set = |(name, value): &(OsString, OsString)| {
            format!("{}={}", name.to_string_lossy(), value.to_string_lossy())
        };
        let mut words: Vec<String> = self.environment.iter().map(set).collect();
        words.push(program(self.name).display().to_string());
        words.extend(self.arguments.iter().map(|argument| argument.to_string_lossy().into_owned()));
        words.join(" ")
    }

    /// Runs it to its end. A run whose future is dropped is stopped.
    pub async fn run(self) -> Finished {
        let patience = self.patience;
        let mut daemon = self.spawn();
        let status = daemon.ended_within(patience).await;
        let finished = daemon.finish(status);
        assert!(status.is_some(), "{} did not end within {patience:?}\n{finished}", finished.command);
        finished
    }

    /// [`run`](Program::run), which must end with exit code 0 and without a line that asks for a person.
    pub async fn succeed(self) -> Finished {
        let finished = self.run().await.expect_code(0);
        assert!(!finished.stderr.lines().any(|line| line.contains(" ERROR ")), "{finished}");
        finished
    }

    /// Starts it and comes back at once.
    pub fn spawn(self) -> Daemon {
        static RUNS: AtomicU32 = AtomicU32::new(1);
        let words: Vec<_> = self.arguments.iter().map(|argument| argument.to_string_lossy()).collect();
        let command_line = format!("{} {}", self.name, words.join(" "));
        let number = RUNS.fetch_add(1, Ordering::Relaxed);
        let file = |kind: &str| self.logs.join(format!("{number:04}-{}.{kind}", self.name));
        let (stdout, stderr) = (file("out"), file("err"));
        let mut command = match self.open_files_max {
            None => Command::new(program(self.name)),
            Some(number) => {
                let mut limited = Command::new("prlimit");
                limited.arg(format!("--nofile={number}:{number}")).arg(program(self.name));
                limited
            }
        };
        command.args(&self.arguments);
        for name in ["RUST_LOG", "RUST_BACKTRACE"] {
            if let Some(value) = std::env::var_os(name) {
                command.env(name, value);
            }
        }
        command.envs(self.environment);
        command.stdin(Stdio::null());
        let open = |path: &Path| File::create(path).expect("the world's folder is writable");
        let process = Process::spawn_into(&command, &self.account, "KILL", open(&stdout), open(&stderr));
        Daemon { process: Some(process), command: command_line, stdout, stderr }
    }
}

/// A program that runs. Dropped, it is asked to stop, and killed when it does not.
#[derive(Debug)]
pub struct Daemon {
    process: Option<Process>,
    command: String,
    stdout: PathBuf,
    stderr: PathBuf,
}

impl Daemon {
    pub fn id(&self) -> u32 {
        self.process.as_ref().expect("a daemon has a process until it is finished").id()
    }

    /// KiB of memory that it has had at most, so far; `None` once it has ended.
    pub fn peak_kib(&self) -> Option<u64> {
        let text = fs::read_to_string(format!("/proc/{}/status", self.id())).ok()?;
        let line = text.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
        line.trim().strip_suffix(" kB")?.parse().ok()
    }

    pub fn signal(&self, signal: Signal) {
        self.process.as_ref().expect("a daemon has a process until it is finished").signal(signal);
    }

    /// What it has written to stderr so far.
    pub fn stderr(&self) -> String {
        read(&self.stderr)
    }

    /// Waits until `what` stands in its log.
    pub async fn says(&mut self, what: &str) {
        let deadline = Instant::now() + PATIENCE;
        while !self.stderr().contains(what) {
            let ended = self.process.as_mut().and_then(Process::ended);
            let log = || self.stderr();
            assert!(ended.is_none(), "{} ended ({ended:?}) without saying {what:?}\n{}", self.command, log());
            assert!(Instant::now() < deadline, "{} does not say {what:?}\n{}", self.command, log());
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    /// SIGTERM, and what came of it within the ten seconds that are promised.
    pub async fn stop(mut self) -> Finished {
        self.signal(Signal::TERM);
        let status = self.ended_within(STOP_PATIENCE).await;
        let finished = self.finish(status);
        assert!(status.is_some(), "{} did not stop on SIGTERM\n{finished}", finished.command);
        finished
    }

    /// As `kill -9`.
    pub async fn kill(mut self) -> Finished {
        self.signal(Signal::KILL);
        let status = self.ended_within(STOP_PATIENCE).await;
        self.finish(status)
    }

    /// Waits for its own end.
    pub async fn ended(mut self) -> Finished {
        let status = self.ended_within(PATIENCE).await;
        let finished = self.finish(status);
        assert!(status.is_some(), "{} did not end within {PATIENCE:?}\n{finished}", finished.command);
        finished
    }

    /// Waits for its own end; with the most memory that it had, in KiB.
    pub async fn ended_with_peak(self) -> (Finished, u64) {
        let status = format!("/proc/{}/status", self.id());
        let mut peak = 0;
        // A process that has ended has no memory any more.
        while let Some(kib) = high_water_mark(&status) {
            peak = peak.max(kib);
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        assert!(peak > 0, "{} ended before its memory was seen", self.command);
        (self.ended().await, peak)
    }

    async fn ended_within(&mut self, patience: Duration) -> Option<ExitStatus> {
        let process = self.process.as_mut().expect("a daemon has a process until it is finished");
        let deadline = Instant::now() + patience;
        while Instant::now() < deadline {
            if let Some(status) = process.ended() {
                return Some(status);
            }
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
        None
    }

    fn finish(&mut self, status: Option<ExitStatus>) -> Finished {
        let mut process = self.process.take().expect("a daemon is finished once");
        let status = status.unwrap_or_else(|| process.wait(Duration::ZERO));
        let (stdout, stderr) = (read(&self.stdout), read(&self.stderr));
        Finished { command: self.command.clone(), status, stdout, stderr }
    }
}

/// KiB of resident memory at most, so far; `None` once it has ended.
fn high_water_mark(status: &str) -> Option<u64> {
    let text = fs::read_to_string(status).ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    line.trim().strip_suffix(" kB")?.parse().ok()
}

impl Drop for Daemon {
    fn drop(&mut self) {
        if let Some(mut process) = self.process.take() {
            process.signal(Signal::TERM);
            process.wait(STOP_PATIENCE);
        }
    }
}

/// What a run left behind.
#[derive(Clone, Debug)]
pub struct Finished {
    command: String,
    status: ExitStatus,
    pub stdout: String,
    pub stderr: String,
}

impl Finished {
    /// `None` when a signal ended it.
    pub fn code(&self) -> Option<i32> {
        self.status.code()
    }

    /// Whether it died as of `kill -9`: what a fault point with `kill` does.
    pub fn was_killed(&self) -> bool {
        self.status.signal() == Some(Signal::KILL.as_raw())
    }

    #[track_caller]
    pub fn expect_code(self, code: i32) -> Finished {
        assert_eq!(self.code(), Some(code), "{self}");
        self
    }

    /// The one JSON document on stdout.
    #[track_caller]
    pub fn json(&self) -> serde_json::Value {
        serde_json::from_str(&self.stdout).unwrap_or_else(|error| panic!("{error}\n{self}"))
    }
}

impl std::fmt::Display for Finished {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Finished { command, status, stdout, stderr } = self;
        write!(f, "{command}: {status}\n--- stdout\n{stdout}\n--- stderr\n{stderr}")
    }
}

fn read(path: &Path) -> String {
    String::from_utf8_lossy(&fs::read(path).unwrap_or_default()).into_owned()
}

/// The path of a program that was built from the sources as they are, with fault points.
///
/// # Panics
/// With the command that builds it.
pub fn program(name: &str) -> PathBuf {
    static SOUND: Mutex<BTreeSet<PathBuf>> = Mutex::new(BTreeSet::new());
    let path = scratch::profile().join(name);
    let mut sound = SOUND.lock().unwrap_or_else(PoisonError::into_inner);
    if !sound.contains(&path) {
        if let Err(reason) = inspect(&path) {
            panic!("{reason}; run `cargo build --workspace` first");
        }
        sound.insert(path.clone());
    }
    path
}

fn inspect(program: &Path) -> Result<(), String> {
    let unreadable = |path: &Path, error| format!("{}: {error}", path.display());
    let changed = |path: &Path| {
        let changed = fs::metadata(path).and_then(|metadata| metadata.modified());
        changed.map_err(|error| unreadable(path, error))
    };
    let built = changed(program)?;
    // Cargo's list of what the program was made from, in the way of make.
    let list = program.with_extension("d");
    let list = fs::read_to_string(&list).map_err(|error| unreadable(&list, error))?;
    for source in sources(&list) {
        if changed(&source)? > built {
            return Err(format!("{} is older than {}", program.display(), source.display()));
        }
    }
    let code = fs::read(program).map_err(|error| unreadable(program, error))?;
    // The variable's name is in the program only if the feature is.
    match memmem::find(&code, b"SYNCDATA_FAULT_TRACE") {
        Some(_) => Ok(()),
        None => Err(format!("{} was built without fault points", program.display())),
    }
}

/// `program: source source`, blanks in a path escaped.
fn sources(list: &str) -> Vec<PathBuf> {
    let list = list.split_once(": ").map_or("", |(_, sources)| sources).trim_end();
    let hidden = list.replace("\\ ", "\0");
    hidden.split(' ').filter(|path| !path.is_empty()).map(|path| path.replace('\0', " ").into()).collect()
}

#[cfg(test)]
mod tests {
    use std::time::SystemTime;

    use super::*;

    #[test]
    fn a_program_that_is_not_of_these_sources_is_refused() {
        let folder = tempfile::tempdir().expect("a folder");
        let (program, source) = (folder.path().join("program"), folder.path().join("a source.rs"));
        let list = format!("program: {}\n", source.display()).replace("a source", "a\\ source");
        fs::write(folder.path().join("program.d"), list).expect("a file");
        fs::write(&source, "fn main() {}").expect("a file");
        assert!(inspect(&program).is_err_and(|reason| reason.contains("No such file")));
        fs::write(&program, "no points").expect("a file");
        assert!(inspect(&program).is_err_and(|reason| reason.contains("without fault points")));
        fs::write(&program, "…SYNCDATA_FAULT_TRACE…").expect("a file");
        assert_eq!(inspect(&program), Ok(()));
        let later = SystemTime::now() + Duration::from_secs(60);
        File::options().append(true).open(&source).and_then(|file| file.set_modified(later)).expect("ours");
        assert!(inspect(&program).is_err_and(|reason| reason.contains("is older than")));
    }
}
