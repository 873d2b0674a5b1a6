//! A compressed file of the archive: what a manifest promises of it, and its decompression, which holds it to that. One
//! zstd frame, as long as promised before and after.

use std::io::{self, Read, Write as _};

use serde::{Deserialize, Serialize};
use zstd::stream::raw::{DParameter, Decoder, Operation as _};

use crate::digest::{Digest, Hashing};
use crate::error::{Context as _, Error, Kind, Result};

/// A frame's window is memory that the reader has to hold. 128 MiB is what every level of zstd stays within,
/// and what `zstd --long=27` and a plain `zstdcat` accept.
const WINDOW_LOG_MAX: u32 = 27;
const INPUT_BYTES: usize = 128 * 1024;

/// Magic number and frame header descriptor: what is looked at before zstd is asked.
const HEAD_BYTES: usize = 5;
const MAGIC: [u8; 4] = [0x28, 0xB5, 0x2F, 0xFD];
const HAS_CHECKSUM: u8 = 0b100;

/// What a manifest promises of a file beside it, compressed and as content.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ChangeFile {
    pub file: String,
    pub bytes: u64,
    pub sha256: Digest,
    pub content_bytes: u64,
    pub content_sha256: Digest,
}

impl ChangeFile {
    /// Size and SHA-256 of the compressed file; never reads far beyond the size that is promised.
    pub fn check(&self, source: &mut dyn Read) -> Result<()> {
        let mut bounded = source.take(self.bytes.saturating_add(1));
        let (sha256, bytes) = Digest::of_reader(&mut bounded).context(|| format!("reading {}", self.file))?;
        self.check_facts(bytes, sha256)
    }

    fn check_facts(&self, bytes: u64, sha256: Digest) -> Result<()> {
        if bytes != self.bytes {
            let found = if bytes > self.bytes { "more".to_owned() } else { bytes.to_string() };
            return Err(self.refused(format!("it should have {} bytes and has {found}", self.bytes)));
        }
        if sha256 != self.sha256 {
            return Err(self.refused(format!("its SHA-256 should be {} and is {sha256}", self.sha256)));
        }
        Ok(())
    }

    /// The file is named, and what was expected and found.
    pub(crate) fn refused(&self, problem: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Error {
        Error::new(Kind::Corrupt, format!("{} is not what its manifest says", self.file))
            .caused_by(problem)
            .of_file(&self.file)
            .hint("nothing of it was applied; bring the file back from a sound copy or from the archiver's spool")
    }
}

pub(crate) struct Frame<R> {
    promised: ChangeFile,
    source: R,
    /// What was read of it.
    compressed: Hashing<io::Sink>,
    decoder: Decoder<'static>,
    input: Box<[u8]>,
    input_from: usize,
    input_to: usize,
    produced: u64,
    stage: Stage,
}

enum Stage {
    Head,
    /// zstd may hold content that did not fit into the last output.
    Flush,
    Body,
    End,
}

impl<R: Read> Frame<R> {
    pub(crate) fn new(source: R, promised: ChangeFile) -> Result<Frame<R>> {
        let decoder = || {
            let mut decoder = Decoder::new()?;
            decoder.set_parameter(DParameter::WindowLogMax(WINDOW_LOG_MAX))?;
            Ok(decoder)
        };
        Ok(Frame {
            decoder: decoder().map_err(|error| Error::io("starting to decompress", error))?,
            promised,
            source,
            compressed: Hashing::new(io::sink()),
            input: vec![0; INPUT_BYTES].into_boxed_slice(),
            input_from: 0,
            input_to: 0,
            produced: 0,
            stage: Stage::Head,
        })
    }

    pub(crate) fn promised(&self) -> &ChangeFile {
        &self.promised
    }

    /// Fills `output` from its start. 0 is the end: of the frame, of the file, with the file's size and SHA-256
    /// as promised.
    pub(crate) fn read(&mut self, output: &mut [u8]) -> Result<usize> {
        loop {
            match self.stage {
                Stage::End => return Ok(0),
                Stage::Head => {
                    self.read_head()?;
                    self.stage = Stage::Body;
                }
                Stage::Flush => {}
                Stage::Body if self.input_from == self.input_to => {
                    self.input_from = 0;
                    self.input_to = 0;
                    if self.refill()? == 0 {
                        return Err(self.cut_off());
                    }
                }
                Stage::Body => {}
            }
            let written = self.decompress(output)?;
            if written > 0 {
                return Ok(written);
            }
        }
    }

    fn read_head(&mut self) -> Result<()> {
        while self.input_to < HEAD_BYTES {
            if self.refill()? == 0 {
                return Err(self.cut_off());
            }
        }
        if self.input[..4] != MAGIC {
            return Err(self.promised.refused("it does not begin with a zstd frame"));
        }
        if self.input[4] & HAS_CHECKSUM == 0 {
            return Err(self.promised.refused("its zstd frame has no checksum"));
        }
        Ok(())
    }

    /// Appends to what is there; never reads far beyond the promised size.
    fn refill(&mut self) -> Result<usize> {
        let left = (self.promised.bytes - self.compressed.bytes()).saturating_add(1);
        let room = (INPUT_BYTES - self.input_to).min(usize::try_from(left).unwrap_or(INPUT_BYTES));
        let n = loop {
            match self.source.read(&mut self.input[self.input_to..self.input_to + room]) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(Error::io(format!("reading {}", self.promised.file), error)),
                Ok(n) => break n,
            }
        };
        let arrived = &self.input[self.input_to..self.input_to + n];
        self.compressed.write_all(arrived).expect("a sink takes all");
        self.input_to += n;
        if self.compressed.bytes() > self.promised.bytes {
            return Err(self.promised.refused(format!("it has more than {} bytes", self.promised.bytes)));
        }
        Ok(n)
    }

    fn decompress(&mut self, output: &mut [u8]) -> Result<usize> {
        // One byte more than is promised is enough to know: a bomb goes off no further.
        let left = (self.promised.content_bytes - self.produced).saturating_add(1);
        let room = output.len().min(usize::try_from(left).unwrap_or(usize::MAX));
        let input = &self.input[self.input_from..self.input_to];
        let status = self
            .decoder
            .run_on_buffers(input, &mut output[..room])
            .map_err(|error| self.promised.refused(format!("zstd: {error}")))?;
        self.input_from += status.bytes_read;
        self.produced += status.bytes_written as u64;
        if self.produced > self.promised.content_bytes {
            let message = format!("its content is longer than {} bytes", self.promised.content_bytes);
            return Err(self.promised.refused(message));
        }
        if status.remaining == 0 {
            self.end()?;
            self.stage = Stage::End;
        } else {
            self.stage = if status.bytes_written == room { Stage::Flush } else { Stage::Body };
        }
        Ok(status.bytes_written)
    }

    /// The frame is over: so must the file be.
    fn end(&mut self) -> Result<()> {
        let unread = self.input_to - self.input_from;
        let (end, promised) = (self.compressed.bytes() - unread as u64, self.promised.bytes);
        if end != promised {
            return Err(self.promised.refused(format!("its zstd frame ends at byte {end} of {promised}")));
        }
        self.input_from = 0;
        self.input_to = 0;
        // Refuses a byte more than promised; there must be none.
        self.refill()?;
        self.promised.check_facts(self.compressed.bytes(), self.compressed.digest())
    }

    fn cut_off(&self) -> Error {
        let (found, promised) = (self.compressed.bytes(), self.promised.bytes);
        self.promised
            .refused(format!("it ends after {found} of {promised} bytes, in the middle of its frame"))
    }
}
