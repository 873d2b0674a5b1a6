//! Manifests and files of the archive, verified, on this host.

pub mod acks;
pub mod fetch;
pub mod hand_files;
pub mod range;
pub mod trail;
