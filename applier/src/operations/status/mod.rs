//! `status`: how far the copy is and what is wrong, one value. The daemon adds what it has gone through.

mod found;
pub mod hops;
mod troubles;

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use syncdata_archive::verify::LastVerify;
use syncdata_formats::error::Result;
use syncdata_formats::lsn::Lsn;
use syncdata_formats::name::TableName;
use syncdata_formats::time::Timestamp;
use syncdata_service::alerts::Alert;
use syncdata_service::circuit::Circuit;
use syncdata_service::config::{ArchiveSettings, Config};
use syncdata_service::control::EarlierKeys;
use syncdata_service::disk::Room;
use syncdata_service::hops::{Hop, Trouble};

pub use self::found::Found;
use crate::plan::state::State;
use crate::target::postgres::local::Local;
use crate::target::postgres::meta;

/// Everything that an operator may want to know, as of now.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Status {
    /// `active` or `not-started`
    pub status: String,
    pub healthy: bool,
    /// What is wrong, worst first; empty when healthy.
    pub problems: Vec<String>,
    /// The same in parts: where, since when, and what to do.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub troubles: Vec<Trouble>,
    /// Of a daemon: from production to the tables.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub hops: Vec<Hop>,
    /// What is as it should be, and worth knowing.
    #[serde(default)]
    pub notes: Vec<String>,
    #[serde(default)]
    pub version: String,
    pub sync_frequency_seconds: u64,
    /// With `follow`: how often the archive is looked at, in milliseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub follow_milliseconds: Option<u64>,
    pub start_time: Option<Timestamp>,
    #[serde(default)]
    pub uptime_seconds: Option<u64>,
    pub last_sync: Option<Timestamp>,
    /// Records of the archive that were applied since the start, before netting.
    pub records_synced: u64,
    /// Passes and loads that failed, tables that could not be loaded or were set aside, since the start: once for each attempt.
    pub errors: u64,
    pub stale_after_seconds: u64,
    pub archive: String,
    /// Segments that the archive has and the copy has not, as far as the last pass has seen.
    #[serde(default)]
    pub waiting_segments: Option<u64>,
    /// Records in them, where the archive says it.
    #[serde(default)]
    pub waiting_records: Option<u64>,
    /// Bytes that are to be fetched for them.
    #[serde(default)]
    pub waiting_bytes: Option<u64>,
    pub copy: CopyStatus,
    pub tables: Vec<TableStatus>,
    /// Dead letters that are open: records in data_sync_quarantine.
    #[serde(default)]
    pub quarantine_records: Option<u64>,
    /// Records that wait for quarantined tables: those that failed, and all after them.
    #[serde(default)]
    pub dead_letter_queue: Option<u64>,
    /// The newest `verify` of the whole archive by a command with these settings.
    #[serde(default)]
    pub last_verify: Option<LastVerify>,
    #[serde(default)]
    pub disks: Vec<Room>,
    /// Whether those whom the daemon speaks with answer: `archive`, `local_server`, `webhook`, `command`.
    #[serde(default)]
    pub circuits: BTreeMap<String, Circuit>,
    /// Alerts that are not over.
    #[serde(default)]
    pub alerts: Vec<Alert>,
    #[serde(flatten)]
    pub earlier: EarlierKeys,
}

