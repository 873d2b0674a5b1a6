//! Dead letters: the records that no table would take, kept with all that is known about them, also when they are settled.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use syncdata_formats::error::Result;
use syncdata_formats::lsn::Lsn;
use syncdata_formats::name::TableName;
use syncdata_formats::time::Timestamp;
use syncdata_service::postgres::OwnTablesContext as _;
use tokio_postgres::{GenericClient, Row};
use uuid::Uuid;

use crate::target::postgres::kept::{self, RECORD_BYTES_MAX};
use crate::target::postgres::local::Local;
use crate::target::postgres::meta::MetaSchema;
use crate::target::{Found, Poison};

/// One of them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeadLetter {
    /// The same place of the archive keeps it, however often it is tried.
    pub operation_id: Uuid,
    pub table: String,
    /// Its place: segment and line.
    pub seq: u64,
    /// `None`: no record in particular is to blame.
    pub line: Option<u64>,
    pub lsn: Option<Lsn>,
    pub sqlstate: Option<String>,
    /// With the server's own words, which may quote values.
    pub reason: String,
    /// When it failed first.
    pub at: Timestamp,
    pub attempts: u32,
    pub resolved_at: Option<Timestamp>,
    pub resolution: Option<String>,
}

/// How a dead letter was settled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Resolution {
    /// A later try took it.
    Applied,
    /// The table was made anew from a base.
    Resynced,
    /// The table was emptied.
    Cleared,
    /// The table was taken off the whitelist.
    Removed,
}

impl Resolution {
    fn as_str(self) -> &'static str {
        match self {
            Resolution::Applied => "applied",
            Resolution::Resynced => "resynced",
            Resolution::Cleared => "cleared",
            Resolution::Removed => "removed",
        }
    }
}

/// Keeps what failed. A record that has failed before counts one more attempt; what failed earlier in the archive was
/// taken meanwhile.
pub async fn keep(local: &Local, poison: &Poison, record: Option<&Found>) -> Result<()> {
    let (client, meta) = (local.session.client(), &local.meta);
    let seq = i64::try_from(poison.seq).expect("ten digits");
    let line = poison.line.and_then(|line| i64::try_from(line).ok());
    let table = poison.table.to_string();
    if line.is_some() {
        let passed = format!(
            "UPDATE {meta}.data_sync_quarantine SET resolved_at = clock_timestamp(), resolution = 'applied' \
             WHERE table_name = $1 AND resolved_at IS NULL \
             AND (seq < $2 OR (seq = $2 AND (line IS NULL OR line < $3)))"
        );
        let noted = client.execute(&passed, &[&table, &seq, &line]).await;
        noted.context(|| "settling what was taken meanwhile".to_owned())?;
    }

    let (reason, text) = words(local, poison, record).await?;
    let upsert = format!(
        "INSERT INTO {meta}.data_sync_quarantine AS q (table_name, seq, line, lsn, sqlstate, reason, record) \
         VALUES ($1, $2, $3, $4::text::pg_lsn, $5, $6, $7) \
         ON CONFLICT (table_name, seq, coalesce(line, -1)) DO UPDATE SET lsn = EXCLUDED.lsn, \
         sqlstate = EXCLUDED.sqlstate, reason = EXCLUDED.reason, record = EXCLUDED.record, attempts = q.attempts + 1, \
         resolved_at = NULL, resolution = NULL"
    );
    let lsn = record.map(|record| record.lsn.to_string());
    client
        .execute(&upsert, &[&table, &seq, &line, &lsn, &poison.sqlstate, &reason, &text])
        .await
        .context(|| "keeping the record in data_sync_quarantine".to_owned())?;
    Ok(())
}

/// The reason and the record, as they may be kept.
async fn words(local: &Local, poison: &Poison, record: Option<&Found>) -> Result<(String, Option<String>)> {
    let client = local.session.client();
    let hashed = record.and_then(|record| local.values.hashed(&record.text));
    let (said, text) = match &local.values {
        Values::Plain => (poison.server_words.as_ref(), record.map(|record| &record.text)),
        // What the server says may quote values.
        Values::Hashed { .. } => (None, hashed.as_ref()),
    };
    let said = said.map_or(String::new(), |words| format!(" [{words}]"));
    let mut reason = format!("{}{said}", poison.words());
    let kept = match text {
        Some(text) => kept::document(client, text).await?,
        None => None,
    };
    if let (Some(text), None) = (text, &kept) {
        let bytes = text.len();
        reason = format!(
            "the record of {bytes} bytes is too long to be kept here (more than {RECORD_BYTES_MAX}), it is in the \
             archive: {reason}"
        );
    }
    Ok((kept::words(client, &reason).await?, kept))
}

/// What becomes of the values of a record.
#[derive(Clone, Debug)]
pub enum Values {
    Plain,
    /// The key lies in that file; it is made when it is needed first.
    Hashed {
        key_file: std::path::PathBuf,
    },
}

