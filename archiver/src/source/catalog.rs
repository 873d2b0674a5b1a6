//! The production server as the archiver sees it: the questions it is asked. All of them are read only.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::time::{Duration, Instant};

use postgres_protocol::escape::escape_identifier;
use syncdata_formats::lsn::Lsn;
use syncdata_formats::name::{SlotName, TableName};
use syncdata_formats::snapshot::Seen;
use syncdata_formats::time::Timestamp;
use syncdata_formats::{Error, Kind, Result};
use tokio_postgres::Row;
use tokio_postgres::types::{PgLsn, Type};

use super::ask::{Asked, many, one};
use super::pages::Pages;
use super::partition;
use super::pgoutput::published;
use super::triggers::reader::{self, Reader};
use super::types::{self, Types};
use crate::capture::position::{self, NAME};
use crate::capture::{
    Attribute, CatalogTable, Layout, Making, Marks, OwnedSequence, RelationKind, Storage, Stream, UNLOGGED,
};

/// What does not change while a session lives.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Facts {
    pub system_identifier: String,
    pub database: String,
    pub database_oid: u32,
    pub server_version: String,
    pub server_version_num: u32,
    pub encoding: String,
    pub in_recovery: bool,
}

/// Where the server stands, asked once per poll.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Position {
    /// Production's clock, read before the position: what committed until then lies before it.
    pub at: Timestamp,
    pub flush: Lsn,
    pub timeline: u32,
    /// Where the newest checkpoint that came to its end began.
    pub redo: Lsn,
}

/// A replication slot as the server lists it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Slot {
    pub plugin: String,
    pub database: String,
    pub active_pid: Option<i32>,
    pub restart_lsn: Option<Lsn>,
    pub confirmed_flush_lsn: Option<Lsn>,
    /// reserved, extended, unreserved, lost; `being made` while it has no position yet; of triggers `noting`, or `stopped`
    pub wal_status: String,
    /// What production may still write before it takes the slot's WAL away; `None` where it never does.
    pub safe_wal_bytes: Option<u64>,
    pub invalidation_reason: Option<String>,
    /// Transactions handed out since the slot was made (or statistics were reset).
    pub transactions: Option<u64>,
    /// What decoding wrote to production's disk because it did not fit into memory, since likewise.
    pub spilled_bytes: Option<u64>,
    /// The oldest transaction whose changes of the catalog it may have to know.
    pub catalog_xmin: Option<u32>,
    /// Of triggers, in the place of WAL: what their notes take.
    pub notes_bytes: Option<u64>,
}

/// The longest open transaction that may keep the slot's WAL.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub(crate) struct OldestTransaction {
    pub pid: i32,
    pub user: String,
    /// `None` where our role may not see when it began.
    pub seconds: Option<i64>,
}

impl fmt::Display for OldestTransaction {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "process {} of {}", self.pid, self.user)?;
        self.seconds.map_or(Ok(()), |seconds| write!(f, ", open for {seconds} s"))
    }
}

/// In the place of a slot's status: past their limit triggers note nothing.
pub(crate) const STOPPED: &str = "stopped";

const FACTS: &str =
    "SELECT (SELECT system_identifier::text FROM pg_control_system()), current_database()::text, d.oid,
    current_setting('server_version'), current_setting('server_version_num')::int4,
    pg_encoding_to_char(d.encoding)::text, pg_is_in_recovery()
  FROM pg_database d WHERE d.datname = current_database()";

const POSITION: &str =
    "SELECT (extract(epoch FROM clock_timestamp()) * 1000000)::int8, pg_current_wal_flush_lsn(),
    ('x' || left(pg_walfile_name(pg_current_wal_flush_lsn()), 8))::bit(32)::int4,
    (SELECT redo_lsn FROM pg_control_checkpoint())";

/// Read-only sessions may.
const NEXT_XID: &str = "SELECT pg_current_xact_id()::text";

const PAUSE: Duration = Duration::from_millis(50);

