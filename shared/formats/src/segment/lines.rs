//! Content, cut into lines without copying them. Of a line that is longer than memory is meant for only the beginning is
//! kept.

use std::io::Read;
use std::ops::Range;

use super::content::Content;
use crate::error::{Error, Result};
use crate::frame::ChangeFile;

const BUFFER_BYTES: usize = 256 * 1024;
/// A buffer that one long line has made larger than this shrinks when the line is done.
const KEEP_BYTES: usize = 8 << 20;

/// Of a line that is too long: enough for the names of its table and operation.
const HEAD_BYTES: usize = 16 * 1024;

/// Where a line lies in the buffer.
pub(super) enum Line {
    Whole(Range<usize>),
    /// The beginning of one that is too long. Nothing is read before the rest of it is passed over.
    Long(Range<usize>),
}

pub(super) struct Lines<R> {
    content: Content<R>,
    buffer: Vec<u8>,
    /// What is not yet handed out, and how far it was searched for a line end.
    from: usize,
    searched: usize,
    to: usize,
    line_bytes_max: usize,
}

impl<R: Read> Lines<R> {
    pub(super) fn new(content: Content<R>, line_bytes_max: usize) -> Lines<R> {
        let buffer = vec![0; BUFFER_BYTES];
        Lines { content, buffer, from: 0, searched: 0, to: 0, line_bytes_max }
    }

    pub(super) fn limit_lines(&mut self, line_bytes_max: usize) {
        self.line_bytes_max = line_bytes_max;
    }

    pub(super) fn line_bytes_max(&self) -> usize {
        self.line_bytes_max
    }

    #[cfg(test)]
    pub(super) fn buffer_bytes(&self) -> usize {
        self.buffer.capacity()
    }

    pub(super) fn promised(&self) -> &ChangeFile {
        self.content.promised()
    }

    pub(super) fn get(&self, line: Range<usize>) -> &[u8] {
        &self.buffer[line]
    }

    /// The next line, without its line end. `None` is the end of a content whose size and SHA-256 are as promised.
    pub(super) fn next(&mut self) -> Result<Option<Line>> {
        loop {
            if let Some(end) = memchr::memchr(b'\n', &self.buffer[self.searched..self.to]) {
                let line = self.from..self.searched + end;
                if line.len() > self.line_bytes_max {
                    return Ok(Some(self.long()));
                }
                self.from = line.end + 1;
                self.searched = self.from;
                return Ok(Some(Line::Whole(line)));
            }
            self.searched = self.to;
            if self.to - self.from > self.line_bytes_max {
                return Ok(Some(self.long()));
            }
            if !self.fill()? {
                return self.end().map(|()| None);
            }
        }
    }

    fn long(&self) -> Line {
        Line::Long(self.from..self.to.min(self.from + HEAD_BYTES))
    }

    /// Passes over the rest of a line whose beginning was handed out; how long it is.
    pub(super) fn skip(&mut self) -> Result<u64> {
        let mut bytes = 0;
        loop {
            if let Some(end) = memchr::memchr(b'\n', &self.buffer[self.from..self.to]) {
                bytes += end as u64;
                self.from += end + 1;
                self.searched = self.from;
                return Ok(bytes);
            }
            bytes += (self.to - self.from) as u64;
            (self.from, self.searched, self.to) = (0, 0, 0);
            self.buffer.truncate(BUFFER_BYTES);
            self.buffer.shrink_to_fit();
            self.to = self.content.read(&mut self.buffer)?;
            if self.to == 0 {
                // Something was there: its size and SHA-256 cannot make it a line.
                self.end()?;
                return Err(self.refused("its last line has no end"));
            }
        }
    }

    /// Reads on; false at the end. The buffer doubles only when bytes that really arrived have filled it.
    fn fill(&mut self) -> Result<bool> {
        self.buffer.copy_within(self.from..self.to, 0);
        self.to -= self.from;
        self.searched -= self.from;
        self.from = 0;
        if self.to == self.buffer.len() {
            let most = self.line_bytes_max.saturating_add(1).max(BUFFER_BYTES);
            self.buffer.resize((self.buffer.len() * 2).min(most), 0);
        } else if self.buffer.len() > KEEP_BYTES && self.to < BUFFER_BYTES {
            self.buffer.truncate(BUFFER_BYTES);
            self.buffer.shrink_to_fit();
        }
        let n = self.content.read(&mut self.buffer[self.to..])?;
        self.to += n;
        Ok(n > 0)
    }

    fn end(&self) -> Result<()> {
        let promised = self.promised();
        let (bytes, sha256) = self.content.facts();
        let problem = if bytes != promised.content_bytes {
            format!("its content should have {} bytes and has {bytes}", promised.content_bytes)
        } else if sha256 != promised.content_sha256 {
            format!("its content's SHA-256 should be {} and is {sha256}", promised.content_sha256)
        } else if self.to != self.from {
            "its last line has no end".to_owned()
        } else {
            return Ok(());
        };
        Err(promised.refused(problem))
    }

    pub(super) fn refused(&self, problem: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Error {
        self.promised().refused(problem)
    }
}
