//! How long an archive is waited for, and how often it is asked again.

use std::time::Duration;

use syncdata_service::backoff::Backoff;

/// See the module.
#[derive(Clone, Copy, Debug)]
pub struct Patience {
    /// For reaching the host, and again for each answer until we are logged in.
    pub connect: Duration,
    /// For an answer after that: a busy disk may take its time to flush a large file.
    pub answer: Duration,
    /// Waits between attempts: doubling from `retry_first`, `retries` of them.
    pub retry_first: Duration,
    pub retries: u32,
}

impl Default for Patience {
    /// Long enough for a hiccup. Longer absences are for the caller's own backoff.
    fn default() -> Patience {
        Patience {
            connect: Duration::from_secs(10),
            answer: Duration::from_secs(60),
            retry_first: Duration::from_millis(250),
            retries: 3,
        }
    }
}

/// The longest wait between two attempts.
const RETRY_MOST: Duration = Duration::from_secs(10);

impl Patience {
    /// The waits between attempts.
    pub(crate) fn backoff(self) -> Backoff {
        Backoff::bounded(self.retry_first, RETRY_MOST, self.retries)
    }
}
