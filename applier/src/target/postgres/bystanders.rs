//! Tables beside those that are repaired or made anew at once: nothing of them may change through a foreign key of the copy
//! or a trigger.

use std::collections::{BTreeMap, BTreeSet};

use syncdata_formats::error::{Error, Kind, Result};
use syncdata_formats::name::TableName;
use syncdata_service::postgres::ServerContext as _;
use tokio_postgres::Client;

use crate::plan::state::State;
use crate::table::Table;
use crate::target::postgres::apply::Beside;
use crate::target::postgres::cascades::Watch;
use crate::target::postgres::local::Local;
use crate::target::postgres::{cursor, identity, rules, schema};

/// Tables that a repair by hand does not touch: nothing of those that are live may change through a foreign key.
#[derive(Debug)]
pub struct Bystanders {
    watch: Watch,
    before: BTreeMap<TableName, i64>,
    live: BTreeSet<TableName>,
    /// Where one of the tables that are repaired has a trigger that is watched. These are among them.
    pub(crate) beside: Option<Beside>,
}

impl Bystanders {
    /// All but those. No foreign key acts where they are off.
    pub async fn of(local: &Local, but: &BTreeSet<&TableName>) -> Result<Bystanders> {
        let client = local.session.client();
        let mut states = cursor::table_states(client, &local.meta).await?;
        states.retain(|name, _| !but.contains(name));
        let others: BTreeSet<TableName> = states.keys().cloned().collect();
        let watch = match local.replica {
            true => Watch::default(),
            false => Watch::over(client, &others).await?,
        };
        let written: Vec<TableName> = but.iter().copied().cloned().collect();
        let written = schema::load(client, &written).await?;
        let acted_on = watch.tables();
        let is_watched = |other: &TableName| !acted_on.contains(other);
        let synced = others.into_iter().filter(is_watched).chain(written.keys().cloned()).collect();
        let beside = beside(local, &written.values().collect::<Vec<_>>(), &synced).await?;
        let before = watch.count(client).await?;
        states.retain(|_, state| state.state == State::Live);
        Ok(Bystanders { watch, before, live: states.into_keys().collect(), beside })
    }

    /// What happens in that table shows otherwise.
    pub fn leave_out(&mut self, table: &TableName) {
        if let Some(beside) = &mut self.beside {
            beside.leave_out(table);
        }
    }

    /// `what` was changed meanwhile, in words.
    pub async fn must_be_untouched(&self, local: &Local, what: &str) -> Result<()> {
        let client = local.session.client();
        for other in self.watch.changed(client, &self.before).await? {
            if self.live.contains(&other) {
                return Err(touched(client, what, &other).await?);
            }
            // It was wrong before, and its rows are of no position any more.
            identity::disown(client, &local.meta, &other).await?;
        }
        let Some(beside) = &self.beside else { return Ok(()) };
        match beside.changed(client).await? {
            None => Ok(()),
            Some((other, table, rule)) => {
                let message = format!("{}: rows of {other} have changed beside {what}", rule.what(table));
                let hint = format!("nothing was changed; run: {}", rule.remedy());
                Err(Error::new(Kind::Rejected, message).hint(hint))
            }
        }
    }
}

/// Watches those tables, where one that is written at once has a trigger that is watched.
pub(crate) async fn beside(
    local: &Local,
    written: &[&Table],
    others: &BTreeSet<TableName>,
) -> Result<Option<Beside>> {
    let client = local.session.client();
    let [_, watched] = rules::acting_and_watched(client, &local.meta, written.iter().copied()).await?;
    Beside::of(client, watched, others, local.replica).await
}

async fn touched(client: &Client, what: &str, other: &TableName) -> Result<Error> {
    let role = client.query_one("SELECT pg_catalog.quote_ident(CURRENT_USER)", &[]).await;
    let role: String = role.context(|| "asking for the role".to_owned())?.get(0);
    let message = format!("{what} cannot change without those of {other}, through a foreign key of the copy");
    Ok(Error::new(Kind::Rejected, message).hint(format!(
        "nothing was changed; run: syncdata-applier consistency repair {}, where that differs too; else as superuser: \
         GRANT SET ON PARAMETER session_replication_role TO {role}",
        other.shell_word()
    )))
}
