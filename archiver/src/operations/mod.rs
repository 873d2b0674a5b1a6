//! What a command or a request does, one function each: over values, for whoever asks. Who asks, whether a running
//! daemon does it instead, and what is printed is the program's business.

pub(crate) mod alerts;
pub(crate) mod check;
pub(crate) mod dashboard;
pub(crate) mod declare_gap;
pub(crate) mod drop_slot;
pub(crate) mod keygen;
pub(crate) mod numbers;
pub(crate) mod older_rows;
pub(crate) mod poll;
pub(crate) mod proof;
pub(crate) mod prune;
pub(crate) mod publication;
pub(crate) mod remembered;
pub(crate) mod rollups;
pub(crate) mod setup;
pub(crate) mod snapshot;
pub(crate) mod status;
pub(crate) mod switch_source;
pub(crate) mod triggers;

mod pending;
