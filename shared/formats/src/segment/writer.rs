//! Writing a change file.
//!
//! ```text
//! rows ─▶ SegmentWriter ─ batches of lines ─▶ thread: SHA-256, zstd, SHA-256 ─▶ W
//! ```
//! Compressing takes about as long as all else that is done with a row, so it has a thread of its own.

use std::fmt;
use std::io::Write;

use super::compressor::{Compressed, Compressor};
use super::{Summary, tally::Tally};
use crate::change::{Commit, Op};
use crate::error::{Error, Kind, Result};
use crate::lsn::Lsn;
use crate::name::TableName;

/// Compresses, hashes and counts on the way to `W`. Nothing is complete before `finish`.
pub struct SegmentWriter<W> {
    lines: Compressor<W>,
    content_bytes: u64,
    tally: Tally,
    last_table: Option<(TableName, usize)>,
    commit_line: Vec<u8>,
}

impl<W: Write + Send + 'static> SegmentWriter<W> {
    /// `start_lsn` is the end of the segment before, or where the slot began; `level` is zstd's.
    pub fn new(out: W, level: i32, start_lsn: Lsn) -> Result<SegmentWriter<W>> {
        Ok(SegmentWriter {
            lines: Compressor::start(out, level)?,
            content_bytes: 0,
            tally: Tally::new(start_lsn),
            last_table: None,
            commit_line: Vec::new(),
        })
    }

    /// Takes a row's line, as `LineBuilder::finish` gives it.
    pub fn row(&mut self, table: &TableName, op: Op, line: &[u8]) -> Result<()> {
        if line.last() != Some(&b'\n') {
            return Err(Error::new(Kind::BadInput, format!("a line of {table} without a line end")));
        }
        let number = match &self.last_table {
            Some((last, number)) if last == table => *number,
            _ => {
                let number = self.tally.number_of(table);
                self.last_table = Some((table.clone(), number));
                number
            }
        };
        self.write(line)?;
        self.tally.row(number, op);
        Ok(())
    }

    /// Closes the transaction whose rows were given. A `changes` that is not their number is an error.
    pub fn commit(&mut self, commit: &Commit) -> Result<()> {
        self.tally.commit(commit).map_err(|problem| Error::new(Kind::Corrupt, problem))?;
        let mut line = std::mem::take(&mut self.commit_line);
        line.clear();
        commit.write_line(&mut line);
        let written = self.write(&line);
        self.commit_line = line;
        written
    }

    /// Bytes of lines so far: by these a segment is cut.
    pub fn content_bytes(&self) -> u64 {
        self.content_bytes
    }

    /// Row lines so far.
    pub fn records(&self) -> u64 {
        self.tally.records
    }

    pub fn transactions(&self) -> u64 {
        self.tally.transactions
    }

    /// Rows since the last commit: the `changes` of the COMMIT that comes next.
    pub fn open_rows(&self) -> u64 {
        self.tally.open_rows
    }

    /// The end of the last commit, `start_lsn` before the first.
    pub fn end_lsn(&self) -> Lsn {
        self.tally.end_lsn
    }

    /// Ends the frame and hands back what it was written to. (Durability is the caller's.)
    pub fn finish(self) -> Result<(W, Summary)> {
        let SegmentWriter { lines, content_bytes, tally, .. } = self;
        let (Some(span), Some(last_commit_ts), 0) = (tally.span, tally.last_commit_ts, tally.open_rows)
        else {
            let message = format!(
                "a segment of {} transactions with {} rows after the last COMMIT",
                tally.transactions, tally.open_rows
            );
            return Err(Error::new(Kind::BadInput, message));
        };
        let Compressed { out, bytes, sha256, content_sha256 } = lines.finish()?;
        let summary = Summary {
            bytes,
            sha256,
            content_bytes,
            content_sha256,
            records: tally.records,
            transactions: tally.transactions,
            tables: tally.tables(),
            start_lsn: tally.start_lsn,
            end_lsn: tally.end_lsn,
            span,
            last_commit_ts,
        };
        Ok((out, summary))
    }

    fn write(&mut self, line: &[u8]) -> Result<()> {
        self.lines.take(line)?;
        self.content_bytes += line.len() as u64;
        Ok(())
    }
}

impl<W> fmt::Debug for SegmentWriter<W> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SegmentWriter").field("tally", &self.tally).finish_non_exhaustive()
    }
}
