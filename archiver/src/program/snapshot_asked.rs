//! A snapshot that the daemon takes because somebody asked for it who may not write into its spool: an operator of the
//! unit's group.

use std::convert::Infallible;
use std::thread;

use serde_json::json;
use syncdata_formats::error::Context as _;
use syncdata_formats::{Error, Kind, Result};
use syncdata_service::config::Config;
use syncdata_service::control::Response;
use tokio::sync::oneshot;

use crate::operations::snapshot::{Snapshot, snapshot};
use crate::program::answer::Answer;
use crate::program::client;
use crate::snapshot::Options;

/// What a program's own thread has.
const STACK_BYTES: usize = 8 << 20;

/// Whoever asked waits for the end of it. When they hang up it is given up, as Ctrl-C does.
pub(super) async fn answer(config: Config, options: Options) -> Response {
    let answer = match take(config, options).await {
        Ok(snapshot) => Answer::of_snapshot(snapshot),
        Err(error) => Answer::failed(2, &error),
    };
    Response::json(200, &json!(answer))
}

/// On a thread of its own: polls do not wait for it.
async fn take(config: Config, options: Options) -> Result<Snapshot> {
    let doing = || "starting the snapshot".to_owned();
    // Dropped with this future.
    let (_asker, asker_is_gone) = oneshot::channel::<Infallible>();
    let (to, taken) = oneshot::channel();
    let work = move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let taken = runtime.context(doing).and_then(|runtime| {
            runtime.block_on(async {
                // The daemon polls, as for any other command.
                let taking = snapshot(&config, &options, async || client::poll_now(&config).await);
                tokio::select! {
                    taken = taking => taken,
                    _ = asker_is_gone => Err(Error::new(Kind::Refused, "nobody waits for the snapshot any more")),
                }
            })
        });
        // Who asked may have gone; a snapshot that is complete stays.
        let _ = to.send(taken);
    };
    thread::Builder::new().name("snapshot".to_owned()).stack_size(STACK_BYTES).spawn(work).context(doing)?;
    taken.await.unwrap_or_else(|_| {
        Err(Error::new(Kind::Refused, "the snapshot broke off; the daemon's log says why"))
    })
}
