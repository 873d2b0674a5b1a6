//! What our tables say of proofs: digests that wait, and verdicts.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};
use syncdata_formats::error::{Error, Kind, Result};
use syncdata_formats::name::TableName;
use syncdata_formats::proof::{Cut, Mark, MarkedTable, ProofId};
use syncdata_service::postgres::{CatalogKey, ServerContext as _};

use super::overall::{ALL, Overall};
use super::questions::Answers;
use super::seq_of;
use super::table_verdict::{CheckType, Standing, Verdict};
use crate::target::postgres::cursor;
use crate::target::postgres::local::Local;
use crate::target::postgres::meta::MetaSchema;

/// Digests of one mark.
#[derive(Debug)]
pub(super) struct Waiting {
    pub cut: Cut,
    /// Only tables that are on the whitelist too.
    pub mark: Mark,
    pub tables: BTreeMap<TableName, Digested>,
}

/// What has become of the digest of a table.
#[derive(Debug)]
pub(super) struct Digested {
    /// `None`: the mark does not name it.
    pub marked: Option<MarkedTable>,
    pub outcome: Outcome,
}

#[derive(Debug)]
pub(super) enum Outcome {
    UnderWay,
    /// A file of buckets, and the rows that it counts.
    Done {
        rows: u64,
        buckets: Vec<u8>,
        answers: Answers,
    },
    Not(String),
}

/// Discards all digests of earlier marks, and what was said of waiting for them. Every table is in it, or nothing is
/// changed: one that nobody expects would keep what an earlier proof said.
pub(super) async fn begin(
    local: &Local,
    mark: &Mark,
    cut: &Cut,
    tables: &BTreeMap<TableName, Option<String>>,
) -> Result<()> {
    local.in_transaction(expect(local, mark, cut, tables)).await
}

async fn expect(
    local: &Local,
    mark: &Mark,
    cut: &Cut,
    tables: &BTreeMap<TableName, Option<String>>,
) -> Result<()> {
    let (client, meta) = (local.session.client(), &local.meta);
    let noting = || "noting what is to be digested".to_owned();
    let forget = format!(
        "DELETE FROM {meta}.data_sync_digests; DELETE FROM {meta}.data_sync_consistency WHERE verdict = 'waiting'"
    );
    client.batch_execute(&forget).await.context(noting)?;
    let digest = format!(
        "INSERT INTO {meta}.data_sync_digests (table_name, proof_id, cut_seq, cut_sha256, cut_lsn, marked, reason) \
         VALUES ($1, $2, $3, $4, $5::text::pg_lsn, $6, $7)"
    );
    let ordinal = next_ordinal(local).await?;
    let waits = format!(
        "INSERT INTO {meta}.data_sync_consistency (proof_id, table_name, check_type, cut_lsn, verdict, detail, ordinal) \
         OVERRIDING SYSTEM VALUE SELECT $1, $2, c, $3::text::pg_lsn, 'waiting', 'for the proof of production', $4 \
         FROM unnest(ARRAY['row_count', 'data_hash']) AS c ON CONFLICT DO NOTHING"
    );
    let (id, seq) = (mark.id.as_str(), i64::try_from(cut.seq.get()).expect("ten digits"));
    let (sha256, lsn) = (cut.sha256.to_string(), cut.end_lsn.to_string());
    for (table, reason) in tables {
        let marked = mark
            .tables
            .get(table)
            .map(|marked| serde_json::to_string(marked).expect("our documents have only names as keys"));
        let name = table.to_string();
        client.execute(&digest, &[&name, &id, &seq, &sha256, &lsn, &marked, reason]).await.context(noting)?;
        client.execute(&waits, &[&id, &name, &lsn, &ordinal]).await.context(noting)?;
    }
    Ok(())
}

