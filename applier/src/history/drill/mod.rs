//! A restore that is tried before it is needed: a table made from the archive alone as of the newest proof, and held
//! against what production said of itself there.
//!
//! ```text
//! proof: cut, digests ─▶ base copy, changes up to the cut ─▶ a table like the live one, in a schema of its own ─▶ verdict
//! ```
//! Of the live table only the shape is looked at, and no lock of it is kept: passes go on. The schema is there for as long
//! as the drill is; of one that was killed the next drill drops it.

mod record;
mod report;

use std::collections::BTreeMap;
use std::sync::Arc;

use syncdata_formats::error::{Error, Kind, Result};
use syncdata_formats::name::TableName;
use syncdata_formats::proof::{Buckets, Comparison, Layout, ProofManifest};
use syncdata_service::config::Config;
use syncdata_service::daemon::Stop;
use syncdata_service::faults;
use syncdata_service::postgres::ServerContext as _;
use syncdata_service::progress::{Progress, Unit};
use uuid::Uuid;

use self::record::Entry;
pub use self::report::Drill;
use super::Standing;
use super::into::{fill_copy, make_copy};
use crate::archive::hand_files::HandFiles;
use crate::archive::source::Source;
use crate::load::{Halt, shadow};
use crate::plan::not_found;
use crate::plan::offer::take_snapshot;
use crate::plan::position::Applied;
use crate::proof::{self, Wanted};
use crate::table::Table;
use crate::target::postgres::apply::FREE_PLANS;
use crate::target::postgres::local::Local;
use crate::target::postgres::schema;

const APPLICATION_NAME: &str = "syncdata-applier drill";

/// That table, or any that a proof covers. What goes wrong once it has begun is in the answer, and noted.
pub async fn drill(config: &Config, table: Option<&TableName>) -> Result<Drill> {
    let stop = Stop::new();
    stop.on_signals()?;
    let files = HandFiles::open(config)?;
    let local = Local::open_as(config, APPLICATION_NAME).await?;
    local.lock_drill().await?;
    let notes = Local::open_as(config, APPLICATION_NAME).await?;
    record::sweep(&notes).await?;

    let standing = Standing::read(&local, &files.source, None).await?;
    let (live, proof) = choose(&local, &files.source, &standing, table).await?;
    let entry = Entry::begin(&notes, &live.name, &proof).await?;
    let scratch = TableName::new(entry.schema(), live.name.name())?;
    let mut drill = Drill::new(&live.name, &proof);
    let making = Making {
        local: &local,
        notes: &notes,
        source: &files.source,
        archive_id: standing.archive_id,
        live: Arc::new(live),
        proof: &proof,
        entry,
        scratch,
    };
    let done = tokio::select! {
        done = making.run(&mut drill) => Some(done),
        () = stop.asked() => None,
    };
    match done {
        Some(Ok(())) => {}
        Some(Err(error)) => drill.fail(&error),
        None => {
            drill.give_up("interrupted");
            // Else the schema could not be dropped before the statement has ended.
            local.session.canceller().cancel().await?;
        }
    }
    drop(local);
    drill.seconds = drill.begun.elapsed().as_secs_f64();
    record::drop_schemas(&notes).await;
    entry.finish(&notes, drill.verdict.as_str(), drill.detail.as_deref()).await?;
    Ok(drill)
}

/// Its shape here, and the newest proof that covers it.
async fn choose(
    local: &Local,
    source: &Source,
    standing: &Standing,
    wanted: Option<&TableName>,
) -> Result<(Table, Arc<ProofManifest>)> {
    let names: Vec<TableName> = match wanted {
        Some(name) if !standing.states.contains_key(name) => {
            let error = Error::new(Kind::NotFound, format!("{name} is not in the whitelist"));
            return Err(error.hint("syncdata-applier list-tables shows what is"));
        }
        Some(name) => vec![name.clone()],
        None => standing.states.keys().cloned().collect(),
    };
    let mut here = schema::load(local.session.client(), &names).await?;
    if let Some(name) = wanted.filter(|name| !here.contains_key(name)) {
        return Err(Error::new(Kind::NotFound, not_found(name).to_string()));
    }
    let mut proofs: BTreeMap<&TableName, Arc<ProofManifest>> = BTreeMap::new();
    for id in source.proof_ids().await? {
        if here.keys().all(|name| proofs.contains_key(name)) {
            break;
        }
        let Some(proof) = source.proof(&id, standing.archive_id).await?.map(Arc::new) else { continue };
        for name in here.keys().filter(|name| proof.tables.contains_key(name)) {
            proofs.entry(name).or_insert_with(|| Arc::clone(&proof));
        }
    }
    let count = proofs.len().max(1) as u128;
    let place = usize::try_from(Uuid::new_v4().as_u128() % count).unwrap_or(0);
    let Some((name, proof)) = proofs.into_iter().nth(place) else {
        let message = match wanted {
            Some(name) => format!("the archive has no proof of {name}"),
            None => "the archive has no proof of any table that is here".to_owned(),
        };
        return Err(Error::new(Kind::NotFound, message)
            .hint("the archiver makes one every proof_every, and at once with: syncdata-archiver proof"));
    };
    let name = name.clone();
    let table = here.remove(&name).expect("it was looked for among these");
    Ok((table, proof))
}