impl Values {
    /// The record with a hash in place of each value, if they are hashed. `None` when that is not possible: then nothing
    /// of it is kept, for a note that cannot be made would hold up every table.
    fn hashed(&self, record: &str) -> Option<String> {
        let Values::Hashed { key_file } = self else { return None };
        let hashed = key(key_file).and_then(|key| hash(record, &key));
        hashed
            .inspect_err(|error| {
                tracing::warn!(error = %error.one_line(), "a record is not kept: its values cannot be hashed");
            })
            .ok()
    }
}

/// As `apply::poison` writes it.
#[derive(Deserialize)]
struct Parts<'a> {
    table: String,
    op: String,
    #[serde(borrow, default)]
    data: BTreeMap<String, &'a RawValue>,
    #[serde(borrow, default)]
    old_keys: BTreeMap<String, &'a RawValue>,
}

fn hash(record: &str, key: &[u8]) -> Result<String> {
    let parts: Parts<'_> = serde_json::from_str(record)
        .map_err(|error| syncdata_formats::Error::bad_input("a record", "what was found").caused_by(error))?;
    let mut document = serde_json::json!({"table": parts.table, "op": parts.op});
    for (name, fields) in [("data", parts.data), ("old_keys", parts.old_keys)] {
        let mut hashed = serde_json::Map::new();
        for (column, value) in fields {
            // Half of the digits tell values apart as well.
            let digits = syncdata_service::hmac::sha256_hex(key, value.get().as_bytes())?;
            let hash = match value.get() {
                "null" => serde_json::Value::Null,
                _ => format!("hmac-sha256:{}", &digits[..32]).into(),
            };
            hashed.insert(column, hash);
        }
        if !hashed.is_empty() {
            document[name] = hashed.into();
        }
    }
    Ok(document.to_string())
}

/// Reads the key, or makes one. Whoever reads the database alone cannot try values until a hash fits.
fn key(file: &std::path::Path) -> Result<Vec<u8>> {
    use std::io::{ErrorKind, Read as _, Write as _};
    use std::os::unix::fs::DirBuilderExt as _;
    use syncdata_formats::error::Context as _;

    let doing = || format!("reading the key {}", file.display());
    if !file.exists() {
        let making = || format!("making the key {}", file.display());
        let folder = file.parent().unwrap_or(std::path::Path::new("."));
        std::fs::DirBuilder::new().recursive(true).mode(0o700).create(folder).context(making)?;
        let mut made = tempfile::NamedTempFile::new_in(folder).context(making)?;
        made.write_all(&syncdata_service::hmac::new_key()?).context(making)?;
        made.as_file().sync_all().context(making)?;
        match made.persist_noclobber(file) {
            Err(error) if error.error.kind() != ErrorKind::AlreadyExists => {
                return Err(error.error).context(making);
            }
            _ => {}
        }
    }
    let mut key = Vec::new();
    let opened = syncdata_service::own_files::read_plain(file)?;
    opened.take(64).read_to_end(&mut key).context(doing)?;
    Ok(key)
}

/// Settles what is open of a table.
pub async fn settle(
    client: &impl GenericClient,
    meta: &MetaSchema,
    table: &TableName,
    resolution: Resolution,
) -> Result<()> {
    let update = format!(
        "UPDATE {meta}.data_sync_quarantine SET resolved_at = clock_timestamp(), resolution = $2 \
         WHERE table_name = $1 AND resolved_at IS NULL"
    );
    let settled = client.execute(&update, &[&table.to_string(), &resolution.as_str()]).await;
    settled.context(|| format!("settling the dead letters of {table}"))?;
    Ok(())
}

const COLUMNS: &str = "operation_id::text, table_name, seq, line, lsn::text, sqlstate, reason, at::text, attempts, \
    resolved_at::text, resolution";

/// Those that are open, of all or of one table; or all that ever were. Oldest first.
pub async fn list(
    client: &impl GenericClient,
    meta: &MetaSchema,
    table: Option<&TableName>,
    with_settled: bool,
) -> Result<Vec<DeadLetter>> {
    let select = format!(
        "SELECT {COLUMNS} FROM {meta}.data_sync_quarantine \
         WHERE ($1::text IS NULL OR table_name = $1) AND ($2 OR resolved_at IS NULL) ORDER BY id"
    );
    let table = table.map(ToString::to_string);
    let rows = client.query(&select, &[&table, &with_settled]).await;
    rows.context(|| "reading data_sync_quarantine".to_owned())?.iter().map(letter).collect()
}

/// That one, with its record.
pub async fn find(
    client: &impl GenericClient,
    meta: &MetaSchema,
    id: Uuid,
) -> Result<Option<(DeadLetter, Option<String>)>> {
    let select = format!(
        "SELECT {COLUMNS}, record FROM {meta}.data_sync_quarantine WHERE operation_id = $1::text::uuid"
    );
    let row = client.query_opt(&select, &[&id.to_string()]).await;
    let row = row.context(|| "reading data_sync_quarantine".to_owned())?;
    row.map(|row| Ok((letter(&row)?, row.get(11)))).transpose()
}

