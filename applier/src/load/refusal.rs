//! Tables that cannot be loaded, or not yet: what is noted of them, and where.

use std::collections::BTreeMap;
use std::time::Duration;

use syncdata_formats::error::{Error, Result};
use syncdata_formats::name::TableName;

use super::LOG_REF;
use super::base::{Base, BaseKey};
use super::loader::Loader;
use crate::plan::offer::{Choice, Offer};
use crate::plan::state::{Event, State, TableState};
use crate::target::postgres::cursor;
use crate::target::postgres::ledger::{self, Entry};

/// A table that cannot be loaded, and why.
#[derive(Debug)]
pub(crate) struct Refusal {
    pub table: TableName,
    pub reason: String,
    /// A foreign key is in the way: of rows that may come, or go, with another table.
    pub is_tied: bool,
}

/// What ends the work on a table: what was asked of it cannot be had, or asking failed.
#[derive(Debug)]
pub(crate) enum Halt {
    /// The table is in the way; the others go on.
    Refused(Refusal),
    /// All of the work ends.
    Failed(Error),
}

impl Halt {
    pub(crate) fn refused(table: &TableName, reason: impl ToString) -> Halt {
        Halt::Refused(Refusal { table: table.clone(), reason: reason.to_string(), is_tied: false })
    }

    pub(crate) fn tied(table: &TableName, reason: impl ToString) -> Halt {
        Halt::Refused(Refusal { table: table.clone(), reason: reason.to_string(), is_tied: true })
    }

    /// Where both come to the same: nothing is known of this table.
    pub(crate) fn into_words(self) -> String {
        match self {
            Halt::Refused(refusal) => refusal.reason,
            Halt::Failed(error) => error.one_line(),
        }
    }
}

impl From<Error> for Halt {
    fn from(error: Error) -> Halt {
        Halt::Failed(error)
    }
}

impl Loader<'_> {
    /// The tables by their base; the others are told what they wait for.
    pub(super) async fn choose(
        &mut self,
        states: &BTreeMap<TableName, TableState>,
        offer: &Offer<'_>,
    ) -> Result<Vec<(Base, Vec<TableName>)>> {
        let mut groups: BTreeMap<BaseKey, (Base, Vec<TableName>)> = BTreeMap::new();
        for (table, state) in states {
            let Some(want) = state.wants() else { continue };
            let base = match offer.choose(table, want) {
                Choice::Snapshot(snapshot) => Base::Snapshot(snapshot),
                Choice::Start(from) => Base::Start { from },
                Choice::Wait(id) => {
                    let reason = format!(
                        "waits until the archive covers snapshot {id}: the archiver's next poll does that"
                    );
                    self.note(table, state, &reason).await?;
                    self.report.waiting.insert(table.clone(), reason);
                    continue;
                }
                Choice::Nothing(reason) => {
                    self.refuse(table, state, &reason).await?;
                    continue;
                }
            };
            groups.entry(base.key()).or_insert_with(|| (base, Vec::new())).1.push(table.clone());
        }
        Ok(groups.into_values().collect())
    }

    async fn note(&self, table: &TableName, state: &TableState, reason: &str) -> Result<()> {
        let now = state.state.after(Event::WaitsForBase)?;
        let is_known = now == state.state && state.reason.as_deref() == Some(reason);
        // A table that is live stays so until its new base is there.
        if is_known || now == State::Live {
            return Ok(());
        }
        let (client, meta) = (self.local.session.client(), &self.local.meta);
        cursor::change(client, meta, table, Event::WaitsForBase, None, Some(reason)).await
    }

    /// There is no base for it. A table that never had one goes on waiting, an operator's wish is answered.
    async fn refuse(&mut self, table: &TableName, state: &TableState, reason: &str) -> Result<()> {
        let (client, meta) = (self.local.session.client(), &self.local.meta);
        if state.position.is_some() {
            cursor::grant_nothing(client, meta, table, state.load_asked).await?;
            self.log_failure(table, reason).await?;
            self.report.refused.insert(table.clone(), reason.to_owned());
        } else {
            self.note(table, state, reason).await?;
            self.report.waiting.insert(table.clone(), reason.to_owned());
        }
        Ok(())
    }

    /// The table itself is in the way. It is left as it was; one without a position is set aside, lest it be tried, in
    /// vain, with every pass.
    pub(super) async fn fail(&mut self, table: &TableName, reason: &str) -> Result<()> {
        let (client, meta) = (self.local.session.client(), &self.local.meta);
        tracing::error!(%table, reason, "Failed to apply changes: the table cannot be loaded");
        let states = cursor::table_states(client, meta).await?;
        if states.get(table).is_some_and(|state| state.position.is_none()) {
            cursor::change(client, meta, table, Event::LoadFails, None, Some(reason)).await?;
        } else {
            cursor::grant_nothing(client, meta, table, self.asked_of(table)).await?;
        }
        self.log_failure(table, reason).await?;
        self.report.refused.insert(table.clone(), reason.to_owned());
        Ok(())
    }

    /// Nothing is wrong with it: the next load takes it.
    pub(super) async fn put_off(&mut self, table: &TableName, reason: String) -> Result<()> {
        tracing::warn!(%table, reason, "the table is loaded later");
        let states = cursor::table_states(self.local.session.client(), &self.local.meta).await?;
        if let Some(state) = states.get(table) {
            self.note(table, state, &reason).await?;
        }
        self.report.waiting.insert(table.clone(), reason);
        Ok(())
    }

    async fn log_failure(&self, table: &TableName, reason: &str) -> Result<()> {
        let (client, meta) = (self.local.session.client(), &self.local.meta);
        let entry = Entry::failed(table, LOG_REF, reason);
        ledger::log(client, meta, &[entry], Duration::ZERO).await
    }
}
