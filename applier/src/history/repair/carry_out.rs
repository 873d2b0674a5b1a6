//! What a repair writes: rows put together in shadows, and what differs brought over, in one transaction.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use syncdata_formats::error::{Error, Kind, Result};
use syncdata_formats::manifest::OpCounts;
use syncdata_formats::name::TableName;
use syncdata_service::faults;
use syncdata_service::postgres::ServerContext as _;
use tokio::sync::mpsc;

use super::feed::{self, Item, Wanted};
use super::merge::Merge;
use super::origins::Search;
use super::plan::TablePlan;
use super::shadow::Shadow;
use super::{Repair, Scans, Searches, bytes_of, progress};
use crate::batch::Place;
use crate::history::BATCHES_AHEAD;
use crate::history::report::Report;
use crate::history::report::{Changed, NotRebuilt};
use crate::load::Halt;
use crate::target::postgres::apply::{FREE_PLANS, Outcome, Writer};
use crate::target::postgres::bystanders::Bystanders;
use crate::target::postgres::cursor::{self, Cursor};
use crate::target::postgres::ledger::{self, Entry};

impl Repair<'_> {
    /// Everything that is written: the work of one transaction.
    pub(super) async fn carry_out(
        &mut self,
        scans: Scans,
        searches: Searches,
        report: &mut Report,
    ) -> Result<()> {
        let started = Instant::now();
        let client = self.local.session.client();
        let mut writer = Writer::new(self.local.replica);
        writer.begin(client).await?;
        self.local.announce_writes().await?;
        Cursor::of_group(&self.local.meta, &self.standing.group)
            .claim(client, &self.standing.checkpoint)
            .await?;
        let wanted = self.wanted(scans, searches, report).await?;
        let wanted = self.put_together(&mut writer, wanted).await?;
        let mut entries = Vec::new();
        client.batch_execute(FREE_PLANS).await.context(|| "preparing the transaction".to_owned())?;
        let mut bystanders = Bystanders::of(self.local, &self.plan.tables.keys().collect()).await?;
        for (name, table) in &self.plan.tables {
            let Some(wanted) = wanted.get(&name.to_string()) else { continue };
            let (changed, not_rebuilt) = self.merge(wanted, &writer, table, &mut bystanders).await?;
            if changed.total() > 0 {
                cursor::outdate_digests(client, &self.local.meta, name, "replayed meanwhile").await?;
            }
            entries.push(self.entry(name, changed));
            if let Some(table) = report.tables.get_mut(&name.to_string()) {
                table.changed = Some(changed);
                table.not_rebuilt = Some(not_rebuilt);
            }
        }
        bystanders.must_be_untouched(self.local, "rows of the range").await?;
        ledger::log(client, &self.local.meta, &entries, started.elapsed()).await?;
        faults::hit("replay.before_commit")?;
        Ok(())
    }

    /// Makes the shadows. A table whose rows have no room in one is left alone.
    async fn wanted(
        &self,
        mut scans: Scans,
        mut searches: Searches,
        report: &mut Report,
    ) -> Result<HashMap<String, Wanted>> {
        let mut wanted = HashMap::new();
        for (number, (name, plan)) in self.plan.tables.iter().enumerate() {
            let name = name.to_string();
            let (Some(scan), Some(search)) = (scans.remove(&name), searches.remove(&name)) else { continue };
            let line = |place: Place| (place.tx.seq, place.line);
            let found: HashSet<(u64, u64)> = search.found().map(line).collect();
            let parts = scan.parts().map(line).filter(|part| !found.contains(part)).collect();
            let has_parts = search.has_not_found();
            let mut told = scan.told.clone();
            told.add(&search.told);
            let shadow = Shadow::new(number, &plan.table, &plan.key, &plan.relation, &told, has_parts);
            let shadow = match shadow {
                Ok(shadow) => shadow,
                Err(Halt::Refused(refusal)) => {
                    report.tables.remove(&name);
                    report.left_alone.insert(name, refusal.reason);
                    continue;
                }
                Err(Halt::Failed(error)) => return Err(error),
            };
            shadow.create(self.local.session.client()).await?;
            let Search { keys: found, segments: older, .. } = search;
            wanted.insert(name, Wanted { scan, found, older, parts, shadow: Arc::new(shadow) });
        }
        Ok(wanted)
    }

    /// The second reading: the records that matter go into the shadows.
    async fn put_together(
        &mut self,
        writer: &mut Writer,
        wanted: HashMap<String, Wanted>,
    ) -> Result<Arc<HashMap<String, Wanted>>> {
        let wanted = Arc::new(wanted);
        let segments = self.segments_from_origins(&wanted);
        let mut progress = progress("putting rows together", &segments);
        for segment in &segments {
            let Some(file) = self.files.get(segment).await? else { continue };
            let shares = self.shares(segment, &file)?;
            let (sender, mut items) = mpsc::channel(BATCHES_AHEAD);
            let (read, wanted_here) = (segment.clone(), Arc::clone(&wanted));
            let line_bytes_max = self.files.source.line_bytes_max();
            let feeding = tokio::task::spawn_blocking(move || {
                feed::segment(&wanted_here, shares, (&read, &file), line_bytes_max, &sender)
            });
            while let Some(item) = items.recv().await {
                self.write(writer, item?, &wanted).await?;
            }
            feeding.await.expect("reading does not panic")?;
            progress.add(bytes_of(segment.manifest()));
        }
        progress.finish();
        Ok(wanted)
    }

    async fn write(&self, writer: &mut Writer, item: Item, wanted: &HashMap<String, Wanted>) -> Result<()> {
        match item {
            Item::Emptied(table) => match wanted.get(&table) {
                Some(wanted) => wanted.shadow.empty(self.local.session.client()).await,
                None => Ok(()),
            },
            Item::Batch(prepared) => match writer.apply(&self.local.session, &prepared).await? {
                Outcome::Applied(_) => Ok(()),
                Outcome::Rejected(rejection) => Err(Error::new(
                    Kind::Rejected,
                    format!(
                        "Failed to apply changes: segment {}, line {}: {}",
                        rejection.place.tx.seq,
                        rejection.place.line,
                        rejection.words()
                    ),
                )
                .hint("nothing was changed; mend the table, or leave it out with --tables")),
            },
        }
    }

    async fn merge(
        &self,
        wanted: &Wanted,
        writer: &Writer,
        plan: &TablePlan,
        bystanders: &mut Bystanders,
    ) -> Result<(Changed, NotRebuilt)> {
        let client = self.local.session.client();
        let mut merge = Merge {
            shadow: &wanted.shadow,
            meta: &self.local.meta,
            emptied: wanted.scan.emptied,
            strange: !wanted.scan.strange.is_empty(),
            replica: self.local.replica,
            beside: bystanders.beside.as_mut(),
        };
        let done = merge.run(client).await?;
        if writer.duplicates(client, &plan.table).await? {
            let message = format!(
                "two rows of {} would have the same value in a deferrable unique constraint",
                plan.table.name
            );
            return Err(Error::new(Kind::Rejected, message).hint(
                "nothing was changed; one of them was changed here by hand: mend it, or resync the table",
            ));
        }
        Ok(done)
    }

    fn entry(&self, table: &TableName, changed: Changed) -> Entry {
        let counts = OpCounts {
            insert: changed.inserted,
            update: changed.updated,
            delete: changed.deleted,
            truncate: 0,
        };
        Entry {
            table: table.clone(),
            archive_ref: format!("replay {}", self.order.range),
            counts,
            missing: 0,
            transfer: Duration::ZERO,
            error: None,
        }
    }
}
