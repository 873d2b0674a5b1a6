//! Verified segments into the target, a transaction at a time.

pub mod acks;
pub mod layout;
pub mod lookahead;
pub mod outcome;
pub(crate) mod part;
pub(crate) mod poison;
pub mod reader;
pub mod transaction;
