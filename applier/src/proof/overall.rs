//! What a proof says of all tables together: one row of data_sync_consistency, whose table is `*`.

use serde::{Deserialize, Serialize};
use syncdata_formats::error::Result;
use syncdata_formats::proof::{Cut, ProofId, Score};
use syncdata_service::postgres::ServerContext as _;

use super::table_verdict::{CheckType, Verdict, Word};
use crate::target::postgres::local::Local;

/// Instead of a table's name. (A table of that name is written `"*"`.)
pub(super) const ALL: &str = "*";

/// Over the rows of all tables that were compared.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Overall {
    pub proof_id: String,
    pub at: Option<String>,
    pub lsn: Option<String>,
    pub source_rows: Option<i64>,
    pub local_rows: Option<i64>,
    pub score: Option<String>,
    /// `equal` if every table is, `differs` if one does.
    pub verdict: Word,
    pub detail: Option<String>,
}

impl Overall {
    /// `None`: no table was looked at.
    pub(super) fn of(id: &ProofId, verdicts: &[Verdict]) -> Option<Overall> {
        let tables: Vec<&Verdict> =
            verdicts.iter().filter(|verdict| verdict.check == CheckType::DataHash).collect();
        let count = |word: Word| tables.iter().filter(|verdict| verdict.verdict == word).count();
        let (equal, differ) = (count(Word::Equal), count(Word::Differs));
        let verdict = match (differ, equal) {
            _ if tables.is_empty() => return None,
            (1.., _) => Word::Differs,
            (0, equal) if equal == tables.len() => Word::Equal,
            (0, _) => Word::NotProved,
        };
        let compared = || tables.iter().filter_map(|verdict| verdict.parts);
        let sum = |numbers: &mut dyn Iterator<Item = u64>| numbers.fold(0, u64::saturating_add);
        let agreeing = sum(&mut compared().map(|(agreeing, _)| agreeing));
        let union = sum(&mut compared().map(|(_, union)| union));
        let rows = |of: fn(&Verdict) -> Option<u64>| {
            i64::try_from(sum(&mut tables.iter().filter_map(|verdict| of(verdict)))).ok()
        };
        let is_known = verdict != Word::NotProved;
        Some(Overall {
            proof_id: id.to_string(),
            at: None,
            lsn: None,
            source_rows: is_known.then(|| rows(|verdict| verdict.source_rows)).flatten(),
            local_rows: is_known.then(|| rows(|verdict| verdict.local_rows)).flatten(),
            // What was not compared is never said to agree.
            score: is_known.then(|| Score::of(agreeing, union, differ > 0).to_string()),
            verdict,
            detail: (equal < tables.len())
                .then(|| format!("{equal} of {} tables are equal, different: {differ}", tables.len())),
        })
    }

    /// In the transaction of the verdicts.
    pub(super) async fn note(&self, local: &Local, cut: &Cut, ordinal: i64) -> Result<()> {
        let insert = format!(
            "INSERT INTO {}.data_sync_consistency (proof_id, table_name, check_type, cut_lsn, source_rows, local_rows, \
                 score, verdict, detail, finished_at, ordinal) OVERRIDING SYSTEM VALUE \
             VALUES ($1, '{ALL}', 'data_hash', $2::text::pg_lsn, $3, $4, $5::text::numeric, $6, $7, clock_timestamp(), $8) \
             ON CONFLICT (proof_id, table_name, check_type) DO UPDATE SET source_rows = EXCLUDED.source_rows, \
                 local_rows = EXCLUDED.local_rows, score = EXCLUDED.score, verdict = EXCLUDED.verdict, \
                 detail = EXCLUDED.detail, finished_at = EXCLUDED.finished_at",
            local.meta
        );
        let lsn = cut.end_lsn.to_string();
        let Overall { proof_id, source_rows, local_rows, score, verdict, detail, .. } = self;
        let values: [&(dyn tokio_postgres::types::ToSql + Sync); 8] =
            [proof_id, &lsn, source_rows, local_rows, score, &verdict.as_str(), detail, &ordinal];
        let noted = local.session.client().execute(&insert, &values).await;
        noted.context(|| format!("noting what proof {proof_id} says of all tables"))?;
        Ok(())
    }

    /// Of the newest proof that was compared.
    pub(super) async fn newest(local: &Local) -> Result<Option<Overall>> {
        let select = format!(
            "SELECT proof_id, to_char(finished_at AT TIME ZONE 'UTC', 'YYYY-MM-DD\"T\"HH24:MI:SS\"Z\"'), cut_lsn::text, \
                 source_rows, local_rows, score::text, verdict, detail \
             FROM {}.data_sync_consistency WHERE table_name = '{ALL}' ORDER BY ordinal DESC LIMIT 1",
            local.meta
        );
        let row = local.session.client().query_opt(&select, &[]).await;
        let row = row.context(|| "reading what proofs say of all tables".to_owned())?;
        let overall = |row: tokio_postgres::Row| -> Result<Overall> {
            Ok(Overall {
                proof_id: row.get(0),
                at: row.get(1),
                lsn: row.get(2),
                source_rows: row.get(3),
                local_rows: row.get(4),
                score: row.get(5),
                verdict: row.get::<_, &str>(6).parse()?,
                detail: row.get(7),
            })
        };
        row.map(overall).transpose()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn verdict(verdict: Word, rows: u64, parts: Option<(u64, u64)>) -> Verdict {
        let table = "t".parse().expect("a name");
        let rows = parts.map(|_| rows);
        Verdict {
            verdict,
            source_rows: rows,
            local_rows: rows,
            parts,
            ..Verdict::not_proved(&table, CheckType::DataHash, String::new())
        }
    }

    #[test]
    fn rows_of_all_tables_count_and_what_was_not_compared_is_never_whole() {
        let id = "00000000016B3D40-20260205T103000Z".parse().expect("an id");
        let (equal, empty) =
            (verdict(Word::Equal, 900, Some((900, 900))), verdict(Word::Equal, 0, Some((0, 0))));
        let (differs, none) =
            (verdict(Word::Differs, 100, Some((50, 150))), verdict(Word::NotProved, 0, None));
        for (verdicts, word, score, rows) in [
            (vec![&equal, &empty], Word::Equal, Some("100.00"), Some(900)),
            (vec![&empty], Word::Equal, Some("100.00"), Some(0)),
            // 950 of 1,050.
            (vec![&equal, &differs], Word::Differs, Some("90.47"), Some(1000)),
            (vec![&equal, &none], Word::NotProved, None, None),
            (vec![&none], Word::NotProved, None, None),
            (vec![&differs, &none], Word::Differs, Some("33.33"), Some(100)),
        ] {
            let verdicts: Vec<Verdict> = verdicts.into_iter().cloned().collect();
            let all = Overall::of(&id, &verdicts).expect("tables");
            assert_eq!((all.verdict, all.score.as_deref(), all.source_rows), (word, score, rows), "{all:?}");
        }
        assert_eq!(Overall::of(&id, &[]), None);
    }
}
