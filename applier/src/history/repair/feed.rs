//! The second reading: the records that matter, as writes into the shadows.
//!
//! A whole row becomes an upsert and a row that is gone a mark, so that nothing depends on what the shadow holds; what
//! tells only a part of a row stays an update.

use std::borrow::Cow;
use std::collections::{BTreeSet, HashMap, HashSet};
use std::path::Path;
use std::sync::Arc;

use syncdata_formats::chain::Verified;
use syncdata_formats::change::{Fields, Op, Row, Value};
use syncdata_formats::error::{Error, Kind, Result};
use tokio::sync::mpsc;

use super::scan::TableScan;
use super::shadow::{RowState, STATE, Shadow};
use crate::apply::reader;
use crate::batch::{Batch, Limits, Place};
use crate::history::keys::{KeyHash, Shape, Touch};
use crate::table::Fit;
use crate::target::postgres::step::{COPY_ROWS_MIN, Prepared};

/// No table has a name that ends so.
const LEFT: &str = "\0left";

#[derive(Debug)]
pub(super) enum Item {
    Batch(Box<Prepared>),
    /// All rows of that table so far are gone.
    Emptied(String),
}

/// What matters of one table.
#[derive(Debug)]
pub(super) struct Wanted {
    pub scan: TableScan,
    /// Keys of the rows that were looked for further back, and segments with records of them.
    pub found: HashSet<KeyHash>,
    pub older: BTreeSet<u64>,
    /// Records that tell a part of a row that nothing else tells: segment and line.
    pub parts: HashSet<(u64, u64)>,
    pub shadow: Arc<Shadow>,
}

/// What a segment has for a table.
#[derive(Debug)]
pub(super) struct Share {
    pub shape: Shape,
    /// Transactions from here on are not in the table.
    pub until: Option<u64>,
    /// Those before this one came with the base copy that brought the table's rows.
    pub since: u64,
}

/// Why the records of a key matter.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Standing {
    /// What is there in the end is asked for.
    Asked,
    /// A row that is asked for lay there once. What came there later is read in part only.
    Passed,
}

impl Wanted {
    fn standing(&self, key: KeyHash) -> Option<Standing> {
        if self.scan.knows(key) {
            return Some(Standing::Asked);
        }
        self.found.contains(&key).then_some(Standing::Passed)
    }

    /// What is noted where the row of that key is no longer.
    fn state_without(&self, key: KeyHash) -> Option<RowState> {
        match self.standing(key)? {
            Standing::Asked => Some(RowState::Gone),
            Standing::Passed => Some(RowState::Aside),
        }
    }
}

/// Sends what the segment has. `Ok(false)`: nobody listens.
pub(super) fn segment(
    wanted: &HashMap<String, Wanted>,
    mut shares: HashMap<String, Share>,
    (segment, file): (&Verified, &Path),
    line_bytes_max: usize,
    items: &mpsc::Sender<Result<Item>>,
) -> Result<bool> {
    let mut feed = Feed { batch: Batch::default(), in_order: Batch::default(), items, open: true };
    let is_asked = |name: &str| wanted.contains_key(name);
    reader::rows(segment, file, line_bytes_max, is_asked, |row, place| {
        let (Some(wanted), Some(share)) =
            (wanted.get(row.table.as_ref()), shares.get_mut(row.table.as_ref()))
        else {
            return Ok(());
        };
        if share.until.is_none_or(|until| place.tx.index < until) {
            feed.row(wanted, &mut share.shape, row, place)?;
        }
        Ok(())
    })?;
    feed.flush();
    Ok(feed.open)
}

struct Feed<'a> {
    batch: Batch,
    /// Rows of tables whose keys only the server compares. All of them are upserts here, also of what is gone: which
    /// came last must not depend on their columns.
    in_order: Batch,
    items: &'a mpsc::Sender<Result<Item>>,
    open: bool,
}