const SCHEMAS: &str = "SELECT nspname::text FROM pg_namespace
  WHERE nspname !~ '^pg_' AND nspname <> 'information_schema'";

const SLOT: &str =
    "SELECT coalesce(s.plugin::text, ''), coalesce(s.database::text, ''), s.active_pid, s.restart_lsn,
    s.confirmed_flush_lsn, coalesce(s.wal_status, 'being made'), to_jsonb(s)->>'invalidation_reason', t.total_txns,
    t.spill_bytes, s.catalog_xmin::text::int8, s.safe_wal_size
  FROM pg_replication_slots s LEFT JOIN pg_stat_replication_slots t ON t.slot_name = s.slot_name
  WHERE s.slot_name = $1 AND s.slot_type = 'logical'";

/// Everything that is a relation for people; what is not captured is named by `check`. Of the options of a column those
/// that people set: some minor releases keep a version of the column there. What triggers of ours note is nobody's table.
///
/// The last column: what wrote the row of its type last is the transaction that made it, but not the command that did.
/// That one gave it another name, schema or owner. A new owner alone, as pg_restore and migrations give it at once, is no
/// other name: its command has written who owns the table or its TOAST table, and each command between the two has left
/// something of the table's own making, a column, a dependency or an index, which takes two. A row that somebody wanted
/// to change, and that was undone, tells no command.
///
/// A column is as it was born where the command that made the table wrote its row last, or the next one, with the default
/// that stands there: CREATE TABLE takes more than one.
const CATALOG: &str =
    "SELECT c.oid, n.nspname::text, c.relname::text, c.relkind::text, c.relpersistence::text,
    i.inhparent,
    CASE c.relreplident WHEN 'f' THEN true WHEN 'n' THEN false
      WHEN 'd' THEN EXISTS (SELECT FROM pg_index x
        WHERE x.indrelid = c.oid AND x.indisprimary AND x.indisvalid AND x.indimmediate)
      ELSE EXISTS (SELECT FROM pg_index x WHERE x.indrelid = c.oid AND x.indisreplident AND x.indisvalid) END,
    ARRAY(SELECT a.attname::text FROM pg_attribute a
      WHERE a.attrelid = c.oid AND a.attgenerated = 'v' AND NOT a.attisdropped),
    c.relfilenode, c.reltoastrelid, c.xmin::text::int8, y.xmin::text::int8, o.xmin::text::int8, i.xmin::text::int8,
    ARRAY(SELECT a.attnum || ' ' || a.attname FROM pg_attribute a
      WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped AND c.relkind IN ('r', 'p')),
    ARRAY(SELECT concat_ws(' ', a.attnum, a.xmin, a.atttypid, hashtext(concat_ws(',', a.attnotnull, a.atthasdef, a.atthasmissing,
          a.attidentity, a.attgenerated, a.attstorage, a.attstattarget, a.attcollation, a.attislocal, a.attinhcount,
          a.attacl::text, (SELECT string_agg(o, ' ') FROM unnest(a.attoptions) o WHERE o LIKE 'n_distinct%'), f.oid)),
        NOT (a.attnotnull OR a.atthasdef OR a.atthasmissing OR a.attidentity <> '' OR a.attgenerated <> ''
          OR a.attacl IS NOT NULL), a.attlen <> -1,
        coalesce(a.xmin = o.xmin AND a.xmax::text = '0' AND (a.cmin = o.cmin OR f.xmin = a.xmin AND f.cmin = a.cmin
          AND a.cmin::text::int8 = o.cmin::text::int8 + 1), false),
        CASE WHEN a.attgenerated = 's' THEN coalesce(f.oid, '0'::oid) ELSE '0'::oid END, format_type(a.atttypid, a.atttypmod))
      FROM pg_attribute a LEFT JOIN pg_attrdef f ON f.adrelid = a.attrelid AND f.adnum = a.attnum
      WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped AND c.relkind IN ('r', 'p')),
    ARRAY(SELECT t.xmin::text::int8 FROM pg_attribute t WHERE t.attrelid = c.reltoastrelid AND t.attnum = 1
      UNION ALL SELECT k.xmin::text::int8 FROM pg_index x JOIN pg_class k ON k.oid = x.indexrelid
        WHERE x.indrelid = c.oid AND c.relkind = 'r' AND c.reltoastrelid = 0
      UNION ALL SELECT c.xmin::text::int8 WHERE c.relkind = 'r' AND c.reltoastrelid = 0),
    ARRAY(SELECT concat_ws(' ', s.relfilenode, d.refobjsubid, s.xmin) FROM pg_depend d JOIN pg_class s ON s.oid = d.objid
      WHERE d.refclassid = 'pg_class'::regclass AND d.refobjid = c.oid AND d.refobjsubid > 0
        AND d.classid = 'pg_class'::regclass AND d.deptype IN ('a', 'i') AND s.relkind = 'S' AND c.relkind = 'r'),
    n.xmin::text::int8, hashtext(concat_ws(',', n.nspowner, n.nspacl::text)),
    ARRAY(SELECT a.attnum || ' ' || a.xmin FROM pg_attribute a
      WHERE a.attrelid = c.oid AND a.attnum > 0 AND a.attisdropped AND c.relkind IN ('r', 'p')), n.oid,
    CASE WHEN y.xmin = o.xmin AND NOT (y.cmin = o.cmin AND y.xmax::text = '0') THEN
      NOT (y.xmax::text = '0'
        AND (EXISTS (SELECT FROM pg_shdepend s WHERE s.classid = 'pg_class'::regclass AND s.objid = c.oid AND s.deptype = 'o'
            AND s.dbid = (SELECT oid FROM pg_database WHERE datname = current_database()) AND s.xmin = y.xmin AND s.cmin = y.cmin)
          OR EXISTS (SELECT FROM pg_class k WHERE k.oid = c.reltoastrelid AND k.xmin = y.xmin AND k.cmin = y.cmin))
        AND y.cmin::text::int8 - o.cmin::text::int8 - 1 = (SELECT count(DISTINCT step.id) FROM (
            SELECT p.cmin::text::int8 FROM pg_attribute p
              WHERE p.attrelid IN (c.oid, c.reltoastrelid) AND p.xmin = o.xmin AND p.xmax::text = '0'
            UNION ALL SELECT p.cmin::text::int8 FROM pg_depend p
              WHERE p.refclassid = 'pg_class'::regclass AND p.refobjid = c.oid AND p.xmin = o.xmin AND p.xmax::text = '0'
            UNION ALL SELECT p.cmin::text::int8 + taken.n FROM pg_index x
                JOIN pg_attribute p ON p.attrelid = x.indexrelid AND p.attnum = 1, generate_series(0, 1) AS taken(n)
              WHERE x.indrelid IN (c.oid, c.reltoastrelid) AND p.xmin = o.xmin AND p.xmax::text = '0') AS step(id)
          WHERE step.id > o.cmin::text::int8 AND step.id < y.cmin::text::int8))
      ELSE false END,
    ARRAY(SELECT h.inhparent FROM pg_inherits h WHERE h.inhrelid = c.oid AND NOT c.relispartition)
  FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
    LEFT JOIN pg_inherits i ON i.inhrelid = c.oid AND c.relispartition AND NOT i.inhdetachpending
    LEFT JOIN pg_type y ON y.oid = c.reltype
    LEFT JOIN pg_attribute o ON o.attrelid = c.oid AND o.attnum = -6
  WHERE c.relkind IN ('r', 'p', 'v', 'm', 'f', 'S')
    AND n.nspname !~ '^pg_' AND n.nspname <> 'information_schema'
    AND NOT (n.nspname = 'syncdata' AND EXISTS (SELECT FROM pg_class r JOIN pg_attribute a ON a.attrelid = r.oid
      WHERE r.relnamespace = n.oid AND r.relname = 'reader' AND a.attname = 'guard_bytes'))
  ORDER BY c.oid";

