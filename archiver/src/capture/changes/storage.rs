//! What became of the place where a table's rows lie.

use crate::capture::{Known, Storage};

/// What a new place of its rows says of a table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Moved {
    /// At most by TRUNCATE, which is in the stream, or by VACUUM FULL, CLUSTER and the like, which alter nothing.
    No,
    /// Its rows were written anew, and perhaps changed.
    Anew,
    /// Without a TOAST table nobody can say.
    Perhaps,
}

pub(super) fn moved(then: Storage, now: Storage) -> Moved {
    match (then.file == now.file, then.toast, now.toast) {
        (true, ..) => Moved::No,
        (false, 0, 0) => Moved::Perhaps,
        (false, then, now) if then == now => Moved::No,
        (false, ..) => Moved::Anew,
    }
}

/// Whether nothing but the stream can have changed its rows.
pub(in crate::capture) fn is_in_place(then: &Known, now: &Known) -> bool {
    moved(then.storage, now.storage) == Moved::No
}
