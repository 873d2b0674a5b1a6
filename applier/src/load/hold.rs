//! Tables stay as they are until their rows are committed: whoever alters one, or attaches a partition to it, waits. Readers
//! and writers do not.

use std::collections::BTreeMap;

use syncdata_formats::error::{Error, Result};
use syncdata_formats::name::TableName;
use syncdata_service::postgres::ServerContext as _;
use syncdata_service::postgres::sqlstate;
use tokio_postgres::Client;
use tokio_postgres::error::SqlState;

use super::loader::{Loader, Work, control};
use crate::table::Table;
use crate::target::postgres::schema;

impl Loader<'_> {
    /// In the transaction of their rows. Those that somebody holds, or that are not what their shadows were made for: they
    /// are loaded anew later.
    pub(super) async fn hold(&self, work: &Work<'_>) -> Result<BTreeMap<TableName, String>> {
        let client = self.local.session.client();
        let mut later = BTreeMap::new();
        // All together wait no longer than one: no pass runs meanwhile.
        let mut is_patient = true;
        for (name, copy) in &work.copies {
            match lock(client, &copy.table, is_patient).await {
                Ok(()) => {}
                // Nor may it write there, and then the server says so.
                Err(error) if sqlstate(&error) == Some(&SqlState::INSUFFICIENT_PRIVILEGE) => {}
                Err(error) if sqlstate(&error) == Some(&SqlState::LOCK_NOT_AVAILABLE) => {
                    is_patient = false;
                    let reason =
                        "it is held by somebody (VACUUM, CREATE INDEX, ALTER TABLE); it is loaded later";
                    later.insert(name.clone(), reason.to_owned());
                    continue;
                }
                // What is in the way is told by the next load, which looks for it first.
                Err(error) if is_of_the_table(&error) => {
                    later.insert(name.clone(), altered());
                    continue;
                }
                Err(error) => return Err(error),
            }
            // After the wait for the lock: what was done meanwhile counts.
            let now = schema::load(client, std::slice::from_ref(name)).await?;
            if now.get(name) != Some(&*copy.table) {
                later.insert(name.clone(), altered());
            }
        }
        Ok(later)
    }
}

fn altered() -> String {
    "it was altered while its base was on the way; it is loaded anew".to_owned()
}

fn is_of_the_table(error: &Error) -> bool {
    let codes = [SqlState::UNDEFINED_TABLE, SqlState::INVALID_SCHEMA_NAME, SqlState::WRONG_OBJECT_TYPE];
    sqlstate(error).is_some_and(|code| codes.contains(code))
}

async fn lock(client: &Client, table: &Table, is_patient: bool) -> Result<()> {
    control(client, "SAVEPOINT syncdata_lock").await?;
    let wait = if is_patient { "" } else { " NOWAIT" };
    let lock = format!("LOCK TABLE {} IN SHARE UPDATE EXCLUSIVE MODE{wait}", table.sql());
    let locked = client.batch_execute(&lock).await.context(|| format!("holding {}", table.name));
    if locked.is_err() {
        control(client, "ROLLBACK TO SAVEPOINT syncdata_lock").await?;
    }
    control(client, "RELEASE SAVEPOINT syncdata_lock").await?;
    locked
}
