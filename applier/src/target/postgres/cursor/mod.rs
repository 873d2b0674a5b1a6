//! The positions: of the whole copy (the checkpoint) and of each table. They move in the transaction of the
//! rows that they stand for, and nowhere else.

mod checkpoint;
mod tables;

pub use self::checkpoint::Cursor;
pub use self::tables::{
    accept_gap, add_waiting, advance, change, grant_nothing, note_base, note_changed, note_columns, note_gap,
    note_held, note_keys, note_loaded, note_nan, note_waiting, outdate_digests, release_held, start_over,
    table_states, uncounted, want, want_nothing,
};
pub use crate::plan::position::{Applied, Checkpoint, Position};
