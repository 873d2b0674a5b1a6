//! syncdata-archiver: reads a logical slot of production and archives its changes on the backup host.
#![forbid(unsafe_code)]

mod capture;
mod operations;
mod poll;
mod program;
mod proof;
mod prune;
mod rollup;
mod segment;
mod ship;
mod snapshot;
mod source;
mod spool;

use std::os::unix::net::UnixStream;
use std::process::ExitCode;

use clap::{CommandFactory as _, Parser as _};
use syncdata_archive::verify;
use syncdata_formats::Result;
use syncdata_formats::error::Context as _;
use syncdata_service::config::{Config, Overrides, Program};
use syncdata_service::output::{Output, refuse_usage};
use syncdata_service::{log, manual, service_account};
use tracing::Level;

use crate::program::cli::{Cli, Command};
use crate::program::{commands, daemon};

fn main() -> ExitCode {
    let cli = Cli::try_parse().unwrap_or_else(|error| refuse_usage(&error));
    let output = Output::new(cli.global.json);
    let quiet = if matches!(cli.command, Command::Run(_)) { Level::INFO } else { Level::WARN };
    log::start(log::level(quiet, cli.global.verbose), log::Style::of_stderr(cli.global.log_json));
    answer(&cli, output).unwrap_or_else(|error| output.error(&error, 2))
}

fn answer(cli: &Cli, output: Output) -> Result<ExitCode> {
    match &cli.command {
        Command::Completions { shell } => {
            clap_complete::generate(*shell, &mut Cli::command(), "syncdata-archiver", &mut std::io::stdout());
            Ok(ExitCode::SUCCESS)
        }
        Command::Man { dir } => {
            manual::write(Cli::command(), dir.as_deref())?;
            Ok(ExitCode::SUCCESS)
        }
        Command::Keygen { file } => commands::keygen(file, output),
        Command::Verify(arguments) => {
            let config = Config::of_process(Program::Archiver, &cli.global.files(), &Overrides::default())?;
            let ran = verify::run(&config, arguments, output)?;
            let noted = ran.whole.map(|last| spool::verified::note(&config.spool_dir, last));
            if let Some(Err(error)) = noted {
                tracing::info!(error = %error.one_line(), "status does not know of this verification");
            }
            Ok(ran.exit_code)
        }
        command => {
            // One thread: rows pass from the connection's task to the reader by the million, and waking another
            // thread for each costs more than all that is done with them.
            spare_handles()?;
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            let runtime = runtime.context(|| "starting the runtime".to_owned())?;
            runtime.block_on(with_settings(cli, command, output))
        }
    }
}

/// tokio panics when it gets no file handles for its own start.
fn spare_handles() -> Result<()> {
    const PAIRS: usize = 4;
    let spare: std::io::Result<Vec<_>> = (0..PAIRS).map(|_| UnixStream::pair()).collect();
    spare.context(|| "starting the runtime".to_owned()).map(drop)
}

async fn with_settings(cli: &Cli, command: &Command, output: Output) -> Result<ExitCode> {
    let load = || {
        let mut overrides = Overrides::default();
        if let Some(tables) = command.tables() {
            overrides.set("tables", tables);
        }
        Config::of_process(Program::Archiver, &cli.global.files(), &overrides)
    };
    let config = load()?;
    if command.works_in_the_spool() {
        let ran = service_account::run_as("syncdata-archiver", &config.spool_dir, &config).await?;
        if let Some(exit_code) = ran {
            return Ok(exit_code);
        }
    }
    match command {
        Command::Setup(arguments) => commands::set_up(&config, arguments, output).await,
        Command::Run(run) if run.once => commands::run_once(config, run.tables.is_empty(), output).await,
        Command::Run(_) => daemon::serve(config, load).await,
        Command::Status => commands::status(&config, output).await,
        Command::Check { deep } => commands::check(&config, *deep, output).await,
        Command::Snapshot(arguments) => commands::snapshot(&config, arguments, output).await,
        Command::Proof(arguments) => commands::proof(config, arguments, output).await,
        Command::Prune { dry_run } => commands::prune(config, *dry_run, output).await,
        Command::DropSlot { force, all: true, yes, login } => {
            commands::drop_all(&config, *force, *yes, login.as_deref(), output).await
        }
        Command::DropSlot { force, .. } => commands::drop_slot(&config, *force, output).await,
        Command::DeclareGap(arguments) => commands::declare_gap(config, arguments, output).await,
        Command::DaemonEnded => commands::daemon_ended(&config).await,
        Command::Config => Ok(output.settings(&config)),
        Command::Verify(_) | Command::Keygen { .. } | Command::Completions { .. } | Command::Man { .. } => {
            unreachable!("they need no settings")
        }
    }
}
