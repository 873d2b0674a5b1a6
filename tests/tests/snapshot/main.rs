//! Snapshots against real servers: what is in the copy, what they cost, what they survive.

mod consistency;
mod copy;
mod costs;
mod faults;
mod first;
mod memory;
mod neighbours;
mod prune;
mod rights;
mod scene;
mod status;