/// After all that are there. Not what the column's own sequence says: where the rows of our tables were copied into tables that
/// were made anew (a logical replica), that stands before them, and a new verdict would hide behind old ones.
async fn next_ordinal(local: &Local) -> Result<i64> {
    let select = format!("SELECT coalesce(max(ordinal), 0) + 1 FROM {}.data_sync_consistency", local.meta);
    let row = local.session.client().query_one(&select, &[]).await;
    Ok(row.context(|| "asking which verdict is the newest".to_owned())?.get(0))
}

/// Of a digest that is whole, or will never be.
pub(super) async fn note(local: &Local, id: &ProofId, table: &TableName, outcome: &Outcome) -> Result<()> {
    let (rows, buckets, reason, answers) = match outcome {
        Outcome::UnderWay => return Ok(()),
        Outcome::Done { rows, buckets, answers } => {
            let answers = serde_json::to_string(answers).expect("our documents have only names as keys");
            (i64::try_from(*rows).ok(), Some(buckets.as_slice()), None, Some(answers))
        }
        Outcome::Not(reason) => (None, None, Some(reason.as_str()), None),
    };
    let update = format!(
        "UPDATE {}.data_sync_digests SET rows = $3, buckets = $4, reason = $5, answers = $6 \
         WHERE table_name = $1 AND proof_id = $2 AND reason IS NULL",
        local.meta
    );
    local
        .session
        .client()
        .execute(&update, &[&table.to_string(), &id.as_str(), &rows, &buckets, &reason, &answers])
        .await
        .context(|| format!("noting the digest of {table}"))?;
    Ok(())
}

/// Digests that began and of which nothing was noted.
pub(super) async fn unfinished(local: &Local) -> Result<Option<Waiting>> {
    if !exists(local, UNDER_WAY).await? {
        return Ok(None);
    }
    waiting(local).await
}

const UNDER_WAY: &str = "reason IS NULL AND (rows IS NULL OR buckets IS NULL)";

/// Whether there are digests of that kind: they may be large, and are read only when they are needed.
async fn exists(local: &Local, kind: &str) -> Result<bool> {
    let select = format!("SELECT EXISTS (SELECT FROM {}.data_sync_digests WHERE {kind})", local.meta);
    let row = local.session.client().query_one(&select, &[]).await;
    Ok(row.context(|| "asking for digests that wait".to_owned())?.get(0))
}

/// Those that can be held against their proof now.
pub(super) async fn to_judge(local: &Local) -> Result<Option<Waiting>> {
    if !exists(local, "NOT judged").await? || exists(local, UNDER_WAY).await? {
        return Ok(None);
    }
    waiting(local).await
}

pub(super) async fn give_up_unfinished(local: &Local, reason: &str) -> Result<()> {
    let update = format!(
        "UPDATE {}.data_sync_digests SET reason = $1 WHERE buckets IS NULL AND reason IS NULL",
        local.meta
    );
    local
        .session
        .client()
        .execute(&update, &[&reason])
        .await
        .context(|| "noting that digests were lost".to_owned())?;
    Ok(())
}