/// How far the copy as a whole has come.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct CopyStatus {
    pub archive_id: Option<String>,
    /// 0: nothing was applied yet.
    pub segment: u64,
    pub lsn: Option<Lsn>,
    /// By production's clock: what committed before is archived and applied, as far as tables are live.
    pub covered_at: Option<Timestamp>,
    /// What committed before is in every table that has rows.
    pub data_as_of: Option<Timestamp>,
    pub applied_at: Option<Timestamp>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TableStatus {
    pub table: String,
    pub state: State,
    pub data_as_of: Option<Timestamp>,
    pub lsn: Option<Lsn>,
    /// As the view `data_sync_freshness` says.
    pub stale: bool,
    pub reason: Option<String>,
    /// Columns in which NaN and infinities have arrived as NULL, if there were any.
    #[serde(default)]
    pub nan_as_null: Vec<String>,
    /// The source captures it no more: what committed after this is in no archive.
    #[serde(default)]
    pub captured_until: Option<Timestamp>,
    /// The newest proof that compared the table found that it differs from production, and nothing has cleared that.
    #[serde(default)]
    pub differs: bool,
    /// The checks that say so.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub differs_by: Vec<String>,
    /// The newest proof of the table: percent of rows that agree, at least.
    #[serde(default)]
    pub score: Option<String>,
    #[serde(default)]
    pub proved_lsn: Option<Lsn>,
    #[serde(default)]
    pub proved_at: Option<Timestamp>,
    /// By production's clock, at the latest: of the newest change that is in the table.
    #[serde(default)]
    pub changed_at: Option<Timestamp>,
    /// As the server estimates it, or as a proof has counted and nothing has changed since.
    #[serde(default)]
    pub rows: Option<u64>,
    /// When the proof counted them; `None`: an estimate.
    #[serde(default)]
    pub rows_counted_at: Option<Timestamp>,
    /// Why the last attempt to load it failed.
    #[serde(default)]
    pub load_failed: Option<String>,
    /// Of a quarantined table: records from the failed one on, once they are counted.
    #[serde(default)]
    pub waiting_records: Option<u64>,
    /// A transaction that ends there was passed over, and neither a proof nor a new base has made that good.
    #[serde(default)]
    pub incomplete_lsn: Option<Lsn>,
}

impl TableStatus {
    /// What nobody can tell from the rows that are here.
    pub fn warnings(&self) -> Vec<String> {
        self.nan_warning().into_iter().chain(self.incomplete_warning()).collect()
    }

    /// Not only a foreign key or a rule says so.
    pub fn differs_in_rows(&self) -> bool {
        let by_data = |check: &String| matches!(check.as_str(), "row_count" | "data_hash");
        self.differs && (self.differs_by.is_empty() || self.differs_by.iter().any(by_data))
    }

    pub fn nan_warning(&self) -> Option<String> {
        let columns = self.nan_as_null.join(", ");
        (!columns.is_empty()).then(|| format!("{}: {}", self.table, nan_words(&columns)))
    }

    pub fn incomplete_warning(&self) -> Option<String> {
        let lsn = self.incomplete_lsn?;
        Some(format!(
            "{}: incomplete: its part of the transaction that ends at {lsn} was passed over (dead-letters skip), or the loss of \
             rows before that accepted (retry --accept-gap); until a proof finds it equal, or: syncdata-applier resync {}",
            self.table,
            TableName::word_of(&self.table)
        ))
    }

    /// Somebody has to do something: a table that had rows and was emptied waits for them.
    fn is_set_aside(&self) -> bool {
        let is_emptied = self.state == State::Pending && self.lsn.is_some();
        self.state.needs_operator() || is_emptied
    }

    /// It waits for the rows to begin with, as a new table does.
    fn note(&self) -> Option<String> {
        let is_new = self.state.is_on_its_way() && self.lsn.is_none();
        let reason = self.reason.as_deref().unwrap_or("waits for its first base");
        is_new.then(|| format!("{}: {}: {reason}", self.table, self.state))
    }

    /// Live, and yet older than `stale_after`.
    fn is_too_old(&self) -> bool {
        self.state == State::Live && self.stale && self.captured_until.is_none()
    }

    /// It has rows, and nothing comes for them any more.
    fn is_left(&self) -> bool {
        self.state == State::Live && self.captured_until.is_some()
    }
}

impl Status {
    /// What a status starts from, before anybody was asked.
    pub fn of_settings(config: &Config) -> Status {
        Status {
            version: env!("CARGO_PKG_VERSION").into(),
            sync_frequency_seconds: config.data_sync_freq.as_secs(),
            follow_milliseconds: config
                .follow
                .then(|| u64::try_from(config.follow_interval.as_millis()).unwrap_or(u64::MAX)),
            stale_after_seconds: config.stale_after.as_secs(),
            archive: archive_location(config),
            disks: Room::of("cache", &config.cache_dir).into_iter().collect(),
            ..Status::default()
        }
    }