/// Everybody may see who holds which transaction number; since when, only roles that may read statistics.
const OLDEST: &str =
    "SELECT l.pid, coalesce(a.usename::text, ''), extract(epoch FROM clock_timestamp() - a.xact_start)::int8
  FROM pg_locks l LEFT JOIN pg_stat_activity a ON a.pid = l.pid
  WHERE l.locktype = 'transactionid' AND l.mode = 'ExclusiveLock' AND l.granted
    AND l.pid IS NOT NULL AND l.pid <> pg_backend_pid()
  ORDER BY age(l.transactionid) DESC LIMIT 1";

impl Facts {
    /// Those of the server whose spool `State::founded` is.
    #[cfg(test)]
    pub(crate) fn founded() -> Facts {
        Facts {
            system_identifier: "7".into(),
            database: "app".into(),
            database_oid: 5,
            server_version: "18.6".into(),
            server_version_num: 180_006,
            encoding: "UTF8".into(),
            in_recovery: false,
        }
    }

    pub(crate) async fn read(client: &impl Asked) -> Result<Facts> {
        let row = one(client, "asking the source what it is", FACTS, &[]).await?;
        let version: String = row.get(3);
        Ok(Facts {
            system_identifier: row.get(0),
            database: row.get(1),
            database_oid: row.get(2),
            server_version: version.split(' ').next().unwrap_or_default().to_owned(),
            server_version_num: row.get::<_, i32>(4).unsigned_abs(),
            encoding: row.get(5),
            in_recovery: row.get(6),
        })
    }

