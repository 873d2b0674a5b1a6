//! Whether the archive says something new of itself: head.json, looked at again and again.
//!
//! Its time is asked for, which costs nearly nothing, and it is read when that has changed. SFTP counts seconds: while a
//! time is young it is read all the same.

use std::time::Duration;

use syncdata_formats::error::Result;
use syncdata_formats::head::Head;
use syncdata_formats::time::Timestamp;
use tokio::time::{Instant, sleep_until};

use super::source::Source;

/// So long something else may be written under the same time.
const YOUNG: Duration = Duration::from_secs(2);

/// What was seen of head.json.
#[derive(Debug, Default)]
pub struct News {
    looked: Option<Instant>,
    written: Option<(Timestamp, Instant)>,
    head: Option<Head>,
}

impl News {
    /// Ends when head.json is another one than before. An archive that does not answer is news too: a pass says so.
    pub async fn come(&mut self, source: &Source, every: Duration) -> Result<()> {
        loop {
            if let Some(looked) = self.looked {
                sleep_until(looked + every).await;
            }
            self.looked = Some(Instant::now());
            let written = source.head_written_at().await?;
            let Some(written) = written else { continue };
            let now = Instant::now();
            let since = match self.written {
                Some((known, since)) if known == written => since,
                _ => now,
            };
            if now.duration_since(since) > YOUNG {
                continue;
            }
            let head = source.head().await?;
            self.written = Some((written, since));
            if head.is_some() && head != self.head {
                self.head = head;
                return Ok(());
            }
        }
    }
}
