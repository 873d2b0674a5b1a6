//! The program where the copy is a DuckDB file. One process owns it, be it the daemon or a command, and serves the socket
//! meanwhile: others ask it.

mod serving;

use std::time::{Duration, Instant};

use serde_json::json;
use syncdata_formats::error::{Error, Kind, Result};
use syncdata_service::backoff::{Backoff, Dice};
use syncdata_service::checks;
use syncdata_service::config::{Config, LocalWrites, Program};
use syncdata_service::control::{self, Method};
use syncdata_service::daemon::{Heartbeat, Phase, Reloads, Stop, notify};
use syncdata_service::finding::Finding;
use tracing::{error, info};

use self::serving::Serving;
use super::{check, client, status as view};
use crate::operations::Answer;
use crate::operations::duckdb::{self, Asked, Owner};
use crate::operations::list_tables::Names;
use crate::operations::status::Status;
use crate::plan::state::Want;

/// So long a process waits for another one to let the file go, or to serve its socket.
const PATIENCE: Duration = Duration::from_secs(10);
const PAUSE: Duration = Duration::from_millis(50);

/// Without any sign of life for so long, the watchdog may strike.
const WATCHDOG_PATIENCE: Duration = Duration::from_secs(300);

const FIRST_RETRY: Duration = Duration::from_secs(1);

/// What somebody asked for is done by whoever owns the file, or by this process.
pub(super) async fn ask(config: Config, asked: Asked) -> Result<Answer> {
    refuse_block(&config)?;
    let stop = Stop::new();
    stop.on_signals()?;
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(answer) = ask_owner(&config, "/file", Some(&json!(asked))).await? {
            return Ok(answer);
        }
        match own(&config, asked.clone(), &stop).await {
            Err(error) if error.kind() == Kind::Locked && Instant::now() < deadline => {
                tokio::time::sleep(PAUSE).await;
            }
            answer => return answer,
        }
    }
}

/// `None`: no process of ours owns the file.
async fn ask_owner(config: &Config, path: &str, body: Option<&serde_json::Value>) -> Result<Option<Answer>> {
    let sockets = config.sockets(Program::Applier);
    match control::call_first(&sockets, Method::Post, path, body).await? {
        None => Ok(None),
        Some(response) if response.is_success() => Ok(Some(response.read_json()?)),
        Some(response) => {
            let words = String::from_utf8_lossy(&response.body).trim().to_owned();
            Err(Error::new(Kind::Locked, format!("the process that owns the file answered: {words}")))
        }
    }
}

async fn own(config: &Config, asked: Asked, stop: &Stop) -> Result<Answer> {
    let mut owner = Owner::open(config.clone(), stop.clone()).await?;
    let mut serving = Serving::start(config, owner.watch(false), stop)?;
    let answer = owner.carry_out(asked).await;
    serving.end(&mut owner).await;
    Ok(answer)
}

pub(super) async fn add_tables(
    config: Config,
    tables: Vec<String>,
    want: Option<Want>,
    wait: Option<Option<Duration>>,
) -> Result<Answer> {
    let Some(want) = want else {
        return Err(Error::new(Kind::BadInput, "--from now: not with target = \"duckdb\"").hint(
            "its tables are made of what the archive has: a snapshot, or all changes since the beginning",
        ));
    };
    let asked = Asked::AddTables { tables, from: want.as_str().to_owned(), waits: wait.is_some() };
    let asking = ask(config, asked);
    match wait.flatten() {
        None => asking.await,
        Some(within) => tokio::time::timeout(within, asking).await.unwrap_or_else(|_| {
            let words = "the time is over; what was asked for is noted, and the next sync goes on with it";
            Ok(Answer { exit_code: 1, ..Answer::done(String::new(), json!({})) }.with_words(words))
        }),
    }
}

/// `confirm` is asked whether to go on.
pub(super) async fn clear(config: Config, confirm: impl FnOnce(&str) -> Result<bool>) -> Result<Answer> {
    refuse_block(&config)?;
    let listed = list_tables(&config).await?;
    let names: Vec<&str> = listed.text.lines().collect();
    if names.is_empty() {
        return Ok(Answer::done("No tables in whitelist\n".into(), json!({"cleared": []})));
    }
    let question = format!(
        "Empty {} tables in {} ({}): {}",
        names.len(),
        config.duckdb_database_path()?.display(),
        config.settings_file(),
        names.join(", ")
    );
    if !confirm(&question)? {
        return Ok(Answer::declined(json!({"cleared": []})));
    }
    ask(config, Asked::Clear).await
}

/// Whoever owns the file tells; else the file itself does, or the copy for readers.
pub(super) async fn list_tables(config: &Config) -> Result<Answer> {
    if let Some(answer) = ask_owner(config, "/list", None).await? {
        return Ok(answer);
    }
    let (found, words) = duckdb::published(config).await?;
    let answer = duckdb::list(&found);
    Ok(match words {
        Some(words) => answer.with_words(words),
        None => answer,
    })
}

/// Names that a shell offers. Nobody waits for them, and nobody reads why there are none.
pub(super) async fn names(config: &Config, wanted: Names) -> Answer {
    let nothing = || Answer::done(String::new(), json!([]));
    match wanted {
        Names::Synced => list_tables(config).await.unwrap_or_else(|_| nothing()),
        // What is captured stands in the archive, and a shell does not wait for that.
        Names::Captured => nothing(),
    }
}

pub(super) async fn status(config: &Config) -> Result<Answer> {
    let status = match client::status(config).await? {
        Some(status) => status,
        None => Status::of_file(config, duckdb::published(config).await),
    };
    let exit_code = u8::from(!status.healthy);
    Ok(Answer { exit_code, ..Answer::done(view::text(&status), json!(status)) })
}