struct Making<'a> {
    local: &'a Local,
    /// What is written here stays whatever becomes of the rows.
    notes: &'a Local,
    source: &'a Source,
    archive_id: Uuid,
    live: Arc<Table>,
    proof: &'a ProofManifest,
    entry: Entry,
    scratch: TableName,
}

impl Making<'_> {
    async fn run(&self, drill: &mut Drill) -> Result<()> {
        let proved = &self.proof.tables[&self.live.name];
        let (marked, at_cut) =
            proof::marked(self.source, self.archive_id, self.proof, &self.live.name).await?;
        let layout = Layout::of(&marked.relation);
        if let Err(reason) = proof::comparable(&layout, &marked.relation, &self.live) {
            drill.give_up(reason);
            return Ok(());
        }
        // Before all that takes long.
        let theirs = self.source.buckets(&self.proof.id, proved).await?;
        let table = match self.restore(at_cut, drill).await {
            Ok(table) => table,
            Err(Halt::Refused(refusal)) => {
                drill.give_up(refusal.reason);
                return Ok(());
            }
            Err(Halt::Failed(error)) => return Err(error),
        };
        faults::hit("drill.restored")?;

        let ours = self.digest(&table, &layout, marked.k, proved.rows).await?;
        let comparison = Comparison::of(&theirs, &ours);
        let left_out = proof::left_out(proved, &layout);
        let is_doubtful = !proved.not_comparable.is_empty();
        drill.verdict = proof::word(comparison.is_equal(), left_out.is_empty(), is_doubtful);
        let mut words = Vec::new();
        if !comparison.is_equal() {
            let (some, all) = (comparison.differing.len(), 1_u64 << marked.k);
            let rows = comparison.source_rows;
            words.push(format!("{some} of {all} buckets differ, production had {rows} rows"));
            drill.remedy = Some(format!("a new snapshot: {}", take_snapshot(&self.live.name)));
        }
        if !left_out.is_empty() {
            let equal = if comparison.is_equal() { "; all other columns are equal" } else { "" };
            words.push(format!("not compared: {}{equal}", left_out.join(", ")));
        }
        drill.detail = (!words.is_empty()).then(|| words.join("; "));
        faults::hit("drill.compared")
    }

    /// Refused: the archive does not have the table.
    async fn restore(&self, at_cut: Applied, drill: &mut Drill) -> Result<Table, Halt> {
        let (client, live) = (self.local.session.client(), &self.live);
        self.entry.make_schema(self.notes).await?;
        // Each of these locks the live table, and not for longer than it takes.
        make_copy(self.notes.session.client(), &live.name, &self.scratch).await?;
        let shadow = shadow::make(client, live, 0).await?;
        faults::hit("drill.made")?;

        let wanted = Wanted {
            local: self.local,
            source: self.source,
            archive_id: self.archive_id,
            applied: Some(at_cut),
            table: Arc::clone(live),
            reached: at_cut.end_lsn,
            proved: None,
        };
        let restore = async {
            client.batch_execute(FREE_PLANS).await.context(|| "preparing the transaction".to_owned())?;
            let rebuilt = wanted.make_in(shadow).await?;
            drill.base = Some(rebuilt.base);
            fill_copy(self.local, &live.name, &rebuilt.copy, &self.scratch).await
        };
        let (table, rows) = self.local.in_transaction(restore).await?;
        let size = "SELECT pg_total_relation_size($1::text::regclass)";
        let size = client.query_one(size, &[&self.scratch.sql()]).await;
        let size: i64 = size.context(|| "asking for the size of the table".to_owned())?.get(0);
        (drill.rows, drill.bytes) = (Some(rows), u64::try_from(size).ok());
        drill.restore_seconds = Some(drill.begun.elapsed().as_secs_f64());
        self.entry.restored(self.notes, drill).await?;
        Ok(Arc::unwrap_or_clone(table))
    }

    async fn digest(&self, table: &Table, layout: &Layout, k: u8, rows: u64) -> Result<Buckets> {
        let client = self.local.session.client();
        // The rows themselves, and no index.
        let sql = "SET enable_indexscan = off; SET enable_indexonlyscan = off; SET enable_bitmapscan = off";
        client.batch_execute(sql).await.context(|| "preparing to compare".to_owned())?;
        let mut progress = Progress::start("comparing", Unit::Rows, Some(rows));
        let buckets = proof::digest_of_rows(client, table, layout, k, |rows| {
            progress.add(rows - progress.done());
        });
        let buckets = buckets.await?;
        progress.finish();
        Ok(buckets)
    }
}
