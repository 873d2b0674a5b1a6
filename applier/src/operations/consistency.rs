//! `consistency`: what proofs say of the tables, which rows differ, and their repair.

use std::fmt::Write as _;
use std::time::Duration;

use serde::Serialize;
use serde_json::{Value, json};
use syncdata_formats::error::{Result, escape_control};
use syncdata_formats::name::TableName;
use syncdata_service::config::Config;

use super::{Answer, whitelist};
use crate::archive::hand_files::HandFiles;
pub use crate::proof::CheckType;
use crate::proof::report::Asked;
use crate::proof::rows;
use crate::proof::{self, Check, Found, Overall, Standing, TableFound, Word};
use crate::target::postgres::cursor::Cursor;
use crate::target::postgres::local::Local;

/// The newest proof of each table.
pub async fn status(config: &Config) -> Result<Answer> {
    let local = Local::open(config).await?;
    let found = proof::found(&local).await?;
    Ok(Answer { exit_code: exit_code(&found), ..Answer::done(text(&found), json!(found)) })
}

/// 1 (differs) beats 2 (could not be compared) beats 0.
fn exit_code(found: &Found) -> u8 {
    let is_compared = |table: &TableFound| table.verdict.is_some_and(Standing::is_compared);
    if found.tables.iter().any(|table| table.differs) {
        1
    } else if found.tables.iter().all(is_compared) {
        0
    } else {
        2
    }
}

/// A proof speaks of its place in the stream, whatever was mended later.
const REPAIRED: &str = "; repaired since, and compared again";

fn text(found: &Found) -> String {
    let mut text = String::new();
    for table in &found.tables {
        let verdict = table.verdict.unwrap_or(Standing::Said(Word::NotProved));
        let says_differs = verdict == Standing::Said(Word::Differs);
        let mut words = format!("{}: {verdict}", table.table);
        if let Some(score) = &table.score {
            write!(words, ", {}", percent(score)).expect("a String takes all");
        }
        match (table.source_rows, table.local_rows) {
            (Some(source), Some(local)) if source != local => {
                write!(words, ", {local} rows here, {source} at production").expect("a String takes all");
            }
            (Some(rows), _) => write!(words, ", {rows} rows").expect("a String takes all"),
            _ => {}
        }
        if let (Some(lsn), Some(proof)) = (&table.lsn, &table.proof_id) {
            let at = table.at.as_deref().map(|at| format!(", compared {at}")).unwrap_or_default();
            write!(words, ", as of {lsn} (proof {proof}{at})").expect("a String takes all");
        }
        match (&table.detail, &table.verdict) {
            (Some(detail), _) => write!(words, ": {detail}").expect("a String takes all"),
            (None, None) => words.push_str(": no proof has come yet"),
            _ => {}
        }
        if let Some(blame) = &table.blame {
            write!(words, "; blame: {blame}").expect("a String takes all");
        }
        if table.differs && !says_differs {
            let words_of = match table.by_check_only {
                true => format!(
                    "; by another check it differs, and nothing has cleared that: syncdata-applier consistency check {}",
                    TableName::word_of(&table.table)
                ),
                false => "; an earlier proof found that it differs, and nothing has cleared that".to_owned(),
            };
            words.push_str(&words_of);
        }
        if says_differs && !table.differs {
            words.push_str(REPAIRED);
        }
        writeln!(text, "{}", escape_control(&words)).expect("a String takes all");
    }
    if let Some(all) = &found.all {
        let mut words = of_all(all);
        if all.verdict == Word::Differs && !found.tables.iter().any(|table| table.differs) {
            words.push_str(REPAIRED);
        }
        writeln!(text, "{}", escape_control(&words)).expect("a String takes all");
    }
    if found.tables.is_empty() {
        text.push_str("No tables in whitelist\n");
    }
    text
}

/// Rows are counted by buckets: of those in one that differs, most may agree.
fn percent(score: &str) -> String {
    match score {
        "100.00" => "100.00 %".to_owned(),
        score => format!("at least {score} %"),
    }
}

fn of_all(all: &Overall) -> String {
    let mut words = format!("all tables: {}", all.verdict);
    if let Some(score) = &all.score {
        write!(words, ", {}", percent(score)).expect("a String takes all");
    }
    if let Some(rows) = all.source_rows {
        write!(words, ", {rows} rows").expect("a String takes all");
    }
    let (lsn, at) = (all.lsn.as_deref().unwrap_or("-"), all.at.as_deref().unwrap_or("-"));
    write!(words, ", as of {lsn} (proof {}, compared {at})", all.proof_id).expect("a String takes all");
    if let Some(detail) = &all.detail {
        write!(words, ": {detail}").expect("a String takes all");
    }
    words
}

