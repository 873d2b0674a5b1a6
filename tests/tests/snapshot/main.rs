//! Snapshots against real servers: what is in the copy, what they cost, what they survive.

mod copy;
mod costs;
mod rights;
mod scene;
