//! Pages as they are written: fenced blocks, commands, and what the sources print.

mod commands;
mod markdown;
mod messages;

pub(crate) use commands::{commands_in, refused_by_parser};
pub(crate) use markdown::{blocks, code_spans};
pub(crate) use messages::printed_by_the_sources;

use std::fs;
use std::path::{Path, PathBuf};

pub(crate) fn workspace() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("tests/ lies in the workspace").to_owned()
}

/// A page, by its place in the workspace.
pub(crate) fn page(path: &str) -> String {
    fs::read_to_string(workspace().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}
