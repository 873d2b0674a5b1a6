//! `remove-tables`.

use syncdata_formats::error::{Error, Result};
use syncdata_formats::name::TableName;
use syncdata_service::config::Config;
use syncdata_service::postgres::ServerContext as _;

use super::Answer;
use super::whitelist::{matching, named, not_found};
use crate::target::postgres::cursor;
use crate::target::postgres::ledger;
use crate::target::postgres::local::Local;
use crate::target::postgres::local_writes;
use crate::target::postgres::quarantine::{self, Resolution};

/// Takes tables off the whitelist, all or none; their rows stay.
pub async fn remove_tables(config: &Config, patterns: &[String]) -> Result<Answer> {
    let local = Local::open(config).await?;
    local.lock_pass().await?;
    let (client, meta) = (local.session.client(), &local.meta);
    let known: Vec<TableName> = cursor::table_states(client, meta).await?.into_keys().collect();
    let names = matching(&known, patterns, |stranger| {
        not_found(format!("{stranger} is not in the whitelist"), "syncdata-applier list-tables")
    })?;

    let remove = async {
        for table in &names {
            // What proofs said of it is not about a table that is added again.
            let places =
                ["tables_to_sync", "data_sync_table_state", "data_sync_consistency", "data_sync_digests"];
            for place in places {
                let delete = format!("DELETE FROM {meta}.{place} WHERE table_name = $1");
                let removing = || format!("removing {table} from the whitelist");
                client.execute(&delete, &[&table.to_string()]).await.context(removing)?;
            }
            quarantine::settle(client, meta, table, Resolution::Removed).await?;
        }
        ledger::log_command(client, meta, "remove-tables", &names).await?;
        Ok::<_, Error>(())
    };
    local.in_transaction(remove).await?;
    // Nobody keeps them in step any more: everybody may write them.
    local_writes::keep(&local, config.local_writes).await?;
    Ok(named("removed", &names))
}
