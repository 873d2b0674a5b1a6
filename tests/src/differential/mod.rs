//! Random tables, random transactions, random misfortune; then production and the copy are compared, text for
//! text. Everything follows from a seed.

pub mod image;
pub mod kinds;
mod mishap;
pub mod not_yet;
mod script;
mod statements;
pub mod story;
pub mod tables;

pub use story::{Failure, Limits, Story};
