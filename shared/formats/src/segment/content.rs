//! A change file's content, as bytes, with its size and SHA-256: here, or ahead of the reader on a thread of its own.
//!
//! ```text
//! thread: file ─ SHA-256 ─ zstd ─ SHA-256 ─▶ a few pieces ─▶ lines, parsing
//! ```

use std::io::{self, Read, Write as _};
use std::sync::mpsc::{Receiver, Sender, SyncSender, channel, sync_channel};

use crate::digest::{Digest, Hashing};
use crate::error::{Context as _, Error, Kind, Result};
use crate::frame::{ChangeFile, Frame};

const PIECE_BYTES: usize = 256 * 1024;
/// Enough that neither waits for the other's odd moments; with those in hand about two megabytes.
const PIECES_AHEAD: usize = 6;

pub(super) enum Content<R> {
    Here { frame: Box<Frame<R>>, hash: Hashing<io::Sink> },
    Ahead(Ahead),
}

/// What a thread hands over.
enum Piece {
    /// That many from its start.
    Bytes(Vec<u8>, usize),
    /// All was read, and the file is as promised: the content's size and SHA-256.
    End(u64, Digest),
}

pub(super) struct Ahead {
    promised: ChangeFile,
    pieces: Receiver<Result<Piece>>,
    /// Pieces that were read are filled again: fresh memory costs as much as filling it.
    empty: Sender<Vec<u8>>,
    piece: Vec<u8>,
    from: usize,
    to: usize,
    end: Option<(u64, Digest)>,
}

impl<R: Read> Content<R> {
    pub(super) fn here(frame: Frame<R>) -> Content<R> {
        Content::Here { frame: Box::new(frame), hash: Hashing::new(io::sink()) }
    }

    /// Fills `output` from its start; 0 is the end.
    pub(super) fn read(&mut self, output: &mut [u8]) -> Result<usize> {
        match self {
            Content::Here { frame, hash } => {
                let n = frame.read(output)?;
                hash.write_all(&output[..n]).expect("a sink takes all");
                Ok(n)
            }
            Content::Ahead(ahead) => ahead.read(output),
        }
    }

    /// Size and SHA-256 of what was read; at the end, of all.
    pub(super) fn facts(&self) -> (u64, Digest) {
        match self {
            Content::Here { hash, .. } => (hash.bytes(), hash.digest()),
            Content::Ahead(ahead) => ahead.end.expect("asked for at the end"),
        }
    }

    pub(super) fn promised(&self) -> &ChangeFile {
        match self {
            Content::Here { frame, .. } => frame.promised(),
            Content::Ahead(ahead) => &ahead.promised,
        }
    }
}

impl Ahead {
    /// Dropped, it ends the thread at its next piece.
    pub(super) fn start<R: Read + Send + 'static>(mut frame: Frame<R>) -> Result<Ahead> {
        let (sender, pieces) = sync_channel(PIECES_AHEAD);
        let (empty, empties) = channel();
        let promised = frame.promised().clone();
        let work = move || {
            if let Err(error) = hand_over(&mut frame, &sender, &empties) {
                // Nobody may be listening any more: then nobody needs the error.
                let _ = sender.send(Err(error));
            }
        };
        let thread = std::thread::Builder::new().name("unpack".into());
        thread.spawn(work).context(|| "starting a thread to decompress".to_owned())?;
        Ok(Ahead { promised, pieces, empty, piece: Vec::new(), from: 0, to: 0, end: None })
    }

    fn read(&mut self, output: &mut [u8]) -> Result<usize> {
        if self.end.is_some() {
            return Ok(0);
        }
        if self.from == self.to {
            let gone = || Error::new(Kind::Io, "the thread that decompresses ended without a word");
            match self.pieces.recv().map_err(|_| gone())?? {
                Piece::Bytes(piece, to) => {
                    // The thread has ended when it needs none any more.
                    let _ = self.empty.send(std::mem::replace(&mut self.piece, piece));
                    (self.from, self.to) = (0, to);
                }
                Piece::End(bytes, digest) => {
                    self.end = Some((bytes, digest));
                    return Ok(0);
                }
            }
        }
        let n = output.len().min(self.to - self.from);
        output[..n].copy_from_slice(&self.piece[self.from..self.from + n]);
        self.from += n;
        Ok(n)
    }
}

fn hand_over<R: Read>(
    frame: &mut Frame<R>,
    pieces: &SyncSender<Result<Piece>>,
    empties: &Receiver<Vec<u8>>,
) -> Result<()> {
    let mut hash = Hashing::new(io::sink());
    loop {
        let mut piece = empties.try_recv().unwrap_or_default();
        if piece.is_empty() {
            piece = vec![0; PIECE_BYTES];
        }
        let n = frame.read(&mut piece)?;
        hash.write_all(&piece[..n]).expect("a sink takes all");
        let piece = if n > 0 { Piece::Bytes(piece, n) } else { Piece::End(hash.bytes(), hash.digest()) };
        if pieces.send(Ok(piece)).is_err() || n == 0 {
            return Ok(());
        }
    }
}
