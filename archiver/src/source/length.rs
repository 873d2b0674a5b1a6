//! How long an answer of the slot is. Of a long one somebody who waits is told.

use syncdata_service::progress::{Progress, Unit};
use tracing::info;

#[derive(Debug, Default)]
pub(super) struct Length {
    pub lines: u64,
    pub bytes: u64,
    progress: Option<Progress>,
}

impl Length {
    /// A second's work.
    const LONG_LINES: u64 = 200_000;
    /// Asking the clock for every line would cost more than reading some of them.
    const STEP_LINES: u64 = 4096;

    pub(super) fn add(&mut self, bytes: usize) {
        self.lines += 1;
        self.bytes += bytes as u64;
        if self.lines >= Length::LONG_LINES && self.lines.is_multiple_of(Length::STEP_LINES) {
            let progress =
                self.progress.get_or_insert_with(|| Progress::start("reading the slot", Unit::Rows, None));
            progress.add(self.lines - progress.done());
        }
    }

    /// The answer has ended.
    pub(super) fn finish(self) {
        if let Some(mut progress) = self.progress {
            progress.add(self.lines - progress.done());
            progress.finish();
            info!(bytes = self.bytes, "the server kept this answer in temporary files while it was read");
        }
    }
}
