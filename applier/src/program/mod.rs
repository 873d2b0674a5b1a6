//! The program around the work: command line, daemon, status, check.

mod arguments;
mod check;
pub mod cli;
mod client;
mod commands;
mod completions;
mod daemon;
mod metrics;
mod request;
mod setup;
mod status;