    pub(crate) fn major(&self) -> u32 {
        self.server_version_num / 10_000
    }
}

impl Position {
    /// A position after all that had committed when it was asked for. A commit that nobody waits for
    /// (synchronous_commit = off) is there for every reader before it is flushed, which is what can be decoded: the
    /// server is waited for, which flushes within three times wal_writer_delay.
    pub(crate) async fn settled(client: &impl Asked) -> Result<Position> {
        // That setting is at most 10 s.
        const PATIENCE: Duration = Duration::from_secs(60);
        let started = Instant::now();
        let (mut position, written) = Position::soon(client).await?;
        let at = position.at;
        while position.flush < written {
            if started.elapsed() >= PATIENCE {
                let message = format!("the server has not written its WAL up to {written} within 60 s");
                return Err(
                    Error::new(Kind::Unreachable, message).hint("look at the server's disk, then try again")
                );
            }
            // A commit without a change hurries nobody, but wakes the process that writes what others left unwritten.
            one(client, "asking the source for a transaction number", NEXT_XID, &[]).await?;
            tokio::time::sleep(2 * PAUSE).await;
            position = Position { at, ..Position::read(client).await? };
        }
        Ok(position)
    }

    /// The same as far as it comes in a moment, and what it should be.
    pub(crate) async fn soon(client: &impl Asked) -> Result<(Position, Lsn)> {
        const ROUNDS_MAX: u32 = 20;
        let mut position = Position::read(client).await?;
        let written = insert_position(client).await?;
        let at = position.at;
        for _ in 0..ROUNDS_MAX {
            if position.flush >= written {
                break;
            }
            tokio::time::sleep(PAUSE).await;
            position = Position { at, ..Position::read(client).await? };
        }
        Ok((position, written))
    }

    pub(crate) async fn read(client: &impl Asked) -> Result<Position> {
        // The clock first: what had committed then was flushed before the position is read.
        let row = one(client, "asking the source for its WAL position", POSITION, &[]).await?;
        Ok(Position {
            at: Timestamp::from_micros(row.get(0))?,
            flush: lsn(row.get(1)),
            timeline: row.get::<_, i32>(2).unsigned_abs(),
            redo: lsn(row.get(3)),
        })
    }
}

/// Where the newest record ends: whatever is visible now was written before.
pub(crate) async fn insert_position(client: &impl Asked) -> Result<Lsn> {
    let row = one(client, "asking the source for its WAL position", INSERT_POSITION, &[]).await?;
    Ok(pages(&row).end_before(lsn(row.get(0))))
}

