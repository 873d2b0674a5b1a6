//! The rows of one table, as parts, at a pace that production can bear.

use std::pin::Pin;
use std::time::Duration;
use syncdata_service::postgres::ServerContext as _;

use bytes::Bytes;
use futures_util::{Stream, TryStreamExt as _, stream};
use syncdata_formats::{Error, Kind, Result};
use syncdata_service::progress::Progress;
use tokio::time::Instant;
use tokio_postgres::{Client, CopyOutStream};

use super::cutter::{Cut, Cutter, Sizes};
use super::tables::Table;

/// How many bytes of rows may be read in a second, over all tables.
#[derive(Debug)]
pub(crate) struct Pace {
    bytes_per_second: Option<u64>,
    started: Instant,
    read: u64,
}

impl Pace {
    pub(crate) fn new(bytes_per_second: Option<u64>) -> Pace {
        Pace { bytes_per_second, started: Instant::now(), read: 0 }
    }

    /// While we do not read, the server waits.
    pub(crate) async fn keep(&mut self, bytes: usize) {
        /// Shorter waits cost more than they are worth.
        const WAIT_MIN: Duration = Duration::from_millis(20);
        let Some(rate) = self.bytes_per_second else { return };
        self.read += bytes as u64;
        let due = self.started + Duration::from_secs_f64(self.read as f64 / rate as f64);
        if due.saturating_duration_since(Instant::now()) >= WAIT_MIN {
            tokio::time::sleep_until(due).await;
        }
    }
}

struct Rows<'a> {
    answer: Pin<Box<CopyOutStream>>,
    /// `None` when the last part has been handed out.
    cutter: Option<Cutter>,
    waiting: std::collections::VecDeque<Cut>,
    pace: &'a mut Pace,
    progress: &'a mut Progress,
    table: &'a Table,
}

/// Parts as they become complete. Nothing is read ahead of whoever takes them, but for what one message holds.
pub(crate) async fn parts<'a>(
    client: &Client,
    table: &'a Table,
    pace: &'a mut Pace,
    progress: &'a mut Progress,
) -> Result<impl Stream<Item = Result<Cut>> + 'a> {
    if !table.is_ordered() {
        // An index that is not sound must not be what the rows come from.
        let sql = "SET LOCAL enable_indexscan = off; SET LOCAL enable_indexonlyscan = off; SET LOCAL enable_bitmapscan = off";
        client.batch_execute(sql).await.context(|| format!("preparing to copy {}", table.name))?;
    }
    let answer = client.copy_out(&table.copy_statement()).await;
    let answer = answer.context(|| format!("copying {}", table.name))?;
    let cutter = Cutter::new(Sizes::OF_PARTS, table.key());
    let waiting = Default::default();
    let rows = Rows { answer: Box::pin(answer), cutter: Some(cutter), waiting, pace, progress, table };
    Ok(stream::try_unfold(rows, |mut rows| async move { Ok(rows.next().await?.map(|cut| (cut, rows))) }))
}

impl Rows<'_> {
    async fn next(&mut self) -> Result<Option<Cut>> {
        loop {
            if let Some(cut) = self.waiting.pop_front() {
                self.progress.add(cut.rows);
                return Ok(Some(cut));
            }
            let Some(cutter) = &mut self.cutter else { return Ok(None) };
            let piece: Option<Bytes> =
                self.answer.try_next().await.context(|| format!("copying {}", self.table.name))?;
            match piece {
                Some(piece) => {
                    cutter.push(&piece, |cut| self.waiting.push_back(cut));
                    self.pace.keep(piece.len()).await;
                }
                None => {
                    let last = self.cutter.take().and_then(Cutter::finish).ok_or_else(|| {
                        Error::new(
                            Kind::Corrupt,
                            format!("the copy of {} ended within a row", self.table.name),
                        )
                    })?;
                    self.waiting.extend(last);
                }
            }
        }
    }
}
