//! What operators do with the archive by hand: `replay`, `history` and `as-of`.

mod as_of;
mod into;
mod random;
mod repair;
mod row;
mod world;
