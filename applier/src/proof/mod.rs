//! Is the copy what production was at the cut?
//!
//! ```text
//! pass ends a transaction at a mark ─▶ snapshot exported ─▶ digests, beside later passes ─▶ data_sync_digests ┐
//! archive: proofs/<id>/ ──────────────────────────────────────────────────────────────────── verdict ◀───────┘
//!                                                             data_sync_consistency ◀────────────┘
//! ```
//! A digest that is not whole says nothing, and a table that was not compared is never called equal.

mod blame;
mod broken;
mod difference;
mod digest;
mod marked;
mod mend;
pub mod now;
mod overall;
mod questions;
mod rebuilt;
mod record;
pub mod report;
pub mod rows;
mod table_verdict;
mod verdict;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use syncdata_formats::error::{Error, Result};
use syncdata_formats::layout::SegmentSeq;
use syncdata_formats::manifest::Manifest;
use syncdata_formats::name::TableName;
use syncdata_formats::proof::{Cut, Mark};
use syncdata_service::config::Config;
use tokio::task::JoinHandle;

use crate::plan::position::Applied;
use crate::target::postgres::cursor::Checkpoint;
use crate::target::postgres::local::Local;

pub(crate) use self::digest::{comparable, rows as digest_of_rows};
pub(crate) use self::marked::marked;
pub use self::overall::Overall;
pub(crate) use self::rebuilt::Wanted;
pub use self::record::{Check, Found, TableFound, checks, found};
pub use self::table_verdict::{CheckType, Standing, Word};
pub use self::verdict::judge;
pub(crate) use self::verdict::{left_out, word};

/// The digests that are under way in this process.
#[derive(Debug, Default)]
pub struct Proofs {
    running: Mutex<Option<Running>>,
}

#[derive(Debug)]
struct Running {
    given_up: Arc<GivenUp>,
    task: JoinHandle<()>,
}

/// Tables whose digest is to end, with the reason.
#[derive(Debug, Default)]
struct GivenUp(Mutex<Ends>);

#[derive(Debug, Default)]
struct Ends {
    tables: BTreeMap<TableName, &'static str>,
    all: Option<&'static str>,
}

impl GivenUp {
    fn add(&self, table: &TableName, reason: &'static str) {
        self.lock().tables.entry(table.clone()).or_insert(reason);
    }

    /// Every digest that has not ended yet.
    fn add_all(&self, reason: &'static str) {
        self.lock().all.get_or_insert(reason);
    }

    fn reason(&self, table: &TableName) -> Option<&'static str> {
        let ends = self.lock();
        ends.tables.get(table).copied().or(ends.all)
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Ends> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Proofs {
    /// The copy stands where the mark is, and nobody moves it before this returns. Failing is no reason for a pass to.
    pub async fn begin(&self, config: &Config, local: &Local, mark: &Mark, cut: &Cut) {
        self.discard().await;
        let begun = async {
            let work = digest::Work::begin(config, local, mark, cut).await?;
            let given_up = Arc::new(GivenUp::default());
            let task = tokio::spawn(work.run(config.clone(), Arc::clone(&given_up)));
            *self.lock() = Some(Running { given_up, task });
            tracing::info!(proof = %mark.id, lsn = %cut.end_lsn, "digests begun");
            Ok::<_, Error>(())
        };
        if let Err(error) = begun.await {
            tracing::warn!(proof = %mark.id, error = %error.one_line(), "no digests for this proof");
        }
    }

    /// What a process that has ended left undone: begun again while the copy still stands there, else it is lost.
    pub async fn resume(&self, config: &Config, local: &Local, checkpoint: &Checkpoint) -> Result<()> {
        if self.is_running() {
            return Ok(());
        }
        let Some(left) = record::unfinished(local).await? else { return Ok(()) };
        let stands = checkpoint.segment.is_some_and(|own| is_at(&own, &left.cut));
        if stands {
            self.begin(config, local, &left.mark, &left.cut).await;
        } else {
            record::give_up_unfinished(local, "interrupted").await?;
        }
        Ok(())
    }

    /// These tables are about to be truncated: no snapshot would see their rows any more.
    pub fn make_way<'a>(&self, manifests: impl Iterator<Item = &'a Manifest>) {
        let running = self.lock();
        let Some(running) = running.as_ref() else { return };
        let truncated = manifests.flat_map(|manifest| &manifest.tables);
        for (table, _) in truncated.filter(|(_, counts)| counts.truncate > 0) {
            running.given_up.add(table, "truncated meanwhile");
        }
    }

    /// Whether this process has begun digests whose end nobody has waited for.
    pub fn has_begun(&self) -> bool {
        self.lock().is_some()
    }

    pub fn is_running(&self) -> bool {
        self.lock().as_ref().is_some_and(|running| !running.task.is_finished())
    }

    /// Waits until all digests have ended.
    pub async fn finish(&self) {
        let running = self.lock().take();
        if let Some(running) = running {
            // It has noted what became of each.
            let _ = running.task.await;
        }
    }

    async fn discard(&self) {
        let running = self.lock().take();
        if let Some(running) = running {
            running.task.abort();
            let _ = running.task.await;
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Option<Running>> {
        self.running.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The same number of another history is another cut.
fn is_at(own: &Applied, cut: &Cut) -> bool {
    own.link.seq == cut.seq && own.link.sha256 == cut.sha256
}

/// Where a segment with a mark ends.
pub fn cut_after(own: &Applied) -> Cut {
    Cut { seq: own.link.seq, sha256: own.link.sha256, end_lsn: own.end_lsn }
}

fn seq_of(number: i64) -> Result<SegmentSeq> {
    SegmentSeq::new(u64::try_from(number).unwrap_or(0))
}
