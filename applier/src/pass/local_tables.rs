//! The local tables as a pass finds them: one that is gone, replaced or unlogged takes nothing more, whether or not the
//! archive has anything for it.

use std::collections::BTreeMap;

use syncdata_formats::error::{Error, Kind, Result};
use syncdata_formats::name::TableName;
use syncdata_service::config::OnError;

use super::Pass;
use super::copy::LocalCopy;
use crate::plan::state::{State, TableState};
use crate::target::{Entry, Poison};

/// What data_sync_logs names where no segment is to blame.
const LOG_REF: &str = "local table";

impl<C: LocalCopy> Pass<'_, C> {
    /// Sets the tables aside whose rows are not those of their positions.
    pub(super) async fn look_at_local_tables(
        &self,
        states: &BTreeMap<TableName, TableState>,
        is_end: bool,
    ) -> Result<()> {
        // One that waits for a new base is live with the rows that it has.
        let has_rows = |state: &TableState| {
            state.position.is_some() && (state.wants().is_none() || state.state == State::Live)
        };
        let tables: Vec<&TableName> =
            states.iter().filter(|(_, state)| has_rows(state)).map(|(table, _)| table).collect();
        let mut lost = self.context.copy.look(&tables, is_end).await?;
        // The others are not said to be right.
        lost.retain(|table, _| states[table].state.goes_on());
        for (table, reason) in lost {
            let waits = states[&table].wants().is_some();
            self.set_aside(&table, reason, waits).await?;
        }
        Ok(())
    }

    /// `waits`: what makes it right again is asked for already, and is not kept waiting.
    async fn set_aside(&self, table: &TableName, reason: String, waits: bool) -> Result<()> {
        if self.context.rules.on_error == OnError::Stop && !waits {
            let message = format!("Failed to apply changes of {table}: {reason}");
            return Err(Error::new(Kind::Rejected, message)
                .hint("nothing was applied; mend the cause, or set on_error = \"quarantine\""));
        }
        if waits {
            tracing::warn!(%table, reason, "the table is quarantined until its new base is here");
        } else {
            tracing::error!(%table, reason, "Failed to apply changes: the table is quarantined, the others go on");
        }
        let checkpoint = self.context.copy.checkpoint().await?;
        let poison = Poison {
            server_words: None,
            table: table.clone(),
            seq: checkpoint.seq(),
            line: None,
            sqlstate: None,
            reason: reason.clone(),
            remedy: None,
        };
        self.context.copy.set_aside(&poison, Entry::failed(table, LOG_REF, &reason)).await?;
        self.context.tally.table_set_aside(table, &reason);
        Ok(())
    }
}
