//! What commands and the daemon do where the copy is a DuckDB file: by the one process that owns it.

mod asked;
mod owner;
mod seen;
mod tables;

pub(crate) use self::asked::Asked;
pub(crate) use self::owner::Owner;
pub(crate) use self::seen::{Watch, list, published, told};
