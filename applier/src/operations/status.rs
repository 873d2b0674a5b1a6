//! `status`: how far the copy is and what is wrong, one value. The daemon adds what it has gone through.

use serde::{Deserialize, Serialize};
use syncdata_formats::error::Result;
use syncdata_formats::lsn::Lsn;
use syncdata_formats::time::Timestamp;
use syncdata_service::config::{ArchiveSettings, Config};
use syncdata_service::postgres::ServerContext as _;
use tokio_postgres::Row;

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
    pub sync_frequency_seconds: u64,
    pub start_time: Option<Timestamp>,
    pub last_sync: Option<Timestamp>,
    /// Records of the archive that were applied since the start, before netting.
    pub records_synced: u64,
    /// Passes and loads that failed, and tables that were set aside, since the start.
    pub errors: u64,
    pub stale_after_seconds: u64,
    pub archive: String,
    pub copy: CopyStatus,
    pub tables: Vec<TableStatus>,
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
    /// The newest proof that compared the table found that it differs from production, and nothing has cleared that.
    #[serde(default)]
    pub differs: bool,
    /// The newest proof of the table: percent of rows that agree, at least.
    #[serde(default)]
    pub score: Option<String>,
    #[serde(default)]
    pub proved_lsn: Option<Lsn>,
    #[serde(default)]
    pub proved_at: Option<Timestamp>,
}

/// What the database says.
#[derive(Clone, Debug, Default)]
pub struct Found {
    pub copy: CopyStatus,
    pub tables: Vec<TableStatus>,
}

impl Found {
    /// Our tables have to be there.
    pub async fn read(local: &Local) -> Result<Found> {
        let (client, meta) = (local.session.client(), &local.meta);
        let doing = || "reading how far the copy is".to_owned();
        let checkpoint = format!(
            "SELECT archive_id::text, seq, end_lsn::text, covered_at::text, applied_at::text \
             FROM {meta}.data_sync_checkpoint"
        );
        let row = client.query_opt(&checkpoint, &[]).await.context(doing)?;
        let copy = row.map(|row| copy(&row)).transpose()?.unwrap_or_default();
        let tables = format!(
            "SELECT w.table_name, coalesce(f.state, 'pending'), f.data_as_of::text, f.lsn::text, \
             coalesce(f.stale, true), s.reason, \
             ARRAY(SELECT jsonb_array_elements_text(coalesce(to_jsonb(s) -> 'nan_as_null', '[]'))), \
             f.score::text, f.proved_lsn::text, f.proved_at::text, \
             (SELECT coalesce(bool_or(v.verdict = 'differs' AND v.repaired_at IS NULL), false) FROM ( \
               SELECT DISTINCT ON (c.check_type) c.verdict, c.repaired_at FROM {meta}.data_sync_consistency c \
               WHERE c.table_name = w.table_name AND c.verdict IN ('equal', 'differs') \
               ORDER BY c.check_type, c.finished_at DESC) v) FROM {meta}.tables_to_sync w \
             LEFT JOIN {meta}.data_sync_freshness f USING (table_name) \
             LEFT JOIN {meta}.data_sync_table_state s USING (table_name) ORDER BY w.id"
        );
        let rows = client.query(&tables, &[]).await.context(doing)?;
        let tables = rows.iter().map(table).collect::<Result<Vec<TableStatus>>>()?;
        Ok(Found { copy, tables })
    }
}

fn copy(row: &Row) -> Result<CopyStatus> {
    Ok(CopyStatus {
        archive_id: row.get(0),
        segment: u64::try_from(row.get::<_, i64>(1)).unwrap_or(0),
        lsn: Some(row.get::<_, &str>(2).parse()?),
        covered_at: time(row.get(3))?,
        applied_at: time(row.get(4))?,
        data_as_of: None,
    })
}

fn table(row: &Row) -> Result<TableStatus> {
    let lsn: Option<&str> = row.get(3);
    Ok(TableStatus {
        table: row.get(0),
        state: row.get::<_, &str>(1).parse()?,
        data_as_of: time(row.get(2))?,
        lsn: lsn.map(str::parse).transpose()?,
        stale: row.get(4),
        reason: row.get(5),
        nan_as_null: row.get(6),
        score: row.get(7),
        proved_lsn: row.get::<_, Option<&str>>(8).map(str::parse).transpose()?,
        proved_at: time(row.get(9))?,
        differs: row.get(10),
    })
}

