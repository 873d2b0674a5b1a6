//! How far the file is, for who asks: beside whatever its owner does, or of the copy for readers.

use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use serde_json::{Value, json};
use syncdata_formats::error::{Error, Result};
use syncdata_formats::time::Timestamp;
use syncdata_service::config::Config;
use syncdata_service::hops::Trouble;

use crate::operations::status::{CopyStatus, Found, Status, TableStatus, hops};
use crate::operations::{Answer, sync};
use crate::pass::runner::Synced;
use crate::pass::{Counts, Tally};
use crate::target::duckdb::{File, FoundCopy, FoundTable};

/// A status is answered within this, with or without the file.
const PATIENCE: Duration = Duration::from_secs(5);

/// What the owner of the file knows of its own work.
#[derive(Debug)]
pub(crate) struct Watch {
    file: File,
    tally: Arc<Tally>,
    /// Of a daemon.
    start_time: Option<Timestamp>,
    config: Mutex<Config>,
    facts: Mutex<Facts>,
}

#[derive(Debug, Default)]
struct Facts {
    last_sync: Option<Timestamp>,
    /// Why the last pass was not all well.
    trouble: Option<Trouble>,
    /// Tables that the last pass could not load, and why.
    not_loaded: Vec<(String, String)>,
}

impl Watch {
    pub(super) fn new(config: &Config, file: File, tally: Arc<Tally>, is_daemon: bool) -> Watch {
        Watch {
            file,
            tally,
            start_time: is_daemon.then(Timestamp::now),
            config: Mutex::new(config.clone()),
            facts: Mutex::default(),
        }
    }

    pub(crate) fn configured(&self, config: &Config) {
        *self.config.lock().unwrap_or_else(PoisonError::into_inner) = config.clone();
    }

    pub(crate) fn settings(&self) -> Value {
        self.config.lock().unwrap_or_else(PoisonError::into_inner).describe_json()
    }

    pub(crate) fn counts(&self) -> Counts {
        self.tally.counts()
    }

    /// A panic elsewhere leaves facts that are at worst old.
    fn facts(&self) -> MutexGuard<'_, Facts> {
        self.facts.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A pass has ended, with what it led to.
    pub(crate) fn synced(&self, result: &Result<Synced>) {
        let mut facts = self.facts();
        match result {
            Ok(synced) => {
                facts.trouble =
                    synced.pass.missing.map(|seq| Trouble::new(sync::missing(seq)).of_hop(hops::FETCH));
                let not_loaded = synced.not_loaded.iter();
                facts.not_loaded =
                    not_loaded.map(|(table, reason)| (table.to_string(), reason.clone())).collect();
                if !synced.pass.stopped {
                    facts.last_sync = Some(Timestamp::now());
                }
            }
            Err(error) => {
                let hop = if error.kind().refuses_archive() { hops::FETCH } else { hops::APPLY };
                facts.trouble = Some(Trouble::new(error.with_hint()).of_hop(hop));
            }
        }
    }

    pub(crate) async fn status(&self) -> Status {
        let found = tokio::time::timeout(PATIENCE, self.file.found()).await;
        let found = found.map_err(|_| format!("the file did not answer within {PATIENCE:?}"));
        let found = found.and_then(|found| found.map_err(|error| error.one_line()));
        let settings = Status::of_settings(&self.config.lock().unwrap_or_else(PoisonError::into_inner));
        let (facts, counts) = (self.facts(), self.tally.counts());
        let mut status = Status {
            status: if self.start_time.is_some() { "active" } else { "not-started" }.into(),
            start_time: self.start_time,
            uptime_seconds: self.start_time.map(|start| Timestamp::now().since(start).as_secs()),
            last_sync: facts.last_sync,
            records_synced: counts.records,
            errors: counts.errors(),
            waiting_segments: counts.waiting,
            waiting_records: counts.waiting_size.map(|size| size.records),
            waiting_bytes: counts.waiting_size.map(|size| size.bytes),
            troubles: facts.trouble.iter().cloned().collect(),
            ..settings
        };
        if self.start_time.is_none() {
            status.troubles.insert(0, no_daemon());
        }
        let mut found = match found {
            Ok(found) => told(found),
            Err(words) => {
                status.troubles.push(Trouble::new(words).of_hop(hops::APPLY));
                Found::default()
            }
        };
        for (table, reason) in &facts.not_loaded {
            if let Some(known) = found.tables.iter_mut().find(|known| known.table == *table) {
                known.load_failed = Some(reason.clone());
            }
        }
        if status.last_sync.is_none() {
            status.last_sync = found.copy.applied_at;
        }
        status.with(found)
    }

