//! Brings single tables from their own positions to the checkpoint: new ones, and ones that leave quarantine.
//! The other tables stay where they are.

use std::collections::BTreeMap;
use syncdata_service::postgres::ServerContext as _;

use syncdata_formats::chain::{ChainTip, Verified};
use syncdata_formats::digest::Digest;
use syncdata_formats::error::{Error, Kind, Result};
use syncdata_formats::floor::Floor;
use syncdata_formats::layout::{SegmentName, SegmentSeq};
use syncdata_formats::lsn::Lsn;
use syncdata_formats::manifest::Link;
use syncdata_formats::name::TableName;
use syncdata_formats::time::Day;

use crate::apply::transaction;
use crate::archive::fetch::{Listing, Source};
use crate::pass::{Pass, clean};
use crate::plan::{self, Scope};
use crate::target::postgres::cursor::{self, Applied, Checkpoint, State, TableState};
use crate::target::postgres::quarantine;

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CaughtUp {
    pub segments: u64,
    pub records: u64,
}

/// Applies to these tables what they lack, and makes those live that took it all.
pub async fn run(pass: &mut Pass<'_>, checkpoint: &Checkpoint, tables: &[TableName]) -> Result<CaughtUp> {
    let (client, meta) = (pass.local.session.client(), &pass.local.meta);
    let states = cursor::table_states(client, meta).await?;
    let positions = tables.iter().filter_map(|table| states.get(table)?.position);
    let mut done = CaughtUp::default();
    if let Some(own) = checkpoint.segment {
        let from = positions.min().unwrap_or(Lsn::ZERO);
        let segments = chain(pass.source, checkpoint, own, from).await?;
        let mut scope = within_reach(pass, own, segments.first(), tables, &states).await?;
        let mut group = Vec::new();
        let mut segments = segments.into_iter().peekable();
        while let Some(segment) = segments.next() {
            if group.is_empty() && pass.stop.is_asked() {
                break;
            }
            group.push(pass.source.fetch_file(segment).await?);
            let records = group.iter().map(|fetched| fetched.segment.manifest().records).sum();
            // What the group holds of the cache it holds until its commit: to wait for more would be for ever.
            let next_fits = segments.peek().is_some_and(|next| {
                plan::fits(records, next.manifest(), pass.rules.apply_batch_changes)
                    && pass.source.has_room_for(next)
            });
            if next_fits && group.len() < GROUP_SEGMENTS_MAX {
                continue;
            }
            let in_scope = Scope::CatchUp(scope.clone());
            let applied = transaction::apply(
                pass.local,
                &mut pass.writer,
                pass.rules,
                checkpoint,
                &in_scope,
                &group,
                None,
            )
            .await?;
            scope.retain(|table| !applied.set_aside.contains(table));
            done.segments += group.len() as u64;
            done.records += applied.records;
            pass.tally.add(group.len(), applied.records);
            clean(&group)?;
            group.clear();
        }
    }
    for (table, state) in cursor::table_states(client, meta).await? {
        let whole = state.position.unwrap_or(Lsn::ZERO) >= checkpoint.end_lsn();
        let set_aside_again = !matches!(state.state, State::Loading);
        if tables.contains(&table) && whole && !set_aside_again {
            client.batch_execute("BEGIN").await.context(|| format!("making {table} live"))?;
            cursor::set_state(client, meta, &table, State::Live, None, None).await?;
            quarantine::forget(client, meta, &table).await?;
            client.batch_execute("COMMIT").await.context(|| format!("making {table} live"))?;
            tracing::info!(%table, lsn = %checkpoint.end_lsn(), "table is live");
        }
    }
    Ok(done)
}