/// Where the record begins that comes after one which ends there.
pub(crate) async fn begin_after(client: &impl Asked, end: Lsn) -> Result<Lsn> {
    let row = one(client, "asking the source how its WAL is laid out", INSERT_POSITION, &[]).await?;
    Ok(pages(&row).begin_after(end))
}

fn pages(row: &Row) -> Pages {
    let size = |column: usize| row.get::<_, i64>(column).unsigned_abs();
    Pages { size: size(1), segment_size: size(2) }
}

const INSERT_POSITION: &str = "SELECT pg_current_wal_insert_lsn(), current_setting('wal_block_size')::int8,
    pg_size_bytes(current_setting('wal_segment_size'))";

impl Slot {
    pub(crate) async fn read(client: &impl Asked, name: &SlotName) -> Result<Option<Slot>> {
        let rows =
            many(client, "asking the source for the slot", SLOT, &[(&name.as_str(), Type::TEXT)]).await?;
        if rows.is_empty() {
            // Where there is none, its place may be another's.
            let reader = reader::read(client).await?.filter(|reader| reader.slot == name.as_str());
            return Ok(reader.map(Slot::in_place_of_one));
        }
        Ok(rows.first().map(|row| Slot {
            plugin: row.get(0),
            database: row.get(1),
            active_pid: row.get(2),
            restart_lsn: row.get::<_, Option<PgLsn>>(3).map(lsn),
            confirmed_flush_lsn: row.get::<_, Option<PgLsn>>(4).map(lsn),
            wal_status: row.get(5),
            invalidation_reason: row.get(6),
            transactions: row.get::<_, Option<i64>>(7).map(i64::unsigned_abs),
            spilled_bytes: row.get::<_, Option<i64>>(8).map(i64::unsigned_abs),
            catalog_xmin: mark(row, 9),
            safe_wal_bytes: row.get::<_, Option<i64>>(10).map(|bytes| bytes.max(0).unsigned_abs()),
            notes_bytes: None,
        }))
    }
}

impl Slot {
    /// Of triggers: what is known of their reader is said in the words of a slot.
    fn in_place_of_one(reader: Reader) -> Slot {
        Slot {
            plugin: NAME.to_owned(),
            database: reader.database_name,
            active_pid: None,
            restart_lsn: None,
            confirmed_flush_lsn: Some(position::position_of(reader.batch)),
            wal_status: if reader.is_blown { STOPPED } else { "noting" }.to_owned(),
            safe_wal_bytes: None,
            invalidation_reason: None,
            transactions: None,
            spilled_bytes: None,
            catalog_xmin: None,
            notes_bytes: Some(reader.notes_bytes),
        }
    }
}

/// The schemas that are not the system's, and what lies in them. Where the stream is that of a publication, with the place of each in it.
pub(crate) async fn catalog(
    client: &impl Asked,
    publication: Option<&str>,
) -> Result<(BTreeSet<String>, Vec<CatalogTable>)> {
    let rows = many(client, "reading the source's catalog", SCHEMAS, &[]).await?;
    let schemas = rows.iter().map(|row| row.get(0)).collect();
    let rows = many(client, "reading the source's catalog", CATALOG, &[]).await?;
    let types = types::alterable(client).await?;
    let mut tables = rows.iter().map(|row| catalog_table(row, &types)).collect::<Result<Vec<_>>>()?;
    let making = partition::making(client).await?;
    tables.iter_mut().for_each(|table| table.making = making.get(&table.oid).copied().unwrap_or_default());
    if let Some(publication) = publication {
        published::look(client, publication, &mut tables).await?;
    }
    Ok((schemas, tables))
}

/// Production's clock where the transaction began.
pub(crate) async fn transaction_time(client: &impl Asked) -> Result<Timestamp> {
    let sql = "SELECT (extract(epoch FROM now()) * 1000000)::int8";
    Timestamp::from_micros(one(client, "asking the source for its time", sql, &[]).await?.get(0))
}

