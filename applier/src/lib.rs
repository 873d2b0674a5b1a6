//! `syncdata-applier`: brings archived changes into the local PostgreSQL, exactly once.
//!
//! ```text
//! archive ─ fetch ─▶ cache ─ reader ─▶ batch ─ net ─▶ steps ─ apply ─▶ local tables
//!   (verified)        (threads: unpack, check, net, encode; `ahead`)    └─ cursor, ledger: one transaction
//! ```
//!
//! `pass` is the order of things, `plan` decides, `transaction` commits. The program is `cli`, `commands`
//! and `daemon`, which runs passes through `runner`.

pub mod acks;
mod ahead;
pub mod apply;
pub mod batch;
pub mod catch_up;
pub mod cli;
pub mod commands;
pub mod cursor;
pub mod daemon;
mod ended;
pub mod error;
mod examine;
pub mod fetch;
pub mod hand_files;
pub mod history;
mod layout;
pub mod ledger;
pub mod load;
pub mod local;
pub mod meta;
pub mod net;
pub mod pass;
pub mod plan;
pub mod quarantine;
pub mod range;
pub mod reader;
pub mod replay;
pub mod runner;
pub mod schema;
pub mod status;
pub mod step;
pub mod trail;
pub mod transaction;

pub use error::{Error, Kind, Result};
