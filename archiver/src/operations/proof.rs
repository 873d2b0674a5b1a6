//! `proof`: digests of production's tables, made by the process that reads the stream.

use std::pin::pin;

use syncdata_formats::Result;
use syncdata_service::config::Config;
use tokio::sync::mpsc;

use crate::poll::archiver::Archiver;
use crate::proof::{self, Made, Options};

/// In this process, with an archiver of its own.
pub(crate) async fn here(config: Config, options: &Options) -> Result<Made> {
    let mut archiver = Archiver::new(config.clone())?;
    let watch = archiver.watch();
    let (asks, mut asked) = mpsc::channel(1);
    let mut proving = pin!(proof::make(&config, options, &watch, &asks));
    loop {
        tokio::select! {
            made = &mut proving => return made,
            Some(to) = asked.recv() => {
                let polled = archiver.poll().await.map(drop);
                // Who asked waits for it.
                let _ = to.send(polled);
            }
        }
    }
}