/// Which transactions a statement shows.
pub(crate) async fn seen(client: &impl Asked) -> Result<Seen> {
    let row =
        one(client, "asking the source for its snapshot", "SELECT pg_current_snapshot()::text", &[]).await?;
    let text: &str = row.get(0);
    Seen::parse(text).ok_or_else(|| Error::bad_input("a snapshot of PostgreSQL", text))
}

impl OldestTransaction {
    pub(crate) async fn read(client: &impl Asked) -> Result<Option<OldestTransaction>> {
        let rows = many(client, "asking for the oldest transaction", OLDEST, &[]).await?;
        Ok(rows.first().map(|row| OldestTransaction {
            pid: row.get(0),
            user: row.get(1),
            seconds: row.get(2),
        }))
    }
}

/// Where a timeline left its parent, from the history file that the server keeps: `None` when `from` is no
/// ancestor. The function that reads it must have been granted to our role.
pub(crate) async fn switch_point(client: &impl Asked, from: u32, to: u32, user: &str) -> Result<Option<Lsn>> {
    let path = format!("pg_wal/{to:08X}.history");
    let sql = "SELECT pg_read_file($1)";
    let row = one(client, "reading the server's timeline history", sql, &[(&path, Type::TEXT)])
        .await
        .map_err(|error| {
            if error.kind() == Kind::Refused {
                return error.hint(format!(
                    "without the history nobody can tell whether archived changes were lost in the failover; run as \
                     superuser: GRANT EXECUTE ON FUNCTION pg_catalog.pg_read_file(text) TO {};",
                    escape_identifier(user)
                ));
            }
            error
        })?;
    parse_history(row.get(0), from)
}

/// A line is `parent<TAB>switch point<TAB>reason`.
fn parse_history(history: &str, from: u32) -> Result<Option<Lsn>> {
    for line in history.lines().filter(|line| !line.trim_start().starts_with('#')) {
        let mut fields = line.split_whitespace();
        if fields.next().and_then(|id| id.parse().ok()) == Some(from) {
            let switch = fields.next().ok_or_else(|| Error::bad_input("a timeline history", line))?;
            return switch.parse().map(Some);
        }
    }
    Ok(None)
}

fn catalog_table(row: &Row, types: &Types) -> Result<CatalogTable> {
    let kind = match (row.get::<_, &str>(3), row.get::<_, &str>(4)) {
        ("r" | "p", "u") => UNLOGGED,
        ("r" | "p", "t") => RelationKind::NotCaptured("a temporary table"),
        ("r", _) => RelationKind::Table,
        ("p", _) => RelationKind::Partitioned,
        ("v", _) => RelationKind::NotCaptured("a view"),
        ("m", _) => RelationKind::NotCaptured("a materialized view"),
        ("f", _) => RelationKind::NotCaptured("a foreign table"),
        _ => RelationKind::NotCaptured("a sequence"),
    };
    Ok(CatalogTable {
        oid: row.get(0),
        name: TableName::new(row.get::<_, String>(1), row.get::<_, String>(2))?,
        kind,
        partition_of: row.get(5),
        heir_of: row.get(23),
        identity_usable: row.get(6),
        virtual_columns: row.get(7),
        storage: Storage { file: row.get(8), toast: row.get(9) },
        marks: Marks {
            changed: mark(row, 10).unwrap_or_default(),
            named: mark(row, 11).unwrap_or_default(),
            born: mark(row, 12).unwrap_or_default(),
            attached: mark(row, 13),
            schema: mark(row, 18).unwrap_or_default(),
            schema_oid: row.get(21),
            schema_rest: row.get(19),
            renamed_at_birth: row.get(22),
        },
        columns: row.get::<_, Vec<&str>>(14).into_iter().filter_map(numbered).collect(),
        layout: layout(row, types)?,
        making: Making::default(),
        stream: Stream::default(),
    })
}

