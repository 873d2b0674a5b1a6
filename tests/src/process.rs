//! Server processes that cannot outlive the test process, however it ends.
//!
//! The kernel sends a child its parent-death signal when the *thread* that made it ends, and every test has a
//! thread of its own. So one thread, which lives as long as the process, makes all of them.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::Write as _;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{LazyLock, Mutex, mpsc};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, getuid, kill_process};

/// A running child. Dropping it does nothing: its owner knows how it wants to be stopped.
#[derive(Debug)]
pub struct Process(Child);

impl Process {
    /// Starts `command`, with its output in `log`, as `account`; the kernel sends `death_signal` ("QUIT") to
    /// it when the test process dies.
    pub fn spawn(command: &Command, account: &Account, death_signal: &str, log: &Path) -> Process {
        let log = File::options().create(true).append(true).open(log).expect("the log can be opened");
        let stdout = log.try_clone().expect("a file handle can be doubled");
        Process::spawn_into(command, account, death_signal, stdout, log)
    }

    /// [`spawn`](Process::spawn) with stdout and stderr apart.
    pub fn spawn_into(
        command: &Command,
        account: &Account,
        death_signal: &str,
        stdout: File,
        stderr: File,
    ) -> Process {
        let mut command = account.wrap(command, &["--pdeathsig", death_signal]);
        command.stdin(Stdio::null()).stdout(stdout).stderr(stderr);
        Process(KEEPER.spawn(command))
    }

    pub fn id(&self) -> u32 {
        self.0.id()
    }

    pub fn signal(&self, signal: Signal) {
        let pid = i32::try_from(self.0.id()).ok().and_then(Pid::from_raw).expect("a pid is positive");
        // An error means that it is gone already, which is what every caller wants in the end.
        kill_process(pid, signal).ok();
    }

    /// The exit status, if it has ended.
    pub fn ended(&mut self) -> Option<ExitStatus> {
        self.0.try_wait().expect("a child can be waited for")
    }

    /// Waits for the end; kills it when `patience` is over.
    pub fn wait(&mut self, patience: Duration) -> ExitStatus {
        let deadline = Instant::now() + patience;
        loop {
            if let Some(status) = self.ended() {
                return status;
            }
            if Instant::now() > deadline {
                self.signal(Signal::KILL);
                return self.0.wait().expect("a child can be waited for");
            }
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

/// Who runs a server: PostgreSQL refuses to run as root, so root gives it to another account.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Account {
    switch: Option<(u32, u32)>,
}

impl Account {
    /// Whoever runs the tests.
    pub fn own() -> Account {
        Account { switch: None }
    }

    /// Whoever runs the tests, unless that is root: then `postgres`, or else `nobody`.
    pub fn unprivileged() -> Account {
        if !getuid().is_root() {
            return Account::own();
        }
        let passwd = std::fs::read_to_string("/etc/passwd").expect("/etc/passwd is readable");
        let ids = |name| find_account(&passwd, name);
        let switch = ids("postgres").or_else(|| ids("nobody"));
        Account { switch: Some(switch.expect("/etc/passwd knows postgres or nobody")) }
    }

    pub fn give(&self, path: &Path) {
        if let Some((user, group)) = self.switch {
            std::os::unix::fs::chown(path, Some(user), Some(group)).expect("root may give files away");
        }
    }

    /// Runs `command` to its end as this account.
    ///
    /// # Panics
    /// With the command's words, when it fails.
    pub fn run(&self, command: &Command) {
        let output = self.wrap(command, &["--pdeathsig", "KILL"]).output().expect("setpriv can be started");
        let words = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{command:?}: {}\n{words}", output.status);
    }

    /// The same, with these bytes to read.
    pub fn run_with_input(&self, command: &Command, input: &str) {
        let mut wrapped = self.wrap(command, &["--pdeathsig", "KILL"]);
        wrapped.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::piped());
        let mut child = wrapped.spawn().expect("setpriv can be started");
        let mut stdin = child.stdin.take().expect("a pipe was asked for");
        // A program that ends early says why itself.
        stdin.write_all(input.as_bytes()).ok();
        drop(stdin);
        let output = child.wait_with_output().expect("a child can be waited for");
        let words = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{command:?}: {}\n{words}", output.status);
    }

    fn wrap(&self, command: &Command, options: &[&str]) -> Command {
        let mut arguments: Vec<OsString> = options.iter().map(OsString::from).collect();
        if let Some((user, group)) = self.switch {
            arguments.push(format!("--reuid={user}").into());
            arguments.push(format!("--regid={group}").into());
            arguments.push("--clear-groups".into());
        }
        arguments.push("--".into());
        arguments.push(command.get_program().to_owned());
        arguments.extend(command.get_args().map(OsStr::to_owned));
        let mut wrapped = Command::new("setpriv");
        // Settings of the person at the keyboard (PGPORT, LC_ALL, …) must not decide how a test ends.
        wrapped.args(arguments).env_clear().env("PATH", std::env::var_os("PATH").unwrap_or_default());
        wrapped.envs(command.get_envs().filter_map(|(name, value)| Some((name, value?))));
        wrapped.current_dir(command.get_current_dir().unwrap_or(Path::new("/")));
        wrapped
    }
}

fn find_account(passwd: &str, name: &str) -> Option<(u32, u32)> {
    let fields = passwd.lines().map(|line| line.split(':').collect::<Vec<_>>());
    let fields = fields.into_iter().find(|fields| fields.first() == Some(&name))?;
    Some((fields.get(2)?.parse().ok()?, fields.get(3)?.parse().ok()?))
}

static KEEPER: LazyLock<Keeper> = LazyLock::new(Keeper::start);

struct Keeper(Mutex<mpsc::Sender<Request>>);

struct Request {
    command: Command,
    answer: mpsc::Sender<std::io::Result<Child>>,
}

impl Keeper {
    fn start() -> Keeper {
        let (sender, requests) = mpsc::channel::<Request>();
        std::thread::spawn(move || {
            for mut request in requests {
                request.answer.send(request.command.spawn()).ok();
            }
        });
        Keeper(Mutex::new(sender))
    }

    fn spawn(&self, command: Command) -> Child {
        let (answer, child) = mpsc::channel();
        let program = format!("{command:?}");
        let sender = self.0.lock().expect("no test panics while it asks for a process");
        sender.send(Request { command, answer }).expect("the keeper lives as long as the process");
        let child = child.recv().expect("the keeper answers every request");
        child.unwrap_or_else(|error| panic!("{program}: {error}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_ids_of_an_account() {
        let passwd = "root:x:0:0:root:/root:/bin/bash\npostgres:x:107:114::/var/lib:/bin/bash\n";
        assert_eq!(find_account(passwd, "postgres"), Some((107, 114)));
        assert_eq!(find_account(passwd, "post"), None);
    }

    #[test]
    fn a_process_outlives_the_thread_that_asked_for_it() {
        let folder = tempfile::tempdir().expect("a folder");
        let log = folder.path().join("log");
        let spawn = move || {
            let mut cat = Command::new("sleep");
            cat.arg("60");
            Process::spawn(&cat, &Account::own(), "KILL", &log)
        };
        let mut process = std::thread::spawn(spawn).join().expect("no panic");
        assert_eq!(process.ended(), None);
        process.signal(Signal::KILL);
        assert!(!process.wait(Duration::from_secs(5)).success());
    }
}
