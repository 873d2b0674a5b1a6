//! A batch as it is written: netted on another thread, while the one before is written.

use std::sync::Arc;

use super::moved::Moved;
use crate::batch::net::Net;
use crate::batch::{Batch, Cell};

#[derive(Clone, Debug)]
pub struct Prepared(Arc<Work>);

#[derive(Debug)]
pub(super) struct Work {
    pub batch: Batch,
    /// For each of the batch's tables.
    pub nets: Vec<Net>,
}

impl Prepared {
    pub(super) fn of(batch: Batch) -> Prepared {
        let nets = (0..batch.tables.len()).map(|table| Net::of(&batch, table)).collect();
        Prepared(Arc::new(Work { batch, nets }))
    }

    pub(super) fn work(&self) -> Arc<Work> {
        Arc::clone(&self.0)
    }
}

/// What is done with a staged row, as the stage has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Delete = 0,
    /// Of a row that is here; nothing where it is not.
    Update = 1,
    /// Whether or not a row of its key is here.
    Insert = 2,
}

/// A row on its way into a table.
#[derive(Clone, Copy, Debug)]
pub(super) struct Staged<'a> {
    pub kind: Kind,
    pub origin: Origin<'a>,
    /// One for each local column.
    pub cells: &'a [Cell],
}

/// The row from before that it takes the place of.
#[derive(Clone, Copy, Debug)]
pub(super) enum Origin<'a> {
    /// The one of its own key.
    Own,
    Of(&'a [Cell]),
    None,
}

impl Staged<'_> {
    /// The cell of the key's part at that place.
    pub(super) fn key(&self, place: usize, column: usize) -> Cell {
        match self.origin {
            Origin::Own => self.cells[column],
            Origin::Of(cells) => cells[place],
            Origin::None => Cell::NULL,
        }
    }
}

/// All rows of a table of the batch, in the order in which they are staged.
pub(super) fn staged<'a>(
    net: &'a Net,
    moved: &'a Moved,
    nothing: &'a [Cell],
    has_key: bool,
) -> impl Iterator<Item = Staged<'a>> {
    let own = if has_key { Origin::Own } else { Origin::None };
    let of_net = |kind: Kind, rows: &'a [crate::batch::net::Row]| {
        rows.iter().map(move |row| Staged { kind, origin: own, cells: net.cells(*row) })
    };
    let gone = moved.deletes.iter().map(move |key| Staged {
        kind: Kind::Delete,
        origin: Origin::Of(key),
        cells: nothing,
    });
    let moving = moved.rows.iter().map(|row| Staged {
        kind: Kind::Insert,
        origin: row.origin.as_deref().map_or(Origin::None, Origin::Of),
        cells: &row.cells,
    });
    of_net(Kind::Delete, &net.deletes)
        .chain(gone)
        .chain(of_net(Kind::Update, &net.updates))
        .chain(of_net(Kind::Insert, &net.inserts))
        .chain(moving)
}