/// Another look at the archive while somebody waits for a proof.
const BETWEEN_SYNCS: Duration = Duration::from_secs(5);

/// The newest check of each table and type. With `sync` given, waits until the archive's newest proof has been compared;
/// where there is none yet, for the first one.
pub async fn check(
    config: &Config,
    tables: &[String],
    types: &[CheckType],
    sync: Option<impl AsyncFn() -> Result<()>>,
) -> Result<Checked> {
    let local = Local::open(config).await?;
    let wanted = whitelist::of(&local, tables).await?;
    let mut found = proof::found(&local).await?;
    if let Some(sync) = sync {
        let newest = |found: &Found| found.tables.iter().filter_map(|table| table.proof_id.clone()).max();
        let is_waiting = |found: &Found| found.tables.iter().any(|t| t.verdict == Some(Standing::Waiting));
        let before = newest(&found);
        while is_waiting(&found)
            || newest(&found) == before && !is_newest_compared(config, &local, &found).await?
        {
            sync().await?;
            found = proof::found(&local).await?;
            if is_waiting(&found) || newest(&found) == before {
                tokio::time::sleep(BETWEEN_SYNCS).await;
            }
        }
    }
    let is_meant = |check: &Check| {
        (wanted.is_empty() || wanted.iter().any(|name| name.to_string() == check.table))
            && (types.is_empty() || types.contains(&check.check_type))
    };
    let mut checks: Vec<Check> = proof::checks(&local).await?.into_iter().filter(is_meant).collect();
    let mut passed_over = Vec::new();
    if types.is_empty() || types.contains(&CheckType::ReferentialIntegrity) {
        let is_wanted = |name: &TableName| wanted.is_empty() || wanted.contains(name);
        let now = proof::now::referential_integrity(config, &local, is_wanted).await?;
        checks = with_now(checks, now.checks);
        passed_over = now.passed_over;
    }
    if types.is_empty() || types.contains(&CheckType::BusinessRules) {
        let is_wanted = |name: &TableName| {
            (wanted.is_empty() || wanted.contains(name))
                && found.tables.iter().any(|found| found.table == name.to_string())
        };
        for (table, rules) in proof::now::unasked_rules(config, &local).await? {
            if is_wanted(&table) {
                not_asked(&mut checks, &table, &rules);
            }
        }
    }
    let missing = match types.iter().all(|of| *of == CheckType::ReferentialIntegrity) && !types.is_empty() {
        // Where a proof has said it, that stands.
        true => {
            let names = passed_over.iter().map(ToString::to_string);
            names.filter(|name| !checks.iter().any(|check| check.table == *name)).collect()
        }
        false => without_proof(&local, &wanted).await?,
    };
    Ok(Checked { checks, without_proof: missing })
}

/// What is known of what was asked for.
#[derive(Debug, Serialize)]
pub struct Checked {
    checks: Vec<Check>,
    /// Tables of which none has come.
    without_proof: Vec<String>,
}

impl Checked {
    pub fn answer(&self) -> Answer {
        let differs = |check: &Check| check.verdict == Standing::Said(Word::Differs) && !check.is_repaired;
        let is_compared = |check: &Check| check.verdict.is_compared();
        let exit_code = match self.checks.iter().any(differs) {
            true => 1,
            false if self.checks.iter().all(is_compared) && self.without_proof.is_empty() => 0,
            false => 2,
        };
        let mut text: String = self.checks.iter().map(check_line).collect();
        for table in &self.without_proof {
            writeln!(text, "{}: no proof has come yet", escape_control(table)).expect("a String takes all");
        }
        Answer { exit_code, ..Answer::done(text, json!(self)) }
    }

    /// In numbers, as an execution keeps it.
    pub fn counts(&self) -> Value {
        let of = |word| self.checks.iter().filter(|check| check.verdict == Standing::Said(word)).count();
        let (all, equal, differs) = (self.checks.len(), of(Word::Equal), of(Word::Differs));
        json!({
            "checks": all, "equal": equal, "differs": differs, "not_compared": all - equal - differs,
            "without_proof": self.without_proof.len(),
        })
    }
}

