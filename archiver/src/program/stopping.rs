//! Work that somebody asks to stop.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use syncdata_formats::{Error, Kind};
use syncdata_service::daemon::Stop;
use syncdata_service::postgres::Canceller;
use tracing::warn;

/// A poll that was asked to stop may end by itself for so long; then it is abandoned, which loses nothing.
const GRACE: Duration = Duration::from_secs(7);

/// So long a server is told that nobody waits for its answer any more; one that stands still hears nothing.
const TELLING_MAX: Duration = Duration::from_secs(2);

/// `None` when it had to be abandoned.
pub(crate) async fn unless_stopped<T>(
    work: impl Future<Output = T>,
    stop: &Stop,
    canceller: &Arc<Mutex<Option<Canceller>>>,
) -> Option<T> {
    let done = stop.grant(GRACE, work).await;
    if done.is_none() {
        warn!("stopping in the middle of a poll; the next run reads it again");
        let canceller = canceller.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(canceller) = canceller {
            let told = tokio::time::timeout(TELLING_MAX, canceller.cancel()).await;
            let told = told.unwrap_or_else(|_| Err(Error::new(Kind::Unreachable, "it does not answer")));
            if let Err(error) = told {
                warn!(error = %error.one_line(), "the server was not told; its process ends by itself");
            }
        }
    }
    done
}
