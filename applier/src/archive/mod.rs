//! Manifests and files of the archive, verified, on this host.

mod cache;
pub(crate) mod described;
mod elsewhere;
pub mod fetch;
pub(crate) mod groups;
pub mod hand_files;
pub mod news;
pub mod open;
mod proofs;
pub mod range;
pub mod silence;
pub mod source;
pub(crate) mod stretch;
pub mod trail;
