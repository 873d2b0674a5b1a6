//! Foreign keys as they hold where the copy stands now: nobody has to wait for a proof to see a row that refers to
//! nothing. What production says of its own is as old as its newest proof.

use std::collections::BTreeMap;

use syncdata_formats::error::Result;
use syncdata_formats::lsn::Lsn;
use syncdata_formats::manifest::{self, Generated, Relation, ReplicaIdentity};
use syncdata_formats::name::TableName;
use syncdata_formats::proof::{Layout, Mark, MarkedTable, ProofManifest};
use syncdata_service::config::{Config, Rule};
use syncdata_service::postgres::{CatalogKey, Question};

use super::broken;
use super::digest::comparable;
use super::questions::{Asked, Open, Ready};
use super::record::{self, Check, Outcome, Waiting};
use super::table_verdict::{CheckType, Standing, Verdict, Word};
use crate::archive::hand_files::HandFiles;
use crate::plan::state::{State, TableState};
use crate::table::Table;
use crate::target::postgres::cursor::{self, Checkpoint, Cursor};
use crate::target::postgres::local::Local;
use crate::target::postgres::schema;

/// One check for each of the tables that has foreign keys.
pub async fn referential_integrity(
    config: &Config,
    local: &Local,
    is_meant: impl Fn(&TableName) -> bool,
) -> Result<Now> {
    let holder = Local::open(config).await?;
    let client = holder.session.client();
    let snapshot = holder.export_snapshot().await?;
    let checkpoint = Cursor::of(&holder.meta).read(client).await?;
    let states = cursor::table_states(client, &holder.meta).await?;
    let waiting = record::waiting(&holder).await?;

    let names: Vec<TableName> = states.keys().cloned().collect();
    let mut tables = schema::load(client, &names).await?;
    let stands =
        |name: &TableName| states.get(name).is_some_and(|state| stands_at(state, checkpoint.end_lsn()));
    let passed_over = states.keys().filter(|name| is_meant(name) && !stands(name)).cloned().collect();
    tables.retain(|name, _| stands(name));
    let mark = mark_of(&tables, waiting.as_ref());
    let ready = tables.iter().map(|(name, table)| {
        (name.clone(), Ready { table, marked: mark.tables.get(name).expect("every table has one") })
    });
    let (ready, none): (BTreeMap<_, _>, _) = (ready.collect(), BTreeMap::new());
    let keys = CatalogKey::all(client).await?;
    let whitelist = |name: &TableName| states.contains_key(name);
    let asked = Asked { mark: &mark, keys: &keys, rules: &none, whitelist: &whitelist, ready: &ready };

    let proof = proof_of(config, &checkpoint, waiting.as_ref()).await;
    let asker = Local::open(config).await?;
    let mut checks = Vec::new();
    for name in tables.keys().filter(|name| is_meant(name)) {
        let (open, mut answers) = asked.of(name);
        for Open { about, sql } in open {
            let question = Question { snapshot: &snapshot, limit: None, schema: name.schema(), sql: &sql };
            let answer = question.ask(asker.session.client(), local.session.client()).await;
            answers.take(about, answer.map_err(|error| error.one_line()));
        }
        let proved = proof.as_ref().and_then(|proof| proof.tables.get(name));
        let verdict = broken::keys(name, &answers.keys, proved, |_| false);
        checks.extend(verdict.map(|verdict| check_of(verdict, checkpoint.end_lsn())));
    }
    Ok(Now { checks, passed_over })
}

/// What was asked just now.
#[derive(Debug)]
pub struct Now {
    pub checks: Vec<Check>,
    /// Tables that are not live, or not at the checkpoint: their rows and others' are of different moments.
    pub passed_over: Vec<TableName>,
}