    /// Takes in what the database says, and judges. Troubles that are there already come first.
    #[must_use]
    pub fn with(mut self, found: Found) -> Status {
        (self.copy, self.tables) = (found.copy, found.tables);
        self.quarantine_records = found.quarantine_records;
        self.last_verify = found.last_verify;
        // One record at least has failed where nobody has counted yet.
        let quarantined = self.tables.iter().filter(|table| table.state == State::Quarantined);
        let waiting = quarantined.map(|table| table.waiting_records.unwrap_or(1)).sum();
        self.dead_letter_queue = found.quarantine_records.map(|_| waiting);
        self.copy.data_as_of = self.oldest();
        self.notes = self.tables.iter().filter_map(TableStatus::note).collect();
        self.notes.extend(found.forgets_from.map(|(days, from)| {
            format!("lines of data_sync_logs, sync_executions and data_sync_alerts older than {days} days go from {from} on (log_keep_days)")
        }));
        self.notes.extend(found.heirs.iter().map(|(heir, parent)| {
            format!(
                "{heir} inherits from {parent} here, and both are synced: queries of {parent} show its rows too; where production \
                 does not have it so: ALTER TABLE {heir} NO INHERIT {parent}"
            )
        }));
        self.troubles.extend(troubles::of_tables(&self));
        self.problems = self.troubles.iter().map(|trouble| trouble.words.clone()).collect();
        self.healthy = self.problems.is_empty();
        self.name_earlier();
        self
    }

    /// The same again under the names that an earlier tool's users ask for.
    fn name_earlier(&mut self) {
        self.earlier.last_lsn = self.copy.lsn;
        self.earlier.last_sync_time = self.last_sync;
        self.earlier.records_replicated = self.records_synced;
        self.earlier.error_count = self.errors;
        self.earlier.is_running = self.start_time.is_some();
    }

    /// Of the table that is furthest back. One without a base has nothing to be old; of one that was set aside and has
    /// never taken anything nobody knows.
    fn oldest(&self) -> Option<Timestamp> {
        let has_rows = |table: &&TableStatus| !table.state.is_on_its_way();
        let times = self.tables.iter().filter(has_rows).map(|table| table.data_as_of);
        // Without tables it is as far as the copy as a whole.
        times.min_by_key(|time| *time).unwrap_or(self.copy.covered_at)
    }
}

/// How it is said wherever it is said.
pub fn nan_words(columns: &str) -> String {
    format!(
        "NaN and infinities of {columns} arrived as NULL, since the source's wal2json cannot say them (2.6 or newer can; \
         then a snapshot and resync bring them)"
    )
}

/// What the database says, while no daemon runs.
pub async fn status(config: &Config) -> Status {
    let mut status = Status {
        status: "not-started".into(),
        troubles: vec![
            Trouble::new("no daemon is running").remedy("start it: systemctl start syncdata-applier"),
        ],
        ..Status::of_settings(config)
    };
    let found = match found(config).await {
        Ok(found) => found,
        Err(error) => {
            status.troubles.push(Trouble::new(error.one_line()).of_hop(hops::APPLY));
            Found::default()
        }
    };
    status.last_sync = found.copy.applied_at;
    status.with(found)
}

async fn found(config: &Config) -> Result<Found> {
    let local = Local::connect(config).await?;
    if meta::exists(&local.session, &local.meta).await? {
        meta::check_current(&local.session, &local.meta).await?;
        Found::read(&local).await
    } else {
        Ok(Found::default())
    }
}

pub fn archive_location(config: &Config) -> String {
    let words = |archive: &ArchiveSettings| match archive {
        ArchiveSettings::Sftp(sftp) => {
            format!("sftp://{}@{}:{}{}", sftp.user, sftp.host, sftp.port, sftp.dir.display())
        }
        ArchiveSettings::Directory(_) | ArchiveSettings::S3(_) => archive.place(),
    };
    config.archive().map(words).unwrap_or_else(|_| "-".to_owned())
}
