//! Digests of the copy against the proof of production.

use syncdata_formats::error::{Error, Kind, Result};
use syncdata_formats::name::TableName;
use syncdata_formats::proof::{Buckets, Comparison, Layout, ProofManifest, ProvedTable, RowHash, Score};
use uuid::Uuid;

use super::broken;
use super::overall::Overall;
use super::questions::Answers;
use super::record::{self, Digested, Outcome, Waiting};
use super::table_verdict::{CheckType, Verdict, Word};
use crate::archive::source::Source;
use crate::target::postgres::local::Local;

/// Compares what waits with what has come. A proof that is refused says so of every table; the pass is none the worse.
pub async fn judge(local: &Local, source: &Source, archive_id: Uuid) -> Result<()> {
    let Some(waiting) = record::to_judge(local).await? else { return Ok(()) };
    let proof = match source.proof(&waiting.mark.id, archive_id).await {
        Ok(None) => return Ok(()),
        Ok(Some(proof)) => belongs(&waiting, proof),
        Err(error) => Err(error),
    };
    let proof = match proof {
        Ok(proof) => proof,
        Err(error) if is_refusal(&error) => return refuse(local, &waiting, &error).await,
        Err(error) => return Err(error),
    };
    let mut verdicts = Vec::new();
    for (table, digested) in &waiting.tables {
        match compare(source, &proof, table, digested).await {
            Ok(found) => verdicts.extend(found),
            Err(error) if is_refusal(&error) => return refuse(local, &waiting, &error).await,
            Err(error) => return Err(error),
        }
    }
    let open = record::differing(local).await?;
    verdicts.extend(broken::verdicts(&waiting, &proof, &verdicts, &open));
    let all = Overall::of(&proof.id, &verdicts);
    record::conclude(local, &proof.id, &waiting.cut, &verdicts, all.as_ref(), true).await?;
    for verdict in verdicts.iter().filter(|verdict| verdict.verdict == Word::Differs) {
        let (table, lsn, id) = (&verdict.table, waiting.cut.end_lsn, &proof.id);
        match verdict.check {
            CheckType::DataHash => tracing::error!(
                %table, proof = %id, %lsn,
                "the table differs from production; see: syncdata-applier consistency rows"
            ),
            CheckType::RowCount => {}
            check @ (CheckType::ReferentialIntegrity | CheckType::BusinessRules) => tracing::error!(
                %table, proof = %id, %lsn, check = check.as_str(),
                "rows of the table break what they do not at production; see: syncdata-applier consistency check"
            ),
        }
    }
    let score = all.and_then(|all| all.score).unwrap_or_else(|| "-".to_owned());
    tracing::info!(
        proof = %proof.id, lsn = %waiting.cut.end_lsn, tables = waiting.tables.len(), score, "proof compared"
    );
    Ok(())
}

fn is_refusal(error: &Error) -> bool {
    error.kind().refuses_archive() || matches!(error.kind(), Kind::Refused | Kind::NotFound | Kind::BadInput)
}

/// Whether it speaks of the place where the digests were made.
fn belongs(waiting: &Waiting, proof: ProofManifest) -> Result<ProofManifest> {
    if proof.cut == waiting.cut {
        return Ok(proof);
    }
    let message = format!(
        "proof {} is refused: it is of segment {} ({}), and its mark stands in segment {} ({})",
        proof.id, proof.cut.seq, proof.cut.sha256, waiting.cut.seq, waiting.cut.sha256
    );
    Err(Error::new(Kind::Foreign, message))
}

/// It waits on: the files may be brought back, and a later proof is another one.
async fn refuse(local: &Local, waiting: &Waiting, error: &Error) -> Result<()> {
    tracing::error!(proof = %waiting.mark.id, error = %error.one_line(), "the proof is refused");
    let detail = format!("the proof is refused: {}", error.one_line());
    let verdicts: Vec<Verdict> = waiting.tables.keys().flat_map(|table| not_proved(table, &detail)).collect();
    record::conclude(local, &waiting.mark.id, &waiting.cut, &verdicts, None, false).await
}

fn not_proved(table: &TableName, reason: &str) -> Vec<Verdict> {
    let verdict = |check| Verdict::not_proved(table, check, reason.to_owned());
    vec![verdict(CheckType::RowCount), verdict(CheckType::DataHash)]
}

