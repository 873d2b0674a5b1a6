//! `dead-letters`: records that no table would take, tried again or passed over.

use std::fmt::Write as _;

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use syncdata_formats::chain::Verified;
use syncdata_formats::error::{Error, Kind, Result, escape_control};
use syncdata_formats::lsn::Lsn;
use syncdata_formats::name::TableName;
use syncdata_service::config::Config;
use syncdata_service::faults;
use uuid::Uuid;

use super::retry::{self, Retry};
use super::whitelist::{self, not_listed};
use super::{Answer, sync};
use crate::apply::part::{self, Part};
use crate::archive;
use crate::archive::source::Source;
use crate::archive::stretch::stretch;
use crate::plan;
use crate::plan::position::Position;
use crate::plan::state::{Event, State, TableState};
use crate::target::postgres::cursor::{self, Cursor};
use crate::target::postgres::local::Local;
use crate::target::postgres::quarantine::{self, DeadLetter};

/// What is asked for; it may travel to the daemon.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum DeadLetters {
    List { table: Option<String>, all: bool },
    Show { id: Uuid },
    Retry { id: Uuid },
    Skip { id: Uuid, reason: String },
}

/// A transaction of which a table takes nothing.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Skipped {
    pub operation_id: Uuid,
    pub table: String,
    pub seq: u64,
    /// Where the transaction ends.
    pub end_lsn: Lsn,
    /// Of the table, in it.
    pub records: u64,
}

/// Here, without a daemon. What changes something is followed by a pass.
pub async fn carry_out(config: Config, order: &DeadLetters) -> Result<Answer> {
    match order {
        DeadLetters::List { .. } | DeadLetters::Show { .. } => look(&config, order).await,
        DeadLetters::Retry { .. } | DeadLetters::Skip { .. } => {
            let skipped = release(&config, order).await?;
            Ok(with_skipped(sync::sync(config).await?, skipped.as_ref()))
        }
    }
}

/// What only reads.
pub async fn look(config: &Config, order: &DeadLetters) -> Result<Answer> {
    let local = Local::open(config).await?;
    let (client, meta) = (local.session.client(), &local.meta);
    match order {
        DeadLetters::List { table, all } => {
            let mut letters = quarantine::list(client, meta, None, *all).await?;
            if let Some(patterns) = table {
                // Also of tables that have left the whitelist.
                let patterns = whitelist::patterns(std::slice::from_ref(patterns))?;
                letters.retain(|letter| {
                    let name = letter.table.parse::<TableName>();
                    name.is_ok_and(|name| patterns.iter().any(|pattern| pattern.matches(&name)))
                });
            }
            let lines: String = letters.iter().map(line).collect();
            let text = if lines.is_empty() { "no dead letters\n".to_owned() } else { lines };
            Ok(Answer::done(text, json!({ "items": letters })))
        }
        DeadLetters::Show { id } | DeadLetters::Retry { id } | DeadLetters::Skip { id, .. } => {
            let (letter, record) = find(&local, *id).await?;
            let mut document = json!(letter);
            // What was kept is JSON, unless somebody has been at it.
            document["record"] = record
                .as_deref()
                .map_or(Value::Null, |record| serde_json::from_str(record).unwrap_or_else(|_| record.into()));
            Ok(Answer::done(page(&letter, record.as_deref()), document))
        }
    }
}

async fn find(local: &Local, id: Uuid) -> Result<(DeadLetter, Option<String>)> {
    let found = quarantine::find(local.session.client(), &local.meta, id).await?;
    found.ok_or_else(|| {
        Error::new(Kind::NotFound, format!("there is no dead letter {id}"))
            .hint("syncdata-applier dead-letters list --all shows all that ever were")
    })
}

/// One line for each.
fn line(letter: &DeadLetter) -> String {
    let place = letter.line.map_or(String::new(), |line| format!(" line {line}"));
    let state = letter.resolution.as_deref().map_or_else(
        || format!("open, {} attempts since {}", letter.attempts, letter.at),
        |resolution| resolution.to_owned(),
    );
    let DeadLetter { operation_id, table, seq, reason, .. } = letter;
    let words = format!("{operation_id} {table}: segment {seq}{place}: {state}: {reason}");
    format!("{}\n", escape_control(&words))
}

