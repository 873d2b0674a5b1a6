//! Work on a thread of its own, with a runtime of its own: what it computes and waits for holds up nobody.

use std::future::Future;

use syncdata_formats::error::{Error, Kind, Result};
use tokio::runtime::Builder;
use tokio::sync::oneshot;

/// Given up when nobody waits for it any more.
pub(super) async fn apart<T, W, F>(work: W) -> Result<T>
where
    T: Send + 'static,
    W: FnOnce() -> F + Send + 'static,
    F: Future<Output = Result<T>>,
{
    let (mut to, done) = oneshot::channel();
    let began = std::thread::Builder::new().name("api".into()).spawn(move || {
        let runtime = Builder::new_current_thread().enable_all().build();
        let result = match runtime {
            Ok(runtime) => runtime.block_on(async {
                tokio::select! {
                    result = work() => Some(result),
                    () = to.closed() => None,
                }
            }),
            Err(error) => Some(Err(Error::io("making a runtime", error))),
        };
        if let Some(result) = result {
            // Who asked may have gone in this moment.
            let _ = to.send(result);
        }
    });
    began.map_err(|error| Error::io("starting a thread", error))?;
    done.await.unwrap_or_else(|_| Err(Error::new(Kind::Io, "what was asked for has panicked")))
}
