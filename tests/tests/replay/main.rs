//! `replay` and its kin: what operators do with the archive by hand.

mod as_of;
mod history;
mod into;
mod random;
mod repair;
mod world;