impl Feed<'_> {
    fn row(&mut self, wanted: &Wanted, shape: &mut Shape, row: &Row<'_>, place: Place) -> Result<()> {
        let Some(touch) = shape.touch(row) else { return Ok(()) };
        match touch {
            Touch::Emptied => {
                self.flush();
                self.send(Item::Emptied(row.table.to_string()));
            }
            Touch::Image { new, from } => {
                if let Some(old) = from {
                    self.gone(wanted, shape, row, old, place)?;
                }
                if let Some(standing) = wanted.standing(new) {
                    let state = if standing == Standing::Asked { RowState::Whole } else { RowState::Aside };
                    let values = with_known(shape.values(row), &wanted.shadow, true);
                    self.upsert(wanted, row, values, state, place)?;
                }
            }
            Touch::Part { old, new } => {
                if wanted.parts.contains(&(place.tx.seq, place.line)) {
                    let values = with_known(shape.old_key(row), &wanted.shadow, true);
                    self.upsert(wanted, row, values, RowState::Part, place)?;
                }
                if let (Some(before), Some(after)) = (wanted.standing(old), wanted.standing(new)) {
                    let state = match (before, after) {
                        (Standing::Asked, Standing::Asked) => None,
                        (Standing::Passed, Standing::Asked) => Some(RowState::Whole),
                        (_, Standing::Passed) => Some(RowState::Aside),
                    };
                    self.part(wanted, shape, row, state, place)?;
                    if old != new {
                        self.left(wanted, shape, row, old, place)?;
                    }
                } else if old != new {
                    self.gone(wanted, shape, row, old, place)?;
                }
            }
            Touch::Gone(key) => self.gone(wanted, shape, row, key, place)?,
        }
        Ok(())
    }

    fn gone(
        &mut self,
        wanted: &Wanted,
        shape: &Shape,
        row: &Row<'_>,
        key: KeyHash,
        place: Place,
    ) -> Result<()> {
        let Some(state) = wanted.state_without(key) else { return Ok(()) };
        self.upsert(wanted, row, shape.old_key(row), state, place)
    }

    /// The row that was there has moved away: what is there now, if anything, is that row, to the server under the same key.
    fn left(
        &mut self,
        wanted: &Wanted,
        shape: &Shape,
        row: &Row<'_>,
        key: KeyHash,
        place: Place,
    ) -> Result<()> {
        let Some(state) = wanted.state_without(key) else { return Ok(()) };
        if wanted.shadow.target.key.nettable {
            return self.upsert(wanted, row, shape.old_key(row), state, place);
        }
        let mut data = shape.old_key(row);
        data.push(state_field(state));
        // Under a name of its own: it goes where that table does, and is written otherwise.
        let table = Cow::Owned(format!("{}{LEFT}", row.table));
        let mark = Row { op: Op::Insert, data, old_keys: Vec::new(), table, ..row.clone() };
        self.make_room(mark.op);
        push(&mut self.in_order, &mark, &wanted.shadow.left, &wanted.shadow, place)
    }

    fn upsert<'r>(
        &mut self,
        wanted: &Wanted,
        row: &Row<'r>,
        mut data: Fields<'r>,
        state: RowState,
        place: Place,
    ) -> Result<()> {
        data.push(state_field(state));
        let upsert = Row { op: Op::Insert, data, old_keys: Vec::new(), ..row.clone() };
        self.push(wanted, &upsert, place)
    }

    fn part(
        &mut self,
        wanted: &Wanted,
        shape: &Shape,
        row: &Row<'_>,
        state: Option<RowState>,
        place: Place,
    ) -> Result<()> {
        let mut data = with_known(shape.values(row), &wanted.shadow, false);
        data.extend(state.map(state_field));
        let update = Row { data, old_keys: shape.old_key(row), ..row.clone() };
        self.push(wanted, &update, place)
    }

    fn push(&mut self, wanted: &Wanted, row: &Row<'_>, place: Place) -> Result<()> {
        self.make_room(row.op);
        let shadow = &wanted.shadow;
        let batch = if shadow.target.key.nettable { &mut self.batch } else { &mut self.in_order };
        push(batch, row, &shadow.target, shadow, place)
    }

    fn make_room(&mut self, next: Op) {
        if self.batch.is_full(Limits::of_memory(), next) || self.in_order.is_full(Limits::of_memory(), next) {
            self.flush();
        }
    }

    fn flush(&mut self) {
        let batch = std::mem::take(&mut self.batch);
        if !batch.is_empty() {
            self.send(Item::Batch(Box::new(Prepared::new(batch, COPY_ROWS_MIN))));
        }
        let in_order = std::mem::take(&mut self.in_order);
        if !in_order.is_empty() {
            self.send(Item::Batch(Box::new(Prepared::row_by_row(in_order))));
        }
    }

    fn send(&mut self, item: Item) {
        self.open &= self.items.blocking_send(Ok(item)).is_ok();
    }
}

fn push(batch: &mut Batch, row: &Row<'_>, target: &Arc<Fit>, shadow: &Shadow, place: Place) -> Result<()> {
    batch
        .push(row, target, &shadow.relation, place)
        .map_err(|difference| Error::new(Kind::Conflict, difference.to_string()))
}

fn state_field<'r>(state: RowState) -> (Cow<'r, str>, Value<'r>) {
    (Cow::Borrowed(STATE), Value::Text(Cow::Borrowed(state.as_str())))
}

/// Notes for each column whether its value is known now. `all`: those that are not there are not known.
fn with_known<'r>(mut values: Fields<'r>, shadow: &Shadow, all: bool) -> Fields<'r> {
    if !shadow.has_holes {
        return values;
    }
    let flags: Fields<'r> = shadow
        .flags()
        .filter_map(|(flag, column)| {
            let name = &shadow.live.columns[column].name;
            let is_there = values.iter().any(|(value, _)| value == name);
            (all || is_there).then_some((Cow::Owned(flag), Value::Bool(is_there)))
        })
        .collect();
    values.extend(flags);
    values
}