fn page(letter: &DeadLetter, record: Option<&str>) -> String {
    let dash = || "-".to_owned();
    let mut text = String::new();
    for (name, value) in [
        ("operation", letter.operation_id.to_string()),
        ("table", letter.table.clone()),
        ("segment", letter.seq.to_string()),
        ("line", letter.line.map_or_else(dash, |line| line.to_string())),
        ("lsn", letter.lsn.map_or_else(dash, |lsn| lsn.to_string())),
        ("sqlstate", letter.sqlstate.clone().unwrap_or_else(dash)),
        ("reason", letter.reason.clone()),
        ("first failed", letter.at.to_string()),
        ("attempts", letter.attempts.to_string()),
        ("resolved", letter.resolved_at.map_or_else(dash, |at| at.to_string())),
        ("resolution", letter.resolution.clone().unwrap_or_else(dash)),
        ("record", record.map_or_else(dash, str::to_owned)),
    ] {
        writeln!(text, "{name:<13} {}", escape_control(&value)).expect("a String takes all");
    }
    text
}

/// Lets the table go on: from the record that failed, or after its transaction. The next pass does it.
pub async fn release(config: &Config, order: &DeadLetters) -> Result<Option<Skipped>> {
    match order {
        DeadLetters::Retry { id } => {
            let local = Local::open(config).await?;
            let letter = open_letter(&local, *id).await?;
            drop(local);
            let table: TableName = letter.table.parse()?;
            retry::release(config, &Retry { tables: vec![table.list_item()], accept_gap: false }).await?;
            Ok(None)
        }
        DeadLetters::Skip { id, reason } => skip(config, *id, reason).await.map(Some),
        DeadLetters::List { .. } | DeadLetters::Show { .. } => Ok(None),
    }
}

/// The table of a dead letter that may be tried again or passed over as things are.
pub async fn consider(config: &Config, order: &DeadLetters) -> Result<String> {
    let (DeadLetters::Retry { id } | DeadLetters::Skip { id, .. } | DeadLetters::Show { id }) = order else {
        return Err(Error::new(Kind::BadInput, "no dead letter is named"));
    };
    let local = Local::open(config).await?;
    let letter = open_letter(&local, *id).await?;
    let table: TableName = letter.table.parse()?;
    if let DeadLetters::Skip { reason, .. } = order {
        needs_reason(reason)?;
        if letter.line.is_none() {
            return Err(no_record(&letter, &table.shell_word()));
        }
    }
    retry::consider(&local, &table).await.map(|()| letter.table)
}

async fn open_letter(local: &Local, id: Uuid) -> Result<DeadLetter> {
    let (letter, _) = find(local, id).await?;
    match &letter.resolution {
        None => Ok(letter),
        Some(resolution) => {
            Err(Error::new(Kind::Conflict, format!("dead letter {id} is settled: {resolution}"))
                .hint("nothing has to be done; syncdata-applier dead-letters list shows what is open"))
        }
    }
}

/// The table goes on after the transaction, of which it takes nothing. That is remembered for ever.
async fn skip(config: &Config, id: Uuid, reason: &str) -> Result<Skipped> {
    needs_reason(reason)?;
    let local = Local::open(config).await?;
    local.lock_pass().await?;
    let (client, meta) = (local.session.client(), &local.meta);
    let letter = open_letter(&local, id).await?;
    let table: TableName = letter.table.parse()?;
    let states = cursor::table_states(client, meta).await?;
    let state = states.get(&table).ok_or_else(|| not_listed(&table))?;
    if state.state != State::Quarantined {
        let message = format!("{table} is {}, not quarantined: it goes on by itself", state.state);
        return Err(Error::new(Kind::Conflict, message).hint("syncdata-applier status shows how far it is"));
    }
    let passed = transaction_of(config, &local, &letter, &table, state).await?;

    let partners = retry::with_held(vec![table.clone()], &states);
    let partners = partners.into_iter().filter(|other| states[other].state == State::Quarantined);
    let note = async {
        let end_lsn = passed.commit.end_lsn;
        quarantine::note_skip(client, meta, &letter, passed.last_line, end_lsn, reason.trim()).await?;
        let after = Position { lsn: end_lsn, commit_time: Some(passed.commit.ts) };
        for other in partners {
            let position = (other == table).then_some(after);
            cursor::change(client, meta, &other, Event::Retried, position, None).await?;
        }
        faults::hit("dead_letters.before_commit")
    };
    local.in_transaction(note).await?;
    faults::hit("dead_letters.after_commit")?;
    let (segment, lsn) = (letter.seq, passed.commit.end_lsn);
    tracing::warn!(%table, segment, %lsn, records = passed.records, "a transaction is passed over, as asked");
    Ok(Skipped {
        operation_id: id,
        table: letter.table,
        seq: letter.seq,
        end_lsn: passed.commit.end_lsn,
        records: passed.records,
    })
}

