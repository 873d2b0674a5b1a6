//! The command line: what can be asked for, and how the answers look.

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use clap::{Args, CommandFactory as _, FromArgMatches as _, Parser, Subcommand};
use clap_complete::Shell;
use syncdata_archive::verify;
use syncdata_formats::error::{Context as _, Error, Kind, Result};
use syncdata_service::config::{Config, Files, Overrides, Program, Target};
use syncdata_service::confirm::confirm;
use syncdata_service::output::{Output, refuse_usage};
use syncdata_service::{log, manual};
use tokio::runtime::Runtime;
use tracing::Level;
use uuid::Uuid;

use super::arguments::{
    AsOfArguments, Consistency, DeadLetters, From, HistoryArguments, ReplayArguments, SetupArguments,
};
#[cfg(feature = "duckdb")]
use super::duckdb;
use super::{check, client, commands, completions, daemon, setup};
use crate::operations::Answer;
use crate::operations::as_of::as_of;
use crate::operations::clear::clear;
use crate::operations::drill::drill;
use crate::operations::executions;
use crate::operations::history::history;
use crate::operations::list_tables::{self, Names};
use crate::operations::remove_tables::remove_tables;
use crate::operations::replay::replay;
use crate::operations::resync::Resync;
use crate::operations::retry::Retry;
use crate::operations::verified;

/// Keeps chosen tables of a production PostgreSQL in step in this one, from an archive between them.
#[derive(Debug, Parser)]
#[command(name = "syncdata-applier", version, propagate_version = true)]
struct Cli {
    #[command(flatten)]
    global: Global,
    #[command(subcommand)]
    command: Command,
}

/// May stand before or after the command.
#[derive(Debug, Args)]
struct Global {
    /// The settings file (instead of DATA_SYNC_CONFIG, ~/.config/syncdata/applier.toml, /etc/syncdata/applier.toml)
    #[arg(long, global = true, value_name = "FILE")]
    config: Option<PathBuf>,
    /// A file of environment variables, NAME=value a line
    #[arg(long, global = true, value_name = "FILE")]
    env_file: Option<PathBuf>,
    /// Print one JSON document
    #[arg(long, global = true)]
    json: bool,
    /// Say more; twice for everything
    #[arg(short, long, global = true, action = clap::ArgAction::Count)]
    verbose: u8,
    /// Log as JSON, one object a line
    #[arg(long, global = true)]
    log_json: bool,
}

impl Global {
    fn files(&self) -> Files {
        Files { config: self.config.clone(), env_file: self.env_file.clone() }
    }
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Check the local side and create what is missing; print what a DBA has to run
    Setup(SetupArguments),
    /// Sync as a daemon, in the foreground: now, and every data_sync_freq
    Start,
    /// Stop the running daemon, and wait until it has ended
    Stop,
    /// What the daemon does, how far the tables are, and what is wrong
    Status,
    /// One pass now: all that the archive has and the local tables have not
    Sync,
    /// Put tables on the whitelist (names, schema.*, *)
    AddTables {
        /// Names, schema.* or *; several in a list or as words
        #[arg(required = true)]
        tables: Vec<String>,
        /// Where their first rows come from
        #[arg(long, value_enum, default_value = "auto")]
        from: From,
        /// Wait until they are live, TIME at most; ends with 1 at the first try that fails, with 2 if there is no base
        #[arg(long, value_name = "TIME", num_args = 0..=1, require_equals = true, value_parser = time)]
        wait: Option<Option<Duration>>,
    },
    /// Take tables off the whitelist; their rows stay
    RemoveTables {
        /// Names, schema.* or *; several in a list or as words
        #[arg(required = true)]
        tables: Vec<String>,
    },
    /// Show the whitelist
    ListTables {
        /// For completions of shells
        #[arg(long, hide = true)]
        complete: Option<Names>,
    },
    /// Make tables anew from a base copy of the archive; they stay as they are until that is done
    Resync {
        /// Names, schema.* or *; several in a list or as words
        #[arg(required_unless_present = "all")]
        tables: Vec<String>,
        /// All tables of the whitelist
        #[arg(long)]
        all: bool,
        /// Take the configured archive as the new one
        #[arg(long, requires = "all")]
        adopt: bool,
    },
    /// Let tables out of quarantine: they go on where they stopped
    Retry {
        /// Names, schema.* or *; several in a list or as words
        #[arg(required = true)]
        tables: Vec<String>,
        /// Go on over lost changes too; that is remembered for ever
        #[arg(long)]
        accept_gap: bool,
    },
    /// Records that tables could not take: look at them, try them again, pass over them
    #[command(subcommand)]
    DeadLetters(DeadLetters),
    /// What was done: passes, loads, replays and checks, the newest first
    Executions {
        /// Only that one
        id: Option<Uuid>,
        /// So many
        #[arg(long, default_value = "50", value_parser = clap::value_parser!(u16).range(1..=500))]
        limit: u16,
        /// Where an earlier list ended (next_cursor)
        #[arg(long)]
        cursor: Option<String>,
    },
    /// Empty all synced tables; they stay empty until they are loaded again
    Clear {
        /// Do not ask
        #[arg(long)]
        yes: bool,
    },
    /// Remove our own tables and the role from the database; synced tables and their rows stay
    Uninstall {
        /// Do not ask
        #[arg(long)]
        yes: bool,
        /// Connect as this role, a DBA's, instead of pg_user, which cannot drop itself
        #[arg(long = "as", value_name = "ROLE")]
        login: Option<String>,
    },
    /// Look for everything that could be wrong; each line with its remedy
    Check,
    /// Whether tables are what production had, by its newest proof
    #[command(subcommand)]
    Consistency(Consistency),
    /// Restore a table from the archive alone, beside the live one, and compare it with the newest proof; nothing stays
    Drill {
        /// Instead of any that a proof covers
        table: Option<String>,
    },
    /// Prove that the archive, or manifests named by hand, are sound; changes nothing
    Verify(verify::Arguments),
    /// Bring rows that changed in a stretch of time back to what the archive says of them, or show it in copies
    Replay(ReplayArguments),
    /// Make tables as they were at a moment, beside the live ones
    // A list of tables takes the words after it: the time is said before.
    #[command(override_usage = "syncdata-applier as-of <TIME> --into <SCHEMA> [OPTIONS]")]
    AsOf(AsOfArguments),
    /// Every change of one row, from the archive, oldest first
    History(HistoryArguments),
    /// Says that the daemon has failed: for ExecStopPost= of its unit
    #[command(hide = true)]
    DaemonEnded,
    /// Settings that hold, and where they come from
    Config,
    /// Print a shell completion script
    Completions { shell: Shell },
    /// Print the manual page
    Man {
        /// Write the pages of all commands into this folder instead
        #[arg(long, value_name = "FOLDER")]
        dir: Option<PathBuf>,
    },
}