/// The digests of the newest mark; `None`: there are none.
pub(super) async fn waiting(local: &Local) -> Result<Option<Waiting>> {
    let select = format!(
        "SELECT table_name, proof_id, cut_seq, cut_sha256, cut_lsn::text, marked, rows, buckets, reason, answers \
         FROM {}.data_sync_digests",
        local.meta
    );
    let rows = local.session.client().query(&select, &[]).await;
    let rows = rows.context(|| "reading the digests that wait".to_owned())?;
    let mut found: Option<Waiting> = None;
    for row in &rows {
        let table: TableName = row.get::<_, &str>(0).parse()?;
        let id: ProofId = row.get::<_, &str>(1).parse()?;
        let cut = Cut {
            seq: seq_of(row.get(2))?,
            sha256: row.get::<_, &str>(3).parse()?,
            end_lsn: row.get::<_, &str>(4).parse()?,
        };
        let marked = row.get::<_, Option<&str>>(5).map(serde_json::from_str::<MarkedTable>);
        let unreadable = |what: &str, error: serde_json::Error| {
            Error::new(Kind::StateDamaged, format!("data_sync_digests.{what} cannot be read"))
                .caused_by(error)
        };
        let marked = marked.transpose().map_err(|error| unreadable("marked", error))?;
        let answers = row.get::<_, Option<&str>>(9).map(serde_json::from_str::<Answers>);
        let answers = answers.transpose().map_err(|error| unreadable("answers", error))?;
        let (rows, buckets): (Option<i64>, Option<Vec<u8>>) = (row.get(6), row.get(7));
        let outcome = match (rows, buckets, row.get::<_, Option<String>>(8)) {
            (_, _, Some(reason)) => Outcome::Not(reason),
            (Some(rows), Some(buckets), None) => {
                let (rows, answers) = (u64::try_from(rows).unwrap_or(0), answers.unwrap_or_default());
                Outcome::Done { rows, buckets, answers }
            }
            _ => Outcome::UnderWay,
        };
        let waiting = found.get_or_insert_with(|| Waiting {
            cut,
            mark: Mark { id: id.clone(), tables: BTreeMap::new() },
            tables: BTreeMap::new(),
        });
        if let Some(marked) = &marked {
            waiting.mark.tables.insert(table.clone(), marked.clone());
        }
        waiting.tables.insert(table, Digested { marked, outcome });
    }
    Ok(found)
}

/// All verdicts of one proof at once.
pub(super) async fn conclude(
    local: &Local,
    id: &ProofId,
    cut: &Cut,
    verdicts: &[Verdict],
    all: Option<&Overall>,
    is_final: bool,
) -> Result<()> {
    let (client, meta) = (local.session.client(), &local.meta);
    let insert = format!(
        "INSERT INTO {meta}.data_sync_consistency (proof_id, table_name, check_type, cut_lsn, source_rows, local_rows, \
             differing, score, verdict, detail, left_out, finished_at, ordinal) OVERRIDING SYSTEM VALUE \
         VALUES ($1, $2, $3, $4::text::pg_lsn, $5, $6, $7, $8::text::numeric, $9, $10, $11, clock_timestamp(), $12) \
         ON CONFLICT (proof_id, table_name, check_type) DO UPDATE SET source_rows = EXCLUDED.source_rows, \
             local_rows = EXCLUDED.local_rows, differing = EXCLUDED.differing, score = EXCLUDED.score, \
             verdict = EXCLUDED.verdict, detail = EXCLUDED.detail, left_out = EXCLUDED.left_out, finished_at = EXCLUDED.finished_at"
    );
    let number = |number: Option<u64>| number.and_then(|number| i64::try_from(number).ok());
    let conclude = async {
        let ordinal = next_ordinal(local).await?;
        for verdict in verdicts {
            let lsn = cut.end_lsn.to_string();
            client
                .execute(
                    &insert,
                    &[
                        &id.as_str(),
                        &verdict.table.to_string(),
                        &verdict.check.as_str(),
                        &lsn,
                        &number(verdict.source_rows),
                        &number(verdict.local_rows),
                        &number(verdict.differing),
                        &verdict.score,
                        &verdict.verdict.as_str(),
                        &verdict.detail,
                        &verdict.left_out,
                        &ordinal,
                    ],
                )
                .await
                .context(|| format!("noting what proof {id} says of {}", verdict.table))?;
        }
        if let Some(all) = all {
            all.note(local, cut, ordinal).await?;
        }
        let over = format!(
            "UPDATE {meta}.data_sync_consistency SET repaired_at = clock_timestamp() \
             WHERE table_name = $1 AND check_type IN ('row_count', 'data_hash') AND verdict = 'differs' AND repaired_at IS NULL \
               AND coalesce(left_out, '{{}}') @> $2"
        );
        for verdict in verdicts.iter().filter(|verdict| verdict.is_over) {
            let table = verdict.table.to_string();
            client
                .execute(&over, &[&table, &verdict.left_out])
                .await
                .context(|| format!("noting that {table} differs no more"))?;
        }
        if is_final {
            let done = format!("UPDATE {meta}.data_sync_digests SET judged = true WHERE proof_id = $1");
            client
                .execute(&done, &[&id.as_str()])
                .await
                .context(|| "noting that digests were compared".to_owned())?;
        }
        Ok::<_, Error>(())
    };
    local.in_transaction(conclude).await
}

