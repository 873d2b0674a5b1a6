//! `prune`: what nobody needs any more leaves the archive.

use serde::{Deserialize, Serialize};
use serde_json::json;
use syncdata_formats::Result;
use syncdata_formats::signature::SigningKey;

use crate::poll::archiver::Archiver;
use crate::poll::steps::Poll;
use crate::prune::{self, Plan, Wanted};
use crate::source::connection::Work;
use crate::spool::SnapshotLock;
use crate::spool::executions::{Came, Kind, Trigger, noted};

/// As it travels to the daemon.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub(crate) struct Prune {
    /// Only says what would go.
    pub dry_run: bool,
}

/// Removes what nobody needs any more, or only says what that is.
pub(crate) async fn prune(archiver: &mut Archiver, prune: Prune, trigger: Trigger) -> Result<Plan> {
    if prune.dry_run {
        return prune_now(archiver, prune, trigger).await;
    }
    let spool_dir = archiver.config.spool_dir.clone();
    let came = |plan: &Plan| Came {
        counts: json!({"files": plan.removals().count(), "bytes": plan.bytes()}),
        is_idle: false,
        error: None,
    };
    noted(&spool_dir, Kind::Prune, trigger, prune_now(archiver, prune, trigger), came).await
}

async fn prune_now(archiver: &mut Archiver, Prune { dry_run }: Prune, trigger: Trigger) -> Result<Plan> {
    let keep_singles = match trigger {
        Trigger::Command => archiver.config.keep_singles,
        // That is done beside the polls.
        Trigger::Schedule => None,
    };
    let keep = (archiver.config.keep_days, keep_singles);
    if keep == (None, None) {
        return Err(prune::not_configured());
    }
    let _lock = match dry_run {
        true => None,
        false => Some(SnapshotLock::take(&archiver.config.spool_dir)?),
    };
    let slot = archiver.config.slot_name.clone();
    let mut connection = archiver.connect().await?;
    if !dry_run {
        connection.lock(Work::Snapshots, &slot).await?;
    }

    let plan = carry_out(archiver.begin(&mut connection).await?, keep, dry_run).await?;

    if !dry_run {
        connection.unlock(Work::Snapshots, &slot).await?;
        archiver.mark_pruned();
    }
    archiver.keep(connection);
    Ok(plan)
}

async fn carry_out(
    mut poll: Poll<'_>,
    (keep_days, keep_singles): (Option<u32>, Option<u32>),
    dry_run: bool,
) -> Result<Plan> {
    poll.refuse_diverged().await?;
    if let Some(away) = poll.outcome.away.take() {
        return Err(away.context("nothing was pruned"));
    }
    let captured = poll.captured().await?;
    let verify_key = poll.signing_key.map(SigningKey::verify_key);
    let (clock, flush) = (poll.position.at, poll.position.flush);
    let wanted = Wanted { keep_days, keep_singles, captured, verify_key, clock, flush, dry_run };
    prune::carry_out(poll.shipper.archive(), poll.spool, wanted).await
}