    /// The whitelist.
    pub(crate) async fn list(&self) -> Answer {
        match self.file.found().await {
            Ok(found) => list(&found),
            Err(error) => Answer::failed(&error),
        }
    }
}

fn no_daemon() -> Trouble {
    Trouble::new("no daemon is running").remedy("start it: systemctl start syncdata-applier")
}

/// The whitelist, in the order in which it grew.
pub(crate) fn list(found: &FoundCopy) -> Answer {
    let text = found.tables.iter().map(|table| format!("{}\n", table.table)).collect();
    let document: Value =
        found.tables.iter().map(|table| json!({"table": table.table, "state": table.state})).collect();
    Answer::done(text, document)
}

/// How far the copy is while no process of ours owns the file: as the file itself says, or, where somebody else has it, as the
/// copy for readers does, and which of them that was.
pub(crate) async fn published(config: &Config) -> Result<(FoundCopy, Option<String>)> {
    let path = config.duckdb_database_path()?;
    if !path.exists() {
        return Ok((FoundCopy::default(), None));
    }
    let error = match read(path).await {
        Ok(found) => return Ok((found, None)),
        Err(error) => error,
    };
    let mut published = path.as_os_str().to_owned();
    published.push(".published");
    match read(Path::new(&published)).await {
        Ok(found) => {
            let words = format!("as of the copy for readers: {}", error.one_line());
            Ok((found, Some(words)))
        }
        Err(_) => Err(error),
    }
}

async fn read(path: &Path) -> Result<FoundCopy, Error> {
    File::open_to_read(path)?.found().await
}

impl Status {
    /// While no daemon runs.
    pub(crate) fn of_file(config: &Config, found: Result<(FoundCopy, Option<String>)>) -> Status {
        let mut status = Status {
            status: "not-started".into(),
            troubles: vec![no_daemon()],
            ..Status::of_settings(config)
        };
        let found = match found {
            Ok((found, words)) => {
                status.troubles.extend(words.map(|words| Trouble::new(words).of_hop(hops::APPLY)));
                told(found)
            }
            Err(error) => {
                status.troubles.push(Trouble::new(error.with_hint()).of_hop(hops::APPLY));
                Found::default()
            }
        };
        status.last_sync = found.copy.applied_at;
        status.with(found)
    }
}

/// As a status has it.
pub(crate) fn told(found: FoundCopy) -> Found {
    let FoundCopy { archive_id, segment, lsn, covered_at, applied_at, tables, quarantine_records } = found;
    let copy = CopyStatus { archive_id, segment, lsn: Some(lsn), covered_at, applied_at, data_as_of: None };
    Found {
        copy,
        tables: tables.into_iter().map(table).collect(),
        quarantine_records: Some(quarantine_records),
        ..Found::default()
    }
}

fn table(found: FoundTable) -> TableStatus {
    TableStatus {
        table: found.table,
        state: found.state,
        data_as_of: found.data_as_of,
        lsn: found.lsn,
        stale: found.stale,
        reason: found.reason,
        nan_as_null: found.nan_as_null,
        captured_until: found.captured_until,
        differs: false,
        differs_by: Vec::new(),
        score: None,
        proved_lsn: None,
        proved_at: None,
        changed_at: found.changed_at,
        rows: found.rows,
        rows_counted_at: None,
        load_failed: None,
        waiting_records: found.waiting_records,
        incomplete_lsn: found.incomplete_lsn,
    }
}
