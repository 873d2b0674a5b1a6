//! Brings single tables from their own positions to the checkpoint: new ones, and ones that leave quarantine.
//! The other tables stay where they are.

use std::collections::BTreeMap;

use syncdata_formats::chain::Verified;
use syncdata_formats::error::Result;
use syncdata_formats::layout::SegmentSeq;
use syncdata_formats::lsn::Lsn;
use syncdata_formats::name::TableName;

use super::context::{PassContext, clean};
use super::copy::LocalCopy;
use crate::archive::groups::Groups;
use crate::archive::stretch::stretch;
use crate::plan::position::{Applied, Checkpoint};
use crate::plan::state::{State, TableState, Want};
use crate::plan::{self, GapName, Scope};

/// How much it took to bring tables up to the checkpoint.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct CaughtUp {
    pub segments: u64,
    pub records: u64,
}

/// Applies to these tables what they lack, and makes those live that took it all.
pub(super) async fn catch_up<C: LocalCopy>(
    pass: &mut PassContext<'_, C>,
    checkpoint: &Checkpoint,
    tables: &[TableName],
) -> Result<CaughtUp> {
    let states = pass.copy.states().await?;
    let mut done = CaughtUp::default();
    if let Some(own) = checkpoint.segment {
        for together in pass.copy.together(tables, &states).await? {
            let more = apply_lacking(pass, checkpoint, own, &together, &states).await?;
            done.segments += more.segments;
            done.records += more.records;
        }
    }
    make_live(pass, checkpoint, tables).await?;
    Ok(done)
}

async fn apply_lacking<C: LocalCopy>(
    pass: &mut PassContext<'_, C>,
    checkpoint: &Checkpoint,
    own: Applied,
    tables: &[TableName],
    states: &BTreeMap<TableName, TableState>,
) -> Result<CaughtUp> {
    let mut done = CaughtUp::default();
    let archive_id = checkpoint.archive_id.expect("adopted before");
    let from = tables.iter().filter_map(|table| states.get(table)?.position).min().unwrap_or(Lsn::ZERO);
    let segments = stretch(pass.source, archive_id, own.link, own.end_lsn, from).await?;
    let mut scope = within_reach(pass, own, segments.first(), tables, states).await?;

    let mut groups =
        Groups::new(pass.source, segments, pass.rules.apply_batch_changes).of_one_shape(C::IS_OF_ONE_SHAPE);
    while !pass.stop.is_asked()
        && let Some(group) = groups.next(|_| true).await?
    {
        let in_scope = Scope::CatchUp(pass.copy.group(), scope.clone());
        let applied = pass.apply(checkpoint, &in_scope, &group.segments, None).await?;
        scope.retain(|table| !applied.set_aside.contains_key(table));
        for table in &applied.tied {
            make_anew(pass, table).await?;
        }
        done.segments += group.segments.len() as u64;
        done.records += applied.records;
        clean(&group.segments)?;
    }
    Ok(done)
}

/// Foreign keys of the copy keep it from its older changes, now and whenever they are tried again: what is left is a new
/// base, if there is one.
async fn make_anew<C: LocalCopy>(pass: &PassContext<'_, C>, table: &TableName) -> Result<()> {
    tracing::warn!(%table, "table cannot catch up beside those that refer to it; it is made anew");
    pass.copy.want(table, Want::Rebuild).await
}

/// Those of the tables that have reached the checkpoint.
async fn make_live<C: LocalCopy>(
    pass: &PassContext<'_, C>,
    checkpoint: &Checkpoint,
    tables: &[TableName],
) -> Result<()> {
    for (table, state) in pass.copy.states().await? {
        let is_whole = state.position.unwrap_or(Lsn::ZERO) >= checkpoint.end_lsn();
        let is_loading = state.state == State::Loading;
        if tables.contains(&table) && is_whole && is_loading {
            pass.copy.is_through(&table).await?;
            tracing::info!(%table, lsn = %checkpoint.end_lsn(), "table is live");
        }
    }
    Ok(())
}

/// Those of the tables that the archive can still bring on from where they are. The others would become a mixture of
/// what they are and what comes after a hole: they stay as they are, and are stale.
async fn within_reach<C: LocalCopy>(
    pass: &PassContext<'_, C>,
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
        let gap = GapName { from: position, to: begins };
        if is_whole || position >= begins || state.accepted_gaps.contains(&gap) {
            scope.push(table.clone());
        } else {
            cut_off(pass, table, gap).await?;
        }
    }
    Ok(scope)
}

async fn cut_off<C: LocalCopy>(pass: &PassContext<'_, C>, table: &TableName, gap: GapName) -> Result<()> {
    let remedy = plan::gap_remedy(table);
    let reason = format!("the archive no longer has the changes {gap} that it lacks; {remedy}");
    pass.copy.cut_off(table, &reason, gap).await?;
    pass.tally.table_set_aside(table, &reason);
    tracing::warn!(%table, lsn = %gap.from, "table is stale: the archive was pruned past it");
    Ok(())
}