fn letter(row: &Row) -> Result<DeadLetter> {
    let bad = |what: &str| syncdata_formats::Error::bad_input(what, "data_sync_quarantine's");
    let time = |text: Option<&str>| text.map(Timestamp::from_postgres).transpose();
    Ok(DeadLetter {
        operation_id: row.get::<_, &str>(0).parse().map_err(|_| bad("a uuid"))?,
        table: row.get(1),
        seq: u64::try_from(row.get::<_, i64>(2)).map_err(|_| bad("a segment number"))?,
        line: row.get::<_, Option<i64>>(3).and_then(|line| u64::try_from(line).ok()),
        lsn: row.get::<_, Option<&str>>(4).map(str::parse).transpose()?,
        sqlstate: row.get(5),
        reason: row.get(6),
        at: time(row.get(7))?.ok_or_else(|| bad("a time"))?,
        attempts: u32::try_from(row.get::<_, i32>(8)).unwrap_or(0),
        resolved_at: time(row.get(9))?,
        resolution: row.get(10),
    })
}

/// Notes that a transaction was passed over: for ever in the log and here, and in the table's state until it is whole again.
pub async fn note_skip(
    client: &impl GenericClient,
    meta: &MetaSchema,
    letter: &DeadLetter,
    last_line: u64,
    end_lsn: Lsn,
    reason: &str,
) -> Result<()> {
    let doing = || format!("noting that a transaction of {} is passed over", letter.table);
    let why = kept::words(client, reason).await?;
    let (seq, line) = (i64::try_from(letter.seq).ok(), i64::try_from(last_line).ok());
    let settle = format!(
        "UPDATE {meta}.data_sync_quarantine SET resolved_at = clock_timestamp(), resolution = 'skipped: ' || $4 \
         WHERE table_name = $1 AND resolved_at IS NULL AND (seq < $2 OR (seq = $2 AND (line IS NULL OR line <= $3)))"
    );
    client.execute(&settle, &[&letter.table, &seq, &line, &why]).await.context(doing)?;
    let state = format!(
        "UPDATE {meta}.data_sync_table_state SET incomplete_lsn = $2::text::pg_lsn WHERE table_name = $1"
    );
    client.execute(&state, &[&letter.table, &end_lsn.to_string()]).await.context(doing)?;
    let log = format!(
        "INSERT INTO {meta}.data_sync_logs (table_name, status, archive_ref, error_detail) VALUES ($1, 'SUCCESS', $2, $3)"
    );
    let detail = format!("{}: transaction up to {end_lsn}: {why}", letter.operation_id);
    client.execute(&log, &[&letter.table, &SKIP, &detail]).await.context(doing)?;
    Ok(())
}

/// What data_sync_logs calls it; such lines stay for ever.
pub const SKIP: &str = "dead-letters skip";

/// Tables of which a transaction was passed over are whole again where a proof after it says so.
pub async fn end_incomplete(client: &impl GenericClient, meta: &MetaSchema) -> Result<()> {
    let update = format!(
        "UPDATE {meta}.data_sync_table_state s SET incomplete_lsn = NULL \
         WHERE incomplete_lsn IS NOT NULL AND EXISTS (SELECT FROM {meta}.data_sync_consistency c \
           WHERE c.table_name = s.table_name AND c.check_type = 'data_hash' AND c.cut_lsn >= s.incomplete_lsn \
             AND (c.verdict = 'equal' OR c.repaired_at IS NOT NULL))"
    );
    client.execute(&update, &[]).await.context(|| "looking which tables are whole again".to_owned())?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hashes_tell_equal_values_and_nothing_else() {
        let record = r#"{"table":"users","op":"UPDATE","data":{"id":7,"name":"Ann","note":null,"nick":"Ann"},"old_keys":{"id":7}}"#;
        let hashed = hash(record, b"key").expect("a record");
        assert!(!hashed.contains("Ann"), "{hashed}");
        let document: serde_json::Value = serde_json::from_str(&hashed).expect("JSON");
        assert_eq!(document["data"]["name"], document["data"]["nick"]);
        assert_eq!(document["data"]["id"], document["old_keys"]["id"]);
        assert_ne!(document["data"]["id"], document["data"]["name"]);
        assert_eq!((&document["table"], &document["op"]), (&"users".into(), &"UPDATE".into()));
        assert!(document["data"]["note"].is_null());
        assert_ne!(hash(record, b"another").expect("a record"), hashed);
    }

    #[test]
    fn the_key_is_made_once_and_is_ours_alone() {
        use std::os::unix::fs::PermissionsExt as _;

        let folder = tempfile::tempdir().expect("a folder");
        let file = folder.path().join("state/quarantine.key");
        let made = key(&file).expect("it is made");
        assert_eq!((made.len(), key(&file).expect("it is read")), (32, made));
        let mode = std::fs::metadata(&file).expect("it is there").permissions().mode() & 0o777;
        assert_eq!(mode, 0o600);
    }
}
