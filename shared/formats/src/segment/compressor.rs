//! Hashes and compresses on a thread of its own.

use std::io::{self, Write};
use std::sync::mpsc::{Receiver, Sender, SyncSender, channel, sync_channel};
use std::thread::JoinHandle;

use crate::digest::{Digest, Hashing};
use crate::error::{Context as _, Error, Kind, Result};

/// So many bytes of lines are handed over at once.
const BATCH_BYTES: usize = 256 * 1024;

/// Batches that wait for the thread: enough that neither side waits for the other's hiccups, and bounded.
const BATCHES_WAITING: usize = 4;

/// The writer's side of the thread. Dropped unfinished, the thread ends and drops what it wrote to.
pub(super) struct Compressor<W> {
    batch: Vec<u8>,
    full: SyncSender<Vec<u8>>,
    /// Batches that were compressed, to be filled again.
    empty: Receiver<Vec<u8>>,
    /// `None` once it has ended and told its result.
    thread: Option<JoinHandle<io::Result<Compressed<W>>>>,
}

/// The finished file.
pub(super) struct Compressed<W> {
    pub out: W,
    pub bytes: u64,
    pub sha256: Digest,
    pub content_sha256: Digest,
}

impl<W: Write + Send + 'static> Compressor<W> {
    pub(super) fn start(out: W, level: i32) -> Result<Compressor<W>> {
        let (full, waiting) = sync_channel(BATCHES_WAITING);
        let (done, empty) = channel();
        let work = move || compress(out, level, &waiting, &done);
        let thread = std::thread::Builder::new().name("compressor".into()).spawn(work);
        let thread = thread.context(|| "starting to compress a segment".to_owned())?;
        Ok(Compressor { batch: Vec::with_capacity(BATCH_BYTES), full, empty, thread: Some(thread) })
    }

    pub(super) fn take(&mut self, line: &[u8]) -> Result<()> {
        self.batch.extend_from_slice(line);
        if self.batch.len() < BATCH_BYTES { Ok(()) } else { self.hand_over() }
    }

    pub(super) fn finish(mut self) -> Result<Compressed<W>> {
        self.hand_over()?;
        let Compressor { full, thread, .. } = self;
        // The thread ends when nobody can send any more.
        drop(full);
        result(thread)
    }

    fn hand_over(&mut self) -> Result<()> {
        let next = self.empty.try_recv().unwrap_or_default();
        let batch = std::mem::replace(&mut self.batch, next);
        if self.full.send(batch).is_ok() {
            return Ok(());
        }
        // The thread takes nothing any more: it has failed, and says how.
        result(self.thread.take()).map(|_| ())
    }
}

fn result<W>(thread: Option<JoinHandle<io::Result<Compressed<W>>>>) -> Result<Compressed<W>> {
    let failed_before = || Error::new(Kind::Io, "writing a segment that could not be written before");
    let thread = thread.ok_or_else(failed_before)?;
    thread.join().expect("compressing does not panic").context(|| "writing a segment".to_owned())
}

fn compress<W: Write>(
    out: W,
    level: i32,
    full: &Receiver<Vec<u8>>,
    empty: &Sender<Vec<u8>>,
) -> io::Result<Compressed<W>> {
    let mut encoder = zstd::Encoder::new(Hashing::new(out), level)?;
    // Without it, half of all single flipped bits decode to other data in silence.
    encoder.include_checksum(true)?;
    let mut content = Hashing::new(encoder);
    while let Ok(mut batch) = full.recv() {
        content.write_all(&batch)?;
        batch.clear();
        // Nobody takes it back when the last line has come.
        let _ = empty.send(batch);
    }
    let (encoder, content_sha256, _) = content.finish();
    let (out, sha256, bytes) = encoder.finish()?.finish();
    Ok(Compressed { out, bytes, sha256, content_sha256 })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Takes so many bytes and is full then.
    struct Disk(usize);

    impl Write for Disk {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0 = self.0.checked_sub(bytes.len()).ok_or(io::ErrorKind::StorageFull)?;
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn a_full_disk_is_told_as_one_whenever_it_is_noticed() {
        let mut compressor = Compressor::start(Disk(0), 1).expect("a thread can be had");
        let line = vec![b'x'; BATCH_BYTES];
        let taken = (0..1000).try_for_each(|_| compressor.take(&line));
        let error = taken.and_then(|()| compressor.finish().map(|_| ())).expect_err("the disk is full");
        assert_eq!(error.kind(), Kind::NoSpace);
        let small = Compressor::start(Disk(0), 1).expect("a thread can be had");
        assert_eq!(small.finish().map(|_| ()).expect_err("full").kind(), Kind::NoSpace);
    }
}
