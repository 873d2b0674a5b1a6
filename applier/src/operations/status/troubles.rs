//! What is wrong with tables, worst first: as a sentence, and in parts for whoever shows it.

use syncdata_formats::name::TableName;
use syncdata_service::hops::{Action, Trouble};

use super::hops::APPLY;
use super::{Status, TableStatus};
use crate::plan;
use crate::plan::state::State;

pub(super) fn of_tables(status: &Status) -> Vec<Trouble> {
    let tables = &status.tables;
    let set_aside = tables.iter().filter(|table| table.is_set_aside()).map(set_aside);
    let differing = tables.iter().filter(|table| table.differs).map(differs);
    let not_loaded = tables.iter().filter(|table| !table.is_set_aside()).filter_map(not_loaded);
    let left = tables.iter().filter(|table| table.is_left()).map(left);
    set_aside.chain(differing).chain(not_loaded).chain(left).chain(too_old(status)).collect()
}

fn of(table: &TableStatus, words: String, action: Action, command: &str, remedy: &str) -> Trouble {
    Trouble {
        hop: Some(APPLY.into()),
        table: Some(table.table.clone()),
        since: table.data_as_of,
        words,
        remedy: Some(remedy.into()),
        command: Some(format!("syncdata-applier {command} {}", TableName::word_of(&table.table))),
        action: Some(action),
    }
}

fn set_aside(table: &TableStatus) -> Trouble {
    let reason = table.reason.as_deref().map(|reason| format!(": {reason}")).unwrap_or_default();
    let words = format!("{} is {}{reason}", table.table, table.state);
    match table.state {
        State::Quarantined => of(
            table,
            words,
            Action::Retry,
            "retry",
            "It takes no change until this is mended: mend what the reason names, then retry. All others go on. If it cannot \
             be mended, a resync makes the table anew.",
        ),
        State::Stale => of(
            table,
            words,
            Action::Resync,
            "resync",
            "Changes of it are lost, its rows are right as of then: a resync makes it anew.",
        ),
        State::Pending | State::Loading | State::Live => {
            of(table, words, Action::Resync, "resync", "It was emptied: a resync fills it again.")
        }
    }
}

fn differs(table: &TableStatus) -> Trouble {
    let (name, word) = (&table.table, TableName::word_of(&table.table));
    match table.differs_in_rows() {
        true => {
            let words = format!(
                "{name} differs from production; which rows: syncdata-applier consistency rows {word}"
            );
            let remedy = "Look which rows, and who writes here; a resync makes the table equal again.";
            of(table, words, Action::Resync, "consistency rows", remedy)
        }
        // Its rows are as they should be, and yet some refer to nothing or break a rule.
        false => {
            let words =
                format!("{name} differs from production; by what: syncdata-applier consistency check {word}");
            let remedy = "Its rows are as they should be, and yet some refer to nothing or break a rule: the check says which.";
            of(table, words, Action::Check, "consistency check", remedy)
        }
    }
}

fn not_loaded(table: &TableStatus) -> Option<Trouble> {
    let reason = table.load_failed.as_deref()?;
    let words = format!("{} could not be loaded: {reason}", table.table);
    let remedy = "Mend what the reason names; it is tried again with every pass.";
    Some(Trouble {
        command: Some("syncdata-applier sync".into()),
        ..of(table, words, Action::Run, "", remedy)
    })
}

fn left(table: &TableStatus) -> Trouble {
    let until = table.captured_until.map_or_else(String::new, |until| until.to_string());
    let words = format!("{} is {}", table.table, plan::left_words(&until));
    let remedy = "If it is to go on: list it in `tables` of the archiver again, take a snapshot there, then a resync here. If it is \
                  gone at production, take it off the whitelist.";
    Trouble { action: None, ..of(table, words, Action::Run, "remove-tables", remedy) }
}

fn too_old(status: &Status) -> Option<Trouble> {
    let old: Vec<&TableStatus> = status.tables.iter().filter(|table| table.is_too_old()).collect();
    let newest = old.iter().filter_map(|table| table.data_as_of).max();
    let (names, table) = match old.as_slice() {
        [] => return None,
        [one] => (one.table.clone(), Some(one.table.clone())),
        several => (format!("{} tables", several.len()), None),
    };
    let as_of = newest.map_or_else(|| "not known".to_owned(), |time| time.to_string());
    let words = format!(
        "{names}: not fresh within stale_after ({} s), as of {as_of}; look at the archiver, and at both clocks",
        status.stale_after_seconds
    );
    Some(Trouble { table, since: newest, action: Some(Action::Run), ..Trouble::new(words) })
}
