//! The program: settings, log, one command.

use std::process::ExitCode;

fn main() -> ExitCode {
    syncdata_applier::program::cli::run()
}
