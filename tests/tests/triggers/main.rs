//! The triggers of `scripts/triggers.sql` in real servers: what they note, and that production's statements go on.

mod bases;
mod copy;
mod earlier;
mod notes;
mod objects;
mod script;
mod troubles;
