//! The end of a load: the last changes, the difference between tables and shadows, and the positions.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use syncdata_formats::error::Result;
use syncdata_formats::lsn::Lsn;
use syncdata_formats::manifest::{Generated, OpCounts};
use syncdata_formats::name::TableName;
use syncdata_service::faults;
use syncdata_service::postgres::sqlstate;
use tokio_postgres::Client;
use tokio_postgres::error::SqlState;

use super::difference::{Changes, Pair};
use super::loader::{Loader, Work, control};
use super::{Base, Copy, Halt, Loaded, Refusal, is_of_a_row};
use crate::plan::state::{Event, State, TableState};
use crate::table::{self, Fit, Table, UniqueIndex};
use crate::target::postgres::apply::{FREE_PLANS, Writer, computed};
use crate::target::postgres::bystanders;
use crate::target::postgres::cascades::Watch;
use crate::target::postgres::cursor;
use crate::target::postgres::identity;
use crate::target::postgres::ledger::{self, Entry};
use crate::target::postgres::lost::Lost;
use crate::target::postgres::quarantine::{self, Resolution};
use crate::target::postgres::{labels, rules};

/// Where one is among those that are brought over together.
struct Turns<'a> {
    done: &'a BTreeMap<TableName, Loaded>,
    to_come: &'a [TableName],
}

/// What became of those that were brought over together, and whose rows changed beside theirs.
#[derive(Default)]
struct Brought {
    loaded: BTreeMap<TableName, Loaded>,
    refused: BTreeMap<TableName, String>,
    touched: BTreeSet<TableName>,
}

