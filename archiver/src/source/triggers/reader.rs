//! What the schema syncdata knows of its reader: whose it is, and how far it has come.

use syncdata_formats::name::SlotName;
use syncdata_formats::snapshot::Seen;
use syncdata_formats::{Error, Kind, Result};
use syncdata_service::config::{Config, Source};

use crate::source::ask::{Asked, many, one};

/// Past this number nothing is noted.
pub(crate) const BLOWN: i64 = 1 << 62;

/// All is noted again, and nobody has looked which transactions are open since before.
pub(super) const REARMED_NOW: u64 = i64::MAX.unsigned_abs();

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Reader {
    pub slot: String,
    pub system_identifier: String,
    pub database: u32,
    pub database_name: String,
    pub guard_bytes: u64,
    pub batch: u64,
    /// Transactions from before this number may have left out notes.
    pub rearmed: u64,
    /// Nothing is noted, because nobody read what was.
    pub is_blown: bool,
    pub notes_bytes: u64,
    /// Shows nothing that was noted: what the first batch of all comes after.
    pub snapshot: Seen,
}

/// Somebody else's schema may have that name, or be closed to us.
const THERE: &str = "SELECT FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
    JOIN pg_attribute a ON a.attrelid = c.oid AND a.attname = 'guard_bytes'
  WHERE n.nspname = 'syncdata' AND c.relname = 'reader'
    AND has_schema_privilege(n.oid, 'USAGE') AND has_table_privilege(c.oid, 'SELECT')";

const READER: &str = "SELECT slot, system_identifier, database, guard_bytes, batch, snapshot, rearmed, current_database()::text,
    (SELECT last_value >= 4611686018427387904 FROM syncdata.change_id),
    pg_total_relation_size('syncdata.changes_0') + pg_total_relation_size('syncdata.changes_1')
  FROM syncdata.reader";

/// `None` where there is no schema of ours, or none that our role may read.
pub(crate) async fn read(client: &impl Asked) -> Result<Option<Reader>> {
    if many(client, "looking for the schema syncdata", THERE, &[]).await?.is_empty() {
        return Ok(None);
    }
    let rows = many(client, "reading syncdata.reader", READER, &[]).await?;
    let Some(row) = rows.first() else { return Ok(None) };
    let snapshot: &str = row.get(5);
    Ok(Some(Reader {
        slot: row.get(0),
        system_identifier: row.get(1),
        database: row.get(2),
        database_name: row.get(7),
        guard_bytes: row.get::<_, i64>(3).unsigned_abs(),
        batch: row.get::<_, i64>(4).unsigned_abs(),
        is_blown: row.get(8),
        notes_bytes: row.get::<_, i64>(9).unsigned_abs(),
        rearmed: row.get::<_, i64>(6).unsigned_abs(),
        snapshot: Seen::parse(snapshot)
            .ok_or_else(|| Error::bad_input("a snapshot of PostgreSQL", snapshot))?,
    }))
}

/// Where triggers are read: that there is something to read, in words that say what to do.
pub(crate) async fn expect(client: &impl Asked, config: &Config) -> Result<()> {
    if config.source != Source::Triggers || read(client).await?.is_some() {
        return Ok(());
    }
    Err(missing(&config.slot_name))
}

pub(crate) fn missing(slot: &SlotName) -> Error {
    Error::new(
        Kind::NotFound,
        format!("there is no schema syncdata that notes for {slot}, or our role may not read it"),
    )
    .hint("run `syncdata-archiver setup --create-triggers`; changes are noted from then on, and those of before are a gap where an archive is there")
}

/// Whether notes were left out because nobody read the ones before. Asked after a snapshot was taken, `false` means that
/// whatever the snapshot shows was noted.
pub(crate) async fn is_blown(client: &impl Asked) -> Result<bool> {
    let sql = format!("SELECT last_value >= {BLOWN} FROM syncdata.change_id");
    Ok(one(client, "asking whether all is noted", &sql, &[]).await?.get(0))
}

/// As PostgreSQL reads it.
pub(crate) fn text_of(seen: &Seen) -> String {
    let running: Vec<String> = seen.xip.iter().map(u64::to_string).collect();
    format!("{}:{}:{}", seen.xmin, seen.xmax, running.join(","))
}