fn needs_reason(reason: &str) -> Result<()> {
    match reason.trim().is_empty() {
        true => Err(Error::new(Kind::BadInput, "a transaction is passed over for a reason")
            .hint("--reason: it is kept for ever, for whoever asks later why rows are missing")),
        false => Ok(()),
    }
}

fn no_record(letter: &DeadLetter, word: &str) -> Error {
    let message = format!("no record of {} in particular is to blame: {}", letter.table, letter.reason);
    Error::new(Kind::Conflict, message).hint(format!(
        "mend it, then: syncdata-applier retry {word}; or make it anew: syncdata-applier resync {word}"
    ))
}

/// The transaction of the record, which has to be the first that the table lacks: what else it lacks is not passed over.
async fn transaction_of(
    config: &Config,
    local: &Local,
    letter: &DeadLetter,
    table: &TableName,
    state: &TableState,
) -> Result<Part> {
    let word = table.shell_word();
    let Some(line) = letter.line else { return Err(no_record(letter, &word)) };
    let checkpoint = Cursor::of_group(&local.meta, &state.group).read(local.session.client()).await?;
    let gone = || {
        Error::new(Kind::NotFound, format!("the archive no longer has segment {}", letter.seq))
            .hint(format!("the table cannot go on from there: syncdata-applier resync {word}"))
    };
    let (Some(archive_id), Some(own)) = (checkpoint.archive_id, checkpoint.segment) else {
        return Err(gone());
    };
    let position = state.position.unwrap_or(Lsn::ZERO);
    let source = archive::open::open_by_hand(config)?;
    let segments = stretch(&source, archive_id, own.link, own.end_lsn, position).await?;
    let segment =
        segments.iter().find(|segment| segment.manifest().seq.get() == letter.seq).ok_or_else(gone)?;

    let parts = parts_of(&source, segment, table).await?;
    let mut lacking = parts.iter().filter(|part| part.commit.end_lsn > position);
    let first = lacking.next().filter(|part| line <= part.last_line);
    let earlier = segments.iter().map(|segment| segment.manifest()).take_while(|m| m.seq.get() < letter.seq);
    let lacks_earlier = earlier.clone().any(|manifest| manifest.tables.contains_key(table));
    let begins_later = segments.first().is_some_and(|first| first.manifest().start_lsn > position);
    let is_cut = |end: Lsn| {
        let upto = earlier.clone().chain([segment.manifest()]);
        upto.filter_map(|manifest| plan::gap(manifest, table, state)).any(|gap| gap.from < end)
    };
    match first {
        Some(part) if !lacks_earlier && !begins_later && !is_cut(part.commit.end_lsn) => Ok(*part),
        _ => {
            let message = format!(
                "{table} lacks other changes before the record of dead letter {}",
                letter.operation_id
            );
            Err(Error::new(Kind::Conflict, message)
                .hint(format!("bring it there first: syncdata-applier retry {word}")))
        }
    }
}

async fn parts_of(source: &Source, segment: &Verified, table: &TableName) -> Result<Vec<Part>> {
    let fetched = source.fetch_file(segment.clone()).await?;
    let parts = part::parts(&fetched, table.to_string()).await?;
    fetched.clean()?;
    Ok(parts.unwrap_or_default())
}

/// What the pass came to, after what was passed over before it.
pub fn with_skipped(answer: Answer, skipped: Option<&Skipped>) -> Answer {
    let Some(skipped) = skipped else { return answer };
    let Skipped { table, end_lsn, records, .. } = skipped;
    let word = TableName::word_of(table);
    let text = format!(
        "passed over {records} records of {table} in the transaction that ends at {end_lsn}; it is incomplete until a \
         proof finds it equal, or: syncdata-applier resync {word}\n{}",
        answer.text
    );
    let mut document = answer.document;
    document["skipped"] = json!(skipped);
    Answer { exit_code: answer.exit_code, text, document, words: answer.words }
}