/// Checks of tables that say that something differs, and that nothing has cleared since.
pub(super) async fn differing(local: &Local) -> Result<BTreeSet<(String, CheckType)>> {
    let select = format!(
        "SELECT table_name, check_type FROM ( \
           SELECT DISTINCT ON (c.table_name, c.check_type) c.table_name, c.check_type, c.verdict, c.repaired_at \
           FROM {}.data_sync_consistency c WHERE c.verdict IN ('equal', 'differs') \
           ORDER BY c.table_name, c.check_type, c.ordinal DESC) AS newest \
         WHERE verdict = 'differs' AND repaired_at IS NULL",
        local.meta
    );
    let rows = local.session.client().query(&select, &[]).await;
    let rows = rows.context(|| "reading what proofs say".to_owned())?;
    rows.iter().map(|row| Ok((row.get(0), row.get::<_, &str>(1).parse()?))).collect()
}

/// What the newest proofs say, for people and programs.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Found {
    pub tables: Vec<TableFound>,
    /// The newest proof that was compared, over all of them.
    #[serde(default)]
    pub all: Option<Overall>,
}

/// The newest proof of one table.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TableFound {
    pub table: String,
    pub proof_id: Option<String>,
    pub at: Option<String>,
    pub lsn: Option<String>,
    pub source_rows: Option<i64>,
    pub local_rows: Option<i64>,
    pub differing: Option<i64>,
    pub score: Option<String>,
    /// Nothing where no mark was met yet.
    pub verdict: Option<Standing>,
    pub blame: Option<String>,
    pub detail: Option<String>,
    /// The newest comparison says that it differs, and nothing has cleared that since.
    pub differs: bool,
    /// Its rows are as they should be, and yet a foreign key or a rule says that it differs.
    #[serde(default)]
    pub by_check_only: bool,
}

pub async fn found(local: &Local) -> Result<Found> {
    let select = found_statement(&local.meta);
    let rows = local.session.client().query(&select, &[]).await;
    let rows = rows.context(|| "reading what proofs say".to_owned())?;
    let table = |row: &tokio_postgres::Row| -> Result<TableFound> {
        Ok(TableFound {
            table: row.get(0),
            proof_id: row.get(1),
            at: row.get(2),
            lsn: row.get(3),
            source_rows: row.get(4),
            local_rows: row.get(5),
            differing: row.get(6),
            score: row.get(7),
            verdict: row.get::<_, Option<&str>>(8).map(str::parse).transpose()?,
            blame: row.get(9),
            detail: row.get(10),
            differs: row.get(11),
            by_check_only: row.get(12),
        })
    };
    let all = Overall::newest(local).await?;
    Ok(Found { tables: rows.iter().map(table).collect::<Result<_>>()?, all })
}

