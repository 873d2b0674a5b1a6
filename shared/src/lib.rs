//! What the archiver and the applier share: the file formats, the archive they meet in, their
//! settings and their connections. Formats are pure (bytes in, values out); files, sockets and
//! clocks are touched in `archive`, `postgres`, `config` and `log` only.

pub mod ack;
pub mod archive;
pub mod backoff;
pub mod chain;
pub mod change;
pub mod config;
pub mod control;
pub mod daemon;
pub mod digest;
pub mod disk;
pub mod error;
pub mod faults;
pub mod finding;
pub mod floor;
pub mod head;
pub mod identity;
mod json;
pub mod layout;
pub mod log;
pub mod lsn;
pub mod manifest;
pub mod name;
pub mod output;
pub mod postgres;
pub mod progress;
pub mod segment;
pub mod signature;
pub mod snapshot;
pub mod time;
pub mod verify;

pub use error::{Error, Kind, Result};
