//! `syncdata-applier`: brings archived changes into the local PostgreSQL, exactly once.
//!
//! ```text
//! archive ─ fetch ─▶ cache ─ reader ─▶ batch ─ net ─▶ steps ─ apply ─▶ local tables
//!   (verified)        (threads: unpack, check, net, encode; `ahead`)    └─ cursor, ledger: one transaction
//! ```
//!
//! `pass` is the order of things, `plan` decides, `transaction` commits. The program is `cli`, `commands`
//! and `daemon`, which runs passes through `runner`.

pub mod apply;
pub mod archive;
pub mod batch;
pub mod history;
pub mod load;
pub mod operations;
pub mod pass;
pub mod plan;
pub mod program;
pub mod proof;
pub mod table;
pub mod target;
