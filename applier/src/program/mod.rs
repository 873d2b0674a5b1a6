//! The program around the work: command line, daemon, status, check.

pub mod check;
pub mod cli;
pub mod daemon;
pub mod status;