impl Loader<'_> {
    /// One transaction. No pass runs meanwhile.
    pub(super) async fn bring_over(
        &mut self,
        work: &mut Work<'_>,
        writer: &mut Writer,
        started: Instant,
    ) -> Result<()> {
        while self.catch_up(work, writer).await? {}
        if work.copies.is_empty() || self.report.stopped {
            return Ok(());
        }

        let (client, meta) = (self.local.session.client(), &self.local.meta);
        let checkpoint = self.cursor.read(client).await?;
        self.goes_on(work, &checkpoint)?;
        let position = checkpoint.end_lsn().max(work.base.end());
        let bring = async {
            writer.begin(client).await?;
            self.local.announce_writes().await?;
            control(client, FREE_PLANS).await?;
            self.cursor.claim(client, &checkpoint).await?;

            let mut later = self.leave(work).await?;
            later.extend(self.hold(work).await?);
            let names = work.copies.keys().filter(|name| !later.contains_key(*name)).cloned();
            let Brought { loaded, refused, touched } =
                self.bring_all_over(work, writer, names.collect(), position).await?;

            for table in touched.difference(&loaded.keys().cloned().collect()) {
                self.note_touched(table).await?;
            }
            let base = match work.base {
                Base::Snapshot(snapshot) => Some(&**snapshot),
                Base::Start { .. } => None,
            };
            for (table, done) in &loaded {
                if done.changes.total() > 0 {
                    cursor::outdate_digests(client, meta, table, "loaded anew meanwhile").await?;
                }
                cursor::note_loaded(client, meta, table, position, base, self.asked_of(table)).await?;
                if let Some(columns) = work.nan_as_null.get(table) {
                    let columns: Vec<String> = columns.iter().cloned().collect();
                    cursor::note_nan(client, meta, table, &columns).await?;
                }
                quarantine::settle(client, meta, table, Resolution::Resynced).await?;
                cursor::release_held(client, meta, table).await?;
                let described = &work.copies[table].relation.columns;
                let columns =
                    described.iter().filter_map(|column| Some((column.attnum?, column.name.clone())));
                cursor::note_columns(client, meta, table, &columns.collect()).await?;
                if work.copies[table].described {
                    cursor::note_keys(client, meta, &[(table, &work.copies[table].relation.key)]).await?;
                }
                identity::note(client, meta, table).await?;
                labels::begin(client, meta, table, &work.copies[table].relation).await?;
            }
            let entries: Vec<Entry> = loaded
                .iter()
                .map(|(table, loaded)| entry(table, loaded, work.copies[table].transfer))
                .collect();
            ledger::log(client, meta, &entries, started.elapsed()).await?;
            faults::hit("load.before_commit")?;
            Ok((loaded, refused, later))
        };
        let (loaded, refused, later) = self.local.in_transaction(bring).await?;
        faults::hit("load.after_commit")?;

        for (table, done) in &loaded {
            let Changes { inserted, updated, deleted } = done.changes;
            tracing::info!(%table, base = done.base, lsn = %position, inserted, updated, deleted, "table is live");
        }
        self.report.loaded.extend(loaded);
        for (table, reason) in refused {
            self.fail(&table, &reason).await?;
        }
        for (table, reason) in later {
            self.put_off(&table, reason).await?;
        }
        Ok(())
    }

    /// What a foreign key is in the way of has another turn where one of the others came: the child before its parent, the
    /// parent whose children go.
    async fn bring_all_over(
        &self,
        work: &Work<'_>,
        writer: &Writer,
        names: Vec<TableName>,
        position: Lsn,
    ) -> Result<Brought> {
        let mut brought = Brought::default();
        let mut turn = names;
        loop {
            let (before, mut tied) = (brought.loaded.len(), Vec::new());
            for (place, name) in turn.iter().enumerate() {
                let to_come: Vec<TableName> = turn[place + 1..].iter().chain(&tied).cloned().collect();
                let turns = Turns { done: &brought.loaded, to_come: &to_come };
                match self.bring_one_over(work, writer, name, &turns).await {
                    Ok((changes, others)) => {
                        brought.touched.extend(others);
                        brought.refused.remove(name);
                        let base = work.base.name();
                        brought.loaded.insert(name.clone(), Loaded { base, changes, position });
                    }
                    Err(Halt::Refused(Refusal { reason, is_tied, .. })) => {
                        brought.refused.insert(name.clone(), reason);
                        if is_tied {
                            tied.push(name.clone());
                        }
                    }
                    Err(Halt::Failed(error)) => return Err(error),
                }
            }
            if brought.loaded.len() == before {
                return Ok(brought);
            }
            turn = tied;
        }
    }

    /// No pass and no command runs meanwhile. What was made for tables that somebody has taken off the whitelist, emptied or
    /// vouched for since is for nobody; those that wait for a base all the same are loaded later.
    async fn leave(&self, work: &mut Work<'_>) -> Result<BTreeMap<TableName, String>> {
        let states = cursor::table_states(self.local.session.client(), &self.local.meta).await?;
        let is_left = |table: &TableName| !states.get(table).is_some_and(TableState::takes_load);
        let left: Vec<TableName> = work.copies.keys().filter(|table| is_left(table)).cloned().collect();
        let mut later = BTreeMap::new();
        for table in left {
            work.copies.remove(&table);
            tracing::warn!(%table, base = work.base.name(), "nobody waits for its base any more: nothing of it was written");
            if states.get(&table).is_some_and(|state| state.wants().is_some()) {
                later.insert(
                    table,
                    "it was begun anew while its base was on the way; it is loaded anew".to_owned(),
                );
            }
        }
        Ok(later)
    }

    /// Over the tables on which foreign keys act while that one is brought over.
    async fn watch(&self, table: &Table) -> Result<Watch> {
        if self.local.replica || !(table.acts_on_delete || table.acts_on_update) {
            return Ok(Watch::default());
        }
        let client = self.local.session.client();
        let states = cursor::table_states(client, &self.local.meta).await?;
        let others = states.into_keys().filter(|other| *other != table.name).collect();
        Watch::over(client, &others).await
    }

    /// One of those tables whose rows were right, if there is one. Others are no longer what they were.
    async fn right_one(&self, turns: &Turns<'_>, touched: &BTreeSet<TableName>) -> Result<Option<TableName>> {
        let states = cursor::table_states(self.local.session.client(), &self.local.meta).await?;
        let is_right = |other: &&TableName| {
            let is_live = states.get(*other).is_some_and(|state| state.state == State::Live);
            turns.done.contains_key(*other) || is_live && !turns.to_come.contains(other)
        };
        Ok(touched.iter().find(is_right).cloned())
    }

    /// Its rows have changed beside those of another one, and its own base does not make up for it.
    async fn note_touched(&self, table: &TableName) -> Result<()> {
        let (client, meta) = (self.local.session.client(), &self.local.meta);
        identity::disown(client, meta, table).await?;
        let states = cursor::table_states(client, meta).await?;
        if states.get(table).is_some_and(|state| state.state == State::Live) {
            let reason = format!(
                "a foreign key of the copy changed rows of it that the source did not change: {}",
                Lost::Touched.reason(table)
            );
            cursor::change(client, meta, table, Event::SetAside, None, Some(&reason)).await?;
            tracing::error!(%table, "the table is quarantined: a foreign key of the copy changed rows of it");
        }
        Ok(())
    }

    async fn bring_one_over(
        &self,
        work: &Work<'_>,
        writer: &Writer,
        name: &TableName,
        turns: &Turns<'_>,
    ) -> Result<(Changes, BTreeSet<TableName>), Halt> {
        let copy = &work.copies[name];
        let target =
            table::fit(&copy.relation, &copy.table).map_err(|difference| Halt::refused(name, difference))?;
        // Nothing has said which columns the source has: those that are here, and no rows.
        let columns = match copy.columns.as_slice() {
            [] => {
                (0..copy.table.columns.len()).filter(|place| !copy.table.columns[*place].generated).collect()
            }
            columns => columns.to_vec(),
        };
        let pair = Pair {
            table: &copy.table,
            shadow: &copy.shadow,
            key: key(&target, self.local.replica),
            columns,
            replica: self.local.replica,
        };

        let (client, meta) = (self.local.session.client(), &self.local.meta);
        if let Some(lost) = identity::unfit_for_rows(client, meta, name).await? {
            return Err(Halt::refused(name, lost.reason(name)));
        }
        if let Some(reason) = unfit_key(client, &pair, &target).await? {
            return Err(Halt::refused(name, reason));
        }
        control(client, "SAVEPOINT syncdata_table").await?;
        let watch = self.watch(&copy.table).await?;
        let before = watch.count(client).await?;
        let [mut acting, watched] =
            rules::acting_and_watched(client, meta, [&*copy.table].into_iter()).await?;
        if let Some(rule) = acting.remove(name) {
            return Err(Halt::refused(name, rule.words(name)));
        }
        let states = cursor::table_states(client, &self.local.meta).await?;
        let acted_on = watch.tables();
        let others = states.into_keys().filter(|other| other != name && !acted_on.contains(other)).collect();
        let beside = bystanders::beside(self.local, &[&copy.table], &others).await?;
        let mut brought = pair.bring_over(client).await;
        // Once is enough, if no trigger has changed what was brought.
        if let (Ok(_), Some(rule)) = (&brought, watched.get(name)) {
            match pair.bring_over(client).await {
                Ok(again) if again.total() > 0 => {
                    control(client, "ROLLBACK TO SAVEPOINT syncdata_table").await?;
                    return Err(Halt::refused(name, rule.words(name)));
                }
                Ok(_) => {}
                Err(error) => brought = Err(error),
            }
            if let (Ok(_), Some(beside)) = (&brought, &beside)
                && let Some((other, table, rule)) = beside.changed(client).await?
            {
                control(client, "ROLLBACK TO SAVEPOINT syncdata_table").await?;
                let (what, remedy) = (rule.what(table), rule.remedy());
                return Err(Halt::refused(
                    name,
                    format!("{what}: rows of {other} have changed beside its own; run: {remedy}"),
                ));
            }
        }
        let mut touched = BTreeSet::new();
        if brought.is_ok() {
            touched = watch.changed(client, &before).await?;
            if let Some(newer) = self.right_one(turns, &touched).await? {
                control(client, "ROLLBACK TO SAVEPOINT syncdata_table").await?;
                let reason = format!(
                    "its rows cannot change without those of {newer}, through a foreign key of the copy; let this role set \
                     session_replication_role, or drop that key, then run: syncdata-applier resync {}",
                    name.shell_word()
                );
                return Err(Halt::refused(name, reason));
            }
        }
        let refusal = match brought {
            Ok(changes) if writer.duplicates(client, &copy.table).await? => {
                tracing::debug!(table = %name, rows = changes.total(), "brought over in vain");
                Halt::refused(name, "two rows have the same value in a deferrable unique constraint")
            }
            Ok(changes) => match pair.computes_another(client, &computed(copy)).await? {
                None => return Ok((changes, touched)),
                Some(column) => {
                    let (what, remedy) = computed::words(&copy.table, column);
                    Halt::refused(name, format!("{what}; run: {remedy}"))
                }
            },
            Err(error) => {
                if !is_of_a_row(&error) {
                    return Err(Halt::Failed(error));
                }
                match sqlstate(&error) {
                    Some(&SqlState::FOREIGN_KEY_VIOLATION) => Halt::tied(name, error.one_line()),
                    _ => Halt::refused(name, error.one_line()),
                }
            }
        };
        control(client, "ROLLBACK TO SAVEPOINT syncdata_table").await?;
        Err(refusal)
    }
}