fn found_statement(meta: &MetaSchema) -> String {
    format!(
        "SELECT w.table_name, p.proof_id, \
           to_char(p.finished_at AT TIME ZONE 'UTC', 'YYYY-MM-DD\"T\"HH24:MI:SS\"Z\"'), p.cut_lsn::text, \
           p.source_rows, p.local_rows, p.differing, p.score::text, p.verdict, p.blame, p.detail, \
           coalesce(d.differs, false), coalesce(d.differs AND NOT d.data, false) \
         FROM {meta}.tables_to_sync w \
         LEFT JOIN LATERAL (SELECT * FROM {meta}.data_sync_consistency p WHERE p.table_name = w.table_name \
           AND p.check_type = 'data_hash' ORDER BY p.ordinal DESC LIMIT 1) p ON true \
         LEFT JOIN LATERAL (SELECT bool_or(v.verdict = 'differs' AND v.repaired_at IS NULL) AS differs, \
           bool_or(v.verdict = 'differs' AND v.repaired_at IS NULL AND v.check_type IN ('row_count', 'data_hash')) AS data \
         FROM (SELECT DISTINCT ON (v.check_type) v.check_type, v.verdict, v.repaired_at FROM {meta}.data_sync_consistency v \
           WHERE v.table_name = w.table_name AND v.verdict IN ('equal', 'differs') \
           ORDER BY v.check_type, v.ordinal DESC) v) d ON true \
         ORDER BY w.id"
    )
}

/// One check of one table by the newest proof.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Check {
    pub table: String,
    pub check_type: CheckType,
    /// `None`: it was made just now.
    pub proof_id: Option<String>,
    pub cut_lsn: Option<String>,
    pub source_rows: Option<i64>,
    pub local_rows: Option<i64>,
    pub differing: Option<i64>,
    pub score: Option<String>,
    pub verdict: Standing,
    pub blame: Option<String>,
    pub detail: Option<String>,
    /// Since it was compared.
    pub age_seconds: Option<i64>,
    /// A repair has been compared since.
    pub is_repaired: bool,
}

/// The newest of each table and type.
pub async fn checks(local: &Local) -> Result<Vec<Check>> {
    let select = format!(
        "SELECT w.table_name, p.check_type, p.proof_id, p.cut_lsn::text, p.source_rows, p.local_rows, p.differing, \
           p.score::text, p.verdict, p.blame, p.detail, extract(epoch FROM clock_timestamp() - p.finished_at)::int8, \
           p.repaired_at IS NOT NULL \
         FROM {0}.tables_to_sync w JOIN LATERAL (SELECT DISTINCT ON (c.check_type) * \
           FROM {0}.data_sync_consistency c WHERE c.table_name = w.table_name \
           ORDER BY c.check_type, c.ordinal DESC) p ON true ORDER BY w.id, p.check_type DESC",
        local.meta
    );
    let rows = local.session.client().query(&select, &[]).await;
    let rows = rows.context(|| "reading what proofs say".to_owned())?;
    let check = |row: &tokio_postgres::Row| -> Result<Check> {
        Ok(Check {
            table: row.get(0),
            check_type: row.get::<_, &str>(1).parse()?,
            proof_id: row.get(2),
            cut_lsn: row.get(3),
            source_rows: row.get(4),
            local_rows: row.get(5),
            differing: row.get(6),
            score: row.get(7),
            verdict: row.get::<_, &str>(8).parse()?,
            blame: row.get(9),
            detail: row.get(10),
            age_seconds: row.get(11),
            is_repaired: row.get(12),
        })
    };
    rows.iter().map(check).collect()
}

/// The newest comparison of a table: where it was made.
pub(super) struct Last {
    pub id: ProofId,
    /// It says that the table differs, and nothing has cleared that.
    pub differs: bool,
}

/// The proof that says last that the table differs, or is equal.
pub(super) async fn last_compared(local: &Local, table: &TableName) -> Result<Option<Last>> {
    let select = format!(
        "SELECT proof_id, verdict = 'differs' AND repaired_at IS NULL FROM {}.data_sync_consistency \
         WHERE table_name = $1 AND check_type = 'data_hash' AND verdict IN ('equal', 'differs') \
         ORDER BY ordinal DESC LIMIT 1",
        local.meta
    );
    let row = local.session.client().query_opt(&select, &[&table.to_string()]).await;
    let row = row.context(|| "looking for the newest proof".to_owned())?;
    row.map(|row| Ok(Last { id: row.get::<_, &str>(0).parse()?, differs: row.get(1) })).transpose()
}

