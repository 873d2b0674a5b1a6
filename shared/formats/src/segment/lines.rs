//! Content, cut into lines without copying them.

use std::io::Read;
use std::ops::Range;

use super::content::Content;
use crate::error::{Error, Result};
use crate::manifest::ChangeFile;

const BUFFER_BYTES: usize = 256 * 1024;
/// A buffer that one long line has made larger than this shrinks when the line is done.
const KEEP_BYTES: usize = 8 << 20;

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
    pub(super) fn next(&mut self) -> Result<Option<Range<usize>>> {
        loop {
            if let Some(end) = memchr::memchr(b'\n', &self.buffer[self.searched..self.to]) {
                let line = self.from..self.searched + end;
                self.from = line.end + 1;
                self.searched = self.from;
                self.refuse_long(line.len())?;
                return Ok(Some(line));
            }
            self.searched = self.to;
            self.refuse_long(self.to - self.from)?;
            if !self.fill()? {
                return self.end().map(|()| None);
            }
        }
    }

    fn refuse_long(&self, bytes: usize) -> Result<()> {
        if bytes <= self.line_bytes_max {
            return Ok(());
        }
        Err(self.promised().refused(format!("a line is longer than {} bytes", self.line_bytes_max)))
    }

    /// Reads on; false at the end. The buffer doubles only when bytes that really arrived have filled it.
    fn fill(&mut self) -> Result<bool> {
        self.buffer.copy_within(self.from..self.to, 0);
        self.to -= self.from;
        self.searched -= self.from;
        self.from = 0;
        if self.to == self.buffer.len() {
            self.buffer.resize(self.buffer.len() * 2, 0);
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
