//! Brings single tables from their own positions to the checkpoint: new ones, and ones that leave quarantine.
//! The other tables stay where they are.

use std::collections::BTreeMap;

use syncdata_formats::chain::Verified;
use syncdata_formats::error::{Context as _, Result};
use syncdata_formats::layout::SegmentSeq;
use syncdata_formats::lsn::Lsn;
use syncdata_formats::name::TableName;

use super::context::{PassContext, clean};
use crate::archive::groups::Groups;
use crate::archive::stretch::stretch;
use crate::plan::state::{Event, State, TableState, Want};
use crate::plan::{self, GapName, Scope};
use crate::table::Table;
use crate::target::postgres::cursor::{self, Applied, Checkpoint};
use crate::target::postgres::quarantine::Resolution;
use crate::target::postgres::{quarantine, schema};

/// How much it took to bring tables up to the checkpoint.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct CaughtUp {
    pub segments: u64,
    pub records: u64,
}

/// Applies to these tables what they lack, and makes those live that took it all.
pub(super) async fn catch_up(
    pass: &mut PassContext<'_>,
    checkpoint: &Checkpoint,
    tables: &[TableName],
) -> Result<CaughtUp> {
    let states = cursor::table_states(pass.local.session.client(), &pass.local.meta).await?;
    let mut done = CaughtUp::default();
    if let Some(own) = checkpoint.segment {
        for together in together(pass, tables, &states).await? {
            let more = apply_lacking(pass, checkpoint, own, &together, &states).await?;
            done.segments += more.segments;
            done.records += more.records;
        }
    }
    make_live(pass, checkpoint, tables).await?;
    Ok(done)
}

/// All at once. But where foreign keys act, a table that is ahead of one that it refers to would be acted upon by changes
/// that are older than its rows, and nobody could tell: then the one that lags most goes first.
async fn together(
    pass: &PassContext<'_>,
    tables: &[TableName],
    states: &BTreeMap<TableName, TableState>,
) -> Result<Vec<Vec<TableName>>> {
    let position =
        |table: &TableName| states.get(table).and_then(|state| state.position).unwrap_or(Lsn::ZERO);
    let acts = |table: &Table| {
        let is_ahead = |other: &&TableName| tables.contains(other) && position(other) > position(&table.name);
        (table.acts_on_delete || table.acts_on_update)
            && table.referenced_by.iter().any(|other| is_ahead(&other))
    };
    let local = schema::load(pass.local.session.client(), tables).await?;
    if pass.local.replica || !local.values().any(acts) {
        return Ok(vec![tables.to_vec()]);
    }
    let mut by_position: BTreeMap<Lsn, Vec<TableName>> = BTreeMap::new();
    for table in tables {
        by_position.entry(position(table)).or_default().push(table.clone());
    }
    Ok(by_position.into_values().collect())
}

async fn apply_lacking(
    pass: &mut PassContext<'_>,
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

    let mut groups = Groups::new(pass.source, segments, pass.rules.apply_batch_changes);
    while !pass.stop.is_asked()
        && let Some(group) = groups.next(|_| true).await?
    {
        let in_scope = Scope::CatchUp(scope.clone());
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
async fn make_anew(pass: &PassContext<'_>, table: &TableName) -> Result<()> {
    tracing::warn!(%table, "table cannot catch up beside those that refer to it; it is made anew");
    cursor::want(pass.local.session.client(), &pass.local.meta, table, Some(Want::Rebuild)).await
}

/// Those of the tables that have reached the checkpoint.
async fn make_live(pass: &PassContext<'_>, checkpoint: &Checkpoint, tables: &[TableName]) -> Result<()> {
    let (client, meta) = (pass.local.session.client(), &pass.local.meta);
    for (table, state) in cursor::table_states(client, meta).await? {
        let is_whole = state.position.unwrap_or(Lsn::ZERO) >= checkpoint.end_lsn();
        let is_loading = state.state == State::Loading;
        if tables.contains(&table) && is_whole && is_loading {
            let go_live = async {
                cursor::change(client, meta, &table, Event::CaughtUp, None, None).await?;
                quarantine::settle(client, meta, &table, Resolution::Applied).await
            };
            pass.local.in_transaction(go_live).await.context(|| format!("making {table} live"))?;
            tracing::info!(%table, lsn = %checkpoint.end_lsn(), "table is live");
        }
    }
    Ok(())
}

/// Those of the tables that the archive can still bring on from where they are. The others would become a mixture of
/// what they are and what comes after a hole: they stay as they are, and are stale.
async fn within_reach(
    pass: &PassContext<'_>,
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

async fn cut_off(pass: &PassContext<'_>, table: &TableName, gap: GapName) -> Result<()> {
    let (client, meta) = (pass.local.session.client(), &pass.local.meta);
    let noting = || format!("noting that {table} is stale");
    let remedy = plan::gap_remedy(table);
    let reason = format!("the archive no longer has the changes {gap} that it lacks; {remedy}");
    let note = async {
        cursor::change(client, meta, table, Event::CutOff, None, Some(&reason)).await?;
        cursor::note_gap(client, meta, table, gap).await
    };
    pass.local.in_transaction(note).await.context(noting)?;
    pass.tally.table_set_aside(table, &reason);
    tracing::warn!(%table, lsn = %gap.from, "table is stale: the archive was pruned past it");
    Ok(())
}