fn time(text: Option<&str>) -> Result<Option<Timestamp>> {
    text.map(Timestamp::from_postgres).transpose()
}

impl TableStatus {
    /// What nobody can tell from the rows that are here.
    pub fn warning(&self) -> Option<String> {
        let columns = self.nan_as_null.join(", ");
        (!columns.is_empty()).then(|| format!("{}: {}", self.table, nan_words(&columns)))
    }

    /// Somebody has to do something: a table that had rows and was emptied waits for them.
    fn is_set_aside(&self) -> bool {
        let is_emptied = self.state == State::Pending && self.lsn.is_some();
        matches!(self.state, State::Quarantined | State::Stale) || is_emptied
    }

    /// Live, and yet older than `stale_after`.
    fn is_too_old(&self) -> bool {
        self.state == State::Live && self.stale
    }
}

impl Status {
    /// What a status starts from, before anybody was asked.
    pub fn of_settings(config: &Config) -> Status {
        Status {
            sync_frequency_seconds: config.data_sync_freq.as_secs(),
            stale_after_seconds: config.stale_after.as_secs(),
            archive: archive_location(config),
            ..Status::default()
        }
    }

    /// Takes in what the database says, and judges. Problems that are there already come first.
    #[must_use]
    pub fn with(mut self, found: Found) -> Status {
        (self.copy, self.tables) = (found.copy, found.tables);
        self.copy.data_as_of = self.oldest();
        let set_aside = self.tables.iter().filter(|table| table.is_set_aside());
        let words = |table: &TableStatus| {
            let reason = table.reason.as_deref().map(|reason| format!(": {reason}")).unwrap_or_default();
            format!("{} is {}{reason}", table.table, table.state)
        };
        self.problems.extend(set_aside.map(words));
        let differing = self.tables.iter().filter(|table| table.differs);
        self.problems.extend(differing.map(|table| {
            format!(
                "{0} differs from production; which rows: syncdata-applier consistency rows {0}",
                table.table
            )
        }));
        self.problems.extend(self.too_old());
        self.healthy = self.problems.is_empty();
        self
    }

    /// Of the table that is furthest back. One without a base has nothing to be old; of one that was set aside and has
    /// never taken anything nobody knows.
    fn oldest(&self) -> Option<Timestamp> {
        let has_rows = |table: &&TableStatus| !matches!(table.state, State::Pending | State::Loading);
        let times = self.tables.iter().filter(has_rows).map(|table| table.data_as_of);
        // Without tables it is as far as the copy as a whole.
        times.min_by_key(|time| *time).unwrap_or(self.copy.covered_at)
    }

    fn too_old(&self) -> Option<String> {
        let old: Vec<&TableStatus> = self.tables.iter().filter(|table| table.is_too_old()).collect();
        let newest = old.iter().filter_map(|table| table.data_as_of).max();
        let names = match old.as_slice() {
            [] => return None,
            [one] => one.table.clone(),
            several => format!("{} tables", several.len()),
        };
        let newest = newest.map_or_else(|| "not known".to_owned(), |time| time.to_string());
        Some(format!(
            "{names}: not fresh within stale_after ({} s), as of {newest}; look at the archiver, and at both clocks",
            self.stale_after_seconds
        ))
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
        problems: vec!["no daemon is running".into()],
        ..Status::of_settings(config)
    };
    let found = match found(config).await {
        Ok(found) => found,
        Err(error) => {
            status.problems.push(error.one_line());
            Found::default()
        }
    };
    status.last_sync = found.copy.applied_at;
    status.with(found)
}

async fn found(config: &Config) -> Result<Found> {
    let local = Local::connect(config).await?;
    if meta::exists(&local.session, &local.meta).await? {
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
        ArchiveSettings::Directory(dir) => dir.display().to_string(),
    };
    config.archive().map(words).unwrap_or_else(|_| "-".to_owned())
}
