//! The segments that come, cut into groups that share a transaction, and the reader of the group after the one that is
//! being applied: it works while the server does.

use syncdata_formats::error::Result;
use syncdata_formats::manifest::Manifest;
use tokio::sync::mpsc;

use crate::apply::layout::Ground;
use crate::apply::reader::{Reading, Task};
use crate::archive::fetch::Fetched;
use crate::batch::Batch;
use crate::plan;

#[derive(Debug)]
pub struct Ahead<P> {
    stream: mpsc::Receiver<Result<Fetched>>,
    apply_batch_changes: u64,
    /// The next group, once it was looked at.
    next: Vec<Fetched>,
    /// What came out of the stream after it: too much for the same transaction, or an error.
    held: Option<Result<Fetched>>,
    reading: Option<Reading<P>>,
    prepare: fn(Batch) -> P,
    is_of_one_shape: bool,
}

impl<P: Send + 'static> Ahead<P> {
    pub fn new(
        stream: mpsc::Receiver<Result<Fetched>>,
        apply_batch_changes: u64,
        prepare: fn(Batch) -> P,
    ) -> Ahead<P> {
        let (next, is_of_one_shape) = (Vec::new(), false);
        Ahead { stream, apply_batch_changes, next, held: None, reading: None, prepare, is_of_one_shape }
    }

    /// Where that is asked for, all segments of a group describe each table alike.
    #[must_use]
    pub fn of_one_shape(self, is_of_one_shape: bool) -> Ahead<P> {
        Ahead { is_of_one_shape, ..self }
    }

    /// Waits for the next group. Nothing is lost when it is no longer waited for.
    pub async fn group(&mut self) -> Option<Result<Vec<Fetched>>> {
        if self.next.is_empty() {
            let first = match self.held.take() {
                Some(first) => first,
                None => self.stream.recv().await?,
            };
            match first {
                Ok(first) => self.fill(first),
                Err(error) => return Some(Err(error)),
            }
        }
        Some(Ok(std::mem::take(&mut self.next)))
    }

    /// Begins to read the next group if it is there. `ground` is how things will be if the one before is applied whole;
    /// if they are not, what was read is not used.
    pub(crate) fn begin(&mut self, ground: &Ground<'_>) -> Result<()> {
        if self.next.is_empty() {
            match self.held.take().or_else(|| self.stream.try_recv().ok()) {
                Some(Ok(first)) => self.fill(first),
                other => self.held = other,
            }
        }
        // What stands in its way is said by its own transaction.
        if let Ok(layout) = ground.lay_out(&self.next)
            && !layout.tasks.is_empty()
        {
            self.reading = Some(Reading::start(layout.tasks, self.prepare)?);
        }
        Ok(())
    }

    /// What has begun to be read will not be asked for.
    pub(crate) fn forget(&mut self) {
        self.reading = None;
    }

    /// The reader that has begun with just these, or a new one.
    pub(crate) fn reading(&mut self, tasks: Vec<Task>) -> Result<Reading<P>> {
        match self.reading.take().filter(|reading| reading.is_of(&tasks)) {
            Some(begun) => Ok(begun),
            None => Reading::start(tasks, self.prepare),
        }
    }

    /// Adds segments that are ready and fit into the same transaction: waiting for the network would keep the rows
    /// from readers.
    fn fill(&mut self, first: Fetched) {
        let records = |fetched: &Fetched| fetched.segment.manifest().records;
        let mut sum = records(&first);
        let mut ends = ends_here(&first);
        self.next.push(first);
        let fits = |sum: u64, next: &Manifest| plan::fits(sum, next, self.apply_batch_changes);
        while !ends && let Ok(next) = self.stream.try_recv() {
            match next {
                Ok(fetched)
                    if fits(sum, fetched.segment.manifest()) && self.is_alike(fetched.segment.manifest()) =>
                {
                    sum += records(&fetched);
                    ends = ends_here(&fetched);
                    self.next.push(fetched);
                }
                other => {
                    self.held = Some(other);
                    return;
                }
            }
        }
    }

    fn is_alike(&self, next: &Manifest) -> bool {
        let is_alike = |known: &Fetched| plan::is_of_one_shape(known.segment.manifest(), next);
        !self.is_of_one_shape || self.next.iter().all(is_alike)
    }
}

/// At a mark the copy is looked at: the transaction ends there.
fn ends_here(fetched: &Fetched) -> bool {
    fetched.segment.manifest().proof.is_some()
}
