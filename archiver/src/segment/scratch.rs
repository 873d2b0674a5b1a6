//! Change files in the spool that have no name yet.

use std::fs::File;
use std::io::{self, Write};
use std::path::PathBuf;

use syncdata_formats::Result;

use crate::segment::segmenter::Files;
use crate::spool::Spool;

/// A change file that has no name yet.
#[derive(Debug)]
pub(crate) struct Scratch {
    pub path: PathBuf,
    pub file: File,
}

pub(crate) struct ScratchFiles<'a> {
    spool: &'a Spool,
    count: usize,
}

impl ScratchFiles<'_> {
    pub(crate) fn of(spool: &Spool) -> ScratchFiles<'_> {
        ScratchFiles { spool, count: 0 }
    }
}

impl Files for ScratchFiles<'_> {
    type File = Scratch;

    fn open(&mut self) -> Result<Scratch> {
        let (path, file) = self.spool.scratch(self.count)?;
        self.count += 1;
        Ok(Scratch { path, file })
    }
}

impl Write for Scratch {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.file.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}
