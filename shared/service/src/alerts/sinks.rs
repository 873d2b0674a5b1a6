//! Whom alerts are told: a web address, a command.

use std::io::Write as _;
use std::os::unix::process::CommandExt as _;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process_group};
use serde_json::Value;
use syncdata_formats::error::{Context as _, Error, Kind, Result};
use tokio::sync::oneshot;

use crate::config::Config;
use crate::webhook::Webhook;

/// A command has as long as a web address, and a little.
const PATIENCE: Duration = Duration::from_secs(30);
const PAUSE: Duration = Duration::from_millis(50);

#[derive(Clone, Debug)]
pub enum Sink {
    Webhook(Webhook),
    Command(String),
}

impl Sink {
    pub const NAMES: [&str; 2] = ["webhook", "command"];

    /// The webhook and the command of the settings, where they are set.
    pub fn all(config: &Config) -> Vec<Sink> {
        let secret = || config.alert_webhook_secret_file.clone();
        let webhook =
            config.alert_webhook.clone().map(|webhook| Sink::Webhook(webhook.signed_with(secret())));
        webhook.into_iter().chain(config.alert_command.clone().map(Sink::Command)).collect()
    }

    pub fn name(&self) -> &'static str {
        match self {
            Sink::Webhook(_) => "webhook",
            Sink::Command(_) => "command",
        }
    }

    /// `Err`: nobody knows whether it was heard; it is said again.
    pub async fn tell(&self, message: Value) -> Result<()> {
        match self {
            Sink::Webhook(webhook) => webhook.post(&message).await,
            Sink::Command(command) => {
                let (command, (to, ran)) = (command.clone(), oneshot::channel());
                // A thread of its own: one of the runtime's would have to end before the daemon can.
                std::thread::spawn(move || to.send(run(&command, &message)));
                ran.await
                    .unwrap_or_else(|_| Err(Error::new(Kind::Io, "the thread of alert_command ended early")))
            }
        }
    }
}

/// The message is on its stdin; of our environment, which may hold passwords, it has the PATH alone.
fn run(command: &str, message: &Value) -> Result<()> {
    let doing = || "running alert_command".to_owned();
    let mut child = Command::new("/bin/sh")
        .args(["-c", command])
        .env_clear()
        .env("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin")
        .current_dir("/")
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .process_group(0)
        .spawn()
        .context(doing)?;
    if let Some(mut stdin) = child.stdin.take() {
        // One that does not read it has its reasons; a pipe takes the few bytes of a message at once.
        let _ = writeln!(stdin, "{message}");
    }
    let ended = wait(&mut child).context(doing)?;
    match ended {
        Some(status) if status.success() => Ok(()),
        Some(status) => Err(Error::new(Kind::Refused, format!("alert_command ended with {status}"))),
        None => Err(Error::new(Kind::Unreachable, format!("alert_command did not end within {PATIENCE:?}"))),
    }
}

/// `None`: it took too long, and is killed with all that it has started.
fn wait(child: &mut Child) -> std::io::Result<Option<std::process::ExitStatus>> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        match child.try_wait()? {
            Some(status) => return Ok(Some(status)),
            None if Instant::now() > deadline => {
                let group = i32::try_from(child.id()).ok().and_then(Pid::from_raw);
                group.map(|group| kill_process_group(group, Signal::KILL)).transpose()?;
                child.wait()?;
                return Ok(None);
            }
            None => std::thread::sleep(PAUSE),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_reads_the_message_and_nothing_of_our_environment() {
        let folder = tempfile::tempdir().expect("a folder");
        let file = folder.path().join("said");
        let command = format!("cat > {0}; env >> {0}", file.display());
        run(&command, &serde_json::json!({"id": 7})).expect("it succeeds");
        let said = std::fs::read_to_string(&file).expect("it wrote");
        assert!(said.starts_with("{\"id\":7}\n"), "{said}");
        assert!(!said.contains("CARGO") && !said.contains("HOME="), "{said}");
        assert!(run("exit 3", &Value::Null).is_err_and(|error| error.to_string().contains("exit status: 3")));
    }
}