pub(super) async fn check(config: &Config) -> Vec<Finding> {
    let mut findings = check::of_archive(config).await;
    let status = match client::status(config).await {
        Ok(Some(status)) => Ok(status.tables),
        Ok(None) | Err(_) => duckdb::published(config).await.map(|(found, _)| duckdb::told(found).tables),
    };
    match status {
        Ok(tables) => {
            let path = config.duckdb_database_path().map(|path| path.display().to_string());
            findings.push(match path {
                Ok(path) => Finding::ok("DuckDB file", format!("{path}, {} tables", tables.len())),
                Err(error) => check::failed("DuckDB file", &error),
            });
            findings.extend(check::of_tables(&tables));
        }
        Err(error) => findings.push(check::failed("DuckDB file", &error)),
    }
    findings.extend(refusals(config).err().map(|error| check::failed("settings", &error)));
    match client::settings(config).await {
        Ok(Some(running)) => {
            findings.push(checks::daemon_settings(config, &running, "systemctl restart syncdata-applier"));
        }
        Ok(None) => {}
        Err(error) => findings.push(check::failed("daemon", &error)),
    }
    findings
}

fn refused(setting: &str) -> Error {
    Error::new(Kind::BadInput, format!("{setting}: not with target = \"duckdb\""))
}

/// What is promised and cannot be kept: while no process of ours has the file, anybody may open it who may write it.
fn refuse_block(config: &Config) -> Result<()> {
    match config.local_writes {
        LocalWrites::Allow => Ok(()),
        LocalWrites::Block => Err(refused("local_writes = \"block\"").hint(
            "take it out; the daemon locks everybody else out of the file, and the copy for readers (publish) is read-only",
        )),
    }
}

/// Settings that have no meaning with a DuckDB file.
fn refusals(config: &Config) -> Result<()> {
    refuse_block(config)?;
    if config.follow {
        return Err(refused("follow").hint("take it out; data_sync_freq may be as low as 5"));
    }
    if config.http_listen.is_some() {
        return Err(refused("http_listen").hint("take it out; status and metrics are served on the socket"));
    }
    Ok(())
}

/// The daemon. `reload` reads the settings again.
pub(super) async fn serve(config: Config, reload: impl Fn() -> Result<Config>) -> Result<()> {
    refusals(&config)?;
    let stop = Stop::new();
    stop.on_signals()?;
    let mut reloads = Reloads::listen()?;
    let mut owner = open(&config, &stop).await?;
    let mut serving = Serving::start(&config, owner.watch(true), &stop)?;
    let heartbeat = Heartbeat::new();
    notify(Phase::Ready);
    heartbeat.feed_watchdog(WATCHDOG_PATIENCE);
    info!(version = env!("CARGO_PKG_VERSION"), file = %config.duckdb_database_path()?.display(), "started");

    let mut backoff = Backoff::endless(FIRST_RETRY, config.data_sync_freq);
    let (mut is_due, mut pause) = (true, config.data_sync_freq);
    while !stop.is_asked() {
        let frequency = owner.config().data_sync_freq;
        let _waiting = heartbeat.wait();
        if is_due {
            let Some(synced) = owner.sync().await else { break };
            serving.watch().synced(&synced);
            pause = match &synced {
                Ok(synced) => {
                    backoff.reset();
                    info!(segments = synced.pass.segments, records = synced.pass.records, "pass done");
                    frequency
                }
                Err(error) => {
                    error!(error = %error.one_line(), hint = error.hint_text(), "pass failed");
                    backoff.next(Dice::roll()).unwrap_or(frequency).min(frequency)
                }
            };
        }
        is_due = true;
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            () = stop.asked() => {}
            () = reloads.next() => reloaded(&mut owner, &serving, &reload).await,
            // What it leads to comes with the pass that follows.
            () = serving.obey_next(&mut owner) => {}
        }
    }

    notify(Phase::Stopping);
    serving.end(&mut owner).await;
    info!("stopped");
    Ok(())
}

async fn open(config: &Config, stop: &Stop) -> Result<Owner> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        match Owner::open(config.clone(), stop.clone()).await {
            Err(error) if error.kind() == Kind::Locked && Instant::now() < deadline => {
                tokio::time::sleep(PAUSE).await;
            }
            opened => return opened,
        }
    }
}

/// Settings that cannot be used change nothing.
async fn reloaded(owner: &mut Owner, serving: &Serving, reload: &impl Fn() -> Result<Config>) {
    notify(Phase::Reloading);
    let new = reload().and_then(|config| same_daemon(owner.config(), config));
    let configured = match new {
        Ok(config) => {
            serving.watch().configured(&config);
            owner.configure(config).await
        }
        Err(error) => Err(error),
    };
    match configured {
        Ok(()) => info!("settings reloaded"),
        Err(error) => {
            error!(error = %error.one_line(), hint = error.hint_text(), "settings not reloaded, going on with the old ones");
        }
    }
    notify(Phase::Ready);
}

/// What the file was opened with is that of the start.
fn same_daemon(old: &Config, new: Config) -> Result<Config> {
    refusals(&new)?;
    let opened = |config: &Config| {
        (config.duckdb_memory_limit, config.duckdb_worker_threads, config.duckdb_text_columns.clone())
    };
    if old.socket(Program::Applier) == new.socket(Program::Applier) && opened(old) == opened(&new) {
        return Ok(new);
    }
    let message = "target or a setting duckdb_… changed: that takes a restart";
    Err(Error::new(Kind::BadInput, message).hint("syncdata-applier stop, then start again"))
}
