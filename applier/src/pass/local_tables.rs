//! The local tables as a pass finds them: one that is gone, replaced or unlogged takes nothing more, whether or not the
//! archive has anything for it.

use std::collections::BTreeMap;
use std::time::Duration;

use syncdata_formats::error::{Error, Kind, Result};
use syncdata_formats::name::TableName;
use syncdata_service::config::OnError;

use super::Pass;
use crate::plan::state::{Event, TableState};
use crate::target::Poison;
use crate::target::postgres::identity::{self, Moment};
use crate::target::postgres::ledger::{self, Entry};
use crate::target::postgres::lost::Lost;
use crate::target::postgres::{cursor, quarantine};

/// What data_sync_logs names where no segment is to blame.
const LOG_REF: &str = "local table";

impl Pass<'_> {
    /// Sets the tables aside whose rows are not those of their positions.
    pub(super) async fn look_at_local_tables(
        &self,
        states: &BTreeMap<TableName, TableState>,
        moment: Moment,
    ) -> Result<()> {
        let (client, meta) = (self.context.local.session.client(), &self.context.local.meta);
        let has_rows = |state: &TableState| state.position.is_some() && state.wants().is_none();
        let tables: Vec<&TableName> =
            states.iter().filter(|(_, state)| has_rows(state)).map(|(table, _)| table).collect();
        let mut lost =
            self.context.local.in_transaction(identity::look(client, meta, &tables, moment)).await?;
        // The others are not said to be right.
        lost.retain(|table, _| states[table].state.goes_on());
        for (table, lost) in lost {
            self.set_aside(&table, lost).await?;
        }
        Ok(())
    }

    async fn set_aside(&self, table: &TableName, lost: Lost) -> Result<()> {
        let (client, meta) = (self.context.local.session.client(), &self.context.local.meta);
        let reason = lost.reason(table);
        if self.context.rules.on_error == OnError::Stop {
            let message = format!("Failed to apply changes of {table}: {reason}");
            return Err(Error::new(Kind::Rejected, message)
                .hint("nothing was applied; mend the cause, or set on_error = \"quarantine\""));
        }
        tracing::error!(%table, reason, "Failed to apply changes: the table is quarantined, the others go on");
        let checkpoint = cursor::Checkpoint::read(client, meta).await?;
        let poison = Poison {
            server_words: None,
            table: table.clone(),
            seq: checkpoint.seq(),
            line: None,
            sqlstate: None,
            reason: reason.clone(),
            remedy: None,
        };
        let entry = Entry::failed(table, LOG_REF, &reason);
        let note = async {
            quarantine::keep(self.context.local, &poison, None).await?;
            cursor::change(client, meta, table, Event::SetAside, None, Some(&reason)).await?;
            ledger::log(client, meta, &[entry], Duration::ZERO).await
        };
        self.context.local.in_transaction(note).await?;
        self.context.tally.table_set_aside(table, &reason);
        Ok(())
    }
}
