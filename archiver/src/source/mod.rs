//! Where changes come from: production, asked and read.

pub(crate) mod catalog;
pub(crate) mod columns;
pub(crate) mod connection;
pub(crate) mod role;
pub(crate) mod wait;
pub(crate) mod wal2json;