/// Columns that both sides compute and keep: the shadow has them as the source sent them.
fn computed(copy: &Copy) -> Vec<usize> {
    let stored = copy.relation.columns.iter().filter(|column| column.generated == Some(Generated::Stored));
    let here = stored.filter_map(|column| copy.table.column(&column.name));
    here.filter(|place| copy.table.columns[*place].generated).collect()
}

/// By which columns rows are found. Where foreign keys act, a row must not go and come again: any unique key will do.
fn key(target: &Fit, replica: bool) -> &[usize] {
    if target.key.arbiter {
        return &target.key.columns;
    }
    let table = &target.table;
    let is_key = |unique: &&UniqueIndex| {
        let plain = |column: &usize| table.columns[*column].not_null && !table.columns[*column].generated;
        unique.immediate && unique.columns.iter().all(plain)
    };
    let any = table.unique.iter().find(is_key).filter(|_| !replica && table.is_referenced());
    any.map_or(&[], |unique| &unique.columns)
}

/// Why rows cannot be found by that key, where foreign keys act.
async fn unfit_key(client: &Client, pair: &Pair<'_>, target: &Fit) -> Result<Option<String>> {
    let table = pair.table;
    let is_of_source = target.key.arbiter || pair.key.is_empty();
    if !is_of_source && pair.has_key_twice(client).await? {
        return Ok(Some(format!(
            "the source has rows with the same ({}), which is a unique key of {} here; drop that key, or the foreign keys that \
             refer to the table, or let this role set session_replication_role, then run: syncdata-applier resync {}",
            table.column_list(pair.key),
            table.name,
            table.name.shell_word()
        )));
    }
    if pair.takes_others_along(client).await? {
        let fixed: Vec<String> = pair.fixed().collect();
        let set: Vec<String> =
            fixed.iter().map(|column| format!("ALTER COLUMN {column} SET GENERATED BY DEFAULT")).collect();
        return Ok(Some(format!(
            "rows of it have another value in {} at the source, which nobody may update here, and would take others along through \
             a foreign key of the copy; run: ALTER TABLE {} {}",
            fixed.join(", "),
            table.name.sql(),
            set.join(", ")
        )));
    }
    Ok(None)
}

fn entry(table: &TableName, loaded: &Loaded, transfer: Duration) -> Entry {
    let Changes { inserted, updated, deleted } = loaded.changes;
    Entry {
        table: table.clone(),
        archive_ref: loaded.base.clone(),
        counts: OpCounts { insert: inserted, update: updated, delete: deleted, truncate: 0 },
        missing: 0,
        transfer,
        error: None,
    }
}
