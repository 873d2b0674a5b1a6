//! What operators do with the archive by hand: `replay`, `history` and `as-of`.

mod as_of;
mod gaps;
mod into;
mod newer_columns;
mod random;
mod repair;
mod row;
mod server_keys;
mod wide;
mod world;