fn layout(row: &Row, types: &Types) -> Result<Layout> {
    let numbers = |text: &str| Error::bad_input("what the catalog says of a column", text);
    let mut layout = Layout::default();
    let names = row.get::<_, Vec<&str>>(14).into_iter().filter_map(numbered);
    let names: BTreeMap<i16, String> = names.map(|(name, number)| (number, name)).collect();
    for text in row.get::<_, Vec<&str>>(15) {
        let (number, is_as_born, attribute) = attribute(text).ok_or_else(|| numbers(text))?;
        let name = names.get(&number).cloned().unwrap_or_default();
        let alterable = types.get(&attribute.type_oid);
        let alteration = alterable.and_then(|alterable| alterable.alteration.clone());
        layout.alterations.extend(alteration.map(|alteration| (number, alteration)));
        layout.from_birth.extend(is_as_born.then_some(number));
        let labels = alterable.and_then(|alterable| alterable.labels.clone());
        layout.labels.extend(labels.map(|labels| (attribute.type_oid, labels)));
        let made_of = alterable.map(|alterable| alterable.made_of.clone());
        layout.attributes.insert(number, Attribute { name, made_of, ..attribute });
    }
    for text in row.get::<_, Vec<&str>>(20) {
        let (number, mark) = dropped(text).ok_or_else(|| numbers(text))?;
        layout.dropped.insert(number, mark);
    }
    let xids = row.get::<_, Vec<i64>>(16).into_iter().filter_map(|xid| u32::try_from(xid).ok());
    layout.written_by = xids.collect();
    for text in row.get::<_, Vec<&str>>(17) {
        layout.sequences.push(sequence(text).ok_or_else(|| numbers(text))?);
    }
    layout.sequences.sort_unstable_by_key(|sequence| sequence.file);
    Ok(layout)
}

/// `3 754 1043 -1234 t f t 0 character varying(10)`; with whether it is as it was born.
fn attribute(text: &str) -> Option<(i16, bool, Attribute)> {
    let mut words = text.splitn(9, ' ');
    let number = words.next()?.parse().ok()?;
    let (mark, type_oid) = (words.next()?.parse().ok()?, words.next()?.parse().ok()?);
    let rest = words.next()?.parse().ok()?;
    let (plain, is_short, is_as_born) = (words.next()? == "t", words.next()? == "t", words.next()? == "t");
    let (expression, type_name) = (words.next()?.parse().ok()?, words.next()?.to_owned());
    let attribute =
        Attribute { type_name, type_oid, mark, rest, plain, is_short, expression, ..Attribute::default() };
    Some((number, is_as_born, attribute))
}

/// `3 754`
fn dropped(text: &str) -> Option<(i16, u32)> {
    let (number, mark) = text.split_once(' ')?;
    Some((number.parse().ok()?, mark.parse().ok()?))
}

/// `16404 1 754`
fn sequence(text: &str) -> Option<OwnedSequence> {
    let mut words = text.split(' ');
    Some(OwnedSequence {
        file: words.next()?.parse().ok()?,
        owner: words.next()?.parse().ok()?,
        mark: words.next()?.parse().ok()?,
    })
}

/// `3 name`
fn numbered(column: &str) -> Option<(String, i16)> {
    let (number, name) = column.split_once(' ')?;
    Some((name.to_owned(), number.parse().ok()?))
}

fn mark(row: &Row, place: usize) -> Option<u32> {
    row.get::<_, Option<i64>>(place).and_then(|xid| u32::try_from(xid).ok())
}

fn lsn(position: PgLsn) -> Lsn {
    Lsn::from_u64(position.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_history_says_where_a_timeline_was_left() {
        let history = "1\t0/3000148\tno recovery target specified\n\n2\t0/5000000\tbefore 2026-01-01\n";
        assert_eq!(parse_history(history, 1).expect("reads"), Some("0/3000148".parse().expect("an LSN")));
        assert_eq!(parse_history(history, 2).expect("reads"), Some("0/5000000".parse().expect("an LSN")));
        assert_eq!(parse_history(history, 7).expect("reads"), None);
        assert!(parse_history("1\n", 1).is_err());
    }
}
