//! A DuckDB file: the tables, and our own in its schema `syncdata`, in one transaction each.
//!
//! ```text
//! transaction ─▶ file (one thread) ─▶ cursor, tables: what is known     ─┐
//!                                 └─▶ write: stage, check, delete, insert ├─▶ COMMIT
//!                                 └─▶ notes: log, counts, what failed    ─┘
//! ```

mod base;
mod cursor;
mod database;
mod error;
mod file;
mod meta;
mod moved;
mod names;
mod notes;
mod one_by_one;
mod stage;
mod tables;
mod transaction;
mod types;
mod work;
mod write;

pub use self::database::Options;
pub use self::file::File;
pub use self::transaction::Duckdb;
pub use self::types::Mapping;
pub use self::work::Prepared;