async fn compare(
    source: &Source,
    proof: &ProofManifest,
    table: &TableName,
    digested: &Digested,
) -> Result<Vec<Verdict>> {
    let buckets = match &digested.outcome {
        Outcome::Not(reason) => return Ok(not_proved(table, reason)),
        Outcome::UnderWay => return Ok(not_proved(table, "interrupted")),
        Outcome::Done { rows, buckets, answers } => (*rows, buckets, answers),
    };
    let Some(proved) = proof.tables.get(table) else {
        let reason = proof.not_proved.get(table).map_or("production did not digest it", String::as_str);
        return Ok(not_proved(table, &format!("at production: {reason}")));
    };
    let Some(marked) = &digested.marked else { return Ok(not_proved(table, "the mark does not name it")) };
    if (proved.k, proved.relation) != (marked.k, marked.relation.fingerprint) {
        let message =
            format!("proof {} is refused: it counts {table} otherwise than its mark says", proof.id);
        return Err(Error::new(Kind::Foreign, message));
    }
    let theirs = source.buckets(&proof.id, proved).await?;
    let ours = local_buckets(proved, buckets.0, buckets.1)?;
    let layout = Layout::of(&marked.relation);
    Ok(said(table, proved, &layout, buckets.2, &Comparison::of(&theirs, &ours)))
}

/// Our own file, read as strictly as theirs.
pub(super) fn local_buckets(proved: &ProvedTable, rows: u64, file: &[u8]) -> Result<Buckets> {
    let own = ProvedTable {
        rows,
        file: "data_sync_digests.buckets".to_owned(),
        bytes: file.len() as u64,
        sha256: syncdata_formats::digest::Digest::of(file),
        ..proved.clone()
    };
    Buckets::decode(&own, file)
        .map_err(|error| Error::new(Kind::StateDamaged, "a digest of ours cannot be read").caused_by(error))
}

/// Columns that both sides compute, with other values. Where other columns differ too nobody knows that.
pub(super) fn computed_otherwise(proved: &ProvedTable, answers: &Answers) -> Vec<String> {
    let differs =
        |(name, ours): &(&String, &RowHash)| proved.computed.get(*name).is_some_and(|theirs| theirs != *ours);
    answers.computed.iter().filter(differs).map(|(name, _)| name.clone()).collect()
}

/// How it is said wherever it is said.
pub(super) fn computed_words(columns: &[String]) -> String {
    format!("computed otherwise than at production: {}", columns.join(", "))
}

fn said(
    table: &TableName,
    proved: &ProvedTable,
    layout: &Layout,
    answers: &Answers,
    comparison: &Comparison,
) -> Vec<Verdict> {
    let rows = (Some(comparison.source_rows), Some(comparison.local_rows));
    let apart = comparison.source_rows.abs_diff(comparison.local_rows);
    let counts = Verdict {
        table: table.clone(),
        check: CheckType::RowCount,
        source_rows: rows.0,
        local_rows: rows.1,
        differing: Some(apart),
        score: None,
        verdict: if apart == 0 { Word::Equal } else { Word::Differs },
        detail: None,
        is_over: false,
        left_out: Vec::new(),
        parts: None,
    };
    let not_summed = &answers.not_summed;
    let mut left_out = left_out(proved, layout);
    left_out.extend(not_summed.iter().map(String::as_str));
    // An archiver of an earlier version has no sums.
    left_out.extend(
        answers.computed.keys().filter(|name| !proved.computed.contains_key(*name)).map(String::as_str),
    );
    // Values that the stream does not say are in the image: what differs may be only these.
    let is_doubtful = !proved.not_comparable.is_empty();
    let (has_same_rows, is_whole) = (comparison.is_equal(), left_out.is_empty());
    let otherwise = if has_same_rows { computed_otherwise(proved, answers) } else { Vec::new() };
    let is_equal = has_same_rows && otherwise.is_empty();
    let mut words = Vec::new();
    if !otherwise.is_empty() {
        words.push(format!(
            "{}; see: syncdata-applier consistency rows {}",
            computed_words(&otherwise),
            table.shell_word()
        ));
    }
    if !has_same_rows {
        let (some, all) = (comparison.differing.len(), 1_u64 << proved.k);
        words.push(format!(
            "{some} of {all} buckets differ; see: syncdata-applier consistency rows {}",
            table.shell_word()
        ));
    }
    if !is_whole {
        let equal = if is_equal { "; all other columns are equal" } else { "" };
        words.push(format!("not compared: {}{equal}", left_out.join(", ")));
    }
    let is_compared = |name: &String| has_same_rows && answers.computed.contains_key(name);
    let computed = layout.generated.iter().filter(|name| !not_summed.contains(name) && !is_compared(name));
    let computed: Vec<&str> = computed.map(String::as_str).collect();
    if !computed.is_empty() {
        words.push(format!("generated, not compared: {}", computed.join(", ")));
    }
    let is_known = is_whole || !is_equal && !is_doubtful;
    // In which rows it is otherwise nobody knows.
    let (agreeing, all) = comparison.parts();
    let parts = if otherwise.is_empty() { (agreeing, all) } else { (0, all) };
    let hash = Verdict {
        table: table.clone(),
        check: CheckType::DataHash,
        source_rows: rows.0,
        local_rows: rows.1,
        // Rows in a bucket that differs may agree: nobody knows before the archive was asked.
        differing: (is_equal && is_whole).then_some(0),
        score: is_known.then(|| Score::of(parts.0, parts.1, !is_equal).to_string()),
        verdict: word(is_equal, is_whole, is_doubtful),
        detail: (!words.is_empty()).then(|| words.join("; ")),
        is_over: is_equal,
        left_out: left_out.iter().map(|&name| name.to_owned()).collect(),
        parts: is_known.then_some(parts),
    };
    vec![counts, hash]
}

