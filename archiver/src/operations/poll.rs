//! One poll, in this process.

use serde_json::json;
use syncdata_formats::Result;

use crate::poll::archiver::Archiver;
use crate::poll::outcome::Outcome;
use crate::spool::executions::{Came, Kind, Trigger, noted};

pub(crate) async fn poll(archiver: &mut Archiver, trigger: Trigger) -> Result<Outcome> {
    let spool_dir = archiver.config.spool_dir.clone();
    noted(&spool_dir, Kind::Poll, trigger, archiver.poll(), came).await
}

fn came(outcome: &Outcome) -> Came {
    let Outcome { segments, records, shipped, .. } = outcome;
    let errors = [&outcome.held_back, &outcome.away, &outcome.mistake];
    Came {
        counts: json!({"segments": segments, "records": records, "shipped": shipped, "gaps": outcome.gaps.len()}),
        is_idle: *segments == 0 && *shipped == 0 && outcome.gaps.is_empty(),
        error: errors.into_iter().flatten().next().map(|error| error.one_line()),
    }
}
