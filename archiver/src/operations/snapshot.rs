//! `snapshot`: a copy of tables, and a poll that brings the changes which belong to it.

use serde::{Deserialize, Serialize};
use serde_json::json;
use syncdata_formats::Result;
use syncdata_service::config::Config;

use crate::snapshot::{self, Options, Taken};
use crate::spool::executions::{Came, Kind, Trigger, noted};

#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Snapshot {
    pub taken: Taken,
    /// Why the changes up to its end are not in the archive yet. It stands all the same.
    pub not_polled: Option<String>,
}

/// `poll` has the archiver of these settings poll once, wherever it runs.
pub(crate) async fn snapshot(
    config: &Config,
    options: &Options,
    poll: impl AsyncFn() -> Result<()>,
) -> Result<Snapshot> {
    let came = |taken: &Taken| Came {
        counts: json!({
            "tables": taken.tables, "rows": taken.rows, "bytes_sent": taken.bytes_sent, "left_out": taken.left_out.len(),
        }),
        is_idle: false,
        error: None,
    };
    let taking = snapshot::take(config, options, &poll);
    let taken = noted(&config.spool_dir, Kind::Snapshot, Trigger::Command, taking, came).await?;
    let not_polled = poll().await.err().map(|error| error.one_line());
    Ok(Snapshot { taken, not_polled })
}
