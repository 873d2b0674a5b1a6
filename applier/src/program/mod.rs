//! The program around the work: command line, daemon, status, check.

mod arguments;
mod check;
pub mod cli;
mod client;
mod commands;
mod completions;
mod daemon;
#[cfg(feature = "duckdb")]
mod duckdb;
mod metrics;
mod request;
mod setup;
mod status;