/// Rules of the settings that the newest proof has not asked as they are now, by their tables.
pub async fn unasked_rules(config: &Config, local: &Local) -> Result<BTreeMap<TableName, Vec<String>>> {
    let waiting = record::waiting(local).await?;
    let was_asked = |name: &String, rule: &Rule| {
        let digested = waiting.as_ref().and_then(|waiting| waiting.tables.get(&rule.table));
        match digested.map(|digested| &digested.outcome) {
            Some(Outcome::Done { answers, .. }) => {
                answers.rules.get(name).is_some_and(|answer| answer.sha256 == rule.sha256())
            }
            // Why nothing was asked of the table, its check says.
            Some(Outcome::Not(_) | Outcome::UnderWay) => true,
            None => false,
        }
    };
    let mut unasked: BTreeMap<TableName, Vec<String>> = BTreeMap::new();
    for (name, rule) in config.rules.iter().filter(|(name, rule)| !was_asked(name, rule)) {
        unasked.entry(rule.table.clone()).or_default().push(name.clone());
    }
    Ok(unasked)
}

fn stands_at(state: &TableState, end: Lsn) -> bool {
    state.state == State::Live && state.position == Some(end)
}

/// How rows are hashed: as the newest proof does it, where there is one.
fn mark_of(tables: &BTreeMap<TableName, Table>, waiting: Option<&Waiting>) -> Mark {
    let marked = tables.iter().map(|(name, table)| {
        let marked = waiting
            .and_then(|waiting| waiting.mark.tables.get(name))
            .filter(|marked| comparable(&Layout::of(&marked.relation), &marked.relation, table).is_ok());
        (name.clone(), marked.cloned().unwrap_or_else(|| as_it_is(table)))
    });
    let id = waiting.map(|waiting| waiting.mark.id.clone());
    let id = id.unwrap_or_else(|| {
        syncdata_formats::proof::ProofId::new(Lsn::ZERO, syncdata_formats::time::Timestamp::now())
    });
    Mark { id, tables: marked.collect() }
}

fn as_it_is(table: &Table) -> MarkedTable {
    let column = |column: &crate::table::Column| manifest::Column {
        name: column.name.clone(),
        type_name: column.type_name.clone(),
        generated: column.generated.then_some(Generated::Stored),
        ..manifest::Column::default()
    };
    let columns = table.columns.iter().map(column).collect();
    let relation = Relation::new(columns, Vec::new(), ReplicaIdentity::Default);
    MarkedTable { k: 0, relation, foreign_keys: Vec::new() }
}

/// Without it, nobody knows which rows of production refer to nothing.
async fn proof_of(
    config: &Config,
    checkpoint: &Checkpoint,
    waiting: Option<&Waiting>,
) -> Option<ProofManifest> {
    let read = async {
        let (Some(waiting), Some(archive_id)) = (waiting, checkpoint.archive_id) else { return Ok(None) };
        HandFiles::open(config)?.source.proof(&waiting.mark.id, archive_id).await
    };
    match read.await {
        Ok(proof) => proof,
        Err(error) => {
            tracing::warn!(error = %error.one_line(), "the newest proof of production cannot be read");
            None
        }
    }
}

impl Check {
    /// Of which no proof says anything.
    pub fn not_proved(table: &TableName, check_type: CheckType, detail: String) -> Check {
        Check {
            table: table.to_string(),
            check_type,
            proof_id: None,
            cut_lsn: None,
            source_rows: None,
            local_rows: None,
            differing: None,
            score: None,
            verdict: Standing::Said(Word::NotProved),
            blame: None,
            detail: Some(detail),
            age_seconds: None,
            is_repaired: false,
        }
    }
}

fn check_of(verdict: Verdict, lsn: Lsn) -> Check {
    Check {
        table: verdict.table.to_string(),
        check_type: verdict.check,
        proof_id: None,
        cut_lsn: Some(lsn.to_string()),
        source_rows: None,
        local_rows: None,
        differing: verdict.differing.and_then(|rows| i64::try_from(rows).ok()),
        score: None,
        verdict: Standing::Said(verdict.verdict),
        blame: None,
        detail: verdict.detail,
        age_seconds: Some(0),
        is_repaired: false,
    }
}
