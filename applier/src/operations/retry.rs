//! `retry`: lets tables out of quarantine and brings them to the checkpoint.

use serde::{Deserialize, Serialize};
use syncdata_formats::error::{Error, Kind, Result};
use syncdata_formats::name::TableName;
use syncdata_service::config::Config;

use super::whitelist::{not_listed, parse_names};
use super::{Answer, sync};
use crate::plan::state::{Event, State, TableState};
use crate::target::postgres::cursor;
use crate::target::postgres::local::Local;

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

/// From here on they are caught up by the next pass.
pub async fn release(config: &Config, retry: &Retry) -> Result<()> {
    let accept_gap = retry.accept_gap;
    let names = parse_names(&retry.tables)?;
    let local = Local::open(config).await?;
    local.lock_pass().await?;
    let states = cursor::table_states(local.session.client(), &local.meta).await?;
    for table in &names {
        let state = states.get(table).ok_or_else(|| not_listed(table))?;
        check(table, state, accept_gap)?;
    }
    let release = async {
        for table in &names {
            if accept_gap {
                cursor::accept_gap(local.session.client(), &local.meta, table).await?;
            }
            cursor::change(local.session.client(), &local.meta, table, Event::Retried, None, None).await?;
        }
        Ok(())
    };
    local.in_transaction(release).await
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
    Err(Error::new(Kind::BadInput, format!("{table} {}", refusal.0)).hint(refusal.1))
}