/// Runs the command of this process; errors go to stderr, 2 is their exit code.
pub fn run() -> ExitCode {
    let matches = named().try_get_matches().unwrap_or_else(|error| refuse_usage(&error));
    let cli = Cli::from_arg_matches(&matches).unwrap_or_else(|error| refuse_usage(&error));
    let output = Output::new(cli.global.json);
    let quiet = if matches!(cli.command, Command::Start) { Level::INFO } else { Level::WARN };
    log::start(log::level(quiet, cli.global.verbose), log::Style::of_stderr(cli.global.log_json));
    answer(cli, output).unwrap_or_else(|error| output.error(&error, 2))
}

/// Under the name that it was called by: it is known as `syncdata` too.
fn named() -> clap::Command {
    let called = std::env::args_os().next();
    let called = called.as_deref().map(Path::new).and_then(Path::file_name);
    let name = if called.is_some_and(|name| name == "syncdata") { "syncdata" } else { "syncdata-applier" };
    Cli::command().name(name).bin_name(name)
}

fn answer(cli: Cli, output: Output) -> Result<ExitCode> {
    match cli.command {
        Command::Completions { shell } => {
            completions::print(shell, named())?;
            Ok(ExitCode::SUCCESS)
        }
        Command::Man { dir } => {
            manual::write(named(), dir.as_deref())?;
            Ok(ExitCode::SUCCESS)
        }
        Command::Verify(arguments) => {
            let config = Config::of_process(Program::Applier, &cli.global.files(), &Overrides::default())?;
            let ran = verify::run(&config, &arguments, output)?;
            // Without a database it is a machine that only looks at archives.
            if let (Some(last), Ok(_), Target::Postgres) = (ran.whole, config.postgres(), config.target) {
                let noted = runtime()?.block_on(verified::note(&config, last));
                if let Err(error) = noted {
                    tracing::info!(error = %error.one_line(), "status does not know of this verification");
                }
            }
            Ok(ran.exit_code)
        }
        command => runtime()?.block_on(with_settings(&cli.global, command, output)),
    }
}

/// One thread beside the reader's: waking another for every message costs more than the message.
fn runtime() -> Result<Runtime> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime.context(|| "starting the runtime".to_owned())
}

