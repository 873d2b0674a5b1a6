//! The triggers of `scripts/triggers.sql` in real servers: what they note, and that production's statements go on.

mod attacks;
mod bases;
mod copy;
mod earlier;
mod made;
mod notes;
mod objects;
mod script;
mod spools;
mod troubles;
