//! The slot, read through SQL with wal2json: peeked at, taken apart, confirmed.

pub(crate) mod commits;
pub(crate) mod line;
pub(crate) mod poison;
pub(crate) mod slot;