/// Those of the tables that the archive still leads on from where they are. The others would become a mixture of what
/// they are and what comes after a hole: they stay, and are stale.
async fn within_reach(
    pass: &Pass<'_>,
    own: Applied,
    first: Option<&Verified>,
    tables: &[TableName],
    states: &BTreeMap<TableName, TableState>,
) -> Result<Vec<TableName>> {
    // Without a segment up to the checkpoint there is nothing that ends there.
    let begins = first.map_or(own.end_lsn, |first| first.manifest().start_lsn);
    let is_whole = first.is_some_and(|first| first.manifest().seq == SegmentSeq::FIRST);
    let mut scope = Vec::new();
    for table in tables {
        let Some(state) = states.get(table) else { continue };
        let position = state.position.unwrap_or(Lsn::ZERO);
        let gap = format!("{position}..{begins}");
        if is_whole || position >= begins || state.accepted_gaps.contains(&gap) {
            scope.push(table.clone());
        } else {
            cut_off(pass, table, position, &gap).await?;
        }
    }
    Ok(scope)
}

async fn cut_off(pass: &Pass<'_>, table: &TableName, position: Lsn, gap: &str) -> Result<()> {
    let (client, meta) = (pass.local.session.client(), &pass.local.meta);
    let noting = || format!("noting that {table} is stale");
    let remedy = plan::gap_remedy(table);
    let reason = format!("the archive no longer has the changes {gap} that it lacks; {remedy}");
    client.batch_execute("BEGIN").await.context(noting)?;
    cursor::set_state(client, meta, table, State::Stale, None, Some(&reason)).await?;
    cursor::note_gap(client, meta, table, gap).await?;
    client.batch_execute("COMMIT").await.context(noting)?;
    tracing::warn!(%table, lsn = %position, "table is stale: the archive was pruned past it");
    Ok(())
}

/// They share a transaction; each holds room in the cache until then.
pub(crate) const GROUP_SEGMENTS_MAX: usize = 16;

/// The manifests that end after `from`, up to the checkpoint: each checked against the one before, the last one
/// against the checkpoint itself, which vouches for all.
pub(crate) async fn chain(
    source: &Source,
    checkpoint: &Checkpoint,
    own: Applied,
    from: Lsn,
) -> Result<Vec<Verified>> {
    let (mut listing, floor) = (source.list(None).await?, source.floor().await?);
    if let Some(floor) = &floor {
        // A prune that was interrupted leaves some before the floor: they do not exist.
        listing.retain(|seq, _| *seq >= floor.seq);
    }
    let names: Vec<(Day, SegmentName)> = listing
        .range(..=own.link.seq)
        .flat_map(|(_, places)| places.iter().copied())
        .filter(|(_, name)| name.end_lsn > from)
        .collect();
    let Some(&(_, first)) = names.first() else { return Ok(Vec::new()) };
    let mut tip = tip_before(source, checkpoint, &listing, floor.as_ref(), first).await?;
    let mut segments = Vec::new();
    for (day, name) in names {
        let segment = source.manifest(&tip, day, name).await?;
        tip = segment.tip();
        segments.push(segment);
    }
    if tip.previous() != Some(own.link) {
        return Err(Error::new(
            Kind::Foreign,
            format!("the archive's segments up to {} are not those that were applied here", own.link.seq),
        )
        .hint("nothing was applied; bring the archive back from a sound copy"));
    }
    Ok(segments)
}

async fn tip_before(
    source: &Source,
    checkpoint: &Checkpoint,
    listing: &Listing,
    floor: Option<&Floor>,
    first: SegmentName,
) -> Result<ChainTip> {
    let archive_id = checkpoint.archive_id.expect("adopted before");
    let before = listing.range(..first.seq).next_back().and_then(|(_, places)| places.first());
    if let Some(&(day, name)) = before {
        // Not verified by itself; the links from here to the checkpoint do that.
        let bytes = source.manifest_bytes(day, name).await?;
        let link = Link { seq: name.seq, sha256: Digest::of(&bytes) };
        return Ok(ChainTip::after(archive_id, link, name.end_lsn, day));
    }
    Ok(floor.map_or(ChainTip::origin(archive_id), Floor::tip))
}
