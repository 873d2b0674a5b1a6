//! A DuckDB file: the tables, and our own in its schema `syncdata`, in one transaction each.
//!
//! ```text
//! transaction ─▶ file (one thread) ─▶ cursor, tables: what is known     ─┐
//!                                 └─▶ write: stage, check, delete, insert ├─▶ COMMIT
//!                                 └─▶ notes: log, counts, what failed    ─┘
//! ```

mod base;
mod copy;
mod cursor;
mod database;
mod error;
mod file;
mod follow;
mod found;
mod meta;
mod moved;
mod names;
mod notes;
mod one_by_one;
mod publish;
mod stage;
mod tables;
mod transaction;
mod types;
mod whitelist;
mod work;
mod write;

pub use self::database::Options;
pub use self::file::File;
pub use self::follow::is_same_shape;
pub use self::found::{FoundCopy, FoundTable};
pub use self::publish::Published;
pub use self::transaction::Duckdb;
pub use self::types::Mapping;
pub use self::work::Prepared;