pub(super) async fn blame(local: &Local, id: &ProofId, table: &TableName, blame: &str) -> Result<()> {
    let update = format!(
        "UPDATE {}.data_sync_consistency SET blame = $3 WHERE proof_id = $1 AND table_name = $2 AND verdict = 'differs'",
        local.meta
    );
    let done = local.session.client().execute(&update, &[&id.as_str(), &table.to_string(), &blame]).await;
    done.context(|| "noting who is to blame".to_owned())?;
    Ok(())
}

/// A repair was compared: what earlier proofs said of the table is over.
pub(super) async fn clear(local: &Local, table: &TableName) -> Result<()> {
    let update = format!(
        "UPDATE {}.data_sync_consistency SET repaired_at = clock_timestamp() \
         WHERE table_name = $1 AND verdict = 'differs' AND repaired_at IS NULL AND check_type IN ('row_count', 'data_hash')",
        local.meta
    );
    let done = local.session.client().execute(&update, &[&table.to_string()]).await;
    done.context(|| "noting that the table was repaired".to_owned())?;
    // Ours that wait for production's are of rows that are mended by now.
    cursor::outdate_digests(local.session.client(), &local.meta, table, "repaired meanwhile").await?;
    clear_others(local).await
}

/// What refers to nothing and breaks a rule did so for the rows that differed, in this table or in another one; and what
/// was said of all tables together was said of these. Of a table that was not compared nobody knows.
async fn clear_others(local: &Local) -> Result<()> {
    let keys = CatalogKey::all(local.session.client()).await?;
    let (children, parents): (Vec<String>, Vec<String>) =
        keys.iter().map(|key| (key.table.to_string(), key.key.references.to_string())).unzip();
    let others = format!(
        "UPDATE {0}.data_sync_consistency c SET repaired_at = clock_timestamp() \
         WHERE verdict = 'differs' AND repaired_at IS NULL \
           AND (table_name = '{ALL}' OR check_type IN ('referential_integrity', 'business_rules')) \
           AND EXISTS (SELECT FROM {0}.data_sync_consistency r WHERE r.proof_id = c.proof_id AND r.verdict = 'differs' \
             AND r.check_type = 'data_hash' AND r.repaired_at IS NOT NULL) \
           AND NOT EXISTS (SELECT FROM {0}.data_sync_consistency d WHERE d.proof_id = c.proof_id \
             AND d.table_name <> '{ALL}' AND d.verdict = 'differs' AND d.check_type IN ('row_count', 'data_hash') \
             AND d.repaired_at IS NULL) \
           AND (table_name = '{ALL}' OR NOT EXISTS (SELECT FROM {0}.data_sync_consistency d \
             WHERE d.proof_id = c.proof_id AND d.check_type = 'data_hash' AND d.table_name <> '{ALL}' \
               AND d.verdict <> 'equal' AND d.repaired_at IS NULL \
               AND (d.table_name = c.table_name OR c.check_type = 'referential_integrity' AND ( \
                 EXISTS (SELECT FROM unnest($1::text[], $2::text[]) AS k (child, parent) \
                   WHERE k.child = c.table_name AND k.parent = d.table_name) \
                 OR NOT EXISTS (SELECT FROM {0}.data_sync_digests g \
                   WHERE g.proof_id = c.proof_id AND g.table_name = c.table_name) \
                 OR EXISTS (SELECT FROM {0}.data_sync_digests g, \
                     jsonb_array_elements(coalesce(g.marked::jsonb -> 'foreign_keys', '[]')) AS k \
                   WHERE g.proof_id = c.proof_id AND g.table_name = c.table_name \
                     AND k ->> 'references' = d.table_name)))))",
        local.meta
    );
    let done = local.session.client().execute(&others, &[&children, &parents]).await;
    done.context(|| "noting that the table was repaired".to_owned())?;
    Ok(())
}
