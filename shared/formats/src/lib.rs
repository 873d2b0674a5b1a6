//! The formats of the archive, pure: bytes in, values out. No file, socket or clock is touched here, and the
//! dependencies of this crate keep it so.

pub mod ack;
pub mod chain;
pub mod change;
pub mod digest;
pub mod document;
pub mod error;
pub mod floor;
mod frame;
#[cfg(test)]
mod fuzz;
pub mod head;
pub mod identity;
mod json;
pub mod layout;
pub mod lsn;
pub mod manifest;
pub mod name;
pub mod number;
pub mod printed;
pub mod proof;
mod relation;
pub mod rollup;
pub mod segment;
pub mod signature;
pub mod snapshot;
pub mod tar;
pub mod time;
pub mod types;

pub use error::{Error, Kind, Result};