/// Columns of which digests say nothing, or too much.
pub(crate) fn left_out<'a>(proved: &'a ProvedTable, layout: &'a Layout) -> Vec<&'a str> {
    layout.not_comparable.iter().chain(&proved.not_comparable).map(String::as_str).collect()
}

/// What was not compared is never called equal, and what the stream does not say is no difference.
pub(crate) fn word(is_equal: bool, is_whole: bool, is_doubtful: bool) -> Word {
    match (is_equal, is_whole) {
        (false, _) if is_doubtful => Word::NotProved,
        (false, _) => Word::Differs,
        (true, true) => Word::Equal,
        (true, false) => Word::NotProved,
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use syncdata_formats::digest::Digest;
    use syncdata_formats::manifest::{Column, Generated, Relation, ReplicaIdentity};
    use syncdata_formats::proof::{Digester, ProofId};

    use super::*;

    fn relation(columns: &[(&str, &str)]) -> Relation {
        let column = |(name, type_name): &(&str, &str)| Column {
            name: (*name).into(),
            type_name: (*type_name).into(),
            generated: (*name == "g").then_some(Generated::Stored),
            ..Column::default()
        };
        let columns = columns.iter().map(column).collect();
        Relation::new(columns, vec!["id".into()], ReplicaIdentity::Default)
    }

    fn verdict(columns: &[(&str, &str)], theirs: &[u8], ours: &[u8]) -> Vec<(Word, Option<String>)> {
        let relation = relation(columns);
        let layout = Layout::of(&relation);
        let digest = |rows: &[u8]| {
            let mut digester = Digester::new(layout.clone(), 1);
            digester.push(rows).expect("rows");
            digester.finish().expect("whole rows")
        };
        let proved = ProvedTable {
            rows: 0,
            k: 1,
            relation: relation.fingerprint,
            file: ProofId::buckets_name(1),
            bytes: 0,
            sha256: Digest::of(b""),
            not_comparable: vec![],
            computed: BTreeMap::new(),
            foreign_keys: vec![],
            rules: BTreeMap::new(),
        };
        let comparison = Comparison::of(&digest(theirs), &digest(ours));
        let table = "t".parse().expect("a name");
        said(&table, &proved, &layout, &Answers::default(), &comparison)
            .into_iter()
            .map(|v| (v.verdict, v.score))
            .collect()
    }

    #[test]
    fn what_was_not_compared_is_never_called_equal() {
        let whole = [("id", "integer"), ("v", "text")];
        let partly = [("id", "integer"), ("v", "money")];
        let score = |text: &str| Some(text.to_owned());
        for (columns, theirs, ours, verdicts) in [
            (
                &whole[..],
                &b"1\ta\n"[..],
                &b"1\ta\n"[..],
                [(Word::Equal, None), (Word::Equal, score("100.00"))],
            ),
            (&whole, b"", b"", [(Word::Equal, None), (Word::Equal, score("100.00"))]),
            (&whole, b"1\ta\n", b"1\tb\n", [(Word::Equal, None), (Word::Differs, score("0.00"))]),
            (&whole, b"1\ta\n", b"", [(Word::Differs, None), (Word::Differs, score("0.00"))]),
            (&partly, b"1\n", b"1\n", [(Word::Equal, None), (Word::NotProved, None)]),
            (&partly, b"1\n", b"2\n", [(Word::Equal, None), (Word::Differs, score("0.00"))]),
        ] {
            assert_eq!(verdict(columns, theirs, ours), verdicts, "{theirs:?} {ours:?}");
        }
    }
}
