//! A file of the archive as something to read from: fetched on a thread of its own, a little ahead of whoever checks it,
//! and never all of it in memory or on a disk of ours.

use std::io::{self, Read, Write};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};

use crate::Archive;
use syncdata_formats::error::Result;
use syncdata_formats::layout::ArchivePath;

const PIECE_BYTES: usize = 256 << 10;
/// Enough to keep the network and the processor both at work.
const PIECES_AHEAD: usize = 8;

/// Hands the file to `check`. What the archive says wins over what was made of a file that it could not deliver.
pub(super) fn with_file<T: Send>(
    archive: &mut dyn Archive,
    path: &ArchivePath,
    check: impl FnOnce(&mut PipeReader) -> Result<T>,
) -> Result<T> {
    let (pieces, arriving) = sync_channel(PIECES_AHEAD);
    std::thread::scope(|scope| {
        let fetching = scope.spawn(move || {
            let mut writer = PipeWriter { pieces, piece: Vec::with_capacity(PIECE_BYTES), hung_up: false };
            let fetched = archive.read(path, 0, &mut writer);
            // What an error has left over is of no use to anybody.
            writer.send();
            (fetched, writer.hung_up)
        });
        let mut reader = PipeReader { arriving, piece: Vec::new(), at: 0 };
        let checked = check(&mut reader);
        // Has seen enough, perhaps: then the fetching ends too.
        drop(reader);
        let (fetched, hung_up) = fetching.join().expect("fetching does not panic");
        match fetched {
            Err(error) if !hung_up => Err(error),
            _ => checked,
        }
    })
}

struct PipeWriter {
    pieces: SyncSender<Vec<u8>>,
    piece: Vec<u8>,
    hung_up: bool,
}

impl PipeWriter {
    fn send(&mut self) {
        let piece = std::mem::replace(&mut self.piece, Vec::with_capacity(PIECE_BYTES));
        self.hung_up |= !piece.is_empty() && self.pieces.send(piece).is_err();
    }
}

impl Write for PipeWriter {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.piece.extend_from_slice(bytes);
        if self.piece.len() >= PIECE_BYTES {
            self.send();
        }
        if self.hung_up { Err(io::ErrorKind::BrokenPipe.into()) } else { Ok(bytes.len()) }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

pub(super) struct PipeReader {
    arriving: Receiver<Vec<u8>>,
    piece: Vec<u8>,
    at: usize,
}

impl Read for PipeReader {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.at == self.piece.len() {
            // Nobody sends any more: the end, or an error that the other side reports.
            let Ok(piece) = self.arriving.recv() else { return Ok(0) };
            (self.piece, self.at) = (piece, 0);
        }
        let n = buffer.len().min(self.piece.len() - self.at);
        buffer[..n].copy_from_slice(&self.piece[self.at..self.at + n]);
        self.at += n;
        Ok(n)
    }
}
