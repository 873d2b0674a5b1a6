//! `retry`: lets tables out of quarantine and brings them to the checkpoint.

use serde_json::json;
use syncdata_formats::error::{Error, Kind, Result};
use syncdata_formats::name::TableName;
use syncdata_service::config::Config;

use super::{Answer, sync};
use crate::program::daemon::{self, RetryOrder};
use crate::target::postgres::cursor::{self, State, TableState};
use crate::target::postgres::local::Local;

/// The next pass, run at once, goes on where each of the tables stopped.
pub async fn run(config: Config, tables: Vec<String>, accept_gap: bool) -> Result<Answer> {
    let order = RetryOrder { tables, accept_gap };
    if let Some(answer) = daemon::ask(&config, "/retry", Some(&json!(order))).await? {
        return Ok(answer);
    }
    release(&config, &order.tables, order.accept_gap).await?;
    sync::here(config).await
}

/// From here on they are caught up by the next pass.
pub async fn release(config: &Config, names: &[String], accept_gap: bool) -> Result<()> {
    let names = sync::parse_names(names)?;
    let local = Local::open(config).await?;
    local.lock_pass().await?;
    let states = cursor::table_states(local.session.client(), &local.meta).await?;
    for table in &names {
        let state = states.get(table).ok_or_else(|| {
            Error::new(Kind::NotFound, format!("{table} is not in the whitelist"))
                .hint("syncdata-applier list-tables shows what is")
        })?;
        check(table, state, accept_gap)?;
    }
    for table in &names {
        if accept_gap {
            cursor::accept_gap(local.session.client(), &local.meta, table).await?;
        }
        cursor::set_state(local.session.client(), &local.meta, table, State::Loading, None, None).await?;
    }
    Ok(())
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
