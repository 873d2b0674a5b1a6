//! The program around the work: command line, daemon, status, check, setup.

pub(crate) mod check;
pub(crate) mod cli;
pub(crate) mod daemon;
pub(crate) mod setup;
pub(crate) mod status;
