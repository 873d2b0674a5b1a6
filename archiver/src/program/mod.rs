//! The program: its command line, its daemon, and what both ask and print.

pub(crate) mod cli;
pub(crate) mod commands;
pub(crate) mod daemon;

mod answer;
mod api;
mod client;
mod life;
mod poll_log;
mod snapshot_asked;
mod stopping;
