//! Tells the archive how far this copy is, so that nothing is pruned that it still needs. An account that may only read
//! does not: then nobody waits for this copy, and a prune past it takes a resync.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use syncdata_service::postgres::ServerContext as _;

use syncdata_formats::ack::{Ack, AckName};
use syncdata_formats::error::{Error, Result};
use syncdata_formats::lsn::Lsn;
use syncdata_formats::manifest::FORMAT;
use syncdata_formats::name::TableName;
use syncdata_formats::snapshot::SnapshotId;
use syncdata_formats::time::Timestamp;

use crate::archive::source::Source;
use crate::plan::position::Checkpoint;
use crate::plan::state::TableState;
use crate::target::postgres::cursor::{self, Cursor};
use crate::target::postgres::local::Local;

/// An acknowledgement says when it was made: one that nobody renews is taken for that of a copy that is gone.
const RENEW_AFTER: Duration = Duration::from_secs(6 * 3600);

/// As much of the database's name as a file name has room for, beside two numbers.
const DATABASE_CHARS_MAX: usize = 30;

/// Writes this reader's acknowledgements; one for each process.
#[derive(Debug, Default)]
pub struct Acks(Mutex<Told>);

#[derive(Debug, Default)]
struct Told {
    /// Snapshots that are being read.
    loading: Vec<SnapshotId>,
    /// What was said last, and when.
    last: Option<(u64, Vec<SnapshotId>, Instant)>,
    /// The archive takes nothing from us.
    is_refused: bool,
}

impl Acks {
    /// From now on that snapshot is needed, until the next call.
    pub fn load(&self, snapshot: Option<&SnapshotId>) {
        self.told().loading = snapshot.cloned().into_iter().collect();
    }

    /// Says how far the copy is, if that is news. That it cannot be said keeps nothing else from going on.
    pub async fn tell(&self, local: &Local, source: &Source) {
        if self.told().is_refused {
            return;
        }
        if let Err(error) = self.try_to_tell(local, source).await {
            self.not_told(&error);
        }
    }

    async fn try_to_tell(&self, local: &Local, source: &Source) -> Result<()> {
        let (client, meta) = (local.session.client(), &local.meta);
        let checkpoint = Cursor::of(meta).read(client).await?;
        let states = cursor::table_states(client, meta).await?;
        let name = async {
            // What is pruned because of this must not be needed again after a crash.
            local.in_transaction(Cursor::of(meta).be_durable(client)).await?;
            name(local).await
        };
        self.say(source, &checkpoint, &states, name).await
    }

    /// The same of another copy, whose commits are on the disk, under a name that no other one has.
    pub async fn tell_as(
        &self,
        source: &Source,
        name: &str,
        checkpoint: &Checkpoint,
        states: &BTreeMap<TableName, TableState>,
    ) {
        if self.told().is_refused {
            return;
        }
        let said = self.say(source, checkpoint, states, async { name.parse() }).await;
        if let Err(error) = said {
            self.not_told(&error);
        }
    }

    async fn say(
        &self,
        source: &Source,
        checkpoint: &Checkpoint,
        states: &BTreeMap<TableName, TableState>,
        name: impl Future<Output = Result<AckName>>,
    ) -> Result<()> {
        let Some(archive_id) = checkpoint.archive_id else { return Ok(()) };
        let positions =
            states.values().filter(|table| table.state.needs_changes()).filter_map(|table| table.position);
        let needed = positions.min().unwrap_or(checkpoint.end_lsn()).min(checkpoint.end_lsn());
        let seq = match needed == checkpoint.end_lsn() {
            true => checkpoint.seq(),
            false => last_before(source, needed).await?,
        };
        let loading = {
            let told = self.told();
            let is_known = told.last.as_ref().is_some_and(|(last, loading, at)| {
                *last == seq && *loading == told.loading && at.elapsed() < RENEW_AFTER
            });
            if is_known {
                return Ok(());
            }
            told.loading.clone()
        };
        let name = name.await?;
        let (end_lsn, at) = (needed, Timestamp::now());
        source
            .acknowledge(Ack { format: FORMAT, archive_id, name, seq, end_lsn, at, loading: loading.clone() })
            .await?;
        self.told().last = Some((seq, loading, Instant::now()));
        Ok(())
    }

    fn not_told(&self, error: &Error) {
        // What is transient is tried again by the next pass.
        self.told().is_refused = !error.kind().is_transient();
        tracing::debug!(error = %error.one_line(), "the archive takes no acknowledgement: prunes do not wait for us");
    }

    /// A panic elsewhere leaves what was said.
    fn told(&self) -> MutexGuard<'_, Told> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The newest segment that ends at or before that; 0: there is none.
async fn last_before(source: &Source, needed: Lsn) -> Result<u64> {
    let listing = source.list(None).await?;
    let names = listing.names().map(|(_, name)| name);
    Ok(names.filter(|name| name.end_lsn <= needed).map(|name| name.seq.get()).max().unwrap_or(0))
}

/// Of this database in this cluster, and of no other.
async fn name(local: &Local) -> Result<AckName> {
    let select = "SELECT current_database()::text, d.oid, s.system_identifier \
        FROM pg_database d, pg_control_system() s WHERE d.datname = current_database()";
    let row = local.session.client().query_one(select, &[]).await;
    let row = row.context(|| "asking which database this is".to_owned())?;
    let (database, oid, cluster): (&str, u32, i64) = (row.get(0), row.get(1), row.get(2));
    let plain = |c: char| if c.is_ascii_alphanumeric() || c == '_' { c } else { '_' };
    let database: String = database.chars().take(DATABASE_CHARS_MAX).map(plain).collect();
    format!("{database}-{}-{oid}", cluster.cast_unsigned()).parse()
}