async fn with_settings(global: &Global, command: Command, output: Output) -> Result<ExitCode> {
    let load = || Config::of_process(Program::Applier, &global.files(), &Overrides::default());
    let config = load()?;
    if config.target == Target::Duckdb && !matches!(command, Command::Config) {
        return with_file(config, load, command, output).await;
    }
    let answer = match command {
        Command::Start => {
            daemon::serve(config, load).await?;
            return Ok(ExitCode::SUCCESS);
        }
        Command::Setup(arguments) => return setup::set_up(&config, &arguments, output).await,
        Command::Uninstall { yes, login } => {
            return setup::uninstall(&config, yes, login.as_deref(), output).await;
        }
        Command::Check => return Ok(output.findings(&check::all(&config).await)),
        Command::DaemonEnded => return daemon::ended(&config).await,
        Command::Config => return Ok(output.settings(&config)),
        Command::History(arguments) => return history(&config, &arguments.row()?, output).await,
        Command::Stop => client::stop(&config).await?,
        Command::Status => commands::status(&config).await?,
        Command::Sync => commands::sync(config).await?,
        Command::AddTables { tables, from, wait } => {
            commands::add_tables(&config, &tables, from.want(), wait).await?
        }
        Command::RemoveTables { tables } => remove_tables(&config, &tables).await?,
        Command::ListTables { complete: Some(wanted) } => list_tables::names(&config, wanted).await,
        Command::ListTables { complete: None } => list_tables::list_tables(&config).await?,
        Command::Retry { tables, accept_gap } => {
            commands::retry(config, Retry { tables, accept_gap }).await?
        }
        Command::Executions { id: Some(id), .. } => executions::show(&config, id).await?,
        Command::Executions { id: None, limit, cursor } => {
            executions::list(&config, limit, cursor.as_deref()).await?
        }
        Command::DeadLetters(asked) => commands::dead_letters(config, asked.order()).await?,
        Command::Resync { tables, all, adopt } => {
            commands::resync(config, Resync::new(tables, all, adopt)?).await?
        }
        Command::Drill { table } => drill(&config, table.as_deref()).await?,
        Command::Consistency(asked) => asked.answer(&config).await?,
        Command::Clear { yes } => clear(&config, |question| Ok(yes || confirm("clear", question)?)).await?,
        Command::AsOf(arguments) => as_of(&config, &arguments.order()).await?,
        Command::Replay(arguments) => {
            let is_sure = |question: &str| Ok(arguments.yes || confirm("replay", question)?);
            replay(&config, &arguments.order()?, arguments.into.as_deref(), is_sure).await?
        }
        Command::Verify(_) | Command::Completions { .. } | Command::Man { .. } => {
            unreachable!("they need no connection")
        }
    };
    Ok(print(&answer, output))
}

/// Where the copy is a DuckDB file.
#[cfg(feature = "duckdb")]
async fn with_file(
    config: Config,
    load: impl Fn() -> Result<Config>,
    command: Command,
    output: Output,
) -> Result<ExitCode> {
    use crate::operations::duckdb::Asked;

    let refused = |command: &str| {
        Err(Error::new(Kind::BadInput, format!("{command}: not with target = \"duckdb\""))
            .hint("what works with a DuckDB file: docs/duckdb.md"))
    };
    let answer = match command {
        Command::Start => {
            duckdb::serve(config, load).await?;
            return Ok(ExitCode::SUCCESS);
        }
        Command::Check => return Ok(output.findings(&duckdb::check(&config).await)),
        Command::DaemonEnded => return daemon::ended(&config).await,
        Command::Stop => client::stop(&config).await?,
        Command::Status => duckdb::status(&config).await?,
        Command::Sync => duckdb::ask(config, Asked::Sync).await?,
        Command::AddTables { tables, from, wait } => {
            duckdb::add_tables(config, tables, from.want(), wait).await?
        }
        Command::RemoveTables { tables } => duckdb::ask(config, Asked::RemoveTables { tables }).await?,
        Command::ListTables { complete: Some(wanted) } => duckdb::names(&config, wanted).await,
        Command::ListTables { complete: None } => duckdb::list_tables(&config).await?,
        Command::Retry { tables, accept_gap } => {
            duckdb::ask(config, Asked::Retry(Retry { tables, accept_gap })).await?
        }
        Command::Resync { tables, all, adopt } => {
            duckdb::ask(config, Asked::Resync(Resync::new(tables, all, adopt)?)).await?
        }
        Command::Clear { yes } => {
            duckdb::clear(config, |question| Ok(yes || confirm("clear", question)?)).await?
        }
        Command::Setup(_) => return refused("setup"),
        Command::Uninstall { .. } => return refused("uninstall"),
        Command::History(_) => return refused("history"),
        Command::Executions { .. } => return refused("executions"),
        Command::DeadLetters(_) => return refused("dead-letters"),
        Command::Drill { .. } => return refused("drill"),
        Command::Consistency(_) => return refused("consistency"),
        Command::AsOf(_) => return refused("as-of"),
        Command::Replay(_) => return refused("replay"),
        Command::Verify(_) | Command::Completions { .. } | Command::Man { .. } | Command::Config => {
            unreachable!("they need no copy")
        }
    };
    Ok(print(&answer, output))
}

#[cfg(not(feature = "duckdb"))]
async fn with_file(_: Config, _: impl Fn() -> Result<Config>, _: Command, _: Output) -> Result<ExitCode> {
    std::future::ready(Err(Error::new(
        Kind::BadInput,
        "target = \"duckdb\": this syncdata-applier was built without DuckDB",
    )
    .hint("build one with the feature duckdb: docs/duckdb.md")))
    .await
}

fn print(answer: &Answer, output: Output) -> ExitCode {
    if let Some(words) = &answer.words {
        output.words(words);
    }
    output.document(&answer.document, &answer.text);
    ExitCode::from(answer.exit_code)
}

/// `10min`, or seconds.
fn time(text: &str) -> std::result::Result<Duration, String> {
    let seconds = text.parse().ok().map(Duration::from_secs);
    let time = seconds.or_else(|| humantime::parse_duration(text).ok());
    time.ok_or_else(|| "a time, such as 90, 10min or 2h".to_owned())
}
