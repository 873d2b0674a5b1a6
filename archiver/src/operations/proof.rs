//! `proof`: digests of production's tables, made by the process that reads the stream.

use std::pin::pin;

use serde_json::json;
use syncdata_formats::Result;
use syncdata_service::config::Config;

use crate::operations::remembered::refuse_second_spool;
use crate::poll::archiver::Archiver;
use crate::proof::asking::Asks;
use crate::proof::{self, Made, Options};
use crate::spool::executions::{self, Came, Kind, Trigger};

/// Notes that one is made, and what came of it.
pub(crate) async fn noted(
    config: &Config,
    trigger: Trigger,
    making: impl Future<Output = Result<Made>>,
) -> Result<Made> {
    let came = |made: &Made| Came {
        counts: json!({"tables": made.tables, "rows": made.rows, "not_proved": made.not_proved.len()}),
        is_idle: false,
        error: None,
    };
    executions::noted(&config.spool_dir, Kind::Proof, trigger, making, came).await
}

/// In this process, with an archiver of its own.
pub(crate) async fn here(config: Config, options: &Options) -> Result<Made> {
    refuse_second_spool(&config).await?;
    noted(&config, Trigger::Command, made_here(&config, options)).await
}

async fn made_here(config: &Config, options: &Options) -> Result<Made> {
    let mut archiver = Archiver::new(config.clone())?;
    let watch = archiver.watch();
    let (asks, mut asked) = Asks::new();
    let mut proving = pin!(proof::make(config, options, &watch, &asks));
    loop {
        tokio::select! {
            made = &mut proving => return made,
            Some(ask) = asked.recv() => {
                let (to, _) = ask.taken(&watch);
                let polled = archiver.poll().await.map(drop);
                // Who asked waits for it.
                let _ = to.send(polled);
            }
        }
    }
}
