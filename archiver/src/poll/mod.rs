//! One poll: settle what an earlier run left, read the slot into the spool, ship, confirm.
//!
//! ```text
//! archiver ─▶ run ─▶ answers, relief ─▶ steps ─▶ gap, guard, history, leftover, mended, strangers, outcome
//! ```
//! `run` has the order of a poll, and `steps` what it is made of. Every file knows only those to its right.

pub(crate) mod archiver;
pub(crate) mod guard;
pub(crate) mod outcome;

mod answers;
mod gap;
mod history;
mod leftover;
mod mended;
mod relief;
mod run;
pub(crate) mod steps;
mod strangers;

#[cfg(test)]
mod second_source;
