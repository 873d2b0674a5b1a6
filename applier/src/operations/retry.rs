//! `retry`: lets tables out of quarantine and brings them to the checkpoint.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};
use syncdata_formats::error::{Error, Kind, Result};
use syncdata_formats::name::TableName;
use syncdata_service::config::Config;

use super::whitelist::{not_listed, parse_names};
use super::{Answer, sync};
use crate::plan::state::{Event, State, TableState};
use crate::target::postgres::cursor;
use crate::target::postgres::identity;
use crate::target::postgres::kept;
use crate::target::postgres::ledger;
use crate::target::postgres::local::Local;
use crate::target::postgres::quarantine;

/// What is asked for; it may travel to the daemon.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Retry {
    pub tables: Vec<String>,
    pub accept_gap: bool,
}

/// A pass, run at once, goes on where each of the tables stopped.
pub async fn retry(config: Config, retry: &Retry) -> Result<Answer> {
    release(&config, retry).await?;
    sync::sync(config).await
}

/// Whether a table may be tried again as things are.
pub async fn consider(local: &Local, table: &TableName) -> Result<()> {
    let states = cursor::table_states(local.session.client(), &local.meta).await?;
    check(table, states.get(table).ok_or_else(|| not_listed(table))?, false)
}

/// From here on they are caught up by the next pass.
pub async fn release(config: &Config, retry: &Retry) -> Result<()> {
    let accept_gap = retry.accept_gap;
    let asked = parse_names(&retry.tables)?;
    let local = Local::open(config).await?;
    local.lock_pass().await?;
    let states = cursor::table_states(local.session.client(), &local.meta).await?;
    let names = released(asked, &states, accept_gap)?;
    let accepted = if accept_gap { losses(&local, &names, &states).await? } else { BTreeSet::new() };
    let release = async {
        for table in &names {
            if accept_gap {
                cursor::accept_gap(local.session.client(), &local.meta, table).await?;
                identity::forget_parts_and_types(local.session.client(), &local.meta, table).await?;
            }
            if let (true, Some(position)) = (accepted.contains(table), states[table].position) {
                quarantine::note_incomplete(local.session.client(), &local.meta, table, position).await?;
            }
            cursor::change(local.session.client(), &local.meta, table, Event::Retried, None, None).await?;
        }
        let command = if accept_gap { "retry --accept-gap" } else { "retry" };
        ledger::log_command(local.session.client(), &local.meta, command, &names).await
    };
    local.in_transaction(release).await
}

/// All that go on together where these do. `Err`: one of them may not.
pub(super) fn released(
    asked: Vec<TableName>,
    states: &BTreeMap<TableName, TableState>,
    accept_gap: bool,
) -> Result<Vec<TableName>> {
    let asked_states = asked.iter().map(|table| states.get(table).ok_or_else(|| not_listed(table)));
    let asked_states: Vec<&TableState> = asked_states.collect::<Result<_>>()?;
    for (table, state) in asked.iter().zip(asked_states) {
        check(table, state, accept_gap)?;
    }
    let names = with_held(asked, states);
    for table in &names {
        check(table, &states[table], accept_gap).map_err(|error| {
            error.context(format!("{table} is held together with what is to be tried again"))
        })?;
    }
    Ok(names)
}

/// Tables whose rows were lost here, apart from the gap. A pass says nothing of that where a table does not go on, and would
/// never see it again: whoever goes on over it has to have read it first.
async fn losses(
    local: &Local,
    names: &[TableName],
    states: &BTreeMap<TableName, TableState>,
) -> Result<BTreeSet<TableName>> {
    let (client, meta) = (local.session.client(), &local.meta);
    let hidden = identity::hidden_by_forgetting(client, meta, &names.iter().collect::<Vec<_>>()).await?;
    let mut unread: BTreeMap<&TableName, String> = BTreeMap::new();
    for (table, lost) in &hidden {
        let words = kept::words(client, &lost.reason(table)).await?;
        let known = states[table].reason.as_deref().unwrap_or_default();
        if !known.contains(&words) {
            let reason = unread.entry(table).or_insert_with(|| known.to_owned());
            let and = if reason.is_empty() { "" } else { "; and " };
            reason.push_str(&format!("{and}{words}"));
        }
    }
    let Some((first, reason)) = unread.first_key_value() else {
        return Ok(hidden.iter().map(|(table, _)| table.clone()).collect());
    };
    let refusal = Error::new(Kind::Conflict, format!("{first}: {reason}")).hint(
        "nothing was released; where all of that does no harm, the same command once more goes on without it",
    );
    let note = async {
        for (table, reason) in &unread {
            let event = match states[*table].state {
                State::Stale => Event::CutOff,
                State::Live | State::Loading | State::Pending | State::Quarantined => Event::SetAside,
            };
            cursor::change(client, meta, table, event, None, Some(reason)).await?;
        }
        Ok::<_, Error>(())
    };
    local.in_transaction(note).await?;
    Err(refusal)
}

/// What one TRUNCATE named is released together. A table that is right again holds up no other.
pub(super) fn with_held(asked: Vec<TableName>, states: &BTreeMap<TableName, TableState>) -> Vec<TableName> {
    let mut names = asked;
    let is_held = |table: &TableName| states.get(table).is_some_and(|state| state.state.needs_operator());
    let mut next = 0;
    while let Some(table) = names.get(next).cloned() {
        let partners = states.iter().filter(|(other, state)| {
            state.held_with.contains(&table) || states[&table].held_with.contains(*other)
        });
        let partners = partners.map(|(other, _)| other).filter(|other| is_held(other));
        let new: Vec<TableName> = partners.filter(|other| !names.contains(*other)).cloned().collect();
        names.extend(new);
        next += 1;
    }
    names
}

fn check(table: &TableName, state: &TableState, accept_gap: bool) -> Result<()> {
    let refusal = match (state.state, accept_gap) {
        (State::Quarantined, _) | (State::Stale, true) => return Ok(()),
        (State::Stale, false) => {
            ("is stale: changes of it are lost", "resync mends it; --accept-gap goes on without them")
        }
        (State::Live | State::Loading, _) => ("is not in quarantine", "nothing has to be done"),
        (State::Pending, _) => {
            ("has no base yet", "it needs its first rows: syncdata-applier status says from where")
        }
    };
    Err(Error::new(Kind::Conflict, format!("{table} {}", refusal.0)).hint(refusal.1))
}