/// Whether there is nothing to wait for: what the archive's newest proof says is here, or the copy is past its place.
async fn is_newest_compared(config: &Config, local: &Local, found: &Found) -> Result<bool> {
    let checkpoint = Cursor::of(&local.meta).read(local.session.client()).await?;
    let Some(archive_id) = checkpoint.archive_id else { return Ok(false) };
    let source = HandFiles::open(config)?.source;
    let Some(newest) = source.proof_ids().await?.into_iter().next() else { return Ok(false) };
    let is_here = |table: &TableFound| table.proof_id.as_deref() == Some(newest.as_str());
    if found.tables.is_empty() || found.tables.iter().any(is_here) {
        return Ok(true);
    }
    let proof = source.proof(&newest, archive_id).await?;
    Ok(proof.is_some_and(|proof| proof.cut.seq.get() <= checkpoint.seq()))
}

/// What the newest proof says of other rules is no word on these.
fn not_asked(checks: &mut Vec<Check>, table: &TableName, rules: &[String]) {
    let words = format!("{}: no proof has asked it yet", rules.join(", "));
    let of_rules = CheckType::BusinessRules;
    let is_known = |check: &&mut Check| check.table == table.to_string() && check.check_type == of_rules;
    let known = checks.iter_mut().find(is_known);
    match known {
        Some(check) => {
            if check.verdict == Standing::Said(Word::Equal) {
                check.verdict = Standing::Said(Word::NotProved);
                check.differing = None;
            }
            check.detail =
                Some(check.detail.take().map_or(words.clone(), |detail| format!("{detail}; {words}")));
        }
        None => checks.push(Check::not_proved(table, of_rules, words)),
    }
}

/// Tables that no proof has said anything of.
async fn without_proof(local: &Local, wanted: &[TableName]) -> Result<Vec<String>> {
    let found = proof::found(local).await?.tables.into_iter().filter(|found| found.proof_id.is_none());
    let is_meant = |table: &String| wanted.is_empty() || wanted.iter().any(|name| name.to_string() == *table);
    Ok(found.map(|found| found.table).filter(is_meant).collect())
}

/// What was found just now comes before what the newest proof says of the same, unless only the proof says anything.
fn with_now(by_proof: Vec<Check>, now: Vec<Check>) -> Vec<Check> {
    let is_same = |one: &Check, other: &Check| one.table == other.table && one.check_type == other.check_type;
    let says_more = |check: &Check| {
        let is_said = |other: &Check| is_same(check, other) && other.verdict.is_compared();
        check.verdict.is_compared() || !by_proof.iter().any(is_said)
    };
    let mut checks: Vec<Check> = now.into_iter().filter(says_more).collect();
    checks.extend(by_proof);
    checks.sort_by(|one, other| {
        (&one.table, one.check_type.as_str()).cmp(&(&other.table, other.check_type.as_str()))
    });
    checks
}

fn check_line(check: &Check) -> String {
    let mut words = format!("{} {}: {}", check.table, check.check_type, check.verdict);
    if let Some(score) = &check.score {
        write!(words, ", {}", percent(score)).expect("a String takes all");
    }
    if let (Some(source), Some(local)) = (check.source_rows, check.local_rows) {
        write!(words, ", {local} rows here, {source} at production").expect("a String takes all");
    }
    write!(words, ", as of {}", check.cut_lsn.as_deref().unwrap_or("-")).expect("a String takes all");
    if check.proof_id.is_none() {
        words.push_str(", now");
    } else if let Some(age) = check.age_seconds {
        write!(words, ", {age} s ago").expect("a String takes all");
    }
    if let Some(detail) = &check.detail {
        write!(words, ": {detail}").expect("a String takes all");
    }
    if check.is_repaired {
        words.push_str("; repaired since");
    }
    format!("{}\n", escape_control(&words))
}

/// Rows of a table that are not as the archive says, or one row.
pub async fn rows(config: &Config, table: &str, key: Option<Vec<String>>) -> Result<Answer> {
    looked(config, &Asked { table: name_of(table)?, key, repair: false }).await
}

/// Brings exactly the rows that differ to what the archive says of them.
pub async fn repair(config: &Config, table: &str, dry_run: bool) -> Result<Answer> {
    looked(config, &Asked { table: name_of(table)?, key: None, repair: !dry_run }).await
}

fn name_of(table: &str) -> Result<TableName> {
    table.parse()
}

async fn looked(config: &Config, asked: &Asked) -> Result<Answer> {
    let report = rows::look(config, asked).await?;
    Ok(Answer { exit_code: report.exit_code(), ..Answer::done(report.text(), json!(report)) })
}
